//! A data race to be found: without one, ThreadSanitizer's silence about the other tests would say nothing.
//!
//! Interface: tests, in a build with `--cfg verify` (`cargo xtask verify tsan`). See `docs/verification.md`.
//! Linux counterpart: `kernel/kcsan/kcsan_test.c`.
//! Locks and context: two threads.
#![cfg(verify)]

use kernel::SpinLock;
use kernel::plant::{Plant, plant_from_env, planted};
use std::cell::UnsafeCell;
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

const ROUNDS: u32 = 10_000;

struct Counter {
    lock: SpinLock<()>,
    count: UnsafeCell<u32>,
}

// SAFETY: `add` takes the lock, unless the bug is planted.
unsafe impl Sync for Counter {}

impl Counter {
    fn add(&self) {
        let held = (!planted(Plant::PlainCounter)).then(|| self.lock.lock());
        // SAFETY: the lock is held. With the bug planted it is not: this is the race.
        unsafe { *self.count.get() += 1 };
        drop(held);
    }
}

#[test]
fn two_threads_count() {
    plant_from_env();
    let c = Counter { lock: SpinLock::new(()), count: UnsafeCell::new(0) };
    // Both are there from beginning to end, as ThreadSanitizer forgets what a thread did that has ended; and they meet by
    // atomics that order nothing, as a barrier would.
    let (begun, ended) = (AtomicU32::new(0), AtomicU32::new(0));
    let meet = |at: &AtomicU32| {
        at.fetch_add(1, Relaxed);
        while at.load(Relaxed) < 2 {
            std::thread::yield_now();
        }
    };
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                meet(&begun);
                (0..ROUNDS).for_each(|_| black_box(&c).add());
                meet(&ended);
            });
        }
    });
    assert_eq!(c.count.into_inner(), 2 * ROUNDS);
}
