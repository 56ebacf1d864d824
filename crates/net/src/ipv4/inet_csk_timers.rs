//! Arming a connection's timers.
//!
//! Interface: [`inet_csk_reset_xmit_timer`], [`inet_csk_clear_xmit_timer`], [`inet_csk_reset_keepalive_timer`],
//! [`inet_csk_reset_delack_timer`], [`tcp_clear_xmit_timers`].
//! Linux counterpart: `include/net/inet_connection_sock.h`, `net/ipv4/inet_connection_sock.c`.
//! Locks and context: socket lock. What a timer does is in `tcp_timer`, reached through `TcpOps`. A timer is made when it is
//! armed, and goes when it fires with nothing to do: a connection that rests has none.

use super::tcp_sock::{TcpSock, tcp_ops};
use crate::core::sock::Sock;
use kernel::{Timer, TimerOwner};
use std::sync::Arc;

fn new_timer(sk: &Sock, func: fn(Arc<TimerOwner>)) -> Timer {
    sk.net.kernel().timer_of(sk.weak(), func)
}

/// Arms the retransmission timer for `what` (`ICSK_TIME_*`), `when` milliseconds from now, at most `max` and
/// `icsk_rto_max`.
#[inline]
pub fn inet_csk_reset_xmit_timer(sk: &Sock, tp: &mut TcpSock, what: u8, when: u32, max: u32) {
    // A packet's way here leads past `tcp_mstamp_refresh`.
    let expires = sk.net.kernel().jiffies_coarse() + when.min(max).min(tp.icsk_rto_max).max(1) as u64;
    tp.icsk_pending = what;
    tp.icsk_timeout = expires as u32;
    tp.retransmit_timer.get_or_insert_with(|| new_timer(sk, tcp_ops(sk).write_timer)).mod_timer_coarse(expires);
}

/// Nothing is to be retransmitted or probed. The timer may stay on its wheel; when it fires it finds nothing to do.
#[inline]
pub fn inet_csk_clear_xmit_timer(tp: &mut TcpSock) {
    tp.icsk_pending = 0;
}

/// Arms the delayed-ACK timer for the jiffy `expires`.
pub fn inet_csk_reset_delack_timer(sk: &Sock, tp: &mut TcpSock, expires: u64) {
    tp.icsk_ack.timeout = expires as u32;
    tp.delack_timer.get_or_insert_with(|| new_timer(sk, tcp_ops(sk).delack_timer)).mod_timer_coarse(expires);
}

/// Arms `sk_timer` `len` milliseconds from now.
pub fn inet_csk_reset_keepalive_timer(sk: &Sock, tp: &mut TcpSock, len: u32) {
    tp.sk_timer.get_or_insert_with(|| new_timer(sk, tcp_ops(sk).keepalive_timer)).mod_timer_in(len as u64);
}

pub fn inet_csk_delete_keepalive_timer(tp: &mut TcpSock) {
    if let Some(t) = &tp.sk_timer {
        t.del_timer();
    }
}

/// Cancels all of them (`tcp_clear_xmit_timers`, `inet_csk_clear_xmit_timers`).
pub fn tcp_clear_xmit_timers(tp: &mut TcpSock) {
    tp.icsk_pending = 0;
    tp.icsk_ack.pending = 0;
    if let Some(c) = &tp.ofo.comp_sack {
        c.timer.try_to_cancel();
    }
    for t in [&tp.retransmit_timer, &tp.delack_timer, &tp.sk_timer].into_iter().flatten() {
        t.del_timer();
    }
}
