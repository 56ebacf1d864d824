//! Explicit congestion notification: agreeing on it, marking what is sent, telling and hearing of marks.
//!
//! Interface: [`tcp_ecn_send_syn`], [`tcp_ecn_create_request`], [`tcp_ecn_send`], [`tcp_data_ecn_check`],
//! [`tcp_accecn_process`], [`tcp_accecn_fit`] and their like.
//! Linux counterpart: `include/net/tcp_ecn.h`.
//! Locks and context: under the socket lock, but for what concerns requests.
//!
//! Two schemes: RFC 3168, where the receiver echoes one bit until the sender says that it has heard, and Accurate ECN
//! (RFC 9768), where both count. `net.ipv4.tcp_ecn` says what is accepted and asked for:
//! 0 nothing; 1 RFC 3168; 2 RFC 3168 if asked; 3 AccECN; 4 AccECN if asked, RFC 3168 out; 5 AccECN if asked.

use super::request_sock::RequestSock;
use super::tcp_accecn::*;
use super::tcp_cong::tcp_ca_needs_ecn;
use super::tcp_sock::*;
use crate::core::dst_metrics::RTAX_FEATURE_ECN;
use crate::core::net_namespace::Net;
use crate::core::skbuff::{GsoType, Skb};
use crate::core::sock::Sock;
use crate::hdr::{TcpHdr, tcp_flag};
use std::sync::atomic::Ordering::Relaxed;

const IN_ECN_OUT_ECN: i64 = 1;
const IN_ACCECN_OUT_ACCECN: i64 = 3;
const IN_ACCECN_OUT_ECN: i64 = 4;
/// `net.ipv4.tcp_ecn_option`: in every segment, not only when a counter asks for it.
const ACCECN_OPTION_FULL: i64 = 2;

const ACE_FLAGS: u8 = tcp_flag::ECE | tcp_flag::CWR;

/// RFC 3168 is in force (`tcp_ecn_mode_rfc3168`).
#[inline]
pub fn tcp_ecn_mode_rfc3168(tp: &TcpSock) -> bool {
    tp.ecn_flags & TCP_ECN_MODE_ANY == TCP_ECN_MODE_RFC3168
}

/// AccECN is in force (`tcp_ecn_mode_accecn`).
#[inline]
pub fn tcp_ecn_mode_accecn(tp: &TcpSock) -> bool {
    tp.ecn_flags & TCP_ECN_MODE_ANY == TCP_ECN_MODE_ACCECN
}

/// One of them is, or is asked for (`tcp_ecn_mode_any`).
#[inline]
pub fn tcp_ecn_mode_any(tp: &TcpSock) -> bool {
    tp.ecn_flags & TCP_ECN_MODE_ANY != 0
}

/// `tcp_ecn_mode_set`. What only AccECN needs goes with it.
fn tcp_ecn_mode_set(tp: &mut TcpSock, mode: u8) {
    tp.ecn_flags = tp.ecn_flags & !TCP_ECN_MODE_ANY | mode;
    if mode & TCP_ECN_MODE_ACCECN == 0 {
        forget_accecn(tp);
    } else {
        tp.rare.make().accecn.get_or_insert_default();
    }
}

fn forget_accecn(tp: &mut TcpSock) {
    if let Some(r) = tp.rare.if_used() {
        r.accecn = None;
    }
}

/// The code point of packets whose congestion control wants all of them marked, DCTCP's (RFC 8257, 3.5).
fn ca_ect(tp: &TcpSock) -> u8 {
    if tcp_ca_needs_ecn(tp) && tcp_ecn_mode_any(tp) { ECT_0 } else { NOT_ECT }
}

// --- Handshake, the side that connects ---

