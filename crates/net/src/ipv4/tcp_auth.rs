//! Authenticated segments: signing what is sent, and checking what comes (RFC 2385, RFC 5925).
//!
//! Interface: [`tcp_auth_option`], [`tcp_auth_sign`], [`tcp_inbound_hash`], [`AuthKey`], [`tcp_auth_child`].
//! Linux counterpart: `tcp_inbound_hash` and its like in `net/ipv4/{tcp,tcp_ao,tcp_ipv4}.c`.
//! Locks and context: under the socket lock, or on a listener's unchanging copy.
//!
//! Of a socket without keys nothing here is ever called, but for segments that carry an authentication option.

use super::inet_sock::InetTuple;
use super::request_sock::RequestSock;
use super::tcp_ao::*;
use super::tcp_auth_key::*;
use super::tcp_md5::*;
use super::tcp_sock::*;
use crate::core::net_namespace::Net;
use crate::core::skbuff::Skb;
use crate::core::snmp::Mib;
use crate::hdr::{TcpHdr, tcp_flag};
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;

/// A segment that is not as its receiver's keys ask for, or cannot be made as its sender's do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadAuth;

// --- Sending ---

/// The authentication option of a connection's next segment, if it has a key for the peer.
pub fn tcp_auth_option(tp: &TcpSock) -> Option<AuthOut> {
    let auth = tp.rare.auth.as_deref()?;
    if let Some(ao) = &auth.ao
        && let Some(key) = ao.current_key()
    {
        return Some(key.out(ao.rnext_key().map_or(key.rcvid, |k| k.rcvid)));
    }
    auth.md5.lookup(tp.inet.daddr, 0).map(|_| AuthOut::Md5)
}

/// Bytes of it (`tcp_header_len` counts them).
pub fn tcp_auth_len(tp: &TcpSock) -> u16 {
    tcp_auth_option(tp).map_or(0, |o| o.len_aligned() as u16)
}

/// Signs a segment of a connection; its header is complete but for the checksum, and `data` at it.
#[cold]
pub fn tcp_auth_sign(tp: &mut TcpSock, skb: &mut Skb, seq: u32, flags: u8) {
    let (t, una, nxt) = (tp.inet.tuple(), tp.snd_una, tp.rcv_nxt);
    let Some(auth) = tp.rare.if_used().and_then(|r| r.auth.as_deref_mut()) else { return };
    let seg = SegmentView { skb, saddr: t.laddr, daddr: t.faddr };
    let tag = match &mut auth.ao {
        Some(ao) if ao.current.is_some() => {
            let first = flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN;
            let ctx = context(&t, ao.lisn, if first { 0 } else { ao.risn });
            let sne = if flags & tcp_flag::SYN != 0 {
                0
            } else {
                ao.advance(una, nxt);
                ao.snd_sne(seq)
            };
            ao.current_key().and_then(|k| k.sign(&ctx, &seg, sne, HOLE))
        }
        _ => auth.md5.lookup(t.faddr, 0).and_then(|k| tcp_md5_hash(&k.key, &seg)).map(|h| Tag::from_slice(&h)),
    };
    put_tag(skb, tag);
}

/// The key of a connection for segments that its socket does not send.
pub fn tcp_auth_key(tp: &TcpSock) -> Option<Box<AuthKey>> {
    let auth = tp.rare.auth.as_deref()?;
    if let Some(ao) = &auth.ao
        && let Some(key) = ao.current_key()
    {
        let rnext = ao.rnext_key().map_or(key.rcvid, |k| k.rcvid);
        let snd = (tcp_ao_compute_sne(ao.snd.0, ao.snd.1, tp.snd_una), tp.snd_una);
        return Some(Box::new(AuthKey::Ao(Box::new(AoConn {
            key: key.clone(),
            rnext,
            lisn: ao.lisn,
            risn: ao.risn,
            snd,
        }))));
    }
    listener_md5_key(auth, tp.inet.daddr)
}

