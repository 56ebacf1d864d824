//! From a piece of the stream to a packet: header, options, and down to IP.
//!
//! Interface: [`tcp_transmit_skb`], [`tcp_xmit_piece`], [`tcp_send_ack`], [`tcp_send_active_reset`], [`tcp_make_synack`].
//! Linux counterpart: `__tcp_transmit_skb` and around it in `net/ipv4/tcp_output.c`.
//! Locks and context: socket lock; process or softirq context.

use super::inet_csk_timers::inet_csk_reset_delack_timer;
use super::tcp_accecn::{AccEcnOut, ace_ae, ace_flags};
use super::tcp_ao::AuthOut;
use super::tcp_auth::{tcp_auth_option, tcp_auth_sign};
use super::tcp_cwr::tcp_enter_cwr;
use super::tcp_ecn::{tcp_accecn_fit, tcp_accecn_option_sent, tcp_ecn_mark_syn, tcp_ecn_send};
use super::tcp_fastopen_cookie::{FastopenCookie, fastopen_option_size};
use super::tcp_mss::{tcp_advertise_mss, tcp_dst, tcp_select_window};
use super::tcp_options::TcpOutOptions;
use super::tcp_pacing::tcp_update_skb_after_send;
use super::tcp_queue::TxSkb;
use super::tcp_rate::tcp_rate_skb_sent;
use super::tcp_sock::*;
use super::tcp_tsq::tcp_wfree;
use crate::core::checksum::csum_partial_seed;
use crate::core::net_namespace::Net;
use crate::core::skbuff::{GsoType, MAX_HEADER, Skb};
use crate::core::snmp::Mib;
use crate::core::sock::Sock;
use crate::hdr::{IPPROTO_TCP, TcpHdr, tcp_flag};
use kernel::{Fault, should_fail, tp};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};
use uapi::{Errno, Result};

/// Room in front of a segment's payload: every header, options included.
const MAX_TCP_HEADER: usize = MAX_HEADER + 60;

/// What the SYN-ACK of a request looks like (`struct tcp_request_sock`, `tcp_out_options`). Ports in host order.
#[derive(Clone, Copy, Debug)]
pub struct SynAckArgs {
    pub saddr: IpAddr,
    pub daddr: IpAddr,
    pub sport: u16,
    pub dport: u16,
    /// Our initial sequence number (`snt_isn`).
    pub isn: u32,
    /// The peer's + 1.
    pub rcv_nxt: u32,
    /// Not scaled: as it stands in a SYN.
    pub rcv_wnd: u32,
    /// MSS we advertise.
    pub mss: u16,
    pub tstamp_ok: bool,
    /// Our timestamp, offset included, and the peer's to echo.
    pub tsval: u32,
    pub tsecr: u32,
    pub wscale_ok: bool,
    pub rcv_wscale: u8,
    pub sack_ok: bool,
    /// The flags AE, CWR and ECE as a number (RFC 9768, 3.1).
    pub ace: u8,
    pub accecn_option: bool,
    /// To be signed by the caller.
    pub auth: Option<AuthOut>,
    /// The Fast Open cookie to offer.
    pub fastopen: Option<FastopenCookie>,
}

/// The SYN-ACK for a request: TCP header with options and checksum (`Partial`), `data` at the header, headroom for the
/// rest (`tcp_make_synack`).
pub fn tcp_make_synack(net: &Net, a: &SynAckArgs) -> Box<Skb> {
    let mut opts = TcpOutOptions {
        mss: a.mss,
        sack_perm: a.sack_ok,
        wscale: a.wscale_ok.then_some(a.rcv_wscale),
        tstamp: a.tstamp_ok.then_some((a.tsval, a.tsecr)),
        auth: a.auth,
        fastopen: a.fastopen,
        ..TcpOutOptions::default()
    };
    if opts.size() > MAX_TCP_OPTION_SPACE {
        // Beside a signature there is no room for a cookie.
        opts.fastopen = None;
    }
    if a.accecn_option {
        // Nothing is counted yet: the fields show that the option gets through (RFC 9768, 3.2.3.2.1).
        opts.accecn = AccEcnOut::fit(&[0; 3], 0, MAX_TCP_OPTION_SPACE - opts.size(), opts.accecn_saving());
    }
    let mut skb = Skb::alloc(MAX_TCP_HEADER);
    skb.reserve(MAX_TCP_HEADER);
    let h = Header {
        sport: a.sport,
        dport: a.dport,
        seq: a.isn,
        ack: a.rcv_nxt,
        flags: tcp_flag::SYN | tcp_flag::ACK | ace_flags(a.ace),
        ae: ace_ae(a.ace),
        window: a.rcv_wnd.min(65535) as u16,
        urg_ptr: 0,
    };
    push_header(&mut skb, &h, &opts);
    tcp_v_send_check(&mut skb, a.saddr, a.daddr);
    net.mib.inc(Mib::TcpOutSegs);
    skb
}

