//! ICMP (RFC 792, RFC 1122).
//!
//! Interface: [`icmp_rcv`], [`icmp_send`], [`icmp_err`], [`icmp_net_init`], [`ms_since_midnight`].
//! Linux counterpart: `net/ipv4/icmp.c`; rate limits: `inet_peer_xrlim_allow` in `inetpeer.c`.
//! Locks and context: receive in softirq context, send in any; the rate limiters have a lock each.

use crate::core::checksum::{csum_fold, csum_replace2, skb_checksum};
use crate::core::dst::RtnType;
use crate::core::flow::Flow;
use crate::core::l3::{IcmpError, XmitParams};
use crate::core::net_namespace::{Net, NetId};
use crate::core::skbuff::{IpSummed, MAX_HEADER, PktType, Skb};
use crate::core::snmp::Mib;
use crate::hdr::icmp::*;
use crate::hdr::{IP_OFFSET, IPPROTO_ICMP, IcmpHdr, IpHdr};
use crate::ipv4::ip_output::ip_queue_xmit;
use crate::ipv4::ping::{ping_err, ping_rcv};
use crate::ipv4::protocol::inet_protocol;
use crate::ipv4::route::{inet_addr_type, ip_route_output_flow, ip_update_pmtu};
use kernel::{HZ, PageMut, SpinLock};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use uapi::Errno;

/// `NR_ICMP_TYPES`.
const NR_ICMP_TYPES: u8 = 18;
/// An error is no longer than this, IP header included (RFC 1812, 4.3.2.3).
const MAX_ERROR_LEN: usize = 576;
/// `XRLIM_BURST_FACTOR`: errors a destination may get at once after a silence.
const XRLIM_BURST_FACTOR: u64 = 6;
/// Destinations whose rate is remembered: sets of four, the least recent of which gives way.
const PEER_SETS: usize = 256;
const PEER_WAYS: usize = 4;

/// MTUs that links have, for routers that do not say (RFC 1191, 7).
const PLATEAUS: [u32; 10] = [32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68];

/// Codes of "destination unreachable" as errors of a socket, and whether they end a connection (`icmp_err_convert`).
const ICMP_ERR_CONVERT: [(Errno, bool); 16] = [
    (Errno::ENETUNREACH, false),
    (Errno::EHOSTUNREACH, false),
    (Errno::ENOPROTOOPT, true),
    (Errno::ECONNREFUSED, true),
    (Errno::EMSGSIZE, false),
    (Errno::EOPNOTSUPP, false),
    (Errno::ENETUNREACH, true),
    (Errno::EHOSTDOWN, true),
    (Errno::ENONET, true),
    (Errno::ENETUNREACH, true),
    (Errno::EHOSTUNREACH, true),
    (Errno::ENETUNREACH, false),
    (Errno::EHOSTUNREACH, false),
    (Errno::EHOSTUNREACH, true),
    (Errno::EHOSTUNREACH, true),
    (Errno::EHOSTUNREACH, true),
];

/// A destination's credit, in jiffies' worth of errors.
#[derive(Clone, Copy)]
struct Peer {
    addr: Ipv4Addr,
    tokens: u64,
    last: u64,
}

/// The namespace's credit (`icmp_global`).
struct GlobalCredit {
    credit: u64,
    stamp: u64,
}

/// A namespace's part.
struct Ipv4Icmp {
    global: SpinLock<GlobalCredit>,
    peers: SpinLock<Box<[[Peer; PEER_WAYS]]>>,
}

/// Once a namespace.
pub fn icmp_net_init(net: &Arc<Net>) {
    let nobody = Peer { addr: Ipv4Addr::UNSPECIFIED, tokens: 0, last: 0 };
    let credit = net.sysctl.icmp_msgs_burst.get() as u64;
    let global = GlobalCredit { credit, stamp: net.kernel().jiffies() };
    let peers = vec![[nobody; PEER_WAYS]; PEER_SETS].into_boxed_slice();
    net.set_generic(NetId::Ipv4Icmp, Ipv4Icmp { global: SpinLock::new(global), peers: SpinLock::new(peers) });
}

