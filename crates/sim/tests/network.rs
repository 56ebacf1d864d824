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

#[test]
fn without_memory_there_is_no_socket() {
    let sim = Sim::from_env(1);
    let a = Host::new(&sim, "a");
    let _on = kernel::fault::FaultsOn::new();
    a.machine.set_should_fail(|what| what == kernel::Fault::Socket);
    let e = TcpListener::bind(&a.stack, "127.0.0.1:7").err().and_then(|e| e.raw_os_error());
    assert_eq!(e, Some(uapi::Errno::ENOBUFS.0));
    a.machine.set_should_fail(|_| false);
    assert!(TcpListener::bind(&a.stack, "127.0.0.1:7").is_ok());
}

#[test]
fn packets_that_memory_lacks_for_are_sent_again() {
    let sim = Sim::from_env(1);
    let p = LinkParams { bandwidth: 100_000_000, delay: MS, ..LinkParams::default() };
    let (a, b) = pair(&sim, p, |_| ());
    let _on = kernel::fault::FaultsOn::new();
    for h in [&a, &b] {
        let mut rng = sim.rng("memory");
        let cell = std::cell::RefCell::new(move || rng.below(20) == 0);
        h.machine.set_should_fail(move |what| what == kernel::Fault::Skb && (cell.borrow_mut())());
    }
    let took = echo(&sim, &a, &b, 200_000);
    assert!(took < 60 * SEC, "{took}");
    assert!(a.stack.counter("TcpRetransSegs") > Some(0));
}

#[test]
fn a_small_ring_loses_what_comes_at_once() {
    let sim = Sim::from_env(1);
    let (a, b) = (Host::new(&sim, "a"), Host::new(&sim, "b"));
    let small = NicConfig { rx_ring: 8, rx_delay: 1000 * MS, ..mac(2) };
    let (na, nb, _) = network::join(&sim, "ab", (&a.machine, mac(1)), (&b.machine, small), LinkParams::default());
    a.up(&na, "10.0.0.1/24");
    b.up(&nb, "10.0.0.2/24");
    let stack = a.stack.clone();
    a.machine.spawn("sender", move || {
        let s = sockeye::UdpSocket::bind(&stack, "10.0.0.1:0").expect("bound");
        // The first finds out where to; the others then come at once.
        s.send_to(b"?", "10.0.0.2:9").expect("sent");
        sim::sleep(3 * SEC);
        (0..20).for_each(|_| drop(s.send_to(b"?", "10.0.0.2:9")));
    });
    sim.run_tasks();
    sim.run_for(3 * SEC);
    assert_eq!((nb.stats().rx_missed, nb.held()), (12, 0), "{:?}", nb.stats());
}
