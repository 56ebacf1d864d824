//! Data as the receiver keeps it: in order, out of order, and how much of it.
//!
//! Interface: [`tcp_data_queue`], [`tcp_queue_rcv`], [`tcp_event_data_recv`], [`tcp_rcv_space_adjust`], [`tcp_fin`].
//! Linux counterpart: the receive-queue half of `net/ipv4/tcp_input.c`.
//! Locks and context: socket lock; softirq context or backlog.
//!
//! What is out of order waits in a map by sequence number, without overlaps. A queued packet's headers are pulled, its
//! `seq` is that of its first byte, and its memory is counted in `sk.rmem_alloc`.

use super::tcp_ack::tcp_hdr;
use super::tcp_comp_sack::*;
use super::tcp_cong::tcp_ca_event;
use super::tcp_ecn::tcp_data_ecn_check;
use super::tcp_mem::*;
use super::tcp_minisocks::tcp_time_wait;
use super::tcp_output::*;
use super::tcp_queue::*;
use super::tcp_rmem::{tcp_try_coalesce, tcp_try_rmem_schedule};
use super::tcp_route::tcp_route_metric;
use super::tcp_rtt::tcp_rcv_rtt_measure;
use super::tcp_sock::*;
use crate::core::dst_metrics::Rtax;
use crate::core::skbuff::Skb;
use crate::core::snmp::Mib;
use crate::core::sock::{RCV_SHUTDOWN, Sock, SockFlags};
use crate::hdr::{TcpHdr, tcp_flag};
use kernel::tp;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};
use uapi::tcp::TcpState;

/// Packets longer than this let the window grow.
const GROW_WINDOW_LEN: usize = 128;

// --- Quick and delayed ACKs ---

fn tcp_incr_quickack(tp: &mut TcpSock, max: u8) {
    let n = match tp.rcv_wnd / (2 * (tp.icsk_ack.rcv_mss as u32).max(1)) {
        0 => 2,
        n => n.min(max as u32) as u8,
    };
    tp.icsk_ack.quick = tp.icsk_ack.quick.max(n);
}

/// The next `max` ACKs are sent at once (`tcp_enter_quickack_mode`).
pub fn tcp_enter_quickack_mode(tp: &mut TcpSock, max: u8) {
    tcp_incr_quickack(tp, max);
    tp.icsk_ack.pingpong = 0;
    tp.icsk_ack.ato = TCP_ATO_MIN;
}

/// `inet_csk_schedule_ack`.
pub fn inet_csk_schedule_ack(tp: &mut TcpSock) {
    tp.icsk_ack.pending |= ICSK_ACK_SCHED;
}

/// Sends an ACK if one is owed: now, or a little later (`tcp_ack_snd_check`, RFC 5681, 4.2).
pub fn tcp_ack_snd_check(sk: &Arc<Sock>, tp: &mut TcpSock) {
    if tp.icsk_ack.pending & ICSK_ACK_SCHED == 0 {
        return;
    }
    let unacked = tp.rcv_nxt.wrapping_sub(tp.rcv_wup);
    let quick = tcp_route_metric(tp, Rtax::Quickack) != 0 || (tp.icsk_ack.quick > 0 && !tp.in_pingpong_mode(sk));
    let now = (unacked > tp.icsk_ack.rcv_mss as u32
        && (tp.rcv_nxt.wrapping_sub(tp.copied_seq) < sk.rcvlowat.load(Relaxed)
            || __tcp_select_window(sk, tp) >= tp.rcv_wnd))
        || quick
        || tp.icsk_ack.pending & ICSK_ACK_NOW != 0;
    if now && tp.in_backlog && sk.net.sysctl.tcp_backlog_ack_defer.on() {
        // Its owner is about to let the socket go: one ACK for all of the backlog.
        sk.release_later(TCPF_ACK_DEFERRED);
    } else if now {
        tcp_send_ack(sk, tp);
    } else if tp.ofo.out_of_order_queue.is_empty() {
        tcp_send_delayed_ack(sk, tp);
    } else if !tcp_compress_ack(sk, tp) {
        tcp_send_ack(sk, tp);
    }
}

