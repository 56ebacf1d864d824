//! Listening, accepting, port choice, connection requests.
//!
//! Interface: [`inet_csk_get_port`], [`inet_csk_listen_start`], [`inet_csk_listen_stop`], [`inet_csk_accept`],
//! [`inet_csk_reqsk_queue_hash_add`], [`inet_csk_reqsk_queue_add`], [`inet_csk_clone_lock`].
//! Linux counterpart: `net/ipv4/inet_connection_sock.c`.
//! Locks and context: each function says its own. A listener's accept queue is outside its socket lock, so `accept` and the
//! handshake do not wait for each other.

use crate::core::net_namespace::Net;
use crate::core::snmp::Mib;
use crate::core::sock::{ProtoSock, Sock, SockFlags};
use crate::ipv4::inet_bind2_bucket::{BindAddr, FastReuse};
use crate::ipv4::inet_hashtables::{
    __inet_lookup_listener, BindBucket, BindOwner, inet_csk, inet_hash, inet_put_port, inet_sk_get_local_port_range,
    inet_unhash, reqsk_hash_insert, reqsk_hashed, reqsk_unhash, reserved_ports, sk_tuple, tcp_hashinfo,
};
use crate::ipv4::inet_sock::{InetSock, InetTuple, inet_sk};
use crate::ipv4::request_sock::{Closed, RequestSock, RequestSockQueue};
use kernel::Wait;
use kernel::plant::{Plant, planted};
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use std::task::Poll;
use uapi::tcp::TcpState;
use uapi::{Errno, Result};

/// First SYN-ACK timeout (RFC 6298, 2.1) and the longest one, in milliseconds.
const TCP_TIMEOUT_INIT: u64 = 1000;
const TCP_RTO_MAX: u64 = 120_000;

// --- Ports ---

/// What decides about a port, seen from one of its holders.
struct Holder {
    addr: BindAddr,
    reuse: bool,
    reuseport: bool,
    dev: u32,
    listening: bool,
}

impl Holder {
    fn of(sk: &Sock, addr: BindAddr) -> Holder {
        Holder {
            addr,
            reuse: sk.flag(SockFlags::REUSEADDR),
            reuseport: sk.flag(SockFlags::REUSEPORT),
            dev: sk.bound_dev_if.load(Relaxed),
            listening: sk.state() == TcpState::Listen,
        }
    }

    fn of_owner(o: &BindOwner) -> Holder {
        match o {
            BindOwner::Sock { sk, addr, .. } => Holder::of(sk, *addr),
            BindOwner::Timewait { tw, .. } => Holder {
                addr: BindAddr {
                    addr: tw.tuple.laddr,
                    v6: tw.family == uapi::socket::AF_INET6 as u16,
                    v6only: tw.ipv6only,
                },
                reuse: tw.reuse,
                reuseport: tw.reuseport,
                dev: tw.bound_dev_if,
                listening: false,
            },
        }
    }

    /// Whether the port cannot be shared with `other` (`inet_bind_conflict`). `relax`: the user named the port, so
    /// `SO_REUSEADDR` counts; `reuseport_ok`: so does `SO_REUSEPORT`.
    fn conflicts(&self, other: &Holder, relax: bool, reuseport_ok: bool) -> bool {
        if (self.dev != 0 && other.dev != 0 && self.dev != other.dev) || !self.addr.overlaps(&other.addr) {
            return false;
        }
        let both_reuseport = self.reuseport && other.reuseport;
        if self.reuse && other.reuse && !other.listening {
            return !relax || (!reuseport_ok && both_reuseport);
        }
        !reuseport_ok || !both_reuseport
    }
}

/// `inet_csk_bind_conflict`: whether any holder of the port is in the way.
fn inet_csk_bind_conflict(sk: &Arc<Sock>, me: &Holder, bucket: &BindBucket, relax: bool, reuseport_ok: bool) -> bool {
    let myself = |o: &BindOwner| matches!(o, BindOwner::Sock { sk: other, .. } if Arc::ptr_eq(other, sk));
    bucket.candidates(me.addr.addr).any(|o| !myself(o) && me.conflicts(&Holder::of_owner(o), relax, reuseport_ok))
}

/// `sk_reuseport_match`: whether `SO_REUSEPORT` alone says that nobody is in the way.
fn sk_reuseport_match(me: &Holder, fast: &FastReuse) -> bool {
    me.reuseport && (fast.reuseport || fast.strict.is_some_and(|a| a.covers(&me.addr)))
}

