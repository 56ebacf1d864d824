//! This machine's kernel on a cell's network, in real time.
//!
//! Interface: [`measure`].
//! Linux counterpart: itself, in a namespace for each end.
//! Locks and context: threads of the calling program, which must be root.
//!
//! Each end is a namespace with a TAP device. A thread carries frames from one to the other as [`Path`] says: the same
//! wires with the same chances as in the simulator, driven by the machine's clock.

use sockeye_tests::run;
use sockeye_tests::wan::{Cell, End, Options, Outcome, Path, Sample};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use uapi::tcp::TcpInfo;

const PORT: u16 = 5001;
const RECEIVER: u8 = 1;
const SENDERS: u8 = 10;
const FRAME_MAX: usize = 2048;
/// Frames taken from one device before others are looked at.
const BATCH: usize = 32;

/// One end: its device, a socket, and a thread that stays in its namespace.
struct Side {
    tap: OwnedFd,
    socket: OwnedFd,
    /// Asks the thread for the counters, and ends it.
    counters: mpsc::Receiver<Vec<(String, u64)>>,
    ask: mpsc::Sender<()>,
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, number)
}

fn mac(number: u8) -> String {
    format!("02:00:00:00:00:{number:02x}")
}

fn check(r: libc::c_int, what: &str) -> libc::c_int {
    assert!(r >= 0, "{what}: {}", std::io::Error::last_os_error());
    r
}

impl Side {
    /// `socket` is made in the namespace, and configured.
    fn new(number: u8, peers: &[u8], congestion: &str) -> Side {
        let (ask, asked) = mpsc::channel();
        let (answer, counters) = mpsc::channel();
        let (ready, made) = mpsc::channel();
        let (peers, congestion) = (peers.to_vec(), congestion.to_owned());
        thread::spawn(move || {
            // SAFETY: a call without pointers; it concerns this thread alone.
            check(unsafe { libc::unshare(libc::CLONE_NEWNET) }, "unshare: run as root");
            let tap = make_tap();
            configure(number, &peers);
            let _ = ready.send((tap, socket(&congestion)));
            let _ = asked.recv();
            let _ = answer.send(read_counters());
        });
        let (tap, socket) = made.recv().expect("a namespace with a TAP device");
        Side { tap, socket, counters, ask }
    }

    fn counters(&self, who: &str) -> Vec<(String, u64)> {
        let _ = self.ask.send(());
        let all = self.counters.recv().unwrap_or_default();
        all.into_iter().filter(|c| c.1 > 0).map(|(name, n)| (format!("{who}.{name}"), n)).collect()
    }
}

/// A device that lives as long as the descriptor.
fn make_tap() -> OwnedFd {
    let tun = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
    // SAFETY: `ifreq` is plain data; all zeroes is a value of it.
    let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in req.ifr_name.iter_mut().zip(b"wan0") {
        *to = *from as libc::c_char;
    }
    req.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: `TUNSETIFF` reads and writes one `ifreq`, which outlives the call.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &mut req) }, "TUNSETIFF");
    // SAFETY: a call without pointers.
    check(unsafe { libc::fcntl(tun.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) }, "fcntl");
    tun.into()
}

fn configure(number: u8, peers: &[u8]) {
    let set = |name: &str, value: &str| {
        std::fs::write(format!("/proc/sys/net/{name}"), value).unwrap_or_else(|e| panic!("{name}: {e}"));
    };
    set("ipv6/conf/all/disable_ipv6", "1");
    run("ip", &["link", "set", "wan0", "address", &mac(number), "txqueuelen", "20000", "up"]);
    run("ip", &["addr", "add", &format!("{}/24", address(number)), "dev", "wan0"]);
    for p in peers {
        let to = address(*p).to_string();
        run("ip", &["neigh", "replace", &to, "lladdr", &mac(*p), "dev", "wan0", "nud", "permanent"]);
    }
}

fn socket(congestion: &str) -> OwnedFd {
    // SAFETY: a call without pointers.
    let fd = check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) }, "socket");
    // SAFETY: the descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let (name, len) = (congestion.as_ptr().cast(), congestion.len() as u32);
    // SAFETY: the option's value is `congestion`, which outlives the call.
    let r = unsafe { libc::setsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_CONGESTION, name, len) };
    check(r, "TCP_CONGESTION");
    fd
}

/// The TCP counters of this thread's namespace, as `nstat` names them.
fn read_counters() -> Vec<(String, u64)> {
    let mut all = Vec::new();
    for file in ["snmp", "netstat"] {
        let text = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        for pair in lines.chunks(2) {
            let [heads, values] = pair else { continue };
            let mut words = heads.split_whitespace();
            let group = words.next().unwrap_or("").trim_end_matches(':').to_owned();
            if group.starts_with("Tcp") {
                let values = values.split_whitespace().skip(1).map(|v| v.parse().unwrap_or(0));
                all.extend(words.zip(values).map(|(w, v)| (format!("{group}{w}"), v)));
            }
        }
    }
    all
}

