//! Wait queues, and the one way every blocking operation waits.
//!
//! Interface: [`WaitQueueHead`] (`wake_up` and its variants), [`WaitQueueEntry`] (a task, or a callback), [`Wait`] (what an
//! operation that can block carries: `prepare_to_wait`, `finish_wait`, a deadline, signals).
//! Linux counterpart: `include/linux/wait.h`, `kernel/sched/wait.c`.
//! Locks and context: `wake_up` anywhere, also in softirq context; callbacks run with the queue's lock held and must not
//! touch the queue. Waiting itself is the business of the [`Task`].
//!
//! An operation that may block is a poll. It does what it can; if it has to wait it calls [`Wait::prepare_to_wait`],
//! checks its condition again, and returns `Poll::Pending`. Its caller sleeps as its kind of task sleeps and calls again.
//! When the operation ends, or the [`Wait`] is dropped, the entry is off the queue.

use crate::arch::Arch;
use crate::spinlock::SpinLock;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{self, OnceLock, Plant, planted};
use crate::task::{TASK_INTERRUPTIBLE, TASK_RUNNING, Task};
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;

type Callback = Box<dyn Fn(u32) -> bool + Send + Sync>;

enum WakeFunc {
    /// `autoremove_wake_function`: off the queue, then `try_to_wake_up`.
    Autoremove(Arc<Task>),
    /// For instance `ep_poll_callback`: stays on the queue. Gets the poll mask of the event (0: any); answers whether it
    /// counts as one woken exclusive waiter.
    Callback(Callback),
}

/// One waiter (`struct wait_queue_entry`).
pub struct WaitQueueEntry {
    func: WakeFunc,
    /// `WQ_FLAG_EXCLUSIVE`.
    exclusive: AtomicBool,
    queued: AtomicBool,
}

impl WaitQueueEntry {
    /// `DEFINE_WAIT`: an entry that wakes `task` and leaves the queue.
    pub fn for_task(task: Arc<Task>) -> Arc<Self> {
        Self::new(WakeFunc::Autoremove(task))
    }

    /// An entry that calls `f` with the poll mask of each event and stays. `f` runs under the queue's lock.
    pub fn callback(f: impl Fn(u32) -> bool + Send + Sync + 'static) -> Arc<Self> {
        Self::new(WakeFunc::Callback(Box::new(f)))
    }

    fn new(func: WakeFunc) -> Arc<Self> {
        Arc::new(WaitQueueEntry { func, exclusive: AtomicBool::new(false), queued: AtomicBool::new(false) })
    }
}

#[derive(Default)]
struct Inner {
    /// Length of `list`, readable without the lock (`wq_has_sleeper`).
    sleepers: AtomicUsize,
    /// Non-exclusive entries in front, exclusive ones behind, as Linux keeps them.
    list: SpinLock<VecDeque<Arc<WaitQueueEntry>>>,
}

impl Inner {
    /// Puts an entry on the queue, and `sleeper` to sleep in the same step: a waker holds the lock too, so it finds both or
    /// neither. Otherwise it could take the entry off while its task still counts as running, and nobody would wake it.
    fn add(&self, e: &Arc<WaitQueueEntry>, exclusive: bool, sleeper: Option<&Task>) {
        let mut list = self.list.lock_irqsave();
        if let Some(task) = sleeper
            && !planted(Plant::WaitStateLate)
        {
            task.set_state(TASK_INTERRUPTIBLE);
        }
        if e.queued.swap(true, Ordering::Relaxed) {
            return;
        }
        e.exclusive.store(exclusive, Ordering::Relaxed);
        if exclusive {
            list.push_back(e.clone());
        } else {
            list.push_front(e.clone());
        }
        self.sleepers.store(list.len(), Ordering::SeqCst);
    }

    /// `false`: a waker had taken it off.
    fn remove(&self, e: &Arc<WaitQueueEntry>) -> bool {
        if !e.queued.load(Ordering::Acquire) {
            return false;
        }
        let mut list = self.list.lock_irqsave();
        let at = list.iter().position(|x| Arc::ptr_eq(x, e));
        if let Some(at) = at {
            list.remove(at);
        }
        e.queued.store(false, Ordering::Release);
        self.sleepers.store(list.len(), Ordering::SeqCst);
        at.is_some()
    }

    /// `__wake_up_common`: every non-exclusive waiter, and `nr_exclusive` exclusive ones (0: all).
    fn wake_up_common(&self, mut nr_exclusive: usize, key: u32) {
        let mut list = self.list.lock_irqsave();
        let all = nr_exclusive == 0;
        let mut at = 0;
        while let Some(e) = list.get(at) {
            let exclusive = e.exclusive.load(Ordering::Relaxed);
            let woken = match &e.func {
                WakeFunc::Callback(f) => {
                    at += 1;
                    f(key)
                }
                WakeFunc::Autoremove(_) => {
                    let Some(e) = list.remove(at) else { break };
                    e.queued.store(false, Ordering::Release);
                    let WakeFunc::Autoremove(task) = &e.func else { continue };
                    task.try_to_wake_up()
                }
            };
            if exclusive && woken && !all {
                nr_exclusive -= 1;
                if nr_exclusive == 0 {
                    break;
                }
            }
        }
        self.sleepers.store(list.len(), Ordering::SeqCst);
    }
}

