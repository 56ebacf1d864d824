//! IPv6 between namespaces joined by veth, and against whatever the wire may bring.
//!
//! Interface: tests.
//! Linux counterpart: `tools/testing/selftests/net/`.
//! Locks and context: one thread, a manual clock.

use super::addrconf::{inet6_addr_add, inet6_addr_add_flags, inet6_addr_list};
use super::addrconf_core::{IfaFlags, eui64, ipv6_dev_get_saddr, ipv6_dev_mc_dec, ipv6_dev_mc_inc};
use super::exthdrs_core::{NEXTHDR_FRAGMENT, NEXTHDR_ROUTING};
use super::icmp::{ICMPV6_ECHO_REQUEST, icmpv6_checksum};
use super::ip6_output::ip6_xmit;
use super::reassembly::Ip6Frag;
use super::route::{
    Route6Spec, ip6_addr_type, ip6_is_local, ip6_route_add, ip6_route_del, ip6_route_insert, ip6_route_list,
    ip6_route_output, ip6_update_pmtu,
};
use crate::core::dev::{ETH_P_IPV6, NetDevice, dev_get_by_name, dev_open, dev_set_mtu, netif_receive_skb};
use crate::core::dst::RtnType;
use crate::core::flow::Flow;
use crate::core::l3::{DontFragment, XmitParams};
use crate::core::neighbour::{Nud, neigh_lookup};
use crate::core::net_namespace::{Net, NetId, Registries};
use crate::core::netfilter::{HookPoint, Verdict};
use crate::core::skbuff::{MAX_HEADER, Skb};
use crate::core::snmp::Mib;
use crate::core::test_arch::TestMachine;
use crate::drivers::veth::veth_pair;
use crate::hdr::{IPPROTO_ICMPV6, Icmpv6Hdr, Ipv6Hdr};
use crate::init::net_init;
use crate::ipv4::fib_trie::IfThere;
use kernel::{Frag, SpinLock};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use uapi::sockaddr::AF_INET6;
use uapi::socket::{IPPROTO_IPV6, IPV6_MTU_DISCOVER, MSG_DONTWAIT, SOCK_DGRAM};
use uapi::{Errno, Result};
use zerocopy::IntoBytes;

fn a(s: &str) -> Ipv6Addr {
    s.parse().expect("an address")
}

struct Lab {
    m: TestMachine,
    reg: Arc<Registries>,
}

impl Lab {
    fn new() -> Lab {
        let m = TestMachine::new();
        let reg = net_init(&m.kernel);
        Lab { m, reg }
    }

    /// A namespace without duplicate address detection and router solicitations.
    fn net(&self) -> Arc<Net> {
        let net = Net::new(&self.reg);
        net.sysctl.ipv6_dad_transmits.set(0).expect("sysctl");
        net.sysctl.ipv6_router_solicitations.set(0).expect("sysctl");
        net
    }

    /// Joins two namespaces; addresses `fd00:N::1` and `fd00:N::2`.
    fn join(&self, n: u16, x: &Arc<Net>, y: &Arc<Net>) -> (Arc<NetDevice>, Arc<NetDevice>) {
        let (dx, dy) = veth_pair(x, "veth%d", y, "veth%d").expect("veth");
        dev_open(&dx).expect("open");
        dev_open(&dy).expect("open");
        for (dev, host) in [(&dx, 1), (&dy, 2)] {
            inet6_addr_add(dev, Ipv6Addr::new(0xfd00, n, 0, 0, 0, 0, 0, host), 64).expect("address");
        }
        (dx, dy)
    }
}

/// An echo request with `len` bytes, payload shared.
fn ping_with(net: &Arc<Net>, to: Ipv6Addr, len: usize, p: &XmitParams, oif: u32) -> Result<()> {
    let _inside = net.kernel().enter();
    let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let mut flow = Flow { oif, ..Flow::new(IPPROTO_ICMPV6, any, 0, to.into(), 0) };
    let dst = ip6_route_output(net, &mut flow)?;
    let mut skb = Skb::alloc(MAX_HEADER + Ipv6Hdr::LEN + Icmpv6Hdr::LEN);
    skb.reserve(MAX_HEADER + Ipv6Hdr::LEN);
    let h = Icmpv6Hdr { kind: ICMPV6_ECHO_REQUEST, code: 0, check: [0; 2], rest: [0, 7, 0, 1] };
    skb.put(Icmpv6Hdr::LEN).copy_from_slice(h.as_bytes());
    let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
    for part in payload.chunks(30_000) {
        assert!(skb.add_frag(Frag::copy_of(part)));
    }
    let IpAddr::V6(saddr) = flow.saddr else { panic!("source") };
    let check = icmpv6_checksum(&skb, saddr, to);
    Icmpv6Hdr::read_mut(skb.data_mut()).expect("header").check = check;
    skb.dst = Some(dst);
    ip6_xmit(net, None, skb, &flow, p)
}

fn ping(net: &Arc<Net>, to: &str) -> Result<()> {
    ping_with(net, a(to), 56, &XmitParams::default(), 0)
}

fn replies(net: &Net) -> u64 {
    net.mib.get(Mib::Icmp6InEchoReplies)
}

#[test]
fn pings_itself() {
    let lab = Lab::new();
    let net = lab.net();
    ping(&net, "::1").expect("ping");
    assert_eq!(replies(&net), 1);
    let lo = dev_get_by_name(&net, "lo").expect("lo");
    inet6_addr_add(&lo, a("2001:db8::1"), 128).expect("address");
    ping(&net, "2001:db8::1").expect("ping");
    assert_eq!(replies(&net), 2);
    ping_with(&net, Ipv6Addr::LOCALHOST, 60_000, &XmitParams::default(), 0).expect("ping");
    assert_eq!(replies(&net), 3);
    assert_eq!(net.mib.get(Mib::Ip6ReasmReqds), 0);
}

