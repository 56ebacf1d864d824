//! Virtual time: an `Arch` whose clock moves when packetdrill waits, and never otherwise.
//!
//! Interface: [`VirtualArch`] (`enter`, `settle`, `step`, `advance`, `gettimeofday`).
//! Linux counterpart: `arch/`, and the scheduler as far as it decides who runs.
//! Locks and context: one mutex, never held while the stack is called.
//!
//! packetdrill has a main thread, which reads the script, and a second one, in which calls block. Time goes on only while one of
//! them sleeps for an event of the script, or waits for a packet. And only when nobody has anything left to do at the present time:
//! a thread that was woken must first return from its call *and look at the clock*, which is how packetdrill learns when
//! the call ended. So a call ends at the virtual time of its event, however slow the machine.

use kernel::task::{Runnable, TASK_RUNNING, Task};
use kernel::{Arch, Kernel};
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

/// Ten seconds after the start of the kernel, in the middle of no jiffy.
const START: u64 = 10_000_000_000;
/// What `ktime_get_real` is ahead.
const REAL: u64 = 1_700_000_000_000_000_000;
/// Looks at the clock in a row after which the one who looks is taken to spin until it moves.
const LOOKS: u32 = 32;
/// How long, of real time, others may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a thread needs to take a lock that is free.
const MOMENT: Duration = Duration::from_millis(5);
/// How long a call in the main thread may block, nanoseconds of virtual time.
const FOR_EVER: u64 = 3600 * 1_000_000_000;

struct State {
    now: u64,
    /// When the timers are to be run; 0: never.
    timer: u64,
    /// CPUs with softirqs left to do.
    softirqd: Vec<usize>,
    /// Calls of other threads than the main one that are being carried out.
    running: u32,
    /// A call of another thread has ended, and it has not looked at the clock.
    owed: bool,
    /// A call of another thread has ended since [`VirtualArch::let_others_in`].
    returned: bool,
    /// Looks at the clock in a row.
    looks: u32,
    /// Threads of calls that are asleep: which, and when it wants to be woken at the latest.
    asleep: Vec<(u64, Option<u64>)>,
    /// Numbers given to threads.
    sleepers: u64,
    /// The machine is being taken down: nobody sleeps any more.
    down: bool,
}

pub struct VirtualArch {
    state: Mutex<State>,
    changed: Condvar,
    now: AtomicU64,
    seed: AtomicU64,
    main: ThreadId,
    kernel: Mutex<Weak<Kernel>>,
    /// To find ourselves from a task.
    me: Weak<VirtualArch>,
}

/// A thread of the program, whose sleep is counted.
struct Sleeper {
    arch: Weak<VirtualArch>,
    id: u64,
}

impl Runnable for Sleeper {
    fn wake(&self) {
        if let Some(arch) = self.arch.upgrade() {
            arch.lock().wake(|&(id, _)| id == self.id);
            arch.changed.notify_all();
        }
    }
}

impl State {
    /// Those count as running from now on, before their threads know.
    fn wake(&mut self, which: impl Fn(&(u64, Option<u64>)) -> bool) {
        let before = self.asleep.len();
        self.asleep.retain(|s| !which(s));
        self.running += (before - self.asleep.len()) as u32;
    }
}

/// Somebody is inside a call.
pub struct Inside<'a>(&'a VirtualArch);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if !self.0.is_main() {
            let mut s = self.0.lock();
            s.running -= 1;
            (s.owed, s.returned) = (true, true);
            self.0.changed.notify_all();
        }
    }
}

thread_local! {
    /// The thread's task, its number, and the clock that both are of.
    static CURRENT: RefCell<Option<(Weak<VirtualArch>, Arc<Task>, u64)>> = const { RefCell::new(None) };
}

