//! Sleeping for a time, and until something is so.
//!
//! Interface: [`schedule_timeout`] and its `_interruptible`, `_killable`, `_uninterruptible` forms, [`msleep`],
//! [`wait_event`] and its forms.
//! Linux counterpart: `kernel/time/sleep_timeout.c`, the `wait_event` macros of `include/linux/wait.h`.
//! Locks and context: process context, nothing held that forbids sleeping. Times are in jiffies (milliseconds).

use crate::TICK_NSEC;
use crate::arch::Arch;
use crate::cpu;
use crate::lockdep;
use crate::task::{TASK_INTERRUPTIBLE, TASK_KILLABLE, TASK_UNINTERRUPTIBLE};
use crate::wait::{Wait, WaitQueueHead, block_on};
use std::task::Poll;
use uapi::{Errno, Result};

/// A timeout that never ends.
pub const MAX_SCHEDULE_TIMEOUT: u64 = u64::MAX;

/// The end of a timeout that starts now, in nanoseconds; `None`: never.
pub fn deadline(arch: &dyn Arch, timeout: u64) -> Option<u64> {
    let end = || arch.ktime_get().saturating_add(timeout.saturating_mul(TICK_NSEC));
    (timeout != MAX_SCHEDULE_TIMEOUT).then(end)
}

/// What is left of it, rounded up: 0 only when it is over.
fn remaining(arch: &dyn Arch, deadline: Option<u64>) -> u64 {
    let left = |end: u64| end.saturating_sub(arch.ktime_get()).div_ceil(TICK_NSEC);
    deadline.map_or(MAX_SCHEDULE_TIMEOUT, left)
}

/// Sleeps until the caller is woken, or for `timeout`; the time left. The caller has set its task's state before, and checked
/// its condition after that; a task that is running does not sleep. Running when this returns.
#[track_caller]
pub fn schedule_timeout(arch: &dyn Arch, timeout: u64) -> u64 {
    lockdep::might_sleep();
    let end = deadline(arch, timeout);
    cpu::while_asleep(|| arch.schedule(&arch.current(), end));
    remaining(arch, end)
}

/// Sleeps for `timeout`, until a signal, or until somebody wakes the task; the time left.
#[track_caller]
pub fn schedule_timeout_interruptible(arch: &dyn Arch, timeout: u64) -> u64 {
    arch.current().set_state(TASK_INTERRUPTIBLE);
    schedule_timeout(arch, timeout)
}

/// Sleeps for `timeout`, until a fatal signal, or until somebody wakes the task; the time left.
#[track_caller]
pub fn schedule_timeout_killable(arch: &dyn Arch, timeout: u64) -> u64 {
    arch.current().set_state(TASK_KILLABLE);
    schedule_timeout(arch, timeout)
}

/// Sleeps for `timeout`, or until somebody wakes the task; the time left.
#[track_caller]
pub fn schedule_timeout_uninterruptible(arch: &dyn Arch, timeout: u64) -> u64 {
    arch.current().set_state(TASK_UNINTERRUPTIBLE);
    schedule_timeout(arch, timeout)
}

/// Sleeps at least `ms` milliseconds.
#[track_caller]
pub fn msleep(arch: &dyn Arch, ms: u64) {
    let mut left = ms;
    while left > 0 {
        left = schedule_timeout_uninterruptible(arch, left);
    }
}

/// Sleeps at least `ms` milliseconds, unless a signal comes; the time left.
#[track_caller]
pub fn msleep_interruptible(arch: &dyn Arch, ms: u64) -> u64 {
    let mut left = ms;
    while left > 0 && !arch.current().signal_pending() {
        left = schedule_timeout_interruptible(arch, left);
    }
    left
}

/// The poll under all of the below: until `condition`, in a sleep of `state`; `ERESTARTSYS` if a signal ends it first.
pub fn poll_event(
    wait: &mut Wait,
    q: &WaitQueueHead,
    state: u32,
    exclusive: bool,
    mut condition: impl FnMut() -> bool,
) -> Poll<Result<()>> {
    if condition() {
        wait.finish_wait();
        return Poll::Ready(Ok(()));
    }
    let prepared = wait.prepare_to_wait_event(q, state, exclusive);
    if condition() {
        // Found without having been woken for it: a wake-up that came now is another's.
        wait.abort_exclusive_wait();
        return Poll::Ready(Ok(()));
    }
    match prepared {
        Ok(()) => Poll::Pending,
        Err(e) => {
            wait.abort_exclusive_wait();
            Poll::Ready(Err(e))
        }
    }
}

