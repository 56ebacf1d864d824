//! TCP: receiving.
//!
//! Interface: [`tcp_recvmsg`], [`tcp_splice_read`], [`tcp_cleanup_rbuf`].
//! Linux counterpart: `tcp_recvmsg_locked` and around it in `net/ipv4/tcp.c`.
//! Locks and context: process context, socket lock.

use super::inet_hashtables::inet_csk;
use super::tcp::sock_intr_errno;
use super::tcp_mem::tcp_mem_reclaim;
use super::tcp_output::*;
use super::tcp_queue::*;
use super::tcp_rcvq::tcp_rcv_space_adjust;
use super::tcp_sock::*;
use crate::core::iov_iter::{CMsg, IovIter, MsgHdr};
use crate::core::skbuff::Skb;
use crate::core::sock::{RCV_SHUTDOWN, Sock, SockFlags};
use kernel::{Wait, tp};
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};
use std::task::Poll;
use uapi::socket::{IPPROTO_TCP, MSG_DONTWAIT, MSG_ERRQUEUE, MSG_OOB, MSG_PEEK, MSG_TRUNC, MSG_WAITALL};
use uapi::tcp::{TCP_INQ, TcpState};
use uapi::{Errno, Result};

/// The window has grown by reading: tell the peer, if it is worth a segment, and send an ACK that is overdue
/// (`__tcp_cleanup_rbuf`).
pub fn tcp_cleanup_rbuf(sk: &Arc<Sock>, tp: &mut TcpSock, copied: usize) {
    let a = tp.icsk_ack;
    let mut time_to_ack = false;
    if a.pending & ICSK_ACK_SCHED != 0 {
        let pushed =
            a.pending & ICSK_ACK_PUSHED2 != 0 || (a.pending & ICSK_ACK_PUSHED != 0 && !tp.in_pingpong_mode(sk));
        time_to_ack = tp.rcv_nxt.wrapping_sub(tp.rcv_wup) > a.rcv_mss as u32
            || (copied > 0 && pushed && sk.rmem_alloc.load(Relaxed) == 0);
    }
    if copied > 0 && !time_to_ack && sk.shutdown() & RCV_SHUTDOWN == 0 {
        let now = tp.receive_window();
        if 2 * now as u64 <= tp.window_clamp as u64 {
            let new = __tcp_select_window(sk, tp);
            time_to_ack = new != 0 && new >= 2 * now;
        }
    }
    if time_to_ack {
        tp.mstamp_refresh(sk);
        tcp_send_ack(sk, tp);
    }
}

/// `recvmsg(2)`: 0 at the end of the stream. `ENOTCONN`, the connection's error once, `EAGAIN`, `EINVAL` for `MSG_OOB`
/// without urgent data (`tcp_recvmsg`).
pub fn tcp_recvmsg(sk: &Arc<Sock>, msg: &mut MsgHdr<'_>, flags: i32, wait: &mut Wait) -> Poll<Result<usize>> {
    tp!(tcp_recvmsg, sk);
    if flags & MSG_ERRQUEUE != 0 {
        return Poll::Ready(inet_csk(sk).errq.recv(sk, msg));
    }
    let now = || sk.net.kernel().ktime_get();
    wait.set_timeout(now, sk.rcvtimeo(flags & MSG_DONTWAIT != 0));
    let mut guard = sk.lock_sock();
    if sk.state() == TcpState::Listen {
        return Poll::Ready(Err(Errno::ENOTCONN));
    }
    if flags & MSG_OOB != 0 {
        return Poll::Ready(tcp_recv_urg(sk, tcp_sk(&mut *guard), msg, flags));
    }
    // What is thrown away does not use up the message's room.
    let total = if flags & MSG_TRUNC != 0 { msg.iter.count() } else { msg.done + msg.iter.count() };
    let lowat = sk.rcvlowat.load(Relaxed).max(1) as usize;
    let tp = tcp_sk(&mut *guard);
    // Who wants no bytes waits like the others for there to be some (`sock_rcvlowat`).
    let target = match total {
        0 if tp.receive_queue.is_empty() => usize::MAX,
        _ if flags & MSG_WAITALL != 0 => total,
        _ => lowat.min(total),
    };
    let before = msg.done;
    let at_mark = tcp_take(sk, tp, msg, flags, total);
    if flags & MSG_PEEK == 0 {
        tcp_cleanup_rbuf(sk, tp, msg.done - before);
    }
    let answer = match at_end(sk, msg.done, target, at_mark) {
        Some(r) => r,
        None if wait.timed_out(now) => Err(Errno::EAGAIN),
        None if wait.signal_pending() => Err(sock_intr_errno(wait)),
        None => {
            // `sk_wait_data`: all that comes is queued under the lock that we hold, or lies in the backlog, and wakes us.
            tp!(sk_wait_data, sk);
            wait.prepare_to_wait(&sk.wq);
            return Poll::Pending;
        }
    };
    let answer = if msg.done > 0 { Ok(msg.done) } else { answer };
    if tp.rare.opts.recvmsg_inq && answer.is_ok() {
        put_inq(sk, tp, msg);
    }
    drop(guard);
    wait.finish_wait();
    Poll::Ready(answer)
}

