//! Benchmarks beside the kernel: the same workload on both, in turn, in one run; medians and ratios.
//!
//! Interface: `cargo xtask bench net [in-process] [tap] [memory] [WORD...]`: only those places, and only workloads whose name has a word.
//! Linux counterpart: itself, over loopback and veth.
//! Locks and context: a program; needs root for namespaces and TAP devices.

use host::{Host, tap};
use net::core::dev::dev_open;
use net::core::net_namespace::Net;
use net::drivers::veth::veth_pair;
use net::init::net_init;
use net::ipv4::devinet::inet_addr_add;
use net::syscall::FdTable;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::{Arc, Barrier};
use std::time::Instant;
use uapi::SockAddr;
use uapi::socket::{AF_INET, SO_RCVTIMEO, SOCK_DGRAM, SOCK_STREAM, SOL_SOCKET};
use uapi::tcp::{TCP_CONGESTION, TCP_NODELAY};

/// As in the `sockeye` command.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RUNS: usize = 5;
const PORT: u16 = 5201;

/// The calls a workload makes, on one stack or the other.
trait Calls: Send + Sync {
    /// Called first by each thread that makes calls.
    fn enter(&self);
    fn socket(&self, kind: i32) -> i32;
    fn bind(&self, fd: i32, at: SocketAddr);
    fn listen(&self, fd: i32);
    fn accept(&self, fd: i32) -> i32;
    fn connect(&self, fd: i32, to: SocketAddr);
    fn send(&self, fd: i32, b: &[u8]) -> usize;
    /// 0 at the end, and for a time-out.
    fn recv(&self, fd: i32, b: &mut [u8]) -> usize;
    fn setsockopt(&self, fd: i32, level: i32, name: i32, v: &[u8]);
    fn close(&self, fd: i32);
}

struct Ours(FdTable);

impl Calls for Ours {
    fn enter(&self) {}
    fn socket(&self, kind: i32) -> i32 {
        self.0.socket(AF_INET, kind, 0).expect("socket")
    }
    fn bind(&self, fd: i32, at: SocketAddr) {
        self.setsockopt(fd, SOL_SOCKET, libc::SO_REUSEADDR, &1i32.to_ne_bytes());
        self.0.bind(fd, &SockAddr::from(at)).expect("bind")
    }
    fn listen(&self, fd: i32) {
        self.0.listen(fd, 1024).expect("listen")
    }
    fn accept(&self, fd: i32) -> i32 {
        self.0.accept(fd).expect("accept").0
    }
    fn connect(&self, fd: i32, to: SocketAddr) {
        self.0.connect(fd, &SockAddr::from(to)).expect("connect")
    }
    fn send(&self, fd: i32, b: &[u8]) -> usize {
        self.0.send(fd, b, 0).expect("send")
    }
    fn recv(&self, fd: i32, b: &mut [u8]) -> usize {
        self.0.recv(fd, b, 0).unwrap_or(0)
    }
    fn setsockopt(&self, fd: i32, level: i32, name: i32, v: &[u8]) {
        self.0.setsockopt(fd, level, name, v).expect("setsockopt")
    }
    fn close(&self, fd: i32) {
        self.0.close(fd).expect("close")
    }
}

/// The kernel, in a named network namespace.
struct Kernels(Option<&'static str>);

fn check(r: i64, what: &str) -> i64 {
    assert!(r >= 0, "{what}: {}", std::io::Error::last_os_error());
    r
}

fn sockaddr(a: SocketAddr) -> ([u8; 28], u32) {
    let (b, n) = SockAddr::from(a).to_bytes();
    (b, n as u32)
}

impl Calls for Kernels {
    fn enter(&self) {
        let Some(ns) = self.0 else { return };
        let f = std::fs::File::open(format!("/run/netns/{ns}")).expect("namespace");
        rustix::thread::move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&f),
            Some(rustix::thread::LinkNameSpaceType::Network),
        )
        .expect("setns");
    }
    fn socket(&self, kind: i32) -> i32 {
        // SAFETY: plain system call.
        let fd = check(unsafe { libc::socket(AF_INET, kind, 0) } as i64, "socket") as i32;
        if kind == SOCK_STREAM {
            self.setsockopt(fd, libc::IPPROTO_TCP, TCP_CONGESTION, b"cubic");
        }
        fd
    }
    fn bind(&self, fd: i32, at: SocketAddr) {
        self.setsockopt(fd, SOL_SOCKET, libc::SO_REUSEADDR, &1i32.to_ne_bytes());
        let (b, n) = sockaddr(at);
        // SAFETY: the address is valid for `n` bytes.
        check(unsafe { libc::bind(fd, b.as_ptr().cast(), n) } as i64, "bind");
    }
    fn listen(&self, fd: i32) {
        // SAFETY: plain system call.
        check(unsafe { libc::listen(fd, 1024) } as i64, "listen");
    }
    fn accept(&self, fd: i32) -> i32 {
        // SAFETY: no address is asked for.
        check(unsafe { libc::accept(fd, std::ptr::null_mut(), std::ptr::null_mut()) } as i64, "accept") as i32
    }
    fn connect(&self, fd: i32, to: SocketAddr) {
        let (b, n) = sockaddr(to);
        // SAFETY: the address is valid for `n` bytes.
        check(unsafe { libc::connect(fd, b.as_ptr().cast(), n) } as i64, "connect");
    }
    fn send(&self, fd: i32, b: &[u8]) -> usize {
        // SAFETY: the buffer is valid for its length.
        check(unsafe { libc::send(fd, b.as_ptr().cast(), b.len(), libc::MSG_NOSIGNAL) } as i64, "send") as usize
    }
    fn recv(&self, fd: i32, b: &mut [u8]) -> usize {
        // SAFETY: the buffer is valid for its length.
        unsafe { libc::recv(fd, b.as_mut_ptr().cast(), b.len(), 0) }.max(0) as usize
    }
    fn setsockopt(&self, fd: i32, level: i32, name: i32, v: &[u8]) {
        // SAFETY: the value is valid for its length.
        check(unsafe { libc::setsockopt(fd, level, name, v.as_ptr().cast(), v.len() as u32) } as i64, "setsockopt");
    }
    fn close(&self, fd: i32) {
        // SAFETY: the caller owns the descriptor.
        unsafe { libc::close(fd) };
    }
}