/// Sleeps on `q` until `condition`, which is checked at each wake-up; nothing else ends it.
#[track_caller]
pub fn wait_event(arch: &dyn Arch, q: &WaitQueueHead, condition: impl FnMut() -> bool) {
    let r = event(arch, q, TASK_UNINTERRUPTIBLE, false, condition);
    debug_assert_eq!(r, Ok(()));
}

/// The same; `ERESTARTSYS` if a signal comes first.
#[track_caller]
pub fn wait_event_interruptible(arch: &dyn Arch, q: &WaitQueueHead, condition: impl FnMut() -> bool) -> Result<()> {
    event(arch, q, TASK_INTERRUPTIBLE, false, condition)
}

/// The same as one of several of whom each event is for one.
#[track_caller]
pub fn wait_event_interruptible_exclusive(
    arch: &dyn Arch,
    q: &WaitQueueHead,
    condition: impl FnMut() -> bool,
) -> Result<()> {
    event(arch, q, TASK_INTERRUPTIBLE, true, condition)
}

/// Sleeps until `condition`; `ERESTARTSYS` if a fatal signal comes first.
#[track_caller]
pub fn wait_event_killable(arch: &dyn Arch, q: &WaitQueueHead, condition: impl FnMut() -> bool) -> Result<()> {
    event(arch, q, TASK_KILLABLE, false, condition)
}

/// Sleeps until `condition`, at most for `timeout`: 0 when it is over in vain, else what is left of it, at least 1.
#[track_caller]
pub fn wait_event_timeout(arch: &dyn Arch, q: &WaitQueueHead, condition: impl FnMut() -> bool, timeout: u64) -> u64 {
    event_timeout(arch, q, TASK_UNINTERRUPTIBLE, condition, timeout).unwrap_or(0)
}

/// The same; `ERESTARTSYS` if a signal comes first.
#[track_caller]
pub fn wait_event_interruptible_timeout(
    arch: &dyn Arch,
    q: &WaitQueueHead,
    condition: impl FnMut() -> bool,
    timeout: u64,
) -> Result<u64> {
    event_timeout(arch, q, TASK_INTERRUPTIBLE, condition, timeout)
}

#[track_caller]
fn event(
    arch: &dyn Arch,
    q: &WaitQueueHead,
    state: u32,
    exclusive: bool,
    mut condition: impl FnMut() -> bool,
) -> Result<()> {
    lockdep::might_sleep();
    block_on(arch, |wait| poll_event(wait, q, state, exclusive, &mut condition))
}

#[track_caller]
fn event_timeout(
    arch: &dyn Arch,
    q: &WaitQueueHead,
    state: u32,
    mut condition: impl FnMut() -> bool,
    timeout: u64,
) -> Result<u64> {
    lockdep::might_sleep();
    within(arch, timeout, |wait| poll_event(wait, q, state, false, &mut condition)).unwrap_or(Ok(0))
}

/// Runs `op` as a thread, at most for `timeout`: what is left of it, at least 1, or the error of `op`; `None` when the time is
/// over first.
#[track_caller]
pub fn within(arch: &dyn Arch, timeout: u64, mut op: impl FnMut(&mut Wait) -> Poll<Result<()>>) -> Option<Result<u64>> {
    let end = deadline(arch, timeout);
    block_on(arch, |wait| {
        wait.set_deadline(end);
        match op(wait) {
            Poll::Ready(r) => Poll::Ready(Some(r.map(|()| remaining(arch, end).max(1)))),
            Poll::Pending if wait.timed_out(|| arch.ktime_get()) => {
                wait.abort_exclusive_wait();
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        }
    })
}

/// For an operation that fails with `e` when its time is over.
pub fn or_time_out(r: Option<Result<u64>>, e: Errno) -> Result<()> {
    r.unwrap_or(Err(e)).map(|_| ())
}
