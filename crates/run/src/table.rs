//! The sockets of the supervised programs: what stands in for which.
//!
//! Interface: [`Table`], [`Entry`], [`Stream`], [`Message`].
//! Linux counterpart: the file table; here a descriptor is found by the inode of its stand-in, which `dup`, `fork`, `exec`
//! and passing over a UNIX socket do not change.
//! Locks and context: the supervisor's thread.

use crate::sys;
use crate::wake::{Id, Wakeups};
use kernel::{Frag, WaitQueueEntry};
use net::socket::Socket;
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use uapi::{Result, SockAddr};

/// Where a stream socket is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Neither connected nor listening.
    Fresh,
    /// A connection is under way. With `prefill`, so many bytes lie in our end to keep the program's from being writable,
    /// and an error is the program's to find; without, a blocking call waits.
    Connecting { prefill: usize },
    /// Carries data.
    Data,
    /// Accepts connections.
    Listener,
    /// Has ended with an error or a failed connection: our end is closed.
    Dead,
}

/// A byte-stream socket: TCP.
pub struct Stream {
    pub role: Role,
    /// From the program, not yet taken by the stack.
    pub tx: VecDeque<Frag>,
    /// From the stack, not yet taken by the program.
    pub rx: VecDeque<Frag>,
    /// The program's last read filled the buffer: it sends in bulk.
    pub bulk: bool,
    /// The program has called `shutdown(SHUT_WR)`, so a hang-up may be that and not a close.
    pub shut_by_call: bool,
    /// Nothing more comes from the program.
    pub eof: bool,
    /// The program's end of data has been given to the stack.
    pub fin_sent: bool,
    /// The peer's end of data has been given to the program.
    pub peer_fin: bool,
    /// The connection has failed; the program is told when it has read what came before.
    pub failed: bool,
    /// A listener's pending connections that the program's end shows, a byte each.
    pub tokens: usize,
    /// Connections taken from the stack that no program could be given, with the program's end.
    pub stash: VecDeque<(Id, OwnedFd)>,
}

/// What came with a datagram beside its bytes.
#[derive(Clone, Debug)]
pub struct Meta {
    pub from: Option<SockAddr>,
    pub control: Vec<net::core::iov_iter::CMsg>,
    pub flags: i32,
}

/// A socket that keeps message boundaries: UDP, ICMP, raw.
pub struct Message {
    /// From the program, not yet taken by the stack.
    pub tx: Option<Frag>,
    /// From the stack, not yet in the program's end.
    pub rx: Option<(VecDeque<Frag>, Meta)>,
    /// What belongs to the one datagram that lies in the program's end.
    pub in_flight: Option<Meta>,
    /// All datagrams come from one peer, so any number may lie in the program's end.
    pub connected: bool,
}

pub enum Flow {
    Stream(Stream),
    Message(Message),
}

/// A socket.
pub struct Entry {
    pub id: Id,
    /// Of the program's end.
    pub ino: u64,
    pub sock: Arc<Socket>,
    /// Our end; `None` when it has been closed to tell the program of an error.
    pub ours: Option<OwnedFd>,
    /// Who was last seen to hold the program's end: thread and descriptor.
    pub holder: (u32, i32),
    pub flow: Flow,
    /// The program has closed it: what is left is sent, then the socket is released.
    pub closing: bool,
    /// There was more to read from the program than one turn takes.
    pub more: bool,
    /// Our end has no room: its epoll entry asks for `EPOLLOUT`.
    pub want_out: bool,
    /// For `SO_ERROR`: an error that the stack has told us.
    pub err: i32,
    /// On the list of [`Wakeups`].
    pub queued: Arc<AtomicBool>,
    watch: Arc<WaitQueueEntry>,
}

impl Entry {
    pub fn stream(&mut self) -> Option<&mut Stream> {
        match &mut self.flow {
            Flow::Stream(s) => Some(s),
            Flow::Message(_) => None,
        }
    }

    pub fn message(&mut self) -> Option<&mut Message> {
        match &mut self.flow {
            Flow::Stream(_) => None,
            Flow::Message(m) => Some(m),
        }
    }

    pub fn role(&self) -> Option<Role> {
        match &self.flow {
            Flow::Stream(s) => Some(s.role),
            Flow::Message(_) => None,
        }
    }

    pub fn is_stream(&self) -> bool {
        matches!(self.flow, Flow::Stream(_))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.sock.sk.wq.remove(&self.watch);
    }
}

