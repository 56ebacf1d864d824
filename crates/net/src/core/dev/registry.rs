//! Devices coming, changing and going.
//!
//! Interface: [`register_netdevice`], [`unregister_netdevice`], [`dev_open`], [`dev_close`], [`dev_set_mtu`], look-ups,
//! [`register_netdevice_notifier`].
//! Linux counterpart: `net/core/dev.c`, `net/core/dev_api.c`.
//! Locks and context: changes in process context, by one caller at a time for each device; look-ups anywhere, under RCU.

use crate::core::dev::device::{Iff, NetDevice, NetDeviceSpec};
use crate::core::net_namespace::{Net, Registries};
use crate::core::skb_queue::SkbQueue;
use kernel::{SpinLock, rcu_read_lock};
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use uapi::{Errno, Result};

/// The smallest MTU an IPv4 host must take (RFC 791, 3.2).
const ETH_MIN_MTU: u32 = 68;
/// `IFNAMSIZ`, with the terminating zero that C needs.
const IFNAMSIZ: usize = 16;

/// What happens to a device, for whoever keeps state about it (`NETDEV_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NetdevEvent {
    Register,
    Up,
    Down,
    ChangeMtu,
    /// The carrier came or went.
    Change,
    Unregister,
}

/// `netdev_chain`.
#[derive(Default)]
pub struct NetdevChain(SpinLock<Vec<fn(&Arc<NetDevice>, NetdevEvent)>>);

/// `register_netdevice_notifier`: `f` is called for each event of every device from now on, in the order of registration.
pub fn register_netdevice_notifier(reg: &Registries, f: fn(&Arc<NetDevice>, NetdevEvent)) {
    reg.netdev_chain.0.lock_bh().push(f);
}

fn call_netdevice_notifiers(dev: &Arc<NetDevice>, event: NetdevEvent) {
    let chain = dev.reg.netdev_chain.0.lock_bh().clone();
    for f in chain {
        f(dev, event);
    }
}

/// `register_netdevice`: gives it an index, initialises it, makes it visible, and opens it if its flags say `UP`.
/// `EEXIST` for a name in use, `EINVAL` for one that cannot be one; what `ndo_init` and `ndo_open` answer.
pub fn register_netdevice(net: &Arc<Net>, spec: NetDeviceSpec) -> Result<Arc<NetDevice>> {
    let _inside = net.kernel().enter();
    let open = spec.flags.contains(Iff::UP);
    let name = dev_get_valid_name(net, &spec.name)?;
    let ifindex = net.devs.next_index.fetch_add(1, Relaxed) + 1;
    let dev = NetDevice::new(net, name, ifindex, spec);
    dev.ops.ndo_init(&dev)?;
    if let Err(e) = list_netdevice(net, &dev) {
        dev.ops.ndo_uninit(&dev);
        return Err(e);
    }
    call_netdevice_notifiers(&dev, NetdevEvent::Register);
    if open && let Err(e) = dev_open(&dev) {
        unregister_netdevice(&dev);
        return Err(e);
    }
    Ok(dev)
}

/// The name with `%d` replaced by the first free number.
fn dev_get_valid_name(net: &Net, name: &str) -> Result<String> {
    let ok = |n: &str| {
        !n.is_empty()
            && n.len() < IFNAMSIZ
            && n != "."
            && n != ".."
            && !n.contains(['/', ':', '%'])
            && !n.contains(char::is_whitespace)
    };
    let free = |n: &str| dev_get_by_name(net, n).is_none();
    let Some((front, back)) = name.split_once("%d") else {
        return match name {
            n if !ok(n) => Err(Errno::EINVAL),
            n if !free(n) => Err(Errno::EEXIST),
            n => Ok(n.to_owned()),
        };
    };
    let names = (0..).map(|i: u32| format!("{front}{i}{back}")).take_while(|n| ok(n));
    for n in names {
        if free(&n) {
            return Ok(n);
        }
    }
    Err(Errno::EINVAL)
}

fn list_netdevice(net: &Net, dev: &Arc<NetDevice>) -> Result<()> {
    let _l = net.devs.lock.lock_bh();
    if dev_get_by_name(net, &dev.name).is_some() {
        return Err(Errno::EEXIST);
    }
    let mut list = for_each_netdev(net);
    let at = list.partition_point(|d| d.ifindex < dev.ifindex);
    list.insert(at, dev.clone());
    net.devs.list.assign(Some(Arc::new(list)));
    dev.registered.store(true, Release);
    Ok(())
}

