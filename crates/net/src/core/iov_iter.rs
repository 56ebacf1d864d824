//! Where a message's bytes come from or go to.
//!
//! Interface: [`IovIter`], [`Parts`], [`MsgHdr`], [`CMsg`].
//! Linux counterpart: `include/linux/uio.h`, `struct msghdr`.
//! Locks and context: the caller's own; process context.

use kernel::{Frag, tp};
use std::collections::VecDeque;
use uapi::SockAddr;

/// Buffers in order. One, as most calls have, needs no memory of its own.
pub struct Parts<T> {
    first: Option<T>,
    rest: VecDeque<T>,
}

impl<T> Parts<T> {
    fn one(part: T) -> Self {
        Parts { first: Some(part), rest: VecDeque::new() }
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.first.iter().chain(&self.rest)
    }

    #[inline]
    fn front(&self) -> Option<&T> {
        self.first.as_ref()
    }

    #[inline]
    fn front_mut(&mut self) -> Option<&mut T> {
        self.first.as_mut()
    }

    #[inline]
    fn pop_front(&mut self) -> Option<T> {
        std::mem::replace(&mut self.first, self.rest.pop_front())
    }
}

impl<T> FromIterator<T> for Parts<T> {
    fn from_iter<I: IntoIterator<Item = T>>(parts: I) -> Self {
        let mut parts = parts.into_iter();
        Parts { first: parts.next(), rest: parts.collect() }
    }
}

