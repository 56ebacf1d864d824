//! TCP's rarer options against this machine's kernel: MD5 signatures (RFC 2385), Accurate ECN (RFC 9768).

#[allow(dead_code)] // It uses only some.
mod common;

use common::{Calls, Linux, Sockeye, addr, bytes};
use net::core::netfilter::{HookPoint, Verdict};
use net::core::skbuff::Skb;
use sockeye::Stack;
use sockeye::bsd::FdTable;
use sockeye_tests::{TapSide, netns_test, run};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;
use uapi::Errno;
use uapi::socket::*;
use uapi::tcp::*;
use uapi::tcp_auth::*;

const PAYLOAD: usize = 300_000;
const ENDS: [(&str, &str); 2] = [(TapSide::HOST4, TapSide::STACK4), (TapSide::HOST6, TapSide::STACK6)];

fn family(ip: &str) -> i32 {
    if ip.contains(':') { AF_INET6 } else { AF_INET }
}

fn at(ip: &str, port: u16) -> Vec<u8> {
    addr(&if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") })
}

fn pattern(salt: usize) -> Vec<u8> {
    (0..PAYLOAD).map(|i| (i * 7 + i / 251 + salt) as u8).collect()
}

/// Sends `data` and ends the stream.
fn send_all(c: &dyn Calls, fd: i32, data: &[u8]) {
    let mut sent = 0;
    while sent < data.len() {
        sent += c.sendto(fd, &data[sent..], 0, None).expect("send");
    }
    c.shutdown(fd, SHUT_WR).expect("shutdown");
}

fn receive_all(c: &dyn Calls, fd: i32) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let b = c.recv(fd, 100_000, 0).expect("receive");
        if b.is_empty() {
            return all;
        }
        all.extend(b);
    }
}

/// A connection from `client` at any address to `server` at `ip`, with both sockets prepared: streams both ways, one after the
/// other, then what `look` sees in both ends.
fn conversation<T: Send>(
    client: &(dyn Calls + Sync),
    server: &(dyn Calls + Sync),
    ip: &str,
    prepare: impl Fn(&dyn Calls, i32, bool),
    look: impl Fn(&dyn Calls, i32) -> T + Sync,
) -> (T, T) {
    let l = server.socket(family(ip), SOCK_STREAM, 0).expect("socket");
    prepare(server, l, true);
    server.bind(l, &at(ip, 0)).expect("bind");
    server.listen(l, 5).expect("listen");
    let to = bytes(server.name(l, false).expect("name"));
    thread::scope(|s| {
        let there = s.spawn(|| {
            let fd = server.accept4(l, 0).expect("accept");
            assert!(receive_all(server, fd) == pattern(1), "the client's data");
            send_all(server, fd, &pattern(2));
            let seen = look(server, fd);
            assert_eq!(server.recv(fd, 1, 0).as_deref(), Ok(&b""[..]));
            server.close(fd).expect("close");
            seen
        });
        let fd = client.socket(family(ip), SOCK_STREAM, 0).expect("socket");
        prepare(client, fd, false);
        client.connect(fd, &to).expect("connect");
        send_all(client, fd, &pattern(1));
        assert!(receive_all(client, fd) == pattern(2), "the server's data");
        let here = look(client, fd);
        client.close(fd).expect("close");
        let there = there.join().expect("the server");
        server.close(l).expect("close");
        (here, there)
    })
}

fn ours(stack: &Stack) -> Sockeye {
    Sockeye(FdTable::new(stack.net(), 256))
}

// --- MD5 ---

fn md5(peer: &str, secret: &[u8]) -> Vec<u8> {
    let mut storage = [0; 128];
    let a = at(peer, 0);
    storage[..a.len()].copy_from_slice(&a);
    let mut key = [0; 80];
    key[..secret.len()].copy_from_slice(secret);
    TcpMd5sig { addr: storage, flags: 0, prefixlen: 0, keylen: secret.len() as u16, ifindex: 0, key }.to_bytes()
}

/// A counter of this namespace's kernel.
fn kernel_counter(name: &str) -> u64 {
    let all = std::fs::read_to_string("/proc/net/netstat").expect("the kernel's counters");
    let mut lines = all.lines().filter(|l| l.starts_with("TcpExt:")).map(|l| l.split_whitespace());
    let (names, mut values) = (lines.next().expect("names"), lines.next().expect("values"));
    let at = names.clone().position(|n| n == name).unwrap_or_else(|| panic!("no counter {name}"));
    values.nth(at).expect("a value").parse().expect("a number")
}

