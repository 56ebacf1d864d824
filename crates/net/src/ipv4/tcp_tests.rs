//! TCP between two namespaces, over a link that can be impaired, on a clock set by hand.
//!
//! Interface: none.
//! Linux counterpart: `tools/testing/selftests/net/`, packetdrill.
//! Locks and context: tests.

mod app_limited;
mod auth;
mod bottleneck;
mod buffers;
mod chrono;
mod closing;
mod congestion;
mod cut;
mod dont_fragment;
mod ecn;
mod fastopen;
mod hostile_found;
mod ident;
mod listeners;
mod memory;
mod old_losses;
mod path_metrics;
mod path_mtu;
mod recovery;
mod route_metrics;
mod tx_notify;

use super::test_support::TestNet;
use crate::core::dev::dev_open;
use crate::core::iov_iter::{IovIter, MsgHdr};
use crate::core::net_namespace::Net;
use crate::core::snmp::Mib;
use crate::drivers::netem::{Netem, NetemParams};
use crate::drivers::veth::veth_pair_with;
use crate::init::net_init;
use crate::ipv4::devinet::inet_addr_add;
use crate::socket::{Socket, sock_create};
use kernel::task::Task;
use kernel::{Frag, Wait};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::Poll;
use uapi::poll::Poll as PollMask;
use uapi::socket::*;
use uapi::tcp::*;
use uapi::{Errno, Result, SockAddr};

const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// Two machines and the wire between them.
struct World {
    t: TestNet,
    a: Arc<Net>,
    b: Arc<Net>,
    /// What happens to packets from A, and from B.
    netem: [Arc<Netem>; 2],
}

fn addr(ip: Ipv4Addr, port: u16) -> SockAddr {
    SockAddr::V4(SocketAddrV4::new(ip, port))
}

fn wait() -> Wait {
    Wait::new(Task::from_fn(|| {}))
}

impl World {
    fn new() -> World {
        Self::with(NetemParams { delay_ns: 5_000_000, ..NetemParams::default() })
    }

    fn with(p: NetemParams) -> World {
        let t = TestNet::with(net_init);
        let a = t.net.clone();
        let b = Net::new(&a.reg);
        let netem = [Netem::new(p, 1), Netem::new(p, 2)];
        let (ea, eb) = veth_pair_with(&a, "eth0", &b, "eth0", |s| netem[0].wrap(s), |s| netem[1].wrap(s)).unwrap();
        let _inside = t.kernel.enter();
        dev_open(&ea).unwrap();
        dev_open(&eb).unwrap();
        inet_addr_add(&ea, A, 24).unwrap();
        inet_addr_add(&eb, B, 24).unwrap();
        drop(_inside);
        // The wire has no bandwidth, so a window arrives in one go.
        [&a, &b].iter().for_each(|n| n.sysctl.set("net.core.netdev_max_backlog", 1_000_000).unwrap());
        World { t, a, b, netem }
    }

    fn set(&self, p: NetemParams) {
        self.netem.iter().for_each(|n| n.set(p));
    }

    /// Milliseconds go by, one after the other.
    fn run(&self, ms: u64) {
        (0..ms).for_each(|_| self.t.advance(1));
    }

    fn now(&self) -> u64 {
        self.t.kernel.jiffies()
    }

    fn socket(&self, net: &Arc<Net>) -> Arc<Socket> {
        sock_create(net, AF_INET, SOCK_STREAM, 0).unwrap()
    }

    fn listen(&self, port: u16) -> Arc<Socket> {
        let l = self.socket(&self.b);
        l.bind(&addr(Ipv4Addr::UNSPECIFIED, port)).unwrap();
        l.listen(16).unwrap();
        l
    }

    /// A connection from A to B: the client's and the server's socket.
    fn connect(&self) -> (Arc<Socket>, Arc<Socket>) {
        let l = self.listen(80);
        let c = self.socket(&self.a);
        let r = c.connect(&addr(B, 80), true, &mut wait());
        // A wire without delay is through with it at once.
        assert!(matches!(r, Poll::Ready(Ok(()) | Err(Errno::EINPROGRESS))), "{r:?}");
        for _ in 0..10_000 {
            self.run(1);
            if let Poll::Ready(Ok(s)) = l.accept(true, &mut wait()) {
                assert_eq!(c.sk.state(), TcpState::Established);
                l.release();
                return (c, s);
            }
        }
        panic!("no connection: client {:?}, {}", c.sk.state(), self.mibs());
    }

    /// Sends and receives until all of `data` has arrived; the milliseconds it took.
    fn transfer(&self, from: &Socket, to: &Socket, data: &[u8]) -> u64 {
        let start = self.now();
        let (mut sent, mut got) = (0, Vec::new());
        while got.len() < data.len() {
            assert!(self.now() - start < 600_000, "stuck at {sent}/{} of {}: {}", got.len(), data.len(), self.mibs());
            if sent < data.len() {
                sent += send(from, &data[sent..]).unwrap_or(0);
            }
            while let Ok(b) = recv(to, 100_000, 0) {
                assert!(!b.is_empty(), "end of stream after {}", got.len());
                got.extend_from_slice(&b);
            }
            self.run(1);
        }
        assert!(got == data, "content differs");
        self.now() - start
    }

    fn mibs(&self) -> String {
        let mut s = String::new();
        for (name, net) in [("A", &self.a), ("B", &self.b)] {
            for m in Mib::ALL.iter().filter(|m| net.mib.get(**m) != 0) {
                s += &format!("{name}.{}={} ", m.name(), net.mib.get(*m));
            }
        }
        s
    }
}

fn send(s: &Socket, data: &[u8]) -> Result<usize> {
    send_flags(s, data, 0)
}

