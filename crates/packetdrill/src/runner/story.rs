//! A random story of one connection, made from a seed as it is told.
//!
//! Interface: [`tell`], [`Line`].
//! Linux counterpart: none.
//! Locks and context: drives its target from one thread.
//!
//! Segments of a peer, good and bad ones, and calls of a program, some time apart. Where a segment refers to what the stack has sent,
//! two stacks that tell the same seed have been the same so far.
//!
//! There are three kinds: below a million the program is a server, and all that comes is TCP; from a million on it is a client, from
//! two million on a server of which half the peers have ECN. In both of these routers have a say, and there are calls that few
//! programs make.

use super::exec::{DEFAULTS, PORT, Variant};
use super::packet::{Ends, Segment, build, build_icmp};
use super::script::{Icmp, Opt};
use super::target::Target;
use net::drivers::netem::SplitMix64;
use std::fmt::Write as _;
use uapi::tcp::{
    TCP_CORK, TCP_INFO, TCP_MAXSEG, TCP_NODELAY, TCP_QUICKACK, TCP_USER_TIMEOUT, TCP_WINDOW_CLAMP, TcpInfo,
};

const FIN: u16 = 1;
const SYN: u16 = 2;
const RST: u16 = 4;
const PSH: u16 = 8;
const ACK: u16 = 16;
const URG: u16 = 32;
const ECE: u16 = 64;
const CWR: u16 = 128;
const TCP: i32 = 6;
const SIOCATMARK: u32 = 0x8905;
const SIOCOUTQNSD: u32 = 0x894b;
const PEER: u16 = 40_000;
/// The peer's first sequence number.
const ISN: u32 = 1000;

/// What is left to chance.
struct Rng(SplitMix64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0.draw()
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[(self.next() % list.len() as u64) as usize]
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
}

/// What happened: a line of a story's record, and when, in microseconds after the step's beginning, for what a timer may have done.
#[derive(Clone, PartialEq, Eq)]
pub struct Line {
    pub text: String,
    pub at: i64,
}

/// What a story is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A server, and nothing but segments and the usual calls.
    Plain,
    Client,
    Server,
}

impl Kind {
    fn of(seed: u64) -> Kind {
        match seed / 1_000_000 {
            0 => Kind::Plain,
            1 => Kind::Client,
            _ => Kind::Server,
        }
    }
}

/// A connection and its peer.
struct Story<'a> {
    kind: Kind,
    target: &'a dyn Target,
    variant: Variant,
    rng: Rng,
    ends: Ends,
    record: Vec<Line>,
    /// The stack's first sequence number.
    isn: u32,
    /// Relative: what the stack has sent up to, what the peer has acknowledged, what the peer has sent up to.
    nxt: u32,
    una: u32,
    peer_nxt: u32,
    ts: bool,
    sack: bool,
    /// The peer answers to ECN, and its packets may be marked on the way.
    ecn: bool,
    /// The peer's clock, milliseconds; what the stack's last time stamp was.
    clock: u32,
    echo: u32,
    fd: Option<i32>,
    /// Bytes that may yet be written.
    room: usize,
    start: i64,
}

