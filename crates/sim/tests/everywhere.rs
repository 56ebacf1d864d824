//! A seed has the same history on every machine, in every build: the hash of one is written down here.
//!
//! It changes when the engine does something else, or records it differently. Then write the new one down, and say why.

use sockeye_sim::{self as sim, Sim, SimConfig};

const HISTORY: u64 = 0x73c3_a97a_b01b_da05;

#[test]
fn the_history_of_a_seed_is_the_same_everywhere() {
    let sim = Sim::new(SimConfig { seed: 2026, irq_cost: 700, switch_cost: 300, ..SimConfig::default() });
    for name in ["a", "b"] {
        let m = sim.machine(name, 2);
        let line = m.request_irq(1, || sim::charge(2_000));
        let mut rng = sim.rng(name);
        for t in 0..3 {
            let (line, mut rng) = (line, sim.rng(&format!("{name}/{t}")));
            m.spawn("worker", move || {
                for _ in 0..50 {
                    match rng.next_u64() % 4 {
                        0 => sim::sleep(1 + rng.next_u64() % 100_000),
                        1 => sim::charge(rng.next_u64() % 10_000),
                        2 => line.raise(),
                        _ => sim::yield_now(),
                    }
                }
            });
        }
        for _ in 0..20 {
            sim.at(rng.next_u64() % 1_000_000, move || line.raise());
        }
    }
    sim.run();
    assert_eq!(sim.trace_hash(), HISTORY, "{:#018x} after {} steps", sim.trace_hash(), sim.steps());
}
