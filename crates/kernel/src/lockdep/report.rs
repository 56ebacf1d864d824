//! What the lock validator says, and to whom.
//!
//! Interface: [`Report`], [`Problem`]; [`set_policy`]; [`collect`] and [`Collector`] for tests; the checks call [`deliver`].
//! Linux counterpart: the printing half of `kernel/locking/lockdep.c`, `debug_locks_off`.
//! Locks and context: any; takes only the standard library's locks, for as long as a list is appended to.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, Location};
use std::ptr;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

/// What is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// A context waits for a lock that it holds.
    Recursion,
    /// Two locks of one class are nested, in an order that nobody vouches for.
    Nesting,
    /// Locks are taken in orders that form a circle.
    Inversion,
    /// A class is taken by interrupts or softirqs, and elsewhere while these may come.
    IrqUse,
    /// The same, through a chain of locks.
    IrqChain,
    /// Sleeping where sleeping is forbidden.
    Sleep,
    /// A lock is let go that the context does not hold.
    NotHeld,
    /// A context ended with locks held.
    ExitHolding,
    /// Spinning for ever.
    Lockup,
    /// More locks held at once than can be right.
    TooDeep,
    /// A task sleeps too long for a lock.
    HungTask,
    /// The memory was never made a lock, or is none any more.
    NotALock,
}

impl Problem {
    /// Whether the caller cannot go on: it would wait for ever, or touch memory that is not a lock.
    fn is_fatal(self) -> bool {
        matches!(self, Problem::Recursion | Problem::Lockup | Problem::NotALock)
    }
}

/// A complaint: what, where, and the text for a person.
#[derive(Clone, Debug)]
pub struct Report {
    pub problem: Problem,
    /// Where the lock was taken, or the call was made, that led to the report. `None` at the end of a context.
    pub at: Option<&'static Location<'static>>,
    /// Several lines: what is wrong, both places, the chain, the contexts, what to do.
    pub text: String,
}

/// What is done with a report that no [`Collector`] takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// Panic with the text, so that a test fails.
    Panic,
    /// To standard error, and go on; each lock complains at most `babble` times.
    Print,
}

/// 0: as the environment says; else a [`Policy`], plus one.
static POLICY: AtomicU8 = AtomicU8::new(0);

fn prints() -> bool {
    static ASKED: OnceLock<bool> = OnceLock::new();
    match POLICY.load(Ordering::Relaxed) {
        0 => *ASKED.get_or_init(|| std::env::var_os("SOCKEYE_LOCKDEP").is_some_and(|v| v == "print")),
        p => p == Policy::Print as u8 + 1,
    }
}

/// Complaints that belong to no lock, and are still allowed to be printed.
pub(super) static LOOSE_BABBLE: AtomicU8 = AtomicU8::new(100);
/// Rounds of spinning after which a lock is called locked up: some ten seconds of them.
const LOCKUP_SPINS: u32 = 1 << 24;

/// The process's policy; at first [`Policy::Panic`], unless the environment says `SOCKEYE_LOCKDEP=print`.
pub fn set_policy(p: Policy) {
    POLICY.store(p as u8 + 1, Ordering::Relaxed);
}

/// Takes the reports of the threads that are [attached](Collector::attach) to it.
#[derive(Clone, Default)]
pub struct Collector(Arc<Collected>);

#[derive(Default)]
struct Collected {
    reports: Mutex<Vec<Report>>,
    /// 0: the process's figure.
    lockup_spins: AtomicU32,
}

thread_local! {
    /// From `Arc::into_raw`, or null. A plain pointer: it must be there when a thread's other locals are dropped.
    static COLLECTOR: Cell<*const Collected> = const { Cell::new(ptr::null()) };
}

fn collector() -> Option<Collector> {
    let p = COLLECTOR.with(Cell::get);
    if p.is_null() {
        return None;
    }
    // SAFETY: from `Arc::into_raw`; `Attached` takes it away before it gives the reference back.
    unsafe {
        Arc::increment_strong_count(p);
        Some(Collector(Arc::from_raw(p)))
    }
}

impl Collector {
    /// Has this thread's reports delivered here until the drop.
    pub fn attach(&self) -> Attached {
        Attached(COLLECTOR.with(|c| c.replace(Arc::into_raw(self.0.clone()))))
    }

    /// Has attached threads call a lock locked up after `n` rounds.
    pub fn set_lockup_spins(&self, n: u32) {
        self.0.lockup_spins.store(n, Ordering::Relaxed);
    }

    /// What came so far.
    pub fn take(&self) -> Vec<Report> {
        std::mem::take(&mut *self.0.reports.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, r: Report) {
        self.0.reports.lock().unwrap_or_else(PoisonError::into_inner).push(r);
    }
}

/// While it lives the thread's reports go to a [`Collector`].
#[must_use]
pub struct Attached(*const Collected);

impl Drop for Attached {
    fn drop(&mut self) {
        let own = COLLECTOR.with(|c| c.replace(self.0));
        // SAFETY: `attach` made it with `Arc::into_raw`, and nobody reaches it any more.
        drop(unsafe { Arc::from_raw(own) });
    }
}

/// What unwinds out of code that cannot go on, to the nearest [`collect`].
struct Stop;

/// Runs `f` and returns the reports of this thread meanwhile. Code that would hang is left at the report.
pub fn collect(f: impl FnOnce()) -> Vec<Report> {
    let c = Collector::default();
    let attached = c.attach();
    let end = panic::catch_unwind(AssertUnwindSafe(f));
    drop(attached);
    if let Err(why) = end
        && !(&*why as &dyn Any).is::<Stop>()
    {
        panic::resume_unwind(why);
    }
    c.take()
}

/// Rounds after which this thread calls a lock locked up.
pub(super) fn lockup_spins() -> u32 {
    let own = collector().map_or(0, |c| c.0.lockup_spins.load(Ordering::Relaxed));
    if own != 0 { own } else { LOCKUP_SPINS }
}

/// Hands a report on. `babble` is how many more the lock is allowed.
pub(super) fn deliver(problem: Problem, at: Option<&'static Location<'static>>, text: String, babble: &AtomicU8) {
    deliver_stuck(problem, at, text, babble, problem.is_fatal())
}

/// The same; `stuck` says whether the caller cannot go on.
pub(super) fn deliver_stuck(
    problem: Problem,
    at: Option<&'static Location<'static>>,
    text: String,
    babble: &AtomicU8,
    stuck: bool,
) {
    if let Some(c) = collector() {
        c.push(Report { problem, at, text });
        if stuck && !thread::panicking() {
            drop(c);
            panic::resume_unwind(Box::new(Stop));
        }
        return;
    }
    let allowed = babble.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok();
    let panicking = thread::panicking();
    // What is dropped on the way out of one failure says nothing about another.
    if !(stuck || allowed && !panicking) {
        return;
    }
    // A context's end is no place to panic from: that would end the process.
    if prints() || panicking || problem == Problem::ExitHolding {
        eprintln!("{text}");
    } else {
        panic!("{text}");
    }
}
