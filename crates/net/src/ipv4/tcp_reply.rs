//! Segments that no socket sends: RST for nobody's, ACK for requests and time-wait entries.
//!
//! Interface: [`tcp_v4_send_reset`], [`tcp_v4_timewait_ack`], [`tcp_v4_reqsk_send_ack`], [`skb_tuple`].
//! Linux counterpart: `tcp_v4_send_reset`, `tcp_v4_send_ack` in `net/ipv4/tcp_ipv4.c`, and their like in `tcp_ipv6.c`.
//! Locks and context: softirq context, or the backlog.

use crate::core::dev::ETH_P_IPV6;
use crate::core::flow::Flow;
use crate::core::l3::{DontFragment, XmitParams};
use crate::core::net_namespace::Net;
use crate::core::skbuff::{MAX_HEADER, Skb};
use crate::core::snmp::Mib;
use crate::core::sock::Sock;
use crate::hdr::tcp_flag::{ACK, FIN, RST, SYN};
use crate::hdr::{IPPROTO_TCP, IpHdr, Ipv6Hdr, TcpHdr};
use crate::ipv4::inet_sock::InetTuple;
use crate::ipv4::inet_timewait_sock::InetTimewaitSock;
use crate::ipv4::request_sock::RequestSock;
use crate::ipv4::secure_seq::tcp_clock_ms;
use crate::ipv4::tcp_auth::{AuthOptions, tcp_auth_possible, tcp_parse_auth_options};
use crate::ipv4::tcp_auth_key::AuthKey;
use crate::ipv4::tcp_options::TcpOutOptions;
use crate::ipv4::tcp_transmit::tcp_v_send_check;
use kernel::{Fault, should_fail};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// The addresses of a received packet, source first, by its network header.
pub fn skb_addrs(skb: &Skb) -> Option<(IpAddr, IpAddr)> {
    let b = skb.network_header();
    if skb.protocol == ETH_P_IPV6 {
        return Ipv6Hdr::read(b).map(|h| (h.src().into(), h.dst().into()));
    }
    IpHdr::read(b).map(|h| (h.src().into(), h.dst().into()))
}

/// The coordinates of the connection a received segment belongs to, seen from here. `data` is at the TCP header.
pub fn skb_tuple(skb: &Skb, th: &TcpHdr) -> Option<InetTuple> {
    let (saddr, daddr) = skb_addrs(skb)?;
    Some(InetTuple { laddr: daddr, faddr: saddr, lport: th.dest.get(), fport: th.source.get() })
}

/// The device a packet came in by.
pub fn skb_dif(skb: &Skb) -> u32 {
    skb.dev.as_ref().map_or(skb.skb_iif, |d| d.ifindex)
}

/// The device a reply to `faddr` must leave by: the one the packet came in by if only that tells where the address is.
pub fn reply_oif(faddr: IpAddr, bound_dev_if: u32, iif: u32) -> u32 {
    match faddr {
        _ if bound_dev_if != 0 => bound_dev_if,
        IpAddr::V6(a) if a.is_unicast_link_local() => iif,
        _ => 0,
    }
}

/// A segment to be sent.
struct Reply<'a> {
    auth: Option<&'a AuthKey>,
    tuple: InetTuple,
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    tstamp: Option<(u32, u32)>,
    oif: u32,
    tos: u8,
    mark: u32,
    traced: bool,
}

impl Reply<'_> {
    fn send(self, net: &Arc<Net>) {
        let t = self.tuple;
        let Some(l3) = net.l3(t.faddr.is_ipv6()) else { return };
        let mut flow = Flow {
            tos: self.tos,
            mark: self.mark,
            oif: self.oif,
            anysrc: true,
            ..Flow::new(IPPROTO_TCP, t.laddr, t.lport, t.faddr, t.fport)
        };
        let Ok(dst) = (l3.route_output)(net, &mut flow) else { return };
        if should_fail(Fault::Skb) {
            return;
        }
        let mut skb = self.build();
        skb.dst = Some(dst);
        net.mib.inc(Mib::TcpOutSegs);
        if self.flags & RST != 0 {
            net.mib.inc(Mib::TcpOutRsts);
        }
        let p =
            XmitParams { tos: self.tos, dont_fragment: DontFragment::Always, mark: self.mark, ..XmitParams::default() };
        // A reply that cannot be sent is lost like one on the wire.
        let _ = (l3.queue_xmit)(net, None, skb, &flow, &p);
    }

    fn build(&self) -> Box<Skb> {
        let auth = self.auth.map(|a| a.option());
        let opts = TcpOutOptions { tstamp: self.tstamp, auth, ..TcpOutOptions::default() };
        let len = TcpHdr::LEN + opts.size();
        let mut skb = Skb::alloc(MAX_HEADER + len);
        skb.reserve(MAX_HEADER);
        let b = skb.put(len);
        b.fill(0);
        if let Some(th) = TcpHdr::read_mut(b) {
            th.source.set(self.tuple.lport);
            th.dest.set(self.tuple.fport);
            th.seq.set(self.seq);
            th.ack_seq.set(self.ack);
            th.doff = (len as u8 / 4) << 4;
            th.flags = self.flags;
            th.window.set(self.window);
        }
        opts.write(&mut b[TcpHdr::LEN..]);
        skb.reset_transport_header();
        skb.traced = self.traced;
        if let Some(auth) = self.auth {
            auth.sign(&mut skb, &self.tuple, self.seq, false);
        }
        tcp_v_send_check(&mut skb, self.tuple.laddr, self.tuple.faddr);
        skb
    }
}

