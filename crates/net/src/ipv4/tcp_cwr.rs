//! Where a reduction of the window begins: for the network's sake, or because the device would not take a packet.
//!
//! Interface: [`tcp_enter_cwr`], [`tcp_init_cwnd_reduction`].
//! Linux counterpart: `net/ipv4/tcp_input.c`.
//! Locks and context: socket lock.

use super::tcp_cong::*;
use super::tcp_ecn::tcp_ecn_queue_cwr;
use super::tcp_sock::*;
use crate::core::sock::Sock;

/// RFC 6937 begins (`tcp_init_cwnd_reduction`).
pub fn tcp_init_cwnd_reduction(sk: &Sock, tp: &mut TcpSock) {
    tp.snd_cwnd_cnt = 0;
    let r = tp.rec.make();
    (r.high_seq, r.tlp_high_seq) = (tp.snd_nxt, 0);
    (r.prior_cwnd, r.prr_delivered, r.prr_out) = (tp.snd_cwnd, 0, 0);
    tp.snd_ssthresh = (tcp_ca(tp).ssthresh)(sk, tp);
    tcp_ecn_queue_cwr(tp);
}

/// Congestion without loss: ECN, or a full device (`tcp_enter_cwr`).
pub fn tcp_enter_cwr(sk: &Sock, tp: &mut TcpSock) {
    let r = tp.rec.make();
    r.prior_ssthresh = 0;
    if tp.ca_state < TcpCaState::Cwr {
        r.undo_marker = 0;
        tcp_init_cwnd_reduction(sk, tp);
        tcp_set_ca_state(sk, tp, TcpCaState::Cwr);
    }
}
