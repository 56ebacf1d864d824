//! IPv6 routing: the table, the look-up, and the path MTUs learnt.
//!
//! Interface: [`Route6Spec`], [`ip6_route_add`], [`ip6_route_insert`], [`ip6_route_del`], [`ip6_route_output`], [`ip6_route_input`], [`ip6_update_pmtu`].
//! Linux counterpart: `net/ipv6/route.c`, `ip6_fib.c`.
//! Locks and context: look-ups anywhere, under RCU, without a lock; changes take the table's lock and replace what they touch.
//!
//! The table is a set of hash tables, one for each prefix length in use, tried from the longest. A change copies only the
//! hash table of its prefix length. Each route keeps the [`Dst`]s it hands out, so a look-up allocates nothing.

use super::addrconf_core::{self as addrs, IPV6_MIN_MTU, ipv6_addr_prefix};
use crate::core::dev::{NetDevice, dev_get_by_index, for_each_netdev};
use crate::core::dst::{Dst, RtnType};
use crate::core::dst_metrics::{DstMetrics, Rtax};
use crate::core::flow::Flow;
use crate::core::net_namespace::{Net, NetId};
use crate::core::skbuff::Skb;
use crate::ipv4::fib_trie::IfThere;
use crate::ipv4::metrics::ip_fib_metrics_init;
use kernel::{HZ, Rcu, RcuHashTable, SpinLock, Timer};
use siphasher::sip::SipHasher13;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::*};
use std::sync::{Arc, OnceLock, Weak};
use uapi::{Errno, Result};

/// `IP6_RT_PRIO_USER`: the metric of a route that names none.
pub const IP6_RT_PRIO_USER: u32 = 1024;
/// `IP6_RT_PRIO_ADDRCONF`: of prefixes of addresses.
pub const IP6_RT_PRIO_ADDRCONF: u32 = 256;
/// `RTPROT_*`: who made a route.
pub const RTPROT_REDIRECT: u8 = 1;
pub const RTPROT_KERNEL: u8 = 2;
pub const RTPROT_BOOT: u8 = 3;
pub const RTPROT_STATIC: u8 = 4;
pub const RTPROT_RA: u8 = 9;

/// Path MTUs remembered (`FIB6_EXCEPTION_BUCKET_SIZE` times `FIB6_MAX_DEPTH`, roughly).
const MAX_EXCEPTIONS: usize = 4096;

/// A route as a user asks for it and is shown it (`struct fib6_config`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route6Spec {
    pub dst: Ipv6Addr,
    pub prefix_len: u8,
    pub kind: RtnType,
    pub gateway: Option<Ipv6Addr>,
    /// The device's index; 0 for kinds that need none, or to find it by the gateway.
    pub oif: u32,
    /// Smaller is better; 0: [`IP6_RT_PRIO_USER`], or best of all for a local route.
    pub metric: u32,
    /// The source to prefer.
    pub prefsrc: Option<Ipv6Addr>,
    /// MTU, windows and the like.
    pub metrics: DstMetrics,
    /// `RTPROT_*`.
    pub protocol: u8,
    /// Jiffies at which it goes by itself.
    pub expires: Option<u64>,
}

impl Route6Spec {
    /// A unicast route to `dst/prefix_len`, with nothing else said.
    pub fn new(dst: Ipv6Addr, prefix_len: u8) -> Route6Spec {
        Route6Spec {
            dst,
            prefix_len,
            kind: RtnType::Unicast,
            gateway: None,
            oif: 0,
            metric: 0,
            prefsrc: None,
            metrics: DstMetrics::default(),
            protocol: RTPROT_BOOT,
            expires: None,
        }
    }

    pub fn via(self, gateway: Ipv6Addr) -> Route6Spec {
        Route6Spec { gateway: Some(gateway), ..self }
    }

    pub fn dev(self, ifindex: u32) -> Route6Spec {
        Route6Spec { oif: ifindex, ..self }
    }

    pub fn kind(self, kind: RtnType) -> Route6Spec {
        Route6Spec { kind, ..self }
    }
}

