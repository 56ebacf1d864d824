//! Loss: finding it (RACK, RFC 8985; duplicate ACKs without SACK), reducing the window (PRR, RFC 6937), and taking a
//! reduction back that was wrong (RFC 3522, RFC 5682, RFC 3708).
//!
//! Interface: [`tcp_fastretrans_alert`], [`tcp_enter_loss`], [`tcp_enter_cwr`], [`tcp_cwnd_reduction`], [`tcp_rack_advance`],
//! [`tcp_rack_reo_timeout`].
//! Linux counterpart: `net/ipv4/tcp_recovery.c`, the recovery part of `net/ipv4/tcp_input.c`.
//! Locks and context: socket lock.
//!
//! ```text
//!            dup ACK / SACK              loss found
//!   Open ------------------> Disorder -------------> Recovery --.
//!     \  ECE                                                     | snd_una reaches high_seq
//!      `-----> Cwr -------------------------------------------> Open
//!   any --- retransmission timeout ---> Loss ------------------> Open
//! ```

use super::inet_csk_timers::inet_csk_reset_xmit_timer;
use super::tcp_cong::*;
pub use super::tcp_cwr::*;
use super::tcp_ecn::{tcp_ecn_queue_cwr, tcp_ecn_withdraw_cwr};
use super::tcp_mtu_probe::tcp_mtup_probe_failed;
use super::tcp_output::*;
use super::tcp_queue::*;
use super::tcp_retransmit::*;
use super::tcp_sock::*;
use crate::core::snmp::Mib;
use crate::core::sock::Sock;
use std::sync::Arc;
use uapi::tcp::TcpState;

bitflags::bitflags! {
    /// What an ACK is and did (`FLAG_*` of `tcp_input.c`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Ack: u32 {
        /// It carried data.
        const DATA = 0x01;
        const WIN_UPDATE = 0x02;
        const DATA_ACKED = 0x04;
        const RETRANS_DATA_ACKED = 0x08;
        const SYN_ACKED = 0x10;
        const DATA_SACKED = 0x20;
        const ECE = 0x40;
        const LOST_RETRANS = 0x80;
        const SLOWPATH = 0x100;
        /// Data that was sent once and before the recovery point was acknowledged.
        const ORIG_SACK_ACKED = 0x200;
        const SND_UNA_ADVANCED = 0x400;
        const DSACKING_ACK = 0x800;
        const SET_XMIT_TIMER = 0x1000;
        const SACK_RENEGING = 0x2000;
        const UPDATE_TS_RECENT = 0x4000;
        const NO_CHALLENGE_ACK = 0x8000;
        const ACK_MAYBE_DELAYED = 0x10000;
        const DSACK_TLP = 0x20000;
        /// Its timestamp is newer than the last.
        const TS_PROGRESS = 0x40000;
        const ACKED = Self::DATA_ACKED.bits() | Self::SYN_ACKED.bits();
        const NOT_DUP = Self::DATA.bits() | Self::WIN_UPDATE.bits() | Self::ACKED.bits();
        const CA_ALERT = Self::DATA_SACKED.bits() | Self::ECE.bits() | Self::DSACKING_ACK.bits();
        const FORWARD_PROGRESS = Self::ACKED.bits() | Self::DATA_SACKED.bits();
    }
}

/// What is to be sent once an ACK is digested.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rexmit {
    None,
    /// What is marked lost.
    Lost,
    /// New data first, to find out whether a timeout was spurious (F-RTO).
    New,
}

// --- RACK ---

/// Bits of `tcp_recovery`: the reordering window does not adapt; three duplicates are no proof of loss. Bit 1, RACK itself,
/// means nothing: there is nothing else.
const TCP_RACK_STATIC_REO_WND: i64 = 2;
const TCP_RACK_NO_DUPTHRESH: i64 = 4;
/// Recoveries for which a wider reordering window is kept (RFC 8985, 6.2, step 4).
const TCP_RACK_RECOVERY_THRESH: u8 = 16;

