//! The socket as the network sees it.
//!
//! Interface: [`Sock`], [`Proto`] (what a transport does), [`ProtoSock`] (its state under the socket lock), [`SockGuard`]
//! (`lock_sock`), the default callbacks `sock_def_readable` and its like, memory accounting.
//! Linux counterpart: `include/net/sock.h`, `net/core/sock.c`.
//! Locks and context: see [`kernel::sock_lock`]. Fields that are atomics may be read anywhere; what a transport keeps under
//! the lock is in its [`ProtoSock`].

use crate::core::dst::Dst;
use crate::core::iov_iter::MsgHdr;
use crate::core::net_namespace::Net;
use crate::core::skb_queue::{SkbChain, SkbQueue};
use crate::core::skbuff::Skb;
use crate::core::sock_hashed::SockHashed;
use crate::core::sock_mem::SockMem;
use crate::core::sock_rare::{NO_TIMEOUT, SockRare};
use kernel::sock_lock::{BhGuard, OwnerGuard};
use kernel::tp;
use kernel::trace::{Subject, Traceable};
use kernel::{SockLock, SpinLock, Wait, WaitQueueHead};
use std::any::Any;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU16, AtomicU32, Ordering::*};
use std::sync::{Arc, Weak};
use std::task::Poll;
use uapi::poll::Poll as PollMask;
use uapi::tcp::TcpState;
use uapi::{Errno, Result, SockAddr};

/// `RCV_SHUTDOWN`, `SEND_SHUTDOWN`.
pub const RCV_SHUTDOWN: u8 = 1;
pub const SEND_SHUTDOWN: u8 = 2;
pub const SHUTDOWN_MASK: u8 = 3;

/// `SOCK_MIN_RCVBUF`, `SOCK_MIN_SNDBUF`.
pub const SOCK_MIN_RCVBUF: u32 = 2304;
pub const SOCK_MIN_SNDBUF: u32 = 4608;

bitflags::bitflags! {
    /// Socket options that are a bit (`enum sock_flags`, `sk_reuse`, `sk_userlocks`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SockFlags: u32 {
        /// No process has it any more (`SOCK_DEAD`).
        const DEAD = 1 << 0;
        const DONE = 1 << 1;
        const URGINLINE = 1 << 2;
        const KEEPOPEN = 1 << 3;
        const LINGER = 1 << 4;
        const BROADCAST = 1 << 6;
        const RCVTSTAMP = 1 << 8;
        const RCVTSTAMPNS = 1 << 9;
        const LOCALROUTE = 1 << 10;
        const ZEROCOPY = 1 << 11;
        const RXQ_OVFL = 1 << 12;
        const REUSEADDR = 1 << 16;
        const REUSEPORT = 1 << 17;
        /// `SOCK_SNDBUF_LOCK`, `SOCK_RCVBUF_LOCK`: set by the user, not to be tuned.
        const SNDBUF_LOCK = 1 << 18;
        const RCVBUF_LOCK = 1 << 19;
        const BINDADDR_LOCK = 1 << 20;
        const BINDPORT_LOCK = 1 << 21;
        const NO_CHECK_TX = 1 << 22;
        const FREEBIND = 1 << 23;
        const TRANSPARENT = 1 << 24;
        const V6ONLY = 1 << 25;
        /// Some option asks for control messages with what is received; which, is under the socket lock.
        const CMSG = 1 << 26;
        /// `IP_RECVERR` or `IPV6_RECVERR`: also an unconnected socket hears of ICMP errors.
        const RECVERR = 1 << 27;
        /// Time stamps are asked for by the `_NEW` name (`SOCK_TSTAMP_NEW`).
        const TSTAMP_NEW = 1 << 28;
        /// A writer found no room and wants to be told (`SOCK_NOSPACE`).
        const NOSPACE = 1 << 29;
        /// The first write carries the SYN (`INET_FLAGS_DEFER_CONNECT`).
        const DEFER_CONNECT = 1 << 30;
    }
}

/// A transport's state of one socket, reached only under the socket lock.
pub trait ProtoSock: Any + Send {
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
    /// The part that all transports of the family share (`inet_sk`); `core` does not look inside.
    fn inet(&mut self) -> &mut dyn Any;
}

/// What came for a socket while a process owned it (`sk_backlog`).
#[derive(Default)]
pub struct Backlog {
    list: SkbChain,
    /// Truesize of what is in it, and of what its owner is working off.
    pub len: u32,
    /// Timers that fired meanwhile (`sk_tsq_flags`): bits of the protocol's choosing, handed to `release_cb`.
    pub deferred: u16,
}

