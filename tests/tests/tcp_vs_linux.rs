//! TCP through loopback, call by call the same as on the machine's kernel: results, errors, poll masks.

mod common;

use common::{ALL, Calls, addr, bytes, same};
use uapi::socket::*;

const IN: u32 = 1;
const OUT: u32 = 4;

fn stream(c: &dyn Calls) -> i32 {
    c.socket(AF_INET, SOCK_STREAM, 0).expect("socket")
}

/// A listener and its address.
fn listener(c: &dyn Calls, backlog: i32) -> (i32, Vec<u8>) {
    let fd = stream(c);
    c.bind(fd, &addr("127.0.0.1:0")).expect("bind");
    c.listen(fd, backlog).expect("listen");
    let at = bytes(c.name(fd, false).expect("name"));
    (fd, at)
}

/// A connection: the client's and the server's end.
fn pair(c: &dyn Calls) -> (i32, i32) {
    let (l, at) = listener(c, 5);
    let a = stream(c);
    c.connect(a, &at).expect("connect");
    let b = c.accept4(l, 0).expect("accept");
    c.close(l).expect("close");
    (a, b)
}

#[test]
fn a_fresh_socket_answers_as_on_linux() {
    same(|c, log| {
        let fd = stream(c);
        log.note("poll", c.poll(fd, ALL, 0));
        log.note("name", c.name(fd, false));
        log.note("peer", c.name(fd, true));
        log.note("send", c.sendto(fd, b"x", 0, None));
        log.note("send to", c.sendto(fd, b"x", 0, Some(&addr("127.0.0.1:9"))));
        log.note("recv", c.recv(fd, 10, 0));
        log.note("accept", c.accept4(fd, 0).map(drop));
        log.note("shutdown", c.shutdown(fd, SHUT_RDWR));
        log.note("inq", c.ioctl(fd, 0x541b));
        log.note("outq", c.ioctl(fd, 0x5411));
        log.note("atmark", c.ioctl(fd, 0x8905));
        log.note("family", c.connect(fd, &addr("[::1]:9")));
        log.note("short", c.connect(fd, &addr("127.0.0.1:9")[..10]));
        log.note("acceptconn", c.getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, 4));
        let fd = stream(c);
        log.note("refused", c.connect(fd, &addr("127.0.0.1:9")));
        log.note("poll", c.poll(fd, ALL, 0));
        log.note("again", c.connect(fd, &addr("127.0.0.1:9")));
        log.note("error", c.getsockopt(fd, SOL_SOCKET, SO_ERROR, 4));
        log.note("disconnect", c.connect(fd, &[0; 16]));
        log.note("fcntl", c.fcntl(fd, libc::F_GETFL, 0));
        log.note("fcntl", c.fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK));
        log.note("fcntl", c.fcntl(fd, libc::F_GETFL, 0));
        log.note("fcntl", c.fcntl(fd, libc::F_GETFD, 0));
    });
}

