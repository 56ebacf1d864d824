//! Neighbour discovery: who has an address, routers, redirects.
//!
//! Interface: [`ndisc_init`], [`ndisc_send_ns`], [`ndisc_send_na`], [`ndisc_send_rs`],
//! [`NdiscHooks`] (where news goes that concerns our own addresses), [`RouterAdvert`].
//! Linux counterpart: `net/ipv6/ndisc.c`.
//! Locks and context: receive and timers in softirq context; sending in any. RFC 4861, 4862.

use super::addrconf_core::{
    ALL_NODES, IPV6_MIN_MTU, Inet6Ifaddr, addrconf, addrconf_addr_solict_mult, ipv6_chk_addr, ipv6_dev_get_saddr,
    ipv6_get_ifaddr, is_link_local, ndisc_mc_map,
};
use super::addrconf_core::{IfaFlags, in6_dev_get};
use super::icmp::{
    ICMPV6_ADDR_UNREACH, ICMPV6_DEST_UNREACH, icmpv6_checksum, icmpv6_register, icmpv6_send, icmpv6_xrlim_allow,
};
use super::ip6_output::{IP6SKB_NO_MC_LOOP, Inet6SkbParm, ip6_flow, ip6_local_out, ip6_output};
use super::route::{RTPROT_REDIRECT, Route6Spec, ip6_route_add, ip6_route_output, remove_where};
use crate::core::dev::{Iff, NetDevice};
use crate::core::dst::{Dst, RtnType};
use crate::core::eth::ETH_HLEN;
use crate::core::flow::Flow;
use crate::core::neighbour::{
    NeighOps, NeighUpdate, Neighbour, Nud, neigh_create, neigh_event_ns, neigh_lookup, neigh_register, neigh_update,
};
use crate::core::net_namespace::{Net, NetId, Registries};
use crate::core::skbuff::{MAX_HEADER, Skb};
use crate::core::snmp::Mib;
use crate::hdr::{IPPROTO_ICMPV6, Icmpv6Hdr, Ipv6Hdr};
use kernel::HZ;
use smallvec::SmallVec;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use uapi::Result;
use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub const NDISC_ROUTER_SOLICITATION: u8 = 133;
pub const NDISC_ROUTER_ADVERTISEMENT: u8 = 134;
pub const NDISC_NEIGHBOUR_SOLICITATION: u8 = 135;
pub const NDISC_NEIGHBOUR_ADVERTISEMENT: u8 = 136;
pub const NDISC_REDIRECT: u8 = 137;

const ND_OPT_SOURCE_LL_ADDR: u8 = 1;
const ND_OPT_TARGET_LL_ADDR: u8 = 2;
const ND_OPT_PREFIX_INFO: u8 = 3;
const ND_OPT_REDIRECTED: u8 = 4;
const ND_OPT_MTU: u8 = 5;
/// RFC 3971, used as RFC 7527 says.
const ND_OPT_NONCE: u8 = 14;

/// Flags of an advertisement (RFC 4861, 4.4).
const NA_ROUTER: u8 = 0x80;
const NA_SOLICITED: u8 = 0x40;
const NA_OVERRIDE: u8 = 0x20;

/// "Must have come from the link": no router lets this pass (RFC 4861, 3.1).
const ND_HOP_LIMIT: u8 = 255;

/// `ndisc_init`: registers with the neighbour tables, once a kernel.
pub fn ndisc_init(reg: &Registries) {
    neigh_register(reg, &NDISC_OPS);
}

/// What the neighbour table asks with.
static NDISC_OPS: NeighOps = NeighOps {
    family: uapi::sockaddr::AF_INET6,
    direct: |_, _, hop| match hop {
        IpAddr::V6(a) if a.is_multicast() => Some(ndisc_mc_map(&a)),
        _ => None,
    },
    solicit: ndisc_solicit,
    error_report: ndisc_error_report,
};

/// Where news goes that concerns our own addresses; `addrconf`, which is above, sets these.
#[derive(Clone, Copy)]
pub struct NdiscHooks {
    /// Another node has the address that we want.
    pub dad_failure: fn(&Arc<Net>, &Arc<Inet6Ifaddr>),
    pub router_advert: fn(&Arc<Net>, &Arc<NetDevice>, &RouterAdvert),
}

