//! This stack on a cell's network, in the simulator.
//!
//! Interface: [`simulate`].
//! Linux counterpart: none; two machines and `iperf`.
//! Locks and context: a simulation of the calling thread's.
//!
//! Each sender has a machine with a fast cable to a switch; the cable from the switch to the receiver is the bottleneck. The
//! connections are made first, on a good network; then the trouble and the flows begin.

use super::cell::{Cell, MS, SEC};
use super::{Options, Outcome, Sample};
use net::core::dev::{Features, dev_open};
use net::core::neighbour::{Nud, neigh_add};
use net::core::net_namespace::Net;
use net::core::snmp::Mib;
use net::init::net_init;
use net::syscall::FdTable;
use sim::link::LinkParams;
use sim::network::{self, Cable};
use sim::nic::NicConfig;
use sim::switch::Switch;
use sim::{Machine, Sim};
use sockeye::Stack;
use std::cell::{Cell as StdCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use uapi::SockAddr;
use uapi::socket::{AF_INET, IPPROTO_TCP, SO_LINGER, SO_RCVTIMEO, SO_SNDTIMEO, SOCK_STREAM, SOL_SOCKET};
use uapi::tcp::{TCP_CONGESTION, TCP_INFO, TcpInfo};

const PORT: u16 = 5001;
/// Bits per second at which a program writes: with the work of sending in it, what one CPU does.
const WRITER: u64 = 12_000_000_000;
/// How long a call may keep a task that should end.
const PATIENCE: [u8; 16] = {
    let mut v = [0; 16];
    let micros = 100_000u64.to_ne_bytes();
    let mut i = 0;
    while i < 8 {
        v[8 + i] = micros[i];
        i += 1;
    }
    v
};

/// What the tasks and the measurement share.
#[derive(Default)]
struct Shared {
    connected: StdCell<usize>,
    accepted: StdCell<usize>,
    go: StdCell<bool>,
    stop: StdCell<bool>,
    bytes: RefCell<Vec<u64>>,
    samples: RefCell<Vec<Sample>>,
    /// Each sender's socket.
    sockets: RefCell<Vec<Option<(Arc<FdTable>, i32)>>>,
}

struct Host {
    machine: Machine,
    stack: Stack,
    cable: Cable,
}

impl Host {
    /// It knows its peers' hardware addresses for good, as the kernel does beside which it is put: requests for them would be
    /// lost like acknowledgements are, and the handshake would measure them.
    fn new(sim: &Sim, name: &str, number: u8, switch: &Switch, peers: &[u8], rate: u64) -> Host {
        let machine = sim.machine(name, 1);
        let stack = Stack::from_net(Net::new(&net_init(machine.kernel())));
        let mut config = NicConfig::new(hardware(number));
        (config.rx_ring, config.rx_delay, config.tx_delay) =
            (4096, interrupt_delay(rate), interrupt_delay(rate).max(10_000));
        // A TAP device of this machine's kernel, beside which this is put, has none either.
        config.features.remove(Features::GRO);
        let (nic, cable, _) = network::plug(sim, name, &machine, config, switch, LinkParams::default());
        let _cpu = machine.kernel().enter();
        let dev = nic.register(stack.net()).expect("a new name");
        dev_open(&dev).expect("up");
        stack.add_address(&dev.name, &format!("10.0.0.{number}/24")).expect("an address");
        for p in peers {
            let at = at(*p).ip();
            neigh_add(stack.net(), &dev, at, hardware(*p), Nud::Permanent).expect("an entry");
        }
        drop(_cpu);
        Host { machine, stack, cable }
    }

    fn table(&self) -> Arc<FdTable> {
        Arc::new(self.stack.files(16))
    }

    fn counters(&self, who: &str, out: &mut Vec<(String, u64)>) {
        for m in Mib::ALL.iter().filter(|m| m.name().starts_with("Tcp")) {
            let n = self.stack.net().mib.get(*m);
            if n > 0 {
                out.push((format!("{who}.{}", m.name()), n));
            }
        }
    }
}

/// Nanoseconds until a card tells of a packet. Gigabit cards gather what comes in 50 us, 20,000 interrupts a second, as drivers
/// of Linux set them; where packets are 100 us apart there is nothing to gather.
fn interrupt_delay(rate: u64) -> u64 {
    if rate < 1_000_000_000 { 2_000 } else { 50_000 }
}

fn hardware(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, number]
}

fn at(number: u8) -> SockAddr {
    SocketAddr::from(([10, 0, 0, number], PORT)).into()
}

const RECEIVER: u8 = 1;
const SENDERS: u8 = 10;

