//! The socket system calls on file descriptors.
//!
//! Interface: [`FdTable`] (a process: its descriptors, and each call on them), [`File`], [`PollFd`], [`PollTable`].
//! Linux counterpart: the `__sys_*` half of `net/socket.c`, `fs/file.c`, `fs/fcntl.c`, `fs/select.c`.
//! Locks and context: process context. Calls that can block are there twice: as the thread's call, and as a poll (`poll_*`).

use crate::core::iov_iter::{IovIter, MsgHdr};
use crate::core::net_namespace::Net;
use crate::core::sock::SockFlags;
use crate::socket::{Socket, sock_create};
use kernel::{SpinLock, Wait, WaitQueueEntry, tp, wait};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::*};
use std::task::Poll;
use uapi::poll::Poll as PollMask;
use uapi::socket::*;
use uapi::{Errno, Result, SockAddr};

/// `SOCK_TYPE_MASK`.
const SOCK_TYPE_MASK: i32 = 0xf;
/// `O_NONBLOCK` and `SOCK_NONBLOCK` are the same bit.
pub const O_NONBLOCK: i32 = SOCK_NONBLOCK;
pub const O_RDWR: i32 = 2;
const O_APPEND: i32 = 0o2000;
/// What `F_SETFL` may change (`SETFL_MASK`).
const SETFL_MASK: i32 = O_NONBLOCK | O_APPEND;
pub const FD_CLOEXEC: i32 = 1;

/// `fcntl(2)` commands.
pub const F_DUPFD: i32 = 0;
pub const F_GETFD: i32 = 1;
pub const F_SETFD: i32 = 2;
pub const F_GETFL: i32 = 3;
pub const F_SETFL: i32 = 4;
pub const F_DUPFD_CLOEXEC: i32 = 1030;

/// `ioctl(2)` commands. `SIOCINQ` is `FIONREAD`, `SIOCOUTQ` is `TIOCOUTQ`.
pub const FIONREAD: u32 = 0x541b;
pub const SIOCOUTQ: u32 = 0x5411;
pub const SIOCATMARK: u32 = 0x8905;
pub const FIONBIO: u32 = 0x5421;
pub const FIONCLEX: u32 = 0x5450;
pub const FIOCLEX: u32 = 0x5451;

/// `UIO_MAXIOV`.
const UIO_MAXIOV: usize = 1024;

/// An open file description (`struct file`): what `dup` shares. The socket is released with its last reference.
pub struct File {
    pub sock: Arc<Socket>,
    flags: AtomicI32,
}

impl File {
    pub fn new(sock: Arc<Socket>, flags: i32) -> Arc<File> {
        Arc::new(File { sock, flags: AtomicI32::new(O_RDWR | flags & O_NONBLOCK) })
    }

    pub fn nonblock(&self) -> bool {
        self.flags.load(Relaxed) & O_NONBLOCK != 0
    }

    fn set_nonblock(&self, on: bool) {
        if on {
            self.flags.fetch_or(O_NONBLOCK, Relaxed);
        } else {
            self.flags.fetch_and(!O_NONBLOCK, Relaxed);
        }
    }

    /// `MSG_DONTWAIT` if the description is non-blocking.
    fn with_nonblock(&self, flags: i32) -> i32 {
        if self.nonblock() { flags | MSG_DONTWAIT } else { flags }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.sock.release();
    }
}

struct Slot {
    file: Arc<File>,
    cloexec: bool,
}

#[derive(Default)]
struct Fds {
    slots: Vec<Option<Slot>>,
    /// No free descriptor is below.
    next_fd: usize,
}

impl Fds {
    /// The lowest free descriptor from `from` on, below `limit` (`alloc_fd`).
    fn lowest_free(&self, from: usize, limit: usize) -> Result<usize> {
        let mut at = from.max(self.next_fd);
        while self.slots.get(at).is_some_and(Option::is_some) {
            at += 1;
        }
        if at < limit { Ok(at) } else { Err(Errno::EMFILE) }
    }

