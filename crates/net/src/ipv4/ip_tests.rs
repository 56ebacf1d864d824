//! IPv4 as a whole: packets in, packets out, against a machine with a clock of its own.
//!
//! Interface: none.
//! Linux counterpart: `tools/testing/selftests/net/`.
//! Locks and context: tests.

use crate::core::checksum::{csum_fold, ip_fast_csum, skb_checksum};
use crate::core::dev::{
    Features, Iff, NetDevice, NetDeviceOps, NetDeviceSpec, NetdevTx, dev_close, dev_open, register_netdevice,
    unregister_netdevice,
};
use crate::core::dst::RtnType;
use crate::core::flow::Flow;
use crate::core::l3::{DontFragment, XmitParams};
use crate::core::net_namespace::{Net, NetProtocol, Registries};
use crate::core::netfilter::{HookPoint, Verdict};
use crate::core::skbuff::{MAX_HEADER, PktType, Skb};
use crate::core::snmp::Mib;
use crate::drivers::veth::veth_pair;
use crate::hdr::icmp::*;
use crate::hdr::{IP_DF, IP_MF, IPPROTO_ICMP, IPPROTO_UDP, IcmpHdr, IpHdr};
use crate::init::net_init;
use crate::ipv4::devinet::{inet_addr_add, inet_addr_del, inet_addr_list, ip_mc_dec_group, ip_mc_inc_group};
use crate::ipv4::fib_frontend::{RouteSpec, ip_route_add, ip_route_del, ip_route_list, ip_route_replace};
use crate::ipv4::ip_fragment::ip_frag_mem;
use crate::ipv4::ip_input::{ip_local_deliver_finish, ip_rcv};
use crate::ipv4::ip_output::{ip_queue_xmit, ip_send_check};
use crate::ipv4::protocol::{inet_add_protocol, inet_protocol};
use crate::ipv4::route::{inet_addr_type, ip_route_input, ip_route_output_flow, ip_update_pmtu};
use kernel::{Arch, Frag, Kernel, SpinLock, Task, local_bh_disable};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::*};
use uapi::{Errno, Result};

// --- A machine ---

/// Time stands until it is moved; entropy is a counter.
#[derive(Default)]
struct TestArch {
    now: AtomicU64,
    drawn: AtomicU64,
}

impl Arch for TestArch {
    fn ktime_get(&self) -> u64 {
        self.now.load(SeqCst)
    }
    fn ktime_get_real(&self) -> u64 {
        self.now.load(SeqCst)
    }
    fn get_random_bytes(&self, buf: &mut [u8]) {
        for b in buf {
            *b = (self.drawn.fetch_add(1, SeqCst).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u8;
        }
    }
    fn cpu_relax(&self, _spins: u32) {
        std::thread::yield_now();
    }
    fn current(&self) -> Arc<Task> {
        Task::from_fn(|| {})
    }
    fn schedule(&self, _task: &Task, _deadline: Option<u64>) {
        unreachable!("nothing here sleeps")
    }
    fn wakeup_softirqd(&self, _cpu: usize) {}
    fn program_timer(&self, _base: usize, _expires: u64) {}
}

/// A device without link-layer header, that keeps what it is given to send.
#[derive(Default)]
#[allow(clippy::vec_box)]
struct Wire(SpinLock<Vec<Box<Skb>>>);

impl NetDeviceOps for Arc<Wire> {
    fn ndo_start_xmit(&self, _dev: &Arc<NetDevice>, mut skb: Box<Skb>) -> NetdevTx {
        skb.orphan();
        self.0.lock_bh().push(skb);
        NetdevTx::Ok
    }
    fn lltx(&self) -> bool {
        true
    }
}

struct Machine {
    arch: Arc<TestArch>,
    kernel: Arc<Kernel>,
    reg: Arc<Registries>,
    net: Arc<Net>,
}

struct Link {
    wire: Arc<Wire>,
    dev: Arc<NetDevice>,
}

const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

impl Machine {
    fn new() -> Machine {
        let arch = Arc::new(TestArch::default());
        arch.now.store(1_000_000_000, SeqCst);
        let kernel = Kernel::new(arch.clone(), 1);
        let reg = net_init(&kernel);
        let net = Net::new(&reg);
        Machine { arch, kernel, reg, net }
    }

    fn link(&self, name: &str, mtu: u32) -> Link {
        let wire = Arc::new(Wire::default());
        let spec = NetDeviceSpec {
            name: name.to_owned(),
            addr: [2, 0, 0, 0, 0, 1],
            mtu,
            flags: Iff::UP | Iff::NOARP | Iff::POINTOPOINT,
            hard_header_len: 0,
            features: Features::SG,
            ops: Box::new(wire.clone()),
        };
        Link { wire, dev: register_netdevice(&self.net, spec).unwrap() }
    }

    /// With `HOST` on `eth0`, a default route over `PEER`.
    fn host() -> (Machine, Link) {
        let m = Machine::new();
        let l = m.link("eth0", 1500);
        inet_addr_add(&l.dev, HOST, 24).unwrap();
        ip_route_add(&m.net, RouteSpec::default_via(PEER)).unwrap();
        (m, l)
    }

    fn receive(&self, l: &Link, packet: Vec<u8>) {
        self.receive_as(l, packet, PktType::Host);
    }

    fn receive_as(&self, l: &Link, packet: Vec<u8>, to: PktType) {
        let _inside = self.kernel.enter();
        let _bh = local_bh_disable();
        let mut skb = Skb::from_bytes(MAX_HEADER, &packet);
        skb.dev = Some(l.dev.clone());
        skb.pkt_type = to;
        skb.protocol = crate::core::dev::ETH_P_IP;
        ip_rcv(&self.net, skb);
    }

    fn mib(&self, m: Mib) -> u64 {
        self.net.mib.get(m)
    }

    fn advance(&self, seconds: u64) {
        for _ in 0..seconds * 4 {
            self.arch.now.fetch_add(250_000_000, SeqCst);
            self.kernel.run_timers(0);
        }
    }

    fn route(&self, daddr: Ipv4Addr) -> Result<(Arc<crate::core::dst::Dst>, Flow)> {
        let mut f = Flow::new(IPPROTO_UDP, Ipv4Addr::UNSPECIFIED.into(), 0, daddr.into(), 0);
        ip_route_output_flow(&self.net, &mut f).map(|d| (d, f))
    }

    fn send(&self, daddr: Ipv4Addr, payload: &[u8], dont_fragment: bool) -> Result<()> {
        let _inside = self.kernel.enter();
        let mut flow = Flow::new(253, Ipv4Addr::UNSPECIFIED.into(), 0, daddr.into(), 0);
        let dst = ip_route_output_flow(&self.net, &mut flow)?;
        let mut skb = Skb::alloc(MAX_HEADER);
        skb.reserve(MAX_HEADER);
        skb.add_frag(Frag::copy_of(payload));
        skb.dst = Some(dst);
        let dont_fragment = if dont_fragment { DontFragment::Always } else { DontFragment::Never };
        ip_queue_xmit(&self.net, None, skb, &flow, &XmitParams { dont_fragment, ..XmitParams::default() })
    }
}

impl Link {
    #[allow(clippy::vec_box)]
    fn sent(&self) -> Vec<Box<Skb>> {
        std::mem::take(&mut self.wire.0.lock_bh())
    }