/// A hundred sockets bind to one port, by addresses of both versions, wildcards, devices and the options that let them share it.
#[test]
fn many_sockets_share_a_port_as_on_linux() {
    const PORT: u16 = 40_080;
    let addrs: Vec<String> = [
        "0.0.0.0",
        "127.0.0.1",
        "127.0.0.2",
        "127.0.0.3",
        "127.0.0.4",
        "[::]",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:0.0.0.0]",
    ]
    .iter()
    .map(|a| format!("{a}:{PORT}"))
    .collect();
    for seed in 1..=40u64 {
        same(|c, log| {
            let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut random = |n: u64| {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (x >> 33) % n
            };
            let mut bound = Vec::new();
            for i in 0..100 {
                // Wildcards are rare, or nobody else would have a chance.
                let a = if random(12) == 0 { random(9) } else { 1 + random(4) + 2 * random(2) } as usize;
                let v6 = addrs[a].starts_with('[');
                let fd = c.socket(if v6 { AF_INET6 } else { AF_INET }, SOCK_STREAM, 0).expect("socket");
                let opt = |level, name, v: i32| c.setsockopt(fd, level, name, &v.to_ne_bytes()).expect("an option");
                opt(SOL_SOCKET, SO_REUSEADDR, (random(4) > 0) as i32);
                opt(SOL_SOCKET, SO_REUSEPORT, (random(2) > 0) as i32);
                if v6 {
                    opt(IPPROTO_IPV6, IPV6_V6ONLY, random(2) as i32);
                }
                if random(6) == 0 {
                    c.setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, b"lo\0").expect("the device is there");
                }
                let said = c.bind(fd, &addr(&addrs[a]));
                let ok = said.is_ok();
                log.note(&format!("{i}: bind {}", addrs[a]), said);
                if ok && random(8) == 0 {
                    log.note("listen", c.listen(fd, 1));
                }
                bound.push(fd);
                if random(5) == 0 {
                    c.close(bound.swap_remove(random(bound.len() as u64) as usize)).expect("close");
                }
            }
            bound.into_iter().for_each(|fd| c.close(fd).expect("close"));
        });
    }
}

#[test]
fn a_listener_answers_as_on_linux() {
    same(|c, log| {
        let (l, at) = listener(c, 5);
        log.note("poll", c.poll(l, ALL, 0));
        log.note("peer", c.name(l, true));
        log.note("send", c.sendto(l, b"x", 0, None));
        log.note("recv", c.recv(l, 10, 0));
        log.note("connect", c.connect(l, &at));
        log.note("bind", c.bind(l, &addr("127.0.0.1:0")));
        log.note("again", c.listen(l, 1));
        log.note("acceptconn", c.getsockopt(l, SOL_SOCKET, SO_ACCEPTCONN, 4));
        log.note("inq", c.ioctl(l, 0x541b));
        log.note("outq", c.ioctl(l, 0x5411));
        c.fcntl(l, libc::F_SETFL, libc::O_NONBLOCK).expect("fcntl");
        log.note("nothing", c.accept4(l, 0).map(drop));
        log.note("flags", c.accept4(l, 1).map(drop));
        let a = stream(c);
        log.note("connect", c.connect(a, &at));
        log.note("poll", c.poll(l, ALL, 1000));
        let b = c.accept4(l, SOCK_NONBLOCK | SOCK_CLOEXEC).expect("accept");
        log.note("flags", c.fcntl(b, libc::F_GETFL, 0));
        log.note("flags", c.fcntl(b, libc::F_GETFD, 0));
        log.note("names", c.name(b, true).map(|n| Ok(n) == c.name(a, false)));
        log.note("names", c.name(a, true).map(|n| Ok(n) == c.name(b, false)));
        log.note("shutdown", c.shutdown(l, SHUT_WR));
        log.note("poll", c.poll(l, ALL, 0));
        log.note("shutdown", c.shutdown(l, SHUT_RD));
        log.note("poll", c.poll(l, ALL, 0));
        log.note("accept", c.accept4(l, 0).map(drop));
        log.note("connect", c.connect(stream(c), &at));
        let unbound = stream(c);
        log.note("listen", c.listen(unbound, 1));
        log.note("port", c.name(unbound, false).map(|n| n.port() != 0));
        log.note("listen", c.listen(a, 1));
    });
}

