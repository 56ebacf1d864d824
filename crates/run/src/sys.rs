//! The host's system calls as the supervisor uses them, with the stack's error type.
//!
//! Interface: one function per call; descriptors come and go as [`OwnedFd`] and [`BorrowedFd`].
//! Linux counterpart: none; this is the host below.
//! Locks and context: process context. Nothing here blocks but [`epoll_wait`].

use kernel::Frag;
use std::collections::VecDeque;
use std::ffi::CStr;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use uapi::{Errno, Result};

/// `PIDFD_THREAD`: the descriptor is of one thread, whose descriptor table may be its own.
const PIDFD_THREAD: i32 = libc::O_EXCL;

fn errno() -> Errno {
    Errno::from_io(&std::io::Error::last_os_error())
}

fn check(r: i64) -> Result<usize> {
    usize::try_from(r).map_err(|_| errno())
}

fn owned(r: i64) -> Result<OwnedFd> {
    let fd = check(r)? as RawFd;
    // SAFETY: the host has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A connected pair of AF_UNIX sockets of type `kind` (which may carry `SOCK_CLOEXEC` and `SOCK_NONBLOCK`).
pub fn socketpair(kind: i32) -> Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) }.into())?;
    // SAFETY: the host has just made both for us.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

pub fn send(fd: BorrowedFd<'_>, buf: &[u8]) -> Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `buf` is readable for its length.
    check(unsafe { libc::send(fd.as_raw_fd(), buf.as_ptr().cast(), buf.len(), flags) } as i64)
}

/// Most ranges a gathering send takes at once.
const MAX_IOV: usize = 64;

/// Sends from the front of `frags`, without waiting; how many bytes went. The caller drops them from the list.
pub fn send_frags(fd: BorrowedFd<'_>, frags: &VecDeque<Frag>) -> Result<usize> {
    let mut iov = [const { MaybeUninit::<libc::iovec>::uninit() }; MAX_IOV];
    let mut n = 0;
    for (slot, f) in iov.iter_mut().zip(frags) {
        slot.write(libc::iovec { iov_base: f.as_ptr().cast_mut().cast(), iov_len: f.len() });
        n += 1;
    }
    // SAFETY: all-zero is a valid `msghdr`.
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    msg.msg_iov = iov.as_mut_ptr().cast();
    msg.msg_iovlen = n;
    // SAFETY: the first `n` entries are set and point at bytes that `frags` keeps alive.
    check(unsafe { libc::sendmsg(fd.as_raw_fd(), &msg, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) } as i64)
}

/// Receives without waiting. `flags` beside `MSG_DONTWAIT`.
pub fn recv(fd: BorrowedFd<'_>, buf: &mut [u8], flags: i32) -> Result<usize> {
    let flags = flags | libc::MSG_DONTWAIT;
    // SAFETY: `buf` is writable for its length.
    check(unsafe { libc::recv(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), flags) } as i64)
}

pub fn shutdown(fd: BorrowedFd<'_>, how: i32) {
    // SAFETY: takes no memory.
    unsafe { libc::shutdown(fd.as_raw_fd(), how) };
}

/// Sets a socket option of the stand-in; whether it took does not matter to the caller.
pub fn setsockopt(fd: BorrowedFd<'_>, level: i32, name: i32, val: &[u8]) {
    // SAFETY: `val` is readable for its length.
    unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, val.as_ptr().cast(), val.len() as u32) };
}

/// `SO_ERROR` of the stand-in, taken.
pub fn take_error(fd: BorrowedFd<'_>) -> i32 {
    let (mut e, mut len) = (0i32, size_of::<i32>() as u32);
    // SAFETY: room for an `int`, and its size.
    unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut e).cast(), &mut len) };
    e
}

/// Bytes sent through `fd` that the other end has not read yet (`SIOCOUTQ`).
pub fn unread_by_peer(fd: BorrowedFd<'_>) -> usize {
    let mut n = 0i32;
    // SAFETY: the request writes an `int`.
    unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &mut n) };
    n.max(0) as usize
}

/// What `fd` is ready for now, of `events`, and `POLLHUP` and `POLLERR`.
pub fn poll_now(fd: BorrowedFd<'_>, events: i16) -> i16 {
    let mut p = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    // SAFETY: one valid entry.
    unsafe { libc::poll(&mut p, 1, 0) };
    p.revents
}

/// The inode of an open file on the socket file system; `None` for any other file.
pub fn socket_inode(fd: BorrowedFd<'_>) -> Option<u64> {
    let mut st = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: room for a `stat`.
    let r = unsafe { libc::fstat(fd.as_raw_fd(), st.as_mut_ptr()) };
    // SAFETY: `fstat` has filled it when it answers 0.
    let st = (r == 0).then(|| unsafe { st.assume_init() })?;
    (st.st_mode & libc::S_IFMT == libc::S_IFSOCK).then_some(st.st_ino)
}

/// Whether the open file is in non-blocking mode.
pub fn is_nonblocking(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: takes no memory.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    flags >= 0 && flags & libc::O_NONBLOCK != 0
}

pub fn epoll_create() -> Result<OwnedFd> {
    // SAFETY: takes no memory.
    owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }.into())
}

/// `EPOLL_CTL_ADD` or `EPOLL_CTL_MOD`.
pub fn epoll_ctl(ep: BorrowedFd<'_>, op: i32, fd: BorrowedFd<'_>, events: u32, data: u64) -> Result<()> {
    let mut ev = libc::epoll_event { events, u64: data };
    // SAFETY: `ev` is a valid event.
    check(unsafe { libc::epoll_ctl(ep.as_raw_fd(), op, fd.as_raw_fd(), &mut ev) }.into()).map(drop)
}