/// A header's fields, in host order.
struct Header {
    sport: u16,
    dport: u16,
    seq: u32,
    ack: u32,
    flags: u8,
    ae: bool,
    window: u16,
    urg_ptr: u16,
}

fn push_header(skb: &mut Skb, h: &Header, opts: &TcpOutOptions) {
    let len = TcpHdr::LEN + opts.size();
    let b = skb.push(len);
    if let Some(th) = TcpHdr::read_mut(b) {
        th.source.set(h.sport);
        th.dest.set(h.dport);
        th.seq.set(h.seq);
        th.ack_seq.set(h.ack);
        th.doff = (len as u8 / 4) << 4 | h.ae as u8;
        th.flags = h.flags;
        th.window.set(h.window);
        th.check = [0; 2];
        th.urg_ptr.set(h.urg_ptr);
    }
    opts.write(&mut b[TcpHdr::LEN..]);
    skb.reset_transport_header();
}

/// Sets the checksum up for the device: pseudo-header sum and `IpSummed::Partial`; `data` at the TCP header
/// (`tcp_v4_send_check`, both versions).
pub fn tcp_v_send_check(skb: &mut Skb, saddr: IpAddr, daddr: IpAddr) {
    let seed = csum_partial_seed(saddr, daddr, skb.len(), IPPROTO_TCP);
    if let Some(th) = TcpHdr::read_mut(skb.data_mut()) {
        th.check = seed;
    }
    skb.set_csum_partial(16);
}

/// Options of a SYN or of a SYN-ACK sent by a socket (`tcp_syn_options`).
fn tcp_syn_options(sk: &Sock, tp: &mut TcpSock, synack: bool) -> TcpOutOptions {
    let s = &sk.net.sysctl;
    let agreed = |ours: bool, both: bool| if synack { both } else { ours };
    if let Ok(dst) = tcp_dst(sk, tp) {
        // The path may have turned out to be smaller since the first SYN (`tcp_advertise_mss`).
        tp.advmss = tp.advmss.min(tcp_advertise_mss(&dst, tp.is_v6()));
    }
    let mut o = TcpOutOptions { mss: tp.advmss, auth: tcp_auth_option(tp), ..TcpOutOptions::default() };
    // A signature of MD5's length leaves too little for timestamps and SACK blocks.
    if o.auth != Some(AuthOut::Md5) && agreed(s.tcp_timestamps.on(), tp.rx_opt.tstamp_ok) {
        o.tstamp = Some((tp.time_stamp().wrapping_add(tp.tsoffset), tp.rx_opt.ts_recent));
    }
    if agreed(s.tcp_window_scaling.on(), tp.rx_opt.wscale_ok) {
        o.wscale = Some(tp.rx_opt.rcv_wscale);
    }
    o.sack_perm = agreed(s.tcp_sack.on(), tp.rx_opt.sack_ok);
    if let Some(h) = tp.hs_mut().filter(|h| h.fastopen_req.is_some() && h.fastopen_cookie.len >= 0)
        && o.size() + fastopen_option_size(&h.fastopen_cookie) <= MAX_TCP_OPTION_SPACE
    {
        (h.syn_fastopen, h.syn_fastopen_exp) = (true, h.fastopen_cookie.exp);
        o.fastopen = Some(h.fastopen_cookie);
    }
    o
}

