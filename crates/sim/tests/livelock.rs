//! A flood, with NAPI and with a card that interrupts for every packet: who is still served, and how often the CPU is
//! interrupted. Its table is part of `docs/napi.md`; `UPDATE_DOCS=1` writes it.

use net::core::checksum::ip_fast_csum;
use net::core::dev::*;
use net::core::eth::{ETH_HLEN, eth_type_trans};
use net::core::net_namespace::Net;
use net::core::skbuff::Skb;
use net::init::net_init;
use sockeye::{Stack, UdpSocket};
use sockeye_sim::cable::{Lane, Plug};
use sockeye_sim::link::LinkParams;
use sockeye_sim::network::{Cable, card, join};
use sockeye_sim::nic::NicConfig;
use sockeye_sim::{self as sim, Machine, Sim, SimConfig, TaskOptions};
use std::cell::{Cell, OnceCell};
use std::fmt::Write;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// What things cost the flooded machine's only CPU, nanoseconds: so it could receive 500,000 packets a second and do
/// nothing else.
const RX_COST: u64 = 2_000;
const IRQ_COST: u64 = 3_000;
const SWITCH_COST: u64 = 1_000;
const READ_COST: u64 = 500;
/// A row's virtual time, and that before it which is not counted.
const ROW: u64 = 200_000_000;
const SETTLE: u64 = 50_000_000;
const SEC: u64 = 1_000_000_000;

const RATES: [u64; 9] = [0, 1_000, 10_000, 50_000, 100_000, 300_000, 1_000_000, 1_000, 0];

/// A card as they were before NAPI: interrupts for each packet, and hands it over in the top half (`netif_rx`).
struct OldCard {
    rx: Arc<Lane>,
    irq: Box<dyn Fn() + Send + Sync>,
    alarm: Box<dyn Fn(u64) + Send + Sync>,
    interrupts: AtomicU64,
    packets: AtomicU64,
}

impl Plug for OldCard {
    fn announce(&self, at: u64) {
        (self.alarm)(at);
    }
}

impl OldCard {
    fn new(sim: &Sim, m: &Machine, rx: &Arc<Lane>, dev: impl Fn() -> Option<Arc<NetDevice>> + 'static) -> Arc<OldCard> {
        let cell: Rc<OnceCell<Weak<OldCard>>> = Rc::default();
        let (c, c2) = (cell.clone(), cell.clone());
        let irq = m.request_irq(0, move || {
            if let (Some(card), Some(dev)) = (c.get().and_then(Weak::upgrade), dev()) {
                card.top_half(&dev);
            }
        });
        let event = sim.handler(move |_| {
            if let Some(card) = c2.get().and_then(Weak::upgrade) {
                (card.irq)();
            }
        });
        let card = Arc::new(OldCard {
            rx: rx.clone(),
            irq: Box::new(move || irq.raise()),
            alarm: Box::new(move |at| event.at(at, 0)),
            interrupts: AtomicU64::new(0),
            packets: AtomicU64::new(0),
        });
        let _ = cell.set(Arc::downgrade(&card));
        let plug: Weak<dyn Plug> = Arc::downgrade(&card) as Weak<dyn Plug>;
        rx.plug_into(plug);
        card
    }

    fn top_half(&self, dev: &Arc<NetDevice>) {
        self.interrupts.fetch_add(1, Relaxed);
        if let Some(frame) = self.rx.take(sim::now()) {
            let mut skb = frame.skb;
            eth_type_trans(&mut skb, dev);
            // Most of the work is done in softirq context, if that is ever reached.
            let _ = netif_rx(skb);
            self.packets.fetch_add(1, Relaxed);
        }
        if let Some(at) = self.rx.next() {
            (self.alarm)(at.max(sim::now()));
        }
    }
}

struct OldOps;

impl NetDeviceOps for OldOps {
    fn ndo_start_xmit(&self, _dev: &Arc<NetDevice>, _skb: Box<Skb>) -> NetdevTx {
        NetdevTx::Ok
    }
}

