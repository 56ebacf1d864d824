//! Acknowledgements as the sender reads them: windows, round-trip time, freeing what has arrived, congestion control.
//!
//! Interface: [`tcp_ack`], [`tcp_send_challenge_ack`], [`tcp_store_ts_recent`].
//! Linux counterpart: `tcp_ack` and around it in `net/ipv4/tcp_input.c`, `net/ipv4/tcp_rate.c`.
//! Locks and context: socket lock.

use super::inet_csk_timers::*;
use super::inet_hashtables::tcp_hashinfo;
use super::tcp_accecn::{AceSample, tcp_accecn_ace};
use super::tcp_chrono::tcp_chrono_stop;
use super::tcp_cong::*;
use super::tcp_ecn::{tcp_accecn_process, tcp_ecn_accept_cwr, tcp_ecn_rcv_ecn_echo};
use super::tcp_mem::tcp_mem_reclaim;
use super::tcp_mtu_probe::tcp_mtup_probe_acked;
use super::tcp_options::accecn_option;
use super::tcp_output::*;
use super::tcp_queue::*;
use super::tcp_rate::*;
use super::tcp_recovery::*;
use super::tcp_retransmit::*;
use super::tcp_rtt::tcp_ack_update_rtt;
use super::tcp_sack::*;
use super::tcp_sock::*;
use super::tcp_tx_notify::tcp_notify_acked;
use crate::core::neighbour::neigh_confirm;
use crate::core::skbuff::Skb;
use crate::core::snmp::Mib;
use crate::core::sock::Sock;
use crate::hdr::{TcpHdr, tcp_flag};
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};
use uapi::tcp::TcpState;

/// The option area of the packet's header; `data` is at the header.
#[inline]
pub fn tcp_hdr_opts(skb: &Skb) -> &[u8] {
    let b = skb.transport_header();
    let len = TcpHdr::read(b).map_or(0, |h| h.header_len());
    b.get(TcpHdr::LEN..len).unwrap_or(&[])
}

/// The packet's TCP header.
#[inline]
pub fn tcp_hdr(skb: &Skb) -> Option<&TcpHdr> {
    TcpHdr::read(skb.transport_header())
}

/// Whether an answer to something out of the window was sent a moment ago (`tcp_oow_rate_limited`).
pub fn tcp_oow_rate_limited(sk: &Sock, tp: &mut TcpSock, skb: Option<&Skb>, mib: Mib) -> bool {
    // Data is always answered: its sender needs to know.
    if let Some(skb) = skb {
        let cb = tcp_skb_cb(skb);
        if cb.seq != cb.end_seq && cb.tcp_flags & tcp_flag::SYN == 0 {
            return false;
        }
    }
    let now = tp.jiffies32();
    let elapsed = now.wrapping_sub(tp.last_oow_ack_time) as i32;
    if tp.last_oow_ack_time != 0 && (0..sk.net.sysctl.tcp_invalid_ratelimit.get() as i32).contains(&elapsed) {
        sk.net.mib.inc(mib);
        return true;
    }
    tp.last_oow_ack_time = now.max(1);
    false
}

/// An ACK that only the true peer can make use of (RFC 5961, 3.2, 4.2 and 7; `tcp_send_challenge_ack`).
pub fn tcp_send_challenge_ack(sk: &Arc<Sock>, tp: &mut TcpSock) {
    if tcp_oow_rate_limited(sk, tp, None, Mib::TcpExtTCPACKSkippedChallenge) {
        return;
    }
    let limit = sk.net.sysctl.tcp_challenge_ack_limit.get() as u32;
    if tcp_hashinfo(&sk.net).challenge_acks_spent(&sk.net, tp.jiffies32() / 1000, limit) {
        return;
    }
    sk.net.mib.inc(Mib::TcpExtTCPChallengeACK);
    tcp_send_ack(sk, tp);
}