/// Guesses the size of the peer's segments (`tcp_measure_rcv_mss`).
fn tcp_measure_rcv_mss(sk: &Sock, tp: &mut TcpSock, skb: &Skb) {
    let lss = std::mem::take(&mut tp.icsk_ack.last_seg_size);
    let len = if skb.gso_size != 0 { skb.gso_size as usize } else { skb.len() };
    let flags = tcp_skb_cb(skb).tcp_flags;
    if len >= tp.icsk_ack.rcv_mss as usize {
        if len != tp.icsk_ack.rcv_mss as usize {
            tcp_measure_scaling_ratio(sk, tp, skb);
        }
        tp.icsk_ack.rcv_mss = len.min(tp.advmss as usize).max(1) as u16;
        // The end of what the peer's process wrote, perhaps: it may wait for the ACK.
        if flags & tcp_flag::PSH != 0 {
            tp.icsk_ack.pending |= ICSK_ACK_PUSHED;
        }
        return;
    }
    // Small segments may be full ones of a small path: believe it when two come of the same size, SACK blocks counted in, and no
    // flag says that there was no more to send.
    let whole = len + skb.transport_offset().min(0).unsigned_abs();
    let remnant = flags & (tcp_flag::FIN | tcp_flag::SYN | tcp_flag::PSH | tcp_flag::URG) != 0;
    if whole >= TCP_MSS_DEFAULT as usize + TcpHdr::LEN || (whole >= TCP_MIN_MSS as usize + TcpHdr::LEN && !remnant) {
        let len = whole.saturating_sub(tp.tcp_header_len as usize) as u16;
        tp.icsk_ack.last_seg_size = len;
        if len == lss {
            tp.icsk_ack.rcv_mss = len;
            return;
        }
    }
    if tp.icsk_ack.pending & ICSK_ACK_PUSHED != 0 {
        tp.icsk_ack.pending |= ICSK_ACK_PUSHED2;
    }
    tp.icsk_ack.pending |= ICSK_ACK_PUSHED;
}

/// What share of a packet's memory is payload; the window a buffer stands for follows it.
fn tcp_measure_scaling_ratio(sk: &Sock, tp: &mut TcpSock, skb: &Skb) {
    let ratio = (((skb.len() as u64) << 8) / skb.truesize.max(1) as u64).clamp(1, 255) as u8;
    if std::mem::replace(&mut tp.scaling_ratio, ratio) != ratio {
        let win = tcp_full_space(sk, tp);
        tcp_set_window_clamp(tp, win);
        tp.rcv_tune.space = tp.rcv_tune.space.min(tp.window_clamp);
    }
}

/// Data came: estimates, and an ACK is owed (`tcp_event_data_recv`). `data` is at the payload.
pub fn tcp_event_data_recv(sk: &Sock, tp: &mut TcpSock, skb: &Skb) {
    inet_csk_schedule_ack(tp);
    tcp_measure_rcv_mss(sk, tp, skb);
    tcp_rcv_rtt_measure(tp);
    let now = tp.jiffies32();
    if tp.icsk_ack.ato == 0 {
        tcp_incr_quickack(tp, TCP_MAX_QUICKACKS);
        tp.icsk_ack.ato = TCP_ATO_MIN;
    } else {
        let m = now.wrapping_sub(tp.icsk_ack.lrcvtime);
        if m <= TCP_ATO_MIN / 2 {
            tp.icsk_ack.ato = (tp.icsk_ack.ato >> 1) + TCP_ATO_MIN / 2;
        } else if m < tp.icsk_ack.ato {
            tp.icsk_ack.ato = ((tp.icsk_ack.ato >> 1) + m).min(tp.icsk_rto);
        } else if m > tp.icsk_rto {
            // The peer was idle: it may be in slow start again.
            tcp_incr_quickack(tp, TCP_MAX_QUICKACKS);
        }
    }
    tp.icsk_ack.lrcvtime = now;
    tcp_ecn_check(sk, tp, skb);
    if skb.len() >= GROW_WINDOW_LEN {
        // It is about to be charged.
        tcp_grow_window(sk, tp, skb.len() as u32, truesize_joined(skb), skb.truesize);
    }
}

