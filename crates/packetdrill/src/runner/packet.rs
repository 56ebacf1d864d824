//! Segments as bytes.
//!
//! Interface: [`Ends`] (the two addresses and ports), [`build`], [`Segment::parse`], [`build_icmp`].
//! Linux counterpart: packetdrill's `tcp_packet.c`, `packet_parser.c`.
//! Locks and context: pure functions.

use super::script::{Icmp, Opt};
use std::net::IpAddr;

const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// From whom to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    pub from: (IpAddr, u16),
    pub to: (IpAddr, u16),
}

impl Ends {
    pub fn back(self) -> Ends {
        Ends { from: self.to, to: self.from }
    }
}

/// A TCP segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub ends: Ends,
    pub ecn: u8,
    pub flags: u16,
    pub seq: u32,
    pub ack: u32,
    pub win: u16,
    pub urg: u16,
    pub opts: Vec<Opt>,
    pub len: u32,
}

fn sum(b: &[u8], mut acc: u32) -> u32 {
    for c in b.chunks(2) {
        acc += u32::from(u16::from_be_bytes([c[0], c.get(1).copied().unwrap_or(0)]));
    }
    acc
}

fn fold(mut acc: u32) -> [u8; 2] {
    while acc > 0xffff {
        acc = (acc & 0xffff) + (acc >> 16);
    }
    (!(acc as u16)).to_be_bytes()
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// An IP packet around `payload`, whose checksum is at `check`.
fn ip(ends: &Ends, proto: u8, tos: u8, mut payload: Vec<u8>, check: usize, pseudo: bool) -> Vec<u8> {
    let (from, to) = (octets(ends.from.0), octets(ends.to.0));
    let mut acc = 0;
    if pseudo {
        acc = sum(&from, sum(&to, u32::from(proto) + payload.len() as u32));
    }
    let c = fold(sum(&payload, acc));
    payload[check..check + 2].copy_from_slice(&c);
    let mut b;
    if ends.from.0.is_ipv4() {
        b = vec![0x45, tos, 0, 0, 0, 0, 0x40, 0, 255, proto, 0, 0];
        b[2..4].copy_from_slice(&((payload.len() + 20) as u16).to_be_bytes());
        b.extend(from.iter().chain(&to));
        let c = fold(sum(&b, 0));
        b[10..12].copy_from_slice(&c);
    } else {
        b = vec![0x60 | tos >> 4, tos << 4, 0, 0, 0, 0, proto, 255];
        b[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
        b.extend(from.iter().chain(&to));
    }
    b.extend(payload);
    b
}

fn put_options(opts: &[Opt]) -> Vec<u8> {
    let mut b = Vec::new();
    let mut tlv = |kind: u8, data: &[u8]| {
        b.extend([kind, data.len() as u8 + 2]);
        b.extend(data);
    };
    for o in opts {
        match o {
            Opt::Mss(v) => tlv(2, &v.to_be_bytes()),
            Opt::Wscale(v) => tlv(3, &[*v]),
            Opt::SackOk => tlv(4, &[]),
            Opt::Sack(v) => {
                let data: Vec<u8> = v.iter().flat_map(|&(a, z)| [a.to_be_bytes(), z.to_be_bytes()].concat()).collect();
                tlv(5, &data);
            }
            Opt::Ts(v, e) => tlv(8, &[v.to_be_bytes(), e.to_be_bytes()].concat()),
            Opt::Fo(cookie, false) => tlv(34, cookie),
            Opt::Fo(cookie, true) => tlv(254, &[&[0xf9, 0x89], &cookie[..]].concat()),
            Opt::Other(kind, data) => tlv(*kind, data),
            // One byte each; the closure would lend the vector twice.
            Opt::Nop => tlv(NOP_MARK, &[]),
            Opt::Eol => tlv(EOL_MARK, &[]),
        }
    }
    unmark(&b)
}

/// Placeholders for the two options without a length, kinds that nobody has.
const NOP_MARK: u8 = 250;
const EOL_MARK: u8 = 251;

fn unmark(b: &[u8]) -> Vec<u8> {
    let (mut at, mut out) = (0, Vec::new());
    while at < b.len() {
        let len = b[at + 1] as usize;
        match b[at] {
            NOP_MARK => out.push(1),
            EOL_MARK => out.push(0),
            _ => out.extend(&b[at..at + len]),
        }
        at += len;
    }
    out
}

fn get_options(mut b: &[u8]) -> Option<Vec<Opt>> {
    let mut v = Vec::new();
    let u16_at = |d: &[u8], i: usize| d.get(i..i + 2).map(|x| u16::from_be_bytes([x[0], x[1]]));
    let u32_at = |d: &[u8], i: usize| d.get(i..i + 4).map(|x| u32::from_be_bytes([x[0], x[1], x[2], x[3]]));
    while let Some(&kind) = b.first() {
        if kind <= 1 {
            v.push(if kind == 0 { Opt::Eol } else { Opt::Nop });
            b = &b[1..];
            if kind == 0 {
                break;
            }
            continue;
        }
        let len = *b.get(1)? as usize;
        let d = b.get(2..len)?;
        b = &b[len..];
        v.push(match kind {
            2 => Opt::Mss(u16_at(d, 0)?),
            3 => Opt::Wscale(*d.first()?),
            4 => Opt::SackOk,
            5 => Opt::Sack((0..d.len() / 8).filter_map(|i| Some((u32_at(d, i * 8)?, u32_at(d, i * 8 + 4)?))).collect()),
            8 => Opt::Ts(u32_at(d, 0)?, u32_at(d, 4)?),
            34 => Opt::Fo(d.to_vec(), false),
            254 if d.starts_with(&[0xf9, 0x89]) => Opt::Fo(d[2..].to_vec(), true),
            k => Opt::Other(k, d.to_vec()),
        });
    }
    Some(v)
}

fn header(s: &Segment) -> Vec<u8> {
    let mut opts = put_options(&s.opts);
    opts.resize(opts.len().next_multiple_of(4), 0);
    let mut b = [s.ends.from.1.to_be_bytes(), s.ends.to.1.to_be_bytes()].concat();
    b.extend(s.seq.to_be_bytes());
    b.extend(s.ack.to_be_bytes());
    b.extend([((20 + opts.len()) as u8) << 2 | (s.flags >> 8) as u8, s.flags as u8]);
    b.extend(s.win.to_be_bytes());
    b.extend([0, 0]);
    b.extend(s.urg.to_be_bytes());
    b.extend(opts);
    b
}

/// The packet of a segment, whose payload is zeroes.
pub fn build(s: &Segment) -> Vec<u8> {
    let mut b = header(s);
    b.resize(b.len() + s.len as usize, 0);
    ip(&s.ends, TCP, s.ecn, b, 16, true)
}

/// An ICMP error from the peer about a segment that has been sent between `ends` (theirs: from the stack) with raw sequence
/// number `seq`. `None`: no such error in this version of IP.
pub fn build_icmp(i: &Icmp, ends: &Ends, seq: u32, len: u32) -> Option<Vec<u8>> {
    let v4 = ends.from.0.is_ipv4();
    let (kind, code) = match (i.kind.as_str(), i.code.as_str(), v4) {
        ("unreachable", "net_unreachable", true) => (3, 0),
        ("unreachable", "host_unreachable", true) => (3, 1),
        ("unreachable", "protocol_unreachable", true) => (3, 2),
        ("unreachable", "port_unreachable", true) => (3, 3),
        ("unreachable", "frag_needed", true) => (3, 4),
        ("unreachable", "net_unreachable", false) => (1, 0),
        ("unreachable", "host_unreachable" | "address_unreachable", false) => (1, 3),
        ("unreachable", "port_unreachable", false) => (1, 4),
        ("unreachable", "frag_needed", false) | ("packet_too_big", _, false) => (2, 0),
        ("time_exceeded", _, true) => (11, 0),
        ("time_exceeded", _, false) => (3, 0),
        _ => return None,
    };
    let quoted = Segment { ends: *ends, ecn: 0, flags: 0x10, seq, ack: 0, win: 0, urg: 0, opts: Vec::new(), len };
    let mut quote = build(&quoted);
    quote.truncate(if v4 { 28 } else { 60 });
    let mut b = vec![kind, code, 0, 0];
    match v4 {
        true => b.extend([0, 0, (i.mtu >> 8) as u8, i.mtu as u8]),
        false => b.extend(if kind == 2 { i.mtu.to_be_bytes() } else { [0; 4] }),
    }
    b.extend(quote);
    Some(ip(&ends.back(), if v4 { ICMP } else { ICMPV6 }, 0, b, 2, !v4))
}

impl Segment {
    /// `None`: not a TCP segment, or broken.
    pub fn parse(b: &[u8]) -> Option<Segment> {
        let (from, to, tos, tcp): (IpAddr, IpAddr, u8, &[u8]) = match b.first()? >> 4 {
            4 => {
                let h = (b[0] & 15) as usize * 4;
                let total = usize::from(u16::from_be_bytes([*b.get(2)?, *b.get(3)?]));
                if *b.get(9)? != TCP {
                    return None;
                }
                let a = |i: usize| b.get(i..i + 4).map(|x| IpAddr::from([x[0], x[1], x[2], x[3]]));
                (a(12)?, a(16)?, b[1], b.get(h..total.min(b.len()).max(h))?)
            }
            6 => {
                if *b.get(6)? != TCP {
                    return None;
                }
                let a = |i: usize| b.get(i..i + 16).and_then(|x| <[u8; 16]>::try_from(x).ok()).map(IpAddr::from);
                (a(8)?, a(24)?, b[0] << 4 | b[1] >> 4, b.get(40..)?)
            }
            _ => return None,
        };
        let u16_at = |i: usize| tcp.get(i..i + 2).map(|x| u16::from_be_bytes([x[0], x[1]]));
        let u32_at = |i: usize| tcp.get(i..i + 4).map(|x| u32::from_be_bytes([x[0], x[1], x[2], x[3]]));
        let off = (*tcp.get(12)? >> 4) as usize * 4;
        Some(Segment {
            ends: Ends { from: (from, u16_at(0)?), to: (to, u16_at(2)?) },
            ecn: tos & 3,
            flags: u16_at(12)? & 0x1ff,
            seq: u32_at(4)?,
            ack: u32_at(8)?,
            win: u16_at(14)?,
            urg: u16_at(18)?,
            opts: get_options(tcp.get(20..off)?)?,
            len: (tcp.len() - off) as u32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_go_out_and_in() {
        for (a, z) in [("1.2.3.4", "5.6.7.8"), ("fd00::1", "fd00::2")] {
            let ends = Ends { from: (a.parse().unwrap(), 1), to: (z.parse().unwrap(), 2) };
            let opts = vec![
                Opt::Mss(1460),
                Opt::Nop,
                Opt::Wscale(7),
                Opt::SackOk,
                Opt::Ts(1, 2),
                Opt::Fo(vec![1, 2], true),
                Opt::Nop,
                Opt::Nop,
            ];
            let s = Segment { ends, ecn: 2, flags: 0x1c2, seq: 5, ack: 6, win: 7, urg: 8, opts, len: 9 };
            let b = build(&s);
            assert_eq!(Segment::parse(&b), Some(s));
        }
    }
}
