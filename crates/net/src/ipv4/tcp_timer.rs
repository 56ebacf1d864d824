//! TCP timers.
//!
//! Interface: [`tcp_write_timer`], [`tcp_delack_timer`], [`tcp_keepalive_timer`], [`tcp_tsq_handler`]: what the timers and the
//! small-queue softirq call; [`tcp_release_cb`].
//! Linux counterpart: `net/ipv4/tcp_timer.c`.
//! Locks and context: softirq context; socket lock. A timer that finds the socket owned leaves a bit for its owner.

use super::inet_csk_timers::*;
use super::inet_hashtables::inet_csk;
use super::request_sock::RequestSock;
use super::tcp_comp_sack::tcp_sack_compress_send_ack;
use super::tcp_fastopen::{fastopen_rsk, tcp_fastopen_active_detect_blackhole};
use super::tcp_input::{tcp_fin_time, tcp_keepalive_time_when};
use super::tcp_minisocks::tcp_time_wait;
use super::tcp_mtu_probe::tcp_mtu_probing;
use super::tcp_output::*;
use super::tcp_recovery::*;
use super::tcp_retransmit::*;
use super::tcp_route::tcp_rto_min;
use super::tcp_rtt::tcp_set_rto;
use super::tcp_sock::*;
use super::tcp_state::*;
use crate::core::snmp::Mib;
use crate::core::sock::{ProtoSock, Sock, SockFlags};
use kernel::{TimerOwner, tp};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use uapi::Errno;
use uapi::tcp::TcpState;

/// Timeouts of a thin stream that come without back-off.
const TCP_THIN_LINEAR_RETRIES: u8 = 6;

/// Takes the socket lock for `f`, or leaves `bit` for the owner: `false`.
fn with_sock(sk: &Arc<Sock>, bit: u16, f: fn(&Arc<Sock>, &mut TcpSock)) -> bool {
    let _bh = kernel::local_bh_disable();
    let mut guard = sk.bh_lock_sock();
    match guard.state() {
        Some(state) => {
            f(sk, tcp_sk(state));
            true
        }
        None => {
            guard.defer(bit);
            false
        }
    }
}

/// The socket that a timer is part of (`from_timer`).
fn timer_sock(owner: Arc<TimerOwner>) -> Arc<Sock> {
    owner.downcast().unwrap_or_else(|_| unreachable!("TCP's timers are part of sockets"))
}

/// Retransmission, zero-window probe, loss probe (`tcp_write_timer`).
pub fn tcp_write_timer(owner: Arc<TimerOwner>) {
    with_sock(&timer_sock(owner), TCPF_WRITE_TIMER_DEFERRED, tcp_write_timer_handler);
}

/// `tcp_delack_timer`.
pub fn tcp_delack_timer(owner: Arc<TimerOwner>) {
    let sk = timer_sock(owner);
    if !with_sock(&sk, TCPF_DELACK_TIMER_DEFERRED, tcp_delack_timer_handler) {
        sk.net.mib.inc(Mib::TcpExtDelayedACKLocked);
    }
}

/// The time for which ACKs were held back is over (`tcp_compressed_ack_kick`).
pub fn tcp_compressed_ack_kick(sk: &Arc<Sock>) {
    with_sock(sk, TCPF_COMP_SACK_DEFERRED, tcp_compressed_ack_handler);
}

/// Keepalive, and the end of FIN_WAIT2 (`tcp_keepalive_timer`).
pub fn tcp_keepalive_timer(owner: Arc<TimerOwner>) {
    with_sock(&timer_sock(owner), TCPF_KEEPALIVE_DEFERRED, tcp_keepalive_timer_handler);
}

/// The device has taken packets of a throttled sender (`tcp_tsq_handler`).
pub fn tcp_tsq_handler(sk: &Arc<Sock>) {
    with_sock(sk, TCPF_TSQ_DEFERRED, tcp_tsq_write);
}

