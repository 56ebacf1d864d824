//! What `nmap -O` takes a stack on a TAP device for: what it takes this machine's kernel for.
//!
//! Its database is of 2022 and knows no kernel since 6.0: none has a line of its own there. So what it saw is compared, field
//! by field, with what it sees of the kernel, and its best guesses have to be of Linux.

use sockeye::{Stack, TcpListener};
use sockeye_tests::{TapSide, netns_test, run};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

const KERNEL: &str = "10.9.1.1";
const SCANNER: &str = "10.9.1.2";

/// What comes out of chance: how sequence numbers spread and grow, and the rate of timestamps, which begin anywhere on each
/// connection on a kernel that hides them from other ports' users.
const CHANCE: [&str; 4] = ["SEQ.SP", "SEQ.GCD", "SEQ.ISR", "SEQ.TS"];

/// What nmap saw, `TEST.FIELD`; and its guesses, the likeliest first, with their accuracy in percent.
#[derive(Debug)]
struct Seen {
    fields: BTreeMap<String, String>,
    guesses: Vec<(String, u32)>,
}

/// Scans an open port, 80, and a closed one, by a command that `nmap` and its arguments are put behind.
fn scan(by: &[&str], host: &str) -> Seen {
    // A busy machine answers late; what does not answer, by Linux's habit, is waited for as long.
    let args = "nmap -O --osscan-guess --max-os-tries 1 --min-rtt-timeout 500ms -d -n -Pn -p 80,81 -oX -";
    let words: Vec<&str> = by.iter().copied().chain(args.split(' ')).chain([host]).collect();
    let xml = run(words[0], &words[1..]);
    let text = |s: &str| s.replace("&#xa;OS:", "").replace("&#xa;", "");
    let value = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!("{name}=\""))?;
        rest.split_once('"').map(|(v, _)| text(v))
    };
    let print = xml.lines().find_map(|l| value(l, "osfingerprint fingerprint")).unwrap_or_else(|| panic!("{xml}"));
    let mut fields = BTreeMap::new();
    for test in print.split(')') {
        let Some((name, values)) = test.split_once('(') else { continue };
        let values = values.split('%').filter_map(|v| v.split_once('='));
        fields.extend(values.map(|(k, v)| (format!("{}.{k}", name.trim_start_matches("OS:")), v.to_owned())));
    }
    fields.retain(|k, _| !k.starts_with("SCAN."));
    let guess = |l: &str| Some((value(l, "osmatch name")?, value(l, "accuracy")?.parse().ok()?));
    Seen { fields, guesses: xml.lines().filter_map(guess).collect() }
}

/// A process in a network namespace of its own, until its input ends.
fn elsewhere() -> Child {
    let mut cmd = Command::new("unshare");
    let mut child = cmd.args(["-n", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("unshare");
    let mut line = String::new();
    child.stdin.as_mut().expect("piped").write_all(b"there\n").expect("it reads");
    BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("it writes");
    assert_eq!(line, "there\n");
    child
}

/// This machine's kernel, with the stack's limits, at one end of a veth pair; scanned from the other.
fn scan_kernel(like: &Stack) -> Seen {
    let rmem = ["min", "default", "max"].map(|w| like.sysctl(&format!("net.ipv4.tcp_rmem.{w}")).expect("it is there"));
    std::fs::write("/proc/sys/net/ipv4/tcp_rmem", rmem.map(|n| n.to_string()).join(" ")).expect("this namespace's own");
    let mut other = elsewhere();
    let pid = other.id().to_string();
    let there = ["nsenter", "-n", "-t", &pid];
    let ip = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        run(words[0], &words[1..])
    };
    ip(&format!("ip link add nmap0 type veth peer name nmap1 netns {pid}"));
    ip(&format!("ip addr add {KERNEL}/24 dev nmap0"));
    ip("ip link set nmap0 up");
    ip(&format!("{} ip addr add {SCANNER}/24 dev nmap1", there.join(" ")));
    ip(&format!("{} ip link set nmap1 up", there.join(" ")));
    let _open = std::net::TcpListener::bind((KERNEL, 80)).expect("listen");
    let seen = scan(&there, KERNEL);
    drop(other.stdin.take());
    other.wait().expect("it ends");
    seen
}

netns_test! {
    /// Identifications, options, windows and what closed ports answer are the kernel's.
    fn nmap_takes_it_for_a_recent_linux() {
        let side = TapSide::new();
        let _open = TcpListener::bind(&side.stack, (TapSide::STACK4, 80)).expect("listen");
        let (ours, mut kernel) = (scan(&[], TapSide::STACK4), scan_kernel(&side.stack));
        eprintln!("sockeye: {:?}\nkernel:  {:?}", ours.guesses, kernel.guesses);
        let recent = ["Linux 4.15", "Linux 5.", "Linux 6.", "Linux 7."];
        let (best, _) = ours.guesses.first().unwrap_or_else(|| panic!("no guess: {ours:?}"));
        assert!(best.starts_with("Linux"), "{ours:?}");
        assert!(ours.guesses.iter().any(|(n, p)| *p >= 90 && recent.iter().any(|r| n.starts_with(r))), "{ours:?}");
        for f in CHANCE {
            assert!(ours.fields.contains_key(f), "{f}: {ours:?}");
            kernel.fields.insert(f.to_owned(), ours.fields[f].clone());
        }
        let differ = |f: &&String| ours.fields.get(*f) != kernel.fields.get(*f);
        let all: BTreeSet<&String> = ours.fields.keys().chain(kernel.fields.keys()).collect();
        let differ: Vec<_> = all.iter().filter(|f| differ(f)).map(|f| (f, ours.fields.get(*f), kernel.fields.get(*f))).collect();
        assert!(all.len() > 60 && differ.is_empty(), "field, sockeye's, the kernel's: {differ:?}");
    }
}
