//! The grid: networks, and what could be had on each.
//!
//! Interface: [`Cell`], [`Loss`], [`grid`], [`fairness`].
//! Linux counterpart: none; `tc-netem(8)` in purpose.
//! Locks and context: none.

use sim::link::{Chance, GilbertElliott, LinkParams};

pub const MS: u64 = 1_000_000;
pub const SEC: u64 = 1_000_000_000;

/// A full segment's payload with timestamps, and its frame.
pub const MSS: u64 = 1448;
pub const FRAME: u64 = 1514;
/// Packets that are lost in one burst, on average.
const BURST: u32 = 5;
/// Frames that any bottleneck has room for, that being sent included.
const LEAST_BUFFER: u64 = 4;

/// How packets of data are lost, in parts of a million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    None,
    /// Each for itself.
    Random(u32),
    /// In bursts, by the model of Gilbert and Elliott.
    Burst(u32),
}

/// One network, and how many flows share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Bits per second of the bottleneck.
    pub rate: u64,
    /// Nanoseconds, of empty queues.
    pub rtt: u64,
    /// Hundredths of a bandwidth-delay product that may wait at the bottleneck.
    pub buffer: u64,
    pub loss: Loss,
    /// Parts of a million: data packets that are overtaken by others; acknowledgements that are lost.
    pub reorder: u32,
    pub ack_loss: u32,
    /// How much longer each flow's round trip is than `rtt`, in nanoseconds.
    pub flows: Vec<u64>,
}

impl Cell {
    /// One flow through a bottleneck with a buffer of one bandwidth-delay product, and nothing lost but there.
    pub fn clean(rate: u64, rtt_ms: u64) -> Cell {
        Cell { rate, rtt: rtt_ms * MS, buffer: 100, loss: Loss::None, reorder: 0, ack_loss: 0, flows: vec![0] }
    }

    /// Nanoseconds that are measured.
    pub fn time(&self) -> u64 {
        match (self.flows.len(), self.rate) {
            (2.., _) => 30 * SEC,
            (_, 10_000_000_000) => 5 * SEC,
            _ if self.rtt >= 100 * MS => 20 * SEC,
            _ => 10 * SEC,
        }
    }

    /// How much longer a flow's round trip is than `rtt`, with this seed. Which of two flows finds a full buffer hangs on how
    /// far apart they come, within the time of a frame, and is the same again and again: so the seeds move the second one.
    pub fn longer(&self, flow: usize, seed: u64) -> u64 {
        let frame = FRAME * 8 * SEC / self.rate;
        // Multiples of the golden ratio's fraction lie evenly.
        let part = seed.saturating_sub(1) * 618 % 1000;
        self.flows[flow] + if flow > 0 { frame * part / 1000 } else { 0 }
    }

    /// Bytes of a bandwidth-delay product.
    pub fn bdp(&self) -> u64 {
        (self.rate as u128 * self.rtt as u128 / 8 / SEC as u128) as u64
    }

    pub fn buffer_bytes(&self) -> u64 {
        (self.bdp() * self.buffer / 100).max(LEAST_BUFFER * FRAME)
    }

    /// The bottleneck while connections are made, and the way back: nothing goes wrong on them.
    pub fn quiet(&self) -> (LinkParams, LinkParams) {
        let way = LinkParams { bandwidth: self.rate, delay: self.rtt / 2, ..LinkParams::default() };
        (LinkParams { limit_bytes: self.buffer_bytes() as usize, ..way }, way)
    }

    /// The bottleneck and the way back.
    pub fn impaired(&self) -> (LinkParams, LinkParams) {
        let (there, back) = self.quiet();
        let (loss, burst) = match self.loss {
            Loss::None => (Chance::NEVER, GilbertElliott::default()),
            Loss::Random(p) => (Chance::ppm(p), GilbertElliott::default()),
            Loss::Burst(p) => (Chance::NEVER, bursts(p)),
        };
        let frame = FRAME * 8 * SEC / self.rate;
        let reorder_by = (self.rtt / 10).max(4 * frame);
        let there = LinkParams { loss, burst, reorder: Chance::ppm(self.reorder), reorder_by, ..there };
        (there, LinkParams { loss: Chance::ppm(self.ack_loss), ..back })
    }

    fn lost(&self) -> f64 {
        match self.loss {
            Loss::None => 0.0,
            Loss::Random(p) | Loss::Burst(p) => f64::from(p) / 1e6,
        }
    }

    /// Bits per second that get through if the bottleneck is never idle: its rate without headers and without what is lost.
    pub fn limit(&self) -> f64 {
        self.rate as f64 * MSS as f64 / FRAME as f64 * (1.0 - self.lost())
    }

