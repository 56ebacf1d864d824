//! Timers against close: once a timer has been shut down, its function does not run and never will.
//!
//! Interface: tests.
//! Linux counterpart: none.
//! Locks and context: shuttle's threads: a CPU that runs timers, processes that arm and close.

use crate::harness::{ShuttleArch, explore};
use shuttle::thread;
use sockeye_kernel::plant::{Plant, finds};
use sockeye_kernel::{Kernel, TICK_NSEC};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

fn timers_race_close() {
    let arch = ShuttleArch::new();
    let kernel = Kernel::new(arch.clone(), 1);
    let ksoftirqd = arch.ksoftirqd(&kernel);
    // The model's own record, so not of the model's atomics: looking at it is no point of the schedule.
    let (closed, runs) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (gone, count) = (closed.clone(), runs.clone());
    let timer = Arc::new(kernel.timer(move || {
        assert!(!gone.load(Ordering::SeqCst), "the timer's function began after close");
        count.fetch_add(1, Ordering::SeqCst);
        thread::yield_now();
        assert!(!gone.load(Ordering::SeqCst), "the timer's function was not waited for");
    }));
    timer.mod_timer_in(1);
    let (a, k) = (arch.clone(), kernel.clone());
    let cpu = thread::spawn(move || {
        for _ in 0..3 {
            a.advance(TICK_NSEC);
            a.due().into_iter().for_each(|base| k.run_timers(base));
        }
    });
    let (arming, k) = (timer.clone(), kernel.clone());
    let armer = thread::spawn(move || {
        let _inside = k.enter();
        arming.mod_timer_in(1);
    });
    {
        let _inside = kernel.enter();
        timer.shutdown_sync();
        closed.store(true, Ordering::SeqCst);
    }
    cpu.join().unwrap();
    armer.join().unwrap();
    assert_eq!(kernel.timers().pending(), 0);
    assert!(runs.load(Ordering::SeqCst) <= 2);
    arch.stop();
    ksoftirqd.join().unwrap();
}

#[test]
fn a_closed_timer_stays_silent() {
    explore(1000, timers_race_close);
}

#[test]
fn a_function_that_runs_after_close_is_found() {
    let name = "timer::a_function_that_runs_after_close_is_found";
    finds(name, Plant::TimerAfterClose, &["after close", "not waited for"], || explore(1000, timers_race_close));
}
