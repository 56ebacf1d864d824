//! Who takes packets from the device layer: handlers by EtherType, and taps.
//!
//! Interface: [`PacketType`], [`Tap`], [`dev_add_pack`], [`dev_add_tap`], [`PacketTypes`].
//! Linux counterpart: `struct packet_type`, `ptype_base`, `ptype_all`, `dev_queue_xmit_nit` in `net/core/dev.c`.
//! Locks and context: read under RCU in softirq or process context; changed under a lock in process context.

use crate::core::dev::device::NetDevice;
use crate::core::net_namespace::{Net, Registries};
use crate::core::skbuff::Skb;
use kernel::{Rcu, SpinLock, rcu_read_lock};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::*};

/// Who takes packets of an EtherType (`struct packet_type`). `data` is at the network header.
pub struct PacketType {
    pub kind: u16,
    pub func: Box<dyn Fn(&Arc<Net>, Box<Skb>) + Send + Sync>,
}

/// A tap: sees every frame, both ways, without owning it (`ptype_all`, `dev_queue_xmit_nit`).
///
/// The frame begins at [`Skb::mac_header`] and goes on in the fragments. `pkt_type` is `Outgoing` on the way out; the
/// loopback device shows each packet twice, going out and coming in, as in Linux.
pub struct Tap {
    /// Only this device; 0: all of all namespaces.
    pub ifindex: u32,
    pub func: Box<dyn Fn(&Net, &NetDevice, &Skb) + Send + Sync>,
}

/// `ptype_base` and `ptype_all`.
#[derive(Default)]
pub struct PacketTypes {
    base: Rcu<Vec<Arc<PacketType>>>,
    taps: Rcu<Vec<Arc<Tap>>>,
    lock: SpinLock<()>,
    nr_taps: AtomicUsize,
}

/// Replaces a list by a changed copy; the lock that serialises writers is held.
fn update<T: Send + Sync + 'static>(list: &Rcu<Vec<Arc<T>>>, change: impl FnOnce(&mut Vec<Arc<T>>)) -> usize {
    let mut v = list.get().map(|v| v.to_vec()).unwrap_or_default();
    change(&mut v);
    let n = v.len();
    list.assign(Some(Arc::new(v)));
    n
}

/// `dev_add_pack`.
pub fn dev_add_pack(reg: &Registries, pt: PacketType) -> Arc<PacketType> {
    let pt = Arc::new(pt);
    let _l = reg.ptypes.lock.lock_bh();
    update(&reg.ptypes.base, |v| v.push(pt.clone()));
    pt
}

/// `dev_remove_pack`. Packets already on their way to the handler still reach it.
pub fn dev_remove_pack(reg: &Registries, pt: &Arc<PacketType>) {
    let _l = reg.ptypes.lock.lock_bh();
    update(&reg.ptypes.base, |v| v.retain(|x| !Arc::ptr_eq(x, pt)));
}

/// Adds a tap (`dev_add_pack` with `ETH_P_ALL`).
pub fn dev_add_tap(reg: &Registries, tap: Tap) -> Arc<Tap> {
    let tap = Arc::new(tap);
    let _l = reg.ptypes.lock.lock_bh();
    let n = update(&reg.ptypes.taps, |v| v.push(tap.clone()));
    reg.ptypes.nr_taps.store(n, Release);
    tap
}

pub fn dev_remove_tap(reg: &Registries, tap: &Arc<Tap>) {
    let _l = reg.ptypes.lock.lock_bh();
    let n = update(&reg.ptypes.taps, |v| v.retain(|x| !Arc::ptr_eq(x, tap)));
    reg.ptypes.nr_taps.store(n, Release);
}

/// Shows a packet to whoever taps the device.
#[inline]
pub(super) fn deliver_taps(net: &Net, dev: &NetDevice, skb: &Skb) {
    if net.reg.ptypes.nr_taps.load(Relaxed) != 0 {
        deliver_taps_slow(net, dev, skb);
    }
}

#[cold]
fn deliver_taps_slow(net: &Net, dev: &NetDevice, skb: &Skb) {
    let section = rcu_read_lock();
    for tap in net.reg.ptypes.taps.dereference(&section).into_iter().flatten() {
        if tap.ifindex == 0 || tap.ifindex == dev.ifindex {
            (tap.func)(net, dev, skb);
        }
    }
}

/// Whether anybody taps anything.
#[inline]
pub(super) fn tapped(reg: &Registries) -> bool {
    reg.ptypes.nr_taps.load(Relaxed) != 0
}

/// Gives a packet to the handlers of its protocol, a clone to all but the last (`deliver_skb`); `Err` if there is none.
pub(super) fn deliver_ptype(net: &Arc<Net>, skb: Box<Skb>) -> Result<(), Box<Skb>> {
    let section = rcu_read_lock();
    let kind = skb.protocol;
    let mut last: Option<&PacketType> = None;
    for pt in net.reg.ptypes.base.dereference(&section).into_iter().flatten().filter(|p| p.kind == kind) {
        if let Some(earlier) = last.replace(pt) {
            (earlier.func)(net, skb.clone_skb());
        }
    }
    match last {
        Some(pt) => {
            (pt.func)(net, skb);
            Ok(())
        }
        None => Err(skb),
    }
}
