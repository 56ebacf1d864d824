//! SACK as the sender reads it (RFC 2018, RFC 2883).
//!
//! Interface: [`tcp_sacktag_write_queue`], [`SackState`].
//! Linux counterpart: `tcp_sacktag_write_queue` in `net/ipv4/tcp_input.c`.
//! Locks and context: socket lock.

use super::tcp_fragment::tcp_fragment;
use super::tcp_options::sack_block;
use super::tcp_queue::*;
use super::tcp_rate::{TxInfo, tcp_rate_skb_delivered};
use super::tcp_recovery::*;
use super::tcp_sock::*;
use crate::core::snmp::Mib;
use crate::core::sock::Sock;

/// What has been learned from one ACK (`struct tcp_sacktag_state`).
#[derive(Default)]
pub struct SackState {
    /// Lowest sequence number that arrived out of order.
    pub reord: u32,
    /// When the first and last newly SACKed segments were sent; 0: none.
    pub first_sackt: u64,
    pub last_sackt: u64,
    pub flag: Ack,
    pub sack_delivered: u32,
    /// Payload bytes newly acknowledged or SACKed.
    pub delivered_bytes: u32,
    pub rate: RateSample,
}

/// Whether a block may say what it says (`tcp_is_sackblock_valid`).
fn tcp_is_sackblock_valid(tp: &TcpSock, is_dsack: bool, b: TcpSackBlock) -> bool {
    if after(b.end_seq, tp.snd_nxt) || !before(b.start_seq, b.end_seq) || !before(b.start_seq, tp.snd_nxt) {
        return false;
    }
    if after(b.start_seq, tp.snd_una) {
        return true;
    }
    if !is_dsack || tp.rec.undo_marker == 0 || after(b.end_seq, tp.snd_una) {
        return false;
    }
    if !before(b.start_seq, tp.rec.undo_marker) {
        return true;
    }
    after(b.end_seq, tp.rec.undo_marker) && !before(b.start_seq, b.end_seq.wrapping_sub(tp.max_window))
}

/// Segments that a report of duplicates is about; 0 if it is not to be believed (`tcp_dsack_seen`).
fn tcp_dsack_seen(tp: &mut TcpSock, b: TcpSackBlock, st: &mut SackState) -> u32 {
    let len = b.end_seq.wrapping_sub(b.start_seq);
    if !before(b.start_seq, b.end_seq) || len > tp.max_window {
        return 0;
    }
    let dups = len.div_ceil(tp.mss_cache.max(1));
    if len <= tp.mss_cache && tp.rec.tlp_high_seq != 0 && tp.rec.tlp_high_seq == b.end_seq {
        // RFC 8985, 7.4.2: the probe was needless.
        st.flag |= Ack::DSACK_TLP;
    }
    tp.rec.make().dsack_dups = tp.rec.dsack_dups.wrapping_add(dups);
    // The network made more copies than we did.
    if tp.rec.dsack_dups > tp.rec.total_retrans {
        return 0;
    }
    tp.rx_opt.dsack = true;
    // A probe's duplicate says nothing of reordering (RFC 8985, 6.2, step 4).
    if tp.rec.reord_seen != 0 && !st.flag.contains(Ack::DSACK_TLP) {
        tp.rec.make().rack_dsack_seen = true;
    }
    st.flag |= Ack::DSACKING_ACK;
    st.sack_delivered += dups;
    dups
}

/// Whether the first block reports a duplicate (RFC 2883, 4; `tcp_check_dsack`), and what follows from it.
fn tcp_check_dsack(
    sk: &Sock,
    tp: &mut TcpSock,
    ack: u32,
    blocks: &[TcpSackBlock],
    prior_una: u32,
    st: &mut SackState,
) -> bool {
    let Some(&b0) = blocks.first() else { return false };
    if before(b0.start_seq, ack) {
        sk.net.mib.inc(Mib::TcpExtTCPDSACKRecv);
    } else if let Some(b1) = blocks.get(1)
        && !after(b0.end_seq, b1.end_seq)
        && !before(b0.start_seq, b1.start_seq)
    {
        sk.net.mib.inc(Mib::TcpExtTCPDSACKOfoRecv);
    } else {
        return false;
    }
    let dups = tcp_dsack_seen(tp, b0, st);
    if dups == 0 {
        sk.net.mib.inc(Mib::TcpExtTCPDSACKIgnoredDubious);
        return false;
    }
    sk.net.mib.add(Mib::TcpExtTCPDSACKRecvSegs, dups as u64);
    if tp.rec.undo_marker != 0
        && tp.rec.undo_retrans > 0
        && !after(b0.end_seq, prior_una)
        && after(b0.end_seq, tp.rec.undo_marker)
    {
        tp.rec.make().undo_retrans = (tp.rec.undo_retrans - dups as i32).max(0);
    }
    true
}

