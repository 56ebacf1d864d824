//! A kernel on this machine: the worker threads `ksoftirqd/N` and what they wait for.
//!
//! Interface: [`Host::start`], [`Host::kernel`], [`Host::request_irq`], [`Host::stop`].
//! Linux counterpart: `start_kernel`, `kernel/softirq.c` (`ksoftirqd`), `kernel/irq/`.
//! Locks and context: process context; top halves and softirqs run in the workers.

use crate::arch::HostArch;
use crate::worker::{IrqHandle, Ready, Work, Worker, lock};
use kernel::cpu::irq_enter;
use kernel::{Arch, Kernel, rcu};
use std::io;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Workers by default, at most: beyond that queues are better spread by hand.
const MAX_DEFAULT_WORKERS: usize = 8;
/// How often the first worker helps RCU along while it is busy, nanoseconds.
const RCU_TICK: u64 = 10_000_000;

/// A kernel, its arch and its worker threads. Dropping it stops them.
pub struct Host {
    kernel: Arc<Kernel>,
    workers: Box<[Arc<Worker>]>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    next_worker: AtomicUsize,
}

impl Host {
    /// Starts a kernel with `workers` threads; 0: one a CPU of this machine, eight at most. The errors are those of
    /// `epoll_create1`, `eventfd` and `clone`: out of descriptors or threads.
    pub fn start(workers: usize) -> io::Result<Arc<Host>> {
        let n = match workers {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()).min(MAX_DEFAULT_WORKERS),
            n => n,
        };
        let workers = (0..n).map(|_| Worker::new().map(Arc::new)).collect::<io::Result<Box<[_]>>>()?;
        let kernel = Kernel::new(Arc::new(HostArch::new(workers.clone())), n);
        let threads = Mutex::default();
        let host = Arc::new(Host { kernel, workers, threads, next_worker: AtomicUsize::new(0) });
        for cpu in 0..n {
            let (kernel, worker) = (host.kernel.clone(), host.workers[cpu].clone());
            let thread = std::thread::Builder::new().name(format!("ksoftirqd/{cpu}"));
            let run = move || ksoftirqd(&kernel, &worker, cpu);
            // On an error the drop of `host` stops those that run.
            lock(&host.threads).push(thread.spawn(run)?);
        }
        Ok(host)
    }

    pub fn kernel(&self) -> &Arc<Kernel> {
        &self.kernel
    }

    /// How many workers there are.
    pub fn nr_workers(&self) -> usize {
        self.workers.len()
    }

    /// `request_irq`, on the next worker in turn: see [`Worker::request_irq`].
    pub fn request_irq(
        &self,
        fd: Arc<OwnedFd>,
        handler: impl Fn(Ready) + Send + Sync + 'static,
    ) -> io::Result<IrqHandle> {
        self.request_irq_on(self.next_worker.fetch_add(1, Ordering::Relaxed), fd, handler)
    }

    /// `request_irq` with an affinity: worker `cpu`, modulo their number.
    pub fn request_irq_on(
        &self,
        cpu: usize,
        fd: Arc<OwnedFd>,
        handler: impl Fn(Ready) + Send + Sync + 'static,
    ) -> io::Result<IrqHandle> {
        self.workers[cpu % self.workers.len()].request_irq(fd, handler)
    }

    /// Stops the workers and waits for them: no interrupt and no timer comes any more. Harmless the second time.
    pub fn stop(&self) {
        self.workers.iter().for_each(|w| w.stop());
        let me = std::thread::current().id();
        for t in lock(&self.threads).drain(..) {
            // The last reference may go in a worker: it ends by itself when it gets back to its loop.
            if t.thread().id() != me {
                let _ = t.join();
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A worker's life: sleep, interrupts, softirqs left over by others, timers.
fn ksoftirqd(kernel: &Kernel, worker: &Worker, cpu: usize) {
    // The 50 microseconds that a thread's sleeps may by default be longer are too many for high-resolution timers.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let arch = kernel.arch();
    let mut work = Work::default();
    let mut rcu_tick = 0;
    loop {
        worker.sleep(|| arch.ktime_get(), &mut work);
        if work.stop {
            return;
        }
        run(kernel, worker, cpu, &mut work);
        if cpu == 0 {
            help_rcu(arch, &mut rcu_tick);
        }
    }
}

fn run(kernel: &Kernel, worker: &Worker, cpu: usize, work: &mut Work) {
    if work.has_irqs() {
        // Leaving the kernel runs the softirqs that the top halves have raised.
        let _inside = kernel.enter();
        let _irq = irq_enter();
        worker.handle_irqs(work);
    }
    while work.softirqd != 0 {
        let cpu = work.softirqd.trailing_zeros() as usize;
        work.softirqd &= work.softirqd - 1;
        kernel.run_ksoftirqd(cpu);
    }
    if work.timer_due {
        kernel.run_timers(cpu);
    }
}

/// Ends grace periods while there is traffic, also when no timer runs.
fn help_rcu(arch: &dyn Arch, tick: &mut u64) {
    let now = arch.ktime_get();
    if now >= *tick {
        *tick = now + RCU_TICK;
        rcu::process_callbacks();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::kernel::raise_softirq;
    use kernel::wait::block_on;
    use kernel::{Softirq, WaitQueueHead};
    use rustix::pipe::{PipeFlags, pipe_with};
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
    use std::sync::mpsc::channel;
    use std::task::Poll;
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn a_timer_fires_in_softirq_context_and_never_early() {
        let host = Host::start(2).unwrap();
        let (tx, rx) = channel();
        let k = host.kernel().clone();
        let due = k.jiffies() + 5;
        let t = {
            let k = Arc::downgrade(&k);
            let func = move || tx.send((k.upgrade().map(|k| k.jiffies()), kernel::in_softirq())).unwrap();
            host.kernel().timer(func)
        };
        t.mod_timer(due);
        let (at, softirq) = rx.recv_timeout(PATIENCE).unwrap();
        assert!(at.unwrap() >= due);
        assert!(softirq);
    }

    #[test]
    fn a_high_resolution_timer_is_never_early_and_restarts() {
        let host = Host::start(1).unwrap();
        let (tx, rx) = channel();
        let k = Arc::downgrade(host.kernel());
        let t = host.kernel().hrtimer(move |t| {
            let now = k.upgrade().map(|k| k.ktime_get());
            tx.send((t.expires(), now, kernel::cpu::in_serving_softirq())).unwrap();
            t.forward(300_000);
            kernel::HrtimerRestart::Restart
        });
        let first = host.kernel().ktime_get() + 200_000;
        t.start(first);
        for i in 0..10 {
            let (expires, now, softirq) = rx.recv_timeout(PATIENCE).unwrap();
            assert!(
                softirq
                    && now.unwrap() >= expires
                    && (expires - first).is_multiple_of(300_000)
                    && expires >= first + i * 300_000
            );
        }
        t.cancel();
        assert!(!t.active());
    }

    #[test]
    fn an_earlier_timer_shortens_the_sleep() {
        let host = Host::start(1).unwrap();
        let (tx, rx) = channel();
        let late = host.kernel().timer(|| ());
        late.mod_timer_in(1_000_000);
        let early = host.kernel().timer(move || tx.send(()).unwrap());
        early.mod_timer_in(3);
        rx.recv_timeout(PATIENCE).unwrap();
        assert!(late.pending());
    }

    #[test]
    fn a_thread_sleeps_on_a_wait_queue_until_it_is_woken() {
        let host = Host::start(1).unwrap();
        let q = Arc::new(WaitQueueHead::new());
        let flag = Arc::new(AtomicBool::new(false));
        let (q2, flag2) = (q.clone(), flag.clone());
        let t = host.kernel().timer(move || {
            flag2.store(true, SeqCst);
            q2.wake_up(0);
        });
        t.mod_timer_in(2);
        block_on(host.kernel().arch(), |wait| {
            wait.prepare_to_wait(&q);
            if !flag.load(SeqCst) {
                return Poll::Pending;
            }
            wait.finish_wait();
            Poll::Ready(())
        });
    }

    #[test]
    fn a_sleep_ends_at_its_deadline_and_at_a_signal() {
        let host = Host::start(1).unwrap();
        let arch = host.kernel().arch();
        let q = WaitQueueHead::new();
        let sleep_on = |timeo| {
            block_on(arch, |wait| {
                let now = || arch.ktime_get();
                wait.set_timeout(now, timeo);
                if wait.timed_out(now) || wait.signal_pending() {
                    let timed_out = wait.timed_out(now);
                    wait.finish_wait();
                    return Poll::Ready(timed_out);
                }
                wait.prepare_to_wait(&q);
                Poll::Pending
            })
        };
        assert!(sleep_on(Some(2_000_000)));
        let me = arch.current();
        // It may come before the sleep or in it: neither may lose it.
        let signaller = std::thread::spawn({
            let me = me.clone();
            move || me.send_signal()
        });
        assert!(!sleep_on(None));
        signaller.join().unwrap();
        assert!(me.clear_signal());
    }

    #[test]
    fn an_interrupt_comes_once_until_it_is_enabled_again() {
        let host = Host::start(1).unwrap();
        let (tx, rx) = channel();
        let (r, w) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let irq = host.request_irq(Arc::new(r), move |what| tx.send((what, kernel::cpu::in_hardirq())).unwrap());
        let irq = irq.unwrap();
        rustix::io::write(&w, b"x").unwrap();
        assert!(rx.try_recv().is_err(), "masked until it is enabled");
        irq.enable(Ready::READABLE);
        assert_eq!(rx.recv_timeout(PATIENCE).unwrap(), (Ready::READABLE, true));
        // Still readable, but masked: another descriptor's interrupt passes it by.
        let (tx2, rx2) = channel();
        let (r2, w2) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let irq2 = host.request_irq(Arc::new(r2), move |_| tx2.send(()).unwrap()).unwrap();
        irq2.enable(Ready::READABLE);
        rustix::io::write(&w2, b"x").unwrap();
        rx2.recv_timeout(PATIENCE).unwrap();
        assert!(rx.try_recv().is_err());
        irq.enable(Ready::READABLE);
        assert_eq!(rx.recv_timeout(PATIENCE).unwrap().0, Ready::READABLE);
        drop(irq);
        assert!(rx.recv().is_err(), "freeing an interrupt drops its handler");
    }

    #[test]
    fn a_top_halfs_softirq_runs_when_the_worker_leaves_the_kernel() {
        let host = Host::start(1).unwrap();
        let (tx, rx) = channel();
        let tx = Mutex::new(tx);
        host.kernel().open_softirq(Softirq::NetRx, move || lock(&tx).send(kernel::cpu::in_hardirq()).unwrap());
        let (r, w) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let irq = host.request_irq(Arc::new(r), |_| raise_softirq(Softirq::NetRx)).unwrap();
        irq.enable(Ready::READABLE);
        rustix::io::write(&w, b"x").unwrap();
        assert!(!rx.recv_timeout(PATIENCE).unwrap());
    }

    #[test]
    fn a_softirq_that_raises_itself_is_carried_on_by_ksoftirqd() {
        let host = Host::start(1).unwrap();
        let (tx, rx) = channel();
        let tx = Mutex::new(tx);
        static ROUNDS: AtomicU64 = AtomicU64::new(0);
        host.kernel().open_softirq(Softirq::NetTx, move || match ROUNDS.fetch_add(1, SeqCst) {
            99 => lock(&tx).send(std::thread::current().name().map(str::to_owned)).unwrap(),
            _ => raise_softirq(Softirq::NetTx),
        });
        {
            let _inside = host.kernel().enter();
            raise_softirq(Softirq::NetTx);
        }
        assert_eq!(rx.recv_timeout(PATIENCE).unwrap().as_deref(), Some("ksoftirqd/0"));
    }

    #[test]
    fn the_last_reference_may_go_in_a_worker() {
        let host = Host::start(2).unwrap();
        let kernel = host.kernel().clone();
        let (tx, rx) = channel();
        let held = Mutex::new(Some(host.clone()));
        let cell = Arc::new(OnceLock::new());
        let timer = kernel.timer(move || {
            drop(lock(&held).take());
            tx.send(()).unwrap();
        });
        let _ = cell.set(timer);
        drop(host);
        if let Some(t) = cell.get() {
            t.mod_timer_in(1);
        }
        rx.recv_timeout(PATIENCE).unwrap();
    }
}