/// `tcp_store_ts_recent`.
pub fn tcp_store_ts_recent(tp: &mut TcpSock) {
    tp.rx_opt.ts_recent = tp.rx_opt.rcv_tsval;
    tp.rx_opt.ts_recent_stamp = (tp.jiffies32() / 1000).max(1);
}

/// RFC 7323, 4.3: only a segment that reaches the last ACK sent may update (`tcp_replace_ts_recent`).
fn tcp_replace_ts_recent(tp: &mut TcpSock, seq: u32) -> Ack {
    if tp.rx_opt.saw_tstamp && !after(seq, tp.rcv_wup) {
        let delta = tp.rx_opt.rcv_tsval.wrapping_sub(tp.rx_opt.ts_recent) as i32;
        if delta >= 0 || tp.rx_opt.ts_recent == 0 {
            tcp_store_ts_recent(tp);
            return if delta > 0 { Ack::TS_PROGRESS } else { Ack::empty() };
        }
    }
    Ack::empty()
}

fn tcp_snd_una_update(tp: &mut TcpSock, ack: u32) {
    tp.bytes_acked += ack.wrapping_sub(tp.snd_una) as u64;
    tp.snd_una = ack;
}

/// RFC 9293, 3.10.7.4: SND.WND, SND.WL1 (`tcp_ack_update_window`).
fn tcp_ack_update_window(sk: &Sock, tp: &mut TcpSock, th: &TcpHdr, ack: u32, seq: u32) -> Ack {
    let mut flag = Ack::empty();
    let mut nwin = th.window.get() as u32;
    if !th.has(tcp_flag::SYN) {
        nwin <<= tp.rx_opt.snd_wscale;
    }
    let may =
        after(ack, tp.snd_una) || after(seq, tp.snd_wl1) || (seq == tp.snd_wl1 && (nwin > tp.snd_wnd || nwin == 0));
    if may {
        flag |= Ack::WIN_UPDATE;
        tp.snd_wl1 = seq;
        if tp.snd_wnd != nwin {
            tp.snd_wnd = nwin;
            // What waited for it may have waited long.
            if !tp.tx.write_is_empty() {
                tcp_slow_start_after_idle_check(sk, tp);
            }
            if nwin > tp.max_window {
                tp.max_window = nwin;
                let pmtu = tp.icsk_pmtu_cookie;
                tcp_sync_mss(sk, tp, pmtu);
            }
        }
    }
    tcp_snd_una_update(tp, ack);
    flag
}

/// What Accurate ECN's counters say (RFC 9768, 3.2.2). Marks that are new are like an echo.
#[inline]
fn tcp_ack_accecn(sk: &Sock, tp: &mut TcpSock, skb: &Skb, flag: &mut Ack, delivered: u32, bytes: u32) {
    if tp.rare.accecn.is_some() {
        ack_accecn(sk, tp, skb, flag, delivered, bytes);
    }
}

fn ack_accecn(sk: &Sock, tp: &mut TcpSock, skb: &Skb, flag: &mut Ack, delivered: u32, bytes: u32) {
    let Some(th) = tcp_hdr(skb) else { return };
    let sample = AceSample {
        ace: tcp_accecn_ace(th),
        option: accecn_option(tcp_hdr_opts(skb), &tp.rx_opt),
        pkts: delivered,
        bytes,
        slow: flag.contains(Ack::SLOWPATH),
        progress: flag.intersects(Ack::FORWARD_PROGRESS | Ack::TS_PROGRESS),
        syn: flag.contains(Ack::SYN_ACKED),
        bytes_sent: tp.bytes_sent,
        mss: tp.mss_cache,
        exact: tp.rx_opt.sack_ok || matches!(tp.ca_state, TcpCaState::Open | TcpCaState::Cwr),
    };
    let n = tcp_accecn_process(tp, &sample);
    if n > 0 {
        flag.insert(Ack::ECE);
        sk.net.mib.add(Mib::TcpExtTCPDeliveredCE, n as u64);
    }
}

