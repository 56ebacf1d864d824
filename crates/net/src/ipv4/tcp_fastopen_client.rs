//! Fast Open's client (RFC 7413, 4.1.3): the SYN that carries data, and what the SYN-ACK makes of it.
//!
//! Interface: [`tcp_send_syn_data`], [`tcp_fastopen_begin`], [`tcp_fastopen_end`].
//! Linux counterpart: `tcp_send_syn_data` in `net/ipv4/tcp_output.c`, `tcp_sendmsg_fastopen` in `tcp.c`.
//! Locks and context: socket lock; process context.

use super::tcp_fastopen::*;
use super::tcp_fastopen_cookie::FastopenCookie;
use super::tcp_mss::{__tcp_mtu_to_mss, tcp_sync_mss};
use super::tcp_queue::{TX_SKB_OVERHEAD, TxSkb};
use super::tcp_sock::*;
use super::tcp_transmit::{tcp_packet_of, tcp_transmit_skb, tcp_xmit_piece};
use super::tcp_tx_notify::{tcp_zerocopy_sent, tcp_zerocopy_wanted};
use crate::core::iov_iter::MsgHdr;
use crate::core::snmp::Mib;
use crate::core::sock::{ProtoSock, Sock, SockFlags};
use crate::hdr::tcp_flag;
use kernel::Frag;
use std::sync::Arc;
use std::sync::atomic::Ordering::AcqRel;
use uapi::socket::MSG_DONTWAIT;
use uapi::{Errno, Result, SockAddr};

/// More than any SYN takes.
const MAX_SYN_DATA: usize = 65535;

/// A message is to open the connection: its first bytes are kept for the SYN. `EOPNOTSUPP` when clients may not, `EALREADY`
/// (`tcp_sendmsg_fastopen`).
pub fn tcp_fastopen_begin(sk: &Arc<Sock>, state: &mut dyn ProtoSock, msg: &MsgHdr<'_>) -> Result<()> {
    let tp = tcp_sk(state);
    let enabled = sk.net.sysctl.tcp_fastopen.get() & TFO_CLIENT_ENABLE != 0;
    if !enabled || matches!(msg.name, Some(SockAddr::Unspec)) {
        return Err(Errno::EOPNOTSUPP);
    }
    if handshake(tp).fastopen_req.is_some() {
        return Err(Errno::EALREADY);
    }
    let zerocopy = tcp_zerocopy_wanted(sk, tp, msg)?;
    let bytes = msg.iter.peek(MAX_SYN_DATA);
    let data = (!bytes.is_empty()).then(|| Frag::copy_of(&bytes));
    let waits = msg.flags & MSG_DONTWAIT == 0;
    handshake(tp).fastopen_req = Some(FastopenReq { data, size: msg.iter.count(), copied: 0, waits, zerocopy });
    Ok(())
}

/// The attempt is over; bytes of the message that went with the SYN. In progress (`EINPROGRESS`), they are all of it that is
/// sent, and what a zero-copy send is told about.
pub fn tcp_fastopen_end(sk: &Arc<Sock>, state: &mut dyn ProtoSock, opened: Result<()>) -> usize {
    let tp = tcp_sk(state);
    let Some(req) = tp.hs_mut().and_then(|h| h.fastopen_req.take()) else { return 0 };
    sk.set_flag(SockFlags::DEFER_CONNECT, false);
    if req.zerocopy && req.copied > 0 && opened == Err(Errno::EINPROGRESS) {
        tcp_zerocopy_sent(sk, tp);
    }
    req.copied
}

/// Sends the SYN, which is piece 0 of the queue, with data behind it if the server's cookie is known; else one that asks for
/// a cookie. Pieces that went out are left for the caller to account: how many.
pub fn tcp_send_syn_data(sk: &Arc<Sock>, tp: &mut TcpSock) -> (Result<()>, usize) {
    let (ok, cached_mss, mut cookie) = tcp_fastopen_cookie_check(sk, tp);
    if ok {
        tp.rx_opt.mss_clamp = if cached_mss != 0 { cached_mss } else { tp.advmss };
        if tp.rx_opt.user_mss != 0 {
            tp.rx_opt.mss_clamp = tp.rx_opt.mss_clamp.min(tp.rx_opt.user_mss);
        }
        let pmtu = tp.icsk_pmtu_cookie;
        tcp_sync_mss(sk, tp, pmtu);
        handshake(tp).fastopen_cookie = cookie;
        if let Some(r) = send_with_data(sk, tp) {
            handshake(tp).fastopen_cookie = FastopenCookie::NONE;
            return (r, 2);
        }
    }
    if cookie.len > 0 && handshake(tp).fastopen_req.as_ref().is_none_or(|r| r.size != 0) {
        // The data could not go: ask as if nothing were known.
        cookie.len = 0;
    }
    handshake(tp).fastopen_cookie = cookie;
    let r = tcp_xmit_piece(sk, tp, 0);
    let h = handshake(tp);
    h.syn_fastopen &= r.is_ok();
    // Repetitions go without (RFC 7413, 4.1.3.1).
    h.fastopen_cookie = FastopenCookie::NONE;
    (r, 1)
}

/// `None`: there is nothing to send, or it could not be sent and waits behind the SYN.
fn send_with_data(sk: &Arc<Sock>, tp: &mut TcpSock) -> Option<Result<()>> {
    let pmtu = tp.icsk_pmtu_cookie;
    // Boxes on the path may add options of their own: room for all is left, our own among them.
    let space = (__tcp_mtu_to_mss(sk, tp, pmtu) as usize).saturating_sub(MAX_TCP_OPTION_SPACE);
    let v6 = tp.is_v6();
    let isn = tp.write_seq.wrapping_sub(1);
    let now = tp.tcp_mstamp;
    let req = handshake(tp).fastopen_req.as_mut()?;
    let data = req.data.take()?;
    let n = space.min(data.len());
    if n == 0 {
        return None;
    }
    req.copied = n;
    let mut piece = TxSkb {
        seq: isn.wrapping_add(1),
        end_seq: isn.wrapping_add(1 + n as u32),
        tcp_flags: tcp_flag::ACK | tcp_flag::PSH,
        gso_segs: 1,
        truesize: TX_SKB_OVERHEAD,
        copies: 1,
        mstamp: now,
        ..TxSkb::default()
    };
    piece.add_frag(data.slice(0, n));
    sk.wmem_queued.fetch_add(TX_SKB_OVERHEAD as usize + n, AcqRel);
    tp.write_seq = tp.write_seq.wrapping_add(n as u32);
    let skb = tcp_packet_of(&piece, v6);
    tp.tx.push_back(Box::new(piece));
    let syn_flags = tp.tx.get(0).map_or(tcp_flag::SYN, |s| s.tcp_flags);
    tp.first_tx_mstamp = now;
    tp.delivered_mstamp = now;
    let r = tcp_transmit_skb(sk, tp, skb, isn, syn_flags);
    if let Some(syn) = tp.tx.get_mut(0) {
        syn.mstamp = now;
    }
    if r.is_err() {
        return None;
    }
    handshake(tp).syn_data = true;
    sk.net.mib.inc(Mib::TcpExtTCPOrigDataSent);
    Some(r)
}
