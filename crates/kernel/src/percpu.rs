//! Per-CPU data.
//!
//! Interface: [`PerCpu`]: one value a CPU, each on cache lines of its own.
//! Linux counterpart: `include/linux/percpu.h`.
//! Locks and context: `T` brings its own synchronisation (atomics, or a spinlock that is never contended).

use crate::cpu::{NR_CPUS, smp_processor_id};
use crossbeam_utils::CachePadded;
use std::sync::OnceLock;

/// One `T` for each CPU, made when that CPU first asks for it: a machine with one CPU does not pay for sixty-four. The lock is
/// std's: it is open from then on, so no model need see it.
pub struct PerCpu<T>(Box<[OnceLock<Box<CachePadded<T>>>]>);

impl<T> Default for PerCpu<T> {
    fn default() -> Self {
        PerCpu((0..NR_CPUS).map(|_| OnceLock::new()).collect())
    }
}

impl<T: Default> PerCpu<T> {
    /// `this_cpu_ptr`.
    #[inline]
    pub fn this(&self) -> &T {
        self.get(smp_processor_id())
    }

    /// `per_cpu_ptr`.
    #[inline]
    pub fn get(&self, cpu: usize) -> &T {
        self.0[cpu].get_or_init(|| Box::new(CachePadded::new(T::default())))
    }
}

impl<T> PerCpu<T> {
    /// `for_each_possible_cpu`, as far as they have been there.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.iter_cpus().map(|(_, v)| v)
    }

    /// The same with the CPUs' numbers.
    pub fn iter_cpus(&self) -> impl Iterator<Item = (usize, &T)> {
        self.0.iter().enumerate().filter_map(|(cpu, c)| Some((cpu, &***c.get()?)))
    }
}
