//! The transports below IPv6, by next-header number.
//!
//! Interface: [`inet6_add_protocol`], [`inet6_del_protocol`].
//! Linux counterpart: `net/ipv6/protocol.c`.
//! Locks and context: process context; removal sleeps.

use crate::core::net_namespace::{NetProtocol, Registries};
use crate::ipv4::protocol::{add_protocol, del_protocol};
use uapi::Result;

/// Registers a transport; `EEXIST` for a number in use.
pub fn inet6_add_protocol(reg: &Registries, number: u8, p: NetProtocol) -> Result<()> {
    add_protocol(&reg.inet6_protos, number, p)
}

/// Removes it. When it returns, no packet is on its way in any more.
pub fn inet6_del_protocol(reg: &Registries, number: u8) {
    del_protocol(&reg.inet6_protos, number);
}
