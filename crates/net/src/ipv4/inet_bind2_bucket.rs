//! Who holds a port, findable by address as well, so that `bind(2)` need not look at everybody.
//!
//! Interface: [`BoundList`], [`Bound`], [`BindAddr`], [`FastReuse`].
//! Linux counterpart: `struct inet_bind2_bucket` (`bhash2`) in `net/ipv4/inet_hashtables.c`.
//! Locks and context: plain data, under the lock of the port's bucket.
//!
//! Two holders of a port are in each other's way only if both have the same address, or one has none. So who binds to an
//! address asks that address and the two wildcards. Most ports have few holders: they are looked at one by one, and pay for
//! no index.

use crate::core::sock::{Sock, SockFlags};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use uapi::socket::AF_INET6;

/// The address a socket is bound to, with what makes it conflict with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindAddr {
    pub addr: IpAddr,
    /// Bound by an IPv6 socket: its wildcard covers both versions.
    pub v6: bool,
    pub v6only: bool,
}

/// `fastreuse` and `fastreuseport` of `struct inet_bind_bucket`.
#[derive(Default)]
pub struct FastReuse {
    /// All who were ever bound have `SO_REUSEADDR` and do not listen.
    pub reuse: bool,
    /// All have `SO_REUSEPORT`.
    pub reuseport: bool,
    /// Who has it and binds to what this covers is in nobody's way: somebody was let in with it, and all who came later have
    /// `SO_REUSEPORT`.
    pub strict: Option<BindAddr>,
}

/// Holders that are looked at one by one.
const FEW: usize = 16;

/// What a holder keeps for the list.
pub trait Bound {
    /// The address it is bound to. Changes only by [`BoundList::update`].
    fn addr(&self) -> IpAddr;
    /// Its place in the list.
    fn index(&self) -> &AtomicU32;
    /// Its place among those with its address.
    fn place(&mut self) -> &mut u32;
}

/// The holders of a port.
pub struct BoundList<T> {
    owners: Vec<T>,
    /// Where in `owners` those of an address are; `None` while they are few.
    // A port that has none pays a word.
    #[allow(clippy::box_collection)]
    by_addr: Option<Box<BTreeMap<IpAddr, Vec<u32>>>>,
}

impl<T> Default for BoundList<T> {
    fn default() -> Self {
        BoundList { owners: Vec::new(), by_addr: None }
    }
}

impl<T: Bound> BoundList<T> {
    /// All of them.
    pub fn all(&self) -> &[T] {
        &self.owners
    }

    pub fn get(&self, i: u32) -> Option<&T> {
        self.owners.get(i as usize)
    }

    pub fn add(&mut self, o: T) {
        let i = self.owners.len();
        o.index().store(i as u32, Relaxed);
        if i < 4 && i == self.owners.capacity() {
            // Most ports have one holder, others two.
            self.owners.reserve_exact(i.max(1));
        }
        self.owners.push(o);
        match self.by_addr {
            Some(_) => self.link(i),
            None if i == FEW => {
                self.by_addr = Some(Box::default());
                (0..=i).for_each(|i| self.link(i));
            }
            None => {}
        }
    }

    /// Takes out the one in place `i`, if there is one.
    pub fn remove(&mut self, i: u32) {
        let (i, last) = (i as usize, self.owners.len().wrapping_sub(1));
        if i >= self.owners.len() {
            return;
        }
        self.unlink(i);
        self.owners.swap_remove(i);
        if self.owners.is_empty() {
            *self = BoundList::default();
        } else if i != last {
            self.moved(i);
        }
    }

    /// Changes the one in place `i`, or puts another there.
    pub fn update(&mut self, i: u32, f: impl FnOnce(&mut T)) {
        let i = i as usize;
        if i >= self.owners.len() {
            return;
        }
        self.unlink(i);
        f(&mut self.owners[i]);
        self.owners[i].index().store(i as u32, Relaxed);
        self.link(i);
    }