impl Backlog {
    /// What is to be worked off, if anything. Its bytes go on counting until nothing is left: an owner is not kept for ever by
    /// somebody who sends faster than he can work (`__release_sock`).
    fn take(&mut self) -> Option<Backlog> {
        if self.list.is_empty() && self.deferred == 0 {
            self.len = 0;
            return None;
        }
        Some(Backlog { list: self.list.take_in_order(), len: 0, deferred: std::mem::take(&mut self.deferred) })
    }

    /// Gives the packet back when there are more than `limit` bytes.
    fn add(&mut self, skb: Box<Skb>, limit: usize) -> std::result::Result<(), Box<Skb>> {
        // With both buffers as large as can be the limit would not fit the count.
        if self.len as usize > limit.min(i32::MAX as usize) {
            return Err(skb);
        }
        self.len += skb.truesize;
        self.list.push(skb);
        Ok(())
    }
}

type ProtoData = Box<dyn ProtoSock>;

/// How a transport opens a connection with a message ([`Proto::fastopen`]).
pub struct FastopenOps {
    pub begin: fn(sk: &Arc<Sock>, state: &mut dyn ProtoSock, msg: &MsgHdr<'_>) -> Result<()>,
    /// `opened`: how the attempt ended. After an error with bytes sent nothing more of the message follows.
    pub end: fn(sk: &Arc<Sock>, state: &mut dyn ProtoSock, opened: Result<()>) -> usize,
}

pub type SpliceRead = fn(sk: &Arc<Sock>, msg: &mut MsgHdr<'_>, flags: i32, wait: &mut Wait) -> Poll<Result<usize>>;

/// A transport protocol (`struct proto`). `sk` methods run with the socket lock as their doc says.
pub struct Proto {
    pub name: &'static str,
    /// Makes the transport's state (`sk_prot->init`); no lock is held, nobody else has the socket.
    pub init: fn(sk: &Arc<Sock>) -> Result<Box<dyn ProtoSock>>,
    /// The process gives the socket up, and does not wait. Takes the lock itself.
    pub close: fn(sk: &Arc<Sock>),
    /// `close(2)` of a socket with `SO_LINGER`: says good-bye and waits until the peer has all, or the time is over, or a
    /// signal comes; `close` follows. Takes the lock itself.
    pub linger: fn(sk: &Arc<Sock>, wait: &mut Wait) -> Poll<()>,
    /// Starts a connection. Lock held.
    pub connect: fn(sk: &Arc<Sock>, state: &mut dyn ProtoSock, addr: &SockAddr) -> Result<()>,
    /// Dissolves it (`connect` to `AF_UNSPEC`). Lock held.
    pub disconnect: fn(sk: &Arc<Sock>, state: &mut dyn ProtoSock) -> Result<()>,
    /// Starts to listen, or only changes the backlog of a listener (`inet_csk_listen_start`); the port is claimed here if
    /// it is not yet. `EOPNOTSUPP` where there is nothing to accept. Lock held.
    pub listen: fn(sk: &Arc<Sock>, state: &mut dyn ProtoSock, backlog: i32) -> Result<()>,
    /// An option of a listener has been set, of whatever level but `SOL_SOCKET`. Lock held.
    pub options_changed: Option<fn(sk: &Sock, state: &mut dyn ProtoSock)>,
    /// `SO_KEEPALIVE` has changed, [`SockFlags::KEEPOPEN`] not yet. Lock held.
    pub keepalive: fn(sk: &Arc<Sock>, state: &mut dyn ProtoSock, on: bool),
    /// `SO_RCVLOWAT` for the value asked for, at least 1 (`set_rcvlowat` of `struct proto_ops`). Lock held.
    pub set_rcvlowat: fn(sk: &Arc<Sock>, state: &mut dyn ProtoSock, val: u32),
    /// The next established child of a listener. Takes the lock itself.
    pub accept: fn(sk: &Arc<Sock>, nonblock: bool, wait: &mut Wait) -> Poll<Result<Arc<Sock>>>,
    pub ioctl: fn(sk: &Arc<Sock>, cmd: u32) -> Result<i32>,
    pub setsockopt: fn(sk: &Arc<Sock>, level: i32, name: i32, val: &[u8]) -> Result<()>,
    /// At most `len` bytes of the option's value.
    pub getsockopt: fn(sk: &Arc<Sock>, level: i32, name: i32, len: usize) -> Result<Vec<u8>>,
    /// `shutdown(2)`. Lock held.
    pub shutdown: fn(sk: &Arc<Sock>, state: &mut dyn ProtoSock, how: u8),
    /// A message that opens its connection: before `connect`, and after it, when it tells how many bytes have gone with the
    /// SYN. `None`: there is no such thing. Lock held.
    pub fastopen: Option<&'static FastopenOps>,
    /// Takes the lock itself. Progress is kept in `msg`.
    pub sendmsg: fn(sk: &Arc<Sock>, msg: &mut MsgHdr<'_>, wait: &mut Wait) -> Poll<Result<usize>>,
    /// Takes the lock itself. `flags` are `MSG_*`. Progress is kept in `msg`.
    pub recvmsg: fn(sk: &Arc<Sock>, msg: &mut MsgHdr<'_>, flags: i32, wait: &mut Wait) -> Poll<Result<usize>>,
    /// `splice(2)` out of a stream; `flags` is 0 or `MSG_DONTWAIT`. `None`: it is as `recvmsg`. Takes the lock itself.
    pub splice_read: Option<SpliceRead>,
    /// A packet that was on the backlog. Lock held.
    pub backlog_rcv: fn(sk: &Arc<Sock>, state: &mut dyn ProtoSock, skb: Box<Skb>),
    /// What timers left to do while the lock was owned. Lock held.
    pub release_cb: fn(sk: &Arc<Sock>, state: &mut dyn ProtoSock, deferred: u16),
    /// Claims a port; `port` 0 picks one (`inet_csk_get_port`, `udp_lib_get_port`). Lock held.
    pub get_port: fn(sk: &Arc<Sock>, state: &mut dyn ProtoSock, port: u16) -> Result<()>,
    pub poll: fn(sk: &Arc<Sock>) -> PollMask,
    /// What the transport's lower files call in its higher ones, or `&()`.
    pub inner: &'static (dyn Any + Sync),
}

/// A socket (`struct sock`).
pub struct Sock {
    /// Number for tracing and `SO_COOKIE`.
    pub cookie: u64,
    pub net: Arc<Net>,
    pub family: u16,
    pub kind: i32,
    pub protocol: u16,
    pub prot: &'static Proto,
    me: Weak<Sock>,
    state: AtomicU8,
    shutdown: AtomicU8,
    flags: AtomicU32,
    err: AtomicI32,
    pub err_soft: AtomicI32,
    /// Tracepoints in marked mode record it.
    pub traced: AtomicBool,

    pub rcvbuf: AtomicU32,
    pub sndbuf: AtomicU32,
    /// Memory of packets queued for the process (`sk_rmem_alloc`).
    pub rmem_alloc: SockMem,
    /// Memory of packets below the socket that are not yet gone (`sk_wmem_alloc`).
    pub wmem_alloc: SockMem,
    /// Memory of everything queued to be sent, acknowledged or not (`sk_wmem_queued`).
    pub wmem_queued: SockMem,
    /// What the sender left to be done when the device has taken its packets (`sk_tsq_flags`).
    pub tsq_flags: AtomicU16,
    /// What the backlog's packets left to be done behind the last of them.
    release_bits: AtomicU16,
    pub rcvlowat: AtomicU32,
    /// Index of the device it is bound to; 0: none.
    pub bound_dev_if: AtomicU32,
    /// The IPv4 identification of the next packet of a connection (`inet_id`).
    pub inet_id: AtomicU16,

    /// The cached route (`sk_dst_cache`).
    pub dst_cache: SpinLock<Option<Arc<Dst>>>,
    pub wq: WaitQueueHead,
    /// Where the transport's tables have it.
    pub hashed: SockHashed,
    /// What few sockets need.
    pub rare: SockRare,
    lock: SockLock<Option<ProtoData>, Backlog>,
}

/// One for each connection, which may have 1 KiB in all. (The locks of a debug build are larger.)
#[cfg(not(debug_assertions))]
const _: () = assert!(size_of::<Sock>() <= 192);

impl Sock {
    /// `sk_alloc` and `sock_init_data`: a socket in state `CLOSE` with the namespace's default buffers.
    /// `ENOBUFS`; what the protocol's `init` answers.
    pub fn alloc(net: &Arc<Net>, family: u16, kind: i32, protocol: u16, prot: &'static Proto) -> Result<Arc<Sock>> {
        if kernel::should_fail(kernel::Fault::Socket) {
            return Err(Errno::ENOBUFS);
        }
        let cookie = net.next_cookie();
        let sk = Arc::new_cyclic(|me| Sock {
            cookie,
            net: net.clone(),
            family,
            kind,
            protocol,
            prot,
            me: me.clone(),
            state: AtomicU8::new(TcpState::Close as u8),
            shutdown: AtomicU8::new(0),
            flags: AtomicU32::new(0),
            err: AtomicI32::new(0),
            err_soft: AtomicI32::new(0),
            traced: AtomicBool::new(false),
            rcvbuf: AtomicU32::new(net.sysctl.rmem_default.get() as u32),
            sndbuf: AtomicU32::new(net.sysctl.wmem_default.get() as u32),
            rmem_alloc: SockMem::default(),
            wmem_alloc: SockMem::default(),
            wmem_queued: SockMem::default(),
            tsq_flags: AtomicU16::new(0),
            release_bits: AtomicU16::new(0),
            rcvlowat: AtomicU32::new(1),
            bound_dev_if: AtomicU32::new(0),
            inet_id: AtomicU16::new(net.hash(&cookie) as u16),
            dst_cache: SpinLock::new(None),
            wq: WaitQueueHead::new(),
            hashed: SockHashed::default(),
            rare: SockRare::default(),
            lock: SockLock::new(None),
        });
        net.sockets.fetch_add(1, Relaxed);
        let state = (prot.init)(&sk)?;
        let _bh = kernel::local_bh_disable();
        // Nobody else knows it; the lock of the listener that it comes from may be held.
        if let Some(d) = sk.lock.bh_lock_sock_nested().data() {
            *d = Some(state);
        }
        Ok(sk)
    }

    /// A counted reference to itself (`sock_hold`).
    pub fn hold(&self) -> Arc<Sock> {
        self.me.upgrade().unwrap_or_else(|| unreachable!("a socket in use is referenced"))
    }

    pub fn weak(&self) -> Weak<Sock> {
        self.me.clone()
    }

    pub fn state(&self) -> TcpState {
        TcpState::from_u8(self.state.load(Acquire))
    }

    /// Sets the state only; `tcp_set_state` is what keeps tables and counters in step.
    pub fn set_state(&self, s: TcpState) {
        self.state.store(s as u8, Release);
    }

    pub fn shutdown(&self) -> u8 {
        self.shutdown.load(Acquire)
    }

    pub fn add_shutdown(&self, how: u8) {
        self.shutdown.fetch_or(how, AcqRel);
    }

    pub fn set_shutdown(&self, how: u8) {
        self.shutdown.store(how, Release);
    }

    pub fn flag(&self, f: SockFlags) -> bool {
        self.flags.load(Acquire) & f.bits() != 0
    }

    pub fn set_flag(&self, f: SockFlags, on: bool) {
        if on {
            self.flags.fetch_or(f.bits(), AcqRel);
        } else {
            self.flags.fetch_and(!f.bits(), AcqRel);
        }
    }

    /// All flags, for a child that inherits them.
    pub fn copy_flags(&self, from: &Sock, which: SockFlags) {
        self.flags.fetch_or(from.flags.load(Acquire) & which.bits(), AcqRel);
    }

    /// The pending error without taking it (`sk->sk_err`).
    pub fn err(&self) -> Option<Errno> {
        Some(self.err.load(Acquire)).filter(|&e| e != 0).map(Errno)
    }

    pub fn set_err(&self, e: Errno) {
        self.err.store(e.0, Release);
    }

    /// `sock_error`: the pending error, taken.
    pub fn take_error(&self) -> Result<()> {
        if self.err.load(Acquire) == 0 {
            return Ok(());
        }
        match self.err.swap(0, AcqRel) {
            0 => Ok(()),
            e => Err(Errno(e)),
        }
    }

    /// Receive timeout in nanoseconds: `Some(0)` for a non-blocking call, `None` for ever (`sock_rcvtimeo`).
    pub fn rcvtimeo(&self, nonblock: bool) -> Option<u64> {
        timeo(self.rare.rcvtimeo(), nonblock)
    }

    pub fn sndtimeo(&self, nonblock: bool) -> Option<u64> {
        timeo(self.rare.sndtimeo(), nonblock)
    }

    /// `lock_sock`. Process context; may sleep.
    #[cfg_attr(debug_assertions, track_caller)]
    #[inline]
    pub fn lock_sock(&self) -> SockGuard<'_> {
        tp!(lock_sock, self);
        SockGuard { sk: self, guard: Some(self.lock.lock_sock(&self.wq)) }
    }

    /// `bh_lock_sock`. Softirq context (bottom halves off).
    #[cfg_attr(debug_assertions, track_caller)]
    #[inline]
    pub fn bh_lock_sock(&self) -> BhSockGuard<'_> {
        BhSockGuard(self.lock.bh_lock_sock())
    }

    /// `bh_lock_sock_nested`: for a child, while its listener's lock is held.
    #[cfg_attr(debug_assertions, track_caller)]
    #[inline]
    pub fn bh_lock_sock_nested(&self) -> BhSockGuard<'_> {
        BhSockGuard(self.lock.bh_lock_sock_nested())
    }

    // --- Callbacks into the waiting process ---

    /// `sock_def_readable`: data, an end of data, or a connection to accept has come.
    pub fn data_ready(&self) {
        kernel::tp!(sock_def_readable, self);
        let mask = PollMask::IN | PollMask::PRI | PollMask::RDNORM | PollMask::RDBAND;
        self.wq.wake_up_interruptible_sync_poll(mask.bits());
    }

    /// `sk_stream_write_space`/`sock_def_write_space`: there is room again.
    pub fn write_space(&self) {
        kernel::tp!(sock_def_write_space, self);
        let mask = PollMask::OUT | PollMask::WRNORM | PollMask::WRBAND;
        self.wq.wake_up_interruptible_sync_poll(mask.bits());
    }

    /// `sock_def_wakeup`: the state has changed.
    pub fn state_change(&self) {
        self.wq.wake_up_interruptible_all(0);
    }

    /// `sk_error_report`: [`err`](Self::err) is set.
    pub fn error_report(&self) {
        self.wq.wake_up_interruptible_all(PollMask::ERR.bits());
    }

    // --- Memory ---

    /// Packets for the process (`sk_receive_queue`), of protocols that keep message boundaries.
    pub fn receive_queue(&self) -> &SpinLock<SkbQueue> {
        &self.rare.make().receive_queue
    }

    /// Makes the socket answer for a packet on its way out (`skb_set_owner_w`).
    pub fn skb_set_owner_w(&self, skb: &mut Skb) {
        skb.orphan();
        self.wmem_alloc.fetch_add(skb.truesize as usize, AcqRel);
        skb.sk = Some(self.hold());
        skb.destructor = Some(sock_wfree);
    }

    /// Makes the socket answer for a packet that waits for its process (`skb_set_owner_r`).
    pub fn skb_set_owner_r(&self, skb: &mut Skb) {
        skb.orphan();
        self.rmem_alloc.fetch_add(skb.truesize as usize, AcqRel);
        skb.sk = Some(self.hold());
        skb.destructor = Some(sock_rfree);
    }

    /// Keeps the mark and nothing more, as most transports do.
    pub fn set_rcvlowat(sk: &Arc<Sock>, _state: &mut dyn ProtoSock, val: u32) {
        sk.rcvlowat.store(val, Relaxed);
    }

    /// `sk_rcvqueues_full`.
    pub fn rcvqueue_full(&self) -> bool {
        self.rmem_alloc.load(Relaxed) > self.rcvbuf.load(Relaxed) as usize
    }
}

/// `sock_wfree`: a packet of the socket has left; a datagram sender may have room again.
pub fn sock_wfree(skb: &mut Skb) {
    if let Some(sk) = skb.sk.take() {
        sk.wmem_alloc.fetch_sub(skb.truesize as usize, AcqRel);
        sk.write_space();
    }
}

/// `sock_rfree`: the process has taken the packet.
pub fn sock_rfree(skb: &mut Skb) {
    if let Some(sk) = skb.sk.take() {
        sk.rmem_alloc.fetch_sub(skb.truesize as usize, AcqRel);
    }
}

fn timeo(t: u64, nonblock: bool) -> Option<u64> {
    if nonblock { Some(0) } else { Some(t).filter(|&t| t != NO_TIMEOUT) }
}

/// The socket lock, owned by a process. Its drop is `release_sock`: the backlog is worked off first.
pub struct SockGuard<'a> {
    sk: &'a Sock,
    guard: Option<OwnerGuard<'a, Option<ProtoData>, Backlog>>,
}

