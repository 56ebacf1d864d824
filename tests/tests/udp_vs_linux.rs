//! UDP and the socket layer, call by call the same as on the machine's kernel: results, errors, poll masks.

mod common;

use common::{ALL, Calls, addr, bytes, same};
use uapi::socket::*;

fn dgram(c: &dyn Calls, at: &str) -> i32 {
    let family = if at.starts_with('[') { AF_INET6 } else { AF_INET };
    let fd = c.socket(family, SOCK_DGRAM, 0).expect("socket");
    c.bind(fd, &addr(at)).expect("bind");
    fd
}

#[test]
fn socket_refuses_what_linux_refuses() {
    same(|c, log| {
        for family in [0, 1000, -1, 45, 46] {
            log.note("family", c.socket(family, SOCK_STREAM, 0).map(drop));
        }
        for kind in [0, -1, 11, 15, SOCK_STREAM | 0x100, SOCK_SEQPACKET, 4, 6] {
            log.note("type", c.socket(AF_INET, kind, 0).map(drop));
        }
        for (kind, protocol) in
            [(SOCK_DGRAM, 6), (SOCK_DGRAM, 200), (SOCK_DGRAM, -1), (SOCK_DGRAM, 17), (SOCK_DGRAM, 70000)]
        {
            log.note("protocol", c.socket(AF_INET, kind, protocol).map(drop));
            log.note("protocol6", c.socket(AF_INET6, kind, protocol).map(drop));
        }
        for fd in [-1, 999] {
            log.note("bad fd", c.bind(fd, &addr("127.0.0.1:0")));
            log.note("bad fd", c.listen(fd, 1));
            log.note("bad fd", c.close(fd));
            log.note("bad fd", c.sendto(fd, b"x", 0, None));
            log.note("bad fd", c.recv(fd, 1, 0));
            log.note("bad fd", c.fcntl(fd, libc::F_GETFL, 0));
            log.note("bad fd", c.getsockopt(fd, SOL_SOCKET, SO_TYPE, 4));
        }
    });
}

#[test]
fn an_unconnected_socket_answers_as_on_linux() {
    same(|c, log| {
        let fd = c.socket(AF_INET, SOCK_DGRAM, 0).expect("socket");
        log.note("poll", c.poll(fd, ALL, 0));
        log.note("name", c.name(fd, false));
        log.note("peer", c.name(fd, true));
        log.note("send", c.sendto(fd, b"x", 0, None));
        log.note("port 0", c.sendto(fd, b"x", 0, Some(&addr("127.0.0.1:0"))));
        log.note("family", c.sendto(fd, b"x", 0, Some(&addr("[::1]:9"))));
        log.note("short", c.sendto(fd, b"x", 0, Some(&addr("127.0.0.1:9")[..8])));
        log.note("recv", c.recv(fd, 10, MSG_DONTWAIT));
        log.note("oob", c.sendto(fd, b"x", MSG_OOB, Some(&addr("127.0.0.1:9"))));
        log.note("listen", c.listen(fd, 5));
        log.note("accept", c.accept4(fd, 0).map(drop));
        log.note("accept flags", c.accept4(fd, 1).map(drop));
        log.note("shutdown how", c.shutdown(fd, 3));
        log.note("shutdown", c.shutdown(fd, SHUT_RD));
        log.note("poll", c.poll(fd, ALL, 0));
        log.note("recv", c.recv(fd, 10, MSG_DONTWAIT));
        log.note("shutdown", c.shutdown(fd, SHUT_WR));
        log.note("poll", c.poll(fd, ALL, 0));
        log.note("send", c.sendto(fd, b"x", 0, Some(&addr("127.0.0.1:9"))));
        log.note("ioctl", c.ioctl(fd, 0x1234));
        log.note("inq", c.ioctl(fd, 0x541b));
        log.note("outq", c.ioctl(fd, 0x5411));
        log.note("close", c.close(fd));
        log.note("close", c.close(fd));
    });
}