/// A route in the table (`struct fib6_info`).
pub struct Fib6Info {
    pub spec: Route6Spec,
    pub dev: Arc<NetDevice>,
    /// What it hands to packets of ours and to packets that came in; made when first asked for.
    out: Rcu<Dst>,
    inp: Rcu<Dst>,
}

/// Where packets go on, by the kind of their route. Given by who knows input and output; routing is below both.
#[derive(Clone, Copy)]
pub struct Ip6Paths {
    pub local_in: fn(&Arc<Net>, Box<Skb>),
    pub mc_in: fn(&Arc<Net>, Box<Skb>),
    pub forward: fn(&Arc<Net>, Box<Skb>),
    /// No route, or one that refuses: counts, answers, drops.
    pub error_in: fn(&Arc<Net>, Box<Skb>),
    /// A packet is about to go on by the link it came by: its sender could have taken that way itself.
    pub redirect: fn(&Arc<Net>, &Skb, &Dst),
    pub output: fn(&Arc<Net>, Box<Skb>) -> Result<()>,
    pub error_out: fn(&Arc<Net>, Box<Skb>) -> Result<()>,
}

/// No key: what is in the table is not for a stranger to choose, and its order should not depend on chance.
type Level = HashMap<u128, Vec<Arc<Fib6Info>>, BuildHasherDefault<SipHasher13>>;

/// The table: prefix lengths in use, longest first, each with its prefixes and their routes, best metric first.
#[derive(Default, Clone)]
struct Fib6 {
    levels: Vec<(u8, Arc<Level>)>,
}

/// A path MTU learnt (`struct rt6_exception`).
struct Exception {
    daddr: Ipv6Addr,
    /// The route that led there when it was learnt; another knows nothing of it.
    route: Weak<Fib6Info>,
    mtu: AtomicU32,
    /// Jiffies.
    expires: u64,
    /// The route's Dst with this MTU.
    dst: Rcu<Dst>,
}

/// A namespace's IPv6 routing.
pub struct Ip6Route {
    paths: Ip6Paths,
    fib: Rcu<Fib6>,
    lock: SpinLock<()>,
    entries: AtomicUsize,
    exceptions: RcuHashTable<Arc<Exception>>,
    gc: OnceLock<Timer>,
    loopback: Rcu<NetDevice>,
    /// Handed out where there is no route, so that input always has somewhere to go.
    null: Rcu<Dst>,
}

impl Ip6Route {
    pub fn new(paths: Ip6Paths) -> Ip6Route {
        Ip6Route {
            paths,
            fib: Rcu::default(),
            lock: SpinLock::new(()),
            entries: AtomicUsize::new(0),
            exceptions: RcuHashTable::new(64),
            gc: OnceLock::new(),
            loopback: Rcu::default(),
            null: Rcu::default(),
        }
    }
}

fn rt(net: &Net) -> &Ip6Route {
    net.generic(NetId::Ipv6Route)
}

/// The namespace's loopback device, if it has one.
fn loopback_dev(net: &Net) -> Option<Arc<NetDevice>> {
    rt(net).loopback.get().or_else(|| {
        let lo = for_each_netdev(net).into_iter().find(|d| d.is_loopback())?;
        rt(net).loopback.assign(Some(lo.clone()));
        Some(lo)
    })
}

// --- Changing the table ---

impl Fib6 {
    /// The routes of one prefix, changed by `f`; the rest is shared with the table as it was.
    fn with(&self, prefix: Ipv6Addr, len: u8, f: impl FnOnce(&mut Vec<Arc<Fib6Info>>)) -> Fib6 {
        let mut new = self.clone();
        let at = match new.levels.binary_search_by(|(l, _)| len.cmp(l)) {
            Ok(at) => at,
            Err(at) => {
                new.levels.insert(at, (len, Arc::default()));
                at
            }
        };
        let mut level = (*new.levels[at].1).clone();
        let routes = level.entry(prefix.to_bits()).or_default();
        f(routes);
        if routes.is_empty() {
            level.remove(&prefix.to_bits());
        }
        if level.is_empty() {
            new.levels.remove(at);
        } else {
            new.levels[at].1 = Arc::new(level);
        }
        new
    }

