//! BBR's numbers: its state, its constants, and what can be told from them alone.
//!
//! Interface: [`Bbr`], [`Delivery`], the constants.
//! Linux counterpart: `struct bbr` in `net/ipv4/tcp_bbr.c`, `lib/win_minmax.c`.
//! Locks and context: under the socket lock.

use super::tcp_sock::{RateSample, TcpSock};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bandwidths are segments a microsecond with 24 bits behind the point.
pub const BW_SCALE: u32 = 24;
/// Gains have 8.
pub const BBR_SCALE: u32 = 8;
pub const BBR_UNIT: u32 = 1 << BBR_SCALE;
/// 2 / ln 2: the least gain that doubles the rate each round trip.
pub const HIGH_GAIN: u32 = BBR_UNIT * 2885 / 1000 + 1;
/// Its inverse: what Startup has queued is gone in a round trip.
pub const DRAIN_GAIN: u32 = BBR_UNIT * 1000 / 2885;
/// Twice the product: ACKs may be delayed.
pub const CWND_GAIN: u32 = BBR_UNIT * 2;
pub const CYCLE_LEN: usize = 8;
const PROBE_GAINS: [u32; CYCLE_LEN] =
    [BBR_UNIT * 5 / 4, BBR_UNIT * 3 / 4, BBR_UNIT, BBR_UNIT, BBR_UNIT, BBR_UNIT, BBR_UNIT, BBR_UNIT];
pub const CYCLE_RAND: u32 = 7;
/// Round trips of the bandwidth's window.
pub const BW_RTTS: u32 = CYCLE_LEN as u32 + 2;
pub const MIN_RTT_WIN_SEC: u32 = 10;
pub const PROBE_RTT_MODE_MS: u32 = 200;
/// Bits a second.
pub const MIN_TSO_RATE: u64 = 1_200_000;
pub const PACING_MARGIN_PERCENT: u128 = 1;
/// Segments in flight that keep ACKs coming.
pub const CWND_MIN_TARGET: u32 = 4;
pub const FULL_BW_THRESH: u32 = BBR_UNIT * 5 / 4;
pub const FULL_BW_CNT: u8 = 3;
const LT_INTVL_MIN_RTTS: u8 = 4;
/// 256ths: a fifth is lost.
const LT_LOSS_THRESH: u64 = 50;
pub const LT_BW_RATIO: u32 = BBR_UNIT / 8;
/// Bytes a second.
pub const LT_BW_DIFF: u64 = 4000 / 8;
pub const LT_BW_MAX_RTTS: u8 = 48;
pub const EXTRA_ACKED_WIN_RTTS: u8 = 5;
pub const ACK_EPOCH_ACKED_RESET: u32 = 1 << 20;
pub const EXTRA_ACKED_MAX_US: u64 = 100_000;

/// Modes.
pub const STARTUP: u8 = 0;
pub const DRAIN: u8 = 1;
pub const PROBE_BW: u8 = 2;
pub const PROBE_RTT: u8 = 3;

/// A maximum over a window, in three samples (Kathleen Nichols' algorithm).
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MaxFilter([MaxSample; 3]);

#[derive(Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MaxSample {
    t: u32,
    v: u32,
}

impl MaxFilter {
    pub fn get(&self) -> u32 {
        self.0[0].v
    }

    /// Takes a sample `v` at time `t`, in any unit; `win` is the window in the same.
    pub fn running_max(&mut self, win: u32, t: u32, v: u32) {
        let s = &mut self.0;
        let new = MaxSample { t, v };
        if v >= s[0].v || t.wrapping_sub(s[2].t) > win {
            *s = [new; 3];
            return;
        }
        if v >= s[1].v {
            (s[1], s[2]) = (new, new);
        } else if v >= s[2].v {
            s[2] = new;
        }
        let age = t.wrapping_sub(s[0].t);
        if age > win {
            *s = [s[1], s[2], new];
            if t.wrapping_sub(s[0].t) > win {
                *s = [s[1], s[2], new];
            }
        } else if s[1].t == s[0].t && age > win / 4 {
            (s[1], s[2]) = (new, new);
        } else if s[2].t == s[1].t && age > win / 2 {
            s[2] = new;
        }
    }
}

/// BBR's state. Flags are bytes: 0 or 1.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Bbr {
    /// When this phase of the cycle began, and this epoch of ACKs, microseconds.
    pub cycle_mstamp: u64,
    pub ack_epoch_mstamp: u64,
    /// `u32::MAX`: none yet.
    pub min_rtt_us: u32,
    /// Milliseconds.
    pub min_rtt_stamp: u32,
    pub probe_rtt_done_stamp: u32,
    pub bw_filter: MaxFilter,
    /// Round trips so far.
    pub rtt_cnt: u32,
    /// A round ends when something is acknowledged that was sent after this much was delivered.
    pub next_rtt_delivered: u32,
    pub prior_cwnd: u32,
    /// The highest rate when it last grew by a quarter.
    pub full_bw: u32,
    pub pacing_gain: u32,
    pub cwnd_gain: u32,
    pub extra_acked: [u32; 2],
    pub ack_epoch_acked: u32,
    /// Of the policed interval: its rate, and how things stood when it began.
    pub lt_bw: u32,
    pub lt_last_delivered: u32,
    pub lt_last_stamp: u32,
    pub lt_last_lost: u32,
    pub mode: u8,
    pub prev_ca_state: u8,
    pub packet_conservation: u8,
    pub round_start: u8,
    pub idle_restart: u8,
    pub probe_rtt_round_done: u8,
    pub full_bw_reached: u8,
    pub full_bw_cnt: u8,
    pub cycle_idx: u8,
    pub has_seen_rtt: u8,
    pub lt_is_sampling: u8,
    pub lt_use_bw: u8,
    pub lt_rtt_cnt: u8,
    pub extra_acked_win_rtts: u8,
    pub extra_acked_win_idx: u8,
    pub unused: u8,
}

