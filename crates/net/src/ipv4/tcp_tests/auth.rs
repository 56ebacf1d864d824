//! Authenticated connections: TCP-MD5 (RFC 2385) and TCP-AO (RFC 5925).
//!
//! Interface: tests.
//! Linux counterpart: `tools/testing/selftests/net/{fcnal-test.sh,tcp_ao/}`.
//! Locks and context: a manual clock.

use super::*;
use uapi::tcp_auth::*;

fn storage(ip: Ipv4Addr) -> [u8; 128] {
    let mut b = [0; 128];
    b[..2].copy_from_slice(&(AF_INET as u16).to_ne_bytes());
    b[4..8].copy_from_slice(&ip.octets());
    b
}

fn md5(peer: Ipv4Addr, prefix: Option<u8>, secret: &[u8]) -> Vec<u8> {
    let mut key = [0; 80];
    key[..secret.len().min(80)].copy_from_slice(&secret[..secret.len().min(80)]);
    let (flags, prefixlen) = prefix.map_or((0, 0), |p| (TCP_MD5SIG_FLAG_PREFIX, p));
    TcpMd5sig { addr: storage(peer), flags, prefixlen, keylen: secret.len() as u16, ifindex: 0, key }.to_bytes()
}

fn set_md5(s: &Socket, peer: Ipv4Addr, secret: &[u8]) {
    s.setsockopt(IPPROTO_TCP, TCP_MD5SIG, &md5(peer, None, secret)).unwrap();
}

fn ao(peer: Ipv4Addr, alg: &str, ids: (u8, u8), secret: &[u8]) -> TcpAoAdd {
    let mut key = [0; 80];
    key[..secret.len()].copy_from_slice(secret);
    let mut alg_name = [0; 64];
    alg_name[..alg.len()].copy_from_slice(alg.as_bytes());
    TcpAoAdd {
        addr: storage(peer),
        alg_name,
        ifindex: 0,
        bits: 0,
        reserved2: 0,
        prefix: 32,
        sndid: ids.0,
        rcvid: ids.1,
        maclen: 0,
        keyflags: 0,
        keylen: secret.len() as u8,
        key,
    }
}

fn add_ao(s: &Socket, k: TcpAoAdd) {
    s.setsockopt(IPPROTO_TCP, TCP_AO_ADD_KEY, &k.to_bytes()).unwrap();
}

fn ao_info(s: &Socket) -> TcpAoInfoOpt {
    TcpAoInfoOpt::from_bytes(&s.getsockopt(IPPROTO_TCP, TCP_AO_INFO, 48).unwrap()).unwrap()
}

/// A connection whose sockets are prepared by `client` and `server` before; `None` if there is none within `ms`.
fn connect_with(
    w: &World,
    client: impl Fn(&Socket),
    server: impl Fn(&Socket),
    ms: u64,
) -> (Arc<Socket>, Arc<Socket>, Option<Arc<Socket>>) {
    let l = w.socket(&w.b);
    server(&l);
    l.bind(&addr(B, 80)).unwrap();
    l.listen(16).unwrap();
    let c = w.socket(&w.a);
    client(&c);
    let _ = c.connect(&addr(B, 80), true, &mut wait());
    for _ in 0..ms {
        w.run(1);
        if let Poll::Ready(Ok(s)) = l.accept(true, &mut wait()) {
            return (l, c, Some(s));
        }
    }
    (l, c, None)
}

/// Data both ways, loss included, and an orderly end.
fn use_and_close(w: &World, c: &Socket, s: &Socket) {
    w.transfer(c, s, &pattern(200_000));
    w.set(NetemParams { delay_ns: 5_000_000, loss: 0.03, limit: 100_000, ..NetemParams::default() });
    w.transfer(s, c, &pattern(200_000));
    w.set(NetemParams { delay_ns: 5_000_000, limit: 100_000, ..NetemParams::default() });
    c.shutdown(SHUT_WR).unwrap();
    w.run(20);
    s.shutdown(SHUT_WR).unwrap();
    w.run(50);
    assert_eq!((c.sk.state(), s.sk.state()), (TcpState::Close, TcpState::Close), "{}", w.mibs());
}