    /// Those who can be in the way of a holder with this address; few others too.
    pub fn candidates(&self, addr: IpAddr) -> impl Iterator<Item = &T> {
        let by_addr = self.by_addr.as_deref().filter(|_| !addr.is_unspecified());
        let everybody = if by_addr.is_none() { &self.owners[..] } else { &[] };
        let asked = [addr, IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let some = by_addr.into_iter().flat_map(move |t| asked.into_iter().filter_map(|a| t.get(&a))).flatten();
        everybody.iter().chain(some.map(|&i| &self.owners[i as usize]))
    }

    fn link(&mut self, i: usize) {
        let (Some(by_addr), o) = (&mut self.by_addr, &mut self.owners[i]) else { return };
        let same = by_addr.entry(o.addr()).or_default();
        *o.place() = same.len() as u32;
        same.push(i as u32);
    }

    fn unlink(&mut self, i: usize) {
        let Some(by_addr) = &mut self.by_addr else { return };
        let (addr, place) = (self.owners[i].addr(), *self.owners[i].place());
        let Some(same) = by_addr.get_mut(&addr) else { return };
        same.swap_remove(place as usize);
        if let Some(&other) = same.get(place as usize) {
            *self.owners[other as usize].place() = place;
        }
        if same.is_empty() {
            by_addr.remove(&addr);
        }
    }

    /// What was last is now in place `i`.
    fn moved(&mut self, i: usize) {
        let o = &mut self.owners[i];
        o.index().store(i as u32, Relaxed);
        let (addr, place) = (o.addr(), *o.place());
        if let Some(at) = self.by_addr.as_mut().and_then(|t| t.get_mut(&addr)?.get_mut(place as usize)) {
            *at = i as u32;
        }
    }
}

impl BindAddr {
    pub fn of(sk: &Sock, addr: IpAddr) -> BindAddr {
        BindAddr { addr, v6: sk.family == AF_INET6 as u16, v6only: sk.flag(SockFlags::V6ONLY) }
    }

    /// Whether whatever `other` gets this one can get too (`ipv6_rcv_saddr_equal` with `match_sk1_wildcard` alone).
    pub fn covers(&self, other: &BindAddr) -> bool {
        match (self.addr, other.addr) {
            (IpAddr::V4(a), IpAddr::V4(b)) => !other.v6only && (a == b || a.is_unspecified()),
            (IpAddr::V4(a), IpAddr::V6(_)) => !self.v6 && !other.v6only && a.is_unspecified(),
            (IpAddr::V6(a), IpAddr::V4(_)) => a.is_unspecified() && !self.v6only,
            (IpAddr::V6(a), IpAddr::V6(b)) => a == b || a.is_unspecified(),
        }
    }

    /// Whether the two can get the same packets, wildcards included (`inet_rcv_saddr_equal`).
    pub fn overlaps(&self, other: &BindAddr) -> bool {
        let wild = |b: &BindAddr| b.addr.is_unspecified();
        // An IPv6 wildcard takes IPv4 too, unless told not to; an IPv4 wildcard takes IPv4 only.
        let takes = |a: &BindAddr, b: &BindAddr| {
            let b_is_v4 = b.addr.is_ipv4() && !(b.v6 && wild(b));
            let b_is_v6_wild = b.v6 && wild(b);
            match (a.v6, wild(a)) {
                (_, false) => false,
                (true, true) => !(a.v6only && b_is_v4),
                (false, true) => b_is_v4 || (b_is_v6_wild && !b.v6only),
            }
        };
        takes(self, other) || takes(other, self) || (self.addr == other.addr && !wild(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Holder {
        name: u32,
        addr: IpAddr,
        index: AtomicU32,
        place: u32,
    }

    impl Bound for Holder {
        fn addr(&self) -> IpAddr {
            self.addr
        }

        fn index(&self) -> &AtomicU32 {
            &self.index
        }

        fn place(&mut self) -> &mut u32 {
            &mut self.place
        }
    }

    fn holder(name: u32, addr: IpAddr) -> Holder {
        Holder { name, addr, index: AtomicU32::new(u32::MAX), place: u32::MAX }
    }

    fn address(n: u8) -> IpAddr {
        match n {
            0 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            1 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            n if n % 2 == 0 => IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)),
            n => IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n as u16)),
        }
    }