/// The mark of a segment that is taken.
#[inline]
fn tcp_ecn_check(sk: &Sock, tp: &mut TcpSock, skb: &Skb) {
    let ecn = tcp_data_ecn_check(tp, skb);
    if let Some(ev) = ecn.event {
        tcp_ca_event(sk, tp, ev);
    }
    if ecn.quick {
        tcp_enter_quickack_mode(tp, 2);
    }
}

// --- The window and the buffer ---

/// What a packet weighs once it is joined to another: without its head, if no byte is there (`truesize_adjust`).
fn truesize_joined(skb: &Skb) -> u32 {
    let head = if skb.headlen() == 0 { skb.head_truesize() } else { 0 };
    skb.truesize.saturating_sub(head).max(1)
}

/// Lets the advertised window grow, as far as the memory of packets with `len` bytes that weigh `truesize` allows, of which `extra` is
/// taken but not yet charged (`tcp_grow_window`).
fn tcp_grow_window(sk: &Sock, tp: &mut TcpSock, len: u32, truesize: u32, extra: u32) {
    let space = tcp_space(sk, tp).saturating_sub(tcp_win_from_space(extra, tp.scaling_ratio));
    let room = tp.window_clamp.min(space) as i64 - tp.rcv_ssthresh as i64;
    if room <= 0 {
        return;
    }
    if tcp_under_memory_pressure(sk) {
        return tcp_adjust_rcv_ssthresh(tp);
    }
    let incr = if tcp_win_from_space(truesize, tp.scaling_ratio) <= len {
        2 * tp.advmss as u32
    } else {
        grow_for_small(sk, tp, len, truesize)
    };
    if incr > 0 {
        let incr = incr.max(2 * len);
        tp.rcv_ssthresh += (room as u32).min(incr);
        tp.icsk_ack.quick |= 1;
    }
}

/// `__tcp_grow_window`: packets with much overhead may still fit while the window is small.
fn grow_for_small(sk: &Sock, tp: &TcpSock, len: u32, truesize: u32) -> u32 {
    let mut truesize = tcp_win_from_space(truesize, tp.scaling_ratio) >> 1;
    let rmem_max = sk.net.sysctl.tcp_rmem_max.get() as u32;
    let mut window = tcp_win_from_space(rmem_max, tp.scaling_ratio) >> 1;
    while tp.rcv_ssthresh <= window {
        if truesize <= len {
            return 2 * tp.icsk_ack.rcv_mss as u32;
        }
        truesize >>= 1;
        window >>= 1;
    }
    0
}

/// Sizes for a new connection (`tcp_init_buffer_space`).
pub fn tcp_init_buffer_space(sk: &Sock, tp: &mut TcpSock) {
    if !sk.flag(SockFlags::SNDBUF_LOCK) {
        tcp_sndbuf_expand(sk, tp);
    }
    tp.mstamp_refresh(sk);
    tp.rcv_tune.space_time = tp.tcp_mstamp as u32;
    tp.rcv_tune.space_seq = tp.copied_seq;
    let maxwin = tcp_full_space(sk, tp);
    let mss = tp.advmss as u32;
    let app_win = sk.net.sysctl.tcp_app_win.get() as u32;
    if tp.window_clamp >= maxwin {
        tp.window_clamp = maxwin;
        if app_win != 0 && maxwin > 4 * mss {
            tp.window_clamp = (maxwin - (maxwin >> app_win)).max(4 * mss);
        }
    }
    // One segment's worth stays in reserve for the application.
    if app_win != 0 && tp.window_clamp > 2 * mss && tp.window_clamp + mss > maxwin {
        tp.window_clamp = (2 * mss).max(maxwin.saturating_sub(mss));
    }
    tp.rcv_ssthresh = tp.rcv_ssthresh.min(tp.window_clamp);
    tp.snd_cwnd_stamp = tp.jiffies32();
    tp.rcv_tune.space = tp.rcv_ssthresh.min(tp.rcv_wnd).min(TCP_INIT_CWND * mss);
}

