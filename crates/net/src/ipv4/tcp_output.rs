//! TCP transmit: what may be sent, and when.
//!
//! Interface: [`tcp_write_xmit`], [`__tcp_push_pending_frames`], [`tcp_connect`], [`tcp_send_fin`],
//! and what `tcp_mss` and `tcp_transmit` below it give.
//! Linux counterpart: `net/ipv4/tcp_output.c`.
//! Locks and context: socket lock; process or softirq context.

pub use super::tcp_fragment::*;
pub use super::tcp_mss::*;
use super::tcp_mtu_probe::*;
use super::tcp_route::tcp_rto_min;
pub use super::tcp_transmit::*;
use crate::core::dst_metrics::Rtax;

use super::inet_csk_timers::*;
use super::tcp_auth::{tcp_auth_connect, tcp_auth_len};
use super::tcp_chrono::{tcp_chrono_start, tcp_chrono_stop};
use super::tcp_cong::*;
use super::tcp_ecn::{tcp_ecn_send_syn, tcp_ecn_send_synack};
use super::tcp_fastopen::fastopen_rsk;
use super::tcp_fastopen_client::tcp_send_syn_data;
use super::tcp_mem::tcp_check_space;
use super::tcp_pacing::*;
use super::tcp_queue::*;
use super::tcp_sock::*;
use super::tcp_tsq::tcp_small_queue_check;
use super::tcp_tx_notify::tcp_notify_sent;
use crate::core::skbuff::GSO_MAX_SIZE;
use crate::core::snmp::Mib;
use crate::core::sock::{Sock, SockFlags};
use crate::hdr::tcp_flag;
use kernel::tp;
use std::sync::Arc;
use std::sync::atomic::Ordering::AcqRel;
use uapi::tcp::TcpState;
use uapi::{Errno, Result};

// --- What may be sent ---

fn tcp_urg_mode(tp: &TcpSock) -> bool {
    tp.snd_una != tp.snd_up
}

/// Minshall's variant of Nagle: one small segment in flight at a time (`tcp_minshall_check`).
fn tcp_minshall_check(tp: &TcpSock) -> bool {
    after(tp.snd_sml, tp.snd_una) && !after(tp.snd_sml, tp.snd_nxt)
}

/// Whether a segment that is not full must wait (RFC 9293, 3.7.4; `tcp_nagle_check`).
fn tcp_nagle_check(partial: bool, tp: &TcpSock, nonagle: u8) -> bool {
    partial && (nonagle & TCP_NAGLE_CORK != 0 || (nonagle == 0 && tp.packets_out != 0 && tcp_minshall_check(tp)))
}

fn tcp_nagle_test(tp: &TcpSock, s: &TxSkb, mss: u32, nonagle: u8) -> bool {
    nonagle & TCP_NAGLE_PUSH != 0
        || tcp_urg_mode(tp)
        || s.has(tcp_flag::FIN)
        || !tcp_nagle_check(s.len < mss, tp, nonagle)
}

/// Segments the congestion window has room for; at most half of it at once (`tcp_cwnd_test`).
fn tcp_cwnd_test(tp: &TcpSock) -> u32 {
    let room = tp.snd_cwnd.saturating_sub(tp.packets_in_flight());
    room.min((tp.snd_cwnd >> 1).max(1))
}

/// Whether at least one segment of the piece fits into the peer's window (`tcp_snd_wnd_test`).
pub(super) fn tcp_snd_wnd_test(tp: &TcpSock, s: &TxSkb, mss: u32) -> bool {
    let end = if s.len > mss { s.seq.wrapping_add(mss) } else { s.end_seq };
    !after(end, tp.wnd_end())
}

