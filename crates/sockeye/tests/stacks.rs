//! Two stacks and a cable, by the public interface alone.

use sockeye::{Impairments, Link, Stack, TcpListener, TcpStream, UdpSocket};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown};
use std::thread;
use std::time::Duration;

fn two(link: Link) -> (Stack, Stack) {
    let a = Stack::builder().workers(1).build().expect("stack");
    let b = a.sibling();
    let link = link.addresses("10.0.0.1/24", "10.0.0.2/24").addresses("fd00::1/64", "fd00::2/64");
    link.connect(&a, &b).expect("link");
    (a, b)
}

/// Sends `n` bytes there and back again, checks them, and closes in good order.
fn echo(a: &Stack, b: &Stack, at: &str, n: usize) {
    let l = TcpListener::bind(b, at).expect("listen");
    let to = l.local_addr().expect("name");
    let server = thread::spawn(move || {
        let (mut s, _) = l.accept().expect("accept");
        let mut t = s.try_clone().expect("clone");
        std::io::copy(&mut s, &mut t).expect("copy");
        t.shutdown(Shutdown::Write).expect("shutdown");
    });
    let client = TcpStream::connect(a, to).expect("connect");
    let data: Vec<u8> = (0..n as u32).map(|i| (i ^ i >> 8 ^ i >> 16) as u8).collect();
    let (sent, mut w) = (data.clone(), client.try_clone().expect("clone"));
    let writer = thread::spawn(move || {
        w.write_all(&sent).expect("write");
        w.shutdown(Shutdown::Write).expect("shutdown");
    });
    let mut got = Vec::new();
    (&client).read_to_end(&mut got).expect("read");
    assert!(got == data, "{} of {} bytes, or not the same", got.len(), data.len());
    writer.join().expect("writer");
    server.join().expect("server");
}

#[test]
fn a_megabyte_goes_there_and_back() {
    let (a, b) = two(Link::new());
    echo(&a, &b, "10.0.0.2:0", 1 << 20);
    echo(&a, &b, "[fd00::2]:0", 1 << 20);
    echo(&a, &a, "127.0.0.1:0", 1 << 20);
}

#[test]
fn loss_is_made_good() {
    let bad = Impairments { loss: 0.02, duplicate: 0.01, reorder: 0.05, delay_ns: 1_000_000, ..Impairments::default() };
    let (a, b) = two(Link::new().impair(bad).seed(7));
    echo(&a, &b, "10.0.0.2:0", 300_000);
    assert!(a.counter("TcpRetransSegs").expect("a counter") > 0, "2 % loss and nothing sent again");
}

#[test]
fn datagrams_keep_their_boundaries_and_sources() {
    let (a, b) = two(Link::new());
    for (from, to) in [("10.0.0.1:0", "10.0.0.2:0"), ("[fd00::1]:0", "[fd00::2]:0")] {
        let (x, y) = (UdpSocket::bind(&a, from).expect("bind"), UdpSocket::bind(&b, to).expect("bind"));
        let to = y.local_addr().expect("name");
        for n in [0, 1, 1452, 1453, 1472, 1473, 9000, 65507] {
            assert_eq!(x.send_to(&vec![n as u8; n], to).expect("send"), n);
            let mut buf = vec![0; 65536];
            assert_eq!(y.recv_from(&mut buf).expect("recv"), (n, x.local_addr().expect("name")));
            assert!(buf[..n].iter().all(|&b| b == n as u8));
        }
    }
}

#[test]
fn forbidden_fragmentation_is_refused_by_size() {
    const IP_MTU_DISCOVER: i32 = 10;
    const IP_PMTUDISC_DO: i32 = 2;
    let (a, _b) = two(Link::new());
    let s = UdpSocket::bind(&a, "10.0.0.1:0").expect("bind");
    s.socket().setsockopt(0, IP_MTU_DISCOVER, &IP_PMTUDISC_DO.to_ne_bytes()).expect("option");
    s.connect("10.0.0.2:9").expect("connect");
    assert_eq!(s.send(&[0; 1472]).expect("fits"), 1472);
    let e = s.send(&[0; 1473]).expect_err("does not fit");
    assert!(format!("{e}").contains("too long"), "{e}");
}

