//! IPv4 options.
//!
//! Interface: to be filled.
//! Linux counterpart: `net/ipv4/`.
//! Locks and context: any context.