/// A listener's MD5 key for a peer.
fn listener_md5_key(auth: &TcpAuth, peer: IpAddr) -> Option<Box<AuthKey>> {
    auth.md5.lookup(peer, 0).map(|k| Box::new(AuthKey::Md5(k.key.clone())))
}

// --- The listener's side ---

/// What signs a request's segments, from its SYN, which has been checked. `Err`: the key that the peer asks for is not there,
/// so nothing can be sent.
pub fn tcp_auth_request(
    auth: &TcpAuth,
    opts: &[u8],
    peer: IpAddr,
    lisn: u32,
    risn: u32,
) -> Result<Option<Box<AuthKey>>, BadAuth> {
    let Some(AoOption { keyid, rnext, .. }) = tcp_parse_auth_options(opts).map_or(None, |o| o.ao) else {
        return Ok(listener_md5_key(auth, peer));
    };
    let ao = auth.ao.as_ref().ok_or(BadAuth)?;
    let key = ao.lookup(peer, 0, Some(rnext), None).and_then(|i| ao.keys.get(i)).ok_or(BadAuth)?;
    let conn = AoConn { key: key.clone(), rnext: keyid, lisn, risn, snd: (0, lisn) };
    Ok(Some(Box::new(AuthKey::Ao(Box::new(conn)))))
}

/// A child has its listener's keys for the peer (`tcp_ao_copy_all_matching`, `tcp_md5_key_copy`).
pub fn tcp_auth_child(tp: &mut TcpSock, listener: &TcpSock, req: &RequestSock) {
    if let Some(r) = tp.rare.if_used() {
        r.auth = None;
    }
    let (Some(auth), Some(signer)) = (listener.rare.auth.as_deref(), req.auth.as_deref()) else { return };
    let peer = req.tuple.faddr;
    let mut own = TcpAuth::default();
    match signer {
        AuthKey::Md5(key) => {
            let prefixlen = if peer.is_ipv4() { 32 } else { 128 };
            own.md5.add(Md5Key { scope: KeyScope { addr: peer, prefixlen, l3index: None }, key: key.clone() });
        }
        AuthKey::Ao(c) => {
            let Some(ao) = &auth.ao else { return };
            let mut ao = ao.matching(peer, 0);
            ao.current = ao.lookup(peer, 0, Some(c.key.sndid), None);
            ao.rnext = ao.lookup(peer, 0, None, Some(c.rnext)).or(ao.current);
            (ao.lisn, ao.risn) = (c.lisn, c.risn);
            (ao.snd, ao.rcv) = ((0, c.lisn), (0, c.risn));
            own.ao = Some(Box::new(ao));
        }
    }
    tp.rare.make().auth = Some(Box::new(own));
    tp.tcp_header_len += tcp_auth_len(tp);
}

// --- The connecting side ---

/// A connection begins: of the keys those for the peer remain (`tcp_ao_connect_init`). `EKEYREJECTED` if the peer has both
/// kinds, or has none where TCP-AO is required.
pub fn tcp_auth_connect(tp: &mut TcpSock) -> uapi::Result<()> {
    let (peer, isn) = (tp.inet.daddr, tp.write_seq);
    let Some(auth) = tp.rare.if_used().and_then(|r| r.auth.as_deref_mut()) else { return Ok(()) };
    let md5 = auth.md5.lookup(peer, 0).is_some();
    let Some(ao) = &mut auth.ao else { return Ok(()) };
    let any = ao.lookup(peer, 0, None, None);
    if (md5 && any.is_some()) || (any.is_none() && ao.ao_required) {
        return Err(uapi::Errno::EKEYREJECTED);
    }
    if any.is_none() {
        auth.ao = None;
        return Ok(());
    }
    for i in (0..ao.keys.len()).rev() {
        if !ao.keys[i].scope.matches(peer, 0) {
            if ao.current == Some(i) {
                ao.current = None;
            }
            if ao.rnext == Some(i) {
                ao.rnext = None;
            }
            ao.remove(i);
        }
    }
    ao.current = ao.current.or(ao.lookup(peer, 0, None, None));
    ao.rnext = ao.rnext.or(ao.current);
    (ao.lisn, ao.risn) = (isn, 0);
    ao.snd = (0, isn);
    Ok(())
}

