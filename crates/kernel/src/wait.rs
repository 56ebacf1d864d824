//! Wait queues, and the one way every blocking operation waits.
//!
//! Interface: [`WaitQueueHead`] (`wake_up` and its variants), [`WaitQueueEntry`] (a task, or a callback), [`Wait`] (what an
//! operation that can block carries: `prepare_to_wait`, `finish_wait`, a deadline, signals), [`block_on`].
//! Linux counterpart: `include/linux/wait.h`, `kernel/sched/wait.c`.
//! Locks and context: `wake_up` anywhere, also in softirq context; callbacks run with the queue's lock held and must not
//! touch the queue. Waiting itself is the business of the [`Task`].
//!
//! An operation that may block is a poll. It does what it can; if it has to wait it calls [`Wait::prepare_to_wait`],
//! checks its condition again, and returns `Poll::Pending`. Its caller sleeps as its kind of task sleeps and calls again.
//! When the operation ends, or the [`Wait`] is dropped, the entry is off the queue.
//!
//! An exclusive waiter takes its wake-up away from the others. If it then has its event it says so with
//! [`Wait::finish_wait`]; if it leaves without (a signal, a timeout, a dropped future), or found its event itself after it
//! had prepared to wait, [`Wait::abort_exclusive_wait`], which the drop calls too, passes on a wake-up that it may have had.

use crate::arch::Arch;
use crate::cpu;
use crate::kernel::Kernel;
use crate::lockdep;
use crate::maybe_const;
use crate::span::TaskSpan;
use crate::spinlock::SpinLock;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{OnceLock, Plant, fence, planted};
use crate::task::{TASK_INTERRUPTIBLE, TASK_KILLABLE, TASK_NORMAL, TASK_RUNNING, TASK_UNINTERRUPTIBLE, Task, WF_SYNC};
use crate::tp;
use crate::wait_list::{Link, Linked, List, Step, Then};
use std::sync::Arc;
use std::task::Poll;
use uapi::{Errno, Result};

/// Entries that a wake-up looks at before it lets go of the lock for a moment (`WAITQUEUE_WALK_BREAK_CNT`).
const WALK_BREAK_CNT: u32 = 64;
/// Entries that it takes off before it does.
const TAKEN_MAX: usize = 8;

/// `WQ_FLAG_EXCLUSIVE`: woken one at a time, in the order in which they came.
const EXCLUSIVE: u32 = 1;
/// Woken it stays on the queue (`default_wake_function`), until it goes itself.
const STAYS: u32 = 2;
/// Has been woken since it last prepared to wait. Changes under the queue's lock.
const WOKEN: u32 = 4;

type Callback = Box<dyn Fn(u32) -> bool + Send + Sync>;

enum WakeFunc {
    /// `autoremove_wake_function`, or `default_wake_function` with [`STAYS`].
    Task(Arc<Task>),
    /// For instance `ep_poll_callback`: stays on the queue. Gets the poll mask of the event (0: any); answers whether it
    /// counts as one woken exclusive waiter.
    Callback(Callback),
    /// No waiter: marks how far a long wake-up has come (`WQ_FLAG_BOOKMARK`).
    Bookmark,
}

/// One waiter (`struct wait_queue_entry`).
pub struct WaitQueueEntry {
    link: Link<WaitQueueEntry>,
    func: WakeFunc,
    flags: AtomicU32,
    /// The poll mask of the events it is for; 0: all.
    key: AtomicU32,
    /// The poll mask of the event that woke it.
    woken_by: AtomicU32,
}

impl Linked for WaitQueueEntry {
    fn link(&self) -> &Link<Self> {
        &self.link
    }
}

impl WaitQueueEntry {
    /// `DEFINE_WAIT`: an entry that wakes `task` and leaves the queue (`autoremove_wake_function`).
    pub fn for_task(task: Arc<Task>) -> Arc<Self> {
        Self::new(WakeFunc::Task(task), 0)
    }

