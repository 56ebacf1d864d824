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
    skb.ignore_pmtu = false;
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
            | Features::GSO_ACCECN
            | Features::GSO_UDP_L4
            | Features::RXCSUM,
        ops: Box::new(end.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::dev::{PacketType, dev_add_pack, dev_close, dev_open, dev_queue_xmit};
    use crate::core::eth::eth_header;
    use crate::core::skbuff::{GsoType, IpSummed};
    use crate::core::test_arch::TestMachine;
    use crate::drivers::netem::{Netem, NetemParams};
    use kernel::SpinLock;

    const ETH_P_TEST: u16 = 0x88b5;

    struct Setup {
        m: TestMachine,
        _nets: [Arc<Net>; 2],
        a: Arc<NetDevice>,
        b: Arc<NetDevice>,
        seen: Arc<SpinLock<Vec<Box<Skb>>>>,
    }

    fn setup(netem: Option<&Arc<Netem>>) -> Setup {
        let m = TestMachine::new();
        let reg = m.core_registries();
        let (na, nb) = (Net::new(&reg), Net::new(&reg));
        let wrap = |spec| match netem {
            Some(n) => n.wrap(spec),
            None => spec,
        };
        let (a, b) = veth_pair_with(&na, "a", &nb, "b", wrap, |s| s).expect("pair");
        let seen = Arc::new(SpinLock::new(Vec::new()));
        let to = seen.clone();
        let func = Box::new(move |_: &Arc<Net>, skb| to.lock_bh().push(skb));
        dev_add_pack(&reg, PacketType { kind: ETH_P_TEST, func });
        dev_open(&a).expect("up");
        assert!(!a.flags().contains(Iff::RUNNING), "no carrier while the peer is down");
        dev_open(&b).expect("up");
        assert!(a.flags().contains(Iff::RUNNING) && b.flags().contains(Iff::RUNNING));
        Setup { m, _nets: [na, nb], a, b, seen }
    }

    impl Setup {
        fn send(&self, n: u8) {
            let _inside = self.m.kernel.enter();
            let mut skb = Skb::from_bytes(64, &[n; 50]);
            skb.dev = Some(self.a.clone());
            skb.mark = 9;
            skb.trace_id = 77;
            skb.reset_network_header();
            eth_header(&mut skb, &self.a, ETH_P_TEST, self.b.addr, None);
            dev_queue_xmit(skb).expect("sent");
        }
        fn seen(&self) -> Vec<u8> {
            self.seen.lock_bh().drain(..).filter_map(|s| s.data().first().copied()).collect()
        }
    }

    #[test]
    fn crosses_namespaces_scrubbed() {
        let s = setup(None);
        assert_ne!(s.a.addr, s.b.addr);
        s.send(1);
        let skb = s.seen.lock_bh().pop().expect("a packet");
        assert_eq!((skb.mark, skb.trace_id, skb.skb_iif, skb.len()), (0, 77, s.b.ifindex, 50));
        dev_close(&s.b);
        s.send(2);
        assert!(s.seen().is_empty());
        assert_eq!(s.a.stats.tx_dropped.load(Relaxed), 1);
        unregister_netdevice(&s.a);
        assert!(!s.b.is_registered(), "an end does not outlive the other");
    }

    #[test]
    fn large_packets_cross_whole() {
        let s = setup(None);
        let _inside = s.m.kernel.enter();
        let mut skb = Skb::from_bytes(64, &[1; 60]);
        for _ in 0..20 {
            assert!(skb.add_frag(kernel::Frag::copy_of(&[2; 3000])));
        }
        skb.dev = Some(s.a.clone());
        (skb.gso_size, skb.gso_type) = (1448, GsoType::TCPV4);
        skb.reset_network_header();
        skb.reset_transport_header();
        skb.set_csum_partial(16);
        eth_header(&mut skb, &s.a, ETH_P_TEST, s.b.addr, None);
        dev_queue_xmit(skb).expect("sent");
        let got = s.seen.lock_bh().pop().expect("a packet");
        assert_eq!((got.len(), got.gso_size, got.ip_summed), (60060, 1448, IpSummed::Partial));
    }

    #[test]
    fn impairments_follow_the_seed() {
        let run = |seed| {
            let p = NetemParams { loss: 0.2, duplicate: 0.2, ..NetemParams::default() };
            let s = setup(Some(&Netem::new(p, seed)));
            (0..100).for_each(|n| s.send(n));
            s.seen()
        };
        let (a, again, other) = (run(1), run(1), run(2));
        assert_eq!(a, again);
        assert_ne!(a, other);
        let lost = (0..100).filter(|n| !a.contains(n)).count();
        let twice = a.windows(2).filter(|w| w[0] == w[1]).count();
        assert!((5..40).contains(&lost) && (5..40).contains(&twice), "{lost} lost, {twice} twice");
        assert!(a.is_sorted(), "without delays nothing overtakes");
    }

    #[test]
    fn delays_and_reorders() {
        let p = NetemParams { delay_ns: 10_000_000, reorder: 1.0, gap: 3, ..NetemParams::default() };
        let netem = Netem::new(p, 1);
        let s = setup(Some(&netem));
        (0..6).for_each(|n| s.send(n));
        assert_eq!(s.seen(), [2, 5], "each third overtakes");
        s.m.advance(9);
        assert!(s.seen().is_empty());
        s.m.advance(3);
        assert_eq!(s.seen(), [0, 1, 3, 4]);
        // The queue is bounded.
        netem.set(NetemParams { limit: 4, gap: 0, reorder: 0.0, ..p });
        (0..6).for_each(|n| s.send(n));
        s.m.advance(20);
        assert_eq!(s.seen(), [0, 1, 2, 3]);
        assert_eq!(netem.stats.overlimits.load(Relaxed), 2);
        // What waits when the device goes down is gone.
        s.send(1);
        dev_close(&s.a);
        s.m.advance(100);
        assert!(s.seen().is_empty());
    }

    #[test]
    fn delays_are_exact() {
        let p = NetemParams { delay_ns: 50_000, ..NetemParams::default() };
        let s = setup(Some(&Netem::new(p, 1)));
        s.send(1);
        s.m.advance_ns(20_000);
        s.send(2);
        s.m.advance_ns(29_999);
        assert!(s.seen().is_empty());
        s.m.advance_ns(1);
        assert_eq!(s.seen(), [1]);
        s.m.advance_ns(19_999);
        assert!(s.seen().is_empty());
        s.m.advance_ns(1);
        assert_eq!(s.seen(), [2]);
        // Nothing is left armed for a device without packets, or for one that is down.
        assert_eq!(s.m.kernel.hrtimers().pending(), 0);
        s.send(3);
        assert_eq!(s.m.kernel.hrtimers().pending(), 1);
        dev_close(&s.a);
        assert_eq!(s.m.kernel.hrtimers().pending(), 0);
    }

    #[test]
    fn corruption_turns_one_bit_of_a_private_copy() {
        let netem = Netem::new(NetemParams { corrupt: 1.0, ..NetemParams::default() }, 3);
        let s = setup(Some(&netem));
        let shared = kernel::Frag::copy_of(&[0; 400]);
        for _ in 0..50 {
            let _inside = s.m.kernel.enter();
            let mut skb = Skb::from_bytes(64, &[]);
            assert!(skb.add_frag(shared.clone()));
            skb.dev = Some(s.a.clone());
            eth_header(&mut skb, &s.a, ETH_P_TEST, s.b.addr, None);
            dev_queue_xmit(skb).expect("sent");
        }
        assert!(shared.iter().all(|b| *b == 0));
        for skb in s.seen.lock_bh().drain(..) {
            // In the header, a turned bit sends it elsewhere; here it shows.
            assert!(skb.chunks().flatten().map(|b| b.count_ones()).sum::<u32>() <= 1);
        }
        assert_eq!(netem.stats.corrupted.load(Relaxed), 50);
    }
}
