//! Stacks for the tasks of a simulation.
//!
//! Interface: the crate's `Stacks`: `get`, `put`.
//! Linux counterpart: `kernel/fork.c` (`alloc_thread_stack_node`), with its per-CPU cache.
//! Locks and context: the simulation's thread.
//!
//! A stack is address space with a guard page below; the machine gives it memory page by page as it is used. Stacks of ended
//! tasks are kept, the last used first: they are warm.

use corosensei::stack::{DefaultStack, Stack, StackPointer};
use std::cell::Cell;
use std::io;

/// Stacks kept for later.
const KEEP: usize = 1024;

thread_local! {
    /// Stacks of this thread that have not been given back to the machine.
    static LIVE: Cell<usize> = const { Cell::new(0) };
}

/// A stack that is counted.
pub(crate) struct TaskStack(DefaultStack);

// SAFETY: the stack inside has a guard page and is large enough; it is moved, never resized.
unsafe impl Stack for TaskStack {
    #[inline]
    fn base(&self) -> StackPointer {
        self.0.base()
    }

    #[inline]
    fn limit(&self) -> StackPointer {
        self.0.limit()
    }
}

impl Drop for TaskStack {
    fn drop(&mut self) {
        LIVE.set(LIVE.get() - 1);
    }
}

pub(crate) struct Stacks {
    size: usize,
    free: Vec<TaskStack>,
}

impl Stacks {
    /// Stacks of `size` bytes.
    pub fn new(size: usize) -> Stacks {
        Stacks { size, free: Vec::new() }
    }

    /// The error is `mmap`'s: out of address space, or of mappings (`vm.max_map_count`: a stack takes two).
    pub fn get(&mut self) -> io::Result<TaskStack> {
        if let Some(s) = self.free.pop() {
            return Ok(s);
        }
        let s = DefaultStack::new(self.size)?;
        LIVE.set(LIVE.get() + 1);
        Ok(TaskStack(s))
    }

    pub fn put(&mut self, s: TaskStack) {
        if self.free.len() < KEEP {
            self.free.push(s);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Sim, SimConfig, TaskOptions};
    use kernel::Softirq;
    use kernel::kernel::raise_softirq;

    #[test]
    fn a_simulation_gives_its_stacks_back() {
        for seed in 0..10 {
            let sim = Sim::new(SimConfig { seed, preempt_every: Some(2), ..SimConfig::default() });
            let m = sim.machine("m", 2);
            m.kernel().open_softirq(Softirq::NetRx, || {
                crate::charge(1_000_000);
                if crate::now() < 40_000_000 {
                    raise_softirq(Softirq::NetRx);
                }
            });
            let irqs = [0, 1].map(|cpu| m.request_irq(cpu, || raise_softirq(Softirq::NetRx)));
            irqs.iter().for_each(|irq| irq.raise());
            m.spawn("ends", || crate::sleep(10));
            m.spawn_with("does not", TaskOptions { daemon: true, ..Default::default() }, || crate::sleep(u64::MAX));
            sim.run_for(50_000_000);
            assert!(LIVE.get() >= 4, "two of ksoftirqd, one that sleeps, one for interrupts: {}", LIVE.get());
            drop(sim);
            assert_eq!(LIVE.get(), 0, "seed {seed}");
        }
    }
}
