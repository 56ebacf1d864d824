//! The lock validator: finds the deadlocks that could happen, from runs in which they did not.
//!
//! Interface: [`LockDebug`] (a field of every lock), its hooks `acquire`, `acquired`, `release`, `contended`;
//! [`might_sleep`]; in debug builds [`hung_tasks`], [`collect`], [`set_policy`], [`describe_held`].
//! Linux counterpart: `kernel/locking/lockdep.c`, `kernel/locking/spinlock_debug.c`.
//! Locks and context: any; takes no lock of the kinds it watches. In release builds all of it is empty.
//!
//! Read [`held`] for the checks, [`graph`] for the order of classes, `docs/locking.md` for how to read a report. Models
//! (`--cfg loom`, `--cfg shuttle`) look for deadlocks themselves and are run without it.

#[cfg(all(debug_assertions, not(any(loom, shuttle))))]
mod class;
#[cfg(all(debug_assertions, not(any(loom, shuttle))))]
mod entry;
#[cfg(all(debug_assertions, not(any(loom, shuttle))))]
mod graph;
#[cfg(all(debug_assertions, not(any(loom, shuttle))))]
pub(crate) mod held;
#[cfg(not(all(debug_assertions, not(any(loom, shuttle)))))]
#[path = "lockdep/held_off.rs"]
pub(crate) mod held;
#[cfg(all(debug_assertions, not(any(loom, shuttle))))]
mod hung;
#[cfg(not(all(debug_assertions, not(any(loom, shuttle)))))]
#[path = "lockdep/hung_off.rs"]
mod hung;
mod kind;
#[cfg(all(debug_assertions, not(any(loom, shuttle))))]
mod lock;
#[cfg(not(all(debug_assertions, not(any(loom, shuttle)))))]
mod off;
#[cfg(all(debug_assertions, not(any(loom, shuttle))))]
mod report;
pub(crate) mod state;
#[cfg(all(debug_assertions, not(any(loom, shuttle))))]
mod text;

pub use crate::cpu::might_sleep;
pub(crate) use hung::Waiting;
#[cfg(all(debug_assertions, not(any(loom, shuttle))))]
pub use hung::hung_tasks;
pub use kind::{How, Kind};
#[cfg(all(debug_assertions, not(any(loom, shuttle))))]
pub use lock::{LockDebug, describe_held};
#[cfg(not(all(debug_assertions, not(any(loom, shuttle)))))]
pub use off::LockDebug;
#[cfg(all(debug_assertions, not(any(loom, shuttle))))]
pub use report::{Attached, Collector, Policy, Problem, Report, collect, set_policy};