/// The peer's initial number is known (`tcp_ao_finish_connect`).
pub fn tcp_auth_peer_isn(tp: &mut TcpSock, isn: u32) {
    if let Some(ao) = tp.rare.if_used().and_then(|r| r.auth.as_deref_mut()).and_then(|a| a.ao.as_deref_mut()) {
        ao.risn = isn;
        ao.rcv = (0, isn);
    }
}

// --- Checking ---

/// Authentication options of a segment.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct AuthOptions {
    /// Where the MD5 signature stands in the option area.
    pub md5: Option<usize>,
    pub ao: Option<AoOption>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AoOption {
    /// Where the MAC stands in the option area, and its length.
    pub mac: usize,
    pub maclen: usize,
    pub keyid: u8,
    pub rnext: u8,
}

/// Finds them (`tcp_parse_auth_options`). `Err` for a segment with two, or with one that is broken.
pub fn tcp_parse_auth_options(opts: &[u8]) -> Result<AuthOptions, BadAuth> {
    let (mut found, mut at) = (AuthOptions::default(), 0);
    while let Some(&kind) = opts.get(at) {
        if kind == TCPOPT_EOL {
            break;
        }
        if kind == TCPOPT_NOP {
            at += 1;
            continue;
        }
        let Some(body) = opts.get(at + 1).and_then(|&len| opts.get(at + 2..at + len as usize)) else { break };
        match (kind, body) {
            (TCPOPT_MD5SIG, b) => {
                if b.len() + 2 != TCPOLEN_MD5SIG || found != AuthOptions::default() {
                    return Err(BadAuth);
                }
                found.md5 = Some(at + 2);
            }
            (TCPOPT_AO, &[keyid, rnext, ref mac @ ..]) if found == AuthOptions::default() => {
                found.ao = Some(AoOption { mac: at + 4, maclen: mac.len(), keyid, rnext });
            }
            (TCPOPT_AO, _) => return Err(BadAuth),
            _ => {}
        }
        at += 2 + body.len();
    }
    Ok(found)
}

/// Whether the options may hold more than a timestamp: only then is there something to be looked for.
#[inline]
pub fn tcp_auth_possible(skb: &Skb, th: &TcpHdr) -> bool {
    let len = th.header_len();
    let usual = [TCPOPT_NOP, TCPOPT_NOP, TCPOPT_TIMESTAMP, 10];
    len != TcpHdr::LEN
        && (len != TcpHdr::LEN + TCPOLEN_TSTAMP_ALIGNED || skb.data().get(TcpHdr::LEN..TcpHdr::LEN + 4) != Some(&usual))
}

/// For whom a segment is.
#[derive(Clone, Copy)]
pub enum Receiver<'a> {
    Listener,
    Request(&'a RequestSock),
    /// A connection: its next expected number; whether it is still opening.
    Conn {
        rcv_nxt: u32,
        opening: bool,
    },
}

