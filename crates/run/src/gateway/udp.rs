//! UDP to the rest of the world, and from it through `--publish`.
//!
//! Interface: [`Udp`]: `datagram`, `event`, `sweep`; [`send`], which puts a datagram on the wire to the program.
//! Linux counterpart: connection tracking with masquerading (RFC 4787: the mapping does not depend on the destination).
//! Locks and context: the gateway's thread.

use super::poller::{Poller, Token};
use super::tcp::{family, host_address};
use super::{GatewayError, Publish};
use kernel::Frag;
use net::core::checksum::csum_partial_seed;
use net::core::flow::Flow;
use net::core::l3::XmitParams;
use net::core::skbuff::{MAX_HEADER, Skb};
use net::hdr::{IPPROTO_UDP, UdpHdr};
use rustix::event::epoll::EventFlags;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, SocketType};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use uapi::{Errno, Result};
use zerocopy::IntoBytes;

/// Mappings at a time; the one idle for longest makes room.
const MAX_MAPPINGS: usize = 4096;
/// RFC 4787, 4.3: not less than two minutes.
const IDLE: Duration = Duration::from_secs(120);
/// Datagrams taken from one socket before others get their turn.
const BATCH: usize = 64;

struct Mapping {
    /// The program's end.
    src: SocketAddr,
    host: OwnedFd,
    used: Instant,
}

/// One `--publish …/udp`: each host peer gets a port of the gateway's, so that answers find their way back.
struct Published {
    publish: Publish,
    host: OwnedFd,
    ports: HashMap<SocketAddr, u16>,
    peers: HashMap<u16, SocketAddr>,
    next: u16,
}

/// All UDP mappings.
pub struct Udp {
    by_src: HashMap<SocketAddr, u32>,
    mappings: HashMap<u32, Mapping>,
    published: Vec<Published>,
    next: u32,
    buf: Vec<u8>,
}

/// Numbers below this are published ports.
const FIRST_MAPPING: u32 = 1 << 16;
/// Ports of the gateway that stand for host peers of published ports.
const PEER_PORTS: std::ops::RangeInclusive<u16> = 20000..=32767;

impl Udp {
    pub fn new(poller: &Poller) -> std::result::Result<Udp, GatewayError> {
        let mut published = Vec::new();
        for p in poller.shared.config.publish.iter().filter(|p| p.udp) {
            let fail = |e: std::io::Error| GatewayError::Publish(p.host, e);
            let host = socket(p.host).map_err(|e| fail(e.into()))?;
            rustix::net::bind(&host, &p.host).map_err(|e| fail(e.into()))?;
            poller.add(&host, Token::Udp(published.len() as u32), EventFlags::IN)?;
            let (ports, peers) = Default::default();
            published.push(Published { publish: *p, host, ports, peers, next: *PEER_PORTS.start() });
        }
        let (by_src, mappings) = Default::default();
        Ok(Udp { by_src, mappings, published, next: FIRST_MAPPING, buf: vec![0; 65536] })
    }

    /// The program sends a datagram.
    pub fn datagram(&mut self, poller: &Poller, src: SocketAddr, dst: SocketAddr, payload: &[u8]) {
        if self.answer_of_published(poller, src, dst, payload) {
            return;
        }
        let Some(id) = self.mapping(poller, src, dst) else { return };
        if let Some(m) = self.mappings.get_mut(&id) {
            m.used = Instant::now();
            let _ = rustix::net::sendto(&m.host, payload, SendFlags::NOSIGNAL, &host_address(poller, dst));
        }
    }

