//! What `--so_flags` says.
//!
//! Interface: [`Flags`], [`set_sysctl`], [`mirror`].
//! Linux counterpart: `sysctl(8)`, `ip address add`.
//! Locks and context: plain data; sysctls are atomics.
//!
//! `key=value` pairs between semicolons. A key with a dot is a sysctl under Linux's name, with Linux's value:
//! `net.ipv4.tcp_rmem=4096 131072 6291456`. The others: `mtu=1500`, `addr=192.168.0.1/16`, `addr=fd3d:a0b:17d6::1/32`, `seed=1`,
//! `route=192.0.2.1/32` (a route of its own for the peer, which a script may change), `control=NAME` ([`control`](crate::control)),
//! `mirror=/proc/sys`: take over what the files below that directory say before each call, so that a script's own
//! `sysctl` commands, run in a network namespace of their own, reach the stack.

use net::core::net_namespace::Net;
use net::core::sysctl::NetSysctl;
use net::core::sysctl_text::sysctl_set;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// How the machine is to be.
#[derive(Clone, Debug)]
pub struct Flags {
    pub mtu: u32,
    pub addrs: Vec<(IpAddr, u8)>,
    /// Of the random numbers.
    pub seed: u64,
    pub mirror: Option<PathBuf>,
    /// The name under which the tools of a script find the stack; see [`control`](crate::control).
    pub control: Option<String>,
    /// Routes out of the device, besides those to everywhere.
    pub routes: Vec<(IpAddr, u8)>,
    /// Dotted names and their values.
    pub sysctls: Vec<(String, String)>,
}

impl Default for Flags {
    fn default() -> Flags {
        Flags {
            mtu: 1500,
            addrs: Vec::new(),
            seed: 1,
            mirror: None,
            control: None,
            routes: Vec::new(),
            sysctls: Vec::new(),
        }
    }
}

impl Flags {
    /// An error says which part is not understood.
    pub fn parse(s: &str) -> Result<Flags, String> {
        let mut f = Flags::default();
        for part in s.split(';').map(str::trim).filter(|p| !p.is_empty()) {
            let bad = || format!("so_flags: {part:?} is not understood");
            let (key, value) = part.split_once('=').ok_or_else(bad)?;
            match key.trim() {
                "mtu" => f.mtu = value.parse().map_err(|_| bad())?,
                "seed" => f.seed = value.parse().map_err(|_| bad())?,
                "addr" => f.addrs.push(parse_prefix(value).ok_or_else(bad)?),
                "route" => f.routes.push(parse_prefix(value).ok_or_else(bad)?),
                "control" => f.control = Some(value.to_owned()),
                "mirror" => f.mirror = Some(PathBuf::from(value)),
                k if k.contains('.') => f.sysctls.push((k.to_owned(), value.to_owned())),
                _ => return Err(bad()),
            }
        }
        Ok(f)
    }
}

fn parse_prefix(s: &str) -> Option<(IpAddr, u8)> {
    let (ip, plen) = s.split_once('/')?;
    Some((ip.parse().ok()?, plen.parse().ok()?))
}

/// Sets a sysctl as a user writes it: one number, Linux's two or three, or a text. Whether that is possible.
pub fn set_sysctl(net: &Net, name: &str, value: &str) -> bool {
    let decimal = |w: &str| match w.strip_prefix("0x").map(|hex| i64::from_str_radix(hex, 16)) {
        Some(Ok(v)) => v.to_string(),
        _ => w.to_owned(),
    };
    let words: Vec<String> = value.split_whitespace().map(decimal).collect();
    sysctl_set(net, name, &words.join(" ")).is_ok() || net.sysctl.set_str(name, value).is_ok()
}

/// Sysctls that are texts.
const TEXTS: [&str; 2] = ["net.ipv4.tcp_congestion_control", "net.ipv4.tcp_fastopen_key"];

/// Sysctls that are the stack's own business, whatever the directory says.
const NOT_MIRRORED: [&str; 4] = ["forward", "disable_ipv6", "dad_transmits", "netdev_"];

/// Takes over every sysctl of the stack for which there is a file below `dir`.
pub fn mirror(net: &Net, dir: &Path) {
    for name in NetSysctl::NAMES.iter().chain(&TEXTS) {
        let name = name.strip_suffix(".min").unwrap_or(name);
        let part = name.ends_with(".default") || name.ends_with(".max");
        if part || NOT_MIRRORED.iter().any(|n| name.contains(n)) {
            continue;
        }
        if let Ok(text) = std::fs::read_to_string(dir.join(name.replace('.', "/"))) {
            set_sysctl(net, name, text.trim());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_and_mistakes_named() {
        let f = Flags::parse("mtu=1520;addr=fd3d::1/32; net.ipv4.tcp_rmem=4096 5000 6000;seed=7").unwrap();
        assert_eq!((f.mtu, f.seed, f.addrs.len(), f.sysctls.len()), (1520, 7, 1, 1));
        assert!(Flags::parse("mtu=x").unwrap_err().contains("mtu=x"));
        assert!(Flags::parse("colour=red").is_err());
    }

    #[test]
    fn sysctls_of_one_and_three_numbers_and_of_text() {
        let m = crate::Machine::new(&Flags::default()).unwrap();
        let (net, c) = (&m.net, &m.net.sysctl);
        assert!(set_sysctl(net, "net.ipv4.tcp_rmem", "4096 5000 0x10000"));
        assert_eq!((c.get("net.ipv4.tcp_rmem.default"), c.get("net.ipv4.tcp_rmem.max")), (Ok(5000), Ok(65536)));
        assert!(set_sysctl(net, "net.ipv4.tcp_sack", "0") && c.get("net.ipv4.tcp_sack") == Ok(0));
        assert!(set_sysctl(net, "net.ipv4.tcp_congestion_control", "reno"));
        assert!(!set_sysctl(net, "net.ipv4.tcp_congestion_control", "no such"));
        assert!(set_sysctl(net, "net.ipv4.tcp_fastopen_key", "a1a1a1a1-b2b2b2b2-c3c3c3c3-d4d4d4d4"));
        assert!(!set_sysctl(net, "net.ipv4.no_such", "1"));
        assert!(!set_sysctl(net, "net.ipv4.tcp_sack", "many"));
    }
}
