//! Fragments of datagrams, kept until all are there: what reassembly is for both versions of IP.
//!
//! Interface: [`FragTable`] (`insert`, `expire`), [`Piece`], [`Verdict`], [`frag_reasm`].
//! Linux counterpart: `net/ipv4/inet_fragment.c`.
//! Locks and context: softirq context. A datagram's fragments are under the lock of its shard of the table; packets are
//! freed outside it.
//!
//! The two versions differ in the key, in what a bad fragment is answered with, and in the header put in front.

use crate::core::skbuff::{IpSummed, Skb};
use kernel::{Frag, PageMut, SpinLock, Timer};
use siphasher::sip::SipHasher13;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, hash_map};
use std::hash::{BuildHasher, Hash};
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
    /// The low two bits of TOS or traffic class.
    pub ecn: u8,
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
    /// A bit for each ECN code point that a fragment had.
    ecn: u8,
}

const ECN_NOT_ECT: u8 = 1 << 0;
const ECN_CE: u8 = 1 << 3;

impl Whole {
    /// What the fragments' ECN fields make of the packet's (RFC 3168, 5.3): whether it is CE; `None` for mixtures that nobody
    /// sends, which are to be dropped.
    pub fn congestion(&self) -> Option<bool> {
        let mixed = self.ecn & ECN_NOT_ECT != 0 && self.ecn != ECN_NOT_ECT;
        (!mixed).then_some(self.ecn & ECN_CE != 0)
    }
}

/// A datagram of which some is missing (`struct inet_frag_queue`).
pub struct FragQueue {
    pieces: BTreeMap<usize, Box<Skb>>,
    /// Payload bytes that are there.
    meat: usize,
    /// Payload bytes of the datagram, once its last fragment is there.
    total: Option<usize>,
    max_size: usize,
    ecn: u8,
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

/// Hashes with keys drawn once: what lands where is not for a sender to choose.
#[derive(Clone)]
struct Keyed([u64; 2]);

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;
    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0[0], self.0[1])
    }
}

type Shard<K> = HashMap<K, FragQueue, Keyed>;

/// The datagrams being put together, by key: addresses, identification, protocol.
pub struct FragTable<K> {
    shards: Box<[SpinLock<Shard<K>>]>,
    mem: AtomicUsize,
    next_id: AtomicU64,
}

impl<K: Hash + Eq + Clone> FragTable<K> {
    /// An empty table; `random` is for its hashes.
    pub fn new(random: [[u8; 8]; 2]) -> Self {
        let keyed = Keyed(random.map(u64::from_ne_bytes));
        FragTable {
            shards: (0..SHARDS).map(|_| SpinLock::new(HashMap::with_hasher(keyed.clone()))).collect(),
            mem: AtomicUsize::new(0),
            next_id: AtomicU64::new(1),
        }
    }

    /// Bytes of memory that fragments take (`frag_mem_limit`).
    pub fn mem(&self) -> usize {
        self.mem.load(Relaxed)
    }

    fn shard(&self, hash: u32) -> &SpinLock<Shard<K>> {
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
        FragQueue { pieces, meat: 0, total: None, max_size: 0, ecn: 0, mem: 0, dead: false, id, timer }
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
        self.ecn |= 1 << (piece.ecn & 3);
        if let Entry::Vacant(v) = self.pieces.entry(from) {
            v.insert(piece.skb);
        }
        if self.total != Some(self.meat) {
            return Verdict::Queued;
        }
        self.timer.del_timer();
        let pieces = std::mem::take(&mut self.pieces).into_values().collect();
        Verdict::Complete(Whole { pieces, max_size: self.max_size, ecn: self.ecn })
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
    let verified = pieces.iter().all(|p| p.ip_summed == IpSummed::Unnecessary);
    let mut rest = pieces.into_iter();
    let mut head = rest.next()?;
    let first = head.len();
    let frags: Vec<Frag> = rest.flat_map(|p| p.into_frags()).collect();
    if !frags.iter().all(|f| head.add_frag(f.clone())) {
        let total = first + frags.iter().map(|f| f.len()).sum::<usize>();
        let mut page = PageMut::alloc(total);
        let to = page.as_mut_slice();
        let mut at = head.copy_bits(0, to.get_mut(..first)?);
        for f in &frags {
            to.get_mut(at..at + f.len())?.copy_from_slice(f);
            at += f.len();
        }
        head.trim(0);
        head.add_frag(page.freeze(at));
        head.copies = head.copies.saturating_add(1);
    }
    // A sum that the device made covers one fragment, and what was left to a device was summed before fragmenting.
    head.ip_summed = if verified { IpSummed::Unnecessary } else { IpSummed::None };
    Some(head)
}