    /// `DECLARE_WAITQUEUE`: an entry that wakes `task` and stays, until it is removed (`default_wake_function`).
    pub fn for_task_staying(task: Arc<Task>) -> Arc<Self> {
        Self::new(WakeFunc::Task(task), STAYS)
    }

    /// An entry that calls `f` with the poll mask of each event and stays. `f` runs under the queue's lock.
    pub fn callback(f: impl Fn(u32) -> bool + Send + Sync + 'static) -> Arc<Self> {
        Self::new(WakeFunc::Callback(Box::new(f)), STAYS)
    }

    fn bookmark() -> Arc<Self> {
        Self::new(WakeFunc::Bookmark, STAYS)
    }

    fn new(func: WakeFunc, flags: u32) -> Arc<Self> {
        Arc::new(WaitQueueEntry {
            link: Link::default(),
            func,
            flags: AtomicU32::new(flags),
            key: AtomicU32::new(0),
            woken_by: AtomicU32::new(0),
        })
    }

    /// Whether it is on a queue. Without the lock this is a hint, except to the one who puts it there.
    pub fn is_queued(&self) -> bool {
        self.link.is_linked()
    }

    fn has(&self, flag: u32) -> bool {
        self.flags.load(Ordering::Acquire) & flag != 0
    }

    /// The lock is held: flags change under no other circumstances.
    fn mark_woken(&self) {
        self.flags.store(self.flags.load(Ordering::Relaxed) | WOKEN, Ordering::Release);
    }

    /// `autoremove_wake_function`, or `default_wake_function`: the caller takes the former's entry off the queue.
    fn wake_function(&self, task: &Arc<Task>, w: &mut WakeUp) -> bool {
        if self.has(STAYS) {
            tp!(default_wake_function);
            return w.try_to_wake_up(task);
        }
        tp!(autoremove_wake_function);
        w.try_to_wake_up(task)
    }

    /// Wakes it if the event is one of its own. Whether it was woken, and whether it leaves the queue.
    fn wake(&self, w: &mut WakeUp) -> (bool, bool) {
        let woken = match &self.func {
            WakeFunc::Bookmark => return (false, false),
            WakeFunc::Callback(f) => return (f(w.key), false),
            WakeFunc::Task(task) => {
                let wanted = self.key.load(Ordering::Relaxed);
                let mine = w.key == 0 || wanted == 0 || w.key & wanted != 0;
                mine && self.wake_function(task, w)
            }
        };
        if woken {
            self.woken_by.store(w.key, Ordering::Relaxed);
            self.mark_woken();
        }
        (woken, !self.has(STAYS) && (woken || planted(Plant::WaitStateLate)))
    }
}

/// What a wake-up is to do, and how much of it is left.
struct WakeUp {
    /// The task states it is for.
    mode: u32,
    /// 0 or [`WF_SYNC`].
    flags: u32,
    key: u32,
    /// How many exclusive waiters it may yet wake.
    exclusive: usize,
    /// How many waiters it may yet look at: those there when it began. Who comes meanwhile needs no waking.
    waiters: Option<u32>,
    wake_q: WakeQ,
}

impl WakeUp {
    fn new(mode: u32, flags: u32, key: u32, exclusive: usize) -> WakeUp {
        WakeUp { mode, flags, key, exclusive, waiters: None, wake_q: WakeQ::default() }
    }

    fn try_to_wake_up(&mut self, task: &Arc<Task>) -> bool {
        tp!(try_to_wake_up);
        let woken = task.ttwu_state_match(self.mode);
        if woken {
            self.wake_q.add(task.clone());
        }
        woken
    }
}

/// Tasks that are runnable already and are let run when the queue's lock is free (`wake_q_head`): on a machine that
/// switches to the woken thread at once, it would else run into the lock of its waker.
#[derive(Default)]
struct WakeQ {
    tasks: [Option<Arc<Task>>; TAKEN_MAX],
    nr: usize,
}

impl WakeQ {
    /// There is room: who adds looks whether it [is full](Self::is_full) after each.
    fn add(&mut self, task: Arc<Task>) {
        self.tasks[self.nr] = Some(task);
        self.nr += 1;
    }

