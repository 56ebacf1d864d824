//! The listener's side of the handshake: SYN, SYN-ACK, and the child that the third packet makes.
//!
//! Interface: [`tcp_conn_request`], [`tcp_v4_send_synack`], [`tcp_v4_syn_recv_sock`], [`tcp_v4_cookie_check`].
//! Linux counterpart: `tcp_conn_request` in `net/ipv4/tcp_input.c`, `tcp_v4_syn_recv_sock` in `tcp_ipv4.c`, `syncookies.c`.
//! Locks and context: softirq context. The listener is not locked: its options are a copy that nobody changes (`ltp`, under RCU).

use crate::core::dst::{Dst, RtnType};
use crate::core::dst_metrics::{RTAX_FEATURE_ECN, Rtax};
use crate::core::eth::ETH_HLEN;
use crate::core::flow::Flow;
use crate::core::l3::{DontFragment, XmitParams};
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
use crate::ipv4::inet_csk_timers::inet_csk_reset_xmit_timer;
use crate::ipv4::inet_hashtables::{inet_csk, inet_ehash_insert, inet_ehash_replace_request, inet_inherit_port};
use crate::ipv4::inet_sock::InetTuple;
use crate::ipv4::request_sock::{RequestSock, sk_acceptq_is_full};
use crate::ipv4::secure_seq::{
    CookieOpts, TCP_SYNCOOKIE_VALID, cookie_check, cookie_init_sequence, cookie_init_timestamp,
    cookie_timestamp_decode, secure_tcp_seq, secure_tcp_ts_off, tcp_clock_ms,
};
use crate::ipv4::tcp_accecn::ECT_0;
use crate::ipv4::tcp_auth::{tcp_auth_key, tcp_auth_request};
use crate::ipv4::tcp_ca::tcp_ca_dst_init;
use crate::ipv4::tcp_cong::tcp_ca_needs_ecn;
use crate::ipv4::tcp_ecn::{
    cookie_accecn_ok, tcp_ecn_create_request, tcp_ecn_make_synack, tcp_ecn_route_request, tcp_ecn_synack_option,
};
use crate::ipv4::tcp_fastopen::*;
use crate::ipv4::tcp_fastopen_cookie::{FastopenCookie, tcp_fastopen_option};
use crate::ipv4::tcp_fastopen_rcv::{tcp_fastopen_add_skb, tcp_synack_rtt_meas};
use crate::ipv4::tcp_input::{tcp_init_transfer, tcp_rcv_state_process};
use crate::ipv4::tcp_minisocks::tcp_create_openreq_child;
use crate::ipv4::tcp_mss::{sk_dst_set, tcp_advertise_mss, tcp_full_space, tcp_select_initial_window, tcp_sync_mss};
use crate::ipv4::tcp_options::tcp_parse_options;
use crate::ipv4::tcp_reply::{reply_oif, skb_dif, skb_tuple, tcp_v4_send_reset_signed};
use crate::ipv4::tcp_sock::{
    ICSK_TIME_RETRANS, TCP_MSS_DEFAULT, TCP_MSS_DEFAULT_V6, TCP_RTO_MAX, TCP_TIMEOUT_INIT, TCPOLEN_TSTAMP_ALIGNED,
    TcpOptionsReceived, TcpSock, tcp_sk, tcp_skb_cb,
};
use crate::ipv4::tcp_transmit::{SynAckArgs, tcp_make_synack};
use kernel::{Fault, should_fail};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::*};
use uapi::tcp::TcpState;
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
    if dst.feature(RTAX_FEATURE_ECN) {
        req.ecn_ok |= tcp_ecn_route_request(skb, th);
    }
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
        return send_synack(net, &req, dst, &flow, tsval, FastopenCookie::NONE).ok();
    }
    req.snt_isn = if isn != 0 { isn } else { secure_tcp_seq(net, &tuple) };
    if ltp.rare.auth.is_some() {
        request_auth(ltp, &mut req, skb, th)?;
        // A signature leaves no room for SACK blocks beside timestamps.
        req.tstamp_ok &= req.auth.is_none() || !req.sack_ok;
    }
    req.saved_syn = tcp_reqsk_record_syn(ltp, skb, th);
    let req = Arc::new(req);
    let mut foc = tcp_fastopen_option(skb.data().get(TcpHdr::LEN..th.header_len()).unwrap_or(&[]));
    if tcp_try_fastopen(sk, ltp, &req, skb, th, &mut foc, &dst)? {
        return Some(());
    }
    if !inet_csk_reqsk_queue_hash_add(sk, &req, tcp_v4_send_synack) {
        // The same SYN was here a moment ago, on another CPU.
        return Some(());
    }
    let tsval = tcp_clock_ms(net).wrapping_add(req.ts_off);
    // A SYN-ACK that cannot be sent now is sent by the request's timer.
    let _ = send_synack(net, &req, dst, &flow, tsval, foc);
    Some(())
}