#[test]
fn finds_its_neighbour_and_pings_it() {
    let lab = Lab::new();
    let (x, y) = (lab.net(), lab.net());
    let (dx, _) = lab.join(1, &x, &y);
    ping(&x, "fd00:1::2").expect("ping");
    assert_eq!(replies(&x), 1);
    assert_eq!(y.mib.get(Mib::Icmp6InNeighborSolicits), 1);
    let n = neigh_lookup(&x, dx.ifindex, a("fd00:1::2").into()).expect("entry");
    assert_eq!(n.state(), Nud::Reachable);
    ping(&x, "fd00:1::2").expect("ping");
    assert_eq!((replies(&x), y.mib.get(Mib::Icmp6InNeighborSolicits)), (2, 1));
}

#[test]
fn pings_over_link_local_addresses_and_groups() {
    let lab = Lab::new();
    let (x, y) = (lab.net(), lab.net());
    let (dx, dy) = lab.join(1, &x, &y);
    let id = u64::from_be_bytes(eui64(dy.addr));
    let ll = Ipv6Addr::from_bits(a("fe80::").to_bits() | id as u128);
    ping_with(&x, ll, 10, &XmitParams::default(), dx.ifindex).expect("ping");
    assert_eq!(replies(&x), 1);
    // All nodes: the other, and itself.
    ping_with(&x, a("ff02::1"), 10, &XmitParams::default(), dx.ifindex).expect("ping");
    assert_eq!(replies(&x), 3);
    // A group that nobody is in.
    let before = y.mib.get(Mib::Ip6InDiscards);
    ping_with(&x, a("ff02::1234"), 10, &XmitParams::default(), dx.ifindex).expect("ping");
    assert_eq!(replies(&x), 3);
    assert_eq!(y.mib.get(Mib::Ip6InDiscards), before + 1);
}

#[test]
fn fragments_and_reassembles() {
    let lab = Lab::new();
    let (x, y) = (lab.net(), lab.net());
    lab.join(1, &x, &y);
    // A ping socket with the identifier of the requests takes the replies.
    let files = crate::syscall::FdTable::new(&x, 8);
    let fd = files.socket(AF_INET6 as i32, SOCK_DGRAM, IPPROTO_ICMPV6 as i32).expect("a ping socket");
    files.bind(fd, &"[::]:7".parse::<std::net::SocketAddr>().expect("address").into()).expect("bind");
    let mut buf = vec![0; 70_000];
    // The first fragments of a burst wait for the neighbour, as far as its queue goes.
    ping(&x, "fd00:1::2").expect("ping");
    assert_eq!(files.recv(fd, &mut buf, MSG_DONTWAIT), Ok(Icmpv6Hdr::LEN + 56));
    for (n, len) in [(2, 3000), (3, 65_000), (4, 1453), (5, 1452 - 4)].into_iter() {
        ping_with(&x, a("fd00:1::2"), len, &XmitParams::default(), 0).expect("ping");
        assert_eq!(replies(&x), n, "{len}");
        let got = files.recv(fd, &mut buf, MSG_DONTWAIT).expect("a reply");
        let got = &buf[Icmpv6Hdr::LEN..got];
        assert!(got.len() == len && got.iter().enumerate().all(|(i, &b)| b == i as u8), "{len}");
    }
    assert_eq!(y.mib.get(Mib::Ip6ReasmOKs), 3);
    assert!(x.mib.get(Mib::Ip6FragCreates) > 45);
    assert_eq!(y.generic::<Ip6Frag>(NetId::Ipv6Frag).mem(), 0);
}

#[test]
fn refuses_what_may_not_be_fragmented() {
    let lab = Lab::new();
    let (x, y) = (lab.net(), lab.net());
    lab.join(1, &x, &y);
    let mut flow = Flow::new(17, a("::").into(), 5, a("fd00:1::2").into(), 5);
    let dst = ip6_route_output(&x, &mut flow).expect("route");
    let mut skb = Skb::from_bytes(MAX_HEADER, &[0; 1461]);
    skb.dst = Some(dst);
    let p = XmitParams { dont_fragment: DontFragment::Always, ..Default::default() };
    assert_eq!(ip6_xmit(&x, None, skb, &flow, &p), Err(Errno::EMSGSIZE));
}

/// What the kernel does for each `IPV6_MTU_DISCOVER`: `PROBE` and what follows it ask the device, not the path.
#[test]
fn who_does_not_ask_the_path_sends_what_the_device_takes() {
    use crate::core::dst_metrics::Rtax;
    let lab = Lab::new();
    let (x, y) = (lab.net(), lab.net());
    let (dev, _) = lab.join(1, &x, &y);
    let mut spec = Route6Spec::new(a("fd00:1::2"), 128).dev(dev.ifindex);
    spec.metrics.set(Rtax::Mtu, 1300).expect("a metric");
    ip6_route_add(&x, spec).expect("route");
    let files = crate::syscall::FdTable::new(&x, 8);
    let to = "[fd00:1::2]:9".parse::<std::net::SocketAddr>().expect("address").into();
    let fragments = |mode: i32, len: usize| {
        let fd = files.socket(AF_INET6 as i32, SOCK_DGRAM, 0).expect("a socket");
        files.setsockopt(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &mode.to_ne_bytes()).expect("an option");
        let before = x.mib.get(Mib::Ip6FragCreates);
        let r = files.sendto(fd, &vec![0; len], 0, Some(&to));
        files.close(fd).expect("close");
        r.map(|_| x.mib.get(Mib::Ip6FragCreates) - before)
    };
    ping(&x, "fd00:1::2").expect("ping");
    let (cut, refused) = (Ok(2), Err(Errno::EMSGSIZE));
    let by_mode = |len| std::array::from_fn(|mode| fragments(mode as i32, len));
    assert_eq!(by_mode(1350), [cut, cut, refused, Ok(0), Ok(0), Ok(0)]);
    assert_eq!(by_mode(2000), [cut, cut, refused, refused, refused, cut]);
}

