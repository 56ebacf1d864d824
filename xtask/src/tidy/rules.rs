//! The rules: who may name whom, and what every file must have.
//!
//! Interface: [`check_manifest`], [`check_layers`], [`check_file`].
//! Linux counterpart: `scripts/checkpatch.pl`.
//! Locks and context: pure functions.

use super::Source;
use super::graph::Module;
use super::lexer::{blank, line_of, tokens, without_tests};

/// Which crate may depend on which of ours.
const CRATES: &[(&str, &[&str])] = &[
    ("crates/uapi", &[]),
    ("crates/kernel", &["uapi"]),
    ("crates/net", &["uapi", "kernel"]),
    ("crates/sim", &["uapi", "kernel", "net"]),
    ("crates/host", &["uapi", "kernel", "net"]),
    ("crates/packetdrill", &["uapi", "kernel", "net"]),
    ("crates/run", &["uapi", "kernel", "net", "host"]),
    ("crates/sockeye", &["uapi", "kernel", "net", "host"]),
    ("crates/cli", &["uapi", "kernel", "net", "host", "run", "sockeye"]),
    ("tests", &["uapi", "kernel", "net", "host", "sim", "run", "sockeye", "packetdrill"]),
    ("xtask", &[]),
];

/// Our crates, by the names under which others depend on them.
const OURS: &[&str] = &["uapi", "kernel", "net", "host", "run", "sim", "sockeye", "cli", "packetdrill"];

/// Which module of `crates/net` may name which; everything below a module goes with it. The stack is a cycle at run time,
/// so the only way up is a table that the upper layer registers itself in.
const NET_LAYERS: &[(&str, &[&str])] = &[
    ("hdr", &[]),
    ("core", &["hdr"]),
    ("security", &["hdr", "core"]),
    ("drivers", &["hdr", "core"]),
    ("socket", &["hdr", "core", "security"]),
    ("syscall", &["hdr", "core", "security", "socket"]),
    ("ipv4", &["hdr", "core", "security", "socket"]),
    ("ipv6", &["hdr", "core", "security", "socket", "ipv4"]),
    ("init", &["hdr", "core", "security", "socket", "drivers", "ipv4", "ipv6"]),
];

/// Files that are read as one: structures that hold references to each other, as their counterparts in C do. Within a knot
/// files may name each other; a file may leave this list but none should join it.
pub const KNOTS: &[&[&str]] = &[
    // A packet has a device, a route and a socket; each of them takes packets; all belong to a namespace, which has all.
    &[
        "crates/net/src/core/checksum.rs",
        "crates/net/src/core/dev/device.rs",
        "crates/net/src/core/dev/ptype.rs",
        "crates/net/src/core/dev/registry.rs",
        "crates/net/src/core/dev/softnet.rs",
        "crates/net/src/core/dst.rs",
        "crates/net/src/core/gro.rs",
        "crates/net/src/core/l3.rs",
        "crates/net/src/core/neighbour.rs",
        "crates/net/src/core/neighbour/entry.rs",
        "crates/net/src/core/neighbour/table.rs",
        "crates/net/src/core/net_namespace.rs",
        "crates/net/src/core/netfilter.rs",
        "crates/net/src/core/skbuff.rs",
        "crates/net/src/core/sock.rs",
    ],
];

/// Crates whose root must forbid `unsafe`.
const SAFE: &[&str] = &["crates/net/src/lib.rs", "crates/uapi/src/lib.rs", "crates/sockeye/src/lib.rs"];

/// What each file's opening comment must say, in this order, after a first line that says what the file is.
const HEADER: [&str; 3] = ["Interface:", "Linux counterpart:", "Locks and context:"];

/// Lines of a file before its tests that make a reader tired.
const LONG: usize = 800;

const FORBIDDEN_MACROS: [&str; 3] = ["todo", "unimplemented", "dbg"];

/// What is wrong with a file.
#[derive(Default)]
pub struct Verdict {
    pub errors: Vec<String>,
    pub warnings: Vec<String>,
}

/// A crate may only depend on crates below it. Its tests may use more.
pub fn check_manifest(dir: &str, toml: &str) -> Vec<String> {
    let Some((_, allowed)) = CRATES.iter().find(|(d, _)| *d == dir) else {
        return vec![format!("{dir}/Cargo.toml:1: a crate that tidy's table of layers does not know")];
    };
    let mut bad = Vec::new();
    let mut section = "";
    for (n, line) in toml.lines().enumerate() {
        if let Some(s) = line.trim().strip_prefix('[') {
            section = s.trim_end_matches(']');
            continue;
        }
        let name = line.split(['=', '.']).next().unwrap_or("").trim();
        let dependency = section.ends_with("dependencies") && !section.ends_with("dev-dependencies");
        if dependency && OURS.contains(&name) && !allowed.contains(&name) {
            bad.push(format!("{dir}/Cargo.toml:{}: {dir} may not depend on {name}: it lies above", n + 1));
        }
    }
    bad
}