/// An acknowledgement that is of no use to anybody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadAck;

/// The acknowledgement of a segment (`tcp_ack`). `Ok(true)`: it is in order; `Ok(false)`: old; `Err`: it acknowledges what
/// was never sent, or is too old to be honest. `skb.data` is at the header.
pub fn tcp_ack(sk: &Arc<Sock>, tp: &mut TcpSock, skb: &Skb, flag: Ack) -> Result<bool, BadAck> {
    let (in_order, rexmit) = tcp_ack_digest(sk, tp, skb, flag)?;
    tcp_xmit_recovery(sk, tp, rexmit);
    Ok(in_order)
}

/// [`tcp_ack`] but for what is sent again because of it, which the caller has to see to ([`tcp_xmit_recovery`]).
pub fn tcp_ack_digest(sk: &Arc<Sock>, tp: &mut TcpSock, skb: &Skb, mut flag: Ack) -> Result<(bool, Rexmit), BadAck> {
    let cb = *tcp_skb_cb(skb);
    let Some(th) = tcp_hdr(skb) else { return Err(BadAck) };
    let (ack, prior_una) = (cb.ack_seq, tp.snd_una);
    let prior = Prior { una: prior_una, packets: tp.packets_out, delivered: tp.delivered, lost: tp.lost };
    let mut st = SackState { reord: tp.snd_nxt, ..SackState::default() };
    st.rate.prior_in_flight = tp.packets_in_flight();
    if before(ack, prior_una) {
        return tcp_old_ack(sk, tp, skb, flag, &mut st);
    }
    if after(ack, tp.snd_nxt) {
        // RFC 5961, 5.2: of what was never sent.
        if !flag.contains(Ack::NO_CHALLENGE_ACK) {
            tcp_send_challenge_ack(sk, tp);
        }
        return Err(BadAck);
    }
    if after(ack, prior_una) {
        flag |= Ack::SND_UNA_ADVANCED;
        tp.icsk_retransmits = 0;
    }
    let prior_fack = if tp.sacked_out != 0 { tp.rec.highest_sack } else { tp.snd_una };
    if flag.contains(Ack::UPDATE_TS_RECENT) {
        flag |= tcp_replace_ts_recent(tp, cb.seq);
    }
    if flag & (Ack::SLOWPATH | Ack::SND_UNA_ADVANCED) == Ack::SND_UNA_ADVANCED {
        // The window has not changed, and the ACK is new: nothing to compare.
        tp.snd_wl1 = cb.seq;
        tcp_snd_una_update(tp, ack);
        flag |= Ack::WIN_UPDATE;
        sk.net.mib.inc(Mib::TcpExtTCPHPAcks);
    } else {
        if cb.seq != cb.end_seq {
            flag |= Ack::DATA;
        } else {
            sk.net.mib.inc(Mib::TcpExtTCPPureAcks);
        }
        flag |= tcp_ack_update_window(sk, tp, th, ack, cb.seq);
        if tp.rx_opt.sack_blocks > 0 {
            flag |= tcp_sacktag_write_queue(sk, tp, tcp_hdr_opts(skb), ack, prior_una, &mut st);
        }
        if tcp_ecn_rcv_ecn_echo(tp, th) {
            flag |= Ack::ECE;
        }
        tcp_count_delivered(tp, st.sack_delivered, flag.contains(Ack::ECE));
    }
    // Also on a pure ACK, where RFC 3168 (6.1.2) has it on data only: there are stacks that send it so.
    tcp_ecn_accept_cwr(tp, skb);
    sk.err_soft.store(0, Relaxed);
    tp.icsk_probes_out = 0;
    tp.rcv_tstamp = tp.jiffies32();
    if prior.packets == 0 {
        let delivered = tp.delivered.wrapping_sub(prior.delivered);
        tcp_ack_accecn(sk, tp, skb, &mut flag, delivered, st.delivered_bytes);
        tcp_in_ack_event(sk, tp, flag);
        let mut rexmit = Rexmit::None;
        if flag.contains(Ack::DSACKING_ACK) {
            tcp_fastretrans_alert(sk, tp, prior_una, 0, &mut flag, &mut rexmit);
            tcp_newly_delivered(sk, tp, prior.delivered, flag);
        }
        // The peer's window is what holds us up.
        tcp_ack_probe(sk, tp);
        tcp_process_tlp_ack(sk, tp, ack, flag);
        return Ok((true, Rexmit::None));
    }
    tcp_clean_rtx_queue(sk, tp, prior_fack, prior_una, &mut flag, &mut st);
    let delivered = tp.delivered.wrapping_sub(prior.delivered);
    tcp_ack_accecn(sk, tp, skb, &mut flag, delivered, st.delivered_bytes);
    tcp_in_ack_event(sk, tp, flag);
    Ok((true, tcp_ack_react(sk, tp, skb, flag, &mut st, &prior)))
}

