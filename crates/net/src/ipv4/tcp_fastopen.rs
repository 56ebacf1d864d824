//! TCP Fast Open (RFC 7413): cookies and keys, what is known of servers, the black-hole guard, a listener's pending children.
//!
//! Interface: [`tcp_fastopen_cookie_check`], [`tcp_fastopen_cookie_gen_check`], [`tcp_fastopen_queue_check`],
//! [`reqsk_fastopen_remove`], [`tcp_fastopen_defer_connect`], [`tcp_fastopen_active_disable`].
//! Linux counterpart: `net/ipv4/tcp_fastopen.c`.
//! Locks and context: any; the socket lock where a `TcpSock` is changed.
//!
//! The client's SYN with data is sent by `tcp_fastopen_client`, the server's child is made by `tcp_conn_request`.

use crate::core::dev::Iff;
use crate::core::dst_metrics::{DstMetrics, Rtax};
use crate::core::net_namespace::Net;
use crate::core::snmp::Mib;
use crate::core::sock::{Sock, SockFlags};
use crate::hdr::tcp_flag;
use crate::ipv4::inet_hashtables::{inet_csk, tcp_hashinfo};
use crate::ipv4::inet_sock::InetTuple;
use crate::ipv4::tcp_fastopen_cookie::{FastopenCookie, FastopenKeys, TCP_FASTOPEN_KEY_LENGTH};
use crate::ipv4::tcp_metrics::TcpFastopenMetrics;
use crate::ipv4::tcp_sock::{TcpHandshake, TcpSock, tcp_skb_cb};
use kernel::HZ;
use siphasher::sip::SipHasher24;
use std::hash::Hasher;
use std::net::IpAddr;
use std::sync::atomic::Ordering::*;
use uapi::tcp::TcpState;

/// Bits of `net.ipv4.tcp_fastopen`.
pub const TFO_CLIENT_ENABLE: i64 = 1;
pub const TFO_SERVER_ENABLE: i64 = 2;
/// Data in SYNs without a cookie option.
pub const TFO_CLIENT_NO_COOKIE: i64 = 4;
/// SYN data is taken without a cookie.
pub const TFO_SERVER_COOKIE_NOT_REQD: i64 = 0x200;
/// Every listener takes it, with its backlog as the limit.
pub const TFO_SERVER_WO_SOCKOPT1: i64 = 0x400;

/// Why a client did not get its data through in the SYN (`enum tcp_fastopen_client_fail`).
pub const TFO_COOKIE_UNAVAILABLE: u8 = 1;
pub const TFO_DATA_NOT_ACKED: u8 = 2;
pub const TFO_SYN_RETRANSMITTED: u8 = 3;

/// Bytes of a cookie that we make.
const TCP_FASTOPEN_COOKIE_SIZE: usize = 8;

// --- Keys and cookies ---

/// The namespace has a key from now on, of chance if it was given none (`tcp_fastopen_init_key_once`).
pub fn tcp_fastopen_init_key_once(net: &Net) {
    let mut key = net.sysctl.tcp_fastopen_key.lock_bh();
    if key.is_empty() {
        let mut primary = [0; TCP_FASTOPEN_KEY_LENGTH];
        primary.chunks_exact_mut(4).for_each(|w| w.copy_from_slice(&net.kernel().random_u32().to_ne_bytes()));
        *key = FastopenKeys { primary, backup: None }.format();
    }
}

/// Sets how many children a listener may have out of SYNs alone; at most `somaxconn` (`fastopen_queue_tune`).
pub fn tcp_fastopen_queue_tune(sk: &Sock, backlog: u32) {
    tcp_fastopen_init_key_once(&sk.net);
    let max = backlog.min(sk.net.sysctl.somaxconn.get() as u32);
    inet_csk(sk).accept_queue.fastopenq.max_qlen.store(max, Relaxed);
}

