//! TCP's states: changing them, and the end of a connection.
//!
//! Interface: [`tcp_init_sock`], [`tcp_set_state`], [`tcp_done`], [`tcp_reset`], [`tcp_write_queue_purge`],
//! [`inet_csk_destroy_sock`].
//! Linux counterpart: `tcp_set_state`, `tcp_done` in `net/ipv4/tcp.c`, `tcp_reset` in `tcp_input.c`.
//! Locks and context: socket lock; process or softirq context.

use super::inet_csk_timers::tcp_clear_xmit_timers;
use super::inet_hashtables::{inet_put_port, inet_unhash, tcp_hashinfo};
use super::tcp_ca::tcp_assign_congestion_control;
use super::tcp_cong::tcp_cleanup_congestion_control;
use super::tcp_fastopen::{reqsk_fastopen_remove, tcp_fastopen_active_disable_ofo_check};
use super::tcp_mem::{tcp_mem_reclaim, tcp_out_of_memory};
use super::tcp_pacing::tcp_pacing_stop;
use super::tcp_sock::*;
use super::tcp_tx_notify::tcp_notify_purged;
use crate::core::snmp::Mib;
use crate::core::sock::{SHUTDOWN_MASK, Sock, SockFlags};
use kernel::tp;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};
use uapi::tcp::TcpState;
use uapi::{Errno, Result};

/// The state of a new socket, with the namespace's defaults (`tcp_init_sock`).
pub fn tcp_init_sock(sk: &Arc<Sock>) -> Result<Box<TcpSock>> {
    let s = &sk.net.sysctl;
    let mut tp = TcpSock::new(tcp_assign_congestion_control(&sk.net));
    tp.icsk_rto_min = (s.tcp_rto_min_us.get() / 1000).max(1) as u32;
    tp.icsk_rto_max = s.tcp_rto_max_ms.get() as u32;
    tp.reordering = s.tcp_reordering.get() as u32;
    tp.tsoffset = 0;
    sk.sndbuf.store(s.tcp_wmem_default.get() as u32, Relaxed);
    sk.rcvbuf.store(s.tcp_rmem_default.get() as u32, Relaxed);
    Ok(tp)
}

/// Changes the state, keeping counters (`CurrEstab`) and hash tables in step: `CLOSE` unhashes, and gives the port back
/// unless the user bound it (`tcp_set_state`).
pub fn tcp_set_state(sk: &Arc<Sock>, tp: &mut TcpSock, state: TcpState) {
    let old = sk.state();
    let mib = &sk.net.mib;
    if state == TcpState::Established && old != TcpState::Established {
        mib.inc(Mib::TcpCurrEstab);
    }
    if state == TcpState::Close {
        if matches!(old, TcpState::CloseWait | TcpState::Established) {
            mib.inc(Mib::TcpEstabResets);
        }
        inet_unhash(sk);
        if !sk.flag(SockFlags::BINDPORT_LOCK) {
            inet_put_port(sk);
            tp.inet.num = 0;
        }
    }
    if old == TcpState::Established && state != TcpState::Established {
        mib.dec(Mib::TcpCurrEstab);
    }
    // After unhashing: whoever still finds the socket finds it in its old state.
    sk.set_state(state);
}

/// The connection is over: state `CLOSE`, timers off, everybody told (`tcp_done`).
pub fn tcp_done(sk: &Arc<Sock>, tp: &mut TcpSock) {
    if matches!(sk.state(), TcpState::SynSent | TcpState::SynRecv) {
        sk.net.mib.inc(Mib::TcpAttemptFails);
    }
    tcp_set_state(sk, tp, TcpState::Close);
    tcp_clear_xmit_timers(tp);
    tcp_pacing_stop(tp);
    reqsk_fastopen_remove(tp, false);
    sk.set_shutdown(SHUTDOWN_MASK);
    if sk.flag(SockFlags::DEAD) {
        inet_csk_destroy_sock(sk, tp);
    } else {
        sk.state_change();
    }
}