/// Segments for one packet to the device: what leaves in a millisecond at the current rate, and more when the path is
/// short (`tcp_tso_segs`, `tcp_tso_autosize`).
pub(super) fn tcp_tso_segs(sk: &Sock, tp: &TcpSock, mss: u32) -> u32 {
    // Each segment has a signature of its own.
    if tp.rare.auth.is_some() {
        return 1;
    }
    let s = &sk.net.sysctl;
    let least = match tcp_ca(tp).min_tso_segs {
        Some(f) => f(sk, tp),
        None => s.tcp_min_tso_segs.get() as u32,
    };
    let mut bytes = tcp_pacing_rate(sk, tp) >> TCP_PACING_SHIFT;
    let shift = tcp_min_rtt(tp) >> s.tcp_tso_rtt_log.get().min(31);
    if shift < 32 {
        bytes += GSO_MAX_SIZE as u64 >> shift;
    }
    let segs = bytes.min(GSO_MAX_SIZE as u64) as u32 / mss.max(1);
    segs.max(least).min(tcp_gso_limit(mss))
}

/// Segments that fit into the largest packet.
pub fn tcp_gso_limit(mss: u32) -> u32 {
    ((GSO_MAX_SIZE as u32 - 1 - 320) / mss.max(1)).max(1)
}

/// The least round-trip time of late, microseconds (`tcp_min_rtt`).
pub fn tcp_min_rtt(tp: &TcpSock) -> u32 {
    tp.rtt_min[0].v
}

/// Where to cut a piece that does not fit (`tcp_mss_split_point`).
fn tcp_mss_split_point(tp: &TcpSock, s: &TxSkb, mss: u32, max_segs: u32, nonagle: u8) -> u32 {
    let window = tp.wnd_end().wrapping_sub(s.seq);
    let max_len = mss.saturating_mul(max_segs);
    if max_len <= window && !tp.tx.send_head_is_last() {
        return max_len;
    }
    let needed = s.len.min(window);
    if max_len <= needed {
        return max_len;
    }
    let partial = needed % mss;
    if tcp_nagle_check(partial != 0, tp, nonagle) { needed - partial } else { needed }
}

/// Segments worth sending when no part of the window is (`tcp_max_tso_deferred_mss`).
const TCP_MAX_TSO_DEFERRED: u32 = 3;

/// Why [`tcp_write_xmit`] stopped.
#[derive(Default)]
struct Limits {
    cwnd: bool,
    rwnd: bool,
}

/// Whether waiting for the next ACK will make a fuller packet (`tcp_tso_should_defer`).
fn tcp_tso_should_defer(sk: &Sock, tp: &TcpSock, s: &TxSkb, mss: u32, max_segs: u32, lim: &mut Limits) -> bool {
    if tp.ca_state >= TcpCaState::Recovery || tp.jiffies32().wrapping_sub(tp.lsndtime) > 1 {
        return false;
    }
    let send_win = tp.wnd_end().wrapping_sub(s.seq);
    let cong_win = tp.snd_cwnd.saturating_sub(tp.packets_in_flight()).saturating_mul(mss);
    let limit = send_win.min(cong_win);
    if limit >= max_segs.saturating_mul(mss) || (!tp.tx.send_head_is_last() && limit >= s.len) {
        return false;
    }
    // A third of the window is worth sending.
    let enough = match sk.net.sysctl.tcp_tso_win_divisor.get() as u32 {
        0 => TCP_MAX_TSO_DEFERRED.saturating_mul(mss) + 1,
        n => tp.snd_wnd.min(tp.snd_cwnd.saturating_mul(mss)) / n,
    };
    if limit >= enough {
        return false;
    }
    let Some(head) = tp.tx.rtx_front() else { return false };
    if tp.tcp_mstamp.saturating_sub(head.mstamp) < (tp.srtt_us >> 4) as u64 {
        return false;
    }
    if cong_win < send_win {
        if cong_win <= s.len {
            lim.cwnd = true;
            return true;
        }
    } else if send_win <= s.len {
        lim.rwnd = true;
        return true;
    }
    !(s.has(tcp_flag::FIN) || s.eor)
}

// --- Sending ---

/// How eager a [`tcp_write_xmit`] is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Push {
    /// All that may be sent.
    All,
    /// One packet.
    One,
    /// One segment, whatever the congestion window says: a loss probe.
    Probe,
}

