//! A simulation and its machines, for those who use them.
//!
//! Interface: [`Sim`], [`Machine`], [`IrqLine`], [`Handler`]; [`now`], [`sleep`], [`charge`], [`note`], [`current`] for the code inside.
//! Linux counterpart: `init/main.c` for a machine, `kernel/irq/manage.c` for interrupt lines.
//! Locks and context: the simulation's thread; the functions say if they must be called in a task.

use crate::arch::{BOOT, BOOT_REAL, SimArch};
use crate::config::SimConfig;
use crate::domain::RcuDomain;
use crate::engine::{Current, Engine, Stop, with_current, with_engine};
use crate::future::block_on;
use crate::machine::{Irq, MachineState};
use crate::rng::Rng;
use crate::task::{TaskHandle, TaskOptions};
use kernel::task::{TASK_INTERRUPTIBLE, TASK_UNINTERRUPTIBLE, Task};
use kernel::{Arch, Kernel};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// A world of machines with a time of its own, run by one thread.
pub struct Sim {
    pub(crate) engine: Rc<Engine>,
    /// The last to go.
    _rcu: RcuDomain,
}

impl Sim {
    /// Finds this thread's simulation from now on: [`now`] and its like are about it.
    pub fn new(config: SimConfig) -> Sim {
        let _rcu = RcuDomain::new();
        Sim { engine: Engine::new(config), _rcu }
    }

    /// A simulation with this seed and everything else as usual.
    pub fn with_seed(seed: u64) -> Sim {
        Sim::new(SimConfig { seed, ..SimConfig::default() })
    }

    /// A simulation with the seed that `SOCKEYE_SEED` holds, decimal or `0x…`, else `default_seed`.
    pub fn from_env(default_seed: u64) -> Sim {
        Sim::with_seed(seed_from_env().unwrap_or(default_seed))
    }

    pub fn seed(&self) -> u64 {
        self.engine.config.seed
    }

    /// Virtual nanoseconds since the beginning.
    pub fn now(&self) -> u64 {
        self.engine.now()
    }

    /// A new machine with `cpus` CPUs, 1 to 64, and a kernel.
    pub fn machine(&self, name: &str, cpus: usize) -> Machine {
        let cpus = cpus.clamp(1, kernel::cpu::NR_CPUS) as u32;
        let e = &self.engine;
        let index = e.machines.borrow().len() as u32;
        let first_vcpu = e.vcpus.borrow().len() as u32;
        for cpu in 0..cpus {
            e.add_vcpu(index, cpu);
        }
        let arch: Arc<dyn Arch> = Arc::new(SimArch::new(e.id, index));
        let kernel = Kernel::new(arch.clone(), cpus as usize);
        let m = MachineState {
            index,
            name: name.into(),
            first_vcpu,
            nr_cpus: cpus,
            arch,
            kernel: kernel.clone(),
            boot: Cell::new(BOOT),
            boot_real: Cell::new(BOOT_REAL),
            entropy: RefCell::new(Rng::stream(self.seed(), &format!("machine/{index}/entropy"))),
            programmed: RefCell::new(vec![(u64::MAX, u64::MAX); cpus as usize]),
            should_fail: RefCell::default(),
        };
        e.machines.borrow_mut().push(Rc::new(m));
        Machine { sim: e.id, index, kernel }
    }

    /// Calls `f` at `time`, virtual nanoseconds, outside of every machine.
    pub fn at(&self, time: u64, f: impl FnOnce() + 'static) {
        self.engine.call_at(time, Box::new(f));
    }

    /// Calls `f` in `delay` nanoseconds.
    pub fn after(&self, delay: u64, f: impl FnOnce() + 'static) {
        self.at(self.now().saturating_add(delay), f);
    }

    /// Something that happens often: [`Handler::at`] costs no allocation.
    pub fn handler(&self, f: impl Fn(u64) + 'static) -> Handler {
        Handler { sim: self.engine.id, index: self.engine.add_handler(Rc::new(f)) }
    }

