//! IPv6 addresses given and taken away: by hand, for the link, by routers; duplicate address detection.
//!
//! Interface: [`inet6_addr_add`], [`inet6_addr_del`], [`inet6_addr_list`]; [`addrconf_notify`] follows the devices.
//! Linux counterpart: `net/ipv6/addrconf.c`.
//! Locks and context: changes in process or softirq context (timers, router advertisements); see `addrconf_core`.

use super::addrconf_core::{
    ALL_NODES, ALL_ROUTERS, IPV6_MIN_MTU, IfaFlags, Inet6Ifaddr, addrconf, addrconf_addr_solict_mult, eui64,
    in6_dev_get, ipv6_addr_prefix, ipv6_dev_mc_dec, ipv6_dev_mc_inc, ipv6_get_ifaddr, ipv6_prefix_equal, is_link_local,
};
use super::mcast::{ipv6_mc_down, ipv6_mc_up};
use super::ndisc::{
    NdiscHooks, PrefixInfo, RouterAdvert, ndisc_send_ns, ndisc_send_rs, ndisc_set_hooks, needs_resolution,
};
use super::route::{
    IP6_RT_PRIO_ADDRCONF, RTPROT_KERNEL, RTPROT_RA, Route6Spec, ip6_route_add, ip6_route_list, remove_where, rt6_ifdown,
};
use crate::core::dev::{NetDevice, NetdevEvent};
use crate::core::dst::RtnType;
use crate::core::net_namespace::{Net, NetId};
use kernel::HZ;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use uapi::{Errno, Result};

/// `rtr_solicit_interval`, and the longest wait before the first solicitation, jiffies (RFC 4861, 10).
const RTR_SOLICIT_INTERVAL: u64 = 4 * HZ;
const RTR_SOLICIT_DELAY: u64 = HZ;
/// Routes that routers may have us make.
const MAX_RA_ROUTES: usize = 64;

/// An address as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inet6AddrInfo {
    pub addr: Ipv6Addr,
    pub prefix_len: u8,
    pub ifindex: u32,
    pub flags: IfaFlags,
}

/// When an address ends, jiffies; `u64::MAX`: never.
#[derive(Clone, Copy)]
struct Lifetime {
    valid: u64,
    preferred: u64,
}

const FOREVER: Lifetime = Lifetime { valid: u64::MAX, preferred: u64::MAX };

/// `inet6_addr_add`: gives the device an address and a route to its prefix. It is tentative until no other node has been
/// found with it, unless detection is off (`dad_transmits` 0, loopback, no link-layer addresses) or `IFA_F_NODAD` given.
/// `EEXIST`, `EINVAL` (no unicast address, prefix over 128, MTU under 1280), `ENOBUFS`, `ENODEV`. Process context.
pub fn inet6_addr_add(dev: &Arc<NetDevice>, addr: Ipv6Addr, prefix_len: u8) -> Result<()> {
    inet6_addr_add_flags(dev, addr, prefix_len, IfaFlags::PERMANENT)
}

/// The same with `IFA_F_*` flags.
pub fn inet6_addr_add_flags(dev: &Arc<NetDevice>, addr: Ipv6Addr, prefix_len: u8, flags: IfaFlags) -> Result<()> {
    let net = dev.net().ok_or(Errno::ENODEV)?;
    let _inside = net.kernel().enter();
    ipv6_add_addr(&net, dev, addr, prefix_len, flags, FOREVER)
}

#[allow(clippy::too_many_arguments)]
fn ipv6_add_addr(
    net: &Arc<Net>,
    dev: &Arc<NetDevice>,
    addr: Ipv6Addr,
    prefix_len: u8,
    mut flags: IfaFlags,
    life: Lifetime,
) -> Result<()> {
    if prefix_len > 128 || addr.is_multicast() || addr.is_unspecified() || dev.mtu() < IPV6_MIN_MTU {
        return Err(Errno::EINVAL);
    }
    if net.sysctl.ipv6_disable.on() {
        return Err(Errno::EACCES);
    }
    let detect = net.sysctl.ipv6_dad_transmits.get() > 0 && needs_resolution(dev) && !flags.contains(IfaFlags::NODAD);
    let ready = in6_dev_get(dev).ready.load(Acquire);
    flags.set(IfaFlags::TENTATIVE, detect || !ready);
    flags.set(IfaFlags::OPTIMISTIC, detect && net.sysctl.ipv6_optimistic_dad.on());
    let ifa = Arc::new(Inet6Ifaddr::new(dev, addr, prefix_len, flags));
    ifa.valid_until.store(life.valid, Release);
    ifa.prefered_until.store(life.preferred, Release);
    arm_timer_of(net, &ifa);
    addrconf(net).insert(&ifa, net.sysctl.ipv6_max_addresses.get() as usize)?;
    if ready {
        addr_up(net, &ifa, false);
    }
    Ok(())
}

