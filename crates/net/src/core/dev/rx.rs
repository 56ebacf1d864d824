//! The way up: from a driver to the protocols.
//!
//! Interface: [`netif_rx`], [`netif_receive_skb`], [`napi_schedule`], [`napi_complete_done`], [`napi_disable`],
//! [`napi_gro_receive`], [`netif_napi_add`].
//! Linux counterpart: `net/core/dev.c` (`enqueue_to_backlog`, `net_rx_action`, `process_backlog`, `__netif_receive_skb_core`).
//! Locks and context: softirq context; `netif_rx` anywhere inside the kernel, `napi_schedule` also in a top half.

use crate::core::dev::device::{Features, NetDevice};
use crate::core::dev::ptype::{deliver_ptype, deliver_taps};
use crate::core::dev::softnet::{
    NAPI_DISABLE, NAPI_MISSED, NAPI_POLLING, NAPI_SCHED, NapiPoll, NapiStats, NapiStruct, Poll, SoftnetData,
};
use crate::core::gro::{GroList, dev_gro_receive};
use crate::core::net_namespace::Registries;
use crate::core::skbuff::{Skb, identify};
use kernel::cpu::in_hardirq;
use kernel::kernel::raise_softirq;
use kernel::{HrtimerRestart, Softirq, SpinLock, local_bh_disable, this_cpu_add, tp};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::*};
use std::sync::{Arc, Weak};
use uapi::{Errno, Result};

/// `NAPI_POLL_WEIGHT`, and the input queue's quota (`dev_rx_weight`).
pub const NAPI_POLL_WEIGHT: usize = 64;
/// `netdev_budget` where no namespace says otherwise.
const DEFAULT_BUDGET: usize = 300;
/// `netdev_budget_usecs` likewise.
const DEFAULT_BUDGET_USECS: u64 = 2000;

/// `netif_rx`: puts a packet on this CPU's input queue (bounded by `netdev_max_backlog`) and raises `NET_RX_SOFTIRQ`.
/// `skb.dev`, `protocol` and `pkt_type` are set (`eth_type_trans`), `data` is at the network header. `ENOBUFS` (counted).
pub fn netif_rx(mut skb: Box<Skb>) -> Result<()> {
    identify(&mut skb);
    tp!(netif_rx, skb);
    // Process context: the softirq runs when this guard goes.
    let _bh = local_bh_disable();
    let Some(dev) = &skb.dev else { return Err(Errno::ENODEV) };
    let Some(net) = dev.net() else { return Err(Errno::ENODEV) };
    let softnet = net.reg.softnet.this();
    let mut q = softnet.inner.lock_irqsave();
    if q.input_pkt_queue.len() > net.sysctl.netdev_max_backlog.get() as usize || !dev.is_up() {
        drop(q);
        softnet.dropped.fetch_add(1, Relaxed);
        dev.stats.rx_dropped.fetch_add(1, Relaxed);
        return Err(Errno::ENOBUFS);
    }
    dev.stats.count_rx(skb.len() + skb.mac_len as usize);
    q.input_pkt_queue.push_back(skb);
    if !q.backlog_scheduled {
        q.backlog_scheduled = true;
        q.poll_list.push_back(Poll::Backlog);
        raise_softirq(Softirq::NetRx);
    }
    Ok(())
}

/// `net_rx_action`, the handler of `NET_RX_SOFTIRQ`: polls what is on this CPU's list, fairly, within a budget of packets
/// and of time.
pub(super) fn net_rx_action(reg: &Registries) {
    tp!(net_rx_action);
    let softnet = reg.softnet.this();
    let mut work = 0;
    let mut limits = None;
    loop {
        let Some(entry) = softnet.inner.lock_irqsave().poll_list.pop_front() else { return };
        let (done, more) = match entry {
            Poll::Backlog => process_backlog(softnet, NAPI_POLL_WEIGHT),
            Poll::Napi(n) => (napi_poll(softnet, n), !softnet.inner.lock_irqsave().poll_list.is_empty()),
        };
        work += done;
        if !more {
            return;
        }
        // The clock and the tunables are only read when one poll was not enough.
        let now = reg.kernel.ktime_get();
        let (budget, deadline) = *limits.get_or_insert_with(|| {
            let (budget, usecs) = netdev_budget(softnet);
            (budget, now + usecs * 1000)
        });
        if work >= budget || now >= deadline {
            softnet.time_squeeze.fetch_add(1, Relaxed);
            raise_softirq(Softirq::NetRx);
            return;
        }
    }
}

/// The budget, in packets and in microseconds, of the namespace whose packets are next: the tunables are a namespace's, the
/// CPU is not.
fn netdev_budget(softnet: &SoftnetData) -> (usize, u64) {
    let dev = {
        let q = softnet.inner.lock_irqsave();
        match q.poll_list.front() {
            Some(Poll::Napi(n)) => Some(n.dev.clone()),
            _ => q.input_pkt_queue.front().and_then(|s| s.dev.clone()),
        }
    };
    let net = dev.and_then(|d| d.net());
    net.map_or((DEFAULT_BUDGET, DEFAULT_BUDGET_USECS), |n| {
        (n.sysctl.netdev_budget.get() as usize, n.sysctl.netdev_budget_usecs.get() as u64)
    })
}

