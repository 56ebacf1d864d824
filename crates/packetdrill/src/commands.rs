//! The tools that scripts set a machine up with, as far as this stack has what they change: `ip`, `tc`, `ethtool`, `cat`.
//!
//! Interface: [`command`].
//! Linux counterpart: iproute2, ethtool; `/proc/net`.
//! Locks and context: process context, any thread.
//!
//! What is not understood is refused, and says so: a script must not go on as if it had been done.
//!
//! - `ip tcp_metrics flush all`
//! - `ip [-4|-6] route add|change|replace|del PREFIX [via A] [dev D] [metric N] [congctl [lock] NAME] [METRIC [lock] N]...`; see
//!   [`metric`]
//! - `ip address add A/PLEN dev D`, `ip link set dev D mtu N`
//! - `tc qdisc add|replace|change|del dev D root [pfifo [limit N]]`: the device's queue is a `pfifo`
//! - `tc qdisc replace dev D root tbf rate Nkbit burst N limit N`: on the device of scripts; the limit must be no bound
//! - `ethtool -K D [tso|gso|gro|sg on|off]...`: `gso off` leaves the device nothing to cut, as `tso off` does
//! - `cat /proc/net/{snmp,netstat,snmp6,tcp,tcp6,softnet_stat}`

use crate::device::RawIp;
use net::core::dev::{Features, NetDevice, dev_set_mtu, for_each_netdev};
use net::core::dst_metrics::{DstMetrics, Rtax};
use net::core::net_namespace::Net;
use net::ipv4::devinet::inet_addr_add;
use net::ipv4::fib_frontend::{RouteSpec, ip_route_add, ip_route_change, ip_route_del, ip_route_replace};
use net::ipv4::fib_trie::IfThere;
use net::ipv4::inet_hashtables::tcp_hashinfo;
use net::ipv4::proc::proc_net;
use net::ipv6::addrconf::inet6_addr_add;
use net::ipv6::route::{Route6Spec, ip6_route_del, ip6_route_insert};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// `txqueuelen` of a TUN device.
const TUN_QUEUE_LEN: u32 = 500;

/// What the tool prints, or its complaint.
type Answer = Result<String, String>;

/// Carries out a command line, split into words.
pub fn command(net: &Arc<Net>, raw: &RawIp, argv: &[&str]) -> Answer {
    let _cpu = net.kernel().enter();
    match argv {
        ["ip", "tcp_metrics", "flush", ..] => {
            tcp_hashinfo(net).metrics.flush();
            Ok(String::new())
        }
        ["ip", "-4", "route", what, prefix, rest @ ..] => route(net, false, what, prefix, rest),
        ["ip", "-6", "route", what, prefix, rest @ ..] => route(net, true, what, prefix, rest),
        ["ip", "route", what, prefix, rest @ ..] => route(net, prefix.contains(':'), what, prefix, rest),
        ["ip", "address", "add", prefix, "dev", dev] => address(&device(net, dev)?, prefix),
        ["ip", "link", "set", "dev", dev, "mtu", n] => {
            let mtu = n.parse().map_err(|_| format!("mtu {n}: not understood"))?;
            netlink(dev_set_mtu(&device(net, dev)?, mtu))
        }
        ["tc", "qdisc", what, "dev", dev, "root", rest @ ..] => qdisc(&*device(net, dev)?, raw, what, rest),
        ["ethtool", "-K", dev, rest @ ..] => offloads(&*device(net, dev)?, rest),
        ["cat", path] => path
            .strip_prefix("/proc/net/")
            .and_then(|name| proc_net(net, name))
            .ok_or_else(|| format!("{path}: there is no such file here")),
        _ => Err(format!("{}: not understood here", argv.join(" "))),
    }
}

fn device(net: &Net, name: &str) -> Result<Arc<NetDevice>, String> {
    let found = for_each_netdev(net).into_iter().find(|d| d.name == name);
    found.ok_or_else(|| format!("Cannot find device {name:?}"))
}

/// The next word, as what it has to be.
fn value<'a, T: FromStr>(key: &str, words: &mut impl Iterator<Item = &'a &'a str>) -> Result<T, String> {
    let word = words.next().ok_or_else(|| format!("{key}: nothing follows"))?;
    word.parse().map_err(|_| format!("{key} {word}: not understood"))
}

/// What the words behind a prefix say of a route.
#[derive(Default)]
struct RouteWords {
    gateway: Option<IpAddr>,
    oif: u32,
    priority: u32,
    metrics: DstMetrics,
}

fn route_words(net: &Net, words: &[&str]) -> Result<RouteWords, String> {
    let mut w = RouteWords::default();
    let mut words = words.iter();
    while let Some(&key) = words.next() {
        match key {
            "via" => w.gateway = Some(value(key, &mut words)?),
            "dev" => w.oif = device(net, &value::<String>(key, &mut words)?)?.ifindex,
            "metric" => w.priority = value(key, &mut words)?,
            _ => {
                let which = metric(key).ok_or_else(|| format!("ip route: {key}: not understood here"))?;
                let mut ahead = words.clone();
                if ahead.next() == Some(&"lock") {
                    words = ahead;
                    w.metrics.lock(which);
                }
                let v: String = value(key, &mut words)?;
                let done = match (which, v.parse()) {
                    (Rtax::CcAlgo, _) => w.metrics.set_cc_algo(&v),
                    (_, Ok(n)) => w.metrics.set(which, n),
                    _ => return Err(format!("{key} {v}: not understood")),
                };
                done.map_err(|_| format!("{key} {v}: refused"))?;
            }
        }
    }
    Ok(w)
}

