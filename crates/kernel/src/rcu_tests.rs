//! RCU's tests: grace periods, domains, floods, and a torture in the manner of `kernel/rcu/rcutorture.c`.
//!
//! Interface: tests.
//! Linux counterpart: `kernel/rcu/rcutorture.c`.
//! Locks and context: threads; each test that counts callbacks has a domain of its own, so that tests can run side by side.

use crate::cpu::{CpuContext, local_bh_disable, preempt_disable};
use crate::rcu::*;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

/// Fewer rounds where each instruction is interpreted.
const fn rounds(n: usize) -> usize {
    if cfg!(miri) { n / 1000 + 4 } else { n }
}

fn installed(d: &Domain) -> Installed {
    // SAFETY: each test reaches its data only by threads of its domain.
    unsafe { d.install() }
}

fn switch(c: &CpuContext) {
    // SAFETY: what the tests make in a context is dropped in it.
    unsafe { c.switch() };
}

/// A counter, and a callback that counts.
fn counter() -> (Arc<AtomicUsize>, impl Fn() -> Box<dyn FnOnce() + Send>) {
    let n = Arc::new(AtomicUsize::new(0));
    let m = n.clone();
    (n, move || {
        let m = m.clone();
        Box::new(move || {
            m.fetch_add(1, SeqCst);
        })
    })
}

#[test]
fn a_section_in_another_thread_holds_callbacks_back() {
    let d = Domain::new();
    let (ran, callback) = counter();
    let (enter, (leave, left)) = (Barrier::new(2), channel());
    thread::scope(|s| {
        let (d, enter) = (&d, &enter);
        // Goes with a failing test, and lets the reader go.
        let leave: Sender<()> = leave;
        s.spawn(move || {
            let _d = installed(d);
            let outer = rcu_read_lock();
            let inner = rcu_read_lock();
            enter.wait();
            drop(inner);
            let _ = left.recv();
            drop(outer);
        });
        let _d = installed(d);
        enter.wait();
        call_rcu(callback());
        for _ in 0..10 {
            process_callbacks();
        }
        assert_eq!((ran.load(SeqCst), d.pending()), (0, 1));
        drop(leave);
        rcu_barrier();
        assert_eq!((ran.load(SeqCst), d.pending()), (1, 0));
    });
}

#[test]
fn domains_do_not_wait_for_one_another() {
    let (a, b) = (Domain::new(), Domain::new());
    let (ran, callback) = counter();
    let (enter, (leave, left)) = (Barrier::new(2), channel());
    thread::scope(|s| {
        let (a, enter) = (&a, &enter);
        let leave: Sender<()> = leave;
        s.spawn(move || {
            let _d = installed(a);
            let _section = rcu_read_lock();
            enter.wait();
            let _ = left.recv();
        });
        enter.wait();
        let outer = installed(a);
        {
            let _d = installed(&b);
            call_rcu(callback());
            synchronize_rcu();
            rcu_barrier();
            assert_eq!(ran.load(SeqCst), 1);
        }
        // The outer one is back.
        call_rcu(callback());
        process_callbacks();
        process_callbacks();
        assert_eq!((ran.load(SeqCst), a.pending(), b.pending()), (1, 1, 0));
        drop(leave);
        rcu_barrier();
        drop(outer);
        assert_eq!(ran.load(SeqCst), 2);
    });
}

