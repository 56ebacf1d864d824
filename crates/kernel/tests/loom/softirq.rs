//! Softirq models: what is raised runs, also if it is raised while the handlers run, and whoever's turn it is.
//!
//! Interface: tests.
//! Linux counterpart: none.
//! Locks and context: loom's threads: a CPU, and a worker that is `ksoftirqd`.

use crate::harness::{LoomArch, model};
use loom::sync::{Condvar, Mutex};
use loom::thread;
use sockeye_kernel::kernel::raise_softirq;
use sockeye_kernel::plant::{Plant, finds};
use sockeye_kernel::task::Task;
use sockeye_kernel::{Arch, Kernel, Softirq};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// An arch that remembers whom `ksoftirqd` is to visit.
struct Cpus {
    asked: Mutex<(VecDeque<usize>, bool)>,
    more: Condvar,
}

impl Cpus {
    fn new() -> Arc<Cpus> {
        Arc::new(Cpus { asked: Mutex::new((VecDeque::new(), false)), more: Condvar::new() })
    }

    fn next(&self) -> Option<usize> {
        let mut asked = self.asked.lock().unwrap();
        loop {
            if let Some(cpu) = asked.0.pop_front() {
                return Some(cpu);
            }
            if asked.1 {
                return None;
            }
            asked = self.more.wait(asked).unwrap();
        }
    }

    fn stop(&self) {
        self.asked.lock().unwrap().1 = true;
        self.more.notify_all();
    }
}

impl Arch for Cpus {
    fn ktime_get(&self) -> u64 {
        LoomArch.ktime_get()
    }
    fn ktime_get_real(&self) -> u64 {
        LoomArch.ktime_get()
    }
    fn get_random_bytes(&self, buf: &mut [u8]) {
        LoomArch.get_random_bytes(buf)
    }
    fn cpu_relax(&self, spins: u32) {
        LoomArch.cpu_relax(spins)
    }
    fn current(&self) -> Arc<Task> {
        LoomArch.current()
    }
    fn schedule(&self, task: &Task, deadline: Option<u64>) {
        LoomArch.schedule(task, deadline)
    }
    fn wakeup_softirqd(&self, cpu: usize) {
        self.asked.lock().unwrap().0.push_back(cpu);
        self.more.notify_all();
    }
    fn program_timer(&self, _base: usize, _expires: u64) {}
}

/// A kernel whose receive handler raises itself until it has run `times` times, as a driver's top half may at any moment.
fn kernel(arch: &Arc<Cpus>, times: usize) -> (Arc<Kernel>, Arc<AtomicUsize>) {
    let kernel = Kernel::new(arch.clone(), 1);
    let runs = Arc::new(AtomicUsize::new(0));
    let count = runs.clone();
    kernel.open_softirq(Softirq::NetRx, move || {
        if count.fetch_add(1, Ordering::Relaxed) + 1 < times {
            raise_softirq(Softirq::NetRx);
        }
    });
    (kernel, runs)
}

/// A CPU raises and leaves; what its limit leaves over is for the worker, which comes at any moment, also while the CPU is
/// still there, and while another thread becomes that CPU.
fn raised(times: usize, newcomer: bool) {
    let arch = Cpus::new();
    let (kernel, runs) = kernel(&arch, times);
    let (a, k) = (arch.clone(), kernel.clone());
    let worker = thread::spawn(move || {
        while let Some(cpu) = a.next() {
            k.run_ksoftirqd(cpu);
        }
    });
    let k = kernel.clone();
    let other = newcomer.then(|| thread::spawn(move || drop(k.enter())));
    {
        let _inside = kernel.enter();
        raise_softirq(Softirq::NetRx);
    }
    other.into_iter().for_each(|t| t.join().unwrap());
    arch.stop();
    worker.join().unwrap();
    assert_eq!(runs.load(Ordering::Relaxed), times, "a raised softirq was lost");
}

#[test]
fn what_is_raised_meanwhile_runs() {
    model(2, || raised(2, false));
}

#[test]
fn pending_bits_cleared_late_are_found() {
    let name = "softirq::pending_bits_cleared_late_are_found";
    finds(name, Plant::SoftirqClearLate, &["a raised softirq was lost"], || model(2, || raised(2, false)));
}

#[test]
fn what_is_left_over_runs_in_ksoftirqd() {
    // One more than `MAX_SOFTIRQ_RESTART`.
    model(2, || raised(11, false));
}

#[test]
fn what_is_left_over_runs_whoever_becomes_the_cpu() {
    model(2, || raised(11, true));
}