/// Sends what the windows allow. `true`: nothing is in flight and something still waits, so the peer's window must be
/// probed (`tcp_write_xmit`).
pub fn tcp_write_xmit(sk: &Arc<Sock>, tp: &mut TcpSock, mss: u32, nonagle: u8, push: Push) -> bool {
    tp!(tcp_write_xmit, sk);
    tp.mstamp_refresh(sk);
    let max_segs = tcp_tso_segs(sk, tp, mss);
    let mut lim = Limits::default();
    let mut sent = 0;
    if push == Push::All {
        match tcp_mtu_probe(sk, tp) {
            MtuProbe::No => {}
            MtuProbe::Wait => return false,
            MtuProbe::Ready => sent = tcp_xmit_mtu_probe(sk, tp),
        }
    }
    while !tp.tx.write_is_empty() {
        if push != Push::Probe && tcp_pacing_check(sk, tp) {
            break;
        }
        let mut quota = tcp_cwnd_test(tp);
        if quota == 0 {
            if push != Push::Probe {
                lim.cwnd = true;
                break;
            }
            quota = 1;
        }
        quota = quota.min(max_segs);
        let missing = quota.saturating_mul(mss).saturating_sub(tp.tx.send_head().map_or(0, |s| s.len));
        if missing > 0 && !tp.tx.send_head_is_last() && tp.tx.grow_head(missing).is_some() {
            sk.wmem_queued.fetch_sub(TX_SKB_OVERHEAD as usize, AcqRel);
        }
        let Some(s) = tp.tx.send_head_mut() else { break };
        let tso_segs = tcp_init_tso_segs(s, mss);
        let Some(s) = tp.tx.send_head() else { break };
        if !tcp_snd_wnd_test(tp, s, mss) {
            lim.rwnd = true;
            break;
        }
        if tso_segs == 1 {
            let eager = if tp.tx.send_head_is_last() { nonagle } else { TCP_NAGLE_PUSH };
            if !tcp_nagle_test(tp, s, mss, eager) {
                break;
            }
        } else if push == Push::All && tcp_tso_should_defer(sk, tp, s, mss, max_segs, &mut lim) {
            break;
        }
        let (len, truesize) = (s.len, s.truesize);
        let limit =
            if tso_segs > 1 && !tcp_urg_mode(tp) { tcp_mss_split_point(tp, s, mss, quota, nonagle) } else { mss };
        if len > limit && !tcp_fragment(sk, tp, tp.tx.head_index(), limit, mss) {
            break;
        }
        if tcp_small_queue_check(sk, tp, truesize) {
            break;
        }
        if tcp_xmit_piece(sk, tp, tp.tx.head_index()).is_err() {
            break;
        }
        // `tcp_minshall_update`: the last partial segment; a probe of a window is none.
        if let Some((len, end_seq)) = tp.tx.send_head().map(|s| (s.len, s.end_seq))
            && len % mss != 0
        {
            tp.snd_sml = end_seq;
        }
        sent += tcp_event_new_data_sent(sk, tp);
        tcp_notify_sent(sk, tp);
        if push != Push::All {
            break;
        }
    }
    tcp_chrono_start(tp, if lim.rwnd { TcpChrono::RwndLimited } else { TcpChrono::Busy });
    if !lim.rwnd {
        tcp_chrono_stop(tp, TcpChrono::RwndLimited);
    }
    lim.cwnd |= tp.packets_in_flight() >= tp.snd_cwnd;
    if sent > 0 || lim.cwnd {
        tcp_cwnd_validate(sk, tp, lim.cwnd);
    }
    if sent == 0 {
        return tp.packets_out == 0 && !tp.tx.write_is_empty();
    }
    if tcp_in_cwnd_reduction(tp) {
        tp.rec.make().prr_out += sent;
    }
    if push != Push::Probe {
        tcp_schedule_loss_probe(sk, tp, false);
    }
    false
}

