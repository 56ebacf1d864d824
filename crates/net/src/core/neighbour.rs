//! Neighbours: next-hop addresses resolved to link-layer addresses.
//!
//! Interface: [`NeighTables`] (ARP's and ND's table of a namespace), [`NeighOps`] (how a family asks), [`neigh_output`],
//! [`neigh_update`], [`neigh_event_ns`], [`neigh_confirm`], [`neigh_lookup`], [`neigh_init`].
//! Linux counterpart: `net/core/neighbour.c`, `include/net/neighbour.h`.
//! Locks and context: look-ups anywhere, without a lock; each entry has a lock of its own, held for moments and never while
//! something is sent or asked. Timers run in softirq context.
//!
//! ```text
//!            packet            answer             30 s           packet         5 s             answer
//!   NONE ─────────▶ INCOMPLETE ─────▶ REACHABLE ─────▶ STALE ─────────▶ DELAY ─────▶ PROBE ─────────────▶ REACHABLE
//!                       │ 3 questions     ▲                               │ confirmed  │ 3 questions
//!                       ▼                 └───────────────────────────────┘            ▼
//!                     FAILED                                                         FAILED
//! ```
//! (RFC 4861, 7.3.2; IPv4 does the same. A failed entry is asked for anew by the next packet.)

mod entry;
mod state;
mod table;
#[cfg(test)]
mod tests;

pub use entry::{NeighOps, NeighUpdate, Neighbour, Nud};
pub use state::{neigh_add, neigh_confirm, neigh_create, neigh_event_ns, neigh_output, neigh_update};
pub use table::{NeighStats, NeighTable, NeighTables, neigh_delete, neigh_dump, neigh_ifdown, neigh_lookup};

use crate::core::dev::{NetdevEvent, register_netdevice_notifier};
use crate::core::net_namespace::Registries;

/// `neigh_table_init`: once a family, at start-up.
pub fn neigh_register(reg: &Registries, ops: &'static NeighOps) {
    let first = reg.neigh_ops[(ops.family == uapi::sockaddr::AF_INET6) as usize].set(ops).is_ok();
    debug_assert!(first, "neighbour operations of family {} registered twice", ops.family);
}

/// `neigh_init`: entries of a device go when it goes down.
pub fn neigh_init(reg: &Registries) {
    register_netdevice_notifier(reg, |dev, event| {
        if matches!(event, NetdevEvent::Down | NetdevEvent::Unregister)
            && let Some(net) = dev.net()
        {
            neigh_ifdown(&net, dev);
        }
    });
}
