//! The lock validator of builds that have none: everything is empty.
//!
//! Interface: as `lock.rs`.
//! Linux counterpart: `#ifndef CONFIG_LOCKDEP`.
//! Locks and context: none.

use super::kind::{How, Kind};
use std::panic::Location;

/// What debug builds know of one lock; here nothing.
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
