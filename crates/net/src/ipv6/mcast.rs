//! Multicast listener discovery: tells routers and switches which groups this host is in.
//!
//! Interface: [`mcast_net_init`]; [`ipv6_mc_up`], [`ipv6_mc_down`] with the device. Joining and leaving is in `addrconf_core`.
//! Linux counterpart: `net/ipv6/mcast.c`.
//! Locks and context: changes of membership in process or softirq context, queries and timers in softirq context; what is
//! still to be sent is under a lock of the device's. RFC 3810; RFC 2710 where a router speaks only that.
//!
//! Sources are not told apart: a group is in mode "exclude nobody" or not listened to.

use super::addrconf_core::{
    ALL_NODES, ALL_ROUTERS, IPV6_MIN_MTU, MLDV2_ROUTERS, McRecord, SCOPE_INTERFACE, addrconf, in6_dev_get,
    ipv6_addr_scope, is_link_local,
};
use super::exthdrs_core::NEXTHDR_HOP;
use super::icmp::{icmpv6_checksum, icmpv6_register};
use super::ip6_output::{IP6SKB_NO_MC_LOOP, Inet6SkbParm, ip6_flow, ip6_local_out};
use super::ndisc::icmp6_dst_alloc;
use crate::core::dev::{Iff, NetDevice};
use crate::core::net_namespace::Net;
use crate::core::skbuff::{MAX_HEADER, Skb};
use crate::core::snmp::Mib;
use crate::hdr::{IPPROTO_ICMPV6, Icmpv6Hdr, Ipv6Hdr};
use kernel::HZ;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use zerocopy::IntoBytes;

const ICMPV6_MGM_QUERY: u8 = 130;
const ICMPV6_MGM_REPORT: u8 = 131;
const ICMPV6_MGM_REDUCTION: u8 = 132;
const ICMPV6_MLD2_REPORT: u8 = 143;

/// Types of a record (RFC 3810, 5.2.12).
const MLD2_MODE_IS_EXCLUDE: u8 = 2;
const MLD2_CHANGE_TO_INCLUDE: u8 = 3;
const MLD2_CHANGE_TO_EXCLUDE: u8 = 4;

/// Bytes of a record without sources, and of hop-by-hop options with a router alert.
const RECORD_LEN: usize = 20;
const ROUTER_ALERT: [u8; 8] = [IPPROTO_ICMPV6, 0, 5, 2, 0, 0, 1, 0];
/// Records of one report: any link carries these.
const RECORDS: usize = (IPV6_MIN_MTU as usize - Ipv6Hdr::LEN - ROUTER_ALERT.len() - Icmpv6Hdr::LEN) / RECORD_LEN;

/// Changes waiting to be told again; one over that is told once.
const MAX_PENDING: usize = 2048;

/// Robustness: how often a change is told (RFC 3810, 9.1), and within which time it is repeated, jiffies (9.11).
const MLD_QRV: u8 = 2;
const UNSOLICITED_INTERVAL: u64 = HZ;
/// How long a router of version 1 is taken to be there, jiffies (RFC 3810, 9.12 with its defaults).
const MLD_V1_ROUTER_PRESENT: u64 = 260 * HZ;

/// A new namespace's part.
pub fn mcast_net_init(net: &Arc<Net>) {
    let _ = addrconf(net).mc_changed.set(mc_changed);
    icmpv6_register(net, ICMPV6_MGM_QUERY, igmp6_event_query);
    // Other hosts' reports are for routers.
    for kind in [ICMPV6_MGM_REPORT, ICMPV6_MGM_REDUCTION, ICMPV6_MLD2_REPORT] {
        icmpv6_register(net, kind, |_, _| {});
    }
}

/// Whether anybody is told that we listen to the group there (RFC 3810, 6).
fn is_reported(dev: &NetDevice, group: &Ipv6Addr) -> bool {
    *group != ALL_NODES && ipv6_addr_scope(group) > SCOPE_INTERFACE && dev.flags().contains(Iff::UP | Iff::MULTICAST)
}

