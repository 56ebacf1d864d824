//! How TCP connections begin and end, through loopback, by the calls on descriptors.

use host::Host;
use sockeye_net::core::net_namespace::Net;
use sockeye_net::core::snmp::Mib;
use sockeye_net::init::net_init;
use sockeye_net::ipv4::inet_hashtables::tcp_hashinfo;
use sockeye_net::syscall::{FdTable, PollFd};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use uapi::poll::Poll;
use uapi::socket::*;
use uapi::{Errno, SockAddr};

fn files() -> (Arc<Host>, Arc<FdTable>) {
    let host = Host::start(1).expect("host");
    let reg = net_init(host.kernel());
    let net = Net::new(&reg);
    (host, Arc::new(FdTable::new(&net, 4096)))
}

fn addr(s: &str) -> SockAddr {
    s.parse::<SocketAddr>().expect("address").into()
}

fn tcp(f: &FdTable, family: i32) -> i32 {
    f.socket(family, SOCK_STREAM, 0).expect("socket")
}

fn listener(f: &FdTable, at: &str, backlog: i32) -> (i32, SockAddr) {
    let a = addr(at);
    let fd = tcp(f, a.family() as i32);
    f.bind(fd, &a).expect("bind");
    f.listen(fd, backlog).expect("listen");
    (fd, f.getsockname(fd).expect("name"))
}

fn connected(f: &FdTable, l: i32, to: &SockAddr) -> (i32, i32) {
    let c = tcp(f, to.family() as i32);
    f.connect(c, to).expect("connect");
    let (s, _) = f.accept(l).expect("accept");
    (c, s)
}

fn entries(f: &FdTable) -> usize {
    tcp_hashinfo(f.net()).ehash.len()
}

fn set(f: &FdTable, fd: i32, name: i32) {
    f.setsockopt(fd, SOL_SOCKET, name, &1i32.to_ne_bytes()).expect("setsockopt");
}

#[test]
fn both_ends_agree_on_their_names() {
    let (_host, f) = files();
    for at in ["127.0.0.1:0", "[::1]:0"] {
        let (l, to) = listener(&f, at, 5);
        let c = tcp(&f, to.family() as i32);
        f.connect(c, &to).expect("connect");
        let (s, peer) = f.accept(l).expect("accept");
        assert_eq!(f.getpeername(c), Ok(to));
        assert_eq!(f.getsockname(s), Ok(to));
        assert_eq!(f.getsockname(c), Ok(peer));
        assert_eq!(f.getpeername(s), Ok(peer));
        assert_eq!(f.connect(c, &to), Err(Errno::EISCONN));
        f.send(c, b"hello", 0).expect("send");
        let mut b = [0; 9];
        assert_eq!(f.recv(s, &mut b, 0), Ok(5));
        f.close(c).expect("close");
        assert_eq!(f.recv(s, &mut b, 0), Ok(0), "the end");
        f.close(s).expect("close");
        f.close(l).expect("close");
    }
    assert_eq!(entries(&f), 2, "one TIME_WAIT entry each");
}

#[test]
fn a_dual_stack_listener_takes_ipv4_connections() {
    let (_host, f) = files();
    let (l, name) = listener(&f, "[::]:0", 5);
    let (c, s) = connected(&f, l, &addr(&format!("127.0.0.1:{}", name.port())));
    let client = f.getsockname(c).expect("name");
    assert_eq!(f.getpeername(s), Ok(addr(&format!("[::ffff:127.0.0.1]:{}", client.port()))));
    let c6 = tcp(&f, AF_INET6);
    f.connect(c6, &addr(&format!("[::ffff:127.0.0.1]:{}", name.port()))).expect("an IPv4-mapped address");
    assert!(f.accept(l).is_ok());
}

#[test]
fn nobody_listens() {
    let (_host, f) = files();
    for to in ["127.0.0.1:9", "[::1]:9"] {
        let to = addr(to);
        let c = tcp(&f, to.family() as i32);
        assert_eq!(f.connect(c, &to), Err(Errno::ECONNREFUSED));
        f.close(c).expect("close");
    }
    assert_eq!(entries(&f), 0);
    assert_eq!(f.net().mib.get(Mib::TcpOutRsts), 2);
    let c = tcp(&f, AF_INET);
    assert_eq!(f.connect(c, &addr("192.0.2.1:9")), Err(Errno::ENETUNREACH));
}

#[test]
fn a_refused_socket_tries_again_with_a_port_of_its_own() {
    let (_host, f) = files();
    let (l, to) = listener(&f, "127.0.0.1:0", 5);
    let c = tcp(&f, AF_INET);
    assert_eq!(f.connect(c, &addr("127.0.0.1:9")), Err(Errno::ECONNREFUSED));
    f.connect(c, &to).expect("connect");
    f.accept(l).expect("accept");
    let port = f.getsockname(c).expect("name").port();
    assert_eq!(tcp_hashinfo(f.net()).bind_bucket(port).owners().len(), 1, "port {port} is held");
}

