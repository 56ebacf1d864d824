//! The simulated network card: rings, an interrupt, NAPI.
//!
//! Interface: [`Nic`] (`new`, `register`, `top_half`, `event`, `set_carrier`), [`NicConfig`], [`Bus`], [`NicStats`].
//! Linux counterpart: a driver of `drivers/net/ethernet`; `Documentation/networking/napi.rst`.
//! Locks and context: transmit in any context with softirqs off; receive in a NAPI poll; the top half in hard-interrupt
//! context; [`Nic::event`] in the world's, where no CPU runs. The card's lock is held for a few lines and never while
//! anything of the kernel is called.
//!
//! A packet that arrives while the interrupt is enabled raises it; the top half masks it and schedules NAPI. From then on
//! the poll looks for itself, and enables the interrupt when it finds nothing more: a card under load costs the simulator
//! no event at all for a packet. The ring takes what has arrived; what arrives with the ring full is lost and counted.

use crate::cable::{Lane, Plug, scrub};
use kernel::{Fault, should_fail};
use net::core::checksum::skb_checksum_help;
use net::core::dev::*;
use net::core::eth::{ETH_HLEN, eth_type_trans};
use net::core::gso::skb_gso_segment;
use net::core::net_namespace::Net;
use net::core::skbuff::{IpSummed, Skb};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

const NEVER: u64 = u64::MAX;

/// What the card is plugged into on its machine's side.
pub trait Bus: Send + Sync + 'static {
    /// The time on the wire, in nanoseconds.
    fn now(&self) -> u64;
    /// Asks that [`Nic::event`] be called at `at`, too. May be called anywhere.
    fn alarm(&self, at: u64);
    /// Raises the card's interrupt: [`Nic::top_half`] is called on its machine.
    fn raise(&self);
    /// Makes the calling CPU busy for so many nanoseconds.
    fn charge(&self, nanoseconds: u64);
}

/// A kind of card.
#[derive(Clone, Debug)]
pub struct NicConfig {
    /// `%d` is replaced by the first free number.
    pub name: String,
    pub addr: [u8; 6],
    pub mtu: u32,
    /// Any of `HW_CSUM`, `SG`, `TSO`, `TSO6`, `GSO_UDP_L4`, `RXCSUM`, `GRO`.
    pub features: Features,
    pub rx_ring: usize,
    /// Packets that wait for the wire before the queue is stopped.
    pub tx_ring: usize,
    /// Nanoseconds after a packet's arrival until the interrupt tells of it (`ethtool -C rx-usecs`), and after a packet has
    /// left until its sender is told.
    pub rx_delay: u64,
    pub tx_delay: u64,
    /// Nanoseconds of the CPU's time that a received packet takes. 0 costs the simulator nothing either.
    pub rx_cost: u64,
}

impl NicConfig {
    pub fn new(addr: [u8; 6]) -> NicConfig {
        NicConfig {
            name: "eth%d".to_owned(),
            addr,
            mtu: 1500,
            features: Features::HW_CSUM
                | Features::SG
                | Features::TSO
                | Features::TSO6
                | Features::GSO_UDP_L4
                | Features::RXCSUM
                | Features::GRO,
            rx_ring: 256,
            tx_ring: 256,
            rx_delay: 50_000,
            tx_delay: 50_000,
            rx_cost: 0,
        }
    }
}

/// What the card counts beside its device's [`DevStats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NicStats {
    pub interrupts: u64,
    pub polls: u64,
    /// Lost because the ring was full (`rx_missed_errors`), because there was no memory, because the device was down.
    pub rx_missed: u64,
    pub rx_nomem: u64,
    pub rx_down: u64,
    /// Times the transmit queue was stopped.
    pub tx_stopped: u64,
}

/// The card.
pub struct Nic {
    config: NicConfig,
    tx: Arc<Lane>,
    rx: Arc<Lane>,
    bus: Box<dyn Bus>,
    state: Mutex<State>,
    dev: OnceLock<Weak<NetDevice>>,
}