/// Sends the probe that is next; 1 if it went out.
#[cold]
fn tcp_xmit_mtu_probe(sk: &Arc<Sock>, tp: &mut TcpSock) -> u32 {
    let Some((seq, end_seq)) = tp.tx.send_head().map(|s| (s.seq, s.end_seq)) else { return 0 };
    if tcp_xmit_piece(sk, tp, tp.tx.head_index()).is_err() {
        return 0;
    }
    tcp_mtu_probe_sent(tp, seq, end_seq);
    tcp_event_new_data_sent(sk, tp)
}

/// `tcp_in_cwnd_reduction`.
#[inline]
pub fn tcp_in_cwnd_reduction(tp: &TcpSock) -> bool {
    matches!(tp.ca_state, TcpCaState::Cwr | TcpCaState::Recovery)
}

/// The send head has gone out (`tcp_event_new_data_sent`); its segments.
fn tcp_event_new_data_sent(sk: &Sock, tp: &mut TcpSock) -> u32 {
    let Some(s) = tp.tx.send_head() else { return 0 };
    let (pcount, end_seq) = (s.pcount(), s.end_seq);
    tp.snd_nxt = end_seq;
    tp.tx.advance_head();
    let prior = tp.packets_out;
    tp.packets_out += pcount;
    if prior == 0 || tp.icsk_pending == ICSK_TIME_LOSS_PROBE {
        tcp_rearm_rto(sk, tp);
    }
    sk.net.mib.add(Mib::TcpExtTCPOrigDataSent, pcount as u64);
    tcp_check_space(sk, tp);
    pcount
}

/// Notes whether the window is what limits (`tcp_cwnd_validate`).
fn tcp_cwnd_validate(sk: &Sock, tp: &mut TcpSock, limited: bool) {
    let now = tp.jiffies32();
    if !before(tp.snd_una, tp.cwnd_usage_seq) || limited || (!tp.is_cwnd_limited && tp.packets_out > tp.max_packets_out)
    {
        tp.is_cwnd_limited = limited;
        tp.max_packets_out = tp.packets_out;
        tp.cwnd_usage_seq = tp.snd_nxt;
    }
    if tcp_is_cwnd_limited(tp) {
        (tp.snd_cwnd_used, tp.snd_cwnd_stamp) = (0, now);
        return;
    }
    tp.snd_cwnd_used = tp.snd_cwnd_used.max(tp.packets_out);
    let idle = now.wrapping_sub(tp.snd_cwnd_stamp) >= tp.icsk_rto;
    if idle && sk.net.sysctl.tcp_slow_start_after_idle.on() && tcp_ca(tp).cong_control.is_none() {
        tcp_cwnd_application_limited(tp);
    }
    // All that fits the send buffer has gone, and the writer waits for room.
    let open = matches!(sk.state(), TcpState::Established | TcpState::CloseWait);
    if tp.tx.send_head().is_none() && sk.flag(SockFlags::NOSPACE) && open {
        tcp_chrono_start(tp, TcpChrono::SndbufLimited);
    }
}

/// Sends what may be sent, and sees to probing (`__tcp_push_pending_frames`).
pub fn __tcp_push_pending_frames(sk: &Arc<Sock>, tp: &mut TcpSock, mss: u32, nonagle: u8) {
    if sk.state() != TcpState::Close && tcp_write_xmit(sk, tp, mss, nonagle, Push::All) {
        tcp_check_probe_timer(sk, tp);
    }
}

/// `tcp_push_pending_frames`.
pub fn tcp_push_pending_frames(sk: &Arc<Sock>, tp: &mut TcpSock) {
    if !tp.tx.write_is_empty() {
        let mss = tcp_current_mss(sk, tp);
        let nonagle = tp.nonagle;
        __tcp_push_pending_frames(sk, tp, mss, nonagle);
    }
}

/// Sends one packet of a writer that has more to come (`tcp_push_one`).
pub fn tcp_push_one(sk: &Arc<Sock>, tp: &mut TcpSock, mss: u32) {
    tcp_write_xmit(sk, tp, mss, TCP_NAGLE_PUSH, Push::One);
}

fn tcp_probe0_base(tp: &TcpSock) -> u32 {
    tp.icsk_rto.max(TCP_RTO_MIN)
}

