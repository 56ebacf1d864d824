//! The options of level IPPROTO_TCP, and `TCP_INFO`.
//!
//! Interface: [`tcp_setsockopt`], [`tcp_getsockopt`], [`tcp_set_keepalive`].
//! Linux counterpart: `do_tcp_setsockopt`, `do_tcp_getsockopt`, `tcp_get_info` in `net/ipv4/tcp.c`.
//! Locks and context: process context; takes the socket lock.

use super::inet_csk_timers::*;
use super::inet_hashtables::inet_csk;
use super::tcp_auth_sockopt::{is_auth_option, tcp_auth_getsockopt, tcp_auth_setsockopt};
use super::tcp_ca::{TCP_CA_NAME_MAX, tcp_set_congestion_control};
use super::tcp_chrono::tcp_chrono_ms;
use super::tcp_cong::tcp_ca;
use super::tcp_ecn::tcp_ecn_mode_any;
use super::tcp_fastopen::*;
use super::tcp_fastopen_cookie::FastopenKeys;
use super::tcp_input::tcp_keepalive_time_when;
use super::tcp_mem::tcp_stream_is_writeable;
use super::tcp_output::*;
use super::tcp_pacing::tcp_pacing_limited;
use super::tcp_rcvq::tcp_data_ready;
use super::tcp_recv::tcp_cleanup_rbuf;
use super::tcp_sock::*;
use super::tcp_tx_notify::{tcp_set_timestamping, tcp_timestamping};
use crate::core::sock::{ProtoSock, Sock, SockFlags};
use crate::core::sock_options::{cut, int_option, unsupported};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use uapi::socket::SOL_SOCKET;
use uapi::tcp::*;
use uapi::{Errno, Result};

/// `MAX_TCP_WINDOW`'s cousin: the largest `TCP_MAXSEG`.
const MAX_TCP_MSS: i32 = 32767;

/// Sets an option; `ENOPROTOOPT` for one that is not there.
pub fn tcp_setsockopt(sk: &Arc<Sock>, level: i32, name: i32, val: &[u8]) -> Result<()> {
    let mut guard = sk.lock_sock();
    let tp = tcp_sk(&mut *guard);
    if level == SOL_SOCKET {
        return tcp_set_timestamping(sk, tp, int_option(val)? as u32);
    }
    if name == TCP_CONGESTION {
        let end = val.iter().position(|&b| b == 0).unwrap_or(val.len()).min(TCP_CA_NAME_MAX - 1);
        let ca = val.get(..end).and_then(|b| std::str::from_utf8(b).ok());
        if val.is_empty() {
            return Err(Errno::EINVAL);
        }
        return tcp_set_congestion_control(sk, tp, ca.ok_or(Errno::ENOENT)?);
    }
    if is_auth_option(name) {
        return tcp_auth_setsockopt(sk, tp, name, val);
    }
    if name == TCP_FASTOPEN_KEY {
        *inet_csk(sk).accept_queue.fastopenq.keys.lock_bh() = Some(FastopenKeys::from_bytes(val)?);
        return Ok(());
    }
    let v = int_option(val)?;
    if !is_int_option(name) {
        return unsupported(sk);
    }
    let range = |lo: i32, hi: i32| if (lo..=hi).contains(&v) { Ok(v) } else { Err(Errno::EINVAL) };
    match name {
        TCP_MAXSEG => {
            if v != 0 {
                range(TCP_MIN_MSS as i32, MAX_TCP_MSS)?;
            }
            tp.rx_opt.user_mss = v as u16;
        }
        TCP_NODELAY => tcp_set_nodelay(sk, tp, v != 0),
        TCP_CORK => tcp_set_cork(sk, tp, v != 0),
        TCP_KEEPIDLE => {
            tp.rare.make().opts.keepalive_time = range(1, MAX_TCP_KEEPIDLE)? as u32;
            if sk.flag(SockFlags::KEEPOPEN) && !matches!(sk.state(), TcpState::Close | TcpState::Listen) {
                rearm_keepalive(sk, tp);
            }
        }
        TCP_KEEPINTVL => tp.rare.make().opts.keepalive_intvl = range(1, MAX_TCP_KEEPINTVL)? as u32,
        TCP_KEEPCNT => tp.rare.make().opts.keepalive_probes = range(1, MAX_TCP_KEEPCNT)? as u8,
        TCP_SYNCNT => tp.rare.make().opts.icsk_syn_retries = range(1, MAX_TCP_SYNCNT)? as u8,
        TCP_LINGER2 => {
            tp.rare.make().opts.linger2 = if v < 0 {
                -1
            } else if v > (TCP_FIN_TIMEOUT_MAX / 1000) as i32 {
                TCP_FIN_TIMEOUT_MAX as i32
            } else {
                v * 1000
            }
        }
        TCP_DEFER_ACCEPT => tp.rare.make().opts.defer_accept = secs_to_retrans(v),
        TCP_WINDOW_CLAMP => set_window_clamp(sk, tp, v)?,
        TCP_SAVE_SYN => handshake(tp).save_syn = range(0, 2)? as u8,
        TCP_FASTOPEN | TCP_FASTOPEN_CONNECT | TCP_FASTOPEN_NO_COOKIE => set_fastopen(sk, tp, name, v)?,
        TCP_QUICKACK => tcp_set_quickack(sk, tp, v),
        TCP_USER_TIMEOUT => tp.rare.make().opts.icsk_user_timeout = range(0, i32::MAX)? as u32,
        TCP_NOTSENT_LOWAT => {
            tp.rare.make().opts.notsent_lowat = v as u32;
            if tcp_stream_is_writeable(sk, tp) {
                sk.write_space();
            }
        }
        // Only smaller than the default, never larger, as in Linux.
        TCP_RTO_MIN_US => tp.icsk_rto_min = timeout_ms(v, TCP_RTO_MIN)?,
        TCP_DELACK_MAX_US => tp.rare.make().opts.icsk_delack_max = timeout_ms(v, TCP_DELACK_MAX)?,
        TCP_INQ => tp.rare.make().opts.recvmsg_inq = range(0, 1)? != 0,
        TCP_RTO_MAX_MS => tp.icsk_rto_max = range(1000, TCP_RTO_MAX as i32)? as u32,
        TCP_THIN_LINEAR_TIMEOUTS => tp.rare.make().opts.thin_lto = range(0, 1)? != 0,
        // It did something once: RACK finds losses of thin streams.
        TCP_THIN_DUPACK => {
            range(0, 1)?;
        }
        _ => return unsupported(sk),
    }
    Ok(())
}

