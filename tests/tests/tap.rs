//! A stack on a TAP device against this machine's kernel.

use sockeye::{TcpListener, TcpStream, UdpSocket};
use sockeye_tests::{TapSide, Transfer, netns_test, run};
use std::io::{Read, Write};
use std::net::{self, Shutdown};
use std::thread;

const GIB: u64 = 1 << 30;

/// Sends `len` bytes from the stack to this machine, then back, by way of `host` and `stack` addresses.
fn both_ways(t: &TapSide, host: &str, len: u64) {
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
        let mut c = TcpStream::connect(&t.stack, (host, port)).expect("connect from the stack");
        transfer.send(&mut c).expect("send from the stack");
        c.shutdown(Shutdown::Write).expect("half-close");
        assert_eq!(Transfer::receive(&mut c).expect("receive in the stack"), want);
        assert_eq!(kernel.join().expect("the kernel's side"), want);
    });
}

netns_test! {
    fn a_gibibyte_each_way_over_ipv4() {
        both_ways(&TapSide::new(), TapSide::HOST4, GIB);
    }
}

netns_test! {
    fn a_gibibyte_each_way_over_ipv6() {
        both_ways(&TapSide::new(), TapSide::HOST6, GIB);
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

netns_test! {
    fn two_hundred_connections_at_once_from_the_stack() {
        let t = TapSide::new();
        let listener = net::TcpListener::bind((TapSide::HOST4, 0)).expect("listen");
        let port = listener.local_addr().expect("name").port();
        thread::scope(|s| {
            s.spawn(|| echo(AT_ONCE, || Box::new(listener.accept().expect("accept").0)));
            let mut all: Vec<TcpStream> =
                (0..AT_ONCE).map(|_| TcpStream::connect(&t.stack, (TapSide::HOST4, port)).expect("connect")).collect();
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
}

netns_test! {
    fn two_hundred_connections_at_once_to_the_stack() {
        let t = TapSide::new();
        let listener = TcpListener::bind(&t.stack, (TapSide::STACK4, 0)).expect("listen");
        let port = listener.local_addr().expect("name").port();
        thread::scope(|s| {
            s.spawn(|| echo(AT_ONCE, || Box::new(listener.accept().expect("accept").0)));
            let mut all: Vec<net::TcpStream> =
                (0..AT_ONCE).map(|_| net::TcpStream::connect((TapSide::STACK4, port)).expect("connect")).collect();
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
