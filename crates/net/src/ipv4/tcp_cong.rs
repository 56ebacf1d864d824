//! The interface of congestion control, and Reno.
//!
//! Interface: [`tcp_slow_start`], [`tcp_cong_avoid_ai`], [`tcp_set_ca_state`], [`tcp_cwnd_restart`], [`RENO`], [`RENO_OPS`].
//! Linux counterpart: `net/ipv4/tcp_cong.c`.
//! Locks and context: socket lock.

use super::tcp_route::{tcp_init_cwnd, tcp_snd_cwnd_clamp};
use super::tcp_sock::*;
use crate::core::sock::Sock;

/// RFC 5681 (NewReno's window management): what every other algorithm falls back to.
pub const RENO_OPS: TcpCongestionOps = TcpCongestionOps {
    name: "reno",
    flags: CaFlags::NON_RESTRICTED,
    priv_layout: (0, 1),
    init: None,
    release: None,
    ssthresh: tcp_reno_ssthresh,
    cong_avoid: tcp_reno_cong_avoid,
    cong_control: None,
    set_state: None,
    cwnd_event: None,
    in_ack_event: None,
    pkts_acked: None,
    min_tso_segs: None,
    sndbuf_expand: None,
    undo_cwnd: tcp_reno_undo_cwnd,
    get_info: None,
};

pub static RENO: TcpCongestionOps = RENO_OPS;

/// The algorithm at work: Reno until the connection is made, for the chosen one has no state before that.
#[inline]
pub fn tcp_ca(tp: &TcpSock) -> &'static TcpCongestionOps {
    if tp.ca_initialized { tp.ca_ops } else { &RENO }
}

/// Sets the window, at least one segment (`tcp_snd_cwnd_set`).
#[inline]
pub fn tcp_snd_cwnd_set(tp: &mut TcpSock, v: u32) {
    tp.snd_cwnd = v.max(1);
}

/// Starts the socket's algorithm (`tcp_init_congestion_control`).
pub fn tcp_init_congestion_control(sk: &Sock, tp: &mut TcpSock) {
    if let Some(r) = tp.rec.if_used() {
        r.prior_ssthresh = 0;
    }
    let (size, align) = tp.ca_ops.priv_layout;
    tp.ca_priv = CaPriv::with_size(size, align);
    tp.ca_initialized = true;
    if let Some(init) = tp.ca_ops.init {
        init(sk, tp);
    }
}

/// Ends it (`tcp_cleanup_congestion_control`).
pub fn tcp_cleanup_congestion_control(sk: &Sock, tp: &mut TcpSock) {
    if std::mem::take(&mut tp.ca_initialized)
        && let Some(release) = tp.ca_ops.release
    {
        release(sk, tp);
    }
}

/// Whether the algorithm works by congestion marks (`tcp_ca_needs_ecn`).
#[inline]
pub fn tcp_ca_needs_ecn(tp: &TcpSock) -> bool {
    tp.ca_ops.flags.contains(CaFlags::NEEDS_ECN)
}

/// Tells the algorithm of an event (`tcp_ca_event`).
#[inline]
pub fn tcp_ca_event(sk: &Sock, tp: &mut TcpSock, ev: TcpCaEvent) {
    if let Some(f) = tcp_ca(tp).cwnd_event {
        f(sk, tp, ev);
    }
}

/// `tcp_set_ca_state`.
#[inline]
pub fn tcp_set_ca_state(sk: &Sock, tp: &mut TcpSock, new: TcpCaState) {
    if let Some(f) = tcp_ca(tp).set_state {
        f(sk, tp, new);
    }
    tp.ca_state = new;
}

/// Whether the window, not the application, is what holds the sender up (RFC 7661 in spirit; `tcp_is_cwnd_limited`).
#[inline]
pub fn tcp_is_cwnd_limited(tp: &TcpSock) -> bool {
    tp.is_cwnd_limited || (tp.in_slow_start() && tp.snd_cwnd < 2 * tp.max_packets_out)
}

/// Grows the window by `acked` segments up to the threshold; what is left of `acked` (RFC 5681, 3.1; RFC 3465).
pub fn tcp_slow_start(tp: &mut TcpSock, acked: u32) -> u32 {
    let cwnd = tp.snd_cwnd.saturating_add(acked).min(tp.snd_ssthresh);
    let left = acked - (cwnd - tp.snd_cwnd).min(acked);
    tcp_snd_cwnd_set(tp, cwnd.min(tcp_snd_cwnd_clamp(tp)));
    left
}

