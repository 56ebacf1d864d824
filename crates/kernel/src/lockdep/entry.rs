//! A lock that a context holds, or wants.
//!
//! Interface: [`HeldLock`].
//! Linux counterpart: `struct held_lock`.
//! Locks and context: plain values.

use super::class::{self, Id};
use super::graph::End;
use super::kind::{How, Kind};
use super::state::State;
use std::panic::Location;

/// A lock that is wanted, or held.
#[derive(Clone, Copy)]
pub(super) struct HeldLock {
    /// The address of the lock's debug fields.
    pub lock: usize,
    pub class: Id,
    pub kind: Kind,
    pub how: How,
    pub at: &'static Location<'static>,
    pub level: u8,
    /// Of those taken in the order of their addresses: the last one, and how many they are.
    pub last: usize,
    pub count: usize,
}

impl HeldLock {
    pub fn new(lock: usize, class: Id, kind: Kind, how: How, at: &'static Location<'static>, state: &State) -> Self {
        let class = class::nested(class, how.subclass);
        HeldLock { lock, class, kind, how, at, level: state.level(), last: lock, count: 1 }
    }

    /// A reader that does not wait for other readers.
    pub fn nests(&self) -> bool {
        self.how.read && self.kind == Kind::ReadWrite
    }

    /// Whether `new` is the next in an array of which this one and those after it are held.
    pub fn goes_on_with(&self, new: &HeldLock) -> bool {
        let same = (self.class, self.level) == (new.class, new.level) && self.class != 0;
        same && self.how.ordered && new.how.ordered && self.last < new.lock
    }

    /// Whether it is, or contains, the lock at this address.
    pub fn has(&self, lock: usize) -> bool {
        (self.lock..=self.last).contains(&lock)
    }

    pub fn end(&self) -> End {
        End { class: self.class, shared: self.how.read, nests: self.nests(), at: self.at }
    }
}
