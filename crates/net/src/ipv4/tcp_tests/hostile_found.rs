//! What the game of a hostile peer has found (`tests/tcp_hostile.rs`), one test each.
//!
//! Interface: tests.
//! Linux counterpart: none.
//! Locks and context: a manual clock.

use super::*;
use crate::core::dev::dev_set_mtu;
use crate::ipv4::tcp_retransmit::tcp_mtu_reduced;

/// A minimum above the maximum had the next round-trip time panic.
#[test]
fn times_set_by_option_stay_within_linux_s_bounds() {
    let w = World::new();
    let (c, s) = w.connect();
    for (name, most) in [(TCP_RTO_MIN_US, 200_000), (TCP_DELACK_MAX_US, 200_000)] {
        for bad in [i32::MAX, most + 1, 1000, 0, -1] {
            assert_eq!(c.setsockopt(IPPROTO_TCP, name, &bad.to_ne_bytes()), Err(Errno::EINVAL), "{name} {bad}");
        }
        assert_eq!(c.setsockopt(IPPROTO_TCP, name, &most.to_ne_bytes()), Ok(()));
    }
    w.transfer(&c, &s, &pattern(10_000));
}

/// Without SACK, what duplicate ACKs have counted as delivered was counted as lost as well.
#[test]
fn a_smaller_path_does_not_count_segments_twice_without_sack() {
    let w = World::new();
    w.a.sysctl.set("net.ipv4.tcp_sack", 0).unwrap();
    let (c, _s) = w.connect();
    w.run(50);
    w.set(NetemParams { loss: 1.0, ..NetemParams::default() });
    send(&c, &pattern(14_000)).unwrap();
    let mut guard = c.sk.lock_sock();
    let tp = super::super::tcp_sock::tcp_sk(&mut *guard);
    assert!(tp.packets_out >= 10);
    tp.sacked_out = 5;
    tcp_mtu_reduced(&c.sk, tp, 1000);
    assert!(tp.lost_out > 0);
    assert!(tp.left_out() <= tp.packets_out, "{} + {} of {}", tp.sacked_out, tp.lost_out, tp.packets_out);
}

/// Each attempt that failed here began the count of the peer's silence anew.
#[test]
fn an_orphan_that_cannot_send_at_all_ends() {
    let w = World::new();
    let (c, _s) = w.connect();
    w.set(NetemParams { loss: 1.0, ..NetemParams::default() });
    send(&c, &pattern(1000)).unwrap();
    c.release();
    // From here on there is no way to the peer.
    let dev = crate::core::dev::dev_get_by_name(&w.a, "eth0").unwrap();
    dev_set_mtu(&dev, 68).unwrap();
    crate::ipv4::devinet::inet_addr_del(&dev, A, 24).unwrap();
    for _ in 0..20 {
        w.t.advance(60_000);
    }
    assert_eq!(c.sk.state(), TcpState::Close, "{}", w.mibs());
}

/// A round trip of minutes, which a peer can have us measure, made the next connection's first timeout longer than the longest.
#[test]
fn what_is_known_of_a_path_does_not_exceed_the_longest_timeout() {
    for (rtt_us, rto) in [(8 * 150_000_000, 120_000), (8 * 1_000_000, 3000)] {
        let w = World::new();
        let table = &crate::ipv4::inet_hashtables::tcp_hashinfo(&w.a).metrics;
        table.with(&w.a, A.into(), B.into(), true, |m| m.path.rtt_us = rtt_us);
        let (c, _s) = w.connect();
        let mut guard = c.sk.lock_sock();
        let tp = super::super::tcp_sock::tcp_sk(&mut *guard);
        assert_eq!(tp.icsk_rto, rto);
    }
}
