//! TCP: sending, and what a socket is ready for.
//!
//! Interface: [`tcp_sendmsg`], [`tcp_sendmsg_fastopen`], [`tcp_poll`], [`tcp_ioctl`].
//! Linux counterpart: `net/ipv4/tcp.c`. Receiving is in `tcp_recv`, closing in `tcp_close`, options in `tcp_sockopt`.
//! Locks and context: process context, socket lock.

use super::inet_hashtables::inet_csk_has_errors;
use super::tcp_cong::tcp_slow_start_after_idle_check;
use super::tcp_fastopen::{fastopen_rsk, tcp_passive_fastopen};
use super::tcp_fastopen_client::{tcp_fastopen_begin, tcp_fastopen_end};
use super::tcp_mem::*;
use super::tcp_output::*;
use super::tcp_queue::*;
use super::tcp_rate::tcp_rate_check_app_limited;
use super::tcp_sock::*;
use super::tcp_state::tcp_set_state;
use super::tcp_tsq::{tcp_throttle, tcp_throttled};
use super::tcp_tx_notify::{tcp_tx_timestamp, tcp_zerocopy_sent, tcp_zerocopy_wanted};
use crate::core::iov_iter::MsgHdr;
use crate::core::skbuff::{GSO_MAX_SIZE, SKB_OVERHEAD};
use crate::core::snmp::Mib;
use crate::core::sock::{ProtoSock, RCV_SHUTDOWN, SEND_SHUTDOWN, SHUTDOWN_MASK, Sock, SockFlags};
use crate::hdr::tcp_flag;
use kernel::{PageMut, Wait, tp};
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::task::Poll;
use uapi::poll::Poll as PollMask;
use uapi::socket::{MSG_DONTWAIT, MSG_EOR, MSG_MORE, MSG_OOB};
use uapi::tcp::TcpState;
use uapi::{Errno, Result};

/// Bytes of a page that the stream is copied into.
const TX_PAGE: usize = 32 * 1024;

/// What an interrupted call answers (`sock_intr_errno`): without a deadline it can be restarted.
pub fn sock_intr_errno(wait: &Wait) -> Errno {
    if wait.deadline().is_some() { Errno::EINTR } else { Errno::ERESTARTSYS }
}

/// Why the writer cannot go on at the moment.
enum Stop {
    /// Everything is queued.
    Done,
    /// No room; the caller waits.
    Full,
    Error(Errno),
}

/// `sendmsg(2)`. `EPIPE` when the connection is shut down for sending, the connection's error once, `EAGAIN` when it would
/// block. Bytes are copied once, into page fragments that travel to the peer (`tcp_sendmsg`).
pub fn tcp_sendmsg(sk: &Arc<Sock>, msg: &mut MsgHdr<'_>, wait: &mut Wait) -> Poll<Result<usize>> {
    tp!(tcp_sendmsg, sk);
    let nonblock = msg.flags & MSG_DONTWAIT != 0;
    let now = || sk.net.kernel().ktime_get();
    let waited = wait.has_started();
    wait.set_timeout(now, sk.sndtimeo(nonblock));
    let mut guard = sk.lock_sock();
    if !waited {
        // Who has waited for room is not what limits the connection.
        tcp_rate_check_app_limited(sk, tcp_sk(&mut *guard));
    }
    let zerocopy = match tcp_zerocopy_wanted(sk, tcp_sk(&mut *guard), msg) {
        Ok(yes) => yes,
        Err(e) => return Poll::Ready(Err(e)),
    };
    let stop = loop {
        if !sk.state().is_in(TCPF_SEND) && !tcp_passive_fastopen(sk, tcp_sk(&mut *guard)) {
            break match not_connected(sk) {
                Some(e) => Stop::Error(e),
                None => Stop::Full,
            };
        }
        match tcp_send_some(sk, tcp_sk(&mut *guard), msg, zerocopy) {
            // A full packet went out; ACKs for it may wait in the backlog.
            None => guard.flush_backlog(),
            Some(stop) => break stop,
        }
    };
    let e = match stop {
        Stop::Done => {
            if zerocopy {
                tcp_zerocopy_sent(sk, tcp_sk(&mut *guard));
            }
            drop(guard);
            wait.finish_wait();
            return Poll::Ready(Ok(msg.done));
        }
        Stop::Error(e) => e,
        Stop::Full if wait.timed_out(now) => Errno::EAGAIN,
        Stop::Full if wait.signal_pending() => sock_intr_errno(wait),
        Stop::Full => {
            // Whoever makes room does so under the lock that we hold.
            wait.prepare_to_wait(&sk.wq);
            drop(guard);
            return Poll::Pending;
        }
    };
    if msg.done > 0 {
        let tp = tcp_sk(&mut *guard);
        tcp_tx_timestamp(tp);
        if zerocopy {
            tcp_zerocopy_sent(sk, tp);
        }
    }
    drop(guard);
    wait.finish_wait();
    Poll::Ready(if msg.done > 0 { Ok(msg.done) } else { Err(e) })
}

