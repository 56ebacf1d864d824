//! Segment sizes and windows: what a path and a buffer allow.
//!
//! Interface: [`tcp_sync_mss`], [`tcp_current_mss`], [`tcp_select_initial_window`], [`tcp_select_window`].
//! Linux counterpart: the first half of `net/ipv4/tcp_output.c`.
//! Locks and context: socket lock.

use super::tcp_auth::tcp_auth_len;
use super::tcp_ecn::tcp_accecn_fit;
use super::tcp_sock::*;
use crate::core::dst::Dst;
use crate::core::dst_metrics::Rtax;
use crate::core::net_namespace::Net;
use crate::core::snmp::Mib;
use crate::core::sock::{SOCK_MIN_RCVBUF, Sock};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use uapi::{Errno, Result};

/// The connection's route, looked up anew when the tables have changed (`__sk_dst_check`, `inet_sk_rebuild_header`).
pub fn tcp_dst(sk: &Sock, tp: &mut TcpSock) -> Result<Arc<Dst>> {
    if let Some(dst) = &*sk.dst_cache.lock_bh()
        && dst.is_current(&sk.net)
    {
        return Ok(dst.clone());
    }
    tcp_reroute(sk, tp)
}

#[cold]
fn tcp_reroute(sk: &Sock, tp: &mut TcpSock) -> Result<Arc<Dst>> {
    let l3 = sk.net.l3(tp.is_v6()).ok_or(Errno::EHOSTUNREACH)?;
    let mut flow = tp.inet.flow(sk);
    let dst = (l3.route_output)(&sk.net, &mut flow)?;
    sk_dst_set(sk, tp, dst.clone());
    Ok(dst)
}

/// The connection takes this route, and what it says (`__sk_dst_set`).
pub fn sk_dst_set(sk: &Sock, tp: &mut TcpSock, dst: Arc<Dst>) {
    match &dst.metrics {
        None => tp.rare.if_used().into_iter().for_each(|r| r.route = None),
        some => tp.rare.make().route = some.clone(),
    }
    *sk.dst_cache.lock_bh() = Some(dst);
}

/// IP header bytes of the connection's packets, without options (`net_header_len`).
pub fn net_header_len(tp: &TcpSock) -> u32 {
    if tp.is_v6() { 40 } else { 20 }
}

/// Largest payload for a path of this MTU without TCP options, at least `tcp_min_snd_mss` (`__tcp_mtu_to_mss`).
pub fn __tcp_mtu_to_mss(sk: &Sock, tp: &TcpSock, mtu: u32) -> u32 {
    let mss = mtu.saturating_sub(net_header_len(tp) + 20).min(tp.rx_opt.mss_clamp as u32);
    mss.max(sk.net.sysctl.tcp_min_snd_mss.get() as u32)
}

/// The same, timestamps considered (`tcp_mtu_to_mss`).
pub fn tcp_mtu_to_mss(sk: &Sock, tp: &TcpSock, mtu: u32) -> u32 {
    let mss = __tcp_mtu_to_mss(sk, tp, mtu);
    let options = (tp.tcp_header_len as u32).saturating_sub(20);
    mss.saturating_sub(options).max(8)
}

/// The MTU that a segment with this payload needs (`tcp_mss_to_mtu`).
pub fn tcp_mss_to_mtu(tp: &TcpSock, mss: u32) -> u32 {
    mss + tp.tcp_header_len as u32 + net_header_len(tp)
}

/// At most half of the largest window the peer ever offered (`tcp_bound_to_half_wnd`).
pub fn tcp_bound_to_half_wnd(tp: &TcpSock, pktsize: u32) -> u32 {
    let cutoff = if tp.max_window > TCP_MSS_DEFAULT { tp.max_window >> 1 } else { tp.max_window };
    if cutoff != 0 && pktsize > cutoff { cutoff.max(68 - tp.tcp_header_len as u32) } else { pktsize }
}

/// Takes a path MTU over into `mss_cache`; while larger packets are searched for, only what is known to pass counts
/// (RFC 4821, 7.2; `tcp_sync_mss`).
pub fn tcp_sync_mss(sk: &Sock, tp: &mut TcpSock, pmtu: u32) -> u32 {
    let mut mss = tcp_bound_to_half_wnd(tp, tcp_mtu_to_mss(sk, tp, pmtu));
    tp.icsk_pmtu_cookie = pmtu;
    if let Some(m) = tp.rare.if_used().and_then(|r| r.mtup.as_mut()) {
        m.search_high = m.search_high.min(pmtu);
        if m.enabled {
            let low = m.search_low;
            mss = mss.min(tcp_mtu_to_mss(sk, tp, low));
        }
    }
    tp.mss_cache = mss;
    mss
}