    fn sent_bytes(&self) -> Vec<Vec<u8>> {
        self.sent().iter().map(|s| bytes_of(s)).collect()
    }
}

fn bytes_of(skb: &Skb) -> Vec<u8> {
    skb.chunks().flatten().copied().collect()
}

// --- Packets ---

#[derive(Clone)]
struct P {
    src: Ipv4Addr,
    dst: Ipv4Addr,
    proto: u8,
    frag_off: u16,
    id: u16,
    ttl: u8,
    tos: u8,
    options: Vec<u8>,
    payload: Vec<u8>,
}

impl P {
    fn new(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, payload: &[u8]) -> P {
        P { src, dst, proto, frag_off: 0, id: 7, ttl: 64, tos: 0, options: vec![], payload: payload.to_vec() }
    }

    fn build(&self) -> Vec<u8> {
        let ihl = 20 + self.options.len();
        let mut b = vec![0u8; 20];
        b[0] = 0x40 | (ihl / 4) as u8;
        b[1] = self.tos;
        b[2..4].copy_from_slice(&((ihl + self.payload.len()) as u16).to_be_bytes());
        b[4..6].copy_from_slice(&self.id.to_be_bytes());
        b[6..8].copy_from_slice(&self.frag_off.to_be_bytes());
        b[8] = self.ttl;
        b[9] = self.proto;
        b[12..16].copy_from_slice(&self.src.octets());
        b[16..20].copy_from_slice(&self.dst.octets());
        b.extend_from_slice(&self.options);
        ip_send_check(&mut b);
        b.extend_from_slice(&self.payload);
        b
    }
}

fn icmp(kind: u8, code: u8, rest: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut b = vec![kind, code, 0, 0];
    b.extend_from_slice(&rest);
    b.extend_from_slice(payload);
    let sum = csum_fold(skb_checksum(&Skb::from_bytes(0, &b), 0, b.len(), 0));
    b[2..4].copy_from_slice(&sum);
    b
}

fn ping(payload: &[u8]) -> P {
    P::new(PEER, HOST, IPPROTO_ICMP, &icmp(ICMP_ECHO, 0, [1, 2, 3, 4], payload))
}

/// The packet in pieces of `step` payload bytes.
fn pieces(p: &P, step: usize) -> Vec<P> {
    let n = p.payload.len();
    (0..n.div_ceil(step))
        .map(|i| {
            let (from, to) = (i * step, (i * step + step).min(n));
            let more = if to < n { IP_MF } else { 0 };
            P { frag_off: (from / 8) as u16 | more, payload: p.payload[from..to].to_vec(), ..p.clone() }
        })
        .collect()
}

/// What came out for `wanted` type of ICMP message: IP header, ICMP header, rest.
fn the_icmp(out: &[Vec<u8>]) -> (IpHdr, IcmpHdr, Vec<u8>) {
    assert_eq!(out.len(), 1, "one packet expected");
    let b = &out[0];
    let ip = *IpHdr::read(b).unwrap();
    assert_eq!(ip_fast_csum(&b[..ip.ihl()]), [0, 0]);
    assert_eq!(ip.tot_len.get() as usize, b.len());
    assert_eq!(ip.protocol, IPPROTO_ICMP);
    let body = &b[ip.ihl()..];
    assert_eq!(csum_fold(skb_checksum(&Skb::from_bytes(0, body), 0, body.len(), 0)), [0, 0], "ICMP checksum");
    (ip, *IcmpHdr::read(body).unwrap(), body[8..].to_vec())
}

fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 + i / 251) as u8).collect()
}

// --- Addresses and routes ---

fn shown(m: &Machine) -> Vec<String> {
    ip_route_list(&m.net).iter().map(|r| format!("{r:?}")).collect()
}

#[test]
fn an_address_brings_its_routes_and_takes_them_away() {
    let m = Machine::new();
    let lo_only = shown(&m);
    assert_eq!(
        lo_only,
        [
            "Local 127.0.0.0/8 dev lo table 255 metric 0 src 127.0.0.1",
            "Local 127.0.0.1/32 dev lo table 255 metric 0 src 127.0.0.1",
            "Broadcast 127.255.255.255/32 dev lo table 255 metric 0 src 127.0.0.1",
        ]
    );
    let l = m.link("eth0", 1500);
    inet_addr_add(&l.dev, HOST, 24).unwrap();
    assert_eq!(inet_addr_add(&l.dev, HOST, 24), Err(Errno::EEXIST));
    let with_address = shown(&m);
    let new: Vec<_> = with_address.iter().filter(|r| !lo_only.contains(r)).cloned().collect();
    assert_eq!(
        new,
        [
            "Local 10.0.0.1/32 dev eth0 table 255 metric 0 src 10.0.0.1",
            "Broadcast 10.0.0.255/32 dev eth0 table 255 metric 0 src 10.0.0.1",
            "Unicast 10.0.0.0/24 dev eth0 table 254 metric 0 src 10.0.0.1",
        ]
    );
    ip_route_add(&m.net, RouteSpec::default_via(PEER)).unwrap();
    dev_close(&l.dev);
    // The address is still the host's; there is no way over the device.
    assert_eq!(inet_addr_type(&m.net, HOST), RtnType::Local);
    assert_eq!(m.route(PEER).err(), Some(Errno::ENETUNREACH));
    dev_open(&l.dev).unwrap();
    assert_eq!(shown(&m), with_address);
    inet_addr_add(&l.dev, Ipv4Addr::new(10, 0, 0, 9), 24).unwrap();
    assert!(inet_addr_list(&l.dev)[1].secondary);
    inet_addr_del(&l.dev, HOST, 24).unwrap();
    assert_eq!(shown(&m), lo_only);
    inet_addr_add(&l.dev, HOST, 24).unwrap();
    unregister_netdevice(&l.dev);
    assert_eq!(shown(&m), lo_only);
}

#[test]
fn a_gateway_must_be_on_a_link() {
    let m = Machine::new();
    let l = m.link("eth0", 1500);
    assert_eq!(ip_route_add(&m.net, RouteSpec::default_via(PEER)), Err(Errno::ENETUNREACH));
    inet_addr_add(&l.dev, HOST, 24).unwrap();
    assert_eq!(ip_route_add(&m.net, RouteSpec::default_via(HOST)), Err(Errno::EINVAL));
    assert_eq!(ip_route_add(&m.net, RouteSpec::default_via(Ipv4Addr::new(10, 0, 0, 255))), Err(Errno::EINVAL));
    assert_eq!(ip_route_add(&m.net, RouteSpec::default_via(FAR)), Err(Errno::ENETUNREACH));
    ip_route_add(&m.net, RouteSpec::default_via(PEER)).unwrap();
    // A gateway behind a gateway is not on a link.
    let behind = RouteSpec { gateway: Some(FAR), ..RouteSpec::new(Ipv4Addr::new(198, 51, 100, 0), 24) };
    assert_eq!(ip_route_add(&m.net, behind.clone()), Err(Errno::ENETUNREACH));
    ip_route_add(&m.net, RouteSpec { onlink: true, oif: l.dev.ifindex, ..behind }).unwrap();
    assert_eq!(ip_route_add(&m.net, RouteSpec::default_via(PEER)), Err(Errno::EEXIST));
    let other = Ipv4Addr::new(10, 0, 0, 3);
    ip_route_replace(&m.net, RouteSpec::default_via(other)).unwrap();
    assert_eq!(m.route(FAR).unwrap().0.gateway, Some(IpAddr::V4(other)));
    ip_route_add(&m.net, RouteSpec { priority: 10, ..RouteSpec::default_via(PEER) }).unwrap();
    ip_route_del(&m.net, &RouteSpec::default_via(other)).unwrap();
    assert_eq!(m.route(FAR).unwrap().0.gateway, Some(IpAddr::V4(PEER)));
    assert_eq!(ip_route_del(&m.net, &RouteSpec::default_via(other)), Err(Errno::ESRCH));
    assert_eq!(ip_route_add(&m.net, RouteSpec::new(Ipv4Addr::new(10, 1, 1, 1), 24)), Err(Errno::EINVAL));
}

