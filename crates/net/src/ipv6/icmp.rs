//! ICMPv6: echo, errors both ways.
//!
//! Interface: [`icmpv6_rcv`], [`icmpv6_send`], [`icmpv6_register`] (neighbour discovery and others take their types),
//! [`icmpv6_checksum`].
//! Linux counterpart: `net/ipv6/icmp.c`.
//! Locks and context: receive in softirq context; sending in any. The rate limit has locks of its own.

use super::addrconf_core::{IPV6_MIN_MTU, is_link_local};
use super::exthdrs_core::ipv6_skip_exthdr;
use super::ip6_output::ip6_xmit;
use super::route::{ip6_is_local, ip6_route_output, ip6_update_pmtu};
use crate::core::checksum::{csum_tcpudp_magic, skb_checksum};
use crate::core::flow::Flow;
use crate::core::l3::{IcmpError, XmitParams};
use crate::core::net_namespace::{Net, NetId};
use crate::core::skbuff::{GsoType, IpSummed, MAX_HEADER, PktType, Skb};
use crate::core::snmp::Mib;
use crate::hdr::{IPPROTO_ICMPV6, Icmpv6Hdr, Ipv6Hdr};
use crate::ipv4::ping::ping_err;
use kernel::SpinLock;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, OnceLock};
use uapi::{Errno, Result};
use zerocopy::IntoBytes;

pub const ICMPV6_DEST_UNREACH: u8 = 1;
pub const ICMPV6_PKT_TOOBIG: u8 = 2;
pub const ICMPV6_TIME_EXCEED: u8 = 3;
pub const ICMPV6_PARAMPROB: u8 = 4;
/// Types from here on are informational, not errors.
pub const ICMPV6_INFOMSG_MASK: u8 = 0x80;
pub const ICMPV6_ECHO_REQUEST: u8 = 128;
pub const ICMPV6_ECHO_REPLY: u8 = 129;
pub const NDISC_REDIRECT: u8 = 137;

/// Codes of [`ICMPV6_DEST_UNREACH`].
pub const ICMPV6_NOROUTE: u8 = 0;
pub const ICMPV6_ADM_PROHIBITED: u8 = 1;
pub const ICMPV6_NOT_NEIGHBOUR: u8 = 2;
pub const ICMPV6_ADDR_UNREACH: u8 = 3;
pub const ICMPV6_PORT_UNREACH: u8 = 4;
/// Codes of [`ICMPV6_TIME_EXCEED`].
pub const ICMPV6_EXC_HOPLIMIT: u8 = 0;
pub const ICMPV6_EXC_FRAGTIME: u8 = 1;
/// Codes of [`ICMPV6_PARAMPROB`]: a field, a next-header number, an option.
pub const ICMPV6_HDR_FIELD: u8 = 0;
pub const ICMPV6_UNK_NEXTHDR: u8 = 1;
pub const ICMPV6_UNK_OPTION: u8 = 2;

type Handler = fn(&Arc<Net>, Box<Skb>);

/// ICMPv6's part of a namespace.
pub struct Icmp6 {
    /// Who takes messages of a type; `data` is at the ICMPv6 header, whose checksum was right.
    handlers: [OnceLock<Handler>; 256],
    limit: RateLimit,
}

impl Default for Icmp6 {
    fn default() -> Self {
        Icmp6 { handlers: [const { OnceLock::new() }; 256], limit: RateLimit::default() }
    }
}

fn icmp6(net: &Net) -> &Icmp6 {
    net.generic(NetId::Ipv6Icmp)
}

/// Takes the messages of a type; the first to ask gets them.
pub fn icmpv6_register(net: &Net, kind: u8, handler: Handler) {
    let _ = icmp6(net).handlers[kind as usize].set(handler);
}

/// The checksum over an ICMPv6 message at `data`, with the pseudo-header (RFC 4443, 2.3). `[0, 0]`: it is right.
pub fn icmpv6_checksum(skb: &Skb, saddr: Ipv6Addr, daddr: Ipv6Addr) -> [u8; 2] {
    let sum = skb_checksum(skb, 0, skb.len(), 0);
    csum_tcpudp_magic(saddr.into(), daddr.into(), skb.len(), IPPROTO_ICMPV6, sum)
}

