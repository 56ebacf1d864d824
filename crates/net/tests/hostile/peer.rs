//! A hostile peer against one established connection.
//!
//! Interface: [`play`].
//! Linux counterpart: none.
//! Locks and context: one thread.
//!
//! A case is a string of bytes: how the connection is made, then what happens, one thing after the other: segments (their
//! numbers given relative to what the connection would like), system calls, ICMP errors, time.

use super::*;
use net::core::dev::dev_set_mtu;
use std::collections::VecDeque;
use std::sync::LazyLock;
use uapi::socket::{MSG_OOB, MSG_PEEK, MSG_TRUNC, SHUT_RD, SHUT_RDWR, SHUT_WR};
use uapi::socket::{SO_KEEPALIVE, SO_LINGER, SO_OOBINLINE, SO_RCVBUF, SO_SNDBUF, SOL_SOCKET};
use uapi::tcp::TCP_USER_TIMEOUT;

/// Things that happen in one case.
const STEPS: usize = 300;
const PEER_PORT: u16 = 4000;
/// Whether each step is to be told.
static STORY: LazyLock<bool> = LazyLock::new(|| std::env::var_os("STORY").is_some());

/// Numbers of the connection, as far as the peer may know them.
#[derive(Clone, Copy, Default)]
struct Numbers {
    rcv_nxt: u32,
    copied_seq: u32,
    window: u32,
    snd_una: u32,
    snd_nxt: u32,
    write_seq: u32,
    mss: u32,
}

struct Game {
    m: Machine,
    s: Arc<Socket>,
    closed: bool,
    /// The options agreed on.
    tstamp: bool,
    last: Numbers,
    tsval: u32,
    /// The largest buffers it has had.
    buf: (usize, usize),
    least_mss: u32,
    local: u16,
    /// Segments that were sent, to be sent again.
    old: VecDeque<Seg>,
}

/// Plays a case. Panics if anything is wrong.
pub fn play(case: &[u8]) {
    let mut b = Bytes(case);
    let Some(mut g) = Game::start(&mut b) else { return };
    for _ in 0..STEPS {
        if b.is_empty() {
            break;
        }
        let at = b.0.len();
        g.step(&mut b);
        if *STORY {
            eprintln!("{at}: {} {:?}", g.story(), &case[case.len() - at..case.len() - b.0.len()]);
        }
        g.check();
    }
    // Whatever has happened, it comes to an end.
    g.close();
    g.m.advance(3_600_000);
    g.check();
    let info = net::ipv4::inet_hashtables::tcp_hashinfo(&g.m.net);
    assert_eq!(info.orphan_count.load(SeqCst), 0, "an orphan for ever: {}", g.story());
}

impl Game {
    /// Makes the connection as the case says. `None`: it came to none.
    fn start(b: &mut Bytes<'_>) -> Option<Game> {
        let how = b.u8();
        let (how2, scale) = (b.u8(), b.u8());
        let m = Machine::new(how2 as u64);
        set_sysctls(&m, how2);
        let mut opts = vec![2, 4];
        opts.extend_from_slice(&[1460u16, 536, 8960, 88][how as usize >> 1 & 3].to_be_bytes());
        if how & 8 != 0 {
            opts.extend_from_slice(&[4, 2]);
        }
        if how & 16 != 0 {
            opts.extend_from_slice(&timestamp(1000, 0)[2..]);
        }
        if how & 32 != 0 {
            opts.extend_from_slice(&[3, 3, scale & 15]);
        }
        // Sequence numbers of the peer's that wrap soon, for one case in two.
        let isn = if how & 64 != 0 { u32::MAX - 3000 } else { 100_000 };
        let (s, local) = if how & 1 == 0 { passive(&m, &opts, isn)? } else { active(&m, &opts, isn)? };
        let tstamp = how & 16 != 0;
        let mut g = Game {
            m,
            s,
            closed: false,
            tstamp,
            last: Numbers::default(),
            tsval: 1001,
            buf: (0, 0),
            least_mss: u32::MAX,
            local,
            old: VecDeque::new(),
        };
        if b.u8() & 1 != 0 {
            // Our own numbers are to wrap soon, too: nothing was sent yet, so that they may still be others.
            g.renumber(u32::MAX - 20_000);
        }
        g.check();
        Some(g)
    }

