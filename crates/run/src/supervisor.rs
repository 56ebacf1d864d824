//! The supervisor: one thread, one epoll set, which answers system calls, moves data and runs the stack's work that
//! comes with it.
//!
//! Interface: [`Supervisor::new`], [`Supervisor::run`].
//! Linux counterpart: none.
//! Locks and context: process context; inside the stack (`Kernel::enter`) except when it sleeps.

use crate::calls;
use crate::holder::descendants;
use crate::pump;
use crate::signals::Signals;
use crate::state::State;
use crate::sys;
use crate::wake::{Id, Lists};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use uapi::{Errno, Result};

/// Epoll data of what is not a socket; slots of the table stay below.
const NOTIF: u64 = u64::MAX;
const WAKEUPS: u64 = u64::MAX - 1;
const SIGNALS: u64 = u64::MAX - 2;

const EVENTS: usize = 64;
const SECOND: u64 = 1_000_000_000;
/// After the last program's end, how long its data may stay where it is; as long as some of it moves, we wait.
const LINGER: u64 = 30 * SECOND;

pub struct Supervisor {
    st: State,
    signals: Signals,
    /// The program we started.
    main: u32,
    /// Its wait status, once it has ended.
    status: Option<i32>,
    /// No thread is under the filter any more.
    unused: bool,
    lists: Lists,
    next_reap: u64,
    /// A signal came after the program's end.
    hurry: bool,
}

impl Supervisor {
    pub fn new(st: State, signals: Signals, main: u32) -> Result<Supervisor> {
        let add = |fd, data| sys::epoll_ctl(st.epoll.as_fd(), libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN as u32, data);
        add(st.notif.as_fd(), NOTIF)?;
        add(st.wakeups.as_fd(), WAKEUPS)?;
        add(signals.as_fd(), SIGNALS)?;
        Ok(Supervisor {
            st,
            signals,
            main,
            status: None,
            unused: false,
            lists: Lists::default(),
            next_reap: 0,
            hurry: false,
        })
    }

    /// Serves until the program and all its descendants have ended; the program's wait status.
    pub fn run(mut self) -> Result<i32> {
        self.reap_children();
        while !self.finished() {
            self.serve(None)?;
        }
        self.wind_up()?;
        Ok(self.status.unwrap_or_default())
    }

    fn finished(&self) -> bool {
        self.status.is_some() && self.unused
    }

    /// Sends what programs left behind when they ended.
    fn wind_up(&mut self) -> Result<()> {
        let kernel = self.st.net.kernel().clone();
        {
            let _inside = kernel.enter();
            pump::reap(&mut self.st);
        }
        let (mut left, mut moved_at) = (None, kernel.ktime_get());
        while !self.hurry
            && let Some(now_left) = self.st.left_behind()
        {
            let now = kernel.ktime_get();
            if left.replace(now_left) != Some(now_left) {
                moved_at = now;
            } else if now >= moved_at + LINGER {
                break;
            }
            self.serve(Some(SECOND / 100))?;
        }
        Ok(())
    }

    /// One turn: what the stack has for us, then what the host has. Sleeps at most `limit` nanoseconds.
    fn serve(&mut self, limit: Option<u64>) -> Result<()> {
        let kernel = self.st.net.kernel().clone();
        {
            let _inside = kernel.enter();
            self.woken();
            self.timeouts(kernel.ktime_get());
        }
        let timeout = match self.st.wakeups.prepare_to_sleep() {
            true => min(self.until_next(kernel.ktime_get()), limit),
            false => Some(0),
        };
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let n = self.wait(&mut events, timeout)?;
        self.st.wakeups.awake();
        let _inside = kernel.enter();
        for e in events.iter().take(n) {
            let (what, data) = (e.events, e.u64);
            match data {
                NOTIF if what & libc::EPOLLIN as u32 != 0 => self.call()?,
                NOTIF => self.filter_unused(),
                WAKEUPS => self.st.wakeups.clear(),
                SIGNALS => self.signals(),
                socket => pump::program_ready(&mut self.st, Id::from_token(socket), what),
            }
        }
        Ok(())
    }

    fn wait(&self, events: &mut [libc::epoll_event], timeout: Option<u64>) -> Result<usize> {
        match sys::epoll_wait(self.st.epoll.as_fd(), events, timeout) {
            Err(Errno::EINTR) => Ok(0),
            r => r,
        }
    }

    fn call(&mut self) -> Result<()> {
        let Ok(call) = self.st.notif.recv() else { return Ok(()) };
        self.before_the_call()?;
        calls::dispatch(&mut self.st, &call);
        Ok(())
    }

    /// What programs did without us before this call was made, so that the call finds its effects: a close that frees a
    /// port or ends a listener, bytes written to another socket. The host's news of it may have come behind the call.
    fn before_the_call(&mut self) -> Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        loop {
            let n = self.wait(&mut events, Some(0))?;
            // What is not a socket is level-triggered and comes again.
            for (what, data) in events.iter().take(n).map(|e| (e.events, e.u64)).filter(|e| e.1 < SIGNALS) {
                pump::program_ready(&mut self.st, Id::from_token(data), what);
            }
            if n < EVENTS {
                return Ok(());
            }
        }
    }

    fn filter_unused(&mut self) {
        self.unused = true;
        let _ = sys::epoll_del(self.st.epoll.as_fd(), self.st.notif.as_fd());
        self.reap_children();
    }

    /// What the stack has put on the lists. Parked calls come first: what they take need not be shown to pollers.
    fn woken(&mut self) {
        self.st.wakeups.take(&mut self.lists);
        let mut lists = std::mem::take(&mut self.lists);
        for tid in lists.calls.drain(..) {
            self.st.resume(tid);
        }
        for id in lists.sockets.drain(..) {
            if let Some(e) = self.st.table.get(id) {
                e.queued.store(false, Ordering::SeqCst);
                pump::stack_ready(&mut self.st, id);
            }
        }
        self.lists = lists;
    }

    fn timeouts(&mut self, now: u64) {
        while let Some(tid) = self.st.parked.expired(now) {
            self.st.resume(tid);
        }
        if self.st.orphans > 0 && now >= self.next_reap {
            self.next_reap = now + SECOND;
            pump::reap_orphans(&mut self.st);
        }
    }

    fn until_next(&self, now: u64) -> Option<u64> {
        let reap = (self.st.orphans > 0).then_some(self.next_reap);
        min(self.st.parked.next_deadline(), reap).map(|t| t.saturating_sub(now))
    }

    fn signals(&mut self) {
        while let Some(s) = self.signals.next() {
            if s.signal == libc::SIGCHLD {
                self.reap_children();
            } else if self.status.is_some() && s.signal != libc::SIGWINCH {
                self.hurry = true;
                // Only what the program left in the background is there: the user wants it to end.
                descendants().into_iter().for_each(|pid| sys::kill(pid, s.signal));
            } else if s.addressed {
                sys::kill(self.main, s.signal);
            }
        }
    }

    fn reap_children(&mut self) {
        while let Some((pid, status)) = sys::reap() {
            if pid == self.main {
                self.status = Some(status);
            }
        }
    }
}

/// The earlier of two times that may not be set.
fn min(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
