//! What a CPU does with its turn: the context it was in, interrupts, the next task; and how tasks get to it.
//!
//! Interface: methods of the crate's `Engine`: `step`, `kick`, `wake`, `sleep`, `suspend`, `stall`.
//! Linux counterpart: `__schedule`, `try_to_wake_up`, `ttwu_queue`, `resched_curr` in `kernel/sched/core.c`.
//! Locks and context: as the engine's.

use crate::context::{Ctx, Resume, State, Why};
use crate::engine::{Engine, ev};
use crate::machine::Vcpu;
use crate::trace::What;
use kernel::cpu;
use kernel::sched::Enqueue;
use kernel::task::TASK_RUNNING;
use std::rc::Rc;

impl Engine {
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
            // It raised it itself; a top half is followed by the next one anyway.
            if !cpu::in_hardirq() {
                self.rearm(true);
            }
            return;
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
    pub fn step(&self, v: &Rc<Vcpu>) {
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

    pub fn resume(&self, v: &Rc<Vcpu>, c: &Ctx, how: Resume) -> Option<Why> {
        let outer = self.running.replace(c);
        // With interrupts on it looks for them itself, as soon as it runs.
        self.rearm(c.irqs_disabled() && v.has_irq());
        let r = c.resume(how);
        self.disarm();
        self.running.set(outer);
        r
    }

    pub fn pick_next(&self, v: &Rc<Vcpu>) -> Option<Rc<Ctx>> {
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

    pub fn make_busy(&self, v: &Vcpu, until: u64) {
        let generation = v.busy_gen.get() + 1;
        v.busy_gen.set(generation);
        v.busy.set(true);
        self.push(until, ev::BUSY, v.index, generation);
    }

    /// What becomes of a CPU whose context has suspended.
    pub fn suspended(&self, v: &Rc<Vcpu>, c: &Ctx, why: Why) {
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

    pub fn put_prev(&self, v: &Vcpu, give_way: bool, what: What, how: u64) {
        let Some(c) = v.current.take() else { return };
        self.record((v.machine, v.cpu), what, c.serial, how);
        c.state.set(State::Queued);
        self.nr_queued.set(self.nr_queued.get() + 1);
        let mut se = c.se.borrow_mut();
        v.rq.borrow_mut().put_prev(c.clone(), &mut se, self.now(), give_way);
    }

    pub fn ended(&self, v: &Rc<Vcpu>) {
        self.spins.set(0);
        if let Some(c) = v.current.take() {
            v.rq.borrow_mut().stop(&mut c.se.borrow_mut(), self.now());
            self.record((v.machine, v.cpu), What::Exit, c.serial, 0);
            if c.is_task() {
                self.bury(&c);
            }
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

    pub fn enqueue(&self, c: &Rc<Ctx>, why: Enqueue, sync: bool) {
        let v = self.select_rq(c, sync);
        let why = if why == Enqueue::Wakeup && v.index != c.vcpu.get() { Enqueue::Migrate } else { why };
        c.vcpu.set(v.index);
        c.state.set(State::Queued);
        self.nr_queued.set(self.nr_queued.get() + 1);
        {
            let mut rq = v.rq.borrow_mut();
            rq.enqueue(c.clone(), &mut c.se.borrow_mut(), why);
            if let Some(curr) = v.current.borrow().as_ref().filter(|curr| curr.is_task()) {
                // An interrupt that is about to end leaves the CPU to whom it has interrupted, not to the woken.
                let sync = sync && !(cpu::in_hardirq() || cpu::in_serving_softirq());
                rq.check_preempt(&mut curr.se.borrow_mut(), &c.se.borrow(), self.now(), sync);
            }
        }
        self.break_off(&v);
        self.kick(&v);
    }

    /// A busy CPU whose task is to give way does so now, if that allows it.
    pub fn break_off(&self, v: &Vcpu) {
        let preemptible = || v.current.borrow().as_ref().is_some_and(|c| c.is_task() && !c.is_atomic());
        let running = self.running().is_some_and(|r| r.vcpu.get() == v.index);
        if !running && v.busy.get() && v.rq.borrow().need_resched() && preemptible() {
            v.busy.set(false);
            v.busy_gen.set(v.busy_gen.get() + 1);
        }
    }

    pub fn select_rq(&self, c: &Ctx, sync: bool) -> Rc<Vcpu> {
        let m = &self.machines.borrow()[c.machine as usize];
        let vcpus = self.vcpus.borrow();
        let first = m.first_vcpu as usize;
        // Inside a kernel it is that CPU, unless it gave it up to sleep.
        if m.nr_cpus == 1 || c.has_cpu() {
            return vcpus[c.vcpu.get() as usize].clone();
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
        c.die_if_asked();
        if deadline != u64::MAX {
            self.arm_deadline(c, deadline);
        }
        c.state.set(State::Asleep);
        c.spin_since.set(u64::MAX);
        c.suspend(Why::Sleep);
        c.die_if_asked();
    }

    /// The task ends where it sleeps, or next sleeps: what it holds is dropped. Only where panics unwind.
    pub fn kill(&self, c: &Rc<Ctx>) {
        if cfg!(panic = "unwind") && c.is_task() {
            c.dying.set(true);
            if let Some(t) = c.task.get() {
                t.set_state(TASK_RUNNING);
            }
            self.wake(c, false);
        }
    }
}
