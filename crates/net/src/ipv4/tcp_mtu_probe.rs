//! Finding out what the path takes by trying: packetization-layer path MTU discovery (RFC 4821).
//!
//! Interface: [`tcp_mtup_init`], [`tcp_mtu_probing`], [`tcp_mtu_probe`], [`tcp_mtup_probe_acked`], [`tcp_mtup_probe_failed`].
//! Linux counterpart: `tcp_mtu_probe` in `net/ipv4/tcp_output.c`, `tcp_mtu_probing` in `tcp_timer.c`.
//! Locks and context: socket lock.
//!
//! ```text
//!   search_low ............... probe ............... search_high
//!   packets of this size       halfway: a segment    what the device, the peer and
//!   have passed                of new data           ICMP allow at most
//! ```
//! The probe is ordinary data, in a larger packet. If it is acknowledged, `search_low` rises to it; if it alone is lost,
//! `search_high` falls below it, and that is not taken for congestion (RFC 4821, 7.5 and 7.6).
//! With `tcp_mtu_probing` 1 the search begins when timeouts look like a black hole: a router that drops large packets and
//! does not say so. With 2 every connection searches from the beginning.

use super::tcp_cong::{tcp_current_ssthresh, tcp_snd_cwnd_set};
use super::tcp_fragment::tcp_fragment;
use super::tcp_mss::*;
use super::tcp_queue::MAX_TX_FRAGS;
use super::tcp_sock::*;
use crate::core::snmp::Mib;
use crate::core::sock::Sock;
use crate::hdr::{TcpHdr, tcp_flag};
use std::sync::atomic::Ordering::AcqRel;

/// A probe costs part of the window, so there must be some (`tcp_mtu_probe`).
const MIN_CWND: u32 = 11;

/// What became of the wish to probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MtuProbe {
    /// Not now: send as usual.
    No,
    /// Soon: hold the data back until there is room for a probe.
    Wait,
    /// The next piece to be sent is a probe.
    Ready,
}

/// A search with the widest bounds, not yet begun.
fn new_search(sk: &Sock, tp: &TcpSock) -> IcskMtup {
    IcskMtup {
        search_high: tp.rx_opt.mss_clamp as u32 + TcpHdr::LEN as u32 + net_header_len(tp),
        search_low: tcp_mss_to_mtu(tp, sk.net.sysctl.tcp_base_mss.get() as u32),
        ..IcskMtup::default()
    }
}

/// A connection begins: whether it searches from the start (`tcp_mtup_init`).
pub fn tcp_mtup_init(sk: &Sock, tp: &mut TcpSock) {
    if let Some(r) = tp.rare.if_used() {
        r.mtup = None;
    }
    if sk.net.sysctl.tcp_mtu_probing.get() > 1 {
        let mut m = new_search(sk, tp);
        (m.enabled, m.probe_timestamp) = (true, tp.jiffies32());
        tp.rare.make().mtup = Some(Box::new(m));
    }
}

/// Timeouts have piled up: perhaps a black hole. Begins the search with small packets, or makes them smaller still (RFC 4821,
/// 7.7; `tcp_mtu_probing`).
pub fn tcp_mtu_probing(sk: &Sock, tp: &mut TcpSock) {
    let s = &sk.net.sysctl;
    if !s.tcp_mtu_probing.on() {
        return;
    }
    let mut m = tp.rare.mtup.as_deref().copied().unwrap_or_else(|| new_search(sk, tp));
    if m.enabled {
        let mss = (tcp_mtu_to_mss(sk, tp, m.search_low) >> 1).min(s.tcp_base_mss.get() as u32);
        let floor = s.tcp_mtu_probe_floor.get().max(s.tcp_min_snd_mss.get()) as u32;
        m.search_low = tcp_mss_to_mtu(tp, mss.max(floor));
    } else {
        (m.enabled, m.probe_timestamp) = (true, tp.jiffies32());
    }
    tp.rare.make().mtup = Some(Box::new(m));
    let pmtu = tp.icsk_pmtu_cookie;
    tcp_sync_mss(sk, tp, pmtu);
}

