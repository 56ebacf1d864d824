//! Socket options that manage the keys of TCP-MD5 and TCP-AO.
//!
//! Interface: [`tcp_auth_setsockopt`], [`tcp_auth_getsockopt`].
//! Linux counterpart: `tcp_v4_parse_md5_keys`, `tcp_ao_add_cmd` and its like in `net/ipv4/{tcp_ipv4,tcp_ao}.c`.
//! Locks and context: process context; socket lock held.

use super::tcp_ao::*;
use super::tcp_md5::*;
use super::tcp_sock::*;
use crate::core::sock::Sock;
use crate::core::sock_options::{cut, unsupported};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use uapi::socket::{AF_INET, AF_INET6};
use uapi::tcp::TcpState;
use uapi::tcp_auth::*;
use uapi::{Errno, Result};

/// Whether an option is one of these.
pub fn is_auth_option(name: i32) -> bool {
    matches!(name, TCP_MD5SIG | TCP_MD5SIG_EXT | TCP_AO_ADD_KEY..=TCP_AO_REPAIR)
}

/// Sets one. `ENOPROTOOPT` for `TCP_AO_REPAIR`: nothing is ever under repair.
pub fn tcp_auth_setsockopt(sk: &Sock, tp: &mut TcpSock, name: i32, val: &[u8]) -> Result<()> {
    match name {
        TCP_MD5SIG => set_md5(sk, tp, val, false),
        TCP_MD5SIG_EXT => set_md5(sk, tp, val, true),
        TCP_AO_ADD_KEY => ao_add(sk, tp, val),
        TCP_AO_DEL_KEY => ao_del(sk, tp, val),
        TCP_AO_INFO => ao_set_info(sk, tp, val),
        _ => unsupported(sk),
    }
}

/// Reads one; at most `len` bytes. `TCP_AO_GET_KEYS` gives all keys that fit: there is no way to ask for some here.
pub fn tcp_auth_getsockopt(sk: &Sock, tp: &TcpSock, name: i32, len: usize) -> Result<Vec<u8>> {
    let ao = tp.rare.auth.as_deref().and_then(|a| a.ao.as_deref());
    match name {
        TCP_AO_INFO => Ok(cut(ao_info(ao.ok_or(Errno::ENOENT)?).to_bytes(), len)),
        TCP_AO_GET_KEYS => ao_get_keys(ao.ok_or(Errno::ENOENT)?, len),
        _ => unsupported(sk),
    }
}

/// Whether a connection is under way, or over.
fn connected(sk: &Sock) -> bool {
    !matches!(sk.state(), TcpState::Close | TcpState::Listen)
}

/// The peer's address in a `sockaddr_storage`, as the socket knows peers: an IPv4-mapped one is IPv4.
fn peer_addr(sk: &Sock, b: &[u8]) -> Result<IpAddr> {
    let family = b.first_chunk::<2>().map(|f| u16::from_ne_bytes(*f)).ok_or(Errno::EINVAL)?;
    match family as i32 {
        f if f == AF_INET && sk.family as i32 == AF_INET => {
            let a = b.get(4..8).and_then(|b| b.first_chunk::<4>()).ok_or(Errno::EINVAL)?;
            Ok(Ipv4Addr::from(*a).into())
        }
        f if f == AF_INET6 && sk.family as i32 == AF_INET6 => {
            let a = b.get(8..24).and_then(|b| b.first_chunk::<16>()).ok_or(Errno::EINVAL)?;
            let a = Ipv6Addr::from(*a);
            Ok(a.to_ipv4_mapped().map_or(IpAddr::V6(a), IpAddr::V4))
        }
        _ => Err(Errno::EINVAL),
    }
}

