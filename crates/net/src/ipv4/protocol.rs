//! The transports below IPv4, by protocol number.
//!
//! Interface: [`inet_add_protocol`], [`inet_del_protocol`], [`inet_protocol`].
//! Linux counterpart: `net/ipv4/protocol.c`.
//! Locks and context: registration in process context, removal sleeps; look-ups anywhere, under RCU.

use crate::core::net_namespace::{NetProtocol, Registries};
use kernel::rcu::RcuReadGuard;
use kernel::{Rcu, synchronize_rcu};
use std::sync::Arc;
use uapi::{Errno, Result};

/// Registers a transport; `EEXIST` for a number in use.
pub fn inet_add_protocol(reg: &Registries, number: u8, p: NetProtocol) -> Result<()> {
    add_protocol(&reg.inet_protos, number, p)
}

/// Removes it. When it returns, no packet is on its way in any more.
pub fn inet_del_protocol(reg: &Registries, number: u8) {
    del_protocol(&reg.inet_protos, number);
}

/// Adds to the table of either version of IP.
pub fn add_protocol(table: &[Rcu<NetProtocol>; 256], number: u8, p: NetProtocol) -> Result<()> {
    table[number as usize].assign_if_none(Arc::new(p)).map_err(|_| Errno::EEXIST)
}

/// Takes out of the table of either version of IP. Handlers run in read sections, so they are done a grace period later.
pub fn del_protocol(table: &[Rcu<NetProtocol>; 256], number: u8) {
    if table[number as usize].replace(None).is_some() {
        synchronize_rcu();
    }
}

/// What is registered for `number`. Its handlers must be called within the read section.
#[inline]
pub fn inet_protocol<'g>(reg: &'g Registries, number: u8, section: &'g RcuReadGuard) -> Option<&'g NetProtocol> {
    reg.inet_protos[number as usize].dereference(section)
}
