//! Goodput on bad networks, in virtual time: against what the network allows, never against a clock.
//!
//! The whole grid, beside smoltcp and the kernel, is `cargo xtask bench wan`; these are cells that take a moment.

use sockeye_tests::wan::{Cell, Loss, Options, Outcome, simulate};

const MBIT: u64 = 1_000_000;

fn run(cell: &Cell, seed: u64) -> Outcome {
    let out = simulate(cell, &Options::new("cubic", seed));
    println!("{}, seed {seed}: {:.3} of the limit, {:?}", cell.name(), out.goodput() / cell.limit(), out.bytes);
    out
}

/// The share of the limit that a cell must give.
fn at_least(share: f64, cell: Cell) {
    let out = run(&cell, 1);
    assert!(out.goodput() >= share * cell.limit(), "{}: {:.3}", cell.name(), out.goodput() / cell.limit());
    assert!(out.goodput() <= 1.001 * cell.limit(), "{}: more than there is", cell.name());
}

#[test]
fn a_good_network_is_filled() {
    at_least(0.99, Cell::clean(10 * MBIT, 10));
    at_least(0.97, Cell::clean(10 * MBIT, 100));
}

/// HyStart must not take the queue of a round's own packets for a path that is full.
#[test]
fn slow_start_fills_a_long_path() {
    at_least(0.92, Cell::clean(10 * MBIT, 300));
}

/// RFC 9406 instead of the older HyStart: the path is filled as well, and the long way out costs no retransmissions.
#[test]
fn hystart_plus_plus_fills_a_path_too() {
    for (share, cell) in [(0.97, Cell::clean(10 * MBIT, 100)), (0.92, Cell::clean(10 * MBIT, 300))] {
        let o = Options { sysctls: vec![("net.ipv4.tcp_cubic_hystart_detect", 4)], ..Options::new("cubic", 1) };
        let out = simulate(&cell, &o);
        let got = out.goodput() / cell.limit();
        assert!(got >= share, "{}: {got:.3}", cell.name());
    }
}

#[test]
fn small_and_large_buffers_are_coped_with() {
    at_least(0.90, Cell { buffer: 10, ..Cell::clean(10 * MBIT, 10) });
    at_least(0.60, Cell { buffer: 10, ..Cell::clean(10 * MBIT, 100) });
    at_least(0.98, Cell { buffer: 1000, ..Cell::clean(10 * MBIT, 100) });
}

#[test]
fn single_losses_and_bursts_cost_what_cubic_says() {
    at_least(0.97, Cell { loss: Loss::Random(1_000), ..Cell::clean(10 * MBIT, 10) });
    // Long enough for the losses to be as many as they should.
    let mean = |cell: &Cell| (1..=3).map(|seed| run(cell, seed).goodput()).sum::<f64>() / 3.0;
    let bursts = Cell { loss: Loss::Burst(10_000), ..Cell::clean(10 * MBIT, 10) };
    assert!(mean(&bursts) >= 0.93 * bursts.limit(), "{} of {}", mean(&bursts), bursts.limit());
    let lossy = Cell { loss: Loss::Random(10_000), ..Cell::clean(10 * MBIT, 100) };
    assert!(mean(&lossy) >= lossy.law(), "{} of {}", mean(&lossy), lossy.law());
}

#[test]
fn reordering_and_lost_acks_cost_little() {
    at_least(0.97, Cell { reorder: 100_000, ..Cell::clean(10 * MBIT, 10) });
    at_least(0.85, Cell { reorder: 100_000, ..Cell::clean(10 * MBIT, 100) });
    // A host that had to ask for a hardware address on the way that loses would be mute for seconds, with one seed in eight.
    let acks = Cell { ack_loss: 500_000, ..Cell::clean(10 * MBIT, 100) };
    assert!((1..=12).all(|seed| run(&acks, seed).goodput() >= 0.95 * acks.limit()));
}

#[test]
fn two_flows_share_fairly() {
    let cell = Cell { flows: vec![0, 0], ..Cell::clean(10 * MBIT, 10) };
    let out = run(&cell, 1);
    assert!(out.jain() > 0.9, "{}", out.jain());
    assert!(out.goodput() > 0.97 * cell.limit());
}

#[test]
fn a_seed_has_one_history() {
    let cell = Cell { loss: Loss::Random(10_000), reorder: 10_000, ..Cell::clean(10 * MBIT, 10) };
    assert_eq!(run(&cell, 1).bytes, run(&cell, 1).bytes);
    assert_ne!(run(&cell, 1).bytes, run(&cell, 2).bytes);
}
