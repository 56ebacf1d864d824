//! TCP over IPv4 and IPv6: from the packet to the socket, and replies without one.
//!
//! Interface: [`tcp_v4_rcv`], [`tcp_v6_rcv`], [`tcp_v4_do_rcv`], [`tcp_v4_connect`], [`tcp_v4_init`].
//! Linux counterpart: `net/ipv4/tcp_ipv4.c`, `net/ipv6/tcp_ipv6.c`.
//! Locks and context: softirq context; `tcp_v4_do_rcv` also from the backlog, `tcp_v4_connect` in process context.

use crate::core::checksum::{csum_tcpudp_magic, skb_checksum};
use crate::core::dst::RtnType;
use crate::core::l3::IcmpError;
use crate::core::net_namespace::{Net, NetProtocol, Registries};
use crate::core::skbuff::{IpSummed, MAX_SKB_FRAGS, PktType, Skb};
use crate::core::snmp::Mib;
use crate::core::sock::{ProtoSock, Sock, SockFlags};
use crate::hdr::tcp_flag::{ACK, CWR, ECE, FIN, RST, SYN, URG};
use crate::hdr::{IPPROTO_TCP, IpHdr, Ipv6Hdr, TcpHdr};
use crate::ipv4::inet_connection_sock::{
    inet_csk_reqsk_queue_drop, inet_rtx_syn_ack, reqsk_listener, reqsk_timer_put_off,
};
use crate::ipv4::inet_hashtables::{
    __inet_hash_connect, __inet_lookup_established, __inet_lookup_listener, __inet_lookup_skb, EhashSock, Found,
    inet_bhash2_update_saddr, inet_csk, inet_hashinfo_init, inet_twsk_kill,
};
use crate::ipv4::inet_sock::{InetTuple, unspecified_like};
use crate::ipv4::inet_timewait_sock::InetTimewaitSock;
use crate::ipv4::request_sock::RequestSock;
use crate::ipv4::secure_seq::{secure_tcp_seq, secure_tcp_ts_off};
use crate::ipv4::tcp_auth::{
    Receiver, tcp_ao_ignore_icmp, tcp_auth_key, tcp_auth_possible, tcp_conn_inbound_hash, tcp_inbound_hash,
};
use crate::ipv4::tcp_ca::tcp_ca_dst_init;
use crate::ipv4::tcp_conn_request::{
    NoChild, tcp_conn_request, tcp_v4_cookie_check, tcp_v4_send_synack, tcp_v4_syn_recv_sock,
};
use crate::ipv4::tcp_fastopen::{fastopen_rsk, tcp_fastopen_defer_connect};
use crate::ipv4::tcp_input::{tcp_rcv_established, tcp_rcv_state_process};
use crate::ipv4::tcp_minisocks::{CheckReq, TcpTwStatus, tcp_check_req, tcp_timewait_state_process};
use crate::ipv4::tcp_mss::sk_dst_set;
use crate::ipv4::tcp_output::tcp_connect;
use crate::ipv4::tcp_reply::{
    skb_addrs, skb_dif, skb_tuple, tcp_v4_reqsk_send_ack, tcp_v4_send_reset, tcp_v4_send_reset_signed,
    tcp_v4_timewait_ack,
};
use crate::ipv4::tcp_retransmit::tcp_mtu_reduced;
use crate::ipv4::tcp_sock::{
    TCP_MSS_DEFAULT, TCP_MSS_DEFAULT_V6, TCPF_MTU_REDUCED_DEFERRED, TcpSkbCb, TcpSock, before, between, tcp_sk,
    tcp_skb_cb, tcp_skb_cb_mut,
};
use crate::ipv4::tcp_state::{tcp_done, tcp_set_state};
use crate::ipv4::tcp_timer::tcp_ld_rto_revert;
use kernel::rcu::RcuReadGuard;
use kernel::rcu_read_lock;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use uapi::tcp::TcpState;
use uapi::{Errno, Result, SockAddr};

