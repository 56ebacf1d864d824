//! Task states, signals and wait queues: who is woken by what, in which order, and that no wake-up is lost.
//!
//! Interface: tests.
//! Linux counterpart: `kernel/sched/wait.c`, `kernel/sched/core.c` (`try_to_wake_up`).
//! Locks and context: tasks are counters, closures, futures and threads.

mod common;

use common::{Log, ThreadArch, until};
use sockeye_kernel::task::*;
use sockeye_kernel::{Wait, WaitQueueEntry, WaitQueueHead};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use uapi::Errno;

/// A task that counts how often it was made to run.
fn counted() -> (Arc<Task>, Arc<AtomicUsize>) {
    let n = Arc::new(AtomicUsize::new(0));
    let m = n.clone();
    let task = Task::from_fn(move || {
        m.fetch_add(1, SeqCst);
    });
    (task, n)
}

const STATES: [u32; 4] = [TASK_RUNNING, TASK_INTERRUPTIBLE, TASK_UNINTERRUPTIBLE, TASK_KILLABLE];

#[test]
fn a_wake_up_reaches_the_states_of_its_mask_only() {
    //                          running  interr.  uninterr. killable
    let table = [
        (TASK_NORMAL, [false, true, true, true]),
        (TASK_INTERRUPTIBLE, [false, true, false, false]),
        (TASK_UNINTERRUPTIBLE, [false, false, true, true]),
        (TASK_WAKEKILL, [false, false, false, true]),
        (TASK_INTERRUPTIBLE | TASK_WAKEKILL, [false, true, false, true]),
        (0, [false, false, false, false]),
    ];
    for (mask, expected) in table {
        for (state, wakes) in STATES.into_iter().zip(expected) {
            let (task, n) = counted();
            task.set_state(state);
            assert_eq!(task.try_to_wake_up(mask, 0), wakes, "mask {mask:#x}, state {state:#x}");
            assert_eq!(task.state(), if wakes { TASK_RUNNING } else { state });
            assert_eq!(n.load(SeqCst), wakes as usize);
            assert!(!task.try_to_wake_up(mask, 0) || !wakes, "woken once");
        }
    }
}

#[test]
fn signals_end_the_sleeps_they_may_end() {
    //                    running  interr.  uninterr. killable
    let ordinary = [false, true, false, false];
    let fatal = [false, true, false, true];
    for (kill, expected) in [(false, ordinary), (true, fatal)] {
        for (state, ends) in STATES.into_iter().zip(expected) {
            let what = format!("kill {kill}, state {state:#x}");
            let send = |t: &Task| if kill { t.send_sig_kill() } else { t.send_signal() };
            let (task, n) = counted();
            task.set_state(state);
            send(&task);
            assert_eq!(n.load(SeqCst), ends as usize, "{what}");
            assert_eq!(task.signal_pending_state(state), ends, "{what}");
            // The other order: the signal finds the task running, then it goes to sleep.
            let (task, _) = counted();
            send(&task);
            task.set_state(state);
            assert_eq!(task.try_to_block_task(), state != TASK_RUNNING && !ends, "{what}");
            assert!(task.signal_pending());
            assert_eq!(task.fatal_signal_pending(), kill);
        }
    }
}

#[test]
fn an_ordinary_signal_is_taken_and_a_fatal_one_stays() {
    let (task, _) = counted();
    assert!(!task.clear_signal());
    task.send_signal();
    assert!(task.clear_signal());
    assert!(!task.signal_pending());
    task.send_sig_kill();
    assert!(task.clear_signal());
    assert!(task.fatal_signal_pending());
    task.flush_signals();
    assert!(!task.signal_pending());
}

#[test]
fn an_interruptible_wake_up_leaves_the_others_asleep_and_queued() {
    let q = WaitQueueHead::new();
    let sleepers: Vec<_> = (0..3).map(|_| counted()).collect();
    let mut waits: Vec<_> = sleepers.iter().map(|(t, _)| Wait::new(t.clone())).collect();
    waits[0].prepare_to_wait(&q);
    waits[1].prepare_to_wait_killable(&q);
    waits[2].prepare_to_wait_uninterruptible(&q);
    let woken = || sleepers.iter().map(|(_, n)| n.load(SeqCst)).collect::<Vec<_>>();
    q.wake_up_interruptible(0);
    assert_eq!(woken(), [1, 0, 0]);
    assert_eq!(q.nr_sleepers(), 2, "who was not woken is still queued");
    q.wake_up_interruptible_all(0);
    assert_eq!(woken(), [1, 0, 0]);
    q.wake_up(0);
    assert_eq!(woken(), [1, 1, 1]);
    assert!(!q.has_sleeper());
}

