//! Semaphore models: places exclude, and one that is given back is not lost.
//!
//! Interface: tests.
//! Linux counterpart: `kernel/locking/semaphore.c` has none.
//! Locks and context: loom's threads.

use crate::harness::{LoomArch, model};
use loom::cell::UnsafeCell;
use loom::thread;
use sockeye_kernel::plant::{Plant, finds};
use sockeye_kernel::semaphore::Semaphore;
use sockeye_kernel::task::TASK_UNINTERRUPTIBLE;
use sockeye_kernel::wait::block_on;
use std::sync::Arc;

fn down(s: &Semaphore) {
    block_on(&LoomArch, |w| s.poll_down(w, TASK_UNINTERRUPTIBLE)).expect("no signal ends this sleep");
}

struct Guarded {
    place: Semaphore,
    data: UnsafeCell<u32>,
}

// SAFETY: `data` is only touched by who holds the one place; loom reports it if that is not so.
unsafe impl Sync for Guarded {}
// SAFETY: as above.
unsafe impl Send for Guarded {}

impl Guarded {
    fn add(&self) {
        down(&self.place);
        // SAFETY: the one place is ours.
        self.data.with_mut(|d| unsafe { *d += 1 });
        self.place.up();
    }
}

#[test]
fn one_place_is_a_mutex() {
    model(2, || {
        let g = Arc::new(Guarded { place: Semaphore::new(1), data: UnsafeCell::new(0) });
        let other = g.clone();
        let t = thread::spawn(move || other.add());
        g.add();
        t.join().unwrap();
        // SAFETY: both are done.
        assert_eq!(g.data.with(|d| unsafe { *d }), 2);
        assert_eq!(g.place.count(), 1);
    });
}

fn one_gives_one_takes() {
    let s = Arc::new(Semaphore::new(0));
    let giver = s.clone();
    let t = thread::spawn(move || giver.up());
    down(&s);
    t.join().unwrap();
    assert_eq!(s.count(), 0);
}

#[test]
fn a_place_given_back_wakes_who_waits() {
    model(3, one_gives_one_takes);
}

#[test]
fn a_look_for_sleepers_before_the_count_is_found() {
    let name = "semaphore::a_look_for_sleepers_before_the_count_is_found";
    finds(name, Plant::SemaphoreUpEarly, &["deadlock"], || model(3, one_gives_one_takes));
}

#[test]
fn two_places_serve_two() {
    model(2, || {
        let s = Arc::new(Semaphore::new(0));
        let takers = [s.clone(), s.clone()];
        let takers = takers.map(|s| thread::spawn(move || down(&s)));
        s.up();
        s.up();
        takers.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!((s.count(), s.sleepers()), (0, 0));
    });
}
