//! IPv4 forwarding.
//!
//! Interface: `ip_forward`.
//! Linux counterpart: `net/ipv4/ip_forward.c`.
//! Locks and context: softirq context.