/// Marks what the packet's SACK blocks report (`tcp_sacktag_write_queue`).
pub fn tcp_sacktag_write_queue(
    sk: &Sock,
    tp: &mut TcpSock,
    opts: &[u8],
    ack: u32,
    prior_una: u32,
    st: &mut SackState,
) -> Ack {
    st.flag = Ack::empty();
    st.reord = tp.snd_nxt;
    if tp.sacked_out == 0 {
        tp.rec.make().highest_sack = tp.snd_una;
    }
    let mut raw = [TcpSackBlock::default(); TCP_NUM_SACKS];
    let mut n = 0;
    while n < TCP_NUM_SACKS
        && let Some(b) = sack_block(opts, &tp.rx_opt, n)
    {
        raw[n] = b;
        n += 1;
    }
    let dup = tcp_check_dsack(sk, tp, ack, &raw[..n], prior_una, st);
    if before(ack, prior_una.wrapping_sub(tp.max_window)) || tp.packets_out == 0 {
        return st.flag;
    }
    let mut blocks = [TcpSackBlock::default(); TCP_NUM_SACKS];
    let mut used = 0;
    for (i, &b) in raw[..n].iter().enumerate() {
        let is_dup = dup && i == 0;
        if !tcp_is_sackblock_valid(tp, is_dup, b) {
            let mib = match is_dup {
                true if tp.rec.undo_marker == 0 => Mib::TcpExtTCPDSACKIgnoredNoUndo,
                true => Mib::TcpExtTCPDSACKIgnoredOld,
                // An ACK that was overtaken is no news.
                false if ack != tp.snd_una && !after(b.end_seq, tp.snd_una) => continue,
                false => Mib::TcpExtTCPSACKDiscard,
            };
            sk.net.mib.inc(mib);
        } else if is_dup {
            tcp_sacktag_range(sk, tp, b, true, st);
        } else if after(b.end_seq, prior_una) {
            blocks[used] = b;
            used += 1;
        }
    }
    blocks[..used].sort_by_key(|b| Seq(b.start_seq));
    let cache = tp.rec.recv_sack_cache;
    for &b in &blocks[..used] {
        tcp_sacktag_new(sk, tp, b, &cache, st);
    }
    tp.rec.make().recv_sack_cache = blocks;
    if tp.ca_state != TcpCaState::Loss || tp.rec.undo_marker != 0 {
        let reord = st.reord;
        tcp_check_sack_reordering(sk, tp, reord, false);
    }
    st.flag
}

/// Marks the parts of a block that the last ACK did not report yet: each byte is looked at once.
fn tcp_sacktag_new(sk: &Sock, tp: &mut TcpSock, b: TcpSackBlock, cache: &[TcpSackBlock], st: &mut SackState) {
    let mut start = b.start_seq;
    for c in cache.iter().filter(|c| c.start_seq != c.end_seq) {
        if !before(start, b.end_seq) {
            return;
        }
        if !after(c.end_seq, start) || !before(c.start_seq, b.end_seq) {
            continue;
        }
        if before(start, c.start_seq) {
            let part = TcpSackBlock { start_seq: start, end_seq: c.start_seq };
            tcp_sacktag_range(sk, tp, part, false, st);
        }
        start = c.end_seq;
    }
    if before(start, b.end_seq) {
        tcp_sacktag_range(sk, tp, TcpSackBlock { start_seq: start, end_seq: b.end_seq }, false, st);
    }
}

