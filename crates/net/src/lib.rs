//! The Linux network stack in safe Rust: everything between `socket(2)` and the wire.
//!
//! Interface: [`socket`] (the system calls), [`core::net_namespace`] (`Net`), [`core::dev`] (devices); see each module.
//! Linux counterpart: `net/`.
//! Locks and context: ARCHITECTURE.md has the contexts and the lock order.
//!
//! Modules hold each other together by registration, as in Linux: address families in `net_families`, socket types in
//! `inetsw`, packet types in `ptype_base`, transports in `inet_protos`, the two versions of IP in `L3Ops`.
#![forbid(unsafe_code)]

pub mod core;
pub mod drivers;
pub mod hdr;
pub mod init;
pub mod ipv4;
pub mod ipv6;
pub mod security;
pub mod socket;
pub mod syscall;