/// Microseconds as milliseconds, from `TCP_TIMEOUT_MIN` to `most`.
fn timeout_ms(us: i32, most: u32) -> Result<u32> {
    let ms = u32::try_from(us).map_err(|_| Errno::EINVAL)?.div_ceil(1000);
    if (TCP_TIMEOUT_MIN..=most).contains(&ms) { Ok(ms) } else { Err(Errno::EINVAL) }
}

/// Options whose value is a number.
fn is_int_option(name: i32) -> bool {
    matches!(
        name,
        TCP_MAXSEG
            | TCP_NODELAY
            | TCP_CORK
            | TCP_KEEPIDLE
            | TCP_KEEPINTVL
            | TCP_KEEPCNT
            | TCP_SYNCNT
            | TCP_LINGER2
            | TCP_DEFER_ACCEPT
            | TCP_SAVE_SYN
            | TCP_FASTOPEN
            | TCP_FASTOPEN_CONNECT
            | TCP_FASTOPEN_NO_COOKIE
            | TCP_WINDOW_CLAMP
            | TCP_QUICKACK
            | TCP_USER_TIMEOUT
            | TCP_NOTSENT_LOWAT
            | TCP_RTO_MIN_US
            | TCP_DELACK_MAX_US
            | TCP_INQ
            | TCP_RTO_MAX_MS
            | TCP_THIN_LINEAR_TIMEOUTS
            | TCP_THIN_DUPACK
    )
}

