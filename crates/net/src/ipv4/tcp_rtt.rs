//! Round-trip time: samples, the smoothed estimate, the retransmission timeout, the least of late.
//!
//! Interface: [`tcp_ack_update_rtt`], [`tcp_set_rto`], [`tcp_rcv_rtt_update`], [`minmax_running_min`].
//! Linux counterpart: `tcp_rtt_estimator`, `tcp_ack_update_rtt` in `net/ipv4/tcp_input.c`, `lib/win_minmax.c`.
//! Locks and context: socket lock.

use super::tcp_route::tcp_rto_min;
use super::tcp_sock::*;
use crate::core::net_namespace::Net;
use crate::core::sock::Sock;

/// RFC 6298, 2.2 and 2.3, with Linux's slower decay of the deviation when the round-trip time falls (`tcp_rtt_estimator`).
fn tcp_rtt_estimator(tp: &mut TcpSock, mrtt_us: u32) {
    let mrtt = mrtt_us as i64;
    if tp.srtt_us == 0 {
        tp.srtt_us = mrtt_us.saturating_mul(8);
        tp.mdev_us = mrtt_us.saturating_mul(2);
        tp.rttvar_us = tp.mdev_us.max(tcp_rto_min(tp) * 1000);
        tp.mdev_max_us = tp.rttvar_us;
        tp.rtt_seq = tp.snd_nxt;
        return;
    }
    let mut m = mrtt - (tp.srtt_us >> 3) as i64;
    let srtt = (tp.srtt_us as i64 + m).max(1);
    if m < 0 {
        m = -m - (tp.mdev_us >> 2) as i64;
        if m > 0 {
            m >>= 3;
        }
    } else {
        m -= (tp.mdev_us >> 2) as i64;
    }
    tp.mdev_us = (tp.mdev_us as i64 + m).clamp(0, u32::MAX as i64) as u32;
    if tp.mdev_us > tp.mdev_max_us {
        tp.mdev_max_us = tp.mdev_us;
        tp.rttvar_us = tp.rttvar_us.max(tp.mdev_max_us);
    }
    if after(tp.snd_una, tp.rtt_seq) {
        if tp.mdev_max_us < tp.rttvar_us {
            tp.rttvar_us -= (tp.rttvar_us - tp.mdev_max_us) >> 2;
        }
        tp.rtt_seq = tp.snd_nxt;
        tp.mdev_max_us = tcp_rto_min(tp) * 1000;
    }
    tp.srtt_us = srtt.min(u32::MAX as i64) as u32;
}

/// `tcp_set_rto`: SRTT + 4 RTTVAR, in milliseconds.
pub fn tcp_set_rto(tp: &mut TcpSock) {
    let us = (tp.srtt_us >> 3) as u64 + tp.rttvar_us as u64;
    tp.icsk_rto = us.div_ceil(1000).max(tcp_rto_min(tp) as u64).min(tp.icsk_rto_max as u64) as u32;
}

/// Takes over a round-trip time from an ACK: the sample of the newest segment it covers, else of the newest SACKed, else
/// from the timestamp it echoes (Karn's rule is kept by the caller: no sample from what was retransmitted). All in
/// microseconds, negative for none; `delayed`: the ACK may have been. `false`: no sample.
pub fn tcp_ack_update_rtt(
    net: &Net,
    tp: &mut TcpSock,
    acked: bool,
    delayed: bool,
    seq_us: i64,
    sack_us: i64,
    ca_us: &mut i64,
) -> bool {
    let mut rtt = if seq_us >= 0 { seq_us } else { sack_us };
    if rtt < 0 && tp.rx_opt.saw_tstamp && tp.rx_opt.rcv_tsecr != 0 && acked {
        let delta = tp.time_stamp().wrapping_add(tp.tsoffset).wrapping_sub(tp.rx_opt.rcv_tsecr);
        if delta < i32::MAX as u32 / 1000 {
            // RFC 7323, 4.1. A tick is a millisecond, so nothing is less than one.
            rtt = delta.max(1) as i64 * 1000;
            *ca_us = rtt;
        }
    }
    if rtt < 0 {
        return false;
    }
    let us = rtt.clamp(1, u32::MAX as i64) as u32;
    tcp_update_rtt_min(net, tp, if *ca_us >= 0 { (*ca_us).min(u32::MAX as i64) as u32 } else { us }, delayed);
    tcp_rtt_estimator(tp, us);
    tcp_set_rto(tp);
    tp.icsk_backoff = 0;
    true
}