#[test]
fn detects_a_duplicate_address() {
    let lab = Lab::new();
    let (x, y) = (lab.net(), lab.net());
    let (_, dy) = lab.join(1, &x, &y);
    y.sysctl.ipv6_dad_transmits.set(1).expect("sysctl");
    let state = |net: &Net, s: &str| inet6_addr_list(net).iter().find(|i| i.addr == a(s)).map(|i| i.flags);
    let p = IfaFlags::PERMANENT;
    inet6_addr_add(&dy, a("fd00:1::1"), 64).expect("address");
    inet6_addr_add(&dy, a("fd00:1::77"), 64).expect("address");
    assert_eq!(state(&y, "fd00:1::77"), Some(p | IfaFlags::TENTATIVE));
    assert!(!ip6_is_local(&y, a("fd00:1::77")));
    lab.m.advance(3000);
    assert_eq!(state(&y, "fd00:1::77"), Some(p));
    assert_eq!(state(&y, "fd00:1::1"), Some(p | IfaFlags::TENTATIVE | IfaFlags::DADFAILED));
    assert!(ip6_is_local(&y, a("fd00:1::77")) && !ip6_is_local(&y, a("fd00:1::1")));
    // The one that was first is not disturbed.
    assert_eq!(state(&x, "fd00:1::1"), Some(p));
}

#[test]
fn two_that_want_the_same_address_do_not_both_get_it() {
    let lab = Lab::new();
    let (x, y) = (lab.net(), lab.net());
    let (dx, dy) = lab.join(1, &x, &y);
    for (net, dev) in [(&x, &dx), (&y, &dy)] {
        net.sysctl.ipv6_dad_transmits.set(2).expect("sysctl");
        inet6_addr_add(dev, a("fd00:1::9"), 64).expect("address");
    }
    lab.m.advance(5000);
    // The first to ask was not heard, for the other did not listen yet; but it hears the other ask.
    let failed = |net: &Net| {
        let i = inet6_addr_list(net).into_iter().find(|i| i.addr == a("fd00:1::9")).expect("address");
        i.flags.contains(IfaFlags::DADFAILED)
    };
    assert_eq!((failed(&x), failed(&y)), (true, false));
    assert!(!ip6_is_local(&x, a("fd00:1::9")) && ip6_is_local(&y, a("fd00:1::9")));
}

/// x — r — y, with r forwarding.
fn line(lab: &Lab) -> (Arc<Net>, Arc<Net>, Arc<Net>, Arc<NetDevice>) {
    let (x, r, y) = (lab.net(), lab.net(), lab.net());
    r.sysctl.ipv6_forwarding.set(1).expect("sysctl");
    lab.join(1, &x, &r);
    let (rdev, _) = lab.join(2, &r, &y);
    ip6_route_add(&x, Route6Spec::new(a("::"), 0).via(a("fd00:1::2"))).expect("route");
    ip6_route_add(&y, Route6Spec::new(a("::"), 0).via(a("fd00:2::1"))).expect("route");
    (x, r, y, rdev)
}

#[test]
fn forwards_and_counts_hops() {
    let lab = Lab::new();
    let (x, r, y, _) = line(&lab);
    ping(&x, "fd00:2::2").expect("ping");
    assert_eq!((replies(&x), r.mib.get(Mib::Ip6OutForwDatagrams)), (1, 2));
    let near = XmitParams { ttl: 1, ..Default::default() };
    ping_with(&x, a("fd00:2::2"), 8, &near, 0).expect("ping");
    assert_eq!((replies(&x), x.mib.get(Mib::Icmp6InTimeExcds)), (1, 1));
    // Nowhere: the router has no route.
    ping(&x, "2001:db8::1").expect("ping");
    assert_eq!(x.mib.get(Mib::Icmp6InDestUnreachs), 1);
    assert_eq!(ping(&r, "2001:db8::1"), Err(Errno::ENETUNREACH));
    // No router, no forwarding.
    r.sysctl.ipv6_forwarding.set(0).expect("sysctl");
    ping(&x, "fd00:2::2").expect("ping");
    assert_eq!((replies(&x), y.mib.get(Mib::Icmp6InEchos)), (1, 1));
}

#[test]
fn learns_the_path_mtu() {
    let lab = Lab::new();
    let (x, r, _y, rdev) = line(&lab);
    ping(&x, "fd00:2::2").expect("ping");
    dev_set_mtu(&rdev, 1280).expect("mtu");
    ping_with(&x, a("fd00:2::2"), 1400, &XmitParams::default(), 0).expect("ping");
    assert_eq!((replies(&x), x.mib.get(Mib::Icmp6InPktTooBigs), r.mib.get(Mib::Ip6InTooBigErrors)), (1, 1, 1));
    let mtu = || {
        let mut flow = Flow::new(6, a("::").into(), 1, a("fd00:2::2").into(), 2);
        ip6_route_output(&x, &mut flow).expect("route").mtu()
    };
    assert_eq!(mtu(), 1280);
    ping_with(&x, a("fd00:2::2"), 1400, &XmitParams::default(), 0).expect("ping");
    assert_eq!((replies(&x), x.mib.get(Mib::Ip6FragOKs)), (2, 1));
    // What was learnt is forgotten in time; nothing else is believed below the minimum.
    let flow = Flow::new(6, a("::").into(), 1, a("fd00:2::7").into(), 2);
    ip6_update_pmtu(&x, &flow, 600);
    let mut f = flow;
    assert_eq!(ip6_route_output(&x, &mut f).expect("route").mtu(), 1280);
    lab.m.advance(700_000);
    assert_eq!(mtu(), 1500);
}

#[test]
fn a_route_s_metrics_come_before_the_link_s() {
    use crate::core::dst_metrics::Rtax;
    let lab = Lab::new();
    let (x, y) = (lab.net(), lab.net());
    lab.join(1, &x, &y);
    let mut spec = Route6Spec::new(a("fd00:2::"), 64).via(a("fd00:1::2"));
    spec.metrics.set_locked(Rtax::Mtu, 1400).expect("a metric");
    spec.metrics.set(Rtax::Hoplimit, 9).expect("a metric");
    ip6_route_add(&x, spec).expect("route");
    let mut flow = Flow::new(6, a("::").into(), 1, a("fd00:2::2").into(), 2);
    let dst = ip6_route_output(&x, &mut flow).expect("route");
    assert_eq!((dst.mtu(), super::ip6_output::ip6_dst_hoplimit(&x, &dst)), (1400, 9));
    ip6_update_pmtu(&x, &flow, 1300);
    assert_eq!(ip6_route_output(&x, &mut flow).expect("route").mtu(), 1300, "locked, but no router cuts");
}

