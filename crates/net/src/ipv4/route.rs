//! Routing decisions.
//!
//! Interface: [`ip_route_output_flow`], [`ip_route_input`], [`inet_addr_type`], [`ip_update_pmtu`], [`RtOps`], [`ip_rt_net_init`].
//! Linux counterpart: `net/ipv4/route.c`, `fib_validate_source`.
//! Locks and context: any context.
//!
//! Sending and receiving allocate no route: every entry of the table keeps the [`Dst`] it stands for, which is made anew when
//! the namespace's routing generation has moved on. Destinations that no entry stands for (limited broadcast, multicast) have
//! theirs in a short list.

use crate::core::dev::{NetDevice, dev_get_by_index, for_each_netdev};
use crate::core::dst::{Dst, RtnType};
use crate::core::dst_metrics::Rtax;
use crate::core::flow::Flow;
use crate::core::net_namespace::{Net, NetId};
use crate::core::skbuff::Skb;
use crate::ipv4::devinet::{in_dev_get, inet_select_addr, ip_check_mc, ip_dev_find};
use crate::ipv4::fib_trie::{FibInfo, FibKey, RT_SCOPE_HOST, RT_SCOPE_LINK, fib_lookup};
use crate::ipv4::fnhe::{Exceptions, min_pmtu, mtu_expires};
use kernel::rcu::RcuReadGuard;
use kernel::{Fault, HZ, Rcu, SpinLock, Timer, rcu_read_lock, should_fail};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use uapi::{Errno, Result};

type Input = fn(net: &Arc<Net>, skb: Box<Skb>);
type Output = fn(net: &Arc<Net>, skb: Box<Skb>) -> Result<()>;

/// Where packets go when they have a route. The layers above bring them: routing knows no one by name.
pub struct RtOps {
    pub local_deliver: Input,
    pub forward: Input,
    pub output: Output,
    /// For broadcasts and multicasts, of which the host itself may want a copy.
    pub mc_output: Output,
}

/// A [`Dst`] that no entry of the routing table stands for.
#[derive(Clone)]
struct Special {
    kind: RtnType,
    /// The host is among the receivers (`RTCF_LOCAL`).
    local: bool,
    dst: Arc<Dst>,
}

/// A namespace's part.
struct Ipv4Route {
    ops: &'static RtOps,
    specials: Rcu<Vec<Special>>,
    lock: SpinLock<()>,
    exceptions: Exceptions,
    expiry: Timer,
}

impl Ipv4Route {
    fn of(net: &Net) -> &Ipv4Route {
        net.generic(NetId::Ipv4Route)
    }
}

/// Once a namespace, after `devinet_net_init`.
pub fn ip_rt_net_init(net: &Arc<Net>, ops: &'static RtOps) {
    let me = net.weak();
    let expiry = net.kernel().timer(move || {
        let Some(net) = me.upgrade() else { return };
        let rt = Ipv4Route::of(&net);
        if rt.exceptions.expire(net.kernel().jiffies()) {
            net.bump_rt_genid();
        }
        if !rt.exceptions.is_empty() {
            rt.expiry.mod_timer_in(60 * HZ);
        }
    });
    let (specials, lock, exceptions) = Default::default();
    net.set_generic(NetId::Ipv4Route, Ipv4Route { ops, specials, lock, exceptions, expiry });
}

/// 0.0.0.0/8: this network (RFC 1122, 3.2.1.3).
pub fn ipv4_is_zeronet(a: Ipv4Addr) -> bool {
    a.octets()[0] == 0
}

/// `inet_addr_type`: what kind of destination an address is to this host.
pub fn inet_addr_type(net: &Net, addr: Ipv4Addr) -> RtnType {
    if ipv4_is_zeronet(addr) || addr.is_broadcast() {
        return RtnType::Broadcast;
    }
    if addr.is_multicast() {
        return RtnType::Multicast;
    }
    let section = rcu_read_lock();
    match fib_lookup(net, &FibKey::to(addr), &section).map(|fi| fi.kind) {
        Some(k @ (RtnType::Local | RtnType::Broadcast)) => k,
        _ => RtnType::Unicast,
    }
}

