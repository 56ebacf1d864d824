//! CUBIC (RFC 9438) with HyStart, or with HyStart++ (RFC 9406) where `net.ipv4.tcp_cubic_hystart_detect` says so.
//!
//! Interface: [`CUBIC`].
//! Linux counterpart: `net/ipv4/tcp_cubic.c`.
//! Locks and context: socket lock.
//!
//! After a loss at window `W_max` the window follows `W(t) = C (t - K)^3 + W_max`, with `C` = 0.4 segments per second cubed
//! and `K` the time at which it is back at `W_max`. Times are milliseconds, windows segments, all in integers.

use super::tcp_cong::{RENO_OPS, tcp_cong_avoid_ai, tcp_is_cwnd_limited, tcp_slow_start};
use super::tcp_hystartpp::{CSS_GROWTH_DIVISOR, HystartPp, L};
use super::tcp_sock::*;
use crate::core::skbuff::GSO_MAX_SIZE;
use crate::core::snmp::Mib;
use crate::core::sock::Sock;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, transmute, transmute_mut};

pub static CUBIC: TcpCongestionOps = TcpCongestionOps {
    name: "cubic",
    flags: CaFlags::NON_RESTRICTED,
    priv_layout: (size_of::<SlowStart>(), align_of::<SlowStart>()),
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
/// Milliseconds of a tick: distributions' kernels have 250 a second. The curve is looked at once a tick, and while the window
/// stays as it is, every eighth one. Where round trips are shorter than a tick, that decides how fast small windows grow.
const TICK: u32 = 4;
const UPDATE_TICKS: u32 = 7;
/// Windows below this many segments are left alone by HyStart.
const HYSTART_LOW_WINDOW: u32 = 16;
const HYSTART_MIN_SAMPLES: u32 = 8;
/// ACKs closer than this belong to one train, microseconds.
const HYSTART_ACK_DELTA_US: u32 = 2000;
const HYSTART_DELAY_MIN_US: u32 = 4000;
const HYSTART_DELAY_MAX_US: u32 = 16000;

/// `net.ipv4.tcp_cubic_hystart_detect`.
const HYSTART_ACK_TRAIN: i64 = 1;
const HYSTART_DELAY: i64 = 2;
const HYSTART_PLUS_PLUS: i64 = 4;

/// What slow start needs.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct SlowStart {
    /// Least delay seen, microseconds; 0: none.
    delay_min: u32,
    hystart: Hystart,
}

/// The way out of slow start; [`HystartPp`] in the same place if `tag` is [`PLUS_PLUS`].
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Hystart {
    sample_cnt: u8,
    /// The end of slow start is found.
    found: u8,
    _unused: u8,
    tag: u8,
    round_start: u32,
    end_seq: u32,
    last_ack: u32,
    curr_rtt: u32,
}

const PLUS_PLUS: u8 = 1;

/// What the curve needs beside it. There once slow start is over.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Cubic {
    slow_start: SlowStart,
    /// ACKs for one more segment.
    cnt: u32,
    last_max_cwnd: u32,
    last_cwnd: u32,
    /// The tick of the last update.
    last_tick: u32,
    /// `W_max`, the curve's origin.
    origin_point: u32,
    k: u32,
    /// When this epoch began; 0: not begun.
    epoch_start: u32,
    ack_cnt: u32,
    /// What Reno's window would be.
    tcp_cwnd: u32,
}

impl SlowStart {
    /// HyStart++, if the connection has it.
    fn plus_plus(&mut self) -> Option<&mut HystartPp> {
        (self.hystart.tag == PLUS_PLUS).then(|| transmute_mut!(&mut self.hystart))
    }
}

fn slow_start(tp: &mut TcpSock) -> &mut SlowStart {
    tp.ca_priv.get_mut()
}

fn ca(tp: &mut TcpSock) -> &mut Cubic {
    tp.ca_priv.grow()
}

