//! What debug builds know of one lock, and what the lock tells them.
//!
//! Interface: [`LockDebug`]; [`describe_held`].
//! Linux counterpart: `include/linux/spinlock_types.h` (magic, owner), `kernel/locking/spinlock_debug.c`.
//! Locks and context: any.

use super::class::{self, Id};
use super::entry::HeldLock;
use super::held;
use super::kind::{How, Kind};
use super::report::{self, Problem, deliver};
use super::state::State;
use super::text;
use crate::cpu;
use std::panic::Location;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU16, AtomicU32, Ordering};

type At = &'static Location<'static>;

/// `SPINLOCK_MAGIC`.
const MAGIC: u32 = 0xdead_4ead;
/// What a dropped lock holds.
const DEAD: u32 = 0xdead_0bad;
/// Complaints that one lock may make.
const BABBLE: u8 = 5;

/// What debug builds know of one lock. Its class is the place in the code where it was made, and what it guards.
/// Zeroed memory is a valid value, which is reported.
pub struct LockDebug {
    magic: AtomicU32,
    /// How many complaints it has left.
    babble: AtomicU8,
    kind: Kind,
    /// Found at the first use.
    class: AtomicU16,
    /// Who has it, or had it last: a context's number.
    owner: AtomicU32,
    /// Where that took it.
    owner_at: AtomicPtr<Location<'static>>,
    /// How many hold it [by a poll](How::by_poll).
    polled: AtomicU32,
    made: Option<At>,
    type_name: Option<fn() -> &'static str>,
}

impl LockDebug {
    /// For a lock made by the caller.
    #[track_caller]
    pub const fn new(kind: Kind, type_name: fn() -> &'static str) -> Self {
        LockDebug {
            magic: AtomicU32::new(MAGIC),
            babble: AtomicU8::new(BABBLE),
            kind,
            class: AtomicU16::new(0),
            owner: AtomicU32::new(0),
            owner_at: AtomicPtr::new(ptr::null_mut()),
            polled: AtomicU32::new(0),
            made: Some(Location::caller()),
            type_name: Some(type_name),
        }
    }

    /// About to wait for the lock, at `at`.
    pub fn acquire(&self, how: How, at: At) {
        self.check_magic(at);
        if self.kind != Kind::Semaphore {
            let s = cpu::state();
            held::acquire(self.wanted(how, at, &s), &s, &self.babble);
        }
    }

    /// Has it now.
    pub fn acquired(&self, how: How, at: At) {
        if how.trylock {
            self.check_magic(at);
        }
        self.owner.store(held::my_id(), Ordering::Relaxed);
        self.owner_at.store(ptr::from_ref(at).cast_mut(), Ordering::Relaxed);
        if how.by_poll {
            self.polled.fetch_add(1, Ordering::Relaxed);
        } else if self.kind != Kind::Semaphore {
            let s = cpu::state();
            held::acquired(self.wanted(how, at, &s), &s, &self.babble);
        }
    }

    /// About to let it go.
    pub fn release(&self) {
        let polled = self.polled.load(Ordering::Relaxed) != 0 && !held::holds(self.address());
        if polled {
            self.polled.fetch_sub(1, Ordering::Relaxed);
        } else if self.kind != Kind::Semaphore {
            held::release(self.address(), &self.babble, || self.describe());
        }
    }

    /// Still waiting after `spins` rounds.
    pub fn contended(&self, spins: u32) {
        if spins == report::lockup_spins() {
            self.locked_up();
        }
    }

    #[cold]
    fn locked_up(&self) {
        let text = text::lockup(&held::my_name(), &self.describe(), &self.describe_owner(), &cpu::state());
        deliver(Problem::Lockup, None, text, &self.babble);
    }

    fn wanted(&self, how: How, at: At, s: &State) -> HeldLock {
        HeldLock::new(self.address(), self.class(), self.kind, how, at, s)
    }

    fn address(&self) -> usize {
        ptr::from_ref(self) as usize
    }

    fn class(&self) -> Id {
        match self.class.load(Ordering::Relaxed) {
            0 => {
                let (Some(made), Some(type_name)) = (self.made, self.type_name) else { return 0 };
                let id = class::find(made, type_name, self.kind);
                self.class.store(id, Ordering::Relaxed);
                id
            }
            known => known,
        }
    }

    fn check_magic(&self, at: At) {
        let magic = self.magic.load(Ordering::Relaxed);
        if magic != MAGIC {
            deliver(Problem::NotALock, Some(at), text::not_a_lock(magic, at, magic == DEAD), &self.babble);
        }
    }

    pub(super) fn describe(&self) -> String {
        format!("the lock is {}", class::full_name(self.class()))
    }

    /// Who has it, or had it last, and where that took it.
    pub fn describe_owner(&self) -> String {
        let at = self.owner_at.load(Ordering::Relaxed);
        // SAFETY: null, or from a `&'static Location`.
        match unsafe { at.as_ref() } {
            Some(at) => {
                let (name, ended) = held::name_of(self.owner.load(Ordering::Relaxed));
                text::owner(&name, ended, at)
            }
            None => "nobody has ever taken it".into(),
        }
    }
}

impl Drop for LockDebug {
    fn drop(&mut self) {
        self.magic.store(DEAD, Ordering::Relaxed);
    }
}

/// The locks that the running context holds, a line each: for people.
pub fn describe_held() -> String {
    held::describe()
}
