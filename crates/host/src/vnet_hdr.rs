//! `virtio_net_hdr`: what a packet's checksum and segmentation still need, in ten bytes before the frame.
//!
//! Interface: [`VnetHdr`] (`of`, `apply`, `to_bytes`, `from_bytes`).
//! Linux counterpart: `include/linux/virtio_net.h` (`virtio_net_hdr_from_skb`, `virtio_net_hdr_to_skb`).
//! Locks and context: pure functions.

use net::core::skbuff::{GsoType, IpSummed, Skb};

/// Bytes on the wire.
pub const VNET_HDR_LEN: usize = 10;

const F_NEEDS_CSUM: u8 = 1;
const F_DATA_VALID: u8 = 2;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;
const TCP_MIN: usize = 20;
const UDP_LEN: usize = 8;

/// `struct virtio_net_hdr`, in this machine's byte order as legacy virtio has it. Offsets are from the start of the frame.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct VnetHdr {
    flags: u8,
    gso_type: u8,
    hdr_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

impl VnetHdr {
    /// The header for a packet on its way out, whose `data` is at the link-layer header.
    pub fn of(skb: &Skb) -> VnetHdr {
        let mut h = VnetHdr::default();
        if skb.ip_summed == IpSummed::Partial {
            h.flags = F_NEEDS_CSUM;
            h.csum_start = skb.checksum_start_offset() as u16;
            h.csum_offset = skb.csum_offset;
        }
        if skb.is_gso() {
            h.gso_type = match skb.gso_type {
                t if t.contains(GsoType::TCPV4) => GSO_TCPV4,
                t if t.contains(GsoType::TCPV6) => GSO_TCPV6,
                _ => GSO_UDP_L4,
            };
            if skb.gso_type.contains(GsoType::TCP_ECN) {
                h.gso_type |= GSO_ECN;
            }
            h.gso_size = skb.gso_size;
            h.hdr_len = (h.csum_start as usize + h.transport_len(skb.data())) as u16;
        }
        h
    }

    /// Length of the transport header that begins at `csum_start`.
    fn transport_len(&self, linear: &[u8]) -> usize {
        let doff = || linear.get(self.csum_start as usize + 12).map_or(0, |b| (b >> 4) as usize * 4);
        if self.gso_type == GSO_UDP_L4 { UDP_LEN } else { doff().max(TCP_MIN) }
    }

    /// Tells a received packet, whose `data` is at the link-layer header, what the header says. `false` when that cannot be.
    pub fn apply(&self, skb: &mut Skb) -> bool {
        if self.flags & F_NEEDS_CSUM != 0 {
            let (start, offset) = (self.csum_start as usize, self.csum_offset as usize);
            if !skb.may_pull(start + offset + 2) {
                return false;
            }
            skb.ip_summed = IpSummed::Partial;
            skb.csum_start = (skb.data_offset() + start) as u16;
            skb.csum_offset = self.csum_offset;
        } else if self.flags & F_DATA_VALID != 0 {
            skb.ip_summed = IpSummed::Unnecessary;
        }
        self.gso_type == 0 || self.apply_gso(skb)
    }

    fn apply_gso(&self, skb: &mut Skb) -> bool {
        let mut kind = match self.gso_type & !GSO_ECN {
            GSO_TCPV4 => GsoType::TCPV4,
            GSO_TCPV6 => GsoType::TCPV6,
            GSO_UDP_L4 => GsoType::UDP_L4,
            _ => return false,
        };
        if self.gso_type & GSO_ECN != 0 {
            kind |= GsoType::TCP_ECN;
        }
        // A packet to be cut has its checksum to be completed, in each piece.
        if self.gso_size == 0 || skb.ip_summed != IpSummed::Partial {
            return false;
        }
        let headers = self.csum_start as usize + self.transport_len(skb.data());
        let Some(payload) = skb.len().checked_sub(headers) else { return false };
        skb.gso_type = kind;
        skb.gso_size = self.gso_size;
        skb.gso_segs = payload.div_ceil(self.gso_size as usize).max(1) as u16;
        true
    }

    pub fn to_bytes(self) -> [u8; VNET_HDR_LEN] {
        let mut b = [0; VNET_HDR_LEN];
        b[0] = self.flags;
        b[1] = self.gso_type;
        let words = [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset];
        for (to, w) in b[2..].chunks_exact_mut(2).zip(words) {
            to.copy_from_slice(&w.to_ne_bytes());
        }
        b
    }

    pub fn from_bytes(b: &[u8; VNET_HDR_LEN]) -> VnetHdr {
        let word = |i: usize| u16::from_ne_bytes([b[i], b[i + 1]]);
        VnetHdr {
            flags: b[0],
            gso_type: b[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP4: VnetHdr = VnetHdr {
        flags: F_NEEDS_CSUM,
        gso_type: GSO_TCPV4 | GSO_ECN,
        hdr_len: 66,
        gso_size: 1448,
        csum_start: 34,
        csum_offset: 16,
    };

    fn frame(len: usize) -> Box<Skb> {
        let mut b = vec![0; len];
        if let Some(doff) = b.get_mut(34 + 12) {
            *doff = 8 << 4;
        }
        Skb::from_bytes(64, &b)
    }

    #[test]
    fn what_is_applied_to_a_packet_is_what_is_read_off_it() {
        let mut skb = frame(66 + 3000);
        assert!(TCP4.apply(&mut skb));
        assert_eq!((skb.gso_segs, skb.gso_size), (3, 1448));
        assert_eq!(skb.gso_type, GsoType::TCPV4 | GsoType::TCP_ECN);
        assert_eq!(skb.checksum_start_offset(), 34);
        assert_eq!(VnetHdr::of(&skb), TCP4);
        assert_eq!(VnetHdr::from_bytes(&TCP4.to_bytes()), TCP4);
    }

    #[test]
    fn headers_that_do_not_fit_the_packet_are_refused() {
        let refused = |h: VnetHdr, len| assert!(!h.apply(&mut frame(len)), "{h:?} on {len} bytes");
        refused(TCP4, 51);
        refused(TCP4, 60);
        refused(VnetHdr { csum_start: u16::MAX, csum_offset: u16::MAX, ..TCP4 }, 3000);
        refused(VnetHdr { gso_size: 0, ..TCP4 }, 3000);
        refused(VnetHdr { flags: 0, ..TCP4 }, 3000);
        refused(VnetHdr { gso_type: 9, ..TCP4 }, 3000);
    }

    #[test]
    fn a_verified_checksum_is_known_as_such() {
        let mut skb = frame(100);
        assert!(VnetHdr { flags: F_DATA_VALID, ..VnetHdr::default() }.apply(&mut skb));
        assert_eq!(skb.ip_summed, IpSummed::Unnecessary);
        assert_eq!(VnetHdr::of(&skb), VnetHdr::default());
    }
}
