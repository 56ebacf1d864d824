//! What a connection learns of its path, kept for the next one to the same destination.
//!
//! Interface: [`tcp_init_metrics`], [`tcp_update_metrics`].
//! Linux counterpart: `tcp_init_metrics`, `tcp_update_metrics` in `net/ipv4/tcp_metrics.c`.
//! Locks and context: socket lock.
//!
//! The congestion window, which Linux keeps as well, is of no effect there unless the route locks it: then it is a bound.

use super::inet_hashtables::tcp_hashinfo;
use super::tcp_route::{tcp_rto_min, tcp_snd_cwnd_clamp};
use super::tcp_sock::*;
use crate::core::dst_metrics::Rtax;
use crate::core::sock::Sock;

/// A new connection starts from what earlier ones have found (RFC 9040, 3). Its own estimates stay as they are: a stored
/// round-trip time that is longer only sets the first timeout.
pub fn tcp_init_metrics(sk: &Sock, tp: &mut TcpSock) {
    // A threshold from a loss of the handshake says nothing about the path.
    tp.snd_ssthresh = TCP_INFINITE_SSTHRESH;
    let (saddr, daddr) = (tp.inet.saddr(), tp.inet.daddr);
    let route = tp.rare.route.clone();
    let found = tcp_hashinfo(&sk.net).metrics.with(&sk.net, saddr, daddr, false, |m| {
        m.path.ask(route.as_deref());
        m.path
    });
    let path = found.unwrap_or_default();
    if path.ssthresh != 0 && !sk.net.sysctl.tcp_no_ssthresh_metrics_save.on() {
        tp.snd_ssthresh = path.ssthresh.min(tcp_snd_cwnd_clamp(tp));
    }
    if path.reordering != 0 {
        tp.reordering = path.reordering;
    }
    if path.rtt_us > tp.srtt_us {
        let ms = path.rtt_us / 8000;
        tp.icsk_rto = (ms + (2 * ms).max(tcp_rto_min(tp))).min(tp.icsk_rto_max);
    } else if tp.srtt_us == 0 && tp.rec.total_retrans > 0 {
        // RFC 6298, 5.7: the SYN was sent again, and gave no sample.
        let us = TCP_TIMEOUT_FALLBACK * 1000;
        (tp.rttvar_us, tp.mdev_us, tp.mdev_max_us) = (us, us, us);
        tp.icsk_rto = TCP_TIMEOUT_FALLBACK;
    }
}

/// RFC 6298, 5.7, milliseconds.
const TCP_TIMEOUT_FALLBACK: u32 = 3000;

/// The connection is over: keeps what it has found (`tcp_update_metrics`).
pub fn tcp_update_metrics(sk: &Sock, tp: &TcpSock) {
    let s = &sk.net.sysctl;
    if s.tcp_no_metrics_save.on() {
        return;
    }
    let metrics = &tcp_hashinfo(&sk.net).metrics;
    let (saddr, daddr) = (tp.inet.saddr(), tp.inet.daddr);
    let may = |which| !tp.rare.route.as_ref().is_some_and(|r| r.is_locked(which));
    if tp.icsk_backoff != 0 || tp.srtt_us == 0 {
        // It has not been able to measure: what is known may be wrong by now.
        metrics.with(&sk.net, saddr, daddr, false, |m| {
            if may(Rtax::Rtt) {
                m.path.rtt_us = 0;
            }
        });
        return;
    }
    metrics.with(&sk.net, saddr, daddr, true, |m| {
        let p = &mut m.path;
        p.ask(tp.rare.route.as_deref());
        // Too long does less harm than too short.
        if may(Rtax::Rtt) {
            p.rtt_us = if tp.srtt_us >= p.rtt_us { tp.srtt_us } else { p.rtt_us - ((p.rtt_us - tp.srtt_us) >> 3) };
        }
        if may(Rtax::Ssthresh) && !s.tcp_no_ssthresh_metrics_save.on() {
            p.ssthresh = ssthresh_to_keep(tp, p.ssthresh);
        }
        if !tp.in_slow_start() && tp.ca_state == TcpCaState::Open {
            return;
        }
        if may(Rtax::Reordering) && tp.reordering > p.reordering && tp.reordering as i64 != s.tcp_reordering.get() {
            p.reordering = tp.reordering;
        }
    });
}

/// The threshold after a connection that ends with this state.
fn ssthresh_to_keep(tp: &TcpSock, kept: u32) -> u32 {
    let initial = tp.snd_ssthresh >= TCP_INFINITE_SSTHRESH;
    match () {
        // It has not lost anything yet: the path carries more than was thought.
        _ if initial && kept != 0 => kept.max(tp.snd_cwnd >> 1),
        _ if initial => 0,
        _ if !tp.in_slow_start() && tp.ca_state == TcpCaState::Open => (tp.snd_cwnd >> 1).max(tp.snd_ssthresh),
        _ if kept != 0 => kept.max(tp.snd_ssthresh),
        _ => 0,
    }
}
