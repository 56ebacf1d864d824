//! The way down: from a finished frame to the driver.
//!
//! Interface: [`dev_queue_xmit`], [`netif_wake_queue`], [`netif_stop_queue`].
//! Linux counterpart: `net/core/dev.c` (`__dev_queue_xmit`, `validate_xmit_skb`, `net_tx_action`), `net/sched/sch_generic.c`.
//! Locks and context: process or softirq context. A device's queue is under its transmit lock; the driver is called without
//! it, by the one CPU that has set `running`, so a slow driver keeps nobody spinning: the others enqueue and go.

use crate::core::checksum::skb_checksum_help;
use crate::core::dev::device::{Features, NetDevice, NetdevTx};
use crate::core::dev::ptype::{deliver_taps, tapped};
use crate::core::gso::{Segments, skb_gso_segment};
use crate::core::net_namespace::Registries;
use crate::core::skbuff::{GsoType, IpSummed, PktType, Skb, identify};
use kernel::kernel::raise_softirq;
use kernel::{Softirq, local_bh_disable, tp};
use smallvec::SmallVec;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use uapi::{Errno, Result};

/// `dev_tx_weight`: packets one caller sends before it leaves the rest to the softirq.
const DEV_TX_WEIGHT: usize = 64;
/// Packets taken from the queue at once (`qdisc_may_bulk`).
const BULK: usize = 8;

/// `dev_queue_xmit`: taps, checksum and segmentation where the device can't, its queue, its driver. `skb.dev` is set and
/// the link-layer header is in place. `ENETDOWN`, `ENOBUFS` (queue full).
pub fn dev_queue_xmit(skb: Box<Skb>) -> Result<()> {
    let Some(dev) = skb.dev.clone() else { return Err(Errno::ENODEV) };
    __dev_queue_xmit(&dev, skb)
}

/// [`dev_queue_xmit`] for who has the packet's device at hand.
#[allow(non_snake_case)]
pub(crate) fn __dev_queue_xmit(dev: &Arc<NetDevice>, mut skb: Box<Skb>) -> Result<()> {
    identify(&mut skb);
    tp!(dev_queue_xmit, skb);
    let _bh = local_bh_disable();
    skb.reset_mac_header();
    if dev.ops.lltx() { xmit_lltx(dev, skb) } else { dev_xmit_skb(dev, skb) }
}

/// A driver that locks for itself has no queue.
fn xmit_lltx(dev: &Arc<NetDevice>, skb: Box<Skb>) -> Result<()> {
    if !dev.is_up() {
        dev.stats.tx_dropped.fetch_add(1, Relaxed);
        return Err(Errno::ENETDOWN);
    }
    let mut result = Ok(());
    for seg in validate_xmit_skb(dev, skb)? {
        if let NetdevTx::Busy(_) = dev_hard_start_xmit(dev, seg) {
            dev.stats.tx_dropped.fetch_add(1, Relaxed);
            result = Err(Errno::ENOBUFS);
        }
    }
    dev.ops.ndo_xmit_flush(dev);
    result
}

/// `__dev_xmit_skb`: to the driver if the queue is empty and free, else into the queue.
fn dev_xmit_skb(dev: &Arc<NetDevice>, skb: Box<Skb>) -> Result<()> {
    let mut q = dev.tx.lock_bh();
    // Under the lock: `dev_deactivate` empties the queue once.
    if !dev.is_up() {
        drop(q);
        dev.stats.tx_dropped.fetch_add(1, Relaxed);
        return Err(Errno::ENETDOWN);
    }
    if q.list.len() >= dev.tx_queue_len.load(Relaxed) as usize {
        drop(q);
        dev.stats.tx_dropped.fetch_add(1, Relaxed);
        return Err(Errno::ENOBUFS);
    }
    if q.running || dev.stopped.load(SeqCst) {
        q.list.push_back(skb);
        return Ok(());
    }
    q.running = true;
    if !q.list.is_empty() {
        q.list.push_back(skb);
        drop(q);
        qdisc_run(dev, 0);
        return Ok(());
    }
    drop(q);
    let more = sch_direct_xmit(dev, SmallVec::from_iter([skb]));
    qdisc_run_on(dev, more, 1);
    Ok(())
}

/// `__qdisc_run`: gives the driver what waits, as the one CPU that has set `running`, and clears it.
fn qdisc_run(dev: &Arc<NetDevice>, done: usize) {
    qdisc_run_on(dev, true, done)
}

/// Goes on while the driver takes packets (`more`), up to the quota; then the softirq does.
fn qdisc_run_on(dev: &Arc<NetDevice>, mut more: bool, mut done: usize) {
    loop {
        let batch = {
            let mut q = dev.tx.lock_bh();
            if !more || q.list.is_empty() || done >= DEV_TX_WEIGHT {
                q.running = false;
                let left = !q.list.is_empty();
                drop(q);
                // Stopped: the wake schedules. Woken since: it may have come before `running` was cleared.
                if left && !dev.stopped.load(SeqCst) {
                    netif_schedule(dev);
                }
                break;
            }
            let mut batch: SmallVec<[Box<Skb>; BULK]> = SmallVec::new();
            while batch.len() < BULK {
                let Some(skb) = q.list.pop_front() else { break };
                batch.push(skb);
            }
            batch
        };
        done += batch.len();
        more = sch_direct_xmit(dev, batch);
    }
}

