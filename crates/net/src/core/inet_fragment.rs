//! Fragments of datagrams, kept until all are there: what reassembly is for both versions of IP.
//!
//! Interface: [`FragTable`] (`insert`, `expire`), [`Piece`], [`Verdict`], [`frag_reasm`].
//! Linux counterpart: `net/ipv4/inet_fragment.c`.
//! Locks and context: softirq context. A datagram's fragments are under the lock of its shard of the table; packets are
//! freed outside it.
//!
//! The two versions differ in the key, in what a bad fragment is answered with, and in the header put in front.

use crate::core::skbuff::{IpSummed, Skb};
use kernel::{PageMut, SpinLock, Timer};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, hash_map};
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::*};

const SHARDS: usize = 64;

/// A fragment: `skb.data` is at its payload.
pub struct Piece {
    pub skb: Box<Skb>,
    /// Where its payload belongs, in bytes from the start of the datagram's.
    pub offset: usize,
    /// It is not the last.
    pub more: bool,
    /// Bytes of the whole fragment, headers and all, as it was on the wire.
    pub wire_len: usize,
}

/// What came of a fragment.
pub enum Verdict {
    /// It waits for the others.
    Queued,
    /// It was the last that was missing.
    Complete(Whole),
    /// It was there already, and was dropped.
    Duplicate,
    /// It overlapped another or contradicted the datagram's length: all of the datagram is dropped, with what may still come.
    Overlap,
    /// It belongs to a datagram that has been dropped so.
    Dead,
    /// No more memory may be used for fragments: it was dropped.
    NoMem,
}

/// All fragments of a datagram, in order.
pub struct Whole {
    pub pieces: Vec<Box<Skb>>,
    /// The largest fragment as it was on the wire.
    pub max_size: usize,
}

/// A datagram of which some is missing (`struct inet_frag_queue`).
pub struct FragQueue {
    pieces: BTreeMap<usize, Box<Skb>>,
    /// Payload bytes that are there.
    meat: usize,
    /// Payload bytes of the datagram, once its last fragment is there.
    total: Option<usize>,
    max_size: usize,
    /// Truesize of the pieces.
    mem: usize,
    dead: bool,
    id: u64,
    timer: Timer,
}

impl FragQueue {
    /// The first fragment, if it is there; an error can only quote that one.
    pub fn first(&mut self) -> Option<Box<Skb>> {
        self.pieces.remove(&0)
    }

    /// Whether it was dropped before its time was up.
    pub fn is_dead(&self) -> bool {
        self.dead
    }
}

/// The datagrams being put together, by key: addresses, identification, protocol.
pub struct FragTable<K> {
    shards: Box<[SpinLock<HashMap<K, FragQueue>>]>,
    mem: AtomicUsize,
    next_id: AtomicU64,
}

impl<K: Hash + Eq + Clone> Default for FragTable<K> {
    fn default() -> Self {
        FragTable {
            shards: (0..SHARDS).map(|_| SpinLock::default()).collect(),
            mem: AtomicUsize::new(0),
            next_id: AtomicU64::new(1),
        }
    }
}

impl<K: Hash + Eq + Clone> FragTable<K> {
    /// Bytes of memory that fragments take (`frag_mem_limit`).
    pub fn mem(&self) -> usize {
        self.mem.load(Relaxed)
    }

    fn shard(&self, hash: u32) -> &SpinLock<HashMap<K, FragQueue>> {
        &self.shards[hash as usize % SHARDS]
    }

    /// `inet_frag_find` and `inet_frag_queue_insert`: adds a fragment to its datagram. `hash` is the key's, under a secret;
    /// `high_thresh` bounds the memory of all; `arm` makes and starts the timer of a new datagram, which is to call
    /// [`expire`](Self::expire) with that number.
    pub fn insert(
        &self,
        hash: u32,
        key: K,
        piece: Piece,
        high_thresh: usize,
        arm: impl FnOnce(u64) -> Timer,
    ) -> Verdict {
        let charge = piece.skb.truesize as usize;
        if self.mem.load(Relaxed) + charge > high_thresh {
            return Verdict::NoMem;
        }
        let mut garbage = Vec::new();
        let mut shard = self.shard(hash).lock_bh();
        let mut slot = match shard.entry(key) {
            hash_map::Entry::Occupied(o) => o,
            hash_map::Entry::Vacant(v) => {
                let id = self.next_id.fetch_add(1, Relaxed);
                // A datagram without any fragment costs too.
                v.insert_entry(FragQueue::new(id, arm(id)))
            }
        };
        let before = slot.get().mem;
        let verdict = slot.get_mut().add(piece, &mut garbage);
        let after = slot.get().mem;
        self.mem.fetch_add(after, Relaxed);
        self.mem.fetch_sub(before, Relaxed);
        let done = matches!(verdict, Verdict::Complete(_)).then(|| slot.remove());
        drop(shard);
        if let Some(q) = &done {
            self.mem.fetch_sub(q.mem, Relaxed);
        }
        verdict
    }

