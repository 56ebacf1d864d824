//! IPv6.
//!
//! Interface: the modules.
//! Linux counterpart: `net/ipv6/`.
//! Locks and context: each file says its own.

pub mod addrconf;
pub mod af_inet6;
pub mod exthdrs;
pub mod icmp;
pub mod ip6_input;
pub mod ip6_output;
pub mod ndisc;
pub mod reassembly;
pub mod route;
