//! The listener's side of the handshake: SYN, SYN-ACK, and the child that the third packet makes.
//!
//! Interface: [`tcp_conn_request`], [`tcp_v4_send_synack`], [`tcp_v4_syn_recv_sock`], [`tcp_v4_cookie_check`].
//! Linux counterpart: `tcp_conn_request` in `net/ipv4/tcp_input.c`, `tcp_v4_syn_recv_sock` in `tcp_ipv4.c`, `syncookies.c`.
//! Locks and context: softirq context. The listener is not locked: its options are a copy that nobody changes (`ltp`, under RCU).

use crate::core::dst::{Dst, RtnType};
use crate::core::flow::Flow;
use crate::core::l3::XmitParams;
use crate::core::net_namespace::Net;
use crate::core::skbuff::Skb;
use crate::core::snmp::Mib;
use crate::core::sock::{Sock, SockFlags};
use crate::hdr::tcp_flag::ACK;
use crate::hdr::{IPPROTO_TCP, TcpHdr};
use crate::ipv4::inet_connection_sock::{
    inet_child_forget, inet_csk_clone_lock, inet_csk_reqsk_queue_add, inet_csk_reqsk_queue_hash_add,
    inet_csk_reqsk_queue_is_full, reqsk_queue_removed,
};
use crate::ipv4::inet_hashtables::{
    EhashEntry, inet_csk, inet_ehash_insert, inet_ehash_replace_request, inet_inherit_port,
};
use crate::ipv4::inet_sock::InetTuple;
use crate::ipv4::request_sock::{RequestSock, sk_acceptq_is_full};
use crate::ipv4::secure_seq::{
    CookieOpts, TCP_SYNCOOKIE_VALID, cookie_check, cookie_init_sequence, cookie_init_timestamp,
    cookie_timestamp_decode, secure_tcp_seq, secure_tcp_ts_off, tcp_clock_ms,
};
use crate::ipv4::tcp_accecn::ECT_0;
use crate::ipv4::tcp_auth::{tcp_auth_key, tcp_auth_request};
use crate::ipv4::tcp_cong::tcp_ca_needs_ecn;
use crate::ipv4::tcp_ecn::{cookie_accecn_ok, tcp_ecn_create_request, tcp_ecn_make_synack, tcp_ecn_synack_option};
use crate::ipv4::tcp_input::tcp_rcv_state_process;
use crate::ipv4::tcp_minisocks::tcp_create_openreq_child;
use crate::ipv4::tcp_mss::{tcp_advertise_mss, tcp_full_space, tcp_select_initial_window, tcp_sync_mss};
use crate::ipv4::tcp_options::tcp_parse_options;
use crate::ipv4::tcp_reply::{reply_oif, skb_dif, skb_tuple, tcp_v4_send_reset_signed};
use crate::ipv4::tcp_rtt::tcp_ack_update_rtt;
use crate::ipv4::tcp_sock::{
    TCP_MSS_DEFAULT, TCP_MSS_DEFAULT_V6, TCPOLEN_TSTAMP_ALIGNED, TcpOptionsReceived, TcpSock, tcp_sk, tcp_skb_cb,
};
use crate::ipv4::tcp_transmit::{SynAckArgs, tcp_make_synack};
use kernel::{Fault, should_fail};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::*};
use uapi::{Errno, Result};

/// A SYN for a listener. `isn` is the number to start at when a time-wait entry has given its place, else 0.
pub fn tcp_conn_request(sk: &Arc<Sock>, ltp: &TcpSock, skb: &Skb, th: &TcpHdr, isn: u32) {
    kernel::tp!(tcp_conn_request, skb, sk.as_ref());
    if conn_request(sk, ltp, skb, th, isn).is_none() {
        sk.net.mib.inc(Mib::TcpExtListenDrops);
    }
}