    fn renumber(&mut self, to: u32) {
        let mut guard = self.s.sk.lock_sock();
        let tp = tcp_sk(&mut *guard);
        if tp.tx.is_empty() && tp.snd_una == tp.write_seq {
            for seq in [&mut tp.snd_una, &mut tp.snd_nxt, &mut tp.write_seq, &mut tp.snd_sml, &mut tp.snd_up] {
                *seq = to;
            }
            (tp.pushed_seq, tp.cwnd_usage_seq, tp.rtt_seq) = (to, to, to);
            let r = tp.rec.make();
            (r.high_seq, r.highest_sack, r.undo_marker, r.tlp_high_seq) = (to, to, 0, 0);
        }
    }

    /// Reads the connection's numbers, and checks all its books.
    fn check(&mut self) {
        let sk = &self.s.sk;
        self.buf.0 = self.buf.0.max(sk.rcvbuf.load(SeqCst) as usize);
        self.buf.1 = self.buf.1.max(sk.sndbuf.load(SeqCst) as usize);
        verify(sk, self.buf.0, self.buf.1, self.least_mss);
        let mut guard = sk.lock_sock();
        let tp = tcp_sk(&mut *guard);
        self.last = Numbers {
            rcv_nxt: tp.rcv_nxt,
            copied_seq: tp.copied_seq,
            window: tp.receive_window(),
            snd_una: tp.snd_una,
            snd_nxt: tp.snd_nxt,
            write_seq: tp.write_seq,
            mss: tp.mss_cache,
        };
        self.least_mss = self.least_mss.min(tp.mss_cache);
    }

    /// Where it stands.
    fn story(&self) -> String {
        let mut guard = self.s.sk.lock_sock();
        let tp = tcp_sk(&mut *guard);
        format!(
            "{:?}, timer {} in {} ms, {} out, {} queued, window {}, {} retransmits, {} probes, rto {}, user timeout {}",
            self.s.sk.state(),
            tp.icsk_pending,
            tp.icsk_timeout.wrapping_sub(self.m.kernel.jiffies() as u32) as i32,
            tp.packets_out,
            tp.write_seq.wrapping_sub(tp.snd_una),
            tp.snd_wnd,
            tp.icsk_retransmits,
            tp.icsk_probes_out,
            tp.icsk_rto,
            tp.rare.opts.icsk_user_timeout
        )
    }

    fn step(&mut self, b: &mut Bytes<'_>) {
        match b.u8() & 31 {
            0..=7 => {
                let seg = self.segment(b);
                self.inject(seg);
            }
            8 => self.flood(b),
            9 | 10 => {
                // What an honest peer would say.
                let n = self.last;
                let ack = if b.u8() & 1 == 0 { n.snd_nxt } else { n.snd_una.wrapping_add(n.mss * b.of(8) as u32) };
                let ack = if after(ack, n.snd_nxt) { n.snd_nxt } else { ack };
                self.inject(self.plain(n.rcv_nxt, ack, 0));
            }
            11 => {
                let n = self.last;
                let len = b.u16() as usize % 9000;
                self.inject(self.plain(n.rcv_nxt, n.snd_nxt, len));
            }
            12 => {
                if let Some(seg) = self.old.get(b.of(self.old.len())).cloned() {
                    self.inject(seg);
                }
            }
            13..=15 => {
                let n = (b.u16() as usize) << (b.u8() & 3);
                let flags = if b.u8() & 15 == 15 { MSG_OOB } else { 0 };
                let _ = self.open(|s| send(s, n.max(1), flags));
            }
            16 | 17 => self.read(b),
            18..=21 => self.time(b),
            22 | 23 => self.option(b),
            24 => {
                let how = [SHUT_WR, SHUT_RD, SHUT_RDWR][b.of(3)];
                if b.u8() & 3 == 0 {
                    let _ = self.open(|s| s.shutdown(how));
                }
            }
            25 if b.u8() & 7 == 0 => self.close(),
            26 | 27 => self.icmp(b),
            28 => self.reverse_path(b),
            _ => {
                self.s.poll();
                let _ = self.s.getsockopt(6, b.u8() as i32, 256);
                let _ = self.open(|s| s.ioctl([0x541b, 0x5411, 0x894b, 0x8905][b.of(4)]));
            }
        }
    }

    fn open<T>(&self, f: impl FnOnce(&Arc<Socket>) -> Result<T>) -> Option<Result<T>> {
        (!self.closed).then(|| f(&self.s))
    }

    fn close(&mut self) {
        if !self.closed {
            self.closed = true;
            self.s.release();
        }
    }

    fn read(&mut self, b: &mut Bytes<'_>) {
        let n = (b.u16() as usize) << (b.u8() & 7);
        let flags = [0, 0, 0, MSG_PEEK, MSG_OOB, MSG_TRUNC, 0, 0][b.of(8)];
        let _ = self.open(|s| recv(s, n.min(1 << 20), flags));
    }