    /// Routes of the prefixes that hold `addr`, from the longest prefix to the shortest.
    fn matching(&self, addr: Ipv6Addr) -> impl Iterator<Item = &Arc<Fib6Info>> {
        let bits = addr.to_bits();
        self.levels.iter().filter_map(move |(len, l)| l.get(&(bits & addrs::prefix_mask(*len)))).flatten()
    }
}

fn same_route(a: &Route6Spec, b: &Route6Spec) -> bool {
    a.metric == b.metric && a.oif == b.oif && a.gateway == b.gateway && a.kind == b.kind
}

/// Which of a prefix's routes `new` takes the place of: the first of its metric that has a gateway if it has one, or none if not;
/// failing that the first of its metric. Those with gateways are one route over several, and go together (`fib6_add_rt2node`).
fn replaced(new: &Route6Spec, list: &[&Arc<Fib6Info>]) -> Vec<Arc<Fib6Info>> {
    let of_metric = || list.iter().filter(|r| r.spec.metric == new.metric);
    let alike = of_metric().find(|r| r.spec.gateway.is_some() == new.gateway.is_some());
    let Some(first) = alike.or_else(|| of_metric().next()) else { return Vec::new() };
    let goes =
        |r: &&&Arc<Fib6Info>| Arc::ptr_eq(r, first) || (first.spec.gateway.is_some() && r.spec.gateway.is_some());
    of_metric().filter(goes).map(|r| Arc::clone(r)).collect()
}

/// The device and the specification made complete; `ENODEV`, `EHOSTUNREACH` (gateway not on a link), `EINVAL`.
fn complete(net: &Arc<Net>, mut spec: Route6Spec) -> Result<(Route6Spec, Arc<NetDevice>)> {
    if spec.prefix_len > 128 || spec.gateway.is_some_and(|g| g.is_multicast() || g.is_unspecified()) {
        return Err(Errno::EINVAL);
    }
    ip_fib_metrics_init(net, &spec.metrics)?;
    spec.dst = ipv6_addr_prefix(&spec.dst, spec.prefix_len);
    if spec.metric == 0 && spec.kind != RtnType::Local {
        spec.metric = IP6_RT_PRIO_USER;
    }
    if spec.oif == 0
        && let Some(gw) = spec.gateway
    {
        let via = fib_lookup(net, gw, 0).filter(|r| r.spec.gateway.is_none() && r.spec.kind == RtnType::Unicast);
        spec.oif = via.ok_or(Errno::EHOSTUNREACH)?.dev.ifindex;
    }
    let needs_dev = matches!(spec.kind, RtnType::Unicast | RtnType::Multicast);
    let dev = match spec.oif {
        0 if needs_dev => return Err(Errno::ENODEV),
        0 => loopback_dev(net).ok_or(Errno::ENODEV)?,
        oif => dev_get_by_index(net, oif).ok_or(Errno::ENODEV)?,
    };
    Ok((spec, dev))
}

/// `ip6_route_add` as the kernel's own routes are added: beside others of the prefix. `EEXIST` for one that is there, `ENODEV`,
/// `EHOSTUNREACH`, `EINVAL` (also for a congestion control that there is not); `ENOBUFS` over `route.max_size`.
/// Process or softirq context.
pub fn ip6_route_add(net: &Arc<Net>, spec: Route6Spec) -> Result<()> {
    ip6_route_insert(net, spec, IfThere::Append)
}