/// What has happened so far.
#[derive(Clone, Copy, Default)]
struct Counts {
    interrupts: u64,
    received: u64,
    read: u64,
    trips: u64,
    /// Nanoseconds of the CPU that the program got.
    worked: u64,
}

/// The world: a flooded machine, and a client that asks it over another card.
struct World {
    sim: Sim,
    flood: Flood,
    counts: Box<dyn Fn() -> Counts>,
}

/// Puts frames on a lane, evenly.
struct Flood {
    /// Nanoseconds between two; 0: none.
    gap: Rc<Cell<u64>>,
    start: Box<dyn Fn()>,
}

impl Flood {
    fn new(sim: &Sim, lane: &Arc<Lane>) -> Flood {
        let gap = Rc::new(Cell::new(0));
        let (g, lane, frame) = (gap.clone(), lane.clone(), frame());
        let cell: Rc<OnceCell<sim::Handler>> = Rc::default();
        let again = cell.clone();
        let handler = sim.handler(move |_| {
            if g.get() > 0 {
                lane.send(sim::now(), Skb::from_bytes(64, &frame));
                again.get().expect("set").at(sim::now() + g.get(), 0);
            }
        });
        let _ = cell.set(handler);
        Flood { gap, start: Box::new(move || handler.at(sim::now(), 0)) }
    }

    fn set(&self, rate: u64) {
        let was = self.gap.replace(SEC.checked_div(rate).unwrap_or(0));
        if was == 0 && rate > 0 {
            (self.start)();
        }
    }
}

/// A datagram to port 9 of 10.0.0.1, of the smallest size.
fn frame() -> Vec<u8> {
    let mut f = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0].to_vec();
    let mut ip = [0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 9, 10, 0, 0, 1];
    let sum = ip_fast_csum(&ip);
    ip[10..12].copy_from_slice(&sum);
    f.extend_from_slice(&ip);
    // Port 5000 to port 9, 26 bytes, no checksum.
    f.extend_from_slice(&[0x13, 0x88, 0, 9, 0, 26, 0, 0]);
    f.extend_from_slice(&[7; 18]);
    f
}

fn world(old: bool) -> World {
    let sim = Sim::new(SimConfig { irq_cost: IRQ_COST, switch_cost: SWITCH_COST, ..SimConfig::default() });
    let (server, client) = (sim.machine("server", 1), sim.machine("client", 1));
    let stack = |m: &Machine| Stack::from_net(Net::new(&net_init(m.kernel())));
    let (s, c) = (stack(&server), stack(&client));
    let wire = Cable::new(&sim, "flood", LinkParams::default());
    let mac = |n| NicConfig { rx_cost: RX_COST, ..NicConfig::new([2, 0, 0, 0, 0, n]) };
    let flooded = flooded(&sim, &server, &s, &wire, old);
    let (ns, nc, _cable) = join(
        &sim,
        "quiet",
        (&server, mac(2)),
        (&client, mac(3)),
        LinkParams { delay: 20_000, ..LinkParams::default() },
    );
    for (m, st, nic, address) in [(&server, &s, &ns, "10.1.0.1/24"), (&client, &c, &nc, "10.1.0.2/24")] {
        let _cpu = m.kernel().enter();
        let dev = nic.register(st.net()).expect("registered");
        dev_open(&dev).expect("up");
        st.add_address(&dev.name, address).expect("an address");
    }
    let own: [Rc<Cell<u64>>; 3] = Default::default();
    tasks(&server, &s, &client, &c, &own);
    let counts = Box::new(move || {
        // The cards live as long as somebody counts.
        let _keep = (&ns, &nc, &s, &c);
        let (interrupts, received) = flooded();
        Counts { interrupts, received, read: own[0].get(), trips: own[1].get(), worked: own[2].get() }
    });
    World { flood: Flood::new(&sim, &wire.there), sim, counts }
}