    fn is_full(&self) -> bool {
        self.nr == self.tasks.len()
    }

    /// `wake_up_q`.
    fn wake_up(&mut self, flags: u32) {
        for task in self.tasks[..self.nr].iter_mut().filter_map(Option::take) {
            task.ttwu_queue(flags);
        }
        self.nr = 0;
    }
}

struct Lists {
    shared: List<WaitQueueEntry>,
    exclusive: List<WaitQueueEntry>,
}

/// Where a wake-up stands.
enum Walk {
    Shared,
    Exclusive,
    Done,
}

struct Inner {
    /// Waiters on `lists`, readable without the lock (`wq_has_sleeper`).
    sleepers: AtomicU32,
    lists: SpinLock<Lists>,
}

impl Default for Inner {
    fn default() -> Self {
        // SAFETY: an `Inner` lives in an `Arc`, which never moves it.
        let (shared, exclusive) = unsafe { (List::new(), List::new()) };
        Inner { sleepers: AtomicU32::new(0), lists: SpinLock::new(Lists { shared, exclusive }) }
    }
}

impl Inner {
    /// The lock is held: only its holder counts.
    fn count(&self, by: i32) {
        let n = self.sleepers.load(Ordering::Relaxed);
        self.sleepers.store(n.wrapping_add_signed(by), Ordering::Relaxed);
    }

    /// Puts an entry on the queue, and `sleeper` to sleep in the same step: a waker holds the lock too, so it finds both or
    /// neither. Whether the entry is the first of the exclusive ones.
    fn add(&self, e: &Arc<WaitQueueEntry>, flags: u32, sleeper: Option<(&Task, u32)>) -> bool {
        let late = planted(Plant::WaitStateLate);
        let mut lists = self.lists.lock_irqsave();
        let was = e.flags.load(Ordering::Relaxed);
        e.flags.store(flags, Ordering::Release);
        let moved = match (was ^ flags) & EXCLUSIVE != 0 && e.is_queued() {
            true => self.unlink(&mut lists, e),
            false => None,
        };
        if let Some((task, state)) = sleeper
            && !late
        {
            task.set_state_unordered(state);
        }
        if !e.is_queued() {
            let linked = match flags & EXCLUSIVE != 0 {
                true => lists.exclusive.push_back(e.clone()),
                false => lists.shared.push_front(e.clone()),
            };
            debug_assert!(linked, "the entry is on another queue");
            self.count(linked as i32);
        }
        let first = flags & EXCLUSIVE != 0 && lists.exclusive.first().is_some_and(|f| std::ptr::eq(f, &**e));
        drop(lists);
        drop(moved);
        if let Some((task, state)) = sleeper
            && late
        {
            task.set_state_unordered(state);
        }
        // Pairs with the one in `has_sleeper`: the caller checks its condition after this.
        fence(Ordering::SeqCst);
        first
    }

    fn unlink(&self, lists: &mut Lists, e: &WaitQueueEntry) -> Option<Arc<WaitQueueEntry>> {
        let gone = lists.exclusive.remove(e).or_else(|| lists.shared.remove(e));
        self.count(-(gone.is_some() as i32));
        gone
    }

    fn remove(&self, e: &WaitQueueEntry) {
        if e.is_queued() {
            let mut lists = self.lists.lock_irqsave();
            let gone = self.unlink(&mut lists, e);
            drop(lists);
            drop(gone);
        }
    }

    /// `__wake_up_common_lock`: the non-exclusive waiters first, then the exclusive ones. Lets go of the lock now and then, so
    /// that a long queue keeps nobody from it for long; what is taken off is dropped without it.
    fn wake_up_common(&self, mut w: WakeUp, from: Walk) {
        tp!(__wake_up_common);
        let mut at = from;
        let mut mark = None;
        while !matches!(at, Walk::Done) {
            let mut taken: [Option<Arc<WaitQueueEntry>>; TAKEN_MAX] = Default::default();
            let mut lists = self.lists.lock_irqsave();
            at = self.wake_some(&mut lists, &mut w, at, &mut mark, &mut taken);
            drop(lists);
            drop(taken);
            w.wake_q.wake_up(w.flags);
        }
    }