#[test]
fn a_waiter_that_cannot_be_woken_does_not_use_the_wake_up_up() {
    let q = WaitQueueHead::new();
    let (a, b) = (counted(), counted());
    let (mut wa, mut wb) = (Wait::new(a.0.clone()), Wait::new(b.0.clone()));
    wa.prepare_to_wait_exclusive(&q);
    wb.prepare_to_wait_exclusive(&q);
    // Something else has woken the first one; it has yet to see to its queue.
    a.0.wake_up_process();
    q.wake_up(0);
    assert_eq!(b.1.load(SeqCst), 1);
    assert_eq!(q.nr_sleepers(), 1);
}

#[test]
fn n_events_wake_n_of_a_thousand_in_order() {
    let q = WaitQueueHead::new();
    let log = Log::default();
    let mut waits: Vec<_> = (0..1000)
        .map(|i| {
            let log = log.clone();
            Wait::new(Task::from_fn(move || log.add(i.to_string())))
        })
        .collect();
    waits.iter_mut().for_each(|w| w.prepare_to_wait_exclusive(&q));
    for _ in 0..10 {
        q.wake_up(0);
    }
    q.wake_up_nr(27, 0);
    let expected: Vec<_> = (0..37).map(|i: u32| i.to_string()).collect();
    assert_eq!(log.take(), expected);
    assert_eq!(q.nr_sleepers(), 963);
    // Those who have had their event end; nobody else is disturbed.
    waits.drain(..37).for_each(|mut w| w.finish_wait());
    assert_eq!(log.len(), 0);
    q.wake_up_all(0);
    assert_eq!(log.len(), 963);
    assert!(!q.has_sleeper());
}

#[test]
fn a_waiter_that_leaves_with_its_wake_up_passes_it_on() {
    type Leave = fn(&mut Wait);
    let leaves: [(&str, Leave); 3] = [
        ("drop", |w| drop(std::mem::replace(w, Wait::new(Task::from_fn(|| ()))))),
        ("abort", |w| w.abort_exclusive_wait()),
        ("reset", |w| w.reset()),
    ];
    for (how, leave) in leaves {
        let q = WaitQueueHead::new();
        let tasks: Vec<_> = (0..4).map(|_| counted()).collect();
        let mut waits: Vec<_> = tasks.iter().map(|(t, _)| Wait::new(t.clone())).collect();
        waits.iter_mut().for_each(|w| w.prepare_to_wait_exclusive(&q));
        let woken = || tasks.iter().map(|(_, n)| n.load(SeqCst)).collect::<Vec<_>>();
        q.wake_up(0);
        leave(&mut waits[0]);
        assert_eq!(woken(), [1, 1, 0, 0], "{how}: woken and gone, so the next one gets it");
        waits[1].finish_wait();
        assert_eq!(woken(), [1, 1, 0, 0], "{how}: used up");
        leave(&mut waits[2]);
        assert_eq!(woken(), [1, 1, 0, 0], "{how}: had nothing to pass on");
        assert_eq!(q.nr_sleepers(), 1);
    }
}

#[test]
fn a_wake_up_that_was_looked_at_is_not_passed_on() {
    let q = WaitQueueHead::new();
    let (a, b) = (counted(), counted());
    let (mut wa, mut wb) = (Wait::new(a.0), Wait::new(b.0));
    wa.prepare_to_wait_exclusive(&q);
    wb.prepare_to_wait_exclusive(&q);
    q.wake_up(0);
    // It looked, found nothing (somebody was faster), and sleeps again.
    wa.prepare_to_wait_exclusive(&q);
    drop(wa);
    assert_eq!(b.1.load(SeqCst), 0);
}

#[test]
fn a_signal_and_a_wake_up_at_once_lose_neither() {
    let q = WaitQueueHead::new();
    let (a, b) = (counted(), counted());
    let (mut wa, mut wb) = (Wait::new(a.0.clone()), Wait::new(b.0));
    assert_eq!(wa.prepare_to_wait_event(&q, TASK_INTERRUPTIBLE, true), Ok(()));
    assert_eq!(wb.prepare_to_wait_event(&q, TASK_INTERRUPTIBLE, true), Ok(()));
    q.wake_up(0);
    a.0.send_signal();
    assert_eq!(wa.prepare_to_wait_event(&q, TASK_INTERRUPTIBLE, true), Err(Errno::ERESTARTSYS));
    assert_eq!(b.1.load(SeqCst), 0, "its condition may be true: it decides");
    wa.abort_exclusive_wait();
    assert_eq!(b.1.load(SeqCst), 1);
}

