//! The routing table: longest-prefix match.
//!
//! Interface: [`FibTables`] (`insert`, `remove`, `retain`, `list`, [`fib_lookup`]), [`FibInfo`], [`Trie`].
//! Linux counterpart: `net/ipv4/fib_trie.c`, `fib_semantics.c`, `fib_rules.c`.
//! Locks and context: look-ups anywhere, under RCU; changes under the tables' lock, in process context.
//!
//! A table is a path-compressed binary trie that is never changed: a change builds the nodes from the root to the prefix
//! anew (33 at most), shares the rest, and publishes the new root. A reader walks one snapshot from top to bottom.

use crate::core::dev::NetDevice;
use crate::core::dst::{Dst, RtnType};
use crate::core::dst_metrics::DstMetrics;
use crate::core::net_namespace::{Net, NetId};
use kernel::rcu::RcuReadGuard;
use kernel::{Rcu, SpinLock};
use std::net::Ipv4Addr;
use std::sync::Arc;
use uapi::{Errno, Result};

/// `RT_TABLE_MAIN`: what people mean by "the routing table".
pub const RT_TABLE_MAIN: u8 = 254;
/// `RT_TABLE_LOCAL`: this host's own addresses and broadcasts; asked first.
pub const RT_TABLE_LOCAL: u8 = 255;

/// How far away a destination is (`RT_SCOPE_*`): the larger the nearer.
pub const RT_SCOPE_UNIVERSE: u8 = 0;
pub const RT_SCOPE_LINK: u8 = 253;
pub const RT_SCOPE_HOST: u8 = 254;

/// Who installed a route (`RTPROT_*`).
pub const RTPROT_KERNEL: u8 = 2;
pub const RTPROT_BOOT: u8 = 3;
pub const RTPROT_STATIC: u8 = 4;

/// The network mask of a prefix length.
#[inline]
pub fn inet_make_mask(plen: u8) -> u32 {
    if plen == 0 { 0 } else { u32::MAX << (32 - plen.min(32) as u32) }
}

/// A node of the trie: a prefix with the values that stand at it, and the longer prefixes inside it.
#[derive(Clone)]
struct Node<T> {
    key: u32,
    plen: u8,
    values: Vec<T>,
    child: [Option<Arc<Node<T>>>; 2],
}

/// An immutable map from prefixes to lists of values.
#[derive(Clone)]
pub struct Trie<T>(Option<Arc<Node<T>>>);

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Trie(None)
    }
}

/// The bit of `key` behind a prefix of `plen` bits.
#[inline]
fn bit(key: u32, plen: u8) -> usize {
    (key >> (31 - plen as u32) & 1) as usize
}

impl<T: Clone> Node<T> {
    fn new(key: u32, plen: u8) -> Node<T> {
        Node { key, plen, values: Vec::new(), child: [None, None] }
    }

    #[inline]
    fn covers(&self, key: u32) -> bool {
        (self.key ^ key) & inet_make_mask(self.plen) == 0
    }
}

/// The trie below `node` with the values of a prefix edited; nodes that nobody needs any more fall out.
fn edited<T: Clone>(
    node: Option<&Arc<Node<T>>>,
    key: u32,
    plen: u8,
    edit: &mut dyn FnMut(&mut Vec<T>),
) -> Option<Arc<Node<T>>> {
    let mut new = match node {
        None => Node::new(key, plen),
        Some(n) if n.plen == plen && n.key == key => Node::clone(n),
        Some(n) if n.plen < plen && n.covers(key) => {
            let mut new = Node::clone(n);
            let slot = &mut new.child[bit(key, n.plen)];
            *slot = edited(slot.as_ref(), key, plen, edit);
            return collapsed(new);
        }
        Some(n) => return parted(n, key, plen, edit),
    };
    edit(&mut new.values);
    collapsed(new)
}

/// The trie of two prefixes that are to hang side by side, or the new one above the old.
fn parted<T: Clone>(n: &Arc<Node<T>>, key: u32, plen: u8, edit: &mut dyn FnMut(&mut Vec<T>)) -> Option<Arc<Node<T>>> {
    let common = ((n.key ^ key).leading_zeros() as u8).min(plen).min(n.plen);
    let mut top = Node::new(key & inet_make_mask(common), common);
    top.child[bit(n.key, common)] = Some(n.clone());
    if common == plen {
        edit(&mut top.values);
    } else {
        top.child[bit(key, common)] = edited(None, key, plen, edit);
    }
    collapsed(top)
}

