//! Futures in a simulation: each is a task whose waker wakes it.
//!
//! Interface: [`block_on`], [`timer`] ([`Timer`]).
//! Linux counterpart: none.
//! Locks and context: in a task, or outside, where the machines run meanwhile.

use crate::engine::{Engine, Stop, with_current, with_engine};
use kernel::task::{Runnable, TASK_UNINTERRUPTIBLE, Task};
use std::cell::Cell;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

/// Wakes the task that polls.
struct TaskWaker {
    task: Arc<Task>,
    woken: AtomicBool,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref()
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, SeqCst);
        self.task.wake_up_process();
    }
}

/// The code outside looks for itself.
struct Outside;

impl Runnable for Outside {
    fn wake(&self) {}
}

/// Runs a future to its end.
pub fn block_on<T>(f: impl Future<Output = T>) -> T {
    let task = with_current(|e| e.running().and_then(|c| c.task.get().cloned()));
    let task = task.expect("a simulation in this thread").unwrap_or_else(|| Task::new(Box::new(Outside)));
    let waker = Arc::new(TaskWaker { task, woken: AtomicBool::new(false) });
    let ready = Waker::from(waker.clone());
    let mut f = pin!(f);
    loop {
        if let Poll::Ready(v) = f.as_mut().poll(&mut Context::from_waker(&ready)) {
            return v;
        }
        with_current(|e| wait(e, &waker));
    }
}

fn wait(e: &Engine, w: &TaskWaker) {
    let Some(c) = e.running() else {
        if e.run(u64::MAX, || w.woken.swap(false, SeqCst)) == Stop::Quiet {
            panic!(
                "deadlock: the code outside of the simulation waits for a future that nothing will wake\n{}",
                e.report()
            );
        }
        return;
    };
    loop {
        w.task.set_state(TASK_UNINTERRUPTIBLE);
        if w.woken.swap(false, SeqCst) || c.killed.get() {
            return w.task.set_state(kernel::task::TASK_RUNNING);
        }
        e.sleep(c, u64::MAX);
    }
}

/// A future that is ready once its time has come.
pub struct Timer {
    sim: u64,
    at: u64,
    armed: Cell<Option<(u32, u64)>>,
}

/// Ready in `ns` of virtual time.
pub fn timer(ns: u64) -> Timer {
    let make = |e: &Engine| Timer { sim: e.id, at: e.now().saturating_add(ns), armed: Cell::new(None) };
    with_current(make).expect("a simulation in this thread")
}

impl Timer {
    fn cancel(&self) {
        if let Some(call) = self.armed.take() {
            with_engine(self.sim, |e| e.cancel_call(call));
        }
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.cancel();
        let waker = cx.waker().clone();
        with_engine(self.sim, |e| {
            if e.now() >= self.at {
                return Poll::Ready(());
            }
            self.armed.set(Some(e.call_at(self.at, Box::new(move || waker.wake()))));
            Poll::Pending
        })
        // The simulation is over.
        .unwrap_or(Poll::Ready(()))
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.cancel();
    }
}
