//! `cargo xtask fuzz`: a fuzz target, for a minute.
//!
//! Interface: [`run`].
//! Linux counterpart: syzkaller.
//! Locks and context: none.

use crate::Outcome;
use std::path::Path;
use std::process::Command;

/// Seconds.
const TIME: u32 = 60;

/// Runs the target named, or lists the targets. Needs `cargo-fuzz` and a nightly compiler.
pub fn run(root: &Path, args: &[String]) -> Outcome {
    let dir = root.join("fuzz");
    if !dir.join("Cargo.toml").is_file() {
        return Err("there are no fuzz targets yet".to_owned());
    }
    let mut cmd = Command::new("cargo");
    cmd.current_dir(root).args(["+nightly", "fuzz"]);
    match args.first() {
        None => cmd.arg("list"),
        Some(target) => cmd.args(["run", target, "--", &format!("-max_total_time={TIME}")]),
    };
    match cmd.status() {
        Ok(s) if s.success() => Ok(()),
        Ok(s) => Err(format!("cargo +nightly fuzz: {s} (cargo install cargo-fuzz; rustup toolchain install nightly)")),
        Err(e) => Err(format!("cargo: {e}")),
    }
}