/// Options of the moment in a data segment, in bytes: timestamps and SACK blocks (`tcp_established_options`' size).
pub fn tcp_established_options_size(sk: &Sock, tp: &TcpSock) -> u32 {
    let mut n = if tp.rare.auth.is_some() { tcp_auth_len(tp) as usize } else { 0 };
    if tp.rx_opt.tstamp_ok {
        n += TCPOLEN_TSTAMP_ALIGNED;
    }
    let blocks = (tp.rx_opt.num_sacks as usize + tp.ofo.duplicate_sack.is_some() as usize)
        .min((MAX_TCP_OPTION_SPACE - n - TCPOLEN_SACK_BASE_ALIGNED) / TCPOLEN_SACK_PERBLOCK)
        .min(TCP_NUM_SACKS);
    if blocks > 0 {
        n += TCPOLEN_SACK_BASE_ALIGNED + blocks * TCPOLEN_SACK_PERBLOCK;
    }
    if tp.rare.accecn.is_some() {
        let saving = if blocks > 0 { 2 } else { 0 };
        n += tcp_accecn_fit(sk, tp, MAX_TCP_OPTION_SPACE - n, saving).map_or(0, |o| o.size as usize);
    }
    n as u32
}

/// The MSS for data now: path MTU and options of the moment considered (`tcp_current_mss`).
pub fn tcp_current_mss(sk: &Sock, tp: &mut TcpSock) -> u32 {
    let pmtu = sk.dst_cache.lock_bh().as_ref().map(|d| d.mtu());
    if let Some(pmtu) = pmtu
        && pmtu != tp.icsk_pmtu_cookie
    {
        tcp_sync_mss(sk, tp, pmtu);
    }
    let header = 20 + tcp_established_options_size(sk, tp);
    let mss = tp.mss_cache as i64 + tp.tcp_header_len as i64 - header as i64;
    mss.max(1) as u32
}

/// The MSS to advertise on a route: what it says, or what its MTU leaves (`dst_metric_advmss`, `ip6_default_advmss`).
pub fn tcp_advertise_mss(dst: &Dst, v6: bool) -> u16 {
    let (header, least) = if v6 { (60, 1220) } else { (40, 256) };
    match dst.metric(Rtax::Advmss) {
        0 => dst.mtu().saturating_sub(header).clamp(least, 65535 - 60) as u16,
        // Who says it says it, however little.
        forced => forced.min(65535) as u16,
    }
}

/// Window bytes that a buffer of `space` bytes stands for (`tcp_win_from_space`).
pub fn tcp_win_from_space(space: u32, scaling_ratio: u8) -> u32 {
    ((space as u64 * scaling_ratio as u64) >> 8) as u32
}

/// Buffer bytes that a window of `win` bytes needs (`tcp_space_from_win`).
pub fn tcp_space_from_win(win: u32, scaling_ratio: u8) -> u32 {
    (((win as u64) << 8) / scaling_ratio.max(1) as u64).min(i32::MAX as u64) as u32
}

/// Window bytes the socket has room for now (`tcp_space`).
pub fn tcp_space(sk: &Sock, tp: &TcpSock) -> u32 {
    let used = sk.rmem_alloc.load(Relaxed).min(u32::MAX as usize) as u32;
    tcp_win_from_space(sk.rcvbuf.load(Relaxed).saturating_sub(used), tp.scaling_ratio)
}

/// Window bytes of an empty receive buffer (`tcp_full_space`).
pub fn tcp_full_space(sk: &Sock, tp: &TcpSock) -> u32 {
    tcp_win_from_space(sk.rcvbuf.load(Relaxed), tp.scaling_ratio)
}

/// A window to start with (RFC 9293, 3.8.6.2.2; RFC 7323, 2.2): from the buffer `space`, the `mss` and the clamp given
/// (0: none); of `init_rwnd` segments at most, if that is not 0. Answers `(rcv_wnd, window_clamp, rcv_wscale)`; what does not fit the SYN's 16 bits is offered later
/// (`tcp_select_initial_window`).
pub fn tcp_select_initial_window(
    net: &Net,
    space: u32,
    mss: u32,
    clamp: u32,
    init_rwnd: u32,
    wscale_ok: bool,
) -> (u32, u32, u8) {
    let s = &net.sysctl;
    let clamp = if clamp == 0 { 65535 << TCP_MAX_WSCALE } else { clamp };
    let mut space = space.min(clamp);
    if space > mss && mss > 0 {
        space = space / mss * mss;
    }
    // Some old peers take the number for a signed one.
    let rcv_wnd = if s.tcp_workaround_signed_windows.on() { space.min(MAX_TCP_WINDOW) } else { space };
    let rcv_wnd = if init_rwnd != 0 { rcv_wnd.min(init_rwnd.saturating_mul(mss)) } else { rcv_wnd };
    let mut wscale = 0;
    if wscale_ok {
        let most = (space as i64).max(s.tcp_rmem_max.get()).max(s.rmem_max.get()).min(clamp as i64);
        wscale = (most.max(1).ilog2() as i32 - 15).clamp(0, TCP_MAX_WSCALE as i32) as u8;
    }
    (rcv_wnd, clamp.min(65535 << wscale), wscale)
}

