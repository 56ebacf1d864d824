//! TCP: the end of a connection as the process asks for it.
//!
//! Interface: [`tcp_close`], [`tcp_shutdown`], [`tcp_disconnect`].
//! Linux counterpart: `tcp_close`, `tcp_shutdown`, `tcp_disconnect` in `net/ipv4/tcp.c`.
//! Locks and context: process context, socket lock.

use super::inet_connection_sock::inet_csk_listen_stop;
use super::inet_csk_timers::*;
use super::inet_hashtables::tcp_hashinfo;
use super::tcp_cong::tcp_cleanup_congestion_control;
use super::tcp_fastopen::reqsk_fastopen_remove;
use super::tcp_input::tcp_fin_time;
use super::tcp_minisocks::tcp_time_wait;
use super::tcp_output::*;
use super::tcp_sock::*;
use super::tcp_state::*;
use crate::core::skbuff::Skb;
use crate::core::snmp::Mib;
use crate::core::sock::{ProtoSock, SEND_SHUTDOWN, SHUTDOWN_MASK, Sock, SockFlags};
use crate::hdr::tcp_flag;
use kernel::{Wait, tp};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering::AcqRel;
use std::task::Poll;
use uapi::tcp::TcpState;
use uapi::{Errno, Result};

/// The process has nothing more to send: the next state, and whether a FIN is due (RFC 9293, 3.10.4; `tcp_close_state`).
fn tcp_close_state(sk: &Arc<Sock>, tp: &mut TcpSock) -> bool {
    use TcpState::*;
    let (next, fin) = match sk.state() {
        Established | SynRecv => (FinWait1, true),
        CloseWait => (LastAck, true),
        SynSent | Listen | Close | TimeWait | NewSynRecv => (Close, false),
        s @ (FinWait1 | FinWait2 | LastAck | Closing) => (s, false),
    };
    tcp_set_state(sk, tp, next);
    fin
}

/// `shutdown(2)` for sending: the FIN goes out behind the data (`tcp_shutdown`).
pub fn tcp_shutdown(sk: &Arc<Sock>, state: &mut dyn ProtoSock, how: u8) {
    let tp = tcp_sk(state);
    if how & SEND_SHUTDOWN == 0 {
        return;
    }
    let can = TcpState::Established.flag() | TcpState::SynSent.flag() | TcpState::CloseWait.flag();
    if sk.state().is_in(can) && tcp_close_state(sk, tp) {
        tcp_send_fin(sk, tp);
    }
}

/// `close(2)`. The connection lives on without the process until both sides have closed (`tcp_close`).
pub fn tcp_close(sk: &Arc<Sock>) {
    tp!(tcp_close, sk);
    let mut guard = sk.lock_sock();
    let tp = tcp_sk(&mut *guard);
    sk.set_shutdown(SHUTDOWN_MASK);
    if sk.state() == TcpState::Listen {
        tcp_set_state(sk, tp, TcpState::Close);
        inet_csk_listen_stop(sk);
    } else {
        tcp_close_connection(sk, tp);
    }
    let was = sk.state();
    // `sock_orphan`.
    sk.set_flag(SockFlags::DEAD, true);
    if !std::mem::replace(&mut tp.orphan, true) {
        tcp_hashinfo(&sk.net).orphan_count.fetch_add(1, AcqRel);
    }
    if was == TcpState::Close {
        inet_csk_destroy_sock(sk, tp);
    }
    // Runs the backlog, which may already end it.
    drop(guard);
    if was != TcpState::Close {
        let mut guard = sk.lock_sock();
        tcp_adjudge_to_death(sk, tcp_sk(&mut *guard));
    }
}

/// The FIN has not been acknowledged yet (`sk_stream_closing`).
const CLOSING: u32 = TcpState::FinWait1.flag() | TcpState::Closing.flag() | TcpState::LastAck.flag();

/// `close(2)` that lingers: the FIN goes out, and the caller waits for its acknowledgement (`sk_stream_wait_close`).
/// [`tcp_close`] follows.
pub fn tcp_linger(sk: &Arc<Sock>, wait: &mut Wait) -> Poll<()> {
    let timeout = sk.rare.lingertime();
    if timeout == 0 || sk.state() == TcpState::Listen {
        return Poll::Ready(());
    }
    let now = || sk.net.kernel().ktime_get();
    wait.set_timeout(now, Some(timeout));
    let mut guard = sk.lock_sock();
    if sk.shutdown() != SHUTDOWN_MASK || !sk.state().is_in(CLOSING) {
        sk.set_shutdown(SHUTDOWN_MASK);
        tcp_close_connection(sk, tcp_sk(&mut *guard));
        guard.flush_backlog();
    }
    if !sk.state().is_in(CLOSING) || wait.timed_out(now) || wait.signal_pending() {
        return Poll::Ready(());
    }
    // Every change of state is made under the lock that we hold.
    wait.prepare_to_wait(&sk.wq);
    Poll::Pending
}

/// A FIN, or a RST where the peer must know that its data was lost (RFC 2525, 2.17).
fn tcp_close_connection(sk: &Arc<Sock>, tp: &mut TcpSock) {
    // Beyond what was read, which an urgent byte may lie behind.
    let last = tp.receive_queue.back().map(tcp_last_byte);
    let unread = last.is_some_and(|end| after(end, tp.copied_seq));
    tcp_receive_queue_purge(sk, tp);
    if sk.state() == TcpState::Close {
        return;
    }
    tp.mstamp_refresh(sk);
    if unread {
        sk.net.mib.inc(Mib::TcpExtTCPAbortOnClose);
        tcp_set_state(sk, tp, TcpState::Close);
        tcp_send_active_reset(sk, tp);
    } else if sk.flag(SockFlags::LINGER) && sk.rare.lingertime() == 0 {
        let _ = disconnect(sk, tp);
        sk.net.mib.inc(Mib::TcpExtTCPAbortOnData);
    } else if tcp_close_state(sk, tp) {
        tcp_send_fin(sk, tp);
    }
}

