//! What has been learnt about the path to single destinations: smaller path MTUs.
//!
//! Interface: [`Exceptions`] (`lookup`, `update`, `expire`), [`min_pmtu`], [`mtu_expires`].
//! Linux counterpart: `struct fib_nh_exception`, `update_or_create_fnhe` in `net/ipv4/route.c`.
//! Locks and context: look-ups anywhere, under RCU; changes under one lock, any context.
//!
//! The table has a fixed number of buckets of bounded depth: when one is full the entry that expires first gives way. What
//! the wire can make us remember is bounded, and where it lands is hashed with a secret.

use crate::core::dst::Dst;
use crate::core::net_namespace::Net;
use crate::ipv4::fib_trie::FibInfo;
use kernel::{HZ, Rcu, SpinLock, rcu_read_lock};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};

/// `FNHE_HASH_SIZE`, `FNHE_RECLAIM_DEPTH`.
const BUCKETS: usize = 512;
const DEPTH: usize = 5;
/// Jiffies after which a larger MTU may be tried again (RFC 1191, 6.3; `ip_rt_mtu_expires`).
pub fn mtu_expires(net: &Net) -> u64 {
    net.sysctl.ip_rt_mtu_expires.get() as u64 * HZ
}

/// No path MTU below this is believed; packets go out without DF instead (`ip_rt_min_pmtu`).
pub fn min_pmtu(net: &Net) -> u32 {
    net.sysctl.ip_rt_min_pmtu.get() as u32
}

/// An exception: the destination, what was learnt, and the route that says so.
pub struct Exception {
    pub daddr: Ipv4Addr,
    /// The route that led there when it was learnt; another knows nothing of it.
    route: Weak<FibInfo>,
    pub pmtu: AtomicU32,
    /// See [`Dst::pmtu_locked`].
    pub locked: AtomicBool,
    /// In jiffies.
    expires: AtomicU64,
    /// The route it is an exception to, with the smaller MTU.
    pub rth: Rcu<Dst>,
}

/// A namespace's exceptions.
pub struct Exceptions {
    buckets: Box<[Rcu<Vec<Arc<Exception>>>]>,
    count: AtomicUsize,
    lock: SpinLock<()>,
}

impl Exception {
    fn is_of(&self, daddr: Ipv4Addr, route: &Arc<FibInfo>) -> bool {
        // The weak reference keeps the address from becoming another's.
        self.daddr == daddr && std::ptr::eq(self.route.as_ptr(), &**route)
    }
}

impl Default for Exceptions {
    fn default() -> Self {
        let buckets = (0..BUCKETS).map(|_| Rcu::default()).collect();
        Exceptions { buckets, count: AtomicUsize::new(0), lock: SpinLock::new(()) }
    }
}

impl Exceptions {
    fn bucket(&self, net: &Net, daddr: Ipv4Addr) -> &Rcu<Vec<Arc<Exception>>> {
        &self.buckets[net.hash(&daddr) as usize % BUCKETS]
    }

    pub fn is_empty(&self) -> bool {
        self.count.load(Relaxed) == 0
    }

    pub fn len(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// What is known about `daddr` on the way of `route` (`find_exception`).
    pub fn lookup(&self, net: &Net, daddr: Ipv4Addr, route: &Arc<FibInfo>) -> Option<Arc<Exception>> {
        let section = rcu_read_lock();
        let list = self.bucket(net, daddr).dereference(&section)?;
        let e = list.iter().find(|e| e.is_of(daddr, route))?;
        (e.expires.load(Relaxed) > net.kernel().jiffies()).then(|| e.clone())
    }

    /// Notes a path MTU on the way of `route` (`update_or_create_fnhe`); `true` if routes must be looked up anew, because the
    /// destination had no exception, or another one had to go.
    pub fn update(&self, net: &Net, daddr: Ipv4Addr, route: &Arc<FibInfo>, pmtu: u32, locked: bool) -> bool {
        let now = net.kernel().jiffies();
        let expires = now + mtu_expires(net);
        let _l = self.lock.lock_bh();
        let bucket = self.bucket(net, daddr);
        let list = bucket.get();
        if let Some(e) = list.as_ref().and_then(|l| l.iter().find(|e| e.is_of(daddr, route))) {
            e.pmtu.store(pmtu, Relaxed);
            e.locked.store(locked, Relaxed);
            if let Some(d) = e.rth.get() {
                d.pmtu.store(pmtu, Relaxed);
                d.pmtu_locked.store(locked, Relaxed);
            }
            return e.expires.swap(expires, Relaxed) <= now;
        }
        let mut new = list.map_or_else(Vec::new, |l| (*l).clone());
        if new.len() >= DEPTH
            && let Some(oldest) = (0..new.len()).min_by_key(|&i| new[i].expires.load(Relaxed))
        {
            new.swap_remove(oldest);
            self.count.fetch_sub(1, Relaxed);
        }
        let (pmtu, locked, expires) = (AtomicU32::new(pmtu), AtomicBool::new(locked), AtomicU64::new(expires));
        let route = Arc::downgrade(route);
        new.push(Arc::new(Exception { daddr, route, pmtu, locked, expires, rth: Rcu::default() }));
        self.count.fetch_add(1, Relaxed);
        bucket.assign(Some(Arc::new(new)));
        true
    }

    /// Forgets what is too old; `true` if anything was, so that routes must be looked up anew.
    pub fn expire(&self, now: u64) -> bool {
        let _l = self.lock.lock_bh();
        let before = self.len();
        for bucket in &self.buckets {
            let Some(list) = bucket.get() else { continue };
            let (left, gone): (Vec<_>, Vec<_>) = list.iter().cloned().partition(|e| e.expires.load(Relaxed) > now);
            if gone.is_empty() {
                continue;
            }
            self.count.fetch_sub(gone.len(), Relaxed);
            bucket.assign((!left.is_empty()).then(|| Arc::new(left)));
        }
        self.len() < before
    }
}