#[test]
fn takes_every_address_for_its_own_by_a_local_route() {
    let lab = Lab::new();
    let (x, y) = (lab.net(), lab.net());
    lab.join(1, &x, &y);
    ip6_route_add(&x, Route6Spec::new(a("::"), 0).via(a("fd00:1::2"))).expect("route");
    let lo = dev_get_by_name(&y, "lo").expect("lo");
    ip6_route_add(&y, Route6Spec::new(a("::"), 0).dev(lo.ifindex).kind(RtnType::Local)).expect("route");
    ping(&x, "2001:db8:1234::5").expect("ping");
    assert_eq!(replies(&x), 1);
    assert!(ip6_is_local(&y, a("2001:db8::7")));
    // The link's own prefix is more specific.
    assert_eq!(ip6_addr_type(&y, a("fd00:1::1")), RtnType::Unicast);
}

#[test]
fn says_when_nobody_answers() {
    let lab = Lab::new();
    let (x, y) = (lab.net(), lab.net());
    lab.join(1, &x, &y);
    ping(&x, "fd00:1::55").expect("queued");
    lab.m.advance(5000);
    assert_eq!(y.mib.get(Mib::Icmp6InNeighborSolicits), 0, "not in that group");
    assert_eq!(x.mib.get(Mib::Icmp6InDestUnreachs), 1);
}

// --- Raw packets ---

/// A packet from `fd00:1::2` to `fd00:1::1` with `rest` behind the IPv6 header, as it comes from the wire.
fn receive(dev: &Arc<NetDevice>, nexthdr: u8, rest: &[u8]) {
    let mut b = vec![0x60, 0, 0, 0, (rest.len() >> 8) as u8, rest.len() as u8, nexthdr, 64];
    b.extend_from_slice(&a("fd00:1::2").octets());
    b.extend_from_slice(&a("fd00:1::1").octets());
    b.extend_from_slice(rest);
    receive_bytes(dev, &b);
}

fn receive_bytes(dev: &Arc<NetDevice>, b: &[u8]) {
    let _inside = dev.reg.kernel.enter();
    let _bh = kernel::local_bh_disable();
    // Half of it in a fragment, as a driver may give it.
    let linear = b.len().min(40 + b.len() / 4);
    let mut skb = Skb::from_bytes(MAX_HEADER, &b[..linear]);
    skb.add_frag(Frag::copy_of(&b[linear..]));
    skb.protocol = ETH_P_IPV6;
    skb.dev = Some(dev.clone());
    skb.skb_iif = dev.ifindex;
    skb.reset_mac_header();
    skb.reset_network_header();
    netif_receive_skb(skb);
}

/// Every ICMPv6 error that reaches the namespace: kind, code, pointer.
fn errors_at(net: &Arc<Net>) -> Arc<SpinLock<Vec<(u8, u8, u32)>>> {
    let seen: Arc<SpinLock<Vec<_>>> = Arc::default();
    let keep = seen.clone();
    let hook = move |_: &Arc<Net>, skb: Box<Skb>| {
        let b = skb.data().get(40..48).unwrap_or_default();
        let icmp = Ipv6Hdr::read(skb.data()).is_some_and(|h| h.nexthdr == IPPROTO_ICMPV6);
        if icmp && let [kind @ ..128, code, _, _, p0, p1, p2, p3] = *b {
            keep.lock_bh().push((kind, code, u32::from_be_bytes([p0, p1, p2, p3])));
        }
        Verdict::Accept(skb)
    };
    net.nf.set(HookPoint::PreRouting, Some(Box::new(hook)));
    seen
}

