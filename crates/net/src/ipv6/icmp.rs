//! ICMPv6 (RFC 4443).
//!
//! Interface: `icmpv6_rcv`, `icmpv6_send`.
//! Linux counterpart: `net/ipv6/icmp.c`.
//! Locks and context: softirq context.
