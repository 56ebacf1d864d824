//! Network devices and the two softirqs that move packets: registration, `dev_queue_xmit` down, NAPI and `netif_rx` up.
//!
//! Interface: [`NetDevice`], [`NetDeviceOps`], [`NapiStruct`]; `register_netdevice`, `netif_rx`, `netif_receive_skb`,
//! `dev_queue_xmit`, `napi_schedule`, `dev_add_pack`.
//! Linux counterpart: `include/linux/netdevice.h`, `net/core/dev.c`.
//! Locks and context: transmit in process or softirq context; receive in softirq context; registration in process context.
//!
//! Read from the bottom up: `device` (what a device is), `ptype` (who takes packets), `registry` (coming and going),
//! `softnet` (a CPU's share), `xmit` (the way down), `rx` (the way up).

mod device;
mod ptype;
mod registry;
mod rx;
mod softnet;
#[cfg(test)]
mod tests;
mod xmit;

pub use device::*;
pub use ptype::*;
pub use registry::*;
pub use rx::*;
pub use softnet::{NapiCounts, NapiPoll, NapiStats, NapiStruct, SoftnetData, softnet_stat};
pub use xmit::*;

use crate::core::net_namespace::Registries;
use kernel::Softirq;
use std::sync::Arc;

/// `net_dev_init`: opens the two softirqs.
pub fn net_dev_init(reg: &Arc<Registries>) {
    let weak = Arc::downgrade(reg);
    let up = weak.clone();
    reg.kernel.open_softirq(Softirq::NetRx, move || {
        if let Some(reg) = up.upgrade() {
            rx::net_rx_action(&reg);
        }
    });
    reg.kernel.open_softirq(Softirq::NetTx, move || {
        if let Some(reg) = weak.upgrade() {
            xmit::net_tx_action(&reg);
        }
    });
}
