//! What TCP costs: connections a second, acknowledgements and look-ups at any size, memory of an idle connection.
//!
//! Interface: `cargo xtask bench tcp [connections] [acks] [lookups] [memory]`.
//! Linux counterpart: itself, over loopback; `netperf -t TCP_CRR`.
//! Locks and context: a program of one thread beside the stack's worker. Bulk transfers are in `net.rs`.

use host::Host;
use kernel::SpinLock;
use mimalloc::MiMalloc;
use net::core::checksum::ip_fast_csum;
use net::core::dev::*;
use net::core::net_namespace::Net;
use net::core::skbuff::{IpSummed, MAX_HEADER, Skb};
use net::init::net_init;
use net::ipv4::devinet::inet_addr_add;
use net::ipv4::inet_hashtables::{__inet_lookup_established, EhashEntry, EhashSock, inet_ehashfn, tcp_hashinfo};
use net::ipv4::inet_sock::InetTuple;
use net::syscall::{FdTable, O_NONBLOCK};
use std::alloc::{GlobalAlloc, Layout};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::time::Instant;
use uapi::SockAddr;
use uapi::socket::{AF_INET, MSG_DONTWAIT, SOCK_STREAM, SOL_SOCKET};
use uapi::tcp::TCP_CONGESTION;

/// Counts what is allocated, for [`memory`].
struct Counting;

static LIVE: AtomicI64 = AtomicI64::new(0);
/// Live allocations by size, while [`COUNT`] is set.
static BY_SIZE: [AtomicI64; LARGE + 1] = [const { AtomicI64::new(0) }; LARGE + 1];
/// From here on they are not told apart.
const LARGE: usize = 4096;
static COUNT: AtomicBool = AtomicBool::new(false);

fn note(size: usize, by: i64) {
    if COUNT.load(Relaxed) {
        LIVE.fetch_add(by * size as i64, Relaxed);
        BY_SIZE[size.min(LARGE)].fetch_add(by, Relaxed);
    }
}

