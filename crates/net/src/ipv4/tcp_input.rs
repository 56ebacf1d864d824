//! TCP receive: the state machine of RFC 9293, 3.10.7.
//!
//! Interface: [`tcp_rcv_established`], [`tcp_rcv_state_process`], [`tcp_init_transfer`].
//! Linux counterpart: `net/ipv4/tcp_input.c`.
//! Locks and context: softirq context or backlog; socket lock.

use super::inet_csk_timers::*;
use super::tcp_ack::*;
use super::tcp_auth::{tcp_auth_len, tcp_auth_peer_isn};
use super::tcp_cong::*;
use super::tcp_ecn::*;
use super::tcp_fastopen::*;
use super::tcp_fastopen_cookie::{FastopenCookie, tcp_fastopen_option};
use super::tcp_fastopen_rcv::*;
use super::tcp_mem::*;
use super::tcp_minisocks::tcp_time_wait;
use super::tcp_mtu_probe::tcp_mtup_init;
use super::tcp_options::{accecn_option, tcp_parse_options};
use super::tcp_output::*;
use super::tcp_path_metrics::{tcp_init_metrics, tcp_update_metrics};
use super::tcp_rcvq::*;
use super::tcp_recovery::{Ack, Rexmit};
use super::tcp_retransmit::{tcp_mark_skb_lost, tcp_non_congestion_loss_retransmit};
use super::tcp_rmem::tcp_can_ingest;
use super::tcp_route::tcp_init_cwnd;
use super::tcp_rtt::*;
use super::tcp_sock::*;
use super::tcp_state::*;
use crate::core::skbuff::Skb;
use crate::core::snmp::Mib;
use crate::core::sock::{RCV_SHUTDOWN, SEND_SHUTDOWN, Sock, SockFlags};
use crate::hdr::{TcpHdr, tcp_flag};
use kernel::tp;
use std::sync::Arc;
use std::sync::atomic::Ordering::AcqRel;
use uapi::tcp::TcpState;

/// A timestamp older than this many seconds means nothing any more (RFC 7323, 5.5).
const TCP_PAWS_24DAYS: u32 = 60 * 60 * 24 * 24;

// --- After data or an ACK ---

/// Sends what the ACK made room for, and tells a writer of room (`tcp_data_snd_check`).
fn tcp_data_snd_check(sk: &Arc<Sock>, tp: &mut TcpSock) {
    tcp_push_pending_frames(sk, tp);
    tcp_check_space(sk, tp);
}

// --- Acceptability ---

/// PAWS (RFC 7323, 5.3; `tcp_paws_check`).
fn tcp_paws_ok(tp: &TcpSock, window: i32) -> bool {
    let o = &tp.rx_opt;
    o.ts_recent.wrapping_sub(o.rcv_tsval) as i32 <= window
        || (tp.jiffies32() / 1000).wrapping_sub(o.ts_recent_stamp) >= TCP_PAWS_24DAYS
        || o.ts_recent == 0
}

/// A pure ACK that came in the wrong order is no reason for alarm (`tcp_disordered_ack`).
fn tcp_disordered_ack(tp: &TcpSock, th: &TcpHdr, cb: &TcpSkbCb) -> bool {
    let window = (th.window.get() as u32) << tp.rx_opt.snd_wscale;
    let updates = after(cb.seq, tp.snd_wl1) || (cb.seq == tp.snd_wl1 && window > tp.snd_wnd);
    th.has(tcp_flag::ACK)
        && cb.seq == cb.end_seq
        && cb.seq == tp.rcv_nxt
        && cb.ack_seq == tp.snd_una
        && !updates
        && (tp.rx_opt.ts_recent.wrapping_sub(tp.rx_opt.rcv_tsval) as i32) <= tp.icsk_rto as i32
}

/// Where a segment lies outside the window.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outside {
    /// All of it has come before.
    Old,
    Beyond,
}

/// RFC 9293, 3.10.7.4, first step: anything of it in the window. What reaches beyond it is taken only while nothing waits to
/// be read: a peer that does not keep to the window must not make us keep more than it (`tcp_sequence`).
fn tcp_sequence(tp: &TcpSock, cb: &TcpSkbCb) -> Result<(), Outside> {
    if before(cb.end_seq, tp.rcv_wup) {
        return Err(Outside::Old);
    }
    let end = tp.rcv_nxt.wrapping_add(tp.receive_window());
    // A FIN takes no room.
    let fin = (cb.tcp_flags & tcp_flag::FIN != 0) as u32;
    if !after(cb.end_seq.wrapping_sub(fin), end) {
        return Ok(());
    }
    if after(cb.seq, end) || !tp.receive_queue.is_empty() { Err(Outside::Beyond) } else { Ok(()) }
}

