//! Generic segmentation offload: one large packet becomes packets that fit the wire.
//!
//! Interface: [`skb_gso_segment`].
//! Linux counterpart: `net/core/gso.c`, `skb_segment`, `net/ipv4/tcp_offload.c`, `net/ipv4/udp_offload.c`.
//! Locks and context: pure functions; transmit context.

use crate::core::checksum::{csum_fold, csum_partial_seed, csum_pseudo, ip_fast_csum, skb_checksum};
use crate::core::skbuff::{GsoType, IpSummed, MAX_HEADER, Skb};
use crate::hdr::{IPPROTO_TCP, IPPROTO_UDP, IpHdr, Ipv6Hdr, TcpHdr, UdpHdr, tcp_flag};
use smallvec::SmallVec;
use std::net::IpAddr;
use uapi::{Errno, Result};

/// The packets that one becomes.
pub type Segments = SmallVec<[Box<Skb>; 1]>;

/// Offsets of the checksum fields.
const TCP_CHECK: usize = 16;
const UDP_CHECK: usize = 6;
/// More segments than any GSO packet has (`GSO_MAX_SEGS`).
const GSO_MAX_SEGS: usize = 65535;

/// What is the same in all segments.
struct Plan {
    /// Bytes from `data` to the network header, the transport header, the payload.
    network: usize,
    transport: usize,
    payload: usize,
    tcp: bool,
    v6: bool,
    saddr: IpAddr,
    daddr: IpAddr,
    /// IPv4 identification of the first segment.
    id: u16,
    seq: u32,
    flags: u8,
    /// CWR is part of a counter that is in all segments (`SKB_GSO_TCP_ACCECN`).
    accecn: bool,
    hw_csum: bool,
}

/// `skb_gso_segment`: cuts a GSO packet whose `data` is at the link-layer header, and whose network and transport headers are
/// marked, into packets of `gso_size` payload bytes. They share the payload. Checksums stay `Partial` with `hw_csum`, else
/// they are computed. The last one takes over what the packet owed its socket. `EINVAL` for a packet that is not what its
/// marks say.
pub fn skb_gso_segment(mut skb: Box<Skb>, hw_csum: bool) -> Result<Segments> {
    let plan = Plan::of(&mut skb, hw_csum).ok_or(Errno::EINVAL)?;
    let mss = skb.gso_size as usize;
    let payload = skb.len() - plan.payload;
    let n = payload.div_ceil(mss).max(1);
    if n > GSO_MAX_SEGS {
        return Err(Errno::EINVAL);
    }
    let mut segs = Segments::with_capacity(n);
    for i in 0..n {
        let from = i * mss;
        let seg = plan.segment(&skb, i, from, mss.min(payload - from), i + 1 == n).ok_or(Errno::EINVAL)?;
        segs.push(seg);
    }
    if let Some(last) = segs.last_mut() {
        // Until the last segment has left, the socket has its bytes in flight.
        last.sk = skb.sk.take();
        last.destructor = skb.destructor.take();
        if last.destructor.is_some() {
            last.truesize = skb.truesize;
        }
    }
    Ok(segs)
}

impl Plan {
    fn of(skb: &mut Skb, hw_csum: bool) -> Option<Plan> {
        let network = usize::try_from(skb.network_offset()).ok()?;
        let transport = usize::try_from(skb.transport_offset()).ok()?;
        let tcp = skb.gso_type.intersects(GsoType::TCPV4 | GsoType::TCPV6);
        if transport < network || !(tcp || skb.gso_type.contains(GsoType::UDP_L4)) || skb.gso_size == 0 {
            return None;
        }
        let min = if tcp { TcpHdr::LEN } else { UdpHdr::LEN };
        if !skb.may_pull(transport + min) {
            return None;
        }
        let (seq, flags, thlen) = match tcp {
            true => {
                let th = TcpHdr::read(skb.data().get(transport..)?)?;
                (th.seq.get(), th.flags, th.header_len())
            }
            false => (0, 0, UdpHdr::LEN),
        };
        if thlen < min || !skb.may_pull(transport + thlen) {
            return None;
        }
        let l3 = skb.data().get(network..transport)?;
        let (v6, saddr, daddr, id) = match l3.first()? >> 4 {
            4 => IpHdr::read(l3).map(|h| (false, h.src().into(), h.dst().into(), h.id.get()))?,
            6 => Ipv6Hdr::read(l3).map(|h| (true, h.src().into(), h.dst().into(), 0))?,
            _ => return None,
        };
        let payload = transport + thlen;
        let accecn = skb.gso_type.contains(GsoType::TCP_ACCECN);
        Some(Plan { network, transport, payload, tcp, v6, saddr, daddr, id, seq, flags, accecn, hw_csum })
    }