/// `None`: the SYN is dropped.
fn conn_request(sk: &Arc<Sock>, ltp: &TcpSock, skb: &Skb, th: &TcpHdr, isn: u32) -> Option<()> {
    let net = &sk.net;
    let tuple = skb_tuple(skb, th)?;
    let unicast = skb.dst.as_ref().is_none_or(|d| !matches!(d.kind, RtnType::Broadcast | RtnType::Multicast));
    if tuple.laddr.is_multicast() || !unicast {
        return None;
    }
    let always = net.sysctl.tcp_syncookies.get() == 2;
    let full = inet_csk_reqsk_queue_is_full(sk);
    let want_cookie = (always || full) && isn == 0;
    if want_cookie && !tcp_syn_flood_action(sk, full) {
        return None;
    }
    if sk_acceptq_is_full(sk) {
        net.mib.inc(Mib::TcpExtListenOverflows);
        return None;
    }
    if !want_cookie && isn == 0 && syn_queue_short(sk) {
        return None;
    }
    if should_fail(Fault::Request) {
        return None;
    }
    let mut req = openreq_init(sk, ltp, skb, th, tuple, want_cookie);
    let (dst, flow) = inet_csk_route_req(net, &req)?;
    tcp_openreq_init_rwin(sk, ltp, &mut req, &dst);
    req.traced = skb.traced || sk.traced.load(Relaxed) || net.wants_trace(&flow);
    if want_cookie {
        let (cookie, mss) = cookie_init_sequence(net, &tuple, req.rcv_isn, req.mss);
        (req.snt_isn, req.mss) = (cookie, mss);
        request_auth(ltp, &mut req, skb, th)?;
        let opts = CookieOpts {
            snd_wscale: req.wscale_ok.then_some(req.snd_wscale),
            sack_ok: req.sack_ok,
            ecn_ok: req.ecn_ok,
        };
        net.mib.inc(Mib::TcpExtSyncookiesSent);
        let tsval = cookie_init_timestamp(net, opts).wrapping_add(req.ts_off);
        return send_synack(net, &req, dst, &flow, tsval).ok();
    }
    req.snt_isn = if isn != 0 { isn } else { secure_tcp_seq(net, &tuple) };
    if ltp.auth.is_some() {
        request_auth(ltp, &mut req, skb, th)?;
        // A signature leaves no room for SACK blocks beside timestamps.
        req.tstamp_ok &= req.auth.is_none() || !req.sack_ok;
    }
    let req = Arc::new(req);
    if !inet_csk_reqsk_queue_hash_add(sk, &req, tcp_v4_send_synack) {
        // The same SYN was here a moment ago, on another CPU.
        return Some(());
    }
    let tsval = tcp_clock_ms(net).wrapping_add(req.ts_off);
    // A SYN-ACK that cannot be sent now is sent by the request's timer.
    let _ = send_synack(net, &req, dst, &flow, tsval);
    Some(())
}

/// The key that signs the request's segments, if the listener has one for the peer. `None`: it has not the one asked for.
fn request_auth(ltp: &TcpSock, req: &mut RequestSock, skb: &Skb, th: &TcpHdr) -> Option<()> {
    let Some(auth) = ltp.auth.as_deref() else { return Some(()) };
    let opts = skb.data().get(TcpHdr::LEN..th.header_len()).unwrap_or(&[]);
    req.auth = tcp_auth_request(auth, opts, req.tuple.faddr, req.snt_isn, req.rcv_isn).ok()?;
    Some(())
}

/// The queue is full: whether to answer with a cookie instead of dropping (`tcp_syn_flood_action`).
fn tcp_syn_flood_action(sk: &Sock, full: bool) -> bool {
    let net = &sk.net;
    let cookies = net.sysctl.tcp_syncookies.on();
    net.mib.inc(if cookies { Mib::TcpExtTCPReqQFullDoCookies } else { Mib::TcpExtTCPReqQFullDrop });
    if cookies && full {
        inet_csk(sk).synq_overflow.store(net.kernel().jiffies(), Relaxed);
    }
    cookies
}

/// Without cookies, the last quarter of `tcp_max_syn_backlog` is kept free.
fn syn_queue_short(sk: &Sock) -> bool {
    let max = sk.net.sysctl.tcp_max_syn_backlog.get();
    let len = inet_csk(sk).accept_queue().len() as i64;
    !sk.net.sysctl.tcp_syncookies.on() && max - len < max >> 2
}

