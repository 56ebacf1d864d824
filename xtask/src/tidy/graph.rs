//! Which file names which: the imports of a crate as a graph.
//!
//! Interface: [`modules`], [`circles`], [`Module`].
//! Linux counterpart: none; C has no modules.
//! Locks and context: pure functions.
//!
//! A file names another when a path in it (`crate::…`, `super::…`, `self::…`, or a bare child module in a `use`) leads there.
//! `mod x;` names nobody. A `pub use` of a file's own children is a façade: whoever goes through it names the child itself.

use super::Source;
use super::lexer::{blank, line_of, test_modules, tokens, without_tests};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// A file as a module.
pub struct Module {
    pub file: String,
    /// Its path in the crate: `["core", "dev"]`; empty for the root.
    pub path: Vec<String>,
    /// What it names: module path, and the line where it first does.
    pub names: BTreeMap<Vec<String>, usize>,
}

/// A path found in the code, absolute in the crate.
struct Use {
    path: Vec<String>,
    line: usize,
    /// It stands in a `pub use`.
    public: bool,
}

struct File {
    name: String,
    path: Vec<String>,
    uses: Vec<Use>,
    /// Words that the file defines an item under.
    defines: HashSet<String>,
}

/// The modules of a crate's library or program, without those that only tests use.
pub fn modules(sources: &[Source]) -> Vec<Module> {
    let mut files = Vec::new();
    let mut tests = BTreeSet::new();
    for s in sources {
        let Some(path) = module_path(&s.inner) else { continue };
        let code = blank(&s.text);
        for t in test_modules(&code) {
            tests.insert([path.clone(), vec![t]].concat());
        }
        let code = without_tests(&code);
        let uses = uses(&code, &path);
        files.push(File { name: s.path.clone(), defines: defines(&code), path, uses });
    }
    files.retain(|f| !tests.iter().any(|t| f.path.starts_with(t)));
    let index = Index::new(&files);
    files.iter().map(|f| index.module(f)).collect()
}

/// `src/core/dev.rs` is `core::dev`; `None` for what is no module of the library: tests, benches, a build script.
fn module_path(inner: &str) -> Option<Vec<String>> {
    let p = inner.strip_prefix("src/")?.strip_suffix(".rs")?;
    let mut parts: Vec<String> = p.split('/').map(str::to_owned).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        parts.pop();
    }
    Some(parts)
}

/// Every path in the code that leads into this crate.
fn uses(code: &str, module: &[String]) -> Vec<Use> {
    let t = tokens(code);
    let mut scope = Scope { path: module.to_vec(), depth: 0, inline: Vec::new() };
    let mut all = Vec::new();
    let mut i = 0;
    while i < t.len() {
        let line = || line_of(code, t[i].0);
        match t[i].1 {
            "use" => {
                let public = is_public(&t[..i]);
                let mut found = Vec::new();
                i = use_tree(&t, i + 1, &mut Vec::new(), &mut found);
                let at = line_of(code, t[i.min(t.len() - 1)].0);
                let paths = found.into_iter().filter_map(|p| scope.absolute(&p, true));
                all.extend(paths.map(|path| Use { path, line: at, public }));
                continue;
            }
            "crate" | "super" | "self" if t.get(i + 1).is_some_and(|n| n.1 == "::") && !behind_path(&t, i) => {
                let (path, next) = plain_path(&t, i);
                let at = line();
                all.extend(scope.absolute(&path, false).map(|path| Use { path, line: at, public: false }));
                i = next;
                continue;
            }
            "mod" if t.get(i + 2).is_some_and(|n| n.1 == "{") => scope.enter(t[i + 1].1),
            "{" => scope.depth += 1,
            "}" => scope.leave(),
            _ => {}
        }
        i += 1;
    }
    all
}

fn behind_path(t: &[(usize, &str)], i: usize) -> bool {
    i > 0 && (t[i - 1].1 == "::" || t[i - 1].1 == "(" && i > 1 && t[i - 2].1 == "pub")
}