#[test]
fn contexts_of_one_thread_are_counted_apart() {
    let d = Domain::new_sim();
    let _d = installed(&d);
    let (ran, callback) = counter();
    let (one, two) = (CpuContext::default(), CpuContext::default());
    switch(&one);
    let first = rcu_read_lock();
    switch(&one);
    assert!(!rcu_read_lock_held());
    call_rcu(callback());
    d.process_callbacks();
    // Begun later: it does not hold up what was retired before, once the first has ended.
    switch(&two);
    let second = (rcu_read_lock(), rcu_read_lock());
    switch(&two);
    for _ in 0..10 {
        d.process_callbacks();
    }
    assert_eq!(ran.load(SeqCst), 0);
    switch(&one);
    drop(first);
    assert!(!rcu_read_lock_held());
    switch(&one);
    d.process_callbacks();
    assert_eq!(ran.load(SeqCst), 1);
    call_rcu(callback());
    for _ in 0..10 {
        d.process_callbacks();
    }
    assert_eq!((ran.load(SeqCst), d.pending()), (1, 1));
    switch(&two);
    drop(second);
    switch(&two);
    rcu_barrier();
    assert_eq!((ran.load(SeqCst), d.pending()), (2, 0));
}

#[test]
fn a_simulators_callbacks_run_in_order_and_only_when_asked() {
    let d = Domain::new_sim();
    let _d = installed(&d);
    let order = Arc::new(Mutex::new(Vec::new()));
    for i in 0..1000 {
        let o = order.clone();
        call_rcu(move || {
            if i == 3 {
                let o = o.clone();
                call_rcu(move || o.lock().unwrap().push(1000));
            }
            o.lock().unwrap().push(i);
        });
        drop(rcu_read_lock());
    }
    synchronize_rcu();
    assert_eq!((order.lock().unwrap().len(), d.pending()), (0, 1000));
    d.process_callbacks();
    rcu_barrier();
    assert_eq!(*order.lock().unwrap(), (0..=1000).collect::<Vec<_>>());
}

#[test]
#[should_panic(expected = "for one thread")]
fn a_simulators_domain_has_one_thread() {
    let d = Domain::new_sim();
    let _d = installed(&d);
    thread::scope(|s| {
        let theirs = s.spawn(|| drop(installed(&d))).join();
        std::panic::resume_unwind(theirs.unwrap_err());
    });
}

#[test]
fn a_domain_that_ends_runs_what_is_left() {
    let d = Domain::new_sim();
    let (ran, callback) = counter();
    {
        let _d = installed(&d);
        call_rcu(callback());
        call_rcu(callback());
    }
    assert_eq!(ran.load(SeqCst), 0);
    drop(d);
    assert_eq!(ran.load(SeqCst), 2);
}

#[test]
fn a_flood_of_callbacks_has_a_bound() {
    const LIVE: usize = if cfg!(miri) { 300 } else { 20_000 };
    let d = Domain::new();
    let live = Arc::new(AtomicUsize::new(0));
    let most = AtomicUsize::new(0);
    thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                let _d = installed(&d);
                for _ in 0..rounds(100_000) {
                    most.fetch_max(live.fetch_add(1, SeqCst) + 1, SeqCst);
                    let live = live.clone();
                    call_rcu(move || {
                        live.fetch_sub(1, SeqCst);
                    });
                    drop(rcu_read_lock());
                }
            });
        }
    });
    assert!(most.load(SeqCst) < LIVE, "{} at once", most.load(SeqCst));
    d.barrier();
    assert_eq!((live.load(SeqCst), d.pending()), (0, 0));
}

#[test]
fn callbacks_do_not_run_under_the_locks_of_whoever_retires() {
    let d = Domain::new();
    let _d = installed(&d);
    let (ran, callback) = counter();
    {
        let _atomic = preempt_disable();
        (0..1000).for_each(|_| call_rcu(callback()));
    }
    {
        let _bh = local_bh_disable();
        (0..1000).for_each(|_| call_rcu(callback()));
    }
    {
        let _section = rcu_read_lock();
        (0..1000).for_each(|_| call_rcu(callback()));
    }
    assert_eq!(ran.load(SeqCst), 0);
    (0..64).for_each(|_| call_rcu(callback()));
    assert!(ran.load(SeqCst) > 0);
    rcu_barrier();
    assert_eq!(ran.load(SeqCst), 3064);
}