/// Tells the algorithm what kind of ACK it is (`tcp_in_ack_event`).
#[inline]
fn tcp_in_ack_event(sk: &Sock, tp: &mut TcpSock, flag: Ack) {
    let Some(f) = tcp_ca(tp).in_ack_event else { return };
    let fast = flag & (Ack::SLOWPATH | Ack::SND_UNA_ADVANCED) == Ack::SND_UNA_ADVANCED;
    let mut what = CaAck::empty();
    what.set(CaAck::SLOWPATH, !fast);
    what.set(CaAck::WIN_UPDATE, flag.contains(Ack::WIN_UPDATE));
    what.set(CaAck::ECE, flag.contains(Ack::ECE));
    f(sk, tp, what);
}

/// Segments delivered since there were `prior` (`tcp_newly_delivered`).
fn tcp_newly_delivered(sk: &Sock, tp: &TcpSock, prior: u32, flag: Ack) -> u32 {
    let n = tp.delivered.wrapping_sub(prior);
    if n > 0 {
        sk.net.mib.add(Mib::TcpExtTCPDelivered, n as u64);
        if flag.contains(Ack::ECE) && tp.rare.accecn.is_none() {
            sk.net.mib.add(Mib::TcpExtTCPDeliveredCE, n as u64);
        }
    }
    n
}

/// How things stood before an ACK.
struct Prior {
    una: u32,
    packets: u32,
    delivered: u32,
    lost: u32,
}

/// Whether an ACK is too old to be a late one: from before all that may still be under way (RFC 5961, 5.2).
#[inline]
pub fn tcp_ack_too_old(tp: &TcpSock, ack: u32) -> bool {
    let window = (tp.max_window as u64).min(tp.bytes_acked) as u32;
    before(ack, tp.snd_una.wrapping_sub(window))
}

/// An ACK from before the last one: its SACK blocks may still say something new.
fn tcp_old_ack(
    sk: &Arc<Sock>,
    tp: &mut TcpSock,
    skb: &Skb,
    mut flag: Ack,
    st: &mut SackState,
) -> Result<(bool, Rexmit), BadAck> {
    let (ack, una) = (tcp_skb_cb(skb).ack_seq, tp.snd_una);
    if tcp_ack_too_old(tp, ack) {
        if !flag.contains(Ack::NO_CHALLENGE_ACK) {
            tcp_send_challenge_ack(sk, tp);
        }
        return Err(BadAck);
    }
    let mut rexmit = Rexmit::None;
    if tp.rx_opt.sack_blocks > 0 {
        let delivered = tp.delivered;
        flag |= tcp_sacktag_write_queue(sk, tp, tcp_hdr_opts(skb), ack, una, st);
        tcp_count_delivered(tp, st.sack_delivered, false);
        let newly = tp.delivered.wrapping_sub(delivered);
        tcp_ack_accecn(sk, tp, skb, &mut flag, newly, st.delivered_bytes);
        tcp_fastretrans_alert(sk, tp, una, 0, &mut flag, &mut rexmit);
        tcp_newly_delivered(sk, tp, delivered, flag);
    }
    Ok((false, rexmit))
}

