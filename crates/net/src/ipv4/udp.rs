//! UDP over both versions of IP (RFC 768).
//!
//! Interface: `UDP_PROT`, `udp_rcv`.
//! Linux counterpart: `net/ipv4/udp.c`, `net/ipv6/udp.c`.
//! Locks and context: see `core::sock`.
