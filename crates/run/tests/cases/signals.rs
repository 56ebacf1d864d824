//! Signals and system calls.
//!
//! Interface: the cases.
//! Linux counterpart: none.
//! Locks and context: a program under the supervisor.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};

static SEEN: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: i32) {
    SEEN.fetch_add(1, Ordering::Relaxed);
}

fn alarm_handler(flags: i32) {
    // SAFETY: all-zero is a valid `sigaction`; the handler is async-signal-safe.
    unsafe {
        let mut sa: libc::sigaction = std::mem::zeroed();
        sa.sa_sigaction = count as *const () as usize;
        sa.sa_flags = flags;
        libc::sigaction(libc::SIGALRM, &sa, std::ptr::null_mut());
    }
}

fn timer(micros: i64, again: i64) {
    let t = |us| libc::timeval { tv_sec: 0, tv_usec: us };
    let it = libc::itimerval { it_interval: t(again), it_value: t(micros) };
    // SAFETY: a valid `itimerval`.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &it, std::ptr::null_mut()) };
}

pub fn storm() {
    alarm_handler(libc::SA_RESTART);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    timer(400, 400);
    for _ in 0..300 {
        // Each step fails if a lost answer were not given again, or a done call done twice.
        let mut c = TcpStream::connect(to).unwrap();
        let (mut s, from) = listener.accept().unwrap();
        assert_eq!(from, c.local_addr().unwrap());
        c.write_all(b"x").unwrap();
        s.read_exact(&mut [0]).unwrap();
    }
    timer(0, 0);
    assert!(SEEN.load(Ordering::Relaxed) > 0);
}

pub fn accept_interrupted() {
    alarm_handler(0);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    timer(50_000, 50_000);
    // SAFETY: null addresses are allowed.
    let r = unsafe { libc::accept(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut()) };
    let e = std::io::Error::last_os_error();
    timer(0, 0);
    assert_eq!((r, e.kind()), (-1, ErrorKind::Interrupted));
    // The listener is none the worse for it.
    let _c = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    listener.accept().unwrap();
}