#[test]
fn callbacks_may_retire_more_and_never_nest() {
    fn chain(left: usize, depth: &Arc<AtomicUsize>) {
        let depth = depth.clone();
        call_rcu(move || {
            assert_eq!(depth.fetch_add(1, SeqCst), 0, "a callback inside a callback");
            if left > 0 {
                (0..2).for_each(|_| chain(left - 1, &depth));
            }
            depth.fetch_sub(1, SeqCst);
        });
    }
    let d = Domain::new();
    let _d = installed(&d);
    let depth = Arc::new(AtomicUsize::new(0));
    chain(if cfg!(miri) { 6 } else { 12 }, &depth);
    while d.pending() > 0 {
        rcu_barrier();
    }
    assert_eq!(Arc::strong_count(&depth), 1);
}

#[test]
fn a_panicking_callback_leaves_the_rest_in_order() {
    let d = Domain::new();
    let _d = installed(&d);
    let (ran, callback) = counter();
    call_rcu(|| panic!("on purpose"));
    call_rcu(callback());
    let caught = std::panic::catch_unwind(rcu_barrier);
    assert!(caught.is_err());
    assert_eq!((ran.load(SeqCst), d.pending()), (0, 1));
    call_rcu(callback());
    rcu_barrier();
    assert_eq!(ran.load(SeqCst), 2);
}

#[test]
fn a_thread_reads_also_while_it_ends() {
    thread_local! {
        static LATE: Late = const { Late };
    }
    static ENDED: AtomicBool = AtomicBool::new(false);
    struct Late;
    impl Drop for Late {
        fn drop(&mut self) {
            // The thread's slot, made after this, is gone.
            let p: Rcu<u32> = Rcu::new(Some(Arc::new(7)));
            let section = rcu_read_lock();
            let inner = rcu_read_lock();
            assert_eq!(p.dereference(&section), Some(&7));
            drop((inner, section));
            assert!(!rcu_read_lock_held());
            drop(p);
            rcu_barrier();
            ENDED.store(true, SeqCst);
        }
    }
    thread::spawn(|| {
        LATE.with(|_| ());
        drop(rcu_read_lock());
    })
    .join()
    .unwrap();
    assert!(ENDED.load(SeqCst));
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "outside rcu_read_lock")]
fn a_dereference_outside_a_section_is_reported() {
    rcu_dereference(&AtomicPtr::new(std::ptr::null_mut::<u8>()));
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "wait for its own caller")]
fn waiting_for_oneself_is_reported() {
    let _section = rcu_read_lock();
    synchronize_rcu();
}

#[test]
fn replaced_values_live_as_long_as_someone_has_them() {
    let p = Rcu::new(Some(Arc::new(1)));
    let section = rcu_read_lock();
    let seen = p.dereference(&section);
    let old = p.replace(Some(Arc::new(2)));
    assert_eq!((old.as_deref(), p.get().as_deref()), (Some(&1), Some(&2)));
    drop(old);
    assert_eq!(seen, Some(&1));
    drop(section);
    assert_eq!(p.assign_if_none(Arc::new(3)).unwrap_err().as_ref(), &3);
    assert_eq!(p.replace(None).as_deref(), Some(&2));
    assert!(p.access().is_null() && p.replace(None).is_none());
    p.assign_if_none(Arc::new(3)).unwrap();
    assert_eq!(p.get().as_deref(), Some(&3));
}

// --- torture ---

const ALIVE: u64 = 0xa11f_e000;
const POISON: u64 = 0xdead_dead;

struct Element {
    canary: AtomicU64,
    /// How often it was published.
    generation: AtomicU64,
    index: usize,
}

/// The elements are freed after the threads have ended, so that a reader which was let down finds poison, or another
/// generation, and not the allocator's memory.
struct Pool {
    elements: Vec<Element>,
    free: Mutex<Vec<usize>>,
    poisoned: AtomicUsize,
}

impl Pool {
    fn new(n: usize) -> Arc<Pool> {
        let element = |index| Element { canary: POISON.into(), generation: 0.into(), index };
        let free = Mutex::new((0..n).collect());
        Arc::new(Pool { elements: (0..n).map(element).collect(), free, poisoned: 0.into() })
    }