/// An address and the length of its prefix.
fn prefix_of<A: FromStr>(prefix: &str, any: A, bits: u8) -> Result<(A, u8), String> {
    if prefix == "default" {
        return Ok((any, 0));
    }
    let bad = || format!("{prefix}: no prefix");
    let (dst, len) = match prefix.split_once('/') {
        Some((dst, len)) => (dst, len.parse().map_err(|_| bad())?),
        None => (prefix, bits),
    };
    Ok((dst.parse().map_err(|_| bad())?, len))
}

fn route(net: &Arc<Net>, v6: bool, what: &str, prefix: &str, rest: &[&str]) -> Answer {
    let w = route_words(net, rest)?;
    let other = |_| "via: an address of the other version".to_owned();
    let how = match what {
        "add" => Some(IfThere::Refuse),
        "change" => Some(IfThere::Change),
        "replace" => Some(IfThere::Replace),
        "del" | "delete" => None,
        _ => return Err(format!("ip route {what}: not understood here")),
    };
    let (oif, metrics) = (w.oif, w.metrics);
    let done = if v6 {
        let (dst, plen) = prefix_of(prefix, Ipv6Addr::UNSPECIFIED, 128)?;
        let gateway = w.gateway.map(v6_only).transpose().map_err(other)?;
        let spec = Route6Spec { gateway, oif, metric: w.priority, metrics, ..Route6Spec::new(dst, plen) };
        match how {
            Some(how) => ip6_route_insert(net, spec, how),
            None => ip6_route_del(net, &spec),
        }
    } else {
        let (dst, plen) = prefix_of(prefix, Ipv4Addr::UNSPECIFIED, 32)?;
        let gateway = w.gateway.map(v4_only).transpose().map_err(other)?;
        let spec = RouteSpec { gateway, oif, priority: w.priority, metrics, ..RouteSpec::new(dst, plen) };
        match how {
            Some(IfThere::Change) => ip_route_change(net, spec),
            Some(IfThere::Replace) => ip_route_replace(net, spec),
            Some(_) => ip_route_add(net, spec),
            None => ip_route_del(net, &spec),
        }
    };
    netlink(done)
}

fn netlink(done: uapi::Result<()>) -> Answer {
    done.map(|()| String::new()).map_err(|e| format!("RTNETLINK answers: {e:?}"))
}

fn address(dev: &Arc<NetDevice>, prefix: &str) -> Answer {
    let bad = || format!("{prefix}: no prefix");
    let (ip, plen) = prefix.split_once('/').ok_or_else(bad)?;
    let plen = plen.parse().map_err(|_| bad())?;
    netlink(match ip.parse().map_err(|_| bad())? {
        IpAddr::V4(a) => inet_addr_add(dev, a, plen),
        IpAddr::V6(a) => inet6_addr_add(dev, a, plen),
    })
}

fn v4_only(a: IpAddr) -> Result<Ipv4Addr, IpAddr> {
    if let IpAddr::V4(a) = a { Ok(a) } else { Err(a) }
}

fn v6_only(a: IpAddr) -> Result<Ipv6Addr, IpAddr> {
    if let IpAddr::V6(a) = a { Ok(a) } else { Err(a) }
}

/// The metrics that `ip route` gives as plain numbers, and the one that goes by name.
fn metric(key: &str) -> Option<Rtax> {
    Some(match key {
        "mtu" => Rtax::Mtu,
        "window" => Rtax::Window,
        "ssthresh" => Rtax::Ssthresh,
        "cwnd" => Rtax::Cwnd,
        "advmss" => Rtax::Advmss,
        "reordering" => Rtax::Reordering,
        "hoplimit" => Rtax::Hoplimit,
        "initcwnd" => Rtax::Initcwnd,
        "initrwnd" => Rtax::Initrwnd,
        "quickack" => Rtax::Quickack,
        "congctl" => Rtax::CcAlgo,
        _ => return None,
    })
}

