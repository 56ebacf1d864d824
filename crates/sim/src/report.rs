//! The end of a simulation, and what is said about one that cannot go on.
//!
//! Interface: methods of the crate's `Engine`: `report`, `lockup`, `end`, `task_panicked`.
//! Linux counterpart: `kernel/hung_task.c`, `kernel/watchdog.c`, `show_state`; `kernel/exit.c`.
//! Locks and context: the simulation's thread, outside of every context; `lockup` in the one that spins.

use crate::context::{Killed, Resume};
use crate::engine::{Current, Engine};
use std::any::Any;
use std::ptr;

/// Steps that tasks have to end when the simulation does.
const END_STEPS: u32 = 1_000_000;

impl Engine {
    /// Nobody can go on but those who spin.
    pub fn lockup(&self) -> ! {
        panic!("lockup: contexts spin and nobody can end it\n{}", self.report());
    }

    /// What each task is doing.
    pub fn report(&self) -> String {
        let mut out = format!("at {} ns of virtual time:\n", self.now());
        let tasks: Vec<_> = self.tasks.borrow().iter().flatten().cloned().collect();
        for c in tasks.iter().take(32) {
            let m = self.machine(c.machine);
            let cpu = c.vcpu.get() - m.first_vcpu;
            let state = c.task.get().map_or(0, |t| t.state());
            let deadline = match c.deadline.get() {
                u64::MAX => String::new(),
                d => format!(", until {d} ns"),
            };
            out += &format!(
                "  {}/{cpu} task {} {:?}: {:?}, state {state}{deadline}\n",
                m.name,
                c.serial,
                c.name,
                c.state.get()
            );
            let asleep_or_waiting = !ptr::eq(self.running.get(), &**c);
            if let Some(b) = asleep_or_waiting.then(|| c.backtrace()).flatten() {
                out += &innermost(&b.to_string());
            }
        }
        if tasks.len() > 32 {
            out += &format!("  and {} more\n", tasks.len() - 32);
        }
        out + &self.locks_waited_for()
    }

    /// Which locks tasks sleep for, and who had them last. Only builds with the lock validator know.
    #[cfg(debug_assertions)]
    fn locks_waited_for(&self) -> String {
        let mut out = String::new();
        for m in self.machines.borrow().clone() {
            let _inside = m.kernel.enter();
            kernel::lockdep::hung_tasks(0).iter().for_each(|r| out += &format!("{}: {}\n", m.name, r.text));
        }
        out
    }

    #[cfg(not(debug_assertions))]
    fn locks_waited_for(&self) -> String {
        String::new()
    }

    /// Ends the tasks that are left, so that what they hold is given back; those that cannot end are forgotten.
    pub fn end(&self) {
        self.ending.set(true);
        let _current = Current::set(self);
        let left = || -> Vec<_> { self.tasks.borrow().iter().flatten().cloned().collect() };
        if !std::thread::panicking() {
            left().iter().for_each(|c| self.kill(c));
            let vcpus = self.vcpus.borrow().clone();
            let ksoftirqds = vcpus.iter().filter_map(|v| v.ksoftirqd.get()?.task.get());
            ksoftirqds.for_each(|t| {
                t.wake_up_process();
            });
            let mut steps = 0;
            self.run_loop(self.now(), &mut || {
                steps += 1;
                steps > END_STEPS
            });
        }
        left().iter().for_each(|c| c.forget());
        // Those who wait for interrupts hold nothing, and see that they are to go.
        for w in self.irq_workers.take() {
            w.resume(Resume::Go);
        }
        self.panic.take();
        kernel::rcu::process_callbacks();
    }

    /// Keeps what a task panicked with; a killed one just ends.
    pub fn task_panicked(&self, p: Box<dyn Any + Send>) {
        if !p.is::<Killed>() && self.panic.borrow().is_none() {
            *self.panic.borrow_mut() = Some(p);
        }
    }
}

/// The innermost functions of a backtrace that are neither the engine's nor the language's.
fn innermost(trace: &str) -> String {
    const ENGINE: [&str; 6] = ["context.rs", "vcpu.rs", "arch.rs", "irq.rs", "engine.rs", "report.rs"];
    let engines = |at: &str| ENGINE.iter().any(|f| at.rsplit_once('/').is_some_and(|(_, file)| file.starts_with(f)));
    let mut lines = trace.lines().map(str::trim).peekable();
    let mut out = String::new();
    let mut shown = 0;
    while let Some(l) = lines.next() {
        let Some((_, name)) = l.split_once(": ") else { continue };
        let at = lines.peek().and_then(|n| n.strip_prefix("at ")).unwrap_or("");
        if shown < 6 && !at.is_empty() && !at.starts_with("/rustc") && !engines(at) {
            out += &format!("      {name}  {at}\n");
            shown += 1;
        }
    }
    out
}
