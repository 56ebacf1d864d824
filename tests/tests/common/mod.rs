//! The socket calls of two kernels behind one trait: the machine's, and a stack of this process.

use host::Host;
use net::core::net_namespace::Net;
use net::init::net_init;
use net::syscall::{FdTable, PollFd};
use std::fmt::Debug;
use std::net::SocketAddr;
use uapi::poll::Poll;
use uapi::{Errno, Result, SockAddr};

/// The calls, with addresses and options as the bytes a program gives.
pub trait Calls {
    fn socket(&self, family: i32, kind: i32, protocol: i32) -> Result<i32>;
    fn bind(&self, fd: i32, addr: &[u8]) -> Result<()>;
    fn listen(&self, fd: i32, backlog: i32) -> Result<()>;
    fn connect(&self, fd: i32, addr: &[u8]) -> Result<()>;
    fn accept4(&self, fd: i32, flags: i32) -> Result<i32>;
    fn sendto(&self, fd: i32, buf: &[u8], flags: i32, to: Option<&[u8]>) -> Result<usize>;
    fn recv(&self, fd: i32, len: usize, flags: i32) -> Result<Vec<u8>>;
    fn shutdown(&self, fd: i32, how: i32) -> Result<()>;
    fn close(&self, fd: i32) -> Result<()>;
    fn name(&self, fd: i32, peer: bool) -> Result<SocketAddr>;
    fn setsockopt(&self, fd: i32, level: i32, name: i32, val: &[u8]) -> Result<()>;
    fn getsockopt(&self, fd: i32, level: i32, name: i32, len: usize) -> Result<Vec<u8>>;
    fn fcntl(&self, fd: i32, cmd: i32, arg: i32) -> Result<i32>;
    fn ioctl(&self, fd: i32, cmd: u32) -> Result<i32>;
    /// What it is ready for of everything; waits `timeout` milliseconds for some of `events`.
    fn poll(&self, fd: i32, events: u32, timeout: i32) -> u32;

    /// `setsockopt` of an `int`.
    fn set(&self, fd: i32, level: i32, name: i32, v: i32) -> Result<()> {
        self.setsockopt(fd, level, name, &v.to_ne_bytes())
    }
}

/// A `struct sockaddr` of an address as text.
pub fn addr(s: &str) -> Vec<u8> {
    bytes(s.parse::<SocketAddr>().expect("address"))
}

pub fn bytes(a: SocketAddr) -> Vec<u8> {
    let (b, n) = SockAddr::from(a).to_bytes();
    b[..n].to_vec()
}

/// A stack of this process.
pub struct Sockeye(pub FdTable);

impl Calls for Sockeye {
    fn socket(&self, family: i32, kind: i32, protocol: i32) -> Result<i32> {
        self.0.socket(family, kind, protocol)
    }
    fn bind(&self, fd: i32, addr: &[u8]) -> Result<()> {
        self.0.sockfd_lookup(fd)?;
        self.0.bind(fd, &SockAddr::from_bytes(addr)?)
    }
    fn listen(&self, fd: i32, backlog: i32) -> Result<()> {
        self.0.listen(fd, backlog)
    }
    fn connect(&self, fd: i32, addr: &[u8]) -> Result<()> {
        self.0.sockfd_lookup(fd)?;
        self.0.connect(fd, &SockAddr::from_bytes(addr)?)
    }
    fn accept4(&self, fd: i32, flags: i32) -> Result<i32> {
        self.0.accept4(fd, flags).map(|(fd, _)| fd)
    }
    fn sendto(&self, fd: i32, buf: &[u8], flags: i32, to: Option<&[u8]>) -> Result<usize> {
        let to = to.map(SockAddr::from_bytes).transpose()?;
        self.0.sendto(fd, buf, flags, to.as_ref())
    }
    fn recv(&self, fd: i32, len: usize, flags: i32) -> Result<Vec<u8>> {
        let mut b = vec![0; len];
        let n = self.0.recv(fd, &mut b, flags)?;
        b.truncate(n);
        Ok(b)
    }
    fn shutdown(&self, fd: i32, how: i32) -> Result<()> {
        self.0.shutdown(fd, how)
    }
    fn close(&self, fd: i32) -> Result<()> {
        self.0.close(fd)
    }
    fn name(&self, fd: i32, peer: bool) -> Result<SocketAddr> {
        let a = if peer { self.0.getpeername(fd) } else { self.0.getsockname(fd) };
        a.map(|a| a.to_std().expect("a name has a family"))
    }
    fn setsockopt(&self, fd: i32, level: i32, name: i32, val: &[u8]) -> Result<()> {
        self.0.setsockopt(fd, level, name, val)
    }
    fn getsockopt(&self, fd: i32, level: i32, name: i32, len: usize) -> Result<Vec<u8>> {
        self.0.getsockopt(fd, level, name, len)
    }
    fn fcntl(&self, fd: i32, cmd: i32, arg: i32) -> Result<i32> {
        self.0.fcntl(fd, cmd, arg)
    }
    fn ioctl(&self, fd: i32, cmd: u32) -> Result<i32> {
        self.0.ioctl(fd, cmd, 0)
    }
    fn poll(&self, fd: i32, events: u32, timeout: i32) -> u32 {
        let mut p = [PollFd::new(fd, Poll::from_bits_truncate(events))];
        self.0.poll(&mut p, timeout).expect("poll");
        p[0].revents.bits()
    }
}

