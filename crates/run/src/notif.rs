//! The descriptor through which the host tells of a program's system calls, and through which they are answered.
//!
//! Interface: [`Notif`] (`recv`, `answer`, `inject`, `is_valid`), [`Call`].
//! Linux counterpart: `SECCOMP_IOCTL_NOTIF_*` of `include/uapi/linux/seccomp.h`.
//! Locks and context: the supervisor's thread.
//!
//! The thread that made the call stands still until it is answered, or until a signal takes it away. A call that is gone
//! shows itself only when something is done to it: with `ENOENT`.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use uapi::{Errno, Result};

const SECCOMP_USER_NOTIF_FLAG_CONTINUE: u32 = 1;
const SECCOMP_ADDFD_FLAG_SETFD: u32 = 1;
const SECCOMP_ADDFD_FLAG_SEND: u32 = 2;
const SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP: u64 = 1;

/// A system call that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub id: u64,
    /// The thread, as the supervisor's PID namespace numbers it.
    pub tid: u32,
    pub nr: i64,
    /// Where the program called from.
    pub ip: u64,
    pub args: [u64; 6],
}

impl Call {
    /// An argument that is an `int`.
    pub fn int(&self, i: usize) -> i32 {
        self.args.get(i).map_or(0, |&a| a as i32)
    }

    /// The descriptor that all calls but `socket` have first.
    pub fn fd(&self) -> i32 {
        self.int(0)
    }
}

/// The listener of a filter.
pub struct Notif(OwnedFd);

impl Notif {
    pub fn new(fd: OwnedFd) -> Notif {
        let n = Notif(fd);
        // Since Linux 6.6: the caller is resumed on this CPU as soon as we sleep. Without it a call takes ten times as long.
        // SAFETY: the request takes its argument by value.
        unsafe {
            libc::ioctl(n.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
        };
        n
    }

    /// The next call; `ENOENT` when it has been taken away meanwhile. Call it only when the descriptor is readable.
    pub fn recv(&self) -> Result<Call> {
        // SAFETY: all-zero is a valid `seccomp_notif`, and what the host asks for.
        let mut n: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: room for a `seccomp_notif`.
        if unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &mut n) } < 0 {
            return Err(last());
        }
        let d = n.data;
        Ok(Call { id: n.id, tid: n.pid, nr: d.nr.into(), ip: d.instruction_pointer, args: d.args })
    }

    /// Ends the call with a value, or an error.
    pub fn answer(&self, id: u64, r: Result<i64>) -> Result<()> {
        let (val, error) = match r {
            Ok(v) => (v, 0),
            Err(e) => (0, -e.0),
        };
        self.send(libc::seccomp_notif_resp { id, val, error, flags: 0 })
    }

    /// Lets the host do the call as if there were no filter.
    pub fn pass(&self, id: u64) -> Result<()> {
        self.send(libc::seccomp_notif_resp { id, val: 0, error: 0, flags: SECCOMP_USER_NOTIF_FLAG_CONTINUE })
    }

    fn send(&self, mut resp: libc::seccomp_notif_resp) -> Result<()> {
        // SAFETY: a valid `seccomp_notif_resp`.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &mut resp) } {
            0 => Ok(()),
            _ => Err(last()),
        }
    }

    /// Gives the program a duplicate of `fd` and ends the call with its number there, in one step.
    pub fn inject(&self, id: u64, fd: BorrowedFd<'_>, cloexec: bool) -> Result<i32> {
        let newfd_flags = if cloexec { libc::O_CLOEXEC as u32 } else { 0 };
        self.addfd(libc::seccomp_notif_addfd {
            id,
            flags: SECCOMP_ADDFD_FLAG_SEND,
            srcfd: fd.as_raw_fd() as u32,
            newfd: 0,
            newfd_flags,
        })
    }

    /// Puts a duplicate of `fd` in place of the program's descriptor `at`; the call stays open.
    pub fn replace(&self, id: u64, fd: BorrowedFd<'_>, at: i32, cloexec: bool) -> Result<i32> {
        let newfd_flags = if cloexec { libc::O_CLOEXEC as u32 } else { 0 };
        self.addfd(libc::seccomp_notif_addfd {
            id,
            flags: SECCOMP_ADDFD_FLAG_SETFD,
            srcfd: fd.as_raw_fd() as u32,
            newfd: at as u32,
            newfd_flags,
        })
    }

    fn addfd(&self, mut a: libc::seccomp_notif_addfd) -> Result<i32> {
        // SAFETY: a valid `seccomp_notif_addfd`.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, &mut a) } {
            n if n >= 0 => Ok(n),
            // A signal took the call away while its descriptor was on the way there.
            _ => Err(match last() {
                Errno(libc::ESRCH) => Errno::ENOENT,
                e => e,
            }),
        }
    }

    /// Whether the call still waits. What was read from the program's memory before is then of this very call.
    pub fn is_valid(&self, id: u64) -> bool {
        // SAFETY: the request reads a `u64`.
        unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &id) == 0 }
    }
}

impl AsFd for Notif {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn last() -> Errno {
    Errno::from_io(&std::io::Error::last_os_error())
}