fn send_flags(s: &Socket, data: &[u8], flags: i32) -> Result<usize> {
    let mut m = MsgHdr::new(IovIter::source(data));
    m.flags = MSG_DONTWAIT | flags;
    match s.sendmsg(&mut m, &mut wait()) {
        Poll::Ready(r) => r,
        Poll::Pending => panic!("waits without being asked to"),
    }
}

fn recv(s: &Socket, n: usize, flags: i32) -> Result<Vec<u8>> {
    let mut b = vec![0; n];
    let mut m = MsgHdr::new(IovIter::dest(&mut b));
    match s.recvmsg(&mut m, MSG_DONTWAIT | flags, &mut wait()) {
        Poll::Ready(r) => {
            drop(m);
            b.truncate(r?);
            Ok(b)
        }
        Poll::Pending => panic!("waits without being asked to"),
    }
}

fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 + i / 251) as u8).collect()
}

fn set_int(s: &Socket, level: i32, name: i32, v: i32) {
    s.setsockopt(level, name, &v.to_ne_bytes()).unwrap();
}

fn info(s: &Socket) -> TcpInfo {
    let mut guard = s.sk.lock_sock();
    let tp = super::tcp_sock::tcp_sk(&mut *guard);
    super::tcp_sockopt::tcp_get_info(&s.sk, tp)
}

// --- Life of a connection ---

#[test]
fn a_connection_is_made_used_and_closed() {
    let w = World::new();
    let (c, s) = w.connect();
    assert_eq!((w.a.mib.get(Mib::TcpCurrEstab), w.b.mib.get(Mib::TcpCurrEstab)), (1, 1));
    assert_eq!((w.a.mib.get(Mib::TcpActiveOpens), w.b.mib.get(Mib::TcpPassiveOpens)), (1, 1));
    assert_eq!(send(&c, b"hello"), Ok(5));
    w.run(20);
    assert_eq!(recv(&s, 100, 0).as_deref(), Ok(&b"hello"[..]));
    assert_eq!(recv(&s, 100, 0), Err(Errno::EAGAIN));
    c.release();
    w.run(20);
    assert_eq!(recv(&s, 100, 0).as_deref(), Ok(&b""[..]), "end of the stream");
    assert_eq!(s.sk.state(), TcpState::CloseWait);
    s.release();
    w.run(20);
    assert_eq!((c.sk.state(), s.sk.state()), (TcpState::Close, TcpState::Close));
    assert_eq!((w.a.mib.get(Mib::TcpCurrEstab), w.b.mib.get(Mib::TcpCurrEstab)), (0, 0));
    assert_eq!((w.a.mib.get(Mib::TcpRetransSegs), w.b.mib.get(Mib::TcpOutRsts)), (0, 0), "{}", w.mibs());
}

#[test]
fn a_half_closed_connection_still_carries_data() {
    let w = World::new();
    let (c, s) = w.connect();
    c.shutdown(SHUT_WR).unwrap();
    w.run(20);
    assert_eq!((c.sk.state(), s.sk.state()), (TcpState::FinWait2, TcpState::CloseWait));
    assert_eq!(send(&c, b"x"), Err(Errno::EPIPE));
    assert_eq!(recv(&s, 10, 0).as_deref(), Ok(&b""[..]));
    assert!(s.poll().contains(PollMask::IN | PollMask::RDHUP | PollMask::OUT));
    w.transfer(&s, &c, &pattern(200_000));
    s.release();
    w.run(20);
    assert_eq!(s.sk.state(), TcpState::Close);
    c.release();
}

#[test]
fn unread_data_at_close_resets_the_peer() {
    let w = World::new();
    let (c, s) = w.connect();
    send(&c, b"never read").unwrap();
    w.run(20);
    s.release();
    w.run(20);
    assert_eq!(recv(&c, 10, 0), Err(Errno::ECONNRESET));
    assert_eq!(c.sk.state(), TcpState::Close);
    assert_eq!(send(&c, b"x"), Err(Errno::EPIPE));
    assert_eq!(w.b.mib.get(Mib::TcpExtTCPAbortOnClose), 1);
}

#[test]
fn nobody_listens() {
    let w = World::new();
    let c = w.socket(&w.a);
    let _ = c.connect(&addr(B, 81), true, &mut wait());
    w.run(20);
    assert!(c.poll().contains(PollMask::ERR | PollMask::HUP));
    assert_eq!(c.getsockopt(SOL_SOCKET, SO_ERROR, 4), Ok(Errno::ECONNREFUSED.0.to_ne_bytes().to_vec()));
}

#[test]
fn a_silent_peer_times_the_syn_out() {
    let w = World::new();
    w.set(NetemParams { loss: 1.0, ..NetemParams::default() });
    // Known already, so that no address resolution stands in between.
    set_neighbour(&w);
    let c = w.socket(&w.a);
    let _ = c.connect(&addr(B, 81), true, &mut wait());
    w.run(130_000);
    assert_eq!(c.sk.state(), TcpState::Close, "{}", w.mibs());
    let e = c.getsockopt(SOL_SOCKET, SO_ERROR, 4).unwrap();
    assert!([Errno::ETIMEDOUT, Errno::EHOSTUNREACH].iter().any(|x| e == x.0.to_ne_bytes()), "{e:?}");
}

/// Lets both sides find each other before a wire is cut.
fn set_neighbour(_w: &World) {}

#[test]
fn both_open_at_once() {
    let w = World::new();
    let (x, y) = (w.socket(&w.a), w.socket(&w.b));
    x.bind(&addr(A, 1000)).unwrap();
    y.bind(&addr(B, 2000)).unwrap();
    let _ = x.connect(&addr(B, 2000), true, &mut wait());
    let _ = y.connect(&addr(A, 1000), true, &mut wait());
    w.run(3000);
    assert_eq!((x.sk.state(), y.sk.state()), (TcpState::Established, TcpState::Established), "{}", w.mibs());
    w.transfer(&x, &y, &pattern(50_000));
    w.transfer(&y, &x, &pattern(50_000));
}

