//! Runs scripts in packetdrill's grammar, each as IPv4, IPv6 and IPv4-mapped IPv6.
//!
//! Interface: `sockeye-packetdrill [--kernel] [--tries N] FILE...`; exit status 1 if a script fails.
//! `sockeye-packetdrill --differ FROM TO [DIR]` tells random stories to the kernel and to sockeye, those of the seeds from FROM to
//! before TO, and shows where they part; exit status 1 if they do. With DIR those that do not are kept there.
//! Called as `ip`, `tc` or `ethtool` it stands in for that tool ([`control`]).
//! Linux counterpart: packetdrill's `run_all.py`.
//! Locks and context: one script after the other, each in a thread of its own.

use sockeye_packetdrill::control;
use sockeye_packetdrill::runner::{Against, Outcome, differ, run_file, variants};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
            "--differ" => return tell_stories(&args.collect::<Vec<_>>()),
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

/// Several at a time: they mostly sleep.
fn tell_stories(args: &[String]) -> ExitCode {
    const AT_ONCE: usize = 12;
    let (Some(Ok(from)), Some(Ok(to))) = (args.first().map(|a| a.parse()), args.get(1).map(|a| a.parse::<u64>()))
    else {
        eprintln!("sockeye-packetdrill --differ FROM TO [DIR]: seeds are numbers");
        return ExitCode::FAILURE;
    };
    if let Some(Err(e)) = args.get(2).map(std::fs::create_dir_all) {
        eprintln!("sockeye-packetdrill: {}: {e}", args[2]);
        return ExitCode::FAILURE;
    }
    let next = AtomicU64::new(from);
    let counts: [AtomicU64; 3] = Default::default();
    std::thread::scope(|s| {
        for _ in 0..AT_ONCE {
            s.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= to {
                        return;
                    }
                    let which = match differ(seed) {
                        Ok(Outcome::Alike(text)) => {
                            if let Some(dir) = args.get(2) {
                                let path = PathBuf::from(dir).join(format!("{seed}.txt"));
                                std::fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                            }
                            0
                        }
                        Ok(Outcome::Different(text)) => {
                            println!("{text}");
                            1
                        }
                        Ok(Outcome::Unsure) => 2,
                        Err(e) => {
                            eprintln!("seed {seed}: {e}");
                            2
                        }
                    };
                    counts[which].fetch_add(1, Relaxed);
                }
            });
        }
    });
    let [alike, different, unsure] = counts.map(AtomicU64::into_inner);
    println!("{alike} stories alike, {different} not, {unsure} that the kernel's clock tells in several ways");
    if different == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
