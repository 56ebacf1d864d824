//! Every state, everything that can happen in it: what is answered, and which state follows. The table and the picture of
//! `docs/tcp-states.md` come from here; `UPDATE_DOCS=1 cargo nextest run -p sockeye-net transitions` writes them.
//!
//! Interface: none.
//! Linux counterpart: RFC 9293, figure 5; `tcp_rcv_state_process`.
//! Locks and context: tests.

use super::*;
use crate::hdr::tcp_flag::{FIN, PSH, RST};
use crate::ipv4::inet_hashtables::{ANY_DEVICE, EhashSock};
use crate::ipv4::inet_sock::InetTuple;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;
use uapi::socket::{SHUT_WR, SO_LINGER, SOL_SOCKET};

/// One connection, brought into a state, with what the peer knows.
struct Conn {
    m: Machine,
    fd: i32,
    listener: Option<i32>,
    port: u16,
    /// What the peer sends next, and what it is to acknowledge.
    seq: u32,
    ack: u32,
    closed: bool,
}

const CLIENT: u16 = 2000;

impl Conn {
    fn closed() -> Conn {
        let m = Machine::new();
        let fd = m.files.socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0).unwrap();
        Conn { m, fd, listener: None, port: 1000, seq: 100, ack: 0, closed: false }
    }

    fn listen() -> Conn {
        let m = Machine::new();
        let fd = m.listener(5);
        Conn { m, fd, listener: None, port: 1000, seq: 100, ack: 0, closed: false }
    }

    fn syn_recv() -> Conn {
        let mut c = Conn::listen();
        c.listener = Some(c.fd);
        let synack = c.m.ask_one(Seg::new(100, 0, SYN));
        (c.seq, c.ack) = (101, synack.seq.wrapping_add(1));
        c
    }

    fn syn_sent() -> Conn {
        let mut c = Conn::closed();
        let to = SockAddr::from(std::net::SocketAddr::from((PEER, 1000)));
        let here = SockAddr::from(std::net::SocketAddr::from((HOST, CLIENT)));
        c.m.files.bind(c.fd, &here).unwrap();
        assert_eq!(c.m.files.connect(c.fd, &to), Err(Errno::EINPROGRESS));
        c.ack = c.m.sent()[0].seq.wrapping_add(1);
        c
    }

    fn established() -> Conn {
        let m = Machine::new();
        let l = m.listener(5);
        let (fd, ack) = m.establish(l, 1000);
        Conn { m, fd, listener: Some(l), port: 1000, seq: 101, ack, closed: false }
    }

    fn fin_wait1() -> Conn {
        let mut c = Conn::established();
        c.m.files.shutdown(c.fd, SHUT_WR).unwrap();
        c.ack = c.ack.wrapping_add(1);
        c
    }

    fn fin_wait2() -> Conn {
        let c = Conn::fin_wait1();
        c.m.ask(c.seg(ACK));
        c
    }

    fn closing() -> Conn {
        let mut c = Conn::fin_wait1();
        c.m.ask(Seg { ack: c.ack.wrapping_sub(1), ..c.seg(FIN | ACK) });
        c.seq += 1;
        c
    }

    fn time_wait() -> Conn {
        let mut c = Conn::fin_wait2();
        c.m.ask(c.seg(FIN | ACK));
        c.seq += 1;
        c
    }

    fn close_wait() -> Conn {
        let mut c = Conn::established();
        c.m.ask(c.seg(FIN | ACK));
        c.seq += 1;
        c
    }

    fn last_ack() -> Conn {
        let mut c = Conn::close_wait();
        c.close();
        c.ack = c.ack.wrapping_add(1);
        c
    }

    fn close(&mut self) {
        self.m.files.close(self.fd).unwrap();
        self.closed = true;
    }

    /// The segment that a well-behaved peer would send now.
    fn seg(&self, flags: u8) -> Seg {
        let ours = if self.listener.is_some() || self.ack == 0 { 80 } else { CLIENT };
        Seg { dport: ours, ..Seg::new(self.seq, self.ack, flags).from(self.port) }
    }

    fn data(&self) -> Seg {
        Seg { payload: b"data".to_vec(), ..self.seg(ACK | PSH) }
    }

    fn state(&self) -> &'static str {
        let net = self.m.net();
        let seg = self.seg(0);
        let t = InetTuple { laddr: HOST.into(), faddr: PEER.into(), lport: seg.dport, fport: seg.sport };
        let entry = crate::ipv4::inet_hashtables::__inet_lookup_established(net, &t, ANY_DEVICE);
        let state = match entry.as_ref().map(|e| &e.sock) {
            Some(EhashSock::Sock(sk)) => sk.state(),
            Some(EhashSock::Request(_)) => TcpState::SynRecv,
            Some(EhashSock::Timewait(tw)) => TcpState::from_u8(tw.substate.load(Relaxed)),
            None if self.closed || self.listener.is_some() => TcpState::Close,
            None => self.m.files.sockfd_lookup(self.fd).unwrap().sk.state(),
        };
        name(state)
    }
}

