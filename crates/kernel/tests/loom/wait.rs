//! Wait-queue models: no wake-up is lost, and one event wakes one exclusive waiter.
//!
//! Interface: tests.
//! Linux counterpart: `tools/memory-model/litmus-tests/SB+fencembonceonces.litmus`.
//! Locks and context: loom's threads.

use crate::harness::{LoomArch, model};
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;
use sockeye_kernel::plant::{Plant, finds};
use sockeye_kernel::wait::block_on;
use sockeye_kernel::{Arch, WaitQueueHead, wait::Wait};
use std::sync::Arc;
use std::task::Poll;

/// Something to wait for. The condition itself is as weak as a socket's flags are: the queue must order it.
#[derive(Default)]
struct Event {
    happened: AtomicBool,
    queue: WaitQueueHead,
}

impl Event {
    fn happen(&self) {
        self.happened.store(true, Ordering::Release);
        self.queue.wake_up(0);
    }

    fn poll(&self, wait: &mut Wait) -> Poll<()> {
        wait.prepare_to_wait(&self.queue);
        if !self.happened.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        wait.finish_wait();
        Poll::Ready(())
    }

    fn wait(&self) {
        block_on(&LoomArch, |w| self.poll(w))
    }
}

fn sleeper_and_waker() {
    let e = Arc::new(Event::default());
    let waker = e.clone();
    let t = thread::spawn(move || waker.happen());
    e.wait();
    t.join().unwrap();
}

#[test]
fn a_wake_up_is_never_lost() {
    model(3, sleeper_and_waker);
}

#[test]
fn all_non_exclusive_waiters_are_woken() {
    model(2, || {
        let e = Arc::new(Event::default());
        let (waker, second) = (e.clone(), e.clone());
        let threads = [thread::spawn(move || waker.happen()), thread::spawn(move || second.wait())];
        e.wait();
        threads.into_iter().for_each(|t| t.join().unwrap());
    });
}

/// Things handed out one at a time. A wake-up spent on a waiter that did not need it would leave another asleep beside a
/// thing.
#[derive(Default)]
struct Store {
    things: AtomicUsize,
    queue: WaitQueueHead,
}

impl Store {
    fn put(&self) {
        self.things.fetch_add(1, Ordering::Release);
        self.queue.wake_up(0);
    }

    fn try_take(&self) -> bool {
        self.things.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1)).is_ok()
    }

    fn poll_take(&self, w: &mut Wait) -> Poll<()> {
        if self.try_take() {
            w.finish_wait();
            return Poll::Ready(());
        }
        w.prepare_to_wait_exclusive(&self.queue);
        if !self.try_take() {
            return Poll::Pending;
        }
        w.abort_exclusive_wait();
        Poll::Ready(())
    }

    fn take(&self) {
        block_on(&LoomArch, |w| self.poll_take(w))
    }
}

#[test]
fn each_event_serves_one_exclusive_waiter() {
    model(2, || {
        let s = Arc::new(Store::default());
        let (a, b) = (s.clone(), s.clone());
        let threads = [thread::spawn(move || a.take()), thread::spawn(move || b.take())];
        s.put();
        s.put();
        threads.into_iter().for_each(|t| t.join().unwrap());
    });
}

/// The first thing may be taken from under the sleeper's nose: the second must still wake it.
fn a_thing_is_stolen() {
    let s = Arc::new(Store::default());
    let taker = s.clone();
    let t = thread::spawn(move || taker.take());
    s.put();
    s.try_take();
    s.put();
    t.join().unwrap();
}

#[test]
fn a_wake_up_in_vain_does_not_cost_the_next() {
    model(3, a_thing_is_stolen);
}

#[test]
fn a_state_set_after_queueing_loses_a_wake_up() {
    let name = "wait::a_state_set_after_queueing_loses_a_wake_up";
    finds(name, Plant::WaitStateLate, &["deadlock"], || model(3, a_thing_is_stolen));
}

/// A waiter that gives up just when it is woken, as a dropped future does, passes the wake-up on.
#[test]
fn a_waiter_that_gives_up_passes_its_wake_up_on() {
    model(2, || {
        let s = Arc::new(Store::default());
        let (a, quitter) = (s.clone(), s.clone());
        let threads = [
            thread::spawn(move || a.take()),
            thread::spawn(move || {
                let mut w = Wait::new(LoomArch.current());
                if quitter.poll_take(&mut w).is_ready() {
                    quitter.put();
                }
            }),
        ];
        s.put();
        threads.into_iter().for_each(|t| t.join().unwrap());
    });
}
