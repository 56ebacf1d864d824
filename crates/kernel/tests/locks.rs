//! The locks whose waiters sleep, and those that many may hold: order, errors, time limits, and waiters that leave.
//!
//! Interface: tests.
//! Linux counterpart: `kernel/locking/locktorture.c`, `lib/locking-selftest.c`.
//! Locks and context: threads inside a kernel; waiters polled by hand, as a future's or a parked call's are.

mod common;

use common::{Log, ThreadArch, until};
use sockeye_kernel::task::*;
use sockeye_kernel::{Arch, Completion, Kernel, Mutex, RwLock, RwSemaphore, Semaphore, SeqLock, Wait};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::task::Poll;
use std::thread::JoinHandle;
use uapi::Errno;

/// A kernel whose tasks are threads.
struct Machine {
    kernel: Arc<Kernel>,
    arch: Arc<ThreadArch>,
}

impl Machine {
    fn new() -> Machine {
        let arch = ThreadArch::new();
        Machine { kernel: Kernel::new(arch.clone(), 1), arch }
    }

    /// A thread inside the kernel, and its task.
    fn spawn<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> (JoinHandle<T>, Arc<Task>) {
        let (kernel, (tx, rx)) = (self.kernel.clone(), channel());
        let t = std::thread::spawn(move || {
            let _inside = kernel.enter();
            tx.send(kernel.arch().current()).unwrap();
            f()
        });
        (t, rx.recv().unwrap())
    }
}

fn waiter() -> Wait {
    Wait::new(Task::from_fn(|| ()))
}

const ROUNDS: usize = if cfg!(miri) { 10 } else { 2_000 };

// --- Semaphore ---

#[test]
fn a_semaphore_has_as_many_places_as_it_was_given() {
    let s = Semaphore::new(2);
    assert!(s.down_trylock() && s.down_trylock() && !s.down_trylock());
    s.up();
    assert_eq!(s.count(), 1);
    {
        let _place = s.acquire();
        assert!(!s.down_trylock());
    }
    assert!(s.down_trylock());
    assert_eq!(s.down_timeout(5), Err(Errno::ETIME), "outside every kernel there is no time to wait");
}

#[test]
fn a_semaphore_is_handed_on_in_the_order_of_arrival() {
    let m = Machine::new();
    let (s, log) = (Arc::new(Semaphore::new(0)), Log::default());
    let threads: Vec<_> = (0..8)
        .map(|i| {
            let (sem, l) = (s.clone(), log.clone());
            let t = m.spawn(move || {
                sem.down();
                l.add(i.to_string());
            });
            until(|| s.sleepers() == i + 1);
            t.0
        })
        .collect();
    for i in 0..8 {
        s.up();
        until(|| log.len() == i + 1);
    }
    assert_eq!(log.take(), ["0", "1", "2", "3", "4", "5", "6", "7"]);
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert_eq!((s.count(), s.sleepers()), (0, 0));
}

#[test]
fn a_place_is_not_taken_from_under_a_waiters_nose() {
    let s = Semaphore::new(0);
    let (mut first, mut second) = (waiter(), waiter());
    assert!(s.poll_down(&mut first, TASK_INTERRUPTIBLE).is_pending());
    s.up();
    assert!(!s.down_trylock(), "it is the waiter's, though it has yet to come for it");
    assert!(s.poll_down(&mut second, TASK_INTERRUPTIBLE).is_pending());
    assert!(s.poll_down(&mut first, TASK_INTERRUPTIBLE).is_ready());
    s.up();
    assert!(s.poll_down(&mut second, TASK_INTERRUPTIBLE).is_ready());
}

#[test]
fn two_places_given_back_at_once_serve_two() {
    let s = Semaphore::new(0);
    let (mut first, mut second) = (waiter(), waiter());
    assert!(s.poll_down(&mut first, TASK_INTERRUPTIBLE).is_pending());
    assert!(s.poll_down(&mut second, TASK_INTERRUPTIBLE).is_pending());
    s.up();
    s.up();
    assert_eq!(second.task().state(), TASK_INTERRUPTIBLE);
    assert!(s.poll_down(&mut first, TASK_INTERRUPTIBLE).is_ready());
    assert_eq!(second.task().state(), TASK_RUNNING, "the first tells the second");
    assert!(s.poll_down(&mut second, TASK_INTERRUPTIBLE).is_ready());
}

