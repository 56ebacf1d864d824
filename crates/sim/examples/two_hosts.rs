//! Two machines, a bad cable between them, and a conversation.
//!
//! Interface: `cargo run -p sockeye-sim --example two_hosts [SEED]`.
//! Linux counterpart: two machines and a cable.
//! Locks and context: one thread.
//!
//! Prints when each line arrives, in virtual time, and the hash of all that happened: the same for the same seed.

use net::core::dev::dev_open;
use net::core::net_namespace::Net;
use net::init::net_init;
use sockeye::{Stack, TcpListener, TcpStream};
use sockeye_sim::link::{Chance, LinkParams};
use sockeye_sim::nic::{Nic, NicConfig};
use sockeye_sim::{self as sim, Machine, Sim, network};
use std::io::{BufRead, BufReader, Write};
use std::sync::Arc;

const MS: u64 = 1_000_000;

/// A stack on a machine, with an address on its card.
fn stack(machine: &Machine, nic: &Arc<Nic>, address: &str) -> Stack {
    let stack = Stack::from_net(Net::new(&net_init(machine.kernel())));
    let _cpu = machine.kernel().enter();
    let dev = nic.register(stack.net()).expect("the card is new");
    dev_open(&dev).expect("the device comes up");
    stack.add_address(&dev.name, address).expect("the address is free");
    stack
}

fn main() {
    let seed = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(1);
    let sim = Sim::with_seed(seed);
    let (a, b) = (sim.machine("a", 1), sim.machine("b", 2));
    let bad = LinkParams {
        bandwidth: 10_000_000,
        delay: 30 * MS,
        jitter: 5 * MS,
        loss: Chance::ppm(200_000),
        ..LinkParams::default()
    };
    let card = |n| NicConfig::new([2, 0, 0, 0, 0, n]);
    let (na, nb, _cable) = network::join(&sim, "cable", (&a, card(1)), (&b, card(2)), bad);
    let (sa, sb) = (stack(&a, &na, "10.0.0.1/24"), stack(&b, &nb, "10.0.0.2/24"));

    let listener = TcpListener::bind(&sb, "10.0.0.2:7").expect("the port is free");
    b.spawn("server", move || {
        let (stream, peer) = listener.accept().expect("somebody connects");
        for line in BufReader::new(stream).lines() {
            println!("{:9.3} ms  {peer} says: {}", sim::now() as f64 / MS as f64, line.expect("a line"));
        }
    });
    a.spawn("client", move || {
        let mut stream = TcpStream::connect(&sa, "10.0.0.2:7").expect("the server listens");
        for i in 1..=10 {
            writeln!(stream, "line {i}").expect("sent");
            sim::sleep(100 * MS);
        }
    });
    sim.run_tasks();
    println!("seed {seed}: {:016x} after {} steps", sim.trace_hash(), sim.steps());
}
