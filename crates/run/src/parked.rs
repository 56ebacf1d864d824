//! System calls that wait: the program's thread stands still, and no thread of ours does.
//!
//! Interface: [`Parked`], [`Op`], [`ParkedCall`].
//! Linux counterpart: a task asleep in a system call.
//! Locks and context: the supervisor's thread; wake-ups come from anywhere through [`Wakeups`].

use crate::notif::Call;
use crate::wake::{Id, Wakeups};
use kernel::{Task, Wait};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::task::Poll;

/// A call's operation: polled until it is ready with its answer. `S` is the supervisor's state.
pub type Op<S, A> = Box<dyn FnMut(&mut S, &mut Wait) -> Poll<A>>;

pub struct ParkedCall<S, A> {
    pub call: Call,
    /// The socket it is about.
    pub socket: Id,
    pub op: Op<S, A>,
    pub wait: Wait,
}

/// The parked calls, by thread: a thread is in one call at a time, so a new one shows that an old one is gone.
pub struct Parked<S, A> {
    calls: HashMap<u32, ParkedCall<S, A>>,
    deadlines: BTreeSet<(u64, u32)>,
    wakeups: Arc<Wakeups>,
}

impl<S, A> Parked<S, A> {
    pub fn new(wakeups: Arc<Wakeups>) -> Self {
        Parked { calls: HashMap::new(), deadlines: BTreeSet::new(), wakeups }
    }

    /// What the call of thread `tid` waits with.
    pub fn wait(&self, tid: u32) -> Wait {
        let wakeups = self.wakeups.clone();
        Wait::new(Task::from_fn(move || wakeups.call(tid)))
    }

    pub fn park(&mut self, p: ParkedCall<S, A>) {
        let tid = p.call.tid;
        self.forget(tid);
        if let Some(d) = p.wait.deadline() {
            self.deadlines.insert((d, tid));
        }
        self.calls.insert(tid, p);
    }

    /// Takes the call of thread `tid`, to try it again.
    pub fn take(&mut self, tid: u32) -> Option<ParkedCall<S, A>> {
        let p = self.calls.remove(&tid)?;
        if let Some(d) = p.wait.deadline() {
            self.deadlines.remove(&(d, tid));
        }
        Some(p)
    }

    /// The thread has made another call, or ended.
    pub fn forget(&mut self, tid: u32) {
        drop(self.take(tid));
    }

    /// The threads that wait on a socket.
    pub fn on(&self, socket: Id) -> Vec<u32> {
        self.calls.values().filter(|p| p.socket == socket).map(|p| p.call.tid).collect()
    }

    /// When the next timeout ends, in the time of `ktime_get`.
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|d| d.0)
    }

    /// A thread whose timeout has ended.
    pub fn expired(&self, now: u64) -> Option<u32> {
        self.deadlines.first().filter(|d| d.0 <= now).map(|d| d.1)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.calls.len()
    }

    /// Forgets the calls that are gone, as `alive` tells by their id.
    pub fn sweep(&mut self, alive: impl Fn(u64) -> bool) {
        let gone: Vec<u32> = self.calls.values().filter(|p| !alive(p.call.id)).map(|p| p.call.tid).collect();
        gone.into_iter().for_each(|tid| self.forget(tid));
    }
}