/// `tcp_probe0_when`: with back-off, at most `max`.
pub fn tcp_probe0_when(tp: &TcpSock, max: u32) -> u32 {
    let backoff = (tp.icsk_backoff as u32).min(31);
    ((tcp_probe0_base(tp) as u64) << backoff).min(max as u64) as u32
}

/// Not later than `TCP_USER_TIMEOUT` (`tcp_clamp_probe0_to_user_timeout`).
pub fn tcp_clamp_probe0_to_user_timeout(tp: &TcpSock, when: u32) -> u32 {
    if tp.rare.opts.icsk_user_timeout == 0 || tp.rec.icsk_probes_tstamp == 0 {
        return when;
    }
    let elapsed = (tp.jiffies32().wrapping_sub(tp.rec.icsk_probes_tstamp) as i32).max(0) as u32;
    when.min(tp.rare.opts.icsk_user_timeout.saturating_sub(elapsed).max(TCP_TIMEOUT_MIN))
}

/// `tcp_check_probe_timer`.
pub fn tcp_check_probe_timer(sk: &Sock, tp: &mut TcpSock) {
    if tp.packets_out == 0 && tp.icsk_pending == 0 {
        let when = tcp_probe0_base(tp);
        inet_csk_reset_xmit_timer(sk, tp, ICSK_TIME_PROBE0, when, TCP_RTO_MAX);
    }
}

/// Microseconds until the oldest segment's timeout (`tcp_rto_delta_us`).
fn tcp_rto_delta_us(tp: &TcpSock) -> i64 {
    let sent = tp.tx.rtx_front().map_or(tp.tcp_mstamp, |s| s.mstamp);
    (sent + tp.icsk_rto as u64 * 1000) as i64 - tp.tcp_mstamp as i64
}

/// RFC 6298, 5.1 to 5.3 (`tcp_rearm_rto`).
pub fn tcp_rearm_rto(sk: &Sock, tp: &mut TcpSock) {
    if fastopen_rsk(tp).is_some() {
        // The timer is the SYN-ACK's.
        return;
    }
    if tp.packets_out == 0 {
        inet_csk_clear_xmit_timer(tp);
        return;
    }
    let mut rto = tp.icsk_rto;
    if matches!(tp.icsk_pending, ICSK_TIME_REO_TIMEOUT | ICSK_TIME_LOSS_PROBE) {
        // Those timers were set behind the last transmission: count from that.
        rto = (tcp_rto_delta_us(tp).max(1) as u64).div_ceil(1000) as u32;
    }
    inet_csk_reset_xmit_timer(sk, tp, ICSK_TIME_RETRANS, rto, TCP_RTO_MAX);
}

/// Arms a tail loss probe (RFC 8985, 7.2); `false` when there is to be none (`tcp_schedule_loss_probe`).
pub fn tcp_schedule_loss_probe(sk: &Sock, tp: &mut TcpSock, advancing_rto: bool) -> bool {
    let early = sk.net.sysctl.tcp_early_retrans.get();
    if !(early == 3 || early == 4)
        || tp.packets_out == 0
        || fastopen_rsk(tp).is_some()
        || !tp.rx_opt.sack_ok
        || !matches!(tp.ca_state, TcpCaState::Open | TcpCaState::Cwr)
        || !sk.state().is_in(TcpState::Established.flag() | TcpState::CloseWait.flag() | CLOSING_STATES)
    {
        return false;
    }
    let mut timeout = if tp.srtt_us != 0 {
        let slack = if tp.packets_out == 1 { tcp_rto_min(tp) } else { TCP_TIMEOUT_MIN };
        (tp.srtt_us >> 2).div_ceil(1000) + slack
    } else {
        TCP_TIMEOUT_INIT
    };
    let rto_in = if advancing_rto { tp.icsk_rto as i64 * 1000 } else { tcp_rto_delta_us(tp) };
    if rto_in > 0 {
        timeout = timeout.min((rto_in as u64).div_ceil(1000) as u32);
    }
    inet_csk_reset_xmit_timer(sk, tp, ICSK_TIME_LOSS_PROBE, timeout, TCP_RTO_MAX);
    true
}

