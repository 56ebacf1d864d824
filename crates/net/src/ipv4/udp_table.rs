//! Which UDP socket a datagram is for.
//!
//! Interface: [`UdpTable`] (a namespace's), [`UdpEntry`], [`UdpExt`] (a socket's part outside its lock), [`udp_set_sk_lookup`].
//! Linux counterpart: `struct udp_table`, `udp_lib_get_port`, `__udp4_lib_lookup`, `inet_lookup_run_sk_lookup`.
//! Locks and context: look-ups under RCU, any context; changes in process context under the socket's lock.
//!
//! Three tables over the same entries: by port (for bind conflicts and for delivery to groups), by address and port, and
//! connected ones by all four coordinates, so that a server with many connected sockets on one port finds each at once.

use crate::core::net_namespace::{Net, NetId};
use crate::core::sock::{Sock, SockFlags};
use crate::ipv4::errqueue::ErrQueue;
use crate::ipv4::inet_sock::McastGroups;
use kernel::{Rcu, RcuHashTable, SpinLock, rcu_read_lock};
use smallvec::SmallVec;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use uapi::sockaddr::AF_INET6;
use uapi::{Errno, Result};

/// Chooses the socket for a datagram that no connected socket claims: `(saddr, sport, daddr, dport)` to a socket, whatever
/// that is bound to. This is how a gateway gets everything, to any address and port (BPF `sk_lookup`).
pub type SkLookup = Box<dyn Fn(IpAddr, u16, IpAddr, u16) -> Option<Arc<Sock>> + Send + Sync>;

/// The UDP sockets of a namespace.
pub struct UdpTable {
    by_port: RcuHashTable<Arc<UdpEntry>>,
    by_addr: RcuHashTable<Arc<UdpEntry>>,
    connected: RcuHashTable<Arc<UdpEntry>>,
    sk_lookup: Rcu<SkLookup>,
}

impl Default for UdpTable {
    fn default() -> Self {
        UdpTable {
            by_port: RcuHashTable::new(256),
            by_addr: RcuHashTable::new(256),
            connected: RcuHashTable::new(256),
            sk_lookup: Rcu::default(),
        }
    }
}

/// Where a socket is, as the tables hold it; never changed, only replaced.
pub struct UdpEntry {
    pub sk: Arc<Sock>,
    pub port: u16,
    /// Unspecified: any address.
    pub rcv_saddr: IpAddr,
    /// Unspecified: not connected.
    pub daddr: IpAddr,
    pub dport: u16,
}

/// What a UDP socket keeps outside its lock, in [`Sock::ext`].
pub struct UdpExt {
    entry: SpinLock<Option<Arc<UdpEntry>>>,
    /// `UDP_GRO`: takes several datagrams of one flow at once.
    pub gro: AtomicBool,
    /// `UDP_NO_CHECK6_RX`.
    pub no_check6_rx: AtomicBool,
    pub errq: ErrQueue,
    pub groups: Arc<McastGroups>,
    pub groups6: Arc<McastGroups>,
}

impl UdpExt {
    pub fn new(groups: Arc<McastGroups>, groups6: Arc<McastGroups>) -> UdpExt {
        UdpExt {
            entry: SpinLock::new(None),
            gro: AtomicBool::new(false),
            no_check6_rx: AtomicBool::new(false),
            errq: ErrQueue::default(),
            groups,
            groups6,
        }
    }
}

/// The part of a UDP socket outside its lock.
pub fn udp_ext(sk: &Sock) -> &UdpExt {
    match sk.rare.ext() {
        Some(e) => e,
        None => unreachable!("set when the socket was made"),
    }
}

/// The namespace's table.
pub fn udp_table(net: &Net) -> &UdpTable {
    net.generic(NetId::Udp)
}

/// Sets or clears the namespace's hook for datagrams that no connected socket claims.
pub fn udp_set_sk_lookup(net: &Net, hook: Option<SkLookup>) {
    udp_table(net).sk_lookup.assign(hook.map(Arc::new));
}

/// A datagram's coordinates, as the receiver sees them: `s…` is the remote side. Ports in host order.
#[derive(Clone, Copy, Debug)]
pub struct UdpKey {
    pub saddr: IpAddr,
    pub sport: u16,
    pub daddr: IpAddr,
    pub dport: u16,
    /// Index of the device it came in by.
    pub dif: u32,
}

fn hash_port(net: &Net, port: u16) -> u32 {
    net.hash(&port)
}

/// "Any address" is one address here, of whichever version of IP.
fn hash_addr(net: &Net, addr: IpAddr, port: u16) -> u32 {
    net.hash(&(Some(addr).filter(|a| !a.is_unspecified()), port))
}

fn hash_connected(net: &Net, laddr: IpAddr, lport: u16, faddr: IpAddr, fport: u16) -> u32 {
    net.hash(&(laddr, lport, faddr, fport))
}