/// A RST from a peer that has counted its own FIN (`tcp_reset_check`).
fn tcp_reset_check(sk: &Sock, tp: &TcpSock, cb: &TcpSkbCb) -> bool {
    const CLOSED: u32 = TcpState::CloseWait.flag() | TcpState::LastAck.flag() | TcpState::Closing.flag();
    cb.seq == tp.rcv_nxt.wrapping_sub(1) && sk.state().is_in(CLOSED)
}

/// The checks that come before the ACK: timestamps, window, RST, SYN (`tcp_validate_incoming`). `false`: it was dealt with.
fn tcp_validate_incoming(sk: &Arc<Sock>, tp: &mut TcpSock, skb: &Skb, th: &TcpHdr, syn_inerr: bool) -> bool {
    let cb = *tcp_skb_cb(skb);
    let (rst, syn) = (th.has(tcp_flag::RST), th.has(tcp_flag::SYN));
    tcp_parse_options(tcp_hdr_opts(skb), &mut tp.rx_opt, true);
    if tp.rx_opt.saw_tstamp && !rst && !tcp_paws_ok(tp, TCP_PAWS_WINDOW) && !tcp_disordered_ack(tp, th, &cb) {
        if syn {
            return syn_challenge(sk, tp, syn_inerr);
        }
        if cb.seq == cb.end_seq && cb.seq == tp.rcv_nxt && before(cb.ack_seq, tp.snd_una) {
            // An old ACK that was overtaken: nothing to say to that.
            sk.net.mib.inc(Mib::TcpExtPAWSOldAck);
            return false;
        }
        sk.net.mib.inc(Mib::TcpExtPAWSEstab);
        if !tcp_oow_rate_limited(sk, tp, Some(skb), Mib::TcpExtTCPACKSkippedPAWS) {
            tcp_send_dupack(sk, tp, skb);
        }
        return false;
    }
    if let Err(outside) = tcp_sequence(tp, &cb) {
        if !rst {
            if syn {
                return syn_challenge(sk, tp, syn_inerr);
            }
            if outside == Outside::Beyond {
                sk.net.mib.inc(Mib::TcpExtBeyondWindow);
            }
            if !tcp_oow_rate_limited(sk, tp, Some(skb), Mib::TcpExtTCPACKSkippedSeq) {
                tcp_send_dupack(sk, tp, skb);
            }
        } else if tcp_reset_check(sk, tp, &cb) {
            tcp_reset(sk, tp);
        }
        return false;
    }
    if rst {
        // RFC 5961, 3.2: exactly in place it resets, elsewhere in the window it is asked about.
        if cb.seq == tp.rcv_nxt || tcp_reset_check(sk, tp, &cb) || rst_at_sack_edge(tp, cb.seq) {
            tcp_reset(sk, tp);
        } else {
            if tp.rare.hs.as_ref().is_some_and(|h| h.syn_fastopen)
                && tp.data_segs_in == 0
                && sk.state() == TcpState::Established
            {
                tcp_fastopen_active_disable(&sk.net);
            }
            tcp_send_challenge_ack(sk, tp);
        }
        return false;
    }
    if syn {
        tcp_accecn_reflect(tp, skb);
        let opt = accecn_option(tcp_hdr_opts(skb), &tp.rx_opt);
        tcp_accecn_syn_option(tp, opt);
        // The SYN-ACK that answers the SYN we sent again while both opened at once.
        let crossed = sk.state() == TcpState::SynRecv
            && th.has(tcp_flag::ACK)
            && cb.seq.wrapping_add(1) == cb.end_seq
            && cb.seq.wrapping_add(1) == tp.rcv_nxt
            && cb.ack_seq == tp.snd_nxt;
        return crossed || syn_challenge(sk, tp, syn_inerr);
    }
    true
}

/// With SACKed data beyond a hole the peer's RST is at that data's end.
fn rst_at_sack_edge(tp: &TcpSock, seq: u32) -> bool {
    let blocks = tp.ofo.selective_acks.iter().take(tp.rx_opt.num_sacks as usize);
    let edge = blocks.map(|b| b.end_seq).reduce(super::tcp_queue::seq_max);
    edge == Some(seq)
}

/// RFC 5961, 4.2.
fn syn_challenge(sk: &Arc<Sock>, tp: &mut TcpSock, syn_inerr: bool) -> bool {
    if syn_inerr {
        sk.net.mib.inc(Mib::TcpInErrs);
    }
    sk.net.mib.inc(Mib::TcpExtTCPSYNChallenge);
    tcp_send_challenge_ack(sk, tp);
    false
}

