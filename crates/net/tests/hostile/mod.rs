//! A machine alone with a hostile wire: whatever a test likes comes in, time goes by when told, and all books are checked.
//!
//! Interface: [`Machine`], [`Seg`], [`Bytes`], [`verify`], [`peer::play`], [`states::play`].
//! Linux counterpart: syzkaller's pseudo system calls for TCP.
//! Locks and context: one thread. Also part of the fuzz targets `tcp_peer` and `tcp_states`.

pub mod peer;
pub mod states;

use kernel::{Arch, Kernel, SpinLock, Task, Wait};
use net::core::dev::{
    ETH_P_IP, Features, Iff, NetDevice, NetDeviceOps, NetDeviceSpec, NetdevTx, netif_rx, register_netdevice,
};
use net::core::iov_iter::{IovIter, MsgHdr};
use net::core::net_namespace::Net;
use net::core::skbuff::{IpSummed, MAX_HEADER, Skb};
use net::core::sock::Sock;
use net::hdr::{TcpHdr, tcp_flag};
use net::init::net_init;
use net::ipv4::devinet::inet_addr_add;
use net::ipv4::tcp_queue::{TCPCB_LOST, TCPCB_SACKED_ACKED, TCPCB_SACKED_RETRANS, TX_SKB_OVERHEAD, after, before};
use net::ipv4::tcp_sock::{TcpSock, tcp_sk, tcp_skb_cb};
use net::socket::{Socket, sock_create};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::task::Poll;
use uapi::socket::{AF_INET, MSG_DONTWAIT, SOCK_STREAM};
use uapi::tcp::TcpState;
use uapi::{Result, SockAddr};

pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// Port of listeners here.
pub const PORT: u16 = 80;
/// Most bytes a socket may have taken in beyond its buffer: packets that were on their way when it filled up.
const RMEM_SLACK: usize = 512 * 1024;
/// The same for what is to be sent: sent pieces that a peer has cut ever smaller may take twice the buffer and four packets of
/// the largest size, as Linux allows (`tcp_fragment`), and the first and the last may be cut beyond that. That counts no
/// packets that were cut before they were sent: where the window lets one segment go at a time, or urgent data are under way, each
/// segment is a packet of its own, as in Linux, and takes its own overhead.
const WMEM_SLACK: usize = 512 * 1024;

// --- Time ---

#[derive(Default)]
struct Clock {
    now: AtomicU64,
    seed: AtomicU64,
    timer: AtomicU64,
    softirqd: AtomicBool,
}

impl Arch for Clock {
    fn ktime_get(&self) -> u64 {
        self.now.load(SeqCst)
    }
    fn ktime_get_real(&self) -> u64 {
        self.ktime_get()
    }
    fn get_random_bytes(&self, buf: &mut [u8]) {
        let x = self.seed.fetch_add(0x9e37_79b9_7f4a_7c15, SeqCst).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_ne_bytes();
        for chunk in buf.chunks_mut(8) {
            chunk.copy_from_slice(&x[8 - chunk.len()..]);
        }
    }
    fn cpu_relax(&self, _spins: u32) {
        std::thread::yield_now();
    }
    fn current(&self) -> Arc<Task> {
        Task::from_fn(|| ())
    }
    fn schedule(&self, _task: &Task, _deadline: Option<u64>) {
        panic!("nothing here may sleep");
    }
    fn wakeup_softirqd(&self, _cpu: usize) {
        self.softirqd.store(true, SeqCst);
    }
    fn program_timer(&self, _base: usize, expires: u64) {
        let _ = self.timer.fetch_update(SeqCst, SeqCst, |t| (t == 0 || t > expires).then_some(expires));
    }
}

// --- The wire ---

/// What has come out: how much, and the last of it.
#[derive(Default)]
pub struct Wire {
    pub packets: AtomicU64,
    pub bytes: AtomicU64,
    last: SpinLock<Vec<u8>>,
}

struct WireOps(Arc<Wire>);

impl NetDeviceOps for WireOps {
    fn ndo_start_xmit(&self, _dev: &Arc<NetDevice>, skb: Box<Skb>) -> NetdevTx {
        self.0.packets.fetch_add(1, SeqCst);
        self.0.bytes.fetch_add(skb.len() as u64, SeqCst);
        let mut last = self.0.last.lock_bh();
        last.clear();
        last.extend(skb.chunks().flatten().take(80));
        NetdevTx::Ok
    }
}

// --- The machine ---

pub struct Machine {
    pub kernel: Arc<Kernel>,
    pub net: Arc<Net>,
    pub wire: Arc<Wire>,
    pub dev: Arc<NetDevice>,
    arch: Arc<Clock>,
}

