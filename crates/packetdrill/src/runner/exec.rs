//! Runs a script.
//!
//! Interface: [`run`], [`Variant`].
//! Linux counterpart: packetdrill's `run.c`, `run_packet.c`, `run_system_call.c`.
//! Locks and context: one thread drives; calls that block have threads of their own.

use super::code;
use super::counters::expectation;
use super::packet::{Ends, Segment, build, build_icmp};
use super::script::*;
use super::symbols::errno_name;
use super::target::Target;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};
use uapi::{Result as SysResult, SockAddr};

/// The port of the stack that listens, and of the peer that is connected to.
pub(super) const PORT: u16 = 8080;
/// The first port of peers that connect.
const PEER_PORT: u16 = 50_000;
/// How much later than it may come a packet is waited for, to say when it came.
const GRACE: i64 = 100_000;
/// How long an event without a time is waited for.
const ANY: i64 = 20_000_000;

const SYN: u16 = 2;
const ACK: u16 = 0x10;

/// A mistake of the script or of the stack, and the line.
type Error = (usize, String);

/// What a script's `...` for addresses stand for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Variant {
    Ipv4,
    Ipv6,
    /// IPv4 on a socket of `AF_INET6`.
    Mapped,
}

impl Variant {
    /// Such that segments carry the same in all variants.
    pub fn mtu(self) -> u32 {
        if self == Variant::Ipv6 { 1520 } else { 1500 }
    }

    pub(super) fn local(self) -> IpAddr {
        match self {
            Variant::Ipv6 => IpAddr::V6(Ipv6Addr::new(0xfd3d, 0xa0b, 0x17d6, 0, 0, 0, 0, 1)),
            _ => IpAddr::V4(Ipv4Addr::new(192, 168, 0, 1)),
        }
    }

    pub(super) fn remote(self) -> IpAddr {
        match self {
            Variant::Ipv6 => IpAddr::V6(Ipv6Addr::new(0xfd3d, 0xfa7b, 0xd17d, 0, 0, 0, 0, 1)),
            _ => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        }
    }

    pub(super) fn sockaddr(self, ip: IpAddr, port: u16) -> SockAddr {
        match (ip, self) {
            (IpAddr::V4(a), Variant::Mapped) => sock(SocketAddr::new(a.to_ipv6_mapped().into(), port)),
            _ => sock(SocketAddr::new(ip, port)),
        }
    }

    pub(super) fn family(self) -> i32 {
        if self == Variant::Ipv4 { libc::AF_INET } else { libc::AF_INET6 }
    }
}

fn sock(a: SocketAddr) -> SockAddr {
    match a {
        SocketAddr::V4(a) => SockAddr::V4(a),
        SocketAddr::V6(a) => SockAddr::V6(a),
    }
}

/// A connection, from the stack to the peer.
struct Conn {
    ends: Ends,
    /// The stack's port is known.
    bound: bool,
    local_isn: Option<u32>,
    remote_isn: Option<u32>,
    /// Time stamps of the stack: in the script, and on the wire.
    stamps: Vec<(u32, u32)>,
}

/// A call under way in a thread of its own.
struct Blocked {
    line: usize,
    call: Call,
    /// When it is to end, after the start.
    ends: i64,
    done: Receiver<(SysResult<Outcome>, i64)>,
}

/// What a call that succeeds answers.
struct Outcome {
    value: i64,
    /// It is a new descriptor.
    fd: bool,
}

struct Run {
    target: Arc<dyn Target>,
    variant: Variant,
    tolerance: i64,
    start: i64,
    /// When the last event was over, after the start.
    last: i64,
    fds: HashMap<i64, i32>,
    conn: Option<Conn>,
    /// A `listen` whose connection has not come yet.
    listening: bool,
    next_port: u16,
    /// Whose `tcp_info` is looked at.
    info_fd: Option<i32>,
    blocked: Option<Blocked>,
}