const CLOSING_STATES: u32 =
    TcpState::FinWait1.flag() | TcpState::Closing.flag() | TcpState::LastAck.flag() | TcpState::FinWait2.flag();

// --- ACKs, probes, SYN, FIN ---

/// Sends an ACK a little later, unless one is due soon anyway (RFC 5681, 4.2; `tcp_send_delayed_ack`).
pub fn tcp_send_delayed_ack(sk: &Arc<Sock>, tp: &mut TcpSock) {
    let a = tp.icsk_ack;
    let mut ato = a.ato;
    if ato > TCP_DELACK_MIN {
        let slow = tp.in_pingpong_mode(sk) || a.pending & ICSK_ACK_PUSHED != 0;
        let mut max_ato = if slow { TCP_DELACK_MAX } else { 500 };
        if tp.srtt_us != 0 {
            max_ato = max_ato.min((tp.srtt_us >> 3).div_ceil(1000).max(TCP_DELACK_MIN));
        }
        ato = ato.min(max_ato);
    }
    // Sooner than a peer with the same least timeout would retransmit (`tcp_delack_max`).
    ato = ato.min(tp.rare.opts.icsk_delack_max).min(tcp_rto_min(tp).max(2) - 1).max(1);
    let now = sk.net.kernel().jiffies_coarse();
    let mut timeout = now + ato as u64;
    if a.pending & ICSK_ACK_TIMER != 0 {
        let left = a.timeout.wrapping_sub(now as u32) as i32;
        if left <= (ato / 4) as i32 {
            tcp_send_ack(sk, tp);
            return;
        }
        timeout = timeout.min(now + left as u64);
    }
    tp.icsk_ack.pending |= ICSK_ACK_SCHED | ICSK_ACK_TIMER;
    inet_csk_reset_delack_timer(sk, tp, timeout);
}

/// Something to make the peer open its window or show that it lives (`tcp_write_wakeup`).
pub fn tcp_write_wakeup(sk: &Arc<Sock>, tp: &mut TcpSock, mib: Mib) -> Result<()> {
    if sk.state() == TcpState::Close {
        return Err(Errno::EPIPE);
    }
    let mss = tcp_current_mss(sk, tp);
    let wnd_end = tp.wnd_end();
    if let Some(s) = tp.tx.send_head_mut()
        && before(s.seq, wnd_end)
    {
        // The window has room, though not for what was to be sent: fill it.
        let room = wnd_end.wrapping_sub(s.seq);
        s.tcp_flags |= tcp_flag::PSH;
        let (end, len) = (s.end_seq, s.len);
        if room < end.wrapping_sub(s.seq) || len > mss {
            tcp_fragment(sk, tp, tp.tx.head_index(), room.min(mss), mss);
            if let Some(s) = tp.tx.send_head_mut() {
                s.tcp_flags |= tcp_flag::PSH;
            }
        }
        if before(tp.pushed_seq, end) {
            tp.pushed_seq = end;
        }
        if let Some(s) = tp.tx.send_head_mut() {
            tcp_init_tso_segs(s, mss);
        }
        tcp_xmit_piece(sk, tp, tp.tx.head_index())?;
        tcp_event_new_data_sent(sk, tp);
        return Ok(());
    }
    if between(tp.snd_up, tp.snd_una.wrapping_add(1), tp.snd_una.wrapping_add(0xffff)) {
        tcp_xmit_probe_skb(sk, tp, true, mib)?;
    }
    tcp_xmit_probe_skb(sk, tp, false, mib)
}

