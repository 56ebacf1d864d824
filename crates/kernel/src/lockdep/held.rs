//! The locks that a context holds, and what is checked when it takes or drops one.
//!
//! Interface: [`HeldSlot`] (a context's list while it does not run), [`acquire`], [`acquired`], [`release`], [`enabled`],
//! [`sleeping`], [`describe`].
//! Linux counterpart: `task_struct::held_locks`, `__lock_acquire`, `lock_release`, `__might_resched`.
//! Locks and context: any; thread-local. The list is made when a context takes its first lock, and not per lock.

use super::entry::HeldLock;
use super::graph::{self, Link, Use, usage};
use super::report::{LOOSE_BABBLE, Problem, deliver, deliver_stuck};
use super::state::State;
use super::text;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic::Location;
use std::ptr;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

type At = &'static Location<'static>;

/// Whether there is a validator.
pub(crate) const ON: bool = true;
/// `MAX_LOCK_DEPTH`.
const MAX_DEPTH: usize = 48;

/// Where a state began.
#[derive(Clone, Default)]
pub(crate) struct Since(Cell<Option<At>>);

impl Since {
    pub(crate) const fn new() -> Self {
        Since(Cell::new(None))
    }
    pub(crate) fn swap(&self, o: &Since) {
        self.0.swap(&o.0);
    }
    pub(crate) fn set(&self, at: At) {
        self.0.set(Some(at));
    }
    pub(crate) fn get(&self) -> Option<At> {
        self.0.get()
    }
}

/// A context's list.
pub(super) struct Held {
    id: u32,
    name: String,
    locks: Vec<HeldLock>,
    /// Locks beyond [`MAX_DEPTH`].
    beyond: usize,
}

static NEXT_ID: AtomicU32 = AtomicU32::new(1);

impl Held {
    fn new() -> Self {
        let name = AT_EXIT.try_with(|_| std::thread::current().name().unwrap_or("without a name").to_owned());
        let mut h = Held {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            name: String::new(),
            locks: Vec::with_capacity(MAX_DEPTH),
            beyond: 0,
        };
        h.set_name(name.unwrap_or_else(|_| "that ends".into()));
        h
    }

    fn set_name(&mut self, name: String) {
        names().insert(self.id, (name.clone(), false));
        self.name = name;
    }
}

thread_local! {
    /// The running context's list; null before its first lock.
    static CURRENT: Cell<*mut RefCell<Held>> = const { Cell::new(ptr::null_mut()) };
    static AT_EXIT: AtExit = const { AtExit };
}

struct AtExit;

impl Drop for AtExit {
    fn drop(&mut self) {
        let own = HeldSlot::default();
        own.switch();
    }
}

/// The list of a context that is not running.
pub(crate) struct HeldSlot(Cell<*mut RefCell<Held>>);

impl Default for HeldSlot {
    fn default() -> Self {
        HeldSlot(Cell::new(ptr::null_mut()))
    }
}

impl HeldSlot {
    /// Exchanges it with the running context's.
    pub(crate) fn switch(&self) {
        CURRENT.with(|c| c.swap(&self.0));
    }

    /// Names the context in reports.
    pub(crate) fn set_name(&self, name: &str) {
        if self.0.get().is_null() {
            self.0.set(Box::into_raw(Box::new(RefCell::new(Held::new()))));
        }
        // SAFETY: not null, made by `Box::into_raw`, and freed by the drop of this slot only.
        unsafe { &*self.0.get() }.borrow_mut().set_name(name.to_owned());
    }
}

impl Drop for HeldSlot {
    /// The context has ended.
    fn drop(&mut self) {
        let p = self.0.get();
        if p.is_null() {
            return;
        }
        // SAFETY: made by `Box::into_raw`; no context uses it any more.
        let held = unsafe { Box::from_raw(p) }.into_inner();
        forget_name(held.id);
        if !held.locks.is_empty() {
            let text = text::exit_holding(&held.name, &held.locks);
            deliver(Problem::ExitHolding, None, text, &LOOSE_BABBLE);
        }
    }
}

/// The running context's list. `f` must take no lock and deliver no report.
fn with<R>(f: impl FnOnce(&mut Held) -> R) -> R {
    let mut p = CURRENT.with(Cell::get);
    if p.is_null() {
        p = Box::into_raw(Box::new(RefCell::new(Held::new())));
        CURRENT.with(|c| c.set(p));
    }
    // SAFETY: made by `Box::into_raw`; freed when the context, which is this one, has ended.
    f(&mut unsafe { &*p }.borrow_mut())
}

/// Whether the context holds any lock; makes no list.
fn holds_any() -> bool {
    let p = CURRENT.with(Cell::get);
    // SAFETY: as in `with`.
    !p.is_null() && !unsafe { &*p }.borrow().locks.is_empty()
}

/// The running context's number.
pub(super) fn my_id() -> u32 {
    with(|h| h.id)
}

/// The running context's name.
pub(super) fn my_name() -> String {
    with(|h| h.name.clone())
}

/// A context has ended. The latest are remembered: who had a lock last may be gone.
fn forget_name(id: u32) {
    const REMEMBERED: usize = 4096;
    let mut names = names();
    if let Some(n) = names.get_mut(&id) {
        n.1 = true;
    }
    while names.len() > REMEMBERED {
        names.pop_first();
    }
}

/// The name of the context with this number, and whether it has ended.
pub(super) fn name_of(id: u32) -> (String, bool) {
    names().get(&id).cloned().unwrap_or_else(|| ("of long ago".into(), true))
}

fn names() -> MutexGuard<'static, BTreeMap<u32, (String, bool)>> {
    static NAMES: Mutex<BTreeMap<u32, (String, bool)>> = Mutex::new(BTreeMap::new());
    NAMES.lock().unwrap_or_else(PoisonError::into_inner)
}

