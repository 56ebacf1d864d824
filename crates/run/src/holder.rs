//! Reaching into programs' descriptor tables.
//!
//! Interface: [`Holders::dup`] (by thread and number), [`find`] (by inode, through the descendants), [`Witness`].
//! Linux counterpart: `pidfd_getfd(2)`; `/proc/PID/fd`; `/proc/PID/fdinfo` of an epoll descriptor.
//! Locks and context: the supervisor's thread.
//!
//! A duplicate must not be kept: while it lives, the other end sees no hang-up when the program closes.

use crate::sys;
use crate::wake::Id;
use std::collections::HashMap;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use uapi::{Errno, Result};

/// Threads whose pidfd is kept.
const MAX_CACHED: usize = 256;

/// Pidfds by thread. One of a thread that has ended answers `ESRCH` for ever, also when its number is used again.
#[derive(Default)]
pub struct Holders(HashMap<u32, OwnedFd>);

impl Holders {
    /// A duplicate of descriptor `fd` of thread `tid`: `EBADF`, `ESRCH`, or `EPERM` for a program that guards itself.
    pub fn dup(&mut self, tid: u32, fd: i32) -> Result<OwnedFd> {
        if let Some(p) = self.0.get(&tid) {
            match sys::pidfd_getfd(p.as_fd(), fd) {
                Err(Errno(libc::ESRCH)) => self.0.remove(&tid),
                r => return r,
            };
        }
        if self.0.len() >= MAX_CACHED {
            self.0.clear();
        }
        let p = sys::pidfd_open(tid)?;
        let r = sys::pidfd_getfd(p.as_fd(), fd);
        self.0.insert(tid, p);
        r
    }

    /// Whether the descriptor is closed on `execve`.
    pub fn cloexec(&self, tid: u32, fd: i32) -> bool {
        let info = std::fs::read_to_string(format!("/proc/{tid}/fdinfo/{fd}")).unwrap_or_default();
        let flags = info.lines().find_map(|l| l.strip_prefix("flags:")).map(str::trim).unwrap_or_default();
        i32::from_str_radix(flags, 8).is_ok_and(|f| f & libc::O_CLOEXEC != 0)
    }

    /// A duplicate of the descriptor, if it is the socket with that inode.
    pub fn dup_socket(&mut self, tid: u32, fd: i32, ino: u64) -> Option<OwnedFd> {
        self.dup(tid, fd).ok().filter(|d| sys::socket_inode(d.as_fd()) == Some(ino))
    }
}

/// Looks through our descendants for one that holds the socket: (process, descriptor).
pub fn find(ino: u64) -> Option<(u32, i32)> {
    let target = format!("socket:[{ino}]");
    descendants().into_iter().find_map(|pid| {
        std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten().find_map(|e| {
            let link = std::fs::read_link(e.path()).ok()?;
            let fd = e.file_name().to_str()?.parse().ok()?;
            (link.as_os_str() == target.as_str()).then_some((pid, fd))
        })
    })
}

/// All processes below this one, nearest first.
pub fn descendants() -> Vec<u32> {
    let mut parents: HashMap<u32, Vec<u32>> = HashMap::new();
    for e in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = e.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        if let Some(ppid) = parent(pid) {
            parents.entry(ppid).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut next = parents.remove(&std::process::id()).unwrap_or_default();
    while let Some(pid) = next.pop() {
        found.push(pid);
        next.extend(parents.remove(&pid).unwrap_or_default());
    }
    found
}

fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let mut after_name = stat.rsplit_once(')')?.1.split_whitespace();
    let state = after_name.next()?;
    if state == "Z" {
        return None;
    }
    after_name.next()?.parse().ok()
}

/// Knows whether a program still has a socket whose other end cannot tell, without holding it open: an epoll instance
/// lists the files it watches, and drops one when its last descriptor is closed.
pub struct Witness(OwnedFd);

impl Witness {
    pub fn new() -> Result<Witness> {
        sys::epoll_create().map(Witness)
    }

    /// From now on, [`alive`](Self::alive) tells about the open file behind `dup`.
    pub fn watch(&self, dup: BorrowedFd<'_>, id: Id) {
        let _ = sys::epoll_ctl(self.0.as_fd(), libc::EPOLL_CTL_ADD, dup, libc::EPOLLONESHOT as u32, id.token());
    }

    /// The watched sockets that are still open somewhere, sorted.
    pub fn alive(&self) -> Vec<Id> {
        let mut text = String::new();
        let path = format!("/proc/self/fdinfo/{}", self.0.as_raw_fd());
        let _ = std::fs::File::open(path).and_then(|mut f| f.read_to_string(&mut text));
        let mut ids: Vec<Id> = text.lines().filter_map(watched).collect();
        ids.sort_unstable();
        ids
    }
}

/// The data of a line such as `tfd: 5 events: 40000000 data: 100000002 pos:0 ino:1 sdev:8`.
fn watched(line: &str) -> Option<Id> {
    let data = line.strip_prefix("tfd:")?.split_once("data:")?.1.split_whitespace().next()?;
    u64::from_str_radix(data, 16).ok().map(Id::from_token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_witness_sees_the_last_close_and_does_not_hold_the_file() {
        let (ours, theirs) = sys::socketpair(libc::SOCK_STREAM).unwrap();
        let w = Witness::new().unwrap();
        let id = Id { slot: 5, generation: 2 };
        let dup = theirs.try_clone().unwrap();
        w.watch(dup.as_fd(), id);
        drop(dup);
        assert_eq!(w.alive(), [id]);
        assert_eq!(sys::poll_now(ours.as_fd(), 0), 0);
        drop(theirs);
        assert_eq!(w.alive(), []);
        assert_ne!(sys::poll_now(ours.as_fd(), 0) & libc::POLLHUP, 0);
    }

    #[test]
    fn a_duplicate_is_the_same_socket() {
        let (_ours, theirs) = sys::socketpair(libc::SOCK_STREAM).unwrap();
        let ino = sys::socket_inode(theirs.as_fd()).unwrap();
        let mut h = Holders::default();
        let me = std::process::id();
        assert!(h.dup_socket(me, theirs.as_raw_fd(), ino).is_some());
        assert!(h.dup_socket(me, theirs.as_raw_fd(), ino + 1).is_none());
        assert_eq!(h.dup(me, 987_654).err(), Some(Errno::EBADF));
    }
}
