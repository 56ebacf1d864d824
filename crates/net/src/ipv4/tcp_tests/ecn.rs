//! ECN as two stacks agree on it, mark, and count (RFC 3168, RFC 9768).
//!
//! Interface: tests.
//! Linux counterpart: `include/net/tcp_ecn.h`; packetdrill's `ecn` and `accecn`.
//! Locks and context: a manual clock.

use super::*;
use crate::core::netfilter::{HookPoint, Verdict};
use crate::core::skbuff::Skb;
use crate::hdr::{IPPROTO_TCP, IpHdr, TcpHdr, tcp_flag};
use crate::ipv4::tcp_accecn::tcp_accecn_ace;
use crate::ipv4::tcp_ecn::{tcp_ecn_mode_accecn, tcp_ecn_mode_rfc3168};
use std::sync::Mutex;

/// A segment as it came to a host.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    flags: u8,
    ace: u8,
    ect: u8,
    payload: usize,
    options: Vec<u8>,
}

type Log = Arc<Mutex<Vec<Seen>>>;

fn look(skb: &Skb) -> Option<Seen> {
    let b = skb.data();
    let ip = IpHdr::read(b).filter(|h| h.protocol == IPPROTO_TCP)?;
    let (ihl, ect) = (ip.ihl(), ip.tos & 3);
    let th = TcpHdr::read(&b[ihl..])?;
    Some(Seen {
        flags: th.flags & 0x3f,
        ace: tcp_accecn_ace(th),
        ect,
        payload: skb.len() - ihl - th.header_len(),
        options: b[ihl + TcpHdr::LEN..ihl + th.header_len()].to_vec(),
    })
}

/// Writes down what comes to `net`, changed by `change` first, which drops with `false`.
fn watch(net: &Arc<Net>, change: impl Fn(usize, &Seen, &mut Skb) -> bool + Send + Sync + 'static) -> Log {
    let log = Log::default();
    let out = log.clone();
    net.nf.set(
        HookPoint::PreRouting,
        Some(Box::new(move |_: &Arc<Net>, mut skb: Box<Skb>| {
            let Some(seen) = look(&skb) else { return Verdict::Accept(skb) };
            let mut log = out.lock().unwrap();
            if !change(log.len(), &seen, &mut skb) {
                log.push(seen);
                return Verdict::Stolen;
            }
            log.push(look(&skb).unwrap());
            Verdict::Accept(skb)
        })),
    );
    log
}

fn set_ect(skb: &mut Skb, ect: u8) {
    if let Some(h) = IpHdr::read_mut(skb.data_mut()) {
        h.tos = h.tos & !3 | ect;
    }
}

fn modes(s: &Socket) -> (bool, bool) {
    let mut guard = s.sk.lock_sock();
    let tp = crate::ipv4::tcp_sock::tcp_sk(&mut *guard);
    (tcp_ecn_mode_rfc3168(tp), tcp_ecn_mode_accecn(tp))
}

fn ecn(net: &Arc<Net>, v: i64) {
    net.sysctl.set("net.ipv4.tcp_ecn", v).unwrap();
}

fn world() -> World {
    World::with(NetemParams { delay_ns: 5_000_000, limit: 100_000, ..NetemParams::default() })
}

#[test]
fn who_agrees_on_what() {
    const NONE: (bool, bool) = (false, false);
    const ECN: (bool, bool) = (true, false);
    const ACC: (bool, bool) = (false, true);
    // What the client asks for, down; what the server grants, across.
    let table = [
        [NONE, NONE, NONE, NONE, NONE, NONE],
        [NONE, ECN, ECN, ECN, ECN, ECN],
        [NONE, NONE, NONE, NONE, NONE, NONE],
        [NONE, ECN, ECN, ACC, ACC, ACC],
        [NONE, ECN, ECN, ECN, ECN, ECN],
        [NONE, NONE, NONE, NONE, NONE, NONE],
    ];
    for (client, row) in table.iter().enumerate() {
        for (server, want) in row.iter().enumerate() {
            let w = World::new();
            ecn(&w.a, client as i64);
            ecn(&w.b, server as i64);
            let (c, s) = w.connect();
            w.transfer(&c, &s, &pattern(20_000));
            w.transfer(&s, &c, &pattern(20_000));
            assert_eq!((modes(&c), modes(&s)), (*want, *want), "{client} to {server}");
        }
    }
}

