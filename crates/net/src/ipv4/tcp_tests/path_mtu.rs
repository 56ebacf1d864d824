//! What a path takes: ICMP, probing, and devices whose MTU changes.
//!
//! Interface: tests.
//! Linux counterpart: `tools/testing/selftests/net/pmtu.sh`, packetdrill's `mtu_probe`.
//! Locks and context: a manual clock.
//!
//! ```text
//!   A 10.0.0.1 ---- 10.0.0.254 router 10.1.0.254 ---- 10.1.0.2 B      the second link takes less
//! ```

use super::*;
use crate::core::dev::{NetDevice, dev_get_by_name, dev_set_mtu};
use crate::core::netfilter::{HookPoint, Verdict};
use crate::core::skbuff::Skb;
use crate::drivers::veth::veth_pair;
use crate::ipv4::fib_frontend::{RouteSpec, ip_route_add};
use uapi::socket::{IP_MTU, IP_MTU_DISCOVER, IP_PMTUDISC_DONT, IP_PMTUDISC_OMIT, IP_PMTUDISC_WANT};

const FAR: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);

struct Routed {
    w: World,
    b: Arc<Net>,
    /// The router's and B's end of the narrow link.
    narrow: [Arc<NetDevice>; 2],
}

impl Routed {
    /// `World`'s B is the router; behind it is another machine, over a link of `mtu`.
    fn new(mtu: u32) -> Routed {
        let w = World::with(NetemParams { delay_ns: 1_000_000, limit: 100_000, ..NetemParams::default() });
        let b = Net::new(&w.a.reg);
        let (near, far) = veth_pair(&w.b, "eth1", &b, "eth0").unwrap();
        let _inside = w.t.kernel.enter();
        for d in [&near, &far] {
            dev_open(d).unwrap();
        }
        inet_addr_add(&near, Ipv4Addr::new(10, 1, 0, 254), 24).unwrap();
        inet_addr_add(&far, FAR, 24).unwrap();
        ip_route_add(&w.a, RouteSpec::default_via(B)).unwrap();
        ip_route_add(&b, RouteSpec::default_via(Ipv4Addr::new(10, 1, 0, 254))).unwrap();
        w.b.sysctl.set("net.ipv4.ip_forward", 1).unwrap();
        // The far end does not know, so that it advertises a large segment size.
        dev_set_mtu(&near, mtu).unwrap();
        drop(_inside);
        Routed { w, b, narrow: [near, far] }
    }

    fn connect(&self) -> (Arc<Socket>, Arc<Socket>) {
        let l = self.w.socket(&self.b);
        set_int(&l, SOL_SOCKET, SO_REUSEADDR, 1);
        l.bind(&addr(Ipv4Addr::UNSPECIFIED, 80)).unwrap();
        l.listen(16).unwrap();
        let c = self.w.socket(&self.w.a);
        let _ = c.connect(&addr(FAR, 80), true, &mut wait());
        for _ in 0..5000 {
            self.w.run(1);
            if let Poll::Ready(Ok(s)) = l.accept(true, &mut wait()) {
                l.release();
                return (c, s);
            }
        }
        panic!("no connection: {}", self.w.mibs());
    }

    fn get(&self, s: &Socket, name: i32) -> i32 {
        i32::from_ne_bytes(s.getsockopt(IPPROTO_IP, name, 4).unwrap().try_into().unwrap())
    }

    fn a(&self, m: Mib) -> u64 {
        self.w.a.mib.get(m)
    }

    /// Nothing that routers say gets through to A.
    fn black_hole(&self) {
        let deaf: Box<dyn Fn(&Arc<Net>, Box<Skb>) -> Verdict + Send + Sync> = Box::new(|_, skb| {
            let icmp = skb.data().get(9) == Some(&1);
            if icmp { Verdict::Stolen } else { Verdict::Accept(skb) }
        });
        self.w.a.nf.set(HookPoint::LocalIn, Some(deaf));
    }
}