/// A valid router advertisement (RFC 4861, 4.2), host order.
#[derive(Debug, Default)]
pub struct RouterAdvert {
    pub router: Option<Ipv6Addr>,
    /// 0: not said.
    pub hop_limit: u8,
    /// Seconds for which it is a default router; 0: it is none.
    pub lifetime: u16,
    pub mtu: Option<u32>,
    pub prefixes: SmallVec<[PrefixInfo; 4]>,
}

/// Prefix information (RFC 4861, 4.6.2).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct PrefixInfo {
    kind: u8,
    len: u8,
    pub prefix_len: u8,
    /// On-link 0x80, autonomous 0x40.
    pub flags: u8,
    /// Seconds; all ones: for ever.
    pub valid: U32,
    pub preferred: U32,
    reserved: U32,
    pub prefix: [u8; 16],
}

/// The fixed part of a solicitation, an advertisement, and the start of a redirect.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct NdMsg {
    icmp: Icmpv6Hdr,
    target: [u8; 16],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RaMsg {
    kind: u8,
    code: u8,
    check: [u8; 2],
    hop_limit: u8,
    flags: u8,
    lifetime: U16,
    reachable: U32,
    retrans: U32,
}

/// Options that were there (`struct ndisc_options`).
#[derive(Default)]
struct NdOptions {
    slla: Option<[u8; 6]>,
    tlla: Option<[u8; 6]>,
    nonce: Option<u64>,
    mtu: Option<u32>,
    prefixes: SmallVec<[PrefixInfo; 4]>,
}

/// `ndisc_parse_options`: `None` if one has no length or is cut off, which makes the message invalid (RFC 4861, 6.1, 7.1).
fn ndisc_parse_options(mut b: &[u8]) -> Option<NdOptions> {
    let mut o = NdOptions::default();
    while let [kind, units, ..] = *b {
        let len = units as usize * 8;
        if len == 0 {
            return None;
        }
        let opt = b.get(..len)?;
        let six = || <[u8; 6]>::try_from(opt.get(2..8)?).ok();
        match kind {
            ND_OPT_SOURCE_LL_ADDR => o.slla = o.slla.or(six()),
            ND_OPT_TARGET_LL_ADDR => o.tlla = o.tlla.or(six()),
            ND_OPT_NONCE => o.nonce = six().map(nonce_of),
            ND_OPT_MTU => o.mtu = opt.get(4..8).and_then(|m| Some(u32::from_be_bytes(m.try_into().ok()?))),
            ND_OPT_PREFIX_INFO => o.prefixes.extend(PrefixInfo::read_from_bytes(opt).ok()),
            _ => {}
        }
        b = b.get(len..)?;
    }
    b.is_empty().then_some(o)
}

fn nonce_of(b: [u8; 6]) -> u64 {
    b.iter().fold(0, |n, &x| n << 8 | x as u64)
}

struct Ndisc {
    hooks: OnceLock<NdiscHooks>,
    /// Redirects obeyed and not yet forgotten, roughly.
    redirects: AtomicU32,
}

fn ndisc(net: &Net) -> &Ndisc {
    net.generic(NetId::Ndisc)
}

/// A new namespace's part.
pub fn ndisc_net_init(net: &Arc<Net>) {
    net.set_generic(NetId::Ndisc, Ndisc { hooks: OnceLock::new(), redirects: AtomicU32::new(0) });
    for kind in NDISC_ROUTER_SOLICITATION..=NDISC_REDIRECT {
        icmpv6_register(net, kind, ndisc_rcv);
    }
}

/// Says where news about our addresses goes, once.
pub fn ndisc_set_hooks(net: &Net, hooks: NdiscHooks) {
    let _ = ndisc(net).hooks.set(hooks);
}

// --- Send ---

/// Whether neighbours on the device have link-layer addresses to be found.
pub fn needs_resolution(dev: &NetDevice) -> bool {
    dev.hard_header_len >= ETH_HLEN && !dev.flags().intersects(Iff::LOOPBACK | Iff::NOARP)
}

fn message(head: &[u8]) -> Box<Skb> {
    let mut skb = Skb::alloc(MAX_HEADER + Ipv6Hdr::LEN + head.len() + 32);
    skb.reserve(MAX_HEADER + Ipv6Hdr::LEN);
    skb.put(head.len()).copy_from_slice(head);
    skb
}

