//! Congestion control of your own.
//!
//! Interface: [`Stack::register_congestion_control`], [`TcpCongestionOps`] and what its functions work with.
//! Linux counterpart: `tcp_register_congestion_control`, `struct tcp_congestion_ops`.
//! Locks and context: registering in process context; an algorithm's functions run under a connection's lock.
//!
//! An algorithm is a table of functions. What it does not say, Reno does. This one, Tom Kelly's Scalable TCP (2003), grows its
//! window by a hundredth of what is acknowledged, and gives an eighth away for a loss:
//!
//! ```
//! use sockeye::congestion::*;
//! use sockeye::Stack;
//!
//! static SCALABLE: TcpCongestionOps = TcpCongestionOps {
//!     name: "scalable",
//!     ssthresh: |_, tp| (tp.snd_cwnd - (tp.snd_cwnd >> 3)).max(2),
//!     cong_avoid: |_, tp, _ack, acked| {
//!         if !tcp_is_cwnd_limited(tp) {
//!             return;
//!         }
//!         let acked = if tp.in_slow_start() { tcp_slow_start(tp, acked) } else { acked };
//!         tcp_cong_avoid_ai(tp, tp.snd_cwnd.min(100), acked);
//!     },
//!     ..RENO_OPS
//! };
//!
//! # fn main() -> std::io::Result<()> {
//! let stack = Stack::new()?;
//! stack.register_congestion_control(&SCALABLE)?;
//! stack.set_sysctl_text("net.ipv4.tcp_congestion_control", "scalable")?;
//! assert_eq!(stack.sysctl_text("net.ipv4.tcp_available_congestion_control")?, "reno cubic bbr dctcp scalable");
//! # Ok(())
//! # }
//! ```
//!
//! A program chooses by `TCP_CONGESTION` too, as on Linux. `examples/congestion-control` is a crate that does this, with state
//! of its own.

use crate::Stack;
pub use net::core::sock::Sock;
use net::ipv4::tcp_ca::{tcp_register_congestion_control, tcp_unregister_congestion_control};
pub use net::ipv4::tcp_ca_types::{AckSample, CaAck, CaFlags, CaPriv, RateSample, TcpCaEvent, TcpCaState};
pub use net::ipv4::tcp_cong::{
    RENO_OPS, tcp_cong_avoid_ai, tcp_is_cwnd_limited, tcp_reno_cong_avoid, tcp_reno_ssthresh, tcp_slow_start,
    tcp_snd_cwnd_set,
};
pub use net::ipv4::tcp_pacing::{tcp_need_pacing, tcp_pacing_rate};
pub use net::ipv4::tcp_sock::{TcpCongestionOps, TcpSock};
use std::io;

impl Stack {
    /// Adds an algorithm for this stack and its [siblings](Stack::sibling). `EINVAL` for a name that is empty or has 16 bytes
    /// or more, `EEXIST` for one that is taken.
    pub fn register_congestion_control(&self, ops: &'static TcpCongestionOps) -> io::Result<()> {
        Ok(tcp_register_congestion_control(&self.net().reg, ops)?)
    }

    /// Takes it out again; connections that have it keep it. `ENOENT` if it is not registered, `EPERM` for one of the stack's
    /// own, `EBUSY` while it is a stack's default.
    pub fn unregister_congestion_control(&self, ops: &'static TcpCongestionOps) -> io::Result<()> {
        Ok(tcp_unregister_congestion_control(&self.net().reg, ops)?)
    }
}