#[test]
fn ten_thousand_connections_leave_only_time_wait() {
    let (_host, f) = files();
    // A worker that is held up between making a delayed ACK and sending it sends it to a TIME_WAIT, whose answer draws a RST:
    // the assassination of RFC 1337, which is not what this is about.
    f.net().sysctl.set("net.ipv4.tcp_rfc1337", 1).expect("a tunable");
    let (l, to) = listener(&f, "127.0.0.1:0", 5);
    for n in 0..10_000 {
        let (c, s) = connected(&f, l, &to);
        f.close(c).expect("close");
        assert_eq!(f.recv(s, &mut [0; 1], 0), Ok(0), "connection {n}");
        f.close(s).expect("close");
    }
    let info = tcp_hashinfo(f.net());
    // The last packets may be with ksoftirqd.
    while info.orphan_count.load(SeqCst) != 0 {
        std::thread::yield_now();
    }
    assert_eq!((info.ehash.len(), info.tw_count.load(SeqCst), info.orphan_count.load(SeqCst)), (10_000, 10_000, 0));
    assert_eq!(f.net().mib.get(Mib::TcpPassiveOpens), 10_000);
    assert_eq!(f.net().mib.get(Mib::TcpCurrEstab), 0);
}

#[test]
fn a_full_accept_queue_lets_nobody_in() {
    let (_host, f) = files();
    // With cookies a client could believe that it is connected while the server has forgotten it.
    f.net().sysctl.tcp_syncookies.set(0).expect("sysctl");
    let (l, to) = listener(&f, "127.0.0.1:0", 1);
    let clients: Vec<i32> =
        (0..5).map(|_| f.socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0).expect("socket")).collect();
    for &c in &clients {
        let r = f.connect(c, &to);
        assert!(r == Ok(()) || r == Err(Errno::EINPROGRESS), "{r:?}");
    }
    assert!(f.net().mib.get(Mib::TcpExtListenOverflows) > 0);
    // Two (the backlog and one more) are in; the others ask again, and get in when there is room.
    let mut accepted = 0;
    while accepted < 5 {
        assert_eq!(f.poll(&mut [PollFd::new(l, Poll::IN)], 10_000), Ok(1));
        f.accept(l).expect("accept");
        accepted += 1;
    }
}

#[test]
fn a_closed_listener_resets_who_waited() {
    let (_host, f) = files();
    let (l, to) = listener(&f, "127.0.0.1:0", 5);
    let c = tcp(&f, AF_INET);
    f.connect(c, &to).expect("connect");
    f.close(l).expect("close");
    assert_eq!(f.recv(c, &mut [0; 1], 0), Err(Errno::ECONNRESET));
    f.close(c).expect("close");
    assert_eq!(entries(&f), 0);
    let again = tcp(&f, AF_INET);
    assert_eq!(f.connect(again, &to), Err(Errno::ECONNREFUSED));
}

#[test]
fn a_port_in_time_wait_is_bound_again_with_reuseaddr() {
    let (_host, f) = files();
    let l = tcp(&f, AF_INET);
    set(&f, l, SO_REUSEADDR);
    f.bind(l, &addr("127.0.0.1:0")).expect("bind");
    f.listen(l, 5).expect("listen");
    let to = f.getsockname(l).expect("name");
    let (c, s) = connected(&f, l, &to);
    f.close(s).expect("the server closes first");
    f.close(c).expect("close");
    f.close(l).expect("close");
    let plain = tcp(&f, AF_INET);
    assert_eq!(f.bind(plain, &to), Err(Errno::EADDRINUSE));
    let reuse = tcp(&f, AF_INET);
    set(&f, reuse, SO_REUSEADDR);
    assert_eq!(f.bind(reuse, &to), Ok(()));
    assert_eq!(f.listen(reuse, 5), Ok(()));
    connected(&f, reuse, &to);
}

#[test]
fn an_acceptor_sleeps_until_somebody_comes() {
    let (_host, f) = files();
    let (l, to) = listener(&f, "127.0.0.1:0", 5);
    let acceptors: Vec<_> = (0..3)
        .map(|_| {
            let f = f.clone();
            std::thread::spawn(move || f.accept(l).map(|(fd, _)| fd))
        })
        .collect();
    let clients: Vec<i32> = (0..3).map(|_| tcp(&f, AF_INET)).collect();
    for &c in &clients {
        f.connect(c, &to).expect("connect");
    }
    for a in acceptors {
        assert!(a.join().expect("join").is_ok());
    }
}

