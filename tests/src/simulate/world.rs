//! The machines of a scenario and what joins them: LANs of hosts on switches, routers, a backbone.
//!
//! Interface: [`World::new`], [`World::host`], [`World::address`], [`World::leftovers`].
//! Linux counterpart: none; somebody with cables and `ip(8)`.
//! Locks and context: outside of the machines.

use crate::simulate::scenario::{HostSpec, LAN, MS, Scenario};
use net::core::dev::{NetDevice, dev_open};
use net::core::net_namespace::Net;
use net::init::net_init;
use sim::link::{Chance, LinkParams};
use sim::network::{self, Cable};
use sim::nic::{Nic, NicConfig};
use sim::switch::Switch;
use sim::{Machine, Sim};
use sockeye::Stack;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::sync::Arc;

/// A machine with a stack and its cards.
pub struct Node {
    pub machine: Machine,
    pub stack: Stack,
    pub nics: Vec<Arc<Nic>>,
    pub devs: Vec<Arc<NetDevice>>,
    pub cables: Vec<Cable>,
}

/// A LAN: its switch, its router, and the router's cable to the backbone with its port there.
pub struct Lan {
    pub router: Node,
    _switch: Arc<Switch>,
    pub uplink: Cable,
    pub backbone_port: usize,
}

pub struct World {
    pub hosts: BTreeMap<u32, Rc<Node>>,
    pub lans: BTreeMap<u32, Lan>,
    pub backbone: Arc<Switch>,
}

fn v4(a: u8, lan: u32, n: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, a, lan as u8, n as u8)
}

fn v6(lan: u32, n: u32) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, lan as u16, 0, 0, 0, n as u16)
}

/// The router's number in its LAN; LAN numbers on the backbone are this LAN's in IPv6.
const ROUTER: u32 = 254;
const BACKBONE: u32 = 0xffff;

impl Node {
    fn new(sim: &Sim, name: &str, cpus: usize) -> Node {
        let machine = sim.machine(name, cpus);
        machine.kernel().tracer().number_ids_from((machine.index() as u64 + 1) << 40);
        let stack = Stack::from_net(Net::new(&net_init(machine.kernel())));
        Node { machine, stack, nics: Vec::new(), devs: Vec::new(), cables: Vec::new() }
    }

    /// Adds a card with its cable, up, with its addresses. The port it got.
    fn plug(
        &mut self,
        sim: &Sim,
        label: &str,
        config: NicConfig,
        switch: &Switch,
        cable: LinkParams,
        at: (Ipv4Addr, u8, Ipv6Addr),
    ) -> usize {
        let (nic, cable, port) = network::plug(sim, label, &self.machine, config, switch, cable);
        let _cpu = self.machine.kernel().enter();
        let dev = nic.register(self.stack.net()).expect("a new name");
        dev_open(&dev).expect("a card that can be opened");
        self.stack.add_address(&dev.name, &format!("{}/{}", at.0, at.1)).expect("a new address");
        self.stack.add_address(&dev.name, &format!("{}/64", at.2)).expect("a new address");
        self.nics.push(nic);
        self.devs.push(dev);
        self.cables.push(cable);
        port
    }

    /// The way out of the LAN; again, after the device was down.
    pub fn add_default_routes(&self, lan: u32) {
        // There already, or the device is not up any more.
        let _ = self.stack.add_route("0.0.0.0/0", &v4(1, lan, ROUTER).to_string());
        let _ = self.stack.add_route("::/0", &v6(lan, ROUTER).to_string());
    }

    pub fn net(&self) -> &Arc<Net> {
        self.stack.net()
    }
}

impl World {
    pub fn new(sim: &Sim, s: &Scenario) -> World {
        let backbone = network::switch(sim);
        let lans: BTreeSet<u32> = s.hosts.iter().map(|h| h.id / LAN).collect();
        let mut world = World { hosts: BTreeMap::new(), lans: BTreeMap::new(), backbone };
        for &lan in &lans {
            let switch = network::switch(sim);
            let l = world.lan(sim, lan, &lans, switch.clone());
            world.lans.insert(lan, l);
            for h in s.hosts.iter().filter(|h| h.id / LAN == lan) {
                world.hosts.insert(h.id, Rc::new(host(sim, h, &switch)));
            }
        }
        world
    }

