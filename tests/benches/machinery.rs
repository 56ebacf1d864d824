//! Benchmarks of the machinery under the network: locks, wake-ups, semaphores, timers, each beside its peers.
//!
//! Interface: `cargo xtask bench machinery [locks] [wakeups] [semaphores] [timers] [simulator] [WORD...]`.
//! Linux counterpart: `kernel/locking/locktorture.c`, `perf bench sched`, `perf bench futex`.
//! Locks and context: a program; threads pinned to CPUs.

use host::Host;
use kernel::task::Task;
use kernel::wait::block_on;
use kernel::{Arch, Kernel, Mutex, Semaphore, SpinLock, Timer, WaitQueueHead};
use sim::link::LinkParams;
use sim::nic::NicConfig;
use sim::{Sim, SimConfig};
use std::collections::{BTreeMap, BinaryHeap};
use std::future::Future;
use std::hint::black_box;
use std::io::{Read, Write};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Barrier, Condvar};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

const RUNS: usize = 5;

fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}

/// The calling thread stays on CPU `cpu`, modulo their number.
fn pin_to(cpu: usize) {
    let n = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu % n);
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

/// Something measured, in nanoseconds or a rate, by its name.
type Row<'a> = (&'a str, Box<dyn Fn() -> f64 + 'a>);

/// Measures the rows in turn, `RUNS` times after one to warm up; medians, and how the first compares to the best of the rest.
fn table(what: &str, unit: &str, rows: Vec<Row<'_>>) {
    let words = chosen();
    if !words.is_empty() && !words.iter().any(|w| PARTS.contains(&w.as_str()) || what.contains(w.as_str())) {
        return;
    }
    let mut all = vec![Vec::new(); rows.len()];
    for i in 0..=RUNS {
        for (at, (_, f)) in rows.iter().enumerate() {
            let x = f();
            if i > 0 {
                all[at].push(x);
            }
        }
    }
    let medians: Vec<f64> = all.into_iter().map(median).collect();
    for ((name, _), m) in rows.iter().zip(&medians) {
        println!("| {what} | {name} | {m:.1} | {unit} | {:.2} |", m / medians[0]);
    }
}

// Locks.

/// What every lock here can do.
trait Lock: Sync {
    fn add(&self);
}

macro_rules! lock {
    ($t:ty, $l:ident => $e:expr) => {
        impl Lock for $t {
            #[inline(always)]
            fn add(&self) {
                let $l = self;
                $e
            }
        }
    };
}

struct Plain(SpinLock<u64>);
struct Bh(SpinLock<u64>);
struct Irq(SpinLock<u64>);
struct Std(std::sync::Mutex<u64>);
struct ParkingLot(parking_lot::Mutex<u64>);
struct OurMutex(Mutex<u64>);

lock!(Plain, l => *l.0.lock() += 1);
lock!(Bh, l => *l.0.lock_bh() += 1);
lock!(Irq, l => *l.0.lock_irqsave() += 1);
lock!(Std, l => *l.0.lock().unwrap() += 1);
lock!(ParkingLot, l => *l.0.lock() += 1);
impl Lock for OurMutex {
    fn add(&self) {
        *self.0.lock() += 1;
    }
}

/// Nanoseconds to take a free lock, add one and let it go.
fn uncontended(l: &impl Lock) -> f64 {
    const N: u32 = 5_000_000;
    let start = Instant::now();
    for _ in 0..N {
        black_box(l).add();
    }
    start.elapsed().as_nanos() as f64 / f64::from(N)
}

/// `threads` threads that do nothing else for a tenth of a second: additions a microsecond, and the longest that one of them
/// waited for the lock, in microseconds.
fn contended(l: &impl Lock, threads: usize, enter: Option<&Kernel>) -> [f64; 2] {
    let stop = AtomicBool::new(false);
    let start = Barrier::new(threads + 1);
    let each = |i| {
        pin_to(i);
        let _inside = enter.map(Kernel::enter);
        start.wait();
        let (mut n, mut longest) = (0u64, Duration::ZERO);
        let mut last = Instant::now();
        while !stop.load(Relaxed) {
            // A batch is so short that a wait which stands out is one for the lock.
            (0..16).for_each(|_| l.add());
            n += 16;
            let now = Instant::now();
            longest = longest.max(now - last);
            last = now;
        }
        (n, longest)
    };
    let all: Vec<(u64, Duration)> = std::thread::scope(|s| {
        let each = &each;
        let all: Vec<_> = (0..threads).map(|i| s.spawn(move || each(i))).collect();
        start.wait();
        std::thread::sleep(Duration::from_millis(100));
        stop.store(true, Relaxed);
        all.into_iter().map(|t| t.join().expect("thread")).collect()
    });
    let sum: u64 = all.iter().map(|a| a.0).sum();
    let longest = all.iter().map(|a| a.1).max().unwrap_or_default();
    [sum as f64 / 100_000.0, longest.as_nanos() as f64 / 1e3]
}