/// What a message of ours says, and to whom.
struct Message {
    kind: u8,
    code: u8,
    rest: [u8; 4],
    saddr: Ipv4Addr,
    daddr: Ipv4Addr,
    tos: u8,
}

/// `icmp_send`: tells the source of `skb` why it goes no further. `skb`'s network header is marked; `info` is the pointer (in the
/// high byte) or the next-hop MTU. Silent where RFC 1122, 3.2.2 wants silence, and where the rate limits do.
pub fn icmp_send(skb: &Skb, kind: u8, code: u8, info: u32) {
    let Some(net) = skb.dev.as_ref().and_then(|d| d.net()) else { return };
    let Some(iph) = IpHdr::read(skb.network_header()).copied() else { return };
    if !may_answer(&net, skb, &iph, kind) || !global_allow(&net, skb, kind, code) {
        return;
    }
    let for_us = skb.dst.as_ref().is_some_and(|d| d.kind == RtnType::Local);
    let msg = Message {
        kind,
        code,
        rest: info.to_be_bytes(),
        saddr: if for_us { iph.dst() } else { Ipv4Addr::UNSPECIFIED },
        daddr: iph.src(),
        // Internetwork control, and what the packet itself asked for (RFC 1812, 4.3.2.5).
        tos: iph.tos & 0x1e | 0xc0,
    };
    let Some(mut out) = icmp_header(&net, &msg) else { return };
    quote(skb, &mut out.skb);
    if let Some(c) = IcmpHdr::read(out.skb.data()).is_some().then(|| skb_checksum(&out.skb, 0, out.skb.len(), 0))
        && let Some(h) = IcmpHdr::read_mut(out.skb.data_mut())
    {
        h.check = csum_fold(c);
    }
    icmp_xmit(&net, &msg, out);
}

/// Never about errors, nor about what went to or came from more or less than one host, nor about any but first fragments.
fn may_answer(net: &Net, skb: &Skb, iph: &IpHdr, kind: u8) -> bool {
    let to_many = skb.dst.as_ref().is_some_and(|d| matches!(d.kind, RtnType::Broadcast | RtnType::Multicast));
    if skb.pkt_type != PktType::Host || to_many || iph.frag_off.get() & IP_OFFSET != 0 {
        return false;
    }
    if !matches!(inet_addr_type(net, iph.src()), RtnType::Unicast | RtnType::Local) {
        return false;
    }
    // A destination that is a group, though no route says so.
    if iph.dst().is_multicast() || iph.dst().is_broadcast() {
        return false;
    }
    if iph.protocol == IPPROTO_ICMP && is_error(kind) {
        let mut inner = [0u8];
        let start = skb.network_offset() + iph.ihl() as isize;
        let got = match usize::try_from(start) {
            Ok(at) => skb.copy_bits(at, &mut inner),
            Err(_) => skb.network_header().get(iph.ihl()).map_or(0, |&b| {
                inner = [b];
                1
            }),
        };
        return got == 1 && inner[0] <= NR_ICMP_TYPES && !is_error(inner[0]);
    }
    true
}

/// `icmp_pointers[type].error`.
fn is_error(kind: u8) -> bool {
    matches!(kind, ICMP_DEST_UNREACH | ICMP_SOURCE_QUENCH | ICMP_REDIRECT | ICMP_TIME_EXCEEDED | ICMP_PARAMETERPROB)
}

/// Appends the offending packet from its IP header on, as much as fits.
fn quote(skb: &Skb, out: &mut Skb) {
    let mut room = MAX_ERROR_LEN - IpHdr::LEN - IcmpHdr::LEN;
    let parts = std::iter::once(skb.network_header()).chain(skb.frags().iter().map(|f| &**f));
    for part in parts {
        let n = part.len().min(room);
        out.put(n).copy_from_slice(&part[..n]);
        room -= n;
    }
}

