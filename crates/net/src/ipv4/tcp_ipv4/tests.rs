//! A listener and a wire: segments in, segments out, on a clock set by hand.

mod accepted_reset;
mod transitions;

use super::*;
use crate::core::checksum::{csum_fold, csum_partial, csum_tcpudp_magic};
use crate::core::dev::{
    ETH_P_IP, Features, Iff, NetDevice, NetDeviceOps, NetDeviceSpec, NetdevTx, netif_rx, register_netdevice,
};
use crate::core::skbuff::MAX_HEADER;
use crate::core::test_arch::bytes;
use crate::init::net_init;
use crate::ipv4::devinet::inet_addr_add;
use crate::ipv4::fib_frontend::{RouteSpec, ip_route_add};
use crate::ipv4::inet_hashtables::{set_sk_lookup, tcp_hashinfo};
use crate::ipv4::ip_output::ip_send_check;
use crate::ipv4::test_support::{TestNet, timestamp};
use crate::syscall::FdTable;
use kernel::SpinLock;
use proptest::prelude::*;
use std::net::Ipv4Addr;
use uapi::socket::{AF_INET, MSG_DONTWAIT, SOCK_NONBLOCK, SOCK_STREAM};

const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

#[derive(Default)]
#[allow(clippy::vec_box)]
struct Wire(SpinLock<Vec<Box<Skb>>>);

impl NetDeviceOps for Arc<Wire> {
    fn ndo_start_xmit(&self, _dev: &Arc<NetDevice>, mut skb: Box<Skb>) -> NetdevTx {
        skb.orphan();
        self.0.lock_bh().push(skb);
        NetdevTx::Ok
    }
    fn lltx(&self) -> bool {
        true
    }
}

/// A segment, either way.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seg {
    src: Ipv4Addr,
    dst: Ipv4Addr,
    sport: u16,
    dport: u16,
    seq: u32,
    ack: u32,
    flags: u8,
    opts: Vec<u8>,
    payload: Vec<u8>,
}

impl Seg {
    /// From the peer's port 1000 to our port 80.
    fn new(seq: u32, ack: u32, flags: u8) -> Seg {
        Seg { src: PEER, dst: HOST, sport: 1000, dport: 80, seq, ack, flags, opts: vec![], payload: vec![] }
    }

    fn from(mut self, sport: u16) -> Seg {
        self.sport = sport;
        self
    }

    fn with(mut self, opts: &[u8]) -> Seg {
        self.opts = opts.to_vec();
        self
    }

    fn packet(&self) -> Vec<u8> {
        let mut t = vec![0; TcpHdr::LEN];
        t.extend_from_slice(&self.opts);
        let th = TcpHdr::read_mut(&mut t).unwrap();
        th.source.set(self.sport);
        th.dest.set(self.dport);
        th.seq.set(self.seq);
        th.ack_seq.set(self.ack);
        th.doff = ((TcpHdr::LEN + self.opts.len()) as u8 / 4) << 4;
        th.flags = self.flags;
        th.window.set(65535);
        t.extend_from_slice(&self.payload);
        let sum = csum_tcpudp_magic(self.src.into(), self.dst.into(), t.len(), IPPROTO_TCP, csum_partial(&t, 0));
        TcpHdr::read_mut(&mut t).unwrap().check = sum;
        let mut b = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, IPPROTO_TCP, 0, 0];
        b.extend_from_slice(&self.src.octets());
        b.extend_from_slice(&self.dst.octets());
        b[2..4].copy_from_slice(&((20 + t.len()) as u16).to_be_bytes());
        ip_send_check(&mut b);
        b.extend_from_slice(&t);
        b
    }

    fn parse(b: &[u8]) -> Seg {
        let ip = IpHdr::read(b).unwrap();
        assert_eq!(csum_fold(csum_partial(&b[..20], 0)), [0, 0], "IP checksum");
        let t = &b[20..ip.tot_len.get() as usize];
        let th = TcpHdr::read(t).unwrap();
        let sum = csum_tcpudp_magic(ip.src().into(), ip.dst().into(), t.len(), IPPROTO_TCP, csum_partial(t, 0));
        assert_eq!(sum, [0, 0], "TCP checksum");
        Seg {
            src: ip.src(),
            dst: ip.dst(),
            sport: th.source.get(),
            dport: th.dest.get(),
            seq: th.seq.get(),
            ack: th.ack_seq.get(),
            flags: th.flags,
            opts: t[TcpHdr::LEN..th.header_len()].to_vec(),
            payload: t[th.header_len()..].to_vec(),
        }
    }

    fn brief(&self) -> (u8, u32, u32) {
        (self.flags, self.seq, self.ack)
    }
}