/// `inet6_addr_del`. `EADDRNOTAVAIL` if the device does not have it. Process context.
pub fn inet6_addr_del(dev: &Arc<NetDevice>, addr: Ipv6Addr, prefix_len: u8) -> Result<()> {
    let net = dev.net().ok_or(Errno::ENODEV)?;
    let _inside = net.kernel().enter();
    let ifa = ipv6_get_ifaddr(&net, &addr, dev.ifindex).filter(|a| a.prefix_len == prefix_len);
    ipv6_del_addr(&net, &ifa.ok_or(Errno::EADDRNOTAVAIL)?);
    Ok(())
}

/// The addresses of a namespace, in the order in which they came.
pub fn inet6_addr_list(net: &Net) -> Vec<Inet6AddrInfo> {
    let info = |a: &Arc<Inet6Ifaddr>| Inet6AddrInfo {
        addr: a.addr,
        prefix_len: a.prefix_len,
        ifindex: a.dev.ifindex,
        flags: a.flags(),
    };
    addrconf(net).addrs().iter().map(info).collect()
}

fn ipv6_del_addr(net: &Arc<Net>, ifa: &Arc<Inet6Ifaddr>) {
    if !addrconf(net).remove(ifa) {
        return;
    }
    if let Some(t) = ifa.timer.get() {
        t.del_timer();
    }
    let _ = ipv6_dev_mc_dec(&ifa.dev, addrconf_addr_solict_mult(&ifa.addr));
    let (ifindex, prefix) = (ifa.dev.ifindex, ipv6_addr_prefix(&ifa.addr, ifa.prefix_len));
    let shared = addrconf(net).addrs().iter().any(|a| {
        a.dev.ifindex == ifindex && a.prefix_len == ifa.prefix_len && ipv6_prefix_equal(&a.addr, &prefix, a.prefix_len)
    });
    remove_where(net, |r| {
        let host = r.spec.kind == RtnType::Local && r.spec.dst == ifa.addr && r.spec.prefix_len == 128;
        let of_prefix = r.spec.kind == RtnType::Unicast && r.spec.dst == prefix && r.spec.prefix_len == ifa.prefix_len;
        r.spec.protocol == RTPROT_KERNEL && r.dev.ifindex == ifindex && (host || (of_prefix && !shared))
    });
    net.bump_rt_genid();
}

/// The address on a device that is up: its group, its prefix, its detection.
fn addr_up(net: &Arc<Net>, ifa: &Arc<Inet6Ifaddr>, after_link: bool) {
    let _ = ipv6_dev_mc_inc(&ifa.dev, addrconf_addr_solict_mult(&ifa.addr));
    if ifa.prefix_len < 128 && !ifa.flags().contains(IfaFlags::NOPREFIXROUTE) {
        addrconf_prefix_route(net, &ifa.dev, ifa.addr, ifa.prefix_len, RTPROT_KERNEL, None);
    }
    addrconf_dad_start(net, ifa, after_link);
}

/// `addrconf_prefix_route`: the prefix is on the link. One that is there already is as good.
#[allow(clippy::too_many_arguments)]
fn addrconf_prefix_route(net: &Arc<Net>, dev: &NetDevice, addr: Ipv6Addr, len: u8, protocol: u8, expires: Option<u64>) {
    let spec = Route6Spec::new(addr, len).dev(dev.ifindex);
    let _ = ip6_route_add(net, Route6Spec { metric: IP6_RT_PRIO_ADDRCONF, protocol, expires, ..spec });
}

// --- Duplicate address detection (RFC 4862, 5.4) and lifetimes ---