#[test]
fn answers_what_it_does_not_know() {
    let lab = Lab::new();
    let (x, y) = (lab.net(), lab.net());
    let (dx, _) = lab.join(1, &x, &y);
    let errors = errors_at(&y);
    receive(&dx, 253, &[0; 8]);
    assert_eq!(*errors.lock_bh(), [(4, 1, 6)]);
    // Routing type 0 with something left; then done, with an unknown header behind it.
    receive(&dx, NEXTHDR_ROUTING, &[253, 0, 0, 1, 0, 0, 0, 0]);
    receive(&dx, NEXTHDR_ROUTING, &[253, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(errors.lock_bh()[1..], [(4, 0, 42), (4, 1, 40)]);
    // An unknown destination option; hop-by-hop options that are not first.
    receive(&dx, 60, &[59, 0, 0x80, 0, 1, 2, 0, 0]);
    receive(&dx, 60, &[0, 0, 1, 4, 0, 0, 0, 0, 59, 0, 1, 4, 0, 0, 0, 0]);
    assert_eq!(errors.lock_bh()[3..], [(4, 2, 42), (4, 1, 40)]);
    assert_eq!(x.mib.get(Mib::Ip6InUnknownProtos), 3);
    assert_eq!(x.mib.get(Mib::Icmp6OutParmProblems), 5);
    // A flood of them is answered up to the limit only.
    for _ in 0..20 {
        receive(&dx, 253, &[0; 8]);
    }
    assert!(x.mib.get(Mib::Icmp6OutRateLimitHost) >= 14);
}

fn fragment(offset: usize, more: bool, id: u8, len: usize) -> Vec<u8> {
    let off = (offset | more as usize) as u16;
    let mut b = vec![253, 0, (off >> 8) as u8, off as u8, 0, 0, 0, id];
    b.resize(8 + len, 0);
    b
}

#[test]
fn drops_all_of_a_packet_whose_fragments_overlap() {
    let lab = Lab::new();
    let (x, y) = (lab.net(), lab.net());
    let (dx, _) = lab.join(1, &x, &y);
    let unknown = || x.mib.get(Mib::Ip6InUnknownProtos);
    // Out of order, with a duplicate: whole.
    for (at, more) in [(16, false), (0, true), (0, true), (8, true)] {
        receive(&dx, NEXTHDR_FRAGMENT, &fragment(at, more, 1, 8));
    }
    assert_eq!(unknown(), 1);
    // Overlapping: dropped, with what comes later.
    receive(&dx, NEXTHDR_FRAGMENT, &fragment(0, true, 2, 16));
    receive(&dx, NEXTHDR_FRAGMENT, &fragment(8, true, 2, 16));
    receive(&dx, NEXTHDR_FRAGMENT, &fragment(16, false, 2, 8));
    assert_eq!((unknown(), x.mib.get(Mib::Ip6ReasmOverlaps)), (1, 1));
    // An atomic fragment is whole, even beside a queue of its number (RFC 6946).
    receive(&dx, NEXTHDR_FRAGMENT, &fragment(0, false, 2, 8));
    assert_eq!(unknown(), 2);
    // The end contradicts itself.
    receive(&dx, NEXTHDR_FRAGMENT, &fragment(32, false, 3, 8));
    receive(&dx, NEXTHDR_FRAGMENT, &fragment(48, true, 3, 8));
    assert_eq!(x.mib.get(Mib::Ip6ReasmOverlaps), 2);
    lab.m.advance(70_000);
    assert_eq!(x.generic::<Ip6Frag>(NetId::Ipv6Frag).mem(), 0);
}

#[test]
fn gives_up_on_fragments_in_time_and_says_so() {
    let lab = Lab::new();
    let (x, y) = (lab.net(), lab.net());
    let (dx, _) = lab.join(1, &x, &y);
    let errors = errors_at(&y);
    receive(&dx, NEXTHDR_FRAGMENT, &fragment(0, true, 1, 8));
    receive(&dx, NEXTHDR_FRAGMENT, &fragment(8, true, 2, 8));
    lab.m.advance(50_000);
    assert_eq!(x.mib.get(Mib::Ip6ReasmTimeout), 0);
    lab.m.advance(20_000);
    assert_eq!(x.mib.get(Mib::Ip6ReasmTimeout), 2);
    // Only for the one whose first fragment came.
    assert_eq!(*errors.lock_bh(), [(3, 1, 0)]);
    // Bad lengths.
    receive(&dx, NEXTHDR_FRAGMENT, &fragment(0, true, 3, 7));
    receive(&dx, NEXTHDR_FRAGMENT, &fragment(65528, false, 3, 16));
    assert_eq!(errors.lock_bh()[1..], [(4, 0, 4), (4, 0, 42)]);
}

#[test]
fn bounds_the_memory_of_fragments() {
    let lab = Lab::new();
    let (x, y) = (lab.net(), lab.net());
    let (dx, _) = lab.join(1, &x, &y);
    x.sysctl.ip6frag_high_thresh.set(20_000).expect("sysctl");
    for id in 0..100 {
        receive(&dx, NEXTHDR_FRAGMENT, &fragment(8, true, id, 8));
    }
    assert!(x.generic::<Ip6Frag>(NetId::Ipv6Frag).mem() <= 21_000);
    assert!(x.mib.get(Mib::Ip6ReasmFails) > 50);
}

#[test]
fn configures_itself_as_routers_say() {
    let lab = Lab::new();
    let (x, r) = (lab.net(), lab.net());
    let (dx, dr) = lab.join(1, &x, &r);
    let router = Ipv6Addr::from_bits(a("fe80::").to_bits() | u64::from_be_bytes(eui64(dr.addr)) as u128);
    let advert = |lifetime: u16, hop: u8| {
        let mut icmp = vec![134, 0, 0, 0, 33, 0, (lifetime >> 8) as u8, lifetime as u8, 0, 0, 0, 0, 0, 0, 0, 0];
        icmp.extend_from_slice(&[5, 1, 0, 0, 0, 0, 0x05, 0x78]);
        icmp.extend_from_slice(&[3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x07, 8, 0, 0, 0, 0]);
        icmp.extend_from_slice(&a("2001:db8:7::").octets());
        let probe = Skb::from_bytes(0, &icmp);
        let check = icmpv6_checksum(&probe, router, a("ff02::1"));
        icmp[2..4].copy_from_slice(&check);
        let mut b = vec![0x60, 0, 0, 0, 0, icmp.len() as u8, 58, hop];
        b.extend_from_slice(&router.octets());
        b.extend_from_slice(&a("ff02::1").octets());
        b.extend_from_slice(&icmp);
        receive_bytes(&dx, &b);
    };
    advert(1800, 254);
    assert_eq!(x.mib.get(Mib::Icmp6InErrors), 1, "not from this link");
    advert(1800, 255);
    let own = Ipv6Addr::from_bits(a("2001:db8:7::").to_bits() | u64::from_be_bytes(eui64(dx.addr)) as u128);
    assert!(inet6_addr_list(&x).iter().any(|i| i.addr == own && i.flags == IfaFlags::NOPREFIXROUTE));
    let mut flow = Flow::new(6, a("::").into(), 1, a("2600::1").into(), 2);
    let dst = ip6_route_output(&x, &mut flow).expect("default route");
    assert_eq!((dst.gateway, flow.saddr, dst.mtu()), (Some(router.into()), own.into(), 1400));
    // The default route ends, the address is deprecated, then gone.
    lab.m.advance(1_900_000);
    assert_eq!(ip6_route_output(&x, &mut flow).err(), Some(Errno::ENETUNREACH));
    let flags = || inet6_addr_list(&x).into_iter().find(|i| i.addr == own).map(|i| i.flags);
    assert_eq!(flags(), Some(IfaFlags::DEPRECATED | IfaFlags::NOPREFIXROUTE));
    lab.m.advance(2_400_000);
    assert_eq!(flags(), None);
    // A router that takes itself back.
    advert(1800, 255);
    assert!(ip6_route_list(&x).iter().any(|s| s.prefix_len == 0));
    advert(0, 255);
    assert!(!ip6_route_list(&x).iter().any(|s| s.prefix_len == 0));
}

#[test]
fn chooses_the_source_as_rfc_6724_says() {
    let lab = Lab::new();
    let (x, y) = (lab.net(), lab.net());
    let (dx, _) = lab.join(1, &x, &y);
    let nodad = IfaFlags::NODAD | IfaFlags::PERMANENT;
    inet6_addr_add(&dx, a("2001:db8:1::1"), 64).expect("address");
    inet6_addr_add(&dx, a("2001:db8:2::1"), 64).expect("address");
    inet6_addr_add_flags(&dx, a("2002::9"), 64, nodad).expect("address");
    let src = |to: &str| ipv6_dev_get_saddr(&x, &dx, &a(to)).expect("source");
    assert_eq!(src("2001:db8:2::7"), a("2001:db8:2::1"), "rule 8");
    assert_eq!(src("2002::1"), a("2002::9"), "rule 6");
    assert_eq!(src("fd00:9::1"), a("fd00:1::1"), "rule 6");
    assert_eq!(src("2001:db8:1::1"), a("2001:db8:1::1"), "rule 1");
    assert!(src("fe80::1").segments()[0] == 0xfe80 && src("ff02::1").segments()[0] == 0xfe80, "rule 2");
    assert!(src("ff0e::1").segments()[0] != 0xfe80, "rule 2");
}

/// What the kernel answered to `ip -6 route`.
#[test]
fn a_user_s_routes_take_each_other_s_place() {
    let lab = Lab::new();
    let (x, y) = (lab.net(), lab.net());
    let (dev, _) = lab.join(1, &x, &y);
    let base = Route6Spec::new(a("2001:db8::"), 32);
    let (by_dev, via) = (base.dev(dev.ifindex), |n: u16| base.via(a(&format!("fd00:1::{n}"))));
    let set = |spec, how| ip6_route_insert(&x, spec, how);
    let there = || {
        let all = ip6_route_list(&x).into_iter().filter(|r| r.dst == base.dst);
        all.map(|r| (r.metric, r.gateway.map(|g| g.segments()[7]))).collect::<Vec<_>>()
    };
    assert_eq!(set(by_dev, IfThere::Change), Err(Errno::ENOENT));
    set(by_dev, IfThere::Refuse).expect("a new one");
    assert_eq!(set(via(2), IfThere::Refuse), Err(Errno::EEXIST), "the same prefix and metric");
    assert_eq!(set(Route6Spec { metric: 5, ..by_dev }, IfThere::Change), Err(Errno::ENOENT));
    set(Route6Spec { metric: 5, ..by_dev }, IfThere::Replace).expect("one of another metric");
    assert_eq!(there(), [(5, None), (1024, None)]);
    set(via(2), IfThere::Replace).expect("another kind");
    set(via(3), IfThere::Append).expect("one more");
    assert_eq!(there(), [(5, None), (1024, Some(2)), (1024, Some(3))]);
    set(via(4), IfThere::Change).expect("in place of both");
    assert_eq!(there(), [(5, None), (1024, Some(4))]);
    x.sysctl.ipv6_route_max_size.set(1).expect("sysctl");
    set(by_dev, IfThere::Replace).expect("no more than there were");
    assert_eq!(there(), [(5, None), (1024, None)]);
    assert_eq!(ip6_route_insert(&x, via(2), IfThere::Append), Err(Errno::ENOBUFS));
}

#[test]
fn adds_and_removes_routes() {
    let lab = Lab::new();
    let (x, y) = (lab.net(), lab.net());
    let (dx, _) = lab.join(1, &x, &y);
    let base = Route6Spec::new(a("2001:db8::"), 32).dev(dx.ifindex);
    ip6_route_add(&x, Route6Spec { metric: 5, ..base.via(a("fd00:1::2")) }).expect("route");
    assert_eq!(ip6_route_add(&x, Route6Spec { metric: 5, ..base.via(a("fd00:1::2")) }), Err(Errno::EEXIST));
    ip6_route_add(&x, Route6Spec { metric: 3, ..base.via(a("fd00:1::3")) }).expect("route");
    let gateway = |to: &str| {
        let mut flow = Flow::new(6, a("::").into(), 1, a(to).into(), 2);
        ip6_route_output(&x, &mut flow).map(|d| d.gateway)
    };
    assert_eq!(gateway("2001:db8::1"), Ok(Some(a("fd00:1::3").into())));
    ip6_route_add(&x, Route6Spec::new(a("2001:db8:5::"), 48).kind(RtnType::Unreachable)).expect("route");
    ip6_route_add(&x, Route6Spec::new(a("2001:db8:6::"), 48).kind(RtnType::Prohibit)).expect("route");
    assert_eq!(gateway("2001:db8:5::1"), Err(Errno::EHOSTUNREACH));
    assert_eq!(gateway("2001:db8:6::1"), Err(Errno::EACCES));
    ip6_route_del(&x, &Route6Spec { metric: 3, ..base }).expect("route");
    assert_eq!(gateway("2001:db8::1"), Ok(Some(a("fd00:1::2").into())));
    ip6_route_del(&x, &base).expect("route");
    assert_eq!(ip6_route_del(&x, &base), Err(Errno::ESRCH));
    assert_eq!(gateway("2001:db8::1"), Err(Errno::ENETUNREACH));
    assert_eq!(ip6_route_add(&x, Route6Spec::new(a("::"), 0).via(a("3000::1"))), Err(Errno::EHOSTUNREACH));
    assert_eq!(ip6_route_add(&x, Route6Spec::new(a("::"), 129).dev(1)), Err(Errno::EINVAL));
}

/// A packet that is nearly right: correct lengths and addresses with arbitrary headers.
fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let header = prop::sample::select(vec![0u8, 6, 17, 43, 44, 51, 58, 59, 60, 253]);
    (header, prop::collection::vec(any::<u8>(), 0..200), any::<prop::sample::Index>(), any::<[u8; 3]>()).prop_map(
        |(nexthdr, mut rest, cut, noise)| {
            // Extension headers lead to one another more often than chance has it.
            if let Some(first) = rest.first_mut() {
                *first = [0, 43, 44, 58, 60, 17, 6, 59][*first as usize % 8];
            }
            if let Some(len) = rest.get_mut(1) {
                *len %= 4;
            }
            let mut b = vec![0x60, 0, 0, 0, 0, rest.len() as u8, nexthdr, if noise[0] & 1 == 0 { 255 } else { 64 }];
            b.extend_from_slice(&a("fd00:1::2").octets());
            b.extend_from_slice(&if noise[0] & 2 == 0 { a("fd00:1::1") } else { a("ff02::1") }.octets());
            b.extend_from_slice(&rest);
            if nexthdr == 58 && rest.len() > 4 {
                b[42..44].copy_from_slice(&[0, 0]);
                let skb = Skb::from_bytes(0, &b[40..]);
                let daddr = Ipv6Hdr::read(&b).map_or(Ipv6Addr::UNSPECIFIED, |h| h.dst());
                let check = icmpv6_checksum(&skb, a("fd00:1::2"), daddr);
                b[42..44].copy_from_slice(&check);
            }
            if noise[1] < 64 {
                b.truncate(cut.index(b.len()) + 1);
            } else if noise[1] < 128 {
                let at = cut.index(b.len());
                b[at] ^= noise[2];
            }
            b
        },
    )
}

/// Everything that a packet can become is counted by one of these.
fn fates(net: &Net) -> u64 {
    use Mib::*;
    let all = [
        Ip6InDelivers,
        Ip6InHdrErrors,
        Ip6InTruncatedPkts,
        Ip6InDiscards,
        Ip6InAddrErrors,
        Ip6InNoRoutes,
        Ip6InUnknownProtos,
        Ip6ReasmReqds,
        Ip6OutForwDatagrams,
        Ip6InTooBigErrors,
    ];
    all.iter().map(|&m| net.mib.get(m)).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_from_the_wire_panics_or_goes_uncounted(
        packets in prop::collection::vec(prop_oneof![plausible(), prop::collection::vec(any::<u8>(), 0..120)], 1..40),
    ) {
        let lab = Lab::new();
        let (x, y) = (lab.net(), lab.net());
        let (dx, _) = lab.join(1, &x, &y);
        for p in packets {
            let (before, received) = (fates(&x), x.mib.get(Mib::Ip6InReceives));
            receive_bytes(&dx, &p);
            prop_assert!(x.mib.get(Mib::Ip6InReceives) > received);
            prop_assert!(fates(&x) > before, "{p:02x?}");
        }
        lab.m.advance(200_000);
        prop_assert_eq!(x.generic::<Ip6Frag>(NetId::Ipv6Frag).mem(), 0);
    }

    #[test]
    fn the_longest_prefix_wins(
        routes in prop::collection::vec((any::<u16>(), 0u8..=24), 1..30),
        probes in prop::collection::vec(any::<u16>(), 20),
    ) {
        let lab = Lab::new();
        let (x, y) = (lab.net(), lab.net());
        let (dx, _) = lab.join(1, &x, &y);
        // Prefixes of up to 24 bits, below 4000::/8.
        let addr = |n: u16| Ipv6Addr::from_bits(0x40 << 120 | (n as u128) << 104);
        let mut model = Vec::new();
        for (i, (n, len)) in routes.into_iter().enumerate() {
            let gateway = Ipv6Addr::from_bits(a("fd00:1::1:0").to_bits() + i as u128);
            let spec = Route6Spec::new(addr(n), len).via(gateway).dev(dx.ifindex);
            let mask = super::addrconf_core::prefix_mask(len);
            let prefix = addr(n).to_bits() & mask;
            if model.iter().any(|&(p, l, _)| (p, l) == (prefix, len)) {
                continue;
            }
            ip6_route_add(&x, spec).expect("route");
            model.push((prefix, len, gateway));
        }
        for n in probes {
            let to = addr(n);
            let hit = |&&(p, l, _): &&(u128, u8, Ipv6Addr)| to.to_bits() & super::addrconf_core::prefix_mask(l) == p;
            let want = model.iter().filter(hit).max_by_key(|r| r.1).map(|r| IpAddr::V6(r.2));
            let mut flow = Flow::new(6, a("::").into(), 1, to.into(), 2);
            let got = ip6_route_output(&x, &mut flow).ok().and_then(|d| d.gateway);
            prop_assert_eq!(got, want);
        }
    }
}

static HOOKED: AtomicUsize = AtomicUsize::new(0);

#[test]
fn hooks_see_packets_on_their_way_and_may_keep_them() {
    let lab = Lab::new();
    let (x, y) = (lab.net(), lab.net());
    lab.join(1, &x, &y);
    ping(&x, "fd00:1::2").expect("ping");
    let kept: Arc<SpinLock<Option<Box<Skb>>>> = Arc::default();
    let to = kept.clone();
    let hook = move |_: &Arc<Net>, skb: Box<Skb>| {
        HOOKED.fetch_add(1, SeqCst);
        *to.lock_bh() = Some(skb);
        Verdict::Stolen
    };
    y.nf.set(HookPoint::LocalIn, Some(Box::new(hook)));
    ping(&x, "fd00:1::2").expect("ping");
    assert_eq!((replies(&x), HOOKED.load(SeqCst)), (1, 1));
    y.nf.set(HookPoint::LocalIn, None);
    let skb = kept.lock_bh().take().expect("kept");
    {
        let _inside = y.kernel().enter();
        let _bh = kernel::local_bh_disable();
        super::ip6_input::ip6_input_finish(&y, skb);
    }
    assert_eq!(replies(&x), 2);
}

#[test]
fn a_namespace_that_is_dropped_is_gone() {
    let lab = Lab::new();
    let (x, y) = (lab.net(), lab.net());
    let (dx, dy) = lab.join(1, &x, &y);
    y.sysctl.ipv6_dad_transmits.set(1).expect("sysctl");
    inet6_addr_add(&dy, a("fd00:1::77"), 64).expect("address");
    ping(&x, "fd00:1::2").expect("ping");
    ping(&x, "fd00:1::99").expect("queued");
    receive(&dx, NEXTHDR_FRAGMENT, &fragment(0, true, 1, 8));
    ip6_update_pmtu(&x, &Flow::new(6, a("::").into(), 0, a("fd00:1::2").into(), 0), 1300);
    let (nets, devs) = ([x.weak(), y.weak()], [dx.weak(), dy.weak()]);
    drop((x, y, dx, dy));
    assert!(nets.iter().all(|n| n.upgrade().is_none()));
    // Read sections of other tests may hold back what was replaced.
    for _ in 0..1000 {
        kernel::synchronize_rcu();
        if devs.iter().all(|d| d.upgrade().is_none()) {
            return;
        }
    }
    panic!("a device is still referenced");
}

#[test]
fn routes_change_under_the_feet_of_senders() {
    let lab = Lab::new();
    let (x, y) = (lab.net(), lab.net());
    let (dx, _) = lab.join(1, &x, &y);
    let to = Route6Spec::new(a("2001:db8::"), 32).dev(dx.ifindex);
    let gateways = [a("fd00:1::a"), a("fd00:1::b")];
    ip6_route_add(&x, to.via(gateways[0])).expect("route");
    let done = AtomicUsize::new(0);
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                while done.load(SeqCst) == 0 {
                    let mut flow = Flow::new(6, a("::").into(), 1, a("2001:db8::5").into(), 2);
                    let dst = ip6_route_output(&x, &mut flow).expect("route");
                    assert!(gateways.iter().any(|&g| dst.gateway == Some(g.into())));
                    assert_eq!(flow.saddr, IpAddr::V6(a("fd00:1::1")));
                }
            });
        }
        for i in 0..1000u128 {
            let host = Ipv6Addr::from_bits(a("2001:db9::").to_bits() + i);
            ip6_route_add(&x, Route6Spec::new(host, 128).dev(dx.ifindex)).expect("route");
            ip6_route_add(&x, to.via(gateways[(i as usize + 1) % 2])).expect("route");
            ip6_route_del(&x, &to.via(gateways[i as usize % 2])).expect("route");
        }
        done.store(1, SeqCst);
    });
    assert_eq!(ip6_route_list(&x).iter().filter(|r| r.dst.segments()[1] == 0xdb9).count(), 1000);
}

