//! Read-copy-update.
//!
//! Interface: [`rcu_read_lock`], [`Rcu`] (an RCU-protected pointer: `dereference`, `assign`, `replace`), [`rcu_dereference`]
//! and its like for bare pointers, [`call_rcu`], [`kfree_rcu`], [`synchronize_rcu`], [`rcu_barrier`], [`Domain`].
//! Linux counterpart: `include/linux/rcupdate.h`, `kernel/rcu/`; a simulator's domain counts readers as `srcutiny.c` does.
//! Locks and context: readers anywhere, never blocking. `synchronize_rcu` and `rcu_barrier` sleep. Callbacks run with bottom
//! halves off, in whatever thread finds that their grace period has ended, and never under a lock of whoever retired.
//!
//! Readers announce themselves in a slot of their thread with the epoch they saw. Something retired in epoch `e` is freed
//! once the epoch has moved on twice, which it only does when every active reader has seen the current one. Like an
//! allocator, the reclaimer is the process's; it holds no state of any network.
//!
//! Where many contexts share a thread (a simulator), or a thread's slot is gone (it is ending), readers are counted instead,
//! by the parity of the epoch they began in, and the context remembers which count is its own.

use crate::cpu::{self, rcu_nesting};
use crate::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, Plant, fence, planted};
use crate::{maybe_const, per_thread, shared_static};
use crossbeam_utils::CachePadded;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::ptr;
use std::sync::{Arc, PoisonError};

/// What a thread's reader slot holds when it reads nothing.
const IDLE: u64 = 0;
/// Callbacks that make `call_rcu` try to end a grace period itself; also how many run with bottom halves off at a stretch.
const BATCH: usize = 64;
/// Callbacks at which `call_rcu` waits for grace periods, wherever its caller may sleep (`qhimark`).
const QHIMARK: usize = 10_000;

/// In a context's nesting count: the section is in one of the counts, and in which.
const COUNTED: u32 = 1 << 31;
const PARITY: u32 = 1 << 30;
const NESTING: u32 = PARITY - 1;

type Callback = Box<dyn FnOnce() + Send>;

/// A reclaimer: an epoch, the readers it has to wait for, the callbacks that wait.
struct Inner {
    /// All its readers and writers are contexts of one thread.
    sim: bool,
    /// No reader gets a slot: each is counted.
    counted: bool,
    /// A simulator's domain has a thread.
    taken: AtomicBool,
    epoch: CachePadded<AtomicU64>,
    /// Readers without a slot, by the parity of their epoch.
    counts: [AtomicU32; 2],
    readers: Mutex<Vec<Arc<Reader>>>,
    retired: CachePadded<Mutex<Retired>>,
    /// Somebody runs callbacks: one at a time does, so they run in the order of `call_rcu`.
    running: AtomicBool,
    /// Callbacks that have run.
    done: AtomicU64,
}

struct Retired {
    /// With the epoch each was queued in, which never falls.
    list: VecDeque<(u64, Callback)>,
    /// Callbacks ever queued.
    queued: u64,
}

/// A thread's slot in its domain.
struct Reader {
    epoch: CachePadded<AtomicU64>,
    domain: *const Inner,
}

// SAFETY: `domain` is only followed by the slot's thread, while the domain is installed there.
unsafe impl Send for Reader {}
// SAFETY: as above; the rest is atomic.
unsafe impl Sync for Reader {}

shared_static! {
    static PROCESS: Inner = Inner::new(false, false);
}

per_thread! {
    /// The thread's slot, or null. Apart from `OWNED`, so that the fast path needs no check whether it has been dropped.
    static READER: Cell<*const Reader> = Cell::new(ptr::null());
}

per_thread! {
    /// The thread's domain; null: the process's.
    static CURRENT: Cell<*const Inner> = Cell::new(ptr::null());
}

per_thread! {
    static OWNED: Owned = Owned(RefCell::new(None));
}

