//! What the tests need from the machine: programs, each with the Debian package that has it.
//!
//! Interface: [`ensure`].
//! Linux counterpart: none.
//! Locks and context: none.

use crate::Outcome;
use std::path::Path;
use std::process::{Command, Stdio};

/// A program that some test runs, and its package.
const NEEDED: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("ethtool", "ethtool"),
    ("ping", "iputils-ping"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("curl", "curl"),
    ("python3", "python3"),
    ("busybox", "busybox-static"),
    ("node", "nodejs"),
    ("nginx", "nginx-light"),
    ("wrk", "wrk"),
    ("redis-server", "redis-server"),
    ("redis-benchmark", "redis-tools"),
    ("iperf3", "iperf3"),
    ("tshark", "tshark"),
    ("go", "golang-go"),
    ("cc", "gcc"),
    ("nmap", "nmap"),
];

const SYSTEM_DIRS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Every program is there, installed now if it must and can be.
pub fn ensure() -> Outcome {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = packages(&missing);
    if !is_root() {
        return Err(format!(
            "the tests need programs that are not installed: {}\nto install them, as root: apt-get install {}",
            missing.join(", "),
            packages.join(" ")
        ));
    }
    println!("installing {}", packages.join(" "));
    if !install(&packages) {
        // The lists may be old, or never have been fetched.
        apt(&["update", "-q"]);
        install(&packages);
    }
    match self::missing() {
        m if m.is_empty() => Ok(()),
        m => Err(format!("not installed, and apt-get could not install: {} ({})", m.join(", "), packages.join(" "))),
    }
}

fn missing() -> Vec<&'static str> {
    NEEDED.iter().map(|n| n.0).filter(|p| !on_path(p)).collect()
}

fn packages(programs: &[&str]) -> Vec<&'static str> {
    let mut p: Vec<&str> = NEEDED.iter().filter(|n| programs.contains(&n.0)).map(|n| n.1).collect();
    p.dedup();
    p
}

/// Whether a program is in `PATH`, or where the system keeps programs that are not in everybody's.
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(SYSTEM_DIRS.iter().map(|d| Path::new(d).to_path_buf()));
    dirs.into_iter().any(|d| d.join(program).is_file())
}

fn install(packages: &[&str]) -> bool {
    // Without recommended packages nothing starts services or pulls in a desktop.
    let mut args = vec!["install", "-y", "-q", "--no-install-recommends"];
    args.extend(packages);
    apt(&args)
}

fn apt(args: &[&str]) -> bool {
    let mut cmd = Command::new("apt-get");
    cmd.args(args).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(Stdio::null());
    cmd.status().is_ok_and(|s| s.success())
}

/// Whether this process runs as root; asked of `id`, as this crate has no dependencies.
fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.starts_with(b"0\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_named_once() {
        assert_eq!(packages(&["ip", "tc", "ping"]), ["iproute2", "iputils-ping"]);
    }

    #[test]
    fn programs_are_found_where_they_are() {
        assert!(on_path("sh"));
        assert!(!on_path("no-such-program-anywhere"));
    }
}
