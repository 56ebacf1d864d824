//! `sockeye run`: puts the stack together, runs the program on it, takes the stack down.
//!
//! Interface: [`run`], [`CliError`].
//! Linux counterpart: none.
//! Locks and context: the command's main thread.

use crate::args::{IpNet, Network, RunArgs};
use crate::trace_text::TraceText;
use host::pcapng::{Capture, Filter};
use host::{Host, TapError, tap};
use net::core::dev::{NetDevice, dev_open};
use net::core::net_namespace::Net;
use net::init::net_init;
use net::ipv4::devinet::inet_addr_add;
use net::ipv4::fib_frontend::{RouteSpec, ip_route_add};
use net::ipv6::addrconf::inet6_addr_add_flags;
use net::ipv6::addrconf_core::IfaFlags;
use net::ipv6::route::{Route6Spec, ip6_route_add};
use run::gateway::{self, Gateway, GatewayConfig, Publish};
use run::{RunError, RunOptions};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use uapi::Errno;

/// Why the command fails before or beside the program.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Gateway(#[from] gateway::GatewayError),
    #[error(transparent)]
    Tap(#[from] TapError),
    #[error("cannot write {0}: {1}")]
    Pcap(String, std::io::Error),
    #[error("cannot start the stack: {0}")]
    Host(#[from] std::io::Error),
    #[error("cannot {0}: {1}")]
    Net(String, Errno),
    #[error("{0}")]
    Usage(String),
}

impl CliError {
    /// As `env(1)`: 127 not found, 126 found but not run, 125 everything else.
    pub fn exit_status(&self) -> u8 {
        match self {
            CliError::Run(e) => u8::try_from(e.exit_code()).unwrap_or(125),
            _ => 125,
        }
    }
}

/// Runs the program and answers its exit status.
pub fn run(args: RunArgs) -> Result<u8, CliError> {
    check(&args)?;
    let host = Host::start(workers())?;
    let reg = net_init(host.kernel());
    let net = {
        let _inside = host.kernel().enter();
        Net::new(&reg)
    };
    let pcap = match &args.pcap {
        Some(path) => {
            let file = Capture::create(&reg, path, Filter::Net(net.clone()));
            Some(file.map_err(|e| CliError::Pcap(path_of(&args), e))?)
        }
        None => None,
    };
    let link = Link::set_up(&host, &net, &args)?;
    let trace = args.trace.then(|| TraceText::start(host.kernel(), &args.name)).transpose()?;
    let status = run::run(&net, options(&args, &link));
    drop(trace);
    drop(link);
    if let Some(capture) = pcap {
        let done = capture.finish().map_err(|e| CliError::Pcap(path_of(&args), e))?;
        if done.dropped > 0 {
            eprintln!(
                "sockeye: {} of {} packets came too fast to be recorded",
                done.dropped,
                done.dropped + done.written
            );
        }
    }
    host.stop();
    // Up to 128 and 64: fits.
    Ok(u8::try_from(status?.shell_code()).unwrap_or(125))
}

fn path_of(args: &RunArgs) -> String {
    args.pcap.as_deref().map(|p| p.display().to_string()).unwrap_or_default()
}

/// One worker a processor, up to four: callers' own threads do most of the work.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(4))
}

/// Refuses what does not go together.
fn check(args: &RunArgs) -> Result<(), CliError> {
    let usage = |m: &str| Err(CliError::Usage(m.into()));
    match &args.net {
        Network::User => Ok(()),
        _ if !args.publish.is_empty() => {
            usage("--publish needs the network `user`; a program on a TAP device is reached through that device")
        }
        Network::None if !args.ips.is_empty() || args.gateway.is_some() => {
            usage("--ip and --gateway need an interface; the network `none` has only loopback")
        }
        Network::Tap(_) if args.ips.is_empty() => usage(
            "a TAP device comes without addresses: give one with --ip ADDR/LEN, on the network of the device's other end",
        ),
        _ => Ok(()),
    }
}

fn options(args: &RunArgs, link: &Link) -> RunOptions {
    let mut program = args.program.iter().cloned();
    let resolv_conf = link.gateway.as_ref().map(|_| format!("nameserver {}\n", link.dns));
    RunOptions {
        program: program.next().unwrap_or_default(),
        args: program.collect(),
        env: vec![("SOCKEYE_NAME".into(), args.name.clone().into())],
        resolv_conf,
        ..RunOptions::default()
    }
}