/// A segment sent at `xmit_time` was delivered (RFC 8985, 6.2, step 2).
pub fn tcp_rack_advance(tp: &mut TcpSock, sacked: u8, xmit_id: u32, xmit_time: u64) {
    let rtt = tp.tcp_mstamp.saturating_sub(xmit_time).min(u32::MAX as u64) as u32;
    // An ACK sooner than the path allows is for the original, not for the retransmission.
    if rtt < tcp_min_rtt(tp) && sacked & TCPCB_RETRANS != 0 {
        return;
    }
    tp.rack.advanced = true;
    tp.rack.rtt_us = rtt;
    // Numbers of transmissions grow with time, and tell those apart that the clock does not.
    if !tp.rack.known || after(xmit_id, tp.rack.xmit_id) {
        (tp.rack.known, tp.rack.xmit_id) = (true, xmit_id);
    }
}

/// How much reordering is put up with, in microseconds (RFC 8985, 6.2, step 4).
fn tcp_rack_reo_wnd(sk: &Sock, tp: &TcpSock) -> u32 {
    let dupthresh = || {
        let no = sk.net.sysctl.tcp_recovery.get() & TCP_RACK_NO_DUPTHRESH != 0;
        tp.sacked_out >= tp.reordering && !no
    };
    if tp.rec.reord_seen == 0 && (tp.ca_state >= TcpCaState::Recovery || dupthresh()) {
        return 0;
    }
    ((tcp_min_rtt(tp) as u64 >> 2) * tp.rec.rack_reo_wnd_steps as u64).min(tp.srtt_us as u64 >> 3) as u32
}

/// Microseconds until the piece counts as lost; 0 or less: now.
fn tcp_rack_skb_timeout(tp: &TcpSock, s: &TxSkb, reo_wnd: u32) -> i64 {
    tp.rack.rtt_us as i64 + reo_wnd as i64 - (tp.tcp_mstamp as i64 - s.mstamp as i64)
}

/// Marks what was sent sufficiently long before something that was delivered; microseconds until the next piece may be
/// (RFC 8985, 6.2, step 5). Looks at what it marks, and at two pieces more.
fn tcp_rack_detect_loss(sk: &Sock, tp: &mut TcpSock) -> u32 {
    let reo_wnd = tcp_rack_reo_wnd(sk, tp);
    let newest = tp.rack.xmit_id;
    tp.tx.scan_sent_before(newest);
    let sent_before = |tp: &TcpSock, i: usize| tp.tx.rtx(i).filter(|s| before(s.xmit_id, newest)).is_some();
    while let Some(i) = tp.tx.oldest_sent().filter(|&i| sent_before(tp, i)) {
        if tp.tx.rtx(i).is_some_and(|s| tcp_rack_skb_timeout(tp, s, reo_wnd) > 0) {
            break;
        }
        tcp_mark_skb_lost(sk, tp, i);
    }
    // Those left wait for the one sent last among them.
    let last = tp.tx.newest_sent_before(newest).and_then(|i| tp.tx.rtx(i));
    last.map_or(0, |s| tcp_rack_skb_timeout(tp, s, reo_wnd).clamp(0, u32::MAX as i64) as u32)
}

/// After an ACK (`tcp_rack_mark_lost`); arms the reordering timer. Whether it did.
fn tcp_rack_mark_lost(sk: &Sock, tp: &mut TcpSock) -> bool {
    if !std::mem::take(&mut tp.rack.advanced) {
        return false;
    }
    let timeout = tcp_rack_detect_loss(sk, tp);
    if timeout != 0 {
        let (when, rto) = ((timeout + TCP_TIMEOUT_MIN * 1000).div_ceil(1000), tp.icsk_rto);
        inet_csk_reset_xmit_timer(sk, tp, ICSK_TIME_REO_TIMEOUT, when, rto);
    }
    timeout != 0
}

/// The reordering timer fired: what has not come by now is lost (RFC 8985, 6.3; `tcp_rack_reo_timeout`).
pub fn tcp_rack_reo_timeout(sk: &Arc<Sock>, tp: &mut TcpSock) {
    let (prior_inflight, lost) = (tp.packets_in_flight(), tp.lost);
    tcp_rack_detect_loss(sk, tp);
    if prior_inflight != tp.packets_in_flight() {
        if tp.ca_state != TcpCaState::Recovery {
            tcp_enter_recovery(sk, tp, false);
            if tcp_ca(tp).cong_control.is_none() {
                tcp_cwnd_reduction(tp, 1, tp.lost.wrapping_sub(lost), Ack::empty());
            }
        }
        tcp_xmit_retransmit_queue(sk, tp);
    }
    if tp.icsk_pending != ICSK_TIME_RETRANS {
        tcp_rearm_rto(sk, tp);
    }
}