/// The node, unless it says nothing that its only child does not.
fn collapsed<T>(mut n: Node<T>) -> Option<Arc<Node<T>>> {
    if n.values.is_empty() {
        match (n.child[0].take(), n.child[1].take()) {
            (None, None) => return None,
            (Some(c), None) | (None, Some(c)) => return Some(c),
            (a, b) => n.child = [a, b],
        }
    }
    Some(Arc::new(n))
}

impl<T: Clone> Trie<T> {
    /// A trie in which `edit` has been applied to the values of `key/plen`.
    #[must_use]
    pub fn edit(&self, key: u32, plen: u8, mut edit: impl FnMut(&mut Vec<T>)) -> Trie<T> {
        let plen = plen.min(32);
        Trie(edited(self.0.as_ref(), key & inet_make_mask(plen), plen, &mut edit))
    }

    /// The first value that `accept`s of the longest prefix that has one (`fib_table_lookup`).
    #[inline]
    pub fn lookup(&self, key: u32, mut accept: impl FnMut(&T) -> bool) -> Option<&T> {
        // Every prefix on the way down covers the key, and each is longer than the one before.
        let mut best = None;
        let mut at = self.0.as_deref();
        while let Some(n) = at {
            if !n.covers(key) {
                break;
            }
            best = n.values.iter().find(|v| accept(v)).or(best);
            at = if n.plen < 32 { n.child[bit(key, n.plen)].as_deref() } else { None };
        }
        best
    }

    /// The values at exactly this prefix.
    pub fn exact(&self, key: u32, plen: u8) -> &[T] {
        let mut at = self.0.as_deref();
        while let Some(n) = at {
            if n.plen >= plen || !n.covers(key) {
                let hit = n.plen == plen && n.key == key & inet_make_mask(plen);
                return if hit { &n.values } else { &[] };
            }
            at = n.child[bit(key, n.plen)].as_deref();
        }
        &[]
    }

    /// Calls `f` for every prefix, in order of address and then length.
    pub fn for_each(&self, f: &mut dyn FnMut(u32, u8, &[T])) {
        fn walk<T>(n: Option<&Node<T>>, f: &mut dyn FnMut(u32, u8, &[T])) {
            let Some(n) = n else { return };
            if !n.values.is_empty() {
                f(n.key, n.plen, &n.values);
            }
            walk(n.child[0].as_deref(), f);
            walk(n.child[1].as_deref(), f);
        }
        walk(self.0.as_deref(), f);
    }
}

/// A route (`struct fib_info` with its `fib_alias`).
pub struct FibInfo {
    pub dst: Ipv4Addr,
    pub plen: u8,
    pub table: u8,
    pub kind: RtnType,
    pub scope: u8,
    /// `RTPROT_*`.
    pub protocol: u8,
    /// The metric: of routes to the same prefix the one with the lowest wins.
    pub priority: u32,
    pub prefsrc: Option<Ipv4Addr>,
    pub gateway: Option<Ipv4Addr>,
    /// Where it leaves; `None` for routes that lead nowhere.
    pub dev: Option<Arc<NetDevice>>,
    /// `fib_metrics`.
    pub metrics: Option<Arc<DstMetrics>>,
    /// The decision it stands for, made once a routing generation (`nhc_pcpu_rth_output`, `nhc_rth_input`).
    pub rth: Rcu<Dst>,
}

impl FibInfo {
    /// The same prefix, metric, type, way and preferred source.
    pub fn same_route(&self, o: &FibInfo) -> bool {
        self.priority == o.priority && self.kind == o.kind && self.same_way(o) && self.prefsrc == o.prefsrc
    }

    /// The same in all but the prefix (`fib_find_info`).
    fn same_info(&self, o: &FibInfo) -> bool {
        self.same_route(o) && self.scope == o.scope && self.protocol == o.protocol && self.metrics == o.metrics
    }

    fn same_way(&self, o: &FibInfo) -> bool {
        self.gateway == o.gateway && self.ifindex() == o.ifindex()
    }

    pub fn ifindex(&self) -> u32 {
        self.dev.as_ref().map_or(0, |d| d.ifindex)
    }
}

impl std::fmt::Debug for FibInfo {
    /// As `ip route` prints it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {}/{}", self.kind, self.dst, self.plen)?;
        if let Some(g) = self.gateway {
            write!(f, " via {g}")?;
        }
        if let Some(d) = &self.dev {
            write!(f, " dev {}", d.name)?;
        }
        write!(f, " table {} metric {}", self.table, self.priority)?;
        self.prefsrc.map_or(Ok(()), |s| write!(f, " src {s}"))
    }
}