    /// An answer from a published port goes to the host peer that its destination stands for.
    fn answer_of_published(&mut self, poller: &Poller, src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> bool {
        if dst.ip() != IpAddr::V4(poller.shared.config.gateway) {
            return false;
        }
        let from = |p: &&Published| p.publish.port == src.port();
        let Some(p) = self.published.iter().find(from) else { return false };
        let Some(peer) = p.peers.get(&dst.port()) else { return false };
        let _ = rustix::net::sendto(&p.host, payload, SendFlags::NOSIGNAL, peer);
        true
    }

    fn mapping(&mut self, poller: &Poller, src: SocketAddr, dst: SocketAddr) -> Option<u32> {
        if let Some(id) = self.by_src.get(&src) {
            return Some(*id);
        }
        if self.mappings.len() >= MAX_MAPPINGS {
            let (&oldest, _) = self.mappings.iter().min_by_key(|(_, m)| m.used)?;
            self.forget(oldest);
        }
        let host = socket(dst).ok()?;
        self.next = self.next.wrapping_add(1).max(FIRST_MAPPING);
        poller.add(&host, Token::Udp(self.next), EventFlags::IN).ok()?;
        self.by_src.insert(src, self.next);
        self.mappings.insert(self.next, Mapping { src, host, used: Instant::now() });
        Some(self.next)
    }

    fn forget(&mut self, id: u32) {
        if let Some(m) = self.mappings.remove(&id) {
            self.by_src.remove(&m.src);
        }
    }

    /// The host has datagrams.
    pub fn event(&mut self, poller: &Poller, n: u32) {
        for _ in 0..BATCH {
            let fd = match self.mappings.get(&n) {
                Some(m) => &m.host,
                None => match self.published.get(n as usize) {
                    Some(p) => &p.host,
                    None => return,
                },
            };
            match rustix::net::recvfrom(fd, &mut self.buf[..], RecvFlags::DONTWAIT) {
                Ok((len, _, Some(from))) => {
                    if let Ok(from) = SocketAddr::try_from(from) {
                        self.inbound(poller, n, from, len);
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Ok(_) => {}
                // An error report of an earlier datagram; the next read tells whether there is more.
                Err(rustix::io::Errno::CONNREFUSED) => {}
                Err(_) => return,
            }
        }
        poller.shared.push(super::Work::Ready(Token::Udp(n).encode()));
    }

    fn inbound(&mut self, poller: &Poller, n: u32, from: SocketAddr, len: usize) {
        let config = &poller.shared.config;
        let (from, to) = match self.mappings.get_mut(&n) {
            Some(m) => {
                m.used = Instant::now();
                (program_view(poller, from), m.src)
            }
            None => {
                let Some(p) = self.published.get_mut(n as usize) else { return };
                let port = p.port_for(from);
                (SocketAddr::from((config.gateway, port)), SocketAddr::from((config.user.0, p.publish.port)))
            }
        };
        let _ = send(poller, from, to, &self.buf[..len]);
    }

    /// Forgets mappings that were idle.
    pub fn sweep(&mut self) {
        let idle: Vec<u32> = self.mappings.iter().filter(|(_, m)| m.used.elapsed() > IDLE).map(|(id, _)| *id).collect();
        idle.into_iter().for_each(|id| self.forget(id));
    }
}

impl Published {
    fn port_for(&mut self, peer: SocketAddr) -> u16 {
        if let Some(p) = self.ports.get(&peer) {
            return *p;
        }
        let port = self.next;
        self.next = if port == *PEER_PORTS.end() { *PEER_PORTS.start() } else { port + 1 };
        if let Some(old) = self.peers.insert(port, peer) {
            self.ports.remove(&old);
        }
        self.ports.insert(peer, port);
        port
    }
}

/// The host itself is the gateway, to the program.
fn program_view(poller: &Poller, from: SocketAddr) -> SocketAddr {
    if from.ip().is_loopback() { SocketAddr::new(IpAddr::V4(poller.shared.config.gateway), from.port()) } else { from }
}

fn socket(like: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    rustix::net::socket_with(family(like), SocketType::DGRAM, flags, None)
}

/// Sends a datagram to the program from any address. `EMSGSIZE` over 65,507 bytes; what routing says.
pub fn send(poller: &Poller, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Result<()> {
    let len = UdpHdr::LEN + payload.len();
    if len > 65535 - 20 {
        return Err(Errno::EMSGSIZE);
    }
    let mut skb = Skb::alloc(MAX_HEADER + UdpHdr::LEN);
    skb.reserve(MAX_HEADER);
    let header = UdpHdr {
        source: from.port().into(),
        dest: to.port().into(),
        len: (len as u16).into(),
        check: csum_partial_seed(from.ip(), to.ip(), len, IPPROTO_UDP),
    };
    skb.put(UdpHdr::LEN).copy_from_slice(header.as_bytes());
    skb.reset_transport_header();
    skb.set_csum_partial(std::mem::offset_of!(UdpHdr, check));
    if !payload.is_empty() {
        skb.add_frag(Frag::copy_of(payload));
    }
    transmit(poller, skb, Flow::new(IPPROTO_UDP, from.ip(), from.port(), to.ip(), to.port()))
}

/// Routes a transport packet of any source address and sends it.
pub fn transmit(poller: &Poller, mut skb: Box<Skb>, mut flow: Flow) -> Result<()> {
    let net = &poller.shared.net;
    let _inside = net.kernel().enter();
    let l3 = net.l3(flow.is_v6()).ok_or(Errno::EAFNOSUPPORT)?;
    flow.anysrc = true;
    skb.dst = Some((l3.route_output)(net, &mut flow)?);
    (l3.queue_xmit)(net, None, skb, &flow, &XmitParams::default())
}
