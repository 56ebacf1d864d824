//! A machine for unit tests: one thread, a clock that moves when told to, timers that fire then.
//!
//! Interface: [`TestMachine`], [`Recorder`] (a device that keeps what it is given).
//! Linux counterpart: KUnit's fakes.
//! Locks and context: tests.

use crate::core::dev::{Features, Iff, NetDevice, NetDeviceOps, NetDeviceSpec, NetdevTx, register_netdevice};
use crate::core::eth::ETH_HLEN;
use crate::core::net_namespace::{Net, Registries};
use crate::core::skbuff::Skb;
use kernel::{Arch, Kernel, SpinLock, TICK_NSEC, Task};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};

#[derive(Default)]
pub(crate) struct TestArch {
    now: AtomicU64,
    seed: AtomicU64,
    /// When the timers are to be run; 0: never.
    timer: AtomicU64,
    /// The CPUs whose softirqs wait for `ksoftirqd`, a bit each.
    softirqd: AtomicU64,
}

impl Arch for TestArch {
    fn ktime_get(&self) -> u64 {
        self.now.load(SeqCst)
    }
    fn ktime_get_real(&self) -> u64 {
        self.ktime_get()
    }
    fn get_random_bytes(&self, buf: &mut [u8]) {
        for b in buf {
            let x = self.seed.fetch_add(0x9e37_79b9_7f4a_7c15, SeqCst);
            *b = (x.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 56) as u8;
        }
    }
    fn cpu_relax(&self, _spins: u32) {
        std::thread::yield_now();
    }
    fn current(&self) -> Arc<Task> {
        Task::from_fn(|| ())
    }
    fn schedule(&self, _task: &Task, _deadline: Option<u64>) {
        panic!("a unit test slept");
    }
    fn wakeup_softirqd(&self, cpu: usize) {
        self.softirqd.fetch_or(1 << cpu, SeqCst);
    }
    fn program_timer(&self, _base: usize, expires: u64) {
        let _ = self.timer.fetch_update(SeqCst, SeqCst, |t| (t == 0 || t > expires).then_some(expires));
    }
}

/// A kernel on a [`TestArch`].
pub(crate) struct TestMachine {
    pub kernel: Arc<Kernel>,
    arch: Arc<TestArch>,
}

impl TestMachine {
    pub fn new() -> TestMachine {
        let arch = Arc::new(TestArch::default());
        arch.now.store(1_000_000_000, SeqCst);
        TestMachine { kernel: Kernel::new(arch.clone(), 1), arch }
    }

    /// Registries with the device layer and neighbours only.
    pub fn core_registries(&self) -> Arc<Registries> {
        let reg = Registries::new(self.kernel.clone());
        crate::core::dev::net_dev_init(&reg);
        crate::core::neighbour::neigh_init(&reg);
        reg
    }

    /// The clock, for what is to take time itself.
    pub fn clock(&self) -> TestClock {
        TestClock(self.arch.clone())
    }

    /// `ksoftirqd`'s turn: works off all that CPUs have left to it. Outside the kernel. It comes only when it is called, so a
    /// test whose softirqs may reach their limit has to.
    pub fn run_ksoftirqd(&self) {
        loop {
            let cpus = self.arch.softirqd.swap(0, SeqCst);
            if cpus == 0 {
                return;
            }
            (0..64).filter(|cpu| cpus >> cpu & 1 != 0).for_each(|cpu| self.kernel.run_ksoftirqd(cpu));
        }
    }

    /// Lets `ms` milliseconds pass, with the timers that fall due.
    pub fn advance(&self, ms: u64) {
        self.advance_ns(ms * TICK_NSEC)
    }

    /// The same in nanoseconds.
    pub fn advance_ns(&self, ns: u64) {
        let end = self.arch.now.load(SeqCst) + ns;
        loop {
            let t = self.arch.timer.load(SeqCst);
            if t == 0 || t > end {
                break;
            }
            self.arch.timer.store(0, SeqCst);
            self.arch.now.fetch_max(t, SeqCst);
            self.kernel.run_timers(0);
        }
        self.arch.now.store(end, SeqCst);
    }
}

/// A test machine's clock.
pub(crate) struct TestClock(Arc<TestArch>);

impl TestClock {
    /// Time passes; no timer runs.
    pub fn pass(&self, ns: u64) {
        self.0.now.fetch_add(ns, SeqCst);
    }
}

/// A driver that keeps what it is given, up to a ring of `room`.
pub(crate) struct Recorder {
    pub sent: SpinLock<VecDeque<Box<Skb>>>,
    pub room: AtomicUsize,
    pub flushes: AtomicUsize,
    pub lltx: AtomicBool,
}

pub(crate) struct RecorderOps(pub Arc<Recorder>);

impl NetDeviceOps for RecorderOps {
    fn ndo_start_xmit(&self, _dev: &Arc<NetDevice>, skb: Box<Skb>) -> NetdevTx {
        if self.0.room.load(SeqCst) == 0 {
            return NetdevTx::Busy(skb);
        }
        self.0.room.fetch_sub(1, SeqCst);
        self.0.sent.lock_bh().push_back(skb);
        NetdevTx::Ok
    }
    fn ndo_xmit_flush(&self, _dev: &Arc<NetDevice>) {
        self.0.flushes.fetch_add(1, SeqCst);
    }
    fn lltx(&self) -> bool {
        self.0.lltx.load(SeqCst)
    }
}

impl Recorder {
    pub fn new() -> Arc<Recorder> {
        Arc::new(Recorder {
            sent: SpinLock::default(),
            room: AtomicUsize::new(usize::MAX),
            flushes: AtomicUsize::new(0),
            lltx: AtomicBool::new(false),
        })
    }

    /// An Ethernet device, up, whose driver this is.
    pub fn device(self: &Arc<Self>, net: &Arc<Net>, name: &str, features: Features) -> Arc<NetDevice> {
        let spec = NetDeviceSpec {
            name: name.to_owned(),
            addr: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            flags: Iff::UP | Iff::BROADCAST | Iff::MULTICAST,
            hard_header_len: ETH_HLEN,
            features,
            ops: Box::new(RecorderOps(self.clone())),
        };
        register_netdevice(net, spec).expect("register")
    }

    /// Everything sent since the last call.
    pub fn take(&self) -> Vec<Box<Skb>> {
        self.sent.lock_bh().drain(..).collect()
    }
}

/// All bytes of a packet.
pub(crate) fn bytes(skb: &Skb) -> Vec<u8> {
    skb.chunks().flatten().copied().collect()
}