/// Fast Open's options (RFC 7413).
fn set_fastopen(sk: &Sock, tp: &mut TcpSock, name: i32, v: i32) -> Result<()> {
    let state = sk.state();
    let idle = matches!(state, TcpState::Close | TcpState::Listen);
    match name {
        TCP_FASTOPEN if v >= 0 && idle => tcp_fastopen_queue_tune(sk, v as u32),
        TCP_FASTOPEN_CONNECT if !(0..=1).contains(&v) => return Err(Errno::EINVAL),
        TCP_FASTOPEN_CONNECT if sk.net.sysctl.tcp_fastopen.get() & TFO_CLIENT_ENABLE == 0 => {
            return Err(Errno::EOPNOTSUPP);
        }
        TCP_FASTOPEN_CONNECT if state == TcpState::Close => handshake(tp).fastopen_connect = v != 0,
        TCP_FASTOPEN_NO_COOKIE if (0..=1).contains(&v) && idle => handshake(tp).fastopen_no_cookie = v != 0,
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// `TCP_SAVED_SYN`: the headers of the SYN, once. `EINVAL` when there is no room for all of them.
fn saved_syn(tp: &mut TcpSock, len: usize) -> Result<Vec<u8>> {
    match tp.hs_mut().and_then(|h| h.saved_syn.take_if(|s| s.len() <= len)) {
        Some(s) => Ok(s.into_vec()),
        None if tp.rare.hs.as_ref().is_some_and(|h| h.saved_syn.is_some()) => Err(Errno::EINVAL),
        None => Ok(Vec::new()),
    }
}

/// `__tcp_sock_set_nodelay`: what waits goes out.
fn tcp_set_nodelay(sk: &Arc<Sock>, tp: &mut TcpSock, on: bool) {
    if on {
        tp.nonagle |= TCP_NAGLE_OFF | TCP_NAGLE_PUSH;
        tcp_push_pending_frames(sk, tp);
    } else {
        tp.nonagle &= !TCP_NAGLE_OFF;
    }
}

/// `__tcp_sock_set_cork`.
fn tcp_set_cork(sk: &Arc<Sock>, tp: &mut TcpSock, on: bool) {
    if on {
        tp.nonagle |= TCP_NAGLE_CORK;
    } else {
        tp.nonagle &= !TCP_NAGLE_CORK;
        if tp.nonagle & TCP_NAGLE_OFF != 0 {
            tp.nonagle |= TCP_NAGLE_PUSH;
        }
        tcp_push_pending_frames(sk, tp);
    }
}

/// `TCP_WINDOW_CLAMP`; 0 takes it back, of an unconnected socket only.
fn set_window_clamp(sk: &Sock, tp: &mut TcpSock, v: i32) -> Result<()> {
    if v == 0 {
        if sk.state() != TcpState::Close {
            return Err(Errno::EINVAL);
        }
        tp.window_clamp = 0;
        return Ok(());
    }
    tcp_set_window_clamp(tp, v.max(0) as u32);
    Ok(())
}

/// `__tcp_sock_set_quickack`: 0 begins delaying, odd numbers last.
fn tcp_set_quickack(sk: &Arc<Sock>, tp: &mut TcpSock, v: i32) {
    if v == 0 {
        tp.enter_pingpong_mode(sk);
        return;
    }
    tp.icsk_ack.pingpong = 0;
    let open = sk.state().is_in(TcpState::Established.flag() | TcpState::CloseWait.flag());
    if open && tp.icsk_ack.pending & ICSK_ACK_SCHED != 0 {
        tp.icsk_ack.pending |= ICSK_ACK_PUSHED;
        tcp_cleanup_rbuf(sk, tp, 1);
        if v & 1 == 0 {
            tp.enter_pingpong_mode(sk);
        }
    }
}

/// `SO_KEEPALIVE` is switched (`tcp_set_keepalive`). Socket lock held.
pub fn tcp_set_keepalive(sk: &Arc<Sock>, state: &mut dyn ProtoSock, on: bool) {
    let tp = tcp_sk(state);
    if matches!(sk.state(), TcpState::Close | TcpState::Listen) {
        return;
    }
    if on && !sk.flag(SockFlags::KEEPOPEN) {
        let when = tcp_keepalive_time_when(sk, tp);
        inet_csk_reset_keepalive_timer(sk, tp, when);
    } else if !on {
        inet_csk_delete_keepalive_timer(tp);
    }
}

/// `SO_RCVLOWAT`: at most half of the largest buffer, and a buffer that can hold as much (`tcp_set_rcvlowat`). Socket lock
/// held.
pub fn tcp_set_rcvlowat(sk: &Arc<Sock>, state: &mut dyn ProtoSock, val: u32) {
    let tp = tcp_sk(state);
    let locked = sk.flag(SockFlags::RCVBUF_LOCK);
    let most = if locked { sk.rcvbuf.load(Relaxed) } else { sk.net.sysctl.tcp_rmem_max.get() as u32 };
    let val = val.min(most >> 1).max(1);
    sk.rcvlowat.store(val, Relaxed);
    // It may be enough now.
    tcp_data_ready(sk, tp);
    let space = tcp_space_from_win(val, tp.scaling_ratio);
    if !locked && space > sk.rcvbuf.load(Relaxed) {
        sk.rcvbuf.store(space, Relaxed);
        if tp.window_clamp != 0 {
            tp.window_clamp = tp.window_clamp.max(val);
        }
    }
}

fn rearm_keepalive(sk: &Arc<Sock>, tp: &mut TcpSock) {
    let now = sk.net.kernel().jiffies() as u32;
    let idle = now.wrapping_sub(tp.icsk_ack.lrcvtime).min(now.wrapping_sub(tp.rcv_tstamp));
    let when = tcp_keepalive_time_when(sk, tp).saturating_sub(idle);
    inet_csk_reset_keepalive_timer(sk, tp, when.max(1));
}

/// Seconds to the number of SYN-ACK retransmissions that take as long (`secs_to_retrans`).
fn secs_to_retrans(seconds: i32) -> u8 {
    if seconds <= 0 {
        return 0;
    }
    let (mut n, mut period, mut timeout) = (1u8, 1i64, 1i64);
    while (seconds as i64) > period && n < 255 {
        n += 1;
        timeout = (timeout * 2).min((TCP_RTO_MAX / 1000) as i64);
        period += timeout;
    }
    n
}

/// The inverse of [`secs_to_retrans`] (`retrans_to_secs`).
fn retrans_to_secs(retrans: u8) -> i32 {
    let (mut period, mut timeout) = (0i64, 1i64);
    for i in 0..retrans {
        if i > 0 {
            timeout = (timeout * 2).min((TCP_RTO_MAX / 1000) as i64);
        }
        period += timeout;
    }
    period as i32
}

/// A field of the rarely needed state; 0 where there is none.
fn hs(tp: &TcpSock, f: impl FnOnce(&TcpHandshake) -> i64) -> i64 {
    tp.rare.hs.as_ref().map_or(0, |h| f(h))
}

/// Reads an option; at most `len` bytes.
pub fn tcp_getsockopt(sk: &Arc<Sock>, level: i32, name: i32, len: usize) -> Result<Vec<u8>> {
    let mut guard = sk.lock_sock();
    let tp = tcp_sk(&mut *guard);
    if level == SOL_SOCKET {
        return Ok(cut(tcp_timestamping(tp).to_ne_bytes().to_vec(), len));
    }
    let s = &sk.net.sysctl;
    let or = |v: i64, default: i64| if v != 0 { v } else { default };
    let v: i64 = match name {
        _ if is_auth_option(name) => return tcp_auth_getsockopt(sk, tp, name, len),
        TCP_INFO => return Ok(cut(tcp_get_info(sk, tp).to_bytes(), len)),
        TCP_CC_INFO => {
            let info = tcp_ca(tp).get_info.map_or(Vec::new(), |f| f(sk, tp).to_bytes());
            return Ok(cut(info, len));
        }
        TCP_SAVED_SYN => return saved_syn(tp, len),
        TCP_FASTOPEN_KEY => return Ok(cut(tcp_fastopen_keys(sk).map_or_else(Vec::new, FastopenKeys::to_bytes), len)),
        TCP_FASTOPEN => inet_csk(sk).accept_queue.fastopenq.max_qlen.load(Relaxed) as i64,
        TCP_FASTOPEN_CONNECT => hs(tp, |h| h.fastopen_connect as i64),
        TCP_FASTOPEN_NO_COOKIE => hs(tp, |h| h.fastopen_no_cookie as i64),
        TCP_SAVE_SYN => hs(tp, |h| h.save_syn as i64),
        TCP_CONGESTION => {
            let mut name = tp.ca_ops.name.as_bytes().to_vec();
            name.resize(TCP_CA_NAME_MAX, 0);
            return Ok(cut(name, len));
        }
        TCP_MAXSEG => {
            let unconnected = matches!(sk.state(), TcpState::Close | TcpState::Listen);
            if unconnected && tp.rx_opt.user_mss != 0 { tp.rx_opt.user_mss as i64 } else { tp.mss_cache as i64 }
        }
        TCP_NODELAY => (tp.nonagle & TCP_NAGLE_OFF != 0) as i64,
        TCP_CORK => (tp.nonagle & TCP_NAGLE_CORK != 0) as i64,
        TCP_KEEPIDLE => (tcp_keepalive_time_when(sk, tp) / 1000) as i64,
        TCP_KEEPINTVL => or(tp.rare.opts.keepalive_intvl as i64, s.tcp_keepalive_intvl.get()),
        TCP_KEEPCNT => or(tp.rare.opts.keepalive_probes as i64, s.tcp_keepalive_probes.get()),
        TCP_SYNCNT => or(tp.rare.opts.icsk_syn_retries as i64, s.tcp_syn_retries.get()),
        TCP_LINGER2 if tp.rare.opts.linger2 < 0 => -1,
        TCP_LINGER2 if tp.rare.opts.linger2 == 0 => s.tcp_fin_timeout.get(),
        TCP_LINGER2 => (tp.rare.opts.linger2 / 1000) as i64,
        TCP_DEFER_ACCEPT => retrans_to_secs(tp.rare.opts.defer_accept) as i64,
        TCP_WINDOW_CLAMP => tp.window_clamp as i64,
        TCP_QUICKACK => !tp.in_pingpong_mode(sk) as i64,
        TCP_USER_TIMEOUT => tp.rare.opts.icsk_user_timeout as i64,
        TCP_NOTSENT_LOWAT => tp.rare.opts.notsent_lowat as i64,
        TCP_INQ => tp.rare.opts.recvmsg_inq as i64,
        TCP_RTO_MIN_US => tp.icsk_rto_min as i64 * 1000,
        TCP_DELACK_MAX_US => tp.rare.opts.icsk_delack_max as i64 * 1000,
        TCP_RTO_MAX_MS => tp.icsk_rto_max as i64,
        TCP_THIN_LINEAR_TIMEOUTS => tp.rare.opts.thin_lto as i64,
        TCP_THIN_DUPACK => 0,
        _ => return unsupported(sk),
    };
    Ok(cut((v as i32).to_ne_bytes().to_vec(), len))
}

/// `tcp_get_info`.
pub(crate) fn tcp_get_info(sk: &Sock, tp: &mut TcpSock) -> TcpInfo {
    tp.mstamp_refresh(sk);
    let state = sk.state();
    let max_rate = sk.rare.max_pacing_rate();
    let mut info = TcpInfo { tcpi_state: state as u8, tcpi_max_pacing_rate: max_rate, ..TcpInfo::default() };
    info.tcpi_reordering = tp.reordering;
    info.tcpi_snd_cwnd = tp.snd_cwnd;
    if max_rate != u64::MAX {
        tcp_pacing_limited(sk, tp);
    }
    info.tcpi_pacing_rate = tp.pacing_rate;
    if state == TcpState::Listen {
        // A listener shows its queue.
        info.tcpi_unacked = sk.rare.ack_backlog();
        info.tcpi_sacked = sk.rare.max_ack_backlog();
        return info;
    }
    fill_info_state(tp, &mut info);
    fill_info_counts(sk, tp, &mut info);
    info.tcpi_fackets = 0;
    info
}

fn fill_info_state(tp: &TcpSock, i: &mut TcpInfo) {
    let now = tp.jiffies32();
    i.tcpi_ca_state = tp.ca_state as u8;
    i.tcpi_retransmits = tp.icsk_retransmits;
    i.tcpi_probes = tp.icsk_probes_out;
    i.tcpi_backoff = tp.icsk_backoff;
    if tp.rx_opt.tstamp_ok {
        i.tcpi_options |= TCPI_OPT_TIMESTAMPS;
    }
    if tp.rx_opt.sack_ok {
        i.tcpi_options |= TCPI_OPT_SACK;
    }
    if tp.rx_opt.wscale_ok {
        i.tcpi_options |= TCPI_OPT_WSCALE;
        i.tcpi_wscale = tp.rx_opt.snd_wscale | tp.rx_opt.rcv_wscale << 4;
    }
    if tcp_ecn_mode_any(tp) {
        i.tcpi_options |= TCPI_OPT_ECN;
    }
    if tp.ecn_flags & TCP_ECN_SEEN != 0 {
        i.tcpi_options |= TCPI_OPT_ECN_SEEN;
    }
    if let Some(h) = &tp.rare.hs {
        i.tcpi_options |= if h.syn_data_acked { TCPI_OPT_SYN_DATA } else { 0 };
        i.tcpi_delivery_rate_app_limited = h.fastopen_client_fail << 1;
    }
    i.tcpi_delivery_rate_app_limited |= tp.rate_app_limited as u8;
    i.tcpi_rto = tp.icsk_rto * 1000;
    i.tcpi_ato = tp.icsk_ack.ato.min(tp.rare.opts.icsk_delack_max) * 1000;
    i.tcpi_snd_mss = tp.mss_cache;
    i.tcpi_rcv_mss = tp.icsk_ack.rcv_mss as u32;
    i.tcpi_unacked = tp.packets_out;
    i.tcpi_sacked = tp.sacked_out;
    i.tcpi_lost = tp.lost_out;
    i.tcpi_retrans = tp.retrans_out;
    i.tcpi_last_data_sent = now.wrapping_sub(tp.lsndtime);
    i.tcpi_last_data_recv = now.wrapping_sub(tp.icsk_ack.lrcvtime);
    i.tcpi_last_ack_recv = now.wrapping_sub(tp.rcv_tstamp);
    i.tcpi_pmtu = tp.icsk_pmtu_cookie;
    i.tcpi_rcv_ssthresh = tp.rcv_ssthresh;
    i.tcpi_rtt = tp.srtt_us >> 3;
    i.tcpi_rttvar = tp.mdev_us >> 2;
    i.tcpi_snd_ssthresh = tp.snd_ssthresh;
    i.tcpi_advmss = tp.advmss as u32;
    i.tcpi_rcv_rtt = tp.rcv_tune.rtt_us >> 3;
    i.tcpi_rcv_space = tp.rcv_tune.space;
}

fn fill_info_counts(sk: &Sock, tp: &TcpSock, i: &mut TcpInfo) {
    i.tcpi_total_retrans = tp.rec.total_retrans;
    i.tcpi_bytes_acked = tp.bytes_acked;
    i.tcpi_bytes_received = tp.bytes_received;
    i.tcpi_notsent_bytes = tp.write_seq.wrapping_sub(tp.snd_nxt);
    i.tcpi_segs_out = tp.segs_out;
    i.tcpi_segs_in = tp.segs_in;
    i.tcpi_min_rtt = tp.rtt_min[0].v;
    i.tcpi_data_segs_in = tp.data_segs_in;
    i.tcpi_data_segs_out = tp.data_segs_out;
    if tp.rate_interval_us != 0 {
        i.tcpi_delivery_rate = tp.rate_delivered as u64 * tp.mss_cache as u64 * 1_000_000 / tp.rate_interval_us as u64;
    }
    let running = |what| tcp_chrono_ms(sk, tp, what) as u64 * 1000;
    i.tcpi_rwnd_limited = running(TcpChrono::RwndLimited);
    i.tcpi_sndbuf_limited = running(TcpChrono::SndbufLimited);
    i.tcpi_busy_time = running(TcpChrono::Busy) + i.tcpi_rwnd_limited + i.tcpi_sndbuf_limited;
    i.tcpi_delivered = tp.delivered;
    i.tcpi_delivered_ce = tp.delivered_ce;
    i.tcpi_bytes_sent = tp.bytes_sent;
    i.tcpi_bytes_retrans = tp.rec.bytes_retrans;
    i.tcpi_dsack_dups = tp.rec.dsack_dups;
    i.tcpi_reord_seen = tp.rec.reord_seen;
    i.tcpi_rcv_ooopack = tp.ofo.rcv_ooopack;
    i.tcpi_snd_wnd = tp.snd_wnd;
    i.tcpi_rcv_wnd = tp.rcv_wnd;
    if let Some(a) = &tp.rare.accecn {
        i.tcpi_received_ce = a.received_ce;
        [i.tcpi_delivered_e1_bytes, i.tcpi_delivered_e0_bytes, i.tcpi_delivered_ce_bytes] = a.delivered_bytes;
        [i.tcpi_received_e1_bytes, i.tcpi_received_e0_bytes, i.tcpi_received_ce_bytes] = a.received_bytes;
        i.tcpi_accecn_fail_mode = a.fail_mode as u16;
        i.tcpi_accecn_opt_seen = a.saw_opt as u16;
    }
    i.tcpi_total_rto = tp.rec.total_rto;
    i.tcpi_total_rto_recoveries = tp.rec.total_rto_recoveries;
    i.tcpi_total_rto_time = tp.rec.total_rto_time;
    if tp.rec.rto_stamp != 0 {
        i.tcpi_total_rto_time = i.tcpi_total_rto_time.wrapping_add(tp.time_stamp().wrapping_sub(tp.rec.rto_stamp));
    }
}
