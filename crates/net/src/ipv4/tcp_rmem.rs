//! Memory of what was received: joining, packing and, when there is too much, dropping it.
//!
//! Interface: [`tcp_try_rmem_schedule`], [`tcp_try_coalesce`].
//! Linux counterpart: `tcp_try_rmem_schedule`, `tcp_prune_queue`, `tcp_collapse`, `tcp_try_coalesce` in `net/ipv4/tcp_input.c`.
//! Locks and context: socket lock; softirq context or backlog.

use super::tcp_mem::*;
use super::tcp_mss::{tcp_adjust_rcv_ssthresh, tcp_win_from_space};
use super::tcp_queue::{Seq, after};
use super::tcp_sock::*;
use crate::core::skbuff::{SKB_OVERHEAD, Skb};
use crate::core::snmp::Mib;
use crate::core::sock::{Sock, SockFlags};
use crate::hdr::tcp_flag;
use kernel::PageMut;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};

/// What a fragment is charged for at least.
const MIN_FRAG_TRUESIZE: u32 = 512;
/// A packet that others are packed into has an empty head, and pages as its bytes fill them: what is packed never takes more
/// memory than before, and never wastes more than a page.
const PACKED_HEAD: usize = SKB_OVERHEAD as usize + kernel::buf::SIZES[0];
const PAGE: usize = kernel::buf::SIZES[1];
/// Bytes of such a packet.
const PACKED: usize = 16 * PAGE;

/// Joins a packet's payload to the last one's (`tcp_try_coalesce`); gives it back where that costs a copy or finds no room.
pub fn tcp_try_coalesce(sk: &Sock, to: &mut Skb, mut from: Box<Skb>) -> Result<(), Box<Skb>> {
    // A FIN has a sequence number, but no byte.
    if tcp_skb_cb(to).end_seq != tcp_skb_cb(&from).seq || tcp_skb_cb(to).tcp_flags & tcp_flag::FIN != 0 {
        return Err(from);
    }
    if from.headlen() != 0 {
        if to.data_len() != 0 || from.data_len() != 0 || to.tailroom() < from.headlen() {
            return Err(from);
        }
        let n = from.headlen();
        to.put(n).copy_from_slice(from.data());
    } else {
        if to.frags().len() + from.frags().len() > crate::core::skbuff::MAX_SKB_FRAGS {
            return Err(from);
        }
        let before = to.truesize;
        for f in from.take_frags() {
            // A small fragment keeps a page alive all the same.
            let pinned = (f.len() as u32).max(MIN_FRAG_TRUESIZE) - f.len() as u32;
            to.add_frag(f);
            to.truesize += pinned;
        }
        sk.rmem_alloc.fetch_add((to.truesize - before) as usize, AcqRel);
    }
    let cb = *tcp_skb_cb(&from);
    let tcb = tcp_skb_cb_mut(to);
    tcb.end_seq = cb.end_seq;
    tcb.tcp_flags |= cb.tcp_flags;
    sk.net.mib.inc(Mib::TcpExtTCPRcvCoalesce);
    Ok(())
}

/// Whether the buffer has room for the packet's bytes. Its overhead is not asked for: the peer keeps to a window of bytes
/// (`tcp_can_ingest`).
#[inline]
pub fn tcp_can_ingest(sk: &Sock, skb: &Skb) -> bool {
    sk.rmem_alloc.load(Relaxed) + skb.len() <= sk.rcvbuf.load(Relaxed) as usize
}

/// Whether there is memory for another packet, after making room where that helps (`tcp_try_rmem_schedule`).
#[inline]
pub fn tcp_try_rmem_schedule(sk: &Sock, tp: &mut TcpSock, skb: &Skb) -> bool {
    let size = skb.truesize as usize;
    (tcp_can_ingest(sk, skb) && tcp_mem_schedule(sk, tp, size, SkMem::Recv)) || tcp_make_room(sk, tp, skb)
}

