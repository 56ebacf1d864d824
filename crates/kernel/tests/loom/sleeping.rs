//! Models of the locks whose waiters sleep, of the reader-writer spinlock and of the sequence lock.
//!
//! Interface: tests.
//! Linux counterpart: `kernel/locking/locktorture.c`.
//! Locks and context: loom's threads.

use crate::harness::{LoomArch, model};
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use sockeye_kernel::plant::{Plant, finds};
use sockeye_kernel::task::TASK_UNINTERRUPTIBLE;
use sockeye_kernel::wait::block_on;
use sockeye_kernel::{Arch, Completion, Mutex, RwLock, RwSemaphore, Semaphore, SeqLock, Wait};
use std::sync::Arc;

fn down(s: &Semaphore) {
    block_on(&LoomArch, |w| s.poll_down(w, TASK_UNINTERRUPTIBLE)).unwrap()
}

fn one_place_for_two() {
    let s = Arc::new(Semaphore::new(1));
    let inside = Arc::new(AtomicUsize::new(0));
    let enter = |s: Arc<Semaphore>, inside: Arc<AtomicUsize>| {
        move || {
            down(&s);
            assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0);
            inside.fetch_sub(1, Ordering::Relaxed);
            s.up();
        }
    };
    let t = thread::spawn(enter(s.clone(), inside.clone()));
    enter(s.clone(), inside)();
    t.join().unwrap();
    assert_eq!((s.count(), s.sleepers()), (1, 0));
}

#[test]
fn a_semaphore_admits_as_many_as_it_has_places() {
    model(2, one_place_for_two);
}

fn a_place_is_given_back() {
    let s = Arc::new(Semaphore::new(0));
    let sem = s.clone();
    let t = thread::spawn(move || down(&sem));
    s.up();
    t.join().unwrap();
}

#[test]
fn a_place_given_back_is_never_missed() {
    model(3, a_place_is_given_back);
}

#[test]
fn an_up_that_looks_for_sleepers_too_early_forgets_one() {
    let name = "sleeping::an_up_that_looks_for_sleepers_too_early_forgets_one";
    finds(name, Plant::SemaphoreUpEarly, &["deadlock"], || model(3, a_place_is_given_back));
}

/// One waits, one gives up just when the place comes.
#[test]
fn a_waiter_that_gives_up_leaves_the_place_to_the_other() {
    model(2, || {
        let s = Arc::new(Semaphore::new(0));
        let (a, b) = (s.clone(), s.clone());
        let threads = [
            thread::spawn(move || down(&a)),
            thread::spawn(move || {
                let mut w = Wait::new(LoomArch.current());
                if b.poll_down(&mut w, TASK_UNINTERRUPTIBLE).is_ready() {
                    b.up();
                }
            }),
        ];
        s.up();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(s.count(), 0);
    });
}

#[test]
fn a_mutex_is_exclusive_and_forgets_no_waiter() {
    model(2, || {
        let m = Arc::new(Mutex::new(0));
        let add = |m: &Mutex<i32>| *block_on(&LoomArch, |w| m.poll_lock(w, TASK_UNINTERRUPTIBLE)).unwrap() += 1;
        let other = m.clone();
        let t = thread::spawn(move || add(&other));
        add(&m);
        t.join().unwrap();
        assert_eq!(*m.try_lock().unwrap(), 2);
    });
}

#[test]
fn a_completion_is_never_missed() {
    model(3, || {
        let c = Arc::new(Completion::new());
        let done = c.clone();
        let t = thread::spawn(move || done.complete());
        block_on(&LoomArch, |w| c.poll_completion(w, TASK_UNINTERRUPTIBLE)).unwrap();
        t.join().unwrap();
        assert!(!c.completion_done());
    });
}

#[test]
fn a_rwsem_forgets_no_waiter() {
    model(2, || {
        let s = Arc::new(RwSemaphore::new(0));
        let writer = s.clone();
        let t = thread::spawn(move || {
            *block_on(&LoomArch, |w| writer.poll_down_write(w, TASK_UNINTERRUPTIBLE)).unwrap() += 1;
        });
        let seen = *block_on(&LoomArch, |w| s.poll_down_read(w, TASK_UNINTERRUPTIBLE)).unwrap();
        assert!(seen <= 1);
        t.join().unwrap();
        assert_eq!(*s.down_read_trylock().unwrap(), 1);
    });
}

#[test]
fn a_rwlock_keeps_readers_and_writers_apart() {
    model(2, || {
        let l = Arc::new(RwLock::new((0, 0)));
        let writer = l.clone();
        let t = thread::spawn(move || {
            let mut w = writer.write();
            w.0 += 1;
            w.1 += 1;
        });
        {
            let r = l.read();
            assert_eq!(r.0, r.1);
        }
        t.join().unwrap();
        assert_eq!(*l.read(), (1, 1));
    });
}

#[test]
fn a_seqlock_gives_no_torn_copy() {
    model(2, || {
        let l = Arc::new(SeqLock::new((0u32, 0u32)));
        let writer = l.clone();
        // Not `write`, which reads first: of a thread that reads and then writes, loom forgets who read before.
        let t = thread::spawn(move || writer.set((1, 1)));
        let v = l.read();
        assert_eq!(v.0, v.1);
        t.join().unwrap();
        assert_eq!(l.read(), (1, 1));
    });
}
