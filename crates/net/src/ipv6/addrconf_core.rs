//! IPv6 addresses: their kinds and scopes, those of each device, groups joined, and which to send from.
//!
//! Interface: [`Inet6Dev`], [`Inet6Ifaddr`], [`Addrconf`], [`ipv6_get_ifaddr`], [`ipv6_dev_get_saddr`], [`ipv6_chk_mcast_addr`].
//! Linux counterpart: `include/net/if_inet6.h`, `net/ipv6/addrconf_core.c`, `addrlabel.c`, parts of `addrconf.c` and `mcast.c`.
//! Locks and context: reading anywhere, under RCU; changes take the table's lock. This file is below routing and output:
//! what gives addresses and takes them away is `addrconf`.

use crate::core::dev::{Iff, NetDevice};
use crate::core::net_namespace::{Net, NetId};
use kernel::{Rcu, SpinLock, Timer};
use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};
use std::sync::{Arc, OnceLock};
use uapi::{Errno, Result};

pub use crate::hdr::IPV6_MIN_MTU;

/// `ff02::1`, all nodes of the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// `ff02::2`, all routers of the link.
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// `ff02::16`, all routers that listen to membership reports (RFC 3810, 11).
pub const MLDV2_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);

/// Multicast scopes (RFC 4291, 2.7), which also order unicast addresses (RFC 6724, 3.1).
pub const SCOPE_INTERFACE: u8 = 1;
pub const SCOPE_LINK: u8 = 2;
pub const SCOPE_SITE: u8 = 5;
pub const SCOPE_GLOBAL: u8 = 14;

bitflags::bitflags! {
    /// `IFA_F_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct IfaFlags: u32 {
        const TEMPORARY = 0x01;
        const NODAD = 0x02;
        const OPTIMISTIC = 0x04;
        const DADFAILED = 0x08;
        const HOMEADDRESS = 0x10;
        const DEPRECATED = 0x20;
        const TENTATIVE = 0x40;
        /// Given by hand: no lifetime.
        const PERMANENT = 0x80;
        const NOPREFIXROUTE = 0x200;
    }
}

pub fn is_link_local(a: &Ipv6Addr) -> bool {
    a.segments()[0] & 0xffc0 == 0xfe80
}

/// The scope an address reaches (`ipv6_addr_scope`).
pub fn ipv6_addr_scope(a: &Ipv6Addr) -> u8 {
    if a.is_multicast() {
        return a.octets()[1] & 15;
    }
    match a.segments()[0] & 0xffc0 {
        0xfe80 => SCOPE_LINK,
        0xfec0 => SCOPE_SITE,
        _ if a.is_loopback() => SCOPE_LINK,
        _ => SCOPE_GLOBAL,
    }
}

/// The group in which a node with this address listens for solicitations (RFC 4291, 2.7.1).
pub fn addrconf_addr_solict_mult(a: &Ipv6Addr) -> Ipv6Addr {
    let s = a.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (s[6] & 0xff), s[7])
}

/// The Ethernet address of a group (RFC 2464, 7).
pub fn ndisc_mc_map(group: &Ipv6Addr) -> [u8; 6] {
    let o = group.octets();
    [0x33, 0x33, o[12], o[13], o[14], o[15]]
}

/// The interface identifier made of an Ethernet address (RFC 2464, 4).
pub fn eui64(mac: [u8; 6]) -> [u8; 8] {
    [mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]]
}

/// `len` leading ones.
pub fn prefix_mask(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - len.min(128) as u32).unwrap_or(0)
}

/// `ipv6_addr_prefix`: the address with everything behind `len` bits cleared.
pub fn ipv6_addr_prefix(a: &Ipv6Addr, len: u8) -> Ipv6Addr {
    Ipv6Addr::from_bits(a.to_bits() & prefix_mask(len))
}

/// `ipv6_prefix_equal`.
pub fn ipv6_prefix_equal(a: &Ipv6Addr, b: &Ipv6Addr, len: u8) -> bool {
    (a.to_bits() ^ b.to_bits()) & prefix_mask(len) == 0
}

