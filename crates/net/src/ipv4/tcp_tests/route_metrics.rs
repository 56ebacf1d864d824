//! What a route says, and what a connection over it does.
//!
//! Interface: tests.
//! Linux counterpart: `ip route … rto_min`, `initcwnd` and the like (`ip-route(8)`).
//! Locks and context: a manual clock.

use super::*;
use crate::core::dev::dev_get_by_name;
use crate::core::dst_metrics::{DstMetrics, RTAX_FEATURE_ECN, Rtax};
use crate::core::flow::Flow;
use crate::core::netfilter::{HookPoint, Verdict};
use crate::hdr::IpHdr;
use crate::ipv4::fib_frontend::{RouteSpec, ip_route_add, ip_route_change, ip_route_del, ip_route_replace};
use crate::ipv4::route::ip_update_pmtu;
use crate::ipv4::tcp_ca::{tcp_register_congestion_control, tcp_unregister_congestion_control};
use crate::ipv4::tcp_cong::RENO_OPS;
use crate::ipv4::tcp_sock::{TcpCongestionOps, tcp_sk};
use crate::ipv6::route::{Route6Spec, ip6_route_add};
use std::sync::atomic::AtomicU32;

/// The route from `net` to `dst` says this.
fn say(w: &World, net: &Arc<Net>, dst: Ipv4Addr, f: impl FnOnce(&mut DstMetrics)) {
    let _inside = w.t.kernel.enter();
    let mut metrics = DstMetrics::default();
    f(&mut metrics);
    let oif = dev_get_by_name(net, "eth0").unwrap().ifindex;
    ip_route_replace(net, RouteSpec { oif, metrics, ..RouteSpec::new(dst, 32) }).unwrap();
}

fn set(which: Rtax, v: u32) -> impl FnOnce(&mut DstMetrics) {
    move |m| m.set(which, v).unwrap()
}

/// A connection whose client's route says this.
fn connected(f: impl FnOnce(&mut DstMetrics)) -> (World, Arc<Socket>, Arc<Socket>) {
    let w = World::new();
    say(&w, &w.a, B, f);
    let (c, s) = w.connect();
    (w, c, s)
}

/// The port is free again.
fn close(w: &World, c: &Socket, s: &Socket) {
    for x in [c, s] {
        x.release();
        w.run(100);
    }
}

/// `tcp_rto_min`: only a locked one counts.
#[test]
fn rto_min_bounds_the_timeout() {
    let rto = |f: fn(&mut DstMetrics)| {
        let (w, c, s) = connected(f);
        w.transfer(&c, &s, &pattern(100_000));
        info(&c).tcpi_rto / 1000
    };
    let none = rto(|_| ());
    assert!((200..250).contains(&none), "{none}");
    let unlocked = rto(|m| m.set(Rtax::RtoMin, 40).unwrap());
    assert_eq!(unlocked, none);
    let locked = rto(|m| m.set_locked(Rtax::RtoMin, 40).unwrap());
    assert!((40..80).contains(&locked), "{locked}");
    let long = rto(|m| m.set_locked(Rtax::RtoMin, 700).unwrap());
    assert!((700..750).contains(&long), "{long}");
}

/// A lost segment is sent again after the route's time.
#[test]
fn a_short_rto_min_repairs_sooner() {
    let (w, c, s) = connected(|m| m.set_locked(Rtax::RtoMin, 30).unwrap());
    w.transfer(&c, &s, &pattern(100_000));
    w.set(NetemParams { loss: 1.0, ..NetemParams::default() });
    send(&c, b"lost").unwrap();
    w.run(100);
    assert!(w.a.mib.get(Mib::TcpRetransSegs) > 0, "{}", w.mibs());
}

#[test]
fn initcwnd_is_the_first_flight() {
    for (n, f) in [(3, set(Rtax::Initcwnd, 3)), (25, set(Rtax::Initcwnd, 25))] {
        let (w, c, _s) = connected(f);
        set_int(&c, SOL_SOCKET, SO_SNDBUF, 1_000_000);
        let before = info(&c).tcpi_data_segs_out;
        send(&c, &pattern(100_000)).unwrap();
        assert_eq!(info(&c).tcpi_data_segs_out - before, n);
        w.run(1);
    }
}

