//! Address resolution (RFC 826).
//!
//! Interface: [`arp_init`] (ARP's neighbour operations and packet type), [`arp_rcv`], [`arp_send`], [`arp_announce`].
//! Linux counterpart: `net/ipv4/arp.c`.
//! Locks and context: softirq context; sending also in process context. No lock is held.

use crate::core::dev::{ETH_P_ARP, Iff, NetDevice, PacketType, dev_add_pack, dev_queue_xmit};
use crate::core::dst::RtnType;
use crate::core::eth::{ETH_HLEN, eth_header, is_valid_ether_addr};
use crate::core::flow::Flow;
use crate::core::neighbour::{
    NeighOps, NeighUpdate, Neighbour, Nud, neigh_event_ns, neigh_lookup, neigh_register, neigh_update,
};
use crate::core::net_namespace::{Net, Registries};
use crate::core::skbuff::{PktType, Skb};
use crate::hdr::ArpHdr;
use kernel::{HZ, tp};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use uapi::Result;
use uapi::sockaddr::AF_INET;
use zerocopy::IntoBytes;

pub const ARPOP_REQUEST: u16 = 1;
pub const ARPOP_REPLY: u16 = 2;
const ARPHRD_ETHER: u16 = 1;
const ETH_P_IP: u16 = crate::core::dev::ETH_P_IP;
/// `NEIGH_VAR(locktime)`: jiffies for which an answer is kept against another one, so that a second station that answers
/// for the same address does not replace the first.
const LOCKTIME: u64 = HZ;
/// ICMP "destination unreachable", "host unreachable".
const ICMP_DEST_UNREACH: u8 = 3;
const ICMP_HOST_UNREACH: u8 = 1;

static ARP_OPS: NeighOps =
    NeighOps { family: AF_INET, direct: arp_direct, solicit: arp_solicit, error_report: arp_error_report };

/// `arp_init`.
pub fn arp_init(reg: &Registries) {
    neigh_register(reg, &ARP_OPS);
    dev_add_pack(reg, PacketType { kind: ETH_P_ARP, func: Box::new(arp_rcv) });
}

/// Addresses that need no question: groups (RFC 1112, 6.4) and broadcast.
fn arp_direct(net: &Arc<Net>, dev: &NetDevice, hop: IpAddr) -> Option<[u8; 6]> {
    let IpAddr::V4(v4) = hop else { return None };
    if v4.is_multicast() {
        let [_, b, c, d] = v4.octets();
        return Some([0x01, 0x00, 0x5e, b & 0x7f, c, d]);
    }
    let broadcast = v4.is_broadcast() || net.l3(false).is_some_and(|l3| (l3.addr_type)(net, hop) == RtnType::Broadcast);
    broadcast.then_some(dev.broadcast)
}

/// `arp_error_report`: nobody answers for the next hop.
fn arp_error_report(net: &Arc<Net>, skb: Box<Skb>) {
    if let Some(l3) = net.l3(false) {
        (l3.icmp_send)(&skb, ICMP_DEST_UNREACH, ICMP_HOST_UNREACH, 0);
    }
}

/// `arp_solicit`: who has the neighbour's address?
fn arp_solicit(net: &Arc<Net>, n: &Arc<Neighbour>, saddr: Option<IpAddr>, unicast_to: Option<[u8; 6]>) {
    let IpAddr::V4(target) = n.hop else { return };
    let Some(source) = arp_source(net, &n.dev, target, saddr) else { return };
    let what = Arp { op: ARPOP_REQUEST, sip: source, tip: target, tha: [0; 6] };
    let _ = arp_send(&n.dev, &what, unicast_to.unwrap_or(n.dev.broadcast));
}

/// The address to ask from: that of the packet that waits if it is ours, else what routing would choose.
fn arp_source(net: &Arc<Net>, dev: &NetDevice, target: Ipv4Addr, saddr: Option<IpAddr>) -> Option<Ipv4Addr> {
    let l3 = net.l3(false)?;
    if let Some(IpAddr::V4(s)) = saddr
        && is_local(net, s)
    {
        return Some(s);
    }
    let mut flow = Flow::new(0, Ipv4Addr::UNSPECIFIED.into(), 0, target.into(), 0);
    flow.oif = dev.ifindex;
    let dst = (l3.route_output)(net, &mut flow).ok()?;
    match (flow.saddr, dst.prefsrc) {
        (IpAddr::V4(s), _) | (_, IpAddr::V4(s)) if !s.is_unspecified() => Some(s),
        _ => None,
    }
}

