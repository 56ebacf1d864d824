//! IPv4's part of a device: its addresses, and the routes that come with them.
//!
//! Interface: [`InDevice`], [`inet_addr_add`], [`inet_addr_del`], [`inet_addr_list`], [`inet_addr_onlink`], [`inet_select_addr`],
//! [`ip_mc_inc_group`], [`ip_check_mc`], [`devinet_init`].
//! Linux counterpart: `net/ipv4/devinet.c`, the address half of `fib_frontend.c`, the group list of `igmp.c`.
//! Locks and context: addresses are read under RCU anywhere; they change in process context, under the device's lock.

use crate::core::dev::{NetDevice, NetdevEvent, dev_get_by_index, for_each_netdev, register_netdevice_notifier};
use crate::core::dst::RtnType;
use crate::core::net_namespace::{Net, NetId, Registries};
use crate::ipv4::arp::arp_announce;
use crate::ipv4::fib_trie::{
    FibInfo, FibTables, IfThere, RT_SCOPE_HOST, RT_SCOPE_LINK, RT_SCOPE_UNIVERSE, RT_TABLE_LOCAL, RT_TABLE_MAIN,
    RTPROT_KERNEL, inet_make_mask,
};
use kernel::{Rcu, SpinLock, rcu_read_lock};
use std::net::Ipv4Addr;
use std::sync::Arc;
use uapi::{Errno, Result};

/// All hosts of the link (RFC 1112, 4): every device is a member.
const INADDR_ALLHOSTS_GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
/// Groups one device may be in; a socket's `igmp_max_memberships` is 20.
const MAX_GROUPS: usize = 1024;

/// An address of a device (`struct in_ifaddr`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InIfaddr {
    pub addr: Ipv4Addr,
    pub prefixlen: u8,
    /// Of the prefix; unspecified where there is none (prefixes of 31 and 32 bits).
    pub broadcast: Ipv4Addr,
    pub label: String,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    /// Not the first of its prefix: never chosen as a source, and brings no prefix route (`IFA_F_SECONDARY`).
    pub secondary: bool,
}

impl InIfaddr {
    fn mask(&self) -> u32 {
        inet_make_mask(self.prefixlen)
    }

    /// Whether `a` is in this address's prefix (`inet_ifa_match`).
    pub fn covers(&self, a: Ipv4Addr) -> bool {
        (u32::from(self.addr) ^ u32::from(a)) & self.mask() == 0
    }

    fn prefix(&self) -> Ipv4Addr {
        (u32::from(self.addr) & self.mask()).into()
    }
}

/// IPv4's part of a device (`struct in_device`), in `dev.ip_ptr`.
#[derive(Default)]
pub struct InDevice {
    addrs: Rcu<Vec<InIfaddr>>,
    groups: Rcu<Vec<(Ipv4Addr, u32)>>,
    lock: SpinLock<()>,
}

impl InDevice {
    /// Calls `f` for each address until it answers with something.
    #[inline]
    pub fn find<R>(&self, f: impl FnMut(&InIfaddr) -> Option<R>) -> Option<R> {
        let section = rcu_read_lock();
        self.addrs.dereference(&section)?.iter().find_map(f)
    }

    pub fn list(&self) -> Vec<InIfaddr> {
        self.addrs.get().map_or_else(Vec::new, |a| (*a).clone())
    }
}

/// IPv4's part of the device; `None` if it never had any (`__in_dev_get_rcu`).
#[inline]
pub fn in_dev_get(dev: &NetDevice) -> Option<&InDevice> {
    dev.ip_ptr.get()?.downcast_ref()
}

/// Likewise, made where it is missing (`inetdev_init`).
fn in_dev_make(dev: &NetDevice) -> Result<&InDevice> {
    dev.ip_ptr.get_or_init(|| Arc::new(InDevice::default())).downcast_ref().ok_or(Errno::ENODEV)
}

/// Tells the link of an address that has come to the device (RFC 5227, 2.3), so that nobody keeps an older owner in mind.
fn announce(dev: &Arc<NetDevice>, ifa: &InIfaddr) {
    if dev.is_up() && !dev.is_loopback() {
        // Nobody waits for it: the first question for the address is answered all the same.
        let _ = arp_announce(dev, ifa.addr);
    }
}