/// The machine's kernel.
pub struct Linux;

fn check(r: impl Into<i64>) -> Result<i64> {
    let r = r.into();
    if r >= 0 { Ok(r) } else { Err(Errno::from_io(&std::io::Error::last_os_error())) }
}

fn no_value(r: i32) -> Result<()> {
    check(r).map(drop)
}

impl Calls for Linux {
    fn socket(&self, family: i32, kind: i32, protocol: i32) -> Result<i32> {
        // SAFETY: pointers and lengths are those of live buffers, which the call does not keep.
        check(unsafe { libc::socket(family, kind, protocol) }).map(|fd| fd as i32)
    }
    fn bind(&self, fd: i32, a: &[u8]) -> Result<()> {
        // SAFETY: pointers and lengths are those of live buffers, which the call does not keep.
        no_value(unsafe { libc::bind(fd, a.as_ptr().cast(), a.len() as u32) })
    }
    fn listen(&self, fd: i32, backlog: i32) -> Result<()> {
        // SAFETY: pointers and lengths are those of live buffers, which the call does not keep.
        no_value(unsafe { libc::listen(fd, backlog) })
    }
    fn connect(&self, fd: i32, a: &[u8]) -> Result<()> {
        // SAFETY: pointers and lengths are those of live buffers, which the call does not keep.
        no_value(unsafe { libc::connect(fd, a.as_ptr().cast(), a.len() as u32) })
    }
    fn accept4(&self, fd: i32, flags: i32) -> Result<i32> {
        let null = std::ptr::null_mut();
        // SAFETY: pointers and lengths are those of live buffers, which the call does not keep.
        check(unsafe { libc::accept4(fd, null, std::ptr::null_mut(), flags) }).map(|fd| fd as i32)
    }
    fn sendto(&self, fd: i32, buf: &[u8], flags: i32, to: Option<&[u8]>) -> Result<usize> {
        let (p, n) = to.map_or((std::ptr::null(), 0), |a| (a.as_ptr(), a.len() as u32));
        let flags = flags | libc::MSG_NOSIGNAL;
        // SAFETY: pointers and lengths are those of live buffers, which the call does not keep.
        let r = unsafe { libc::sendto(fd, buf.as_ptr().cast(), buf.len(), flags, p.cast(), n) };
        check(r as i64).map(|n| n as usize)
    }
    fn recv(&self, fd: i32, len: usize, flags: i32) -> Result<Vec<u8>> {
        let mut b = vec![0; len];
        // SAFETY: pointers and lengths are those of live buffers, which the call does not keep.
        let n = check(unsafe { libc::recv(fd, b.as_mut_ptr().cast(), len, flags) } as i64)?;
        b.truncate(n as usize);
        Ok(b)
    }
    fn shutdown(&self, fd: i32, how: i32) -> Result<()> {
        // SAFETY: pointers and lengths are those of live buffers, which the call does not keep.
        no_value(unsafe { libc::shutdown(fd, how) })
    }
    fn close(&self, fd: i32) -> Result<()> {
        // SAFETY: pointers and lengths are those of live buffers, which the call does not keep.
        no_value(unsafe { libc::close(fd) })
    }
    fn name(&self, fd: i32, peer: bool) -> Result<SocketAddr> {
        let mut b = [0u8; 128];
        let mut n = b.len() as u32;
        let p = b.as_mut_ptr().cast();
        // SAFETY: pointers and lengths are those of live buffers, which the call does not keep.
        no_value(unsafe { if peer { libc::getpeername(fd, p, &mut n) } else { libc::getsockname(fd, p, &mut n) } })?;
        SockAddr::from_bytes(&b[..n as usize]).map(|a| a.to_std().expect("a name has a family"))
    }
    fn setsockopt(&self, fd: i32, level: i32, name: i32, val: &[u8]) -> Result<()> {
        // SAFETY: pointers and lengths are those of live buffers, which the call does not keep.
        no_value(unsafe { libc::setsockopt(fd, level, name, val.as_ptr().cast(), val.len() as u32) })
    }
    fn getsockopt(&self, fd: i32, level: i32, name: i32, len: usize) -> Result<Vec<u8>> {
        let mut b = vec![0; len];
        let mut n = len as u32;
        // SAFETY: pointers and lengths are those of live buffers, which the call does not keep.
        no_value(unsafe { libc::getsockopt(fd, level, name, b.as_mut_ptr().cast(), &mut n) })?;
        b.truncate(n as usize);
        Ok(b)
    }
    fn fcntl(&self, fd: i32, cmd: i32, arg: i32) -> Result<i32> {
        // SAFETY: pointers and lengths are those of live buffers, which the call does not keep.
        check(unsafe { libc::fcntl(fd, cmd, arg) }).map(|r| r as i32)
    }
    fn ioctl(&self, fd: i32, cmd: u32) -> Result<i32> {
        let mut v = 0i32;
        // SAFETY: pointers and lengths are those of live buffers, which the call does not keep.
        no_value(unsafe { libc::ioctl(fd, cmd as _, &mut v) })?;
        Ok(v)
    }
    fn poll(&self, fd: i32, events: u32, timeout: i32) -> u32 {
        let mut p = libc::pollfd { fd, events: events as i16, revents: 0 };
        // SAFETY: pointers and lengths are those of live buffers, which the call does not keep.
        check(unsafe { libc::poll(&mut p, 1, timeout) }).expect("poll");
        p.revents as u16 as u32
    }
}

/// Every poll event there is.
pub const ALL: u32 = 0x23ff;

/// What a sequence of calls answered, one line each.
#[derive(Default)]
pub struct Log(Vec<String>);

impl Log {
    pub fn note(&mut self, what: &str, r: impl Debug) {
        self.0.push(format!("{what}: {r:?}"));
    }
}

/// Runs the same calls on both and compares the logs line by line. Each script takes a fresh stack.
pub fn same(script: impl Fn(&dyn Calls, &mut Log)) {
    let host = Host::start(1).expect("host");
    let net = Net::new(&net_init(host.kernel()));
    let (mut ours, mut theirs) = (Log::default(), Log::default());
    script(&Sockeye(FdTable::new(&net, 1024)), &mut ours);
    script(&Linux, &mut theirs);
    let pairs = ours.0.iter().zip(&theirs.0).enumerate();
    let differ: Vec<_> = pairs.filter(|(_, (a, b))| a != b).map(|(i, (a, b))| format!("{i}: {a} | {b}")).collect();
    assert!(differ.is_empty(), "sockeye | Linux:\n{}", differ.join("\n"));
    assert_eq!(ours.0.len(), theirs.0.len());
}
