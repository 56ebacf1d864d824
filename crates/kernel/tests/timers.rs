//! Timers and softirqs on a clock that moves when told to.

use sockeye_kernel as kernel;

use kernel::kernel::raise_softirq;
use kernel::timer::Timer;
use kernel::{Arch, HrTimer, HrtimerRestart, Kernel, Softirq, TICK_NSEC, Task, local_bh_disable};
use proptest::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};

/// Where the clock starts: not a round number of anything.
const START: u64 = 1_234_567 * TICK_NSEC;

#[derive(Default)]
struct Clock {
    now: AtomicU64,
    /// What each base has been programmed for; 0: nothing.
    timer: Mutex<[u64; 2]>,
    /// CPUs for which `ksoftirqd` has been asked.
    woken: AtomicU64,
}

impl Arch for Clock {
    fn ktime_get(&self) -> u64 {
        self.now.load(SeqCst)
    }
    fn ktime_get_real(&self) -> u64 {
        self.ktime_get()
    }
    fn get_random_bytes(&self, buf: &mut [u8]) {
        buf.fill(4);
    }
    fn cpu_relax(&self, _spins: u32) {
        std::thread::yield_now();
    }
    fn current(&self) -> Arc<Task> {
        Task::from_fn(|| ())
    }
    fn schedule(&self, _task: &Task, _deadline: Option<u64>) {
        panic!("a timer test slept");
    }
    fn wakeup_softirqd(&self, cpu: usize) {
        self.woken.fetch_or(1 << cpu, SeqCst);
    }
    fn program_timer(&self, base: usize, expires: u64) {
        let t = &mut self.timer.lock().unwrap()[base];
        *t = if *t == 0 { expires } else { expires.min(*t) };
    }
}

struct Machine {
    kernel: Arc<Kernel>,
    clock: Arc<Clock>,
}

impl Machine {
    fn new(bases: usize) -> Machine {
        let clock = Arc::new(Clock::default());
        clock.now.store(START, SeqCst);
        Machine { kernel: Kernel::new(clock.clone(), bases), clock }
    }

    fn now(&self) -> u64 {
        self.clock.now.load(SeqCst)
    }

    /// Runs the clock to `end`, with a stop at each programmed time.
    fn run_to(&self, end: u64) {
        loop {
            let first = {
                let t = self.clock.timer.lock().unwrap();
                (0..t.len()).filter(|&b| t[b] != 0 && t[b] <= end).min_by_key(|&b| t[b])
            };
            let Some(base) = first else { break };
            let at = std::mem::take(&mut self.clock.timer.lock().unwrap()[base]);
            self.clock.now.fetch_max(at, SeqCst);
            self.kernel.run_timers(base);
        }
        self.clock.now.fetch_max(end, SeqCst);
    }

    fn advance(&self, ns: u64) {
        self.run_to(self.now() + ns);
    }

    /// A high-resolution timer that notes when it runs.
    fn noting(&self, seen: &Arc<Mutex<Vec<u64>>>) -> HrTimer {
        let seen = seen.clone();
        self.kernel.hrtimer(move |t| {
            seen.lock().unwrap().push(t.now());
            HrtimerRestart::NoRestart
        })
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Arms timer `which` for so many jiffies from now.
    Arm {
        which: usize,
        delta: u64,
    },
    Delete {
        which: usize,
    },
    Pass {
        ms: u64,
    },
}

const TIMERS: usize = 8;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Each level is met: distances spread over all magnitudes.
    let delta = (0u32..34, any::<u64>()).prop_map(|(bits, x)| x & ((1 << bits) - 1));
    let pass = (0u32..30, any::<u64>()).prop_map(|(bits, x)| x & ((1 << bits) - 1));
    let step = prop_oneof![
        4 => (0..TIMERS, delta).prop_map(|(which, delta)| Step::Arm { which, delta }),
        1 => (0..TIMERS).prop_map(|which| Step::Delete { which }),
        4 => pass.prop_map(|ms| Step::Pass { ms }),
    ];
    prop::collection::vec(step, 1..60)
}