// --- Urgent data ---

/// A new urgent pointer (RFC 9293, 3.8.5; RFC 6093; `tcp_check_urg`).
fn tcp_check_urg(sk: &Sock, tp: &mut TcpSock, th: &TcpHdr) {
    // The pointer is to the byte behind, as everyone has it; to the byte itself, if RFC 1122 is to be followed.
    let mut ptr = th.urg_ptr.get() as u32;
    if !sk.net.sysctl.tcp_stdurg.on() {
        ptr = ptr.saturating_sub(1);
    }
    let ptr = th.seq.get().wrapping_add(ptr);
    if after(tp.copied_seq, ptr) || before(ptr, tp.rcv_nxt) || (tp.urg_data != 0 && !after(ptr, tp.rare.urg_seq)) {
        return;
    }
    // An earlier urgent byte that nobody read becomes ordinary data, which is skipped if it would be next.
    if tp.rare.urg_seq == tp.copied_seq
        && tp.urg_data != 0
        && !sk.flag(SockFlags::URGINLINE)
        && tp.copied_seq != tp.rcv_nxt
        && let Some(front) = tp.receive_queue.front()
    {
        let (seq, end) = (tcp_skb_cb(front).seq, tcp_skb_cb(front).end_seq);
        tp.copied_seq = tp.copied_seq.wrapping_add(1);
        if !before(tp.copied_seq, end)
            && after(end, seq)
            && let Some(gone) = tp.receive_queue.pop_front()
        {
            sk.rmem_alloc.fetch_sub(gone.truesize as usize, AcqRel);
        }
    }
    tp.urg_data = TCP_URG_NOTYET;
    tp.rare.make().urg_seq = ptr;
    sk.data_ready();
}

/// `tcp_urg`: notes the urgent byte if it is in this packet. `data` is at the header.
fn tcp_urg(sk: &Sock, tp: &mut TcpSock, skb: &Skb, th: &TcpHdr) {
    if th.has(tcp_flag::URG) {
        tcp_check_urg(sk, tp, th);
    }
    if tp.urg_data != TCP_URG_NOTYET {
        return;
    }
    let at = tp.rare.urg_seq.wrapping_sub(th.seq.get()) as usize + th.header_len() - th.has(tcp_flag::SYN) as usize;
    if at < skb.len() {
        let mut b = [0];
        if skb.copy_bits(at, &mut b) == 1 {
            tp.urg_data = TCP_URG_VALID | b[0] as u16;
            if !sk.flag(SockFlags::DEAD) {
                sk.data_ready();
            }
        }
    }
}

// --- ESTABLISHED ---

/// What [`tcp_rcv_established`] need not look at closely.
enum Predicted {
    PureAck,
    Data,
    No,
}

/// Header prediction: the next segment in order, with nothing new but data or an ACK. Parses the timestamp if there is one.
#[inline]
fn tcp_predict(sk: &Sock, tp: &mut TcpSock, skb: &Skb, th: &TcpHdr) -> Predicted {
    const ODD: u8 = tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST | tcp_flag::URG;
    let cb = tcp_skb_cb(skb);
    let plain = th.flags & (ODD | tcp_flag::ACK) == tcp_flag::ACK
        && tcp_ecn_predicted(tp, th)
        && cb.seq == tp.rcv_nxt
        && !after(cb.ack_seq, tp.snd_nxt)
        && (th.window.get() as u32) << tp.rx_opt.snd_wscale == tp.snd_wnd
        && tp.urg_data == 0
        && tp.ofo.out_of_order_queue.is_empty();
    if !plain {
        return Predicted::No;
    }
    let header = th.header_len();
    tp.rx_opt.sack_blocks = 0;
    tp.rx_opt.saw_tstamp = false;
    tp.rx_opt.accecn = 0;
    if header != TcpHdr::LEN {
        if header != TcpHdr::LEN + TCPOLEN_TSTAMP_ALIGNED || !tp.rx_opt.tstamp_ok {
            return Predicted::No;
        }
        tcp_parse_options(tcp_hdr_opts(skb), &mut tp.rx_opt, true);
        if !tp.rx_opt.saw_tstamp || (tp.rx_opt.rcv_tsval.wrapping_sub(tp.rx_opt.ts_recent) as i32) < 0 {
            return Predicted::No;
        }
    }
    if skb.len() == header {
        return if tp.ca_state == TcpCaState::Open || after(cb.ack_seq, tp.snd_una) {
            Predicted::PureAck
        } else {
            Predicted::No
        };
    }
    // With an ACK from long ago may come anybody's bytes (RFC 5961, 5.2).
    let room = (skb.len() - header) as u32 <= tp.receive_window()
        && !tcp_ack_too_old(tp, cb.ack_seq)
        && tcp_can_ingest(sk, skb)
        && tcp_mem_schedule(sk, tp, skb.truesize as usize, SkMem::Recv);
    if skb.len() > header && room { Predicted::Data } else { Predicted::No }
}

