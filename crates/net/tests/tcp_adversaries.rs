//! What adversaries do to TCP, and what it may cost: memory, packets sent and timers are counted, never the time on a clock.
//! On every machine there is also an honest connection, which must not lose anything.

extern crate sockeye_net as net;

#[allow(dead_code)]
mod hostile;

use hostile::{Machine, PORT, Seg, recv, send, timestamp, verify, wait};
use net::core::snmp::Mib;
use net::hdr::tcp_flag::{ACK, FIN, PSH, RST, SYN};
use net::ipv4::inet_hashtables::tcp_hashinfo;
use net::ipv4::tcp_sock::tcp_sk;
use net::socket::Socket;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::Poll;
use uapi::tcp::TcpState;

/// A random number generator that every run starts alike.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }
    fn below(&mut self, n: u32) -> u32 {
        self.next() % n.max(1)
    }
}

/// A connection that a peer has opened, by honest means.
struct Conn {
    s: Arc<Socket>,
    port: u16,
    /// What the peer sends next, and what it expects.
    seq: u32,
    ack: u32,
    tsval: u32,
}

const PLAIN: &[u8] = &[2, 4, 5, 0xb4];
const SACK: &[u8] = &[2, 4, 5, 0xb4, 4, 2, 1, 3, 3, 7, 1, 1];

/// The handshake from `port`; `None` if the listener does not take it.
fn open(m: &Machine, l: &Socket, port: u16, isn: u32, opts: &[u8], stamps: Option<u32>) -> Option<Conn> {
    let mut o = opts.to_vec();
    if let Some(t) = stamps {
        o.extend_from_slice(&timestamp(t, 0));
    }
    let syn = Seg { sport: port, dport: PORT, seq: isn, flags: SYN, window: 65535, opts: o, ..Seg::default() };
    let before = m.wire.packets.load(SeqCst);
    m.receive(&syn.packet());
    if m.wire.packets.load(SeqCst) == before {
        return None;
    }
    let (seq, ack) = (isn.wrapping_add(1), m.last_seq().0.wrapping_add(1));
    let opts = stamps.map_or(Vec::new(), |t| timestamp(t + 1, m.last_tsval()));
    m.receive(&Seg { seq, ack, flags: ACK, opts, ..syn }.packet());
    let Poll::Ready(Ok(s)) = l.accept(true, &mut wait()) else { return None };
    Some(Conn { s, port, seq, ack, tsval: stamps.unwrap_or(0) + 2 })
}

impl Conn {
    fn seg(&self, flags: u8) -> Seg {
        let (seq, ack) = (self.seq, self.ack);
        Seg { sport: self.port, dport: PORT, seq, ack, flags, window: 60_000, ..Seg::default() }
    }

    /// The peer sends `n` bytes in order, which arrive.
    fn honest(&mut self, m: &Machine, n: usize, stamps: bool) {
        let opts = if stamps { timestamp(self.tsval, m.last_tsval()) } else { Vec::new() };
        m.receive(&Seg { payload: n, opts, ..self.seg(ACK | PSH) }.packet());
        self.seq = self.seq.wrapping_add(n as u32);
        assert_eq!(recv(&self.s, n + 1, 0), Ok(n), "an honest connection lost something: {}", mibs(m));
    }

    fn check(&self) {
        let sk = &self.s.sk;
        verify(sk, sk.rcvbuf.load(SeqCst) as usize, sk.sndbuf.load(SeqCst) as usize, u32::MAX);
    }

    fn state(&self) -> TcpState {
        self.s.sk.state()
    }

    fn snd(&self) -> (u32, u32) {
        let mut guard = self.s.sk.lock_sock();
        let tp = tcp_sk(&mut *guard);
        (tp.snd_una, tp.snd_nxt)
    }
}

fn mibs(m: &Machine) -> String {
    let all = Mib::ALL.iter().filter(|x| m.net.mib.get(**x) != 0);
    all.map(|x| format!("{}={} ", x.name(), m.net.mib.get(*x))).collect()
}

fn out(m: &Machine) -> u64 {
    m.wire.packets.load(SeqCst)
}

