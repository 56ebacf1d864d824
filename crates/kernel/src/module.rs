//! Things that are registered and may be unregistered while others are entering them.
//!
//! Interface: [`Registered`]: `try_module_get`, `wait_until_unused`; [`InUse`].
//! Linux counterpart: `include/linux/module.h`: `try_module_get`, `module_put`, `delete_module`.
//! Locks and context: a use begins and ends anywhere; waiting for the last one sleeps.
//!
//! A registry finds a thing under RCU or a lock and then enters it, outside of both. So the thing counts who is inside. Whoever
//! unregisters it takes it out of the registry first, then refuses entry, then waits until it is empty.

use crate::completion::Completion;
use crate::sync::atomic::{AtomicU32, Ordering};
use std::ops::Deref;
use std::sync::Arc;

/// In the count of users: nobody enters any more.
const GOING: u32 = 1 << 31;

/// What is registered, with its users (`struct module`).
pub struct Registered<T> {
    value: T,
    users: AtomicU32,
    empty: Completion,
}

impl<T> Registered<T> {
    pub fn new(value: T) -> Arc<Self> {
        Arc::new(Registered { value, users: AtomicU32::new(0), empty: Completion::new() })
    }

    /// The value, to look at; to use it, [`try_module_get`](Self::try_module_get).
    pub fn value(&self) -> &T {
        &self.value
    }

    /// Enters; `None` if it is going, as if it had not been found.
    #[inline]
    pub fn try_module_get(self: Arc<Self>) -> Option<InUse<T>> {
        let going = self.users.fetch_add(1, Ordering::Acquire) & GOING != 0;
        let inside = InUse(self);
        (!going).then_some(inside)
    }

    /// Refuses entry from now on, and returns when nobody is inside. Not to be called from inside.
    pub fn wait_until_unused(&self) {
        if self.users.fetch_or(GOING, Ordering::AcqRel) & !GOING != 0 {
            self.empty.wait_for_completion();
        }
    }
}

/// Someone is inside; the drop is `module_put`.
pub struct InUse<T>(Arc<Registered<T>>);

impl<T> Deref for InUse<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T> Drop for InUse<T> {
    #[inline]
    fn drop(&mut self) {
        if self.0.users.fetch_sub(1, Ordering::AcqRel) == GOING | 1 {
            self.0.empty.complete_all();
        }
    }
}