#[test]
fn a_router_s_word_about_the_path_is_taken() {
    let r = Routed::new(1200);
    let (c, s) = r.connect();
    assert_eq!(info(&c).tcpi_snd_mss, 1448);
    r.w.transfer(&c, &s, &pattern(300_000));
    assert_eq!(info(&c).tcpi_snd_mss, 1148, "1200 less headers and timestamps");
    assert_eq!(r.get(&c, IP_MTU), 1200);
    assert_eq!(info(&c).tcpi_pmtu, 1200);
    // It is no congestion: nothing was cut in half, and no timeout was needed.
    assert_eq!(r.a(Mib::TcpExtTCPTimeouts), 0, "{}", r.w.mibs());
    assert!(r.w.b.mib.get(Mib::IcmpOutDestUnreachs) > 0);
    // Others to the same destination know it from the start.
    let (c2, s2) = r.connect();
    r.w.transfer(&c2, &s2, &pattern(10_000));
    assert_eq!(info(&c2).tcpi_snd_mss, 1148);
}

#[test]
fn what_was_learnt_is_forgotten_after_mtu_expires() {
    let r = Routed::new(1200);
    r.w.a.sysctl.set("net.ipv4.route.mtu_expires", 30).unwrap();
    let (c, s) = r.connect();
    r.w.transfer(&c, &s, &pattern(50_000));
    assert_eq!(r.get(&c, IP_MTU), 1200);
    dev_set_mtu(&r.narrow[0], 1500).unwrap();
    r.w.t.advance(61_000);
    r.w.transfer(&c, &s, &pattern(50_000));
    assert_eq!(r.get(&c, IP_MTU), 1500);
    assert_eq!(info(&c).tcpi_snd_mss, 1448);
}

#[test]
fn a_path_below_the_least_is_left_to_fragment() {
    let r = Routed::new(300);
    let (c, s) = r.connect();
    r.w.transfer(&c, &s, &pattern(20_000));
    assert_eq!(r.get(&c, IP_MTU), 552, "net.ipv4.route.min_pmtu");
    assert!(r.w.b.mib.get(Mib::IpFragCreates) > 0, "without DF: {}", r.w.mibs());
    let r = Routed::new(300);
    r.w.a.sysctl.set("net.ipv4.route.min_pmtu", 256).unwrap();
    let (c, s) = r.connect();
    r.w.transfer(&c, &s, &pattern(20_000));
    assert_eq!(r.get(&c, IP_MTU), 300);
    assert_eq!(r.w.b.mib.get(Mib::IpFragCreates), 0, "{}", r.w.mibs());
}

#[test]
fn who_does_not_discover_has_routers_cut() {
    let r = Routed::new(1200);
    let (c, s) = r.connect();
    set_int(&c, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT);
    r.w.transfer(&c, &s, &pattern(50_000));
    assert_eq!(info(&c).tcpi_snd_mss, 1448);
    assert!(r.w.b.mib.get(Mib::IpFragCreates) > 0);
    assert_eq!(r.w.b.mib.get(Mib::IcmpOutDestUnreachs), 0);
    for mode in [IP_PMTUDISC_OMIT, IP_PMTUDISC_WANT] {
        set_int(&c, IPPROTO_IP, IP_MTU_DISCOVER, mode);
        assert_eq!(r.get(&c, IP_MTU_DISCOVER), mode);
    }
}