#[test]
fn keys_select_among_waiters_and_reach_callbacks() {
    let q = WaitQueueHead::new();
    let seen = Log::default();
    let log = seen.clone();
    let callback = WaitQueueEntry::callback(move |key| {
        log.add(key.to_string());
        false
    });
    q.add(&callback);
    let (a, b) = (counted(), counted());
    let (mut wa, mut wb) = (Wait::new(a.0), Wait::new(b.0));
    wa.set_key(1);
    wa.prepare_to_wait_exclusive(&q);
    wb.set_key(4);
    wb.prepare_to_wait_exclusive(&q);
    q.wake_up_interruptible_sync_poll(4 | 8);
    assert_eq!((a.1.load(SeqCst), b.1.load(SeqCst)), (0, 1));
    q.wake_up(0);
    assert_eq!(a.1.load(SeqCst), 1, "no key is every event");
    q.wake_up(2);
    assert_eq!(seen.take(), ["12", "0", "2"], "a callback stays, and sees every event");
    q.remove(&callback);
    assert!(!q.has_sleeper());
}

#[test]
fn an_entry_with_the_default_wake_function_stays() {
    let q = WaitQueueHead::new();
    let (task, n) = counted();
    let e = WaitQueueEntry::for_task_staying(task.clone());
    q.add_exclusive(&e);
    q.add_exclusive(&e);
    for round in 1..4 {
        task.set_state(TASK_INTERRUPTIBLE);
        q.wake_up(0);
        assert_eq!(n.load(SeqCst), round);
        assert!(e.is_queued());
    }
    assert_eq!(q.nr_sleepers(), 1, "added twice, queued once");
    q.remove(&e);
    q.remove(&e);
    assert!(!e.is_queued());
}

#[test]
fn entries_leave_from_anywhere_in_the_queue() {
    let q = WaitQueueHead::new();
    let log = Log::default();
    let mut waits: Vec<_> = (0..6)
        .map(|i| {
            let log = log.clone();
            Some(Wait::new(Task::from_fn(move || log.add(i.to_string()))))
        })
        .collect();
    waits.iter_mut().flatten().for_each(|w| w.prepare_to_wait_exclusive(&q));
    for gone in [0, 3, 5] {
        waits[gone] = None;
    }
    q.wake_up_all(0);
    assert_eq!(log.take(), ["1", "2", "4"]);
}

#[test]
fn a_queue_that_goes_before_its_waiters_leaves_them_whole() {
    let (task, n) = counted();
    let e = WaitQueueEntry::for_task(task.clone());
    let mut wait = Wait::new(task);
    {
        let q = WaitQueueHead::new();
        q.add(&e);
        wait.prepare_to_wait(&q);
    }
    let other = WaitQueueHead::new();
    wait.prepare_to_wait(&other);
    other.wake_up(0);
    assert_eq!(n.load(SeqCst), 1);
}

/// A long queue of callbacks and tasks is woken in pieces; every piece is found, whoever comes or goes in between.
#[test]
fn a_long_wake_up_reaches_everybody_once() {
    let q = Arc::new(WaitQueueHead::new());
    let calls = Arc::new(AtomicUsize::new(0));
    let callbacks: Vec<_> = (0..500)
        .map(|i| {
            let calls = calls.clone();
            let e = WaitQueueEntry::callback(move |_| {
                calls.fetch_add(1, SeqCst);
                true
            });
            if i % 2 == 0 {
                q.add(&e)
            } else {
                q.add_exclusive(&e)
            }
            e
        })
        .collect();
    let tasks: Vec<_> = (0..300).map(|_| counted()).collect();
    let mut waits: Vec<_> = tasks.iter().map(|(t, _)| Wait::new(t.clone())).collect();
    for (i, w) in waits.iter_mut().enumerate() {
        if i % 2 == 0 { w.prepare_to_wait(&q) } else { w.prepare_to_wait_exclusive(&q) }
    }
    assert_eq!(q.nr_sleepers(), 800);
    q.wake_up_all(0);
    assert_eq!(calls.load(SeqCst), 500);
    assert!(tasks.iter().all(|(_, n)| n.load(SeqCst) == 1));
    assert_eq!(q.nr_sleepers(), 500, "no mark is left behind, and none was counted");
    q.wake_up(0);
    assert_eq!(calls.load(SeqCst), 751, "the non-exclusive half, and one");
    for e in &callbacks {
        q.remove(e);
    }
    assert!(!q.has_sleeper());
}

