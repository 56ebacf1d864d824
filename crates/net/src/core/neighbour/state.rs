//! What happens to a neighbour: a packet, an answer, time.
//!
//! Interface: [`neigh_output`], [`neigh_update`], [`neigh_event_ns`], [`neigh_confirm`], [`neigh_create`], [`neigh_add`].
//! Linux counterpart: `net/core/neighbour.c` (`__neigh_event_send`, `neigh_timer_handler`, `__neigh_update`).
//! Locks and context: process or softirq context. What an event causes is decided under the entry's lock and done without it.

use super::entry::{Inner, NeighUpdate, Neighbour, Nud, Todo, jiffies, ms, ops_of, reachable_time, secs};
use super::table::{neigh_lookup, neigh_reserve};
use crate::core::dev::{__dev_queue_xmit, ETH_P_IP, ETH_P_IPV6, Iff, NetDevice};
use crate::core::eth::{ETH_HLEN, eth_header};
use crate::core::net_namespace::Net;
use crate::core::skb_queue::SkbQueue;
use crate::core::skbuff::Skb;
use crate::hdr::{IpHdr, Ipv6Hdr};
use kernel::{Fault, should_fail, tp};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use uapi::{Errno, Result};

// --- The way of a packet ---

/// `neigh_output`: sends `skb` (at its network header, `skb.dev` set) to next hop `hop` over `dev`: prepends the link-layer
/// header if the neighbour is known, else queues it (bounded) and starts the resolution. `ENOBUFS` when the table is full.
pub fn neigh_output(net: &Arc<Net>, dev: &Arc<NetDevice>, hop: IpAddr, mut skb: Box<Skb>) -> Result<()> {
    tp!(neigh_output, skb);
    if skb.dev.as_ref().is_none_or(|d| !Arc::ptr_eq(d, dev)) {
        skb.dev = Some(dev.clone());
    }
    if dev.hard_header_len == 0 {
        return __dev_queue_xmit(dev, skb);
    }
    if dev.flags().intersects(Iff::LOOPBACK | Iff::NOARP) {
        return send_to(dev, dev.addr, hop, skb);
    }
    if let Some(n) = neigh_lookup(net, dev.ifindex, hop) {
        return output_through(net, &n, skb);
    }
    if let Some(ha) = ops_of(net, hop.is_ipv6()).and_then(|o| (o.direct)(net, dev, hop)) {
        return send_to(dev, ha, hop, skb);
    }
    let n = neigh_create(net, dev, hop)?;
    neigh_resolve_output(net, &n, skb)
}

/// Fast while the neighbour is known and not in doubt.
#[inline]
fn output_through(net: &Arc<Net>, n: &Arc<Neighbour>, skb: Box<Skb>) -> Result<()> {
    if !n.accessed.load(Relaxed) {
        n.accessed.store(true, Relaxed);
    }
    match n.lladdr() {
        Some(ha) if n.state().is_connected() => send_to(&n.dev, ha, n.hop, skb),
        _ => neigh_resolve_output(net, n, skb),
    }
}

fn send_to(dev: &Arc<NetDevice>, ha: [u8; 6], hop: IpAddr, mut skb: Box<Skb>) -> Result<()> {
    if dev.hard_header_len >= ETH_HLEN {
        eth_header(&mut skb, dev, if hop.is_ipv6() { ETH_P_IPV6 } else { ETH_P_IP }, ha, None);
    }
    __dev_queue_xmit(dev, skb)
}

/// `neigh_resolve_output`: sends if the address may be used, else queues.
fn neigh_resolve_output(net: &Arc<Net>, n: &Arc<Neighbour>, skb: Box<Skb>) -> Result<()> {
    match neigh_event_send(net, n, skb) {
        None => Ok(()),
        Some(skb) => match n.lladdr() {
            Some(ha) => send_to(&n.dev, ha, n.hop, skb),
            None => Err(Errno::EHOSTUNREACH),
        },
    }
}

