//! IPv4's table of operations.
//!
//! Interface: to be filled.
//! Linux counterpart: `net/ipv4/`.
//! Locks and context: any context.
