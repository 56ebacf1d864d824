//! The options of level SOL_SOCKET.
//!
//! Interface: [`sock_setsockopt`], [`sock_getsockopt`], and what option code shares: [`int_option`], [`unsupported`].
//! Linux counterpart: `sk_setsockopt`, `sk_getsockopt` in `net/core/sock.c`.
//! Locks and context: process context.
//!
//! An option that the stack does not honour is refused with `ENOPROTOOPT` and counted, never accepted and ignored.

use crate::core::dev::{dev_get_by_index, dev_get_by_name};
use crate::core::snmp::Mib;
use crate::core::sock::{SOCK_MIN_RCVBUF, SOCK_MIN_SNDBUF, Sock, SockFlags};
use crate::core::sock_rare::NO_TIMEOUT;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use uapi::socket::*;
use uapi::tcp::TcpState;
use uapi::{Errno, Result};

pub const SO_MAX_PACING_RATE: i32 = 47;
const SO_MEMINFO: i32 = 55;
const SO_COOKIE: i32 = 57;
const SO_BINDTOIFINDEX: i32 = 62;
const SO_TIMESTAMP_NEW: i32 = 63;
const SO_TIMESTAMPNS_NEW: i32 = 64;
const SO_BUF_LOCK: i32 = 72;
/// `SO_TIMESTAMPING_OLD`, `SO_TIMESTAMPING_NEW`.
pub const SO_TIMESTAMPING: i32 = 37;
pub const SO_TIMESTAMPING_NEW: i32 = 65;
/// `IFNAMSIZ`.
const IFNAMSIZ: usize = 16;
const NSEC_PER_SEC: u64 = 1_000_000_000;

/// `ENOPROTOOPT`, counted.
#[cold]
pub fn unsupported<T>(sk: &Sock) -> Result<T> {
    sk.net.mib.inc(Mib::SockOptUnsupported);
    Err(Errno::ENOPROTOOPT)
}

/// An `int` at the start of the value; `EINVAL` when it is shorter.
pub fn int_option(val: &[u8]) -> Result<i32> {
    match val {
        [a, b, c, d, ..] => Ok(i32::from_ne_bytes([*a, *b, *c, *d])),
        _ => Err(Errno::EINVAL),
    }
}

fn long(val: &[u8], at: usize) -> Result<i64> {
    let b = val.get(at..at + 8).and_then(|b| b.try_into().ok()).ok_or(Errno::EINVAL)?;
    Ok(i64::from_ne_bytes(b))
}

