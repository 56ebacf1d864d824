//! What is to happen: hosts, conversations and faults, drawn from a seed, each for itself.
//!
//! Interface: [`Plan`] (a seed, a size, and what is left out), [`Scenario::new`]; its parts.
//! Linux counterpart: none.
//! Locks and context: pure.
//!
//! Conversation 7 of a seed is the same whatever else is there: a scenario shrinks by leaving parts out.

use net::core::dev::Features;
use sim::Rng;
use sim::link::{Chance, GilbertElliott, LinkParams};
use std::collections::BTreeSet;
use std::fmt;

pub const MS: u64 = 1_000_000;
pub const SEC: u64 = 1_000_000_000;
/// Hosts on one switch, behind one router.
pub const LAN: u32 = 25;

/// A bug that is put in on purpose, for tests of the harness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// The server of conversations over 20,000 bytes leaves one byte out.
    LostByte,
    /// A timer of every host that a conversation's host cut hit stays armed.
    LeakedTimer,
}

/// A seed, a size, and what of it is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    pub hosts: u32,
    /// Virtual seconds in which conversations begin and faults happen.
    pub time: u64,
    /// The numbers of the conversations and faults that are left; `None`: all.
    pub talks: Option<Vec<u32>>,
    pub faults: Option<Vec<u32>>,
    /// As [`SimConfig::preempt_every`](sim::SimConfig).
    pub preempt: Option<u32>,
    pub plant: Option<Plant>,
}

impl Plan {
    pub fn new(seed: u64, hosts: u32, time: u64) -> Plan {
        Plan { seed, hosts, time, talks: None, faults: None, preempt: None, plant: None }
    }
}

impl fmt::Display for Plan {
    /// The arguments that repeat it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--seed {} --hosts {} --time {}", self.seed, self.hosts, self.time)?;
        let list = |l: &[u32]| {
            if l.is_empty() { "none".to_owned() } else { l.iter().map(u32::to_string).collect::<Vec<_>>().join(",") }
        };
        if let Some(t) = &self.talks {
            write!(f, " --talks {}", list(t))?;
        }
        if let Some(x) = &self.faults {
            write!(f, " --faults {}", list(x))?;
        }
        if let Some(n) = self.preempt {
            write!(f, " --preempt {n}")?;
        }
        Ok(())
    }
}

/// How a conversation goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TalkKind {
    /// Requests and answers, with pauses of `think` nanoseconds between.
    Rounds { rounds: u32, request: u32, answer: u32, think: u64 },
    /// Both send at once, each as much as it has.
    Duplex { up: u64, down: u64 },
}

/// A TCP connection from a host to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Talk {
    pub id: u32,
    pub client: u32,
    pub server: u32,
    pub v6: bool,
    /// Nanoseconds.
    pub start: u64,
    pub kind: TalkKind,
    /// Keepalives, and so an end for connections that are cut off while idle.
    pub keepalive: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A LAN is cut off from the others.
    LanCut { lan: u32 },
    /// A host's cable is unplugged.
    HostCut { host: u32 },
    /// The LANs with odd numbers and those with even ones do not hear each other.
    Split,
    /// A host's cable loses packets in bursts.
    Storm { host: u32 },
    /// A host's device is taken down.
    DeviceDown { host: u32 },
    /// Allocations of a host fail, one in `one_in`.
    NoMemory { host: u32, one_in: u64 },
    /// A host's CPU stands still.
    Stall { host: u32 },
}

/// Something that goes wrong, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub id: u32,
    pub from: u64,
    pub to: u64,
    pub kind: FaultKind,
}

impl Fault {
    /// Whether it can come between two hosts.
    pub fn hits(&self, a: u32, b: u32) -> bool {
        let far = a / LAN != b / LAN;
        match self.kind {
            FaultKind::LanCut { lan } => far && (a / LAN == lan || b / LAN == lan),
            FaultKind::Split => far,
            FaultKind::HostCut { host: h }
            | FaultKind::Storm { host: h }
            | FaultKind::DeviceDown { host: h }
            | FaultKind::NoMemory { host: h, .. }
            | FaultKind::Stall { host: h } => h == a || h == b,
        }
    }
}

/// A host, its card and its cable.
#[derive(Clone, Debug)]
pub struct HostSpec {
    pub id: u32,
    pub features: Features,
    pub cpus: usize,
    pub cable: LinkParams,
    pub rx_ring: usize,
}

pub struct Scenario {
    pub plan: Plan,
    pub hosts: Vec<HostSpec>,
    pub talks: Vec<Talk>,
    pub faults: Vec<Fault>,
}

impl Scenario {
    pub fn new(plan: &Plan) -> Scenario {
        let left = |which: &Option<Vec<u32>>, id: u32| which.as_ref().is_none_or(|w| w.contains(&id));
        // Four conversations a host and an hour's worth of them in an hour; a fault for every three hosts.
        let nr_talks = (plan.hosts * 4).max(1);
        let nr_faults = (plan.hosts / 3).max(4);
        let draw = |label: &str, id: u32| Rng::stream(plan.seed, &format!("{label}/{id}"));
        let talks = (0..nr_talks).filter(|id| left(&plan.talks, *id));
        let talks: Vec<Talk> = talks.map(|id| talk(plan, id, &mut draw("talk", id))).collect();
        let faults = (0..nr_faults).filter(|id| left(&plan.faults, *id));
        let faults: Vec<Fault> = faults.map(|id| fault(plan, id, &mut draw("fault", id))).collect();
        let used: BTreeSet<u32> = talks.iter().flat_map(|t| [t.client, t.server]).collect();
        let hosts = used.into_iter().map(|id| host(id, &mut draw("host", id))).collect();
        Scenario { plan: plan.clone(), hosts, talks, faults }
    }

