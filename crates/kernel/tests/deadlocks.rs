//! A textbook of deadlocks: each one made, the report that it gets, and the code as it should have been.
//!
//! Interface: tests; `docs/locking.md` explains how to read the reports.
//! Linux counterpart: `lib/locking-selftest.c`.
//! Locks and context: as each test says. Nothing here waits for anything: the validator reports what could happen.
//!
//! In the reports `[name]` is the line of this file with that comment, so that edits elsewhere change nothing.
#![cfg(all(debug_assertions, not(any(loom, shuttle))))]

mod common;

use common::ThreadArch;
use insta::assert_snapshot;
use sockeye_kernel::arch::Arch;
use sockeye_kernel::cpu::{self, CpuContext};
use sockeye_kernel::kernel::{Kernel, Softirq, raise_softirq};
use sockeye_kernel::lockdep::{Collector, Policy, Problem, Report, collect, hung_tasks, might_sleep, set_policy};
use sockeye_kernel::rwlock::RwLock;
use sockeye_kernel::semaphore::Semaphore;
use sockeye_kernel::{Mutex, SpinLock, Task, rcu_read_lock};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::sync::Arc;

/// The one report of `wrong`, with names for places; `right` gets none.
fn only_wrong(wrong: impl FnOnce(), right: impl FnOnce()) -> String {
    let reports = collect(wrong);
    assert!(quiet(right), "the right way is reported too");
    assert_eq!(reports.len(), 1, "{reports:#?}");
    readable(&reports[0])
}

fn quiet(f: impl FnOnce()) -> bool {
    let reports = collect(f);
    reports.iter().for_each(|r| eprintln!("{}", r.text));
    reports.is_empty()
}

/// The text, with `[name]` for this file's lines, and without the thread's name.
fn readable(r: &Report) -> String {
    let mut out = String::new();
    let mut rest = r.text.as_str();
    while let Some(at) = rest.find(file!()) {
        out.push_str(&rest[..at]);
        rest = &rest[at + file!().len()..];
        let place: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == ':').collect();
        rest = &rest[place.len()..];
        let line: usize = place.split(':').nth(1).and_then(|l| l.parse().ok()).expect("a line");
        out.push_str(name_of_line(line));
    }
    out.push_str(rest);
    let name = std::thread::current().name().expect("tests have names").to_owned();
    out.replace(&name, "test")
}

fn name_of_line(line: usize) -> &'static str {
    let text = include_str!("deadlocks.rs").lines().nth(line - 1).expect("a line of this file");
    text.rsplit_once("// [").map_or("(an unnamed line)", |(before, _)| &text[before.len() + 3..])
}

/// A machine with neither time nor sleep: what runs here runs at once.
struct Bare;

impl Arch for Bare {
    fn ktime_get(&self) -> u64 {
        0
    }
    fn ktime_get_real(&self) -> u64 {
        0
    }
    fn get_random_bytes(&self, buf: &mut [u8]) {
        buf.fill(4);
    }
    fn cpu_relax(&self, _: u32) {}
    fn current(&self) -> Arc<Task> {
        Task::from_fn(|| {})
    }
    fn schedule(&self, _: &Task, _: Option<u64>) {
        panic!("nothing sleeps here");
    }
    fn wakeup_softirqd(&self, _: usize) {}
    fn program_timer(&self, _: usize, _: u64) {}
}

/// Runs `f` as a softirq handler.
fn in_softirq(f: impl FnMut() + Send + 'static) {
    let kernel = Kernel::new(Arc::new(Bare), 1);
    let f = std::sync::Mutex::new(f);
    kernel.open_softirq(Softirq::NetRx, move || (f.lock().expect("one handler"))());
    let _inside = kernel.enter();
    raise_softirq(Softirq::NetRx);
    drop(cpu::local_bh_disable());
}

/// Runs `f` as a device's top half, which interrupts the caller.
fn in_interrupt(f: impl FnOnce()) {
    let _irq = cpu::irq_enter(); // [irq_enter]
    f();
}