/// `sk_setsockopt`: `EINVAL` for a value that is too short, `EDOM` for a time that is none, `ENODEV`, `ENOPROTOOPT`.
pub fn sock_setsockopt(sk: &Arc<Sock>, name: i32, val: &[u8]) -> Result<()> {
    if name == SO_BINDTODEVICE {
        return sock_setbindtodevice(sk, val);
    }
    let v = int_option(val)?;
    let on = v != 0;
    match name {
        // Marks the socket for the tracepoints.
        SO_DEBUG => sk.traced.store(on, Relaxed),
        SO_REUSEADDR => sk.set_flag(SockFlags::REUSEADDR, on),
        SO_REUSEPORT => sk.set_flag(SockFlags::REUSEPORT, on),
        SO_DONTROUTE if sk.kind != SOCK_STREAM => sk.set_flag(SockFlags::LOCALROUTE, on),
        SO_BROADCAST => sk.set_flag(SockFlags::BROADCAST, on),
        SO_SNDBUF => set_sndbuf(sk, v.min(ctl(sk.net.sysctl.wmem_max.get()))),
        SO_SNDBUFFORCE => set_sndbuf(sk, v.max(0)),
        SO_RCVBUF => set_rcvbuf(sk, v.min(ctl(sk.net.sysctl.rmem_max.get()))),
        SO_RCVBUFFORCE => set_rcvbuf(sk, v.max(0)),
        SO_KEEPALIVE => {
            let mut state = sk.lock_sock();
            (sk.prot.keepalive)(sk, &mut *state, on);
            sk.set_flag(SockFlags::KEEPOPEN, on);
        }
        SO_OOBINLINE => sk.set_flag(SockFlags::URGINLINE, on),
        SO_NO_CHECK => sk.set_flag(SockFlags::NO_CHECK_TX, on),
        SO_PRIORITY => sk.rare.set_priority(v as u32),
        SO_LINGER => set_linger(sk, v, val)?,
        SO_TIMESTAMP | SO_TIMESTAMP_NEW | SO_TIMESTAMPNS | SO_TIMESTAMPNS_NEW => set_timestamp(sk, name, on),
        SO_RCVLOWAT => {
            let mut state = sk.lock_sock();
            (sk.prot.set_rcvlowat)(sk, &mut *state, if v < 0 { i32::MAX as u32 } else { v.max(1) as u32 });
        }
        SO_RCVTIMEO | SO_RCVTIMEO_NEW => sk.rare.make().rcvtimeo.store(timeval(val)?, Relaxed),
        SO_SNDTIMEO | SO_SNDTIMEO_NEW => sk.rare.make().sndtimeo.store(timeval(val)?, Relaxed),
        SO_MARK => {
            sk.rare.set_mark(v as u32);
            *sk.dst_cache.lock_bh() = None;
        }
        SO_RXQ_OVFL => sk.set_flag(SockFlags::RXQ_OVFL, on),
        SO_MAX_PACING_RATE => sk.rare.make().max_pacing_rate.store(pacing_rate(v, val), Relaxed),
        SO_BINDTOIFINDEX => bind_index(sk, u32::try_from(v).map_err(|_| Errno::EINVAL)?)?,
        SO_BUF_LOCK => set_buf_lock(sk, v)?,
        SO_ZEROCOPY => set_zerocopy(sk, v)?,
        // The transport knows what becomes of its bytes.
        SO_TIMESTAMPING | SO_TIMESTAMPING_NEW => (sk.prot.setsockopt)(sk, SOL_SOCKET, name, val)?,
        _ => return unsupported(sk),
    }
    Ok(())
}

/// `SO_ZEROCOPY`: for TCP. `EOPNOTSUPP` where no transport would answer it, `EINVAL` for what is neither 0 nor 1.
fn set_zerocopy(sk: &Sock, v: i32) -> Result<()> {
    if sk.kind != SOCK_STREAM {
        return Err(Errno::EOPNOTSUPP);
    }
    if !(0..=1).contains(&v) {
        return Err(Errno::EINVAL);
    }
    sk.set_flag(SockFlags::ZEROCOPY, v == 1);
    Ok(())
}

/// A tunable as an `int`.
fn ctl(v: i64) -> i32 {
    v.clamp(0, i32::MAX as i64) as i32
}

/// Doubled, because the kernel's overhead counts against the buffer as well.
fn set_sndbuf(sk: &Sock, v: i32) {
    let v = v.clamp(0, i32::MAX / 2) as u32 * 2;
    sk.set_flag(SockFlags::SNDBUF_LOCK, true);
    sk.sndbuf.store(v.max(SOCK_MIN_SNDBUF), Relaxed);
    sk.write_space();
}

fn set_rcvbuf(sk: &Sock, v: i32) {
    let v = v.clamp(0, i32::MAX / 2) as u32 * 2;
    sk.set_flag(SockFlags::RCVBUF_LOCK, true);
    sk.rcvbuf.store(v.max(SOCK_MIN_RCVBUF), Relaxed);
}

/// `struct linger`: on or off, seconds.
fn set_linger(sk: &Sock, on: i32, val: &[u8]) -> Result<()> {
    let secs = int_option(val.get(4..).unwrap_or(&[]))?;
    if on != 0 {
        sk.rare.make().lingertime.store(secs.max(0) as u64 * NSEC_PER_SEC, Relaxed);
    }
    sk.set_flag(SockFlags::LINGER, on != 0);
    Ok(())
}

fn set_timestamp(sk: &Sock, name: i32, on: bool) {
    let nanos = matches!(name, SO_TIMESTAMPNS | SO_TIMESTAMPNS_NEW);
    sk.set_flag(SockFlags::RCVTSTAMP, on);
    sk.set_flag(SockFlags::RCVTSTAMPNS, on && nanos);
    sk.set_flag(SockFlags::TSTAMP_NEW, on && matches!(name, SO_TIMESTAMP_NEW | SO_TIMESTAMPNS_NEW));
}