impl Machine {
    pub fn new(seed: u64) -> Machine {
        let arch = Arc::new(Clock::default());
        // Near the end of the clock of 32 bits that timestamps are made from, for one seed in four.
        let start = if seed & 3 == 3 { (u32::MAX as u64 - 5_000) * 1_000_000 } else { 1_000_000_000 };
        arch.now.store(start, SeqCst);
        arch.seed.store(seed, SeqCst);
        let kernel = Kernel::new(arch.clone(), 1);
        let net = Net::new(&net_init(&kernel));
        let wire = Arc::new(Wire::default());
        let spec = NetDeviceSpec {
            name: "eth0".to_owned(),
            addr: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            flags: Iff::UP | Iff::NOARP | Iff::POINTOPOINT,
            hard_header_len: 0,
            features: Features::SG,
            ops: Box::new(WireOps(wire.clone())),
        };
        let dev = register_netdevice(&net, spec).expect("device");
        inet_addr_add(&dev, HOST, 24).expect("address");
        Machine { kernel, net, wire, dev, arch }
    }

    /// Milliseconds go by, with the timers that fall due.
    pub fn advance(&self, ms: u64) {
        let end = self.arch.now.load(SeqCst) + ms * 1_000_000;
        loop {
            self.softirqd();
            let t = self.arch.timer.load(SeqCst);
            if t == 0 || t > end {
                break;
            }
            self.arch.timer.store(0, SeqCst);
            self.arch.now.fetch_max(t, SeqCst);
            self.kernel.run_timers(0);
        }
        self.arch.now.store(end, SeqCst);
    }

    /// What softirqs were put off.
    fn softirqd(&self) {
        while self.arch.softirqd.swap(false, SeqCst) {
            self.kernel.run_ksoftirqd(0);
        }
    }

    /// A packet comes in.
    pub fn receive(&self, packet: &[u8]) {
        let inside = self.kernel.enter();
        let mut skb = Skb::from_bytes(MAX_HEADER, packet);
        skb.dev = Some(self.dev.clone());
        skb.protocol = ETH_P_IP;
        skb.ip_summed = IpSummed::Unnecessary;
        let _ = netif_rx(skb);
        drop(inside);
        self.softirqd();
    }

    pub fn socket(&self) -> Arc<Socket> {
        sock_create(&self.net, AF_INET, SOCK_STREAM, 0).expect("socket")
    }

    pub fn listener(&self, port: u16, backlog: i32) -> Arc<Socket> {
        let l = self.socket();
        l.bind(&addr(Ipv4Addr::UNSPECIFIED, port)).expect("bind");
        l.listen(backlog).expect("listen");
        l
    }

