//! DCTCP (RFC 8257): the window shrinks by as much as the path is congested, not by half.
//!
//! Interface: [`DCTCP`].
//! Linux counterpart: `net/ipv4/tcp_dctcp.c`.
//! Locks and context: socket lock.
//!
//! Switches mark what they would have to queue. The receiver echoes each mark, the sender keeps the fraction that was marked
//! in a window (`alpha`), and on a mark takes half of that fraction off its window. Without ECN it works as Reno does.

use super::tcp_cong::{RENO_OPS, tcp_reno_ssthresh, tcp_reno_undo_cwnd};
use super::tcp_ecn::tcp_ecn_mode_any;
use super::tcp_sock::*;
use super::tcp_transmit::tcp_send_ack;
use crate::core::sock::Sock;
use uapi::tcp::{TcpCcInfo, TcpDctcpInfo, TcpState};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub static DCTCP: TcpCongestionOps = TcpCongestionOps {
    name: "dctcp",
    flags: CaFlags::NEEDS_ECN,
    priv_layout: (size_of::<Dctcp>(), align_of::<Dctcp>()),
    init: Some(dctcp_init),
    ssthresh: dctcp_ssthresh,
    set_state: Some(dctcp_state),
    cwnd_event: Some(dctcp_cwnd_event),
    in_ack_event: Some(dctcp_update_alpha),
    undo_cwnd: dctcp_cwnd_undo,
    get_info: Some(dctcp_get_info),
    ..RENO_OPS
};

/// 1 (section 4.2: a cautious start).
const DCTCP_MAX_ALPHA: u32 = 1024;
/// `g` is 1/16.
const DCTCP_SHIFT_G: u32 = 4;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Dctcp {
    /// The peer does ECN.
    enabled: u16,
    /// The last segment that came was marked.
    ce_state: u16,
    /// What was delivered, and delivered with a mark, when this window began.
    old_delivered: u32,
    old_delivered_ce: u32,
    /// `rcv_nxt` before the segment at hand.
    prior_rcv_nxt: u32,
    /// 1024ths.
    alpha: u32,
    /// The window ends when this is acknowledged.
    next_seq: u32,
    loss_cwnd: u32,
}

fn ca(tp: &mut TcpSock) -> &mut Dctcp {
    tp.ca_priv.get_mut()
}

fn dctcp_reset(tp: &mut TcpSock) {
    let (next, delivered, ce) = (tp.snd_nxt, tp.delivered, tp.delivered_ce);
    let c = ca(tp);
    (c.next_seq, c.old_delivered, c.old_delivered_ce) = (next, delivered, ce);
}

fn dctcp_init(sk: &Sock, tp: &mut TcpSock) {
    let unconnected = matches!(sk.state(), TcpState::Close | TcpState::Listen);
    if !tcp_ecn_mode_any(tp) && !unconnected {
        return;
    }
    let rcv_nxt = tp.rcv_nxt;
    let c = ca(tp);
    (c.enabled, c.prior_rcv_nxt, c.alpha) = (1, rcv_nxt, DCTCP_MAX_ALPHA);
    dctcp_reset(tp);
}

/// `cwnd * (1 - alpha / 2)` (section 3.3, step 9).
fn dctcp_ssthresh(sk: &Sock, tp: &mut TcpSock) -> u32 {
    let cwnd = tp.snd_cwnd;
    let c = ca(tp);
    if c.enabled == 0 {
        return tcp_reno_ssthresh(sk, tp);
    }
    c.loss_cwnd = cwnd;
    (cwnd - ((cwnd as u64 * c.alpha as u64) >> 11) as u32).max(2)
}

