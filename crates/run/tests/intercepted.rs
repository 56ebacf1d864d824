//! What programs may rely on, tried by programs under the supervisor.
//!
//! Interface: `cargo test -p sockeye-run --test intercepted [NAME]`.
//! Linux counterpart: none.
//! Locks and context: each case is a process of its own, three deep: the test starts a supervisor, which starts this very
//! file again to run the case on a stack that has a loopback device and nothing else.

mod cases;

use net::core::net_namespace::Net;
use sockeye_run::{RunOptions, run};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// A case and whether the descriptors, signals and sockets it uses are as on Linux is for its asserts to say.
pub type Case = (&'static str, fn());

const SUPERVISE: &str = "SOCKEYE_TEST_SUPERVISE";
const INSIDE: &str = "SOCKEYE_TEST_INSIDE";
/// After this a case hangs. Far beyond what any needs on a loaded machine.
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    if let Ok(name) = std::env::var(INSIDE) {
        return inside(&name);
    }
    if let Ok(name) = std::env::var(SUPERVISE) {
        return supervise(&name);
    }
    let (options, wanted): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|a| a.starts_with('-'));
    let option = |o: &str| options.iter().any(|a| a == o);
    let matches = |n: &str, w: &str| if option("--exact") { n == w } else { n.contains(w) };
    let chosen = |n: &str| wanted.is_empty() || wanted.iter().any(|w| matches(n, w));
    let mut failed = Vec::new();
    let names = cases::ALL.iter().map(|c| c.0).chain(STATUS.iter().map(|c| c.0));
    if option("--list") {
        // For cargo-nextest, which runs each by its name.
        names.filter(|_| !option("--ignored")).for_each(|n| println!("{n}: test"));
        return ExitCode::SUCCESS;
    }
    for name in names.filter(|n| chosen(n)) {
        match outcome(name) {
            Ok(()) => println!("test {name} ... ok"),
            Err(why) => {
                println!("test {name} ... FAILED: {why}");
                failed.push(name);
            }
        }
    }
    println!("\ntest result: {}. {} failed", if failed.is_empty() { "ok" } else { "FAILED" }, failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn inside(name: &str) -> ExitCode {
    match cases::ALL.iter().find(|c| c.0 == name) {
        Some((_, case)) => {
            case();
            ExitCode::SUCCESS
        }
        None => ExitCode::FAILURE,
    }
}

/// What the exit code of a supervisor must be for a command.
const STATUS: &[(&str, &[&str], i32)] = &[
    ("the_exit_code_is_the_programs", &["sh", "-c", "exit 7"], 7),
    ("a_signal_is_reported_as_a_shell_does", &["sh", "-c", "kill -9 $$"], 137),
    ("a_missing_program_is_127", &["no-such-program-here"], 127),
    ("a_file_that_cannot_be_executed_is_126", &["/etc/passwd"], 126),
    ("resolv_conf_is_the_given_one", &["grep", "-q", "192.0.2.53", "/etc/resolv.conf"], 0),
    ("background_processes_are_served_on", &["sh", "-c", "(sleep 0.2; true) & exit 3"], 3),
];

fn supervise(name: &str) -> ExitCode {
    let host = host::Host::start(1).expect("a host");
    let net = Net::new(&net::init::net_init(host.kernel()));
    let mut opts = RunOptions { verbose: true, ..RunOptions::default() };
    opts.resolv_conf = Some("nameserver 192.0.2.53\n".into());
    match STATUS.iter().find(|c| c.0 == name) {
        Some((_, command, _)) => {
            opts.program = command[0].into();
            opts.args = command[1..].iter().map(Into::into).collect();
        }
        None => {
            opts.program = std::env::current_exe().expect("this file").into();
            opts.env = vec![(INSIDE.into(), name.into()), (cases::OUTSIDE.into(), cases::identity().into())];
        }
    }
    match run(&net, opts) {
        Ok(s) => ExitCode::from(s.shell_code() as u8),
        Err(e) => {
            eprintln!("{e}");
            ExitCode::from(e.exit_code() as u8)
        }
    }
}

fn outcome(name: &str) -> Result<(), String> {
    let me = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut cmd = Command::new(me);
    cmd.env(SUPERVISE, name).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = cmd.spawn().map_err(|e| e.to_string())?;
    let wanted = STATUS.iter().find(|c| c.0 == name).map_or(0, |c| c.2);
    let code = wait(&mut child).ok_or("hangs")?;
    if code == Some(wanted) {
        return Ok(());
    }
    let out = child.wait_with_output().map_err(|e| e.to_string())?;
    Err(format!("status {code:?}\n{}", String::from_utf8_lossy(&out.stderr)))
}

/// The child's exit code; `None` when it had to be killed.
fn wait(child: &mut Child) -> Option<Option<i32>> {
    let start = Instant::now();
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status.code());
        }
        if start.elapsed() > LIMIT {
            let _ = child.kill();
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