#[test]
fn bind_refuses_what_linux_refuses() {
    same(|c, log| {
        let fd = c.socket(AF_INET, SOCK_DGRAM, 0).expect("socket");
        log.note("foreign", c.bind(fd, &addr("192.0.2.1:0")));
        log.note("family", c.bind(fd, &addr("[::1]:0")));
        log.note("short", c.bind(fd, &addr("127.0.0.1:0")[..10]));
        log.note("empty", c.bind(fd, &[]));
        log.note("local", c.bind(fd, &addr("127.0.0.1:0")));
        log.note("twice", c.bind(fd, &addr("127.0.0.1:0")));
        let name = c.name(fd, false).expect("name");
        log.note("ip", name.ip());
        let other = c.socket(AF_INET, SOCK_DGRAM, 0).expect("socket");
        log.note("in use", c.bind(other, &bytes(name)));
        log.note("any in use", c.bind(other, &addr(&format!("0.0.0.0:{}", name.port()))));
        log.note("other address", c.bind(other, &addr(&format!("127.0.0.2:{}", name.port()))));
        let v6 = c.socket(AF_INET6, SOCK_DGRAM, 0).expect("socket");
        log.note("v4 in v6", c.bind(v6, &addr("127.0.0.1:0")));
        log.note("any in use", c.bind(v6, &addr(&format!("[::]:{}", name.port()))));
        log.note("v6only", c.set(v6, IPPROTO_IPV6, IPV6_V6ONLY, 1));
        log.note("mapped", c.bind(v6, &addr("[::ffff:127.0.0.1]:0")));
        log.note("v6only", c.bind(v6, &addr(&format!("[::]:{}", name.port()))));
        log.note("v6only late", c.set(v6, IPPROTO_IPV6, IPV6_V6ONLY, 0));
        log.note("foreign", c.bind(c.socket(AF_INET6, SOCK_DGRAM, 0).expect("socket"), &addr("[2001:db8::1]:0")));
        log.note("link-local", c.bind(c.socket(AF_INET6, SOCK_DGRAM, 0).expect("socket"), &addr("[fe80::1]:0")));
        let free = c.socket(AF_INET, SOCK_DGRAM, 0).expect("socket");
        log.note("freebind", c.set(free, IPPROTO_IP, IP_FREEBIND, 1));
        log.note("freebind", c.bind(free, &addr("192.0.2.1:0")));
        log.note("freebind", c.name(free, false).map(|n| n.ip()));
    });
}

#[test]
fn reuse_is_as_on_linux() {
    same(|c, log| {
        for (o1, o2) in [(SO_REUSEADDR, SO_REUSEADDR), (SO_REUSEPORT, SO_REUSEPORT), (SO_REUSEADDR, SO_REUSEPORT)] {
            let a = c.socket(AF_INET, SOCK_DGRAM, 0).expect("socket");
            let b = c.socket(AF_INET, SOCK_DGRAM, 0).expect("socket");
            log.note("set", c.set(a, SOL_SOCKET, o1, 1));
            log.note("set", c.set(b, SOL_SOCKET, o2, 1));
            log.note("bind", c.bind(a, &addr("127.0.0.1:0")));
            let at = bytes(c.name(a, false).expect("name"));
            log.note("bind", c.bind(b, &at));
            let third = c.socket(AF_INET, SOCK_DGRAM, 0).expect("socket");
            log.note("bind", c.bind(third, &at));
            for fd in [a, b, third] {
                log.note("close", c.close(fd));
            }
        }
    });
}

