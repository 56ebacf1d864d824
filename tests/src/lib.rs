//! Shared helpers of the whole-system tests.
//!
//! Interface: [`netns_test!`], [`TapSide`], [`Transfer`], [`sockeye`] (the program), [`wait_for_port`].
//! Linux counterpart: `tools/testing/selftests/net/lib.sh`, `kselftest_harness.h`.
//! Locks and context: tests that need a network of their own run in a child process in fresh namespaces.
//!
//! What a test needs and the machine lacks is named in the failure; nothing is skipped.

pub mod simulate;
pub mod wan;

use sha2::{Digest, Sha256};
use sockeye::Stack;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Set in the child process that runs a test in its namespaces.
const INSIDE: &str = "SOCKEYE_TEST_INSIDE";
/// Before anything hangs for ever, the test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A test in a network namespace of its own (and a user namespace, unless root), with nothing in it but `lo`, up.
#[macro_export]
macro_rules! netns_test {
    ($(#[$m:meta])* fn $name:ident() $body:block) => {
        $(#[$m])*
        #[test]
        fn $name() {
            $crate::in_netns(concat!(module_path!(), "::", stringify!($name)), || $body)
        }
    };
}

/// Runs `body` in the namespaces: by running this test program again, with this test alone, in them. `test` is the test's
/// path with the crate's name in front.
pub fn in_netns(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        exit_on_panic();
        run("ip", &["link", "set", "lo", "up"]);
        return body();
    }
    let name = test.split_once("::").map_or(test, |(_, name)| name);
    let me = std::env::current_exe().expect("the path of this test program");
    let mut cmd = Command::new("unshare");
    cmd.args(if is_root() { &["-n"][..] } else { &["-r", "-n"] }).arg("--").arg(me);
    cmd.args(["--exact", name, "--include-ignored", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .stdin(Stdio::null());
    let status = cmd.status().unwrap_or_else(|e| panic!("this machine lacks `unshare` (package util-linux): {e}"));
    let hint =
        "does this machine allow user namespaces (sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces)?";
    assert!(status.success(), "{name}, in its own namespaces: {status}{}", if is_root() { "" } else { hint });
}

/// This process is this test's alone: a panic in any of its threads ends it, where the others would wait for ever.
fn exit_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::exit(101);
    }));
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs a program to its end; it must succeed. Answers what it printed.
pub fn run(program: &str, args: &[&str]) -> String {
    let out = output(Command::new(program).args(args));
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{program} {}: {}\n{stdout}{stderr}", args.join(" "), out.status);
    stdout.into_owned()
}

/// Runs a command to its end and answers what it printed.
pub fn output(cmd: &mut Command) -> Output {
    let program = cmd.get_program().to_string_lossy().into_owned();
    cmd.stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("this machine lacks {program:?} (`cargo xtask test` installs it): {e}"))
}

/// A TAP device of this machine with addresses on it, and a stack on its other end.
pub struct TapSide {
    pub stack: Stack,
    /// The device's name on this machine.
    pub tap: String,
    /// Its name in the stack.
    pub dev: String,
}

impl TapSide {
    /// This machine's addresses.
    pub const HOST4: &str = "10.9.0.1";
    pub const HOST6: &str = "fd09::1";
    /// The stack's.
    pub const STACK4: &str = "10.9.0.2";
    pub const STACK6: &str = "fd09::2";

    /// Makes a TAP device, up, and starts a stack on it. In a namespace only.
    pub fn new() -> TapSide {
        let tap = "tap0".to_owned();
        make_tap(&tap);
        let stack = Stack::new().expect("a stack");
        let dev = stack.add_tap(&tap).expect("the TAP device, in the stack");
        stack.add_address(&dev, &format!("{}/24", Self::STACK4)).expect("an IPv4 address");
        stack.add_address(&dev, &format!("{}/64", Self::STACK6)).expect("an IPv6 address");
        TapSide { stack, tap, dev }
    }
}

impl Default for TapSide {
    fn default() -> Self {
        Self::new()
    }
}

/// A persistent TAP device with [`TapSide`]'s addresses of this machine, up.
pub fn make_tap(name: &str) {
    let tun = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    tun.map(drop).unwrap_or_else(|e| {
        panic!("this machine lacks a usable /dev/net/tun (modprobe tun; chmod 666 /dev/net/tun): {e}")
    });
    run("ip", &["tuntap", "add", "dev", name, "mode", "tap", "vnet_hdr"]);
    run("ip", &["addr", "add", &format!("{}/24", TapSide::HOST4), "dev", name]);
    run("ip", &["addr", "add", &format!("{}/64", TapSide::HOST6), "dev", name, "nodad"]);
    run("ip", &["link", "set", name, "up"]);
}

/// A stream of bytes to be sent and checked: the same on both sides, by SHA-256.
pub struct Transfer {
    block: Vec<u8>,
    len: u64,
}

impl Transfer {
    /// `len` bytes that repeat after an odd number of them, so that no boundary falls on the same bytes twice.
    pub fn new(len: u64) -> Transfer {
        let mut x = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        };
        Transfer { block: (0..(1 << 20) - 3).map(|_| next()).collect(), len }
    }

    /// The SHA-256 of what is sent.
    pub fn digest(&self) -> [u8; 32] {
        let mut h = Sha256::new();
        self.pieces(|p| {
            h.update(p);
            Ok(())
        })
        .expect("hashing does not fail");
        h.finalize().into()
    }

    fn pieces(&self, mut f: impl FnMut(&[u8]) -> std::io::Result<()>) -> std::io::Result<()> {
        let mut left = self.len;
        while left > 0 {
            let n = left.min(self.block.len() as u64) as usize;
            f(&self.block[..n])?;
            left -= n as u64;
        }
        Ok(())
    }

    pub fn send(&self, to: &mut impl Write) -> std::io::Result<()> {
        self.pieces(|p| to.write_all(p))
    }

    /// Reads to the end; the SHA-256 and the number of the bytes.
    pub fn receive(from: &mut impl Read) -> std::io::Result<([u8; 32], u64)> {
        let mut h = Sha256::new();
        let mut buf = vec![0; 256 * 1024];
        let mut total = 0;
        loop {
            match from.read(&mut buf)? {
                0 => return Ok((h.finalize().into(), total)),
                n => {
                    h.update(&buf[..n]);
                    total += n as u64;
                }
            }
        }
    }
}

/// The `sockeye` program, built for release; as root, or as an ordinary user if `user`.
pub fn sockeye(user: bool, args: &[&str]) -> Command {
    let bin = std::env::var_os("SOCKEYE_BIN").map_or_else(default_binary, PathBuf::from);
    assert!(bin.is_file(), "{} is not there: cargo build --release -p sockeye-cli, or cargo xtask test", bin.display());
    let mut cmd = if user && is_root() {
        let mut c = Command::new("setpriv");
        c.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(bin).env("HOME", "/tmp");
        c
    } else {
        Command::new(bin)
    };
    cmd.args(args);
    cmd
}

fn default_binary() -> PathBuf {
    // tests/ is in the workspace's root.
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target"))).join("release/sockeye")
}

/// Waits until somebody listens at `addr`: tries to connect until it works.
pub fn wait_for_port(addr: SocketAddr) -> TcpStream {
    let start = Instant::now();
    loop {
        match TcpStream::connect_timeout(&addr, PATIENCE) {
            Ok(s) => return s,
            Err(e) => assert!(start.elapsed() < PATIENCE, "nobody listens at {addr}: {e}"),
        }
        std::thread::yield_now();
    }
}