/// Adapts the reordering window to duplicates reported (RFC 8985, 6.2, step 4; `tcp_rack_update_reo_wnd`).
pub fn tcp_rack_update_reo_wnd(sk: &Sock, tp: &mut TcpSock, prior_delivered: u32) {
    if prior_delivered == 0 || sk.net.sysctl.tcp_recovery.get() & TCP_RACK_STATIC_REO_WND != 0 {
        return;
    }
    let Some(r) = tp.rec.if_used() else { return };
    if before(prior_delivered, r.rack_last_delivered) {
        r.rack_dsack_seen = false;
    }
    if r.rack_dsack_seen {
        r.rack_reo_wnd_steps = r.rack_reo_wnd_steps.saturating_add(1);
        r.rack_dsack_seen = false;
        r.rack_last_delivered = tp.delivered;
        r.rack_reo_wnd_persist = TCP_RACK_RECOVERY_THRESH;
    } else if r.rack_reo_wnd_persist == 0 {
        r.rack_reo_wnd_steps = 1;
    }
}

// --- Without SACK: duplicate ACKs ---

/// Each duplicate ACK says that a segment has left the network (RFC 6582; `tcp_add_reno_sack`).
fn tcp_add_reno_sack(sk: &Sock, tp: &mut TcpSock, num_dupack: u32, ece: bool) {
    if num_dupack == 0 {
        return;
    }
    let prior = tp.sacked_out;
    tp.sacked_out = tp.sacked_out.saturating_add(num_dupack);
    tcp_check_reno_reordering(sk, tp, 0);
    let delivered = tp.sacked_out.saturating_sub(prior);
    tcp_count_delivered(tp, delivered, ece);
}

/// More duplicates than could be lost segments' are reordering (`tcp_check_reno_reordering`).
fn tcp_check_reno_reordering(sk: &Sock, tp: &mut TcpSock, addend: u32) {
    if tcp_limit_reno_sacked(tp) {
        let max = sk.net.sysctl.tcp_max_reordering.get() as u32;
        tp.reordering = tp.packets_out.saturating_add(addend).min(max);
        tp.rec.make().reord_seen = tp.rec.reord_seen.wrapping_add(1);
        sk.net.mib.inc(Mib::TcpExtTCPRenoReorder);
    }
}

/// `tcp_remove_reno_sacks`.
pub fn tcp_remove_reno_sacks(sk: &Sock, tp: &mut TcpSock, acked: u32, ece: bool) {
    if acked > 0 {
        // One of them was the hole.
        tcp_count_delivered(tp, acked.saturating_sub(tp.sacked_out).max(1), ece);
        tp.sacked_out = tp.sacked_out.saturating_sub(acked - 1);
    }
    tcp_check_reno_reordering(sk, tp, acked);
}

/// `tcp_count_delivered`.
pub fn tcp_count_delivered(tp: &mut TcpSock, n: u32, ece: bool) {
    tp.delivered = tp.delivered.wrapping_add(n);
    // With Accurate ECN the counters say how many were marked.
    if ece && tp.rare.accecn.is_none() {
        tp.delivered_ce = tp.delivered_ce.wrapping_add(n);
    }
}

/// The segment at the front is the one missing (`tcp_newreno_mark_lost`).
fn tcp_newreno_mark_lost(sk: &Sock, tp: &mut TcpSock, una_advanced: bool) {
    let found = (tp.ca_state < TcpCaState::Recovery && tp.sacked_out >= tp.reordering)
        || (tp.ca_state == TcpCaState::Recovery && una_advanced);
    let Some(s) = tp.tx.rtx_front().filter(|_| found) else { return };
    if s.sacked & TCPCB_LOST != 0 {
        return;
    }
    let mss = tp.mss_cache;
    if s.pcount() > 1 && s.len > mss {
        tcp_fragment(sk, tp, 0, mss, mss);
    }
    tcp_mark_skb_lost(sk, tp, 0);
}

