//! Lists of packets.
//!
//! Interface: [`SkbQueue`] (in order, with a count of bytes), [`SkbChain`] (without memory of its own).
//! Linux counterpart: `struct sk_buff_head` in `include/linux/skbuff.h`; the backlog's list in `net/core/sock.c`.
//! Locks and context: their owner brings the lock; any context.

use super::skbuff::Skb;
use std::collections::VecDeque;

/// Packets that hang on each other, the latest first: it needs no memory but theirs. For whoever takes all of them at once.
#[derive(Default)]
pub struct SkbChain {
    latest: Option<Box<Skb>>,
}

impl SkbChain {
    pub fn push(&mut self, mut skb: Box<Skb>) {
        skb.next = self.latest.take();
        self.latest = Some(skb);
    }

    pub fn pop(&mut self) -> Option<Box<Skb>> {
        let mut skb = self.latest.take()?;
        self.latest = skb.next.take();
        Some(skb)
    }

    pub fn latest_mut(&mut self) -> Option<&mut Skb> {
        self.latest.as_deref_mut()
    }

    pub fn is_empty(&self) -> bool {
        self.latest.is_none()
    }

    /// Everything, in the order in which it came.
    pub fn take_in_order(&mut self) -> SkbChain {
        let mut chain = SkbChain::default();
        while let Some(skb) = self.pop() {
            chain.push(skb);
        }
        chain
    }
}

impl Iterator for SkbChain {
    type Item = Box<Skb>;
    fn next(&mut self) -> Option<Box<Skb>> {
        self.pop()
    }
}

impl Drop for SkbChain {
    /// One by one: the chain may be longer than the stack is deep.
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

/// A list of packets with their total of bytes (`struct sk_buff_head`); its owner brings the lock.
#[derive(Default)]
pub struct SkbQueue {
    list: VecDeque<Box<Skb>>,
    bytes: usize,
}

impl SkbQueue {
    pub fn push_back(&mut self, skb: Box<Skb>) {
        self.bytes += skb.len();
        self.list.push_back(skb);
    }

    pub fn push_front(&mut self, skb: Box<Skb>) {
        self.bytes += skb.len();
        self.list.push_front(skb);
    }

    pub fn pop_front(&mut self) -> Option<Box<Skb>> {
        let skb = self.list.pop_front()?;
        self.bytes -= skb.len();
        Some(skb)
    }

    pub fn front(&self) -> Option<&Skb> {
        self.list.front().map(|s| &**s)
    }

    /// Packets in the queue.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Bytes in all packets.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn iter(&self) -> impl Iterator<Item = &Skb> {
        self.list.iter().map(|s| &**s)
    }

    /// Moves everything to the end of `to`.
    pub fn splice_to(&mut self, to: &mut SkbQueue) {
        to.bytes += std::mem::take(&mut self.bytes);
        to.list.append(&mut self.list);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lens(chain: SkbChain) -> Vec<usize> {
        chain.map(|s| s.len()).collect()
    }

    #[test]
    fn a_chain_gives_back_in_order() {
        let mut c = SkbChain::default();
        (1..=3).for_each(|n| c.push(Skb::from_bytes(0, &vec![0; n])));
        assert_eq!(c.latest_mut().map(|s| s.len()), Some(3));
        assert_eq!(lens(c.take_in_order()), [1, 2, 3]);
        assert!(c.is_empty() && c.pop().is_none());
    }

    #[test]
    fn a_queue_is_in_order_and_counts() {
        let packet = |n: usize| Skb::from_bytes(0, &vec![0; n]);
        let state = |q: &SkbQueue| {
            let lens: Vec<usize> = q.iter().map(|s| s.len()).collect();
            assert_eq!(
                (q.len(), q.is_empty(), q.front().map(|s| s.len())),
                (lens.len(), lens.is_empty(), lens.first().copied())
            );
            assert_eq!(q.bytes(), lens.iter().sum());
            lens
        };
        let (mut a, mut b) = (SkbQueue::default(), SkbQueue::default());
        a.push_back(packet(2));
        a.push_back(packet(3));
        a.push_front(packet(1));
        b.push_back(packet(4));
        assert_eq!((state(&a), state(&b)), (vec![1, 2, 3], vec![4]));
        assert_eq!(a.pop_front().map(|s| s.len()), Some(1));
        a.splice_to(&mut b);
        assert_eq!((state(&a), state(&b)), (vec![], vec![4, 2, 3]));
        assert!(a.pop_front().is_none() && b.pop_front().is_some());
        assert_eq!(state(&b), [2, 3]);
    }

    #[test]
    fn a_chain_longer_than_the_stack_is_dropped() {
        let mut c = SkbChain::default();
        (0..100_000).for_each(|_| c.push(Skb::alloc(0)));
        drop(c);
    }
}