struct State {
    /// While the device is up.
    napi: Option<Arc<NapiStruct>>,
    irq_enabled: bool,
    /// For when the bus was last asked; [`NEVER`]: it has called since.
    alarm: u64,
    ring: VecDeque<Box<Skb>>,
    /// What of packets that were given to the wire their sockets are to be told, and when.
    sent: VecDeque<(u64, Box<Skb>)>,
    tx_stopped: bool,
    stats: NicStats,
}

/// The driver.
struct NicOps(Arc<Nic>);

impl Nic {
    /// A card between two lanes: `tx` leads away from it, `rx` towards it.
    pub fn new(config: NicConfig, tx: &Arc<Lane>, rx: &Arc<Lane>, bus: impl Bus) -> Arc<Nic> {
        let state = State {
            napi: None,
            irq_enabled: false,
            alarm: NEVER,
            ring: VecDeque::new(),
            sent: VecDeque::new(),
            tx_stopped: false,
            stats: NicStats::default(),
        };
        let nic = Arc::new(Nic {
            config,
            tx: tx.clone(),
            rx: rx.clone(),
            bus: Box::new(bus),
            state: Mutex::new(state),
            dev: OnceLock::new(),
        });
        let plug: Weak<dyn Plug> = Arc::downgrade(&nic) as Weak<dyn Plug>;
        rx.plug_into(plug);
        nic
    }

