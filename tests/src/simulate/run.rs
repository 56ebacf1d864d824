//! A scenario happens.
//!
//! Interface: [`run`].
//! Linux counterpart: none.
//! Locks and context: the calling thread runs the simulation.

use crate::simulate::report::Report;
use crate::simulate::scenario::{Fault, FaultKind, LAN, Plant, SEC, Scenario, storm};
use crate::simulate::talk::{End, Server, client, serve};
use crate::simulate::verdict::judge;
use crate::simulate::world::{Node, World, set_cable};
use kernel::fault::FaultsOn;
use net::core::dev::{dev_close, dev_open};
use net::core::skbuff::skbs_alive;
use net::core::snmp::Mib;
use sim::{CpuFault, Rng, Sim, SimConfig};
use sockeye::bsd::FdTable;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// After the last conversation: every TIME_WAIT, every orphan, every timer of ours has had its time.
const AFTERMATH: u64 = 1200 * SEC;

type Ends = Rc<RefCell<Vec<(Option<u32>, End)>>>;

/// Lets it happen, and looks whether all is well. Panics where the simulation does: at a deadlock, a panic inside, a report of
/// lockdep.
pub fn run(s: &Scenario) -> Report {
    let skbs_before = skbs_alive();
    let replay = Some(format!("cargo xtask simulate {}", s.plan));
    let sim = Sim::new(SimConfig { seed: s.plan.seed, preempt_every: s.plan.preempt, replay, ..SimConfig::default() });
    let world = Rc::new(World::new(&sim, s));
    let _faults_on = s.faults.iter().any(|f| matches!(f.kind, FaultKind::NoMemory { .. })).then(FaultsOn::new);
    for f in &s.faults {
        plan_fault(&sim, s, &world, f);
    }
    let (clients, servers) = start(&sim, s, &world);
    sim.run_tasks();
    let mut report = Report { over_at: sim.now(), talks: s.talks.len(), ..Report::default() };
    sim.run_for(AFTERMATH);
    // What one frees may hold what another frees.
    (0..4).for_each(|_| kernel::rcu::rcu_barrier());

    let servers: BTreeMap<u32, End> = servers.take().into_iter().filter_map(|(talk, end)| Some((talk?, end))).collect();
    let clients: BTreeMap<u32, End> = clients.take().into_iter().filter_map(|(talk, end)| Some((talk?, end))).collect();
    judge(s, &clients, &servers, &mut report);
    report.problems.extend(world.leftovers());
    if sim::rcu_pending() > 0 {
        report.problems.push(format!("{} RCU callbacks are left", sim::rcu_pending()));
    }
    for (_, n) in world.nodes() {
        report.packets += n
            .nics
            .iter()
            .zip(&n.cables)
            .map(|(_, c)| c.there.stats().delivered + c.back.stats().delivered)
            .sum::<u64>();
        report.retransmitted += n.net().mib.get(Mib::TcpRetransSegs);
    }
    (report.trace_hash, report.steps) = (sim.trace_hash(), sim.steps());
    drop(world);
    drop(sim);
    let skbs = skbs_alive() - skbs_before;
    if skbs != 0 {
        report.problems.push(format!("{skbs} packets are left in memory"));
    }
    report
}

/// Servers on every host, and the clients when their time has come. What their ends have seen comes in there.
fn start(sim: &Sim, s: &Scenario, world: &Rc<World>) -> (Ends, Ends) {
    let (clients, servers) = (Ends::default(), Ends::default());
    let talks = Rc::new(s.talks.clone());
    for host in world.hosts.values() {
        let server = Rc::new(Server {
            machine: host.machine.clone(),
            files: Rc::new(FdTable::new(host.net(), 4096)),
            seed: s.plan.seed,
            talks: talks.clone(),
            ends: servers.clone(),
            until: s.end() + 300 * SEC,
            plant: s.plan.plant,
        });
        host.machine.spawn("server", move || serve(&server).expect("a server goes on"));
    }
    for t in &s.talks {
        let Some(host) = world.host(t.client).cloned() else { continue };
        let (t, clients, seed) = (t.clone(), clients.clone(), s.plan.seed);
        sim.at(t.start, move || {
            let to = World::address(t.server, t.v6);
            let (machine, stack) = (host.machine.clone(), host.stack.clone());
            host.machine.spawn("client", move || {
                let end = client(&machine, &stack, to, &t, seed);
                sim::note("client over", t.id.into(), end.received);
                clients.borrow_mut().push((Some(t.id), end));
            });
        });
    }
    (clients, servers)
}

