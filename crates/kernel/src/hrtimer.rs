//! High-resolution timers: exact to the nanosecond, as far as the arch's clock is.
//!
//! Interface: [`HrTimer`] (`start`, `start_range_ns`, `cancel`, `try_to_cancel`, `forward`), [`HrtimerRestart`], [`Expiry`],
//! [`HrTimers`] (the queues; one a timer base).
//! Linux counterpart: `kernel/time/hrtimer.c`, its `HRTIMER_MODE_ABS_SOFT` timers.
//! Locks and context: any context may start and try to cancel. Functions run in softirq context without the queue's lock.
//!
//! The wheel of [`timer`](crate::timer) is for timeouts, which are mostly cancelled: cheap to arm, coarse. This is for what is
//! to happen at a time, such as the next packet of a paced flow. A queue is a heap ordered by time, then by start, in which
//! each timer knows its place: starting and cancelling are O(log n), and starting again allocates nothing.

use crate::NR_TIMER_BASES;
use crate::arch::Arch;
use crate::cpu;
use crate::spinlock::SpinLock;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};
use std::ptr;
use std::sync::Arc;

const NEVER: u64 = u64::MAX;
/// `index` of a timer that is in no queue.
const NOWHERE: u32 = u32::MAX;
/// Children of a heap's node: flat enough that a path stays in few cache lines.
const ARITY: usize = 4;

/// What a function answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HrtimerRestart {
    NoRestart,
    /// Starts it again, for the time that [`Expiry::forward`] has set.
    Restart,
}

struct Node {
    timers: Arc<HrTimers>,
    func: Box<dyn Fn(&Expiry<'_>) -> HrtimerRestart + Send + Sync>,
    /// When it may fire, and how much later it must, nanoseconds. Written under the queue's lock.
    soft: AtomicU64,
    slack: AtomicU64,
    /// Its place in the heap. Only touched under the queue's lock.
    index: AtomicU32,
    base: u16,
    /// Its owner has gone: no restart.
    gone: AtomicBool,
}

/// A function to call at an exact time (`struct hrtimer`). Dropping it cancels it, without waiting.
pub struct HrTimer(Arc<Node>);

/// A run of a function: whose, and when.
pub struct Expiry<'a> {
    node: &'a Node,
    now: u64,
}

struct Entry {
    hard: u64,
    seq: u64,
    node: Arc<Node>,
}

impl Entry {
    fn before(&self, o: &Entry) -> bool {
        (self.hard, self.seq) < (o.hard, o.seq)
    }
}

#[derive(Default)]
struct Queue {
    heap: Vec<Entry>,
    seq: u64,
    /// Whose function runs, by address (0: nobody's), and on which CPU.
    running: usize,
    running_cpu: usize,
}

struct HrBase {
    queue: SpinLock<Queue>,
    /// The time for which the arch has been asked, nanoseconds.
    programmed: AtomicU64,
    /// A CPU is running the functions.
    busy: AtomicBool,
}

/// All queues of a kernel.
pub struct HrTimers {
    arch: Arc<dyn Arch>,
    bases: Box<[HrBase]>,
}

impl HrTimers {
    pub(crate) fn new(arch: Arc<dyn Arch>, bases: usize) -> Arc<Self> {
        let base =
            || HrBase { queue: SpinLock::default(), programmed: AtomicU64::new(NEVER), busy: AtomicBool::new(false) };
        Arc::new(HrTimers { bases: (0..bases.clamp(1, NR_TIMER_BASES)).map(|_| base()).collect(), arch })
    }

    /// Timers that are started.
    pub fn pending(&self) -> usize {
        self.bases.iter().map(|b| b.queue.lock_irqsave().heap.len()).sum()
    }

    /// The programmed time of base `base` has come: whether something is due. If not, asks the arch again.
    pub(crate) fn is_due(&self, base: usize) -> bool {
        let Some(b) = self.bases.get(base) else { return false };
        let at = b.programmed.load(SeqCst);
        let due = at != NEVER && at <= self.arch.ktime_get();
        if !due && at != NEVER {
            self.arch.program_timer(base, at);
        }
        due
    }