#[test]
fn binding_conflicts_as_on_linux() {
    same(|c, log| {
        let (l, at) = listener(c, 5);
        let port = c.name(l, false).expect("name").port();
        let any = addr(&format!("0.0.0.0:{port}"));
        log.note("same", c.bind(stream(c), &at));
        log.note("any", c.bind(stream(c), &any));
        log.note("other", c.bind(stream(c), &addr(&format!("127.0.0.2:{port}"))));
        let fd = stream(c);
        log.note("reuse", c.set(fd, SOL_SOCKET, SO_REUSEADDR, 1));
        log.note("listening", c.bind(fd, &at));
        log.note("bad", c.bind(stream(c), &addr("192.0.2.1:0")));
        log.note("family", c.bind(stream(c), &addr("[::1]:0")));
        for option in [SO_REUSEADDR, SO_REUSEPORT] {
            let (x, y) = (stream(c), stream(c));
            c.set(x, SOL_SOCKET, option, 1).expect("set");
            c.set(y, SOL_SOCKET, option, 1).expect("set");
            log.note("bind", c.bind(x, &addr("127.0.0.1:0")));
            let at = bytes(c.name(x, false).expect("name"));
            log.note("bind", c.bind(y, &at));
            log.note("listen", c.listen(x, 1));
            log.note("listen", c.listen(y, 1));
        }
        let v6 = c.socket(AF_INET6, SOCK_STREAM, 0).expect("socket");
        log.note("v6 any", c.bind(v6, &addr(&format!("[::]:{port}"))));
        log.note("v6only", c.set(v6, IPPROTO_IPV6, IPV6_V6ONLY, 1));
        log.note("v6 any", c.bind(v6, &addr(&format!("[::]:{port}"))));
    });
}

#[test]
fn data_and_its_end_are_as_on_linux() {
    same(|c, log| {
        let (a, b) = pair(c);
        log.note("poll", (c.poll(a, ALL, 0), c.poll(b, ALL, 0)));
        log.note("nothing", c.recv(b, 10, MSG_DONTWAIT));
        log.note("send", c.sendto(a, b"hello", 0, None));
        log.note("send to", c.sendto(a, b", world", 0, Some(&addr("192.0.2.1:1"))));
        log.note("poll", c.poll(b, IN, 1000));
        log.note("poll", c.poll(b, ALL, 0));
        log.note("peek", c.recv(b, 5, MSG_PEEK));
        log.note("inq", c.ioctl(b, 0x541b));
        log.note("all", c.recv(b, 12, MSG_WAITALL));
        log.note("connect", c.connect(a, &addr("127.0.0.1:9")));
        log.note("discard", c.sendto(a, b"gone", 0, None));
        c.poll(b, IN, 1000);
        log.note("half", c.shutdown(a, SHUT_WR));
        log.note("send", c.sendto(a, b"x", 0, None));
        log.note("again", c.shutdown(a, SHUT_WR));
        c.poll(b, 0x2000, 1000);
        log.note("poll", (c.poll(a, ALL, 0), c.poll(b, ALL, 0)));
        log.note("rest", c.recv(b, 10, 0));
        log.note("end", c.recv(b, 10, 0));
        log.note("back", c.sendto(b, b"back", 0, None));
        c.poll(a, IN, 1000);
        log.note("recv", c.recv(a, 10, 0));
        log.note("close", c.shutdown(b, SHUT_WR));
        c.poll(a, 0x10, 1000);
        log.note("poll", (c.poll(a, ALL, 0), c.poll(b, ALL, 0)));
        log.note("end", c.recv(a, 10, 0));
        log.note("peers", (c.name(a, true).is_ok(), c.name(b, true).is_ok()));
        log.note("shutdown", c.shutdown(a, SHUT_RDWR).err());
    });
}

#[test]
fn reading_no_bytes_is_as_on_linux() {
    same(|c, log| {
        let (a, b) = pair(c);
        log.note("nothing there", c.recv(b, 0, MSG_DONTWAIT));
        log.note("nothing there, all", c.recv(b, 0, MSG_DONTWAIT | MSG_WAITALL));
        log.note("send", c.sendto(a, b"x", 0, None));
        log.note("arrived", c.poll(b, IN, 5000));
        log.note("something there", c.recv(b, 0, MSG_DONTWAIT));
        log.note("peeked", c.recv(b, 0, MSG_DONTWAIT | MSG_PEEK));
        log.note("still there", c.recv(b, 10, MSG_DONTWAIT));
        log.note("shut", c.shutdown(a, SHUT_WR));
        log.note("end", c.poll(b, IN, 5000));
        log.note("at the end", c.recv(b, 0, MSG_DONTWAIT));
    });
}