/// The message opens the connection, with as much of it in the SYN as may be (RFC 7413; `tcp_sendmsg_fastopen`). The SYN goes
/// out now if `connect` has left that to us; else the caller connects. Socket lock held.
pub fn tcp_sendmsg_fastopen(sk: &Arc<Sock>, state: &mut dyn ProtoSock, msg: &MsgHdr<'_>) -> Result<()> {
    tcp_fastopen_begin(sk, state, msg)?;
    let tp = tcp_sk(state);
    if !sk.flag(SockFlags::DEFER_CONNECT) {
        return Ok(());
    }
    tcp_connect(sk, tp).inspect_err(|_| {
        tcp_set_state(sk, tp, TcpState::Close);
        tp.inet.dport = 0;
        tcp_fastopen_end(sk, tp, Ok(()));
    })
}

/// Why a socket that is not connected cannot send; `None` if it is about to be (`sk_stream_wait_connect`).
fn not_connected(sk: &Sock) -> Option<Errno> {
    if let Err(e) = sk.take_error() {
        return Some(e);
    }
    (!matches!(sk.state(), TcpState::SynSent | TcpState::SynRecv)).then_some(Errno::EPIPE)
}

/// `tcp_xmit_size_goal`: bytes of the largest packet worth building; a multiple of the MSS.
fn tcp_xmit_size_goal(tp: &mut TcpSock, mss: u32, oob: bool) -> u32 {
    if oob {
        return mss;
    }
    let most = tcp_bound_to_half_wnd(tp, GSO_MAX_SIZE as u32 - 1 - 320);
    let goal = tp.gso_segs as u32 * mss;
    if most < goal || most >= goal + mss {
        tp.gso_segs = (most / mss).clamp(1, u16::MAX as u32) as u16;
    }
    (tp.gso_segs as u32 * mss).max(mss)
}

/// Half of the largest window is unpushed (`forced_push`).
fn forced_push(tp: &TcpSock) -> bool {
    after(tp.write_seq, tp.pushed_seq.wrapping_add(tp.max_window >> 1))
}

/// `tcp_mark_push`: the last piece carries PSH.
fn tcp_mark_push(tp: &mut TcpSock) {
    if let Some(s) = tp.tx.write_back_mut() {
        s.tcp_flags |= tcp_flag::PSH;
    }
    tp.pushed_seq = tp.write_seq;
}

