//! What a socket's owner is told on the side: ICMP errors, finished zero-copy sends, transmit timestamps.
//!
//! Interface: [`ErrQueue`], [`Report`].
//! Linux counterpart: `sk_error_queue`; `ip_recv_error`, `ip_icmp_error`, `ip_local_error` in `net/ipv4/ip_sockglue.c`,
//! `sock_queue_err_skb`, `__msg_zerocopy_callback` in `net/core/skbuff.c`.
//! Locks and context: any; its own spinlock. Bounded by number.

use crate::core::iov_iter::{CMsg, MsgHdr};
use crate::core::l3::IcmpError;
use crate::core::sock::Sock;
use kernel::SpinLock;
use std::collections::VecDeque;
use std::net::IpAddr;
use uapi::sockaddr::AF_INET6;
use uapi::sockaddr::{SOCKADDR_IN_LEN, SOCKADDR_IN6_LEN};
use uapi::socket::*;
use uapi::{Errno, Result, SockAddr};

/// Errors a socket may keep; further ones are dropped, the pending error tells of them all the same.
const MAX_ERRORS: usize = 64;
/// Reports about its own sends that a socket may keep.
const MAX_REPORTS: usize = 1024;

/// `SO_EE_ORIGIN_*`.
const ORIGIN_LOCAL: u8 = 1;
const ORIGIN_ICMP: u8 = 2;
const ORIGIN_ICMP6: u8 = 3;
const ORIGIN_TIMESTAMPING: u8 = 4;
const ORIGIN_ZEROCOPY: u8 = 5;
/// `SO_EE_CODE_ZEROCOPY_COPIED`: the bytes were copied after all.
const CODE_ZEROCOPY_COPIED: u8 = 1;
/// `SO_TIMESTAMPING_OLD`, which is `SCM_TIMESTAMPING`.
const SCM_TIMESTAMPING: i32 = 37;

/// About what a program has sent.
pub enum Report {
    /// Messages `lo` to `hi` sent with `MSG_ZEROCOPY` are done with.
    Zerocopy { lo: u32, hi: u32 },
    /// Something happened (`SCM_TSTAMP_*`) to byte or message `key` at `time`, nanoseconds since the epoch.
    Timestamp { what: u32, key: u32, time: Option<u64>, payload: Vec<u8> },
}

struct QueuedError {
    errno: Errno,
    origin: u8,
    kind: u8,
    code: u8,
    info: u32,
    data: u32,
    offender: Option<IpAddr>,
    /// Where the packet was going, with its port.
    to: Option<(IpAddr, u16)>,
    time: Option<u64>,
    payload: Vec<u8>,
}

impl QueuedError {
    fn is_icmp(&self) -> bool {
        matches!(self.origin, ORIGIN_LOCAL | ORIGIN_ICMP | ORIGIN_ICMP6)
    }
}

/// The errors and reports that `recvmsg(MSG_ERRQUEUE)` reads (`sk_error_queue`).
#[derive(Default)]
pub struct ErrQueue(SpinLock<VecDeque<QueuedError>>);

impl ErrQueue {
    pub fn is_empty(&self) -> bool {
        self.0.lock_bh().is_empty()
    }

    fn push(&self, e: QueuedError, most: usize) {
        let mut q = self.0.lock_bh();
        if q.len() < most {
            q.push_back(e);
        }
    }

    /// `ip_icmp_error`, `ipv6_icmp_error`: `payload` is what is quoted of the datagram's own payload.
    pub fn icmp_error(&self, err: &IcmpError, errno: Errno, port: u16, payload: &[u8]) {
        let e = QueuedError {
            errno,
            origin: if err.daddr.is_ipv6() { ORIGIN_ICMP6 } else { ORIGIN_ICMP },
            kind: err.kind,
            code: err.code,
            info: err.info,
            data: 0,
            offender: Some(err.offender),
            to: Some((err.daddr, port)),
            time: None,
            payload: payload.to_vec(),
        };
        self.push(e, MAX_ERRORS);
    }