/// A module may only name modules below it.
pub fn check_layers(dir: &str, modules: &[Module]) -> Vec<String> {
    let table: &[(&str, &[&str])] = if dir == "crates/net" { NET_LAYERS } else { return Vec::new() };
    let mut bad = Vec::new();
    for m in modules {
        let Some(layer) = m.path.first() else { continue };
        let Some((_, allowed)) = table.iter().find(|(l, _)| l == layer) else {
            bad.push(format!("{}:1: a module that tidy's table of layers does not know", m.file));
            continue;
        };
        for (to, line) in &m.names {
            // The crate's root holds no code.
            let Some(target) = to.first() else { continue };
            if target != layer && !allowed.contains(&target.as_str()) {
                bad.push(format!("{}:{line}: {layer} may not name {}: register with a table", m.file, to.join("::")));
            }
        }
    }
    bad
}

/// Header, `SAFETY:` comments, unfinished code, length.
pub fn check_file(s: &Source) -> Verdict {
    let code = blank(&s.text);
    let mut v = Verdict::default();
    check_header(s, &mut v);
    check_unsafe(s, &code, &mut v);
    check_macros(s, &code, &mut v);
    if SAFE.contains(&s.path.as_str()) && !s.text.contains("#![forbid(unsafe_code)]") {
        v.errors.push(format!("{}:1: this crate's root must say #![forbid(unsafe_code)]", s.path));
    }
    let lines = without_tests(&code).trim_end().lines().count();
    if lines > LONG && !is_test(s) {
        v.warnings.push(format!("{}: {lines} lines before tests", s.path));
    }
    v
}

/// A file of nothing but tests; its first line says of what.
fn is_test(s: &Source) -> bool {
    let in_dir = |d: &str| s.inner.starts_with(d);
    in_dir("tests/") || in_dir("benches/") || s.inner.ends_with("/tests.rs") || s.inner.ends_with("_tests.rs")
}

fn check_header(s: &Source, v: &mut Verdict) {
    let mut header = s.text.lines().map_while(|l| l.strip_prefix("//!")).map(str::trim);
    if header.next().is_none_or(str::is_empty) {
        v.errors.push(format!("{}:1: the first line must say what the file is (//! ...)", s.path));
        return;
    }
    if is_test(s) {
        return;
    }
    for want in HEADER {
        if !header.any(|l| l.starts_with(want) && l.len() > want.len()) {
            v.errors.push(format!("{}:1: the opening comment must have a line \"//! {want} ...\", in order", s.path));
        }
    }
}

fn check_unsafe(s: &Source, code: &str, v: &mut Verdict) {
    let t = tokens(code);
    let lines: Vec<&str> = s.text.lines().collect();
    for (i, &(at, word)) in t.iter().enumerate() {
        if word != "unsafe" {
            continue;
        }
        let next = |n: usize| t.get(i + n).map_or("", |t| t.1);
        let needs_reason = match (next(1), next(2)) {
            ("{" | "impl", _) => true,
            // A declaration, not the type of a pointer.
            ("fn", name) => name != "(",
            _ => false,
        };
        let line = line_of(code, at);
        if needs_reason && !documented(&lines, line - 1) {
            v.errors.push(format!("{}:{line}: unsafe without a comment \"SAFETY:\" that says why it is sound", s.path));
        }
    }
}

/// Whether the reason stands on the line or above the statement it belongs to; a function's may be in its documentation.
fn documented(lines: &[&str], at: usize) -> bool {
    let has = |l: &str| l.find("//").is_some_and(|c| l[c..].contains("SAFETY:") || l[c..].contains("# Safety"));
    if lines.get(at).is_some_and(|l| has(l)) {
        return true;
    }
    for l in lines[..at].iter().rev() {
        let t = l.trim();
        if has(t) {
            return true;
        }
        let comment_or_attribute = t.starts_with("//") || t.starts_with("#[");
        // The line above ends another statement: what stands over it is not about this one.
        if !comment_or_attribute && (t.is_empty() || t.ends_with([';', '{', '}'])) {
            return false;
        }
    }
    false
}

