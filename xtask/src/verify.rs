//! `cargo xtask verify`: the model checkers and sanitizers, each with the planted bugs that it must find.
//!
//! Interface: [`run`].
//! Linux counterpart: `tools/memory-model/`, KCSAN, KASAN, in what they are for.
//! Locks and context: none.
//!
//! What each check proves and how a failure is replayed is told in `docs/verification.md`. Each tool builds into a directory
//! of its own under `target/verify`, so that ordinary builds stay.

use crate::Outcome;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

/// Longer than any check takes; one that hangs is a finding.
const LIMIT: &str = "1200";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tool {
    Loom,
    Shuttle,
    Miri,
    Tsan,
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Tool::Loom => "loom",
            Tool::Shuttle => "shuttle",
            Tool::Miri => "miri",
            Tool::Tsan => "tsan",
        }
    }

    fn needs_nightly(self) -> bool {
        matches!(self, Tool::Miri | Tool::Tsan)
    }

    fn rustflags(self) -> &'static str {
        match self {
            Tool::Loom => "--cfg loom",
            Tool::Shuttle => "--cfg shuttle",
            Tool::Miri => "--cfg verify",
            Tool::Tsan => "--cfg verify -Zsanitizer=thread",
        }
    }
}

#[derive(Clone, Copy)]
enum Expect {
    /// The tests pass. Those that plant bugs are among them, and expect the finding themselves.
    Clean,
    /// With the bug planted the tool stops the tests, with one of these words.
    Finding { plant: &'static str, words: &'static [&'static str] },
}

struct Check {
    tool: Tool,
    /// What is checked; `tool/what` names it on the command line.
    what: &'static str,
    package: &'static str,
    /// Which tests: arguments of `cargo test` and, after `--`, filters.
    target: &'static [&'static str],
    filter: &'static [&'static str],
    expect: Expect,
    /// Whether the short run has it.
    short: bool,
    shows: &'static str,
}

const LOOM: &[&str] = &["--test", "loom"];
const SHUTTLE: &[&str] = &["--test", "shuttle"];
const LIB: &[&str] = &["--lib"];
const UB: &[&str] = &["Undefined Behavior"];
const RACE: &[&str] = &["ThreadSanitizer: data race"];

const CHECKS: &[Check] = &[
    Check {
        tool: Tool::Loom,
        what: "spinlock",
        package: "sockeye-kernel",
        target: LOOM,
        filter: &["spinlock::"],
        expect: Expect::Clean,
        short: true,
        shows: "holders exclude and see each other, all who wait are served; an unlock without Release is found",
    },
    Check {
        tool: Tool::Loom,
        what: "wait",
        package: "sockeye-kernel",
        target: LOOM,
        filter: &["wait::"],
        expect: Expect::Clean,
        short: true,
        shows: "no wake-up is lost or kept from who needs it; a task's state set too late is found",
    },
    Check {
        tool: Tool::Loom,
        what: "sleeping",
        package: "sockeye-kernel",
        target: LOOM,
        filter: &["sleeping::"],
        expect: Expect::Clean,
        short: true,
        shows: "semaphores, mutexes and their like exclude and forget no waiter; a look for sleepers that comes too early is found",
    },
    Check {
        tool: Tool::Loom,
        what: "rcu",
        package: "sockeye-kernel",
        target: LOOM,
        filter: &["rcu::"],
        expect: Expect::Clean,
        short: true,
        shows: "a grace period waits for every reader; one of a single epoch is found",
    },
    Check {
        tool: Tool::Loom,
        what: "softirq",
        package: "sockeye-kernel",
        target: LOOM,
        filter: &["softirq::"],
        expect: Expect::Clean,
        short: true,
        shows: "what is raised while handlers run, or is left to ksoftirqd, runs; pending bits cleared late are found",
    },
    Check {
        tool: Tool::Shuttle,
        what: "sock_lock",
        package: "sockeye-kernel",
        target: SHUTTLE,
        filter: &["sock_lock::"],
        expect: Expect::Clean,
        short: true,
        shows: "no packet is lost between backlog and owner; a release without a last look is found",
    },
    Check {
        tool: Tool::Shuttle,
        what: "timer",
        package: "sockeye-kernel",
        target: SHUTTLE,
        filter: &["timer::"],
        expect: Expect::Clean,
        short: true,
        shows: "no timer fires after its shutdown; one that does is found",
    },
    Check {
        tool: Tool::Shuttle,
        what: "accept",
        package: "sockeye-net",
        target: SHUTTLE,
        filter: &[],
        expect: Expect::Clean,
        short: true,
        shows: "connections race accept, close and timers and all calls end; a check before queueing is found",
    },
    Check {
        tool: Tool::Miri,
        what: "buffers",
        package: "sockeye-kernel",
        target: LIB,
        filter: &["buf_tests::"],
        expect: Expect::Clean,
        short: true,
        shows: "packet memory has no undefined behaviour",
    },
    Check {
        tool: Tool::Miri,
        what: "lists",
        package: "sockeye-kernel",
        target: LIB,
        filter: &["rculist_tests::"],
        expect: Expect::Clean,
        short: false,
        shows: "lists and hash tables under RCU have no undefined behaviour",
    },
    Check {
        tool: Tool::Miri,
        what: "list",
        package: "sockeye-kernel",
        target: LIB,
        filter: &["rculist_tests::a_list_keeps"],
        expect: Expect::Clean,
        short: true,
        shows: "a list keeps its order and its readers their place",
    },
    Check {
        tool: Tool::Miri,
        what: "rcu",
        package: "sockeye-kernel",
        target: LIB,
        filter: &["rcu_tests::"],
        expect: Expect::Clean,
        short: false,
        shows: "RCU frees nothing that is in use",
    },
    Check {
        tool: Tool::Miri,
        what: "double-free",
        package: "sockeye-kernel",
        target: LIB,
        filter: &["buf_tests::"],
        expect: Expect::Finding { plant: "BufDoubleFree", words: UB },
        short: true,
        shows: "a count on a buffer that is dropped twice is found",
    },
    Check {
        tool: Tool::Miri,
        what: "free-early",
        package: "sockeye-kernel",
        target: LIB,
        filter: &["rculist_tests::a_list_changes"],
        expect: Expect::Finding { plant: "ListFreeEarly", words: UB },
        short: true,
        shows: "a list entry freed without a grace period is found",
    },
    Check {
        tool: Tool::Tsan,
        what: "host",
        package: "sockeye-host",
        target: &["--lib", "--tests"],
        filter: &[],
        expect: Expect::Clean,
        short: false,
        shows: "threads on a real host race for nothing",
    },
    Check {
        tool: Tool::Tsan,
        what: "net",
        package: "sockeye-net",
        target: &["--test", "tcp_connections"],
        filter: &["threads", "acceptor", "listener"],
        expect: Expect::Clean,
        short: false,
        shows: "connections between threads race for nothing",
    },
    Check {
        tool: Tool::Tsan,
        what: "registration",
        package: "sockeye-net",
        target: &["--test", "registration"],
        filter: &[],
        expect: Expect::Clean,
        short: false,
        shows: "families and transports come and go while sockets are made of them, and nothing races",
    },
    Check {
        tool: Tool::Tsan,
        what: "plain-counter",
        package: "sockeye-host",
        target: &["--test", "race"],
        filter: &["two_threads_count"],
        expect: Expect::Finding { plant: "PlainCounter", words: RACE },
        short: false,
        shows: "a counter that two threads write is found",
    },
];