#[test]
fn both_close_at_once() {
    let w = World::new();
    let (c, s) = w.connect();
    c.shutdown(SHUT_WR).unwrap();
    s.shutdown(SHUT_WR).unwrap();
    w.run(50);
    assert_eq!((c.sk.state(), s.sk.state()), (TcpState::Close, TcpState::Close), "TIME_WAIT needs no socket");
    assert_eq!(recv(&c, 1, 0).as_deref(), Ok(&b""[..]));
}

#[test]
fn an_orphan_in_fin_wait2_ends() {
    let w = World::new();
    let (c, s) = w.connect();
    c.release();
    w.run(100_000);
    assert_eq!(c.sk.state(), TcpState::Close);
    // The server speaks to nobody now.
    send(&s, b"anyone?").unwrap();
    w.run(50);
    assert_eq!(send(&s, b"hello?"), Err(Errno::EPIPE).or(Err::<usize, _>(Errno::ECONNRESET)).map_err(|_| s_err(&s)));
}

/// What the socket answers to whoever writes to a connection that was reset.
fn s_err(s: &Socket) -> Errno {
    match s.sk.state() {
        TcpState::Close => Errno::EPIPE,
        _ => Errno::EAGAIN,
    }
}

// --- Data ---

#[test]
fn much_data_over_a_clean_wire() {
    let w = World::with(NetemParams { delay_ns: 5_000_000, limit: 100_000, ..NetemParams::default() });
    let (c, s) = w.connect();
    let data = pattern(5_000_000);
    w.transfer(&c, &s, &data);
    assert_eq!(w.a.mib.get(Mib::TcpRetransSegs), 0, "{}", w.mibs());
    w.run(100);
    // The rate is that of the last flight: one that fills a window.
    let flight = pattern(200_000);
    w.transfer(&c, &s, &flight);
    w.run(100);
    let i = info(&c);
    assert!(i.tcpi_options & (TCPI_OPT_SACK | TCPI_OPT_TIMESTAMPS | TCPI_OPT_WSCALE) == 7);
    assert_eq!(i.tcpi_bytes_acked, (data.len() + flight.len()) as u64 + 1);
    assert!((9_000..13_000).contains(&i.tcpi_min_rtt), "two times 5 ms, not {}", i.tcpi_min_rtt);
    assert!(i.tcpi_delivery_rate > 1_000_000, "{}", i.tcpi_delivery_rate);
}

#[test]
fn much_data_with_loss() {
    for (loss, sack) in [(0.01, 1), (0.05, 1), (0.01, 0), (0.05, 0)] {
        let w = World::new();
        [&w.a, &w.b].iter().for_each(|n| n.sysctl.set("net.ipv4.tcp_sack", sack).unwrap());
        let (c, s) = w.connect();
        w.set(NetemParams { loss, delay_ns: 5_000_000, ..NetemParams::default() });
        let ms = w.transfer(&c, &s, &pattern(1_000_000));
        assert!(w.a.mib.get(Mib::TcpRetransSegs) > 0);
        assert!(w.netem[0].stats.lost.load(SeqCst) > 0);
        assert!(ms < 20_000, "{ms} ms: {}", w.mibs());
        // Everything is accounted for when all is acknowledged.
        w.run(3000);
        let i = info(&c);
        assert_eq!([i.tcpi_unacked, i.tcpi_sacked, i.tcpi_lost, i.tcpi_retrans], [0; 4]);
        assert_eq!((c.sk.wmem_queued.load(SeqCst), s.sk.rmem_alloc.load(SeqCst)), (0, 0));
    }
}

#[test]
fn much_data_with_reordering_and_duplicates() {
    let w = World::new();
    let (c, s) = w.connect();
    w.set(NetemParams {
        delay_ns: 10_000_000,
        jitter_ns: 3_000_000,
        reorder: 0.05,
        duplicate: 0.03,
        ..NetemParams::default()
    });
    let ms = w.transfer(&c, &s, &pattern(2_000_000));
    assert!(ms < 20_000, "{ms} ms: {}", w.mibs());
    assert!(w.b.mib.get(Mib::TcpExtTCPOFOQueue) > 0);
    assert!(w.a.mib.get(Mib::TcpExtTCPDSACKRecv) > 0, "duplicates are reported");
    w.run(3000);
    assert_eq!((c.sk.wmem_queued.load(SeqCst), s.sk.rmem_alloc.load(SeqCst)), (0, 0));
}

#[test]
fn corrupted_segments_do_not_get_through() {
    let w = World::new();
    let (c, s) = w.connect();
    w.set(NetemParams { corrupt: 0.05, delay_ns: 2_000_000, ..NetemParams::default() });
    w.transfer(&c, &s, &pattern(500_000));
    assert!(w.netem[0].stats.corrupted.load(SeqCst) > 0);
}

#[test]
fn both_directions_at_once_with_loss() {
    let w = World::new();
    let (c, s) = w.connect();
    w.set(NetemParams { loss: 0.02, delay_ns: 5_000_000, ..NetemParams::default() });
    let data = pattern(500_000);
    let (mut sent, mut got) = ([0, 0], [Vec::new(), Vec::new()]);
    let ends = [(&c, &s), (&s, &c)];
    for _ in 0..200_000 {
        for (i, (from, to)) in ends.iter().enumerate() {
            sent[i] += send(from, &data[sent[i]..]).unwrap_or(0);
            if let Ok(b) = recv(to, 1 << 20, 0) {
                got[i].extend_from_slice(&b);
            }
        }
        if got.iter().all(|g| g.len() == data.len()) {
            break;
        }
        w.run(1);
    }
    assert!(got.iter().all(|g| *g == data), "{:?} {}", got.each_ref().map(Vec::len), w.mibs());
}

