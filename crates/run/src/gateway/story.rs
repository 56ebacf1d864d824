//! The story of a connection, as the page tells it.
//!
//! Interface: [`Story`].
//! Linux counterpart: what `ss -ti`, `tcpdump` and the function-graph tracer would say together.
//! Locks and context: told on the gateway's thread; what it listens to runs in the packets' contexts.
//!
//! Nothing is made up: the handshake is what a tap on the link saw, the figures are the socket's own `tcp_info`, and the functions
//! are those whose tracepoints recorded the packet. Only connections to the page are marked, so tracing costs others nothing.

use kernel::SpinLock;
use kernel::trace::{self, Event};
use net::core::dev::{NetDevice, Tap, dev_add_tap, dev_get_by_name, dev_remove_tap};
use net::core::flow::Flow;
use net::core::net_namespace::Net;
use net::core::skbuff::Skb;
use net::hdr::{IPPROTO_TCP, IpHdr, TcpHdr, tcp_flag};
use net::ipv4::tcp_options::tcp_parse_options;
use net::ipv4::tcp_sock::TcpOptionsReceived;
use net::socket::Socket;
use std::collections::VecDeque;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uapi::tcp::{TCP_INFO, TcpState};

/// Connections remembered at a time.
const MAX_CHAPTERS: usize = 64;
/// Segments remembered of each.
const MAX_SEGMENTS: usize = 16;
/// A connection that has not asked for the page by then is no longer traced.
const PATIENCE: Duration = Duration::from_secs(10);

/// One segment that the tap saw.
struct Segment {
    time: u64,
    from_client: bool,
    flags: u8,
    seq: u32,
    ack: u32,
    window: u16,
    options: Vec<u8>,
    payload: usize,
    skb: u64,
    copies: u8,
}

/// What is known of one connection.
struct Chapter {
    client: SocketAddr,
    since: Instant,
    segments: Vec<Segment>,
    _marked: trace::MarkGuard,
}

#[derive(Default)]
struct Notes {
    chapters: VecDeque<Chapter>,
}

/// Listens to connections to the page and tells of them.
pub struct Story {
    net: Arc<Net>,
    page: SocketAddr,
    notes: Arc<SpinLock<Notes>>,
    tap: Option<Arc<Tap>>,
}

impl Story {
    /// Starts to listen in the gateway's namespace.
    pub fn new(net: &Arc<Net>, page: SocketAddr) -> Story {
        let notes: Arc<SpinLock<Notes>> = Default::default();
        let (n, this) = (notes.clone(), Arc::downgrade(net));
        let tap = dev_get_by_name(net, "gw0").map(|dev| {
            let func = move |seen: &Net, _: &NetDevice, skb: &Skb| {
                if let Some(net) = this.upgrade().filter(|net| std::ptr::eq(&**net, seen)) {
                    n.lock_bh().see(page, skb, net.kernel().ktime_get());
                }
            };
            dev_add_tap(&net.reg, Tap { ifindex: dev.ifindex, func: Box::new(func) })
        });
        Story { net: net.clone(), page, notes, tap }
    }

    /// Marks the connections of `user`'s namespace to the page.
    pub fn watch(user: &Net, page: SocketAddr) {
        let filter = move |flow: &Flow| flow.proto == IPPROTO_TCP && SocketAddr::new(flow.daddr, flow.dport) == page;
        user.trace_filter.assign(Some(Arc::new(Box::new(filter))));
    }

    /// The page for the connection of `sock`.
    pub fn tell(&mut self, sock: &Socket) -> String {
        let client = sock.getname(true).ok().and_then(|a| a.to_std());
        let mut notes = self.notes.lock_bh();
        let at = notes.chapters.iter().position(|c| Some(c.client) == client);
        let chapter = at.and_then(|at| notes.chapters.remove(at));
        notes.forget_old();
        drop(notes);
        let mut page =
            String::from("This page was carried by sockeye: the Linux network stack, in Rust, in user space.\n");
        let _ = match (chapter, client) {
            (Some(c), Some(client)) => self.chapter(&mut page, &c, client, sock),
            _ => writeln!(page, "\nYour connection came by a way that was not listened to."),
        };
        page
    }

    fn chapter(&self, out: &mut String, c: &Chapter, client: SocketAddr, sock: &Socket) -> std::fmt::Result {
        writeln!(out, "\nYour connection\n  {client} -> {}   (TCP, {})", self.page, sock.sk.state().name())?;
        handshake(out, c)?;
        figures(out, sock)?;
        let request = c.segments.iter().find(|s| s.from_client && s.payload > 0);
        if let Some(r) = request {
            let events: Vec<Event> = self.net.kernel().tracer().events_since(0);
            path(out, r, &events)?;
            writeln!(
                out,
                "\nCopies of your request's payload inside the stack\n  {}   ({} bytes; the packet only moved offsets and changed hands)",
                r.copies, r.payload
            )?;
        }
        Ok(())
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        if let Some(t) = self.tap.take() {
            dev_remove_tap(&self.net.reg, &t);
        }
    }
}

impl Notes {
    /// A frame on the gateway's link.
    fn see(&mut self, page: SocketAddr, skb: &Skb, now: u64) {
        let Some((client, segment)) = parse(page, skb, now) else { return };
        if segment.from_client && segment.flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN {
            self.chapters.retain(|c| c.client != client);
            self.forget_old();
            if self.chapters.len() == MAX_CHAPTERS {
                self.chapters.pop_front();
            }
            let chapter =
                Chapter { client, since: Instant::now(), segments: Vec::new(), _marked: trace::MarkGuard::new() };
            self.chapters.push_back(chapter);
        }
        let Some(at) = self.chapters.iter().position(|c| c.client == client) else { return };
        let asked = self.chapters[at].segments.iter().any(|s| s.from_client && s.payload > 0);
        let over = segment.flags & tcp_flag::RST != 0 || segment.flags & tcp_flag::FIN != 0 && !asked;
        if over && segment.payload == 0 {
            self.chapters.remove(at);
        } else if self.chapters[at].segments.len() < MAX_SEGMENTS {
            self.chapters[at].segments.push(segment);
        }
    }