/// Whether a segment is as its receiver's keys ask for (`tcp_inbound_hash`); what is not is counted. `data` at the header.
/// `Ok(Some(i))`: TCP-AO's current key is to become `i` (RFC 5925, 7.4, 2.f).
#[cold]
pub fn tcp_inbound_hash(
    net: &Net,
    auth: Option<&TcpAuth>,
    who: Receiver<'_>,
    skb: &Skb,
    th: &TcpHdr,
    t: &InetTuple,
) -> Result<Option<usize>, BadAuth> {
    let opts = skb.data().get(TcpHdr::LEN..th.header_len()).unwrap_or(&[]);
    let found = tcp_parse_auth_options(opts)?;
    if let Receiver::Request(req) = who {
        let used_ao = matches!(req.auth.as_deref(), Some(AuthKey::Ao(_)));
        if used_ao != found.ao.is_some() {
            net.mib.inc(Mib::TcpExtTCPAOBad);
            return Err(BadAuth);
        }
    }
    if let Some(opt) = found.ao {
        return inbound_ao(net, auth, who, skb, th, t, &opt);
    }
    let Some(at) = found.md5 else { return unsigned(net, auth, t) };
    let Some(key) = auth.and_then(|a| a.md5.lookup(t.faddr, 0)) else {
        net.mib.inc(Mib::TcpExtTCPMD5Unexpected);
        return Err(BadAuth);
    };
    let seg = SegmentView { skb, saddr: t.faddr, daddr: t.laddr };
    let good = tcp_md5_hash(&key.key, &seg).is_some_and(|h| opts.get(at..at + 16) == Some(&h));
    if !good {
        net.mib.inc(Mib::TcpExtTCPMD5Failure);
        return Err(BadAuth);
    }
    Ok(None)
}

/// A segment without signature is good if the peer has no key.
fn unsigned(net: &Net, auth: Option<&TcpAuth>, t: &InetTuple) -> Result<Option<usize>, BadAuth> {
    let Some(auth) = auth else { return Ok(None) };
    if let Some(ao) = &auth.ao
        && (ao.ao_required || ao.lookup(t.faddr, 0, None, None).is_some())
    {
        net.mib.inc(Mib::TcpExtTCPAORequired);
        ao.counters.ao_required.fetch_add(1, Relaxed);
        return Err(BadAuth);
    }
    if auth.md5.lookup(t.faddr, 0).is_some() {
        net.mib.inc(Mib::TcpExtTCPMD5NotFound);
        return Err(BadAuth);
    }
    Ok(None)
}

/// RFC 5925, 7.3 and 7.5 (`tcp_inbound_ao_hash`).
fn inbound_ao(
    net: &Net,
    auth: Option<&TcpAuth>,
    who: Receiver<'_>,
    skb: &Skb,
    th: &TcpHdr,
    t: &InetTuple,
    opt: &AoOption,
) -> Result<Option<usize>, BadAuth> {
    let Some(ao) = auth.and_then(|a| a.ao.as_deref()) else {
        net.mib.inc(Mib::TcpExtTCPAOKeyNotFound);
        return Err(BadAuth);
    };
    let Some(key) = ao.lookup(t.faddr, 0, None, Some(opt.keyid)).and_then(|i| ao.keys.get(i)) else {
        net.mib.inc(Mib::TcpExtTCPAOKeyNotFound);
        ao.counters.key_not_found.fetch_add(1, Relaxed);
        return Err(BadAuth);
    };
    let (seq, syn, ack) = (th.seq.get(), th.has(tcp_flag::SYN), th.has(tcp_flag::ACK));
    let (sisn, disn, sne) = match who {
        _ if syn && !ack => (seq, 0, 0),
        Receiver::Request(r) => (r.rcv_isn, r.snt_isn, tcp_ao_compute_sne(0, r.rcv_isn, seq)),
        // Perhaps the third packet of a handshake that a cookie stands for.
        Receiver::Listener if ack && !syn => (seq.wrapping_sub(1), th.ack_seq.get().wrapping_sub(1), 0),
        Receiver::Listener => return Err(BadAuth),
        Receiver::Conn { opening: true, .. } => (if syn { seq } else { ao.risn }, ao.lisn, 0),
        Receiver::Conn { rcv_nxt, .. } => {
            let sne = tcp_ao_compute_sne(ao.rcv.0, ao.rcv.1, rcv_nxt);
            (ao.risn, ao.lisn, tcp_ao_compute_sne(sne, rcv_nxt, seq))
        }
    };
    let seg = SegmentView { skb, saddr: t.faddr, daddr: t.laddr };
    let tag = key.sign(&context_in(t, sisn, disn), &seg, sne, TcpHdr::LEN + opt.mac);
    let mac = skb.data().get(TcpHdr::LEN + opt.mac..TcpHdr::LEN + opt.mac + opt.maclen);
    let good = opt.maclen == key.maclen as usize && tag.as_deref() == mac;
    let (mib, all, own) = match good {
        true => (Mib::TcpExtTCPAOGood, &ao.counters.good, &key.counters.good),
        false => (Mib::TcpExtTCPAOBad, &ao.counters.bad, &key.counters.bad),
    };
    net.mib.inc(mib);
    all.fetch_add(1, Relaxed);
    own.fetch_add(1, Relaxed);
    if !good {
        return Err(BadAuth);
    }
    // The peer asks for another key: if we have it, it signs from now on.
    let other = ao.current_key().is_some_and(|k| k.sndid != opt.rnext);
    Ok(ao.lookup(t.faddr, 0, Some(opt.rnext), None).filter(|_| other))
}