    fn lan(&self, sim: &Sim, lan: u32, all: &BTreeSet<u32>, switch: Arc<Switch>) -> Lan {
        let mut router = Node::new(sim, &format!("router{lan}"), 1);
        router.stack.set_sysctl("net.ipv4.ip_forward", 1).expect("a tunable");
        router.stack.set_sysctl("net.ipv6.conf.all.forwarding", 1).expect("a tunable");
        let fast =
            LinkParams { bandwidth: 1_000_000_000, delay: MS / 100, limit_packets: 1000, ..LinkParams::default() };
        let wide = LinkParams { bandwidth: 1_000_000_000, delay: 2 * MS, limit_packets: 1000, ..LinkParams::default() };
        let mac = |port| NicConfig::new([2, 0, 2, lan as u8, 0, port]);
        router.plug(sim, &format!("router/{lan}"), mac(0), &switch, fast, (v4(1, lan, ROUTER), 24, v6(lan, ROUTER)));
        let at = (v4(2, 0, lan + 1), 16, v6(BACKBONE, lan + 1));
        let backbone_port = router.plug(sim, &format!("uplink/{lan}"), mac(1), &self.backbone, wide, at);
        for other in all.iter().filter(|o| **o != lan) {
            let route = |to: String, via: String| router.stack.add_route(&to, &via).expect("a new route");
            route(format!("{}/24", v4(1, *other, 0)), v4(2, 0, other + 1).to_string());
            route(format!("{}/64", v6(*other, 0)), v6(BACKBONE, other + 1).to_string());
        }
        let uplink = router.cables[1].clone();
        Lan { router, _switch: switch, uplink, backbone_port }
    }

    pub fn host(&self, id: u32) -> Option<&Rc<Node>> {
        self.hosts.get(&id)
    }

    pub fn address(host: u32, six: bool) -> IpAddr {
        let (lan, n) = (host / LAN, host % LAN + 1);
        if six { v6(lan, n).into() } else { v4(1, lan, n).into() }
    }

    pub fn nodes(&self) -> impl Iterator<Item = (String, &Node)> {
        let hosts = self.hosts.iter().map(|(id, n)| (format!("host {id}"), &**n));
        hosts.chain(self.lans.iter().map(|(id, l)| (format!("router {id}"), &l.router)))
    }

    /// What is left once everything should be over.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for (name, n) in self.nodes() {
            let mut add = |what: &str, count: usize| {
                if count > 0 {
                    left.push(format!("{name}: {count} {what}"));
                }
            };
            add("sockets", n.net().sockets_in_use());
            add("timers", n.machine.kernel().timers().pending());
            add("packets in its cards", n.nics.iter().map(|c| c.held()).sum());
            add("packets in its cables", n.cables.iter().map(Cable::in_flight).sum());
        }
        left
    }
}

fn host(sim: &Sim, h: &HostSpec, switch: &Switch) -> Node {
    let (lan, n) = (h.id / LAN, h.id % LAN + 1);
    let mut node = Node::new(sim, &format!("host{}", h.id), h.cpus);
    let config =
        NicConfig { features: h.features, rx_ring: h.rx_ring, ..NicConfig::new([2, 0, 1, lan as u8, 0, n as u8]) };
    node.plug(sim, &format!("host/{}", h.id), config, switch, h.cable, (v4(1, lan, n), 24, v6(lan, n)));
    set_cable(&node.cables[0], h.cable);
    node.add_default_routes(lan);
    node
}

/// What a host's cable does. It turns bits on the way to the host only, so in no packet more than one: two can be such that
/// a checksum of 16 bits stays right.
pub fn set_cable(cable: &Cable, params: LinkParams) {
    cable.back.wire(|w| w.set(params));
    cable.there.wire(|w| w.set(LinkParams { corrupt: Chance::NEVER, ..params }));
}
