//! What is to happen, and when.
//!
//! Interface: [`EventQueue`]: `push`, `peek_time`, `pop`; [`Entry`].
//! Linux counterpart: none: on a machine the world keeps this queue.
//! Locks and context: the simulation's thread.
//!
//! A heap with four children to a node: half as deep as a binary one, and a node's children share a cache line or two.
//! Entries of the same time come out in the order in which they went in.

/// What the engine finds again when the time has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub time: u64,
    pub what: u32,
    pub id: u32,
    pub arg: u64,
}

/// What the heap moves about: the time, the number of the entry, which settles who of a time comes first, and in the lowest
/// `SLOT_BITS` where the rest of it is. One number, so that comparing two takes no branch.
type Key = u128;

const SLOT_BITS: u32 = 24;
const ARITY: usize = 4;

#[derive(Default)]
pub(crate) struct EventQueue {
    heap: Vec<Key>,
    entries: Vec<Entry>,
    free: Vec<u32>,
    seq: u64,
}

impl EventQueue {
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Not more than 16 million at a time: a simulation that waits for more has gone wrong.
    pub fn push(&mut self, time: u64, what: u32, id: u32, arg: u64) {
        let entry = Entry { time, what, id, arg };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.entries[slot as usize] = entry;
                slot
            }
            None => {
                assert!(self.entries.len() < 1 << SLOT_BITS, "more than 16 million events wait");
                self.entries.push(entry);
                self.entries.len() as u32 - 1
            }
        };
        self.seq += 1;
        let new = Key::from(time) << 64 | Key::from(self.seq << SLOT_BITS | u64::from(slot));
        let mut at = self.heap.len();
        self.heap.push(new);
        while at > 0 {
            let parent = (at - 1) / ARITY;
            if self.heap[parent] <= new {
                break;
            }
            self.heap[at] = self.heap[parent];
            at = parent;
        }
        self.heap[at] = new;
    }

    /// When the next entry is due; the end of time if there is none.
    #[inline]
    pub fn peek_time(&self) -> u64 {
        self.heap.first().map_or(u64::MAX, |k| (k >> 64) as u64)
    }

    pub fn pop(&mut self) -> Option<Entry> {
        let last = self.heap.pop()?;
        let first = match self.heap.first() {
            Some(&first) => {
                self.sift_down(last);
                first
            }
            None => last,
        };
        let slot = first as u32 & ((1 << SLOT_BITS) - 1);
        self.free.push(slot);
        Some(self.entries[slot as usize])
    }

    /// Puts `last` where it belongs, from the root down.
    fn sift_down(&mut self, last: Key) {
        let heap = &mut self.heap[..];
        let mut at = 0;
        loop {
            let child = at * ARITY + 1;
            let least = match heap.get(child..) {
                Some(&[a, b, c, d, ..]) => {
                    let left = usize::from(b < a);
                    let right = 2 + usize::from(d < c);
                    if c.min(d) < a.min(b) { child + right } else { child + left }
                }
                Some([_, ..]) => (child..heap.len()).fold(child, |l, i| if heap[i] < heap[l] { i } else { l }),
                _ => break,
            };
            if last <= heap[least] {
                break;
            }
            heap[at] = heap[least];
            at = least;
        }
        heap[at] = last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn comes_out_in_order_and_equals_in_the_order_they_went_in() {
        let mut r = Rng::new(3);
        let mut q = EventQueue::default();
        let mut want = Vec::new();
        for i in 0..2000u64 {
            let t = r.below(100);
            q.push(t, 0, 0, i);
            want.push((t, i));
        }
        want.sort();
        let got: Vec<_> = std::iter::from_fn(|| q.pop()).map(|e| (e.time, e.arg)).collect();
        assert_eq!(got, want);
        assert_eq!((q.len(), q.peek_time()), (0, u64::MAX));
    }
}