/// Dynamic right-sizing: the buffer follows what the process takes in a round trip (`tcp_rcv_space_adjust`).
pub fn tcp_rcv_space_adjust(sk: &Sock, tp: &mut TcpSock) {
    let rtt = tp.rcv_tune.rtt_us;
    if rtt == 0 {
        return;
    }
    tp.mstamp_refresh(sk);
    let time = (tp.tcp_mstamp as u32).wrapping_sub(tp.rcv_tune.space_time);
    if time < rtt >> 3 {
        return;
    }
    // What still waits shows that the process, not the buffer, is slow.
    let copied = tp.copied_seq.wrapping_sub(tp.rcv_tune.space_seq) as i32;
    let copied = copied.wrapping_sub(tp.rcv_nxt.wrapping_sub(tp.copied_seq) as i32);
    if copied > tp.rcv_tune.space as i32 {
        tcp_rcvbuf_grow(sk, tp, copied as u32);
    }
    tp.rcv_tune.space_seq = tp.copied_seq;
    tp.rcv_tune.space_time = tp.tcp_mstamp as u32;
}

/// A buffer for `space` bytes a round trip, and for twice as many in the next, as a sender in slow start will send
/// (`tcp_rcvbuf_grow`).
fn tcp_rcvbuf_grow(sk: &Sock, tp: &mut TcpSock, space: u32) {
    let old = std::mem::replace(&mut tp.rcv_tune.space, space);
    if !sk.net.sysctl.tcp_moderate_rcvbuf.on() || sk.flag(SockFlags::RCVBUF_LOCK) {
        return;
    }
    // The measurement is a round trip old.
    let mut rcvwin = (space as u64) << 1;
    rcvwin += (rcvwin * space.saturating_sub(old) as u64 / old.max(1) as u64) << 1;
    if let Some((_, last)) = tp.ofo.out_of_order_queue.last_key_value() {
        rcvwin += tcp_skb_cb(last).end_seq.wrapping_sub(tp.rcv_nxt) as u64;
    }
    let want = tcp_space_from_win(rcvwin.min(i32::MAX as u64) as u32, tp.scaling_ratio);
    let want = want.min(sk.net.sysctl.tcp_rmem_max.get() as u32);
    if want > sk.rcvbuf.load(Relaxed) {
        sk.rcvbuf.store(want, Relaxed);
        tp.window_clamp = tcp_win_from_space(want, tp.scaling_ratio);
    }
}

// --- SACK as the receiver writes it ---

/// Two ranges that touch become one (`tcp_sack_extend`).
fn tcp_sack_extend(b: &mut TcpSackBlock, seq: u32, end: u32) -> bool {
    let touch = !after(seq, b.end_seq) && !after(b.start_seq, end);
    if touch {
        b.start_seq = seq_min(b.start_seq, seq);
        b.end_seq = seq_max(b.end_seq, end);
    }
    touch
}

/// Reports a duplicate with the next ACK (RFC 2883; `tcp_dsack_set`).
fn tcp_dsack_set(sk: &Sock, tp: &mut TcpSock, seq: u32, end: u32) {
    if !tp.rx_opt.sack_ok || !sk.net.sysctl.tcp_dsack.on() {
        return;
    }
    let old = before(seq, tp.rcv_nxt);
    sk.net.mib.inc(if old { Mib::TcpExtTCPDSACKOldSent } else { Mib::TcpExtTCPDSACKOfoSent });
    tp.ofo.make().duplicate_sack = Some(TcpSackBlock { start_seq: seq, end_seq: end });
}

fn tcp_dsack_extend(sk: &Sock, tp: &mut TcpSock, seq: u32, end: u32) {
    match &mut tp.ofo.make().duplicate_sack {
        None => tcp_dsack_set(sk, tp, seq, end),
        Some(b) => {
            tcp_sack_extend(b, seq, end);
        }
    }
}