/// Options of a segment on a synchronised connection (`tcp_established_options`).
fn tcp_established_options(sk: &Sock, tp: &mut TcpSock) -> TcpOutOptions {
    let mut o = TcpOutOptions::default();
    if tp.rare.auth.is_some() {
        o.auth = tcp_auth_option(tp);
    }
    if tp.rx_opt.tstamp_ok {
        o.tstamp = Some((tp.time_stamp().wrapping_add(tp.tsoffset), tp.rx_opt.ts_recent));
    }
    if tp.rx_opt.num_sacks != 0 || tp.ofo.duplicate_sack.is_some() {
        tcp_sack_options(tp, &mut o);
    }
    if tp.rare.accecn.is_some() {
        tcp_accecn_options(sk, tp, &mut o);
    }
    o
}

#[cold]
fn tcp_accecn_options(sk: &Sock, tp: &mut TcpSock, o: &mut TcpOutOptions) {
    o.accecn = tcp_accecn_fit(sk, tp, MAX_TCP_OPTION_SPACE - o.size(), o.accecn_saving());
    if o.accecn.is_some() {
        tcp_accecn_option_sent(tp);
    }
}

fn tcp_sack_options(tp: &mut TcpSock, o: &mut TcpOutOptions) {
    let room = MAX_TCP_OPTION_SPACE.saturating_sub(o.size() + TCPOLEN_SACK_BASE_ALIGNED) / TCPOLEN_SACK_PERBLOCK;
    let ofo = tp.ofo.make();
    let ours = ofo.selective_acks.iter().take(tp.rx_opt.num_sacks as usize).copied();
    // RFC 2883: a duplicate is reported once, in the first block.
    for block in ofo.duplicate_sack.take().into_iter().chain(ours).take(room.min(TCP_NUM_SACKS)) {
        o.sacks[o.num_sacks as usize] = block;
        o.num_sacks += 1;
    }
}

/// A new packet that shares a piece's payload, without headers.
pub fn tcp_packet_of(piece: &TxSkb, v6: bool) -> Box<Skb> {
    let mut skb = Skb::alloc(MAX_TCP_HEADER);
    skb.reserve(MAX_TCP_HEADER);
    skb.copies = piece.copies;
    for f in &piece.frags {
        skb.add_frag(f.clone());
    }
    if piece.gso_segs > 1 {
        skb.gso_size = piece.gso_size;
        skb.gso_segs = piece.gso_segs;
        skb.gso_type = if v6 { GsoType::TCPV6 } else { GsoType::TCPV4 };
    }
    skb
}

/// A packet without payload.
fn tcp_empty_packet() -> Result<Box<Skb>> {
    let mut skb = Skb::try_alloc(MAX_TCP_HEADER)?;
    skb.reserve(MAX_TCP_HEADER);
    Ok(skb)
}