#[test]
fn a_spinlock_taken_twice_by_one_context() {
    let lock = SpinLock::new(1u32); // [the lock]
    let wrong = || {
        let sum = lock.lock(); // [taken]
        let again = lock.lock(); // [taken again]
        drop((sum, again));
    };
    let right = || {
        let sum = lock.lock();
        drop(sum);
        let again = lock.lock();
        drop(again);
    };
    assert_snapshot!(only_wrong(wrong, right), @r#"
    lockdep: self-deadlock: a lock is taken by who already holds it
      thread "test", process context, interrupts on, bottom halves on
      the lock is SpinLock<u32> made at [the lock]
      taken at [taken]
      and again at [taken again]
    It can only be let go by the one who waits for it now.
    To do: end the first guard before the second place, or hand the guarded data on instead of locking again.
    "#);
}

#[test]
fn a_then_b_against_b_then_a() {
    let (a, b) = (SpinLock::new('a'), SpinLock::new("b")); // [made]
    let wrong = || {
        {
            let _a = a.lock(); // [first: a]
            let _b = b.lock(); // [first: b]
        }
        let _b = b.lock(); // [then: b]
        let _a = a.lock(); // [then: a]
    };
    let (a2, b2) = (SpinLock::new('a'), SpinLock::new("b"));
    let right = || {
        for _ in 0..2 {
            let _a = a2.lock();
            let _b = b2.lock();
        }
        // Who cannot know may try, and give up what it has if that fails.
        let _b = b2.lock();
        let _a = a2.try_lock();
    };
    assert_snapshot!(only_wrong(wrong, right), @r#"
    lockdep: locks are taken in orders that form a circle
      thread "test", process context, interrupts on, bottom halves on
      holds SpinLock<&str> made at [made]
        since [then: b]
      wants SpinLock<char> made at [made]
        at [then: a]
    But it is already known that
      SpinLock<char> was held since [first: a]
        when SpinLock<&str> was taken at [first: b] (process context)
    The circle: SpinLock<&str> -> SpinLock<char> -> SpinLock<&str>.
    Contexts that do these at the same time wait for each other for ever.
    To do: take them in one order everywhere (it stands in ARCHITECTURE.md), or end one guard before the other begins.
    "#);
}

#[test]
fn a_circle_of_three() {
    let (a, b, c) = (SpinLock::new('a'), SpinLock::new("b"), SpinLock::new(3u8)); // [made]
    let wrong = || {
        {
            let _a = a.lock(); // [one holds a]
            let _b = b.lock(); // [and wants b]
        }
        {
            let _b = b.lock(); // [another holds b]
            let _c = c.lock(); // [and wants c]
        }
        let _c = c.lock(); // [the third holds c]
        let _a = a.lock(); // [and wants a]
    };
    let (a2, b2, c2) = (SpinLock::new('a'), SpinLock::new("b"), SpinLock::new(3u8));
    let right = || {
        {
            let _a = a2.lock();
            let _b = b2.lock();
        }
        {
            let _b = b2.lock();
            let _c = c2.lock();
        }
        let _a = a2.lock();
        let _c = c2.lock();
    };
    assert_snapshot!(only_wrong(wrong, right), @r#"
    lockdep: locks are taken in orders that form a circle
      thread "test", process context, interrupts on, bottom halves on
      holds SpinLock<u8> made at [made]
        since [the third holds c]
      wants SpinLock<char> made at [made]
        at [and wants a]
    But it is already known that
      SpinLock<char> was held since [one holds a]
        when SpinLock<&str> was taken at [and wants b] (process context)
      SpinLock<&str> was held since [another holds b]
        when SpinLock<u8> was taken at [and wants c] (process context)
    The circle: SpinLock<u8> -> SpinLock<char> -> SpinLock<&str> -> SpinLock<u8>.
    Contexts that do these at the same time wait for each other for ever.
    To do: take them in one order everywhere (it stands in ARCHITECTURE.md), or end one guard before the other begins.
    "#);
}

#[test]
fn two_locks_of_one_class() {
    let made = || SpinLock::new([0u8; 2]); // [both]
    let (parent, child) = (made(), made());
    let wrong = || {
        let _p = parent.lock(); // [parent]
        let _c = child.lock(); // [child]
    };
    let right = || {
        let _p = parent.lock();
        let _c = child.lock_nested(1);
    };
    assert_snapshot!(only_wrong(wrong, right), @r#"
    lockdep: two locks of one class are nested
      thread "test", process context, interrupts on, bottom halves on
      both are SpinLock<[u8; 2]> made at [both]
      the first taken at [parent]
      the second at [child]
    Who takes the same two the other way round at the same time deadlocks with this.
    To do: hold one at a time; or, if an order is certain (parent before child, lower address first), say so with lock_nested(1) at the second place.
    "#);
}

#[test]
fn many_locks_of_one_class() {
    let made = || SpinLock::new([0u8; 3]); // [all]
    let row = [made(), made(), made()];
    let wrong = || {
        let _last = row[2].lock_bh_ordered(); // [a later one]
        let _first = row[0].lock_bh_ordered(); // [an earlier one]
    };
    let right = || {
        let all: Vec<_> = row.iter().map(|l| l.lock_bh_ordered()).collect();
        drop(all);
        drop(row[1].lock_bh_ordered());
    };
    assert_snapshot!(only_wrong(wrong, right), @r#"
    lockdep: two locks of one class are nested
      thread "test", process context, interrupts on, bottom halves off
      both are SpinLock<[u8; 3]> made at [all]
      the first taken at [a later one]
      the second at [an earlier one]
    Who takes the same two the other way round at the same time deadlocks with this.
    To do: hold one at a time; or, if an order is certain (parent before child, lower address first), say so with lock_nested(1) at the second place.
    "#);
}

#[test]
fn a_lock_of_interrupts_taken_with_interrupts_on() {
    let ring = SpinLock::new(vec![1u8]); // [the lock]
    let wrong = || {
        in_interrupt(|| ring.lock().push(2)); // [in the top half]
        ring.lock().clear(); // [in a task]
    };
    let ring2 = SpinLock::new(vec![1u8]);
    let right = || {
        in_interrupt(|| ring2.lock().push(2));
        ring2.lock_irqsave().clear();
    };
    assert_snapshot!(only_wrong(wrong, right), @r#"
    lockdep: a lock that an interrupt takes is held where an interrupt may come
      thread "test", process context, interrupts on, bottom halves on
      the lock is SpinLock<Vec<u8>> made at [the lock]
      taken in hardirq context at [in the top half]
      and taken at [in a task], with interrupts on
    An interrupt that comes while it is held there waits on its own CPU for what it has interrupted: a deadlock.
    To do: take it with lock_irqsave() at the second place, as everywhere outside hardirq context.
    "#);
}

#[test]
fn a_lock_of_softirqs_taken_with_bottom_halves_on() {
    let list = Arc::new(SpinLock::new([1u16])); // [the lock]
    let wrong = || {
        let l = list.clone();
        in_softirq(move || l.lock()[0] += 1); // [in the softirq]
        list.lock()[0] = 0; // [in a task]
    };
    let list2 = Arc::new(SpinLock::new([1u16]));
    let right = || {
        let l = list2.clone();
        in_softirq(move || l.lock()[0] += 1);
        list2.lock_bh()[0] = 0;
    };
    assert_snapshot!(only_wrong(wrong, right), @r#"
    lockdep: a lock that a softirq takes is held where a softirq may come
      thread "test", process context, interrupts on, bottom halves on
      the lock is SpinLock<[u16; 1]> made at [the lock]
      taken in softirq context at [in the softirq]
      and taken at [in a task], with bottom halves on
    A softirq that comes while it is held there waits on its own CPU for what it has interrupted: a deadlock.
    To do: take it with lock_bh() at the second place, as everywhere outside softirq context.
    "#);
}

/// Interrupts come back on too early: the guard of the outer section is dropped before that of the lock.
#[test]
fn interrupts_turned_on_under_a_lock_of_interrupts() {
    let ring = SpinLock::new(vec![1u16]); // [the lock]
    let wrong = || {
        in_interrupt(|| ring.lock().push(2)); // [in the top half]
        let off = cpu::local_irq_save();
        let guard = ring.lock(); // [in a task]
        drop(off);
        drop(guard);
    };
    let ring2 = SpinLock::new(vec![1u16]);
    let right = || {
        in_interrupt(|| ring2.lock().push(2));
        let off = cpu::local_irq_save();
        let guard = ring2.lock();
        drop(guard);
        drop(off);
    };
    assert_snapshot!(only_wrong(wrong, right), @r#"
    lockdep: a lock that an interrupt takes is held where an interrupt may come
      thread "test", process context, interrupts on, bottom halves on
      the lock is SpinLock<Vec<u16>> made at [the lock]
      taken in hardirq context at [in the top half]
      and taken at [in a task], and still held when interrupts came back on
    An interrupt that comes while it is held there waits on its own CPU for what it has interrupted: a deadlock.
    To do: take it with lock_irqsave() at the second place, as everywhere outside hardirq context.
    "#);
}

/// Nobody takes `table` in an interrupt; but who holds it can be interrupted, and then the interrupt waits for it all the same.
#[test]
fn an_interrupt_waits_through_another_lock() {
    let (ring, table) = (SpinLock::new(vec![1u32]), SpinLock::new([0u32])); // [made]
    let wrong = || {
        in_interrupt(|| ring.lock().push(2)); // [ring, in the top half]
        table.lock()[0] = 1; // [table, in a task]
        let _r = ring.lock_irqsave(); // [ring held]
        let _t = table.lock(); // [table wanted]
    };
    let (ring2, table2) = (SpinLock::new(vec![1u32]), SpinLock::new([0u32]));
    let right = || {
        in_interrupt(|| ring2.lock().push(2));
        table2.lock_irqsave()[0] = 1;
        let _r = ring2.lock_irqsave();
        let _t = table2.lock();
    };
    assert_snapshot!(only_wrong(wrong, right), @r#"
    lockdep: a lock that an interrupt takes waits for one that is held where an interrupt may come
      thread "test", process context, interrupts off, bottom halves on
      SpinLock<Vec<u32>> made at [made] is taken in hardirq context at [ring, in the top half]
      SpinLock<[u32; 1]> made at [made] is taken at [table, in a task], with interrupts on
    And the first may wait for the second:
      SpinLock<Vec<u32>> was held since [ring held]
        when SpinLock<[u32; 1]> was taken at [table wanted] (process context)
    One CPU holds SpinLock<[u32; 1]> and is interrupted by an interrupt that wants SpinLock<Vec<u32>>; another holds SpinLock<Vec<u32>> and wants SpinLock<[u32; 1]>.
    To do: take SpinLock<[u32; 1]> with lock_irqsave() where interrupts are on, or do not take it while SpinLock<Vec<u32>> is held.
    "#);
}

#[test]
fn a_reader_may_read_again_but_not_write() {
    let routes = RwLock::new("routes"); // [the lock]
    let wrong = || {
        let _r = routes.read(); // [read]
        let _w = routes.write(); // [written]
    };
    let right = || {
        let _r = routes.read();
        let _again = routes.read();
    };
    assert_snapshot!(only_wrong(wrong, right), @r#"
    lockdep: self-deadlock: a lock is taken by who already holds it
      thread "test", process context, interrupts on, bottom halves on
      the lock is RwLock<&str> made at [the lock]
      taken for reading at [read]
      and again at [written]
    It can only be let go by the one who waits for it now.
    To do: end the first guard before the second place, or hand the guarded data on instead of locking again.
    "#);
}

#[test]
fn sleeping_with_a_spinlock_held() {
    let list = SpinLock::new([1u64]); // [the spinlock]
    let config = Mutex::new(0);
    let wrong = || {
        let _l = list.lock(); // [taken]
        *config.lock() = 1; // [sleeps]
    };
    let (list2, config2) = (SpinLock::new([1u64]), Mutex::new(0));
    let right = || {
        let mut c = config2.lock();
        let _l = list2.lock();
        *c = 1;
    };
    assert_snapshot!(only_wrong(wrong, right), @r#"
    lockdep: sleeping where sleeping is forbidden: preemption is off
      thread "test", process context, interrupts on, bottom halves on
      may sleep at [sleeps]
      atomic since [taken]
      holds SpinLock<[u64; 1]> made at [the spinlock], taken at [taken]
    Whoever needs this CPU, or the lock, waits for a task that is not running; in an interrupt there is no task at all.
    To do: sleep before the section or after it; inside, use what does not sleep (a spinlock, a trylock, a timer), or leave the work to process context.
    "#);
}

#[test]
fn sleeping_in_a_softirq() {
    let config = Arc::new(Mutex::new(0));
    let wrong = || {
        let c = config.clone();
        in_softirq(move || *c.lock() = 1); // [sleeps]
    };
    let right = || {
        let c = config.clone();
        in_softirq(move || {
            if let Some(mut c) = c.try_lock() {
                *c = 1;
            }
        });
    };
    let said = only_wrong(wrong, right);
    assert_snapshot!(said.replace(crate_source("  atomic since ", &said), "(in the kernel)"), @r#"
    lockdep: sleeping where sleeping is forbidden: a softirq handler runs
      thread "test", softirq context, interrupts on, bottom halves off
      may sleep at [sleeps]
      atomic since (in the kernel)
      holds no lock
    Whoever needs this CPU, or the lock, waits for a task that is not running; in an interrupt there is no task at all.
    To do: sleep before the section or after it; inside, use what does not sleep (a spinlock, a trylock, a timer), or leave the work to process context.
    "#);
}

/// What stands after `before` in that line: a place in the kernel's own source, which edits may move.
fn crate_source<'t>(before: &str, text: &'t str) -> &'t str {
    text.lines().find_map(|l| l.strip_prefix(before)).expect("the line")
}

#[test]
fn sleeping_while_reading_under_rcu() {
    let wrong = || {
        let _section = rcu_read_lock();
        might_sleep(); // [sleeps]
    };
    let right = || {
        drop(rcu_read_lock());
        might_sleep();
    };
    assert_snapshot!(only_wrong(wrong, right), @r#"
    lockdep: sleeping where sleeping is forbidden: an RCU read section is open
      thread "test", process context, interrupts on, bottom halves on
      may sleep at [sleeps]
      holds no lock
    Whoever needs this CPU, or the lock, waits for a task that is not running; in an interrupt there is no task at all.
    To do: sleep before the section or after it; inside, use what does not sleep (a spinlock, a trylock, a timer), or leave the work to process context.
    "#);
}

/// The interrupt waits for a semaphore of the very task that it has interrupted, which cannot go on before it returns.
#[test]
fn an_interrupt_takes_the_semaphore_of_whom_it_interrupts() {
    let places = Semaphore::new(1);
    let wrong = || {
        let _held = places.acquire();
        in_interrupt(|| places.down()); // [the interrupt waits]
    };
    let right = || {
        let _held = places.acquire();
        in_interrupt(|| assert!(!places.down_trylock(), "then it is done later, by a task"));
    };
    let said = only_wrong(wrong, right);
    assert_snapshot!(said, @r#"
    lockdep: sleeping where sleeping is forbidden: an interrupt handler runs
      thread "test", hard-interrupt context, interrupts off, bottom halves off
      may sleep at [the interrupt waits]
      atomic since [irq_enter]
      holds no lock
    Whoever needs this CPU, or the lock, waits for a task that is not running; in an interrupt there is no task at all.
    To do: sleep before the section or after it; inside, use what does not sleep (a spinlock, a trylock, a timer), or leave the work to process context.
    "#);
    assert_eq!(places.count(), 1);
}

/// A task takes a place and waits for something else, from which a signal calls it away. It must not forget the place.
#[test]
fn a_signal_ends_the_holder_of_a_semaphore() {
    let arch = ThreadArch::new();
    let kernel = Kernel::new(arch.clone(), 1);
    let places = Semaphore::new(1); // [the semaphore]
    let never = Semaphore::new(0);
    let wrong = || {
        places.down(); // [taken]
        never.down_interruptible()?;
        places.up();
        Ok(())
    };
    let right = || {
        let _place = places.acquire();
        never.down_interruptible()
    };
    let interrupted = |name: &str, f: &(dyn Fn() -> uapi::Result<()> + Sync)| {
        let (tell, task) = std::sync::mpsc::channel();
        std::thread::scope(|s| {
            let run = || {
                let _inside = kernel.enter();
                tell.send(arch.current()).expect("a listener");
                assert_eq!(f(), Err(uapi::Errno::EINTR));
            };
            std::thread::Builder::new().name(name.into()).spawn_scoped(s, run).expect("a thread");
            let task = task.recv().expect("it runs");
            common::until(|| never.sleepers() == 1);
            task.send_signal();
        });
    };
    let hung_after = |seconds: u64| {
        arch.advance(seconds * sockeye_kernel::HZ);
        let _inside = kernel.enter();
        hung_tasks(120_000_000_000)
    };

    interrupted("holder", &right);
    assert_eq!(places.count(), 1, "the guard has given it back");
    interrupted("holder", &wrong);
    let reports = std::thread::scope(|s| {
        s.spawn(|| {
            let _inside = kernel.enter();
            places.down(); // [waits]
        });
        common::until(|| places.sleepers() == 1);
        assert!(hung_after(119).is_empty(), "not yet");
        let reports = hung_after(3);
        places.up();
        reports
    });
    assert!(hung_after(1000).is_empty(), "it waits no more");
    assert_eq!(reports.len(), 1);
    assert_snapshot!(readable(&reports[0]), @r#"
    lockdep: a task has slept for 122 s, and no signal can wake it
      task "thread", number 0
      waits at [waits]
      the lock is Semaphore made at [the semaphore]
      last taken at [taken] by thread "holder", which has ended
    To do: see whether that holder gives it back on every way out: after an error, a signal, a panic (a guard does). If the wait may be long, let a signal end it.
    "#);
}

#[test]
fn a_lock_in_zeroed_memory() {
    let memory = MaybeUninit::<SpinLock<u32>>::zeroed();
    let wrong = || {
        // SAFETY: of a lock all zeroes is a valid value, though not one that `new` makes.
        let lock = unsafe { memory.assume_init_ref() };
        *lock.lock() = 1; // [used]
    };
    let right = || {
        let mut memory = MaybeUninit::<SpinLock<u32>>::zeroed();
        *memory.write(SpinLock::new(0)).lock() = 1;
    };
    assert_snapshot!(only_wrong(wrong, right), @r#"
    lockdep: this is not a lock: it was never made: zeroed memory, or used before new()
      used at [used]
      its magic is 0x00000000
    To do: find who keeps the address longer, or has it earlier, than the lock lives.
    "#);
}

#[test]
fn a_lock_after_its_end() {
    let mut lock = ManuallyDrop::new(SpinLock::new(1u32));
    // SAFETY: the memory stays; that the lock in it has ended is what the test is about.
    unsafe { ManuallyDrop::drop(&mut lock) };
    let wrong = || *lock.lock() = 2; // [used]
    let right = || *SpinLock::new(1u32).lock() = 2;
    assert_snapshot!(only_wrong(wrong, right), @r#"
    lockdep: this is not a lock: it has been dropped: used after its end
      used at [used]
      its magic is 0xdead0bad
    To do: find who keeps the address longer, or has it earlier, than the lock lives.
    "#);
}

#[test]
fn a_lock_let_go_twice() {
    let lock = SpinLock::new(1u128); // [the lock]
    let wrong = || {
        let guard = lock.lock();
        // SAFETY: none: a guard is let go once. That is the bug.
        drop(unsafe { std::ptr::read(&guard) });
        // The guard's own count of preemption must still come out right.
        std::mem::forget(cpu::preempt_disable());
        drop(guard);
    };
    let right = || drop(lock.lock());
    assert_snapshot!(only_wrong(wrong, right), @r#"
    lockdep: a lock is let go by who does not hold it
      thread "test"
    the lock is SpinLock<u128> made at [the lock]  holds no lock
    To do: let a guard be dropped once, in the context that made it.
    "#);
}

/// A simulated task that is thrown away while it holds a lock.
#[test]
fn a_task_ends_with_a_lock_held() {
    let lock = SpinLock::new(1i128); // [the lock]
    let run = |f: &dyn Fn()| {
        let task = CpuContext::default();
        task.set_name("task 7");
        // SAFETY: what `f` leaves behind in the context is never touched again.
        unsafe { task.switch() };
        f();
        // SAFETY: as above.
        unsafe { task.switch() };
    };
    let wrong = || run(&|| std::mem::forget(lock.lock())); // [taken]
    let lock2 = SpinLock::new(1i128);
    let right = || run(&|| drop(lock2.lock()));
    assert_snapshot!(only_wrong(wrong, right), @r#"
    lockdep: a context has ended with locks held
      thread "task 7"
      holds SpinLock<i128> made at [the lock], taken at [taken]
    Nobody will ever let them go.
    To do: drop the guard on every way out; look for mem::forget and for a task that was thrown away asleep.
    "#);
}

#[test]
fn a_thread_ends_with_a_lock_held() {
    static LOCK: SpinLock<i8> = SpinLock::new(1); // [the lock]
    let reports = Collector::default();
    let theirs = reports.clone();
    let thread = std::thread::Builder::new().name("worker".into()).spawn(move || {
        // Attached beyond the thread's last statement.
        std::mem::forget(theirs.attach());
        std::mem::forget(LOCK.lock()); // [taken]
    });
    thread.expect("a thread").join().expect("it ended");
    assert_snapshot!(readable(&reports.take()[0]), @r#"
    lockdep: a context has ended with locks held
      thread "worker"
      holds SpinLock<i8> made at [the lock], taken at [taken]
    Nobody will ever let them go.
    To do: drop the guard on every way out; look for mem::forget and for a task that was thrown away asleep.
    "#);
}

#[test]
fn a_spinlock_that_does_not_come_free() {
    let lock = SpinLock::new(1i64); // [the lock]
    let reports = Collector::default();
    let held = lock.lock(); // [held]
    std::thread::scope(|s| {
        let waiter = std::thread::Builder::new().name("waiter".into());
        let thread = waiter.spawn_scoped(s, || {
            let _attached = reports.attach();
            reports.set_lockup_spins(1000);
            drop(lock.lock());
        });
        assert!(thread.expect("a thread").join().is_err(), "it gave up");
    });
    drop(held);
    assert_snapshot!(readable(&reports.take()[0]), @r#"
    lockdep: a spinlock does not come free
      thread "waiter", process context, interrupts on, bottom halves on
      the lock is SpinLock<i64> made at [the lock]
      last taken at [held] by thread "test"
    To do: see what the holder does there, and whether it still runs; a section under a spinlock must be short.
    "#);
}

#[test]
fn more_locks_than_can_be_right() {
    let made = || SpinLock::new([0u64; 9]);
    let all: Vec<_> = (0..49).map(|_| made()).collect();
    let reports = collect(|| {
        // As if each had a class of its own.
        let mut held: Vec<_> = all.iter().map(|l| l.try_lock()).collect();
        held.reverse();
    });
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].problem, Problem::TooDeep);
    assert!(quiet(|| drop(all[0].lock())), "all have been let go");
}

/// A lock complains five times, then keeps quiet: the first complaint is the one to read.
#[test]
fn a_lock_complains_a_few_times_only() {
    set_policy(Policy::Panic);
    let (parent, child) = (SpinLock::new([0u8; 7]), SpinLock::new([0u8; 8]));
    drop((parent.lock(), child.lock()));
    let wrong = || drop((child.lock(), parent.lock()));
    let complaints = (0..10).filter(|_| std::panic::catch_unwind(std::panic::AssertUnwindSafe(wrong)).is_err()).count();
    assert_eq!(complaints, 5);
}
