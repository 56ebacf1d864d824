//! Random segments to sockets in every state.
//!
//! Interface: [`play`].
//! Linux counterpart: none.
//! Locks and context: one thread.

use super::*;
use tcp_flag::{ACK, FIN, SYN};
use uapi::socket::SHUT_WR;

const STEPS: usize = 200;
/// Connections of one case.
const CONNECTIONS: usize = 24;

/// A connection, or what is left of it.
struct Conn {
    s: Option<Arc<Socket>>,
    local: u16,
    peer: u16,
    /// The last numbers known: what we expect, and what we have sent.
    rcv_nxt: u32,
    snd_nxt: u32,
    tstamp: bool,
}

struct Game {
    m: Machine,
    listener: Arc<Socket>,
    conns: Vec<Conn>,
    tsval: u32,
}

/// Plays a case: pairs of a state to bring a connection into and segments to send to it. Panics if anything is wrong.
pub fn play(case: &[u8]) {
    let mut b = Bytes(case);
    let m = Machine::new(b.u8() as u64);
    let backlog = b.u8() as i32 & 31;
    if b.u8() & 3 == 0 {
        let _ = m.net.sysctl.set("net.ipv4.tcp_syncookies", b.u8() as i64 % 3);
    }
    let listener = m.listener(PORT, backlog);
    let mut g = Game { m, listener, conns: Vec::new(), tsval: 1000 };
    for _ in 0..STEPS {
        if b.is_empty() {
            break;
        }
        g.step(&mut b);
    }
    g.end();
}

impl Game {
    fn step(&mut self, b: &mut Bytes<'_>) {
        match b.u8() & 15 {
            0..=2 if self.conns.len() < CONNECTIONS => {
                let conn = self.make(b);
                self.conns.push(conn);
            }
            3 => {
                let ms = [1, 40, 200, 1000, 3000, 61_000][b.of(6)];
                self.m.advance(ms);
                self.tsval = self.tsval.wrapping_add(ms as u32);
            }
            4 => self.call(b),
            5 => self.icmp(b),
            6 => {
                if let Poll::Ready(Ok(s)) = self.listener.accept(true, &mut wait()) {
                    s.release();
                }
            }
            _ => self.segment(b),
        }
        let limit = |c: &&Conn| c.s.is_some();
        for c in self.conns.iter().filter(limit) {
            if let Some(s) = &c.s {
                verify(&s.sk, s.sk.rcvbuf.load(SeqCst) as usize, s.sk.sndbuf.load(SeqCst) as usize, u32::MAX);
            }
        }
    }

    /// Everything is closed; in the end nothing is left.
    fn end(&mut self) {
        for c in &mut self.conns {
            if let Some(s) = c.s.take() {
                s.release();
            }
        }
        self.listener.release();
        self.m.advance(3_600_000);
        let info = net::ipv4::inet_hashtables::tcp_hashinfo(&self.m.net);
        let left = (info.ehash.len(), info.tw_count.load(SeqCst), info.orphan_count.load(SeqCst));
        assert_eq!(left, (0, 0, 0), "connections, time-wait entries, orphans left after an hour");
    }

    fn syn_options(&mut self, b: &mut Bytes<'_>) -> (Vec<u8>, bool) {
        let how = b.u8();
        let mut o = vec![2, 4, 5, 0xb4];
        if how & 1 != 0 {
            o.extend_from_slice(&timestamp(self.tsval, self.m.last_tsval())[2..]);
        }
        if how & 2 != 0 {
            o.extend_from_slice(&[4, 2]);
        }
        if how & 4 != 0 {
            o.extend_from_slice(&[3, 3, how >> 4]);
        }
        (o, how & 1 != 0)
    }

    /// A connection brought into one of the states, by what an honest peer would send.
    fn make(&mut self, b: &mut Bytes<'_>) -> Conn {
        let target = b.of(12);
        let peer = 4000 + self.conns.len() as u16;
        let isn = if b.u8() & 1 == 0 { 5000 } else { u32::MAX - 2 };
        let (opts, tstamp) = self.syn_options(b);
        let mut c = Conn { s: None, local: PORT, peer, rcv_nxt: isn.wrapping_add(1), snd_nxt: 0, tstamp };
        if target < 3 {
            self.half_open(&mut c, target, opts, isn);
            return c;
        }
        self.tell(&c, isn, 0, SYN, opts);
        c.snd_nxt = self.m.last_seq().0.wrapping_add(1);
        if target == 3 {
            // A request: SYN_RECV as a small socket.
            return c;
        }
        self.tell(&c, c.rcv_nxt, c.snd_nxt, ACK, self.stamp(&c));
        let Poll::Ready(Ok(s)) = self.listener.accept(true, &mut wait()) else { return c };
        c.s = Some(s);
        self.end_by(&mut c, target);
        c
    }

    /// SYN_SENT, SYN_RECV by simultaneous open, and CLOSE after a refusal.
    fn half_open(&mut self, c: &mut Conn, target: usize, opts: Vec<u8>, isn: u32) {
        let s = self.m.socket();
        c.local = 2000 + c.peer;
        let _ = s.bind(&addr(Ipv4Addr::UNSPECIFIED, c.local));
        let _ = s.connect(&addr(PEER, c.peer), true, &mut wait());
        c.snd_nxt = self.m.last_seq().0.wrapping_add(1);
        c.s = Some(s);
        match target {
            1 => self.tell(c, isn, 0, SYN, opts),
            2 => self.tell(c, 0, c.snd_nxt, tcp_flag::RST | ACK, Vec::new()),
            _ => {}
        }
    }

