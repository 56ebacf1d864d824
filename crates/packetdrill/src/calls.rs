//! The functions of packetdrill's table: C's arguments to the stack's calls and back.
//!
//! Interface: one function for each slot of [`PacketdrillInterface`](crate::abi::PacketdrillInterface).
//! Linux counterpart: the system call entry: `SYSCALL_DEFINE*`, `copy_from_user`, `copy_to_user`.
//! Locks and context: any thread; each call is an [`enter`](Machine::enter).
//!
//! Every function is given the machine of `packetdrill_interface_init` and pointers as the manual page of the call of its name
//! says; that is what each is `unsafe` for. Descriptors start at [`FD_BASE`], so that none is one of the process's.
#![allow(clippy::missing_safety_doc)]

use crate::epoll::EPOLL_BASE;
use crate::machine::Machine;
use crate::memory::*;
use libc::{c_int, c_long, c_longlong, c_uint, c_ulong, c_void, epoll_event, size_t, ssize_t};
use libc::{iovec, msghdr, pollfd, sockaddr, socklen_t, timeval};
use net::core::iov_iter::{IovIter, MsgHdr};
use net::syscall::{FIOCLEX, FIONBIO, FIONCLEX, PollFd};
use uapi::poll::Poll as PollMask;
use uapi::socket::MSG_CTRUNC;
use uapi::{Errno, Result};

/// Our descriptor 0.
pub const FD_BASE: c_int = 10_000;

/// As much as a pipe holds.
const PIPE_SIZE: usize = 65536;

/// # Safety
/// `ud` is what `packetdrill_interface_init` has made.
unsafe fn machine<'a>(ud: Userdata) -> &'a Machine {
    // SAFETY: the caller's promise; it lives until `free`.
    unsafe { &*ud.cast::<Machine>() }
}

fn errno(e: Errno) -> c_int {
    // SAFETY: the calling thread's own variable.
    unsafe { *libc::__errno_location() = e.0 };
    -1
}

fn int(r: Result<i32>) -> c_int {
    r.unwrap_or_else(errno)
}

fn unit(r: Result<()>) -> c_int {
    int(r.map(|()| 0))
}

fn size(r: Result<usize>) -> ssize_t {
    r.map_or_else(|e| errno(e) as ssize_t, |n| n as ssize_t)
}

/// Ours, from the caller's; what is none stays none.
fn inner(fd: c_int) -> c_int {
    if fd >= FD_BASE { fd - FD_BASE } else { -1 }
}

fn outer(r: Result<i32>) -> c_int {
    int(r.map(|fd| fd + FD_BASE))
}