/// `process_backlog`: up to `quota` packets from the input queue to the protocols; goes back on the list if more are left. How
/// many it was, and whether there is something on the list.
fn process_backlog(softnet: &SoftnetData, quota: usize) -> (usize, bool) {
    let mut work = 0;
    let more = loop {
        let skb = {
            let mut q = softnet.inner.lock_irqsave();
            if q.input_pkt_queue.is_empty() {
                q.backlog_scheduled = false;
                break !q.poll_list.is_empty();
            }
            if work == quota {
                q.poll_list.push_back(Poll::Backlog);
                break true;
            }
            q.input_pkt_queue.pop_front()
        };
        work += 1;
        skb.into_iter().for_each(receive_skb_core);
    };
    this_cpu_add(&softnet.processed, work as u64);
    (work, more)
}

/// `__napi_poll`: one round of a device queue; back on the list if it used its whole weight.
fn napi_poll(softnet: &SoftnetData, n: Arc<NapiStruct>) -> usize {
    let start = n.state.fetch_update(AcqRel, Acquire, |s| (s & NAPI_DISABLE == 0).then_some(s | NAPI_POLLING));
    if start.is_err() {
        drop(n.gro.lock().flush());
        n.state.fetch_and(!(NAPI_SCHED | NAPI_MISSED), AcqRel);
        return 0;
    }
    let work = (n.poll)(&n, n.weight);
    debug_assert!(work <= n.weight, "{}: a poll took more than its budget", n.dev.name);
    n.stats.polls.fetch_add(1, Relaxed);
    n.stats.packets.fetch_add(work as u64, Relaxed);
    if work >= n.weight {
        n.stats.exhausted.fetch_add(1, Relaxed);
        // Nothing may wait in GRO for a poll that can be long in coming.
        napi_gro_flush(&n);
        n.state.fetch_and(!NAPI_POLLING, AcqRel);
        softnet.inner.lock_irqsave().poll_list.push_back(Poll::Napi(n));
    }
    work
}

/// `netif_receive_skb`: taps, then the packet type's handler. Softirq context.
pub fn netif_receive_skb(mut skb: Box<Skb>) {
    identify(&mut skb);
    if let Some(dev) = &skb.dev {
        dev.stats.count_rx(skb.len() + skb.mac_len as usize);
    }
    receive_skb_core(skb)
}

/// `__netif_receive_skb_core`. The packet has been counted.
fn receive_skb_core(mut skb: Box<Skb>) {
    tp!(netif_receive_skb, skb);
    skb.reset_network_header();
    skb.reset_transport_header();
    let Some(dev) = &skb.dev else { return };
    let Some(net) = dev.net() else { return };
    if !dev.is_up() {
        dev.stats.rx_dropped.fetch_add(1, Relaxed);
        return;
    }
    skb.skb_iif = dev.ifindex;
    deliver_taps(&net, dev, &skb);
    if let Err(skb) = deliver_ptype(&net, skb)
        && let Some(dev) = &skb.dev
    {
        dev.stats.rx_dropped.fetch_add(1, Relaxed);
    }
}

/// `netif_napi_add`. The device is enabled for polling at once.
pub fn netif_napi_add(dev: &Arc<NetDevice>, weight: usize, poll: NapiPoll) -> Arc<NapiStruct> {
    let n = Arc::new_cyclic(|me: &Weak<NapiStruct>| {
        let me = me.clone();
        let watchdog = dev.reg.kernel.hrtimer(move |_| {
            if let Some(n) = me.upgrade() {
                napi_watchdog(&n);
            }
            HrtimerRestart::NoRestart
        });
        NapiStruct {
            dev: dev.clone(),
            weight: weight.max(1),
            poll,
            stats: NapiStats::default(),
            state: AtomicU8::new(0),
            gro: SpinLock::new(GroList::default()),
            watchdog,
            defer_count: AtomicU32::new(0),
        }
    });
    let mut list = dev.napi_list.lock_bh();
    list.retain(|old| old.strong_count() > 0);
    list.push(Arc::downgrade(&n));
    n
}

/// `napi_schedule`, by a top half that has masked its interrupt: polls soon, on this CPU. `false` if already scheduled; then
/// the poll that is under way will not complete without looking again.
pub fn napi_schedule(n: &Arc<NapiStruct>) -> bool {
    tp!(napi_schedule);
    let fresh = napi_schedule_prep(n);
    if fresh {
        __napi_schedule(n);
    }
    fresh
}

