//! The list of held locks in builds without the lock validator: there is none.
//!
//! Interface: as `held.rs`.
//! Linux counterpart: `#ifndef CONFIG_LOCKDEP`.
//! Locks and context: none.

use super::state::State;
use std::panic::Location;

/// Whether there is a validator.
pub(crate) const ON: bool = false;

/// See `held.rs`.
#[derive(Default)]
pub(crate) struct HeldSlot;

impl HeldSlot {
    #[inline(always)]
    pub(crate) fn switch(&self) {}
    #[inline(always)]
    pub(crate) fn set_name(&self, _: &str) {}
}

/// See `held.rs`.
#[derive(Clone, Default)]
pub(crate) struct Since;

impl Since {
    pub(crate) const fn new() -> Self {
        Since
    }
    #[inline(always)]
    pub(crate) fn swap(&self, _: &Since) {}
    #[inline(always)]
    pub(crate) fn set(&self, _: &'static Location<'static>) {}
    #[inline(always)]
    pub(crate) fn get(&self) -> Option<&'static Location<'static>> {
        None
    }
}

#[inline(always)]
pub(crate) fn enabled(_: &State) {}

pub(crate) fn sleeping(at: &'static Location<'static>, s: &State) {
    debug_assert!(false, "sleeping in atomic context at {at}: {s:?}");
}