/// Queues message bytes until a packet is full, the message ends, or there is no room. `None`: go on.
fn tcp_send_some(sk: &Arc<Sock>, tp: &mut TcpSock, msg: &mut MsgHdr<'_>, zerocopy: bool) -> Option<Stop> {
    let mss = tcp_current_mss(sk, tp);
    let goal = tcp_xmit_size_goal(tp, mss, msg.flags & MSG_OOB != 0);
    if sk.err().is_some() || sk.shutdown() & SEND_SHUTDOWN != 0 {
        tcp_push(sk, tp, msg.flags, mss, goal);
        let e = if msg.done > 0 { None } else { sk.take_error().err() };
        return Some(Stop::Error(e.unwrap_or(Errno::EPIPE)));
    }
    loop {
        let left = msg.iter.count();
        if left == 0 {
            if msg.done > 0 {
                if msg.flags & MSG_EOR != 0
                    && let Some(s) = tp.tx.write_back_mut()
                {
                    s.eor = true;
                }
                tcp_tx_timestamp(tp);
                tcp_push(sk, tp, msg.flags, mss, goal);
            }
            return Some(Stop::Done);
        }
        let room = tp.tx.write_back().filter(|s| !s.eor).map_or(0, |s| goal.saturating_sub(s.len));
        if room == 0 {
            if tcp_sndbuf_full(sk, tp) {
                return Some(tcp_wait_for_space(sk, tp, msg, mss, goal));
            }
            tcp_skb_entail(sk, tp);
            continue;
        }
        // With zero-copy each buffer of the caller's is a fragment of its own.
        let left = if zerocopy { msg.iter.first_len() } else { left };
        let room = tcp_wmem_schedule(sk, tp, (room as usize).min(left));
        if room == 0 {
            tcp_remove_empty_skb(sk, tp);
            return Some(tcp_wait_for_space(sk, tp, msg, mss, goal));
        }
        let n = tcp_fill(sk, tp, msg, room, left, zerocopy);
        if n == 0 {
            // No room for another fragment.
            tcp_mark_push(tp);
            tcp_skb_entail(sk, tp);
            continue;
        }
        let len = tp.tx.write_back().map_or(0, |s| s.len);
        if len < goal || msg.flags & MSG_OOB != 0 || msg.iter.count() == 0 {
            continue;
        }
        if forced_push(tp) {
            tcp_mark_push(tp);
            __tcp_push_pending_frames(sk, tp, mss, TCP_NAGLE_PUSH);
        } else if tp.tx.send_head_is_last() {
            tcp_push_one(sk, tp, mss);
        }
        return None;
    }
}

/// Sends what there is, and has the writer wait: for his own buffer, or for others' memory.
fn tcp_wait_for_space(sk: &Arc<Sock>, tp: &mut TcpSock, msg: &MsgHdr<'_>, mss: u32, goal: u32) -> Stop {
    sk.set_flag(SockFlags::NOSPACE, true);
    if msg.done > 0 {
        // The push may go all the way and come back.
        tcp_push_with(sk, tp, msg.flags & !MSG_MORE, mss, goal, TCP_NAGLE_PUSH);
    }
    Stop::Full
}

/// `tcp_remove_empty_skb`.
fn tcp_remove_empty_skb(sk: &Sock, tp: &mut TcpSock) {
    if tp.tx.write_back().is_some_and(|s| s.seq == s.end_seq)
        && let Some(s) = tp.tx.pop_write_back()
    {
        sk.wmem_queued.fetch_sub(s.truesize as usize, AcqRel);
    }
}

/// A new piece at the end of the stream (`tcp_skb_entail`).
fn tcp_skb_entail(sk: &Sock, tp: &mut TcpSock) {
    let s = TxSkb {
        seq: tp.write_seq,
        end_seq: tp.write_seq,
        tcp_flags: tcp_flag::ACK,
        truesize: TX_SKB_OVERHEAD,
        ..TxSkb::default()
    };
    sk.wmem_queued.fetch_add(TX_SKB_OVERHEAD as usize, AcqRel);
    tcp_slow_start_after_idle_check(sk, tp);
    tp.nonagle &= !TCP_NAGLE_PUSH;
    tp.tx.push_back(Box::new(s));
}

