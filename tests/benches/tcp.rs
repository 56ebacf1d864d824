//! What TCP costs: connections a second, acknowledgements and look-ups at any size, memory of an idle connection.
//!
//! Interface: `cargo xtask bench tcp [connections] [acks] [lookups] [memory]`.
//! Linux counterpart: itself, over loopback; `netperf -t TCP_CRR`.
//! Locks and context: a program of one thread beside the stack's worker. Bulk transfers are in `net.rs`.

use host::Host;
use kernel::{Task, Wait};
use net::core::dev::{dev_get_by_name, dev_open};
use net::core::iov_iter::{IovIter, MsgHdr};
use net::core::net_namespace::Net;
use net::init::net_init;
use net::syscall::{FdTable, O_NONBLOCK};
use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::task::Poll;
use std::time::Instant;
use uapi::SockAddr;
use uapi::socket::{AF_INET, SO_RCVBUF, SO_SNDBUF, SOCK_STREAM, SOL_SOCKET};

/// Counts what is allocated, for [`memory`].
struct Counting;

static LIVE: AtomicI64 = AtomicI64::new(0);
/// Live allocations by size, while [`COUNT`] is set.
static BY_SIZE: [AtomicI64; 4097] = [const { AtomicI64::new(0) }; 4097];
static COUNT: AtomicBool = AtomicBool::new(false);

fn note(size: usize, by: i64) {
    if COUNT.load(Relaxed) {
        LIVE.fetch_add(by * size as i64, Relaxed);
        BY_SIZE[size.min(4096)].fetch_add(by, Relaxed);
    }
}

