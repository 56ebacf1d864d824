//! A hash table read under RCU: the connection table and its like.
//!
//! Interface: [`RcuHashTable`]: `lookup`, `find`, `insert`, `insert_unless`, `remove`, `replace`, `for_each`. It grows and shrinks with
//! its content.
//! Linux counterpart: `include/linux/rculist_nulls.h`, `lib/rhashtable.c`.
//! Locks and context: lookups take no lock. Writers take the lock of a stripe of buckets (`lock_bh`), one at a time.
//!
//! A value is what leads to the thing that was looked for, a reference with the key beside it at most: it is cloned when the
//! size changes. The table stores the hash that its user computed, and compares by the user's closure. A lookup that runs beside a change
//! of size sees the old or the new table, each complete: stripe by stripe the new one is filled, and from then on the stripe's
//! writers change both, until the new one is published and the old one is out of their sight.

use crate::rcu::{
    RcuReadGuard, kfree_rcu, rcu_assign_pointer, rcu_dereference, rcu_dereference_protected, rcu_read_lock,
};
use crate::rculist::{HlistHead, Unlinked};
use crate::spinlock::SpinLock;
use crate::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::ptr;

/// Locks a table has; the lowest bits of the hash choose among them. Also the fewest buckets.
const STRIPES: usize = if cfg!(loom) { 2 } else { 64 };
const MAX_BUCKETS: usize = 1 << 24;
/// A table shrinks when this many buckets share an entry.
const SPARSE: usize = 8;

struct Entry<T> {
    hash: u32,
    value: T,
}

struct Buckets<T: Clone + Send + Sync + 'static> {
    heads: Box<[HlistHead<Entry<T>>]>,
}

impl<T: Clone + Send + Sync + 'static> Buckets<T> {
    fn new(n: usize) -> *mut Self {
        Box::into_raw(Box::new(Buckets { heads: (0..n).map(|_| HlistHead::new()).collect() }))
    }

    fn head(&self, hash: u32) -> &HlistHead<Entry<T>> {
        &self.heads[hash as usize & (self.heads.len() - 1)]
    }
}

/// The table that is being filled, while this stripe's writers have to change it too. Or null.
struct Next<T: Clone + Send + Sync + 'static>(*mut Buckets<T>);
// SAFETY: it points to a table of values for any thread, which lives until every stripe has forgotten it or published it.
unsafe impl<T: Clone + Send + Sync + 'static> Send for Next<T> {}

/// Values found by a 32-bit hash and a closure.
pub struct RcuHashTable<T: Clone + Send + Sync + 'static> {
    buckets: AtomicPtr<Buckets<T>>,
    stripes: Box<[SpinLock<Next<T>>]>,
    len: AtomicUsize,
    /// How many buckets there are.
    size: AtomicUsize,
    /// Somebody changes that.
    resizing: AtomicBool,
    /// The size it began with; it never has fewer buckets.
    least: usize,
}