    /// Segment `i`: the payload bytes `[from, from + len)` behind a copy of the headers.
    fn segment(&self, skb: &Skb, i: usize, from: usize, len: usize, last: bool) -> Option<Box<Skb>> {
        let mut seg = Skb::alloc(MAX_HEADER + self.payload);
        seg.reserve(MAX_HEADER);
        seg.put(self.payload).copy_from_slice(skb.data().get(..self.payload)?);
        seg.copy_metadata(skb);
        seg.reset_mac_header();
        seg.set_network_header(self.network);
        seg.set_transport_header(self.transport);
        (seg.gso_size, seg.gso_segs, seg.gso_type) = (0, 0, GsoType::empty());
        if !skb.share_range(self.payload + from, len, &mut seg) {
            // Too many small fragments for one packet: gather them.
            drop(seg.take_frags());
            skb.copy_bits(self.payload + from, seg.put(len));
        }
        self.fix_network(&mut seg, i)?;
        self.fix_transport(&mut seg, from, i == 0, last)?;
        Some(seg)
    }

    fn fix_network(&self, seg: &mut Skb, i: usize) -> Option<()> {
        let len = seg.len() - self.network;
        let ihl = self.transport - self.network;
        let l3 = seg.data_mut().get_mut(self.network..self.transport)?;
        if self.v6 {
            Ipv6Hdr::read_mut(l3)?.payload_len = (len.checked_sub(Ipv6Hdr::LEN)? as u16).into();
            return Some(());
        }
        let h = IpHdr::read_mut(l3)?;
        h.tot_len = (len as u16).into();
        h.id = self.id.wrapping_add(i as u16).into();
        h.check = [0, 0];
        let check = ip_fast_csum(l3.get(..ihl)?);
        IpHdr::read_mut(l3)?.check = check;
        Some(())
    }

    fn fix_transport(&self, seg: &mut Skb, from: usize, first: bool, last: bool) -> Option<()> {
        let len = seg.len() - self.transport;
        let th = seg.data_mut().get_mut(self.transport..)?;
        if self.tcp {
            let th = TcpHdr::read_mut(th)?;
            th.seq = self.seq.wrapping_add(from as u32).into();
            let mut flags = self.flags;
            if !last {
                flags &= !(tcp_flag::FIN | tcp_flag::PSH);
            }
            // CWR answers one ECE: once is enough (RFC 3168, 6.1.2).
            if !first && !self.accecn {
                flags &= !tcp_flag::CWR;
            }
            th.flags = flags;
        } else {
            UdpHdr::read_mut(th)?.len = (len as u16).into();
        }
        self.fix_checksum(seg, len)
    }

    fn fix_checksum(&self, seg: &mut Skb, len: usize) -> Option<()> {
        let (proto, at) = if self.tcp { (IPPROTO_TCP, TCP_CHECK) } else { (IPPROTO_UDP, UDP_CHECK) };
        let at = self.transport + at;
        if self.hw_csum {
            let seed = csum_partial_seed(self.saddr, self.daddr, len, proto);
            seg.data_mut().get_mut(at..at + 2)?.copy_from_slice(&seed);
            seg.set_csum_partial(at - self.transport);
            return Some(());
        }
        seg.data_mut().get_mut(at..at + 2)?.fill(0);
        let sum = skb_checksum(seg, self.transport, len, 0);
        let sum = csum_fold(csum_pseudo(self.saddr, self.daddr, len, proto, sum));
        let sum = if sum == [0, 0] && !self.tcp { [0xff, 0xff] } else { sum };
        seg.data_mut().get_mut(at..at + 2)?.copy_from_slice(&sum);
        seg.ip_summed = IpSummed::None;
        Some(())
    }
}
