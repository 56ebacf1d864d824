//! Pacing: packets leave at a rate, not when an ACK or a write makes room for them.
//!
//! Interface: [`tcp_need_pacing`], [`tcp_pacing_check`], [`tcp_update_skb_after_send`], [`tcp_pacing_rate`], [`tcp_wstamp_ns`].
//! Linux counterpart: `tcp_pacing_check`, `tcp_pace_kick`, `tcp_update_skb_after_send` in `net/ipv4/tcp_output.c`.
//! Locks and context: socket lock; the timer runs in softirq context and takes the socket lock there.
//!
//! Each packet moves the time of the next one by its length over the rate. While that time lies ahead nothing is sent, and a
//! high-resolution timer goes on with it. Congestion control asks for it (BBR), or the process (`SO_MAX_PACING_RATE`); nobody
//! else has the timer.

use super::tcp_sock::{TCP_INIT_CWND, TcpPacing, TcpSock, tcp_ops};
use crate::core::sock::Sock;
use kernel::hrtimer::HrtimerRestart;

/// What leaves in 2^-10 seconds, about a millisecond, may be built as one packet (`sk_pacing_shift`).
pub const TCP_PACING_SHIFT: u32 = 10;

/// A wait that is shorter than this is none: no clock's interrupt is worth it, and a path that looks as fast as this is not
/// to keep a CPU busy with its timer.
const TCP_PACING_MIN_NS: u64 = 1000;

/// From now on the connection paces.
pub fn tcp_need_pacing(sk: &Sock, tp: &mut TcpSock) {
    if tp.rare.pacing.is_some() {
        return;
    }
    let (weak, kick) = (sk.weak(), tcp_ops(sk).tsq);
    // `tcp_pace_kick`: as when the device has taken a packet.
    let timer = sk.net.kernel().hrtimer(move |_| {
        if let Some(sk) = weak.upgrade() {
            kick(&sk);
        }
        HrtimerRestart::NoRestart
    });
    tp.rare.make().pacing = Some(Box::new(TcpPacing { timer, wstamp_ns: 0 }));
}

/// Bytes a second; `u64::MAX`: as fast as can be.
#[inline]
pub fn tcp_pacing_rate(sk: &Sock, tp: &TcpSock) -> u64 {
    tp.pacing_rate.min(sk.rare.max_pacing_rate())
}

/// The time of the next packet, nanoseconds; 0: at once.
#[inline]
pub fn tcp_wstamp_ns(tp: &TcpSock) -> u64 {
    tp.rare.pacing.as_ref().map_or(0, |p| p.wstamp_ns)
}

/// The process has set a rate: from now on it is the most.
#[cold]
pub fn tcp_pacing_limited(sk: &Sock, tp: &mut TcpSock) {
    tp.pacing_rate = tcp_pacing_rate(sk, tp);
    tcp_need_pacing(sk, tp);
}

/// Whether the next packet must wait; then the timer is set for it.
#[inline]
pub fn tcp_pacing_check(sk: &Sock, tp: &mut TcpSock) -> bool {
    if sk.rare.max_pacing_rate() != u64::MAX {
        tcp_pacing_limited(sk, tp);
    }
    let Some(p) = &tp.rare.pacing else { return false };
    if p.wstamp_ns <= sk.net.kernel().ktime_get() + TCP_PACING_MIN_NS {
        return false;
    }
    if !p.timer.is_queued() {
        p.timer.start(p.wstamp_ns);
    }
    true
}

/// A packet of `len` payload bytes goes out: when the next one may. The first ten segments of a connection are not held back,
/// as those of `sch_fq` are not.
#[inline]
pub fn tcp_update_skb_after_send(sk: &Sock, tp: &mut TcpSock, len: u32) {
    if tp.rare.pacing.is_none() || len == 0 {
        return;
    }
    let rate = tcp_pacing_rate(sk, tp);
    let counts = rate != u64::MAX && rate != 0 && tp.data_segs_out >= TCP_INIT_CWND;
    let Some(p) = tp.rare.if_used().and_then(|r| r.pacing.as_mut()) else { return };
    let now = sk.net.kernel().ktime_get();
    let late = now.saturating_sub(p.wstamp_ns);
    p.wstamp_ns = p.wstamp_ns.max(now);
    if counts {
        let len_ns = ((len as u128 * 1_000_000_000) / rate as u128).min(u64::MAX as u128 / 4) as u64;
        // The timer fired late: half of a packet's time is given back at most.
        p.wstamp_ns += len_ns - (len_ns / 2).min(late);
    }
}

/// No packet will follow.
pub fn tcp_pacing_stop(tp: &TcpSock) {
    if let Some(p) = &tp.rare.pacing {
        p.timer.try_to_cancel();
    }
}