    fn time(&mut self, b: &mut Bytes<'_>) {
        let n = b.u8() as u64;
        let ms = match b.u8() & 7 {
            0..=3 => n & 15,
            4 | 5 => n,
            6 => n * 16,
            _ => n * 1024,
        };
        self.tsval = self.tsval.wrapping_add(ms as u32);
        self.m.advance(ms);
    }

    /// The device's MTU changes, or sysctls.
    fn reverse_path(&mut self, b: &mut Bytes<'_>) {
        if b.u8() & 1 == 0 {
            let _ = dev_set_mtu(&self.m.dev, [1500, 576, 1280, 9000, 68][b.of(5)]);
        } else {
            set_sysctls(&self.m, b.u8());
        }
    }

    fn option(&mut self, b: &mut Bytes<'_>) {
        let v = match b.u8() & 3 {
            0 => b.u8() as i32 & 1,
            1 => b.u8() as i32,
            2 => b.u16() as i32 * 16,
            _ => b.u32() as i32,
        };
        let which = b.u8();
        let _ = self.open(|s| match which & 15 {
            0 => s.setsockopt(SOL_SOCKET, SO_RCVBUF, &v.to_ne_bytes()),
            1 => s.setsockopt(SOL_SOCKET, SO_SNDBUF, &v.to_ne_bytes()),
            2 => s.setsockopt(SOL_SOCKET, SO_KEEPALIVE, &v.to_ne_bytes()),
            3 => s.setsockopt(SOL_SOCKET, SO_OOBINLINE, &v.to_ne_bytes()),
            4 => s.setsockopt(SOL_SOCKET, SO_LINGER, &[1i32.to_ne_bytes(), (v & 1).to_ne_bytes()].concat()),
            5 => s.setsockopt(0, 10, &(v & 7).to_ne_bytes()),
            6 => s.setsockopt(6, 13, [&b"cubic"[..], b"reno", b"bbr", b"dctcp"][v as usize & 3]),
            // Not much longer than a case's end is waited for.
            7 => s.setsockopt(6, TCP_USER_TIMEOUT, &(v & 0xffff).to_ne_bytes()),
            _ => match (which >> 4 | (which << 4 & 0x30)) as i32 {
                TCP_USER_TIMEOUT => Ok(()),
                name => s.setsockopt(6, name, &v.to_ne_bytes()),
            },
        });
    }

    fn icmp(&mut self, b: &mut Bytes<'_>) {
        let (kind, code) = [(3, 4), (3, 4), (3, 1), (3, 3), (11, 0), (12, 0), (3, 0), (3, 2)][b.of(8)];
        let seq = self.last.snd_una.wrapping_add(b.distance());
        let mtu = [0, 68, 552, 576, 1280, 1400, 1492, 1500, b.u16()][b.of(9)];
        self.m.receive(&icmp_error(kind, code, mtu, (self.local, PEER_PORT), seq));
    }

    fn plain(&self, seq: u32, ack: u32, payload: usize) -> Seg {
        let opts = if self.tstamp { timestamp(self.tsval, self.m.last_tsval()) } else { Vec::new() };
        Seg { seq, ack, flags: tcp_flag::ACK, window: 60_000, payload, opts, ..Seg::default() }
    }

    fn inject(&mut self, seg: Seg) {
        let seg = Seg { sport: PEER_PORT, dport: self.local, ..seg };
        self.m.receive(&seg.packet());
        if self.old.len() == 16 {
            self.old.pop_front();
        }
        self.old.push_back(seg);
    }

    /// Any segment.
    fn segment(&mut self, b: &mut Bytes<'_>) -> Seg {
        let n = self.last;
        let base = [n.rcv_nxt, n.rcv_nxt, n.copied_seq, n.rcv_nxt.wrapping_add(n.window)][b.of(4)];
        let seq = base.wrapping_add(b.distance());
        let base = [n.snd_una, n.snd_nxt, n.write_seq, n.snd_una][b.of(4)];
        let ack = base.wrapping_add(b.distance());
        let flags = flags_of(b.u8());
        let window = [65535, b.u16(), 0, 1][b.of(4)];
        let payload = match b.u8() & 7 {
            0..=3 => 0,
            4 => 1,
            5 => b.u8() as usize,
            6 => 1448,
            _ => b.u16() as usize % 20_000,
        };
        let opts = self.options(b);
        let (urg_ptr, tos) = if flags & tcp_flag::URG != 0 { (b.u16(), b.u8()) } else { (0, b.u8() & 3) };
        Seg { seq, ack, flags, window, payload, opts, urg_ptr, tos, ..Seg::default() }
    }