    /// The random numbers that belong to `label`.
    pub fn rng(&self, label: &str) -> Rng {
        Rng::stream(self.seed(), label)
    }

    /// Puts something into the history.
    pub fn note(&self, kind: &'static str, a: u64, b: u64) {
        self.engine.note(kind, a, b);
    }

    /// Runs until nothing is left to do. Panics if tasks are left then that nothing will wake (a deadlock), and with whatever
    /// a task panicked with; both print the seed and how to repeat the run.
    pub fn run(&self) {
        let _tell = Tell(self);
        self.engine.run(u64::MAX, || false);
        if self.engine.nr_tasks.get() > 0 {
            panic!("deadlock: tasks are asleep and nothing will wake them\n{}", self.engine.report());
        }
    }

    /// Runs until every task has ended that is no daemon, however much is still to happen. Panics as [`run`](Self::run) does.
    pub fn run_tasks(&self) {
        let _tell = Tell(self);
        let stop = self.engine.run(u64::MAX, || self.engine.nr_tasks.get() == 0);
        if stop == Stop::Quiet {
            panic!("deadlock: tasks are asleep and nothing will wake them\n{}", self.engine.report());
        }
    }

    /// Runs up to and including what happens at `time`; it is that time then.
    pub fn run_until(&self, time: u64) {
        let _tell = Tell(self);
        self.engine.run(time, || false);
        self.engine.pass_time(time);
    }

    /// Runs for `ns` of virtual time.
    pub fn run_for(&self, ns: u64) {
        self.run_until(self.now().saturating_add(ns));
    }

    /// Tasks that have not ended, without the daemons.
    pub fn nr_tasks(&self) -> usize {
        self.engine.nr_tasks.get()
    }

    /// What each task is doing, and where.
    pub fn report(&self) -> String {
        self.engine.report()
    }

    /// A number that stands for everything that has happened: the same for the same seed, on every machine.
    pub fn trace_hash(&self) -> u64 {
        self.engine.trace.borrow().hash()
    }

    /// How many steps the history has.
    pub fn steps(&self) -> u64 {
        self.engine.trace.borrow().steps()
    }

    /// The last steps, a line each.
    pub fn log(&self) -> String {
        self.engine.trace.borrow().log().fold(String::new(), |out, r| out + &r.to_string() + "\n")
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.tell_if_panicking();
        self.engine.end();
        self.engine.retire();
    }
}

/// The seed from the environment, if one is given.
pub fn seed_from_env() -> Option<u64> {
    let s = std::env::var("SOCKEYE_SEED").ok()?;
    let s = s.trim();
    let parsed = s.strip_prefix("0x").map_or_else(|| s.parse().ok(), |h| u64::from_str_radix(h, 16).ok());
    Some(parsed.unwrap_or_else(|| panic!("SOCKEYE_SEED is not a number: {s}")))
}

/// The seeds that a test runs: these, or the one that `SOCKEYE_SEED` holds, to repeat a failure.
pub fn seeds(usual: std::ops::Range<u64>) -> std::ops::Range<u64> {
    seed_from_env().map_or(usual, |s| s..s.saturating_add(1))
}

/// Says how to repeat a run that panics out of it.
struct Tell<'a>(&'a Sim);

impl Drop for Tell<'_> {
    fn drop(&mut self) {
        self.0.tell_if_panicking();
    }
}

impl Sim {
    fn tell_if_panicking(&self) {
        if std::thread::panicking() && !self.engine.told.replace(true) {
            eprintln!("the last steps:\n{}", self.log());
            eprintln!("at {} ns of virtual time; repeat with:\n  {}", self.now(), self.replay());
        }
    }