/// What joins the stack to the world; taken down when dropped.
struct Link {
    gateway: Option<Gateway>,
    dns: Ipv4Addr,
}

impl Link {
    fn set_up(host: &Arc<Host>, net: &Arc<Net>, args: &RunArgs) -> Result<Link, CliError> {
        let mut link = Link { gateway: None, dns: gateway::DNS_ADDR };
        match &args.net {
            Network::None => {}
            Network::User => {
                let config = user_config(args)?;
                link.dns = config.dns;
                let first = config.user;
                link.gateway = Some(Gateway::start(net, config)?);
                let _inside = host.kernel().enter();
                let dev = device(net, "eth0")?;
                let extra = args.ips.iter().filter(|ip| (ip.addr, ip.len) != (IpAddr::V4(first.0), first.1));
                add_addresses(&dev, extra)?;
            }
            Network::Tap(name) => {
                let dev = tap::open(host, net, name, None)?;
                let _inside = host.kernel().enter();
                add_addresses(&dev, args.ips.iter())?;
                dev_open(&dev).map_err(|e| CliError::Net(format!("bring {name} up"), e))?;
                if let Some(gw) = args.gateway {
                    add_default_route(net, gw, &dev)?;
                }
            }
        }
        Ok(link)
    }
}

fn device(net: &Net, name: &str) -> Result<Arc<NetDevice>, CliError> {
    net::core::dev::dev_get_by_name(net, name).ok_or_else(|| CliError::Net(format!("find {name}"), Errno::ENODEV))
}

fn add_addresses<'a>(dev: &Arc<NetDevice>, ips: impl Iterator<Item = &'a IpNet>) -> Result<(), CliError> {
    for ip in ips {
        let r = match ip.addr {
            IpAddr::V4(a) => inet_addr_add(dev, a, ip.len),
            // Usable at once: a program would not wait for duplicate address detection.
            IpAddr::V6(a) => inet6_addr_add_flags(dev, a, ip.len, IfaFlags::PERMANENT | IfaFlags::NODAD),
        };
        r.map_err(|e| CliError::Net(format!("give {} the address {}/{}", dev.name, ip.addr, ip.len), e))?;
    }
    Ok(())
}

fn add_default_route(net: &Arc<Net>, gw: IpAddr, dev: &Arc<NetDevice>) -> Result<(), CliError> {
    let r = match gw {
        IpAddr::V4(gw) => ip_route_add(net, RouteSpec::default_via(gw)),
        IpAddr::V6(gw) => ip6_route_add(
            net,
            Route6Spec { gateway: Some(gw), oif: dev.ifindex, ..Route6Spec::new(Ipv6Addr::UNSPECIFIED, 0) },
        ),
    };
    r.map_err(|e| CliError::Net(format!("route through {gw}; it must be on the network of an --ip address"), e))
}

/// The default network, with the addresses that were asked for.
fn user_config(args: &RunArgs) -> Result<GatewayConfig, CliError> {
    let mut config = GatewayConfig::default();
    let first = args.ips.iter().find_map(|ip| match ip.addr {
        IpAddr::V4(a) => Some((a, ip.len)),
        IpAddr::V6(_) => None,
    });
    if let Some((addr, len)) = first {
        config.user = (addr, len);
        let network = u32::from(addr) & u32::MAX.checked_shl(32 - len as u32).unwrap_or(0);
        if len > 29 {
            return Err(CliError::Usage(format!(
                "--ip {addr}/{len} leaves no room for a gateway and a name server: use /29 or less"
            )));
        }
        config.gateway = Ipv4Addr::from(network + 2);
        config.dns = Ipv4Addr::from(network + 3);
    }
    match args.gateway {
        Some(IpAddr::V4(gw)) => config.gateway = gw,
        Some(IpAddr::V6(_)) => return Err(CliError::Usage("the network `user` has an IPv4 gateway".into())),
        None => {}
    }
    if [config.gateway, config.dns].contains(&config.user.0) || config.gateway == config.dns {
        return Err(CliError::Usage(format!(
            "the program ({}), the gateway ({}) and the name server ({}) need different addresses: choose another --ip",
            config.user.0, config.gateway, config.dns
        )));
    }
    config.publish = args.publish.iter().map(|p| Publish { host: p.host, port: p.port, udp: p.udp }).collect();
    Ok(config)
}
