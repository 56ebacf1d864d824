//! The arch of a simulated machine: virtual clocks, seeded entropy, tasks that are switched out.
//!
//! Interface: [`SimArch`].
//! Linux counterpart: `arch/`, `kernel/sched/core.c` (`schedule`), `kernel/softirq.c` (`ksoftirqd`).
//! Locks and context: as [`kernel::Arch`] says. Finds its engine through the thread; on another thread, or after the
//! simulation's end, its clock stands still and nothing is woken.

use crate::context::Ctx;
use crate::engine::{Engine, Stop, with_engine};
use crate::machine::MachineState;
use kernel::Arch;
use kernel::fault::Fault;
use kernel::task::{Runnable, TASK_RUNNING, Task};
use std::rc::Rc;
use std::sync::Arc;

/// What a simulated machine stands on.
pub struct SimArch {
    /// Which simulation, and which machine in it.
    sim: u64,
    machine: u32,
    /// The task of the code that made the simulation.
    outside: Arc<Task>,
}

/// The code that made the simulation: it looks for itself whether it has been woken.
struct Outside;

impl Runnable for Outside {
    fn wake(&self) {}
}

/// How a simulated task is woken.
pub(crate) struct Wake {
    pub sim: u64,
    pub slot: u32,
    pub serial: u64,
}

impl Wake {
    fn wake(&self, sync: bool) {
        with_engine(self.sim, |e| {
            let c = e.tasks.borrow()[self.slot as usize].clone();
            if let Some(c) = c.filter(|c| c.serial == self.serial) {
                e.wake(&c, sync);
            }
        });
    }
}

impl Runnable for Wake {
    fn wake(&self) {
        Wake::wake(self, false)
    }

    fn wake_sync(&self) {
        Wake::wake(self, true)
    }
}

impl SimArch {
    pub(crate) fn new(sim: u64, machine: u32) -> SimArch {
        SimArch { sim, machine, outside: Task::new(Box::new(Outside)) }
    }

    fn with<R>(&self, f: impl FnOnce(&Engine, &MachineState) -> R) -> Option<R> {
        with_engine(self.sim, |e| {
            let m: Rc<MachineState> = e.machines.borrow().get(self.machine as usize)?.clone();
            Some(f(e, &m))
        })
        .flatten()
    }

    /// Whether there is nothing to sleep for: the task has been woken, or a signal is there.
    fn need_not_sleep(task: &Task) -> bool {
        !task.try_to_block_task()
    }

    /// `deadline` is the machine's time, whose clock may jump meanwhile.
    fn sleep(e: &Engine, m: &MachineState, c: &Ctx, task: &Task, deadline: Option<u64>) {
        c.by_clock.set(true);
        while !Self::need_not_sleep(task) {
            let deadline = deadline.map_or(u64::MAX, |d| e.to_virtual(m, d));
            if deadline <= e.now() || c.killed.get() {
                task.set_state(TASK_RUNNING);
                break;
            }
            e.sleep(c, deadline);
        }
        c.by_clock.set(false);
    }

    /// The code that made the simulation sleeps: the machines run until it is woken.
    fn sleep_outside(e: &Engine, task: &Task, deadline: u64) {
        if Self::need_not_sleep(task) {
            return;
        }
        let stop = e.run(deadline, || Self::need_not_sleep(task));
        if stop == Stop::Quiet && deadline == u64::MAX {
            panic!("deadlock: the code outside of the simulation waits, and nothing will wake it\n{}", e.report());
        }
        if stop == Stop::Quiet {
            e.pass_time(deadline);
        }
        task.set_state(TASK_RUNNING);
    }
}

impl Arch for SimArch {
    fn ktime_get(&self) -> u64 {
        with_engine(self.sim, |e| {
            let boot = e.machines.borrow().get(self.machine as usize).map_or(BOOT, |m| m.boot.get());
            e.now() + boot
        })
        .unwrap_or(BOOT)
    }

    fn ktime_get_real(&self) -> u64 {
        self.with(|e, m| e.now() + m.boot_real.get()).unwrap_or(BOOT_REAL)
    }

    fn get_random_bytes(&self, buf: &mut [u8]) {
        self.with(|_, m| m.entropy.borrow_mut().fill(buf));
    }

    fn cpu_relax(&self, spins: u32) {
        if with_engine(self.sim, |e| e.relax(spins)).is_none() {
            std::thread::yield_now();
        }
    }

    fn current(&self) -> Arc<Task> {
        with_engine(self.sim, |e| e.running().and_then(|c| c.task.get().cloned()))
            .flatten()
            .unwrap_or_else(|| self.outside.clone())
    }

    fn schedule(&self, task: &Task, deadline: Option<u64>) {
        self.with(|e, m| match e.running() {
            Some(c) => Self::sleep(e, m, c, task, deadline),
            None => Self::sleep_outside(e, task, deadline.map_or(u64::MAX, |d| e.to_virtual(m, d))),
        });
    }

    fn smp_processor_id(&self) -> Option<usize> {
        let cpu = |e: &Engine| {
            let v = e.running()?.vcpu.get();
            let v = &e.vcpus.borrow()[v as usize];
            (v.machine == self.machine).then_some(v.cpu as usize)
        };
        Some(with_engine(self.sim, cpu).flatten().unwrap_or(0))
    }

    fn checkpoint(&self) {
        with_engine(self.sim, |e| e.checkpoint());
    }

    fn should_fail(&self, what: Fault) -> bool {
        let f = self.with(|_, m| m.should_fail.borrow().clone()).flatten();
        f.is_some_and(|f| f(what))
    }

    fn wakeup_softirqd(&self, cpu: usize) {
        self.with(|e, m| {
            let v = e.vcpu(m.first_vcpu + cpu as u32 % m.nr_cpus);
            e.wakeup_softirqd(&v);
        });
    }

    fn program_timer(&self, base: usize, expires: u64) {
        self.with(|e, m| {
            let earlier = m.programmed.borrow()[base].0 > expires;
            if earlier {
                m.programmed.borrow_mut()[base].0 = expires;
                e.push_timer(m, base);
            }
        });
    }
}

/// A machine has been up for a second when virtual time begins: zero may mean "not set".
pub(crate) const BOOT: u64 = 1_000_000_000;
/// 2020-01-01, when virtual time begins.
pub(crate) const BOOT_REAL: u64 = 1_577_836_800_000_000_000;
