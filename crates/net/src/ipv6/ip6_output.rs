//! IPv6 transmit.
//!
//! Interface: `ip6_xmit`, `ip6_output`.
//! Linux counterpart: `net/ipv6/ip6_output.c`.
//! Locks and context: process and softirq context.