/// Checks a segment for a connection (not a listener). `true`: take it.
#[cold]
pub fn tcp_conn_inbound_hash(net: &Net, tp: &mut TcpSock, opening: bool, skb: &Skb, th: &TcpHdr) -> bool {
    let (t, rcv_nxt, snd_una) = (tp.inet.tuple(), tp.rcv_nxt, tp.snd_una);
    if !opening
        && let Some(ao) = tp.rare.if_used().and_then(|r| r.auth.as_deref_mut()).and_then(|a| a.ao.as_deref_mut())
    {
        ao.advance(snd_una, rcv_nxt);
    }
    let who = Receiver::Conn { rcv_nxt, opening };
    match tcp_inbound_hash(net, tp.rare.auth.as_deref(), who, skb, th, &t) {
        Ok(None) => true,
        Ok(current) => {
            if let Some(ao) = tp.rare.if_used().and_then(|r| r.auth.as_deref_mut()).and_then(|a| a.ao.as_deref_mut()) {
                ao.current = current;
            }
            true
        }
        Err(BadAuth) => false,
    }
}

/// Whether an ICMP error is not to be believed: the segment it quotes was authenticated, the error is not (RFC 5925, 7.8;
/// `tcp_ao_ignore_icmp`). Errors that would end a connection, or make its packets smaller.
pub fn tcp_ao_ignore_icmp(net: &Net, tp: &TcpSock, v6: bool, kind: u8, code: u8) -> bool {
    let Some(ao) = tp.rare.auth.as_deref().and_then(|a| a.ao.as_deref()) else { return false };
    let hard = if v6 { kind == 1 && matches!(code, 1 | 4) } else { kind == 3 && matches!(code, 2..=4) };
    if !hard || ao.accept_icmps {
        return false;
    }
    net.mib.inc(Mib::TcpExtTCPAODroppedIcmps);
    ao.counters.dropped_icmp.fetch_add(1, Relaxed);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authentication_options_are_found_among_others() {
        let mut o = vec![1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 19, 18];
        o.extend([7; 16]);
        assert_eq!(tcp_parse_auth_options(&o), Ok(AuthOptions { md5: Some(14), ao: None }));
        let ao = AoOption { mac: 4, maclen: 2, keyid: 5, rnext: 6 };
        assert_eq!(tcp_parse_auth_options(&[29, 6, 5, 6, 0, 0]), Ok(AuthOptions { md5: None, ao: Some(ao) }));
        o.extend([29, 4, 1, 1]);
        assert_eq!(tcp_parse_auth_options(&o), Err(BadAuth), "both");
        assert_eq!(tcp_parse_auth_options(&[19, 17, 0]), Ok(AuthOptions::default()), "cut off");
        assert_eq!(tcp_parse_auth_options(&[19, 3, 0]), Err(BadAuth));
        assert_eq!(tcp_parse_auth_options(&[29, 3, 0]), Err(BadAuth));
        assert_eq!(tcp_parse_auth_options(&[29, 0]), Ok(AuthOptions::default()));
    }
}
