//! Extension headers of packets that came in, obeyed.
//!
//! Interface: [`ipv6_parse_hopopts`], [`ipv6_destopt_rcv`], [`ipv6_rthdr_rcv`]; each takes `data` from its header to the next.
//! Linux counterpart: `net/ipv6/exthdrs.c`.
//! Locks and context: softirq context; no locks.

use super::icmp::{ICMPV6_HDR_FIELD, ICMPV6_PARAMPROB, ICMPV6_UNK_OPTION, icmpv6_send};
use super::ip6_output::Inet6SkbParm;
use crate::core::net_namespace::Net;
use crate::core::skbuff::Skb;
use crate::core::snmp::Mib;
use crate::hdr::Ipv6Hdr;

const IPV6_TLV_PAD1: u8 = 0;
const IPV6_TLV_PADN: u8 = 1;
const IPV6_TLV_ROUTERALERT: u8 = 5;
/// Padding longer than this serves nobody but covert channels.
const MAX_PADDING: usize = 7;

/// Bytes from the network header to `data`.
fn here(skb: &Skb) -> usize {
    (-skb.network_offset()).max(0) as usize
}

/// `icmpv6_param_prob`: answers with the position of what was wrong, from the IPv6 header on.
pub fn icmpv6_param_prob(skb: &Skb, code: u8, pos: usize) {
    icmpv6_send(skb, ICMPV6_PARAMPROB, code, pos as u32);
}

fn header_error(net: &Net) -> Option<u8> {
    net.mib.inc(Mib::Ip6InHdrErrors);
    None
}

/// Makes the whole extension header at `data` linear; its length.
fn pull_header(skb: &mut Skb) -> Option<usize> {
    if !skb.may_pull(8) {
        return None;
    }
    let len = (*skb.data().get(1)? as usize + 1) * 8;
    skb.may_pull(len).then_some(len)
}

/// Goes on behind a header of `len` bytes at `data`: its number of the next one, and where that number stood.
fn next_header(skb: &mut Skb, len: usize) -> Option<u8> {
    let nexthdr = *skb.data().first()?;
    skb.cb.get_mut::<Inet6SkbParm>().nhoff = here(skb) as u16;
    if !skb.pull(len) {
        return None;
    }
    skb.reset_transport_header();
    Some(nexthdr)
}

/// Hop-by-hop options (RFC 8200, 4.3). The number of the next header; `None`: the packet is to be dropped, and is counted.
pub fn ipv6_parse_hopopts(net: &Net, skb: &mut Skb) -> Option<u8> {
    let max = net.sysctl.ipv6_max_hbh_opts_number.get() as usize;
    options_header(net, skb, max)
}

/// Destination options (RFC 8200, 4.6). Likewise.
pub fn ipv6_destopt_rcv(net: &Net, skb: &mut Skb) -> Option<u8> {
    let max = net.sysctl.ipv6_max_dst_opts_number.get() as usize;
    options_header(net, skb, max)
}

fn options_header(net: &Net, skb: &mut Skb, max: usize) -> Option<u8> {
    let Some(len) = pull_header(skb) else { return header_error(net) };
    match ip6_parse_tlv(skb.data().get(2..len).unwrap_or_default(), max) {
        Tlv::Ok => {}
        Tlv::Discard => return header_error(net),
        Tlv::Unknown { at, answer_groups } => {
            let to_group = Ipv6Hdr::read(skb.network_header()).is_some_and(|h| h.dst().is_multicast());
            if answer_groups || !to_group {
                icmpv6_param_prob(skb, ICMPV6_UNK_OPTION, here(skb) + 2 + at);
            }
            return header_error(net);
        }
    }
    next_header(skb, len).or_else(|| header_error(net))
}

#[derive(Debug, PartialEq, Eq)]
enum Tlv {
    Ok,
    Discard,
    /// An option that we must know: where it stands, and whether groups are answered too.
    Unknown {
        at: usize,
        answer_groups: bool,
    },
}