/// Marks what this ACK shows to be lost (`tcp_identify_packet_loss`).
fn tcp_identify_packet_loss(sk: &Sock, tp: &mut TcpSock, flag: &mut Ack) {
    if tp.tx.rtx_is_empty() {
        return;
    }
    if !tp.rx_opt.sack_ok {
        tcp_newreno_mark_lost(sk, tp, flag.contains(Ack::SND_UNA_ADVANCED));
        return;
    }
    let prior_retrans = tp.retrans_out;
    if tcp_rack_mark_lost(sk, tp) {
        flag.remove(Ack::SET_XMIT_TIMER);
    }
    if prior_retrans > tp.retrans_out {
        flag.insert(Ack::LOST_RETRANS);
    }
}

// --- Reducing the window ---

fn tcp_init_undo(tp: &mut TcpSock) {
    let r = tp.rec.make();
    r.undo_marker = tp.snd_una;
    // A probe may still be reported as a duplicate as well.
    let probe = (r.tlp_high_seq != 0 && r.tlp_retrans) as u32;
    // 0 would mean that all retransmissions are known to have been needless.
    r.undo_retrans = if tp.retrans_out + probe != 0 { (tp.retrans_out + probe) as i32 } else { -1 };
}

/// Proportional rate reduction: `acked` segments delivered by this ACK (RFC 6937, 3; `tcp_cwnd_reduction`).
pub fn tcp_cwnd_reduction(tp: &mut TcpSock, acked: u32, newly_lost: u32, flag: Ack) {
    if acked == 0 || tp.rec.prior_cwnd == 0 {
        return;
    }
    let in_flight = tp.packets_in_flight();
    let delta = tp.snd_ssthresh as i64 - in_flight as i64;
    let r = tp.rec.make();
    r.prr_delivered += acked;
    let out = r.prr_out as i64;
    let mut sndcnt = if delta < 0 {
        let dividend = tp.snd_ssthresh as u64 * r.prr_delivered as u64 + r.prior_cwnd as u64 - 1;
        (dividend / r.prior_cwnd as u64) as i64 - out
    } else {
        let mut n = (r.prr_delivered as i64 - out).max(acked as i64);
        if flag.contains(Ack::SND_UNA_ADVANCED) && newly_lost == 0 {
            n += 1;
        }
        n.min(delta)
    };
    // The first retransmission goes out whatever the window.
    sndcnt = sndcnt.max((out == 0) as i64);
    tcp_snd_cwnd_set(tp, in_flight + sndcnt as u32);
}

/// `tcp_end_cwnd_reduction`.
pub fn tcp_end_cwnd_reduction(sk: &Sock, tp: &mut TcpSock) {
    // An algorithm that sets the window itself has done so.
    if tcp_ca(tp).cong_control.is_some() {
        return;
    }
    if tp.snd_ssthresh < TCP_INFINITE_SSTHRESH && (tp.ca_state == TcpCaState::Cwr || tp.rec.undo_marker != 0) {
        tcp_snd_cwnd_set(tp, tp.snd_ssthresh);
        tp.snd_cwnd_stamp = tp.jiffies32();
    }
    tcp_ca_event(sk, tp, TcpCaEvent::CompleteCwr);
}

/// `tcp_enter_recovery`.
fn tcp_enter_recovery(sk: &Sock, tp: &mut TcpSock, ece: bool) {
    let sack = tp.rx_opt.sack_ok;
    sk.net.mib.inc(if sack { Mib::TcpExtTCPSackRecovery } else { Mib::TcpExtTCPRenoRecovery });
    tp.rec.make().prior_ssthresh = 0;
    if !tcp_any_retrans_done(tp) {
        tp.retrans_stamp = 0;
    }
    tcp_init_undo(tp);
    if !tcp_in_cwnd_reduction(tp) {
        if !ece {
            tp.rec.make().prior_ssthresh = tcp_current_ssthresh(tp);
        }
        tcp_init_cwnd_reduction(sk, tp);
    }
    tcp_set_ca_state(sk, tp, TcpCaState::Recovery);
}