/// What was left for the owner of the lock (`tcp_release_cb`).
pub fn tcp_release_cb(sk: &Arc<Sock>, state: &mut dyn ProtoSock, deferred: u16) {
    let tp = tcp_sk(state);
    if deferred & TCPF_TSQ_DEFERRED != 0 {
        tcp_tsq_write(sk, tp);
    }
    if deferred & TCPF_WRITE_TIMER_DEFERRED != 0 {
        tcp_write_timer_handler(sk, tp);
    }
    if deferred & TCPF_DELACK_TIMER_DEFERRED != 0 {
        tcp_delack_timer_handler(sk, tp);
    }
    if deferred & TCPF_COMP_SACK_DEFERRED != 0 {
        tcp_compressed_ack_handler(sk, tp);
    }
    if deferred & TCPF_ACK_DEFERRED != 0 && tp.icsk_ack.pending & ICSK_ACK_SCHED != 0 {
        tcp_send_ack(sk, tp);
    }
    if deferred & TCPF_KEEPALIVE_DEFERRED != 0 {
        tcp_keepalive_timer_handler(sk, tp);
    }
    if deferred & TCPF_MTU_REDUCED_DEFERRED != 0 {
        let csk = inet_csk(sk);
        // RFC 5927, 4.1, as for an error that found the socket free.
        if between(csk.mtu_seq.load(Relaxed), tp.snd_una, tp.snd_nxt) {
            tcp_mtu_reduced(sk, tp, csk.mtu_info.load(Relaxed));
        } else {
            sk.net.mib.inc(Mib::TcpExtOutOfWindowIcmps);
        }
    }
}

/// `tcp_tsq_write`.
fn tcp_tsq_write(sk: &Arc<Sock>, tp: &mut TcpSock) {
    use TcpState::*;
    if !sk.state().is_in(Established.flag() | FinWait1.flag() | Closing.flag() | CloseWait.flag() | LastAck.flag()) {
        return;
    }
    if tp.lost_out > tp.retrans_out && tp.snd_cwnd > tp.packets_in_flight() {
        tp.mstamp_refresh(sk);
        tcp_xmit_retransmit_queue(sk, tp);
    }
    let (mss, nonagle) = (tcp_current_mss(sk, tp), tp.nonagle);
    tcp_write_xmit(sk, tp, mss, nonagle, Push::All);
}

/// `tcp_write_timer_handler`.
fn tcp_write_timer_handler(sk: &Arc<Sock>, tp: &mut TcpSock) {
    tp!(tcp_write_timer_handler, sk);
    if matches!(sk.state(), TcpState::Close | TcpState::Listen) || tp.icsk_pending == 0 {
        // It has rested for as long as it takes to time out: an idle connection keeps none.
        tp.retransmit_timer = None;
        return;
    }
    let now = sk.net.kernel().jiffies();
    let left = tp.icsk_timeout.wrapping_sub(now as u32) as i32;
    if left > 0 {
        if let Some(t) = &tp.retransmit_timer {
            t.mod_timer(now + left as u64);
        }
        return;
    }
    tp.mstamp_refresh(sk);
    match tp.icsk_pending {
        ICSK_TIME_REO_TIMEOUT => tcp_rack_reo_timeout(sk, tp),
        ICSK_TIME_LOSS_PROBE => tcp_send_loss_probe(sk, tp),
        ICSK_TIME_RETRANS => {
            tp.icsk_pending = 0;
            tcp_retransmit_timer(sk, tp);
        }
        ICSK_TIME_PROBE0 => {
            tp.icsk_pending = 0;
            tcp_probe_timer(sk, tp);
        }
        _ => tp.icsk_pending = 0,
    }
}

// --- Retransmission ---

/// How long `boundary` retransmissions with exponential back-off from `base` up to `max` take: `tcp_retries1` and `2` are
/// times, whatever the round-trip time of the path is (RFC 1122, 4.2.3.5; `tcp_model_timeout`).
fn tcp_model_timeout(boundary: u32, base: u32, max: u32) -> u64 {
    let thresh = (max / base.max(1)).max(1).ilog2();
    let doubled = |n: u32| ((2u64 << n) - 1) * base as u64;
    doubled(boundary.min(thresh)) + boundary.saturating_sub(thresh) as u64 * max as u64
}