fn plan_fault(sim: &Sim, s: &Scenario, world: &Rc<World>, f: &Fault) {
    let set = |on: bool, what: fn(&World, &Fault, bool)| {
        let (world, f) = (world.clone(), f.clone());
        sim.at(if on { f.from } else { f.to }, move || what(&world, &f, on));
    };
    let both = |what: fn(&World, &Fault, bool)| [true, false].map(|on| set(on, what));
    match f.kind {
        FaultKind::LanCut { .. } => drop(both(lan_cut)),
        FaultKind::HostCut { .. } => drop(both(host_cut)),
        FaultKind::Split => drop(both(split)),
        FaultKind::Storm { host } => {
            let Some((spec, node)) = s.hosts.iter().find(|h| h.id == host).zip(world.host(host)) else { return };
            for (at, params) in [(f.from, storm(spec.cable)), (f.to, spec.cable)] {
                let cable = node.cables[0].clone();
                sim.at(at, move || set_cable(&cable, params));
            }
        }
        FaultKind::DeviceDown { host } => {
            let Some(node) = world.host(host).cloned() else { return };
            let (f, leak) = (f.clone(), s.plan.plant == Some(Plant::LeakedTimer));
            sim.at(f.from, move || {
                let n = node.clone();
                node.machine.spawn("operator", move || down_and_up(&n, &f, host, leak));
            });
        }
        FaultKind::NoMemory { host, one_in } => {
            let Some(node) = world.host(host) else { return };
            let rng = RefCell::new(Rng::stream(s.plan.seed, &format!("memory/{}", f.id)));
            let (from, to) = (f.from, f.to);
            node.machine
                .set_should_fail(move |_| (from..to).contains(&sim::now()) && rng.borrow_mut().below(one_in) == 0);
        }
        FaultKind::Stall { host } => {
            let Some(node) = world.host(host) else { return };
            sim.inject(f.from, CpuFault::Stall { machine: node.machine.index(), cpu: 0, ns: f.to - f.from });
        }
    }
}

/// Cuts of one cable may overlap: the last to begin decides until when.
fn lan_cut(w: &World, f: &Fault, on: bool) {
    if let FaultKind::LanCut { lan } = f.kind
        && let Some(l) = w.lans.get(&lan)
    {
        l.uplink.plug(!on);
    }
}

fn host_cut(w: &World, f: &Fault, on: bool) {
    if let FaultKind::HostCut { host } = f.kind
        && let Some(n) = w.host(host)
    {
        n.cables[0].plug(!on);
    }
}

fn split(w: &World, _f: &Fault, on: bool) {
    for (lan, l) in &w.lans {
        w.backbone.set_group(l.backbone_port, if on { lan % 2 } else { 0 });
    }
}

/// `ip link set down`, and up again; what an administrator then does.
fn down_and_up(n: &Node, f: &Fault, host: u32, leak: bool) {
    dev_close(&n.devs[0]);
    sim::sleep_until(f.to);
    if dev_open(&n.devs[0]).is_ok() {
        let name = &n.devs[0].name;
        // Closing took the routes and IPv6's addresses along.
        let _ = n.stack.add_address(name, &format!("{}/64", World::address(host, true)));
        n.add_default_routes(host / LAN);
    }
    if leak {
        let t = n.machine.kernel().timer(|| ());
        t.mod_timer_in(1_000_000_000);
        std::mem::forget(t);
    }
}
