//! The socket system calls on file descriptors.
//!
//! Interface: [`FdTable`] (a process: its descriptors, and each call on them), [`PollFd`], [`PollTable`].
//! Linux counterpart: the `__sys_*` half of `net/socket.c`, `fs/file.c`, `fs/fcntl.c`, `fs/select.c`.
//! Locks and context: process context. Calls that can block are there twice: as the thread's call, and as a poll (`poll_*`).

use crate::core::iov_iter::{IovIter, MsgHdr};
use crate::core::net_namespace::Net;
use crate::core::sock::SockFlags;
pub use crate::socket::{O_NONBLOCK, O_RDWR};
use crate::socket::{Socket, sock_create};
use kernel::{SpinLock, Wait, WaitQueueEntry, tp, wait};
use std::sync::Arc;
use std::task::Poll;
use uapi::poll::Poll as PollMask;
use uapi::socket::*;
use uapi::{Errno, Result, SockAddr};

/// `SOCK_TYPE_MASK`.
const SOCK_TYPE_MASK: i32 = 0xf;
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

/// `MSG_DONTWAIT` if the description is non-blocking.
fn with_nonblock(sock: &Socket, flags: i32) -> i32 {
    if sock.nonblock() { flags | MSG_DONTWAIT } else { flags }
}

/// The descriptors (`struct fdtable`).
#[derive(Default)]
struct Fds {
    fd: Vec<Option<Arc<Socket>>>,
    close_on_exec: BitVec,
    /// No free descriptor is below.
    next_fd: usize,
}

/// Bits; those that were never set are clear.
#[derive(Default)]
struct BitVec(Vec<u64>);

impl BitVec {
    fn get(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|w| w >> (at % 64) & 1 != 0)
    }

    fn set(&mut self, at: usize, on: bool) {
        if self.0.len() <= at / 64 {
            if !on {
                return;
            }
            self.0.resize(at / 64 + 1, 0);
        }
        let bit = 1 << (at % 64);
        self.0[at / 64] = self.0[at / 64] & !bit | if on { bit } else { 0 };
    }
}

impl Fds {
    /// The lowest free descriptor from `from` on, below `limit` (`alloc_fd`).
    fn lowest_free(&self, from: usize, limit: usize) -> Result<usize> {
        let mut at = from.max(self.next_fd);
        while self.fd.get(at).is_some_and(Option::is_some) {
            at += 1;
        }
        if at < limit { Ok(at) } else { Err(Errno::EMFILE) }
    }

    fn install(&mut self, from: usize, limit: usize, sock: Arc<Socket>, cloexec: bool) -> Result<i32> {
        let at = self.lowest_free(from, limit)?;
        self.put(at, sock, cloexec);
        if from <= self.next_fd {
            self.next_fd = at + 1;
        }
        Ok(at as i32)
    }

    fn put(&mut self, at: usize, sock: Arc<Socket>, cloexec: bool) -> Option<Arc<Socket>> {
        if self.fd.len() <= at {
            self.fd.resize_with(at + 1, || None);
        }
        self.close_on_exec.set(at, cloexec);
        self.fd[at].replace(sock)
    }

