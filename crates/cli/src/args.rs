//! The command line.
//!
//! Interface: [`Args`], [`RunArgs`], and the types its values are parsed into.
//! Linux counterpart: none.
//! Locks and context: pure.

use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// The Linux network stack, in Rust, in user space.
#[derive(Parser, Debug)]
#[command(name = "sockeye", version, max_term_width = 100)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    Run(RunArgs),
}

/// Run a program, unmodified, on a network stack of its own.
///
/// The program's sockets live in sockeye, not in the kernel: it has its own addresses, routes and connections, and needs no
/// privileges for them. With no options it gets the network `user`: address 10.0.2.15/24, gateway 10.0.2.2, name server
/// 10.0.2.3. What it connects to is carried to the host's network by the gateway; 10.0.2.2 itself stands for the host, and its
/// port 80 serves a page about the connection that asks for it.
///
/// The exit status is the program's, or 128 plus the number of the signal that ended it; 125 if sockeye itself failed, 126 if the
/// program could not be run, 127 if it was not found.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
    sockeye run -- curl -s http://10.0.2.2/\n  \
    sockeye run --publish 8080:80 -- nginx -g 'daemon off;'\n  \
    sockeye run --pcap out.pcapng --trace -- wget -q -O /dev/null http://example.org/")]
pub struct RunArgs {
    /// A name for the stack: it heads the trace, and the program finds it in SOCKEYE_NAME
    #[arg(long, value_name = "NAME", default_value = "sockeye")]
    pub name: String,

    /// The network: `user` (a gateway to the host's network), `none` (loopback only), or `tap:IFNAME` (a TAP device)
    #[arg(long, value_name = "user|none|tap:IFNAME", default_value = "user")]
    pub net: Network,

    /// An address of the program's interface, with its prefix length; may be given more than once
    #[arg(long = "ip", value_name = "ADDR/LEN")]
    pub ips: Vec<IpNet>,

    /// The router for everything that is not on the link
    #[arg(long, value_name = "ADDR")]
    pub gateway: Option<IpAddr>,

    /// Listen on the host and carry connections (with /udp: datagrams) to a port of the program; may be given more than once
    #[arg(long, value_name = "[HOSTADDR:]HOSTPORT:PORT[/udp]")]
    pub publish: Vec<Published>,

    /// Record every frame in this file, for tshark and Wireshark
    #[arg(long, value_name = "FILE.pcapng")]
    pub pcap: Option<PathBuf>,

    /// Print the path of each packet and system call, as an indented call tree with times, on standard error
    #[arg(long)]
    pub trace: bool,

    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM [ARGS]")]
    pub program: Vec<OsString>,
}

/// `--net`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    User,
    None,
    Tap(String),
}

impl FromStr for Network {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "user" => Ok(Network::User),
            "none" => Ok(Network::None),
            _ => match s.strip_prefix("tap:") {
                // IFNAMSIZ, with its terminating zero.
                Some(name) if (1..=15).contains(&name.len()) && !name.contains(['/', ' ']) => {
                    Ok(Network::Tap(name.into()))
                }
                Some(name) => Err(format!(
                    "`{name}` cannot be a device's name: it takes 1 to 15 characters, without `/` or spaces"
                )),
                None => Err("it is `user`, `none`, or `tap:` and the name of a TAP device".into()),
            },
        }
    }
}

/// An address with the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpNet {
    pub addr: IpAddr,
    pub len: u8,
}

impl FromStr for IpNet {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let (addr, len) = s.split_once('/').ok_or("it needs a prefix length, as in 10.0.2.15/24")?;
        let addr: IpAddr = addr.parse().map_err(|_| format!("`{addr}` is not an IP address"))?;
        let max = if addr.is_ipv4() { 32 } else { 128 };
        match len.parse() {
            Ok(len) if len <= max => Ok(IpNet { addr, len }),
            _ => Err(format!("the prefix length is a number from 0 to {max}, not `{len}`")),
        }
    }
}

/// `--publish`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    pub host: SocketAddr,
    pub port: u16,
    pub udp: bool,
}

impl FromStr for Published {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let (rest, udp) = match s.rsplit_once('/') {
            Some((rest, "udp")) => (rest, true),
            Some((rest, "tcp")) => (rest, false),
            Some((_, other)) => return Err(format!("`{other}` is not a protocol that can be published: tcp or udp")),
            None => (s, false),
        };
        let (host, port) = rest.rsplit_once(':').ok_or("it is HOSTPORT:PORT, as in 8080:80")?;
        let (addr, host_port) = match host.rsplit_once(':') {
            Some((addr, p)) => {
                let bare = addr.trim_start_matches('[').trim_end_matches(']');
                (bare.parse().map_err(|_| format!("`{addr}` is not an IP address"))?, p)
            }
            None => (IpAddr::V4(Ipv4Addr::LOCALHOST), host),
        };
        let number = |p: &str| match p.parse::<u16>() {
            Ok(n) if n > 0 => Ok(n),
            _ => Err(format!("a port is a number from 1 to 65535, not `{p}`")),
        };
        Ok(Published { host: SocketAddr::new(addr, number(host_port)?), port: number(port)?, udp })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn publish_takes_all_its_forms() {
        let p = |s: &str| s.parse::<Published>();
        let at = |h: &str, port, udp| Ok(Published { host: h.parse().unwrap(), port, udp });
        assert_eq!(p("8080:80"), at("127.0.0.1:8080", 80, false));
        assert_eq!(p("0.0.0.0:53:5353/udp"), at("0.0.0.0:53", 5353, true));
        assert_eq!(p("[::1]:8080:80/tcp"), at("[::1]:8080", 80, false));
        for bad in ["80", "0:80", "80:0", "80:65536", "x:80:80", "80:80/sctp", ""] {
            assert!(p(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_need_a_length_that_fits() {
        assert_eq!("10.0.0.1/8".parse(), Ok(IpNet { addr: "10.0.0.1".parse().unwrap(), len: 8 }));
        assert_eq!("fe80::1/64".parse::<IpNet>().map(|n| n.len), Ok(64));
        for bad in ["10.0.0.1", "10.0.0.1/33", "10.0.0/8", "::/129", "10.0.0.1/"] {
            assert!(bad.parse::<IpNet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn networks() {
        assert_eq!("tap:tap0".parse(), Ok(Network::Tap("tap0".into())));
        for bad in ["tap", "tap:", "tap:a/b", "tap:0123456789abcdef", "bridge"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }
}