#[test]
fn routes_that_lead_nowhere_say_why() {
    let (m, _l) = Machine::host();
    let nowhere = |a: u8, kind| RouteSpec { kind, ..RouteSpec::new(Ipv4Addr::new(172, 16, a, 0), 24) };
    for (i, kind, errno) in [
        (1, RtnType::Unreachable, Errno::EHOSTUNREACH),
        (2, RtnType::Prohibit, Errno::EACCES),
        (3, RtnType::Blackhole, Errno::EINVAL),
    ] {
        ip_route_add(&m.net, nowhere(i, kind)).unwrap();
        assert_eq!(m.route(Ipv4Addr::new(172, 16, i, 1)).err(), Some(errno));
    }
}

#[test]
fn sources_are_chosen_as_linux_chooses() {
    let (m, l) = Machine::host();
    let second = m.link("eth1", 1500);
    inet_addr_add(&second.dev, Ipv4Addr::new(172, 20, 0, 1), 16).unwrap();
    let source = |to| m.route(to).map(|(_, f)| f.saddr);
    assert_eq!(source(PEER), Ok(HOST.into()));
    assert_eq!(source(FAR), Ok(HOST.into()));
    assert_eq!(source(Ipv4Addr::new(172, 20, 9, 9)), Ok(Ipv4Addr::new(172, 20, 0, 1).into()));
    // To itself: from itself, over loopback.
    let (dst, f) = m.route(HOST).unwrap();
    assert!(dst.dev.is_loopback() && dst.is_local());
    assert_eq!(f.saddr, IpAddr::V4(HOST));
    let (dst, f) = m.route(Ipv4Addr::UNSPECIFIED).unwrap();
    assert!(dst.dev.is_loopback());
    assert_eq!((f.saddr, f.daddr), (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()));
    let src = Ipv4Addr::new(172, 20, 0, 5);
    inet_addr_add(&second.dev, src, 32).unwrap();
    let spec = RouteSpec { prefsrc: Some(src), oif: l.dev.ifindex, ..RouteSpec::new(FAR, 32) };
    assert_eq!(ip_route_add(&m.net, RouteSpec { prefsrc: Some(FAR), ..spec.clone() }), Err(Errno::EINVAL));
    ip_route_add(&m.net, spec).unwrap();
    assert_eq!(source(FAR), Ok(src.into()));
}

#[test]
fn only_own_addresses_are_sources_unless_any_will_do() {
    let (m, _l) = Machine::host();
    let mut f = Flow::new(IPPROTO_UDP, FAR.into(), 0, PEER.into(), 0);
    assert_eq!(ip_route_output_flow(&m.net, &mut f).err(), Some(Errno::EINVAL));
    f.anysrc = true;
    assert!(ip_route_output_flow(&m.net, &mut f).is_ok());
    assert_eq!(f.saddr, IpAddr::V4(FAR));
}

#[test]
fn broadcasts_leave_by_the_device_of_their_prefix() {
    let (m, l) = Machine::host();
    let (dst, _) = m.route(Ipv4Addr::new(10, 0, 0, 255)).unwrap();
    assert_eq!(dst.kind, RtnType::Broadcast);
    assert!(Arc::ptr_eq(&dst.dev, &l.dev));
    let (dst, f) = m.route(Ipv4Addr::BROADCAST).unwrap();
    assert_eq!((dst.kind, f.saddr), (RtnType::Broadcast, HOST.into()));
    let (dst, _) = m.route(Ipv4Addr::new(224, 1, 1, 1)).unwrap();
    assert_eq!(dst.kind, RtnType::Multicast);
}

#[test]
fn sending_allocates_no_route() {
    let (m, _l) = Machine::host();
    let first = m.route(FAR).unwrap().0;
    assert!(Arc::ptr_eq(&first, &m.route(Ipv4Addr::new(198, 51, 100, 1)).unwrap().0));
    let bcast = m.route(Ipv4Addr::BROADCAST).unwrap().0;
    assert!(Arc::ptr_eq(&bcast, &m.route(Ipv4Addr::BROADCAST).unwrap().0));
    m.net.bump_rt_genid();
    assert!(!first.is_current(&m.net));
    assert!(!Arc::ptr_eq(&first, &m.route(FAR).unwrap().0));
}

#[test]
fn any_ip_delivers_everything_here_and_answers_go_out() {
    let (m, l) = Machine::host();
    ip_route_del(&m.net, &RouteSpec::default_via(PEER)).unwrap();
    ip_route_add(&m.net, RouteSpec::local(Ipv4Addr::UNSPECIFIED, 0, l.dev.ifindex)).unwrap();
    let dst = ip_route_input(&m.net, FAR, PEER, &l.dev).unwrap();
    assert_eq!(dst.kind, RtnType::Local);
    // The peer is still a neighbour, and any address may speak to it.
    let mut f = Flow::new(6, FAR.into(), 80, PEER.into(), 1234);
    let back = ip_route_output_flow(&m.net, &mut f).unwrap();
    assert!(Arc::ptr_eq(&back.dev, &l.dev));
    m.receive(&l, P { dst: FAR, ..ping(b"hello") }.build());
    let (ip, icmp, data) = the_icmp(&l.sent_bytes());
    assert_eq!((ip.src(), ip.dst(), icmp.kind, &data[..]), (FAR, PEER, ICMP_ECHOREPLY, &b"hello"[..]));
}

#[test]
fn martians_are_refused() {
    let (m, l) = Machine::host();
    let refuse = |src: [u8; 4], dst: [u8; 4]| ip_route_input(&m.net, dst.into(), src.into(), &l.dev).err();
    let me = HOST.octets();
    for src in [[224, 0, 0, 1], [255; 4], [127, 0, 0, 1], [0, 1, 2, 3], me, [10, 0, 0, 255]] {
        assert_eq!(refuse(src, me), Some(Errno::EINVAL), "from {src:?}");
    }
    assert_eq!(refuse([10, 0, 0, 2], [127, 0, 0, 1]), Some(Errno::EINVAL));
    assert_eq!(refuse([10, 0, 0, 2], [192, 0, 2, 1]), Some(Errno::EHOSTUNREACH));
    assert_eq!(refuse([10, 0, 0, 2], me), None);
    assert_eq!(refuse([10, 0, 0, 2], [255; 4]), None);
    assert_eq!(refuse([0; 4], [255; 4]), None);
    assert_eq!(refuse([10, 0, 0, 2], [10, 0, 0, 255]), None);
    assert_eq!(refuse([10, 0, 0, 2], [224, 0, 0, 1]), None);
    assert_eq!(refuse([10, 0, 0, 2], [224, 0, 0, 99]), Some(Errno::EINVAL));
}