struct Machine {
    t: TestNet,
    wire: Arc<Wire>,
    dev: Arc<NetDevice>,
    files: FdTable,
}

impl Machine {
    fn new() -> Machine {
        let t = TestNet::with(net_init);
        let wire = Arc::new(Wire::default());
        let spec = NetDeviceSpec {
            name: "eth0".to_owned(),
            addr: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            flags: Iff::UP | Iff::NOARP | Iff::POINTOPOINT,
            hard_header_len: 0,
            features: Features::SG,
            ops: Box::new(wire.clone()),
        };
        let dev = register_netdevice(&t.net, spec).unwrap();
        inet_addr_add(&dev, HOST, 24).unwrap();
        ip_route_add(&t.net, RouteSpec::default_via(PEER)).unwrap();
        let files = FdTable::new(&t.net, 1000);
        Machine { t, wire, dev, files }
    }

    fn net(&self) -> &Arc<Net> {
        &self.t.net
    }

    fn mib(&self, m: Mib) -> u64 {
        self.net().mib.get(m)
    }

    /// A listener on port 80 of any address.
    fn listener(&self, backlog: i32) -> i32 {
        let fd = self.files.socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0).unwrap();
        self.files.bind(fd, &SockAddr::from(std::net::SocketAddr::from(([0, 0, 0, 0], 80)))).unwrap();
        self.files.listen(fd, backlog).unwrap();
        fd
    }

    fn receive(&self, packet: &[u8]) {
        let _inside = self.t.kernel.enter();
        let mut skb = Skb::from_bytes(MAX_HEADER, packet);
        skb.dev = Some(self.dev.clone());
        skb.protocol = ETH_P_IP;
        netif_rx(skb).unwrap();
    }

    /// What came out since the last call.
    fn sent(&self) -> Vec<Seg> {
        std::mem::take(&mut *self.wire.0.lock_bh()).iter().map(|s| Seg::parse(&bytes(s))).collect()
    }

    /// Sends a segment in; what comes out.
    fn ask(&self, s: Seg) -> Vec<Seg> {
        self.sent();
        self.receive(&s.packet());
        self.sent()
    }

    fn ask_one(&self, s: Seg) -> Seg {
        let mut got = self.ask(s.clone());
        assert_eq!(got.len(), 1, "answers to {s:?}: {got:?}");
        got.remove(0)
    }

    fn entries(&self) -> usize {
        tcp_hashinfo(self.net()).ehash.len()
    }

    fn accept(&self, l: i32) -> Result<i32> {
        self.files.accept(l).map(|(fd, _)| fd)
    }

    /// An established connection from `port`; its descriptor and the number after our SYN.
    fn establish(&self, l: i32, port: u16) -> (i32, u32) {
        let synack = self.ask_one(Seg::new(100, 0, SYN).from(port));
        assert_eq!(self.ask(Seg::new(101, synack.seq + 1, ACK).from(port)), []);
        (self.accept(l).unwrap(), synack.seq.wrapping_add(1))
    }
}

