//! Routes as a user adds and removes them.
//!
//! Interface: [`RouteSpec`], [`ip_route_add`], [`ip_route_replace`], [`ip_route_change`], [`ip_route_del`], [`ip_route_list`].
//! Linux counterpart: `net/ipv4/fib_frontend.c` (`inet_rtm_newroute`), `fib_semantics.c` (`fib_check_nh`, `fib_create_info`).
//! Locks and context: process context.

use crate::core::dev::NetDevice;
use crate::core::dst::RtnType;
use crate::core::dst_metrics::DstMetrics;
use crate::core::net_namespace::Net;
use crate::ipv4::devinet::up_dev_by_index;
use crate::ipv4::fib_trie::{
    FibInfo, FibKey, FibTables, IfThere, RT_SCOPE_HOST, RT_SCOPE_LINK, RT_SCOPE_UNIVERSE, RT_TABLE_LOCAL,
    RT_TABLE_MAIN, RTPROT_BOOT, fib_lookup, inet_make_mask,
};
use crate::ipv4::metrics::ip_fib_metrics_init;
use crate::ipv4::route::inet_addr_type;
use kernel::{Rcu, rcu_read_lock};
use std::net::Ipv4Addr;
use std::sync::Arc;
use uapi::{Errno, Result};

/// A route to be added, or to be found (`struct fib_config`).
#[derive(Clone, Debug)]
pub struct RouteSpec {
    pub dst: Ipv4Addr,
    pub plen: u8,
    pub table: u8,
    pub kind: RtnType,
    pub gateway: Option<Ipv4Addr>,
    /// Device index; 0: where the gateway is.
    pub oif: u32,
    pub prefsrc: Option<Ipv4Addr>,
    pub priority: u32,
    /// `RTPROT_*`.
    pub protocol: u8,
    /// MTU, windows and the like.
    pub metrics: DstMetrics,
    /// Trust that the gateway is on the link, whatever the tables say (`RTNH_F_ONLINK`); needs `oif`.
    pub onlink: bool,
}

impl RouteSpec {
    /// A unicast route of table main; `gateway` or `oif` must be set.
    pub fn new(dst: Ipv4Addr, plen: u8) -> RouteSpec {
        RouteSpec {
            dst,
            plen,
            table: RT_TABLE_MAIN,
            kind: RtnType::Unicast,
            gateway: None,
            oif: 0,
            prefsrc: None,
            priority: 0,
            protocol: RTPROT_BOOT,
            metrics: DstMetrics::default(),
            onlink: false,
        }
    }

    /// `ip route add default via GATEWAY`.
    pub fn default_via(gateway: Ipv4Addr) -> RouteSpec {
        RouteSpec { gateway: Some(gateway), ..RouteSpec::new(Ipv4Addr::UNSPECIFIED, 0) }
    }

    /// `ip route add local DST/PLEN dev OIF table main`: every address of the prefix is this host's ("AnyIP"). In table main
    /// more specific routes still win, so the host can answer from any address to a network that it has.
    pub fn local(dst: Ipv4Addr, plen: u8, oif: u32) -> RouteSpec {
        RouteSpec { kind: RtnType::Local, oif, ..RouteSpec::new(dst, plen) }
    }

    fn scope(&self) -> u8 {
        match self.kind {
            RtnType::Local => RT_SCOPE_HOST,
            RtnType::Broadcast | RtnType::Multicast => RT_SCOPE_LINK,
            RtnType::Unicast if self.gateway.is_none() => RT_SCOPE_LINK,
            _ => RT_SCOPE_UNIVERSE,
        }
    }
}

/// Adds a route (`RTM_NEWROUTE` with `NLM_F_CREATE | NLM_F_EXCL`). `EINVAL` for what makes no sense (a congestion control that there is not),
/// `EEXIST` for a prefix and
/// metric that has one, `ENETUNREACH` for a gateway that is not on a link of ours, `ENODEV`, `ENETDOWN`.
pub fn ip_route_add(net: &Arc<Net>, spec: RouteSpec) -> Result<()> {
    insert(net, spec, IfThere::Refuse)
}

/// Likewise, in place of the route of this prefix and metric if there is one (`NLM_F_REPLACE`).
pub fn ip_route_replace(net: &Arc<Net>, spec: RouteSpec) -> Result<()> {
    insert(net, spec, IfThere::Replace)
}