fn mc_changed(net: &Arc<Net>, dev: &Arc<NetDevice>, group: Ipv6Addr, joined: bool) {
    if !is_reported(dev, &group) || !in6_dev_get(dev).ready.load(Relaxed) {
        return;
    }
    let kind = if joined { MLD2_CHANGE_TO_EXCLUDE } else { MLD2_CHANGE_TO_INCLUDE };
    {
        let mut list = in6_dev_get(dev).mc_pending.lock_bh();
        list.retain(|r| r.group != group);
        let left = if list.len() < MAX_PENDING { MLD_QRV } else { 1 };
        list.push(McRecord { group, kind, left });
    }
    mld_send_pending(net, dev);
}

/// `ipv6_mc_up`: the device is ready; groups joined before are told now.
pub fn ipv6_mc_up(net: &Arc<Net>, dev: &Arc<NetDevice>) {
    for group in in6_dev_get(dev).groups() {
        mc_changed(net, dev, group, true);
    }
}

/// `ipv6_mc_down`: nothing more is told.
pub fn ipv6_mc_down(dev: &NetDevice) {
    let idev = in6_dev_get(dev);
    idev.mc_pending.lock_bh().clear();
    idev.mc_v1_until.store(0, Relaxed);
    if let Some(t) = idev.mc_timer.get() {
        t.del_timer();
    }
}

/// `mld_send_report` in `delay` jiffies, or sooner if it is to be sooner already.
fn mld_start_timer(net: &Arc<Net>, dev: &Arc<NetDevice>, delay: u64) {
    let timer = in6_dev_get(dev).mc_timer.get_or_init(|| {
        let (net_weak, dev) = (net.weak(), dev.weak());
        net.kernel().timer(move || {
            if let (Some(net), Some(dev)) = (net_weak.upgrade(), dev.upgrade()) {
                mld_send_pending(&net, &dev);
            }
        })
    });
    let at = net.kernel().jiffies() + 1 + net.kernel().random_u32() as u64 % delay.max(1);
    if timer.expires().is_none_or(|t| t > at) {
        timer.mod_timer(at);
    }
}

/// Sends what is to be told, and comes back for what is to be told again.
fn mld_send_pending(net: &Arc<Net>, dev: &Arc<NetDevice>) {
    let idev = in6_dev_get(dev);
    let (now, again) = {
        let mut list = idev.mc_pending.lock_bh();
        let now = list.clone();
        list.iter_mut().for_each(|r| r.left -= 1);
        list.retain(|r| r.left > 0);
        (now, !list.is_empty())
    };
    if net.kernel().jiffies() < idev.mc_v1_until.load(Relaxed) {
        now.iter().for_each(|r| igmp6_send(net, dev, r));
    } else {
        now.chunks(RECORDS).for_each(|c| mld_sendpack(net, dev, c));
    }
    if again {
        mld_start_timer(net, dev, UNSOLICITED_INTERVAL);
    }
}

/// A report of version 2.
fn mld_sendpack(net: &Arc<Net>, dev: &Arc<NetDevice>, records: &[McRecord]) {
    let n = (records.len() as u16).to_be_bytes();
    let head = Icmpv6Hdr { kind: ICMPV6_MLD2_REPORT, code: 0, check: [0; 2], rest: [0, 0, n[0], n[1]] };
    let body =
        records.iter().flat_map(|r| [&[r.kind, 0, 0, 0][..], &r.group.octets()[..]].concat()).collect::<Vec<_>>();
    mld_send(net, dev, head, &body, MLDV2_ROUTERS);
}

/// A report of version 1, or that nobody listens any more.
fn igmp6_send(net: &Arc<Net>, dev: &Arc<NetDevice>, r: &McRecord) {
    let (kind, to) = match r.kind {
        MLD2_CHANGE_TO_INCLUDE => (ICMPV6_MGM_REDUCTION, ALL_ROUTERS),
        _ => (ICMPV6_MGM_REPORT, r.group),
    };
    mld_send(net, dev, Icmpv6Hdr { kind, code: 0, check: [0; 2], rest: [0; 4] }, &r.group.octets(), to);
}

