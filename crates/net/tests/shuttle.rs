//! The stack under shuttle: connections race accept and close, timers race close, in random schedules.
//!
//! Interface: tests, in a build with `--cfg shuttle` (`cargo xtask verify shuttle`). See `docs/verification.md`.
//! Linux counterpart: none.
//! Locks and context: shuttle's threads, all on one thread of the host.
#![cfg(shuttle)]

extern crate kernel as sockeye_kernel;

#[path = "../../kernel/tests/shuttle/harness.rs"]
mod harness;

use harness::{ShuttleArch, explore};
use kernel::plant::{Plant, finds};
use kernel::{Kernel, TICK_NSEC};
use shuttle::thread::{self, JoinHandle};
use sockeye_net::core::net_namespace::Net;
use sockeye_net::init::net_init;
use sockeye_net::ipv4::inet_hashtables::tcp_hashinfo;
use sockeye_net::syscall::FdTable;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use uapi::socket::*;
use uapi::{Errno, SockAddr};

/// A machine with one process and loopback.
struct Machine {
    arch: Arc<ShuttleArch>,
    kernel: Arc<Kernel>,
    files: Arc<FdTable>,
    ksoftirqd: JoinHandle<()>,
}

impl Machine {
    fn boot() -> Machine {
        let arch = ShuttleArch::new();
        let kernel = Kernel::new(arch.clone(), 1);
        let net = Net::new(&net_init(&kernel));
        let ksoftirqd = arch.ksoftirqd(&kernel);
        Machine { arch, kernel, files: Arc::new(FdTable::new(&net, 64)), ksoftirqd }
    }

    fn spawn<T: Send + 'static>(&self, f: impl FnOnce(&FdTable) -> T + Send + 'static) -> JoinHandle<T> {
        let files = self.files.clone();
        thread::spawn(move || f(&files))
    }

    fn listener(&self, backlog: i32) -> (i32, SockAddr) {
        let any: SockAddr = "127.0.0.1:0".parse::<SocketAddr>().expect("address").into();
        let f = &self.files;
        let fd = f.socket(AF_INET, SOCK_STREAM, 0).expect("socket");
        f.bind(fd, &any).expect("bind");
        f.listen(fd, backlog).expect("listen");
        (fd, f.getsockname(fd).expect("name"))
    }

    /// A second passes, and what falls due is fired.
    fn pass(&self) {
        pass(&self.arch, &self.kernel);
    }

    /// Lets time pass while others run `f`.
    fn while_time_passes(&self, f: impl FnOnce()) {
        let (arch, kernel) = (self.arch.clone(), self.kernel.clone());
        let done = Arc::new(AtomicBool::new(false));
        let over = done.clone();
        let clock = thread::spawn(move || {
            while !over.load(Ordering::SeqCst) {
                pass(&arch, &kernel);
                thread::yield_now();
            }
        });
        f();
        done.store(true, Ordering::SeqCst);
        clock.join().unwrap();
    }

    /// All is closed and the longest timer has fired: nothing may be left of any connection.
    fn halt(self) {
        self.files.close_all(false);
        (0..300).for_each(|_| self.pass());
        assert_eq!(tcp_hashinfo(self.files.net()).ehash.len(), 0, "connections that nobody owns");
        self.arch.stop();
        self.ksoftirqd.join().unwrap();
    }
}

fn pass(arch: &ShuttleArch, kernel: &Kernel) {
    arch.advance(1000 * TICK_NSEC);
    for base in arch.due() {
        kernel.run_timers(base);
    }
}

fn connect(f: &FdTable, to: &SockAddr) -> Result<i32, Errno> {
    let fd = f.socket(AF_INET, SOCK_STREAM, 0)?;
    f.connect(fd, to).map(|()| fd)
}

/// Two that wait in accept, two that connect: each gets its connection, whoever wakes whom.
fn two_accept_two_connect() {
    let m = Machine::boot();
    let (l, to) = m.listener(5);
    let acceptors = [0, 1].map(|_| m.spawn(move |f| f.accept(l).map(|a| a.0)));
    let connectors = [0, 1].map(|_| m.spawn(move |f| connect(f, &to)));
    let accepted: Vec<_> = acceptors.into_iter().map(|t| t.join().unwrap().expect("accept")).collect();
    let connected: Vec<_> = connectors.into_iter().map(|t| t.join().unwrap().expect("connect")).collect();
    let names = |fds: &[i32], f: &dyn Fn(i32) -> SockAddr| {
        let mut v: Vec<u16> = fds.iter().map(|&fd| f(fd).port()).collect();
        v.sort();
        v
    };
    let peers = names(&accepted, &|fd| m.files.getpeername(fd).expect("peer"));
    let own = names(&connected, &|fd| m.files.getsockname(fd).expect("name"));
    assert_eq!(peers, own, "each connection is accepted once");
    m.halt();
}

#[test]
fn every_connection_finds_an_acceptor() {
    explore(250, two_accept_two_connect);
}

#[test]
fn a_check_before_queueing_is_found() {
    let name = "a_check_before_queueing_is_found";
    finds(name, Plant::AcceptCheckEarly, &["deadlock"], || explore(1000, two_accept_two_connect));
}

/// A listener is closed while somebody connects and somebody accepts: all calls end.
#[test]
fn a_listener_closes_while_connections_come() {
    explore(250, || {
        let m = Machine::boot();
        let (l, to) = m.listener(5);
        m.while_time_passes(|| {
            let connectors = [0, 1].map(|_| m.spawn(move |f| connect(f, &to)));
            let acceptor = m.spawn(move |f| f.accept(l).map(|a| a.0));
            let closer = m.spawn(move |f| {
                f.shutdown(l, SHUT_RDWR).expect("shutdown");
                f.close(l).expect("close");
            });
            for c in connectors {
                if let Err(e) = c.join().unwrap() {
                    assert!([Errno::ECONNREFUSED, Errno::ECONNRESET, Errno::ETIMEDOUT].contains(&e), "{e:?}");
                }
            }
            if let Err(e) = acceptor.join().unwrap() {
                assert!([Errno::EINVAL, Errno::EBADF].contains(&e), "{e:?}");
            }
            closer.join().unwrap();
        });
        m.halt();
    });
}

/// A connection is closed while its timers fire.
#[test]
fn timers_fire_while_a_connection_is_closed() {
    explore(250, || {
        let m = Machine::boot();
        let (l, to) = m.listener(5);
        let c = connect(&m.files, &to).expect("connect");
        let (s, _) = m.files.accept(l).expect("accept");
        let one = 1i32.to_ne_bytes();
        m.files.setsockopt(c, SOL_SOCKET, SO_KEEPALIVE, &one).expect("keepalive");
        m.while_time_passes(|| {
            let client = m.spawn(move |f| {
                f.send(c, b"hello", 0).expect("send");
                f.close(c).expect("close");
            });
            m.files.close(s).expect("close");
            client.join().unwrap();
        });
        m.halt();
    });
}
