//! CUBIC (RFC 9438) with HyStart.
//!
//! Interface: [`CUBIC`].
//! Linux counterpart: `net/ipv4/tcp_cubic.c`.
//! Locks and context: socket lock.
//!
//! After a loss at window `W_max` the window follows `W(t) = C (t - K)^3 + W_max`, with `C` = 0.4 segments per second cubed
//! and `K` the time at which it is back at `W_max`. Times are milliseconds, windows segments, all in integers.

use super::tcp_cong::{RENO_OPS, tcp_cong_avoid_ai, tcp_is_cwnd_limited, tcp_slow_start};
use super::tcp_sock::*;
use crate::core::skbuff::GSO_MAX_SIZE;
use crate::core::snmp::Mib;
use crate::core::sock::Sock;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub static CUBIC: TcpCongestionOps = TcpCongestionOps {
    name: "cubic",
    flags: CaFlags::NON_RESTRICTED,
    priv_layout: (size_of::<Cubic>(), align_of::<Cubic>()),
    init: Some(cubictcp_init),
    ssthresh: cubictcp_recalc_ssthresh,
    cong_avoid: cubictcp_cong_avoid,
    set_state: Some(cubictcp_state),
    cwnd_event: Some(cubictcp_cwnd_event),
    pkts_acked: Some(cubictcp_acked),
    ..RENO_OPS
};

/// Multiplicative decrease, in 1024ths: 0.7 (RFC 9438, 4.6).
const BETA: u64 = 717;
const BETA_SCALE: u64 = 1024;
/// Windows below this many segments are left alone by HyStart.
const HYSTART_LOW_WINDOW: u32 = 16;
const HYSTART_MIN_SAMPLES: u32 = 8;
/// ACKs closer than this belong to one train, microseconds.
const HYSTART_ACK_DELTA_US: u32 = 2000;
const HYSTART_DELAY_MIN_US: u32 = 4000;
const HYSTART_DELAY_MAX_US: u32 = 16000;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Cubic {
    /// ACKs for one more segment.
    cnt: u32,
    last_max_cwnd: u32,
    last_cwnd: u32,
    last_time: u32,
    /// `W_max`, the curve's origin.
    origin_point: u32,
    k: u32,
    /// Least delay seen, microseconds; 0: none.
    delay_min: u32,
    /// When this epoch began; 0: not begun.
    epoch_start: u32,
    ack_cnt: u32,
    /// What Reno's window would be.
    tcp_cwnd: u32,
    sample_cnt: u16,
    /// HyStart has found the end of slow start.
    found: u16,
    round_start: u32,
    end_seq: u32,
    last_ack: u32,
    curr_rtt: u32,
}

fn ca(tp: &mut TcpSock) -> &mut Cubic {
    tp.ca_priv.get_mut()
}

fn reset(c: &mut Cubic) {
    let (round_start, end_seq, last_ack, curr_rtt) = (c.round_start, c.end_seq, c.last_ack, c.curr_rtt);
    *c = FromBytes::read_from_bytes(&[0u8; size_of::<Cubic>()]).unwrap_or_else(|_| unreachable!("as long"));
    (c.round_start, c.end_seq, c.last_ack, c.curr_rtt) = (round_start, end_seq, last_ack, curr_rtt);
}

fn clock_us(tp: &TcpSock) -> u32 {
    tp.tcp_mstamp as u32
}

fn hystart_reset(tp: &mut TcpSock) {
    let (now, end) = (clock_us(tp), tp.snd_nxt);
    let c = ca(tp);
    (c.round_start, c.last_ack) = (now, now);
    (c.end_seq, c.curr_rtt, c.sample_cnt) = (end, u32::MAX, 0);
}

fn cubictcp_init(_sk: &Sock, tp: &mut TcpSock) {
    reset(ca(tp));
    hystart_reset(tp);
}

fn cubictcp_cwnd_event(_sk: &Sock, tp: &mut TcpSock, ev: TcpCaEvent) {
    if ev != TcpCaEvent::TxStart {
        return;
    }
    // Idle time does not count: the curve is shifted by it.
    let now = tp.jiffies32();
    let idle = now.wrapping_sub(tp.lsndtime) as i32;
    let c = ca(tp);
    if c.epoch_start != 0 && idle > 0 {
        c.epoch_start = c.epoch_start.wrapping_add(idle as u32);
        if after(c.epoch_start, now) {
            c.epoch_start = now;
        }
    }
}

