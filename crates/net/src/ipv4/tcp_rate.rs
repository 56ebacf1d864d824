//! The rate at which the path delivers, sampled at each ACK.
//!
//! Interface: [`tcp_rate_skb_sent`], [`tcp_rate_skb_delivered`], [`tcp_rate_gen`], [`tcp_rate_check_app_limited`], [`TxInfo`].
//! Linux counterpart: `net/ipv4/tcp_rate.c`.
//! Locks and context: socket lock.
//!
//! draft-cheng-iccrg-delivery-rate-estimation: each transmission notes how much had been delivered and when. Its ACK then
//! spans a time in which a known amount arrived. The rate is that amount over the longer of the time in which it was sent
//! and the time in which it was acknowledged: ACKs that were held back and come together cannot make the path look faster
//! than it was filled.

use super::tcp_queue::{TCPCB_RETRANS, TxSkb, after};
use super::tcp_sock::{RateSample, TcpSock};
use crate::core::skbuff::SKB_OVERHEAD;
use crate::core::sock::Sock;
use std::sync::atomic::Ordering::Relaxed;

/// What a piece carries for the rate sample (`TCP_SKB_CB(skb)->tx`).
#[derive(Clone, Copy)]
pub struct TxInfo {
    end_seq: u32,
    mstamp: u64,
    delivered: u32,
    delivered_ce: u32,
    delivered_mstamp: u64,
    first_tx_mstamp: u64,
    is_app_limited: bool,
    is_retrans: bool,
}

impl TxInfo {
    #[inline]
    pub fn of(s: &TxSkb) -> TxInfo {
        TxInfo {
            end_seq: s.end_seq,
            mstamp: s.mstamp,
            delivered: s.delivered,
            delivered_ce: s.delivered_ce,
            delivered_mstamp: s.delivered_mstamp,
            first_tx_mstamp: s.first_tx_mstamp,
            is_app_limited: s.is_app_limited,
            is_retrans: s.sacked & TCPCB_RETRANS != 0,
        }
    }
}

/// Notes the state of delivery in a piece that is about to be sent (section 3.2 of the draft; `tcp_rate_skb_sent`).
#[inline]
pub fn tcp_rate_skb_sent(tp: &mut TcpSock, i: usize) {
    if tp.packets_out == 0 {
        // Nothing is in flight: the intervals start here, or idleness would count.
        tp.first_tx_mstamp = tp.tcp_mstamp;
        tp.delivered_mstamp = tp.tcp_mstamp;
    }
    let app_limited = tp.app_limited != u32::MAX;
    let Some(s) = tp.tx.get_mut(i) else { return };
    (s.first_tx_mstamp, s.delivered_mstamp) = (tp.first_tx_mstamp, tp.delivered_mstamp);
    (s.delivered, s.delivered_ce) = (tp.delivered, tp.delivered_ce);
    s.is_app_limited = app_limited;
}

/// A piece was delivered: the sample is of the one that was sent last (section 3.3; `tcp_rate_skb_delivered`).
#[inline]
pub fn tcp_rate_skb_delivered(tp: &mut TcpSock, s: &TxInfo, rs: &mut RateSample) {
    if s.delivered_mstamp == 0 {
        return;
    }
    let newer = rs.prior_mstamp == 0
        || s.mstamp > tp.first_tx_mstamp
        || (s.mstamp == tp.first_tx_mstamp && after(s.end_seq, rs.last_end_seq));
    if !newer {
        return;
    }
    (rs.prior_delivered, rs.prior_delivered_ce) = (s.delivered, s.delivered_ce);
    rs.prior_mstamp = s.delivered_mstamp;
    rs.is_app_limited = s.is_app_limited;
    rs.is_retrans = s.is_retrans;
    rs.last_end_seq = s.end_seq;
    // The time in which what was in flight went out.
    rs.snd_interval_us = s.mstamp.saturating_sub(s.first_tx_mstamp).min(u32::MAX as u64) as u32;
    tp.first_tx_mstamp = s.mstamp;
}

/// Completes the sample of an ACK that delivered `delivered` segments and showed `lost` to be lost (`tcp_rate_gen`).
pub fn tcp_rate_gen(tp: &mut TcpSock, delivered: u32, lost: u32, is_sack_reneg: bool, rs: &mut RateSample) {
    if tp.app_limited != u32::MAX && after(tp.delivered, tp.app_limited) {
        tp.app_limited = u32::MAX;
    }
    if delivered > 0 {
        tp.delivered_mstamp = tp.tcp_mstamp;
    }
    (rs.acked_sacked, rs.losses) = (delivered, lost);
    (rs.delivered, rs.interval_us) = (-1, -1);
    // What a peer takes back and reports again would count twice.
    if rs.prior_mstamp == 0 || is_sack_reneg {
        return;
    }
    rs.delivered = tp.delivered.wrapping_sub(rs.prior_delivered) as i32;
    rs.delivered_ce = tp.delivered_ce.wrapping_sub(rs.prior_delivered_ce) as i32;
    let ack_us = tp.tcp_mstamp.saturating_sub(rs.prior_mstamp).min(u32::MAX as u64) as u32;
    rs.rcv_interval_us = ack_us;
    let us = ack_us.max(rs.snd_interval_us);
    // Faster than the path's delay: the ACK was for an earlier transmission (section 3.4).
    if us == 0 || us < tp.rtt_min[0].v {
        return;
    }
    rs.interval_us = us as i64;
    // For `TCP_INFO`: the last, unless the application was slow and it is no better than what is known.
    let n = rs.delivered.max(0) as u32;
    let better = n as u64 * tp.rate_interval_us as u64 >= tp.rate_delivered as u64 * us as u64;
    if !rs.is_app_limited || better {
        (tp.rate_delivered, tp.rate_interval_us) = (n, us);
        tp.rate_app_limited = rs.is_app_limited;
    }
}

/// Nothing waits to be sent, and the window has room: until now the process, not the path, set the pace (section 3.5;
/// `tcp_rate_check_app_limited`).
pub fn tcp_rate_check_app_limited(sk: &Sock, tp: &mut TcpSock) {
    if tp.write_seq.wrapping_sub(tp.snd_nxt) < tp.mss_cache
        && sk.wmem_alloc.load(Relaxed) < SKB_OVERHEAD as usize + 512
        && tp.packets_in_flight() < tp.snd_cwnd
        && tp.lost_out <= tp.retrans_out
    {
        let until = tp.delivered.wrapping_add(tp.packets_in_flight());
        tp.app_limited = if until == u32::MAX { 0 } else { until };
    }
}
