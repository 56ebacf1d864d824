//! Unmodified programs under `sockeye run`, as root and as an ordinary user.
//!
//! Interface: tests. They run the release binary; `cargo xtask test` builds it.
//! Linux counterpart: the same programs on Linux.
//! Locks and context: each test is a process tree of its own; the host sees at most a published loopback port.

#[path = "programs/ioctls.rs"]
mod ioctls;

use sockeye_tests::{in_netns, is_root, make_tap, output, sockeye, wait_for_port};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// For every script: `wait_for PORT` returns once somebody listens there, inside the stack.
const PRELUDE: &str = "wait_for() { for i in $(seq 400); do (exec 3<>/dev/tcp/127.0.0.1/$1) 2>/dev/null && return; sleep 0.05; done; \
                       echo \"nobody listens at $1\" >&2; exit 99; }\n";

fn text(b: &[u8]) -> String {
    String::from_utf8_lossy(b).into_owned()
}

/// Runs under `sockeye run`, within two minutes; must succeed. Its standard output.
fn ok(user: bool, options: &[&str], program: &[&str]) -> String {
    let out = run(user, options, program);
    assert!(out.status.success(), "{program:?}: {}\n{}\n{}", out.status, text(&out.stdout), text(&out.stderr));
    text(&out.stdout)
}

fn run(user: bool, options: &[&str], program: &[&str]) -> Output {
    let mut args = vec!["run"];
    args.extend(options);
    args.push("--");
    args.extend(["timeout", "120"]);
    args.extend(program);
    output(&mut sockeye(user, &args))
}

fn script(user: bool, options: &[&str], script: &str) -> String {
    ok(user, options, &["bash", "-c", &format!("{PRELUDE}{script}")])
}

/// A directory that anybody may use, gone with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("sockeye-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        Dir(path)
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A program in the background, ended with the test.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