impl Deref for SockGuard<'_> {
    type Target = dyn ProtoSock;
    fn deref(&self) -> &(dyn ProtoSock + 'static) {
        match self.guard.as_ref().and_then(|g| g.as_deref()) {
            Some(s) => s,
            None => unreachable!("state is there from alloc to the last release"),
        }
    }
}

impl DerefMut for SockGuard<'_> {
    fn deref_mut(&mut self) -> &mut (dyn ProtoSock + 'static) {
        match self.guard.as_mut().and_then(|g| g.as_deref_mut()) {
            Some(s) => s,
            None => unreachable!("state is there from alloc to the last release"),
        }
    }
}

impl SockGuard<'_> {
    /// Works off what has come since the lock was taken, keeping it (`sk_flush_backlog`).
    pub fn flush_backlog(&mut self) {
        let sk = self.sk;
        while let Some(b) = self.guard.as_mut().and_then(|g| g.take_backlog(Backlog::take)) {
            process_backlog(sk, &mut **self, b);
        }
    }
}

impl Sock {
    /// Leaves `bits` for `release_cb`, which comes behind the last packet of the backlog. From `backlog_rcv`.
    pub fn release_later(&self, bits: u16) {
        self.release_bits.fetch_or(bits, Relaxed);
    }
}

/// `__release_sock`.
fn process_backlog(sk: &Sock, state: &mut dyn ProtoSock, b: Backlog) {
    let me = sk.hold();
    for skb in b.list {
        // Softirq work done in process context, as its callers expect it: bottom halves off.
        let _bh = kernel::local_bh_disable();
        (sk.prot.backlog_rcv)(&me, state, skb);
    }
    let deferred = b.deferred | sk.release_bits.swap(0, Relaxed);
    if deferred != 0 {
        let _bh = kernel::local_bh_disable();
        (sk.prot.release_cb)(&me, state, deferred);
    }
}