type Complaint = (Problem, String);

/// `new` is about to be waited for.
pub(super) fn acquire(new: HeldLock, state: &State, babble: &AtomicU8) {
    let found = with(|h| check(h, &new, state));
    if let Some((problem, text)) = found {
        deliver(problem, Some(new.at), text, babble);
    }
}

fn check(h: &Held, new: &HeldLock, state: &State) -> Option<Complaint> {
    let both_read = |l: &HeldLock| l.nests() && new.nests();
    if let Some(l) = h.locks.iter().find(|l| l.lock == new.lock && !both_read(l)) {
        return Some((Problem::Recursion, text::recursion(&h.name, l, new, state)));
    }
    let same_class = |l: &&HeldLock| l.class == new.class && l.class != 0 && l.level == new.level && l.lock != new.lock;
    let fine = |l: &&HeldLock| both_read(l) || l.goes_on_with(new);
    if let Some(l) = h.locks.iter().find(|l| same_class(l) && !fine(l)) {
        return Some((Problem::Nesting, text::nesting(&h.name, l, new, state)));
    }
    let uses = |found| {
        let problem = if matches!(found, graph::Finding::Irq { .. }) { Problem::IrqUse } else { Problem::IrqChain };
        (problem, text::irq(&h.name, new, &found, state))
    };
    let bits = usage_bits(new, state);
    if let Some(f) = graph::mark(new.class, bits, Use { at: new.at, held: false }) {
        return Some(uses(f));
    }
    for l in h.locks.iter().rev().filter(|l| l.level == new.level && l.class != new.class) {
        let link = Link { from: l.end(), to: new.end(), context: state.name() };
        match graph::depend(link) {
            Some(graph::Finding::Circle(chain)) => {
                return Some((Problem::Inversion, text::inversion(&h.name, l, new, &chain, state)));
            }
            Some(f) => return Some(uses(f)),
            None => {}
        }
    }
    None
}

fn usage_bits(new: &HeldLock, state: &State) -> u8 {
    let mut bits = 0;
    if !new.how.trylock {
        bits |= [0, usage::IN_SOFTIRQ, usage::IN_HARDIRQ][state.level() as usize];
    }
    bits |= enabled_bits(state);
    if new.nests() { bits << usage::READ } else { bits }
}

/// What may interrupt a context in this state.
fn enabled_bits(state: &State) -> u8 {
    if state.irqs_off || state.hardirq {
        return 0;
    }
    let softirqs = !(state.bh_off || state.softirq);
    usage::HARDIRQ_ON | if softirqs { usage::SOFTIRQ_ON } else { 0 }
}

/// `new` is held now.
pub(super) fn acquired(new: HeldLock, state: &State, babble: &AtomicU8) {
    let found = with(|h| {
        let mut found = None;
        if new.how.trylock {
            let why = Use { at: new.at, held: false };
            found = graph::mark(new.class, usage_bits(&new, state), why)
                .map(|f| (Problem::IrqUse, text::irq(&h.name, &new, &f, state)));
        }
        if let Some(l) = h.locks.iter_mut().find(|l| l.goes_on_with(&new)) {
            l.last = new.lock;
            l.count += 1;
        } else if h.locks.len() < MAX_DEPTH {
            h.locks.push(new);
        } else {
            h.beyond += 1;
            found = found.or_else(|| Some((Problem::TooDeep, text::too_deep(&h.name, &h.locks, &new))));
        }
        found
    });
    if let Some((problem, text)) = found {
        deliver(problem, Some(new.at), text, babble);
    }
}

/// The lock is about to be let go. `describe` says which it is.
pub(super) fn release(lock: usize, babble: &AtomicU8, describe: impl FnOnce() -> String) {
    let found = with(|h| {
        if let Some(i) = h.locks.iter().rposition(|l| l.has(lock)) {
            h.locks[i].count -= 1;
            if h.locks[i].count == 0 {
                h.locks.remove(i);
            }
            None
        } else if h.beyond > 0 {
            h.beyond -= 1;
            None
        } else {
            Some(text::not_held(&h.name, &h.locks, &describe()))
        }
    });
    if let Some(text) = found {
        deliver(Problem::NotHeld, None, text, babble);
    }
}

/// Whether the running context holds the lock.
pub(super) fn holds(lock: usize) -> bool {
    with(|h| h.locks.iter().any(|l| l.has(lock)))
}

/// Interrupts or bottom halves have just been turned on: that matters to the locks held.
pub(crate) fn enabled(state: &State) {
    if !holds_any() {
        return;
    }
    let found = with(|h| {
        let level = state.level();
        h.locks.iter().filter(|l| l.level == level).find_map(|l| {
            let bits = enabled_bits(state) << if l.nests() { usage::READ } else { 0 };
            let f = graph::mark(l.class, bits, Use { at: l.at, held: true })?;
            Some((l.at, text::irq(&h.name, l, &f, state)))
        })
    });
    if let Some((at, text)) = found {
        deliver(Problem::IrqUse, Some(at), text, &LOOSE_BABBLE);
    }
}

/// The caller may sleep, at `at`, in a state in which it must not.
#[cold]
pub(crate) fn sleeping(at: At, state: &State) {
    let text = with(|h| text::sleeping(&h.name, &h.locks, at, state));
    // An interruption has no task that could sleep and go on later.
    deliver_stuck(Problem::Sleep, Some(at), text, &LOOSE_BABBLE, state.hardirq || state.softirq);
}

/// The locks that the running context holds, a line each.
pub(super) fn describe() -> String {
    with(|h| text::held(&h.locks))
}
