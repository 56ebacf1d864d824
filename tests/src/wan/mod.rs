//! Goodput on bad networks: what the networks are, what could be had on them, and what this stack gets, in virtual time.
//!
//! Interface: [`Cell`] and [`grid`] (the networks), [`Path`] (one of them as a model, for whoever is not in the simulator),
//! [`simulate`] (this stack on one), [`Outcome`].
//! Linux counterpart: `tools/testing/selftests/net/netfilter`-like scripts around `tc netem`; none in the kernel itself.
//! Locks and context: each run has the calling thread to itself.

mod cell;
mod ours;
mod path;

pub use cell::{Cell, Loss, MSS, fairness, grid, rate};
pub use ours::simulate;
pub use path::{End, Path};

use sim::link::WireStats;

/// What a run does beside what its cell says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Congestion control by its name.
    pub congestion: String,
    pub seed: u64,
    /// Look at the flows each so many nanoseconds; 0: only at the end.
    pub sample: u64,
    /// Tunables of the senders that are not as they come.
    pub sysctls: Vec<(&'static str, i64)>,
}

impl Options {
    pub fn new(congestion: &str, seed: u64) -> Options {
        Options { congestion: congestion.to_owned(), seed, sample: 0, sysctls: Vec::new() }
    }
}

/// One look at one flow.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Nanoseconds since the flows began.
    pub at: u64,
    pub flow: usize,
    /// Bytes that its receiver has read.
    pub bytes: u64,
    pub info: uapi::tcp::TcpInfo,
}

/// What a run was like.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Bytes that each flow's receiver has read.
    pub bytes: Vec<u64>,
    /// Nanoseconds in which it did.
    pub time: u64,
    pub samples: Vec<Sample>,
    /// MIB counters that are not zero: the sender's, then the receiver's.
    pub counters: Vec<(String, u64)>,
    /// What the bottleneck did.
    pub wire: WireStats,
}

impl Outcome {
    /// Bits per second, of all flows together.
    pub fn goodput(&self) -> f64 {
        self.bytes.iter().sum::<u64>() as f64 * 8e9 / self.time.max(1) as f64
    }

    /// How equal the flows' shares are.
    pub fn jain(&self) -> f64 {
        jain(&self.bytes.iter().map(|b| *b as f64).collect::<Vec<_>>())
    }
}

/// Jain's index: 1 if the shares are equal, 1/n if one has everything (Jain, Chiu, Hawe 1984).
pub fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) = shares.iter().fold((0.0, 0.0), |(s, q), x| (s + x, q + x * x));
    if squares == 0.0 { 0.0 } else { sum * sum / (shares.len() as f64 * squares) }
}