/// An option of eight bytes: a link-layer address or a nonce.
fn add_option(skb: &mut Skb, kind: u8, value: [u8; 6]) {
    let opt = skb.put(8);
    opt[0] = kind;
    opt[1] = 1;
    opt[2..].copy_from_slice(&value);
}

/// `ndisc_send_skb`: gives the message its checksum and header and sends it by the device, whatever the table says.
fn ndisc_send_skb(
    net: &Arc<Net>,
    dev: &Arc<NetDevice>,
    mut skb: Box<Skb>,
    saddr: Ipv6Addr,
    daddr: Ipv6Addr,
) -> Result<()> {
    let check = icmpv6_checksum(&skb, saddr, daddr);
    let mut kind = 0;
    if let Some(h) = Icmpv6Hdr::read_mut(skb.data_mut()) {
        h.check = check;
        kind = h.kind;
    }
    skb.reset_transport_header();
    let header = Ipv6Hdr {
        flow: ip6_flow(0, 0).into(),
        payload_len: (skb.len() as u16).into(),
        nexthdr: IPPROTO_ICMPV6,
        hop_limit: ND_HOP_LIMIT,
        saddr: saddr.octets(),
        daddr: daddr.octets(),
    };
    skb.push(Ipv6Hdr::LEN).copy_from_slice(header.as_bytes());
    skb.reset_network_header();
    skb.cb.get_mut::<Inet6SkbParm>().flags = IP6SKB_NO_MC_LOOP;
    skb.dev = Some(dev.clone());
    skb.dst = Some(icmp6_dst_alloc(net, dev, daddr));
    net.mib.inc(Mib::Ip6OutRequests);
    net.mib.inc(Mib::Icmp6OutMsgs);
    match kind {
        NDISC_NEIGHBOUR_SOLICITATION => net.mib.inc(Mib::Icmp6OutNeighborSolicits),
        NDISC_NEIGHBOUR_ADVERTISEMENT => net.mib.inc(Mib::Icmp6OutNeighborAdvertisements),
        NDISC_ROUTER_SOLICITATION => net.mib.inc(Mib::Icmp6OutRouterSolicits),
        _ => {}
    }
    ip6_local_out(net, skb)
}

/// `icmp6_dst_alloc`: a route straight out of the device.
pub fn icmp6_dst_alloc(net: &Net, dev: &Arc<NetDevice>, daddr: Ipv6Addr) -> Arc<Dst> {
    Arc::new(Dst {
        dev: dev.clone(),
        kind: if daddr.is_multicast() { RtnType::Multicast } else { RtnType::Unicast },
        gateway: None,
        prefsrc: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        pmtu: AtomicU32::new(0),
        pmtu_locked: Default::default(),
        metrics: None,
        genid: net.rt_genid(),
        input: |_, _| {},
        output: ip6_output,
    })
}

/// `ndisc_send_ns`: asks who has `target`; from the unspecified address it is duplicate address detection, with a nonce.
pub fn ndisc_send_ns(
    net: &Arc<Net>,
    dev: &Arc<NetDevice>,
    target: Ipv6Addr,
    daddr: Ipv6Addr,
    saddr: Ipv6Addr,
    nonce: Option<u64>,
) -> Result<()> {
    let icmp = Icmpv6Hdr { kind: NDISC_NEIGHBOUR_SOLICITATION, code: 0, check: [0; 2], rest: [0; 4] };
    let mut skb = message(NdMsg { icmp, target: target.octets() }.as_bytes());
    // RFC 4861, 4.3: not with the unspecified address; nor with one under detection (RFC 4429, 3.2).
    let settled = !ipv6_get_ifaddr(net, &saddr, dev.ifindex).is_some_and(|a| a.flags().contains(IfaFlags::OPTIMISTIC));
    if !saddr.is_unspecified() && needs_resolution(dev) && settled {
        add_option(&mut skb, ND_OPT_SOURCE_LL_ADDR, dev.addr);
    }
    if let Some(n) = nonce {
        let [_, _, value @ ..] = n.to_be_bytes();
        add_option(&mut skb, ND_OPT_NONCE, value);
    }
    ndisc_send_skb(net, dev, skb, saddr, daddr)
}

