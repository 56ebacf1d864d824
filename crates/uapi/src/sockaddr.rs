//! Socket addresses.
//!
//! Interface: [`SockAddr`], parsed from and written to the bytes of `struct sockaddr_in` and `sockaddr_in6`.
//! Linux counterpart: `include/uapi/linux/in.h`, `in6.h`.
//! Locks and context: plain data.

use crate::{Errno, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// A socket address of a family that the stack serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SockAddr {
    /// `AF_UNSPEC`: on `connect(2)`, dissolves the association.
    Unspec,
    V4(SocketAddrV4),
    V6(SocketAddrV6),
}

pub const AF_UNSPEC: u16 = 0;
pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;
/// `sizeof(struct sockaddr_in)`.
pub const SOCKADDR_IN_LEN: usize = 16;
/// `sizeof(struct sockaddr_in6)`.
pub const SOCKADDR_IN6_LEN: usize = 28;
/// `SIN6_LEN_RFC2133`: the shortest `sockaddr_in6` Linux takes (without a scope).
pub const SIN6_LEN_RFC2133: usize = 24;

impl SockAddr {
    /// Reads a `struct sockaddr`; `EINVAL` when shorter than its family needs, `EAFNOSUPPORT` for a family not served.
    pub fn from_bytes(b: &[u8]) -> Result<SockAddr> {
        let family = b.get(..2).ok_or(Errno::EINVAL)?;
        match u16::from_ne_bytes([family[0], family[1]]) {
            AF_UNSPEC => Ok(SockAddr::Unspec),
            AF_INET => {
                let b = b.get(..SOCKADDR_IN_LEN).ok_or(Errno::EINVAL)?;
                let ip = Ipv4Addr::new(b[4], b[5], b[6], b[7]);
                Ok(SockAddr::V4(SocketAddrV4::new(ip, u16::from_be_bytes([b[2], b[3]]))))
            }
            AF_INET6 => {
                if b.len() < SIN6_LEN_RFC2133 {
                    return Err(Errno::EINVAL);
                }
                let mut ip = [0; 16];
                ip.copy_from_slice(&b[8..24]);
                let word = |at: usize| b.get(at..at + 4).map_or(0, |w| u32::from_ne_bytes([w[0], w[1], w[2], w[3]]));
                let port = u16::from_be_bytes([b[2], b[3]]);
                Ok(SockAddr::V6(SocketAddrV6::new(ip.into(), port, u32::from_be(word(4)), word(24))))
            }
            _ => Err(Errno::EAFNOSUPPORT),
        }
    }

    /// The bytes of the `struct sockaddr` and how many of them count.
    pub fn to_bytes(&self) -> ([u8; SOCKADDR_IN6_LEN], usize) {
        let mut b = [0; SOCKADDR_IN6_LEN];
        b[..2].copy_from_slice(&self.family().to_ne_bytes());
        match self {
            SockAddr::Unspec => (b, SOCKADDR_IN_LEN),
            SockAddr::V4(a) => {
                b[2..4].copy_from_slice(&a.port().to_be_bytes());
                b[4..8].copy_from_slice(&a.ip().octets());
                (b, SOCKADDR_IN_LEN)
            }
            SockAddr::V6(a) => {
                b[2..4].copy_from_slice(&a.port().to_be_bytes());
                b[4..8].copy_from_slice(&a.flowinfo().to_be_bytes());
                b[8..24].copy_from_slice(&a.ip().octets());
                b[24..28].copy_from_slice(&a.scope_id().to_ne_bytes());
                (b, SOCKADDR_IN6_LEN)
            }
        }
    }

    pub fn family(&self) -> u16 {
        match self {
            SockAddr::Unspec => AF_UNSPEC,
            SockAddr::V4(_) => AF_INET,
            SockAddr::V6(_) => AF_INET6,
        }
    }

    pub fn port(&self) -> u16 {
        match self {
            SockAddr::Unspec => 0,
            SockAddr::V4(a) => a.port(),
            SockAddr::V6(a) => a.port(),
        }
    }

    /// The IP address; the unspecified IPv4 one for `AF_UNSPEC`.
    pub fn ip(&self) -> IpAddr {
        match self {
            SockAddr::Unspec => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SockAddr::V4(a) => IpAddr::V4(*a.ip()),
            SockAddr::V6(a) => IpAddr::V6(*a.ip()),
        }
    }

    /// As `std` writes it; `None` for `AF_UNSPEC`.
    pub fn to_std(&self) -> Option<SocketAddr> {
        match self {
            SockAddr::Unspec => None,
            SockAddr::V4(a) => Some(SocketAddr::V4(*a)),
            SockAddr::V6(a) => Some(SocketAddr::V6(*a)),
        }
    }

    /// The address as a socket of `family` reports it: an IPv4 address on an IPv6 socket is IPv4-mapped (RFC 4291, 2.5.5.2).
    pub fn for_family(family: u16, ip: IpAddr, port: u16) -> SockAddr {
        match (family, ip) {
            (AF_INET6, IpAddr::V4(a)) if a.is_unspecified() => {
                SockAddr::V6(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0))
            }
            (AF_INET6, IpAddr::V4(a)) => SockAddr::V6(SocketAddrV6::new(a.to_ipv6_mapped(), port, 0, 0)),
            (_, IpAddr::V4(a)) => SockAddr::V4(SocketAddrV4::new(a, port)),
            (_, IpAddr::V6(a)) => SockAddr::V6(SocketAddrV6::new(a, port, 0, 0)),
        }
    }
}

impl From<SocketAddr> for SockAddr {
    fn from(a: SocketAddr) -> Self {
        match a {
            SocketAddr::V4(a) => SockAddr::V4(a),
            SocketAddr::V6(a) => SockAddr::V6(a),
        }
    }
}