    /// The timestamp of the last packet sent, if it was TCP with one.
    pub fn last_tsval(&self) -> u32 {
        let last = self.wire.last.lock_bh();
        let opts = last.get(40..).unwrap_or(&[]);
        let at = opts.windows(2).position(|w| w == [8, 10]);
        at.and_then(|i| opts.get(i + 2..i + 6)).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// Sequence and acknowledgement number of the last packet sent.
    pub fn last_seq(&self) -> (u32, u32) {
        let last = self.wire.last.lock_bh();
        last.get(20..).and_then(TcpHdr::read).map_or((0, 0), |th| (th.seq.get(), th.ack_seq.get()))
    }
}

pub fn addr(ip: Ipv4Addr, port: u16) -> SockAddr {
    SockAddr::V4(SocketAddrV4::new(ip, port))
}

pub fn wait() -> Wait {
    Wait::new(Task::from_fn(|| {}))
}

/// Sends `n` bytes, or as many as there is room for.
pub fn send(s: &Socket, n: usize, flags: i32) -> Result<usize> {
    let data = vec![0x5a; n];
    let mut m = MsgHdr::new(IovIter::source(&data));
    m.flags = MSG_DONTWAIT | flags;
    match s.sendmsg(&mut m, &mut wait()) {
        Poll::Ready(r) => r,
        Poll::Pending => panic!("waits without being asked to"),
    }
}

pub fn recv(s: &Socket, n: usize, flags: i32) -> Result<usize> {
    let mut b = vec![0; n];
    let mut m = MsgHdr::new(IovIter::dest(&mut b));
    match s.recvmsg(&mut m, MSG_DONTWAIT | flags, &mut wait()) {
        Poll::Ready(r) => r,
        Poll::Pending => panic!("waits without being asked to"),
    }
}

// --- Segments ---

/// A segment from the peer.
#[derive(Clone, Debug, Default)]
pub struct Seg {
    pub sport: u16,
    pub dport: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub urg_ptr: u16,
    /// IP's type of service.
    pub tos: u8,
    pub opts: Vec<u8>,
    pub payload: usize,
}

impl Seg {
    /// The IP packet. Options are filled up to a multiple of four; there are at most 40 bytes of them.
    pub fn packet(&self) -> Vec<u8> {
        let mut opts = self.opts.clone();
        opts.truncate(40);
        opts.resize(opts.len().next_multiple_of(4), 1);
        let tcp = TcpHdr::LEN + opts.len();
        let mut b = ip_header(6, self.tos, tcp + self.payload);
        b.resize(20 + TcpHdr::LEN, 0);
        if let Some(th) = TcpHdr::read_mut(&mut b[20..]) {
            th.source.set(self.sport);
            th.dest.set(self.dport);
            th.seq.set(self.seq);
            th.ack_seq.set(self.ack);
            th.doff = (tcp as u8 / 4) << 4;
            th.flags = self.flags;
            th.window.set(self.window);
            th.urg_ptr.set(self.urg_ptr);
        }
        b.extend_from_slice(&opts);
        b.resize(20 + tcp + self.payload, 0xa5);
        b
    }
}

fn ip_header(protocol: u8, tos: u8, payload: usize) -> Vec<u8> {
    let mut b = vec![0x45, tos, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0];
    b.extend_from_slice(&PEER.octets());
    b.extend_from_slice(&HOST.octets());
    b[2..4].copy_from_slice(&((20 + payload) as u16).to_be_bytes());
    net::ipv4::ip_output::ip_send_check(&mut b);
    b
}

/// An ICMP error from a router about a segment of the connection with these ports and this sequence number.
pub fn icmp_error(kind: u8, code: u8, mtu: u16, ports: (u16, u16), seq: u32) -> Vec<u8> {
    let mut quoted = vec![0x45, 0, 0, 60, 0, 1, 0x40, 0, 64, 6, 0, 0];
    quoted.extend_from_slice(&HOST.octets());
    quoted.extend_from_slice(&PEER.octets());
    quoted.extend_from_slice(&ports.0.to_be_bytes());
    quoted.extend_from_slice(&ports.1.to_be_bytes());
    quoted.extend_from_slice(&seq.to_be_bytes());
    let mut b = ip_header(1, 0, 8 + quoted.len());
    b.extend_from_slice(&[kind, code, 0, 0, 0, 0]);
    b.extend_from_slice(&mtu.to_be_bytes());
    b.extend_from_slice(&quoted);
    b
}

pub fn timestamp(val: u32, ecr: u32) -> Vec<u8> {
    let mut o = vec![1, 1, 8, 10];
    o.extend_from_slice(&val.to_be_bytes());
    o.extend_from_slice(&ecr.to_be_bytes());
    o
}

// --- Reading a case ---

/// What a case is made of, byte by byte; zeros behind the end.
pub struct Bytes<'a>(pub &'a [u8]);

impl Bytes<'_> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn u8(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }
    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.u8(), self.u8()])
    }
    pub fn u32(&mut self) -> u32 {
        (self.u16() as u32) << 16 | self.u16() as u32
    }
    /// One of `n`.
    pub fn of(&mut self, n: usize) -> usize {
        self.u8() as usize % n.max(1)
    }
    /// A small signed distance, more often near 0 than far, in bytes or segments.
    pub fn distance(&mut self) -> u32 {
        let how = self.u8();
        let n = match how & 7 {
            0 | 1 => return 0,
            2 => 1,
            3 => self.u8() as u32,
            4 => self.u8() as u32 % 32 * 1448,
            5 => self.u8() as u32 % 32 * 1460 + 1,
            6 => self.u16() as u32 * 8,
            _ => self.u32(),
        };
        if how & 8 != 0 { n.wrapping_neg() } else { n }
    }
}

// --- What must always be so ---

/// Checks all of a connection's books, and that its memory is bounded by its buffers (`rcvbuf`: the largest it had).
/// `mss`: the least it had, bytes.
pub fn verify(sk: &Arc<Sock>, rcvbuf: usize, sndbuf: usize, mss: u32) {
    let mut guard = sk.lock_sock();
    let tp = tcp_sk(&mut *guard);
    let state = sk.state();
    verify_memory(sk, tp, rcvbuf, sndbuf, mss.min(tp.mss_cache));
    verify_receive(tp);
    if !matches!(state, TcpState::Close | TcpState::Listen) {
        verify_scoreboard(tp, state);
    }
}