#[test]
fn connected_sockets_are_as_on_linux() {
    same(|c, log| {
        let (a, b) = (dgram(c, "127.0.0.1:0"), dgram(c, "127.0.0.1:0"));
        let third = dgram(c, "127.0.0.1:0");
        let (a_name, b_name) = (c.name(a, false).expect("name"), c.name(b, false).expect("name"));
        log.note("connect", c.connect(a, &bytes(b_name)));
        log.note("peer", c.name(a, true).map(|p| p == b_name));
        log.note("send", c.sendto(a, b"hello", 0, None));
        log.note("poll", c.poll(b, ALL, 1000));
        log.note("inq", c.ioctl(b, 0x541b));
        log.note("peek", c.recv(b, 2, MSG_PEEK));
        log.note("recv", c.recv(b, 2, MSG_TRUNC).map(|_| ()).err());
        log.note("stranger", c.sendto(third, b"no", 0, Some(&bytes(a_name))));
        log.note("not for it", c.recv(a, 10, MSG_DONTWAIT));
        log.note("back", c.sendto(b, b"yes", 0, Some(&bytes(a_name))));
        log.note("recv", c.recv(a, 10, MSG_DONTWAIT));
        log.note("empty", c.sendto(b, b"", 0, Some(&bytes(a_name))));
        log.note("poll", c.poll(a, ALL, 1000));
        log.note("empty", c.recv(a, 10, MSG_DONTWAIT));
        log.note("elsewhere", c.sendto(a, b"x", 0, Some(&bytes(c.name(third, false).expect("name")))));
        log.note("recv", c.recv(third, 10, MSG_DONTWAIT));
        log.note("dissolve", c.connect(a, &[0; 16]));
        log.note("peer", c.name(a, true));
        log.note("port kept", c.name(a, false).map(|n| n == a_name));
        log.note("stranger", c.sendto(third, b"now", 0, Some(&bytes(a_name))));
        log.note("recv", c.recv(a, 10, MSG_DONTWAIT));
        log.note("again", c.connect(a, &bytes(b_name)));
        log.note("again", c.connect(a, &bytes(c.name(third, false).expect("name"))));
        log.note("shutdown", c.shutdown(a, SHUT_WR));
        log.note("send", c.sendto(a, b"x", 0, None));
        log.note("poll", c.poll(a, ALL, 0));
        log.note("shutdown", c.shutdown(a, SHUT_RDWR));
        log.note("poll", c.poll(a, ALL, 0));
        log.note("recv", c.recv(a, 10, MSG_DONTWAIT));
        log.note("recv", c.recv(a, 10, MSG_DONTWAIT));
    });
}

#[test]
fn errors_reach_a_connected_socket_as_on_linux() {
    same(|c, log| {
        let gone = dgram(c, "127.0.0.1:0");
        let at = bytes(c.name(gone, false).expect("name"));
        c.close(gone).expect("close");
        let fd = c.socket(AF_INET, SOCK_DGRAM, 0).expect("socket");
        log.note("connect", c.connect(fd, &at));
        log.note("send", c.sendto(fd, b"x", 0, None));
        log.note("poll", c.poll(fd, ALL, 0));
        log.note("SO_ERROR", c.getsockopt(fd, SOL_SOCKET, SO_ERROR, 4));
        log.note("poll", c.poll(fd, ALL, 0));
        log.note("send", c.sendto(fd, b"x", 0, None));
        log.note("send", c.sendto(fd, b"x", 0, None));
        log.note("send", c.sendto(fd, b"x", 0, None));
        log.note("recv", c.recv(fd, 10, MSG_DONTWAIT));
        log.note("recv", c.recv(fd, 10, MSG_DONTWAIT));
        let un = c.socket(AF_INET, SOCK_DGRAM, 0).expect("socket");
        log.note("send", c.sendto(un, b"x", 0, Some(&at)));
        log.note("poll", c.poll(un, ALL, 0));
        log.note("recverr", c.set(un, IPPROTO_IP, IP_RECVERR, 1));
        log.note("send", c.sendto(un, b"x", 0, Some(&at)));
        log.note("poll", c.poll(un, ALL, 0));
        log.note("recv", c.recv(un, 10, MSG_DONTWAIT));
        log.note("poll", c.poll(un, ALL, 0));
        log.note("errqueue", c.recv(un, 10, MSG_ERRQUEUE));
        log.note("errqueue", c.recv(un, 10, MSG_ERRQUEUE | MSG_DONTWAIT));
        log.note("poll", c.poll(un, ALL, 0));
        log.note("too long", c.sendto(un, &[0; 65508], 0, Some(&at)));
        log.note("broadcast", c.sendto(un, b"x", 0, Some(&addr("127.255.255.255:9"))));
        log.note("unroutable", c.connect(un, &addr("0.0.0.0:9")));
        log.note("peer", c.name(un, true));
    });
}

