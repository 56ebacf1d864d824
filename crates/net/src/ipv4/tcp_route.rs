//! What a connection's route says, where TCP asks for it.
//!
//! Interface: [`tcp_route_metric`], [`tcp_rto_min`], [`tcp_init_cwnd`].
//! Linux counterpart: `tcp_rto_min`, `tcp_init_cwnd` and other askers of `dst_metric` in `net/ipv4/tcp_*.c`.
//! Locks and context: socket lock.

use super::tcp_sock::{TCP_INIT_CWND, TcpSock};
use crate::core::dst_metrics::Rtax;

/// A metric of the connection's route; 0: not set.
#[inline]
pub fn tcp_route_metric(tp: &TcpSock, which: Rtax) -> u32 {
    tp.rare.route.as_ref().map_or(0, |r| r.get(which))
}

/// The least retransmission timeout, milliseconds: the route's if it is locked, else the socket's.
#[inline]
pub fn tcp_rto_min(tp: &TcpSock) -> u32 {
    match &tp.rare.route {
        Some(r) if r.is_locked(Rtax::RtoMin) => r.get(Rtax::RtoMin),
        _ => tp.icsk_rto_min,
    }
}

/// The window a connection begins with, segments: ten where the route says nothing (RFC 6928).
pub fn tcp_init_cwnd(tp: &TcpSock) -> u32 {
    let cwnd = match tcp_route_metric(tp, Rtax::Initcwnd) {
        0 => TCP_INIT_CWND,
        n => n,
    };
    cwnd.min(tcp_snd_cwnd_clamp(tp))
}

/// The window never grows beyond this, segments (`snd_cwnd_clamp`): a route whose `cwnd` is locked says so.
#[inline]
pub fn tcp_snd_cwnd_clamp(tp: &TcpSock) -> u32 {
    match &tp.rare.route {
        Some(r) if r.is_locked(Rtax::Cwnd) && r.get(Rtax::Cwnd) != 0 => r.get(Rtax::Cwnd),
        _ => u32::MAX,
    }
}
