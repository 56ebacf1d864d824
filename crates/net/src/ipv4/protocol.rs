//! The transports below IPv4, by protocol number.
//!
//! Interface: [`inet_add_protocol`], [`inet_del_protocol`], [`inet_protocol`].
//! Linux counterpart: `net/ipv4/protocol.c`.
//! Locks and context: registration in process context; look-ups anywhere, under RCU.

use crate::core::net_namespace::{NetProtocol, Registries};
use kernel::rcu_read_lock;
use std::sync::Arc;
use uapi::{Errno, Result};

/// Registers a transport; `EEXIST` for a number in use.
pub fn inet_add_protocol(reg: &Registries, number: u8, p: NetProtocol) -> Result<()> {
    reg.inet_protos[number as usize].assign_if_none(Arc::new(p)).map_err(|_| Errno::EEXIST)
}

/// Removes it; packets on their way to it may still arrive for a grace period.
pub fn inet_del_protocol(reg: &Registries, number: u8) {
    reg.inet_protos[number as usize].assign(None);
}

/// What is registered for `number`. The functions are copied out, so that no read section spans their run.
#[inline]
pub fn inet_protocol(reg: &Registries, number: u8) -> Option<NetProtocol> {
    let section = rcu_read_lock();
    let p = reg.inet_protos[number as usize].dereference(&section)?;
    Some(NetProtocol { handler: p.handler, err_handler: p.err_handler })
}