/// Loss detection, timers and window after an ACK for something that was in flight; what is to be sent again.
fn tcp_ack_react(
    sk: &Arc<Sock>,
    tp: &mut TcpSock,
    skb: &Skb,
    mut flag: Ack,
    st: &mut SackState,
    prior: &Prior,
) -> Rexmit {
    let ack = tcp_skb_cb(skb).ack_seq;
    let mut rexmit = Rexmit::None;
    tcp_rack_update_reo_wnd(sk, tp, st.rate.prior_delivered);
    if tp.rec.tlp_high_seq != 0 {
        tcp_process_tlp_ack(sk, tp, ack, flag);
    }
    if !flag.intersects(Ack::NOT_DUP) || flag.intersects(Ack::CA_ALERT) || tp.ca_state != TcpCaState::Open {
        let mut num_dupack = 0;
        if !flag.intersects(Ack::SND_UNA_ADVANCED | Ack::NOT_DUP | Ack::DSACKING_ACK) {
            num_dupack = if flag.contains(Ack::DATA) { 1 } else { (skb.gso_segs as u32).max(1) };
        }
        tcp_fastretrans_alert(sk, tp, prior.una, num_dupack, &mut flag, &mut rexmit);
    }
    if flag.contains(Ack::SET_XMIT_TIMER) && !tcp_schedule_loss_probe(sk, tp, true) {
        tcp_rearm_rto(sk, tp);
    }
    if flag.intersects(Ack::FORWARD_PROGRESS) || !flag.intersects(Ack::NOT_DUP) {
        tcp_confirm_neigh(sk, tp);
    }
    let delivered = tcp_newly_delivered(sk, tp, prior.delivered, flag);
    let lost = tp.lost.wrapping_sub(prior.lost);
    st.rate.is_ack_delayed = flag.contains(Ack::ACK_MAYBE_DELAYED);
    tcp_rate_gen(tp, delivered, lost, tp.rec.is_sack_reneg, &mut st.rate);
    tcp_cong_control(sk, tp, ack, flag, &st.rate);
    rexmit
}

/// The next hop is alive: what it was given has arrived (RFC 4861, 7.3.1; `sk_dst_confirm`). Once a second is enough.
fn tcp_confirm_neigh(sk: &Sock, tp: &mut TcpSock) {
    let now = tp.jiffies32();
    if now.wrapping_sub(tp.confirm_stamp) < 1000 {
        return;
    }
    tp.confirm_stamp = now;
    let dst = sk.dst_cache.lock_bh().clone();
    if let Some(dst) = dst.filter(|d| !d.is_local()) {
        neigh_confirm(&sk.net, dst.dev.ifindex, dst.next_hop(tp.inet.daddr));
    }
}

/// A piece, or part of one, that is acknowledged.
struct AckedPiece {
    sacked: u8,
    seq: u32,
    end_seq: u32,
    mstamp: u64,
    xmit_id: u32,
    segs: u32,
}

impl AckedPiece {
    fn of(s: &TxSkb) -> AckedPiece {
        AckedPiece {
            sacked: s.sacked,
            seq: s.seq,
            end_seq: s.end_seq,
            mstamp: s.mstamp,
            xmit_id: s.xmit_id,
            segs: s.pcount(),
        }
    }
}

/// What the pieces that one ACK acknowledges have in common.
struct Cleaned {
    segs: u32,
    /// When the first and the last that were sent once went out; 0: none.
    first_ackt: u64,
    last_ackt: u64,
    /// Lowest sequence number among them.
    reord: u32,
    ece: bool,
    prior_una: u32,
    /// Whole pieces only.
    whole: bool,
    /// Something was SACKed before.
    sacked: bool,
}