/// Whether a type is limited at all (`icmpv4_mask_allow`): the path MTU never is.
fn mask_allow(net: &Net, kind: u8, code: u8) -> bool {
    let limited = kind <= NR_ICMP_TYPES && (net.sysctl.icmp_ratemask.get() >> kind) & 1 == 1;
    (kind == ICMP_DEST_UNREACH && code == ICMP_FRAG_NEEDED) || !limited
}

/// `icmp_global_allow`: `icmp_msgs_per_sec`, with bursts of `icmp_msgs_burst`.
fn global_allow(net: &Net, skb: &Skb, kind: u8, code: u8) -> bool {
    if mask_allow(net, kind, code) || skb.dev.as_ref().is_some_and(|d| d.is_loopback()) {
        return true;
    }
    let now = net.kernel().jiffies();
    let mut g = net.generic::<Ipv4Icmp>(NetId::Ipv4Icmp).global.lock_bh();
    let earned = now.saturating_sub(g.stamp).min(HZ) * net.sysctl.icmp_msgs_per_sec.get() as u64 / HZ;
    if earned > 0 {
        g.credit = (g.credit + earned).min(net.sysctl.icmp_msgs_burst.get() as u64);
        g.stamp = now;
    }
    if g.credit == 0 {
        net.mib.inc(Mib::IcmpOutRateLimitGlobal);
        return false;
    }
    g.credit -= 1;
    true
}

/// `inet_peer_xrlim_allow`: one error per `icmp_ratelimit` jiffies to a destination, and a few at once.
fn peer_allow(net: &Net, daddr: Ipv4Addr) -> bool {
    let timeout = net.sysctl.icmp_ratelimit.get() as u64;
    if timeout == 0 {
        return true;
    }
    let now = net.kernel().jiffies();
    let set_nr = net.hash(&daddr) as usize % PEER_SETS;
    let mut peers = net.generic::<Ipv4Icmp>(NetId::Ipv4Icmp).peers.lock_bh();
    let set = &mut peers[set_nr];
    let full = XRLIM_BURST_FACTOR * timeout;
    let way = set.iter().position(|p| p.addr == daddr).unwrap_or_else(|| {
        let oldest = (0..PEER_WAYS).min_by_key(|&i| set[i].last).unwrap_or(0);
        set[oldest] = Peer { addr: daddr, tokens: full, last: now };
        oldest
    });
    let p = &mut set[way];
    p.tokens = (p.tokens + now.saturating_sub(p.last)).min(full);
    p.last = now;
    let allowed = p.tokens >= timeout;
    if allowed {
        p.tokens -= timeout;
    } else {
        net.mib.inc(Mib::IcmpOutRateLimitHost);
    }
    allowed
}

/// A message being made: its packet, at the ICMP header, and its flow with the source settled.
struct Outgoing {
    skb: Box<Skb>,
    flow: Flow,
}

/// The packet of a message with nothing behind the header yet, its route found, if the destination may have one more.
fn icmp_header(net: &Arc<Net>, m: &Message) -> Option<Outgoing> {
    let mut flow = Flow::new(IPPROTO_ICMP, IpAddr::V4(m.saddr), 0, IpAddr::V4(m.daddr), 0);
    flow.tos = m.tos;
    let dst = ip_route_output_flow(net, &mut flow).ok()?;
    if !mask_allow(net, m.kind, m.code) && !dst.dev.is_loopback() && !peer_allow(net, m.daddr) {
        return None;
    }
    let mut skb = Skb::alloc(MAX_HEADER + MAX_ERROR_LEN);
    skb.reserve(MAX_HEADER);
    let header = skb.put(IcmpHdr::LEN);
    if let Some(h) = IcmpHdr::read_mut(header) {
        *h = IcmpHdr { kind: m.kind, code: m.code, check: [0, 0], rest: m.rest };
    }
    skb.dst = Some(dst);
    Some(Outgoing { skb, flow })
}