/// In a SYN's control block: a time-wait entry gave way, and `ack_seq` is the number to start at (`tcp_tw_isn`).
const CB_TW_ISN: u8 = 0x80;
/// Room in a backlog beyond the socket's buffers, for headers.
const BACKLOG_HEADROOM: usize = 64 * 1024;

/// Registers TCP below both versions of IP, and its tables in every namespace (`tcp_init`, `tcp_v4_init`, `tcpv6_init`).
pub fn tcp_v4_init(reg: &Registries) {
    reg.pernet.lock_bh().push(inet_hashinfo_init);
    let proto = |handler| Arc::new(NetProtocol { handler, err_handler: tcp_v4_err });
    reg.inet_protos[IPPROTO_TCP as usize].assign(Some(proto(tcp_v4_rcv)));
    reg.inet6_protos[IPPROTO_TCP as usize].assign(Some(proto(tcp_v6_rcv)));
}

// --- Receive ---

/// A segment over IPv4. `data` is at the TCP header, of which nothing has been checked.
pub fn tcp_v4_rcv(net: &Arc<Net>, skb: Box<Skb>) {
    kernel::tp!(tcp_v4_rcv, skb);
    tcp_rcv(net, skb);
}

/// The same over IPv6.
pub fn tcp_v6_rcv(net: &Arc<Net>, skb: Box<Skb>) {
    kernel::tp!(tcp_v6_rcv, skb);
    tcp_rcv(net, skb);
}

fn tcp_rcv(net: &Arc<Net>, mut skb: Box<Skb>) {
    if !matches!(skb.pkt_type, PktType::Host | PktType::Loopback) {
        return;
    }
    net.mib.inc(Mib::TcpInSegs);
    let Some(th) = tcp_check_header(net, &mut skb) else { return };
    tcp_v4_fill_cb(&mut skb, &th);
    let Some(tuple) = skb_tuple(&skb, &th) else { return };
    let section = rcu_read_lock();
    match __inet_lookup_skb(net, &skb, &tuple, skb_dif(&skb), &section) {
        Some(Found::Entry(e)) => match &e.sock {
            EhashSock::Sock(sk) => tcp_deliver(sk, skb),
            EhashSock::Timewait(tw) => do_time_wait(net, tw, skb, &th, &tuple),
            EhashSock::Request(req) => new_syn_recv(net, req, skb, &th, &tuple),
        },
        Some(Found::Listener(sk)) => tcp_listen_rcv(&sk, skb),
        None => tcp_v4_send_reset(net, None, &skb),
    }
}

/// Length, data offset, checksum. `None`: bad, and counted.
fn tcp_check_header(net: &Net, skb: &mut Skb) -> Option<TcpHdr> {
    if !skb.may_pull(TcpHdr::LEN) {
        net.mib.inc(Mib::TcpInErrs);
        return None;
    }
    let th = *TcpHdr::read(skb.data())?;
    if th.header_len() < TcpHdr::LEN || !skb.may_pull(th.header_len()) {
        net.mib.inc(Mib::TcpInErrs);
        return None;
    }
    if !tcp_checksum_ok(skb) {
        net.mib.inc(Mib::TcpInCsumErrors);
        net.mib.inc(Mib::TcpInErrs);
        return None;
    }
    Some(th)
}

/// Whether the checksum is right, or has been vouched for (`tcp_v4_checksum_init`, `tcp_checksum_complete`).
fn tcp_checksum_ok(skb: &mut Skb) -> bool {
    let Some((saddr, daddr)) = skb_addrs(skb) else { return false };
    let magic = |sum| csum_tcpudp_magic(saddr, daddr, skb.len(), IPPROTO_TCP, sum) == [0, 0];
    let ok = match skb.ip_summed {
        IpSummed::Unnecessary | IpSummed::Partial => return true,
        IpSummed::Complete => magic(skb.csum),
        IpSummed::None => false,
    };
    // A device's sum that does not fit proves nothing: ours decides.
    let ok = ok || magic(skb_checksum(skb, 0, skb.len(), 0));
    if ok {
        skb.ip_summed = IpSummed::Unnecessary;
    }
    ok
}

