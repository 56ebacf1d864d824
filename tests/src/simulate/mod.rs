//! Whole networks in deterministic simulation: hosts that talk TCP while links fail, from one seed.
//!
//! Interface: [`Plan`] and [`Scenario`] (what happens), [`run`] and [`Report`] (that it did, and what was wrong), [`shrink`],
//! [`campaign`].
//! Linux counterpart: none; the fault injection of `tools/testing` in purpose.
//! Locks and context: each run has the calling thread to itself.

mod bytes;
pub mod campaign;
mod report;
mod run;
mod scenario;
mod shrink;
mod talk;
mod verdict;
mod world;

pub use report::Report;
pub use run::run;
pub use scenario::{Fault, FaultKind, Plan, Plant, Scenario, Talk, TalkKind};
pub use shrink::shrink;
