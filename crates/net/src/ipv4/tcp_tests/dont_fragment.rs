//! Which packets carry DF, and how large they may be: what the kernel does for each `IP_MTU_DISCOVER`.
//!
//! Interface: tests.
//! Linux counterpart: `ip_dont_fragment`, `ip_sk_use_pmtu`; the tables are what a capture on Linux 6.18 showed.
//! Locks and context: a manual clock.

use super::*;
use crate::core::dev::{ETH_P_IP, dev_get_by_name};
use crate::core::dst_metrics::Rtax;
use crate::core::flow::Flow;
use crate::core::netfilter::{HookPoint, Verdict};
use crate::core::skbuff::Skb;
use crate::hdr::{IP_DF, IP_MF, IPPROTO_ICMP, IpHdr};
use crate::ipv4::datagram::UDP_SEGMENT;
use crate::ipv4::fib_frontend::{RouteSpec, ip_route_replace};
use crate::ipv4::route::ip_update_pmtu;
use kernel::SpinLock;

/// In the order of their values: `DONT`, `WANT`, `DO`, `PROBE`, `INTERFACE`, `OMIT`.
type ByMode<T> = [T; 6];

/// What A knows of the path to B.
#[derive(Clone, Copy, Debug)]
enum Path {
    Route(u32),
    Locked(u32),
    Learnt(u32),
}

/// The lengths of what arrives at a machine, with `D` for DF and `+` for more fragments.
#[derive(Clone, Default)]
struct Seen(Arc<SpinLock<Vec<String>>>);

impl Seen {
    fn at(net: &Net) -> Seen {
        let seen = Seen::default();
        let list = seen.clone();
        let hook = move |_: &Arc<Net>, skb: Box<Skb>| {
            if let Some(h) = IpHdr::read(skb.data()).filter(|_| skb.protocol == ETH_P_IP) {
                let flag = |bit, s| if h.frag_off.get() & bit != 0 { s } else { "" };
                let text = format!("{}{}{}", h.tot_len.get(), flag(IP_DF, "D"), flag(IP_MF, "+"));
                list.0.lock_bh().push(text);
            }
            Verdict::Accept(skb)
        };
        net.nf.set(HookPoint::PreRouting, Some(Box::new(hook)));
        seen
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock_bh())
    }

    /// Whether all have DF, or none.
    fn df(&self) -> bool {
        let all = self.take();
        let with = all.iter().filter(|s| s.contains('D')).count();
        assert!(!all.is_empty() && (with == 0 || with == all.len()), "{all:?}");
        with > 0
    }
}

fn route(w: &World, net: &Arc<Net>, to: Ipv4Addr, path: Path) {
    let _inside = w.t.kernel.enter();
    let oif = dev_get_by_name(net, "eth0").unwrap().ifindex;
    let mut spec = RouteSpec { oif, ..RouteSpec::new(to, 32) };
    match path {
        Path::Route(mtu) => spec.metrics.set(Rtax::Mtu, mtu).unwrap(),
        Path::Locked(mtu) => spec.metrics.set_locked(Rtax::Mtu, mtu).unwrap(),
        Path::Learnt(_) => {}
    }
    ip_route_replace(net, spec).unwrap();
    if let Path::Learnt(mtu) = path {
        ip_update_pmtu(net, &Flow::new(17, Ipv4Addr::UNSPECIFIED.into(), 0, to.into(), 0), mtu);
    }
}

fn discover(s: &Socket, mode: usize) {
    set_int(s, IPPROTO_IP, IP_MTU_DISCOVER, mode as i32);
}

#[test]
fn a_connection_s_packets() {
    const FREE: ByMode<bool> = [false, true, true, false, false, false];
    const LOCKED: ByMode<bool> = [false, false, true, false, false, false];
    for (path, want) in [
        (Path::Route(1200), FREE),
        (Path::Locked(1200), LOCKED),
        // Less than is believed of a path: only if it was learnt, and then 552 it is.
        (Path::Route(500), FREE),
        (Path::Learnt(552), FREE),
        (Path::Learnt(500), LOCKED),
    ] {
        let got: ByMode<bool> = std::array::from_fn(|mode| {
            let w = World::new();
            route(&w, &w.a, B, path);
            let seen = Seen::at(&w.b);
            let l = w.listen(80);
            let c = w.socket(&w.a);
            discover(&c, mode);
            let _ = c.connect(&addr(B, 80), true, &mut wait());
            w.run(30);
            assert_eq!(send(&c, &pattern(3000)), Ok(3000));
            w.run(30);
            c.release();
            w.run(30);
            drop(l);
            seen.df()
        });
        assert_eq!(got, want, "{path:?}");
    }
}

