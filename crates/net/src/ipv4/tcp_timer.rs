//! TCP timers.
//!
//! Interface: [`tcp_write_timer`], [`tcp_delack_timer`], [`tcp_keepalive_timer`]: what the timers call.
//! Linux counterpart: `net/ipv4/tcp_timer.c`.
//! Locks and context: softirq context; socket lock.

use crate::core::sock::Sock;
use std::sync::Arc;

/// Retransmission, zero-window probe, loss probe (`tcp_write_timer`).
pub fn tcp_write_timer(sk: &Arc<Sock>) {
    let _ = sk;
    todo!()
}

/// `tcp_delack_timer`.
pub fn tcp_delack_timer(sk: &Arc<Sock>) {
    let _ = sk;
    todo!()
}

/// Keepalive, and the end of FIN_WAIT2 (`tcp_keepalive_timer`).
pub fn tcp_keepalive_timer(sk: &Arc<Sock>) {
    let _ = sk;
    todo!()
}
