//! A token bucket before the device: packets wait in the queue of the stack until there are tokens for them.
//!
//! Interface: [`Tbf`].
//! Linux counterpart: `net/sched/sch_tbf.c`.
//! Locks and context: one mutex, a leaf; transmit with softirqs off, the timer in softirq context.

use std::sync::{Mutex, PoisonError};

const SECOND: u64 = 1_000_000_000;

/// Tokens are nanoseconds of sending.
struct Bucket {
    /// Bytes a second.
    rate: u64,
    size: u64,
    tokens: u64,
    /// When they were counted.
    at: u64,
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Goes,
    /// So many nanoseconds.
    Waits(u64),
    /// It is larger than the bucket.
    Never,
}

/// Without a bucket everything goes.
#[derive(Default)]
pub struct Tbf(Mutex<Option<Bucket>>);

impl Tbf {
    /// A full bucket of `burst` bytes, into which `rate` bytes flow in a second; `None`: no bucket.
    pub fn set(&self, limits: Option<(u64, u64)>, now: u64) {
        let bucket = limits.map(|(rate, burst)| {
            let size = burst * SECOND / rate.max(1);
            Bucket { rate: rate.max(1), size, tokens: size, at: now }
        });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = bucket;
    }

    /// A packet of `len` bytes wants to leave.
    pub fn take(&self, len: usize, now: u64) -> Verdict {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(b) = guard.as_mut() else { return Verdict::Goes };
        b.tokens = b.size.min(b.tokens + (now - b.at));
        b.at = now;
        let cost = len as u64 * SECOND / b.rate;
        if cost > b.size {
            return Verdict::Never;
        }
        match b.tokens.checked_sub(cost) {
            Some(left) => {
                b.tokens = left;
                Verdict::Goes
            }
            None => Verdict::Waits(cost - b.tokens),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_fills() {
        let t = Tbf::default();
        assert_eq!(t.take(60_000, 0), Verdict::Goes);
        t.set(Some((1000, 100)), 0);
        assert_eq!(
            [t.take(101, 0), t.take(60, 0), t.take(60, 0)],
            [Verdict::Never, Verdict::Goes, Verdict::Waits(20_000_000)]
        );
        assert_eq!([t.take(60, 19_999_999), t.take(60, 20_000_000)], [Verdict::Waits(1), Verdict::Goes]);
        assert_eq!([t.take(100, SECOND), t.take(1, SECOND)], [Verdict::Goes, Verdict::Waits(1_000_000)]);
        t.set(None, SECOND);
        assert_eq!(t.take(1, SECOND), Verdict::Goes);
    }
}
