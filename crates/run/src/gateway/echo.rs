//! Echo requests to the rest of the world.
//!
//! Interface: [`Echo`]: `request`, `event`.
//! Linux counterpart: `net/ipv4/ping.c` on the host's side: an unprivileged ICMP socket.
//! Locks and context: the gateway's thread.
//!
//! The host gives each of its ICMP sockets an identifier of its own; what the program sent is put back in the reply. Where
//! the host lets this user open none (`net.ipv4.ping_group_range`), a raw socket is tried, and then requests go unanswered.

use super::poller::{Poller, Token};
use super::udp::transmit;
use net::core::checksum::{csum_fold, csum_partial};
use net::core::flow::Flow;
use net::core::skbuff::{MAX_HEADER, Skb};
use net::hdr::{IPPROTO_ICMP, IcmpHdr};
use rustix::event::epoll::EventFlags;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

/// Requests whose reply may still come.
const PENDING: usize = 1024;
const ICMP_ECHOREPLY: u8 = 0;

struct Request {
    src: IpAddr,
    dst: IpAddr,
    id: [u8; 2],
    seq: [u8; 2],
}

/// The host's ICMP socket, and who is owed a reply.
#[derive(Default)]
pub struct Echo {
    fd: Option<OwnedFd>,
    /// Replies come with an IP header in front.
    raw: bool,
    pending: VecDeque<Request>,
}

impl Echo {
    /// The program sends an echo request: `packet` starts at the ICMP header.
    pub fn request(&mut self, poller: &Poller, src: IpAddr, dst: IpAddr, packet: &[u8]) {
        let [_, _, _, _, i0, i1, s0, s1, ..] = *packet else { return };
        if self.fd.is_none() {
            self.open(poller);
        }
        let Some(fd) = &self.fd else { return };
        let mut out = packet.to_vec();
        out[2..4].fill(0);
        let check = csum_fold(csum_partial(&out, 0));
        out[2..4].copy_from_slice(&check);
        if rustix::net::sendto(fd, &out, SendFlags::NOSIGNAL, &SocketAddr::new(dst, 0)).is_ok() {
            if self.pending.len() == PENDING {
                self.pending.pop_front();
            }
            self.pending.push_back(Request { src, dst, id: [i0, i1], seq: [s0, s1] });
        }
    }

    fn open(&mut self, poller: &Poller) {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        for (kind, raw) in [(SocketType::DGRAM, false), (SocketType::RAW, true)] {
            if let Ok(fd) = rustix::net::socket_with(AddressFamily::INET, kind, flags, Some(ipproto::ICMP))
                && poller.add(&fd, Token::Echo, EventFlags::IN).is_ok()
            {
                (self.fd, self.raw) = (Some(fd), raw);
                return;
            }
        }
    }

    /// Replies have come.
    pub fn event(&mut self, poller: &Poller) {
        let Some(fd) = &self.fd else { return };
        let mut buf = vec![0; 65536];
        while let Ok((n, _, from)) = rustix::net::recvfrom(fd, &mut buf[..], RecvFlags::DONTWAIT) {
            let Some(Ok(from)) = from.map(SocketAddr::try_from) else { continue };
            let start = if self.raw { buf.first().map_or(0, |b| (b & 15) as usize * 4) } else { 0 };
            let Some(packet) = buf.get(start..n) else { continue };
            let Some(r) = self.pending.iter().position(|r| matches(r, from.ip(), packet, self.raw)) else { continue };
            if let Some(r) = self.pending.remove(r) {
                reply(poller, &r, packet);
            }
        }
    }
}

fn matches(r: &Request, from: IpAddr, packet: &[u8], raw: bool) -> bool {
    r.dst == from
        && packet.len() >= IcmpHdr::LEN
        && packet[0] == ICMP_ECHOREPLY
        && packet[6..8] == r.seq
        && (!raw || packet[4..6] == r.id)
}

fn reply(poller: &Poller, r: &Request, packet: &[u8]) {
    let mut skb = Skb::alloc(MAX_HEADER + packet.len());
    skb.reserve(MAX_HEADER);
    let out = skb.put(packet.len());
    out.copy_from_slice(packet);
    out[2..4].fill(0);
    out[4..6].copy_from_slice(&r.id);
    let check = csum_fold(csum_partial(out, 0));
    out[2..4].copy_from_slice(&check);
    skb.reset_transport_header();
    let _ = transmit(poller, skb, Flow::new(IPPROTO_ICMP, r.dst, 0, r.src, 0));
}