fn name(s: TcpState) -> &'static str {
    match s {
        TcpState::Established => "ESTABLISHED",
        TcpState::SynSent => "SYN_SENT",
        TcpState::SynRecv | TcpState::NewSynRecv => "SYN_RECV",
        TcpState::FinWait1 => "FIN_WAIT1",
        TcpState::FinWait2 => "FIN_WAIT2",
        TcpState::TimeWait => "TIME_WAIT",
        TcpState::Close => "CLOSE",
        TcpState::CloseWait => "CLOSE_WAIT",
        TcpState::LastAck => "LAST_ACK",
        TcpState::Listen => "LISTEN",
        TcpState::Closing => "CLOSING",
    }
}

type Setup = fn() -> Conn;
const STATES: [(&str, Setup); 11] = [
    ("CLOSE", Conn::closed),
    ("LISTEN", Conn::listen),
    ("SYN_SENT", Conn::syn_sent),
    ("SYN_RECV", Conn::syn_recv),
    ("ESTABLISHED", Conn::established),
    ("FIN_WAIT1", Conn::fin_wait1),
    ("FIN_WAIT2", Conn::fin_wait2),
    ("CLOSING", Conn::closing),
    ("TIME_WAIT", Conn::time_wait),
    ("CLOSE_WAIT", Conn::close_wait),
    ("LAST_ACK", Conn::last_ack),
];

type Event = fn(&mut Conn);
const CALLS: [(&str, Event); 6] = [
    ("connect()", |c| {
        let _ = c.m.files.connect(c.fd, &SockAddr::from(std::net::SocketAddr::from((PEER, 1000))));
    }),
    ("listen()", |c| {
        let _ = c.m.files.listen(c.fd, 5);
    }),
    ("shutdown(SHUT_WR)", |c| {
        let _ = c.m.files.shutdown(c.fd, SHUT_WR);
    }),
    ("close()", Conn::close),
    ("close(), SO_LINGER 0", |c| {
        let linger = [1i32.to_ne_bytes(), 0i32.to_ne_bytes()];
        c.m.files.setsockopt(c.fd, SOL_SOCKET, SO_LINGER, linger.as_flattened()).unwrap();
        c.close();
    }),
    ("connect(AF_UNSPEC)", |c| {
        let _ = c.m.files.connect(c.fd, &SockAddr::Unspec);
    }),
];

const SEGMENTS: [(&str, Event); 12] = [
    ("SYN", |c| c.m.receive(&Seg { ack: 0, ..c.seg(SYN) }.packet())),
    ("SYN, beyond the window", |c| {
        c.m.receive(&Seg { seq: c.seq.wrapping_add(1 << 30), ack: 0, ..c.seg(SYN) }.packet())
    }),
    ("SYN\\|ACK", |c| c.m.receive(&c.seg(SYN | ACK).packet())),
    ("SYN\\|ACK of another SYN", |c| c.m.receive(&Seg { ack: c.ack.wrapping_add(9), ..c.seg(SYN | ACK) }.packet())),
    ("ACK of everything", |c| c.m.receive(&c.seg(ACK).packet())),
    ("ACK of nothing new", |c| c.m.receive(&Seg { ack: c.ack.wrapping_sub(1), ..c.seg(ACK) }.packet())),
    ("ACK of what was never sent", |c| c.m.receive(&Seg { ack: c.ack.wrapping_add(9), ..c.seg(ACK) }.packet())),
    ("data", |c| c.m.receive(&c.data().packet())),
    ("FIN\\|ACK of everything", |c| c.m.receive(&c.seg(FIN | ACK).packet())),
    ("FIN\\|ACK of nothing new", |c| c.m.receive(&Seg { ack: c.ack.wrapping_sub(1), ..c.seg(FIN | ACK) }.packet())),
    ("RST, next in order", |c| c.m.receive(&c.seg(RST | ACK).packet())),
    ("RST, elsewhere in the window", |c| {
        c.m.receive(&Seg { seq: c.seq.wrapping_add(100), ..c.seg(RST | ACK) }.packet())
    }),
];

