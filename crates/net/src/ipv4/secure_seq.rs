//! Numbers an attacker must not guess: initial sequence numbers, timestamp offsets, SYN cookies.
//!
//! Interface: [`secure_tcp_seq`], [`secure_tcp_ts_off`], [`cookie_init_sequence`], [`cookie_check`].
//! Linux counterpart: `net/core/secure_seq.c`, `net/ipv4/syncookies.c`.
//! Locks and context: pure functions of the namespace's key and the clock.

use crate::core::net_namespace::Net;
use crate::ipv4::inet_sock::InetTuple;
use kernel::HZ;

/// What keeps the namespace's keyed hashes of one tuple apart.
const SALT_ISN: u32 = 1;
const SALT_TS: u32 = 2;
const SALT_COOKIE: u32 = 3;

/// The initial sequence number of a connection (RFC 6528): a keyed hash of its coordinates, plus a clock of 64 ns.
pub fn secure_tcp_seq(net: &Net, t: &InetTuple) -> u32 {
    net.hash(&(SALT_ISN, t)).wrapping_add((net.kernel().ktime_get() >> 6) as u32)
}

/// What is added to our clock in the timestamps of a connection (RFC 7323, 5.4): the same whenever these ports of these hosts
/// meet, so that PAWS holds from one connection to the next. Other ports tell nobody what it is.
pub fn secure_tcp_ts_off(net: &Net, t: &InetTuple) -> u32 {
    if net.sysctl.tcp_timestamps.get() != 1 {
        return 0;
    }
    net.hash(&(SALT_TS, t))
}

/// Our clock in timestamps, milliseconds, without offset (`tcp_time_stamp_ms`).
pub fn tcp_clock_ms(net: &Net) -> u32 {
    (net.kernel().ktime_get() / 1_000_000) as u32
}

// --- SYN cookies: the request is kept by the peer ---

const COOKIEBITS: u32 = 24;
const COOKIEMASK: u32 = (1 << COOKIEBITS) - 1;
/// Cookies live for so many minutes at most.
const MAX_SYNCOOKIE_AGE: u32 = 2;
/// How long after an overflow cookies are believed, in milliseconds.
pub const TCP_SYNCOOKIE_VALID: u64 = MAX_SYNCOOKIE_AGE as u64 * 60 * HZ;

/// The MSS values that a cookie can stand for.
const MSSTAB: [u16; 4] = [536, 1300, 1440, 1460];
const MSSTAB6: [u16; 4] = [1220, 1420, 1440, 8940];

/// The low bits of a timestamp that carry options while a cookie stands for a request.
const TSBITS: u32 = 6;
const TS_OPT_WSCALE_MASK: u32 = 0xf;
const TS_OPT_SACK: u32 = 1 << 4;
const TS_OPT_ECN: u32 = 1 << 5;

/// Options that a cookie's timestamp carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CookieOpts {
    pub snd_wscale: Option<u8>,
    pub sack_ok: bool,
    pub ecn_ok: bool,
}

fn msstab(t: &InetTuple) -> &'static [u16; 4] {
    if t.laddr.is_ipv4() { &MSSTAB } else { &MSSTAB6 }
}

fn cookie_hash(net: &Net, t: &InetTuple, count: u32, which: u32) -> u32 {
    net.hash(&(SALT_COOKIE, t, count, which))
}

fn cookie_time(net: &Net) -> u32 {
    (net.kernel().jiffies() / (60 * HZ)) as u32
}

/// The sequence number that stands for a request with the peer's number `sseq` and MSS, and the MSS it comes to
/// (`__cookie_v4_init_sequence`).
pub fn cookie_init_sequence(net: &Net, t: &InetTuple, sseq: u32, mss: u16) -> (u32, u16) {
    let tab = msstab(t);
    let ind = tab.iter().rposition(|&m| m <= mss).unwrap_or(0);
    let count = cookie_time(net);
    let secret = cookie_hash(net, t, count, 1).wrapping_add(ind as u32) & COOKIEMASK;
    let base = cookie_hash(net, t, 0, 0).wrapping_add(sseq).wrapping_add(count << COOKIEBITS);
    (base.wrapping_add(secret), tab[ind])
}