    fn wake_some(
        &self,
        lists: &mut Lists,
        w: &mut WakeUp,
        mut at: Walk,
        mark: &mut Option<Arc<WaitQueueEntry>>,
        taken: &mut [Option<Arc<WaitQueueEntry>>],
    ) -> Walk {
        let (mut seen, mut nr) = (0, 0);
        let mut waiters = w.waiters.unwrap_or_else(|| self.sleepers.load(Ordering::Relaxed));
        let next = loop {
            let (list, next) = match at {
                Walk::Shared => (&mut lists.shared, Walk::Exclusive),
                Walk::Exclusive => (&mut lists.exclusive, Walk::Done),
                Walk::Done => break at,
            };
            let exclusive = matches!(at, Walk::Exclusive);
            let (mut found, room) = (0, taken.len());
            let visit = |e: &WaitQueueEntry| {
                if let WakeFunc::Bookmark = e.func {
                    return (Step::Keep, Then::Next);
                }
                let (woken, leaves) = e.wake(w);
                seen += 1;
                waiters = waiters.saturating_sub(1);
                w.exclusive -= (exclusive && woken) as usize;
                found += leaves as usize;
                let step = if leaves { Step::Remove } else { Step::Keep };
                let full = seen >= WALK_BREAK_CNT || nr + found >= room || w.wake_q.is_full();
                let then = match () {
                    () if w.exclusive == 0 => Then::Stop,
                    // Whoever comes while a long wake-up goes on comes too late for it.
                    () if waiters == 0 && exclusive => Then::Stop,
                    () if full => Then::Pause,
                    () => Then::Next,
                };
                (step, then)
            };
            let mut off = 0;
            let done = list.walk(mark, WaitQueueEntry::bookmark, visit, |e| {
                taken[nr + off] = Some(e);
                off += 1;
            });
            nr += off;
            self.count(-(off as i32));
            if !done {
                break at;
            }
            at = next;
            if seen >= WALK_BREAK_CNT || nr >= taken.len() || w.wake_q.is_full() {
                break at;
            }
        };
        w.waiters = Some(waiters);
        next
    }

    /// Tells the first exclusive waiter that it is its turn, and leaves it in its place.
    fn wake_up_first(&self) {
        let mut w = WakeUp::new(TASK_NORMAL, 0, 0, 1);
        let lists = self.lists.lock_irqsave();
        if let Some(e) = lists.exclusive.first()
            && let WakeFunc::Task(task) = &e.func
        {
            // Even if it runs already: it may be about to leave.
            e.mark_woken();
            w.try_to_wake_up(task);
        }
        drop(lists);
        w.wake_q.wake_up(w.flags);
    }
}

/// A queue of waiters (`wait_queue_head_t`). Its list is made when the first waiter comes.
pub struct WaitQueueHead {
    inner: OnceLock<Arc<Inner>>,
}

impl Default for WaitQueueHead {
    fn default() -> Self {
        Self::new()
    }
}

impl WaitQueueHead {
    maybe_const! {
        /// `init_waitqueue_head`.
        pub fn new() -> Self {
            WaitQueueHead { inner: OnceLock::new() }
        }
    }

    /// Whether anybody waits (`wq_has_sleeper`, with its barrier).
    #[inline]
    pub fn has_sleeper(&self) -> bool {
        self.nr_sleepers() != 0
    }

    /// How many wait.
    #[inline]
    pub fn nr_sleepers(&self) -> usize {
        fence(Ordering::SeqCst);
        self.inner.get().map_or(0, |i| i.sleepers.load(Ordering::Relaxed) as usize)
    }

    /// Wakes all non-exclusive waiters and one exclusive one. `key` is the poll mask of what happened, 0 for anything.
    #[inline]
    pub fn wake_up(&self, key: u32) {
        self.__wake_up(TASK_NORMAL, 1, key)
    }

