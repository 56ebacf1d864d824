//! Goodput on bad networks: this stack and smoltcp in virtual time, the kernel in real time, on the same networks.
//!
//! Interface: `cargo xtask bench wan [--cc=NAME] [--seeds=N] [--fresh | --ours] [--fair | --trace] [WORD...]`.
//! Linux counterpart: none.
//! Locks and context: a program; as root, for the kernel's part.
//!
//! Without words it rewrites `docs/wan.md` and its plots. The kernel's figures are kept in `docs/wan-kernel.csv` and measured
//! where there are none, or with `--fresh`; `--ours` goes without. Words choose cells by their names, and the results are
//! printed only; `--fair` takes the cells with two flows. `--trace` prints how both stacks fare on a cell, step by step.

#[path = "wan/jobs.rs"]
mod jobs;
#[path = "wan/kernel.rs"]
mod kernel;
#[path = "wan/page.rs"]
mod page;
#[path = "wan/smol.rs"]
mod smol;
#[path = "wan/trace.rs"]
mod trace;

use page::Row;
use sockeye_tests::wan::{Cell, Loss, Options, Outcome, fairness, grid, jain, simulate};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bits per second that can be carried in real time. On a faster line are those cells measured whose losses keep a flow below
/// that.
const REAL_TIME: f64 = 1e9;

struct Asked {
    congestion: String,
    seeds: u64,
    fresh: bool,
    ours: bool,
}

fn main() {
    let (flags, words): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).filter(|a| a != "--bench").partition(|a| a.starts_with("--"));
    let value = |name: &str| flags.iter().find_map(|f| f.strip_prefix(name)?.strip_prefix('=').map(str::to_owned));
    let has = |name: &str| flags.iter().any(|f| f == name);
    let asked = Asked {
        congestion: value("--cc").unwrap_or("cubic".to_owned()),
        seeds: value("--seeds").map_or(3, |s| s.parse().expect("--seeds wants a number")),
        fresh: has("--fresh"),
        ours: has("--ours"),
    };
    let choose = |mut cells: Vec<Cell>| {
        cells.retain(|c| words.iter().all(|w| c.name().contains(w.as_str())));
        cells
    };
    let chosen = choose(if has("--fair") { fairness() } else { grid() });
    if has("--trace") {
        return chosen.iter().for_each(|c| trace::trace(c, &asked.congestion, asked.seeds));
    }
    if words.is_empty() && !has("--fair") {
        return page::write(&rows(&grid(), &asked), &rows(&fairness(), &asked));
    }
    rows(&chosen, &asked);
}

/// Measures cells, and prints each.
fn rows(cells: &[Cell], asked: &Asked) -> Vec<Row> {
    let real: Vec<Cell> = cells.iter().filter(|c| c.law() <= REAL_TIME).cloned().collect();
    let seeds = if asked.ours { 0 } else { asked.seeds };
    let kernels = jobs::kernels(&real, &asked.congestion, seeds, asked.fresh);
    let (next, done) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|s| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            s.spawn(|| {
                while let Some((i, c)) = Some(next.fetch_add(1, Relaxed)).and_then(|i| Some((i, cells.get(i)?))) {
                    let r = row(c, asked, &kernels);
                    done.lock().expect("no panic").insert(i, r);
                }
            });
        }
    });
    done.into_inner().expect("no panic").into_values().collect()
}

/// The seeds of a cell: those that the kernel was measured with, so that all stacks lose the same; or else those asked for.
/// One is enough where nothing is left to chance.
fn seeds(c: &Cell, asked: &Asked, kernels: &jobs::Results) -> Vec<u64> {
    let name = c.name();
    let real: Vec<u64> = kernels.keys().filter(|k| k.0 == name && k.1 == asked.congestion).map(|k| k.2).collect();
    let chance = c.loss != Loss::None || c.reorder > 0 || c.ack_loss > 0 || c.flows.len() > 1;
    match (chance, real.is_empty()) {
        (false, _) => vec![1],
        (true, false) => real,
        // No kernel is beside it and a run takes long.
        (true, true) => (1..=if c.law() <= REAL_TIME { asked.seeds } else { 1 }).collect(),
    }
}

fn mean(v: &[f64]) -> f64 {
    v.iter().sum::<f64>() / v.len() as f64
}

fn row(c: &Cell, asked: &Asked, kernels: &jobs::Results) -> Row {
    let virt = seeds(c, asked, kernels);
    let runs: Vec<Outcome> = virt.iter().map(|s| simulate(c, &Options::new(&asked.congestion, *s))).collect();
    let of = |f: fn(&Outcome) -> f64| mean(&runs.iter().map(f).collect::<Vec<_>>());
    let smol: Vec<f64> = virt.iter().map(|s| smol::simulate(c, *s).goodput()).collect();
    let of_cell = |k: &jobs::Key| k.0 == c.name() && k.1 == asked.congestion;
    let real: Vec<&Vec<f64>> = kernels.iter().filter(|(k, _)| of_cell(k)).map(|(_, v)| v).collect();
    let kernel =
        |f: &dyn Fn(&[f64]) -> f64| (!real.is_empty()).then(|| mean(&real.iter().map(|v| f(v)).collect::<Vec<_>>()));
    let r = Row {
        cell: c.clone(),
        ours: of(Outcome::goodput),
        smoltcp: mean(&smol),
        kernel: kernel(&|v| v.iter().sum()),
        jain: [Some(of(Outcome::jain)), kernel(&jain)],
    };
    let kernel = r.kernel.unwrap_or(f64::NAN);
    println!(
        "{:55} limit {:8.1} law {:8.1} sockeye {:8.2} smoltcp {:8.2} kernel {:8.2} ratio {:.3} fairness {:.3} {:.3}",
        c.name(),
        c.limit() / 1e6,
        c.law() / 1e6,
        r.ours / 1e6,
        r.smoltcp / 1e6,
        kernel / 1e6,
        r.ours / kernel,
        r.jain[0].unwrap_or(f64::NAN),
        r.jain[1].unwrap_or(f64::NAN),
    );
    r
}