/// The integer cube root.
fn cubic_root(a: u64) -> u64 {
    let (mut lo, mut hi) = (0u64, 2_642_245u64);
    while lo < hi {
        let mid = (lo + hi).div_ceil(2);
        if mid * mid * mid <= a { lo = mid } else { hi = mid - 1 }
    }
    lo
}

/// How many ACKs the next segment takes (RFC 9438, 4.2 to 4.5).
fn cubictcp_update(c: &mut Cubic, cwnd: u32, acked: u32, now: u32) {
    c.ack_cnt = c.ack_cnt.saturating_add(acked);
    if c.last_cwnd == cwnd && now.wrapping_sub(c.last_time) <= 31 {
        return;
    }
    if c.epoch_start == 0 || now != c.last_time {
        c.last_cwnd = cwnd;
        c.last_time = now;
        if c.epoch_start == 0 {
            c.epoch_start = now.max(1);
            c.ack_cnt = acked;
            c.tcp_cwnd = cwnd;
            if c.last_max_cwnd <= cwnd {
                (c.k, c.origin_point) = (0, cwnd);
            } else {
                // K = cbrt((W_max - cwnd) / 0.4) seconds, in milliseconds.
                c.k = cubic_root((c.last_max_cwnd - cwnd) as u64 * 2_500_000_000) as u32;
                c.origin_point = c.last_max_cwnd;
            }
        }
        let t = now.wrapping_sub(c.epoch_start) as u64 + (c.delay_min / 1000) as u64;
        let offs = t.abs_diff(c.k as u64).min(1_000_000);
        // 0.4 (t - K)^3 with t in seconds.
        let delta = (offs * offs * offs / 2_500_000_000).min(u32::MAX as u64 / 2) as u32;
        let target =
            if t < c.k as u64 { c.origin_point.saturating_sub(delta) } else { c.origin_point.saturating_add(delta) };
        c.cnt = if target > cwnd { cwnd / (target - cwnd) } else { cwnd.saturating_mul(100) };
        if c.last_max_cwnd == 0 {
            c.cnt = c.cnt.min(20);
        }
    }
    // Reno-friendly region (RFC 9438, 4.3): W_est grows by 3 (1 - beta) / (1 + beta) a round trip.
    let per_segment = ((cwnd as u64 * (8 * (BETA_SCALE + BETA) / 3 / (BETA_SCALE - BETA))) >> 3).max(1) as u32;
    let grown = c.ack_cnt / per_segment;
    c.ack_cnt -= grown * per_segment;
    c.tcp_cwnd = c.tcp_cwnd.saturating_add(grown);
    if c.tcp_cwnd > cwnd {
        c.cnt = c.cnt.min(cwnd / (c.tcp_cwnd - cwnd));
    }
    c.cnt = c.cnt.max(2);
}

fn cubictcp_cong_avoid(_sk: &Sock, tp: &mut TcpSock, _ack: u32, mut acked: u32) {
    if !tcp_is_cwnd_limited(tp) {
        return;
    }
    if tp.in_slow_start() {
        acked = tcp_slow_start(tp, acked);
        if acked == 0 {
            return;
        }
    }
    let (cwnd, now) = (tp.snd_cwnd, tp.jiffies32());
    let c = ca(tp);
    cubictcp_update(c, cwnd, acked, now);
    let cnt = c.cnt;
    tcp_cong_avoid_ai(tp, cnt, acked);
}

fn cubictcp_recalc_ssthresh(_sk: &Sock, tp: &mut TcpSock) -> u32 {
    let cwnd = tp.snd_cwnd;
    let c = ca(tp);
    c.epoch_start = 0;
    // Fast convergence (RFC 9438, 4.7): give room to newcomers.
    c.last_max_cwnd =
        if cwnd < c.last_max_cwnd { (cwnd as u64 * (BETA_SCALE + BETA) / (2 * BETA_SCALE)) as u32 } else { cwnd };
    ((cwnd as u64 * BETA / BETA_SCALE) as u32).max(2)
}