/// What the threads of a measurement share.
struct Shared {
    impair: AtomicBool,
    go: AtomicBool,
    stop: AtomicBool,
    bytes: Vec<AtomicU64>,
}

/// The calling thread is not kept waiting by others that compute.
fn hurry() {
    let p = libc::sched_param { sched_priority: 1 };
    // SAFETY: the structure outlives the call; without the right to it nothing changes.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &p) };
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

/// Runs the kernel on a cell's network. With it, the share of frames that were late by a twentieth of the round trip or
/// more, or by a fifth of a millisecond: the machine had no time for them, and the network was worse than it should be.
pub fn measure(cell: &Cell, o: &Options) -> (Outcome, f64) {
    let flows = cell.flows.len();
    let numbers: Vec<u8> = (0..flows as u8).map(|i| SENDERS + i).collect();
    let receiver = Side::new(RECEIVER, &numbers, &o.congestion);
    let senders: Vec<Side> = numbers.iter().map(|n| Side::new(*n, &[RECEIVER], &o.congestion)).collect();
    let shared = Arc::new(Shared {
        impair: AtomicBool::new(false),
        go: AtomicBool::new(false),
        stop: AtomicBool::new(false),
        bytes: (0..flows).map(|_| AtomicU64::new(0)).collect(),
    });
    let taps: Vec<OwnedFd> =
        std::iter::once(&receiver).chain(&senders).map(|s| s.tap.try_clone().expect("a descriptor")).collect();
    let (path, sh) = (Path::new(cell, o.seed), shared.clone());
    let mut late = Late { limit: (cell.rtt / 20).max(200_000), ..Late::default() };
    let carrier = thread::spawn(move || {
        let wire = carry(path, &taps, &sh, &mut late);
        (wire, late.late as f64 / late.all.max(1) as f64)
    });
    let (ends, streams) = connect(&receiver, &senders, &shared);
    shared.impair.store(true, Relaxed);
    thread::sleep(Duration::from_millis(20));
    let mut out = observe(cell, o, &shared, &streams);
    out.counters = senders[0].counters("snd");
    out.counters.extend(receiver.counters("rcv"));
    shared.stop.store(true, Relaxed);
    for s in &streams {
        let _ = s.shutdown(std::net::Shutdown::Both);
    }
    let (wire, late) = carrier.join().expect("the carrier ends");
    out.wire = wire;
    for e in ends {
        let _ = e.shutdown(std::net::Shutdown::Both);
    }
    (out, late)
}

/// Makes the connections, and starts those who send and read; both ends of each.
fn connect(receiver: &Side, senders: &[Side], shared: &Arc<Shared>) -> (Vec<TcpStream>, Vec<TcpStream>) {
    let listener = TcpListener::from(receiver.socket.try_clone().expect("a descriptor"));
    bind_and_listen(&listener);
    let (mut ends, mut streams) = (Vec::new(), Vec::new());
    for (flow, s) in senders.iter().enumerate() {
        let stream = TcpStream::from(s.socket.try_clone().expect("a descriptor"));
        connect_to(&stream, SocketAddr::from((address(RECEIVER), PORT)));
        let (end, _) = listener.accept().expect("a connection");
        ends.push(end.try_clone().expect("a descriptor"));
        streams.push(stream.try_clone().expect("a descriptor"));
        let (reader, writer) = (shared.clone(), shared.clone());
        thread::spawn(move || read(end, &reader, flow));
        thread::spawn(move || write(stream, &writer));
    }
    (ends, streams)
}

fn sockaddr(to: SocketAddr) -> libc::sockaddr_in {
    let SocketAddr::V4(a) = to else { unreachable!("the address is of IPv4") };
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: a.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*a.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

const ADDR_LEN: u32 = size_of::<libc::sockaddr_in>() as u32;

fn bind_and_listen(l: &TcpListener) {
    let a = sockaddr(SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)));
    // SAFETY: the address outlives the call.
    check(unsafe { libc::bind(l.as_raw_fd(), (&raw const a).cast(), ADDR_LEN) }, "bind");
    // SAFETY: no pointers.
    check(unsafe { libc::listen(l.as_raw_fd(), 16) }, "listen");
}

fn connect_to(s: &TcpStream, to: SocketAddr) {
    let a = sockaddr(to);
    // SAFETY: the address outlives the call.
    check(unsafe { libc::connect(s.as_raw_fd(), (&raw const a).cast(), ADDR_LEN) }, "connect");
}

