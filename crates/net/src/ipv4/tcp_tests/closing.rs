//! The end of connections: lingering, orphans, TIME_WAIT, keepalive.
//!
//! Interface: tests.
//! Linux counterpart: `tcp(7)`, `socket(7)`.
//! Locks and context: a manual clock.

use super::*;
use crate::hdr::tcp_flag::{ACK, FIN};
use crate::ipv4::inet_hashtables::tcp_hashinfo;
use std::sync::atomic::Ordering::Relaxed;

fn linger(s: &Socket, secs: i32) {
    let v = [1i32.to_ne_bytes(), secs.to_ne_bytes()].concat();
    s.setsockopt(SOL_SOCKET, SO_LINGER, &v).unwrap();
}

#[test]
fn close_lingers_until_the_peer_has_everything() {
    let w = World::new();
    let (c, s) = w.connect();
    linger(&c, 30);
    send(&c, &pattern(5000)).unwrap();
    let mut wait = wait();
    assert!(c.close(&mut wait).is_pending());
    w.run(5);
    assert!(c.close(&mut wait).is_pending(), "under way");
    // The FIN's acknowledgement may be delayed.
    w.run(100);
    assert!(c.close(&mut wait).is_ready());
    assert_eq!(s.sk.state(), TcpState::CloseWait);
    assert_eq!(recv(&s, 10_000, 0).map(|b| b.len()), Ok(5000));
    s.release();
    w.run(50);
    assert_eq!(c.sk.state(), TcpState::Close);
    assert_eq!(tcp_hashinfo(&w.a).orphan_count.load(Relaxed), 0);
}

#[test]
fn lingering_ends_with_its_time_and_the_connection_goes_on() {
    let w = World::new();
    let (c, s) = w.connect();
    linger(&c, 2);
    w.set(NetemParams { loss: 1.0, ..NetemParams::default() });
    send(&c, b"lost at first").unwrap();
    let mut wait = wait();
    let start = w.now();
    while c.close(&mut wait).is_pending() {
        w.run(10);
        assert!(w.now() - start < 10_000);
    }
    assert!((1_990..2_100).contains(&(w.now() - start)), "{}", w.now() - start);
    assert_eq!(c.sk.state(), TcpState::FinWait1);
    w.set(NetemParams::default());
    w.run(20_000);
    assert_eq!(recv(&s, 100, 0).as_deref(), Ok(&b"lost at first"[..]), "in the background");
}

#[test]
fn close_without_linger_and_of_a_listener_does_not_wait() {
    let w = World::new();
    let (c, _s) = w.connect();
    send(&c, b"x").unwrap();
    assert!(c.close(&mut wait()).is_ready());
    let l = w.listen(81);
    linger(&l, 10);
    assert!(l.close(&mut wait()).is_ready());
    assert!(l.close(&mut wait()).is_ready(), "twice");
}

#[test]
fn linger_of_no_time_resets() {
    let w = World::new();
    let (c, s) = w.connect();
    linger(&c, 0);
    send(&c, b"never mind").unwrap();
    assert!(c.close(&mut wait()).is_ready());
    w.run(20);
    assert_eq!(w.a.mib.get(Mib::TcpExtTCPAbortOnData), 1);
    assert_eq!((c.sk.state(), s.sk.state()), (TcpState::Close, TcpState::Close));
}

#[test]
fn data_for_nobody_is_reset() {
    let w = World::new();
    let (c, s) = w.connect();
    c.release();
    w.run(50);
    // TIME_WAIT's light entry stands for FIN_WAIT2.
    send(&s, b"anyone?").unwrap();
    w.run(50);
    assert_eq!(s.sk.state(), TcpState::Close);
    assert_eq!(send(&s, b"hello?"), Err(Errno::EPIPE), "reset in CLOSE_WAIT");
}

#[test]
fn an_orphan_that_does_not_linger_in_fin_wait2_is_reset() {
    let w = World::new();
    let (c, s) = w.connect();
    set_int(&c, IPPROTO_TCP, TCP_LINGER2, -1);
    c.release();
    w.run(50);
    assert_eq!(w.a.mib.get(Mib::TcpExtTCPAbortOnData), 1, "{}", w.mibs());
    assert_eq!((c.sk.state(), s.sk.state()), (TcpState::Close, TcpState::Close));
    assert_eq!(w.a.mib.get(Mib::TcpOutRsts), 1);
}

#[test]
fn fin_wait2_of_an_orphan_ends_in_its_time() {
    // Of more than a minute, the part beyond it is spent as a socket, and once more as TIME_WAIT's light entry.
    for (linger2, ends) in [(0, 60_000u64), (5, 5_000), (100, 80_000)] {
        let w = World::new();
        let (c, s) = w.connect();
        if linger2 != 0 {
            set_int(&c, IPPROTO_TCP, TCP_LINGER2, linger2);
        }
        c.release();
        w.run(ends - 500);
        assert!(tcp_hashinfo(&w.a).tw_count.load(Relaxed) == 1 || c.sk.state() == TcpState::FinWait2, "{linger2}");
        // Long timers may fire late.
        w.run(10_000);
        assert_eq!(tcp_hashinfo(&w.a).tw_count.load(Relaxed), 0, "{linger2}");
        assert_eq!(c.sk.state(), TcpState::Close, "{linger2}");
        drop(s);
    }
}

#[test]
fn too_many_orphans_are_reset() {
    let w = World::new();
    w.a.sysctl.set("net.ipv4.tcp_max_orphans", 0).unwrap();
    let (c, s) = w.connect();
    send(&c, b"x").unwrap();
    c.release();
    assert_eq!(c.sk.state(), TcpState::Close);
    assert_eq!(w.a.mib.get(Mib::TcpExtTCPAbortOnMemory), 1);
    w.run(50);
    assert_eq!(s.sk.state(), TcpState::Close);
}