/// Gives a batch to the driver, then flushes; what it refuses goes back to the front of the queue. `false`: it is full.
fn sch_direct_xmit(dev: &Arc<NetDevice>, batch: SmallVec<[Box<Skb>; BULK]>) -> bool {
    let mut back: SmallVec<[Box<Skb>; BULK]> = SmallVec::new();
    let mut full = false;
    for skb in batch {
        if full {
            back.push(skb);
            continue;
        }
        let Ok(segs) = validate_xmit_skb(dev, skb) else { continue };
        for seg in segs {
            if full {
                back.push(seg);
            } else if let Err(seg) = xmit_or_stop(dev, seg) {
                full = true;
                back.push(seg);
            }
        }
    }
    dev.ops.ndo_xmit_flush(dev);
    if full {
        requeue(dev, back);
    }
    !full || !dev.stopped.load(SeqCst)
}

/// One packet to the driver. If that is full, the queue stops; but not if the driver has woken it since it was asked,
/// then it is asked again. `Err`: stopped.
fn xmit_or_stop(dev: &Arc<NetDevice>, mut skb: Box<Skb>) -> std::result::Result<(), Box<Skb>> {
    loop {
        let wakes = dev.wakes.load(SeqCst);
        match dev_hard_start_xmit(dev, skb) {
            NetdevTx::Ok => return Ok(()),
            NetdevTx::Busy(b) => skb = b,
        }
        dev.stopped.store(true, SeqCst);
        if dev.wakes.load(SeqCst) == wakes {
            return Err(skb);
        }
        dev.stopped.store(false, SeqCst);
    }
}

/// Puts packets back at the front, in order (`dev_requeue_skb`). Over the limit by one batch at most.
fn requeue(dev: &NetDevice, back: SmallVec<[Box<Skb>; BULK]>) {
    let mut q = dev.tx.lock_bh();
    for skb in back.into_iter().rev() {
        q.list.push_front(skb);
    }
}

/// `netif_stop_queue`: a driver that has just filled its ring need not wait to be asked once more.
pub fn netif_stop_queue(dev: &NetDevice) {
    dev.stopped.store(true, SeqCst);
}

/// `netif_queue_stopped`.
pub fn netif_queue_stopped(dev: &NetDevice) -> bool {
    dev.stopped.load(SeqCst)
}

/// `netif_wake_queue`: the driver has room again. Any context, also a top half; inside the kernel.
pub fn netif_wake_queue(dev: &Arc<NetDevice>) {
    dev.wakes.fetch_add(1, SeqCst);
    if dev.stopped.swap(false, SeqCst) {
        netif_schedule(dev);
    }
}

/// `__netif_schedule`: has `net_tx_action` run the device's queue.
fn netif_schedule(dev: &Arc<NetDevice>) {
    if !dev.tx_scheduled.swap(true, AcqRel) {
        dev.reg.softnet.this().inner.lock_irqsave().output_queue.push_back(dev.clone());
        raise_softirq(Softirq::NetTx);
    }
}

/// `net_tx_action`, the handler of `NET_TX_SOFTIRQ`: runs the queues that were scheduled on this CPU.
pub(super) fn net_tx_action(reg: &Registries) {
    let mut list = std::mem::take(&mut reg.softnet.this().inner.lock_irqsave().output_queue);
    while let Some(dev) = list.pop_front() {
        // Read as well: who finds it still set counts on this one to see all that he has done.
        dev.tx_scheduled.swap(false, AcqRel);
        {
            let mut q = dev.tx.lock_bh();
            if q.running || dev.stopped.load(SeqCst) || q.list.is_empty() {
                continue;
            }
            q.running = true;
        }
        qdisc_run(&dev, 0);
    }
}

/// `dev_hard_start_xmit`: one validated packet to the taps and the driver.
fn dev_hard_start_xmit(dev: &Arc<NetDevice>, mut skb: Box<Skb>) -> NetdevTx {
    tp!(dev_hard_start_xmit, skb);
    if tapped(&dev.reg)
        && let Some(net) = dev.net()
    {
        let was = std::mem::replace(&mut skb.pkt_type, PktType::Outgoing);
        deliver_taps(&net, dev, &skb);
        skb.pkt_type = was;
    }
    let len = skb.len();
    let r = dev.ops.ndo_start_xmit(dev, skb);
    if let NetdevTx::Ok = r {
        dev.stats.count_tx(len);
    }
    r
}

/// `validate_xmit_skb`: what the device cannot do is done here: segmentation, gathering, checksums. `EINVAL` for a packet
/// that is not what its marks say; it is counted and gone.
fn validate_xmit_skb(dev: &NetDevice, skb: Box<Skb>) -> Result<Segments> {
    let segs = validate(dev.features(), skb);
    if segs.is_err() {
        dev.stats.tx_dropped.fetch_add(1, Relaxed);
    }
    segs
}

fn validate(f: Features, skb: Box<Skb>) -> Result<Segments> {
    let mut segs = match skb.is_gso() && !can_segment(f, skb.gso_type) {
        true => skb_gso_segment(skb, f.contains(Features::HW_CSUM))?,
        false => Segments::from_iter([skb]),
    };
    for seg in &mut segs {
        if seg.ip_summed == IpSummed::Partial && !f.intersects(Features::HW_CSUM | Features::LOOPBACK) {
            skb_checksum_help(seg).then_some(()).ok_or(Errno::EINVAL)?;
        }
        if !f.contains(Features::SG) && !seg.frags().is_empty() {
            let len = seg.len();
            seg.may_pull(len);
        }
    }
    Ok(segs)
}

/// Whether the device cuts such packets itself (`net_gso_ok`).
fn can_segment(f: Features, t: GsoType) -> bool {
    let need = [
        (GsoType::TCPV4, Features::TSO),
        (GsoType::TCPV6, Features::TSO6),
        (GsoType::UDP_L4, Features::GSO_UDP_L4),
        (GsoType::TCP_ACCECN, Features::GSO_ACCECN),
    ];
    need.into_iter().all(|(kind, feature)| !t.contains(kind) || f.contains(feature))
}
