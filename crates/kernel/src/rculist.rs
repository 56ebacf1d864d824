//! A list that is read under RCU while one writer at a time changes it.
//!
//! Interface: [`HlistHead`]: `hlist_add_head_rcu`, `hlist_add_tail_rcu`, `hlist_del_rcu`, `for_each_entry_rcu`; [`Unlinked`].
//! Linux counterpart: `include/linux/rculist.h`, `rculist_nulls.h`.
//! Locks and context: readers in a read section, anywhere. Writers hold the lock that the list's owner has for it.
//!
//! The list owns its nodes, and an entry never moves from one list to another while it can be read: who resizes a table
//! copies the nodes. So a reader cannot be led astray, and the end of a list needs no mark that says whose end it is
//! (`hlist_nulls`). Nodes link forwards only: lists are short, and whoever unlinks has to walk them as readers do.

use crate::maybe_const;
use crate::rcu::{RcuReadGuard, kfree_rcu, rcu_assign_pointer, rcu_dereference, rcu_dereference_protected};
use crate::sync::atomic::AtomicPtr;
use crate::sync::{Plant, planted};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

struct HlistNode<T> {
    next: AtomicPtr<HlistNode<T>>,
    entry: T,
}

/// The list, by its first node (`struct hlist_head`).
pub struct HlistHead<T: Send + Sync + 'static> {
    first: AtomicPtr<HlistNode<T>>,
    _owns: PhantomData<Box<HlistNode<T>>>,
}

impl<T: Send + Sync + 'static> Default for HlistHead<T> {
    fn default() -> Self {
        HlistHead::new()
    }
}

impl<T: Send + Sync + 'static> HlistHead<T> {
    maybe_const! {
        /// An empty list.
        pub fn new() -> Self {
            HlistHead { first: AtomicPtr::new(ptr::null_mut()), _owns: PhantomData }
        }
    }

    /// The entries, in order. Those that are added or unlinked meanwhile may be met or not.
    #[inline]
    pub fn for_each_entry_rcu<'g>(&'g self, section: &'g RcuReadGuard) -> Entries<'g, T> {
        Entries { next: &self.first, _section: section }
    }

    /// Adds an entry in front.
    ///
    /// # Safety
    /// The caller holds the list's writers' lock.
    pub unsafe fn hlist_add_head_rcu(&self, entry: T) {
        let next = AtomicPtr::new(rcu_dereference_protected(&self.first));
        rcu_assign_pointer(&self.first, Box::into_raw(Box::new(HlistNode { next, entry })));
    }

    /// Adds an entry at the end, where it walks to.
    ///
    /// # Safety
    /// The caller holds the list's writers' lock.
    pub unsafe fn hlist_add_tail_rcu(&self, entry: T) {
        let mut link = &self.first;
        // SAFETY: the lock is held, so that nobody unlinks, and so frees, a node meanwhile.
        while let Some(n) = unsafe { rcu_dereference_protected(link).as_ref() } {
            link = &n.next;
        }
        rcu_assign_pointer(link, Box::into_raw(Box::new(HlistNode { next: AtomicPtr::new(ptr::null_mut()), entry })));
    }

    /// Unlinks the first entry that matches. Readers that have met it go on from it to the rest of the list.
    ///
    /// # Safety
    /// The caller holds the list's writers' lock.
    pub unsafe fn hlist_del_rcu(&self, mut matches: impl FnMut(&T) -> bool) -> Option<Unlinked<T>> {
        let mut link = &self.first;
        loop {
            let p = NonNull::new(rcu_dereference_protected(link))?;
            // SAFETY: as in `hlist_add_tail_rcu`; and shared, because readers may hold it as well.
            let n = unsafe { p.as_ref() };
            if matches(&n.entry) {
                rcu_assign_pointer(link, rcu_dereference_protected(&n.next));
                return Some(Unlinked(p));
            }
            link = &n.next;
        }
    }
}

impl<T: Send + Sync + 'static> Drop for HlistHead<T> {
    /// Frees the nodes at once: the owner has seen to it that no reader is left, as whoever drops anything has.
    fn drop(&mut self) {
        let mut p = rcu_dereference_protected(&self.first);
        while !p.is_null() {
            // SAFETY: made by `Box::into_raw`, and the list was its owner.
            let n = unsafe { Box::from_raw(p) };
            p = rcu_dereference_protected(&n.next);
        }
    }
}

/// Walks a list; see [`HlistHead::for_each_entry_rcu`].
pub struct Entries<'g, T> {
    next: &'g AtomicPtr<HlistNode<T>>,
    _section: &'g RcuReadGuard,
}

impl<'g, T> Iterator for Entries<'g, T> {
    type Item = &'g T;
    #[inline]
    fn next(&mut self) -> Option<&'g T> {
        // SAFETY: a node reached in a read section is freed a grace period after it was unlinked.
        let n: &'g HlistNode<T> = unsafe { rcu_dereference(self.next).as_ref() }?;
        self.next = &n.next;
        Some(&n.entry)
    }
}

/// A node that readers may still be at. Its drop frees it after a grace period; drop it when the writers' lock is free.
#[must_use = "drop it outside the lock"]
pub struct Unlinked<T: Send + Sync + 'static>(NonNull<HlistNode<T>>);

// SAFETY: an unlinked node has one owner; readers only share its entry, which is `Sync`.
unsafe impl<T: Send + Sync + 'static> Send for Unlinked<T> {}

impl<T: Send + Sync + 'static> Unlinked<T> {
    pub fn entry(&self) -> &T {
        // SAFETY: freed by our drop, a grace period later.
        unsafe { &self.0.as_ref().entry }
    }
}

impl<T: Send + Sync + 'static> Drop for Unlinked<T> {
    fn drop(&mut self) {
        let node = Owned(self.0);
        if !planted(Plant::ListFreeEarly) {
            kfree_rcu(node);
        }
    }
}

/// A node on its way through a grace period.
struct Owned<T>(NonNull<HlistNode<T>>);
// SAFETY: see `Unlinked`.
unsafe impl<T: Send + Sync> Send for Owned<T> {}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw`, unlinked once, and a grace period has passed.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}
