//! The engine: virtual time, the events, the CPUs that are ready, the contexts that run on them.
//!
//! Interface: the crate's [`Engine`]; [`with_engine`], [`with_current`] find it.
//! Linux counterpart: `kernel/sched/core.c` (`__schedule`, `ttwu_queue`); the rest of it is the machine's.
//! Locks and context: the simulation's thread. No borrow of a part is held while a context or an event's closure runs.
//!
//! [`Engine::run`] lets each ready CPU run its context until that suspends. When none is ready it takes the next event, and
//! time is what the event says. Running costs no time unless it is [charged](Engine::charge).

use crate::context::{Ctx, Killed, Resume, State, Why};
use crate::queue::{Entry, EventQueue};
use crate::rng::Rng;
use crate::stack::Stacks;
use crate::trace::{Record, Trace, What};
use kernel::cpu::{self, CheckpointsOn};
use kernel::sched::{Enqueue, Rq};
use kernel::{Arch, Kernel};
use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;
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

/// How a simulation behaves. [`Default`] is the fast kind: nothing takes time, and CPUs change only where they must.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// Everything random follows from it.
    pub seed: u64,
    /// Mean number of checkpoints (ends of guards, unlocks, tracepoints) from one forced switch to the next: then another CPU
    /// or task goes first, or the CPU pauses. `None`: never, and checkpoints cost nothing.
    pub preempt_every: Option<u32>,
    /// The longest of those pauses, nanoseconds.
    pub pause_max: u64,
    /// Nanoseconds that an interrupt costs its CPU.
    pub irq_cost: u64,
    /// Nanoseconds that switching to another task costs.
    pub switch_cost: u64,
    /// Bytes of a task's stack.
    pub stack_size: usize,
    /// Steps that are kept to be shown.
    pub log: usize,
    /// How a run with this seed is repeated; `{seed}` stands for the seed. `None`: the test that runs, by its name.
    pub replay: Option<String>,
    /// Steps without virtual time going on after which the run counts as hung.
    pub max_steps: u64,
    /// Virtual nanoseconds that a context may spin.
    pub lockup_after: u64,
}

impl Default for SimConfig {
    fn default() -> Self {
        SimConfig {
            seed: 1,
            preempt_every: None,
            pause_max: 20_000,
            irq_cost: 0,
            switch_cost: 0,
            stack_size: 256 * 1024,
            log: 128,
            replay: None,
            max_steps: 20_000_000,
            lockup_after: 20_000_000_000,
        }
    }
}

pub(crate) struct Vcpu {
    /// The simulation's number, the machine's, and the machine's number for it.
    pub index: u32,
    pub machine: u32,
    pub cpu: u32,
    /// What it executes, if it is not idle.
    pub current: RefCell<Option<Rc<Ctx>>>,
    pub rq: RefCell<Rq<Rc<Ctx>>>,
    /// Lines that have been raised, and timer bases that are due.
    pub irqs: RefCell<VecDeque<u32>>,
    pub timers: Cell<u64>,
    /// On the list of ready CPUs.
    queued: Cell<bool>,
    /// Until when its time is spoken for, and which of its events says so.
    busy: Cell<bool>,
    busy_gen: Cell<u64>,
    stalled_until: Cell<u64>,
    pub ksoftirqd: OnceCell<Rc<Ctx>>,
    pub ksoftirqd_wanted: Cell<bool>,
}

impl Vcpu {
    #[inline]
    pub fn has_irq(&self) -> bool {
        self.timers.get() != 0 || !self.irqs.borrow().is_empty()
    }

    /// Tasks it has, the running one included.
    fn load(&self) -> usize {
        self.rq.borrow().len() + usize::from(self.current.borrow().as_ref().is_some_and(|c| c.is_task()))
    }
}

pub(crate) struct MachineState {
    pub index: u32,
    pub name: Rc<str>,
    pub first_vcpu: u32,
    pub nr_cpus: u32,
    pub arch: Arc<dyn Arch>,
    pub kernel: Arc<Kernel>,
    /// What its clocks show when virtual time is zero, monotonic and wall clock.
    pub boot: Cell<u64>,
    pub boot_real: Cell<u64>,
    pub entropy: RefCell<Rng>,
    /// The time for which each timer base has an event, in the machine's time; `u64::MAX`: none.
    pub programmed: RefCell<Vec<u64>>,
    /// The task of futures, made when the first comes.
    pub executor: OnceCell<Rc<dyn Any>>,
}

