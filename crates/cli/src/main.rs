//! The `sockeye` command.
//!
//! Interface: `sockeye run [OPTIONS] -- PROGRAM [ARGS...]`; `sockeye --help` tells the rest.
//! Linux counterpart: none; the exit status follows `env(1)` and `nohup(1)`.
//! Locks and context: a process of its own.

mod args;
mod run_cmd;
mod trace_text;

use clap::Parser;
use mimalloc::MiMalloc;
use std::process::ExitCode;

/// A connection comes and goes with some fifty allocations, many of them freed in batches by RCU: the C library's allocator takes
/// three times as many instructions for that.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// What `env(1)` exits with when it fails itself.
const EXIT_FAILED: u8 = 125;

fn main() -> ExitCode {
    let args = match args::Args::try_parse() {
        Ok(a) => a,
        Err(e) => {
            let _ = e.print();
            return if e.use_stderr() { ExitCode::from(EXIT_FAILED) } else { ExitCode::SUCCESS };
        }
    };
    match args.command {
        args::Command::Run(run) => match run_cmd::run(run) {
            Ok(status) => ExitCode::from(status),
            Err(e) => {
                eprintln!("sockeye: {e}");
                ExitCode::from(e.exit_status())
            }
        },
    }
}