/// What every later step needs of header and packet (`tcp_v4_fill_cb`).
fn tcp_v4_fill_cb(skb: &mut Skb, th: &TcpHdr) {
    let seq = th.seq.get();
    let payload = (skb.len() - th.header_len()) as u32;
    let flags = th.has(SYN) as u32 + th.has(FIN) as u32;
    let b = skb.network_header();
    let ip_dsfield = match skb.protocol {
        crate::core::dev::ETH_P_IPV6 => Ipv6Hdr::read(b).map_or(0, |h| h.traffic_class()),
        _ => IpHdr::read(b).map_or(0, |h| h.tos),
    };
    *tcp_skb_cb_mut(skb) = TcpSkbCb {
        seq,
        end_seq: seq.wrapping_add(payload).wrapping_add(flags),
        ack_seq: th.ack_seq.get(),
        tcp_flags: th.flags,
        ip_dsfield,
        ..TcpSkbCb::default()
    };
}

/// Hands a segment to a socket: at once, or by its backlog if a process owns it.
fn tcp_deliver(sk: &Arc<Sock>, skb: Box<Skb>) {
    let mut guard = sk.bh_lock_sock();
    if let Some(state) = guard.state() {
        tcp_v4_do_rcv(sk, state, skb);
        return;
    }
    kernel::tp!(tcp_add_backlog, skb, sk.as_ref());
    let truesize = skb.truesize;
    let joined = match guard.backlog_tail() {
        Some(tail) => tcp_backlog_coalesce(tail, skb),
        None => Err(skb),
    };
    let Err(skb) = joined else {
        guard.backlog_grown(truesize);
        return sk.net.mib.inc(Mib::TcpExtTCPBacklogCoalesce);
    };
    let limit = 2 * sk.rcvbuf.load(Relaxed) as usize + sk.sndbuf.load(Relaxed) as usize / 2 + BACKLOG_HEADROOM;
    if guard.add_backlog(skb, limit).is_err() {
        sk.net.mib.inc(Mib::TcpExtTCPBacklogDrop);
    }
}

/// Joins the payload of a segment to that of the last one in the backlog, if nothing else tells them apart: a fast sender
/// finds room for more bytes, and its receiver less to do (the coalescing of `tcp_add_backlog`).
fn tcp_backlog_coalesce(tail: &mut Skb, skb: Box<Skb>) -> std::result::Result<(), Box<Skb>> {
    let (Some(a), Some(b)) = (TcpHdr::read(tail.data()).copied(), TcpHdr::read(skb.data()).copied()) else {
        return Err(skb);
    };
    let (ca, cb) = (*tcp_skb_cb(tail), *tcp_skb_cb(&skb));
    let len = b.header_len();
    let alike = ca.end_seq == cb.seq
        && ca.ip_dsfield == cb.ip_dsfield
        && a.flags & b.flags & ACK != 0
        && (a.flags | b.flags) & (SYN | RST | URG) == 0
        && a.flags & FIN == 0
        && (a.flags ^ b.flags) & (ECE | CWR) == 0
        // With the AE bit of Accurate ECN, which stands beside the length.
        && a.doff == b.doff
        && tail.len() > len
        && skb.len() > len
        && tail.data().get(TcpHdr::LEN..len) == skb.data().get(TcpHdr::LEN..len);
    // The linear part becomes one fragment.
    if !alike || tail.frags().len() + skb.frags().len() + 1 > MAX_SKB_FRAGS {
        return Err(skb);
    }
    let size = |s: &Skb| if s.gso_size != 0 { s.gso_size } else { (s.len() - len).min(u16::MAX as usize) as u16 };
    tail.gso_size = size(tail).max(size(&skb));
    tail.gso_segs = tail.gso_segs.max(1).saturating_add(skb.gso_segs.max(1));
    tail.truesize += skb.truesize;
    let mut skb = skb;
    skb.pull_any(len);
    for f in skb.into_frags() {
        // Its memory has been counted.
        tail.truesize -= f.len() as u32;
        tail.add_frag(f);
    }
    if let Some(th) = TcpHdr::read_mut(tail.data_mut()) {
        th.flags |= b.flags;
        if !before(cb.ack_seq, ca.ack_seq) {
            th.ack_seq = b.ack_seq;
            th.window = b.window;
        }
    }
    let c = tcp_skb_cb_mut(tail);
    c.end_seq = cb.end_seq;
    c.tcp_flags |= cb.tcp_flags;
    if !before(cb.ack_seq, ca.ack_seq) {
        c.ack_seq = cb.ack_seq;
    }
    Ok(())
}

