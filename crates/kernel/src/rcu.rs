//! Read-copy-update.
//!
//! Interface: [`rcu_read_lock`], [`Rcu`] (an RCU-protected pointer: `read`, `assign`), [`call_rcu`], [`synchronize_rcu`].
//! Linux counterpart: `include/linux/rcupdate.h`, `kernel/rcu/`.
//! Locks and context: readers anywhere, never blocking. `synchronize_rcu` sleeps. Callbacks run in whatever thread finds
//! that their grace period has ended.
//!
//! Readers announce themselves in a slot of their thread with the epoch they saw. Something retired in epoch `e` is freed
//! once the epoch has moved on twice, which it only does when every active reader has seen the current one. Like an
//! allocator, the reclaimer is the process's; it holds no state of any network.

use crate::cpu::rcu_nesting;
use std::cell::{Cell, OnceCell};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a thread's reader slot holds when it reads nothing.
const IDLE: u64 = 0;
/// Retired callbacks that make `call_rcu` try to end a grace period itself.
const BATCH: usize = 64;

struct Reader {
    epoch: AtomicU64,
}

static EPOCH: AtomicU64 = AtomicU64::new(2);
static READERS: Mutex<Vec<Arc<Reader>>> = Mutex::new(Vec::new());
static RETIRED: Mutex<Vec<(u64, Retired)>> = Mutex::new(Vec::new());

type Retired = Box<dyn FnOnce() + Send>;

struct Local {
    reader: OnceCell<Arc<Reader>>,
}

thread_local! {
    static LOCAL: Local = const { Local { reader: OnceCell::new() } };
}

impl Drop for Local {
    fn drop(&mut self) {
        if let Some(r) = self.reader.get() {
            lock(&READERS).retain(|x| !Arc::ptr_eq(x, r));
        }
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A read-side critical section.
#[must_use]
pub struct RcuReadGuard(PhantomData<*const ()>);

/// `rcu_read_lock`; nests.
#[inline]
pub fn rcu_read_lock() -> RcuReadGuard {
    if rcu_nesting(|n| n.replace(n.get() + 1)) == 0 {
        LOCAL.with(|l| {
            let r = l.reader.get_or_init(register);
            r.epoch.store(EPOCH.load(Ordering::Relaxed), Ordering::Relaxed);
        });
        // The announcement must be visible before anything protected is read.
        fence(Ordering::SeqCst);
    }
    RcuReadGuard(PhantomData)
}

#[cold]
fn register() -> Arc<Reader> {
    let r = Arc::new(Reader { epoch: AtomicU64::new(IDLE) });
    lock(&READERS).push(r.clone());
    r
}

impl Drop for RcuReadGuard {
    #[inline]
    fn drop(&mut self) {
        if rcu_nesting(|n| n.replace(n.get() - 1)) == 1 {
            LOCAL.with(|l| {
                if let Some(r) = l.reader.get() {
                    r.epoch.store(IDLE, Ordering::Release);
                }
            });
        }
    }
}

/// Moves the epoch on if every active reader has seen the current one.
fn try_advance() -> u64 {
    let readers = lock(&READERS);
    fence(Ordering::SeqCst);
    let now = EPOCH.load(Ordering::Relaxed);
    let lagging = readers.iter().any(|r| {
        let e = r.epoch.load(Ordering::Acquire);
        e != IDLE && e != now
    });
    if lagging {
        return now;
    }
    EPOCH.store(now + 1, Ordering::SeqCst);
    now + 1
}

/// Calls `f` after a grace period: when every reader that may have seen what was unpublished before this call is done.
pub fn call_rcu(f: impl FnOnce() + Send + 'static) {
    fence(Ordering::SeqCst);
    let full = {
        let mut q = lock(&RETIRED);
        q.push((EPOCH.load(Ordering::SeqCst), Box::new(f)));
        q.len() >= BATCH
    };
    if full {
        process_callbacks();
    }
}

/// Runs the callbacks whose grace period has ended; called by the ticking CPUs and by busy retirers.
pub fn process_callbacks() {
    if lock(&RETIRED).is_empty() {
        return;
    }
    let epoch = try_advance();
    let ready: Vec<_> = {
        let mut q = lock(&RETIRED);
        let n = q.partition_point(|(e, _)| e + 2 <= epoch);
        q.drain(..n).collect()
    };
    for (_, f) in ready {
        f();
    }
}

/// Waits for a grace period. Not in atomic context, and never inside a read section: that would be for ever.
pub fn synchronize_rcu() {
    debug_assert!(rcu_nesting(Cell::get) == 0, "synchronize_rcu inside rcu_read_lock");
    fence(Ordering::SeqCst);
    let goal = EPOCH.load(Ordering::SeqCst) + 2;
    let mut spins = 0;
    while try_advance() < goal {
        crate::cpu::relax(spins);
        spins = spins.saturating_add(64);
    }
    process_callbacks();
}

/// An RCU-protected pointer to a shared value, possibly null.
pub struct Rcu<T: Send + Sync + 'static> {
    ptr: AtomicPtr<T>,
    _owns: PhantomData<Arc<T>>,
}

impl<T: Send + Sync + 'static> Default for Rcu<T> {
    fn default() -> Self {
        Rcu::new(None)
    }
}

fn into_raw<T>(v: Option<Arc<T>>) -> *mut T {
    v.map_or(std::ptr::null_mut(), |a| Arc::into_raw(a).cast_mut())
}

impl<T: Send + Sync + 'static> Rcu<T> {
    pub fn new(v: Option<Arc<T>>) -> Self {
        Rcu { ptr: AtomicPtr::new(into_raw(v)), _owns: PhantomData }
    }

    /// `rcu_dereference`: the value, for as long as the read section lasts.
    #[inline]
    pub fn dereference<'g>(&self, _section: &'g RcuReadGuard) -> Option<&'g T> {
        // SAFETY: the pointer came from `into_raw`; its reference is dropped only a grace period after it was unpublished,
        // and the section began before that grace period could end.
        unsafe { self.ptr.load(Ordering::Acquire).as_ref() }
    }

    /// A counted reference that outlives any read section.
    pub fn get(&self) -> Option<Arc<T>> {
        let _section = rcu_read_lock();
        let p = self.ptr.load(Ordering::Acquire);
        if p.is_null() {
            return None;
        }
        // SAFETY: as in `dereference`, the pointer's own reference is alive here, so one more may be counted.
        unsafe {
            Arc::increment_strong_count(p);
            Some(Arc::from_raw(p))
        }
    }

    /// `rcu_assign_pointer`; the old value is released after a grace period.
    pub fn assign(&self, v: Option<Arc<T>>) {
        drop_later(self.ptr.swap(into_raw(v), Ordering::AcqRel));
    }

    /// Publishes `v` only where nothing is yet; gives it back otherwise.
    pub fn assign_if_none(&self, v: Arc<T>) -> Result<(), Arc<T>> {
        let raw = into_raw(Some(v));
        match self.ptr.compare_exchange(std::ptr::null_mut(), raw, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => Ok(()),
            // SAFETY: not published, so the reference taken by `into_raw` is still ours.
            Err(_) => Err(unsafe { Arc::from_raw(raw) }),
        }
    }
}

fn drop_later<T: Send + Sync + 'static>(old: *mut T) {
    if !old.is_null() {
        // SAFETY: the pointer held one reference, which nobody can reach any more.
        let old = unsafe { Arc::from_raw(old) };
        call_rcu(move || drop(old));
    }
}

impl<T: Send + Sync + 'static> Drop for Rcu<T> {
    fn drop(&mut self) {
        drop_later(*self.ptr.get_mut());
    }
}
