//! The list of waiters in builds without the lock validator: there is none.
//!
//! Interface: as `hung.rs`.
//! Linux counterpart: `#ifndef CONFIG_DETECT_HUNG_TASK`.
//! Locks and context: none.

use super::off::LockDebug;
use std::panic::Location;

/// See `hung.rs`.
#[must_use]
pub(crate) struct Waiting;

impl Waiting {
    #[inline(always)]
    pub(crate) fn new(_: &LockDebug, _: &'static Location<'static>) -> Self {
        Waiting
    }
}
