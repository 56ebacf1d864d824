//! Tests of the list and the hash table that are read under RCU: alone, and while they change under their readers.
//!
//! Interface: tests. Built with `--cfg verify`, they have the bug that the environment names ([`crate::plant`]).
//! Linux counterpart: `lib/test_rhashtable.c`.
//! Locks and context: threads.

use crate::arch::Arch;
use crate::cpu::{CheckpointsOn, set_countdown};
use crate::kernel::Kernel;
use crate::rcu::{Domain, Installed, rcu_barrier, rcu_read_lock};
use crate::rcu_hash::RcuHashTable;
use crate::rculist::HlistHead;
use crate::spinlock::SpinLock;
use crate::task::Task;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::thread;

const fn rounds(n: usize) -> usize {
    if cfg!(miri) { n / 500 + 4 } else { n }
}

fn installed(d: &Domain) -> Installed {
    #[cfg(verify)]
    crate::plant::plant_from_env();
    // SAFETY: each test reaches its data only by threads of its domain.
    unsafe { d.install() }
}

/// A value that is counted, and that nobody may look at once it is gone.
struct Canary {
    key: usize,
    alive: AtomicBool,
    live: Arc<AtomicUsize>,
}

impl Canary {
    fn new(key: usize, live: &Arc<AtomicUsize>) -> Canary {
        live.fetch_add(1, Relaxed);
        Canary { key, alive: AtomicBool::new(true), live: live.clone() }
    }
    fn key(&self) -> usize {
        assert!(self.alive.load(Relaxed), "{} was freed under its reader", self.key);
        self.key
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        assert!(self.alive.swap(false, Relaxed), "freed twice");
        self.live.fetch_sub(1, Relaxed);
    }
}

/// A list with its writers' lock.
struct Locked {
    lock: SpinLock<()>,
    list: HlistHead<Canary>,
}

impl Locked {
    fn add(&self, front: bool, c: Canary) {
        let _l = self.lock.lock();
        // SAFETY: the lock is held.
        unsafe { if front { self.list.hlist_add_head_rcu(c) } else { self.list.hlist_add_tail_rcu(c) } }
    }
    fn del(&self, key: usize) -> bool {
        let dead = {
            let _l = self.lock.lock();
            // SAFETY: the lock is held.
            unsafe { self.list.hlist_del_rcu(|c| c.key() == key) }
        };
        assert!(dead.as_ref().is_none_or(|d| d.entry().key() == key));
        dead.is_some()
    }
    fn keys(&self) -> Vec<usize> {
        let section = rcu_read_lock();
        self.list.for_each_entry_rcu(&section).map(Canary::key).collect()
    }
}

fn list() -> Arc<Locked> {
    Arc::new(Locked { lock: SpinLock::new(()), list: HlistHead::new() })
}

#[test]
fn a_list_keeps_its_order_and_its_readers_place() {
    let d = Domain::new();
    let _d = installed(&d);
    let (l, live) = (list(), Arc::new(AtomicUsize::new(0)));
    [3, 2, 1].into_iter().for_each(|k| l.add(true, Canary::new(k, &live)));
    [4, 5].into_iter().for_each(|k| l.add(false, Canary::new(k, &live)));
    assert_eq!(l.keys(), [1, 2, 3, 4, 5]);
    let section = rcu_read_lock();
    let mut walk = l.list.for_each_entry_rcu(&section);
    assert_eq!((walk.next().unwrap().key(), walk.next().unwrap().key()), (1, 2));
    // What it stands on, and what comes next, go; what it stands on still leads on.
    assert!(l.del(2) && l.del(3) && !l.del(3));
    assert_eq!(live.load(Relaxed), 5);
    assert_eq!(walk.map(Canary::key).last(), Some(5));
    drop(section);
    assert_eq!(l.keys(), [1, 4, 5]);
    assert!(l.del(1) && l.del(5) && l.del(4));
    assert_eq!(l.keys(), []);
    l.add(false, Canary::new(9, &live));
    rcu_barrier();
    assert_eq!(live.load(Relaxed), 1);
    drop(l);
    assert_eq!(live.load(Relaxed), 0);
}

