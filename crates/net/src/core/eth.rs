//! Ethernet framing.
//!
//! Interface: [`eth_type_trans`], [`eth_header`], [`eth_get_headlen`].
//! Linux counterpart: `net/ethernet/eth.c`, `include/linux/etherdevice.h`.
//! Locks and context: pure functions.

use crate::core::dev::{ETH_P_IP, ETH_P_IPV6, NetDevice};
use crate::core::skbuff::{PktType, Skb};
use crate::hdr::{
    EthHdr, FragHdr, IPPROTO_FRAGMENT, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, IpHdr, Ipv6Hdr, TcpHdr,
    UdpHdr,
};
use std::sync::Arc;

pub const ETH_HLEN: usize = EthHdr::LEN;
pub const ETH_ALEN: usize = 6;
/// The shortest frame without its check sequence; shorter ones are padded on a real wire.
pub const ETH_ZLEN: usize = 60;
/// Smallest EtherType: below it the field is a length (IEEE 802.3).
const ETH_P_802_3_MIN: u16 = 0x600;
/// What a frame with a length instead of a type is reported as.
pub const ETH_P_802_2: u16 = 4;

const ETH_BROADCAST: [u8; 6] = [0xff; 6];
const IPPROTO_HOPOPTS: u8 = 0;
const IPPROTO_ROUTING: u8 = 43;
const IPPROTO_DSTOPTS: u8 = 60;
const ICMP_HLEN: usize = 8;
/// Extension headers looked through for the transport's.
const MAX_EXT_HEADERS: usize = 8;

/// `is_broadcast_ether_addr`.
pub fn is_broadcast_ether_addr(a: &[u8; 6]) -> bool {
    *a == ETH_BROADCAST
}

/// `is_multicast_ether_addr`: a group address; broadcast is one.
pub fn is_multicast_ether_addr(a: &[u8; 6]) -> bool {
    a[0] & 1 != 0
}

/// `is_valid_ether_addr`: may be a station's own.
pub fn is_valid_ether_addr(a: &[u8; 6]) -> bool {
    !is_multicast_ether_addr(a) && *a != [0; 6]
}

/// `eth_hw_addr_random`: a unicast, locally administered address out of random bytes.
pub fn eth_random_addr(random: [u8; 6]) -> [u8; 6] {
    let mut a = random;
    a[0] = (a[0] & 0xfe) | 0x02;
    a
}

/// `eth_type_trans`: takes the Ethernet header off a received frame: sets `dev`, `pkt_type` and `protocol`, which it also
/// answers. A frame too short for a header gets protocol 0, which nobody takes.
pub fn eth_type_trans(skb: &mut Skb, dev: &Arc<NetDevice>) -> u16 {
    if skb.dev.as_ref().is_none_or(|d| !Arc::ptr_eq(d, dev)) {
        skb.dev = Some(dev.clone());
    }
    skb.reset_mac_header();
    skb.mac_len = ETH_HLEN as u16;
    let h = if skb.may_pull(ETH_HLEN) { EthHdr::read(skb.data()).copied() } else { None };
    let Some(h) = h else {
        skb.protocol = 0;
        return 0;
    };
    skb.pull(ETH_HLEN);
    skb.pkt_type = if h.dest == dev.addr {
        PktType::Host
    } else if !is_multicast_ether_addr(&h.dest) {
        PktType::OtherHost
    } else if h.dest == dev.broadcast || is_broadcast_ether_addr(&h.dest) {
        PktType::Broadcast
    } else {
        PktType::Multicast
    };
    skb.protocol = match h.proto.get() {
        p if p >= ETH_P_802_3_MIN => p,
        _ => ETH_P_802_2,
    };
    skb.protocol
}

/// `eth_header`: prepends the link-layer header. `source` `None` is the device's own address.
pub fn eth_header(skb: &mut Skb, dev: &NetDevice, proto: u16, dest: [u8; 6], source: Option<[u8; 6]>) {
    let h = EthHdr { dest, source: source.unwrap_or(dev.addr), proto: proto.into() };
    skb.push(ETH_HLEN).copy_from_slice(zerocopy::IntoBytes::as_bytes(&h));
    skb.reset_mac_header();
    skb.mac_len = ETH_HLEN as u16;
}