/// A client's stack, a server's stack, and where the server is.
#[derive(Clone)]
struct Pair {
    client: Arc<dyn Calls>,
    server: Arc<dyn Calls>,
    at: SocketAddr,
}

impl Pair {
    /// Runs `serve` on a listening socket in a thread of its own and `act` here, both ready before the clock starts; what
    /// `serve` did, a second.
    fn run(
        &self,
        kind: i32,
        serve: impl FnOnce(&dyn Calls, i32) -> u64 + Send + 'static,
        act: impl FnOnce(&dyn Calls, SocketAddr) + Send + 'static,
    ) -> f64 {
        let ready = Arc::new(Barrier::new(2));
        let (p, r) = (self.clone(), ready.clone());
        let server = std::thread::spawn(move || {
            p.server.enter();
            let fd = p.server.socket(kind);
            p.server.bind(fd, SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)));
            if kind == SOCK_STREAM {
                p.server.listen(fd);
            } else {
                let quiet = [0i64.to_ne_bytes(), 200_000i64.to_ne_bytes()];
                p.server.setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, quiet.as_flattened());
            }
            r.wait();
            let start = Instant::now();
            let n = serve(&*p.server, fd);
            let t = start.elapsed().as_secs_f64();
            p.server.close(fd);
            n as f64 / t
        });
        let p = self.clone();
        let client = std::thread::spawn(move || {
            p.client.enter();
            ready.wait();
            act(&*p.client, p.at);
        });
        client.join().expect("client");
        server.join().expect("server")
    }

    /// Client to server, bits a second.
    fn bulk(&self, bytes: u64) -> f64 {
        let serve = move |c: &dyn Calls, l: i32| {
            let fd = c.accept(l);
            let mut b = vec![0; 256 * 1024];
            let mut n = 0;
            while n < bytes {
                match c.recv(fd, &mut b) {
                    0 => break,
                    k => n += k as u64,
                }
            }
            c.close(fd);
            n * 8
        };
        self.run(SOCK_STREAM, serve, move |c, at| {
            let fd = c.socket(SOCK_STREAM);
            c.connect(fd, at);
            let b = vec![0x5a; 256 * 1024];
            let mut n = 0;
            while n < bytes {
                n += c.send(fd, &b[..b.len().min((bytes - n) as usize)]) as u64;
            }
            c.close(fd);
        })
    }

    /// One byte there and back, times a second.
    fn ping_pong(&self, rounds: u64) -> f64 {
        let serve = move |c: &dyn Calls, l: i32| {
            let fd = c.accept(l);
            c.setsockopt(fd, libc::IPPROTO_TCP, TCP_NODELAY, &1i32.to_ne_bytes());
            let mut b = [0];
            let mut n = 0;
            while c.recv(fd, &mut b) == 1 {
                c.send(fd, &b);
                n += 1;
            }
            c.close(fd);
            n
        };
        self.run(SOCK_STREAM, serve, move |c, at| {
            let fd = c.socket(SOCK_STREAM);
            c.connect(fd, at);
            c.setsockopt(fd, libc::IPPROTO_TCP, TCP_NODELAY, &1i32.to_ne_bytes());
            let mut b = [1];
            for _ in 0..rounds {
                c.send(fd, &b);
                assert_eq!(c.recv(fd, &mut b), 1);
            }
            c.close(fd);
        })
    }

    /// Connect, one byte there and back, close; connections a second.
    fn connections(&self, rounds: u64) -> f64 {
        let serve = move |c: &dyn Calls, l: i32| {
            for _ in 0..rounds {
                let fd = c.accept(l);
                let mut b = [0];
                if c.recv(fd, &mut b) == 1 {
                    c.send(fd, &b);
                }
                c.close(fd);
            }
            rounds
        };
        self.run(SOCK_STREAM, serve, move |c, at| {
            for _ in 0..rounds {
                let fd = c.socket(SOCK_STREAM);
                c.connect(fd, at);
                let mut b = [1];
                c.send(fd, &b);
                c.recv(fd, &mut b);
                c.close(fd);
            }
        })
    }

    /// 64-byte datagrams that arrive, a second.
    fn datagrams(&self, count: u64) -> f64 {
        let serve = move |c: &dyn Calls, fd: i32| {
            let mut b = [0; 128];
            let mut n = 0;
            while c.recv(fd, &mut b) == 64 {
                n += 1;
            }
            n
        };
        // The silence that ends the count is 200 ms of the time; the count is chosen to dwarf it.
        self.run(SOCK_DGRAM, serve, move |c, at| {
            let fd = c.socket(SOCK_DGRAM);
            c.connect(fd, at);
            let b = [7; 64];
            for _ in 0..count {
                c.send(fd, &b);
            }
            c.close(fd);
        })
    }
}