/// Notes what the bucket's next sockets need not look for, before this one is added (`inet_csk_update_fastreuse`).
fn inet_csk_update_fastreuse(me: &Holder, b: &mut BindBucket) {
    let (first, reuse) = (b.is_empty(), me.reuse && !me.listening);
    let fast = &mut b.fast;
    fast.reuse = reuse && (first || fast.reuse);
    if !me.reuseport {
        (fast.reuseport, fast.strict) = (false, None);
    } else if first {
        (fast.reuseport, fast.strict) = (true, None);
    } else if !sk_reuseport_match(me, fast) {
        fast.strict = Some(me.addr);
    }
}

/// Claims a port for the socket's address, or finds a free one for port 0. `EADDRINUSE`. Socket lock held. Also called for a
/// port the socket holds, when it begins to listen: that is where two sockets that share a port find out.
pub fn inet_csk_get_port(sk: &Arc<Sock>, state: &mut dyn ProtoSock, port: u16) -> Result<()> {
    let inet = inet_sk(state);
    let me = Holder::of(sk, BindAddr::of(sk, inet.rcv_saddr));
    let port = match port {
        0 => inet_csk_find_open_port(sk, &me, inet)?,
        port => {
            let mut b = tcp_hashinfo(&sk.net).bind_bucket(port);
            let free = b.is_empty()
                || (b.fast.reuse && me.reuse && !me.listening)
                || sk_reuseport_match(&me, &b.fast)
                || !inet_csk_bind_conflict(sk, &me, &b, true, true);
            if !free {
                return Err(Errno::EADDRINUSE);
            }
            inet_csk_update_fastreuse(&me, &mut b);
            b.bind(sk, inet.rcv_saddr, port);
            port
        }
    };
    inet.num = port;
    Ok(())
}

/// A port that nobody holds in a way that conflicts, claimed. Odd offsets first: `connect` takes the even ones.
fn inet_csk_find_open_port(sk: &Arc<Sock>, me: &Holder, inet: &InetSock) -> Result<u16> {
    let (low, high) = inet_sk_get_local_port_range(&sk.net, inet);
    let reserved = reserved_ports(&sk.net);
    let high = high + 1;
    let half = low + (((high - low) >> 2) << 1);
    // Sockets that may share their port with others crowd into one half of the range first.
    let ranges = if me.reuse && high - low >= 4 { [(low, half), (half, high)] } else { [(low, high), (0, 0)] };
    for (low, high) in ranges {
        let mut remaining = high - low;
        if remaining == 0 {
            continue;
        }
        if remaining > 1 {
            remaining &= !1;
        }
        let start = (sk.net.kernel().random_u32() % remaining) & !1;
        let parities: &[u32] = if remaining > 1 { &[1, 0] } else { &[0] };
        for parity in parities {
            for i in (0..remaining).step_by(2) {
                let port = (low + (start + parity + i) % remaining) as u16;
                if reserved.iter().any(|r| r.contains(&port)) {
                    continue;
                }
                let mut b = tcp_hashinfo(&sk.net).bind_bucket(port);
                if b.is_empty() || !inet_csk_bind_conflict(sk, me, &b, false, false) {
                    inet_csk_update_fastreuse(me, &mut b);
                    b.bind(sk, inet.rcv_saddr, port);
                    return Ok(port);
                }
            }
        }
    }
    Err(Errno::EADDRINUSE)
}

// --- Listening and accepting ---

/// Makes the socket a listener, or changes the backlog of one. `EINVAL` in any other state, `EADDRINUSE` when another
/// socket listens on its port. Socket lock held.
pub fn inet_csk_listen_start(sk: &Arc<Sock>, state: &mut dyn ProtoSock, backlog: i32) -> Result<()> {
    let limit = sk.net.sysctl.somaxconn.get() as u32;
    // A negative backlog is a very large one, as always in Linux.
    sk.rare.make().max_ack_backlog.store((backlog as u32).min(limit), Release);
    match sk.state() {
        TcpState::Listen => return Ok(()),
        TcpState::Close => {}
        _ => return Err(Errno::EINVAL),
    }
    let queue = &inet_csk(sk).accept_queue;
    queue.open();
    sk.rare.make().ack_backlog.store(0, Release);
    // From here on other sockets that share the port see a listener; who is second to look is refused.
    sk.set_state(TcpState::Listen);
    let num = inet_sk(state).num;
    if let Err(e) = inet_csk_get_port(sk, state, num) {
        queue.close();
        sk.set_state(TcpState::Close);
        return Err(e);
    }
    let inet = inet_sk(state);
    inet.sport = inet.num;
    *sk.dst_cache.lock_bh() = None;
    inet_hash(sk, inet)
}