#[test]
fn md5_signs_a_whole_connection() {
    let w = World::new();
    let secret = b"not told to anybody";
    let (_l, c, s) = connect_with(&w, |c| set_md5(c, B, secret), |l| set_md5(l, A, secret), 1000);
    let s = s.unwrap_or_else(|| panic!("{}", w.mibs()));
    assert_eq!(info(&c).tcpi_options & TCPI_OPT_TIMESTAMPS, 0, "no room for timestamps");
    assert_eq!(info(&c).tcpi_snd_mss, 1440);
    use_and_close(&w, &c, &s);
    for m in [Mib::TcpExtTCPMD5Failure, Mib::TcpExtTCPMD5NotFound, Mib::TcpExtTCPMD5Unexpected] {
        assert_eq!((w.a.mib.get(m), w.b.mib.get(m)), (0, 0), "{m:?}");
    }
}

#[test]
fn md5_keys_of_a_prefix() {
    let w = World::new();
    let server = |l: &Socket| {
        l.setsockopt(IPPROTO_TCP, TCP_MD5SIG_EXT, &md5(Ipv4Addr::new(10, 0, 0, 0), Some(8), b"wide")).unwrap();
    };
    let (_l, c, s) = connect_with(&w, |c| set_md5(c, B, b"wide"), server, 1000);
    let s = s.unwrap();
    // A key that is taken away from the listener stays with the connection.
    w.transfer(&c, &s, &pattern(10_000));
}

#[test]
fn md5_refuses_what_is_not_signed_right() {
    for (client, server, mib) in [
        (Some(&b"one"[..]), Some(&b"two"[..]), Mib::TcpExtTCPMD5Failure),
        (None, Some(&b"two"[..]), Mib::TcpExtTCPMD5NotFound),
        (Some(&b"one"[..]), None, Mib::TcpExtTCPMD5Unexpected),
    ] {
        let w = World::new();
        let set = |s: &Socket, peer, key: Option<&[u8]>| {
            if let Some(k) = key {
                set_md5(s, peer, k);
            }
        };
        let (_l, c, s) = connect_with(&w, |c| set(c, B, client), |l| set(l, A, server), 500);
        assert!(s.is_none() && c.sk.state() == TcpState::SynSent, "{}", w.mibs());
        assert!(w.b.mib.get(mib) > 0, "{mib:?}: {}", w.mibs());
        assert_eq!(w.b.mib.get(Mib::TcpOutRsts), 0, "silently");
    }
}

#[test]
fn md5_resets_and_late_acks_are_signed() {
    let w = World::new();
    let (_l, c, s) = connect_with(&w, |c| set_md5(c, B, b"k"), |l| set_md5(l, A, b"k"), 1000);
    let s = s.unwrap();
    // Unread data at close: a RST, which the other side only believes because it is signed.
    send(&c, b"never read").unwrap();
    w.run(20);
    s.release();
    w.run(20);
    assert_eq!(recv(&c, 10, 0), Err(Errno::ECONNRESET), "{}", w.mibs());
    assert_eq!(w.a.mib.get(Mib::TcpExtTCPMD5NotFound), 0);
}

#[test]
fn an_unsigned_segment_of_a_signed_connection_is_dropped() {
    let w = World::new();
    let (_l, c, s) = connect_with(&w, |c| set_md5(c, B, b"k"), |l| set_md5(l, A, b"k"), 1000);
    let s = s.unwrap();
    // The client forgets its key.
    c.setsockopt(IPPROTO_TCP, TCP_MD5SIG, &md5(B, None, b"")).unwrap();
    send(&c, b"unsigned").unwrap();
    w.run(100);
    assert_eq!(recv(&s, 10, 0), Err(Errno::EAGAIN));
    assert!(w.b.mib.get(Mib::TcpExtTCPMD5NotFound) > 0);
    set_md5(&c, B, b"k");
    w.run(2000);
    assert_eq!(recv(&s, 10, 0).as_deref(), Ok(&b"unsigned"[..]), "the retransmission is signed: {}", w.mibs());
}