/// `ndisc_send_na`: says that we have `target`. `flags` are those of the message.
fn ndisc_send_na(net: &Arc<Net>, dev: &Arc<NetDevice>, daddr: Ipv6Addr, target: Ipv6Addr, flags: u8) -> Result<()> {
    let icmp = Icmpv6Hdr { kind: NDISC_NEIGHBOUR_ADVERTISEMENT, code: 0, check: [0; 2], rest: [flags, 0, 0, 0] };
    let mut skb = message(NdMsg { icmp, target: target.octets() }.as_bytes());
    if needs_resolution(dev) {
        add_option(&mut skb, ND_OPT_TARGET_LL_ADDR, dev.addr);
    }
    ndisc_send_skb(net, dev, skb, target, daddr)
}

/// `ndisc_send_rs`: asks for routers.
pub fn ndisc_send_rs(net: &Arc<Net>, dev: &Arc<NetDevice>, saddr: Ipv6Addr, daddr: Ipv6Addr) -> Result<()> {
    let icmp = Icmpv6Hdr { kind: NDISC_ROUTER_SOLICITATION, code: 0, check: [0; 2], rest: [0; 4] };
    let mut skb = message(icmp.as_bytes());
    if !saddr.is_unspecified() && needs_resolution(dev) {
        add_option(&mut skb, ND_OPT_SOURCE_LL_ADDR, dev.addr);
    }
    ndisc_send_skb(net, dev, skb, saddr, daddr)
}

/// `ndisc_send_redirect`: tells the sender of a packet that we take on by the link it came by to send to the next hop itself
/// (RFC 4861, 8.2). Does nothing where the sender is not of the link, and over the rate limit.
pub fn ndisc_send_redirect(net: &Arc<Net>, skb: &Skb, dst: &Dst) {
    let Some(ip) = Ipv6Hdr::read(skb.network_header()).copied() else { return };
    let (dev, dest, host) = (&dst.dev, ip.dst(), ip.src());
    let IpAddr::V6(target) = dst.next_hop(dest.into()) else { return };
    // A gateway is told by its address on the link only.
    if target != dest && !is_link_local(&target) {
        return;
    }
    let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let mut back = Flow { oif: dev.ifindex, anysrc: true, ..Flow::new(IPPROTO_ICMPV6, any, 0, host.into(), 0) };
    let neighbour = ip6_route_output(net, &mut back).is_ok_and(|d| d.gateway.is_none() && d.kind == RtnType::Unicast);
    let own = addrconf(net).addrs();
    let own = own.iter().find(|a| a.dev.ifindex == dev.ifindex && is_link_local(&a.addr) && !a.is_tentative());
    let Some(own) = own.filter(|_| neighbour && icmpv6_xrlim_allow(net, host)) else { return };
    let icmp = Icmpv6Hdr { kind: NDISC_REDIRECT, code: 0, check: [0; 2], rest: [0; 4] };
    let mut msg = message(NdMsg { icmp, target: target.octets() }.as_bytes());
    msg.put(16).copy_from_slice(&dest.octets());
    if let Some(lladdr) =
        neigh_lookup(net, dev.ifindex, target.into()).filter(|n| n.state().is_valid()).and_then(|n| n.lladdr())
    {
        add_option(&mut msg, ND_OPT_TARGET_LL_ADDR, lladdr);
    }
    add_redirected(&mut msg, skb);
    let _ = ndisc_send_skb(net, dev, msg, own.addr, host);
}

/// The packet that is redirected, as far as it fits (RFC 4861, 4.6.3).
fn add_redirected(msg: &mut Skb, skb: &Skb) {
    let room = IPV6_MIN_MTU as usize - Ipv6Hdr::LEN - msg.len() - 8;
    let quoted = skb.network_header();
    let len = quoted.len().min(room) & !7;
    let opt = msg.put(8 + len);
    opt[..8].copy_from_slice(&[ND_OPT_REDIRECTED, (len / 8 + 1) as u8, 0, 0, 0, 0, 0, 0]);
    opt[8..].copy_from_slice(&quoted[..len]);
}

/// `ndisc_solicit`: the neighbour table asks. From the address of the packet that waits, if it is ours (RFC 4861, 7.2.2).
fn ndisc_solicit(net: &Arc<Net>, n: &Arc<Neighbour>, saddr: Option<IpAddr>, unicast_to: Option<[u8; 6]>) {
    let IpAddr::V6(target) = n.hop else { return };
    let dev = &n.dev;
    let of_packet = match saddr {
        Some(IpAddr::V6(a)) if ipv6_chk_addr(net, &a, dev.ifindex) => Some(a),
        _ => None,
    };
    let Some(saddr) = of_packet.or_else(|| ipv6_dev_get_saddr(net, dev, &target).ok()) else { return };
    let daddr = if unicast_to.is_some() { target } else { addrconf_addr_solict_mult(&target) };
    // A failure to send is a lost message: the table asks again.
    let _ = ndisc_send_ns(net, dev, target, daddr, saddr, None);
}

