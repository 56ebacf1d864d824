//! A machine for tests of sleeping: its tasks are threads, its clock moves when told to.
//!
//! Interface: [`ThreadArch`], [`Log`], [`asleep`].
//! Linux counterpart: KUnit's fakes.
//! Locks and context: tests.

#![allow(dead_code)]

use sockeye_kernel::task::{Runnable, TASK_RUNNING};
use sockeye_kernel::{Arch, TICK_NSEC, Task, WaitQueueHead};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::Thread;

/// Threads that park, and a clock that stands still.
#[derive(Default)]
pub struct ThreadArch {
    now: AtomicU64,
    /// Those asleep with a deadline.
    sleepers: Mutex<Vec<Thread>>,
    /// How often a task was woken with a hint that its waker goes to sleep.
    pub synced: Arc<AtomicUsize>,
}

struct Parked(Thread, Arc<AtomicUsize>);

impl Runnable for Parked {
    fn wake(&self) {
        self.0.unpark()
    }
    fn wake_sync(&self) {
        self.1.fetch_add(1, SeqCst);
        self.wake()
    }
}

impl ThreadArch {
    pub fn new() -> Arc<ThreadArch> {
        Arc::default()
    }

    /// Lets `jiffies` pass.
    pub fn advance(&self, jiffies: u64) {
        let mut sleepers = self.sleepers.lock().unwrap();
        self.now.fetch_add(jiffies * TICK_NSEC, SeqCst);
        sleepers.drain(..).for_each(|t| t.unpark());
    }

    /// How many threads sleep with a deadline, or have begun to.
    pub fn waits_for_time(&self) -> usize {
        self.sleepers.lock().unwrap().len()
    }
}

thread_local! {
    static CURRENT: std::cell::OnceCell<Arc<Task>> = const { std::cell::OnceCell::new() };
}

impl Arch for ThreadArch {
    fn ktime_get(&self) -> u64 {
        self.now.load(SeqCst)
    }
    fn ktime_get_real(&self) -> u64 {
        self.ktime_get()
    }
    fn get_random_bytes(&self, buf: &mut [u8]) {
        buf.fill(7)
    }
    fn cpu_relax(&self, _spins: u32) {
        std::thread::yield_now();
    }
    fn current(&self) -> Arc<Task> {
        let make = || Task::named("thread", 0, Box::new(Parked(std::thread::current(), self.synced.clone())));
        CURRENT.with(|c| c.get_or_init(make).clone())
    }
    fn schedule(&self, task: &Task, deadline: Option<u64>) {
        while task.try_to_block_task() {
            if let Some(d) = deadline {
                let mut sleepers = self.sleepers.lock().unwrap();
                if self.ktime_get() >= d {
                    return task.set_state(TASK_RUNNING);
                }
                sleepers.push(std::thread::current());
            }
            std::thread::park();
            if deadline.is_some() {
                let me = std::thread::current().id();
                self.sleepers.lock().unwrap().retain(|t| t.id() != me);
            }
        }
    }
    fn wakeup_softirqd(&self, _cpu: usize) {}
    fn program_timer(&self, _base: usize, _expires: u64) {}
}

/// What happened, in order.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub fn add(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// Waits until `so`; the test's own time limit ends it if it never is.
pub fn until(so: impl Fn() -> bool) {
    while !so() {
        std::thread::yield_now();
    }
}

/// Waits until `n` tasks are on the queue.
pub fn asleep(q: &WaitQueueHead, n: usize) {
    until(|| q.nr_sleepers() == n)
}
