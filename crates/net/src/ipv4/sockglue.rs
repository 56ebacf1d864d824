//! The options of levels SOL_SOCKET, IPPROTO_IP and IPPROTO_IPV6.
//!
//! Interface: [`inet_setsockopt`], [`inet_getsockopt`].
//! Linux counterpart: `net/core/sock.c`, `net/ipv4/ip_sockglue.c`, `net/ipv6/ipv6_sockglue.c`.
//! Locks and context: process context.

use crate::core::snmp::Mib;
use crate::core::sock::Sock;
use crate::socket::Socket;
use uapi::{Errno, Result};

fn unsupported<T>(sk: &Sock) -> Result<T> {
    sk.net.mib.inc(Mib::SockOptUnsupported);
    Err(Errno::ENOPROTOOPT)
}

pub fn inet_setsockopt(sock: &Socket, level: i32, name: i32, val: &[u8]) -> Result<()> {
    let sk = &sock.sk;
    if level == sk.protocol as i32 {
        return (sk.prot.setsockopt)(sk, level, name, val);
    }
    unsupported(sk)
}

pub fn inet_getsockopt(sock: &Socket, level: i32, name: i32, len: usize) -> Result<Vec<u8>> {
    let sk = &sock.sk;
    if level == sk.protocol as i32 {
        return (sk.prot.getsockopt)(sk, level, name, len);
    }
    unsupported(sk)
}