/// Sends a finished message and counts it.
fn icmp_xmit(net: &Arc<Net>, m: &Message, out: Outgoing) {
    net.mib.inc(Mib::IcmpOutMsgs);
    let by_type = match m.kind {
        ICMP_ECHOREPLY => Some(Mib::IcmpOutEchoReps),
        ICMP_DEST_UNREACH => Some(Mib::IcmpOutDestUnreachs),
        ICMP_TIME_EXCEEDED => Some(Mib::IcmpOutTimeExcds),
        ICMP_PARAMETERPROB => Some(Mib::IcmpOutParmProbs),
        ICMP_TIMESTAMPREPLY => Some(Mib::IcmpOutTimestampReps),
        _ => None,
    };
    by_type.into_iter().for_each(|c| net.mib.inc(c));
    let p = XmitParams { tos: m.tos, ..XmitParams::default() };
    if ip_queue_xmit(net, None, out.skb, &out.flow, &p).is_err() {
        net.mib.inc(Mib::IcmpOutErrors);
    }
}

/// `icmp_rcv`: `data` is at the ICMP header.
pub fn icmp_rcv(net: &Arc<Net>, mut skb: Box<Skb>) {
    kernel::tp!(icmp_rcv, skb);
    net.mib.inc(Mib::IcmpInMsgs);
    if !icmp_checksum_ok(&skb) {
        net.mib.inc(Mib::IcmpInCsumErrors);
        return net.mib.inc(Mib::IcmpInErrors);
    }
    if !skb.may_pull(IcmpHdr::LEN) {
        return net.mib.inc(Mib::IcmpInErrors);
    }
    let Some(icmph) = IcmpHdr::read(skb.data()).copied() else { return };
    let to_many = skb.dst.as_ref().is_some_and(|d| matches!(d.kind, RtnType::Broadcast | RtnType::Multicast));
    // RFC 1122, 3.2.2.6 and 3.2.2.8: silence is allowed; nothing else makes sense to a group.
    let question = matches!(icmph.kind, ICMP_ECHO | ICMP_TIMESTAMP);
    if icmph.kind > NR_ICMP_TYPES || (to_many && (!question || net.sysctl.icmp_echo_ignore_broadcasts.on())) {
        return net.mib.inc(Mib::IcmpInErrors);
    }
    let count = |m: Mib| net.mib.inc(m);
    match icmph.kind {
        ICMP_ECHO => {
            count(Mib::IcmpInEchos);
            icmp_echo(net, &skb, &icmph);
        }
        ICMP_TIMESTAMP => {
            count(Mib::IcmpInTimestamps);
            icmp_timestamp(net, &skb, &icmph);
        }
        ICMP_DEST_UNREACH => {
            count(Mib::IcmpInDestUnreachs);
            icmp_unreach(net, skb, &icmph);
        }
        ICMP_TIME_EXCEEDED => {
            count(Mib::IcmpInTimeExcds);
            icmp_unreach(net, skb, &icmph);
        }
        ICMP_PARAMETERPROB => {
            count(Mib::IcmpInParmProbs);
            icmp_unreach(net, skb, &icmph);
        }
        ICMP_ECHOREPLY => {
            count(Mib::IcmpInEchoReps);
            ping_rcv(net, skb);
        }
        ICMP_TIMESTAMPREPLY => count(Mib::IcmpInTimestampReps),
        // Counted and ignored: RFC 6633; and routes are not taken from whoever sends one.
        ICMP_SOURCE_QUENCH => count(Mib::IcmpInSrcQuenchs),
        ICMP_REDIRECT => count(Mib::IcmpInRedirects),
        _ => {}
    }
}

