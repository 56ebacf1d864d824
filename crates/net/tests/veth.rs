//! Two namespaces joined by a veth pair: address resolution, both ways, and what happens when nobody answers.

use host::Host;
use sockeye_net::core::dev::{NetDevice, dev_open};
use sockeye_net::core::neighbour::{Nud, neigh_lookup};
use sockeye_net::core::net_namespace::Net;
use sockeye_net::drivers::netem::{Netem, NetemParams};
use sockeye_net::drivers::veth::veth_pair_with;
use sockeye_net::init::net_init;
use sockeye_net::ipv4::devinet::inet_addr_add;
use sockeye_net::syscall::{FdTable, PollFd};
use std::net::SocketAddr;
use std::sync::Arc;
use uapi::poll::Poll;
use uapi::socket::*;
use uapi::{Errno, SockAddr};

struct End {
    net: Arc<Net>,
    dev: Arc<NetDevice>,
    files: FdTable,
}

fn pair(netem: Option<Arc<Netem>>) -> (Arc<Host>, End, End) {
    let host = Host::start(1).expect("host");
    let reg = net_init(host.kernel());
    let (na, nb) = (Net::new(&reg), Net::new(&reg));
    let (da, db) = match &netem {
        Some(n) => veth_pair_with(&na, "eth0", &nb, "eth0", |s| n.wrap(s), |s| n.wrap(s)),
        None => veth_pair_with(&na, "eth0", &nb, "eth0", |s| s, |s| s),
    }
    .expect("pair");
    let end = |net: Arc<Net>, dev: Arc<NetDevice>, last| {
        dev_open(&dev).expect("up");
        inet_addr_add(&dev, [10, 0, 0, last].into(), 24).expect("address");
        End { files: FdTable::new(&net, 64), net, dev }
    };
    (host, end(na, da, 1), end(nb, db, 2))
}

fn udp(f: &FdTable, at: &str) -> (i32, SockAddr) {
    let a: SockAddr = at.parse::<SocketAddr>().expect("address").into();
    let fd = f.socket(a.family() as i32, SOCK_DGRAM, 0).expect("socket");
    f.bind(fd, &a).expect("bind");
    (fd, f.getsockname(fd).expect("name"))
}

#[test]
fn datagrams_cross_both_ways() {
    let (_host, a, b) = pair(None);
    let (sa, name_a) = udp(&a.files, "10.0.0.1:0");
    let (sb, name_b) = udp(&b.files, "10.0.0.2:0");
    // The first waits for the resolution, the large ones are fragmented.
    for n in [1, 1472, 1473, 30_000] {
        let data: Vec<u8> = (0..n).map(|i| (i * 3) as u8).collect();
        assert_eq!(a.files.sendto(sa, &data, 0, Some(&name_b)), Ok(n));
        let mut buf = vec![0; 40_000];
        assert_eq!(b.files.recvfrom(sb, &mut buf, 0), Ok((n, Some(name_a))));
        assert_eq!(buf[..n], data[..]);
        assert_eq!(b.files.sendto(sb, &data, 0, Some(&name_a)), Ok(n));
        assert_eq!(a.files.recvfrom(sa, &mut buf, 0), Ok((n, Some(name_b))));
    }
    let n = neigh_lookup(&a.net, a.dev.ifindex, [10, 0, 0, 2].into()).expect("an entry");
    assert_eq!((n.lladdr(), n.state()), (Some(b.dev.addr), Nud::Reachable));
}

#[test]
fn silence_is_host_unreachable_for_the_sender() {
    let (_host, a, _b) = pair(None);
    a.net.sysctl.set("net.ipv4.neigh.default.retrans_time_ms", 10).expect("sysctl");
    let (sa, _) = udp(&a.files, "10.0.0.1:0");
    // Without it, a datagram socket does not hear of errors that may pass (Linux: `icmp_err_convert`'s `fatal`).
    a.files.setsockopt(sa, IPPROTO_IP, 11, &1i32.to_ne_bytes()).expect("IP_RECVERR");
    let nobody: SockAddr = "10.0.0.77:9".parse::<SocketAddr>().expect("address").into();
    a.files.connect(sa, &nobody).expect("connect");
    a.files.send(sa, b"x", 0).expect("queued");
    let mut p = [PollFd::new(sa, Poll::IN)];
    assert_eq!(a.files.poll(&mut p, 60_000), Ok(1));
    assert_eq!(a.files.recv(sa, &mut [0; 8], MSG_DONTWAIT), Err(Errno::EHOSTUNREACH));
}

#[test]
fn what_the_wire_damages_is_not_delivered() {
    let netem = Netem::new(NetemParams::default(), 5);
    let (_host, a, b) = pair(Some(netem.clone()));
    let (sa, name_a) = udp(&a.files, "10.0.0.1:0");
    let (sb, name_b) = udp(&b.files, "10.0.0.2:0");
    let mut buf = [0; 2000];
    a.files.sendto(sa, b"first", 0, Some(&name_b)).expect("sent");
    assert_eq!(b.files.recvfrom(sb, &mut buf, 0), Ok((5, Some(name_a))));
    netem.set(NetemParams { corrupt: 1.0, ..NetemParams::default() });
    for _ in 0..200 {
        a.files.sendto(sa, &[0x55; 500], 0, Some(&name_b)).expect("sent");
    }
    netem.set(NetemParams::default());
    a.files.sendto(sa, b"last", 0, Some(&name_b)).expect("sent");
    // A bit turned in the Ethernet source address harms nobody; every other one is found.
    loop {
        match b.files.recv(sb, &mut buf, 0) {
            Ok(4) => break,
            Ok(500) => assert_eq!(buf[..500], [0x55; 500]),
            r => panic!("{r:?}"),
        }
    }
    assert_eq!(netem.stats.corrupted.load(std::sync::atomic::Ordering::Relaxed), 200);
}