fn ca_if_any(tp: &mut TcpSock) -> Option<&mut Cubic> {
    tp.ca_priv.get_mut_if_grown()
}

/// Everything is unknown again.
fn reset(sk: &Sock, tp: &mut TcpSock) {
    let (plus_plus, snd_nxt) = (sk.net.sysctl.tcp_cubic_hystart_detect.get() & HYSTART_PLUS_PLUS != 0, tp.snd_nxt);
    if let Some(c) = ca_if_any(tp) {
        *c = Cubic::new_zeroed();
    }
    let s = slow_start(tp);
    *s = SlowStart::new_zeroed();
    if plus_plus {
        s.hystart = transmute!(HystartPp::new(PLUS_PLUS, snd_nxt));
    } else {
        hystart_reset(tp);
    }
}

fn clock_us(tp: &TcpSock) -> u32 {
    tp.tcp_mstamp as u32
}

fn hystart_reset(tp: &mut TcpSock) {
    let (now, end) = (clock_us(tp), tp.snd_nxt);
    let h = &mut slow_start(tp).hystart;
    (h.round_start, h.last_ack) = (now, now);
    (h.end_seq, h.curr_rtt, h.sample_cnt) = (end, u32::MAX, 0);
}

fn cubictcp_init(sk: &Sock, tp: &mut TcpSock) {
    reset(sk, tp);
}