/// The newest range comes first (RFC 2018, 4; `tcp_sack_new_ofo_skb`).
fn tcp_sack_new_ofo_skb(sk: &Arc<Sock>, tp: &mut TcpSock, seq: u32, end: u32) {
    let blocks = &tp.ofo.selective_acks[..(tp.rx_opt.num_sacks as usize).min(TCP_NUM_SACKS)];
    let joins = |b: &TcpSackBlock| !after(seq, b.end_seq) && !after(b.start_seq, end);
    let at = blocks.iter().position(joins).unwrap_or(blocks.len());
    if at >= TCP_SACK_BLOCKS_EXPECTED {
        tcp_sack_compress_send_ack(sk, tp);
    }
    let mut block = TcpSackBlock { start_seq: seq, end_seq: end };
    let mut kept = [TcpSackBlock::default(); TCP_NUM_SACKS];
    let mut n = 0;
    for b in tp.ofo.selective_acks.iter().take(tp.rx_opt.num_sacks as usize) {
        if !tcp_sack_extend(&mut block, b.start_seq, b.end_seq) && n < TCP_NUM_SACKS - 1 {
            kept[n] = *b;
            n += 1;
        }
    }
    let sacks = &mut tp.ofo.make().selective_acks;
    sacks[0] = block;
    sacks[1..].copy_from_slice(&kept[..TCP_NUM_SACKS - 1]);
    tp.rx_opt.num_sacks = n as u8 + 1;
}

/// Drops ranges that are in order by now (`tcp_sack_remove`).
fn tcp_sack_remove(tp: &mut TcpSock) {
    if tp.ofo.out_of_order_queue.is_empty() {
        tp.rx_opt.num_sacks = 0;
        return;
    }
    let mut n = 0;
    for i in 0..(tp.rx_opt.num_sacks as usize).min(TCP_NUM_SACKS) {
        let b = tp.ofo.selective_acks[i];
        if before(tp.rcv_nxt, b.start_seq) {
            tp.ofo.make().selective_acks[n] = b;
            n += 1;
        }
    }
    tp.rx_opt.num_sacks = n as u8;
}

/// Answers a segment that should not have come, reporting it if SACK allows (`tcp_send_dupack`).
pub fn tcp_send_dupack(sk: &Arc<Sock>, tp: &mut TcpSock, skb: &Skb) {
    let cb = tcp_skb_cb(skb);
    if cb.end_seq != cb.seq && before(cb.seq, tp.rcv_nxt) {
        sk.net.mib.inc(Mib::TcpExtDelayedACKLost);
        tcp_enter_quickack_mode(tp, TCP_MAX_QUICKACKS);
        let end = if after(cb.end_seq, tp.rcv_nxt) { tp.rcv_nxt } else { cb.end_seq };
        tcp_dsack_set(sk, tp, cb.seq, end);
    }
    tcp_send_ack(sk, tp);
}

// --- The queues ---

/// `tcp_rcv_nxt_update`.
fn tcp_rcv_nxt_update(tp: &mut TcpSock, seq: u32) {
    tp.bytes_received += seq.wrapping_sub(tp.rcv_nxt) as u64;
    tp.rcv_nxt = seq;
}

/// Appends a packet, whose payload starts at `rcv_nxt`, to the receive queue (`tcp_queue_rcv`). `data` is at the payload.
pub fn tcp_queue_rcv(sk: &Sock, tp: &mut TcpSock, mut skb: Box<Skb>) {
    tp!(tcp_queue_rcv, skb, sk);
    skb.orphan();
    skb.dst = None;
    let end = tcp_skb_cb(&skb).end_seq;
    tcp_rcv_nxt_update(tp, end);
    if skb.is_empty() {
        return;
    }
    let skb = match tp.receive_queue.back_mut() {
        Some(tail) => match tcp_try_coalesce(sk, tail, skb) {
            Ok(()) => return,
            Err(skb) => skb,
        },
        None => skb,
    };
    sk.rmem_alloc.fetch_add(skb.truesize as usize, AcqRel);
    tp.receive_queue.push_back(skb);
}

