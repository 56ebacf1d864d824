//! Per-CPU data.
//!
//! Interface: [`PerCpu`]: one value a CPU, each on cache lines of its own; [`this_cpu_add`].
//! Linux counterpart: `include/linux/percpu.h`.
//! Locks and context: `T` brings its own synchronisation (atomics, or a spinlock that is never contended).

use crate::cpu::{NR_CPUS, is_a_cpu, smp_processor_id};
use crossbeam_utils::CachePadded;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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

/// `this_cpu_add` of a counter of this CPU's ([`PerCpu::this`]). Nobody else writes it, and nothing on this CPU comes in between:
/// so it takes no locked instruction, which is most of what counting costs. Outside every kernel, where a thread is no CPU of
/// its own, it takes one.
#[inline]
pub fn this_cpu_add(counter: &AtomicU64, n: u64) {
    if is_a_cpu() {
        counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
    } else {
        counter.fetch_add(n, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_every_kernel_threads_lose_no_count() {
        const EACH: u64 = 10_000_000;
        let (n, start) = (AtomicU64::new(0), std::sync::Barrier::new(4));
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    start.wait();
                    (0..EACH).for_each(|_| this_cpu_add(&n, 1));
                });
            }
        });
        assert_eq!(n.load(Relaxed), 4 * EACH);
    }
}