/// Gives the slot back when the thread ends.
struct Owned(RefCell<Option<Arc<Reader>>>);

impl Drop for Owned {
    fn drop(&mut self) {
        let Some(r) = self.0.get_mut().take() else { return };
        // A thread that ends inside a section keeps its slot for ever: wrong, but not unsafe.
        let ended_inside = r.epoch.load(Ordering::Relaxed) != IDLE;
        if ended_inside || READER.try_with(|p| p.set(ptr::null())).is_err() {
            std::mem::forget(r);
        } else {
            with_domain(|d| d.forget_reader(&r));
        }
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

fn with_domain<R>(f: impl FnOnce(&Inner) -> R) -> R {
    let d = CURRENT.try_with(Cell::get).unwrap_or(ptr::null());
    // SAFETY: set by `Domain::install`, whose guard keeps the domain alive until it takes the pointer away.
    f(unsafe { d.as_ref() }.unwrap_or_else(|| PROCESS.myself()))
}

// --- the read side ---

/// A read-side critical section.
#[must_use]
pub struct RcuReadGuard(PhantomData<*const ()>);

/// `rcu_read_lock`; nests.
#[inline]
pub fn rcu_read_lock() -> RcuReadGuard {
    if rcu_nesting(|n| n.replace(n.get() + 1)) == 0 {
        // SAFETY: the slot is `OWNED`'s, which takes the pointer away before it lets go.
        match unsafe { READER.try_with(Cell::get).unwrap_or(ptr::null()).as_ref() } {
            Some(r) => r.announce(),
            None => announce_slowly(),
        }
    }
    RcuReadGuard(PhantomData)
}

impl Drop for RcuReadGuard {
    /// `rcu_read_unlock`.
    #[inline]
    fn drop(&mut self) {
        let left = rcu_nesting(|n| n.replace(n.get() - 1)) - 1;
        if left == 0 {
            // SAFETY: as in `rcu_read_lock`.
            if let Some(r) = unsafe { READER.try_with(Cell::get).unwrap_or(ptr::null()).as_ref() } {
                r.epoch.store(IDLE, Ordering::Release);
            }
        } else if left & NESTING == 0 {
            uncount(left);
        }
    }
}

/// Whether the calling context is in a read section.
#[inline]
pub fn rcu_read_lock_held() -> bool {
    rcu_nesting(Cell::get) & NESTING != 0
}

impl Reader {
    /// The announcement must be visible before anything protected is read, and the last section's reads before it.
    #[inline(always)]
    fn announce(&self) {
        // SAFETY: the slot is its thread's only while its domain is installed there.
        let now = unsafe { &(*self.domain).epoch }.load(Ordering::Relaxed);
        // The full barrier is most of what a section costs, 4 of 6 ns; `membarrier` instead of it would not be seen in a packet.
        self.epoch.store(now, Ordering::Release);
        fence(Ordering::SeqCst);
    }
}

/// The first section of a thread, and each where readers are counted.
#[cold]
fn announce_slowly() {
    with_domain(|d| match d.counted {
        true => d.count(),
        false => match d.register() {
            Some(r) => r.announce(),
            None => d.count(),
        },
    });
}

#[cold]
fn uncount(left: u32) {
    rcu_nesting(|n| n.set(0));
    let parity = usize::from(left & PARITY != 0);
    with_domain(|d| d.counts[parity].fetch_sub(1, Ordering::Release));
}

// --- the domain ---

impl Inner {
    maybe_const! {
        pub fn new(sim: bool, counted: bool) -> Inner {
            Inner {
                sim,
                counted,
                taken: AtomicBool::new(false),
                epoch: CachePadded::new(AtomicU64::new(2)),
                counts: [AtomicU32::new(0), AtomicU32::new(0)],
                readers: Mutex::new(Vec::new()),
                retired: CachePadded::new(Mutex::new(Retired { list: VecDeque::new(), queued: 0 })),
                running: AtomicBool::new(false),
                done: AtomicU64::new(0),
            }
        }
    }

    fn myself(&self) -> &Inner {
        self
    }

    /// Gives the calling thread its slot; `None` if the thread is ending.
    fn register(&self) -> Option<Arc<Reader>> {
        let r = Arc::new(Reader { epoch: CachePadded::new(AtomicU64::new(IDLE)), domain: self });
        OWNED.try_with(|o| *o.0.borrow_mut() = Some(r.clone())).ok()?;
        lock(&self.readers).push(r.clone());
        READER.with(|p| p.set(Arc::as_ptr(&r)));
        Some(r)
    }

    fn forget_reader(&self, r: &Arc<Reader>) {
        lock(&self.readers).retain(|x| !Arc::ptr_eq(x, r));
    }

    /// Counts a reader in the current epoch. It must still be current once the count can be seen: a reader that the other
    /// count had let pass would hold up the wrong one of the next two epochs.
    fn count(&self) {
        let parity = loop {
            let now = self.epoch.load(Ordering::Relaxed);
            let parity = (now & 1) as usize;
            self.counts[parity].fetch_add(1, Ordering::Relaxed);
            if self.sim {
                break parity;
            }
            fence(Ordering::SeqCst);
            if self.epoch.load(Ordering::Relaxed) == now {
                break parity;
            }
            self.counts[parity].fetch_sub(1, Ordering::Release);
        };
        rcu_nesting(|n| n.set(n.get() | COUNTED | if parity == 1 { PARITY } else { 0 }));
    }

    /// Moves the epoch on if every active reader has seen the current one; says which it is now.
    fn try_advance(&self) -> u64 {
        let readers = lock(&self.readers);
        fence(Ordering::SeqCst);
        let now = self.epoch.load(Ordering::Relaxed);
        let lagging = readers.iter().any(|r| {
            let e = r.epoch.load(Ordering::Acquire);
            e != IDLE && e != now
        });
        if lagging || self.counts[(now + 1) as usize & 1].load(Ordering::Acquire) != 0 {
            return now;
        }
        self.epoch.store(now + 1, Ordering::SeqCst);
        now + 1
    }

    fn call(&self, f: Callback) {
        // What was unpublished before the call is so for every reader that announces itself after this.
        fence(Ordering::SeqCst);
        let waiting = {
            let mut q = lock(&self.retired);
            let now = self.epoch.load(Ordering::SeqCst);
            q.list.push_back((now, f));
            q.queued += 1;
            q.list.len()
        };
        if waiting >= BATCH && (waiting.is_multiple_of(BATCH) || waiting >= QHIMARK) {
            self.pressed();
        }
    }

    /// Many callbacks wait. Where the caller holds no lock it runs those that may; it even waits for that when there are too
    /// many, so that whoever retires faster than grace periods end is slowed down. Elsewhere a softirq does it.
    #[cold]
    fn pressed(&self) {
        if self.sim || cpu::in_atomic() || rcu_read_lock_held() {
            return cpu::raise_if_inside(cpu::RCU_SOFTIRQ);
        }
        self.process();
        let mut spins = 0;
        while lock(&self.retired).list.len() >= QHIMARK {
            cpu::relax(spins);
            spins = spins.saturating_add(64);
            self.process();
        }
    }

    /// Runs the callbacks whose grace period has ended, of those queued before; ends grace periods if it can.
    fn process(&self) {
        let goal = {
            let q = lock(&self.retired);
            if q.list.is_empty() {
                return;
            }
            q.queued
        };
        if self.running.swap(true, Ordering::Acquire) {
            return;
        }
        let _running = OnDrop(|| self.running.store(false, Ordering::Release));
        let mut before = 0;
        while self.done.load(Ordering::Relaxed) < goal {
            let epoch = self.try_advance();
            if !self.run_batch(epoch) && epoch == before {
                break;
            }
            before = epoch;
        }
    }

    /// Runs a batch of what is ready; `false` if nothing is.
    fn run_batch(&self, epoch: u64) -> bool {
        let epochs = if planted(Plant::RcuOneEpoch) { 1 } else { 2 };
        let ready = {
            let mut q = lock(&self.retired);
            let n = q.list.iter().take(BATCH).take_while(|(e, _)| e + epochs <= epoch).count();
            q.list.drain(..n).collect()
        };
        let mut batch = Batch { domain: self, ready };
        if batch.ready.is_empty() {
            return false;
        }
        let _bh = cpu::local_bh_disable();
        while let Some((_, f)) = batch.ready.pop_front() {
            let _count = OnDrop(|| {
                self.done.fetch_add(1, Ordering::Release);
            });
            f();
        }
        true
    }

    #[cfg_attr(debug_assertions, track_caller)]
    fn synchronize(&self) {
        debug_assert!(!rcu_read_lock_held(), "synchronize_rcu inside rcu_read_lock: it would wait for its own caller");
        cpu::might_sleep();
        fence(Ordering::SeqCst);
        let goal = self.epoch.load(Ordering::SeqCst) + if planted(Plant::RcuOneEpoch) { 1 } else { 2 };
        let mut spins = 0;
        while self.try_advance() < goal {
            cpu::relax(spins);
            spins = spins.saturating_add(64);
        }
    }

    fn barrier(&self) {
        cpu::assert_may_sleep();
        debug_assert!(!rcu_read_lock_held(), "rcu_barrier inside rcu_read_lock: it would wait for its own caller");
        let goal = lock(&self.retired).queued;
        let mut spins = 0;
        loop {
            self.process();
            if self.done.load(Ordering::Acquire) >= goal {
                return;
            }
            cpu::relax(spins);
            spins = spins.saturating_add(64);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let left = {
            let q = self.retired.get_mut().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut q.list)
        };
        if left.is_empty() {
            return;
        }
        // A context that was thrown away inside a section may still hold what these would free.
        let read = self.counts.iter().any(|c| c.load(Ordering::Acquire) != 0);
        for (_, f) in left {
            if read { std::mem::forget(f) } else { f() }
        }
    }
}

/// Callbacks that are being run. If one panics, those behind it go back.
struct Batch<'d> {
    domain: &'d Inner,
    ready: VecDeque<(u64, Callback)>,
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if !self.ready.is_empty() {
            let mut q = lock(&self.domain.retired);
            self.ready.append(&mut q.list);
            std::mem::swap(&mut self.ready, &mut q.list);
        }
    }
}

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A reclaimer of its own, for a thread or a group of them that shares no RCU-protected data with the rest of the process: a
/// simulator, or a model.
#[derive(Clone)]
pub struct Domain(Arc<Inner>);