impl Drop for Sock {
    fn drop(&mut self) {
        self.net.sockets.fetch_sub(1, Relaxed);
    }
}

impl Drop for SockGuard<'_> {
    /// `release_sock`.
    fn drop(&mut self) {
        tp!(release_sock, self.sk);
        while let Some(g) = self.guard.take() {
            let Err((g, b)) = g.try_release(Backlog::take) else { return };
            self.guard = Some(g);
            process_backlog(self.sk, &mut **self, b);
        }
    }
}

/// The socket's spinlock, held in softirq context.
pub struct BhSockGuard<'a>(BhGuard<'a, Option<ProtoData>, Backlog>);

impl BhSockGuard<'_> {
    /// The transport's state, unless a process owns the socket.
    #[inline]
    pub fn state(&mut self) -> Option<&mut dyn ProtoSock> {
        self.0.data().and_then(|d| d.as_deref_mut())
    }

    /// `sk_add_backlog`: leaves a packet for the owner; gives it back when the backlog is over `limit` bytes.
    pub fn add_backlog(&mut self, skb: Box<Skb>, limit: usize) -> std::result::Result<(), Box<Skb>> {
        self.0.backlog().add(skb, limit)
    }

    /// The last packet of the backlog, for one that it may take in.
    pub fn backlog_tail(&mut self) -> Option<&mut Skb> {
        self.0.backlog().list.latest_mut()
    }

    /// A packet of the backlog has grown by `truesize` bytes.
    pub fn backlog_grown(&mut self, truesize: u32) {
        self.0.backlog().len += truesize;
    }

    /// Leaves a bit for the owner's `release_cb`.
    pub fn defer(&mut self, bit: u16) {
        self.0.backlog().deferred |= bit;
    }
}

impl Traceable for Sock {
    fn describe(&self, s: &mut Subject) {
        s.sk = self.cookie;
        s.marked |= self.traced.load(Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_not_kept_by_who_sends_faster_than_he_works() {
        let skb = || Skb::from_bytes(0, &[0; 1000]);
        let limit = 10 * skb().truesize as usize;
        let mut b = Backlog::default();
        let mut rounds = 0;
        let mut worked = 0;
        while b.add(skb(), limit).is_ok() {}
        while let Some(some) = b.take() {
            let mut came = 0;
            some.list.for_each(|_| came += 1);
            worked += came;
            rounds += 1;
            assert!(rounds < 100, "the owner is kept");
            // As many again come while each is worked off.
            for _ in 0..2 * came {
                let _ = b.add(skb(), limit);
            }
        }
        assert_eq!((rounds, worked), (1, 11));
        assert!(b.add(skb(), limit).is_ok(), "the next owner finds room");
    }
}
