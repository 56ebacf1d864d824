//! IPv6 extension headers.
//!
//! Interface: `ipv6_skip_exthdr`.
//! Linux counterpart: `net/ipv6/exthdrs.c`, `exthdrs_core.c`.
//! Locks and context: softirq context.