fn is_public(before: &[(usize, &str)]) -> bool {
    let last = |n: usize| before.len().checked_sub(n).map(|i| before[i].1);
    last(1) == Some("pub") || (last(1) == Some(")") && (last(4) == Some("pub") || last(5) == Some("pub")))
}

/// Where in the crate the code stands, inline modules included.
struct Scope {
    path: Vec<String>,
    depth: usize,
    /// The depths at which inline modules were entered.
    inline: Vec<usize>,
}

impl Scope {
    fn enter(&mut self, name: &str) {
        self.path.push(name.to_owned());
        self.inline.push(self.depth);
    }

    fn leave(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        if self.inline.last() == Some(&self.depth) {
            self.inline.pop();
            self.path.pop();
        }
    }

    /// The path from the crate's root. A bare name is relative to the module, if `bare` paths are wanted: the graph drops it
    /// again if no such child exists.
    fn absolute(&self, path: &[&str], bare: bool) -> Option<Vec<String>> {
        let mut base = self.path.clone();
        let mut rest = path;
        match *path.first()? {
            "crate" => {
                base.clear();
                rest = &path[1..];
            }
            "self" => rest = &path[1..],
            "super" => {}
            _ if bare => {}
            _ => return None,
        }
        while rest.first() == Some(&"super") {
            base.pop();
            rest = &rest[1..];
        }
        base.extend(rest.iter().filter(|w| **w != "self").map(|w| (*w).to_owned()));
        Some(base)
    }
}

/// A path without braces, such as stands in an expression; answers where it ends.
fn plain_path<'a>(t: &[(usize, &'a str)], mut i: usize) -> (Vec<&'a str>, usize) {
    let mut path = vec![t[i].1];
    i += 1;
    while t.get(i).is_some_and(|n| n.1 == "::") && t.get(i + 1).is_some_and(|n| word(n.1)) {
        path.push(t[i + 1].1);
        i += 2;
    }
    (path, i)
}

fn word(s: &str) -> bool {
    s.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

/// The paths of a `use` tree that begins at `i`; answers where it ends.
fn use_tree<'a>(
    t: &[(usize, &'a str)],
    mut i: usize,
    prefix: &mut Vec<&'a str>,
    found: &mut Vec<Vec<&'a str>>,
) -> usize {
    let keep = prefix.len();
    let mut open = true;
    while let Some(&(_, w)) = t.get(i) {
        match w {
            "::" => {}
            "{" => {
                i += 1;
                while t.get(i).is_some_and(|n| n.1 != "}") {
                    i = use_tree(t, i, prefix, found);
                    i += usize::from(t.get(i).is_some_and(|n| n.1 == ","));
                }
                open = false;
            }
            "*" => prefix.push("*"),
            "as" => i += 1,
            "," | "}" | ";" => break,
            w => prefix.push(w),
        }
        i += 1;
    }
    if open && prefix.len() > keep {
        found.push(prefix.clone());
    }
    prefix.truncate(keep);
    i
}

/// Names behind the keywords that define something.
fn defines(code: &str) -> HashSet<String> {
    const KEYWORDS: [&str; 9] = ["fn", "struct", "enum", "trait", "type", "const", "static", "union", "macro_rules"];
    let t = tokens(code);
    let mut names = HashSet::new();
    for w in t.windows(3) {
        if KEYWORDS.contains(&w[0].1) {
            let name = if w[1].1 == "!" || w[1].1 == "mut" { w[2].1 } else { w[1].1 };
            names.insert(name.to_owned());
        }
    }
    names
}

struct Index<'a> {
    by_path: BTreeMap<&'a [String], &'a File>,
}

impl<'a> Index<'a> {
    fn new(files: &'a [File]) -> Self {
        Index { by_path: files.iter().map(|f| (f.path.as_slice(), f)).collect() }
    }

    fn module(&self, f: &File) -> Module {
        let mut names = BTreeMap::new();
        for u in &f.uses {
            let Some(to) = self.resolve(&u.path, 0) else { continue };
            let facade = u.public && to.path.starts_with(&f.path);
            if to.path != f.path && !facade {
                names.entry(to.path.clone()).or_insert(u.line);
            }
        }
        Module { file: f.name.clone(), path: f.path.clone(), names }
    }

    /// The file that a path leads to, through façades.
    fn resolve(&self, path: &[String], depth: usize) -> Option<&'a File> {
        let n = (0..=path.len()).rev().find(|&n| self.by_path.contains_key(&path[..n]))?;
        let file = self.by_path[&path[..n]];
        let Some(name) = path.get(n) else { return Some(file) };
        if name == "*" || file.defines.contains(name) || depth > 8 {
            return Some(file);
        }
        for u in file.uses.iter().filter(|u| u.public) {
            let (last, front) = u.path.split_last()?;
            if last == name && u.path != path {
                return self.resolve(&u.path, depth + 1);
            }
            let glob = (last == "*").then(|| self.by_path.get(front)).flatten();
            if let Some(target) = glob.filter(|t| t.path != file.path && t.defines.contains(name)) {
                return Some(target);
            }
        }
        // A path that does not begin in this crate ends at the root or at its own module for want of a child: it is some
        // other crate's, or an item that a macro defines.
        Some(file)
    }
}

