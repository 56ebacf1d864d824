//! `cargo xtask fuzz`: a fuzz target, for a minute or as long as one likes.
//!
//! Interface: [`run`].
//! Linux counterpart: syzkaller.
//! Locks and context: none.

use crate::Outcome;
use std::path::Path;
use std::process::Command;

/// Seconds, unless `--time` says otherwise.
const TIME: u32 = 60;
/// A case that takes longer than this many seconds is a finding: work must be bounded.
const CASE_TIMEOUT: u32 = 25;
/// Bytes of a case.
const MAX_LEN: u32 = 8192;

/// Runs the target named (`TARGET [--time SECONDS]`), or lists the targets. Needs `cargo-fuzz` and a nightly compiler.
pub fn run(root: &Path, args: &[String]) -> Outcome {
    let dir = root.join("fuzz");
    if !dir.join("Cargo.toml").is_file() {
        return Err("there are no fuzz targets yet".to_owned());
    }
    let time = match args.get(1).map(String::as_str) {
        None => TIME,
        Some("--time") => args.get(2).and_then(|t| t.parse().ok()).ok_or("--time wants seconds")?,
        Some(other) => return Err(format!("what is {other}?")),
    };
    let mut cmd = Command::new("cargo");
    cmd.current_dir(root).args(["+nightly", "fuzz"]);
    match args.first() {
        None => cmd.arg("list"),
        Some(target) => cmd.args(["run", target, "--"]).args([
            format!("-max_total_time={time}"),
            format!("-timeout={CASE_TIMEOUT}"),
            format!("-max_len={MAX_LEN}"),
        ]),
    };
    match cmd.status() {
        Ok(s) if s.success() => Ok(()),
        Ok(s) => Err(format!("cargo +nightly fuzz: {s} (cargo install cargo-fuzz; rustup toolchain install nightly)")),
        Err(e) => Err(format!("cargo: {e}")),
    }
}