/// A packet for an established connection. `skb.data` is at the TCP header, whose length and checksum are right, and whose
/// control block is filled.
///
/// The fast path is left when: the segment is not the next in order; it has flags other than ACK and PSH, or options other
/// than a timestamp; its window differs; its timestamp goes back; urgent or out-of-order data is about; the buffer is full.
pub fn tcp_rcv_established(sk: &Arc<Sock>, tp: &mut TcpSock, mut skb: Box<Skb>) {
    tp!(tcp_rcv_established, skb, sk);
    let Some(&th) = tcp_hdr(&skb) else { return };
    tp.mstamp_refresh(sk);
    tcp_segs_in(tp, &skb, &th);
    match tcp_predict(sk, tp, &skb, &th) {
        Predicted::PureAck => {
            tcp_ecn_received_counters(tp, &skb, &th);
            if tp.rx_opt.saw_tstamp && tp.rcv_nxt == tp.rcv_wup {
                tcp_store_ts_recent(tp);
            }
            let _ = tcp_ack(sk, tp, &skb, Ack::empty());
            tcp_data_snd_check(sk, tp);
        }
        Predicted::Data => {
            sk.net.mib.inc(Mib::TcpExtTCPHPHits);
            tcp_ecn_received_counters(tp, &skb, &th);
            if tp.rx_opt.saw_tstamp {
                let len = (skb.len() - th.header_len()) as u32;
                tcp_rcv_rtt_measure_ts(sk, tp, len);
                if tp.rcv_nxt == tp.rcv_wup {
                    tcp_store_ts_recent(tp);
                }
            }
            let cb = *tcp_skb_cb(&skb);
            let acks = cb.ack_seq != tp.snd_una;
            let mut rexmit = Rexmit::None;
            if !acks {
                tp.snd_wl1 = cb.seq;
            } else if let Ok((_, what)) = tcp_ack_digest(sk, tp, &skb, Ack::DATA) {
                rexmit = what;
            }
            skb.pull_any(th.header_len());
            tcp_event_data_recv(sk, tp, &skb);
            tcp_queue_rcv(sk, tp, skb);
            if acks {
                // Only now: what is sent acknowledges the data as well.
                tcp_xmit_recovery(sk, tp, rexmit);
                tcp_data_snd_check(sk, tp);
            }
            tcp_ack_snd_check(sk, tp);
            tcp_data_ready(sk, tp);
        }
        Predicted::No => tcp_rcv_slow(sk, tp, skb, &th),
    }
}

/// `tcp_segs_in`.
fn tcp_segs_in(tp: &mut TcpSock, skb: &Skb, th: &TcpHdr) {
    let n = (skb.gso_segs as u32).max(1);
    tp.segs_in = tp.segs_in.wrapping_add(n);
    if skb.len() > th.header_len() {
        tp.data_segs_in = tp.data_segs_in.wrapping_add(n);
    }
}

fn tcp_rcv_slow(sk: &Arc<Sock>, tp: &mut TcpSock, skb: Box<Skb>, th: &TcpHdr) {
    if th.flags & (tcp_flag::ACK | tcp_flag::RST | tcp_flag::SYN) == 0 {
        return;
    }
    if !tcp_validate_incoming(sk, tp, &skb, th, true) {
        return;
    }
    tcp_ecn_received_counters(tp, &skb, th);
    if tcp_ack(sk, tp, &skb, Ack::SLOWPATH | Ack::UPDATE_TS_RECENT).is_err() {
        return;
    }
    if tp.rx_opt.saw_tstamp {
        tcp_rcv_rtt_measure_ts(sk, tp, (skb.len() - th.header_len().min(skb.len())) as u32);
    }
    tcp_urg(sk, tp, &skb, th);
    tcp_data_queue(sk, tp, skb);
    if sk.state() == TcpState::Close {
        return;
    }
    tcp_data_snd_check(sk, tp);
    tcp_ack_snd_check(sk, tp);
}

// --- The other states ---

