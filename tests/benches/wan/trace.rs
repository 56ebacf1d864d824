//! Both stacks on one cell, step by step: where they differ.
//!
//! Interface: [`trace`].
//! Linux counterpart: `ss -ti`, `nstat`.
//! Locks and context: a program.

use crate::kernel;
use sockeye_tests::wan::{Cell, Options, Outcome, Sample, simulate};

/// Prints how a flow on each stack fares, a hundredth of the time to a line, and the counters that differ.
pub fn trace(c: &Cell, congestion: &str, seed: u64) {
    let o = Options { sample: c.time() / 100, ..Options::new(congestion, seed) };
    let (ours, (kernel, late)) = (simulate(c, &o), kernel::measure(c, &o));
    println!("{}: {:.3} % of the kernel's frames were late", c.name(), late * 100.0);
    for (who, out) in [("sockeye", &ours), ("kernel", &kernel)] {
        println!("{who}: {:.3} Mbit/s, {:?}", out.goodput() / 1e6, out.wire);
        out.samples.iter().for_each(|s| println!("{who:7} {}", line(s)));
    }
    counters(&ours, &kernel);
}

fn line(s: &Sample) -> String {
    let i = &s.info;
    format!(
        "{:7.3} flow {} bytes {:10} cwnd {:5} ssthresh {:10} unacked {:5} lost {:4} retrans {:3} sacked {:4} reordering {:3} \
         srtt {:6} min {:6} rto {:7} ca {} snd_wnd {} rwnd_limited {} sndbuf_limited {} notsent {} total_retrans {} pacing {}",
        s.at as f64 / 1e9,
        s.flow,
        s.bytes,
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
    )
}

fn counters(ours: &Outcome, kernel: &Outcome) {
    let find = |o: &Outcome, n: &str| o.counters.iter().find(|c| c.0 == n).map_or(0, |c| c.1);
    let mut names: Vec<&String> = ours.counters.iter().chain(&kernel.counters).map(|c| &c.0).collect();
    names.sort();
    names.dedup();
    for n in names {
        let (a, b) = (find(ours, n), find(kernel, n));
        if a != b {
            println!("{n:45} sockeye {a:10} kernel {b:10}");
        }
    }
}
