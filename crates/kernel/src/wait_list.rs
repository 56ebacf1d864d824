//! The list in a wait queue: doubly linked, its nodes counted references, so that any of them leaves in one step.
//!
//! Interface: [`List`] (`push_front`, `push_back`, `remove`, `walk`), [`Link`] (a node's field), [`Step`].
//! Linux counterpart: `include/linux/list.h`, the bookmark that `kernel/sched/wait.c` once had.
//! Locks and context: the queue's lock is held for every call; only [`Link::is_linked`] may be asked without it.
//!
//! A node knows the list it hangs on, so it is on one at most, and only that one takes it off.

use crate::sync::atomic::{AtomicPtr, Ordering};
use std::cell::Cell;
use std::ptr;
use std::sync::Arc;

/// A node's place in a list.
pub(crate) struct Link<T: Linked> {
    /// The list; null: none. Changes under that list's lock.
    on: AtomicPtr<List<T>>,
    prev: Cell<*const T>,
    next: Cell<*const T>,
}

// SAFETY: `prev` and `next` are used only under the lock of the list that `on` names.
unsafe impl<T: Linked + Send + Sync> Send for Link<T> {}
// SAFETY: as above; `on` is atomic.
unsafe impl<T: Linked + Send + Sync> Sync for Link<T> {}

impl<T: Linked> Default for Link<T> {
    fn default() -> Self {
        Link { on: AtomicPtr::new(ptr::null_mut()), prev: Cell::new(ptr::null()), next: Cell::new(ptr::null()) }
    }
}

impl<T: Linked> Link<T> {
    pub(crate) fn is_linked(&self) -> bool {
        !self.on.load(Ordering::Acquire).is_null()
    }
}

/// What has a [`Link`].
pub(crate) trait Linked: Sized {
    fn link(&self) -> &Link<Self>;
}

/// A list of nodes, to each of which it holds a reference.
pub(crate) struct List<T: Linked> {
    first: *const T,
    last: *const T,
}

// SAFETY: the list owns its nodes as `Arc`s do; its holder's lock orders the accesses.
unsafe impl<T: Linked + Send + Sync> Send for List<T> {}

/// What a visitor wants done with the node it was shown.
pub(crate) enum Step {
    Keep,
    Remove,
}

/// How the walk goes on.
pub(crate) enum Then {
    Next,
    /// Stop here and leave the mark, to go on from it later.
    Pause,
    Stop,
}

impl<T: Linked> List<T> {
    /// # Safety
    /// The list must not be moved while a node is on it.
    pub(crate) const unsafe fn new() -> Self {
        List { first: ptr::null(), last: ptr::null() }
    }

    pub(crate) fn first(&self) -> Option<&T> {
        // SAFETY: the list holds a reference to each of its nodes.
        unsafe { self.first.as_ref() }
    }

    /// `false` if the node is on a list already.
    pub(crate) fn push_front(&mut self, node: Arc<T>) -> bool {
        self.insert_after(ptr::null(), node)
    }

    /// `false` if the node is on a list already.
    pub(crate) fn push_back(&mut self, node: Arc<T>) -> bool {
        self.insert_after(self.last, node)
    }

    /// Links `node` behind `prev`, a node of this list, or in front for null.
    fn insert_after(&mut self, prev: *const T, node: Arc<T>) -> bool {
        let me: *mut Self = self;
        if node.link().on.compare_exchange(ptr::null_mut(), me, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return false;
        }
        let node = Arc::into_raw(node);
        // SAFETY: `prev`, if any, is a node of this list, which keeps it alive; so does `node` from here on, whose reference
        // is the list's now. The caller holds the lock.
        unsafe {
            let next = if prev.is_null() { self.first } else { (*prev).link().next.get() };
            (*node).link().prev.set(prev);
            (*node).link().next.set(next);
            match prev.as_ref() {
                Some(p) => p.link().next.set(node),
                None => self.first = node,
            }
            match next.as_ref() {
                Some(n) => n.link().prev.set(node),
                None => self.last = node,
            }
        }
        true
    }

    /// Takes the node off, if it is on this list. The reference is to be dropped without the lock.
    pub(crate) fn remove(&mut self, node: &T) -> Option<Arc<T>> {
        let me: *mut Self = self;
        let link = node.link();
        if !ptr::eq(link.on.load(Ordering::Acquire), me) {
            return None;
        }
        let (prev, next) = (link.prev.get(), link.next.get());
        // SAFETY: neighbours of a node of this list are nodes of this list; the caller holds the lock.
        let raw = unsafe {
            let raw = match prev.as_ref() {
                Some(p) => p.link().next.replace(next),
                None => std::mem::replace(&mut self.first, next),
            };
            match next.as_ref() {
                Some(n) => n.link().prev.set(prev),
                None => self.last = prev,
            }
            raw
        };
        link.prev.set(ptr::null());
        link.next.set(ptr::null());
        link.on.store(ptr::null_mut(), Ordering::Release);
        // SAFETY: `raw` points to `node` and came from `Arc::into_raw`; the list gives its reference up.
        Some(unsafe { Arc::from_raw(raw) })
    }

    /// Shows the nodes to `visit`, from the front or from where `mark` was left, and does with each what it says; what is
    /// taken off goes to `removed`. Whether it came to an end: if not, it paused, and `mark` keeps its place.
    pub(crate) fn walk(
        &mut self,
        mark: &mut Option<Arc<T>>,
        new_mark: fn() -> Arc<T>,
        mut visit: impl FnMut(&T) -> (Step, Then),
        mut removed: impl FnMut(Arc<T>),
    ) -> bool {
        let mut at = self.first;
        if let Some(m) = mark.as_ref() {
            let next = m.link().next.get();
            if self.remove(m).is_some() {
                at = next;
            }
        }
        // SAFETY: the list holds a reference to each of its nodes, and only this loop takes nodes off meanwhile.
        while let Some(node) = unsafe { at.as_ref() } {
            at = node.link().next.get();
            let (step, then) = visit(node);
            if let Step::Remove = step
                && let Some(n) = self.remove(node)
            {
                removed(n);
            }
            match then {
                Then::Next => {}
                Then::Stop => return true,
                Then::Pause => {
                    // SAFETY: as above.
                    let Some(next) = (unsafe { at.as_ref() }) else { return true };
                    let m = mark.get_or_insert_with(new_mark).clone();
                    self.insert_after(next.link().prev.get(), m);
                    return false;
                }
            }
        }
        true
    }
}

impl<T: Linked> Drop for List<T> {
    fn drop(&mut self) {
        // SAFETY: the list holds a reference to each of its nodes.
        while let Some(node) = unsafe { self.first.as_ref() } {
            drop(self.remove(node));
        }
    }
}