/// The flags a SYN asks with (RFC 3168, 6.1.1; RFC 9768, 3.1.1; `tcp_ecn_send_syn`).
pub fn tcp_ecn_send_syn(sk: &Sock, tp: &mut TcpSock) -> u8 {
    let wants = sk.net.sysctl.tcp_ecn.get();
    let accecn = wants == IN_ACCECN_OUT_ACCECN;
    let ecn = matches!(wants, IN_ECN_OUT_ECN | IN_ACCECN_OUT_ECN) || accecn || tcp_ca_needs_ecn(tp);
    let ecn = ecn || tp.rare.route.as_ref().is_some_and(|r| r.feature(RTAX_FEATURE_ECN));
    tp.ecn_flags = 0;
    forget_accecn(tp);
    if !ecn {
        return 0;
    }
    tcp_ecn_mode_set(tp, if accecn { TCP_ECN_MODE_PENDING } else { TCP_ECN_MODE_RFC3168 });
    let ect = ca_ect(tp);
    if let Some(a) = tp.accecn_mut() {
        a.syn_ect_snt = ect;
    }
    ACE_FLAGS
}

/// The flags of a SYN that is sent again: perhaps they are why it was dropped (RFC 3168, 6.1.1.1; RFC 9768, 3.1.4.1;
/// `tcp_ecn_clear_syn`).
pub fn tcp_ecn_clear_syn(sk: &Sock, flags: &mut u8) {
    if *flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN && sk.net.sysctl.tcp_ecn_fallback.on() {
        *flags &= !ACE_FLAGS;
    }
}

/// A SYN-ACK's answer (RFC 3168, 6.1.1; RFC 9768, table 2; `tcp_ecn_rcv_synack`). `opt`: its AccECN option.
pub fn tcp_ecn_rcv_synack(sk: &Sock, tp: &mut TcpSock, skb: &Skb, th: &TcpHdr, opt: Option<&[u8]>) {
    let ace = tcp_accecn_ace(th);
    if tp.ecn_flags & TCP_ECN_MODE_ANY != TCP_ECN_MODE_PENDING {
        // RFC 3168 answers with ECE alone.
        if th.flags & ACE_FLAGS != tcp_flag::ECE {
            tcp_ecn_mode_set(tp, 0);
        }
        return;
    }
    match ace {
        0 | 7 => return tcp_ecn_mode_set(tp, 0),
        1 => return tcp_ecn_mode_set(tp, TCP_ECN_MODE_RFC3168),
        _ => tcp_ecn_mode_set(tp, TCP_ECN_MODE_ACCECN),
    }
    let ect = tcp_skb_cb(skb).ip_dsfield & INET_ECN_MASK;
    let check = sk.net.sysctl.tcp_ecn_fallback.on();
    let Some(a) = tp.accecn_mut() else { return };
    a.syn_ect_rcv = ect;
    a.prev_ecnfield = ect;
    a.reflect = true;
    a.note_option(opt);
    let sound = a.validate_syn_feedback(ace, check);
    if ect == CE && sound {
        a.received_ce = 1;
        a.received_ce_pending = 1;
    }
}

/// A SYN that crossed ours (`tcp_ecn_rcv_syn`).
pub fn tcp_ecn_rcv_syn(tp: &mut TcpSock, skb: &Skb, th: &TcpHdr) {
    if tp.ecn_flags & TCP_ECN_MODE_ANY == TCP_ECN_MODE_PENDING {
        if tcp_accecn_syn_requested(th) {
            tcp_ecn_mode_set(tp, TCP_ECN_MODE_ACCECN);
            let ect = tcp_skb_cb(skb).ip_dsfield & INET_ECN_MASK;
            if let Some(a) = tp.accecn_mut() {
                (a.syn_ect_rcv, a.prev_ecnfield) = (ect, ect);
            }
            return;
        }
        tcp_ecn_mode_set(tp, TCP_ECN_MODE_RFC3168);
    }
    if th.flags & ACE_FLAGS != ACE_FLAGS {
        tcp_ecn_mode_set(tp, 0);
    }
}

/// The flags of the SYN-ACK that answers such a SYN (`tcp_ecn_send_synack`).
pub fn tcp_ecn_send_synack(tp: &TcpSock) -> u8 {
    match &tp.rare.accecn {
        Some(a) => ace_flags(ace_of_ect(a.syn_ect_rcv)),
        None if tcp_ecn_mode_rfc3168(tp) => tcp_flag::ECE,
        None => 0,
    }
}

// --- Handshake, the side that listens ---

/// What a SYN asks for and gets (RFC 3168, 6.1.1; RFC 9768, 3.1.2).
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct EcnRequest {
    pub ecn_ok: bool,
    pub accecn_ok: bool,
    pub syn_ect_rcv: u8,
}