#[test]
fn three_packets_make_a_connection() {
    let m = Machine::new();
    let l = m.listener(5);
    let synack = m.ask_one(Seg::new(100, 0, SYN));
    assert_eq!((synack.flags, synack.ack, synack.sport, synack.dport), (SYN | ACK, 101, 80, 1000));
    assert_eq!(synack.opts, [2, 4, 5, 180], "MSS 1460 and nothing that was not asked for");
    assert_eq!(m.accept(l), Err(Errno::EAGAIN));
    assert_eq!((m.entries(), m.mib(Mib::TcpPassiveOpens)), (1, 0));
    assert_eq!(m.ask(Seg::new(101, synack.seq.wrapping_add(1), ACK)), []);
    assert_eq!((m.entries(), m.mib(Mib::TcpPassiveOpens), m.mib(Mib::TcpCurrEstab)), (1, 1, 1));
    let fd = m.accept(l).unwrap();
    assert_eq!(m.files.getpeername(fd), Ok(SockAddr::from(std::net::SocketAddr::from((PEER, 1000)))));
    assert_eq!(m.accept(l), Err(Errno::EAGAIN));
}

#[test]
fn options_are_agreed_on() {
    let m = Machine::new();
    m.listener(5);
    let mut opts = vec![2, 4, 5, 180, 4, 2];
    opts.extend_from_slice(&timestamp(7, 0)[2..]);
    opts.extend_from_slice(&[1, 3, 3, 9]);
    let synack = m.ask_one(Seg::new(100, 0, SYN).with(&opts));
    let mut o = TcpOptions::default();
    crate::ipv4::tcp_options::tcp_parse_options(&synack.opts, &mut o, false);
    assert!(o.sack_ok && o.wscale_ok && o.saw_tstamp);
    assert_eq!((o.rcv_tsecr, o.mss_clamp), (7, 1460));
    m.net().sysctl.tcp_sack.set(0).unwrap();
    m.net().sysctl.tcp_timestamps.set(0).unwrap();
    m.net().sysctl.tcp_window_scaling.set(0).unwrap();
    let synack = m.ask_one(Seg::new(100, 0, SYN).with(&opts).from(1001));
    assert_eq!(synack.opts, [2, 4, 5, 180]);
}

type TcpOptions = crate::ipv4::tcp_sock::TcpOptionsReceived;

#[test]
fn nobody_s_segments_are_reset() {
    let m = Machine::new();
    assert_eq!(m.ask_one(Seg::new(100, 7, ACK)).brief(), (RST, 7, 0));
    assert_eq!(m.ask_one(Seg::new(100, 0, SYN)).brief(), (RST | ACK, 0, 101));
    let mut data = Seg::new(100, 0, FIN);
    data.payload = vec![0; 10];
    assert_eq!(m.ask_one(data).brief(), (RST | ACK, 0, 111));
    assert_eq!(m.ask(Seg::new(100, 0, RST)), []);
    assert_eq!(m.ask(Seg::new(100, 7, RST | ACK)), []);
    assert_eq!(m.mib(Mib::TcpOutRsts), 3);
}

#[test]
fn damaged_segments_are_counted_and_dropped() {
    let m = Machine::new();
    m.listener(5);
    let mut p = Seg::new(100, 0, SYN).packet();
    p[39] ^= 1;
    m.receive(&p);
    assert_eq!((m.mib(Mib::TcpInCsumErrors), m.mib(Mib::TcpInErrs), m.mib(Mib::TcpInSegs)), (1, 1, 1));
    let mut p = Seg::new(100, 0, SYN).packet();
    p[32] = 0x40;
    m.receive(&p);
    let mut p = Seg::new(100, 0, SYN).packet();
    p[32] = 0xf0;
    m.receive(&p);
    assert_eq!((m.mib(Mib::TcpInCsumErrors), m.mib(Mib::TcpInErrs)), (1, 3));
    assert_eq!((m.sent(), m.entries()), (vec![], 0));
}

#[test]
fn a_lost_syn_ack_is_sent_again() {
    let m = Machine::new();
    m.listener(5);
    let first = m.ask_one(Seg::new(100, 0, SYN));
    m.t.advance(1100);
    assert_eq!(m.sent(), std::slice::from_ref(&first));
    assert_eq!(m.mib(Mib::TcpRetransSegs), 1);
    assert_eq!(m.ask_one(Seg::new(100, 0, SYN)), first, "the peer asks again");
    m.t.advance(120_000);
    assert_eq!(m.sent().len(), 4);
    assert_eq!(m.entries(), 0);
    assert_eq!(m.ask_one(Seg::new(101, first.seq + 1, ACK)).flags, RST, "too late");
}