    fn get(&self, fd: i32) -> Result<(usize, &Arc<Socket>)> {
        let at = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.fd.get(at).and_then(Option::as_ref).map(|s| (at, s)).ok_or(Errno::EBADF)
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

    /// `sockfd_lookup`: the socket, `EBADF` if the descriptor is none.
    pub fn sockfd_lookup(&self, fd: i32) -> Result<Arc<Socket>> {
        self.fds.lock_bh().get(fd).map(|(_, s)| s.clone())
    }

    /// `sock_map_fd`: gives the socket the lowest free descriptor. `flags`: `SOCK_NONBLOCK`, `SOCK_CLOEXEC`.
    pub fn sock_map_fd(&self, sock: Arc<Socket>, flags: i32) -> Result<i32> {
        sock.set_flags(O_NONBLOCK, flags);
        // Refused, it is dropped after the lock: that releases it.
        let keep = sock.clone();
        let fd = self.fds.lock_bh().install(0, self.limit, sock, flags & SOCK_CLOEXEC != 0);
        drop(keep);
        fd
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
        let sock = {
            let mut fds = self.fds.lock_bh();
            let (at, _) = fds.get(fd)?;
            fds.next_fd = fds.next_fd.min(at);
            fds.fd[at].take()
        };
        if let Some(sock) = &sock
            && sock.sk.flag(SockFlags::LINGER)
            && Arc::strong_count(sock) == 1
        {
            self.block_on(|w| sock.close(w));
        }
        drop(sock);
        Ok(())
    }

    /// Closes every descriptor (`close_files`, at exit), or only those marked so (`do_close_on_exec`).
    pub fn close_all(&self, only_cloexec: bool) {
        let gone: Vec<Arc<Socket>> = {
            let mut fds = self.fds.lock_bh();
            fds.next_fd = 0;
            let Fds { fd, close_on_exec, .. } = &mut *fds;
            let doomed = fd.iter_mut().enumerate().filter(|(at, _)| !only_cloexec || close_on_exec.get(*at));
            doomed.filter_map(|(_, s)| s.take()).collect()
        };
        drop(gone);
    }

    /// `dup(2)`.
    pub fn dup(&self, fd: i32) -> Result<i32> {
        self.dup_from(fd, 0, false)
    }

    fn dup_from(&self, fd: i32, from: usize, cloexec: bool) -> Result<i32> {
        let sock = self.sockfd_lookup(fd)?;
        // Refused, it is dropped after the lock, if it is the last.
        let keep = sock.clone();
        let new = self.fds.lock_bh().install(from, self.limit, sock, cloexec);
        drop(keep);
        new
    }

    /// `dup3(2)`; `EINVAL` for the same descriptor twice, `EBADF` for a target over the limit.
    pub fn dup3(&self, old: i32, new: i32, flags: i32) -> Result<i32> {
        if flags & !SOCK_CLOEXEC != 0 || old == new {
            return Err(Errno::EINVAL);
        }
        let at = usize::try_from(new).ok().filter(|&n| n < self.limit).ok_or(Errno::EBADF)?;
        let sock = self.sockfd_lookup(old)?;
        let before = self.fds.lock_bh().put(at, sock, flags & SOCK_CLOEXEC != 0);
        drop(before);
        Ok(new)
    }

    /// `fcntl(2)`: `F_DUPFD`, `F_DUPFD_CLOEXEC`, `F_GETFD`, `F_SETFD`, `F_GETFL`, `F_SETFL`; else `EINVAL`.
    pub fn fcntl(&self, fd: i32, cmd: i32, arg: i32) -> Result<i32> {
        let sock = self.sockfd_lookup(fd)?;
        match cmd {
            F_DUPFD | F_DUPFD_CLOEXEC => {
                let from = usize::try_from(arg).ok().filter(|&a| a < self.limit).ok_or(Errno::EINVAL)?;
                self.dup_from(fd, from, cmd == F_DUPFD_CLOEXEC)
            }
            F_GETFD => {
                let fds = self.fds.lock_bh();
                let (at, _) = fds.get(fd)?;
                Ok(fds.close_on_exec.get(at) as i32)
            }
            F_SETFD => self.set_close_on_exec(fd, arg & FD_CLOEXEC != 0),
            F_GETFL => Ok(sock.flags()),
            F_SETFL => {
                sock.set_flags(SETFL_MASK, arg);
                Ok(0)
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn set_close_on_exec(&self, fd: i32, on: bool) -> Result<i32> {
        let mut fds = self.fds.lock_bh();
        let (at, _) = fds.get(fd)?;
        fds.close_on_exec.set(at, on);
        Ok(0)
    }

    /// `ioctl(2)`. `arg` is the integer given (`FIONBIO`); the answer is the integer read (`FIONREAD`, `SIOCOUTQ`).
    pub fn ioctl(&self, fd: i32, cmd: u32, arg: i32) -> Result<i32> {
        let sock = self.sockfd_lookup(fd)?;
        match cmd {
            FIONBIO => {
                sock.set_flags(O_NONBLOCK, if arg != 0 { O_NONBLOCK } else { 0 });
                Ok(0)
            }
            FIOCLEX | FIONCLEX => self.set_close_on_exec(fd, cmd == FIOCLEX),
            _ => sock.ioctl(cmd).map_err(Errno::to_user),
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
        self.sockfd_lookup(fd)?.bind(addr)
    }

    pub fn listen(&self, fd: i32, backlog: i32) -> Result<()> {
        self.sockfd_lookup(fd)?.listen(backlog)
    }

    pub fn shutdown(&self, fd: i32, how: i32) -> Result<()> {
        self.sockfd_lookup(fd)?.shutdown(how)
    }

    pub fn getsockname(&self, fd: i32) -> Result<SockAddr> {
        self.sockfd_lookup(fd)?.getname(false)
    }

    pub fn getpeername(&self, fd: i32) -> Result<SockAddr> {
        self.sockfd_lookup(fd)?.getname(true)
    }

    pub fn setsockopt(&self, fd: i32, level: i32, name: i32, val: &[u8]) -> Result<()> {
        self.sockfd_lookup(fd)?.setsockopt(level, name, val)
    }

    pub fn getsockopt(&self, fd: i32, level: i32, name: i32, len: usize) -> Result<Vec<u8>> {
        self.sockfd_lookup(fd)?.getsockopt(level, name, len)
    }
}

// The socket calls that may block, as polls. An answer of `ERESTARTSYS` has become `EINTR`.
impl FdTable {
    pub fn poll_connect(&self, fd: i32, addr: &SockAddr, wait: &mut Wait) -> Poll<Result<()>> {
        let sock = self.sockfd_lookup(fd)?;
        to_user(sock.connect(addr, sock.nonblock(), wait))
    }

    /// `accept4(2)`: the connection's descriptor and the peer's address.
    pub fn poll_accept4(&self, fd: i32, flags: i32, wait: &mut Wait) -> Poll<Result<(i32, SockAddr)>> {
        if flags & !(SOCK_CLOEXEC | SOCK_NONBLOCK) != 0 {
            return Poll::Ready(Err(Errno::EINVAL));
        }
        let sock = self.sockfd_lookup(fd)?;
        // Without a descriptor to be had no connection is taken.
        self.fds.lock_bh().lowest_free(0, self.limit)?;
        let sock = std::task::ready!(to_user(sock.accept(sock.nonblock(), wait)))?;
        let peer = sock.accepted_from().map_err(|_| Errno::ECONNABORTED)?;
        Poll::Ready(self.sock_map_fd(sock, flags).map(|fd| (fd, peer)))
    }

    pub fn poll_sendmsg(&self, fd: i32, msg: &mut MsgHdr<'_>, wait: &mut Wait) -> Poll<Result<usize>> {
        let sock = self.sockfd_lookup(fd)?;
        msg.flags = with_nonblock(&sock, msg.flags);
        to_user(sock.sendmsg(msg, wait))
    }

    pub fn poll_recvmsg(&self, fd: i32, msg: &mut MsgHdr<'_>, flags: i32, wait: &mut Wait) -> Poll<Result<usize>> {
        let sock = self.sockfd_lookup(fd)?;
        to_user(sock.recvmsg(msg, with_nonblock(&sock, flags), wait))
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
                Ok(sock) => {
                    let wanted = p.events | PollMask::ERR | PollMask::HUP;
                    if !table.armed {
                        table.poll_wait(&sock, wanted, wait);
                    }
                    sock.poll() & wanted
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
        let sock = self.sockfd_lookup(fd)?;
        let flags = if sock.nonblock() { MSG_DONTWAIT } else { 0 };
        self.block_on(|w| to_user(sock.splice_read(msg, flags, w)))
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
    entries: Vec<(Arc<Socket>, Arc<WaitQueueEntry>)>,
    armed: bool,
}

impl PollTable {
    /// `poll_wait`, with `pollwake` as the wake function: events nobody asked for wake nobody.
    fn poll_wait(&mut self, sock: &Arc<Socket>, wanted: PollMask, wait: &Wait) {
        let task = wait.task().clone();
        let e = WaitQueueEntry::callback(move |key| {
            if key == 0 || key & wanted.bits() != 0 {
                task.wake_up_process();
            }
            // Not exclusive: it counts for nothing.
            false
        });
        sock.sk.wq.add(&e);
        self.entries.push((sock.clone(), e));
    }

    fn free(&mut self) {
        for (sock, e) in self.entries.drain(..) {
            sock.sk.wq.remove(&e);
        }
    }
}

impl Drop for PollTable {
    fn drop(&mut self) {
        self.free();
    }
}

#[cfg(test)]
mod tests {
    use super::BitVec;

    #[test]
    fn a_bit_is_what_it_was_last_set_to() {
        let mut b = BitVec::default();
        b.set(1000, false);
        assert!(b.0.is_empty(), "what is clear anyway takes no memory");
        for at in [0, 63, 64, 1000] {
            b.set(at, true);
            assert!(b.get(at) && !b.get(at + 1));
        }
        b.set(64, false);
        assert_eq!([0, 63, 64, 1000, 1_000_000].map(|at| b.get(at)), [true, true, false, true, false]);
    }
}
