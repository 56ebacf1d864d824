//! Neighbour discovery (RFC 4861).
//!
//! Interface: `ndisc_rcv`.
//! Linux counterpart: `net/ipv6/ndisc.c`.
//! Locks and context: softirq context.