/// A connection has just become established: congestion control, buffers, metrics (`tcp_init_transfer`).
pub fn tcp_init_transfer(sk: &Arc<Sock>, tp: &mut TcpSock) {
    tcp_mtup_init(sk, tp);
    tcp_init_metrics(sk, tp);
    let cwnd = if tp.rec.total_retrans > 1 && tp.rec.undo_marker != 0 { 1 } else { tcp_init_cwnd(tp) };
    tcp_snd_cwnd_set(tp, cwnd);
    tp.snd_cwnd_stamp = tp.jiffies32();
    tcp_init_congestion_control(sk, tp);
    tcp_init_buffer_space(sk, tp);
}

/// `tcp_finish_connect`. `true`: data of the SYN has to be sent again, and goes at once.
fn tcp_finish_connect(sk: &Arc<Sock>, tp: &mut TcpSock, synack: Box<Skb>, foc: FastopenCookie) -> bool {
    tcp_set_state(sk, tp, TcpState::Established);
    tp.icsk_ack.lrcvtime = tp.jiffies32();
    tcp_init_transfer(sk, tp);
    tp.lsndtime = tp.jiffies32();
    if sk.flag(SockFlags::KEEPOPEN) {
        let when = tcp_keepalive_time_when(sk, tp);
        inet_csk_reset_keepalive_timer(sk, tp, when);
    }
    let fail = tcp_rcv_fastopen_synack(sk, tp, synack, foc);
    if fail {
        (0..tp.tx.rtx_len()).for_each(|i| tcp_mark_skb_lost(sk, tp, i));
        tcp_non_congestion_loss_retransmit(sk, tp);
    }
    if !sk.flag(SockFlags::DEAD) {
        sk.state_change();
        sk.write_space();
    }
    fail
}

/// `keepalive_time_when`, milliseconds.
pub fn tcp_keepalive_time_when(sk: &Sock, tp: &TcpSock) -> u32 {
    let secs = if tp.rare.opts.keepalive_time != 0 {
        tp.rare.opts.keepalive_time as i64
    } else {
        sk.net.sysctl.tcp_keepalive_time.get()
    };
    (secs * 1000).min(u32::MAX as i64) as u32
}

/// Seconds of FIN_WAIT2 for an orphan, in milliseconds (`tcp_fin_time`).
pub fn tcp_fin_time(sk: &Sock, tp: &TcpSock) -> u32 {
    let timeout = if tp.rare.opts.linger2 > 0 {
        tp.rare.opts.linger2 as u32
    } else {
        (sk.net.sysctl.tcp_fin_timeout.get() * 1000) as u32
    };
    timeout.max((tp.icsk_rto << 2) - (tp.icsk_rto >> 1))
}

/// What a SYN or SYN-ACK that is taken says of windows, timestamps and segment sizes.
fn take_syn(tp: &mut TcpSock, cb: &TcpSkbCb, th: &TcpHdr) {
    if tp.rx_opt.saw_tstamp {
        tp.rx_opt.tstamp_ok = true;
        tp.tcp_header_len = (TcpHdr::LEN + TCPOLEN_TSTAMP_ALIGNED) as u16;
        tcp_store_ts_recent(tp);
    } else {
        tp.rx_opt.tstamp_ok = false;
        tp.tcp_header_len = TcpHdr::LEN as u16;
    }
    if tp.rare.auth.is_some() {
        tcp_auth_peer_isn(tp, cb.seq);
        tp.tcp_header_len += tcp_auth_len(tp);
    }
    tp.rcv_nxt = cb.seq.wrapping_add(1);
    tp.rcv_wup = tp.rcv_nxt;
    tp.copied_seq = tp.rcv_nxt;
    // RFC 7323, 2.2: the window of a SYN is not scaled.
    tp.snd_wnd = th.window.get() as u32;
    tp.snd_wl1 = cb.seq;
    if !tp.rx_opt.wscale_ok {
        (tp.rx_opt.snd_wscale, tp.rx_opt.rcv_wscale) = (0, 0);
        tp.window_clamp = tp.window_clamp.min(65535);
    }
}

/// Options of a SYN, with those that we did not offer taken out.
fn parse_syn_options(sk: &Sock, tp: &mut TcpSock, skb: &Skb) {
    let s = &sk.net.sysctl;
    tp.rx_opt.wscale_ok = false;
    tp.rx_opt.sack_ok = false;
    if tp.rx_opt.user_mss == 0 {
        tp.rx_opt.mss_clamp = if tp.is_v6() { TCP_MSS_DEFAULT_V6 } else { TCP_MSS_DEFAULT } as u16;
    } else {
        tp.rx_opt.mss_clamp = tp.rx_opt.user_mss.min(TCP_MSS_DEFAULT as u16);
    }
    tcp_parse_options(tcp_hdr_opts(skb), &mut tp.rx_opt, false);
    tp.rx_opt.wscale_ok &= s.tcp_window_scaling.on();
    tp.rx_opt.sack_ok &= s.tcp_sack.on();
    tp.rx_opt.saw_tstamp &= s.tcp_timestamps.on();
}

