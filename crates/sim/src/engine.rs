//! The engine: virtual time, the events, the CPUs that are ready, the contexts that run on them.
//!
//! Interface: the crate's [`Engine`]; [`with_engine`], [`with_current`] find it.
//! Linux counterpart: `kernel/sched/core.c` (`__schedule`, `ttwu_queue`); the rest of it is the machine's.
//! Locks and context: the simulation's thread. No borrow of a part is held while a context or an event's closure runs.
//!
//! [`Engine::run`] lets each ready CPU run its context until that suspends. When none is ready it takes the next event, and
//! time is what the event says. Running costs no time unless it is [charged](Engine::charge).

use crate::config::SimConfig;
use crate::context::Ctx;
use crate::domain::rcu_pending;
use crate::machine::{Irq, MachineState, Vcpu};
use crate::queue::{Entry, EventQueue};
use crate::rng::Rng;
use crate::stack::Stacks;
use crate::trace::{Record, Trace, What};
use kernel::cpu::CheckpointsOn;
use kernel::task::TASK_RUNNING;
use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The world: what happens outside every machine.
pub(crate) const WORLD: u32 = u32::MAX;

/// What an entry of the event queue is for.
pub(crate) mod ev {
    /// A busy CPU is free again: CPU, generation.
    pub const BUSY: u32 = 0;
    /// A sleeper's deadline: slot, serial number.
    pub const DEADLINE: u32 = 1;
    /// A machine's timer interrupt: machine, base.
    pub const TIMER: u32 = 2;
    /// A registered handler: handler, its argument.
    pub const HANDLER: u32 = 3;
    /// A closure: slot.
    pub const CALL: u32 = 4;
    /// A stalled CPU goes on: CPU.
    pub const STALL: u32 = 5;
}

/// Why [`Engine::run`] returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// What the caller waited for has come.
    Done,
    /// Nothing more happens, before the limit or at all.
    Quiet,
}

pub(crate) struct Engine {
    pub id: u64,
    pub config: SimConfig,
    pub now: Cell<u64>,
    /// Virtual time does not go past this for now.
    pub limit: Cell<u64>,
    pub queue: RefCell<EventQueue>,
    pub machines: RefCell<Vec<Rc<MachineState>>>,
    pub vcpus: RefCell<Vec<Rc<Vcpu>>>,
    pub irqs: RefCell<Vec<Rc<Irq>>>,
    pub ready: RefCell<VecDeque<Rc<Vcpu>>>,
    /// Tasks on run queues.
    pub nr_queued: Cell<usize>,
    pub tasks: RefCell<Vec<Option<Rc<Ctx>>>>,
    pub free_slots: RefCell<Vec<u32>>,
    pub next_serial: Cell<u64>,
    /// Tasks that have not ended, without the daemons.
    pub nr_tasks: Cell<usize>,
    pub running: Cell<*const Ctx>,
    pub handlers: RefCell<Vec<Rc<dyn Fn(u64)>>>,
    /// Closures of the queue, and how often each place has been used.
    pub calls: RefCell<Vec<(u64, Option<Box<dyn FnOnce()>>)>>,
    pub free_calls: RefCell<Vec<u32>>,
    pub irq_workers: RefCell<Vec<Rc<Ctx>>>,
    pub stacks: RefCell<Stacks>,
    pub trace: RefCell<Trace>,
    pub choice: RefCell<Rng>,
    /// Resumptions in a row that came to nothing but spinning.
    pub spins: Cell<usize>,
    /// Nothing has happened since RCU's callbacks were last run for want of anything else.
    pub quiet: Cell<bool>,
    pub steps: Cell<u64>,
    /// What a task panicked with.
    pub panic: RefCell<Option<Box<dyn Any + Send>>>,
    pub ending: Cell<bool>,
    /// Checkpoints, while somebody wants them.
    pub checkpoints: RefCell<Option<CheckpointsOn>>,
    /// Checkpoints until the next forced switch.
    pub until_switch: Cell<u32>,
    /// The next checkpoint has been asked for because of an interrupt.
    pub irq_armed: Cell<bool>,
    pub told: Cell<bool>,
}

