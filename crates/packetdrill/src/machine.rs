//! The machine under test: a kernel on virtual time, one namespace, one device, one process.
//!
//! Interface: [`Machine`].
//! Linux counterpart: the live kernel of packetdrill's local mode.
//! Locks and context: as in [`crate::clock`].

use crate::clock::{Inside, VirtualArch};
use crate::device::{RawIp, Sent};
use crate::epoll::Epolls;
use crate::flags::{Flags, mirror, set_sysctl};
use kernel::Kernel;
use net::core::dev::NetDevice;
use net::core::net_namespace::Net;
use net::init::net_init;
use net::ipv4::devinet::inet_addr_add;
use net::ipv4::fib_frontend::{RouteSpec, ip_route_add};
use net::ipv6::addrconf::inet6_addr_add;
use net::ipv6::route::{Route6Spec, ip6_route_add};
use net::syscall::FdTable;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

/// Descriptors that one script may have.
const NOFILE: usize = 4096;
/// How long a script waits for a packet, nanoseconds of virtual time.
const RECEIVE_LIMIT: u64 = 2 * 3600 * 1_000_000_000;
/// packetdrill sleeps until this long before an event and spins for the rest (`MAX_SPIN_USECS`); here it need not.
const SPIN_USECS: u64 = 20;

/// A stack, and what drives it.
pub struct Machine {
    pub arch: Arc<VirtualArch>,
    pub net: Arc<Net>,
    pub fds: FdTable,
    pub epolls: Epolls,
    pub raw: Arc<RawIp>,
    dev: Arc<NetDevice>,
    mirror: Option<PathBuf>,
    _kernel: Arc<Kernel>,
}

impl Machine {
    /// The calling thread is the one that drives it.
    pub fn new(flags: &Flags) -> Result<Machine, String> {
        let arch = VirtualArch::new(flags.seed);
        let kernel = Kernel::new(arch.clone(), 1);
        arch.set_kernel(&kernel);
        let reg = net_init(&kernel);
        let net = Net::new(&reg);
        for (name, value) in [("dad_transmits", 0), ("accept_ra", 0)] {
            let _ = net.sysctl.set(&format!("net.ipv6.conf.all.{name}"), value);
        }
        for (name, value) in &flags.sysctls {
            if !set_sysctl(&net, name, value) {
                return Err(format!("so_flags: sysctl {name} cannot be set to {value:?}"));
            }
        }
        let (raw, dev) = RawIp::register(&net, &arch, flags.mtu).map_err(|e| format!("tun0: {e:?}"))?;
        address(&net, &dev, &flags.addrs).map_err(|e| format!("so_flags: {e}"))?;
        for route in &flags.routes {
            add_route(&net, &dev, *route).map_err(|e| format!("so_flags: {e}"))?;
        }
        let fds = FdTable::new(&net, NOFILE);
        let machine = Machine {
            arch,
            net,
            fds,
            epolls: Epolls::default(),
            raw,
            dev,
            mirror: flags.mirror.clone(),
            _kernel: kernel,
        };
        machine.arch.settle();
        Ok(machine)
    }

    /// A call begins: before it, the sysctls are looked at.
    pub fn enter(&self) -> Inside<'_> {
        let inside = self.arch.enter();
        if let Some(dir) = &self.mirror {
            mirror(&self.net, dir);
        }
        inside
    }

    /// A raw IP packet arrives.
    pub fn netdev_send(&self, packet: &[u8]) -> uapi::Result<()> {
        let r = RawIp::receive(&self.dev, packet);
        self.arch.settle();
        r
    }

    /// The next packet that the stack sends; time goes on until there is one. `None`: there is none for hours.
    pub fn netdev_receive(&self) -> Option<Sent> {
        self.netdev_receive_within(RECEIVE_LIMIT)
    }

    /// The same for a limit of `ns` nanoseconds.
    pub fn netdev_receive_within(&self, ns: u64) -> Option<Sent> {
        use kernel::Arch;
        let end = self.arch.ktime_get() + ns;
        self.arch.settle();
        loop {
            if let Some(sent) = self.raw.take() {
                return Some(sent);
            }
            if !self.arch.step(end) {
                return None;
            }
        }
    }

    /// packetdrill's sleep: ends at the event that it precedes.
    pub fn usleep(&self, usecs: u64) {
        use kernel::Arch;
        self.arch.let_others_in();
        self.arch.advance(self.arch.ktime_get() + (usecs + SPIN_USECS) * 1000);
        self.arch.let_others_in();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.arch.shut_down();
    }
}

/// Addresses, and everything else behind the device.
fn address(net: &Arc<Net>, dev: &Arc<NetDevice>, addrs: &[(IpAddr, u8)]) -> Result<(), String> {
    const V4: (IpAddr, u8) = (IpAddr::V4(Ipv4Addr::new(192, 168, 0, 1)), 16);
    const V6: (IpAddr, u8) = (IpAddr::V6(Ipv6Addr::new(0xfd3d, 0xa0b, 0x17d6, 0, 0, 0, 0, 1)), 32);
    let _cpu = net.kernel().enter();
    let mut all = addrs.to_vec();
    for default in [V4, V6] {
        if !all.iter().any(|a| a.0.is_ipv4() == default.0.is_ipv4()) {
            all.push(default);
        }
    }
    for (ip, plen) in all {
        let r = match ip {
            IpAddr::V4(a) => inet_addr_add(dev, a, plen),
            // A device of less than 1280 bytes has no IPv6.
            IpAddr::V6(_) if dev.mtu() < 1280 => Ok(()),
            IpAddr::V6(a) => inet6_addr_add(dev, a, plen),
        };
        r.map_err(|e| format!("address {ip}/{plen}: {e:?}"))?;
    }
    add_route(net, dev, (Ipv4Addr::UNSPECIFIED.into(), 0))?;
    add_route(net, dev, (Ipv6Addr::UNSPECIFIED.into(), 0))
}

fn add_route(net: &Arc<Net>, dev: &Arc<NetDevice>, (ip, plen): (IpAddr, u8)) -> Result<(), String> {
    let _cpu = net.kernel().enter();
    let r = match ip {
        IpAddr::V4(a) => ip_route_add(net, RouteSpec { oif: dev.ifindex, ..RouteSpec::new(a, plen) }),
        IpAddr::V6(_) if dev.mtu() < 1280 => Ok(()),
        IpAddr::V6(a) => ip6_route_add(net, Route6Spec::new(a, plen).dev(dev.ifindex)),
    };
    r.map_err(|e| format!("route {ip}/{plen}: {e:?}"))
}