type RouteTrie = Trie<Arc<FibInfo>>;

/// A namespace's tables, asked in this order (the default rules without table `default`, which is always empty).
pub struct FibTables {
    local: Rcu<RouteTrie>,
    main: Rcu<RouteTrie>,
    lock: SpinLock<()>,
}

impl Default for FibTables {
    fn default() -> Self {
        let empty = || Rcu::new(Some(Arc::new(Trie::default())));
        FibTables { local: empty(), main: empty(), lock: SpinLock::new(()) }
    }
}

/// What to do with a route that is already there (`NLM_F_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IfThere {
    /// `EEXIST` if there is one of the same prefix and metric (`NLM_F_EXCL`).
    Refuse,
    /// It takes its place.
    Replace,
    /// Likewise, and `ENOENT` if there is none.
    Change,
    /// Stands behind it, unless it is the very same (`EEXIST`), as the kernel's own routes are added.
    Append,
}

impl FibTables {
    /// The namespace's.
    #[inline]
    pub fn of(net: &Net) -> &FibTables {
        net.generic(NetId::Ipv4Fib)
    }

    /// `ENOENT` for a table that does not exist.
    fn table(&self, id: u8) -> Result<&Rcu<RouteTrie>> {
        match id {
            RT_TABLE_LOCAL => Ok(&self.local),
            RT_TABLE_MAIN => Ok(&self.main),
            _ => Err(Errno::ENOENT),
        }
    }

    /// `fib_table_insert`. `EEXIST` as `how` says. The caller bumps the routing generation.
    pub fn insert(&self, fi: FibInfo, how: IfThere) -> Result<()> {
        let _l = self.lock.lock_bh();
        let table = self.table(fi.table)?;
        let trie = table.get().unwrap_or_default();
        let key = u32::from(fi.dst);
        let there = trie.exact(key, fi.plen);
        let same_metric = |o: &Arc<FibInfo>| o.priority == fi.priority;
        match how {
            IfThere::Refuse if there.iter().any(same_metric) => return Err(Errno::EEXIST),
            IfThere::Change if !there.iter().any(same_metric) => return Err(Errno::ENOENT),
            IfThere::Append if there.iter().any(|o| o.same_route(&fi)) => return Err(Errno::EEXIST),
            _ => {}
        }
        let plen = fi.plen;
        let new = Arc::new(fi);
        let trie = trie.edit(key, plen, |list| {
            if matches!(how, IfThere::Replace | IfThere::Change)
                && let Some(old) = list.iter_mut().find(|o| o.priority == new.priority)
            {
                // What was learnt of the old one's paths goes with it.
                if !old.same_info(&new) {
                    *old = new.clone();
                }
                return;
            }
            let at = list.partition_point(|o| o.priority <= new.priority);
            list.insert(at, new.clone());
        });
        table.assign(Some(Arc::new(trie)));
        Ok(())
    }

    /// `fib_table_delete`: takes out the first route of the prefix that `matches`; `ESRCH` if there is none.
    pub fn remove(&self, table: u8, dst: Ipv4Addr, plen: u8, mut matches: impl FnMut(&FibInfo) -> bool) -> Result<()> {
        let _l = self.lock.lock_bh();
        let table = self.table(table)?;
        let trie = table.get().unwrap_or_default();
        let mut found = false;
        let new = trie.edit(u32::from(dst), plen, |list| {
            if let Some(i) = list.iter().position(|o| matches(o)) {
                list.remove(i);
                found = true;
            }
        });
        if !found {
            return Err(Errno::ESRCH);
        }
        table.assign(Some(Arc::new(new)));
        Ok(())
    }

    /// Keeps only the routes that `keep` says (`fib_table_flush`); `true` if any has gone.
    pub fn retain(&self, keep: impl Fn(&FibInfo) -> bool) -> bool {
        let _l = self.lock.lock_bh();
        let mut changed = false;
        for table in [&self.local, &self.main] {
            let trie = table.get().unwrap_or_default();
            let mut doomed = Vec::new();
            trie.for_each(&mut |key, plen, list| {
                if list.iter().any(|fi| !keep(fi)) {
                    doomed.push((key, plen));
                }
            });
            if doomed.is_empty() {
                continue;
            }
            let pruned =
                doomed.iter().fold((*trie).clone(), |t, &(k, l)| t.edit(k, l, |list| list.retain(|fi| keep(fi))));
            table.assign(Some(Arc::new(pruned)));
            changed = true;
        }
        changed
    }

