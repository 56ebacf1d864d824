//! What calls read from and write to the program's memory.
//!
//! Interface: [`sockaddr`], [`put_sockaddr`], [`IoVec`], [`UserMsg`].
//! Linux counterpart: `move_addr_to_kernel`, `move_addr_to_user`, `import_iovec`, `copy_msghdr_from_user`.
//! Locks and context: the supervisor's thread. The caller checks the call's id before it acts on what was read.

use crate::mem::{self, Range, UIO_MAXIOV};
use uapi::{Errno, Result, SockAddr};

/// `sizeof(struct sockaddr_storage)`.
const SOCKADDR_MAX: usize = 128;
/// Most bytes of control messages taken or given (`optmem_max` is of this size).
pub const CONTROL_MAX: usize = 128 * 1024;

/// `EINVAL` for an impossible length, `EFAULT`, or what the address itself is worth.
pub fn sockaddr(tid: u32, addr: u64, len: i32) -> Result<SockAddr> {
    let len = usize::try_from(len).ok().filter(|&l| l <= SOCKADDR_MAX).ok_or(Errno::EINVAL)?;
    let mut buf = [0; SOCKADDR_MAX];
    mem::read(tid, addr, &mut buf[..len])?;
    SockAddr::from_bytes(&buf[..len])
}

/// Writes an address where a value-result length says how much room there is; the length becomes the address's own.
pub fn put_sockaddr(tid: u32, addr: u64, len_at: u64, a: Option<&SockAddr>) -> Result<()> {
    let room: i32 = mem::read_value(tid, len_at)?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    let (bytes, len) = a.map_or(([0; 28], 0), |a| a.to_bytes());
    mem::write(tid, addr, &bytes[..len.min(room)])?;
    mem::write_value(tid, len_at, len as u32)
}

/// The ranges of a `struct iovec` array.
pub fn iovec(tid: u32, at: u64, n: u64) -> Result<Vec<Range>> {
    if n > UIO_MAXIOV as u64 {
        return Err(Errno::EMSGSIZE);
    }
    (0..n)
        .map(|i| {
            let [addr, len] = mem::read_value::<[u64; 2]>(tid, at + 16 * i)?;
            let len = usize::try_from(len).ok().filter(|&l| l <= isize::MAX as usize).ok_or(Errno::EINVAL)?;
            Ok(Range { addr, len })
        })
        .collect()
}

/// A `struct msghdr` of the program.
pub struct UserMsg {
    pub at: u64,
    pub name: u64,
    pub namelen: i32,
    pub iov: Vec<Range>,
    pub control: u64,
    pub controllen: usize,
}

impl UserMsg {
    /// `sizeof(struct msghdr)`, and of `struct mmsghdr` with its length behind.
    pub const SIZE: u64 = 56;
    pub const MMSG_SIZE: u64 = 64;

    pub fn read(tid: u32, at: u64) -> Result<UserMsg> {
        let w: [u64; 7] = mem::read_value(tid, at)?;
        Ok(UserMsg {
            at,
            name: w[0],
            namelen: w[1] as i32,
            iov: iovec(tid, w[2], w[3])?,
            control: w[4],
            controllen: usize::try_from(w[5]).map_err(|_| Errno::EINVAL)?,
        })
    }

    #[cfg(test)]
    pub fn none() -> UserMsg {
        UserMsg { at: 0, name: 0, namelen: 0, iov: Vec::new(), control: 0, controllen: 0 }
    }

    /// What a receive writes back: the lengths of name and control, and the flags.
    pub fn finish(&self, tid: u32, namelen: usize, controllen: usize, flags: i32) -> Result<()> {
        mem::write_value(tid, self.at + 8, namelen as u32)?;
        mem::write_value(tid, self.at + 40, controllen as u64)?;
        mem::write_value(tid, self.at + 48, flags)
    }
}

/// The room of all ranges together.
pub fn total(iov: &[Range]) -> usize {
    iov.iter().fold(0, |n, r| n.saturating_add(r.len))
}
