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
    seq: u64,
    pub what: u32,
    pub id: u32,
    pub arg: u64,
}

impl Entry {
    fn key(&self) -> (u64, u64) {
        (self.time, self.seq)
    }
}

#[derive(Default)]
pub(crate) struct EventQueue {
    heap: Vec<Entry>,
    seq: u64,
}

const ARITY: usize = 4;

impl EventQueue {
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    pub fn push(&mut self, time: u64, what: u32, id: u32, arg: u64) {
        self.seq += 1;
        let new = Entry { time, seq: self.seq, what, id, arg };
        let mut at = self.heap.len();
        self.heap.push(new);
        while at > 0 {
            let parent = (at - 1) / ARITY;
            if self.heap[parent].key() <= new.key() {
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
        self.heap.first().map_or(u64::MAX, |e| e.time)
    }

    pub fn pop(&mut self) -> Option<Entry> {
        let last = self.heap.pop()?;
        let Some(&first) = self.heap.first() else { return Some(last) };
        let mut at = 0;
        loop {
            let child = at * ARITY + 1;
            if child >= self.heap.len() {
                break;
            }
            let end = (child + ARITY).min(self.heap.len());
            let mut least = child;
            for c in child + 1..end {
                if self.heap[c].key() < self.heap[least].key() {
                    least = c;
                }
            }
            if last.key() <= self.heap[least].key() {
                break;
            }
            self.heap[at] = self.heap[least];
            at = least;
        }
        self.heap[at] = last;
        Some(first)
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