/// Puts the TCP header on `skb`, which holds the payload, and hands it to IP (`__tcp_transmit_skb`).
pub fn tcp_transmit_skb(sk: &Arc<Sock>, tp: &mut TcpSock, mut skb: Box<Skb>, seq: u32, flags: u8) -> Result<()> {
    if kernel::trace::enabled() {
        skb.identify(sk.net.kernel());
        skb.traced = sk.traced.load(Relaxed);
    }
    tp!(tcp_transmit_skb, skb, sk);
    let dst = tcp_dst(sk, tp)?;
    let l3 = sk.net.l3(tp.is_v6()).ok_or(Errno::EHOSTUNREACH)?;
    let (len, pcount) = (skb.len() as u32, (skb.gso_segs as u32).max(1));
    let syn = flags & tcp_flag::SYN != 0;
    let mut flags = flags;
    let (opts, window, ecn) = if syn {
        let opts = tcp_syn_options(sk, tp, flags & tcp_flag::ACK != 0);
        (opts, tp.rcv_wnd.min(65535) as u16, tcp_ecn_mark_syn(tp, flags))
    } else {
        let opts = tcp_established_options(sk, tp);
        (opts, tcp_select_window(sk, tp), tcp_ecn_send(tp, &mut skb, seq))
    };
    flags |= ecn.flags;
    let urg_ptr = tcp_urg_ptr(tp, seq, len, &mut flags);
    if pcount > 1 && !syn {
        // The receiver's GRO ends a packet there, instead of waiting for more of the same.
        flags |= tcp_flag::PSH;
    }
    let ack = if flags & tcp_flag::ACK != 0 { tp.rcv_nxt } else { 0 };
    let h = Header { sport: tp.inet.sport, dport: tp.inet.dport, seq, ack, flags, ae: ecn.ae, window, urg_ptr };
    push_header(&mut skb, &h, &opts);
    if opts.auth.is_some() {
        tcp_auth_sign(tp, &mut skb, seq, flags);
    }
    tcp_v_send_check(&mut skb, tp.inet.saddr(), tp.inet.daddr);

    if flags & tcp_flag::ACK != 0 {
        tcp_event_ack_sent(sk, tp);
    }
    if len > 0 {
        tcp_event_data_sent(sk, tp);
        tp.data_segs_out = tp.data_segs_out.wrapping_add(pcount);
        tp.bytes_sent += len as u64;
    }
    if len > 0 || flags & (tcp_flag::SYN | tcp_flag::FIN) != 0 {
        sk.wmem_alloc.fetch_add(skb.truesize as usize, AcqRel);
        skb.sk = Some(sk.clone());
        skb.destructor = Some(tcp_wfree);
    }
    tp.segs_out = tp.segs_out.wrapping_add(pcount);
    sk.net.mib.add(Mib::TcpOutSegs, pcount as u64);
    skb.dst = Some(dst);
    let mut params = tp.inet.xmit_params(sk);
    params.tos = (params.tos & !INET_ECN_MASK) | ecn.tos;
    let sent = (l3.queue_xmit)(&sk.net, Some(sk), skb, &tp.inet.flow(sk), &params);
    if sent == Err(Errno::ENOBUFS) {
        // The device's queue is full: that is congestion too.
        tcp_enter_cwr(sk, tp);
    }
    sent?;
    // What did not go out takes no time.
    tcp_update_skb_after_send(sk, tp, len);
    Ok(())
}

/// The urgent pointer for a segment (RFC 9293, 3.8.5; RFC 6093: it points behind the urgent byte).
fn tcp_urg_ptr(tp: &TcpSock, seq: u32, len: u32, flags: &mut u8) -> u16 {
    if tp.snd_una == tp.snd_up || !before(seq, tp.snd_up) {
        return 0;
    }
    let ahead = tp.snd_up.wrapping_sub(seq);
    if ahead <= 0xffff {
        *flags |= tcp_flag::URG;
        ahead as u16
    } else if after(seq.wrapping_add(0xffff), tp.snd_nxt.max(seq.wrapping_add(len))) {
        *flags |= tcp_flag::URG;
        0xffff
    } else {
        0
    }
}

/// An ACK is on its way: nothing is owed any more (`tcp_event_ack_sent`).
fn tcp_event_ack_sent(sk: &Sock, tp: &mut TcpSock) {
    if let Some(c) = tp.ofo.if_used().and_then(|o| o.comp_sack.as_deref_mut()).filter(|c| c.held > 0) {
        sk.net.mib.add(Mib::TcpExtTCPAckCompressed, std::mem::take(&mut c.held) as u64);
        c.timer.try_to_cancel();
    }
    let a = &mut tp.icsk_ack;
    if a.quick > 0 {
        a.quick -= 1;
        if a.quick == 0 {
            a.ato = TCP_ATO_MIN;
        }
    }
    a.pending = 0;
    a.retry = 0;
}

/// `tcp_event_data_sent`.
fn tcp_event_data_sent(sk: &Sock, tp: &mut TcpSock) {
    let now = tp.jiffies32();
    if tp.packets_in_flight() == 0 {
        super::tcp_cong::tcp_ca_event(sk, tp, TcpCaEvent::TxStart);
    }
    tp.lsndtime = now;
    // A reply soon after data came: the session is interactive.
    if now.wrapping_sub(tp.icsk_ack.lrcvtime) < tp.icsk_ack.ato {
        tp.icsk_ack.pingpong = tp.icsk_ack.pingpong.saturating_add(1);
    }
}

