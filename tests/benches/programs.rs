//! Benchmarks of programs: on a stack of their own (`sockeye run`), and native.
//!
//! Interface: `cargo xtask bench programs [nginx] [redis] [iperf3] [curl]`.
//! Linux counterpart: the same programs without sockeye.
//! Locks and context: a program; needs nginx, wrk, redis-server, redis-tools, iperf3, curl and python3, and the release binary.

use std::path::{Path, PathBuf};
use std::process::Command;

const RUNS: usize = 3;

/// One measurement: a shell script that starts servers in the background, waits for their ports, and prints what a client
/// measured; and how to read the figure out of its output.
struct Workload {
    name: &'static str,
    unit: &'static str,
    script: String,
    read: fn(&str) -> Option<f64>,
}

/// Waits until a port of loopback accepts, in the stack or outside.
const WAIT: &str = "wait_for() { python3 - \"$1\" <<'P'\nimport socket,sys,time\n\
    for _ in range(500):\n  s=socket.socket()\n  if s.connect_ex(('127.0.0.1',int(sys.argv[1])))==0: sys.exit(0)\n  s.close(); time.sleep(0.02)\n\
    sys.exit('the server on port '+sys.argv[1]+' did not come up')\nP\n}\n";

fn nginx_conf(dir: &Path) -> PathBuf {
    let path = dir.join("nginx.conf");
    let d = dir.display();
    std::fs::write(dir.join("index.html"), "hello\n").expect("index.html");
    let conf = format!(
        "worker_processes 2;\npid {d}/nginx.pid;\nerror_log {d}/error.log;\ndaemon off;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; \
         server {{ listen 127.0.0.1:18080 reuseport; root {d}; }} }}\n"
    );
    std::fs::write(&path, conf).expect("nginx.conf");
    path
}

fn workloads(dir: &Path) -> Vec<Workload> {
    let conf = nginx_conf(dir).display().to_string();
    let nginx = |name, wrk: &str| Workload {
        name,
        unit: "requests/s",
        script: format!(
            "{WAIT}nginx -c {conf} & N=$!\nwait_for 18080 || exit 1\nwrk -t1 {wrk} -d3s http://127.0.0.1:18080/index.html\nkill $N; wait"
        ),
        read: |out| number_after(out, "Requests/sec:"),
    };
    let redis = |name, args: &str| Workload {
        name,
        unit: "requests/s",
        script: format!(
            "{WAIT}redis-server --port 16379 --save '' --appendonly no >/dev/null & R=$!\nwait_for 16379 || exit 1\n\
             redis-benchmark -p 16379 -q --csv -t get -n 100000 {args}\nkill $R; wait"
        ),
        read: |out| out.lines().find(|l| l.starts_with("\"GET")).and_then(|l| l.split('"').nth(3)?.parse().ok()),
    };
    vec![
        nginx("nginx, keep-alive, 64 connections", "-c64"),
        nginx("nginx, a connection a request, 64 at once", "-c64 -H 'Connection: close'"),
        redis("redis GET, 50 connections", "-c 50"),
        redis("redis GET, pipelined 16", "-c 50 -P 16"),
        Workload {
            name: "iperf3, one TCP stream",
            unit: "Gbit/s",
            script: format!(
                "{WAIT}iperf3 -s -1 -p 15201 >/dev/null & sleep 0.5\niperf3 -c 127.0.0.1 -p 15201 -t 3 -J -C cubic; wait"
            ),
            read: |out| {
                let end = out.rsplit("\"sum_received\"").next()?;
                number_after(end, "\"bits_per_second\":").map(|b| b / 1e9)
            },
        },
    ]
}

fn number_after(text: &str, what: &str) -> Option<f64> {
    let rest = text.split(what).nth(1)?.trim_start();
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != 'e' && c != '+').unwrap_or(rest.len());
    rest[..end].parse().ok()
}

fn run(w: &Workload, sockeye: Option<&Path>) -> f64 {
    let mut cmd = match sockeye {
        Some(s) => {
            let mut c = Command::new(s);
            c.args(["run", "--net", "none", "--", "bash", "-c"]);
            c
        }
        None => {
            let mut c = Command::new("bash");
            c.arg("-c");
            c
        }
    };
    let out = cmd.arg(&w.script).output().expect("bash");
    let text = String::from_utf8_lossy(&out.stdout);
    let fail = || panic!("{}: no figure in\n{text}\n{}", w.name, String::from_utf8_lossy(&out.stderr));
    (w.read)(&text).unwrap_or_else(fail)
}

fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("workspace");
    let sockeye = root.join("target/release/sockeye");
    assert!(sockeye.exists(), "{} is missing: cargo build --release", sockeye.display());
    let dir = std::env::temp_dir().join(format!("sockeye-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("temporary directory");
    println!("| program | under sockeye run | native | | ratio |\n|---|---:|---:|---|---:|");
    for w in workloads(&dir) {
        if !chosen.is_empty() && !chosen.iter().any(|c| w.name.starts_with(c.as_str())) {
            continue;
        }
        let (mut ours, mut native) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            ours.push(run(&w, Some(&sockeye)));
            native.push(run(&w, None));
        }
        let (ours, native) = (median(ours), median(native));
        println!("| {} | {ours:.1} | {native:.1} | {} | {:.2} |", w.name, w.unit, ours / native);
    }
    let _ = std::fs::remove_dir_all(&dir);
}
