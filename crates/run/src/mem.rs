//! The memory of a program that stands in a system call.
//!
//! Interface: [`read`], [`write`], and [`read_value`]/[`write_value`] for numbers.
//! Linux counterpart: `copy_from_user`, `copy_to_user`; here `process_vm_readv(2)` and `process_vm_writev(2)`.
//! Locks and context: the supervisor's thread.
//!
//! Thread numbers are used again. Before anything is done with what was read, the call's id must be checked: if it still
//! waits, the bytes were its thread's.

use std::mem::MaybeUninit;
use uapi::{Errno, Result};

/// Most ranges of one transfer (`UIO_MAXIOV`).
pub const UIO_MAXIOV: usize = 1024;

/// A range of the program's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub addr: u64,
    pub len: usize,
}

impl Range {
    fn iovec(self) -> libc::iovec {
        libc::iovec { iov_base: self.addr as *mut _, iov_len: self.len }
    }
}

/// Fills `buf` from `from`; how much could be read before the first bad address. `EFAULT` for nothing.
pub fn read_ranges(tid: u32, from: &[Range], buf: &mut [u8]) -> Result<usize> {
    if buf.is_empty() {
        return Ok(0);
    }
    let local = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    let remote: Vec<_> = from.iter().map(|r| r.iovec()).collect();
    // SAFETY: `local` is writable for its length; remote addresses are the host's to check.
    let n = unsafe { libc::process_vm_readv(tid as i32, &local, 1, remote.as_ptr(), remote.len() as u64, 0) };
    result(n)
}

/// Puts `bufs` one after the other into `to`.
pub fn write_ranges(tid: u32, to: &[Range], bufs: &[&[u8]]) -> Result<usize> {
    let mut done = 0;
    let mut ranges = to.iter().copied();
    let mut room = ranges.next();
    let mut remote = Vec::with_capacity(to.len());
    let mut local = Vec::with_capacity(bufs.len());
    // Cut the room to what there is: the call wants both sides to be of one length to tell short writes from bad addresses.
    let mut left: usize = bufs.iter().map(|b| b.len()).sum();
    while let Some(r) = room.filter(|_| left > 0) {
        let len = r.len.min(left);
        if len > 0 {
            remote.push(Range { addr: r.addr, len }.iovec());
        }
        left -= len;
        done += len;
        room = ranges.next();
    }
    let mut take = done;
    for b in bufs {
        let len = b.len().min(take);
        if len > 0 {
            local.push(libc::iovec { iov_base: b.as_ptr().cast_mut().cast(), iov_len: len });
        }
        take -= len;
    }
    if done == 0 {
        return Ok(0);
    }
    // SAFETY: local ranges are readable for their lengths; remote addresses are the host's to check.
    let n = unsafe {
        libc::process_vm_writev(
            tid as i32,
            local.as_ptr(),
            local.len().min(UIO_MAXIOV) as u64,
            remote.as_ptr(),
            remote.len().min(UIO_MAXIOV) as u64,
            0,
        )
    };
    result(n)
}

fn result(n: isize) -> Result<usize> {
    usize::try_from(n).map_err(|_| Errno::from_io(&std::io::Error::last_os_error()))
}

/// All of `buf` from `addr`, or `EFAULT`.
pub fn read(tid: u32, addr: u64, buf: &mut [u8]) -> Result<()> {
    match read_ranges(tid, &[Range { addr, len: buf.len() }], buf)? {
        n if n == buf.len() => Ok(()),
        _ => Err(Errno::EFAULT),
    }
}

/// All of `buf` to `addr`, or `EFAULT`.
pub fn write(tid: u32, addr: u64, buf: &[u8]) -> Result<()> {
    match write_ranges(tid, &[Range { addr, len: buf.len() }], &[buf])? {
        n if n == buf.len() => Ok(()),
        _ => Err(Errno::EFAULT),
    }
}

/// Plain numbers and structures of numbers, for which any bytes are a value.
///
/// # Safety
/// Every bit pattern must be a valid value, and there must be no padding.
pub unsafe trait Plain: Copy {}
// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: an integer.
unsafe impl Plain for i32 {}
// SAFETY: an integer.
unsafe impl Plain for u64 {}
// SAFETY: integers, without padding.
unsafe impl<const N: usize> Plain for [u64; N] {}

pub fn read_value<T: Plain>(tid: u32, addr: u64) -> Result<T> {
    let mut v = MaybeUninit::<T>::zeroed();
    // SAFETY: the bytes of `v`, all set.
    let bytes = unsafe { std::slice::from_raw_parts_mut(v.as_mut_ptr().cast::<u8>(), size_of::<T>()) };
    read(tid, addr, bytes)?;
    // SAFETY: zeroed, then filled; any bytes are a `T`.
    Ok(unsafe { v.assume_init() })
}

pub fn write_value<T: Plain>(tid: u32, addr: u64, v: T) -> Result<()> {
    // SAFETY: the bytes of `v`, which has no padding.
    write(tid, addr, unsafe { std::slice::from_raw_parts((&raw const v).cast::<u8>(), size_of::<T>()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_ranges_of_a_process() {
        let me = std::process::id();
        let (mut a, mut b) = ([0u8; 3], [0u8; 5]);
        let to =
            [Range { addr: a.as_mut_ptr() as u64, len: a.len() }, Range { addr: b.as_mut_ptr() as u64, len: b.len() }];
        assert_eq!(write_ranges(me, &to, &[b"ab", b"cdef"]), Ok(6));
        assert_eq!((&a, &b), (b"abc", b"def\0\0"));
        let mut buf = [0u8; 8];
        assert_eq!(read_ranges(me, &to, &mut buf), Ok(8));
        assert_eq!(&buf, b"abcdef\0\0");
        // Longer than the room: cut.
        assert_eq!(write_ranges(me, &to[..1], &[b"vwxyz"]), Ok(3));
        assert_eq!(&a, b"vwx");
    }

    #[test]
    fn a_bad_address_is_efault() {
        let me = std::process::id();
        assert_eq!(read_value::<u32>(me, 8), Err(Errno::EFAULT));
        assert_eq!(write_value(me, 8, 1u32), Err(Errno::EFAULT));
    }
}