#[test]
fn window_and_initrwnd_bound_what_is_offered() {
    let wnd = |s: &Socket| {
        let mut guard = s.sk.lock_sock();
        let tp = tcp_sk(&mut *guard);
        (tp.rcv_wnd, tp.window_clamp)
    };
    // The side that connects, and the side that listens.
    for side in [0, 1] {
        let pair = |f: &dyn Fn(&mut DstMetrics)| {
            let w = World::new();
            let (net, to) = if side == 0 { (&w.a, B) } else { (&w.b, A) };
            say(&w, net, to, |m| f(m));
            let (c, s) = w.connect();
            wnd(if side == 0 { &c } else { &s })
        };
        let (plain, _) = pair(&|_| ());
        assert!(plain > 60_000, "{plain}");
        let (small, _) = pair(&|m| m.set(Rtax::Initrwnd, 4).unwrap());
        // Rounded up to the window's scale.
        assert!((4 * 1440..=4 * 1460 + 1024).contains(&small), "{small}");
        let (_, clamp) = pair(&|m| m.set(Rtax::Window, 20_000).unwrap());
        assert!(clamp <= 20_000, "{clamp}");
    }
}

/// `tcp_in_quickack_mode`: no ACK waits, not even in a conversation.
#[test]
fn quickack_answers_at_once() {
    let acks = |quick| {
        let w = World::new();
        say(&w, &w.b, A, |m| m.set(Rtax::Quickack, quick).unwrap());
        let (c, s) = w.connect();
        for _ in 0..10 {
            // Turn by turn: ACKs ride on answers.
            send(&c, b"question").unwrap();
            w.run(15);
            recv(&s, 100, 0).unwrap();
            send(&s, b"answer").unwrap();
            w.run(15);
            recv(&c, 100, 0).unwrap();
        }
        send(&c, b"question").unwrap();
        w.run(12);
        info(&c).tcpi_unacked
    };
    assert_eq!((acks(0), acks(1)), (1, 0));
}

#[test]
fn a_route_chooses_the_congestion_control() {
    let name = |s: &Socket| {
        let b = s.getsockopt(IPPROTO_TCP, TCP_CONGESTION, 16).unwrap();
        String::from_utf8(b).unwrap().trim_end_matches('\0').to_owned()
    };
    for locked in [false, true] {
        let say_reno = |m: &mut DstMetrics| {
            m.set_cc_algo("reno").unwrap();
            if locked {
                m.lock(Rtax::CcAlgo);
            }
        };
        let (w, c, s) = connected(say_reno);
        assert_eq!((name(&c), name(&s)), ("reno".into(), "cubic".into()));
        w.transfer(&c, &s, &pattern(100_000));
        let r = c.setsockopt(IPPROTO_TCP, TCP_CONGESTION, b"bbr");
        assert_eq!(r, if locked { Err(Errno::EPERM) } else { Ok(()) });
        close(&w, &c, &s);
        say(&w, &w.b, A, say_reno);
        let (_c, s) = w.connect();
        assert_eq!(name(&s), "reno", "the side that listens");
    }
}

/// What the kernel answered to `ip route`: before it looks at the next hop, or at what is there already.
#[test]
fn a_route_names_a_congestion_control_that_there_is() {
    static GOES: TcpCongestionOps = TcpCongestionOps { name: "goes", ..RENO_OPS };
    let w = World::new();
    let inside = w.t.kernel.enter();
    let oif = dev_get_by_name(&w.a, "eth0").unwrap().ifindex;
    let mut metrics = DstMetrics::default();
    metrics.set_cc_algo("goes").unwrap();
    let v4 = RouteSpec { oif, metrics, ..RouteSpec::new(B, 32) };
    let v6 = Route6Spec { metrics, ..Route6Spec::new("2001:db8::".parse().unwrap(), 32).dev(oif) };
    let far = Route6Spec { oif: 0, gateway: Some("3000::1".parse().unwrap()), ..v6 };
    for change in [ip_route_add, ip_route_replace, ip_route_change] {
        assert_eq!(change(&w.a, v4.clone()), Err(Errno::EINVAL));
    }
    assert_eq!(ip_route_add(&w.a, RouteSpec { oif: 99, ..v4.clone() }), Err(Errno::EINVAL));
    assert_eq!((ip6_route_add(&w.a, v6), ip6_route_add(&w.a, far)), (Err(Errno::EINVAL), Err(Errno::EINVAL)));
    tcp_register_congestion_control(&w.a.reg, &GOES).unwrap();
    ip_route_add(&w.a, v4.clone()).unwrap();
    assert_eq!(ip6_route_add(&w.a, v6), Ok(()));
    // One that goes again is nobody's, and its route can go too.
    drop(inside);
    tcp_unregister_congestion_control(&w.a.reg, &GOES).unwrap();
    let (c, _s) = w.connect();
    assert_eq!(&c.getsockopt(IPPROTO_TCP, TCP_CONGESTION, 16).unwrap()[..6], b"cubic\0");
    let _inside = w.t.kernel.enter();
    assert_eq!(ip_route_del(&w.a, &v4), Ok(()));
}