fn arm_timer_of(net: &Arc<Net>, ifa: &Arc<Inet6Ifaddr>) {
    let (net_weak, weak) = (net.weak(), Arc::downgrade(ifa));
    let timer = net.kernel().timer(move || {
        if let (Some(net), Some(ifa)) = (net_weak.upgrade(), weak.upgrade()) {
            addr_timer(&net, &ifa);
        }
    });
    let _ = ifa.timer.set(timer);
}

/// `addrconf_dad_start`.
fn addrconf_dad_start(net: &Arc<Net>, ifa: &Arc<Inet6Ifaddr>, after_link: bool) {
    let transmits = net.sysctl.ipv6_dad_transmits.get() as u32;
    let flags = ifa.flags();
    if !needs_resolution(&ifa.dev) || transmits == 0 || flags.contains(IfaFlags::NODAD) {
        return addrconf_dad_completed(net, ifa);
    }
    ifa.set_flag(IfaFlags::TENTATIVE, true);
    ifa.set_flag(IfaFlags::DADFAILED, false);
    ifa.dad_probes.store(transmits, Release);
    let nonce = u64::from_be_bytes(net.kernel().random()) >> 16;
    ifa.dad_nonce.store(nonce, Release);
    if flags.contains(IfaFlags::OPTIMISTIC) {
        add_host_route(net, ifa);
    }
    // RFC 4862, 5.4.2: many nodes may come up with the link at the same moment.
    let delay = if after_link { net.kernel().random_u32() as u64 % RTR_SOLICIT_DELAY } else { 0 };
    if delay == 0 {
        return addr_timer(net, ifa);
    }
    if let Some(t) = ifa.timer.get() {
        t.mod_timer_in(delay);
    }
}

/// The address's timer: the next step of its detection, or of its age.
fn addr_timer(net: &Arc<Net>, ifa: &Arc<Inet6Ifaddr>) {
    let flags = ifa.flags();
    if flags.contains(IfaFlags::TENTATIVE) && !flags.contains(IfaFlags::DADFAILED) {
        let one_less = |n: u32| n.checked_sub(1);
        if ifa.dad_probes.fetch_update(AcqRel, Acquire, one_less).is_err() {
            return addrconf_dad_completed(net, ifa);
        }
        let group = addrconf_addr_solict_mult(&ifa.addr);
        let nonce = Some(ifa.dad_nonce.load(Acquire));
        // A solicitation that could not be sent is one that nobody answered.
        let _ = ndisc_send_ns(net, &ifa.dev, ifa.addr, group, Ipv6Addr::UNSPECIFIED, nonce);
        if let Some(t) = ifa.timer.get() {
            t.mod_timer_in(net.sysctl.neigh_retrans_time_ms.get() as u64 * HZ / 1000);
        }
        return;
    }
    addrconf_verify(net, ifa);
}

/// `addrconf_dad_completed`: the address is ours alone.
fn addrconf_dad_completed(net: &Arc<Net>, ifa: &Arc<Inet6Ifaddr>) {
    ifa.set_flag(IfaFlags::TENTATIVE | IfaFlags::OPTIMISTIC, false);
    add_host_route(net, ifa);
    net.bump_rt_genid();
    let host = !net.sysctl.ipv6_forwarding.on() || net.sysctl.ipv6_accept_ra.get() == 2;
    let wanted = net.sysctl.ipv6_accept_ra.on() && host && needs_resolution(&ifa.dev);
    if is_link_local(&ifa.addr) && wanted && net.sysctl.ipv6_router_solicitations.get() > 0 {
        addrconf_rs_start(net, ifa);
    }
    addrconf_verify(net, ifa);
}

/// Packets to the address end here.
fn add_host_route(net: &Arc<Net>, ifa: &Inet6Ifaddr) {
    let spec = Route6Spec::new(ifa.addr, 128).dev(ifa.dev.ifindex).kind(RtnType::Local);
    let _ = ip6_route_add(net, Route6Spec { protocol: RTPROT_KERNEL, ..spec });
}

