//! A socket of the gateway's namespace from its thread's point of view, and the pump between it and a host socket.
//!
//! Interface: [`StackSocket`] (non-blocking calls, readiness to the reactor), [`Pump`].
//! Linux counterpart: `splice(2)` both ways.
//! Locks and context: the gateway's thread.
//!
//! The payload is read from the host straight into pages that become the packets' fragments, and written to the host
//! straight from the fragments that arrived.

use super::poller::{Poller, Token};
use super::{Shared, Work};
use kernel::{Frag, PageMut, Task, Wait, WaitQueueEntry};
use net::core::iov_iter::{IovIter, MsgHdr};
use net::core::net_namespace::Net;
use net::socket::{Socket, sock_create};
use rustix::net::{SendAncillaryBuffer, SendFlags};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use uapi::socket::{MSG_DONTWAIT, MSG_NOSIGNAL, SO_LINGER, SOL_SOCKET};
use uapi::{Errno, Result, SockAddr};

/// A socket of the gateway's namespace, whose news come to the reactor as a token. Dropping it closes it.
pub struct StackSocket {
    sock: Arc<Socket>,
    callback: Arc<WaitQueueEntry>,
    /// Set while the token is on its way, so that a burst of news is one.
    queued: Arc<AtomicBool>,
}

impl StackSocket {
    /// A new socket.
    pub fn create(poller: &Poller, net: &Arc<Net>, kind: i32, token: Token) -> Result<StackSocket> {
        let sock = sock_create(net, uapi::socket::AF_INET, kind, 0)?;
        Ok(StackSocket::adopt(&poller.shared, sock, token))
    }

    /// Takes over a socket that exists.
    pub fn adopt(shared: &Arc<Shared>, sock: Arc<Socket>, token: Token) -> StackSocket {
        let queued = Arc::new(AtomicBool::new(false));
        let (weak, flag) = (Arc::downgrade(shared), queued.clone());
        let callback = WaitQueueEntry::callback(move |_| {
            if !flag.swap(true, Ordering::SeqCst)
                && let Some(s) = weak.upgrade()
            {
                s.push(Work::Ready(token.encode()));
            }
            true
        });
        sock.sk.wq.add(&callback);
        StackSocket { sock, callback, queued }
    }

    /// Says that the token has arrived: news from now on are reported anew. Call before looking.
    pub fn rearm(&self) {
        self.queued.store(false, Ordering::SeqCst);
    }

    pub fn socket(&self) -> &Socket {
        &self.sock
    }

    /// Takes the next connection; `EAGAIN` if there is none.
    pub fn accept(&self) -> Result<Arc<Socket>> {
        ready(self.sock.accept(true, &mut no_wait()))
    }

    pub fn connect(&self, to: SocketAddr) -> Result<()> {
        ready(self.sock.connect(&SockAddr::from(to), true, &mut no_wait()))
    }

    /// Sends from the front of `frags`, taking off what was sent.
    pub fn send_frags(&self, frags: &mut VecDeque<Frag>) -> Result<usize> {
        let mut msg = MsgHdr::new(IovIter::SourceFrags(std::mem::take(frags)));
        msg.flags = MSG_DONTWAIT | MSG_NOSIGNAL;
        let r = ready(self.sock.sendmsg(&mut msg, &mut no_wait()));
        if let IovIter::SourceFrags(rest) = msg.iter {
            *frags = rest;
        }
        r
    }

    /// Receives up to `room` bytes as references; `Ok(0)` is the end.
    pub fn recv_frags(&self, room: usize, to: &mut VecDeque<Frag>) -> Result<usize> {
        let mut msg = MsgHdr::new(IovIter::DestFrags { frags: Vec::new(), room });
        let r = ready(self.sock.recvmsg(&mut msg, MSG_DONTWAIT, &mut no_wait()));
        if let IovIter::DestFrags { frags, .. } = msg.iter {
            to.extend(frags);
        }
        r
    }

    /// The next close resets the connection.
    pub fn reset_on_close(&self) {
        let linger = [1i32.to_ne_bytes(), 0i32.to_ne_bytes()];
        let _ = self.sock.setsockopt(SOL_SOCKET, SO_LINGER, linger.as_flattened());
    }
}

impl Drop for StackSocket {
    fn drop(&mut self) {
        self.sock.sk.wq.remove(&self.callback);
        self.sock.release();
    }
}

fn no_wait() -> Wait {
    Wait::new(Task::from_fn(|| {}))
}

fn ready<T>(p: Poll<Result<T>>) -> Result<T> {
    match p {
        Poll::Ready(r) => r,
        Poll::Pending => Err(Errno::EAGAIN),
    }
}

/// How a pump stands after it was run.
#[derive(PartialEq, Eq, Debug, Clone, Copy)]
pub enum Flow {
    /// Waits for news from either side.
    Open,
    /// Has used up its turn and has more to do.
    More,
    /// Over.
    Closed,
}

/// Bytes one pump may move before others get their turn.
const TURN: usize = 1 << 20;
const PAGE: usize = 64 * 1024;