/// The listener is closed: who waits in its queue is reset, and requests find it gone. Socket lock held; the state is no
/// longer `LISTEN` or the socket no longer hashed.
pub fn inet_csk_listen_stop(sk: &Arc<Sock>) {
    for child in inet_csk(sk).accept_queue.close() {
        if !migrate_child(sk, &child) {
            inet_child_forget(&child);
        }
    }
    sk.rare.make().ack_backlog.store(0, Release);
    // Processes that wait in accept learn that it listens no more.
    sk.state_change();
}

/// With `tcp_migrate_req`: hands an established child to another listener of the group. One whose handshake goes on stays.
fn migrate_child(from: &Arc<Sock>, child: &Arc<Sock>) -> bool {
    if !from.net.sysctl.tcp_migrate_req.on() || child.state() == TcpState::SynRecv {
        return false;
    }
    let Some(tuple) = sk_tuple(child) else { return false };
    let Some(to) = migrate_to(&from.net, &tuple, child.bound_dev_if.load(Relaxed)) else { return false };
    let done = inet_csk_reqsk_queue_add(&to, child, None);
    if done {
        to.data_ready();
    }
    done
}

/// Gives up a child that no process will ever have: its peer is reset (`inet_child_forget`). Process or softirq context;
/// the child is not locked.
pub fn inet_child_forget(child: &Arc<Sock>) {
    let _bh = kernel::local_bh_disable();
    child.set_flag(SockFlags::DEAD, true);
    let mut guard = child.bh_lock_sock_nested();
    if let Some(state) = guard.state() {
        let _ = (child.prot.disconnect)(child, state);
    }
    drop(guard);
    inet_unhash(child);
    inet_put_port(child);
}

/// The next connection of a listener. `EINVAL` if it does not listen, `EAGAIN` when the time is over. Takes no socket lock.
pub fn inet_csk_accept(sk: &Arc<Sock>, nonblock: bool, wait: &mut Wait) -> Poll<Result<Arc<Sock>>> {
    let queue = &inet_csk(sk).accept_queue;
    let answer = inet_csk_wait_for_connect(sk, queue, nonblock, wait);
    if answer.is_ready() {
        // A wake-up that came meanwhile is for another acceptor.
        wait.abort_exclusive_wait();
    }
    answer
}

fn inet_csk_wait_for_connect(
    sk: &Arc<Sock>,
    queue: &RequestSockQueue,
    nonblock: bool,
    wait: &mut Wait,
) -> Poll<Result<Arc<Sock>>> {
    let now = || sk.net.kernel().ktime_get();
    wait.set_timeout(now, sk.rcvtimeo(nonblock));
    let attempt = || match sk.state() {
        TcpState::Listen => queue.pop(sk).map(Ok),
        _ => Some(Err(Errno::EINVAL)),
    };
    if let Some(r) = attempt() {
        // What it was woken for.
        wait.finish_wait();
        return Poll::Ready(r);
    }
    if wait.timed_out(now) {
        return Poll::Ready(Err(Errno::EAGAIN));
    }
    if wait.signal_pending() {
        // `sock_intr_errno`: a call with a time limit is not restarted with a fresh one.
        let e = if wait.deadline().is_some() { Errno::EINTR } else { Errno::ERESTARTSYS };
        return Poll::Ready(Err(e));
    }
    // One connection wakes one acceptor.
    wait.prepare_to_wait_exclusive(&sk.wq);
    if planted(Plant::AcceptCheckEarly) {
        return Poll::Pending;
    }
    match attempt() {
        Some(r) => Poll::Ready(r),
        None => Poll::Pending,
    }
}

