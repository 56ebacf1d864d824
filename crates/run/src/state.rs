//! What the supervisor knows, and what every part of it needs: finding a call's socket, answering, parking, letting go.
//!
//! Interface: [`State`], [`Answer`].
//! Linux counterpart: none.
//! Locks and context: the supervisor's thread.

use crate::holder::{self, Holders, Witness};
use crate::notif::{Call, Notif};
use crate::parked::{Parked, ParkedCall};
use crate::replay::Replay;
use crate::sys;
use crate::table::{Entry, Role, Table};
use crate::wake::{Id, Wakeups};
use kernel::{PageMut, Task, Wait};
use net::core::net_namespace::Net;
use net::core::sock::Sock;
use net::socket::Socket;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use uapi::tcp::TcpState;
use uapi::{Errno, Result};

/// How a call ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    Value(i64),
    Error(Errno),
    /// Not ours: the host does it.
    Pass,
    /// Answered already, by the descriptor that was injected.
    Done,
}

impl From<Result<i64>> for Answer {
    fn from(r: Result<i64>) -> Self {
        r.map_or_else(Answer::Error, Answer::Value)
    }
}

impl From<Result<()>> for Answer {
    fn from(r: Result<()>) -> Self {
        r.map_or_else(Answer::Error, |()| Answer::Value(0))
    }
}

impl From<Errno> for Answer {
    fn from(e: Errno) -> Self {
        Answer::Error(e)
    }
}

pub struct State {
    pub net: Arc<Net>,
    pub notif: Notif,
    /// Our ends, and what else the supervisor waits for.
    pub epoll: OwnedFd,
    pub wakeups: Arc<Wakeups>,
    pub table: Table,
    pub parked: Parked<State, Answer>,
    pub holders: Holders,
    pub witness: Witness,
    pub replay: Replay,
    /// Where the next bytes from a program go.
    pub page: PageMut,
    /// For calls that do not block.
    nowait: Wait,
    /// Released sockets whose last data may still be under way.
    lingering: Vec<Arc<Sock>>,
    /// Sockets without an end of ours: only the witness knows when they are closed.
    pub orphans: usize,
    pub verbose: bool,
}

/// The events of our ends: edges. `EPOLLOUT` is added where it is wanted, because each read of the program is one.
const EVENTS: u32 = (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET) as u32;
const EPOLLOUT: u32 = libc::EPOLLOUT as u32;

/// Parked calls from which on those of threads that have gone are looked for.
const SWEEP: usize = 64;

impl State {
    pub fn new(net: Arc<Net>, notif: Notif, verbose: bool) -> Result<State> {
        let wakeups = Arc::new(Wakeups::new()?);
        Ok(State {
            net,
            notif,
            epoll: sys::epoll_create()?,
            table: Table::default(),
            parked: Parked::new(wakeups.clone()),
            wakeups,
            holders: Holders::default(),
            witness: Witness::new()?,
            replay: Replay::default(),
            page: PageMut::alloc(PAGE),
            nowait: Wait::new(Task::from_fn(|| {})),
            lingering: Vec::new(),
            orphans: 0,
            verbose,
        })
    }

    // --- Finding ---

    /// The socket that the call is about, with a duplicate of the program's descriptor for the time of the call.
    pub fn lookup(&mut self, call: &Call) -> std::result::Result<(Id, OwnedFd), Answer> {
        let dup = match self.holders.dup(call.tid, call.fd()) {
            Ok(d) => d,
            Err(e @ Errno::EBADF) => return Err(Answer::Error(e)),
            Err(_) => return Err(Answer::Pass),
        };
        let id = sys::socket_inode(dup.as_fd()).and_then(|ino| self.table.by_ino(ino)).ok_or(Answer::Pass)?;
        if let Some(e) = self.table.get(id) {
            e.holder = (call.tid, call.fd());
        }
        Ok((id, dup))
    }