/// `sock_set_timeout`: nanoseconds. All zero is for ever, negative is not at all.
fn timeval(val: &[u8]) -> Result<u64> {
    let (secs, micros) = (long(val, 0)?, long(val, 8)?);
    if !(0..1_000_000).contains(&micros) {
        return Err(Errno::EDOM);
    }
    match (u64::try_from(secs), micros) {
        (Err(_), _) => Ok(0),
        (Ok(0), 0) => Ok(NO_TIMEOUT),
        (Ok(s), us) => {
            let ns = s.checked_mul(NSEC_PER_SEC).and_then(|n| n.checked_add(us as u64 * 1000));
            Ok(ns.unwrap_or(NO_TIMEOUT))
        }
    }
}

/// Bytes a second, as 32 bits (all ones: unlimited) or as 64.
fn pacing_rate(v: i32, val: &[u8]) -> u64 {
    match (long(val, 0), v) {
        (Ok(rate), _) => rate as u64,
        (Err(_), -1) => u64::MAX,
        (Err(_), v) => v as u32 as u64,
    }
}

fn set_buf_lock(sk: &Sock, v: i32) -> Result<()> {
    if v & !3 != 0 {
        return Err(Errno::EINVAL);
    }
    sk.set_flag(SockFlags::SNDBUF_LOCK, v & 1 != 0);
    sk.set_flag(SockFlags::RCVBUF_LOCK, v & 2 != 0);
    Ok(())
}

/// `sock_setbindtodevice`: by name, of which the empty one is none.
fn sock_setbindtodevice(sk: &Sock, val: &[u8]) -> Result<()> {
    let name = val.get(..IFNAMSIZ - 1).unwrap_or(val);
    let name = name.split(|&b| b == 0).next().unwrap_or(&[]);
    if name.is_empty() {
        return bind_index(sk, 0);
    }
    let name = std::str::from_utf8(name).map_err(|_| Errno::ENODEV)?;
    let dev = dev_get_by_name(&sk.net, name).ok_or(Errno::ENODEV)?;
    bind_index(sk, dev.ifindex)
}

fn bind_index(sk: &Sock, ifindex: u32) -> Result<()> {
    if ifindex != 0 {
        dev_get_by_index(&sk.net, ifindex).ok_or(Errno::ENODEV)?;
    }
    sk.bound_dev_if.store(ifindex, Relaxed);
    *sk.dst_cache.lock_bh() = None;
    Ok(())
}

/// `sk_getsockopt`: at most `len` bytes. `EINVAL` where the value makes no sense cut off.
pub fn sock_getsockopt(sk: &Arc<Sock>, name: i32, len: usize) -> Result<Vec<u8>> {
    let flag = |f| sk.flag(f) as i32;
    let nanos = sk.flag(SockFlags::RCVTSTAMPNS);
    let new = sk.flag(SockFlags::TSTAMP_NEW);
    let stamps = sk.flag(SockFlags::RCVTSTAMP);
    let v = match name {
        SO_DEBUG => sk.traced.load(Relaxed) as i32,
        SO_REUSEADDR => flag(SockFlags::REUSEADDR),
        SO_REUSEPORT => flag(SockFlags::REUSEPORT),
        SO_DONTROUTE => flag(SockFlags::LOCALROUTE),
        SO_BROADCAST => flag(SockFlags::BROADCAST),
        SO_SNDBUF => sk.sndbuf.load(Relaxed) as i32,
        SO_RCVBUF => sk.rcvbuf.load(Relaxed) as i32,
        SO_KEEPALIVE => flag(SockFlags::KEEPOPEN),
        SO_TYPE => sk.kind,
        SO_PROTOCOL => sk.protocol as i32,
        SO_DOMAIN => sk.family as i32,
        SO_ERROR => take_error(sk),
        SO_OOBINLINE => flag(SockFlags::URGINLINE),
        SO_NO_CHECK => flag(SockFlags::NO_CHECK_TX),
        SO_PRIORITY => sk.rare.priority() as i32,
        SO_TIMESTAMP => (stamps && !nanos && !new) as i32,
        SO_TIMESTAMP_NEW => (stamps && !nanos && new) as i32,
        SO_TIMESTAMPNS => (nanos && !new) as i32,
        SO_TIMESTAMPNS_NEW => (nanos && new) as i32,
        SO_RCVLOWAT => sk.rcvlowat.load(Relaxed) as i32,
        SO_SNDLOWAT => 1,
        SO_MARK => sk.rare.mark() as i32,
        SO_RXQ_OVFL => flag(SockFlags::RXQ_OVFL),
        SO_ZEROCOPY if sk.kind == SOCK_STREAM => flag(SockFlags::ZEROCOPY),
        SO_TIMESTAMPING | SO_TIMESTAMPING_NEW => return (sk.prot.getsockopt)(sk, SOL_SOCKET, name, len),
        SO_ACCEPTCONN => (sk.state() == TcpState::Listen) as i32,
        SO_BINDTOIFINDEX => sk.bound_dev_if.load(Relaxed) as i32,
        SO_BUF_LOCK => flag(SockFlags::SNDBUF_LOCK) | flag(SockFlags::RCVBUF_LOCK) << 1,
        _ => return get_long_option(sk, name, len),
    };
    Ok(cut(v.to_ne_bytes().to_vec(), len))
}