/// By when a timer armed at `from` for `expires` has fired: a jiffy that is under way has been processed.
fn latest(from: u64, expires: u64) -> u64 {
    let distance = (expires - from).max(1);
    from + distance + distance * 8 / 63
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Against a list: none early, none later than 8/63 of its distance, each once, none that was deleted.
    #[test]
    fn the_wheel_keeps_its_promise(steps in steps()) {
        let m = Machine::new(1);
        let fired = Arc::new(Mutex::new(Vec::<(usize, u64)>::new()));
        let timers: Vec<Timer> = (0..TIMERS)
            .map(|i| {
                let (fired, clock) = (fired.clone(), m.clock.clone());
                m.kernel.timer(move || fired.lock().unwrap().push((i, clock.ktime_get() / TICK_NSEC)))
            })
            .collect();
        // When each was armed, and for when.
        let mut armed: [Option<(u64, u64)>; TIMERS] = [None; TIMERS];
        let last = [Step::Pass { ms: 1 << 36 }];
        for step in steps.iter().chain(&last) {
            let now = m.now() / TICK_NSEC;
            match *step {
                Step::Arm { which, delta } => {
                    prop_assert_eq!(timers[which].mod_timer(now + delta), armed[which].is_some());
                    armed[which] = Some((now, now + delta));
                }
                Step::Delete { which } => {
                    prop_assert_eq!(timers[which].del_timer(), armed[which].take().is_some());
                }
                Step::Pass { ms } => m.advance(ms * TICK_NSEC),
            }
            for (which, at) in fired.lock().unwrap().drain(..) {
                let Some((from, expires)) = armed[which].take() else {
                    return Err(TestCaseError::fail(format!("{which} ran twice or deleted")));
                };
                prop_assert!(at >= expires, "{} early: {} for {}", which, at, expires);
                prop_assert!(at <= latest(from, expires), "{which} late: {at} for {expires} from {from}");
            }
            let (now, count) = (m.now() / TICK_NSEC, armed.iter().flatten().count());
            prop_assert_eq!(m.kernel.timers().pending(), count);
            for &(from, expires) in armed.iter().flatten() {
                prop_assert!(now <= latest(from, expires), "forgotten: for {expires}, it is {now}");
            }
        }
        prop_assert_eq!(m.kernel.timers().pending(), 0);
    }

    /// Against a list: exactly on time, in the order of times and then of starts.
    #[test]
    fn the_heap_is_exact_and_in_order(steps in steps()) {
        let m = Machine::new(1);
        let fired = Arc::new(Mutex::new(Vec::<(usize, u64)>::new()));
        let timers: Vec<HrTimer> = (0..TIMERS)
            .map(|i| {
                let fired = fired.clone();
                m.kernel.hrtimer(move |t| {
                    fired.lock().unwrap().push((i, t.now()));
                    HrtimerRestart::NoRestart
                })
            })
            .collect();
        let mut model: Vec<(u64, usize)> = Vec::new();
        let last = [Step::Pass { ms: 1 << 36 }];
        for step in steps.iter().chain(&last) {
            match *step {
                Step::Arm { which, delta } => {
                    let was = model.iter().any(|e| e.1 == which);
                    model.retain(|e| e.1 != which);
                    model.push((m.now() + delta, which));
                    prop_assert_eq!(timers[which].start(m.now() + delta), was);
                }
                Step::Delete { which } => {
                    prop_assert_eq!(timers[which].cancel(), model.iter().any(|e| e.1 == which));
                    model.retain(|e| e.1 != which);
                }
                Step::Pass { ms } => m.advance(ms),
            }
            // The sort is stable: of two for the same time the one started first comes first.
            let mut due: Vec<_> = model.iter().copied().filter(|e| e.0 <= m.now()).collect();
            if !matches!(step, Step::Pass { .. }) {
                due.clear();
            }
            model.retain(|e| !due.contains(e));
            due.sort_by_key(|e| e.0);
            let got: Vec<_> = fired.lock().unwrap().drain(..).map(|(i, at)| (at, i)).collect();
            // A timer for a time that has come runs at the next clock event, which is now.
            prop_assert_eq!(got.iter().map(|e| e.1).collect::<Vec<_>>(), due.iter().map(|e| e.1).collect::<Vec<_>>());
            prop_assert!(got.iter().zip(&due).all(|(g, d)| g.0 >= d.0));
            prop_assert_eq!(m.kernel.hrtimers().pending(), model.len());
        }
        prop_assert_eq!(m.kernel.hrtimers().pending(), 0);
    }
}

