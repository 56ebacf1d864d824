//! UDP through loopback, by the calls on descriptors.

use host::Host;
use sockeye_net::core::iov_iter::{IovIter, MsgHdr};
use sockeye_net::core::net_namespace::Net;
use sockeye_net::init::net_init;
use sockeye_net::syscall::{FIONREAD, FdTable, PollFd};
use std::net::SocketAddr;
use std::sync::Arc;
use uapi::poll::Poll;
use uapi::socket::*;
use uapi::{Errno, SockAddr};

fn files() -> (Arc<Host>, FdTable) {
    let host = Host::start(1).expect("host");
    let reg = net_init(host.kernel());
    let net = Net::new(&reg);
    (host, FdTable::new(&net, 64))
}

fn addr(s: &str) -> SockAddr {
    s.parse::<SocketAddr>().expect("address").into()
}

fn udp(f: &FdTable, at: &str) -> (i32, SockAddr) {
    let a = addr(at);
    let fd = f.socket(a.family() as i32, SOCK_DGRAM, 0).expect("socket");
    f.bind(fd, &a).expect("bind");
    (fd, f.getsockname(fd).expect("name"))
}

#[test]
fn datagrams_of_all_sizes_arrive_whole() {
    let (_host, f) = files();
    let (a, a_name) = udp(&f, "127.0.0.1:0");
    let (b, b_name) = udp(&f, "127.0.0.1:0");
    for n in [0, 1, 100, 360, 361, 1472, 1473, 9000, 65507] {
        let data: Vec<u8> = (0..n).map(|i| (i * 7) as u8).collect();
        assert_eq!(f.sendto(a, &data, 0, Some(&b_name)), Ok(n), "{n}");
        assert_eq!(f.ioctl(b, FIONREAD, 0), Ok(n as i32));
        let mut buf = vec![0; 70000];
        assert_eq!(f.recvfrom(b, &mut buf, MSG_DONTWAIT), Ok((n, Some(a_name))));
        assert_eq!(&buf[..n], &data[..], "{n}");
    }
    assert_eq!(f.sendto(a, &[0; 65508], 0, Some(&b_name)), Err(Errno::EMSGSIZE));
    assert_eq!(f.recv(b, &mut [0; 8], MSG_DONTWAIT), Err(Errno::EAGAIN));
}

#[test]
fn a_cut_datagram_says_so() {
    let (_host, f) = files();
    let (a, _) = udp(&f, "127.0.0.1:0");
    let (b, b_name) = udp(&f, "127.0.0.1:0");
    f.connect(a, &b_name).expect("connect");
    f.send(a, b"hello, world", 0).expect("send");
    let mut small = [0; 5];
    let mut msg = MsgHdr::new(IovIter::dest(&mut small));
    assert_eq!(f.recvmsg(b, &mut msg, MSG_PEEK | MSG_TRUNC), Ok(12));
    assert_eq!(msg.flags, MSG_TRUNC);
    assert_eq!(&small, b"hello");
    assert_eq!(f.recv(b, &mut small, 0), Ok(5));
    assert_eq!(f.recv(b, &mut small, MSG_DONTWAIT), Err(Errno::EAGAIN));
}

#[test]
fn port_unreachable_reaches_a_connected_sender() {
    let (_host, f) = files();
    let (a, _) = udp(&f, "127.0.0.1:0");
    f.connect(a, &addr("127.0.0.1:9")).expect("connect");
    assert_eq!(f.send(a, b"x", 0), Ok(1));
    let mut p = [PollFd::new(a, Poll::IN)];
    assert_eq!(f.poll(&mut p, 0), Ok(1));
    assert_eq!(p[0].revents, Poll::ERR);
    assert_eq!(f.recv(a, &mut [0; 8], MSG_DONTWAIT), Err(Errno::ECONNREFUSED));
    assert_eq!(f.recv(a, &mut [0; 8], MSG_DONTWAIT), Err(Errno::EAGAIN));
}

#[test]
fn segments_of_one_message_arrive_as_datagrams() {
    let (_host, f) = files();
    let (a, _) = udp(&f, "127.0.0.1:0");
    let (b, b_name) = udp(&f, "127.0.0.1:0");
    f.setsockopt(a, IPPROTO_UDP, 103, &1000i32.to_ne_bytes()).expect("UDP_SEGMENT");
    f.sendto(a, &[7; 2500], 0, Some(&b_name)).expect("send");
    let mut buf = [0; 4000];
    let sizes: Vec<_> = std::iter::from_fn(|| f.recv(b, &mut buf, MSG_DONTWAIT).ok()).collect();
    assert_eq!(sizes, [1000, 1000, 500]);
}