impl Stream {
    fn new(role: Role) -> Stream {
        Stream {
            role,
            tx: VecDeque::new(),
            rx: VecDeque::new(),
            bulk: false,
            shut_by_call: false,
            eof: false,
            fin_sent: false,
            peer_fin: false,
            failed: false,
            tokens: 0,
            stash: VecDeque::new(),
        }
    }
}

/// All sockets, by number and by inode.
#[derive(Default)]
pub struct Table {
    slots: Vec<(u32, Option<Box<Entry>>)>,
    free: Vec<u32>,
    by_ino: HashMap<u64, Id>,
}

impl Table {
    /// A new socket with a pair of its own; answers its number and the program's end, which is to be injected and closed.
    pub fn insert(&mut self, sock: Arc<Socket>, role: Role, wakeups: &Arc<Wakeups>) -> Result<(Id, OwnedFd)> {
        let stream = sock.sk.kind == uapi::socket::SOCK_STREAM;
        let (ours, theirs) = new_pair(stream)?;
        let ino = sys::socket_inode(theirs.as_fd()).unwrap_or_default();
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            self.slots.len() as u32 - 1
        });
        let (generation, place) = &mut self.slots[slot as usize];
        *generation = generation.wrapping_add(1);
        let id = Id { slot, generation: *generation };
        let queued = Arc::new(AtomicBool::new(false));
        let watch = watch(id, queued.clone(), wakeups.clone());
        sock.sk.wq.add(&watch);
        let flow = match stream {
            true => Flow::Stream(Stream::new(role)),
            false => Flow::Message(Message { tx: None, rx: None, in_flight: None, connected: false }),
        };
        *place = Some(Box::new(Entry {
            id,
            ino,
            sock,
            ours: Some(ours),
            holder: (0, -1),
            flow,
            closing: false,
            more: false,
            want_out: false,
            err: 0,
            queued,
            watch,
        }));
        self.by_ino.insert(ino, id);
        Ok((id, theirs))
    }

    /// Gives a socket whose pair is used up a new one; answers the program's end.
    pub fn renew(&mut self, id: Id) -> Result<OwnedFd> {
        let Some(e) = self.get(id) else { return Err(uapi::Errno::EBADF) };
        let (ours, theirs) = new_pair(e.is_stream())?;
        e.ours = Some(ours);
        e.want_out = false;
        let old = std::mem::replace(&mut e.ino, sys::socket_inode(theirs.as_fd()).unwrap_or_default());
        let new = e.ino;
        self.by_ino.remove(&old);
        self.by_ino.insert(new, id);
        Ok(theirs)
    }

    pub fn get(&mut self, id: Id) -> Option<&mut Entry> {
        match self.slots.get_mut(id.slot as usize) {
            Some((g, e)) if *g == id.generation => e.as_deref_mut(),
            _ => None,
        }
    }

    pub fn by_ino(&self, ino: u64) -> Option<Id> {
        self.by_ino.get(&ino).copied()
    }

    /// The inode will be used again: nothing may be found by it.
    pub fn hide(&mut self, id: Id) {
        let Some(ino) = self.get(id).map(|e| e.ino) else { return };
        if self.by_ino.get(&ino) == Some(&id) {
            self.by_ino.remove(&ino);
        }
    }

    pub fn remove(&mut self, id: Id) -> Option<Box<Entry>> {
        self.hide(id);
        match self.slots.get_mut(id.slot as usize) {
            Some((g, e)) if *g == id.generation && e.is_some() => {
                self.free.push(id.slot);
                e.take()
            }
            _ => None,
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.slots.iter().filter_map(|(_, e)| e.as_deref())
    }
}

/// Our end and the program's. Streams are streams; messages get a type that shows a hang-up and carries empty ones.
fn new_pair(stream: bool) -> Result<(OwnedFd, OwnedFd)> {
    let kind = if stream { libc::SOCK_STREAM } else { libc::SOCK_SEQPACKET };
    sys::socketpair(kind | libc::SOCK_CLOEXEC)
}

/// Puts the socket on the supervisor's list at each change, once until it has been looked at.
fn watch(id: Id, queued: Arc<AtomicBool>, wakeups: Arc<Wakeups>) -> Arc<WaitQueueEntry> {
    WaitQueueEntry::callback(move |_| {
        if !queued.swap(true, Ordering::SeqCst) {
            wakeups.socket(id);
        }
        true
    })
}