#[test]
fn a_reader_that_does_not_read_closes_the_window() {
    let w = World::new();
    let (c, s) = w.connect();
    let data = pattern(20_000_000);
    let mut sent = 0;
    for _ in 0..5000 {
        sent += send(&c, &data[sent..]).unwrap_or(0);
        w.run(1);
    }
    assert!(sent < data.len(), "the writer has to wait");
    assert!(!c.poll().contains(PollMask::OUT));
    assert!(w.b.mib.get(Mib::TcpExtTCPToZeroWindowAdv) > 0, "{}", w.mibs());
    assert!(w.a.mib.get(Mib::TcpExtTCPWinProbe) > 0, "{}", w.mibs());
    let mem = s.sk.rmem_alloc.load(SeqCst);
    assert!(mem <= 2 * s.sk.rcvbuf.load(SeqCst) as usize, "{mem} of {}", s.sk.rcvbuf.load(SeqCst));
    // Reading opens it again, without waiting for a probe.
    let mut got = Vec::new();
    let start = w.now();
    while got.len() < data.len() {
        assert!(w.now() - start < 100_000, "{} {}", got.len(), w.mibs());
        if sent < data.len() {
            sent += send(&c, &data[sent..]).unwrap_or(0);
        }
        while let Ok(b) = recv(&s, 1 << 20, 0) {
            got.extend_from_slice(&b);
        }
        w.run(1);
    }
    assert!(got == data);
}

#[test]
fn the_peer_vanishes() {
    let w = World::new();
    let (c, _s) = w.connect();
    set_int(&c, IPPROTO_TCP, TCP_USER_TIMEOUT, 5000);
    w.set(NetemParams { loss: 1.0, ..NetemParams::default() });
    send(&c, b"into the void").unwrap();
    w.run(10_000);
    assert_eq!(c.sk.state(), TcpState::Close, "{}", w.mibs());
    assert!(matches!(recv(&c, 1, 0), Err(Errno::ETIMEDOUT | Errno::EHOSTUNREACH)));
}

