//! CUBIC (RFC 9438).
//!
//! Interface: `CUBIC`.
//! Linux counterpart: `net/ipv4/tcp_cubic.c`.
//! Locks and context: socket lock.