/// `addrconf_dad_failure`: another node has it (RFC 4862, 5.4.5). It stays, tentative and marked, if it was given by hand.
fn addrconf_dad_failure(net: &Arc<Net>, ifa: &Arc<Inet6Ifaddr>) {
    ifa.set_flag(IfaFlags::DADFAILED | IfaFlags::TENTATIVE, true);
    ifa.set_flag(IfaFlags::OPTIMISTIC, false);
    if !ifa.flags().contains(IfaFlags::PERMANENT) {
        return ipv6_del_addr(net, ifa);
    }
    if let Some(t) = ifa.timer.get() {
        t.del_timer();
    }
    remove_where(net, |r| r.spec.kind == RtnType::Local && r.spec.dst == ifa.addr && r.spec.prefix_len == 128);
    net.bump_rt_genid();
}

/// `addrconf_verify`: what its age makes of the address; when to look again.
fn addrconf_verify(net: &Arc<Net>, ifa: &Arc<Inet6Ifaddr>) {
    let now = net.kernel().jiffies();
    let (valid, preferred) = (ifa.valid_until.load(Acquire), ifa.prefered_until.load(Acquire));
    if valid <= now {
        return ipv6_del_addr(net, ifa);
    }
    let old = ifa.set_flag(IfaFlags::DEPRECATED, preferred <= now);
    if old != ifa.flags() {
        net.bump_rt_genid();
    }
    let next = if preferred > now { preferred.min(valid) } else { valid };
    if let Some(t) = ifa.timer.get().filter(|_| next != u64::MAX) {
        t.mod_timer(next);
    }
}

// --- Devices ---

/// A new namespace's part: what neighbour discovery hears about our addresses comes here.
pub fn addrconf_net_init(net: &Arc<Net>) {
    ndisc_set_hooks(net, NdiscHooks { dad_failure: addrconf_dad_failure, router_advert: addrconf_router_advert });
}

/// `addrconf_notify`: what happens to devices.
pub fn addrconf_notify(dev: &Arc<NetDevice>, event: NetdevEvent) {
    let Some(net) = dev.net() else { return };
    if net.try_generic::<super::addrconf_core::Addrconf>(NetId::Ipv6Addrconf).is_none() {
        return;
    }
    match event {
        NetdevEvent::Register => {
            in6_dev_get(dev);
        }
        NetdevEvent::Up | NetdevEvent::Change => {
            net.bump_rt_genid();
            // Without a carrier nobody would hear us ask whether an address is free.
            if dev.is_up() && dev.carrier_ok() && !in6_dev_get(dev).ready.swap(true, AcqRel) {
                addrconf_up(&net, dev);
            }
        }
        NetdevEvent::Down => addrconf_ifdown(&net, dev, false),
        NetdevEvent::Unregister => addrconf_ifdown(&net, dev, true),
        NetdevEvent::ChangeMtu if dev.mtu() < IPV6_MIN_MTU => addrconf_ifdown(&net, dev, true),
        NetdevEvent::ChangeMtu => net.bump_rt_genid(),
    }
}

/// `addrconf_dev_config`, `init_loopback`: the device has come up, with a carrier.
fn addrconf_up(net: &Arc<Net>, dev: &Arc<NetDevice>) {
    if net.sysctl.ipv6_disable.on() || dev.mtu() < IPV6_MIN_MTU {
        return in6_dev_get(dev).ready.store(false, Release);
    }
    ipv6_mc_up(net, dev);
    // Those given while it was down.
    for ifa in addrconf(net).addrs().iter().filter(|a| a.dev.ifindex == dev.ifindex) {
        addr_up(net, ifa, true);
    }
    if dev.is_loopback() {
        let _ = inet6_addr_add_flags(dev, Ipv6Addr::LOCALHOST, 128, IfaFlags::PERMANENT | IfaFlags::NODAD);
        return;
    }
    let groups = Route6Spec::new(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8).dev(dev.ifindex);
    let metric = IP6_RT_PRIO_ADDRCONF;
    let _ = ip6_route_add(net, Route6Spec { metric, kind: RtnType::Multicast, protocol: RTPROT_KERNEL, ..groups });
    let _ = ipv6_dev_mc_inc(dev, ALL_NODES);
    let _ = inet6_addr_add(dev, link_local(interface_id(net, dev)), 64);
}

fn link_local(id: [u8; 8]) -> Ipv6Addr {
    with_interface_id(&Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), id)
}

