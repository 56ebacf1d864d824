//! What the table of connections holds: a connection's coordinates, and what they lead to.
//!
//! Interface: [`EhashEntry`], [`EhashSock`].
//! Linux counterpart: `struct sock_common`, `inet_match`, `inet6_match` in `include/net/{sock,inet_hashtables}.h`.
//! Locks and context: plain data that never changes.
//!
//! One is in memory for each connection, so that it is small: where Linux links the socket itself into the table, we link
//! this, with the coordinates in it, and a look-up that passes by need not touch the socket.

use crate::core::sock::Sock;
use crate::ipv4::inet_sock::InetTuple;
use crate::ipv4::inet_timewait_sock::InetTimewaitSock;
use crate::ipv4::request_sock::RequestSock;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// For look-ups that do not know by which device a packet came: an ICMP error's quoted packet.
pub const ANY_DEVICE: u32 = u32::MAX;

/// What a 4-tuple stands for.
#[derive(Clone)]
pub enum EhashSock {
    Sock(Arc<Sock>),
    Request(Arc<RequestSock>),
    Timewait(Arc<InetTimewaitSock>),
}

/// An entry of `ehash`.
#[derive(Clone)]
pub struct EhashEntry {
    key: Key,
    pub sock: EhashSock,
}

/// A connection's coordinates, seen from this side.
#[derive(Clone)]
enum Key {
    V4 { laddr: Ipv4Addr, faddr: Ipv4Addr, lport: u16, fport: u16 },
    V6(Arc<InetTuple>),
}

/// One for each connection.
const _: () = assert!(size_of::<EhashEntry>() == 32);

impl EhashSock {
    /// The device packets must come in by; 0: any.
    #[inline]
    fn bound_dev_if(&self) -> u32 {
        match self {
            EhashSock::Sock(sk) => sk.bound_dev_if.load(Relaxed),
            EhashSock::Request(req) => req.bound_dev_if,
            EhashSock::Timewait(tw) => tw.bound_dev_if,
        }
    }

    pub fn is_sock(&self, sk: &Arc<Sock>) -> bool {
        matches!(self, EhashSock::Sock(s) if Arc::ptr_eq(s, sk))
    }

    pub fn is_request(&self, req: &RequestSock) -> bool {
        matches!(self, EhashSock::Request(r) if std::ptr::eq(&**r, req))
    }

    pub fn is_timewait(&self, tw: &InetTimewaitSock) -> bool {
        matches!(self, EhashSock::Timewait(t) if std::ptr::eq(&**t, tw))
    }
}

impl EhashEntry {
    pub fn new(t: &InetTuple, sock: EhashSock) -> EhashEntry {
        let key = match (t.laddr, t.faddr) {
            (IpAddr::V4(laddr), IpAddr::V4(faddr)) => Key::V4 { laddr, faddr, lport: t.lport, fport: t.fport },
            _ => Key::V6(Arc::new(*t)),
        };
        EhashEntry { key, sock }
    }

    /// An entry with the coordinates of this one, to take its place.
    pub fn successor(&self, sock: EhashSock) -> EhashEntry {
        EhashEntry { key: self.key.clone(), sock }
    }

    pub fn tuple(&self) -> InetTuple {
        match self.key {
            Key::V4 { laddr, faddr, lport, fport } => {
                InetTuple { laddr: laddr.into(), faddr: faddr.into(), lport, fport }
            }
            Key::V6(ref t) => **t,
        }
    }

    /// `inet_match`: whether a packet with these coordinates that came in by device `dif` is for it.
    #[inline]
    pub fn matches(&self, t: &InetTuple, dif: u32) -> bool {
        self.key.is(t) && {
            let dev = self.sock.bound_dev_if();
            dev == 0 || dev == dif || dif == ANY_DEVICE
        }
    }

    /// Whether another entry with these coordinates would make look-ups ambiguous.
    pub fn conflicts(&self, t: &InetTuple, dev: u32) -> bool {
        self.key.is(t) && {
            let own = self.sock.bound_dev_if();
            own == 0 || dev == 0 || own == dev
        }
    }
}

impl Key {
    #[inline]
    fn is(&self, t: &InetTuple) -> bool {
        match *self {
            Key::V4 { laddr, faddr, lport, fport } => {
                t.lport == lport && t.fport == fport && t.laddr == laddr && t.faddr == faddr
            }
            Key::V6(ref own) => **own == *t,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipv4::test_support::{TestNet, bare_sock, tuple};

    /// Two connections may have one hash: then the key alone tells them apart.
    #[test]
    fn each_coordinate_counts() {
        let t = TestNet::new();
        let _inside = t.kernel.enter();
        let sk = bare_sock(&t.net, uapi::socket::AF_INET);
        let all = [tuple("10.0.0.1", 80, "10.0.0.2", 1000), tuple("fe80::1", 80, "fe80::2", 1000)];
        for c in all {
            let e = EhashEntry::new(&c, EhashSock::Sock(sk.clone()));
            let next = e.successor(EhashSock::Sock(sk.clone()));
            let same = |o: &InetTuple| [&e, &next].map(|e| e.matches(o, 1) && e.conflicts(o, 0) && e.tuple() == *o);
            assert_eq!(same(&c), [true; 2]);
            let others = [
                InetTuple { lport: 81, ..c },
                InetTuple { fport: 1001, ..c },
                InetTuple { laddr: c.faddr, ..c },
                InetTuple { faddr: c.laddr, ..c },
            ];
            let far = all.iter().filter(|o| **o != c);
            for o in others.iter().chain(far) {
                assert!(!e.matches(o, 1) && !next.matches(o, 1) && !e.conflicts(o, 0), "{o:?}");
            }
        }
    }
}