    /// Takes out the datagram whose time is up (`frag_expire`); `None` if that one is gone already.
    pub fn expire(&self, hash: u32, key: &K, id: u64) -> Option<FragQueue> {
        let mut shard = self.shard(hash).lock_bh();
        if shard.get(key)?.id != id {
            return None;
        }
        let q = shard.remove(key)?;
        drop(shard);
        self.mem.fetch_sub(q.mem, Relaxed);
        Some(q)
    }
}

/// What a datagram is charged beside its fragments.
const QUEUE_OVERHEAD: usize = 512;

impl FragQueue {
    fn new(id: u64, timer: Timer) -> FragQueue {
        let pieces = BTreeMap::new();
        FragQueue { pieces, meat: 0, total: None, max_size: 0, mem: 0, dead: false, id, timer }
    }

    fn add(&mut self, piece: Piece, garbage: &mut Vec<Box<Skb>>) -> Verdict {
        let (from, len) = (piece.offset, piece.skb.len());
        let to = from + len;
        self.mem = self.mem.max(QUEUE_OVERHEAD);
        if self.dead {
            garbage.push(piece.skb);
            return Verdict::Dead;
        }
        if self.pieces.get(&from).is_some_and(|p| p.len() == len) {
            garbage.push(piece.skb);
            return Verdict::Duplicate;
        }
        let before = self.pieces.range(..=from).next_back().map_or(0, |(at, p)| at + p.len());
        let after = self.pieces.range(from..).next().map_or(usize::MAX, |(at, _)| *at);
        let last = self.pieces.iter().next_back().map_or(0, |(at, p)| at + p.len());
        let wrong_end = match self.total {
            Some(total) => to > total || (!piece.more && to != total),
            None => !piece.more && to < last,
        };
        if before > from || after < to || wrong_end || (len == 0 && piece.more) {
            self.kill(garbage);
            garbage.push(piece.skb);
            return Verdict::Overlap;
        }
        if !piece.more {
            self.total = Some(to);
        }
        self.meat += len;
        self.mem += piece.skb.truesize as usize;
        self.max_size = self.max_size.max(piece.wire_len);
        if let Entry::Vacant(v) = self.pieces.entry(from) {
            v.insert(piece.skb);
        }
        if self.total != Some(self.meat) {
            return Verdict::Queued;
        }
        self.timer.del_timer();
        let pieces = std::mem::take(&mut self.pieces).into_values().collect();
        Verdict::Complete(Whole { pieces, max_size: self.max_size })
    }

    /// `inet_frag_kill`, but staying to recognise what still comes of it (RFC 5722, 4), until its time is up.
    fn kill(&mut self, garbage: &mut Vec<Box<Skb>>) {
        self.dead = true;
        self.mem = QUEUE_OVERHEAD;
        garbage.extend(std::mem::take(&mut self.pieces).into_values());
    }
}

/// `inet_frag_reasm_prepare` and `_finish`: one packet of all pieces; its headers are the first one's, before `data`. Payload
/// in fragments is shared; only a datagram of too many pieces is copied. `None` if there is no piece.
pub fn frag_reasm(pieces: Vec<Box<Skb>>) -> Option<Box<Skb>> {
    let mut rest = pieces.into_iter();
    let mut head = rest.next()?;
    let rest: Vec<_> = rest.collect();
    let (first, total) = (head.len(), head.len() + rest.iter().map(|p| p.len()).sum::<usize>());
    if !rest.iter().all(|p| p.share_range(0, p.len(), &mut head)) {
        let mut page = PageMut::alloc(total);
        let mut at = 0;
        for (p, n) in std::iter::once((&head, first)).chain(rest.iter().map(|p| (p, p.len()))) {
            at += p.copy_bits(0, page.as_mut_slice().get_mut(at..at + n)?);
        }
        head.trim(0);
        head.add_frag(page.freeze(at));
    }
    // A sum that the device made covers one fragment; what a sender on this machine left to a device, it did before
    // fragmenting.
    head.ip_summed = match head.ip_summed {
        IpSummed::Unnecessary if rest.iter().all(|p| p.ip_summed == IpSummed::Unnecessary) => IpSummed::Unnecessary,
        _ => IpSummed::None,
    };
    Some(head)
}
