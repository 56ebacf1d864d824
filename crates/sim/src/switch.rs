//! An Ethernet switch: learns who is where, and queues for each port.
//!
//! Interface: [`Switch`] (`add_port`, `set_group`, `serve`), [`SwitchStats`].
//! Linux counterpart: `net/bridge/br_input.c`, `br_fdb.c`, `br_forward.c`; a switch in purpose.
//! Locks and context: the world: no CPU runs it. Its lock is taken by [`Switch::serve`] and configuration only.
//!
//! Each port's queue is the wire that leaves it ([`LinkParams::limit_packets`](crate::link::LinkParams)); what has no room
//! there is dropped and counted there.

use crate::cable::{Frame, Lane, Plug};
use net::core::eth::is_multicast_ether_addr;
use net::hdr::EthHdr;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Stations it remembers; what more there are is sent to every port.
const FDB_MAX: usize = 1 << 16;

/// What has passed, in packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwitchStats {
    pub received: u64,
    pub forwarded: u64,
    /// Sent to all, because it was meant for all or nobody knew where it belongs.
    pub flooded: u64,
    /// For the port it came from, for another group, or too short for a header.
    pub dropped: u64,
    /// Damaged on the way in: dropped, as switches do that store and forward.
    pub fcs_errors: u64,
}

/// Asks that [`Switch::serve`] be called at a time.
pub type Alarm = Box<dyn Fn(u64) + Send + Sync>;

/// The switch. Ports are numbered in the order in which they are added.
pub struct Switch {
    state: Mutex<State>,
    due: Mutex<Due>,
    alarm: Alarm,
    me: Weak<Switch>,
}

#[derive(Default)]
struct Due {
    /// When ports have something, earliest first.
    heap: BinaryHeap<Reverse<(u64, usize)>>,
    /// For when the alarm was set last and has not come yet.
    armed: Option<u64>,
}

impl Due {
    fn next(&self) -> Option<u64> {
        self.heap.peek().map(|d| d.0.0)
    }

    /// The time for which the alarm must be set, if it must.
    fn arm(&mut self) -> Option<u64> {
        let at = self.next().filter(|at| self.armed.is_none_or(|a| *at < a))?;
        self.armed = Some(at);
        Some(at)
    }
}

#[derive(Default)]
struct State {
    ports: Vec<Port>,
    fdb: BTreeMap<[u8; 6], usize>,
    stats: SwitchStats,
}

struct Port {
    ingress: Arc<Lane>,
    egress: Arc<Lane>,
    group: u32,
    /// What the incoming lane ends in.
    _plug: Arc<dyn Plug>,
}

/// Where a port's incoming lane ends.
struct PortPlug {
    switch: Weak<Switch>,
    port: usize,
}

impl Plug for PortPlug {
    fn announce(&self, at: u64) {
        if let Some(s) = self.switch.upgrade() {
            s.announce(at, self.port);
        }
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Switch {
    pub fn new(alarm: impl Fn(u64) + Send + Sync + 'static) -> Arc<Switch> {
        Arc::new_cyclic(|me| Switch {
            state: Mutex::default(),
            due: Mutex::default(),
            alarm: Box::new(alarm),
            me: me.clone(),
        })
    }

    /// Plugs a cable in: `ingress` brings packets, `egress` takes them. The port's number.
    pub fn add_port(&self, ingress: &Arc<Lane>, egress: &Arc<Lane>) -> usize {
        let s = &mut *lock(&self.state);
        let port = s.ports.len();
        let plug: Arc<dyn Plug> = Arc::new(PortPlug { switch: self.me.clone(), port });
        ingress.plug_into(Arc::downgrade(&plug));
        s.ports.push(Port { ingress: ingress.clone(), egress: egress.clone(), group: 0, _plug: plug });
        port
    }

    /// Puts a port into a group; ports of different groups do not hear each other. All start in group 0.
    pub fn set_group(&self, port: usize, group: u32) {
        if let Some(p) = lock(&self.state).ports.get_mut(port) {
            p.group = group;
        }
    }

    pub fn stats(&self) -> SwitchStats {
        lock(&self.state).stats
    }

    fn announce(&self, at: u64, port: usize) {
        let arm = {
            let mut due = lock(&self.due);
            due.heap.push(Reverse((at, port)));
            due.arm()
        };
        arm.into_iter().for_each(&self.alarm);
    }

    /// Forwards everything that has come in by `now`. To be called at the times that the alarm was set for.
    pub fn serve(&self, now: u64) {
        {
            let mut due = lock(&self.due);
            if due.armed.is_none_or(|a| now < a) {
                // Set before an earlier one was, which has come.
                return;
            }
            due.armed = None;
        }
        while let Some(port) = self.next_due(now) {
            let Some((ingress, more)) = self.serve_port(now, port) else { continue };
            if let Some(at) = more.then(|| ingress.next()).flatten() {
                lock(&self.due).heap.push(Reverse((at, port)));
            }
        }
        let arm = lock(&self.due).arm();
        arm.into_iter().for_each(&self.alarm);
    }

    fn next_due(&self, now: u64) -> Option<usize> {
        let mut due = lock(&self.due);
        due.next().filter(|at| *at <= now)?;
        due.heap.pop().map(|d| d.0.1)
    }

    /// One packet of a port: several ports' packets go out in the order in which they came in.
    fn serve_port(&self, now: u64, port: usize) -> Option<(Arc<Lane>, bool)> {
        let ingress = lock(&self.state).ports.get(port)?.ingress.clone();
        let Some(frame) = ingress.take(now) else { return Some((ingress, false)) };
        let mut out: Vec<Arc<Lane>> = Vec::new();
        lock(&self.state).route(port, &frame, &mut out);
        if let Some((last, others)) = out.split_last() {
            for lane in others {
                lane.send(frame.at, frame.skb.clone_skb());
            }
            last.send(frame.at, frame.skb);
        }
        Some((ingress, true))
    }
}

impl State {
    /// Learns the sender and finds the ports a packet goes to.
    fn route(&mut self, from: usize, frame: &Frame, out: &mut Vec<Arc<Lane>>) {
        self.stats.received += 1;
        if frame.damaged {
            // Damage on two cables could add up to a packet whose checksum is right.
            self.stats.fcs_errors += 1;
            return;
        }
        let Some(eth) = EthHdr::read(frame.skb.data()).copied() else {
            self.stats.dropped += 1;
            return;
        };
        self.learn(eth.source, from);
        let group = self.ports[from].group;
        let known = if is_multicast_ether_addr(&eth.dest) { None } else { self.fdb.get(&eth.dest).copied() };
        match known {
            Some(to) if to != from && self.ports[to].group == group => {
                self.stats.forwarded += 1;
                out.push(self.ports[to].egress.clone());
            }
            Some(_) => self.stats.dropped += 1,
            None => {
                self.stats.flooded += 1;
                let others = self.ports.iter().enumerate().filter(|(i, p)| *i != from && p.group == group);
                out.extend(others.map(|(_, p)| p.egress.clone()));
            }
        }
    }

    fn learn(&mut self, station: [u8; 6], port: usize) {
        if is_multicast_ether_addr(&station) || self.fdb.get(&station) == Some(&port) {
            return;
        }
        if self.fdb.len() < FDB_MAX || self.fdb.contains_key(&station) {
            self.fdb.insert(station, port);
        }
    }
}

#[cfg(test)]
mod tests;