/// Queues an established child for `accept`; `false` if the listener was closed meanwhile, and the child given up. The
/// listener's `data_ready` is the caller's, once the child is ready. Softirq context, the child not locked by the caller
/// unless it gives it up itself. `tfo`: the request of a child whose handshake goes on.
pub fn inet_csk_reqsk_queue_add(listener: &Arc<Sock>, child: &Arc<Sock>, tfo: Option<&Arc<RequestSock>>) -> bool {
    match inet_csk(listener).accept_queue.push(listener, child.clone(), tfo.cloned()) {
        Ok(()) => true,
        Err(Closed(_)) => false,
    }
}

// --- Requests ---

/// Whether no more requests are taken in (`inet_csk_reqsk_queue_is_full`).
pub fn inet_csk_reqsk_queue_is_full(sk: &Sock) -> bool {
    inet_csk(sk).accept_queue.len() > sk.rare.max_ack_backlog()
}

/// Sends a request's SYN-ACK again; `false` if it could not be sent.
pub type RtxSynAck = fn(listener: &Arc<Sock>, req: &Arc<RequestSock>) -> bool;

/// Makes a request findable, counts it and starts its timer; `false` if the connection exists already. Softirq context.
pub fn inet_csk_reqsk_queue_hash_add(sk: &Arc<Sock>, req: &Arc<RequestSock>, rtx: RtxSynAck) -> bool {
    let weak = Arc::downgrade(req);
    let net = sk.net.weak();
    let timer = sk.net.kernel().timer(move || {
        if let (Some(net), Some(req)) = (net.upgrade(), weak.upgrade()) {
            reqsk_timer_handler(&net, &req, rtx);
        }
    });
    let timer = req.rsk_timer.get_or_init(|| timer);
    // Counted and armed before it can be found: the third packet may come on another CPU at once.
    inet_csk(sk).accept_queue.added();
    timer.mod_timer_in(TCP_TIMEOUT_INIT);
    if !reqsk_hash_insert(&sk.net, req) {
        reqsk_queue_removed(req);
        return false;
    }
    true
}

/// Who takes the request's connection: its listener, or with `tcp_migrate_req` another of the group if that one has closed
/// (`reuseport_migrate_sock`).
pub fn reqsk_listener(net: &Net, req: &RequestSock) -> Option<Arc<Sock>> {
    match req.listener.upgrade().filter(|l| l.state() == TcpState::Listen) {
        None if net.sysctl.tcp_migrate_req.on() => migrate_to(net, &req.tuple, req.iif),
        l => l,
    }
}

/// Another listener with `SO_REUSEPORT` for the same connections.
fn migrate_to(net: &Net, tuple: &InetTuple, dif: u32) -> Option<Arc<Sock>> {
    let to = __inet_lookup_listener(net, tuple, dif).filter(|l| l.flag(SockFlags::REUSEPORT));
    let mib = if to.is_some() { Mib::TcpExtTCPMigrateReqSuccess } else { Mib::TcpExtTCPMigrateReqFailure };
    net.mib.inc(mib);
    to
}

/// The time for the third packet is over: the SYN-ACK goes out again, or the request is dropped.
fn reqsk_timer_handler(net: &Arc<Net>, req: &Arc<RequestSock>, rtx: RtxSynAck) {
    if !reqsk_hashed(net, req) {
        return;
    }
    let Some(listener) = reqsk_listener(net, req) else {
        inet_csk_reqsk_queue_drop(net, req);
        return;
    };
    net.mib.inc(Mib::TcpExtTCPTimeouts);
    let queue = &inet_csk(&listener).accept_queue;
    let retries = match req.syn_retries {
        0 => net.sysctl.tcp_synack_retries.get() as u8,
        n => n,
    };
    let (expire, resend) = syn_ack_recalc(req, thin_out(&listener, queue, retries), retries);
    if expire || (resend && !inet_rtx_syn_ack(&listener, req, rtx) && !req.acked.load(Acquire)) {
        inet_csk_reqsk_queue_drop(net, req);
        return;
    }
    let timeouts = req.num_timeout.fetch_add(1, AcqRel);
    if timeouts == 0 {
        queue.aged();
    }
    if let Some(t) = req.rsk_timer.get() {
        t.mod_timer_in((TCP_TIMEOUT_INIT << (timeouts + 1).min(10)).min(TCP_RTO_MAX));
    }
}

/// How many retransmissions an old request is worth: fewer the more of the queue is old requests.
fn thin_out(listener: &Sock, queue: &RequestSockQueue, retries: u8) -> u8 {
    let qlen = queue.len();
    let mut thresh = retries;
    if qlen << 1 > listener.rare.max_ack_backlog().max(8) {
        let mut young = queue.len_young() << 1;
        while thresh > 2 && qlen >= young {
            thresh -= 1;
            young <<= 1;
        }
    }
    thresh
}

