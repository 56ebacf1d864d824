//! The page that the benchmark writes: tables between marks in `docs/wan.md`, and the plots `docs/wan.svg`, `docs/wan-ratio.svg`.
//!
//! Interface: [`Row`], [`write`].
//! Linux counterpart: none.
//! Locks and context: a program.

use sockeye_tests::wan::Cell;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// One cell with what was measured on it, bits per second.
pub struct Row {
    pub cell: Cell,
    pub ours: f64,
    pub smoltcp: f64,
    pub kernel: Option<f64>,
    /// Jain's index; means something with several flows.
    pub jain: [Option<f64>; 2],
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        self.kernel.map(|k| self.ours / k)
    }
}

/// Three digits, or as many as the whole number has.
fn mbit(bits: f64) -> String {
    let m = bits / 1e6;
    match m {
        100.0.. => format!("{m:.0}"),
        10.0.. => format!("{m:.1}"),
        _ => format!("{m:.2}"),
    }
}

fn or_none(v: Option<String>) -> String {
    v.unwrap_or_else(|| "–".to_owned())
}

fn line(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

fn head(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    line(&names) + &format!("|---|{}\n", "---:|".repeat(names.len() - 1))
}

/// The troubles in the order in which the grid has them.
fn troubles(rows: &[Row]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for t in rows.iter().map(|r| r.cell.trouble()) {
        if !all.contains(&t) {
            all.push(t);
        }
    }
    all
}

/// What the page says of all cells together.
fn summary(rows: &[Row]) -> String {
    let mut ratios: Vec<f64> = rows.iter().filter_map(Row::ratio).collect();
    ratios.sort_by(f64::total_cmp);
    let at = |low: f64, high: f64| ratios.iter().filter(|r| (low..high).contains(*r)).count();
    let median = ratios.get(ratios.len() / 2).copied().unwrap_or(0.0);
    let beaten = rows.iter().filter(|r| r.ours >= r.smoltcp).count();
    format!(
        "{} cells, {} of them measured on the kernel too. Against the kernel: {} at least 5 % better, {} within 5 %, {} at \
         least 5 % worse; median ratio {median:.3}. Against smoltcp: at least equal in {beaten} of {}.\n",
        rows.len(),
        ratios.len(),
        at(1.05, f64::INFINITY),
        at(0.95, 1.05),
        at(0.0, 0.95),
        rows.len()
    )
}

fn grid_table(rows: &[Row]) -> String {
    let mut out = String::new();
    for t in troubles(rows) {
        let _ = write!(out, "\n### {t}\n\n");
        out += &head(&["rate, round trip", "limit", "CUBIC's law", "sockeye", "smoltcp", "kernel", "sockeye / kernel"]);
        for r in rows.iter().filter(|r| r.cell.trouble() == t) {
            let law = (r.cell.law() < r.cell.limit()).then(|| mbit(r.cell.law()));
            out += &line(&[
                r.cell.line(),
                mbit(r.cell.limit()),
                or_none(law),
                mbit(r.ours),
                mbit(r.smoltcp),
                or_none(r.kernel.map(mbit)),
                or_none(r.ratio().map(|x| format!("{x:.2}"))),
            ]);
        }
    }
    out
}

fn fair_table(rows: &[Row]) -> String {
    let mut out = head(&["two flows", "sockeye", "kernel", "sockeye's index", "kernel's index"]);
    for r in rows {
        let [ours, kernel] = r.jain.map(|j| or_none(j.map(|j| format!("{j:.3}"))));
        out += &line(&[r.cell.name(), mbit(r.ours), or_none(r.kernel.map(mbit)), ours, kernel]);
    }
    out
}

fn docs() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs"))
}

/// Rewrites the page's tables and the plots.
pub fn write(grid: &[Row], fair: &[Row]) {
    let page = docs().join("wan.md");
    let mut text = std::fs::read_to_string(&page).unwrap_or_else(|e| panic!("{}: {e}", page.display()));
    for (name, table) in [("summary", summary(grid)), ("grid", grid_table(grid)), ("fairness", fair_table(fair))] {
        let (begin, end) =
            (format!("<!-- {name}: written by `cargo xtask bench wan` -->\n"), format!("<!-- end of {name} -->\n"));
        let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("the mark before {name}"));
        let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("the mark after {name}"));
        text = format!("{before}{begin}\n{table}\n{end}{after}");
    }
    save(&page, &text);
    save(&docs().join("wan.svg"), &panels(grid));
    save(&docs().join("wan-ratio.svg"), &ratios(grid));
}

fn save(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

const STYLE: &str = "text{font:11px sans-serif;fill:#333}.t{font-weight:bold}.m{text-anchor:middle}.e{text-anchor:end}\
path{fill:none}.g{stroke:#ddd}.l{stroke-width:1.6}.s{stroke:#b03a2e}.k{stroke:#1f618d}.o{stroke:#7d8a2e}\
circle{fill:#b03a2e}.w{fill:#e8f0e8}";

const WIDTH: f64 = 150.0;
const HEIGHT: f64 = 84.0;

fn svg(width: f64, height: f64, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\">\n<style>{STYLE}</style>\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n{body}</svg>\n"
    )
}