/// Frees what is acknowledged, and takes samples from it (`tcp_clean_rtx_queue`).
fn tcp_clean_rtx_queue(
    sk: &Sock,
    tp: &mut TcpSock,
    prior_fack: u32,
    prior_una: u32,
    flag: &mut Ack,
    st: &mut SackState,
) {
    let ece = flag.contains(Ack::ECE);
    let (reord, sacked) = (tp.snd_nxt, tp.sacked_out != 0);
    let mut c = Cleaned { segs: 0, first_ackt: 0, last_ackt: 0, reord, ece, prior_una, whole: true, sacked };
    let mut freed = 0;
    tcp_notify_acked(sk, tp);
    while let Some(s) = tp.tx.rtx_front() {
        let mut piece = AckedPiece::of(s);
        if after(s.end_seq, tp.snd_una) {
            if piece.segs == 1 || !after(tp.snd_una, s.seq) {
                break;
            }
            // The front of a piece of several segments.
            c.whole = false;
            let len = tp.snd_una.wrapping_sub(piece.seq);
            tcp_trim_head(sk, tp, len);
            piece.segs -= tp.tx.rtx_front().map_or(0, |s| s.pcount()).min(piece.segs);
            if piece.segs > 0 {
                *flag |= Ack::DATA_ACKED;
                st.delivered_bytes = st.delivered_bytes.wrapping_add(len);
                tcp_ack_piece(tp, flag, &piece, &mut c);
            }
            break;
        }
        tcp_ack_piece(tp, flag, &piece, &mut c);
        let Some(s) = tp.tx.pop_rtx_front() else { break };
        if s.has(tcp_flag::SYN) {
            *flag |= Ack::SYN_ACKED;
            tp.retrans_stamp = 0;
        } else {
            *flag |= Ack::DATA_ACKED;
        }
        // What was SACKed has been counted.
        if s.sacked & TCPCB_SACKED_ACKED == 0 {
            st.delivered_bytes = st.delivered_bytes.wrapping_add(s.len);
            tcp_rate_skb_delivered(tp, &TxInfo::of(&s), &mut st.rate);
        }
        freed += s.truesize as usize;
    }
    if freed > 0 {
        sk.wmem_queued.fetch_sub(freed, AcqRel);
        tcp_mem_reclaim(sk, tp);
    }
    if tp.tx.is_empty() {
        tp.frag = None;
        tcp_chrono_stop(tp, TcpChrono::Busy);
    }
    if between(tp.snd_up, prior_una, tp.snd_una) {
        tp.snd_up = tp.snd_una;
    }
    tcp_mtup_probe_acked(sk, tp);
    if tp.tx.rtx_front().is_some_and(|s| s.sacked & TCPCB_SACKED_ACKED != 0) {
        // The peer would have acknowledged it, had it not thrown it away (RFC 2018, 8).
        *flag |= Ack::SACK_RENEGING;
    }
    tcp_cleaned(sk, tp, prior_fack, flag, st, &c);
}