fn locks(host: &Host) {
    let kernel = host.kernel();
    let (plain, bh, irq) = (Plain(SpinLock::new(0)), Bh(SpinLock::new(0)), Irq(SpinLock::new(0)));
    let (std, pl) = (Std(std::sync::Mutex::new(0)), ParkingLot(parking_lot::Mutex::new(0)));
    let ours = OurMutex(Mutex::new(0));
    let _inside = kernel.enter();
    let ns = "ns";
    table(
        "lock, add, unlock, nobody else",
        ns,
        vec![
            ("SpinLock::lock", Box::new(|| uncontended(&plain))),
            ("SpinLock::lock_bh", Box::new(|| uncontended(&bh))),
            ("SpinLock::lock_irqsave", Box::new(|| uncontended(&irq))),
            ("kernel::Mutex", Box::new(|| uncontended(&ours))),
            ("parking_lot::Mutex", Box::new(|| uncontended(&pl))),
            ("std::sync::Mutex", Box::new(|| uncontended(&std))),
        ],
    );
    for n in [2, 4, 8] {
        for (at, (what, unit)) in [("", "add/us"), (", longest wait", "us")].into_iter().enumerate() {
            table(
                &format!("{n} threads on one lock{what}"),
                unit,
                vec![
                    ("SpinLock", Box::new(move || contended(&Plain(SpinLock::new(0)), n, Some(kernel))[at])),
                    ("kernel::Mutex", Box::new(move || contended(&OurMutex(Mutex::new(0)), n, Some(kernel))[at])),
                    ("parking_lot", Box::new(move || contended(&ParkingLot(parking_lot::Mutex::new(0)), n, None)[at])),
                    ("std", Box::new(move || contended(&Std(std::sync::Mutex::new(0)), n, None)[at])),
                ],
            );
        }
    }
}

// Wake-ups: two who wake each other in turn; a wake-up is half a round.

const ROUNDS: u64 = 10_000;

/// Runs `turn(side, round)` on two threads on the given CPUs; nanoseconds for one wake-up.
fn ping_pong(cpus: [usize; 2], turn: impl Fn(usize, u64) + Sync) -> f64 {
    let start = Barrier::new(3);
    let mut took = Duration::ZERO;
    std::thread::scope(|s| {
        let sides: Vec<_> = (0..2)
            .map(|side| {
                let (turn, start) = (&turn, &start);
                s.spawn(move || {
                    pin_to(cpus[side]);
                    start.wait();
                    (0..ROUNDS).for_each(|round| turn(side, round));
                })
            })
            .collect();
        start.wait();
        let begun = Instant::now();
        sides.into_iter().for_each(|t| t.join().expect("side"));
        took = begun.elapsed();
    });
    took.as_nanos() as f64 / (2 * ROUNDS) as f64
}

/// A number that two sides count up in turn, and the wait queues on which they wait for it.
#[derive(Default)]
struct Turns {
    count: AtomicU64,
    queues: [WaitQueueHead; 2],
}

impl Turns {
    /// Whether it is `side`'s turn in this round.
    fn mine(&self, side: usize, round: u64) -> bool {
        self.count.load(SeqCst) == 2 * round + side as u64
    }

    fn pass_on(&self, side: usize) {
        self.count.fetch_add(1, SeqCst);
        self.queues[1 - side].wake_up(0);
    }

    fn poll(&self, side: usize, round: u64, wait: &mut kernel::Wait) -> Poll<()> {
        wait.prepare_to_wait(&self.queues[side]);
        if !self.mine(side, round) {
            return Poll::Pending;
        }
        wait.finish_wait();
        Poll::Ready(())
    }
}