#[test]
fn ipv6_and_mapped_addresses_are_as_on_linux() {
    same(|c, log| {
        let v6 = dgram(c, "[::]:0");
        let port = c.name(v6, false).expect("name").port();
        let v4 = dgram(c, "127.0.0.1:0");
        log.note("v4 to v6", c.sendto(v4, b"four", 0, Some(&addr(&format!("127.0.0.1:{port}")))));
        log.note("recv", c.recv(v6, 10, MSG_DONTWAIT));
        let v4_port = c.name(v4, false).expect("name").port();
        log.note("v6 to v4", c.sendto(v6, b"six", 0, Some(&addr(&format!("[::ffff:127.0.0.1]:{v4_port}")))));
        log.note("recv", c.recv(v4, 10, MSG_DONTWAIT));
        log.note("v4 address", c.sendto(v6, b"six", 0, Some(&addr(&format!("127.0.0.1:{v4_port}")))));
        log.note("recv", c.recv(v4, 10, MSG_DONTWAIT));
        let other = dgram(c, "[::1]:0");
        log.note("v6", c.sendto(other, b"one", 0, Some(&addr(&format!("[::1]:{port}")))));
        log.note("recv", c.recv(v6, 10, MSG_DONTWAIT));
        log.note("connect mapped", c.connect(v6, &addr(&format!("[::ffff:127.0.0.1]:{v4_port}"))));
        log.note("peer", c.name(v6, true).map(|p| p.ip()));
        log.note("name", c.name(v6, false).map(|p| p.ip()));
        let only = c.socket(AF_INET6, SOCK_DGRAM, 0).expect("socket");
        log.note("v6only", c.set(only, IPPROTO_IPV6, IPV6_V6ONLY, 1));
        log.note("mapped", c.connect(only, &addr("[::ffff:127.0.0.1]:9")));
        log.note("plain", c.connect(only, &addr("127.0.0.1:9")));
        log.note("send", c.sendto(only, b"x", 0, Some(&addr("[::ffff:127.0.0.1]:9"))));
        log.note("send", c.sendto(only, b"x", 0, Some(&addr("127.0.0.1:9"))));
        log.note("any", c.connect(only, &addr("[::]:9")));
        log.note("peer", c.name(only, true));
        log.note("link-local", c.connect(only, &addr("[fe80::1]:9")));
        log.note("too long", c.sendto(other, &[0; 65528], 0, Some(&addr("[::1]:9"))));
    });
}

#[test]
fn options_are_as_on_linux() {
    same(|c, log| {
        let fd = c.socket(AF_INET, SOCK_DGRAM, 0).expect("socket");
        for name in [SO_TYPE, SO_PROTOCOL, SO_DOMAIN, SO_ACCEPTCONN, SO_ERROR] {
            log.note("get", (name, c.getsockopt(fd, SOL_SOCKET, name, 4)));
            log.note("set", (name, c.set(fd, SOL_SOCKET, name, 1)));
        }
        for name in [SO_REUSEADDR, SO_REUSEPORT, SO_BROADCAST, SO_KEEPALIVE, SO_OOBINLINE, SO_NO_CHECK, SO_RXQ_OVFL] {
            for v in [1, 0, 7] {
                log.note("set", (name, c.set(fd, SOL_SOCKET, name, v)));
                log.note("get", (name, c.getsockopt(fd, SOL_SOCKET, name, 4)));
            }
            log.note("short", c.setsockopt(fd, SOL_SOCKET, name, &[1, 0, 0]));
            log.note("cut", c.getsockopt(fd, SOL_SOCKET, name, 2));
            log.note("long", c.getsockopt(fd, SOL_SOCKET, name, 12));
        }
        for name in [SO_RCVBUF, SO_SNDBUF] {
            for v in [0, 1, 5000, 100_000, -1] {
                log.note("set", (name, v, c.set(fd, SOL_SOCKET, name, v)));
                if v != -1 {
                    log.note("get", (name, v, c.getsockopt(fd, SOL_SOCKET, name, 4)));
                }
            }
        }
        for name in [SO_RCVTIMEO, SO_SNDTIMEO] {
            log.note("get", c.getsockopt(fd, SOL_SOCKET, name, 16));
            for (s, us) in [(1i64, 500_000i64), (0, 0), (0, 1_000_000), (-1, 0), (5, -1)] {
                let val = [s.to_ne_bytes(), us.to_ne_bytes()].concat();
                log.note("set", c.setsockopt(fd, SOL_SOCKET, name, &val));
            }
            log.note("short", c.setsockopt(fd, SOL_SOCKET, name, &[0; 8]));
        }
        for val in [&[1, 0, 0, 0, 7, 0, 0, 0][..], &[0; 8], &[1, 0, 0, 0]] {
            log.note("linger", c.setsockopt(fd, SOL_SOCKET, SO_LINGER, val));
            log.note("linger", c.getsockopt(fd, SOL_SOCKET, SO_LINGER, 8));
        }
        log.note("lowat", c.set(fd, SOL_SOCKET, SO_RCVLOWAT, 0));
        log.note("lowat", c.getsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, 4));
        log.note("device", c.setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, b"nonesuch0"));
        log.note("device", c.getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, 16));
        log.note("unknown", c.set(fd, SOL_SOCKET, 9999, 1));
        log.note("unknown", c.getsockopt(fd, SOL_SOCKET, 9999, 4));
        log.note("level", c.set(fd, 77, 1, 1));
        log.note("level", c.getsockopt(fd, 77, 1, 4));
        log.note("tcp level", c.set(fd, IPPROTO_TCP, 1, 1));
        log.note("peername", c.getsockopt(fd, SOL_SOCKET, 28, 16));
    });
}

