//! What a connection has to send, and what it has sent and not seen acknowledged.
//!
//! Interface: [`TxSkb`] (a piece of the stream), [`TxQueue`] (the write queue and the retransmit queue), sequence arithmetic.
//! Linux counterpart: `sk_write_queue`, `tcp_rtx_queue`, `include/net/tcp.h`.
//! Locks and context: under the socket lock.
//!
//! ```text
//!   snd_una                          snd_nxt                   write_seq
//!      | retransmit queue ............. | write queue ............ |
//!        [0, send_head)                   [send_head, len)
//! ```
//! One queue holds both: sending a piece moves `send_head`, not the piece. A cumulative ACK pops from the front, a sequence
//! number is found by bisection. A piece has no header room: what goes to the wire is a new `Skb` that shares its fragments.
//!
//! What was sent once lies in the order of its transmission by itself. Only while something is missing does a [`Scoreboard`]
//! keep the exceptions in order, so that neither finding what is lost (RFC 8985) nor what is to be sent again walks over the
//! window: the work an ACK makes does not depend on how much is in flight.

use crate::core::box_queue::BoxQueue;
use kernel::Frag;
use smallvec::SmallVec;
use std::cmp::Ordering;
use std::collections::BTreeSet;

/// Whether `a` lies before `b` in sequence space (RFC 9293, 3.4).
#[inline]
pub fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

#[inline]
pub fn after(a: u32, b: u32) -> bool {
    before(b, a)
}

/// Whether `low <= seq <= high`.
#[inline]
pub fn between(seq: u32, low: u32, high: u32) -> bool {
    high.wrapping_sub(low) >= seq.wrapping_sub(low)
}

/// The later of two sequence numbers.
#[inline]
pub fn seq_max(a: u32, b: u32) -> u32 {
    if after(a, b) { a } else { b }
}

/// The earlier of two sequence numbers.
#[inline]
pub fn seq_min(a: u32, b: u32) -> u32 {
    if before(a, b) { a } else { b }
}

/// A sequence number as a map's key. Total among numbers less than half the space apart, which a window's are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seq(pub u32);

impl PartialOrd for Seq {
    fn partial_cmp(&self, o: &Self) -> Option<Ordering> {
        Some(self.cmp(o))
    }
}

impl Ord for Seq {
    fn cmp(&self, o: &Self) -> Ordering {
        (self.0.wrapping_sub(o.0) as i32).cmp(&0)
    }
}

/// `TCPCB_*`: what is known about a piece that was sent.
pub const TCPCB_SACKED_ACKED: u8 = 0x01;
pub const TCPCB_SACKED_RETRANS: u8 = 0x02;
pub const TCPCB_LOST: u8 = 0x04;
pub const TCPCB_TAGBITS: u8 = 0x07;
pub const TCPCB_EVER_RETRANS: u8 = 0x80;
pub const TCPCB_RETRANS: u8 = TCPCB_SACKED_RETRANS | TCPCB_EVER_RETRANS;

/// Memory charged for a piece beside its bytes: what an `sk_buff` with its head weighs in Linux, so that `SO_SNDBUF` holds as much.
pub const TX_SKB_OVERHEAD: u32 = 832;
/// Fragments a piece may have.
pub const MAX_TX_FRAGS: usize = 17;

/// A piece of the stream on its way to the peer (an `sk_buff` of the write queue with its `tcp_skb_cb`).
#[derive(Default)]
pub struct TxSkb {
    pub seq: u32,
    /// `seq` + SYN + FIN + length.
    pub end_seq: u32,
    /// `TCPHDR_*`, as in [`crate::hdr::tcp_flag`].
    pub tcp_flags: u8,
    pub sacked: u8,
    /// How often its payload has been copied since it was the sender's.
    pub copies: u8,
    /// No more bytes are to be appended (`eor`).
    pub eor: bool,
    /// The sender had nothing more to send when it went out (`tx.is_app_limited`).
    pub is_app_limited: bool,
    /// Segments of `gso_size` bytes it makes; 0 until it is sized.
    pub gso_segs: u16,
    pub gso_size: u16,
    /// Payload bytes.
    pub len: u32,
    /// Memory charged to the socket.
    pub truesize: u32,
    /// When it was last sent, microseconds of `tcp_mstamp`; 0: never.
    pub mstamp: u64,
    /// Which transmission of the connection that was: tells what was sent later when the clock cannot.
    pub xmit_id: u32,
    /// State of delivery when it was sent (`tx.delivered`, for rate samples).
    pub delivered: u32,
    pub delivered_ce: u32,
    pub first_tx_mstamp: u64,
    pub delivered_mstamp: u64,
    pub frags: SmallVec<[Frag; 2]>,
}