/// What every script starts from, on either stack.
pub(super) const DEFAULTS: [(&str, &str); 6] = [
    ("net.ipv4.tcp_congestion_control", "reno"),
    ("net.ipv4.tcp_rmem", "4096 131072 6291456"),
    ("net.ipv4.tcp_wmem", "4096 16384 4194304"),
    ("net.ipv4.tcp_ecn", "2"),
    ("net.ipv4.tcp_no_metrics_save", "1"),
    ("net.ipv4.tcp_timestamps", "1"),
];

pub fn run(script: &Script, variant: Variant, target: &Arc<dyn Target>) -> Result<(), Error> {
    let mut r = Run {
        target: target.clone(),
        variant,
        tolerance: target.tolerance(),
        start: 0,
        last: 0,
        fds: HashMap::new(),
        conn: None,
        listening: false,
        next_port: PEER_PORT,
        info_fd: None,
        blocked: None,
    };
    for (name, value) in DEFAULTS {
        if !target.sysctl(name, value) {
            return Err((1, format!("sysctl {name} cannot be set to {value:?}")));
        }
    }
    for (name, value) in &script.options {
        match (name.as_str(), value.parse::<i64>()) {
            ("--tolerance_usecs", Ok(v)) => r.tolerance = r.tolerance.max(v),
            _ => return Err((1, format!("{name}={value}: only --tolerance_usecs is understood"))),
        }
    }
    for (line, text) in &script.init {
        r.command(text).map_err(|e| (*line, e))?;
    }
    // Between two ticks of the clock.
    r.start = target.now() / 1000 * 1000 + 1250;
    target.wait_until(r.start);
    let outcome = script.events.iter().try_for_each(|e| r.event(e)).and_then(|()| r.finish());
    for fd in r.fds.values() {
        let _ = target.close(*fd);
    }
    outcome
}

impl Run {
    fn now(&self) -> i64 {
        self.target.now() - self.start
    }

    fn event(&mut self, e: &Event) -> Result<(), Error> {
        let at = |r: Result<(), String>| r.map_err(|m| (e.line, m));
        self.collect(false)?;
        let (from, to) = match e.when {
            When::Any => (self.last, self.last),
            When::At(t) => (t, t),
            When::After(d) => (self.last + d, self.last + d),
            When::Between(a, b) => (a, b),
            When::AfterBetween(a, b) => (self.last + a, self.last + b),
        };
        if let What::Out(p) = &e.what {
            let window = if e.when == When::Any { None } else { Some((from, to)) };
            return at(self.outbound(p, window));
        }
        self.target.wait_until(self.start + from);
        self.last = from.max(self.last);
        let over = self.blocked.as_ref().is_some_and(|b| b.ends <= self.last);
        if over && !matches!(e.what, What::In(_) | What::InIcmp(_)) {
            self.collect(true)?;
        }
        match &e.what {
            What::Out(_) => {}
            What::In(p) => at(self.inbound(p))?,
            What::InIcmp(i) => at(self.icmp(i))?,
            What::Command(text) => at(self.command(text))?,
            What::Code(text) => at(self.code(text))?,
            What::Call(c) => self.start_call(e.line, c)?,
        }
        if matches!(e.what, What::Call(_) | What::Command(_)) {
            self.last = self.last.max(self.now());
        }
        Ok(())
    }

    /// The end of the script: a call that is still under way has to end in time.
    fn finish(&mut self) -> Result<(), Error> {
        if let Some(b) = &self.blocked {
            self.target.wait_until(self.start + b.ends + self.tolerance);
        }
        self.collect(true)
    }

    // --- Packets ---

