//! What a sender is told about its bytes: zero-copy sends that are done, and when a byte was queued, sent, acknowledged.
//!
//! Interface: [`tcp_zerocopy_sent`], [`tcp_tx_timestamp`], [`tcp_set_timestamping`], [`tcp_notify_sent`], [`tcp_notify_acked`],
//! [`tcp_notify_purged`].
//! Linux counterpart: `msg_zerocopy_realloc`, `__msg_zerocopy_callback`, `__skb_tstamp_tx` in `net/core/skbuff.c`,
//! `tcp_tx_timestamp`, `tcp_ack_tstamp`.
//! Locks and context: socket lock; process or softirq context.
//!
//! A message sent with `MSG_ZEROCOPY` is copied here, as Linux copies it on the way to a local receiver, and its report says so
//! (`SO_EE_CODE_ZEROCOPY_COPIED`). It comes when the last byte is acknowledged, as the pages would be free only then.

use super::errqueue::Report;
use super::inet_hashtables::inet_csk;
use super::tcp_queue::{after, before};
use super::tcp_sock::{TcpSock, TxNotify};
use crate::core::iov_iter::MsgHdr;
use crate::core::sock::{Sock, SockFlags};
use uapi::socket::MSG_ZEROCOPY;
use uapi::tcp::TcpState;
use uapi::{Errno, Result};

/// `SOF_TIMESTAMPING_*`.
const TX_HARDWARE: u32 = 1 << 0;
const TX_SOFTWARE: u32 = 1 << 1;
const RX_HARDWARE: u32 = 1 << 2;
const SOFTWARE: u32 = 1 << 4;
const SYS_HARDWARE: u32 = 1 << 5;
const RAW_HARDWARE: u32 = 1 << 6;
const OPT_ID: u32 = 1 << 7;
const TX_SCHED: u32 = 1 << 8;
const TX_ACK: u32 = 1 << 9;
const OPT_CMSG: u32 = 1 << 10;
const OPT_TSONLY: u32 = 1 << 11;
const OPT_ID_TCP: u32 = 1 << 16;
/// What this stack knows. No device here has a clock, so the bits for hardware ask for what never comes.
const KNOWN: u32 = TX_HARDWARE
    | TX_SOFTWARE
    | RX_HARDWARE
    | SOFTWARE
    | SYS_HARDWARE
    | RAW_HARDWARE
    | OPT_ID
    | TX_SCHED
    | TX_ACK
    | OPT_CMSG
    | OPT_TSONLY
    | OPT_ID_TCP;
/// `SOF_TIMESTAMPING_LAST`'s mask: further bits are no option.
const ALL: u32 = (1 << 19) - 1;

/// `SCM_TSTAMP_*`.
const TSTAMP_SND: u32 = 0;
const TSTAMP_SCHED: u32 = 1;
const TSTAMP_ACK: u32 = 2;

/// Messages and bytes that may be waited for at a time.
const MAX_PENDING: usize = 1024;

/// Whether this call is a zero-copy send; makes room to note it. `ENOBUFS` when too many are on their way.
#[inline]
pub fn tcp_zerocopy_wanted(sk: &Sock, tp: &mut TcpSock, msg: &MsgHdr<'_>) -> Result<bool> {
    if msg.flags & MSG_ZEROCOPY == 0 || !sk.flag(SockFlags::ZEROCOPY) || msg.done + msg.iter.count() == 0 {
        return Ok(false);
    }
    match tp.rare.make().tx_notify.get_or_insert_default().zerocopy.len() < MAX_PENDING {
        true => Ok(true),
        false => Err(Errno::ENOBUFS),
    }
}

/// A zero-copy message has been queued, up to `write_seq`. It may have been acknowledged by now.
pub fn tcp_zerocopy_sent(sk: &Sock, tp: &mut TcpSock) {
    let end = tp.write_seq;
    let n = tp.rare.make().tx_notify.get_or_insert_default();
    n.zerocopy.push_back((end, n.zckey));
    n.zckey = n.zckey.wrapping_add(1);
    tcp_notify_acked(sk, tp);
}

/// A message has been queued: its last byte is to be reported, if the socket asks for it (`tcp_tx_timestamp`).
#[inline]
pub fn tcp_tx_timestamp(tp: &mut TcpSock) {
    let Some(n) = tp
        .rare
        .if_used()
        .and_then(|r| r.tx_notify.as_mut())
        .filter(|n| n.tsflags & (TX_SCHED | TX_SOFTWARE | TX_ACK) != 0)
    else {
        return;
    };
    let Some(tail) = tp.tx.write_back() else { return };
    // A packet carries one key: that of the last message in it.
    if n.stamps.back().is_some_and(|&(seq, sent)| !sent && !before(seq, tail.seq)) {
        n.stamps.pop_back();
    }
    if n.stamps.len() < MAX_PENDING {
        n.stamps.push_back((tp.write_seq.wrapping_sub(1), false));
    }
}

