//! The semaphore: a number of places, taken and given back, by whoever; who finds none sleeps.
//!
//! Interface: [`Semaphore`]: `down` and its forms, `poll_down`, `up`; [`Semaphore::acquire`] for a guard.
//! Linux counterpart: `kernel/locking/semaphore.c`.
//! Locks and context: `down` in process context, nothing held that forbids sleeping; `up` and `down_trylock` anywhere, also
//! with interrupts off.
//!
//! A place that is given back while somebody waits is for the first who came: newcomers queue behind, and only the first
//! takes. So places are handed on in the order of arrival and no waiter starves. A semaphore has no owner, so lockdep sees
//! only that its waiters sleep, and remembers who took a place last.

use crate::cpu;
use crate::lockdep::{How, Kind, LockDebug, Waiting, might_sleep};
use crate::maybe_const;
use crate::sleep_timeout::{or_time_out, within};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Plant, planted};
use crate::task::{TASK_INTERRUPTIBLE, TASK_KILLABLE, TASK_UNINTERRUPTIBLE};
use crate::wait::{Wait, WaitQueueHead, block_here};
use std::panic::Location;
use std::task::Poll;
use uapi::{Errno, Result};

/// A count of places, and those who wait for one (`struct semaphore`). With one place it is a mutex that anybody may unlock.
pub struct Semaphore {
    /// Free places.
    count: AtomicU32,
    /// The sleepers, first come first served.
    wait: WaitQueueHead,
    debug: LockDebug,
}

/// Holds a place; the drop gives it back.
#[must_use]
pub struct SemaphoreGuard<'a>(&'a Semaphore);

impl Semaphore {
    maybe_const! {
        /// `sema_init`: with `count` free places.
        #[track_caller]
        pub fn new(count: u32) -> Self {
            let debug = LockDebug::new(Kind::Semaphore, std::any::type_name::<Self>);
            Semaphore { count: AtomicU32::new(count), wait: WaitQueueHead::new(), debug }
        }
    }

    /// Takes a place; no signal ends the wait.
    #[track_caller]
    pub fn down(&self) {
        while self.down_state(TASK_UNINTERRUPTIBLE).is_err() {}
    }

    /// Takes a place; `EINTR` if a signal comes first.
    #[track_caller]
    pub fn down_interruptible(&self) -> Result<()> {
        self.down_state(TASK_INTERRUPTIBLE)
    }

    /// Takes a place; `EINTR` if a fatal signal comes first.
    #[track_caller]
    pub fn down_killable(&self) -> Result<()> {
        self.down_state(TASK_KILLABLE)
    }

    /// Takes a place if there is one and nobody waits for it. `true` if it did: Linux's answers the other way round.
    #[track_caller]
    pub fn down_trylock(&self) -> bool {
        self.try_at(Location::caller())
    }

    /// Takes a place; `ETIME` after `jiffies` without. No signal ends the wait. Outside every kernel there is no time: there
    /// it tries once.
    #[track_caller]
    pub fn down_timeout(&self, jiffies: u64) -> Result<()> {
        might_sleep();
        let at = Location::caller();
        if self.try_at(at) {
            return Ok(());
        }
        let op = |arch: &dyn crate::Arch| within(arch, jiffies, |wait| self.poll_at(wait, TASK_UNINTERRUPTIBLE, at));
        or_time_out(cpu::with_arch(op).flatten(), Errno::ETIME)
    }

    #[track_caller]
    fn down_state(&self, state: u32) -> Result<()> {
        might_sleep();
        let at = Location::caller();
        self.debug.acquire(How::LOCK, at);
        if self.try_at(at) {
            return Ok(());
        }
        let _waiting = (state == TASK_UNINTERRUPTIBLE).then(|| Waiting::new(&self.debug, at));
        block_here(|wait| self.poll_at(wait, state, at))
    }

    /// `down` in a sleep of `state`, as a poll: `EINTR` if a signal ends it. Giving `wait` up leaves the others their turns.
    #[track_caller]
    pub fn poll_down(&self, wait: &mut Wait, state: u32) -> Poll<Result<()>> {
        self.poll_at(wait, state, Location::caller())
    }

    fn try_at(&self, at: &'static Location<'static>) -> bool {
        !self.wait.has_sleeper() && self.take(at)
    }

    fn poll_at(&self, wait: &mut Wait, state: u32, at: &'static Location<'static>) -> Poll<Result<()>> {
        let first = wait.prepare_to_wait_in_turn(&self.wait, state);
        if first && self.take(at) {
            wait.finish_wait();
            // There may be a place for the next as well: whoever gave it back told only us.
            if self.count.load(Ordering::Relaxed) > 0 {
                self.wait.wake_up_first();
            }
            return Poll::Ready(Ok(()));
        }
        if wait.task().signal_pending_state(state) {
            wait.abort_exclusive_wait();
            return Poll::Ready(Err(Errno::EINTR));
        }
        Poll::Pending
    }

    /// Gives a place back, or adds one, and tells the first who waits.
    pub fn up(&self) {
        if planted(Plant::SemaphoreUpEarly) {
            let early = self.wait.has_sleeper();
            self.count.fetch_add(1, Ordering::Release);
            if early {
                self.wait.wake_up_first();
            }
            return;
        }
        self.count.fetch_add(1, Ordering::Release);
        self.wait.wake_up_first();
    }

    /// `down`, with a guard that gives the place back.
    #[track_caller]
    pub fn acquire(&self) -> SemaphoreGuard<'_> {
        self.down();
        SemaphoreGuard(self)
    }

    /// How many places are free.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// How many wait.
    pub fn sleepers(&self) -> usize {
        self.wait.nr_sleepers()
    }

    fn take(&self, at: &'static Location<'static>) -> bool {
        let got = self.count.fetch_update(Ordering::Acquire, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok();
        if got {
            self.debug.acquired(How::TRY, at);
        }
        got
    }
}

impl Drop for SemaphoreGuard<'_> {
    fn drop(&mut self) {
        self.0.up();
    }
}