    fn inbound(&mut self, p: &PacketSpec) -> Result<(), String> {
        if self.listening && p.flags & SYN != 0 {
            self.listening = false;
            let ends = Ends { from: (self.variant.local(), PORT), to: (self.variant.remote(), self.next_port) };
            self.next_port += 1;
            self.conn = Some(Conn { ends, bound: true, local_isn: None, remote_isn: None, stamps: Vec::new() });
        }
        let conn = self.conn.as_mut().ok_or("there is no connection that it could belong to")?;
        if p.flags & SYN != 0 {
            conn.remote_isn = Some(p.seq);
        }
        let (ours, theirs) = (conn.local_isn.unwrap_or(0), conn.remote_isn.unwrap_or(0));
        let seq = if p.flags & SYN != 0 { p.seq } else { theirs.wrapping_add(p.seq) };
        let ack = p.ack.map_or(0, |a| ours.wrapping_add(a));
        let opts = p.opts.clone().unwrap_or_default().into_iter().map(|o| match o {
            Opt::Sack(v) => {
                Opt::Sack(v.into_iter().map(|(a, z)| (ours.wrapping_add(a), ours.wrapping_add(z))).collect())
            }
            Opt::Ts(v, e) => Opt::Ts(v, conn.live_stamp(e)),
            o => o,
        });
        let s = Segment {
            ends: conn.ends.back(),
            ecn: p.ecn.unwrap_or(0),
            flags: p.flags,
            seq,
            ack,
            win: p.win.unwrap_or(0),
            urg: p.urg.unwrap_or(0),
            opts: opts.collect(),
            len: p.len,
        };
        self.target.inject(&build(&s)).map_err(|e| format!("the packet is not taken: {e:?}"))
    }

    fn icmp(&mut self, i: &Icmp) -> Result<(), String> {
        let conn = self.conn.as_ref().ok_or("there is no connection that it could be about")?;
        let seq = conn.local_isn.unwrap_or(0).wrapping_add(i.seq);
        let b = build_icmp(i, &conn.ends, seq, 8).ok_or(format!("no ICMP {} {} here", i.kind, i.code))?;
        self.target.inject(&b).map_err(|e| format!("the packet is not taken: {e:?}"))
    }

    /// `window`: when it may come, after the start.
    fn outbound(&mut self, p: &PacketSpec, window: Option<(i64, i64)>) -> Result<(), String> {
        let until = window.map_or(self.last + ANY, |(_, to)| to + self.tolerance + GRACE);
        let (live, when) = loop {
            let Some((bytes, when)) = self.target.receive(self.start + until) else {
                return Err(format!("no packet came; expected {}", show(p)));
            };
            let segment = Segment::parse(&bytes);
            if let Some(s) = segment.filter(|s| self.conn.as_mut().is_some_and(|c| c.takes(s))) {
                break (s, when - self.start);
            }
        };
        self.last = self.last.max(when);
        let conn = self.conn.as_mut().ok_or("no connection")?;
        let got = conn.seen(&live, p);
        let tolerance = self.tolerance;
        conn.compare(&got, &live, p, tolerance)
            .map_err(|e| format!("{e}\n  expected: {}\n  came:     {}", show(p), show(&got)))?;
        match window {
            Some((from, to)) if when < from - self.tolerance || when > to + self.tolerance => {
                let span = if from == to { seconds(from) } else { format!("{}~{}", seconds(from), seconds(to)) };
                Err(format!("timing: {} came at {}, not {span}", show(p), seconds(when)))
            }
            _ => Ok(()),
        }
    }

    // --- Commands and assertions ---