/// An address of a device (`struct inet6_ifaddr`).
pub struct Inet6Ifaddr {
    pub addr: Ipv6Addr,
    pub prefix_len: u8,
    pub dev: Arc<NetDevice>,
    flags: AtomicU32,
    /// Jiffies until which it is valid and preferred; `u64::MAX`: for ever.
    pub valid_until: AtomicU64,
    pub prefered_until: AtomicU64,
    /// Solicitations that duplicate address detection still sends.
    pub dad_probes: AtomicU32,
    /// The nonce of our own solicitations (RFC 7527): one that comes back is a loop, not another node.
    pub dad_nonce: AtomicU64,
    /// Steps through duplicate address detection and lifetimes.
    pub timer: OnceLock<Timer>,
}

impl Inet6Ifaddr {
    /// One with unlimited lifetime.
    pub fn new(dev: &Arc<NetDevice>, addr: Ipv6Addr, prefix_len: u8, flags: IfaFlags) -> Inet6Ifaddr {
        Inet6Ifaddr {
            addr,
            prefix_len,
            dev: dev.clone(),
            flags: AtomicU32::new(flags.bits()),
            valid_until: AtomicU64::new(u64::MAX),
            prefered_until: AtomicU64::new(u64::MAX),
            dad_probes: AtomicU32::new(0),
            dad_nonce: AtomicU64::new(0),
            timer: OnceLock::new(),
        }
    }

    pub fn flags(&self) -> IfaFlags {
        IfaFlags::from_bits_truncate(self.flags.load(Acquire))
    }

    /// Sets or clears; the flags as they were.
    pub fn set_flag(&self, f: IfaFlags, on: bool) -> IfaFlags {
        IfaFlags::from_bits_truncate(match on {
            true => self.flags.fetch_or(f.bits(), AcqRel),
            false => self.flags.fetch_and(!f.bits(), AcqRel),
        })
    }

    /// Tentative and not to be used yet, even with optimism (RFC 4429).
    pub fn is_tentative(&self) -> bool {
        let f = self.flags();
        f.contains(IfaFlags::TENTATIVE) && !f.contains(IfaFlags::OPTIMISTIC)
    }
}

/// IPv6's part of a device (`struct inet6_dev`).
pub struct Inet6Dev {
    /// Groups joined, with how often.
    groups: Rcu<Vec<(Ipv6Addr, u32)>>,
    lock: SpinLock<()>,
    /// Up with a carrier, and configured (`IF_READY`).
    pub ready: AtomicBool,
    /// The link's MTU as a router advertised it; 0: none did.
    pub mtu6: AtomicU32,
    /// Membership reports still to be sent, and what sends them; `mcast`'s.
    pub mc_pending: SpinLock<Vec<McRecord>>,
    pub mc_timer: OnceLock<Timer>,
    /// Jiffies until which a router is taken to know only the first version of reports.
    pub mc_v1_until: AtomicU64,
    /// Hop limit as a router advertised it; 0: none did.
    pub hop_limit: AtomicU32,
    /// Router solicitations still to be sent, and what sends them.
    pub rs_probes: AtomicU32,
    pub rs_timer: OnceLock<Timer>,
}

/// A membership report to be sent: the group, its record's type, how often still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct McRecord {
    pub group: Ipv6Addr,
    pub kind: u8,
    pub left: u8,
}

/// `IPV6_MAX_GROUPS` in spirit: groups of one device.
const MAX_GROUPS: usize = 1024;

impl Default for Inet6Dev {
    fn default() -> Self {
        Inet6Dev {
            groups: Rcu::default(),
            lock: SpinLock::new(()),
            ready: AtomicBool::new(false),
            mtu6: AtomicU32::new(0),
            mc_pending: SpinLock::default(),
            mc_timer: OnceLock::new(),
            mc_v1_until: AtomicU64::new(0),
            hop_limit: AtomicU32::new(0),
            rs_probes: AtomicU32::new(0),
            rs_timer: OnceLock::new(),
        }
    }
}

