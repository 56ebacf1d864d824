//! The scripts of tests/packetdrill, against sockeye and against the kernel of this machine.

use sockeye_packetdrill::runner::{Against, Variant, kernel_unavailable, run_file, variants};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Scripts that run at the same time: on a kernel they mostly sleep.
const AT_ONCE: usize = 4;
/// Where time is real a script may be late because the machine is busy.
const TRIES: usize = 5;

fn scripts() -> Vec<(PathBuf, Variant)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/packetdrill");
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "pkt"));
    files.sort();
    assert!(files.len() >= 50, "where are the scripts?");
    files.iter().flat_map(|p| variants(p).into_iter().map(|v| (p.clone(), v))).collect()
}

/// Runs all of them; what fails, with its reason.
fn run_all(against: Against, tries: usize, at_once: usize) -> Vec<String> {
    let todo = Mutex::new(scripts());
    let failed = Mutex::new(Vec::new());
    let next = || todo.lock().unwrap().pop();
    std::thread::scope(|s| {
        for _ in 0..at_once {
            s.spawn(|| {
                while let Some((path, variant)) = next() {
                    // A thread of its own: on the kernel it leaves its network namespace for good.
                    let once = || {
                        let path = path.clone();
                        let run = std::thread::spawn(move || run_file(&path, variant, against));
                        run.join().unwrap_or_else(|_| Err("panicked".to_owned()))
                    };
                    let mut outcome = once();
                    for _ in 1..tries {
                        outcome = outcome.or_else(|_| once());
                    }
                    if let Err(e) = outcome {
                        failed.lock().unwrap().push(format!("{variant:?} {e}"));
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap()
}

#[test]
fn sockeye_does_what_the_scripts_say() {
    let failed = run_all(Against::Sockeye, 1, 1);
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn so_does_the_kernel_of_this_machine() {
    if let Some(why) = std::thread::spawn(kernel_unavailable).join().unwrap() {
        eprintln!("not run against the kernel: {why}");
        return;
    }
    let failed = run_all(Against::Kernel, TRIES, AT_ONCE);
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

/// docs/behaviours.md names every script, and nothing that is not there.
#[test]
fn the_page_of_behaviours_is_right() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join("docs/behaviours.md")).unwrap();
    // The first part says how the names are written.
    let (_, tables) = page.split_once("\n## ").unwrap();
    let named: Vec<&str> = tables.split('`').skip(1).step_by(2).collect();
    for path in scripts().into_iter().map(|(path, _)| path) {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(named.contains(&name), "{name} is not on the page");
    }
    for name in named {
        if let Some((file, test)) = name.split_once(": ") {
            let files = [root.join("crates/net/src").join(file), root.join(file)];
            let text = files.iter().find_map(|f| std::fs::read_to_string(f).ok());
            let text = text.unwrap_or_else(|| panic!("{file} is not there"));
            assert!(text.contains(&format!("fn {test}(")), "{file} has no {test}");
        } else if name.ends_with(".pkt") {
            assert!(root.join("tests/packetdrill").join(name).exists(), "{name} is not there");
        }
    }
}

/// A wrong expectation is reported, with its line.
#[test]
fn what_does_not_happen_is_reported() {
    let dir = std::env::temp_dir().join(format!("sockeye-packetdrill-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let run = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        run_file(&path, Variant::Ipv4, Against::Sockeye)
    };
    let head = "0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3\n+0 bind(3, ..., ...) = 0\n+0 listen(3, 1) = 0\n\
        +0 < S 0:0(0) win 1000 <mss 1000>\n";
    let cases = [
        ("+0 > S. 0:0(0) ack 1 <mss 1460>", None),
        ("+0 > S. 0:0(0) ack 2 <mss 1460>", Some(":5: another acknowledgment")),
        ("+0 > S. 0:0(0) ack 1 <mss 1400>", Some(":5: other options")),
        ("+0 > . 0:0(0) ack 1", Some(":5: another set of flags")),
        ("+.1 > S. 0:0(0) ack 1 <mss 1460>", Some(":5: timing")),
        ("+0 > S. 0:0(0) ack 1 <...>\n+0 > . 1:1(0) ack 1", Some(":6: no packet came")),
        ("+0...0.1 accept(3, ..., ...) = 4", Some(":5: accept has not ended")),
        ("+0 close(3) = -1 EBADF", Some(":5: close answered 0, not EBADF")),
    ];
    for (i, (tail, want)) in cases.into_iter().enumerate() {
        let got = run(&format!("{i}.pkt"), &format!("{head}{tail}\n"));
        match want {
            None => assert_eq!(got, Ok(())),
            Some(w) => assert!(got.as_ref().is_err_and(|e| e.contains(w)), "{tail}: {got:?}"),
        }
    }
    std::fs::remove_dir_all(&dir).unwrap();
}