/// A zero-window probe, and the next one's time (RFC 9293, 3.8.6.1; `tcp_send_probe0`).
pub fn tcp_send_probe0(sk: &Arc<Sock>, tp: &mut TcpSock) {
    let r = tcp_write_wakeup(sk, tp, Mib::TcpExtTCPWinProbe);
    if tp.packets_out != 0 || tp.tx.write_is_empty() {
        (tp.icsk_probes_out, tp.icsk_backoff) = (0, 0);
        if let Some(r) = tp.rec.if_used() {
            r.icsk_probes_tstamp = 0;
        }
        return;
    }
    tp.icsk_probes_out = tp.icsk_probes_out.saturating_add(1);
    let mut when = TCP_RESOURCE_PROBE_INTERVAL;
    if r.is_ok() {
        if (tp.icsk_backoff as i64) < sk.net.sysctl.tcp_retries2.get() {
            tp.icsk_backoff += 1;
        }
        when = tcp_probe0_when(tp, tp.icsk_rto_max);
    }
    when = tcp_clamp_probe0_to_user_timeout(tp, when);
    inet_csk_reset_xmit_timer(sk, tp, ICSK_TIME_PROBE0, when, TCP_RTO_MAX);
}

/// Queues the FIN behind the data and pushes (`tcp_send_fin`).
pub fn tcp_send_fin(sk: &Arc<Sock>, tp: &mut TcpSock) {
    let seq = tp.write_seq;
    if let Some(tail) = tp.tx.write_back_mut() {
        tail.tcp_flags |= tcp_flag::FIN;
        tail.end_seq = tail.end_seq.wrapping_add(1);
    } else {
        tcp_queue_nondata(sk, tp, seq, tcp_flag::ACK | tcp_flag::FIN);
    }
    tp.write_seq = tp.write_seq.wrapping_add(1);
    let mss = tcp_current_mss(sk, tp);
    __tcp_push_pending_frames(sk, tp, mss, TCP_NAGLE_OFF);
}

/// Queues a piece that is only a SYN or FIN (`tcp_init_nondata_skb`).
fn tcp_queue_nondata(sk: &Sock, tp: &mut TcpSock, seq: u32, flags: u8) {
    let s = TxSkb {
        seq,
        end_seq: seq.wrapping_add(1),
        tcp_flags: flags,
        gso_segs: 1,
        truesize: TX_SKB_OVERHEAD,
        ..TxSkb::default()
    };
    sk.wmem_queued.fetch_add(TX_SKB_OVERHEAD as usize, AcqRel);
    tp.tx.push_back(Box::new(s));
}

/// What the SYN says (`tcp_connect_init`).
fn tcp_connect_init(sk: &Sock, tp: &mut TcpSock) -> Result<()> {
    let dst = tcp_dst(sk, tp)?;
    let s = &sk.net.sysctl;
    tp.tcp_header_len = 20 + if s.tcp_timestamps.on() { TCPOLEN_TSTAMP_ALIGNED as u16 } else { 0 };
    tp.tcp_header_len += tcp_auth_len(tp);
    if tp.rx_opt.user_mss != 0 {
        tp.rx_opt.mss_clamp = tp.rx_opt.user_mss;
    }
    tp.max_window = 0;
    tcp_mtup_init(sk, tp);
    tcp_sync_mss(sk, tp, dst.mtu());
    tp.advmss = tcp_mss_clamp(tp, tcp_advertise_mss(&dst, tp.is_v6()));
    tcp_initialize_rcv_mss(tp);
    let full = tcp_full_space(sk, tp);
    let mut clamp = if tp.window_clamp != 0 { tp.window_clamp } else { dst.metric(Rtax::Window) };
    if sk.flag(SockFlags::RCVBUF_LOCK) && (clamp > full || clamp == 0) {
        clamp = full;
    }
    // Whether the peer takes time stamps is not known yet: no room is kept for them.
    let mss = tp.advmss as u32;
    let rwnd = dst.metric(Rtax::Initrwnd);
    let (wnd, clamp, wscale) = tcp_select_initial_window(&sk.net, full, mss, clamp, rwnd, s.tcp_window_scaling.on());
    (tp.rcv_wnd, tp.window_clamp, tp.rx_opt.rcv_wscale) = (wnd, clamp, wscale);
    tp.rcv_ssthresh = wnd;
    sk.take_error().ok();
    (tp.snd_wnd, tp.snd_wl1) = (0, 0);
    let isn = tp.write_seq;
    (tp.snd_una, tp.snd_sml, tp.snd_up, tp.snd_nxt) = (isn, isn, isn, isn);
    (tp.rcv_nxt, tp.rcv_wup, tp.copied_seq) = (0, 0, 0);
    tp.icsk_rto = TCP_TIMEOUT_INIT;
    tp.icsk_retransmits = 0;
    (tp.retrans_out, tp.lost_out, tp.sacked_out) = (0, 0, 0);
    if let Some(r) = tp.rec.if_used() {
        (r.undo_marker, r.undo_retrans) = (0, -1);
    }
    Ok(())
}

