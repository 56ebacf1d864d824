//! `cargo xtask test`: everything that can be tested on this machine is, and what it lacks is said.
//!
//! Interface: [`run`].
//! Linux counterpart: `tools/testing/selftests/run_kselftest.sh`.
//! Locks and context: none.

use crate::{Outcome, packages};
use std::path::Path;
use std::process::Command;

/// Where the tests find the program under test.
const BINARY: &str = "SOCKEYE_BIN";

/// Runs all tests, or those whose name contains one of `filters`.
pub fn run(root: &Path, filters: &[String]) -> Outcome {
    packages::ensure()?;
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    step(Command::new(&cargo).current_dir(root).args(["build", "--release", "--package", "sockeye-cli"]))?;
    let target = std::env::var("CARGO_TARGET_DIR").map_or_else(|_| root.join("target"), |t| root.join(t));
    let binary = target.join("release/sockeye");

    // With debug assertions, lockdep among them: speed is for `cargo xtask bench`.
    let nextest = Command::new(&cargo).args(["nextest", "--version"]).output().is_ok_and(|o| o.status.success());
    let mut cmd = Command::new(&cargo);
    cmd.current_dir(root).env(BINARY, &binary);
    if nextest {
        cmd.args(["nextest", "run", "--workspace", "--no-fail-fast", "--no-tests=pass"]).args(filters);
    } else {
        cmd.args(["test", "--workspace", "--no-fail-fast", "--lib", "--bins", "--tests", "--"]).args(filters);
    }
    let tests = step(&mut cmd);
    // nextest does not run the examples in the documentation.
    let examples = match filters {
        [] => step(Command::new(&cargo).current_dir(root).args(["test", "--workspace", "--doc", "--quiet"])),
        _ => Ok(()),
    };
    tests.and(examples)
}

/// Shows a command and runs it; an error if it fails.
pub fn step(cmd: &mut Command) -> Outcome {
    let shown = std::iter::once(cmd.get_program()).chain(cmd.get_args());
    let shown = shown.map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ");
    println!("$ {shown}");
    match cmd.status() {
        Ok(s) if s.success() => Ok(()),
        Ok(s) => Err(format!("{shown}: {s}")),
        Err(e) => Err(format!("{shown}: {e}")),
    }
}