/// The keys of a listener: its own, else the namespace's (`tcp_fastopen_get_ctx`).
pub fn tcp_fastopen_keys(sk: &Sock) -> Option<FastopenKeys> {
    let own = *inet_csk(sk).accept_queue.fastopenq.keys.lock_bh();
    let text = |net: &Net| net.sysctl.tcp_fastopen_key.lock_bh().clone();
    own.or_else(|| FastopenKeys::parse(&text(&sk.net)).ok())
}

/// A cookie for a client: a keyed hash of the two addresses (RFC 7413, 4.1.2).
fn cookie_of(key: &[u8; TCP_FASTOPEN_KEY_LENGTH], t: &InetTuple) -> FastopenCookie {
    let mut h = SipHasher24::new_with_key(key);
    for ip in [t.faddr, t.laddr] {
        match ip {
            IpAddr::V4(a) => h.write(&a.octets()),
            IpAddr::V6(a) => h.write(&a.octets()),
        }
    }
    let mut c = FastopenCookie { len: TCP_FASTOPEN_COOKIE_SIZE as i8, ..FastopenCookie::NONE };
    c.val[..TCP_FASTOPEN_COOKIE_SIZE].copy_from_slice(&h.finish().to_le_bytes());
    c
}

/// What a client's cookie is worth.
pub enum CookieWorth {
    Bad,
    Good,
    /// Made with the backup key: here is one of the present key.
    Old(FastopenCookie),
}

/// The cookie for the peer of a SYN (`tcp_fastopen_cookie_gen`).
pub fn tcp_fastopen_cookie_gen(sk: &Sock, t: &InetTuple) -> FastopenCookie {
    tcp_fastopen_keys(sk).map_or(FastopenCookie::NONE, |k| cookie_of(&k.primary, t))
}

/// `tcp_fastopen_cookie_gen_check`; also the cookie that the client ought to have.
pub fn tcp_fastopen_cookie_gen_check(
    sk: &Sock,
    t: &InetTuple,
    theirs: &FastopenCookie,
) -> (CookieWorth, FastopenCookie) {
    let Some(keys) = tcp_fastopen_keys(sk) else { return (CookieWorth::Bad, FastopenCookie::NONE) };
    let ours = cookie_of(&keys.primary, t);
    if ours.bytes() == theirs.bytes() {
        return (CookieWorth::Good, ours);
    }
    let old = keys.backup.is_some_and(|k| cookie_of(&k, t).bytes() == theirs.bytes());
    (if old { CookieWorth::Old(ours) } else { CookieWorth::Bad }, ours)
}

// --- A listener's children that are not yet established ---

/// Whether one more child may be made out of a SYN alone (RFC 7413, 5.1; `tcp_fastopen_queue_check`).
pub fn tcp_fastopen_queue_check(sk: &Sock) -> bool {
    let q = &inet_csk(sk).accept_queue.fastopenq;
    let max = q.max_qlen.load(Relaxed);
    if max == 0 {
        return false;
    }
    let room = q.room(max, sk.net.kernel().jiffies());
    if !room {
        sk.net.mib.inc(Mib::TcpExtTCPFastOpenListenOverflow);
    }
    room
}

/// The child's handshake has ended, one way or the other. After a RST (`reset`) its place stays taken for a minute: whoever
/// sent SYNs from another's address gets that one's RSTs (`reqsk_fastopen_remove`). Socket lock held.
pub fn reqsk_fastopen_remove(tp: &mut TcpSock, reset: bool) {
    let Some(req) = tp.hs_mut().and_then(|h| h.fastopen_rsk.take()) else { return };
    let Some(listener) = req.listener.upgrade() else { return };
    let reset = reset && listener.state() == TcpState::Listen;
    let until = reset.then(|| listener.net.kernel().jiffies() + 60 * HZ);
    inet_csk(&listener).accept_queue.fastopenq.remove(&req, until);
}

/// The child's request, while its handshake goes on (`tp->fastopen_rsk`).
#[inline]
pub fn fastopen_rsk(tp: &TcpSock) -> Option<&std::sync::Arc<crate::ipv4::request_sock::RequestSock>> {
    tp.rare.hs.as_ref().and_then(|h| h.fastopen_rsk.as_ref())
}

