//! ICMP (RFC 792, RFC 1122).
//!
//! Interface: `icmp_rcv`, `icmp_send`.
//! Linux counterpart: `net/ipv4/icmp.c`.
//! Locks and context: softirq context.
