//! Links between stacks.
//!
//! Interface: [`Link`], [`Impairments`].
//! Linux counterpart: `ip link add … type veth`, `tc qdisc add … netem`.
//! Locks and context: process context.

use crate::stack::{Cidr, Stack};
use net::core::dev::{NetDevice, NetDeviceSpec, dev_open, dev_set_mtu};
use net::drivers::netem::Netem;
pub use net::drivers::netem::NetemParams as Impairments;
use net::drivers::veth::veth_pair_with;
use std::io;
use std::sync::Arc;

/// A cable between two stacks: a pair of Ethernet devices, `veth0` and so on, one in each.
///
/// ```no_run
/// # use sockeye::{Impairments, Link, Stack};
/// # fn main() -> std::io::Result<()> {
/// # let (a, b) = { let a = Stack::new()?; let b = a.sibling(); (a, b) };
/// Link::new()
///     .addresses("10.0.0.1/24", "10.0.0.2/24")
///     .addresses("fd00::1/64", "fd00::2/64")
///     .mtu(9000)
///     .impair(Impairments { loss: 0.01, delay_ns: 20_000_000, ..Impairments::default() })
///     .connect(&a, &b)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Link {
    addresses: Vec<(String, String)>,
    mtu: Option<u32>,
    impair: Option<Impairments>,
    seed: u64,
}

impl Link {
    pub fn new() -> Link {
        Link::default()
    }

    /// The addresses of the two ends, with their prefixes. May be given several times.
    pub fn addresses(mut self, a: &str, b: &str) -> Link {
        self.addresses.push((a.to_owned(), b.to_owned()));
        self
    }

    /// The largest IP packet, in bytes; 1500 by default.
    pub fn mtu(mut self, mtu: u32) -> Link {
        self.mtu = Some(mtu);
        self
    }

    /// What happens to packets on the way, in both directions.
    pub fn impair(mut self, p: Impairments) -> Link {
        self.impair = Some(p);
        self
    }

    /// The seed of the impairments' chances: the same seed and traffic, the same losses.
    pub fn seed(mut self, seed: u64) -> Link {
        self.seed = seed;
        self
    }

    /// Plugs it in, both ends up; the names of the two devices. `EINVAL` for stacks that are not
    /// [siblings](Stack::sibling), or an MTU out of range.
    pub fn connect(&self, a: &Stack, b: &Stack) -> io::Result<(String, String)> {
        let _cpu = a.net().kernel().enter();
        let netem = |which: u64| self.impair.map(|p| Netem::new(p, self.seed.wrapping_mul(2).wrapping_add(which)));
        let (ea, eb) = (netem(0), netem(1));
        let (da, db) = veth_pair_with(a.net(), "veth%d", b.net(), "veth%d", |s| wrap(ea, s), |s| wrap(eb, s))?;
        for (stack, dev, first) in [(a, &da, true), (b, &db, false)] {
            self.set_up(stack, dev, first)?;
        }
        Ok((da.name.clone(), db.name.clone()))
    }

    fn set_up(&self, stack: &Stack, dev: &Arc<NetDevice>, first: bool) -> io::Result<()> {
        if let Some(mtu) = self.mtu {
            dev_set_mtu(dev, mtu)?;
        }
        dev_open(dev)?;
        for (a, b) in &self.addresses {
            let cidr: Cidr = if first { a } else { b }.parse()?;
            stack.add_address_to(dev, cidr)?;
        }
        Ok(())
    }
}

fn wrap(netem: Option<Arc<Netem>>, spec: NetDeviceSpec) -> NetDeviceSpec {
    match netem {
        Some(n) => n.wrap(spec),
        None => spec,
    }
}