fn median(v: &mut [f64]) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}

/// Both pairs in turn, `RUNS` times after one to warm up.
fn compare(name: &str, unit: &str, scale: f64, ours: &Pair, theirs: &Pair, f: impl Fn(&Pair) -> f64) {
    let words: Vec<String> = chosen().into_iter().filter(|c| !PLACES.contains(&c.as_str())).collect();
    if !words.is_empty() && !words.iter().any(|w| name.contains(w.as_str())) {
        return;
    }
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for i in 0..=RUNS {
        let (x, y) = (f(ours), f(theirs));
        if i > 0 {
            a.push(x);
            b.push(y);
        }
    }
    let (a, b) = (median(&mut a), median(&mut b));
    println!("| {name} | {:.2} | {:.2} | {unit} | {:.2} |", a / scale, b / scale, a / b);
}

fn workloads(place: &str, to: (&Pair, &Pair), from: Option<(&Pair, &Pair)>) {
    const GB: u64 = 2 << 30;
    let (ours, theirs) = to;
    compare(&format!("{place}: bulk, to the server"), "Gbit/s", 1e9, ours, theirs, |p| p.bulk(GB));
    if let Some((ours, theirs)) = from {
        compare(&format!("{place}: bulk, from the kernel"), "Gbit/s", 1e9, ours, theirs, |p| p.bulk(GB));
    }
    compare(&format!("{place}: 1-byte ping-pong"), "k/s", 1e3, ours, theirs, |p| p.ping_pong(20_000));
    compare(&format!("{place}: connect-echo-close"), "k/s", 1e3, ours, theirs, |p| p.connections(3_000));
    compare(&format!("{place}: 64-byte datagrams"), "k/s", 1e3, ours, theirs, |p| p.datagrams(500_000));
}

fn table(net: &Arc<Net>) -> Arc<dyn Calls> {
    Arc::new(Ours(FdTable::new(net, 65536)))
}

