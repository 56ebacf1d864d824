//! Fast Open's segments (RFC 7413): the SYN-ACK at the client, everything until the handshake is over at the server.
//!
//! Interface: [`tcp_rcv_fastopen_synack`], [`tcp_fastopen_add_skb`], [`tcp_fastopen_check_req`],
//! [`tcp_rcv_synrecv_state_fastopen`].
//! Linux counterpart: `net/ipv4/tcp_input.c`, `tcp_fastopen_add_skb` in `tcp_fastopen.c`.
//! Locks and context: softirq context or backlog; socket lock.

use super::request_sock::RequestSock;
use super::tcp_ack::{tcp_hdr, tcp_hdr_opts};
use super::tcp_cong::tcp_set_ca_state;
use super::tcp_fastopen::*;
use super::tcp_fastopen_cookie::FastopenCookie;
use super::tcp_minisocks::{CheckReq, tcp_check_req};
use super::tcp_options::tcp_parse_options;
use super::tcp_output::{tcp_rearm_rto, tcp_send_ack};
use super::tcp_rcvq::{tcp_fin, tcp_queue_rcv};
use super::tcp_rtt::tcp_ack_update_rtt;
use super::tcp_sock::*;
use super::tcp_state::tcp_reset;
use crate::core::skbuff::Skb;
use crate::core::snmp::Mib;
use crate::core::sock::Sock;
use crate::hdr::{TcpHdr, tcp_flag};
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};

/// A writer waits for the connection with more to send (`sk_write_pending`).
pub fn tcp_write_pending(tp: &TcpSock) -> bool {
    let req = tp.rare.hs.as_ref().and_then(|h| h.fastopen_req.as_ref());
    req.is_some_and(|r| r.waits && r.copied < r.size)
}

/// What a SYN-ACK makes of Fast Open (RFC 7413, 4.1.3.1; `tcp_rcv_fastopen_synack`). `true`: the SYN's data was not taken and is
/// sent again.
pub fn tcp_rcv_fastopen_synack(sk: &Arc<Sock>, tp: &mut TcpSock, skb: Box<Skb>, mut foc: FastopenCookie) -> bool {
    let Some(h) = tp.rare.hs.as_ref().filter(|h| h.syn_fastopen || h.syn_data) else { return false };
    let (syn_data, asked, exp) = (h.syn_data, h.syn_fastopen, h.syn_fastopen_exp);
    let unacked = syn_data && !tp.tx.rtx_is_empty();
    let mut mss = tp.rx_opt.mss_clamp;
    if mss == tp.rx_opt.user_mss {
        // What the server said, not what the user made of it.
        let mut o = TcpOptionsReceived::default();
        tcp_parse_options(tcp_hdr_opts(&skb), &mut o, false);
        mss = o.mss_clamp;
    }
    let (mut syn_lost, mut try_exp) = (false, 0);
    if !asked {
        // Nobody asked for a cookie.
        foc = FastopenCookie::NONE;
    } else if tp.rec.total_retrans > 0 {
        // Only a repeated SYN, without data, has arrived: the first one, or its answer, was lost.
        syn_lost = foc.len < 0 && unacked;
    } else if foc.len < 0 && !syn_data {
        // No answer to the request: the experimental option next time, and if that was it, the proper one for good.
        try_exp = if exp { 2 } else { 1 };
    }
    tcp_fastopen_cache_set(sk, tp, mss, &foc, syn_lost, try_exp);
    if unacked {
        let why = if tp.rec.total_retrans > 0 { TFO_SYN_RETRANSMITTED } else { TFO_DATA_NOT_ACKED };
        handshake(tp).fastopen_client_fail = why;
        sk.net.mib.inc(Mib::TcpExtTCPFastOpenActiveFail);
        return true;
    }
    if syn_data {
        handshake(tp).syn_data_acked = true;
        sk.net.mib.inc(Mib::TcpExtTCPFastOpenActive);
        // SYN and data were one segment.
        if tp.delivered > 1 {
            tp.delivered -= 1;
        }
    }
    tcp_fastopen_add_skb(sk, tp, skb);
    false
}

/// Takes the data of a SYN or SYN-ACK (`tcp_fastopen_add_skb`). `data` is at the TCP header.
pub fn tcp_fastopen_add_skb(sk: &Arc<Sock>, tp: &mut TcpSock, mut skb: Box<Skb>) {
    let cb = *tcp_skb_cb(&skb);
    tp.rcv_nxt = cb.seq.wrapping_add(1);
    if cb.end_seq == tp.rcv_nxt {
        return;
    }
    let Some(&th) = tcp_hdr(&skb) else { return };
    // Counted once; what follows is data.
    (tp.segs_in, tp.data_segs_in) = (1, 1);
    skb.pull_any(th.header_len());
    let tcb = tcp_skb_cb_mut(&mut skb);
    tcb.seq = cb.seq.wrapping_add(1);
    tcb.tcp_flags &= !tcp_flag::SYN;
    let fin = cb.tcp_flags & tcp_flag::FIN != 0;
    handshake(tp).syn_data_acked = true;
    tcp_queue_rcv(sk, tp, skb);
    if fin {
        tcp_fin(sk, tp);
    }
}

/// The handshake of a server's child that was made out of the SYN is over (`tcp_rcv_synrecv_state_fastopen`).
pub fn tcp_rcv_synrecv_state_fastopen(sk: &Arc<Sock>, tp: &mut TcpSock) {
    if tp.ca_state == TcpCaState::Loss && tp.packets_out == 0 {
        tcp_set_ca_state(sk, tp, TcpCaState::Open);
    }
    tp.retrans_stamp = 0;
    tp.icsk_retransmits = 0;
    reqsk_fastopen_remove(tp, false);
    // Data may have been sent already.
    tcp_rearm_rto(sk, tp);
}

/// A segment for such a child: `Some`: it was dealt with (`tcp_rcv_state_process` with `fastopen_rsk`).
pub fn tcp_fastopen_check_req(
    sk: &Arc<Sock>,
    tp: &mut TcpSock,
    skb: Box<Skb>,
    th: &TcpHdr,
) -> std::ops::ControlFlow<Result<(), Box<Skb>>, Box<Skb>> {
    use std::ops::ControlFlow::*;
    let Some(req) = fastopen_rsk(tp).cloned() else { return Continue(skb) };
    match tcp_check_req(&sk.net, &req, &skb, th, true) {
        CheckReq::Create => return Continue(skb),
        CheckReq::Drop | CheckReq::Reset => {}
        CheckReq::SendSynAck => {
            if (tcp_ops(sk).rtx_syn_ack)(sk, &req) {
                req.snt_synack.store(0, Relaxed);
                req.num_retrans.fetch_add(1, AcqRel);
            }
        }
        CheckReq::SendAck => tcp_send_ack(sk, tp),
        // A SYN in the window.
        CheckReq::Embryonic(true) => return Break(Err(skb)),
        CheckReq::Embryonic(false) => {
            reqsk_fastopen_remove(tp, true);
            tcp_reset(sk, tp);
        }
    }
    Break(Ok(()))
}

/// The first round-trip time: from the SYN-ACK, if it was sent but once (Karn), to its acknowledgement (`tcp_synack_rtt_meas`).
pub fn tcp_synack_rtt_meas(sk: &Sock, tp: &mut TcpSock, req: &RequestSock) {
    let sent = req.snt_synack.load(Relaxed);
    if sent != 0 {
        let us = (sk.net.kernel().ktime_get().saturating_sub(sent) / 1000).max(1) as i64;
        tcp_ack_update_rtt(&sk.net, tp, true, false, us, -1, &mut -1);
    }
}