#[test]
fn wheel_and_heap_share_the_clock() {
    let m = Machine::new(1);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let hr = m.noting(&seen);
    let (to, clock) = (seen.clone(), m.clock.clone());
    let wheel = m.kernel.timer(move || to.lock().unwrap().push(clock.ktime_get()));
    wheel.mod_timer_in(5);
    hr.start(START + 50_000);
    m.advance(50_000);
    assert_eq!(*seen.lock().unwrap(), [START + 50_000]);
    hr.start(START + 7 * TICK_NSEC + 1);
    m.advance(10 * TICK_NSEC);
    assert_eq!(*seen.lock().unwrap(), [START + 50_000, START + 5 * TICK_NSEC, START + 7 * TICK_NSEC + 1]);
}

#[test]
fn slack_lets_timers_share_an_interrupt() {
    let m = Machine::new(1);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (a, b, c) = (m.noting(&seen), m.noting(&seen), m.noting(&seen));
    a.start_range_ns(START + 100, 1000);
    b.start(START + 600);
    c.start_range_ns(START + 700, 100);
    m.advance(2000);
    assert_eq!(
        *seen.lock().unwrap(),
        [START + 600, START + 800, START + 800],
        "a goes with c: it may be as late as that"
    );
}

#[test]
fn a_periodic_timer_counts_what_it_missed() {
    let m = Machine::new(1);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let to = seen.clone();
    let t = m.kernel.hrtimer(move |t| {
        let mut s = to.lock().unwrap();
        s.push((t.now() - START, t.forward(100)));
        if s.len() < 4 { HrtimerRestart::Restart } else { HrtimerRestart::NoRestart }
    });
    t.start(START + 100);
    m.advance(250);
    // The clock jumps: two and a half intervals go by unseen.
    m.clock.now.fetch_add(300, SeqCst);
    m.advance(1000);
    assert_eq!(*seen.lock().unwrap(), [(100, 1), (200, 1), (550, 3), (600, 1)]);
    assert!(!t.active());
    assert_eq!((t.forward(START + 1000, 100), t.expires()), (4, START + 1100));
    t.start(START + 5000);
    assert_eq!(t.forward(START + 9000, 100), 0, "not while it is started");
}

#[test]
fn a_timer_started_for_the_past_does_not_keep_the_cpu() {
    let m = Machine::new(1);
    let runs = Arc::new(AtomicU32::new(0));
    let r = runs.clone();
    let t = m.kernel.hrtimer(move |_| {
        r.fetch_add(1, SeqCst);
        HrtimerRestart::Restart
    });
    t.start(START);
    let at = std::mem::take(&mut m.clock.timer.lock().unwrap()[0]);
    assert_eq!(at, START);
    m.kernel.run_timers(0);
    assert_eq!(runs.load(SeqCst), 1);
    assert_eq!(m.clock.timer.lock().unwrap()[0], START, "it asks to be called again");
    assert!(t.cancel());
}

/// Counts what this thread allocates.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: the trait's contract is the caller's to keep.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }
    // SAFETY: as above.
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn starting_again_and_restarting_allocate_nothing() {
    let m = Machine::new(1);
    let timers: Vec<_> = (0..100)
        .map(|_| {
            m.kernel.hrtimer(|t| {
                t.forward(50);
                HrtimerRestart::Restart
            })
        })
        .collect();
    let round = || {
        timers.iter().enumerate().for_each(|(i, t)| _ = t.start(m.now() + (i as u64 * 37) % 100));
        m.advance(1000);
    };
    round();
    let before = ALLOCATIONS.with(Cell::get);
    (0..10).for_each(|_| round());
    assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0);
}

#[test]
fn a_started_timer_is_moved() {
    let m = Machine::new(1);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let timers: Vec<_> = (0..100).map(|_| m.noting(&seen)).collect();
    for round in 0..3 {
        for (i, t) in timers.iter().enumerate() {
            t.start(START + 1_000_000 - ((i * 37) % 100) as u64 * 10 + round);
        }
    }
    m.advance(2_000_000);
    let seen = seen.lock().unwrap();
    assert!(seen.len() == 100 && seen.is_sorted());
}