impl TxSkb {
    /// Segments (`tcp_skb_pcount`): at least one.
    #[inline]
    pub fn pcount(&self) -> u32 {
        (self.gso_segs as u32).max(1)
    }

    pub fn has(&self, flag: u8) -> bool {
        self.tcp_flags & flag != 0
    }

    /// Appends payload; `false` when there is no room for another fragment. Does not move `end_seq`.
    pub fn add_frag(&mut self, f: Frag) -> bool {
        if !self.frags.last_mut().is_some_and(|last| last.try_merge(&f)) {
            return self.add_frag_apart(f);
        }
        self.count_in(f.len() as u32);
        true
    }

    /// The same, as a fragment of its own.
    pub fn add_frag_apart(&mut self, f: Frag) -> bool {
        if self.frags.len() >= MAX_TX_FRAGS {
            return false;
        }
        let n = f.len() as u32;
        self.frags.push(f);
        self.count_in(n);
        true
    }

    fn count_in(&mut self, n: u32) {
        self.len += n;
        self.truesize += n;
    }

    /// Cuts the payload at `at`; the rest becomes a new piece's. Sequence numbers, flags and counts are the caller's.
    pub fn split_payload(&mut self, at: u32) -> Box<TxSkb> {
        let mut rest = Box::new(TxSkb { truesize: TX_SKB_OVERHEAD, ..TxSkb::default() });
        let mut left = at as usize;
        let mut keep = 0;
        for f in &mut self.frags {
            if left == 0 {
                rest.frags.push(f.clone());
            } else if f.len() > left {
                rest.frags.push(f.slice(left, f.len() - left));
                f.truncate(left);
                left = 0;
                keep += 1;
            } else {
                left -= f.len();
                keep += 1;
            }
        }
        self.frags.truncate(keep);
        rest.len = self.len.saturating_sub(at);
        self.len -= rest.len;
        rest.truesize += rest.len;
        self.truesize -= rest.len;
        rest
    }

    /// Drops `n` acknowledged bytes from the front (`tcp_trim_head`).
    pub fn trim_payload(&mut self, n: u32) {
        let n = n.min(self.len);
        let mut left = n as usize;
        let mut gone = 0;
        for f in &mut self.frags {
            if left < f.len() {
                f.advance(left);
                break;
            }
            left -= f.len();
            gone += 1;
        }
        self.frags.drain(..gone);
        self.len -= n;
        self.truesize -= n;
    }
}

/// What is missing, in order (`tsorted_sent_queue`, `retransmit_skb_hint`). Pieces are named by their first byte.
#[derive(Default)]
struct Scoreboard {
    /// Transmissions that may be found lost, the oldest first: retransmitted pieces, and those sent once below `scanned`.
    sent: BTreeSet<(Seq, Seq)>,
    /// Found lost and not sent again.
    lost: BTreeSet<Seq>,
    /// Pieces from here on that were sent once are in order by themselves and not in `sent`.
    scanned: u32,
}

/// Where a piece belongs on the scoreboard.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Nowhere,
    Sent,
    Lost,
}

impl Scoreboard {
    fn place(s: &TxSkb, scanned: Option<u32>) -> Place {
        match s.sacked & TCPCB_TAGBITS {
            TCPCB_LOST => Place::Lost,
            tags if tags & TCPCB_SACKED_ACKED != 0 => Place::Nowhere,
            _ if s.sacked & TCPCB_EVER_RETRANS != 0 || scanned.is_some_and(|at| before(s.seq, at)) => Place::Sent,
            _ => Place::Nowhere,
        }
    }

    fn add(&mut self, s: &TxSkb, at: Place) {
        match at {
            Place::Sent => self.sent.insert((Seq(s.xmit_id), Seq(s.seq))),
            Place::Lost => self.lost.insert(Seq(s.seq)),
            Place::Nowhere => false,
        };
    }

    fn take(&mut self, s: &TxSkb) {
        match Self::place(s, Some(self.scanned)) {
            Place::Sent => self.sent.remove(&(Seq(s.xmit_id), Seq(s.seq))),
            Place::Lost => self.lost.remove(&Seq(s.seq)),
            Place::Nowhere => false,
        };
    }
}