/// Likewise, but `ENOENT` if there is none (`NLM_F_REPLACE` without `NLM_F_CREATE`).
pub fn ip_route_change(net: &Arc<Net>, spec: RouteSpec) -> Result<()> {
    insert(net, spec, IfThere::Change)
}

fn insert(net: &Arc<Net>, spec: RouteSpec, how: IfThere) -> Result<()> {
    let host_bits = u32::from(spec.dst) & !inet_make_mask(spec.plen.min(32));
    if spec.plen > 32 || host_bits != 0 {
        return Err(Errno::EINVAL);
    }
    ip_fib_metrics_init(net, &spec.metrics)?;
    let dev = fib_check_nh(net, &spec)?;
    fib_check_prefsrc(net, &spec)?;
    let fi = FibInfo {
        dst: spec.dst,
        plen: spec.plen,
        table: spec.table,
        kind: spec.kind,
        scope: spec.scope(),
        protocol: spec.protocol,
        priority: spec.priority,
        prefsrc: spec.prefsrc,
        gateway: spec.gateway,
        dev,
        metrics: spec.metrics.shared(),
        rth: Rcu::default(),
    };
    FibTables::of(net).insert(fi, how)?;
    net.bump_rt_genid();
    Ok(())
}

/// `fib_check_nh`: the device of the next hop, which must be reachable without a further hop.
fn fib_check_nh(net: &Net, spec: &RouteSpec) -> Result<Option<Arc<NetDevice>>> {
    match spec.kind {
        RtnType::Unreachable | RtnType::Blackhole | RtnType::Prohibit => {
            let nowhere = spec.gateway.is_none() && spec.oif == 0;
            return if nowhere { Ok(None) } else { Err(Errno::EINVAL) };
        }
        RtnType::Multicast => return Err(Errno::EINVAL),
        RtnType::Local | RtnType::Broadcast if spec.gateway.is_some() => return Err(Errno::EINVAL),
        _ => {}
    }
    let Some(gw) = spec.gateway else {
        if spec.oif == 0 {
            return Err(Errno::ENODEV);
        }
        return up_dev_by_index(net, spec.oif).map(Some);
    };
    if inet_addr_type(net, gw) != RtnType::Unicast {
        return Err(Errno::EINVAL);
    }
    if spec.onlink {
        return up_dev_by_index(net, spec.oif).map(Some);
    }
    let section = rcu_read_lock();
    let key = FibKey { daddr: gw, oif: spec.oif, scope: RT_SCOPE_LINK };
    let on_link = fib_lookup(net, &key, &section).ok_or(Errno::ENETUNREACH)?;
    if on_link.kind != RtnType::Unicast {
        return Err(Errno::EINVAL);
    }
    let dev = on_link.dev.clone().ok_or(Errno::ENETUNREACH)?;
    if dev.is_up() { Ok(Some(dev)) } else { Err(Errno::ENETDOWN) }
}

/// `fib_valid_prefsrc`: a preferred source is an address of ours.
fn fib_check_prefsrc(net: &Net, spec: &RouteSpec) -> Result<()> {
    match spec.prefsrc {
        Some(s) if spec.kind == RtnType::Local && spec.plen == 32 && s == spec.dst => Ok(()),
        Some(s) if inet_addr_type(net, s) != RtnType::Local => Err(Errno::EINVAL),
        _ => Ok(()),
    }
}

/// Removes the first route of the prefix that is as `spec` says: of the same type, and of the same gateway, device and metric
/// where those are given (`RTM_DELROUTE`). `ESRCH` if there is none.
pub fn ip_route_del(net: &Arc<Net>, spec: &RouteSpec) -> Result<()> {
    let matches = |fi: &FibInfo| {
        fi.kind == spec.kind
            && (spec.gateway.is_none() || fi.gateway == spec.gateway)
            && (spec.oif == 0 || fi.ifindex() == spec.oif)
            && (spec.priority == 0 || fi.priority == spec.priority)
    };
    FibTables::of(net).remove(spec.table, spec.dst, spec.plen, matches)?;
    net.bump_rt_genid();
    Ok(())
}

/// Every route: table local, then main (`ip route show table all`).
pub fn ip_route_list(net: &Net) -> Vec<Arc<FibInfo>> {
    let tables = FibTables::of(net);
    let mut all = tables.list(RT_TABLE_LOCAL);
    all.extend(tables.list(RT_TABLE_MAIN));
    all
}