/// `neigh_event_send`: somebody wants to send. The packet if it may go; else it waits in the entry's queue.
fn neigh_event_send(net: &Arc<Net>, n: &Arc<Neighbour>, skb: Box<Skb>) -> Option<Box<Skb>> {
    let mut todo = Todo::default();
    let mut back = None;
    let mut dropped = SkbQueue::default();
    {
        let mut inner = n.inner.lock_bh();
        let now = jiffies(net);
        n.used.store(now, Relaxed);
        match n.state() {
            s if s.is_connected() || matches!(s, Nud::Delay | Nud::Probe) => back = Some(skb),
            _ if inner.dead => dropped.push_back(skb),
            Nud::Stale => {
                n.set_state(Nud::Delay);
                n.updated.store(now, Relaxed);
                n.timer().mod_timer(now + secs(&net.sysctl.neigh_delay_first_probe_time));
                back = Some(skb);
            }
            Nud::Incomplete => queue_unresolved(net, &mut inner, skb, &mut dropped),
            _ => start_resolution(net, n, &mut inner, now, skb, &mut todo, &mut dropped),
        }
    }
    let discards = &net.neigh.table(n.is_v6()).stats.unres_discards;
    discards.fetch_add(dropped.len() as u64, Relaxed);
    finish(net, n, todo);
    back
}

#[allow(clippy::too_many_arguments)]
fn start_resolution(
    net: &Arc<Net>,
    n: &Neighbour,
    inner: &mut Inner,
    now: u64,
    skb: Box<Skb>,
    todo: &mut Todo,
    dropped: &mut SkbQueue,
) {
    n.updated.store(now, Relaxed);
    if net.sysctl.neigh_mcast_solicit.get() == 0 {
        n.set_state(Nud::Failed);
        todo.failed.push_back(skb);
        return;
    }
    n.set_state(Nud::Incomplete);
    inner.probes = 1;
    todo.probe = Some((saddr_of(&skb), None));
    queue_unresolved(net, inner, skb, dropped);
    n.timer().mod_timer(now + ms(&net.sysctl.neigh_retrans_time_ms).max(1));
}

/// Queues a packet; the oldest make room (`unres_qlen_bytes`).
fn queue_unresolved(net: &Net, inner: &mut Inner, skb: Box<Skb>, dropped: &mut SkbQueue) {
    let limit = net.sysctl.neigh_unres_qlen_bytes.get() as usize;
    while inner.queue_bytes + skb.truesize as usize > limit {
        let Some(old) = inner.queue.pop_front() else { break };
        inner.queue_bytes = inner.queue_bytes.saturating_sub(old.truesize as usize);
        dropped.push_back(old);
    }
    if skb.truesize as usize > limit {
        dropped.push_back(skb);
        return;
    }
    inner.queue_bytes += skb.truesize as usize;
    inner.queue.push_back(skb);
}

/// The source address of a packet at its network header.
fn saddr_of(skb: &Skb) -> Option<IpAddr> {
    let b = skb.data();
    match b.first()? >> 4 {
        4 => Some(IpHdr::read(b)?.src().into()),
        6 => Some(Ipv6Hdr::read(b)?.src().into()),
        _ => None,
    }
}

/// Does, without the lock, what was decided under it.
fn finish(net: &Arc<Net>, n: &Arc<Neighbour>, mut todo: Todo) {
    let ops = ops_of(net, n.is_v6());
    if let (Some((saddr, to)), Some(ops)) = (todo.probe, ops) {
        (ops.solicit)(net, n, saddr, to);
    }
    while let Some(skb) = todo.ready.pop_front() {
        let _ = output_through(net, n, skb);
    }
    while let Some(skb) = todo.failed.pop_front() {
        if let Some(ops) = ops {
            (ops.error_report)(net, skb);
        }
    }
}

// --- Time ---

fn neigh_timer_handler(n: &Arc<Neighbour>) {
    let Some(net) = n.net.upgrade() else { return };
    let mut todo = Todo::default();
    {
        let mut inner = n.inner.lock_bh();
        if inner.dead || !n.state().in_timer() {
            return;
        }
        if let Some(next) = neigh_tick(&net, n, &mut inner, &mut todo) {
            n.timer().mod_timer(next);
        }
    }
    finish(&net, n, todo);
}

