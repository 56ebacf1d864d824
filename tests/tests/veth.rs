//! Two stacks in one process, joined back to back.

use sha2::{Digest, Sha256};
use sockeye::{Impairments, Link, Stack, TcpListener, TcpStream, UdpSocket};
use sockeye_tests::{PATIENCE, Transfer};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;

const A: [&str; 2] = ["10.8.0.1", "fd08::1"];
const B: [&str; 2] = ["10.8.0.2", "fd08::2"];

fn joined(link: Link) -> (Stack, Stack) {
    let a = Stack::new().expect("a stack");
    let b = a.sibling();
    let link = link.addresses("10.8.0.1/24", "10.8.0.2/24").addresses("fd08::1/64", "fd08::2/64");
    link.connect(&a, &b).expect("a link");
    (a, b)
}

/// `len` bytes from `a` to `b`, then from `b` to `a`, on one connection.
fn both_ways(a: &Stack, b: &Stack, to: &str, len: u64) {
    let transfer = Transfer::new(len);
    let want = (transfer.digest(), len);
    let listener = TcpListener::bind(b, (to, 0)).expect("listen");
    let port = listener.local_addr().expect("its port").port();
    thread::scope(|s| {
        let server = s.spawn(|| {
            let (mut c, _) = listener.accept().expect("accept");
            let got = Transfer::receive(&mut c).expect("receive");
            transfer.send(&mut c).expect("send");
            got
        });
        let mut c = TcpStream::connect(a, (to, port)).expect("connect");
        transfer.send(&mut c).expect("send");
        c.shutdown(Shutdown::Write).expect("half-close");
        assert_eq!(Transfer::receive(&mut c).expect("receive"), want);
        assert_eq!(server.join().expect("the server"), want);
    });
}

/// Calls of this process that read or wrote something.
fn system_calls() -> u64 {
    let io =
        std::fs::read_to_string("/proc/self/io").expect("this machine lacks /proc/self/io (CONFIG_TASK_IO_ACCOUNTING)");
    let field = |name: &str| {
        let line = io.lines().find_map(|l| l.strip_prefix(name)).expect(name);
        line.trim().parse::<u64>().expect("a number")
    };
    field("syscr:") + field("syscw:")
}

fn packets(s: &Stack) -> u64 {
    s.counter("IpInReceives").expect("a counter") + s.counter("Ip6InReceives").expect("a counter")
}

#[test]
fn a_gibibyte_each_way_with_no_system_call_per_packet() {
    let (a, b) = joined(Link::new());
    for to in B {
        let before = (system_calls(), packets(&a) + packets(&b));
        both_ways(&a, &b, to, 1 << 30);
        let calls = system_calls() - before.0;
        let packets = packets(&a) + packets(&b) - before.1;
        assert!(packets > 20_000, "{packets} packets");
        // A timer programmed sooner wakes a worker, and that is a write.
        assert!(calls * 20 < packets, "{calls} reads and writes for {packets} packets");
    }
}

#[test]
fn a_lossy_link_delivers_every_byte() {
    let rough = Impairments { loss: 0.01, reorder: 0.05, duplicate: 0.01, delay_ns: 200_000, ..Impairments::default() };
    let (a, b) = joined(Link::new().impair(rough).seed(7));
    for to in B {
        both_ways(&a, &b, to, 32 << 20);
    }
    assert!(a.counter("TcpRetransSegs").expect("a counter") > 0, "nothing was lost");
}

#[test]
fn two_hundred_connections_at_once() {
    const N: usize = 200;
    let (a, b) = joined(Link::new());
    let listener = TcpListener::bind(&b, (B[0], 0)).expect("listen");
    let port = listener.local_addr().expect("its port").port();
    let request = |i: usize| -> Vec<u8> { (0..20_000 + i * 3).map(|j| (i + j * 7) as u8).collect() };
    thread::scope(|s| {
        s.spawn(|| {
            for _ in 0..N {
                let (mut c, _) = listener.accept().expect("accept");
                s.spawn(move || {
                    let mut all = Vec::new();
                    c.read_to_end(&mut all).expect("read");
                    c.write_all(&Sha256::digest(&all)).expect("write");
                });
            }
        });
        let mut all: Vec<TcpStream> = (0..N).map(|_| TcpStream::connect(&a, (B[0], port)).expect("connect")).collect();
        for (i, c) in all.iter_mut().enumerate() {
            c.write_all(&request(i)).expect("send");
            c.shutdown(Shutdown::Write).expect("half-close");
        }
        for (i, c) in all.iter_mut().enumerate() {
            let mut got = Vec::new();
            c.read_to_end(&mut got).expect("receive");
            assert_eq!(got[..], Sha256::digest(request(i))[..], "connection {i}");
        }
    });
}

#[test]
fn ten_thousand_connections_one_after_another() {
    const N: u32 = 10_000;
    let (a, b) = joined(Link::new());
    let listener = TcpListener::bind(&b, (B[0], 0)).expect("listen");
    let port = listener.local_addr().expect("its port").port();
    thread::scope(|s| {
        s.spawn(|| {
            for _ in 0..N {
                let (mut c, _) = listener.accept().expect("accept");
                let mut b = [0; 4];
                c.read_exact(&mut b).expect("read");
                c.write_all(&b).expect("write");
            }
        });
        for i in 0..N {
            let mut c = TcpStream::connect(&a, (B[0], port)).expect("connect");
            c.write_all(&i.to_be_bytes()).expect("write");
            let mut got = Vec::new();
            c.read_to_end(&mut got).expect("read");
            assert_eq!(got, i.to_be_bytes(), "connection {i}");
        }
    });
}

#[test]
fn datagrams_of_every_size_cross_both_ways() {
    let (a, b) = joined(Link::new());
    for (mine, peer) in A.into_iter().zip(B) {
        let here = UdpSocket::bind(&a, (mine, 0)).expect("bind");
        let there = UdpSocket::bind(&b, (peer, 0)).expect("bind");
        here.set_read_timeout(Some(PATIENCE)).expect("timeout");
        there.set_read_timeout(Some(PATIENCE)).expect("timeout");
        let peer = there.local_addr().expect("its name");
        let mut buf = vec![0; 70_000];
        for n in (0..3000).chain((3000..65507).step_by(331)).chain(65500..=65507) {
            let data: Vec<u8> = (0..n).map(|i| (n + i * 3) as u8).collect();
            here.send_to(&data, peer).unwrap_or_else(|e| panic!("{n} bytes: {e}"));
            let (got, from) = there.recv_from(&mut buf).unwrap_or_else(|e| panic!("{n} bytes: {e}"));
            assert!(buf[..got] == data[..], "{n} bytes sent, {got} came");
            there.send_to(&buf[..got], from).unwrap_or_else(|e| panic!("{n} bytes back: {e}"));
            let (got, _) = here.recv_from(&mut buf).unwrap_or_else(|e| panic!("{n} bytes back: {e}"));
            assert!(buf[..got] == data[..], "{n} bytes sent back, {got} came");
        }
    }
}