/// Likewise, as a user says what shall become of one of the same prefix and metric (`RTM_NEWROUTE` with its flags).
pub fn ip6_route_insert(net: &Arc<Net>, spec: Route6Spec, how: IfThere) -> Result<()> {
    let (spec, dev) = complete(net, spec)?;
    let part = rt(net);
    let max = net.sysctl.ipv6_route_max_size.get() as usize;
    let expires = spec.expires;
    {
        let _l = part.lock.lock_bh();
        let fib = part.fib.get().unwrap_or_default();
        let of_prefix = |r: &&Arc<Fib6Info>| r.spec.prefix_len == spec.prefix_len;
        let there: Vec<_> = fib.matching(spec.dst).filter(of_prefix).collect();
        let gone = match how {
            IfThere::Append if there.iter().any(|r| same_route(&r.spec, &spec)) => return Err(Errno::EEXIST),
            IfThere::Refuse if there.iter().any(|r| r.spec.metric == spec.metric) => return Err(Errno::EEXIST),
            IfThere::Append | IfThere::Refuse => Vec::new(),
            IfThere::Replace | IfThere::Change => replaced(&spec, &there),
        };
        if gone.is_empty() && how == IfThere::Change {
            return Err(Errno::ENOENT);
        }
        if max != 0 && gone.is_empty() && part.entries.load(Relaxed) >= max {
            return Err(Errno::ENOBUFS);
        }
        let info = Arc::new(Fib6Info { spec, dev, out: Rcu::default(), inp: Rcu::default() });
        let new = fib.with(spec.dst, spec.prefix_len, |list| {
            let end = list.partition_point(|r| r.spec.metric <= spec.metric);
            let at = list.iter().position(|r| gone.iter().any(|g| Arc::ptr_eq(r, g))).unwrap_or(end);
            list.insert(at, info);
            list.retain(|r| !gone.iter().any(|g| Arc::ptr_eq(r, g)));
        });
        part.entries.fetch_add(1, Relaxed);
        part.entries.fetch_sub(gone.len(), Relaxed);
        part.fib.assign(Some(Arc::new(new)));
    }
    net.bump_rt_genid();
    if let Some(at) = expires {
        schedule_gc(net, at);
    }
    Ok(())
}

/// `ip6_route_del`: the first route of the prefix that is like `spec`, where `oif`, `gateway` and `metric` count only if they
/// are given. `ESRCH` if there is none.
pub fn ip6_route_del(net: &Arc<Net>, spec: &Route6Spec) -> Result<()> {
    let prefix = ipv6_addr_prefix(&spec.dst, spec.prefix_len);
    let wanted = |r: &Route6Spec| {
        r.kind == spec.kind
            && (spec.oif == 0 || r.oif == spec.oif)
            && (spec.metric == 0 || r.metric == spec.metric)
            && (spec.gateway.is_none() || r.gateway == spec.gateway)
    };
    let mut first = true;
    let gone = remove_where(net, |r| {
        let hit = first && r.spec.dst == prefix && r.spec.prefix_len == spec.prefix_len && wanted(&r.spec);
        first &= !hit;
        hit
    });
    if gone == 0 { Err(Errno::ESRCH) } else { Ok(()) }
}

/// Takes out every route that `f` says; how many (`fib6_clean_all`).
pub fn remove_where(net: &Net, mut f: impl FnMut(&Fib6Info) -> bool) -> usize {
    let part = rt(net);
    let mut gone = 0;
    {
        let _l = part.lock.lock_bh();
        let fib = part.fib.get().unwrap_or_default();
        let doomed: Vec<_> = fib.levels.iter().flat_map(|(_, l)| l.values()).flatten().filter(|r| f(r)).collect();
        gone += doomed.len();
        if gone == 0 {
            return 0;
        }
        let mut new = (*fib).clone();
        for r in doomed {
            new = new.with(r.spec.dst, r.spec.prefix_len, |list| list.retain(|x| !Arc::ptr_eq(x, r)));
        }
        part.entries.fetch_sub(gone, Relaxed);
        part.fib.assign(Some(Arc::new(new)));
    }
    net.bump_rt_genid();
    gone
}

/// `rt6_ifdown`: takes out all routes of a device, and forgets it.
pub fn rt6_ifdown(net: &Net, dev: &NetDevice) {
    remove_where(net, |r| r.dev.ifindex == dev.ifindex);
    let part = rt(net);
    if part.loopback.get().is_some_and(|lo| lo.ifindex == dev.ifindex) {
        part.loopback.assign(None);
    }
    part.null.assign(None);
    net.bump_rt_genid();
}

