//! The history of a run: a hash over all of it, and its last pages in words.
//!
//! Interface: [`Record`], [`What`]; the crate's `Trace`.
//! Linux counterpart: the `sched` and `irq` tracepoints.
//! Locks and context: the simulation's thread.
//!
//! The hash takes numbers of fixed width and nothing else: no address, no host time, no order of a hash table. Two runs with
//! equal hashes took the same steps at the same times.

use std::fmt;

/// What a step was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
#[non_exhaustive]
pub enum What {
    /// A task began to run: its number.
    Switch = 1,
    /// A task fell asleep: its number, its deadline.
    Sleep,
    /// A task was woken: its number, whether the waker is about to sleep.
    Wake,
    /// A task gave way: its number; 1: it was preempted.
    Yield,
    /// A task ended: its number.
    Exit,
    /// A task was made: its number.
    Spawn,
    /// A top half ran: its line.
    Irq,
    /// The timer interrupt: its base.
    Timer,
    /// An event of the world: its handler, its argument.
    Event,
    /// A CPU was made to let others go first.
    Preempt,
    /// A fault was injected: its kind, its size.
    Fault,
    /// Said by [`note`](crate::note): what it said.
    Note,
}

/// One step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Virtual nanoseconds.
    pub time: u64,
    /// Machine and CPU; `u32::MAX`: none, the world.
    pub machine: u32,
    pub cpu: u32,
    pub what: What,
    /// For a [`What::Note`], the hash of its kind.
    pub a: u64,
    pub b: u64,
    /// The kind of a [`What::Note`], empty for others.
    pub note: &'static str,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6}.{:09} ", self.time / 1_000_000_000, self.time % 1_000_000_000)?;
        match self.machine {
            u32::MAX => write!(f, "  world ")?,
            m => write!(f, "{:>4}/{:<2} ", m, self.cpu)?,
        }
        match self.what {
            What::Note => write!(f, "{} {} {}", self.note, self.a, self.b),
            w => write!(f, "{w:?} {} {}", self.a, self.b),
        }
    }
}

pub(crate) struct Trace {
    hash: u64,
    steps: u64,
    /// A ring; `oldest` is where the next step goes once it is full.
    last: Vec<Record>,
    oldest: usize,
    keep: usize,
}

/// Hashes the next word. The order matters, and each word reaches every bit within two more.
#[inline]
fn mix(h: u64, word: u64) -> u64 {
    let x = (h ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (x ^ (x >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93).rotate_left(29)
}

/// A name as a number.
pub(crate) fn hash_str(s: &str) -> u64 {
    s.bytes().fold(0xCBF2_9CE4_8422_2325, |h, b| mix(h, u64::from(b)))
}

impl Trace {
    /// Keeps the last `keep` steps.
    pub fn new(seed: u64, keep: usize) -> Trace {
        Trace { hash: mix(0x736F_636B_6579_6531, seed), steps: 0, last: Vec::with_capacity(keep), oldest: 0, keep }
    }

    #[inline]
    pub fn add(&mut self, r: Record) {
        let place = u64::from(r.machine) << 32 | u64::from(r.cpu) << 8 & 0xFFFF_FF00 | r.what as u64;
        // The fields are mixed side by side; only the sum goes through the chain.
        let sum = (r.time.wrapping_mul(0xA076_1D64_78BD_642F))
            .wrapping_add(place.wrapping_mul(0xE703_7ED1_A0B4_28DB).rotate_left(17))
            .wrapping_add(r.a.wrapping_mul(0x8EBC_6AF0_9C88_C6E3).rotate_left(31))
            .wrapping_add(r.b.wrapping_mul(0x5899_65CC_7537_4CC3).rotate_left(47));
        self.hash = mix(self.hash, sum);
        self.steps += 1;
        if self.last.len() < self.keep {
            self.last.push(r);
        } else if let Some(oldest) = self.last.get_mut(self.oldest) {
            *oldest = r;
            self.oldest = if self.oldest + 1 == self.keep { 0 } else { self.oldest + 1 };
        }
    }

    #[inline]
    pub fn note(&mut self, kind: &'static str, r: Record) {
        self.hash = mix(self.hash, hash_str(kind));
        self.add(Record { note: kind, ..r });
    }

    pub fn hash(&self) -> u64 {
        mix(self.hash, self.steps)
    }

    pub fn steps(&self) -> u64 {
        self.steps
    }

    pub fn log(&self) -> impl Iterator<Item = &Record> {
        let (newer, older) = self.last.split_at(self.oldest);
        older.iter().chain(newer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_counts_and_so_does_the_order() {
        let r = Record { time: 1, machine: 2, cpu: 3, what: What::Wake, a: 4, b: 5, note: "" };
        let hash = |rs: &[Record]| {
            let mut t = Trace::new(0, 2);
            rs.iter().for_each(|&r| t.add(r));
            t.hash()
        };
        let base = hash(&[r]);
        let others = [
            Record { time: 2, ..r },
            Record { machine: 3, ..r },
            Record { cpu: 4, ..r },
            Record { what: What::Sleep, ..r },
            Record { a: 5, ..r },
            Record { b: 4, ..r },
        ];
        assert!(others.iter().all(|&o| hash(&[o]) != base));
        assert_ne!(hash(&[r, others[0]]), hash(&[others[0], r]));
        assert_eq!(base, 13891579180497058555, "the value is part of what every machine must agree on");
    }
}