/// How many of `events` are filled. `timeout` in nanoseconds, `None` for ever.
pub fn epoll_wait(ep: BorrowedFd<'_>, events: &mut [libc::epoll_event], timeout: Option<u64>) -> Result<usize> {
    let max = events.len() as i32;
    let ts = timeout.map(|t| libc::timespec { tv_sec: (t / 1_000_000_000) as _, tv_nsec: (t % 1_000_000_000) as _ });
    let ts = ts.as_ref().map_or(std::ptr::null(), |t| t as *const libc::timespec);
    // SAFETY: room for `max` events; `ts` is null or valid; no signal mask.
    check(unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait2,
            ep.as_raw_fd(),
            events.as_mut_ptr(),
            max,
            ts,
            std::ptr::null::<libc::sigset_t>(),
            0usize,
        )
    })
}

pub fn eventfd() -> Result<OwnedFd> {
    // SAFETY: takes no memory.
    owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }.into())
}

/// A pipe, close-on-exec at both ends: (to read, to write).
pub fn pipe(flags: i32) -> Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | flags) }.into())?;
    // SAFETY: the host has just made both for us.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

pub fn read(fd: BorrowedFd<'_>, buf: &mut [u8]) -> Result<usize> {
    // SAFETY: `buf` is writable for its length.
    check(unsafe { libc::read(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) } as i64)
}

pub fn write(fd: BorrowedFd<'_>, buf: &[u8]) -> Result<usize> {
    // SAFETY: `buf` is readable for its length.
    check(unsafe { libc::write(fd.as_raw_fd(), buf.as_ptr().cast(), buf.len()) } as i64)
}

/// A descriptor of the thread `tid`, or on hosts older than Linux 6.9 of its process.
pub fn pidfd_open(tid: u32) -> Result<OwnedFd> {
    // SAFETY: takes no memory.
    match owned(unsafe { libc::syscall(libc::SYS_pidfd_open, tid, PIDFD_THREAD) }) {
        Err(Errno::EINVAL) => {
            // SAFETY: takes no memory.
            owned(unsafe { libc::syscall(libc::SYS_pidfd_open, thread_group(tid).unwrap_or(tid), 0) })
        }
        r => r,
    }
}

/// The process that a thread belongs to.
fn thread_group(tid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    status.lines().find_map(|l| l.strip_prefix("Tgid:")?.trim().parse().ok())
}

/// A duplicate of descriptor `fd` of the process.
pub fn pidfd_getfd(pidfd: BorrowedFd<'_>, fd: i32) -> Result<OwnedFd> {
    // SAFETY: takes no memory.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) })
}

pub fn kill(pid: u32, signal: i32) {
    // SAFETY: takes no memory.
    unsafe { libc::kill(pid as i32, signal) };
}

/// `waitpid(-1, WNOHANG)`: a child that has ended and its wait status.
pub fn reap() -> Option<(u32, i32)> {
    let mut status = 0;
    // SAFETY: room for an `int`.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    (pid > 0).then_some((pid as u32, status))
}

/// The calling process adopts the orphans among its descendants (`PR_SET_CHILD_SUBREAPER`).
pub fn become_subreaper() {
    // SAFETY: takes no memory.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

/// Raises the soft limit of descriptors to the hard one; what it was before.
pub fn raise_nofile() -> libc::rlimit {
    let mut old = libc::rlimit { rlim_cur: 1024, rlim_max: 1024 };
    // SAFETY: room for an `rlimit`, and a valid one.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut old);
        libc::setrlimit(libc::RLIMIT_NOFILE, &libc::rlimit { rlim_cur: old.rlim_max, rlim_max: old.rlim_max });
    }
    old
}

/// Whether the calling user may execute `path` (`access(X_OK)`), which must be a file: `ENOENT`, `EACCES`, ….
pub fn executable(path: &CStr) -> Result<()> {
    let mut st = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: a C string, and room for a `stat`.
    check(unsafe { libc::stat(path.as_ptr(), st.as_mut_ptr()) }.into())?;
    // SAFETY: `stat` has filled it.
    if unsafe { st.assume_init() }.st_mode & libc::S_IFMT == libc::S_IFDIR {
        return Err(Errno(libc::EISDIR));
    }
    // SAFETY: a C string.
    check(unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS) }.into()).map(drop)
}

pub fn geteuid() -> u32 {
    // SAFETY: takes no memory.
    unsafe { libc::geteuid() }
}

/// What each of many descriptors is ready for now.
pub fn poll_many(fds: &mut [libc::pollfd]) {
    // SAFETY: valid entries, as many as said.
    unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, 0) };
}

pub fn set_nonblocking(fd: BorrowedFd<'_>) {
    // SAFETY: takes no memory.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_RDWR | libc::O_NONBLOCK) };
}

pub fn epoll_del(ep: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: the event may be null for this operation.
    check(unsafe { libc::epoll_ctl(ep.as_raw_fd(), libc::EPOLL_CTL_DEL, fd.as_raw_fd(), std::ptr::null_mut()) }.into())
        .map(drop)
}

/// Whether the file can be seen.
pub fn exists(path: &CStr) -> bool {
    let mut st = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: a C string, and room for a `stat`.
    unsafe { libc::stat(path.as_ptr(), st.as_mut_ptr()) == 0 }
}