const MD5_COUNTERS: [&str; 3] = ["TCPMD5NotFound", "TCPMD5Unexpected", "TCPMD5Failure"];

netns_test! {
    fn md5_signatures_both_ways() {
        let t = TapSide::new();
        let mine = ours(&t.stack);
        for (host, stack) in ENDS {
            let key = |c: &dyn Calls, fd: i32, peer: &str| {
                c.setsockopt(fd, IPPROTO_TCP, TCP_MD5SIG, &md5(peer, b"between friends")).expect("TCP_MD5SIG");
            };
            conversation(&mine, &Linux, host, |c, fd, server| key(c, fd, if server { stack } else { host }), |_, _| ());
            conversation(&Linux, &mine, stack, |c, fd, server| key(c, fd, if server { host } else { stack }), |_, _| ());
        }
        for name in MD5_COUNTERS {
            assert_eq!(kernel_counter(name), 0, "{name}");
            assert_eq!(t.stack.counter(&format!("TcpExt{name}")), Some(0), "{name}");
        }
    }
}

netns_test! {
    fn md5_signatures_that_do_not_match() {
        let t = TapSide::new();
        let mine = ours(&t.stack);
        let (host, stack) = ENDS[0];
        for (server_key, client_key, counter) in [
            (Some(&b"one"[..]), Some(&b"two"[..]), "TCPMD5Failure"),
            (Some(&b"one"[..]), None, "TCPMD5NotFound"),
            (None, Some(&b"two"[..]), "TCPMD5Unexpected"),
        ] {
            let attempt = |client: &dyn Calls, server: &dyn Calls, client_ip: &str, server_ip: &str| {
                let set = |c: &dyn Calls, fd, peer: &str, key: Option<&[u8]>| {
                    if let Some(k) = key {
                        c.setsockopt(fd, IPPROTO_TCP, TCP_MD5SIG, &md5(peer, k)).expect("TCP_MD5SIG");
                    }
                };
                let l = server.socket(AF_INET, SOCK_STREAM, 0).expect("socket");
                set(server, l, client_ip, server_key);
                server.bind(l, &at(server_ip, 0)).expect("bind");
                server.listen(l, 5).expect("listen");
                let fd = client.socket(AF_INET, SOCK_STREAM, 0).expect("socket");
                set(client, fd, server_ip, client_key);
                client.set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 500).expect("TCP_USER_TIMEOUT");
                let to = bytes(server.name(l, false).expect("name"));
                assert_eq!(client.connect(fd, &to), Err(Errno::ETIMEDOUT), "{counter}");
            };
            attempt(&mine, &Linux, stack, host);
            attempt(&Linux, &mine, host, stack);
            assert!(kernel_counter(counter) > 0, "the kernel's {counter}");
            assert!(t.stack.counter(&format!("TcpExt{counter}")) > Some(0), "the stack's {counter}");
        }
    }
}

// --- ECN ---

/// What `TCP_INFO` says of ECN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct EcnInfo {
    options: u8,
    delivered_ce: u32,
    received_ce: u32,
    /// ECT(1), ECT(0), CE: of ours as the peer says, of its as they came.
    delivered: [u32; 3],
    received: [u32; 3],
    fail_mode: u16,
    opt_seen: u16,
}

fn ecn_info(c: &dyn Calls, fd: i32) -> EcnInfo {
    let b = c.getsockopt(fd, IPPROTO_TCP, TCP_INFO, 280).expect("TCP_INFO");
    let word = |at: usize| u32::from_ne_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    let half = |at: usize| u16::from_ne_bytes([b[at], b[at + 1]]);
    EcnInfo {
        options: b[5],
        delivered_ce: word(196),
        received_ce: word(248),
        delivered: [word(252), word(256), word(260)],
        received: [word(264), word(268), word(272)],
        fail_mode: half(276),
        opt_seen: half(278),
    }
}

