//! A hash table read under RCU: the connection table and its like.
//!
//! Interface: [`RcuHashTable`]: `lookup`, `insert`, `insert_unless`, `remove`, `replace`, `for_each`. It grows with its content.
//! Linux counterpart: `include/linux/rculist_nulls.h`, `lib/rhashtable.c`.
//! Locks and context: lookups take no lock. Writers take the lock of a stripe of buckets (`lock_bh`); growing takes all.
//!
//! The table stores the hash that its user computed, and compares by the user's closure. A lookup that runs beside a growth
//! sees the old or the new table, each complete.

use crate::rcu::{RcuReadGuard, call_rcu, rcu_read_lock};
use crate::spinlock::SpinLock;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

const STRIPES: usize = 64;

struct Node<T> {
    hash: u32,
    value: Arc<T>,
    next: AtomicPtr<Node<T>>,
}

struct Buckets<T> {
    heads: Box<[AtomicPtr<Node<T>>]>,
}

impl<T> Buckets<T> {
    fn new(n: usize) -> Self {
        Buckets { heads: (0..n).map(|_| AtomicPtr::new(ptr::null_mut())).collect() }
    }

    fn head(&self, hash: u32) -> &AtomicPtr<Node<T>> {
        &self.heads[hash as usize & (self.heads.len() - 1)]
    }
}

/// Shared values found by a 32-bit hash and a closure.
pub struct RcuHashTable<T: Send + Sync + 'static> {
    buckets: AtomicPtr<Buckets<T>>,
    stripes: Box<[SpinLock<()>]>,
    len: AtomicUsize,
}