impl Story<'_> {
    fn say(&mut self, text: String, at: i64) {
        self.record.push(Line { text, at });
    }

    /// Notes what the stack sends for `usecs`.
    fn listen(&mut self, usecs: i64) {
        let from = self.start;
        self.start += usecs;
        while let Some((bytes, at)) = self.target.receive(self.start) {
            let Some(s) = Segment::parse(&bytes) else { continue };
            if s.flags & SYN != 0 {
                self.isn = s.seq;
            }
            // A reset that answers what has no number of ours in it begins at none.
            let rel = if s.flags & RST != 0 && s.seq == 0 { 0 } else { s.seq.wrapping_sub(self.isn) };
            let over = s.len + u32::from(s.flags & (SYN | FIN) != 0);
            if s.flags & RST == 0 && (rel.wrapping_add(over).wrapping_sub(self.nxt) as i32) > 0 {
                self.nxt = rel.wrapping_add(over);
            }
            let mut text = format!("> {:03x} {}:+{} ack {}", s.flags, rel, s.len, s.ack.wrapping_sub(ISN));
            let _ = write!(text, " win {}", s.win);
            if s.ecn != 0 {
                let _ = write!(text, " ect {}", s.ecn);
            }
            if s.flags & URG != 0 {
                let _ = write!(text, " urg {}", s.urg);
            }
            for o in &s.opts {
                let _ = match o {
                    Opt::Ts(v, e) => {
                        self.echo = *v;
                        write!(text, " ts({e})")
                    }
                    Opt::Sack(v) => {
                        let v: Vec<_> = v.iter().map(|(a, z)| (a.wrapping_sub(ISN), z.wrapping_sub(ISN))).collect();
                        write!(text, " {v:?}")
                    }
                    o => write!(text, " {o:?}"),
                };
            }
            self.say(text, at - from);
        }
        self.target.wait_until(self.start);
    }

    fn inject(&mut self, flags: u16, seq: u32, ack: u32, win: u16, len: u32, mut opts: Vec<Opt>) {
        if self.ts {
            opts.splice(0..0, [Opt::Nop, Opt::Nop, Opt::Ts(self.clock, self.echo)]);
        }
        let ecn = if self.ecn && len > 0 { self.rng.of(&[2, 2, 2, 3]) } else { 0 };
        let text = format!("< {flags:03x} {seq}:+{len} ack {ack} win {win} {opts:?}");
        let s = Segment {
            ends: self.ends.back(),
            ecn,
            flags,
            seq: ISN.wrapping_add(seq),
            ack: if flags & ACK != 0 { self.isn.wrapping_add(ack) } else { 0 },
            win,
            urg: if flags & URG != 0 { 1 } else { 0 },
            opts: opts
                .into_iter()
                .map(|o| match o {
                    Opt::Sack(v) => Opt::Sack(
                        v.into_iter().map(|(a, z)| (self.isn.wrapping_add(a), self.isn.wrapping_add(z))).collect(),
                    ),
                    o => o,
                })
                .collect(),
            len,
        };
        // What goes in is the same on both; the stack's time stamps are not.
        let echoes = s.opts.iter().any(|o| matches!(o, Opt::Ts(_, 1..)));
        self.say(if echoes { text.split(" [").next().unwrap_or_default().to_owned() } else { text }, 0);
        let _ = self.target.inject(&build(&s));
    }

    /// A socket with an address.
    fn bound(&self) -> i32 {
        let t = self.target;
        let fd = t.socket(self.variant.family(), libc::SOCK_STREAM, 0).expect("a socket");
        let _ = t.setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, &1i32.to_ne_bytes());
        t.bind(fd, &self.variant.sockaddr(self.ends.from.0, PORT)).expect("bound");
        fd
    }

    /// The options of the peer's SYN, and whether it has time stamps.
    fn syn_options(&mut self) -> (Vec<Opt>, bool) {
        let mut opts = vec![Opt::Mss(self.rng.of(&[1460, 1000, 536]))];
        self.sack = !self.rng.one_in(3);
        let ts = self.rng.one_in(3);
        if self.sack {
            opts.extend([Opt::SackOk, Opt::Nop, Opt::Nop]);
        }
        let scale = if self.rng.one_in(3) { None } else { Some(self.rng.of(&[0, 2, 7])) };
        opts.extend(scale.into_iter().flat_map(|s| [Opt::Nop, Opt::Wscale(s)]));
        if ts {
            opts.extend([Opt::Nop, Opt::Nop, Opt::Ts(self.clock, self.echo)]);
        }
        (opts, ts)
    }

    fn all_options(&self) -> Vec<Opt> {
        vec![Opt::Mss(1000), Opt::SackOk, Opt::Ts(self.clock, 0), Opt::Nop, Opt::Wscale(2)]
    }

    /// The handshake with a client; `false` if there was none.
    fn serve(&mut self) -> bool {
        let t = self.target;
        let l = self.bound();
        t.listen(l, 8).expect("listening");
        let ecn = self.kind == Kind::Server && self.rng.one_in(2);
        let (opts, ts) = self.syn_options();
        self.inject(SYN | if ecn { ECE | CWR } else { 0 }, 0, 0, 65535, 0, opts);
        self.listen(20_250);
        self.ecn = ecn;
        self.ts = ts;
        self.inject(ACK, 1, 1, 1000, 0, Vec::new());
        (self.peer_nxt, self.una) = (1, 1);
        self.listen(10_000);
        let _ = t.fcntl(l, libc::F_SETFL, libc::O_NONBLOCK);
        self.fd = t.accept(l).ok();
        if let Some(fd) = self.fd {
            let _ = t.fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK);
        }
        self.say(format!("accept {}", self.fd.is_some()), 0);
        self.fd.is_some()
    }

    /// The handshake with a server; `false` if there was none.
    fn connect(&mut self) -> bool {
        let t = self.target;
        let fd = self.bound();
        let _ = t.fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK);
        self.fd = Some(fd);
        self.dial();
        self.listen(20_250);
        for _ in 0..self.rng.of(&[0, 0, 0, 1, 2, 3]) {
            match self.rng.of(&[0, 0, 1, 2]) {
                0 => self.early_segment(),
                1 => self.icmp(),
                _ => self.call(),
            }
            // What is not believed has the SYN sent again after two ticks, which are not equally long.
            let pause = self.rng.of(&[17, 63, 130, 700]);
            self.listen(pause * 1000);
            self.info();
        }
        let (mut opts, mut ts) = self.syn_options();
        self.peer_nxt = 1;
        let len = self.rng.of(&[0, 0, 0, 0, 0, 100]);
        match self.rng.one_in(5) {
            // Both at once. The kernel repeats options that the peer has not offered, and scales its window all the same
            // (against RFC 7323, 2.2), so everything is offered.
            true => {
                (self.sack, ts) = (true, true);
                opts = self.all_options();
                self.inject(SYN, 0, 0, 65535, 0, opts);
                self.listen(20_250);
                self.ts = ts;
                self.inject(ACK, 1, 1, 1000, len, Vec::new());
            }
            false => self.inject(SYN | ACK, 0, 1, 65535, len, opts),
        }
        self.peer_nxt += len;
        self.ts = ts;
        self.una = 1;
        self.listen(10_000);
        self.info();
        self.fd.is_some()
    }

    fn dial(&mut self) {
        let Some(fd) = self.fd else { return };
        let r = self.target.connect(fd, &self.variant.sockaddr(self.ends.to.0, PEER)).map(|()| 0);
        self.say(format!("connect = {r:?}"), 0);
    }

    /// Something from the peer that is not the answer that a SYN asks for.
    fn early_segment(&mut self) {
        let flags = self.rng.of(&[
            ACK,
            ACK | PSH,
            ACK | FIN,
            FIN,
            RST,
            RST | ACK,
            SYN | ACK,
            SYN | RST,
            0,
            URG | ACK,
            SYN | FIN,
        ]);
        let ack = self.rng.of(&[0, 0, 2, 1000, 1]);
        // Those end it.
        let ack = if flags & RST != 0 && ack == 1 && !self.rng.one_in(4) { 2 } else { ack };
        let ack = if flags & (SYN | ACK) == SYN | ACK && ack == 1 { 0 } else { ack };
        let seq = self.rng.of(&[0, 0, 1, 1000]);
        let len = self.rng.of(&[0, 0, 100]);
        let opts = if flags & (SYN | ACK | RST) == SYN { self.all_options() } else { Vec::new() };
        self.inject(flags, seq, ack, 1000, len, opts);
    }

    /// A router's word on what has been sent.
    fn icmp(&mut self) {
        let (kind, code) = self.rng.of(&[
            ("unreachable", "net_unreachable"),
            ("unreachable", "host_unreachable"),
            ("unreachable", "port_unreachable"),
            ("unreachable", "frag_needed"),
            ("unreachable", "frag_needed"),
            ("unreachable", "frag_needed"),
            ("time_exceeded", ""),
        ]);
        let mtu = self.rng.of(&[1400, 1300, 1000, 576, 100, 1500, 0]);
        let rel = self.rng.of(&[self.una, self.una, self.nxt.wrapping_sub(1), self.nxt, self.una.wrapping_sub(1)]);
        self.say(format!("< {kind} {code} mtu {mtu} of {rel}"), 0);
        let i = Icmp { kind: kind.to_owned(), code: code.to_owned(), mtu, seq: 0 };
        if let Some(b) = build_icmp(&i, &self.ends, self.isn.wrapping_add(rel), 100) {
            let _ = self.target.inject(&b);
        }
    }

    /// A call that few programs make.
    fn rare_call(&mut self) {
        let Some(fd) = self.fd else { return };
        let t = self.target;
        let set = |level, name, v: i32| t.setsockopt(fd, level, name, &v.to_ne_bytes()).map(|()| 0);
        let (name, r) = match self.rng.next() % 17 {
            0 => ("oob".to_owned(), t.sendto(fd, &[1], libc::MSG_OOB, None).map(|n| n as i64)),
            1 => ("read oob".to_owned(), t.recv(fd, &mut [0; 1], libc::MSG_OOB).map(|n| n as i64)),
            2 => {
                let n = self.rng.of(&[1, 500, 100_000]);
                (format!("peek {n}"), t.recv(fd, &mut vec![0; n], libc::MSG_PEEK).map(|n| n as i64))
            }
            3 => ("inq".to_owned(), t.ioctl(fd, libc::FIONREAD as u32, 0).map(i64::from)),
            4 => ("outq".to_owned(), t.ioctl(fd, libc::TIOCOUTQ as u32, 0).map(i64::from)),
            5 => ("outqnsd".to_owned(), t.ioctl(fd, SIOCOUTQNSD, 0).map(i64::from)),
            6 => ("atmark".to_owned(), t.ioctl(fd, SIOCATMARK, 0).map(i64::from)),
            7 => {
                let r = t.getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, 4);
                ("error".to_owned(), r.map(|b| i64::from(b.first().copied().unwrap_or(0))))
            }
            8 => {
                let on = [1i32.to_ne_bytes(), self.rng.of(&[0i32, 1]).to_ne_bytes()].concat();
                ("linger".to_owned(), t.setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, &on).map(|()| 0))
            }
            9 => ("user timeout".to_owned(), set(TCP, TCP_USER_TIMEOUT, self.rng.of(&[300, 1000, 0]))),
            10 => ("maxseg".to_owned(), set(TCP, TCP_MAXSEG, self.rng.of(&[600, 1000, 50]))),
            11 => ("clamp".to_owned(), set(TCP, TCP_WINDOW_CLAMP, self.rng.of(&[3000, 10_000, 0]))),
            12 => ("lowat".to_owned(), set(libc::SOL_SOCKET, libc::SO_RCVLOWAT, self.rng.of(&[1, 700, 3000]))),
            13 => ("oobinline".to_owned(), set(libc::SOL_SOCKET, libc::SO_OOBINLINE, self.rng.of(&[0, 1]))),
            14 => return self.dial(),
            15 => ("read errors".to_owned(), t.recv(fd, &mut [0; 100], libc::MSG_ERRQUEUE).map(|n| n as i64)),
            _ => ("more".to_owned(), t.sendto(fd, &[0; 700], libc::MSG_MORE, None).map(|n| n as i64)),
        };
        self.say(format!("{name} = {r:?}"), 0);
    }

    fn segment(&mut self) {
        self.clock += 10;
        let flight = self.nxt.wrapping_sub(self.una);
        let ack = match self.rng.of(&[0, 0, 0, 0, 1, 1, 1, 2, 3, 4]) {
            0 => self.nxt,
            1 => self.una.wrapping_add(flight * self.rng.of(&[1, 2, 3, 4, 6]) / 8),
            // From before the connection: the kernel's header prediction takes data with that, RFC 5961 (5.2) does not.
            2 if self.kind != Kind::Plain && self.una < 100 => self.una,
            2 => self.una.wrapping_sub(100),
            3 => self.nxt.wrapping_add(self.rng.of(&[1, 1000, 1 << 20])),
            _ => self.una,
        };
        let len = self.rng.of(&[0, 0, 0, 1, 100, 500, 1000, 1460]);
        let offset: u32 =
            self.rng.of(&[0, 0, 0, 0, 0, 0, 1000, 2000, 500u32.wrapping_neg(), 1000u32.wrapping_neg(), 1 << 20]);
        let mut flags =
            self.rng.of(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, PSH, PSH, PSH, FIN, RST, SYN, URG, FIN | PSH]);
        if self.ecn {
            flags |= self.rng.of(&[0, 0, 0, ECE, CWR]);
        }
        let win = self.rng.of(&[1000, 1000, 1000, 1000, 65535, 0, 1, 20]);
        let mut opts = Vec::new();
        if self.sack && flight > 600 && self.rng.one_in(2) {
            let from = self.una + self.rng.of(&[1, 2, 3]) * flight / 5;
            let to = (from + self.rng.of(&[1, 2]) * flight / 5).min(self.nxt);
            if from < to {
                opts.extend([Opt::Nop, Opt::Nop, Opt::Sack(vec![(from, to)])]);
            }
        }
        let seq = self.peer_nxt.wrapping_add(offset);
        self.inject(ACK | flags, seq, ack, win, len, opts);
        if (ack.wrapping_sub(self.una) as i32) > 0 && ack <= self.nxt {
            self.una = ack;
        }
        if offset == 0 && flags & (RST | SYN) == 0 {
            self.peer_nxt += len + u32::from(flags & FIN != 0);
        }
    }

    fn call(&mut self) {
        let Some(fd) = self.fd else { return };
        let t = self.target;
        let set = |level, name, v: i32| t.setsockopt(fd, level, name, &v.to_ne_bytes()).map(|()| 0);
        let (name, r) = match self.rng.next() % 24 {
            0..10 => {
                // How much memory a packet takes is the kernel's configuration's to say: no buffer is filled.
                let n = if self.room < 5000 { 1 } else { self.rng.of(&[1, 100, 1000, 1460, 3000, 5000]) };
                self.room = self.room.saturating_sub(n);
                (format!("write {n}"), t.sendto(fd, &vec![0; n], 0, None).map(|n| n as i64))
            }
            10..17 => {
                let n = self.rng.of(&[1, 500, 5000, 100_000]);
                (format!("read {n}"), t.recv(fd, &mut vec![0; n], 0).map(|n| n as i64))
            }
            17 => ("nodelay".to_owned(), set(TCP, TCP_NODELAY, (self.rng.next() % 2) as i32)),
            18 => ("cork".to_owned(), set(TCP, TCP_CORK, (self.rng.next() % 2) as i32)),
            19 => ("quickack".to_owned(), set(TCP, TCP_QUICKACK, (self.rng.next() % 2) as i32)),
            20 => {
                let how = self.rng.of(&[0, 1, 2]);
                (format!("shutdown {how}"), t.shutdown(fd, how).map(|()| 0))
            }
            21 => {
                self.fd = None;
                ("close".to_owned(), t.close(fd).map(|()| 0))
            }
            _ => {
                let r = t.poll(&[(fd, 0x7fff & !0x20)], 0).map(|(_, v)| i64::from(v[0]));
                ("poll".to_owned(), r)
            }
        };
        self.say(format!("{name} = {r:?}"), 0);
    }

    fn info(&mut self) {
        let Some(fd) = self.fd else { return };
        let Ok(b) = self.target.getsockopt(fd, TCP, TCP_INFO, 256) else { return };
        let i = TcpInfo::from_bytes(&b);
        if i.tcpi_state == uapi::tcp::TcpState::Close as u8 {
            // What was in flight is nobody's any more, and Linux leaves the counts as they were.
            return self.say("closed".to_owned(), 0);
        }
        let text = format!(
            "state {} ca {} retransmits {} probes {} backoff {} unacked {} sacked {} lost {} retrans {} cwnd {} ssthresh {} reord {} \
             total {} mss {} notsent {}",
            i.tcpi_state,
            i.tcpi_ca_state,
            i.tcpi_retransmits,
            i.tcpi_probes,
            i.tcpi_backoff,
            i.tcpi_unacked,
            i.tcpi_sacked,
            i.tcpi_lost,
            i.tcpi_retrans,
            i.tcpi_snd_cwnd,
            i.tcpi_snd_ssthresh,
            i.tcpi_reordering,
            i.tcpi_total_retrans,
            i.tcpi_snd_mss,
            i.tcpi_notsent_bytes
        );
        self.say(text, 0);
    }
}