/// `ndisc_error_report`: a packet could not be delivered on the link.
fn ndisc_error_report(_net: &Arc<Net>, mut skb: Box<Skb>) {
    skb.reset_network_header();
    icmpv6_send(&skb, ICMPV6_DEST_UNREACH, ICMPV6_ADDR_UNREACH, 0);
}

// --- Receive ---

/// A message that passed what all must pass.
struct Received<'a> {
    net: &'a Arc<Net>,
    dev: &'a Arc<NetDevice>,
    saddr: Ipv6Addr,
    daddr: Ipv6Addr,
    msg: &'a [u8],
}

/// `ndisc_rcv`: `data` is at the ICMPv6 header, whose checksum was right.
fn ndisc_rcv(net: &Arc<Net>, mut skb: Box<Skb>) {
    kernel::tp!(ndisc_rcv, skb);
    let len = skb.len();
    if !skb.may_pull(len) {
        return;
    }
    let Some(ip) = Ipv6Hdr::read(skb.network_header()).copied() else { return };
    let Some(dev) = skb.dev.clone() else { return };
    let Some(icmp) = Icmpv6Hdr::read(skb.data()).copied() else { return };
    if ip.hop_limit != ND_HOP_LIMIT || icmp.code != 0 {
        return net.mib.inc(Mib::Icmp6InErrors);
    }
    let r = Received { net, dev: &dev, saddr: ip.src(), daddr: ip.dst(), msg: skb.data() };
    let ok = match icmp.kind {
        NDISC_NEIGHBOUR_SOLICITATION => recv_ns(&r),
        NDISC_NEIGHBOUR_ADVERTISEMENT => recv_na(&r),
        NDISC_ROUTER_SOLICITATION => recv_rs(&r),
        NDISC_ROUTER_ADVERTISEMENT => recv_ra(&r),
        _ => recv_redirect(&r),
    };
    if ok.is_none() {
        net.mib.inc(Mib::Icmp6InErrors);
    }
}

/// The target and the options of a solicitation or advertisement; `None` if it is not valid.
fn nd_msg(b: &[u8]) -> Option<(NdMsg, Ipv6Addr, NdOptions)> {
    let (msg, options) = NdMsg::read_from_prefix(b).ok()?;
    let target = Ipv6Addr::from(msg.target);
    if target.is_multicast() {
        return None;
    }
    Some((msg, target, ndisc_parse_options(options)?))
}

/// `ndisc_recv_ns` (RFC 4861, 7.1.1, 7.2.3; RFC 4862, 5.4.3). `None`: invalid.
fn recv_ns(r: &Received<'_>) -> Option<()> {
    let (_, target, opts) = nd_msg(r.msg)?;
    let dad = r.saddr.is_unspecified();
    let solicited_node = r.daddr == addrconf_addr_solict_mult(&target);
    if dad && (!solicited_node || opts.slla.is_some()) {
        return None;
    }
    let Some(ifa) = ipv6_get_ifaddr(r.net, &target, r.dev.ifindex) else { return Some(()) };
    let flags = ifa.flags();
    if flags.contains(IfaFlags::DADFAILED) {
        return Some(());
    }
    if flags.intersects(IfaFlags::TENTATIVE | IfaFlags::OPTIMISTIC) {
        if dad {
            let own = opts.nonce.is_some_and(|n| n == ifa.dad_nonce.load(Relaxed));
            if !own {
                dad_failure(r.net, &ifa);
            }
            return Some(());
        }
        if !flags.contains(IfaFlags::OPTIMISTIC) {
            return Some(());
        }
    }
    let router = if r.net.sysctl.ipv6_forwarding.on() { NA_ROUTER } else { 0 };
    // RFC 4429, 3.2: an optimistic address does not displace what others know.
    let over = if flags.contains(IfaFlags::OPTIMISTIC) { 0 } else { NA_OVERRIDE };
    if dad {
        let _ = ndisc_send_na(r.net, r.dev, ALL_NODES, target, router | over);
        return Some(());
    }
    if let Some(lladdr) = opts.slla {
        neigh_event_ns(r.net, r.dev, lladdr, r.saddr.into());
    }
    let _ = ndisc_send_na(r.net, r.dev, r.saddr, target, router | over | NA_SOLICITED);
    Some(())
}