/// Samples and counters after cleaning.
fn tcp_cleaned(sk: &Sock, tp: &mut TcpSock, prior_fack: u32, flag: &mut Ack, st: &mut SackState, c: &Cleaned) {
    let now = tp.tcp_mstamp;
    let since = |t: u64| now.saturating_sub(t) as i64;
    let (mut seq_rtt, mut sack_rtt, mut ca_rtt) = (-1, -1, -1);
    // Karn: no sample when something retransmitted was acknowledged.
    if c.first_ackt != 0 && !flag.contains(Ack::RETRANS_DATA_ACKED) {
        (seq_rtt, ca_rtt) = (since(c.first_ackt), since(c.last_ackt));
        // A single short segment, with nothing else delivered since it was sent: its ACK may have waited for more.
        let runt = c.segs == 1 && c.whole && tp.snd_una.wrapping_sub(c.prior_una) < tp.mss_cache;
        if runt
            && !c.sacked
            && st.rate.prior_delivered.wrapping_add(1) == tp.delivered
            && !flag.intersects(Ack::CA_ALERT | Ack::SYN_ACKED)
        {
            *flag |= Ack::ACK_MAYBE_DELAYED;
        }
    }
    if st.first_sackt != 0 {
        (sack_rtt, ca_rtt) = (since(st.first_sackt), since(st.last_sackt));
    }
    let (acked, delayed) = (flag.intersects(Ack::ACKED), flag.contains(Ack::ACK_MAYBE_DELAYED));
    let rtt_update = tcp_ack_update_rtt(&sk.net, tp, acked, delayed, seq_rtt, sack_rtt, &mut ca_rtt);
    st.rate.rtt_us = ca_rtt;
    if flag.intersects(Ack::ACKED) {
        *flag |= Ack::SET_XMIT_TIMER;
        if !tp.rx_opt.sack_ok {
            tcp_remove_reno_sacks(sk, tp, c.segs, c.ece);
            // Which of them was sent once only nobody can tell.
            if flag.contains(Ack::RETRANS_DATA_ACKED) {
                flag.remove(Ack::ORIG_SACK_ACKED);
            }
        } else if before(c.reord, prior_fack) {
            tcp_check_sack_reordering(sk, tp, c.reord, false);
        }
    } else if rtt_update && sack_rtt >= 0 && tp.tx.rtx_front().is_some_and(|s| sack_rtt > since(s.mstamp)) {
        // The timer was set for a segment sent later than we thought.
        *flag |= Ack::SET_XMIT_TIMER;
    }
    if let Some(f) = tcp_ca(tp).pkts_acked {
        f(sk, tp, &AckSample { pkts_acked: c.segs, rtt_us: ca_rtt });
    }
}

/// Counts of one acknowledged piece.
fn tcp_ack_piece(tp: &mut TcpSock, flag: &mut Ack, p: &AckedPiece, c: &mut Cleaned) {
    c.segs += p.segs;
    if p.sacked & TCPCB_RETRANS != 0 {
        if p.sacked & TCPCB_SACKED_RETRANS != 0 {
            tp.retrans_out = tp.retrans_out.saturating_sub(p.segs);
        }
        *flag |= Ack::RETRANS_DATA_ACKED;
    } else if p.sacked & TCPCB_SACKED_ACKED == 0 {
        c.last_ackt = p.mstamp;
        if c.first_ackt == 0 {
            c.first_ackt = p.mstamp;
        }
        if before(p.seq, c.reord) {
            c.reord = p.seq;
        }
        if !after(p.end_seq, tp.rec.high_seq) {
            *flag |= Ack::ORIG_SACK_ACKED;
        }
    }
    if p.sacked & TCPCB_SACKED_ACKED != 0 {
        tp.sacked_out = tp.sacked_out.saturating_sub(p.segs);
    } else if tp.rx_opt.sack_ok {
        tcp_count_delivered(tp, p.segs, c.ece);
        if !tcp_spurious_retrans(tp, p.sacked, p.mstamp) {
            tcp_rack_advance(tp, p.sacked, p.xmit_id, p.mstamp);
        }
    }
    if p.sacked & TCPCB_LOST != 0 {
        tp.lost_out = tp.lost_out.saturating_sub(p.segs);
    }
    tp.packets_out = tp.packets_out.saturating_sub(p.segs);
}

/// The peer's window has opened, or not (`tcp_ack_probe`).
fn tcp_ack_probe(sk: &Sock, tp: &mut TcpSock) {
    let Some(head) = tp.tx.send_head() else { return };
    if !after(head.end_seq, tp.wnd_end()) {
        tp.icsk_backoff = 0;
        if let Some(r) = tp.rec.if_used() {
            r.icsk_probes_tstamp = 0;
        }
        inet_csk_clear_xmit_timer(tp);
    } else {
        let when = tcp_clamp_probe0_to_user_timeout(tp, tcp_probe0_when(tp, tp.icsk_rto_max));
        inet_csk_reset_xmit_timer(sk, tp, ICSK_TIME_PROBE0, when, TCP_RTO_MAX);
    }
}