    /// Bits per second that CUBIC's own law allows at this rate of loss (RFC 9438, 5.2, equation 6, and Reno's, 5.1), if
    /// that is below the limit.
    pub fn law(&self) -> f64 {
        let (p, rtt) = (self.lost(), self.rtt as f64 / SEC as f64);
        if p == 0.0 {
            return self.limit();
        }
        let reno = (1.5 / p).sqrt();
        let cubic = 1.054 * (rtt.powi(3) / p.powi(3)).powf(0.25);
        (reno.max(cubic) * MSS as f64 * 8.0 / rtt).min(self.limit())
    }

    /// What is bad about it.
    pub fn trouble(&self) -> String {
        let mut words = Vec::new();
        match self.loss {
            Loss::None => {}
            Loss::Random(p) => words.push(format!("loss {}", percent(p))),
            Loss::Burst(p) => words.push(format!("bursts {}", percent(p))),
        }
        if self.reorder > 0 {
            words.push(format!("reorder {}", percent(self.reorder)));
        }
        if self.ack_loss > 0 {
            words.push(format!("ack loss {}", percent(self.ack_loss)));
        }
        if self.buffer != 100 {
            words.push(format!("buffer {}", self.buffer as f64 / 100.0));
        }
        if self.flows.len() > 1 {
            let rtts: Vec<String> = self.flows.iter().map(|f| ((self.rtt + f) / MS).to_string()).collect();
            words.push(format!("flows of {} ms", rtts.join(" and ")));
        }
        if words.is_empty() { "clean".to_owned() } else { words.join(", ") }
    }

    /// Its rate and its round trip.
    pub fn line(&self) -> String {
        format!("{} {} ms", rate(self.rate), self.rtt / MS)
    }

    pub fn name(&self) -> String {
        format!("{} {}", self.line(), self.trouble())
    }
}

/// A rate in words.
pub fn rate(bits: u64) -> String {
    match bits {
        1_000_000_000.. => format!("{} Gbit/s", bits / 1_000_000_000),
        _ => format!("{} Mbit/s", bits / 1_000_000),
    }
}

fn percent(ppm: u32) -> String {
    format!("{} %", f64::from(ppm) / 10_000.0)
}

/// Bursts of [`BURST`] packets on average, in which everything is lost, so that `ppm` of all packets are.
fn bursts(ppm: u32) -> GilbertElliott {
    let to_good = 1_000_000 / BURST;
    let to_bad = (u64::from(to_good) * u64::from(ppm) / u64::from(1_000_000 - ppm)) as u32;
    GilbertElliott {
        to_bad: Chance::ppm(to_bad),
        to_good: Chance::ppm(to_good),
        loss_in_good: Chance::NEVER,
        loss_in_bad: Chance::ALWAYS,
    }
}

pub const RATES: [u64; 4] = [10_000_000, 100_000_000, 1_000_000_000, 10_000_000_000];
pub const RTTS: [u64; 4] = [1, 10, 100, 300];

/// The grid: every rate with every round trip, in each trouble; the rarer ones at one rate.
pub fn grid() -> Vec<Cell> {
    let mut all = Vec::new();
    let mut add = |rates: &[u64], change: &dyn Fn(&mut Cell)| {
        for r in rates {
            for rtt in RTTS {
                let mut c = Cell::clean(*r, rtt);
                change(&mut c);
                all.push(c);
            }
        }
    };
    for buffer in [100, 10, 1000] {
        add(&RATES, &|c| c.buffer = buffer);
    }
    for p in [1_000, 10_000, 50_000] {
        add(&RATES, &|c| c.loss = Loss::Random(p));
    }
    add(&RATES[..3], &|c| c.loss = Loss::Burst(10_000));
    for p in [10_000, 100_000] {
        add(&RATES[..3], &|c| c.reorder = p);
    }
    let one = &RATES[1..2];
    for p in [1_000, 50_000] {
        add(one, &|c| c.loss = Loss::Burst(p));
    }
    for p in [100_000, 500_000] {
        add(one, &|c| c.ack_loss = p);
    }
    add(one, &|c| (c.loss, c.reorder, c.ack_loss) = (Loss::Random(10_000), 10_000, 100_000));
    all
}

/// Two flows that share a bottleneck: with the same round trip, and with different ones.
pub fn fairness() -> Vec<Cell> {
    let mut all = Vec::new();
    for rate in [10_000_000, 100_000_000] {
        for rtt in [10, 100] {
            for (buffer, more) in [(100, 0), (100, 3 * rtt * MS), (1000, 0), (10, 0)] {
                all.push(Cell { flows: vec![0, more], buffer, ..Cell::clean(rate, rtt) });
            }
        }
    }
    all
}