fn qdisc(dev: &NetDevice, raw: &RawIp, what: &str, rest: &[&str]) -> Answer {
    let shape = match rest {
        ["tbf", "rate", rate, "burst", burst, "limit", limit] if what == "replace" => {
            let number = |word: &str| word.parse::<u64>().map_err(|_| format!("tbf: {word}: not understood"));
            let kbit = rate.strip_suffix("kbit").ok_or_else(|| format!("tbf: rate {rate}: not understood"))?;
            if number(limit)? < u64::from(TUN_QUEUE_LEN) * u64::from(dev.mtu()) {
                return Err(format!("tbf: limit {limit}: the queue counts packets here"));
            }
            Some((number(kbit)? * 125, number(burst)?))
        }
        _ => None,
    };
    raw.shape(shape);
    let limit = match (what, rest) {
        ("del" | "delete", _) => TUN_QUEUE_LEN,
        ("add" | "replace" | "change", ["pfifo"]) => TUN_QUEUE_LEN,
        _ if shape.is_some() => TUN_QUEUE_LEN,
        ("add" | "replace" | "change", ["pfifo", "limit", n]) => {
            n.parse().map_err(|_| format!("limit {n}: not understood"))?
        }
        _ => return Err(format!("tc qdisc {what} {}: not understood here", rest.join(" "))),
    };
    dev.tx_queue_len.store(limit, Relaxed);
    Ok(String::new())
}

fn offloads(dev: &NetDevice, rest: &[&str]) -> Answer {
    const TSO: Features = Features::TSO.union(Features::TSO6);
    let mut f = dev.features();
    for pair in rest.chunks(2) {
        let change = match pair {
            ["tso", "on" | "off"] => TSO,
            ["gso", "off"] => TSO.union(Features::GSO_UDP_L4),
            // The stack itself can always cut.
            ["gso", "on"] => Features::empty(),
            ["gro", "on" | "off"] => Features::GRO,
            ["sg", "on" | "off"] => Features::SG,
            _ => return Err(format!("ethtool -K {}: not understood here", pair.join(" "))),
        };
        f.set(change, pair[1] == "on");
    }
    dev.set_features(f);
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Flags, Machine};

    fn run(m: &Machine, line: &str) -> Answer {
        command(&m.net, &m.raw, &line.split(' ').collect::<Vec<_>>())
    }

    #[test]
    fn what_is_understood_is_done() {
        let m = Machine::new(&Flags::default()).unwrap();
        let dev = device(&m.net, "tun0").unwrap();
        run(&m, "tc qdisc replace dev tun0 root pfifo limit 0").unwrap();
        assert_eq!(dev.tx_queue_len.load(Relaxed), 0);
        run(&m, "tc qdisc delete dev tun0 root").unwrap();
        assert_eq!(dev.tx_queue_len.load(Relaxed), TUN_QUEUE_LEN);
        run(&m, "ethtool -K tun0 tso off gso off").unwrap();
        assert!(!dev.features().intersects(Features::TSO | Features::TSO6) && dev.features().contains(Features::SG));
        run(&m, "ethtool -K tun0 tso on").unwrap();
        assert!(dev.features().contains(Features::TSO | Features::TSO6));
        run(&m, "ip link set dev tun0 mtu 1300").unwrap();
        run(&m, "ip address add 192.0.2.77/32 dev tun0").unwrap();
        assert!(dev.mtu() == 1300 && run(&m, "ip address add 192.0.2.77/32 dev tun0").unwrap_err().contains("EEXIST"));
        let route = "192.0.2.1 via 192.168.0.2 dev tun0 advmss 600 mtu lock 640 initcwnd 11";
        assert!(run(&m, &format!("ip route change {route}")).unwrap_err().contains("ENOENT"));
        run(&m, &format!("ip route add {route}")).unwrap();
        run(&m, &format!("ip route change {route}")).unwrap();
        let route = "2001:db8::/32 via fd3d:a0b:17d6::2 dev tun0 metric 7 congctl lock reno mtu 1400";
        assert!(run(&m, &format!("ip -6 route change {route}")).unwrap_err().contains("ENOENT"));
        run(&m, &format!("ip -6 route add {route}")).unwrap();
        assert!(run(&m, "ip route add 2001:db8::/32 dev tun0 metric 7").unwrap_err().contains("EEXIST"));
        run(&m, "ip route change 2001:db8::/32 dev tun0 metric 7").unwrap();
        run(&m, "ip -6 route del 2001:db8::/32").unwrap();
        assert!(run(&m, "ip -6 route del 2001:db8::/32").unwrap_err().contains("ESRCH"));
        run(&m, "ip -6 route replace default dev tun0 mtu lock 1300").unwrap();
        assert!(run(&m, "cat /proc/net/netstat").unwrap().contains(" OutOfWindowIcmps "));
        assert!(run(&m, "cat /proc/net/snmp6").unwrap().starts_with("Ip6InReceives "));
    }

    #[test]
    fn what_is_not_is_refused() {
        let m = Machine::new(&Flags::default()).unwrap();
        for line in [
            "tc qdisc add dev tun0 root fq",
            "tc qdisc add dev x root pfifo",
            "ethtool -K tun0 lro on",
            "ip link set tun0 down",
            "ip route add 192.0.2.1 via",
            "ip route add 192.0.2.1 dev tun0 congctl nosuch",
            "ip route add 192.0.2.1 dev tun0 mtu many",
            "ip -6 route add 192.0.2.1 dev tun0",
            "ip -6 route add 2001:db8:: via 192.168.0.2",
            "cat /proc/net/wireless",
            "rm -rf x",
        ] {
            assert!(run(&m, line).is_err(), "{line}");
        }
    }
}
