//! A pair of devices joined back to back: what one sends, the other receives, in the same or another namespace.
//!
//! Interface: [`veth_pair`], [`veth_pair_with`].
//! Linux counterpart: `drivers/net/veth.c`.
//! Locks and context: transmit runs to `netif_rx` of the peer on the same CPU.

use crate::core::dev::{
    Features, Iff, NetDevice, NetDeviceOps, NetDeviceSpec, NetdevTx, netif_carrier_off, netif_carrier_on, netif_rx,
    register_netdevice, unregister_netdevice,
};
use crate::core::eth::{ETH_HLEN, eth_random_addr, eth_type_trans};
use crate::core::net_namespace::Net;
use crate::core::skbuff::Skb;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock, Weak};
use uapi::{Errno, Result};

const ETH_DATA_LEN: u32 = 1500;

/// One end; knows the other once both are there.
#[derive(Default)]
struct Veth {
    peer: OnceLock<Weak<NetDevice>>,
}

impl Veth {
    fn peer(&self) -> Option<Arc<NetDevice>> {
        self.peer.get()?.upgrade()
    }
}

impl NetDeviceOps for Arc<Veth> {
    /// `veth_open`: there is a carrier when both ends are up.
    fn ndo_open(&self, dev: &Arc<NetDevice>) -> Result<()> {
        let peer = self.peer().ok_or(Errno::ENETDOWN)?;
        if peer.is_up() {
            netif_carrier_on(dev);
            netif_carrier_on(&peer);
        } else {
            netif_carrier_off(dev);
        }
        Ok(())
    }

    fn ndo_stop(&self, dev: &Arc<NetDevice>) {
        netif_carrier_off(dev);
        if let Some(peer) = self.peer() {
            netif_carrier_off(&peer);
        }
    }

    /// `veth_xmit`. A packet for a peer that is gone or down is dropped.
    fn ndo_start_xmit(&self, dev: &Arc<NetDevice>, mut skb: Box<Skb>) -> NetdevTx {
        kernel::tp!(veth_xmit, skb);
        let Some(peer) = self.peer().filter(|p| p.is_up()) else {
            dev.stats.tx_dropped.fetch_add(1, Relaxed);
            return NetdevTx::Ok;
        };
        skb_scrub_packet(&mut skb);
        eth_type_trans(&mut skb, &peer);
        // The peer counts what its input queue has no room for.
        let _ = netif_rx(skb);
        NetdevTx::Ok
    }

    fn lltx(&self) -> bool {
        true
    }

    /// One end does not live without the other.
    fn ndo_uninit(&self, _dev: &Arc<NetDevice>) {
        if let Some(peer) = self.peer() {
            unregister_netdevice(&peer);
        }
    }
}

/// `skb_scrub_packet`: what one namespace knew of a packet is none of the other's business. Its identity for tracing stays.
fn skb_scrub_packet(skb: &mut Skb) {
    skb.orphan();
    skb.dst = None;
    skb.mark = 0;
    skb.priority = 0;
    skb.skb_iif = 0;
    skb.tstamp = 0;
    skb.cb.clear();
}

/// `veth_newlink`: two Ethernet devices, down, with addresses drawn at random. `EINVAL` for namespaces of different kernels;
/// `EEXIST` for a name in use.
pub fn veth_pair(
    net_a: &Arc<Net>,
    name_a: &str,
    net_b: &Arc<Net>,
    name_b: &str,
) -> Result<(Arc<NetDevice>, Arc<NetDevice>)> {
    veth_pair_with(net_a, name_a, net_b, name_b, |spec| spec, |spec| spec)
}

/// The same with each end's specification passed through a function first, which may wrap its driver
/// ([`Netem::wrap`](crate::drivers::netem::Netem::wrap)) or take features away.
pub fn veth_pair_with(
    net_a: &Arc<Net>,
    name_a: &str,
    net_b: &Arc<Net>,
    name_b: &str,
    change_a: impl FnOnce(NetDeviceSpec) -> NetDeviceSpec,
    change_b: impl FnOnce(NetDeviceSpec) -> NetDeviceSpec,
) -> Result<(Arc<NetDevice>, Arc<NetDevice>)> {
    if !Arc::ptr_eq(&net_a.reg, &net_b.reg) {
        return Err(Errno::EINVAL);
    }
    let (a, b) = (Arc::new(Veth::default()), Arc::new(Veth::default()));
    let dev_a = register_netdevice(net_a, change_a(veth_spec(net_a, name_a, &a)))?;
    let dev_b = match register_netdevice(net_b, change_b(veth_spec(net_b, name_b, &b))) {
        Ok(d) => d,
        Err(e) => {
            unregister_netdevice(&dev_a);
            return Err(e);
        }
    };
    // Both cells are new, so neither can be taken.
    let _ = a.peer.set(dev_b.weak());
    let _ = b.peer.set(dev_a.weak());
    Ok((dev_a, dev_b))
}

fn veth_spec(net: &Net, name: &str, end: &Arc<Veth>) -> NetDeviceSpec {
    NetDeviceSpec {
        name: name.to_owned(),
        addr: eth_random_addr(net.kernel().random()),
        mtu: ETH_DATA_LEN,
        flags: Iff::BROADCAST | Iff::MULTICAST,
        hard_header_len: ETH_HLEN,
        features: Features::HW_CSUM
            | Features::SG
            | Features::TSO
            | Features::TSO6
            | Features::GSO_UDP_L4
            | Features::RXCSUM,
        ops: Box::new(end.clone()),
    }
}