fn check_macros(s: &Source, code: &str, v: &mut Verdict) {
    for w in tokens(code).windows(2) {
        if FORBIDDEN_MACROS.contains(&w[0].1) && w[1].1 == "!" {
            let line = line_of(code, w[0].0);
            v.errors.push(format!("{}:{line}: {}! is for unfinished work", s.path, w[0].1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::graph::modules;
    use super::*;

    const OPENING: &str =
        "//! A file.\n//!\n//! Interface: none.\n//! Linux counterpart: none.\n//! Locks and context: none.\n";

    fn file(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), inner: path.to_owned(), text: text.to_owned() }
    }

    fn errors(body: &str) -> Vec<String> {
        check_file(&file("a.rs", &format!("{OPENING}{body}"))).errors
    }

    #[test]
    fn a_header_must_have_all_four_lines_in_order() {
        assert!(errors("").is_empty());
        assert_eq!(check_file(&file("a.rs", "fn f() {}")).errors.len(), 1);
        let swapped = "//! A.\n//! Interface: a.\n//! Locks and context: a.\n//! Linux counterpart: a.\n";
        assert_eq!(check_file(&file("a.rs", swapped)).errors.len(), 1);
        assert_eq!(check_file(&file("a.rs", &OPENING.replace("Interface: none.", "Interface:"))).errors.len(), 3);
    }

    #[test]
    fn unsafe_needs_its_reason() {
        assert_eq!(errors("fn f() { unsafe { g() } }").len(), 1);
        assert_eq!(errors("unsafe impl Send for X {}").len(), 1);
        assert_eq!(errors("unsafe fn f() {}").len(), 1);
        assert_eq!(errors("// SAFETY: of another.\nf();\nlet x = unsafe { g() };").len(), 1);
        assert!(errors("// SAFETY: g is fine.\nlet x =\n    unsafe { g() };").is_empty());
        assert!(errors("// SAFETY: fine.\n#[allow(x)]\nunsafe impl Send for X {}").is_empty());
        assert!(errors("/// # Safety\n/// Call it at night.\npub unsafe fn f() {}").is_empty());
        assert!(errors("let f: unsafe fn(u8) = g; // unsafe { }\nlet s = \"unsafe {\";").is_empty());
    }

    #[test]
    fn unfinished_code_is_found() {
        assert_eq!(errors("fn f() { todo!() }"), ["a.rs:6: todo! is for unfinished work"]);
        assert!(errors("fn f() { let todo = \"dbg!\"; } // todo!()").is_empty());
    }

    #[test]
    fn long_files_are_warned_about_without_their_tests() {
        let long = |n: usize| check_file(&file("src/a.rs", &format!("{OPENING}{}", "x();\n".repeat(n)))).warnings.len();
        assert_eq!((long(700), long(900)), (0, 1));
        let tests = format!("{OPENING}#[cfg(test)]\nmod tests {{\n{}}}\n", "x();\n".repeat(900));
        assert!(check_file(&file("a.rs", &tests)).warnings.is_empty());
    }

    #[test]
    fn layers_only_look_down() {
        let net = |path: &str, text: &str| {
            let root = file("src/lib.rs", "");
            let below = file("src/core/skbuff.rs", "pub struct Skb;");
            let v4 = file("src/ipv4/tcp.rs", "pub struct Tcp;");
            check_layers("crates/net", &modules(&[root, below, v4, file(path, text)]))
        };
        assert!(net("src/ipv6/x.rs", "use crate::{core::skbuff::Skb, ipv4::tcp::Tcp};").is_empty());
        assert_eq!(net("src/core/x.rs", "use crate::ipv4::tcp::Tcp;").len(), 1);
        assert_eq!(net("src/socket.rs", "fn f() { crate::ipv4::tcp::f() }").len(), 1);
        assert_eq!(net("src/drivers/x.rs", "use super::super::{core::skbuff::Skb, ipv4::tcp};").len(), 1);
        assert_eq!(net("src/strange.rs", "").len(), 1);
    }

    #[test]
    fn crates_only_look_down() {
        let net = |deps: &str| check_manifest("crates/net", deps).len();
        assert_eq!(net("[dependencies]\nkernel = { workspace = true }\n[dev-dependencies]\nhost.workspace = true"), 0);
        assert_eq!(net("[dependencies]\nhost = { workspace = true }"), 1);
        assert_eq!(net("[target.'cfg(unix)'.dependencies]\nhost.workspace = true"), 1);
        assert_eq!(check_manifest("crates/new", "").len(), 1);
    }
}