/// A request from a SYN: its options as far as we agree, no sequence number of ours yet (`tcp_openreq_init`).
fn openreq_init(sk: &Sock, ltp: &TcpSock, skb: &Skb, th: &TcpHdr, tuple: InetTuple, cookie: bool) -> RequestSock {
    let net = &sk.net;
    let default_mss = if tuple.laddr.is_ipv4() { TCP_MSS_DEFAULT } else { TCP_MSS_DEFAULT_V6 };
    let mut opt = TcpOptionsReceived {
        mss_clamp: default_mss as u16,
        user_mss: ltp.rx_opt.user_mss,
        ..TcpOptionsReceived::default()
    };
    tcp_parse_options(skb.data().get(TcpHdr::LEN..th.header_len()).unwrap_or(&[]), &mut opt, false);
    let tstamp_ok = opt.saw_tstamp && net.sysctl.tcp_timestamps.on();
    // A cookie without timestamps has no room for options.
    let room = !cookie || tstamp_ok;
    let cb = tcp_skb_cb(skb);
    let dev = sk.bound_dev_if.load(Relaxed);
    let params = ltp.inet.xmit_params_to(sk, tuple.laddr.is_ipv6());
    let ecn = tcp_ecn_create_request(net, tcp_ca_needs_ecn(ltp), skb, th);
    RequestSock {
        tuple,
        bound_dev_if: dev,
        listener: sk.weak(),
        mss: opt.mss_clamp,
        tstamp_ok,
        sack_ok: room && opt.sack_ok && net.sysctl.tcp_sack.on(),
        wscale_ok: room && opt.wscale_ok && net.sysctl.tcp_window_scaling.on(),
        ecn_ok: room && ecn.ecn_ok,
        accecn_ok: room && ecn.accecn_ok,
        auth: None,
        syn_ect_rcv: ecn.syn_ect_rcv,
        saw_accecn_opt: AtomicU8::new(0),
        snd_wscale: opt.snd_wscale,
        rcv_wscale: 0,
        rcv_isn: cb.seq,
        snt_isn: 0,
        ts_off: if tstamp_ok { secure_tcp_ts_off(net, &tuple) } else { 0 },
        rsk_rcv_wnd: 0,
        rsk_window_clamp: 0,
        advmss: 0,
        // DCTCP's SYN-ACKs are marked like all of its packets (RFC 8257, 3.5).
        tos: params.tos | if tcp_ca_needs_ecn(ltp) { ECT_0 } else { 0 },
        ttl: params.ttl,
        mark: params.mark,
        iif: skb_dif(skb),
        ts_recent: AtomicU32::new(if tstamp_ok { opt.rcv_tsval } else { 0 }),
        snt_synack: AtomicU64::new(net.kernel().ktime_get()),
        num_timeout: AtomicU8::new(0),
        num_retrans: AtomicU8::new(0),
        acked: AtomicBool::new(false),
        last_oow_ack_time: AtomicU64::new(0),
        syn_retries: ltp.icsk_syn_retries,
        defer_accept: ltp.defer_accept,
        traced: false,
        rsk_timer: OnceLock::new(),
    }
}

/// The MSS to advertise and the window to offer (`tcp_openreq_init_rwin`).
fn tcp_openreq_init_rwin(sk: &Sock, ltp: &TcpSock, req: &mut RequestSock, dst: &Dst) {
    let route = tcp_advertise_mss(dst, req.tuple.laddr.is_ipv6());
    req.advmss = match ltp.rx_opt.user_mss {
        0 => route,
        user => user.min(route),
    };
    let options = if req.tstamp_ok { TCPOLEN_TSTAMP_ALIGNED as u32 } else { 0 };
    let mss = (req.advmss as u32).saturating_sub(options);
    let space = tcp_full_space(sk, ltp);
    // A buffer that the user has fixed bounds the window too.
    let bound = sk.flag(SockFlags::RCVBUF_LOCK) && (ltp.window_clamp > space || ltp.window_clamp == 0);
    let clamp = if bound { space } else { ltp.window_clamp };
    (req.rsk_rcv_wnd, req.rsk_window_clamp, req.rcv_wscale) =
        tcp_select_initial_window(&sk.net, space, mss, clamp, req.wscale_ok);
}

/// The flow of a request's packets. Any source will do: the peer chose it.
fn req_flow(req: &RequestSock) -> Flow {
    let t = &req.tuple;
    Flow {
        tos: req.tos,
        mark: req.mark,
        oif: reply_oif(t.faddr, req.bound_dev_if, req.iif),
        anysrc: true,
        ..Flow::new(IPPROTO_TCP, t.laddr, t.lport, t.faddr, t.fport)
    }
}

/// `inet_csk_route_req`.
fn inet_csk_route_req(net: &Arc<Net>, req: &RequestSock) -> Option<(Arc<Dst>, Flow)> {
    let mut flow = req_flow(req);
    let l3 = net.l3(flow.is_v6())?;
    let dst = (l3.route_output)(net, &mut flow).ok()?;
    Some((dst, flow))
}

