//! TCP sockets like `std::net`'s.
//!
//! Interface: [`TcpStream`], [`TcpListener`].
//! Linux counterpart: none.
//! Locks and context: process context; blocking calls block the calling thread.

use crate::handle::{Handle, each_addr};
use crate::stack::Stack;
use net::core::iov_iter::IovIter;
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr, ToSocketAddrs};
use std::time::Duration;
use uapi::poll::Poll as PollMask;
use uapi::socket::*;
use uapi::tcp::TCP_NODELAY;
use uapi::{Errno, SockAddr};

/// A TCP connection of a stack. Dropping it closes it.
pub struct TcpStream(Handle);

impl TcpStream {
    /// Connects; of several addresses the first that answers.
    ///
    /// ```no_run
    /// # use sockeye::{Stack, TcpStream};
    /// # fn main() -> std::io::Result<()> {
    /// # let stack = Stack::new()?;
    /// let stream = TcpStream::connect(&stack, "10.0.0.2:80")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn connect(stack: &Stack, addr: impl ToSocketAddrs) -> io::Result<TcpStream> {
        each_addr(addr, |a| {
            let h = Handle::create(stack, a, SOCK_STREAM)?;
            let to: SockAddr = (*a).into();
            h.sock.block_on(|w| h.sock.connect(&to, false, w))?;
            Ok(TcpStream(h))
        })
    }

    /// Connects, or fails with [`TimedOut`](io::ErrorKind::TimedOut).
    pub fn connect_timeout(stack: &Stack, addr: &SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        if timeout.is_zero() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "cannot set a 0 duration timeout"));
        }
        let h = Handle::create(stack, addr, SOCK_STREAM)?;
        let to: SockAddr = (*addr).into();
        match h.sock.block_on(|w| h.sock.connect(&to, true, w)) {
            Ok(()) => return Ok(TcpStream(h)),
            Err(Errno::EINPROGRESS) => {}
            Err(e) => return Err(e.into()),
        }
        if h.wait_ready(PollMask::OUT, Some(timeout)).is_empty() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "connection timed out"));
        }
        match h.take_error()? {
            Some(e) => Err(e),
            None => Ok(TcpStream(h)),
        }
    }

    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.0.name(true)
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.name(false)
    }

    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let how = match how {
            Shutdown::Read => SHUT_RD,
            Shutdown::Write => SHUT_WR,
            Shutdown::Both => SHUT_RDWR,
        };
        Ok(self.0.sock.shutdown(how)?)
    }

    /// Closes the connection for all its handles; with [`set_linger`](Self::set_linger) waits until the peer has everything, or
    /// the time is over. Dropping the last handle closes in the background.
    pub fn close(self) {
        let sock = self.0.sock.clone();
        sock.block_on(|w| sock.close(w));
    }

    /// Another handle on the same connection; they share every setting.
    pub fn try_clone(&self) -> io::Result<TcpStream> {
        Ok(TcpStream(self.0.clone()))
    }

    /// How long a read may block; `None`: for ever. It then fails with [`WouldBlock`](io::ErrorKind::WouldBlock).
    pub fn set_read_timeout(&self, t: Option<Duration>) -> io::Result<()> {
        self.0.set_timeout(SO_RCVTIMEO, t)
    }

    pub fn set_write_timeout(&self, t: Option<Duration>) -> io::Result<()> {
        self.0.set_timeout(SO_SNDTIMEO, t)
    }

    pub fn read_timeout(&self) -> io::Result<Option<Duration>> {
        self.0.timeout(SO_RCVTIMEO)
    }

    pub fn write_timeout(&self) -> io::Result<Option<Duration>> {
        self.0.timeout(SO_SNDTIMEO)
    }

    /// Reads without taking out of the queue.
    pub fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(self.0.recv(IovIter::dest(buf), MSG_PEEK)?.0)
    }

    pub fn set_nodelay(&self, on: bool) -> io::Result<()> {
        self.0.set_int(IPPROTO_TCP, TCP_NODELAY, on as i32)
    }

    pub fn nodelay(&self) -> io::Result<bool> {
        Ok(self.0.int(IPPROTO_TCP, TCP_NODELAY)? != 0)
    }

    /// How long [`close`](Self::close) waits for unsent data, in whole seconds (`SO_LINGER`); `None`: not at all, in the
    /// background.
    pub fn set_linger(&self, t: Option<Duration>) -> io::Result<()> {
        let secs = t.map_or(0, |t| i32::try_from(t.as_secs()).unwrap_or(i32::MAX));
        let val = [(t.is_some() as i32).to_ne_bytes(), secs.to_ne_bytes()].concat();
        Ok(self.0.sock.setsockopt(SOL_SOCKET, SO_LINGER, &val)?)
    }

    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        self.0.set_int(IPPROTO_IP, IP_TTL, i32::try_from(ttl).map_err(|_| Errno::EINVAL)?)
    }

    pub fn ttl(&self) -> io::Result<u32> {
        Ok(self.0.int(IPPROTO_IP, IP_TTL)? as u32)
    }

    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.0.take_error()
    }

    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        self.0.set_nonblocking(on);
        Ok(())
    }

    /// The socket below, for every option and call there is.
    pub fn socket(&self) -> &net::socket::Socket {
        &self.0.sock
    }
}

