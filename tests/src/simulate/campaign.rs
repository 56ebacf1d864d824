//! Many seeds, until one fails.
//!
//! Interface: [`main`], for the program `simulate`; [`check`], [`shrunk`].
//! Linux counterpart: none.
//! Locks and context: none.

use crate::simulate::report::Report;
use crate::simulate::run::run;
use crate::simulate::scenario::{Plan, Plant, SEC, Scenario};
use crate::simulate::shrink::shrink;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

const USAGE: &str = "\
usage: simulate [--seed N] [--seeds N] [--hosts N] [--time SECONDS] [--twice]
                [--talks N,N,... | none] [--faults N,N,... | none] [--preempt N] [--tries N]

  --seed      the first seed (1)
  --seeds     how many seeds, one after the other (1)
  --hosts     hosts on the network (1000)
  --time      virtual seconds in which they talk (3600)
  --twice     run each twice and compare the histories
  --talks, --faults   only these conversations and faults of the seed
  --preempt   force a switch at each so manieth checkpoint, on average
  --tries     runs that shrinking a failure may take (300)
";

struct Options {
    plan: Plan,
    seeds: u64,
    twice: bool,
    tries: usize,
}

/// Prints a line; nobody may be reading any more.
macro_rules! say {
    ($($t:tt)*) => {{
        let _ = std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{}\n", format_args!($($t)*)));
    }};
}

/// The program: `0` if all seeds are well; else the smallest failing scenario and how to repeat it.
pub fn main(args: impl Iterator<Item = String>) -> ExitCode {
    let args: Vec<String> = args.collect();
    if args.iter().any(|a| a == "--help" || a == "-h") {
        say!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let o = match parse(args.into_iter()) {
        Ok(o) => o,
        Err(e) => {
            eprintln!("{e}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    for seed in o.plan.seed..o.plan.seed.saturating_add(o.seeds) {
        let plan = Plan { seed, ..o.plan.clone() };
        let start = Instant::now();
        match check(&plan, o.twice) {
            Ok(r) => show(&plan, &r, start.elapsed().as_secs_f64(), o.twice),
            Err(why) => {
                say!("seed {seed} fails:\n{why}\n\nshrinking ...");
                say!("{}", shrunk(&plan, o.tries));
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// Runs a plan; what was wrong, if anything was.
pub fn check(plan: &Plan, twice: bool) -> Result<Report, String> {
    let s = Scenario::new(plan);
    let once = || catch_unwind(AssertUnwindSafe(|| run(&s))).map_err(panic_text);
    let r = once()?;
    if !r.problems.is_empty() {
        return Err(r.problems.join("\n"));
    }
    if twice {
        let again = once()?;
        if again != r {
            return Err(format!("two runs differ:\n{r:?}\n{again:?}"));
        }
    }
    Ok(r)
}

fn panic_text(p: Box<dyn std::any::Any + Send>) -> String {
    let s = p.downcast_ref::<String>().cloned();
    s.or_else(|| p.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_else(|| "a panic".to_owned())
}

/// The smallest scenario that still fails, why, and the command that repeats it.
pub fn shrunk(plan: &Plan, tries: usize) -> String {
    // Each try would tell of its panic.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let small = shrink(plan, tries, |p| check(p, false).is_err());
    std::panic::set_hook(hook);
    let why = check(&small, false).err().unwrap_or_default();
    format!(
        "the smallest that fails:\n{}\n{why}\n\nrepeat with:\n  cargo xtask simulate {small}",
        Scenario::new(&small)
    )
}

fn show(plan: &Plan, r: &Report, took: f64, twice: bool) {
    let runs = if twice { 2.0 } else { 1.0 };
    say!(
        "seed {}: {} conversations, {} complete, {} broken by faults; {} MB received, {} packets, {} sent again; \
         {} s of virtual time, {} steps, trace {:016x}{}; {took:.1} s, {:.0} packets/s",
        plan.seed,
        r.talks,
        r.completed,
        r.broken,
        r.bytes / 1_000_000,
        r.packets,
        r.retransmitted,
        r.over_at / SEC,
        r.steps,
        r.trace_hash,
        if twice { ", twice the same" } else { "" },
        runs * r.packets as f64 / took,
    );
    for (ending, n) in &r.endings {
        say!("    {n:4} broken: {ending}");
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut o = Options { plan: Plan::new(1, 1000, 3600), seeds: 1, twice: false, tries: 300 };
    while let Some(a) = args.next() {
        let mut value = || args.next().ok_or(format!("{a} wants a value"));
        let number = |v: String| v.parse::<u64>().map_err(|_| format!("{a}: {v:?} is not a number"));
        match a.as_str() {
            "--seed" => o.plan.seed = number(value()?)?,
            "--seeds" => o.seeds = number(value()?)?,
            // Addresses have room for 250 LANs.
            "--hosts" => o.plan.hosts = number(value()?)?.clamp(2, 6000) as u32,
            "--time" => o.plan.time = number(value()?)?.max(1),
            "--tries" => o.tries = number(value()?)? as usize,
            "--preempt" => o.plan.preempt = Some(number(value()?)?.max(1) as u32),
            "--twice" => o.twice = true,
            "--talks" => o.plan.talks = Some(list(&value()?)?),
            "--faults" => o.plan.faults = Some(list(&value()?)?),
            "--plant" => {
                o.plan.plant = Some(match value()?.as_str() {
                    "lost-byte" => Plant::LostByte,
                    "leaked-timer" => Plant::LeakedTimer,
                    other => return Err(format!("there is no plant {other:?}")),
                })
            }
            _ => return Err(format!("there is no option {a:?}")),
        }
    }
    Ok(o)
}

fn list(s: &str) -> Result<Vec<u32>, String> {
    match s {
        "none" => Ok(Vec::new()),
        s => s.split(',').map(|n| n.parse().map_err(|_| format!("{n:?} is not a number"))).collect(),
    }
}