    /// A duplicate of the program's end, wherever it is held.
    pub fn dup_of(&mut self, id: Id) -> Option<OwnedFd> {
        let (ino, (tid, fd)) = self.table.get(id).map(|e| (e.ino, e.holder))?;
        if let Some(d) = self.holders.dup_socket(tid, fd, ino) {
            return Some(d);
        }
        let (pid, fd) = holder::find(ino)?;
        if let Some(e) = self.table.get(id) {
            e.holder = (pid, fd);
        }
        self.holders.dup_socket(pid, fd, ino)
    }

    pub fn sock(&mut self, id: Id) -> Result<Arc<Socket>> {
        self.table.get(id).map(|e| e.sock.clone()).ok_or(Errno::EBADF)
    }

    // --- Sockets come and go ---

    /// A new socket in the table and in the epoll set; the program's end is to be injected and dropped.
    pub fn insert(&mut self, sock: Arc<Socket>, role: Role) -> Result<(Id, OwnedFd)> {
        let (id, theirs) = self.table.insert(sock, role, &self.wakeups)?;
        if let Err(e) = self.register(id) {
            self.table.remove(id);
            return Err(e);
        }
        Ok((id, theirs))
    }

    /// Puts our end into the epoll set.
    pub fn register(&mut self, id: Id) -> Result<()> {
        let Some(e) = self.table.get(id) else { return Err(Errno::EBADF) };
        let Some(ours) = &e.ours else { return Err(Errno::EBADF) };
        let out = if e.is_stream() { 0 } else { EPOLLOUT };
        sys::epoll_ctl(self.epoll.as_fd(), libc::EPOLL_CTL_ADD, ours.as_fd(), EVENTS | out, id.token())
    }

    /// Asks to be told, or no longer, when our end has room.
    pub fn want_out(&mut self, id: Id, want: bool) {
        let Some(e) = self.table.get(id) else { return };
        if e.want_out == want || !e.is_stream() {
            return;
        }
        e.want_out = want;
        let out = if want { EPOLLOUT } else { 0 };
        if let Some(ours) = &e.ours {
            let _ = sys::epoll_ctl(self.epoll.as_fd(), libc::EPOLL_CTL_MOD, ours.as_fd(), EVENTS | out, id.token());
        }
    }

    /// Closes our end, so that the program sees an error or the end.
    pub fn drop_ours(&mut self, id: Id) {
        if let Some(e) = self.table.get(id)
            && e.ours.take().is_some()
        {
            self.orphans += 1;
        }
    }

    /// The program has closed the socket, and all it sent is with the stack: closes it (`sock_release`).
    pub fn release(&mut self, id: Id) {
        for tid in self.parked.on(id) {
            self.parked.forget(tid);
        }
        let Some(mut e) = self.table.remove(id) else { return };
        self.orphans -= usize::from(e.ours.is_none());
        let stash = e.stream().map(|s| std::mem::take(&mut s.stash)).unwrap_or_default();
        stash.into_iter().for_each(|(child, _)| self.release(child));
        self.let_go(&e);
    }

    fn let_go(&mut self, e: &Entry) {
        e.sock.release();
        if !quiet(&e.sock.sk) {
            self.lingering.retain(|sk| !quiet(sk));
            self.lingering.push(e.sock.sk.clone());
        }
    }

    /// What ended programs left: how many of their sockets are not done, and how much memory these have queued to be sent.
    /// `None`: nothing. Sockets that still have our end are there because not all has come out of it.
    pub fn left_behind(&mut self) -> Option<(usize, usize)> {
        self.lingering.retain(|sk| !quiet(sk));
        let closing = self.table.iter().filter(|e| e.ours.is_some()).map(|e| &e.sock.sk);
        let queued = |sk: &Arc<Sock>| sk.wmem_queued.load(Ordering::Relaxed);
        let (n, bytes) = closing.chain(&self.lingering).map(queued).fold((0, 0), |(n, sum), q| (n + 1, sum + q));
        (n > 0).then_some((n, bytes))
    }

    // --- Answering ---

