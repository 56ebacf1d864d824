//! IPv6 receive.
//!
//! Interface: `ipv6_rcv`.
//! Linux counterpart: `net/ipv6/ip6_input.c`.
//! Locks and context: softirq context.