    /// The virtual time after which nothing new happens, in nanoseconds.
    pub fn end(&self) -> u64 {
        self.plan.time * SEC
    }
}

fn talk(plan: &Plan, id: u32, r: &mut Rng) -> Talk {
    let client = r.below(plan.hosts.into()) as u32;
    // Mostly to another host.
    let server = r.below(plan.hosts.into()) as u32;
    let start = r.below((plan.time * SEC * 4 / 5).max(1));
    let kind = match r.below(3) {
        0 => TalkKind::Duplex { up: size(r), down: size(r) },
        _ => TalkKind::Rounds {
            rounds: r.between(1, 50) as u32,
            request: r.between(1, 3000) as u32,
            answer: size(r).min(20_000) as u32,
            think: r.between(1, 20) * r.between(1, 500) * MS,
        },
    };
    Talk { id, client, server, v6: r.chance(1, 3), start, kind, keepalive: true }
}

/// Bytes: few, often; a megabyte, seldom.
fn size(r: &mut Rng) -> u64 {
    let bits = r.between(0, 20);
    r.below(1 << bits)
}

fn fault(plan: &Plan, id: u32, r: &mut Rng) -> Fault {
    let end = plan.time * SEC;
    let host = r.below(plan.hosts.into()) as u32;
    let from = r.below(end.max(1));
    // Seconds, often; a quarter of an hour, seldom.
    let long = match r.below(10) {
        0 => r.between(120, 900) * SEC,
        1..4 => r.between(10, 120) * SEC,
        _ => r.between(10, 10_000) * MS,
    };
    let kind = match r.below(16) {
        0..3 => FaultKind::LanCut { lan: host / LAN },
        3..7 => FaultKind::HostCut { host },
        7 => FaultKind::Split,
        8..11 => FaultKind::Storm { host },
        11..13 => FaultKind::DeviceDown { host },
        13..15 => FaultKind::NoMemory { host, one_in: r.between(3, 100) },
        _ => FaultKind::Stall { host },
    };
    let long = if matches!(kind, FaultKind::Stall { .. }) { long.min(2 * SEC) } else { long };
    Fault { id, from, to: (from + long).min(end), kind }
}

fn host(id: u32, r: &mut Rng) -> HostSpec {
    let all = sim::nic::NicConfig::new([0; 6]).features;
    let features = match r.below(4) {
        0 => all - Features::TSO - Features::TSO6 - Features::GSO_UDP_L4,
        1 => all - Features::GRO,
        2 => Features::empty(),
        _ => all,
    };
    let lossy = r.chance(1, 2);
    let jittery = r.chance(1, 4);
    let cable = LinkParams {
        bandwidth: [10_000_000, 100_000_000, 1_000_000_000][r.below(3) as usize],
        delay: r.between(10, 20_000) * 1000,
        jitter: if jittery { r.between(0, 1000) * 1000 } else { 0 },
        keep_order: r.chance(3, 4),
        // So little that three ARP requests in a row are as good as never lost: a connection that fails has a fault to show.
        loss: if lossy { Chance::ppm(r.below(4_000) as u32) } else { Chance::NEVER },
        duplicate: if r.chance(1, 8) { Chance::ppm(5_000) } else { Chance::NEVER },
        corrupt: if r.chance(1, 8) { Chance::ppm(5_000) } else { Chance::NEVER },
        reorder: if r.chance(1, 8) { Chance::ppm(10_000) } else { Chance::NEVER },
        reorder_by: 2 * MS,
        limit_packets: r.between(50, 1000) as usize,
        ..LinkParams::default()
    };
    let cpus = if r.chance(1, 8) { 2 } else { 1 };
    HostSpec { id, features, cpus, cable, rx_ring: 1 << r.between(4, 9) }
}

/// What a cable does in a storm.
pub fn storm(calm: LinkParams) -> LinkParams {
    let burst = GilbertElliott {
        to_bad: Chance::ppm(50_000),
        to_good: Chance::ppm(100_000),
        loss_in_good: Chance::ppm(10_000),
        loss_in_bad: Chance::ppm(800_000),
    };
    LinkParams { burst, ..calm }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}, {} s, {} hosts", self.plan.seed, self.plan.time, self.hosts.len())?;
        for t in &self.talks {
            let version = if t.v6 { 6 } else { 4 };
            writeln!(
                f,
                "  talk {}: host {} to {} by IPv{version}, at {}, {:?}",
                t.id,
                t.client,
                t.server,
                Secs(t.start),
                t.kind
            )?;
        }
        for x in &self.faults {
            writeln!(f, "  fault {}: {:?}, {} to {}", x.id, x.kind, Secs(x.from), Secs(x.to))?;
        }
        Ok(())
    }
}

/// Nanoseconds, shown as seconds.
pub struct Secs(pub u64);

impl fmt::Display for Secs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} s", self.0 / SEC, self.0 % SEC / MS)
    }
}
