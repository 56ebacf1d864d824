//! The primitives under loom: every interleaving of small models, within what the memory model allows.
//!
//! Interface: tests, in a build with `--cfg loom` (`cargo xtask verify loom`). See `docs/verification.md`.
//! Linux counterpart: `tools/memory-model/litmus-tests/`.
//! Locks and context: loom's threads, all on one thread of the host.
//!
//! Each model has a sibling that plants a bug and expects loom to find it: a check that cannot fail shows nothing.
#![cfg(loom)]

#[path = "loom/harness.rs"]
mod harness;
#[path = "loom/rcu.rs"]
mod rcu;
#[path = "loom/sleeping.rs"]
mod sleeping;
#[path = "loom/softirq.rs"]
mod softirq;
#[path = "loom/spinlock.rs"]
mod spinlock;
#[path = "loom/wait.rs"]
mod wait;
