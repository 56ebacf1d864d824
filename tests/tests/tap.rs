//! A stack on a TAP device against this machine's kernel.

use sockeye::bsd::socket::{IPPROTO_ICMP, IPPROTO_ICMPV6, SO_RCVTIMEO, SOCK_DGRAM, SOL_SOCKET};
use sockeye::bsd::{FdTable, SockAddr};
use sockeye::{Impairments, Link, Stack, TcpListener, TcpStream, UdpSocket};
use sockeye_tests::{TapSide, Transfer, netns_test, run};
use std::io::{Read, Write};
use std::net::{self, Shutdown};
use std::thread;

const GIB: u64 = 1 << 30;

/// Sends `len` bytes from the stack to this machine, then back, by way of `host` and `stack` addresses.
fn both_ways(stack: &Stack, host: &str, len: u64) {
    let transfer = Transfer::new(len);
    let want = (transfer.digest(), len);
    let listener = net::TcpListener::bind((host, 0)).expect("listen on this machine");
    let port = listener.local_addr().expect("its port").port();
    thread::scope(|s| {
        let kernel = s.spawn(|| {
            let (mut c, _) = listener.accept().expect("accept");
            let got = Transfer::receive(&mut c).expect("receive on this machine");
            transfer.send(&mut c).expect("send from this machine");
            got
        });
        let mut c = TcpStream::connect(stack, (host, port)).expect("connect from the stack");
        transfer.send(&mut c).expect("send from the stack");
        c.shutdown(Shutdown::Write).expect("half-close");
        assert_eq!(Transfer::receive(&mut c).expect("receive in the stack"), want);
        assert_eq!(kernel.join().expect("the kernel's side"), want);
    });
}

netns_test! {
    fn a_gibibyte_each_way_over_ipv4() {
        both_ways(&TapSide::new().stack, TapSide::HOST4, GIB);
    }
}

netns_test! {
    fn a_gibibyte_each_way_over_ipv6() {
        both_ways(&TapSide::new().stack, TapSide::HOST6, GIB);
    }
}

/// A server that echoes what each connection sends, until `n` connections have ended.
fn echo(n: usize, accept: impl Fn() -> Box<dyn Duplex>) {
    thread::scope(|s| {
        for _ in 0..n {
            let mut c = accept();
            s.spawn(move || {
                let mut all = Vec::new();
                c.read_to_end(&mut all).expect("read the request");
                c.write_all(&all).expect("echo");
            });
        }
    });
}

trait Duplex: Read + Write + Send {}
impl<T: Read + Write + Send> Duplex for T {}

const AT_ONCE: usize = 200;

fn request(i: usize) -> Vec<u8> {
    (0..10_000 + i * 7).map(|j| (i * 31 + j) as u8).collect()
}

/// Many connections from the stack to this machine, all open together, each with bytes of its own.
fn at_once_from(stack: &Stack) {
    let listener = net::TcpListener::bind((TapSide::HOST4, 0)).expect("listen");
    let port = listener.local_addr().expect("name").port();
    thread::scope(|s| {
        s.spawn(|| echo(AT_ONCE, || Box::new(listener.accept().expect("accept").0)));
        let mut all: Vec<TcpStream> =
            (0..AT_ONCE).map(|_| TcpStream::connect(stack, (TapSide::HOST4, port)).expect("connect")).collect();
        for (i, c) in all.iter_mut().enumerate() {
            c.write_all(&request(i)).expect("send");
        }
        for (i, c) in all.iter_mut().enumerate() {
            c.shutdown(Shutdown::Write).expect("half-close");
            let mut got = Vec::new();
            c.read_to_end(&mut got).expect("receive");
            assert!(got == request(i), "connection {i}: {} bytes", got.len());
        }
    });
}

