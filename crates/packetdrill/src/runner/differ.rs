//! Random stories of one connection, told to the kernel of this machine and to sockeye: what each sends and answers is compared.
//!
//! Interface: [`differ`], [`recorded`].
//! Linux counterpart: none.
//! Locks and context: each story runs in a thread of its own, as scripts do.
//!
//! tests/stories holds what the kernel did of some of them; a test tells them to sockeye alone.
//!
//! A story is made from a seed: segments of a peer, good and bad ones, and calls of a program, some time apart. Where a segment refers
//! to what the stack has sent, both stacks have been the same so far. Time is real on the kernel: what it does not do twice alike
//! is no finding.

use super::exec::{DEFAULTS, PORT, Variant};
use super::packet::{Ends, Segment, build};
use super::script::Opt;
use super::target::Target;
use super::{kernel, sockeye};
use net::drivers::netem::SplitMix64;
use std::fmt::Write as _;
use uapi::tcp::{TCP_CORK, TCP_INFO, TCP_NODELAY, TCP_QUICKACK, TcpInfo};

const FIN: u16 = 1;
const SYN: u16 = 2;
const RST: u16 = 4;
const PSH: u16 = 8;
const ACK: u16 = 16;
const URG: u16 = 32;
const TCP: i32 = 6;
const PEER: u16 = 40_000;
/// The peer's first sequence number.
const ISN: u32 = 1000;
/// Microseconds by which what a timer does may differ.
const TOLERANCE: i64 = 14_000;

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
struct Line {
    text: String,
    at: i64,
}