fn cubictcp_cwnd_event(_sk: &Sock, tp: &mut TcpSock, ev: TcpCaEvent) {
    if ev != TcpCaEvent::TxStart {
        return;
    }
    // Idle time does not count: the curve is shifted by it.
    let now = tp.jiffies32();
    let idle = now.wrapping_sub(tp.lsndtime) as i32;
    let Some(c) = ca_if_any(tp) else { return };
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
    let tick = now / TICK;
    if c.last_cwnd == cwnd && tick.wrapping_sub(c.last_tick) <= UPDATE_TICKS {
        return;
    }
    if c.epoch_start == 0 || tick != c.last_tick {
        c.last_cwnd = cwnd;
        c.last_tick = tick;
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
        let t = now.wrapping_sub(c.epoch_start) as u64 + (c.slow_start.delay_min / 1000) as u64;
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
    let grown = c.ack_cnt.saturating_sub(1) / per_segment;
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
        acked = cubic_slow_start(tp, acked);
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

/// Nothing has been lost yet: the slow start for which HyStart++ is (RFC 9406, 4.3).
fn in_first_slow_start(tp: &TcpSock) -> bool {
    tp.snd_ssthresh >= TCP_INFINITE_SSTHRESH
}

/// Grows the window exponentially; what is left of `acked`.
fn cubic_slow_start(tp: &mut TcpSock, acked: u32) -> u32 {
    let first = in_first_slow_start(tp);
    let Some(in_css) = slow_start(tp).plus_plus().filter(|_| first).map(|h| h.in_css()) else {
        return tcp_slow_start(tp, acked);
    };
    // RFC 9406, 4.2: L is infinite where pacing keeps a large step from being a burst.
    let acked = if tp.rare.pacing.is_some() { acked } else { acked.min(L) };
    if in_css {
        tcp_cong_avoid_ai(tp, CSS_GROWTH_DIVISOR, acked);
        return 0;
    }
    tcp_slow_start(tp, acked)
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

fn cubictcp_state(sk: &Sock, tp: &mut TcpSock, new: TcpCaState) {
    if new == TcpCaState::Loss {
        reset(sk, tp);
    }
}

fn cubictcp_acked(sk: &Sock, tp: &mut TcpSock, sample: &AckSample) {
    let (rtt_us, una, nxt) = (sample.rtt_us, tp.snd_una, tp.snd_nxt);
    let delay = (rtt_us >= 0).then(|| rtt_us.clamp(1, u32::MAX as i64) as u32);
    let first = in_first_slow_start(tp);
    if let Some(h) = slow_start(tp).plus_plus().filter(|_| first)
        && h.ack(una, nxt, delay)
    {
        end_slow_start(sk, tp, false, true);
    }
    let Some(delay) = delay else { return };
    let now = tp.jiffies32();
    if ca_if_any(tp).is_some_and(|c| c.epoch_start != 0 && (now.wrapping_sub(c.epoch_start) as i32) < 1000) {
        return;
    }
    let s = slow_start(tp);
    if s.delay_min == 0 || s.delay_min > delay {
        s.delay_min = delay;
    }
    if s.plus_plus().is_none() && s.hystart.found == 0 && tp.in_slow_start() {
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
    let detect = sk.net.sysctl.tcp_cubic_hystart_detect.get();
    if after(tp.snd_una, slow_start(tp).hystart.end_seq) {
        hystart_reset(tp);
    }
    // Below it the rounds are kept all the same: one that began in the middle of a flight would take the queue of its own
    // packets for delay.
    if tp.snd_cwnd < HYSTART_LOW_WINDOW {
        return;
    }
    let now = clock_us(tp);
    let (paced, ack_delay) = (tp.rare.pacing.is_some(), hystart_ack_delay(tp));
    let SlowStart { delay_min, hystart: h } = slow_start(tp);
    let (mut train, mut slower) = (false, false);
    if detect & HYSTART_ACK_TRAIN != 0 && now.wrapping_sub(h.last_ack) as i32 <= HYSTART_ACK_DELTA_US as i32 {
        h.last_ack = now;
        let path = delay_min.saturating_add(ack_delay);
        // Pacing spreads the packets over half of a round trip already.
        let threshold = if paced { path } else { path >> 1 };
        train = now.wrapping_sub(h.round_start) as i32 > threshold.min(i32::MAX as u32) as i32;
    }
    if detect & HYSTART_DELAY != 0 {
        h.curr_rtt = h.curr_rtt.min(delay);
        if (h.sample_cnt as u32) < HYSTART_MIN_SAMPLES {
            h.sample_cnt += 1;
        } else {
            let slack = (*delay_min >> 3).clamp(HYSTART_DELAY_MIN_US, HYSTART_DELAY_MAX_US);
            slower = h.curr_rtt > delay_min.saturating_add(slack);
        }
    }
    if train || slower {
        h.found = 1;
        end_slow_start(sk, tp, train, slower);
    }
}

/// The path is full, as a train of ACKs or the delay says: from here on the window grows slowly.
fn end_slow_start(sk: &Sock, tp: &mut TcpSock, train: bool, slower: bool) {
    let cwnd = tp.snd_cwnd;
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

    /// Within a tick a window that has grown is measured by Reno's with each ACK; in the next one the pace is set for a while.
    #[test]
    fn the_pace_is_set_by_ticks() {
        let mut c: Cubic = FromBytes::read_from_bytes(&[0u8; size_of::<Cubic>()]).unwrap();
        c.last_max_cwnd = 3;
        cubictcp_update(&mut c, 3, 1, 1000);
        assert_eq!((c.tcp_cwnd, c.cnt), (3, 300));
        // Reno gains a segment after more than seven ACKs.
        for (ms, acked, reno, cnt) in [(1001, 6, 3, 300), (1002, 1, 4, 300), (1003, 7, 5, 4), (1004, 0, 5, 4)] {
            cubictcp_update(&mut c, 4, acked, ms);
            assert_eq!((c.tcp_cwnd, c.cnt), (reno, cnt), "{ms} ms");
        }
        cubictcp_update(&mut c, 4, 100, 1035);
        assert_eq!((c.tcp_cwnd, c.cnt), (5, 4));
        cubictcp_update(&mut c, 4, 1, 1036);
        assert_eq!((c.tcp_cwnd, c.cnt), (19, 2));
    }

    #[test]
    fn the_window_returns_to_w_max_at_k() {
        let mut c = Cubic::new_zeroed();
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