const TIMES: [(&str, Event); 2] = [
    ("61 seconds pass", |c| c.m.t.advance(61_000)),
    ("20 minutes pass", |c| (0..1200).for_each(|_| c.m.t.advance(1000))),
];

fn applies(state: &str, event: &str) -> bool {
    let no_descriptor = matches!(state, "SYN_RECV" | "LAST_ACK");
    let call =
        event.contains("()") || event.starts_with("close") || event.starts_with("connect") || event.contains("SHUT");
    !(no_descriptor && call)
}

/// What was sent, each kind once, in order.
fn sent(segs: &[Seg]) -> String {
    let mut out: Vec<(String, usize)> = Vec::new();
    for s in segs {
        let names = [(SYN, "SYN"), (FIN, "FIN"), (RST, "RST"), (PSH, "PSH"), (ACK, "ACK")];
        let s = names.iter().filter(|(f, _)| s.flags & f != 0).map(|(_, n)| *n).collect::<Vec<_>>().join("\\|");
        match out.last_mut() {
            Some((last, n)) if *last == s => *n += 1,
            _ => out.push((s, 1)),
        }
    }
    let show = |(s, n): &(String, usize)| if *n == 1 { s.clone() } else { format!("{n} × {s}") };
    if out.is_empty() { "—".to_owned() } else { out.iter().map(show).collect::<Vec<_>>().join(", ") }
}

struct Row {
    from: &'static str,
    event: &'static str,
    sends: String,
    to: &'static str,
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (from, setup) in STATES {
        for (event, act) in CALLS.iter().chain(&SEGMENTS).chain(&TIMES) {
            if !applies(from, event) {
                continue;
            }
            let mut c = setup();
            assert_eq!(c.state(), from, "set up for {event}");
            c.m.sent();
            act(&mut c);
            let sends = sent(&c.m.sent());
            if event.starts_with("connect()") && from == "CLOSE" {
                // Its port is the kernel's choice.
                rows.push(Row { from, event, sends, to: name(c.m.files.sockfd_lookup(c.fd).unwrap().sk.state()) });
                continue;
            }
            rows.push(Row { from, event, sends, to: c.state() });
        }
    }
    rows
}

fn table(rows: &[Row]) -> String {
    let mut t = String::new();
    for (state, _) in STATES {
        let _ = writeln!(t, "\n### {state}\n\n| event | is answered with | next state |\n|---|---|---|");
        for r in rows.iter().filter(|r| r.from == state) {
            let to = if r.to == r.from { "same".to_owned() } else { format!("**{}**", r.to) };
            let _ = writeln!(t, "| {} | {} | {} |", r.event, r.sends, to);
        }
    }
    t
}

/// Where each state stands in the picture, after the figure of RFC 9293.
const PLACES: [(&str, i32, i32); 11] = [
    ("CLOSE", 460, 40),
    ("LISTEN", 460, 170),
    ("SYN_RECV", 180, 290),
    ("SYN_SENT", 780, 290),
    ("ESTABLISHED", 460, 410),
    ("FIN_WAIT1", 180, 530),
    ("CLOSE_WAIT", 780, 530),
    ("FIN_WAIT2", 180, 720),
    ("CLOSING", 460, 640),
    ("LAST_ACK", 780, 720),
    ("TIME_WAIT", 460, 810),
];