/// Whether the peer has been silent for as long as `boundary` retransmissions, or `timeout` milliseconds, take
/// (`retransmits_timed_out`).
fn retransmits_timed_out(sk: &Sock, tp: &TcpSock, boundary: u32, timeout: u32) -> bool {
    if tp.icsk_retransmits == 0 {
        return false;
    }
    let start = match tp.retrans_stamp {
        0 => tp.tx.rtx_front().map_or(tp.time_stamp(), |s| (s.mstamp / 1000) as u32),
        s => s,
    };
    let limit = if timeout != 0 {
        timeout as u64
    } else {
        let syn = matches!(sk.state(), TcpState::SynSent | TcpState::SynRecv);
        tcp_model_timeout(boundary, if syn { TCP_TIMEOUT_INIT } else { TCP_RTO_MIN }, tp.icsk_rto_max)
    };
    tp.time_stamp().wrapping_sub(start) as i32 as i64 >= limit as i64
}

/// How long a connection without a process is kept alive (`tcp_orphan_retries`).
fn tcp_orphan_retries(sk: &Sock, alive: bool) -> u32 {
    let retries = sk.net.sysctl.tcp_orphan_retries.get() as u32;
    if sk.err_soft.load(Relaxed) != 0 && !alive {
        0
    } else if retries == 0 && alive {
        8
    } else {
        retries
    }
}

/// Too many orphans: this one goes (`tcp_out_of_resources`).
fn tcp_out_of_resources(sk: &Arc<Sock>, tp: &mut TcpSock, do_reset: bool) -> bool {
    let idle = tp.jiffies32().wrapping_sub(tp.lsndtime) as i32;
    let shift = (idle > 2 * tp.icsk_rto_max as i32 || !do_reset) as u32 + (sk.err_soft.load(Relaxed) != 0) as u32;
    if !tcp_check_oom(sk, shift) {
        return false;
    }
    // The peer must be told if it heard from us a moment ago, or waits with its window closed.
    if idle <= TCP_TIMEWAIT_LEN as i32 || (tp.snd_wnd == 0 && tp.packets_out == 0) || do_reset {
        tcp_send_active_reset(sk, tp);
    }
    tcp_done(sk, tp);
    sk.net.mib.inc(Mib::TcpExtTCPAbortOnMemory);
    true
}

/// Whether it is time to give up (RFC 9293, 3.8.3; `tcp_write_timeout`).
fn tcp_write_timeout(sk: &Arc<Sock>, tp: &mut TcpSock) -> bool {
    let s = &sk.net.sysctl;
    let mut expired = false;
    let retry_until;
    if matches!(sk.state(), TcpState::SynSent | TcpState::SynRecv) {
        retry_until = match tp.rare.opts.icsk_syn_retries {
            0 => s.tcp_syn_retries.get() as u32,
            n => n as u32,
        };
        // The first of them come without back-off, and beside the others.
        let linear = if sk.state() == TcpState::SynSent { s.tcp_syn_linear_timeouts.get() as u32 } else { 0 };
        expired = tp.icsk_retransmits as u32 >= retry_until + linear;
    } else {
        if retransmits_timed_out(sk, tp, s.tcp_retries1.get() as u32, 0) {
            // The route may be the trouble, or a black hole for large packets.
            tcp_mtu_probing(sk, tp);
            *sk.dst_cache.lock_bh() = None;
        }
        let mut until = s.tcp_retries2.get() as u32;
        if sk.flag(SockFlags::DEAD) {
            let alive = tp.icsk_rto < tp.icsk_rto_max;
            until = tcp_orphan_retries(sk, alive);
            let do_reset = alive || !retransmits_timed_out(sk, tp, until, 0);
            if tcp_out_of_resources(sk, tp, do_reset) {
                return true;
            }
        }
        retry_until = until;
    }
    if !expired {
        expired = retransmits_timed_out(sk, tp, retry_until, tp.rare.opts.icsk_user_timeout);
    }
    tcp_fastopen_active_detect_blackhole(sk, tp, expired);
    if expired {
        tcp_write_err(sk, tp);
    }
    expired
}

