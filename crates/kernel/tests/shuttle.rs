//! Locks and queues under shuttle: random schedules of models that are too large for loom.
//!
//! Interface: tests, in a build with `--cfg shuttle` (`cargo xtask verify shuttle`). See `docs/verification.md`.
//! Linux counterpart: `kernel/locking/locktorture.c`.
//! Locks and context: shuttle's threads, all on one thread of the host.
#![cfg(shuttle)]

#[path = "shuttle/harness.rs"]
mod harness;
#[path = "shuttle/sock_lock.rs"]
mod sock_lock;
#[path = "shuttle/timer.rs"]
mod timer;