// --- Receive ---

#[test]
fn header_errors_are_counted_under_their_names() {
    let (m, l) = Machine::host();
    let good = ping(b"x").build();
    let bad = |f: &dyn Fn(&mut Vec<u8>), resum: bool| {
        let mut b = good.clone();
        f(&mut b);
        if resum {
            ip_send_check(&mut b);
        }
        m.receive(&l, b);
    };
    bad(&|b| b.truncate(19), false);
    bad(&|b| b[0] = 0x65, true);
    bad(&|b| b[0] = 0x44, true);
    bad(&|b| b[2..4].copy_from_slice(&[0, 19]), true);
    assert_eq!(m.mib(Mib::IpInHdrErrors), 4);
    bad(&|b| b[8] ^= 1, false);
    assert_eq!((m.mib(Mib::IpInHdrErrors), m.mib(Mib::IpExtInCsumErrors)), (5, 1));
    bad(&|b| b[2..4].copy_from_slice(&[2, 0]), true);
    assert_eq!(m.mib(Mib::IpExtInTruncatedPkts), 1);
    bad(&|b| b[16..20].copy_from_slice(&FAR.octets()), true);
    assert_eq!(m.mib(Mib::IpInAddrErrors), 1);
    m.receive_as(&l, good.clone(), PktType::OtherHost);
    assert_eq!((m.mib(Mib::IpInReceives), m.mib(Mib::IpInDelivers)), (7, 0));
    assert!(l.sent().is_empty());
}

#[test]
fn link_padding_is_cut_off() {
    let (m, l) = Machine::host();
    let mut b = ping(b"x").build();
    b.resize(60, 0xee);
    m.receive(&l, b);
    let (ip, _, data) = the_icmp(&l.sent_bytes());
    assert_eq!((ip.tot_len.get(), data), (29, vec![b'x']));
}

#[test]
fn options_are_checked_and_source_routes_refused() {
    let (m, l) = Machine::host();
    m.receive(&l, P { options: vec![131, 7, 4, 10, 0, 0, 9, 0], ..ping(b"") }.build());
    assert_eq!((m.mib(Mib::IpInDiscards), l.sent().len()), (1, 0));
    m.receive(&l, P { options: vec![7, 7, 2, 0, 0, 0, 0, 0], ..ping(b"") }.build());
    let (_, icmp, _) = the_icmp(&l.sent_bytes());
    assert_eq!((icmp.kind, icmp.code, icmp.rest[0]), (ICMP_PARAMETERPROB, 0, 22));
    m.receive(&l, P { options: vec![148, 4, 0, 0], ..ping(b"ok") }.build());
    assert_eq!(the_icmp(&l.sent_bytes()).1.kind, ICMP_ECHOREPLY);
}

#[test]
fn an_unknown_protocol_is_answered_with_its_header() {
    let (m, l) = Machine::host();
    let p = P::new(PEER, HOST, 253, &pattern(1000)).build();
    m.receive(&l, p.clone());
    let (ip, icmp, quoted) = the_icmp(&l.sent_bytes());
    assert_eq!((icmp.kind, icmp.code), (ICMP_DEST_UNREACH, ICMP_PROT_UNREACH));
    assert_eq!((ip.src(), ip.dst(), ip.tot_len.get(), ip.tos), (HOST, PEER, 576, 0xc0));
    assert_eq!(quoted, p[..548]);
    assert_eq!(m.mib(Mib::IpInUnknownProtos), 1);
}

#[test]
fn errors_are_silent_where_rfc_1122_wants_silence() {
    let (m, l) = Machine::host();
    let unknown = P::new(PEER, HOST, 253, &[0; 64]);
    // Not about a broadcast, by address or by link.
    m.receive_as(&l, P { dst: Ipv4Addr::new(10, 0, 0, 255), ..unknown.clone() }.build(), PktType::Broadcast);
    m.receive_as(&l, P { dst: Ipv4Addr::BROADCAST, ..unknown.clone() }.build(), PktType::Broadcast);
    m.receive_as(&l, unknown.build(), PktType::Broadcast);
    m.receive_as(&l, P { dst: Ipv4Addr::new(224, 0, 0, 1), ..unknown.clone() }.build(), PktType::Multicast);
    assert!(l.sent().is_empty());
    // Not to nobody.
    m.receive_as(&l, P { src: Ipv4Addr::UNSPECIFIED, ..unknown.clone() }.build(), PktType::Host);
    assert!(l.sent().is_empty());
    // Not about an error.
    m.net.sysctl.ip_forward.set(1).unwrap();
    let error = icmp(ICMP_DEST_UNREACH, ICMP_PORT_UNREACH, [0; 4], &unknown.build());
    m.receive(&l, P { ttl: 1, ..P::new(PEER, FAR, IPPROTO_ICMP, &error) }.build());
    assert!(l.sent().is_empty());
    // Not about a later fragment.
    m.receive(&l, P { ttl: 1, frag_off: 5, ..P::new(PEER, FAR, IPPROTO_UDP, &[0; 64]) }.build());
    assert!(l.sent().is_empty());
    m.receive(&l, P { ttl: 1, ..P::new(PEER, FAR, IPPROTO_UDP, &[0; 64]) }.build());
    assert_eq!(the_icmp(&l.sent_bytes()).1.kind, ICMP_TIME_EXCEEDED);
}

#[test]
fn errors_are_rate_limited_per_destination_and_in_all() {
    let (m, l) = Machine::host();
    let from = |i: u8| P::new(Ipv4Addr::new(10, 0, 0, i), HOST, 253, &[0; 8]).build();
    for _ in 0..20 {
        m.receive(&l, from(2));
    }
    assert_eq!((l.sent().len(), m.mib(Mib::IcmpOutRateLimitHost)), (6, 14));
    m.advance(3);
    for _ in 0..20 {
        m.receive(&l, from(2));
    }
    assert_eq!(l.sent().len(), 3);
    m.net.sysctl.icmp_msgs_per_sec.set(5).unwrap();
    m.net.sysctl.icmp_msgs_burst.set(5).unwrap();
    m.advance(10);
    for i in 3..30 {
        m.receive(&l, from(i));
    }
    assert_eq!((l.sent().len(), m.mib(Mib::IcmpOutRateLimitGlobal)), (5, 22));
}

// --- Echo, fragments ---

#[test]
fn echoes_of_any_size_come_back() {
    let (m, l) = Machine::host();
    for n in [0usize, 1, 56, 1472, 1473, 8000, 65507] {
        let data = pattern(n);
        for p in pieces(&ping(&data), 1480) {
            m.receive(&l, p.build());
        }
        let out = l.sent_bytes();
        assert_eq!(out.len(), (n + 8).div_ceil(1480), "{n} bytes");
        let mut body = Vec::new();
        for (i, b) in out.iter().enumerate() {
            let ip = IpHdr::read(b).unwrap();
            assert_eq!(ip_fast_csum(&b[..20]), [0, 0]);
            assert_eq!((ip.src(), ip.dst()), (HOST, PEER));
            let more = if i + 1 < out.len() { IP_MF } else { 0 };
            assert_eq!(ip.frag_off.get(), (body.len() / 8) as u16 | more);
            body.extend_from_slice(&b[20..]);
        }
        assert_eq!(csum_fold(skb_checksum(&Skb::from_bytes(0, &body), 0, body.len(), 0)), [0, 0]);
        assert_eq!((body[0], &body[4..8], &body[8..]), (ICMP_ECHOREPLY, &[1, 2, 3, 4][..], &data[..]));
    }
    assert_eq!(m.mib(Mib::IcmpOutEchoReps), 7);
    assert_eq!(ip_frag_mem(&m.net), 0);
}

