//! A CPU's interrupt controller and clock: an epoll set, an eventfd to interrupt its sleep, the next timer.
//!
//! Interface: [`Worker`] (`request_irq`, `kick`, `program_timer`, `sleep`), [`IrqHandle`] (`enable`; its drop is `free_irq`).
//! Linux counterpart: `kernel/irq/manage.c`, `kernel/time/clockevents.c`.
//! Locks and context: `kick` and `program_timer` from any thread, with spinlocks held; top halves run in the worker's thread.
//!
//! An interrupt is a file descriptor's readiness. It comes once and is then masked (`EPOLLONESHOT`), each of [`Ready`]'s
//! bits for itself, until the driver enables it again: that is what lets NAPI poll the descriptor undisturbed.

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// No timer; asleep for ever.
pub const NEVER: u64 = u64::MAX;
/// What the eventfd is registered as.
const KICK: u64 = 0;
const BATCH: usize = 64;

/// Which direction of a descriptor is ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ready {
    pub readable: bool,
    pub writable: bool,
}

impl Ready {
    pub const READABLE: Ready = Ready { readable: true, writable: false };
    pub const WRITABLE: Ready = Ready { readable: false, writable: true };

    fn none(self) -> bool {
        self == Ready::default()
    }

    fn or(self, o: Ready) -> Ready {
        Ready { readable: self.readable | o.readable, writable: self.writable | o.writable }
    }

    fn and(self, o: Ready) -> Ready {
        Ready { readable: self.readable & o.readable, writable: self.writable & o.writable }
    }

    fn without(self, o: Ready) -> Ready {
        Ready { readable: self.readable & !o.readable, writable: self.writable & !o.writable }
    }

    fn flags(self) -> epoll::EventFlags {
        let mut f = epoll::EventFlags::ONESHOT;
        f.set(epoll::EventFlags::IN, self.readable);
        f.set(epoll::EventFlags::OUT, self.writable);
        f
    }

    /// An error or hang-up is news for whoever waits for either.
    fn from_flags(f: epoll::EventFlags) -> Ready {
        let broken = f.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
        Ready {
            readable: broken || f.contains(epoll::EventFlags::IN),
            writable: broken || f.contains(epoll::EventFlags::OUT),
        }
    }
}

/// A driver's top half: only schedules, in hard-interrupt context.
type TopHalf = Box<dyn Fn(Ready) + Send + Sync>;

struct Irq {
    token: u64,
    fd: Arc<OwnedFd>,
    /// What is not masked.
    armed: Mutex<Ready>,
    /// Held while the top half runs; `None` once freed.
    handler: Mutex<Option<TopHalf>>,
}

/// What a worker thread sleeps on, and what others use to wake it.
pub struct Worker {
    epoll: OwnedFd,
    event: OwnedFd,
    /// When the next timer is due, nanoseconds.
    timer: AtomicU64,
    /// Until when the thread sleeps; 0 while it is awake and will look at everything before it sleeps.
    asleep_until: AtomicU64,
    /// CPUs that left softirqs pending, a bit each.
    softirqd: AtomicU64,
    stop: AtomicBool,
    irqs: Mutex<HashMap<u64, Arc<Irq>>>,
    next_token: AtomicU64,
}

/// What a worker is to do after its sleep.
#[derive(Default)]
pub struct Work {
    pub timer_due: bool,
    /// CPUs whose softirqs are to be worked off.
    pub softirqd: u64,
    pub stop: bool,
    irqs: Vec<(u64, Ready)>,
}

