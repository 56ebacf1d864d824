//! The lock validator: what the locks tell it, and what it knows of a lock.
//!
//! Interface: [`LockDebug`] (a field of every lock), its hooks `acquire`, `acquired`, `release`, `contended`; [`might_sleep`].
//! Linux counterpart: `kernel/locking/lockdep.c`, `kernel/locking/spinlock_debug.c`.
//! Locks and context: any; takes no lock of the kinds it watches. In release builds all of it is empty.

use std::panic::Location;

/// What kind of lock it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Spin,
    /// Waiters sleep: not for atomic context.
    Sleeping,
    /// Several readers or one writer, spinning.
    ReadWrite,
}

/// How a lock is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct How {
    /// Fails instead of waiting, so it can close no circle.
    pub trylock: bool,
    /// Shared with other readers.
    pub read: bool,
    /// Told apart from other locks of the class, as in `spin_lock_nested`.
    pub subclass: u8,
}

impl How {
    pub const LOCK: How = How { trylock: false, read: false, subclass: 0 };
    pub const TRY: How = How { trylock: true, read: false, subclass: 0 };
    pub const READ: How = How { trylock: false, read: true, subclass: 0 };
}

/// What debug builds know of one lock. Its class is the place in the code where it was made, and what it guards.
pub struct LockDebug {}

impl LockDebug {
    /// For a lock made by the caller.
    #[track_caller]
    #[inline(always)]
    pub const fn new(_kind: Kind, _type_name: fn() -> &'static str) -> Self {
        LockDebug {}
    }

    /// About to wait for the lock, at `at`.
    #[inline(always)]
    pub fn acquire(&self, _how: How, _at: &'static Location<'static>) {}

    /// Has it now.
    #[inline(always)]
    pub fn acquired(&self, _how: How, _at: &'static Location<'static>) {}

    /// About to let it go.
    #[inline(always)]
    pub fn release(&self) {}

    /// Still waiting after `spins` rounds.
    #[inline(always)]
    pub fn contended(&self, _spins: u32) {}
}

/// The caller may sleep, now or in another run: reports if it must not.
#[track_caller]
#[inline(always)]
pub fn might_sleep() {
    crate::cpu::assert_may_sleep();
}