#[test]
fn functions_run_in_softirq_context_and_may_arm_themselves() {
    let m = Machine::new(1);
    let cell: Arc<OnceLock<Timer>> = Arc::default();
    let runs = Arc::new(AtomicU32::new(0));
    let (c, r) = (Arc::downgrade(&cell), runs.clone());
    let t = m.kernel.timer(move || {
        assert!(kernel::cpu::in_serving_softirq());
        if r.fetch_add(1, SeqCst) < 2
            && let Some(t) = c.upgrade().as_ref().and_then(|c| c.get())
        {
            t.mod_timer_in(10);
        }
    });
    assert!(cell.set(t).is_ok());
    cell.get().unwrap().mod_timer_in(10);
    m.advance(100 * TICK_NSEC);
    assert_eq!((runs.load(SeqCst), m.kernel.timers().pending()), (3, 0));
}

/// Something that a timer is part of.
struct Owner(AtomicU32);

#[test]
fn a_part_s_timer_gives_its_owner_back_and_dies_with_it() {
    let m = Machine::new(1);
    let owner = Arc::new(Owner(AtomicU32::new(0)));
    let weak: std::sync::Weak<Owner> = Arc::downgrade(&owner);
    let t = m.kernel.timer_of(weak, |o| {
        let o = o.downcast::<Owner>().unwrap_or_else(|_| panic!("another owner"));
        o.0.fetch_add(1, SeqCst);
    });
    t.mod_timer_in(10);
    m.advance(100 * TICK_NSEC);
    assert_eq!(owner.0.load(SeqCst), 1);
    t.mod_timer_in(10);
    drop(owner);
    m.advance(100 * TICK_NSEC);
    assert_eq!(m.kernel.timers().pending(), 0, "it fired for nobody");
}

#[test]
fn a_timers_base_does_not_depend_on_addresses() {
    let m = Machine::new(2);
    let on: Arc<Mutex<Vec<usize>>> = Arc::default();
    let make = |n: usize| {
        let on = on.clone();
        let _inside = m.kernel.enter();
        m.kernel.timer(move || on.lock().unwrap().push(n))
    };
    // The thread is the same CPU each time, so both hang on one base, whatever their addresses are.
    let (a, b) = (make(0), make(1));
    a.mod_timer_in(3);
    b.mod_timer_in(3);
    let programmed = *m.clock.timer.lock().unwrap();
    assert_eq!(programmed.iter().filter(|&&t| t != 0).count(), 1, "{programmed:?}");
    m.advance(10 * TICK_NSEC);
    assert_eq!(*on.lock().unwrap(), [0, 1], "in the order in which they were armed");
}

/// Nor does a function run whose timer another function of the same moment drops, near in the batch or far behind it.
#[test]
fn a_dropped_timer_does_nothing_and_keeps_nothing() {
    let m = Machine::new(1);
    let (ran, kept) = (Arc::new(AtomicU32::new(0)), Arc::new(()));
    let others: Arc<Mutex<Vec<Timer>>> = Arc::default();
    let first = {
        let others = others.clone();
        m.kernel.timer(move || others.lock().unwrap().clear())
    };
    first.mod_timer_in(5);
    for _ in 0..100 {
        let (ran, kept) = (ran.clone(), kept.clone());
        let t = m.kernel.timer(move || {
            let _ = &kept;
            ran.fetch_add(1, SeqCst);
        });
        t.mod_timer_in(5);
        others.lock().unwrap().push(t);
    }
    m.advance(20 * TICK_NSEC);
    assert_eq!((ran.load(SeqCst), Arc::strong_count(&kept)), (0, 1));
    let k = kept.clone();
    let t = m.kernel.timer(move || drop(k.clone()));
    t.mod_timer_in(1000);
    drop(t);
    assert_eq!(Arc::strong_count(&kept), 1, "pending, and gone at once");
}

#[test]
fn soon_is_the_next_jiffy() {
    let m = Machine::new(1);
    let t = m.kernel.timer(|| ());
    t.mod_timer_in(0);
    assert_eq!(t.expires(), Some(m.kernel.jiffies() + 1));
}

#[test]
fn after_shutdown_nothing_arms_it() {
    let m = Machine::new(1);
    let runs = Arc::new(AtomicU32::new(0));
    let r = runs.clone();
    let t = m.kernel.timer(move || {
        r.fetch_add(1, SeqCst);
    });
    t.mod_timer_in(10);
    assert!(t.shutdown() && !t.pending());
    assert!(!t.mod_timer_in(1) && !t.pending() && !t.del_timer() && !t.mod_timer_in(1));
    m.advance(100 * TICK_NSEC);
    assert_eq!((runs.load(SeqCst), t.expires(), t.shutdown_sync()), (0, None, false));
}