fn is_local(net: &Arc<Net>, addr: Ipv4Addr) -> bool {
    !addr.is_loopback() && net.l3(false).is_some_and(|l3| (l3.is_local)(net, addr.into()))
}

/// What an ARP packet says beside the sender's own link-layer address.
pub struct Arp {
    pub op: u16,
    pub sip: Ipv4Addr,
    pub tip: Ipv4Addr,
    pub tha: [u8; 6],
}

/// `arp_send`: one packet to the station `dest`. Nothing happens on a device without ARP.
pub fn arp_send(dev: &Arc<NetDevice>, what: &Arp, dest: [u8; 6]) -> Result<()> {
    if dev.flags().intersects(Iff::NOARP | Iff::LOOPBACK) || dev.hard_header_len < ETH_HLEN {
        return Ok(());
    }
    let arp = ArpHdr {
        hrd: ARPHRD_ETHER.into(),
        pro: ETH_P_IP.into(),
        hln: 6,
        pln: 4,
        op: what.op.into(),
        sha: dev.addr,
        sip: what.sip.octets(),
        tha: what.tha,
        tip: what.tip.octets(),
    };
    let mut skb = Skb::from_bytes(ETH_HLEN, arp.as_bytes());
    skb.dev = Some(dev.clone());
    skb.protocol = ETH_P_ARP;
    skb.reset_network_header();
    eth_header(&mut skb, dev, ETH_P_ARP, dest, None);
    dev_queue_xmit(skb)
}

/// A gratuitous request (RFC 5227, 2.3): others who know an older owner of the address learn the new one.
pub fn arp_announce(dev: &Arc<NetDevice>, addr: Ipv4Addr) -> Result<()> {
    arp_send(dev, &Arp { op: ARPOP_REQUEST, sip: addr, tip: addr, tha: [0; 6] }, dev.broadcast)
}

/// `arp_rcv`: checks the packet's form.
pub fn arp_rcv(net: &Arc<Net>, mut skb: Box<Skb>) {
    tp!(arp_rcv, skb);
    let Some(dev) = skb.dev.clone() else { return };
    if dev.flags().contains(Iff::NOARP) || matches!(skb.pkt_type, PktType::OtherHost | PktType::Loopback) {
        return;
    }
    if !skb.may_pull(ArpHdr::LEN) {
        return;
    }
    let Some(arp) = ArpHdr::read(skb.data()).copied() else { return };
    let form = arp.hrd.get() == ARPHRD_ETHER && arp.pro.get() == ETH_P_IP && arp.hln == 6 && arp.pln == 4;
    if form {
        arp_process(net, &dev, &arp, skb.pkt_type);
    }
}

/// `arp_process`: answers for our addresses, and learns.
fn arp_process(net: &Arc<Net>, dev: &Arc<NetDevice>, arp: &ArpHdr, to: PktType) {
    let (sip, tip) = (Ipv4Addr::from(arp.sip), Ipv4Addr::from(arp.tip));
    let (request, reply) = (arp.op.get() == ARPOP_REQUEST, arp.op.get() == ARPOP_REPLY);
    if !(request || reply) || tip.is_multicast() || tip.is_loopback() || sip.is_multicast() || sip.is_loopback() {
        return;
    }
    let answer = Arp { op: ARPOP_REPLY, sip: tip, tip: sip, tha: arp.sha };
    if sip.is_unspecified() {
        // A probe for a duplicate (RFC 5227, 2.1.1): it is answered, not learnt from.
        if request && is_local(net, tip) {
            let _ = arp_send(dev, &answer, arp.sha);
        }
        return;
    }
    if !is_valid_ether_addr(&arp.sha) || is_local(net, sip) {
        return;
    }
    if request && is_local(net, tip) {
        if neigh_event_ns(net, dev, arp.sha, sip.into()).is_some() {
            let _ = arp_send(dev, &answer, arp.sha);
        }
        return;
    }
    arp_learn(net, dev, arp, sip, reply && to == PktType::Host, sip == tip);
}