/// The least of the last `tcp_min_rtt_wlen` seconds (`tcp_update_rtt_min`).
fn tcp_update_rtt_min(net: &Net, tp: &mut TcpSock, us: u32, delayed: bool) {
    if delayed && us > tp.rtt_min[0].v {
        // A peer that always delays would be taken for a long path once the window has passed.
        return;
    }
    let (wlen, now) = (net.sysctl.tcp_min_rtt_wlen.get() as u32 * 1000, tp.jiffies32());
    minmax_running_min(&mut tp.rtt_min, wlen, now, if us != 0 { us } else { 1000 });
}

/// Kathleen Nichols' windowed minimum in three samples (`minmax_running_min`). Times in milliseconds.
pub fn minmax_running_min(s: &mut [MinmaxSample; 3], wlen: u32, now: u32, v: u32) {
    let new = MinmaxSample { t: now, v };
    if v <= s[0].v || now.wrapping_sub(s[2].t) > wlen {
        *s = [new; 3];
        return;
    }
    if v <= s[1].v {
        (s[1], s[2]) = (new, new);
    } else if v <= s[2].v {
        s[2] = new;
    }
    let age = now.wrapping_sub(s[0].t);
    if age > wlen {
        *s = [s[1], s[2], new];
        if now.wrapping_sub(s[0].t) > wlen {
            *s = [s[1], s[2], new];
        }
    } else if s[1].t == s[0].t && age > wlen / 4 {
        (s[1], s[2]) = (new, new);
    } else if s[2].t == s[1].t && age > wlen / 2 {
        s[2] = new;
    }
}

/// The receiver's idea of the round-trip time, microseconds times 8 (`tcp_rcv_rtt_update`). `win_dep`: the sample is a
/// window's time and so an upper bound.
fn tcp_rcv_rtt_update(tp: &mut TcpSock, sample: u32, win_dep: bool) {
    let old = tp.rcv_tune.rtt_us;
    let m = sample.saturating_mul(8).max(8);
    if old == 0 || m < old {
        tp.rcv_tune.rtt_us = m;
    } else if !win_dep && tp.rcv_nxt == tp.copied_seq {
        // While data waits for the process, the time says more about him than about the path.
        tp.rcv_tune.rtt_us = old - (old >> 3) + (m >> 3);
    }
}

/// Without timestamps: how long a window's worth of data takes (`tcp_rcv_rtt_measure`).
pub fn tcp_rcv_rtt_measure(tp: &mut TcpSock) {
    if tp.rcv_tune.rtt_time != 0 {
        if before(tp.rcv_nxt, tp.rcv_tune.rtt_seq) {
            return;
        }
        let us = (tp.tcp_mstamp as u32).wrapping_sub(tp.rcv_tune.rtt_time).max(1);
        tcp_rcv_rtt_update(tp, us, true);
    }
    tp.rcv_tune.rtt_seq = tp.rcv_nxt.wrapping_add(tp.rcv_wnd);
    tp.rcv_tune.rtt_time = (tp.tcp_mstamp as u32).max(1);
}

/// With timestamps: from what the peer echoes with full segments (`tcp_rcv_rtt_measure_ts`).
pub fn tcp_rcv_rtt_measure_ts(_sk: &Sock, tp: &mut TcpSock, len: u32) {
    if tp.rx_opt.rcv_tsecr == tp.rcv_tune.last_tsecr {
        return;
    }
    tp.rcv_tune.last_tsecr = tp.rx_opt.rcv_tsecr;
    if len < tp.icsk_ack.rcv_mss as u32 {
        return;
    }
    let delta = tp.time_stamp().wrapping_add(tp.tsoffset).wrapping_sub(tp.rx_opt.rcv_tsecr);
    // Nothing is no measurement: the clock ticks once a millisecond.
    if (1..i32::MAX as u32 / 1000).contains(&delta) {
        tcp_rcv_rtt_update(tp, delta * 1000, false);
    }
}