#[test]
fn time_wait_is_counted_bounded_and_reused_after_a_while() {
    let w = World::new();
    w.a.sysctl.set("net.ipv4.tcp_tw_reuse", 1).unwrap();
    let (c, s) = w.connect();
    let port = match c.getname(false).unwrap() {
        SockAddr::V4(a) => a.port(),
        a => panic!("{a:?}"),
    };
    set_int(&c, SOL_SOCKET, SO_REUSEADDR, 1);
    c.release();
    w.run(20);
    s.release();
    w.run(50);
    assert_eq!(w.a.mib.get(Mib::TcpExtTW), 1, "counted when it begins: {}", w.mibs());
    let again = || {
        let c = w.socket(&w.a);
        set_int(&c, SOL_SOCKET, SO_REUSEADDR, 1);
        c.bind(&addr(A, port)).unwrap();
        let r = c.connect(&addr(B, 80), true, &mut wait());
        (c, r)
    };
    let _l = w.listen(80);
    assert_eq!(again().1, Poll::Ready(Err(Errno::EADDRNOTAVAIL)), "sooner than tcp_tw_reuse_delay");
    w.run(1000);
    let (c, r) = again();
    assert_eq!(r, Poll::Ready(Err(Errno::EINPROGRESS)));
    assert_eq!(w.a.mib.get(Mib::TcpExtTWRecycled), 1);
    w.run(50);
    assert_eq!(c.sk.state(), TcpState::Established);
    // No room for more.
    w.a.sysctl.set("net.ipv4.tcp_max_tw_buckets", 0).unwrap();
    let Poll::Ready(Ok(s)) = _l.accept(true, &mut wait()) else { panic!("nobody came") };
    c.release();
    w.run(50);
    s.release();
    w.run(50);
    assert_eq!(w.a.mib.get(Mib::TcpExtTCPTimeWaitOverflow), 1);
}

#[test]
fn a_dead_route_does_not_keep_a_connection_alive() {
    let w = World::new();
    let (c, _s) = w.connect();
    set_int(&c, IPPROTO_TCP, TCP_KEEPIDLE, 10);
    set_int(&c, IPPROTO_TCP, TCP_KEEPINTVL, 5);
    set_int(&c, IPPROTO_TCP, TCP_KEEPCNT, 3);
    set_int(&c, SOL_SOCKET, SO_KEEPALIVE, 1);
    {
        let _inside = w.t.kernel.enter();
        let dev = crate::core::dev::dev_get_by_name(&w.a, "eth0").unwrap();
        crate::core::dev::dev_close(&dev);
    }
    w.run(30_000);
    assert_eq!(c.sk.state(), TcpState::Close, "{}", w.mibs());
    assert_eq!(w.a.mib.get(Mib::TcpExtTCPKeepAlive), 3);
}

#[test]
fn user_timeout_ends_keepalive() {
    let w = World::new();
    let (c, _s) = w.connect();
    set_int(&c, IPPROTO_TCP, TCP_KEEPIDLE, 10);
    set_int(&c, IPPROTO_TCP, TCP_KEEPINTVL, 2);
    set_int(&c, IPPROTO_TCP, TCP_KEEPCNT, 100);
    set_int(&c, IPPROTO_TCP, TCP_USER_TIMEOUT, 15_000);
    set_int(&c, SOL_SOCKET, SO_KEEPALIVE, 1);
    w.set(NetemParams { loss: 1.0, ..NetemParams::default() });
    w.run(14_500);
    assert_eq!(c.sk.state(), TcpState::Established);
    w.run(3_000);
    assert_eq!(c.sk.state(), TcpState::Close);
    assert_eq!(recv(&c, 1, 0), Err(Errno::ETIMEDOUT));
}

#[test]
fn a_fin_behind_a_hole_counts_once() {
    let w = World::new();
    let (_c, s) = w.connect();
    inject(&s, |tp| (tp.rcv_nxt.wrapping_add(10), tp.snd_nxt, ACK | FIN, stamp(tp, 0), 10));
    assert_eq!(s.sk.state(), TcpState::Established);
    inject(&s, |tp| (tp.rcv_nxt, tp.snd_nxt, ACK, stamp(tp, 0), 10));
    assert_eq!(s.sk.state(), TcpState::CloseWait);
    assert_eq!(recv(&s, 100, 0).map(|b| b.len()), Ok(20));
    assert_eq!(recv(&s, 100, 0).map(|b| b.len()), Ok(0));
}

#[test]
fn segments_that_meet_an_owner_are_joined() {
    let w = World::new();
    let (c, s) = w.connect();
    set_int(&c, IPPROTO_TCP, TCP_NODELAY, 1);
    w.transfer(&c, &s, &pattern(100));
    {
        let _owner = s.sk.lock_sock();
        for i in 0..5u8 {
            send(&c, &[i; 100]).unwrap();
        }
        w.run(8);
    }
    assert_eq!(w.b.mib.get(Mib::TcpExtTCPBacklogCoalesce), 4, "{}", w.mibs());
    let got = recv(&s, 1000, 0).unwrap();
    assert_eq!(got, (0..5u8).flat_map(|i| [i; 100]).collect::<Vec<u8>>());
    assert_eq!(s.sk.rmem_alloc.load(SeqCst), 0);
    w.run(500);
    assert_eq!(info(&c).tcpi_unacked, 0);
    assert_eq!(w.a.mib.get(Mib::TcpRetransSegs), 0);
}
