//! Signals to sockeye: those meant for the program, and the news that a child has ended.
//!
//! Interface: [`Signals::install`], [`Signals::next`], [`Received`].
//! Linux counterpart: none.
//! Locks and context: handlers write to a pipe; the supervisor reads it.
//!
//! Handlers, not a blocked mask and a `signalfd`: sockeye's other threads exist before and would have to be told.

use crate::sys;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use uapi::{Errno, Result};

/// Signals that end or steer a program; `SIGKILL` and `SIGSTOP` are nobody's to forward.
const FORWARDED: &[i32] =
    &[libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2, libc::SIGWINCH];

/// Where the handlers write; -1: nowhere.
static PIPE: AtomicI32 = AtomicI32::new(-1);

/// A signal that came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    pub signal: i32,
    /// Sent by a process to this process, and not by the terminal to its whole foreground group.
    pub addressed: bool,
}

/// The handlers, while it lives.
pub struct Signals {
    pipe: OwnedFd,
    _write: OwnedFd,
    old: Vec<(i32, libc::sigaction)>,
}

extern "C" fn on_signal(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the host passes a valid `siginfo_t`, or null without `SA_SIGINFO`.
    let addressed = unsafe { info.as_ref() }.is_some_and(|i| i.si_code <= 0);
    let msg = [signal as u8, addressed as u8];
    // SAFETY: both are async-signal-safe; `errno` is given back to the code that was interrupted.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(PIPE.load(Ordering::Relaxed), msg.as_ptr().cast(), msg.len());
        *libc::__errno_location() = errno;
    }
}

impl Signals {
    /// `EBUSY` if they are installed already: one supervisor a process.
    pub fn install() -> Result<Signals> {
        let (pipe, write) = sys::pipe(libc::O_NONBLOCK)?;
        if PIPE.compare_exchange(-1, write.as_raw_fd(), Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return Err(Errno::EBUSY);
        }
        let mut old = Vec::new();
        for &signal in FORWARDED.iter().chain([&libc::SIGCHLD]) {
            // SAFETY: all-zero is a valid `sigaction`.
            let mut new: libc::sigaction = unsafe { std::mem::zeroed() };
            new.sa_sigaction = on_signal as *const () as usize;
            new.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_NOCLDSTOP;
            // SAFETY: all-zero is a valid `sigaction`.
            let mut was: libc::sigaction = unsafe { std::mem::zeroed() };
            // SAFETY: both are valid; the handler is async-signal-safe.
            unsafe { libc::sigaction(signal, &new, &mut was) };
            if was.sa_sigaction == libc::SIG_IGN && signal != libc::SIGCHLD {
                // As `nohup` set it: neither for us nor for the program.
                // SAFETY: what `sigaction` gave us.
                unsafe { libc::sigaction(signal, &was, std::ptr::null_mut()) };
            } else {
                old.push((signal, was));
            }
        }
        Ok(Signals { pipe, _write: write, old })
    }

    /// The next signal that came, without waiting.
    pub fn next(&self) -> Option<Received> {
        let mut b = [0; 2];
        match sys::read(self.pipe.as_fd(), &mut b) {
            Ok(2) => Some(Received { signal: b[0].into(), addressed: b[1] != 0 }),
            _ => None,
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for (signal, was) in &self.old {
            // SAFETY: what `sigaction` gave us for this signal.
            unsafe { libc::sigaction(*signal, was, std::ptr::null_mut()) };
        }
        PIPE.store(-1, Ordering::SeqCst);
    }
}
