//! Look-ups, listeners, port choice, time-wait entries.

use super::*;
use crate::ipv4::inet_sock::inet_sk;
use crate::ipv4::inet_timewait_sock::{TCP_TIMEWAIT_LEN, TimewaitInit};
use crate::ipv4::test_support::{TestNet, bare_sock, ip, tuple};
use std::sync::atomic::AtomicBool;
use uapi::socket::{AF_INET, AF_INET6};

fn listening(t: &TestNet, v6: bool, addr: &str, port: u16, flags: SockFlags, dev: u32) -> Arc<Sock> {
    let sk = bare_sock(&t.net, if v6 { AF_INET6 } else { AF_INET });
    sk.set_flag(flags, true);
    sk.bound_dev_if.store(dev, Relaxed);
    sk.set_state(TcpState::Listen);
    let mut state = sk.lock_sock();
    let inet = inet_sk(&mut *state);
    (inet.rcv_saddr, inet.num) = (ip(addr), port);
    inet_hash(&sk, inet).unwrap();
    drop(state);
    sk
}

fn found(t: &TestNet, laddr: &str, lport: u16, faddr: &str, fport: u16, dif: u32) -> Option<u64> {
    __inet_lookup_listener(&t.net, &tuple(laddr, lport, faddr, fport), dif).map(|sk| sk.cookie)
}

#[test]
fn the_best_listener_is_found() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    let none = SockFlags::empty();
    let dual = listening(&t, true, "::", 80, none, 0);
    assert_eq!(found(&t, "10.0.0.1", 80, "10.0.0.2", 1, 1), Some(dual.cookie), "IPv6's wildcard takes IPv4");
    let v4 = listening(&t, false, "0.0.0.0", 80, none, 0);
    assert_eq!(found(&t, "10.0.0.1", 80, "10.0.0.2", 1, 1), Some(v4.cookie), "IPv4's own is better");
    assert_eq!(found(&t, "fe80::1", 80, "fe80::2", 1, 1), Some(dual.cookie));
    let dev = listening(&t, false, "0.0.0.0", 80, none, 7);
    assert_eq!(found(&t, "10.0.0.1", 80, "10.0.0.2", 1, 7), Some(dev.cookie), "bound to the device is better");
    assert_eq!(found(&t, "10.0.0.1", 80, "10.0.0.2", 1, 6), Some(v4.cookie));
    let exact = listening(&t, false, "10.0.0.1", 80, none, 0);
    assert_eq!(found(&t, "10.0.0.1", 80, "10.0.0.2", 1, 7), Some(exact.cookie), "the very address is best");
    assert_eq!(found(&t, "10.0.0.1", 81, "10.0.0.2", 1, 1), None);

    for sk in [&dual, &v4, &dev, &exact] {
        inet_unhash(sk);
    }
    let only = listening(&t, true, "::", 80, SockFlags::V6ONLY, 0);
    assert_eq!(found(&t, "10.0.0.1", 80, "10.0.0.2", 1, 1), None, "IPV6_V6ONLY");
    assert_eq!(found(&t, "::1", 80, "::1", 1, 1), Some(only.cookie));
}

#[test]
fn reuseport_spreads_connections_and_stays_with_a_choice() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    let group: Vec<_> = (0..4).map(|_| listening(&t, false, "0.0.0.0", 80, SockFlags::REUSEPORT, 0)).collect();
    let mut hits = std::collections::BTreeMap::new();
    for fport in 1..1000 {
        let a = found(&t, "10.0.0.1", 80, "10.0.0.2", fport, 1).unwrap();
        assert_eq!(found(&t, "10.0.0.1", 80, "10.0.0.2", fport, 1), Some(a));
        *hits.entry(a).or_insert(0) += 1;
    }
    assert_eq!(hits.len(), 4);
    assert!(hits.values().all(|&n| n > 150), "{hits:?}");
    inet_unhash(&group[0]);
    assert!((1..1000).all(|fport| found(&t, "10.0.0.1", 80, "10.0.0.2", fport, 1) != Some(group[0].cookie)));
    group.iter().for_each(inet_unhash);
    assert_eq!(found(&t, "10.0.0.1", 80, "10.0.0.2", 1, 1), None);
}

#[test]
fn sk_lookup_comes_before_the_listeners() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    let normal = listening(&t, false, "0.0.0.0", 80, SockFlags::empty(), 0);
    let all = listening(&t, false, "0.0.0.0", 1, SockFlags::empty(), 0);
    let l = all.clone();
    set_sk_lookup(&t.net, Some(Box::new(move |t| (t.lport != 22).then(|| l.clone()))));
    assert_eq!(found(&t, "93.184.216.34", 443, "10.0.2.15", 1, 1), Some(all.cookie));
    assert_eq!(found(&t, "10.0.0.1", 80, "10.0.2.15", 1, 1), Some(all.cookie));
    assert_eq!(found(&t, "10.0.0.1", 22, "10.0.2.15", 1, 1), None);
    set_sk_lookup(&t.net, None);
    assert_eq!(found(&t, "10.0.0.1", 80, "10.0.2.15", 1, 1), Some(normal.cookie));
}

