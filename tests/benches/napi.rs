//! What a packet costs in interrupts, from idle to a flood and back; and what is left for others meanwhile.
//!
//! Interface: `cargo xtask bench napi [SECONDS]`: rewrites the table and the plot of `docs/napi.md`; SECONDS a row, 2 by default.
//! Linux counterpart: `pktgen`, `/proc/interrupts`, `/proc/net/softnet_stat`.
//! Locks and context: a program; runs itself again in a network namespace of its own.
//!
//! One worker serves two TAP devices. The machine's kernel floods the first with datagrams for a socket that is being read.
//! Meanwhile a client asks an echo server over the second, one question at a time, as fast as it gets answers.

#[path = "napi/page.rs"]
mod page;

use net::core::dev::{NapiCounts, NapiStruct, dev_get_by_name};
use page::Row;
use sockeye::{Stack, UdpSocket};
use sockeye_tests::{TapSide, is_root, make_tap, run};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

const INSIDE: &str = "SOCKEYE_BENCH_INSIDE";
/// The second device: this machine's address, and the stack's.
const OTHER_HOST: &str = "10.10.0.1";
const OTHER_STACK: &str = "10.10.0.2";
const SINK: u16 = 9;
const ECHO: u16 = 7;
/// Questions a second over the flooded device itself.
const PROBES: u64 = 100;
const BATCH: usize = 64;
/// The whole series is measured so often; the page shows medians.
const RUNS: usize = 3;
/// A datagram of the flood fills the smallest Ethernet frame.
const PAYLOAD: [u8; 18] = [7; 18];

/// Datagrams a second of each row; `None`: as many as can be sent.
const RATES: [(&str, Option<u64>); 10] = [
    ("idle", Some(0)),
    ("1,000", Some(1_000)),
    ("3,000", Some(3_000)),
    ("10,000", Some(10_000)),
    ("30,000", Some(30_000)),
    ("100,000", Some(100_000)),
    ("300,000", Some(300_000)),
    ("unlimited", None),
    ("1,000 again", Some(1_000)),
    ("idle again", Some(0)),
];

fn main() {
    let seconds = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(2);
    if std::env::var_os(INSIDE).is_none() {
        let me = std::env::current_exe().expect("the path of this program");
        let mut cmd = std::process::Command::new("unshare");
        cmd.args(if is_root() { &["-n"][..] } else { &["-r", "-n"] }).arg("--").arg(me).arg(seconds.to_string());
        let status = cmd.env(INSIDE, "1").status().expect("unshare (package util-linux)");
        return assert!(status.success(), "in a namespace: {status}");
    }
    let bench = Bench::start();
    let time = Duration::from_secs(seconds);
    let all: Vec<Vec<Row>> =
        (0..RUNS).map(|_| RATES.iter().map(|&(name, rate)| bench.row(name, rate, time)).collect()).collect();
    let rows: Vec<Row> = (0..RATES.len()).map(|i| page::median(&all, i)).collect();
    page::write(&rows);
}

struct Bench {
    _stack: Stack,
    napi: Arc<NapiStruct>,
    stop: Arc<AtomicBool>,
    /// Datagrams that the flooded socket's reader got.
    read: Arc<AtomicU64>,
    /// Round trips over the other device.
    trips: Arc<AtomicU64>,
    asked: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
}

impl Bench {
    fn start() -> Bench {
        run("ip", &["link", "set", "lo", "up"]);
        make_tap("tap0");
        run("ip", &["tuntap", "add", "dev", "tap1", "mode", "tap", "vnet_hdr"]);
        run("ip", &["addr", "add", &format!("{OTHER_HOST}/24"), "dev", "tap1"]);
        run("ip", &["link", "set", "tap1", "up"]);
        let stack = Stack::builder().workers(1).build().expect("a stack");
        for (tap, address) in [("tap0", TapSide::STACK4), ("tap1", OTHER_STACK)] {
            let dev = stack.add_tap(tap).expect("the TAP device");
            stack.add_address(&dev, &format!("{address}/24")).expect("an address");
        }
        let dev = dev_get_by_name(stack.net(), "eth0").expect("eth0");
        let napi = dev.napis().first().cloned().expect("its queue");
        let bench = Bench {
            _stack: stack.clone(),
            napi,
            stop: Arc::default(),
            read: Arc::default(),
            trips: Arc::default(),
            asked: Arc::default(),
            answered: Arc::default(),
        };
        bench.servers(&stack);
        bench.clients();
        bench
    }

    /// A socket that is flooded, and read; one that answers.
    fn servers(&self, stack: &Stack) {
        let sink = UdpSocket::bind(stack, (TapSide::STACK4, SINK)).expect("bind");
        let read = self.read.clone();
        std::thread::spawn(move || {
            let mut buf = [0; 64];
            while sink.recv(&mut buf).is_ok() {
                read.fetch_add(1, Relaxed);
            }
        });
        for address in [TapSide::STACK4, OTHER_STACK] {
            let echo = UdpSocket::bind(stack, (address, ECHO)).expect("bind");
            std::thread::spawn(move || {
                let mut buf = [0; 64];
                while let Ok((n, from)) = echo.recv_from(&mut buf) {
                    let _ = echo.send_to(&buf[..n], from);
                }
            });
        }
    }