fn mld_send(net: &Arc<Net>, dev: &Arc<NetDevice>, head: Icmpv6Hdr, body: &[u8], daddr: Ipv6Addr) {
    // From the unspecified address until there is one of the link (RFC 3590).
    let addrs = addrconf(net).addrs();
    let own = addrs.iter().find(|a| a.dev.ifindex == dev.ifindex && is_link_local(&a.addr) && !a.is_tentative());
    let saddr = own.map_or(Ipv6Addr::UNSPECIFIED, |a| a.addr);
    let mut skb = Skb::alloc(MAX_HEADER + Ipv6Hdr::LEN + ROUTER_ALERT.len() + Icmpv6Hdr::LEN + body.len());
    skb.reserve(MAX_HEADER + Ipv6Hdr::LEN + ROUTER_ALERT.len());
    skb.put(Icmpv6Hdr::LEN).copy_from_slice(head.as_bytes());
    skb.put(body.len()).copy_from_slice(body);
    let check = icmpv6_checksum(&skb, saddr, daddr);
    if let Some(h) = Icmpv6Hdr::read_mut(skb.data_mut()) {
        h.check = check;
    }
    skb.reset_transport_header();
    skb.push(ROUTER_ALERT.len()).copy_from_slice(&ROUTER_ALERT);
    let header = Ipv6Hdr {
        flow: ip6_flow(0, 0).into(),
        payload_len: (skb.len() as u16).into(),
        nexthdr: NEXTHDR_HOP,
        hop_limit: 1,
        saddr: saddr.octets(),
        daddr: daddr.octets(),
    };
    skb.push(Ipv6Hdr::LEN).copy_from_slice(header.as_bytes());
    skb.reset_network_header();
    skb.cb.get_mut::<Inet6SkbParm>().flags = IP6SKB_NO_MC_LOOP;
    skb.dev = Some(dev.clone());
    skb.dst = Some(icmp6_dst_alloc(net, dev, daddr));
    net.mib.inc(Mib::Ip6OutRequests);
    net.mib.inc(Mib::Icmp6OutMsgs);
    net.mib.inc(Mib::Icmp6OutMLDv2Reports);
    // A report that was lost is repeated, or asked for.
    let _ = ip6_local_out(net, skb);
}

/// `igmp6_event_query`: a router asks (RFC 3810, 5.1, 6.2). `data` is at the ICMPv6 header, whose checksum was right.
fn igmp6_event_query(net: &Arc<Net>, mut skb: Box<Skb>) {
    let Some((saddr, hops)) = Ipv6Hdr::read(skb.network_header()).map(|h| (h.src(), h.hop_limit)) else { return };
    let Some(dev) = skb.dev.clone() else { return };
    if !is_link_local(&saddr) || hops != 1 || !skb.may_pull(Icmpv6Hdr::LEN + 16) {
        return net.mib.inc(Mib::Icmp6InErrors);
    }
    let version1 = skb.len() == Icmpv6Hdr::LEN + 16;
    let [_, _, _, _, c0, c1, _, _, group @ ..] = skb.data() else { return };
    let Some(group) = group.first_chunk::<16>().map(|g| Ipv6Addr::from(*g)) else { return };
    let code = u16::from_be_bytes([*c0, *c1]);
    let idev = in6_dev_get(&dev);
    let mut delay = code as u64 * HZ / 1000;
    if version1 {
        idev.mc_v1_until.store(net.kernel().jiffies() + MLD_V1_ROUTER_PRESENT, Relaxed);
    } else {
        delay = mldv2_mrc(code) * HZ / 1000;
    }
    let asked: Vec<_> = match group.is_unspecified() {
        true => idev.groups(),
        false => idev.groups().into_iter().filter(|g| *g == group).collect(),
    };
    let mut list = idev.mc_pending.lock_bh();
    for group in asked.into_iter().filter(|g| is_reported(&dev, g)) {
        if !list.iter().any(|r| r.group == group) {
            list.push(McRecord { group, kind: MLD2_MODE_IS_EXCLUDE, left: 1 });
        }
    }
    let any = !list.is_empty();
    drop(list);
    if any {
        mld_start_timer(net, &dev, delay);
    }
}

/// The time that a maximum response code stands for, milliseconds (RFC 3810, 5.1.3).
fn mldv2_mrc(code: u16) -> u64 {
    match code {
        0..0x8000 => code as u64,
        _ => (code as u64 & 0xfff | 0x1000) << ((code >> 12 & 7) + 3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_long_response_times() {
        assert_eq!(mldv2_mrc(10_000), 10_000);
        assert_eq!(mldv2_mrc(0x8000), 0x8000);
        assert_eq!(mldv2_mrc(0xffff), 0x1fff << 10);
    }
}