#[test]
fn a_waiter_that_leaves_with_its_place_leaves_it_to_the_next() {
    type Leave = fn(&Semaphore, Wait);
    let leaves: [(&str, Leave); 2] = [
        ("dropped", |_, w| drop(w)),
        ("interrupted too late", |s, mut w| {
            w.task().send_signal();
            assert_eq!(s.poll_down(&mut w, TASK_INTERRUPTIBLE), Poll::Ready(Ok(())), "what one has one keeps");
            s.up();
        }),
    ];
    for (how, leave) in leaves {
        let s = Semaphore::new(0);
        let (mut first, mut second) = (waiter(), waiter());
        assert!(s.poll_down(&mut first, TASK_INTERRUPTIBLE).is_pending());
        assert!(s.poll_down(&mut second, TASK_INTERRUPTIBLE).is_pending());
        s.up();
        leave(&s, first);
        assert_eq!(second.task().state(), TASK_RUNNING, "{how}");
        assert!(s.poll_down(&mut second, TASK_INTERRUPTIBLE).is_ready(), "{how}");
    }
    let s = Semaphore::new(0);
    let mut only = waiter();
    assert!(s.poll_down(&mut only, TASK_INTERRUPTIBLE).is_pending());
    s.up();
    drop(only);
    assert!(s.down_trylock(), "nobody waits any more");
}

#[test]
fn signals_end_the_downs_they_may_end() {
    let m = Machine::new();
    let s = Arc::new(Semaphore::new(0));
    let asleep = |n| until(|| s.sleepers() == n);
    let spawn = |f: fn(&Semaphore) -> uapi::Result<()>| {
        let s = s.clone();
        m.spawn(move || f(&s))
    };

    let (t, task) = spawn(|s| s.down_interruptible());
    asleep(1);
    task.send_signal();
    assert_eq!(t.join().unwrap(), Err(Errno::EINTR));

    let (t, task) = spawn(|s| s.down_killable());
    asleep(1);
    task.send_signal();
    assert_eq!(task.state(), TASK_KILLABLE);
    task.send_sig_kill();
    assert_eq!(t.join().unwrap(), Err(Errno::EINTR));

    let (t, task) = spawn(|s| {
        s.down();
        Ok(())
    });
    asleep(1);
    task.send_sig_kill();
    assert_eq!(task.state(), TASK_UNINTERRUPTIBLE);
    assert_eq!(s.sleepers(), 1);
    s.up();
    assert_eq!(t.join().unwrap(), Ok(()));
    assert_eq!((s.count(), s.sleepers()), (0, 0));
}

#[test]
fn a_down_with_a_time_limit() {
    let m = Machine::new();
    let s = Arc::new(Semaphore::new(0));
    let wait = |jiffies| {
        let sem = s.clone();
        let t = m.spawn(move || sem.down_timeout(jiffies)).0;
        until(|| m.arch.waits_for_time() > 0);
        t
    };
    let t = wait(10);
    m.arch.advance(9);
    until(|| m.arch.waits_for_time() > 0);
    assert_eq!(s.sleepers(), 1, "not a jiffy early");
    m.arch.advance(1);
    assert_eq!(t.join().unwrap(), Err(Errno::ETIME));
    assert_eq!(s.sleepers(), 0);
    let t = wait(10);
    s.up();
    assert_eq!(t.join().unwrap(), Ok(()));
}

#[test]
fn up_from_where_interrupts_are_off() {
    let m = Machine::new();
    let s = Arc::new(Semaphore::new(0));
    let sem = s.clone();
    let (t, _) = m.spawn(move || sem.down());
    until(|| s.sleepers() == 1);
    {
        let _irq = sockeye_kernel::cpu::local_irq_save();
        s.up();
    }
    t.join().unwrap();
}

