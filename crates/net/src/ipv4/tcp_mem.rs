//! TCP's memory: what all connections may hold together, and what one may queue to be sent.
//!
//! Interface: [`tcp_mem_schedule`], [`tcp_mem_reclaim`], [`tcp_under_memory_pressure`], [`tcp_out_of_memory`],
//! [`tcp_check_space`], [`tcp_stream_is_writeable`], [`tcp_sndbuf_full`], [`tcp_sndbuf_expand`].
//! Linux counterpart: `__sk_mem_raise_allocated`, `__sk_mem_reclaim` in `net/core/sock.c`, `tcp_check_space` in `tcp_input.c`.
//! Locks and context: socket lock; process or softirq context.
//!
//! A socket answers for whole pages (`tp.mem_pages`), at least as many as its queues hold; the difference is Linux's
//! `sk_forward_alloc`. Below the first value of `tcp_mem` everybody gets what he asks for; above the second there is pressure:
//! windows and buffers stop growing, and who holds more than his share gets nothing; above the third nobody does.

use super::tcp_chrono::tcp_chrono_stop;
use super::tcp_sock::*;
use crate::core::proto_mem::SK_MEM_QUANTUM;
use crate::core::snmp::Mib;
use crate::core::sock::{SOCK_MIN_SNDBUF, Sock, SockFlags};
use std::sync::atomic::Ordering::Relaxed;

/// Which queue wants the memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SkMem {
    Send,
    Recv,
}

/// Bytes in the socket's queues.
#[inline]
fn used(sk: &Sock) -> usize {
    sk.rmem_alloc.load(Relaxed) + sk.wmem_queued.load(Relaxed)
}

/// Whether `size` bytes more may be queued (`sk_rmem_schedule`, `sk_wmem_schedule`).
#[inline]
pub fn tcp_mem_schedule(sk: &Sock, tp: &mut TcpSock, size: usize, dir: SkMem) -> bool {
    used(sk) + size <= tp.mem_pages as usize * SK_MEM_QUANTUM || raise_allocated(sk, tp, size, dir)
}

/// Answers for `size` bytes more, whatever the limits say (`sk_forced_mem_schedule`).
pub fn tcp_mem_force(sk: &Sock, tp: &mut TcpSock, size: usize) {
    set_pages(sk, tp, (used(sk) + size).div_ceil(SK_MEM_QUANTUM));
}

/// Gives back the pages that hold nothing any more (`sk_mem_reclaim`).
#[inline]
pub fn tcp_mem_reclaim(sk: &Sock, tp: &mut TcpSock) {
    let need = used(sk).div_ceil(SK_MEM_QUANTUM);
    if need < tp.mem_pages as usize {
        set_pages(sk, tp, need);
        let mem = &sk.net.tcp_mem;
        if mem.under_pressure() && mem.allocated() < sk.net.sysctl.tcp_mem_low.get() {
            leave_pressure(sk);
        }
    }
}

fn set_pages(sk: &Sock, tp: &mut TcpSock, pages: usize) {
    let change = pages as i64 - tp.mem_pages as i64;
    tp.mem_pages = pages.min(u32::MAX as usize) as u32;
    sk.net.tcp_mem.add(change, sk.net.sysctl.tcp_mem_low.get());
}

fn leave_pressure(sk: &Sock) {
    // Nobody's clock is read for what is hardly ever so.
    if sk.net.tcp_mem.under_pressure()
        && let Some(ms) = sk.net.tcp_mem.leave_pressure(sk.net.kernel().jiffies())
    {
        sk.net.mib.add(Mib::TcpExtTCPMemoryPressuresChrono, ms);
    }
}

/// `tcp_enter_memory_pressure`.
pub fn tcp_enter_memory_pressure(sk: &Sock) {
    if sk.net.tcp_mem.enter_pressure(sk.net.kernel().jiffies()) {
        sk.net.mib.inc(Mib::TcpExtTCPMemoryPressures);
    }
}

