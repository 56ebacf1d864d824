//! Machines on a network: the whole stack over simulated cards, wires and switches.

use net::core::dev::{Features, dev_open};
use net::core::net_namespace::Net;
use net::init::net_init;
use sockeye::{Stack, TcpListener, TcpStream};
use sockeye_sim::link::{Chance, LinkParams};
use sockeye_sim::nic::{Nic, NicConfig};
use sockeye_sim::{self as sim, Machine, Sim, network};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;

const MS: u64 = 1_000_000;
const SEC: u64 = 1_000_000_000;

struct Host {
    machine: Machine,
    stack: Stack,
}

impl Host {
    fn new(sim: &Sim, name: &str) -> Host {
        let machine = sim.machine(name, 1);
        let stack = Stack::from_net(Net::new(&net_init(machine.kernel())));
        Host { machine, stack }
    }

    fn up(&self, nic: &Arc<Nic>, address: &str) {
        let _cpu = self.machine.kernel().enter();
        let dev = nic.register(self.stack.net()).expect("a new name");
        dev_open(&dev).expect("up");
        self.stack.add_address(&dev.name, address).expect("an address");
    }
}

fn mac(n: u8) -> NicConfig {
    NicConfig::new([2, 0, 0, 0, 0, n])
}

fn pair(sim: &Sim, params: LinkParams, change: impl Fn(&mut NicConfig)) -> (Host, Host) {
    let (a, b) = (Host::new(sim, "a"), Host::new(sim, "b"));
    let (mut ca, mut cb) = (mac(1), mac(2));
    change(&mut ca);
    change(&mut cb);
    let (na, nb, _) = network::join(sim, "ab", (&a.machine, ca), (&b.machine, cb), params);
    a.up(&na, "10.0.0.1/24");
    b.up(&nb, "10.0.0.2/24");
    (a, b)
}

/// One connection that sends `len` bytes and gets them back; how long it took.
fn echo(sim: &Sim, a: &Host, b: &Host, len: usize) -> u64 {
    let listener = TcpListener::bind(&b.stack, "10.0.0.2:7").expect("free");
    b.machine.spawn("server", move || {
        let (mut s, _) = listener.accept().expect("a connection");
        let mut all = Vec::new();
        s.read_to_end(&mut all).expect("to the end");
        s.write_all(&all).expect("sent");
    });
    let stack = a.stack.clone();
    let client = a.machine.spawn("client", move || {
        let sent: Vec<u8> = (0..len).map(|i| (i * 7 + i / 251) as u8).collect();
        let mut s = TcpStream::connect(&stack, "10.0.0.2:7").expect("connected");
        s.write_all(&sent).expect("sent");
        s.shutdown(Shutdown::Write).expect("shut down");
        let mut got = Vec::new();
        s.read_to_end(&mut got).expect("to the end");
        assert!(got == sent, "{} bytes of {len}", got.len());
        sim::now()
    });
    sim.run_tasks();
    client.result().expect("finished")
}

#[test]
fn a_stream_crosses_a_cable() {
    let sim = Sim::from_env(1);
    let p = LinkParams { bandwidth: 1_000_000_000, delay: 5 * MS, ..LinkParams::default() };
    let (a, b) = pair(&sim, p, |_| ());
    let took = echo(&sim, &a, &b, 100_000);
    assert!((20 * MS..200 * MS).contains(&took), "{took}");
}

#[test]
fn a_stream_survives_everything_a_wire_does() {
    let p = LinkParams {
        bandwidth: 100_000_000,
        delay: 5 * MS,
        jitter: MS,
        keep_order: false,
        loss: Chance::ppm(20_000),
        duplicate: Chance::ppm(10_000),
        corrupt: Chance::ppm(10_000),
        reorder: Chance::ppm(10_000),
        reorder_by: 2 * MS,
        limit_packets: 100,
        ..LinkParams::default()
    };
    let run = |features: Features| {
        let sim = Sim::from_env(1);
        let (a, b) = pair(&sim, p, |c| c.features = features);
        let took = echo(&sim, &a, &b, 500_000);
        (took, sim.trace_hash(), a.stack.counter("TcpRetransSegs"), b.stack.counter("TcpInCsumErrors"))
    };
    let all = NicConfig::new([0; 6]).features;
    for features in [all, Features::empty(), all - Features::TSO, all - Features::RXCSUM - Features::GRO] {
        let first = run(features);
        assert_eq!(first, run(features), "{features:?}");
        assert!(first.0 < 60 * SEC && first.2 > Some(0), "{first:?}");
    }
}