/// A segment for a locked socket, by its state. Also what the backlog is worked off with.
pub fn tcp_v4_do_rcv(sk: &Arc<Sock>, state: &mut dyn ProtoSock, skb: Box<Skb>) {
    kernel::tp!(tcp_v4_do_rcv, skb, sk.as_ref());
    let tp = tcp_sk(state);
    let state = sk.state();
    if state != TcpState::Listen && !auth_ok(sk, tp, state, &skb) {
        return;
    }
    match state {
        TcpState::Listen => tcp_listen_rcv(sk, skb),
        TcpState::Established => tcp_rcv_established(sk, tp, skb),
        _ => {
            if let Err(skb) = tcp_rcv_state_process(sk, tp, skb) {
                tcp_v4_send_reset_signed(&sk.net, Some(sk), &skb, tcp_auth_key(tp).as_deref());
            }
        }
    }
}

/// Whether the segment is signed as the connection's keys ask for; without keys, whether it is not signed.
#[inline]
fn auth_ok(sk: &Sock, tp: &mut TcpSock, state: TcpState, skb: &Skb) -> bool {
    let Some(th) = TcpHdr::read(skb.data()) else { return true };
    if tp.rare.auth.is_none() && !tcp_auth_possible(skb, th) {
        return true;
    }
    tcp_conn_inbound_hash(&sk.net, tp, matches!(state, TcpState::SynSent | TcpState::SynRecv), skb, th)
}

// --- TIME_WAIT ---

fn do_time_wait(net: &Arc<Net>, tw: &Arc<InetTimewaitSock>, mut skb: Box<Skb>, th: &TcpHdr, tuple: &InetTuple) {
    let status = tcp_timewait_state_process(net, tw, &skb, th);
    match status {
        TcpTwStatus::Success => {}
        TcpTwStatus::Ack => tcp_v4_timewait_ack(net, tw, &skb),
        TcpTwStatus::Rst => {
            tcp_v4_send_reset_signed(net, None, &skb, tw.auth.as_deref());
            inet_twsk_kill(tw);
        }
        TcpTwStatus::Syn(isn) => {
            let Some(listener) = __inet_lookup_listener(net, tuple, skb_dif(&skb)) else {
                return tcp_v4_timewait_ack(net, tw, &skb);
            };
            inet_twsk_kill(tw);
            let cb = tcp_skb_cb_mut(&mut skb);
            (cb.flags, cb.ack_seq) = (cb.flags | CB_TW_ISN, isn);
            tcp_listen_rcv(&listener, skb);
        }
    }
}

// --- Listeners and requests ---

/// The listener's options as they are at this moment, in a state that nobody changes.
fn listen_opts<'g>(sk: &Sock, section: &'g RcuReadGuard) -> Option<&'g TcpSock> {
    inet_csk(sk).listen_opts.dereference(section)
}

