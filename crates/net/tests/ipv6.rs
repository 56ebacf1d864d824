//! Sockets over IPv6: two namespaces joined by veth, by the calls on descriptors.

use host::Host;
use sockeye_net::core::dev::{NetDevice, dev_open, dev_set_mtu};
use sockeye_net::core::net_namespace::{Net, Registries};
use sockeye_net::core::snmp::Mib;
use sockeye_net::drivers::veth::veth_pair;
use sockeye_net::init::net_init;
use sockeye_net::ipv6::addrconf::inet6_addr_add;
use sockeye_net::ipv6::reassembly::Ip6Frag;
use sockeye_net::ipv6::route::{Route6Spec, ip6_route_add};
use sockeye_net::syscall::{FdTable, PollFd};
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use uapi::poll::Poll;
use uapi::socket::*;
use uapi::{Errno, SockAddr};

struct Machine {
    host: Arc<Host>,
    reg: Arc<Registries>,
}

impl Machine {
    fn new() -> Machine {
        let host = Host::start(1).expect("host");
        let reg = net_init(host.kernel());
        Machine { host, reg }
    }

    fn net(&self) -> Arc<Net> {
        let net = Net::new(&self.reg);
        net.sysctl.ipv6_dad_transmits.set(0).expect("sysctl");
        net
    }

    fn files(&self, net: &Arc<Net>) -> FdTable {
        assert!(Arc::ptr_eq(net.kernel(), self.host.kernel()));
        FdTable::new(net, 64)
    }
}

fn join(n: u16, x: &Arc<Net>, y: &Arc<Net>) -> (Arc<NetDevice>, Arc<NetDevice>) {
    let (dx, dy) = veth_pair(x, "veth%d", y, "veth%d").expect("veth");
    dev_open(&dx).expect("open");
    dev_open(&dy).expect("open");
    for (dev, host) in [(&dx, 1), (&dy, 2)] {
        inet6_addr_add(dev, Ipv6Addr::new(0xfd00, n, 0, 0, 0, 0, 0, host), 64).expect("address");
    }
    (dx, dy)
}

fn addr(s: &str) -> SockAddr {
    s.parse::<SocketAddr>().expect("address").into()
}

fn ip(s: &str) -> Ipv6Addr {
    s.parse().expect("address")
}

fn udp(f: &FdTable, at: &str) -> (i32, SockAddr) {
    let fd = f.socket(AF_INET6, SOCK_DGRAM, 0).expect("socket");
    f.bind(fd, &addr(at)).expect("bind");
    (fd, f.getsockname(fd).expect("name"))
}

/// Waits for something to read, as long as a slow machine may need.
fn recv(f: &FdTable, fd: i32, buf: &mut [u8]) -> Result<(usize, Option<SockAddr>), Errno> {
    let mut p = [PollFd::new(fd, Poll::IN)];
    assert_eq!(f.poll(&mut p, 10_000), Ok(1), "nothing came");
    f.recvfrom(fd, buf, MSG_DONTWAIT)
}

#[test]
fn datagrams_of_all_sizes_cross_a_link() {
    let m = Machine::new();
    let (x, y) = (m.net(), m.net());
    join(1, &x, &y);
    let (fx, fy) = (m.files(&x), m.files(&y));
    let (a, a_name) = udp(&fx, "[fd00:1::1]:0");
    let (b, b_name) = udp(&fy, "[fd00:1::2]:0");
    fy.setsockopt(b, SOL_SOCKET, SO_RCVBUF, &1_000_000i32.to_ne_bytes()).expect("SO_RCVBUF");
    // The first fragments of a burst wait for the neighbour, as far as its queue goes.
    for n in [1, 0, 100, 1452, 1453, 1460, 9000, 65507, 65527] {
        let data: Vec<u8> = (0..n).map(|i| (i * 7) as u8).collect();
        assert_eq!(fx.sendto(a, &data, 0, Some(&b_name)), Ok(n), "{n}");
        let mut buf = vec![0; 70000];
        assert_eq!(recv(&fy, b, &mut buf), Ok((n, Some(a_name))));
        assert_eq!(&buf[..n], &data[..], "{n}");
    }
    assert_eq!(fx.sendto(a, &[0; 65528], 0, Some(&b_name)), Err(Errno::EMSGSIZE));
    assert_eq!(y.mib.get(Mib::Ip6ReasmOKs), 5);
    assert_eq!(y.generic::<Ip6Frag>(sockeye_net::core::net_namespace::NetId::Ipv6Frag).mem(), 0);
    assert_eq!(y.mib.get(Mib::UdpInCsumErrors), 0);
}