// --- Receive ---

fn checksum_ok(skb: &Skb, saddr: Ipv6Addr, daddr: Ipv6Addr) -> bool {
    match skb.ip_summed {
        IpSummed::Unnecessary | IpSummed::Partial => true,
        IpSummed::Complete | IpSummed::None => icmpv6_checksum(skb, saddr, daddr) == [0, 0],
    }
}

/// `icmpv6_rcv`: the handler of next header 58. `data` is at the ICMPv6 header.
pub fn icmpv6_rcv(net: &Arc<Net>, mut skb: Box<Skb>) {
    kernel::tp!(icmpv6_rcv, skb);
    net.mib.inc(Mib::Icmp6InMsgs);
    let Some((saddr, daddr)) = Ipv6Hdr::read(skb.network_header()).map(|h| (h.src(), h.dst())) else {
        return net.mib.inc(Mib::Icmp6InErrors);
    };
    if !skb.may_pull(Icmpv6Hdr::LEN) {
        return net.mib.inc(Mib::Icmp6InErrors);
    }
    if !checksum_ok(&skb, saddr, daddr) {
        net.mib.inc(Mib::Icmp6InCsumErrors);
        return net.mib.inc(Mib::Icmp6InErrors);
    }
    let Some(header) = Icmpv6Hdr::read(skb.data()).copied() else { return };
    count_in(net, header.kind);
    if header.kind == ICMPV6_ECHO_REQUEST {
        return icmpv6_echo_reply(net, skb);
    }
    if let Some(handler) = icmp6(net).handlers[header.kind as usize].get() {
        return handler(net, skb);
    }
    // RFC 4443, 2.4 (a), (b): unknown errors go up, unknown information goes nowhere.
    if header.kind & ICMPV6_INFOMSG_MASK == 0 {
        icmpv6_notify(net, skb, header, saddr);
    }
}

fn count_in(net: &Net, kind: u8) {
    let mib = match kind {
        ICMPV6_DEST_UNREACH => Mib::Icmp6InDestUnreachs,
        ICMPV6_PKT_TOOBIG => Mib::Icmp6InPktTooBigs,
        ICMPV6_TIME_EXCEED => Mib::Icmp6InTimeExcds,
        ICMPV6_PARAMPROB => Mib::Icmp6InParmProblems,
        ICMPV6_ECHO_REQUEST => Mib::Icmp6InEchos,
        ICMPV6_ECHO_REPLY => Mib::Icmp6InEchoReplies,
        133 => Mib::Icmp6InRouterSolicits,
        134 => Mib::Icmp6InRouterAdvertisements,
        135 => Mib::Icmp6InNeighborSolicits,
        136 => Mib::Icmp6InNeighborAdvertisements,
        NDISC_REDIRECT => Mib::Icmp6InRedirects,
        _ => return,
    };
    net.mib.inc(mib);
}

/// `icmpv6_err_convert`: the errno of an error, and whether a connection should die of it.
pub fn icmpv6_err_convert(kind: u8, code: u8) -> (Errno, bool) {
    match (kind, code) {
        (ICMPV6_DEST_UNREACH, ICMPV6_NOROUTE) => (Errno::ENETUNREACH, false),
        (ICMPV6_DEST_UNREACH, ICMPV6_NOT_NEIGHBOUR | ICMPV6_ADDR_UNREACH) => (Errno::EHOSTUNREACH, false),
        (ICMPV6_DEST_UNREACH, ICMPV6_PORT_UNREACH) => (Errno::ECONNREFUSED, true),
        // Prohibited, policy failed, route rejected (RFC 4443, 3.1).
        (ICMPV6_DEST_UNREACH, ICMPV6_ADM_PROHIBITED | 5 | 6) => (Errno::EACCES, true),
        (ICMPV6_PKT_TOOBIG, _) => (Errno::EMSGSIZE, false),
        (ICMPV6_TIME_EXCEED, _) => (Errno::EHOSTUNREACH, false),
        (ICMPV6_PARAMPROB, _) => (Errno::EPROTO, true),
        _ => (Errno::EPROTO, false),
    }
}

