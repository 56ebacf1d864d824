//! A cell's network as a model without a clock: what is sent where and when, and what comes out where and when.
//!
//! Interface: [`Path`] (`send`, `next`, `take`, `impair`), [`End`].
//! Linux counterpart: `net/sched/sch_netem.c` in purpose.
//! Locks and context: none; whoever drives it gives the time, virtual or real.
//!
//! The same wires with the same chances as the simulator's: of two stacks that send the same packets, the same are lost.

use super::cell::Cell;
use sim::Rng;
use sim::link::{LinkParams, Wire, WireStats};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::BinaryHeap;

/// The chances of the bottleneck and of the way back are drawn under these labels: the simulator's names for the lanes of
/// the cable `receiver`.
const THERE: &str = "cable/receiver/back";
const BACK: &str = "cable/receiver/there";

/// Who is at an end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Sender(usize),
    Receiver,
}

/// What a frame comes to next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Bottleneck,
    Out(End),
}

struct Way {
    wire: Wire,
    rng: Rng,
}

impl Way {
    fn new(params: LinkParams, seed: u64, label: &str) -> Way {
        Way { wire: Wire::new(params), rng: Rng::stream(seed, label) }
    }

    fn send(&mut self, now: u64, len: usize) -> Option<u64> {
        let rng = &mut self.rng;
        self.wire.send(now, len, &mut || rng.next_u64()).arrivals.first().map(|a| a.at)
    }
}

/// The network of a cell, with frames of type `F` on their way.
pub struct Path<F> {
    cell: Cell,
    /// Of each flow, how much longer its round trip is.
    longer: Vec<u64>,
    there: Way,
    back: Way,
    /// When each frame that is under way gets somewhere, and its number.
    due: BinaryHeap<Reverse<(u64, u64)>>,
    flying: BTreeMap<u64, (Stop, usize, F)>,
    serial: u64,
}

impl<F> Path<F> {
    /// Nothing goes wrong on it yet.
    pub fn new(cell: &Cell, seed: u64) -> Path<F> {
        let (there, back) = cell.quiet();
        Path {
            cell: cell.clone(),
            longer: (0..cell.flows.len()).map(|i| cell.longer(i, seed)).collect(),
            there: Way::new(there, seed, THERE),
            back: Way::new(back, seed, BACK),
            due: BinaryHeap::new(),
            flying: BTreeMap::new(),
            serial: 0,
        }
    }

    /// From now on, what the cell says goes wrong.
    pub fn impair(&mut self) {
        let (there, back) = self.cell.impaired();
        self.there.wire.set(there);
        self.back.wire.set(back);
    }

    pub fn stats(&self) -> WireStats {
        self.there.wire.stats
    }

    /// Sends a frame of `len` bytes, link-layer header included, from a sender, or from the receiver to sender `to`. `now`
    /// never goes back, and nothing is due before it.
    pub fn send(&mut self, from: End, to: usize, now: u64, len: usize, frame: F) {
        match from {
            End::Sender(i) => self.fly(now + self.longer[i] / 2, Stop::Bottleneck, len, frame),
            End::Receiver => {
                if let Some(at) = self.back.send(now, len) {
                    self.fly(at + self.longer[to] / 2, Stop::Out(End::Sender(to)), len, frame);
                }
            }
        }
        self.advance(now);
    }

    fn fly(&mut self, at: u64, stop: Stop, len: usize, frame: F) {
        self.serial += 1;
        self.due.push(Reverse((at, self.serial)));
        self.flying.insert(self.serial, (stop, len, frame));
    }

    /// Puts what has come to the bottleneck by `now` on it, as far as nothing comes out before.
    fn advance(&mut self, now: u64) {
        while let Some(&Reverse((at, n))) = self.due.peek().filter(|d| d.0.0 <= now) {
            if self.flying.get(&n).is_none_or(|f| f.0 != Stop::Bottleneck) {
                return;
            }
            self.due.pop();
            let Some((_, len, frame)) = self.flying.remove(&n) else { continue };
            if let Some(out) = self.there.send(at, len) {
                self.fly(out, Stop::Out(End::Receiver), len, frame);
            }
        }
    }