    fn install(&mut self, from: usize, limit: usize, slot: Slot) -> Result<i32> {
        let at = self.lowest_free(from, limit)?;
        self.put(at, slot);
        if from <= self.next_fd {
            self.next_fd = at + 1;
        }
        Ok(at as i32)
    }

    fn put(&mut self, at: usize, slot: Slot) -> Option<Slot> {
        if self.slots.len() <= at {
            self.slots.resize_with(at + 1, || None);
        }
        self.slots.get_mut(at).and_then(|s| s.replace(slot))
    }
}

/// A process as the socket calls see it: its namespace and its descriptors (`struct files_struct`).
pub struct FdTable {
    net: Arc<Net>,
    fds: SpinLock<Fds>,
    /// `RLIMIT_NOFILE`.
    limit: usize,
}

impl FdTable {
    /// An empty table. `limit`: one more than the highest descriptor (`RLIMIT_NOFILE`).
    pub fn new(net: &Arc<Net>, limit: usize) -> FdTable {
        FdTable { net: net.clone(), fds: SpinLock::default(), limit }
    }

    pub fn net(&self) -> &Arc<Net> {
        &self.net
    }

    /// `sockfd_lookup`: the open file, `EBADF` if the descriptor is none.
    pub fn sockfd_lookup(&self, fd: i32) -> Result<Arc<File>> {
        let at = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let fds = self.fds.lock_bh();
        fds.slots.get(at).and_then(Option::as_ref).map(|s| s.file.clone()).ok_or(Errno::EBADF)
    }

    /// `sock_map_fd`: gives the socket the lowest free descriptor. `flags`: `SOCK_NONBLOCK`, `SOCK_CLOEXEC`.
    pub fn sock_map_fd(&self, sock: Arc<Socket>, flags: i32) -> Result<i32> {
        let file = File::new(sock, flags);
        // Refused, the file is dropped after the lock: that releases the socket.
        let slot = Slot { file: file.clone(), cloexec: flags & SOCK_CLOEXEC != 0 };
        self.fds.lock_bh().install(0, self.limit, slot)
    }

    /// Runs a call to its end as the calling thread.
    fn block_on<T>(&self, op: impl FnMut(&mut Wait) -> Poll<T>) -> T {
        wait::block_on_in(self.net.kernel(), op)
    }
}

// Descriptors.
impl FdTable {
    /// `close(2)`. Calls of other threads on the descriptor keep its socket until they return. The last descriptor of a socket with
    /// `SO_LINGER` waits until all is said.
    pub fn close(&self, fd: i32) -> Result<()> {
        let at = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let slot = {
            let mut fds = self.fds.lock_bh();
            let slot = fds.slots.get_mut(at).and_then(Option::take).ok_or(Errno::EBADF)?;
            fds.next_fd = fds.next_fd.min(at);
            slot
        };
        if slot.file.sock.sk.flag(SockFlags::LINGER) && Arc::strong_count(&slot.file) == 1 {
            self.block_on(|w| slot.file.sock.close(w));
        }
        drop(slot);
        Ok(())
    }

    /// Closes every descriptor (`close_files`, at exit), or only those marked so (`do_close_on_exec`).
    pub fn close_all(&self, only_cloexec: bool) {
        let gone: Vec<Slot> = {
            let mut fds = self.fds.lock_bh();
            fds.next_fd = 0;
            let doomed = |s: &&mut Option<Slot>| s.as_ref().is_some_and(|s| s.cloexec || !only_cloexec);
            fds.slots.iter_mut().filter(doomed).filter_map(Option::take).collect()
        };
        drop(gone);
    }

    /// `dup(2)`.
    pub fn dup(&self, fd: i32) -> Result<i32> {
        self.dup_from(fd, 0, false)
    }

