//! What the three kinds of socket share.
//!
//! Interface: [`Handle`], for the files beside it.
//! Linux counterpart: none.
//! Locks and context: process context; blocking calls block the calling thread.

use crate::stack::Stack;
use net::core::iov_iter::{IovIter, MsgHdr};
use net::socket::{Socket, sock_create};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;
use uapi::poll::Poll as PollMask;
use uapi::socket::*;
use uapi::{Errno, SockAddr};

/// A socket and how its user wants to wait. Clones made by `try_clone` share both.
#[derive(Clone)]
pub struct Handle {
    pub sock: Arc<Socket>,
    nonblocking: Arc<AtomicBool>,
    /// The stack runs for as long as it has sockets.
    stack: Stack,
}

impl Handle {
    pub fn new(stack: &Stack, sock: Arc<Socket>) -> Handle {
        Handle { sock, nonblocking: Arc::default(), stack: stack.clone() }
    }

    /// A handle on a connection that this one's listener has accepted.
    pub fn accepted(&self, sock: Arc<Socket>) -> Handle {
        Handle::new(&self.stack, sock)
    }

    /// A new socket of the family of `addr`.
    pub fn create(stack: &Stack, addr: &SocketAddr, kind: i32) -> io::Result<Handle> {
        let family = if addr.is_ipv4() { AF_INET } else { AF_INET6 };
        Ok(Handle::new(stack, sock_create(stack.net(), family, kind, 0)?))
    }

    pub fn nonblocking(&self) -> bool {
        self.nonblocking.load(Relaxed)
    }

    pub fn set_nonblocking(&self, on: bool) {
        self.nonblocking.store(on, Relaxed);
    }

    fn flags(&self, flags: i32) -> i32 {
        if self.nonblocking() { flags | MSG_DONTWAIT } else { flags }
    }

    pub fn send(&self, iter: IovIter<'_>, to: Option<&SocketAddr>, flags: i32) -> io::Result<usize> {
        let mut msg = MsgHdr::new(iter);
        msg.name = to.map(|&a| a.into());
        msg.flags = self.flags(flags | MSG_NOSIGNAL);
        Ok(self.sock.block_on(|w| self.sock.sendmsg(&mut msg, w))?)
    }

    pub fn recv(&self, iter: IovIter<'_>, flags: i32) -> io::Result<(usize, Option<SocketAddr>)> {
        let mut msg = MsgHdr::new(iter);
        let flags = self.flags(flags);
        let n = self.sock.block_on(|w| self.sock.recvmsg(&mut msg, flags, w))?;
        Ok((n, msg.name.and_then(|a| a.to_std())))
    }

    pub fn name(&self, peer: bool) -> io::Result<SocketAddr> {
        let name: SockAddr = self.sock.getname(peer)?;
        name.to_std().ok_or_else(|| Errno::EINVAL.into())
    }

    /// Waits until the socket is ready for some of `mask`, or has failed; what it is ready for, nothing after `timeout`.
    pub fn wait_ready(&self, mask: PollMask, timeout: Option<Duration>) -> PollMask {
        let wanted = mask | PollMask::ERR | PollMask::HUP;
        let kernel = self.sock.sk.net.kernel().clone();
        self.sock.block_on(|w| {
            w.set_timeout(|| kernel.ktime_get(), timeout.map(nanos));
            w.prepare_to_wait(&self.sock.sk.wq);
            let ready = self.sock.poll() & wanted;
            if ready.is_empty() && !w.timed_out(|| kernel.ktime_get()) {
                return Poll::Pending;
            }
            w.finish_wait();
            Poll::Ready(ready)
        })
    }

    pub fn set_int(&self, level: i32, name: i32, v: i32) -> io::Result<()> {
        Ok(self.sock.setsockopt(level, name, &v.to_ne_bytes())?)
    }

    pub fn int(&self, level: i32, name: i32) -> io::Result<i32> {
        let v = self.sock.getsockopt(level, name, 4)?;
        let b: [u8; 4] = v.try_into().map_err(|_| Errno::EINVAL)?;
        Ok(i32::from_ne_bytes(b))
    }

    /// `std`'s rule: no timeout is `None`, and a zero one is an error.
    pub fn set_timeout(&self, name: i32, t: Option<Duration>) -> io::Result<()> {
        if t == Some(Duration::ZERO) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "cannot set a 0 duration timeout"));
        }
        // Finer than a microsecond is rounded up: 0 would be "for ever".
        let us = t.map_or(0, |t| nanos(t).div_ceil(1000));
        let val = [((us / 1_000_000) as i64).to_ne_bytes(), ((us % 1_000_000) as i64).to_ne_bytes()].concat();
        Ok(self.sock.setsockopt(SOL_SOCKET, name, &val)?)
    }

    pub fn timeout(&self, name: i32) -> io::Result<Option<Duration>> {
        let v = self.sock.getsockopt(SOL_SOCKET, name, 16)?;
        let word = |at: usize| v.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_ne_bytes);
        let t = Duration::from_secs(word(0)) + Duration::from_micros(word(8));
        Ok(Some(t).filter(|t| !t.is_zero()))
    }

    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        let e = self.int(SOL_SOCKET, SO_ERROR)?;
        Ok((e != 0).then(|| Errno(e).into()))
    }
}

fn nanos(t: Duration) -> u64 {
    u64::try_from(t.as_nanos()).unwrap_or(u64::MAX / 2)
}

/// Tries `f` with each address until one works; the last error otherwise, as `std` does.
pub fn each_addr<A: ToSocketAddrs, T>(addr: A, mut f: impl FnMut(&SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let mut last = None;
    for a in addr.to_socket_addrs()? {
        match f(&a) {
            Ok(t) => return Ok(t),
            Err(e) => last = Some(e),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "could not resolve to any addresses")))
}