/// Sends a request's SYN-ACK again; `false` if it cannot be sent.
pub fn tcp_v4_send_synack(sk: &Arc<Sock>, req: &Arc<RequestSock>) -> bool {
    let net = &sk.net;
    let Some((dst, flow)) = inet_csk_route_req(net, req) else { return false };
    let tsval = tcp_clock_ms(net).wrapping_add(req.ts_off);
    let sent = send_synack(net, req, dst, &flow, tsval).is_ok();
    if sent {
        net.mib.inc(Mib::TcpRetransSegs);
        net.mib.inc(Mib::TcpExtTCPSynRetrans);
    }
    sent
}

fn send_synack(net: &Arc<Net>, req: &RequestSock, dst: Arc<Dst>, flow: &Flow, tsval: u32) -> Result<()> {
    let l3 = net.l3(flow.is_v6()).ok_or(Errno::EHOSTUNREACH)?;
    let t = &req.tuple;
    let args = SynAckArgs {
        saddr: t.laddr,
        daddr: t.faddr,
        sport: t.lport,
        dport: t.fport,
        isn: req.snt_isn,
        rcv_nxt: req.rcv_isn.wrapping_add(1),
        rcv_wnd: req.rsk_rcv_wnd,
        mss: req.advmss,
        tstamp_ok: req.tstamp_ok,
        tsval,
        tsecr: req.ts_recent.load(Relaxed),
        wscale_ok: req.wscale_ok,
        rcv_wscale: req.rcv_wscale,
        sack_ok: req.sack_ok,
        ace: tcp_ecn_make_synack(req),
        accecn_option: tcp_ecn_synack_option(net, req),
        auth: req.auth.as_ref().map(|a| a.option()),
    };
    let mut skb = tcp_make_synack(net, &args);
    if let Some(auth) = &req.auth {
        auth.sign(&mut skb, t, req.snt_isn, true);
    }
    skb.dst = Some(dst);
    skb.traced = req.traced;
    let p = XmitParams { ttl: req.ttl, tos: req.tos, dont_fragment: true, mark: req.mark, ..XmitParams::default() };
    (l3.queue_xmit)(net, None, skb, flow, &p)
}

/// Why the third packet made no child.
pub enum NoChild {
    /// The accept queue is full, or memory or a route is lacking.
    Overflow(Box<Skb>),
    /// Another packet made it, or the connection exists.
    Lost(Box<Skb>),
}

/// The third packet: a child takes the request's place in `ehash`, is queued for `accept`, and gets the packet
/// (`tcp_v4_syn_recv_sock`, `inet_csk_complete_hashdance`, `tcp_child_process`). `entry` is the request's, or none for one that
/// came out of a cookie. Of two packets that do this at once, one succeeds.
pub fn tcp_v4_syn_recv_sock(
    listener: &Arc<Sock>,
    ltp: &TcpSock,
    req: &RequestSock,
    entry: Option<&Arc<EhashEntry>>,
    skb: Box<Skb>,
) -> std::result::Result<(), NoChild> {
    kernel::tp!(tcp_v4_syn_recv_sock, skb, listener.as_ref());
    let net = &listener.net;
    if sk_acceptq_is_full(listener) {
        net.mib.inc(Mib::TcpExtListenOverflows);
        net.mib.inc(Mib::TcpExtListenDrops);
        return Err(NoChild::Overflow(skb));
    }
    let made = inet_csk_route_req(net, req).and_then(|(dst, _)| Some((inet_csk_clone_lock(listener, req).ok()?, dst)));
    let Some((child, dst)) = made else {
        net.mib.inc(Mib::TcpExtListenDrops);
        return Err(NoChild::Overflow(skb));
    };
    let Some(th) = TcpHdr::read(skb.data()).copied() else { return Err(NoChild::Lost(skb)) };
    let mut guard = child.bh_lock_sock_nested();
    let Some(state) = guard.state() else { return Err(NoChild::Lost(skb)) };
    let tp = tcp_sk(state);
    tcp_create_openreq_child(&child, tp, ltp, req, &skb, &th);
    if !is_local(net, req) {
        // Answers from an address that is not ours, as whoever sent it here wanted.
        child.set_flag(SockFlags::TRANSPARENT, true);
    }
    tcp_sync_mss(tp, dst.mtu());
    tcp_synack_rtt_meas(net, tp, req);
    *child.dst_cache.lock_bh() = Some(dst);

    let hashed = match entry {
        Some(e) => inet_ehash_replace_request(&child, e),
        None => inet_ehash_insert(&child, req.tuple).is_ok(),
    };
    if !hashed {
        child.set_state(uapi::tcp::TcpState::Close);
        return Err(NoChild::Lost(skb));
    }
    inet_inherit_port(&child, &tp.inet);
    if entry.is_some() {
        reqsk_queue_removed(req);
    }
    if !inet_csk_reqsk_queue_add(listener, &child) {
        drop(guard);
        inet_child_forget(&child);
        return Ok(());
    }
    // `tcp_child_process`.
    if let Err(skb) = tcp_rcv_state_process(&child, tp, skb) {
        tcp_v4_send_reset_signed(net, Some(&child), &skb, tcp_auth_key(tp).as_deref());
    }
    drop(guard);
    listener.data_ready();
    Ok(())
}