/// A segment for a request. The listener's lock is not needed: whoever puts its child in the request's place makes the
/// connection.
fn new_syn_recv(net: &Arc<Net>, req: &Arc<RequestSock>, skb: Box<Skb>, th: &TcpHdr, tuple: &InetTuple) {
    if let Some(l) = reqsk_listener(net, req) {
        return tcp_req_rcv(&l, req, skb, th);
    }
    // The listener is closed. Another one may have taken its place.
    inet_csk_reqsk_queue_drop(net, req);
    match __inet_lookup_listener(net, tuple, skb_dif(&skb)) {
        Some(sk) => tcp_listen_rcv(&sk, skb),
        None => tcp_v4_send_reset(net, None, &skb),
    }
}

/// A segment for a listener: a SYN, the third packet of a handshake that only a cookie knows, or nothing it knows. No lock.
fn tcp_listen_rcv(sk: &Arc<Sock>, skb: Box<Skb>) {
    let net = &sk.net;
    let Some(th) = TcpHdr::read(skb.data()).copied() else { return };
    let section = rcu_read_lock();
    let Some(opts) = listen_opts(sk, &section) else { return };
    if th.has(RST) {
        return;
    }
    if !listen_auth_ok(net, opts, Receiver::Listener, &skb, &th) {
        return;
    }
    if th.has(ACK) {
        return match tcp_v4_cookie_check(sk, opts, &skb, &th) {
            Some(req) => finish_handshake(sk, opts, &Arc::new(req), false, skb),
            None => tcp_v4_send_reset(net, Some(sk), &skb),
        };
    }
    // A SYN with FIN opens nothing.
    if th.flags & (SYN | FIN) == SYN {
        let cb = tcp_skb_cb(&skb);
        let isn = if cb.flags & CB_TW_ISN != 0 { cb.ack_seq } else { 0 };
        tcp_conn_request(sk, opts, &skb, &th, isn);
    }
}

/// Whether a segment for a listener or a request is signed as the listener's keys ask for.
#[inline]
fn listen_auth_ok(net: &Net, opts: &TcpSock, who: Receiver<'_>, skb: &Skb, th: &TcpHdr) -> bool {
    if opts.rare.auth.is_none() && !tcp_auth_possible(skb, th) {
        return true;
    }
    let Some(tuple) = skb_tuple(skb, th) else { return false };
    tcp_inbound_hash(net, opts.rare.auth.as_deref(), who, skb, th, &tuple).is_ok()
}

fn tcp_req_rcv(sk: &Arc<Sock>, req: &Arc<RequestSock>, skb: Box<Skb>, th: &TcpHdr) {
    let net = &sk.net;
    let section = rcu_read_lock();
    let Some(opts) = listen_opts(sk, &section) else { return };
    if !listen_auth_ok(net, opts, Receiver::Request(req), &skb, th) {
        return;
    }
    let auth = req.auth.as_deref();
    match tcp_check_req(net, req, &skb, th, false) {
        CheckReq::Drop => {}
        CheckReq::SendSynAck => {
            if inet_rtx_syn_ack(sk, req, tcp_v4_send_synack) {
                reqsk_timer_put_off(req);
            }
        }
        CheckReq::SendAck => tcp_v4_reqsk_send_ack(net, req, &skb),
        CheckReq::Reset => tcp_v4_send_reset_signed(net, Some(sk), &skb, auth),
        CheckReq::Embryonic(reset) => {
            if reset {
                tcp_v4_send_reset_signed(net, Some(sk), &skb, auth);
            }
            if inet_csk_reqsk_queue_drop(net, req) {
                net.mib.inc(Mib::TcpExtEmbryonicRsts);
            }
        }
        CheckReq::Create => finish_handshake(sk, opts, req, true, skb),
    }
}

fn finish_handshake(sk: &Arc<Sock>, opts: &TcpSock, req: &Arc<RequestSock>, hashed: bool, skb: Box<Skb>) {
    let skb = match tcp_v4_syn_recv_sock(sk, opts, req, hashed, skb) {
        Ok(()) => return,
        Err(NoChild::Overflow(skb)) => skb,
        Err(NoChild::Lost(skb)) => return deliver_to_winner(sk, req, skb),
    };
    if !sk.net.sysctl.tcp_abort_on_overflow.on() {
        // The peer thinks that it is connected; its data will ask again.
        req.acked.store(true, Release);
        return;
    }
    tcp_v4_send_reset_signed(&sk.net, Some(sk), &skb, req.auth.as_deref());
    if hashed && inet_csk_reqsk_queue_drop(&sk.net, req) {
        sk.net.mib.inc(Mib::TcpExtEmbryonicRsts);
    }
}

