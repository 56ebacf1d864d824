//! The page that the benchmark writes: a table between marks in `docs/napi.md`, and the plot `docs/napi.svg`.
//!
//! Interface: [`Row`], [`write`].
//! Linux counterpart: none.
//! Locks and context: a program.

use std::fmt::Write;
use std::path::{Path, PathBuf};

const BEGIN: &str = "<!-- tap table: written by `cargo xtask bench napi` -->\n";
const END: &str = "<!-- end of tap table -->\n";

/// What was measured at one rate; numbers are per second.
pub struct Row {
    pub name: String,
    pub offered: f64,
    pub received: f64,
    pub read: f64,
    pub interrupts: f64,
    pub polls: f64,
    pub per_packet: f64,
    pub packets_per_poll: f64,
    pub trips: f64,
    /// Per cent.
    pub answered: f64,
}

const HEADS: [&str; 10] = [
    "rate asked for",
    "offered/s",
    "received/s",
    "read by the program/s",
    "interrupts/s",
    "interrupts per packet",
    "polls/s",
    "packets per poll",
    "round trips/s of another socket",
    "answered on the flooded device",
];

impl Row {
    pub fn cells(&self) -> Vec<String> {
        let none = || "–".to_owned();
        let ratio = |r: f64| {
            if self.received < 1.0 {
                none()
            } else if r < 0.1 {
                format!("{r:.4}")
            } else {
                format!("{r:.2}")
            }
        };
        vec![
            self.name.clone(),
            count(self.offered),
            count(self.received),
            count(self.read),
            count(self.interrupts),
            ratio(self.per_packet),
            count(self.polls),
            if self.polls < 1.0 { none() } else { format!("{:.1}", self.packets_per_poll) },
            count(self.trips),
            format!("{:.0} %", self.answered),
        ]
    }
}