impl VirtualArch {
    /// The calling thread is the main one.
    pub fn new(seed: u64) -> Arc<VirtualArch> {
        let state = State {
            now: START,
            timer: 0,
            softirqd: Vec::new(),
            running: 0,
            owed: false,
            returned: false,
            looks: 0,
            asleep: Vec::new(),
            sleepers: 0,
            down: false,
        };
        Arc::new_cyclic(|me| VirtualArch {
            state: Mutex::new(state),
            changed: Condvar::new(),
            now: AtomicU64::new(START),
            seed: AtomicU64::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d)),
            main: std::thread::current().id(),
            kernel: Mutex::default(),
            me: me.clone(),
        })
    }

    /// The kernel whose timers this clock runs.
    pub fn set_kernel(&self, k: &Arc<Kernel>) {
        *self.kernel.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(k);
    }

    fn kernel(&self) -> Option<Arc<Kernel>> {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_main(&self) -> bool {
        std::thread::current().id() == self.main
    }

    /// The thread begins a call.
    pub fn enter(&self) -> Inside<'_> {
        let mut s = self.lock();
        s.looks = 0;
        if !self.is_main() {
            s.running += 1;
            s.owed = false;
        }
        Inside(self)
    }

    /// Microseconds of virtual time since 1970. Who looks again and again without doing anything else moves it.
    pub fn gettimeofday(&self) -> u64 {
        let mut s = self.lock();
        if !self.is_main() {
            s.owed = false;
            self.changed.notify_all();
        }
        s.looks += 1;
        if s.looks > LOOKS {
            let to = s.now + 1000;
            drop(s);
            self.advance(to);
        }
        self.real_usecs(self.ktime_get())
    }

    /// The time in nanoseconds, for a thread that has come back from a call.
    pub fn look(&self) -> u64 {
        if !self.is_main() {
            self.lock().owed = false;
            self.changed.notify_all();
        }
        self.ktime_get()
    }

    /// Whether a thread is asleep in a call, and none is awake in one.
    pub fn somebody_sleeps(&self) -> bool {
        let s = self.lock();
        s.running == 0 && !s.asleep.is_empty()
    }

    /// A time of this clock as microseconds since 1970.
    pub fn real_usecs(&self, ns: u64) -> u64 {
        (REAL + ns) / 1000
    }

    /// Waits until every other thread is asleep in a call or outside, and has looked at the clock; deferred softirqs have run.
    pub fn settle(&self) {
        loop {
            let mut s = self.lock();
            let patience = Instant::now() + PATIENCE;
            while s.running > 0 || s.owed {
                let left = patience.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    // Somebody never looks: do not hang for it.
                    s.owed = false;
                    break;
                }
                s = self.changed.wait_timeout(s, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            let todo = std::mem::take(&mut s.softirqd);
            drop(s);
            if todo.is_empty() {
                return;
            }
            let Some(k) = self.kernel() else { return };
            todo.into_iter().for_each(|cpu| k.run_ksoftirqd(cpu));
        }
    }

    /// Goes to the next event, if it is not after `end`, and lets everything happen that it causes. Whether there was one.
    /// Without one the time is `end`.
    pub fn step(&self, end: u64) -> bool {
        self.settle();
        let mut s = self.lock();
        let wanted = s.asleep.iter().filter_map(|&(_, deadline)| deadline);
        let next = wanted.chain((s.timer != 0).then_some(s.timer)).min();
        let Some(at) = next.filter(|&t| t <= end) else {
            self.set_now(&mut s, end);
            return false;
        };
        self.set_now(&mut s, at);
        s.wake(|&(_, deadline)| deadline.is_some_and(|d| d <= at));
        let timers = s.timer != 0 && s.timer <= at;
        if timers {
            s.timer = 0;
        }
        drop(s);
        self.changed.notify_all();
        if timers && let Some(k) = self.kernel() {
            k.run_timers(0);
        }
        self.settle();
        true
    }

    fn set_now(&self, s: &mut State, t: u64) {
        s.now = s.now.max(t);
        self.now.store(s.now, SeqCst);
    }

    /// Lets time go by until `end` nanoseconds.
    pub fn advance(&self, end: u64) {
        while self.step(end) {}
    }

    /// packetdrill's lock is free while its main thread sleeps, and its other thread has to get it to tell what its call has
    /// answered: in no time at all it would not. This is real time, and only then.
    pub fn let_others_in(&self) {
        self.settle();
        if std::mem::take(&mut self.lock().returned) {
            std::thread::sleep(MOMENT);
        }
    }

    /// Nobody sleeps from now on.
    pub fn shut_down(&self) {
        let mut s = self.lock();
        s.down = true;
        s.wake(|_| true);
        drop(s);
        self.changed.notify_all();
    }

    /// The calling thread's task and number.
    fn me(&self) -> (Arc<Task>, u64) {
        CURRENT.with_borrow_mut(|c| {
            if c.as_ref().is_none_or(|(arch, ..)| !arch.ptr_eq(&self.me)) {
                let id = {
                    let mut s = self.lock();
                    s.sleepers += 1;
                    s.sleepers
                };
                let how = Sleeper { arch: self.me.clone(), id };
                *c = Some((self.me.clone(), Task::named("thread", 0, Box::new(how)), id));
            }
            let (_, task, id) = c.as_ref().unwrap_or_else(|| unreachable!("set above"));
            (task.clone(), *id)
        })
    }

    /// The sleep of the main thread, which nobody but itself can bring to an end.
    fn schedule_main(&self, task: &Task, deadline: Option<u64>) {
        let give_up = self.ktime_get() + FOR_EVER;
        let end = deadline.unwrap_or(give_up).min(give_up);
        while task.state() != TASK_RUNNING && self.ktime_get() < end {
            self.step(end);
        }
        if task.state() != TASK_RUNNING && deadline.is_none_or(|d| d > end) {
            eprintln!("sockeye: a call of the main thread would block for ever");
            std::process::exit(1);
        }
        task.set_state(TASK_RUNNING);
    }
}

impl Arch for VirtualArch {
    fn ktime_get(&self) -> u64 {
        self.now.load(SeqCst)
    }

    fn ktime_get_real(&self) -> u64 {
        REAL + self.ktime_get()
    }

    fn get_random_bytes(&self, buf: &mut [u8]) {
        for b in buf {
            let x = self.seed.fetch_add(0x9e37_79b9_7f4a_7c15, SeqCst);
            let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            *b = ((x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) >> 56) as u8;
        }
    }

    fn cpu_relax(&self, _spins: u32) {
        std::thread::yield_now();
    }

    fn current(&self) -> Arc<Task> {
        self.me().0
    }

    fn schedule(&self, task: &Task, deadline: Option<u64>) {
        if !task.try_to_block_task() {
            return;
        }
        if self.is_main() {
            return self.schedule_main(task, deadline);
        }
        let (_, id) = self.me();
        let mut s = self.lock();
        // Woken before it is on the list: whoever did it has found nobody there.
        if task.state() != TASK_RUNNING && deadline.is_none_or(|d| d > s.now) && !s.down {
            s.asleep.push((id, deadline));
            s.running -= 1;
            self.changed.notify_all();
            while s.asleep.iter().any(|&(i, _)| i == id) {
                s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
            }
        }
        drop(s);
        task.set_state(TASK_RUNNING);
    }

    fn wakeup_softirqd(&self, cpu: usize) {
        self.lock().softirqd.push(cpu);
    }

    fn program_timer(&self, _base: usize, expires: u64) {
        let mut s = self.lock();
        if s.timer == 0 || expires < s.timer {
            s.timer = expires.max(1);
        }
    }
}