#[test]
fn an_mtu_that_changes_in_mid_flow_is_followed() {
    let w = World::new();
    let (c, s) = w.connect();
    w.transfer(&c, &s, &pattern(50_000));
    let dev = dev_get_by_name(&w.a, "eth0").unwrap();
    for (mtu, mss) in [(1000, 948), (576, 524), (1400, 1348), (1500, 1448)] {
        dev_set_mtu(&dev, mtu).unwrap();
        w.transfer(&c, &s, &pattern(100_000));
        assert_eq!(info(&c).tcpi_snd_mss, mss);
        assert_eq!(info(&c).tcpi_pmtu, mtu);
    }
    // Also with data in flight, which must be cut anew to be sent again.
    w.set(NetemParams { loss: 0.1, delay_ns: 5_000_000, ..NetemParams::default() });
    let mut sent = 0;
    let (data, mut got) = (pattern(400_000), Vec::new());
    for round in 0..20_000 {
        if round % 50 == 0 {
            dev_set_mtu(&dev, [700, 1500, 1100][round / 50 % 3]).unwrap();
        }
        sent += send(&c, &data[sent..]).unwrap_or(0);
        got.extend(recv(&s, 1 << 20, 0).unwrap_or_default());
        if got.len() == data.len() {
            break;
        }
        w.run(1);
    }
    assert!(got == data, "{} of {}: {}", got.len(), data.len(), w.mibs());
}

#[test]
fn a_black_hole_is_found_by_timeouts() {
    let r = Routed::new(1000);
    r.black_hole();
    let (c, s) = r.connect();
    // Without probing nothing large ever gets through.
    send(&c, &pattern(30_000)).unwrap();
    r.w.run(20_000);
    assert_eq!(recv(&s, 100, 0), Err(Errno::EAGAIN), "{}", r.w.mibs());
    r.w.a.sysctl.set("net.ipv4.tcp_mtu_probing", 1).unwrap();
    for _ in 0..60 {
        r.w.run(1000);
    }
    // The base is 1024; halved once it passes.
    assert_eq!(recv(&s, 1 << 20, 0).map(|b| b.len()), Ok(30_000), "mss {}, {}", info(&c).tcpi_snd_mss, r.w.mibs());
    assert!((400..=948).contains(&info(&c).tcpi_snd_mss), "{}", info(&c).tcpi_snd_mss);
}

#[test]
fn probing_finds_what_a_silent_path_takes() {
    for mtu in [1300, 1500] {
        let r = Routed::new(mtu);
        r.black_hole();
        r.w.a.sysctl.set("net.ipv4.tcp_mtu_probing", 2).unwrap();
        r.w.a.sysctl.set("net.ipv4.tcp_base_mss", 512).unwrap();
        let (c, s) = r.connect();
        let data = pattern(2_000_000);
        r.w.transfer(&c, &s, &data);
        let mss = info(&c).tcpi_snd_mss;
        assert!((mtu - 52 - 16..=mtu - 52).contains(&mss), "{mss} on a path of {mtu}: {}", r.w.mibs());
        assert!(r.a(Mib::TcpExtTCPMTUPSuccess) > 0);
        assert_eq!(r.a(Mib::TcpExtTCPMTUPFail) > 0, mtu < 1500);
        assert_eq!(r.a(Mib::TcpExtTCPTimeouts), 0, "a lost probe is no loss: {}", r.w.mibs());
    }
}

#[test]
fn the_search_begins_anew_after_the_interval() {
    let r = Routed::new(1000);
    r.black_hole();
    r.w.a.sysctl.set("net.ipv4.tcp_mtu_probing", 2).unwrap();
    r.w.a.sysctl.set("net.ipv4.tcp_base_mss", 512).unwrap();
    r.w.a.sysctl.set("net.ipv4.tcp_probe_interval", 60).unwrap();
    let (c, s) = r.connect();
    r.w.transfer(&c, &s, &pattern(1_000_000));
    let before = info(&c).tcpi_snd_mss;
    assert!(before <= 948);
    dev_set_mtu(&r.narrow[0], 1500).unwrap();
    r.w.transfer(&c, &s, &pattern(100_000));
    assert_eq!(info(&c).tcpi_snd_mss, before, "not before the time");
    r.w.t.advance(61_000);
    r.w.transfer(&c, &s, &pattern(1_000_000));
    assert!(info(&c).tcpi_snd_mss > 1400, "{}", info(&c).tcpi_snd_mss);
}