#[test]
fn two_hundred_connections_from_four_threads() {
    let (_host, f) = files();
    let (l, to) = listener(&f, "127.0.0.1:0", 200);
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let f = f.clone();
            std::thread::spawn(move || {
                let fds: Vec<i32> = (0..50)
                    .map(|_| {
                        let c = tcp(&f, AF_INET);
                        f.connect(c, &to).expect("connect");
                        c
                    })
                    .collect();
                for &c in &fds {
                    f.send(c, &c.to_ne_bytes(), 0).expect("send");
                }
                for &c in &fds {
                    let mut b = [0; 4];
                    assert_eq!(f.recv(c, &mut b, MSG_WAITALL), Ok(4));
                    assert_eq!(i32::from_ne_bytes(b), c);
                }
            })
        })
        .collect();
    let served: Vec<i32> = (0..200).map(|_| f.accept(l).expect("accept").0).collect();
    for &s in &served {
        let mut b = [0; 4];
        assert_eq!(f.recv(s, &mut b, MSG_WAITALL), Ok(4));
        f.send(s, &b, 0).expect("echo");
    }
    for c in clients {
        c.join().expect("client");
    }
}

#[test]
fn names_in_use_and_wrong_calls() {
    let (_host, f) = files();
    let (l, to) = listener(&f, "127.0.0.1:0", 5);
    let other = tcp(&f, AF_INET);
    assert_eq!(f.bind(other, &to), Err(Errno::EADDRINUSE));
    assert_eq!(f.accept(other).map(|_| ()), Err(Errno::EINVAL));
    assert_eq!(f.connect(l, &to), Err(Errno::EISCONN));
    assert_eq!(f.getpeername(other), Err(Errno::ENOTCONN));
    let nonblock = f.socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0).expect("socket");
    assert_eq!(f.listen(nonblock, 1), Ok(()), "a port is chosen");
    assert_ne!(f.getsockname(nonblock).expect("name").port(), 0);
    assert_eq!(f.accept(nonblock).map(|_| ()), Err(Errno::EAGAIN));
}

#[test]
fn nothing_is_left_of_a_closed_connection() {
    let (host, f) = files();
    let (l, to) = listener(&f, "127.0.0.1:0", 5);
    let (c, s) = connected(&f, l, &to);
    let weak = |fd| f.sockfd_lookup(fd).expect("file").sk.weak();
    let socks = [weak(c), weak(s), weak(l)];
    // One more in the accept queue, and one that was refused.
    let waiting = tcp(&f, AF_INET);
    f.connect(waiting, &to).expect("connect");
    for fd in [s, c, l, waiting] {
        f.close(fd).expect("close");
    }
    let _inside = host.kernel().enter();
    kernel::synchronize_rcu();
    for (who, sk) in ["client", "server", "listener"].iter().zip(&socks) {
        assert!(sk.upgrade().is_none(), "the {who}'s socket is still there");
    }
    assert_eq!(entries(&f), 1, "one TIME_WAIT entry");
}

#[test]
fn connections_come_and_go_on_many_threads() {
    let (_host, f) = files();
    let (l, to) = listener(&f, "127.0.0.1:0", 100);
    const EACH: usize = 500;
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let f = f.clone();
            std::thread::spawn(move || {
                for n in 0..EACH {
                    let c = tcp(&f, AF_INET);
                    f.connect(c, &to).expect("connect");
                    f.send(c, &n.to_ne_bytes(), 0).expect("send");
                    let mut b = [0; 8];
                    assert_eq!(f.recv(c, &mut b, MSG_WAITALL), Ok(8));
                    assert_eq!(usize::from_ne_bytes(b), n);
                    f.close(c).expect("close");
                }
            })
        })
        .collect();
    let servers: Vec<_> = (0..2)
        .map(|_| {
            let f = f.clone();
            std::thread::spawn(move || {
                for _ in 0..2 * EACH {
                    let (s, _) = f.accept(l).expect("accept");
                    let mut b = [0; 8];
                    assert_eq!(f.recv(s, &mut b, MSG_WAITALL), Ok(8));
                    f.send(s, &b, 0).expect("echo");
                    assert_eq!(f.recv(s, &mut b, 0), Ok(0));
                    f.close(s).expect("close");
                }
            })
        })
        .collect();
    for t in clients.into_iter().chain(servers) {
        t.join().expect("join");
    }
    assert_eq!(f.net().mib.get(Mib::TcpCurrEstab), 0);
    assert_eq!(tcp_hashinfo(f.net()).tw_count.load(SeqCst) as usize, entries(&f));
    assert_eq!(f.net().mib.get(Mib::TcpEstabResets), 0);
}