/// The table, for showing: longest prefixes first.
pub fn ip6_route_list(net: &Net) -> Vec<Route6Spec> {
    let Some(fib) = rt(net).fib.get() else { return Vec::new() };
    fib.levels.iter().flat_map(|(_, l)| l.values()).flatten().map(|r| r.spec).collect()
}

// --- Looking up ---

/// The best route to an address; with `oif`, one that leaves by that device or needs none. Prefix length first, then metric.
fn fib_lookup(net: &Net, addr: Ipv6Addr, oif: u32) -> Option<Arc<Fib6Info>> {
    let section = kernel::rcu_read_lock();
    let fib = rt(net).fib.dereference(&section)?;
    let usable = |r: &&Arc<Fib6Info>| match r.spec.kind {
        // A link-local address is ours on its own link only.
        RtnType::Local if oif != 0 && r.spec.prefix_len == 128 => {
            r.dev.ifindex == oif || !addrs::is_link_local(&r.spec.dst)
        }
        RtnType::Unicast | RtnType::Multicast => (oif == 0 || r.dev.ifindex == oif) && r.dev.is_up(),
        _ => true,
    };
    fib.matching(addr).find(usable).cloned()
}

/// The kind of destination an address is, by the table; multicast needs no table.
pub fn ip6_addr_type(net: &Net, addr: Ipv6Addr) -> RtnType {
    if addr.is_multicast() {
        return RtnType::Multicast;
    }
    fib_lookup(net, addr, 0).map_or(RtnType::Unicast, |r| r.spec.kind)
}

/// Whether packets to the address end here. A route of kind local makes all of its prefix ours (AnyIP).
pub fn ip6_is_local(net: &Net, addr: Ipv6Addr) -> bool {
    ip6_addr_type(net, addr) == RtnType::Local
}

/// The errno a refusing route stands for.
fn kind_error(kind: RtnType) -> Option<Errno> {
    match kind {
        RtnType::Unreachable => Some(Errno::EHOSTUNREACH),
        RtnType::Blackhole => Some(Errno::EINVAL),
        RtnType::Prohibit => Some(Errno::EACCES),
        _ => None,
    }
}

impl Fib6Info {
    fn make_dst(&self, net: &Net, dev: Arc<NetDevice>, pmtu: u32) -> Arc<Dst> {
        let paths = &rt(net).paths;
        let input = match self.spec.kind {
            RtnType::Local => paths.local_in,
            RtnType::Multicast => paths.mc_in,
            RtnType::Unicast => paths.forward,
            _ => paths.error_in,
        };
        Arc::new(Dst {
            // A route made by hand may not go over what a router said the link carries.
            pmtu: AtomicU32::new(min_set([pmtu, self.spec.metrics.get(Rtax::Mtu), link_mtu(&dev)])),
            pmtu_locked: Default::default(),
            metrics: self.spec.metrics.shared(),
            dev,
            kind: self.spec.kind,
            gateway: self.spec.gateway.map(IpAddr::V6),
            prefsrc: IpAddr::V6(self.spec.prefsrc.unwrap_or(Ipv6Addr::UNSPECIFIED)),
            genid: net.rt_genid(),
            input,
            output: if kind_error(self.spec.kind).is_some() { paths.error_out } else { paths.output },
        })
    }

    /// The Dst for packets of ours. Those to ourselves go through the loopback device.
    fn dst_out(&self, net: &Net) -> Arc<Dst> {
        cached(&self.out, net, || {
            let lo = if self.spec.kind == RtnType::Local { loopback_dev(net) } else { None };
            self.make_dst(net, lo.unwrap_or_else(|| self.dev.clone()), 0)
        })
    }

    fn dst_in(&self, net: &Net) -> Arc<Dst> {
        cached(&self.inp, net, || self.make_dst(net, self.dev.clone(), 0))
    }
}

fn link_mtu(dev: &NetDevice) -> u32 {
    addrs::in6_dev_get(dev).mtu6.load(Relaxed)
}

/// The smallest of those that are not 0; 0 if all are.
fn min_set(v: [u32; 3]) -> u32 {
    v.into_iter().filter(|&m| m != 0).min().unwrap_or(0)
}