/// The flooded device; the answer tells its interrupts and packets.
fn flooded(sim: &Sim, m: &Machine, s: &Stack, wire: &Cable, old: bool) -> Box<dyn Fn() -> (u64, u64)> {
    let addr = [2, 0, 0, 0, 0, 1];
    let _cpu = m.kernel().enter();
    let (dev, counts): (_, Box<dyn Fn() -> (u64, u64)>) = if old {
        let cell: Rc<OnceCell<Arc<NetDevice>>> = Rc::default();
        let get = cell.clone();
        let card = OldCard::new(sim, m, &wire.there, move || get.get().cloned());
        let spec = NetDeviceSpec {
            name: "eth%d".to_owned(),
            addr,
            mtu: 1500,
            flags: Iff::BROADCAST | Iff::MULTICAST,
            hard_header_len: ETH_HLEN,
            features: Features::empty(),
            ops: Box::new(OldOps),
        };
        let dev = register_netdevice(s.net(), spec).expect("registered");
        // What `NicConfig::rx_cost` is for the other card: the way up through the protocols.
        let func = Box::new(|_: &Net, _: &NetDevice, skb: &Skb| {
            if skb.pkt_type != net::core::skbuff::PktType::Outgoing {
                sim::charge(RX_COST);
            }
        });
        dev_add_tap(&s.net().reg, Tap { ifindex: dev.ifindex, func });
        let _ = cell.set(dev.clone());
        (dev, Box::new(move || (card.interrupts.load(Relaxed), card.packets.load(Relaxed))))
    } else {
        let config = NicConfig { rx_cost: RX_COST, rx_delay: 0, ..NicConfig::new(addr) };
        let nic = card(sim, m, 0, config, &wire.back, &wire.there);
        let dev = nic.register(s.net()).expect("registered");
        dev_open(&dev).expect("up");
        let napi = dev.napis().first().cloned().expect("its queue");
        let counts = move || {
            let (c, _keep) = (napi.stats.counts(), &nic);
            (c.interrupts, c.packets)
        };
        (dev, Box::new(counts))
    };
    if old {
        dev_open(&dev).expect("up");
    }
    s.add_address(&dev.name, "10.0.0.1/24").expect("an address");
    counts
}

/// On the server: a reader of what is flooded, an echo server, and a program that never sleeps. On the client: questions.
fn tasks(server: &Machine, s: &Stack, client: &Machine, c: &Stack, [read, trips, worked]: &[Rc<Cell<u64>>; 3]) {
    let daemon = || TaskOptions { daemon: true, ..TaskOptions::default() };
    let add = |c: &Rc<Cell<u64>>, n: u64| c.set(c.get() + n);
    let (read, trips, worked) = (read.clone(), trips.clone(), worked.clone());
    let sink = UdpSocket::bind(s, "10.0.0.1:9").expect("bound");
    server.spawn_with("reader", daemon(), move || {
        let mut buf = [0; 64];
        while sink.recv(&mut buf).is_ok() {
            sim::charge(READ_COST);
            add(&read, 1);
        }
    });
    let echo = UdpSocket::bind(s, "10.1.0.1:7").expect("bound");
    server.spawn_with("echo", daemon(), move || {
        let mut buf = [0; 64];
        while let Ok((n, from)) = echo.recv_from(&mut buf) {
            sim::charge(READ_COST);
            let _ = echo.send_to(&buf[..n], from);
        }
    });
    server.spawn_with("program", daemon(), move || {
        loop {
            sim::charge(20_000);
            add(&worked, 20_000);
        }
    });
    let question = UdpSocket::bind(c, "10.1.0.2:0").expect("bound");
    question.connect("10.1.0.1:7").expect("connected");
    question.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    client.spawn_with("client", daemon(), move || {
        let mut buf = [0; 64];
        loop {
            if question.send(b"?").is_ok() && question.recv(&mut buf).is_ok() {
                add(&trips, 1);
            }
        }
    });
}

/// A row: per second, what the flooded machine did.
struct Row {
    rate: u64,
    received: u64,
    read: u64,
    interrupts: u64,
    per_packet: f64,
    trips: u64,
    /// Per cent of the CPU.
    program: f64,
}

