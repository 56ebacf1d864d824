//! Tasks of a simulation: ordinary blocking code on a stack of its own.
//!
//! Interface: [`TaskHandle`]; the crate's `Engine::spawn` and `Engine::wakeup_softirqd`.
//! Linux counterpart: `kernel/fork.c`, `kernel/kthread.c`, `kernel/exit.c`, `kernel/softirq.c` (`run_ksoftirqd`).
//! Locks and context: the simulation's thread; `join` in a task, or outside once the task is done.

use crate::arch::Wake;
use crate::context::{Ctx, State, Why};
use crate::engine::{Engine, Stop, with_engine};
use crate::machine::Vcpu;
use kernel::cpu::CpuContext;
use kernel::sched::{CpuMask, SchedEntity};
use kernel::task::{TASK_UNINTERRUPTIBLE, Task};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

/// How a task is made.
#[derive(Clone, Copy, Debug)]
pub struct TaskOptions {
    /// The CPUs it may run on.
    pub cpus: CpuMask,
    /// -20, the most favourable, to 19.
    pub nice: i32,
    /// The simulation may end while it sleeps: it is no deadlock.
    pub daemon: bool,
}

impl Default for TaskOptions {
    fn default() -> Self {
        TaskOptions { cpus: CpuMask::ALL, nice: 0, daemon: false }
    }
}

/// A task that has been started, and its result once it has ended.
pub struct TaskHandle<T> {
    pub(crate) sim: u64,
    pub(crate) ctx: Rc<Ctx>,
    result: Rc<RefCell<Option<T>>>,
}

impl<T> TaskHandle<T> {
    /// Its number, as in the trace: tasks are counted in the order in which they are made, from 1.
    pub fn id(&self) -> u64 {
        self.ctx.serial
    }

    /// What wakes it.
    pub fn task(&self) -> &Arc<Task> {
        self.ctx.task.get().expect("set when it was made")
    }

    pub fn is_finished(&self) -> bool {
        self.ctx.state.get() == State::Done
    }

    /// Waits for the task's end: in a task by sleeping, outside by letting the machines run. `None` if it was killed.
    /// Panics if it can never end.
    pub fn join(self) -> Option<T> {
        with_engine(self.sim, |e| match e.running() {
            Some(me) => self.join_inside(e, me),
            None => {
                if e.run(u64::MAX, || self.is_finished()) == Stop::Quiet {
                    panic!("deadlock: task {:?} cannot end\n{}", self.ctx.name, e.report());
                }
            }
        });
        self.result.take()
    }

    fn join_inside(&self, e: &Engine, me: &Ctx) {
        let Some(task) = me.task.get() else { panic!("an interrupt cannot wait for a task") };
        while !self.is_finished() && !me.killed.get() {
            task.set_state(TASK_UNINTERRUPTIBLE);
            self.ctx.joiners.borrow_mut().push(task.clone());
            e.sleep(me, u64::MAX);
        }
    }

    /// The result, if it has ended.
    pub fn result(&self) -> Option<T> {
        self.result.take()
    }
}

impl Engine {
    /// A new task of `machine`, runnable from now on.
    pub(crate) fn spawn<T: 'static>(
        &self,
        machine: u32,
        name: &str,
        options: TaskOptions,
        body: impl FnOnce() -> T + 'static,
    ) -> TaskHandle<T> {
        let result = Rc::new(RefCell::new(None));
        let (sim, out) = (self.id, result.clone());
        let ctx = self.make_task(machine, name, options, move || {
            let value = body();
            *out.borrow_mut() = Some(value);
        });
        self.start(&ctx);
        TaskHandle { sim, ctx, result }
    }

    pub(crate) fn make_task(
        &self,
        machine: u32,
        name: &str,
        options: TaskOptions,
        body: impl FnOnce() + 'static,
    ) -> Rc<Ctx> {
        let m = self.machine(machine);
        let slot = self.free_slots.borrow_mut().pop().unwrap_or_else(|| {
            let mut t = self.tasks.borrow_mut();
            t.push(None);
            t.len() as u32 - 1
        });
        let serial = self.next_serial.replace(self.next_serial.get() + 1);
        let se = SchedEntity::new(options.nice, options.cpus);
        // SAFETY: the machine, which lives as long as the engine, holds the arch; contexts end with the engine.
        let cpu = unsafe { CpuContext::on(Arc::as_ptr(&m.arch)) };
        let ctx = Rc::new(Ctx::new(serial, slot, name, (machine, m.first_vcpu), options.daemon, se, cpu));
        let task = Task::named(intern(name), serial as u32, Box::new(Wake { sim: self.id, slot, serial }));
        let _ = ctx.task.set(task);
        let stack = self.stacks.borrow_mut().get().expect("address space and mappings for one more stack");
        let sim = self.id;
        ctx.start(stack, move || {
            if let Err(p) = catch_unwind(AssertUnwindSafe(body)) {
                with_engine(sim, |e| e.task_panicked(p));
            }
        });
        self.tasks.borrow_mut()[slot as usize] = Some(ctx.clone());
        if !options.daemon {
            self.nr_tasks.set(self.nr_tasks.get() + 1);
        }
        ctx
    }

    /// The CPU has more softirqs pending than it may run at once: its `ksoftirqd` goes on with them as a task among others.
    pub(crate) fn wakeup_softirqd(&self, v: &Rc<Vcpu>) {
        v.ksoftirqd_wanted.set(true);
        if let Some(c) = v.ksoftirqd.get() {
            if let Some(t) = c.task.get() {
                t.wake_up_process();
            }
            return;
        }
        let (sim, index, cpu, machine) = (self.id, v.index, v.cpu, v.machine);
        let options = TaskOptions { cpus: CpuMask::only(cpu as usize), nice: 0, daemon: true };
        let c = self.make_task(machine, &format!("ksoftirqd/{cpu}"), options, move || {
            with_engine(sim, |e| {
                let v = e.vcpu(index);
                e.ksoftirqd(&v);
            });
        });
        c.vcpu.set(v.index);
        let _ = v.ksoftirqd.set(c.clone());
        self.start(&c);
    }

    fn ksoftirqd(&self, v: &Rc<Vcpu>) {
        let kernel = self.machine(v.machine).kernel.clone();
        let Some((c, task)) = v.ksoftirqd.get().and_then(|c| Some((c, c.task.get()?))) else { return };
        while !c.killed.get() && !self.ending.get() {
            task.set_state(TASK_UNINTERRUPTIBLE);
            if v.ksoftirqd_wanted.take() {
                task.set_state(kernel::task::TASK_RUNNING);
                kernel.run_ksoftirqd(v.cpu as usize);
                // Others of this CPU come between two rounds.
                self.suspend(Why::Yield);
            } else {
                self.sleep(c, u64::MAX);
            }
        }
    }
}

/// A name that stays: reports may outlive the task. Names are few; there is an end to them all the same.
fn intern(name: &str) -> &'static str {
    const MAX: usize = 4096;
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(n) = names.get(name) {
        return n;
    }
    if names.len() >= MAX {
        return "task";
    }
    let n: &'static str = Box::leak(name.into());
    names.insert(n);
    n
}