/// Puts up to `room` bytes of the message into the last piece; how many. 0: it takes no more fragments.
fn tcp_fill(sk: &Sock, tp: &mut TcpSock, msg: &mut MsgHdr<'_>, room: usize, left: usize, apart: bool) -> usize {
    let Some(s) = tp.tx.write_back_mut() else { return 0 };
    let frag = if msg.iter.has_frags() {
        if s.frags.len() >= MAX_TX_FRAGS {
            return 0;
        }
        match msg.iter.take_frag(room) {
            Some(f) => f,
            None => return 0,
        }
    } else {
        if tp.frag.as_ref().is_none_or(|p| p.is_empty()) {
            tp.frag = Some(PageMut::alloc(left.min(TX_PAGE)));
        }
        let Some(page) = tp.frag.as_mut() else { return 0 };
        if s.frags.len() >= MAX_TX_FRAGS {
            return 0;
        }
        let n = room.min(page.len()).min(left);
        let got = msg.iter.copy_from(&mut page.as_mut_slice()[..n]);
        s.copies = 1;
        page.freeze(got)
    };
    let n = frag.len();
    if n == 0 || !(if apart { s.add_frag_apart(frag) } else { s.add_frag(frag) }) {
        return 0;
    }
    if msg.done == 0 {
        s.tcp_flags &= !tcp_flag::PSH;
    }
    s.end_seq = s.end_seq.wrapping_add(n as u32);
    // Counted anew when it is sent.
    s.gso_segs = 0;
    tp.write_seq = tp.write_seq.wrapping_add(n as u32);
    sk.wmem_queued.fetch_add(n, AcqRel);
    msg.done += n;
    n
}

fn tcp_push(sk: &Arc<Sock>, tp: &mut TcpSock, flags: i32, mss: u32, goal: u32) {
    let nonagle = tp.nonagle;
    tcp_push_with(sk, tp, flags, mss, goal, nonagle);
}

/// Sends what was queued, unless more is announced (`tcp_push`).
fn tcp_push_with(sk: &Arc<Sock>, tp: &mut TcpSock, flags: i32, mss: u32, goal: u32, nonagle: u8) {
    let Some((len, truesize)) = tp.tx.write_back().map(|s| (s.len, s.truesize as usize)) else { return };
    if flags & MSG_MORE == 0 || forced_push(tp) {
        tcp_mark_push(tp);
    }
    if flags & MSG_OOB != 0 {
        tp.snd_up = tp.write_seq;
    }
    // `tcp_should_autocork`: while an earlier packet, as large at least, waits in the device, more may join this one.
    let weight = truesize + (SKB_OVERHEAD + 512 - TX_SKB_OVERHEAD) as usize;
    if len < goal
        && !tp.tx.rtx_is_empty()
        && sk.wmem_alloc.load(Acquire) >= weight
        && sk.net.sysctl.tcp_autocorking.on()
    {
        if !tcp_throttled(sk) {
            sk.net.mib.inc(Mib::TcpExtTCPAutoCorking);
        }
        if tcp_throttle(sk, weight - 1) {
            return;
        }
    }
    let nonagle = if flags & MSG_MORE != 0 { TCP_NAGLE_CORK } else { nonagle };
    __tcp_push_pending_frames(sk, tp, mss, nonagle);
}

// --- Readiness ---

/// Whether `target` bytes can be read, or as much as can come (`tcp_stream_is_readable`).
pub fn tcp_stream_is_readable(sk: &Sock, tp: &TcpSock, target: u32) -> bool {
    let avail = tp.rcv_nxt.wrapping_sub(tp.copied_seq) as i32;
    if avail <= 0 || tp.receive_queue.is_empty() {
        return false;
    }
    avail as u32 >= target
        || sk.rmem_alloc.load(Relaxed) > sk.rcvbuf.load(Relaxed) as usize
        || tp.receive_window() <= tp.icsk_ack.rcv_mss as u32
}