/// The SYN-ACK of a child that was made out of the SYN goes out again, or the child is given up
/// (`tcp_fastopen_synack_timer`).
fn tcp_fastopen_synack_timer(sk: &Arc<Sock>, tp: &mut TcpSock, req: &Arc<RequestSock>) {
    let max = match tp.rare.opts.icsk_syn_retries {
        0 => sk.net.sysctl.tcp_synack_retries.get() as u32 + 1,
        n => n as u32,
    };
    sk.net.mib.inc(Mib::TcpExtTCPTimeouts);
    let timeouts = req.num_timeout.load(Relaxed);
    if timeouts as u32 >= max {
        return tcp_write_err(sk, tp);
    }
    if tp.icsk_retransmits == 1 {
        tcp_enter_loss(sk, tp);
    }
    // One that cannot be sent now is sent by the next timeout: the child may be in use already.
    if (tcp_ops(sk).rtx_syn_ack)(sk, req) {
        tp.rec.make().total_retrans = tp.rec.total_retrans.wrapping_add(1);
        req.num_retrans.fetch_add(1, Relaxed);
    }
    req.snt_synack.store(0, Relaxed);
    req.num_timeout.store(timeouts.saturating_add(1), Relaxed);
    tp.icsk_retransmits = tp.icsk_retransmits.saturating_add(1);
    if tp.retrans_stamp == 0 {
        tp.retrans_stamp = tp.time_stamp().max(1);
    }
    let when = (TCP_TIMEOUT_INIT as u64) << (timeouts as u32 + 1).min(31);
    inet_csk_reset_xmit_timer(sk, tp, ICSK_TIME_RETRANS, when.min(TCP_RTO_MAX as u64) as u32, TCP_RTO_MAX);
}

/// The retransmission timeout (RFC 6298, 5.4 to 5.7; `tcp_retransmit_timer`).
fn tcp_retransmit_timer(sk: &Arc<Sock>, tp: &mut TcpSock) {
    if let Some(req) = fastopen_rsk(tp).cloned() {
        // Nothing else goes out again before the SYN-ACK is acknowledged.
        return tcp_fastopen_synack_timer(sk, tp, &req);
    }
    if tp.packets_out == 0 || tp.tx.rtx_is_empty() {
        return;
    }
    let syn = matches!(sk.state(), TcpState::SynSent | TcpState::SynRecv);
    if tp.snd_wnd == 0 && !sk.flag(SockFlags::DEAD) && !syn {
        // The peer has taken its window back: probe, but do not give up while it answers.
        if tcp_rtx_probe0_timed_out(tp) {
            return tcp_write_err(sk, tp);
        }
        tcp_enter_loss(sk, tp);
        let _ = tcp_retransmit_skb(sk, tp, 0, 1);
        *sk.dst_cache.lock_bh() = None;
        return tcp_back_off(sk, tp);
    }
    sk.net.mib.inc(Mib::TcpExtTCPTimeouts);
    if tcp_write_timeout(sk, tp) {
        return;
    }
    if tp.icsk_retransmits == 0 {
        tcp_count_timeout(sk, tp);
    }
    tcp_enter_loss(sk, tp);
    tcp_update_rto_stats(tp);
    if tcp_retransmit_skb(sk, tp, 0, 1) == Err(Errno::ENOBUFS) {
        // Not sent for want of something local: try again soon.
        inet_csk_reset_xmit_timer(sk, tp, ICSK_TIME_RETRANS, TCP_RESOURCE_PROBE_INTERVAL, TCP_RTO_MAX);
        return;
    }
    tcp_back_off(sk, tp);
}