/// Runs the checks named (`loom`, `loom/wait`), or all; `--short`: those that take seconds.
pub fn run(root: &Path, args: &[String]) -> Outcome {
    let short = args.iter().any(|a| a == "--short");
    let names: Vec<&str> = args.iter().map(String::as_str).filter(|a| *a != "--short").collect();
    let checks = select(&names, short)?;
    let logs = root.join("target/verify/log");
    fs::create_dir_all(&logs).map_err(|e| format!("{}: {e}", logs.display()))?;
    let nightly = match checks.iter().any(|c| c.tool.needs_nightly()) {
        true => ensure_nightly(),
        false => Ok(()),
    };
    if let Err(why) = &nightly {
        println!("{why}\n");
    }
    let begin = Instant::now();
    let (mut failed, mut skipped) = (Vec::new(), 0);
    for c in &checks {
        if c.tool.needs_nightly() && nightly.is_err() {
            println!("not run {:<22} {}", c.name(), c.shows);
            skipped += 1;
            continue;
        }
        let done = c.run(root, &logs, short);
        let took = done.took.as_secs_f64();
        match done.verdict {
            Ok(tests) => println!("ok      {:<22} {took:>6.1}s {tests:>3} tests: {}", c.name(), c.shows),
            Err(why) => {
                println!("FAILED  {:<22} {took:>6.1}s {why}\n{}", c.name(), tail(&done.log, 60));
                println!("        all of it: {}; run again: cargo xtask verify {}", done.log.display(), c.name());
                failed.push(c.name());
            }
        }
    }
    let passed = checks.len() - failed.len() - skipped;
    println!("{passed} passed, {} failed, {skipped} not run, in {:.0}s", failed.len(), begin.elapsed().as_secs_f64());
    match (failed.is_empty(), skipped) {
        (false, _) => Err(format!("failed: {}", failed.join(" "))),
        // The short run is part of every test run, also where no other compiler can be had.
        (true, n) if n > 0 && !short => Err(format!("{n} checks could not be run")),
        _ => Ok(()),
    }
}