#[test]
fn more_pieces_than_a_packet_may_have_are_gathered() {
    let (m, l) = Machine::host();
    let data = pattern(20_000);
    for p in pieces(&ping(&data), 72) {
        m.receive(&l, p.build());
    }
    assert_eq!((m.mib(Mib::IpReasmOKs), m.mib(Mib::IcmpInCsumErrors)), (1, 0));
    let body: Vec<u8> = l.sent_bytes().iter().flat_map(|b| b[20..].to_vec()).collect();
    assert_eq!(body[8..], data);
}

#[test]
fn broadcast_echoes_get_no_answer_unless_wanted() {
    let (m, l) = Machine::host();
    let p = P { dst: Ipv4Addr::new(10, 0, 0, 255), ..ping(b"x") }.build();
    m.receive_as(&l, p.clone(), PktType::Broadcast);
    assert!(l.sent().is_empty());
    m.net.sysctl.icmp_echo_ignore_broadcasts.set(0).unwrap();
    m.receive_as(&l, p, PktType::Broadcast);
    assert_eq!(the_icmp(&l.sent_bytes()).0.src(), HOST);
    m.net.sysctl.icmp_echo_ignore_all.set(1).unwrap();
    m.receive(&l, ping(b"x").build());
    assert!(l.sent().is_empty());
}

#[test]
fn a_timestamp_is_answered() {
    let (m, l) = Machine::host();
    let q = icmp(ICMP_TIMESTAMP, 0, [0, 1, 0, 2], &[9, 9, 9, 9, 0, 0, 0, 0, 0, 0, 0, 0]);
    m.receive(&l, P::new(PEER, HOST, IPPROTO_ICMP, &q).build());
    let (_, icmp, data) = the_icmp(&l.sent_bytes());
    assert_eq!((icmp.kind, icmp.rest), (ICMP_TIMESTAMPREPLY, [0, 1, 0, 2]));
    assert_eq!(data, [[9; 4], 1000u32.to_be_bytes(), 1000u32.to_be_bytes()].concat());
}

#[test]
fn fragments_may_repeat_but_not_overlap() {
    let (m, l) = Machine::host();
    let all = pieces(&ping(&pattern(3000)), 800);
    for p in [&all[2], &all[0], &all[0], &all[2], &all[3], &all[1]] {
        m.receive(&l, p.build());
    }
    assert_eq!((m.mib(Mib::IpReasmOKs), m.mib(Mib::IpReasmReqds)), (1, 6));
    assert_eq!(l.sent().len(), 3);
    let mut overlapping = all[1].clone();
    overlapping.frag_off -= 1;
    for p in [&all[0], &overlapping, &all[1], &all[2], &all[3]] {
        m.receive(&l, p.build());
    }
    assert_eq!((m.mib(Mib::IpExtReasmOverlaps), m.mib(Mib::IpReasmFails), m.mib(Mib::IpReasmOKs)), (1, 1, 1));
    assert!(l.sent().is_empty());
}

#[test]
fn what_stays_incomplete_is_given_up_after_30_s() {
    let (m, l) = Machine::host();
    let all = pieces(&ping(&pattern(3000)), 800);
    m.receive(&l, all[0].build());
    m.receive(&l, all[1].build());
    m.receive(&l, P { id: 8, ..all[1].clone() }.build());
    assert!(ip_frag_mem(&m.net) > 0);
    m.advance(29);
    assert_eq!(m.mib(Mib::IpReasmTimeout), 0);
    m.advance(6);
    assert_eq!((m.mib(Mib::IpReasmTimeout), m.mib(Mib::IpReasmFails), ip_frag_mem(&m.net)), (2, 2, 0));
    // Only the one whose first fragment had come can be told of.
    let (_, icmp, quoted) = the_icmp(&l.sent_bytes());
    assert_eq!((icmp.kind, icmp.code), (ICMP_TIME_EXCEEDED, ICMP_EXC_FRAGTIME));
    assert_eq!(quoted, all[0].build()[..548]);
}

#[test]
fn fragments_take_no_more_memory_than_allowed() {
    let (m, l) = Machine::host();
    m.net.sysctl.ipfrag_high_thresh.set(100_000).unwrap();
    let first = &pieces(&ping(&pattern(3000)), 800)[0];
    for id in 0..1000 {
        m.receive(&l, P { id, ..first.clone() }.build());
    }
    assert!(ip_frag_mem(&m.net) < 110_000, "{}", ip_frag_mem(&m.net));
    assert!(m.mib(Mib::IpReasmFails) > 800);
    // Nor does one packet in very small pieces.
    for i in 0..2000 {
        m.receive(&l, P { id: 5, frag_off: i | IP_MF, ..P::new(PEER, HOST, 253, &[0; 8]) }.build());
    }
    assert!(ip_frag_mem(&m.net) < 110_000, "{}", ip_frag_mem(&m.net));
}

#[test]
fn a_queue_that_the_source_has_long_passed_starts_anew() {
    let (m, l) = Machine::host();
    let all = pieces(&ping(&pattern(1500)), 800);
    m.receive(&l, all[0].build());
    for id in 100..200 {
        m.receive(&l, P { id, ..all[1].clone() }.build());
    }
    m.receive(&l, all[1].build());
    assert_eq!((m.mib(Mib::IpReasmOKs), m.mib(Mib::IpReasmFails)), (0, 1));
    m.receive(&l, all[0].build());
    assert_eq!(m.mib(Mib::IpReasmOKs), 1);
}

#[test]
fn impossible_fragments_are_dropped() {
    let (m, l) = Machine::host();
    // Past the largest packet; empty; an end before what is there; two ends.
    m.receive(&l, P { frag_off: 0x1fff, ..P::new(PEER, HOST, 253, &[0; 100]) }.build());
    m.receive(&l, P { frag_off: IP_MF, ..P::new(PEER, HOST, 253, &[0; 7]) }.build());
    assert_eq!(m.mib(Mib::IpReasmFails), 2);
    let piece = |off: u16, n: usize| P { frag_off: off, ..P::new(PEER, HOST, 253, &vec![0; n]) }.build();
    m.receive(&l, piece(10 | IP_MF, 80));
    m.receive(&l, piece(5, 40));
    assert_eq!(m.mib(Mib::IpReasmFails), 3);
    m.receive(&l, piece(10, 80));
    m.receive(&l, piece(10, 88));
    assert_eq!((m.mib(Mib::IpReasmFails), ip_frag_mem(&m.net)), (4, 0));
}

#[test]
fn congestion_marks_survive_reassembly() {
    let (m, l) = Machine::host();
    for (marks, tos) in [([2u8, 2], Some(2u8)), ([2, 3], Some(3)), ([0, 3], None)] {
        let all = pieces(&ping(&pattern(1000)), 800);
        for (p, tos) in all.iter().zip(marks) {
            m.receive(&l, P { tos, ..p.clone() }.build());
        }
        assert_eq!(l.sent().len(), tos.is_some() as usize);
    }
    assert_eq!((m.mib(Mib::IpReasmOKs), m.mib(Mib::IpReasmFails)), (2, 1));
}

