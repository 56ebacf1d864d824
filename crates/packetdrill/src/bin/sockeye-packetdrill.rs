//! Runs scripts in packetdrill's grammar, each as IPv4, IPv6 and IPv4-mapped IPv6.
//!
//! Interface: `sockeye-packetdrill [--kernel] [--tries N] FILE...`; exit status 1 if a script fails.
//! Called as `ip`, `tc` or `ethtool` it stands in for that tool ([`control`]).
//! Linux counterpart: packetdrill's `run_all.py`.
//! Locks and context: one script after the other, each in a thread of its own.

use sockeye_packetdrill::control;
use sockeye_packetdrill::runner::{Against, run_file, variants};
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut argv = std::env::args();
    let called = argv.next().map(PathBuf::from).unwrap_or_default();
    if let Some(name) = called.file_name().and_then(|n| n.to_str()).filter(|n| control::TOOLS.contains(n)) {
        return control::tool(name, &argv.collect::<Vec<_>>());
    }
    let (mut against, mut tries, mut files) = (Against::Sockeye, 1, Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(a) = args.next() {
        match a.as_str() {
            "--kernel" => against = Against::Kernel,
            "--tries" => tries = args.next().and_then(|n| n.parse().ok()).unwrap_or(1),
            _ => files.push(PathBuf::from(a)),
        }
    }
    let mut failed = 0;
    for path in &files {
        for v in variants(path) {
            // A thread of its own: it goes into a network namespace and never comes back.
            let once = || {
                let path = path.clone();
                let r = std::thread::spawn(move || run_file(&path, v, against)).join();
                r.unwrap_or_else(|_| Err("panicked".to_owned()))
            };
            let mut outcome = once();
            for _ in 1..tries {
                outcome = outcome.or_else(|_| once());
            }
            match outcome {
                Ok(()) => println!("ok   {} {v:?}", path.display()),
                Err(e) => {
                    failed += 1;
                    println!("FAIL {} {v:?}\n  {e}", path.display());
                }
            }
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