/// Answers a segment with a RST (RFC 9293, 3.10.7.1): with the number the peer expects if it sent one, else by acknowledging
/// what it sent. Never answers a RST. The segment's checksum is right, and `data` at its header.
pub fn tcp_v4_send_reset(net: &Arc<Net>, sk: Option<&Sock>, skb: &Skb) {
    tcp_v4_send_reset_signed(net, sk, skb, None);
}

/// The same, for a peer that we have a key for. Who signs is never answered without signature: it would not be believed.
pub fn tcp_v4_send_reset_signed(net: &Arc<Net>, sk: Option<&Sock>, skb: &Skb, auth: Option<&AuthKey>) {
    kernel::tp!(tcp_v4_send_reset, skb);
    let Some(th) = TcpHdr::read(skb.data()).copied() else { return };
    let Some(tuple) = skb_tuple(skb, &th) else { return };
    // Without a socket the route must tell that the packet was for this machine.
    let not_ours = sk.is_none() && skb.dst.as_ref().is_some_and(|d| !d.is_local());
    if th.has(RST) || not_ours || tuple.laddr.is_multicast() {
        return;
    }
    let opts = skb.data().get(TcpHdr::LEN..th.header_len()).unwrap_or(&[]);
    if auth.is_none() && tcp_auth_possible(skb, &th) && tcp_parse_auth_options(opts) != Ok(AuthOptions::default()) {
        return;
    }
    let (seq, ack, flags) = if th.has(ACK) {
        (th.ack_seq.get(), 0, RST)
    } else {
        let payload = skb.len().saturating_sub(th.header_len()) as u32;
        let len = payload + (th.flags & SYN != 0) as u32 + (th.flags & FIN != 0) as u32;
        (0, th.seq.get().wrapping_add(len), RST | ACK)
    };
    let dev = sk.map_or(0, |s| s.bound_dev_if.load(Relaxed));
    Reply {
        auth,
        tuple,
        seq,
        ack,
        flags,
        window: 0,
        tstamp: None,
        oif: reply_oif(tuple.faddr, dev, skb_dif(skb)),
        tos: 0,
        mark: sk.map_or(0, |s| s.rare.mark()),
        traced: skb.traced,
    }
    .send(net)
}

/// An ACK that repeats where the closed connection stands.
pub fn tcp_v4_timewait_ack(net: &Arc<Net>, tw: &InetTimewaitSock, skb: &Skb) {
    let ts_recent = tw.ts_recent.load(Relaxed);
    let with_ts = tw.ts_recent_stamp.load(Relaxed) != 0;
    Reply {
        auth: tw.auth.as_deref(),
        tuple: tw.tuple,
        seq: tw.snd_nxt,
        ack: tw.rcv_nxt.load(Relaxed),
        flags: ACK,
        window: (tw.rcv_wnd >> tw.rcv_wscale).min(65535) as u16,
        tstamp: with_ts.then(|| (tcp_clock_ms(net).wrapping_add(tw.ts_offset), ts_recent)),
        oif: reply_oif(tw.tuple.faddr, tw.bound_dev_if, skb_dif(skb)),
        tos: tw.tos,
        mark: tw.mark,
        traced: skb.traced,
    }
    .send(net)
}

/// An ACK that repeats where the handshake stands.
pub fn tcp_v4_reqsk_send_ack(net: &Arc<Net>, req: &RequestSock, skb: &Skb) {
    let tstamp = (tcp_clock_ms(net).wrapping_add(req.ts_off), req.ts_recent.load(Relaxed));
    Reply {
        auth: req.auth.as_deref(),
        tuple: req.tuple,
        seq: req.snt_isn.wrapping_add(1),
        ack: req.rcv_isn.wrapping_add(1),
        flags: ACK,
        window: (req.rsk_rcv_wnd >> req.rcv_wscale).min(65535) as u16,
        tstamp: req.tstamp_ok.then_some(tstamp),
        oif: reply_oif(req.tuple.faddr, req.bound_dev_if, skb_dif(skb)),
        tos: req.tos,
        mark: req.mark,
        traced: skb.traced,
    }
    .send(net)
}