/// The growing of the window ends at `limit` (`__tcp_adjust_rcv_ssthresh`); under memory pressure at four segments.
pub fn tcp_adjust_rcv_ssthresh(tp: &mut TcpSock) {
    tp.rcv_ssthresh = tp.rcv_ssthresh.min(4 * tp.advmss as u32);
}

/// Bounds the window by what the process, or the buffer, allows (`tcp_set_window_clamp`).
pub fn tcp_set_window_clamp(tp: &mut TcpSock, clamp: u32) {
    let new = clamp.max(SOCK_MIN_RCVBUF / 2);
    let old = std::mem::replace(&mut tp.window_clamp, new);
    if new < old {
        tp.rcv_ssthresh = tp.rcv_ssthresh.min(new);
    } else if new > old {
        tp.rcv_ssthresh = tp.rcv_ssthresh.max(tp.rcv_wnd.min(new));
    }
}

/// The window to advertise now, in the header's units, never taking back what was offered (RFC 7323, 2.4), unless
/// `tcp_shrink_window` says so (`tcp_select_window`).
pub fn tcp_select_window(sk: &Sock, tp: &mut TcpSock) -> u16 {
    let old_win = tp.rcv_wnd;
    let scale = tp.rx_opt.rcv_wscale;
    if tp.icsk_ack.pending & ICSK_ACK_NOMEM != 0 {
        // What came had to be dropped: no more of it.
        (tp.rcv_wnd, tp.rcv_wup) = (0, tp.rcv_nxt);
        return 0;
    }
    let cur_win = tp.receive_window();
    let mut new_win = __tcp_select_window(sk, tp);
    if new_win < cur_win && !may_shrink(sk, tp) {
        if new_win == 0 {
            sk.net.mib.inc(Mib::TcpExtTCPWantZeroWindowAdv);
        }
        new_win = round_up(cur_win, scale);
    }
    tp.rcv_wnd = new_win;
    tp.rcv_wup = tp.rcv_nxt;
    let most = match scale {
        0 if sk.net.sysctl.tcp_workaround_signed_windows.on() => MAX_TCP_WINDOW,
        _ => 65535 << scale,
    };
    let field = (new_win.min(most) >> scale) as u16;
    if field == 0 {
        if old_win != 0 {
            sk.net.mib.inc(Mib::TcpExtTCPToZeroWindowAdv);
        }
    } else if old_win == 0 {
        sk.net.mib.inc(Mib::TcpExtTCPFromZeroWindowAdv);
    }
    field
}

fn round_up(win: u32, scale: u8) -> u32 {
    win.div_ceil(1 << scale) << scale
}

fn round_down(win: u32, scale: u8) -> u32 {
    win >> scale << scale
}

fn may_shrink(sk: &Sock, tp: &TcpSock) -> bool {
    tp.rx_opt.rcv_wscale != 0 && sk.net.sysctl.tcp_shrink_window.on()
}

/// The window the buffer allows, without silly ones (RFC 9293, 3.8.6.2.2; `__tcp_select_window`).
pub fn __tcp_select_window(sk: &Sock, tp: &mut TcpSock) -> u32 {
    let scale = tp.rx_opt.rcv_wscale;
    let mut free = tcp_space(sk, tp);
    let allowed = tcp_full_space(sk, tp);
    let full = tp.window_clamp.min(allowed);
    let mss = (tp.icsk_ack.rcv_mss as u32).min(full);
    if mss == 0 {
        return 0;
    }
    let shrink = may_shrink(sk, tp);
    if shrink {
        free = round_down(free, scale);
    }
    if free < full >> 1 {
        tp.icsk_ack.quick = 0;
        if sk.net.tcp_mem.under_pressure() {
            tcp_adjust_rcv_ssthresh(tp);
        }
        // Do not offer what is not there, and close in time: below a sixteenth of the buffer, or a segment.
        free = round_down(free, scale);
        if free < allowed >> 4 || free < mss || (shrink && free < 1 << scale) {
            return 0;
        }
    }
    if shrink && free <= tp.rcv_ssthresh {
        return free;
    }
    let free = free.min(tp.rcv_ssthresh);
    if scale != 0 {
        // Rounded up: a zero would look like a closed window.
        return round_up(free, scale);
    }
    let window = tp.rcv_wnd;
    if window <= free.saturating_sub(mss) || window > free {
        free / mss * mss
    } else if mss == full && free > window + (full >> 1) {
        free
    } else {
        window
    }
}