/// The retransmission timer has fired: everything that RACK does not vouch for is lost (`tcp_enter_loss`).
pub fn tcp_enter_loss(sk: &Sock, tp: &mut TcpSock) {
    let new_recovery = tp.ca_state < TcpCaState::Recovery;
    if new_recovery && tp.icsk_retransmits == 0 && sk.state() != TcpState::SynSent {
        // A SYN-ACK may echo the first SYN's timestamp. Else: the clock of what was lost before would have this one given up at once.
        tp.retrans_stamp = 0;
    }
    tcp_timeout_mark_lost(sk, tp);
    if tp.ca_state <= TcpCaState::Disorder
        || !after(tp.rec.high_seq, tp.snd_una)
        || (tp.ca_state == TcpCaState::Loss && tp.icsk_retransmits == 0)
    {
        let (ssthresh, cwnd) = (tcp_current_ssthresh(tp), tp.snd_cwnd);
        let r = tp.rec.make();
        (r.prior_ssthresh, r.prior_cwnd) = (ssthresh, cwnd);
        tp.snd_ssthresh = (tcp_ca(tp).ssthresh)(sk, tp);
        tcp_ca_event(sk, tp, TcpCaEvent::Loss);
        tcp_init_undo(tp);
    }
    tcp_snd_cwnd_set(tp, tp.packets_in_flight() + 1);
    tp.snd_cwnd_cnt = 0;
    tp.snd_cwnd_stamp = tp.jiffies32();
    let reordering = sk.net.sysctl.tcp_reordering.get() as u32;
    if tp.ca_state <= TcpCaState::Disorder && tp.sacked_out >= reordering {
        tp.reordering = tp.reordering.min(reordering);
    }
    tcp_set_ca_state(sk, tp, TcpCaState::Loss);
    let r = tp.rec.make();
    (r.high_seq, r.tlp_high_seq) = (tp.snd_nxt, 0);
    tcp_ecn_queue_cwr(tp);
    // F-RTO (RFC 5682) only for the first timeout of data sent after the last recovery.
    tp.rec.make().frto = sk.net.sysctl.tcp_frto.on() && (new_recovery || tp.icsk_retransmits != 0);
}

/// `tcp_timeout_mark_lost`.
fn tcp_timeout_mark_lost(sk: &Sock, tp: &mut TcpSock) {
    let reneged = tp.tx.rtx_front().is_some_and(|s| s.sacked & TCPCB_SACKED_ACKED != 0);
    if reneged {
        sk.net.mib.inc(Mib::TcpExtTCPSACKReneging);
        tp.sacked_out = 0;
        tp.rec.make().is_sack_reneg = true;
        tp.rec.make().recv_sack_cache = Default::default();
    } else if !tp.rx_opt.sack_ok {
        tp.sacked_out = 0;
    }
    for i in 0..tp.tx.rtx_len() {
        if reneged {
            tp.tx.tag(i, 0, TCPCB_SACKED_ACKED);
        } else if i > 0 && tp.tx.rtx(i).is_some_and(|s| tcp_rack_skb_timeout(tp, s, 0) > 0) {
            // Sent a moment ago.
            continue;
        }
        tcp_mark_skb_lost(sk, tp, i);
    }
}

// --- Undo ---

/// Whether something sent since `retrans_stamp` may still be out (`tcp_any_retrans_done`).
fn tcp_any_retrans_done(tp: &TcpSock) -> bool {
    tp.retrans_out != 0 || tp.tx.rtx_front().is_some_and(|s| s.sacked & TCPCB_EVER_RETRANS != 0)
}

/// The peer echoes a time before `stamp` (`tcp_tsopt_ecr_before`).
fn tcp_tsopt_ecr_before(tp: &TcpSock, stamp: u32) -> bool {
    let o = &tp.rx_opt;
    o.saw_tstamp && o.rcv_tsecr != 0 && before(o.rcv_tsecr, stamp.wrapping_add(tp.tsoffset))
}

/// The ACK is for the original: a piece that was sent again at `mstamp` need not have been (`tcp_skb_spurious_retrans`).
pub fn tcp_spurious_retrans(tp: &TcpSock, sacked: u8, mstamp: u64) -> bool {
    sacked & TCPCB_RETRANS != 0 && tcp_tsopt_ecr_before(tp, (mstamp / 1000) as u32)
}

/// What is acknowledged came from the original, before anything was sent again (RFC 3522; `tcp_packet_delayed`).
fn tcp_packet_delayed(sk: &Sock, tp: &TcpSock) -> bool {
    if tp.retrans_stamp != 0 {
        return tcp_tsopt_ecr_before(tp, tp.retrans_stamp);
    }
    // Nothing was sent again yet, unless the stamp was forgotten: without SACK at the recovery point, and for a SYN.
    let forgotten = !tp.rx_opt.sack_ok && !before(tp.snd_una, tp.rec.high_seq);
    !forgotten && sk.state() != TcpState::SynSent
}