/// `in6_dev_get`, making it when it is not there yet.
pub fn in6_dev_get(dev: &NetDevice) -> &Inet6Dev {
    let part = dev.ip6_ptr.get_or_init(|| Arc::new(Inet6Dev::default()));
    match part.downcast_ref() {
        Some(d) => d,
        None => unreachable!("ip6_ptr holds IPv6's part"),
    }
}

/// The MTU for IPv6 on the device: its own, or less where a router said so.
pub fn ip6_dev_mtu(dev: &NetDevice) -> u32 {
    match in6_dev_get(dev).mtu6.load(Relaxed) {
        0 => dev.mtu(),
        m => m.min(dev.mtu()),
    }
}

impl Inet6Dev {
    /// The groups joined on the device.
    pub fn groups(&self) -> Vec<Ipv6Addr> {
        self.groups.get().map_or_else(Vec::new, |g| g.iter().map(|(a, _)| *a).collect())
    }
}

/// `ipv6_dev_mc_inc`: joins a group; `true` when it is the first to. `ENOBUFS` when the device is in too many.
pub fn ipv6_dev_mc_inc(dev: &NetDevice, group: Ipv6Addr) -> Result<bool> {
    let idev = in6_dev_get(dev);
    let found = {
        let _l = idev.lock.lock_bh();
        let mut list = idev.groups.get().map_or_else(Vec::new, |g| g.to_vec());
        let found = list.iter().position(|(a, _)| *a == group);
        match found {
            Some(at) => list[at].1 += 1,
            None if list.len() >= MAX_GROUPS => return Err(Errno::ENOBUFS),
            None => list.push((group, 1)),
        }
        idev.groups.assign(Some(Arc::new(list)));
        found
    };
    if found.is_none() {
        group_changed(dev, group, true);
    }
    Ok(found.is_none())
}

/// `ipv6_dev_mc_dec`: leaves a group; `true` when nobody is left in it. `ENOENT` if it was not joined.
pub fn ipv6_dev_mc_dec(dev: &NetDevice, group: Ipv6Addr) -> Result<bool> {
    let idev = in6_dev_get(dev);
    let last = {
        let _l = idev.lock.lock_bh();
        let mut list = idev.groups.get().map_or_else(Vec::new, |g| g.to_vec());
        let at = list.iter().position(|(a, _)| *a == group).ok_or(Errno::ENOENT)?;
        list[at].1 -= 1;
        let last = list[at].1 == 0;
        if last {
            list.remove(at);
        }
        idev.groups.assign(Some(Arc::new(list)));
        last
    };
    if last {
        group_changed(dev, group, false);
    }
    Ok(last)
}

/// Tells whoever reports memberships.
fn group_changed(dev: &NetDevice, group: Ipv6Addr, joined: bool) {
    let Some(net) = dev.net() else { return };
    if let Some(f) = net.try_generic::<Addrconf>(NetId::Ipv6Addrconf).and_then(|a| a.mc_changed.get()) {
        f(&net, &dev.hold(), group, joined);
    }
}

/// `ipv6_chk_mcast_addr`: whether the device is in the group. Every device is in those of scope interface and of all nodes.
pub fn ipv6_chk_mcast_addr(dev: &NetDevice, group: &Ipv6Addr) -> bool {
    if *group == ALL_NODES || ipv6_addr_scope(group) <= SCOPE_INTERFACE || dev.flags().contains(Iff::ALLMULTI) {
        return true;
    }
    let section = kernel::rcu_read_lock();
    let list = in6_dev_get(dev).groups.dereference(&section);
    list.is_some_and(|l| l.iter().any(|(a, _)| a == group))
}

/// The addresses of a namespace.
#[derive(Default)]
pub struct Addrconf {
    addrs: Rcu<Vec<Arc<Inet6Ifaddr>>>,
    lock: SpinLock<()>,
    /// Told of every group that a device is the first to join, or the last to leave; `mcast` sets it.
    pub mc_changed: OnceLock<McChanged>,
}