#[cold]
fn tcp_make_room(sk: &Sock, tp: &mut TcpSock, skb: &Skb) -> bool {
    if !tcp_prune_queue(sk, tp, skb) {
        return false;
    }
    while !tcp_mem_schedule(sk, tp, skb.truesize as usize, SkMem::Recv) {
        if !tcp_prune_ofo_queue(sk, tp, skb) {
            return false;
        }
    }
    true
}

/// Memory is short: more buffer up to the limit, else a smaller window (`tcp_clamp_window`).
fn tcp_clamp_window(sk: &Sock, tp: &mut TcpSock) {
    tp.icsk_ack.quick = 0;
    let used = sk.rmem_alloc.load(Relaxed).min(u32::MAX as usize) as u32;
    let max = sk.net.sysctl.tcp_rmem_max.get() as u32;
    let have = sk.rcvbuf.load(Relaxed);
    if have < used.min(max) && !sk.flag(SockFlags::RCVBUF_LOCK) && tcp_mem_plenty(sk) {
        sk.rcvbuf.store(used.min(max), Relaxed);
    }
    if used > sk.rcvbuf.load(Relaxed) {
        tp.rcv_ssthresh = tp.window_clamp.min(2 * tp.advmss as u32);
    }
}

/// Makes room for `skb` by ever ruder means; `false` when nothing helped (`tcp_prune_queue`).
fn tcp_prune_queue(sk: &Sock, tp: &mut TcpSock, skb: &Skb) -> bool {
    if sk.rmem_alloc.load(Relaxed) == 0 {
        return false;
    }
    sk.net.mib.inc(Mib::TcpExtPruneCalled);
    if !tcp_can_ingest(sk, skb) {
        tcp_clamp_window(sk, tp);
    } else if tcp_under_memory_pressure(sk) {
        tcp_adjust_rcv_ssthresh(tp);
    }
    if tcp_can_ingest(sk, skb) {
        return true;
    }
    if !lands_last(tp, skb) {
        tcp_collapse_ofo_queue(sk, tp);
    }
    tcp_collapse_receive_queue(sk, tp);
    tcp_mem_reclaim(sk, tp);
    if tcp_can_ingest(sk, skb) {
        return true;
    }
    tcp_prune_ofo_queue(sk, tp, skb);
    if tcp_can_ingest(sk, skb) {
        return true;
    }
    sk.net.mib.inc(Mib::TcpExtRcvPruned);
    false
}

/// Whether the packet is further from being in order than all that is there: then it is the one to go, and no work is done
/// for it, which an attacker could ask for with each packet.
fn lands_last(tp: &TcpSock, skb: &Skb) -> bool {
    tp.ofo.out_of_order_queue.last_key_value().is_some_and(|(last, _)| after(tcp_skb_cb(skb).seq, last.0))
}

/// Packs the receive queue (`tcp_collapse`).
fn tcp_collapse_receive_queue(sk: &Sock, tp: &mut TcpSock) {
    let old = std::mem::take(&mut tp.receive_queue);
    let (ratio, queue) = (tp.scaling_ratio, &mut tp.receive_queue);
    collapse(sk, ratio, old, |skb| queue.push_back(skb));
}

/// Packs what is out of order, piece by piece between holes (`tcp_collapse_ofo_queue`).
fn tcp_collapse_ofo_queue(sk: &Sock, tp: &mut TcpSock) {
    let Some(ofo) = tp.ofo.if_used() else { return };
    let old = std::mem::take(&mut ofo.out_of_order_queue);
    collapse(sk, tp.scaling_ratio, old.into_values(), |skb| {
        ofo.out_of_order_queue.insert(Seq(tcp_skb_cb(&skb).seq), skb);
    });
}