    /// Every route of a table, in order of prefix (`fib_table_dump`).
    pub fn list(&self, table: u8) -> Vec<Arc<FibInfo>> {
        let mut all = Vec::new();
        if let Ok(t) = self.table(table)
            && let Some(trie) = t.get()
        {
            trie.for_each(&mut |_, _, list| all.extend_from_slice(list));
        }
        all
    }
}

/// What to look up (the part of `struct flowi4` that decides).
#[derive(Clone, Copy, Debug)]
pub struct FibKey {
    pub daddr: Ipv4Addr,
    /// Only routes over this device; 0: any.
    pub oif: u32,
    /// Only destinations at least this near.
    pub scope: u8,
}

impl FibKey {
    pub fn to(daddr: Ipv4Addr) -> FibKey {
        FibKey { daddr, oif: 0, scope: RT_SCOPE_UNIVERSE }
    }
}

/// `fib_lookup`: the route of the local table, else of the main one. Routes that lead nowhere are found too: their kind says
/// what becomes of the packet.
#[inline]
pub fn fib_lookup<'g>(net: &Net, key: &FibKey, section: &'g RcuReadGuard) -> Option<&'g Arc<FibInfo>> {
    let tables = FibTables::of(net);
    let daddr = u32::from(key.daddr);
    let fits = |fi: &Arc<FibInfo>| {
        fi.scope >= key.scope && (key.oif == 0 || fi.dev.as_ref().is_some_and(|d| d.ifindex == key.oif))
    };
    [&tables.local, &tables.main].into_iter().find_map(|t| t.dereference(section)?.lookup(daddr, fits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the trie must do, done slowly.
    #[derive(Default)]
    struct Linear(Vec<(u32, u8, u32)>);

    impl Linear {
        fn lookup(&self, key: u32, odd: bool) -> Option<u32> {
            let fits = |&&(k, l, v): &&(u32, u8, u32)| (k ^ key) & inet_make_mask(l) == 0 && (!odd || v & 1 == 1);
            let best = self.0.iter().filter(fits).map(|e| e.1).max()?;
            self.0.iter().filter(fits).find(|e| e.1 == best).map(|e| e.2)
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Add(u32, u8, u32),
        Del(usize),
    }

    /// Few distinct bits, so that prefixes nest and collide.
    fn key() -> impl Strategy<Value = u32> {
        prop_oneof![any::<u32>(), (0u32..8, 0u32..8).prop_map(|(a, b)| a << 29 | b), 0u32..16]
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (key(), 0u8..=32, any::<u32>()).prop_map(|(k, l, v)| Op::Add(k & inet_make_mask(l), l, v)),
            1 => any::<usize>().prop_map(Op::Del),
        ]
    }

    proptest! {
        #[test]
        fn finds_what_a_linear_table_finds(ops in prop::collection::vec(op(), 0..60), keys in prop::collection::vec(key(), 40)) {
            let (mut trie, mut table) = (Trie::default(), Linear::default());
            for op in ops {
                match op {
                    Op::Add(k, l, v) => {
                        trie = trie.edit(k, l, |list| list.push(v));
                        table.0.push((k, l, v));
                    }
                    Op::Del(i) if !table.0.is_empty() => {
                        let (k, l, v) = table.0.remove(i % table.0.len());
                        trie = trie.edit(k, l, |list| {
                            if let Some(at) = list.iter().position(|&x| x == v) {
                                list.remove(at);
                            }
                        });
                    }
                    Op::Del(_) => {}
                }
                for &(k, l, _) in &table.0 {
                    let want: Vec<_> = table.0.iter().filter(|e| e.0 == k && e.1 == l).map(|e| e.2).collect();
                    prop_assert_eq!(trie.exact(k, l), &want[..]);
                }
            }
            for k in keys.into_iter().chain(table.0.iter().map(|e| e.0).collect::<Vec<_>>()) {
                prop_assert_eq!(trie.lookup(k, |_| true).copied(), table.lookup(k, false));
                prop_assert_eq!(trie.lookup(k, |v| v & 1 == 1).copied(), table.lookup(k, true));
            }
            let mut n = 0;
            trie.for_each(&mut |_, _, list| n += list.len());
            prop_assert_eq!(n, table.0.len());
        }
    }

    #[test]
    fn an_emptied_trie_holds_no_nodes() {
        let mut t = Trie::default();
        for i in 0..64u32 {
            t = t.edit(i << 20, 12 + (i % 20) as u8, |l| l.push(i));
        }
        for i in 0..64u32 {
            t = t.edit(i << 20, 12 + (i % 20) as u8, |l| l.retain(|&x| x != i));
        }
        assert!(t.0.is_none());
    }
}