/// `tcp_ecn_create_request`. `needs_ecn`: the listener's congestion control cannot do without.
pub fn tcp_ecn_create_request(net: &Net, needs_ecn: bool, skb: &Skb, th: &TcpHdr) -> EcnRequest {
    let wants = net.sysctl.tcp_ecn.get();
    let ect = tcp_skb_cb(skb).ip_dsfield & INET_ECN_MASK;
    if wants >= IN_ACCECN_OUT_ACCECN && tcp_accecn_syn_requested(th) {
        return EcnRequest { ecn_ok: true, accecn_ok: true, syn_ect_rcv: ect };
    }
    // RFC 3168, 6.1.1: a SYN has no ECT. One that has is broken, unless it asks for AccECN.
    let ecn_ok = th.flags & ACE_FLAGS == ACE_FLAGS && ((ecn_syn_sound(ect, th) && wants != 0) || needs_ecn);
    EcnRequest { ecn_ok, ..EcnRequest::default() }
}

fn ecn_syn_sound(ect: u8, th: &TcpHdr) -> bool {
    ect == NOT_ECT || th.doff & 1 != 0
}

/// What the SYN gets on a route that has ECN (`RTAX_FEATURE_ECN`), whatever the namespace says.
pub fn tcp_ecn_route_request(skb: &Skb, th: &TcpHdr) -> bool {
    th.flags & ACE_FLAGS == ACE_FLAGS && ecn_syn_sound(tcp_skb_cb(skb).ip_dsfield & INET_ECN_MASK, th)
}

/// The flags of a request's SYN-ACK, as the number of RFC 9768 (`tcp_ecn_make_synack`).
pub fn tcp_ecn_make_synack(req: &RequestSock) -> u8 {
    if req.accecn_ok { ace_of_ect(req.syn_ect_rcv) } else { req.ecn_ok as u8 }
}

/// Whether a request's SYN-ACK has an option: not when it is sent again, which may be the option's fault (RFC 9768, 3.2.3.2.2).
pub fn tcp_ecn_synack_option(net: &Net, req: &RequestSock) -> bool {
    req.accecn_ok && net.sysctl.tcp_ecn_option.on() && req.num_timeout.load(Relaxed) == 0
}

/// A connection that a cookie stood for spoke AccECN if its third packet has a number no other has (RFC 9768, 5.1).
pub fn cookie_accecn_ok(th: &TcpHdr) -> bool {
    tcp_accecn_ace(th) > 1
}

/// The option of a packet for a request (`treq->saw_accecn_opt`).
pub fn tcp_ecn_request_option(req: &RequestSock, opt: Option<&[u8]>) {
    if let Some(opt) = opt
        && req.saw_accecn_opt.load(Relaxed) < OptSeen::Counters as u8
    {
        req.saw_accecn_opt.store(OptSeen::of_option(opt) as u8, Relaxed);
    }
}

/// A child takes over what its request agreed on (`tcp_ecn_openreq_child`). `skb` is the third packet, `data` at its header.
pub fn tcp_ecn_openreq_child(net: &Net, tp: &mut TcpSock, req: &RequestSock, skb: &Skb, th: &TcpHdr) {
    tp.ecn_flags = 0;
    if !req.accecn_ok {
        return tcp_ecn_mode_set(tp, if req.ecn_ok { TCP_ECN_MODE_RFC3168 } else { 0 });
    }
    tcp_ecn_mode_set(tp, TCP_ECN_MODE_ACCECN);
    let cb = tcp_skb_cb(skb);
    let Some(a) = tp.rare.if_used().and_then(|r| r.accecn.as_mut()) else { return };
    a.syn_ect_snt = req.tos & INET_ECN_MASK;
    a.syn_ect_rcv = req.syn_ect_rcv;
    a.prev_ecnfield = req.syn_ect_rcv;
    a.saw_opt = OptSeen::from_u8(req.saw_accecn_opt.load(Relaxed));
    if a.saw_opt == OptSeen::Failed {
        a.fail_mode |= OPT_FAIL_RECV;
    }
    a.opt_demand = 1;
    // RFC 9768, 3.2.2.4: zero in the first packet means that the flags were wiped.
    let ace = tcp_accecn_ace(th);
    if ace == 0 {
        a.fail_mode |= ACE_FAIL_RECV;
    } else if cb.seq == cb.end_seq
        && a.validate_syn_feedback(ace, net.sysctl.tcp_ecn_fallback.on())
        && ect_of_ace(ace) == Some(CE)
    {
        tp.delivered_ce = 1;
    }
    let len = skb.len().saturating_sub(th.header_len()) as u32;
    a.received(cb.ip_dsfield, 1, len);
    if cb.ip_dsfield & INET_ECN_MASK != NOT_ECT {
        tp.ecn_flags |= TCP_ECN_SEEN;
    }
}