    fn fresh(&self) -> *mut Element {
        let index = loop {
            match self.free.lock().unwrap().pop() {
                Some(i) => break i,
                None => thread::yield_now(),
            }
            // Nobody else may be there to end the grace period.
            process_callbacks();
        };
        let e = &self.elements[index];
        assert_eq!(e.canary.swap(ALIVE, Relaxed), POISON);
        e.generation.fetch_add(1, Relaxed);
        std::ptr::from_ref(e).cast_mut()
    }

    fn poison(&self, index: usize) {
        assert_eq!(self.elements[index].canary.swap(POISON, Relaxed), ALIVE, "freed twice");
        self.poisoned.fetch_add(1, Relaxed);
        self.free.lock().unwrap().push(index);
    }
}

/// Follows the pointer and looks at the element twice.
fn read_once(current: &AtomicPtr<Element>, delay: usize) {
    let _section = rcu_read_lock();
    // SAFETY: never null, and the pool outlives the threads.
    let e = unsafe { &*rcu_dereference(current) };
    let before = (e.canary.load(Relaxed), e.generation.load(Relaxed));
    (0..delay).for_each(|_| std::hint::spin_loop());
    if delay == 0 {
        thread::yield_now();
    }
    let nested = rcu_read_lock();
    let after = (e.canary.load(Relaxed), e.generation.load(Relaxed));
    drop(nested);
    assert_eq!((before.0, before), (ALIVE, after), "an element was freed under its reader");
}

/// Readers look, writers replace the element and poison what they took out after a grace period, by all the ways there are.
fn torture(domain: &Domain, readers: usize, writers: usize, updates: usize) {
    let pool = Pool::new(200);
    let current = AtomicPtr::new(pool.fresh());
    let (stop, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
    let write = |w: usize| {
        let _d = installed(domain);
        for i in 0..updates {
            let old = rcu_replace_pointer(&current, pool.fresh());
            // SAFETY: the pool is there.
            let (p, index) = (pool.clone(), unsafe { (*old).index });
            if (i + w).is_multiple_of(7) {
                synchronize_rcu();
                p.poison(index);
            } else {
                call_rcu(move || p.poison(index));
            }
        }
        rcu_barrier();
    };
    thread::scope(|s| {
        for _ in 0..readers {
            s.spawn(|| {
                let _d = installed(domain);
                while !stop.load(Relaxed) {
                    read_once(&current, reads.fetch_add(1, Relaxed) % 50);
                }
            });
        }
        let write = &write;
        let all: Vec<_> = (0..writers).map(|w| s.spawn(move || write(w))).collect();
        let ends: Vec<_> = all.into_iter().map(|w| w.join()).collect();
        stop.store(true, Relaxed);
        ends.into_iter().for_each(|e| e.unwrap());
    });
    assert_eq!((pool.poisoned.load(Relaxed), domain.pending()), (writers * updates, 0));
}

#[test]
fn rcutorture() {
    torture(&Domain::new(), 3, 2, rounds(20_000));
}

#[test]
fn rcutorture_of_counted_readers() {
    torture(&Domain::new_counted(), 3, 2, rounds(20_000));
}

#[test]
fn rcutorture_with_many_domains() {
    let domains: Vec<_> = (0..4).map(|_| Domain::new()).collect();
    thread::scope(|s| {
        for d in &domains {
            s.spawn(|| torture(d, 1, 1, rounds(5_000)));
        }
    });
}

/// As long as it is told: `RCUTORTURE=<updates> cargo test --release -p sockeye-kernel rcutorture_long -- --ignored`.
#[test]
#[ignore = "minutes"]
fn rcutorture_long() {
    let updates = std::env::var("RCUTORTURE").ok().and_then(|v| v.parse().ok()).unwrap_or(10_000_000);
    torture(&Domain::new(), 4, 2, updates);
}