#[test]
fn large_datagram_bursts_are_cut_for_a_wire_that_cannot() {
    let (_host, a, b) = pair(Some(Netem::new(NetemParams::default(), 1)));
    let (sa, _) = udp(&a.files, "10.0.0.1:0");
    let (sb, name_b) = udp(&b.files, "10.0.0.2:0");
    a.files.setsockopt(sa, IPPROTO_UDP, 103, &1000i32.to_ne_bytes()).expect("UDP_SEGMENT");
    a.files.sendto(sa, &[7; 2500], 0, Some(&name_b)).expect("sent");
    let mut buf = [0; 4000];
    let sizes = [0; 3].map(|_| b.files.recv(sb, &mut buf, 0).expect("a datagram"));
    assert_eq!(sizes, [1000, 1000, 500]);
}

/// Sends `n` patterned bytes over one connection and checks that they arrive.
fn transfer(a: &End, b: &End, n: usize) {
    let at: SockAddr = "10.0.0.2:7777".parse::<SocketAddr>().expect("address").into();
    let listener = b.files.socket(AF_INET, SOCK_STREAM, 0).expect("socket");
    b.files.bind(listener, &at).expect("bind");
    b.files.listen(listener, 1).expect("listen");
    let byte = |i: usize| (i ^ i >> 8 ^ i >> 16) as u8;
    std::thread::scope(|s| {
        s.spawn(|| {
            let fd = a.files.socket(AF_INET, SOCK_STREAM, 0).expect("socket");
            a.files.connect(fd, &at).expect("connect");
            let data: Vec<u8> = (0..n).map(byte).collect();
            let mut sent = 0;
            while sent < n {
                sent += a.files.send(fd, &data[sent..n.min(sent + 60_000)], 0).expect("send");
            }
            a.files.shutdown(fd, SHUT_WR).expect("shutdown");
            assert_eq!(a.files.recv(fd, &mut [0; 8], 0), Ok(0));
        });
        let (fd, _) = b.files.accept(listener).expect("accept");
        let (mut got, mut buf) = (0, vec![0; 65536]);
        loop {
            match b.files.recv(fd, &mut buf, 0).expect("recv") {
                0 => break,
                k => {
                    assert!(buf[..k].iter().enumerate().all(|(i, c)| *c == byte(got + i)), "at {got}");
                    got += k;
                }
            }
        }
        assert_eq!(got, n);
        b.files.close(fd).expect("close");
    });
}

#[test]
fn a_stream_crosses_in_large_packets() {
    let (_host, a, b) = pair(None);
    transfer(&a, &b, 20_000_000);
    let packets = a.dev.stats.tx_packets();
    assert!(packets < 20_000_000 / 1448 / 2, "{packets} packets: cut before the wire");
}

#[test]
fn a_stream_survives_a_bad_wire() {
    let bad = NetemParams {
        loss: 0.02,
        duplicate: 0.01,
        corrupt: 0.01,
        reorder: 0.05,
        delay_ns: 1_000_000,
        ..NetemParams::default()
    };
    let (_host, a, b) = pair(Some(Netem::new(bad, 11)));
    transfer(&a, &b, 1_000_000);
}

#[test]
fn one_packet_can_be_followed_across() {
    let (host, a, b) = pair(None);
    let (sa, _) = udp(&a.files, "10.0.0.1:0");
    let (sb, name_b) = udp(&b.files, "10.0.0.2:0");
    let mut buf = [0; 100];
    a.files.sendto(sa, b"resolve", 0, Some(&name_b)).expect("sent");
    b.files.recv(sb, &mut buf, 0).expect("received");
    kernel::trace::set_mode(kernel::trace::Mode::All);
    host.kernel().tracer().drain();
    a.files.sendto(sa, b"follow me", 0, Some(&name_b)).expect("sent");
    b.files.recv(sb, &mut buf, 0).expect("received");
    let events = host.kernel().tracer().drain();
    kernel::trace::set_mode(kernel::trace::Mode::Off);
    let veth = events.iter().find(|e| e.name == "veth_xmit").expect("veth_xmit");
    assert_ne!(veth.subject.skb, 0);
    let way: Vec<_> =
        events.iter().filter(|e| e.subject.skb == veth.subject.skb).map(|e| (e.name, e.context)).collect();
    let mut at = way.iter();
    let expected = [
        ("neigh_output", "process"),
        ("dev_queue_xmit", "process"),
        ("dev_hard_start_xmit", "process"),
        ("veth_xmit", "process"),
        ("netif_rx", "process"),
        ("netif_receive_skb", "softirq"),
        ("ip_rcv", "softirq"),
        ("ip_local_deliver", "softirq"),
    ];
    for e in expected {
        assert!(at.any(|x| *x == e), "{e:?} is not on the way, or not in order: {way:?}");
    }
}