#[test]
fn more_pieces_make_one_datagram() {
    let (_host, f) = files();
    let (a, _) = udp(&f, "127.0.0.1:0");
    let (b, b_name) = udp(&f, "127.0.0.1:0");
    f.connect(a, &b_name).expect("connect");
    for i in 0..100u8 {
        assert_eq!(f.send(a, &[i; 10], MSG_MORE), Ok(10));
    }
    assert_eq!(f.recv(b, &mut [0; 8], MSG_DONTWAIT), Err(Errno::EAGAIN));
    assert_eq!(f.send(a, &[], 0), Ok(0));
    let mut buf = [0; 2000];
    assert_eq!(f.recv(b, &mut buf, MSG_DONTWAIT), Ok(1000));
    assert!(buf[..1000].chunks(10).enumerate().all(|(i, c)| c == [i as u8; 10]));
}

#[test]
fn a_full_receive_buffer_drops_and_counts() {
    let (_host, f) = files();
    let (a, _) = udp(&f, "127.0.0.1:0");
    let (b, b_name) = udp(&f, "127.0.0.1:0");
    for _ in 0..1000 {
        assert_eq!(f.sendto(a, &[0; 1000], 0, Some(&b_name)), Ok(1000));
    }
    let got = std::iter::from_fn(|| f.recv(b, &mut [0; 1000], MSG_DONTWAIT).ok()).count() as u64;
    let lost = f.net().mib.get(sockeye_net::core::snmp::Mib::UdpRcvbufErrors);
    assert!(got > 50 && lost > 100, "{got} {lost}");
    assert_eq!(got + lost, 1000);
}

#[test]
fn a_blocked_receiver_is_woken() {
    let (_host, f) = files();
    let f = Arc::new(f);
    let (a, _) = udp(&f, "127.0.0.1:0");
    let (b, b_name) = udp(&f, "127.0.0.1:0");
    let g = f.clone();
    let t = std::thread::spawn(move || {
        let mut buf = [0; 16];
        let mut p = [PollFd::new(b, Poll::IN)];
        assert_eq!(g.poll(&mut p, -1), Ok(1));
        let n = g.recv(b, &mut buf, 0).expect("first");
        let m = g.recv(b, &mut buf, 0).expect("second");
        (n, m)
    });
    f.sendto(a, b"one", 0, Some(&b_name)).expect("send");
    f.sendto(a, b"three", 0, Some(&b_name)).expect("send");
    assert_eq!(t.join().expect("join"), (3, 5));
}

/// A gateway's socket: receives datagrams to any address and port, and answers from there.
#[test]
fn a_gateway_receives_everything_and_answers_from_anywhere() {
    use sockeye_net::ipv4::fib_frontend::{RouteSpec, ip_route_add};
    use sockeye_net::ipv4::udp_table::udp_set_sk_lookup;
    const IP_ORIGDSTADDR: i32 = 20;

    let (_host, f) = files();
    let net = f.net().clone();
    {
        let _cpu = net.kernel().enter();
        let lo = sockeye_net::core::dev::dev_get_by_name(&net, "lo").expect("lo");
        let everything = RouteSpec::local("0.0.0.0".parse().expect("any"), 0, lo.ifindex);
        ip_route_add(&net, everything).expect("route");
    }
    let (gw, _) = udp(&f, "127.0.0.1:0");
    for o in [IP_PKTINFO, IP_ORIGDSTADDR] {
        f.setsockopt(gw, IPPROTO_IP, o, &1i32.to_ne_bytes()).expect("option");
    }
    let sk = Arc::downgrade(&f.sockfd_lookup(gw).expect("file").sk);
    let hook = move |_, _, daddr: std::net::IpAddr, _| sk.upgrade().filter(|_| !daddr.is_loopback());
    udp_set_sk_lookup(&net, Some(Box::new(hook)));

    let (client, client_name) = udp(&f, "127.0.0.1:0");
    f.connect(client, &addr("198.51.100.7:53")).expect("connect");
    f.send(client, b"query", 0).expect("send");
    let mut buf = [0; 16];
    let mut msg = MsgHdr::new(IovIter::dest(&mut buf));
    assert_eq!(f.recvmsg(gw, &mut msg, MSG_DONTWAIT), Ok(5));
    assert_eq!(msg.name.expect("source").port(), client_name.port());
    let pktinfo = msg.control.iter().find(|c| c.kind == IP_PKTINFO).expect("pktinfo");
    assert_eq!(pktinfo.data[8..], [198, 51, 100, 7]);
    let original = msg.control.iter().find(|c| c.kind == IP_ORIGDSTADDR).expect("original destination");
    assert_eq!(SockAddr::from_bytes(&original.data), Ok(addr("198.51.100.7:53")));
    let source = msg.name.expect("source");

    let reply = f.socket(AF_INET, SOCK_DGRAM, 0).expect("socket");
    f.setsockopt(reply, IPPROTO_IP, IP_TRANSPARENT, &1i32.to_ne_bytes()).expect("transparent");
    f.bind(reply, &addr("198.51.100.7:53")).expect("bind to an address of somebody else's");
    f.sendto(reply, b"answer", 0, Some(&source)).expect("send");
    let mut buf = [0; 16];
    assert_eq!(f.recvfrom(client, &mut buf, MSG_DONTWAIT), Ok((6, Some(addr("198.51.100.7:53")))));
    udp_set_sk_lookup(&net, None);
}