/// Copies neighbours together that take more memory than the window counts for them.
fn collapse(sk: &Sock, ratio: u8, queue: impl IntoIterator<Item = Box<Skb>>, mut keep: impl FnMut(Box<Skb>)) {
    let mut run: Vec<Box<Skb>> = Vec::new();
    for skb in queue {
        let cb = tcp_skb_cb(&skb);
        // A SYN or FIN has a sequence number, but no byte.
        let bytes_only = cb.tcp_flags & (tcp_flag::SYN | tcp_flag::FIN) == 0;
        let bloated = bytes_only && tcp_win_from_space(skb.truesize, ratio) as usize > skb.len();
        let joins = run.last().is_none_or(|l| tcp_skb_cb(l).end_seq == cb.seq);
        if !(bloated && joins) {
            pack(sk, &mut run, &mut keep);
        }
        if bloated { run.push(skb) } else { keep(skb) }
    }
    pack(sk, &mut run, &mut keep);
}

/// Copies a run of neighbours into as few packets as can be, if that saves anything.
fn pack(sk: &Sock, run: &mut Vec<Box<Skb>>, keep: &mut impl FnMut(Box<Skb>)) {
    let bytes: usize = run.iter().map(|s| s.len()).sum();
    let before: usize = run.iter().map(|s| s.truesize as usize).sum();
    let after = bytes.div_ceil(PACKED) * PACKED_HEAD + bytes.next_multiple_of(PAGE);
    if run.len() < 2 || after >= before {
        return run.drain(..).for_each(keep);
    }
    sk.net.mib.add(Mib::TcpExtTCPRcvCollapsed, run.len() as u64);
    let mut left = bytes;
    let mut page = PageMut::alloc(PAGE);
    let mut packed: Option<Box<Skb>> = None;
    for skb in run.drain(..) {
        let cb = *tcp_skb_cb(&skb);
        let mut done = 0;
        while done < skb.len() {
            if page.is_empty() {
                page = PageMut::alloc(PAGE);
            }
            let to = packed.get_or_insert_with(|| {
                let mut to = Skb::alloc(0);
                to.cb = skb.cb;
                tcp_skb_cb_mut(&mut to).seq = cb.seq.wrapping_add(done as u32);
                to
            });
            let n = skb.copy_bits(done, page.as_mut_slice());
            to.add_frag(page.freeze(n));
            (done, left) = (done + n, left - n);
            let tcb = tcp_skb_cb_mut(to);
            tcb.end_seq = cb.seq.wrapping_add(done as u32);
            tcb.tcp_flags |= cb.tcp_flags;
            if (to.len() == PACKED || left == 0)
                && let Some(mut to) = packed.take()
            {
                to.truesize += page.len() as u32;
                keep(to);
            }
        }
    }
    sk.rmem_alloc.fetch_sub(before - after, AcqRel);
}

/// Throws away what is furthest from being in order, an eighth of the buffer at a time, but nothing that is nearer to it than
/// `skb`; SACK allows it (RFC 2018, 8). `false`: there was nothing (`tcp_prune_ofo_queue`).
fn tcp_prune_ofo_queue(sk: &Sock, tp: &mut TcpSock, skb: &Skb) -> bool {
    let step = sk.rcvbuf.load(Relaxed) as usize >> 3;
    let (mut freed, mut pruned) = (0, false);
    while !lands_last(tp, skb)
        && let Some((_, gone)) = tp.ofo.if_used().and_then(|o| o.out_of_order_queue.pop_last())
    {
        pruned = true;
        freed += gone.truesize as usize;
        sk.rmem_alloc.fetch_sub(gone.truesize as usize, AcqRel);
        if freed >= step || tp.ofo.out_of_order_queue.is_empty() {
            tcp_mem_reclaim(sk, tp);
            if tcp_can_ingest(sk, skb) && !tcp_under_memory_pressure(sk) {
                break;
            }
            freed = 0;
        }
    }
    if pruned {
        sk.net.mib.inc(Mib::TcpExtOfoPruned);
        // The peer must not count on what is gone.
        tp.rx_opt.num_sacks = 0;
        tp.ofo.make().duplicate_sack = None;
    }
    pruned
}

#[cfg(test)]
mod tests;