pub(crate) struct Irq {
    pub vcpu: u32,
    pub handler: Rc<dyn Fn()>,
    /// Nesting of `disable_irq`.
    pub disabled: Cell<u32>,
    pub pending: Cell<bool>,
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
    now: Cell<u64>,
    /// Virtual time does not go past this for now.
    limit: Cell<u64>,
    pub queue: RefCell<EventQueue>,
    pub machines: RefCell<Vec<Rc<MachineState>>>,
    pub vcpus: RefCell<Vec<Rc<Vcpu>>>,
    pub irqs: RefCell<Vec<Rc<Irq>>>,
    ready: RefCell<VecDeque<Rc<Vcpu>>>,
    /// Tasks on run queues.
    nr_queued: Cell<usize>,
    pub tasks: RefCell<Vec<Option<Rc<Ctx>>>>,
    pub free_slots: RefCell<Vec<u32>>,
    pub next_serial: Cell<u64>,
    /// Tasks that have not ended, without the daemons.
    pub nr_tasks: Cell<usize>,
    running: Cell<*const Ctx>,
    handlers: RefCell<Vec<Rc<dyn Fn(u64)>>>,
    calls: RefCell<Vec<Option<Box<dyn FnOnce()>>>>,
    free_calls: RefCell<Vec<u32>>,
    irq_workers: RefCell<Vec<Rc<Ctx>>>,
    pub stacks: RefCell<Stacks>,
    pub trace: RefCell<Trace>,
    choice: RefCell<Rng>,
    /// Resumptions in a row that came to nothing but spinning.
    spins: Cell<usize>,
    steps: Cell<u64>,
    /// What a task panicked with.
    pub panic: RefCell<Option<Box<dyn Any + Send>>>,
    pub ending: Cell<bool>,
    /// Checkpoints, while somebody wants them.
    checkpoints: RefCell<Option<CheckpointsOn>>,
    /// Checkpoints until the next forced switch.
    until_switch: Cell<u32>,
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
            steps: Cell::new(0),
            panic: RefCell::default(),
            ending: Cell::new(false),
            checkpoints: RefCell::new(config.preempt_every.map(|_| CheckpointsOn::new())),
            until_switch: Cell::new(0),
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

    pub fn call_at(&self, time: u64, f: Box<dyn FnOnce()>) {
        let mut calls = self.calls.borrow_mut();
        let slot = self.free_calls.borrow_mut().pop().unwrap_or_else(|| {
            calls.push(None);
            calls.len() as u32 - 1
        });
        calls[slot as usize] = Some(f);
        self.push(time, ev::CALL, slot, 0);
    }

    /// Whether the event still means something. One that does not passes without taking time along.
    fn is_live(&self, e: &Entry) -> bool {
        match e.what {
            ev::BUSY => self.vcpus.borrow()[e.id as usize].busy_gen.get() == e.arg,
            ev::DEADLINE => match &self.tasks.borrow()[e.id as usize] {
                Some(c) if c.serial == e.arg => c.timer_at.get() == e.time,
                _ => false,
            },
            ev::TIMER => {
                let m = self.machine(e.id);
                let at = m.programmed.borrow()[e.arg as usize];
                at != u64::MAX && self.to_virtual(&m, at) == e.time
            }
            _ => true,
        }
    }

    /// A machine's monotonic time as virtual time; not before now.
    pub fn to_virtual(&self, m: &MachineState, at: u64) -> u64 {
        at.saturating_sub(m.boot.get())
    }