impl Read for &TcpStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        Ok(self.0.recv(IovIter::dest(buf), 0)?.0)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let parts = bufs.iter_mut().map(|b| &mut **b).filter(|b| !b.is_empty()).collect();
        Ok(self.0.recv(IovIter::Dest(parts), 0)?.0)
    }
}

impl Write for &TcpStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.send(IovIter::source(buf), None, 0)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let parts = bufs.iter().map(|b| &**b).filter(|b| !b.is_empty()).collect();
        self.0.send(IovIter::Source(parts), None, 0)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for TcpStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buf)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&*self).read_vectored(bufs)
    }
}

impl Write for TcpStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        (&*self).write(buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self).write_vectored(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpStream")
            .field("addr", &self.local_addr().ok())
            .field("peer", &self.peer_addr().ok())
            .finish()
    }
}

/// A listening TCP socket of a stack. Dropping it closes it.
pub struct TcpListener(Handle);

/// What `std` listens with.
const BACKLOG: i32 = 128;

impl TcpListener {
    /// Listens at an address; port 0 picks one. The address may be used again at once after an earlier listener, as with
    /// `std`.
    pub fn bind(stack: &Stack, addr: impl ToSocketAddrs) -> io::Result<TcpListener> {
        each_addr(addr, |a| {
            let h = Handle::create(stack, a, SOCK_STREAM)?;
            h.set_int(SOL_SOCKET, SO_REUSEADDR, 1)?;
            h.sock.bind(&(*a).into())?;
            h.sock.listen(BACKLOG)?;
            Ok(TcpListener(h))
        })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.name(false)
    }

    /// The next connection, with the peer's address.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let nonblock = self.0.nonblocking();
        let sock = self.0.sock.block_on(|w| self.0.sock.accept(nonblock, w))?;
        let stream = TcpStream(self.0.accepted(sock));
        let peer = stream.peer_addr()?;
        Ok((stream, peer))
    }

    pub fn incoming(&self) -> Incoming<'_> {
        Incoming(self)
    }

    pub fn try_clone(&self) -> io::Result<TcpListener> {
        Ok(TcpListener(self.0.clone()))
    }

    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        self.0.set_nonblocking(on);
        Ok(())
    }

    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.0.take_error()
    }

    /// The socket below, for every option and call there is.
    pub fn socket(&self) -> &net::socket::Socket {
        &self.0.sock
    }
}

impl fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpListener").field("addr", &self.local_addr().ok()).finish()
    }
}

/// The connections of a listener, without end.
#[derive(Debug)]
pub struct Incoming<'a>(&'a TcpListener);

impl Iterator for Incoming<'_> {
    type Item = io::Result<TcpStream>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.0.accept().map(|(s, _)| s))
    }
}
