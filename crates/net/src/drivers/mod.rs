//! Drivers that need no host.
//!
//! Interface: the modules.
//! Linux counterpart: `drivers/net/`.
//! Locks and context: each file says its own.

pub mod loopback;
pub mod netem;
pub mod veth;
