//! The socket as a process has it, and the registry of address families.
//!
//! Interface: [`Socket`] (every call, without a descriptor), [`ProtoOps`], [`NetProtoFamily`], [`sock_register`],
//! [`sock_create`]. The calls on descriptors are in [`crate::syscall`].
//! Linux counterpart: `net/socket.c`, `include/linux/net.h`.
//! Locks and context: process context. Calls that can block are polls: see [`kernel::wait`].

use crate::core::iov_iter::MsgHdr;
use crate::core::net_namespace::dyn_family::Slot;
use crate::core::net_namespace::{Net, Registries};
use crate::core::sock::{Sock, SockFlags};
use crate::security::*;
use kernel::module::Registered;
use kernel::{Wait, tp, wait};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering::*};
use std::task::Poll;
use uapi::poll::Poll as PollMask;
use uapi::socket::{NPROTO, SOCK_MAX, SOCK_NONBLOCK};
use uapi::{Errno, Result, SockAddr};

/// `O_NONBLOCK` and `SOCK_NONBLOCK` are the same bit.
pub const O_NONBLOCK: i32 = SOCK_NONBLOCK;
pub const O_RDWR: i32 = 2;

/// The association's state as the socket layer sees it (`socket_state`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum SocketState {
    Unconnected = 1,
    Connecting = 2,
    Connected = 3,
    Disconnecting = 4,
}

/// A socket as a process sees it (`struct socket`), with what `dup` shares of its descriptors (`struct file`). It is released
/// with its last reference.
pub struct Socket {
    state: AtomicU8,
    released: AtomicBool,
    /// `f_flags`: `O_NONBLOCK` and what else `F_SETFL` has set.
    flags: AtomicI32,
    pub ops: &'static ProtoOps,
    pub sk: Arc<Sock>,
}

/// One for each connection.
const _: () = assert!(size_of::<Socket>() <= 24);

/// What an address family does for a type of socket (`struct proto_ops`). The functions take the socket lock themselves.
pub struct ProtoOps {
    pub family: u16,
    pub release: fn(sock: &Socket),
    pub bind: fn(sock: &Socket, addr: &SockAddr) -> Result<()>,
    /// `nonblock`: `EINPROGRESS` instead of waiting.
    pub connect: fn(sock: &Socket, addr: &SockAddr, nonblock: bool, wait: &mut Wait) -> Poll<Result<()>>,
    pub accept: fn(sock: &Socket, nonblock: bool, wait: &mut Wait) -> Poll<Result<Arc<Socket>>>,
    pub getname: fn(sock: &Socket, whose: Whose) -> Result<SockAddr>,
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

/// Which address `getname` is asked for (its `peer` of 0, 1 and 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whose {
    Own,
    /// `ENOTCONN` without a connection.
    Peer,
    /// The peer's, whatever has become of the connection.
    Accepted,
}

/// An address family (`struct net_proto_family`).
#[derive(Clone, Copy)]
pub struct NetProtoFamily {
    pub family: u16,
    /// Makes the socket: finds type and protocol in its `inetsw`, binds `ops` and `prot`, allocates the `Sock`.
    pub create: fn(net: &Arc<Net>, kind: i32, protocol: i32) -> Result<Arc<Socket>>,
}

/// `sock_register`: `ENOBUFS` for a number the registry has no place for, `EEXIST` for a family in use.
pub fn sock_register(reg: &Registries, f: NetProtoFamily) -> Result<()> {
    let slot = reg.net_families.get(f.family as usize).ok_or(Errno::ENOBUFS)?;
    slot.assign_if_none(Registered::new(Slot(Box::new(f)))).map_err(|_| Errno::EEXIST)
}

/// `sock_unregister`. When it returns, nobody is in the family's `create` any more: it sleeps until then. Sockets of the family
/// that exist go on.
pub fn sock_unregister(reg: &Registries, family: u16) {
    let _cpu = reg.kernel.enter();
    if let Some(f) = reg.net_families.get(family as usize).and_then(|slot| slot.replace(None)) {
        f.wait_until_unused();
    }
}

/// `sock_create`: `EAFNOSUPPORT`, `EINVAL`, `ESOCKTNOSUPPORT`, `EPROTONOSUPPORT`, or what security says.
/// `kind` without `SOCK_NONBLOCK` and `SOCK_CLOEXEC`.
pub fn sock_create(net: &Arc<Net>, family: i32, kind: i32, protocol: i32) -> Result<Arc<Socket>> {
    let _cpu = net.kernel().enter();
    tp!(sock_create);
    __sock_create(net, family, kind, protocol)
}