/// SYN_SENT (RFC 9293, 3.10.7.3).
fn tcp_rcv_synsent(sk: &Arc<Sock>, tp: &mut TcpSock, skb: Box<Skb>, th: &TcpHdr) -> Result<(), Box<Skb>> {
    let cb = *tcp_skb_cb(&skb);
    parse_syn_options(sk, tp, &skb);
    if !th.has(tcp_flag::ACK) {
        if !th.has(tcp_flag::RST) && th.has(tcp_flag::SYN) {
            tcp_simultaneous_open(sk, tp, &skb, th);
        }
        return Ok(());
    }
    let foc = tcp_fastopen_option(tcp_hdr_opts(&skb));
    if !after(cb.ack_seq, tp.snd_una) || after(cb.ack_seq, tp.snd_nxt) {
        // A peer that does not know us yet: the RST clears its mind, and the SYN again opens the connection.
        if tp.icsk_retransmits == 0 {
            inet_csk_reset_xmit_timer(sk, tp, ICSK_TIME_RETRANS, TCP_TIMEOUT_MIN, TCP_RTO_MAX);
        }
        return Err(skb);
    }
    let ours = tp.time_stamp().wrapping_add(tp.tsoffset);
    let echo = tp.rx_opt.rcv_tsecr;
    if tp.rx_opt.saw_tstamp
        && echo != 0
        && !super::tcp_queue::between(echo, tp.retrans_stamp.wrapping_add(tp.tsoffset), ours)
    {
        sk.net.mib.inc(Mib::TcpExtPAWSActive);
        return Err(skb);
    }
    if th.has(tcp_flag::RST) {
        tcp_reset(sk, tp);
        return Ok(());
    }
    if !th.has(tcp_flag::SYN) {
        return Ok(());
    }
    let accecn = accecn_option(tcp_hdr_opts(&skb), &tp.rx_opt);
    tcp_ecn_rcv_synack(sk, tp, &skb, th, accecn);
    tp.rcv_nxt = cb.seq.wrapping_add(1);
    let _ = tcp_ack(sk, tp, &skb, Ack::SLOWPATH);
    take_syn(tp, &cb, th);
    if tp.rx_opt.tstamp_ok {
        tp.advmss -= (TCPOLEN_TSTAMP_ALIGNED as u16).min(tp.advmss);
    }
    tp.max_window = tp.max_window.max(tp.snd_wnd);
    let pmtu = tp.icsk_pmtu_cookie;
    tcp_sync_mss(sk, tp, pmtu);
    tcp_initialize_rcv_mss(tp);
    let fail = tcp_finish_connect(sk, tp, skb, foc);
    if fail {
        // The data has gone out again, and acknowledged the SYN.
        tcp_data_snd_check(sk, tp);
        return Ok(());
    }
    if sk.state() == TcpState::Close {
        return Ok(());
    }
    if tcp_write_pending(tp) || tp.rare.opts.defer_accept != 0 || tp.in_pingpong_mode(sk) {
        // Data is to follow at once: the ACK may ride on it.
        inet_csk_schedule_ack(tp);
        tcp_enter_quickack_mode(tp, TCP_MAX_QUICKACKS);
        let expires = sk.net.kernel().jiffies_coarse() + TCP_DELACK_MAX as u64;
        tp.icsk_ack.pending |= ICSK_ACK_TIMER;
        inet_csk_reset_delack_timer(sk, tp, expires);
    } else {
        // Whoever speaks AccECN tells in this ACK how the SYN-ACK came (RFC 9768, 3.2.2.1).
        tcp_send_ack(sk, tp);
    }
    tcp_data_snd_check(sk, tp);
    Ok(())
}

/// The peer's SYN crossed ours (RFC 9293, figure 8).
fn tcp_simultaneous_open(sk: &Arc<Sock>, tp: &mut TcpSock, skb: &Skb, th: &TcpHdr) {
    tcp_set_state(sk, tp, TcpState::SynRecv);
    take_syn(tp, tcp_skb_cb(skb), th);
    tp.max_window = tp.snd_wnd;
    tcp_ecn_rcv_syn(tp, skb, th);
    let pmtu = tp.icsk_pmtu_cookie;
    tcp_sync_mss(sk, tp, pmtu);
    tcp_initialize_rcv_mss(tp);
    tcp_send_synack(sk, tp);
}

