//! Random stories of one connection, told to the kernel of this machine and to sockeye: what each sends and answers is compared.
//!
//! Interface: [`differ`], [`recorded`].
//! Linux counterpart: none.
//! Locks and context: each story runs in a thread of its own, as scripts do.
//!
//! tests/stories holds what the kernel did of some of them; a test tells them to sockeye alone. Time is real on the kernel: what it
//! does not do twice alike is no finding.

use super::exec::Variant;
use super::story::{Line, tell};
use super::{kernel, sockeye};

/// Microseconds by which what a timer does may differ.
const TOLERANCE: i64 = 14_000;

/// The first line that differs, if any.
fn difference(a: &[Line], b: &[Line]) -> Option<usize> {
    let same = |x: &Line, y: &Line| x.text == y.text && (x.at - y.at).abs() <= TOLERANCE;
    let n = a.len().max(b.len());
    (0..n).find(|&i| !matches!((a.get(i), b.get(i)), (Some(x), Some(y)) if same(x, y)))
}

fn on_kernel(variant: Variant, seed: u64) -> Result<Vec<Line>, String> {
    let run = move || kernel::Kernel::new(variant.mtu()).map(|k| tell(&k, variant, seed));
    std::thread::spawn(run).join().unwrap_or_else(|_| Err("panicked".to_owned()))
}

/// How a story of `seed` turns out.
pub enum Outcome {
    /// The same on both: its record.
    Alike(String),
    /// Both records, from a little before where they part.
    Different(String),
    /// The kernel's time is real: it does not do the same twice, or a timer is what differs.
    Unsure,
}

fn variant_of(seed: u64) -> Variant {
    [Variant::Ipv4, Variant::Ipv4, Variant::Ipv6, Variant::Mapped][(seed % 4) as usize]
}

fn on_sockeye(seed: u64) -> Result<Vec<Line>, String> {
    let variant = variant_of(seed);
    let run = move || sockeye::Sockeye::new(variant.mtu()).map(|s| tell(&s, variant, seed));
    std::thread::spawn(run).join().unwrap_or_else(|_| Err("panicked".to_owned()))
}

fn text(r: &[Line]) -> String {
    r.iter().map(|l| l.text.trim_end().to_owned() + "\n").collect()
}

/// What sockeye does of the story of `seed`, as tests/stories has it of the kernel.
pub fn recorded(seed: u64) -> Result<String, String> {
    on_sockeye(seed).map(|r| text(&r))
}

/// Tells the story of `seed` to both. The error says why the kernel cannot be asked.
pub fn differ(seed: u64) -> Result<Outcome, String> {
    let variant = variant_of(seed);
    let ours = on_sockeye(seed)?;
    let theirs = on_kernel(variant, seed)?;
    if difference(&ours, &theirs).is_none() {
        return Ok(Outcome::Alike(text(&ours)));
    }
    for _ in 0..2 {
        let again = on_kernel(variant, seed)?;
        if difference(&ours, &again).is_none() {
            return Ok(Outcome::Alike(text(&ours)));
        }
        if difference(&theirs, &again).is_some() {
            return Ok(Outcome::Unsure);
        }
    }
    let Some(at) = difference(&ours, &theirs) else { return Ok(Outcome::Alike(text(&ours))) };
    let by_timer = |r: &[Line]| r.get(at).is_some_and(|l| l.at > 2500);
    if by_timer(&ours) || by_timer(&theirs) {
        return Ok(Outcome::Unsure);
    }
    let show = |r: &[Line]| {
        let lines = r.iter().enumerate().skip(at.saturating_sub(14)).take(18);
        lines.map(|(i, l)| format!("{}{:7} {}\n", if i == at { "*" } else { " " }, l.at, l.text)).collect::<String>()
    };
    Ok(Outcome::Different(format!("seed {seed}, {variant:?}\nsockeye:\n{}kernel:\n{}", show(&ours), show(&theirs))))
}