    /// Of a shell only what changes sysctls, calls tools and looks at counters.
    fn command(&mut self, text: &str) -> Result<(), String> {
        for line in text.split(['\n', ';']).map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            if let Some(want) = expectation(line) {
                want.check(&(self.target.proc_net("netstat") + &self.target.proc_net("snmp")))?;
                continue;
            }
            let Some(rest) = line.strip_prefix("sysctl") else {
                self.target.command(&line.split_whitespace().collect::<Vec<_>>())?;
                continue;
            };
            let mut rest = rest.trim_start();
            while let Some(r) = rest.strip_prefix("-q").or_else(|| rest.strip_prefix("-w")) {
                rest = r.trim_start();
            }
            let (name, value) = rest.split_once('=').ok_or_else(|| format!("{line:?}: no value"))?;
            let value = value.trim().trim_matches(['"', '\'']);
            if !self.target.sysctl(name.trim(), value) {
                return Err(format!("sysctl {name} cannot be set to {value:?}"));
            }
        }
        Ok(())
    }

    fn code(&mut self, text: &str) -> Result<(), String> {
        let fd = self.info_fd.ok_or("no connection has a descriptor yet")?;
        let info = self.target.getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, 512);
        code::check(text, &info.map_err(|e| format!("TCP_INFO: {e:?}"))?)
    }

    // --- Calls ---

    fn start_call(&mut self, line: usize, c: &Call) -> Result<(), Error> {
        let op = Operation::new(self, c).map_err(|e| (line, e))?;
        match c.name.as_str() {
            "listen" => self.listening = true,
            "connect" | "sendto" if self.conn.as_ref().is_none_or(|c| c.bound) && op.connects() => {
                let ends = Ends { from: (self.variant.local(), 0), to: (self.variant.remote(), PORT) };
                self.conn = Some(Conn { ends, bound: false, local_isn: None, remote_isn: None, stamps: Vec::new() });
                self.info_fd = op.fd();
            }
            _ => {}
        }
        let Some(ends) = c.ends else {
            let r = op.run(&*self.target);
            return self.judge(c, r).map_err(|e| (line, e));
        };
        let ends = if c.ends_relative { self.last + ends } else { ends };
        let (tell, done) = channel();
        let target = self.target.clone();
        std::thread::spawn(move || {
            let r = op.run(&*target);
            let _ = tell.send((r, target.now()));
        });
        self.blocked = Some(Blocked { line, call: c.clone(), ends, done });
        let patience = Instant::now() + Duration::from_secs(5);
        while !self.target.blocked() && Instant::now() < patience {
            self.collect(false)?;
            if self.blocked.is_none() {
                break;
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Looks whether the blocked call has ended; `must`: it has to.
    fn collect(&mut self, must: bool) -> Result<(), Error> {
        let Some(b) = &self.blocked else { return Ok(()) };
        let got = match must {
            true => b.done.recv_timeout(Duration::from_secs(2)).map_err(|_| TryRecvError::Empty),
            false => b.done.try_recv(),
        };
        let line = b.line;
        match got {
            Ok((r, when)) => {
                let Some(b) = self.blocked.take() else { return Ok(()) };
                let when = when - self.start;
                if (when - b.ends).abs() > self.tolerance {
                    let e = format!("timing: {} ended at {}, not {}", b.call.name, seconds(when), seconds(b.ends));
                    return Err((line, e));
                }
                self.judge(&b.call, r).map_err(|e| (line, e))
            }
            Err(_) if must => Err((line, format!("{} has not ended", b.call.name))),
            Err(_) => Ok(()),
        }
    }

    /// Compares what a call answered.
    fn judge(&mut self, c: &Call, r: SysResult<Outcome>) -> Result<(), String> {
        if let ("close", Some(Expr::Int(fd)), Ok(_)) = (c.name.as_str(), c.args.first(), &r) {
            // The number may be somebody else's from here on.
            let gone = self.fds.remove(fd);
            self.info_fd = self.info_fd.filter(|_| self.info_fd != gone);
        }
        match r {
            Ok(o) if o.fd && c.result >= 0 => {
                self.fds.insert(c.result, o.value as i32);
                if c.name == "accept" {
                    self.info_fd = Some(o.value as i32);
                }
                Ok(())
            }
            Ok(o) if o.value == c.result && c.errno.is_none() => Ok(()),
            Ok(o) => Err(format!("{} answered {}, not {}", c.name, o.value, wanted(c))),
            Err(e) if c.result == -1 && c.errno.is_none_or(|w| w == i64::from(e.0)) => Ok(()),
            Err(e) => Err(format!("{} answered {}, not {}", c.name, errno_name(e.0.into()), wanted(c))),
        }
    }
}

fn wanted(c: &Call) -> String {
    c.errno.map_or_else(|| c.result.to_string(), errno_name)
}

fn seconds(us: i64) -> String {
    format!("{:.6} s", us as f64 / 1e6)
}

impl Conn {
    /// Whether the stack has sent it on this connection; of a new one the first tells the port.
    fn takes(&mut self, s: &Segment) -> bool {
        if !self.bound && s.ends.to == self.ends.to && s.flags & SYN != 0 {
            self.bound = true;
            self.ends.from.1 = s.ends.from.1;
        }
        self.bound && s.ends == self.ends
    }

    /// What the stack's time stamp `e` of the script was on the wire.
    fn live_stamp(&self, e: u32) -> u32 {
        match (self.stamps.iter().rev().find(|s| s.0 == e), self.stamps.first()) {
            (Some(s), _) => s.1,
            (None, Some(first)) => e.wrapping_sub(first.0).wrapping_add(first.1),
            (None, None) => e,
        }
    }

    /// The segment in the script's numbers.
    fn seen(&mut self, s: &Segment, p: &PacketSpec) -> PacketSpec {
        if s.flags & SYN != 0 {
            self.local_isn = Some(s.seq);
        }
        let (ours, theirs) = (self.local_isn.unwrap_or(0), self.remote_isn.unwrap_or(0));
        let theirs_of = |v: &(u32, u32)| (v.0.wrapping_sub(theirs), v.1.wrapping_sub(theirs));
        let opts = s.opts.iter().map(|o| match o {
            Opt::Sack(v) => Opt::Sack(v.iter().map(theirs_of).collect()),
            Opt::Ts(v, e) => {
                let first = self.stamps.first().copied();
                Opt::Ts(first.map_or(*v, |(script, live)| v.wrapping_sub(live).wrapping_add(script)), *e)
            }
            o => o.clone(),
        });
        PacketSpec {
            ecn: p.ecn.map(|_| s.ecn),
            flags: s.flags,
            seq: s.seq.wrapping_sub(ours),
            len: s.len,
            ack: (s.flags & ACK != 0).then(|| s.ack.wrapping_sub(theirs)),
            win: p.win.map(|_| s.win),
            urg: p.urg.map(|_| s.urg),
            opts: Some(opts.collect()),
        }
    }

    fn compare(&mut self, got: &PacketSpec, live: &Segment, p: &PacketSpec, tolerance: i64) -> Result<(), String> {
        let same = |what: &str, a: Option<u32>, b: Option<u32>| match a == b {
            true => Ok(()),
            false => Err(format!("another {what}")),
        };
        same("ECN field", got.ecn.map(u32::from), p.ecn.map(u32::from))?;
        same("set of flags", Some(got.flags.into()), Some(p.flags.into()))?;
        if p.flags & SYN == 0 {
            same("sequence number", Some(got.seq), Some(p.seq))?;
        }
        same("length", Some(got.len), Some(p.len))?;
        same("acknowledgment", got.ack, p.ack)?;
        same("window", got.win.map(u32::from), p.win.map(u32::from))?;
        same("urgent pointer", got.urg.map(u32::from), p.urg.map(u32::from))?;
        let (Some(want), Some(have)) = (&p.opts, &got.opts) else { return Ok(()) };
        let other = || "other options".to_owned();
        if want.len() != have.len() {
            return Err(other());
        }
        for ((w, h), raw) in want.iter().zip(have).zip(&live.opts) {
            let (Opt::Ts(wv, we), Opt::Ts(hv, he), Opt::Ts(raw, _)) = (w, h, raw) else {
                if w == h {
                    continue;
                }
                return Err(other());
            };
            if we != he {
                return Err("another echoed time stamp".to_owned());
            }
            if self.stamps.is_empty() {
                self.stamps.push((*wv, *raw));
                continue;
            }
            // In milliseconds.
            if i64::from(hv.wrapping_sub(*wv) as i32).abs() > tolerance / 1000 + 1 {
                return Err("another time stamp".to_owned());
            }
            self.stamps.push((*wv, *raw));
        }
        Ok(())
    }
}

/// A segment as a script writes it.
fn show(p: &PacketSpec) -> String {
    let letters =
        [(2, 'S'), (1, 'F'), (4, 'R'), (8, 'P'), (0x20, 'U'), (0x40, 'E'), (0x80, 'W'), (0x100, 'A'), (0x10, '.')];
    let mut s: String = letters.iter().filter(|(bit, _)| p.flags & bit != 0).map(|l| l.1).collect();
    if let Some(e) = p.ecn {
        s.insert_str(0, ["[noecn] ", "[ect1] ", "[ect0] ", "[ce] "][usize::from(e & 3)]);
    }
    s += &format!(" {}:{}({})", p.seq, p.seq.wrapping_add(p.len), p.len);
    let fields = [("ack", p.ack), ("win", p.win.map(u32::from)), ("urg", p.urg.map(u32::from))];
    for (name, v) in fields.iter().filter_map(|(n, v)| v.map(|v| (n, v))) {
        s += &format!(" {name} {v}");
    }
    match &p.opts {
        None => s += " <...>",
        Some(o) if !o.is_empty() => s += &format!(" {o:?}"),
        Some(_) => {}
    }
    s
}

/// A call with its arguments understood, to be carried out by any thread.
enum Operation {
    Socket(i32, i32, i32),
    Bind(i32, SockAddr),
    Listen(i32, i32),
    Accept(i32),
    Connect(i32, SockAddr),
    Recv(i32, usize, i32),
    Send(i32, usize, i32, Option<SockAddr>),
    Shutdown(i32, i32),
    Close(i32),
    Fcntl(i32, i32, i32),
    Ioctl(i32, u32, i32),
    SetSockOpt(i32, i32, i32, Vec<u8>),
    GetSockOpt(i32, i32, i32, Vec<u8>),
    Poll(Vec<(i32, i16, i16)>, i32),
}

impl Operation {
    fn new(r: &Run, c: &Call) -> Result<Operation, String> {
        let arg = |i: usize| c.args.get(i).ok_or_else(|| format!("{}: argument {} is missing", c.name, i + 1));
        let num = |i: usize| match arg(i)? {
            Expr::Int(v) => Ok(*v),
            other => Err(format!("{}: argument {} is no number: {other:?}", c.name, i + 1)),
        };
        let n32 = |i: usize| num(i).map(|v| v as i32);
        let fd = |i: usize| num(i).map(|v| r.fd(v));
        let flags = |i: usize| if c.args.len() > i { n32(i) } else { Ok(0) };
        let (local, remote) =
            (r.variant.sockaddr(r.variant.local(), PORT), r.variant.sockaddr(r.variant.remote(), PORT));
        Ok(match c.name.as_str() {
            "socket" => {
                let family = if *arg(0)? == Expr::Any { r.variant.family() } else { n32(0)? };
                Operation::Socket(family, n32(1)?, n32(2)?)
            }
            "bind" => Operation::Bind(fd(0)?, local),
            "listen" => Operation::Listen(fd(0)?, n32(1)?),
            "accept" => Operation::Accept(fd(0)?),
            "connect" => Operation::Connect(fd(0)?, remote),
            "read" | "recv" => Operation::Recv(fd(0)?, num(2)? as usize, flags(3)?),
            "write" | "send" => Operation::Send(fd(0)?, num(2)? as usize, flags(3)?, None),
            "sendto" => Operation::Send(fd(0)?, num(2)? as usize, flags(3)?, Some(remote)),
            "shutdown" => Operation::Shutdown(fd(0)?, n32(1)?),
            "close" => Operation::Close(fd(0)?),
            "fcntl" => Operation::Fcntl(fd(0)?, n32(1)?, flags(2)?),
            "ioctl" => Operation::Ioctl(fd(0)?, num(1)? as u32, first_int(arg(2)?)?),
            "setsockopt" => Operation::SetSockOpt(fd(0)?, n32(1)?, n32(2)?, bytes(arg(3)?, num(4)? as usize)?),
            "getsockopt" => {
                let len = first_int(arg(4)?)? as usize;
                Operation::GetSockOpt(fd(0)?, n32(1)?, n32(2)?, bytes(arg(3)?, len)?)
            }
            "poll" => Operation::Poll(r.pollfds(arg(0)?)?, n32(2)?),
            other => return Err(format!("there is no call {other:?} here")),
        })
    }

    /// A SYN may follow that nobody has announced.
    fn connects(&self) -> bool {
        match self {
            Operation::Connect(..) => true,
            Operation::Send(_, _, flags, to) => to.is_some() && flags & libc::MSG_FASTOPEN != 0,
            _ => false,
        }
    }

    fn fd(&self) -> Option<i32> {
        match self {
            Operation::Connect(fd, _) | Operation::Send(fd, ..) => Some(*fd),
            _ => None,
        }
    }

    fn run(self, t: &dyn Target) -> SysResult<Outcome> {
        let value = |v: i64| Outcome { value: v, fd: false };
        let zero = |()| value(0);
        let new = |fd: i32| Outcome { value: fd.into(), fd: true };
        match self {
            Operation::Socket(d, k, p) => t.socket(d, k, p).map(new),
            Operation::Bind(fd, a) => t.bind(fd, &a).map(zero),
            Operation::Listen(fd, n) => t.listen(fd, n).map(zero),
            Operation::Accept(fd) => t.accept(fd).map(new),
            Operation::Connect(fd, a) => t.connect(fd, &a).map(zero),
            Operation::Recv(fd, n, flags) => t.recv(fd, &mut vec![0; n], flags).map(|n| value(n as i64)),
            Operation::Send(fd, n, flags, to) => t.sendto(fd, &vec![0; n], flags, to.as_ref()).map(|n| value(n as i64)),
            Operation::Shutdown(fd, how) => t.shutdown(fd, how).map(zero),
            Operation::Close(fd) => t.close(fd).map(zero),
            Operation::Fcntl(fd, cmd, arg) => t.fcntl(fd, cmd, arg).map(|v| value(v.into())),
            Operation::Ioctl(fd, req, arg) => {
                // A wrong value is shown as the call's answer.
                t.ioctl(fd, req, arg).map(|v| value(if v == arg { 0 } else { v.into() }))
            }
            Operation::SetSockOpt(fd, level, name, v) => t.setsockopt(fd, level, name, &v).map(zero),
            Operation::GetSockOpt(fd, level, name, want) => t.getsockopt(fd, level, name, want.len()).map(|v| {
                let int = |v: &[u8]| v.get(..4).map_or(-1, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
                value(if v == want { 0 } else { int(&v).into() })
            }),
            Operation::Poll(list, timeout) => {
                let ask: Vec<(i32, i16)> = list.iter().map(|p| (p.0, p.1)).collect();
                t.poll(&ask, timeout).map(|(n, got)| {
                    let right = got.iter().zip(&list).all(|(g, p)| *g == p.2);
                    value(if right { n as i64 } else { got.first().copied().unwrap_or(-1).into() })
                })
            }
        }
    }
}

impl Run {
    /// The stack's descriptor for the script's; one that is none stays none.
    fn fd(&self, script: i64) -> i32 {
        self.fds.get(&script).copied().unwrap_or(-1)
    }

    fn pollfds(&self, e: &Expr) -> Result<Vec<(i32, i16, i16)>, String> {
        let Expr::List(items) = e else { return Err("poll takes a list".to_owned()) };
        let field = |f: &[(String, Expr)], name: &str| match f.iter().find(|x| x.0 == name) {
            Some((_, Expr::Int(v))) => Ok(*v),
            _ => Err(format!("poll: no {name}")),
        };
        let one = |i: &Expr| match i {
            Expr::Struct(f) => Ok((self.fd(field(f, "fd")?), field(f, "events")? as i16, field(f, "revents")? as i16)),
            _ => Err("poll takes a list of {fd=…, events=…, revents=…}".to_owned()),
        };
        items.iter().map(one).collect()
    }
}

fn first_int(e: &Expr) -> Result<i32, String> {
    match e {
        Expr::Int(v) => Ok(*v as i32),
        Expr::List(v) if v.len() == 1 => first_int(&v[0]),
        Expr::Any => Ok(0),
        other => Err(format!("a number expected, not {other:?}")),
    }
}

/// An option's value.
fn bytes(e: &Expr, len: usize) -> Result<Vec<u8>, String> {
    let mut b = match e {
        Expr::Str(s) => s.as_bytes().to_vec(),
        Expr::Struct(fields) => {
            let ints = fields.iter().map(|f| first_int(&f.1).map(i32::to_ne_bytes)).collect::<Result<Vec<_>, _>>()?;
            ints.concat()
        }
        e => first_int(e)?.to_ne_bytes().to_vec(),
    };
    b.resize(len, 0);
    Ok(b)
}
