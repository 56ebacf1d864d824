//! How the stack reaches the supervisor: which sockets have changed, which parked calls can go on.
//!
//! Interface: [`Wakeups`], [`Id`].
//! Linux counterpart: `ep_poll_callback` and the ready list of `fs/eventpoll.c`.
//! Locks and context: `socket` and `call` anywhere, also in softirq context under a wait queue's lock; the rest on the
//! supervisor's thread.

use crate::sys;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use uapi::Result;

/// A socket of the table; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Id {
    pub slot: u32,
    pub generation: u32,
}

impl Id {
    pub fn token(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    pub fn from_token(t: u64) -> Id {
        Id { slot: t as u32, generation: (t >> 32) as u32 }
    }
}

/// What is to be looked at. A socket is in `sockets` once (its own flag sees to that), a thread in `calls` at most once a
/// wake-up of its wait entry.
#[derive(Default)]
pub struct Lists {
    pub sockets: Vec<Id>,
    pub calls: Vec<u32>,
}

impl Lists {
    fn is_empty(&self) -> bool {
        self.sockets.is_empty() && self.calls.is_empty()
    }
}

pub struct Wakeups {
    lists: Mutex<Lists>,
    sleeping: AtomicBool,
    event: OwnedFd,
}

impl Wakeups {
    pub fn new() -> Result<Wakeups> {
        Ok(Wakeups { lists: Mutex::default(), sleeping: AtomicBool::new(false), event: sys::eventfd()? })
    }

    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The socket is to be looked at.
    pub fn socket(&self, id: Id) {
        self.lists().sockets.push(id);
        self.rouse();
    }

    /// The parked call of thread `tid` can be tried again.
    pub fn call(&self, tid: u32) {
        self.lists().calls.push(tid);
        self.rouse();
    }

    fn rouse(&self) {
        if self.sleeping.swap(false, Ordering::SeqCst) {
            let _ = sys::write(self.event.as_fd(), &1u64.to_ne_bytes());
        }
    }

    /// Exchanges the lists with `into`, which the caller has emptied.
    pub fn take(&self, into: &mut Lists) {
        std::mem::swap(&mut *self.lists(), into);
    }

    /// The supervisor is about to sleep. `false` if it must not: something has come.
    pub fn prepare_to_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        let sleep = self.lists().is_empty();
        if !sleep {
            self.sleeping.store(false, Ordering::SeqCst);
        }
        sleep
    }

    pub fn awake(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }

    /// Empties the event descriptor.
    pub fn clear(&self) {
        let _ = sys::read(self.event.as_fd(), &mut [0; 8]);
    }
}

impl AsFd for Wakeups {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_descriptor_is_written_only_for_a_sleeper() {
        let w = Wakeups::new().unwrap();
        let id = Id { slot: 7, generation: 3 };
        assert_eq!(Id::from_token(id.token()), id);
        w.socket(id);
        assert_eq!(sys::poll_now(w.as_fd(), libc::POLLIN), 0);
        assert!(!w.prepare_to_sleep());
        let mut l = Lists::default();
        w.take(&mut l);
        assert_eq!(l.sockets, [id]);
        assert!(w.prepare_to_sleep());
        w.call(9);
        assert_eq!(sys::poll_now(w.as_fd(), libc::POLLIN), libc::POLLIN);
        w.clear();
        w.call(10);
        assert_eq!(sys::poll_now(w.as_fd(), libc::POLLIN), 0);
    }
}