impl UdpEntry {
    fn is_connected(&self) -> bool {
        !self.daddr.is_unspecified() && self.dport != 0 && !self.rcv_saddr.is_unspecified()
    }

    fn hash_connected(&self) -> u32 {
        hash_connected(&self.sk.net, self.rcv_saddr, self.port, self.daddr, self.dport)
    }

    /// Whether the socket takes packets of this version of IP at all.
    fn takes(&self, v6: bool) -> bool {
        match (v6, self.rcv_saddr) {
            (true, a) => a.is_ipv6(),
            (false, IpAddr::V4(_)) => true,
            (false, IpAddr::V6(a)) => a.is_unspecified() && !self.sk.flag(SockFlags::V6ONLY),
        }
    }

    fn on_device(&self, dif: u32) -> bool {
        let bound = self.sk.bound_dev_if.load(Relaxed);
        bound == 0 || bound == dif
    }

    fn matches_peer(&self, k: &UdpKey) -> bool {
        (self.daddr.is_unspecified() || self.daddr == k.saddr) && (self.dport == 0 || self.dport == k.sport)
    }

    /// `compute_score`: how well the socket fits; `None`: not at all.
    fn score(&self, k: &UdpKey) -> Option<u32> {
        let here = self.rcv_saddr.is_unspecified() || self.rcv_saddr == k.daddr;
        if self.port != k.dport
            || !here
            || !self.takes(k.daddr.is_ipv6())
            || !self.on_device(k.dif)
            || !self.matches_peer(k)
        {
            return None;
        }
        // An exact family counts for less than any coordinate.
        let family = (k.daddr.is_ipv6() == (self.sk.family == AF_INET6)) as u32;
        let points = [
            !self.rcv_saddr.is_unspecified(),
            !self.daddr.is_unspecified(),
            self.dport != 0,
            self.sk.bound_dev_if.load(Relaxed) != 0,
        ];
        Some(1 + family + points.into_iter().filter(|&p| p).count() as u32 * 4)
    }

    /// `inet_rcv_saddr_equal` with wildcards: whether both could be given the same datagram.
    fn overlaps(&self, other: &UdpEntry) -> bool {
        let (a, b) = (self, other);
        let share_version = [false, true].into_iter().any(|v6| a.takes(v6) && b.takes(v6));
        if !share_version {
            return false;
        }
        a.rcv_saddr.is_unspecified() || b.rcv_saddr.is_unspecified() || a.rcv_saddr == b.rcv_saddr
    }

    /// `udp_lib_lport_inuse`: whether `new` may not have the port because of `self`.
    fn conflicts(&self, new: &UdpEntry) -> bool {
        if self.port != new.port || Arc::ptr_eq(&self.sk, &new.sk) {
            return false;
        }
        let both = |f| self.sk.flag(f) && new.sk.flag(f);
        let (d1, d2) = (self.sk.bound_dev_if.load(Relaxed), new.sk.bound_dev_if.load(Relaxed));
        let apart = d1 != 0 && d2 != 0 && d1 != d2;
        !both(SockFlags::REUSEADDR) && !both(SockFlags::REUSEPORT) && !apart && self.overlaps(new)
    }
}

impl UdpTable {
    /// `__udp4_lib_lookup`, `__udp6_lib_lookup`: a connected socket, the hook's choice, one bound to the address, one bound
    /// to any, the best first.
    pub fn lookup(&self, net: &Net, k: &UdpKey) -> Option<Arc<Sock>> {
        let mut found = None;
        let hash = hash_connected(net, k.daddr, k.dport, k.saddr, k.sport);
        self.connected.lookup(hash, |e| {
            let exact = e.rcv_saddr == k.daddr && e.port == k.dport && e.daddr == k.saddr && e.dport == k.sport;
            if exact && e.on_device(k.dif) {
                found = Some(e.sk.clone());
            }
            found.is_some()
        });
        found
            .or_else(|| self.run_sk_lookup(k))
            .or_else(|| self.best(net, hash_addr(net, k.daddr, k.dport), k))
            .or_else(|| self.best(net, net.hash(&(None::<IpAddr>, k.dport)), k))
    }

    fn run_sk_lookup(&self, k: &UdpKey) -> Option<Arc<Sock>> {
        let section = rcu_read_lock();
        let hook = self.sk_lookup.dereference(&section)?;
        hook(k.saddr, k.sport, k.daddr, k.dport)
    }