fn by_thread(arch: &dyn Arch, cpus: [usize; 2]) -> f64 {
    let t = Turns::default();
    ping_pong(cpus, |side, round| {
        block_on(arch, |wait| t.poll(side, round, wait));
        t.pass_on(side);
    })
}

/// The smallest executor: one future a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark()
    }
}

fn run_future<T>(f: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let (mut cx, mut f) = (Context::from_waker(&waker), pin!(f));
    loop {
        match f.as_mut().poll(&mut cx) {
            Poll::Ready(v) => return v,
            Poll::Pending => std::thread::park(),
        }
    }
}

fn by_future(cpus: [usize; 2]) -> f64 {
    let t = Turns::default();
    ping_pong(cpus, |side, round| {
        let mut wait = None;
        run_future(std::future::poll_fn(|cx| {
            let wait = wait.get_or_insert_with(|| kernel::Wait::new(Task::from_waker(cx.waker().clone())));
            t.poll(side, round, wait)
        }));
        t.pass_on(side);
    })
}

/// A parked call: its supervisor sleeps in `epoll`-like `read` on an eventfd until a wake function has put the call on its list.
fn by_parked_call(cpus: [usize; 2]) -> f64 {
    use rustix::event::{EventfdFlags, eventfd};
    let t = Turns::default();
    let fds: [_; 2] = std::array::from_fn(|_| Arc::new(eventfd(0, EventfdFlags::CLOEXEC).expect("eventfd")));
    ping_pong(cpus, |side, round| {
        let fd = fds[side].clone();
        let mut wait = kernel::Wait::new(Task::from_fn(move || {
            let _ = rustix::io::write(&*fd, &1u64.to_ne_bytes());
        }));
        while t.poll(side, round, &mut wait).is_pending() {
            let mut b = [0; 8];
            let _ = rustix::io::read(&*fds[side], &mut b);
        }
        t.pass_on(side);
    })
}

fn by_std_park(cpus: [usize; 2]) -> f64 {
    let count = AtomicU64::new(0);
    let threads: [std::sync::OnceLock<Thread>; 2] = Default::default();
    ping_pong(cpus, |side, round| {
        threads[side].get_or_init(std::thread::current);
        while count.load(SeqCst) != 2 * round + side as u64 {
            std::thread::park_timeout(Duration::from_millis(100));
        }
        count.fetch_add(1, SeqCst);
        if let Some(other) = threads[1 - side].get() {
            other.unpark();
        }
    })
}

fn by_condvar(cpus: [usize; 2]) -> f64 {
    let (count, changed) = (std::sync::Mutex::new(0u64), Condvar::new());
    ping_pong(cpus, |side, round| {
        let turn = 2 * round + side as u64;
        let mut n = changed.wait_while(count.lock().unwrap(), |n| *n != turn).unwrap();
        *n += 1;
        drop(n);
        changed.notify_one();
    })
}

fn by_pipe(cpus: [usize; 2]) -> f64 {
    let pipes: [_; 2] = std::array::from_fn(|_| rustix::pipe::pipe().expect("pipe"));
    ping_pong(cpus, |side, round| {
        let mut b = [0];
        if (side, round) != (0, 0) {
            let _ = rustix::io::read(&pipes[side].0, &mut b);
        }
        let _ = rustix::io::write(&pipes[1 - side].1, &b);
    })
}

fn wakeups(host: &Host) {
    let arch = host.kernel().arch();
    for (place, cpus) in [("same CPU", [0, 0]), ("across CPUs", [0, 1])] {
        table(
            &format!("wake-up, {place}"),
            "ns",
            vec![
                ("thread on a wait queue", Box::new(move || by_thread(arch, cpus))),
                ("future on a wait queue", Box::new(move || by_future(cpus))),
                ("parked call on a wait queue", Box::new(move || by_parked_call(cpus))),
                ("std park/unpark", Box::new(move || by_std_park(cpus))),
                ("std Condvar", Box::new(move || by_condvar(cpus))),
                ("kernel pipe", Box::new(move || by_pipe(cpus))),
            ],
        );
    }
}

// Semaphores: two of them, handed to and fro.