/// How much was delivered and lost, and when.
#[derive(Clone, Copy)]
pub struct Delivery {
    pub delivered: u32,
    pub lost: u32,
    /// Milliseconds.
    pub stamp: u32,
}

impl Delivery {
    pub fn of(tp: &TcpSock) -> Delivery {
        Delivery { delivered: tp.delivered, lost: tp.lost, stamp: (tp.delivered_mstamp / 1000) as u32 }
    }
}

/// Bandwidth times time times gain, rounded up, in segments.
pub fn bdp_segments(bw: u32, rtt_us: u32, gain: u32) -> u32 {
    let held = (bw as u128 * rtt_us as u128 * gain as u128) >> BBR_SCALE;
    held.div_ceil(1 << BW_SCALE).min(u32::MAX as u128 / 4) as u32
}

impl Bbr {
    pub fn max_bw(&self) -> u32 {
        self.bw_filter.get()
    }

    /// The rate to go by.
    pub fn bw(&self) -> u32 {
        if self.lt_use_bw != 0 { self.lt_bw } else { self.max_bw() }
    }

    /// The mode's gains (sections 4.3.2 to 4.3.5).
    pub fn update_gains(&mut self) {
        (self.pacing_gain, self.cwnd_gain) = match self.mode {
            STARTUP => (HIGH_GAIN, HIGH_GAIN),
            DRAIN => (DRAIN_GAIN, HIGH_GAIN),
            PROBE_BW if self.lt_use_bw != 0 => (BBR_UNIT, CWND_GAIN),
            PROBE_BW => (PROBE_GAINS[self.cycle_idx as usize % CYCLE_LEN], CWND_GAIN),
            _ => (BBR_UNIT, BBR_UNIT),
        };
    }

    /// A new interval begins.
    pub fn reset_lt_bw_interval(&mut self, d: &Delivery) {
        self.lt_last_stamp = d.stamp;
        self.lt_last_delivered = d.delivered;
        self.lt_last_lost = d.lost;
        self.lt_rtt_cnt = 0;
    }

    /// The path is not policed, as far as is known.
    pub fn reset_lt_bw_sampling(&mut self, d: &Delivery) {
        (self.lt_bw, self.lt_use_bw, self.lt_is_sampling) = (0, 0, 0);
        self.reset_lt_bw_interval(d);
    }

    /// The rate of an interval in which much was lost, if one ends here.
    pub fn lt_sample(&mut self, d: &Delivery, rs: &RateSample) -> Option<u32> {
        if self.lt_is_sampling == 0 {
            // An interval begins with a loss: the policer has no tokens left.
            if rs.losses == 0 {
                return None;
            }
            self.reset_lt_bw_interval(d);
            self.lt_is_sampling = 1;
        }
        if rs.is_app_limited {
            self.reset_lt_bw_sampling(d);
            return None;
        }
        if self.round_start != 0 {
            self.lt_rtt_cnt = self.lt_rtt_cnt.saturating_add(1);
        }
        if self.lt_rtt_cnt < LT_INTVL_MIN_RTTS {
            return None;
        }
        if self.lt_rtt_cnt > 4 * LT_INTVL_MIN_RTTS {
            self.reset_lt_bw_sampling(d);
            return None;
        }
        // It ends with a loss.
        if rs.losses == 0 {
            return None;
        }
        let lost = d.lost.wrapping_sub(self.lt_last_lost) as u64;
        let delivered = d.delivered.wrapping_sub(self.lt_last_delivered) as u64;
        if delivered == 0 || lost << BBR_SCALE < LT_LOSS_THRESH * delivered {
            return None;
        }
        let ms = d.stamp.wrapping_sub(self.lt_last_stamp);
        if ms as i32 <= 0 {
            return None;
        }
        if ms >= u32::MAX / 1000 {
            self.reset_lt_bw_sampling(d);
            return None;
        }
        Some(((delivered << BW_SCALE) / (ms as u64 * 1000)).min(u32::MAX as u64) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_maximum_falls_when_its_window_has_passed() {
        let mut f = MaxFilter::default();
        f.running_max(10, 0, 100);
        for t in 1..=10 {
            f.running_max(10, t, 50 + t % 2);
            assert_eq!(f.get(), 100, "at {t}");
        }
        f.running_max(10, 11, 10);
        assert!(f.get() < 100 && f.get() >= 50, "{}", f.get());
        f.running_max(10, 12, 200);
        assert_eq!(f.get(), 200);
    }

    #[test]
    fn what_a_path_holds() {
        // 100 segments a millisecond, 20 ms.
        let bw = ((100u64 << BW_SCALE) / 1000) as u32;
        assert_eq!(bdp_segments(bw, 20_000, BBR_UNIT), 2000);
        assert_eq!(bdp_segments(bw, 20_000, CWND_GAIN), 4000);
        assert_eq!(bdp_segments(0, 20_000, CWND_GAIN), 0);
    }
}