/// A machine with a listener and an honest connection.
fn machine(seed: u64, backlog: i32) -> (Machine, Arc<Socket>, Conn) {
    let m = Machine::new(seed);
    let l = m.listener(PORT, backlog);
    let c = open(&m, &l, 60_000, 7, SACK, Some(1000)).expect("an honest connection");
    (m, l, c)
}

#[test]
fn clients_connect_through_a_flood_of_syns() {
    let (m, l, mut honest) = machine(0, 128);
    let mut dice = Dice(1);
    let (mut tried, mut made) = (0, 0);
    for n in 0..50_000u32 {
        let port = 1024 + (n % 50_000) as u16;
        m.receive(&Seg { sport: port, dport: PORT, seq: dice.next(), flags: SYN, ..Seg::default() }.packet());
        if n % 100 == 50 {
            tried += 1;
            if let Some(mut c) = open(&m, &l, 61_000 + (n / 100) as u16, dice.next(), SACK, Some(1000)) {
                c.honest(&m, 100, true);
                made += 1;
                c.s.release();
            }
        }
        if n % 1000 == 0 {
            m.advance(1);
        }
    }
    assert!(made * 100 >= tried * 99, "{made} of {tried}: {}", mibs(&m));
    let entries = tcp_hashinfo(&m.net).ehash.len();
    assert!(entries <= 2 * 128 + tried, "{entries} entries");
    // One answer each at most, besides those to the clients.
    assert!(out(&m) <= 50_000 + 10 * tried as u64, "{} packets out", out(&m));
    let before = out(&m);
    m.advance(130_000);
    assert!(out(&m) - before <= 6 * 300 + 10 * tried as u64, "{} packets for those who never answer", out(&m) - before);
    honest.honest(&m, 1000, true);
}

#[test]
fn a_storm_of_acks_and_of_segments_out_of_the_window_is_hardly_answered() {
    let (m, l, mut honest) = machine(0, 8);
    let c = open(&m, &l, 5000, 100, PLAIN, None).expect("connection");
    let before = out(&m);
    let mut dice = Dice(2);
    for n in 0..20_000 {
        let s = c.seg(ACK);
        let far = 10_000_000 + dice.below(1 << 30);
        let seg = match n % 4 {
            0 => s,
            1 => Seg { ack: s.ack.wrapping_sub(far), ..s },
            2 => Seg { ack: s.ack.wrapping_add(far), ..s },
            _ => Seg { seq: s.seq.wrapping_add(far), ..s },
        };
        m.receive(&seg.packet());
    }
    assert!(out(&m) - before <= 3, "{} answers within no time: {}", out(&m) - before, mibs(&m));
    c.check();
    assert_eq!(c.state(), TcpState::Established);
    honest.honest(&m, 1000, true);
}

#[test]
fn blind_resets_and_syns_do_no_harm() {
    let (m, l, mut honest) = machine(0, 8);
    let c = open(&m, &l, 5000, 100, SACK, Some(1000)).expect("connection");
    let before = out(&m);
    let mut dice = Dice(3);
    for n in 0..20_000 {
        // In the window, but for the one number that counts.
        let seq = c.seq.wrapping_add(1 + dice.below(60_000));
        m.receive(&Seg { seq, ..c.seg([RST, RST | ACK, SYN, SYN | ACK][n % 4]) }.packet());
    }
    assert_eq!(c.state(), TcpState::Established);
    assert!(m.net.mib.get(Mib::TcpExtTCPSYNChallenge) > 0 && m.net.mib.get(Mib::TcpExtTCPChallengeACK) > 0);
    assert!(out(&m) - before <= 2, "one challenge in half a second: {}", mibs(&m));
    honest.honest(&m, 1000, true);
    // The namespace's limit, which no one can count exactly.
    m.net.sysctl.set("net.ipv4.tcp_challenge_ack_limit", 10).expect("a tunable");
    m.advance(2000);
    let conns: Vec<Conn> = (0..60).filter_map(|i| open(&m, &l, 6000 + i, 9, SACK, None)).collect();
    let before = m.net.mib.get(Mib::TcpExtTCPChallengeACK);
    for c in &conns {
        m.receive(&Seg { seq: c.seq + 5, ..c.seg(RST) }.packet());
    }
    let sent = m.net.mib.get(Mib::TcpExtTCPChallengeACK) - before;
    assert!((5..=15).contains(&sent), "{sent} challenges of about 10 allowed");
    // And the right number resets.
    m.receive(&c.seg(RST).packet());
    assert_eq!(c.state(), TcpState::Close);
}

