//! RCU for simulations: a reclaimer of the thread's own, which knows that contexts take turns in the middle of sections.
//!
//! Interface: [`RcuDomain`], held by each simulation.
//! Linux counterpart: none: a machine has one RCU.
//! Locks and context: the simulation's thread.
//!
//! The process's reclaimer runs callbacks when any thread happens to; this one's run in the order of the simulation's own
//! steps. All simulations of a thread share one, from the first that is made to the last that is dropped.

use kernel::rcu::{Domain, Installed};
use std::cell::RefCell;
use std::marker::PhantomData;

struct Shared {
    users: usize,
    domain: Domain,
    installed: Installed,
}

thread_local! {
    static SHARED: RefCell<Option<Shared>> = const { RefCell::new(None) };
}

/// While it lives, RCU on this thread is the simulations'.
pub(crate) struct RcuDomain(PhantomData<*const ()>);

impl RcuDomain {
    pub fn new() -> RcuDomain {
        SHARED.with_borrow_mut(|s| match s {
            Some(s) => s.users += 1,
            None => {
                let domain = Domain::new_sim();
                // SAFETY: what simulated kernels protect is made and read by this thread only, after this; the guard goes
                // with the last simulation, when no task is left that could read.
                let installed = unsafe { domain.install() };
                *s = Some(Shared { users: 1, domain, installed });
            }
        });
        RcuDomain(PhantomData)
    }
}

/// Callbacks of this thread's simulations that wait for a grace period.
pub fn rcu_pending() -> usize {
    SHARED.with_borrow(|s| s.as_ref().map_or(0, |s| s.domain.pending()))
}

impl Drop for RcuDomain {
    fn drop(&mut self) {
        let last = SHARED.with_borrow_mut(|s| {
            let users = s.as_mut().map(|s| {
                s.users -= 1;
                s.users
            });
            if users == Some(0) { s.take() } else { None }
        });
        let Some(Shared { domain, installed, .. }) = last else { return };
        // Callbacks may queue others. A task that was left for dead inside a section keeps some from running: they are lost.
        for _ in 0..8 {
            domain.process_callbacks();
        }
        drop(installed);
    }
}
