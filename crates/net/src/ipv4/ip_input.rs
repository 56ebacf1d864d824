//! IPv4 receive.
//!
//! Interface: `ip_rcv`, `ip_local_deliver`.
//! Linux counterpart: `net/ipv4/ip_input.c`.
//! Locks and context: softirq context.