/// The user's `TCP_MAXSEG` over what the path would allow (`tcp_mss_clamp`).
pub fn tcp_mss_clamp(tp: &TcpSock, mss: u16) -> u16 {
    if tp.rx_opt.user_mss != 0 { mss.min(tp.rx_opt.user_mss) } else { mss }
}

/// A guess at the peer's segment size (`tcp_initialize_rcv_mss`).
pub fn tcp_initialize_rcv_mss(tp: &mut TcpSock) {
    let hint = (tp.advmss as u32).min(tp.mss_cache).min(tp.rcv_wnd / 2).min(TCP_MSS_DEFAULT);
    tp.icsk_ack.rcv_mss = hint.max(TCP_MIN_MSS) as u16;
}

/// Builds and sends the SYN; the state is `SYN_SENT` already, and the socket hashed and routed (`tcp_connect`).
pub fn tcp_connect(sk: &Arc<Sock>, tp: &mut TcpSock) -> Result<()> {
    tp!(tcp_connect, sk);
    tp.mstamp_refresh(sk);
    tcp_auth_connect(tp)?;
    tcp_connect_init(sk, tp)?;
    let flags = tcp_flag::SYN | tcp_ecn_send_syn(sk, tp);
    let seq = tp.write_seq;
    tcp_queue_nondata(sk, tp, seq, flags);
    tp.write_seq = seq.wrapping_add(1);
    tp.retrans_stamp = tp.time_stamp().max(1);
    let (r, sent) = match tp.rare.hs.as_ref().is_some_and(|h| h.fastopen_req.is_some()) {
        true => tcp_send_syn_data(sk, tp),
        false => (tcp_xmit_piece(sk, tp, 0), 1),
    };
    (0..sent).for_each(|_| tp.tx.advance_head());
    tp.packets_out += sent as u32;
    // Data that did not go with the SYN waits behind it.
    tp.snd_nxt = tp.tx.send_head().map_or(tp.write_seq, |s| s.seq);
    tp.pushed_seq = tp.snd_nxt;
    sk.net.mib.inc(Mib::TcpActiveOpens);
    let rto = tp.icsk_rto;
    inet_csk_reset_xmit_timer(sk, tp, ICSK_TIME_RETRANS, rto, TCP_RTO_MAX);
    match r {
        Err(e @ Errno::ECONNREFUSED) => Err(e),
        // Anything else may pass: the SYN is sent again.
        _ => Ok(()),
    }
}

/// The answer to a SYN that crossed ours: the same SYN with an ACK (RFC 9293, figure 8; `tcp_send_synack`).
pub fn tcp_send_synack(sk: &Arc<Sock>, tp: &mut TcpSock) {
    let ecn = tcp_ecn_send_synack(tp);
    if let Some(s) = tp.tx.rtx_mut(0)
        && s.has(tcp_flag::SYN)
    {
        s.tcp_flags = s.tcp_flags & !(tcp_flag::ECE | tcp_flag::CWR) | tcp_flag::ACK | ecn;
        let _ = tcp_xmit_piece(sk, tp, 0);
    }
}

/// How much is sent and not acknowledged, or waits, in bytes with SYN and FIN (`SIOCOUTQ`).
pub fn tcp_outq(tp: &TcpSock) -> u32 {
    tp.write_seq.wrapping_sub(tp.snd_una)
}