fn cached(at: &Rcu<Dst>, net: &Net, make: impl FnOnce() -> Arc<Dst>) -> Arc<Dst> {
    if let Some(d) = at.get().filter(|d| d.is_current(net)) {
        return d;
    }
    let d = make();
    at.assign(Some(d.clone()));
    d
}

/// `ip6_route_output` with source address selection (`ip6_dst_lookup_flow`): fills in `flow.saddr` if it is unspecified.
/// `ENETUNREACH`, `EHOSTUNREACH`, `EACCES`, `EINVAL` by the table; `EADDRNOTAVAIL` when there is no source to use. Any context.
pub fn ip6_route_output(net: &Arc<Net>, flow: &mut Flow) -> Result<Arc<Dst>> {
    let IpAddr::V6(daddr) = flow.daddr else { return Err(Errno::EINVAL) };
    // A link-local destination is on the link of a link-local source.
    let mut oif = flow.oif;
    if let IpAddr::V6(s) = flow.saddr
        && oif == 0
        && addrs::is_link_local(&s)
        && (addrs::is_link_local(&daddr) || daddr.is_multicast())
        && let Some(ifa) = addrs::ipv6_get_ifaddr(net, &s, 0)
    {
        oif = ifa.dev.ifindex;
    }
    let route = fib_lookup(net, daddr, oif).ok_or(Errno::ENETUNREACH)?;
    if let Some(e) = kind_error(route.spec.kind) {
        return Err(e);
    }
    let dst = match exception_dst(net, daddr, &route) {
        Some(d) => d,
        None => route.dst_out(net),
    };
    if flow.saddr.is_unspecified() && !flow.anysrc {
        flow.saddr = IpAddr::V6(select_saddr(net, &route, &dst, &daddr)?);
    } else if flow.saddr.is_ipv4() {
        flow.saddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    }
    Ok(dst)
}

fn select_saddr(net: &Net, route: &Fib6Info, dst: &Dst, daddr: &Ipv6Addr) -> Result<Ipv6Addr> {
    if let Some(s) = route.spec.prefsrc {
        return Ok(s);
    }
    match addrs::ipv6_dev_get_saddr(net, &dst.dev, daddr) {
        // To ourselves over AnyIP without any address: from the address itself.
        Err(_) if dst.is_local() => Ok(*daddr),
        other => other,
    }
}

/// `ip6_route_input`: sets `skb.dst` for a packet that came in by `skb.dev`. `saddr` and `daddr` are checked.
pub fn ip6_route_input(net: &Arc<Net>, skb: &mut Skb, daddr: Ipv6Addr) -> bool {
    let Some(dev) = &skb.dev else { return false };
    // Groups and link-local addresses exist on each link apart.
    let this_link = daddr.is_multicast() || addrs::is_link_local(&daddr);
    let oif = if this_link && !dev.is_loopback() { dev.ifindex } else { 0 };
    skb.dst = match fib_lookup(net, daddr, oif) {
        Some(r) => Some(r.dst_in(net)),
        None => null_dst(net, dev),
    };
    skb.dst.is_some()
}

/// `ip6_null_entry`: the route of packets for which there is none.
fn null_dst(net: &Net, dev: &Arc<NetDevice>) -> Option<Arc<Dst>> {
    let dev = loopback_dev(net).unwrap_or_else(|| dev.clone());
    Some(cached(&rt(net).null, net, || {
        let spec = Route6Spec::new(Ipv6Addr::UNSPECIFIED, 0).kind(RtnType::Unreachable);
        let null = Fib6Info { spec, dev: dev.clone(), out: Rcu::default(), inp: Rcu::default() };
        null.make_dst(net, dev.clone(), 0)
    }))
}

/// Tells the sender of a packet that there is a shorter way.
pub fn ip6_redirect(net: &Arc<Net>, skb: &Skb, dst: &Dst) {
    (rt(net).paths.redirect)(net, skb, dst);
}

// --- Path MTU ---

