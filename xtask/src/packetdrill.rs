//! `cargo xtask packetdrill`: our scripts, and with `--google DIR` those of google/packetdrill.
//!
//! Interface: [`run`], [`stories`].
//! Linux counterpart: packetdrill's `run_all.py`.
//! Locks and context: none.
//!
//! DIR is a checkout of google/packetdrill in which its program has been built as its README says. Each of its TCP scripts runs as IPv4,
//! IPv6 and IPv4-mapped IPv6, on this machine's kernel and on sockeye, each time in a network namespace of its own, which for
//! sockeye holds only the sysctls that the scripts set: their other tools are our stand-ins, which act on sockeye. What passes on the kernel and not on sockeye goes to docs/packetdrill.md; a
//! reason that somebody has written there stays.

use crate::{Outcome, test::step};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// Scripts at the same time; on the kernel more would disturb each other's timing.
const AT_ONCE: usize = 2;
/// A script passes on the kernel if it does so once in as many runs: time is real there.
const KERNEL_TRIES: usize = 3;
/// Seconds.
const PATIENCE: &str = "40";

/// What packetdrill's own runner passes for each version of IP.
const VARIANTS: [(&str, &str); 3] = [
    (
        "ipv4",
        "--ip_version=ipv4 --local_ip=192.168.0.1 --gateway_ip=192.168.0.1 --netmask_ip=255.255.0.0 --remote_ip=192.0.2.1 \
         -D TFO_COOKIE=3021b9d889017eeb -D CODE=host_unreachable -D CMSG_LEVEL_IP=SOL_IP -D CMSG_TYPE_RECVERR=IP_RECVERR",
    ),
    (
        "mapped",
        "--ip_version=ipv4-mapped-ipv6 --local_ip=192.168.0.1 --gateway_ip=192.168.0.1 --netmask_ip=255.255.0.0 \
         --remote_ip=192.0.2.1 -D TFO_COOKIE=3021b9d889017eeb -D CODE=host_unreachable -D CMSG_LEVEL_IP=SOL_IPV6 \
         -D CMSG_TYPE_RECVERR=IPV6_RECVERR",
    ),
    (
        "ipv6",
        "--ip_version=ipv6 --mtu=1520 --local_ip=fd3d:0a0b:17d6::1 --gateway_ip=fd3d:0a0b:17d6:8888::1 \
         --remote_ip=fd3d:fa7b:d17d::1 -D TFO_COOKIE=c1d1e9742a47a9bc -D CMSG_LEVEL_IP=SOL_IPV6 \
         -D CMSG_TYPE_RECVERR=IPV6_RECVERR",
    ),
];

/// Runs in the namespace, before packetdrill: `$1` is the library for sockeye, or empty; `$2` the directory of the tools that speak
/// to it instead of the kernel.
const INSIDE: &str = "ip link set lo up; lib=$1; tools=$2; shift 2; [ -z \"$lib\" ] && exec \"$@\"; \
    ip tuntap add dev tun0 mode tun; ip link set tun0 up; \
    export PATH=\"$tools:$PATH\" SOCKEYE_CONTROL=sockeye; LD_PRELOAD=$lib exec \"$@\"";

/// The commands of scripts that sockeye has stand-ins for.
const TOOLS: [&str; 3] = ["ip", "tc", "ethtool"];

pub fn run(root: &Path, args: &[String]) -> Outcome {
    match args {
        [] => ours(root),
        [flag, dir] if flag == "--google" => google(root, Path::new(dir)),
        _ => Err("usage: cargo xtask packetdrill [--google DIR]".to_owned()),
    }
}

/// `cargo xtask stories`: random stories on this machine's kernel and on sockeye.
pub fn stories(root: &Path, args: &[String]) -> Outcome {
    if !(2..=3).contains(&args.len()) {
        return Err("usage: cargo xtask stories FROM TO [DIR]".to_owned());
    }
    let mut cmd = cargo(root);
    step(cmd.args(["run", "--quiet", "--package", "sockeye-packetdrill", "--", "--differ"]).args(args))
}

fn cargo(root: &Path) -> Command {
    let mut cmd = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    cmd.current_dir(root);
    cmd
}

/// Our scripts on sockeye, and on the kernel if it can be.
fn ours(root: &Path) -> Outcome {
    let mut files = scripts(&root.join("tests/packetdrill"));
    files.sort();
    for against in [&[][..], &["--kernel", "--tries", "5"]] {
        let mut cmd = cargo(root);
        cmd.args(["run", "--quiet", "--package", "sockeye-packetdrill", "--"]);
        step(cmd.args(against).args(&files))?;
    }
    Ok(())
}