/// One line for each circle of imports that is not within one of `knots`, and for each file that need not be in its knot.
pub fn circles(modules: &[Module], knots: &[&[&str]]) -> Vec<String> {
    let index: BTreeMap<&[String], usize> = modules.iter().enumerate().map(|(i, m)| (m.path.as_slice(), i)).collect();
    let knot = |i: usize| knots.iter().position(|k| k.contains(&modules[i].file.as_str()));
    let edges = |wanted: &dyn Fn(usize, usize) -> bool| -> Vec<Vec<usize>> {
        let ends = |m: &Module| m.names.keys().filter_map(|p| index.get(p.as_slice()).copied()).collect::<Vec<_>>();
        let of = |i: usize| ends(&modules[i]).into_iter().filter(|&to| wanted(i, to)).collect();
        (0..modules.len()).map(of).collect()
    };
    let tied = |a: usize, b: usize| knot(a).is_some() && knot(a) == knot(b);
    let knotted = edges(&tied);
    let edges = edges(&|a, b| !tied(a, b));
    let mut reported = BTreeSet::new();
    let mut out = Vec::new();
    for start in 0..modules.len() {
        let Some(path) = shortest_circle(&edges, start) else { continue };
        let mut key = path.clone();
        key.sort();
        if reported.insert(key) {
            let step = |i: usize| {
                let (m, next) = (&modules[path[i]], &modules[path[(i + 1) % path.len()]]);
                format!("{}:{}", m.file, m.names[&next.path])
            };
            let steps: Vec<String> = (0..path.len()).map(step).collect();
            out.push(format!("{}: circle of imports: {} -> back", steps[0], steps.join(" -> ")));
        }
    }
    let loose = (0..modules.len()).filter(|&i| knot(i).is_some() && shortest_circle(&knotted, i).is_none());
    out.extend(
        loose.map(|i| format!("{}:1: in no circle any more: take it off tidy's list of knots", modules[i].file)),
    );
    out
}