/// One direction's backlog.
#[derive(Default)]
struct Lane {
    frags: VecDeque<Frag>,
    /// The source has ended; the sink is told once the frags are gone.
    eof: bool,
    /// The sink has been told.
    closed: bool,
}

/// Carries one connection.
pub struct Pump {
    stack: StackSocket,
    host: OwnedFd,
    to_host: Lane,
    to_stack: Lane,
    page: Option<PageMut>,
    bytes_to_host: u64,
}

impl Pump {
    pub fn new(stack: StackSocket, host: OwnedFd) -> Pump {
        Pump { stack, host, to_host: Lane::default(), to_stack: Lane::default(), page: None, bytes_to_host: 0 }
    }

    /// Moves what can be moved now.
    pub fn run(&mut self) -> Flow {
        self.stack.rearm();
        let more = self.stack_to_host().and_then(|a| Ok(a | self.host_to_stack()?));
        match more {
            Err(reset) => {
                self.abort(reset);
                Flow::Closed
            }
            Ok(_) if self.to_host.closed && self.to_stack.closed => Flow::Closed,
            Ok(true) => Flow::More,
            Ok(false) => Flow::Open,
        }
    }

    /// The stack's side has ended, and the host has not been given all of it.
    pub fn is_flushing(&self) -> bool {
        let ended = self.stack.socket().sk.state() != uapi::tcp::TcpState::Established;
        ended && !self.to_host.closed
    }

    /// Bytes the host has taken so far.
    pub fn bytes_to_host(&self) -> u64 {
        self.bytes_to_host
    }

    /// A reset on one side becomes one on the other.
    fn abort(&mut self, _why: Errno) {
        self.stack.reset_on_close();
        let _ = rustix::net::sockopt::set_socket_linger(&self.host, Some(std::time::Duration::ZERO));
    }

    fn stack_to_host(&mut self) -> Result<bool> {
        let lane = &mut self.to_host;
        let mut moved = 0;
        while !lane.closed && moved < TURN {
            if lane.frags.is_empty() && !lane.eof {
                match self.stack.recv_frags(4 * PAGE, &mut lane.frags) {
                    Ok(0) => lane.eof = true,
                    Ok(_) => {}
                    Err(Errno::EAGAIN) => return Ok(false),
                    Err(e) => return Err(e),
                }
            }
            if lane.frags.is_empty() && lane.eof {
                lane.closed = true;
                let _ = rustix::net::shutdown(&self.host, rustix::net::Shutdown::Write);
                return Ok(false);
            }
            match write_frags(&self.host, &mut lane.frags) {
                Ok(n) => {
                    moved += n;
                    self.bytes_to_host += n as u64;
                }
                Err(Errno::EAGAIN) => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(!lane.closed)
    }

    fn host_to_stack(&mut self) -> Result<bool> {
        let mut moved = 0;
        while !self.to_stack.closed && moved < TURN {
            if self.to_stack.frags.is_empty() && !self.to_stack.eof && !self.fill()? {
                return Ok(false);
            }
            if self.to_stack.frags.is_empty() {
                self.to_stack.closed = true;
                let _ = self.stack.socket().shutdown(uapi::socket::SHUT_WR);
                return Ok(false);
            }
            match self.stack.send_frags(&mut self.to_stack.frags) {
                Ok(n) => moved += n,
                Err(Errno::EAGAIN) => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(!self.to_stack.closed)
    }

    /// Reads from the host; `false` when there is nothing now.
    fn fill(&mut self) -> Result<bool> {
        let mut page = self.page.take().filter(|p| p.len() >= 4096).unwrap_or_else(|| PageMut::alloc(PAGE));
        let r = rustix::io::read(&self.host, page.as_mut_slice());
        let got = match r {
            Ok(0) => {
                self.to_stack.eof = true;
                true
            }
            Ok(n) => {
                self.to_stack.frags.push_back(page.freeze(n));
                true
            }
            Err(rustix::io::Errno::AGAIN) => false,
            Err(rustix::io::Errno::INTR) => return self.fill(),
            Err(e) => return Err(Errno(e.raw_os_error())),
        };
        self.page = (got && page.len() >= 4096).then_some(page);
        Ok(got)
    }
}

/// Writes from the front of `frags` to a host socket, taking off what was written.
pub fn write_frags(fd: impl AsFd, frags: &mut VecDeque<Frag>) -> Result<usize> {
    let n = {
        let iov: smallvec::SmallVec<[IoSlice<'_>; 64]> = frags.iter().take(64).map(|f| IoSlice::new(f)).collect();
        let r = rustix::net::sendmsg(
            fd,
            &iov,
            &mut SendAncillaryBuffer::default(),
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        );
        r.map_err(|e| Errno(e.raw_os_error()))?
    };
    let mut left = n;
    while let Some(f) = frags.front_mut() {
        if left < f.len() {
            f.advance(left);
            break;
        }
        left -= f.len();
        frags.pop_front();
    }
    Ok(n)
}