#[test]
fn a_reset_or_a_wrong_ack_of_a_request() {
    let m = Machine::new();
    let l = m.listener(5);
    let synack = m.ask_one(Seg::new(100, 0, SYN));
    assert_eq!(m.ask_one(Seg::new(101, synack.seq + 5, ACK)).brief(), (RST, synack.seq + 5, 0));
    assert_eq!(m.entries(), 1, "the request stays");
    assert_eq!(m.ask(Seg::new(101, 0, RST)), []);
    assert_eq!((m.entries(), m.mib(Mib::TcpExtEmbryonicRsts), m.mib(Mib::TcpAttemptFails)), (0, 1, 1));
    assert_eq!(m.accept(l), Err(Errno::EAGAIN));
}

#[test]
fn a_flood_of_syns_is_answered_with_cookies() {
    let m = Machine::new();
    let l = m.listener(10);
    for port in 1..500 {
        m.receive(&Seg::new(100, 0, SYN).from(port).packet());
    }
    assert_eq!(m.sent().len(), 499);
    assert!(m.entries() <= 12, "{} requests", m.entries());
    assert_eq!(m.mib(Mib::TcpExtSyncookiesSent) as usize, 499 - m.entries());
    // One of them was honest.
    let synack = m.ask_one(Seg::new(100, 0, SYN).from(2000));
    assert_eq!(m.ask(Seg::new(101, synack.seq.wrapping_add(1), ACK).from(2000)), []);
    assert_eq!(m.mib(Mib::TcpExtSyncookiesRecv), 1);
    assert!(m.accept(l).is_ok());
    assert_eq!(m.ask_one(Seg::new(101, synack.seq.wrapping_add(99_999), ACK).from(2001)).flags, RST);
    assert_eq!(m.mib(Mib::TcpExtSyncookiesFailed), 1);

    m.net().sysctl.tcp_syncookies.set(0).unwrap();
    assert_eq!(m.ask(Seg::new(100, 0, SYN).from(3000)), []);
    assert_eq!(m.mib(Mib::TcpExtTCPReqQFullDrop), 1);
}

#[test]
fn a_full_accept_queue_makes_the_peer_wait() {
    let m = Machine::new();
    let l = m.listener(1);
    let syn = |port| m.ask_one(Seg::new(100, 0, SYN).from(port));
    let ack = |port, synack: &Seg| m.ask(Seg::new(101, synack.seq.wrapping_add(1), ACK).from(port));
    let (first, second) = (syn(1), syn(2));
    assert_eq!(ack(1, &first), []);
    let third = syn(3);
    assert_eq!(ack(2, &second), []);
    assert_eq!(ack(3, &third), [], "ignored, not refused");
    assert_eq!(m.mib(Mib::TcpExtListenOverflows), 1);
    assert_eq!(m.ask(Seg::new(100, 0, SYN).from(4)), []);
    assert_eq!(m.mib(Mib::TcpExtListenOverflows), 2);
    m.t.advance(1100);
    assert_eq!(m.sent(), std::slice::from_ref(&third), "so that the peer acknowledges again");
    assert!(m.accept(l).is_ok() && m.accept(l).is_ok());
    assert_eq!(m.accept(l), Err(Errno::EAGAIN));
    assert_eq!(ack(3, &third), []);
    assert!(m.accept(l).is_ok());

    m.net().sysctl.tcp_abort_on_overflow.set(1).unwrap();
    let (a, b) = (syn(5), syn(6));
    assert_eq!(ack(5, &a), []);
    let c = syn(7);
    assert_eq!(ack(6, &b), []);
    assert_eq!(ack(7, &c)[0].brief(), (RST, c.seq.wrapping_add(1), 0));
}