/// Cuts what has come already off the front of a packet.
fn trim_front(skb: &mut Skb, seq: u32) {
    let n = seq.wrapping_sub(tcp_skb_cb(skb).seq);
    skb.pull_any(n as usize);
    tcp_skb_cb_mut(skb).seq = seq;
}

/// Takes the TCP header off; `data` is at the payload then.
fn pull_header(skb: &mut Skb) {
    let n = tcp_hdr(skb).map_or(TcpHdr::LEN, |h| h.header_len());
    skb.pull_any(n);
}

/// A segment that has passed every check but its place (`tcp_data_queue`, RFC 9293, 3.10.7.4, seventh step).
pub fn tcp_data_queue(sk: &Arc<Sock>, tp: &mut TcpSock, mut skb: Box<Skb>) {
    let cb = *tcp_skb_cb(&skb);
    if cb.seq == cb.end_seq {
        return;
    }
    pull_header(&mut skb);
    if let Some(o) = tp.ofo.if_used() {
        o.duplicate_sack = None;
    }
    if !after(cb.end_seq, tp.rcv_nxt) {
        // All of it has come before.
        sk.net.mib.inc(Mib::TcpExtDelayedACKLost);
        tcp_dsack_set(sk, tp, cb.seq, cb.end_seq);
        return out_of_window(tp);
    }
    let window = tp.receive_window();
    if after(cb.seq, tp.rcv_nxt) {
        return if before(cb.seq, tp.rcv_nxt.wrapping_add(window)) {
            tcp_data_queue_ofo(sk, tp, skb)
        } else {
            out_of_window(tp)
        };
    }
    if before(cb.seq, tp.rcv_nxt) {
        let nxt = tp.rcv_nxt;
        tcp_dsack_set(sk, tp, cb.seq, nxt);
    }
    // A FIN alone takes no room.
    if window == 0 && !(cb.end_seq == tp.rcv_nxt.wrapping_add(1) && cb.tcp_flags & tcp_flag::FIN != 0) {
        sk.net.mib.inc(Mib::TcpExtTCPZeroWindowDrop);
        return out_of_window(tp);
    }
    tcp_queue_in_order(sk, tp, skb);
}

/// Nothing of it can be used: tell the peer where we are.
fn out_of_window(tp: &mut TcpSock) {
    tcp_enter_quickack_mode(tp, TCP_MAX_QUICKACKS);
    inet_csk_schedule_ack(tp);
}

/// A segment that begins at what is expected, or before.
fn tcp_queue_in_order(sk: &Arc<Sock>, tp: &mut TcpSock, mut skb: Box<Skb>) {
    if !tcp_try_rmem_schedule(sk, tp, &skb) {
        // The window is closed until somebody reads, who is told so.
        tp.icsk_ack.pending |= ICSK_ACK_NOMEM | ICSK_ACK_NOW;
        inet_csk_schedule_ack(tp);
        sk.data_ready();
        if !tp.receive_queue.is_empty() && !skb.is_empty() {
            sk.net.mib.inc(Mib::TcpExtTCPRcvQDrop);
            sk.rare.make().drops.fetch_add(1, Relaxed);
            return;
        }
        // Everybody may have one packet: without it nothing would ever go on.
        tcp_mem_force(sk, tp, skb.truesize as usize);
    }
    let fin = tcp_skb_cb(&skb).tcp_flags & tcp_flag::FIN != 0;
    if !skb.is_empty() {
        tcp_event_data_recv(sk, tp, &skb);
    }
    if before(tcp_skb_cb(&skb).seq, tp.rcv_nxt) {
        trim_front(&mut skb, tp.rcv_nxt);
    }
    tcp_queue_rcv(sk, tp, skb);
    if fin {
        tcp_fin(sk, tp);
    }
    if !tp.ofo.out_of_order_queue.is_empty() {
        tcp_ofo_queue(sk, tp);
        // RFC 5681, 4.2: an ACK at once for what fills a hole.
        if tp.ofo.out_of_order_queue.is_empty() {
            tp.icsk_ack.pending |= ICSK_ACK_NOW;
        }
    }
    if tp.rx_opt.num_sacks != 0 {
        tcp_sack_remove(tp);
    }
    if !sk.flag(SockFlags::DEAD) {
        tcp_data_ready(sk, tp);
    }
}