    fn clients(&self) {
        let (stop, trips) = (self.stop.clone(), self.trips.clone());
        std::thread::spawn(move || {
            let mut q = Questions::to(OTHER_STACK, Duration::from_millis(200));
            while !stop.load(Relaxed) {
                trips.fetch_add(u64::from(q.ask()), Relaxed);
            }
        });
        let (stop, asked, answered) = (self.stop.clone(), self.asked.clone(), self.answered.clone());
        std::thread::spawn(move || {
            let mut q = Questions::to(TapSide::STACK4, Duration::from_nanos(1_000_000_000 / PROBES));
            while !stop.load(Relaxed) {
                let start = Instant::now();
                asked.fetch_add(1, Relaxed);
                answered.fetch_add(u64::from(q.ask()), Relaxed);
                std::thread::sleep(q.patience.saturating_sub(start.elapsed()));
            }
        });
    }

    fn row(&self, name: &str, rate: Option<u64>, time: Duration) -> Row {
        // What the row before has left in queues is not this one's.
        std::thread::sleep(Duration::from_millis(300));
        let start = Instant::now();
        let before = self.counts();
        let sent = flood(rate, start + time);
        let after = self.counts();
        let seconds = start.elapsed().as_secs_f64();
        let per_second = |n: u64| n as f64 / seconds;
        let napi = after.0 - before.0;
        let [read, trips, asked, answered] = std::array::from_fn(|i| after.1[i] - before.1[i]);
        let row = Row {
            name: name.to_owned(),
            offered: per_second(sent),
            received: per_second(napi.packets),
            read: per_second(read),
            interrupts: per_second(napi.interrupts),
            polls: per_second(napi.polls),
            per_packet: napi.interrupts as f64 / napi.packets.max(1) as f64,
            packets_per_poll: napi.packets as f64 / napi.polls.max(1) as f64,
            trips: per_second(trips),
            answered: 100.0 * answered as f64 / asked.max(1) as f64,
        };
        println!("{}", row.cells().join("  "));
        row
    }

    fn counts(&self) -> (NapiCounts, [u64; 4]) {
        let own = [&self.read, &self.trips, &self.asked, &self.answered];
        (self.napi.stats.counts(), own.map(|c| c.load(Relaxed)))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

/// A client of the echo server, in this machine's kernel.
struct Questions {
    socket: std::net::UdpSocket,
    patience: Duration,
    number: u64,
}

impl Questions {
    fn to(address: &str, patience: Duration) -> Questions {
        let socket = std::net::UdpSocket::bind(("0.0.0.0", 0)).expect("bind");
        socket.connect((address, ECHO)).expect("connect");
        socket.set_read_timeout(Some(patience)).expect("timeout");
        Questions { socket, patience, number: 0 }
    }

    /// One question; whether its answer came in time. An answer to an earlier one does not count.
    fn ask(&mut self) -> bool {
        self.number += 1;
        if self.socket.send(&self.number.to_ne_bytes()).is_err() {
            return false;
        }
        let start = Instant::now();
        let mut buf = [0; 8];
        while start.elapsed() < self.patience {
            match self.socket.recv(&mut buf) {
                Ok(8) if buf == self.number.to_ne_bytes() => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
        false
    }
}

/// Sends datagrams to the sink at a rate, evenly, until a time; how many.
fn flood(rate: Option<u64>, end: Instant) -> u64 {
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0)).expect("bind");
    socket.connect((TapSide::STACK4, SINK)).expect("connect");
    match rate {
        Some(0) => {
            std::thread::sleep(end.saturating_duration_since(Instant::now()));
            0
        }
        Some(rate) => paced(&socket, rate, end),
        None => unlimited(&socket, end),
    }
}

fn paced(socket: &std::net::UdpSocket, rate: u64, end: Instant) -> u64 {
    let start = Instant::now();
    let mut sent = 0;
    loop {
        let now = Instant::now();
        if now >= end {
            return sent;
        }
        let due = start + Duration::from_nanos(sent * 1_000_000_000 / rate);
        if now >= due {
            // A full queue below is part of a flood.
            let _ = socket.send(&PAYLOAD);
            sent += 1;
        } else if due - now > Duration::from_micros(300) {
            std::thread::sleep(due - now - Duration::from_micros(100));
        } else {
            std::hint::spin_loop();
        }
    }
}

fn unlimited(socket: &std::net::UdpSocket, end: Instant) -> u64 {
    use std::os::fd::AsRawFd;
    let mut payload = PAYLOAD;
    let mut iov = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
    // SAFETY: a message header of zeroes has no address and no control data.
    let mut msgs: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
    for m in &mut msgs {
        (m.msg_hdr.msg_iov, m.msg_hdr.msg_iovlen) = (&mut iov, 1);
    }
    let mut sent = 0;
    while Instant::now() < end {
        // SAFETY: the headers point to `iov`, and that to `payload`, which both live on.
        let n = unsafe { libc::sendmmsg(socket.as_raw_fd(), msgs.as_mut_ptr(), BATCH as u32, 0) };
        sent += n.max(1) as u64;
    }
    sent
}
