//! Sending again: what is lost, the tail as a probe, what a smaller path MTU makes too large.
//!
//! Interface: [`tcp_retransmit_skb`], [`tcp_xmit_retransmit_queue`], [`tcp_mark_skb_lost`], [`tcp_send_loss_probe`],
//! [`tcp_simple_retransmit`], [`tcp_non_congestion_loss_retransmit`], [`tcp_mtu_reduced`].
//! Linux counterpart: `__tcp_retransmit_skb` and around it in `net/ipv4/tcp_output.c`, `tcp_simple_retransmit`.
//! Locks and context: socket lock; process or softirq context.

use super::inet_csk_timers::*;
use super::tcp_cong::*;
use super::tcp_mtu_probe::tcp_mtup_inconclusive;
use super::tcp_output::*;
use super::tcp_pacing::tcp_pacing_check;
use super::tcp_queue::*;
use super::tcp_sock::*;
use super::tcp_tsq::tcp_small_queue_check;
use crate::core::l3::DontFragment;
use crate::core::snmp::Mib;
use crate::core::sock::Sock;
use crate::hdr::{IPV6_MIN_MTU, tcp_flag};
use kernel::tp;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Release};
use uapi::socket::{IP_PMTUDISC_DONT, IP_PMTUDISC_INTERFACE, IP_PMTUDISC_OMIT};
use uapi::tcp::TcpState;
use uapi::{Errno, Result};

// --- What is lost ---

/// Marks a piece lost, or lost again (`tcp_mark_skb_lost`).
pub fn tcp_mark_skb_lost(sk: &Sock, tp: &mut TcpSock, i: usize) {
    let Some(s) = tp.tx.rtx(i) else { return };
    let (pcount, was) = (s.pcount(), s.sacked);
    if was & TCPCB_SACKED_ACKED != 0 {
        return;
    }
    if was & TCPCB_SACKED_RETRANS != 0 {
        // The retransmission is lost as well (RFC 8985, 6.2, step 5).
        tp.retrans_out = tp.retrans_out.saturating_sub(pcount);
        sk.net.mib.add(Mib::TcpExtTCPLostRetransmit, pcount as u64);
    } else if was & TCPCB_LOST != 0 {
        return;
    }
    tp.tx.tag(i, TCPCB_LOST, TCPCB_SACKED_RETRANS);
    if was & TCPCB_LOST == 0 {
        tp.lost_out += pcount;
    }
    tp.lost = tp.lost.wrapping_add(pcount);
}

/// Without SACK: no more duplicates can have arrived than were sent beyond the holes. `true`: there were more, which is
/// reordering (`tcp_limit_reno_sacked`).
pub fn tcp_limit_reno_sacked(tp: &mut TcpSock) -> bool {
    let most = tp.packets_out.saturating_sub(tp.lost_out.max(1));
    let over = tp.sacked_out > most;
    tp.sacked_out = tp.sacked_out.min(most);
    over
}

/// The counts are what the pieces say (`tcp_verify_left_out`). In builds for tests.
#[inline]
pub fn tcp_verify_left_out(tp: &TcpSock) {
    #[cfg(any(test, debug_assertions))]
    if cfg!(test) || tp.tx.rtx_len() <= 64 {
        let count = |tag: u8| -> u32 {
            let tagged = (0..tp.tx.rtx_len()).filter_map(|i| tp.tx.get(i)).filter(|s| tag == 0 || s.sacked & tag != 0);
            tagged.map(|s| s.pcount()).sum()
        };
        let sacked = if tp.rx_opt.sack_ok { count(TCPCB_SACKED_ACKED) } else { tp.sacked_out };
        let found = [count(0), sacked, count(TCPCB_LOST), count(TCPCB_SACKED_RETRANS)];
        debug_assert_eq!(found, [tp.packets_out, tp.sacked_out, tp.lost_out, tp.retrans_out], "scoreboard");
        debug_assert!(tp.left_out() <= tp.packets_out, "{} + {} of {}", tp.sacked_out, tp.lost_out, tp.packets_out);
        debug_assert!(tp.tx.board_is_right(), "order of transmissions");
    }
    #[cfg(not(any(test, debug_assertions)))]
    let _ = tp;
}

// --- Tail loss probe ---

