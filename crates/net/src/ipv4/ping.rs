//! Ping sockets, the receiving half: which socket an echo reply is for (RFC 792, RFC 4443).
//!
//! Interface: [`PingTable`], [`ping_hash`], [`ping_unhash`], [`ping_rcv`], [`ping_err`].
//! Linux counterpart: `net/ipv4/ping.c`.
//! Locks and context: receive and errors in softirq context, under RCU; the table is changed in process context.
//!
//! A ping socket owns an ICMP identifier as a UDP socket owns a port. The replies to its requests are its alone.

use crate::core::l3::IcmpError;
use crate::core::net_namespace::{Net, NetId};
use crate::core::skbuff::Skb;
use crate::core::sock::Sock;
use crate::hdr::IcmpHdr;
use crate::ipv4::datagram::{ip_info, sock_queue_rcv_skb};
use crate::ipv4::udp_input::report_icmp_error;
use kernel::{RcuHashTable, tp};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use uapi::socket::IPPROTO_ICMPV6;
use uapi::{Errno, Result};

/// Where a ping socket is; never changed.
struct PingEntry {
    sk: Arc<Sock>,
    ident: u16,
    v6: bool,
}

/// The ping sockets of a namespace.
pub struct PingTable(RcuHashTable<Arc<PingEntry>>);

impl Default for PingTable {
    fn default() -> Self {
        PingTable(RcuHashTable::new(64))
    }
}

fn table(net: &Net) -> &RcuHashTable<Arc<PingEntry>> {
    &net.generic::<PingTable>(NetId::Ping).0
}

fn is_v6(sk: &Sock) -> bool {
    sk.protocol as i32 == IPPROTO_ICMPV6
}

/// `ping_get_port`: claims an identifier, or one that is free if 0; the identifier. `EADDRINUSE`.
pub fn ping_hash(sk: &Arc<Sock>, ident: u16) -> Result<u16> {
    let net = &sk.net;
    let claim = |ident: u16| {
        let e = Arc::new(PingEntry { sk: sk.clone(), ident, v6: is_v6(sk) });
        let same = |o: &Arc<PingEntry>| o.ident == ident && o.v6 == e.v6;
        table(net).insert_unless(net.hash(&ident), e.clone(), same).map(|()| ident).map_err(|_| Errno::EADDRINUSE)
    };
    if ident != 0 {
        return claim(ident);
    }
    let start = net.kernel().random_u32() as u16;
    let free = |i: u16| Some(start.wrapping_add(i)).filter(|&n| n != 0).and_then(|n| claim(n).ok());
    (0..u16::MAX).find_map(free).ok_or(Errno::EADDRINUSE)
}

/// `ping_unhash`. Harmless for a socket that has no identifier.
pub fn ping_unhash(sk: &Arc<Sock>, ident: u16) {
    table(&sk.net).remove(sk.net.hash(&ident), |e| Arc::ptr_eq(&e.sk, sk) && e.ident == ident);
}

/// `ping_lookup`: the socket of the identifier, if it is on the device.
fn ping_lookup(net: &Net, ident: u16, v6: bool, dif: u32) -> Option<Arc<Sock>> {
    // An error comes by no device in particular.
    let on_device = |sk: &Sock| dif == 0 || [0, dif].contains(&sk.bound_dev_if.load(Relaxed));
    let e = table(net).lookup(net.hash(&ident), |e| e.ident == ident && e.v6 == v6 && on_device(&e.sk))?;
    Some(e.sk.clone())
}

fn ident_of(message: &[u8]) -> Option<u16> {
    let [hi, lo, ..] = IcmpHdr::read(message)?.rest;
    Some(u16::from_be_bytes([hi, lo]))
}

/// `ping_rcv`: an echo reply; `data` is at the ICMP header, whose checksum is good. The message is handed up whole.
pub fn ping_rcv(net: &Arc<Net>, skb: Box<Skb>) {
    tp!(ping_rcv, skb);
    let v6 = ip_info(&skb).is_some_and(|i| i.daddr.is_ipv6());
    let to = ident_of(skb.data()).and_then(|ident| ping_lookup(net, ident, v6, skb.skb_iif));
    if let Some(sk) = to {
        // What finds no place is counted by the socket (`SO_RXQ_OVFL`).
        sock_queue_rcv_skb(&sk, skb);
    }
}

/// `ping_err`: an ICMP error about an echo request of ours.
pub fn ping_err(net: &Arc<Net>, err: &IcmpError, quoted: &[u8]) {
    let v6 = matches!(err.daddr, IpAddr::V6(_));
    let to = ident_of(quoted).and_then(|ident| ping_lookup(net, ident, v6, 0));
    if let Some(sk) = to {
        let errno = if err.info != 0 { Errno::EMSGSIZE } else { err.errno };
        let payload = quoted.get(IcmpHdr::LEN..).unwrap_or(&[]);
        report_icmp_error(&sk, err, errno, err.fatal || err.info != 0, 0, payload);
    }
}