#[test]
fn descriptors_are_the_lowest_free_and_bounded() {
    let (_host, f) = files();
    let new = || f.socket(AF_INET, SOCK_DGRAM, 0);
    let fds: Vec<_> = (0..64).map(|_| new().expect("socket")).collect();
    assert_eq!(fds, (0..64).collect::<Vec<_>>());
    assert_eq!(new(), Err(Errno::EMFILE));
    assert_eq!(f.dup(3), Err(Errno::EMFILE));
    for fd in [7, 3, 40] {
        f.close(fd).expect("close");
    }
    assert_eq!(f.fcntl(5, 0, 8), Ok(40));
    assert_eq!(f.dup(5), Ok(3));
    assert_eq!(new(), Ok(7));
    assert_eq!(new(), Err(Errno::EMFILE));
    // What dup shares lives until the last of its descriptors is closed.
    let (a, name) = (5, addr("127.0.0.1:4000"));
    f.bind(a, &name).expect("bind");
    f.close(5).expect("close");
    f.close(40).expect("close");
    assert_eq!(f.getsockname(3), Ok(name));
    f.close(3).expect("close");
    let again = new().expect("socket");
    f.bind(again, &name).expect("the port is free again");
}

#[test]
fn a_closed_socket_is_freed_with_all_that_waits_in_it() {
    let (_host, f) = files();
    let (a, _) = udp(&f, "127.0.0.1:0");
    let (b, b_name) = udp(&f, "127.0.0.1:0");
    f.connect(a, &b_name).expect("connect");
    for _ in 0..10 {
        f.send(a, &[1; 2000], 0).expect("send");
    }
    f.send(a, b"corked", MSG_MORE).expect("send");
    let weak: Vec<_> = [a, b].iter().map(|&fd| Arc::downgrade(&f.sockfd_lookup(fd).expect("file").sk)).collect();
    f.close(b).expect("close");
    f.close(a).expect("close");
    kernel::synchronize_rcu();
    kernel::rcu::process_callbacks();
    kernel::synchronize_rcu();
    assert!(weak.iter().all(|w| w.upgrade().is_none()), "something still refers to a closed socket");
}

#[test]
fn a_ping_socket_gets_the_replies_to_its_requests() {
    let (_host, f) = files();
    for (family, proto, request, reply, to) in
        [(AF_INET, IPPROTO_ICMP, 8, 0, "127.0.0.1:0"), (AF_INET6, IPPROTO_ICMPV6, 128, 129, "[::1]:0")]
    {
        let (a, b) = (f.socket(family, SOCK_DGRAM, proto).expect("a"), f.socket(family, SOCK_DGRAM, proto).expect("b"));
        for len in [8, 64, 400, 3000] {
            let mut m = vec![0x5a; len];
            m[..8].copy_from_slice(&[request, 0, 0, 0, 0, 0, 0, 7]);
            assert_eq!(f.sendto(a, &m, 0, Some(&addr(to))), Ok(len));
            let mut buf = [0; 4000];
            let (n, from) = f.recvfrom(a, &mut buf, MSG_DONTWAIT).expect("reply");
            assert_eq!((n, from), (len, Some(addr(to))));
            let ident = f.getsockname(a).expect("name").port().to_be_bytes();
            assert_eq!((buf[0], &buf[4..6], buf[7]), (reply, &ident[..], 7));
            assert_eq!(buf[8..n], m[8..]);
        }
        assert_eq!(f.recv(b, &mut [0; 8], MSG_DONTWAIT), Err(Errno::EAGAIN));
        assert_eq!(f.sendto(a, &[request; 7], 0, Some(&addr(to))), Err(Errno::EINVAL));
        assert_eq!(f.sendto(a, &[0; 8], 0, Some(&addr(to))), Err(Errno::EINVAL));
    }
}