/// `SO_TIMESTAMPING`. `EINVAL` for what is no flag, or for counting bytes of a socket without a connection; `EOPNOTSUPP` for
/// what is not there: receive timestamps, statistics.
pub fn tcp_set_timestamping(sk: &Sock, tp: &mut TcpSock, flags: u32) -> Result<()> {
    if flags & !ALL != 0 || flags & (OPT_ID_TCP | OPT_ID) == OPT_ID_TCP {
        return Err(Errno::EINVAL);
    }
    if flags & !KNOWN != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if flags == 0 && tp.rare.tx_notify.is_none() {
        return Ok(());
    }
    let (una, end) = (tp.snd_una, tp.write_seq);
    let n = tp.rare.make().tx_notify.get_or_insert_default();
    if flags & OPT_ID != 0 && n.tsflags & OPT_ID == 0 {
        if matches!(sk.state(), TcpState::Close | TcpState::Listen) {
            return Err(Errno::EINVAL);
        }
        n.tskey = if flags & OPT_ID_TCP != 0 { end } else { una };
    }
    n.tsflags = flags;
    Ok(())
}

/// The socket's `SOF_TIMESTAMPING_*`.
pub fn tcp_timestamping(tp: &TcpSock) -> u32 {
    tp.rare.tx_notify.as_ref().map_or(0, |n| n.tsflags)
}

fn stamp(sk: &Sock, n: &TxNotify, what: u32, seq: u32, payload: &[u8]) {
    let time = (n.tsflags & SOFTWARE != 0).then(|| sk.net.kernel().arch().ktime_get_real());
    let key = if n.tsflags & OPT_ID != 0 { seq.wrapping_sub(n.tskey) } else { 0 };
    let payload = if n.tsflags & OPT_TSONLY != 0 { Vec::new() } else { payload.to_vec() };
    inet_csk(sk).errq.report(Report::Timestamp { what, key, time, payload });
    sk.error_report();
}

/// Bytes up to `snd_nxt` have been handed to the device for the first time.
#[inline]
pub fn tcp_notify_sent(sk: &Sock, tp: &mut TcpSock) {
    if tp.rare.tx_notify.is_some() {
        notify_sent(sk, tp);
    }
}

#[cold]
fn notify_sent(sk: &Sock, tp: &mut TcpSock) {
    let Some(mut n) = tp.rare.if_used().and_then(|r| r.tx_notify.take()) else { return };
    for i in 0..n.stamps.len() {
        let (seq, sent) = n.stamps[i];
        if sent || !before(seq, tp.snd_nxt) {
            continue;
        }
        n.stamps[i].1 = true;
        let quote = quote(tp, seq);
        for (flag, what) in [(TX_SCHED, TSTAMP_SCHED), (TX_SOFTWARE, TSTAMP_SND)] {
            if n.tsflags & flag != 0 {
                stamp(sk, &n, what, seq, &quote);
            }
        }
    }
    tp.rare.make().tx_notify = Some(n);
}

/// The bytes of the packet that byte `seq` is in.
fn quote(tp: &TcpSock, seq: u32) -> Vec<u8> {
    let piece = tp.tx.rtx(tp.tx.rtx_index(seq));
    piece.map_or_else(Vec::new, |s| s.frags.iter().flat_map(|f| f.iter().copied()).collect())
}

/// Bytes up to `snd_una` are acknowledged; called before they are forgotten (`tcp_ack_tstamp`, `sock_zerocopy_put`).
#[inline]
pub fn tcp_notify_acked(sk: &Sock, tp: &mut TcpSock) {
    if tp.rare.tx_notify.is_some() {
        notify_acked(sk, tp);
    }
}

#[cold]
fn notify_acked(sk: &Sock, tp: &mut TcpSock) {
    let Some(mut n) = tp.rare.if_used().and_then(|r| r.tx_notify.take()) else { return };
    while let Some(&(seq, _)) = n.stamps.front().filter(|s| before(s.0, tp.snd_una)) {
        if n.tsflags & TX_ACK != 0 {
            stamp(sk, &n, TSTAMP_ACK, seq, &quote(tp, seq));
        }
        n.stamps.pop_front();
    }
    let una = tp.snd_una;
    tcp_zerocopy_done(sk, &mut n, |end| !after(end, una));
    tp.rare.make().tx_notify = Some(n);
}

/// All that was to be sent is forgotten: the messages are done with, whatever became of them.
pub fn tcp_notify_purged(sk: &Sock, tp: &mut TcpSock) {
    if let Some(mut n) = tp.rare.if_used().and_then(|r| r.tx_notify.take()) {
        n.stamps.clear();
        tcp_zerocopy_done(sk, &mut n, |_| true);
        tp.rare.make().tx_notify = Some(n);
    }
}

fn tcp_zerocopy_done(sk: &Sock, n: &mut TxNotify, done: impl Fn(u32) -> bool) {
    let Some(&(_, lo)) = n.zerocopy.front().filter(|m| done(m.0)) else { return };
    let mut hi = lo;
    while let Some(&(_, id)) = n.zerocopy.front().filter(|m| done(m.0)) {
        hi = id;
        n.zerocopy.pop_front();
    }
    inet_csk(sk).errq.report(Report::Zerocopy { lo, hi });
    sk.error_report();
}