    /// Wakes all non-exclusive waiters and `nr` exclusive ones.
    #[inline]
    pub fn wake_up_nr(&self, nr: usize, key: u32) {
        if nr > 0 {
            self.__wake_up(TASK_NORMAL, nr, key)
        }
    }

    /// Wakes everybody.
    #[inline]
    pub fn wake_up_all(&self, key: u32) {
        self.__wake_up(TASK_NORMAL, 0, key)
    }

    /// As `wake_up`, but not who sleeps uninterruptibly.
    #[inline]
    pub fn wake_up_interruptible(&self, key: u32) {
        self.__wake_up(TASK_INTERRUPTIBLE, 1, key)
    }

    /// Wakes everybody who does not sleep uninterruptibly.
    #[inline]
    pub fn wake_up_interruptible_all(&self, key: u32) {
        self.__wake_up(TASK_INTERRUPTIBLE, 0, key)
    }

    /// As `wake_up_interruptible`, by a waker who will soon leave the CPU itself: the woken need not push it off.
    #[inline]
    pub fn wake_up_interruptible_sync_poll(&self, key: u32) {
        self.__wake_up_sync_key(TASK_INTERRUPTIBLE, key)
    }

    /// Wakes the non-exclusive waiters that sleep in a state of `mode`, and `nr_exclusive` exclusive ones; 0: all.
    #[inline]
    pub fn __wake_up(&self, mode: u32, nr_exclusive: usize, key: u32) {
        self.wake_from(mode, nr_exclusive, 0, key, Walk::Shared)
    }

    /// `__wake_up` of one exclusive waiter, with [`WF_SYNC`].
    #[inline]
    pub fn __wake_up_sync_key(&self, mode: u32, key: u32) {
        self.wake_from(mode, 1, WF_SYNC, key, Walk::Shared)
    }

    #[inline]
    fn wake_from(&self, mode: u32, nr: usize, flags: u32, key: u32, from: Walk) {
        if self.has_sleeper()
            && let Some(i) = self.inner.get()
        {
            let exclusive = if nr == 0 { usize::MAX } else { nr };
            i.wake_up_common(WakeUp::new(mode, flags, key, exclusive), from);
        }
    }

    /// Tells the first of those who [wait in turn](Wait::prepare_to_wait_in_turn) to look. A full barrier.
    #[inline]
    pub(crate) fn wake_up_first(&self) {
        if self.has_sleeper()
            && let Some(i) = self.inner.get()
        {
            i.wake_up_first();
        }
    }

    /// `add_wait_queue`: for entries that stay, as poll callbacks do. The task of a task's entry sets its state itself.
    pub fn add(&self, e: &Arc<WaitQueueEntry>) {
        self.inner().add(e, e.flags.load(Ordering::Relaxed) & STAYS, None);
    }

    /// `add_wait_queue_exclusive`.
    pub fn add_exclusive(&self, e: &Arc<WaitQueueEntry>) {
        self.inner().add(e, e.flags.load(Ordering::Relaxed) & STAYS | EXCLUSIVE, None);
    }

    /// `remove_wait_queue`.
    pub fn remove(&self, e: &Arc<WaitQueueEntry>) {
        if let Some(i) = self.inner.get() {
            i.remove(e);
        }
    }

    fn inner(&self) -> &Arc<Inner> {
        self.inner.get_or_init(Default::default)
    }
}

/// What a blocking operation carries from poll to poll: the caller's wait-queue entry, deadline and task.
pub struct Wait {
    task: Arc<Task>,
    /// Made when it first has to wait: most operations need not.
    entry: Option<Arc<WaitQueueEntry>>,
    on: Option<Arc<Inner>>,
    key: u32,
    deadline: Option<u64>,
    timeout_set: bool,
}

impl Wait {
    pub fn new(task: Arc<Task>) -> Self {
        Wait { task, entry: None, on: None, key: 0, deadline: None, timeout_set: false }
    }