/// A connection and its peer.
struct Story<'a> {
    target: &'a dyn Target,
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
            let rel = s.seq.wrapping_sub(self.isn);
            let over = s.len + u32::from(s.flags & (SYN | FIN) != 0);
            if s.flags & RST == 0 && (rel.wrapping_add(over).wrapping_sub(self.nxt) as i32) > 0 {
                self.nxt = rel.wrapping_add(over);
            }
            let mut text = format!("> {:03x} {}:+{} ack {}", s.flags, rel, s.len, s.ack.wrapping_sub(ISN));
            let _ = write!(text, " win {}", s.win);
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
        let text = format!("< {flags:03x} {seq}:+{len} ack {ack} win {win} {opts:?}");
        let s = Segment {
            ends: self.ends.back(),
            ecn: 0,
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
        self.say(if self.ts { text.split(" [").next().unwrap_or_default().to_owned() } else { text }, 0);
        let _ = self.target.inject(&build(&s));
    }

    /// The handshake; `false` if there was none.
    fn open(&mut self, variant: Variant) -> bool {
        let t = self.target;
        let l = t.socket(variant.family(), libc::SOCK_STREAM, 0).expect("a socket");
        let one = 1i32.to_ne_bytes();
        let _ = t.setsockopt(l, libc::SOL_SOCKET, libc::SO_REUSEADDR, &one);
        t.bind(l, &variant.sockaddr(self.ends.from.0, PORT)).expect("bound");
        t.listen(l, 8).expect("listening");
        let mut opts = vec![Opt::Mss(self.rng.of(&[1460, 1000, 536]))];
        self.sack = !self.rng.one_in(3);
        let ts = self.rng.one_in(3);
        if self.sack {
            opts.extend([Opt::SackOk, Opt::Nop, Opt::Nop]);
        }
        let scale = if self.rng.one_in(3) { None } else { Some(self.rng.of(&[0, 2, 7])) };
        opts.extend(scale.into_iter().flat_map(|s| [Opt::Nop, Opt::Wscale(s)]));
        if ts {
            opts.extend([Opt::Nop, Opt::Nop, Opt::Ts(self.clock, 0)]);
        }
        self.inject(SYN, 0, 0, 65535, 0, opts);
        self.listen(20_250);
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

    fn segment(&mut self) {
        self.clock += 10;
        let flight = self.nxt.wrapping_sub(self.una);
        let ack = match self.rng.of(&[0, 0, 0, 0, 1, 1, 1, 2, 3, 4]) {
            0 => self.nxt,
            1 => self.una.wrapping_add(flight * self.rng.of(&[1, 2, 3, 4, 6]) / 8),
            2 => self.una.wrapping_sub(100),
            3 => self.nxt.wrapping_add(self.rng.of(&[1, 1000, 1 << 20])),
            _ => self.una,
        };
        let len = self.rng.of(&[0, 0, 0, 1, 100, 500, 1000, 1460]);
        let offset: u32 =
            self.rng.of(&[0, 0, 0, 0, 0, 0, 1000, 2000, 500u32.wrapping_neg(), 1000u32.wrapping_neg(), 1 << 20]);
        let flags = self.rng.of(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, PSH, PSH, PSH, FIN, RST, SYN, URG, FIN | PSH]);
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

fn tell(target: &dyn Target, variant: Variant, seed: u64) -> Vec<Line> {
    for (name, value) in DEFAULTS {
        target.sysctl(name, value);
    }
    let start = target.now() / 1000 * 1000 + 1250;
    target.wait_until(start);
    let ends = Ends { from: (variant.local(), PORT), to: (variant.remote(), PEER) };
    let rng = Rng(SplitMix64(seed));
    let mut s = Story {
        target,
        rng,
        ends,
        record: Vec::new(),
        isn: 0,
        nxt: 0,
        una: 0,
        peer_nxt: 0,
        ts: false,
        sack: false,
        clock: 1000,
        echo: 0,
        fd: None,
        room: 15_000,
        start,
    };
    if !s.open(variant) {
        return s.record;
    }
    for _ in 0..18 {
        if s.rng.one_in(2) {
            s.segment()
        } else {
            s.call()
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

/// The first line that differs, if any.
fn difference(a: &[Line], b: &[Line]) -> Option<usize> {
    let same = |x: &Line, y: &Line| x.text == y.text && (x.at - y.at).abs() <= TOLERANCE;
    let n = a.len().max(b.len());
    (0..n).find(|&i| !matches!((a.get(i), b.get(i)), (Some(x), Some(y)) if same(x, y)))
}

fn on_kernel(variant: Variant, seed: u64) -> Result<Vec<Line>, String> {
    let run = move || kernel::Kernel::new(variant.mtu()).map(|k| tell(&k, variant, seed));
    std::thread::spawn(run).join().unwrap_or_else(|_| Err("panicked".to_owned()))
}

/// How a story of `seed` turns out.
pub enum Outcome {
    /// The same on both: its record.
    Alike(String),
    /// Both records, from a little before where they part.
    Different(String),
    /// The kernel's time is real: it does not do the same twice, or a timer is what differs.
    Unsure,
}

fn variant_of(seed: u64) -> Variant {
    [Variant::Ipv4, Variant::Ipv4, Variant::Ipv6, Variant::Mapped][(seed % 4) as usize]
}

fn on_sockeye(seed: u64) -> Result<Vec<Line>, String> {
    let variant = variant_of(seed);
    let run = move || sockeye::Sockeye::new(variant.mtu()).map(|s| tell(&s, variant, seed));
    std::thread::spawn(run).join().unwrap_or_else(|_| Err("panicked".to_owned()))
}

fn text(r: &[Line]) -> String {
    r.iter().map(|l| l.text.trim_end().to_owned() + "\n").collect()
}

/// What sockeye does of the story of `seed`, as tests/stories has it of the kernel.
pub fn recorded(seed: u64) -> Result<String, String> {
    on_sockeye(seed).map(|r| text(&r))
}

/// Tells the story of `seed` to both. The error says why the kernel cannot be asked.
pub fn differ(seed: u64) -> Result<Outcome, String> {
    let variant = variant_of(seed);
    let ours = on_sockeye(seed)?;
    let theirs = on_kernel(variant, seed)?;
    if difference(&ours, &theirs).is_none() {
        return Ok(Outcome::Alike(text(&ours)));
    }
    for _ in 0..2 {
        let again = on_kernel(variant, seed)?;
        if difference(&ours, &again).is_none() {
            return Ok(Outcome::Alike(text(&ours)));
        }
        if difference(&theirs, &again).is_some() {
            return Ok(Outcome::Unsure);
        }
    }
    let Some(at) = difference(&ours, &theirs) else { return Ok(Outcome::Alike(text(&ours))) };
    let by_timer = |r: &[Line]| r.get(at).is_some_and(|l| l.at > 2500);
    if by_timer(&ours) || by_timer(&theirs) {
        return Ok(Outcome::Unsure);
    }
    let show = |r: &[Line]| {
        let lines = r.iter().enumerate().skip(at.saturating_sub(14)).take(18);
        lines.map(|(i, l)| format!("{}{:7} {}\n", if i == at { "*" } else { " " }, l.at, l.text)).collect::<String>()
    };
    Ok(Outcome::Different(format!("seed {seed}, {variant:?}\nsockeye:\n{}kernel:\n{}", show(&ours), show(&theirs))))
}