/// Sends something to make the peer acknowledge the tail: new data, or the last segment again (RFC 8985, 7.3;
/// `tcp_send_loss_probe`).
pub fn tcp_send_loss_probe(sk: &Arc<Sock>, tp: &mut TcpSock) {
    tp.mstamp_refresh(sk);
    // One probe at a time.
    if tp.rec.tlp_high_seq == 0 && tcp_send_one_probe(sk, tp) {
        tp.rec.make().tlp_high_seq = tp.snd_nxt;
        sk.net.mib.inc(Mib::TcpExtTCPLossProbes);
        // The timeout counts from the probe.
        tp.icsk_pending = 0;
    }
    tcp_rearm_rto(sk, tp);
}

fn tcp_send_one_probe(sk: &Arc<Sock>, tp: &mut TcpSock) -> bool {
    tp.rec.make().tlp_retrans = false;
    let mss = tcp_current_mss(sk, tp);
    if tp.tx.send_head().is_some_and(|s| tcp_snd_wnd_test(tp, s, mss)) {
        let before_out = tp.packets_out;
        tcp_write_xmit(sk, tp, mss, TCP_NAGLE_OFF, Push::Probe);
        return tp.packets_out > before_out;
    }
    let Some(mut i) = tp.tx.rtx_len().checked_sub(1) else { return false };
    let Some(s) = tp.tx.rtx(i) else { return false };
    let all_but_one = (s.pcount() - 1) * mss;
    if s.pcount() > 1 && s.len > all_but_one && tcp_fragment(sk, tp, i, all_but_one, mss) {
        i += 1;
    }
    // Neither counted as a retransmission in flight nor taken for the start of a recovery: nothing is known to be lost.
    tp.rec.make().tlp_retrans = __tcp_retransmit_skb(sk, tp, i, 1).is_ok();
    tp.rec.tlp_retrans
}

// --- Retransmission ---

/// What was acknowledged in part is sent without that part.
fn tcp_trim_to_una(sk: &Sock, tp: &mut TcpSock, i: usize) -> Result<()> {
    let una = tp.snd_una;
    let (seq, end, syn) = tp.tx.rtx(i).map(|s| (s.seq, s.end_seq, s.has(tcp_flag::SYN))).ok_or(Errno::EINVAL)?;
    if !before(seq, una) {
        return Ok(());
    }
    if !before(una, end) || i != 0 {
        return Err(Errno::EINVAL);
    }
    if syn {
        tp.tx.restamp(i, |s| {
            s.tcp_flags &= !tcp_flag::SYN;
            s.seq = s.seq.wrapping_add(1);
        });
    }
    let len = una.wrapping_sub(seq.wrapping_add(syn as u32));
    if len > 0 {
        tcp_trim_head(sk, tp, len);
    }
    Ok(())
}

/// Fills a small piece that is sent again with what follows it, if that was sent once as well and fits into `space` bytes
/// (RFC 9293, 3.10.8 allows to repacketize; `tcp_retrans_try_collapse`).
fn tcp_retrans_try_collapse(sk: &Sock, tp: &mut TcpSock, to: usize, space: u32) {
    let may = |s: &TxSkb| s.pcount() == 1 && s.sacked & TCPCB_SACKED_ACKED == 0 && !s.has(tcp_flag::SYN);
    if !sk.net.sysctl.tcp_retrans_collapse.on() {
        return;
    }
    while let (Some(head), Some(next)) = (tp.tx.rtx(to), tp.tx.rtx(to + 1)) {
        let fits = head.len + next.len <= space && head.frags.len() + next.frags.len() <= MAX_TX_FRAGS;
        if head.eor || !may(head) || !may(next) || !fits || after(next.end_seq, tp.wnd_end()) {
            return;
        }
        if !tcp_collapse_retrans(sk, tp, to) {
            return;
        }
    }
}

/// Joins piece `i` and the one behind it (`tcp_collapse_retrans`).
fn tcp_collapse_retrans(sk: &Sock, tp: &mut TcpSock, i: usize) -> bool {
    let Some(next) = tp.tx.remove(i + 1) else { return false };
    let (pcount, sacked) = (next.pcount() as i64, next.sacked);
    tp.tx.restamp(i, |s| {
        for f in &next.frags {
            s.add_frag(f.clone());
        }
        s.end_seq = next.end_seq;
        s.tcp_flags |= next.tcp_flags;
        s.sacked |= sacked & TCPCB_EVER_RETRANS;
        s.eor = next.eor;
    });
    sk.wmem_queued.fetch_sub(TX_SKB_OVERHEAD as usize, AcqRel);
    tcp_adjust_pcount(tp, sacked, pcount);
    true
}