pub type McChanged = fn(&Arc<Net>, &Arc<NetDevice>, group: Ipv6Addr, joined: bool);

pub fn addrconf(net: &Net) -> &Addrconf {
    net.generic(NetId::Ipv6Addrconf)
}

impl Addrconf {
    /// All addresses, as they are now.
    pub fn addrs(&self) -> Arc<Vec<Arc<Inet6Ifaddr>>> {
        self.addrs.get().unwrap_or_default()
    }

    /// Adds one; `EEXIST` if the device has it, `ENOBUFS` if it has `max` others (0: no limit).
    pub fn insert(&self, ifa: &Arc<Inet6Ifaddr>, max: usize) -> Result<()> {
        let _l = self.lock.lock_bh();
        let mut list = self.addrs().to_vec();
        let mut same_dev = list.iter().filter(|a| a.dev.ifindex == ifa.dev.ifindex);
        if same_dev.clone().any(|a| a.addr == ifa.addr) {
            return Err(Errno::EEXIST);
        }
        if max != 0 && same_dev.by_ref().count() >= max {
            return Err(Errno::ENOBUFS);
        }
        list.push(ifa.clone());
        self.addrs.assign(Some(Arc::new(list)));
        Ok(())
    }

    /// Takes it out; `false` if it was not in.
    pub fn remove(&self, ifa: &Arc<Inet6Ifaddr>) -> bool {
        let _l = self.lock.lock_bh();
        let mut list = self.addrs().to_vec();
        let Some(at) = list.iter().position(|a| Arc::ptr_eq(a, ifa)) else { return false };
        list.remove(at);
        self.addrs.assign(Some(Arc::new(list)));
        true
    }
}

/// `ipv6_get_ifaddr`: the address, on that device only if `ifindex` is not 0. Tentative ones are found too.
pub fn ipv6_get_ifaddr(net: &Net, addr: &Ipv6Addr, ifindex: u32) -> Option<Arc<Inet6Ifaddr>> {
    let section = kernel::rcu_read_lock();
    let list = addrconf(net).addrs.dereference(&section)?;
    list.iter().find(|a| a.addr == *addr && (ifindex == 0 || a.dev.ifindex == ifindex)).cloned()
}

/// `ipv6_chk_addr`: whether the address is ours and ready for use.
pub fn ipv6_chk_addr(net: &Net, addr: &Ipv6Addr, ifindex: u32) -> bool {
    ipv6_get_ifaddr(net, addr, ifindex).is_some_and(|a| !a.is_tentative())
}

/// The label of an address in the default policy table (RFC 6724, 2.1).
pub fn ipv6_addr_label(a: &Ipv6Addr) -> u8 {
    let s = a.segments();
    match s {
        _ if a.is_loopback() => 0,
        _ if a.to_ipv4_mapped().is_some() => 4,
        [0, 0, 0, 0, 0, 0, _, _] => 3,
        [0x2002, ..] => 2,
        [0x2001, 0, ..] => 5,
        [0x3ffe, ..] => 12,
        [f, ..] if f & 0xffc0 == 0xfec0 => 11,
        [f, ..] if f & 0xfe00 == 0xfc00 => 13,
        _ => 1,
    }
}

/// How good an address is as the source for a destination: the rules of RFC 6724, section 5, in order; greater is better.
type SaddrScore = (bool, i32, bool, bool, bool, bool, bool, u32);