/// Long after a search has ended the path may have changed: everything is possible again (RFC 4821, 7.2;
/// `tcp_mtu_check_reprobe`).
fn tcp_mtu_check_reprobe(sk: &Sock, tp: &mut TcpSock) {
    let now = tp.jiffies32();
    let wait = sk.net.sysctl.tcp_probe_interval.get() as u64 * kernel::HZ;
    let began = tp.rare.mtup.as_ref().map_or(now, |m| m.probe_timestamp);
    if (now.wrapping_sub(began) as u64) < wait {
        return;
    }
    let mss = tcp_current_mss(sk, tp);
    let fresh = IcskMtup { search_low: tcp_mss_to_mtu(tp, mss), ..new_search(sk, tp) };
    if let Some(m) = tp.rare.if_used().and_then(|r| r.mtup.as_mut()) {
        **m = IcskMtup { probe_timestamp: now, enabled: true, ..fresh };
    }
}

/// Makes a probe of the data that waits, if it is time for one (RFC 4821, 7.3 and 7.4; `tcp_mtu_probe`).
pub fn tcp_mtu_probe(sk: &Sock, tp: &mut TcpSock) -> MtuProbe {
    let Some(m) = tp.rare.mtup.as_deref().copied().filter(|m| m.enabled && m.probe_size == 0) else {
        return MtuProbe::No;
    };
    let calm = tp.ca_state == TcpCaState::Open && tp.rx_opt.num_sacks == 0 && tp.ofo.duplicate_sack.is_none();
    if !calm || tp.snd_cwnd < MIN_CWND {
        return MtuProbe::No;
    }
    let size = tcp_mtu_to_mss(sk, tp, (m.search_high + m.search_low) >> 1);
    let threshold = sk.net.sysctl.tcp_probe_threshold.get() as u32;
    let found = m.search_high.saturating_sub(m.search_low) < threshold;
    if found || size > tcp_mtu_to_mss(sk, tp, m.search_high) {
        tcp_mtu_check_reprobe(sk, tp);
        return MtuProbe::No;
    }
    // Enough must follow the probe to show that only it was lost.
    let needed = size + (tp.reordering + 1).saturating_mul(tp.mss_cache);
    if tp.write_seq.wrapping_sub(tp.snd_nxt) < needed || tp.snd_wnd < needed {
        return MtuProbe::No;
    }
    if after(tp.snd_nxt.wrapping_add(needed), tp.wnd_end()) {
        return MtuProbe::Wait;
    }
    let in_flight = tp.packets_in_flight();
    if in_flight + 2 > tp.snd_cwnd {
        return if in_flight == 0 { MtuProbe::No } else { MtuProbe::Wait };
    }
    if gather(sk, tp, size) { MtuProbe::Ready } else { MtuProbe::No }
}

/// Makes the first piece to be sent exactly `size` bytes and one segment, of those that wait. `false`: they are in too many
/// fragments, or must not be joined; the queue may have been cut, which does no harm.
fn gather(sk: &Sock, tp: &mut TcpSock, size: u32) -> bool {
    let head = tp.tx.head_index();
    let (mut bytes, mut frags, mut i) = (0, 0, head);
    while bytes < size {
        let Some(s) = tp.tx.get(i) else { return false };
        bytes += s.len;
        frags += s.frags.len();
        if frags > MAX_TX_FRAGS || (bytes < size && (s.eor || s.has(tcp_flag::FIN))) {
            return false;
        }
        i += 1;
    }
    while let Some(have) = tp.tx.get(head).map(|s| s.len) {
        if have == size {
            break;
        }
        let enough = have > size || tp.tx.get(head + 1).is_some_and(|s| have + s.len > size);
        // What is too much is cut off behind the probe.
        let (at, len) = if have > size { (head, size) } else { (head + 1, size - have) };
        if enough && !tcp_fragment(sk, tp, at, len, size) {
            return false;
        }
        if have < size && !join_next(sk, tp, head) {
            return false;
        }
    }
    let Some(s) = tp.tx.get_mut(head) else { return false };
    (s.gso_segs, s.gso_size) = (1, 0);
    true
}

