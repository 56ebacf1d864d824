//! Networks of machines in deterministic virtual time: one seed, one history.
//!
//! Interface: [`Sim`], [`Machine`], [`TaskHandle`]; [`now`], [`sleep`], [`charge`] for code inside; [`network`] joins them:
//! [`nic`], [`link`], [`switch`].
//! Linux counterpart: none; a machine's `arch/`.
//! Locks and context: a simulation belongs to the thread that made it; any number of threads may have one.
//!
//! ```
//! use sockeye_sim::{self as sim, Sim, SimConfig};
//!
//! let run = |seed| {
//!     let sim = Sim::new(SimConfig { seed, preempt_every: Some(3), ..SimConfig::default() });
//!     let m = sim.machine("box", 2);
//!     let lock = std::sync::Arc::new(kernel::SpinLock::new(0));
//!     for name in ["a", "b"] {
//!         let lock = lock.clone();
//!         m.spawn(name, move || {
//!             for _ in 0..100 {
//!                 *lock.lock() += 1;
//!                 sim::sleep(1_000_000);
//!             }
//!         });
//!     }
//!     sim.run();
//!     assert_eq!((*lock.lock(), sim.now() / 1_000_000), (200, 100));
//!     sim.trace_hash()
//! };
//! assert_eq!(run(1), run(1));
//! assert_ne!(run(1), run(2));
//! ```

mod arch;
pub mod cable;
mod config;
mod context;
mod domain;
mod engine;
mod fault;
mod future;
mod irq;
pub mod link;
mod machine;
pub mod network;
pub mod nic;
mod queue;
mod report;
mod rng;
#[allow(clippy::module_inception)]
mod sim;
mod stack;
pub mod switch;
mod task;
mod trace;
mod vcpu;

pub use arch::SimArch;
pub use config::SimConfig;
pub use domain::rcu_pending;
pub use fault::{CpuFault, FaultRates};
pub use future::{Timer, block_on, timer};
pub use rng::Rng;
pub use sim::{
    Handler, Here, IrqLine, Machine, Sim, at, charge, current, note, now, park, relax, seed_from_env, seeds, sleep,
    sleep_until, with_sim, yield_now,
};
pub use task::{TaskHandle, TaskOptions};
pub use trace::{Record, What};