fn whole(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

/// The address without what the prefix does not cover.
fn masked(addr: IpAddr, prefix: u8) -> IpAddr {
    match addr {
        IpAddr::V4(a) => (u32::from(a) & u32::MAX.checked_shl(32 - prefix as u32).unwrap_or(0)).to_be_bytes().into(),
        IpAddr::V6(a) => (u128::from(a) & u128::MAX.checked_shl(128 - prefix as u32).unwrap_or(0)).to_be_bytes().into(),
    }
}

// --- TCP_MD5SIG ---

/// `tcp_v4_parse_md5_keys`, `tcp_v6_parse_md5_keys`.
fn set_md5(sk: &Sock, tp: &mut TcpSock, val: &[u8], ext: bool) -> Result<()> {
    let o = TcpMd5sig::from_bytes(val).ok_or(Errno::EINVAL)?;
    let addr = peer_addr(sk, &o.addr)?;
    let mut prefixlen = whole(addr);
    if ext && o.flags & TCP_MD5SIG_FLAG_PREFIX != 0 {
        if o.prefixlen > prefixlen {
            return Err(Errno::EINVAL);
        }
        prefixlen = o.prefixlen;
    }
    let bound = ext && o.flags & TCP_MD5SIG_FLAG_IFINDEX != 0;
    // A device counts only as the master of a domain (VRF), and there is none.
    if bound && o.ifindex != 0 {
        return Err(Errno::EINVAL);
    }
    let scope = KeyScope { addr, prefixlen, l3index: bound.then_some(0) };
    if o.keylen == 0 {
        let gone = tp.rare.if_used().and_then(|r| r.auth.as_mut()).is_some_and(|a| a.md5.remove(&scope));
        return if gone { Ok(()) } else { Err(Errno::ENOENT) };
    }
    if o.keylen as usize > TCP_MD5SIG_MAXKEYLEN {
        return Err(Errno::EINVAL);
    }
    let auth = tp.rare.make().auth.get_or_insert_default();
    if auth.ao.as_ref().is_some_and(|ao| ao.ao_required || ao.lookup(addr, 0, None, None).is_some()) {
        return Err(Errno::EKEYREJECTED);
    }
    let key = o.key[..o.keylen as usize].into();
    if auth.md5.add(Md5Key { scope, key }) { Ok(()) } else { Err(Errno::ENOMEM) }
}

// --- TCP_AO_* ---

/// Room for an AO option in a SYN beside MSS, timestamp and window scale.
const SYN_ROOM: usize = MAX_TCP_OPTION_SPACE - TCPOLEN_MSS_ALIGNED - TCPOLEN_TSTAMP_ALIGNED - TCPOLEN_WSCALE_ALIGNED;

fn ao_scope(sk: &Sock, addr: &[u8], prefix: u8, ifindex: i32, flags: u8) -> Result<KeyScope> {
    // Keys are for hosts, not for their ports.
    if addr.get(2..4) != Some(&[0, 0]) {
        return Err(Errno::EINVAL);
    }
    let addr = peer_addr(sk, addr)?;
    let any = match addr {
        IpAddr::V4(a) => a.is_unspecified(),
        IpAddr::V6(a) => a.is_unspecified(),
    };
    // The prefix must say what the address says: all peers, or those whose bits the prefix covers.
    if prefix > whole(addr) || any != (prefix == 0) || masked(addr, prefix) != addr {
        return Err(Errno::EINVAL);
    }
    // There are no L3 domains that a device could stand for.
    if ifindex != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(KeyScope { addr, prefixlen: prefix, l3index: (flags & TCP_AO_KEYF_IFINDEX != 0).then_some(0) })
}

/// `tcp_ao_add_cmd`.
fn ao_add(sk: &Sock, tp: &mut TcpSock, val: &[u8]) -> Result<()> {
    let o = TcpAoAdd::from_bytes(val).ok_or(Errno::EINVAL)?;
    if o.bits & !3 != 0
        || o.reserved2 != 0
        || o.keylen as usize > TCP_AO_MAXKEYLEN
        || o.keyflags & !(TCP_AO_KEYF_IFINDEX | TCP_AO_KEYF_EXCLUDE_OPT) != 0
    {
        return Err(Errno::EINVAL);
    }
    let (set_current, set_rnext) = (o.bits & 1 != 0, o.bits & 2 != 0);
    if sk.state() == TcpState::Listen && (set_current || set_rnext) {
        return Err(Errno::EINVAL);
    }
    let scope = ao_scope(sk, &o.addr, o.prefix, o.ifindex, o.keyflags)?;
    let established = connected(sk);
    if established && (!scope.matches(tp.inet.daddr, 0) || tp.rare.auth.as_ref().is_none_or(|a| a.ao.is_none())) {
        return Err(Errno::EINVAL);
    }
    let end = o.alg_name.iter().position(|&b| b == 0).ok_or(Errno::EINVAL)?;
    let alg = std::str::from_utf8(&o.alg_name[..end]).ok().and_then(AoAlg::by_name).ok_or(Errno::ENOENT)?;
    let maclen = if o.maclen == 0 { TCP_AO_DEFAULT_MACLEN } else { o.maclen };
    if maclen as usize > alg.digest_size() {
        return Err(Errno::EINVAL);
    }
    let key = AoKey {
        scope,
        alg,
        sndid: o.sndid,
        rcvid: o.rcvid,
        maclen,
        keyflags: o.keyflags,
        key: o.key[..o.keylen as usize].into(),
        counters: Arc::default(),
    };
    if key.option_len_aligned() > SYN_ROOM {
        return Err(Errno::EMSGSIZE);
    }
    let auth = tp.rare.make().auth.get_or_insert_default();
    if auth.md5.lookup(scope.addr, 0).is_some() {
        return Err(Errno::EKEYREJECTED);
    }
    let ao = auth.ao.get_or_insert_default();
    // Two keys that one segment could mean would be ambiguous (RFC 5925, 3.1).
    let clash = |k: &AoKey| {
        (k.scope.matches(scope.addr, 0) || scope.matches(k.scope.addr, 0))
            && k.scope.prefixlen == scope.prefixlen
            && (k.sndid == key.sndid || k.rcvid == key.rcvid)
    };
    if ao.keys.iter().any(clash) {
        return Err(Errno::EEXIST);
    }
    if ao.keys.len() >= TCP_AO_MAX_KEYS {
        return Err(Errno::ENOMEM);
    }
    ao.keys.push(key);
    let at = Some(ao.keys.len() - 1);
    if set_current {
        ao.current = at;
    }
    if set_rnext {
        ao.rnext = at;
    }
    Ok(())
}

/// The key of a connection with that id, for `current_key` and `rnext`.
fn by_id(ao: &AoInfo, wanted: bool, sndid: Option<u8>, rcvid: Option<u8>) -> Result<Option<usize>> {
    if !wanted {
        return Ok(None);
    }
    let fits = |k: &AoKey| sndid.is_none_or(|id| id == k.sndid) && rcvid.is_none_or(|id| id == k.rcvid);
    ao.keys.iter().position(fits).map(Some).ok_or(Errno::ENOENT)
}

/// `tcp_ao_del_cmd`.
fn ao_del(sk: &Sock, tp: &mut TcpSock, val: &[u8]) -> Result<()> {
    let o = TcpAoDel::from_bytes(val).ok_or(Errno::EINVAL)?;
    let (set_current, set_rnext, del_async) = (o.bits & 1 != 0, o.bits & 2 != 0, o.bits & 4 != 0);
    let listens = sk.state() == TcpState::Listen;
    if o.bits & !7 != 0
        || o.reserved2 != 0
        || o.keyflags & !TCP_AO_KEYF_IFINDEX != 0
        || (listens && (set_current || set_rnext))
        || (del_async && !listens)
    {
        return Err(Errno::EINVAL);
    }
    let scope = ao_scope(sk, &o.addr, o.prefix, o.ifindex, o.keyflags)?;
    let connected = connected(sk);
    let ao = tp.rare.if_used().and_then(|r| r.auth.as_mut()).and_then(|a| a.ao.as_mut()).ok_or(Errno::ENOENT)?;
    let current = by_id(ao, set_current, Some(o.current_key), None)?;
    let rnext = by_id(ao, set_rnext, None, Some(o.rnext))?;
    let same = |k: &AoKey| k.scope == scope && k.sndid == o.sndid && k.rcvid == o.rcvid;
    let at = ao.keys.iter().position(same).ok_or(Errno::ENOENT)?;
    if current == Some(at) || rnext == Some(at) {
        return Err(Errno::ENOENT);
    }
    // A connection always has keys to speak with.
    let used = |now: Option<usize>, then: Option<usize>| then.or(now) == Some(at);
    if connected && (used(ao.current, current) || used(ao.rnext, rnext)) {
        return Err(Errno::EBUSY);
    }
    for (slot, then) in [(&mut ao.current, current), (&mut ao.rnext, rnext)] {
        *slot = then.or(slot.filter(|i| *i != at));
    }
    ao.remove(at);
    Ok(())
}

/// `tcp_ao_info_cmd`.
fn ao_set_info(sk: &Sock, tp: &mut TcpSock, val: &[u8]) -> Result<()> {
    let o = TcpAoInfoOpt::from_bytes(val).ok_or(Errno::EINVAL)?;
    let bit = |n: u32| o.bits & (1 << n) != 0;
    let (set_current, set_rnext, required, set_counters, accept_icmps) = (bit(0), bit(1), bit(2), bit(3), bit(4));
    if o.bits & !0x1f != 0 || o.reserved2 != 0 || (sk.state() == TcpState::Listen && (set_current || set_rnext)) {
        return Err(Errno::EINVAL);
    }
    let connected = connected(sk);
    let peer = tp.inet.daddr;
    let auth = tp.rare.make().auth.get_or_insert_default();
    if required && !auth.md5.is_empty() && (!connected || auth.md5.lookup(peer, 0).is_some()) {
        return Err(Errno::EKEYREJECTED);
    }
    if auth.ao.is_none() && connected {
        return Err(Errno::EINVAL);
    }
    let ao = auth.ao.get_or_insert_default();
    let current = by_id(ao, set_current, Some(o.current_key), None)?;
    let rnext = by_id(ao, set_rnext, None, Some(o.rnext))?;
    (ao.ao_required, ao.accept_icmps) = (required, accept_icmps);
    (ao.current, ao.rnext) = (current.or(ao.current), rnext.or(ao.rnext));
    if set_counters {
        ao.counters.set(o.counters);
    }
    Ok(())
}

/// `tcp_ao_get_sock_info`.
fn ao_info(ao: &AoInfo) -> TcpAoInfoOpt {
    let (current, rnext) = (ao.current_key(), ao.rnext_key());
    TcpAoInfoOpt {
        bits: current.is_some() as u32
            | (rnext.is_some() as u32) << 1
            | (ao.ao_required as u32) << 2
            | (ao.accept_icmps as u32) << 4,
        reserved2: 0,
        current_key: current.map_or(0, |k| k.sndid),
        rnext: rnext.map_or(0, |k| k.rcvid),
        counters: ao.counters.all(),
    }
}

/// `tcp_ao_get_mkts` with `get_all`.
fn ao_get_keys(ao: &AoInfo, len: usize) -> Result<Vec<u8>> {
    if len < TcpAoGetsockopt::LEN {
        return Err(Errno::EINVAL);
    }
    let mut out = Vec::new();
    for (i, k) in ao.keys.iter().enumerate().take(len / TcpAoGetsockopt::LEN) {
        let mut alg_name = [0; 64];
        alg_name[..k.alg.name().len()].copy_from_slice(k.alg.name().as_bytes());
        let mut key = [0; 80];
        key[..k.key.len()].copy_from_slice(&k.key);
        let flags = (ao.current == Some(i)) as u16 | ((ao.rnext == Some(i)) as u16) << 1;
        let o = TcpAoGetsockopt {
            addr: storage(k.scope.addr),
            alg_name,
            key,
            nkeys: ao.keys.len() as u32,
            bits: flags,
            sndid: k.sndid,
            rcvid: k.rcvid,
            prefix: k.scope.prefixlen,
            maclen: k.maclen,
            keyflags: k.keyflags,
            keylen: k.key.len() as u8,
            ifindex: 0,
            pkt_good: k.counters.good.load(Relaxed),
            pkt_bad: k.counters.bad.load(Relaxed),
        };
        out.extend(o.to_bytes());
    }
    Ok(out)
}

fn storage(addr: IpAddr) -> [u8; 128] {
    let mut b = [0; 128];
    match addr {
        IpAddr::V4(a) => {
            b[..2].copy_from_slice(&(AF_INET as u16).to_ne_bytes());
            b[4..8].copy_from_slice(&a.octets());
        }
        IpAddr::V6(a) => {
            b[..2].copy_from_slice(&(AF_INET6 as u16).to_ne_bytes());
            b[8..24].copy_from_slice(&a.octets());
        }
    }
    b
}