/// Whether the request has expired, and whether its SYN-ACK is to be sent again (`syn_ack_recalc`).
fn syn_ack_recalc(req: &RequestSock, thresh: u8, retries: u8) -> (bool, bool) {
    let n = req.num_timeout.load(Acquire);
    if req.defer_accept == 0 {
        return (n >= thresh, true);
    }
    let acked = req.acked.load(Acquire);
    let limit = retries.max(req.defer_accept);
    // Silent while it waits for data; at the end a last call.
    (n >= thresh && (!acked || n >= limit), !acked || n >= req.defer_accept - 1)
}

/// `inet_rtx_syn_ack`.
pub fn inet_rtx_syn_ack(listener: &Arc<Sock>, req: &Arc<RequestSock>, rtx: RtxSynAck) -> bool {
    req.snt_synack.store(0, Release);
    let sent = rtx(listener, req);
    if sent {
        req.num_retrans.fetch_add(1, AcqRel);
    }
    sent
}

/// The SYN came again and was answered: the next repetition of our own waits its time from now (`tcp_check_req`).
pub fn reqsk_timer_put_off(req: &RequestSock) {
    if let Some(t) = req.rsk_timer.get() {
        let n = req.num_timeout.load(Relaxed).min(10);
        t.mod_timer_in((TCP_TIMEOUT_INIT << n).min(TCP_RTO_MAX));
    }
}

/// Forgets a request; `false` if somebody else has (`inet_csk_reqsk_queue_drop`). Any context.
pub fn inet_csk_reqsk_queue_drop(net: &Arc<Net>, req: &Arc<RequestSock>) -> bool {
    let unlinked = reqsk_unhash(net, req);
    if unlinked {
        reqsk_queue_removed(req);
    }
    unlinked
}

/// The request's child has taken its place (or it was dropped): its timer stops, and its listener no longer counts it.
pub fn reqsk_queue_removed(req: &RequestSock) {
    if let Some(t) = req.rsk_timer.get() {
        t.del_timer();
    }
    if let Some(l) = req.listener.upgrade() {
        inet_csk(&l).accept_queue.removed(req);
    }
}

/// What a child's socket inherits from its listener.
const INHERITED: SockFlags = SockFlags::URGINLINE
    .union(SockFlags::KEEPOPEN)
    .union(SockFlags::LINGER)
    .union(SockFlags::BROADCAST)
    .union(SockFlags::RCVTSTAMP)
    .union(SockFlags::RCVTSTAMPNS)
    .union(SockFlags::TSTAMP_NEW)
    .union(SockFlags::LOCALROUTE)
    .union(SockFlags::ZEROCOPY)
    .union(SockFlags::REUSEADDR)
    .union(SockFlags::REUSEPORT)
    .union(SockFlags::SNDBUF_LOCK)
    .union(SockFlags::RCVBUF_LOCK)
    .union(SockFlags::FREEBIND)
    .union(SockFlags::TRANSPARENT)
    .union(SockFlags::V6ONLY)
    .union(SockFlags::CMSG)
    .union(SockFlags::RECVERR);

/// A child of the listener for a request: a new socket with its options, in state `SYN_RECV`, found by nobody yet. The
/// transport's state is the caller's to fill, under the child's lock.
pub fn inet_csk_clone_lock(listener: &Arc<Sock>, req: &RequestSock) -> Result<Arc<Sock>> {
    let child = Sock::alloc(&listener.net, listener.family, listener.kind, listener.protocol, listener.prot)?;
    child.copy_flags(listener, INHERITED);
    child.rcvbuf.store(listener.rcvbuf.load(Relaxed), Relaxed);
    child.sndbuf.store(listener.sndbuf.load(Relaxed), Relaxed);
    child.rcvlowat.store(listener.rcvlowat.load(Relaxed), Relaxed);
    child.rare.inherit(&listener.rare);
    child.rare.set_mark(req.mark);
    child.bound_dev_if.store(req.bound_dev_if, Relaxed);
    child.traced.store(req.traced || listener.traced.load(Relaxed), Relaxed);
    child.set_state(TcpState::SynRecv);
    Ok(child)
}

#[cfg(test)]
mod tests;
