//! RCU in a simulation: a domain of the thread's own, whose callbacks run at points that the seed decides.
//!
//! Interface: the crate's `Reclaim`: `get`, `pending`, `process`.
//! Linux counterpart: `kernel/rcu/tiny.c`, in spirit.
//! Locks and context: one thread. The process's own domain would make what runs when depend on other threads.
//!
//! The simulations of a thread share the domain, as they share the thread: it is there from the first to the last of them.

use kernel::rcu::{Domain, Installed};
use std::cell::RefCell;
use std::rc::{Rc, Weak};

pub(crate) struct Reclaim {
    // Dropped in this order: what is left in the domain runs after it has been taken away.
    _installed: Installed,
    domain: Domain,
}

thread_local! {
    static MINE: RefCell<Weak<Reclaim>> = const { RefCell::new(Weak::new()) };
}

impl Reclaim {
    /// The thread's, for as long as somebody holds it.
    pub fn get() -> Rc<Reclaim> {
        MINE.with_borrow_mut(|m| {
            m.upgrade().unwrap_or_else(|| {
                let domain = Domain::new_sim();
                // SAFETY: machines and what they publish are reached through their simulation, which is this thread's
                // alone; guards of this kind do not nest.
                let installed = unsafe { domain.install() };
                let new = Rc::new(Reclaim { _installed: installed, domain });
                *m = Rc::downgrade(&new);
                new
            })
        })
    }

    /// Whether callbacks wait for their grace period.
    pub fn pending(&self) -> bool {
        self.domain.pending() > 0
    }

    /// Runs those whose grace period has ended.
    pub fn process(&self) {
        self.domain.process_callbacks();
    }
}
