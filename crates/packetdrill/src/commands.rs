//! The tools that scripts set a machine up with, as far as this stack has what they change: `ip`, `tc`, `ethtool`, `cat`.
//!
//! Interface: [`command`].
//! Linux counterpart: iproute2, ethtool; `/proc/net`.
//! Locks and context: process context, any thread.
//!
//! What is not understood is refused, and says so: a script must not go on as if it had been done.
//!
//! - `ip tcp_metrics flush all`
//! - `ip route add|change|replace|del PREFIX [via A] [dev D] [METRIC [lock] N]...`; IPv4; see [`metric`]
//! - `tc qdisc add|replace|change|del dev D root [pfifo [limit N]]`: the device's queue is a `pfifo`
//! - `ethtool -K D [tso|gso|gro|sg on|off]...`: `gso off` leaves the device nothing to cut, as `tso off` does
//! - `cat /proc/net/{snmp,netstat,snmp6,tcp,tcp6,softnet_stat}`

use net::core::dev::{Features, NetDevice, for_each_netdev};
use net::core::dst_metrics::Rtax;
use net::core::net_namespace::Net;
use net::ipv4::fib_frontend::{RouteSpec, ip_route_add, ip_route_change, ip_route_del, ip_route_replace};
use net::ipv4::inet_hashtables::tcp_hashinfo;
use net::ipv4::proc::proc_net;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// `txqueuelen` of a TUN device.
const TUN_QUEUE_LEN: u32 = 500;

/// What the tool prints, or its complaint.
type Answer = Result<String, String>;

/// Carries out a command line, split into words.
pub fn command(net: &Arc<Net>, argv: &[&str]) -> Answer {
    let _cpu = net.kernel().enter();
    match argv {
        ["ip", "tcp_metrics", "flush", ..] => {
            tcp_hashinfo(net).metrics.flush();
            Ok(String::new())
        }
        ["ip", "route", what, prefix, rest @ ..] | ["ip", "-4", "route", what, prefix, rest @ ..] => {
            route(net, what, prefix, rest)
        }
        ["tc", "qdisc", what, "dev", dev, "root", rest @ ..] => qdisc(&*device(net, dev)?, what, rest),
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

fn route(net: &Arc<Net>, what: &str, prefix: &str, rest: &[&str]) -> Answer {
    let (dst, plen) = match prefix {
        "default" => ("0.0.0.0", "0"),
        p => p.split_once('/').unwrap_or((p, "32")),
    };
    let bad = |_| format!("{prefix}: no IPv4 prefix");
    let dst: Ipv4Addr = dst.parse().map_err(|_| bad(()))?;
    let mut spec = RouteSpec::new(dst, plen.parse().map_err(|_| bad(()))?);
    let mut words = rest.iter();
    while let Some(&key) = words.next() {
        match key {
            "via" => spec.gateway = Some(value(key, &mut words)?),
            "dev" => spec.oif = device(net, &value::<String>(key, &mut words)?)?.ifindex,
            _ => {
                let which = metric(key).ok_or_else(|| format!("ip route: {key}: not understood here"))?;
                let mut ahead = words.clone();
                if ahead.next() == Some(&"lock") {
                    words = ahead;
                    spec.metrics.lock(which);
                }
                let n = value(key, &mut words)?;
                spec.metrics.set(which, n).map_err(|_| format!("{key} {n}: refused"))?;
            }
        }
    }
    let done = match what {
        "add" => ip_route_add(net, spec),
        "change" => ip_route_change(net, spec),
        "replace" => ip_route_replace(net, spec),
        "del" | "delete" => ip_route_del(net, &spec),
        _ => return Err(format!("ip route {what}: not understood here")),
    };
    done.map(|()| String::new()).map_err(|e| format!("RTNETLINK answers: {e:?}"))
}

/// The metrics that `ip route` gives as plain numbers.
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
        _ => return None,
    })
}

fn qdisc(dev: &NetDevice, what: &str, rest: &[&str]) -> Answer {
    let limit = match (what, rest) {
        ("del" | "delete", _) => TUN_QUEUE_LEN,
        ("add" | "replace" | "change", ["pfifo"]) => TUN_QUEUE_LEN,
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
        command(&m.net, &line.split(' ').collect::<Vec<_>>())
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
        let route = "192.0.2.1 via 192.168.0.2 dev tun0 advmss 600 mtu lock 640 initcwnd 11";
        assert!(run(&m, &format!("ip route change {route}")).unwrap_err().contains("ENOENT"));
        run(&m, &format!("ip route add {route}")).unwrap();
        run(&m, &format!("ip route change {route}")).unwrap();
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
            "cat /proc/net/wireless",
            "rm -rf x",
        ] {
            assert!(run(&m, line).is_err(), "{line}");
        }
    }
}