/// What time does to an entry; when to look again.
fn neigh_tick(net: &Net, n: &Neighbour, inner: &mut Inner, todo: &mut Todo) -> Option<u64> {
    let now = jiffies(net);
    let delay = secs(&net.sysctl.neigh_delay_first_probe_time);
    let confirmed = n.confirmed.load(Relaxed);
    match n.state() {
        Nud::Reachable if now < confirmed + inner.reachable_time => return Some(confirmed + inner.reachable_time),
        Nud::Reachable if n.used.load(Relaxed) != 0 && now < n.used.load(Relaxed) + delay => {
            n.set_state(Nud::Delay);
            n.updated.store(now, Relaxed);
            return Some(now + delay);
        }
        Nud::Reachable => {
            n.set_state(Nud::Stale);
            n.updated.store(now, Relaxed);
            return None;
        }
        Nud::Delay if confirmed != 0 && now <= confirmed + delay => {
            n.set_state(Nud::Reachable);
            n.updated.store(now, Relaxed);
            return Some(confirmed + inner.reachable_time);
        }
        Nud::Delay => {
            n.set_state(Nud::Probe);
            n.updated.store(now, Relaxed);
            inner.probes = 0;
        }
        _ => {}
    }
    let limit = match n.state() {
        Nud::Probe => &net.sysctl.neigh_ucast_solicit,
        _ => &net.sysctl.neigh_mcast_solicit,
    };
    if inner.probes as i64 >= limit.get() {
        neigh_fail(net, n, inner, now, todo);
        return None;
    }
    inner.probes += 1;
    let to = if n.state() == Nud::Probe { n.lladdr() } else { None };
    todo.probe = Some((inner.queue.front().and_then(saddr_of), to));
    Some(now + ms(&net.sysctl.neigh_retrans_time_ms).max(1))
}

/// `neigh_invalidate`.
fn neigh_fail(net: &Net, n: &Neighbour, inner: &mut Inner, now: u64, todo: &mut Todo) {
    n.set_state(Nud::Failed);
    n.updated.store(now, Relaxed);
    net.neigh.table(n.is_v6()).stats.res_failed.fetch_add(1, Relaxed);
    inner.queue.splice_to(&mut todo.failed);
    inner.queue_bytes = 0;
}

/// `dst_confirm_neigh`: the transport has seen forward progress through this next hop (RFC 4861, 7.3.1).
pub fn neigh_confirm(net: &Net, ifindex: u32, hop: IpAddr) {
    if let Some(n) = neigh_lookup(net, ifindex, hop) {
        n.confirmed.store(jiffies(net), Relaxed);
    }
}

// --- Learning ---

/// `neigh_update`: what has been learnt about a neighbour. `lladdr` `None` keeps the known address. Moves the entry to `new`,
/// sends what waited for it. `EPERM` for an entry that only an administrator may change, `EINVAL` for a valid state without an
/// address.
pub fn neigh_update(
    net: &Arc<Net>,
    n: &Arc<Neighbour>,
    lladdr: Option<[u8; 6]>,
    new: Nud,
    flags: NeighUpdate,
) -> Result<()> {
    let mut todo = Todo::default();
    let result = {
        let mut inner = n.inner.lock_bh();
        update_locked(net, n, &mut inner, lladdr, new, flags, &mut todo)
    };
    finish(net, n, todo);
    result
}

#[allow(clippy::too_many_arguments)]
fn update_locked(
    net: &Net,
    n: &Neighbour,
    inner: &mut Inner,
    lladdr: Option<[u8; 6]>,
    mut new: Nud,
    flags: NeighUpdate,
    todo: &mut Todo,
) -> Result<()> {
    let old = n.state();
    if inner.dead || (matches!(old, Nud::NoArp | Nud::Permanent) && !flags.contains(NeighUpdate::ADMIN)) {
        return Err(Errno::EPERM);
    }
    let now = jiffies(net);
    if !new.is_valid() {
        n.timer().del_timer();
        n.set_state(new);
        n.updated.store(now, Relaxed);
        if new == Nud::Failed && matches!(old, Nud::Incomplete | Nud::Probe) {
            neigh_fail(net, n, inner, now, todo);
        }
        return Ok(());
    }
    let known = n.lladdr().filter(|_| old.is_valid());
    let mut ha = lladdr.or(known).ok_or(Errno::EINVAL)?;
    if new.is_connected() {
        n.confirmed.store(now, Relaxed);
    }
    if let Some(k) = known {
        if k == ha {
            // Hearing the same again is no reason to doubt it.
            if new == Nud::Stale && !flags.contains(NeighUpdate::ADMIN) {
                new = old;
            }
        } else if !flags.contains(NeighUpdate::OVERRIDE) {
            if !flags.contains(NeighUpdate::WEAK_OVERRIDE) || !old.is_connected() {
                return Ok(());
            }
            (ha, new) = (k, Nud::Stale);
        }
    }
    if flags.contains(NeighUpdate::OVERRIDE_ISROUTER) {
        n.router.store(flags.contains(NeighUpdate::ISROUTER), Relaxed);
    }
    become_valid(net, n, inner, now, ha, new);
    if !old.is_valid() {
        inner.queue.splice_to(&mut todo.ready);
        inner.queue_bytes = 0;
    }
    Ok(())
}

