//! The table of neighbours of a family: finding, limits, collection.
//!
//! Interface: [`NeighTables`], [`neigh_lookup`], [`neigh_delete`], [`neigh_ifdown`], [`neigh_dump`].
//! Linux counterpart: `net/core/neighbour.c` (`neigh_forced_gc`, `neigh_periodic_work`, `neigh_ifdown`).
//! Locks and context: look-ups anywhere, under RCU; removal in process or softirq context.

use super::entry::{Neighbour, Nud, hash_of, jiffies, ms, secs};
use crate::core::dev::NetDevice;
use crate::core::net_namespace::Net;
use crate::core::skb_queue::SkbQueue;
use crate::core::sysctl::Ctl;
use kernel::{HZ, RcuHashTable, Timer};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, OnceLock};
use uapi::{Errno, Result};

/// ARP's and ND's table of a namespace.
#[derive(Default)]
pub struct NeighTables {
    v4: NeighTable,
    v6: NeighTable,
}

/// Counters of a table (`struct neigh_statistics`).
#[derive(Default)]
pub struct NeighStats {
    pub allocs: AtomicU64,
    pub destroys: AtomicU64,
    /// Entries that could not be made because the table was full (`gc_thresh3`).
    pub table_fulls: AtomicU64,
    /// Packets dropped from queues of unresolved entries (`unres_qlen_bytes`).
    pub unres_discards: AtomicU64,
    /// Resolutions that failed.
    pub res_failed: AtomicU64,
    pub forced_gc_runs: AtomicU64,
    pub periodic_gc_runs: AtomicU64,
}

/// A family's table (`struct neigh_table`).
pub struct NeighTable {
    pub(super) hash: RcuHashTable<Arc<Neighbour>>,
    /// Slots taken; counted before an entry is made, so that the limit holds.
    pub(super) entries: AtomicUsize,
    last_flush: AtomicU64,
    gc_timer: OnceLock<Timer>,
    pub stats: NeighStats,
}

impl Default for NeighTable {
    fn default() -> Self {
        NeighTable {
            hash: RcuHashTable::new(64),
            entries: AtomicUsize::new(0),
            last_flush: AtomicU64::new(0),
            gc_timer: OnceLock::new(),
            stats: NeighStats::default(),
        }
    }
}

impl NeighTables {
    pub fn table(&self, v6: bool) -> &NeighTable {
        if v6 { &self.v6 } else { &self.v4 }
    }
}

/// `neigh_lookup`.
pub fn neigh_lookup(net: &Net, ifindex: u32, hop: IpAddr) -> Option<Arc<Neighbour>> {
    let t = net.neigh.table(hop.is_ipv6());
    t.hash.lookup(hash_of(net, ifindex, hop), |n| n.hop == hop && n.dev.ifindex == ifindex)
}

/// Takes a place in the table, collecting if it is nearly full (`neigh_alloc`).
pub(super) fn neigh_reserve(net: &Arc<Net>, t: &NeighTable, v6: bool) -> Result<()> {
    let thresh = |c: &Ctl| c.get().max(0) as usize;
    let s = &net.sysctl;
    let entries = t.entries.fetch_add(1, Relaxed);
    if entries >= thresh(&s.neigh_gc_thresh1) {
        arm_periodic_gc(net, t, v6);
    }
    let now = jiffies(net);
    let since = now.saturating_sub(t.last_flush.load(Relaxed));
    // A full table is searched ten times a second at most: a flood must not cost a search each packet.
    let full = entries >= thresh(&s.neigh_gc_thresh3);
    if (full && since >= HZ / 10) || (entries >= thresh(&s.neigh_gc_thresh2) && since > 5 * HZ) {
        neigh_forced_gc(t, now);
    }
    if full && t.entries.load(Relaxed) > thresh(&s.neigh_gc_thresh3) {
        t.entries.fetch_sub(1, Relaxed);
        t.stats.table_fulls.fetch_add(1, Relaxed);
        return Err(Errno::ENOBUFS);
    }
    Ok(())
}