    /// The command that repeats this run.
    pub fn replay(&self) -> String {
        let seed = self.seed().to_string();
        if let Some(r) = &self.engine.config.replay {
            return r.replace("{seed}", &seed);
        }
        let package = std::env::var("CARGO_PKG_NAME").map_or(String::new(), |p| format!(" -p {p}"));
        match std::thread::current().name() {
            Some(test) if test != "main" => format!("SOCKEYE_SEED={seed} cargo nextest run{package} {test}"),
            _ => format!("SOCKEYE_SEED={seed} {}", std::env::args().collect::<Vec<_>>().join(" ")),
        }
    }
}

/// A machine of a simulation.
#[derive(Clone)]
pub struct Machine {
    sim: u64,
    index: u32,
    kernel: Arc<Kernel>,
}

impl Machine {
    /// Its number: machines are counted in the order in which they are made, from 0.
    pub fn index(&self) -> usize {
        self.index as usize
    }

    pub fn kernel(&self) -> &Arc<Kernel> {
        &self.kernel
    }

    pub fn nr_cpus(&self) -> usize {
        self.with(|e| e.machine(self.index).nr_cpus as usize)
    }

    fn with<R>(&self, f: impl FnOnce(&Engine) -> R) -> R {
        with_engine(self.sim, f).expect("a machine is used in its simulation's thread, while that lives")
    }

    /// Starts a task: ordinary code, which may block.
    pub fn spawn<T: 'static>(&self, name: &str, body: impl FnOnce() -> T + 'static) -> TaskHandle<T> {
        self.spawn_with(name, TaskOptions::default(), body)
    }

    /// The same, with affinity, nice value, or as a daemon.
    pub fn spawn_with<T: 'static>(
        &self,
        name: &str,
        options: TaskOptions,
        body: impl FnOnce() -> T + 'static,
    ) -> TaskHandle<T> {
        self.with(|e| e.spawn(self.index, name, options, body))
    }

    /// Starts a future, as a task of its own: it may also call what blocks.
    pub fn spawn_future<T: 'static>(&self, name: &str, f: impl Future<Output = T> + 'static) -> TaskHandle<T> {
        self.spawn(name, move || block_on(f))
    }

    /// Has `f` decide which allocations of this machine fail, while [`kernel::fault::FaultsOn`] lives.
    pub fn set_should_fail(&self, f: impl Fn(kernel::fault::Fault) -> bool + 'static) {
        self.with(|e| *e.machine(self.index).should_fail.borrow_mut() = Some(Rc::new(f)));
    }

    /// `request_irq`: `handler` is the top half of a new interrupt line of CPU `cpu`. Lines are enabled at first, and stay.
    pub fn request_irq(&self, cpu: usize, handler: impl Fn() + 'static) -> IrqLine {
        self.with(|e| {
            let m = e.machine(self.index);
            let vcpu = m.first_vcpu + cpu as u32 % m.nr_cpus;
            let irq = Irq { vcpu, handler: Rc::new(handler), disabled: Cell::new(0), pending: Cell::new(false) };
            let mut irqs = e.irqs.borrow_mut();
            irqs.push(Rc::new(irq));
            IrqLine { sim: self.sim, line: irqs.len() as u32 - 1 }
        })
    }
}

/// An interrupt line. May be held anywhere, also in what is shared between threads; used in the simulation's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IrqLine {
    sim: u64,
    line: u32,
}

impl IrqLine {
    /// Raises the interrupt: the top half runs once its CPU has interrupts on, at once if that is idle. Raised again before
    /// then, it runs once.
    pub fn raise(&self) {
        with_engine(self.sim, |e| e.raise(self.line));
    }

    /// `disable_irq_nosync`: what is raised waits. Nests.
    pub fn disable(&self) {
        self.with_irq(|_, irq| irq.disabled.set(irq.disabled.get() + 1));
    }

    /// `enable_irq`: lets in what was raised meanwhile.
    pub fn enable(&self) {
        self.with_irq(|e, irq| {
            irq.disabled.set(irq.disabled.get().saturating_sub(1));
            if irq.disabled.get() == 0 && irq.pending.take() {
                e.raise(self.line);
            }
        });
    }

