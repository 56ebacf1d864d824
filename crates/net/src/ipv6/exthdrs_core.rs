//! Walking over IPv6 extension headers without obeying them.
//!
//! Interface: the `NEXTHDR_*` numbers, [`ipv6_skip_exthdr`], [`ip6_find_1stfragopt`].
//! Linux counterpart: `net/ipv6/exthdrs_core.c`, `net/ipv6/output_core.c`.
//! Locks and context: pure functions.

use crate::hdr::{FragHdr, Ipv6Hdr};

pub const NEXTHDR_HOP: u8 = 0;
pub const NEXTHDR_ROUTING: u8 = 43;
pub const NEXTHDR_FRAGMENT: u8 = 44;
pub const NEXTHDR_AUTH: u8 = 51;
pub const NEXTHDR_ICMP: u8 = 58;
pub const NEXTHDR_NONE: u8 = 59;
pub const NEXTHDR_DEST: u8 = 60;

/// `IP6_MAX_EXT_HDRS_CNT`: extension headers of one packet that anybody looks at.
pub const IP6_MAX_EXT_HDRS_CNT: usize = 12;

/// "More fragments" and the offset in [`FragHdr::frag_off`].
pub const IP6_MF: u16 = 1;
pub const IP6_OFFSET: u16 = 0xfff8;

/// `ipv6_ext_hdr`: whether the number is that of an extension header.
pub fn ipv6_ext_hdr(nexthdr: u8) -> bool {
    matches!(nexthdr, NEXTHDR_HOP | NEXTHDR_ROUTING | NEXTHDR_FRAGMENT | NEXTHDR_AUTH | NEXTHDR_NONE | NEXTHDR_DEST)
}

/// What [`ipv6_skip_exthdr`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpperLayer {
    /// The first header that is not an extension header.
    pub proto: u8,
    /// Where it starts.
    pub offset: usize,
    /// A fragment other than the first: what is at `offset` is not that header.
    pub later_fragment: bool,
}

/// Finds the upper-layer header of a packet that starts with its IPv6 header; `None` when it is cut off or there is none.
pub fn ipv6_skip_exthdr(packet: &[u8]) -> Option<UpperLayer> {
    let mut proto = Ipv6Hdr::read(packet)?.nexthdr;
    let mut offset = Ipv6Hdr::LEN;
    for _ in 0..IP6_MAX_EXT_HDRS_CNT {
        if !ipv6_ext_hdr(proto) {
            return Some(UpperLayer { proto, offset, later_fragment: false });
        }
        if proto == NEXTHDR_NONE {
            return None;
        }
        let rest = packet.get(offset..)?;
        let len = match proto {
            NEXTHDR_FRAGMENT => {
                if FragHdr::read(rest)?.frag_off.get() & IP6_OFFSET != 0 {
                    return Some(UpperLayer { proto: *rest.first()?, offset, later_fragment: true });
                }
                FragHdr::LEN
            }
            NEXTHDR_AUTH => (*rest.get(1)? as usize + 2) * 4,
            _ => (*rest.get(1)? as usize + 1) * 8,
        };
        proto = *rest.first()?;
        offset += len;
    }
    None
}

/// The end of the part that every fragment repeats, and where the number of the header behind it stands (RFC 8200, 4.5):
/// hop-by-hop options, destination options before a routing header, routing header.
pub fn ip6_find_1stfragopt(packet: &[u8]) -> Option<(usize, usize)> {
    let mut proto = Ipv6Hdr::read(packet)?.nexthdr;
    let mut at = (Ipv6Hdr::LEN, 6);
    let mut offset = Ipv6Hdr::LEN;
    for _ in 0..IP6_MAX_EXT_HDRS_CNT {
        match proto {
            NEXTHDR_HOP | NEXTHDR_ROUTING | NEXTHDR_DEST => {}
            _ => break,
        }
        let field = offset;
        let dest = proto == NEXTHDR_DEST;
        proto = *packet.get(offset)?;
        offset += (*packet.get(offset + 1)? as usize + 1) * 8;
        // Destination options belong to it only if a routing header follows.
        if !dest || proto == NEXTHDR_ROUTING {
            at = (offset, field);
        }
    }
    (at.0 <= packet.len()).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(nexthdr: u8, rest: &[u8]) -> Vec<u8> {
        let mut p = vec![0x60, 0, 0, 0, 0, rest.len() as u8, nexthdr, 64];
        p.extend_from_slice(&[0; 32]);
        p.extend_from_slice(rest);
        p
    }

    #[test]
    fn finds_the_transport_behind_options() {
        let mut rest = vec![NEXTHDR_DEST, 0, 1, 4, 0, 0, 0, 0];
        rest.extend_from_slice(&[17, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        rest.extend_from_slice(&[0; 8]);
        let found = ipv6_skip_exthdr(&packet(NEXTHDR_HOP, &rest));
        assert_eq!(found, Some(UpperLayer { proto: 17, offset: 40 + 24, later_fragment: false }));
        // The destination options are for the last node: they belong to the fragmentable part.
        assert_eq!(ip6_find_1stfragopt(&packet(NEXTHDR_HOP, &rest)), Some((48, 40)));
        assert_eq!(ip6_find_1stfragopt(&packet(17, &[0; 8])), Some((40, 6)));
    }

    #[test]
    fn says_when_a_fragment_is_a_later_one() {
        let found = ipv6_skip_exthdr(&packet(NEXTHDR_FRAGMENT, &[17, 0, 0, 8, 0, 0, 0, 1]));
        assert_eq!(found.map(|u| u.later_fragment), Some(true));
        let first = ipv6_skip_exthdr(&packet(NEXTHDR_FRAGMENT, &[17, 0, 0, 1, 0, 0, 0, 1]));
        assert_eq!(first, Some(UpperLayer { proto: 17, offset: 48, later_fragment: false }));
    }

    #[test]
    fn gives_up_on_what_is_cut_off() {
        assert_eq!(ipv6_skip_exthdr(&packet(NEXTHDR_HOP, &[17])), None);
        assert_eq!(ipv6_skip_exthdr(&[0x60; 39]), None);
        assert_eq!(ip6_find_1stfragopt(&packet(NEXTHDR_HOP, &[17, 9, 0, 0])), None);
    }
}