fn rows(old: bool) -> Vec<Row> {
    let w = world(old);
    let mut rows = Vec::new();
    for rate in RATES {
        w.flood.set(rate);
        w.sim.run_for(SETTLE);
        let a = (w.counts)();
        w.sim.run_for(ROW);
        let b = (w.counts)();
        let per_second = |n: u64| n * (SEC / ROW);
        rows.push(Row {
            rate,
            received: per_second(b.received - a.received),
            read: per_second(b.read - a.read),
            interrupts: per_second(b.interrupts - a.interrupts),
            per_packet: (b.interrupts - a.interrupts) as f64 / (b.received - a.received).max(1) as f64,
            trips: per_second(b.trips - a.trips),
            program: 100.0 * (b.worked - a.worked) as f64 / ROW as f64,
        });
    }
    rows
}

fn count(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(|g| String::from_utf8_lossy(g)).collect();
    groups.join(",")
}

fn table(napi: &[Row], old: &[Row]) -> String {
    let mut out = String::from(
        "| offered/s | received/s | read/s | interrupts/s | interrupts per packet | round trips/s of another socket | \
         CPU left to a program | without NAPI: read/s | interrupts/s | round trips/s | CPU left |\n\
         |---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for (n, o) in napi.iter().zip(old) {
        let ratio = if n.received == 0 { "–".to_owned() } else { format!("{:.4}", n.per_packet) };
        let cells = [
            count(n.rate),
            count(n.received),
            count(n.read),
            count(n.interrupts),
            ratio,
            count(n.trips),
            format!("{:.0} %", n.program),
            count(o.read),
            count(o.interrupts),
            count(o.trips),
            format!("{:.0} %", o.program),
        ];
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
    out
}

const BEGIN: &str = "<!-- simulation table: written by `UPDATE_DOCS=1 cargo nextest run -p sockeye-sim livelock` -->\n";
const END: &str = "<!-- end of simulation table -->\n";

#[test]
fn a_flood_is_no_livelock() {
    let (napi, old) = (rows(false), rows(true));
    let table = table(&napi, &old);
    println!("{table}");
    let at = |rows: &'_ [Row], rate: u64| rows.iter().position(|r| r.rate == rate).expect("a row");
    let (slow, flood) = (&napi[at(&napi, 1_000)], &napi[at(&napi, 1_000_000)]);
    let last = &napi[RATES.len() - 2];
    assert!(slow.per_packet > 0.9, "a packet alone is told at once");
    assert!(flood.per_packet < 0.02, "a flood interrupts hardly ever");
    assert!(last.per_packet > 0.9, "and when it is over the interrupts are back");
    let idle = &napi[0];
    assert!(flood.trips > 100, "others are still served: {} of {}", flood.trips, idle.trips);
    assert!(flood.program > 5.0 && flood.read > 10_000, "so are programs: {} %, {} read", flood.program, flood.read);
    assert!(last.trips * 10 > idle.trips * 8, "afterwards all is as before");
    // The card without NAPI shows what would have been.
    let dead = &old[at(&old, 1_000_000)];
    assert!(dead.read == 0 && dead.trips == 0 && dead.program == 0.0, "an interrupt for each packet is a livelock");
    in_the_docs(&table);
}

/// The page shows this table, as it was when somebody last had it written: the figures move a little with each change of the
/// stack, what is measured does not.
fn in_the_docs(table: &str) {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/napi.md");
    let text = std::fs::read_to_string(page).expect("docs/napi.md");
    let (head, rest) = text.split_once(BEGIN).expect("the mark before the table");
    let (shown, tail) = rest.split_once(END).expect("the mark after the table");
    let new = format!("\n{table}\n");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(page, format!("{head}{BEGIN}{new}{END}{tail}")).expect("written");
    } else {
        let rows = |t: &str| t.lines().filter_map(|l| l.split('|').nth(1).map(str::to_owned)).collect::<Vec<_>>();
        assert_eq!(rows(shown), rows(&new), "docs/napi.md shows another table: run with UPDATE_DOCS=1");
    }
}