    fn options(&mut self, b: &mut Bytes<'_>) -> Vec<u8> {
        let how = b.u8();
        let mut o = Vec::new();
        match how & 7 {
            0..=4 if self.tstamp => o = timestamp(self.tsval, self.m.last_tsval()),
            5 => {
                self.tsval = self.tsval.wrapping_add(b.distance());
                o = timestamp(self.tsval, self.m.last_tsval().wrapping_add(b.distance()));
            }
            6 => return (0..b.of(41)).map(|_| b.u8()).collect(),
            _ => {}
        }
        let blocks = [0, 1, 3, 4][how as usize >> 3 & 3].min((40 - o.len() - 4) / 8);
        if blocks > 0 {
            o.extend_from_slice(&[1, 1, 5, 2 + 8 * blocks as u8]);
            for _ in 0..blocks {
                let start = self.last.snd_una.wrapping_add(self.edge(b));
                let end = start.wrapping_add(self.edge(b));
                o.extend_from_slice(&start.to_be_bytes());
                o.extend_from_slice(&end.to_be_bytes());
            }
        }
        o
    }

    /// The edge of a SACK block: of a segment, mostly.
    fn edge(&self, b: &mut Bytes<'_>) -> u32 {
        match b.u8() {
            n @ 0..=191 => (n as u32 & 63) * self.last.mss,
            192..=247 => b.u16() as u32,
            _ => b.distance(),
        }
    }

    /// Many segments of one kind, each a little further.
    fn flood(&mut self, b: &mut Bytes<'_>) {
        let mut seg = self.segment(b);
        let (times, dseq, dack) = (b.u8(), b.distance(), b.distance());
        seg.payload = seg.payload.min(1460);
        for _ in 0..times {
            self.inject(seg.clone());
            seg.seq = seg.seq.wrapping_add(dseq);
            seg.ack = seg.ack.wrapping_add(dack);
        }
    }
}

/// Tunables that change what TCP does, one bit each.
fn set_sysctls(m: &Machine, bits: u8) {
    let names = ["tcp_sack", "tcp_timestamps", "tcp_window_scaling", "tcp_mtu_probing", "tcp_ecn", "tcp_rfc1337"];
    for (i, name) in names.iter().enumerate() {
        let on = (bits >> (i + 2)) as i64 & 1;
        // What is on by default stays on unless its bit is set.
        let value = if i < 3 { 1 - on } else { on };
        let _ = m.net.sysctl.set(&format!("net.ipv4.{name}"), value);
    }
}

/// The peer connects.
fn passive(m: &Machine, opts: &[u8], isn: u32) -> Option<(Arc<Socket>, u16)> {
    let l = m.listener(PORT, 8);
    let syn = Seg { sport: PEER_PORT, dport: PORT, seq: isn, flags: tcp_flag::SYN, window: 65535, ..Seg::default() };
    m.receive(&Seg { opts: opts.to_vec(), ..syn.clone() }.packet());
    let (theirs, _) = m.last_seq();
    let tail = if opts.windows(2).any(|w| w == [8, 10]) { timestamp(1001, m.last_tsval()) } else { Vec::new() };
    let seq = isn.wrapping_add(1);
    let third = Seg { seq, ack: theirs.wrapping_add(1), flags: tcp_flag::ACK, opts: tail, ..syn };
    m.receive(&third.packet());
    let Poll::Ready(Ok(s)) = l.accept(true, &mut wait()) else { return None };
    l.release();
    Some((s, PORT))
}

/// The peer is connected to.
fn active(m: &Machine, opts: &[u8], isn: u32) -> Option<(Arc<Socket>, u16)> {
    let s = m.socket();
    s.bind(&addr(Ipv4Addr::UNSPECIFIED, PORT)).ok()?;
    let _ = s.connect(&addr(PEER, PEER_PORT), true, &mut wait());
    let (ours, _) = m.last_seq();
    let mut opts = opts.to_vec();
    if let Some(at) = opts.windows(2).position(|w| w == [8, 10]) {
        opts[at + 6..at + 10].copy_from_slice(&m.last_tsval().to_be_bytes());
    }
    let synack = Seg {
        sport: PEER_PORT,
        dport: PORT,
        seq: isn,
        ack: ours.wrapping_add(1),
        flags: tcp_flag::SYN | tcp_flag::ACK,
        window: 65535,
        opts,
        ..Seg::default()
    };
    m.receive(&synack.packet());
    (s.sk.state() == TcpState::Established).then_some((s, PORT))
}
