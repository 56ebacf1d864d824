//! The kernel machinery without a network: locks, RCU, wait queues, tasks, softirqs, timers, per-CPU data, tracepoints,
//! buffers, and `arch`, the trait through which it gets threads, time, entropy and interrupts.
//!
//! Interface: the types re-exported below. Read the files from [`cpu`] upwards; each only looks down.
//! Linux counterpart: `kernel/`, `include/linux/{spinlock,wait,rcupdate,interrupt,timer}.h`.
//! Locks and context: each file says its own.

pub mod arch;
pub mod buf;
#[cfg(test)]
mod buf_tests;
pub mod completion;
pub mod cpu;
pub mod fault;
pub mod hrtimer;
#[allow(clippy::module_inception)]
pub mod kernel;
pub mod lockdep;
pub mod module;
pub mod mutex;
pub mod percpu;
pub mod plant;
pub mod rcu;
pub mod rcu_hash;
#[cfg(test)]
mod rcu_tests;
pub mod rculist;
#[cfg(test)]
mod rculist_tests;
pub mod rwlock;
pub mod rwsem;
pub mod sched;
pub mod semaphore;
pub mod seqlock;
pub mod sleep_timeout;
pub mod sock_lock;
pub mod span;
pub mod spinlock;
pub mod sync;
pub mod task;
pub mod timer;
pub mod trace;
pub mod wait;
mod wait_list;

pub use arch::Arch;
pub use buf::{Frag, PageMut};
pub use completion::Completion;
pub use cpu::{in_softirq, local_bh_disable};
pub use fault::{Fault, should_fail};
pub use hrtimer::{HrTimer, HrtimerRestart};
pub use kernel::{Kernel, Softirq};
pub use mutex::Mutex;
pub use percpu::{PerCpu, this_cpu_add};
pub use rcu::{Rcu, RcuReadGuard, call_rcu, rcu_barrier, rcu_read_lock, synchronize_rcu};
pub use rcu_hash::RcuHashTable;
pub use rwlock::RwLock;
pub use rwsem::RwSemaphore;
pub use semaphore::Semaphore;
pub use seqlock::SeqLock;
pub use sock_lock::SockLock;
pub use spinlock::SpinLock;
pub use task::Task;
pub use timer::{Timer, TimerOwner};
pub use wait::{Wait, WaitQueueEntry, WaitQueueHead};

/// Timer ticks per second. A jiffy is a millisecond.
pub const HZ: u64 = 1000;
/// Timer bases of a kernel, at most.
pub(crate) const NR_TIMER_BASES: usize = 64;
/// Nanoseconds per jiffy.
pub const TICK_NSEC: u64 = 1_000_000_000 / HZ;