/// `napi_schedule_prep`: takes the right to schedule the queue, which [`__napi_schedule`] then uses. In between a driver may
/// mask its interrupt.
pub fn napi_schedule_prep(n: &NapiStruct) -> bool {
    if in_hardirq() {
        n.stats.interrupts.fetch_add(1, Relaxed);
    }
    let old = n.state.fetch_update(AcqRel, Acquire, |s| match s {
        s if s & NAPI_DISABLE != 0 => None,
        s if s & NAPI_SCHED != 0 => Some(s | NAPI_MISSED),
        s => Some(s | NAPI_SCHED),
    });
    old.is_ok_and(|s| s & NAPI_SCHED == 0)
}

/// `__napi_schedule`: puts the queue on this CPU's list.
pub fn __napi_schedule(n: &Arc<NapiStruct>) {
    n.dev.reg.softnet.this().inner.lock_irqsave().poll_list.push_back(Poll::Napi(n.clone()));
    raise_softirq(Softirq::NetRx);
}

/// `napi_watchdog`: polls in the interrupt's stead.
fn napi_watchdog(n: &Arc<NapiStruct>) {
    let set = |s: u8| (s & (NAPI_DISABLE | NAPI_SCHED) == 0).then_some(s | NAPI_SCHED);
    if n.state.fetch_update(AcqRel, Acquire, set).is_ok() {
        __napi_schedule(n);
    }
}

/// `napi_complete_done`: the ring is empty after `work` packets; flushes GRO. `false` if the driver must leave its interrupt
/// masked: the queue has been scheduled again meanwhile, or the watchdog will poll it (`napi_defer_hard_irqs`).
pub fn napi_complete_done(n: &Arc<NapiStruct>, work: usize) -> bool {
    let (timeout, deferred) = defer_hard_irqs(n, work);
    if timeout == 0 {
        napi_gro_flush(n);
    }
    let old = n.state.fetch_update(AcqRel, Acquire, |s| match s & NAPI_MISSED {
        0 => Some(s & !(NAPI_SCHED | NAPI_POLLING)),
        _ => Some(s & !(NAPI_MISSED | NAPI_POLLING)),
    });
    let missed = old.is_ok_and(|s| s & NAPI_MISSED != 0);
    let count = match (missed, deferred) {
        (true, _) => &n.stats.missed,
        (_, true) => &n.stats.deferred,
        _ => &n.stats.completed,
    };
    count.fetch_add(1, Relaxed);
    if missed {
        __napi_schedule(n);
    } else if timeout != 0 {
        n.watchdog.start(n.dev.reg.kernel.ktime_get() + timeout);
    }
    !missed && !deferred
}

/// For how many nanoseconds the watchdog takes over, 0 if it does not, and whether the interrupt stays off until then.
fn defer_hard_irqs(n: &NapiStruct, work: usize) -> (u64, bool) {
    let timeout = n.dev.gro_flush_timeout.load(Relaxed);
    if timeout == 0 {
        return (0, false);
    }
    if work > 0 {
        n.defer_count.store(n.dev.napi_defer_hard_irqs.load(Relaxed), Relaxed);
    }
    // Only the CPU that polls counts.
    let left = n.defer_count.load(Relaxed);
    n.defer_count.store(left.saturating_sub(1), Relaxed);
    let waits = left > 0 || (work > 0 && !n.gro.lock().is_empty());
    (if waits { timeout } else { 0 }, left > 0)
}

/// `napi_disable`: from now on nothing schedules the queue, a poll that is due is not made, and one that runs has ended when
/// this returns. Process context.
pub fn napi_disable(n: &NapiStruct) {
    debug_assert!(!kernel::in_softirq(), "napi_disable in softirq context could wait for itself");
    n.state.fetch_or(NAPI_DISABLE, AcqRel);
    let mut spins = 0;
    while n.state.load(Acquire) & NAPI_POLLING != 0 {
        n.dev.reg.kernel.arch().cpu_relax(spins);
        spins = spins.saturating_add(1);
    }
    n.watchdog.cancel();
}

/// `napi_enable`.
pub fn napi_enable(n: &NapiStruct) {
    n.state.fetch_and(!NAPI_DISABLE, AcqRel);
}

/// `napi_gro_receive`: merges the packet with others of its flow, or passes it on. In a NAPI poll.
pub fn napi_gro_receive(n: &Arc<NapiStruct>, mut skb: Box<Skb>) {
    identify(&mut skb);
    tp!(napi_gro_receive, skb);
    n.dev.stats.count_rx(skb.len() + skb.mac_len as usize);
    if !n.dev.features().contains(Features::GRO) {
        return receive_skb_core(skb);
    }
    let ready = dev_gro_receive(&mut n.gro.lock(), skb);
    ready.into_iter().for_each(receive_skb_core);
}

/// `napi_gro_flush`.
fn napi_gro_flush(n: &NapiStruct) {
    let ready = n.gro.lock().flush();
    ready.into_iter().for_each(receive_skb_core);
}