fn semaphores(host: &Host) {
    let kernel = host.kernel();
    for (place, cpus) in [("same CPU", [0, 0]), ("across CPUs", [0, 1])] {
        let ours = move || {
            let s = [Semaphore::new(1), Semaphore::new(0)];
            ping_pong(cpus, |side, _| {
                let _inside = kernel.enter();
                s[side].down();
                s[1 - side].up();
            })
        };
        let posix = move || {
            let s = [PosixSem::new(1), PosixSem::new(0)];
            ping_pong(cpus, |side, _| {
                s[side].wait();
                s[1 - side].post();
            })
        };
        table(
            &format!("semaphore hand-over, {place}"),
            "ns",
            vec![
                ("kernel::Semaphore", Box::new(ours)),
                ("sem_wait/sem_post", Box::new(posix)),
                ("std Mutex and Condvar", Box::new(move || by_condvar(cpus))),
            ],
        );
    }
}

struct PosixSem(Box<std::cell::UnsafeCell<libc::sem_t>>);
// SAFETY: a semaphore is made to be shared.
unsafe impl Sync for PosixSem {}

impl PosixSem {
    fn new(n: u32) -> Self {
        // SAFETY: all zeros is what `sem_init` may be given; it stays where it is, in its box.
        let s = PosixSem(Box::new(std::cell::UnsafeCell::new(unsafe { std::mem::zeroed() })));
        // SAFETY: as above.
        unsafe { libc::sem_init(s.0.get(), 0, n) };
        s
    }
    fn wait(&self) {
        // SAFETY: initialised.
        while unsafe { libc::sem_wait(self.0.get()) } != 0 {}
    }
    fn post(&self) {
        // SAFETY: initialised.
        unsafe { libc::sem_post(self.0.get()) };
    }
}

// Timers: ten million of them.

/// A clock that is set by hand.
#[derive(Default)]
struct Clock(AtomicU64);

impl Arch for Clock {
    fn ktime_get(&self) -> u64 {
        self.0.load(Relaxed)
    }
    fn ktime_get_real(&self) -> u64 {
        self.ktime_get()
    }
    fn get_random_bytes(&self, buf: &mut [u8]) {
        buf.fill(7);
    }
    fn cpu_relax(&self, _: u32) {
        std::hint::spin_loop();
    }
    fn current(&self) -> Arc<Task> {
        Task::from_fn(|| ())
    }
    fn schedule(&self, _: &Task, _: Option<u64>) {}
    fn wakeup_softirqd(&self, _: usize) {}
    fn program_timer(&self, _: usize, _: u64) {}
}

static FIRED: AtomicUsize = AtomicUsize::new(0);

/// The jiffies for which the `i`th of many timers is set: up to a minute, as a network's are.
fn due(i: u64) -> u64 {
    1 + i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 60_000
}

/// Nanoseconds for each of insert, push back, cancel half, expire half; with `n` armed.
fn wheel(n: u64) -> [f64; 4] {
    let clock = Arc::new(Clock::default());
    clock.0.store(1_000_000_000, Relaxed);
    let kernel = Kernel::new(clock.clone(), 1);
    let _inside = kernel.enter();
    let all: Vec<Timer> = (0..n)
        .map(|_| {
            kernel.timer(|| {
                FIRED.fetch_add(1, Relaxed);
            })
        })
        .collect();
    FIRED.store(0, Relaxed);
    let each = |f: &dyn Fn(u64, &Timer)| {
        let start = Instant::now();
        all.iter().enumerate().for_each(|(i, t)| f(i as u64, t));
        start.elapsed().as_nanos() as f64 / n as f64
    };
    let insert = each(&|i, t| {
        t.mod_timer(1000 + due(i));
    });
    let push_back = each(&|i, t| {
        t.mod_timer(1200 + due(i));
    });
    let cancel = each(&|i, t| {
        if i % 2 == 0 {
            t.del_timer();
        }
    });
    let start = Instant::now();
    for ms in (1_000..=70_000).step_by(10) {
        clock.0.store(ms * 1_000_000, Relaxed);
        kernel.run_timers(0);
    }
    let expire = start.elapsed().as_nanos() as f64 / (n / 2) as f64;
    assert_eq!(FIRED.load(Relaxed) as u64, n / 2);
    [insert, push_back, 2.0 * cancel, expire]
}