#[test]
fn a_new_connection_takes_over_one_in_time_wait() {
    let m = Machine::new();
    let l = m.listener(5);
    let (fd, snd) = m.establish(l, 1000);
    m.sent();
    m.files.close(fd).unwrap();
    assert_eq!(m.sent().iter().map(Seg::brief).collect::<Vec<_>>(), [(FIN | ACK, snd, 101)]);
    assert_eq!(m.ask(Seg::new(101, snd + 1, ACK)), []);
    assert_eq!(m.ask_one(Seg::new(101, snd + 1, FIN | ACK)).brief(), (ACK, snd + 1, 102));
    assert_eq!(tcp_hashinfo(m.net()).tw_count.load(SeqCst), 1);
    assert_eq!(m.ask_one(Seg::new(101, snd + 1, FIN | ACK)).brief(), (ACK, snd + 1, 102), "the FIN again");
    // A SYN beyond what was received is a new connection.
    let synack = m.ask_one(Seg::new(500, 0, SYN));
    assert_eq!((synack.flags, synack.seq, synack.ack), (SYN | ACK, (snd + 1).wrapping_add(65537), 501));
    assert_eq!(tcp_hashinfo(m.net()).tw_count.load(SeqCst), 0);
    assert_eq!(m.ask(Seg::new(501, synack.seq.wrapping_add(1), ACK)), []);
    assert!(m.accept(l).is_ok());
}

#[test]
fn a_listener_can_answer_for_any_address() {
    let m = Machine::new();
    let l = m.listener(5);
    let sk = m.files.sockfd_lookup(l).unwrap().sk.clone();
    ip_route_add(m.net(), RouteSpec::local(Ipv4Addr::new(93, 0, 0, 0), 8, m.dev.ifindex)).unwrap();
    set_sk_lookup(m.net(), Some(Box::new(move |_| Some(sk.clone()))));
    let far = Ipv4Addr::new(93, 184, 216, 34);
    let to_far = |mut s: Seg| {
        (s.dst, s.dport) = (far, 443);
        s
    };
    let synack = m.ask_one(to_far(Seg::new(100, 0, SYN)));
    assert_eq!((synack.src, synack.sport), (far, 443));
    assert_eq!(m.ask(to_far(Seg::new(101, synack.seq + 1, ACK))), []);
    let fd = m.accept(l).unwrap();
    assert_eq!(m.files.getsockname(fd), Ok(SockAddr::from(std::net::SocketAddr::from((far, 443)))));
    m.files.send(fd, b"hi", 0).unwrap();
    let sent = m.sent();
    assert_eq!((sent[0].src, &sent[0].payload[..]), (far, &b"hi"[..]));
}

#[test]
fn a_handshake_does_not_wait_for_the_listener_s_owner() {
    let m = Machine::new();
    let l = m.listener(5);
    let sk = m.files.sockfd_lookup(l).unwrap().sk.clone();
    let _inside = m.t.kernel.enter();
    let owner = sk.lock_sock();
    let sent = m.ask(Seg::new(100, 0, SYN));
    assert_eq!(sent.len(), 1);
    assert_eq!(m.ask(Seg::new(101, sent[0].seq + 1, ACK)), []);
    drop(owner);
    assert!(m.accept(l).is_ok());
}

#[test]
fn children_have_the_options_the_listener_has_now() {
    let m = Machine::new();
    let l = m.listener(5);
    let idle = |fd| m.files.getsockopt(fd, IPPROTO_TCP as i32, uapi::tcp::TCP_KEEPIDLE, 4).unwrap();
    let connect = |port: u16| {
        let sent = m.ask(Seg::new(100, 0, SYN).from(port));
        m.ask(Seg::new(101, sent[0].seq + 1, ACK).from(port));
        m.accept(l).unwrap()
    };
    for (port, secs) in [(1000, 100i32), (1001, 50)] {
        m.files.setsockopt(l, IPPROTO_TCP as i32, uapi::tcp::TCP_KEEPIDLE, &secs.to_ne_bytes()).unwrap();
        assert_eq!(idle(connect(port)), secs.to_ne_bytes());
    }
    // An option of level IPPROTO_IP.
    m.files.setsockopt(l, 0, uapi::socket::IP_TTL, &7i32.to_ne_bytes()).unwrap();
    let child = connect(1002);
    assert_eq!(m.files.getsockopt(child, 0, uapi::socket::IP_TTL, 4).unwrap(), 7i32.to_ne_bytes());
}