    /// Adds the card to `net`, once, as a device that is down. `EEXIST`, `EINVAL` for its name.
    pub fn register(self: &Arc<Self>, net: &Arc<Net>) -> uapi::Result<Arc<NetDevice>> {
        let c = &self.config;
        let spec = NetDeviceSpec {
            name: c.name.clone(),
            addr: c.addr,
            mtu: c.mtu,
            flags: Iff::BROADCAST | Iff::MULTICAST,
            hard_header_len: ETH_HLEN,
            features: c.features,
            ops: Box::new(NicOps(self.clone())),
        };
        let dev = register_netdevice(net, spec)?;
        let _ = self.dev.set(dev.weak());
        Ok(dev)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn stats(&self) -> NicStats {
        self.lock().stats
    }

    /// Packets that the card holds: received and not yet polled, or sent and not yet reported.
    pub fn held(&self) -> usize {
        let s = self.lock();
        s.ring.len() + s.sent.len()
    }

    /// The link comes or goes, as the driver hears of it. What is then sent is lost. Process context on its machine.
    pub fn set_carrier(&self, up: bool) {
        let Some(dev) = self.dev.get().and_then(Weak::upgrade) else { return };
        self.tx.wire(|w| w.plug(up));
        if up { netif_carrier_on(&dev) } else { netif_carrier_off(&dev) }
    }

    /// Something is due, perhaps: to be called at the times that [`Bus::alarm`] was asked for.
    pub fn event(&self) {
        let now = self.bus.now();
        let (raise, next) = {
            let s = &mut *self.lock();
            if now < s.alarm {
                // Asked for before an earlier one was, which has come.
                return;
            }
            s.alarm = NEVER;
            let due = self.due(s);
            if s.napi.is_none() {
                s.stats.rx_down += std::iter::from_fn(|| self.rx.take(now)).count() as u64;
                (false, self.rx.next().unwrap_or(NEVER))
            } else if !s.irq_enabled {
                (false, NEVER)
            } else if due <= now {
                s.irq_enabled = false;
                s.stats.interrupts += 1;
                (true, NEVER)
            } else {
                (false, due)
            }
        };
        if raise {
            self.bus.raise();
        }
        self.alarm(next);
    }

    /// When the interrupt is to be raised next, if it is enabled.
    fn due(&self, s: &State) -> u64 {
        let rx = self.rx.next().map_or(NEVER, |at| at.saturating_add(self.config.rx_delay));
        let tx = s.sent.front().map_or(NEVER, |(at, _)| at.saturating_add(self.config.tx_delay));
        let room = if s.tx_stopped { self.room_at() } else { NEVER };
        rx.min(tx).min(room)
    }

    /// When half of the transmit ring is free.
    fn room_at(&self) -> u64 {
        self.tx.wire(|w| w.drained_at(self.config.tx_ring / 2))
    }

    fn alarm(&self, at: u64) {
        {
            let mut s = self.lock();
            if at >= s.alarm {
                return;
            }
            s.alarm = at;
        }
        self.bus.alarm(at);
    }

    /// The top half: the card has masked its interrupt; polls it soon.
    pub fn top_half(&self) {
        let napi = self.lock().napi.clone();
        if let Some(n) = napi {
            napi_schedule(&n);
        }
    }

    /// The NAPI poll. Time stands still in it, so what arrives arrives before or after.
    fn poll(&self, napi: &Arc<NapiStruct>, budget: usize) -> usize {
        self.reclaim(&napi.dev);
        let mut received = self.received(&napi.dev);
        let mut work = 0;
        while work < budget {
            let Some(skb) = received.pop_front() else { break };
            work += 1;
            self.receive(napi, skb);
        }
        self.put_back(napi, received);
        self.charge(work);
        if work < budget && napi_complete_done(napi, work) {
            self.enable_irq(napi);
        }
        work
    }

    /// What the poll has cost, at once: each time costs the simulator two switches.
    fn charge(&self, work: usize) {
        if self.config.rx_cost > 0 && work > 0 {
            self.bus.charge(self.config.rx_cost * work as u64);
        }
    }

    /// Tells the sockets of packets that have left, and has the queue go on once half the ring is free.
    fn reclaim(&self, dev: &Arc<NetDevice>) {
        let now = self.bus.now();
        let mut left: SmallVec<[Box<Skb>; 8]> = SmallVec::new();
        let wake = {
            let s = &mut *self.lock();
            s.stats.polls += 1;
            while s.sent.front().is_some_and(|(at, _)| *at <= now) {
                left.extend(s.sent.pop_front().map(|(_, stub)| stub));
            }
            let room = s.tx_stopped && self.tx.wire(|w| w.backlog(now).0) <= self.config.tx_ring / 2;
            s.tx_stopped &= !room;
            room
        };
        drop(left);
        if wake {
            netif_wake_queue(dev);
        }
    }

    /// The ring, with what has arrived as far as it has room.
    fn received(&self, dev: &NetDevice) -> VecDeque<Box<Skb>> {
        let now = self.bus.now();
        let mut missed: SmallVec<[Box<Skb>; 4]> = SmallVec::new();
        let ring = {
            let s = &mut *self.lock();
            let room = self.config.rx_ring;
            let ring = &mut s.ring;
            self.rx.take_all(now, |skb| if ring.len() < room { ring.push_back(skb) } else { missed.push(skb) });
            s.stats.rx_missed += missed.len() as u64;
            std::mem::take(ring)
        };
        if !missed.is_empty() {
            dev.stats.rx_dropped.fetch_add(missed.len() as u64, Relaxed);
        }
        ring
    }

    /// What the budget did not allow stays in the ring; with the device down there is none.
    fn put_back(&self, napi: &Arc<NapiStruct>, mut rest: VecDeque<Box<Skb>>) {
        let s = &mut *self.lock();
        if s.napi.as_ref().is_some_and(|n| Arc::ptr_eq(n, napi)) {
            rest.append(&mut s.ring);
            s.ring = rest;
        } else {
            s.stats.rx_down += rest.len() as u64;
        }
    }

    fn receive(&self, napi: &Arc<NapiStruct>, mut skb: Box<Skb>) {
        let dev = &napi.dev;
        if should_fail(Fault::Skb) {
            self.lock().stats.rx_nomem += 1;
            dev.stats.rx_dropped.fetch_add(1, Relaxed);
            return;
        }
        // On the wire every sum is there, and those that are known to be right are those that a card finds right.
        if !dev.features().contains(Features::RXCSUM) {
            let _ = skb_checksum_help(&mut skb);
            skb.ip_summed = IpSummed::None;
        }
        eth_type_trans(&mut skb, dev);
        napi_gro_receive(napi, skb);
    }

    /// Nothing is left: the next packet interrupts.
    fn enable_irq(&self, napi: &Arc<NapiStruct>) {
        let next = {
            let s = &mut *self.lock();
            // The device may have been taken down, and even up again, while this ran.
            if !s.napi.as_ref().is_some_and(|n| Arc::ptr_eq(n, napi)) {
                return;
            }
            s.irq_enabled = true;
            self.due(s)
        };
        self.alarm(next.max(self.bus.now()));
    }

    /// Packets have been given to the wire, which is rid of them at `done`: their socket is told then, not when they arrive.
    fn owe(&self, done: u64, stub: Box<Skb>) {
        let due = {
            let s = &mut *self.lock();
            s.sent.push_back((done, stub));
            s.irq_enabled && s.sent.len() == 1
        };
        if due {
            self.alarm(done.saturating_add(self.config.tx_delay));
        }
    }

    fn xmit(&self, dev: &Arc<NetDevice>, mut skb: Box<Skb>) -> NetdevTx {
        let now = self.bus.now();
        if self.tx.wire(|w| w.backlog(now).0) >= self.config.tx_ring {
            let enabled = {
                let s = &mut *self.lock();
                s.tx_stopped = true;
                s.stats.tx_stopped += 1;
                s.irq_enabled
            };
            netif_stop_queue(dev);
            if enabled {
                self.alarm(self.room_at().max(now));
            }
            return NetdevTx::Busy(skb);
        }
        let owed = skb.destructor.is_some().then(|| {
            let mut stub = Skb::alloc(0);
            (stub.sk, stub.destructor) = (skb.sk.take(), skb.destructor.take());
            stub.truesize = skb.truesize;
            stub
        });
        skb.sk = None;
        scrub(&mut skb);
        let done = match skb.is_gso() {
            false => self.tx.send(now, skb),
            // Each segment is a packet on the wire, with a fate of its own.
            true => match skb_gso_segment(skb, true) {
                Ok(segments) => self.tx.send_all(now, segments.into_iter()),
                Err(_) => {
                    dev.stats.tx_errors.fetch_add(1, Relaxed);
                    now
                }
            },
        };
        if let Some(stub) = owed {
            self.owe(done, stub);
        }
        NetdevTx::Ok
    }
}

impl Plug for Nic {
    fn announce(&self, at: u64) {
        let due = {
            let s = self.lock();
            match &s.napi {
                None => Some(at),
                Some(_) => s.irq_enabled.then(|| at.saturating_add(self.config.rx_delay)),
            }
        };
        if let Some(at) = due {
            self.alarm(at);
        }
    }
}

impl NetDeviceOps for NicOps {
    fn ndo_open(&self, dev: &Arc<NetDevice>) -> uapi::Result<()> {
        let nic = &self.0;
        let weak = Arc::downgrade(nic);
        let poll = move |napi: &Arc<NapiStruct>, budget| weak.upgrade().map_or(0, |nic| nic.poll(napi, budget));
        let napi = netif_napi_add(dev, NAPI_POLL_WEIGHT, Box::new(poll));
        // What came while nobody listened.
        let now = nic.bus.now();
        let missed = std::iter::from_fn(|| nic.rx.take(now)).count() as u64;
        {
            let s = &mut *nic.lock();
            s.stats.rx_down += missed;
            s.napi = Some(napi.clone());
        }
        nic.enable_irq(&napi);
        Ok(())
    }

    fn ndo_stop(&self, _dev: &Arc<NetDevice>) {
        let (napi, ring, sent) = {
            let s = &mut *self.0.lock();
            (s.irq_enabled, s.tx_stopped) = (false, false);
            s.stats.rx_down += s.ring.len() as u64;
            (s.napi.take(), std::mem::take(&mut s.ring), std::mem::take(&mut s.sent))
        };
        if let Some(n) = napi {
            napi_disable(&n);
        }
        drop((ring, sent));
        if let Some(at) = self.0.rx.next() {
            self.0.alarm(at);
        }
    }

    fn ndo_start_xmit(&self, dev: &Arc<NetDevice>, skb: Box<Skb>) -> NetdevTx {
        self.0.xmit(dev, skb)
    }
}