#[test]
fn ip_options_are_as_on_linux() {
    same(|c, log| {
        let fd = c.socket(AF_INET, SOCK_DGRAM, 0).expect("socket");
        for (name, values) in [
            (IP_TTL, &[1, 255, 64, 0, 256, -1][..]),
            (IP_TOS, &[0x10, 0x0b, 255, 0]),
            (IP_MTU_DISCOVER, &[0, 1, 2, 3, 6, -1]),
            (IP_RECVTTL, &[1, 0]),
            (IP_RECVTOS, &[1, 0]),
            (IP_PKTINFO, &[1, 0]),
            (IP_RECVERR, &[1, 0]),
            (IP_FREEBIND, &[1, 0]),
            (24, &[1, 0]),
            (33, &[5, -1, 256, 0]),
            (49, &[1, 0, 2]),
            (IP_MTU, &[1500]),
            (IP_HDRINCL, &[1]),
            (9999, &[1]),
        ] {
            for &v in values {
                log.note("set", (name, v, c.set(fd, IPPROTO_IP, name, v)));
                log.note("get", (name, v, c.getsockopt(fd, IPPROTO_IP, name, 4)));
            }
            log.note("byte", (name, c.setsockopt(fd, IPPROTO_IP, name, &[1])));
            log.note("byte", (name, c.getsockopt(fd, IPPROTO_IP, name, 1)));
            log.note("none", (name, c.setsockopt(fd, IPPROTO_IP, name, &[])));
        }
        log.note("not IPv6", c.set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1));
        let v6 = c.socket(AF_INET6, SOCK_DGRAM, 0).expect("socket");
        for (name, values) in [
            (IPV6_V6ONLY, &[1, 0][..]),
            (IPV6_UNICAST_HOPS, &[1, 255, 0, 256, -1]),
            (18, &[5, -1, 256]),
            (IPV6_TCLASS, &[7, -1, 256]),
            (IPV6_RECVPKTINFO, &[1, 0]),
            (IPV6_RECVERR, &[1, 0]),
            (IPV6_MTU_DISCOVER, &[0, 1, 2, 3, 6]),
            (51, &[1, 0]),
            (66, &[1, 0]),
            (74, &[1, 0]),
            (78, &[1, 0]),
            (9999, &[1]),
        ] {
            for &v in values {
                log.note("set6", (name, v, c.set(v6, IPPROTO_IPV6, name, v)));
                log.note("get6", (name, v, c.getsockopt(v6, IPPROTO_IPV6, name, 4)));
            }
            log.note("short6", (name, c.setsockopt(v6, IPPROTO_IPV6, name, &[1])));
        }
        log.note("ip on v6", c.set(v6, IPPROTO_IP, IP_TTL, 7));
        log.note("ip on v6", c.getsockopt(v6, IPPROTO_IP, IP_TTL, 4));
    });
}