/// A sleeper gives its CPU up, as everywhere: otherwise nobody could come in to wake these.
#[test]
fn more_tasks_sleep_in_a_kernel_than_it_has_cpus() {
    let m = Machine::new();
    let s = Arc::new(Semaphore::new(0));
    const SLEEPERS: usize = 80;
    let threads: Vec<_> = (0..SLEEPERS)
        .map(|i| {
            let sem = s.clone();
            let t = m.spawn(move || sem.down()).0;
            until(|| s.sleepers() == i + 1);
            t
        })
        .collect();
    let sem = s.clone();
    m.spawn(move || (0..SLEEPERS).for_each(|_| sem.up())).0.join().unwrap();
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert_eq!((s.count(), s.sleepers()), (0, 0));
}

#[test]
fn no_more_are_inside_than_there_are_places() {
    let m = Machine::new();
    let (s, inside, most) = (Arc::new(Semaphore::new(3)), Arc::new(AtomicI32::new(0)), Arc::new(AtomicI32::new(0)));
    let threads: Vec<_> = (0..6)
        .map(|i| {
            let (s, inside, most) = (s.clone(), inside.clone(), most.clone());
            let f = move || {
                for r in 0..ROUNDS {
                    s.down();
                    most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
                    if (r + i) % 8 == 0 {
                        std::thread::yield_now();
                    }
                    inside.fetch_sub(1, SeqCst);
                    s.up();
                }
            };
            m.spawn(f).0
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert!(most.load(SeqCst) <= 3);
    assert_eq!((s.count(), s.sleepers()), (3, 0));
}

// --- Mutex ---

#[test]
fn signals_end_the_waits_for_a_mutex_they_may_end() {
    let m = Machine::new();
    let lock = Arc::new(Mutex::new(0));
    let held = lock.lock();
    let spawn = |f: fn(&Mutex<i32>) -> uapi::Result<()>| {
        let lock = lock.clone();
        m.spawn(move || f(&lock))
    };
    let asleep = |task: &Task, state| until(|| task.state() == state);

    let (t, task) = spawn(|l| l.lock_interruptible().map(drop));
    asleep(&task, TASK_INTERRUPTIBLE);
    task.send_signal();
    assert_eq!(t.join().unwrap(), Err(Errno::EINTR));

    let (t, task) = spawn(|l| l.lock_killable().map(drop));
    asleep(&task, TASK_KILLABLE);
    task.send_signal();
    assert_eq!(task.state(), TASK_KILLABLE);
    task.send_sig_kill();
    assert_eq!(t.join().unwrap(), Err(Errno::EINTR));

    let (t, task) = spawn(|l| {
        *l.lock() += 1;
        Ok(())
    });
    asleep(&task, TASK_UNINTERRUPTIBLE);
    task.send_sig_kill();
    assert_eq!(task.state(), TASK_UNINTERRUPTIBLE);
    drop(held);
    assert_eq!(t.join().unwrap(), Ok(()));
    assert_eq!(*lock.lock(), 1);
}

#[test]
fn a_mutex_is_handed_to_a_waiter_that_lost_it_once() {
    let lock = Mutex::new(());
    let mut w = waiter();
    let held = lock.lock();
    assert!(lock.poll_lock(&mut w, TASK_UNINTERRUPTIBLE).is_pending());
    drop(held);
    assert_eq!(w.task().state(), TASK_RUNNING, "told that it is free");
    let thief = lock.try_lock().expect("a newcomer may be faster, once");
    assert!(lock.poll_lock(&mut w, TASK_UNINTERRUPTIBLE).is_pending());
    drop(thief);
    assert!(lock.try_lock().is_none(), "from now on it is the waiter's");
    assert!(lock.poll_lock(&mut w, TASK_UNINTERRUPTIBLE).is_ready());
    assert!(lock.try_lock().is_some(), "and everybody's again");
}

#[test]
fn a_mutex_handed_to_a_waiter_that_leaves_is_the_next_ones() {
    for others in [0, 1] {
        let lock = Mutex::new(());
        let (mut first, mut second) = (waiter(), waiter());
        let held = lock.lock();
        for _ in 0..2 {
            assert!(lock.poll_lock(&mut first, TASK_INTERRUPTIBLE).is_pending());
        }
        if others == 1 {
            assert!(lock.poll_lock(&mut second, TASK_INTERRUPTIBLE).is_pending());
        }
        drop(held);
        drop(first);
        if others == 1 {
            assert_eq!(second.task().state(), TASK_RUNNING);
            assert!(lock.poll_lock(&mut second, TASK_INTERRUPTIBLE).is_ready());
        } else {
            assert!(lock.try_lock().is_some(), "nobody is left to claim it");
        }
    }
}

#[test]
fn a_mutex_admits_one_at_a_time() {
    let m = Machine::new();
    let lock = Arc::new(Mutex::new(0usize));
    let threads: Vec<_> = (0..4)
        .map(|i| {
            let lock = lock.clone();
            let f = move || {
                for r in 0..ROUNDS {
                    let mut n = lock.lock();
                    let before = *n;
                    if (r + i) % 8 == 0 {
                        std::thread::yield_now();
                    }
                    *n = before + 1;
                }
            };
            m.spawn(f).0
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert_eq!(*lock.lock(), 4 * ROUNDS);
}

// --- Completion ---

#[test]
fn a_completion_counts_and_opens_for_all() {
    let c = Completion::new();
    assert!(!c.try_wait_for_completion());
    c.complete();
    c.complete();
    assert!(c.completion_done());
    assert!(c.try_wait_for_completion() && c.try_wait_for_completion() && !c.try_wait_for_completion());
    c.complete_all();
    c.complete();
    for _ in 0..3 {
        c.wait_for_completion();
    }
    c.reinit_completion();
    assert!(!c.completion_done());
}

#[test]
fn who_waits_for_a_completion_passes_one_by_one_or_all_at_once() {
    let c = Completion::new();
    let mut waits: Vec<_> = (0..5).map(|_| waiter()).collect();
    let mut poll = |i: usize| c.poll_completion(&mut waits[i], TASK_UNINTERRUPTIBLE);
    (0..5).for_each(|i| assert!(poll(i).is_pending()));
    c.complete();
    assert_eq!(poll(0), Poll::Ready(Ok(())));
    assert!(poll(1).is_pending());
    c.complete_all();
    (1..5).for_each(|i| assert_eq!(poll(i), Poll::Ready(Ok(()))));
}

#[test]
fn signals_and_time_limits_of_completions() {
    let m = Machine::new();
    let c = Arc::new(Completion::new());
    type Op = fn(&Completion) -> uapi::Result<u64>;
    let spawn = |f: Op| {
        let c = c.clone();
        m.spawn(move || f(&c))
    };
    let asleep = |task: &Task, state| until(|| task.state() == state);

    let (t, task) = spawn(|c| c.wait_for_completion_interruptible().map(|()| 0));
    asleep(&task, TASK_INTERRUPTIBLE);
    task.send_signal();
    assert_eq!(t.join().unwrap(), Err(Errno::ERESTARTSYS));

    let (t, task) = spawn(|c| c.wait_for_completion_killable().map(|()| 0));
    asleep(&task, TASK_KILLABLE);
    task.send_signal();
    assert_eq!(task.state(), TASK_KILLABLE);
    task.send_sig_kill();
    assert_eq!(t.join().unwrap(), Err(Errno::ERESTARTSYS));

    let timed: Op = |c| Ok(c.wait_for_completion_timeout(10));
    let timed_wait = || {
        let t = spawn(timed).0;
        until(|| m.arch.waits_for_time() > 0);
        t
    };
    let t = timed_wait();
    m.arch.advance(10);
    assert_eq!(t.join().unwrap(), Ok(0));
    let t = timed_wait();
    m.arch.advance(3);
    until(|| m.arch.waits_for_time() > 0);
    c.complete();
    assert_eq!(t.join().unwrap(), Ok(7));
}

// --- Sleeping for a time ---

#[test]
fn schedule_timeout_tells_what_is_left() {
    use sockeye_kernel::sleep_timeout::*;
    let m = Machine::new();
    type Op = fn(&dyn Arch, u64) -> u64;
    let sleeps: [(u32, Op); 3] = [
        (TASK_INTERRUPTIBLE, schedule_timeout_interruptible),
        (TASK_KILLABLE, schedule_timeout_killable),
        (TASK_UNINTERRUPTIBLE, schedule_timeout_uninterruptible),
    ];
    for (state, op) in sleeps {
        let start = || {
            let kernel = m.kernel.clone();
            let t = m.spawn(move || op(kernel.arch(), 20));
            until(|| t.1.state() == state && m.arch.waits_for_time() > 0);
            t
        };
        let (t, _) = start();
        m.arch.advance(20);
        assert_eq!(t.join().unwrap(), 0);
        let (t, task) = start();
        m.arch.advance(5);
        until(|| m.arch.waits_for_time() > 0);
        assert!(task.wake_up_process());
        assert_eq!(t.join().unwrap(), 15);
        // A signal ends the sleeps that it may end, at once.
        let (t, task) = start();
        task.send_sig_kill();
        if state == TASK_UNINTERRUPTIBLE {
            assert_eq!(task.state(), state);
            m.arch.advance(20);
            assert_eq!(t.join().unwrap(), 0);
        } else {
            assert_eq!(t.join().unwrap(), 20);
        }
    }
    assert_eq!(schedule_timeout(&*m.arch, 10), 10, "a running task does not sleep");
}

// --- RwLock ---

#[test]
fn readers_share_and_a_writer_does_not() {
    let l = RwLock::new(1);
    {
        let (a, b) = (l.read(), l.read_bh());
        assert_eq!(*a + *b, 2);
        assert!(l.try_write().is_none());
        assert!(l.try_read().is_some());
    }
    {
        let mut w = l.write_irqsave();
        *w += 1;
        assert!(l.try_read().is_none() && l.try_write().is_none());
    }
    assert_eq!(*l.read(), 2);
}

#[test]
fn a_waiting_writer_keeps_new_readers_out_but_no_interrupt() {
    let m = Machine::new();
    let l = Arc::new(RwLock::new(0));
    let reader = l.read();
    let lock = l.clone();
    let (writer, _) = m.spawn(move || *lock.write_irqsave() += 1);
    until(|| l.try_read().is_none());
    let lock = l.clone();
    let (late, _) = m.spawn(move || *lock.read());
    {
        let _irq = sockeye_kernel::cpu::irq_enter();
        assert_eq!(*l.read(), 0, "an interrupt may have interrupted the reader for whom the writer waits");
    }
    drop(reader);
    writer.join().unwrap();
    assert_eq!(late.join().unwrap(), 1, "it came after the writer");
}

#[test]
fn writers_are_alone_among_readers() {
    let m = Machine::new();
    let l = Arc::new(RwLock::new([0usize; 4]));
    let threads: Vec<_> = (0..4)
        .map(|i| {
            let l = l.clone();
            let f = move || {
                for r in 0..ROUNDS {
                    if (r + i) % 4 == 0 {
                        l.write().iter_mut().for_each(|x| *x += 1);
                    } else {
                        let v = l.read();
                        assert!(v.iter().all(|x| *x == v[0]));
                    }
                }
            };
            m.spawn(f).0
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert_eq!(l.read()[0], ROUNDS);
}

// --- RwSemaphore ---

#[test]
fn a_rwsem_serves_its_waiters_in_order_and_readers_together() {
    let s = RwSemaphore::new(0);
    let mut waits: Vec<_> = (0..4).map(|_| waiter()).collect();
    let [a, b, c, d] = &mut waits[..] else { unreachable!() };
    let writer = s.down_write();
    assert!(s.down_read_trylock().is_none());
    let st = TASK_INTERRUPTIBLE;
    assert!(s.poll_down_read(a, st).is_pending());
    assert!(s.poll_down_read(b, st).is_pending());
    assert!(s.poll_down_write(c, st).is_pending());
    assert!(s.poll_down_read(d, st).is_pending());
    drop(writer);
    assert!(s.down_read_trylock().is_none(), "not past those who wait");
    let Poll::Ready(Ok(ra)) = s.poll_down_read(a, st) else { panic!() };
    assert_eq!(b.task().state(), TASK_RUNNING, "the reader behind a reader is told");
    let Poll::Ready(Ok(rb)) = s.poll_down_read(b, st) else { panic!() };
    assert!(s.poll_down_write(c, st).is_pending());
    assert!(s.poll_down_read(d, st).is_pending(), "behind the writer");
    drop(ra);
    drop(rb);
    let Poll::Ready(Ok(mut w)) = s.poll_down_write(c, st) else { panic!() };
    *w = 7;
    let r = w.downgrade_write();
    let Poll::Ready(Ok(rd)) = s.poll_down_read(d, st) else { panic!("a reader joins a reader") };
    assert_eq!((*r, *rd), (7, 7));
    assert!(s.down_write_trylock().is_none());
}

#[test]
fn a_writer_that_gives_up_lets_the_readers_behind_it_in() {
    let s = RwSemaphore::new(());
    let (mut w, mut r) = (waiter(), waiter());
    let _reader = s.down_read();
    assert!(s.poll_down_write(&mut w, TASK_INTERRUPTIBLE).is_pending());
    assert!(s.poll_down_read(&mut r, TASK_INTERRUPTIBLE).is_pending());
    w.task().send_signal();
    assert!(matches!(s.poll_down_write(&mut w, TASK_INTERRUPTIBLE), Poll::Ready(Err(Errno::EINTR))));
    assert_eq!(r.task().state(), TASK_RUNNING);
    assert!(s.poll_down_read(&mut r, TASK_INTERRUPTIBLE).is_ready());
}

#[test]
fn a_rwsem_under_threads() {
    let m = Machine::new();
    let s = Arc::new(RwSemaphore::new([0usize; 4]));
    let threads: Vec<_> = (0..4)
        .map(|i| {
            let s = s.clone();
            let f = move || {
                for r in 0..ROUNDS {
                    if (r + i) % 4 == 0 {
                        s.down_write().iter_mut().for_each(|x| *x += 1);
                    } else {
                        let v = s.down_read();
                        assert!(v.iter().all(|x| *x == v[0]));
                    }
                }
            };
            m.spawn(f).0
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert!(s.down_write_trylock().is_some());
}

// --- SeqLock ---

sockeye_kernel::seq_data! {
    /// Two halves that belong together.
    struct Pair { a: u64, b: [u32; 2], ok: bool }
}

#[test]
fn a_seqlock_gives_no_torn_copy() {
    let l = Arc::new(SeqLock::new(Pair { a: 0, b: [0, 0], ok: true }));
    let stop = Arc::new(AtomicBool::new(false));
    let reads = Arc::new(AtomicUsize::new(0));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (l, stop, reads) = (l.clone(), stop.clone(), reads.clone());
            std::thread::spawn(move || {
                while !stop.load(SeqCst) {
                    let p = l.read();
                    assert!(p.ok && p.b == [p.a as u32, !(p.a as u32)] || p.a == 0);
                    reads.fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    let writers: Vec<_> = (0..2)
        .map(|_| {
            let l = l.clone();
            std::thread::spawn(move || {
                for _ in 0..ROUNDS {
                    l.write(|p| {
                        p.a += 1;
                        p.b = [p.a as u32, !(p.a as u32)];
                    });
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|t| t.join().unwrap());
    until(|| reads.load(SeqCst) > 10);
    stop.store(true, SeqCst);
    readers.into_iter().for_each(|t| t.join().unwrap());
    assert_eq!(l.read().a, 2 * ROUNDS as u64);
}

#[test]
fn a_reader_of_a_seqlock_hears_of_a_writer() {
    let l = SeqLock::new((1u32, 2u64));
    let seq = l.count().read_seqbegin();
    assert_eq!(l.peek(), (1, 2));
    assert!(!l.count().read_seqretry(seq));
    l.write_bh(|v| v.0 = 5);
    assert!(l.count().read_seqretry(seq));
    l.write_irqsave(|v| v.1 = 6);
    assert_eq!(l.read(), (5, 6));
}