/// What a namespace receives for the group of report listeners: records of type and group.
fn reports_at(net: &Arc<Net>) -> Arc<SpinLock<Vec<(u8, Ipv6Addr)>>> {
    let seen: Arc<SpinLock<Vec<_>>> = Arc::default();
    let keep = seen.clone();
    let hook = move |_: &Arc<Net>, skb: Box<Skb>| {
        let b: Vec<u8> = skb.chunks().flatten().copied().collect();
        if Ipv6Hdr::read(&b).is_some_and(|h| h.dst() == a("ff02::16") && h.hop_limit == 1) && b[48] == 143 {
            for r in b[56..].chunks_exact(20) {
                keep.lock_bh().push((r[0], Ipv6Addr::from(<[u8; 16]>::try_from(&r[4..20]).expect("16"))));
            }
        }
        Verdict::Accept(skb)
    };
    net.nf.set(HookPoint::PreRouting, Some(Box::new(hook)));
    seen
}

#[test]
fn reports_the_groups_it_is_in() {
    let lab = Lab::new();
    let (x, y) = (lab.net(), lab.net());
    let (dx, dy) = lab.join(1, &x, &y);
    lab.m.advance(5000);
    let reports = reports_at(&y);
    let group = a("ff02::1:2");
    {
        let _inside = x.kernel().enter();
        assert_eq!(ipv6_dev_mc_inc(&dx, group), Ok(true));
        assert_eq!(ipv6_dev_mc_inc(&dx, group), Ok(false));
    }
    lab.m.advance(5000);
    assert_eq!(*reports.lock_bh(), [(4, group), (4, group)]);
    // A router asks; nobody is told of all nodes.
    let router = Ipv6Addr::from_bits(a("fe80::").to_bits() | u64::from_be_bytes(eui64(dy.addr)) as u128);
    let mut icmp = vec![130, 0, 0, 0, 0x03, 0xe8, 0, 0];
    icmp.resize(28, 0);
    let check = icmpv6_checksum(&Skb::from_bytes(0, &icmp), router, a("ff02::1"));
    icmp[2..4].copy_from_slice(&check);
    let mut b = vec![0x60, 0, 0, 0, 0, icmp.len() as u8, 58, 1];
    b.extend_from_slice(&router.octets());
    b.extend_from_slice(&a("ff02::1").octets());
    b.extend_from_slice(&icmp);
    reports.lock_bh().clear();
    receive_bytes(&dx, &b);
    assert_eq!(reports.lock_bh().len(), 0);
    lab.m.advance(2000);
    let mut told = std::mem::take(&mut *reports.lock_bh());
    told.sort();
    // Of its two addresses, and this one.
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told.iter().all(|r| r.0 == 2) && told.contains(&(2, group)));
    {
        let _inside = x.kernel().enter();
        assert_eq!(ipv6_dev_mc_dec(&dx, group), Ok(false));
        assert_eq!(ipv6_dev_mc_dec(&dx, group), Ok(true));
    }
    assert_eq!(*reports.lock_bh(), [(3, group)]);
}