// --- Send ---

#[test]
fn large_packets_are_cut_and_share_their_payload() {
    let (m, l) = Machine::host();
    let data = pattern(4000);
    m.send(PEER, &data, false).unwrap();
    let out = l.sent();
    assert_eq!(out.len(), 3);
    // Nothing but the header is in the linear part: the payload is the sender's buffer.
    assert!(out.iter().all(|s| s.headlen() == 20));
    let body: Vec<u8> = out.iter().flat_map(|s| bytes_of(s)[20..].to_vec()).collect();
    assert_eq!(body, data);
    assert_eq!((m.mib(Mib::IpFragOKs), m.mib(Mib::IpFragCreates)), (1, 3));
    assert_eq!(m.send(PEER, &pattern(65516), false), Err(Errno::EMSGSIZE));
}

#[test]
fn identifications_differ_where_packets_may_be_cut() {
    let (m, l) = Machine::host();
    for _ in 0..50 {
        m.send(PEER, b"x", false).unwrap();
    }
    m.send(PEER, b"x", true).unwrap();
    let ids: Vec<u16> = l.sent_bytes().iter().map(|b| IpHdr::read(b).unwrap().id.get()).collect();
    let distinct: std::collections::HashSet<_> = ids[..50].iter().collect();
    assert_eq!((distinct.len(), ids[50]), (50, 0));
}

/// As on a kernel with 250 ticks a second: up to as many as ticks have passed are left out.
#[test]
fn identifications_move_on_with_time() {
    let (m, l) = Machine::host();
    let steps = |l: &Link, ms: u64| -> Vec<u16> {
        for _ in 0..100 {
            m.arch.now.fetch_add(ms * 1_000_000, SeqCst);
            m.send(PEER, b"x", false).unwrap();
        }
        let ids: Vec<u16> = l.sent_bytes().iter().map(|b| IpHdr::read(b).unwrap().id.get()).collect();
        ids[ids.len() - 100..].windows(2).map(|w| w[1].wrapping_sub(w[0])).collect()
    };
    assert!(steps(&l, 4).iter().all(|d| *d == 1));
    let slow = steps(&l, 24);
    assert_eq!((slow.iter().min(), slow.iter().max()), (Some(&1), Some(&6)), "{slow:?}");
    let slower = steps(&l, 4000);
    assert!(slower.iter().all(|d| (1..=1000).contains(d)) && slower.iter().any(|d| *d > 500), "{slower:?}");
}

#[test]
fn a_packet_too_large_for_its_path_is_refused() {
    let (m, l) = Machine::host();
    assert_eq!(m.send(PEER, &pattern(2000), true), Err(Errno::EMSGSIZE));
    assert!(l.sent().is_empty());
    // The transport hears of it as of a router's complaint.
    assert_eq!((m.mib(Mib::IpFragFails), m.mib(Mib::IcmpInDestUnreachs)), (1, 1));
}

#[test]
fn broadcasts_come_back_to_the_host_itself() {
    static GOT: AtomicU64 = AtomicU64::new(0);
    let (m, l) = Machine::host();
    let handler = |_: &Arc<Net>, skb: Box<Skb>| {
        assert_eq!(bytes_of(&skb), b"all");
        assert_eq!(skb.dst.as_ref().map(|d| d.kind), Some(RtnType::Broadcast));
        GOT.fetch_add(1, SeqCst);
    };
    inet_add_protocol(&m.reg, 253, NetProtocol { handler, err_handler: |_, _, _| {} }).unwrap();
    m.send(Ipv4Addr::new(10, 0, 0, 255), b"all", false).unwrap();
    assert_eq!((GOT.load(SeqCst), l.sent().len()), (1, 1));
    m.send(Ipv4Addr::new(10, 0, 0, 255), b"all", false).unwrap();
    assert_eq!(GOT.load(SeqCst), 2);
}

#[test]
fn what_goes_to_oneself_arrives() {
    let (m, l) = Machine::host();
    let echo = icmp(ICMP_ECHO, 0, [0; 4], b"me");
    let _inside = m.kernel.enter();
    for to in [HOST, Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 9, 9, 9)] {
        let mut flow = Flow::new(IPPROTO_ICMP, Ipv4Addr::UNSPECIFIED.into(), 0, to.into(), 0);
        let mut skb = Skb::from_bytes(MAX_HEADER, &echo);
        skb.dst = Some(ip_route_output_flow(&m.net, &mut flow).unwrap());
        ip_queue_xmit(&m.net, None, skb, &flow, &XmitParams::default()).unwrap();
    }
    assert_eq!((m.mib(Mib::IcmpInEchos), m.mib(Mib::IcmpInEchoReps)), (3, 3));
    assert!(l.sent().is_empty());
}

/// Sends an echo request with `n` bytes of payload from a namespace.
fn ping_from(net: &Arc<Net>, to: Ipv4Addr, n: usize) -> Result<()> {
    let _inside = net.kernel().enter();
    let mut flow = Flow::new(IPPROTO_ICMP, Ipv4Addr::UNSPECIFIED.into(), 0, to.into(), 0);
    let mut skb = Skb::from_bytes(MAX_HEADER, &icmp(ICMP_ECHO, 0, [0; 4], &pattern(n)));
    skb.dst = Some(ip_route_output_flow(net, &mut flow)?);
    ip_queue_xmit(net, None, skb, &flow, &XmitParams::default())
}

#[test]
fn two_namespaces_ping_each_other_over_veth() {
    let m = Machine::new();
    let other = Net::new(&m.reg);
    let (a, b) = veth_pair(&m.net, "veth0", &other, "veth0").unwrap();
    dev_open(&a).unwrap();
    dev_open(&b).unwrap();
    inet_addr_add(&a, HOST, 24).unwrap();
    inet_addr_add(&b, PEER, 24).unwrap();
    for n in [0, 1000, 1472, 1473, 30_000, 65507] {
        ping_from(&m.net, PEER, n).unwrap();
        ping_from(&other, HOST, n).unwrap();
    }
    assert_eq!((m.mib(Mib::IcmpInEchoReps), other.mib.get(Mib::IcmpInEchoReps)), (6, 6));
    assert_eq!((m.mib(Mib::IpReasmFails), m.mib(Mib::IcmpInCsumErrors)), (0, 0));
    // Nobody there: three questions, then the sender hears of it.
    ping_from(&m.net, Ipv4Addr::new(10, 0, 0, 77), 10).unwrap();
    m.advance(5);
    assert_eq!(m.mib(Mib::IcmpInDestUnreachs), 1);
}