/// `ip6_parse_tlv`: options behind the two first bytes of their header (RFC 8200, 4.2).
fn ip6_parse_tlv(opts: &[u8], max: usize) -> Tlv {
    let (mut at, mut count, mut padding) = (0, 0, 0);
    while let Some(&kind) = opts.get(at) {
        if kind == IPV6_TLV_PAD1 {
            at += 1;
            padding += 1;
            if padding > MAX_PADDING {
                return Tlv::Discard;
            }
            continue;
        }
        let Some(&len) = opts.get(at + 1) else { return Tlv::Discard };
        let Some(value) = opts.get(at + 2..at + 2 + len as usize) else { return Tlv::Discard };
        if kind == IPV6_TLV_PADN {
            padding += 2 + value.len();
            if padding > MAX_PADDING || value.iter().any(|&b| b != 0) {
                return Tlv::Discard;
            }
        } else {
            (padding, count) = (0, count + 1);
            if count > max {
                return Tlv::Discard;
            }
            match unknown_option(kind, value.len()) {
                None => {}
                Some(0) => return Tlv::Discard,
                Some(action) => return Tlv::Unknown { at, answer_groups: action == 1 },
            }
        }
        at += 2 + len as usize;
    }
    Tlv::Ok
}

/// What the two highest bits of an option say for whoever does not know it: nothing (`None`), discard (0), discard and
/// answer (1), discard and answer unless to a group (2).
fn unknown_option(kind: u8, len: usize) -> Option<u8> {
    if kind == IPV6_TLV_ROUTERALERT {
        return (len != 2).then_some(0);
    }
    match kind >> 6 {
        0 => None,
        1 => Some(0),
        2 => Some(1),
        _ => Some(2),
    }
}

/// Routing headers (RFC 8200, 4.4): those that are done are skipped, all others refused; type 0 is never obeyed (RFC 5095).
pub fn ipv6_rthdr_rcv(net: &Net, skb: &mut Skb) -> Option<u8> {
    let Some(len) = pull_header(skb) else { return header_error(net) };
    if skb.data().get(3).copied() != Some(0) {
        icmpv6_param_prob(skb, ICMPV6_HDR_FIELD, here(skb) + 2);
        return header_error(net);
    }
    next_header(skb, len).or_else(|| header_error(net))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn obeys_what_an_unknown_option_asks_for() {
        assert_eq!(ip6_parse_tlv(&[1, 4, 0, 0, 0, 0], 8), Tlv::Ok);
        assert_eq!(ip6_parse_tlv(&[0x1e, 2, 9, 9, 1, 0], 8), Tlv::Ok);
        assert_eq!(ip6_parse_tlv(&[0x5e, 0, 1, 2, 0, 0], 8), Tlv::Discard);
        assert_eq!(ip6_parse_tlv(&[0, 0, 0x9e, 0, 0, 0], 8), Tlv::Unknown { at: 2, answer_groups: true });
        assert_eq!(ip6_parse_tlv(&[0xde, 0, 0, 0, 0, 0], 8), Tlv::Unknown { at: 0, answer_groups: false });
        assert_eq!(ip6_parse_tlv(&[5, 2, 0, 0, 1, 0], 8), Tlv::Ok);
    }

    #[test]
    fn bounds_options_and_padding() {
        assert_eq!(ip6_parse_tlv(&[0; 14], 8), Tlv::Discard);
        assert_eq!(ip6_parse_tlv(&[1, 4, 0, 0, 7, 0], 8), Tlv::Discard);
        assert_eq!(ip6_parse_tlv(&[1, 9, 0, 0], 8), Tlv::Discard);
        assert_eq!(ip6_parse_tlv(&[0x1e, 0, 0x1f, 0, 0x1e, 0], 2), Tlv::Discard);
        assert_eq!(ip6_parse_tlv(&[0x1e], 2), Tlv::Discard);
    }
}