#[test]
fn resets_are_as_on_linux() {
    same(|c, log| {
        // Data that nobody has read: close resets.
        let (a, b) = pair(c);
        c.sendto(a, b"unread", 0, None).expect("send");
        c.poll(b, IN, 1000);
        log.note("close", c.close(b));
        c.poll(a, 0x8, 1000);
        log.note("poll", c.poll(a, ALL, 0));
        log.note("recv", c.recv(a, 10, 0));
        log.note("recv", c.recv(a, 10, 0));
        log.note("send", c.sendto(a, b"x", 0, None));
        log.note("poll", c.poll(a, ALL, 0));
        // Lingering for no time resets too.
        let (a, b) = pair(c);
        c.setsockopt(b, SOL_SOCKET, SO_LINGER, &[1, 0, 0, 0, 0, 0, 0, 0]).expect("linger");
        log.note("close", c.close(b));
        c.poll(a, 0x8, 1000);
        log.note("send", c.sendto(a, b"x", 0, None));
        log.note("send", c.sendto(a, b"x", 0, None));
        log.note("recv", c.recv(a, 10, 0));
        // Sending to what is closed: first accepted, then answered by a reset.
        let (a, b) = pair(c);
        log.note("close", c.close(b));
        c.poll(a, IN, 1000);
        log.note("poll", c.poll(a, ALL, 0));
        log.note("send", c.sendto(a, b"x", 0, None));
        c.poll(a, 0x8, 1000);
        log.note("poll", c.poll(a, ALL, 0));
        log.note("error", c.getsockopt(a, SOL_SOCKET, SO_ERROR, 4));
        log.note("send", c.sendto(a, b"x", 0, None));
        log.note("recv", c.recv(a, 10, 0));
        // Dissolving resets, and frees the socket for another connection.
        let (a, b) = pair(c);
        log.note("dissolve", c.connect(a, &[0; 16]));
        log.note("peer", c.name(a, true));
        c.poll(b, 0x8, 1000);
        log.note("recv", c.recv(b, 10, 0));
        let (_l, at) = listener(c, 1);
        log.note("again", c.connect(a, &at));
    });
}

#[test]
fn nonblocking_connects_are_as_on_linux() {
    same(|c, log| {
        let (l, at) = listener(c, 5);
        let fd = c.socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0).expect("socket");
        log.note("connect", c.connect(fd, &at));
        log.note("poll", c.poll(fd, OUT, 1000));
        log.note("error", c.getsockopt(fd, SOL_SOCKET, SO_ERROR, 4));
        log.note("connect", c.connect(fd, &at));
        log.note("connect", c.connect(fd, &at));
        log.note("recv", c.recv(fd, 1, 0));
        c.accept4(l, 0).expect("accept");
        let fd = c.socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0).expect("socket");
        log.note("refused", c.connect(fd, &addr("127.0.0.1:9")));
        log.note("poll", c.poll(fd, OUT, 1000));
        log.note("error", c.getsockopt(fd, SOL_SOCKET, SO_ERROR, 4));
        log.note("error", c.getsockopt(fd, SOL_SOCKET, SO_ERROR, 4));
        log.note("connect", c.connect(fd, &at));
    });
}

#[test]
fn urgent_data_is_as_on_linux() {
    same(|c, log| {
        let (a, b) = pair(c);
        log.note("send", c.sendto(a, b"ab", 0, None));
        log.note("urgent", c.sendto(a, b"c!", MSG_OOB, None));
        log.note("send", c.sendto(a, b"de", 0, None));
        c.poll(b, 2, 1000);
        log.note("poll", c.poll(b, ALL, 0));
        log.note("mark", c.ioctl(b, 0x8905));
        log.note("recv", c.recv(b, 10, 0));
        log.note("mark", c.ioctl(b, 0x8905));
        log.note("urgent", c.recv(b, 10, MSG_OOB));
        log.note("urgent", c.recv(b, 10, MSG_OOB));
        log.note("recv", c.recv(b, 10, 0));
        log.note("urgent", c.recv(b, 10, MSG_OOB));
    });
}