#[test]
fn rfc3168_marks_new_data_only() {
    let w = world();
    ecn(&w.a, 1);
    let at_b = watch(&w.b, |_, _, _| true);
    let at_a = watch(&w.a, |_, _, _| true);
    let (c, s) = w.connect();
    w.transfer(&c, &s, &pattern(50_000));
    let b = at_b.lock().unwrap();
    assert_eq!((b[0].flags, b[0].ace, b[0].ect), (tcp_flag::SYN, 3, 0), "the SYN");
    assert!(b[1..].iter().all(|p| p.ect == if p.payload > 0 { 2 } else { 0 }), "{b:?}");
    let a = at_a.lock().unwrap();
    assert_eq!((a[0].flags, a[0].ace, a[0].ect), (tcp_flag::SYN | tcp_flag::ACK, 1, 0), "the SYN-ACK");
    assert!(a[1..].iter().all(|p| p.ect == 0 && p.ace == 0), "pure ACKs are not marked");
}

#[test]
fn rfc3168_does_not_mark_retransmissions() {
    let w = world();
    ecn(&w.a, 1);
    let log = watch(&w.b, |n, _, _| n != 4);
    let (c, s) = w.connect();
    w.transfer(&c, &s, &pattern(100_000));
    assert!(w.a.mib.get(Mib::TcpRetransSegs) > 0);
    let unmarked = log.lock().unwrap().iter().filter(|p| p.payload > 0 && p.ect == 0).count();
    assert_eq!(unmarked as u64, w.a.mib.get(Mib::TcpRetransSegs));
}

#[test]
fn an_echo_lasts_until_the_sender_has_reacted() {
    let w = world();
    ecn(&w.a, 1);
    let at_b = watch(&w.b, |n, p, skb| {
        if n == 8 && p.payload > 0 {
            set_ect(skb, 3);
        }
        true
    });
    let at_a = watch(&w.a, |_, _, _| true);
    let (c, s) = w.connect();
    w.transfer(&c, &s, &pattern(200_000));
    w.run(100);
    assert!(at_a.lock().unwrap().iter().filter(|p| p.ace & 1 != 0).count() > 1, "ECE");
    let cwr: Vec<_> = at_b.lock().unwrap().iter().skip(1).filter(|p| p.ace & 2 != 0).cloned().collect();
    assert_eq!(cwr.len(), 1, "CWR once: {cwr:?}");
    assert!(cwr[0].payload > 0 && cwr[0].ect == 2);
    send(&c, b"x").unwrap();
    w.run(100);
    assert_eq!(at_a.lock().unwrap().last().unwrap().ace, 0, "no ECE after CWR");
    assert!(info(&s).tcpi_options & TCPI_OPT_ECN_SEEN != 0);
}

#[test]
fn a_syn_dropped_for_its_flags_is_sent_without() {
    for (mode, fallback, last) in [(1, 1, 0), (1, 0, 3), (3, 1, 0), (3, 0, 7)] {
        let w = world();
        ecn(&w.a, mode);
        ecn(&w.b, 3);
        w.a.sysctl.set("net.ipv4.tcp_ecn_fallback", fallback).unwrap();
        let log = watch(&w.b, |n, _, _| n != 0);
        let (c, s) = w.connect();
        assert_eq!(log.lock().unwrap()[1].ace, last);
        assert_eq!(modes(&c), (last == 3, last == 7));
        w.transfer(&c, &s, &pattern(20_000));
    }
}

