//! Runs a program on a stack that has a loopback device and nothing else: `cargo run --example run -- PROGRAM [ARGS...]`.
//!
//! Interface: the command line; the exit status is the program's.
//! Linux counterpart: `unshare -n`.
//! Locks and context: none.

use net::core::net_namespace::Net;
use sockeye_run::{RunOptions, run};

fn main() {
    let mut args = std::env::args_os().skip(1);
    let Some(program) = args.next() else {
        eprintln!("usage: run PROGRAM [ARGS...]");
        std::process::exit(125);
    };
    let host = match host::Host::start(1) {
        Ok(h) => h,
        Err(e) => {
            eprintln!("run: cannot start a stack: {e}");
            std::process::exit(125);
        }
    };
    let net = Net::new(&net::init::net_init(host.kernel()));
    let resolv_conf = std::env::var("RUN_RESOLV_CONF").ok();
    let opts = RunOptions { program, args: args.collect(), resolv_conf, verbose: true, ..RunOptions::default() };
    let code = match run(&net, opts) {
        Ok(status) => status.shell_code(),
        Err(e) => {
            eprintln!("run: {e}");
            e.exit_code()
        }
    };
    std::process::exit(code);
}