/// `unregister_netdevice`: takes it down, tells everybody, makes it invisible.
pub fn unregister_netdevice(dev: &Arc<NetDevice>) {
    let _inside = dev.reg.kernel.enter();
    if !dev.registered.swap(false, AcqRel) {
        return;
    }
    dev_close(dev);
    if let Some(net) = dev.net() {
        let _l = net.devs.lock.lock_bh();
        let mut list = for_each_netdev(&net);
        list.retain(|d| !Arc::ptr_eq(d, dev));
        net.devs.list.assign(Some(Arc::new(list)));
        net.bump_rt_genid();
    }
    call_netdevice_notifiers(dev, NetdevEvent::Unregister);
    dev.ops.ndo_uninit(dev);
}

/// `dev_open`: `IFF_UP`. What the driver answers; nothing happens to a device that is up.
pub fn dev_open(dev: &Arc<NetDevice>) -> Result<()> {
    let _inside = dev.reg.kernel.enter();
    if !dev.is_registered() {
        return Err(Errno::ENODEV);
    }
    if dev.started.swap(true, AcqRel) {
        return Ok(());
    }
    if let Err(e) = dev.ops.ndo_open(dev) {
        dev.started.store(false, Release);
        return Err(e);
    }
    dev.stopped.store(false, Release);
    dev.flags.fetch_or(Iff::UP.bits(), AcqRel);
    device_changed(dev, NetdevEvent::Up);
    Ok(())
}

/// `dev_close`. Packets that wait for the driver are dropped; when the driver is stopped, nobody is giving it any.
pub fn dev_close(dev: &Arc<NetDevice>) {
    let _inside = dev.reg.kernel.enter();
    if dev.flags.fetch_and(!Iff::UP.bits(), AcqRel) & Iff::UP.bits() == 0 {
        return;
    }
    dev_deactivate(dev);
    dev.ops.ndo_stop(dev);
    dev.started.store(false, Release);
    device_changed(dev, NetdevEvent::Down);
}

/// `dev_deactivate`: empties the queue, and waits for the CPU that is sending from it. The device is no longer up, so
/// nothing is added.
fn dev_deactivate(dev: &NetDevice) {
    let mut spins = 0;
    loop {
        let mut waiting = SkbQueue::default();
        let busy = {
            let mut q = dev.tx.lock_bh();
            q.list.splice_to(&mut waiting);
            q.running
        };
        dev.stats.tx_dropped.fetch_add(waiting.len() as u64, Relaxed);
        if !busy {
            return;
        }
        dev.reg.kernel.arch().cpu_relax(spins);
        spins = spins.saturating_add(1);
    }
}

/// `dev_set_mtu`; `EINVAL` outside 68..=65535 (a device made with a larger MTU: up to that).
pub fn dev_set_mtu(dev: &Arc<NetDevice>, mtu: u32) -> Result<()> {
    let _inside = dev.reg.kernel.enter();
    if mtu < ETH_MIN_MTU || mtu > dev.max_mtu {
        return Err(Errno::EINVAL);
    }
    if dev.mtu.swap(mtu, AcqRel) != mtu {
        device_changed(dev, NetdevEvent::ChangeMtu);
    }
    Ok(())
}

/// `netif_carrier_on`: the link is there.
pub fn netif_carrier_on(dev: &Arc<NetDevice>) {
    if dev.no_carrier.swap(false, AcqRel) && dev.is_registered() {
        device_changed(dev, NetdevEvent::Change);
    }
}

/// `netif_carrier_off`.
pub fn netif_carrier_off(dev: &Arc<NetDevice>) {
    if !dev.no_carrier.swap(true, AcqRel) && dev.is_registered() {
        device_changed(dev, NetdevEvent::Change);
    }
}

fn device_changed(dev: &Arc<NetDevice>, event: NetdevEvent) {
    if let Some(net) = dev.net() {
        net.bump_rt_genid();
    }
    call_netdevice_notifiers(dev, event);
}

/// `dev_get_by_index`.
pub fn dev_get_by_index(net: &Net, ifindex: u32) -> Option<Arc<NetDevice>> {
    let section = rcu_read_lock();
    let list = net.devs.list.dereference(&section)?;
    let at = list.binary_search_by_key(&ifindex, |d| d.ifindex).ok()?;
    list.get(at).cloned()
}

/// `__dev_get_by_name`.
pub fn dev_get_by_name(net: &Net, name: &str) -> Option<Arc<NetDevice>> {
    let section = rcu_read_lock();
    net.devs.list.dereference(&section)?.iter().find(|d| d.name == name).cloned()
}

/// `for_each_netdev`.
pub fn for_each_netdev(net: &Net) -> Vec<Arc<NetDevice>> {
    net.devs.list.get().map(|l| l.to_vec()).unwrap_or_default()
}
