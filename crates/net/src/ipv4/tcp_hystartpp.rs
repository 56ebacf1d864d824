//! HyStart++ (RFC 9406): leaves slow start when the path's delay grows, by way of a slower start that can be taken back.
//!
//! Interface: [`HystartPp`], [`L`], [`CSS_GROWTH_DIVISOR`].
//! Linux counterpart: none; its `net/ipv4/tcp_cubic.c` has the older HyStart.
//! Locks and context: plain data, under the socket lock.

use super::tcp_queue::before;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// RFC 9406, 4.3, its recommended values. Times are microseconds.
pub const MIN_RTT_THRESH: u32 = 4000;
pub const MAX_RTT_THRESH: u32 = 16000;
pub const MIN_RTT_DIVISOR: u32 = 8;
pub const N_RTT_SAMPLE: u8 = 8;
pub const CSS_GROWTH_DIVISOR: u32 = 4;
pub const CSS_ROUNDS: u8 = 5;
/// Segments that one ACK may add to the window of a connection that does not pace.
pub const L: u32 = 8;

/// No round-trip time.
const INFINITY: u32 = u32::MAX;

/// What is kept of the rounds of a connection's first slow start (RFC 9406, 4.2).
#[derive(Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct HystartPp {
    /// Round-trip times measured in this round, as far as they are asked for.
    samples: u8,
    /// Rounds of Conservative Slow Start that are over.
    css_rounds: u8,
    in_css: u8,
    /// For its owner, to tell it from what may lie in the same place.
    pub tag: u8,
    /// The round ends when this is acknowledged.
    window_end: u32,
    last_round_min_rtt: u32,
    current_round_min_rtt: u32,
    css_baseline_min_rtt: u32,
}

impl HystartPp {
    /// At the start of a connection, of which `snd_nxt` is the next byte to send.
    pub fn new(tag: u8, snd_nxt: u32) -> HystartPp {
        HystartPp {
            samples: 0,
            css_rounds: 0,
            in_css: 0,
            tag,
            window_end: snd_nxt,
            last_round_min_rtt: INFINITY,
            current_round_min_rtt: INFINITY,
            css_baseline_min_rtt: INFINITY,
        }
    }

    /// Whether the window grows by a quarter only.
    pub fn in_css(&self) -> bool {
        self.in_css != 0
    }

    /// An ACK has come, with a round-trip time or without. `true`: slow start is over.
    pub fn ack(&mut self, snd_una: u32, snd_nxt: u32, rtt: Option<u32>) -> bool {
        if !before(snd_una, self.window_end) && self.end_of_round(snd_nxt) {
            return true;
        }
        if let Some(rtt) = rtt {
            self.current_round_min_rtt = self.current_round_min_rtt.min(rtt);
            self.samples = self.samples.saturating_add(1);
        }
        if self.samples >= N_RTT_SAMPLE {
            self.compare();
        }
        false
    }

    /// A round is over, also if only part of it was conservative. `true`: it was the last conservative one.
    fn end_of_round(&mut self, snd_nxt: u32) -> bool {
        if self.in_css() {
            self.css_rounds += 1;
            if self.css_rounds >= CSS_ROUNDS {
                return true;
            }
        }
        self.window_end = snd_nxt;
        self.last_round_min_rtt = self.current_round_min_rtt;
        self.current_round_min_rtt = INFINITY;
        self.samples = 0;
        false
    }

