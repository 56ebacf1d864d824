//! Address resolution (RFC 826).
//!
//! Interface: `arp_rcv`, ARP's neighbour operations.
//! Linux counterpart: `net/ipv4/arp.c`.
//! Locks and context: softirq context.