/// A queue of waiters (`wait_queue_head_t`). Its list is made when the first waiter comes.
#[derive(Default)]
pub struct WaitQueueHead {
    inner: OnceLock<Arc<Inner>>,
}

impl WaitQueueHead {
    crate::maybe_const! {
        pub fn new() -> Self {
            WaitQueueHead { inner: OnceLock::new() }
        }
    }

    /// Whether anybody waits (`wq_has_sleeper`, with its barrier).
    #[inline]
    pub fn has_sleeper(&self) -> bool {
        sync::fence(Ordering::SeqCst);
        self.inner.get().is_some_and(|i| i.sleepers.load(Ordering::SeqCst) != 0)
    }

    /// Wakes all non-exclusive waiters and one exclusive one. `key` is the poll mask of what happened, 0 for anything.
    #[inline]
    pub fn wake_up(&self, key: u32) {
        self.wake_up_nr(1, key)
    }

    /// Wakes everybody.
    #[inline]
    pub fn wake_up_all(&self, key: u32) {
        self.wake_up_nr(0, key)
    }

    #[inline]
    fn wake_up_nr(&self, nr: usize, key: u32) {
        if self.has_sleeper()
            && let Some(i) = self.inner.get()
        {
            i.wake_up_common(nr, key);
        }
    }

    /// `add_wait_queue`: for entries that stay, as poll callbacks do.
    pub fn add(&self, e: &Arc<WaitQueueEntry>) {
        self.inner().add(e, false, None);
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
    entry: Arc<WaitQueueEntry>,
    on: Option<Arc<Inner>>,
    deadline: Option<u64>,
    timeout_set: bool,
}

impl Wait {
    pub fn new(task: Arc<Task>) -> Self {
        let entry = WaitQueueEntry::for_task(task.clone());
        Wait { task, entry, on: None, deadline: None, timeout_set: false }
    }

    /// Makes it ready for another operation of the same task.
    pub fn reset(&mut self) {
        self.finish_wait();
        self.deadline = None;
        self.timeout_set = false;
    }

    pub fn task(&self) -> &Arc<Task> {
        &self.task
    }

    /// Puts the caller on the queue and marks it asleep. Check the condition again after this and before `Pending`.
    pub fn prepare_to_wait(&mut self, q: &WaitQueueHead) {
        self.prepare(q, false)
    }

    /// The same, woken one at a time.
    pub fn prepare_to_wait_exclusive(&mut self, q: &WaitQueueHead) {
        self.prepare(q, true)
    }

    fn prepare(&mut self, q: &WaitQueueHead, exclusive: bool) {
        let inner = q.inner();
        if !self.on.as_ref().is_some_and(|o| Arc::ptr_eq(o, inner)) {
            self.finish_wait();
            self.on = Some(inner.clone());
        }
        inner.add(&self.entry, exclusive, Some(&self.task));
        if planted(Plant::WaitStateLate) {
            self.task.set_state(TASK_INTERRUPTIBLE);
        }
        // The other half of `has_sleeper`'s barrier: the caller's next look at its condition is not made before this.
        sync::fence(Ordering::SeqCst);
    }

    /// Takes the caller off the queue and marks it running. Harmless when it is on none.
    pub fn finish_wait(&mut self) {
        if let Some(i) = self.on.take() {
            i.remove(&self.entry);
            self.task.set_state(TASK_RUNNING);
        }
    }

    /// `abort_exclusive_wait`: ends a wait without having used a wake-up, because the caller gave up, or found what it waits
    /// for after [`prepare_to_wait_exclusive`](Self::prepare_to_wait_exclusive) without a lock that excludes wakers. If one
    /// has been spent on it, another waiter gets it.
    pub fn abort_exclusive_wait(&mut self) {
        if let Some(i) = self.on.take() {
            let spent = !i.remove(&self.entry) && self.entry.exclusive.load(Ordering::Relaxed);
            self.task.set_state(TASK_RUNNING);
            if spent {
                i.wake_up_common(1, 0);
            }
        }
    }

    /// Sets the deadline at the operation's first poll; later polls keep it. `timeo` in nanoseconds, `None` for ever.
    pub fn set_timeout(&mut self, now: u64, timeo: Option<u64>) {
        if !self.timeout_set {
            self.timeout_set = true;
            self.deadline = timeo.map(|t| now.saturating_add(t));
        }
    }

    /// Whether [`set_timeout`](Self::set_timeout) has been called: the operation has been polled before.
    pub fn has_started(&self) -> bool {
        self.timeout_set
    }

    pub fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    pub fn timed_out(&self, now: u64) -> bool {
        self.deadline.is_some_and(|d| now >= d)
    }

    pub fn signal_pending(&self) -> bool {
        self.task.signal_pending()
    }
}

impl Drop for Wait {
    /// Still on a queue, the operation was given up: as a future is that is dropped.
    fn drop(&mut self) {
        self.abort_exclusive_wait();
    }
}

/// Runs a blocking operation to its end as a thread: polls, sleeps by `arch.schedule`, polls again.
pub fn block_on<T>(arch: &dyn Arch, mut op: impl FnMut(&mut Wait) -> Poll<T>) -> T {
    let mut wait = Wait::new(arch.current());
    loop {
        match op(&mut wait) {
            Poll::Ready(v) => return v,
            Poll::Pending => arch.schedule(&wait.task, wait.deadline),
        }
    }
}