#[test]
fn a_list_changes_under_its_readers() {
    const KEYS: usize = 8;
    let d = Domain::new();
    let (l, live, stop) = (list(), Arc::new(AtomicUsize::new(0)), AtomicBool::new(false));
    // Of every other key there is always one.
    (0..KEYS).step_by(2).for_each(|k| l.add(true, Canary::new(k, &live)));
    thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                let _d = installed(&d);
                while !stop.load(Relaxed) {
                    let seen = l.keys();
                    let stay = (0..KEYS).step_by(2).all(|k| seen.contains(&k));
                    assert!(stay && seen.len() <= KEYS, "{seen:?}");
                }
            });
        }
        let writers: Vec<_> = (0..2)
            .map(|w| {
                let (d, l, live) = (&d, &l, &live);
                s.spawn(move || {
                    let _d = installed(d);
                    for i in 0..rounds(50_000) {
                        let key = (i % (KEYS / 4)) * 4 + 2 * w + 1;
                        l.add(i % 2 == 0, Canary::new(key, live));
                        assert!(l.del(key));
                    }
                })
            })
            .collect();
        let ends: Vec<_> = writers.into_iter().map(|w| w.join()).collect();
        stop.store(true, Relaxed);
        ends.into_iter().for_each(|e| e.unwrap());
    });
    d.barrier();
    assert_eq!(live.load(Relaxed), KEYS / 2);
}

// --- the table ---

fn hash(key: usize) -> u32 {
    // Many keys share a bucket, some a hash.
    (key as u32 / 2).wrapping_mul(0x9e37_79b1)
}

fn get(t: &RcuHashTable<Arc<Canary>>, key: usize) -> Option<Arc<Canary>> {
    t.lookup(hash(key), |c| c.key() == key)
}

#[test]
fn a_table_does_what_a_map_does() {
    let d = Domain::new();
    let _d = installed(&d);
    let live = Arc::new(AtomicUsize::new(0));
    let t = RcuHashTable::new(1);
    let least = t.buckets();
    let mut map: HashMap<usize, Arc<Canary>> = HashMap::new();
    let mut x = 1u64;
    let (mut most, keys, total) = if cfg!(miri) { (0, 120, 400) } else { (0, 2_000, 100_000) };
    for i in 0..total {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // It fills, and it empties again.
        let (key, fill) = ((x >> 33) as usize % keys, i < total / 2);
        let new = Arc::new(Canary::new(key, &live));
        match (map.get(&key).cloned(), fill || x >> 62 == 0) {
            (None, true) if x & 1 << 40 == 0 => {
                t.insert(hash(key), new.clone());
                map.insert(key, new);
            }
            (None, _) => assert!(!t.remove(hash(key), |c| Arc::ptr_eq(c, &new))),
            (Some(old), true) if x & 1 << 40 == 0 => {
                let there = t.insert_unless(hash(key), new, |c| c.key() == key);
                assert!(Arc::ptr_eq(&there.unwrap_err(), &old));
            }
            (Some(old), true) => {
                assert!(t.replace(hash(key), |c| Arc::ptr_eq(c, &old), |_| new.clone()));
                assert!(!t.replace(hash(key), |c| Arc::ptr_eq(c, &old), |_| new.clone()));
                map.insert(key, new);
            }
            (Some(old), false) => {
                assert!(t.remove(hash(key), |c| Arc::ptr_eq(c, &old)));
                map.remove(&key);
            }
        }
        assert_eq!((t.len(), t.is_empty()), (map.len(), map.is_empty()));
        assert_eq!(get(&t, key).as_ref().map(Arc::as_ptr), map.get(&key).map(Arc::as_ptr));
        most = most.max(t.buckets());
    }
    let mut n = 0;
    t.for_each(|c| {
        n += 1;
        map.contains_key(&c.key())
    });
    assert_eq!(n, map.len());
    assert!(most > least, "{most} buckets");
    map.drain().for_each(|(key, c)| assert!(t.remove(hash(key), |o| Arc::ptr_eq(o, &c))));
    (0..64).for_each(|_| assert!(!t.remove(0, |c| c.key() == usize::MAX)));
    assert_eq!(t.buckets(), least);
    rcu_barrier();
    assert_eq!(live.load(Relaxed), 0);
}

/// While one thread makes the table grow and shrink, those who only read find every key that stays, at all times, and a key
/// that a writer has seen go does not come back.
#[test]
fn a_table_is_complete_while_its_size_changes() {
    const STAY: usize = 40;
    let many = if cfg!(miri) { 50 } else { 3_000 };
    let d = Domain::new();
    let (live, stop) = (Arc::new(AtomicUsize::new(0)), AtomicBool::new(false));
    let t = RcuHashTable::new(1);
    (0..STAY).for_each(|k| t.insert(hash(k), Arc::new(Canary::new(k, &live))));
    thread::scope(|s| {
        s.spawn(|| {
            let _d = installed(&d);
            let mut k = 0;
            while !stop.load(Relaxed) {
                k = (k + 1) % STAY;
                assert!(get(&t, k).is_some(), "{k} is missing");
            }
        });
        let (t, d, live) = (&t, &d, &live);
        // Each adds and removes keys of its own, so it knows which are in.
        let writer = move |base: usize, rounds: usize| {
            let _d = installed(d);
            for _ in 0..rounds {
                let all: Vec<_> = (base..base + many).map(|k| Arc::new(Canary::new(k, live))).collect();
                for c in &all {
                    t.insert_unless(hash(c.key), c.clone(), |o| o.key() == c.key).ok().expect("mine");
                    assert!(get(t, c.key).is_some_and(|o| Arc::ptr_eq(&o, c)));
                }
                for c in &all {
                    assert!(t.remove(hash(c.key), |o| Arc::ptr_eq(o, c)), "{} is lost", c.key);
                    assert!(get(t, c.key).is_none(), "{} came back", c.key);
                }
            }
        };
        let n = if cfg!(miri) { 1 } else { 20 };
        let all: Vec<_> = (1..=2).map(|w| s.spawn(move || writer(w * 1_000_000, n))).collect();
        let ends: Vec<_> = all.into_iter().map(|w| w.join()).collect();
        stop.store(true, Relaxed);
        ends.into_iter().for_each(|e| e.unwrap());
    });
    assert_eq!(t.len(), STAY);
    drop(t);
    d.barrier();
    assert_eq!(live.load(Relaxed), 0);
}

