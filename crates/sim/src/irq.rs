//! Interrupts, and the points where a running context can be interrupted or made to give way.
//!
//! Interface: methods of the crate's `Engine`: `raise`, `serve_irqs`, `checkpoint`, `relax`, `charge`.
//! Linux counterpart: `kernel/irq/`, `arch/x86/kernel/irq.c`, `preempt_schedule_irq`.
//! Locks and context: the simulation's thread, in whatever context runs; all of it may switch stacks.
//!
//! A context is interrupted where it suspends (a checkpoint, a spin, charged time) and finds on its return that interrupts wait:
//! the top halves then run on top of it, on its own stack, as on a machine.

use crate::context::{Ctx, Why};
use crate::domain::rcu_pending;
use crate::engine::{Engine, Stop, with_engine};
use crate::machine::Vcpu;
use crate::trace::What;
use kernel::cpu::{self, CheckpointsOn};
use kernel::kernel::{Softirq, raise_softirq};
use kernel::sched::{CpuMask, SchedEntity};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

impl Engine {
    /// A context that serves the interrupts of an idle CPU: any that is free, so the stack is warm.
    pub fn irq_worker(&self, v: &Rc<Vcpu>) -> Rc<Ctx> {
        if let Some(w) = self.irq_workers.borrow_mut().pop() {
            w.vcpu.set(v.index);
            return w;
        }
        let se = SchedEntity::new(0, CpuMask::ALL);
        let w = Rc::new(Ctx::new(0, 0, "idle", (v.machine, v.index), true, se, Default::default()));
        let stack = self.stacks.borrow_mut().get().expect("a stack for interrupts");
        let (id, me) = (self.id, Rc::downgrade(&w));
        w.start(stack, move || {
            let serve = || {
                while let Some(w) = me.upgrade() {
                    let ending = with_engine(id, |e| {
                        e.serve_irqs(&e.vcpu(w.vcpu.get()));
                        w.suspend(Why::IrqDone);
                        e.ending.get()
                    });
                    if ending != Some(false) {
                        return;
                    }
                }
            };
            if let Err(p) = catch_unwind(AssertUnwindSafe(serve)) {
                with_engine(id, |e| e.task_panicked(p));
            }
        });
        w
    }

    /// Serves what has been raised, on top of the running context; interrupts are on.
    pub fn serve_irqs(&self, v: &Rc<Vcpu>) {
        let m = self.machine(v.machine);
        let _inside = m.kernel.enter();
        while v.has_irq() {
            let _hardirq = cpu::irq_enter();
            let mut timers = v.timers.take();
            if timers != 0 && rcu_pending() > 0 {
                raise_softirq(Softirq::Rcu);
            }
            while timers != 0 {
                let base = timers.trailing_zeros();
                timers &= timers - 1;
                self.record((v.machine, v.cpu), What::Timer, u64::from(base), 0);
                m.kernel.run_timers(base as usize);
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

    pub fn draw_next_switch(&self) {
        if let Some(mean) = self.config.preempt_every {
            let n = 1 + self.choice.borrow_mut().below(2 * u64::from(mean.max(1)));
            self.until_switch.set(n as u32);
        }
    }

    /// Asks for the next checkpoint at which there is something to do: the very next one if an interrupt waits to be let in,
    /// else where the next forced switch is.
    pub fn rearm(&self, irq_waits: bool) {
        if irq_waits {
            let mut on = self.checkpoints.borrow_mut();
            on.get_or_insert_with(CheckpointsOn::new);
            drop(on);
            self.disarm();
            self.irq_armed.set(true);
            cpu::set_countdown(1);
        } else if self.config.preempt_every.is_some() {
            self.disarm();
            let _ = cpu::set_countdown(self.until_switch.get());
        } else if self.checkpoints.borrow().is_some() {
            // Nobody wants them any more: they cost nothing again.
            self.checkpoints.take();
        }
    }

    /// Asks for none, and remembers how far the next forced switch still is.
    pub fn disarm(&self) {
        let left = cpu::set_countdown(0);
        if !self.irq_armed.replace(false) && left > 0 {
            self.until_switch.set(left);
        }
    }

    /// A checkpoint that has been asked for, in whatever context runs.
    pub fn checkpoint(&self) {
        let Some(c) = self.running() else { return };
        let v = self.vcpu(c.vcpu.get());
        let forced = !self.irq_armed.replace(false) && self.config.preempt_every.is_some();
        if forced {
            self.draw_next_switch();
        }
        self.rearm(v.has_irq());
        if forced {
            self.forced_switch(c);
        }
        self.let_in(c, &v);
    }

    /// Lets another CPU or task go first, or the CPU pause: as the seed wants it.
    pub fn forced_switch(&self, c: &Ctx) {
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
    pub fn let_in(&self, c: &Ctx, v: &Rc<Vcpu>) {
        if v.has_irq() && !cpu::irqs_disabled() {
            self.serve_irqs(v);
            self.rearm(v.has_irq());
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
        if spins == 0 || c.spin_since.get() == u64::MAX {
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
    pub fn run_some(&self) -> bool {
        let before = self.trace.borrow().steps();
        let mut first = true;
        let stop = self.run(u64::MAX, || !std::mem::take(&mut first));
        stop == Stop::Done || self.trace.borrow().steps() != before
    }
}
