//! The context of a check, as the CPU knows it.
//!
//! Interface: [`State`].
//! Linux counterpart: `task_struct::hardirq_context`, `softirq_context`, `hardirqs_enabled` and the like.
//! Locks and context: plain values.
#![cfg_attr(not(all(debug_assertions, not(any(loom, shuttle)))), allow(dead_code))]

use std::panic::Location;

/// The context of a check, as the CPU knows it.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct State {
    pub hardirq: bool,
    /// A softirq handler runs.
    pub softirq: bool,
    pub irqs_off: bool,
    pub bh_off: bool,
    /// Preemption is off, also by a spinlock.
    pub preempt_off: bool,
    pub rcu: bool,
    /// Where sleeping began to be forbidden.
    pub since: Option<&'static Location<'static>>,
}

impl State {
    /// Contexts that interrupt each other hold locks apart.
    pub(super) fn level(&self) -> u8 {
        if self.hardirq { 2 } else { self.softirq as u8 }
    }

    pub(super) fn name(&self) -> &'static str {
        ["process context", "softirq context", "hard-interrupt context"][self.level() as usize]
    }
}
