//! The caller's memory, as C passes it.
//!
//! Interface: [`Userdata`], [`bytes`], [`bytes_mut`], [`iovecs`], [`iovecs_mut`], [`sockaddr`], [`put_sockaddr`], [`cmsgs`], [`put_cmsgs`].
//! Linux counterpart: `lib/usercopy.c`, `net/core/scm.c` (`put_cmsg`).
//! Locks and context: process context. Null pointers are answered with `EFAULT`; other pointers are taken to be what C says.

use net::core::iov_iter::CMsg;
use std::ffi::c_void;
use uapi::{Errno, Result, SockAddr};

/// What packetdrill gives back with each call: a [`Machine`](crate::Machine).
pub type Userdata = *mut c_void;

/// `UIO_MAXIOV`.
const UIO_MAXIOV: usize = 1024;

/// # Safety
/// `p` is null or points to `n` readable bytes for as long as the answer is used.
pub unsafe fn bytes<'a>(p: *const c_void, n: usize) -> Result<&'a [u8]> {
    match (p.is_null(), n) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Errno::EFAULT),
        // SAFETY: the caller's promise.
        _ => Ok(unsafe { std::slice::from_raw_parts(p.cast(), n) }),
    }
}

/// # Safety
/// `p` is null or points to `n` writable bytes, nobody else's, for as long as the answer is used.
pub unsafe fn bytes_mut<'a>(p: *mut c_void, n: usize) -> Result<&'a mut [u8]> {
    match (p.is_null(), n) {
        (_, 0) => Ok(&mut []),
        (true, _) => Err(Errno::EFAULT),
        // SAFETY: the caller's promise.
        _ => Ok(unsafe { std::slice::from_raw_parts_mut(p.cast(), n) }),
    }
}

/// # Safety
/// `iov` is null or points to `n` vectors.
unsafe fn vectors<'a>(iov: *const libc::iovec, n: usize) -> Result<&'a [libc::iovec]> {
    match (iov.is_null(), n) {
        (_, 0) => Ok(&[]),
        _ if n > UIO_MAXIOV => Err(Errno::EMSGSIZE),
        (true, _) => Err(Errno::EFAULT),
        // SAFETY: the caller's promise.
        _ => Ok(unsafe { std::slice::from_raw_parts(iov, n) }),
    }
}

/// # Safety
/// As [`bytes`], for each of the `n` vectors.
pub unsafe fn iovecs<'a>(iov: *const libc::iovec, n: usize) -> Result<Vec<&'a [u8]>> {
    // SAFETY: the caller's promise.
    unsafe { vectors(iov, n)?.iter().map(|v| bytes(v.iov_base, v.iov_len)).collect() }
}

/// # Safety
/// As [`bytes_mut`], for each of the `n` vectors.
pub unsafe fn iovecs_mut<'a>(iov: *const libc::iovec, n: usize) -> Result<Vec<&'a mut [u8]>> {
    // SAFETY: the caller's promise.
    unsafe { vectors(iov, n)?.iter().map(|v| bytes_mut(v.iov_base, v.iov_len)).collect() }
}

/// # Safety
/// `p` is null or points to `len` readable bytes.
pub unsafe fn sockaddr(p: *const libc::sockaddr, len: libc::socklen_t) -> Result<SockAddr> {
    // SAFETY: the caller's promise.
    SockAddr::from_bytes(unsafe { bytes(p.cast(), len as usize)? })
}

/// Stores an address as the kernel does: as much as there is room for, and how long it is (`move_addr_to_user`).
///
/// # Safety
/// `len` is null or valid; `p` is null or points to `*len` writable bytes.
pub unsafe fn put_sockaddr(a: Option<&SockAddr>, p: *mut libc::sockaddr, len: *mut libc::socklen_t) -> Result<()> {
    if p.is_null() || len.is_null() {
        return Ok(());
    }
    // SAFETY: the caller's promise.
    let (room, len) = unsafe { (bytes_mut(p.cast(), *len as usize)?, &mut *len) };
    let Some(a) = a else {
        *len = 0;
        return Ok(());
    };
    let (b, n) = a.to_bytes();
    let fits = n.min(room.len());
    room[..fits].copy_from_slice(&b[..fits]);
    *len = n as libc::socklen_t;
    Ok(())
}

const HDR: usize = size_of::<libc::cmsghdr>();
const ALIGN: usize = size_of::<usize>();

fn word(b: &[u8], at: usize) -> i32 {
    b.get(at..at + 4).map_or(0, |w| i32::from_ne_bytes([w[0], w[1], w[2], w[3]]))
}

/// The control messages in `msg_control`; `EINVAL` for one that does not fit.
pub fn cmsgs(b: &[u8]) -> Result<Vec<CMsg>> {
    let (mut at, mut all) = (0, Vec::new());
    while at + HDR <= b.len() {
        let mut len = [0; ALIGN];
        len.copy_from_slice(&b[at..at + ALIGN]);
        let len = usize::from_ne_bytes(len);
        if len < HDR || len > b.len() - at {
            return Err(Errno::EINVAL);
        }
        let (level, kind) = (word(b, at + ALIGN), word(b, at + ALIGN + 4));
        all.push(CMsg { level, kind, data: b[at + HDR..at + len].to_vec() });
        at += len.next_multiple_of(ALIGN);
    }
    Ok(all)
}

/// Stores control messages; the bytes used, and whether some had no room (`MSG_CTRUNC`).
pub fn put_cmsgs(all: &[CMsg], room: &mut [u8]) -> (usize, bool) {
    let mut at = 0;
    for c in all {
        let len = HDR + c.data.len();
        if room.len().saturating_sub(at) < len {
            return (at, true);
        }
        room[at..at + ALIGN].copy_from_slice(&len.to_ne_bytes());
        room[at + ALIGN..at + ALIGN + 4].copy_from_slice(&c.level.to_ne_bytes());
        room[at + ALIGN + 4..at + HDR].copy_from_slice(&c.kind.to_ne_bytes());
        room[at + HDR..at + len].copy_from_slice(&c.data);
        at = (at + len.next_multiple_of(ALIGN)).min(room.len());
    }
    (at, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_messages_go_out_and_in() {
        let all = [CMsg { level: 1, kind: 2, data: vec![1, 2, 3] }, CMsg { level: 6, kind: 33, data: vec![9; 8] }];
        let mut room = [0; 100];
        let (n, cut) = put_cmsgs(&all, &mut room);
        assert_eq!((n, cut), (48, false));
        let back = cmsgs(&room[..n]).unwrap();
        assert_eq!(back.len(), 2);
        assert_eq!((back[1].level, back[1].kind, &back[1].data[..]), (6, 33, &[9; 8][..]));
        assert_eq!(put_cmsgs(&all, &mut room[..30]), (24, true));
        assert!(cmsgs(&[255; 16]).is_err());
    }
}