// SAFETY: every call is mimalloc's, which is what the `sockeye` command uses.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: the caller keeps to the contract of `alloc`.
    unsafe fn alloc(&self, l: Layout) -> *mut u8 {
        note(l.size(), 1);
        // SAFETY: as the caller promises.
        unsafe { MiMalloc.alloc(l) }
    }
    // SAFETY: likewise.
    unsafe fn dealloc(&self, p: *mut u8, l: Layout) {
        note(l.size(), -1);
        // SAFETY: as the caller promises.
        unsafe { MiMalloc.dealloc(p, l) }
    }
    // SAFETY: likewise.
    unsafe fn realloc(&self, p: *mut u8, l: Layout, new: usize) -> *mut u8 {
        note(l.size(), -1);
        note(new, 1);
        // SAFETY: as the caller promises.
        unsafe { MiMalloc.realloc(p, l, new) }
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

/// Live heap bytes of an idle established connection, one end, of a hundred thousand connections or `CONNECTIONS=n`; what it
/// consists of with `SIZES=1`.
fn memory() {
    let n = std::env::var("CONNECTIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000);
    let (host, net) = stack();
    let t = FdTable::new(&net, 2 * n + 2000);
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
    open(500, n);
    std::thread::sleep(std::time::Duration::from_secs(3));
    COUNT.store(false, Relaxed);
    let each = LIVE.load(Relaxed) as f64 / (2 * n) as f64;
    println!("| heap of an idle established connection, one end | {each:.0} | | bytes | |");
    if std::env::var("SIZES").is_ok() {
        let share = |bytes: i64| bytes as f64 / (2 * n) as f64;
        let sizes = BY_SIZE.iter().enumerate().map(|(size, n)| (size, n.load(Relaxed)));
        let mut large = LIVE.load(Relaxed);
        for (size, n) in sizes.take(LARGE) {
            large -= size as i64 * n;
            if share(size as i64 * n) >= 1.0 {
                println!("  {size:5} bytes x {:.2}", share(n));
            }
        }
        println!("  tables and other large pieces: {:.0} bytes", share(large));
    }
    host.stop();
}

/// A look-up among few and among very many connections, nanoseconds.
fn lookups() {
    let mut costs = Vec::new();
    for n in [100u32, 1_000_000] {
        let (host, net) = stack();
        let t = FdTable::new(&net, 64);
        let l = listener(&t, 5301);
        let sk = t.sockfd_lookup(l).expect("listener").sk.clone();
        let tuple = |i: u32| InetTuple {
            laddr: Ipv4Addr::LOCALHOST.into(),
            faddr: Ipv4Addr::from_bits(0x0a00_0000 | i >> 8).into(),
            lport: 80,
            fport: 1024 + (i & 255) as u16,
        };
        let inside = host.kernel().enter();
        for i in 0..n {
            let e = EhashEntry::new(&tuple(i), EhashSock::Sock(sk.clone()));
            tcp_hashinfo(&net).ehash.insert(inet_ehashfn(&net, &tuple(i)), e);
        }
        // All of them in turn, and then a hundred that are busy while the others rest.
        for busy in [n, 100] {
            const ROUNDS: u32 = 2_000_000;
            let start = Instant::now();
            let mut found = 0;
            for i in 0..ROUNDS {
                let t = tuple(i.wrapping_mul(2_654_435_761) % busy);
                found += __inet_lookup_established(&net, &t, 1).is_some() as u32;
            }
            assert_eq!(found, ROUNDS);
            costs.push(start.elapsed().as_nanos() as f64 / ROUNDS as f64);
        }
        drop(inside);
        host.stop();
    }
    for (what, many) in [("a hundred of which are busy", costs[3]), ("each in turn", costs[2])] {
        println!(
            "| look-up among 100 connections, and among 1,000,000, {what} | {:.0}, {many:.0} | | ns | {:.2} |",
            costs[0],
            many / costs[0]
        );
    }
}

/// A wire that keeps the last packet it was given, and counts.
#[derive(Default)]
struct Wire {
    last: SpinLock<Vec<u8>>,
    packets: AtomicI64,
}

struct WireOps(Arc<Wire>);

impl NetDeviceOps for WireOps {
    fn ndo_start_xmit(&self, _dev: &Arc<NetDevice>, mut skb: Box<Skb>) -> NetdevTx {
        self.0.packets.fetch_add(1, Relaxed);
        let n = skb.headlen().min(60);
        *self.0.last.lock_bh() = skb.data()[..n].to_vec();
        skb.orphan();
        NetdevTx::Ok
    }
    fn lltx(&self) -> bool {
        true
    }
}

/// What the acknowledgement of one segment costs, with few and with many segments in flight, nanoseconds.
fn acks() {
    const MSS: usize = 1000;
    let mut costs = Vec::new();
    for flight in [10u32, 10_000] {
        let (host, net) = stack();
        let wire = Arc::new(Wire::default());
        let inside = host.kernel().enter();
        let spec = NetDeviceSpec {
            name: "wire0".to_owned(),
            addr: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            flags: Iff::UP | Iff::NOARP | Iff::POINTOPOINT,
            hard_header_len: 0,
            features: Features::SG | Features::HW_CSUM,
            ops: Box::new(WireOps(wire.clone())),
        };
        let dev = register_netdevice(&net, spec).expect("device");
        inet_addr_add(&dev, Ipv4Addr::new(10, 0, 0, 1), 24).expect("address");
        drop(inside);
        let t = FdTable::new(&net, 64);
        let l = listener(&t, 80);
        let rx = |seq: u32, ack: u32, flags: u8, opts: &[u8]| {
            let _inside = host.kernel().enter();
            let mut skb = Skb::from_bytes(MAX_HEADER, &segment(seq, ack, flags, opts));
            skb.dev = Some(dev.clone());
            skb.protocol = ETH_P_IP;
            skb.ip_summed = IpSummed::Unnecessary;
            netif_rx(skb).expect("queued");
        };
        // SYN with an MSS of 1000, SACK and a window scale of 14.
        rx(100, 0, 2, &[2, 4, 3, 232, 4, 2, 3, 3, 14, 1, 1, 1]);
        let isn = u32::from_be_bytes(wire.last.lock_bh()[24..28].try_into().expect("SYN-ACK"));
        let mut una = isn.wrapping_add(1);
        rx(101, una, 16, &[]);
        let (c, _) = t.accept(l).expect("accept");
        t.setsockopt(c, SOL_SOCKET, libc::SO_SNDBUFFORCE, &200_000_000i32.to_ne_bytes()).expect("sndbuf");
        t.setsockopt(c, 6, TCP_CONGESTION, b"reno").expect("reno");
        // Open the window: everything that goes out is acknowledged, a segment at a time.
        let segs = flight as usize;
        let bytes = vec![7; segs * MSS];
        let (mut spent, mut acks) = (0, 0);
        for round in 0..24 {
            let mut sent = 0;
            while sent < bytes.len() {
                match t.send(c, &bytes[sent..], MSG_DONTWAIT) {
                    Ok(n) => sent += n,
                    Err(_) => break,
                }
            }
            let end = una.wrapping_add(sent as u32);
            let start = Instant::now();
            while una != end {
                una = una.wrapping_add(MSS as u32);
                rx(101, una, 16, &[]);
            }
            if round >= 16 {
                spent += start.elapsed().as_nanos();
                acks += sent / MSS;
            }
        }
        assert_eq!(acks, 8 * segs, "the window never held it all");
        costs.push(spent as f64 / acks as f64);
        host.stop();
    }
    println!(
        "| ACK of a segment, 10 and 10,000 in flight | {:.0}, {:.0} | | ns | {:.2} |",
        costs[0],
        costs[1],
        costs[1] / costs[0]
    );
}

/// A segment from 10.0.0.2 port 1000 to 10.0.0.1 port 80, without a TCP checksum.
fn segment(seq: u32, ack: u32, flags: u8, opts: &[u8]) -> Vec<u8> {
    let len = 40 + opts.len();
    let mut b = vec![0x45, 0, 0, len as u8, 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1];
    let sum = ip_fast_csum(&b);
    b[10..12].copy_from_slice(&sum);
    b.extend_from_slice(&[3, 232, 0, 80]);
    b.extend_from_slice(&seq.to_be_bytes());
    b.extend_from_slice(&ack.to_be_bytes());
    b.extend_from_slice(&[(((20 + opts.len()) / 4) << 4) as u8, flags, 255, 255, 0, 0, 0, 0]);
    b.extend_from_slice(opts);
    b
}

const PLACES: [(&str, fn()); 4] =
    [("connections", connections), ("acks", acks), ("lookups", lookups), ("memory", memory)];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    println!("| workload (ours / theirs) | sockeye | kernel | | ratio |\n|---|---:|---:|---|---:|");
    for (name, run) in PLACES {
        if words.is_empty() || words.iter().any(|w| w == name) {
            run();
        }
    }
}