/// The write queue and the retransmit queue.
#[derive(Default)]
pub struct TxQueue {
    list: BoxQueue<TxSkb>,
    /// Index of the first piece that was never sent.
    head: usize,
    /// Only while something is missing.
    board: Option<Box<Scoreboard>>,
    /// Pieces looked at, to show that an ACK's work is bounded.
    #[cfg(test)]
    pub steps: std::sync::atomic::AtomicU64,
}

impl TxQueue {
    #[inline]
    fn step(&self) {
        #[cfg(test)]
        self.steps.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    // --- The scoreboard ---

    fn unindex(&mut self, i: usize) {
        if let Some(b) = &mut self.board
            && i < self.head
            && let Some(s) = self.list.get(i)
        {
            b.take(s);
        }
    }

    fn index(&mut self, i: usize) {
        let Some(s) = self.list.get(i).filter(|_| i < self.head) else { return };
        let at = Scoreboard::place(s, self.board.as_ref().map(|b| b.scanned));
        if at != Place::Nowhere {
            let una = self.list.front().map_or(0, |s| s.seq);
            self.board.get_or_insert_with(|| Box::new(Scoreboard { scanned: una, ..Scoreboard::default() })).add(s, at);
        }
    }

    /// Sets and clears tags (`TCPCB_*`) of the `i`th piece of the retransmit queue. Nothing else may change them.
    pub fn tag(&mut self, i: usize, set: u8, clear: u8) {
        self.restamp(i, |s| s.sacked = (s.sacked & !clear) | set);
    }

    /// Changes what a piece's place on the scoreboard depends on: its tags, its start, which transmission it was.
    pub fn restamp(&mut self, i: usize, f: impl FnOnce(&mut TxSkb)) {
        self.step();
        self.unindex(i);
        if let Some(s) = self.list.get_mut(i) {
            f(s);
        }
        self.index(i);
    }

    /// Pieces that were sent once, and before transmission `xmit_id`, may be found lost from now on. Each is passed once.
    pub fn scan_sent_before(&mut self, xmit_id: u32) {
        let Some(front) = self.list.front().filter(|_| self.head > 0) else { return };
        let una = front.seq;
        let start = self.board.as_ref().map_or(una, |b| seq_max(b.scanned, una));
        let mut i = if start == una { 0 } else { self.rtx_index(start) };
        while let Some(s) = self.rtx(i) {
            let once = s.sacked & (TCPCB_EVER_RETRANS | TCPCB_SACKED_ACKED | TCPCB_LOST) == 0;
            if once && !before(s.xmit_id, xmit_id) {
                break;
            }
            let (key, end) = ((Seq(s.xmit_id), Seq(s.seq)), s.end_seq);
            let b = self.board.get_or_insert_with(Default::default);
            b.scanned = end;
            if once {
                b.sent.insert(key);
            }
            i += 1;
        }
    }

    /// The piece of the oldest transmission that may be lost.
    pub fn oldest_sent(&self) -> Option<usize> {
        let (_, seq) = self.board.as_ref()?.sent.first()?;
        Some(self.rtx_index(seq.0))
    }

    /// The piece of the newest transmission before `xmit_id` that may be lost.
    pub fn newest_sent_before(&self, xmit_id: u32) -> Option<usize> {
        let b = self.board.as_ref()?;
        // Before every sequence number in use.
        let low = Seq(self.list.front()?.seq.wrapping_sub(1 << 30));
        let (_, seq) = b.sent.range(..(Seq(xmit_id), low)).next_back()?;
        Some(self.rtx_index(seq.0))
    }

    /// The first piece that is lost and was not sent again.
    pub fn first_lost(&self) -> Option<usize> {
        let seq = self.board.as_ref()?.lost.first()?;
        Some(self.rtx_index(seq.0))
    }

    /// Nothing counts as lost any more.
    pub fn clear_lost(&mut self) {
        let Some(b) = &self.board else { return };
        let seqs: Vec<Seq> = b.lost.iter().copied().chain(b.sent.iter().map(|&(_, seq)| seq)).collect();
        for seq in seqs {
            self.tag(self.rtx_index(seq.0), 0, TCPCB_LOST);
        }
    }

    /// Forgets the scoreboard once nothing is on it.
    fn board_trim(&mut self, end: u32) {
        if let Some(b) = &mut self.board {
            b.scanned = seq_max(b.scanned, end);
            if b.sent.is_empty() && b.lost.is_empty() && b.scanned == end {
                self.board = None;
            }
        }
    }

    /// Whether the scoreboard says what the pieces say.
    #[cfg(any(test, debug_assertions))]
    pub fn board_is_right(&self) -> bool {
        let scanned = self.board.as_ref().map(|b| b.scanned);
        let places = |want| self.list.iter().take(self.head).filter(move |s| Scoreboard::place(s, scanned) == want);
        let empty = Scoreboard::default();
        let b = self.board.as_deref().unwrap_or(&empty);
        places(Place::Sent).count() == b.sent.len()
            && places(Place::Sent).all(|s| b.sent.contains(&(Seq(s.xmit_id), Seq(s.seq))))
            && places(Place::Lost).map(|s| Seq(s.seq)).eq(b.lost.iter().copied())
    }

    // --- The queues ---

    /// Nothing queued, sent or not (`tcp_rtx_and_write_queues_empty`).
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Nothing sent waits for an ACK (`tcp_rtx_queue_empty`).
    #[inline]
    pub fn rtx_is_empty(&self) -> bool {
        self.head == 0
    }

    /// Nothing waits to be sent (`tcp_write_queue_empty`).
    #[inline]
    pub fn write_is_empty(&self) -> bool {
        self.head == self.list.len()
    }

    pub fn rtx_len(&self) -> usize {
        self.head
    }

    /// The oldest unacknowledged piece (`tcp_rtx_queue_head`).
    #[inline]
    pub fn rtx_front(&self) -> Option<&TxSkb> {
        self.rtx(0)
    }

    /// The `i`th piece of the retransmit queue.
    #[inline]
    pub fn rtx(&self, i: usize) -> Option<&TxSkb> {
        self.step();
        if i < self.head { self.list.get(i) } else { None }
    }

    /// Not for what [`TxQueue::restamp`] is for.
    #[inline]
    pub fn rtx_mut(&mut self, i: usize) -> Option<&mut TxSkb> {
        self.step();
        if i < self.head { self.list.get_mut(i) } else { None }
    }

    /// The last piece sent (`tcp_rtx_queue_tail`).
    pub fn rtx_back(&self) -> Option<&TxSkb> {
        self.rtx(self.head.wrapping_sub(1))
    }

    /// Any piece, by its place in both queues.
    pub fn get_mut(&mut self, i: usize) -> Option<&mut TxSkb> {
        self.list.get_mut(i)
    }

    pub fn get(&self, i: usize) -> Option<&TxSkb> {
        self.list.get(i)
    }

    /// Index of the first unsent piece.
    #[inline]
    pub fn head_index(&self) -> usize {
        self.head
    }

    /// The next piece to be sent (`tcp_send_head`).
    #[inline]
    pub fn send_head(&self) -> Option<&TxSkb> {
        self.list.get(self.head)
    }

    #[inline]
    pub fn send_head_mut(&mut self) -> Option<&mut TxSkb> {
        self.list.get_mut(self.head)
    }

    /// The last unsent piece (`tcp_write_queue_tail`).
    #[inline]
    pub fn write_back(&self) -> Option<&TxSkb> {
        if self.write_is_empty() { None } else { self.list.back() }
    }

    #[inline]
    pub fn write_back_mut(&mut self) -> Option<&mut TxSkb> {
        if self.write_is_empty() { None } else { self.list.back_mut() }
    }

    /// Whether the next piece to be sent is the last there is (`tcp_skb_is_last`).
    #[inline]
    pub fn send_head_is_last(&self) -> bool {
        self.head + 1 == self.list.len()
    }

    /// `tcp_add_write_queue_tail`.
    pub fn push_back(&mut self, skb: Box<TxSkb>) {
        self.list.push_back(skb);
    }

    /// Takes the last unsent piece away (`tcp_remove_empty_skb`).
    pub fn pop_write_back(&mut self) -> Option<Box<TxSkb>> {
        if self.write_is_empty() { None } else { self.list.pop_back() }
    }

    /// The send head has been sent (`tcp_event_new_data_sent`'s move between the queues).
    #[inline]
    pub fn advance_head(&mut self) {
        if self.head < self.list.len() {
            self.head += 1;
        }
    }

    /// Takes the oldest unacknowledged piece.
    #[inline]
    pub fn pop_rtx_front(&mut self) -> Option<Box<TxSkb>> {
        if self.head == 0 {
            return None;
        }
        self.step();
        self.unindex(0);
        self.head -= 1;
        let skb = self.list.pop_front();
        if let Some(s) = &skb {
            self.board_trim(s.end_seq);
        }
        skb
    }

    /// Puts `rest` behind piece `i`, in the same queue.
    pub fn insert_after(&mut self, i: usize, rest: Box<TxSkb>) {
        self.list.insert((i + 1).min(self.list.len()), rest);
        if i < self.head {
            self.head += 1;
            self.index(i + 1);
        }
    }

    /// Takes piece `i` out.
    pub fn remove(&mut self, i: usize) -> Option<Box<TxSkb>> {
        self.unindex(i);
        let skb = self.list.remove(i)?;
        if i < self.head {
            self.head -= 1;
        }
        Some(skb)
    }

    /// Moves up to `amount` bytes of the piece behind the send head into the send head, unless they are too many fragments
    /// (`tcp_grow_skb`). A piece that has nothing left is handed out.
    pub fn grow_head(&mut self, amount: u32) -> Option<Box<TxSkb>> {
        let (at, behind) = (self.head, self.head + 1);
        let (head, next) = (self.list.get(at)?, self.list.get(behind)?);
        let n = amount.min(next.len);
        let mut left = n as usize;
        let mut front = SmallVec::<[Frag; 2]>::new();
        for f in next.frags.iter().take(MAX_TX_FRAGS) {
            if left == 0 {
                break;
            }
            let mut f = f.clone();
            f.truncate(left.min(f.len()));
            left -= f.len();
            front.push(f);
        }
        if n == 0 || head.eor || head.frags.len() + front.len() > MAX_TX_FRAGS {
            return None;
        }
        let next = self.list.get_mut(behind)?;
        next.trim_payload(n);
        next.seq = next.seq.wrapping_add(n);
        next.gso_segs = 0;
        let next = if next.len == 0 { self.list.remove(behind) } else { None };
        let head = self.list.get_mut(at)?;
        front.into_iter().for_each(|f| {
            head.add_frag(f);
        });
        head.end_seq = head.end_seq.wrapping_add(n);
        head.gso_segs = 0;
        if let Some(next) = &next {
            // Of a FIN too.
            head.end_seq = next.end_seq;
            head.tcp_flags |= next.tcp_flags;
            head.eor = next.eor;
        }
        next
    }

    /// Index of the first sent piece whose end lies behind `seq`; the retransmit queue's length if there is none.
    pub fn rtx_index(&self, seq: u32) -> usize {
        let (mut lo, mut hi) = (0, self.head);
        while lo < hi {
            let mid = (lo + hi) / 2;
            self.step();
            match self.list.get(mid) {
                Some(s) if !after(s.end_seq, seq) => lo = mid + 1,
                _ => hi = mid,
            }
        }
        lo
    }

    /// Bytes it has allocated, beside the pieces.
    pub fn memory(&self) -> usize {
        self.list.memory() + self.board.as_ref().map_or(0, |_| size_of::<Scoreboard>())
    }

    /// Empties both queues; the memory that was charged.
    pub fn purge(&mut self) -> usize {
        self.head = 0;
        self.board = None;
        std::mem::take(&mut self.list).iter().map(|s| s.truesize as usize).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_wrap() {
        assert!(before(u32::MAX, 0) && after(5, u32::MAX - 5) && !before(7, 7));
        assert!(between(2, u32::MAX, 5) && !between(6, u32::MAX, 5));
        assert_eq!(seq_max(u32::MAX, 3), 3);
    }

    #[test]
    fn a_piece_splits_without_losing_bytes() {
        let mut s = TxSkb::default();
        assert!(s.add_frag(Frag::copy_of(b"hello ")) && s.add_frag(Frag::copy_of(b"wide world")));
        let rest = s.split_payload(9);
        let text = |s: &TxSkb| s.frags.iter().flat_map(|f| f.to_vec()).collect::<Vec<u8>>();
        assert_eq!((text(&s), text(&rest)), (b"hello wid".to_vec(), b"e world".to_vec()));
        assert_eq!((s.len, rest.len), (9, 7));
        s.trim_payload(7);
        assert_eq!(text(&s), b"id");
    }

    #[test]
    fn the_retransmit_queue_is_found_by_sequence() {
        let mut q = TxQueue::default();
        for i in 0..5u32 {
            q.push_back(Box::new(TxSkb { seq: i * 10, end_seq: i * 10 + 10, ..TxSkb::default() }));
        }
        (0..3).for_each(|_| q.advance_head());
        assert_eq!([q.rtx_index(0), q.rtx_index(10), q.rtx_index(29), q.rtx_index(30)], [0, 1, 2, 3]);
        assert_eq!(q.send_head().map(|s| s.seq), Some(30));
        assert_eq!(q.pop_rtx_front().map(|s| s.seq), Some(0));
        assert_eq!(q.rtx_len(), 2);
    }
}
