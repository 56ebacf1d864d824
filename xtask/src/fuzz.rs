//! `cargo xtask fuzz`: a fuzz target, for a minute or as long as one likes.
//!
//! Interface: [`run`].
//! Linux counterpart: syzkaller.
//! Locks and context: none.

use crate::Outcome;
use std::path::Path;
use std::process::{Command, Stdio};

/// Seconds, unless `--time` says otherwise.
const TIME: u32 = 60;
/// A case that takes longer than this many seconds is a finding: work must be bounded.
const CASE_TIMEOUT: u32 = 25;
/// Bytes of a case.
const MAX_LEN: u32 = 8192;

/// Runs the target named (`TARGET [--time SECONDS]`), or lists the targets. Needs `cargo-fuzz`. Its instrumentation is unstable in
/// the compiler, so a nightly one is taken; where there is none, the stable one, told by `RUSTC_BOOTSTRAP` to do as if it were.
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
    let mut cmd = compiler("cargo", has_nightly());
    cmd.current_dir(root).arg("fuzz");
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
        Ok(s) => Err(format!("cargo fuzz: {s} (is it there? cargo install cargo-fuzz)")),
        Err(e) => Err(format!("cargo: {e}")),
    }
}

/// A program of the compiler's: the nightly one, or the default one with unstable features.
fn compiler(program: &str, nightly: bool) -> Command {
    let mut cmd = Command::new(program);
    match nightly {
        // This program is run by the default compiler's cargo, which says so to whatever it starts.
        true => cmd.arg("+nightly").env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTC").env_remove("CARGO"),
        false => cmd.env("RUSTC_BOOTSTRAP", "1"),
    };
    cmd
}

fn has_nightly() -> bool {
    let said = compiler("rustc", true).arg("--version").stderr(Stdio::null()).output();
    said.is_ok_and(|o| o.status.success())
}