/// `icmpv6_notify`: tells the transport whose packet an error quotes.
fn icmpv6_notify(net: &Arc<Net>, mut skb: Box<Skb>, header: Icmpv6Hdr, offender: Ipv6Addr) {
    let quotable = skb.len().min(IPV6_MIN_MTU as usize);
    if !skb.may_pull(quotable) || quotable < Icmpv6Hdr::LEN + Ipv6Hdr::LEN {
        return net.mib.inc(Mib::Icmp6InErrors);
    }
    let quoted = skb.data().get(Icmpv6Hdr::LEN..quotable).unwrap_or_default();
    let (Some(inner), Some(upper)) = (Ipv6Hdr::read(quoted), ipv6_skip_exthdr(quoted)) else {
        return net.mib.inc(Mib::Icmp6InErrors);
    };
    // Transports need eight bytes of theirs to know the socket.
    let Some(transport) = quoted.get(upper.offset..).filter(|t| t.len() >= 8 && !upper.later_fragment) else {
        return net.mib.inc(Mib::Icmp6InErrors);
    };
    let info = if header.kind == ICMPV6_PKT_TOOBIG { u32::from_be_bytes(header.rest) } else { 0 };
    let (errno, fatal) = icmpv6_err_convert(header.kind, header.code);
    let (saddr, daddr) = (inner.src(), inner.dst());
    // Only a packet that we can have sent teaches something; whether we did, its transport knows, and learns the path MTU.
    if !ip6_is_local(net, saddr) {
        return net.mib.inc(Mib::Icmp6InErrors);
    }
    let err = IcmpError {
        saddr: saddr.into(),
        daddr: daddr.into(),
        kind: header.kind,
        code: header.code,
        info,
        errno,
        fatal,
        offender: offender.into(),
    };
    let section = kernel::rcu_read_lock();
    if let Some(proto) = net.reg.inet6_protos[upper.proto as usize].dereference(&section) {
        (proto.err_handler)(net, &err, transport);
    }
}

/// `icmpv6_xrlim_allow`: whether one more unasked message may go to a peer now.
pub fn icmpv6_xrlim_allow(net: &Net, peer: Ipv6Addr) -> bool {
    icmp6(net).limit.allow(net, peer)
}

/// The `err_handler` of ICMPv6 itself: an echo request of ours may have been too big; a ping socket is told.
pub fn icmpv6_err(net: &Arc<Net>, err: &IcmpError, quoted: &[u8]) {
    if quoted.first() == Some(&ICMPV6_ECHO_REQUEST) {
        ping_err(net, err, quoted);
    }
    if err.kind == ICMPV6_PKT_TOOBIG {
        ip6_update_pmtu(net, &Flow::new(IPPROTO_ICMPV6, err.saddr, 0, err.daddr, 0), err.info);
    }
}

/// `icmpv6_echo_reply`: turns the request around; its payload is not copied (RFC 4443, 4.2).
fn icmpv6_echo_reply(net: &Arc<Net>, mut skb: Box<Skb>) {
    if net.sysctl.icmp6_echo_ignore_all.on() {
        return;
    }
    let Some((saddr, daddr)) = Ipv6Hdr::read(skb.network_header()).map(|h| (h.src(), h.dst())) else { return };
    let tclass = Ipv6Hdr::read(skb.network_header()).map_or(0, |h| h.traffic_class());
    let from = if daddr.is_multicast() { Ipv6Addr::UNSPECIFIED } else { daddr };
    let mut flow = Flow::new(IPPROTO_ICMPV6, from.into(), 0, saddr.into(), 0);
    flow.oif = reply_oif(&skb, &saddr);
    let mark = skb.mark;
    become_ours(&mut skb);
    if let Some(h) = Icmpv6Hdr::read_mut(skb.data_mut()) {
        h.kind = ICMPV6_ECHO_REPLY;
    }
    if icmpv6_push(net, skb, &mut flow, &XmitParams { tos: tclass & 0xfc, mark, ..Default::default() }).is_ok() {
        net.mib.inc(Mib::Icmp6OutEchoReplies);
    }
}