/// Whether the socket is a server's whose client may already be answered (`tcp_passive_fastopen`).
pub fn tcp_passive_fastopen(sk: &Sock, tp: &TcpSock) -> bool {
    sk.state() == TcpState::SynRecv && fastopen_rsk(tp).is_some()
}

// --- The client ---

/// What is known of the server (`tcp_fastopen_cache_get`): the MSS (0: unknown) and the cookie.
fn cache_get(sk: &Sock, tp: &TcpSock) -> (u16, FastopenCookie) {
    let m = tcp_hashinfo(&sk.net)
        .metrics
        .with(&sk.net, tp.inet.saddr(), tp.inet.daddr, false, |m| m.fastopen)
        .unwrap_or_default();
    let mut cookie = m.cookie;
    if cookie.len <= 0 && m.try_exp == 1 {
        cookie.exp = true;
    }
    (m.mss, cookie)
}

/// Remembers what a SYN-ACK said (`tcp_fastopen_cache_set`).
pub fn tcp_fastopen_cache_set(sk: &Sock, tp: &TcpSock, mss: u16, cookie: &FastopenCookie, syn_lost: bool, try_exp: u8) {
    let now = sk.net.kernel().jiffies();
    tcp_hashinfo(&sk.net).metrics.with(&sk.net, tp.inet.saddr(), tp.inet.daddr, true, |m| {
        let f: &mut TcpFastopenMetrics = &mut m.fastopen;
        if mss != 0 {
            f.mss = mss;
        }
        if cookie.len > 0 {
            f.cookie = *cookie;
        } else if try_exp > f.try_exp && f.cookie.len <= 0 && !f.cookie.exp {
            f.try_exp = try_exp;
        }
        if syn_lost {
            f.syn_loss = f.syn_loss.saturating_add(1);
            f.last_syn_loss = now;
        } else {
            f.syn_loss = 0;
        }
    });
}

/// Whether no cookie is needed, by either the side's bit of the sysctl, the socket's option or the route
/// (`tcp_fastopen_no_cookie`).
pub fn tcp_fastopen_no_cookie(sk: &Sock, tp: &TcpSock, route: Option<&DstMetrics>, bit: i64) -> bool {
    let by_route = route.is_some_and(|r| r.get(Rtax::FastopenNoCookie) != 0);
    by_route || sk.net.sysctl.tcp_fastopen.get() & bit != 0 || tp.rare.hs.as_ref().is_some_and(|h| h.fastopen_no_cookie)
}

/// Whether data may go into the SYN, with which cookie (`len` -1: none, 0: it asks for one), and the server's MSS if known
/// (`tcp_fastopen_cookie_check`). Socket lock held, route and addresses set.
pub fn tcp_fastopen_cookie_check(sk: &Sock, tp: &mut TcpSock) -> (bool, u16, FastopenCookie) {
    let (mss, cookie) = cache_get(sk, tp);
    if tcp_fastopen_active_should_disable(sk, tp) {
        return (false, mss, FastopenCookie::NONE);
    }
    if tcp_fastopen_no_cookie(sk, tp, tp.rare.route.as_deref(), TFO_CLIENT_NO_COOKIE) {
        return (true, mss, FastopenCookie::NONE);
    }
    if cookie.len > 0 {
        return (true, mss, cookie);
    }
    handshake(tp).fastopen_client_fail = TFO_COOKIE_UNAVAILABLE;
    (false, mss, cookie)
}

/// The rarely needed part of the state.
pub fn handshake(tp: &mut TcpSock) -> &mut TcpHandshake {
    tp.rare.make().hs.get_or_insert_default()
}

/// `TCP_FASTOPEN_CONNECT` is on: `true` if `connect` has nothing to send, as the first write will carry the SYN
/// (`tcp_fastopen_defer_connect`).
pub fn tcp_fastopen_defer_connect(sk: &Sock, tp: &mut TcpSock) -> bool {
    if !tp.rare.hs.as_ref().is_some_and(|h| h.fastopen_connect && h.fastopen_req.is_none()) {
        return false;
    }
    let (ok, _, cookie) = tcp_fastopen_cookie_check(sk, tp);
    if ok {
        sk.set_flag(SockFlags::DEFER_CONNECT, true);
        return true;
    }
    // The SYN asks for a cookie.
    let h = handshake(tp);
    h.fastopen_cookie = cookie;
    h.fastopen_req = Some(Default::default());
    false
}

