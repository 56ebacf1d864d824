//! What packetdrill calls of the C library although the descriptor is ours, when this library is preloaded (`LD_PRELOAD`).
//!
//! Interface: the symbols `getsockopt`, `close`, `sendfile`; `open` and its kin, for the commands of scripts.
//! Linux counterpart: the C library's wrappers.
//! Locks and context: any thread.
//!
//! Its `%{ }%` blocks read `TCP_INFO` by `getsockopt`, its clean-up closes what a script has left open, and `sendfile` has no
//! slot in the table. Other descriptors go straight to the kernel.

use crate::calls::{self, FD_BASE};
use crate::control;
use crate::memory::Userdata;
use libc::{c_int, c_void, mode_t, off_t, size_t, socklen_t, ssize_t};
use std::ffi::{CStr, c_char};
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicPtr, Ordering::*};

static MACHINE: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// Whose descriptors they are from now on; null: nobody's.
pub fn set_machine(ud: Userdata) {
    MACHINE.store(ud, Release);
}

fn of(fd: c_int) -> Option<Userdata> {
    let ud = MACHINE.load(Acquire);
    (fd >= FD_BASE && !ud.is_null()).then_some(ud)
}

/// # Safety
/// As the manual page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    val: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    // SAFETY: the caller's promise, passed on.
    unsafe {
        match of(fd) {
            Some(ud) => calls::getsockopt(ud, fd, level, name, val, len),
            None => libc::syscall(libc::SYS_getsockopt, fd, level, name, val, len) as c_int,
        }
    }
}

/// # Safety
/// As the manual page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn close(fd: c_int) -> c_int {
    // SAFETY: the caller's promise, passed on.
    unsafe {
        match of(fd) {
            Some(ud) => calls::close(ud, fd),
            None => libc::syscall(libc::SYS_close, fd) as c_int,
        }
    }
}

/// # Safety
/// As the manual page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendfile(to: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t {
    let Some(ud) = of(to) else {
        // SAFETY: the caller's promise, passed on.
        return unsafe { libc::syscall(libc::SYS_sendfile, to, from, offset, count) as ssize_t };
    };
    let mut b = vec![0u8; count.min(1 << 24)];
    // SAFETY: the buffer is ours and as long as said; the offset is null or valid.
    unsafe {
        let n = match offset.as_ref() {
            Some(at) => libc::pread(from, b.as_mut_ptr().cast(), b.len(), *at),
            None => libc::read(from, b.as_mut_ptr().cast(), b.len()),
        };
        let Ok(n) = usize::try_from(n) else { return -1 };
        let sent = calls::write(ud, to, b.as_ptr().cast(), n);
        if let Some(at) = offset.as_mut().filter(|_| sent > 0) {
            *at += sent as off_t;
        }
        sent
    }
}

/// A file of `/proc/net`, when a command of a script opens it: the stack's.
///
/// # Safety
/// `path` is a C string.
unsafe fn proc_net(path: *const c_char) -> Option<c_int> {
    // SAFETY: the caller's promise.
    let path = unsafe { CStr::from_ptr(path) }.to_str().ok().filter(|p| p.starts_with("/proc/net/"))?;
    if !MACHINE.load(Acquire).is_null() {
        return None;
    }
    let (0, text) = control::ask(&std::env::var(control::CONTROL).ok()?, ["cat", path]).ok()? else { return None };
    // SAFETY: a valid name; the descriptor that comes back is nobody else's.
    let mut file = unsafe {
        let fd = libc::memfd_create(c"proc".as_ptr(), 0);
        File::from(OwnedFd::from_raw_fd((fd >= 0).then_some(fd)?))
    };
    file.write_all(text.as_bytes()).ok()?;
    file.rewind().ok()?;
    Some(file.into_raw_fd())
}

/// # Safety
/// As the manual page of `openat` says; without `O_CREAT` the mode is not looked at.
unsafe fn do_open(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller's promise, passed on.
    unsafe {
        match proc_net(path) {
            Some(fd) => fd,
            None => libc::syscall(libc::SYS_openat, dir, path, flags, mode) as c_int,
        }
    }
}

macro_rules! opens {
    ($($open:ident, $openat:ident;)*) => {
        $(
            /// # Safety
            /// As the manual page says.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
                // SAFETY: the caller's promise, passed on.
                unsafe { do_open(libc::AT_FDCWD, path, flags, mode) }
            }

            /// # Safety
            /// As the manual page says.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $openat(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
                // SAFETY: the caller's promise, passed on.
                unsafe { do_open(dir, path, flags, mode) }
            }
        )*
    };
}

opens! {
    open, openat;
    open64, openat64;
    // For callers whose compiler has checked that no mode is needed.
    __open_2, __openat_2;
    __open64_2, __openat64_2;
}