fn __sock_create(net: &Arc<Net>, family: i32, kind: i32, protocol: i32) -> Result<Arc<Socket>> {
    tp!(__sock_create);
    if !(0..NPROTO as i32).contains(&family) {
        return Err(Errno::EAFNOSUPPORT);
    }
    if !(0..SOCK_MAX as i32).contains(&kind) {
        return Err(Errno::EINVAL);
    }
    security_socket_create(net, family, kind, protocol)?;
    // Being inside keeps the family whole until `create` is done; a family that is going is one that is not there.
    let pf =
        net.reg.net_families[family as usize].get().and_then(Registered::try_module_get).ok_or(Errno::EAFNOSUPPORT)?;
    let pf: &NetProtoFamily = pf.0.downcast_ref().ok_or(Errno::EAFNOSUPPORT)?;
    let sock = (pf.create)(net, kind, protocol)?;
    security_socket_post_create(&sock.sk)?;
    Ok(sock)
}

impl Socket {
    /// A socket around `sk`, not connected (`sock_alloc`, `sock_graft`).
    pub fn new(ops: &'static ProtoOps, sk: Arc<Sock>) -> Arc<Socket> {
        Arc::new(Socket {
            state: AtomicU8::new(SocketState::Unconnected as u8),
            released: AtomicBool::new(false),
            flags: AtomicI32::new(O_RDWR),
            ops,
            sk,
        })
    }

    pub fn state(&self) -> SocketState {
        match self.state.load(Acquire) {
            2 => SocketState::Connecting,
            3 => SocketState::Connected,
            4 => SocketState::Disconnecting,
            _ => SocketState::Unconnected,
        }
    }

    /// For the address family, under the socket lock.
    pub fn set_state(&self, s: SocketState) {
        self.state.store(s as u8, Release);
    }

    /// `f_flags`.
    pub fn flags(&self) -> i32 {
        self.flags.load(Relaxed)
    }

    /// Sets those of `which` that are in `to`, and clears the others of it.
    pub fn set_flags(&self, which: i32, to: i32) {
        let _ = self.flags.fetch_update(Relaxed, Relaxed, |old| Some(old & !which | to & which));
    }

    pub fn nonblock(&self) -> bool {
        self.flags() & O_NONBLOCK != 0
    }

    /// Runs a blocking call to its end as a thread: `sock.block_on(|w| sock.connect(&addr, false, w))`.
    pub fn block_on<T>(&self, op: impl FnMut(&mut Wait) -> Poll<T>) -> T {
        wait::block_on_in(self.sk.net.kernel(), op)
    }
}

// The calls on a socket, without a descriptor: security hook, then `sock.ops`. Each enters the kernel (`Kernel::enter`).
// Polls of one call must be given the same `Wait` until they answer `Ready`.
impl Socket {
    /// `sock->ops->bind` behind `security_socket_bind`; and so on for each call.
    pub fn bind(&self, addr: &SockAddr) -> Result<()> {
        let _cpu = self.sk.net.kernel().enter();
        tp!(__sys_bind, self.sk);
        security_socket_bind(&self.sk, addr)?;
        (self.ops.bind)(self, addr)
    }

    /// `backlog` is clamped to `somaxconn`.
    pub fn listen(&self, backlog: i32) -> Result<()> {
        let _cpu = self.sk.net.kernel().enter();
        tp!(__sys_listen, self.sk);
        let somaxconn = self.sk.net.sysctl.somaxconn.get() as i32;
        // As unsigned: a negative backlog is the largest.
        let backlog = if (0..=somaxconn).contains(&backlog) { backlog } else { somaxconn };
        security_socket_listen(&self.sk, backlog)?;
        (self.ops.listen)(self, backlog)
    }

    pub fn connect(&self, addr: &SockAddr, nonblock: bool, wait: &mut Wait) -> Poll<Result<()>> {
        let _cpu = self.sk.net.kernel().enter();
        tp!(__sys_connect, self.sk);
        if !wait.has_started() {
            security_socket_connect(&self.sk, addr)?;
        }
        (self.ops.connect)(self, addr, nonblock, wait)
    }

    pub fn accept(&self, nonblock: bool, wait: &mut Wait) -> Poll<Result<Arc<Socket>>> {
        let _cpu = self.sk.net.kernel().enter();
        tp!(do_accept, self.sk);
        if !wait.has_started() {
            security_socket_accept(&self.sk)?;
        }
        (self.ops.accept)(self, nonblock, wait)
    }

    /// `sock_sendmsg`: `security_socket_sendmsg`, then the family. `MSG_DONTWAIT` in `msg.flags` for a non-blocking call.
    #[inline]
    pub fn sendmsg(&self, msg: &mut MsgHdr<'_>, wait: &mut Wait) -> Poll<Result<usize>> {
        let _cpu = self.sk.net.kernel().enter();
        tp!(sock_sendmsg, self.sk);
        if !wait.has_started() {
            security_socket_sendmsg(&self.sk, msg.name.as_ref(), msg.iter.count())?;
        }
        (self.ops.sendmsg)(self, msg, wait)
    }