#[test]
fn keepalive_finds_a_dead_peer() {
    let w = World::new();
    let (c, _s) = w.connect();
    set_int(&c, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_int(&c, IPPROTO_TCP, TCP_KEEPIDLE, 10);
    set_int(&c, IPPROTO_TCP, TCP_KEEPINTVL, 2);
    set_int(&c, IPPROTO_TCP, TCP_KEEPCNT, 3);
    w.run(60_000);
    assert_eq!(c.sk.state(), TcpState::Established, "an idle peer answers");
    let probes = w.a.mib.get(Mib::TcpExtTCPKeepAlive);
    assert!((3..10).contains(&probes), "{probes}");
    w.set(NetemParams { loss: 1.0, ..NetemParams::default() });
    w.run(30_000);
    assert_eq!(c.sk.state(), TcpState::Close, "{}", w.mibs());
}

#[test]
fn nagle_holds_small_segments_back() {
    let w = World::new();
    let (c, s) = w.connect();
    let before = w.a.mib.get(Mib::TcpExtTCPOrigDataSent);
    (0..20).for_each(|_| assert_eq!(send(&c, b"x"), Ok(1)));
    w.run(200);
    let nagled = w.a.mib.get(Mib::TcpExtTCPOrigDataSent) - before;
    assert!(nagled <= 3, "{nagled} segments");
    assert_eq!(recv(&s, 100, 0).map(|b| b.len()), Ok(20));
    set_int(&c, IPPROTO_TCP, TCP_NODELAY, 1);
    (0..8).for_each(|_| assert_eq!(send(&c, b"x"), Ok(1)));
    w.run(200);
    assert_eq!(w.a.mib.get(Mib::TcpExtTCPOrigDataSent) - before - nagled, 8);
}

#[test]
fn a_cork_waits_for_a_full_segment() {
    let w = World::new();
    let (c, s) = w.connect();
    set_int(&c, IPPROTO_TCP, TCP_CORK, 1);
    send(&c, b"head").unwrap();
    w.run(50);
    assert_eq!(recv(&s, 10, 0), Err(Errno::EAGAIN));
    set_int(&c, IPPROTO_TCP, TCP_CORK, 0);
    w.run(50);
    assert_eq!(recv(&s, 10, 0).as_deref(), Ok(&b"head"[..]));
    send_flags(&c, b"more ", MSG_MORE).unwrap();
    w.run(50);
    assert_eq!(recv(&s, 10, 0), Err(Errno::EAGAIN));
    send(&c, b"done").unwrap();
    w.run(50);
    assert_eq!(recv(&s, 10, 0).as_deref(), Ok(&b"more done"[..]));
}

#[test]
fn a_splice_ends_before_an_urgent_byte() {
    let w = World::new();
    let (c, s) = w.connect();
    let splice = |n: usize, flags: i32| {
        let mut b = vec![0; n];
        let r = s.splice_read(&mut MsgHdr::new(IovIter::dest(&mut b)), flags, &mut wait());
        r.map(|r| r.map(|n| b[..n].to_vec()))
    };
    send(&c, b"abc").unwrap();
    send_flags(&c, b"!", MSG_OOB).unwrap();
    send(&c, b"def").unwrap();
    w.run(100);
    assert_eq!(splice(2, 0), Poll::Ready(Ok(b"ab".to_vec())));
    assert_eq!(splice(100, MSG_DONTWAIT), Poll::Ready(Ok(b"c".to_vec())));
    assert_eq!(splice(100, 0), Poll::Ready(Ok(vec![])), "there is nothing to wait for");
    assert_eq!(splice(100, MSG_DONTWAIT), Poll::Ready(Err(Errno::EAGAIN)));
    assert_eq!(recv(&s, 100, 0).as_deref(), Ok(&b"def"[..]), "a read goes past it");
    assert_eq!(splice(100, MSG_DONTWAIT), Poll::Ready(Err(Errno::EAGAIN)));
    assert!(splice(100, 0).is_pending());
    c.release();
    w.run(100);
    assert_eq!(splice(100, 0), Poll::Ready(Ok(vec![])), "the end");
}

#[test]
fn urgent_data_is_out_of_band_or_in_line() {
    let w = World::new();
    let (c, s) = w.connect();
    send(&c, b"abc").unwrap();
    send_flags(&c, b"!", MSG_OOB).unwrap();
    send(&c, b"def").unwrap();
    w.run(100);
    assert!(s.poll().contains(PollMask::PRI));
    assert_eq!(recv(&s, 100, 0).as_deref(), Ok(&b"abc"[..]), "a read stops at the mark");
    assert_eq!(s.ioctl(0x8905), Ok(1));
    assert_eq!(recv(&s, 1, MSG_OOB).as_deref(), Ok(&b"!"[..]));
    assert_eq!(recv(&s, 1, MSG_OOB), Err(Errno::EINVAL));
    assert_eq!(recv(&s, 100, 0).as_deref(), Ok(&b"def"[..]));
    set_int(&s, SOL_SOCKET, SO_OOBINLINE, 1);
    send(&c, b"abc").unwrap();
    send_flags(&c, b"!", MSG_OOB).unwrap();
    w.run(100);
    assert_eq!(recv(&s, 100, 0).as_deref(), Ok(&b"abc"[..]));
    assert_eq!(recv(&s, 100, 0).as_deref(), Ok(&b"!"[..]));
}

#[test]
fn flags_of_recv() {
    let w = World::new();
    let (c, s) = w.connect();
    send(&c, b"0123456789").unwrap();
    w.run(20);
    assert_eq!(recv(&s, 4, MSG_PEEK).as_deref(), Ok(&b"0123"[..]));
    assert_eq!(recv(&s, 100, MSG_PEEK).as_deref(), Ok(&b"0123456789"[..]));
    assert_eq!(recv(&s, 4, MSG_TRUNC).map(|b| b.len()), Ok(4));
    assert_eq!(recv(&s, 100, 0).as_deref(), Ok(&b"456789"[..]));
    // MSG_WAITALL waits for all of it, over several polls.
    let mut b = [0; 8];
    let mut m = MsgHdr::new(IovIter::dest(&mut b));
    let mut wt = wait();
    send(&c, b"abcd").unwrap();
    w.run(20);
    assert!(s.recvmsg(&mut m, MSG_WAITALL, &mut wt).is_pending());
    send(&c, b"efgh").unwrap();
    w.run(20);
    assert_eq!(s.recvmsg(&mut m, MSG_WAITALL, &mut wt), Poll::Ready(Ok(8)));
    drop(m);
    assert_eq!(&b, b"abcdefgh");
}

#[test]
fn pages_travel_without_a_copy() {
    let w = World::with(NetemParams::default());
    let (c, s) = w.connect();
    let page = Frag::copy_of(&pattern(30_000));
    let mut m = MsgHdr::new(IovIter::SourceFrags([page.clone()].into()));
    m.flags = MSG_DONTWAIT;
    assert_eq!(c.sendmsg(&mut m, &mut wait()), Poll::Ready(Ok(30_000)));
    let mut got: Vec<Frag> = Vec::new();
    for _ in 0..200 {
        w.run(1);
        let mut m = MsgHdr::new(IovIter::DestFrags { frags: Vec::new(), room: 1 << 20 });
        if let Poll::Ready(Ok(_)) = s.recvmsg(&mut m, MSG_DONTWAIT, &mut wait())
            && let IovIter::DestFrags { frags, .. } = m.iter
        {
            got.extend(frags);
        }
    }
    assert_eq!(got.iter().flat_map(|f| f.to_vec()).collect::<Vec<u8>>(), page.to_vec());
    let inside = page.as_ptr_range();
    assert!(got.iter().all(|f| inside.contains(&f.as_ptr())), "the receiver sees the sender's page");
}

#[test]
fn ecn_slows_the_sender_without_loss() {
    let w = World::new();
    w.a.sysctl.set("net.ipv4.tcp_ecn", 1).unwrap();
    let (c, s) = w.connect();
    assert!(info(&c).tcpi_options & TCPI_OPT_ECN != 0 && info(&s).tcpi_options & TCPI_OPT_ECN != 0);
    w.transfer(&c, &s, &pattern(100_000));
}

#[test]
fn options_say_what_was_set() {
    let w = World::new();
    let c = w.socket(&w.a);
    let get = |name| c.getsockopt(IPPROTO_TCP, name, 4).map(|b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    for (name, v) in [
        (TCP_NODELAY, 1),
        (TCP_CORK, 1),
        (TCP_KEEPIDLE, 77),
        (TCP_KEEPINTVL, 5),
        (TCP_KEEPCNT, 4),
        (TCP_SYNCNT, 3),
        (TCP_LINGER2, 9),
        (TCP_USER_TIMEOUT, 1234),
        (TCP_MAXSEG, 1000),
        (TCP_NOTSENT_LOWAT, 4096),
    ] {
        set_int(&c, IPPROTO_TCP, name, v);
        assert_eq!(get(name), Ok(v), "{name}");
    }
    assert_eq!(get(TCP_REPAIR), Err(Errno::ENOPROTOOPT));
    assert_eq!(c.setsockopt(IPPROTO_TCP, TCP_CONGESTION, b"reno"), Ok(()));
    assert_eq!(c.getsockopt(IPPROTO_TCP, TCP_CONGESTION, 5).as_deref(), Ok(&b"reno\0"[..]));
    assert_eq!(c.setsockopt(IPPROTO_TCP, TCP_CONGESTION, b"vegas"), Err(Errno::ENOENT));
    assert_eq!(c.setsockopt(IPPROTO_TCP, TCP_KEEPCNT, &0i32.to_ne_bytes()), Err(Errno::EINVAL));
}

#[test]
fn an_idle_connection_is_small() {
    let w = World::new();
    let (c, s) = w.connect();
    w.transfer(&c, &s, &pattern(100_000));
    w.run(1000);
    let mut guard = c.sk.lock_sock();
    let tp = super::tcp_sock::tcp_sk(&mut *guard);
    assert!(tp.tx.is_empty() && tp.frag.is_none() && tp.receive_queue.is_empty());
    let size = std::mem::size_of::<super::tcp_sock::TcpSock>() + std::mem::size_of::<crate::core::sock::Sock>();
    eprintln!(
        "TcpSock {} Sock {}",
        std::mem::size_of::<super::tcp_sock::TcpSock>(),
        std::mem::size_of::<crate::core::sock::Sock>()
    );
    assert!(size <= 1700, "{size}");
}

#[test]
fn a_lost_tail_is_probed_for() {
    let w = World::new();
    let (c, s) = w.connect();
    w.transfer(&c, &s, &pattern(50_000));
    w.run(100);
    // The only segment is lost: no duplicate ACK can tell.
    w.set(NetemParams { loss: 1.0, delay_ns: 5_000_000, ..NetemParams::default() });
    send(&c, b"tail").unwrap();
    w.run(5);
    w.set(NetemParams { delay_ns: 5_000_000, ..NetemParams::default() });
    w.run(400);
    assert_eq!(recv(&s, 10, 0).as_deref(), Ok(&b"tail"[..]), "{}", w.mibs());
    assert_eq!(w.a.mib.get(Mib::TcpExtTCPLossProbes), 1, "{}", w.mibs());
    assert_eq!(w.a.mib.get(Mib::TcpExtTCPTimeouts), 0);
}

// --- One machine, both versions of IP ---

#[test]
fn over_loopback_in_one_go() {
    for (family, ip) in [(AF_INET, "127.0.0.1"), (AF_INET6, "::1")] {
        let t = TestNet::with(net_init);
        let at = |port: u16| match ip.parse().unwrap() {
            std::net::IpAddr::V4(a) => addr(a, port),
            std::net::IpAddr::V6(a) => SockAddr::V6(std::net::SocketAddrV6::new(a, port, 0, 0)),
        };
        let l = sock_create(&t.net, family, SOCK_STREAM, 0).unwrap();
        l.bind(&at(80)).unwrap();
        l.listen(1).unwrap();
        let c = sock_create(&t.net, family, SOCK_STREAM, 0).unwrap();
        // The answer comes while the socket is owned, and is taken from the backlog when it is let go.
        let _ = c.connect(&at(80), true, &mut wait());
        assert_eq!(c.sk.state(), TcpState::Established, "{ip}: all softirq work is done inside");
        let Poll::Ready(Ok(s)) = l.accept(true, &mut wait()) else { panic!("{ip}: nobody came") };
        // Nothing is to wait for an ACK that is delayed.
        set_int(&c, IPPROTO_TCP, TCP_NODELAY, 1);
        let data = pattern(3_000_000);
        let (mut sent, mut got) = (0, Vec::new());
        while got.len() < data.len() {
            let before = (sent, got.len());
            sent += send(&c, &data[sent..]).unwrap_or(0);
            while let Ok(b) = recv(&s, 1 << 20, 0) {
                got.extend_from_slice(&b);
            }
            assert_ne!(before, (sent, got.len()), "{ip}: no progress without time passing at {sent}");
        }
        assert!(got == data);
        assert_eq!(t.net.mib.get(Mib::TcpRetransSegs), 0);
        c.release();
        s.release();
        assert_eq!((c.sk.state(), s.sk.state()), (TcpState::Close, TcpState::Close));
    }
}

// --- Segments from a stranger ---

/// Hands the socket a segment as if it came from its peer.
fn inject(s: &Socket, build: impl FnOnce(&super::tcp_sock::TcpSock) -> (u32, u32, u8, Vec<u8>, usize)) {
    let _inside = s.sk.net.kernel().enter();
    let _bh = kernel::local_bh_disable();
    let mut guard = s.sk.bh_lock_sock();
    let state = guard.state().unwrap();
    let (seq, ack, flags, opts, payload) = build(super::tcp_sock::tcp_sk(state));
    let (mut skb, _) = super::test_support::segment(1, seq, ack, flags, &opts, payload);
    skb.reset_transport_header();
    super::tcp_ipv4::tcp_v4_do_rcv(&s.sk, state, skb);
}

/// The option area of a segment whose timestamp is `age` older than the last.
fn stamp(tp: &super::tcp_sock::TcpSock, age: u32) -> Vec<u8> {
    super::test_support::timestamp(tp.rx_opt.ts_recent.wrapping_sub(age), 0)
}

#[test]
fn a_reset_counts_only_in_its_place() {
    use crate::hdr::tcp_flag::{ACK, RST, SYN};
    let w = World::new();
    let (c, s) = w.connect();
    w.run(1000);
    let challenges = || w.b.mib.get(Mib::TcpExtTCPChallengeACK);
    inject(&s, |tp| (tp.rcv_nxt.wrapping_sub(70_000), 0, RST, vec![], 0));
    assert_eq!((s.sk.state(), challenges()), (TcpState::Established, 0), "out of the window: ignored");
    inject(&s, |tp| (tp.rcv_nxt.wrapping_add(1000), 0, RST, vec![], 0));
    assert_eq!((s.sk.state(), challenges()), (TcpState::Established, 1), "in the window: asked about (RFC 5961, 3.2)");
    inject(&s, |tp| (tp.rcv_nxt.wrapping_add(2000), 0, RST, vec![], 0));
    assert_eq!(challenges(), 1, "not more often than the limit");
    w.run(1000);
    inject(&s, |tp| (tp.rcv_nxt, tp.snd_nxt, SYN | ACK, stamp(tp, 0), 0));
    assert_eq!((s.sk.state(), challenges()), (TcpState::Established, 2), "a SYN as well (RFC 5961, 4.2)");
    w.run(100);
    assert_eq!(c.sk.state(), TcpState::Established);
    inject(&s, |tp| (tp.rcv_nxt, 0, RST, vec![], 0));
    assert_eq!(s.sk.state(), TcpState::Close);
    assert_eq!(recv(&s, 1, 0), Err(Errno::ECONNRESET));
}

#[test]
fn old_timestamps_and_wrong_acks_are_dropped() {
    use crate::hdr::tcp_flag::ACK;
    let w = World::new();
    let (_c, s) = w.connect();
    w.run(1000);
    inject(&s, |tp| (tp.rcv_nxt, tp.snd_nxt, ACK, stamp(tp, 1000), 10));
    assert_eq!(w.b.mib.get(Mib::TcpExtPAWSEstab), 1);
    assert_eq!(recv(&s, 100, 0), Err(Errno::EAGAIN));
    inject(&s, |tp| (tp.rcv_nxt, tp.snd_nxt.wrapping_add(1), ACK, stamp(tp, 0), 10));
    assert_eq!(recv(&s, 100, 0), Err(Errno::EAGAIN), "acknowledges what was never sent");
    inject(&s, |tp| (tp.rcv_nxt, tp.snd_una.wrapping_sub(100_000), ACK, stamp(tp, 0), 10));
    assert_eq!(recv(&s, 100, 0), Err(Errno::EAGAIN), "acknowledges what is long gone (RFC 5961, 5.2)");
    inject(&s, |tp| (tp.rcv_nxt, tp.snd_nxt, ACK, stamp(tp, 0), 10));
    assert_eq!(recv(&s, 100, 0).map(|b| b.len()), Ok(10));
}

#[test]
fn overlapping_pieces_make_one_stream() {
    use crate::hdr::tcp_flag::ACK;
    let w = World::new();
    let (_c, s) = w.connect();
    let nxt = {
        let mut g = s.sk.lock_sock();
        super::tcp_sock::tcp_sk(&mut *g).rcv_nxt
    };
    // (offset, length): beyond a hole, overlapping in every way, then the hole.
    for (at, len) in [(100u32, 50), (120, 10), (140, 40), (90, 20), (300, 10), (200, 150), (60, 400), (0, 70)] {
        inject(&s, |tp| (nxt.wrapping_add(at), tp.snd_nxt, ACK, stamp(tp, 0), len));
        let mut g = s.sk.lock_sock();
        let tp = super::tcp_sock::tcp_sk(&mut *g);
        let mut end = None;
        for (k, p) in &tp.ofo.out_of_order_queue {
            let cb = super::tcp_sock::tcp_skb_cb(p);
            assert_eq!((k.0, p.len() as u32), (cb.seq, cb.end_seq.wrapping_sub(cb.seq)));
            assert!(end.is_none_or(|e| !super::tcp_queue::after(e, cb.seq)), "no overlaps");
            end = Some(cb.end_seq);
        }
    }
    assert_eq!(recv(&s, 1000, 0).map(|b| b.len()), Ok(460));
    assert_eq!(s.sk.rmem_alloc.load(SeqCst), 0);
    let mut g = s.sk.lock_sock();
    assert_eq!(super::tcp_sock::tcp_sk(&mut *g).rx_opt.num_sacks, 0);
}

#[test]
fn many_tiny_segments_stay_within_the_buffer() {
    use crate::hdr::tcp_flag::{ACK, PSH};
    let w = World::new();
    let (_c, s) = w.connect();
    for i in 0..20_000u32 {
        inject(&s, |tp| (tp.rcv_nxt, tp.snd_nxt, ACK | PSH, stamp(tp, 0), 1));
        // Every other byte beyond a hole, now and then.
        if i % 7 == 0 {
            inject(&s, |tp| (tp.rcv_nxt.wrapping_add(2 + i % 1000 * 2), tp.snd_nxt, ACK, stamp(tp, 0), 1));
        }
        let (mem, max) = (s.sk.rmem_alloc.load(SeqCst), s.sk.rcvbuf.load(SeqCst) as usize);
        assert!(mem <= max + 70_000, "{mem} of {max} after {i}");
    }
    let got = recv(&s, 1 << 20, 0).unwrap().len();
    assert!(got >= 15_000, "{got}: {}", w.mibs());
}

#[test]
fn acks_are_delayed_but_not_for_long() {
    let w = World::new();
    let (c, s) = w.connect();
    // Past the quick ACKs of the start.
    for _ in 0..20 {
        send(&c, b"request").unwrap();
        w.run(30);
        recv(&s, 100, 0).unwrap();
        send(&s, b"reply").unwrap();
        w.run(30);
        recv(&c, 100, 0).unwrap();
    }
    let acks = w.b.mib.get(Mib::TcpExtDelayedACKs);
    send(&c, b"no reply").unwrap();
    w.run(300);
    assert_eq!(w.b.mib.get(Mib::TcpExtDelayedACKs), acks + 1, "{}", w.mibs());
    assert_eq!(info(&c).tcpi_unacked, 0);
}

// --- Congestion ---

#[test]
fn a_congestion_mark_reduces_the_window_once_a_round_trip() {
    use crate::core::netfilter::{HookPoint, Verdict};
    use crate::hdr::{IPPROTO_TCP, IpHdr};
    let w = World::with(NetemParams { delay_ns: 5_000_000, limit: 100_000, ..NetemParams::default() });
    w.a.sysctl.set("net.ipv4.tcp_ecn", 1).unwrap();
    let (c, s) = w.connect();
    w.transfer(&c, &s, &pattern(100_000));
    let before = info(&c);
    // A router on the way marks what may be marked.
    let mark = |_: &Arc<Net>, mut skb: Box<crate::core::skbuff::Skb>| {
        if let Some(h) = IpHdr::read_mut(skb.data_mut())
            && h.protocol == IPPROTO_TCP
            && h.tos & 3 == 2
        {
            h.tos |= 3;
        }
        Verdict::Accept(skb)
    };
    w.b.nf.set(HookPoint::PreRouting, Some(Box::new(mark)));
    w.transfer(&c, &s, &pattern(300_000));
    w.run(100);
    let after = info(&c);
    assert!(after.tcpi_snd_ssthresh < before.tcpi_snd_ssthresh, "{} {}", after.tcpi_snd_ssthresh, w.mibs());
    assert!(after.tcpi_delivered_ce > 0);
    assert!(after.tcpi_snd_cwnd >= 2);
    assert_eq!(w.a.mib.get(Mib::TcpRetransSegs), 0, "nothing was lost");
}

#[test]
fn a_spurious_timeout_is_taken_back() {
    let w = World::with(NetemParams { delay_ns: 20_000_000, limit: 100_000, ..NetemParams::default() });
    let (c, s) = w.connect();
    w.transfer(&c, &s, &pattern(500_000));
    w.run(200);
    let before = info(&c);
    // The path becomes slower than the timeout, and loses nothing.
    w.set(NetemParams { delay_ns: 700_000_000, limit: 100_000, ..NetemParams::default() });
    let data = pattern(200_000);
    let sent = send(&c, &data).unwrap();
    w.run(4000);
    let after = info(&c);
    assert!(w.a.mib.get(Mib::TcpExtTCPTimeouts) > 0, "{}", w.mibs());
    let undone = [Mib::TcpExtTCPLossUndo, Mib::TcpExtTCPFullUndo, Mib::TcpExtTCPDSACKUndo, Mib::TcpExtTCPPartialUndo];
    assert!(undone.iter().any(|m| w.a.mib.get(*m) > 0), "{}", w.mibs());
    assert!(after.tcpi_snd_cwnd >= before.tcpi_snd_cwnd / 2, "{} {}", before.tcpi_snd_cwnd, after.tcpi_snd_cwnd);
    assert_eq!(recv(&s, 1 << 20, 0).map(|b| b.len()), Ok(sent));
}

// --- Everything at once ---

#[test]
fn any_mixture_of_impairments_is_survived() {
    for seed in 0..60u64 {
        // Small independent numbers from the seed.
        let mut x = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut draw = |n: u64| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x % n
        };
        let p = NetemParams {
            loss: draw(8) as f64 / 100.0,
            duplicate: draw(4) as f64 / 100.0,
            corrupt: draw(3) as f64 / 100.0,
            reorder: draw(10) as f64 / 100.0,
            delay_ns: draw(40) * 1_000_000,
            jitter_ns: draw(4) * 1_000_000,
            gap: 0,
            limit: 100_000,
            ..NetemParams::default()
        };
        let w = World::with(NetemParams { delay_ns: p.delay_ns, limit: 100_000, ..NetemParams::default() });
        for (name, n) in
            [("sack", 4), ("timestamps", 4), ("window_scaling", 4), ("dsack", 3), ("frto", 3), ("recovery", 1)]
        {
            let on = draw(n) as i64;
            [&w.a, &w.b].iter().for_each(|n| n.sysctl.set(&format!("net.ipv4.tcp_{name}"), (on > 0) as i64).unwrap());
        }
        let (c, s) = w.connect();
        w.set(p);
        if draw(3) == 0 {
            c.setsockopt(IPPROTO_TCP, TCP_CONGESTION, b"reno").unwrap();
        }
        let data = pattern(20_000 + draw(200_000) as usize);
        w.transfer(&c, &s, &data);
        w.transfer(&s, &c, &data[..data.len() / 3]);
        // All counts return to nothing once all is acknowledged, and the connection ends.
        let quiet = |x: &Socket| {
            let i = info(x);
            [i.tcpi_unacked, i.tcpi_sacked, i.tcpi_lost, i.tcpi_retrans]
        };
        let mut waited = 0;
        while (quiet(&c), quiet(&s)) != ([0; 4], [0; 4]) {
            assert!(waited < 100, "seed {seed}: {:?} {:?} {}", quiet(&c), quiet(&s), w.mibs());
            w.run(1000);
            waited += 1;
        }
        assert_eq!([&c, &s].map(|x| x.sk.wmem_queued.load(SeqCst)), [0, 0], "seed {seed}");
        assert_eq!([&c, &s].map(|x| x.sk.rmem_alloc.load(SeqCst)), [0, 0], "seed {seed}");
        c.release();
        s.release();
        w.run(300_000);
        assert_eq!([&c, &s].map(|x| x.sk.state()), [TcpState::Close; 2], "seed {seed}: {}", w.mibs());
    }
}