/// The same to the stack, which has `addr`.
fn at_once_to(stack: &Stack, addr: &str) {
    let listener = TcpListener::bind(stack, (addr, 0)).expect("listen");
    let port = listener.local_addr().expect("name").port();
    thread::scope(|s| {
        s.spawn(|| echo(AT_ONCE, || Box::new(listener.accept().expect("accept").0)));
        let mut all: Vec<net::TcpStream> =
            (0..AT_ONCE).map(|_| net::TcpStream::connect((addr, port)).expect("connect")).collect();
        for (i, c) in all.iter_mut().enumerate() {
            c.write_all(&request(i)).expect("send");
        }
        for (i, c) in all.iter_mut().enumerate() {
            c.shutdown(Shutdown::Write).expect("half-close");
            let mut got = Vec::new();
            c.read_to_end(&mut got).expect("receive");
            assert!(got == request(i), "connection {i}: {} bytes", got.len());
        }
    });
}

netns_test! {
    fn two_hundred_connections_at_once_from_the_stack() {
        at_once_from(&TapSide::new().stack);
    }
}

netns_test! {
    fn two_hundred_connections_at_once_to_the_stack() {
        at_once_to(&TapSide::new().stack, TapSide::STACK4);
    }
}

const ONE_BY_ONE: usize = 10_000;

netns_test! {
    fn ten_thousand_connections_one_after_another_to_the_stack() {
        let t = TapSide::new();
        let listener = TcpListener::bind(&t.stack, (TapSide::STACK4, 0)).expect("listen");
        let port = listener.local_addr().expect("name").port();
        thread::scope(|s| {
            s.spawn(|| {
                for _ in 0..ONE_BY_ONE {
                    let (mut c, _) = listener.accept().expect("accept");
                    let mut b = [0; 4];
                    c.read_exact(&mut b).expect("read");
                    c.write_all(&b).expect("write");
                }
            });
            for i in 0..ONE_BY_ONE {
                let mut c = net::TcpStream::connect((TapSide::STACK4, port)).expect("connect");
                let ask = (i as u32).to_be_bytes();
                c.write_all(&ask).expect("write");
                let mut got = Vec::new();
                c.read_to_end(&mut got).expect("read");
                assert_eq!(got, ask, "connection {i}");
            }
        });
    }
}

netns_test! {
    fn ten_thousand_connections_one_after_another_from_the_stack() {
        let t = TapSide::new();
        let listener = net::TcpListener::bind((TapSide::HOST4, 0)).expect("listen");
        let port = listener.local_addr().expect("name").port();
        thread::scope(|s| {
            s.spawn(|| {
                for _ in 0..ONE_BY_ONE {
                    let (mut c, _) = listener.accept().expect("accept");
                    let mut b = [0; 4];
                    c.read_exact(&mut b).expect("read");
                    c.write_all(&b).expect("write");
                }
            });
            for i in 0..ONE_BY_ONE {
                let mut c = TcpStream::connect(&t.stack, (TapSide::HOST4, port)).expect("connect");
                let ask = (i as u32).to_be_bytes();
                c.write_all(&ask).expect("write");
                let mut got = Vec::new();
                c.read_to_end(&mut got).expect("read");
                assert_eq!(got, ask, "connection {i}");
            }
        });
    }
}

netns_test! {
    fn this_machine_pings_the_stack() {
        let _t = TapSide::new();
        for addr in [TapSide::STACK4, TapSide::STACK6] {
            for size in ["8", "1400", "20000", "65000"] {
                let out = run("ping", &["-c", "5", "-i", "0.01", "-W", "30", "-s", size, addr]);
                assert!(out.contains(" 5 received, 0% packet loss"), "{size} bytes: {out}");
            }
        }
    }
}

/// Sends an echo request from the stack and checks that what comes back is the answer to it.
fn ping(files: &FdTable, fd: i32, to: &SockAddr, seq: u16, size: usize) {
    let v6 = matches!(to, SockAddr::V6(_));
    let mut request = vec![if v6 { 128 } else { 8 }, 0, 0, 0, 0, 0];
    request.extend(seq.to_be_bytes());
    request.extend((0..size).map(|i| (i + seq as usize) as u8));
    assert_eq!(files.sendto(fd, &request, 0, Some(to)), Ok(request.len()), "{size} bytes");
    let mut buf = vec![0; 70_000];
    let n = files.recv(fd, &mut buf, 0).unwrap_or_else(|e| panic!("{size} bytes to {to:?}: {e:?}"));
    assert_eq!(buf[0], if v6 { 129 } else { 0 });
    assert!(n == request.len() && buf[6..n] == request[6..], "{size} bytes sent, {n} came");
}

