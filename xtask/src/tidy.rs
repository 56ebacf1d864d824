//! `cargo xtask tidy`: the rules of the house that the compiler does not know.
//!
//! Interface: [`run`].
//! Linux counterpart: `scripts/checkpatch.pl`, and what maintainers say in review.
//! Locks and context: none. [`lexer`] blanks what is not code, [`graph`] finds who names whom, [`rules`] judges.

mod graph;
mod lexer;
mod rules;

use crate::Outcome;
use std::path::{Path, PathBuf};

/// Checks every Rust file of the workspace. The error lists each violation as `file:line: what`.
pub fn run(root: &Path) -> Outcome {
    let crates = find_crates(root)?;
    let mut bad = Vec::new();
    let mut files = 0;
    for dir in &crates {
        let name = rel(root, dir);
        bad.extend(rules::check_manifest(&name, &read(&dir.join("Cargo.toml"))?));
        let sources = sources(root, dir)?;
        files += sources.len();
        for f in &sources {
            let v = rules::check_file(f);
            bad.extend(v.errors);
            v.warnings.iter().for_each(|w| eprintln!("warning: {w}"));
        }
        let modules = graph::modules(&sources);
        bad.extend(rules::check_layers(&name, &modules));
        bad.extend(graph::circles(&modules, rules::KNOTS));
    }
    if bad.is_empty() {
        println!("tidy: {files} files in {} crates, nothing to complain about", crates.len());
        return Ok(());
    }
    bad.sort();
    Err(format!("{}\ntidy: {} complaints", bad.join("\n"), bad.len()))
}

/// A Rust file.
pub struct Source {
    /// Path from the workspace's root, for people.
    pub path: String,
    /// Path in its crate, such as `src/core/dev.rs`.
    pub inner: String,
    pub text: String,
}

fn find_crates(root: &Path) -> Result<Vec<PathBuf>, String> {
    let mut all = vec![root.join("tests"), root.join("xtask")];
    all.extend(list(&root.join("crates"))?);
    all.retain(|d| d.join("Cargo.toml").is_file());
    all.sort();
    Ok(all)
}

fn sources(root: &Path, dir: &Path) -> Result<Vec<Source>, String> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(d) = todo.pop() {
        for p in list(&d)? {
            if p.is_dir() {
                // A nested crate or build directory is not this crate's.
                if !p.join("Cargo.toml").exists() && p.file_name() != Some("target".as_ref()) {
                    todo.push(p);
                }
            } else if p.extension() == Some("rs".as_ref()) {
                found.push(Source { path: rel(root, &p), inner: rel(dir, &p), text: read(&p)? });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn list(d: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(d).map_err(|e| format!("{}: {e}", d.display()))?;
    Ok(entries.flatten().map(|e| e.path()).collect())
}

fn read(p: &Path) -> Result<String, String> {
    std::fs::read_to_string(p).map_err(|e| format!("{}: {e}", p.display()))
}

fn rel(root: &Path, p: &Path) -> String {
    p.strip_prefix(root).unwrap_or(p).display().to_string()
}