fn cubictcp_state(_sk: &Sock, tp: &mut TcpSock, new: TcpCaState) {
    if new == TcpCaState::Loss {
        reset(ca(tp));
        hystart_reset(tp);
    }
}

fn cubictcp_acked(sk: &Sock, tp: &mut TcpSock, sample: &AckSample) {
    let rtt_us = sample.rtt_us;
    if rtt_us < 0 {
        return;
    }
    let now = tp.jiffies32();
    let slow_start = tp.in_slow_start();
    let c = ca(tp);
    if c.epoch_start != 0 && (now.wrapping_sub(c.epoch_start) as i32) < 1000 {
        return;
    }
    let delay = rtt_us.clamp(1, u32::MAX as i64) as u32;
    if c.delay_min == 0 || c.delay_min > delay {
        c.delay_min = delay;
    }
    if c.found == 0 && slow_start {
        hystart_update(sk, tp, delay);
    }
}

/// Microseconds by which the sender's own packets may spread a train: what the largest take at the pace.
fn hystart_ack_delay(tp: &TcpSock) -> u32 {
    let four = GSO_MAX_SIZE as u64 * 4 * 1_000_000;
    four.checked_div(tp.pacing_rate).unwrap_or(0).min(1000) as u32
}

/// Ends slow start before it overflows the path (Ha and Rhee, 2011): when a train of ACKs lasts half as long as the path is,
/// or when the delay grows by an eighth.
fn hystart_update(sk: &Sock, tp: &mut TcpSock, delay: u32) {
    if after(tp.snd_una, ca(tp).end_seq) {
        hystart_reset(tp);
    }
    // Below it the rounds are kept all the same: one that began in the middle of a flight would take the queue of its own
    // packets for delay.
    if tp.snd_cwnd < HYSTART_LOW_WINDOW {
        return;
    }
    let now = clock_us(tp);
    let (cwnd, paced, ack_delay) = (tp.snd_cwnd, tp.pacing.is_some(), hystart_ack_delay(tp));
    let c = ca(tp);
    let (mut train, mut slower) = (false, false);
    if now.wrapping_sub(c.last_ack) as i32 <= HYSTART_ACK_DELTA_US as i32 {
        c.last_ack = now;
        let path = c.delay_min.saturating_add(ack_delay);
        // Pacing spreads the packets over half of a round trip already.
        let threshold = if paced { path } else { path >> 1 };
        train = now.wrapping_sub(c.round_start) as i32 > threshold.min(i32::MAX as u32) as i32;
    }
    c.curr_rtt = c.curr_rtt.min(delay);
    if (c.sample_cnt as u32) < HYSTART_MIN_SAMPLES {
        c.sample_cnt += 1;
    } else {
        let slack = (c.delay_min >> 3).clamp(HYSTART_DELAY_MIN_US, HYSTART_DELAY_MAX_US);
        slower = c.curr_rtt > c.delay_min.saturating_add(slack);
    }
    if !train && !slower {
        return;
    }
    c.found = 1;
    tp.snd_ssthresh = cwnd;
    for (found, count, at) in [
        (train, Mib::TcpExtTCPHystartTrainDetect, Mib::TcpExtTCPHystartTrainCwnd),
        (slower, Mib::TcpExtTCPHystartDelayDetect, Mib::TcpExtTCPHystartDelayCwnd),
    ] {
        if found {
            sk.net.mib.inc(count);
            sk.net.mib.add(at, cwnd as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cube_roots() {
        for (a, r) in [(0, 0), (1, 1), (7, 1), (8, 2), (1_000_000_000_000, 10_000), (u64::MAX, 2_642_245)] {
            assert_eq!(cubic_root(a), r, "{a}");
        }
    }

    #[test]
    fn the_window_returns_to_w_max_at_k() {
        let mut c: Cubic = FromBytes::read_from_bytes(&[0u8; size_of::<Cubic>()]).unwrap();
        c.last_max_cwnd = 100;
        cubictcp_update(&mut c, 70, 1, 1000);
        // cbrt(30 / 0.4) = 4.217 s
        assert_eq!(c.k, 4217);
        c.tcp_cwnd = 0;
        c.ack_cnt = 0;
        cubictcp_update(&mut c, 99, 1, 1000 + 4217);
        assert_eq!(c.cnt, 99, "one segment below W_max: one more a round trip");
    }
}