    /// Calls the functions that are due on queue `base`, and asks the arch for the next time. Softirq context. If another CPU
    /// is at it, that one does the rest. No more are called than were waiting, so one that starts itself for the past again
    /// and again does not keep the CPU.
    pub(crate) fn run(&self, base: usize) {
        let Some(b) = self.bases.get(base) else { return };
        // Before the look at `busy`: whoever is running then asks for the next time after this.
        b.programmed.store(NEVER, SeqCst);
        if b.busy.swap(true, SeqCst) {
            return;
        }
        let now = self.arch.ktime_get();
        let waiting = b.queue.lock_irqsave().heap.len();
        let mut ran = 0;
        while ran < waiting {
            let due = b.queue.lock_irqsave().take_due(now);
            let Some(node) = due else { break };
            ran += 1;
            let again = (node.func)(&Expiry { node: &node, now });
            b.queue.lock_irqsave().finish(&node, again);
        }
        b.busy.store(false, SeqCst);
        let next = b.queue.lock_irqsave().heap.first().map(|e| e.hard);
        if let Some(at) = next {
            self.program(base, at);
        }
    }

    fn program(&self, base: usize, at: u64) {
        if self.bases[base].programmed.fetch_min(at, SeqCst) > at {
            self.arch.program_timer(base, at);
        }
    }
}

impl Queue {
    /// The first timer, if it may fire.
    fn take_due(&mut self, now: u64) -> Option<Arc<Node>> {
        let first = &self.heap.first()?.node;
        if first.soft.load(Relaxed) > now {
            return None;
        }
        let node = self.remove(0);
        self.running = Arc::as_ptr(&node).addr();
        self.running_cpu = cpu::smp_processor_id();
        Some(node)
    }

    /// The function has ended.
    fn finish(&mut self, node: &Arc<Node>, again: HrtimerRestart) {
        self.running = 0;
        let idle = node.index.load(Relaxed) == NOWHERE;
        if again == HrtimerRestart::Restart && idle && !node.gone.load(SeqCst) {
            self.insert(node);
        }
    }

    fn is_running(&self, node: &Node) -> bool {
        self.running == ptr::from_ref(node).addr()
    }

    fn insert(&mut self, node: &Arc<Node>) {
        self.seq += 1;
        let hard = node.soft.load(Relaxed).saturating_add(node.slack.load(Relaxed));
        self.heap.push(Entry { hard, seq: self.seq, node: node.clone() });
        self.rise(self.heap.len() - 1);
    }

    fn remove(&mut self, at: usize) -> Arc<Node> {
        let entry = self.heap.swap_remove(at);
        if at < self.heap.len() {
            self.sink(at);
            self.rise(at);
        }
        entry.node.index.store(NOWHERE, Relaxed);
        entry.node
    }

    fn rise(&mut self, mut at: usize) {
        while at > 0 {
            let parent = (at - 1) / ARITY;
            if !self.heap[at].before(&self.heap[parent]) {
                break;
            }
            self.heap.swap(at, parent);
            self.note(at);
            at = parent;
        }
        self.note(at);
    }

    fn sink(&mut self, mut at: usize) {
        loop {
            let children = at * ARITY + 1..(at * ARITY + 1 + ARITY).min(self.heap.len());
            let least = children.min_by_key(|&c| (self.heap[c].hard, self.heap[c].seq));
            match least.filter(|&c| self.heap[c].before(&self.heap[at])) {
                Some(c) => {
                    self.heap.swap(at, c);
                    self.note(at);
                    at = c;
                }
                None => return self.note(at),
            }
        }
    }

    /// Tells the timer at this place where it is.
    fn note(&self, at: usize) {
        self.heap[at].node.index.store(at as u32, Relaxed);
    }
}

impl Node {
    fn base(&self) -> &HrBase {
        &self.timers.bases[self.base as usize]
    }

    /// `hrtimer_forward`, under the queue's lock or in the function.
    fn forward(&self, now: u64, interval: u64) -> u64 {
        let soft = self.soft.load(Relaxed);
        if now < soft {
            return 0;
        }
        let interval = interval.max(1);
        let overruns = (now - soft) / interval + 1;
        self.soft.store(soft.saturating_add(interval.saturating_mul(overruns)), Relaxed);
        overruns
    }
}

impl Expiry<'_> {
    /// The time of this run, nanoseconds.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// The time for which the timer was started.
    pub fn expires(&self) -> u64 {
        self.node.soft.load(Relaxed)
    }

    /// `hrtimer_forward_now`: moves the expiry by whole intervals past now; how many. Then answer
    /// [`HrtimerRestart::Restart`].
    pub fn forward(&self, interval: u64) -> u64 {
        let _q = self.node.base().queue.lock_irqsave();
        // Started again by somebody else meanwhile: its place in the queue must stay right.
        if self.node.index.load(Relaxed) != NOWHERE { 0 } else { self.node.forward(self.now, interval) }
    }
}