#[test]
fn a_closed_port_refuses() {
    let m = Machine::new();
    let (x, y) = (m.net(), m.net());
    join(1, &x, &y);
    let f = m.files(&x);
    let (a, _) = udp(&f, "[::]:0");
    f.connect(a, &addr("[fd00:1::2]:9")).expect("connect");
    assert_eq!(f.send(a, b"x", 0), Ok(1));
    let mut p = [PollFd::new(a, Poll::IN)];
    assert_eq!(f.poll(&mut p, 10_000), Ok(1));
    assert_eq!(f.recv(a, &mut [0; 8], MSG_DONTWAIT), Err(Errno::ECONNREFUSED));
    assert_eq!(y.mib.get(Mib::Icmp6OutDestUnreachs), 1);
}

#[test]
fn addresses_that_cannot_be_used_are_refused() {
    let m = Machine::new();
    let (x, y) = (m.net(), m.net());
    join(1, &x, &y);
    let f = m.files(&x);
    let fd = f.socket(AF_INET6, SOCK_DGRAM, 0).expect("socket");
    assert_eq!(f.bind(fd, &addr("[2001:db8::1]:5")), Err(Errno::EADDRNOTAVAIL));
    assert_eq!(f.connect(fd, &addr("[2001:db8::1]:5")), Err(Errno::ENETUNREACH));
    assert_eq!(f.sendto(fd, b"x", 0, Some(&addr("[2001:db8::1]:5"))), Err(Errno::ENETUNREACH));
}

#[test]
fn the_path_mtu_is_learnt_for_datagrams_too() {
    let m = Machine::new();
    let (x, r, y) = (m.net(), m.net(), m.net());
    r.sysctl.ipv6_forwarding.set(1).expect("sysctl");
    join(1, &x, &r);
    let (rdev, _) = join(2, &r, &y);
    ip6_route_add(&x, Route6Spec::new(ip("::"), 0).via(ip("fd00:1::2"))).expect("route");
    ip6_route_add(&y, Route6Spec::new(ip("::"), 0).via(ip("fd00:2::1"))).expect("route");
    dev_set_mtu(&rdev, 1300).expect("mtu");
    let (fx, fy) = (m.files(&x), m.files(&y));
    let (a, a_name) = udp(&fx, "[fd00:1::1]:0");
    let (b, b_name) = udp(&fy, "[fd00:2::2]:0");
    let mut buf = vec![0; 2000];
    fx.sendto(a, b"hello", 0, Some(&b_name)).expect("send");
    assert_eq!(recv(&fy, b, &mut buf), Ok((5, Some(a_name))));
    // Lost, but not in vain.
    fx.sendto(a, &[1; 1400], 0, Some(&b_name)).expect("send");
    assert_eq!((x.mib.get(Mib::Icmp6InPktTooBigs), x.mib.get(Mib::Ip6FragOKs)), (1, 0));
    fx.sendto(a, &[2; 1400], 0, Some(&b_name)).expect("send");
    assert_eq!(recv(&fy, b, &mut buf), Ok((1400, Some(a_name))));
    assert_eq!(x.mib.get(Mib::Ip6FragOKs), 1);
}

/// A connection between two descriptors: the client's and the accepted one.
fn tcp(fx: &FdTable, fy: &FdTable, from: &str, to: &str) -> (i32, i32) {
    let l = fy.socket(AF_INET6, SOCK_STREAM, 0).expect("socket");
    fy.bind(l, &addr(to)).expect("bind");
    fy.listen(l, 8).expect("listen");
    let c = fx.socket(AF_INET6, SOCK_STREAM, 0).expect("socket");
    fx.bind(c, &addr(from)).expect("bind");
    fx.connect(c, &fy.getsockname(l).expect("name")).expect("connect");
    let (s, peer) = fy.accept(l).expect("accept");
    assert_eq!(peer, fx.getsockname(c).expect("name"));
    fy.close(l).expect("close");
    (c, s)
}