#[test]
fn a_group_is_heard_by_its_members_only() {
    let (m, l) = Machine::host();
    let group = Ipv4Addr::new(239, 1, 2, 3);
    let p = P { dst: group, ..ping(b"x") }.build();
    m.receive_as(&l, p.clone(), PktType::Multicast);
    assert_eq!((m.mib(Mib::IpInAddrErrors), m.mib(Mib::IpExtInMcastPkts)), (1, 0));
    assert_eq!(ip_mc_inc_group(&l.dev, PEER), Err(Errno::EINVAL));
    ip_mc_inc_group(&l.dev, group).unwrap();
    m.receive_as(&l, p.clone(), PktType::Multicast);
    assert_eq!((m.mib(Mib::IpInAddrErrors), m.mib(Mib::IpExtInMcastPkts)), (1, 1));
    // A member hears itself; the packet goes no further than the link.
    m.send(group, b"x", false).unwrap();
    let out = l.sent_bytes();
    assert_eq!((m.mib(Mib::IpExtInMcastPkts), IpHdr::read(&out[0]).unwrap().ttl), (2, 1));
    ip_mc_dec_group(&l.dev, group).unwrap();
    m.receive_as(&l, p, PktType::Multicast);
    assert_eq!((m.mib(Mib::IpInAddrErrors), ip_mc_dec_group(&l.dev, group)), (2, Err(Errno::EADDRNOTAVAIL)));
}

#[test]
fn a_hook_may_keep_a_packet_and_hand_it_back() {
    let (m, l) = Machine::host();
    let kept: Arc<SpinLock<Option<Box<Skb>>>> = Arc::default();
    let keeper = kept.clone();
    let hook = move |_: &Arc<Net>, skb: Box<Skb>| {
        *keeper.lock_bh() = Some(skb);
        Verdict::Stolen
    };
    m.net.nf.set(HookPoint::LocalIn, Some(Box::new(hook)));
    m.receive(&l, ping(b"later").build());
    assert!(l.sent().is_empty());
    let skb = kept.lock_bh().take().unwrap();
    {
        let _inside = m.kernel.enter();
        let _bh = local_bh_disable();
        ip_local_deliver_finish(&m.net, skb);
    }
    assert_eq!(the_icmp(&l.sent_bytes()).2, b"later");
}

// --- Path MTU ---

fn frag_needed(m: &Machine, l: &Link, about: &P, mtu: u16) {
    let [hi, lo] = mtu.to_be_bytes();
    let quoted = &about.build()[..28];
    let e = icmp(ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, [0, 0, hi, lo], quoted);
    m.receive(l, P::new(PEER, HOST, IPPROTO_ICMP, &e).build());
}

#[test]
fn the_path_mtu_is_learnt_and_forgotten() {
    let (m, l) = Machine::host();
    let ours = P::new(HOST, FAR, IPPROTO_ICMP, &icmp(ICMP_ECHO, 0, [0; 4], &pattern(1472)));
    let before = m.route(FAR).unwrap().0;
    frag_needed(&m, &l, &ours, 1280);
    assert!(!before.is_current(&m.net));
    let held = m.route(FAR).unwrap().0;
    assert_eq!(held.mtu(), 1280);
    // Of this destination only, and never up again.
    assert_eq!(m.route(Ipv4Addr::new(192, 0, 2, 8)).unwrap().0.mtu(), 1500);
    frag_needed(&m, &l, &ours, 1400);
    assert_eq!(m.route(FAR).unwrap().0.mtu(), 1280);
    frag_needed(&m, &l, &ours, 900);
    assert_eq!(held.mtu(), 900);
    frag_needed(&m, &l, &ours, 100);
    assert_eq!(held.mtu(), 552);
    m.advance(599);
    assert!(held.is_current(&m.net));
    m.advance(200);
    assert!(!held.is_current(&m.net));
    assert_eq!(m.route(FAR).unwrap().0.mtu(), 1500);
}

#[test]
fn an_old_router_means_the_next_plateau() {
    let (m, l) = Machine::host();
    frag_needed(&m, &l, &P::new(HOST, FAR, IPPROTO_ICMP, &icmp(ICMP_ECHO, 0, [0; 4], &pattern(1472))), 0);
    assert_eq!(m.route(FAR).unwrap().0.mtu(), 1492);
}

#[test]
fn what_the_wire_makes_us_remember_is_bounded() {
    let (m, _l) = Machine::host();
    for i in 0..20_000u32 {
        let to = Ipv4Addr::from(0xc000_0000 + i);
        ip_update_pmtu(&m.net, &Flow::new(6, HOST.into(), 0, to.into(), 0), 1000);
    }
    let known = (0..20_000u32).filter(|i| m.route(Ipv4Addr::from(0xc000_0000 + i)).unwrap().0.mtu() == 1000).count();
    assert!((1000..=2560).contains(&known), "{known}");
}

#[test]
fn errors_reach_the_transport_they_are_about() {
    type Told = (u8, u8, Errno, bool, usize);
    static SEEN: SpinLock<Vec<Told>> = SpinLock::new(Vec::new());
    let (m, l) = Machine::host();
    let err_handler = |_: &Arc<Net>, e: &crate::core::l3::IcmpError, quoted: &[u8]| {
        assert_eq!((e.saddr, e.daddr, e.offender), (HOST.into(), FAR.into(), PEER.into()));
        SEEN.lock_bh().push((e.kind, e.code, e.errno, e.fatal, quoted.len()));
    };
    inet_add_protocol(&m.reg, 253, NetProtocol { handler: |_, _| {}, err_handler }).unwrap();
    let about = P::new(HOST, FAR, 253, &pattern(100)).build();
    for (kind, code, n) in
        [(3u8, 3u8, 28usize), (3, 1, 128), (11, 0, 128), (12, 0, 128), (3, 16, 128), (3, 3, 27), (3, 3, 19)]
    {
        let e = icmp(kind, code, [0; 4], &about[..n.min(about.len())]);
        m.receive(&l, P::new(PEER, HOST, IPPROTO_ICMP, &e).build());
    }
    let want = [
        (3, 3, Errno::ECONNREFUSED, true, 8),
        (3, 1, Errno::EHOSTUNREACH, false, 100),
        (11, 0, Errno::EHOSTUNREACH, false, 100),
        (12, 0, Errno::EPROTO, true, 100),
    ];
    assert_eq!(*SEEN.lock_bh(), want);
    assert_eq!((m.mib(Mib::IcmpInErrors), m.mib(Mib::IcmpInDestUnreachs)), (2, 5));
    assert!(l.sent().is_empty());
}

// --- Forwarding ---

fn router() -> (Machine, Link, Link) {
    let (m, a) = Machine::host();
    let b = m.link("eth1", 1000);
    inet_addr_add(&b.dev, Ipv4Addr::new(192, 0, 2, 1), 24).unwrap();
    m.net.sysctl.ip_forward.set(1).unwrap();
    (m, a, b)
}

#[test]
fn a_router_forwards() {
    let (m, a, b) = router();
    let p = P::new(PEER, FAR, IPPROTO_UDP, &pattern(100));
    m.receive(&a, p.build());
    let want = P { ttl: 63, ..p.clone() }.build();
    assert_eq!(b.sent_bytes(), [want]);
    assert_eq!(m.mib(Mib::IpForwDatagrams), 1);
    // Too large for the next link: cut, or refused with its MTU.
    let big = P::new(PEER, FAR, IPPROTO_UDP, &pattern(1200));
    m.receive(&a, big.build());
    assert_eq!(b.sent().len(), 2);
    m.receive(&a, P { frag_off: IP_DF, ..big.clone() }.build());
    let (ip, icmp, _) = the_icmp(&a.sent_bytes());
    assert_eq!((ip.src(), icmp.kind, icmp.code), (HOST, ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED));
    assert_eq!(icmp.rest, [0, 0, 3, 232]);
    // A fragment that is cut again keeps its place.
    m.receive(&a, P { frag_off: 100 | IP_MF, ..big }.build());
    let offs: Vec<u16> = b.sent_bytes().iter().map(|b| IpHdr::read(b).unwrap().frag_off.get()).collect();
    assert_eq!(offs, [100 | IP_MF, (100 + 976 / 8) | IP_MF]);
}

