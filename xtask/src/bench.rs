//! `cargo xtask bench`: sockeye and the kernel in turn, medians, ratios.
//!
//! Interface: [`run`].
//! Linux counterpart: `tools/testing/selftests/net/*bench*`.
//! Locks and context: none.

use crate::Outcome;
use std::path::Path;

/// A benchmark by name.
type Bench = (&'static str, fn(&Path) -> Outcome);

const BENCHES: &[Bench] = &[];

/// Runs all benchmarks, or those named.
pub fn run(root: &Path, names: &[String]) -> Outcome {
    let known = || BENCHES.iter().map(|b| b.0).collect::<Vec<_>>().join(", ");
    if BENCHES.is_empty() {
        return Err("there are no benchmarks yet".to_owned());
    }
    if let Some(strange) = names.iter().find(|n| BENCHES.iter().all(|b| b.0 != n.as_str())) {
        return Err(format!("there is no benchmark {strange:?}; there are {}", known()));
    }
    let wanted = BENCHES.iter().filter(|b| names.is_empty() || names.iter().any(|n| n == b.0));
    wanted.into_iter().try_for_each(|b| (b.1)(root))
}