/// The first round-trip time: from the SYN-ACK, if it was sent but once (Karn), to its acknowledgement.
fn tcp_synack_rtt_meas(net: &Net, tp: &mut TcpSock, req: &RequestSock) {
    let sent = req.snt_synack.load(Relaxed);
    if sent != 0 {
        let us = (net.kernel().ktime_get().saturating_sub(sent) / 1000).max(1) as i64;
        tcp_ack_update_rtt(net, tp, true, false, us, -1, &mut -1);
    }
}

fn is_local(net: &Arc<Net>, req: &RequestSock) -> bool {
    let t = &req.tuple;
    net.l3(t.laddr.is_ipv6()).is_some_and(|l3| (l3.is_local)(net, t.laddr))
}

/// An ACK that no request waits for: perhaps the third packet of a handshake whose request is a cookie. The request if so
/// (`cookie_v4_check`).
pub fn tcp_v4_cookie_check(sk: &Arc<Sock>, ltp: &TcpSock, skb: &Skb, th: &TcpHdr) -> Option<RequestSock> {
    let net = &sk.net;
    if !net.sysctl.tcp_syncookies.on() || th.flags & (ACK | crate::hdr::tcp_flag::RST) != ACK {
        return None;
    }
    let overflow = inet_csk(sk).synq_overflow.load(Relaxed);
    let recent = overflow != 0 && net.kernel().jiffies().wrapping_sub(overflow) <= TCP_SYNCOOKIE_VALID;
    if !recent && net.sysctl.tcp_syncookies.get() != 2 {
        return None;
    }
    let tuple = skb_tuple(skb, th)?;
    let (seq, cookie) = (th.seq.get().wrapping_sub(1), th.ack_seq.get().wrapping_sub(1));
    let Some(mss) = cookie_check(net, &tuple, seq, cookie) else {
        net.mib.inc(Mib::TcpExtSyncookiesFailed);
        return None;
    };
    net.mib.inc(Mib::TcpExtSyncookiesRecv);
    let mut req = openreq_init(sk, ltp, skb, th, tuple, true);
    (req.rcv_isn, req.snt_isn, req.mss) = (seq, cookie, mss);
    let mut opt = TcpOptionsReceived { tstamp_ok: true, ..TcpOptionsReceived::default() };
    tcp_parse_options(skb.data().get(TcpHdr::LEN..th.header_len()).unwrap_or(&[]), &mut opt, true);
    let carried = match opt.saw_tstamp {
        true => cookie_timestamp_decode(opt.rcv_tsecr.wrapping_sub(secure_tcp_ts_off(net, &tuple))),
        false => CookieOpts::default(),
    };
    req.tstamp_ok = opt.saw_tstamp;
    req.sack_ok = carried.sack_ok;
    req.ecn_ok = carried.ecn_ok;
    req.accecn_ok = carried.ecn_ok && cookie_accecn_ok(th);
    req.wscale_ok = carried.snd_wscale.is_some();
    req.snd_wscale = carried.snd_wscale.unwrap_or(0);
    req.snt_synack.store(0, Relaxed);
    request_auth(ltp, &mut req, skb, th)?;
    let (dst, flow) = inet_csk_route_req(net, &req)?;
    tcp_openreq_init_rwin(sk, ltp, &mut req, &dst);
    req.traced = skb.traced || net.wants_trace(&flow);
    Some(req)
}
