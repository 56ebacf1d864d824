//! `simulate`: whole networks in deterministic simulation, seed after seed. `cargo xtask simulate` builds and starts it.
//!
//! Interface: the command line; see `--help`.
//! Linux counterpart: none.
//! Locks and context: none.

fn main() -> std::process::ExitCode {
    sockeye_tests::simulate::campaign::main(std::env::args().skip(1))
}