/// Gives the device an address, and with it the routes that an address brings (`inet_insert_ifa`, `RTM_NEWADDR`).
/// `EINVAL` for an address no host can have, `EEXIST` for one the device has with this prefix. Process context.
pub fn inet_addr_add(dev: &Arc<NetDevice>, addr: Ipv4Addr, prefixlen: u8) -> Result<()> {
    if prefixlen > 32 || addr.is_multicast() || addr.is_broadcast() || addr.octets()[0] == 0 {
        return Err(Errno::EINVAL);
    }
    let net = dev.net().ok_or(Errno::ENODEV)?;
    let _inside = net.kernel().enter();
    let in_dev = in_dev_make(dev)?;
    let mask = inet_make_mask(prefixlen);
    let broadcast =
        if prefixlen < 31 && !dev.is_loopback() { (u32::from(addr) | !mask).into() } else { Ipv4Addr::UNSPECIFIED };
    let scope = if addr.is_loopback() { RT_SCOPE_HOST } else { RT_SCOPE_UNIVERSE };
    let mut ifa = InIfaddr { addr, prefixlen, broadcast, label: dev.name.clone(), scope, secondary: false };
    {
        let _l = in_dev.lock.lock_bh();
        let mut list = in_dev.list();
        if list.iter().any(|o| o.addr == addr && o.prefixlen == prefixlen) {
            return Err(Errno::EEXIST);
        }
        ifa.secondary = list.iter().any(|o| !o.secondary && o.prefixlen == prefixlen && o.covers(addr));
        list.push(ifa.clone());
        in_dev.addrs.assign(Some(Arc::new(list)));
    }
    fib_add_ifaddr(&net, dev, &ifa);
    net.bump_rt_genid();
    announce(dev, &ifa);
    Ok(())
}

/// Takes an address away (`inet_del_ifa`, `RTM_DELADDR`); with a primary one go the secondaries of its prefix, as Linux does
/// without `promote_secondaries`. `EADDRNOTAVAIL` if the device has no such address. Process context.
pub fn inet_addr_del(dev: &Arc<NetDevice>, addr: Ipv4Addr, prefixlen: u8) -> Result<()> {
    let net = dev.net().ok_or(Errno::ENODEV)?;
    let _inside = net.kernel().enter();
    let in_dev = in_dev_get(dev).ok_or(Errno::EADDRNOTAVAIL)?;
    let gone: Vec<InIfaddr> = {
        let _l = in_dev.lock.lock_bh();
        let list = in_dev.list();
        let ifa = list.iter().find(|o| o.addr == addr && o.prefixlen == prefixlen).ok_or(Errno::EADDRNOTAVAIL)?.clone();
        let dependent = |o: &InIfaddr| !ifa.secondary && o.secondary && o.prefixlen == prefixlen && o.covers(addr);
        let (gone, left) = list.into_iter().partition(|o| *o == ifa || dependent(o));
        in_dev.addrs.assign(Some(Arc::new(left)));
        gone
    };
    for ifa in &gone {
        fib_del_ifaddr(&net, dev, ifa);
    }
    net.bump_rt_genid();
    Ok(())
}

/// The device's addresses.
pub fn inet_addr_list(dev: &NetDevice) -> Vec<InIfaddr> {
    in_dev_get(dev).map_or_else(Vec::new, InDevice::list)
}

/// Whether `addr` is an address of this very device (what ARP answers for with `arp_ignore` 1; by default it asks
/// `inet_addr_type`).
pub fn inet_addr_is_on(dev: &NetDevice, addr: Ipv4Addr) -> bool {
    in_dev_get(dev).is_some_and(|d| d.find(|i| (i.addr == addr).then_some(())).is_some())
}

/// Whether `a`, and `b` unless it is unspecified, is in a prefix of the device (`inet_addr_onlink`).
pub fn inet_addr_onlink(dev: &NetDevice, a: Ipv4Addr, b: Ipv4Addr) -> bool {
    let both = |i: &InIfaddr| (i.covers(a) && (b.is_unspecified() || i.covers(b))).then_some(());
    in_dev_get(dev).is_some_and(|d| d.find(both).is_some())
}

/// The device that has `addr` (`__ip_dev_find`, over the address lists).
pub fn ip_dev_find(net: &Net, addr: Ipv4Addr) -> Option<Arc<NetDevice>> {
    for_each_netdev(net).into_iter().find(|d| inet_addr_is_on(d, addr))
}