#[test]
fn routers_show_the_shorter_way_and_hosts_take_it() {
    let lab = Lab::new();
    let (x, r, _y, _) = line(&lab);
    // A second router on the link between x and r would be better for this prefix: a neighbour of both, by its address there.
    let next = a("fe80::99");
    let rdev = dev_get_by_name(&r, "veth0").expect("the link to x");
    ip6_route_add(&r, Route6Spec::new(a("2001:db8::"), 32).via(next).dev(rdev.ifindex)).expect("route");
    // x knows r by r's address on the link, as routers advertise it.
    let of_r = Ipv6Addr::from_bits(a("fe80::").to_bits() | u64::from_be_bytes(eui64(rdev.addr)) as u128);
    let xdev = dev_get_by_name(&x, "veth0").expect("the link to r");
    ip6_route_add(&x, Route6Spec { metric: 1, ..Route6Spec::new(a("2001:db8::"), 32).via(of_r).dev(xdev.ifindex) })
        .expect("route");
    let gateway = |to: &str| {
        let mut flow = Flow::new(6, a("::").into(), 1, a(to).into(), 2);
        ip6_route_output(&x, &mut flow).expect("route").gateway
    };
    ping(&x, "2001:db8::1").expect("ping");
    assert_eq!(x.mib.get(Mib::Icmp6InRedirects), 1);
    assert_eq!(gateway("2001:db8::1"), Some(next.into()));
    assert_eq!(gateway("2001:db8::2"), Some(of_r.into()));
    lab.m.advance(700_000);
    assert_eq!(gateway("2001:db8::1"), Some(of_r.into()));
    x.sysctl.ipv6_accept_redirects.set(0).expect("sysctl");
    ping(&x, "2001:db8::1").expect("ping");
    assert_eq!(gateway("2001:db8::1"), Some(of_r.into()));
}