/// Sends `len` bytes one way and checks them.
fn transfer(fx: &FdTable, c: i32, fy: &FdTable, s: i32, len: usize) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut at = 0;
            while at < len {
                let n = 50_000.min(len - at);
                let data: Vec<u8> = (at..at + n).map(|i| (i % 251) as u8).collect();
                let mut sent = 0;
                while sent < n {
                    sent += fx.send(c, &data[sent..], 0).expect("send");
                }
                at += n;
            }
            fx.shutdown(c, SHUT_WR).expect("shutdown");
        });
        let mut buf = vec![0; 70_000];
        let mut at = 0;
        loop {
            let n = fy.recv(s, &mut buf, 0).expect("recv");
            if n == 0 {
                break;
            }
            assert!(buf[..n].iter().enumerate().all(|(i, &b)| b == ((at + i) % 251) as u8), "at {at}");
            at += n;
        }
        assert_eq!(at, len);
    });
}

#[test]
fn streams_cross_a_link() {
    let m = Machine::new();
    let (x, y) = (m.net(), m.net());
    join(1, &x, &y);
    let (fx, fy) = (m.files(&x), m.files(&y));
    let (c, s) = tcp(&fx, &fy, "[fd00:1::1]:0", "[fd00:1::2]:80");
    transfer(&fx, c, &fy, s, 20_000_000);
    assert_eq!((x.mib.get(Mib::Ip6FragCreates), y.mib.get(Mib::TcpInCsumErrors)), (0, 0));
}

#[test]
fn streams_stay_at_home() {
    let m = Machine::new();
    let x = m.net();
    let f = m.files(&x);
    let (c, s) = tcp(&f, &f, "[::]:0", "[::1]:80");
    transfer(&f, c, &f, s, 20_000_000);
}

#[test]
fn streams_fit_the_path() {
    let m = Machine::new();
    let (x, r, y) = (m.net(), m.net(), m.net());
    r.sysctl.ipv6_forwarding.set(1).expect("sysctl");
    join(1, &x, &r);
    let (rdev, _) = join(2, &r, &y);
    ip6_route_add(&x, Route6Spec::new(ip("::"), 0).via(ip("fd00:1::2"))).expect("route");
    ip6_route_add(&y, Route6Spec::new(ip("::"), 0).via(ip("fd00:2::1"))).expect("route");
    dev_set_mtu(&rdev, 1300).expect("mtu");
    let (fx, fy) = (m.files(&x), m.files(&y));
    let (c, s) = tcp(&fx, &fy, "[fd00:1::1]:0", "[fd00:2::2]:80");
    transfer(&fx, c, &fy, s, 3_000_000);
    assert!(x.mib.get(Mib::Icmp6InPktTooBigs) > 0);
    assert_eq!(r.mib.get(Mib::Ip6FragCreates), 0);
}

#[test]
fn nobody_listens() {
    let m = Machine::new();
    let (x, y) = (m.net(), m.net());
    join(1, &x, &y);
    let f = m.files(&x);
    let c = f.socket(AF_INET6, SOCK_STREAM, 0).expect("socket");
    assert_eq!(f.connect(c, &addr("[fd00:1::2]:9")), Err(Errno::ECONNREFUSED));
    // Nobody is there: the link says so, before the connection's own patience ends.
    x.sysctl.neigh_retrans_time_ms.set(10).expect("sysctl");
    let c = f.socket(AF_INET6, SOCK_STREAM, 0).expect("socket");
    assert_eq!(f.connect(c, &addr("[fd00:1::77]:9")), Err(Errno::EHOSTUNREACH));
}

#[test]
fn a_route_of_all_addresses_takes_connections_to_any() {
    let m = Machine::new();
    let (x, y) = (m.net(), m.net());
    join(1, &x, &y);
    ip6_route_add(&x, Route6Spec::new(ip("::"), 0).via(ip("fd00:1::2"))).expect("route");
    let lo = sockeye_net::core::dev::dev_get_by_name(&y, "lo").expect("lo");
    let any = Route6Spec::new(ip("::"), 0).dev(lo.ifindex);
    ip6_route_add(&y, any.kind(sockeye_net::core::dst::RtnType::Local)).expect("route");
    let (fx, fy) = (m.files(&x), m.files(&y));
    let l = fy.socket(AF_INET6, SOCK_STREAM, 0).expect("socket");
    fy.bind(l, &addr("[::]:443")).expect("bind");
    fy.listen(l, 8).expect("listen");
    let c = fx.socket(AF_INET6, SOCK_STREAM, 0).expect("socket");
    fx.connect(c, &addr("[2001:db8::7]:443")).expect("connect");
    let (s, _) = fy.accept(l).expect("accept");
    assert_eq!(fy.getsockname(s), Ok(addr("[2001:db8::7]:443")));
    transfer(&fx, c, &fy, s, 100_000);
}