/// Additive increase: one segment each `w` acknowledged ones (`tcp_cong_avoid_ai`).
pub fn tcp_cong_avoid_ai(tp: &mut TcpSock, w: u32, acked: u32) {
    let w = w.max(1);
    if tp.snd_cwnd_cnt >= w {
        tp.snd_cwnd_cnt = 0;
        tcp_snd_cwnd_set(tp, tp.snd_cwnd + 1);
    }
    tp.snd_cwnd_cnt += acked;
    if tp.snd_cwnd_cnt >= w {
        let delta = tp.snd_cwnd_cnt / w;
        tp.snd_cwnd_cnt -= delta * w;
        tcp_snd_cwnd_set(tp, tp.snd_cwnd.saturating_add(delta));
    }
    tcp_snd_cwnd_set(tp, tp.snd_cwnd.min(tcp_snd_cwnd_clamp(tp)));
}

pub fn tcp_reno_cong_avoid(_sk: &Sock, tp: &mut TcpSock, _ack: u32, mut acked: u32) {
    if !tcp_is_cwnd_limited(tp) {
        return;
    }
    if tp.in_slow_start() {
        acked = tcp_slow_start(tp, acked);
        if acked == 0 {
            return;
        }
    }
    tcp_cong_avoid_ai(tp, tp.snd_cwnd, acked);
}

/// Half of the window, at least two segments (RFC 5681, equation 4 with the window for the flight).
pub fn tcp_reno_ssthresh(_sk: &Sock, tp: &mut TcpSock) -> u32 {
    (tp.snd_cwnd >> 1).max(2)
}

/// The larger of the window and what it was before the reduction.
pub fn tcp_reno_undo_cwnd(_sk: &Sock, tp: &mut TcpSock) -> u32 {
    tp.snd_cwnd.max(tp.rec.prior_cwnd)
}

/// The threshold in force: while a reduction is under way it is the one to come (`tcp_current_ssthresh`).
pub fn tcp_current_ssthresh(tp: &TcpSock) -> u32 {
    if matches!(tp.ca_state, TcpCaState::Cwr | TcpCaState::Recovery) {
        tp.snd_ssthresh
    } else {
        tp.snd_ssthresh.max((tp.snd_cwnd >> 1) + (tp.snd_cwnd >> 2))
    }
}

/// The process goes on after it had nothing to send (`tcp_slow_start_after_idle_check`).
#[inline]
pub fn tcp_slow_start_after_idle_check(sk: &Sock, tp: &mut TcpSock) {
    if tp.packets_out != 0 || tcp_ca(tp).cong_control.is_some() || !sk.net.sysctl.tcp_slow_start_after_idle.on() {
        return;
    }
    tp.mstamp_refresh(sk);
    let idle = tp.jiffies32().wrapping_sub(tp.lsndtime) as i32;
    if tp.lsndtime != 0 && idle > tp.icsk_rto as i32 {
        tcp_cwnd_restart(sk, tp, idle as u32);
    }
}

/// After `delta` milliseconds of idleness the window decays to the initial one (RFC 2861; `tcp_cwnd_restart`).
pub fn tcp_cwnd_restart(sk: &Sock, tp: &mut TcpSock, delta: u32) {
    let mut cwnd = tp.snd_cwnd;
    let restart = tcp_init_cwnd(tp).min(cwnd);
    tcp_ca_event(sk, tp, TcpCaEvent::CwndRestart);
    tp.snd_ssthresh = tcp_current_ssthresh(tp);
    let rto = tp.icsk_rto.max(1) as i64;
    let mut left = delta as i64 - rto;
    while left > 0 && cwnd > restart {
        cwnd >>= 1;
        left -= rto;
    }
    tcp_snd_cwnd_set(tp, cwnd.max(restart));
    tp.snd_cwnd_stamp = tp.jiffies32();
    tp.snd_cwnd_used = 0;
}

/// The application, not the window, limits: shrink towards what is used (RFC 2861; `tcp_cwnd_application_limited`).
pub fn tcp_cwnd_application_limited(tp: &mut TcpSock) {
    if tp.ca_state == TcpCaState::Open && tp.snd_cwnd_used < tp.snd_cwnd {
        let used = tp.snd_cwnd_used.max(tcp_init_cwnd(tp));
        if used < tp.snd_cwnd {
            tp.snd_ssthresh = tcp_current_ssthresh(tp);
            tcp_snd_cwnd_set(tp, (tp.snd_cwnd + used) >> 1);
        }
        tp.snd_cwnd_used = 0;
    }
    tp.snd_cwnd_stamp = tp.jiffies32();
}