/// Moves the piece behind piece `i`, also unsent, to its end.
fn join_next(sk: &Sock, tp: &mut TcpSock, i: usize) -> bool {
    let Some(next) = tp.tx.remove(i + 1) else { return false };
    let freed = (next.truesize - next.len) as usize;
    let Some(s) = tp.tx.get_mut(i) else { return false };
    for f in next.frags {
        if !s.add_frag(f) {
            // Counted before; there is room.
            return false;
        }
    }
    s.end_seq = next.end_seq;
    s.tcp_flags |= next.tcp_flags;
    s.eor = next.eor;
    sk.wmem_queued.fetch_sub(freed, AcqRel);
    true
}

/// The piece just sent, up to `end_seq`, was the probe.
pub fn tcp_mtu_probe_sent(tp: &mut TcpSock, start_seq: u32, end_seq: u32) {
    // It costs a segment of the window, though the probe is larger: it is in flight instead of what it holds.
    tcp_snd_cwnd_set(tp, (tp.snd_cwnd - 1).max(1));
    let size = tcp_mss_to_mtu(tp, end_seq.wrapping_sub(start_seq));
    if let Some(m) = tp.rare.if_used().and_then(|r| r.mtup.as_mut()) {
        (m.probe_size, m.probe_seq_start, m.probe_seq_end) = (size, start_seq, end_seq);
    }
}

/// After a cumulative ACK: if it covers the probe, the path takes packets of that size (`tcp_mtup_probe_success`).
#[inline]
pub fn tcp_mtup_probe_acked(sk: &Sock, tp: &mut TcpSock) {
    if let Some(m) = tp.rare.mtup.as_deref()
        && m.probe_size != 0
        && !after(m.probe_seq_end, tp.snd_una)
    {
        tcp_mtup_probe_success(sk, tp, m.probe_size);
    }
}

#[cold]
fn tcp_mtup_probe_success(sk: &Sock, tp: &mut TcpSock, size: u32) {
    // The window counts segments, which are larger now.
    let cwnd = tp.snd_cwnd as u64 * tcp_mss_to_mtu(tp, tp.mss_cache) as u64 / size as u64;
    tcp_snd_cwnd_set(tp, cwnd.clamp(1, u32::MAX as u64) as u32);
    tp.snd_cwnd_cnt = 0;
    tp.snd_cwnd_stamp = tp.jiffies32();
    tp.snd_ssthresh = tcp_current_ssthresh(tp);
    if let Some(m) = tp.rare.if_used().and_then(|r| r.mtup.as_mut()) {
        (m.search_low, m.probe_size) = (size, 0);
    }
    let pmtu = tp.icsk_pmtu_cookie;
    tcp_sync_mss(sk, tp, pmtu);
    sk.net.mib.inc(Mib::TcpExtTCPMTUPSuccess);
}

/// The path does not take the probe if it alone is missing: `true`, and the search goes on below (`tcp_mtup_probe_failed`).
pub fn tcp_mtup_probe_failed(sk: &Sock, tp: &mut TcpSock) -> bool {
    let (state, una) = (tp.ca_state, tp.snd_una);
    let Some(m) = tp.rare.if_used().and_then(|r| r.mtup.as_mut()) else { return false };
    if state >= TcpCaState::Cwr || m.probe_size == 0 || una != m.probe_seq_start {
        return false;
    }
    m.search_high = m.probe_size - 1;
    m.probe_size = 0;
    sk.net.mib.inc(Mib::TcpExtTCPMTUPFail);
    // Not congestion: what the probe had cost is given back.
    tcp_snd_cwnd_set(tp, tp.snd_cwnd + 1);
    true
}

/// Something else is sent again while a probe is under way: it proves nothing.
#[inline]
pub fn tcp_mtup_inconclusive(tp: &mut TcpSock) {
    if let Some(m) = tp.rare.if_used().and_then(|r| r.mtup.as_mut()) {
        m.probe_size = 0;
    }
}