fn background(user: bool, args: &[&str]) -> Background {
    Background(sockeye(user, args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// A port of loopback that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[test]
fn the_page_tells_the_story_of_its_connection() {
    for user in [false, true] {
        let page = ok(user, &[], &["curl", "-sS", "http://10.0.2.2/"]);
        for part in
            ["10.0.2.15:", " -> 10.0.2.2:80", "SYN,ACK", "mss 1460, sackOK", "round-trip time", "congestion window"]
        {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
        let mut rest = page.as_str();
        for f in [
            "tcp_transmit_skb",
            "ip_queue_xmit",
            "dev_queue_xmit",
            "veth_xmit",
            "ip_rcv",
            "tcp_v4_rcv",
            "tcp_rcv_established",
        ] {
            let at = rest.find(f).unwrap_or_else(|| panic!("{f} does not follow in\n{page}"));
            rest = &rest[at..];
        }
        assert!(page.contains("inside the stack\n  0 "), "{page}");
    }
}

#[test]
fn a_refused_connection_is_refused() {
    // Port 9 (discard) of the host's loopback; nobody listens on a fresh port either.
    let port = free_port();
    let out = run(false, &[], &["curl", "-sS", &format!("http://10.0.2.2:{port}/")]);
    assert_eq!(out.status.code(), Some(7), "{}", text(&out.stderr));
}

#[test]
fn the_host_is_reached_through_the_gateway() {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let body = vec![b'x'; 3_000_000];
    let sent = body.clone();
    let server = std::thread::spawn(move || {
        let (mut s, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(s.try_clone().unwrap()).read_line(&mut line).unwrap();
        write!(s, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", sent.len()).unwrap();
        s.write_all(&sent).unwrap();
        line
    });
    let got = ok(true, &[], &["curl", "-sS", &format!("http://10.0.2.2:{port}/file")]);
    assert!(got.as_bytes() == body);
    assert_eq!(server.join().unwrap().trim_end(), "GET /file HTTP/1.1");
}

#[test]
fn python_serves_a_browser_through_a_published_port() {
    for user in [false, true] {
        let dir = Dir::new(if user { "py-user" } else { "py-root" });
        let content = "0123456789".repeat(50_000);
        dir.file("big", &content);
        dir.file("small", "small\n");
        let port = free_port();
        let root = dir.path().display().to_string();
        let publish = format!("{port}:8000");
        let server = ["python3", "-m", "http.server", "--protocol", "HTTP/1.1", "-d", &root, "8000"];
        let _server = background(user, &[&["run", "--publish", &publish, "--"], &server[..]].concat());
        drop(wait_for_port(local(port)));
        // As a browser does: a few connections at once, each used again.
        let clients: Vec<_> = (0..6)
            .map(|_| {
                let want = content.clone();
                std::thread::spawn(move || {
                    let mut s = until_it_answers(port);
                    for (name, want) in [("small", "small\n"), ("big", want.as_str()), ("small", "small\n")] {
                        assert_eq!(get(&mut s, name), want);
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|c| c.join().unwrap());
    }
}

/// The gateway accepts before the program listens; then it resets the connection, maybe before `connect` has returned.
fn until_it_answers(port: u16) -> TcpStream {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        let Ok(mut s) = TcpStream::connect(local(port)) else { continue };
        s.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let asked = s.write_all(b"HEAD /small HTTP/1.1\r\nHost: x\r\n\r\n");
        let mut r = BufReader::new(s.try_clone().unwrap());
        let mut line = String::new();
        if asked.is_ok() && r.read_line(&mut line).is_ok_and(|n| n > 0) {
            assert!(line.starts_with("HTTP/1.1 200"), "{line}");
            while r.read_line(&mut line).unwrap() > 2 {
                line.clear();
            }
            return s;
        }
        std::thread::yield_now();
    }
    panic!("the server does not answer");
}

fn get(s: &mut TcpStream, name: &str) -> String {
    write!(s, "GET /{name} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n").unwrap();
    let mut r = BufReader::new(s);
    let (mut line, mut len) = (String::new(), 0);
    while r.read_line(&mut line).unwrap() > 2 {
        if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            len = n.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut body = vec![0; len];
    r.read_exact(&mut body).unwrap();
    String::from_utf8(body).unwrap()
}

#[test]
fn datagrams_through_a_published_port() {
    let port = free_port();
    let echo = "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.bind(('',7))\n\
                while True:\n  d,a=s.recvfrom(70000)\n  s.sendto(d,a)";
    let publish = format!("{port}:7/udp");
    let _server = background(true, &["run", "--publish", &publish, "--", "python3", "-c", echo]);
    let clients: Vec<_> = (0..3).map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
    for (i, c) in clients.iter().enumerate() {
        c.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        c.connect(local(port)).unwrap();
        // The first are lost while the program starts.
        let hello = [b'a' + i as u8; 9];
        let mut buf = [0; 65536];
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut answered = false;
        while !answered && Instant::now() < deadline {
            // Refused at once while sockeye starts.
            answered = c.send(&hello).is_ok() && c.recv(&mut buf).is_ok_and(|n| buf[..n] == hello);
        }
        assert!(answered, "client {i} got no answer");
        // Late answers to the hellos come first.
        let big = vec![i as u8; 40_000];
        c.send(&big).unwrap();
        while !c.recv(&mut buf).is_ok_and(|n| n == big.len()) {}
        assert_eq!(&buf[..big.len()], &big[..]);
    }
}

#[test]
fn static_busybox() {
    for user in [false, true] {
        let page = ok(user, &[], &["busybox", "wget", "-q", "-O", "-", "http://10.0.2.2/"]);
        assert!(page.contains("tcp_v4_rcv"), "{page}");
    }
    let dir = Dir::new("busybox");
    dir.file("f", "from busybox\n");
    let s = format!(
        "busybox httpd -f -p 8000 -h {} & H=$!; wait_for 8000; busybox wget -q -O - http://127.0.0.1:8000/f; kill $H",
        dir.path().display()
    );
    assert_eq!(script(true, &["--net", "none"], &s), "from busybox\n");
}

#[test]
fn a_go_program() {
    let dir = Dir::new("go");
    let source = dir.file(
        "main.go",
        r#"package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
)

func main() {
	l, err := net.Listen("tcp", ":9090")
	if err != nil {
		panic(err)
	}
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }))
	var wg sync.WaitGroup
	for i := 0; i < 20; i++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for j := 0; j < 50; j++ {
				get("http://127.0.0.1:9090/")
			}
		}()
	}
	wg.Wait()
	fmt.Print(get("http://10.0.2.2/"))
}

func get(url string) string {
	r, err := http.Get(url)
	if err != nil {
		panic(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	return string(b)
}
"#,
    );
    let program = dir.path().join("program").display().to_string();
    let mut build = Command::new("go");
    build.args(["build", "-o", &program, &source]).env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=mod");
    build.env("GOCACHE", dir.path().join("cache")).current_dir(dir.path());
    let built = output(&mut build);
    assert!(built.status.success(), "{}", text(&built.stderr));
    for user in [false, true] {
        assert!(ok(user, &[], &[&program]).contains("tcp_v4_rcv"));
    }
}

#[test]
fn node() {
    let program = "const http=require('http');let n=0;\
        const s=http.createServer((q,r)=>r.end('x'.repeat(100000))).listen(9091,()=>next());\
        function next(){if(n++==200){return s.close()}\
        http.get({port:9091,agent:false},r=>{let l=0;r.on('data',d=>l+=d.length);\
        r.on('end',()=>{if(l!=100000){process.exit(1)}next()})}).on('error',e=>{console.log(e);process.exit(2)})}\
        s.on('close',()=>console.log('done'))";
    for user in [false, true] {
        assert_eq!(ok(user, &["--net", "none"], &["node", "-e", program]), "done\n");
    }
}

#[test]
fn nginx_with_two_workers_under_wrk() {
    for user in [false, true] {
        let dir = Dir::new(if user { "nginx-user" } else { "nginx-root" });
        let d = dir.path().display().to_string();
        dir.file("index.html", "hello\n");
        let conf = dir.file(
            "nginx.conf",
            &format!(
                "worker_processes 2;\npid {d}/nginx.pid;\nerror_log {d}/error.log;\ndaemon off;\nevents {{ worker_connections 1024; }}\n\
                 http {{ access_log off; client_body_temp_path {d}/a; proxy_temp_path {d}/b; fastcgi_temp_path {d}/c;\n\
                 uwsgi_temp_path {d}/d; scgi_temp_path {d}/e; server {{ listen 8080; root {d}; }} }}\n"
            ),
        );
        let s = format!(
            "nginx -c {conf} -e {d}/error.log & wait_for 8080\nwrk -t1 -c64 -d5s http://127.0.0.1:8080/index.html\nkill $(cat {d}/nginx.pid); wait"
        );
        let out = script(user, &["--net", "none"], &s);
        assert!(out.contains("Requests/sec:"), "{out}");
        assert!(!out.contains("Socket errors") && !out.contains("Non-2xx"), "{out}");
    }
}

#[test]
fn redis_under_its_benchmark() {
    for user in [false, true] {
        let s = "redis-server --port 6399 --save '' --dir /tmp > /dev/null & R=$!; wait_for 6399\n\
                 redis-benchmark -p 6399 -q --csv -t set,get,lrange_100 -n 20000 -c 50 -P 4 || exit 1\n\
                 redis-cli -p 6399 set key value; redis-cli -p 6399 get key; redis-cli -p 6399 shutdown nosave; wait";
        let out = script(user, &["--net", "none"], s);
        assert!(out.contains("\"GET\"") && out.contains("\"SET\"") && out.contains("OK\nvalue\n"), "{out}");
    }
}

#[test]
fn iperf3_client_and_server() {
    for user in [false, true] {
        let s = "iperf3 -s -1 > /dev/null & wait_for_server() { for i in $(seq 100); do ss=$(iperf3 -c 127.0.0.1 $1 -t 1 2>&1) && { echo \"$ss\"; return; }; sleep 0.1; done; echo \"$ss\"; exit 1; }\n\
                 wait_for_server ''; wait; iperf3 -s -1 > /dev/null & wait_for_server '-R'; wait\n\
                 iperf3 -s -1 > /dev/null & wait_for_server '-u -b 50M'; wait";
        let out = script(user, &["--net", "none"], s);
        assert_eq!(out.matches("iperf Done.").count(), 3, "{out}");
    }
}

#[test]
fn half_close_reset_fork_and_timeouts() {
    let program = r#"
import errno, os, socket, struct
l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); l.bind(("127.0.0.1", 0)); l.listen(8)
at = l.getsockname()

# Half-close: the answer comes after the client's end of data.
c = socket.create_connection(at); s, _ = l.accept()
c.sendall(b"question"); c.shutdown(socket.SHUT_WR)
got = b""
while True:
    b = s.recv(100)
    if not b: break
    got += b
s.sendall(got + b" answered"); s.close()
assert c.recv(100) == b"question answered" and c.recv(100) == b""
c.close()

# Reset: linger 0 at one end, ECONNRESET at the other.
c = socket.create_connection(at); s, _ = l.accept()
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)); s.close()
try:
    c.recv(1); assert False, "no reset"
except ConnectionResetError: pass
c.close()

# Fork after accept: the child serves, the parent's close does not disturb.
c = socket.create_connection(at); s, _ = l.accept()
if os.fork() == 0:
    s.sendall(b"from the child"); os._exit(0)
s.close(); os.wait()
assert c.recv(100) == b"from the child" and c.recv(100) == b""

# Time-outs: nobody answers.
c = socket.create_connection(at); c.settimeout(0.2)
try:
    c.recv(1); assert False, "no time-out"
except TimeoutError: pass
l.settimeout(0.2); l.accept()
try:
    l.accept(); assert False, "no time-out"
except TimeoutError: pass

# Non-blocking connect, refused.
n = socket.socket(); n.setblocking(False)
l.close()
e = n.connect_ex(at)
if e == errno.EINPROGRESS:
    import select
    select.select([], [n], [], 10)
    e = n.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
assert e == errno.ECONNREFUSED, e
print("all well")
"#;
    for user in [false, true] {
        assert_eq!(ok(user, &["--net", "none"], &["python3", "-c", program]), "all well\n");
    }
}

#[test]
fn tshark_finds_nothing_wrong_in_a_capture() {
    let dir = Dir::new("pcap");
    let file = dir.path().join("out.pcapng").display().to_string();
    ok(true, &["--pcap", &file], &["curl", "-sS", "http://10.0.2.2/"]);
    let tshark = |filter: &str| {
        let mut cmd = Command::new("tshark");
        cmd.args([
            "-r",
            &file,
            "-o",
            "ip.check_checksum:TRUE",
            "-o",
            "tcp.check_checksum:TRUE",
            "-o",
            "udp.check_checksum:TRUE",
        ]);
        let out = output(cmd.args(["-Y", filter]));
        assert!(out.status.success(), "{}", text(&out.stderr));
        text(&out.stdout)
    };
    assert!(tshark("tcp.port == 80").lines().count() >= 8);
    let bad = "_ws.malformed || ip.checksum.status == 0 || tcp.checksum.status == 0 || udp.checksum.status == 0 || icmpv6.checksum.status == 0";
    assert_eq!(tshark(bad), "");
}

#[test]
fn the_trace_is_a_call_tree() {
    let out = run(true, &["--trace"], &["curl", "-sS", "-o", "/dev/null", "http://10.0.2.2/"]);
    let trace = text(&out.stderr);
    assert!(out.status.success(), "{trace}");
    let depth = |name: &str| {
        let line = trace.lines().find(|l| l.split_whitespace().any(|w| w == name));
        line.unwrap_or_else(|| panic!("{name} is not in\n{trace}")).find(name).unwrap()
    };
    assert!(depth("inet_sendmsg") > depth("sock_sendmsg"), "callees are indented");
    assert!(depth("tcp_transmit_skb") > depth("tcp_sendmsg"));
}

#[test]
fn what_cannot_be_run_is_said_in_one_line() {
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let publish = format!("{}:80", taken.local_addr().unwrap().port());
    let cases: [(&[&str], &str, i32, &str); 9] = [
        (&[], "no-such-program-here", 127, "install it"),
        (&[], "/etc/passwd", 126, "cannot be executed"),
        (&["--net", "tap:sk-nosuch", "--ip", "192.0.2.2/24"], "true", 125, "no such device"),
        (&["--publish", &publish], "true", 125, "another program listens there"),
        (&["--ip", "10.0.2/24"], "true", 125, "is not an IP address"),
        (&["--ip", "10.0.2.15"], "true", 125, "prefix length"),
        (&["--publish", "80"], "true", 125, "HOSTPORT:PORT"),
        (&["--net", "bridge"], "true", 125, "tap:"),
        (&["--net", "none", "--publish", "18080:80"], "true", 125, "--publish needs the network `user`"),
    ];
    for (options, program, status, says) in cases {
        let args = [&["run"], options, &["--", program]].concat();
        // A directory of PATH that the user may not read would make it 126, as env(1) says then.
        let out = output(sockeye(true, &args).env("PATH", "/usr/bin:/bin"));
        let err = text(&out.stderr);
        assert_eq!(out.status.code(), Some(status), "{args:?}: {err}");
        assert!(err.contains(says), "{args:?}: {err}");
        assert!(err.lines().next().is_some_and(|l| l.starts_with("sockeye: ") || l.starts_with("error: ")), "{err}");
    }
}

#[test]
fn exit_status_and_signals_are_the_programs() {
    let status = |s: &str| run_plain(s).status.code();
    assert_eq!(status("exit 7"), Some(7));
    assert_eq!(status("kill -KILL $$"), Some(137));
    // SIGTERM to sockeye reaches the program, which says so and chooses its own status.
    let s = "trap 'exit 42' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child =
        sockeye(true, &["run", "--net", "none", "--", "bash", "-c", s]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(42));
}

fn run_plain(script: &str) -> Output {
    output(&mut sockeye(true, &["run", "--net", "none", "--", "sh", "-c", script]))
}

/// A program fills every buffer up to a reader on the host, and ends. All of it arrives; for the time `slow` the reader takes
/// 200 KB a second.
fn what_is_left_behind_arrives(slow: Duration) {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 4096).unwrap();
    let port = listener.local_addr().unwrap().port();
    let program = format!(
        "import select, socket\ns=socket.create_connection(('10.0.2.2',{port}))\ns.setblocking(False)\n\
         p=select.poll()\np.register(s,select.POLLOUT)\nn=0\n\
         while p.poll(1000): n+=s.send(bytes(1<<20))\n\
         s.close()\nprint(n,flush=True)"
    );
    let mut cmd = sockeye(true, &["run", "--", "python3", "-c", &program]);
    let mut child = cmd.stdout(Stdio::piped()).spawn().unwrap();
    let (mut s, _) = listener.accept().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let left: usize = line.trim().parse().unwrap();
    let (mut got, mut piece, begin) = (0, [0; 1024], Instant::now());
    loop {
        match s.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) => panic!("{} bytes of {left} are missing: {e}", left - got),
        }
        if begin.elapsed() < slow {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    assert_eq!(got, left);
    assert!(child.wait().unwrap().success());
}

#[test]
fn what_a_program_left_behind_reaches_the_host() {
    what_is_left_behind_arrives(Duration::ZERO);
}

#[test]
fn a_host_that_reads_slowly_gets_all_that_a_program_left_behind() {
    what_is_left_behind_arrives(Duration::from_secs(21));
}

#[test]
fn a_tap_device_of_somebody_else_is_refused_in_one_line() {
    if !is_root() {
        return eprintln!("only root can make a device that the user under test does not own: not shown here");
    }
    in_netns("a_tap_device_of_somebody_else_is_refused_in_one_line", || {
        make_tap("sk-theirs");
        let out = output(&mut sockeye(true, &["run", "--net", "tap:sk-theirs", "--ip", "192.0.2.2/24", "--", "true"]));
        let err = text(&out.stderr);
        assert_eq!(out.status.code(), Some(125), "{err}");
        assert!(
            err.contains("no permission for TAP device sk-theirs") || err.contains("chmod 666 /dev/net/tun"),
            "{err}"
        );
        assert_eq!(err.trim_end().lines().count(), 1, "{err}");
    });
}