/// The binding that counts is the socket's as it is now, as in Linux, for IPv4 and IPv6.
#[test]
fn a_connection_bound_to_a_device_is_found_by_it() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    for (v6, laddr, faddr) in [(false, "10.0.0.1", "10.0.0.2"), (true, "fe80::1", "fe80::2")] {
        let sk = bare_sock(&t.net, if v6 { AF_INET6 } else { AF_INET });
        let c = tuple(laddr, 80, faddr, 1000);
        inet_ehash_insert(&sk, &c).unwrap();
        let found = |c, dif| __inet_lookup_established(&t.net, c, dif).is_some_and(|e| e.sock.is_sock(&sk));
        assert!(found(&c, 1) && found(&c, 2) && found(&c, ANY_DEVICE));
        assert_eq!(sk_tuple(&sk), Some(c));
        sk.bound_dev_if.store(1, Relaxed);
        assert!(found(&c, 1) && !found(&c, 2) && found(&c, ANY_DEVICE));
        let others = [
            tuple(laddr, 81, faddr, 1000),
            tuple(laddr, 80, faddr, 1001),
            InetTuple { laddr: c.faddr, ..c },
            InetTuple { faddr: c.laddr, ..c },
        ];
        assert!(others.iter().all(|o| !found(o, 1)), "each coordinate counts");
        inet_unhash(&sk);
        assert!(!found(&c, 1) && !sk_hashed(&sk) && sk_tuple(&sk).is_none());
    }
}

fn connecting(t: &TestNet, daddr: &str, dport: u16) -> (Arc<Sock>, Result<Recycled>) {
    let sk = bare_sock(&t.net, AF_INET);
    sk.set_state(TcpState::SynSent);
    let mut state = sk.lock_sock();
    let inet = inet_sk(&mut *state);
    (inet.rcv_saddr, inet.daddr, inet.dport) = (ip("127.0.0.1"), ip(daddr), dport);
    let r = __inet_hash_connect(&sk, inet);
    drop(state);
    (sk, r)
}

#[test]
fn ports_run_out_for_each_destination_by_itself() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    t.net.sysctl.ip_local_port_min.set(40000).unwrap();
    t.net.sysctl.ip_local_port_max.set(40099).unwrap();
    let (first, r) = connecting(&t, "127.0.0.1", 80);
    assert!(r.is_ok());
    assert_eq!(first.hashed.bind_port() % 2, 0, "connect takes even ports first");
    let mut socks = vec![first];
    for _ in 1..100 {
        let (sk, r) = connecting(&t, "127.0.0.1", 80);
        assert!(r.is_ok());
        socks.push(sk);
    }
    let mut ports: Vec<u16> = socks.iter().map(|s| s.hashed.bind_port()).collect();
    ports.sort_unstable();
    assert_eq!(ports, (40000..40100).collect::<Vec<u16>>());
    assert_eq!(connecting(&t, "127.0.0.1", 80).1.err(), Some(Errno::EADDRNOTAVAIL));
    assert!(connecting(&t, "127.0.0.1", 81).1.is_ok(), "another destination has all ports");
    inet_unhash(&socks[5]);
    inet_put_port(&socks[5]);
    assert!(connecting(&t, "127.0.0.1", 80).1.is_ok(), "the port that was given back");
}

#[test]
fn connect_leaves_bound_ports_alone() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    t.net.sysctl.ip_local_port_min.set(40000).unwrap();
    t.net.sysctl.ip_local_port_max.set(40001).unwrap();
    let bound = bare_sock(&t.net, AF_INET);
    tcp_hashinfo(&t.net).bind_bucket(40000).bind(&bound, ip("127.0.0.1"), 40000);
    let (sk, r) = connecting(&t, "127.0.0.1", 80);
    assert!(r.is_ok());
    assert_eq!(sk.hashed.bind_port(), 40001);
    assert_eq!(connecting(&t, "127.0.0.1", 80).1.err(), Some(Errno::EADDRNOTAVAIL));
}

fn time_wait(sk: &Arc<Sock>, stamp: u32) -> Arc<InetTimewaitSock> {
    let mut state = sk.lock_sock();
    let tuple = inet_sk(&mut *state).tuple();
    drop(state);
    let init = TimewaitInit {
        tuple,
        family: AF_INET as u16,
        reuse: false,
        reuseport: false,
        ipv6only: false,
        tos: 0,
        rcv_wscale: 0,
        substate: TcpState::TimeWait,
        auth: None,
        bound_dev_if: 0,
        mark: 0,
        rcv_nxt: 1,
        snd_nxt: 2,
        rcv_wnd: 0,
        ts_offset: 0,
        ts_recent: 0,
        ts_recent_stamp: stamp,
    };
    let tw = InetTimewaitSock::alloc(&sk.net, init, inet_twsk_expired);
    assert!(inet_twsk_hashdance(&tw, sk));
    tw.reschedule(TCP_TIMEWAIT_LEN);
    tw
}

