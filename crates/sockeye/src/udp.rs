//! UDP sockets like `std::net`'s.
//!
//! Interface: [`UdpSocket`].
//! Linux counterpart: none.
//! Locks and context: process context; blocking calls block the calling thread.

use crate::handle::{Handle, each_addr};
use crate::stack::Stack;
use net::core::iov_iter::IovIter;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;
use uapi::Errno;
use uapi::socket::*;

/// `IP_ADD_MEMBERSHIP` and the like, which no header of ours names.
const IP_MULTICAST_TTL: i32 = 33;
const IP_ADD_MEMBERSHIP: i32 = 35;
const IP_DROP_MEMBERSHIP: i32 = 36;
const IPV6_JOIN_GROUP: i32 = 20;
const IPV6_LEAVE_GROUP: i32 = 21;

/// A UDP socket of a stack. Dropping it closes it.
pub struct UdpSocket(Handle);

impl UdpSocket {
    /// A socket bound to an address; port 0 picks one.
    pub fn bind(stack: &Stack, addr: impl ToSocketAddrs) -> io::Result<UdpSocket> {
        each_addr(addr, |a| {
            let h = Handle::create(stack, a, SOCK_DGRAM)?;
            h.sock.bind(&(*a).into())?;
            Ok(UdpSocket(h))
        })
    }

    /// Sets the peer: the only one received from, and sent to by [`send`](Self::send).
    pub fn connect(&self, addr: impl ToSocketAddrs) -> io::Result<()> {
        each_addr(addr, |a| {
            let to = (*a).into();
            Ok(self.0.sock.block_on(|w| self.0.sock.connect(&to, false, w))?)
        })
    }

    /// Sends one datagram to the first of the addresses.
    pub fn send_to(&self, buf: &[u8], addr: impl ToSocketAddrs) -> io::Result<usize> {
        let to = addr.to_socket_addrs()?.next();
        let to = to.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no addresses to send data to"))?;
        self.0.send(IovIter::source(buf), Some(&to), 0)
    }

    pub fn send(&self, buf: &[u8]) -> io::Result<usize> {
        self.0.send(IovIter::source(buf), None, 0)
    }

    /// Receives one datagram; what `buf` has no room for is lost.
    pub fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.receive(buf, 0)
    }

    pub fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(self.0.recv(IovIter::dest(buf), 0)?.0)
    }

    /// Like [`recv_from`](Self::recv_from), and leaves the datagram in the queue.
    pub fn peek_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.receive(buf, MSG_PEEK)
    }

    pub fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(self.0.recv(IovIter::dest(buf), MSG_PEEK)?.0)
    }

    fn receive(&self, buf: &mut [u8], flags: i32) -> io::Result<(usize, SocketAddr)> {
        let (n, from) = self.0.recv(IovIter::dest(buf), flags)?;
        Ok((n, from.ok_or(Errno::ENOTCONN)?))
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.name(false)
    }

    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.0.name(true)
    }

    /// Another handle on the same socket; they share every setting.
    pub fn try_clone(&self) -> io::Result<UdpSocket> {
        Ok(UdpSocket(self.0.clone()))
    }

    /// How long receiving may block; `None`: for ever. It then fails with [`WouldBlock`](io::ErrorKind::WouldBlock).
    pub fn set_read_timeout(&self, t: Option<Duration>) -> io::Result<()> {
        self.0.set_timeout(SO_RCVTIMEO, t)
    }

    pub fn set_write_timeout(&self, t: Option<Duration>) -> io::Result<()> {
        self.0.set_timeout(SO_SNDTIMEO, t)
    }

    pub fn read_timeout(&self) -> io::Result<Option<Duration>> {
        self.0.timeout(SO_RCVTIMEO)
    }

    pub fn write_timeout(&self) -> io::Result<Option<Duration>> {
        self.0.timeout(SO_SNDTIMEO)
    }

    /// Allows sending to broadcast addresses.
    pub fn set_broadcast(&self, on: bool) -> io::Result<()> {
        self.0.set_int(SOL_SOCKET, SO_BROADCAST, on as i32)
    }

    pub fn broadcast(&self) -> io::Result<bool> {
        Ok(self.0.int(SOL_SOCKET, SO_BROADCAST)? != 0)
    }

    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        self.0.set_int(IPPROTO_IP, IP_TTL, i32::try_from(ttl).map_err(|_| Errno::EINVAL)?)
    }

    pub fn ttl(&self) -> io::Result<u32> {
        Ok(self.0.int(IPPROTO_IP, IP_TTL)? as u32)
    }

    pub fn set_multicast_ttl_v4(&self, ttl: u32) -> io::Result<()> {
        self.0.set_int(IPPROTO_IP, IP_MULTICAST_TTL, i32::try_from(ttl).map_err(|_| Errno::EINVAL)?)
    }

    /// Joins a group on the device with the address `interface`; the unspecified one: where the routes lead.
    pub fn join_multicast_v4(&self, group: &Ipv4Addr, interface: &Ipv4Addr) -> io::Result<()> {
        let mreq = [group.octets(), interface.octets()].concat();
        Ok(self.0.sock.setsockopt(IPPROTO_IP, IP_ADD_MEMBERSHIP, &mreq)?)
    }

    pub fn leave_multicast_v4(&self, group: &Ipv4Addr, interface: &Ipv4Addr) -> io::Result<()> {
        let mreq = [group.octets(), interface.octets()].concat();
        Ok(self.0.sock.setsockopt(IPPROTO_IP, IP_DROP_MEMBERSHIP, &mreq)?)
    }

    /// Joins a group on a device by index; 0: where the routes lead.
    pub fn join_multicast_v6(&self, group: &Ipv6Addr, interface: u32) -> io::Result<()> {
        let mreq = [&group.octets()[..], &interface.to_ne_bytes()].concat();
        Ok(self.0.sock.setsockopt(IPPROTO_IPV6, IPV6_JOIN_GROUP, &mreq)?)
    }

    pub fn leave_multicast_v6(&self, group: &Ipv6Addr, interface: u32) -> io::Result<()> {
        let mreq = [&group.octets()[..], &interface.to_ne_bytes()].concat();
        Ok(self.0.sock.setsockopt(IPPROTO_IPV6, IPV6_LEAVE_GROUP, &mreq)?)
    }

    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.0.take_error()
    }

    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        self.0.set_nonblocking(on);
        Ok(())
    }

    /// The socket below, for every option and call there is.
    pub fn socket(&self) -> &net::socket::Socket {
        &self.0.sock
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSocket").field("addr", &self.local_addr().ok()).finish()
    }
}