/// `splice(2)` out of a connection: what is there, and never an urgent byte: before one it ends, at one it answers 0, without
/// waiting (`tcp_splice_read`, `tcp_read_sock`).
pub fn tcp_splice_read(sk: &Arc<Sock>, msg: &mut MsgHdr<'_>, flags: i32, wait: &mut Wait) -> Poll<Result<usize>> {
    let now = || sk.net.kernel().ktime_get();
    wait.set_timeout(now, sk.rcvtimeo(flags & MSG_DONTWAIT != 0));
    let mut guard = sk.lock_sock();
    let tp = tcp_sk(&mut *guard);
    let mut most = msg.iter.count();
    if tp.urg_data != 0 {
        most = most.min(tp.rare.urg_seq.wrapping_sub(tp.copied_seq) as usize);
    }
    let before = msg.done;
    tcp_take(sk, tp, msg, 0, before + most);
    let taken = msg.done - before;
    let answer = if taken > 0 {
        tcp_cleanup_rbuf(sk, tp, taken);
        Ok(taken)
    } else if let Some(r) = at_end(sk, 0, usize::MAX, false) {
        r
    } else if wait.timed_out(now) {
        Err(Errno::EAGAIN)
    } else if !tp.receive_queue.is_empty() {
        Ok(0)
    } else if wait.signal_pending() {
        Err(sock_intr_errno(wait))
    } else {
        wait.prepare_to_wait(&sk.wq);
        return Poll::Pending;
    };
    drop(guard);
    wait.finish_wait();
    Poll::Ready(answer)
}

/// `TCP_CM_INQ`: how much is left to be read; at the end of the stream 1, so that the reader comes once more
/// (`tcp_inq_hint`).
#[cold]
fn put_inq(sk: &Sock, tp: &TcpSock, msg: &mut MsgHdr<'_>) {
    let left = tp.rcv_nxt.wrapping_sub(tp.copied_seq) as i32;
    let inq = if left == 0 && sk.flag(SockFlags::DONE) { 1 } else { left };
    msg.control.push(CMsg { level: IPPROTO_TCP, kind: TCP_INQ, data: inq.to_ne_bytes().to_vec() });
}

/// Whether the call is over, and what it answers if nothing was read.
fn at_end(sk: &Sock, done: usize, target: usize, at_mark: bool) -> Option<Result<usize>> {
    if done >= target || (at_mark && done > 0) {
        return Some(Ok(done));
    }
    let closed = sk.state() == TcpState::Close;
    let shut = sk.shutdown() & RCV_SHUTDOWN != 0;
    if done > 0 {
        return (sk.err().is_some() || closed || shut).then_some(Ok(done));
    }
    if sk.flag(SockFlags::DONE) {
        return Some(Ok(0));
    }
    if let Err(e) = sk.take_error() {
        return Some(Err(e));
    }
    if shut {
        return Some(Ok(0));
    }
    // Never connected: reading makes no sense.
    closed.then_some(Err(Errno::ENOTCONN))
}