/// The `.pkt` files below a directory.
fn scripts(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()) {
        if path.is_dir() {
            found.extend(scripts(&path));
        } else if path.extension().is_some_and(|e| e == "pkt") {
            found.push(path);
        }
    }
    found
}

/// One run of a script.
#[derive(Clone)]
struct Job {
    script: PathBuf,
    /// Below `gtests/net`, without the suffix.
    name: String,
    variant: usize,
}

fn google(root: &Path, dir: &Path) -> Outcome {
    let top = dir.join("gtests/net");
    let program = top.join("packetdrill/packetdrill");
    if !program.exists() {
        return Err(format!("{} is not there: build packetdrill first, as its README says", program.display()));
    }
    cubic_can_be_chosen()?;
    step(cargo(root).args(["build", "--quiet", "--package", "sockeye-packetdrill", "--features", "preload"]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let stack = Stack { library: target.join("debug/libsockeye_packetdrill.so"), tools: stand_ins(&target)? };
    let jobs = jobs(&top);
    let on_kernel = all(&jobs, |j| best_of(KERNEL_TRIES, || one(&program, j, None)));
    let passing: Vec<Job> = jobs.iter().filter(|j| on_kernel[&key(j)].is_ok()).cloned().collect();
    let on_sockeye = all(&passing, |j| one(&program, j, Some(&stack)));
    let failed: BTreeMap<String, String> =
        on_sockeye.iter().filter_map(|(k, r)| r.as_ref().err().map(|e| (k.clone(), e.clone()))).collect();
    println!(
        "{} runs, {} pass on the kernel, of these {} on sockeye",
        jobs.len(),
        passing.len(),
        passing.len() - failed.len()
    );
    let page = root.join("docs/packetdrill.md");
    let before = fs::read_to_string(&page).unwrap_or_default();
    fs::write(&page, write_page(&before, jobs.len(), passing.len(), &failed))
        .map_err(|e| format!("{}: {e}", page.display()))
}

/// sockeye as packetdrill and its scripts are given it.
struct Stack {
    library: PathBuf,
    tools: PathBuf,
}

/// A directory in which our runner has the names of the tools that it stands in for.
fn stand_ins(target: &Path) -> Result<PathBuf, String> {
    let dir = target.join("debug/packetdrill-tools");
    let made = fs::create_dir_all(&dir).and_then(|()| {
        TOOLS.iter().try_for_each(|tool| {
            let link = dir.join(tool);
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(target.join("debug/sockeye-packetdrill"), link)
        })
    });
    made.map_err(|e| format!("{}: {e}", dir.display()))?;
    fs::canonicalize(&dir).map_err(|e| format!("{}: {e}", dir.display()))
}

/// Scripts choose cubic, which Linux allows a network namespace only if its owner has listed it.
fn cubic_can_be_chosen() -> Outcome {
    let file = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
    let list = fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
    match list.split_whitespace().any(|w| w == "cubic") {
        true => Ok(()),
        false => Err(format!("sysctl -w net.ipv4.tcp_allowed_congestion_control='{} cubic' first", list.trim())),
    }
}

fn jobs(top: &Path) -> Vec<Job> {
    let mut files = scripts(&top.join("tcp"));
    files.sort();
    let mut jobs = Vec::new();
    for script in files {
        let name = script.strip_prefix(top).unwrap_or(&script).with_extension("").display().to_string();
        for (variant, (ip, _)) in VARIANTS.iter().enumerate() {
            let other = if *ip == "ipv6" { "v4" } else { "v6" };
            if !name.ends_with(other) {
                jobs.push(Job { script: script.clone(), name: name.clone(), variant });
            }
        }
    }
    jobs
}

fn key(j: &Job) -> String {
    format!("{} {}", j.name, VARIANTS[j.variant].0)
}

type Verdict = Result<(), String>;

/// Runs every job; what came of each.
fn all(jobs: &[Job], run: impl Fn(&Job) -> Verdict + Sync) -> BTreeMap<String, Verdict> {
    let (todo, done) = (Mutex::new(jobs.iter()), Mutex::new(BTreeMap::new()));
    std::thread::scope(|s| {
        for _ in 0..AT_ONCE {
            s.spawn(|| {
                loop {
                    let Some(job) = todo.lock().ok().and_then(|mut t| t.next()) else { return };
                    let verdict = run(job);
                    if let Ok(mut d) = done.lock() {
                        d.insert(key(job), verdict);
                    }
                }
            });
        }
    });
    done.into_inner().unwrap_or_default()
}

fn best_of(tries: usize, once: impl Fn() -> Verdict) -> Verdict {
    let mut verdict = once();
    for _ in 1..tries {
        verdict = verdict.or_else(|_| once());
    }
    verdict
}

/// The error is the first line in which packetdrill, or the stack, says what went wrong.
fn one(program: &Path, j: &Job, stack: Option<&Stack>) -> Verdict {
    let mut cmd = Command::new("timeout");
    cmd.args(["-s", "KILL", PATIENCE, "unshare", "--net", "sh", "-c", INSIDE, "sh"]);
    let nothing = Path::new("");
    cmd.arg(stack.map_or(nothing, |s| &s.library)).arg(stack.map_or(nothing, |s| &s.tools));
    cmd.arg(program).arg("--send_omit_free");
    let (ip, options) = VARIANTS[j.variant];
    cmd.args(options.split_whitespace());
    if let Some(s) = stack {
        let (mtu, peer) = if ip == "ipv6" { (1520, "fd3d:fa7b:d17d::1/128") } else { (1500, "192.0.2.1/32") };
        let flags = format!("mirror=/proc/sys;control=sockeye;mtu={mtu};route={peer}");
        cmd.arg(format!("--so_filename={}", s.library.display())).arg(format!("--so_flags={flags}"));
    }
    // What `nstat` has seen is this script's alone.
    let history =
        std::env::temp_dir().join(format!("nstat-{}-{}", std::process::id(), key(j).replace(['/', ' '], "-")));
    cmd.env("NSTAT_HISTORY", &history);
    cmd.arg(j.script.file_name().unwrap_or_default()).current_dir(j.script.parent().unwrap_or(Path::new(".")));
    let out = cmd.stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
    let _ = fs::remove_file(&history);
    if out.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    let says = |l: &&str| [".pkt:", "panicked", "ssertion", "sockeye:"].iter().any(|w| l.contains(w));
    Err(text.lines().find(says).or(text.lines().next()).unwrap_or("no answer in time").trim().to_owned())
}

const NOT_LOOKED_INTO: &str = "not looked into: ";

/// The page, with the reasons of the one before.
fn write_page(before: &str, runs: usize, kernel: usize, failed: &BTreeMap<String, String>) -> String {
    let line =
        |l: &str| l.strip_prefix("- ").and_then(|l| l.split_once(": ")).map(|(k, v)| (k.to_owned(), v.to_owned()));
    let reasons: BTreeMap<String, String> = before.lines().filter_map(line).collect();
    // The variants of a script that fail, under one reason.
    let mut lines: BTreeMap<(String, String), Vec<&str>> = BTreeMap::new();
    for (key, error) in failed {
        let (name, variant) = key.split_once(' ').unwrap_or((key, ""));
        let known = reasons.iter().find(|(k, r)| k.split(' ').next() == Some(name) && !r.starts_with(NOT_LOOKED_INTO));
        let error = error.split_once(".pkt:").map_or(error.as_str(), |(_, e)| e);
        let reason = known.map_or_else(|| format!("{NOT_LOOKED_INTO}{error}"), |(_, r)| r.clone());
        lines.entry((name.to_owned(), reason)).or_default().push(variant);
    }
    let mut page = format!(
        "# packetdrill\n\n\
         Of the {runs} runs of google/packetdrill's TCP scripts (each as IPv4, IPv6 and IPv4-mapped IPv6) {kernel} pass on the kernel\n\
         that this page was made beside, at least once in {KERNEL_TRIES} tries, with its congestion control set to cubic. Of these {} pass on\n\
         sockeye, in virtual time, where the tools that scripts call (`ip`, `tc`, `ethtool`, whatever reads `/proc/net`) act on sockeye:\n\
         crates/packetdrill/src/control.rs. The others, with the reason (`cargo xtask packetdrill --google DIR` writes this list and keeps\n\
         the reasons):\n\n",
        kernel - failed.len()
    );
    for ((name, reason), variants) in &lines {
        page += &format!("- {name} ({}): {reason}\n", variants.join(", "));
    }
    page += "\nThe scripts themselves are not ours and are not here. Our own are in tests/packetdrill.\n";
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_that_were_written_stay() {
        let before = "# x\n\n- tcp/a (ipv4): because\n- tcp/b (ipv6): not looked into: 7: boo\n";
        let failed = [
            ("tcp/a ipv4".to_owned(), "a.pkt:3: another".to_owned()),
            ("tcp/a ipv6".to_owned(), "a.pkt:3: another".to_owned()),
            ("tcp/b ipv6".to_owned(), "b.pkt:9: new".to_owned()),
        ];
        let page = write_page(before, 10, 5, &failed.into_iter().collect());
        assert!(page.contains("- tcp/a (ipv4, ipv6): because\n"), "{page}");
        assert!(page.contains("- tcp/b (ipv6): not looked into: 9: new\n"), "{page}");
        assert!(page.contains("Of these 2 pass"), "{page}");
    }
}