fn icmp_checksum_ok(skb: &Skb) -> bool {
    match skb.ip_summed {
        IpSummed::Unnecessary | IpSummed::Partial => true,
        IpSummed::Complete if csum_fold(skb.csum) == [0, 0] => true,
        _ => csum_fold(skb_checksum(skb, 0, skb.len(), 0)) == [0, 0],
    }
}

/// The addresses and service of an answer to `skb`; from the device's own address where the question went to a group.
fn reply_to(skb: &Skb, kind: u8, rest: [u8; 4]) -> Option<Message> {
    let iph = IpHdr::read(skb.network_header())?;
    let for_us = skb.dst.as_ref().is_some_and(|d| d.kind == RtnType::Local);
    let saddr = if for_us { iph.dst() } else { Ipv4Addr::UNSPECIFIED };
    Some(Message { kind, code: 0, rest, saddr, daddr: iph.src(), tos: iph.tos & 0xfc })
}

/// `icmp_echo`: the same back, payload shared (RFC 1122, 3.2.2.6).
fn icmp_echo(net: &Arc<Net>, skb: &Skb, icmph: &IcmpHdr) {
    if net.sysctl.icmp_echo_ignore_all.on() {
        return;
    }
    let Some(m) = reply_to(skb, ICMP_ECHOREPLY, icmph.rest) else { return };
    // The code, which means nothing, comes back as it was: a fingerprint of Linux's.
    let m = Message { code: icmph.code, ..m };
    let Some(mut out) = icmp_header(net, &m) else { return };
    let len = skb.len() - IcmpHdr::LEN;
    if !skb.share_range(IcmpHdr::LEN, len, &mut out.skb) {
        // In more pieces than a packet may have: as one.
        out.skb.take_frags();
        let mut whole = PageMut::alloc(len);
        skb.copy_bits(IcmpHdr::LEN, &mut whole.as_mut_slice()[..len]);
        out.skb.add_frag(whole.freeze(len));
    }
    let check = if skb.ip_summed == IpSummed::Partial {
        csum_fold(skb_checksum(&out.skb, 0, out.skb.len(), 0))
    } else {
        let mut check = icmph.check;
        csum_replace2(&mut check, [ICMP_ECHO, icmph.code], [ICMP_ECHOREPLY, icmph.code]);
        // Of the two zeros this one is right over anything, also over nothing but zeros.
        if check == [0, 0] { [0xff, 0xff] } else { check }
    };
    if let Some(h) = IcmpHdr::read_mut(out.skb.data_mut()) {
        h.check = check;
    }
    icmp_xmit(net, &m, out);
}

/// Milliseconds since midnight, universal time, as ICMP and IP timestamps count.
pub fn ms_since_midnight(net: &Net) -> u32 {
    (net.kernel().arch().ktime_get_real() / 1_000_000 % 86_400_000) as u32
}

/// `icmp_timestamp` (RFC 1122, 3.2.2.8).
fn icmp_timestamp(net: &Arc<Net>, skb: &Skb, icmph: &IcmpHdr) {
    let mut originate = [0u8; 4];
    if skb.copy_bits(IcmpHdr::LEN, &mut originate) != 4 {
        return net.mib.inc(Mib::IcmpOutErrors);
    }
    let Some(m) = reply_to(skb, ICMP_TIMESTAMPREPLY, icmph.rest) else { return };
    let Some(mut out) = icmp_header(net, &m) else { return };
    let now = ms_since_midnight(net).to_be_bytes();
    out.skb.put(12).copy_from_slice([originate, now, now].as_flattened());
    let check = csum_fold(skb_checksum(&out.skb, 0, out.skb.len(), 0));
    if let Some(h) = IcmpHdr::read_mut(out.skb.data_mut()) {
        h.check = check;
    }
    icmp_xmit(net, &m, out);
}

