//! The ways to wait, on a real host: threads on a mutex, and a future on a wait queue.
//!
//! Interface: tests.
//! Linux counterpart: `kernel/locking/test-*.c`.
//! Locks and context: each test has a kernel of its own.

use kernel::{Mutex, Task, Wait, WaitQueueHead};
use sockeye_host::Host;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake};

#[test]
fn a_mutex_admits_one_and_wakes_the_next() {
    let host = Host::start(1).unwrap();
    let (count, inside) = (Arc::new(Mutex::new(0u64)), Arc::new(AtomicUsize::new(0)));
    const THREADS: u64 = 8;
    const ROUNDS: u64 = 5_000;
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (host, count, inside) = (host.clone(), count.clone(), inside.clone());
            std::thread::spawn(move || {
                let _inside = host.kernel().enter();
                for _ in 0..ROUNDS {
                    let mut n = count.lock();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    // The holder may give up the processor: that is what makes others sleep.
                    std::thread::yield_now();
                    *n += 1;
                    inside.fetch_sub(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert_eq!(*count.lock(), THREADS * ROUNDS);
    host.stop();
}

/// Counts how often a future was asked to be polled again.
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_future_sleeps_on_the_same_queue_and_leaves_it_when_dropped() {
    let (queue, ready) = (WaitQueueHead::new(), AtomicBool::new(false));
    let woken = Arc::new(Count(AtomicUsize::new(0)));
    let waker = woken.clone().into();
    let mut cx = Context::from_waker(&waker);
    let wait_for = || {
        let mut wait: Option<Wait> = None;
        let (queue, ready) = (&queue, &ready);
        poll_fn(move |cx: &mut Context<'_>| {
            let wait = wait.get_or_insert_with(|| Wait::new(Task::from_waker(cx.waker().clone())));
            wait.prepare_to_wait(queue);
            if ready.load(Ordering::SeqCst) {
                wait.finish_wait();
                return Poll::Ready(());
            }
            Poll::Pending
        })
    };
    {
        let mut dropped = pin!(wait_for());
        assert_eq!(dropped.as_mut().poll(&mut cx), Poll::Pending);
        assert!(queue.has_sleeper());
    }
    assert!(!queue.has_sleeper(), "dropping the wait removes its entry");
    let mut kept = pin!(wait_for());
    assert_eq!(kept.as_mut().poll(&mut cx), Poll::Pending);
    queue.wake_up(0);
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    assert_eq!(kept.as_mut().poll(&mut cx), Poll::Pending, "woken for nothing: it waits on");
    ready.store(true, Ordering::SeqCst);
    queue.wake_up(0);
    assert_eq!(woken.0.load(Ordering::SeqCst), 2);
    assert_eq!(kept.as_mut().poll(&mut cx), Poll::Ready(()));
    assert!(!queue.has_sleeper());
}
