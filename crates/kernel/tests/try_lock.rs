//! A `try_lock` that fails must leave the lock with its holder.
//!
//! Interface: tests.
//! Linux counterpart: none; a guard that was made before it was earned, and dropped, once unlocked for somebody else.
//! Locks and context: one thread.

use sockeye_kernel::{Mutex, SpinLock};

#[test]
fn a_failed_try_lock_leaves_a_spinlock_held() {
    let lock = SpinLock::new(0);
    let held = lock.lock();
    assert!(lock.try_lock().is_none());
    assert!(lock.try_lock().is_none(), "the first failure must not have unlocked it");
    drop(held);
    assert!(lock.try_lock().is_some());
}

#[test]
fn a_failed_try_lock_leaves_a_mutex_held() {
    let lock = Mutex::new(0);
    let held = lock.lock();
    assert!(lock.try_lock().is_none());
    assert!(lock.try_lock().is_none(), "the first failure must not have unlocked it");
    drop(held);
    assert!(lock.try_lock().is_some());
}