impl HrTimer {
    /// `hrtimer_setup`. `func` must not hold a strong reference to what owns the timer.
    pub fn new(
        timers: &Arc<HrTimers>,
        func: impl Fn(&Expiry<'_>) -> HrtimerRestart + Send + Sync + 'static,
    ) -> HrTimer {
        HrTimer(Arc::new(Node {
            timers: timers.clone(),
            func: Box::new(func),
            soft: AtomicU64::new(0),
            slack: AtomicU64::new(0),
            index: AtomicU32::new(NOWHERE),
            base: (cpu::smp_processor_id() % timers.bases.len()) as u16,
            gone: AtomicBool::new(false),
        }))
    }

    /// `hrtimer_start`: fires at `expires`, nanoseconds of [`Arch::ktime_get`]; a started timer is moved. `true` if it was
    /// started.
    pub fn start(&self, expires: u64) -> bool {
        self.start_range_ns(expires, 0)
    }

    /// `hrtimer_start_range_ns`: fires between `expires` and `slack` nanoseconds after it, with another timer's interrupt if
    /// one falls there.
    pub fn start_range_ns(&self, expires: u64, slack: u64) -> bool {
        let node = &self.0;
        let (was, first) = {
            let mut q = node.base().queue.lock_irqsave();
            let was = q.dequeue(node);
            node.soft.store(expires, Relaxed);
            node.slack.store(slack, Relaxed);
            q.insert(node);
            (was, node.index.load(Relaxed) == 0)
        };
        if first {
            node.timers.program(node.base as usize, expires.saturating_add(slack));
        }
        was
    }

    /// `hrtimer_try_to_cancel`: `Some(true)` if it was started and is no more, `Some(false)` if it was not, `None` if its
    /// function is running.
    pub fn try_to_cancel(&self) -> Option<bool> {
        let mut q = self.0.base().queue.lock_irqsave();
        if q.is_running(&self.0) { None } else { Some(q.dequeue(&self.0)) }
    }

    /// `hrtimer_cancel`: cancels, and waits for a function that is running; `true` if it was started. Not in hard-interrupt
    /// context, nor with a lock held that the function takes, nor from the function itself, which could never end: debug
    /// builds report that, others do not wait.
    pub fn cancel(&self) -> bool {
        let mut spins = 0;
        loop {
            if let Some(was) = self.try_to_cancel() {
                return was;
            }
            if self.runs_here() {
                debug_assert!(false, "hrtimer_cancel from the timer's own function would wait for itself for ever");
                return self.0.base().queue.lock_irqsave().dequeue(&self.0);
            }
            cpu::relax(spins);
            spins = spins.saturating_add(1);
        }
    }

    /// Whether the caller is the timer's function.
    fn runs_here(&self) -> bool {
        let q = self.0.base().queue.lock_irqsave();
        cpu::in_serving_softirq() && q.is_running(&self.0) && q.running_cpu == cpu::smp_processor_id()
    }

    /// `hrtimer_forward`: moves the expiry of a timer that is not started by whole intervals past `now`; how many, 0 if it
    /// lies ahead or the timer is started.
    pub fn forward(&self, now: u64, interval: u64) -> u64 {
        let _q = self.0.base().queue.lock_irqsave();
        if self.0.index.load(Relaxed) != NOWHERE { 0 } else { self.0.forward(now, interval) }
    }

    /// `hrtimer_active`: started, or its function is running.
    pub fn active(&self) -> bool {
        let q = self.0.base().queue.lock_irqsave();
        self.0.index.load(Relaxed) != NOWHERE || q.is_running(&self.0)
    }

    /// `hrtimer_is_queued`.
    pub fn is_queued(&self) -> bool {
        let _q = self.0.base().queue.lock_irqsave();
        self.0.index.load(Relaxed) != NOWHERE
    }

    /// When it fires, or last was to, nanoseconds.
    pub fn expires(&self) -> u64 {
        self.0.soft.load(Relaxed)
    }
}

impl Queue {
    fn dequeue(&mut self, node: &Node) -> bool {
        let at = node.index.load(Relaxed);
        if at == NOWHERE {
            return false;
        }
        self.remove(at as usize);
        true
    }
}

impl Drop for HrTimer {
    fn drop(&mut self) {
        self.0.gone.store(true, SeqCst);
        self.0.base().queue.lock_irqsave().dequeue(&self.0);
    }
}