/// What no connection sends has DF, whatever the listener and the route say: it is small, and needs no identification.
#[test]
fn answers_without_a_connection() {
    let w = World::new();
    route(&w, &w.b, A, Path::Locked(1200));
    let seen = Seen::at(&w.a);
    let l = w.listen(80);
    discover(&l, 0);
    let clients = [(80, "60D"), (81, "40D")].map(|(port, len)| {
        let c = w.socket(&w.a);
        let _ = c.connect(&addr(B, port), true, &mut wait());
        w.run(30);
        assert_eq!(seen.take(), [len], "a SYN-ACK; a RST");
        c
    });
    drop(clients);
}

/// One datagram of each length, `IP_MTU_DISCOVER` by `IP_MTU_DISCOVER`.
fn datagrams(w: &World, proto: i32, lens: &[usize], gso: i32) -> ByMode<String> {
    let seen = Seen::at(&w.b);
    let to = sock_create(&w.b, AF_INET, SOCK_DGRAM, 0).unwrap();
    to.bind(&addr(B, 6667)).unwrap();
    let one = |mode: usize, len: &usize| {
        let s = sock_create(&w.a, AF_INET, SOCK_DGRAM, proto).unwrap();
        discover(&s, mode);
        if gso > 0 {
            set_int(&s, IPPROTO_UDP, UDP_SEGMENT, gso);
        }
        assert!(s.connect(&addr(B, 6667), true, &mut wait()).is_ready());
        let mut data = vec![0; len + 8];
        data[0] = 8;
        let r = send(&s, if proto == 0 { &data[8..] } else { &data });
        w.run(20);
        s.release();
        match r {
            Ok(_) => seen.take().join(" "),
            Err(e) => format!("{e:?}"),
        }
    };
    let got = std::array::from_fn(|mode| lens.iter().map(|len| one(mode, len)).collect::<Vec<_>>().join(", "));
    to.release();
    got
}

#[test]
fn datagrams_and_echo_requests() {
    const FREE: ByMode<&str> = [
        "128, 1196+ 152, 1196+ 852",
        "128D, 1196+ 152, 1196+ 852",
        "128D, EMSGSIZE(90), EMSGSIZE(90)",
        "128D, 1328D, EMSGSIZE(90)",
        "128, 1328, EMSGSIZE(90)",
        "128, 1328, 1500+ 548",
    ];
    for (path, of_want) in [(Path::Route(1200), FREE[1]), (Path::Locked(1200), FREE[0]), (Path::Learnt(1200), FREE[1])]
    {
        for proto in [0, IPPROTO_ICMP as i32] {
            let w = World::new();
            route(&w, &w.a, B, path);
            let got = datagrams(&w, proto, &[100, 1300, 2000], 0);
            let mut want = FREE;
            want[1] = of_want;
            assert_eq!(got, want, "{path:?}, protocol {proto}");
        }
    }
}

/// A wish for DF is one for what fits as a whole; each segment has to fit what the sender cares for.
#[test]
fn segments_of_one_message() {
    let w = World::new();
    route(&w, &w.a, B, Path::Route(1200));
    let cases = [
        (
            200,
            [700, 1200],
            [
                "228 228 228 128, 228 228 228 228 228 228",
                "228D 228D 228D 128D, 228 228 228 228 228 228",
                "228D 228D 228D 128D, 228D 228D 228D 228D 228D 228D",
                "228D 228D 228D 128D, 228D 228D 228D 228D 228D 228D",
                "228 228 228 128, 228 228 228 228 228 228",
                "228 228 228 128, 228 228 228 228 228 228",
            ],
        ),
        (
            1300,
            [1100, 4000],
            [
                "1128, EMSGSIZE(90)",
                "1128D, EMSGSIZE(90)",
                "1128D, EMSGSIZE(90)",
                "1128D, 1328D 1328D 1328D 128D",
                "1128, 1328 1328 1328 128",
                "1128, 1328 1328 1328 128",
            ],
        ),
    ];
    for (gso, lens, want) in cases {
        assert_eq!(datagrams(&w, 0, &lens, gso), want, "{gso}");
    }
    let s = sock_create(&w.a, AF_INET, SOCK_DGRAM, 0).unwrap();
    set_int(&s, IPPROTO_UDP, UDP_SEGMENT, 3000);
    assert!(s.connect(&addr(B, 6667), true, &mut wait()).is_ready());
    assert_eq!(send(&s, &[0; 2000]), Err(Errno::EMSGSIZE), "a part of a segment, and too large");
    set_int(&s, IPPROTO_UDP, UDP_SEGMENT, 10);
    assert_eq!(send(&s, &[0; 1400]), Err(Errno::EINVAL), "too many");
    set_int(&s, SOL_SOCKET, SO_NO_CHECK, 1);
    assert_eq!(send(&s, &[0; 5]), Err(Errno::EINVAL), "without a checksum");
}