/// What became of a loss probe (RFC 8985, 7.4; `tcp_process_tlp_ack`).
fn tcp_process_tlp_ack(sk: &Sock, tp: &mut TcpSock, ack: u32, flag: Ack) {
    if tp.rec.tlp_high_seq == 0 || before(ack, tp.rec.tlp_high_seq) {
        return;
    }
    if !tp.rec.tlp_retrans || flag.contains(Ack::DSACK_TLP) {
        // New data was the probe, or the probe was a duplicate: nothing was lost.
        tp.rec.make().tlp_high_seq = 0;
    } else if after(ack, tp.rec.tlp_high_seq) {
        // The probe repaired a loss: react to it once.
        tcp_init_cwnd_reduction(sk, tp);
        tcp_set_ca_state(sk, tp, TcpCaState::Cwr);
        tcp_end_cwnd_reduction(sk, tp);
        tcp_try_keep_open(sk, tp);
        sk.net.mib.inc(Mib::TcpExtTCPLossProbeRecovery);
    } else if !flag.intersects(Ack::SND_UNA_ADVANCED | Ack::NOT_DUP | Ack::DATA_SACKED) {
        tp.rec.make().tlp_high_seq = 0;
    }
}

/// Opens or reduces the window (`tcp_cong_control`).
fn tcp_cong_control(sk: &Sock, tp: &mut TcpSock, ack: u32, flag: Ack, rs: &RateSample) {
    if let Some(f) = tcp_ca(tp).cong_control {
        return f(sk, tp, rs);
    }
    if tcp_in_cwnd_reduction(tp) {
        tcp_cwnd_reduction(tp, rs.acked_sacked, rs.losses, flag);
    } else {
        let wide = tp.reordering > sk.net.sysctl.tcp_reordering.get() as u32;
        let raise = if wide { Ack::FORWARD_PROGRESS } else { Ack::DATA_ACKED };
        if flag.intersects(raise) && !(flag.contains(Ack::ECE) && tp.ca_state == TcpCaState::Cwr) {
            (tcp_ca(tp).cong_avoid)(sk, tp, ack, rs.acked_sacked);
            tp.snd_cwnd_stamp = tp.jiffies32();
        }
    }
    tcp_update_pacing_rate(sk, tp);
}

/// The rate the window stands for, and some more so that the window stays what limits (`tcp_update_pacing_rate`).
pub fn tcp_update_pacing_rate(sk: &Sock, tp: &mut TcpSock) {
    let s = &sk.net.sysctl;
    let ratio =
        if tp.snd_cwnd < tp.snd_ssthresh / 2 { s.tcp_pacing_ss_ratio.get() } else { s.tcp_pacing_ca_ratio.get() };
    let window = tp.snd_cwnd.max(tp.packets_out) as u64 * tp.mss_cache as u64;
    let mut rate = (window * (1_000_000 / 100 * ratio as u64)) << 3;
    if tp.srtt_us != 0 {
        rate /= tp.srtt_us as u64;
    }
    tp.pacing_rate = rate;
}

/// Sends what recovery asks for (`tcp_xmit_recovery`).
pub fn tcp_xmit_recovery(sk: &Arc<Sock>, tp: &mut TcpSock, rexmit: Rexmit) {
    if rexmit == Rexmit::None || sk.state() == TcpState::SynSent {
        return;
    }
    if rexmit == Rexmit::New {
        let mss = tcp_current_mss(sk, tp);
        __tcp_push_pending_frames(sk, tp, mss, TCP_NAGLE_OFF);
        if after(tp.snd_nxt, tp.rec.high_seq) {
            return;
        }
        tp.rec.make().frto = false;
    }
    tcp_xmit_retransmit_queue(sk, tp);
}