/// The key that signs the request's segments, if the listener has one for the peer. `None`: it has not the one asked for.
fn request_auth(ltp: &TcpSock, req: &mut RequestSock, skb: &Skb, th: &TcpHdr) -> Option<()> {
    let Some(auth) = ltp.rare.auth.as_deref() else { return Some(()) };
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
    let len = inet_csk(sk).accept_queue.len() as i64;
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
        rcv_nxt: AtomicU32::new(cb.seq.wrapping_add(1)),
        tfo_listener: AtomicBool::new(false),
        tfo_accepted: AtomicBool::new(false),
        saved_syn: None,
        syn_retries: ltp.rare.opts.icsk_syn_retries,
        defer_accept: ltp.rare.opts.defer_accept,
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
    let clamp = if ltp.window_clamp != 0 { ltp.window_clamp } else { dst.metric(Rtax::Window) };
    let bound = sk.flag(SockFlags::RCVBUF_LOCK) && (clamp > space || clamp == 0);
    let clamp = if bound { space } else { clamp };
    (req.rsk_rcv_wnd, req.rsk_window_clamp, req.rcv_wscale) =
        tcp_select_initial_window(&sk.net, space, mss, clamp, dst.metric(Rtax::Initrwnd), req.wscale_ok);
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
    let sent = send_synack(net, req, dst, &flow, tsval, FastopenCookie::NONE).is_ok();
    if sent {
        net.mib.inc(Mib::TcpRetransSegs);
        net.mib.inc(Mib::TcpExtTCPSynRetrans);
    }
    sent
}

/// `foc`: the cookie to offer, if any.
fn send_synack(
    net: &Arc<Net>,
    req: &RequestSock,
    dst: Arc<Dst>,
    flow: &Flow,
    tsval: u32,
    foc: FastopenCookie,
) -> Result<()> {
    let l3 = net.l3(flow.is_v6()).ok_or(Errno::EHOSTUNREACH)?;
    let t = &req.tuple;
    let args = SynAckArgs {
        saddr: t.laddr,
        daddr: t.faddr,
        sport: t.lport,
        dport: t.fport,
        isn: req.snt_isn,
        rcv_nxt: req.rcv_nxt.load(Relaxed),
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
        fastopen: Some(foc).filter(|c| c.len >= 0),
    };
    let mut skb = tcp_make_synack(net, &args);
    if let Some(auth) = &req.auth {
        auth.sign(&mut skb, t, req.snt_isn, true);
    }
    skb.dst = Some(dst);
    skb.traced = req.traced;
    let p = XmitParams {
        ttl: req.ttl,
        tos: req.tos,
        dont_fragment: DontFragment::Always,
        mark: req.mark,
        ..XmitParams::default()
    };
    (l3.queue_xmit)(net, None, skb, flow, &p)
}

/// Why the third packet made no child.
pub enum NoChild {
    /// The accept queue is full, or memory or a route is lacking.
    Overflow(Box<Skb>),
    /// Another packet made it, or the connection exists.
    Lost(Box<Skb>),
}

/// A child for a request, with a route to its peer; `None`, counted, if there is no room or no route.
fn new_child(listener: &Arc<Sock>, req: &RequestSock) -> Option<(Arc<Sock>, Arc<Dst>)> {
    let net = &listener.net;
    if sk_acceptq_is_full(listener) {
        net.mib.inc(Mib::TcpExtListenOverflows);
        net.mib.inc(Mib::TcpExtListenDrops);
        return None;
    }
    let made = inet_csk_route_req(net, req).and_then(|(dst, _)| Some((inet_csk_clone_lock(listener, req).ok()?, dst)));
    if made.is_none() {
        net.mib.inc(Mib::TcpExtListenDrops);
    }
    made
}

