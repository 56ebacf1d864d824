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