fn with_interface_id(prefix: &Ipv6Addr, id: [u8; 8]) -> Ipv6Addr {
    Ipv6Addr::from_bits(prefix.to_bits() >> 64 << 64 | u64::from_be_bytes(id) as u128)
}

/// From the Ethernet address; a device that has none draws one (RFC 7217 in spirit: stable while the device is there).
fn interface_id(net: &Net, dev: &NetDevice) -> [u8; 8] {
    if needs_resolution(dev) && dev.addr != [0; 6] {
        return eui64(dev.addr);
    }
    let high = net.hash(&("interface id", dev.ifindex, &dev.name)) & !0x0200_0000;
    ((high as u64) << 32 | net.hash(&("low", dev.ifindex, &dev.name)) as u64).to_be_bytes()
}

/// `addrconf_ifdown`: routes go; addresses go too, except those given by hand when the device stays (`keep_addr_on_down`).
fn addrconf_ifdown(net: &Arc<Net>, dev: &Arc<NetDevice>, gone: bool) {
    let idev = in6_dev_get(dev);
    idev.ready.store(false, Release);
    ipv6_mc_down(dev);
    if let Some(t) = idev.rs_timer.get() {
        t.del_timer();
    }
    for ifa in addrconf(net).addrs().iter().filter(|a| a.dev.ifindex == dev.ifindex) {
        let keep = ifa.flags().contains(IfaFlags::PERMANENT) && !is_link_local(&ifa.addr) && !ifa.addr.is_loopback();
        if gone || !keep {
            ipv6_del_addr(net, ifa);
            continue;
        }
        if let Some(t) = ifa.timer.get() {
            t.del_timer();
        }
        ifa.set_flag(IfaFlags::TENTATIVE, true);
        let _ = ipv6_dev_mc_dec(dev, addrconf_addr_solict_mult(&ifa.addr));
    }
    let _ = ipv6_dev_mc_dec(dev, ALL_NODES);
    rt6_ifdown(net, dev);
    idev.mtu6.store(0, Relaxed);
    idev.hop_limit.store(0, Relaxed);
}

// --- Routers ---

/// Asks for routers until one answers, or often enough (RFC 4861, 6.3.7).
fn addrconf_rs_start(net: &Arc<Net>, ifa: &Arc<Inet6Ifaddr>) {
    let idev = in6_dev_get(&ifa.dev);
    let (net_weak, dev) = (net.weak(), Arc::downgrade(&ifa.dev));
    let timer = idev.rs_timer.get_or_init(|| {
        net.kernel().timer(move || {
            if let (Some(net), Some(dev)) = (net_weak.upgrade(), dev.upgrade()) {
                addrconf_rs_timer(&net, &dev);
            }
        })
    });
    idev.rs_probes.store(net.sysctl.ipv6_router_solicitations.get() as u32, Release);
    timer.mod_timer_in(net.kernel().random_u32() as u64 % RTR_SOLICIT_DELAY);
}

fn addrconf_rs_timer(net: &Arc<Net>, dev: &Arc<NetDevice>) {
    let idev = in6_dev_get(dev);
    if idev.rs_probes.fetch_update(AcqRel, Acquire, |n| n.checked_sub(1)).is_err() || !dev.is_up() {
        return;
    }
    let addrs = addrconf(net).addrs();
    let own = addrs.iter().find(|a| a.dev.ifindex == dev.ifindex && is_link_local(&a.addr) && !a.is_tentative());
    let saddr = own.map_or(Ipv6Addr::UNSPECIFIED, |a| a.addr);
    let _ = ndisc_send_rs(net, dev, saddr, ALL_ROUTERS);
    if let Some(t) = idev.rs_timer.get() {
        t.mod_timer_in(RTR_SOLICIT_INTERVAL);
    }
}

/// Jiffies of a lifetime in seconds from now; all ones: for ever.
fn until(net: &Net, seconds: u32) -> u64 {
    if seconds == u32::MAX { u64::MAX } else { net.kernel().jiffies() + seconds as u64 * HZ }
}