#[test]
fn an_accecn_handshake_tells_how_the_syns_came() {
    // Code points of the SYN on its way, and of the SYN-ACK; the numbers of SYN-ACK and ACK.
    for (syn, synack, in_synack, in_ack) in [(0, 0, 2, 2), (1, 2, 3, 4), (2, 1, 4, 3), (3, 3, 6, 6)] {
        let w = world();
        ecn(&w.a, 3);
        ecn(&w.b, 3);
        let at_b = watch(&w.b, move |n, _, skb| {
            if n == 0 {
                set_ect(skb, syn);
            }
            true
        });
        let at_a = watch(&w.a, move |n, _, skb| {
            if n == 0 {
                set_ect(skb, synack);
            }
            true
        });
        let (c, s) = w.connect();
        let (a, b) = (at_a.lock().unwrap()[0].clone(), at_b.lock().unwrap().clone());
        assert_eq!((b[0].ace, a.ace, b[1].ace), (7, in_synack, in_ack));
        assert!(a.options.windows(11).any(|o| o == [174, 11, 0, 0, 1, 0, 0, 0, 0, 0, 1]), "{:?}", a.options);
        assert!(b[1].options.windows(2).any(|o| o == [174, 11]), "{:?}", b[1].options);
        assert_eq!((modes(&c), modes(&s)), ((false, true), (false, true)));
        // SYNs go without ECT here, so anything else was not made by a router: no marks from then on.
        let ect = if syn == 0 { 2 } else { 0 };
        drop((a, b));
        w.transfer(&c, &s, &pattern(20_000));
        let log = at_b.lock().unwrap();
        assert!(log[1..].iter().any(|p| p.payload > 0));
        assert!(log[2..].iter().all(|p| p.ect == ect), "SYN as {syn}: {log:?}");
    }
}

#[test]
fn accecn_counts_every_mark() {
    let w = world();
    ecn(&w.a, 3);
    ecn(&w.b, 3);
    let marked = Arc::new(Mutex::new(0u32));
    let m = marked.clone();
    let _log = watch(&w.b, move |n, p, skb| {
        if n % 7 == 3 && p.payload > 0 {
            set_ect(skb, 3);
            *m.lock().unwrap() += (skb.gso_segs as u32).max(1);
        }
        true
    });
    let (c, s) = w.connect();
    w.transfer(&c, &s, &pattern(1_000_000));
    w.run(500);
    let (i, r, marked) = (info(&c), info(&s), *marked.lock().unwrap());
    assert!(marked > 10);
    assert_eq!(r.tcpi_received_ce, marked);
    assert_eq!(i.tcpi_delivered_ce, marked, "the sender knows of each");
    assert_eq!(r.tcpi_received_e0_bytes + r.tcpi_received_ce_bytes, 1_000_000);
    assert_eq!(i.tcpi_delivered_e0_bytes, r.tcpi_received_e0_bytes);
    assert_eq!(i.tcpi_delivered_ce_bytes, r.tcpi_received_ce_bytes);
    assert_eq!((i.tcpi_accecn_opt_seen, r.tcpi_accecn_opt_seen, i.tcpi_accecn_fail_mode), (2, 2, 0));
    assert_eq!(w.a.mib.get(Mib::TcpExtTCPDeliveredCE), marked as u64);
    assert!(
        w.b.mib.get(Mib::IpExtInECT0Pkts) > 100 && w.b.mib.get(Mib::IpExtInCEPkts) == 0,
        "marked behind the counter"
    );
    assert!(i.tcpi_snd_ssthresh < 0x7fff_ffff, "the window was reduced");
}

/// The kinds of a header's options; what is in them may look like anything.
fn option_kinds(mut options: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [kind, rest @ ..] = options {
        let len = match (kind, rest) {
            (0, _) => break,
            (1, _) => 1,
            (_, [len, ..]) => (*len as usize).max(2),
            (_, []) => break,
        };
        kinds.push(*kind);
        options = options.get(len..).unwrap_or_default();
    }
    kinds
}