/// Wakes the reader once there is as much as it wants (`tcp_data_ready`).
pub fn tcp_data_ready(sk: &Sock, tp: &TcpSock) {
    let low = sk.rcvlowat.load(Relaxed);
    let enough = low <= 1
        || tp.rcv_nxt.wrapping_sub(tp.copied_seq) >= low
        || sk.shutdown() & RCV_SHUTDOWN != 0
        || sk.rmem_alloc.load(Relaxed) > sk.rcvbuf.load(Relaxed) as usize
        || tp.receive_window() <= tp.icsk_ack.rcv_mss as u32;
    if enough {
        sk.data_ready();
    }
}

/// Moves what has become in order to the receive queue (`tcp_ofo_queue`).
fn tcp_ofo_queue(sk: &Arc<Sock>, tp: &mut TcpSock) {
    while let Some(entry) = tp.ofo.make().out_of_order_queue.first_entry() {
        if after(entry.key().0, tp.rcv_nxt) {
            break;
        }
        let mut skb = entry.remove();
        sk.rmem_alloc.fetch_sub(skb.truesize as usize, AcqRel);
        let cb = *tcp_skb_cb(&skb);
        if !after(cb.end_seq, tp.rcv_nxt) {
            let nxt = tp.rcv_nxt;
            tcp_dsack_extend(sk, tp, cb.seq, seq_min(cb.end_seq, nxt));
            continue;
        }
        if before(cb.seq, tp.rcv_nxt) {
            let nxt = tp.rcv_nxt;
            tcp_dsack_extend(sk, tp, cb.seq, nxt);
            trim_front(&mut skb, nxt);
        }
        let fin = cb.tcp_flags & tcp_flag::FIN != 0;
        tcp_queue_rcv(sk, tp, skb);
        if fin {
            tcp_fin(sk, tp);
            break;
        }
    }
}