/// A packet for a connection in any other state but `LISTEN` and `TIME_WAIT`. `Err`: the caller answers with a RST; the
/// packet comes back for it.
pub fn tcp_rcv_state_process(sk: &Arc<Sock>, tp: &mut TcpSock, skb: Box<Skb>) -> Result<(), Box<Skb>> {
    tp!(tcp_rcv_state_process, skb, sk);
    let Some(&th) = tcp_hdr(&skb) else { return Ok(()) };
    tp.mstamp_refresh(sk);
    tcp_segs_in(tp, &skb, &th);
    match sk.state() {
        TcpState::Close | TcpState::Listen => return Ok(()),
        TcpState::SynSent => return tcp_rcv_synsent(sk, tp, skb, &th),
        _ => {}
    }
    let skb = match tcp_fastopen_check_req(sk, tp, skb, &th) {
        std::ops::ControlFlow::Continue(skb) => skb,
        std::ops::ControlFlow::Break(done) => return done,
    };
    if th.flags & (tcp_flag::ACK | tcp_flag::RST | tcp_flag::SYN) == 0 {
        return Ok(());
    }
    if !tcp_validate_incoming(sk, tp, &skb, &th, false) {
        return Ok(());
    }
    // The packet that made a child was counted then.
    if sk.state() != TcpState::SynRecv {
        tcp_ecn_received_counters(tp, &skb, &th);
    }
    let ack = tcp_ack(sk, tp, &skb, Ack::SLOWPATH | Ack::UPDATE_TS_RECENT | Ack::NO_CHALLENGE_ACK);
    if ack != Ok(true) {
        if sk.state() == TcpState::SynRecv {
            return Err(skb);
        }
        if ack.is_err() {
            tcp_send_challenge_ack(sk, tp);
            return Ok(());
        }
    }
    match tcp_step5(sk, tp, &skb, &th) {
        Step5::Continue => {}
        Step5::Done => return Ok(()),
        Step5::Reset => return Err(skb),
    }
    tcp_urg(sk, tp, &skb, &th);
    tcp_step7(sk, tp, skb, &th)?;
    if sk.state() != TcpState::Close {
        tcp_data_snd_check(sk, tp);
        tcp_ack_snd_check(sk, tp);
    }
    Ok(())
}

/// The segment text of a connection that is being closed, or has just been opened (RFC 9293, 3.10.7.4, seventh step).
fn tcp_step7(sk: &Arc<Sock>, tp: &mut TcpSock, skb: Box<Skb>, th: &TcpHdr) -> Result<(), Box<Skb>> {
    let cb = *tcp_skb_cb(&skb);
    match sk.state() {
        TcpState::CloseWait | TcpState::Closing | TcpState::LastAck if !before(cb.seq, tp.rcv_nxt) => return Ok(()),
        TcpState::CloseWait | TcpState::Closing | TcpState::LastAck | TcpState::FinWait1 | TcpState::FinWait2 => {
            // RFC 9293, 3.6.1: data for a reader that has gone is answered with a RST.
            if sk.shutdown() & RCV_SHUTDOWN != 0 && beyond_fin(tp, &cb, th) {
                sk.net.mib.inc(Mib::TcpExtTCPAbortOnData);
                tcp_reset(sk, tp);
                return Err(skb);
            }
        }
        TcpState::Established => {}
        _ => return Ok(()),
    }
    tcp_data_queue(sk, tp, skb);
    Ok(())
}

/// Whether the segment has data that was not seen before, its FIN not counted.
fn beyond_fin(tp: &TcpSock, cb: &TcpSkbCb, th: &TcpHdr) -> bool {
    let fin = th.has(tcp_flag::FIN) as u32;
    cb.end_seq != cb.seq && after(cb.end_seq.wrapping_sub(fin), tp.rcv_nxt)
}

/// What a new ACK did to the state.
#[derive(PartialEq, Eq)]
enum Step5 {
    Continue,
    /// The packet is dealt with.
    Done,
    /// It is to be answered with a RST.
    Reset,
}

