//! Networks of hosts that talk TCP while links fail, in deterministic simulation.
//!
//! A failing seed prints the smallest scenario that fails and the command that repeats it.

use sockeye_tests::simulate::campaign::{check, shrunk};
use sockeye_tests::simulate::{Plan, Plant, Scenario, run, shrink};

/// `SOCKEYE_SEED`, or else as many seeds as CI has time for.
fn seeds(n: u64) -> Vec<u64> {
    sim::seed_from_env().map_or((1..=n).collect(), |s| vec![s])
}

fn all_well(plans: impl Iterator<Item = Plan>) {
    for plan in plans {
        if let Err(why) = check(&plan, false) {
            panic!("{why}\n\n{}", shrunk(&plan, 100));
        }
    }
}

#[test]
fn forty_hosts_and_twenty_seeds() {
    all_well(seeds(20).into_iter().map(|s| Plan::new(s, 40, 300)));
}

#[test]
fn interrupted_at_every_turn() {
    all_well(seeds(5).into_iter().map(|s| Plan { preempt: Some(50), ..Plan::new(s, 8, 60) }));
}

#[test]
fn a_seed_has_one_history() {
    for seed in seeds(2) {
        let plan = Plan { preempt: Some(200), ..Plan::new(seed, 30, 200) };
        let s = Scenario::new(&plan);
        let (first, again) = (run(&s), run(&s));
        assert_eq!(first, again);
        let other = run(&Scenario::new(&Plan { seed: seed + 1, ..plan }));
        assert_ne!(first.trace_hash, other.trace_hash);
    }
}

#[test]
fn a_lost_byte_is_found_and_shrunk() {
    let plan = Plan { plant: Some(Plant::LostByte), ..Plan::new(1, 12, 120) };
    let why = check(&plan, false).expect_err("a server changes a byte");
    assert!(why.contains("byte 20000 of the server's is wrong"), "{why}");
    let small = shrink(&plan, 200, |p| check(p, false).is_err());
    let s = Scenario::new(&small);
    assert_eq!((s.talks.len(), s.faults.len()), (1, 0), "{s}");
    assert!(check(&Plan { plant: None, ..small }, false).is_ok());
}

#[test]
fn a_leaked_timer_is_found_and_shrunk() {
    let plan = Plan { plant: Some(Plant::LeakedTimer), ..Plan::new(2, 25, 120) };
    let why = check(&plan, false).expect_err("a timer stays armed");
    assert!(why.contains("1 timers"), "{why}");
    let s = Scenario::new(&shrink(&plan, 200, |p| check(p, false).is_err()));
    // The fault that leaks, and a conversation so that its host is there.
    assert_eq!((s.talks.len(), s.faults.len()), (1, 1), "{s}");
}
