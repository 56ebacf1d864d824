//! A stack: a network namespace on a kernel of this process.
//!
//! Interface: [`Stack`], [`StackBuilder`], [`Cidr`].
//! Linux counterpart: `ip netns`, `ip address`, `ip route`, `sysctl`, as library calls.
//! Locks and context: process context.

use host::Host;
use net::core::dev::{NetDevice, dev_get_by_name, dev_open, for_each_netdev};
use net::core::net_namespace::{Net, Registries};
use net::core::snmp::Mib;
use net::core::sysctl_text::{sysctl_get, sysctl_set};
use net::init::net_init;
use net::ipv4::devinet::inet_addr_add;
use net::ipv4::fib_frontend::{RouteSpec, ip_route_add};
use net::ipv6::addrconf::inet6_addr_add_flags;
use net::ipv6::addrconf_core::IfaFlags;
use net::ipv6::route::{Route6Spec, ip6_route_add};
use net::syscall::FdTable;
use std::io;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use uapi::Errno;

/// A network stack of its own. Clones are the same stack.
#[derive(Clone)]
pub struct Stack {
    /// `None` where somebody else runs the kernel: a simulator.
    host: Option<Arc<Host>>,
    net: Arc<Net>,
}

/// How a stack is to be started.
#[derive(Clone, Debug, Default)]
pub struct StackBuilder {
    workers: usize,
}

impl StackBuilder {
    /// How many worker threads (`ksoftirqd`) serve timers and devices. 0, the default: one a CPU, eight at most. Callers'
    /// own threads do the work of links between stacks.
    pub fn workers(mut self, n: usize) -> Self {
        self.workers = n;
        self
    }

    /// Starts a kernel and its first stack. The errors are the machine's: out of descriptors or threads.
    pub fn build(self) -> io::Result<Stack> {
        let host = Host::start(self.workers)?;
        let reg: Arc<Registries> = net_init(host.kernel());
        Ok(Stack { host: Some(host), net: Net::new(&reg) })
    }
}

impl Stack {
    /// A stack with only a loopback device, on a kernel of its own.
    pub fn new() -> io::Result<Stack> {
        Stack::builder().build()
    }

    pub fn builder() -> StackBuilder {
        StackBuilder::default()
    }

    /// The stack that is the namespace `net`, on a kernel that somebody else runs. On a simulated machine its blocking calls
    /// are for simulated tasks.
    pub fn from_net(net: Arc<Net>) -> Stack {
        Stack { host: None, net }
    }

    /// Another, empty stack on the same kernel; only such can be joined by a [`Link`](crate::Link).
    pub fn sibling(&self) -> Stack {
        let _cpu = self.net.kernel().enter();
        Stack { host: self.host.clone(), net: Net::new(&self.net.reg) }
    }

    /// The namespace, for whoever wants to go below the sockets.
    pub fn net(&self) -> &Arc<Net> {
        &self.net
    }

    /// The kernel's host side; `None` for a stack [on a namespace](Stack::from_net) that has none.
    pub fn host(&self) -> Option<&Arc<Host>> {
        self.host.as_ref()
    }

    /// A new table of descriptors, with room for `limit`, for the bare socket calls.
    pub fn files(&self, limit: usize) -> FdTable {
        FdTable::new(&self.net, limit)
    }

    /// The names of the stack's devices.
    pub fn devices(&self) -> Vec<String> {
        let _cpu = self.net.kernel().enter();
        for_each_netdev(&self.net).iter().map(|d| d.name.clone()).collect()
    }

    /// Adds the machine's TAP device `tap` as an Ethernet device, up; its name here. `EOPNOTSUPP` for a stack without a
    /// [host](Stack::host).
    pub fn add_tap(&self, tap: &str) -> io::Result<String> {
        let host = self.host.as_ref().ok_or(Errno::EOPNOTSUPP)?;
        let _cpu = self.net.kernel().enter();
        let dev = host::tap::open(host, &self.net, tap, None).map_err(io::Error::other)?;
        dev_open(&dev)?;
        Ok(dev.name.clone())
    }