/// Sends piece `i` of the queue as it is (`tcp_transmit_skb` with a clone).
pub fn tcp_xmit_piece(sk: &Arc<Sock>, tp: &mut TcpSock, i: usize) -> Result<()> {
    if should_fail(Fault::Skb) {
        return Err(Errno::ENOBUFS);
    }
    let v6 = tp.is_v6();
    let now = tp.tcp_mstamp;
    let (xmit_id, again) = (tp.segs_out, i < tp.tx.head_index());
    tcp_rate_skb_sent(tp, i);
    let Some(piece) = tp.tx.get_mut(i) else { return Err(Errno::EINVAL) };
    if !again {
        (piece.mstamp, piece.xmit_id) = (now, xmit_id);
    }
    let (skb, seq, flags) = (tcp_packet_of(piece, v6), piece.seq, piece.tcp_flags);
    let r = tcp_transmit_skb(sk, tp, skb, seq, flags);
    // What could not be sent again was last sent when it was.
    if again && r.is_ok() {
        tp.tx.restamp(i, |s| (s.mstamp, s.xmit_id) = (now, xmit_id));
    }
    r
}

/// The sequence number of a segment without data, inside the peer's window as well as can be (`tcp_acceptable_seq`).
fn tcp_acceptable_seq(tp: &TcpSock) -> u32 {
    let end = tp.wnd_end();
    let close = tp.rx_opt.wscale_ok && tp.snd_nxt.wrapping_sub(end) < 1 << tp.rx_opt.rcv_wscale;
    if !before(end, tp.snd_nxt) || close { tp.snd_nxt } else { end }
}

/// Sends an ACK now (`tcp_send_ack`).
pub fn tcp_send_ack(sk: &Arc<Sock>, tp: &mut TcpSock) {
    use uapi::tcp::TcpState;
    if sk.state() == TcpState::Close {
        return;
    }
    let Ok(skb) = tcp_empty_packet() else { return tcp_ack_later(sk, tp) };
    let seq = tcp_acceptable_seq(tp);
    let _ = tcp_transmit_skb(sk, tp, skb, seq, tcp_flag::ACK);
}

/// There was no packet for an ACK: the delayed-ACK timer tries again, ever later.
#[cold]
fn tcp_ack_later(sk: &Arc<Sock>, tp: &mut TcpSock) {
    let delay = TCP_DELACK_MAX.checked_shl(tp.icsk_ack.retry as u32).unwrap_or(u32::MAX);
    if delay < TCP_RTO_MAX {
        tp.icsk_ack.retry += 1;
    }
    tp.icsk_ack.pending |= ICSK_ACK_SCHED | ICSK_ACK_TIMER;
    tp.icsk_ack.ato = TCP_ATO_MIN;
    let expires = sk.net.kernel().jiffies() + delay.min(TCP_RTO_MAX) as u64;
    inet_csk_reset_delack_timer(sk, tp, expires);
}

/// Sends an ACK with an old sequence number, to make the peer answer (`tcp_xmit_probe_skb`).
pub fn tcp_xmit_probe_skb(sk: &Arc<Sock>, tp: &mut TcpSock, urgent: bool, mib: Mib) -> Result<()> {
    let seq = tp.snd_una.wrapping_sub(!urgent as u32);
    sk.net.mib.inc(mib);
    tcp_transmit_skb(sk, tp, tcp_empty_packet()?, seq, tcp_flag::ACK)
}

/// Sends a RST for the connection (`tcp_send_active_reset`).
pub fn tcp_send_active_reset(sk: &Arc<Sock>, tp: &mut TcpSock) {
    sk.net.mib.inc(Mib::TcpOutRsts);
    tp.mstamp_refresh(sk);
    let seq = tcp_acceptable_seq(tp);
    let sent = tcp_empty_packet().and_then(|skb| tcp_transmit_skb(sk, tp, skb, seq, tcp_flag::ACK | tcp_flag::RST));
    if sent.is_err() {
        sk.net.mib.inc(Mib::TcpExtTCPAbortFailed);
    }
}