impl<T: Clone + Send + Sync + 'static> RcuHashTable<T> {
    /// A table that starts with `buckets` of them, rounded up to a power of two (at least one a stripe).
    pub fn new(buckets: usize) -> Self {
        let least = buckets.clamp(STRIPES, MAX_BUCKETS).next_power_of_two();
        RcuHashTable {
            buckets: AtomicPtr::new(Buckets::new(least)),
            stripes: (0..STRIPES).map(|_| SpinLock::new(Next(ptr::null_mut()))).collect(),
            len: AtomicUsize::new(0),
            size: AtomicUsize::new(least),
            resizing: AtomicBool::new(false),
            least,
        }
    }

    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many buckets it has now.
    pub fn buckets(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    fn stripe(&self, hash: u32) -> &SpinLock<Next<T>> {
        &self.stripes[hash as usize & (STRIPES - 1)]
    }

    #[inline]
    fn table<'g>(&self, _section: &'g RcuReadGuard) -> &'g Buckets<T> {
        // SAFETY: never null; a replaced table is freed a grace period later, and we are in a read section.
        unsafe { &*rcu_dereference(&self.buckets) }
    }

    /// The first value of this hash that matches.
    #[inline]
    pub fn lookup(&self, hash: u32, mut matches: impl FnMut(&T) -> bool) -> Option<T> {
        let section = rcu_read_lock();
        self.find(&section, hash, |v| matches(v)).cloned()
    }

    /// [`lookup`](Self::lookup) that clones nothing: the value is there while the section lasts.
    #[inline]
    pub fn find<'g>(&self, s: &'g RcuReadGuard, hash: u32, mut matches: impl FnMut(&T) -> bool) -> Option<&'g T> {
        let mut chain = self.table(s).head(hash).for_each_entry_rcu(s);
        chain.find(|e| e.hash == hash && matches(&e.value)).map(|e| &e.value)
    }

    /// Adds a value in front of its bucket.
    pub fn insert(&self, hash: u32, value: T) {
        {
            let next = self.stripe(hash).lock_bh();
            self.link(&next, hash, value);
        }
        self.fit();
    }

    /// Adds a value unless one that `conflicts` is there, which is then given back.
    pub fn insert_unless(&self, hash: u32, value: T, conflicts: impl FnMut(&T) -> bool) -> Result<(), T> {
        {
            let next = self.stripe(hash).lock_bh();
            let section = rcu_read_lock();
            if let Some(v) = self.find(&section, hash, conflicts) {
                return Err(v.clone());
            }
            self.link(&next, hash, value);
        }
        self.fit();
        Ok(())
    }

    /// Takes the first value of this hash that `is` the one out; `false` if it was not in.
    pub fn remove(&self, hash: u32, is: impl FnMut(&T) -> bool) -> bool {
        let dead = {
            let next = self.stripe(hash).lock_bh();
            self.unlink(&next, hash, is)
        };
        let found = dead[1].is_some();
        drop(dead);
        self.fit();
        found
    }

    /// Puts what `by` makes of it where the value that `is` the one was, in one step under the bucket's lock; `false` (and
    /// nothing done) if that is not in. `is` does not mean the new one.
    pub fn replace(&self, hash: u32, mut is: impl FnMut(&T) -> bool, by: impl FnOnce(&T) -> T) -> bool {
        let dead = {
            let next = self.stripe(hash).lock_bh();
            let section = rcu_read_lock();
            let Some(new) = self.find(&section, hash, &mut is).map(by) else { return false };
            // The new one is in front before the old one goes: no lookup finds neither.
            self.link(&next, hash, new);
            self.unlink(&next, hash, is)
        };
        dead[1].is_some()
    }

    /// Visits every value; `false` from the closure ends it.
    pub fn for_each(&self, mut f: impl FnMut(&T) -> bool) {
        let section = rcu_read_lock();
        let mut all = self.table(&section).heads.iter().flat_map(|h| h.for_each_entry_rcu(&section));
        while let Some(e) = all.next()
            && f(&e.value)
        {}
    }

    // --- under a stripe's lock, whose content is `next` ---

    /// The tables that a writer of this stripe has to change, in this order: the one that readers have goes last. If it is
    /// replaced in between, nothing that was seen to come or go comes or goes a second time.
    fn written(&self, next: &Next<T>) -> [Option<&Buckets<T>>; 2] {
        let now = rcu_dereference_protected(&self.buckets);
        let other = if next.0 == now { ptr::null_mut() } else { next.0 };
        // SAFETY: a table is freed after whoever replaced it has had the lock of every stripe, and we hold one since before
        // we saw it.
        unsafe { [other.as_ref(), now.as_ref()] }
    }

    fn link(&self, next: &Next<T>, hash: u32, value: T) {
        let [other, now] = self.written(next);
        if let Some(table) = other {
            // SAFETY: the stripe's lock is held.
            unsafe { table.head(hash).hlist_add_head_rcu(Entry { hash, value: value.clone() }) };
        }
        if let Some(table) = now {
            // SAFETY: as above.
            unsafe { table.head(hash).hlist_add_head_rcu(Entry { hash, value }) };
        }
        self.len.fetch_add(1, Ordering::Relaxed);
    }

    /// What it returns is to be dropped when the lock is free.
    fn unlink(&self, next: &Next<T>, hash: u32, mut is: impl FnMut(&T) -> bool) -> [Option<Unlinked<Entry<T>>>; 2] {
        let dead = self.written(next).map(|table| {
            // SAFETY: the stripe's lock is held.
            unsafe { table?.head(hash).hlist_del_rcu(|e| e.hash == hash && is(&e.value)) }
        });
        if dead[1].is_some() {
            self.len.fetch_sub(1, Ordering::Relaxed);
        }
        dead
    }

    // --- the size ---

    /// Changes the size if there are more entries than buckets, or far fewer.
    #[inline]
    fn fit(&self) {
        let (len, buckets) = (self.len(), self.buckets());
        if len > buckets && buckets < MAX_BUCKETS {
            self.resize(buckets, buckets * 2);
        } else if buckets > self.least && len < buckets / SPARSE {
            self.resize(buckets, buckets / 2);
        }
    }

    #[cold]
    fn resize(&self, from: usize, to: usize) {
        if self.resizing.swap(true, Ordering::Acquire) {
            return;
        }
        // Only who resizes replaces the table.
        let old = rcu_dereference_protected(&self.buckets);
        // SAFETY: and so nobody frees it.
        if unsafe { &*old }.heads.len() == from {
            let new = Buckets::new(to);
            // SAFETY: as above; `new` is ours.
            let (o, n) = unsafe { (&*old, &*new) };
            (0..STRIPES).for_each(|s| self.copy_stripe(s, o, n, new));
            rcu_assign_pointer(&self.buckets, new);
            self.size.store(to, Ordering::Relaxed);
            self.stripes.iter().for_each(|s| s.lock_bh().0 = ptr::null_mut());
            // Whoever locks a stripe from now on knows the new table only.
            kfree_rcu(Dead(old));
        }
        self.resizing.store(false, Ordering::Release);
    }

    /// Copies the buckets of a stripe, in order; then its writers know the new table too.
    fn copy_stripe(&self, stripe: usize, old: &Buckets<T>, new: &Buckets<T>, next: *mut Buckets<T>) {
        let mut lock = self.stripes[stripe].lock_bh();
        let section = rcu_read_lock();
        for head in old.heads.iter().skip(stripe).step_by(STRIPES) {
            for e in head.for_each_entry_rcu(&section) {
                // SAFETY: the new bucket is of the same stripe, whose lock is held.
                unsafe { new.head(e.hash).hlist_add_tail_rcu(Entry { hash: e.hash, value: e.value.clone() }) };
            }
        }
        lock.0 = next;
    }
}

impl<T: Clone + Send + Sync + 'static> Drop for RcuHashTable<T> {
    fn drop(&mut self) {
        drop(Dead(rcu_dereference_protected(&self.buckets)));
    }
}

/// A table on its way through a grace period.
struct Dead<T: Clone + Send + Sync + 'static>(*mut Buckets<T>);
// SAFETY: nobody else reaches what it points to, and its content is values that may be dropped anywhere.
unsafe impl<T: Clone + Send + Sync + 'static> Send for Dead<T> {}

impl<T: Clone + Send + Sync + 'static> Drop for Dead<T> {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw`, unpublished, and out of the reach of readers and writers.
        drop(unsafe { Box::from_raw(self.0) });
    }
}