/// Sockets come and go on many threads while datagrams are on their way to them.
#[test]
fn sockets_come_and_go_under_traffic() {
    let (a, b) = two(Link::new());
    let sink = UdpSocket::bind(&b, "10.0.0.2:0").expect("bind");
    let to = sink.local_addr().expect("name");
    sink.set_nonblocking(true).expect("nonblocking");
    let port = 7000;
    thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| {
                for i in 0..300u32 {
                    let x = UdpSocket::bind(&a, "10.0.0.1:0").expect("bind");
                    // The error about an earlier datagram may come first.
                    let _ = x.connect(("10.0.0.2", port)).and_then(|()| x.send(&i.to_ne_bytes()));
                    x.send_to(&i.to_ne_bytes(), to).or_else(|_| x.send_to(&i.to_ne_bytes(), to)).expect("send");
                }
            });
        }
        s.spawn(|| {
            for _ in 0..300 {
                let y = UdpSocket::bind(&b, ("10.0.0.2", port)).expect("bind");
                y.set_nonblocking(true).expect("nonblocking");
                while y.recv(&mut [0; 8]).is_ok() {}
            }
        });
    });
    let mut got = 0;
    while sink.recv(&mut [0; 8]).is_ok() {
        got += 1;
    }
    let lost = b.counter("UdpRcvbufErrors").expect("a counter");
    assert!(got > 100 && got + lost >= 900, "{got} came, {lost} found no room");
}

#[test]
fn many_connections_at_once_all_echo() {
    let (a, b) = two(Link::new());
    let l = TcpListener::bind(&b, "10.0.0.2:0").expect("listen");
    let to = l.local_addr().expect("name");
    const N: usize = 100;
    thread::scope(|s| {
        s.spawn(|| {
            for stream in l.incoming().take(N) {
                let mut stream = stream.expect("accept");
                s.spawn(move || {
                    let mut buf = [0; 64];
                    let n = stream.read(&mut buf).expect("read");
                    stream.write_all(&buf[..n]).expect("write");
                });
            }
        });
        for i in 0..N {
            let a = &a;
            s.spawn(move || {
                let mut c = TcpStream::connect(a, to).expect("connect");
                let text = format!("connection {i}");
                c.write_all(text.as_bytes()).expect("write");
                let mut got = String::new();
                c.read_to_string(&mut got).expect("read");
                assert_eq!(got, text);
            });
        }
    });
}

#[test]
fn timeouts_and_errors_are_as_in_std() {
    let (a, _b) = two(Link::new());
    let s = UdpSocket::bind(&a, "0.0.0.0:0").expect("bind");
    s.set_read_timeout(Some(Duration::from_millis(5))).expect("timeout");
    assert_eq!(s.read_timeout().expect("get"), Some(Duration::from_millis(5)));
    assert_eq!(s.recv(&mut [0; 8]).expect_err("nothing comes").kind(), ErrorKind::WouldBlock);
    assert_eq!(s.set_read_timeout(Some(Duration::ZERO)).expect_err("zero").kind(), ErrorKind::InvalidInput);
    s.set_read_timeout(None).expect("none");
    s.set_nonblocking(true).expect("nonblocking");
    assert_eq!(s.recv(&mut [0; 8]).expect_err("nothing comes").kind(), ErrorKind::WouldBlock);
    let refused = TcpStream::connect(&a, "10.0.0.2:9").expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let unreachable = TcpStream::connect(&a, "192.0.2.1:9").expect_err("no route");
    assert_eq!(unreachable.kind(), ErrorKind::NetworkUnreachable);
    let late = TcpStream::connect_timeout(&a, &"10.0.0.3:9".parse().expect("addr"), Duration::from_millis(5));
    assert_eq!(late.expect_err("nobody has the address").kind(), ErrorKind::TimedOut);
    assert_eq!(TcpListener::bind(&a, "10.0.0.9:0").expect_err("foreign").kind(), ErrorKind::AddrNotAvailable);
}

#[test]
fn a_group_is_joined_and_left() {
    let (a, b) = two(Link::new());
    let group = Ipv4Addr::new(239, 1, 2, 3);
    let member = UdpSocket::bind(&b, "0.0.0.0:5000").expect("bind");
    let sender = UdpSocket::bind(&a, "10.0.0.1:0").expect("bind");
    member.join_multicast_v4(&group, &Ipv4Addr::new(10, 0, 0, 2)).expect("join");
    let send = || {
        let pktinfo = (IpAddr::from(group), 5000);
        sender.send_to(b"all", pktinfo)
    };
    // Without a route to groups the device is chosen by the sender's address.
    a.add_route("224.0.0.0/4", "10.0.0.2").expect("route");
    send().expect("send");
    let mut buf = [0; 8];
    assert_eq!(member.recv(&mut buf).expect("recv"), 3);
    member.leave_multicast_v4(&group, &Ipv4Addr::new(10, 0, 0, 2)).expect("leave");
    send().expect("send");
    member.set_nonblocking(true).expect("nonblocking");
    assert_eq!(member.recv(&mut buf).expect_err("left").kind(), ErrorKind::WouldBlock);
}

#[test]
fn sockets_outlive_the_handle_of_their_stack() {
    let (x, y) = {
        let (a, b) = two(Link::new());
        (UdpSocket::bind(&a, "10.0.0.1:0").expect("bind"), UdpSocket::bind(&b, "10.0.0.2:0").expect("bind"))
    };
    x.send_to(b"still here", y.local_addr().expect("name")).expect("send");
    assert_eq!(y.recv(&mut [0; 16]).expect("recv"), 10);
}
