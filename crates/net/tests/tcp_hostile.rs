//! A hostile peer, and random segments to every state: some thousands of cases, the same ones each time. The fuzz targets
//! `tcp_peer` and `tcp_states` play the same games for as long as one likes. `STORY=1` has a peer's game told step by step.

extern crate sockeye_net as net;

mod hostile;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Runs `cases` random cases of up to `len` bytes from a fixed seed, shrinking one that fails.
fn campaign(cases: u32, len: usize, play: fn(&[u8])) {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[42; 32]);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let strategy = prop::collection::vec(any::<u8>(), 16..len);
    let result = TestRunner::new_with_rng(config, rng).run(&strategy, |case| {
        play(&case);
        Ok(())
    });
    if let Err(e) = result {
        panic!("{e}");
    }
}

#[test]
fn a_hostile_peer_finds_nothing() {
    campaign(8000, 1500, hostile::peer::play);
}

#[test]
fn random_segments_find_nothing_in_any_state() {
    campaign(8000, 900, hostile::states::play);
}