/// Updates what we know; about strangers nothing is noted, so that answers nobody asked for cannot fill the table.
fn arp_learn(net: &Arc<Net>, dev: &Arc<NetDevice>, arp: &ArpHdr, sip: Ipv4Addr, answered: bool, gratuitous: bool) {
    let Some(n) = neigh_lookup(net, dev.ifindex, sip.into()) else { return };
    let state = if answered { Nud::Reachable } else { Nud::Stale };
    let settled = net.kernel().jiffies() > n.updated() + LOCKTIME;
    let flags = if settled || gratuitous { NeighUpdate::OVERRIDE } else { NeighUpdate::empty() };
    let _ = neigh_update(net, &n, Some(arp.sha), state, flags);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::dev::{Features, netif_rx};
    use crate::core::dst::Dst;
    use crate::core::eth::eth_type_trans;
    use crate::core::l3::L3Ops;
    use crate::core::neighbour::{neigh_dump, neigh_output};
    use crate::core::test_arch::{Recorder, TestMachine};
    use std::cell::Cell;

    const US: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
    const HA: [u8; 6] = [2, 9, 9, 9, 9, 9];
    const HA2: [u8; 6] = [2, 8, 8, 8, 8, 8];

    thread_local!(static UNREACHABLE: Cell<usize> = const { Cell::new(0) });

    /// One address on one device.
    static L3: L3Ops = L3Ops {
        family: AF_INET,
        header_len: 20,
        route_output: |net, flow| {
            flow.saddr = US.into();
            let dev = crate::core::dev::dev_get_by_index(net, 1).ok_or(uapi::Errno::ENETUNREACH)?;
            Ok(Arc::new(dst(&dev)))
        },
        queue_xmit: |_, _, _, _, _| Ok(()),
        is_local: |_, a| a == IpAddr::from(US),
        addr_type: |_, a| if a == IpAddr::from([10, 0, 0, 255]) { RtnType::Broadcast } else { RtnType::Unicast },
        icmp_send: |_, kind, code, _| {
            assert_eq!((kind, code), (3, 1));
            UNREACHABLE.set(UNREACHABLE.get() + 1);
        },
        update_pmtu: |_, _, _| (),
    };

    fn dst(dev: &Arc<NetDevice>) -> Dst {
        Dst {
            dev: dev.clone(),
            kind: RtnType::Unicast,
            gateway: None,
            prefsrc: US.into(),
            pmtu: Default::default(),
            pmtu_locked: Default::default(),
            metrics: None,
            genid: 0,
            input: |_, _| (),
            output: |_, _| Ok(()),
        }
    }

    struct Setup {
        m: TestMachine,
        net: Arc<Net>,
        driver: Arc<Recorder>,
        dev: Arc<NetDevice>,
    }

    fn setup() -> Setup {
        let m = TestMachine::new();
        let reg = m.core_registries();
        arp_init(&reg);
        assert!(reg.l3[0].set(&L3).is_ok());
        let net = Net::new(&reg);
        let driver = Recorder::new();
        let dev = driver.device(&net, "eth0", Features::SG);
        Setup { m, net, driver, dev }
    }

    impl Setup {
        fn hear(&self, op: u16, sha: [u8; 6], sip: Ipv4Addr, tip: Ipv4Addr, dest: [u8; 6]) {
            let _inside = self.m.kernel.enter();
            let arp = ArpHdr {
                hrd: 1.into(),
                pro: ETH_P_IP.into(),
                hln: 6,
                pln: 4,
                op: op.into(),
                sha,
                sip: sip.octets(),
                tha: [0; 6],
                tip: tip.octets(),
            };
            let mut skb = Skb::from_bytes(64, arp.as_bytes());
            eth_header(&mut skb, &self.dev, ETH_P_ARP, dest, Some(sha));
            eth_type_trans(&mut skb, &self.dev);
            netif_rx(skb).expect("room");
        }
        fn send(&self, to: Ipv4Addr) {
            let _inside = self.m.kernel.enter();
            let mut ip = [0; 20];
            ip[0] = 0x45;
            ip[12..16].copy_from_slice(&US.octets());
            let _ = neigh_output(&self.net, &self.dev, to.into(), Skb::from_bytes(64, &ip));
        }
        /// Destination and ARP content of what was sent; `None` for a packet that is not ARP.
        fn sent(&self) -> Vec<([u8; 6], Option<ArpHdr>)> {
            let look = |s: Box<Skb>| {
                let d = s.data();
                let arp = (d[12..14] == ETH_P_ARP.to_be_bytes()).then(|| *ArpHdr::read(&d[14..]).expect("arp"));
                (d[..6].try_into().expect("six"), arp)
            };
            self.driver.take().into_iter().map(look).collect()
        }
        fn known(&self, a: Ipv4Addr) -> Option<([u8; 6], Nud)> {
            let n = neigh_lookup(&self.net, self.dev.ifindex, a.into())?;
            Some((n.lladdr()?, n.state()))
        }
    }

    #[test]
    fn asks_and_learns_the_answer() {
        let s = setup();
        s.send(PEER);
        let sent = s.sent();
        let (dest, Some(q)) = sent[0] else { panic!("not ARP") };
        assert_eq!((dest, q.op.get(), q.sip, q.tip), ([0xff; 6], ARPOP_REQUEST, US.octets(), PEER.octets()));
        s.hear(ARPOP_REPLY, HA, PEER, US, s.dev.addr);
        assert_eq!(s.known(PEER), Some((HA, Nud::Reachable)));
        assert!(matches!(s.sent()[..], [(HA, None)]));
        // A second station that answers at once does not take over; one that speaks later does.
        s.hear(ARPOP_REPLY, HA2, PEER, US, s.dev.addr);
        assert_eq!(s.known(PEER), Some((HA, Nud::Reachable)));
        s.m.advance(2000);
        s.hear(ARPOP_REPLY, HA2, PEER, US, s.dev.addr);
        assert_eq!(s.known(PEER), Some((HA2, Nud::Reachable)));
    }

    #[test]
    fn answers_for_us_and_nobody_else() {
        let s = setup();
        s.hear(ARPOP_REQUEST, HA, PEER, US, [0xff; 6]);
        let sent = s.sent();
        let (dest, Some(r)) = sent[0] else { panic!("not ARP") };
        assert_eq!(
            (dest, r.op.get(), r.sip, r.sha, r.tip, r.tha),
            (HA, ARPOP_REPLY, US.octets(), s.dev.addr, PEER.octets(), HA)
        );
        assert_eq!(s.known(PEER), Some((HA, Nud::Stale)));
        s.hear(ARPOP_REQUEST, HA, PEER, OTHER, [0xff; 6]);
        assert!(s.sent().is_empty());
        // A probe for a duplicate is answered and not learnt from.
        s.hear(ARPOP_REQUEST, HA2, Ipv4Addr::UNSPECIFIED, US, [0xff; 6]);
        assert_eq!((s.sent().len(), neigh_dump(&s.net, false).len()), (1, 1));
    }

    #[test]
    fn strangers_and_nonsense_leave_no_trace() {
        let s = setup();
        s.hear(ARPOP_REPLY, HA, OTHER, US, s.dev.addr);
        s.hear(ARPOP_REQUEST, HA, OTHER, OTHER, [0xff; 6]);
        s.hear(ARPOP_REQUEST, HA, US, US, [0xff; 6]);
        s.hear(ARPOP_REQUEST, [1, 0, 0, 0, 0, 0], PEER, US, [0xff; 6]);
        s.hear(9, HA, PEER, US, s.dev.addr);
        s.hear(ARPOP_REQUEST, HA, PEER, US, HA2);
        assert!(neigh_dump(&s.net, false).is_empty() && s.sent().is_empty());
        let _inside = s.m.kernel.enter();
        for n in 0..ArpHdr::LEN {
            let mut skb = Skb::from_bytes(64, &vec![1; n]);
            (skb.dev, skb.protocol) = (Some(s.dev.clone()), ETH_P_ARP);
            arp_rcv(&s.net, skb);
        }
    }

    #[test]
    fn an_announcement_moves_an_address() {
        let s = setup();
        s.hear(ARPOP_REQUEST, HA, PEER, US, [0xff; 6]);
        s.hear(ARPOP_REQUEST, HA2, PEER, PEER, [0xff; 6]);
        assert_eq!(s.known(PEER), Some((HA2, Nud::Stale)));
        s.sent();
        arp_announce(&s.dev, US).expect("sent");
        let sent = s.sent();
        let (dest, Some(a)) = sent[0] else { panic!("not ARP") };
        assert_eq!((dest, a.sip, a.tip), ([0xff; 6], US.octets(), US.octets()));
    }

    #[test]
    fn silence_is_host_unreachable() {
        let s = setup();
        (0..3).for_each(|_| s.send(PEER));
        s.m.advance(5000);
        assert_eq!((UNREACHABLE.get(), s.sent().len()), (3, 3));
    }

    #[test]
    fn groups_and_broadcast_are_not_asked_for() {
        let s = setup();
        s.send(Ipv4Addr::new(224, 129, 2, 3));
        s.send(Ipv4Addr::new(10, 0, 0, 255));
        s.send(Ipv4Addr::BROADCAST);
        let to: Vec<_> = s.sent().into_iter().map(|(d, _)| d).collect();
        assert_eq!(to, [[1, 0, 0x5e, 1, 2, 3], [0xff; 6], [0xff; 6]]);
    }

    #[test]
    fn a_probe_goes_to_the_known_station_only() {
        let s = setup();
        s.hear(ARPOP_REQUEST, HA, PEER, US, [0xff; 6]);
        s.send(PEER);
        s.sent();
        s.m.advance(7000);
        assert!(s.sent().iter().all(|(d, a)| *d == HA && a.is_some()));
    }
}
