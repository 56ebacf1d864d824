//! A queue of boxes that takes no memory while it holds at most one.
//!
//! Interface: [`BoxQueue`].
//! Linux counterpart: `struct sk_buff_head`, whose links lie in the packets.
//! Locks and context: whatever guards the structure it is part of.

use std::collections::VecDeque;

/// The first element lies in the queue itself, those behind it in a deque that is made when there are some.
pub struct BoxQueue<T> {
    first: Option<Box<T>>,
    /// Empty while `first` is.
    more: Option<Box<More<T>>>,
}

struct More<T> {
    list: VecDeque<Box<T>>,
    /// Something was put here since the queue was last empty.
    used: bool,
}

/// Room that is kept for a queue that goes on being used.
const KEPT: usize = 4;

impl<T> Default for BoxQueue<T> {
    fn default() -> Self {
        BoxQueue { first: None, more: None }
    }
}

impl<T> BoxQueue<T> {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.first.is_some() as usize + self.more.as_ref().map_or(0, |m| m.list.len())
    }

    #[inline]
    pub fn front(&self) -> Option<&T> {
        self.first.as_deref()
    }

    #[inline]
    pub fn get(&self, i: usize) -> Option<&T> {
        match i.checked_sub(1) {
            None => self.first.as_deref(),
            Some(i) => self.more.as_ref()?.list.get(i).map(|t| &**t),
        }
    }

    #[inline]
    pub fn get_mut(&mut self, i: usize) -> Option<&mut T> {
        match i.checked_sub(1) {
            None => self.first.as_deref_mut(),
            Some(i) => self.more.as_mut()?.list.get_mut(i).map(|t| &mut **t),
        }
    }

    #[inline]
    pub fn back(&self) -> Option<&T> {
        match self.more.as_ref().and_then(|m| m.list.back()) {
            Some(t) => Some(t),
            None => self.first.as_deref(),
        }
    }

    #[inline]
    pub fn back_mut(&mut self) -> Option<&mut T> {
        match self.more.as_mut().and_then(|m| m.list.back_mut()) {
            Some(t) => Some(t),
            None => self.first.as_deref_mut(),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let more = self.more.iter().flat_map(|m| m.list.iter());
        self.first.iter().chain(more).map(|t| &**t)
    }

    #[inline]
    pub fn push_back(&mut self, t: Box<T>) {
        match self.first {
            None => self.first = Some(t),
            Some(_) => self.more().list.push_back(t),
        }
    }

    fn more(&mut self) -> &mut More<T> {
        let m = self.more.get_or_insert_with(|| Box::new(More { list: VecDeque::new(), used: true }));
        m.used = true;
        m
    }

    #[inline]
    pub fn pop_front(&mut self) -> Option<Box<T>> {
        let t = self.first.take();
        if let Some(m) = &mut self.more {
            self.first = m.list.pop_front();
            if self.first.is_none() {
                self.trim();
            }
        }
        t
    }

    pub fn pop_back(&mut self) -> Option<Box<T>> {
        match self.more.as_mut().and_then(|m| m.list.pop_back()) {
            Some(t) => Some(t),
            None => self.pop_front(),
        }
    }

    /// Puts `t` before element `i`, which is behind the first.
    pub fn insert(&mut self, i: usize, t: Box<T>) {
        match i.checked_sub(1).filter(|_| self.first.is_some()) {
            Some(i) => self.more().list.insert(i, t),
            None => {
                if let Some(old) = self.first.replace(t) {
                    self.more().list.push_front(old);
                }
            }
        }
    }

    pub fn remove(&mut self, i: usize) -> Option<Box<T>> {
        match i.checked_sub(1) {
            None => self.pop_front(),
            Some(i) => self.more.as_mut()?.list.remove(i),
        }
    }

    /// Bytes it has allocated, beside its elements.
    pub fn memory(&self) -> usize {
        self.more.as_ref().map_or(0, |m| size_of::<More<T>>() + m.list.capacity() * size_of::<Box<T>>())
    }

    /// Gives back what is empty: all of it if it was not needed this time.
    #[cold]
    fn trim(&mut self) {
        if let Some(m) = self.more.as_mut().filter(|m| m.used) {
            m.used = false;
            m.list.shrink_to(KEPT);
        } else {
            self.more = None;
        }
    }
}

impl<T> IntoIterator for BoxQueue<T> {
    type Item = Box<T>;
    type IntoIter = std::iter::Chain<std::option::IntoIter<Box<T>>, std::collections::vec_deque::IntoIter<Box<T>>>;

    fn into_iter(self) -> Self::IntoIter {
        let more = self.more.map(|m| m.list).unwrap_or_default();
        self.first.into_iter().chain(more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(q: &BoxQueue<u32>) -> Vec<u32> {
        let all: Vec<u32> = q.iter().copied().collect();
        let by_index: Vec<u32> = (0..q.len()).filter_map(|i| q.get(i).copied()).collect();
        assert_eq!((all.first(), all.last(), all.len()), (q.front(), q.back(), q.len()));
        assert_eq!((&by_index, q.is_empty(), q.get(q.len())), (&all, all.is_empty(), None));
        all
    }

    #[test]
    fn it_does_what_a_deque_does() {
        let (mut q, mut d) = (BoxQueue::default(), VecDeque::new());
        let mut x = 1u32;
        for step in 0..5000u32 {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = if d.is_empty() { 0 } else { (x >> 8) as usize % (d.len() + 1) };
            match x >> 29 {
                0..=1 => (q.push_back(Box::new(step)), d.push_back(step)).0,
                2 => (q.insert(at, Box::new(step)), d.insert(at, step)).0,
                3 => assert_eq!(q.remove(at).map(|b| *b), d.remove(at)),
                4 => assert_eq!(q.pop_back().map(|b| *b), d.pop_back()),
                5 => {
                    *q.back_mut().unwrap_or(&mut 0) = step;
                    *d.back_mut().unwrap_or(&mut 0) = step;
                }
                6 if at < d.len() => (*q.get_mut(at).unwrap(), d[at]) = (step, step),
                _ => assert_eq!(q.pop_front().map(|b| *b), d.pop_front()),
            }
            assert_eq!(holds(&q), Vec::from(d.clone()), "step {step}");
        }
        assert!(q.into_iter().map(|b| *b).eq(d));
    }

    #[test]
    fn one_at_a_time_takes_no_memory() {
        let mut q = BoxQueue::default();
        for n in 1..=9 {
            (0..n).for_each(|i| q.push_back(Box::new(i)));
            assert!(q.memory() >= (n - 1) * size_of::<Box<usize>>());
            (0..n).for_each(|_| drop(q.pop_front()));
        }
        assert!(q.more.as_ref().is_some_and(|m| m.list.capacity() <= KEPT), "bulk keeps a little");
        q.push_back(Box::new(1));
        q.pop_front();
        assert_eq!((q.memory(), size_of_val(&q)), (0, 16), "and gives it back");
    }
}
