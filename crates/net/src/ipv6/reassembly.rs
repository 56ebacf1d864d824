//! IPv6 reassembly.
//!
//! Interface: `ipv6_frag_rcv`.
//! Linux counterpart: `net/ipv6/reassembly.c`.
//! Locks and context: softirq context.