/// A thread fires a timer whose function lasts; another deletes it: when that is done the function is not running.
fn deletes_wait(delete: fn(&Timer) -> bool) {
    let m = Machine::new(1);
    let (inside, runs) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (i, r) = (inside.clone(), runs.clone());
    let t = m.kernel.timer(move || {
        i.store(1, SeqCst);
        (0..50).for_each(|_| std::thread::yield_now());
        r.fetch_add(1, SeqCst);
        i.store(0, SeqCst);
    });
    std::thread::scope(|s| {
        for _ in 0..200 {
            t.mod_timer_in(1);
            let fire = s.spawn(|| m.advance(2 * TICK_NSEC));
            (0..20).for_each(|_| std::thread::yield_now());
            delete(&t);
            assert_eq!(inside.load(SeqCst), 0, "the function runs");
            let before = runs.load(SeqCst);
            fire.join().unwrap();
            assert_eq!(runs.load(SeqCst), before, "the function ran after it had been deleted");
        }
    });
}

#[test]
fn del_timer_sync_waits_for_the_function() {
    deletes_wait(Timer::del_timer_sync);
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "would wait for itself for ever")]
fn del_timer_sync_from_the_function_is_reported() {
    let m = Machine::new(1);
    let cell: Arc<OnceLock<Timer>> = Arc::default();
    let c = cell.clone();
    assert!(cell.set(m.kernel.timer(move || _ = c.get().map(Timer::del_timer_sync))).is_ok());
    cell.get().unwrap().mod_timer_in(1);
    m.advance(5 * TICK_NSEC);
}

#[test]
fn cancel_waits_for_a_function_that_restarts() {
    let m = Machine::new(1);
    let runs = Arc::new(AtomicUsize::new(0));
    let r = runs.clone();
    let t = m.kernel.hrtimer(move |t| {
        r.fetch_add(1, SeqCst);
        (0..20).for_each(|_| std::thread::yield_now());
        t.forward(1000);
        HrtimerRestart::Restart
    });
    std::thread::scope(|s| {
        for _ in 0..100 {
            t.start(m.now() + 1000);
            let fire = s.spawn(|| m.advance(5000));
            (0..10).for_each(|_| std::thread::yield_now());
            t.cancel();
            assert!(!t.active());
            let before = runs.load(SeqCst);
            fire.join().unwrap();
            assert_eq!(runs.load(SeqCst), before);
        }
    });
}

#[test]
fn what_the_limit_leaves_goes_to_ksoftirqd() {
    let m = Machine::new(1);
    let rounds = Arc::new(AtomicUsize::new(0));
    let r = rounds.clone();
    m.kernel.open_softirq(Softirq::NetRx, move || {
        if r.fetch_add(1, SeqCst) < 24 {
            raise_softirq(Softirq::NetRx);
        }
    });
    let inside = m.kernel.enter();
    let cpu = kernel::cpu::smp_processor_id();
    {
        let _bh = local_bh_disable();
        raise_softirq(Softirq::NetRx);
        assert_eq!(rounds.load(SeqCst), 0, "not while bottom halves are off");
    }
    assert_eq!((rounds.load(SeqCst), m.clock.woken.swap(0, SeqCst)), (10, 1 << cpu));
    drop(local_bh_disable());
    assert_eq!(rounds.load(SeqCst), 10, "until ksoftirqd has come, the caller goes on with its own work");
    // It comes, but the caller is still there: then the caller does it.
    m.kernel.run_ksoftirqd(cpu);
    assert_eq!(rounds.load(SeqCst), 10);
    drop(local_bh_disable());
    assert_eq!((rounds.load(SeqCst), m.clock.woken.swap(0, SeqCst)), (20, 1 << cpu));
    drop(inside);
    assert_eq!((rounds.load(SeqCst), m.clock.woken.swap(0, SeqCst)), (20, 1 << cpu));
    // Whoever comes in before ksoftirqd does not do its work.
    drop(m.kernel.enter());
    assert_eq!((rounds.load(SeqCst), m.clock.woken.swap(0, SeqCst)), (20, 1 << cpu));
    m.kernel.run_ksoftirqd(cpu);
    assert_eq!((rounds.load(SeqCst), m.clock.woken.swap(0, SeqCst)), (25, 0));
}