/// Sends piece `i` of the retransmit queue again, at most `segs` segments of it (`__tcp_retransmit_skb`).
fn __tcp_retransmit_skb(sk: &Arc<Sock>, tp: &mut TcpSock, i: usize, segs: u32) -> Result<()> {
    tcp_mtup_inconclusive(tp);
    tcp_trim_to_una(sk, tp, i)?;
    let una = tp.snd_una;
    let cur_mss = tcp_current_mss(sk, tp);
    let seq = tp.tx.rtx(i).map_or(una, |s| s.seq);
    let mut avail = tp.wnd_end().wrapping_sub(seq) as i32;
    if avail <= 0 {
        // Beyond the peer's window: only the very first segment, as a probe.
        if seq != una {
            return Err(Errno::EAGAIN);
        }
        avail = cur_mss as i32;
    }
    let mut len = cur_mss.saturating_mul(segs);
    if len > avail as u32 {
        len = avail as u32 / cur_mss * cur_mss;
        if len == 0 {
            len = avail as u32;
        }
    }
    if tp.tx.rtx(i).is_some_and(|s| s.len > len) {
        if !tcp_fragment(sk, tp, i, len, cur_mss) {
            return Err(Errno::ENOMEM);
        }
    } else if let Some(s) = tp.tx.rtx_mut(i) {
        let (old, sacked) = (s.pcount(), s.sacked);
        let diff = old as i64 - tcp_set_tso_segs(s, cur_mss) as i64;
        let small = s.len < cur_mss.min(avail as u32);
        if diff != 0 {
            tcp_adjust_pcount(tp, sacked, diff);
        }
        if small {
            tcp_retrans_try_collapse(sk, tp, i, cur_mss.min(avail as u32));
        }
    }
    let Some(s) = tp.tx.rtx_mut(i) else { return Err(Errno::EINVAL) };
    super::tcp_ecn::tcp_ecn_clear_syn(sk, &mut s.tcp_flags);
    let (pcount, len, syn) = (s.pcount(), s.len, s.has(tcp_flag::SYN));
    sk.net.mib.add(Mib::TcpRetransSegs, pcount as u64);
    if syn {
        sk.net.mib.inc(Mib::TcpExtTCPSynRetrans);
    }
    tp.rec.make().total_retrans = tp.rec.total_retrans.wrapping_add(pcount);
    tp.rec.make().bytes_retrans += len as u64;
    let r = tcp_xmit_piece(sk, tp, i);
    // Also when nothing was sent: no round-trip time may be taken from it.
    tp.tx.tag(i, TCPCB_EVER_RETRANS, 0);
    if r.is_err() {
        sk.net.mib.add(Mib::TcpExtTCPRetransFail, pcount as u64);
    }
    r
}

/// Sends piece `i` again and counts it (`tcp_retransmit_skb`).
pub fn tcp_retransmit_skb(sk: &Arc<Sock>, tp: &mut TcpSock, i: usize, segs: u32) -> Result<()> {
    tp!(tcp_retransmit_skb, sk);
    let r = __tcp_retransmit_skb(sk, tp, i, segs);
    let Some(s) = tp.tx.rtx(i) else { return r };
    let (fresh, pcount, stamp) = (s.sacked & TCPCB_SACKED_RETRANS == 0, s.pcount(), (s.mstamp / 1000) as u32);
    if r.is_ok() {
        tp.tx.tag(i, TCPCB_RETRANS, 0);
        if fresh {
            tp.retrans_out += pcount;
        }
    }
    // An attempt counts: the peer's silence is measured from it.
    if tp.retrans_stamp == 0 {
        tp.retrans_stamp = stamp.max(1);
    }
    tp.rec.make().undo_retrans = tp.rec.undo_retrans.max(0).saturating_add(pcount as i32);
    r
}

/// Sends again what is marked lost, as far as the window goes (`tcp_xmit_retransmit_queue`).
pub fn tcp_xmit_retransmit_queue(sk: &Arc<Sock>, tp: &mut TcpSock) {
    if tp.packets_out == 0 {
        return;
    }
    let mss = tcp_current_mss(sk, tp);
    let max_segs = tcp_tso_segs(sk, tp, mss);
    let mib = match tp.ca_state {
        TcpCaState::Loss => Mib::TcpExtTCPSlowStartRetrans,
        _ => Mib::TcpExtTCPFastRetrans,
    };
    let mut rearm = false;
    while let Some(i) = tp.tx.first_lost() {
        if tcp_pacing_check(sk, tp) {
            break;
        }
        let segs = tp.snd_cwnd.saturating_sub(tp.packets_in_flight()).min(max_segs);
        if segs == 0 || tp.retrans_out >= tp.lost_out {
            break;
        }
        let truesize = tp.tx.rtx(i).map_or(0, |s| s.truesize);
        if tcp_small_queue_check(sk, tp, truesize) || tcp_retransmit_skb(sk, tp, i, segs).is_err() {
            break;
        }
        let pcount = tp.tx.rtx(i).map_or(1, |s| s.pcount());
        sk.net.mib.add(mib, pcount as u64);
        if tcp_in_cwnd_reduction(tp) {
            tp.rec.make().prr_out += pcount;
        }
        rearm |= i == 0 && tp.icsk_pending != ICSK_TIME_REO_TIMEOUT;
    }
    if rearm {
        let rto = tp.icsk_rto;
        inet_csk_reset_xmit_timer(sk, tp, ICSK_TIME_RETRANS, rto, TCP_RTO_MAX);
    }
}