fn v4(a: u8, b: u8, c: u8, d: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

/// Two namespaces joined by veth.
fn two_stacks() -> (Arc<Host>, Arc<Net>, Arc<Net>) {
    let host = Host::start(0).expect("host");
    let reg = net_init(host.kernel());
    let _inside = host.kernel().enter();
    let (a, b) = (Net::new(&reg), Net::new(&reg));
    let (da, db) = veth_pair(&a, "eth0", &b, "eth0").expect("veth");
    for (dev, ip) in [(&da, v4(192, 0, 2, 1)), (&db, v4(192, 0, 2, 2))] {
        inet_addr_add(dev, ip, 24).expect("address");
        dev_open(dev).expect("up");
    }
    drop(_inside);
    (host, a, b)
}

fn in_process() {
    let (host, a, b) = two_stacks();
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let kernel: Arc<dyn Calls> = Arc::new(Kernels(None));
    let theirs = Pair { client: kernel.clone(), server: kernel, at: loopback };
    let ours = Pair { client: table(&a), server: table(&b), at: SocketAddr::from((v4(192, 0, 2, 2), PORT)) };
    workloads("two stacks, veth / kernel loopback", (&ours, &theirs), None);
    let ours = Pair { client: table(&a), server: table(&a), at: loopback };
    workloads("one stack, loopback / kernel loopback", (&ours, &theirs), None);
    host.stop();
}

fn ip(args: &str) {
    let done = Command::new("ip").args(args.split(' ')).status().expect("ip (package iproute2)");
    assert!(done.success(), "ip {args}");
}

struct Namespaces;

impl Namespaces {
    /// `sk-k1` with a TAP device and one end of a veth pair, `sk-k2` with the other end.
    fn new() -> Namespaces {
        drop(Namespaces);
        for ns in ["sk-k1", "sk-k2"] {
            ip(&format!("netns add {ns}"));
        }
        ip("-n sk-k1 link add veth0 type veth peer name veth0 netns sk-k2");
        for (ns, n) in [("sk-k1", 1), ("sk-k2", 2)] {
            ip(&format!("-n {ns} addr add 198.51.100.{n}/24 dev veth0"));
            ip(&format!("-n {ns} link set veth0 up"));
        }
        Namespaces
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for ns in ["sk-k1", "sk-k2"] {
            let _ = Command::new("ip").args(["netns", "del", ns]).stderr(std::process::Stdio::null()).status();
        }
    }
}

fn over_tap() {
    let _ns = Namespaces::new();
    ip("-n sk-k1 tuntap add dev sktap0 mode tap vnet_hdr");
    // The device is opened inside the namespace, and stays there with its descriptor.
    let opened = std::thread::spawn(|| {
        Kernels(Some("sk-k1")).enter();
        let host = Host::start(0).expect("host");
        let reg = net_init(host.kernel());
        let net = {
            let _inside = host.kernel().enter();
            Net::new(&reg)
        };
        let dev = tap::open(&host, &net, "sktap0", None).expect("tap");
        let _inside = host.kernel().enter();
        inet_addr_add(&dev, v4(192, 0, 2, 2), 24).expect("address");
        dev_open(&dev).expect("up");
        drop(_inside);
        (host, net)
    });
    let (host, net) = opened.join().expect("tap");
    ip("-n sk-k1 addr add 192.0.2.1/24 dev sktap0");
    ip("-n sk-k1 link set sktap0 up");
    let (k1, k2): (Arc<dyn Calls>, Arc<dyn Calls>) =
        (Arc::new(Kernels(Some("sk-k1"))), Arc::new(Kernels(Some("sk-k2"))));
    let s = table(&net);
    let at = |ip| SocketAddr::from((ip, PORT));
    let theirs = Pair { client: k2, server: k1.clone(), at: at(v4(198, 51, 100, 1)) };
    let to_kernel = Pair { client: s.clone(), server: k1.clone(), at: at(v4(192, 0, 2, 1)) };
    let to_us = Pair { client: k1, server: s, at: at(v4(192, 0, 2, 2)) };
    workloads("TAP / kernel veth", (&to_kernel, &theirs), Some((&to_us, &theirs)));
    host.stop();
}

/// Resident memory of this process, bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let pages: u64 = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("statm");
    pages * 4096
}

/// What an idle established connection costs: both ends of many, in this process.
fn memory() {
    const CONNECTIONS: u64 = 20_000;
    let (host, a, b) = two_stacks();
    let (client, server) = (FdTable::new(&a, 65536), FdTable::new(&b, 65536));
    let at = SockAddr::from(SocketAddr::from((v4(192, 0, 2, 2), PORT)));
    let l = server.socket(AF_INET, SOCK_STREAM, 0).expect("socket");
    server.bind(l, &at).expect("bind");
    server.listen(l, 1024).expect("listen");
    let open = |n: u64| {
        for _ in 0..n {
            let fd = client.socket(AF_INET, SOCK_STREAM, 0).expect("socket");
            client.connect(fd, &at).expect("connect");
            let (conn, _) = server.accept(l).expect("accept");
            let mut byte = [1];
            client.send(fd, &byte, 0).expect("send");
            server.recv(conn, &mut byte, 0).expect("recv");
        }
    };
    open(500);
    let before = resident();
    open(CONNECTIONS);
    let each = (resident() - before) as f64 / (2 * CONNECTIONS) as f64;
    println!("| memory of an idle established connection, one end | {each:.0} | 4400 to 4900 | bytes | |");
    host.stop();
}

const PLACES: [&str; 3] = ["in-process", "tap", "memory"];

fn chosen() -> Vec<String> {
    std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect()
}

fn main() {
    // A workload that fails must not leave its other half waiting.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        hook(info);
        std::process::exit(1);
    }));
    let places: Vec<String> = chosen().into_iter().filter(|c| PLACES.contains(&c.as_str())).collect();
    let wants = |name: &str| places.is_empty() || places.iter().any(|c| c == name);
    println!("| workload (ours / theirs) | sockeye | kernel | | ratio |\n|---|---:|---:|---|---:|");
    if wants("in-process") {
        in_process();
    }
    if wants("tap") {
        over_tap();
    }
    if wants("memory") {
        memory();
    }
}