/// An answer to a link-local address leaves by the link it came from.
fn reply_oif(skb: &Skb, to: &Ipv6Addr) -> u32 {
    if is_link_local(to) || to.is_multicast() { skb.dev.as_ref().map_or(0, |d| d.ifindex) } else { 0 }
}

/// Makes a received packet one to send: nothing of its way here stays.
fn become_ours(skb: &mut Skb) {
    skb.orphan();
    skb.dst = None;
    skb.dev = None;
    skb.ip_summed = IpSummed::None;
    skb.pkt_type = PktType::Host;
    skb.gso_size = 0;
    skb.gso_segs = 0;
    skb.gso_type = GsoType::empty();
    skb.hash = 0;
    skb.tstamp = 0;
    skb.skb_iif = 0;
}

// --- Send ---

/// Routes an ICMPv6 message at `data`, fills in its checksum and sends it; `flow.saddr` is chosen if unspecified.
fn icmpv6_push(net: &Arc<Net>, mut skb: Box<Skb>, flow: &mut Flow, p: &XmitParams) -> Result<()> {
    let dst = ip6_route_output(net, flow)?;
    skb.dst = Some(dst);
    skb.reset_transport_header();
    let (IpAddr::V6(saddr), IpAddr::V6(daddr)) = (flow.saddr, flow.daddr) else { return Err(Errno::EINVAL) };
    if let Some(h) = Icmpv6Hdr::read_mut(skb.data_mut()) {
        h.check = [0, 0];
    }
    let check = icmpv6_checksum(&skb, saddr, daddr);
    if let Some(h) = Icmpv6Hdr::read_mut(skb.data_mut()) {
        h.check = check;
    }
    net.mib.inc(Mib::Icmp6OutMsgs);
    ip6_xmit(net, None, skb, flow, p)
}

/// Whether a packet must not be answered with an error (RFC 4443, 2.4 e).
fn is_ineligible(skb: &Skb, header: &Ipv6Hdr, kind: u8, code: u8) -> bool {
    let (saddr, daddr) = (header.src(), header.dst());
    let group_too = kind == ICMPV6_PKT_TOOBIG || (kind == ICMPV6_PARAMPROB && code == ICMPV6_UNK_OPTION);
    let to_group = daddr.is_multicast() || matches!(skb.pkt_type, PktType::Broadcast | PktType::Multicast);
    if saddr.is_unspecified() || saddr.is_multicast() || (to_group && !group_too) {
        return true;
    }
    let Some(upper) = ipv6_skip_exthdr(skb.network_header()) else { return false };
    // A later fragment does not show whether it is of an error.
    let inner = skb.network_header().get(upper.offset).filter(|_| !upper.later_fragment);
    let is_error = |&t: &u8| t & ICMPV6_INFOMSG_MASK == 0 || t == NDISC_REDIRECT;
    upper.proto == IPPROTO_ICMPV6 && inner.is_none_or(is_error)
}

/// `icmpv6_send`: answers a packet that came in by `skb.dev` with an error; `info` is the pointer or the MTU. Its IPv6 header
/// is where the network header mark is. Does nothing where RFC 4443, 2.4 says so, and over the rate limit.
pub fn icmpv6_send(skb: &Skb, kind: u8, code: u8, info: u32) {
    let Some((dev, net)) = skb.dev.as_ref().and_then(|d| Some((d, d.net()?))) else { return };
    let Some(header) = Ipv6Hdr::read(skb.network_header()).copied() else { return };
    if header.version() != 6 || is_ineligible(skb, &header, kind, code) {
        return;
    }
    let (saddr, daddr) = (header.src(), header.dst());
    if kind != ICMPV6_PKT_TOOBIG && !dev.is_loopback() && !icmpv6_xrlim_allow(&net, saddr) {
        return net.mib.inc(Mib::Icmp6OutRateLimitHost);
    }
    let ours = !daddr.is_multicast() && ip6_is_local(&net, daddr);
    let from = if ours { daddr } else { Ipv6Addr::UNSPECIFIED };
    let mut flow = Flow::new(IPPROTO_ICMPV6, from.into(), 0, saddr.into(), 0);
    flow.oif = reply_oif(skb, &saddr);
    let answer = quote(skb, Icmpv6Hdr { kind, code, check: [0; 2], rest: info.to_be_bytes() });
    if icmpv6_push(&net, answer, &mut flow, &XmitParams { mark: skb.mark, ..Default::default() }).is_ok() {
        count_out(&net, kind);
    }
}

