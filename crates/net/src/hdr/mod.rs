//! Protocol headers as they are on the wire.
//!
//! Interface: [`EthHdr`], [`ArpHdr`], [`IpHdr`], [`Ipv6Hdr`], [`TcpHdr`], [`UdpHdr`], [`IcmpHdr`], [`Icmpv6Hdr`]; read and written
//! in place by `zerocopy` (`ref_from_prefix`, `mut_from_prefix`).
//! Linux counterpart: `include/uapi/linux/{if_ether,if_arp,ip,ipv6,tcp,udp,icmp,icmpv6}.h`.
//! Locks and context: plain data.

use std::net::{Ipv4Addr, Ipv6Addr};
use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

macro_rules! wire {
    ($($(#[$m:meta])* $name:ident { $($(#[$fm:meta])* $f:ident: $t:ty,)* })*) => {$(
        $(#[$m])*
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
        #[repr(C)]
        pub struct $name { $($(#[$fm])* pub $f: $t,)* }

        impl $name {
            /// Bytes on the wire.
            pub const LEN: usize = std::mem::size_of::<$name>();

            /// The header at the start of `b`; `None` when it is cut off.
            #[inline]
            pub fn read(b: &[u8]) -> Option<&$name> {
                Self::ref_from_prefix(b).ok().map(|(h, _)| h)
            }

            #[inline]
            pub fn read_mut(b: &mut [u8]) -> Option<&mut $name> {
                Self::mut_from_prefix(b).ok().map(|(h, _)| h)
            }
        }
    )*};
}

wire! {
    /// Ethernet II (`struct ethhdr`).
    EthHdr { dest: [u8; 6], source: [u8; 6], proto: U16, }
    /// ARP over Ethernet and IPv4 (RFC 826).
    ArpHdr { hrd: U16, pro: U16, hln: u8, pln: u8, op: U16, sha: [u8; 6], sip: [u8; 4], tha: [u8; 6], tip: [u8; 4], }
    /// IPv4 (RFC 791, 3.1).
    IpHdr {
        /// Version in the high, header length in 32-bit words in the low four bits.
        version_ihl: u8,
        tos: u8, tot_len: U16, id: U16,
        /// Flags in the high three bits ([`IP_DF`], [`IP_MF`]), offset in 8-byte units in the rest.
        frag_off: U16,
        ttl: u8, protocol: u8, check: [u8; 2], saddr: [u8; 4], daddr: [u8; 4],
    }
    /// IPv6 (RFC 8200, 3).
    Ipv6Hdr {
        /// Version (4 bits), traffic class (8), flow label (20).
        flow: U32,
        payload_len: U16, nexthdr: u8, hop_limit: u8, saddr: [u8; 16], daddr: [u8; 16],
    }
    /// IPv6 fragment header (RFC 8200, 4.5). Offset in 8-byte units in the high 13 bits, "more" in the lowest.
    FragHdr { nexthdr: u8, reserved: u8, frag_off: U16, identification: U32, }
    /// TCP (RFC 9293, 3.1). Checksum bytes are in wire order, as summed.
    TcpHdr {
        source: U16, dest: U16, seq: U32, ack_seq: U32,
        /// Header length in 32-bit words in the high four bits (and AE in the lowest).
        doff: u8,
        /// [`tcp_flag`] bits.
        flags: u8,
        window: U16, check: [u8; 2], urg_ptr: U16,
    }
    /// UDP (RFC 768).
    UdpHdr { source: U16, dest: U16, len: U16, check: [u8; 2], }
    /// ICMP (RFC 792): the last four bytes are identifier and sequence number, gateway, or next-hop MTU.
    IcmpHdr { kind: u8, code: u8, check: [u8; 2], rest: [u8; 4], }
    /// ICMPv6 (RFC 4443).
    Icmpv6Hdr { kind: u8, code: u8, check: [u8; 2], rest: [u8; 4], }
}

pub const IP_DF: u16 = 0x4000;
pub const IP_MF: u16 = 0x2000;
pub const IP_OFFSET: u16 = 0x1fff;

/// What each link takes (RFC 8200, 5).
pub const IPV6_MIN_MTU: u32 = 1280;

pub const IPPROTO_ICMP: u8 = 1;
pub const IPPROTO_TCP: u8 = 6;
pub const IPPROTO_UDP: u8 = 17;
pub const IPPROTO_FRAGMENT: u8 = 44;
pub const IPPROTO_ICMPV6: u8 = 58;

/// ICMP types and codes (RFC 792, RFC 1122).
pub mod icmp {
    pub const ICMP_ECHOREPLY: u8 = 0;
    pub const ICMP_DEST_UNREACH: u8 = 3;
    pub const ICMP_SOURCE_QUENCH: u8 = 4;
    pub const ICMP_REDIRECT: u8 = 5;
    pub const ICMP_ECHO: u8 = 8;
    pub const ICMP_TIME_EXCEEDED: u8 = 11;
    pub const ICMP_PARAMETERPROB: u8 = 12;
    pub const ICMP_TIMESTAMP: u8 = 13;
    pub const ICMP_TIMESTAMPREPLY: u8 = 14;
    /// Codes of "destination unreachable".
    pub const ICMP_NET_UNREACH: u8 = 0;
    pub const ICMP_HOST_UNREACH: u8 = 1;
    pub const ICMP_PROT_UNREACH: u8 = 2;
    pub const ICMP_PORT_UNREACH: u8 = 3;
    pub const ICMP_FRAG_NEEDED: u8 = 4;
    pub const ICMP_PKT_FILTERED: u8 = 13;
    /// Codes of "time exceeded": in transit, in reassembly.
    pub const ICMP_EXC_TTL: u8 = 0;
    pub const ICMP_EXC_FRAGTIME: u8 = 1;
}

/// TCP flag bits.
pub mod tcp_flag {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
    pub const ECE: u8 = 0x40;
    pub const CWR: u8 = 0x80;
}

impl IpHdr {
    /// Header bytes with options.
    pub fn ihl(&self) -> usize {
        (self.version_ihl & 15) as usize * 4
    }
    pub fn version(&self) -> u8 {
        self.version_ihl >> 4
    }
    pub fn src(&self) -> Ipv4Addr {
        self.saddr.into()
    }
    pub fn dst(&self) -> Ipv4Addr {
        self.daddr.into()
    }
    /// `ip_is_fragment`.
    pub fn is_fragment(&self) -> bool {
        self.frag_off.get() & (IP_MF | IP_OFFSET) != 0
    }
}

impl Ipv6Hdr {
    pub fn version(&self) -> u8 {
        (self.flow.get() >> 28) as u8
    }
    pub fn traffic_class(&self) -> u8 {
        (self.flow.get() >> 20) as u8
    }
    pub fn src(&self) -> Ipv6Addr {
        self.saddr.into()
    }
    pub fn dst(&self) -> Ipv6Addr {
        self.daddr.into()
    }
}

impl TcpHdr {
    /// Header bytes with options.
    pub fn header_len(&self) -> usize {
        (self.doff >> 4) as usize * 4
    }
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}