#[test]
fn a_syn_that_nobody_answers_is_sent_again_and_given_up() {
    let m = Machine::new();
    let fd = m.files.socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0).unwrap();
    let to = SockAddr::from(std::net::SocketAddr::from((PEER, 9)));
    assert_eq!(m.files.connect(fd, &to), Err(Errno::EINPROGRESS));
    let (mut at, mut seqs) = (Vec::new(), Vec::new());
    for decisecond in 0..2000 {
        for s in m.sent() {
            assert_eq!(s.flags & (SYN | ACK | RST), SYN);
            at.push(decisecond / 10);
            seqs.push(s.seq);
        }
        m.t.advance(100);
    }
    seqs.dedup();
    assert_eq!(seqs.len(), 1);
    // The first ones without back-off (`tcp_syn_linear_timeouts`), then doubled each time.
    let ideal = [0, 1, 2, 3, 4, 5, 7, 11, 19, 35, 67];
    assert!(at.len() == 11 && at.iter().zip(ideal).all(|(a, i)| (i..=i + i / 8 + 1).contains(a)), "sent at {at:?}");
    assert_eq!(m.files.connect(fd, &to), Err(Errno::ETIMEDOUT));
    assert_eq!(m.entries(), 0);
}

/// An ICMP error from the peer about a segment of ours.
fn icmp(kind: u8, code: u8, info: u16, quoted: &[u8]) -> Vec<u8> {
    let mut i = vec![kind, code, 0, 0, 0, 0];
    i.extend_from_slice(&info.to_be_bytes());
    i.extend_from_slice(&quoted[..28]);
    let sum = csum_fold(csum_partial(&i, 0));
    i[2..4].copy_from_slice(&sum);
    let mut b = vec![0x45, 0, 0, (20 + i.len()) as u8, 0, 1, 0, 0, 64, 1, 0, 0];
    b.extend_from_slice(&PEER.octets());
    b.extend_from_slice(&HOST.octets());
    ip_send_check(&mut b);
    b.extend_from_slice(&i);
    b
}

#[test]
fn icmp_errors_end_attempts_and_spare_connections() {
    let m = Machine::new();
    let fd = m.files.socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0).unwrap();
    let to = SockAddr::from(std::net::SocketAddr::from((PEER, 9)));
    assert_eq!(m.files.connect(fd, &to), Err(Errno::EINPROGRESS));
    let syn = m.sent().remove(0);
    assert_eq!(syn.flags & (SYN | ACK), SYN);
    let mut forged = syn.clone();
    forged.seq = syn.seq.wrapping_sub(1000);
    m.receive(&icmp(3, 1, 0, &forged.packet()));
    assert_eq!(m.mib(Mib::TcpExtOutOfWindowIcmps), 1);
    m.receive(&icmp(3, 1, 0, &syn.packet()));
    assert_eq!(m.files.connect(fd, &to), Err(Errno::EHOSTUNREACH));
    assert_eq!(m.entries(), 0);

    let l = m.listener(5);
    let (fd, snd) = m.establish(l, 1000);
    m.files.send(fd, b"data", 0).unwrap();
    let data = m.sent().remove(0);
    assert_eq!(data.seq, snd);
    m.receive(&icmp(3, 1, 0, &data.packet()));
    assert_eq!(m.files.send(fd, b"more", 0), Ok(4), "an established connection survives");

    let synack = m.ask_one(Seg::new(100, 0, SYN).from(2000));
    assert_eq!(m.entries(), 2);
    m.receive(&icmp(3, 1, 0, &synack.packet()));
    assert_eq!(m.entries(), 1, "a request does not");
}