impl Default for Domain {
    fn default() -> Self {
        Domain::new()
    }
}

impl Domain {
    /// A domain for threads.
    pub fn new() -> Domain {
        Domain(Arc::new(Inner::new(false, false)))
    }

    /// A domain for one thread, on which many [contexts](cpu::CpuContext) take turns, also in the middle of their read
    /// sections. Callbacks run in the order in which they were queued, and only in [`process_callbacks`], [`rcu_barrier`] and
    /// the softirq of RCU: where the simulator has one of them called.
    pub fn new_sim() -> Domain {
        Domain(Arc::new(Inner::new(true, true)))
    }

    /// A domain for threads whose readers are all counted, as those of a thread that is ending are: for checks of that.
    pub fn new_counted() -> Domain {
        Domain(Arc::new(Inner::new(false, true)))
    }

    /// Makes it the calling thread's domain until the guard is dropped. Panics inside a read section, or if a simulator's
    /// domain has a thread already.
    ///
    /// # Safety
    /// Whatever is protected by RCU and reached by the thread meanwhile must be reached only by threads of this domain, from
    /// before it is first published until the last reader is done. Guards must be dropped in reverse order.
    pub unsafe fn install(&self) -> Installed {
        assert!(!rcu_read_lock_held(), "an RCU domain cannot be changed inside a read section");
        let taken = self.0.sim && self.0.taken.swap(true, Ordering::Acquire);
        assert!(!taken, "a simulator's RCU domain is for one thread");
        Installed {
            reader: swap_reader(None),
            outer: CURRENT.with(|c| c.replace(Arc::as_ptr(&self.0))),
            domain: self.0.clone(),
            _not_send: PhantomData,
        }
    }