/// A segment beyond a hole: kept, trimmed to what is new (`tcp_data_queue_ofo`).
fn tcp_data_queue_ofo(sk: &Arc<Sock>, tp: &mut TcpSock, mut skb: Box<Skb>) {
    tcp_ecn_check(sk, tp, &skb);
    if !tcp_try_rmem_schedule(sk, tp, &skb) {
        sk.net.mib.inc(Mib::TcpExtTCPOFODrop);
        sk.rare.make().drops.fetch_add(1, Relaxed);
        sk.data_ready();
        return;
    }
    tcp_measure_rcv_mss(sk, tp, &skb);
    inet_csk_schedule_ack(tp);
    sk.net.mib.inc(Mib::TcpExtTCPOFOQueue);
    tp.ofo.make().rcv_ooopack = tp.ofo.rcv_ooopack.wrapping_add((skb.gso_segs as u32).max(1));
    let cb = *tcp_skb_cb(&skb);
    let (mut seq, end) = (cb.seq, cb.end_seq);
    // Whole, whatever of it is new.
    let len = skb.len() as u32;
    // What lies before: its end may overlap. Of two that begin alike the longer stays.
    let prev = tp.ofo.out_of_order_queue.range(..=Seq(seq)).next_back().map(|(k, p)| (k.0, tcp_skb_cb(p).end_seq));
    if let Some((prev_seq, prev_end)) = prev
        && after(prev_end, seq)
    {
        if !after(end, prev_end) {
            sk.net.mib.inc(Mib::TcpExtTCPOFOMerge);
            tcp_dsack_set(sk, tp, seq, end);
            if tp.rx_opt.sack_ok {
                tcp_sack_new_ofo_skb(sk, tp, seq, end);
            }
            return;
        }
        if prev_seq != seq {
            tcp_dsack_set(sk, tp, seq, prev_end);
            trim_front(&mut skb, prev_end);
            seq = prev_end;
        }
    }
    // What follows: covered packets go, and one that is covered in part begins where this one ends.
    while let Some((&key, next)) = tp.ofo.out_of_order_queue.range(Seq(seq)..).next() {
        if !before(key.0, end) {
            break;
        }
        let next_end = tcp_skb_cb(next).end_seq;
        let Some(mut next) = tp.ofo.make().out_of_order_queue.remove(&key) else { break };
        if before(end, next_end) {
            tcp_dsack_extend(sk, tp, key.0, end);
            trim_front(&mut next, end);
            tp.ofo.make().out_of_order_queue.insert(Seq(end), next);
            break;
        }
        tcp_dsack_extend(sk, tp, key.0, next_end);
        sk.net.mib.inc(Mib::TcpExtTCPOFOMerge);
        sk.rmem_alloc.fetch_sub(next.truesize as usize, AcqRel);
    }
    skb.orphan();
    skb.dst = None;
    let (alone, joined) = (skb.truesize, truesize_joined(&skb));
    let apart = tcp_ofo_try_coalesce(sk, tp, skb);
    if tp.rx_opt.sack_ok {
        // Without SACK a window that grows would make no duplicate ACKs (RFC 5681, 2).
        tcp_grow_window(sk, tp, len, if apart.is_some() { alone } else { joined }, 0);
    }
    if let Some(skb) = apart {
        sk.rmem_alloc.fetch_add(skb.truesize as usize, AcqRel);
        tp.ofo.make().out_of_order_queue.insert(Seq(seq), skb);
    }
    if tp.rx_opt.sack_ok {
        tcp_sack_new_ofo_skb(sk, tp, cb.seq, end);
    }
    if !sk.flag(SockFlags::DEAD) {
        let space = tp.rcv_tune.space;
        tcp_rcvbuf_grow(sk, tp, space);
    }
}

/// Joins a packet to the one before it out of order, or gives it back (`tcp_ooo_try_coalesce`).
fn tcp_ofo_try_coalesce(sk: &Sock, tp: &mut TcpSock, skb: Box<Skb>) -> Option<Box<Skb>> {
    let seq = tcp_skb_cb(&skb).seq;
    match tp.ofo.make().out_of_order_queue.range_mut(..Seq(seq)).next_back() {
        Some((_, prev)) => tcp_try_coalesce(sk, prev, skb).err(),
        None => Some(skb),
    }
}

/// The peer's FIN has come, in order (RFC 9293, 3.10.7.4, eighth step; `tcp_fin`).
pub fn tcp_fin(sk: &Arc<Sock>, tp: &mut TcpSock) {
    inet_csk_schedule_ack(tp);
    sk.add_shutdown(RCV_SHUTDOWN);
    sk.set_flag(SockFlags::DONE, true);
    match sk.state() {
        TcpState::SynRecv | TcpState::Established => {
            super::tcp_state::tcp_set_state(sk, tp, TcpState::CloseWait);
            tp.enter_pingpong_mode(sk);
        }
        // Both have closed at once.
        TcpState::FinWait1 => {
            tcp_send_ack(sk, tp);
            super::tcp_state::tcp_set_state(sk, tp, TcpState::Closing);
        }
        TcpState::FinWait2 => {
            tcp_send_ack(sk, tp);
            tcp_time_wait(sk, tp, TcpState::TimeWait, 0);
        }
        // CLOSE_WAIT, CLOSING, LAST_ACK: a retransmitted one.
        _ => {}
    }
    // Nothing comes behind it, whatever lies there; the ACKs above still told of that.
    if let Some(o) = tp.ofo.if_used() {
        let gone = std::mem::take(&mut o.out_of_order_queue).into_values().map(|s| s.truesize as usize).sum();
        sk.rmem_alloc.fetch_sub(gone, AcqRel);
        o.duplicate_sack = None;
    }
    tp.rx_opt.num_sacks = 0;
    if !sk.flag(SockFlags::DEAD) {
        sk.data_ready();
        sk.state_change();
    }
}
