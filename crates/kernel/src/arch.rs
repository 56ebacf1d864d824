//! What the machine below must provide. A Linux host gives the real thing (`crates/host`), the simulator a virtual one.
//!
//! Interface: [`Arch`], [`Fault`].
//! Linux counterpart: `arch/`: entry, IPI, clock events, `get_random_bytes`.
//! Locks and context: every method may be called with spinlocks held, except [`Arch::schedule`].

use crate::task::Task;
use std::sync::Arc;

/// What can be made to fail ([`should_fail`](crate::should_fail)).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Fault {
    /// A packet (`skbuff_head_cache`), or a page for its payload.
    Skb,
    /// A socket, also a connection that a listener is to make (`sk_alloc`).
    Socket,
    /// A connection request, or what is left of a connection in TIME_WAIT.
    Request,
    /// A routing decision (`dst_alloc`).
    Route,
    /// A neighbour (`neigh_alloc`).
    Neighbour,
}

impl Fault {
    pub const ALL: [Fault; 5] = [Fault::Skb, Fault::Socket, Fault::Request, Fault::Route, Fault::Neighbour];
}

/// Threads, time, entropy and interrupts. Asked on slow paths only: sleep, wake, contended lock, timer programming.
pub trait Arch: Send + Sync + 'static {
    /// Monotonic time in nanoseconds since some fixed point (`ktime_get`).
    fn ktime_get(&self) -> u64;

    /// Wall-clock time in nanoseconds since 1970 (`ktime_get_real`).
    fn ktime_get_real(&self) -> u64;

    /// Fills `buf` with random bytes fit for keys (`get_random_bytes`).
    fn get_random_bytes(&self, buf: &mut [u8]);

    /// Called in a loop by whoever waits for a contended lock; `spins` counts the rounds.
    fn cpu_relax(&self, spins: u32);

    /// The calling task (`current`).
    fn current(&self) -> Arc<Task>;

    /// Gives up the CPU until the calling task is made [`TASK_RUNNING`](crate::task::TASK_RUNNING), or until `deadline`
    /// (in the time of [`ktime_get`](Arch::ktime_get)). Must not be called in atomic context.
    fn schedule(&self, task: &Task, deadline: Option<u64>);

    /// The CPU that the caller runs on, if the arch has CPUs of its own, as the simulator does. `None`: a thread becomes any
    /// CPU that is free while it is inside.
    fn smp_processor_id(&self) -> Option<usize> {
        None
    }

    /// A [checkpoint](crate::cpu::checkpoint) for which the arch has [asked](crate::cpu::set_countdown): interrupts may be
    /// delivered, another task or CPU may go on. The one method that may be called in any context and may switch stacks.
    fn checkpoint(&self) {}

    /// Whether an allocation is to fail: asked while somebody in this process [injects faults](crate::fault::FaultsOn).
    fn should_fail(&self, _what: Fault) -> bool {
        false
    }

    /// Asks that [`Kernel::run_ksoftirqd`](crate::Kernel::run_ksoftirqd) be called for `cpu`, soon, from a worker.
    fn wakeup_softirqd(&self, cpu: usize);

    /// Asks that [`Kernel::run_timers`](crate::Kernel::run_timers) be called for timer base `base` at `expires`
    /// nanoseconds, or sooner. A later request replaces an earlier one only if it expires sooner.
    fn program_timer(&self, base: usize, expires: u64);
}