// --- The black-hole guard (RFC 7413, 4.1.3 and 7.1: fall back where boxes on the path eat it) ---

/// Fast Open has failed in a way that points at the path: clients hold back, for longer each time
/// (`tcp_fastopen_active_disable`).
pub fn tcp_fastopen_active_disable(net: &Net) {
    if !net.sysctl.tcp_fastopen_blackhole_timeout.on() {
        return;
    }
    let f = &tcp_hashinfo(net).fastopen;
    f.disable_stamp.store(net.kernel().jiffies(), Relaxed);
    f.disable_times.fetch_add(1, Release);
    net.mib.inc(Mib::TcpExtTCPFastOpenBlackhole);
}

/// Whether clients hold back; when that is just over, the first success ends it (`tcp_fastopen_active_should_disable`).
fn tcp_fastopen_active_should_disable(sk: &Sock, tp: &mut TcpSock) -> bool {
    let timeout = sk.net.sysctl.tcp_fastopen_blackhole_timeout.get() as u64;
    let f = &tcp_hashinfo(&sk.net).fastopen;
    let times = f.disable_times.load(Acquire);
    if timeout == 0 || times == 0 {
        return false;
    }
    let hold = (timeout * HZ) << (times - 1).min(6);
    if sk.net.kernel().jiffies() < f.disable_stamp.load(Relaxed) + hold {
        return true;
    }
    handshake(tp).syn_fastopen_ch = true;
    false
}

/// The connection ends: a lone FIN beyond a hole says that its data was eaten; data that came, that all is well
/// (`tcp_fastopen_active_disable_ofo_check`).
pub fn tcp_fastopen_active_disable_ofo_check(sk: &Sock, tp: &TcpSock) {
    let Some(h) = tp.rare.hs.as_ref().filter(|h| h.syn_fastopen) else { return };
    if tp.data_segs_in == 0 {
        let mut ofo = tp.ofo.out_of_order_queue.values();
        if let (Some(only), None) = (ofo.next(), ofo.next())
            && tcp_skb_cb(only).tcp_flags & tcp_flag::FIN != 0
        {
            tcp_fastopen_active_disable(&sk.net);
        }
    } else if h.syn_fastopen_ch {
        let dst = sk.dst_cache.lock_bh();
        let loopback = dst.as_ref().is_some_and(|d| d.dev.flags().contains(Iff::LOOPBACK));
        if !loopback {
            tcp_hashinfo(&sk.net).fastopen.disable_times.store(0, Release);
        }
    }
}

/// Third timeout in a row, or the last one, of a connection that used Fast Open (`tcp_fastopen_active_detect_blackhole`).
pub fn tcp_fastopen_active_detect_blackhole(sk: &Sock, tp: &TcpSock, expired: bool) {
    let n = tp.icsk_retransmits;
    let used = tp.rare.hs.as_ref().is_some_and(|h| h.syn_fastopen || h.syn_data || h.syn_data_acked);
    if used && (n == 2 || (n < 2 && expired)) {
        tcp_fastopen_active_disable(&sk.net);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipv4::test_support::tuple;

    #[test]
    fn cookies_are_the_kernel_s() {
        // What Linux makes of this key for these addresses: any client's cookie stays good when a server changes to us.
        let key = FastopenKeys::parse("a1a1a1a1-b2b2b2b2-c3c3c3c3-d4d4d4d4").unwrap();
        let v4 = cookie_of(&key.primary, &tuple("192.168.0.1", 8080, "192.0.2.1", 1));
        assert_eq!(v4.bytes(), [0x30, 0x21, 0xb9, 0xd8, 0x89, 0x01, 0x7e, 0xeb]);
    }
}