    /// Each is where it says, in the list and among those of its address.
    fn check(l: &mut BoundList<Holder>) {
        for i in 0..l.owners.len() {
            assert_eq!(l.owners[i].index.load(Relaxed), i as u32);
            if let Some(t) = &l.by_addr {
                assert_eq!(t[&l.owners[i].addr][l.owners[i].place as usize], i as u32);
            }
        }
        if let Some(t) = &l.by_addr {
            assert_eq!(t.values().map(Vec::len).sum::<usize>(), l.owners.len());
            assert!(t.values().all(|v| !v.is_empty()));
        }
    }

    /// `ipv6_rcv_saddr_equal` and `ipv4_rcv_saddr_equal`, the first socket's wildcard counting and the second's not.
    #[test]
    fn what_is_let_in_covers_what_comes_later() {
        let at = |addr: &str, v6, v6only| BindAddr { addr: addr.parse().unwrap(), v6, v6only };
        let (any4, one, two) =
            (at("0.0.0.0", false, false), at("10.0.0.1", false, false), at("10.0.0.2", false, false));
        let (any6, only, six) = (at("::", true, false), at("::", true, true), at("fd00::1", true, false));
        let (mapped, any_mapped) = (at("10.0.0.1", true, false), at("0.0.0.0", true, false));
        for (first, covered, not) in [
            (one, vec![one, mapped], vec![two, any4, any6, only, six, at("10.0.0.1", true, true)]),
            (any4, vec![any4, one, mapped, any6, six], vec![only, at("fd00::1", true, true)]),
            (any_mapped, vec![one, mapped], vec![any6, six]),
            (any6, vec![any4, one, mapped, any6, only, six], vec![]),
            (only, vec![any6, only, six], vec![any4, one, mapped]),
            (six, vec![six], vec![any6, only, one, any4, at("fd00::2", true, false)]),
        ] {
            assert!(covered.iter().all(|o| first.covers(o)), "{first:?}");
            assert!(!not.iter().any(|o| first.covers(o)), "{first:?}");
        }
    }

    proptest! {
        /// Whoever has the address or none is asked, whatever happened before.
        #[test]
        fn the_index_says_what_a_scan_says(ops in prop::collection::vec((0u8..4, any::<u32>(), 0u8..8), 1..200)) {
            let mut l = BoundList::default();
            for (n, (op, which, a)) in ops.into_iter().enumerate() {
                let at = if l.owners.is_empty() { 0 } else { which % l.owners.len() as u32 };
                match op {
                    0 | 1 => l.add(holder(n as u32, address(a))),
                    2 => l.remove(at),
                    _ if which % 2 == 0 => l.update(at, |h| h.addr = address(a)),
                    _ => l.update(at, |h| *h = holder(n as u32, address(a))),
                }
                check(&mut l);
                for addr in (0..8).map(address) {
                    let mut got: Vec<u32> = l.candidates(addr).map(|h| h.name).collect();
                    let near = |h: &&Holder| addr.is_unspecified() || h.addr == addr || h.addr.is_unspecified();
                    let mut want: Vec<u32> = match l.by_addr {
                        Some(_) => l.owners.iter().filter(near).map(|h| h.name).collect(),
                        None => l.owners.iter().map(|h| h.name).collect(),
                    };
                    got.sort_unstable();
                    want.sort_unstable();
                    prop_assert_eq!(got, want);
                }
            }
        }
    }
}