/// `eth_get_headlen`: bytes of link, network and transport headers at the start of a frame, for drivers that put only these
/// into the linear part. What it does not know counts up to where it knows; never more than there is.
pub fn eth_get_headlen(frame: &[u8]) -> usize {
    let Some(h) = EthHdr::read(frame) else { return frame.len() };
    let rest = &frame[ETH_HLEN..];
    let l3 = ip_get_headlen(h.proto.get(), rest);
    (ETH_HLEN + l3).min(frame.len())
}

/// The same for a packet without a link-layer header, of EtherType `proto` (TUN).
pub fn ip_get_headlen(proto: u16, packet: &[u8]) -> usize {
    let n = match proto {
        ETH_P_IP => ipv4_headlen(packet),
        ETH_P_IPV6 => ipv6_headlen(packet),
        _ => 0,
    };
    n.min(packet.len())
}

fn ipv4_headlen(b: &[u8]) -> usize {
    let Some(h) = IpHdr::read(b) else { return b.len() };
    let ihl = h.ihl().max(IpHdr::LEN);
    if h.is_fragment() {
        return ihl;
    }
    ihl + transport_headlen(h.protocol, b.get(ihl..).unwrap_or_default())
}

fn ipv6_headlen(b: &[u8]) -> usize {
    let Some(h) = Ipv6Hdr::read(b) else { return b.len() };
    let (mut at, mut next) = (Ipv6Hdr::LEN, h.nexthdr);
    for _ in 0..MAX_EXT_HEADERS {
        let rest = b.get(at..).unwrap_or_default();
        match next {
            IPPROTO_HOPOPTS | IPPROTO_ROUTING | IPPROTO_DSTOPTS => {
                let &[nh, len, ..] = rest else { return b.len() };
                next = nh;
                at += (len as usize + 1) * 8;
            }
            IPPROTO_FRAGMENT => return at + FragHdr::LEN,
            _ => return at + transport_headlen(next, rest),
        }
    }
    at
}

fn transport_headlen(proto: u8, b: &[u8]) -> usize {
    match proto {
        IPPROTO_TCP => TcpHdr::read(b).map_or(b.len(), |t| t.header_len().max(TcpHdr::LEN)),
        IPPROTO_UDP => UdpHdr::LEN,
        IPPROTO_ICMP | IPPROTO_ICMPV6 => ICMP_HLEN,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(proto: u16, rest: &[u8]) -> Vec<u8> {
        let mut f = vec![0u8; 12];
        f.extend(proto.to_be_bytes());
        f.extend(rest);
        f
    }

    #[test]
    fn headlen_is_exact() {
        let mut ip = vec![0x46u8; 24];
        ip[6..8].fill(0);
        ip[9] = IPPROTO_TCP;
        let mut tcp = vec![0u8; 32];
        tcp[12] = 8 << 4;
        let all = [ip.clone(), tcp, vec![7; 1000]].concat();
        assert_eq!(eth_get_headlen(&frame(ETH_P_IP, &all)), 14 + 24 + 32);
        // A fragment has no transport header to be found.
        let mut f = all.clone();
        f[6] = 0x20;
        assert_eq!(eth_get_headlen(&frame(ETH_P_IP, &f)), 14 + 24);
        // Cut off anywhere: never more than there is.
        let whole = frame(ETH_P_IP, &all);
        for n in 0..whole.len() {
            assert!(eth_get_headlen(&whole[..n]) <= n);
        }
    }

    #[test]
    fn headlen_looks_through_extension_headers() {
        let mut p = vec![0x60u8; 40];
        p[6] = IPPROTO_HOPOPTS;
        p.extend([IPPROTO_UDP, 0, 0, 0, 0, 0, 0, 0]);
        p.extend([0; 8]);
        p.extend([1; 100]);
        assert_eq!(eth_get_headlen(&frame(ETH_P_IPV6, &p)), 14 + 40 + 8 + 8);
        assert_eq!(eth_get_headlen(&frame(0x88cc, &[1; 50])), 14);
    }
}