fn read(mut end: TcpStream, shared: &Shared, flow: usize) {
    hurry();
    let mut buf = vec![0; 256 * 1024];
    while let Ok(n @ 1..) = end.read(&mut buf) {
        shared.bytes[flow].fetch_add(n as u64, Relaxed);
    }
}

fn write(mut to: TcpStream, shared: &Shared) {
    hurry();
    while !shared.go.load(Relaxed) {
        thread::sleep(Duration::from_micros(100));
    }
    let data = vec![7; 256 * 1024];
    while !shared.stop.load(Relaxed) {
        if to.write(&data).is_err() {
            return;
        }
    }
}

/// Lets the flows run for the cell's time, and looks at them.
fn observe(cell: &Cell, o: &Options, shared: &Shared, streams: &[TcpStream]) -> Outcome {
    let start = Instant::now();
    let end = Duration::from_nanos(cell.time());
    let mut out = Outcome::default();
    shared.go.store(true, Relaxed);
    let mut next = Duration::from_nanos(o.sample);
    while o.sample > 0 && next < end {
        thread::sleep(next.saturating_sub(start.elapsed()));
        for (flow, s) in streams.iter().enumerate() {
            let (at, bytes) = (start.elapsed().as_nanos() as u64, shared.bytes[flow].load(Relaxed));
            out.samples.push(Sample { at, flow, bytes, info: info(s) });
        }
        next += Duration::from_nanos(o.sample);
    }
    thread::sleep(end.saturating_sub(start.elapsed()));
    out.bytes = shared.bytes.iter().map(|b| b.load(Relaxed)).collect();
    out.time = start.elapsed().as_nanos() as u64;
    out
}

fn info(s: &TcpStream) -> TcpInfo {
    let mut buf = [0u8; 512];
    let mut len = buf.len() as u32;
    let fd = s.as_raw_fd();
    // SAFETY: the buffer and its length outlive the call.
    let r = unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, buf.as_mut_ptr().cast(), &raw mut len) };
    if r < 0 { TcpInfo::default() } else { TcpInfo::from_bytes(&buf[..len as usize]) }
}

/// Carries frames until the measurement is over. The first device is the receiver's.
fn carry(mut path: Path<Vec<u8>>, taps: &[OwnedFd], shared: &Shared, late: &mut Late) -> sim::link::WireStats {
    hurry();
    let start = Instant::now();
    let now = || start.elapsed().as_nanos() as u64;
    let mut impaired = false;
    while !shared.stop.load(Relaxed) {
        if !impaired && shared.impair.load(Relaxed) {
            path.impair();
            impaired = true;
        }
        while let Some(at) = path.next().filter(|at| *at <= now()) {
            let Some((end, frame)) = path.take(at) else { continue };
            late.add(now() - at);
            let to = match end {
                End::Receiver => 0,
                End::Sender(i) => i + 1,
            };
            let _ = rustix::io::write(&taps[to], &frame);
        }
        let mut more = false;
        for (i, tap) in taps.iter().enumerate() {
            more |= take_in(&mut path, i, tap, &now);
        }
        if !more {
            wait(taps, path.next().map_or(10_000_000, |at| at.saturating_sub(now())).min(10_000_000));
        }
    }
    path.stats()
}

/// How late frames were.
#[derive(Default)]
struct Late {
    /// Nanoseconds.
    limit: u64,
    all: u64,
    late: u64,
}

impl Late {
    fn add(&mut self, nanoseconds: u64) {
        self.all += 1;
        self.late += u64::from(nanoseconds > self.limit);
    }
}

/// Takes frames from a device; whether there may be more.
fn take_in(path: &mut Path<Vec<u8>>, number: usize, tap: &OwnedFd, now: &impl Fn() -> u64) -> bool {
    let mut buf = [0; FRAME_MAX];
    for _ in 0..BATCH {
        let Ok(n) = rustix::io::read(tap, &mut buf) else { return false };
        let frame = &buf[..n];
        // Only IPv4 is known here; the last byte of the destination says whom it is for.
        if frame.len() < 34 || frame[12..14] != [8, 0] {
            continue;
        }
        let to = usize::from(frame[33].saturating_sub(SENDERS));
        let from = if number == 0 { End::Receiver } else { End::Sender(number - 1) };
        path.send(from, to, now(), n, frame.to_vec());
    }
    true
}

fn wait(taps: &[OwnedFd], nanoseconds: u64) {
    let mut fds: Vec<libc::pollfd> =
        taps.iter().map(|t| libc::pollfd { fd: t.as_raw_fd(), events: libc::POLLIN, revents: 0 }).collect();
    let t = libc::timespec { tv_sec: 0, tv_nsec: nanoseconds as i64 };
    // SAFETY: the descriptors and the time outlive the call.
    unsafe { libc::ppoll(fds.as_mut_ptr(), fds.len() as u64, &t, std::ptr::null()) };
}