fn saddr_score(ifa: &Inet6Ifaddr, daddr: &Ipv6Addr, oif: u32) -> SaddrScore {
    let flags = ifa.flags();
    let (scope, dscope) = (ipv6_addr_scope(&ifa.addr) as i32, ipv6_addr_scope(daddr) as i32);
    // Rule 2: the smallest scope that reaches the destination; else the largest there is.
    let by_scope = if scope >= dscope { -scope } else { scope - 128 };
    let common = (ifa.addr.to_bits() ^ daddr.to_bits()).leading_zeros();
    (
        ifa.addr == *daddr,
        by_scope,
        // An address still under detection counts as deprecated (RFC 4429, 3.3).
        !flags.intersects(IfaFlags::DEPRECATED | IfaFlags::OPTIMISTIC),
        flags.contains(IfaFlags::HOMEADDRESS),
        ifa.dev.ifindex == oif,
        ipv6_addr_label(&ifa.addr) == ipv6_addr_label(daddr),
        // Rule 7 as Linux has it without `use_tempaddr`: public ones first.
        !flags.contains(IfaFlags::TEMPORARY),
        common.min(ifa.prefix_len as u32),
    )
}

/// `ipv6_dev_get_saddr`: the source for packets to `daddr` that leave by `dev` (RFC 6724, 5). `EADDRNOTAVAIL`.
pub fn ipv6_dev_get_saddr(net: &Net, dev: &NetDevice, daddr: &Ipv6Addr) -> Result<Ipv6Addr> {
    let section = kernel::rcu_read_lock();
    let list = addrconf(net).addrs.dereference(&section).ok_or(Errno::EADDRNOTAVAIL)?;
    // RFC 6724, 4: for multicast and link-local destinations, only addresses of the outgoing interface.
    let this_link = daddr.is_multicast() || is_link_local(daddr);
    let usable = |a: &&Arc<Inet6Ifaddr>| {
        !a.is_tentative()
            && !a.flags().contains(IfaFlags::DADFAILED)
            && (!this_link || a.dev.ifindex == dev.ifindex)
            && (a.dev.is_up() || a.dev.ifindex == dev.ifindex)
            // Never a link-local address of another link.
            && (!is_link_local(&a.addr) || a.dev.ifindex == dev.ifindex)
    };
    let mut best: Option<(SaddrScore, Ipv6Addr)> = None;
    for a in list.iter().filter(usable) {
        let score = saddr_score(a, daddr, dev.ifindex);
        if best.is_none_or(|(b, _)| score > b) {
            best = Some((score, a.addr));
        }
    }
    best.map(|(_, a)| a).ok_or(Errno::EADDRNOTAVAIL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a(s: &str) -> Ipv6Addr {
        s.parse().unwrap()
    }

    #[test]
    fn maps_addresses() {
        assert_eq!(addrconf_addr_solict_mult(&a("fe80::5054:ff:fe12:3456")), a("ff02::1:ff12:3456"));
        assert_eq!(ndisc_mc_map(&a("ff02::1:ff12:3456")), [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        assert_eq!(eui64([0x52, 0x54, 0, 0x12, 0x34, 0x56]), [0x50, 0x54, 0, 0xff, 0xfe, 0x12, 0x34, 0x56]);
        assert_eq!(ipv6_addr_prefix(&a("2001:db8:1:2:3::4"), 48), a("2001:db8:1::"));
        assert_eq!(ipv6_addr_prefix(&a("2001::1"), 0), a("::"));
        assert_eq!(ipv6_addr_prefix(&a("2001::1"), 128), a("2001::1"));
        assert!(ipv6_prefix_equal(&a("2001:db8::1"), &a("2001:db8::ffff"), 64));
        assert!(!ipv6_prefix_equal(&a("2001:db8::1"), &a("2001:db8:0:1::1"), 64));
    }

    #[test]
    fn knows_scopes_and_labels() {
        assert_eq!(ipv6_addr_scope(&a("fe80::1")), SCOPE_LINK);
        assert_eq!(ipv6_addr_scope(&a("::1")), SCOPE_LINK);
        assert_eq!(ipv6_addr_scope(&a("2001:db8::1")), SCOPE_GLOBAL);
        assert_eq!(ipv6_addr_scope(&a("ff05::2")), SCOPE_SITE);
        for (addr, label) in [("::1", 0), ("2600::1", 1), ("2002::1", 2), ("::ffff:1.2.3.4", 4), ("fd00::1", 13)] {
            assert_eq!(ipv6_addr_label(&a(addr)), label, "{addr}");
        }
    }
}