    fn fire(&self, e: Entry) {
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
                m.programmed.borrow_mut()[e.arg as usize] = u64::MAX;
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
                let f = self.calls.borrow_mut()[e.id as usize].take();
                self.free_calls.borrow_mut().push(e.id);
                if let Some(f) = f {
                    f();
                }
            }
        }
    }

    fn deadline_passed(&self, slot: u32) {
        let Some(c) = self.tasks.borrow()[slot as usize].clone() else { return };
        c.timer_at.set(u64::MAX);
        let deadline = c.deadline.get();
        if deadline > self.now() {
            // It slept anew since, for longer.
            self.arm_deadline(&c, deadline);
        } else if let Some(t) = c.task.get() {
            c.deadline.set(u64::MAX);
            t.set_state(kernel::task::TASK_RUNNING);
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

    fn run_loop(&self, limit: u64, done: &mut dyn FnMut() -> bool) -> Stop {
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
                if spinning && self.queue.borrow().len() == 0 && !self.ending.get() {
                    self.lockup();
                }
                return Stop::Quiet;
            };
            self.spins.set(0);
            self.fire(e);
            self.count_step();
        }
    }

    /// The next event that means something, if it is due by `limit`; time goes on to it.
    fn next_event(&self, limit: u64) -> Option<Entry> {
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

    fn count_step(&self) {
        let n = self.steps.get() + 1;
        self.steps.set(n);
        assert!(n < self.config.max_steps, "{n} steps and virtual time stands still at {} ns", self.now());
    }

    /// The CPU has something to do: it will be given its turn.
    pub fn kick(&self, v: &Rc<Vcpu>) {
        if v.busy.get() || v.stalled_until.get() > self.now() || v.queued.replace(true) {
            return;
        }
        self.ready.borrow_mut().push_back(v.clone());
    }

    /// An interrupt has been raised: an idle CPU serves it now, a busy one breaks off what it does if that allows it.
    pub fn interrupt(&self, v: &Rc<Vcpu>) {
        if v.busy.get() && v.current.borrow().as_ref().is_some_and(|c| !c.irqs_disabled()) {
            v.busy.set(false);
            v.busy_gen.set(v.busy_gen.get() + 1);
        }
        if self.running().is_some_and(|c| c.vcpu.get() == v.index) {
            // It raised it itself.
            return self.rearm(v);
        }
        self.kick(v);
    }

    /// The CPU does not run for `ns` from now.
    pub fn stall(&self, v: &Rc<Vcpu>, ns: u64) {
        let until = self.now().saturating_add(ns);
        if until > v.stalled_until.get() {
            v.stalled_until.set(until);
            self.push(until, ev::STALL, v.index, 0);
        }
    }

    /// Gives a ready CPU its turn: what it was doing, else its interrupts, else its next task.
    fn step(&self, v: &Rc<Vcpu>) {
        v.queued.set(false);
        if v.busy.get() || v.stalled_until.get() > self.now() {
            return;
        }
        if v.current.borrow().is_none() {
            let next = if v.has_irq() { Some(self.irq_worker(v)) } else { self.pick_next(v) };
            *v.current.borrow_mut() = next;
            if v.busy.get() {
                return;
            }
        }
        let c: *const Ctx = match &*v.current.borrow() {
            Some(c) => &**c,
            None => return,
        };
        // SAFETY: `current` holds it, and only this CPU's step, below, takes it out.
        let c = unsafe { &*c };
        match self.resume(v, c, Resume::Go) {
            None => self.ended(v),
            Some(why) => self.suspended(v, c, why),
        }
    }

    fn resume(&self, v: &Rc<Vcpu>, c: &Ctx, how: Resume) -> Option<Why> {
        let outer = self.running.replace(c);
        self.rearm(v);
        let r = c.resume(how);
        self.disarm();
        self.running.set(outer);
        r
    }

    fn pick_next(&self, v: &Rc<Vcpu>) -> Option<Rc<Ctx>> {
        let c = v.rq.borrow_mut().pick_next()?;
        self.nr_queued.set(self.nr_queued.get() - 1);
        c.vcpu.set(v.index);
        c.state.set(State::OnCpu);
        v.rq.borrow_mut().set_next(&mut c.se.borrow_mut(), self.now());
        self.record((v.machine, v.cpu), What::Switch, c.serial, 0);
        if self.config.switch_cost > 0 {
            self.make_busy(v, self.now() + self.config.switch_cost);
        }
        Some(c)
    }

    fn make_busy(&self, v: &Vcpu, until: u64) {
        let generation = v.busy_gen.get() + 1;
        v.busy_gen.set(generation);
        v.busy.set(true);
        self.push(until, ev::BUSY, v.index, generation);
    }

    /// What becomes of a CPU whose context has suspended.
    fn suspended(&self, v: &Rc<Vcpu>, c: &Ctx, why: Why) {
        let at = (v.machine, v.cpu);
        if why != Why::Spin {
            self.spins.set(0);
        }
        match why {
            Why::Busy(until) => return self.make_busy(v, until),
            Why::Switch => self.record(at, What::Preempt, 0, 0),
            Why::Sleep => {
                v.rq.borrow_mut().stop(&mut c.se.borrow_mut(), self.now());
                self.record(at, What::Sleep, c.serial, c.deadline.get());
                v.current.take();
            }
            Why::Yield => self.put_prev(v, true, What::Yield, 0),
            Why::Preempt => self.put_prev(v, false, What::Yield, 1),
            Why::Spin => {
                self.spins.set(self.spins.get() + 1);
                // Whoever it waits for may be a task of this CPU.
                if c.is_task() && !c.is_atomic() && (v.has_irq() || !v.rq.borrow().is_empty()) {
                    self.put_prev(v, true, What::Yield, 2);
                }
            }
            Why::IrqDone => {
                let worker = v.current.take();
                self.irq_workers.borrow_mut().extend(worker);
            }
        }
        if v.current.borrow().is_some() || v.has_irq() || !v.rq.borrow().is_empty() {
            self.kick(v);
        }
    }

    fn put_prev(&self, v: &Vcpu, give_way: bool, what: What, how: u64) {
        let Some(c) = v.current.take() else { return };
        self.record((v.machine, v.cpu), what, c.serial, how);
        c.state.set(State::Queued);
        self.nr_queued.set(self.nr_queued.get() + 1);
        let mut se = c.se.borrow_mut();
        v.rq.borrow_mut().put_prev(c.clone(), &mut se, self.now(), give_way);
    }

    fn ended(&self, v: &Rc<Vcpu>) {
        self.spins.set(0);
        if let Some(c) = v.current.take() {
            v.rq.borrow_mut().stop(&mut c.se.borrow_mut(), self.now());
            self.record((v.machine, v.cpu), What::Exit, c.serial, 0);
            self.bury(&c);
        }
        if v.has_irq() || !v.rq.borrow().is_empty() {
            self.kick(v);
        }
    }

    /// Gives back what an ended task had.
    pub fn bury(&self, c: &Rc<Ctx>) {
        c.state.set(State::Done);
        if let Some(s) = c.take_stack() {
            self.stacks.borrow_mut().put(s);
        }
        self.tasks.borrow_mut()[c.slot as usize] = None;
        self.free_slots.borrow_mut().push(c.slot);
        if !c.daemon {
            self.nr_tasks.set(self.nr_tasks.get() - 1);
        }
        for t in c.joiners.take() {
            t.wake_up_process();
        }
    }

    // Tasks.

    /// Puts a new task on a run queue.
    pub fn start(&self, c: &Rc<Ctx>) {
        self.record((c.machine, 0), What::Spawn, c.serial, 0);
        self.enqueue(c, Enqueue::Fork, false);
    }

    /// Wakes a task that the engine has put to sleep; otherwise it will see by its state that it need not sleep.
    pub fn wake(&self, c: &Rc<Ctx>, sync: bool) {
        if c.state.get() != State::Asleep {
            return;
        }
        self.record((c.machine, self.vcpus.borrow()[c.vcpu.get() as usize].cpu), What::Wake, c.serial, u64::from(sync));
        c.deadline.set(u64::MAX);
        self.enqueue(c, Enqueue::Wakeup, sync);
    }

    fn enqueue(&self, c: &Rc<Ctx>, why: Enqueue, sync: bool) {
        let v = self.select_rq(c, sync);
        let why = if why == Enqueue::Wakeup && v.index != c.vcpu.get() { Enqueue::Migrate } else { why };
        c.vcpu.set(v.index);
        c.state.set(State::Queued);
        self.nr_queued.set(self.nr_queued.get() + 1);
        {
            let mut rq = v.rq.borrow_mut();
            rq.enqueue(c.clone(), &mut c.se.borrow_mut(), why);
            if let Some(curr) = v.current.borrow().as_ref().filter(|curr| curr.is_task()) {
                rq.check_preempt(&mut curr.se.borrow_mut(), &c.se.borrow(), self.now(), sync);
            }
        }
        self.break_off(&v);
        self.kick(&v);
    }

    /// A busy CPU whose task is to give way does so now, if that allows it.
    fn break_off(&self, v: &Vcpu) {
        let preemptible = || v.current.borrow().as_ref().is_some_and(|c| c.is_task() && !c.is_atomic());
        let running = self.running().is_some_and(|r| r.vcpu.get() == v.index);
        if !running && v.busy.get() && v.rq.borrow().need_resched() && preemptible() {
            v.busy.set(false);
            v.busy_gen.set(v.busy_gen.get() + 1);
        }
    }

    fn select_rq(&self, c: &Ctx, sync: bool) -> Rc<Vcpu> {
        let m = &self.machines.borrow()[c.machine as usize];
        let vcpus = self.vcpus.borrow();
        let first = m.first_vcpu as usize;
        if m.nr_cpus == 1 {
            return vcpus[first].clone();
        }
        let here = self.running().filter(|r| r.machine == c.machine).map(|r| r.vcpu.get() as usize - first);
        let allowed = c.se.borrow().cpus_allowed;
        let load = |cpu: usize| vcpus[first + cpu].load();
        let prev = c.vcpu.get() as usize - first;
        let cpu = kernel::sched::select_task_rq(m.nr_cpus as usize, prev, here, sync, allowed, load);
        vcpus[first + cpu.unwrap_or(prev)].clone()
    }

    /// The running context lets go of its CPU.
    #[inline]
    pub fn suspend(&self, why: Why) {
        let c = self.running().expect("only a task can be suspended");
        c.suspend(why);
    }

    /// The running task sleeps until it is woken, or `deadline`, virtual time.
    pub fn sleep(&self, c: &Ctx, deadline: u64) {
        if deadline != u64::MAX {
            self.arm_deadline(c, deadline);
        }
        c.state.set(State::Asleep);
        c.killable.set(true);
        c.suspend(Why::Sleep);
        c.killable.set(false);
    }

    // Interrupts.

    /// A context that serves the interrupts of an idle CPU: any that is free, so the stack is warm.
    fn irq_worker(&self, v: &Rc<Vcpu>) -> Rc<Ctx> {
        if let Some(w) = self.irq_workers.borrow_mut().pop() {
            w.vcpu.set(v.index);
            return w;
        }
        let se = kernel::sched::SchedEntity::new(0, kernel::sched::CpuMask::ALL);
        let w = Rc::new(Ctx::new(0, 0, "idle", (v.machine, v.index), true, se, Default::default()));
        let stack = self.stacks.borrow_mut().get().expect("a stack for interrupts");
        let (id, me) = (self.id, Rc::downgrade(&w));
        w.start(stack, move || {
            loop {
                let Some(w) = me.upgrade() else { return };
                with_engine(id, |e| {
                    let v = e.vcpu(w.vcpu.get());
                    e.serve_irqs(&v);
                });
                w.suspend(Why::IrqDone);
            }
        });
        w
    }

    /// Serves what has been raised, on top of the running context; interrupts are on.
    pub fn serve_irqs(&self, v: &Rc<Vcpu>) {
        let kernel = self.machines.borrow()[v.machine as usize].kernel.clone();
        let _inside = kernel.enter();
        while v.has_irq() {
            let _hardirq = cpu::irq_enter();
            let timers = v.timers.take();
            for base in (0..64).filter(|b| timers >> b & 1 != 0) {
                self.record((v.machine, v.cpu), What::Timer, base, 0);
                kernel.run_timers(base as usize);
            }
            loop {
                let Some(line) = v.irqs.borrow_mut().pop_front() else { break };
                self.record((v.machine, v.cpu), What::Irq, u64::from(line), 0);
                self.charge(self.config.irq_cost);
                let irq = self.irqs.borrow()[line as usize].clone();
                irq.pending.set(false);
                if irq.disabled.get() > 0 {
                    // Masked since; it comes back when it is enabled.
                    irq.pending.set(true);
                    continue;
                }
                (irq.handler)();
            }
        }
    }

    pub fn raise(&self, line: u32) {
        let irq = self.irqs.borrow()[line as usize].clone();
        if irq.pending.replace(true) || irq.disabled.get() > 0 {
            return;
        }
        let v = self.vcpu(irq.vcpu);
        v.irqs.borrow_mut().push_back(line);
        self.interrupt(&v);
    }

    // Points where the running context can be interrupted.

    fn draw_next_switch(&self) {
        if let Some(mean) = self.config.preempt_every {
            let n = 1 + self.choice.borrow_mut().below(2 * u64::from(mean.max(1)));
            self.until_switch.set(n as u32);
        }
    }

    /// Asks for the next checkpoint at which there is something to do in the running context, which is `v`'s.
    fn rearm(&self, v: &Vcpu) {
        if v.has_irq() {
            let mut on = self.checkpoints.borrow_mut();
            on.get_or_insert_with(CheckpointsOn::new);
            drop(on);
            self.disarm();
            cpu::set_countdown(1);
        } else if self.config.preempt_every.is_some() {
            self.disarm();
            let _ = cpu::set_countdown(self.until_switch.get());
        } else if self.checkpoints.borrow().is_some() {
            self.checkpoints.take();
        }
    }

    /// Asks for none, and remembers how far the next forced switch still is.
    fn disarm(&self) {
        let left = cpu::set_countdown(0);
        if left > 1 {
            self.until_switch.set(left);
        }
    }

    /// A checkpoint that has been asked for, in whatever context runs.
    pub fn checkpoint(&self) {
        let Some(c) = self.running() else { return };
        let v = self.vcpu(c.vcpu.get());
        let forced = self.config.preempt_every.is_some() && !v.has_irq();
        if forced {
            self.draw_next_switch();
        }
        self.rearm(&v);
        if forced {
            self.forced_switch(c);
        }
        self.let_in(c, &v);
    }

    /// Lets another CPU or task go first, or the CPU pause: as the seed wants it.
    fn forced_switch(&self, c: &Ctx) {
        let dice = self.choice.borrow_mut().next_u64();
        let preemptible = c.is_task() && !cpu::in_atomic();
        match dice % 8 {
            0..=2 if preemptible => c.suspend(Why::Preempt),
            3 if self.config.pause_max > 0 => {
                let ns = 1 + self.choice.borrow_mut().below(self.config.pause_max);
                c.suspend(Why::Busy(self.now() + ns));
            }
            _ => c.suspend(Why::Switch),
        }
    }

    /// Serves interrupts, then gives way, if either is asked for and the running context allows it.
    fn let_in(&self, c: &Ctx, v: &Rc<Vcpu>) {
        if v.has_irq() && !cpu::irqs_disabled() {
            self.serve_irqs(v);
            self.rearm(v);
        }
        if c.is_task() && v.rq.borrow().need_resched() && !cpu::in_atomic() {
            c.suspend(Why::Preempt);
        }
    }

    /// The running context waits in a loop for something that another must do.
    pub fn relax(&self, spins: u32) {
        let Some(c) = self.running() else {
            // The code that made the simulation: let the machines run.
            if self.run_some() {
                return;
            }
            panic!("lockup: the code outside of the simulation waits for a lock that nobody will let go");
        };
        let v = self.vcpu(c.vcpu.get());
        if spins == 0 {
            c.spin_since.set(self.now());
        }
        if self.now().saturating_sub(c.spin_since.get()) > self.config.lockup_after && !self.ending.get() {
            self.lockup();
        }
        if v.has_irq() && !cpu::irqs_disabled() {
            self.serve_irqs(&v);
        }
        c.suspend(Why::Spin);
    }

    /// The running context's CPU is busy for `ns`.
    pub fn charge(&self, ns: u64) {
        let Some(c) = self.running().filter(|_| ns > 0) else { return };
        let mut left = ns;
        while left > 0 {
            let v = self.vcpu(c.vcpu.get());
            let shared = c.is_task() && !v.rq.borrow().is_empty();
            // While others wait for this CPU, the tick looks in.
            let part = if shared { left.min(kernel::TICK_NSEC) } else { left };
            let (start, until) = (self.now(), self.now().saturating_add(part));
            let nobody = self.ready.borrow().is_empty();
            if nobody && self.queue.borrow().peek_time() > until && until <= self.limit.get() {
                self.pass_time(until);
            } else {
                c.suspend(Why::Busy(until));
            }
            left = left.saturating_sub(self.now() - start);
            if c.is_task() {
                v.rq.borrow_mut().tick(&mut c.se.borrow_mut(), self.now());
            }
            self.let_in(c, &v);
        }
    }

    /// One step from outside; whether there was one.
    fn run_some(&self) -> bool {
        let before = self.trace.borrow().steps();
        let mut first = true;
        let stop = self.run(u64::MAX, || !std::mem::take(&mut first));
        stop == Stop::Done || self.trace.borrow().steps() != before
    }

    // Failures.

    /// Nobody can go on but those who spin.
    fn lockup(&self) -> ! {
        panic!("lockup: contexts spin and nobody can end it\n{}", self.report());
    }

    /// What each task is doing.
    pub fn report(&self) -> String {
        let mut out = format!("at {} ns of virtual time:\n", self.now());
        let tasks: Vec<_> = self.tasks.borrow().iter().flatten().cloned().collect();
        for c in tasks.iter().take(32) {
            let m = self.machine(c.machine);
            let cpu = c.vcpu.get() - m.first_vcpu;
            let state = c.task.get().map_or(0, |t| t.state());
            let deadline = match c.deadline.get() {
                u64::MAX => String::new(),
                d => format!(", until {d} ns"),
            };
            out += &format!(
                "  {}/{cpu} task {} {:?}: {:?}, state {state}{deadline}\n",
                m.name,
                c.serial,
                c.name,
                c.state.get()
            );
            let asleep_or_waiting = !ptr::eq(self.running.get(), &**c);
            if let Some(b) = asleep_or_waiting.then(|| c.backtrace()).flatten() {
                out += &innermost(&b.to_string());
            }
        }
        if tasks.len() > 32 {
            out += &format!("  and {} more\n", tasks.len() - 32);
        }
        out
    }

    /// Unwinds the tasks that are left, so that what they hold is given back; those that cannot be are forgotten.
    pub fn end(&self) {
        self.ending.set(true);
        let _current = Current::set(self);
        let left: Vec<_> = self.tasks.borrow().iter().flatten().cloned().collect();
        for c in left {
            let v = self.vcpu(c.vcpu.get());
            let free = c.state.get() == State::Asleep && c.killable.get() && v.current.borrow().is_none();
            if cfg!(panic = "unwind") && free {
                c.state.set(State::OnCpu);
                *v.current.borrow_mut() = Some(c.clone());
                match self.resume(&v, &c, Resume::Die) {
                    None => self.ended(&v),
                    Some(_) => {
                        v.current.take();
                        c.forget();
                    }
                }
            } else {
                c.forget();
            }
        }
        self.panic.take();
    }

    /// Keeps what a task panicked with; a killed one just ends.
    pub fn task_panicked(&self, p: Box<dyn Any + Send>) {
        if !p.is::<Killed>() && self.panic.borrow().is_none() {
            *self.panic.borrow_mut() = Some(p);
        }
    }
}

/// The innermost functions of a backtrace that are neither the simulator's nor the language's.
fn innermost(trace: &str) -> String {
    const OURS: [&str; 7] = ["sockeye_sim::", "corosensei", "std::", "core::", "alloc::", "<alloc::", "<sockeye_sim"];
    let mut out = String::new();
    let mut lines = trace.lines().map(str::trim).peekable();
    let mut shown = 0;
    while let Some(l) = lines.next() {
        let Some((_, name)) = l.split_once(": ") else { continue };
        let at = lines.peek().and_then(|n| n.strip_prefix("at ")).unwrap_or("");
        let tests = name.contains("::tests::");
        if shown < 6
            && (tests || !OURS.iter().any(|o| name.starts_with(o)))
            && !at.is_empty()
            && !at.starts_with("/rustc")
        {
            out += &format!("      {name}  {at}\n");
            shown += 1;
        }
    }
    out
}