fn dad_failure(net: &Arc<Net>, ifa: &Arc<Inet6Ifaddr>) {
    if let Some(h) = ndisc(net).hooks.get() {
        (h.dad_failure)(net, ifa);
    }
}

/// `ndisc_recv_na` (RFC 4861, 7.1.2, 7.2.5; RFC 4862, 5.4.4). `None`: invalid.
fn recv_na(r: &Received<'_>) -> Option<()> {
    let (msg, target, opts) = nd_msg(r.msg)?;
    let flags = msg.icmp.rest[0];
    let solicited = flags & NA_SOLICITED != 0;
    if r.daddr.is_multicast() && solicited {
        return None;
    }
    if let Some(ifa) = ipv6_get_ifaddr(r.net, &target, r.dev.ifindex) {
        if ifa.flags().intersects(IfaFlags::TENTATIVE | IfaFlags::OPTIMISTIC) {
            dad_failure(r.net, &ifa);
        }
        return Some(());
    }
    // Nobody here has asked for it: there is nothing to update.
    let Some(n) = neigh_lookup(r.net, r.dev.ifindex, target.into()) else { return Some(()) };
    if n.state() == Nud::Failed {
        return Some(());
    }
    let was_router = n.is_router();
    let mut update = NeighUpdate::WEAK_OVERRIDE | NeighUpdate::OVERRIDE_ISROUTER;
    update.set(NeighUpdate::OVERRIDE, flags & NA_OVERRIDE != 0);
    update.set(NeighUpdate::ISROUTER, flags & NA_ROUTER != 0);
    let state = if solicited { Nud::Reachable } else { Nud::Stale };
    // Refused when it brings no address and none is known: RFC 4861 has it ignored.
    let _ = neigh_update(r.net, &n, opts.tlla, state, update);
    if was_router && !n.is_router() {
        // RFC 4861, 7.2.5: no longer a default router.
        remove_where(r.net, |f| {
            f.dev.ifindex == r.dev.ifindex && f.spec.prefix_len == 0 && f.spec.gateway == Some(target)
        });
    }
    Some(())
}

/// `ndisc_recv_rs` (RFC 4861, 6.1.1, 6.2.6): only a router learns from it. `None`: invalid.
fn recv_rs(r: &Received<'_>) -> Option<()> {
    let opts = ndisc_parse_options(r.msg.get(Icmpv6Hdr::LEN..)?)?;
    if r.saddr.is_unspecified() {
        return opts.slla.is_none().then_some(());
    }
    if let Some(lladdr) = opts.slla.filter(|_| r.net.sysctl.ipv6_forwarding.on()) {
        neigh_event_ns(r.net, r.dev, lladdr, r.saddr.into());
    }
    Some(())
}

/// `ndisc_router_discovery`: what makes an advertisement valid (RFC 4861, 6.1.2). `None`: invalid.
fn recv_ra(r: &Received<'_>) -> Option<()> {
    let (ra, options) = RaMsg::read_from_prefix(r.msg).ok()?;
    let opts = ndisc_parse_options(options)?;
    if !is_link_local(&r.saddr) {
        return None;
    }
    let accept = r.net.sysctl.ipv6_accept_ra.get();
    if accept == 0 || (accept < 2 && r.net.sysctl.ipv6_forwarding.on()) {
        return Some(());
    }
    if let Some(lladdr) = opts.slla
        && let Ok(n) = neigh_create(r.net, r.dev, r.saddr.into())
    {
        let update =
            NeighUpdate::WEAK_OVERRIDE | NeighUpdate::OVERRIDE | NeighUpdate::OVERRIDE_ISROUTER | NeighUpdate::ISROUTER;
        let _ = neigh_update(r.net, &n, Some(lladdr), Nud::Stale, update);
    }
    let advert = RouterAdvert {
        router: Some(r.saddr),
        hop_limit: ra.hop_limit,
        lifetime: ra.lifetime.get(),
        mtu: opts.mtu,
        prefixes: opts.prefixes,
    };
    in6_dev_get(r.dev).rs_probes.store(0, Relaxed);
    if let Some(h) = ndisc(r.net).hooks.get() {
        (h.router_advert)(r.net, r.dev, &advert);
    }
    Some(())
}

