//! `cargo xtask simulate`: networks in deterministic simulation, seed after seed, until one fails.
//!
//! Interface: [`run`].
//! Linux counterpart: none.
//! Locks and context: none.

use crate::{Outcome, test::step};
use std::path::Path;
use std::process::Command;

/// Builds the simulation for speed and passes `args` on; `--debug` builds it with lockdep and every assertion.
pub fn run(root: &Path, args: &[String]) -> Outcome {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let debug = args.iter().any(|a| a == "--debug");
    let mut cmd = Command::new(cargo);
    cmd.current_dir(root).args(["run", "--quiet", "--package", "sockeye-tests", "--bin", "simulate"]);
    if !debug {
        cmd.arg("--release");
    }
    cmd.arg("--").args(args.iter().filter(|a| *a != "--debug"));
    step(&mut cmd)
}