/// The shortest way from a node back to itself, breadth first.
fn shortest_circle(edges: &[Vec<usize>], start: usize) -> Option<Vec<usize>> {
    let mut from = vec![usize::MAX; edges.len()];
    let mut queue = std::collections::VecDeque::from([start]);
    while let Some(at) = queue.pop_front() {
        for &to in &edges[at] {
            if to == start {
                let mut path = vec![at];
                while path[path.len() - 1] != start {
                    path.push(from[path[path.len() - 1]]);
                }
                path.reverse();
                return Some(path);
            }
            if from[to] == usize::MAX {
                from[to] = at;
                queue.push_back(to);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crate_of(files: &[(&str, &str)]) -> Vec<Module> {
        let source = |&(inner, text): &(&str, &str)| Source {
            path: inner.to_owned(),
            inner: inner.to_owned(),
            text: text.to_owned(),
        };
        modules(&files.iter().map(source).collect::<Vec<_>>())
    }

    fn names(all: &[Module], file: &str) -> Vec<String> {
        let m = all.iter().find(|m| m.file == file).unwrap();
        m.names.keys().map(|p| p.join("::")).collect()
    }

    #[test]
    fn nested_braces_and_relative_paths_are_followed() {
        let all = crate_of(&[
            ("src/lib.rs", "mod a; mod b;"),
            ("src/a/mod.rs", "mod x; mod y; fn own() {}"),
            ("src/a/x.rs", "use crate::{b::{self, B}, a::y::{Y as Z, *}}; use std::fmt; use super::own;"),
            ("src/a/y.rs", "fn f() { super::super::b::g(); } struct Y;"),
            ("src/b.rs", "pub struct B; fn g() { let s = \"crate::a\"; } // crate::a"),
        ]);
        assert_eq!(names(&all, "src/a/x.rs"), ["a", "a::y", "b"]);
        assert_eq!(names(&all, "src/a/y.rs"), ["b"]);
        assert!(names(&all, "src/b.rs").is_empty());
        assert!(circles(&all, &[]).is_empty());
    }

    #[test]
    fn a_circle_is_found_and_named_once() {
        let all = crate_of(&[
            ("src/lib.rs", ""),
            ("src/a.rs", "use crate::b::B;"),
            ("src/b.rs", "\nuse crate::c::C;"),
            ("src/c.rs", "fn f() { crate::a::f() }"),
            ("src/d.rs", "use crate::a::A;"),
        ]);
        assert_eq!(
            circles(&all, &[]),
            ["src/a.rs:1: circle of imports: src/a.rs:1 -> src/b.rs:2 -> src/c.rs:1 -> back"]
        );
    }

    #[test]
    fn a_knot_is_allowed_as_long_as_it_is_one() {
        let all = crate_of(&[
            ("src/a.rs", "use crate::b::B;"),
            ("src/b.rs", "use crate::a::A; use crate::c::C;"),
            ("src/c.rs", "use crate::d::D;"),
            ("src/d.rs", "use crate::c::C;"),
        ]);
        let found = circles(&all, &[&["src/a.rs", "src/b.rs", "src/c.rs"]]);
        assert_eq!(
            found,
            [
                "src/c.rs:1: circle of imports: src/c.rs:1 -> src/d.rs:1 -> back",
                "src/c.rs:1: in no circle any more: take it off tidy's list of knots"
            ]
        );
    }

    #[test]
    fn a_facade_is_looked_through() {
        let all = crate_of(&[
            ("src/lib.rs", "pub mod a; pub use a::A; pub const N: u32 = 1;"),
            ("src/a.rs", "mod x; mod y; pub use x::A; pub use self::y::*;"),
            ("src/a/x.rs", "use crate::a::Y; use crate::N; pub struct A;"),
            ("src/a/y.rs", "pub struct Y;"),
            ("src/b.rs", "use crate::A;"),
        ]);
        assert_eq!(names(&all, "src/a/x.rs"), ["", "a::y"]);
        assert_eq!(names(&all, "src/b.rs"), ["a::x"]);
        assert!(names(&all, "src/a.rs").is_empty());
        assert!(circles(&all, &[]).is_empty());
    }

    #[test]
    fn inline_modules_and_tests_are_told_apart() {
        let all = crate_of(&[
            ("src/lib.rs", "mod a; mod b; #[cfg(test)] mod far;"),
            (
                "src/a.rs",
                "mod inner { use super::f; use super::super::b::B; } fn f() {} #[cfg(test)] mod t { use crate::c; }",
            ),
            ("src/b.rs", "struct B;"),
            ("src/far.rs", "use crate::a;"),
        ]);
        assert_eq!(names(&all, "src/a.rs"), ["b"]);
        assert!(all.iter().all(|m| m.file != "src/far.rs"));
    }
}