fn become_valid(net: &Net, n: &Neighbour, inner: &mut Inner, now: u64, ha: [u8; 6], new: Nud) {
    let old = n.state();
    if n.lladdr() != Some(ha) {
        n.set_lladdr(ha);
        n.updated.store(now, Relaxed);
        // A new address is not confirmed by what was heard of the old one.
        if !new.is_connected() {
            n.confirmed.store(now.saturating_sub(inner.reachable_time * 2), Relaxed);
        }
    }
    if new == old {
        return;
    }
    n.updated.store(now, Relaxed);
    inner.probes = 0;
    n.set_state(new);
    match new {
        Nud::Reachable => {
            inner.reachable_time = reachable_time(net);
            n.timer().mod_timer(now + inner.reachable_time);
        }
        Nud::Delay => {
            n.timer().mod_timer(now + secs(&net.sysctl.neigh_delay_first_probe_time));
        }
        Nud::Probe => {
            n.timer().mod_timer(now + ms(&net.sysctl.neigh_retrans_time_ms).max(1));
        }
        _ => {
            n.timer().del_timer();
        }
    }
}

/// `neigh_event_ns`: a neighbour has asked for us, and so told its own address. `None` when the table is full.
pub fn neigh_event_ns(net: &Arc<Net>, dev: &Arc<NetDevice>, lladdr: [u8; 6], saddr: IpAddr) -> Option<Arc<Neighbour>> {
    let n = neigh_create(net, dev, saddr).ok()?;
    let _ = neigh_update(net, &n, Some(lladdr), Nud::Stale, NeighUpdate::OVERRIDE);
    Some(n)
}

// --- Making one ---

/// `neigh_create`: the entry, made if it is not there. `ENOBUFS` when the table is full (`gc_thresh3`), `ENETDOWN` when the
/// device is down.
pub fn neigh_create(net: &Arc<Net>, dev: &Arc<NetDevice>, hop: IpAddr) -> Result<Arc<Neighbour>> {
    if let Some(n) = neigh_lookup(net, dev.ifindex, hop) {
        return Ok(n);
    }
    if !dev.is_up() {
        return Err(Errno::ENETDOWN);
    }
    let t = net.neigh.table(hop.is_ipv6());
    if should_fail(Fault::Neighbour) {
        return Err(Errno::ENOBUFS);
    }
    neigh_reserve(net, t, hop.is_ipv6())?;
    let n = Neighbour::new(net, dev, hop, neigh_timer_handler);
    match t.hash.insert_unless(n.hash, n.clone(), |o| o.hop == hop && o.dev.ifindex == dev.ifindex) {
        Ok(()) => {
            t.stats.allocs.fetch_add(1, Relaxed);
            Ok(n)
        }
        Err(there) => {
            t.entries.fetch_sub(1, Relaxed);
            Ok(there)
        }
    }
}

/// `neigh_add`: an entry by hand; with [`Nud::Permanent`] it is never asked for nor collected.
pub fn neigh_add(net: &Arc<Net>, dev: &Arc<NetDevice>, hop: IpAddr, lladdr: [u8; 6], state: Nud) -> Result<()> {
    let n = neigh_create(net, dev, hop)?;
    neigh_update(net, &n, Some(lladdr), state, NeighUpdate::OVERRIDE | NeighUpdate::ADMIN)
}