// --- Path MTU ---

/// Sends again what does not fit the path any more, without taking it for congestion (`tcp_simple_retransmit`).
pub fn tcp_simple_retransmit(sk: &Arc<Sock>, tp: &mut TcpSock) {
    let mss = tcp_current_mss(sk, tp);
    // A SYN with data is two pieces here and was one packet on the wire: neither is too large, both are lost.
    let syn_data = sk.state() == TcpState::SynSent && tp.rare.hs.as_ref().is_some_and(|h| h.syn_data);
    let mut i = 0;
    while let Some(s) = tp.tx.rtx(i) {
        let seglen = if s.gso_segs > 1 { s.gso_size as u32 } else { s.len };
        if syn_data || seglen > mss {
            tcp_mark_skb_lost(sk, tp, i);
        }
        i += 1;
    }
    if tp.lost_out == 0 {
        return;
    }
    if !tp.rx_opt.sack_ok {
        tcp_limit_reno_sacked(tp);
    }
    tcp_non_congestion_loss_retransmit(sk, tp);
}

/// Sends what is marked lost again, which was lost for another reason than congestion (`tcp_non_congestion_loss_retransmit`).
pub fn tcp_non_congestion_loss_retransmit(sk: &Arc<Sock>, tp: &mut TcpSock) {
    // The window stays; the state is Loss so that everything marked goes out again.
    if tp.ca_state != TcpCaState::Loss {
        tp.rec.make().high_seq = tp.snd_nxt;
        tp.snd_ssthresh = tcp_current_ssthresh(tp);
        tp.rec.make().prior_ssthresh = 0;
        tp.rec.make().undo_marker = 0;
        tcp_set_ca_state(sk, tp, TcpCaState::Loss);
    }
    tcp_xmit_retransmit_queue(sk, tp);
}

/// ICMP says that the path takes no more than `mtu`: routes learn it; the connection too, if its `IP_MTU_DISCOVER` lets it, and
/// sends again what does not fit (RFC 1191, 6.4; RFC 8201; `tcp_v4_mtu_reduced`, `tcp_v6_mtu_reduced`).
pub fn tcp_mtu_reduced(sk: &Arc<Sock>, tp: &mut TcpSock, mtu: u32) {
    let v6 = tp.is_v6();
    let mode = (if v6 { tp.inet.opts.v6.pmtudisc } else { tp.inet.pmtudisc }) as i32;
    let accepts = !matches!(mode, IP_PMTUDISC_INTERFACE | IP_PMTUDISC_OMIT) && (v6 || mode != IP_PMTUDISC_DONT);
    // Nothing can be made larger that way, and no link of IPv6 takes less than 1280 bytes.
    if tp.icsk_pmtu_cookie <= mtu
        || (v6 && (!accepts || mtu < IPV6_MIN_MTU || tcp_mtu_to_mss(sk, tp, mtu) >= tp.mss_cache))
    {
        return;
    }
    tp.mstamp_refresh(sk);
    if let Some(l3) = sk.net.l3(v6) {
        (l3.update_pmtu)(&sk.net, &tp.inet.flow(sk), mtu);
    }
    // The route that says so is another than the one at hand.
    *sk.dst_cache.lock_bh() = None;
    let dst = tcp_dst(sk, tp);
    let pmtu = dst.as_ref().map_or(mtu, |d| d.mtu());
    if mtu < pmtu && !v6 && dst.is_ok_and(|d| DontFragment::of(tp.inet.pmtudisc).on(&d)) {
        // Less than is believed: if the connection ends, this was the reason.
        sk.err_soft.store(Errno::EMSGSIZE.0, Release);
    }
    if accepts && tp.icsk_pmtu_cookie > pmtu {
        tcp_sync_mss(sk, tp, pmtu);
        tcp_simple_retransmit(sk, tp);
    }
}