#[test]
fn packet_too_big_makes_smaller_segments() {
    for owned in [false, true] {
        let m = Machine::new();
        let l = m.listener(5);
        let synack = m.ask_one(Seg::new(100, 0, SYN).with(&[2, 4, 5, 180]));
        m.ask(Seg::new(101, synack.seq.wrapping_add(1), ACK));
        let fd = m.accept(l).unwrap();
        let sk = m.files.sockfd_lookup(fd).unwrap().sk.clone();
        m.files.send(fd, &[7; 2920], 0).unwrap();
        let first = m.sent();
        assert_eq!(first.iter().map(|s| s.payload.len()).collect::<Vec<_>>(), [1460, 1460]);
        let too_big = |quoted: &Seg| {
            let _inside = m.t.kernel.enter();
            let owner = owned.then(|| sk.lock_sock());
            m.receive(&icmp(3, 4, 1000, &quoted.packet()));
            drop(owner);
        };
        let mut forged = first[0].clone();
        forged.seq = forged.seq.wrapping_sub(70_000);
        too_big(&forged);
        assert_eq!((m.sent(), m.mib(Mib::TcpExtOutOfWindowIcmps)), (vec![], 1));
        too_big(&first[0]);
        let again = m.sent();
        assert!(!again.is_empty() && again.iter().all(|s| s.payload.len() <= 960), "{again:?}");
        assert_eq!(again[0].seq, first[0].seq);
    }
}

fn some_flags() -> impl Strategy<Value = u8> {
    prop_oneof![3 => Just(SYN), 5 => Just(ACK), 2 => Just(FIN | ACK), 1 => Just(RST), 1 => Just(SYN | ACK), 2 => any::<u8>()]
}

fn some_seq() -> impl Strategy<Value = u32> {
    prop_oneof![2 => Just(0u32), 4 => Just(1), 2 => 0u32..400, 1 => any::<u32>()]
}

fn some_ack() -> impl Strategy<Value = i64> {
    prop_oneof![5 => Just(1i64), 1 => Just(6), 1 => -3i64..400, 1 => 0i64..1 << 32]
}

fn some_opts() -> impl Strategy<Value = Vec<u8>> {
    let syn = vec![2u8, 4, 5, 180, 4, 2, 1, 3, 3, 7, 0, 0];
    prop_oneof![4 => Just(vec![]), 2 => Just(syn), 1 => Just(timestamp(5, 5)), 2 => prop::collection::vec(any::<u8>(), 0..40)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_segments_do_harm(
        segs in proptest::collection::vec(
            (some_flags(), some_seq(), some_ack(), 0u16..3, 0usize..2000, some_opts(), 0u64..300),
            1..60,
        )
    ) {
        let m = Machine::new();
        let l = m.listener(3);
        let mut isns = [0u32; 3];
        for (flags, seq, ack, port, payload, mut opts, wait) in segs {
            opts.truncate(opts.len() / 4 * 4);
            let isn = &mut isns[port as usize];
            let mut s = Seg::new(100u32.wrapping_add(seq), isn.wrapping_add(ack as u32), flags).from(port).with(&opts);
            s.payload = vec![7; payload.saturating_sub(600)];
            for out in m.ask(s) {
                if out.flags & SYN != 0 {
                    *isn = out.seq;
                }
            }
            if let Ok(fd) = m.accept(l) {
                let _ = m.files.send(fd, b"hello", MSG_DONTWAIT);
                let _ = m.files.recv(fd, &mut [0; 3000], MSG_DONTWAIT);
                if wait % 2 == 0 {
                    m.files.close(fd).unwrap();
                }
            }
            m.t.advance(wait);
        }
        m.files.close_all(false);
        m.t.advance(400_000);
        prop_assert_eq!(m.entries(), 0, "something was left behind");
        prop_assert_eq!(m.mib(Mib::TcpCurrEstab), 0);
    }
}

// --- Two ends and a bad wire ---

/// What a client has left to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Connect,
    Send,
    Read(usize),
    Done,
}

const MESSAGE: usize = 3000;