/// The peer has taken its window back and is silent for too long (`tcp_rtx_probe0_timed_out`).
fn tcp_rtx_probe0_timed_out(tp: &TcpSock) -> bool {
    let first = match tp.retrans_stamp {
        0 => tp.tx.rtx_front().map_or(tp.time_stamp(), |s| (s.mstamp / 1000) as u32),
        stamp => stamp,
    };
    let since_first = tp.time_stamp().wrapping_sub(first);
    let (user, mut timeout) = (tp.rare.opts.icsk_user_timeout, tp.icsk_rto_max * 2);
    if user != 0 {
        // Its ACKs of our probes are no progress.
        if since_first > user {
            return true;
        }
        timeout = timeout.min(user);
    }
    let silent = tp.icsk_timeout.wrapping_sub(tp.rcv_tstamp) as i32;
    silent > timeout as i32 && since_first > timeout
}

/// `tcp_update_rto_stats`.
fn tcp_update_rto_stats(tp: &mut TcpSock) {
    if tp.icsk_retransmits == 0 {
        let now = tp.time_stamp().max(1);
        let r = tp.rec.make();
        (r.total_rto_recoveries, r.rto_stamp) = (r.total_rto_recoveries.wrapping_add(1), now);
    }
    tp.icsk_retransmits = tp.icsk_retransmits.saturating_add(1);
    tp.rec.make().total_rto = tp.rec.total_rto.wrapping_add(1);
}

/// Few segments in flight, and not at the start: duplicate ACKs cannot be counted on (`tcp_stream_is_thin`).
fn tcp_stream_is_thin(tp: &TcpSock) -> bool {
    tp.packets_out < 4 && tp.snd_ssthresh < TCP_INFINITE_SSTHRESH
}

/// A router says that the peer cannot be reached, about a retransmission: what was lost was not lost to congestion, and the last
/// doubling of the timeout is taken back (RFC 6069, 4.2; `tcp_ld_RTO_revert`).
pub fn tcp_ld_rto_revert(sk: &Arc<Sock>, tp: &mut TcpSock, seq: u32) {
    if seq != tp.snd_una || tp.icsk_retransmits == 0 || tp.icsk_backoff == 0 {
        return;
    }
    let Some(sent) = tp.tx.rtx_front().map(|s| s.mstamp) else { return };
    tp.mstamp_refresh(sk);
    tp.icsk_backoff -= 1;
    if tp.srtt_us != 0 {
        tcp_set_rto(tp);
    } else {
        tp.icsk_rto = TCP_TIMEOUT_INIT;
    }
    let max = tp.icsk_rto_max as u64;
    let rto = (tp.icsk_rto as u64).checked_shl(tp.icsk_backoff as u32).unwrap_or(max).min(max) as u32;
    tp.icsk_rto = rto;
    let gone = (tp.tcp_mstamp.saturating_sub(sent) / 1000).min(u32::MAX as u64) as u32;
    if rto > gone {
        inet_csk_reset_xmit_timer(sk, tp, ICSK_TIME_RETRANS, rto - gone, TCP_RTO_MAX);
    } else {
        // With the shorter timeout it would have been sent again by now.
        tcp_retransmit_timer(sk, tp);
    }
}

/// The next timeout: twice as long (RFC 6298, 5.5), but not for the first ones of a thin stream, nor of a SYN.
fn tcp_back_off(sk: &Sock, tp: &mut TcpSock) {
    let s = &sk.net.sysctl;
    let state = sk.state();
    if state == TcpState::Established
        && (tp.rare.opts.thin_lto || s.tcp_thin_linear_timeouts.on())
        && tcp_stream_is_thin(tp)
        && tp.icsk_retransmits <= TCP_THIN_LINEAR_RETRIES
    {
        tp.icsk_backoff = 0;
        tcp_set_rto(tp);
        tp.icsk_rto = tp.icsk_rto.clamp(tcp_rto_min(tp), tp.icsk_rto_max);
    } else if state != TcpState::SynSent || tp.rec.total_rto as i64 > s.tcp_syn_linear_timeouts.get() {
        tp.icsk_backoff = tp.icsk_backoff.saturating_add(1);
        tp.icsk_rto = (tp.icsk_rto << 1).min(tp.icsk_rto_max);
    }
    let when = tcp_clamp_rto_to_user_timeout(tp);
    inet_csk_reset_xmit_timer(sk, tp, ICSK_TIME_RETRANS, when, TCP_RTO_MAX);
    if retransmits_timed_out(sk, tp, s.tcp_retries1.get() as u32 + 1, 0) {
        *sk.dst_cache.lock_bh() = None;
    }
}