    /// Makes it ready for another operation of the same task; one that has not ended is given up.
    pub fn reset(&mut self) {
        self.abort_exclusive_wait();
        self.deadline = None;
        self.timeout_set = false;
    }

    pub fn task(&self) -> &Arc<Task> {
        &self.task
    }

    /// Only events of this poll mask are to wake it, until the wait is over; 0: all.
    pub fn set_key(&mut self, key: u32) {
        self.key = key;
    }

    /// Puts the caller on the queue and marks it asleep. Check the condition again after this and before `Pending`.
    pub fn prepare_to_wait(&mut self, q: &WaitQueueHead) {
        self.prepare(q, TASK_INTERRUPTIBLE, 0);
    }

    /// The same, for a sleep that only a fatal signal ends.
    pub fn prepare_to_wait_killable(&mut self, q: &WaitQueueHead) {
        self.prepare(q, TASK_KILLABLE, 0);
    }

    /// The same, for a sleep that no signal ends.
    pub fn prepare_to_wait_uninterruptible(&mut self, q: &WaitQueueHead) {
        self.prepare(q, TASK_UNINTERRUPTIBLE, 0);
    }

    /// The same, woken one at a time, and in one of the `TASK_*` states.
    pub fn prepare_to_wait_exclusive_state(&mut self, q: &WaitQueueHead, state: u32) {
        self.prepare(q, state, EXCLUSIVE);
    }

    /// The same, woken one at a time.
    pub fn prepare_to_wait_exclusive(&mut self, q: &WaitQueueHead) {
        self.prepare(q, TASK_INTERRUPTIBLE, EXCLUSIVE);
    }

    /// `prepare_to_wait` or its exclusive form, unless a signal is pending that ends such a sleep: then the caller is off the
    /// queue, `ERESTARTSYS`. Check the condition after this in both cases: the signal may have come after the event.
    pub fn prepare_to_wait_event(&mut self, q: &WaitQueueHead, state: u32, exclusive: bool) -> Result<()> {
        if self.task.signal_pending_state(state) {
            if let (Some(i), Some(e)) = (&self.on, &self.entry) {
                i.remove(e);
            }
            self.task.set_state(TASK_RUNNING);
            return Err(Errno::ERESTARTSYS);
        }
        self.prepare(q, state, if exclusive { EXCLUSIVE } else { 0 });
        Ok(())
    }

    /// For locks: exclusive, and in its place from the first call until it finishes or gives up, however often it is woken.
    /// Whether nobody is before it. Whoever leaves the first place must see to it that the next is
    /// [told](WaitQueueHead::wake_up_first); giving up does.
    pub(crate) fn prepare_to_wait_in_turn(&mut self, q: &WaitQueueHead, state: u32) -> bool {
        self.prepare(q, state, EXCLUSIVE | STAYS)
    }

    /// Whether the caller is waiting there already: it has been polled before.
    pub(crate) fn is_on(&self, q: &WaitQueueHead) -> bool {
        self.on.as_ref().is_some_and(|o| q.inner.get().is_some_and(|i| Arc::ptr_eq(o, i)))
    }

    fn prepare(&mut self, q: &WaitQueueHead, state: u32, flags: u32) -> bool {
        tp!(prepare_to_wait);
        if !self.is_on(q) {
            let key = self.key;
            self.abort_exclusive_wait();
            self.key = key;
        }
        let e = self.entry.get_or_insert_with(|| WaitQueueEntry::for_task(self.task.clone()));
        e.key.store(self.key, Ordering::Relaxed);
        let i = self.on.get_or_insert_with(|| q.inner().clone());
        i.add(e, flags, Some((&self.task, state)))
    }

    /// The wait is over and the caller has what it waited for: takes it off the queue and marks it running. Harmless when it
    /// is on none.
    pub fn finish_wait(&mut self) {
        if let (Some(i), Some(e)) = (self.on.take(), &self.entry) {
            tp!(finish_wait);
            i.remove(e);
            self.task.set_state(TASK_RUNNING);
            self.key = 0;
        }
    }

