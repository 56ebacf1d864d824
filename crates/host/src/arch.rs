//! The arch of a Linux host: real clocks, real entropy, threads that park.
//!
//! Interface: [`HostArch`].
//! Linux counterpart: `arch/x86/`, `kernel/sched/core.c` (`schedule`), `drivers/char/random.c`.
//! Locks and context: as [`kernel::Arch`] says.

use crate::worker::Worker;
use kernel::task::{Runnable, TASK_RUNNING, Task};
use kernel::{Arch, TICK_NSEC};
use std::cell::RefCell;
use std::sync::Arc;
use std::thread::Thread;
use std::time::{Duration, SystemTime};

/// Rounds that the waiter for a contended lock spins before it yields the CPU, and before it gives that up as well: on a
/// machine with more threads than CPUs a thread that yields all the time is put ever further behind those that do not.
const SPINS: u32 = 128;
const YIELDS: u32 = SPINS + 16;
/// A moment's sleep, which the machine rounds up to some fifty microseconds.
const MOMENT: Duration = Duration::from_micros(1);

/// Threads, clocks and entropy of this machine; timers and softirq threads are those of [`Worker`]s.
pub struct HostArch {
    /// A second before the kernel was made, in nanoseconds: its time starts above zero.
    origin: u64,
    workers: Box<[Arc<Worker>]>,
}

impl HostArch {
    /// At least one worker must run for timers to fire.
    pub fn new(workers: Box<[Arc<Worker>]>) -> HostArch {
        HostArch { origin: monotonic().saturating_sub(1_000_000_000), workers }
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds. `Instant` says the same in twice the time, and each packet asks.
#[inline]
fn monotonic() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

fn getrandom(buf: &mut [u8]) {
    let mut filled = 0;
    while filled < buf.len() {
        match rustix::rand::getrandom(&mut buf[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            // Keys must not be guessable: better no stack than a stack without entropy.
            Err(e) => panic!("this machine has no entropy (getrandom: {e})"),
        }
    }
}

/// Random bytes fetched ahead, so that not every port and sequence number is a system call (`struct batched_entropy`).
struct Batch {
    bytes: [u8; 512],
    /// What lies before has been handed out, and wiped.
    at: usize,
}

impl Batch {
    /// Fills `buf`, unless it wants so much that fetching it ahead is no use.
    fn take(&mut self, buf: &mut [u8]) -> bool {
        if buf.len() > self.bytes.len() / 8 {
            return false;
        }
        if self.at + buf.len() > self.bytes.len() {
            getrandom(&mut self.bytes);
            self.at = 0;
        }
        let taken = &mut self.bytes[self.at..self.at + buf.len()];
        buf.copy_from_slice(taken);
        taken.fill(0);
        self.at += buf.len();
        true
    }
}

/// A thread that sleeps by parking.
struct Parked(Thread);

impl Runnable for Parked {
    fn wake(&self) {
        self.0.unpark()
    }
}

thread_local! {
    static BATCH: RefCell<Batch> = const { RefCell::new(Batch { bytes: [0; 512], at: 512 }) };
    static CURRENT: Arc<Task> = Task::named("thread", 0, Box::new(Parked(std::thread::current())));
}

impl Arch for HostArch {
    fn ktime_get(&self) -> u64 {
        // Never zero, which code may take for "not set".
        (monotonic() - self.origin) | 1
    }

    fn ktime_get_real(&self) -> u64 {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
    }

    fn get_random_bytes(&self, buf: &mut [u8]) {
        let batched = BATCH.try_with(|b| b.borrow_mut().take(buf)).unwrap_or(false);
        if !batched {
            getrandom(buf);
        }
    }

    fn cpu_relax(&self, spins: u32) {
        if spins < SPINS {
            std::hint::spin_loop();
        } else if spins < YIELDS {
            std::thread::yield_now();
        } else {
            std::thread::sleep(MOMENT);
        }
    }

    fn current(&self) -> Arc<Task> {
        CURRENT.with(Arc::clone)
    }

    fn schedule(&self, task: &Task, deadline: Option<u64>) {
        loop {
            if !task.try_to_block_task() {
                return;
            }
            let Some(deadline) = deadline else {
                std::thread::park();
                continue;
            };
            let left = deadline.saturating_sub(self.ktime_get());
            if left == 0 {
                return task.set_state(TASK_RUNNING);
            }
            std::thread::park_timeout(Duration::from_nanos(left.min(3600 * 1000 * TICK_NSEC)));
        }
    }

    fn wakeup_softirqd(&self, cpu: usize) {
        self.workers[cpu % self.workers.len()].wakeup_softirqd(cpu);
    }

    fn program_timer(&self, base: usize, expires: u64) {
        self.workers[base % self.workers.len()].program_timer(expires);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each byte of each size is random, from the first that a thread asks for.
    #[test]
    fn no_byte_is_left_out() {
        let arch = HostArch::new(Box::default());
        let sizes = [1, 16, 64, 65, 512, 4000];
        std::thread::spawn(move || {
            for len in sizes {
                // Of 40 random bytes in the same place, all are zero once in 2^320.
                let mut seen = vec![0; len];
                for _ in 0..40 {
                    let mut now = vec![0; len];
                    arch.get_random_bytes(&mut now);
                    assert!(len < 16 || now[..16] != [0; 16], "{len}");
                    seen.iter_mut().zip(now).for_each(|(s, n)| *s |= n);
                }
                assert!(!seen.contains(&0), "{len}");
            }
        })
        .join()
        .unwrap();
        let mut b = Batch { bytes: [0; 512], at: 512 };
        b.take(&mut [0]);
        assert_ne!(b.bytes[496..], [0; 16], "filled to the end");
    }

    #[test]
    fn random_bytes_are_fetched_ahead_and_handed_out_once() {
        let mut b = Batch { bytes: [0; 512], at: 512 };
        let mut seen = std::collections::HashSet::new();
        for _ in 0..100 {
            let mut out = [0; 16];
            assert!(b.take(&mut out));
            assert!(seen.insert(out), "handed out twice");
            assert!(b.bytes[..b.at].iter().all(|&x| x == 0), "what was handed out is still there");
        }
        assert!(!b.take(&mut [0; 65]), "a lot is not fetched ahead");
    }
}