#[test]
fn softirqs_have_two_milliseconds() {
    let m = Machine::new(1);
    let rounds = Arc::new(AtomicUsize::new(0));
    let (r, clock) = (rounds.clone(), m.clock.clone());
    m.kernel.open_softirq(Softirq::NetTx, move || {
        clock.now.fetch_add(900_000, SeqCst);
        if r.fetch_add(1, SeqCst) < 9 {
            raise_softirq(Softirq::NetTx);
        }
    });
    let _inside = m.kernel.enter();
    raise_softirq(Softirq::NetTx);
    drop(local_bh_disable());
    // The first round is not counted; three more are the first to reach two milliseconds.
    assert_eq!(rounds.load(SeqCst), 4);
}

#[test]
fn a_top_halfs_softirq_runs_when_the_interrupt_ends_unless_what_it_interrupted_forbids() {
    use kernel::cpu::{irq_enter, local_irq_save};
    let m = Machine::new(1);
    let rounds = Arc::new(AtomicUsize::new(0));
    let r = rounds.clone();
    m.kernel.open_softirq(Softirq::NetRx, move || {
        assert!(kernel::cpu::in_serving_softirq() && !kernel::cpu::in_hardirq() && !kernel::cpu::irqs_disabled());
        r.fetch_add(1, SeqCst);
    });
    let _inside = m.kernel.enter();
    let interrupt = || {
        let _irq = irq_enter();
        raise_softirq(Softirq::NetRx);
        drop(local_bh_disable());
    };
    interrupt();
    assert_eq!(rounds.load(SeqCst), 1);
    {
        let _bh = local_bh_disable();
        interrupt();
        assert_eq!(rounds.load(SeqCst), 1, "bottom halves are off");
    }
    assert_eq!(rounds.load(SeqCst), 2);
    {
        let _irq = local_irq_save();
        raise_softirq(Softirq::NetRx);
        drop(local_bh_disable());
        assert_eq!(rounds.load(SeqCst), 2, "interrupts are off");
    }
    drop(local_bh_disable());
    assert_eq!(rounds.load(SeqCst), 3);
    // The clock event of a simulated CPU comes in an interrupt as well.
    let seen = Arc::new(Mutex::new(Vec::new()));
    let t = m.noting(&seen);
    t.start(START + 10);
    m.clock.now.fetch_add(10, SeqCst);
    {
        let _irq = irq_enter();
        m.kernel.run_timers(0);
        assert!(seen.lock().unwrap().is_empty());
    }
    assert_eq!(*seen.lock().unwrap(), [START + 10]);
}

#[test]
fn interrupts_take_half_of_the_cpu_at_most() {
    let m = Machine::new(1);
    let rounds = Arc::new(AtomicUsize::new(0));
    let (r, clock) = (rounds.clone(), m.clock.clone());
    m.kernel.open_softirq(Softirq::NetRx, move || {
        clock.now.fetch_add(100_000, SeqCst);
        r.fetch_add(1, SeqCst);
    });
    let _inside = m.kernel.enter();
    let cpu = kernel::cpu::smp_processor_id();
    let interrupt = || {
        let _irq = kernel::cpu::irq_enter();
        m.clock.now.fetch_add(100_000, SeqCst);
        raise_softirq(Softirq::NetRx);
    };
    (0..40).for_each(|_| interrupt());
    // Ten of them have taken two milliseconds; what the others raise waits for ksoftirqd.
    assert_eq!((rounds.load(SeqCst), m.clock.woken.swap(0, SeqCst)), (10, 1 << cpu));
    m.kernel.run_ksoftirqd(cpu);
    drop(local_bh_disable());
    assert_eq!(rounds.load(SeqCst), 11);
    // With some time between them they are all followed by their softirqs.
    m.clock.now.fetch_add(4_000_000, SeqCst);
    for _ in 0..40 {
        m.clock.now.fetch_add(300_000, SeqCst);
        interrupt();
    }
    assert_eq!((rounds.load(SeqCst), m.clock.woken.load(SeqCst)), (51, 0));
}