    /// The best of a hash chain; of equally good ones in a `SO_REUSEPORT` group the flow's hash chooses.
    fn best(&self, net: &Net, hash: u32, k: &UdpKey) -> Option<Arc<Sock>> {
        let mut best = 0;
        let mut group: SmallVec<[Arc<Sock>; 8]> = SmallVec::new();
        self.by_addr.lookup(hash, |e| {
            if let Some(score) = e.score(k) {
                let same_group = score == best && e.sk.flag(SockFlags::REUSEPORT);
                if score > best {
                    best = score;
                    group.clear();
                }
                if group.is_empty() || same_group {
                    group.push(e.sk.clone());
                }
            }
            false
        });
        match group.len() {
            0 | 1 => group.pop(),
            n => {
                let flow = net.hash(&(k.saddr, k.sport, k.daddr, k.dport)) as u64;
                Some(group.swap_remove(((flow * n as u64) >> 32) as usize))
            }
        }
    }

    /// Every socket a datagram to a group or a broadcast address is for.
    pub fn lookup_all(&self, net: &Net, k: &UdpKey) -> SmallVec<[Arc<Sock>; 8]> {
        let mut all = SmallVec::new();
        self.by_port.lookup(hash_port(net, k.dport), |e| {
            if e.score(k).is_some() && in_group(&e.sk, k) {
                all.push(e.sk.clone());
            }
            false
        });
        all
    }
}

fn in_group(sk: &Sock, k: &UdpKey) -> bool {
    let ext = udp_ext(sk);
    let groups = if k.daddr.is_ipv6() { &ext.groups6 } else { &ext.groups };
    !k.daddr.is_multicast() || groups.allows(k.daddr, k.dif)
}

/// `udp_lib_get_port`: claims `port`, or a free one of the range if 0; the port. `EADDRINUSE`.
pub fn udp_hash_port(sk: &Arc<Sock>, rcv_saddr: IpAddr, daddr: IpAddr, port: u16) -> Result<u16> {
    if port != 0 {
        return udp_hash_at(sk, rcv_saddr, daddr, port);
    }
    let ctl = &sk.net.sysctl;
    let (low, high) = (ctl.ip_local_port_min.get() as u32, ctl.ip_local_port_max.get() as u32);
    let range = high.saturating_sub(low) + 1;
    let start = sk.net.kernel().random_u32() % range;
    (0..range)
        .map(|i| low + (start + i) % range)
        .find_map(|p| udp_hash_at(sk, rcv_saddr, daddr, u16::try_from(p).ok()?).ok())
        .ok_or(Errno::EADDRINUSE)
}

fn udp_hash_at(sk: &Arc<Sock>, rcv_saddr: IpAddr, daddr: IpAddr, port: u16) -> Result<u16> {
    let net = &sk.net;
    let table = udp_table(net);
    let e = Arc::new(UdpEntry { sk: sk.clone(), port, rcv_saddr, daddr, dport: 0 });
    let conflict = |other: &Arc<UdpEntry>| other.conflicts(&e);
    table.by_port.insert_unless(hash_port(net, port), e.clone(), conflict).map_err(|_| Errno::EADDRINUSE)?;
    table.by_addr.insert(hash_addr(net, rcv_saddr, port), e.clone());
    *udp_ext(sk).entry.lock_bh() = Some(e);
    Ok(port)
}

/// `udp_lib_rehash`: the socket's addresses have changed (connect, disconnect). Look-ups find the old or the new entry.
pub fn udp_rehash(sk: &Arc<Sock>, rcv_saddr: IpAddr, daddr: IpAddr, dport: u16) {
    let net = &sk.net;
    let table = udp_table(net);
    let mut slot = udp_ext(sk).entry.lock_bh();
    let Some(old) = slot.clone() else { return };
    let new = Arc::new(UdpEntry { sk: sk.clone(), port: old.port, rcv_saddr, daddr, dport });
    if new.is_connected() {
        table.connected.insert(new.hash_connected(), new.clone());
    }
    table.by_addr.insert(hash_addr(net, rcv_saddr, new.port), new.clone());
    table.by_port.replace(hash_port(net, old.port), |e| Arc::ptr_eq(e, &old), |_| new.clone());
    *slot = Some(new);
    unlink_lookups(net, table, &old);
}

fn unlink_lookups(net: &Net, table: &UdpTable, e: &Arc<UdpEntry>) {
    let is = |o: &Arc<UdpEntry>| Arc::ptr_eq(o, e);
    table.by_addr.remove(hash_addr(net, e.rcv_saddr, e.port), is);
    if e.is_connected() {
        table.connected.remove(e.hash_connected(), is);
    }
}

/// `udp_lib_unhash`: gives the port up. Harmless without one.
pub fn udp_unhash(sk: &Arc<Sock>) {
    let Some(e) = udp_ext(sk).entry.lock_bh().take() else { return };
    let table = udp_table(&sk.net);
    unlink_lookups(&sk.net, table, &e);
    table.by_port.remove(hash_port(&sk.net, e.port), |o| Arc::ptr_eq(o, &e));
}