/// `icmp_unreach`: an error about a packet that we are said to have sent, for its transport to judge.
fn icmp_unreach(net: &Arc<Net>, mut skb: Box<Skb>, icmph: &IcmpHdr) {
    let Some(offender) = IpHdr::read(skb.network_header()).map(IpHdr::src) else { return };
    let bad = || net.mib.inc(Mib::IcmpInErrors);
    if !skb.may_pull(IcmpHdr::LEN + IpHdr::LEN) {
        return bad();
    }
    let Some(inner) = skb.data().get(IcmpHdr::LEN..).and_then(IpHdr::read).copied() else { return bad() };
    let ihl = inner.ihl();
    // Eight bytes of the transport are what identifies a flow (RFC 792).
    if inner.version() != 4 || ihl < IpHdr::LEN || !skb.may_pull(IcmpHdr::LEN + ihl + 8) {
        return bad();
    }
    let Some((errno, fatal, info)) = meaning(net, icmph, &inner) else { return };
    // Broadcasts of ours have no one receiver whose trouble mattered (RFC 1122, 3.2.2).
    if inet_addr_type(net, inner.dst()) == RtnType::Broadcast {
        return bad();
    }
    let Some(quoted) = skb.data().get(IcmpHdr::LEN + ihl..) else { return bad() };
    let err = IcmpError {
        saddr: IpAddr::V4(inner.src()),
        daddr: IpAddr::V4(inner.dst()),
        kind: icmph.kind,
        code: icmph.code,
        info,
        errno,
        fatal,
        offender: IpAddr::V4(offender),
    };
    let section = kernel::rcu_read_lock();
    if let Some(p) = inet_protocol(&net.reg, inner.protocol, &section) {
        (p.err_handler)(net, &err, quoted);
    }
}

/// What an error says to a socket: errno, whether it is final, and the path MTU. `None`: nothing that may be believed.
fn meaning(net: &Net, icmph: &IcmpHdr, inner: &IpHdr) -> Option<(Errno, bool, u32)> {
    match icmph.kind {
        ICMP_DEST_UNREACH => {
            let &(errno, fatal) = ICMP_ERR_CONVERT.get(icmph.code as usize)?;
            let info = if icmph.code == ICMP_FRAG_NEEDED { path_mtu(net, icmph, inner)? } else { 0 };
            Some((errno, fatal, info))
        }
        ICMP_PARAMETERPROB => Some((Errno::EPROTO, true, icmph.rest[0] as u32)),
        ICMP_TIME_EXCEEDED => Some((Errno::EHOSTUNREACH, false, 0)),
        _ => None,
    }
}

/// The next hop's MTU, or the next plateau below the packet where an old router does not say (RFC 1191, 5). 0: path MTU
/// discovery is off.
fn path_mtu(net: &Net, icmph: &IcmpHdr, inner: &IpHdr) -> Option<u32> {
    match net.sysctl.ip_no_pmtu_disc.get() {
        0 | 3 => {}
        2 => return None,
        _ => return Some(0),
    }
    let [_, _, hi, lo] = icmph.rest;
    let said = u16::from_be_bytes([hi, lo]) as u32;
    if said != 0 {
        return Some(said);
    }
    let len = inner.tot_len.get() as u32;
    PLATEAUS.into_iter().find(|&p| p < len)
}

/// `icmp_err`: an error about an ICMP message of ours. The path MTU is worth knowing; a ping socket is told.
pub fn icmp_err(net: &Arc<Net>, err: &IcmpError, quoted: &[u8]) {
    if quoted.first() == Some(&ICMP_ECHO) {
        ping_err(net, err, quoted);
    }
    let ours = matches!(quoted.first(), Some(&(ICMP_ECHO | ICMP_ECHOREPLY)));
    if ours && err.kind == ICMP_DEST_UNREACH && err.code == ICMP_FRAG_NEEDED && err.info != 0 {
        ip_update_pmtu(net, &Flow::new(IPPROTO_ICMP, err.saddr, 0, err.daddr, 0), err.info);
    }
}
