//! The socket system calls.
//!
//! Interface: [`Socket`], [`ProtoOps`], [`NetProtoFamily`], `sock_register`, `__sys_socket` and the other calls; [`FdTable`].
//! Linux counterpart: `net/socket.c`, `include/linux/net.h`.
//! Locks and context: process context. Calls that can block are polls: see [`kernel::wait`].

use crate::core::iov_iter::MsgHdr;
use crate::core::net_namespace::{Net, Registries};
use crate::core::sock::Sock;
use kernel::Wait;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::task::Poll;
use uapi::poll::Poll as PollMask;
use uapi::{Result, SockAddr};

/// The association's state as the socket layer sees it (`socket_state`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum SocketState {
    Unconnected = 1,
    Connecting = 2,
    Connected = 3,
    Disconnecting = 4,
}

/// A socket as a process sees it (`struct socket`).
pub struct Socket {
    state: AtomicU8,
    pub kind: i32,
    pub ops: &'static ProtoOps,
    pub sk: Arc<Sock>,
}

/// What an address family does for a type of socket (`struct proto_ops`). The functions take the socket lock themselves.
pub struct ProtoOps {
    pub family: u16,
    pub release: fn(sock: &Socket),
    pub bind: fn(sock: &Socket, addr: &SockAddr) -> Result<()>,
    /// `nonblock`: `EINPROGRESS` instead of waiting.
    pub connect: fn(sock: &Socket, addr: &SockAddr, nonblock: bool, wait: &mut Wait) -> Poll<Result<()>>,
    pub accept: fn(sock: &Socket, nonblock: bool, wait: &mut Wait) -> Poll<Result<Arc<Socket>>>,
    pub getname: fn(sock: &Socket, peer: bool) -> Result<SockAddr>,
    pub poll: fn(sock: &Socket) -> PollMask,
    pub ioctl: fn(sock: &Socket, cmd: u32) -> Result<i32>,
    pub listen: fn(sock: &Socket, backlog: i32) -> Result<()>,
    /// `how` is `SHUT_*`.
    pub shutdown: fn(sock: &Socket, how: i32) -> Result<()>,
    pub setsockopt: fn(sock: &Socket, level: i32, name: i32, val: &[u8]) -> Result<()>,
    pub getsockopt: fn(sock: &Socket, level: i32, name: i32, len: usize) -> Result<Vec<u8>>,
    pub sendmsg: fn(sock: &Socket, msg: &mut MsgHdr<'_>, wait: &mut Wait) -> Poll<Result<usize>>,
    pub recvmsg: fn(sock: &Socket, msg: &mut MsgHdr<'_>, flags: i32, wait: &mut Wait) -> Poll<Result<usize>>,
}

/// An address family (`struct net_proto_family`).
pub struct NetProtoFamily {
    pub family: u16,
    /// Makes the socket: finds type and protocol in its `inetsw`, binds `ops` and `prot`, allocates the `Sock`.
    pub create: fn(net: &Arc<Net>, kind: i32, protocol: i32) -> Result<Arc<Socket>>,
}

/// `sock_register`: `EEXIST` for a family in use.
pub fn sock_register(reg: &Registries, f: NetProtoFamily) -> Result<()> {
    let _ = (reg, f);
    todo!()
}

/// `sock_unregister`.
pub fn sock_unregister(reg: &Registries, family: u16) {
    let _ = (reg, family);
    todo!()
}

/// `sock_create`: `EAFNOSUPPORT`, `EINVAL`, `ESOCKTNOSUPPORT`, `EPROTONOSUPPORT`, or what security says.
/// `kind` without `SOCK_NONBLOCK` and `SOCK_CLOEXEC`.
pub fn sock_create(net: &Arc<Net>, family: i32, kind: i32, protocol: i32) -> Result<Arc<Socket>> {
    let _ = (net, family, kind, protocol);
    todo!()
}

// The calls on a socket, without a descriptor: security hook, then `sock.ops`. Each enters the kernel (`Kernel::enter`).
impl Socket {
    /// `sock->ops->bind` behind `security_socket_bind`; and so on for each call.
    pub fn bind(&self, addr: &SockAddr) -> Result<()> {
        let _ = addr;
        todo!()
    }
    /// `backlog` is clamped to `somaxconn`.
    pub fn listen(&self, backlog: i32) -> Result<()> {
        let _ = backlog;
        todo!()
    }
    pub fn connect(&self, addr: &SockAddr, nonblock: bool, wait: &mut Wait) -> Poll<Result<()>> {
        let _ = (addr, nonblock, wait);
        todo!()
    }
    pub fn accept(&self, nonblock: bool, wait: &mut Wait) -> Poll<Result<Arc<Socket>>> {
        let _ = (nonblock, wait);
        todo!()
    }
    /// `sock_sendmsg`: `security_socket_sendmsg`, then the family. `MSG_DONTWAIT` in `msg.flags` for a non-blocking call.
    pub fn sendmsg(&self, msg: &mut MsgHdr<'_>, wait: &mut Wait) -> Poll<Result<usize>> {
        let _ = (msg, wait);
        todo!()
    }
    pub fn recvmsg(&self, msg: &mut MsgHdr<'_>, flags: i32, wait: &mut Wait) -> Poll<Result<usize>> {
        let _ = (msg, flags, wait);
        todo!()
    }
    pub fn shutdown(&self, how: i32) -> Result<()> {
        let _ = how;
        todo!()
    }
    /// `close(2)` of the last descriptor (`sock_release`). Harmless a second time.
    pub fn release(&self) {
        todo!()
    }
    /// `getsockname` or `getpeername`.
    pub fn getname(&self, peer: bool) -> Result<SockAddr> {
        let _ = peer;
        todo!()
    }
    pub fn setsockopt(&self, level: i32, name: i32, val: &[u8]) -> Result<()> {
        let _ = (level, name, val);
        todo!()
    }
    pub fn getsockopt(&self, level: i32, name: i32, len: usize) -> Result<Vec<u8>> {
        let _ = (level, name, len);
        todo!()
    }
    pub fn ioctl(&self, cmd: u32) -> Result<i32> {
        let _ = cmd;
        todo!()
    }
    /// `sock_poll`: what it is ready for now. To be told of changes, put an entry on `self.sk.wq`.
    pub fn poll(&self) -> PollMask {
        todo!()
    }
}