/// Another CPU has made the child with another packet: this one is the child's.
fn deliver_to_winner(sk: &Sock, req: &RequestSock, skb: Box<Skb>) {
    if let Some(e) = __inet_lookup_established(&sk.net, &req.tuple, skb_dif(&skb))
        && let EhashSock::Sock(child) = &e.sock
    {
        tcp_deliver(child, skb);
    }
}

// --- ICMP errors ---

/// An ICMP error about a segment of ours (RFC 5927; RFC 1191; RFC 8201).
fn tcp_v4_err(net: &Arc<Net>, err: &IcmpError, quoted: &[u8]) {
    let word = |at: usize| quoted.get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
    let Some(seq) = quoted.get(4..8).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]])) else { return };
    let tuple = InetTuple { laddr: err.saddr, faddr: err.daddr, lport: word(0), fport: word(2) };
    let Some(e) = __inet_lookup_established(net, &tuple, crate::ipv4::inet_hashtables::ANY_DEVICE) else {
        let mib = if err.daddr.is_ipv4() { Mib::IcmpInErrors } else { Mib::Icmp6InErrors };
        return net.mib.inc(mib);
    };
    match &e.sock {
        EhashSock::Timewait(_) => {}
        EhashSock::Request(req) => tcp_req_err(net, req, seq, err),
        EhashSock::Sock(sk) => tcp_sk_err(sk, seq, err, &tuple, quoted),
    }
}

/// Whether the error is "packet too big" in its version's numbers.
fn is_too_big(err: &IcmpError) -> bool {
    match err.daddr {
        IpAddr::V4(_) => (err.kind, err.code) == (3, 4),
        IpAddr::V6(_) => err.kind == 2,
    }
}

/// Whether the error says that the peer cannot be reached, over IPv4 or IPv6.
fn aborts_request(err: &IcmpError) -> bool {
    match err.daddr {
        IpAddr::V4(_) => err.kind == 11 || (err.kind == 3 && err.code <= 1),
        IpAddr::V6(_) => err.fatal && !is_too_big(err),
    }
}

/// `tcp_req_err`: a request whose peer cannot be reached is silently dropped.
fn tcp_req_err(net: &Arc<Net>, req: &Arc<RequestSock>, seq: u32, err: &IcmpError) {
    if seq != req.snt_isn {
        net.mib.inc(Mib::TcpExtOutOfWindowIcmps);
    } else if aborts_request(err) && inet_csk_reqsk_queue_drop(net, req) {
        net.mib.inc(Mib::TcpExtListenDrops);
    }
}