/// Once a window: `alpha = (1 - g) * alpha + g * F` (section 3.3, steps 3 to 8).
fn dctcp_update_alpha(_sk: &Sock, tp: &mut TcpSock, _flags: CaAck) {
    let (una, all, ce) = (tp.snd_una, tp.delivered, tp.delivered_ce);
    let c = ca(tp);
    if c.enabled == 0 || before(una, c.next_seq) {
        return;
    }
    let delivered = all.wrapping_sub(c.old_delivered).max(1);
    let marked = ce.wrapping_sub(c.old_delivered_ce);
    // What is too small to be divided goes to 0 all the same.
    let decay = c.alpha >> DCTCP_SHIFT_G;
    c.alpha -= if decay == 0 { c.alpha } else { decay };
    if marked != 0 {
        let f = ((marked as u64) << (10 - DCTCP_SHIFT_G)) / delivered as u64;
        c.alpha = (c.alpha as u64 + f).min(DCTCP_MAX_ALPHA as u64) as u32;
    }
    dctcp_reset(tp);
}

/// Losses are what they are to others (section 3.5).
fn dctcp_react_to_loss(tp: &mut TcpSock) {
    let cwnd = tp.snd_cwnd;
    let c = ca(tp);
    if c.enabled == 0 {
        return;
    }
    c.loss_cwnd = cwnd;
    tp.snd_ssthresh = (cwnd >> 1).max(2);
}

fn dctcp_state(_sk: &Sock, tp: &mut TcpSock, new: TcpCaState) {
    if new == TcpCaState::Recovery && new != tp.ca_state {
        dctcp_react_to_loss(tp);
    }
}

fn dctcp_cwnd_event(sk: &Sock, tp: &mut TcpSock, ev: TcpCaEvent) {
    match ev {
        TcpCaEvent::EcnIsCe | TcpCaEvent::EcnNoCe if ca(tp).enabled != 0 => {
            dctcp_ece_ack_update(sk, tp, ev == TcpCaEvent::EcnIsCe)
        }
        TcpCaEvent::Loss => dctcp_react_to_loss(tp),
        _ => {}
    }
}

fn dctcp_ece_ack_cwr(tp: &mut TcpSock, ce: bool) {
    if ce {
        tp.ecn_flags |= TCP_ECN_DEMAND_CWR;
    } else {
        tp.ecn_flags &= !TCP_ECN_DEMAND_CWR;
    }
}

/// An ACK must not speak for marked and unmarked segments at once: when the mark changes, what came before is acknowledged
/// first (section 3.2, figure 1).
fn dctcp_ece_ack_update(sk: &Sock, tp: &mut TcpSock, ce: bool) {
    let (was, prior) = (ca(tp).ce_state != 0, ca(tp).prior_rcv_nxt);
    if was != ce {
        if tp.icsk_ack.pending & ICSK_ACK_TIMER != 0 {
            dctcp_ece_ack_cwr(tp, was);
            let rcv_nxt = std::mem::replace(&mut tp.rcv_nxt, prior);
            tcp_send_ack(&sk.hold(), tp);
            tp.rcv_nxt = rcv_nxt;
        }
        tp.icsk_ack.pending |= ICSK_ACK_NOW;
    }
    let rcv_nxt = tp.rcv_nxt;
    let c = ca(tp);
    (c.prior_rcv_nxt, c.ce_state) = (rcv_nxt, ce as u16);
    dctcp_ece_ack_cwr(tp, ce);
}

fn dctcp_cwnd_undo(sk: &Sock, tp: &mut TcpSock) -> u32 {
    let cwnd = tp.snd_cwnd;
    let c = ca(tp);
    if c.enabled == 0 { tcp_reno_undo_cwnd(sk, tp) } else { cwnd.max(c.loss_cwnd) }
}

fn dctcp_get_info(_sk: &Sock, tp: &TcpSock) -> TcpCcInfo {
    let c: &Dctcp = tp.ca_priv.get();
    if c.enabled == 0 {
        return TcpCcInfo::Dctcp(TcpDctcpInfo::default());
    }
    let all = tp.delivered.wrapping_sub(c.old_delivered);
    let marked = tp.delivered_ce.wrapping_sub(c.old_delivered_ce);
    TcpCcInfo::Dctcp(TcpDctcpInfo {
        enabled: 1,
        ce_state: c.ce_state,
        alpha: c.alpha,
        ab_ecn: marked.wrapping_mul(tp.mss_cache),
        ab_tot: all.wrapping_mul(tp.mss_cache),
    })
}
