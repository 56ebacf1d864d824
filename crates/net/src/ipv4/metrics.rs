//! What a user says of a route's path, checked against what the stack has.
//!
//! Interface: [`ip_fib_metrics_init`].
//! Linux counterpart: `net/ipv4/metrics.c`; for both versions of IP.
//! Locks and context: process context.

use crate::core::dst_metrics::DstMetrics;
use crate::core::net_namespace::Net;
use crate::ipv4::tcp_ca::tcp_ca_known;
use uapi::{Errno, Result};

/// `EINVAL` for a congestion control that there is not. One that goes later is nobody's: `tcp_ca_dst_init`.
pub fn ip_fib_metrics_init(net: &Net, metrics: &DstMetrics) -> Result<()> {
    if metrics.cc_algo().is_some_and(|name| !tcp_ca_known(&net.reg, name)) { Err(Errno::EINVAL) } else { Ok(()) }
}