/// The medians of row `i` of several series.
pub fn median(series: &[Vec<Row>], i: usize) -> Row {
    let of = |f: fn(&Row) -> f64| {
        let mut all: Vec<f64> = series.iter().map(|rows| f(&rows[i])).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    Row {
        name: series[0][i].name.clone(),
        offered: of(|r| r.offered),
        received: of(|r| r.received),
        read: of(|r| r.read),
        interrupts: of(|r| r.interrupts),
        polls: of(|r| r.polls),
        per_packet: of(|r| r.per_packet),
        packets_per_poll: of(|r| r.packets_per_poll),
        trips: of(|r| r.trips),
        answered: of(|r| r.answered).min(100.0),
    }
}

/// With commas between thousands.
fn count(n: f64) -> String {
    let digits = format!("{n:.0}");
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// Rewrites the page's table and the plot.
pub fn write(rows: &[Row]) {
    let docs = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs"));
    let page = docs.join("napi.md");
    let text = std::fs::read_to_string(&page).unwrap_or_else(|_| format!("{BEGIN}{END}"));
    let (head, rest) = text.split_once(BEGIN).expect("the mark before the table");
    let (_, tail) = rest.split_once(END).expect("the mark after the table");
    save(&page, &format!("{head}{BEGIN}\n{}\n{END}{tail}", table(rows)));
    save(&docs.join("napi.svg"), &plot(rows));
}

fn save(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn table(rows: &[Row]) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let heads = line(HEADS.map(str::to_owned).to_vec());
    let rule = format!("|---|{}\n", "---:|".repeat(HEADS.len() - 1));
    rows.iter().fold(heads + &rule, |out, r| out + &line(r.cells()))
}

/// A panel: its frame, and its axes in powers of ten.
struct Panel {
    top: f64,
    height: f64,
    x: (i32, i32),
    y: (i32, i32),
}

const LEFT: f64 = 90.0;
const WIDTH: f64 = 600.0;

impl Panel {
    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let along =
            |v: f64, (from, to): (i32, i32)| ((v.max(1e-9).log10() - from as f64) / (to - from) as f64).clamp(0.0, 1.0);
        (LEFT + WIDTH * along(x, self.x), self.top + self.height * (1.0 - along(y, self.y)))
    }

    fn frame(&self, out: &mut String, title: &str) {
        let (top, height) = (self.top, self.height);
        let _ = writeln!(out, r#"<text x="{LEFT}" y="{}" class="t">{title}</text>"#, top - 12.0);
        for p in self.x.0..=self.x.1 {
            let (x, _) = self.at(10f64.powi(p), 1.0);
            let (y1, y2) = (top, top + height);
            let _ = writeln!(out, r#"<path d="M{x:.1} {y1}V{y2}" class="g"/>"#);
            let _ = writeln!(out, r#"<text x="{x:.1}" y="{}" class="m">{}</text>"#, y2 + 18.0, power(p));
        }
        for p in self.y.0..=self.y.1 {
            let (_, y) = self.at(1.0, 10f64.powi(p));
            let _ = writeln!(out, r#"<path d="M{LEFT} {y:.1}H{}" class="g"/>"#, LEFT + WIDTH);
            let _ = writeln!(out, r#"<text x="{}" y="{:.1}" class="e">{}</text>"#, LEFT - 8.0, y + 4.0, power(p));
        }
    }

    /// A line through the points, and a mark at each; hollow ones are `back`.
    fn line(&self, out: &mut String, class: &str, points: &[(f64, f64)], back: &[(f64, f64)]) {
        let path: Vec<_> = points.iter().map(|&(x, y)| self.at(x, y)).map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        let _ = writeln!(out, r#"<path d="M{}" class="{class}"/>"#, path.join("L"));
        for (p, kind) in points.iter().map(|p| (p, "full")).chain(back.iter().map(|p| (p, "hollow"))) {
            let (x, y) = self.at(p.0, p.1);
            let _ = writeln!(out, r#"<circle cx="{x:.1}" cy="{y:.1}" r="4.5" class="{class} {kind}"/>"#);
        }
    }
}

fn power(p: i32) -> String {
    match p {
        0.. => count(10f64.powi(p)),
        _ => format!("{:.*}", p.unsigned_abs() as usize, 10f64.powi(p)),
    }
}

const STYLE: &str = "text{font:13px sans-serif;fill:#333}.t{font-weight:bold}.m{text-anchor:middle}.e{text-anchor:end}\
path{fill:none}.g{stroke:#ddd}.a{stroke:#b03a2e;stroke-width:2}.b{stroke:#1f618d;stroke-width:2}.full.a{fill:#b03a2e}\
.full.b{fill:#1f618d}.hollow{fill:#fff}";

/// Interrupts per packet over the offered rate, and below it what is left for the other socket.
fn plot(rows: &[Row]) -> String {
    let flooded = |r: &&Row| r.offered >= 1.0;
    let back = |r: &&Row| r.name.ends_with("again");
    let (after, rise): (Vec<&Row>, Vec<&Row>) = rows.iter().filter(flooded).partition(back);
    let points = |rows: &[&Row], y: fn(&Row) -> f64| rows.iter().map(|r| (r.offered, y(r))).collect::<Vec<_>>();
    let mut out = String::new();
    let _ = writeln!(out, r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 730 660">"#);
    let _ = writeln!(out, r##"<style>{STYLE}</style><rect width="730" height="660" fill="#fff"/>"##);
    let upper = Panel { top: 50.0, height: 260.0, x: (3, 6), y: (-4, 0) };
    upper.frame(&mut out, "interrupts per packet (hollow: after the flood)");
    upper.line(&mut out, "a", &points(&rise, |r| r.per_packet), &points(&after, |r| r.per_packet));
    let lower = Panel { top: 380.0, height: 210.0, x: (3, 6), y: (2, 5) };
    lower.frame(&mut out, "round trips per second of another socket, meanwhile");
    lower.line(&mut out, "b", &points(&rise, |r| r.trips), &points(&after, |r| r.trips));
    let _ = writeln!(out, r#"<text x="{}" y="640" class="m">datagrams offered per second</text>"#, LEFT + WIDTH / 2.0);
    out.push_str("</svg>\n");
    out
}