/// The MSS that `cookie` stands for, if we made it within the last two minutes for these coordinates (`__cookie_v4_check`).
pub fn cookie_check(net: &Net, t: &InetTuple, sseq: u32, cookie: u32) -> Option<u16> {
    let count = cookie_time(net);
    let rest = cookie.wrapping_sub(cookie_hash(net, t, 0, 0).wrapping_add(sseq));
    let age = count.wrapping_sub(rest >> COOKIEBITS) & (u32::MAX >> COOKIEBITS);
    if age >= MAX_SYNCOOKIE_AGE {
        return None;
    }
    let ind = rest.wrapping_sub(cookie_hash(net, t, count.wrapping_sub(age), 1)) & COOKIEMASK;
    msstab(t).get(ind as usize).copied()
}

/// Our clock with options in its low bits, never ahead of the clock (`cookie_init_timestamp`).
pub fn cookie_init_timestamp(net: &Net, o: CookieOpts) -> u32 {
    let now = tcp_clock_ms(net);
    let mut bits = o.snd_wscale.map_or(TS_OPT_WSCALE_MASK, |w| w as u32 & TS_OPT_WSCALE_MASK);
    if o.sack_ok {
        bits |= TS_OPT_SACK;
    }
    if o.ecn_ok {
        bits |= TS_OPT_ECN;
    }
    let ts = (now >> TSBITS) << TSBITS | bits;
    if ts > now { ts.wrapping_sub(1 << TSBITS) } else { ts }
}

/// The options in the echo of such a timestamp, its offset already taken off (`cookie_timestamp_decode`).
pub fn cookie_timestamp_decode(ts: u32) -> CookieOpts {
    let wscale = ts & TS_OPT_WSCALE_MASK;
    CookieOpts {
        snd_wscale: (wscale != TS_OPT_WSCALE_MASK).then_some(wscale as u8),
        sack_ok: ts & TS_OPT_SACK != 0,
        ecn_ok: ts & TS_OPT_ECN != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipv4::test_support::{TestNet, tuple};

    #[test]
    fn a_cookie_is_known_again_for_a_while() {
        let t = TestNet::new();
        let here = tuple("10.0.0.1", 80, "10.0.0.2", 1000);
        let (cookie, mss) = cookie_init_sequence(&t.net, &here, 7, 1459);
        assert_eq!(mss, 1440);
        assert_eq!(cookie_check(&t.net, &here, 7, cookie), Some(1440));
        assert_eq!(cookie_check(&t.net, &here, 1000, cookie), None, "another sequence number");
        let other = tuple("10.0.0.1", 80, "10.0.0.3", 1000);
        assert_eq!(cookie_check(&t.net, &other, 7, cookie), None, "another peer");
        t.advance(60_000);
        assert_eq!(cookie_check(&t.net, &here, 7, cookie), Some(1440));
        t.advance(60_000);
        assert_eq!(cookie_check(&t.net, &here, 7, cookie), None, "too old");
    }

    #[test]
    fn a_cookie_s_timestamp_carries_options() {
        let t = TestNet::new();
        t.advance(123_456);
        for snd_wscale in [None, Some(0), Some(7), Some(14)] {
            for (sack_ok, ecn_ok) in [(false, false), (true, false), (false, true), (true, true)] {
                let o = CookieOpts { snd_wscale, sack_ok, ecn_ok };
                let ts = cookie_init_timestamp(&t.net, o);
                assert!(ts <= tcp_clock_ms(&t.net));
                assert_eq!(cookie_timestamp_decode(ts), o);
            }
        }
    }

    #[test]
    fn timestamp_offsets_depend_on_the_connection_and_not_on_time() {
        let t = TestNet::new();
        let (a, b) = (tuple("10.0.0.1", 80, "10.0.0.2", 1000), tuple("10.0.0.1", 80, "10.0.0.2", 1001));
        let off = secure_tcp_ts_off(&t.net, &a);
        assert_ne!(off, secure_tcp_ts_off(&t.net, &b));
        t.advance(1000);
        assert_eq!(off, secure_tcp_ts_off(&t.net, &a));
        t.net.sysctl.tcp_timestamps.set(2).expect("in range");
        assert_eq!(secure_tcp_ts_off(&t.net, &a), 0);
    }

    #[test]
    fn sequence_numbers_depend_on_the_connection_and_grow_with_time() {
        let t = TestNet::new();
        let (a, b) = (tuple("10.0.0.1", 80, "10.0.0.2", 1000), tuple("10.0.0.1", 80, "10.0.0.2", 1001));
        let isn = secure_tcp_seq(&t.net, &a);
        assert_ne!(isn, secure_tcp_seq(&t.net, &b));
        t.advance(1);
        assert_eq!(secure_tcp_seq(&t.net, &a).wrapping_sub(isn), 1_000_000 / 64);
    }
}