    /// `ip_local_error`: the stack itself refused the datagram; `info` is the path MTU for `EMSGSIZE`.
    pub fn local_error(&self, errno: Errno, to: IpAddr, port: u16, info: u32) {
        self.push(QueuedError { errno, info, to: Some((to, port)), ..Self::blank(ORIGIN_LOCAL) }, MAX_ERRORS);
    }

    fn blank(origin: u8) -> QueuedError {
        let (time, payload, offender, to) = (None, Vec::new(), None, None);
        QueuedError { errno: Errno(0), origin, kind: 0, code: 0, info: 0, data: 0, offender, to, time, payload }
    }

    /// A report about what was sent. One about messages that follow those of the last report joins it.
    pub fn report(&self, r: Report) {
        let e = match r {
            Report::Zerocopy { lo, hi } => {
                let mut q = self.0.lock_bh();
                if let Some(last) = q.back_mut().filter(|e| e.origin == ORIGIN_ZEROCOPY && e.data.wrapping_add(1) == lo)
                {
                    last.data = hi;
                    return;
                }
                QueuedError { info: lo, data: hi, code: CODE_ZEROCOPY_COPIED, ..Self::blank(ORIGIN_ZEROCOPY) }
            }
            Report::Timestamp { what, key, time, payload } => {
                let errno = Errno::ENOMSG;
                QueuedError { errno, info: what, data: key, time, payload, ..Self::blank(ORIGIN_TIMESTAMPING) }
            }
        };
        self.push(e, MAX_REPORTS);
    }

    /// `ip_recv_error`: `EAGAIN` when there is none.
    pub fn recv(&self, sk: &Sock, msg: &mut MsgHdr<'_>) -> Result<usize> {
        let (e, next) = {
            let mut q = self.0.lock_bh();
            (q.pop_front().ok_or(Errno::EAGAIN)?, q.front().filter(|e| e.is_icmp()).map(|e| e.errno))
        };
        // What is pending is the next one in the queue, if any (`sock_dequeue_err_skb`).
        if e.is_icmp() || next.is_some() {
            sk.set_err(next.unwrap_or(Errno(0)));
        }
        msg.name = e.to.map(|(ip, port)| SockAddr::for_family(sk.family, ip, port));
        let copied = msg.iter.copy_to(&e.payload);
        msg.flags |= MSG_ERRQUEUE;
        if copied < e.payload.len() {
            msg.flags |= MSG_TRUNC;
        }
        if let Some(t) = e.time {
            // `struct scm_timestamping`: software, unused, hardware.
            let mut data = Vec::with_capacity(48);
            data.extend_from_slice(&((t / 1_000_000_000) as i64).to_ne_bytes());
            data.extend_from_slice(&((t % 1_000_000_000) as i64).to_ne_bytes());
            data.resize(48, 0);
            msg.control.push(CMsg { level: SOL_SOCKET, kind: SCM_TIMESTAMPING, data });
        }
        // `struct sock_extended_err`, and the address of whoever reported it.
        let (level, kind) = if sk.family == AF_INET6 { (IPPROTO_IPV6, IPV6_RECVERR) } else { (IPPROTO_IP, IP_RECVERR) };
        let offender = e.offender.map_or(SockAddr::Unspec, |a| SockAddr::for_family(sk.family, a, 0));
        let (addr, _) = offender.to_bytes();
        // As long as the family's addresses are, also if there is none.
        let n = if sk.family == AF_INET6 { SOCKADDR_IN6_LEN } else { SOCKADDR_IN_LEN };
        let parts: [&[u8]; 5] = [
            &(e.errno.0 as u32).to_ne_bytes(),
            &[e.origin, e.kind, e.code, 0],
            &e.info.to_ne_bytes(),
            &e.data.to_ne_bytes(),
            addr.get(..n).unwrap_or(&addr),
        ];
        msg.control.push(CMsg { level, kind, data: parts.concat() });
        Ok(copied)
    }
}