#[test]
fn a_security_module_is_asked_before_each_call() {
    use sockeye_net::core::sock::Sock;
    use sockeye_net::security::{SecurityHooks, security_add_hooks};

    /// Lets nobody create stream sockets, bind low ports, or send to one address.
    struct Warden;
    impl SecurityHooks for Warden {
        fn socket_create(&self, _: &Net, _: i32, kind: i32, _: i32) -> uapi::Result<()> {
            if kind == SOCK_STREAM { Err(Errno::EACCES) } else { Ok(()) }
        }
        fn socket_bind(&self, _: &Sock, a: &SockAddr) -> uapi::Result<()> {
            if (1..1024).contains(&a.port()) { Err(Errno::EACCES) } else { Ok(()) }
        }
        fn socket_sendmsg(&self, _: &Sock, to: Option<&SockAddr>, _: usize) -> uapi::Result<()> {
            if to == Some(&addr("127.0.0.9:9")) { Err(Errno::EPERM) } else { Ok(()) }
        }
    }

    let (_host, f) = files();
    let low = f.socket(AF_INET, SOCK_DGRAM, 0).expect("socket");
    f.bind(low, &addr("127.0.0.1:99")).expect("the stack's user is its owner");
    security_add_hooks(&f.net().reg, Arc::new(Warden));
    assert_eq!(f.socket(AF_INET, SOCK_STREAM, 0), Err(Errno::EACCES));
    let fd = f.socket(AF_INET, SOCK_DGRAM, 0).expect("socket");
    assert_eq!(f.bind(fd, &addr("127.0.0.1:98")), Err(Errno::EACCES));
    f.bind(fd, &addr("127.0.0.1:0")).expect("bind");
    assert_eq!(f.sendto(fd, b"x", 0, Some(&addr("127.0.0.9:9"))), Err(Errno::EPERM));
    assert_eq!(f.sendto(fd, b"x", 0, Some(&addr("127.0.0.1:99"))), Ok(1));
}

#[test]
fn families_and_types_are_found_by_registration_alone() {
    use sockeye_net::ipv4::af_inet::{InetProtosw, inet_register_protosw, inet_unregister_protosw};
    use sockeye_net::ipv4::udp::UDP_PROTOSW;
    use sockeye_net::socket::{NetProtoFamily, sock_register, sock_unregister};

    let (_host, f) = files();
    let reg = f.net().reg.clone();
    let family = |n| NetProtoFamily { family: n, create: sockeye_net::ipv4::af_inet::inet_create };
    assert_eq!(sock_register(&reg, family(AF_INET as u16)), Err(Errno::EEXIST));
    assert_eq!(sock_register(&reg, family(46)), Err(Errno::ENOBUFS));
    assert_eq!(f.socket(29, SOCK_DGRAM, 0), Err(Errno::EAFNOSUPPORT));
    sock_register(&reg, family(29)).expect("register");
    f.socket(29, SOCK_DGRAM, 0).expect("socket");
    sock_unregister(&reg, 29);
    assert_eq!(f.socket(29, SOCK_DGRAM, 0), Err(Errno::EAFNOSUPPORT));

    // A permanent entry cannot be overridden, and a wildcard takes every protocol.
    assert_eq!(inet_register_protosw(&reg, UDP_PROTOSW), Err(Errno::EPERM));
    let wildcard = InetProtosw { kind: SOCK_RAW, protocol: 0, permanent: false, ..UDP_PROTOSW };
    assert_eq!(f.socket(AF_INET, SOCK_RAW, 89), Err(Errno::ESOCKTNOSUPPORT));
    inet_register_protosw(&reg, wildcard).expect("register");
    let fd = f.socket(AF_INET, SOCK_RAW, 89).expect("socket");
    assert_eq!(f.getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, 4), Ok(89i32.to_ne_bytes().to_vec()));
    assert_eq!(f.socket(AF_INET, SOCK_RAW, 0), Err(Errno::EPROTONOSUPPORT));
    inet_unregister_protosw(&reg, &wildcard).expect("unregister");
    assert_eq!(f.socket(AF_INET, SOCK_RAW, 89), Err(Errno::ESOCKTNOSUPPORT));
}
