//! The address family AF_INET6.
//!
//! Interface: `inet6_init`, `inet6_create`.
//! Linux counterpart: `net/ipv6/af_inet6.c`.
//! Locks and context: process context.