/// One more step of a client, if it can be done.
fn client_step(f: &FdTable, fd: i32, to: &SockAddr, step: Step) -> Step {
    match step {
        Step::Connect => match f.connect(fd, to) {
            Ok(()) | Err(Errno::EISCONN) => Step::Send,
            Err(Errno::EINPROGRESS | Errno::EALREADY) => step,
            Err(e) => panic!("connect: {e}"),
        },
        Step::Send => {
            assert_eq!(f.send(fd, &[fd as u8; MESSAGE], MSG_DONTWAIT), Ok(MESSAGE));
            f.shutdown(fd, uapi::socket::SHUT_WR).unwrap();
            Step::Read(0)
        }
        Step::Read(done) => {
            let mut b = [0; MESSAGE];
            match f.recv(fd, &mut b, MSG_DONTWAIT) {
                Ok(0) => {
                    assert_eq!(done, MESSAGE);
                    f.close(fd).unwrap();
                    Step::Done
                }
                Ok(n) => {
                    assert!(b[..n].iter().all(|&x| x == fd as u8), "bytes of another connection");
                    Step::Read(done + n)
                }
                Err(Errno::EAGAIN) => step,
                Err(e) => panic!("recv: {e}"),
            }
        }
        Step::Done => step,
    }
}

/// Echoes what has come on each connection; closes those that are at their end.
fn serve(f: &FdTable, l: i32, served: &mut Vec<i32>) {
    while let Ok((fd, _)) = f.accept(l) {
        served.push(fd);
    }
    served.retain(|&fd| {
        let mut b = [0; MESSAGE];
        loop {
            match f.recv(fd, &mut b, MSG_DONTWAIT) {
                Ok(0) => {
                    f.close(fd).unwrap();
                    return false;
                }
                Ok(n) => assert_eq!(f.send(fd, &b[..n], MSG_DONTWAIT), Ok(n)),
                Err(Errno::EAGAIN) => return true,
                Err(e) => panic!("server: {e}"),
            }
        }
    });
}

#[test]
fn connections_survive_a_wire_that_loses_reorders_and_duplicates() {
    use crate::drivers::netem::{Netem, NetemParams};
    use crate::drivers::veth::veth_pair_with;
    let t = TestNet::with(net_init);
    let other = Net::new(&t.net.reg);
    let netem = Netem::new(NetemParams::default(), 42);
    let (a, b) = veth_pair_with(&t.net, "eth0", &other, "eth0", |s| netem.wrap(s), |s| netem.wrap(s)).unwrap();
    for (dev, addr) in [(&a, HOST), (&b, PEER)] {
        crate::core::dev::dev_open(dev).unwrap();
        inet_addr_add(dev, addr, 24).unwrap();
    }
    for net in [&t.net, &other] {
        // The neighbours know each other for good: this is about TCP.
        net.sysctl.neigh_base_reachable_time_ms.set(i32::MAX as i64).unwrap();
    }
    let (clients, server) = (FdTable::new(&t.net, 200), FdTable::new(&other, 200));
    let l = server.socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0).unwrap();
    let to = SockAddr::from(std::net::SocketAddr::from((PEER, 80)));
    server.bind(l, &to).unwrap();
    server.listen(l, 128).unwrap();
    let open = || clients.socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0).unwrap();
    let mut todo = vec![(open(), Step::Connect)];
    let mut served = Vec::new();
    for ms in 0..600_000 {
        if ms == 100 {
            assert_eq!(todo[0].1, Step::Done, "a good wire");
            let bad = NetemParams {
                loss: 0.15,
                duplicate: 0.05,
                delay_ns: 5_000_000,
                jitter_ns: 4_000_000,
                ..NetemParams::default()
            };
            netem.set(NetemParams { limit: 1000, ..bad });
            todo.extend((0..50).map(|_| (open(), Step::Connect)));
        }
        for (fd, step) in &mut todo {
            *step = client_step(&clients, *fd, &to, *step);
        }
        serve(&server, l, &mut served);
        t.advance(1);
        if ms > 100 && todo.iter().all(|(_, s)| *s == Step::Done) && served.is_empty() {
            break;
        }
    }
    assert!(todo.iter().all(|(_, s)| *s == Step::Done), "{todo:?}");
    assert!(t.net.mib.get(Mib::TcpRetransSegs) > 20);
    server.close(l).unwrap();
    netem.set(NetemParams::default());
    t.advance(200_000);
    for net in [&t.net, &other] {
        assert_eq!(tcp_hashinfo(net).ehash.len(), 0, "something was left behind");
        assert_eq!(net.mib.get(Mib::TcpCurrEstab), 0);
        assert_eq!(tcp_hashinfo(net).orphan_count.load(SeqCst), 0);
    }
}