    /// From ESTABLISHED to one of the closing states.
    fn end_by(&mut self, c: &mut Conn, target: usize) {
        let Some(s) = c.s.clone() else { return };
        let shut = |s: &Arc<Socket>| {
            let _ = s.shutdown(SHUT_WR);
        };
        match target {
            // FIN_WAIT1, FIN_WAIT2, CLOSING, TIME_WAIT, with and without a process.
            5..=9 => {
                if target == 9 {
                    c.s = None;
                    s.release();
                } else {
                    shut(&s);
                }
                if matches!(target, 6 | 8 | 9) {
                    c.snd_nxt = c.snd_nxt.wrapping_add(1);
                    self.tell(c, c.rcv_nxt, c.snd_nxt, ACK, self.stamp(c));
                }
                if matches!(target, 7 | 8) {
                    self.tell(c, c.rcv_nxt, c.snd_nxt, ACK | FIN, self.stamp(c));
                    c.rcv_nxt = c.rcv_nxt.wrapping_add(1);
                }
            }
            // CLOSE_WAIT, LAST_ACK.
            10 | 11 => {
                self.tell(c, c.rcv_nxt, c.snd_nxt, ACK | FIN, self.stamp(c));
                c.rcv_nxt = c.rcv_nxt.wrapping_add(1);
                if target == 11 {
                    c.s = None;
                    s.release();
                }
            }
            _ => {}
        }
    }

    fn stamp(&self, c: &Conn) -> Vec<u8> {
        if c.tstamp { timestamp(self.tsval, self.m.last_tsval()) } else { Vec::new() }
    }

    fn tell(&self, c: &Conn, seq: u32, ack: u32, flags: u8, opts: Vec<u8>) {
        let seg = Seg { sport: c.peer, dport: c.local, seq, ack, flags, window: 60_000, opts, ..Seg::default() };
        self.m.receive(&seg.packet());
    }

    /// The numbers of a connection now, if it has a socket.
    fn numbers(c: &Conn) -> (u32, u32) {
        let Some(s) = &c.s else { return (c.rcv_nxt, c.snd_nxt) };
        if s.sk.state() == TcpState::Close {
            return (c.rcv_nxt, c.snd_nxt);
        }
        let mut guard = s.sk.lock_sock();
        let tp = tcp_sk(&mut *guard);
        (tp.rcv_nxt, tp.snd_nxt)
    }

    fn segment(&mut self, b: &mut Bytes<'_>) {
        let i = b.of(self.conns.len() + 2);
        let nobody = Conn { s: None, local: PORT, peer: 9, rcv_nxt: 0, snd_nxt: 0, tstamp: false };
        let closed = Conn { s: None, local: 81, ..nobody };
        let (local, peer, (rcv_nxt, snd_nxt), stamp) = match self.conns.get(i) {
            Some(c) => (c.local, c.peer, Self::numbers(c), self.stamp(c)),
            None => {
                let c = if i & 1 == 0 { &nobody } else { &closed };
                (c.local, c.peer + b.u8() as u16, self.m.last_seq(), Vec::new())
            }
        };
        let seq = rcv_nxt.wrapping_add(b.distance());
        let ack = snd_nxt.wrapping_add(b.distance());
        let kind = b.u8();
        let flags = if kind & 0x40 != 0 { b.u8() } else { flags_of(kind) };
        let payload = [0, 0, 0, 1, 100, 1460, b.u8() as usize, 0][b.of(8)];
        let opts = match b.u8() & 7 {
            0..=4 => stamp,
            5 => timestamp(self.tsval.wrapping_add(b.distance()), self.m.last_tsval().wrapping_add(b.distance())),
            6 => self.syn_options(b).0,
            _ => (0..b.of(41)).map(|_| b.u8()).collect(),
        };
        let window = [60_000, 0, b.u16()][b.of(3)];
        let urg_ptr = if flags & tcp_flag::URG != 0 { b.u16() } else { 0 };
        let seg = Seg { sport: peer, dport: local, seq, ack, flags, window, payload, opts, urg_ptr, tos: b.u8() & 3 };
        self.m.receive(&seg.packet());
    }

    /// A process does something to one of them.
    fn call(&mut self, b: &mut Bytes<'_>) {
        let i = b.of(self.conns.len());
        let what = b.u8();
        let Some(c) = self.conns.get_mut(i) else { return };
        let Some(s) = &c.s else { return };
        match what & 7 {
            0 | 1 => {
                let _ = send(s, b.u16() as usize + 1, 0);
            }
            2 | 3 => {
                let _ = recv(s, b.u16() as usize, 0);
            }
            4 => {
                let _ = s.shutdown(b.of(3) as i32);
            }
            5 => {
                (c.rcv_nxt, c.snd_nxt) = Self::numbers(c);
                if let Some(s) = c.s.take() {
                    s.release();
                }
            }
            6 => {
                let _ = s.connect(&addr(PEER, c.peer), true, &mut wait());
            }
            _ => {
                let _ = s.connect(&SockAddr::Unspec, true, &mut wait());
            }
        }
    }

    fn icmp(&mut self, b: &mut Bytes<'_>) {
        let Some(c) = self.conns.get(b.of(self.conns.len())) else { return };
        let (kind, code) = [(3, 4), (3, 1), (3, 3), (11, 0), (3, 0), (12, 0)][b.of(6)];
        let seq = Self::numbers(c).1.wrapping_add(b.distance()).wrapping_sub(1);
        let mtu = [0, 552, 1280, b.u16()][b.of(4)];
        self.m.receive(&icmp_error(kind, code, mtu, (c.local, c.peer), seq));
    }
}