#[test]
fn long_wake_ups_and_leaving_waiters_at_once() {
    let q = Arc::new(WaitQueueHead::new());
    let stop = Arc::new(AtomicBool::new(false));
    let stayers: Vec<_> = (0..200).map(|_| WaitQueueEntry::callback(|_| true)).collect();
    stayers.iter().for_each(|e| q.add_exclusive(e));
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| (0..if cfg!(miri) { 3 } else { 500 }).for_each(|_| q.wake_up_all(0)));
        }
        let churn = s.spawn(|| {
            while !stop.load(SeqCst) {
                let mut waits: Vec<_> = (0..70).map(|_| Wait::new(counted().0)).collect();
                waits.iter_mut().for_each(|w| w.prepare_to_wait_exclusive(&q));
                for e in &stayers[..100] {
                    q.remove(e);
                    q.add_exclusive(e);
                }
            }
        });
        for _ in 0..if cfg!(miri) { 3 } else { 500 } {
            q.wake_up_all(0);
        }
        stop.store(true, SeqCst);
        churn.join().unwrap();
    });
    stayers.iter().for_each(|e| q.remove(e));
    assert!(!q.has_sleeper());
}

/// Some wait until they have an event, others give up all the time: just when they are woken, too. Each event must still
/// reach one who stays; a lost wake-up ends this test by its time limit.
#[test]
fn who_gives_up_costs_no_event() {
    let (q, arch) = (WaitQueueHead::new(), ThreadArch::new());
    let (event, taken, over) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let take = || event.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok();
    let rounds = if cfg!(miri) { 20 } else { 2_000 };
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                let all = || over.load(SeqCst) || take();
                while !over.load(SeqCst) {
                    let r = sockeye_kernel::sleep_timeout::wait_event_interruptible_exclusive(&*arch, &q, all);
                    assert_eq!(r, Ok(()));
                    taken.fetch_add(1, SeqCst);
                }
            });
        }
        for patience in [0, 20] {
            let (q, over) = (&q, &over);
            s.spawn(move || {
                while !over.load(SeqCst) {
                    let mut wait = Wait::new(counted().0);
                    wait.prepare_to_wait_exclusive(q);
                    (0..patience).for_each(|_| std::hint::spin_loop());
                }
            });
        }
        for n in 0..rounds {
            event.fetch_add(1, SeqCst);
            q.wake_up(0);
            until(|| taken.load(SeqCst) > n);
        }
        over.store(true, SeqCst);
        q.wake_up_all(0);
    });
}

/// A future's waker that logs.
struct Named(Log);

impl Wake for Named {
    fn wake(self: Arc<Self>) {
        self.0.add("future")
    }
}

/// A simulated task, for the queue's purposes: what its CPU's run queue would be told.
struct Simulated(Log);

impl Runnable for Simulated {
    fn wake(&self) {
        self.0.add("simulated task")
    }
    fn wake_sync(&self) {
        self.0.add("simulated task, no hurry")
    }
}

#[test]
fn four_ways_to_sleep_on_one_queue() {
    let q = Arc::new(WaitQueueHead::new());
    let log = Log::default();
    let arch = ThreadArch::new();
    let event = Arc::new(AtomicUsize::new(0));
    let take = |event: &AtomicUsize| event.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok();

    let thread = std::thread::spawn({
        let (q, log, arch, event) = (q.clone(), log.clone(), arch.clone(), event.clone());
        move || {
            let r = sockeye_kernel::sleep_timeout::wait_event_interruptible_exclusive(&*arch, &q, || take(&event));
            log.add("thread");
            r
        }
    });
    until(|| q.nr_sleepers() == 1);

    let waker: Waker = Arc::new(Named(log.clone())).into();
    let mut cx = Context::from_waker(&waker);
    let mut wait = Wait::new(Task::from_waker(waker.clone()));
    let mut future = pin!(poll_fn(|_| {
        sockeye_kernel::sleep_timeout::poll_event(&mut wait, &q, TASK_INTERRUPTIBLE, true, || take(&event))
    }));
    assert!(future.as_mut().poll(&mut cx).is_pending());

    let parked = log.clone();
    let mut call = Wait::new(Task::from_fn(move || parked.add("parked call")));
    call.prepare_to_wait_exclusive(&q);
    let mut simulated = Wait::new(Task::new(Box::new(Simulated(log.clone()))));
    simulated.prepare_to_wait_exclusive(&q);

    event.store(1, SeqCst);
    q.wake_up(0);
    assert_eq!(thread.join().unwrap(), Ok(()));
    assert_eq!(log.take(), ["thread"]);
    event.store(1, SeqCst);
    q.wake_up(0);
    assert_eq!(log.take(), ["future"]);
    assert_eq!(future.as_mut().poll(&mut cx), Poll::Ready(Ok(())));
    q.wake_up(0);
    assert_eq!(log.take(), ["parked call"]);
    q.wake_up_interruptible_sync_poll(0);
    assert_eq!(log.take(), ["simulated task, no hurry"]);
    assert!(!q.has_sleeper());
}
