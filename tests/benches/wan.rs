//! Goodput on bad networks: this stack and smoltcp in virtual time, the kernel in real time, on the same networks.
//!
//! Interface: `cargo xtask bench wan [WORD...]`.
//! Linux counterpart: none.
//! Locks and context: a program.

#[path = "wan/jobs.rs"]
mod jobs;
#[path = "wan/kernel.rs"]
mod kernel;
#[path = "wan/smol.rs"]
mod smol;

use sockeye_tests::wan::{Cell, Options, Outcome, Sample, fairness, grid, simulate};

fn main() {
    let (flags, words): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).filter(|a| a != "--bench").partition(|a| a.starts_with("--"));
    let value = |name: &str| flags.iter().find_map(|f| f.strip_prefix(name)?.strip_prefix('=').map(str::to_owned));
    let has = |name: &str| flags.iter().any(|f| f == name);
    let seeds: u64 = value("--seeds").map_or(3, |s| s.parse().expect("a number"));
    let cc = value("--cc").unwrap_or("cubic".to_owned());
    let mut cells = if has("--fair") { fairness() } else { grid() };
    cells.retain(|c| words.iter().all(|w| c.name().contains(w.as_str())));
    if has("--trace") {
        return cells.iter().for_each(|c| trace(c, &cc, seeds));
    }
    let real: Vec<Cell> = cells.iter().filter(|c| c.rate <= 1_000_000_000 && !has("--ours")).cloned().collect();
    let kernels = jobs::kernels(&real, &cc, if has("--ours") { 0 } else { seeds }, has("--fresh"));
    for c in &cells {
        let runs: Vec<Outcome> = (1..=seeds).map(|s| simulate(c, &Options::new(&cc, s))).collect();
        let ours = runs.iter().map(Outcome::goodput).sum::<f64>() / seeds as f64;
        let k: Vec<&Vec<f64>> = (1..=seeds).filter_map(|s| kernels.get(&(c.name(), cc.clone(), s))).collect();
        let kernel = k.iter().map(|v| v.iter().sum::<f64>()).sum::<f64>() / k.len().max(1) as f64;
        let jain = |v: &[f64]| v.iter().sum::<f64>().powi(2) / (v.len() as f64 * v.iter().map(|x| x * x).sum::<f64>());
        let smol = smol::simulate(c, 1).goodput();
        let kj = k.iter().map(|v| jain(v)).sum::<f64>() / k.len().max(1) as f64;
        let oj = runs.iter().map(Outcome::jain).sum::<f64>() / seeds as f64;
        println!(
            "{:55} limit {:8.1} law {:8.1} ours {:8.2} kernel {:8.2} smol {:8.2} ratio {:.3} jain {oj:.3} {kj:.3} {}",
            c.name(),
            c.limit() / 1e6,
            c.law() / 1e6,
            ours / 1e6,
            kernel / 1e6,
            smol / 1e6,
            ours / kernel,
            if ours < 0.95 * kernel { "WORSE" } else { "" }
        );
    }
}

/// Both stacks' progress on a cell, side by side.
fn trace(c: &Cell, cc: &str, seed: u64) {
    let o = Options { sample: c.time() / 100, ..Options::new(cc, seed) };
    let (ours, kernel) = (simulate(c, &o), kernel::measure(c, &o));
    for (who, out) in [("ours", &ours), ("kernel", &kernel)] {
        println!("{who}: {} {:.3} Mbit/s {:?}", c.name(), out.goodput() / 1e6, out.wire);
        for Sample { at, flow, bytes, info: i } in &out.samples {
            println!(
                "{who} {:8.3} {flow} bytes {bytes:10} cwnd {:5} ssthresh {:10} unacked {:5} lost {:4} retrans {:3} sacked {:4} reord {:3} srtt {:6} min {:6} rto {:7} ca {} snd_wnd {} rwnd_lim {} snd_lim {} notsent {} total {} pacing {}",
                *at as f64 / 1e9,
                i.tcpi_snd_cwnd,
                i.tcpi_snd_ssthresh,
                i.tcpi_unacked,
                i.tcpi_lost,
                i.tcpi_retrans,
                i.tcpi_sacked,
                i.tcpi_reordering,
                i.tcpi_rtt,
                i.tcpi_min_rtt,
                i.tcpi_rto,
                i.tcpi_ca_state,
                i.tcpi_snd_wnd,
                i.tcpi_rwnd_limited,
                i.tcpi_sndbuf_limited,
                i.tcpi_notsent_bytes,
                i.tcpi_total_retrans,
                i.tcpi_pacing_rate
            );
        }
    }
    let find = |all: &[(String, u64)], n: &str| all.iter().find(|c| c.0 == n).map_or(0, |c| c.1);
    let mut names: Vec<&String> = ours.counters.iter().chain(&kernel.counters).map(|c| &c.0).collect();
    names.sort();
    names.dedup();
    for n in names {
        println!("{n:45} ours {:10} kernel {:10}", find(&ours.counters, n), find(&kernel.counters, n));
    }
}
