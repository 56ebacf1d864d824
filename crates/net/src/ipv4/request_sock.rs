//! A connection request: what stands for a connection between the SYN and the third packet of the handshake.
//!
//! Interface: [`RequestSock`], [`RequestSockQueue`] (a listener's accept queue and request counts), [`FastopenQueue`].
//! Linux counterpart: `include/net/request_sock.h`, `net/core/request_sock.c`.
//! Locks and context: a request is shared between softirqs and changes by atomics only; the accept queue has its own
//! spinlock, taken with bottom halves off.

use crate::core::sock::Sock;
use crate::ipv4::inet_sock::InetTuple;
use crate::ipv4::tcp_auth_key::AuthKey;
use crate::ipv4::tcp_fastopen_cookie::FastopenKeys;
use kernel::{SpinLock, Timer};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::*};
use std::sync::{Arc, OnceLock, Weak};

/// A half-open connection (`struct tcp_request_sock`): much smaller than a socket, so that a flood of SYNs costs little.
pub struct RequestSock {
    pub tuple: InetTuple,
    /// The device it must come in by; 0: any.
    pub bound_dev_if: u32,
    /// Who it is for (`rsk_listener`). A listener that is gone takes its requests with it.
    pub listener: Weak<Sock>,
    /// The peer's MSS option, or its default.
    pub mss: u16,
    pub tstamp_ok: bool,
    pub sack_ok: bool,
    pub wscale_ok: bool,
    pub ecn_ok: bool,
    /// Accurate ECN (RFC 9768), how the SYN's IP header was marked, and what is known of the peer's option (`OptSeen`).
    pub accecn_ok: bool,
    /// What signs its segments, if the listener has a key for the peer.
    pub auth: Option<Box<AuthKey>>,
    pub syn_ect_rcv: u8,
    pub saw_accecn_opt: AtomicU8,
    pub snd_wscale: u8,
    pub rcv_wscale: u8,
    pub rcv_isn: u32,
    pub snt_isn: u32,
    /// Added to our clock in timestamps of this connection (RFC 7323, 5.4).
    pub ts_off: u32,
    /// The receive window offered in the SYN-ACK, in bytes.
    pub rsk_rcv_wnd: u32,
    pub rsk_window_clamp: u32,
    /// The MSS we advertise.
    pub advmss: u16,
    /// TOS or traffic class, and TTL (0: the namespace's default) of our packets.
    pub tos: u8,
    pub ttl: u8,
    pub mark: u32,
    /// The device the SYN came in by, for replies to link-local peers.
    pub iif: u32,
    /// The peer's latest timestamp value.
    pub ts_recent: AtomicU32,
    /// When the SYN-ACK was first sent, in nanoseconds; 0 once it was sent again (Karn: no RTT sample).
    pub snt_synack: AtomicU64,
    /// Expired timers, and SYN-ACKs sent again.
    pub num_timeout: AtomicU8,
    pub num_retrans: AtomicU8,
    /// The third packet came, but is deferred (`TCP_DEFER_ACCEPT`) or found the accept queue full.
    pub acked: AtomicBool,
    /// When an out-of-window packet was last answered, in milliseconds; 0: never.
    pub last_oow_ack_time: AtomicU64,
    /// The next number expected: behind the SYN, and behind its data if that was taken (Fast Open).
    pub rcv_nxt: AtomicU32,
    /// Its child exists already, made out of the SYN alone, and is counted by the listener's [`FastopenQueue`].
    pub tfo_listener: AtomicBool,
    /// That child has been accepted. Changes under the lock of the [`FastopenQueue`].
    pub tfo_accepted: AtomicBool,
    /// The headers of the SYN, for `TCP_SAVED_SYN`.
    pub saved_syn: Option<Box<[u8]>>,
    /// The listener's `TCP_SYNCNT` (0: the namespace's default) and `TCP_DEFER_ACCEPT` when the SYN came.
    pub syn_retries: u8,
    pub defer_accept: u8,
    pub traced: bool,
    /// Sends the SYN-ACK again; set once the request is hashed.
    pub rsk_timer: OnceLock<Timer>,
}

/// Why a connection is not queued: the listener was closed.
pub struct Closed(pub Arc<Sock>);

/// A connection that waits to be accepted; with its request if it was made by Fast Open.
type Waiting = (Arc<Sock>, Option<Arc<RequestSock>>);

#[derive(Default)]
struct Accept {
    list: VecDeque<Waiting>,
    open: bool,
}