fn tcp_may_undo(sk: &Sock, tp: &TcpSock) -> bool {
    tp.rec.undo_marker != 0 && (tp.rec.undo_retrans == 0 || tcp_packet_delayed(sk, tp))
}

/// `tcp_undo_cwnd_reduction`.
fn tcp_undo_cwnd_reduction(sk: &Sock, tp: &mut TcpSock, unmark_loss: bool) {
    if unmark_loss {
        tp.tx.clear_lost();
        tp.lost_out = 0;
    }
    if tp.rec.prior_ssthresh != 0 {
        let cwnd = (tcp_ca(tp).undo_cwnd)(sk, tp);
        tcp_snd_cwnd_set(tp, cwnd);
        if tp.rec.prior_ssthresh > tp.snd_ssthresh {
            tp.snd_ssthresh = tp.rec.prior_ssthresh;
            tcp_ecn_withdraw_cwr(tp);
        }
    }
    tp.snd_cwnd_stamp = tp.jiffies32();
    tp.rec.make().undo_marker = 0;
    tp.rack.advanced = true;
}

/// Without SACK the state is held until something beyond `high_seq` is acknowledged, so that old duplicates do not start
/// another recovery (RFC 6582, 4).
fn tcp_is_non_sack_preventing_reopen(tp: &mut TcpSock) -> bool {
    if tp.snd_una == tp.rec.high_seq && !tp.rx_opt.sack_ok {
        if !tcp_any_retrans_done(tp) {
            tp.retrans_stamp = 0;
        }
        return true;
    }
    false
}

/// All is acknowledged: back to Open, with the old window if the reduction was wrong. `true`: stay (`tcp_try_undo_recovery`).
fn tcp_try_undo_recovery(sk: &Sock, tp: &mut TcpSock) -> bool {
    if tcp_may_undo(sk, tp) {
        let loss = tp.ca_state == TcpCaState::Loss;
        tcp_undo_cwnd_reduction(sk, tp, false);
        sk.net.mib.inc(if loss { Mib::TcpExtTCPLossUndo } else { Mib::TcpExtTCPFullUndo });
    } else {
        tp.rec.make().rack_reo_wnd_persist = tp.rec.rack_reo_wnd_persist.saturating_sub(1);
    }
    if tcp_is_non_sack_preventing_reopen(tp) {
        return true;
    }
    tcp_set_ca_state(sk, tp, TcpCaState::Open);
    tp.rec.make().is_sack_reneg = false;
    false
}

/// Every retransmission was reported as a duplicate (RFC 3708; `tcp_try_undo_dsack`).
fn tcp_try_undo_dsack(sk: &Sock, tp: &mut TcpSock) -> bool {
    if tp.rec.undo_marker == 0 || tp.rec.undo_retrans != 0 {
        return false;
    }
    tp.rec.make().rack_reo_wnd_persist = tp.rec.rack_reo_wnd_persist.saturating_add(1).min(TCP_RACK_RECOVERY_THRESH);
    tcp_undo_cwnd_reduction(sk, tp, false);
    sk.net.mib.inc(Mib::TcpExtTCPDSACKUndo);
    true
}

/// A timeout was spurious (`tcp_try_undo_loss`).
fn tcp_try_undo_loss(sk: &Sock, tp: &mut TcpSock, frto_undo: bool) -> bool {
    if !frto_undo && !tcp_may_undo(sk, tp) {
        return false;
    }
    tcp_undo_cwnd_reduction(sk, tp, true);
    sk.net.mib.inc(Mib::TcpExtTCPLossUndo);
    if frto_undo {
        sk.net.mib.inc(Mib::TcpExtTCPSpuriousRTOs);
    }
    tp.icsk_retransmits = 0;
    if tcp_is_non_sack_preventing_reopen(tp) {
        return true;
    }
    if frto_undo || tp.rx_opt.sack_ok {
        tcp_set_ca_state(sk, tp, TcpCaState::Open);
        tp.rec.make().is_sack_reneg = false;
    }
    true
}