#[test]
fn md5_with_cookies() {
    let w = World::new();
    w.b.sysctl.set("net.ipv4.tcp_syncookies", 2).unwrap();
    let (_l, c, s) = connect_with(&w, |c| set_md5(c, B, b"k"), |l| set_md5(l, A, b"k"), 1000);
    let s = s.unwrap_or_else(|| panic!("{}", w.mibs()));
    use_and_close(&w, &c, &s);
}

#[test]
fn md5_options_answer_as_linux_does() {
    let w = World::new();
    let c = w.socket(&w.a);
    let set = |name, v: &[u8]| c.setsockopt(IPPROTO_TCP, name, v);
    assert_eq!(set(TCP_MD5SIG, &md5(B, None, b"k")[..215]), Err(Errno::EINVAL));
    assert_eq!(set(TCP_MD5SIG, &md5(B, None, b"")), Err(Errno::ENOENT), "nothing to delete");
    assert_eq!(set(TCP_MD5SIG_EXT, &md5(B, Some(33), b"k")), Err(Errno::EINVAL));
    let mut long = md5(B, None, b"k");
    long[130..132].copy_from_slice(&81u16.to_ne_bytes());
    assert_eq!(set(TCP_MD5SIG, &long), Err(Errno::EINVAL));
    let mut family = md5(B, None, b"k");
    family[0] = AF_INET6 as u8;
    assert_eq!(set(TCP_MD5SIG, &family), Err(Errno::EINVAL));
    assert_eq!(set(TCP_MD5SIG, &md5(B, None, b"k")), Ok(()));
    assert_eq!(set(TCP_MD5SIG, &md5(B, None, b"")), Ok(()));
    assert_eq!(c.getsockopt(IPPROTO_TCP, TCP_MD5SIG, 4), Err(Errno::ENOPROTOOPT));
    assert_eq!(set(TCP_MD5SIG, &md5(B, None, b"k")), Ok(()));
    let k = ao(B, "hmac(sha1)", (1, 2), b"x").to_bytes();
    assert_eq!(set(TCP_AO_ADD_KEY, &k), Err(Errno::EKEYREJECTED), "one kind for a peer");
}

#[test]
fn ao_signs_a_whole_connection() {
    for alg in ["hmac(sha1)", "cmac(aes128)", "hmac(sha256)"] {
        for cookies in [1, 2] {
            let w = World::new();
            w.b.sysctl.set("net.ipv4.tcp_syncookies", cookies).unwrap();
            let client = |c: &Socket| add_ao(c, ao(B, alg, (61, 84), b"testvector"));
            let server = |l: &Socket| add_ao(l, ao(A, alg, (84, 61), b"testvector"));
            let (_l, c, s) = connect_with(&w, client, server, 1000);
            let s = s.unwrap_or_else(|| panic!("{alg}: {}", w.mibs()));
            use_and_close(&w, &c, &s);
            for m in [Mib::TcpExtTCPAOBad, Mib::TcpExtTCPAOKeyNotFound, Mib::TcpExtTCPAORequired] {
                assert_eq!((w.a.mib.get(m), w.b.mib.get(m)), (0, 0), "{alg} {m:?}");
            }
            assert!(w.a.mib.get(Mib::TcpExtTCPAOGood) > 100 && w.b.mib.get(Mib::TcpExtTCPAOGood) > 100);
        }
    }
}