    /// Runs the callbacks whose grace period has ended, and ends grace periods if no reader is in the way.
    pub fn process_callbacks(&self) {
        self.check_thread();
        self.0.process();
    }

    /// Callbacks that have not run yet.
    pub fn pending(&self) -> usize {
        lock(&self.0.retired).list.len()
    }

    /// Runs all callbacks queued so far, waiting for readers ([`rcu_barrier`]).
    pub fn barrier(&self) {
        self.check_thread();
        self.0.barrier();
    }

    fn check_thread(&self) {
        let mine = CURRENT.with(Cell::get) == Arc::as_ptr(&self.0);
        assert!(
            !self.0.sim || mine || !self.0.taken.load(Ordering::Acquire),
            "a simulator's RCU domain is for its thread alone"
        );
    }
}

/// The thread has another domain; the drop gives back the one before.
#[must_use]
pub struct Installed {
    domain: Arc<Inner>,
    outer: *const Inner,
    reader: Option<Arc<Reader>>,
    _not_send: PhantomData<*const ()>,
}

/// Gives the thread another slot, or none.
fn swap_reader(new: Option<Arc<Reader>>) -> Option<Arc<Reader>> {
    READER.with(|p| p.set(new.as_ref().map_or(ptr::null(), Arc::as_ptr)));
    OWNED.with(|o| o.0.replace(new))
}