fn find_exception(net: &Net, daddr: Ipv6Addr, route: &Arc<Fib6Info>) -> Option<Arc<Exception>> {
    let table = &rt(net).exceptions;
    if table.is_empty() {
        return None;
    }
    let now = net.kernel().jiffies();
    // The weak reference keeps the address from becoming another's.
    let of_route = |e: &Exception| std::ptr::eq(e.route.as_ptr(), &**route);
    table.lookup(net.hash(&daddr), |e| e.daddr == daddr && e.expires > now && of_route(e))
}

fn exception_dst(net: &Net, daddr: Ipv6Addr, route: &Arc<Fib6Info>) -> Option<Arc<Dst>> {
    let e = find_exception(net, daddr, route)?;
    Some(cached(&e.dst, net, || route.make_dst(net, route.dst_out(net).dev.clone(), e.mtu.load(Relaxed))))
}

/// `ip6_update_pmtu`: notes a smaller path MTU towards the flow's destination, for `route.mtu_expires` seconds (RFC 8201).
/// Values below 1280 count as 1280; one that is not smaller than what is known changes nothing. A locked MTU is no shelter: no
/// router cuts.
pub fn ip6_update_pmtu(net: &Arc<Net>, flow: &Flow, mtu: u32) {
    let IpAddr::V6(daddr) = flow.daddr else { return };
    let Some(route) = fib_lookup(net, daddr, flow.oif) else { return };
    let mtu = mtu.max(IPV6_MIN_MTU);
    let known = exception_dst(net, daddr, &route).unwrap_or_else(|| route.dst_out(net)).mtu();
    if mtu >= known || route.spec.kind == RtnType::Local {
        return;
    }
    let table = &rt(net).exceptions;
    let hash = net.hash(&daddr);
    let old = table.lookup(hash, |e| e.daddr == daddr);
    if old.is_none() && table.len() >= MAX_EXCEPTIONS {
        evict_exception(table, net);
    }
    let expires = net.kernel().jiffies() + net.sysctl.ipv6_mtu_expires.get() as u64 * HZ;
    let new = Arc::new(Exception {
        daddr,
        route: Arc::downgrade(&route),
        mtu: AtomicU32::new(mtu),
        expires,
        dst: Rcu::default(),
    });
    match old {
        Some(old) if table.replace(hash, |e| Arc::ptr_eq(e, &old), |_| new.clone()) => {}
        _ => table.insert(hash, new),
    }
    net.bump_rt_genid();
    schedule_gc(net, expires);
}

/// Makes room: the first one met goes. Any choice will do; what is lost is learnt again.
fn evict_exception(table: &RcuHashTable<Arc<Exception>>, net: &Net) {
    let mut victim = None;
    table.for_each(|e| {
        victim = Some(e.clone());
        false
    });
    if let Some(v) = victim {
        table.remove(net.hash(&v.daddr), |e| Arc::ptr_eq(e, &v));
    }
}

/// `fib6_run_gc` at `at` jiffies, or sooner.
fn schedule_gc(net: &Arc<Net>, at: u64) {
    let timer = rt(net).gc.get_or_init(|| {
        let weak = net.weak();
        net.kernel().timer(move || {
            if let Some(net) = weak.upgrade() {
                fib6_run_gc(&net);
            }
        })
    });
    if timer.expires().is_none_or(|e| e > at) {
        timer.mod_timer(at);
    }
}

fn fib6_run_gc(net: &Arc<Net>) {
    let now = net.kernel().jiffies();
    let table = &rt(net).exceptions;
    let (mut expired, mut next) = (Vec::new(), u64::MAX);
    table.for_each(|e| {
        if e.expires <= now {
            expired.push(e.clone());
        } else {
            next = next.min(e.expires);
        }
        true
    });
    for e in &expired {
        table.remove(net.hash(&e.daddr), |o| Arc::ptr_eq(o, e));
    }
    remove_where(net, |r| r.spec.expires.is_some_and(|at| at <= now));
    if !expired.is_empty() {
        net.bump_rt_genid();
    }
    next = ip6_route_list(net).iter().filter_map(|r| r.expires).fold(next, u64::min);
    if next != u64::MAX {
        schedule_gc(net, next);
    }
}