    /// Gives a device an address: `stack.add_address("eth0", "10.0.0.1/24")`. `ENODEV` without such a device, `EEXIST` for an
    /// address it has. An IPv6 address may be used at once: nobody is asked for duplicates.
    pub fn add_address(&self, device: &str, address: &str) -> io::Result<()> {
        let _cpu = self.net.kernel().enter();
        let dev = dev_get_by_name(&self.net, device).ok_or(Errno::ENODEV)?;
        self.add_address_to(&dev, address.parse()?)
    }

    pub(crate) fn add_address_to(&self, dev: &Arc<NetDevice>, a: Cidr) -> io::Result<()> {
        match a.ip {
            IpAddr::V4(ip) => inet_addr_add(dev, ip, a.prefix)?,
            IpAddr::V6(ip) => inet6_addr_add_flags(dev, ip, a.prefix, IfaFlags::NODAD)?,
        }
        Ok(())
    }

    /// Adds a route: `stack.add_route("0.0.0.0/0", "10.0.0.254")`. `ENETUNREACH` for a gateway that no device reaches.
    pub fn add_route(&self, destination: &str, gateway: &str) -> io::Result<()> {
        let _cpu = self.net.kernel().enter();
        let to: Cidr = destination.parse()?;
        let via = gateway.parse().map_err(invalid)?;
        match (to.ip, via) {
            (IpAddr::V4(d), IpAddr::V4(g)) => {
                ip_route_add(&self.net, RouteSpec { gateway: Some(g), ..RouteSpec::new(d, to.prefix) })?
            }
            (IpAddr::V6(d), IpAddr::V6(g)) => ip6_route_add(&self.net, Route6Spec::new(d, to.prefix).via(g))?,
            _ => return Err(Errno::EINVAL.into()),
        }
        Ok(())
    }

    /// A tunable, by its dotted name as in `sysctl(8)`; `ENOENT` for a name that is none.
    pub fn sysctl(&self, name: &str) -> io::Result<i64> {
        Ok(self.net.sysctl.get(name)?)
    }

    /// Sets it; `EINVAL` outside its bounds.
    pub fn set_sysctl(&self, name: &str, value: i64) -> io::Result<()> {
        Ok(self.net.sysctl.set(name, value)?)
    }

    /// A tunable as `/proc/sys` shows it: those of several numbers, and those that are words.
    pub fn sysctl_text(&self, name: &str) -> io::Result<String> {
        Ok(sysctl_get(&self.net, name)?)
    }

    /// Sets it; several numbers are separated by blanks. What it answers depends on the tunable.
    pub fn set_sysctl_text(&self, name: &str, value: &str) -> io::Result<()> {
        let _cpu = self.net.kernel().enter();
        Ok(sysctl_set(&self.net, name, value)?)
    }

    /// A counter, by its name as in `nstat(8)` (`"TcpRetransSegs"`); `None` for a name that is none.
    pub fn counter(&self, name: &str) -> Option<u64> {
        Mib::ALL.iter().find(|m| m.name() == name).map(|&m| self.net.mib.get(m))
    }
}

/// An address with the length of its network's prefix: `10.0.0.1/24`, `2001:db8::1/64`. Without a length it is a host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    pub ip: IpAddr,
    pub prefix: u8,
}

fn invalid<E: std::error::Error + Send + Sync + 'static>(e: E) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, e)
}

impl FromStr for Cidr {
    type Err = io::Error;

    fn from_str(s: &str) -> io::Result<Cidr> {
        let (ip, prefix) = match s.split_once('/') {
            Some((ip, prefix)) => (ip, Some(prefix)),
            None => (s, None),
        };
        let ip: IpAddr = ip.parse().map_err(invalid)?;
        let max = if ip.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(max), |p| p.parse::<u8>().map_err(invalid))?;
        if prefix > max {
            return Err(Errno::EINVAL.into());
        }
        Ok(Cidr { ip, prefix })
    }
}