    /// `sock_recvmsg`. Afterwards `msg.flags` says more about the message (`MSG_TRUNC`, …).
    #[inline]
    pub fn recvmsg(&self, msg: &mut MsgHdr<'_>, flags: i32, wait: &mut Wait) -> Poll<Result<usize>> {
        let _cpu = self.sk.net.kernel().enter();
        tp!(sock_recvmsg, self.sk);
        if !wait.has_started() {
            security_socket_recvmsg(&self.sk, msg.iter.count(), flags)?;
        }
        (self.ops.recvmsg)(self, msg, flags, wait)
    }

    /// Takes what a stream has for a pipe, up to `msg`'s room (`sock_splice_read`).
    pub fn splice_read(&self, msg: &mut MsgHdr<'_>, flags: i32, wait: &mut Wait) -> Poll<Result<usize>> {
        let Some(splice_read) = self.sk.prot.splice_read else { return self.recvmsg(msg, flags, wait) };
        let _cpu = self.sk.net.kernel().enter();
        if !wait.has_started() {
            security_socket_recvmsg(&self.sk, msg.iter.count(), flags)?;
        }
        splice_read(&self.sk, msg, flags, wait)
    }

    pub fn shutdown(&self, how: i32) -> Result<()> {
        let _cpu = self.sk.net.kernel().enter();
        tp!(__sys_shutdown, self.sk);
        security_socket_shutdown(&self.sk, how)?;
        (self.ops.shutdown)(self, how)
    }

    /// `close(2)` of the last descriptor. With `SO_LINGER` it waits until the peer has acknowledged everything, the linger
    /// time is over, or a signal comes; without, or a second time, it does not.
    pub fn close(&self, wait: &mut Wait) -> Poll<()> {
        if !self.released.load(Acquire) {
            let _cpu = self.sk.net.kernel().enter();
            if self.sk.flag(SockFlags::LINGER) && (self.sk.prot.linger)(&self.sk, wait).is_pending() {
                return Poll::Pending;
            }
            wait.finish_wait();
        }
        self.release();
        Poll::Ready(())
    }

    /// Like [`close`](Self::close), but lingers in the background, as when a process ends (`sock_release`). Harmless a second
    /// time; dropping the socket does it too.
    pub fn release(&self) {
        if self.released.swap(true, AcqRel) {
            return;
        }
        let _cpu = self.sk.net.kernel().enter();
        tp!(sock_release, self.sk);
        (self.ops.release)(self);
    }

    /// `getsockname` or `getpeername`.
    pub fn getname(&self, peer: bool) -> Result<SockAddr> {
        let _cpu = self.sk.net.kernel().enter();
        security_socket_getname(&self.sk, peer)?;
        (self.ops.getname)(self, if peer { Whose::Peer } else { Whose::Own })
    }

    /// The peer's address for `accept(2)`, which hands a connection over even if it has been reset by now.
    pub fn accepted_from(&self) -> Result<SockAddr> {
        let _cpu = self.sk.net.kernel().enter();
        (self.ops.getname)(self, Whose::Accepted)
    }

    /// `val` is what the caller gave, of the length the caller gave; `EINVAL` where that is too short.
    pub fn setsockopt(&self, level: i32, name: i32, val: &[u8]) -> Result<()> {
        let _cpu = self.sk.net.kernel().enter();
        security_socket_setsockopt(&self.sk, level, name)?;
        (self.ops.setsockopt)(self, level, name, val)
    }

    /// At most `len` bytes of the value: what is longer is cut off, as on Linux.
    pub fn getsockopt(&self, level: i32, name: i32, len: usize) -> Result<Vec<u8>> {
        let _cpu = self.sk.net.kernel().enter();
        security_socket_getsockopt(&self.sk, level, name)?;
        (self.ops.getsockopt)(self, level, name, len)
    }

    pub fn ioctl(&self, cmd: u32) -> Result<i32> {
        let _cpu = self.sk.net.kernel().enter();
        (self.ops.ioctl)(self, cmd)
    }

    /// `sock_poll`: what it is ready for now. To be told of changes, put an entry on `self.sk.wq`.
    pub fn poll(&self) -> PollMask {
        let _cpu = self.sk.net.kernel().enter();
        (self.ops.poll)(self)
    }
}

/// `sock_no_accept`, for families without connections.
pub fn sock_no_accept(_: &Socket, _nonblock: bool, _: &mut Wait) -> Poll<Result<Arc<Socket>>> {
    Poll::Ready(Err(Errno::EOPNOTSUPP))
}

/// `sock_no_listen`.
pub fn sock_no_listen(_: &Socket, _backlog: i32) -> Result<()> {
    Err(Errno::EOPNOTSUPP)
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.release();
    }
}