fn picture(rows: &[Row]) -> String {
    let mut edges: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for r in rows.iter().filter(|r| r.from != r.to) {
        edges.entry((r.from, r.to)).or_default().push(format!("{} / {}", r.event, r.sends).replace("\\|", "+"));
    }
    let at = |s: &str| PLACES.iter().find(|p| p.0 == s).map(|p| (p.1, p.2)).unwrap();
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 960 860\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <style>.s{fill:#fff;stroke:#333}.e{fill:none;stroke:#456;marker-end:url(#a)}.c{fill:none;stroke:#bbb;marker-end:url(#a)}\
         text{fill:#222;paint-order:stroke;stroke:#fff;stroke-width:3px}@media(prefers-color-scheme:dark){.s{fill:#222;stroke:#ccc}text{fill:#ddd;stroke:#111}.e{stroke:#9bd}}</style>\n\
         <defs><marker id=\"a\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\">\
         <path d=\"M0 0L8 4L0 8z\" fill=\"#789\"/></marker></defs>\n",
    );
    for ((from, to), why) in &edges {
        let ((x1, y1), (x2, y2)) = (at(from), at(to));
        let (dx, dy) = ((x2 - x1) as f64, (y2 - y1) as f64);
        let len = dx.hypot(dy);
        // To the right of its direction, so that an arrow and its reverse lie apart; from border to border.
        let bend = 0.12 * len + 14.0;
        let (cx, cy) = ((x1 + x2) as f64 / 2.0 - dy / len * bend, (y1 + y2) as f64 / 2.0 + dx / len * bend);
        let border = |x: i32, y: i32| {
            let (ux, uy) = (cx - x as f64, cy - y as f64);
            let k = (62.0 / ux.abs().max(1e-9)).min(17.0 / uy.abs().max(1e-9)).min(1.0);
            (x as f64 + ux * k, y as f64 + uy * k)
        };
        let ((ax, ay), (bx, by)) = (border(x1, y1), border(x2, y2));
        let class = if *to == "CLOSE" { "c" } else { "e" };
        let all = why.join("&#10;");
        let _ = writeln!(
            svg,
            "<path class=\"{class}\" d=\"M{ax:.0} {ay:.0}Q{cx:.0} {cy:.0} {bx:.0} {by:.0}\"><title>{from} to {to}&#10;{all}</title></path>"
        );
        if *to != "CLOSE" {
            let (tx, ty) = ((ax + 2.0 * cx + bx) / 4.0, (ay + 2.0 * cy + by) / 4.0);
            for (i, w) in why.iter().take(3).enumerate() {
                let more = if i == 2 && why.len() > 3 { " …" } else { "" };
                let y = ty + 12.0 * i as f64;
                let _ = writeln!(svg, "<text x=\"{tx:.0}\" y=\"{y:.0}\" text-anchor=\"middle\">{w}{more}</text>");
            }
        }
    }
    for (name, x, y) in PLACES {
        let _ = writeln!(
            svg,
            "<rect class=\"s\" x=\"{}\" y=\"{}\" width=\"124\" height=\"34\" rx=\"6\"/>\
             <text x=\"{x}\" y=\"{}\" text-anchor=\"middle\" font-weight=\"bold\">{name}</text>",
            x - 62,
            y - 17,
            y + 4
        );
    }
    svg + "</svg>\n"
}

const INTRO: &str = "# The states of a TCP connection

Written by `UPDATE_DOCS=1 cargo nextest run -p sockeye-net transitions`: a test brings a connection into each state, lets each
thing happen to it that can happen, and writes down what the stack sent and which state followed (RFC 9293, 3.3.2 and 3.10).
The same test fails when the stack does something else than this page says.

*SYN_RECV* is a request on a listener (`TCP_NEW_SYN_RECV`), so it has no descriptor; *LAST_ACK*'s has been closed. *CLOSE* without a
descriptor means that nothing is left. Segments are what a well-behaved peer would send next, unless they say otherwise.

![the states and the ways between them](tcp-states.svg)

Ways to CLOSE are grey; every arrow's events are in its title.
";

#[test]
fn transitions() {
    let rows = rows();
    let page = format!("{INTRO}{}", table(&rows));
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    for (file, new) in [("tcp-states.md", page), ("tcp-states.svg", picture(&rows))] {
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(docs.join(file), &new).unwrap();
        }
        let shown = std::fs::read_to_string(docs.join(file)).unwrap_or_default();
        assert!(shown == new, "docs/{file} shows something else; UPDATE_DOCS=1 writes it anew:\n{new}");
    }
}
