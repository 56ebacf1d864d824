//! The address family AF_INET: `inetsw`, socket operations over any transport.
//!
//! Interface: `inet_init`, `inet_create`, `INET_STREAM_OPS`, `INET_DGRAM_OPS`.
//! Linux counterpart: `net/ipv4/af_inet.c`.
//! Locks and context: process context.