/// `unsafe extern "C" fn name(m: &Machine, …)` with the machine entered.
macro_rules! calls {
    ($($(#[$a:meta])* fn $name:ident($m:ident $(, $arg:ident: $ty:ty)*) -> $ret:ty $body:block)*) => {
        $($(#[$a])* pub unsafe extern "C" fn $name(ud: Userdata $(, $arg: $ty)*) -> $ret {
            // SAFETY: the caller's promise.
            let $m = unsafe { machine(ud) };
            let _inside = $m.enter();
            $body
        })*
    };
}

calls! {
    fn socket(m, domain: c_int, kind: c_int, protocol: c_int) -> c_int {
        outer(m.fds.socket(domain, kind, protocol))
    }

    fn bind(m, fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
        // SAFETY: as the manual page says.
        unit(unsafe { sockaddr(addr, len) }.and_then(|a| m.fds.bind(inner(fd), &a)))
    }

    fn listen(m, fd: c_int, backlog: c_int) -> c_int {
        unit(m.fds.listen(inner(fd), backlog))
    }

    fn accept(m, fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int {
        outer(m.fds.accept(inner(fd)).and_then(|(fd, peer)| {
            // SAFETY: as the manual page says.
            unsafe { put_sockaddr(Some(&peer), addr, len) }.map(|()| fd)
        }))
    }

    fn connect(m, fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
        // SAFETY: as the manual page says.
        unit(unsafe { sockaddr(addr, len) }.and_then(|a| m.fds.connect(inner(fd), &a)))
    }

    fn read(m, fd: c_int, buf: *mut c_void, count: size_t) -> ssize_t {
        // SAFETY: as the manual page says.
        size(unsafe { bytes_mut(buf, count) }.and_then(|b| m.fds.read(inner(fd), b)))
    }

    fn readv(m, fd: c_int, iov: *const iovec, n: c_int) -> ssize_t {
        // SAFETY: as the manual page says.
        size(count(n).and_then(|n| unsafe { iovecs_mut(iov, n) }).and_then(|mut b| m.fds.readv(inner(fd), &mut b)))
    }

    fn recv(m, fd: c_int, buf: *mut c_void, len: size_t, flags: c_int) -> ssize_t {
        // SAFETY: as the manual page says.
        size(unsafe { bytes_mut(buf, len) }.and_then(|b| m.fds.recv(inner(fd), b, flags)))
    }

    fn recvfrom(m, fd: c_int, buf: *mut c_void, len: size_t, flags: c_int, from: *mut sockaddr,
                fromlen: *mut socklen_t) -> ssize_t {
        // SAFETY: as the manual page says.
        size(unsafe { bytes_mut(buf, len) }.and_then(|b| {
            let (n, a) = m.fds.recvfrom(inner(fd), b, flags)?;
            // SAFETY: as the manual page says.
            unsafe { put_sockaddr(a.as_ref(), from, fromlen) }.map(|()| n)
        }))
    }

    fn recvmsg(m, fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t {
        // SAFETY: as the manual page says.
        size(unsafe { msg.as_mut() }.ok_or(Errno::EFAULT).and_then(|msg| unsafe { do_recvmsg(m, inner(fd), msg, flags) }))
    }

    fn write(m, fd: c_int, buf: *const c_void, count: size_t) -> ssize_t {
        // SAFETY: as the manual page says.
        size(unsafe { bytes(buf, count) }.and_then(|b| m.fds.write(inner(fd), b)))
    }

    fn writev(m, fd: c_int, iov: *const iovec, n: c_int) -> ssize_t {
        // SAFETY: as the manual page says.
        size(count(n).and_then(|n| unsafe { iovecs(iov, n) }).and_then(|b| m.fds.writev(inner(fd), &b)))
    }

    fn send(m, fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t {
        // SAFETY: as the manual page says.
        size(unsafe { bytes(buf, len) }.and_then(|b| m.fds.send(inner(fd), b, flags)))
    }

    fn sendto(m, fd: c_int, buf: *const c_void, len: size_t, flags: c_int, to: *const sockaddr,
              tolen: socklen_t) -> ssize_t {
        // SAFETY: as the manual page says.
        size(unsafe { bytes(buf, len) }.and_then(|b| {
            // SAFETY: as the manual page says.
            let to = if to.is_null() { None } else { Some(unsafe { sockaddr(to, tolen) }?) };
            m.fds.sendto(inner(fd), b, flags, to.as_ref())
        }))
    }

    fn sendmsg(m, fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t {
        // SAFETY: as the manual page says.
        size(unsafe { msg.as_ref() }.ok_or(Errno::EFAULT).and_then(|msg| unsafe { do_sendmsg(m, inner(fd), msg, flags) }))
    }

    fn fcntl(m, fd: c_int, cmd: c_int, arg: c_long) -> c_int {
        int(m.fds.fcntl(inner(fd), cmd, arg as i32))
    }

    fn ioctl(m, fd: c_int, request: c_ulong, arg: *mut c_void) -> c_int {
        let request = request as u32;
        let (input, output) = match request {
            FIONBIO => (true, false),
            FIOCLEX | FIONCLEX => (false, false),
            _ => (false, true),
        };
        let arg = arg.cast::<c_int>();
        if arg.is_null() && (input || output) {
            return errno(Errno::EFAULT);
        }
        // SAFETY: these requests take a pointer to an `int`.
        let given = if input { unsafe { arg.read_unaligned() } } else { 0 };
        unit(m.fds.ioctl(inner(fd), request, given).map(|answer| {
            if output {
                // SAFETY: as above.
                unsafe { arg.write_unaligned(answer) };
            }
        }))
    }

    fn close(m, fd: c_int) -> c_int {
        if fd < FD_BASE {
            // SAFETY: a pipe's end, which the script has opened; closed past the symbol of `preload`.
            return unsafe { libc::syscall(libc::SYS_close, fd) as c_int };
        }
        unit(if fd >= EPOLL_BASE { m.epolls.close(fd) } else { m.fds.close(inner(fd)) })
    }

    fn shutdown(m, fd: c_int, how: c_int) -> c_int {
        unit(m.fds.shutdown(inner(fd), how))
    }

    fn getsockopt(m, fd: c_int, level: c_int, name: c_int, val: *mut c_void, len: *mut socklen_t) -> c_int {
        // SAFETY: as the manual page says.
        let Some(len) = (unsafe { len.as_mut() }) else { return errno(Errno::EFAULT) };
        if *len > i32::MAX as u32 {
            return errno(Errno::EINVAL);
        }
        unit(m.fds.getsockopt(inner(fd), level, name, *len as usize).and_then(|v| {
            let n = v.len().min(*len as usize);
            // SAFETY: as the manual page says.
            unsafe { bytes_mut(val, n)? }.copy_from_slice(&v[..n]);
            *len = n as socklen_t;
            Ok(())
        }))
    }

    fn setsockopt(m, fd: c_int, level: c_int, name: c_int, val: *const c_void, len: socklen_t) -> c_int {
        // SAFETY: as the manual page says.
        unit(unsafe { bytes(val, len as usize) }.and_then(|v| m.fds.setsockopt(inner(fd), level, name, v)))
    }

    fn poll(m, fds: *mut pollfd, n: c_ulong, timeout: c_int) -> c_int {
        if fds.is_null() && n > 0 {
            return errno(Errno::EFAULT);
        }
        // SAFETY: as the manual page says.
        let fds = if n == 0 { &mut [] } else { unsafe { std::slice::from_raw_parts_mut(fds, n as usize) } };
        let ours = |p: &pollfd| PollFd::new(if p.fd < 0 { -1 } else { inner(p.fd).max(0) }, poll_mask(p.events));
        let mut list: Vec<PollFd> = fds.iter().map(ours).collect();
        int(m.fds.poll(&mut list, timeout).map(|ready| {
            for (to, from) in fds.iter_mut().zip(&list) {
                to.revents = from.revents.bits() as i16;
            }
            ready as i32
        }))
    }

    fn netdev_send(m, buf: *const c_void, count: size_t) -> c_int {
        // SAFETY: packetdrill passes a packet and its length.
        unit(unsafe { bytes(buf, count) }.and_then(|b| m.netdev_send(b)))
    }

    fn netdev_receive(m, buf: *mut c_void, count: *mut size_t, usecs: *mut c_longlong) -> c_int {
        // SAFETY: packetdrill passes its buffer, the size of that, and where the time goes.
        let (room, count, usecs) = unsafe {
            let (Some(count), Some(usecs)) = (count.as_mut(), usecs.as_mut()) else { return -1 };
            let Ok(room) = bytes_mut(buf, *count) else { return -1 };
            (room, count, usecs)
        };
        let Some(sent) = m.netdev_receive() else {
            // Answered with nothing packetdrill gives up; answered with an error it asks for ever.
            *count = 0;
            return 0;
        };
        let n = sent.bytes.len().min(room.len());
        room[..n].copy_from_slice(&sent.bytes[..n]);
        *count = n;
        *usecs = m.arch.real_usecs(sent.at) as c_longlong;
        0
    }

    fn epoll_create(m, size: c_int) -> c_int {
        int(if size > 0 { m.epolls.create() } else { Err(Errno::EINVAL) })
    }

    fn epoll_ctl(m, epfd: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int {
        // SAFETY: as the manual page says.
        let event = unsafe { event.as_ref() }.map_or((0, 0), |e| (e.events, e.u64));
        unit(m.epolls.ctl(&m.fds, epfd, op, inner(fd), event))
    }

    fn epoll_wait(m, epfd: c_int, events: *mut epoll_event, max: c_int, timeout: c_int) -> c_int {
        if events.is_null() {
            return errno(Errno::EFAULT);
        }
        let max = usize::try_from(max).unwrap_or(0);
        int(m.epolls.wait(&m.fds, epfd, max, timeout).map(|ready| {
            for (i, &(events_now, data)) in ready.iter().enumerate() {
                // SAFETY: there is room for `max`, and no more are ready.
                unsafe { events.add(i).write(epoll_event { events: events_now, u64: data }) };
            }
            ready.len() as i32
        }))
    }

    /// A pipe of the host: only [`splice`] puts anything in.
    fn pipe(m, fds: *mut c_int) -> c_int {
        let _ = m;
        // SAFETY: as the manual page says.
        unsafe { libc::pipe2(fds, libc::O_NONBLOCK) }
    }

    /// Between a socket of ours and a pipe of the host. Offsets are for files.
    fn splice(m, from: c_int, _off_in: *mut c_longlong, to: c_int, _off_out: *mut c_longlong, len: size_t,
              flags: c_uint) -> ssize_t {
        let mut b = vec![0; len.min(PIPE_SIZE)];
        if from >= FD_BASE {
            let mut msg = MsgHdr::new(IovIter::dest(&mut b));
            size(m.fds.splice_read(inner(from), &mut msg).and_then(|n| {
                // SAFETY: the buffer is ours and as long as said.
                host(unsafe { libc::write(to, b.as_ptr().cast(), n) })
            }))
        } else {
            let wait = if flags & libc::SPLICE_F_NONBLOCK != 0 { libc::MSG_DONTWAIT } else { 0 };
            // SAFETY: the buffer is ours and as long as said.
            let got = host(unsafe { libc::read(from, b.as_mut_ptr().cast(), b.len()) });
            size(got.and_then(|n| m.fds.send(inner(to), &b[..n], wait)))
        }
    }
}

/// What the host's own call answered.
fn host(r: ssize_t) -> Result<usize> {
    usize::try_from(r).map_err(|_| Errno::from_io(&std::io::Error::last_os_error()))
}

/// Not a call like the others: whoever sleeps is not waited for. packetdrill's other thread does, before a call that will block.
pub unsafe extern "C" fn usleep(ud: Userdata, usecs: c_uint) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { machine(ud) }.usleep(u64::from(usecs));
    0
}

/// Not a call like the others: looking at the clock is what the clock waits for.
pub unsafe extern "C" fn gettimeofday(ud: Userdata, tv: *mut timeval, _tz: *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    let us = unsafe { machine(ud) }.arch.gettimeofday();
    // SAFETY: as the manual page says.
    if let Some(tv) = unsafe { tv.as_mut() } {
        tv.tv_sec = (us / 1_000_000) as libc::time_t;
        tv.tv_usec = (us % 1_000_000) as libc::suseconds_t;
    }
    0
}

fn count(n: c_int) -> Result<usize> {
    usize::try_from(n).map_err(|_| Errno::EINVAL)
}

/// # Safety
/// `msg` as the manual page says.
unsafe fn do_recvmsg(m: &Machine, fd: c_int, msg: &mut msghdr, flags: c_int) -> Result<usize> {
    // SAFETY: the caller's promise.
    let bufs = unsafe { iovecs_mut(msg.msg_iov, msg.msg_iovlen)? };
    let parts = bufs.into_iter().filter(|b| !b.is_empty()).collect();
    let mut h = MsgHdr::new(IovIter::Dest(parts));
    let n = m.fds.recvmsg(fd, &mut h, flags)?;
    // SAFETY: the caller's promise.
    unsafe { put_sockaddr(h.name.as_ref(), msg.msg_name.cast(), &mut msg.msg_namelen)? };
    // SAFETY: the caller's promise.
    let room = unsafe { bytes_mut(msg.msg_control, msg.msg_controllen) }.unwrap_or_default();
    let (used, cut) = put_cmsgs(&h.control, room);
    msg.msg_controllen = used;
    msg.msg_flags = h.flags | if cut { MSG_CTRUNC } else { 0 };
    Ok(n)
}

/// # Safety
/// `msg` as the manual page says.
unsafe fn do_sendmsg(m: &Machine, fd: c_int, msg: &msghdr, flags: c_int) -> Result<usize> {
    // SAFETY: the caller's promise.
    let (bufs, control) =
        unsafe { (iovecs(msg.msg_iov, msg.msg_iovlen)?, bytes(msg.msg_control, msg.msg_controllen)?) };
    let parts = bufs.into_iter().filter(|b| !b.is_empty()).collect();
    let mut h = MsgHdr::new(IovIter::Source(parts));
    if !msg.msg_name.is_null() && msg.msg_namelen > 0 {
        // SAFETY: the caller's promise.
        h.name = Some(unsafe { sockaddr(msg.msg_name.cast(), msg.msg_namelen)? });
    }
    h.control = cmsgs(control)?;
    m.fds.sendmsg(fd, &mut h, flags)
}

/// What the `short` of a `pollfd` holds as the stack's mask.
fn poll_mask(events: i16) -> PollMask {
    PollMask::from_bits_truncate(u32::from(events as u16))
}
