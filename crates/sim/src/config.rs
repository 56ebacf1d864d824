//! How a simulation behaves.
//!
//! Interface: [`SimConfig`].
//! Linux counterpart: none.
//! Locks and context: none.

/// How a simulation behaves. [`Default`] is the fast kind: nothing takes time, and CPUs change only where they must.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// Everything random follows from it.
    pub seed: u64,
    /// Mean number of checkpoints (ends of guards, unlocks, tracepoints) from one forced switch to the next: then another CPU
    /// or task goes first, or the CPU pauses. `None`: never, and checkpoints cost nothing.
    pub preempt_every: Option<u32>,
    /// The longest of those pauses, nanoseconds.
    pub pause_max: u64,
    /// Nanoseconds that an interrupt costs its CPU.
    pub irq_cost: u64,
    /// Nanoseconds that switching to another task costs.
    pub switch_cost: u64,
    /// Bytes of a task's stack.
    pub stack_size: usize,
    /// Steps that are kept to be shown.
    pub log: usize,
    /// How a run with this seed is repeated; `{seed}` stands for the seed. `None`: the test that runs, by its name.
    pub replay: Option<String>,
    /// Steps without virtual time going on after which the run counts as hung.
    pub max_steps: u64,
    /// Virtual nanoseconds that a context may spin.
    pub lockup_after: u64,
}

impl Default for SimConfig {
    fn default() -> Self {
        SimConfig {
            seed: 1,
            preempt_every: None,
            pause_max: 20_000,
            irq_cost: 0,
            switch_cost: 0,
            stack_size: 256 * 1024,
            log: 128,
            replay: None,
            max_steps: 20_000_000,
            lockup_after: 20_000_000_000,
        }
    }
}