impl AccEcn {
    /// Whether what the peer says of our SYN or SYN-ACK can be (RFC 9768, 3.2.2.3). If not, nothing we send is marked.
    fn validate_syn_feedback(&mut self, ace: u8, check: bool) -> bool {
        let Some(ect) = ect_of_ace(ace).filter(|_| check) else { return true };
        let sound = ect_transition_valid(self.syn_ect_snt, ect);
        if !sound {
            self.fail_mode |= ACE_FAIL_RECV;
        }
        sound
    }

    /// The peer's first option, on a SYN-ACK: it is to have one in return.
    fn note_option(&mut self, opt: Option<&[u8]>) {
        if let Some(opt) = opt
            && self.saw_opt < OptSeen::Counters
        {
            self.saw_opt = OptSeen::of_option(opt);
            if self.saw_opt == OptSeen::Failed {
                self.fail_mode |= OPT_FAIL_RECV;
            }
            self.opt_demand = 2;
        }
    }
}

// --- Sending ---

/// How a segment is marked: flags to be added, AE, and the IP header's ECN field.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct EcnMark {
    pub flags: u8,
    pub ae: bool,
    pub tos: u8,
}

/// Marks of a SYN or of a SYN-ACK that a socket sends; its flags without AE are `flags`.
pub fn tcp_ecn_mark_syn(tp: &TcpSock, flags: u8) -> EcnMark {
    let ae = match &tp.rare.accecn {
        Some(a) if flags & tcp_flag::ACK != 0 => ace_ae(ace_of_ect(a.syn_ect_rcv)),
        Some(_) => flags & ACE_FLAGS == ACE_FLAGS,
        None => false,
    };
    EcnMark { flags: 0, ae, tos: ca_ect(tp) }
}

/// Marks of a segment on a synchronised connection (`tcp_ecn_send`).
#[inline]
pub fn tcp_ecn_send(tp: &mut TcpSock, skb: &mut Skb, seq: u32) -> EcnMark {
    if tp.ecn_flags & TCP_ECN_MODE_ANY == 0 { EcnMark::default() } else { ecn_send(tp, skb, seq) }
}

fn ecn_send(tp: &mut TcpSock, skb: &mut Skb, seq: u32) -> EcnMark {
    if let Some(a) = tp.accecn_mut() {
        return accecn_send(a, skb);
    }
    let mut m = EcnMark { tos: ca_ect(tp), ..EcnMark::default() };
    // RFC 3168, 6.1.4 and 6.1.5: neither pure ACKs nor retransmissions nor window probes are marked.
    if !skb.is_empty() && !before(seq, tp.snd_nxt) {
        m.tos = ECT_0;
        // RFC 3168, 6.1.2: on the first new segment after the reduction.
        if tp.ecn_flags & TCP_ECN_QUEUE_CWR != 0 {
            tp.ecn_flags &= !TCP_ECN_QUEUE_CWR;
            m.flags |= tcp_flag::CWR;
            if skb.is_gso() {
                skb.gso_type |= GsoType::TCP_ECN;
            }
        }
    }
    // RFC 3168, 6.1.3.
    if tp.ecn_flags & TCP_ECN_DEMAND_CWR != 0 {
        m.flags |= tcp_flag::ECE;
    }
    m
}