/// A panel for each trouble and rate: the share of the limit that each stack gets, over the round trip.
fn panels(rows: &[Row]) -> String {
    let troubles = troubles(rows);
    let mut rates: Vec<u64> = rows.iter().map(|r| r.cell.rate).collect();
    rates.sort_unstable();
    rates.dedup();
    let mut out = String::new();
    let (left, top) = (190.0, 60.0);
    let legend = [("s", "sockeye"), ("k", "kernel"), ("o", "smoltcp")];
    for (i, (class, name)) in legend.iter().enumerate() {
        let x = left + 110.0 * i as f64;
        let _ = writeln!(out, r#"<path d="M{x} 16H{}" class="l {class}"/>"#, x + 24.0);
        let _ = writeln!(out, r#"<text x="{}" y="20">{name}</text>"#, x + 30.0);
    }
    for (c, rate) in rates.iter().enumerate() {
        let x = left + (WIDTH + 30.0) * c as f64 + WIDTH / 2.0;
        let _ = writeln!(out, r#"<text x="{x}" y="46" class="t m">{}</text>"#, sockeye_tests::wan::rate(*rate));
    }
    for (t, trouble) in troubles.iter().enumerate() {
        let y = top + (HEIGHT + 34.0) * t as f64;
        let _ = writeln!(out, r#"<text x="10" y="{}" class="t">{trouble}</text>"#, y + HEIGHT / 2.0);
        for (c, rate) in rates.iter().enumerate() {
            let mut of: Vec<&Row> =
                rows.iter().filter(|r| r.cell.rate == *rate && r.cell.trouble() == *trouble).collect();
            of.sort_by_key(|r| r.cell.rtt);
            if !of.is_empty() {
                panel(&mut out, left + (WIDTH + 30.0) * c as f64, y, &of);
            }
        }
    }
    svg(left + (WIDTH + 30.0) * rates.len() as f64, top + (HEIGHT + 34.0) * troubles.len() as f64, &out)
}

fn panel(out: &mut String, left: f64, top: f64, rows: &[&Row]) {
    let x = |i: usize| left + WIDTH * (i as f64 + 0.5) / rows.len() as f64;
    let y = |share: f64| top + HEIGHT * (1.0 - share.clamp(0.0, 1.0));
    for share in [0.0, 0.5, 1.0] {
        let _ = writeln!(out, r#"<path d="M{left} {:.1}H{:.1}" class="g"/>"#, y(share), left + WIDTH);
        let _ = writeln!(out, r#"<text x="{}" y="{:.1}" class="e">{share}</text>"#, left - 4.0, y(share) + 4.0);
    }
    for (i, r) in rows.iter().enumerate() {
        let ms = r.cell.rtt / 1_000_000;
        let _ = writeln!(out, r#"<text x="{:.1}" y="{:.1}" class="m">{ms} ms</text>"#, x(i), top + HEIGHT + 14.0);
    }
    let values: [(&str, Vec<Option<f64>>); 3] = [
        ("o", rows.iter().map(|r| Some(r.smoltcp)).collect()),
        ("k", rows.iter().map(|r| r.kernel).collect()),
        ("s", rows.iter().map(|r| Some(r.ours)).collect()),
    ];
    for (class, v) in values {
        let points: Vec<String> = v
            .iter()
            .enumerate()
            .filter_map(|(i, v)| Some(format!("{:.1} {:.1}", x(i), y((*v)? / rows[i].cell.limit()))))
            .collect();
        if !points.is_empty() {
            let _ = writeln!(out, r#"<path d="M{}" class="l {class}"/>"#, points.join("L"));
        }
    }
}

/// All cells by their ratio to the kernel.
fn ratios(rows: &[Row]) -> String {
    let mut all: Vec<(f64, String)> = rows.iter().filter_map(|r| Some((r.ratio()?, r.cell.name()))).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (left, top, width, height) = (50.0, 40.0, 700.0, 260.0);
    let y = |ratio: f64| top + height * (1.0 - (ratio.clamp(0.5, 2.0).log2() + 1.0) / 2.0);
    let mut out = String::new();
    let _ = writeln!(
        out,
        r#"<text x="{left}" y="22" class="t">goodput of sockeye by the kernel's, cell by cell (band: within 5 %)</text>"#
    );
    let _ = writeln!(
        out,
        r#"<rect x="{left}" y="{:.1}" width="{width}" height="{:.1}" class="w"/>"#,
        y(1.05),
        y(0.95) - y(1.05)
    );
    for r in [0.5, 0.7, 1.0, 1.4, 2.0] {
        let _ = writeln!(out, r#"<path d="M{left} {:.1}H{}" class="g"/>"#, y(r), left + width);
        let _ = writeln!(out, r#"<text x="{}" y="{:.1}" class="e">{r}</text>"#, left - 6.0, y(r) + 4.0);
    }
    for (i, (ratio, name)) in all.iter().enumerate() {
        let x = left + width * (i as f64 + 0.5) / all.len() as f64;
        let _ = writeln!(
            out,
            r#"<circle cx="{x:.1}" cy="{:.1}" r="2.5"><title>{name}: {ratio:.2}</title></circle>"#,
            y(*ratio)
        );
    }
    svg(left + width + 20.0, top + height + 20.0, &out)
}