/// `tcp_poll`. Process context; takes the socket lock.
pub fn tcp_poll(sk: &Arc<Sock>) -> PollMask {
    let state = sk.state();
    if state == TcpState::Listen {
        let some = sk.rare.ack_backlog() > 0;
        return if some { PollMask::IN | PollMask::RDNORM } else { PollMask::empty() };
    }
    let mut mask = PollMask::empty();
    let mut guard = sk.lock_sock();
    let tp = tcp_sk(&mut *guard);
    let (state, shutdown) = (sk.state(), sk.shutdown());
    if shutdown == SHUTDOWN_MASK || state == TcpState::Close {
        mask |= PollMask::HUP;
    }
    if shutdown & RCV_SHUTDOWN != 0 {
        mask |= PollMask::IN | PollMask::RDNORM | PollMask::RDHUP;
    }
    if state != TcpState::SynSent && (state != TcpState::SynRecv || fastopen_rsk(tp).is_some()) {
        let mut target = sk.rcvlowat.load(Relaxed).max(1);
        if tp.urg_data != 0 && tp.rare.urg_seq == tp.copied_seq && !sk.flag(SockFlags::URGINLINE) {
            target += 1;
        }
        if tcp_stream_is_readable(sk, tp, target) {
            mask |= PollMask::IN | PollMask::RDNORM;
        }
        if shutdown & SEND_SHUTDOWN != 0 || tcp_stream_is_writeable(sk, tp) {
            mask |= PollMask::OUT | PollMask::WRNORM;
        } else {
            sk.set_flag(SockFlags::NOSPACE, true);
        }
        if tp.urg_data & TCP_URG_VALID != 0 {
            mask |= PollMask::PRI;
        }
    } else if state == TcpState::SynSent && sk.flag(SockFlags::DEFER_CONNECT) {
        // A write will open the connection.
        mask |= PollMask::OUT | PollMask::WRNORM;
    }
    if sk.err().is_some() || inet_csk_has_errors(sk) {
        mask |= PollMask::ERR;
    }
    mask
}

const SIOCINQ: u32 = 0x541b;
const SIOCOUTQ: u32 = 0x5411;
const SIOCATMARK: u32 = 0x8905;
const SIOCOUTQNSD: u32 = 0x894b;

/// `SIOCINQ`, `SIOCOUTQ`, `SIOCOUTQNSD`, `SIOCATMARK`. `EINVAL` for a listener (`tcp_ioctl`).
pub fn tcp_ioctl(sk: &Arc<Sock>, cmd: u32) -> Result<i32> {
    if !matches!(cmd, SIOCINQ | SIOCOUTQ | SIOCATMARK | SIOCOUTQNSD) {
        return Err(Errno::ENOIOCTLCMD);
    }
    let mut guard = sk.lock_sock();
    let tp = tcp_sk(&mut *guard);
    if cmd == SIOCATMARK {
        return Ok((tp.urg_data != 0 && tp.rare.urg_seq == tp.copied_seq) as i32);
    }
    if sk.state() == TcpState::Listen {
        return Err(Errno::EINVAL);
    }
    let unconnected = matches!(sk.state(), TcpState::SynSent | TcpState::SynRecv);
    Ok(match cmd {
        SIOCINQ => tcp_inq(sk, tp) as i32,
        _ if unconnected => 0,
        SIOCOUTQ => tcp_outq(tp) as i32,
        _ => tp.write_seq.wrapping_sub(tp.snd_nxt) as i32,
    })
}

/// Bytes that a read would give now (`tcp_inq`).
pub fn tcp_inq(sk: &Sock, tp: &TcpSock) -> u32 {
    if matches!(sk.state(), TcpState::SynSent | TcpState::SynRecv) {
        return 0;
    }
    let urgent_ahead = tp.urg_data != 0
        && !sk.flag(SockFlags::URGINLINE)
        && !before(tp.rare.urg_seq, tp.copied_seq)
        && before(tp.rare.urg_seq, tp.rcv_nxt);
    if urgent_ahead {
        return tp.rare.urg_seq.wrapping_sub(tp.copied_seq);
    }
    let answ = tp.rcv_nxt.wrapping_sub(tp.copied_seq);
    // The FIN is no byte.
    if answ > 0 && sk.flag(SockFlags::DONE) { answ - 1 } else { answ }
}