fn select(names: &[&str], short: bool) -> Result<Vec<&'static Check>, String> {
    let named = |c: &Check| names.iter().any(|n| *n == c.name() || *n == c.tool.name());
    let chosen: Vec<_> =
        CHECKS.iter().filter(|c| if names.is_empty() { c.short || !short } else { named(c) }).collect();
    if chosen.is_empty() {
        let all = CHECKS.iter().map(Check::name).collect::<Vec<_>>().join(" ");
        return Err(format!("there is no such check; there are: {all}"));
    }
    Ok(chosen)
}

/// A nightly compiler with Miri and the standard library's source, installed if need be.
fn ensure_nightly() -> Outcome {
    let have = |args: &[&str]| {
        Command::new("rustup").args(args).output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
    };
    let installed = have(&["component", "list", "--installed", "--toolchain", "nightly"]).unwrap_or_default();
    if ["miri", "rust-src"].iter().all(|c| installed.lines().any(|l| l.starts_with(c))) {
        return Ok(());
    }
    let mut install = Command::new("rustup");
    install.args([
        "toolchain",
        "install",
        "nightly",
        "--profile",
        "minimal",
        "--component",
        "miri",
        "--component",
        "rust-src",
    ]);
    crate::test::step(&mut install).map_err(|e| {
        format!("Miri and ThreadSanitizer need a nightly compiler, and it could not be installed from here ({e}): their checks are not run")
    })
}

/// How a check went.
struct Done {
    /// How many tests ran, or what is wrong.
    verdict: Result<usize, String>,
    took: Duration,
    log: PathBuf,
}

impl Check {
    fn name(&self) -> String {
        format!("{}/{}", self.tool.name(), self.what)
    }

    fn run(&self, root: &Path, logs: &Path, short: bool) -> Done {
        let log = logs.join(format!("{}.log", self.name().replace('/', "-")));
        let begin = Instant::now();
        let outcome = self.command(root, short).output();
        let verdict = match outcome {
            Ok(o) => {
                let said = [o.stdout, o.stderr].concat();
                let kept = fs::write(&log, &said).map_err(|e| format!("{}: {e}", log.display()));
                kept.and_then(|()| self.judge(o.status, &String::from_utf8_lossy(&said)))
            }
            Err(e) => Err(e.to_string()),
        };
        Done { verdict, took: begin.elapsed(), log }
    }

    fn command(&self, root: &Path, short: bool) -> Command {
        let mut cmd = Command::new("timeout");
        cmd.args(["--kill-after=10", LIMIT, "cargo"]).current_dir(root);
        if self.tool.needs_nightly() {
            // A compiler chosen by whoever runs this chore must not choose for it.
            cmd.arg("+nightly").env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTC").env_remove("CARGO");
        }
        match self.tool {
            Tool::Miri => cmd.args(["miri", "test"]),
            _ => cmd.arg("test"),
        };
        if self.tool == Tool::Tsan {
            cmd.args(["-Zbuild-std", "--target", TARGET]);
        }
        cmd.args(["--package", self.package]).args(self.target);
        cmd.arg("--target-dir").arg(root.join("target/verify").join(self.tool.name()));
        cmd.arg("--").args(self.filter);
        cmd.env("RUSTFLAGS", self.tool.rustflags()).env_remove("CARGO_ENCODED_RUSTFLAGS");
        cmd.env("RUST_BACKTRACE", "0");
        let var = match self.tool {
            // Isolation would keep the tests from the environment, where planted bugs are named.
            Tool::Miri => Some(("MIRIFLAGS", "-Zmiri-disable-isolation")),
            Tool::Tsan => Some(("TSAN_OPTIONS", "halt_on_error=1")),
            Tool::Shuttle if !short && std::env::var_os("SOCKEYE_RUNS").is_none() => Some(("SOCKEYE_RUNS", "10")),
            _ => None,
        };
        cmd.envs(var);
        if let Expect::Finding { plant, .. } = self.expect {
            cmd.env("SOCKEYE_PLANT", plant);
        }
        cmd
    }

    fn judge(&self, status: ExitStatus, said: &str) -> Result<usize, String> {
        let tests = passed(said);
        match self.expect {
            Expect::Clean if !status.success() => Err(format!("{status}")),
            Expect::Clean if tests == 0 => Err("no test was run".to_owned()),
            Expect::Clean => Ok(tests),
            Expect::Finding { plant, .. } if status.success() => Err(format!("{plant} was planted and not found")),
            Expect::Finding { words, .. } if words.iter().any(|w| said.contains(w)) => Ok(1),
            Expect::Finding { plant, words } => {
                Err(format!("{plant} was planted; {words:?} was to be said, and was not"))
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
const TARGET: &str = "aarch64-unknown-linux-gnu";
#[cfg(not(target_arch = "aarch64"))]
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The tests that passed, by the runner's own count.
fn passed(said: &str) -> usize {
    let count = |l: &str| l.strip_prefix("test result: ok. ")?.split(' ').next()?.parse::<usize>().ok();
    said.lines().filter_map(count).sum()
}

/// The last lines of a file, without the blocks of schedules.
fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().map(|l| format!("        {l}\n")).collect()
}