#[test]
fn tiny_and_overlapping_segments_stay_within_the_buffer() {
    let (m, l, mut honest) = machine(0, 8);
    let c = open(&m, &l, 5000, 100, SACK, None).expect("connection");
    let mut dice = Dice(4);
    for n in 0..20_000u32 {
        let at = match n % 3 {
            // Every second byte; anywhere; pieces that overlap.
            0 => 2 * n + 1,
            1 => 1 + dice.below(60_000),
            _ => 1 + dice.below(200) * 300,
        };
        let payload = if n % 3 == 2 { 1 + dice.below(1400) as usize } else { 1 };
        m.receive(&Seg { seq: c.seq.wrapping_add(at), payload, ..c.seg(ACK) }.packet());
        if n % 500 == 0 {
            c.check();
        }
    }
    c.check();
    assert_eq!(recv(&c.s, 10, 0), Err(uapi::Errno::EAGAIN), "the first byte is missing");
    // It comes, with all the rest: every byte once.
    let mut total = 0;
    for at in (0..64_000u32).step_by(1000) {
        m.receive(&Seg { seq: c.seq.wrapping_add(at), payload: 1000, ..c.seg(ACK) }.packet());
        while let Ok(n) = recv(&c.s, 1 << 20, 0) {
            total += n as u32;
        }
    }
    let mut guard = c.s.sk.lock_sock();
    let tp = tcp_sk(&mut *guard);
    assert_eq!(total, tp.rcv_nxt.wrapping_sub(c.seq), "bytes read and bytes acknowledged");
    assert!(total >= 60_000, "{total}");
    drop(guard);
    honest.honest(&m, 1000, true);
}

/// A SACK option of `blocks`.
fn sack(blocks: &[(u32, u32)]) -> Vec<u8> {
    let mut o = vec![1, 1, 5, 2 + 8 * blocks.len() as u8];
    for (start, end) in blocks {
        o.extend_from_slice(&start.to_be_bytes());
        o.extend_from_slice(&end.to_be_bytes());
    }
    o
}

#[test]
fn floods_of_sack_blocks_do_not_shatter_the_queue() {
    let (m, l, mut honest) = machine(0, 8);
    let c = open(&m, &l, 5000, 100, SACK, None).expect("connection");
    // A large window of ours is in flight.
    for _ in 0..200 {
        let _ = send(&c.s, 60_000, 0);
        let (_, nxt) = c.snd();
        m.receive(&Seg { ack: nxt, window: 60_000, ..c.seg(ACK) }.packet());
    }
    let _ = send(&c.s, 1 << 20, 0);
    let (una, nxt) = c.snd();
    assert!(nxt.wrapping_sub(una) > 100_000, "{} in flight", nxt.wrapping_sub(una));
    let mut dice = Dice(5);
    for n in 0..5_000u32 {
        let blocks: Vec<(u32, u32)> = (0..4)
            .map(|_| {
                let start = una.wrapping_add(dice.below(nxt.wrapping_sub(una)));
                (start, start.wrapping_add(1 + dice.below([1, 100, 5000][n as usize % 3])))
            })
            .collect();
        m.receive(&Seg { ack: una, window: 60_000, opts: sack(&blocks), ..c.seg(ACK) }.packet());
        if n % 200 == 0 {
            c.check();
            m.advance(1);
        }
    }
    c.check();
    honest.honest(&m, 1000, true);
}