impl Drop for Installed {
    fn drop(&mut self) {
        debug_assert!(std::thread::panicking() || !rcu_read_lock_held(), "an RCU domain is left inside a read section");
        let old = swap_reader(self.reader.take());
        if let Some(r) = old.filter(|_| !rcu_read_lock_held()) {
            self.domain.forget_reader(&r);
        }
        CURRENT.with(|c| c.set(self.outer));
        if self.domain.sim {
            self.domain.taken.store(false, Ordering::Release);
        }
    }
}

// --- the update side ---

/// Calls `f` after a grace period: when every reader that may have seen what was unpublished before this call is done.
///
/// `f` runs with bottom halves off and must not sleep. Any context may call this. Where sleeping is allowed it waits once
/// 10,000 callbacks are queued, so that a flood of them has a bound.
pub fn call_rcu(f: impl FnOnce() + Send + 'static) {
    let f: Callback = Box::new(f);
    with_domain(|d| d.call(f));
}

/// Drops `v` after a grace period.
pub fn kfree_rcu<T: Send + 'static>(v: T) {
    call_rcu(move || drop(v));
}

/// Runs the callbacks whose grace period has ended; called by the ticking CPUs, and as a softirq.
pub fn process_callbacks() {
    with_domain(Inner::process);
}

/// Waits for a grace period. Not in atomic context, and never inside a read section: that would be for ever.
#[cfg_attr(debug_assertions, track_caller)]
pub fn synchronize_rcu() {
    with_domain(|d| {
        d.synchronize();
        if !d.sim {
            d.process();
        }
    });
}

/// Waits until every callback queued before has run. Context as for [`synchronize_rcu`].
pub fn rcu_barrier() {
    with_domain(Inner::barrier);
}

// --- bare pointers ---

/// Reads a protected pointer in order to follow it. Debug builds complain outside a read section.
#[inline]
#[track_caller]
pub fn rcu_dereference<T>(p: &AtomicPtr<T>) -> *mut T {
    debug_assert!(rcu_read_lock_held(), "rcu_dereference outside rcu_read_lock");
    p.load(Ordering::Acquire)
}