fn count_out(net: &Net, kind: u8) {
    net.mib.inc(match kind {
        ICMPV6_DEST_UNREACH => Mib::Icmp6OutDestUnreachs,
        ICMPV6_PKT_TOOBIG => Mib::Icmp6OutPktTooBigs,
        ICMPV6_TIME_EXCEED => Mib::Icmp6OutTimeExcds,
        _ => Mib::Icmp6OutParmProblems,
    });
}

/// An error message with as much of the packet as fits into the minimum MTU (RFC 4443, 2.4 c).
fn quote(skb: &Skb, header: Icmpv6Hdr) -> Box<Skb> {
    let max = IPV6_MIN_MTU as usize - Ipv6Hdr::LEN - Icmpv6Hdr::LEN;
    let mut out = Skb::alloc(MAX_HEADER + IPV6_MIN_MTU as usize);
    out.reserve(MAX_HEADER + Ipv6Hdr::LEN);
    out.put(Icmpv6Hdr::LEN).copy_from_slice(header.as_bytes());
    let mut left = max;
    for part in std::iter::once(skb.network_header()).chain(skb.frags().iter().map(|f| &**f)) {
        let n = left.min(part.len());
        out.put(n).copy_from_slice(&part[..n]);
        left -= n;
    }
    out
}

// --- Rate limit (RFC 4443, 2.4 f) ---

#[derive(Default, Clone, Copy)]
struct Bucket {
    tokens: u64,
    /// Jiffies.
    last: u64,
}

const PEERS: usize = 256;
/// `XRLIM_BURST_FACTOR`.
const BURST: u64 = 6;

/// One bucket for all errors, and one for each of many peers (by hash: a peer's bucket may be shared).
struct RateLimit {
    global: SpinLock<Bucket>,
    peers: Box<[SpinLock<Bucket>]>,
}

impl Default for RateLimit {
    fn default() -> Self {
        let bucket = |_| SpinLock::new(Bucket::default());
        RateLimit { global: bucket(0), peers: (0..PEERS).map(bucket).collect() }
    }
}

impl Bucket {
    /// Takes `cost` of what has gathered, one a jiffy times `rate`, at most `max`.
    fn take(&mut self, now: u64, rate: u64, cost: u64, max: u64) -> bool {
        let fresh = self.last == 0;
        let gained = now.saturating_sub(self.last).saturating_mul(rate);
        self.tokens = if fresh { max } else { self.tokens.saturating_add(gained).min(max) };
        self.last = now.max(1);
        let ok = self.tokens >= cost;
        if ok {
            self.tokens -= cost;
        }
        ok
    }
}

impl RateLimit {
    fn allow(&self, net: &Net, peer: Ipv6Addr) -> bool {
        let now = net.kernel().jiffies();
        let interval = net.sysctl.icmp6_ratelimit.get() as u64;
        let mine = &self.peers[net.hash(&peer) as usize % PEERS];
        if interval != 0 && !mine.lock_bh().take(now, 1, interval, BURST * interval) {
            return false;
        }
        // In thousandths of a message.
        let rate = net.sysctl.icmp_msgs_per_sec.get() as u64;
        self.global.lock_bh().take(now, rate, 1000, net.sysctl.icmp_msgs_burst.get() as u64 * 1000)
    }
}
