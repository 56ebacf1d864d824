//! The loopback device.
//!
//! Interface: [`loopback_init`]; each namespace gets a device `lo` with index 1, up.
//! Linux counterpart: `drivers/net/loopback.c`.
//! Locks and context: transmit runs to `netif_rx` on the same CPU; the packet goes up when bottom halves are on again.
//!
//! Packets stay as they are: neither cut nor summed, as they never leave this machine.

use crate::core::dev::{Features, Iff, NetDevice, NetDeviceOps, NetDeviceSpec, NetdevTx, netif_rx, register_netdevice};
use crate::core::eth::{ETH_HLEN, eth_type_trans};
use crate::core::net_namespace::{Net, Registries};
use crate::core::skbuff::Skb;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// The largest packet that the device takes, Linux's default.
const LOOPBACK_MTU: u32 = 65536;

struct Loopback;

impl NetDeviceOps for Loopback {
    /// `loopback_xmit`.
    fn ndo_start_xmit(&self, dev: &Arc<NetDevice>, mut skb: Box<Skb>) -> NetdevTx {
        kernel::tp!(loopback_xmit, skb);
        // The sender's part ends here: a socket that never reads must not hold another's send buffer.
        skb.orphan();
        eth_type_trans(&mut skb, dev);
        if netif_rx(skb).is_err() {
            dev.stats.tx_dropped.fetch_add(1, Relaxed);
        }
        NetdevTx::Ok
    }

    fn lltx(&self) -> bool {
        true
    }
}

/// Has every new namespace get its loopback device. To be the last of the subsystems, which hear of it.
pub fn loopback_init(reg: &Registries) {
    reg.pernet.lock_bh().push(loopback_net_init);
}

/// `loopback_net_init`.
fn loopback_net_init(net: &Arc<Net>) {
    let features = Features::HW_CSUM
        | Features::SG
        | Features::TSO
        | Features::TSO6
        | Features::GSO_ACCECN
        | Features::GSO_UDP_L4
        | Features::LOOPBACK
        | Features::RXCSUM;
    let spec = NetDeviceSpec {
        name: "lo".to_owned(),
        addr: [0; 6],
        mtu: LOOPBACK_MTU,
        flags: Iff::UP | Iff::LOOPBACK | Iff::RUNNING,
        hard_header_len: ETH_HLEN,
        features,
        ops: Box::new(Loopback),
    };
    let lo = register_netdevice(net, spec);
    debug_assert!(lo.is_ok(), "a new namespace has no loopback device: {:?}", lo.err());
}