    fn with_irq(&self, f: impl FnOnce(&Engine, &Irq)) {
        with_engine(self.sim, |e| {
            let irq = e.irqs.borrow()[self.line as usize].clone();
            f(e, &irq);
        });
    }
}

/// Something that happens often: see [`Sim::handler`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handler {
    sim: u64,
    index: u32,
}

impl Handler {
    /// Calls the handler at `time`, virtual nanoseconds, with `arg`.
    #[inline]
    pub fn at(&self, time: u64, arg: u64) {
        with_engine(self.sim, |e| e.push(time, crate::engine::ev::HANDLER, self.index, arg));
    }
}

/// Virtual nanoseconds of this thread's simulation.
pub fn now() -> u64 {
    with_current(|e| e.now()).expect("there is no simulation in this thread")
}

/// The calling task sleeps for `ns` of virtual time. A signal does not end it. Outside, the machines run for that long.
pub fn sleep(ns: u64) {
    sleep_until(now().saturating_add(ns));
}

/// The calling task sleeps until `time`.
pub fn sleep_until(time: u64) {
    with_current(|e| match e.running() {
        None => {
            e.run(time, || false);
            e.pass_time(time);
        }
        Some(c) => {
            let task = c.task.get().expect("an interrupt cannot sleep");
            while e.now() < time && !c.killed.get() {
                task.set_state(TASK_UNINTERRUPTIBLE);
                e.sleep(c, time);
            }
        }
    });
}

/// The calling task sleeps until it is woken or a signal comes (`schedule` in `TASK_INTERRUPTIBLE`).
pub fn park() {
    with_current(|e| {
        let c = e.running().expect("only a task can be parked");
        let task = c.task.get().expect("an interrupt cannot sleep");
        task.set_state(TASK_INTERRUPTIBLE);
        if !task.signal_pending() {
            e.sleep(c, u64::MAX);
        }
        task.set_state(kernel::task::TASK_RUNNING);
    });
}

/// `sched_yield`: others of this CPU go first.
pub fn yield_now() {
    with_current(|e| e.running().is_some().then(|| e.suspend(crate::context::Why::Yield)));
}

/// One round of waiting without sleeping (`cpu_relax`): others go first.
pub fn relax() {
    with_current(|e| e.relax(1));
}

/// The calling CPU is busy for `ns` of virtual time: others go on, and interrupts come in if they are on.
pub fn charge(ns: u64) {
    with_current(|e| e.charge(ns));
}

/// Puts something into the history, with the caller's machine and CPU.
pub fn note(kind: &'static str, a: u64, b: u64) {
    with_current(|e| e.note(kind, a, b));
}

/// Calls `f` at `time`, virtual nanoseconds.
pub fn at(time: u64, f: impl FnOnce() + 'static) {
    with_current(|e| e.call_at(time, Box::new(f)));
}

/// Where the calling code runs.
#[derive(Clone)]
pub struct Here {
    pub machine: usize,
    pub cpu: usize,
    /// The task's number and name; 0 for interrupt work.
    pub task: u64,
    pub name: Rc<str>,
    wake: Option<Arc<Task>>,
}

impl Here {
    /// The task; `None` in interrupt work.
    pub fn task(&self) -> Option<&Arc<Task>> {
        self.wake.as_ref()
    }
}

/// The calling context; `None` outside.
pub fn current() -> Option<Here> {
    with_current(|e| {
        let c = e.running()?;
        let (machine, cpu) = e.place();
        Some(Here {
            machine: machine as usize,
            cpu: cpu as usize,
            task: c.serial,
            name: c.name.clone(),
            wake: c.task.get().cloned(),
        })
    })
    .flatten()
}

/// Makes `sim` the one that [`now`] and its like are about, where a thread has several.
pub fn with_sim<R>(sim: &Sim, f: impl FnOnce() -> R) -> R {
    let _current = Current::set(&sim.engine);
    f()
}