pub(crate) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Worker {
    /// The errors are those of `epoll_create1` and `eventfd`: out of descriptors.
    pub fn new() -> io::Result<Worker> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // Edge-triggered: never has to be read.
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &event, epoll::EventData::new_u64(KICK), flags)?;
        Ok(Worker {
            epoll,
            event,
            timer: AtomicU64::new(NEVER),
            asleep_until: AtomicU64::new(0),
            softirqd: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            irqs: Mutex::default(),
            next_token: AtomicU64::new(KICK + 1),
        })
    }

    /// `request_irq`: `handler` is called in hard-interrupt context when `fd` is ready for what has been
    /// [enabled](IrqHandle::enable); nothing is, at first. The errors are those of `epoll_ctl`.
    pub fn request_irq(
        self: &Arc<Self>,
        fd: Arc<OwnedFd>,
        handler: impl Fn(Ready) + Send + Sync + 'static,
    ) -> io::Result<IrqHandle> {
        let token = self.next_token.fetch_add(1, Relaxed);
        // Hang-ups are reported whatever the mask says, so a masked descriptor counts as fired from the start.
        epoll::add(&self.epoll, &*fd, epoll::EventData::new_u64(token), epoll::EventFlags::ONESHOT)?;
        let handler: TopHalf = Box::new(handler);
        let irq = Arc::new(Irq { token, fd, armed: Mutex::default(), handler: Mutex::new(Some(handler)) });
        lock(&self.irqs).insert(token, irq.clone());
        Ok(IrqHandle { worker: self.clone(), irq })
    }

    /// Ends the worker's sleep, if it sleeps.
    pub fn kick(&self) {
        if self.asleep_until.swap(0, SeqCst) != 0 {
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// See [`Arch::program_timer`](kernel::Arch::program_timer).
    pub fn program_timer(&self, expires: u64) {
        self.timer.fetch_min(expires, SeqCst);
        if self.asleep_until.load(SeqCst) > expires {
            self.kick();
        }
    }

    /// See [`Arch::wakeup_softirqd`](kernel::Arch::wakeup_softirqd).
    pub fn wakeup_softirqd(&self, cpu: usize) {
        self.softirqd.fetch_or(1 << cpu, SeqCst);
        self.kick();
    }

    /// Makes the worker's next [`sleep`](Self::sleep) answer `stop`.
    pub fn stop(&self) {
        self.stop.store(true, SeqCst);
        self.kick();
    }

    /// Sleeps until there is work; `now` gives the time. Takes the work over: what is in the answer is the caller's to do.
    pub fn sleep(&self, now: impl Fn() -> u64, work: &mut Work) {
        let until = self.timer.load(SeqCst);
        self.asleep_until.store(until, SeqCst);
        // Whoever made work before that store was not told to kick: look again.
        let ready = self.timer.load(SeqCst) < until || self.softirqd.load(SeqCst) != 0 || self.stop.load(SeqCst);
        let mut left = if ready { 0 } else { until };
        if left != 0 && left != NEVER {
            left = left.saturating_sub(now());
        }
        self.wait(left, work);
        self.asleep_until.store(0, SeqCst);
        self.collect(now(), work);
    }

    /// Looks for work without sleeping.
    pub fn poll(&self, now: u64, work: &mut Work) {
        self.wait(0, work);
        self.collect(now, work);
    }

    fn collect(&self, now: u64, work: &mut Work) {
        work.timer_due = self.timer.load(SeqCst) <= now;
        if work.timer_due {
            // The wheel asks anew for whatever else it holds.
            self.timer.store(NEVER, SeqCst);
        }
        work.softirqd = self.softirqd.swap(0, SeqCst);
        work.stop = self.stop.load(SeqCst);
    }

    fn wait(&self, nanos: u64, work: &mut Work) {
        work.irqs.clear();
        let timeout = (nanos != NEVER)
            .then_some(Timespec { tv_sec: (nanos / 1_000_000_000) as i64, tv_nsec: (nanos % 1_000_000_000) as i64 });
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); BATCH];
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut events, timeout.as_ref()) else { return };
        let irqs = events.iter().filter(|e| e.data.u64() != KICK);
        work.irqs.extend(irqs.map(|e| (e.data.u64(), Ready::from_flags(e.flags))));
    }

    /// Calls the top halves of the interrupts in `work`. The caller is inside the kernel, in hard-interrupt context.
    pub fn handle_irqs(&self, work: &mut Work) {
        for (token, ready) in work.irqs.drain(..) {
            let irq = lock(&self.irqs).get(&token).cloned();
            if let Some(irq) = irq {
                irq.fire(&self.epoll, ready);
            }
        }
    }
}

impl Work {
    pub fn has_irqs(&self) -> bool {
        !self.irqs.is_empty()
    }
}

impl Irq {
    fn fire(&self, epoll: &OwnedFd, ready: Ready) {
        let fired = {
            let mut armed = lock(&self.armed);
            let fired = ready.and(*armed);
            *armed = armed.without(ready);
            if !armed.none() {
                self.arm(epoll, *armed);
            }
            fired
        };
        if let Some(handler) = &*lock(&self.handler)
            && !fired.none()
        {
            handler(fired);
        }
    }

    fn arm(&self, epoll: &OwnedFd, what: Ready) {
        // Fails only for a descriptor that is not in the set, and it stays there as long as the handle lives.
        let _ = epoll::modify(epoll, &*self.fd, epoll::EventData::new_u64(self.token), what.flags());
    }
}

/// An interrupt line. Dropping it frees the line (`free_irq`): the top half is not running then and never runs again. Not
/// to be dropped by the top half itself.
pub struct IrqHandle {
    worker: Arc<Worker>,
    irq: Arc<Irq>,
}

impl IrqHandle {
    /// `enable_irq`: the next readiness in these directions, or one that is there already, calls the top half, once.
    pub fn enable(&self, what: Ready) {
        let mut armed = lock(&self.irq.armed);
        let all = armed.or(what);
        if all != *armed {
            *armed = all;
            self.irq.arm(&self.worker.epoll, all);
        }
    }

    /// `disable_irq_nosync`: masks these directions; a top half that runs is not waited for.
    pub fn disable(&self, what: Ready) {
        let mut armed = lock(&self.irq.armed);
        let rest = armed.without(what);
        if rest != *armed {
            *armed = rest;
            self.irq.arm(&self.worker.epoll, rest);
        }
    }
}

impl Drop for IrqHandle {
    fn drop(&mut self) {
        lock(&self.worker.irqs).remove(&self.irq.token);
        let _ = epoll::delete(&self.worker.epoll, &*self.irq.fd);
        let handler = lock(&self.irq.handler).take();
        drop(handler);
    }
}