/// RFC 9768, 3.2.2: all segments carry the counter, and all may be marked.
fn accecn_send(a: &mut AccEcn, skb: &mut Skb) -> EcnMark {
    // Only a pure ACK can be told from one that counts (RFC 9768, 3.2.2.1).
    let ace = match std::mem::take(&mut a.reflect) && skb.is_empty() {
        true => ace_of_ect(a.syn_ect_rcv),
        false => {
            a.received_ce_pending = 0;
            a.wire_ace()
        }
    };
    if skb.is_gso() && ace_flags(ace) & tcp_flag::CWR != 0 {
        skb.gso_type |= GsoType::TCP_ACCECN;
    }
    let tos = if a.fail_mode & ACE_FAIL_RECV != 0 { NOT_ECT } else { ECT_0 };
    EcnMark { flags: ace_flags(ace), ae: ace_ae(ace), tos }
}

/// The next segment repeats how the peer's SYN came (RFC 9768, 3.2.2.1; `tcp_send_ack_reflect_ect`).
pub fn tcp_accecn_reflect(tp: &mut TcpSock, syn: &Skb) {
    if tcp_ecn_mode_accecn(tp)
        && let Some(a) = tp.accecn_mut()
    {
        a.syn_ect_rcv = tcp_skb_cb(syn).ip_dsfield & INET_ECN_MASK;
        a.reflect = true;
    }
}

/// The option for a segment of a synchronised connection whose other options leave `room` bytes (RFC 9768, 3.2.3.3).
/// `saving`: padding that it may use.
pub fn tcp_accecn_fit(sk: &Sock, tp: &TcpSock, room: usize, saving: usize) -> Option<AccEcnOut> {
    let a = tp.rare.accecn.as_ref().filter(|_| tcp_ecn_mode_accecn(tp))?;
    let wants = sk.net.sysctl.tcp_ecn_option.get();
    if wants == 0 || a.saw_opt == OptSeen::NotSeen || a.fail_mode & OPT_FAIL_SEND != 0 {
        return None;
    }
    // A few times a round trip even if nothing changes.
    let beacon = || {
        let times = sk.net.sysctl.tcp_ecn_option_beacon.get() as u64;
        times != 0 && tp.tcp_mstamp.saturating_sub(a.opt_tstamp) * times >= (tp.srtt_us >> 3) as u64
    };
    (wants >= ACCECN_OPTION_FULL || a.opt_demand > 0 || beacon())
        .then(|| AccEcnOut::fit(&a.received_bytes, a.minlen, room, saving))
        .flatten()
}

/// Such an option is on its way.
pub fn tcp_accecn_option_sent(tp: &mut TcpSock) {
    let now = tp.tcp_mstamp;
    if let Some(a) = tp.accecn_mut() {
        a.minlen = 0;
        a.opt_tstamp = now;
        a.opt_demand = a.opt_demand.saturating_sub(1);
    }
}

// --- Receiving ---

/// RFC 3168, 6.1.2: a reduction is to be announced (`tcp_ecn_queue_cwr`).
pub fn tcp_ecn_queue_cwr(tp: &mut TcpSock) {
    if tcp_ecn_mode_rfc3168(tp) {
        tp.ecn_flags |= TCP_ECN_QUEUE_CWR;
    }
}

/// The reduction was taken back (`tcp_ecn_withdraw_cwr`).
pub fn tcp_ecn_withdraw_cwr(tp: &mut TcpSock) {
    tp.ecn_flags &= !TCP_ECN_QUEUE_CWR;
}

/// The peer has reacted to our echo (RFC 3168, 6.1.3; `tcp_ecn_accept_cwr`).
pub fn tcp_ecn_accept_cwr(tp: &mut TcpSock, skb: &Skb) {
    let cb = tcp_skb_cb(skb);
    if cb.tcp_flags & tcp_flag::CWR != 0 && tcp_ecn_mode_rfc3168(tp) {
        tp.ecn_flags &= !TCP_ECN_DEMAND_CWR;
        // Its window may be but one segment now: it waits for this ACK.
        if cb.seq != cb.end_seq {
            tp.icsk_ack.pending |= ICSK_ACK_NOW;
        }
    }
}

/// Echo of a mark on an ACK (RFC 3168, 6.1.2; `tcp_ecn_rcv_ecn_echo`).
#[inline]
pub fn tcp_ecn_rcv_ecn_echo(tp: &TcpSock, th: &TcpHdr) -> bool {
    th.has(tcp_flag::ECE) && !th.has(tcp_flag::SYN) && tcp_ecn_mode_rfc3168(tp)
}