#[test]
fn accecn_survives_loss_and_works_without_options() {
    for option in [0, 1, 2] {
        let w = World::with(NetemParams { delay_ns: 5_000_000, loss: 0.02, limit: 100_000, ..NetemParams::default() });
        ecn(&w.a, 3);
        ecn(&w.b, 3);
        [&w.a, &w.b].iter().for_each(|n| n.sysctl.set("net.ipv4.tcp_ecn_option", option).unwrap());
        let at_b = watch(&w.b, |n, p, skb| {
            if n % 5 == 3 && p.payload > 0 {
                set_ect(skb, 3);
            }
            true
        });
        let (c, s) = w.connect();
        w.transfer(&c, &s, &pattern(500_000));
        w.transfer(&s, &c, &pattern(100_000));
        w.run(1000);
        if modes(&c) == (false, true) {
            assert_eq!(info(&c).tcpi_delivered_ce % 8, info(&s).tcpi_received_ce % 8, "{}", w.mibs());
            let retransmissions_too = at_b.lock().unwrap().iter().skip(2).all(|p| p.ect >= 2);
            assert!(retransmissions_too);
        }
        if option == 0 {
            let has_option = |p: &Seen| option_kinds(&p.options).iter().any(|k| [172, 174].contains(k));
            assert!(!at_b.lock().unwrap().iter().filter(|p| p.payload > 0).any(has_option));
        }
    }
}

#[test]
fn a_path_that_wipes_the_flags_is_noticed() {
    let w = world();
    ecn(&w.a, 3);
    ecn(&w.b, 3);
    let _wiped = watch(&w.b, |n, _, skb| {
        if n > 0 {
            let ihl = IpHdr::read(skb.data()).map_or(20, |h| h.ihl());
            if let Some(th) = TcpHdr::read_mut(&mut skb.data_mut()[ihl..]) {
                th.flags &= 0x3f;
                th.doff &= !1;
            }
            skb.ip_summed = crate::core::skbuff::IpSummed::Unnecessary;
        }
        true
    });
    let at_a = watch(&w.a, |_, _, _| true);
    let (c, s) = w.connect();
    w.transfer(&s, &c, &pattern(50_000));
    assert_eq!(info(&s).tcpi_accecn_fail_mode, 2, "ACE_FAIL_RECV");
    assert!(at_a.lock().unwrap()[1..].iter().all(|p| p.ect == 0), "what is sent is not marked");
}

#[test]
fn accecn_of_a_connection_that_a_cookie_stood_for() {
    let w = world();
    ecn(&w.a, 3);
    ecn(&w.b, 3);
    w.b.sysctl.set("net.ipv4.tcp_syncookies", 2).unwrap();
    let (c, s) = w.connect();
    assert_eq!((modes(&c), modes(&s)), ((false, true), (false, true)));
    w.transfer(&c, &s, &pattern(100_000));
    w.transfer(&s, &c, &pattern(100_000));
    assert_eq!(w.b.mib.get(Mib::TcpExtSyncookiesRecv), 1);
}

#[test]
fn accecn_when_both_open_at_once() {
    let w = world();
    ecn(&w.a, 3);
    ecn(&w.b, 3);
    let (x, y) = (w.socket(&w.a), w.socket(&w.b));
    x.bind(&addr(A, 1000)).unwrap();
    y.bind(&addr(B, 2000)).unwrap();
    let _ = x.connect(&addr(B, 2000), true, &mut wait());
    let _ = y.connect(&addr(A, 1000), true, &mut wait());
    w.run(3000);
    assert_eq!((x.sk.state(), y.sk.state()), (TcpState::Established, TcpState::Established), "{}", w.mibs());
    assert_eq!((modes(&x), modes(&y)), ((false, true), (false, true)));
    w.transfer(&x, &y, &pattern(50_000));
    w.transfer(&y, &x, &pattern(50_000));
}