/// Fills the child's state. Child locked.
fn fill_child(
    child: &Arc<Sock>,
    tp: &mut TcpSock,
    ltp: &TcpSock,
    req: &RequestSock,
    skb: &Skb,
    th: &TcpHdr,
    dst: Arc<Dst>,
) {
    tcp_create_openreq_child(child, tp, ltp, req, skb, th);
    if !is_local(&child.net, req) {
        // Answers from an address that is not ours, as whoever sent it here wanted.
        child.set_flag(SockFlags::TRANSPARENT, true);
    }
    tcp_sync_mss(child, tp, dst.mtu());
    sk_dst_set(child, tp, dst);
    tcp_ca_dst_init(child, tp);
}

/// The third packet: a child takes the request's place in `ehash`, is queued for `accept`, and gets the packet
/// (`tcp_v4_syn_recv_sock`, `inet_csk_complete_hashdance`, `tcp_child_process`). `hashed`: the request is there, which one out of
/// a cookie is not. Of two packets that do this at once, one succeeds.
pub fn tcp_v4_syn_recv_sock(
    listener: &Arc<Sock>,
    ltp: &TcpSock,
    req: &RequestSock,
    hashed: bool,
    skb: Box<Skb>,
) -> std::result::Result<(), NoChild> {
    kernel::tp!(tcp_v4_syn_recv_sock, skb, listener.as_ref());
    let net = &listener.net;
    let Some((child, dst)) = new_child(listener, req) else { return Err(NoChild::Overflow(skb)) };
    let Some(th) = TcpHdr::read(skb.data()).copied() else { return Err(NoChild::Lost(skb)) };
    let mut guard = child.bh_lock_sock_nested();
    let Some(state) = guard.state() else { return Err(NoChild::Lost(skb)) };
    let tp = tcp_sk(state);
    fill_child(&child, tp, ltp, req, &skb, &th, dst);
    tcp_synack_rtt_meas(&child, tp, req);

    let found = match hashed {
        true => inet_ehash_replace_request(&child, req),
        false => inet_ehash_insert(&child, &req.tuple).is_ok(),
    };
    if !found {
        child.set_state(TcpState::Close);
        return Err(NoChild::Lost(skb));
    }
    inet_inherit_port(&child, &tp.inet);
    if hashed {
        reqsk_queue_removed(req);
    }
    if !inet_csk_reqsk_queue_add(listener, &child, None) {
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

// --- Fast Open (RFC 7413, 4.2) ---

/// Whether the SYN's data may be had at once; then the child is made, and the SYN-ACK sent. Otherwise `foc` becomes the
/// cookie to offer in the SYN-ACK to come (`tcp_try_fastopen`). `None`: the SYN is dropped.
fn tcp_try_fastopen(
    sk: &Arc<Sock>,
    ltp: &TcpSock,
    req: &Arc<RequestSock>,
    skb: &Skb,
    th: &TcpHdr,
    foc: &mut FastopenCookie,
    dst: &Arc<Dst>,
) -> Option<bool> {
    let cb = tcp_skb_cb(skb);
    let mib = &sk.net.mib;
    let syn_data = cb.end_seq != cb.seq.wrapping_add(1);
    if foc.len == 0 {
        mib.inc(Mib::TcpExtTCPFastOpenCookieReqd);
    }
    let asked = syn_data || foc.len >= 0;
    if !asked || sk.net.sysctl.tcp_fastopen.get() & TFO_SERVER_ENABLE == 0 || !tcp_fastopen_queue_check(sk) {
        *foc = FastopenCookie::NONE;
        return Some(false);
    }
    let exp = foc.exp;
    let mut offer = FastopenCookie::NONE;
    let mut renewed = FastopenCookie::NONE;
    let free = tcp_fastopen_no_cookie(sk, ltp, dst.metrics.as_deref(), TFO_SERVER_COOKIE_NOT_REQD);
    let good = free
        || match foc.len {
            0 => {
                offer = tcp_fastopen_cookie_gen(sk, &req.tuple);
                false
            }
            1.. => {
                let (worth, ours) = tcp_fastopen_cookie_gen_check(sk, &req.tuple, foc);
                offer = ours;
                match worth {
                    CookieWorth::Bad => false,
                    CookieWorth::Good => true,
                    CookieWorth::Old(fresh) => {
                        renewed = fresh;
                        true
                    }
                }
            }
            _ => false,
        };
    if good {
        let renew = renewed.len > 0;
        *foc = FastopenCookie { exp, ..renewed };
        match tcp_fastopen_create_child(sk, ltp, req, skb, th, foc, dst) {
            Some(queued) => {
                mib.inc(if renew { Mib::TcpExtTCPFastOpenPassiveAltKey } else { Mib::TcpExtTCPFastOpenPassive });
                return queued.then_some(true);
            }
            None => mib.inc(Mib::TcpExtTCPFastOpenPassiveFail),
        }
    } else if foc.len > 0 {
        mib.inc(Mib::TcpExtTCPFastOpenPassiveFail);
    }
    *foc = FastopenCookie { exp, ..offer };
    Some(false)
}

/// A child out of the SYN alone, with its data, which may be accepted and answer before the handshake is over
/// (`tcp_fastopen_create_child` and what `tcp_conn_request` does with it). `Some(false)`: the listener was closed meanwhile.
fn tcp_fastopen_create_child(
    listener: &Arc<Sock>,
    ltp: &TcpSock,
    req: &Arc<RequestSock>,
    skb: &Skb,
    th: &TcpHdr,
    foc: &FastopenCookie,
    dst: &Arc<Dst>,
) -> Option<bool> {
    let net = &listener.net;
    let (child, _) = new_child(listener, req)?;
    let mut guard = child.bh_lock_sock_nested();
    let tp = tcp_sk(guard.state()?);
    fill_child(&child, tp, ltp, req, skb, th, dst.clone());
    if inet_ehash_insert(&child, &req.tuple).is_err() {
        child.set_state(TcpState::Close);
        return None;
    }
    inet_inherit_port(&child, &tp.inet);
    req.tfo_listener.store(true, Release);
    handshake(tp).fastopen_rsk = Some(req.clone());
    inet_csk(listener).accept_queue.fastopenq.add();
    // RFC 7323, 2.2: the window of a SYN is not scaled.
    tp.snd_wnd = th.window.get() as u32;
    tp.max_window = tp.snd_wnd;
    // The child's timer repeats the SYN-ACK: the request is not in `ehash`.
    inet_csk_reset_xmit_timer(&child, tp, ICSK_TIME_RETRANS, TCP_TIMEOUT_INIT, TCP_RTO_MAX);
    tcp_init_transfer(&child, tp);
    tcp_fastopen_add_skb(&child, tp, skb.clone_skb());
    req.rcv_nxt.store(tp.rcv_nxt, Relaxed);
    tp.rcv_wup = tp.rcv_nxt;
    let tsval = tcp_clock_ms(net).wrapping_add(req.ts_off);
    let _ = send_synack(net, req, dst.clone(), &req_flow(req), tsval, *foc);
    let queued = inet_csk_reqsk_queue_add(listener, &child, Some(req));
    drop(guard);
    if queued {
        listener.data_ready();
    } else {
        inet_child_forget(&child);
    }
    Some(queued)
}

/// The headers of a SYN whose listener wants them kept (`tcp_reqsk_record_syn`): 1: from the IP header, 2: from the MAC header.
fn tcp_reqsk_record_syn(ltp: &TcpSock, skb: &Skb, th: &TcpHdr) -> Option<Box<[u8]>> {
    let how = ltp.rare.hs.as_ref().map_or(0, |h| h.save_syn);
    if how == 0 {
        return None;
    }
    let mac = if how == 2 { skb.mac_header().get(..ETH_HLEN).unwrap_or(&[]) } else { &[] };
    let len = skb.network_header_len() + th.header_len();
    Some([mac, skb.network_header().get(..len)?].concat().into())
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
    req.rcv_nxt = AtomicU32::new(seq.wrapping_add(1));
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