/// Marks every piece inside a range (`tcp_sacktag_walk`).
fn tcp_sacktag_range(sk: &Sock, tp: &mut TcpSock, b: TcpSackBlock, dup: bool, st: &mut SackState) {
    let mut i = tp.tx.rtx_index(b.start_seq);
    while let Some(s) = tp.tx.rtx(i) {
        if !before(s.seq, b.end_seq) {
            break;
        }
        let inside = !after(b.start_seq, s.seq);
        let covered = inside && !before(b.end_seq, s.end_seq);
        if !covered {
            let cut = if s.pcount() > 1 { sack_cut(s, b, inside) } else { None };
            let Some((at, mss)) = cut else {
                i += 1;
                continue;
            };
            if !tcp_fragment(sk, tp, i, at, mss) || !inside {
                i += 1;
                continue;
            }
        }
        tcp_sacktag_one(tp, i, dup, st);
        i += 1;
    }
}

/// Where to cut a piece of several segments that a block covers in part: at a segment's edge (`tcp_match_skb_to_sack`).
fn sack_cut(s: &TxSkb, b: TcpSackBlock, inside: bool) -> Option<(u32, u32)> {
    let mss = (s.gso_size as u32).max(1);
    let at = if inside {
        // Only whole segments count as received.
        b.end_seq.wrapping_sub(s.seq) / mss * mss
    } else {
        b.start_seq.wrapping_sub(s.seq).div_ceil(mss) * mss
    };
    (at > 0 && at < s.len).then_some((at, mss))
}

/// One piece was reported (`tcp_sacktag_one`).
fn tcp_sacktag_one(tp: &mut TcpSock, i: usize, dup: bool, st: &mut SackState) {
    let Some(s) = tp.tx.rtx(i) else { return };
    let (was, pcount, seq, end_seq) = (s.sacked, s.pcount(), s.seq, s.end_seq);
    let (mstamp, xmit_id, tx) = (s.mstamp, s.xmit_id, TxInfo::of(s));
    let mut sacked = was;
    if dup && was & TCPCB_RETRANS != 0 {
        if tp.rec.undo_marker != 0 && tp.rec.undo_retrans > 0 && after(end_seq, tp.rec.undo_marker) {
            tp.rec.make().undo_retrans = (tp.rec.undo_retrans - pcount as i32).max(0);
        }
        if was & TCPCB_SACKED_ACKED != 0 && before(seq, st.reord) {
            st.reord = seq;
        }
    }
    if !after(end_seq, tp.snd_una) {
        return;
    }
    if was & TCPCB_SACKED_ACKED == 0 {
        tcp_rack_advance(tp, was, xmit_id, mstamp);
        tcp_rate_skb_delivered(tp, &tx, &mut st.rate);
        if was & TCPCB_SACKED_RETRANS != 0 {
            if was & TCPCB_LOST != 0 {
                sacked &= !(TCPCB_LOST | TCPCB_SACKED_RETRANS);
                tp.lost_out = tp.lost_out.saturating_sub(pcount);
                tp.retrans_out = tp.retrans_out.saturating_sub(pcount);
            }
        } else {
            if was & TCPCB_EVER_RETRANS == 0 {
                if before(seq, tp.rec.highest_sack) && before(seq, st.reord) {
                    st.reord = seq;
                }
                if !after(end_seq, tp.rec.high_seq) {
                    st.flag |= Ack::ORIG_SACK_ACKED;
                }
                if st.first_sackt == 0 {
                    st.first_sackt = mstamp;
                }
                st.last_sackt = mstamp;
            }
            if was & TCPCB_LOST != 0 {
                sacked &= !TCPCB_LOST;
                tp.lost_out = tp.lost_out.saturating_sub(pcount);
            }
        }
        sacked |= TCPCB_SACKED_ACKED;
        st.flag |= Ack::DATA_SACKED;
        tp.sacked_out += pcount;
        st.sack_delivered += pcount;
        st.delivered_bytes = st.delivered_bytes.wrapping_add(end_seq.wrapping_sub(seq));
        tp.rec.make().highest_sack =
            if tp.sacked_out == pcount { end_seq } else { seq_max(tp.rec.highest_sack, end_seq) };
    }
    if dup && sacked & TCPCB_SACKED_RETRANS != 0 {
        sacked &= !TCPCB_SACKED_RETRANS;
        tp.retrans_out = tp.retrans_out.saturating_sub(pcount);
    }
    if sacked != was {
        tp.tx.tag(i, sacked, was & !sacked);
    }
}