/// `RTAX_FEATURE_ECN`: ECN without the namespace's.
#[test]
fn a_route_has_ecn() {
    for (a, b, want) in [(false, false, false), (true, false, false), (true, true, true)] {
        let w = World::new();
        [&w.a, &w.b].iter().for_each(|n| n.sysctl.set("net.ipv4.tcp_ecn", 0).unwrap());
        if a {
            say(&w, &w.a, B, set(Rtax::Features, RTAX_FEATURE_ECN));
        }
        if b {
            say(&w, &w.b, A, set(Rtax::Features, RTAX_FEATURE_ECN));
        }
        let (c, s) = w.connect();
        for x in [&c, &s] {
            assert_eq!(info(x).tcpi_options & TCPI_OPT_ECN != 0, want, "{a} {b}");
        }
    }
}

#[test]
fn advmss_mtu_and_hop_limit_are_on_the_wire() {
    let w = World::new();
    say(&w, &w.b, A, |m| {
        m.set(Rtax::Advmss, 900).unwrap();
        m.set(Rtax::Hoplimit, 17).unwrap();
    });
    let ttl = Arc::new(AtomicU32::new(0));
    let seen = ttl.clone();
    w.a.nf.set(
        HookPoint::PreRouting,
        Some(Box::new(move |_, skb| {
            if let Some(h) = IpHdr::read(skb.data()) {
                seen.store(h.ttl as u32, SeqCst);
            }
            Verdict::Accept(skb)
        })),
    );
    let (c, s) = w.connect();
    assert_eq!(info(&c).tcpi_snd_mss, 900 - 12);
    assert_eq!(ttl.load(SeqCst), 17);
    close(&w, &c, &s);
    say(&w, &w.a, B, set(Rtax::Mtu, 1000));
    let (c, _s) = w.connect();
    assert_eq!((info(&c).tcpi_pmtu, info(&c).tcpi_snd_mss), (1000, 888));
}

/// An MTU that is locked is what the administrator says, not what ICMP does (`ip_mtu_locked`).
#[test]
fn a_locked_mtu_is_not_learned_over() {
    for locked in [false, true] {
        let (w, c, _s) = connected(|m| {
            m.set(Rtax::Mtu, 1400).unwrap();
            if locked {
                m.lock(Rtax::Mtu);
            }
        });
        let _inside = w.t.kernel.enter();
        ip_update_pmtu(&w.a, &Flow::new(IPPROTO_TCP as u8, A.into(), 0, B.into(), 0), 1000);
        drop(_inside);
        w.run(1);
        let mut guard = c.sk.lock_sock();
        let mtu = crate::ipv4::tcp_mss::tcp_dst(&c.sk, tcp_sk(&mut *guard)).unwrap().mtu();
        assert_eq!(mtu, if locked { 1400 } else { 1000 });
    }
}

/// Routes give the first connection of a path what later ones learn, and keep what is locked (`tcpm_suck_dst`).
#[test]
fn a_route_says_what_connections_would_learn() {
    let w = World::new();
    say(&w, &w.a, B, |m| {
        m.set_locked(Rtax::Rtt, 900 * 8).unwrap();
        m.set_locked(Rtax::Cwnd, 7).unwrap();
        m.set(Rtax::Reordering, 20).unwrap();
    });
    let one = || {
        let (c, s) = w.connect();
        w.transfer(&c, &s, &pattern(200_000));
        close(&w, &c, &s);
    };
    one();
    let (c, s) = w.connect();
    assert_eq!((info(&c).tcpi_reordering, info(&c).tcpi_snd_cwnd), (20, 7));
    assert!(info(&c).tcpi_rto > 2_000_000, "{}", info(&c).tcpi_rto);
    w.transfer(&c, &s, &pattern(200_000));
    assert_eq!(info(&c).tcpi_snd_cwnd, 7, "a bound");
}

/// A route that changes changes the connections that have it.
#[test]
fn a_connection_follows_its_route() {
    let (w, c, s) = connected(|m| m.set_locked(Rtax::RtoMin, 40).unwrap());
    {
        let _inside = w.t.kernel.enter();
        ip_route_del(&w.a, &RouteSpec::new(B, 32)).unwrap();
    }
    w.transfer(&c, &s, &pattern(100_000));
    assert!(info(&c).tcpi_rto >= 200_000);
}
