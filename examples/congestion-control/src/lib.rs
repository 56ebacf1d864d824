//! TCP Westwood+ as a module: an algorithm with state of its own, which the stack knows nothing about.
//!
//! Interface: [`WESTWOOD`].
//! Linux counterpart: `net/ipv4/tcp_westwood.c`.
//! Locks and context: its functions run under a connection's lock.
//!
//! After Mascolo, Casetti, Gerla, Sanadidi and Wang (2001), with the filter of Grieco and Mascolo (2004): a sender that knows
//! how fast its data arrives need not halve its window for a loss. It goes to what the path holds: that rate times the least
//! round-trip time. Over radio, where losses are not congestion, that keeps the path full.
//!
//! ```
//! # fn main() -> std::io::Result<()> {
//! let stack = sockeye::Stack::new()?;
//! stack.register_congestion_control(&example_congestion_control::WESTWOOD)?;
//! stack.set_sysctl_text("net.ipv4.tcp_congestion_control", "westwood+")?;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

use sockeye::congestion::*;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub static WESTWOOD: TcpCongestionOps = TcpCongestionOps {
    name: "westwood+",
    flags: CaFlags::NON_RESTRICTED,
    priv_layout: (size_of::<Westwood>(), align_of::<Westwood>()),
    ssthresh: |_, tp| path_holds(tp),
    pkts_acked: Some(measure),
    ..RENO_OPS
};

/// What the stack keeps for a connection; all zero in the beginning.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Westwood {
    /// Filtered rate, in segments a second, times 16.
    bandwidth: u32,
    /// Least round-trip time, microseconds; 0: none yet.
    rtt_min: u32,
    /// Segments acknowledged in this interval, and when it began in microseconds of the clock.
    acked: u32,
    start: u32,
}

/// A round trip, but no less than this, is an interval.
const INTERVAL_MIN_US: u32 = 50_000;

fn measure(_sk: &Sock, tp: &mut TcpSock, sample: &AckSample) {
    let now = tp.tcp_mstamp as u32;
    let rtt = tp.srtt_us >> 3;
    let w: &mut Westwood = tp.ca_priv.get_mut();
    if sample.rtt_us > 0 && (w.rtt_min == 0 || sample.rtt_us < w.rtt_min as i64) {
        w.rtt_min = sample.rtt_us as u32;
    }
    if w.start == 0 {
        w.start = now.max(1);
    }
    w.acked += sample.pkts_acked;
    let passed = now.wrapping_sub(w.start);
    if passed > rtt.max(INTERVAL_MIN_US) {
        let rate = (w.acked as u64 * 16_000_000 / passed as u64).min(u32::MAX as u64) as u32;
        w.bandwidth = if w.bandwidth == 0 { rate } else { ((w.bandwidth as u64 * 7 + rate as u64) / 8) as u32 };
        (w.acked, w.start) = (0, now.max(1));
    }
}

fn path_holds(tp: &mut TcpSock) -> u32 {
    let w: &Westwood = tp.ca_priv.get();
    let segments = w.bandwidth as u64 * w.rtt_min as u64 / 16_000_000;
    (segments as u32).max(2)
}