netns_test! {
    fn the_stack_pings_this_machine() {
        let t = TapSide::new();
        let files = t.stack.files(8);
        for (host, protocol) in [(TapSide::HOST4, IPPROTO_ICMP), (TapSide::HOST6, IPPROTO_ICMPV6)] {
            let to: SockAddr = net::SocketAddr::new(host.parse().expect("an address"), 0).into();
            let fd = files.socket(to.family() as i32, SOCK_DGRAM, protocol).expect("a ping socket");
            let patience = [sockeye_tests::PATIENCE.as_secs(), 0].map(u64::to_ne_bytes).concat();
            files.setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience).expect("a timeout");
            for (seq, size) in [0, 8, 1400, 1473, 20_000, 65_000].into_iter().enumerate() {
                ping(&files, fd, &to, seq as u16, size);
            }
        }
    }
}

/// Sizes from 0 to the largest: every one near a boundary of fragments, and some between.
fn sizes() -> impl Iterator<Item = usize> {
    let near = |n: usize| n.saturating_sub(9)..=(n + 9).min(65507);
    let fragments = (1..=44).flat_map(move |f| near(f * 1480 - 8));
    (0..64).chain(fragments).chain((64..65507).step_by(997)).chain(65490..=65507)
}

fn datagram(n: usize) -> Vec<u8> {
    (0..n).map(|i| (n + i * 7 + (i >> 8)) as u8).collect()
}

netns_test! {
    fn datagrams_of_every_size_cross_both_ways() {
        let t = TapSide::new();
        for host in [TapSide::HOST4, TapSide::HOST6] {
            let kernel = net::UdpSocket::bind((host, 0)).expect("bind on this machine");
            let peer = kernel.local_addr().expect("name");
            let any = if peer.is_ipv4() { TapSide::STACK4 } else { TapSide::STACK6 };
            let mine = UdpSocket::bind(&t.stack, (any, 0)).expect("bind in the stack");
            mine.set_read_timeout(Some(sockeye_tests::PATIENCE)).expect("timeout");
            kernel.set_read_timeout(Some(sockeye_tests::PATIENCE)).expect("timeout");
            let mut buf = vec![0; 70_000];
            for n in sizes() {
                let data = datagram(n);
                assert_eq!(mine.send_to(&data, peer).expect("send from the stack"), n);
                let (got, from) = kernel.recv_from(&mut buf).unwrap_or_else(|e| panic!("{n} bytes to {peer}: {e}"));
                assert!(buf[..got] == data[..], "{n} bytes to this machine, {got} came");
                assert_eq!(kernel.send_to(&data, from).expect("send from this machine"), n);
                let (got, from) = mine.recv_from(&mut buf).unwrap_or_else(|e| panic!("{n} bytes back: {e}"));
                assert!(buf[..got] == data[..], "{n} bytes to the stack, {got} came");
                assert_eq!(from, peer);
            }
        }
    }
}

/// A stack behind another that forwards from the TAP device to a link with losses, both ways.
struct Rough {
    _router: TapSide,
    stack: Stack,
}

impl Rough {
    const ADDR: &str = "10.7.0.2";

    fn new() -> Rough {
        let router = TapSide::new();
        let stack = router.stack.sibling();
        let rough =
            Impairments { loss: 0.01, reorder: 0.05, duplicate: 0.01, delay_ns: 200_000, ..Impairments::default() };
        let link = Link::new().addresses("10.7.0.1/24", "10.7.0.2/24").impair(rough).seed(1);
        link.connect(&router.stack, &stack).expect("a link");
        router.stack.set_sysctl("net.ipv4.ip_forward", 1).expect("forwarding");
        stack.add_route("0.0.0.0/0", "10.7.0.1").expect("a route");
        run("ip", &["route", "add", "10.7.0.0/24", "via", TapSide::STACK4]);
        Rough { _router: router, stack }
    }

    fn retransmissions(&self) -> u64 {
        self.stack.counter("TcpRetransSegs").expect("a counter")
    }
}