    /// Runs an operation that may wait. If it must, the call is parked and the answer comes when it is woken.
    pub fn run(
        &mut self,
        call: &Call,
        socket: Id,
        nonblock: bool,
        mut op: impl FnMut(&mut State, &mut Wait) -> Poll<Answer> + 'static,
    ) -> Option<Answer> {
        if nonblock {
            let mut wait = std::mem::replace(&mut self.nowait, Wait::new(Task::from_fn(|| {})));
            wait.reset();
            let r = op(self, &mut wait);
            wait.reset();
            self.nowait = wait;
            return Some(match r {
                Poll::Ready(a) => a,
                Poll::Pending => Answer::Error(Errno::EAGAIN),
            });
        }
        let wait = self.parked.wait(call.tid);
        self.poll_op(ParkedCall { call: *call, socket, op: Box::new(op), wait })
    }

    /// Tries a parked call again, if it still waits.
    pub fn resume(&mut self, tid: u32) {
        let Some(p) = self.parked.take(tid) else { return };
        if !self.notif.is_valid(p.call.id) {
            return;
        }
        let call = p.call;
        if let Some(a) = self.poll_op(p) {
            self.answer(&call, a);
        }
    }

    fn poll_op(&mut self, mut p: ParkedCall<State, Answer>) -> Option<Answer> {
        match (p.op)(self, &mut p.wait) {
            Poll::Ready(a) => {
                p.wait.finish_wait();
                Some(a)
            }
            Poll::Pending => {
                self.parked.park(p);
                if self.parked.count() > SWEEP && self.parked.count().is_power_of_two() {
                    let notif = &self.notif;
                    self.parked.sweep(|id| notif.is_valid(id));
                }
                None
            }
        }
    }

    /// Ends the call. An answer that a signal has overtaken is kept for when the call is made again.
    pub fn answer(&mut self, call: &Call, a: Answer) {
        let (sent, kept) = match a {
            Answer::Value(v) => (self.notif.answer(call.id, Ok(v)), Ok(v)),
            Answer::Error(e) => (self.notif.answer(call.id, Err(host_errno(e))), Err(e)),
            Answer::Pass => {
                let _ = self.notif.pass(call.id);
                return;
            }
            Answer::Done => return,
        };
        if sent == Err(Errno::ENOENT) {
            self.replay.keep(*call, kept);
        }
    }

    /// For an operation of the stack that will not wait.
    pub fn without_waiting<T>(&mut self, op: impl FnOnce(&mut Wait) -> Poll<Result<T>>) -> Result<T> {
        self.nowait.reset();
        let r = op(&mut self.nowait);
        self.nowait.reset();
        match r {
            Poll::Ready(r) => r,
            Poll::Pending => Err(Errno::EAGAIN),
        }
    }

    /// A page with at least `min` bytes of room.
    pub fn page(&mut self, min: usize) -> &mut PageMut {
        if self.page.len() < min {
            self.page = PageMut::alloc(PAGE.max(min));
        }
        &mut self.page
    }

    pub fn note(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            eprintln!("sockeye: {}", what());
        }
    }
}

/// The largest page of [`kernel::buf`]: one read of it carries what one GSO packet can.
pub const PAGE: usize = 68 * 1024;

/// `ERESTARTSYS` goes to the host as it is, which knows what to do with it; other internal numbers do not.
fn host_errno(e: Errno) -> Errno {
    match e {
        Errno::ERESTARTSYS => e,
        e => e.to_user(),
    }
}

/// Nothing that a program sent is unacknowledged, or nobody is left to acknowledge it.
fn quiet(sk: &Sock) -> bool {
    let over = TcpState::Close.flag() | TcpState::TimeWait.flag() | TcpState::FinWait2.flag() | TcpState::Listen.flag();
    sk.kind != uapi::socket::SOCK_STREAM || sk.state().is_in(over)
}

/// Whether the file behind our end has been hung up: the program has closed its end, or both directions are shut.
pub fn hung_up(fd: BorrowedFd<'_>) -> bool {
    sys::poll_now(fd, 0) & libc::POLLHUP != 0
}