#[test]
fn a_time_wait_entry_takes_the_socket_s_place_for_a_minute() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    let (sk, r) = connecting(&t, "127.0.0.1", 80);
    assert!(r.is_ok());
    let tw = time_wait(&sk, 0);
    let at = |t: &TestNet| __inet_lookup_established(&t.net, &tw.tuple, 0);
    assert!(matches!(&at(&t).unwrap().sock, EhashSock::Timewait(x) if Arc::ptr_eq(x, &tw)));
    assert_eq!(sk.hashed.bind_port(), 0, "the port is the entry's now");
    inet_unhash(&sk);
    inet_put_port(&sk);
    assert!(at(&t).is_some(), "what the socket does no longer matters");
    assert_eq!(tcp_hashinfo(&t.net).bind_bucket(tw.tuple.lport).owners().len(), 1);
    t.advance(59_000);
    assert!(at(&t).is_some());
    t.advance(10_000);
    assert!(at(&t).is_none());
    assert!(tcp_hashinfo(&t.net).bind_bucket(tw.tuple.lport).is_empty());
    assert_eq!(tcp_hashinfo(&t.net).tw_count.load(Relaxed), 0);
}

#[test]
fn a_connection_in_time_wait_gives_way_to_timestamps_only() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    t.net.sysctl.ip_local_port_min.set(40000).unwrap();
    t.net.sysctl.ip_local_port_max.set(40000).unwrap();
    let (sk, _) = connecting(&t, "127.0.0.1", 80);
    let tw = time_wait(&sk, 0);
    t.advance(5000);
    assert_eq!(connecting(&t, "127.0.0.1", 80).1.err(), Some(Errno::EADDRNOTAVAIL), "no timestamps");
    inet_twsk_kill(&tw);

    let (sk, _) = connecting(&t, "127.0.0.1", 80);
    let tw = time_wait(&sk, (t.kernel.ktime_get() / 1_000_000_000) as u32);
    assert_eq!(connecting(&t, "127.0.0.1", 80).1.err(), Some(Errno::EADDRNOTAVAIL), "within the same second");
    t.advance(2000);
    let (sk, r) = connecting(&t, "127.0.0.1", 80);
    assert!(matches!(r, Ok(Some(x)) if Arc::ptr_eq(&x, &tw)));
    let e = __inet_lookup_established(&t.net, &tw.tuple, 0).unwrap();
    assert!(matches!(&e.sock, EhashSock::Sock(x) if Arc::ptr_eq(x, &sk)));
    assert_eq!(tcp_hashinfo(&t.net).bind_bucket(40000).owners().len(), 1);
    assert_eq!(tcp_hashinfo(&t.net).tw_count.load(Relaxed), 0);
}

#[test]
fn owners_of_a_port_come_and_go_in_any_order() {
    let t = TestNet::new();
    let _inside = t.kernel.enter();
    let mut socks: Vec<_> = (0..50).map(|_| bare_sock(&t.net, AF_INET)).collect();
    for sk in &socks {
        tcp_hashinfo(&t.net).bind_bucket(80).bind(sk, ip("127.0.0.1"), 80);
    }
    let mut at = 0;
    while !socks.is_empty() {
        at = (at * 7 + 3) % socks.len();
        inet_put_port(&socks.swap_remove(at));
        assert_eq!(tcp_hashinfo(&t.net).bind_bucket(80).owners().len(), socks.len());
    }
}

#[test]
fn lookups_see_every_connection_that_stays_while_others_come_and_go() {
    let t = TestNet::new();
    let stop = AtomicBool::new(false);
    let stays: Vec<_> = {
        let _inside = t.kernel.enter();
        (0..200u16).map(|n| (bare_sock(&t.net, AF_INET), tuple("10.0.0.1", 80, "10.0.0.2", 10000 + n))).collect()
    };
    for (sk, tuple) in &stays {
        let _inside = t.kernel.enter();
        inet_ehash_insert(sk, tuple).unwrap();
    }
    std::thread::scope(|s| {
        let writers: Vec<_> = (0..2u16)
            .map(|w| {
                let t = &t;
                s.spawn(move || {
                    let _inside = t.kernel.enter();
                    for round in 0..5u16 {
                        let socks: Vec<_> = (0..1000u16)
                            .map(|n| {
                                let sk = bare_sock(&t.net, AF_INET);
                                inet_ehash_insert(&sk, &tuple("10.0.0.1", w, "10.0.0.3", round * 1000 + n)).unwrap();
                                sk
                            })
                            .collect();
                        socks.iter().for_each(inet_unhash);
                    }
                })
            })
            .collect();
        let reader = s.spawn(|| {
            let _inside = t.kernel.enter();
            let mut rounds = 0;
            while !stop.load(Relaxed) || rounds == 0 {
                for (sk, tuple) in &stays {
                    let e = __inet_lookup_established(&t.net, tuple, 0).expect("a connection that stays");
                    assert!(matches!(&e.sock, EhashSock::Sock(x) if Arc::ptr_eq(x, sk)));
                }
                rounds += 1;
            }
        });
        for w in writers {
            w.join().unwrap();
        }
        stop.store(true, Relaxed);
        reader.join().unwrap();
    });
    assert_eq!(tcp_hashinfo(&t.net).ehash.len(), 200);
}