    /// The wait is over, but not because of a wake-up. As [`finish_wait`](Self::finish_wait), and an exclusive wake-up that it
    /// has had since it last prepared to wait goes to the next.
    pub fn abort_exclusive_wait(&mut self) {
        let (Some(i), Some(e)) = (self.on.take(), &self.entry) else { return };
        i.remove(e);
        self.task.set_state(TASK_RUNNING);
        self.key = 0;
        if !e.has(EXCLUSIVE) {
            return;
        }
        if e.has(STAYS) {
            // Woken or not: what kept it waiting may not keep the one behind it.
            return i.wake_up_first();
        }
        if !e.has(WOKEN) {
            return;
        }
        let key = e.woken_by.load(Ordering::Relaxed);
        let w = WakeUp::new(TASK_NORMAL, 0, key, 1);
        i.wake_up_common(w, Walk::Exclusive);
    }

    /// Sets the deadline at the operation's first poll; later polls keep it. `timeo` in nanoseconds, `None` for ever.
    ///
    /// `now` is the clock, which is only read when there is a time to wait for.
    pub fn set_timeout(&mut self, now: impl FnOnce() -> u64, timeo: Option<u64>) {
        if !self.timeout_set {
            self.timeout_set = true;
            self.deadline = timeo.map(|t| if t == 0 { 0 } else { now().saturating_add(t) });
        }
    }

    /// Sets the deadline, in the time of `ktime_get`; `None`: never.
    pub fn set_deadline(&mut self, deadline: Option<u64>) {
        self.timeout_set = true;
        self.deadline = deadline;
    }

    /// Whether [`set_timeout`](Self::set_timeout) has been called: the operation has been polled before.
    pub fn has_started(&self) -> bool {
        self.timeout_set
    }

    pub fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    pub fn timed_out(&self, now: impl FnOnce() -> u64) -> bool {
        self.deadline.is_some_and(|d| d == 0 || now() >= d)
    }

    pub fn signal_pending(&self) -> bool {
        self.task.signal_pending()
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.abort_exclusive_wait();
    }
}

/// Runs a blocking operation to its end as a thread: polls, sleeps by `arch.schedule`, polls again.
#[track_caller]
pub fn block_on<T>(arch: &dyn Arch, mut op: impl FnMut(&mut Wait) -> Poll<T>) -> T {
    let mut wait = Wait::new(arch.current());
    loop {
        match op(&mut wait) {
            Poll::Ready(v) => return v,
            Poll::Pending => {
                lockdep::might_sleep();
                cpu::while_asleep(|| arch.schedule(&wait.task, wait.deadline));
            }
        }
    }
}

/// [`block_on`] in a kernel, whose tracer sees the caller sleep.
#[track_caller]
pub fn block_on_in<T>(kernel: &Kernel, mut op: impl FnMut(&mut Wait) -> Poll<T>) -> T {
    let arch = kernel.arch();
    let mut wait = Wait::new(arch.current());
    loop {
        match op(&mut wait) {
            Poll::Ready(v) => return v,
            Poll::Pending => {
                lockdep::might_sleep();
                let _span = TaskSpan::enter(kernel, "schedule_timeout");
                cpu::while_asleep(|| arch.schedule(&wait.task, wait.deadline));
            }
        }
    }
}

/// Runs a blocking operation to its end as the thread that calls it. Outside every kernel nobody can put it to sleep: there
/// it polls until it is done.
#[track_caller]
pub(crate) fn block_here<T>(mut op: impl FnMut(&mut Wait) -> Poll<T>) -> T {
    cpu::with_arch(|arch| block_on(arch, &mut op)).unwrap_or_else(|| {
        let mut wait = Wait::new(Task::from_fn(|| {}));
        let mut spins = 0;
        loop {
            if let Poll::Ready(v) = op(&mut wait) {
                return v;
            }
            cpu::relax(spins);
            spins = spins.saturating_add(1);
        }
    })
}