#[test]
fn ao_changes_keys_without_a_break() {
    let w = World::new();
    let client = |c: &Socket| {
        add_ao(c, ao(B, "hmac(sha1)", (1, 1), b"old"));
        add_ao(c, ao(B, "cmac(aes128)", (2, 2), b"new"));
    };
    let server = |l: &Socket| {
        add_ao(l, ao(A, "hmac(sha1)", (1, 1), b"old"));
        add_ao(l, ao(A, "cmac(aes128)", (2, 2), b"new"));
    };
    let (_l, c, s) = connect_with(&w, client, server, 1000);
    let s = s.unwrap();
    w.transfer(&c, &s, &pattern(50_000));
    assert_eq!((ao_info(&c).current_key, ao_info(&c).rnext, ao_info(&s).current_key), (1, 1, 1));
    // The server asks for the new key: the client signs with it from the next segment on, and asks for it in turn.
    let rnext = TcpAoInfoOpt { bits: 2, reserved2: 0, current_key: 0, rnext: 2, counters: [0; 5] };
    s.setsockopt(IPPROTO_TCP, TCP_AO_INFO, &rnext.to_bytes()).unwrap();
    w.transfer(&s, &c, &pattern(50_000));
    assert_eq!((ao_info(&c).current_key, ao_info(&s).rnext), (2, 2));
    c.setsockopt(IPPROTO_TCP, TCP_AO_INFO, &rnext.to_bytes()).unwrap();
    w.transfer(&c, &s, &pattern(50_000));
    assert_eq!(ao_info(&s).current_key, 2);
    // The old key is of no use to anybody now.
    let del = TcpAoDel {
        addr: storage(B),
        ifindex: 0,
        bits: 0,
        reserved2: 0,
        prefix: 32,
        sndid: 1,
        rcvid: 1,
        current_key: 0,
        rnext: 0,
        keyflags: 0,
    };
    assert_eq!(c.setsockopt(IPPROTO_TCP, TCP_AO_DEL_KEY, &del.to_bytes()), Ok(()));
    let last = TcpAoDel { sndid: 2, rcvid: 2, ..del };
    assert_eq!(c.setsockopt(IPPROTO_TCP, TCP_AO_DEL_KEY, &last.to_bytes()), Err(Errno::EBUSY));
    w.transfer(&c, &s, &pattern(50_000));
    let i = ao_info(&s);
    assert!(i.counters[0] > 0 && i.counters[1..4] == [0; 3], "{i:?}");
}

#[test]
fn ao_refuses_what_is_not_signed_right() {
    let key = |peer, ids, secret: &'static [u8]| ao(peer, "hmac(sha1)", ids, secret);
    for (client, server, mib) in [
        (Some(key(B, (1, 1), b"one")), Some(key(A, (1, 1), b"two")), Mib::TcpExtTCPAOBad),
        (Some(key(B, (1, 1), b"one")), Some(key(A, (2, 2), b"one")), Mib::TcpExtTCPAOKeyNotFound),
        (None, Some(key(A, (1, 1), b"two")), Mib::TcpExtTCPAORequired),
        (Some(key(B, (1, 1), b"one")), None, Mib::TcpExtTCPAOKeyNotFound),
    ] {
        let w = World::new();
        let set = |s: &Socket, k: Option<TcpAoAdd>| {
            if let Some(k) = k {
                add_ao(s, k);
            }
        };
        let (_l, c, s) = connect_with(&w, |c| set(c, client), |l| set(l, server), 500);
        assert!(s.is_none() && c.sk.state() == TcpState::SynSent, "{}", w.mibs());
        assert!(w.b.mib.get(mib) > 0, "{mib:?}: {}", w.mibs());
        assert_eq!(w.b.mib.get(Mib::TcpOutRsts), 0, "silently");
    }
}