/// Moves what is there to the message. `true`: it stopped before an urgent byte.
fn tcp_take(sk: &Arc<Sock>, tp: &mut TcpSock, msg: &mut MsgHdr<'_>, flags: i32, total: usize) -> bool {
    let peek = flags & MSG_PEEK != 0;
    let mut seq = if peek { tp.copied_seq.wrapping_add(msg.done as u32) } else { tp.copied_seq };
    let mut i = 0;
    let mut took = false;
    let mut at_mark = false;
    while msg.done < total {
        if tp.urg_data != 0 && tp.rare.urg_seq == seq && msg.done > 0 {
            at_mark = true;
            break;
        }
        let Some(skb) = tp.receive_queue.get(i) else { break };
        let offset = seq.wrapping_sub(tcp_skb_cb(skb).seq) as usize;
        let mut avail = skb.len().saturating_sub(offset).min(total - msg.done);
        let mut hole = 0;
        if tp.urg_data != 0 {
            let ahead = tp.rare.urg_seq.wrapping_sub(seq) as usize;
            if ahead < avail {
                if ahead > 0 {
                    avail = ahead;
                } else if !sk.flag(SockFlags::URGINLINE) {
                    hole = 1;
                    avail -= 1;
                }
            }
        }
        let used = if flags & MSG_TRUNC != 0 { avail } else { copy_skb(skb, offset + hole, avail, &mut msg.iter) };
        let finished = offset + hole + used >= skb.len();
        msg.done += used;
        seq = seq.wrapping_add((used + hole) as u32);
        took |= used + hole > 0;
        if !peek {
            tp.copied_seq = seq;
            if tp.urg_data != 0 && after(tp.copied_seq, tp.rare.urg_seq) {
                tp.urg_data = 0;
            }
            if finished && let Some(gone) = tp.receive_queue.pop_front() {
                sk.rmem_alloc.fetch_sub(gone.truesize as usize, AcqRel);
            }
        } else if finished {
            i += 1;
        }
        if used < avail || (used + hole == 0 && !finished) {
            break;
        }
    }
    if !peek && took {
        tcp_rcv_space_adjust(sk, tp);
        tcp_mem_reclaim(sk, tp);
    }
    if !peek && tp.receive_queue.is_empty() && sk.flag(SockFlags::DONE) && tp.copied_seq.wrapping_add(1) == tp.rcv_nxt {
        // The FIN has been read over.
        tp.copied_seq = tp.rcv_nxt;
    }
    at_mark
}

/// Copies, or hands over, part of a packet's payload.
fn copy_skb(skb: &Skb, from: usize, len: usize, to: &mut IovIter<'_>) -> usize {
    let (mut skip, mut left, mut done) = (from, len, 0);
    let head = skb.data();
    if skip < head.len() && left > 0 {
        let n = left.min(head.len() - skip);
        let got = to.copy_to(&head[skip..skip + n]);
        done += got;
        left -= got;
        if got < n {
            return done;
        }
        skip = 0;
    } else {
        skip -= head.len().min(skip);
    }
    for f in skb.frags() {
        if left == 0 {
            break;
        }
        if skip >= f.len() {
            skip -= f.len();
            continue;
        }
        let n = left.min(f.len() - skip);
        let got = if skip == 0 && n == f.len() { to.copy_frag_to(f) } else { to.copy_frag_to(&f.slice(skip, n)) };
        done += got;
        left -= got;
        skip = 0;
        if got < n {
            break;
        }
    }
    done
}

/// `MSG_OOB`: the urgent byte (`tcp_recv_urg`).
fn tcp_recv_urg(sk: &Sock, tp: &mut TcpSock, msg: &mut MsgHdr<'_>, flags: i32) -> Result<usize> {
    if sk.flag(SockFlags::URGINLINE) || tp.urg_data == 0 || tp.urg_data == TCP_URG_READ {
        return Err(Errno::EINVAL);
    }
    if sk.state() == TcpState::Close && !sk.flag(SockFlags::DONE) {
        return Err(Errno::ENOTCONN);
    }
    if tp.urg_data & TCP_URG_VALID != 0 {
        let byte = [tp.urg_data as u8];
        if flags & MSG_PEEK == 0 {
            tp.urg_data = TCP_URG_READ;
        }
        msg.flags |= MSG_OOB;
        if msg.iter.count() == 0 {
            msg.flags |= MSG_TRUNC;
            return Ok(0);
        }
        return Ok(if flags & MSG_TRUNC == 0 { msg.iter.copy_to(&byte) } else { 1 });
    }
    if sk.state() == TcpState::Close || sk.shutdown() & RCV_SHUTDOWN != 0 {
        return Ok(0);
    }
    // Announced, not here yet. Nobody waits for urgent data.
    Err(Errno::EAGAIN)
}