/// Reads a protected pointer that nobody can change now, because the caller holds the writers' lock.
#[inline]
pub fn rcu_dereference_protected<T>(p: &AtomicPtr<T>) -> *mut T {
    p.load(Ordering::Relaxed)
}

/// Reads a protected pointer to compare it, not to follow it.
#[inline]
pub fn rcu_access_pointer<T>(p: &AtomicPtr<T>) -> *mut T {
    p.load(Ordering::Relaxed)
}

/// Publishes what `v` points to, complete.
#[inline]
pub fn rcu_assign_pointer<T>(p: &AtomicPtr<T>, v: *mut T) {
    p.store(v, Ordering::Release);
}

/// Publishes `v` and returns what was there, which must outlive a grace period.
#[inline]
pub fn rcu_replace_pointer<T>(p: &AtomicPtr<T>, v: *mut T) -> *mut T {
    p.swap(v, Ordering::AcqRel)
}

// --- counted values ---

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
    v.map_or(ptr::null_mut(), |a| Arc::into_raw(a).cast_mut())
}

impl<T: Send + Sync + 'static> Rcu<T> {
    pub fn new(v: Option<Arc<T>>) -> Self {
        Rcu { ptr: AtomicPtr::new(into_raw(v)), _owns: PhantomData }
    }

    /// `rcu_dereference`: the value, for as long as the read section lasts.
    #[inline]
    #[track_caller]
    pub fn dereference<'g>(&self, _section: &'g RcuReadGuard) -> Option<&'g T> {
        // SAFETY: the pointer came from `into_raw`; its reference is dropped only a grace period after it was unpublished,
        // and the section began before that grace period could end.
        unsafe { rcu_dereference(&self.ptr).as_ref() }
    }

    /// A counted reference that outlives any read section.
    pub fn get(&self) -> Option<Arc<T>> {
        let _section = rcu_read_lock();
        let p = rcu_dereference(&self.ptr);
        if p.is_null() {
            return None;
        }
        // SAFETY: as in `dereference`, the pointer's own reference is alive here, so one more may be counted.
        unsafe {
            Arc::increment_strong_count(p);
            Some(Arc::from_raw(p))
        }
    }

    /// `rcu_access_pointer`: which value it is, for comparing only; null for none.
    #[inline]
    pub fn access(&self) -> *const T {
        rcu_access_pointer(&self.ptr)
    }

    /// `rcu_assign_pointer`; the old value is released after a grace period.
    pub fn assign(&self, v: Option<Arc<T>>) {
        drop_later(rcu_replace_pointer(&self.ptr, into_raw(v)));
    }

    /// `rcu_replace_pointer`: the old value, which readers may still use.
    pub fn replace(&self, v: Option<Arc<T>>) -> Option<Arc<T>> {
        let old = rcu_replace_pointer(&self.ptr, into_raw(v));
        if old.is_null() {
            return None;
        }
        // SAFETY: the pointer's reference has become ours. It is kept for a grace period, the caller gets another.
        let old = unsafe { Arc::from_raw(old) };
        kfree_rcu(old.clone());
        Some(old)
    }

    /// Publishes `v` only where nothing is yet; gives it back otherwise.
    pub fn assign_if_none(&self, v: Arc<T>) -> Result<(), Arc<T>> {
        let raw = into_raw(Some(v));
        match self.ptr.compare_exchange(ptr::null_mut(), raw, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => Ok(()),
            // SAFETY: not published, so the reference taken by `into_raw` is still ours.
            Err(_) => Err(unsafe { Arc::from_raw(raw) }),
        }
    }
}

fn drop_later<T: Send + Sync + 'static>(old: *mut T) {
    if !old.is_null() {
        // SAFETY: the pointer held one reference, which nobody can reach any more.
        kfree_rcu(unsafe { Arc::from_raw(old) });
    }
}

impl<T: Send + Sync + 'static> Drop for Rcu<T> {
    fn drop(&mut self) {
        drop_later(self.ptr.load(Ordering::Relaxed));
    }
}