#[test]
fn optimistic_acks_gain_nothing() {
    let (m, l, mut honest) = machine(0, 8);
    let c = open(&m, &l, 5000, 100, PLAIN, None).expect("connection");
    let _ = send(&c.s, 1 << 20, 0);
    let (una, nxt) = c.snd();
    let before = out(&m);
    for n in 1..5_000 {
        // Of what was never sent.
        m.receive(&Seg { ack: nxt.wrapping_add(n * 1460), ..c.seg(ACK) }.packet());
    }
    assert_eq!(c.snd(), (una, nxt));
    assert!(out(&m) - before <= 1);
    // Many small ones of what was sent: the window grows by what is acknowledged, not by how often (RFC 3465).
    let whole = nxt.wrapping_sub(una);
    for n in 1..=whole {
        m.receive(&Seg { ack: una.wrapping_add(n), ..c.seg(ACK) }.packet());
    }
    let (una2, nxt2) = c.snd();
    assert!(nxt2.wrapping_sub(una2) <= 3 * whole, "{} in flight after {whole}", nxt2.wrapping_sub(una2));
    c.check();
    honest.honest(&m, 1000, true);
}

#[test]
fn numbers_and_timestamps_wrap() {
    // Seed 3: the clock is five seconds before the end of its 32 bits.
    let (m, l, mut honest) = machine(3, 8);
    let mut c = open(&m, &l, 5000, u32::MAX - 50_000, SACK, Some(u32::MAX - 5)).expect("connection");
    for n in 0..200 {
        c.tsval = c.tsval.wrapping_add(1);
        c.honest(&m, 1000, true);
        let _ = send(&c.s, 10_000, 0);
        let (_, nxt) = c.snd();
        let opts = timestamp(c.tsval, m.last_tsval());
        m.receive(&Seg { ack: nxt, opts, ..c.seg(ACK) }.packet());
        c.ack = nxt;
        assert_eq!(c.snd(), (nxt, c.snd().1), "round {n}: {}", mibs(&m));
        c.check();
        m.advance(100);
    }
    assert!(c.seq < 1 << 31, "wrapped");
    assert_eq!(m.net.mib.get(Mib::TcpExtPAWSEstab), 0);
    assert_eq!(m.net.mib.get(Mib::TcpRetransSegs), 0, "{}", mibs(&m));
    honest.tsval = honest.tsval.wrapping_add(20_000);
    honest.honest(&m, 1000, true);
}

#[test]
fn thousands_of_closed_windows_cost_little() {
    const PEERS: u16 = 10_000;
    let (m, l, mut honest) = machine(0, 64);
    let conns: Vec<Conn> = (0..PEERS).filter_map(|i| open(&m, &l, 2000 + i, 100, PLAIN, None)).collect();
    assert_eq!(conns.len(), PEERS as usize, "{}", mibs(&m));
    let mut queued = 0;
    for c in &conns {
        m.receive(&Seg { window: 0, ..c.seg(ACK) }.packet());
        queued += send(&c.s, 2000, 0).unwrap_or(0);
    }
    let before = out(&m);
    let wmem: usize = conns.iter().map(|c| c.s.sk.wmem_queued.load(SeqCst)).sum();
    assert!(wmem <= 2 * queued + 1024 * conns.len(), "{wmem} bytes held for {queued}");
    for _ in 0..600 {
        m.advance(1000);
    }
    // The interval doubles, up to two minutes: 200 ms, 400 ms, ... 102 s, and a few more.
    let probes = out(&m) - before;
    assert!(probes <= 16 * PEERS as u64, "{probes} probes in ten minutes");
    honest.honest(&m, 1000, true);
    conns[0].check();
    // Who answers no probe goes; all of them leave nothing behind.
    for c in conns {
        c.s.release();
    }
    m.advance(3_600_000);
    let info = tcp_hashinfo(&m.net);
    assert_eq!((info.ehash.len(), info.orphan_count.load(SeqCst)), (1, 0), "only the honest one is left");
}

#[test]
fn nobody_opens_anything_with_odd_flags() {
    let (m, _l, mut honest) = machine(0, 8);
    let before = tcp_hashinfo(&m.net).ehash.len();
    for flags in 0..=255u8 {
        if flags & (SYN | ACK | RST | FIN) != SYN {
            let seg = Seg { sport: 700 + flags as u16, dport: PORT, seq: 5, ack: 9, flags, ..Seg::default() };
            m.receive(&seg.packet());
        }
    }
    assert_eq!(tcp_hashinfo(&m.net).ehash.len(), before);
    honest.honest(&m, 1000, true);
}