/// The peer sent a valid RST: sets the error that goes with the state, then [`tcp_done`] (RFC 9293, 3.5.3; `tcp_reset`).
pub fn tcp_reset(sk: &Arc<Sock>, tp: &mut TcpSock) {
    tp!(tcp_reset, sk);
    let e = match sk.state() {
        TcpState::SynSent => Errno::ECONNREFUSED,
        TcpState::CloseWait => Errno::EPIPE,
        TcpState::Close => return,
        _ => Errno::ECONNRESET,
    };
    sk.set_err(e);
    tcp_write_queue_purge(sk, tp);
    tcp_done(sk, tp);
    if !sk.flag(SockFlags::DEAD) {
        sk.error_report();
    }
}

/// Forgets all that was to be sent (`tcp_write_queue_purge`).
pub fn tcp_write_queue_purge(sk: &Sock, tp: &mut TcpSock) {
    tcp_notify_purged(sk, tp);
    let freed = tp.tx.purge();
    sk.wmem_queued.fetch_sub(freed, AcqRel);
    tp.frag = None;
    (tp.packets_out, tp.retrans_out, tp.lost_out, tp.sacked_out) = (0, 0, 0, 0);
    tp.icsk_backoff = 0;
    tcp_mem_reclaim(sk, tp);
}

/// Forgets all that came and was not read.
pub fn tcp_receive_queue_purge(sk: &Sock, tp: &mut TcpSock) {
    let queue = std::mem::take(&mut tp.receive_queue);
    let ooo = tp.ofo.if_used().map(|o| std::mem::take(&mut o.out_of_order_queue)).unwrap_or_default();
    let mem: usize = queue.into_iter().chain(ooo.into_values()).map(|s| s.truesize as usize).sum();
    sk.rmem_alloc.fetch_sub(mem, AcqRel);
    tcp_mem_reclaim(sk, tp);
}

/// No process has the socket any more and its connection is over: gives everything back (`inet_csk_destroy_sock`).
pub fn inet_csk_destroy_sock(sk: &Arc<Sock>, tp: &mut TcpSock) {
    tcp_clear_xmit_timers(tp);
    tcp_pacing_stop(tp);
    tcp_cleanup_congestion_control(sk, tp);
    if tp.rare.hs.is_some() {
        // Aborted before its handshake was over, perhaps.
        reqsk_fastopen_remove(tp, false);
        tcp_fastopen_active_disable_ofo_check(sk, tp);
        tp.rare.make().hs = None;
    }
    tcp_write_queue_purge(sk, tp);
    tcp_receive_queue_purge(sk, tp);
    inet_unhash(sk);
    inet_put_port(sk);
    *sk.dst_cache.lock_bh() = None;
    if std::mem::take(&mut tp.orphan) {
        tcp_hashinfo(&sk.net).orphan_count.fetch_sub(1, AcqRel);
    }
}

/// Whether there are more connections without a process than may be, each counted `1 << shift` times, or no memory for this
/// one is left (`tcp_check_oom`).
pub fn tcp_check_oom(sk: &Sock, shift: u32) -> bool {
    let n = tcp_hashinfo(&sk.net).orphan_count.load(Relaxed) as i64;
    n << shift > sk.net.sysctl.tcp_max_orphans.get() || tcp_out_of_memory(sk)
}

/// The send or receive window has no room and the peer's answer fails to come: the connection ends with `e`
/// (`tcp_write_err`).
pub fn tcp_write_err(sk: &Arc<Sock>, tp: &mut TcpSock) {
    let soft = sk.err_soft.load(Relaxed);
    sk.set_err(if soft != 0 { Errno(soft) } else { Errno::ETIMEDOUT });
    sk.error_report();
    tcp_write_queue_purge(sk, tp);
    tcp_done(sk, tp);
    sk.net.mib.inc(Mib::TcpExtTCPAbortOnTimeout);
}
