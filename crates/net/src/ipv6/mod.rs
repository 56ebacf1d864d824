//! IPv6.
//!
//! Interface: the modules.
//! Linux counterpart: `net/ipv6/`.
//! Locks and context: each file says its own.
//!
//! From the bottom up: `addrconf_core` and `exthdrs_core`; `route`; `ip6_output`; `icmp`; `ip6_forward`, `exthdrs`,
//! `reassembly`; `ip6_input`; `ndisc`; `mcast`; `addrconf`; `l3_ops`, which registers them. What must go up goes through a table.

pub mod addrconf;
pub mod addrconf_core;
pub mod af_inet6;
pub mod exthdrs;
pub mod exthdrs_core;
pub mod icmp;
pub mod ip6_forward;
pub mod ip6_input;
pub mod ip6_output;
pub mod ipv6_sockglue;
pub mod l3_ops;
pub mod mcast;
pub mod ndisc;
pub mod ping;
pub mod protocol;
pub mod reassembly;
pub mod route;

#[cfg(test)]
mod tests;
