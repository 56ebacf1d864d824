//! Stacks for the tasks of a simulation.
//!
//! Interface: the crate's `Stacks`: `get`, `put`.
//! Linux counterpart: `kernel/fork.c` (`alloc_thread_stack_node`), with its per-CPU cache.
//! Locks and context: the simulation's thread.
//!
//! A stack is address space with a guard page below; the machine gives it memory page by page as it is used. Stacks of ended
//! tasks are kept, the last used first: they are warm.

use corosensei::stack::DefaultStack;
use std::io;

/// Stacks kept for later.
const KEEP: usize = 1024;

pub(crate) struct Stacks {
    size: usize,
    free: Vec<DefaultStack>,
}

impl Stacks {
    /// Stacks of `size` bytes.
    pub fn new(size: usize) -> Stacks {
        Stacks { size, free: Vec::new() }
    }

    /// The error is `mmap`'s: out of address space, or of mappings (`vm.max_map_count`: a stack takes two).
    pub fn get(&mut self) -> io::Result<DefaultStack> {
        self.free.pop().map_or_else(|| DefaultStack::new(self.size), Ok)
    }

    pub fn put(&mut self, s: DefaultStack) {
        if self.free.len() < KEEP {
            self.free.push(s);
        }
    }
}