/// A value no longer than the caller's room for it.
pub fn cut(mut value: Vec<u8>, len: usize) -> Vec<u8> {
    value.truncate(len);
    value
}

/// `SO_ERROR`: the pending error, or the one that has not been final so far.
fn take_error(sk: &Sock) -> i32 {
    match sk.take_error() {
        Err(e) => e.0,
        Ok(()) => sk.err_soft.swap(0, Relaxed),
    }
}

/// The options that are no `int`.
fn get_long_option(sk: &Arc<Sock>, name: i32, len: usize) -> Result<Vec<u8>> {
    let value = match name {
        SO_LINGER => {
            let secs = (sk.rare.lingertime() / NSEC_PER_SEC) as i32;
            [(sk.flag(SockFlags::LINGER) as i32).to_ne_bytes(), secs.to_ne_bytes()].concat()
        }
        SO_RCVTIMEO | SO_RCVTIMEO_NEW => timeval_bytes(sk.rare.rcvtimeo()),
        SO_SNDTIMEO | SO_SNDTIMEO_NEW => timeval_bytes(sk.rare.sndtimeo()),
        SO_BINDTODEVICE => bound_name(sk, len)?,
        SO_COOKIE if len < 8 => return Err(Errno::EINVAL),
        SO_COOKIE => sk.cookie.to_ne_bytes().to_vec(),
        SO_MAX_PACING_RATE if len >= 8 => sk.rare.max_pacing_rate().to_ne_bytes().to_vec(),
        SO_MAX_PACING_RATE => {
            let rate = u32::try_from(sk.rare.max_pacing_rate()).unwrap_or(u32::MAX);
            rate.to_ne_bytes().to_vec()
        }
        SO_MEMINFO => meminfo(sk),
        _ => return unsupported(sk),
    };
    Ok(cut(value, len))
}

fn timeval_bytes(ns: u64) -> Vec<u8> {
    let (secs, us) = match ns {
        NO_TIMEOUT => (0, 0),
        ns => ((ns / NSEC_PER_SEC) as i64, (ns % NSEC_PER_SEC / 1000) as i64),
    };
    [secs.to_ne_bytes(), us.to_ne_bytes()].concat()
}

/// `sock_getbindtodevice`: the name with its final zero; nothing at all when bound to none.
fn bound_name(sk: &Sock, len: usize) -> Result<Vec<u8>> {
    let index = sk.bound_dev_if.load(Relaxed);
    if index == 0 {
        return Ok(Vec::new());
    }
    if len < IFNAMSIZ {
        return Err(Errno::EINVAL);
    }
    let dev = dev_get_by_index(&sk.net, index).ok_or(Errno::ENODEV)?;
    Ok(dev.name.bytes().chain([0]).collect())
}

/// `sk_get_meminfo`, in the order of `SK_MEMINFO_*`.
fn meminfo(sk: &Sock) -> Vec<u8> {
    let words = [
        sk.rmem_alloc.load(Relaxed) as u32,
        sk.rcvbuf.load(Relaxed),
        sk.wmem_alloc.load(Relaxed) as u32,
        sk.sndbuf.load(Relaxed),
        0,
        sk.wmem_queued.load(Relaxed) as u32,
        0,
        0,
        sk.rare.drops(),
    ];
    words.into_iter().flat_map(u32::to_ne_bytes).collect()
}
