//! Fault injection: what can fail asks whether it is to.
//!
//! Interface: [`should_fail`], [`Fault`], [`FaultsOn`] for whoever injects.
//! Linux counterpart: `lib/fault-inject.c`, `mm/failslab.c`.
//! Locks and context: any. With nobody injecting in this process it is one load and a predictable branch.

pub use crate::arch::Fault;
use crate::cpu::with_arch;
use std::sync::atomic::{AtomicU32, Ordering};

/// The static key: how many in this process inject faults. Code is one a process, like it; std's, as no model needs it.
static INJECTORS: AtomicU32 = AtomicU32::new(0);

/// While it lives, arches are asked whether things are to fail ([`Arch::should_fail`](crate::Arch::should_fail)).
pub struct FaultsOn(());

impl FaultsOn {
    #[allow(clippy::new_without_default)]
    pub fn new() -> FaultsOn {
        INJECTORS.fetch_add(1, Ordering::SeqCst);
        FaultsOn(())
    }
}

impl Drop for FaultsOn {
    fn drop(&mut self) {
        INJECTORS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// `should_fail`: whether what the caller is about to do is to fail, as if there were no memory for it.
#[inline(always)]
pub fn should_fail(what: Fault) -> bool {
    INJECTORS.load(Ordering::Relaxed) != 0 && ask(what)
}

#[cold]
fn ask(what: Fault) -> bool {
    with_arch(|a| a.should_fail(what)).unwrap_or(false)
}