/// The bytes of a message: what is still to be sent, or the room still to be filled.
pub enum IovIter<'a> {
    /// To send: the caller's buffers. Copied.
    Source(Parts<&'a [u8]>),
    /// To send: pages the caller gives away. Not copied (`MSG_SPLICE_PAGES`).
    SourceFrags(VecDeque<Frag>),
    /// To receive: the caller's buffers. Copied.
    Dest(Parts<&'a mut [u8]>),
    /// To receive: up to `room` bytes as page references. Not copied.
    DestFrags { frags: Vec<Frag>, room: usize },
    /// To receive and throw away: up to so many bytes (`ITER_DISCARD`, `MSG_TRUNC` on a stream).
    Discard(usize),
}

impl<'a> IovIter<'a> {
    pub fn source(b: &'a [u8]) -> Self {
        IovIter::Source(Parts::one(b))
    }

    pub fn dest(b: &'a mut [u8]) -> Self {
        IovIter::Dest(Parts::one(b))
    }

    /// Bytes left (`iov_iter_count`).
    pub fn count(&self) -> usize {
        match self {
            IovIter::Source(v) => v.iter().map(|b| b.len()).sum(),
            IovIter::SourceFrags(v) => v.iter().map(|b| b.len()).sum(),
            IovIter::Dest(v) => v.iter().map(|b| b.len()).sum(),
            IovIter::DestFrags { room, .. } | IovIter::Discard(room) => *room,
        }
    }

    /// Bytes left of the buffer it is at (`iov_iter_single_seg_count`).
    pub fn first_len(&self) -> usize {
        match self {
            IovIter::Source(v) => v.iter().map(|b| b.len()).find(|&n| n > 0).unwrap_or(0),
            IovIter::SourceFrags(v) => v.front().map_or(0, |f| f.len()),
            _ => self.count(),
        }
    }

    /// Fills `to` from the message; how much there was. This is the sender's payload copy (`copy_from_iter`).
    pub fn copy_from(&mut self, to: &mut [u8]) -> usize {
        tp!(copy_from_iter, &to.len());
        let mut done = 0;
        while done < to.len() {
            match self {
                IovIter::Source(v) => {
                    let Some(b) = v.front_mut() else { break };
                    let n = b.len().min(to.len() - done);
                    to[done..done + n].copy_from_slice(&b[..n]);
                    *b = &b[n..];
                    done += n;
                    if b.is_empty() {
                        v.pop_front();
                    }
                }
                IovIter::SourceFrags(v) => {
                    let Some(f) = v.front_mut() else { break };
                    let n = f.len().min(to.len() - done);
                    to[done..done + n].copy_from_slice(&f[..n]);
                    f.advance(n);
                    done += n;
                    if f.is_empty() {
                        v.pop_front();
                    }
                }
                _ => break,
            }
        }
        done
    }

    /// The first bytes of what is to be sent, at most `max`, which stay in the message.
    pub fn peek(&self, max: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(max.min(self.count()));
        let mut take = |b: &[u8]| out.extend_from_slice(&b[..b.len().min(max - out.len())]);
        match self {
            IovIter::Source(v) => v.iter().for_each(|b| take(b)),
            IovIter::SourceFrags(v) => v.iter().for_each(|f| take(f)),
            _ => {}
        }
        out
    }

    /// Drops the first `n` bytes of what is to be sent (`iov_iter_advance`).
    pub fn advance(&mut self, mut n: usize) {
        while n > 0 {
            let front = match self {
                IovIter::Source(v) => v.front().map(|b| b.len()),
                IovIter::SourceFrags(v) => v.front().map(|f| f.len()),
                _ => None,
            };
            let Some(front) = front else { return };
            match self {
                IovIter::Source(v) if front > n => v.front_mut().into_iter().for_each(|b| *b = &b[n..]),
                IovIter::SourceFrags(v) if front > n => v.front_mut().into_iter().for_each(|f| f.advance(n)),
                IovIter::Source(v) => drop(v.pop_front()),
                IovIter::SourceFrags(v) => drop(v.pop_front()),
                _ => {}
            }
            n -= front.min(n);
        }
    }

    /// Whether the message hands over pages instead of bytes to copy.
    pub fn has_frags(&self) -> bool {
        matches!(self, IovIter::SourceFrags(_))
    }

    /// The next page range of at most `max` bytes, if the message hands over pages.
    pub fn take_frag(&mut self, max: usize) -> Option<Frag> {
        let IovIter::SourceFrags(v) = self else { return None };
        let f = v.front_mut()?;
        if f.len() <= max {
            return v.pop_front();
        }
        let part = f.slice(0, max);
        f.advance(max);
        Some(part)
    }

    /// Puts `from` into the message's room; how much found place. This is the receiver's payload copy (`copy_to_iter`).
    pub fn copy_to(&mut self, from: &[u8]) -> usize {
        tp!(copy_to_iter, &from.len());
        match self {
            IovIter::Dest(v) => {
                let mut done = 0;
                while done < from.len() {
                    let Some(b) = v.front_mut() else { break };
                    let n = b.len().min(from.len() - done);
                    let (head, rest) = std::mem::take(b).split_at_mut(n);
                    head.copy_from_slice(&from[done..done + n]);
                    *b = rest;
                    done += n;
                    if b.is_empty() {
                        v.pop_front();
                    }
                }
                done
            }
            IovIter::DestFrags { frags, room } => {
                let n = from.len().min(*room);
                if n > 0 {
                    frags.push(Frag::copy_of(&from[..n]));
                    *room -= n;
                }
                n
            }
            IovIter::Discard(room) => {
                let n = from.len().min(*room);
                *room -= n;
                n
            }
            IovIter::Source(_) | IovIter::SourceFrags(_) => 0,
        }
    }

    /// Puts a page range into the message's room, by reference where the receiver takes pages.
    pub fn copy_frag_to(&mut self, from: &Frag) -> usize {
        let IovIter::DestFrags { frags, room } = self else { return self.copy_to(from) };
        let n = from.len().min(*room);
        if n > 0 {
            frags.push(from.slice(0, n));
            *room -= n;
        }
        n
    }
}

/// A control message (`struct cmsghdr` with its data).
#[derive(Clone, Debug)]
pub struct CMsg {
    pub level: i32,
    pub kind: i32,
    pub data: Vec<u8>,
}

/// A message to be sent or received (`struct msghdr`).
pub struct MsgHdr<'a> {
    /// The destination (send) or the source (receive).
    pub name: Option<SockAddr>,
    pub iter: IovIter<'a>,
    pub control: Vec<CMsg>,
    /// `MSG_*`: given by a sender; set by the receive path (`MSG_TRUNC`, `MSG_CTRUNC`, …).
    pub flags: i32,
    /// Bytes done so far; an operation that had to wait goes on from here.
    pub done: usize,
}

impl<'a> MsgHdr<'a> {
    pub fn new(iter: IovIter<'a>) -> Self {
        MsgHdr { name: None, iter, control: Vec::new(), flags: 0, done: 0 }
    }
}