/// The same with a balanced tree, which many programs use.
fn tree(n: u64) -> [f64; 4] {
    let mut map = BTreeMap::new();
    let timed = |n: u64, f: &mut dyn FnMut()| {
        let start = Instant::now();
        f();
        start.elapsed().as_nanos() as f64 / n as f64
    };
    let insert = timed(n, &mut || (0..n).for_each(|i| assert!(map.insert((1000 + due(i), i), ()).is_none())));
    let push_back = timed(n, &mut || {
        (0..n).for_each(|i| {
            map.remove(&(1000 + due(i), i));
            map.insert((1200 + due(i), i), ());
        })
    });
    let cancel =
        timed(n / 2, &mut || (0..n).step_by(2).for_each(|i| assert!(map.remove(&(1200 + due(i), i)).is_some())));
    let expire = timed(n / 2, &mut || while map.pop_first().is_some() {});
    [insert, push_back, cancel, expire]
}

/// And with a binary heap that forgets what was cancelled when it meets it.
fn heap(n: u64) -> [f64; 4] {
    let mut heap = BinaryHeap::new();
    let mut current = vec![0u64; n as usize];
    let timed = |n: u64, f: &mut dyn FnMut()| {
        let start = Instant::now();
        f();
        start.elapsed().as_nanos() as f64 / n as f64
    };
    let mut set = |add: u64, current: &mut Vec<u64>| {
        (0..n).for_each(|i| {
            current[i as usize] = add + due(i);
            heap.push(std::cmp::Reverse((add + due(i), i)));
        })
    };
    let insert = timed(n, &mut || set(1000, &mut current));
    let push_back = timed(n, &mut || set(1200, &mut current));
    let cancel = timed(n / 2, &mut || (0..n).step_by(2).for_each(|i| current[i as usize] = 0));
    let expire = timed(n / 2, &mut || {
        while let Some(std::cmp::Reverse((at, i))) = heap.pop() {
            black_box(current[i as usize] == at);
        }
    });
    [insert, push_back, cancel, expire]
}

fn timers() {
    for n in [10_000, 10_000_000] {
        let runs = if n > 1_000_000 { 1 } else { RUNS };
        let measure = |f: fn(u64) -> [f64; 4]| {
            let all: Vec<[f64; 4]> = (0..runs).map(|_| f(n)).collect();
            [0, 1, 2, 3].map(|at| median(all.iter().map(|a| a[at]).collect()))
        };
        let (ours, tree, heap) = (measure(wheel), measure(tree), measure(heap));
        for (at, op) in ["insert", "push back", "cancel", "expire"].into_iter().enumerate() {
            for (name, v) in [("timer wheel", ours[at]), ("BTreeMap", tree[at]), ("BinaryHeap", heap[at])] {
                println!("| timers, {n} armed: {op} | {name} | {v:.1} | ns | {:.2} |", v / ours[at]);
            }
        }
    }
}

// The simulator: what a second of this machine's time buys.

const SIMULATED: u64 = 1_000_000;

/// The CPU time of this thread: a simulation is one thread's, and others on the machine do not count.
fn cpu_time() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}

/// Millions a second of CPU time.
fn rate(count: u64, f: impl FnOnce()) -> f64 {
    let start = cpu_time();
    f();
    count as f64 / (cpu_time() - start) / 1e6
}

fn sim_switches() -> f64 {
    let sim = Sim::new(SimConfig::default());
    let m = sim.machine("a", 1);
    for name in ["x", "y"] {
        m.spawn(name, || (0..SIMULATED / 2).for_each(|_| sim::yield_now()));
    }
    rate(SIMULATED, || sim.run())
}

fn sim_wakeups() -> f64 {
    let sim = Sim::new(SimConfig::default());
    let m = sim.machine("a", 1);
    let t = Arc::new(Turns::default());
    for side in 0..2 {
        let (t, kernel) = (t.clone(), m.kernel().clone());
        m.spawn("side", move || {
            (0..SIMULATED / 2).for_each(|round| {
                block_on(kernel.arch(), |wait| t.poll(side, round, wait));
                t.pass_on(side);
            })
        });
    }
    rate(SIMULATED, || sim.run())
}

