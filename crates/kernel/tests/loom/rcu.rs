//! RCU models: nothing is written, or freed, while a reader that could see it reads.
//!
//! Interface: tests.
//! Linux counterpart: `tools/memory-model/litmus-tests/` (RCU), `kernel/rcu/rcutorture.c`.
//! Locks and context: loom's threads.
//!
//! What is protected is a cell of loom's, which reports a read and a write that nothing orders: so the bug is told as what it
//! is, and no memory is really used after it was freed.

use crate::harness::model;
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use sockeye_kernel::plant::{Plant, finds};
use sockeye_kernel::rcu::{call_rcu, rcu_barrier, rcu_read_lock, synchronize_rcu};
use std::sync::Arc;

struct Object {
    published: AtomicBool,
    data: UnsafeCell<u32>,
}

// SAFETY: `data` is read in read sections while published, and written a grace period after; loom reports it if not.
unsafe impl Sync for Object {}
// SAFETY: as above.
unsafe impl Send for Object {}

impl Object {
    fn new() -> Arc<Object> {
        Arc::new(Object { published: AtomicBool::new(true), data: UnsafeCell::new(1) })
    }

    fn read(&self) {
        let _section = rcu_read_lock();
        if self.published.load(Ordering::Acquire) {
            // SAFETY: published, in a read section.
            assert_eq!(self.data.with(|d| unsafe { *d }), 1);
        }
    }

    fn unpublish(&self) {
        self.published.store(false, Ordering::Release);
    }

    fn free(&self) {
        // SAFETY: unpublished, and a grace period has passed.
        self.data.with_mut(|d| unsafe { *d = 0 });
    }
}

fn a_reader_and_a_writer() {
    let object = Object::new();
    let reader = object.clone();
    let t = thread::spawn(move || {
        reader.read();
        reader.read();
    });
    object.unpublish();
    synchronize_rcu();
    object.free();
    t.join().unwrap();
}

#[test]
fn a_grace_period_waits_for_readers() {
    model(3, a_reader_and_a_writer);
}

#[test]
fn a_grace_period_of_one_epoch_is_found() {
    let name = "rcu::a_grace_period_of_one_epoch_is_found";
    finds(name, Plant::RcuOneEpoch, &["Causality violation", "Concurrent"], || model(3, a_reader_and_a_writer));
}

#[test]
fn a_callback_waits_for_readers() {
    model(2, || {
        let object = Object::new();
        let reader = object.clone();
        let t = thread::spawn(move || reader.read());
        object.unpublish();
        let freed = object.clone();
        call_rcu(move || freed.free());
        rcu_barrier();
        t.join().unwrap();
    });
}

#[test]
fn two_readers_in_different_epochs_are_waited_for() {
    model(2, || {
        let object = Object::new();
        let readers = [object.clone(), object.clone()].map(|o| thread::spawn(move || o.read()));
        object.unpublish();
        synchronize_rcu();
        object.free();
        readers.into_iter().for_each(|t| t.join().unwrap());
    });
}