/// A partial ACK shows that what was retransmitted had arrived (`tcp_try_undo_partial`). `true`: nothing more to do.
fn tcp_try_undo_partial(sk: &Sock, tp: &mut TcpSock, prior_una: u32) -> bool {
    if tp.rec.undo_marker == 0 || !tcp_packet_delayed(sk, tp) {
        return false;
    }
    tcp_check_sack_reordering(sk, tp, prior_una, true);
    if tp.retrans_out != 0 {
        return true;
    }
    if !tcp_any_retrans_done(tp) {
        tp.retrans_stamp = 0;
    }
    tcp_undo_cwnd_reduction(sk, tp, true);
    sk.net.mib.inc(Mib::TcpExtTCPPartialUndo);
    tcp_try_keep_open(sk, tp);
    false
}

/// Segments came in another order than they were sent (`tcp_check_sack_reordering`).
pub fn tcp_check_sack_reordering(sk: &Sock, tp: &mut TcpSock, low_seq: u32, ts: bool) {
    let fack = if tp.sacked_out != 0 { tp.rec.highest_sack } else { tp.snd_una };
    if !before(low_seq, fack) {
        return;
    }
    let (metric, mss) = (fack.wrapping_sub(low_seq), tp.mss_cache.max(1));
    if metric > tp.reordering.saturating_mul(mss) {
        tp.reordering = metric.div_ceil(mss).min(sk.net.sysctl.tcp_max_reordering.get() as u32);
    }
    tp.rec.make().reord_seen = tp.rec.reord_seen.wrapping_add(1);
    sk.net.mib.inc(if ts { Mib::TcpExtTCPTSReorder } else { Mib::TcpExtTCPSACKReorder });
}

// --- The machine ---

/// `tcp_try_keep_open`.
pub fn tcp_try_keep_open(sk: &Sock, tp: &mut TcpSock) {
    let state = if tp.left_out() != 0 || tcp_any_retrans_done(tp) { TcpCaState::Disorder } else { TcpCaState::Open };
    if tp.ca_state != state {
        tcp_set_ca_state(sk, tp, state);
        tp.rec.make().high_seq = tp.snd_nxt;
    }
}

/// `tcp_try_to_open`.
fn tcp_try_to_open(sk: &Sock, tp: &mut TcpSock, flag: Ack) {
    if !tcp_any_retrans_done(tp) {
        tp.retrans_stamp = 0;
    }
    if flag.contains(Ack::ECE) {
        tcp_enter_cwr(sk, tp);
    }
    if tp.ca_state != TcpCaState::Cwr {
        tcp_try_keep_open(sk, tp);
    }
}

/// An ACK in state Loss (RFC 5682 for F-RTO; `tcp_process_loss`).
fn tcp_process_loss(sk: &Sock, tp: &mut TcpSock, flag: Ack, num_dupack: u32, rexmit: &mut Rexmit) {
    let recovered = !before(tp.snd_una, tp.rec.high_seq);
    if flag.contains(Ack::SND_UNA_ADVANCED) && tcp_try_undo_loss(sk, tp, false) {
        return;
    }
    if tp.rec.frto {
        // Something sent once was acknowledged: the timeout was spurious.
        if flag.contains(Ack::ORIG_SACK_ACKED) && tcp_try_undo_loss(sk, tp, true) {
            return;
        }
        if after(tp.snd_nxt, tp.rec.high_seq) {
            if flag.contains(Ack::DATA_SACKED) || num_dupack != 0 {
                tp.rec.make().frto = false;
            }
        } else if flag.contains(Ack::SND_UNA_ADVANCED) && !recovered {
            tp.rec.make().high_seq = tp.snd_nxt;
            if !tp.tx.write_is_empty() && after(tp.wnd_end(), tp.snd_nxt) {
                *rexmit = Rexmit::New;
                return;
            }
            tp.rec.make().frto = false;
        }
    }
    if recovered {
        tcp_try_undo_recovery(sk, tp);
        return;
    }
    if !tp.rx_opt.sack_ok {
        if after(tp.snd_nxt, tp.rec.high_seq) && num_dupack != 0 {
            tcp_add_reno_sack(sk, tp, num_dupack, flag.contains(Ack::ECE));
        } else if flag.contains(Ack::SND_UNA_ADVANCED) {
            tp.sacked_out = 0;
        }
    }
    *rexmit = Rexmit::Lost;
}

/// A recovery from timeouts is over: for `tcp_info` (`tcp_update_rto_time`).
fn tcp_update_rto_time(tp: &mut TcpSock) {
    if tp.rec.rto_stamp != 0 {
        tp.rec.make().total_rto_time =
            tp.rec.total_rto_time.wrapping_add(tp.time_stamp().wrapping_sub(tp.rec.rto_stamp));
        tp.rec.make().rto_stamp = 0;
    }
}