fn verify_memory(sk: &Sock, tp: &TcpSock, rcvbuf: usize, sndbuf: usize, mss: u32) {
    let queued: usize = tp.receive_queue.iter().map(|s| s.truesize as usize).sum();
    let ooo: usize = tp.ofo.out_of_order_queue.values().map(|s| s.truesize as usize).sum();
    let rmem = sk.rmem_alloc.load(SeqCst);
    assert_eq!(rmem, queued + ooo, "charged for what was received");
    assert!(rmem <= rcvbuf + RMEM_SLACK, "{rmem} bytes received, for a buffer of {rcvbuf}");
    let mut wmem = 0;
    let mut i = 0;
    while let Some(p) = tp.tx.get(i) {
        wmem += p.truesize as usize;
        i += 1;
    }
    assert_eq!(sk.wmem_queued.load(SeqCst), wmem, "charged for what is to be sent");
    let segments = tp.write_seq.wrapping_sub(tp.snd_una) / mss.max(1);
    let cut = segments as usize * TX_SKB_OVERHEAD as usize;
    assert!(wmem <= 2 * sndbuf + cut + WMEM_SLACK, "{wmem} bytes to be sent, for a buffer of {sndbuf}");
    assert!(i <= 64 + wmem / 256, "{i} pieces of {wmem} bytes");
}

fn verify_receive(tp: &TcpSock) {
    assert!(!after(tp.copied_seq, tp.rcv_nxt.wrapping_add(1)), "read beyond what has come");
    assert!(tp.rx_opt.num_sacks <= 4);
    let mut last = None;
    for (key, skb) in &tp.ofo.out_of_order_queue {
        let cb = tcp_skb_cb(skb);
        assert_eq!(key.0, cb.seq);
        assert!(before(cb.seq, cb.end_seq), "empty pieces out of order");
        assert!(after(cb.end_seq, tp.rcv_nxt), "an old piece among those out of order");
        assert!(last.is_none_or(|end| !before(cb.seq, end)), "overlap among pieces out of order");
        last = Some(cb.end_seq);
    }
}

fn verify_scoreboard(tp: &TcpSock, state: TcpState) {
    assert!(!after(tp.snd_una, tp.snd_nxt) && !after(tp.snd_nxt, tp.write_seq), "sequence numbers in order");
    let (mut packets, mut sacked, mut lost, mut retrans) = (0, 0, 0, 0);
    let mut expected = None;
    let mut i = 0;
    while let Some(p) = tp.tx.get(i) {
        assert!(expected.is_none_or(|e| e == p.seq), "a hole in the queue at piece {i}");
        expected = Some(p.end_seq);
        if i < tp.tx.rtx_len() {
            let n = p.pcount();
            packets += n;
            sacked += if p.sacked & TCPCB_SACKED_ACKED != 0 { n } else { 0 };
            lost += if p.sacked & TCPCB_LOST != 0 { n } else { 0 };
            retrans += if p.sacked & TCPCB_SACKED_RETRANS != 0 { n } else { 0 };
            assert!(after(p.end_seq, tp.snd_una), "an acknowledged piece is still there");
        }
        i += 1;
    }
    if let Some(front) = tp.tx.rtx_front() {
        assert!(!after(front.seq, tp.snd_una), "the first unacknowledged byte is not there, {state:?}");
    }
    assert_eq!(tp.packets_out, packets, "packets_out, {state:?}");
    assert_eq!(tp.lost_out, lost, "lost_out, {state:?}");
    assert_eq!(tp.retrans_out, retrans, "retrans_out, {state:?}");
    if tp.rx_opt.sack_ok {
        assert_eq!(tp.sacked_out, sacked, "sacked_out, {state:?}");
    }
    assert!(
        tp.left_out() <= tp.packets_out,
        "more has left than was sent, {state:?}, {:?}: {} + {} of {}, SACK {}",
        tp.ca_state,
        tp.sacked_out,
        tp.lost_out,
        tp.packets_out,
        tp.rx_opt.sack_ok
    );
    assert!(tp.snd_cwnd >= 1 && tp.mss_cache >= 8, "cwnd {} mss {}", tp.snd_cwnd, tp.mss_cache);
    assert!(tp.icsk_rto > 0 && tp.icsk_rto <= 120_000, "rto {}", tp.icsk_rto);
}

/// The flags a hostile peer likes, `ACK` most of all.
pub fn flags_of(b: u8) -> u8 {
    use tcp_flag::{ACK, ECE, FIN, PSH, RST, SYN, URG};
    match b & 15 {
        0..=7 => ACK,
        8 => ACK | PSH,
        9 => ACK | FIN,
        10 => SYN,
        11 => SYN | ACK,
        12 => RST,
        13 => RST | ACK,
        14 => ACK | URG | ECE,
        _ => b.rotate_left(4),
    }
}
