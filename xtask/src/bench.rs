//! `cargo xtask bench`: sockeye and the kernel in turn, medians, ratios.
//!
//! Interface: [`run`].
//! Linux counterpart: `tools/testing/selftests/net/*bench*`.
//! Locks and context: none.

use crate::Outcome;
use crate::test::step;
use std::path::Path;
use std::process::Command;

const BENCHES: [&str; 6] = ["net", "tcp", "programs", "napi", "machinery", "wan"];

/// Runs one benchmark with its words, or all of them.
pub fn run(root: &Path, words: &[String]) -> Outcome {
    let (names, rest): (&[&str], &[String]) = match words {
        [] => (&BENCHES, &[]),
        [name, rest @ ..] => match BENCHES.iter().position(|b| b == name) {
            Some(at) => (&BENCHES[at..=at], rest),
            None => return Err(format!("there is no benchmark {name:?}; there are {}", BENCHES.join(", "))),
        },
    };
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    step(Command::new(&cargo).current_dir(root).args(["build", "--release", "--package", "sockeye-cli"]))?;
    for name in names {
        let mut cmd = Command::new(&cargo);
        cmd.current_dir(root)
            .args(["bench", "--quiet", "--package", "sockeye-tests", "--bench", name, "--"])
            .args(rest);
        step(&mut cmd)?;
    }
    Ok(())
}