/// The source address to use over a device towards `dst`: the first primary address of `dst`'s prefix, else the first
/// primary address that is valid at least `scope` far, else another device's (`inet_select_addr`).
pub fn inet_select_addr(net: &Net, dev: Option<&NetDevice>, dst: Ipv4Addr, scope: u8) -> Option<Ipv4Addr> {
    let usable = |i: &InIfaddr| !i.secondary && i.scope <= scope;
    if let Some(d) = dev.and_then(in_dev_get) {
        let on_link = d.find(|i| (usable(i) && i.covers(dst)).then_some(i.addr));
        if let Some(a) = on_link.or_else(|| d.find(|i| usable(i).then_some(i.addr))) {
            return Some(a);
        }
    }
    let global = |i: &InIfaddr| (!i.secondary && i.scope != RT_SCOPE_LINK && i.scope <= scope).then_some(i.addr);
    for_each_netdev(net).iter().find_map(|d| in_dev_get(d)?.find(global))
}

/// `fib_magic`: a route of the kernel's own. One that is there already is left alone.
fn fib_magic(net: &Net, dev: &Arc<NetDevice>, kind: RtnType, dst: Ipv4Addr, plen: u8, src: Ipv4Addr) {
    let table = if kind == RtnType::Unicast { RT_TABLE_MAIN } else { RT_TABLE_LOCAL };
    let scope = if kind == RtnType::Local { RT_SCOPE_HOST } else { RT_SCOPE_LINK };
    let fi = FibInfo {
        dst: (u32::from(dst) & inet_make_mask(plen)).into(),
        plen,
        table,
        kind,
        scope,
        protocol: RTPROT_KERNEL,
        priority: 0,
        prefsrc: Some(src),
        gateway: None,
        dev: Some(dev.clone()),
        metrics: None,
        rth: Rcu::default(),
    };
    // Two addresses of one prefix bring the same route: the first one's stays.
    let _ = FibTables::of(net).insert(fi, IfThere::Append);
}

/// The routes an address brings besides the one to itself (`fib_add_ifaddr`): `(kind, prefix, length)`.
fn routes_of(dev: &NetDevice, ifa: &InIfaddr) -> impl Iterator<Item = (RtnType, Ipv4Addr, u8)> {
    let zeronet = ifa.prefix().octets()[0] == 0;
    let has_prefix = !zeronet && !ifa.secondary && ifa.prefixlen < 32;
    let kind = if dev.is_loopback() { RtnType::Local } else { RtnType::Unicast };
    let prefix = has_prefix.then_some((kind, ifa.prefix(), ifa.prefixlen));
    let all_ones = Ipv4Addr::from(u32::from(ifa.addr) | !ifa.mask());
    let broadcast = (has_prefix && ifa.prefixlen < 31).then_some((RtnType::Broadcast, all_ones, 32));
    prefix.into_iter().chain(broadcast)
}

fn fib_add_ifaddr(net: &Net, dev: &Arc<NetDevice>, ifa: &InIfaddr) {
    fib_magic(net, dev, RtnType::Local, ifa.addr, 32, ifa.addr);
    if dev.is_up() {
        for (kind, dst, plen) in routes_of(dev, ifa) {
            fib_magic(net, dev, kind, dst, plen, ifa.addr);
        }
    }
}

fn fib_del_ifaddr(net: &Net, dev: &Arc<NetDevice>, ifa: &InIfaddr) {
    let tables = FibTables::of(net);
    let of_address = |fi: &FibInfo| fi.ifindex() == dev.ifindex && fi.protocol == RTPROT_KERNEL;
    for (kind, dst, plen) in routes_of(dev, ifa) {
        let table = if kind == RtnType::Unicast { RT_TABLE_MAIN } else { RT_TABLE_LOCAL };
        let _ = tables.remove(table, dst, plen, |fi| of_address(fi) && fi.kind == kind && fi.prefsrc == Some(ifa.addr));
    }
    // The same address with another prefix length keeps the route to itself.
    if !inet_addr_is_on(dev, ifa.addr) {
        let _ = tables.remove(RT_TABLE_LOCAL, ifa.addr, 32, |fi| of_address(fi) && fi.kind == RtnType::Local);
    }
    // Routes that prefer a source which is gone from the host are useless (`fib_sync_down_addr`).
    if ip_dev_find(net, ifa.addr).is_none() {
        tables.retain(|fi| fi.prefsrc != Some(ifa.addr));
    }
}