/// Not later than `TCP_USER_TIMEOUT` (RFC 5482; `tcp_clamp_rto_to_user_timeout`).
fn tcp_clamp_rto_to_user_timeout(tp: &TcpSock) -> u32 {
    if tp.rare.opts.icsk_user_timeout == 0 {
        return tp.icsk_rto;
    }
    let elapsed = tp.time_stamp().wrapping_sub(tp.retrans_stamp);
    match tp.rare.opts.icsk_user_timeout.saturating_sub(elapsed) {
        0 => 1,
        left => tp.icsk_rto.min(left),
    }
}

/// What a first timeout shows to have failed.
fn tcp_count_timeout(sk: &Sock, tp: &TcpSock) {
    let sack = tp.rx_opt.sack_ok;
    let mib = match tp.ca_state {
        TcpCaState::Recovery if sack => Mib::TcpExtTCPSackRecoveryFail,
        TcpCaState::Recovery => Mib::TcpExtTCPRenoRecoveryFail,
        TcpCaState::Loss => Mib::TcpExtTCPLossFailures,
        _ if tp.ca_state != TcpCaState::Disorder && tp.sacked_out == 0 => return,
        _ if sack => Mib::TcpExtTCPSackFailures,
        _ => Mib::TcpExtTCPRenoFailures,
    };
    sk.net.mib.inc(mib);
}

/// The peer's window is closed: probe it, or give up (`tcp_probe_timer`).
fn tcp_probe_timer(sk: &Arc<Sock>, tp: &mut TcpSock) {
    if tp.packets_out != 0 || tp.tx.write_is_empty() {
        tp.icsk_probes_out = 0;
        if let Some(r) = tp.rec.if_used() {
            r.icsk_probes_tstamp = 0;
        }
        return;
    }
    let now = tp.jiffies32();
    if tp.rec.icsk_probes_tstamp == 0 {
        tp.rec.make().icsk_probes_tstamp = now.max(1);
    } else if tp.rare.opts.icsk_user_timeout != 0
        && now.wrapping_sub(tp.rec.icsk_probes_tstamp) as i32 >= tp.rare.opts.icsk_user_timeout as i32
    {
        return tcp_write_err(sk, tp);
    }
    let mut max_probes = sk.net.sysctl.tcp_retries2.get() as u32;
    if sk.flag(SockFlags::DEAD) {
        let when = (tp.icsk_rto as u64) << tp.icsk_backoff.min(31);
        let alive = when < tp.icsk_rto_max as u64;
        max_probes = tcp_orphan_retries(sk, alive);
        if !alive && tp.icsk_backoff as u32 >= max_probes {
            return tcp_write_err(sk, tp);
        }
        if tcp_out_of_resources(sk, tp, true) {
            return;
        }
    }
    if tp.icsk_probes_out as u32 >= max_probes {
        tcp_write_err(sk, tp);
    } else {
        tcp_send_probe0(sk, tp);
    }
}

// --- Delayed ACK and keepalive ---

fn tcp_compressed_ack_handler(sk: &Arc<Sock>, tp: &mut TcpSock) {
    if !matches!(sk.state(), TcpState::Close | TcpState::Listen) {
        tp.mstamp_refresh(sk);
        tcp_sack_compress_send_ack(sk, tp);
    }
}

