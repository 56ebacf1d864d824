//! Per-CPU data.
//!
//! Interface: [`PerCpu`]: one value a CPU, each on cache lines of its own.
//! Linux counterpart: `include/linux/percpu.h`.
//! Locks and context: `T` brings its own synchronisation (atomics, or a spinlock that is never contended).

use crate::cpu::{NR_CPUS, smp_processor_id};
use crossbeam_utils::CachePadded;

/// One `T` for each CPU.
pub struct PerCpu<T>(Box<[CachePadded<T>]>);

impl<T: Default> Default for PerCpu<T> {
    fn default() -> Self {
        PerCpu((0..NR_CPUS).map(|_| CachePadded::new(T::default())).collect())
    }
}

impl<T> PerCpu<T> {
    /// `this_cpu_ptr`.
    #[inline]
    pub fn this(&self) -> &T {
        &self.0[smp_processor_id()]
    }

    /// `per_cpu_ptr`.
    pub fn get(&self, cpu: usize) -> &T {
        &self.0[cpu]
    }

    /// `for_each_possible_cpu`.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|c| &**c)
    }
}