/// What happens to a device happens to its addresses and routes (`inetdev_event`, `fib_netdev_event`).
fn inetdev_event(dev: &Arc<NetDevice>, event: NetdevEvent) {
    let Some(net) = dev.net() else { return };
    if net.try_generic::<FibTables>(NetId::Ipv4Fib).is_none() {
        return;
    }
    match event {
        NetdevEvent::Register => {
            let _ = in_dev_make(dev);
        }
        NetdevEvent::Up => inetdev_up(&net, dev),
        NetdevEvent::Down => {
            // The addresses stay, and stay the host's own; ways over the device are gone.
            FibTables::of(&net).retain(|fi| fi.ifindex() != dev.ifindex || fi.scope == RT_SCOPE_HOST);
            net.bump_rt_genid();
        }
        NetdevEvent::ChangeMtu | NetdevEvent::Change => {}
        NetdevEvent::Unregister => {
            for ifa in inet_addr_list(dev) {
                let _ = inet_addr_del(dev, ifa.addr, ifa.prefixlen);
            }
            FibTables::of(&net).retain(|fi| fi.ifindex() != dev.ifindex);
            net.bump_rt_genid();
        }
    }
}

fn inetdev_up(net: &Arc<Net>, dev: &Arc<NetDevice>) {
    if dev.is_loopback() && inet_addr_list(dev).is_empty() {
        let _ = inet_addr_add(dev, Ipv4Addr::LOCALHOST, 8);
    }
    let list = inet_addr_list(dev);
    for ifa in &list {
        fib_add_ifaddr(net, dev, ifa);
    }
    net.bump_rt_genid();
    for ifa in &list {
        announce(dev, ifa);
    }
}

/// Joins a multicast group on a device: its packets are taken from now on (`ip_mc_inc_group`). `EINVAL` for what is no
/// group, `ENOBUFS` beyond the bound. (Memberships are not reported by IGMP.) Process context.
pub fn ip_mc_inc_group(dev: &NetDevice, group: Ipv4Addr) -> Result<()> {
    if !group.is_multicast() {
        return Err(Errno::EINVAL);
    }
    change_groups(dev, |list| {
        match list.iter().position(|g| g.0 == group) {
            Some(at) => list[at].1 += 1,
            None if list.len() >= MAX_GROUPS => return Err(Errno::ENOBUFS),
            None => list.push((group, 1)),
        }
        Ok(())
    })
}

/// Leaves it (`ip_mc_dec_group`); `EADDRNOTAVAIL` if it is not joined.
pub fn ip_mc_dec_group(dev: &NetDevice, group: Ipv4Addr) -> Result<()> {
    change_groups(dev, |list| {
        let at = list.iter().position(|g| g.0 == group).ok_or(Errno::EADDRNOTAVAIL)?;
        list[at].1 -= 1;
        if list[at].1 == 0 {
            list.swap_remove(at);
        }
        Ok(())
    })
}

fn change_groups(dev: &NetDevice, f: impl FnOnce(&mut Vec<(Ipv4Addr, u32)>) -> Result<()>) -> Result<()> {
    let in_dev = in_dev_make(dev)?;
    let _l = in_dev.lock.lock_bh();
    let mut list = in_dev.groups.get().map_or_else(Vec::new, |g| (*g).clone());
    f(&mut list)?;
    in_dev.groups.assign(Some(Arc::new(list)));
    drop(_l);
    // Routes to the group say whether a copy comes back.
    if let Some(net) = dev.net() {
        net.bump_rt_genid();
    }
    Ok(())
}

/// Whether packets to the group are for this host (`ip_check_mc_rcu`).
pub fn ip_check_mc(dev: &NetDevice, group: Ipv4Addr) -> bool {
    if group == INADDR_ALLHOSTS_GROUP {
        return true;
    }
    let section = rcu_read_lock();
    let list = in_dev_get(dev).and_then(|d| d.groups.dereference(&section));
    list.is_some_and(|l| l.iter().any(|g| g.0 == group))
}

/// The device of an index, if it is up.
pub fn up_dev_by_index(net: &Net, ifindex: u32) -> Result<Arc<NetDevice>> {
    let dev = dev_get_by_index(net, ifindex).ok_or(Errno::ENODEV)?;
    if dev.is_up() { Ok(dev) } else { Err(Errno::ENETDOWN) }
}

/// Once a kernel.
pub fn devinet_init(reg: &Registries) {
    register_netdevice_notifier(reg, inetdev_event);
}

/// Once a namespace.
pub fn devinet_net_init(net: &Arc<Net>) {
    net.set_generic(NetId::Ipv4Fib, FibTables::default());
}
