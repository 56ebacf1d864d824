//! What the engine knows of a machine: its clocks, its CPUs, its interrupt lines.
//!
//! Interface: the crate's `MachineState`, `Vcpu`, `Irq`.
//! Linux counterpart: `struct rq` with the CPU around it; `struct irq_desc`.
//! Locks and context: the simulation's thread. No borrow of a field is held while a context runs.

use crate::context::Ctx;
use crate::rng::Rng;
use kernel::fault::Fault;
use kernel::sched::Rq;
use kernel::{Arch, Kernel};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

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
    pub queued: Cell<bool>,
    /// Until when its time is spoken for, and which of its events says so.
    pub busy: Cell<bool>,
    pub busy_gen: Cell<u64>,
    pub stalled_until: Cell<u64>,
    pub ksoftirqd: OnceCell<Rc<Ctx>>,
    pub ksoftirqd_wanted: Cell<bool>,
}

impl Vcpu {
    #[inline]
    pub fn has_irq(&self) -> bool {
        self.timers.get() != 0 || !self.irqs.borrow().is_empty()
    }

    /// Tasks it has, the running one included.
    pub fn load(&self) -> usize {
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
    /// For each timer base, when it wants its interrupt, in the machine's time, and its event, in virtual time; `u64::MAX`: not.
    pub programmed: RefCell<Vec<(u64, u64)>>,
    /// Whether an allocation fails, once somebody wants that.
    pub should_fail: RefCell<Option<Rc<dyn Fn(Fault) -> bool>>>,
}

pub(crate) struct Irq {
    pub vcpu: u32,
    pub handler: Rc<dyn Fn()>,
    /// Nesting of `disable_irq`.
    pub disabled: Cell<u32>,
    pub pending: Cell<bool>,
}
