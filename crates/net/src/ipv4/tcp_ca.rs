//! Which congestion control algorithms there are, and which one a socket has.
//!
//! Interface: [`tcp_register_congestion_control`], [`tcp_unregister_congestion_control`], [`tcp_set_congestion_control`],
//! [`tcp_assign_congestion_control`], [`tcp_ca_known`], the tunables `net.ipv4.tcp_{,available_,allowed_}congestion_control`.
//! Linux counterpart: `tcp_register_congestion_control` and around it in `net/ipv4/tcp_cong.c`.
//! Locks and context: registering in process context, unregistering sleeps; choosing under the socket lock, in any context.
//!
//! The registry is the kernel's, the default a namespace's. The user of a stack is its owner, so its programs may choose
//! what is not allowed to everybody (they have `CAP_NET_ADMIN`).

use super::tcp_bbr::BBR;
use super::tcp_cong::{RENO, tcp_cleanup_congestion_control, tcp_init_congestion_control};
use super::tcp_cubic::CUBIC;
use super::tcp_dctcp::DCTCP;
use super::tcp_sock::{CaFlags, TcpCongestionOps, TcpSock};
use crate::core::dst_metrics::Rtax;
use crate::core::net_namespace::{Net, NetId, Registries, StringSysctl};
use crate::core::sock::Sock;
use kernel::module::{InUse, Registered};
use kernel::rcu::rcu_barrier;
use kernel::{Rcu, rcu_read_lock};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use uapi::{Errno, Result};

/// `TCP_CA_NAME_MAX`, the final zero included.
pub const TCP_CA_NAME_MAX: usize = 16;

/// `CONFIG_DEFAULT_TCP_CONG`.
pub static DEFAULT_CA: &TcpCongestionOps = &CUBIC;

/// The stack's own, in the order in which Linux lists them. They stay.
static BUILT_IN: [&TcpCongestionOps; 4] = [&RENO, &CUBIC, &BBR, &DCTCP];

struct Entry {
    ops: &'static TcpCongestionOps,
    /// Everybody may choose it (`TCP_CONG_NON_RESTRICTED`, which a tunable changes).
    allowed: AtomicBool,
    /// Held by the namespaces whose default it is.
    token: Arc<()>,
}

type CaRef = InUse<Entry>;

/// A namespace's default (`net->ipv4.tcp_congestion_control`).
#[derive(Default)]
struct DefaultCa(Rcu<(&'static TcpCongestionOps, Arc<()>)>);

fn entries(reg: &Registries) -> Vec<Arc<Registered<Entry>>> {
    let list = reg.tcp_cong.lock_bh();
    list.iter().filter_map(|e| e.clone().downcast().ok()).collect()
}

/// The registered algorithm of that name; it stays registered while it is held.
fn tcp_ca_find(reg: &Registries, name: &str) -> Option<CaRef> {
    entries(reg).into_iter().find(|e| e.value().ops.name == name)?.try_module_get()
}

/// Whether a route may name it (`tcp_ca_get_key_by_name`).
pub fn tcp_ca_known(reg: &Registries, name: &str) -> bool {
    tcp_ca_find(reg, name).is_some()
}

/// Adds an algorithm to the kernel: sockets of all its namespaces can choose it from now on. `EINVAL` without a name or with
/// one of 16 bytes or more, `EEXIST` if the name is taken.
pub fn tcp_register_congestion_control(reg: &Registries, ops: &'static TcpCongestionOps) -> Result<()> {
    if ops.name.is_empty() || ops.name.len() >= TCP_CA_NAME_MAX || ops.name.contains([' ', '\0']) {
        return Err(Errno::EINVAL);
    }
    let allowed = AtomicBool::new(ops.flags.contains(CaFlags::NON_RESTRICTED));
    let entry = Entry { ops, allowed, token: Arc::default() };
    let mut list = reg.tcp_cong.lock_bh();
    let taken =
        list.iter().filter_map(|e| e.downcast_ref::<Registered<Entry>>()).any(|e| e.value().ops.name == ops.name);
    if taken {
        return Err(Errno::EEXIST);
    }
    list.push(Registered::new(entry));
    Ok(())
}

/// Takes it out again. When this returns, nobody is choosing it any more: it sleeps until then. Connections that have it keep
/// it, but a listener's new ones get the default instead. `EPERM` for one of the stack's own, `ENOENT` for what is not
/// registered, `EBUSY` while it is a namespace's default.
pub fn tcp_unregister_congestion_control(reg: &Registries, ops: &'static TcpCongestionOps) -> Result<()> {
    if BUILT_IN.iter().any(|b| ptr::eq(*b, ops)) {
        return Err(Errno::EPERM);
    }
    let _cpu = reg.kernel.enter();
    // Defaults that were replaced are let go of.
    rcu_barrier();
    let gone = {
        let mut list = reg.tcp_cong.lock_bh();
        let same = |e: &Registered<Entry>| ptr::eq(e.value().ops, ops);
        let at = list.iter().position(|e| e.downcast_ref::<Registered<Entry>>().is_some_and(same));
        let at = at.ok_or(Errno::ENOENT)?;
        let busy = |e: &Registered<Entry>| Arc::strong_count(&e.value().token) > 1;
        if list[at].downcast_ref::<Registered<Entry>>().is_some_and(busy) {
            return Err(Errno::EBUSY);
        }
        list.remove(at)
    };
    if let Some(e) = gone.downcast_ref::<Registered<Entry>>() {
        e.wait_until_unused();
    }
    Ok(())
}

/// The stack's own, and the tunables. Once a kernel.
pub fn tcp_cong_init(reg: &Registries) -> Result<()> {
    for ops in BUILT_IN {
        tcp_register_congestion_control(reg, ops)?;
    }
    reg.string_sysctls.lock_bh().extend([
        StringSysctl { name: "net.ipv4.tcp_congestion_control", get: proc_default_get, set: proc_default_set },
        StringSysctl { name: "net.ipv4.tcp_available_congestion_control", get: proc_available_get, set: read_only },
        StringSysctl { name: "net.ipv4.tcp_allowed_congestion_control", get: proc_allowed_get, set: proc_allowed_set },
    ]);
    Ok(())
}

/// A new namespace's default.
pub fn tcp_cong_net_init(net: &Net) {
    net.set_generic(NetId::TcpCong, DefaultCa::default());
}

/// What a new socket has (`tcp_assign_congestion_control`).
pub fn tcp_assign_congestion_control(net: &Net) -> &'static TcpCongestionOps {
    let section = rcu_read_lock();
    let set = net.try_generic::<DefaultCa>(NetId::TcpCong).and_then(|d| d.0.dereference(&section));
    set.map_or(DEFAULT_CA, |d| d.0)
}

/// What a connection that a listener makes has: the listener's, if the process chose it there and it is still to be had
/// (`tcp_ca_openreq_child`).
pub fn tcp_ca_openreq_child(net: &Net, listener: &TcpSock) -> &'static TcpCongestionOps {
    let ops = listener.ca_ops;
    let there = || BUILT_IN.iter().any(|b| ptr::eq(*b, ops)) || is_registered(&net.reg, ops);
    if listener.ca_setsockopt && there() { ops } else { tcp_assign_congestion_control(net) }
}