    /// Enters Conservative Slow Start when this round's delay is a threshold above the last one's, and leaves it again when
    /// it falls below what it was then: the growth was jitter.
    fn compare(&mut self) {
        let now = self.current_round_min_rtt;
        if self.in_css() {
            if now < self.css_baseline_min_rtt {
                (self.in_css, self.css_baseline_min_rtt) = (0, INFINITY);
            }
            return;
        }
        let last = self.last_round_min_rtt;
        if last == INFINITY {
            return;
        }
        let thresh = (last / MIN_RTT_DIVISOR).clamp(MIN_RTT_THRESH, MAX_RTT_THRESH);
        if now >= last.saturating_add(thresh) {
            (self.in_css, self.css_rounds, self.css_baseline_min_rtt) = (1, 0, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection whose rounds are 1000 bytes.
    struct Conn {
        h: HystartPp,
        nxt: u32,
    }

    impl Conn {
        /// Has been through one round of `rtt`; its second one has begun.
        fn after_round(rtt: u32) -> Conn {
            // The numbers wrap on the way.
            let mut c = Conn { h: HystartPp::new(0, u32::MAX - 1500), nxt: u32::MAX - 1500 };
            assert!(!c.round(N_RTT_SAMPLE, rtt));
            c
        }

        /// A round begins and `n` samples come in it.
        fn round(&mut self, n: u8, rtt: u32) -> bool {
            let una = self.nxt;
            self.nxt = self.nxt.wrapping_add(1000);
            if self.h.ack(una, self.nxt, None) {
                return true;
            }
            (0..n).any(|i| self.h.ack(una.wrapping_add(1 + i as u32), self.nxt, Some(rtt)))
        }
    }

    /// RFC 9406, 4.2: RttThresh is an eighth of the last round's, but at least 4 ms and at most 16.
    #[test]
    fn delay_must_grow_by_the_threshold() {
        for (rtt, thresh) in [(1000, 4000), (32_000, 4000), (80_000, 10_000), (128_000, 16_000), (900_000, 16_000)] {
            let mut c = Conn::after_round(rtt);
            c.round(N_RTT_SAMPLE, rtt + thresh - 1);
            assert!(!c.h.in_css(), "{rtt}");
            let mut c = Conn::after_round(rtt);
            c.round(N_RTT_SAMPLE, rtt + thresh);
            assert!(c.h.in_css(), "{rtt}");
        }
    }

    /// RFC 9406, 4.2: rounds are compared when eight samples have been seen, by the least of them.
    #[test]
    fn fewer_than_eight_samples_say_nothing() {
        let mut c = Conn::after_round(50_000);
        c.round(N_RTT_SAMPLE - 1, 90_000);
        assert!(!c.h.in_css());
        c.h.ack(c.nxt - 1, c.nxt, None);
        assert!(!c.h.in_css(), "an ACK without a sample is none");
        c.h.ack(c.nxt - 1, c.nxt, Some(90_000));
        assert!(c.h.in_css());

        let mut c = Conn::after_round(50_000);
        c.round(1, 50_500);
        (0..30).for_each(|_| assert!(!c.h.ack(c.nxt - 1, c.nxt, Some(90_000))));
        assert!(!c.h.in_css(), "one sample without delay: the path is not full");
    }

    /// RFC 9406, 4.2: a round that saw no sample has no minimum to compare with.
    #[test]
    fn a_round_without_samples_is_not_compared_with() {
        let mut c = Conn::after_round(10_000);
        c.round(0, 0);
        c.round(N_RTT_SAMPLE, 200_000);
        assert!(!c.h.in_css());
    }

    /// RFC 9406, 4.2: the comparison is with the round before, not with the least ever.
    #[test]
    fn slow_growth_is_not_growth() {
        let mut c = Conn::after_round(50_000);
        for rtt in (53_000..90_000).step_by(3000) {
            c.round(N_RTT_SAMPLE, rtt);
            assert!(!c.h.in_css(), "{rtt}");
        }
    }

    /// RFC 9406, 4.2: at most five conservative rounds, of which the one it began in is the first.
    #[test]
    fn conservative_slow_start_lasts_five_rounds() {
        let mut c = Conn::after_round(50_000);
        for round in 1..=CSS_ROUNDS {
            assert!(!c.round(N_RTT_SAMPLE, 70_000), "{round}");
            assert!(c.h.in_css());
        }
        assert!(c.round(N_RTT_SAMPLE, 70_000));
    }

    /// A round may have more samples than are counted.
    #[test]
    fn the_last_of_many_samples_counts() {
        let mut c = Conn::after_round(50_000);
        c.round(N_RTT_SAMPLE, 70_000);
        c.round(u8::MAX, 70_000);
        assert!(c.h.in_css());
        c.h.ack(c.nxt - 1, c.nxt, Some(50_000));
        assert!(!c.h.in_css());
    }

    /// RFC 9406, 4.2: below the baseline slow start goes on, and a later growth gets five rounds of its own.
    #[test]
    fn slow_start_goes_on_when_the_delay_has_gone() {
        let mut c = Conn::after_round(50_000);
        c.round(N_RTT_SAMPLE, 70_000);
        c.round(N_RTT_SAMPLE, 70_000);
        assert!(c.h.in_css(), "as slow as when it began");
        c.round(N_RTT_SAMPLE - 1, 50_000);
        assert!(c.h.in_css(), "seven samples say nothing");
        c.h.ack(c.nxt - 1, c.nxt, Some(50_000));
        assert!(!c.h.in_css());
        for _ in 1..=CSS_ROUNDS {
            assert!(!c.round(N_RTT_SAMPLE, 70_000));
            assert!(c.h.in_css());
        }
        assert!(c.round(0, 0));
    }
}