/// Runs this stack on a cell's network.
pub fn simulate(cell: &Cell, o: &Options) -> Outcome {
    let sim = Sim::with_seed(o.seed);
    let switch = network::switch(&sim);
    let numbers: Vec<u8> = (0..cell.flows.len() as u8).map(|i| SENDERS + i).collect();
    let receiver = Host::new(&sim, "receiver", RECEIVER, &switch, &numbers, cell.rate);
    let shared = Rc::new(Shared::default());
    shared.bytes.borrow_mut().resize(cell.flows.len(), 0);
    shared.sockets.borrow_mut().resize(cell.flows.len(), None);
    serve(&receiver, &shared, cell.flows.len(), &o.congestion);
    let sender = |(i, n): (usize, &u8)| Host::new(&sim, &format!("sender{i}"), *n, &switch, &[RECEIVER], cell.rate);
    let senders: Vec<Host> = numbers.iter().enumerate().map(sender).collect();
    for (i, s) in senders.iter().enumerate() {
        s.cable.set(LinkParams { delay: cell.longer(i, o.seed) / 2, ..LinkParams::default() });
        o.sysctls.iter().for_each(|(name, v)| s.stack.set_sysctl(name, *v).expect("a tunable"));
        send(s, &shared, i, &o.congestion);
    }
    let set = |(there, back): (LinkParams, LinkParams)| {
        receiver.cable.back.wire(|w| w.set(there));
        receiver.cable.there.wire(|w| w.set(back));
    };
    set(cell.quiet());
    while (shared.connected.get(), shared.accepted.get()) != (cell.flows.len(), cell.flows.len()) {
        sim.run_for(10 * MS);
    }
    set(cell.impaired());
    let mut out = measure(&sim, cell, o, &shared, &senders);
    out.wire = receiver.cable.back.stats();
    senders[0].counters("snd", &mut out.counters);
    receiver.counters("rcv", &mut out.counters);
    // Everything ends, at once: nothing is left for the next run.
    set((LinkParams::default(), LinkParams::default()));
    shared.stop.set(true);
    shared.sockets.borrow_mut().clear();
    sim.run_tasks();
    out
}

fn measure(sim: &Sim, cell: &Cell, o: &Options, shared: &Rc<Shared>, senders: &[Host]) -> Outcome {
    let start = sim.now();
    shared.go.set(true);
    if o.sample > 0 {
        for (flow, s) in senders.iter().enumerate() {
            watch(s, shared, flow, o.sample);
        }
    }
    sim.run_until(start + cell.time());
    let bytes = shared.bytes.borrow().clone();
    Outcome { time: cell.time(), bytes, samples: shared.samples.take(), ..Outcome::default() }
}

/// A task that looks at a flow each `every` nanoseconds.
fn watch(host: &Host, shared: &Rc<Shared>, flow: usize, every: u64) {
    let shared = shared.clone();
    host.machine.spawn("watcher", move || {
        let start = sim::now();
        while !shared.stop.get() {
            sim::sleep(every);
            let Some(Some((t, fd))) = shared.sockets.borrow().get(flow).cloned() else { return };
            let info =
                t.getsockopt(fd, IPPROTO_TCP, TCP_INFO, 256).map_or(TcpInfo::default(), |b| TcpInfo::from_bytes(&b));
            let bytes = shared.bytes.borrow()[flow];
            shared.samples.borrow_mut().push(Sample { at: sim::now() - start, flow, bytes, info });
        }
    });
}

fn socket(t: &FdTable, congestion: &str) -> i32 {
    let fd = t.socket(AF_INET, SOCK_STREAM, 0).expect("a socket");
    t.setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, congestion.as_bytes()).expect("the algorithm is there");
    t.setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &PATIENCE).expect("a time-out");
    t.setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &PATIENCE).expect("a time-out");
    fd
}

fn serve(host: &Host, shared: &Rc<Shared>, flows: usize, congestion: &str) {
    let (t, machine, shared, congestion) = (host.table(), host.machine.clone(), shared.clone(), congestion.to_owned());
    host.machine.spawn("listener", move || {
        let l = socket(&t, &congestion);
        t.bind(l, &at(RECEIVER)).expect("the port is free");
        t.listen(l, 16).expect("listening");
        for _ in 0..flows {
            let (fd, peer) = std::iter::repeat_with(|| t.accept(l)).find_map(Result::ok).expect("a connection");
            let std::net::IpAddr::V4(ip) = peer.ip() else { unreachable!("the address is of IPv4") };
            let flow = ip.octets()[3] - SENDERS;
            let (t, shared) = (t.clone(), shared.clone());
            shared.accepted.set(shared.accepted.get() + 1);
            machine.spawn("reader", move || read(&t, fd, &shared, flow as usize));
        }
        t.close(l).expect("closed");
    });
}

fn read(t: &FdTable, fd: i32, shared: &Shared, flow: usize) {
    let mut buf = vec![0; 256 * 1024];
    while !shared.stop.get() {
        if let Ok(n) = t.recv(fd, &mut buf, 0) {
            shared.bytes.borrow_mut()[flow] += n as u64;
        }
    }
    abort(t, fd);
}

fn send(host: &Host, shared: &Rc<Shared>, flow: usize, congestion: &str) {
    let (t, shared, congestion) = (host.table(), shared.clone(), congestion.to_owned());
    host.machine.spawn("sender", move || {
        let fd = socket(&t, &congestion);
        t.setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &[0; 16]).expect("no time-out");
        t.connect(fd, &at(RECEIVER)).expect("the server listens");
        t.setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &PATIENCE).expect("a time-out");
        shared.sockets.borrow_mut()[flow] = Some((t.clone(), fd));
        shared.connected.set(shared.connected.get() + 1);
        while !shared.go.get() {
            sim::sleep(MS / 10);
        }
        let data = vec![7; 256 * 1024];
        while !shared.stop.get() {
            if let Ok(n) = t.send(fd, &data, 0) {
                sim::sleep(n as u64 * 8 * SEC / WRITER);
            }
        }
        abort(&t, fd);
    });
}

fn abort(t: &FdTable, fd: i32) {
    let linger = [1i32.to_ne_bytes(), 0i32.to_ne_bytes()].concat();
    let _ = t.setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger);
    let _ = t.close(fd);
}