fn tcp_sk_err(sk: &Arc<Sock>, seq: u32, err: &IcmpError, tuple: &InetTuple, quoted: &[u8]) {
    let net = &sk.net;
    let too_big = is_too_big(err);
    let mut guard = sk.bh_lock_sock();
    let Some(state) = guard.state() else {
        if too_big {
            // Believed, or not, by the owner, who can see what is under way.
            inet_csk(sk).mtu_info.store(err.info, Relaxed);
            inet_csk(sk).mtu_seq.store(seq, Relaxed);
            guard.defer(TCPF_MTU_REDUCED_DEFERRED);
        } else {
            net.mib.inc(Mib::TcpExtLockDroppedIcmps);
        }
        return;
    };
    let tp = tcp_sk(state);
    let state = sk.state();
    if matches!(state, TcpState::Close | TcpState::Listen) {
        return;
    }
    // RFC 5927, 4.1: the quoted number must be of something that is under way; of a child made by Fast Open, its SYN-ACK too.
    let fastopen = fastopen_rsk(tp).map(|req| (req.snt_isn, req.tfo_accepted.load(Acquire)));
    if !between(seq, fastopen.map_or(tp.snd_una, |(isn, _)| isn), tp.snd_nxt) {
        return net.mib.inc(Mib::TcpExtOutOfWindowIcmps);
    }
    if tcp_ao_ignore_icmp(net, tp, tuple.faddr.is_ipv6(), err.kind, err.code) {
        return;
    }
    if too_big {
        return tcp_mtu_reduced(sk, tp, err.info);
    }
    if says_unreachable(err) {
        tcp_ld_rto_revert(sk, tp, seq);
        if sk.state() == TcpState::Close {
            return;
        }
    }
    let recverr = if tuple.faddr.is_ipv4() { tp.inet.opts.recverr } else { tp.inet.opts.v6.recverr };
    // A child that has been accepted is a connection to its process, and treated as one.
    let accepted = fastopen.is_some_and(|(_, accepted)| accepted);
    if matches!(state, TcpState::SynSent | TcpState::SynRecv) && !accepted {
        // As Linux does it: over IPv4 to whoever may look, which is how `traceroute -T` does without privileges.
        if recverr || tuple.faddr.is_ipv4() {
            inet_csk(sk).errq.icmp_error(err, err.errno, tuple.fport, quoted);
        }
        sk.set_err(err.errno);
        sk.error_report();
        return tcp_done(sk, tp);
    }
    // RFC 1122, 4.2.3.9: an established connection survives; the error is told if it ends otherwise, or if asked for.
    if recverr {
        sk.set_err(err.errno);
        sk.error_report();
    } else {
        sk.err_soft.store(err.errno.0, Release);
    }
}

/// Errors of a network or host that cannot be reached for now (RFC 6069, 3).
fn says_unreachable(err: &IcmpError) -> bool {
    match err.daddr {
        IpAddr::V4(_) => err.kind == 3 && err.code <= 1,
        IpAddr::V6(_) => (err.kind, err.code) == (1, 0),
    }
}

// --- connect(2) ---

/// Starts a connection: route, source address, port, SYN. `addr` is IPv4 also for an IPv4-mapped peer. `ENETUNREACH`,
/// `EADDRNOTAVAIL` and what the route look-up says. Process context, socket lock held.
pub fn tcp_v4_connect(sk: &Arc<Sock>, state: &mut dyn ProtoSock, addr: &SockAddr) -> Result<()> {
    kernel::tp!(tcp_v4_connect, sk.as_ref());
    let tp = tcp_sk(state);
    set_peer(sk, tp, addr)?;
    let result = connect_to_peer(sk, tp);
    if result.is_err() {
        give_up(sk, tp);
    }
    result
}

/// `tcp_v6_connect`: the same.
pub fn tcp_v6_connect(sk: &Arc<Sock>, state: &mut dyn ProtoSock, addr: &SockAddr) -> Result<()> {
    tcp_v4_connect(sk, state, addr)
}

