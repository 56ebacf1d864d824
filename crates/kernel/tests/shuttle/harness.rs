//! What the models share: seeds, replay, and an arch whose tasks are shuttle's threads and whose time stands still until moved.
//!
//! Interface: [`explore`], [`ShuttleArch`].
//! Linux counterpart: none.
//! Locks and context: shuttle's threads.
//!
//! `SOCKEYE_RUNS` multiplies the schedules, `SOCKEYE_SEED` draws others, `SOCKEYE_SCHEDULE` replays the one that a failure
//! printed.
#![allow(dead_code)]

use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::sync::{Condvar, Mutex};
use shuttle::thread::{self, Thread};
use shuttle::{Config, Runner};
use sockeye_kernel::rcu::rcu_barrier;
use sockeye_kernel::task::{Runnable, TASK_RUNNING, Task};
use sockeye_kernel::{Arch, Kernel};
use std::collections::VecDeque;
use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Runs `f` under `runs` random schedules, and as many of few, well-placed switches (PCT).
pub fn explore(runs: usize, f: impl Fn() + Send + Sync + 'static) {
    let f = Arc::new(move || {
        f();
        drain();
    });
    if let Ok(schedule) = env::var("SOCKEYE_SCHEDULE") {
        return run(ReplayScheduler::new_from_encoded(&schedule), f);
    }
    let number = |name: &str, default: u64| env::var(name).map_or(default, |v| v.parse().expect("a number"));
    let seed = number("SOCKEYE_SEED", 1);
    let runs = runs * number("SOCKEYE_RUNS", 1) as usize;
    println!("seed {seed} (SOCKEYE_SEED), {runs} schedules of each kind (SOCKEYE_RUNS multiplies them)");
    run(RandomScheduler::new_from_seed(seed, runs), f.clone());
    run(PctScheduler::new_from_seed(seed, 3, runs), f);
}

/// What waits for a grace period is freed, also what that frees: the execution's statics go after it, and RCU is one of them.
fn drain() {
    (0..8).for_each(|_| rcu_barrier());
}

fn run(scheduler: impl Scheduler + 'static, f: Arc<impl Fn() + Send + Sync + 'static>) {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    Runner::new(scheduler, config).run(move || f());
}

/// An arch whose tasks are shuttle's threads: a lost wake-up is a deadlock, which shuttle reports.
pub struct ShuttleArch {
    now: AtomicU64,
    seed: AtomicU64,
    work: Mutex<Work>,
    more: Condvar,
}

/// What the arch was asked for.
#[derive(Default)]
struct Work {
    softirqd: VecDeque<usize>,
    /// When timers are to be run; by base.
    timers: Vec<(usize, u64)>,
    stop: bool,
}

struct Parked(Thread);

impl Runnable for Parked {
    fn wake(&self) {
        self.0.unpark();
    }
}

impl ShuttleArch {
    pub fn new() -> Arc<ShuttleArch> {
        Arc::new(ShuttleArch {
            now: AtomicU64::new(1_000_000_000),
            seed: AtomicU64::new(0),
            work: Mutex::new(Work::default()),
            more: Condvar::new(),
        })
    }

    /// Time passes.
    pub fn advance(&self, ns: u64) {
        self.now.fetch_add(ns, Ordering::Relaxed);
    }

    /// Bases whose timers are due; they are forgotten.
    pub fn due(&self) -> Vec<usize> {
        let now = self.ktime_get();
        let mut w = self.work.lock().unwrap();
        let due = w.timers.iter().filter(|t| t.1 <= now).map(|t| t.0).collect();
        w.timers.retain(|t| t.1 > now);
        due
    }

    /// A thread of `ksoftirqd` until [`stop`](Self::stop).
    pub fn ksoftirqd(self: &Arc<Self>, kernel: &Arc<Kernel>) -> thread::JoinHandle<()> {
        let (arch, kernel) = (self.clone(), kernel.clone());
        thread::spawn(move || {
            while let Some(cpu) = arch.next_softirq() {
                kernel.run_ksoftirqd(cpu);
            }
        })
    }

    fn next_softirq(&self) -> Option<usize> {
        let mut w = self.work.lock().unwrap();
        loop {
            if let Some(cpu) = w.softirqd.pop_front() {
                return Some(cpu);
            }
            if w.stop {
                return None;
            }
            w = self.more.wait(w).unwrap();
        }
    }

    pub fn stop(&self) {
        self.work.lock().unwrap().stop = true;
        self.more.notify_all();
    }
}

impl Arch for ShuttleArch {
    fn ktime_get(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }
    fn ktime_get_real(&self) -> u64 {
        self.ktime_get()
    }
    fn get_random_bytes(&self, buf: &mut [u8]) {
        for b in buf {
            let x = self.seed.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            *b = (x.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 56) as u8;
        }
    }
    fn cpu_relax(&self, _spins: u32) {
        thread::yield_now();
    }
    fn current(&self) -> Arc<Task> {
        Task::new(Box::new(Parked(thread::current())))
    }
    fn schedule(&self, task: &Task, _deadline: Option<u64>) {
        while task.state() != TASK_RUNNING && !task.signal_pending() {
            thread::park();
        }
        task.set_state(TASK_RUNNING);
    }
    fn wakeup_softirqd(&self, cpu: usize) {
        self.work.lock().unwrap().softirqd.push_back(cpu);
        self.more.notify_one();
    }
    fn program_timer(&self, base: usize, expires: u64) {
        self.work.lock().unwrap().timers.push((base, expires));
    }
}