netns_test! {
    fn a_gibibyte_each_way_over_a_device_that_loses_reorders_and_duplicates() {
        // On many connections, as each is slow.
        const CONNECTIONS: u64 = 16;
        let t = Rough::new();
        thread::scope(|s| {
            for _ in 0..CONNECTIONS {
                s.spawn(|| both_ways(&t.stack, TapSide::HOST4, GIB / CONNECTIONS));
            }
        });
        assert!(t.retransmissions() > 0, "nothing was lost");
    }
}

netns_test! {
    fn ten_thousand_connections_survive_losses() {
        const CLIENTS: usize = 40;
        let t = Rough::new();
        let listener = TcpListener::bind(&t.stack, (Rough::ADDR, 0)).expect("listen");
        let port = listener.local_addr().expect("name").port();
        thread::scope(|s| {
            s.spawn(|| {
                for _ in 0..ONE_BY_ONE {
                    let (mut c, _) = listener.accept().expect("accept");
                    s.spawn(move || {
                        let mut b = [0; 4];
                        c.read_exact(&mut b).expect("read");
                        c.write_all(&b).expect("write");
                    });
                }
            });
            for client in 0..CLIENTS {
                s.spawn(move || {
                    for i in 0..ONE_BY_ONE / CLIENTS {
                        let mut c = net::TcpStream::connect((Rough::ADDR, port)).expect("connect");
                        let ask = ((client << 16 | i) as u32).to_be_bytes();
                        c.write_all(&ask).expect("write");
                        let mut got = Vec::new();
                        c.read_to_end(&mut got).expect("read");
                        assert_eq!(got, ask, "connection {i} of client {client}");
                    }
                });
            }
        });
        assert!(t.retransmissions() > 0, "nothing was lost");
    }
}

netns_test! {
    fn two_hundred_connections_survive_losses() {
        let t = Rough::new();
        at_once_from(&t.stack);
        at_once_to(&t.stack, Rough::ADDR);
        assert!(t.retransmissions() > 0, "nothing was lost");
    }
}

netns_test! {
    fn pings_survive_losses() {
        let _t = Rough::new();
        let out = run("ping", &["-c", "200", "-i", "0.002", "-W", "2", "-s", "1000", Rough::ADDR]);
        let received = out.split(", ").find_map(|w| w.strip_suffix(" received")?.parse::<u32>().ok());
        assert!(received.is_some_and(|n| (170..200).contains(&n)), "{out}");
        assert!(out.contains("duplicates"), "{out}");
    }
}

netns_test! {
    fn datagrams_that_arrive_over_a_lossy_device_are_whole() {
        let t = Rough::new();
        let kernel = net::UdpSocket::bind((TapSide::HOST4, 0)).expect("bind on this machine");
        let peer = kernel.local_addr().expect("its name");
        let mine = UdpSocket::bind(&t.stack, (Rough::ADDR, 0)).expect("bind in the stack");
        let patience = Some(std::time::Duration::from_millis(50));
        kernel.set_read_timeout(patience).expect("timeout");
        mine.set_read_timeout(patience).expect("timeout");
        let (mut buf, mut lost) = (vec![0; 70_000], 0);
        for n in sizes().step_by(5) {
            let data = datagram(n);
            // Until it has made it there and back; leftovers of duplicates and late answers have other sizes.
            loop {
                assert!(lost < 2000, "{n} bytes never arrive");
                mine.send_to(&data, peer).expect("send from the stack");
                let there = std::iter::from_fn(|| kernel.recv_from(&mut buf).ok()).find(|&(got, _)| got == n);
                let Some((_, from)) = there else {
                    lost += 1;
                    continue;
                };
                assert!(buf[..n] == data[..], "{n} bytes to this machine");
                kernel.send_to(&data, from).expect("send from this machine");
                if std::iter::from_fn(|| mine.recv_from(&mut buf).ok()).any(|(got, _)| got == n) {
                    assert!(buf[..n] == data[..], "{n} bytes to the stack");
                    break;
                }
                lost += 1;
            }
        }
        assert!(lost > 0, "nothing was lost");
    }
}