fn is_registered(reg: &Registries, ops: &TcpCongestionOps) -> bool {
    let list = reg.tcp_cong.lock_bh();
    list.iter().filter_map(|e| e.downcast_ref::<Registered<Entry>>()).any(|e| ptr::eq(e.value().ops, ops))
}

/// `TCP_CONGESTION`: `ENOENT` for one there is not, `EPERM` if the route has chosen for good (`tcp_set_congestion_control`, `tcp_reinit_congestion_control`).
pub fn tcp_set_congestion_control(sk: &Sock, tp: &mut TcpSock, name: &str) -> Result<()> {
    if tp.rare.route.as_ref().is_some_and(|r| r.is_locked(Rtax::CcAlgo)) {
        return Err(Errno::EPERM);
    }
    let found = tcp_ca_find(&sk.net.reg, name).ok_or(Errno::ENOENT)?;
    tp.ca_setsockopt = true;
    if ptr::eq(found.ops, tp.ca_ops) {
        return Ok(());
    }
    let running = tp.ca_initialized;
    tcp_cleanup_congestion_control(sk, tp);
    tp.ca_ops = found.ops;
    if running {
        tcp_init_congestion_control(sk, tp);
    }
    Ok(())
}

/// The route may choose, before the connection begins (`RTAX_CC_ALGO`; `tcp_ca_dst_init`). An algorithm that is gone is nobody's.
pub fn tcp_ca_dst_init(sk: &Sock, tp: &mut TcpSock) {
    let Some(found) = tp.rare.route.as_ref().and_then(|r| tcp_ca_find(&sk.net.reg, r.cc_algo()?)) else { return };
    tcp_cleanup_congestion_control(sk, tp);
    tp.ca_ops = found.ops;
}

// --- Tunables ---

fn read_only(_net: &Net, _value: &str) -> Result<()> {
    Err(Errno::EACCES)
}

fn proc_default_get(net: &Net) -> String {
    tcp_assign_congestion_control(net).name.to_owned()
}

/// `tcp_set_default_congestion_control`.
fn proc_default_set(net: &Net, name: &str) -> Result<()> {
    let found = tcp_ca_find(&net.reg, name.trim()).ok_or(Errno::ENOENT)?;
    found.allowed.store(true, Relaxed);
    let slot = net.try_generic::<DefaultCa>(NetId::TcpCong).ok_or(Errno::ENOENT)?;
    slot.0.assign(Some(Arc::new((found.ops, found.token.clone()))));
    Ok(())
}

fn names(net: &Net, which: impl Fn(&Entry) -> bool) -> String {
    let list = entries(&net.reg);
    list.iter().map(|e| e.value()).filter(|e| which(e)).map(|e| e.ops.name).collect::<Vec<_>>().join(" ")
}

fn proc_available_get(net: &Net) -> String {
    names(net, |_| true)
}

fn proc_allowed_get(net: &Net) -> String {
    names(net, |e| e.allowed.load(Relaxed))
}

/// `tcp_set_allowed_congestion_control`: all of them, or `ENOENT` and none.
fn proc_allowed_set(net: &Net, value: &str) -> Result<()> {
    let list = entries(&net.reg);
    let wanted: Vec<&str> = value.split_whitespace().collect();
    if wanted.iter().any(|w| list.iter().all(|e| e.value().ops.name != *w)) {
        return Err(Errno::ENOENT);
    }
    for e in &list {
        e.value().allowed.store(wanted.contains(&e.value().ops.name), Relaxed);
    }
    Ok(())
}