thread_local! {
    static CURRENT: Cell<*const Engine> = const { Cell::new(ptr::null()) };
    /// This thread's engines, the latest last.
    static ALIVE: RefCell<Vec<*const Engine>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with the engine that this thread runs, or made last.
#[inline]
pub(crate) fn with_current<R>(f: impl FnOnce(&Engine) -> R) -> Option<R> {
    // SAFETY: engines take themselves out in `retire`, before they are freed.
    unsafe { CURRENT.get().as_ref() }.map(f)
}

/// Calls `f` with engine `id`, if this is its thread and it is alive.
#[inline]
pub(crate) fn with_engine<R>(id: u64, f: impl FnOnce(&Engine) -> R) -> Option<R> {
    let p = CURRENT.get();
    // SAFETY: as in `with_current`.
    match unsafe { p.as_ref() } {
        Some(e) if e.id == id => Some(f(e)),
        // SAFETY: as in `with_current`.
        _ => ALIVE.with_borrow(|a| a.iter().copied().find(|&p| unsafe { (*p).id == id })).map(|p| f(unsafe { &*p })),
    }
}

/// While it lives the thread's current engine is this one.
pub(crate) struct Current(*const Engine);

impl Current {
    pub fn set(e: &Engine) -> Current {
        Current(CURRENT.replace(e))
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

impl Engine {
    pub fn new(config: SimConfig) -> Rc<Engine> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let e = Rc::new(Engine {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            now: Cell::new(0),
            limit: Cell::new(0),
            queue: RefCell::default(),
            machines: RefCell::default(),
            vcpus: RefCell::default(),
            irqs: RefCell::default(),
            ready: RefCell::default(),
            nr_queued: Cell::new(0),
            tasks: RefCell::default(),
            free_slots: RefCell::default(),
            next_serial: Cell::new(1),
            nr_tasks: Cell::new(0),
            running: Cell::new(ptr::null()),
            handlers: RefCell::default(),
            calls: RefCell::default(),
            free_calls: RefCell::default(),
            irq_workers: RefCell::default(),
            stacks: RefCell::new(Stacks::new(config.stack_size)),
            trace: RefCell::new(Trace::new(config.seed, config.log)),
            choice: RefCell::new(Rng::stream(config.seed, "schedule")),
            spins: Cell::new(0),
            quiet: Cell::new(false),
            steps: Cell::new(0),
            panic: RefCell::default(),
            ending: Cell::new(false),
            checkpoints: RefCell::new(config.preempt_every.map(|_| CheckpointsOn::new())),
            until_switch: Cell::new(0),
            irq_armed: Cell::new(false),
            told: Cell::new(false),
            config,
        });
        ALIVE.with_borrow_mut(|a| a.push(&*e));
        CURRENT.set(&*e);
        e.draw_next_switch();
        e
    }

    /// The thread finds this engine no more.
    pub fn retire(&self) {
        let me: *const Engine = self;
        ALIVE.with_borrow_mut(|a| a.retain(|&p| !ptr::eq(p, me)));
        if ptr::eq(CURRENT.get(), me) {
            CURRENT.set(ALIVE.with_borrow(|a| a.last().copied()).unwrap_or(ptr::null()));
        }
    }

    /// Virtual nanoseconds.
    #[inline]
    pub fn now(&self) -> u64 {
        self.now.get()
    }

    /// The context that runs; `None` between them, in the code that made the simulation and in events.
    #[inline]
    pub fn running(&self) -> Option<&Ctx> {
        // SAFETY: set for the time of a `resume`, whose caller holds the context.
        unsafe { self.running.get().as_ref() }
    }

    pub fn vcpu(&self, index: u32) -> Rc<Vcpu> {
        self.vcpus.borrow()[index as usize].clone()
    }

    pub fn machine(&self, index: u32) -> Rc<MachineState> {
        self.machines.borrow()[index as usize].clone()
    }

    pub fn add_vcpu(&self, machine: u32, cpu: u32) {
        let mut v = self.vcpus.borrow_mut();
        let index = v.len() as u32;
        v.push(Rc::new(Vcpu {
            index,
            machine,
            cpu,
            current: RefCell::default(),
            rq: RefCell::default(),
            irqs: RefCell::default(),
            timers: Cell::new(0),
            queued: Cell::new(false),
            busy: Cell::new(false),
            busy_gen: Cell::new(0),
            stalled_until: Cell::new(0),
            ksoftirqd: OnceCell::new(),
            ksoftirqd_wanted: Cell::new(false),
        }));
    }

    #[inline]
    pub fn record(&self, at: (u32, u32), what: What, a: u64, b: u64) {
        let r = Record { time: self.now(), machine: at.0, cpu: at.1, what, a, b, note: "" };
        self.trace.borrow_mut().add(r);
    }

    /// Where the caller is, for the trace.
    pub fn place(&self) -> (u32, u32) {
        match self.running() {
            Some(c) => (c.machine, self.vcpus.borrow()[c.vcpu.get() as usize].cpu),
            None => (WORLD, WORLD),
        }
    }

    pub fn note(&self, kind: &'static str, a: u64, b: u64) {
        let (machine, cpu) = self.place();
        let r = Record { time: self.now(), machine, cpu, what: What::Note, a, b, note: "" };
        self.trace.borrow_mut().note(kind, r);
    }

    // Events.

    pub fn push(&self, time: u64, what: u32, id: u32, arg: u64) {
        self.queue.borrow_mut().push(time.max(self.now()), what, id, arg);
    }

    pub fn add_handler(&self, f: Rc<dyn Fn(u64)>) -> u32 {
        let mut h = self.handlers.borrow_mut();
        h.push(f);
        h.len() as u32 - 1
    }

    /// Calls `f` at `time`; the answer is for [`cancel_call`](Self::cancel_call).
    pub fn call_at(&self, time: u64, f: Box<dyn FnOnce()>) -> (u32, u64) {
        let mut calls = self.calls.borrow_mut();
        let slot = self.free_calls.borrow_mut().pop().unwrap_or_else(|| {
            calls.push((0, None));
            calls.len() as u32 - 1
        });
        let (generation, place) = &mut calls[slot as usize];
        *place = Some(f);
        self.push(time, ev::CALL, slot, *generation);
        (slot, *generation)
    }

    pub fn cancel_call(&self, (slot, generation): (u32, u64)) {
        drop(self.take_call(slot, generation));
    }

    fn take_call(&self, slot: u32, generation: u64) -> Option<Box<dyn FnOnce()>> {
        let mut calls = self.calls.borrow_mut();
        let (g, f) = &mut calls[slot as usize];
        if *g != generation {
            return None;
        }
        *g += 1;
        self.free_calls.borrow_mut().push(slot);
        f.take()
    }

    /// Whether the event still means something. One that does not passes without taking time along.
    pub fn is_live(&self, e: &Entry) -> bool {
        match e.what {
            ev::BUSY => self.vcpus.borrow()[e.id as usize].busy_gen.get() == e.arg,
            ev::DEADLINE => match &self.tasks.borrow()[e.id as usize] {
                Some(c) if c.serial == e.arg => c.timer_at.get() == e.time,
                _ => false,
            },
            ev::TIMER => self.machines.borrow()[e.id as usize].programmed.borrow()[e.arg as usize].1 == e.time,
            ev::CALL => self.calls.borrow()[e.id as usize].0 == e.arg,
            _ => true,
        }
    }

    /// A machine's monotonic time as virtual time.
    pub fn to_virtual(&self, m: &MachineState, at: u64) -> u64 {
        at.saturating_sub(m.boot.get())
    }

    /// Has the base's timer interrupt come when it wants it; an event that it had before counts no more.
    pub fn push_timer(&self, m: &MachineState, base: usize) {
        let (at, event) = &mut m.programmed.borrow_mut()[base];
        if *at != u64::MAX {
            *event = self.to_virtual(m, *at).max(self.now());
            self.push(*event, ev::TIMER, m.index, base as u64);
        }
    }

    pub fn fire(&self, e: Entry) {
        match e.what {
            ev::BUSY => {
                let v = self.vcpu(e.id);
                v.busy.set(false);
                self.kick(&v);
            }
            ev::STALL => self.kick(&self.vcpu(e.id)),
            ev::DEADLINE => self.deadline_passed(e.id),
            ev::TIMER => {
                let m = self.machine(e.id);
                m.programmed.borrow_mut()[e.arg as usize] = (u64::MAX, u64::MAX);
                let v = self.vcpu(m.first_vcpu + e.arg as u32 % m.nr_cpus);
                v.timers.set(v.timers.get() | 1 << e.arg);
                self.interrupt(&v);
            }
            ev::HANDLER => {
                self.record((WORLD, WORLD), What::Event, u64::from(e.id), e.arg);
                let f = self.handlers.borrow()[e.id as usize].clone();
                f(e.arg);
            }
            _ => {
                self.record((WORLD, WORLD), What::Event, u64::MAX, u64::from(e.id));
                if let Some(f) = self.take_call(e.id, e.arg) {
                    f();
                }
            }
        }
    }

    pub fn deadline_passed(&self, slot: u32) {
        let Some(c) = self.tasks.borrow()[slot as usize].clone() else { return };
        c.timer_at.set(u64::MAX);
        let deadline = c.deadline.get();
        if deadline > self.now() {
            // It slept anew since, for longer.
            self.arm_deadline(&c, deadline);
        } else if let Some(t) = c.task.get() {
            c.deadline.set(u64::MAX);
            t.set_state(TASK_RUNNING);
            self.wake(&c, false);
        }
    }

    /// Has the sleeper woken at `deadline`, virtual time. An event that comes earlier serves as well.
    pub fn arm_deadline(&self, c: &Ctx, deadline: u64) {
        c.deadline.set(deadline);
        if c.timer_at.get() > deadline {
            let at = deadline.max(self.now());
            c.timer_at.set(at);
            self.push(at, ev::DEADLINE, c.slot, c.serial);
        }
    }

    // The loop.

    /// Runs until `done`, or nothing more happens up to `limit`. Panics with what a task panicked with.
    pub fn run(&self, limit: u64, mut done: impl FnMut() -> bool) -> Stop {
        let _current = Current::set(self);
        let outer = self.limit.replace(limit);
        let stop = self.run_loop(limit, &mut done);
        self.limit.set(outer);
        if let Some(p) = self.panic.take() {
            std::panic::resume_unwind(p);
        }
        stop
    }

    pub fn run_loop(&self, limit: u64, done: &mut dyn FnMut() -> bool) -> Stop {
        loop {
            if self.panic.borrow().is_some() || done() {
                return Stop::Done;
            }
            let spinning = self.spins.get() > 2 * (self.ready.borrow().len() + self.nr_queued.get()) + 2;
            if !spinning {
                let next = self.ready.borrow_mut().pop_front();
                if let Some(v) = next {
                    self.step(&v);
                    self.count_step();
                    continue;
                }
            }
            let Some(e) = self.next_event(limit) else {
                if !spinning && rcu_pending() > 0 && !self.quiet.replace(true) {
                    // Every reader is done. What the callbacks do may set something going again.
                    kernel::rcu::process_callbacks();
                    continue;
                }
                self.quiet.set(false);
                if spinning && self.queue.borrow().len() == 0 && !self.ending.get() {
                    self.lockup();
                }
                return Stop::Quiet;
            };
            self.spins.set(0);
            self.quiet.set(false);
            self.fire(e);
            self.count_step();
        }
    }

    /// The next event that means something, if it is due by `limit`; time goes on to it.
    pub fn next_event(&self, limit: u64) -> Option<Entry> {
        loop {
            let e = {
                let mut q = self.queue.borrow_mut();
                if q.peek_time() > limit {
                    return None;
                }
                q.pop()?
            };
            if self.is_live(&e) {
                if e.time > self.now() {
                    self.now.set(e.time);
                    self.steps.set(0);
                }
                return Some(e);
            }
        }
    }

    /// Time goes on to `to` with nothing happening.
    pub fn pass_time(&self, to: u64) {
        if to > self.now() {
            self.now.set(to);
            self.steps.set(0);
        }
    }

    pub fn count_step(&self) {
        let n = self.steps.get() + 1;
        self.steps.set(n);
        assert!(n < self.config.max_steps, "{n} steps and virtual time stands still at {} ns", self.now());
    }
}