/// Marks each seventh packet with ECT(0) that carries data, as a router would, on its way into or out of the stack. IPv6, which
/// has no checksum. The number of segments marked.
fn mark(stack: &Stack, place: HookPoint) -> Arc<AtomicU32> {
    let (marked, mut_n) = (Arc::new(AtomicU32::new(0)), AtomicU32::new(0));
    let out = marked.clone();
    stack.net().nf.set(
        place,
        Some(Box::new(move |_, mut skb: Box<Skb>| {
            let (large, b) = (skb.len() > 200, skb.data_mut());
            if large && b[0] >> 4 == 6 && b[1] & 0x30 == 0x20 && mut_n.fetch_add(1, Relaxed) % 7 == 3 {
                b[1] |= 0x30;
                out.fetch_add((skb.gso_segs as u32).max(1), Relaxed);
            }
            Verdict::Accept(skb)
        })),
    );
    marked
}

/// Sets what both ask for and grant. `false`: this kernel does not know that value.
fn both_ecn(stack: &Stack, kernel: i64, ours: i64) -> bool {
    run("sysctl", &["-q", "-w", "net.ipv4.tcp_congestion_control=cubic"]);
    stack.set_sysctl("net.ipv4.tcp_ecn", ours).expect("tcp_ecn");
    std::fs::write("/proc/sys/net/ipv4/tcp_ecn", kernel.to_string()).is_ok()
}

netns_test! {
    fn ecn_is_agreed_on_as_between_kernels() {
        let t = TapSide::new();
        let mine = ours(&t.stack);
        let agreed = |i: &EcnInfo| (i.options & TCPI_OPT_ECN != 0, i.opt_seen != 0);
        for kernel in 0..=5 {
            for stack in 0..=5 {
                // Linux 6.18 has Accurate ECN, but does not let it be switched on yet.
                if !both_ecn(&t.stack, kernel, stack) {
                    continue;
                }
                // ECN at all, and AccECN, by who asks for what of whom.
                let want = |client: i64, server: i64| {
                    let accecn = client == 3 && server >= 3;
                    (accecn || (matches!(client, 1 | 3 | 4) && server != 0), accecn)
                };
                let (c, s) = conversation(&mine, &Linux, TapSide::HOST4, |_, _, _| (), ecn_info);
                assert_eq!((agreed(&c), agreed(&s)), (want(stack, kernel), want(stack, kernel)), "{stack} to {kernel}");
                let (c, s) = conversation(&Linux, &mine, TapSide::STACK4, |_, _, _| (), ecn_info);
                assert_eq!((agreed(&c), agreed(&s)), (want(kernel, stack), want(kernel, stack)), "{kernel} to {stack}");
            }
        }
    }
}

netns_test! {
    fn accecn_counts_the_same_on_both_sides() {
        let t = TapSide::new();
        let mine = ours(&t.stack);
        if !both_ecn(&t.stack, 3, 3) {
            eprintln!("this kernel does not speak AccECN: nothing to compare with");
            return;
        }
        let (sent, came) = (mark(&t.stack, HookPoint::PostRouting), mark(&t.stack, HookPoint::PreRouting));
        for kernel_listens in [true, false] {
            sent.store(0, Relaxed);
            came.store(0, Relaxed);
            let (us, kernel) = if kernel_listens {
                conversation(&mine, &Linux, TapSide::HOST6, |_, _, _| (), ecn_info)
            } else {
                let (k, u) = conversation(&Linux, &mine, TapSide::STACK6, |_, _, _| (), ecn_info);
                (u, k)
            };
            let (sent, came) = (sent.load(Relaxed), came.load(Relaxed));
            assert!(sent > 0 && came > 0, "nothing was marked");
            assert_eq!((us.fail_mode, kernel.fail_mode), (0, 0), "{us:?} {kernel:?}");
            // Each end knows what came to it.
            assert_eq!((kernel.received_ce, us.received_ce), (sent, came), "{us:?} {kernel:?}");
            assert_eq!(kernel.received[1] + kernel.received[2], PAYLOAD as u32);
            assert_eq!(us.received[1] + us.received[2], PAYLOAD as u32);
            // The client has been told all; the server has when the client has closed, and looks before.
            let (told, counted) = if kernel_listens { (us, kernel) } else { (kernel, us) };
            assert_eq!(told.delivered_ce, counted.received_ce, "{us:?} {kernel:?}");
            assert_eq!(told.delivered, counted.received, "{us:?} {kernel:?}");
        }
    }
}
