//! Bugs that can be planted: each verification tool must find one, or its silence says nothing.
//!
//! Interface: [`Plant`], [`planted`]; in verification builds `plant` and `finds`, for tests that expect the finding.
//! Linux counterpart: `lib/fault-inject.c`, in spirit.
//! Locks and context: any.
//!
//! `--cfg verify` makes a verification build; `--cfg loom` and `--cfg shuttle` imply it. In every other build [`planted`] is
//! `false` at compile time.

/// The bugs that can be planted: each names the place that asks for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Plant {
    /// The spinlock lets go without `Release`.
    SpinUnlockRelaxed = 1,
    /// `prepare_to_wait` marks the task asleep after it has left the queue's lock.
    WaitStateLate,
    /// A semaphore's `up` looks for sleepers before it has given the count back.
    SemaphoreUpEarly,
    /// RCU frees after one epoch instead of two.
    RcuOneEpoch,
    /// A softirq's pending bits are cleared after the handlers have run.
    SoftirqClearLate,
    /// The socket lock is let go without a last look at the backlog.
    BacklogForgotten,
    /// An accept queue is checked before the entry is queued.
    AcceptCheckEarly,
    /// A timer's function runs although the timer was deleted.
    TimerAfterClose,
    /// A list entry is freed at once instead of after a grace period.
    ListFreeEarly,
    /// A count on a buffer is dropped twice.
    BufDoubleFree,
    /// The host's tests: a plain counter that two threads write.
    PlainCounter,
}

impl Plant {
    pub const ALL: [Plant; 11] = [
        Plant::SpinUnlockRelaxed,
        Plant::WaitStateLate,
        Plant::SemaphoreUpEarly,
        Plant::RcuOneEpoch,
        Plant::SoftirqClearLate,
        Plant::BacklogForgotten,
        Plant::AcceptCheckEarly,
        Plant::TimerAfterClose,
        Plant::ListFreeEarly,
        Plant::BufDoubleFree,
        Plant::PlainCounter,
    ];
}

/// Whether this bug has been planted. Always `false`, at compile time, outside verification builds.
#[cfg(not(any(loom, shuttle, verify)))]
#[inline(always)]
pub const fn planted(_: Plant) -> bool {
    false
}

#[cfg(any(loom, shuttle, verify))]
pub use build::{finds, plant, plant_from_env, planted};

#[cfg(any(loom, shuttle, verify))]
mod build {
    use super::Plant;
    use std::process::Command;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// The planted bug, of the whole process.
    static PLANTED: AtomicU32 = AtomicU32::new(0);
    /// Names the bug to the process that is to fall over it.
    const ENV: &str = "SOCKEYE_PLANT";

    /// Plants a bug, for a check that is to find it; `None` takes it out.
    pub fn plant(p: Option<Plant>) {
        PLANTED.store(p.map_or(0, |p| p as u32), Ordering::Relaxed);
    }

    /// Whether this bug has been planted.
    pub fn planted(p: Plant) -> bool {
        PLANTED.load(Ordering::Relaxed) == p as u32
    }

    /// Plants the bug that the environment names in `SOCKEYE_PLANT`, if any.
    pub fn plant_from_env() {
        let Ok(name) = std::env::var(ENV) else { return };
        let found = Plant::ALL.iter().copied().find(|p| format!("{p:?}") == name);
        assert!(found.is_some(), "SOCKEYE_PLANT={name}: there is no such bug");
        plant(found);
    }

    /// Runs `check` with a bug planted, and expects it to fail and to say one of `words`. `test` is the name of the calling
    /// test: it is run once more in a process of its own, as a tool that finds something may take the process down.
    pub fn finds(test: &str, bug: Plant, words: &[&str], check: impl FnOnce()) {
        if std::env::var_os(ENV).is_some() {
            plant_from_env();
            return check();
        }
        let this = std::env::current_exe().expect("the test's own program");
        let mut child = Command::new(this);
        child.args(["--exact", test, "--nocapture", "--test-threads=1"]);
        child.env(ENV, format!("{bug:?}")).env("RUST_BACKTRACE", "0");
        let out = child.output().expect("the test's own program runs");
        let said = [out.stdout, out.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(!out.status.success(), "{bug:?} was planted and not found:\n{said}");
        let told = words.iter().any(|w| said.contains(w));
        assert!(told, "with {bug:?} planted, something else was found than {words:?}:\n{said}");
        println!("{bug:?} was found");
    }
}