/// A listener's children that were made out of a SYN alone and whose handshake goes on (`struct fastopen_queue`).
#[derive(Default)]
pub struct FastopenQueue {
    /// `TCP_FASTOPEN`: how many there may be; 0: Fast Open is off.
    pub max_qlen: AtomicU32,
    /// `TCP_FASTOPEN_KEY`: keys of the listener's own.
    pub keys: SpinLock<Option<FastopenKeys>>,
    inner: SpinLock<Fastopen>,
}

#[derive(Default)]
struct Fastopen {
    qlen: u32,
    /// Places that a RST holds until then, jiffies; the oldest first. They count in `qlen`.
    held: VecDeque<u64>,
}

impl FastopenQueue {
    /// Whether there is room below `max`; a place whose time is over is given up for it.
    pub fn room(&self, max: u32, now: u64) -> bool {
        let mut q = self.inner.lock_bh();
        if q.qlen < max {
            return true;
        }
        if q.held.front().is_none_or(|&until| until > now) {
            return false;
        }
        q.held.pop_front();
        q.qlen -= 1;
        true
    }

    /// A child was made.
    pub fn add(&self) {
        self.inner.lock_bh().qlen += 1;
    }

    /// A child's handshake is over. A RST for one that was accepted holds its place `until` then.
    pub fn remove(&self, req: &RequestSock, until: Option<u64>) {
        let mut q = self.inner.lock_bh();
        if !req.tfo_listener.swap(false, AcqRel) {
            return;
        }
        match until {
            Some(t) if req.tfo_accepted.load(Acquire) => q.held.push_back(t),
            _ => q.qlen = q.qlen.saturating_sub(1),
        }
    }

    fn accepted(&self, req: &RequestSock) {
        let _q = self.inner.lock_bh();
        req.tfo_accepted.store(true, Release);
    }

    /// Children whose handshake goes on, and places held.
    pub fn len(&self) -> u32 {
        self.inner.lock_bh().qlen
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a listener keeps beside its state (`struct request_sock_queue`).
#[derive(Default)]
pub struct RequestSockQueue {
    accept: SpinLock<Accept>,
    /// Requests that are not yet connections; those whose SYN-ACK was never sent again.
    qlen: AtomicU32,
    young: AtomicU32,
    pub fastopenq: FastopenQueue,
}

impl RequestSockQueue {
    /// `reqsk_queue_alloc`: from now on connections can be queued.
    pub fn open(&self) {
        self.accept.lock_bh().open = true;
    }

    /// Nothing is queued any more; what was is given to the caller.
    pub fn close(&self) -> Vec<Arc<Sock>> {
        let mut a = self.accept.lock_bh();
        a.open = false;
        a.list.drain(..).map(|(child, _)| child).collect()
    }

    /// Appends an established connection, and counts it in the listener's `ack_backlog`.
    pub fn push(&self, listener: &Sock, child: Arc<Sock>, tfo: Option<Arc<RequestSock>>) -> Result<(), Closed> {
        let mut a = self.accept.lock_bh();
        if !a.open {
            return Err(Closed(child));
        }
        listener.rare.make().ack_backlog.fetch_add(1, AcqRel);
        a.list.push_back((child, tfo));
        Ok(())
    }

    /// The oldest connection (`reqsk_queue_remove`).
    pub fn pop(&self, listener: &Sock) -> Option<Arc<Sock>> {
        let (child, tfo) = self.accept.lock_bh().list.pop_front()?;
        listener.rare.make().ack_backlog.fetch_sub(1, AcqRel);
        if let Some(req) = tfo {
            self.fastopenq.accepted(&req);
        }
        Some(child)
    }

    /// `reqsk_queue_empty`.
    pub fn is_empty(&self) -> bool {
        self.accept.lock_bh().list.is_empty()
    }

    /// Requests waiting for their third packet (`reqsk_queue_len`).
    pub fn len(&self) -> u32 {
        self.qlen.load(Acquire)
    }

    /// Those of them that have answered in the first second so far (`reqsk_queue_len_young`).
    pub fn len_young(&self) -> u32 {
        self.young.load(Acquire)
    }

    /// `reqsk_queue_added`.
    pub fn added(&self) {
        self.young.fetch_add(1, AcqRel);
        self.qlen.fetch_add(1, AcqRel);
    }

    /// `reqsk_queue_removed`.
    pub fn removed(&self, req: &RequestSock) {
        if req.num_timeout.load(Acquire) == 0 {
            self.young.fetch_sub(1, AcqRel);
        }
        self.qlen.fetch_sub(1, AcqRel);
    }

    /// The request's first timer has expired.
    pub fn aged(&self) {
        self.young.fetch_sub(1, AcqRel);
    }
}

/// `sk_acceptq_is_full`.
pub fn sk_acceptq_is_full(sk: &Sock) -> bool {
    sk.rare.ack_backlog() > sk.rare.max_ack_backlog()
}