/// The end of a packet's data, its FIN not counted.
fn tcp_last_byte(skb: &Skb) -> u32 {
    let cb = tcp_skb_cb(skb);
    cb.end_seq.wrapping_sub((cb.tcp_flags & tcp_flag::FIN != 0) as u32)
}

/// What becomes of a connection without a process.
fn tcp_adjudge_to_death(sk: &Arc<Sock>, tp: &mut TcpSock) {
    if sk.state() == TcpState::FinWait2 {
        if tp.rare.opts.linger2 < 0 {
            tcp_set_state(sk, tp, TcpState::Close);
            tcp_send_active_reset(sk, tp);
            sk.net.mib.inc(Mib::TcpExtTCPAbortOnLinger);
        } else {
            let tmo = tcp_fin_time(sk, tp);
            if tmo > TCP_TIMEWAIT_LEN {
                inet_csk_reset_keepalive_timer(sk, tp, tmo - TCP_TIMEWAIT_LEN);
            } else {
                tcp_time_wait(sk, tp, TcpState::FinWait2, tmo);
            }
            return;
        }
    }
    if sk.state() != TcpState::Close && tcp_check_oom(sk, 0) {
        tcp_set_state(sk, tp, TcpState::Close);
        tcp_send_active_reset(sk, tp);
        sk.net.mib.inc(Mib::TcpExtTCPAbortOnMemory);
    }
    if sk.state() == TcpState::Close {
        inet_csk_destroy_sock(sk, tp);
    }
}

/// Whether the peer must be told that the connection is gone (`tcp_need_reset`).
fn tcp_need_reset(s: TcpState) -> bool {
    use TcpState::*;
    matches!(s, Established | CloseWait | FinWait1 | FinWait2 | SynRecv)
}

/// `connect` to nowhere, or an abort: the socket is as new, but for its options and its port (`tcp_disconnect`).
pub fn tcp_disconnect(sk: &Arc<Sock>, state: &mut dyn ProtoSock) -> Result<()> {
    disconnect(sk, tcp_sk(state))
}

fn disconnect(sk: &Arc<Sock>, tp: &mut TcpSock) -> Result<()> {
    let old = sk.state();
    if old != TcpState::Close {
        tcp_set_state(sk, tp, TcpState::Close);
    }
    tp.mstamp_refresh(sk);
    if old == TcpState::Listen {
        inet_csk_listen_stop(sk);
    } else if tcp_need_reset(old)
        || (tp.snd_nxt != tp.write_seq && matches!(old, TcpState::Closing | TcpState::LastAck))
    {
        tcp_send_active_reset(sk, tp);
        sk.set_err(Errno::ECONNRESET);
    } else if old == TcpState::SynSent {
        sk.set_err(Errno::ECONNRESET);
    }
    sk.set_flag(SockFlags::DEFER_CONNECT, false);
    reqsk_fastopen_remove(tp, false);
    tcp_clear_xmit_timers(tp);
    tcp_receive_queue_purge(sk, tp);
    tcp_write_queue_purge(sk, tp);
    tcp_cleanup_congestion_control(sk, tp);
    forget_connection(tp);
    if !sk.flag(SockFlags::BINDADDR_LOCK) {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        tp.inet.rcv_saddr = any;
        tp.inet.set_saddr(any);
    }
    sk.set_shutdown(0);
    sk.set_flag(SockFlags::DONE, false);
    *sk.dst_cache.lock_bh() = None;
    sk.error_report();
    Ok(())
}

/// A new state that keeps what the process has set.
fn forget_connection(tp: &mut TcpSock) {
    let fresh = *TcpSock::new(tp.ca_ops);
    let old = std::mem::replace(tp, fresh);
    tp.inet = old.inet;
    TcpRare::inherit(&mut tp.rare, &old.rare);
    if let Some(h) = old.rare.hs.as_ref().filter(|h| h.fastopen_connect || h.fastopen_no_cookie || h.save_syn != 0) {
        let (fastopen_connect, fastopen_no_cookie, save_syn) = (h.fastopen_connect, h.fastopen_no_cookie, h.save_syn);
        let hs = TcpHandshake { fastopen_connect, fastopen_no_cookie, save_syn, ..TcpHandshake::default() };
        tp.rare.make().hs = Some(Box::new(hs));
    }
    tp.inet.dport = 0;
    (tp.retransmit_timer, tp.delack_timer, tp.sk_timer) = (old.retransmit_timer, old.delack_timer, old.sk_timer);
    // Far beyond what the last connection used; what of that has been sent may still be asked for, as in Linux.
    (tp.snd_una, tp.snd_nxt) = (old.snd_una, old.snd_nxt);
    tp.write_seq = old.write_seq.wrapping_add(old.max_window).wrapping_add(2).max(1);
    tp.rx_opt.user_mss = old.rx_opt.user_mss;
    tp.ca_setsockopt = old.ca_setsockopt;
    tp.icsk_bound = old.icsk_bound;
    (tp.icsk_rto_min, tp.icsk_rto_max) = (old.icsk_rto_min, old.icsk_rto_max);
    tp.nonagle = old.nonagle;
    tp.tcp_mstamp = old.tcp_mstamp;
    tp.orphan = old.orphan;
}