/// The namespace's loopback device.
fn loopback_dev(net: &Net) -> Option<Arc<NetDevice>> {
    for_each_netdev(net).into_iter().find(|d| d.is_loopback())
}

fn v4(a: IpAddr) -> Option<Ipv4Addr> {
    match a {
        IpAddr::V4(a) => Some(a),
        IpAddr::V6(a) if a.is_unspecified() => Some(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(a) => a.to_ipv4_mapped(),
    }
}

/// The decision that a table entry stands for, the same for packets from here and from outside (`rt_cache_valid`,
/// `__mkroute_output`, `ip_route_input_slow`).
fn rth_of(net: &Net, fi: &FibInfo, section: &RcuReadGuard) -> Result<Arc<Dst>> {
    if let Some(d) = fi.rth.dereference(section)
        && d.is_current(net)
        && let Some(d) = fi.rth.get()
    {
        return Ok(d);
    }
    if should_fail(Fault::Route) {
        return Err(Errno::ENOBUFS);
    }
    let genid = net.rt_genid();
    let out = fi.dev.clone().ok_or(Errno::ENETUNREACH)?;
    let dev = if fi.kind == RtnType::Local { loopback_dev(net).unwrap_or(out) } else { out };
    let src = match fi.prefsrc {
        None if fi.kind == RtnType::Unicast => {
            inet_select_addr(net, Some(&dev), fi.gateway.unwrap_or(Ipv4Addr::UNSPECIFIED), fi.scope)
        }
        s => s,
    };
    let ops = Ipv4Route::of(net).ops;
    let dst = Arc::new(Dst {
        dev,
        kind: fi.kind,
        gateway: fi.gateway.map(IpAddr::V4),
        prefsrc: IpAddr::V4(src.unwrap_or(Ipv4Addr::UNSPECIFIED)),
        pmtu: AtomicU32::new(fi.metrics.as_ref().map_or(0, |m| m.get(Rtax::Mtu))),
        pmtu_locked: Default::default(),
        metrics: fi.metrics.clone(),
        genid,
        input: if fi.kind == RtnType::Unicast { ops.forward } else { ops.local_deliver },
        output: if fi.kind == RtnType::Broadcast { ops.mc_output } else { ops.output },
    });
    fi.rth.assign(Some(dst.clone()));
    Ok(dst)
}

/// The decision for a destination without an entry: everything on the link (`kind` is unicast), or a broad- or multicast.
fn special(net: &Net, dev: &Arc<NetDevice>, kind: RtnType, local: bool) -> Arc<Dst> {
    let rt = Ipv4Route::of(net);
    let fits =
        |s: &Special| s.kind == kind && s.local == local && Arc::ptr_eq(&s.dst.dev, dev) && s.dst.is_current(net);
    {
        let section = rcu_read_lock();
        if let Some(s) = rt.specials.dereference(&section).and_then(|l| l.iter().find(|s| fits(s))) {
            return s.dst.clone();
        }
    }
    let loops = local && !dev.is_loopback();
    let dst = Arc::new(Dst {
        dev: dev.clone(),
        kind,
        gateway: None,
        prefsrc: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        pmtu: AtomicU32::new(0),
        pmtu_locked: Default::default(),
        metrics: None,
        genid: net.rt_genid(),
        input: rt.ops.local_deliver,
        output: if loops && kind != RtnType::Unicast { rt.ops.mc_output } else { rt.ops.output },
    });
    let _l = rt.lock.lock_bh();
    let mut list = rt.specials.get().map_or_else(Vec::new, |l| (*l).clone());
    list.retain(|s| s.dst.is_current(net));
    list.push(Special { kind, local, dst: dst.clone() });
    rt.specials.assign(Some(Arc::new(list)));
    dst
}

/// The exception there may be to a route's decision for one destination.
fn with_exception(net: &Net, daddr: Ipv4Addr, route: &Arc<FibInfo>, base: Arc<Dst>) -> Arc<Dst> {
    let exceptions = &Ipv4Route::of(net).exceptions;
    if exceptions.is_empty() || base.kind != RtnType::Unicast {
        return base;
    }
    let Some(e) = exceptions.lookup(net, daddr, route) else { return base };
    if let Some(d) = e.rth.get().filter(|d| d.genid == base.genid && Arc::ptr_eq(&d.dev, &base.dev)) {
        return d;
    }
    let pmtu = e.pmtu.load(Relaxed);
    let dst = Arc::new(Dst {
        dev: base.dev.clone(),
        kind: base.kind,
        gateway: base.gateway,
        prefsrc: base.prefsrc,
        pmtu: AtomicU32::new(pmtu.min(base.mtu())),
        pmtu_locked: AtomicBool::new(e.locked.load(Relaxed)),
        metrics: base.metrics.clone(),
        genid: base.genid,
        input: base.input,
        output: base.output,
    });
    e.rth.assign(Some(dst.clone()));
    dst
}

/// What a look-up of a packet of ours works on.
struct Output4 {
    saddr: Ipv4Addr,
    daddr: Ipv4Addr,
    dev: Option<Arc<NetDevice>>,
}

/// `ip_route_output_flow`: the route of a packet of ours. Settles `flow.saddr`, and `flow.daddr` where it is unspecified (this
/// host, as Linux has it). `EINVAL` for addresses that cannot be, `ENETUNREACH`, `ENODEV`, or what the route's type says.
pub fn ip_route_output_flow(net: &Arc<Net>, flow: &mut Flow) -> Result<Arc<Dst>> {
    let mut o =
        Output4 { saddr: v4(flow.saddr).ok_or(Errno::EINVAL)?, daddr: v4(flow.daddr).ok_or(Errno::EINVAL)?, dev: None };
    let dst = route_output(net, flow, &mut o)?;
    flow.saddr = IpAddr::V4(o.saddr);
    flow.daddr = IpAddr::V4(o.daddr);
    Ok(dst)
}

/// `ip_route_output_key_hash_rcu`.
fn route_output(net: &Net, flow: &Flow, o: &mut Output4) -> Result<Arc<Dst>> {
    let to_group = o.daddr.is_multicast() || o.daddr.is_broadcast();
    if !o.saddr.is_unspecified() {
        check_output_source(net, flow, o, to_group)?;
    }
    if flow.oif != 0 {
        bind_output_device(net, flow, o)?;
    }
    if let Some(dev) = o.dev.clone()
        && to_group
    {
        if o.saddr.is_unspecified() {
            o.saddr = inet_select_addr(net, Some(&dev), Ipv4Addr::UNSPECIFIED, RT_SCOPE_LINK).unwrap_or(o.saddr);
        }
        return Ok(group_dst(net, &dev, o.daddr));
    }
    if o.daddr.is_unspecified() {
        o.daddr = if o.saddr.is_unspecified() { Ipv4Addr::LOCALHOST } else { o.saddr };
        if o.saddr.is_unspecified() {
            o.saddr = o.daddr;
        }
        let lo = loopback_dev(net).filter(|d| d.is_up()).ok_or(Errno::ENETUNREACH)?;
        return Ok(special_local(net, &lo));
    }
    by_table(net, flow, o)
}

/// The source must be an address a packet of ours can have; a group is sent to over the device of the source.
fn check_output_source(net: &Net, flow: &Flow, o: &mut Output4, to_group: bool) -> Result<()> {
    if o.saddr.is_multicast() || o.saddr.is_broadcast() || ipv4_is_zeronet(o.saddr) {
        return Err(Errno::EINVAL);
    }
    if to_group && flow.oif == 0 {
        match ip_dev_find(net, o.saddr) {
            Some(dev) => o.dev = Some(dev),
            None if flow.anysrc => {}
            None => return Err(Errno::EINVAL),
        }
        return Ok(());
    }
    if !flow.anysrc && inet_addr_type(net, o.saddr) != RtnType::Local {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

fn bind_output_device(net: &Net, flow: &Flow, o: &mut Output4) -> Result<()> {
    let dev = dev_get_by_index(net, flow.oif).ok_or(Errno::ENODEV)?;
    if !dev.is_up() || in_dev_get(&dev).is_none() {
        return Err(Errno::ENETUNREACH);
    }
    if o.saddr.is_unspecified() && o.daddr.is_unspecified() {
        let s = inet_select_addr(net, Some(&dev), Ipv4Addr::UNSPECIFIED, RT_SCOPE_HOST);
        o.saddr = s.unwrap_or(Ipv4Addr::UNSPECIFIED);
    }
    o.dev = Some(dev);
    Ok(())
}

fn group_dst(net: &Net, dev: &Arc<NetDevice>, daddr: Ipv4Addr) -> Arc<Dst> {
    if daddr.is_multicast() {
        return special(net, dev, RtnType::Multicast, ip_check_mc(dev, daddr));
    }
    special(net, dev, RtnType::Broadcast, true)
}

/// The decision for this host without an address of its own: over loopback.
fn special_local(net: &Net, lo: &Arc<NetDevice>) -> Arc<Dst> {
    special(net, lo, RtnType::Local, true)
}

fn by_table(net: &Net, flow: &Flow, o: &mut Output4) -> Result<Arc<Dst>> {
    let section = rcu_read_lock();
    let key = FibKey { oif: flow.oif, ..FibKey::to(o.daddr) };
    let Some(fi) = fib_lookup(net, &key, &section) else {
        // Bound to a device without a route: the destination is taken to be on its link.
        let dev = o.dev.clone().ok_or(Errno::ENETUNREACH)?;
        if o.saddr.is_unspecified() {
            let s = inet_select_addr(net, Some(&dev), Ipv4Addr::UNSPECIFIED, RT_SCOPE_LINK);
            o.saddr = s.unwrap_or(Ipv4Addr::UNSPECIFIED);
        }
        return Ok(special(net, &dev, RtnType::Unicast, false));
    };
    refusal_of(fi.kind)?;
    let dst = rth_of(net, fi, &section)?;
    if o.saddr.is_unspecified() {
        o.saddr = match v4(dst.prefsrc) {
            Some(s) if !s.is_unspecified() => s,
            _ if fi.kind == RtnType::Local => o.daddr,
            s => s.unwrap_or(o.saddr),
        };
    }
    if fi.kind == RtnType::Local && !dst.dev.is_loopback() {
        // A namespace without loopback cannot talk to itself.
        return Err(Errno::ENETUNREACH);
    }
    if o.saddr.is_loopback() && !dst.dev.is_loopback() {
        return Err(Errno::EINVAL);
    }
    if o.daddr.is_multicast() || o.daddr.is_broadcast() {
        return Ok(group_dst(net, &dst.dev, o.daddr));
    }
    if ipv4_is_zeronet(o.daddr) {
        return Err(Errno::EINVAL);
    }
    Ok(with_exception(net, o.daddr, fi, dst))
}

/// What a route that leads nowhere says (`fib_props`).
fn refusal_of(kind: RtnType) -> Result<()> {
    match kind {
        RtnType::Blackhole => Err(Errno::EINVAL),
        RtnType::Unreachable => Err(Errno::EHOSTUNREACH),
        RtnType::Prohibit => Err(Errno::EACCES),
        _ => Ok(()),
    }
}

/// `fib_validate_source`, without reverse-path filter: nobody else may send from an address of ours.
fn validate_source(net: &Net, saddr: Ipv4Addr, dev: &NetDevice) -> Result<()> {
    let section = rcu_read_lock();
    match fib_lookup(net, &FibKey::to(saddr), &section).map(|fi| fi.kind) {
        Some(RtnType::Local) if dev.is_loopback() => Ok(()),
        Some(RtnType::Local | RtnType::Broadcast | RtnType::Multicast) => Err(Errno::EINVAL),
        _ => Ok(()),
    }
}

/// `ip_route_input`: the route of a packet that came by `dev`: up the stack, or on to another host.
///
/// `EINVAL` for martians (RFC 1812, 5.3.7), `EHOSTUNREACH` for packets to others when this host forwards none, `ENETUNREACH`,
/// `EACCES` where forwarding finds no way.
pub fn ip_route_input(net: &Arc<Net>, daddr: Ipv4Addr, saddr: Ipv4Addr, dev: &Arc<NetDevice>) -> Result<Arc<Dst>> {
    if saddr.is_multicast() || saddr.is_broadcast() {
        return Err(Errno::EINVAL);
    }
    if daddr.is_multicast() {
        if !ip_check_mc(dev, daddr) {
            return Err(Errno::EINVAL);
        }
        if !saddr.is_unspecified() {
            validate_source(net, saddr, dev)?;
        }
        return Ok(special(net, dev, RtnType::Multicast, true));
    }
    let unconfigured = saddr.is_unspecified() && (daddr.is_unspecified() || daddr.is_broadcast());
    if daddr.is_broadcast() || unconfigured {
        if !ipv4_is_zeronet(saddr) {
            validate_source(net, saddr, dev)?;
        } else if !saddr.is_unspecified() {
            return Err(Errno::EINVAL);
        }
        return Ok(special(net, dev, RtnType::Broadcast, true));
    }
    let loops = daddr.is_loopback() || saddr.is_loopback();
    if ipv4_is_zeronet(saddr) || ipv4_is_zeronet(daddr) || (loops && !dev.is_loopback()) {
        return Err(Errno::EINVAL);
    }
    input_by_table(net, daddr, saddr, dev)
}

fn input_by_table(net: &Arc<Net>, daddr: Ipv4Addr, saddr: Ipv4Addr, dev: &Arc<NetDevice>) -> Result<Arc<Dst>> {
    let section = rcu_read_lock();
    let forwarding = net.sysctl.ip_forward.on();
    let fi = match fib_lookup(net, &FibKey::to(daddr), &section) {
        Some(fi) => fi,
        None if forwarding => return Err(Errno::ENETUNREACH),
        None => return Err(Errno::EHOSTUNREACH),
    };
    match fi.kind {
        RtnType::Broadcast => {
            validate_source(net, saddr, dev)?;
            return Ok(special(net, dev, RtnType::Broadcast, true));
        }
        RtnType::Local => {
            validate_source(net, saddr, dev)?;
            return rth_of(net, fi, &section);
        }
        _ => {}
    }
    if !forwarding {
        return Err(Errno::EHOSTUNREACH);
    }
    refusal_of(fi.kind)?;
    validate_source(net, saddr, dev)?;
    Ok(with_exception(net, daddr, fi, rth_of(net, fi, &section)?))
}

/// `ip_rt_update_pmtu`: the path to the flow's destination takes no larger packets than `mtu` (RFC 1191). Whoever holds a route
/// looks it up anew.
pub fn ip_update_pmtu(net: &Arc<Net>, flow: &Flow, mtu: u32) {
    let Some(daddr) = v4(flow.daddr) else { return };
    let mut key = *flow;
    key.anysrc = true;
    let Ok(dst) = ip_route_output_flow(net, &mut key) else { return };
    if dst.kind != RtnType::Unicast || dst.mtu() <= mtu || dst.mtu_locked() {
        return;
    }
    // Below the least that is believed the path is left to fragment.
    let least = min_pmtu(net);
    let locked = mtu < least;
    let mtu = mtu.max(least.min(dst.mtu()));
    let rt = Ipv4Route::of(net);
    let section = rcu_read_lock();
    let Some(route) = fib_lookup(net, &FibKey { oif: flow.oif, ..FibKey::to(daddr) }, &section) else { return };
    if rt.exceptions.update(net, daddr, route, mtu, locked) {
        net.bump_rt_genid();
    }
    if !rt.expiry.pending() {
        rt.expiry.mod_timer_in(mtu_expires(net));
    }
}