// SAFETY: every call is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: the caller keeps to the contract of `System.alloc`.
    unsafe fn alloc(&self, l: Layout) -> *mut u8 {
        note(l.size(), 1);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(l) }
    }
    // SAFETY: likewise.
    unsafe fn dealloc(&self, p: *mut u8, l: Layout) {
        note(l.size(), -1);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(p, l) }
    }
    // SAFETY: likewise.
    unsafe fn realloc(&self, p: *mut u8, l: Layout, new: usize) -> *mut u8 {
        note(l.size(), -1);
        note(new, 1);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(p, l, new) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A stack with a loopback device.
fn stack() -> (Arc<Host>, Arc<Net>) {
    let host = Host::start(0).expect("host");
    let reg = net_init(host.kernel());
    let _inside = host.kernel().enter();
    let net = Net::new(&reg);
    dev_open(&dev_get_by_name(&net, "lo").expect("lo")).ok();
    drop(_inside);
    (host, net)
}

fn wait() -> Wait {
    Wait::new(Task::from_fn(|| {}))
}

fn at(ip: [u8; 4], port: u16) -> SockAddr {
    SockAddr::from(SocketAddr::from((Ipv4Addr::from(ip), port)))
}

fn listener(t: &FdTable, port: u16) -> i32 {
    let l = t.socket(AF_INET, SOCK_STREAM | O_NONBLOCK, 0).expect("socket");
    t.bind(l, &at([0, 0, 0, 0], port)).expect("bind");
    t.listen(l, 4096).expect("listen");
    l
}

/// The address of the `i`th connection: each port of a server address is used once.
fn server(i: usize, port: u16) -> SockAddr {
    let n = i / 10_000;
    at([127, 1 + (n >> 16) as u8, (n >> 8) as u8, n as u8], port)
}

fn kernels_connections(rounds: usize) -> f64 {
    use rustix::net::*;
    let l = socket(AddressFamily::INET, SocketType::STREAM, None).expect("socket");
    sockopt::set_socket_reuseaddr(&l, true).expect("reuse");
    bind(&l, &SocketAddr::from((Ipv4Addr::UNSPECIFIED, 5301))).expect("bind");
    listen(&l, 4096).expect("listen");
    let start = Instant::now();
    let mut b = [1];
    for i in 0..rounds {
        let c = socket(AddressFamily::INET, SocketType::STREAM, None).expect("socket");
        let n = i / 10_000;
        let to = Ipv4Addr::new(127, 1 + (n >> 16) as u8, (n >> 8) as u8, n as u8);
        connect(&c, &SocketAddr::from((to, 5301))).expect("connect");
        let s = accept(&l).expect("accept");
        send(&c, &b, SendFlags::empty()).expect("send");
        recv(&s, &mut b[..], RecvFlags::empty()).expect("recv");
        send(&s, &b, SendFlags::empty()).expect("send");
        recv(&c, &mut b[..], RecvFlags::empty()).expect("recv");
    }
    rounds as f64 / start.elapsed().as_secs_f64()
}

/// Connect, one byte there and back, close, all in one thread.
fn connections() {
    let (host, net) = stack();
    let t = FdTable::new(&net, 65536);
    let l = listener(&t, 5301);
    let run = |from: usize, rounds: usize| {
        let start = Instant::now();
        let mut b = [1];
        for i in from..from + rounds {
            let c = t.socket(AF_INET, SOCK_STREAM, 0).expect("socket");
            t.connect(c, &server(i, 5301)).expect("connect");
            let (s, _) = t.accept(l).expect("accept");
            t.send(c, &b, 0).expect("send");
            assert_eq!(t.recv(s, &mut b, 0), Ok(1));
            t.send(s, &b, 0).expect("send");
            assert_eq!(t.recv(c, &mut b, 0), Ok(1));
            t.close(c).expect("close");
            t.close(s).expect("close");
        }
        rounds as f64 / start.elapsed().as_secs_f64()
    };
    let rounds = std::env::var("ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(200_000);
    run(0, if rounds < 20_000 { 1000 } else { 20_000 });
    let ours = run(20_000, rounds);
    if std::env::var("OURS").is_ok() {
        return println!("{ours}");
    }
    let theirs = kernels_connections(rounds / 4);
    println!(
        "| connect-echo-close, one thread, loopback | {:.1} | {:.1} | k/s | {:.2} |",
        ours / 1e3,
        theirs / 1e3,
        ours / theirs
    );
    host.stop();
}

/// Live heap bytes of an idle established connection, one end; what it consists of with `SIZES=1`.
fn memory() {
    const N: usize = 20_000;
    let (host, net) = stack();
    let t = FdTable::new(&net, 200_000);
    let l = listener(&t, 5301);
    let mut b = [1];
    let mut open = |from: usize, n: usize| {
        for i in from..from + n {
            let c = t.socket(AF_INET, SOCK_STREAM, 0).expect("socket");
            t.connect(c, &server(i, 5301)).expect("connect");
            let (s, _) = t.accept(l).expect("accept");
            t.send(c, &b, 0).expect("send");
            t.recv(s, &mut b, 0).expect("recv");
        }
    };
    open(0, 500);
    COUNT.store(true, Relaxed);
    open(500, N);
    std::thread::sleep(std::time::Duration::from_secs(3));
    COUNT.store(false, Relaxed);
    let each = LIVE.load(Relaxed) as f64 / (2 * N) as f64;
    println!("| heap of an idle established connection, one end | {each:.0} | | bytes | |");
    if std::env::var("SIZES").is_ok() {
        for (size, n) in
            BY_SIZE.iter().enumerate().map(|(s, n)| (s, n.load(Relaxed))).filter(|(_, n)| *n > N as i64 / 20)
        {
            println!("  {size:5} bytes x {:.2}", n as f64 / (2 * N) as f64);
        }
    }
    host.stop();
}

const PLACES: [(&str, fn()); 2] = [("connections", connections), ("memory", memory)];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    println!("| workload (ours / theirs) | sockeye | kernel | | ratio |\n|---|---:|---:|---|---:|");
    for (name, run) in PLACES {
        if words.is_empty() || words.iter().any(|w| w == name) {
            run();
        }
    }
    let _ = (SO_RCVBUF, SO_SNDBUF, SOL_SOCKET, IovIter::source(&[]), Poll::<()>::Pending, wait, MsgHdr::new);
}