/// Redirects obeyed at one time.
const MAX_REDIRECTS: u32 = 256;
/// Seconds for which one is obeyed.
const REDIRECT_LIFETIME: u64 = 600;

/// `ndisc_redirect_rcv`, `rt6_do_redirect` (RFC 4861, 8.1, 8.3). `None`: invalid.
fn recv_redirect(r: &Received<'_>) -> Option<()> {
    let (msg, rest) = NdMsg::read_from_prefix(r.msg).ok()?;
    let (dest, options) = <[u8; 16]>::read_from_prefix(rest).ok()?;
    let (target, dest) = (Ipv6Addr::from(msg.target), Ipv6Addr::from(dest));
    let opts = ndisc_parse_options(options)?;
    let on_link = target == dest;
    if !is_link_local(&r.saddr) || dest.is_multicast() || !(on_link || is_link_local(&target)) {
        return None;
    }
    if !r.net.sysctl.ipv6_accept_redirects.on() || r.net.sysctl.ipv6_forwarding.on() {
        return Some(());
    }
    // Only the router that we would have used may send us elsewhere.
    let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let mut flow = Flow { anysrc: true, oif: r.dev.ifindex, ..Flow::new(IPPROTO_ICMPV6, any, 0, dest.into(), 0) };
    let first_hop = ip6_route_output(r.net, &mut flow).ok()?.gateway;
    if first_hop != Some(IpAddr::V6(r.saddr)) || on_link && is_link_local(&dest) {
        return None;
    }
    if let Some(lladdr) = opts.tlla
        && let Ok(n) = neigh_create(r.net, r.dev, target.into())
    {
        let mut update = NeighUpdate::WEAK_OVERRIDE | NeighUpdate::OVERRIDE;
        if !on_link {
            update |= NeighUpdate::OVERRIDE_ISROUTER | NeighUpdate::ISROUTER;
        }
        let _ = neigh_update(r.net, &n, Some(lladdr), Nud::Stale, update);
    }
    obey_redirect(r, dest, (!on_link).then_some(target));
    Some(())
}

fn obey_redirect(r: &Received<'_>, dest: Ipv6Addr, gateway: Option<Ipv6Addr>) {
    let old =
        remove_where(r.net, |f| f.spec.protocol == RTPROT_REDIRECT && f.spec.dst == dest && f.spec.prefix_len == 128);
    let count = &ndisc(r.net).redirects;
    if old == 0 && count.fetch_add(1, Relaxed) >= MAX_REDIRECTS {
        // Forgets all and begins anew: what is lost, routers say again.
        remove_where(r.net, |f| f.spec.protocol == RTPROT_REDIRECT);
        count.store(1, Relaxed);
    }
    let expires = Some(r.net.kernel().jiffies() + REDIRECT_LIFETIME * HZ);
    let spec =
        Route6Spec { gateway, protocol: RTPROT_REDIRECT, expires, ..Route6Spec::new(dest, 128).dev(r.dev.ifindex) };
    let _ = ip6_route_add(r.net, spec);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_options_without_length_and_cut_off() {
        assert!(ndisc_parse_options(&[1, 0, 0, 0, 0, 0, 0, 0]).is_none());
        assert!(ndisc_parse_options(&[1, 2, 0, 0, 0, 0, 0, 0]).is_none());
        assert!(ndisc_parse_options(&[1]).is_none());
        let o = ndisc_parse_options(&[1, 1, 2, 0, 0, 0, 0, 9, 77, 1, 0, 0, 0, 0, 0, 0]).unwrap();
        assert_eq!(o.slla, Some([2, 0, 0, 0, 0, 9]));
        assert_eq!(o.tlla, None);
    }

    #[test]
    fn reads_prefixes_and_mtu() {
        let mut b = vec![3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x07, 8, 0, 0, 0, 0];
        b.extend_from_slice(&"2001:db8::".parse::<Ipv6Addr>().unwrap().octets());
        b.extend_from_slice(&[5, 1, 0, 0, 0, 0, 5, 0xdc]);
        let o = ndisc_parse_options(&b).unwrap();
        assert_eq!(o.mtu, Some(1500));
        assert_eq!((o.prefixes[0].prefix_len, o.prefixes[0].valid.get()), (64, 3600));
    }
}
