//! What the models share: bounds, and an arch whose tasks are loom's threads.
//!
//! Interface: [`model`], [`LoomArch`].
//! Linux counterpart: none.
//! Locks and context: loom's threads.

use loom::thread::{self, Thread};
use sockeye_kernel::task::{Runnable, TASK_RUNNING, Task};
use sockeye_kernel::{Arch, TICK_NSEC};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Explores `f` with at most `preemptions` involuntary switches an execution. Most bugs need one or two; each more
/// multiplies the time.
pub fn model(preemptions: usize, f: impl Fn() + Send + Sync + 'static) {
    let runs = Arc::new(AtomicUsize::new(0));
    let mut b = loom::model::Builder::new();
    // The environment may ask for more.
    b.preemption_bound = b.preemption_bound.or(Some(preemptions));
    b.max_branches = b.max_branches.max(1_000);
    let count = runs.clone();
    b.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        f()
    });
    println!("{} executions", runs.load(Ordering::Relaxed));
}

/// An arch without time, whose tasks are loom's threads: a lost wake-up is a deadlock, which loom reports.
pub struct LoomArch;

struct Parked(Thread);

impl Runnable for Parked {
    fn wake(&self) {
        self.0.unpark();
    }
}

impl Arch for LoomArch {
    fn ktime_get(&self) -> u64 {
        TICK_NSEC
    }
    fn ktime_get_real(&self) -> u64 {
        TICK_NSEC
    }
    fn get_random_bytes(&self, buf: &mut [u8]) {
        buf.fill(7);
    }
    fn cpu_relax(&self, _spins: u32) {
        thread::yield_now();
    }
    fn current(&self) -> Arc<Task> {
        Task::new(Box::new(Parked(thread::current())))
    }
    fn schedule(&self, task: &Task, _deadline: Option<u64>) {
        while task.try_to_block_task() {
            thread::park();
        }
        task.set_state(TASK_RUNNING);
    }
    fn wakeup_softirqd(&self, _cpu: usize) {}
    fn program_timer(&self, _base: usize, _expires: u64) {}
}
