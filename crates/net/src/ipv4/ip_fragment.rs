//! IPv4 reassembly.
//!
//! Interface: `ip_defrag`.
//! Linux counterpart: `net/ipv4/ip_fragment.c`, `inet_fragment.c`.
//! Locks and context: softirq context; a lock a queue.