    fn dup_from(&self, fd: i32, from: usize, cloexec: bool) -> Result<i32> {
        let file = self.sockfd_lookup(fd)?;
        self.fds.lock_bh().install(from, self.limit, Slot { file, cloexec })
    }

    /// `dup3(2)`; `EINVAL` for the same descriptor twice, `EBADF` for a target over the limit.
    pub fn dup3(&self, old: i32, new: i32, flags: i32) -> Result<i32> {
        if flags & !SOCK_CLOEXEC != 0 || old == new {
            return Err(Errno::EINVAL);
        }
        let at = usize::try_from(new).ok().filter(|&n| n < self.limit).ok_or(Errno::EBADF)?;
        let file = self.sockfd_lookup(old)?;
        let before = self.fds.lock_bh().put(at, Slot { file, cloexec: flags & SOCK_CLOEXEC != 0 });
        drop(before);
        Ok(new)
    }

    /// `fcntl(2)`: `F_DUPFD`, `F_DUPFD_CLOEXEC`, `F_GETFD`, `F_SETFD`, `F_GETFL`, `F_SETFL`; else `EINVAL`.
    pub fn fcntl(&self, fd: i32, cmd: i32, arg: i32) -> Result<i32> {
        let file = self.sockfd_lookup(fd)?;
        match cmd {
            F_DUPFD | F_DUPFD_CLOEXEC => {
                let from = usize::try_from(arg).ok().filter(|&a| a < self.limit).ok_or(Errno::EINVAL)?;
                self.dup_from(fd, from, cmd == F_DUPFD_CLOEXEC)
            }
            F_GETFD => self.with_slot(fd, |s| s.cloexec as i32),
            F_SETFD => self.with_slot(fd, |s| {
                s.cloexec = arg & FD_CLOEXEC != 0;
                0
            }),
            F_GETFL => Ok(file.flags.load(Relaxed)),
            F_SETFL => {
                let set = |old: i32| Some(old & !SETFL_MASK | arg & SETFL_MASK);
                let _ = file.flags.fetch_update(Relaxed, Relaxed, set);
                Ok(0)
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn with_slot(&self, fd: i32, f: impl FnOnce(&mut Slot) -> i32) -> Result<i32> {
        let at = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let mut fds = self.fds.lock_bh();
        fds.slots.get_mut(at).and_then(Option::as_mut).map(f).ok_or(Errno::EBADF)
    }

    /// `ioctl(2)`. `arg` is the integer given (`FIONBIO`); the answer is the integer read (`FIONREAD`, `SIOCOUTQ`).
    pub fn ioctl(&self, fd: i32, cmd: u32, arg: i32) -> Result<i32> {
        let file = self.sockfd_lookup(fd)?;
        match cmd {
            FIONBIO => {
                file.set_nonblock(arg != 0);
                Ok(0)
            }
            FIOCLEX | FIONCLEX => self.with_slot(fd, |s| {
                s.cloexec = cmd == FIOCLEX;
                0
            }),
            _ => file.sock.ioctl(cmd).map_err(Errno::to_user),
        }
    }
}

// The socket calls that do not block.
impl FdTable {
    /// `socket(2)`: `kind` may carry `SOCK_NONBLOCK` and `SOCK_CLOEXEC`.
    pub fn socket(&self, family: i32, kind: i32, protocol: i32) -> Result<i32> {
        let _cpu = self.net.kernel().enter();
        tp!(__sys_socket);
        let flags = kind & !SOCK_TYPE_MASK;
        if flags & !(SOCK_CLOEXEC | SOCK_NONBLOCK) != 0 {
            return Err(Errno::EINVAL);
        }
        let sock = sock_create(&self.net, family, kind & SOCK_TYPE_MASK, protocol)?;
        self.sock_map_fd(sock, flags)
    }

    pub fn bind(&self, fd: i32, addr: &SockAddr) -> Result<()> {
        self.sockfd_lookup(fd)?.sock.bind(addr)
    }

    pub fn listen(&self, fd: i32, backlog: i32) -> Result<()> {
        self.sockfd_lookup(fd)?.sock.listen(backlog)
    }

    pub fn shutdown(&self, fd: i32, how: i32) -> Result<()> {
        self.sockfd_lookup(fd)?.sock.shutdown(how)
    }

    pub fn getsockname(&self, fd: i32) -> Result<SockAddr> {
        self.sockfd_lookup(fd)?.sock.getname(false)
    }

    pub fn getpeername(&self, fd: i32) -> Result<SockAddr> {
        self.sockfd_lookup(fd)?.sock.getname(true)
    }

    pub fn setsockopt(&self, fd: i32, level: i32, name: i32, val: &[u8]) -> Result<()> {
        self.sockfd_lookup(fd)?.sock.setsockopt(level, name, val)
    }

    pub fn getsockopt(&self, fd: i32, level: i32, name: i32, len: usize) -> Result<Vec<u8>> {
        self.sockfd_lookup(fd)?.sock.getsockopt(level, name, len)
    }
}

// The socket calls that may block, as polls. An answer of `ERESTARTSYS` has become `EINTR`.
impl FdTable {
    pub fn poll_connect(&self, fd: i32, addr: &SockAddr, wait: &mut Wait) -> Poll<Result<()>> {
        let file = self.sockfd_lookup(fd)?;
        to_user(file.sock.connect(addr, file.nonblock(), wait))
    }

    /// `accept4(2)`: the connection's descriptor and the peer's address.
    pub fn poll_accept4(&self, fd: i32, flags: i32, wait: &mut Wait) -> Poll<Result<(i32, SockAddr)>> {
        if flags & !(SOCK_CLOEXEC | SOCK_NONBLOCK) != 0 {
            return Poll::Ready(Err(Errno::EINVAL));
        }
        let file = self.sockfd_lookup(fd)?;
        // Without a descriptor to be had no connection is taken.
        self.fds.lock_bh().lowest_free(0, self.limit)?;
        let sock = std::task::ready!(to_user(file.sock.accept(file.nonblock(), wait)))?;
        let peer = sock.accepted_from().map_err(|_| Errno::ECONNABORTED)?;
        Poll::Ready(self.sock_map_fd(sock, flags).map(|fd| (fd, peer)))
    }

    pub fn poll_sendmsg(&self, fd: i32, msg: &mut MsgHdr<'_>, wait: &mut Wait) -> Poll<Result<usize>> {
        let file = self.sockfd_lookup(fd)?;
        msg.flags = file.with_nonblock(msg.flags);
        to_user(file.sock.sendmsg(msg, wait))
    }

    pub fn poll_recvmsg(&self, fd: i32, msg: &mut MsgHdr<'_>, flags: i32, wait: &mut Wait) -> Poll<Result<usize>> {
        let file = self.sockfd_lookup(fd)?;
        to_user(file.sock.recvmsg(msg, file.with_nonblock(flags), wait))
    }

    /// `poll(2)`. `timeout` in nanoseconds, `None` for ever. `table` is a new one for each call, and the same for its polls.
    pub fn poll_poll(
        &self,
        fds: &mut [PollFd],
        timeout: Option<u64>,
        table: &mut PollTable,
        wait: &mut Wait,
    ) -> Poll<Result<usize>> {
        let arch = self.net.kernel().arch();
        wait.set_timeout(|| arch.ktime_get(), timeout);
        // Asleep first, then looked: an event between the two makes us run again.
        wait.task().set_state(kernel::task::TASK_INTERRUPTIBLE);
        let ready = self.look(fds, table, wait);
        let over = wait.timed_out(|| arch.ktime_get());
        if ready == 0 && !over && !wait.signal_pending() {
            return Poll::Pending;
        }
        wait.task().set_state(kernel::task::TASK_RUNNING);
        table.free();
        let interrupted = ready == 0 && !over;
        Poll::Ready(if interrupted { Err(Errno::EINTR) } else { Ok(ready) })
    }

    /// Looks at each descriptor once, and at the first look puts an entry on its wait queue (`do_poll`, `do_pollfd`).
    fn look(&self, fds: &mut [PollFd], table: &mut PollTable, wait: &Wait) -> usize {
        let mut ready = 0;
        for p in fds {
            p.revents = PollMask::empty();
            if p.fd < 0 {
                continue;
            }
            p.revents = match self.sockfd_lookup(p.fd) {
                Err(_) => PollMask::NVAL,
                Ok(file) => {
                    let wanted = p.events | PollMask::ERR | PollMask::HUP;
                    if !table.armed {
                        table.poll_wait(&file, wanted, wait);
                    }
                    file.sock.poll() & wanted
                }
            };
            ready += !p.revents.is_empty() as usize;
        }
        table.armed = true;
        ready
    }
}

fn to_user<T>(p: Poll<Result<T>>) -> Poll<Result<T>> {
    p.map(|r| r.map_err(Errno::to_user))
}

// The same calls, blocking the calling thread.
impl FdTable {
    pub fn connect(&self, fd: i32, addr: &SockAddr) -> Result<()> {
        self.block_on(|w| self.poll_connect(fd, addr, w))
    }

    pub fn accept(&self, fd: i32) -> Result<(i32, SockAddr)> {
        self.accept4(fd, 0)
    }

    pub fn accept4(&self, fd: i32, flags: i32) -> Result<(i32, SockAddr)> {
        self.block_on(|w| self.poll_accept4(fd, flags, w))
    }

    /// `send(2)`: a `sendto` without a destination.
    pub fn send(&self, fd: i32, buf: &[u8], flags: i32) -> Result<usize> {
        self.sendto(fd, buf, flags, None)
    }

    pub fn sendto(&self, fd: i32, buf: &[u8], flags: i32, to: Option<&SockAddr>) -> Result<usize> {
        let mut msg = MsgHdr { name: to.copied(), flags, ..MsgHdr::new(IovIter::source(buf)) };
        self.__sys_sendto(fd, &mut msg)
    }

    fn __sys_sendto(&self, fd: i32, msg: &mut MsgHdr<'_>) -> Result<usize> {
        self.block_on(|w| {
            let _cpu = self.net.kernel().enter();
            tp!(__sys_sendto, &msg.iter.count());
            self.poll_sendmsg(fd, msg, w)
        })
    }

    /// `recv(2)`: a `recvfrom` that does not ask from whom.
    pub fn recv(&self, fd: i32, buf: &mut [u8], flags: i32) -> Result<usize> {
        self.recvfrom(fd, buf, flags).map(|(n, _)| n)
    }

    /// `recvfrom(2)`; the source is `None` where the protocol gives none (a stream).
    pub fn recvfrom(&self, fd: i32, buf: &mut [u8], flags: i32) -> Result<(usize, Option<SockAddr>)> {
        let mut msg = MsgHdr::new(IovIter::dest(buf));
        let n = self.block_on(|w| {
            let _cpu = self.net.kernel().enter();
            tp!(__sys_recvfrom, &msg.iter.count());
            self.poll_recvmsg(fd, &mut msg, flags, w)
        })?;
        Ok((n, msg.name))
    }

    pub fn sendmsg(&self, fd: i32, msg: &mut MsgHdr<'_>, flags: i32) -> Result<usize> {
        msg.flags = flags;
        self.block_on(|w| self.poll_sendmsg(fd, msg, w))
    }

    pub fn recvmsg(&self, fd: i32, msg: &mut MsgHdr<'_>, flags: i32) -> Result<usize> {
        self.block_on(|w| self.poll_recvmsg(fd, msg, flags, w))
    }

    /// `splice(2)` from a socket. Only the socket's `O_NONBLOCK` counts: `SPLICE_F_NONBLOCK` is about the pipe.
    pub fn splice_read(&self, fd: i32, msg: &mut MsgHdr<'_>) -> Result<usize> {
        let file = self.sockfd_lookup(fd)?;
        let flags = if file.nonblock() { MSG_DONTWAIT } else { 0 };
        self.block_on(|w| to_user(file.sock.splice_read(msg, flags, w)))
    }

    /// `read(2)`; of nothing it is nothing (`sock_read_iter`).
    pub fn read(&self, fd: i32, buf: &mut [u8]) -> Result<usize> {
        self.readv(fd, &mut [buf])
    }

    pub fn write(&self, fd: i32, buf: &[u8]) -> Result<usize> {
        self.writev(fd, &[buf])
    }

    /// `readv(2)`; `EINVAL` for more than 1024 buffers.
    pub fn readv(&self, fd: i32, bufs: &mut [&mut [u8]]) -> Result<usize> {
        if bufs.len() > UIO_MAXIOV {
            return Err(Errno::EINVAL);
        }
        self.sockfd_lookup(fd)?;
        if bufs.iter().all(|b| b.is_empty()) {
            return Ok(0);
        }
        let parts = bufs.iter_mut().map(|b| &mut **b).filter(|b| !b.is_empty()).collect();
        self.recvmsg(fd, &mut MsgHdr::new(IovIter::Dest(parts)), 0)
    }

    /// `writev(2)`; `EINVAL` for more than 1024 buffers.
    pub fn writev(&self, fd: i32, bufs: &[&[u8]]) -> Result<usize> {
        if bufs.len() > UIO_MAXIOV {
            return Err(Errno::EINVAL);
        }
        let parts = bufs.iter().copied().filter(|b| !b.is_empty()).collect();
        self.sendmsg(fd, &mut MsgHdr::new(IovIter::Source(parts)), 0)
    }

    /// `poll(2)`; `timeout` in milliseconds, negative for ever.
    pub fn poll(&self, fds: &mut [PollFd], timeout: i32) -> Result<usize> {
        let timeout = u64::try_from(timeout).ok().map(|ms| ms * 1_000_000);
        let mut table = PollTable::default();
        self.block_on(|w| self.poll_poll(fds, timeout, &mut table, w))
    }
}

/// `struct pollfd`.
#[derive(Clone, Copy, Debug)]
pub struct PollFd {
    /// Negative: left out.
    pub fd: i32,
    pub events: PollMask,
    pub revents: PollMask,
}

impl PollFd {
    pub fn new(fd: i32, events: PollMask) -> PollFd {
        PollFd { fd, events, revents: PollMask::empty() }
    }
}

/// Where one `poll(2)` has put its entries (`struct poll_wqueues`). Its drop takes them off.
#[derive(Default)]
pub struct PollTable {
    entries: Vec<(Arc<File>, Arc<WaitQueueEntry>)>,
    armed: bool,
}

impl PollTable {
    /// `poll_wait`, with `pollwake` as the wake function: events nobody asked for wake nobody.
    fn poll_wait(&mut self, file: &Arc<File>, wanted: PollMask, wait: &Wait) {
        let task = wait.task().clone();
        let e = WaitQueueEntry::callback(move |key| {
            if key == 0 || key & wanted.bits() != 0 {
                task.wake_up_process();
            }
            // Not exclusive: it counts for nothing.
            false
        });
        file.sock.sk.wq.add(&e);
        self.entries.push((file.clone(), e));
    }

    fn free(&mut self) {
        for (file, e) in self.entries.drain(..) {
            file.sock.sk.wq.remove(&e);
        }
    }
}

impl Drop for PollTable {
    fn drop(&mut self) {
        self.free();
    }
}