/// What a new ACK does to the state (RFC 9293, 3.10.7.4, fifth step).
fn tcp_step5(sk: &Arc<Sock>, tp: &mut TcpSock, skb: &Skb, th: &TcpHdr) -> Step5 {
    match sk.state() {
        TcpState::SynRecv => tcp_syn_recv_acked(sk, tp, skb, th),
        TcpState::FinWait1 if fastopen_rsk(tp).is_some() && !tcp_fin_wait1_fastopen(sk, tp) => {}
        TcpState::FinWait1 if tp.snd_una == tp.write_seq => return tcp_fin_acked(sk, tp, skb, th),
        TcpState::Closing if tp.snd_una == tp.write_seq => {
            tcp_time_wait(sk, tp, TcpState::TimeWait, 0);
            return Step5::Done;
        }
        TcpState::LastAck if tp.snd_una == tp.write_seq => {
            tcp_update_metrics(sk, tp);
            tcp_done(sk, tp);
            return Step5::Done;
        }
        _ => {}
    }
    Step5::Continue
}

/// The process of a child made by Fast Open has closed it before the handshake was over. Whether all is acknowledged.
fn tcp_fin_wait1_fastopen(sk: &Arc<Sock>, tp: &mut TcpSock) -> bool {
    tcp_rcv_synrecv_state_fastopen(sk, tp);
    tp.snd_una == tp.write_seq
}

/// SYN_RECV: our SYN is acknowledged.
fn tcp_syn_recv_acked(sk: &Arc<Sock>, tp: &mut TcpSock, skb: &Skb, th: &TcpHdr) {
    let cb = *tcp_skb_cb(skb);
    tp.delivered = tp.delivered.wrapping_add(1);
    if tp.srtt_us == 0 && tp.rec.total_retrans == 0 && fastopen_rsk(tp).is_none() {
        let mut ca_us = -1;
        tcp_ack_update_rtt(&sk.net, tp, true, false, -1, -1, &mut ca_us);
    }
    // First: the buffer is sized by it.
    if tp.rx_opt.tstamp_ok {
        tp.advmss -= (TCPOLEN_TSTAMP_ALIGNED as u16).min(tp.advmss);
    }
    if let Some(req) = fastopen_rsk(tp).cloned() {
        if tp.srtt_us == 0 {
            tcp_synack_rtt_meas(sk, tp, &req);
        }
        tcp_rcv_synrecv_state_fastopen(sk, tp);
    } else {
        tcp_init_transfer(sk, tp);
        tp.copied_seq = tp.rcv_nxt;
    }
    tcp_set_state(sk, tp, TcpState::Established);
    sk.state_change();
    tp.snd_una = cb.ack_seq;
    tp.snd_wnd = (th.window.get() as u32) << tp.rx_opt.snd_wscale;
    tp.max_window = tp.max_window.max(tp.snd_wnd);
    tp.snd_wl1 = cb.seq;
    if tcp_ca(tp).cong_control.is_none() {
        tcp_update_pacing_rate(sk, tp);
    }
    tp.lsndtime = tp.jiffies32();
    tcp_initialize_rcv_mss(tp);
    if sk.flag(SockFlags::KEEPOPEN) {
        let when = tcp_keepalive_time_when(sk, tp);
        inet_csk_reset_keepalive_timer(sk, tp, when);
    }
    if sk.shutdown() & SEND_SHUTDOWN != 0 {
        // The process has closed its side before the handshake was over.
        tcp_set_state(sk, tp, TcpState::FinWait1);
        tcp_send_fin(sk, tp);
    }
}

/// FIN_WAIT1: our FIN is acknowledged.
fn tcp_fin_acked(sk: &Arc<Sock>, tp: &mut TcpSock, skb: &Skb, th: &TcpHdr) -> Step5 {
    let cb = *tcp_skb_cb(skb);
    tcp_set_state(sk, tp, TcpState::FinWait2);
    sk.add_shutdown(SEND_SHUTDOWN);
    if !sk.flag(SockFlags::DEAD) {
        // Wakes a close that lingers.
        sk.state_change();
        return Step5::Continue;
    }
    if tp.rare.opts.linger2 < 0 || beyond_fin(tp, &cb, th) {
        tcp_done(sk, tp);
        sk.net.mib.inc(Mib::TcpExtTCPAbortOnData);
        return Step5::Reset;
    }
    let tmo = tcp_fin_time(sk, tp);
    if tmo > TCP_TIMEWAIT_LEN {
        inet_csk_reset_keepalive_timer(sk, tp, tmo - TCP_TIMEWAIT_LEN);
    } else if th.has(tcp_flag::FIN) {
        // It is in this very packet: TIME_WAIT begins when it is processed.
        inet_csk_reset_keepalive_timer(sk, tp, tmo);
    } else {
        tcp_time_wait(sk, tp, TcpState::FinWait2, tmo);
        return Step5::Done;
    }
    Step5::Continue
}
