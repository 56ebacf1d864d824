//! The completion: one task waits until another has done something.
//!
//! Interface: [`Completion`]: `wait_for_completion` and its forms, `poll_completion`, `complete`, `complete_all`.
//! Linux counterpart: `kernel/sched/completion.c`.
//! Locks and context: waiting in process context, nothing held that forbids sleeping; `complete` anywhere.

use crate::arch::Arch;
use crate::cpu;
use crate::lockdep::might_sleep;
use crate::maybe_const;
use crate::sleep_timeout::{poll_event, within};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::task::{TASK_INTERRUPTIBLE, TASK_KILLABLE, TASK_UNINTERRUPTIBLE};
use crate::wait::{Wait, WaitQueueHead, block_here};
use std::task::Poll;
use uapi::Result;

/// [`Completion::complete_all`] was called: everybody passes.
const ALL: u32 = u32::MAX;

/// Something that will be done (`struct completion`). Each [`complete`](Self::complete) lets one waiter pass, also one that
/// comes later.
#[derive(Default)]
pub struct Completion {
    /// How many may pass.
    done: AtomicU32,
    wait: WaitQueueHead,
}

impl Completion {
    maybe_const! {
        /// `init_completion`.
        pub fn new() -> Self {
            Completion { done: AtomicU32::new(0), wait: WaitQueueHead::new() }
        }
    }

    /// It is done: one waiter passes.
    pub fn complete(&self) {
        let _ = self.done.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| n.checked_add(1).filter(|n| *n != ALL));
        self.wait.wake_up(0);
    }

    /// It is done for good: everybody passes, until [`reinit_completion`](Self::reinit_completion).
    pub fn complete_all(&self) {
        self.done.store(ALL, Ordering::Release);
        self.wait.wake_up_all(0);
    }

    /// Makes it undone. Nobody may be waiting.
    pub fn reinit_completion(&self) {
        self.done.store(0, Ordering::Release);
    }

    /// Whether a waiter would pass now.
    pub fn completion_done(&self) -> bool {
        self.done.load(Ordering::Acquire) != 0
    }

    /// Passes if that is possible now.
    pub fn try_wait_for_completion(&self) -> bool {
        let pass = |n| match n {
            0 => None,
            ALL => Some(ALL),
            n => Some(n - 1),
        };
        self.done.fetch_update(Ordering::AcqRel, Ordering::Acquire, pass).is_ok()
    }

    /// Sleeps until it is done; no signal ends the wait.
    #[track_caller]
    pub fn wait_for_completion(&self) {
        while self.wait_state(TASK_UNINTERRUPTIBLE).is_err() {}
    }

    /// Sleeps until it is done; `ERESTARTSYS` if a signal comes first.
    #[track_caller]
    pub fn wait_for_completion_interruptible(&self) -> Result<()> {
        self.wait_state(TASK_INTERRUPTIBLE)
    }

    /// Sleeps until it is done; `ERESTARTSYS` if a fatal signal comes first.
    #[track_caller]
    pub fn wait_for_completion_killable(&self) -> Result<()> {
        self.wait_state(TASK_KILLABLE)
    }

    /// Sleeps until it is done, at most `jiffies`: 0 when the time was over first, else what is left of it, at least 1.
    #[track_caller]
    pub fn wait_for_completion_timeout(&self, jiffies: u64) -> u64 {
        self.wait_timeout(TASK_UNINTERRUPTIBLE, jiffies).unwrap_or(0)
    }

    /// The same; `ERESTARTSYS` if a signal comes first.
    #[track_caller]
    pub fn wait_for_completion_interruptible_timeout(&self, jiffies: u64) -> Result<u64> {
        self.wait_timeout(TASK_INTERRUPTIBLE, jiffies)
    }

    /// Waits in a sleep of `state`, as a poll; `ERESTARTSYS` if a signal ends it.
    pub fn poll_completion(&self, wait: &mut Wait, state: u32) -> Poll<Result<()>> {
        poll_event(wait, &self.wait, state, true, || self.try_wait_for_completion())
    }

    #[track_caller]
    fn wait_state(&self, state: u32) -> Result<()> {
        might_sleep();
        if self.try_wait_for_completion() {
            return Ok(());
        }
        block_here(|wait| self.poll_completion(wait, state))
    }

    /// Outside every kernel there is no time: there it looks once.
    #[track_caller]
    fn wait_timeout(&self, state: u32, jiffies: u64) -> Result<u64> {
        might_sleep();
        if self.try_wait_for_completion() {
            return Ok(jiffies.max(1));
        }
        let op = |arch: &dyn Arch| within(arch, jiffies, |wait| self.poll_completion(wait, state));
        cpu::with_arch(op).flatten().unwrap_or(Ok(0))
    }
}
