//! The workspace's chores: `cargo xtask {test,tidy,bench,fuzz,…}`.
//!
//! Interface: the command line; [`USAGE`].
//! Linux counterpart: `scripts/checkpatch.pl`, `tools/testing/selftests`.
//! Locks and context: none.

mod bench;
mod fuzz;
mod packages;
mod packetdrill;
mod simulate;
mod test;
mod tidy;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test [FILTER...]   install what the tests need (as root; else say what is missing), build, and run all tests,
                     or those whose name contains FILTER
  tidy               who may name whom, no circle of imports, file headers, SAFETY comments
  bench [NAME [WORD...]]  measure: net and programs against the kernel, napi, machinery against its peers
  simulate [OPTION...]  hosts that talk while links fail, in simulated networks, seed after seed; `--help` lists the options
  packetdrill [--google DIR]  our scripts on sockeye and on this machine's kernel; google's, and what of them does not pass
  stories FROM TO [DIR]  random stories of one connection, by their seeds, told to this machine's kernel and to sockeye: where they
                     part is shown, and those that do not are kept in DIR
  verify [--short] [NAME...]  loom, shuttle, Miri, ThreadSanitizer, and the bugs planted for them; docs/verification.md
  fuzz [TARGET [--time SECONDS]]   run a fuzz target, for a minute or so long (cargo-fuzz; a nightly compiler, or the stable one with RUSTC_BOOTSTRAP=1)
";

/// What a chore answers: an error is one or more lines for the user.
type Outcome = Result<(), String>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest = args.get(1..).unwrap_or_default();
    let outcome = match args.first().map(String::as_str) {
        Some("test") => test::run(&root(), rest),
        Some("tidy") => tidy::run(&root()),
        Some("bench") => bench::run(&root(), rest),
        Some("simulate") => simulate::run(&root(), rest),
        Some("packetdrill") => packetdrill::run(&root(), rest),
        Some("stories") => packetdrill::stories(&root(), rest),
        Some("fuzz") => fuzz::run(&root(), rest),
        Some("verify") => verify::run(&root(), rest),
        Some("help" | "--help" | "-h") => {
            print!("{USAGE}");
            Ok(())
        }
        Some(other) => Err(format!("there is no command {other:?}\n\n{USAGE}")),
        None => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{}", e.trim_end());
            ExitCode::FAILURE
        }
    }
}

/// The workspace's root.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}
