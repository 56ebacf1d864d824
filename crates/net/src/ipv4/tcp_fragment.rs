//! Cutting pieces of the stream, and counting segments.
//!
//! Interface: [`tcp_fragment`], [`tcp_set_tso_segs`], [`tcp_trim_head`].
//! Linux counterpart: `tcp_fragment`, `tso_fragment`, `tcp_trim_head` in `net/ipv4/tcp_output.c`.
//! Locks and context: socket lock.

use super::tcp_queue::*;
use super::tcp_sock::TcpSock;
use crate::core::skbuff::GSO_MAX_SIZE;
use crate::core::snmp::Mib;
use crate::core::sock::Sock;
use crate::hdr::tcp_flag;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};

/// How many segments of `mss` a piece makes (`tcp_set_skb_tso_segs`).
#[inline]
pub fn tcp_set_tso_segs(s: &mut TxSkb, mss: u32) -> u32 {
    if s.len <= mss {
        (s.gso_segs, s.gso_size) = (1, 0);
        return 1;
    }
    let mss = mss.clamp(1, u16::MAX as u32);
    s.gso_size = mss as u16;
    s.gso_segs = s.len.div_ceil(mss).min(u16::MAX as u32) as u16;
    s.gso_segs as u32
}

/// `tcp_init_tso_segs`: counts anew when the size of segments has changed.
#[inline]
pub fn tcp_init_tso_segs(s: &mut TxSkb, mss: u32) -> u32 {
    if s.gso_segs == 0 || (s.gso_segs > 1 && s.gso_size as u32 != mss) || (s.gso_segs == 1 && s.len > mss) {
        tcp_set_tso_segs(s, mss)
    } else {
        s.gso_segs as u32
    }
}

/// A sent piece has lost `decr` segments by being cut differently (`tcp_adjust_pcount`).
pub fn tcp_adjust_pcount(tp: &mut TcpSock, sacked: u8, decr: i64) {
    let adjust = |v: &mut u32| *v = (*v as i64 - decr).max(0) as u32;
    adjust(&mut tp.packets_out);
    if sacked & TCPCB_SACKED_ACKED != 0 {
        adjust(&mut tp.sacked_out);
    }
    if sacked & TCPCB_SACKED_RETRANS != 0 {
        adjust(&mut tp.retrans_out);
    }
    if sacked & TCPCB_LOST != 0 {
        adjust(&mut tp.lost_out);
    }
    if !tp.rx_opt.sack_ok && decr > 0 && tp.sacked_out > 0 {
        tp.sacked_out -= tp.sacked_out.min(decr as u32);
    }
}

/// Whether a sent piece must stay whole: a peer that has what was sent cut ever smaller would have us hold several times the send
/// buffer (CVE-2019-11478). The first and the last piece may be cut all the same, or nothing could go on.
fn too_much_queued(sk: &Sock, tp: &TcpSock, i: usize) -> bool {
    let limit = sk.sndbuf.load(Relaxed) as usize + 2 * (GSO_MAX_SIZE + TX_SKB_OVERHEAD as usize);
    let too_much = sk.wmem_queued.load(Relaxed) / 2 > limit && i > 0 && i + 1 < tp.tx.head_index();
    if too_much {
        sk.net.mib.inc(Mib::TcpExtTCPWqueueTooBig);
    }
    too_much
}

/// Cuts piece `i` behind `len` bytes; the rest follows it in the same queue (`tcp_fragment`). `false` if there is nothing
/// to cut, or it must not be.
pub fn tcp_fragment(sk: &Sock, tp: &mut TcpSock, i: usize, len: u32, mss: u32) -> bool {
    let sent = i < tp.tx.head_index();
    if sent && too_much_queued(sk, tp, i) {
        return false;
    }
    let Some(s) = tp.tx.get_mut(i) else { return false };
    if len == 0 || len >= s.len {
        return false;
    }
    let old = s.pcount();
    let mut rest = s.split_payload(len);
    rest.seq = s.seq.wrapping_add(len);
    rest.end_seq = s.end_seq;
    s.end_seq = rest.seq;
    // PSH and FIN go with the end of the data.
    rest.tcp_flags = s.tcp_flags;
    s.tcp_flags &= !(tcp_flag::FIN | tcp_flag::PSH);
    rest.sacked = s.sacked;
    (rest.eor, s.eor) = (s.eor, false);
    rest.is_app_limited = s.is_app_limited;
    rest.mstamp = s.mstamp;
    (rest.delivered, rest.delivered_ce) = (s.delivered, s.delivered_ce);
    (rest.first_tx_mstamp, rest.delivered_mstamp) = (s.first_tx_mstamp, s.delivered_mstamp);
    let front = tcp_set_tso_segs(s, mss);
    // Each segment has a number: within one transmission the first is the oldest (RFC 8985, 6.2, step 2).
    rest.xmit_id = s.xmit_id.wrapping_add(front);
    let new = front + tcp_set_tso_segs(&mut rest, mss);
    let sacked = s.sacked;
    sk.wmem_queued.fetch_add(TX_SKB_OVERHEAD as usize, AcqRel);
    tp.tx.insert_after(i, rest);
    if sent && old != new {
        tcp_adjust_pcount(tp, sacked, old as i64 - new as i64);
    }
    true
}

/// Drops the acknowledged front of the oldest piece (`tcp_trim_head`).
pub fn tcp_trim_head(sk: &Sock, tp: &mut TcpSock, len: u32) {
    let mut freed = 0;
    tp.tx.restamp(0, |s| {
        let before = s.truesize;
        s.trim_payload(len);
        s.seq = s.seq.wrapping_add(len);
        freed = before - s.truesize;
        if s.gso_segs > 1 {
            let mss = s.gso_size as u32;
            tcp_set_tso_segs(s, mss);
        }
    });
    sk.wmem_queued.fetch_sub(freed as usize, AcqRel);
}