/// `neigh_forced_gc`: drops entries that are not valid, or were not changed or used for five seconds.
fn neigh_forced_gc(t: &NeighTable, now: u64) {
    t.last_flush.store(now, Relaxed);
    t.stats.forced_gc_runs.fetch_add(1, Relaxed);
    collect(t, |n| {
        let idle = now > n.updated.load(Relaxed) + 5 * HZ && !n.accessed.swap(false, Relaxed);
        n.state() != Nud::Incomplete && (!n.state().is_valid() || idle)
    });
}

/// `neigh_periodic_work`, while there are more than `gc_thresh1` entries; then it rests.
fn arm_periodic_gc(net: &Arc<Net>, t: &NeighTable, v6: bool) {
    let weak = net.weak();
    let timer = t.gc_timer.get_or_init(|| {
        net.kernel().timer(move || {
            if let Some(net) = weak.upgrade() {
                neigh_periodic_work(&net, v6);
            }
        })
    });
    if !timer.pending() {
        timer.mod_timer_in(ms(&net.sysctl.neigh_base_reachable_time_ms) / 2);
    }
}

fn neigh_periodic_work(net: &Arc<Net>, v6: bool) {
    let t = net.neigh.table(v6);
    let (now, stale) = (jiffies(net), secs(&net.sysctl.neigh_gc_stale_time));
    t.stats.periodic_gc_runs.fetch_add(1, Relaxed);
    collect(t, |n| {
        if n.accessed.swap(false, Relaxed) {
            n.used.store(now, Relaxed);
        }
        let last = n.used.load(Relaxed).max(n.confirmed.load(Relaxed));
        !n.state().in_timer() && (n.state() == Nud::Failed || now > last + stale)
    });
    if t.entries.load(Relaxed) as i64 >= net.sysctl.neigh_gc_thresh1.get() {
        arm_periodic_gc(net, t, v6);
    }
}

/// Removes all entries for which `gone` holds; permanent ones stay.
fn collect(t: &NeighTable, gone: impl Fn(&Neighbour) -> bool) {
    let mut victims = Vec::new();
    t.hash.for_each(|n| {
        if n.state() != Nud::Permanent && gone(n) {
            victims.push(n.clone());
        }
        true
    });
    for n in victims {
        neigh_remove(t, &n);
    }
}

/// Takes an entry out of the table. What waited for it is dropped.
fn neigh_remove(t: &NeighTable, n: &Arc<Neighbour>) {
    if !t.hash.remove(n.hash, |o| Arc::ptr_eq(o, n)) {
        return;
    }
    t.entries.fetch_sub(1, Relaxed);
    t.stats.destroys.fetch_add(1, Relaxed);
    let mut waiting = SkbQueue::default();
    {
        let mut inner = n.inner.lock_bh();
        inner.dead = true;
        inner.queue.splice_to(&mut waiting);
        inner.queue_bytes = 0;
        n.timer().del_timer();
        n.set_state(Nud::Failed);
    }
    t.stats.unres_discards.fetch_add(waiting.len() as u64, Relaxed);
}

/// `neigh_delete`: `ENOENT` if there is no such entry.
pub fn neigh_delete(net: &Net, ifindex: u32, hop: IpAddr) -> Result<()> {
    let n = neigh_lookup(net, ifindex, hop).ok_or(Errno::ENOENT)?;
    neigh_remove(net.neigh.table(hop.is_ipv6()), &n);
    Ok(())
}

/// `neigh_ifdown`: forgets everybody on a device, permanent entries too.
pub fn neigh_ifdown(net: &Net, dev: &Arc<NetDevice>) {
    for v6 in [false, true] {
        let t = net.neigh.table(v6);
        for n in neigh_dump(net, v6) {
            if Arc::ptr_eq(&n.dev, dev) {
                neigh_remove(t, &n);
            }
        }
    }
}

/// All entries of a family, in no order (`neigh_dump_table`).
pub fn neigh_dump(net: &Net, v6: bool) -> Vec<Arc<Neighbour>> {
    let mut all = Vec::new();
    net.neigh.table(v6).hash.for_each(|n| {
        all.push(n.clone());
        true
    });
    all
}