thread_local! {
    static INTERRUPT: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// An arch that lets a test have its way at a checkpoint.
struct Interrupted;

impl Arch for Interrupted {
    fn ktime_get(&self) -> u64 {
        0
    }
    fn ktime_get_real(&self) -> u64 {
        0
    }
    fn get_random_bytes(&self, buf: &mut [u8]) {
        buf.fill(1);
    }
    fn cpu_relax(&self, _spins: u32) {
        std::thread::yield_now();
    }
    fn current(&self) -> Arc<Task> {
        unreachable!("nobody sleeps")
    }
    fn schedule(&self, _task: &Task, _deadline: Option<u64>) {}
    fn checkpoint(&self) {
        if let Some(f) = INTERRUPT.with(|i| i.borrow_mut().take()) {
            f();
        }
    }
    fn wakeup_softirqd(&self, _cpu: usize) {}
    fn program_timer(&self, _base: usize, _expires: u64) {}
}

/// Another context comes in at each point at which a change of size can be interrupted, and changes the table itself.
#[test]
fn a_change_of_size_can_be_interrupted_anywhere() {
    let kernel = Kernel::new(Arc::new(Interrupted), 1);
    let _inside = kernel.enter();
    let _on = CheckpointsOn::new();
    let step = if cfg!(miri) { 61 } else { 1 };
    for grow in [true, false] {
        let came = (1..).step_by(step).take_while(|&n| interrupted_at(n, grow)).count();
        // Each stripe's lock is taken twice, and its guard alone has several.
        assert!(came * step > 2 * 64, "{came} places");
    }
}

/// `false` if there are not so many checkpoints.
fn interrupted_at(n: u32, grow: bool) -> bool {
    let d = Domain::new_sim();
    let _d = installed(&d);
    let live = Arc::new(AtomicUsize::new(0));
    let new = |k| Arc::new(Canary::new(k, &live));
    let t = Arc::new(RcuHashTable::new(64));
    let all: Vec<_> = (0..65).map(new).collect();
    let put = |c: &Arc<Canary>| t.insert(hash(c.key), c.clone());
    let take = |c: &Arc<Canary>| assert!(t.remove(hash(c.key), |o| Arc::ptr_eq(o, c)));
    // One more makes it grow; if it has grown, and fewer than an eighth are left, it shrinks.
    let few = if grow { 64 } else { 16 };
    all[..few].iter().for_each(put);
    if !grow {
        all[few..].iter().for_each(put);
        all[few..].iter().for_each(take);
    }
    let (inner, goes, comes) = (t.clone(), all[1].clone(), new(100));
    INTERRUPT.set(Some(Box::new(move || {
        assert!(inner.remove(hash(1), |c| Arc::ptr_eq(c, &goes)));
        inner.insert(hash(100), comes);
        assert!(get(&inner, 1).is_none() && get(&inner, 100).is_some() && get(&inner, 2).is_some());
    })));
    set_countdown(n);
    if grow {
        put(&all[64])
    } else {
        take(&all[15])
    }
    set_countdown(0);
    let came = INTERRUPT.take().is_none();
    assert_eq!(t.buckets(), if grow { 128 } else { 64 }, "at checkpoint {n}");
    let there = |k| get(&t, k).is_some();
    assert_eq!((there(1), there(100)), (!came, came), "at checkpoint {n}");
    let kept = if grow { 65 } else { 15 };
    assert!((0..kept).filter(|&k| k != 1).all(there) && (kept..65).all(|k| !there(k)), "at checkpoint {n}");
    let mut seen = 0;
    t.for_each(|_| {
        seen += 1;
        true
    });
    assert_eq!((seen, t.len()), (kept, kept), "at checkpoint {n}");
    drop((t, all));
    rcu_barrier();
    assert_eq!(live.load(Relaxed), 0);
    came
}