#[test]
fn a_router_says_why_it_does_not_forward() {
    let (m, a, b) = router();
    let p = P::new(PEER, FAR, IPPROTO_UDP, &pattern(100));
    m.receive(&a, P { ttl: 1, ..p.clone() }.build());
    assert_eq!(the_icmp(&a.sent_bytes()).1.kind, ICMP_TIME_EXCEEDED);
    ip_route_del(&m.net, &RouteSpec::default_via(PEER)).unwrap();
    m.receive(&a, P { dst: Ipv4Addr::new(8, 8, 8, 8), ..p.clone() }.build());
    let (_, icmp, _) = the_icmp(&a.sent_bytes());
    assert_eq!((icmp.kind, icmp.code), (ICMP_DEST_UNREACH, ICMP_NET_UNREACH));
    assert_eq!(m.mib(Mib::IpExtInNoRoutes), 1);
    // What was sent to all stations of a link is not spread further.
    m.receive_as(&a, p.build(), PktType::Broadcast);
    assert!(b.sent().is_empty());
}

// --- Anything ---

/// Everything a packet can come to.
fn fates(m: &Machine) -> u64 {
    [
        Mib::IpInHdrErrors,
        Mib::IpExtInTruncatedPkts,
        Mib::IpInAddrErrors,
        Mib::IpInDiscards,
        Mib::IpInUnknownProtos,
        Mib::IpInDelivers,
        Mib::IpReasmReqds,
        Mib::IpForwDatagrams,
        Mib::IpExtInNoRoutes,
        Mib::IpFragFails,
    ]
    .into_iter()
    .map(|c| m.mib(c))
    .sum::<u64>()
        - m.mib(Mib::IpReasmOKs)
}

fn some_packet() -> impl Strategy<Value = Vec<u8>> {
    let addr = prop_oneof![Just(HOST), Just(PEER), Just(FAR), any::<u32>().prop_map(Ipv4Addr::from)];
    let proto = prop_oneof![Just(1u8), Just(6), Just(17), any::<u8>()];
    let options = prop_oneof![
        Just(vec![]),
        prop::collection::vec(any::<u8>(), 4..40).prop_map(|mut v| {
            v.truncate(v.len() & !3);
            v
        })
    ];
    let frag = prop_oneof![4 => Just(0u16), 1 => any::<u16>(), 1 => 0u16..4, 1 => (0u16..4).prop_map(|f| f | IP_MF)];
    let payload = prop::collection::vec(any::<u8>(), 0..120);
    let error = (any::<u8>(), any::<u8>(), any::<[u8; 4]>(), prop::collection::vec(any::<u8>(), 0..80))
        .prop_map(|(k, c, r, q)| icmp(k % 20, c % 20, r, &q));
    (addr.clone(), addr, proto, options, frag, prop_oneof![payload, error], any::<[u8; 2]>()).prop_map(
        |(src, dst, proto, options, frag_off, payload, [ttl, tos])| {
            P { options, frag_off, ttl, tos, ..P::new(src, dst, proto, &payload) }.build()
        },
    )
}

fn anything() -> impl Strategy<Value = Vec<u8>> {
    let damaged =
        (some_packet(), any::<prop::sample::Index>(), any::<u8>(), any::<prop::sample::Index>(), any::<bool>())
            .prop_map(|(mut b, at, with, cut, resum)| {
                let i = at.index(b.len());
                b[i] ^= with;
                if resum {
                    ip_send_check(&mut b);
                }
                b.truncate(cut.index(b.len() + 1).max(b.len() / 2));
                b
            });
    prop_oneof![2 => some_packet(), 2 => damaged, 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_frame_is_counted_and_harms_nothing(frames in prop::collection::vec(anything(), 1..40), forward in any::<bool>()) {
        let (m, l) = Machine::host();
        m.net.sysctl.ip_forward.set(forward as i64).unwrap();
        for f in frames {
            let before = fates(&m);
            let received = m.mib(Mib::IpInReceives);
            m.receive(&l, f.clone());
            prop_assert!(m.mib(Mib::IpInReceives) > received);
            prop_assert!(fates(&m) > before, "uncounted: {f:02x?}");
        }
        m.advance(40);
        prop_assert_eq!(ip_frag_mem(&m.net), 0);
    }
}

#[test]
fn a_number_is_registered_once() {
    let m = Machine::new();
    let p = || NetProtocol { handler: |_, _| {}, err_handler: |_, _, _| {} };
    inet_add_protocol(&m.reg, 253, p()).unwrap();
    assert_eq!(inet_add_protocol(&m.reg, 253, p()), Err(Errno::EEXIST));
    let section = kernel::rcu_read_lock();
    let there = |n| inet_protocol(&m.reg, n, &section).is_some();
    assert!(there(253) && !there(254));
}

#[test]
fn a_namespace_that_is_dropped_is_gone() {
    let (m, l) = Machine::host();
    m.receive(&l, pieces(&ping(&pattern(3000)), 800)[0].build());
    m.route(FAR).unwrap();
    m.route(Ipv4Addr::BROADCAST).unwrap();
    ip_update_pmtu(&m.net, &Flow::new(6, HOST.into(), 0, FAR.into(), 0), 1000);
    m.route(FAR).unwrap();
    let (net, dev) = (m.net.weak(), Arc::downgrade(&l.dev));
    drop((m, l));
    assert!(net.upgrade().is_none());
    // What is freed frees more: tables their routes, routes their decisions, decisions the device. Each waits for sections that
    // other tests are in, or in another test's hands.
    for _ in 0..16 {
        kernel::rcu_barrier();
    }
    assert!(dev.upgrade().is_none(), "the device is still referenced");
}

#[test]
fn routes_change_under_the_feet_of_senders() {
    let (m, l) = Machine::host();
    let net = Ipv4Addr::new(203, 0, 113, 0);
    let via = |i: u8| Ipv4Addr::new(10, 0, 0, i);
    ip_route_add(&m.net, RouteSpec { gateway: Some(via(2)), ..RouteSpec::new(net, 24) }).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                while !done.load(SeqCst) {
                    let (dst, f) = m.route(Ipv4Addr::new(203, 0, 113, 5)).unwrap();
                    assert!(matches!(dst.gateway, Some(IpAddr::V4(g)) if g == via(2) || g == via(3)));
                    assert_eq!(f.saddr, IpAddr::V4(HOST));
                }
            });
        }
        for i in 0..2000u32 {
            let gateway = Some(via(2 + (i & 1) as u8));
            ip_route_replace(&m.net, RouteSpec { gateway, ..RouteSpec::new(net, 24) }).unwrap();
            let host = RouteSpec { oif: l.dev.ifindex, ..RouteSpec::new((0xcb00_7200 + i).into(), 32) };
            ip_route_add(&m.net, host).unwrap();
        }
        done.store(true, SeqCst);
    });
    assert_eq!(ip_route_list(&m.net).len(), 6 + 2 + 2000);
}