/// Finds the route to the peer and the address to speak to it from.
fn set_peer(sk: &Arc<Sock>, tp: &mut TcpSock, addr: &SockAddr) -> Result<()> {
    let net = &sk.net;
    if matches!(addr, SockAddr::Unspec) {
        return Err(Errno::EAFNOSUPPORT);
    }
    let daddr = match addr.ip() {
        // "This host", as in BSD.
        IpAddr::V4(a) if a.is_unspecified() => IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        IpAddr::V6(a) if a.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        a => a,
    };
    if let (SockAddr::V6(a), IpAddr::V6(ip)) = (addr, daddr)
        && ip.is_unicast_link_local()
    {
        bind_scope(sk, a.scope_id())?;
    }
    let bound_elsewhere = !tp.inet.saddr().is_unspecified() && tp.inet.saddr().is_ipv4() != daddr.is_ipv4();
    if bound_elsewhere || daddr.is_multicast() {
        return Err(Errno::ENETUNREACH);
    }
    let l3 = net.l3(daddr.is_ipv6()).ok_or(Errno::ENETUNREACH)?;
    let mut flow = tp.inet.flow_to(sk, daddr, addr.port());
    let dst = (l3.route_output)(net, &mut flow).inspect_err(|e| {
        if *e == Errno::ENETUNREACH {
            net.mib.inc(if daddr.is_ipv4() { Mib::IpOutNoRoutes } else { Mib::Ip6OutNoRoutes });
        }
    })?;
    if matches!(dst.kind, RtnType::Broadcast | RtnType::Multicast) {
        return Err(Errno::ENETUNREACH);
    }
    let inet = &mut tp.inet;
    if inet.rcv_saddr.is_unspecified() {
        inet.rcv_saddr = flow.saddr;
        inet_bhash2_update_saddr(sk, flow.saddr);
    }
    inet.set_saddr(flow.saddr);
    (inet.daddr, inet.dport) = (daddr, addr.port());
    sk_dst_set(sk, tp, dst);
    tcp_ca_dst_init(sk, tp);
    Ok(())
}

/// A link-local peer is only known on its link: the socket's device, or the address's scope (RFC 4007, 6).
fn bind_scope(sk: &Sock, scope: u32) -> Result<()> {
    match (sk.bound_dev_if.load(Relaxed), scope) {
        (0, 0) => Err(Errno::EINVAL),
        (dev, scope) if dev != 0 && scope != 0 && dev != scope => Err(Errno::EINVAL),
        (0, scope) => {
            sk.bound_dev_if.store(scope, Relaxed);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn connect_to_peer(sk: &Arc<Sock>, tp: &mut TcpSock) -> Result<()> {
    let net = &sk.net;
    tp.rx_opt.mss_clamp = if tp.is_v6() { TCP_MSS_DEFAULT_V6 } else { TCP_MSS_DEFAULT } as u16;
    // What is left of an earlier connection of this socket protects the new one only if it has the same ends.
    tp.rx_opt.ts_recent = 0;
    tp.rx_opt.ts_recent_stamp = 0;
    tp.write_seq = 0;
    // In SYN_SENT already when it becomes findable; the lock keeps everybody out until the SYN is sent.
    tcp_set_state(sk, tp, TcpState::SynSent);
    let recycled = __inet_hash_connect(sk, &mut tp.inet)?;
    let tuple = tp.inet.tuple();
    tp.inet.sport = tp.inet.num;
    if let Some(tw) = recycled {
        net.mib.inc(Mib::TcpExtTWRecycled);
        tp.write_seq = tw.snd_nxt.wrapping_add(65535 + 2);
        tp.rx_opt.ts_recent = tw.ts_recent.load(Relaxed);
        tp.rx_opt.ts_recent_stamp = tw.ts_recent_stamp.load(Relaxed);
    }
    if tp.write_seq == 0 {
        tp.write_seq = secure_tcp_seq(net, &tuple);
    }
    tp.tsoffset = secure_tcp_ts_off(net, &tuple);
    if net.wants_trace(&tp.inet.flow(sk)) {
        sk.traced.store(true, Relaxed);
    }
    if tcp_fastopen_defer_connect(sk, tp) {
        return Ok(());
    }
    tcp_connect(sk, tp)
}

/// The connection could not be started: the socket is as before (`inet_bhash2_reset_saddr`).
fn give_up(sk: &Arc<Sock>, tp: &mut TcpSock) {
    tcp_set_state(sk, tp, TcpState::Close);
    let inet = &mut tp.inet;
    inet.dport = 0;
    inet.daddr = unspecified_like(inet.daddr);
    if !sk.flag(SockFlags::BINDADDR_LOCK) {
        let any = unspecified_like(inet.saddr());
        inet.rcv_saddr = any;
        inet.set_saddr(any);
        inet_bhash2_update_saddr(sk, any);
    }
    *sk.dst_cache.lock_bh() = None;
}

#[cfg(test)]
mod tests;
