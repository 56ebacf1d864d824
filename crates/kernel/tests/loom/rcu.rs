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
use sockeye_kernel::rcu::{
    Domain, Installed, call_rcu, process_callbacks, rcu_barrier, rcu_read_lock, synchronize_rcu,
};
use sockeye_kernel::rculist::HlistHead;
use sockeye_kernel::sync::Witness;
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

fn installed(d: &Domain) -> Installed {
    // SAFETY: each model reaches its data only by threads of its domain.
    unsafe { d.install() }
}

/// Readers that have no slot: those of threads that are ending.
fn a_counted_reader_and_a_writer() {
    let (domain, object) = (Domain::new_counted(), Object::new());
    let (d, reader) = (domain.clone(), object.clone());
    let t = thread::spawn(move || {
        let _d = installed(&d);
        reader.read();
        reader.read();
    });
    {
        let _d = installed(&domain);
        object.unpublish();
        synchronize_rcu();
        object.free();
    }
    t.join().unwrap();
}

#[test]
fn a_grace_period_waits_for_counted_readers() {
    model(2, a_counted_reader_and_a_writer);
}

/// A count taken for an epoch that has just ended would let the next grace period pass.
#[test]
fn a_counted_reader_is_not_lost_while_others_move_the_epoch_on() {
    model(3, || {
        let (domain, object) = (Domain::new_counted(), Object::new());
        let (d, reader) = (domain.clone(), object.clone());
        let t = thread::spawn(move || {
            let _d = installed(&d);
            reader.read();
        });
        let d = domain.clone();
        let other = thread::spawn(move || {
            let _d = installed(&d);
            synchronize_rcu();
        });
        {
            let _d = installed(&domain);
            object.unpublish();
            synchronize_rcu();
            object.free();
        }
        t.join().unwrap();
        other.join().unwrap();
    });
}

#[test]
fn one_epoch_for_counted_readers_is_found() {
    let name = "rcu::one_epoch_for_counted_readers_is_found";
    finds(name, Plant::RcuOneEpoch, &["Causality violation", "Concurrent"], || model(2, a_counted_reader_and_a_writer));
}

#[test]
fn it_does_not_matter_who_runs_a_callback() {
    model(2, || {
        let object = Object::new();
        let reader = object.clone();
        let t = thread::spawn(move || {
            reader.read();
            process_callbacks();
        });
        object.unpublish();
        let freed = object.clone();
        call_rcu(move || freed.free());
        process_callbacks();
        t.join().unwrap();
        rcu_barrier();
    });
}

/// An entry whose memory stays while it is watched.
struct Entry(u32, Arc<Witness>);

impl Drop for Entry {
    fn drop(&mut self) {
        self.1.write();
    }
}

fn a_list_loses_an_entry() {
    let list = Arc::new(HlistHead::new());
    // SAFETY: nobody else has the list yet.
    (1..=2).for_each(|k| unsafe { list.hlist_add_tail_rcu(Entry(k, Arc::default())) });
    let l = list.clone();
    let t = thread::spawn(move || {
        let section = rcu_read_lock();
        let mut seen = 0;
        for e in l.for_each_entry_rcu(&section) {
            e.1.read();
            seen += e.0;
        }
        assert!(seen == 3 || seen == 2, "the second entry was missed");
    });
    // SAFETY: the only writer.
    let dead = unsafe { list.hlist_del_rcu(|e| e.0 == 1) };
    drop(dead);
    rcu_barrier();
    t.join().unwrap();
}

#[test]
fn a_list_is_walked_while_it_loses_an_entry() {
    model(2, a_list_loses_an_entry);
}