#[test]
fn ao_options_answer_as_linux_does() {
    let w = World::new();
    let c = w.socket(&w.a);
    let add = |k: TcpAoAdd| c.setsockopt(IPPROTO_TCP, TCP_AO_ADD_KEY, &k.to_bytes());
    let k = || ao(B, "hmac(sha1)", (1, 2), b"secret");
    assert_eq!(c.getsockopt(IPPROTO_TCP, TCP_AO_INFO, 48), Err(Errno::ENOENT));
    assert_eq!(add(TcpAoAdd { alg_name: ao(B, "rot13", (1, 1), b"").alg_name, ..k() }), Err(Errno::ENOENT));
    assert_eq!(add(TcpAoAdd { maclen: 21, ..k() }), Err(Errno::EINVAL));
    assert_eq!(add(TcpAoAdd { maclen: 17, ..k() }), Err(Errno::EMSGSIZE), "no room in a SYN");
    assert_eq!(add(TcpAoAdd { prefix: 33, ..k() }), Err(Errno::EINVAL));
    assert_eq!(add(TcpAoAdd { prefix: 8, ..k() }), Err(Errno::EINVAL), "bits outside the prefix");
    assert_eq!(add(TcpAoAdd { bits: 4, ..k() }), Err(Errno::EINVAL));
    assert_eq!(add(k()), Ok(()));
    assert_eq!(add(TcpAoAdd { rcvid: 9, ..k() }), Err(Errno::EEXIST), "same SendID");
    assert_eq!(add(TcpAoAdd { sndid: 5, rcvid: 6, bits: 1, ..k() }), Ok(()));
    let keys = c.getsockopt(IPPROTO_TCP, TCP_AO_GET_KEYS, 10_000).unwrap();
    let keys: Vec<_> = keys.chunks(TcpAoGetsockopt::LEN).map(|b| TcpAoGetsockopt::from_bytes(b).unwrap()).collect();
    let ids: Vec<_> = keys.iter().map(|k| (k.sndid, k.rcvid, k.bits, k.maclen, k.nkeys)).collect();
    assert_eq!(ids, [(1, 2, 0, 12, 2), (5, 6, 1, 12, 2)]);
    assert_eq!((&keys[0].key[..6], keys[0].addr), (&b"secret"[..], storage(B)));
    assert_eq!(c.setsockopt(IPPROTO_TCP, TCP_AO_REPAIR, &[0; 16]), Err(Errno::ENOPROTOOPT));
    assert_eq!(c.setsockopt(IPPROTO_TCP, TCP_MD5SIG, &md5(B, None, b"k")), Err(Errno::EKEYREJECTED));
}

#[test]
fn a_time_wait_entry_signs_its_acks() {
    use crate::core::netfilter::{HookPoint, Verdict};
    let keys: [(i32, Vec<u8>, Vec<u8>); 2] = [
        (TCP_MD5SIG, md5(B, None, b"k"), md5(A, None, b"k")),
        (TCP_AO_ADD_KEY, ao(B, "hmac(sha1)", (1, 1), b"k").to_bytes(), ao(A, "hmac(sha1)", (1, 1), b"k").to_bytes()),
    ];
    for (name, to_b, to_a) in keys {
        let w = World::new();
        let set = |s: &Socket, v: &[u8]| s.setsockopt(IPPROTO_TCP, name, v).unwrap();
        let (_l, c, s) = connect_with(&w, |c| set(c, &to_b), |l| set(l, &to_a), 1000);
        let s = s.unwrap();
        w.transfer(&c, &s, &pattern(1000));
        w.run(100);
        c.shutdown(SHUT_WR).unwrap();
        w.run(100);
        assert_eq!(c.sk.state(), TcpState::FinWait2);
        // The client's last ACK is lost: only its time-wait entry can answer when the FIN comes again.
        w.b.nf.set(HookPoint::PreRouting, Some(Box::new(|_, _| Verdict::Stolen)));
        s.shutdown(SHUT_WR).unwrap();
        w.run(50);
        assert_eq!((c.sk.state(), s.sk.state()), (TcpState::Close, TcpState::LastAck));
        w.b.nf.set(HookPoint::PreRouting, None);
        w.run(2000);
        assert_eq!(s.sk.state(), TcpState::Close, "{}", w.mibs());
        for m in [Mib::TcpExtTCPMD5NotFound, Mib::TcpExtTCPMD5Failure, Mib::TcpExtTCPAORequired, Mib::TcpExtTCPAOBad] {
            assert_eq!(w.b.mib.get(m), 0, "{m:?}");
        }
    }
}

#[test]
fn nobody_who_signs_is_answered_without_signature() {
    let w = World::new();
    // Nobody listens: without a key the RST would prove nothing to whoever signed the SYN.
    let c = w.socket(&w.a);
    set_md5(&c, B, b"k");
    let _ = c.connect(&addr(B, 81), true, &mut wait());
    w.run(500);
    assert_eq!((w.b.mib.get(Mib::TcpOutRsts), c.sk.state()), (0, TcpState::SynSent));
}
