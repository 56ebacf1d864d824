//! Spinlock models.
//!
//! Interface: tests.
//! Linux counterpart: `kernel/locking/locktorture.c`.
//! Locks and context: loom's threads.

use crate::harness::model;
use loom::thread;
use sockeye_kernel::SpinLock;
use sockeye_kernel::plant::{Plant, finds};
use std::sync::Arc;

/// Two threads that each count once under the lock. The lock's witness reports an access that nothing orders.
fn two_count() {
    let lock = Arc::new(SpinLock::new(0));
    let other = lock.clone();
    let t = thread::spawn(move || *other.lock() += 1);
    *lock.lock() += 1;
    t.join().unwrap();
    assert_eq!(*lock.lock(), 2);
}

#[test]
fn holders_exclude_and_see_each_other() {
    model(3, two_count);
}

#[test]
fn an_unlock_without_release_is_found() {
    let name = "spinlock::an_unlock_without_release_is_found";
    finds(name, Plant::SpinUnlockRelaxed, &["Causality violation", "Concurrent"], || model(3, two_count));
}

#[test]
fn three_threads_are_served() {
    model(2, || {
        let lock = Arc::new(SpinLock::new(0));
        let others = [lock.clone(), lock.clone()];
        let threads = others.map(|l| thread::spawn(move || *l.lock_irqsave() += 1));
        *lock.lock_bh() += 1;
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(*lock.lock(), 3);
    });
}

#[test]
fn a_try_lock_gets_the_lock_or_leaves_it_alone() {
    model(3, || {
        let lock = Arc::new(SpinLock::new(0));
        let other = lock.clone();
        let t = thread::spawn(move || match other.try_lock() {
            Some(mut g) => {
                *g += 1;
                1
            }
            None => 0,
        });
        *lock.lock() += 1;
        let tried = t.join().unwrap();
        assert_eq!(*lock.lock(), 1 + tried);
        assert!(!lock.is_locked());
    });
}