    /// When something is due next.
    pub fn next(&self) -> Option<u64> {
        self.due.peek().map(|d| d.0.0)
    }

    /// What comes out next, if it is out by `now`.
    pub fn take(&mut self, now: u64) -> Option<(End, F)> {
        self.advance(now);
        let &Reverse((_, n)) = self.due.peek().filter(|d| d.0.0 <= now)?;
        self.due.pop();
        match self.flying.remove(&n)? {
            (Stop::Out(end), _, frame) => Some((end, frame)),
            (Stop::Bottleneck, ..) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wan::Loss;

    const MS: u64 = 1_000_000;

    fn drain(p: &mut Path<u32>) -> Vec<(u64, End, u32)> {
        let next = |p: &mut Path<u32>| {
            let at = p.next()?;
            Some(p.take(at).map(|(end, f)| (at, end, f)))
        };
        std::iter::from_fn(|| next(p)).flatten().collect()
    }

    #[test]
    fn frames_take_the_time_of_the_line_and_half_a_round_trip() {
        let mut p = Path::new(&Cell::clean(10_000_000, 10), 1);
        p.send(End::Sender(0), 0, 0, 1250, 1);
        p.send(End::Sender(0), 0, 0, 1250, 2);
        p.send(End::Receiver, 0, 0, 1250, 3);
        let end = End::Receiver;
        assert_eq!(drain(&mut p), [(6 * MS, end, 1), (6 * MS, End::Sender(0), 3), (7 * MS, end, 2)]);
    }

    #[test]
    fn a_flow_with_a_longer_way_takes_longer_both_ways() {
        let cell = Cell { flows: vec![0, 30 * MS], ..Cell::clean(10_000_000, 10) };
        let mut p = Path::new(&cell, 1);
        p.send(End::Sender(1), 0, 0, 1250, 1);
        p.send(End::Sender(0), 0, 10 * MS, 1250, 2);
        assert_eq!(drain(&mut p), [(16 * MS, End::Receiver, 2), (21 * MS, End::Receiver, 1)]);
        p.send(End::Receiver, 1, 30 * MS, 1250, 3);
        assert_eq!(drain(&mut p), [(51 * MS, End::Sender(1), 3)]);
    }

    #[test]
    fn seeds_move_the_second_flow_by_less_than_a_frame() {
        let cell = Cell { flows: vec![0, 30 * MS], ..Cell::clean(10_000_000, 10) };
        let out = |seed| {
            let mut p = Path::new(&cell, seed);
            p.send(End::Sender(0), 0, 0, 1250, 0);
            p.send(End::Sender(1), 0, 10 * MS, 1250, 1);
            drain(&mut p).iter().map(|d| d.0).collect::<Vec<_>>()
        };
        assert_eq!(out(1), [6 * MS, 31 * MS]);
        // A frame of 1514 bytes takes 1.2112 ms, and half of the difference is on the way there.
        assert_eq!(out(2), [6 * MS, 31 * MS + 1_211_200 * 618 / 1000 / 2]);
        assert!((1..100).all(|s| (31 * MS..31 * MS + 605_600).contains(&out(s)[1])));
    }

    #[test]
    fn trouble_begins_when_asked_for() {
        let cell = Cell { loss: Loss::Random(500_000), ..Cell::clean(10_000_000, 10) };
        let mut p = Path::new(&cell, 1);
        let send = |p: &mut Path<u32>, from: u32| {
            for i in 0..1000 {
                p.send(End::Sender(0), 0, u64::from(from + i) * 10 * MS, 1250, i);
            }
            drain(p).len()
        };
        assert_eq!(send(&mut p, 0), 1000);
        p.impair();
        let through = send(&mut p, 1000);
        assert!((400..600).contains(&through), "{through}");
        assert_eq!(p.stats().lost, 1000 - through as u64);
    }

    #[test]
    fn what_the_buffer_has_no_room_for_is_dropped() {
        let cell = Cell { buffer: 100, ..Cell::clean(10_000_000, 10) };
        let mut p = Path::new(&cell, 1);
        // The product is 12,500 bytes.
        (0..20).for_each(|i| p.send(End::Sender(0), 0, 0, 1250, i));
        assert_eq!((drain(&mut p).len(), p.stats().overflow), (10, 10));
    }
}