/// Tells the story of `seed`: what happened.
pub fn tell(target: &dyn Target, variant: Variant, seed: u64) -> Vec<Line> {
    for (name, value) in DEFAULTS {
        target.sysctl(name, value);
    }
    let start = target.now() / 1000 * 1000 + 1250;
    target.wait_until(start);
    let ends = Ends { from: (variant.local(), PORT), to: (variant.remote(), PEER) };
    let rng = Rng(SplitMix64(seed));
    let kind = Kind::of(seed);
    let mut s = Story {
        kind,
        target,
        variant,
        rng,
        ends,
        record: Vec::new(),
        isn: 0,
        nxt: 0,
        una: 0,
        peer_nxt: 0,
        ts: false,
        sack: false,
        ecn: false,
        clock: 1000,
        echo: 0,
        fd: None,
        room: 15_000,
        start,
    };
    let open = match kind {
        Kind::Client => s.connect(),
        Kind::Plain | Kind::Server => s.serve(),
    };
    if !open {
        return s.record;
    }
    for _ in 0..18 {
        let rare = kind != Kind::Plain && s.rng.one_in(4);
        match (s.rng.one_in(2), rare) {
            (true, false) => s.segment(),
            (true, true) => s.icmp(),
            (false, false) => s.call(),
            (false, true) => s.rare_call(),
        }
        // Away from where timers end.
        let pause = s.rng.of(&[3, 3, 3, 17, 17, 63, 63, 130, 320]);
        s.listen(pause * 1000);
        s.info();
    }
    s.listen(700_000);
    s.info();
    if let Some(fd) = s.fd {
        let _ = target.close(fd);
    }
    s.record
}