    /// Forgets connections that never asked for the page; while there are any, tracing is on.
    fn forget_old(&mut self) {
        self.chapters.retain(|c| c.since.elapsed() < PATIENCE);
    }
}

fn parse(page: SocketAddr, skb: &Skb, now: u64) -> Option<(SocketAddr, Segment)> {
    let ip = IpHdr::read(skb.network_header())?;
    if ip.version() != 4 || ip.protocol != IPPROTO_TCP || ip.is_fragment() {
        return None;
    }
    let tcp = skb.network_header().get(ip.ihl()..)?;
    let th = TcpHdr::read(tcp)?;
    let src = SocketAddr::new(IpAddr::V4(ip.src()), th.source.get());
    let dst = SocketAddr::new(IpAddr::V4(ip.dst()), th.dest.get());
    let from_client = dst == page;
    if !from_client && src != page {
        return None;
    }
    let segment = Segment {
        time: now,
        from_client,
        flags: th.flags,
        seq: th.seq.get(),
        ack: th.ack_seq.get(),
        window: th.window.get(),
        options: tcp.get(TcpHdr::LEN..th.header_len()).unwrap_or_default().to_vec(),
        payload: (ip.tot_len.get() as usize).saturating_sub(ip.ihl() + th.header_len()),
        skb: skb.trace_id,
        copies: skb.copies,
    };
    Some((if from_client { src } else { dst }, segment))
}

fn handshake(out: &mut String, c: &Chapter) -> std::fmt::Result {
    writeln!(out, "\nThe handshake")?;
    let start = c.segments.first().map_or(0, |s| s.time);
    for s in c.segments.iter().filter(|s| s.payload == 0).take(3) {
        let arrow = if s.from_client { "you  ->" } else { "<-  me " };
        let after = s.time.saturating_sub(start) as f64 / 1000.0;
        write!(out, "  {after:>9.1} us  {arrow}  {:<8} seq {:<10}", flag_names(s.flags), s.seq)?;
        if s.flags & tcp_flag::ACK != 0 {
            write!(out, " ack {:<10}", s.ack)?;
        }
        writeln!(out, " win {:<5} {}", s.window, option_names(&s.options, s.flags & tcp_flag::SYN != 0))?;
    }
    Ok(())
}

fn flag_names(flags: u8) -> String {
    let names = [
        (tcp_flag::SYN, "SYN"),
        (tcp_flag::FIN, "FIN"),
        (tcp_flag::RST, "RST"),
        (tcp_flag::PSH, "PSH"),
        (tcp_flag::ACK, "ACK"),
    ];
    names.iter().filter(|(f, _)| flags & f != 0).map(|(_, n)| *n).collect::<Vec<_>>().join(",")
}

fn option_names(options: &[u8], syn: bool) -> String {
    // As if all had been agreed: what is there is to be shown.
    let mut o = TcpOptionsReceived { tstamp_ok: true, sack_ok: !syn, ..TcpOptionsReceived::default() };
    tcp_parse_options(options, &mut o, !syn);
    let mut names = Vec::new();
    if o.mss_clamp != 0 && syn {
        names.push(format!("mss {}", o.mss_clamp));
    }
    if o.sack_ok && syn {
        names.push("sackOK".into());
    }
    if o.saw_tstamp {
        names.push(format!("ts {} {}", o.rcv_tsval, o.rcv_tsecr));
    }
    if o.wscale_ok && syn {
        names.push(format!("wscale {}", o.snd_wscale));
    }
    if names.is_empty() { String::new() } else { format!("<{}>", names.join(", ")) }
}

fn figures(out: &mut String, sock: &Socket) -> std::fmt::Result {
    const RTT: usize = 68;
    const CWND: usize = 80;
    const SND_MSS: usize = 16;
    let info = sock.getsockopt(uapi::socket::IPPROTO_TCP, TCP_INFO, 232).unwrap_or_default();
    let word = |at: usize| info.get(at..at + 4).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    writeln!(out, "\nAs the gateway's end sees it")?;
    writeln!(
        out,
        "  round-trip time    {:.3} ms (varies by {:.3} ms)",
        word(RTT) as f64 / 1e3,
        word(RTT + 4) as f64 / 1e3
    )?;
    writeln!(out, "  congestion window  {} segments of {} bytes", word(CWND), word(SND_MSS))?;
    let state = TcpState::from_u8(info.first().copied().unwrap_or(0));
    writeln!(out, "  retransmitted      {} segments, in state {}", word(100), state.name())
}

fn path(out: &mut String, request: &Segment, events: &[Event]) -> std::fmt::Result {
    writeln!(out, "\nThe functions your request's packet went through")?;
    let mine: Vec<&Event> = events.iter().filter(|e| request.skb != 0 && e.subject.skb == request.skb).collect();
    let Some(first) = mine.first() else { return writeln!(out, "  (none were recorded)") };
    let base = mine.iter().map(|e| e.depth).min().unwrap_or(0);
    for e in &mine {
        let after = e.time.saturating_sub(first.time) as f64 / 1000.0;
        let indent = "  ".repeat((e.depth - base) as usize);
        writeln!(out, "  {after:>9.1} us  {:<8} {indent}{}", e.context, e.name)?;
    }
    Ok(())
}
