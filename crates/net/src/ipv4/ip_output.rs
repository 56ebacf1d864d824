//! IPv4 transmit.
//!
//! Interface: `ip_queue_xmit`, `ip_output`, `ip_finish_output`.
//! Linux counterpart: `net/ipv4/ip_output.c`.
//! Locks and context: process and softirq context.
