//! Faults of CPUs, clocks and tasks, injected at a time or drawn from the seed.
//!
//! Interface: [`CpuFault`], [`FaultRates`] (`plan`), [`Sim::inject`], [`Sim::inject_now`].
//! Linux counterpart: `lib/fault-inject.c` in purpose; `settimeofday`, a hypervisor that takes a CPU away.
//! Locks and context: the simulation's thread, outside of tasks or in them.

use crate::engine::{Engine, WORLD};
use crate::rng::Rng;
use crate::sim::Sim;
use crate::trace::What;
use std::rc::Rc;

/// Something that goes wrong with a CPU, a clock or a task. Numbers that stand for nothing are ignored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CpuFault {
    /// The CPU does not run for `ns`: a hypervisor took it away, or firmware.
    Stall { machine: usize, cpu: usize, ns: u64 },
    /// The machine's monotonic clock is `ns` ahead from now on: it was suspended. What is due meanwhile is due at once.
    ClockJump { machine: usize, ns: u64 },
    /// Somebody sets the machine's wall clock, by that much.
    WallClock { machine: usize, ns: i64 },
    /// The task gets a signal: its interruptible sleep ends.
    Signal { task: u64 },
    /// The task is gone: it ends where it sleeps, and what it holds is dropped.
    Kill { task: u64 },
}

/// How often each kind of fault comes, as mean virtual nanoseconds between two of them over all machines; 0: never.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultRates {
    pub stall_every: u64,
    /// The longest stall.
    pub stall_max: u64,
    pub clock_jump_every: u64,
    /// The farthest jump.
    pub clock_jump_max: u64,
    pub wall_clock_every: u64,
}

impl FaultRates {
    /// Draws what goes wrong on machines with these numbers of CPUs until `until`, in order of time. The kinds are drawn
    /// independently, so switching one off leaves the others as they were.
    pub fn plan(&self, seed: u64, cpus: &[usize], until: u64) -> Vec<(u64, CpuFault)> {
        let mut plan = Vec::new();
        if cpus.is_empty() {
            return plan;
        }
        let mut draw = |label: &str, every: u64, make: &dyn Fn(&mut Rng, usize) -> CpuFault| {
            let mut rng = Rng::stream(seed, label);
            let mut at = 0u64;
            if every == 0 {
                return;
            }
            loop {
                at = at.saturating_add(rng.between(1, every.saturating_mul(2) - 1));
                if at >= until {
                    return;
                }
                let machine = rng.below(cpus.len() as u64) as usize;
                plan.push((at, make(&mut rng, machine)));
            }
        };
        draw("fault/stall", self.stall_every, &|r, machine| CpuFault::Stall {
            machine,
            cpu: r.below(cpus[machine].max(1) as u64) as usize,
            ns: r.between(1, self.stall_max.max(1)),
        });
        draw("fault/clock", self.clock_jump_every, &|r, machine| CpuFault::ClockJump {
            machine,
            ns: r.between(1, self.clock_jump_max.max(1)),
        });
        draw("fault/wall-clock", self.wall_clock_every, &|r, machine| CpuFault::WallClock {
            machine,
            ns: r.below(7_200_000_000_000) as i64 - 3_600_000_000_000,
        });
        plan.sort_by_key(|&(at, _)| at);
        plan
    }
}

impl Sim {
    /// Has it go wrong at `time`.
    pub fn inject(&self, time: u64, fault: CpuFault) {
        let e = Rc::downgrade(&self.engine);
        self.at(time, move || {
            if let Some(e) = e.upgrade() {
                e.inject(fault);
            }
        });
    }

    /// Has it go wrong now.
    pub fn inject_now(&self, fault: CpuFault) {
        self.engine.inject(fault);
    }
}

impl Engine {
    fn inject(&self, fault: CpuFault) {
        let (kind, a) = match fault {
            CpuFault::Stall { ns, .. } => (1, ns),
            CpuFault::ClockJump { ns, .. } => (2, ns),
            CpuFault::WallClock { ns, .. } => (3, ns as u64),
            CpuFault::Signal { task } => (4, task),
            CpuFault::Kill { task } => (5, task),
        };
        self.record((WORLD, WORLD), What::Fault, kind, a);
        match fault {
            CpuFault::Stall { machine, cpu, ns } => self.stall_cpu(machine, cpu, ns),
            CpuFault::ClockJump { machine, ns } => self.clock_jump(machine as u32, ns),
            CpuFault::WallClock { machine, ns } => {
                if let Some(m) = self.machines.borrow().get(machine) {
                    m.boot_real.set(m.boot_real.get().saturating_add_signed(ns));
                }
            }
            CpuFault::Signal { task } => self.with_task(task, |c| {
                if let Some(t) = c.task.get() {
                    t.send_signal();
                }
            }),
            CpuFault::Kill { task } => self.with_task(task, |c| self.kill(c)),
        }
    }

    fn stall_cpu(&self, machine: usize, cpu: usize, ns: u64) {
        let index = self.machines.borrow().get(machine).map(|m| m.first_vcpu + cpu as u32 % m.nr_cpus);
        if let Some(i) = index {
            self.stall(&self.vcpu(i), ns);
        }
    }

    fn with_task(&self, serial: u64, f: impl FnOnce(&Rc<crate::context::Ctx>)) {
        let found = self.tasks.borrow().iter().flatten().find(|c| c.serial == serial).cloned();
        if let Some(c) = found {
            f(&c);
        }
    }

    fn clock_jump(&self, machine: u32, ns: u64) {
        let Some(m) = self.machines.borrow().get(machine as usize).cloned() else { return };
        m.boot.set(m.boot.get().saturating_add(ns));
        m.boot_real.set(m.boot_real.get().saturating_add(ns));
        // The events that stand for its timers and sleepers are too late now.
        let bases = m.programmed.borrow().len();
        for base in 0..bases {
            self.push_timer(&m, base);
        }
        let sleepers: Vec<_> = self.tasks.borrow().iter().flatten().filter(|c| c.machine == machine).cloned().collect();
        for c in sleepers.iter().filter(|c| c.by_clock.get() && c.deadline.get() != u64::MAX) {
            self.arm_deadline(c, c.deadline.get().saturating_sub(ns));
        }
    }
}
