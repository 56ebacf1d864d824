//! Machines joined to networks: cards on machines, cables between cards, switches.
//!
//! Interface: [`join`] (a cable between two machines), [`switch`], [`plug`] (a machine into a switch), [`Cable`].
//! Linux counterpart: none; what somebody with cables does.
//! Locks and context: outside of every machine, or in a task.

use crate::cable::Lane;
use crate::link::LinkParams;
use crate::nic::{Bus, Nic, NicConfig};
use crate::sim::{Handler, IrqLine, Machine, Sim};
use crate::switch::Switch;
use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::{Arc, Weak};

/// Two lanes. The first leads from the first end to the second.
#[derive(Clone)]
pub struct Cable {
    pub there: Arc<Lane>,
    pub back: Arc<Lane>,
}

impl Cable {
    /// A cable that does the same in both directions; its chances are those of `label`.
    pub fn new(sim: &Sim, label: &str, params: LinkParams) -> Cable {
        let lane = |way: &str| {
            let mut rng = sim.rng(&format!("cable/{label}/{way}"));
            Lane::new(params, move || rng.next_u64())
        };
        Cable { there: lane("there"), back: lane("back") }
    }

    /// Changes what happens to packets from now on.
    pub fn set(&self, params: LinkParams) {
        self.each(|w| w.set(params));
    }

    /// Plugs it in or out: what is put on it unplugged is lost.
    pub fn plug(&self, plugged: bool) {
        self.each(|w| w.plug(plugged));
    }

    fn each(&self, f: impl Fn(&mut crate::link::Wire)) {
        self.there.wire(&f);
        self.back.wire(&f);
    }

    pub fn in_flight(&self) -> usize {
        self.there.in_flight() + self.back.in_flight()
    }
}

/// A card's place in its machine.
struct Slot {
    event: Handler,
    irq: IrqLine,
}

impl Bus for Slot {
    fn now(&self) -> u64 {
        crate::sim::now()
    }

    fn alarm(&self, at: u64) {
        self.event.at(at, 0);
    }

    fn raise(&self) {
        self.irq.raise();
    }

    fn charge(&self, nanoseconds: u64) {
        crate::sim::charge(nanoseconds);
    }
}

/// A card in a machine, whose CPU `cpu` gets its interrupts; between two lanes.
pub fn card(sim: &Sim, machine: &Machine, cpu: usize, config: NicConfig, tx: &Arc<Lane>, rx: &Arc<Lane>) -> Arc<Nic> {
    // The line and the handler are there before the card is.
    let cell: Rc<OnceCell<Weak<Nic>>> = Rc::default();
    let get = |cell: &Rc<OnceCell<Weak<Nic>>>| {
        let cell = cell.clone();
        move || cell.get().and_then(Weak::upgrade)
    };
    let (for_irq, for_event) = (get(&cell), get(&cell));
    let irq = machine.request_irq(cpu, move || {
        if let Some(nic) = for_irq() {
            nic.top_half();
        }
    });
    let event = sim.handler(move |_| {
        if let Some(nic) = for_event() {
            nic.event();
        }
    });
    let nic = Nic::new(config, tx, rx, Slot { event, irq });
    let _ = cell.set(Arc::downgrade(&nic));
    nic
}

/// Joins two machines by a cable. The cards are the caller's to register.
pub fn join(
    sim: &Sim,
    label: &str,
    a: (&Machine, NicConfig),
    b: (&Machine, NicConfig),
    params: LinkParams,
) -> (Arc<Nic>, Arc<Nic>, Cable) {
    let cable = Cable::new(sim, label, params);
    let nic_a = card(sim, a.0, 0, a.1, &cable.there, &cable.back);
    let nic_b = card(sim, b.0, 0, b.1, &cable.back, &cable.there);
    (nic_a, nic_b, cable)
}

/// A switch without ports.
pub fn switch(sim: &Sim) -> Arc<Switch> {
    let cell: Rc<OnceCell<Weak<Switch>>> = Rc::default();
    let c = cell.clone();
    let at = sim.handler(move |_| {
        if let Some(s) = c.get().and_then(Weak::upgrade) {
            s.serve(crate::sim::now());
        }
    });
    let s = Switch::new(move |time| at.at(time, 0));
    let _ = cell.set(Arc::downgrade(&s));
    s
}

/// Plugs a machine into a switch: its card, the cable, the number of the port.
pub fn plug(
    sim: &Sim,
    label: &str,
    machine: &Machine,
    config: NicConfig,
    switch: &Switch,
    params: LinkParams,
) -> (Arc<Nic>, Cable, usize) {
    let cable = Cable::new(sim, label, params);
    let nic = card(sim, machine, 0, config, &cable.there, &cable.back);
    let port = switch.add_port(&cable.there, &cable.back);
    (nic, cable, port)
}