/// An ACK that is more than the acknowledgement of what came in order (`tcp_fastretrans_alert`).
pub fn tcp_fastretrans_alert(
    sk: &Arc<Sock>,
    tp: &mut TcpSock,
    prior_una: u32,
    num_dupack: u32,
    flag: &mut Ack,
    rexmit: &mut Rexmit,
) {
    let ece = flag.contains(Ack::ECE);
    if tp.packets_out == 0 && tp.sacked_out != 0 {
        tp.sacked_out = 0;
    }
    if ece && let Some(r) = tp.rec.if_used() {
        r.prior_ssthresh = 0;
    }
    if flag.contains(Ack::SACK_RENEGING | Ack::SND_UNA_ADVANCED) {
        // The peer may have thrown away what it had reported; give it a moment before all is sent again.
        let delay = ((tp.srtt_us >> 4).max(10_000)).div_ceil(1000);
        inet_csk_reset_xmit_timer(sk, tp, ICSK_TIME_RETRANS, delay, TCP_RTO_MAX);
        flag.remove(Ack::SET_XMIT_TIMER);
        return;
    }
    tcp_verify_left_out(tp);
    if tp.ca_state == TcpCaState::Open {
        tp.retrans_stamp = 0;
    } else if !before(tp.snd_una, tp.rec.high_seq) && tcp_left_recovery_point(sk, tp) {
        return;
    }
    match tp.ca_state {
        TcpCaState::Recovery => {
            if !flag.contains(Ack::SND_UNA_ADVANCED) {
                if !tp.rx_opt.sack_ok {
                    tcp_add_reno_sack(sk, tp, num_dupack, ece);
                }
            } else if tcp_try_undo_partial(sk, tp, prior_una) {
                return;
            }
            if tcp_try_undo_dsack(sk, tp) {
                tcp_try_to_open(sk, tp, *flag);
            }
            tcp_identify_packet_loss(sk, tp, flag);
            if tp.ca_state != TcpCaState::Recovery {
                if tp.lost_out == 0 {
                    return;
                }
                tcp_enter_recovery(sk, tp, ece);
            }
        }
        state => {
            if state == TcpCaState::Loss {
                tcp_process_loss(sk, tp, *flag, num_dupack, rexmit);
                if tp.ca_state != TcpCaState::Loss {
                    tcp_update_rto_time(tp);
                }
                tcp_identify_packet_loss(sk, tp, flag);
                if !(tp.ca_state == TcpCaState::Open || flag.contains(Ack::LOST_RETRANS)) {
                    return;
                }
            }
            if !tp.rx_opt.sack_ok {
                if flag.contains(Ack::SND_UNA_ADVANCED) {
                    tp.sacked_out = 0;
                }
                tcp_add_reno_sack(sk, tp, num_dupack, ece);
            }
            if tp.ca_state <= TcpCaState::Disorder {
                tcp_try_undo_dsack(sk, tp);
            }
            tcp_identify_packet_loss(sk, tp, flag);
            if tp.lost_out == 0 {
                tcp_try_to_open(sk, tp, *flag);
                return;
            }
            if tcp_mtup_probe_failed(sk, tp) {
                return tcp_simple_retransmit(sk, tp);
            }
            tcp_enter_recovery(sk, tp, ece);
        }
    }
    *rexmit = Rexmit::Lost;
}

/// Everything up to `high_seq` is acknowledged: the episode ends. `true`: nothing more is to be done.
fn tcp_left_recovery_point(sk: &Sock, tp: &mut TcpSock) -> bool {
    match tp.ca_state {
        // Wait until something beyond is acknowledged, or the window would be reduced twice for one event.
        TcpCaState::Cwr if tp.snd_una != tp.rec.high_seq => {
            tcp_end_cwnd_reduction(sk, tp);
            tcp_set_ca_state(sk, tp, TcpCaState::Open);
        }
        TcpCaState::Recovery => {
            if !tp.rx_opt.sack_ok {
                tp.sacked_out = 0;
            }
            if tcp_try_undo_recovery(sk, tp) {
                return true;
            }
            tcp_end_cwnd_reduction(sk, tp);
        }
        _ => {}
    }
    false
}
