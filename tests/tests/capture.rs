//! What a capture writes is what tshark reads: whole packets, right checksums, every byte of the stream.

use host::pcapng::{Capture, Filter};
use sockeye::{Link, Stack, TcpListener, TcpStream, UdpSocket};
use sockeye_tests::{TapSide, Transfer, netns_test, output, run};
use std::io::{Read, Write};
use std::net::{self, Shutdown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

/// Bytes each way; many packets of 64 KiB on a device that segments.
const LEN: u64 = 3 << 20;

/// A file that goes with the test.
struct Temp(PathBuf);

impl Temp {
    fn new(name: &str) -> Temp {
        Temp(std::env::temp_dir().join(format!("sockeye-{}-{name}.pcapng", std::process::id())))
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// One line a packet that a display filter selects; every checksum is checked.
fn tshark(file: &Path, filter: &str, fields: &[&str]) -> Vec<String> {
    let mut cmd = Command::new("tshark");
    cmd.arg("-r").arg(file).args(["-n", "-Y", filter, "-T", "fields", "-e", "frame.number"]);
    cmd.args(fields.iter().flat_map(|f| ["-e", f]));
    // ICMP's are always checked.
    for protocol in ["ip", "tcp", "udp"] {
        cmd.args(["-o", &format!("{protocol}.check_checksum:TRUE")]);
    }
    let out = output(&mut cmd);
    assert!(out.status.success(), "tshark: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned).collect()
}

/// Nothing malformed, no bad checksum, no packet cut short; answers how many packets there are.
fn must_be_clean(file: &Path) -> usize {
    // A kernel that quotes, in an ICMP error, a packet whose checksum was left to a device quotes it unfinished.
    let bad = "_ws.malformed || _ws.short || frame.cap_len < frame.len || ip.checksum.status == 0 \
               || tcp.checksum.status == 0 || (udp.checksum.status == 0 && !icmp && !icmpv6) || icmp.checksum.status == 0 \
               || icmpv6.checksum.status == 0 || tcp.analysis.lost_segment";
    let found = tshark(file, bad, &["_ws.col.Protocol", "_ws.col.Info"]);
    assert!(found.is_empty(), "tshark finds {} bad packets, such as {:?}", found.len(), &found[..found.len().min(3)]);
    tshark(file, "frame", &[]).len()
}

/// The payload bytes of TCP that one address sent.
fn tcp_bytes(file: &Path, source: &str) -> u64 {
    let field = if source.contains(':') { "ipv6.src" } else { "ip.src" };
    let filter = format!("tcp.len > 0 && {field} == {source} && !tcp.analysis.retransmission");
    let lens = tshark(file, &filter, &["tcp.len"]);
    lens.iter().filter_map(|l| l.split('\t').nth(1)?.parse::<u64>().ok()).sum()
}

netns_test! {
    fn tshark_finds_nothing_wrong_with_a_capture_of_a_tap_device() {
        let t = TapSide::new();
        let file = Temp::new("tap");
        let capture = Capture::create(&t.stack.net().reg, &file.0, Filter::Net(t.stack.net().clone())).expect("capture");
        let transfer = Transfer::new(LEN);
        for host in [TapSide::HOST4, TapSide::HOST6] {
            let listener = net::TcpListener::bind((host, 0)).expect("listen");
            let port = listener.local_addr().expect("name").port();
            thread::scope(|s| {
                s.spawn(|| {
                    let (mut c, _) = listener.accept().expect("accept");
                    Transfer::receive(&mut c).expect("receive");
                    transfer.send(&mut c).expect("send");
                });
                let mut c = TcpStream::connect(&t.stack, (host, port)).expect("connect");
                transfer.send(&mut c).expect("send");
                c.shutdown(Shutdown::Write).expect("half-close");
                Transfer::receive(&mut c).expect("receive");
            });
            let udp = UdpSocket::bind(&t.stack, (if host.contains(':') { "::" } else { "0.0.0.0" }, 0)).expect("bind");
            for n in [0, 1, 1000, 1473, 9000, 65507] {
                // Nobody listens: each is answered by an ICMP error, which quotes it.
                let _ = udp.send_to(&vec![7; n], (host, 9));
            }
        }
        run("ping", &["-c", "2", "-i", "0.01", "-s", "3000", TapSide::STACK4]);
        run("ping", &["-c", "2", "-i", "0.01", "-s", "3000", TapSide::STACK6]);
        let stats = capture.finish().expect("the capture's file");
        assert_eq!(stats.dropped, 0);
        assert_eq!(must_be_clean(&file.0) as u64, stats.written);
        for source in [TapSide::STACK4, TapSide::HOST4, TapSide::STACK6, TapSide::HOST6] {
            assert_eq!(tcp_bytes(&file.0, source), LEN, "{source}");
        }
        let largest = tshark(&file.0, "frame.len > 1514", &[]).len();
        assert_eq!(largest, 0, "frames larger than the wire's");
    }
}

#[test]
fn tshark_finds_nothing_wrong_with_a_capture_of_a_link() {
    let a = Stack::new().expect("a stack");
    let b = a.sibling();
    Link::new().addresses("10.8.0.1/24", "10.8.0.2/24").connect(&a, &b).expect("a link");
    let file = Temp::new("link");
    let capture = Capture::create(&a.net().reg, &file.0, Filter::Net(b.net().clone())).expect("capture");
    let listener = TcpListener::bind(&b, ("10.8.0.2", 0)).expect("listen");
    let port = listener.local_addr().expect("name").port();
    thread::scope(|s| {
        s.spawn(|| {
            let (mut c, _) = listener.accept().expect("accept");
            let mut all = Vec::new();
            c.read_to_end(&mut all).expect("receive");
            c.write_all(&all).expect("send");
        });
        let mut c = TcpStream::connect(&a, ("10.8.0.2", port)).expect("connect");
        Transfer::new(LEN).send(&mut c).expect("send");
        c.shutdown(Shutdown::Write).expect("half-close");
        Transfer::receive(&mut c).expect("receive");
    });
    let stats = capture.finish().expect("the capture's file");
    assert_eq!(stats.dropped, 0);
    assert_eq!(must_be_clean(&file.0) as u64, stats.written);
    assert_eq!(tcp_bytes(&file.0, "10.8.0.1"), LEN);
    assert_eq!(tcp_bytes(&file.0, "10.8.0.2"), LEN);
}