impl<T: Send + Sync + 'static> RcuHashTable<T> {
    /// A table that starts with `buckets` of them, rounded up to a power of two (at least one a stripe).
    pub fn new(buckets: usize) -> Self {
        let b = Box::new(Buckets::new(buckets.max(STRIPES).next_power_of_two()));
        RcuHashTable {
            buckets: AtomicPtr::new(Box::into_raw(b)),
            stripes: (0..STRIPES).map(|_| SpinLock::new(())).collect(),
            len: AtomicUsize::new(0),
        }
    }

    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn stripe(&self, hash: u32) -> &SpinLock<()> {
        &self.stripes[hash as usize & (STRIPES - 1)]
    }

    fn table<'g>(&self, _section: &'g RcuReadGuard) -> &'g Buckets<T> {
        // SAFETY: never null; a replaced table is freed a grace period later, and we are in a read section.
        unsafe { &*self.buckets.load(Ordering::Acquire) }
    }

    /// The first value of this hash that matches.
    #[inline]
    pub fn lookup(&self, hash: u32, mut matches: impl FnMut(&T) -> bool) -> Option<Arc<T>> {
        let section = rcu_read_lock();
        self.find(&section, hash, |v| matches(v)).cloned()
    }

    fn find<'g>(&self, s: &'g RcuReadGuard, hash: u32, mut matches: impl FnMut(&T) -> bool) -> Option<&'g Arc<T>> {
        let mut p = self.table(s).head(hash).load(Ordering::Acquire);
        // SAFETY: nodes reached in a read section are freed a grace period after they were unlinked.
        while let Some(n) = unsafe { p.as_ref() } {
            if n.hash == hash && matches(&n.value) {
                return Some(&n.value);
            }
            p = n.next.load(Ordering::Acquire);
        }
        None
    }

    /// Adds a value in front of its bucket.
    pub fn insert(&self, hash: u32, value: Arc<T>) {
        {
            let _l = self.stripe(hash).lock_bh();
            self.link(hash, value);
        }
        self.grow_if_full();
    }

    /// Adds a value unless one that `conflicts` is there, which is then given back.
    pub fn insert_unless(&self, hash: u32, value: Arc<T>, conflicts: impl FnMut(&T) -> bool) -> Result<(), Arc<T>> {
        {
            let _l = self.stripe(hash).lock_bh();
            let section = rcu_read_lock();
            if let Some(v) = self.find(&section, hash, conflicts) {
                return Err(v.clone());
            }
            self.link(hash, value);
        }
        self.grow_if_full();
        Ok(())
    }

    fn link(&self, hash: u32, value: Arc<T>) {
        let section = rcu_read_lock();
        let head = self.table(&section).head(hash);
        let node = Box::new(Node { hash, value, next: AtomicPtr::new(head.load(Ordering::Relaxed)) });
        head.store(Box::into_raw(node), Ordering::Release);
        self.len.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes the value out; `false` if it was not in.
    pub fn remove(&self, hash: u32, value: &Arc<T>) -> bool {
        let _l = self.stripe(hash).lock_bh();
        self.unlink(hash, value)
    }

    /// Puts `new` where `old` was, in one step under the bucket's lock; `false` (and nothing done) if `old` is not in.
    pub fn replace(&self, hash: u32, old: &Arc<T>, new: Arc<T>) -> bool {
        let _l = self.stripe(hash).lock_bh();
        let section = rcu_read_lock();
        if self.find(&section, hash, |v| ptr::eq(v, &**old)).is_none() {
            return false;
        }
        // The new one is in front before the old one goes: no lookup finds neither.
        self.link(hash, new);
        self.unlink(hash, old)
    }

    fn unlink(&self, hash: u32, value: &Arc<T>) -> bool {
        let section = rcu_read_lock();
        let mut link = self.table(&section).head(hash);
        loop {
            let p = link.load(Ordering::Relaxed);
            // SAFETY: the stripe's lock is held, so nodes of this bucket are not unlinked by others.
            let Some(n) = (unsafe { p.as_ref() }) else { return false };
            if Arc::ptr_eq(&n.value, value) {
                link.store(n.next.load(Ordering::Relaxed), Ordering::Release);
                self.len.fetch_sub(1, Ordering::Relaxed);
                free_later(p);
                return true;
            }
            link = &n.next;
        }
    }

    /// Visits every value; `false` from the closure ends it.
    pub fn for_each(&self, mut f: impl FnMut(&Arc<T>) -> bool) {
        let section = rcu_read_lock();
        for head in &self.table(&section).heads {
            let mut p = head.load(Ordering::Acquire);
            // SAFETY: as in `find`.
            while let Some(n) = unsafe { p.as_ref() } {
                if !f(&n.value) {
                    return;
                }
                p = n.next.load(Ordering::Acquire);
            }
        }
    }

    fn grow_if_full(&self) {
        let section = rcu_read_lock();
        let buckets = self.table(&section).heads.len();
        if self.len() > buckets && buckets < 1 << 24 {
            self.grow(buckets);
        }
    }

    #[cold]
    fn grow(&self, from: usize) {
        let _locks: Vec<_> = self.stripes.iter().map(|s| s.lock_bh_ordered()).collect();
        let section = rcu_read_lock();
        let old = self.table(&section);
        if old.heads.len() != from {
            return;
        }
        let new = Buckets::new(from * 2);
        for head in &old.heads {
            let mut p = head.load(Ordering::Relaxed);
            // SAFETY: all stripes are locked: nothing is unlinked while we walk.
            while let Some(n) = unsafe { p.as_ref() } {
                let to = new.head(n.hash);
                let next = AtomicPtr::new(to.load(Ordering::Relaxed));
                let copy = Box::new(Node { hash: n.hash, value: n.value.clone(), next });
                to.store(Box::into_raw(copy), Ordering::Relaxed);
                p = n.next.load(Ordering::Relaxed);
            }
        }
        let old = self.buckets.swap(Box::into_raw(Box::new(new)), Ordering::AcqRel);
        let old = Raw(old);
        call_rcu(move || old.free_table());
    }
}

/// A retired node or table on its way through a grace period.
struct Raw<P>(*mut P);
// SAFETY: nobody else reaches what it points to, and its content is `Send` (bounds of the table).
unsafe impl<P> Send for Raw<P> {}

impl<T> Raw<Node<T>> {
    fn free(self) {
        // SAFETY: made by `Box::into_raw`, unlinked, and a grace period has passed.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

impl<T> Raw<Buckets<T>> {
    fn free_table(self) {
        // SAFETY: made by `Box::into_raw`, unpublished, and a grace period has passed.
        let table = unsafe { Box::from_raw(self.0) };
        for head in &table.heads {
            let mut p = head.load(Ordering::Relaxed);
            while !p.is_null() {
                let next = {
                    // SAFETY: this table owned its nodes.
                    let n = unsafe { Box::from_raw(p) };
                    n.next.load(Ordering::Relaxed)
                };
                p = next;
            }
        }
    }
}

fn free_later<T: Send + Sync + 'static>(p: *mut Node<T>) {
    let p = Raw(p);
    call_rcu(move || p.free());
}

impl<T: Send + Sync + 'static> Drop for RcuHashTable<T> {
    fn drop(&mut self) {
        Raw(*self.buckets.get_mut()).free_table();
    }
}