/// `__sk_mem_raise_allocated`.
fn raise_allocated(sk: &Sock, tp: &mut TcpSock, size: usize, dir: SkMem) -> bool {
    let (mem, s) = (&sk.net.tcp_mem, &sk.net.sysctl);
    let (old, held) = (tp.mem_pages as usize, used(sk));
    set_pages(sk, tp, (held + size).div_ceil(SK_MEM_QUANTUM));
    let all = mem.allocated();
    if all <= s.tcp_mem_low.get() {
        leave_pressure(sk);
        return true;
    }
    if all > s.tcp_mem_pressure.get() {
        tcp_enter_memory_pressure(sk);
    }
    let fits = all <= s.tcp_mem_high.get();
    if fits && (has_less_than_its_minimum(sk, dir) || !mem.under_pressure() || has_less_than_its_share(sk, tp)) {
        return true;
    }
    if dir == SkMem::Send {
        tcp_moderate_sndbuf(sk);
        // What is queued beyond the buffer will have to leave first: this much must pass, or nothing moves.
        if sk.wmem_queued.load(Relaxed) + size >= sk.sndbuf.load(Relaxed) as usize && fits {
            return true;
        }
    }
    set_pages(sk, tp, old);
    false
}

/// Below the first value of `tcp_rmem` or `tcp_wmem`, which everybody is promised.
fn has_less_than_its_minimum(sk: &Sock, dir: SkMem) -> bool {
    let s = &sk.net.sysctl;
    match dir {
        SkMem::Recv => (sk.rmem_alloc.load(Relaxed) as i64) < s.tcp_rmem_min.get(),
        SkMem::Send => (sk.wmem_queued.load(Relaxed) as i64) < s.tcp_wmem_min.get(),
    }
}

/// If all sockets held as much as this one, there would still be enough.
fn has_less_than_its_share(sk: &Sock, tp: &TcpSock) -> bool {
    let sockets = sk.net.sockets.load(Relaxed).max(1) as i64;
    sk.net.sysctl.tcp_mem_high.get() > sockets.saturating_mul(tp.mem_pages as i64)
}

/// The send buffer shrinks to half of what is queued (`sk_stream_moderate_sndbuf`).
fn tcp_moderate_sndbuf(sk: &Sock) {
    if sk.flag(SockFlags::SNDBUF_LOCK) {
        return;
    }
    let half = (sk.wmem_queued.load(Relaxed) >> 1).min(u32::MAX as usize) as u32;
    sk.sndbuf.store(sk.sndbuf.load(Relaxed).min(half).max(SOCK_MIN_SNDBUF), Relaxed);
}

/// How many of `n` bytes a writer may queue: all; under pressure at least enough to go on with when nothing else is queued
/// (`tcp_wmem_schedule`).
#[inline]
pub fn tcp_wmem_schedule(sk: &Sock, tp: &mut TcpSock, n: usize) -> usize {
    if tcp_mem_schedule(sk, tp, n, SkMem::Send) { n } else { promised_to_writer(sk, tp, n) }
}

#[cold]
fn promised_to_writer(sk: &Sock, tp: &mut TcpSock, n: usize) -> usize {
    let promised = (sk.net.sysctl.tcp_wmem_min.get() as usize).saturating_sub(sk.wmem_queued.load(Relaxed));
    if promised > 0 {
        tcp_mem_force(sk, tp, promised.min(n));
    }
    n.min((tp.mem_pages as usize * SK_MEM_QUANTUM).saturating_sub(used(sk)))
}

/// `tcp_under_memory_pressure`.
#[inline]
pub fn tcp_under_memory_pressure(sk: &Sock) -> bool {
    sk.net.tcp_mem.under_pressure()
}

/// Below the first value of `tcp_mem` there is memory for larger buffers.
pub fn tcp_mem_plenty(sk: &Sock) -> bool {
    !tcp_under_memory_pressure(sk) && sk.net.tcp_mem.allocated() < sk.net.sysctl.tcp_mem_low.get()
}

/// Whether the socket holds memory while there is none left (`tcp_out_of_memory`).
pub fn tcp_out_of_memory(sk: &Sock) -> bool {
    sk.wmem_queued.load(Relaxed) > SOCK_MIN_SNDBUF as usize
        && sk.net.tcp_mem.allocated() > sk.net.sysctl.tcp_mem_high.get()
}