fn sim_events() -> f64 {
    let sim = Sim::new(SimConfig::default());
    // A hundred clocks with periods of their own.
    let left = std::rc::Rc::new(std::cell::Cell::new(SIMULATED));
    for i in 0..100 {
        let cell: std::rc::Rc<std::cell::OnceCell<sim::Handler>> = Default::default();
        let (me, left) = (cell.clone(), left.clone());
        let handler = sim.handler(move |_| {
            left.set(left.get().saturating_sub(1));
            if let Some(h) = me.get().filter(|_| left.get() > 0) {
                h.at(sim::now() + 1000 + i, 0);
            }
        });
        handler.at(1000 + i, 0);
        let _ = cell.set(handler);
    }
    rate(SIMULATED, || sim.run())
}

/// Two machines and a cable; the first sends `bytes` by TCP. Packets on the wire, both ways.
fn sim_packets(offload: bool, bytes: usize) -> f64 {
    let sim = Sim::new(SimConfig::default());
    let (a, b) = (sim.machine("a", 1), sim.machine("b", 1));
    let wire = LinkParams { bandwidth: 10_000_000_000, delay: 50_000, ..LinkParams::default() };
    let card = |n| {
        let mut c = NicConfig::new([2, 0, 0, 0, 0, n]);
        if !offload {
            c.features = net::core::dev::Features::empty();
        }
        c
    };
    let (na, nb, cable) = sim::network::join(&sim, "ab", (&a, card(1)), (&b, card(2)), wire);
    let (sa, sb) = (stack(&a, &na, "10.0.0.1/24"), stack(&b, &nb, "10.0.0.2/24"));
    let listener = sockeye::TcpListener::bind(&sb, "10.0.0.2:7").expect("free");
    b.spawn("server", move || {
        let (mut s, _) = listener.accept().expect("a connection");
        let mut buf = vec![0; 64 * 1024];
        while s.read(&mut buf).expect("read") > 0 {}
    });
    a.spawn("client", move || {
        let mut s = sockeye::TcpStream::connect(&sa, "10.0.0.2:7").expect("connected");
        let buf = vec![0x5a; 64 * 1024];
        (0..bytes / buf.len()).for_each(|_| s.write_all(&buf).expect("sent"));
    });
    let start = cpu_time();
    sim.run_tasks();
    let took = cpu_time() - start;
    let packets = cable.there.stats().sent + cable.back.stats().sent;
    packets as f64 / took / 1e6
}

fn stack(machine: &sim::Machine, nic: &Arc<sim::nic::Nic>, address: &str) -> sockeye::Stack {
    let stack = sockeye::Stack::from_net(net::core::net_namespace::Net::new(&net::init::net_init(machine.kernel())));
    let _cpu = machine.kernel().enter();
    let dev = nic.register(stack.net()).expect("a new name");
    net::core::dev::dev_open(&dev).expect("up");
    stack.add_address(&dev.name, address).expect("an address");
    drop(_cpu);
    stack
}

fn simulator() {
    pin_to(0);
    let rows: Vec<Row<'_>> = vec![
        ("context switches", Box::new(sim_switches)),
        ("wake-ups on a wait queue", Box::new(sim_wakeups)),
        ("events", Box::new(sim_events)),
        ("TCP packets, segmented by the card", Box::new(|| sim_packets(true, 1 << 30))),
        ("TCP packets, no offload", Box::new(|| sim_packets(false, 1 << 27))),
    ];
    table("simulator, one core", "M/s", rows);
}

const PARTS: [&str; 5] = ["locks", "wakeups", "semaphores", "timers", "simulator"];

fn chosen() -> Vec<String> {
    std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect()
}

fn main() {
    let parts: Vec<String> = chosen().into_iter().filter(|c| PARTS.contains(&c.as_str())).collect();
    let wants = |name: &str| parts.is_empty() || parts.iter().any(|c| c == name);
    let host = Host::start(1).expect("host");
    println!("| what | how | measured | | to the first |\n|---|---|---:|---|---:|");
    if wants("locks") {
        locks(&host);
    }
    if wants("wakeups") {
        wakeups(&host);
    }
    if wants("semaphores") {
        semaphores(&host);
    }
    if wants("timers") {
        timers();
    }
    if wants("simulator") {
        simulator();
    }
    host.stop();
}