/// Whether congestion control is to hear of a data segment's mark, and whether the next ACKs are to be quick.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct DataEcn {
    pub event: Option<TcpCaEvent>,
    pub quick: bool,
}

/// The mark of a data segment that is taken (RFC 3168, 6.1.3; `tcp_data_ecn_check`).
#[inline]
pub fn tcp_data_ecn_check(tp: &mut TcpSock, skb: &Skb) -> DataEcn {
    if tcp_ecn_mode_any(tp) { data_ecn_check(tp, skb) } else { DataEcn::default() }
}

fn data_ecn_check(tp: &mut TcpSock, skb: &Skb) -> DataEcn {
    let rfc3168 = tcp_ecn_mode_rfc3168(tp);
    let event = |tp: &TcpSock, ev| tcp_ca_needs_ecn(tp).then_some(ev);
    match tcp_skb_cb(skb).ip_dsfield & INET_ECN_MASK {
        // An unmarked segment of a marking sender is a retransmission.
        NOT_ECT => DataEcn { event: None, quick: tp.ecn_flags & TCP_ECN_SEEN != 0 },
        ect => {
            // Better not to delay: the sender's window may be very small.
            let quick = ect == CE && rfc3168 && tp.ecn_flags & TCP_ECN_DEMAND_CWR == 0;
            if quick {
                tp.ecn_flags |= TCP_ECN_DEMAND_CWR;
            }
            if rfc3168 {
                tp.ecn_flags |= TCP_ECN_SEEN;
            }
            let ev = if ect == CE { TcpCaEvent::EcnIsCe } else { TcpCaEvent::EcnNoCe };
            DataEcn { event: event(tp, ev), quick }
        }
    }
}

/// A segment has passed all checks: it is counted (RFC 9768, 3.2.1; `tcp_ecn_received_counters_payload`). `data` is at the
/// header.
#[inline]
pub fn tcp_ecn_received_counters(tp: &mut TcpSock, skb: &Skb, th: &TcpHdr) {
    if tp.rare.accecn.is_some() {
        accecn_received(tp, skb, th);
    }
}

fn accecn_received(tp: &mut TcpSock, skb: &Skb, th: &TcpHdr) {
    let ect = tcp_skb_cb(skb).ip_dsfield & INET_ECN_MASK;
    let len = skb.len().saturating_sub(th.header_len()) as u32;
    let Some(a) = tp.accecn_mut() else { return };
    let edge = a.received(ect, (skb.gso_segs as u32).max(1), len);
    // RFC 9768, 3.2.2.5.1: an ACK at once for a change, and before three bits could wrap.
    if edge || a.received_ce_pending >= ACE_MAX_DELTA {
        tp.icsk_ack.pending |= ICSK_ACK_NOW;
    }
    if ect != NOT_ECT {
        tp.ecn_flags |= TCP_ECN_SEEN;
    }
}

/// Whether the header's ECN flags are those that say nothing new (the flags' part of `pred_flags`).
#[inline]
pub fn tcp_ecn_predicted(tp: &TcpSock, th: &TcpHdr) -> bool {
    match &tp.rare.accecn {
        None => th.flags & ACE_FLAGS == 0,
        Some(_) => tcp_accecn_ace(th) as u32 == tp.delivered_ce.wrapping_add(CEP_INIT_OFFSET) & 7,
    }
}

/// What an ACK newly says to have been marked of ours, in segments (`tcp_accecn_process`). Counted in `delivered_ce`.
pub fn tcp_accecn_process(tp: &mut TcpSock, sample: &AceSample<'_>) -> u32 {
    if tp.ecn_flags & TCP_ECN_MODE_ANY != TCP_ECN_MODE_ACCECN {
        return 0;
    }
    let known = tp.delivered_ce;
    let Some(a) = tp.accecn_mut() else { return 0 };
    let n = a.newly_marked(sample, known);
    tp.delivered_ce = known.wrapping_add(n);
    n
}

/// A segment for a closed or half-open connection came with its SYN's option (`tcp_accecn_option_init` in the SYN's checks).
pub fn tcp_accecn_syn_option(tp: &mut TcpSock, opt: Option<&[u8]>) {
    if let Some(a) = tp.accecn_mut() {
        a.note_option(opt);
    }
}