/// A router has told about the link (RFC 4861, 6.3.4). The message is valid.
fn addrconf_router_advert(net: &Arc<Net>, dev: &Arc<NetDevice>, ra: &RouterAdvert) {
    let Some(router) = ra.router else { return };
    let idev = in6_dev_get(dev);
    if ra.hop_limit != 0 {
        idev.hop_limit.store(ra.hop_limit as u32, Relaxed);
    }
    if let Some(mtu) = ra.mtu.filter(|m| (IPV6_MIN_MTU..=dev.mtu()).contains(m))
        && idev.mtu6.swap(mtu, Relaxed) != mtu
    {
        net.bump_rt_genid();
    }
    let route = Route6Spec::new(Ipv6Addr::UNSPECIFIED, 0).dev(dev.ifindex).via(router);
    let expires = Some(until(net, ra.lifetime as u32));
    replace_ra_route(net, Route6Spec { protocol: RTPROT_RA, expires, ..route }, ra.lifetime != 0);
    for p in &ra.prefixes {
        addrconf_prefix_rcv(net, dev, p);
    }
}

/// A route of a router's: renewed, or taken out.
fn replace_ra_route(net: &Arc<Net>, spec: Route6Spec, wanted: bool) {
    remove_where(net, |r| {
        let s = &r.spec;
        s.protocol == RTPROT_RA
            && s.dst == spec.dst
            && s.prefix_len == spec.prefix_len
            && s.gateway == spec.gateway
            && s.oif == spec.oif
    });
    let room = ip6_route_list(net).iter().filter(|r| r.protocol == RTPROT_RA).count() < MAX_RA_ROUTES;
    if wanted && room {
        let _ = ip6_route_add(net, spec);
    }
}

/// `addrconf_prefix_rcv`: a prefix of the link, and perhaps an address in it (RFC 4862, 5.5.3).
fn addrconf_prefix_rcv(net: &Arc<Net>, dev: &Arc<NetDevice>, p: &PrefixInfo) {
    let prefix = Ipv6Addr::from(p.prefix);
    let (valid, preferred) = (p.valid.get(), p.preferred.get());
    if is_link_local(&prefix) || prefix.is_multicast() || preferred > valid || p.prefix_len > 128 {
        return;
    }
    if p.flags & 0x80 != 0 {
        let spec = Route6Spec::new(ipv6_addr_prefix(&prefix, p.prefix_len), p.prefix_len).dev(dev.ifindex);
        let expires = Some(until(net, valid)).filter(|&e| e != u64::MAX);
        let spec = Route6Spec { metric: IP6_RT_PRIO_ADDRCONF, protocol: RTPROT_RA, expires, ..spec };
        replace_ra_route(net, spec, valid != 0);
    }
    if p.flags & 0x40 == 0 || p.prefix_len != 64 || !net.sysctl.ipv6_autoconf.on() {
        return;
    }
    let addr = with_interface_id(&prefix, interface_id(net, dev));
    match ipv6_get_ifaddr(net, &addr, dev.ifindex) {
        Some(ifa) if !ifa.flags().contains(IfaFlags::PERMANENT) => renew(net, &ifa, valid, preferred),
        Some(_) => {}
        None if valid != 0 => {
            let life = Lifetime { valid: until(net, valid), preferred: until(net, preferred) };
            // The prefix is on the link only if the router said so.
            let _ = ipv6_add_addr(net, dev, addr, p.prefix_len, IfaFlags::NOPREFIXROUTE, life);
        }
        None => {}
    }
}

/// New lifetimes for an address; a forged message may not cut it short (RFC 4862, 5.5.3 e).
fn renew(net: &Arc<Net>, ifa: &Arc<Inet6Ifaddr>, valid: u32, preferred: u32) {
    const TWO_HOURS: u64 = 7200 * HZ;
    let now = net.kernel().jiffies();
    let left = ifa.valid_until.load(Acquire).saturating_sub(now);
    let new = until(net, valid).saturating_sub(now);
    let valid = if new > TWO_HOURS || new > left {
        Some(new)
    } else if left > TWO_HOURS {
        Some(TWO_HOURS)
    } else {
        None
    };
    if let Some(v) = valid {
        ifa.valid_until.store(now.saturating_add(v), Release);
    }
    ifa.prefered_until.store(until(net, preferred), Release);
    if !ifa.flags().contains(IfaFlags::TENTATIVE) {
        addrconf_verify(net, ifa);
    }
}