#[test]
fn ipv6_and_mapped_connections_are_as_on_linux() {
    same(|c, log| {
        let l = c.socket(AF_INET6, SOCK_STREAM, 0).expect("socket");
        log.note("bind", c.bind(l, &addr("[::]:0")));
        log.note("listen", c.listen(l, 5));
        let port = c.name(l, false).expect("name").port();
        for to in ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "[::]"] {
            let at = addr(&format!("{to}:{port}"));
            let family = if to.starts_with('[') { AF_INET6 } else { AF_INET };
            let fd = c.socket(family, SOCK_STREAM, 0).expect("socket");
            log.note("connect", (to, c.connect(fd, &at)));
            let s = c.accept4(l, 0).expect("accept");
            log.note("names", (c.name(fd, true).map(|n| n.ip()), c.name(s, true).map(|n| n.ip())));
            log.note("names", (c.name(fd, false).map(|n| n.ip()), c.name(s, false).map(|n| n.ip())));
            log.note("send", c.sendto(s, to.as_bytes(), 0, None));
            log.note("recv", c.recv(fd, to.len(), MSG_WAITALL));
        }
        let fd = c.socket(AF_INET6, SOCK_STREAM, 0).expect("socket");
        log.note("v4", c.connect(fd, &addr(&format!("127.0.0.1:{port}"))));
        log.note("only", c.set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1));
        log.note("mapped", c.connect(fd, &addr(&format!("[::ffff:127.0.0.1]:{port}"))));
        log.note("group", c.connect(fd, &addr("[ff02::1]:9")));
        log.note("group", c.bind(fd, &addr("[ff02::1]:0")));
    });
}

#[test]
fn tcp_options_are_as_on_linux() {
    same(|c, log| {
        let fd = stream(c);
        for (name, values) in [
            (libc::TCP_NODELAY, &[1, 0, 7][..]),
            (libc::TCP_CORK, &[1, 0]),
            (libc::TCP_KEEPIDLE, &[1, 100, 0, 40000]),
            (libc::TCP_KEEPINTVL, &[1, 100, 0, 40000]),
            (libc::TCP_KEEPCNT, &[1, 100, 0, 200]),
            (libc::TCP_SYNCNT, &[1, 100, 0, 200]),
            (libc::TCP_LINGER2, &[5, 0, -1]),
            (libc::TCP_DEFER_ACCEPT, &[0]),
            (libc::TCP_USER_TIMEOUT, &[1000, 0, -1]),
            (libc::TCP_QUICKACK, &[1, 0]),
            (libc::TCP_MAXSEG, &[1000, 10, 70000]),
            (9999, &[1]),
        ] {
            for &v in values {
                log.note("set", (name, v, c.set(fd, IPPROTO_TCP, name, v)));
                log.note("get", (name, v, c.getsockopt(fd, IPPROTO_TCP, name, 4)));
            }
            log.note("short", (name, c.setsockopt(fd, IPPROTO_TCP, name, &[1, 0])));
            log.note("cut", (name, c.getsockopt(fd, IPPROTO_TCP, name, 2)));
        }
        log.note("ttl", c.set(fd, IPPROTO_IP, IP_MULTICAST_TTL, 1));
        log.note("tos", c.set(fd, IPPROTO_IP, IP_TOS, 0x0b));
        log.note("tos", c.getsockopt(fd, IPPROTO_IP, IP_TOS, 4));
        log.note("keepalive", c.set(fd, SOL_SOCKET, SO_KEEPALIVE, 1));
        log.note("keepalive", c.getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, 4));
        log.note("udp", c.set(fd, IPPROTO_UDP, 1, 1));
    });
}

const IP_MULTICAST_TTL: i32 = 33;
