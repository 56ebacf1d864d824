//! Tasks that sleep for a lock, uninterruptibly and too long.
//!
//! Interface: [`hung_tasks`]; locks register their waiters with [`Waiting`].
//! Linux counterpart: `kernel/hung_task.c`, `CONFIG_DETECT_HUNG_TASK_BLOCKER`.
//! Locks and context: process context, inside a kernel. Only who is about to sleep for a lock pays anything.

use super::lock::LockDebug;
use super::report::{Problem, Report};
use super::text;
use crate::cpu;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::{Mutex, MutexGuard, PoisonError};

struct Sleeper {
    /// The kernel that the task is inside, by its address.
    kernel: usize,
    task: String,
    since: u64,
    at: &'static Location<'static>,
    lock: Wanted,
}

/// What is waited for. It lives while the waiter is in the list.
struct Wanted(*const LockDebug);

// SAFETY: a shared reference to a `Sync` value, but for its lifetime.
unsafe impl Send for Wanted {}

#[derive(Default)]
struct Sleepers {
    next: u64,
    all: BTreeMap<u64, Sleeper>,
}

static SLEEPERS: Mutex<Sleepers> = Mutex::new(Sleepers { next: 0, all: BTreeMap::new() });

fn sleepers() -> MutexGuard<'static, Sleepers> {
    SLEEPERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The task waits for the lock until the drop.
#[must_use]
pub(crate) struct Waiting<'l>(Option<u64>, PhantomData<&'l LockDebug>);

impl<'l> Waiting<'l> {
    /// The calling task is about to wait, at `at`. Outside every kernel there is neither task nor time.
    pub(crate) fn new(lock: &'l LockDebug, at: &'static Location<'static>) -> Self {
        let kernel = cpu::current_kernel() as usize;
        let id = cpu::with_arch(|arch| {
            let task = arch.current();
            let task = format!("{:?}, number {}", task.comm(), task.pid());
            let lock = Wanted(lock);
            let mut s = sleepers();
            s.next += 1;
            let id = s.next;
            s.all.insert(id, Sleeper { kernel, task, since: arch.ktime_get(), at, lock });
            id
        });
        Waiting(id, PhantomData)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.0 {
            sleepers().all.remove(&id);
        }
    }
}

/// The tasks of the calling thread's kernel that have slept for a lock for `limit` nanoseconds or longer and that no signal
/// can wake (`check_hung_uninterruptible_tasks`): what each waits for, and who had that last. Empty outside every kernel.
pub fn hung_tasks(limit: u64) -> Vec<Report> {
    let kernel = cpu::current_kernel() as usize;
    let Some(now) = cpu::with_arch(|arch| arch.ktime_get()) else { return Vec::new() };
    let report = |s: &Sleeper| {
        // SAFETY: the waiter's `Waiting` borrows the lock, and is in the list, which is locked here.
        let lock = unsafe { &*s.lock.0 };
        let text = text::hung(&s.task, now.saturating_sub(s.since), s.at, &lock.describe(), &lock.describe_owner());
        Report { problem: Problem::HungTask, at: Some(s.at), text }
    };
    let all = sleepers();
    all.all.values().filter(|s| s.kernel == kernel && now.saturating_sub(s.since) >= limit).map(report).collect()
}
