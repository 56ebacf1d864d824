//! Generic segmentation offload: one packet becomes segments of the MTU.
//!
//! Interface: [`skb_gso_segment`].
//! Linux counterpart: `net/core/gso.c`, `skb_segment`, `net/ipv4/tcp_offload.c`, `udp_offload.c`.
//! Locks and context: process or softirq context.