// --- The writer ---

/// Unsent bytes a socket may hold and still be writable (`tcp_notsent_lowat`).
#[inline]
pub fn tcp_notsent_lowat(sk: &Sock, tp: &TcpSock) -> u32 {
    match tp.rare.opts.notsent_lowat {
        0 => sk.net.sysctl.tcp_notsent_lowat.get() as u32,
        n => n,
    }
}

/// Whether the unsent bytes, doubled `wake` times, stay below the mark (`tcp_stream_memory_free`).
#[inline]
fn below_notsent_lowat(sk: &Sock, tp: &TcpSock, wake: u32) -> bool {
    // Negative after a connection has been refused: nothing waits.
    let unsent = (tp.write_seq.wrapping_sub(tp.snd_nxt) as i32).max(0) as u64;
    unsent << wake < tcp_notsent_lowat(sk, tp) as u64
}

/// Whether a writer has to wait (`!sk_stream_memory_free`).
#[inline]
pub fn tcp_sndbuf_full(sk: &Sock, tp: &TcpSock) -> bool {
    sk.wmem_queued.load(Relaxed) >= sk.sndbuf.load(Relaxed) as usize || !below_notsent_lowat(sk, tp, 0)
}

/// A third of the buffer is free, and no more than half of `TCP_NOTSENT_LOWAT` waits to be sent (`sk_stream_is_writeable`).
pub fn tcp_stream_is_writeable(sk: &Sock, tp: &TcpSock) -> bool {
    let queued = sk.wmem_queued.load(Relaxed);
    (sk.sndbuf.load(Relaxed) as usize).saturating_sub(queued) >= queued >> 1 && below_notsent_lowat(sk, tp, 1)
}

/// There may be room for a writer again (`tcp_check_space`, `tcp_new_space`).
#[inline]
pub fn tcp_check_space(sk: &Sock, tp: &mut TcpSock) {
    if sk.flag(SockFlags::NOSPACE) {
        tcp_new_space(sk, tp);
    }
}

fn tcp_new_space(sk: &Sock, tp: &mut TcpSock) {
    if tcp_should_expand_sndbuf(sk, tp) {
        tcp_sndbuf_expand(sk, tp);
        tp.snd_cwnd_stamp = tp.jiffies32();
    }
    if tcp_stream_is_writeable(sk, tp) {
        sk.set_flag(SockFlags::NOSPACE, false);
        tcp_chrono_stop(tp, TcpChrono::SndbufLimited);
        sk.write_space();
    }
}

/// Whether the buffer, not the window, is what limits, and memory is there (`tcp_should_expand_sndbuf`).
fn tcp_should_expand_sndbuf(sk: &Sock, tp: &TcpSock) -> bool {
    !sk.flag(SockFlags::SNDBUF_LOCK)
        && tp.packets_in_flight() < tp.snd_cwnd
        && if tcp_under_memory_pressure(sk) { tp.mem_pages == 0 } else { tcp_mem_plenty(sk) }
}

/// A send buffer for as many windows as congestion control wants (`tcp_sndbuf_expand`).
pub fn tcp_sndbuf_expand(sk: &Sock, tp: &TcpSock) {
    // What Linux reckons for a segment: headers and shared info round up with it, the `sk_buff` stands beside.
    let per_mss = ((tp.rx_opt.mss_clamp as u64).max(tp.mss_cache as u64) + 640).next_power_of_two() + 256;
    let segs = TCP_INIT_CWND.max(tp.snd_cwnd).max(tp.reordering + 1) as u64;
    let windows = tp.ca_ops.sndbuf_expand.map_or(2, |f| f(sk, tp)) as u64;
    let want = (windows * segs * per_mss).min(sk.net.sysctl.tcp_wmem_max.get() as u64) as u32;
    if sk.sndbuf.load(Relaxed) < want {
        sk.sndbuf.store(want, Relaxed);
    }
}