/// `tcp_delack_timer_handler`.
fn tcp_delack_timer_handler(sk: &Arc<Sock>, tp: &mut TcpSock) {
    if matches!(sk.state(), TcpState::Close | TcpState::Listen) || tp.icsk_ack.pending & ICSK_ACK_TIMER == 0 {
        tp.delack_timer = None;
        return;
    }
    let now = sk.net.kernel().jiffies();
    let left = tp.icsk_ack.timeout.wrapping_sub(now as u32) as i32;
    if left > 0 {
        if let Some(t) = &tp.delack_timer {
            t.mod_timer(now + left as u64);
        }
        return;
    }
    tp.icsk_ack.pending &= !ICSK_ACK_TIMER;
    if tp.icsk_ack.pending & ICSK_ACK_SCHED != 0 {
        if !tp.in_pingpong_mode(sk) {
            // The ACK could not ride on data: wait longer next time.
            tp.icsk_ack.ato = (tp.icsk_ack.ato << 1).min(tp.icsk_rto);
        } else {
            tp.icsk_ack.pingpong = 0;
            tp.icsk_ack.ato = TCP_ATO_MIN;
        }
        tp.mstamp_refresh(sk);
        tcp_send_ack(sk, tp);
        sk.net.mib.inc(Mib::TcpExtDelayedACKs);
    }
    if tp.icsk_ack.pending & ICSK_ACK_TIMER == 0 {
        tp.delack_timer = None;
    }
}

/// `keepalive_intvl_when`, milliseconds.
fn keepalive_intvl_when(sk: &Sock, tp: &TcpSock) -> u32 {
    let secs = if tp.rare.opts.keepalive_intvl != 0 {
        tp.rare.opts.keepalive_intvl as i64
    } else {
        sk.net.sysctl.tcp_keepalive_intvl.get()
    };
    (secs * 1000).min(u32::MAX as i64) as u32
}

fn keepalive_probes(sk: &Sock, tp: &TcpSock) -> u32 {
    if tp.rare.opts.keepalive_probes != 0 {
        tp.rare.opts.keepalive_probes as u32
    } else {
        sk.net.sysctl.tcp_keepalive_probes.get() as u32
    }
}

/// RFC 9293, 3.8.4; and the end of an orphan's FIN_WAIT2.
fn tcp_keepalive_timer_handler(sk: &Arc<Sock>, tp: &mut TcpSock) {
    tp.mstamp_refresh(sk);
    let state = sk.state();
    if state == TcpState::FinWait2 && sk.flag(SockFlags::DEAD) {
        if tp.rare.opts.linger2 >= 0 {
            let tmo = tcp_fin_time(sk, tp);
            if tmo > TCP_TIMEWAIT_LEN {
                return tcp_time_wait(sk, tp, TcpState::FinWait2, tmo - TCP_TIMEWAIT_LEN);
            }
        }
        tcp_send_active_reset(sk, tp);
        return tcp_done(sk, tp);
    }
    if !sk.flag(SockFlags::KEEPOPEN) || matches!(state, TcpState::Close | TcpState::Listen | TcpState::SynSent) {
        return;
    }
    let when = tcp_keepalive_time_when(sk, tp);
    if tp.packets_out != 0 || !tp.tx.write_is_empty() {
        // It is not idle; retransmission and probes see to it.
        return inet_csk_reset_keepalive_timer(sk, tp, when);
    }
    let now = tp.jiffies32();
    let idle = now.wrapping_sub(tp.icsk_ack.lrcvtime).min(now.wrapping_sub(tp.rcv_tstamp));
    if idle < when {
        return inet_csk_reset_keepalive_timer(sk, tp, when - idle);
    }
    let user = tp.rare.opts.icsk_user_timeout;
    let over = if user != 0 {
        idle >= user && tp.icsk_probes_out > 0
    } else {
        tp.icsk_probes_out as u32 >= keepalive_probes(sk, tp)
    };
    if over {
        tcp_send_active_reset(sk, tp);
        return tcp_write_err(sk, tp);
    }
    let next = match tcp_write_wakeup(sk, tp, Mib::TcpExtTCPKeepAlive) {
        // Lost for want of something local: try again soon.
        Err(Errno::ENOBUFS) => TCP_RESOURCE_PROBE_INTERVAL,
        // A peer that cannot be reached does not answer either.
        _ => {
            tp.icsk_probes_out = tp.icsk_probes_out.saturating_add(1);
            keepalive_intvl_when(sk, tp)
        }
    };
    inet_csk_reset_keepalive_timer(sk, tp, next);
}
