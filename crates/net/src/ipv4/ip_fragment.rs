//! Reassembly of IPv4 packets (RFC 791, 3.2; RFC 815; overlaps: RFC 5722 in spirit).
//!
//! Interface: [`ip_defrag`], [`ip_frag_net_init`], [`ip_frag_mem`].
//! Linux counterpart: `net/ipv4/ip_fragment.c`, `inet_fragment.c`.
//! Locks and context: softirq context; one lock a namespace over all its queues.
//!
//! Payload stays where the driver put it: the whole packet is the first fragment's header and everybody's buffers.

use crate::core::net_namespace::{Net, NetId};
use crate::core::skbuff::{IpSummed, MAX_HEADER, Skb};
use crate::core::snmp::Mib;
use crate::hdr::icmp::{ICMP_EXC_FRAGTIME, ICMP_TIME_EXCEEDED};
use crate::hdr::{IP_DF, IP_MF, IP_OFFSET, IpHdr};
use crate::ipv4::icmp::icmp_send;
use crate::ipv4::ip_output::ip_send_check;
use kernel::{Frag, HZ, PageMut, SpinLock, Timer};
use siphasher::sip::SipHasher13;
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// `IPFRAG_ECN_*`: which code points the fragments of a packet had.
const ECN_NOT_ECT: u8 = 1;
const ECN_CE: u8 = 8;

/// Keys of the tables below, drawn once: what lands where is not for a sender to choose.
struct Keyed([u64; 2]);

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;
    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0[0], self.0[1])
    }
}

/// Which packet a fragment belongs to (RFC 791: source, destination, protocol, identification).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct FragKey {
    saddr: Ipv4Addr,
    daddr: Ipv4Addr,
    id: u16,
    protocol: u8,
}

/// A packet being put together (`struct ipq`).
struct FragQueue {
    /// By offset; they do not overlap.
    pieces: BTreeMap<u32, Box<Skb>>,
    /// Payload bytes there are, and how many there will be.
    meat: u32,
    len: u32,
    last_in: bool,
    /// Sum of `truesize`.
    mem: usize,
    ecn: u8,
    /// Some fragment had DF, and the largest of them (`q->max_df_size`).
    dont_fragment: bool,
    /// The source's fragment count when this queue last got one.
    rid: u32,
    /// Tells this queue from a later one of the same key.
    serial: u64,
    /// Keeps the timeout armed.
    _timer: Timer,
}

/// A source with packets in pieces (`struct inet_peer`, for `ipfrag_max_dist`).
#[derive(Default)]
struct FragPeer {
    queues: usize,
    rid: u32,
}

struct FragTable {
    queues: HashMap<FragKey, FragQueue, Keyed>,
    peers: HashMap<Ipv4Addr, FragPeer, Keyed>,
    mem: usize,
    next_serial: u64,
}

/// A namespace's part (`struct fqdir`).
struct Ipv4Frag(SpinLock<FragTable>);

/// Once a namespace.
pub fn ip_frag_net_init(net: &Arc<Net>) {
    let key = || Keyed([u64::from_ne_bytes(net.kernel().random()), u64::from_ne_bytes(net.kernel().random())]);
    let table =
        FragTable { queues: HashMap::with_hasher(key()), peers: HashMap::with_hasher(key()), mem: 0, next_serial: 0 };
    net.set_generic(NetId::Ipv4Frag, Ipv4Frag(SpinLock::new(table)));
}

/// Memory of all fragments that wait, in bytes (`FRAG: memory` in `/proc/net/sockstat`).
pub fn ip_frag_mem(net: &Net) -> usize {
    net.generic::<Ipv4Frag>(NetId::Ipv4Frag).0.lock_bh().mem
}

/// Why a fragment came to nothing.
enum Refused {
    /// Already here: no harm done.
    Duplicate,
    /// Contradicts another: the whole packet is given up.
    Overlap,
    Malformed,
}

/// `ip_defrag`: takes a fragment, `data` at its IP header; answers the whole packet when it was the last one missing.
pub fn ip_defrag(net: &Arc<Net>, mut skb: Box<Skb>) -> Option<Box<Skb>> {
    kernel::tp!(ip_defrag, skb);
    net.mib.inc(Mib::IpReasmReqds);
    let iph = *IpHdr::read(skb.data())?;
    let key = FragKey { saddr: iph.src(), daddr: iph.dst(), id: iph.id.get(), protocol: iph.protocol };
    skb.orphan();
    let doomed;
    let whole = {
        let mut guard = net.generic::<Ipv4Frag>(NetId::Ipv4Frag).0.lock_bh();
        let table = &mut *guard;
        table.find_or_create(net, key)?;
        doomed = table.drop_if_too_far(net, key).then(|| table.restart(net, key)).flatten();
        match table.queue(key, &iph, skb) {
            Ok(false) => None,
            Ok(true) => table.kill(key),
            Err(why) => {
                table.refuse(net, key, why);
                None
            }
        }
    };
    drop(doomed);
    ip_frag_reasm(net, whole?)
}

impl FragTable {
    /// Makes a queue where there is none (`ip_find`). Nothing more is taken while too much memory waits already.
    fn find_or_create(&mut self, net: &Arc<Net>, key: FragKey) -> Option<()> {
        if self.mem > net.sysctl.ipfrag_high_thresh.get() as usize {
            net.mib.inc(Mib::IpReasmFails);
            return None;
        }
        if self.queues.contains_key(&key) {
            return Some(());
        }
        let peer = self.peers.entry(key.saddr).or_default();
        peer.queues += 1;
        self.next_serial += 1;
        let q = FragQueue::new(net, key, self.next_serial, peer.rid);
        self.queues.insert(key, q);
        Some(())
    }

    /// `ip_frag_too_far`: so many other fragments came from this source since this queue's last one that the identification
    /// has likely come round.
    fn drop_if_too_far(&mut self, net: &Net, key: FragKey) -> bool {
        let max = net.sysctl.ipfrag_max_dist.get() as u32;
        let (Some(q), Some(peer)) = (self.queues.get_mut(&key), self.peers.get_mut(&key.saddr)) else { return false };
        peer.rid = peer.rid.wrapping_add(1);
        let distance = peer.rid.wrapping_sub(q.rid);
        q.rid = peer.rid;
        max != 0 && !q.pieces.is_empty() && distance > max
    }

    /// `ip_frag_reinit`: the queue starts anew; its old content is handed back to be dropped outside the lock.
    fn restart(&mut self, net: &Arc<Net>, key: FragKey) -> Option<FragQueue> {
        net.mib.inc(Mib::IpReasmFails);
        let rid = self.queues.get(&key)?.rid;
        self.next_serial += 1;
        let old = self.queues.insert(key, FragQueue::new(net, key, self.next_serial, rid))?;
        self.mem -= old.mem;
        Some(old)
    }

    /// Takes a queue out.
    fn kill(&mut self, key: FragKey) -> Option<FragQueue> {
        let q = self.queues.remove(&key)?;
        self.mem -= q.mem;
        if let Some(p) = self.peers.get_mut(&key.saddr) {
            p.queues -= 1;
            if p.queues == 0 {
                self.peers.remove(&key.saddr);
            }
        }
        Some(q)
    }

    /// `ip_frag_queue`: `true` when the packet is whole.
    fn queue(&mut self, key: FragKey, iph: &IpHdr, skb: Box<Skb>) -> Result<bool, Refused> {
        let Some(q) = self.queues.get_mut(&key) else { return Err(Refused::Malformed) };
        let before = q.mem;
        let done = q.insert(iph, skb);
        self.mem += q.mem - before;
        done
    }

    fn refuse(&mut self, net: &Net, key: FragKey, why: Refused) {
        match why {
            Refused::Duplicate => {}
            Refused::Overlap => {
                net.mib.inc(Mib::IpExtReasmOverlaps);
                net.mib.inc(Mib::IpReasmFails);
                self.kill(key);
            }
            Refused::Malformed => {
                net.mib.inc(Mib::IpReasmFails);
                self.kill(key);
            }
        }
    }
}

impl FragQueue {
    fn new(net: &Arc<Net>, key: FragKey, serial: u64, rid: u32) -> FragQueue {
        let me = net.weak();
        let timer = net.kernel().timer(move || {
            if let Some(net) = me.upgrade() {
                ip_expire(&net, key, serial);
            }
        });
        timer.mod_timer_in(net.sysctl.ipfrag_time.get() as u64 * HZ);
        FragQueue {
            pieces: BTreeMap::new(),
            meat: 0,
            len: 0,
            last_in: false,
            mem: 0,
            ecn: 0,
            dont_fragment: false,
            rid,
            serial,
            _timer: timer,
        }
    }

    /// Puts a fragment in its place.
    fn insert(&mut self, iph: &IpHdr, mut skb: Box<Skb>) -> Result<bool, Refused> {
        let frag_off = iph.frag_off.get();
        let offset = (frag_off & IP_OFFSET) as u32 * 8;
        let payload = (skb.len().saturating_sub(iph.ihl())) as u32;
        let mut end = offset + payload;
        if frag_off & IP_MF == 0 {
            // The end can be in one place only, and not before what is already here.
            if end < self.len || (self.last_in && end != self.len) {
                return Err(Refused::Malformed);
            }
        } else {
            end -= payload & 7;
            if end > self.len && self.last_in {
                return Err(Refused::Malformed);
            }
        }
        if end <= offset || end + iph.ihl() as u32 > 65535 {
            return Err(Refused::Malformed);
        }
        self.check_overlap(offset, end)?;
        skb.trim(iph.ihl() + (end - offset) as usize);
        self.last_in |= frag_off & IP_MF == 0;
        self.len = self.len.max(end);
        self.meat += end - offset;
        self.mem += skb.truesize as usize;
        self.ecn |= 1 << (iph.tos & 3);
        self.dont_fragment |= frag_off & IP_DF != 0;
        self.pieces.insert(offset, skb);
        Ok(self.last_in && self.meat == self.len && self.pieces.contains_key(&0))
    }

    /// Fragments may repeat, but not overlap.
    fn check_overlap(&self, offset: u32, end: u32) -> Result<(), Refused> {
        let ends_at = |o: u32, s: &Skb| (o, o + (s.len() - s.network_header_len()) as u32);
        let before = self.pieces.range(..=offset).next_back().map(|(&o, s)| ends_at(o, s));
        let after = self.pieces.range(offset..).next().map(|(&o, s)| ends_at(o, s));
        if before.is_some_and(|(o, e)| o <= offset && end <= e) {
            return Err(Refused::Duplicate);
        }
        let overlaps = before.is_some_and(|(_, e)| e > offset) || after.is_some_and(|(o, _)| o < end);
        if overlaps { Err(Refused::Overlap) } else { Ok(()) }
    }
}

/// `ip_expire`: the rest did not come in time (RFC 1122, 3.3.2).
fn ip_expire(net: &Arc<Net>, key: FragKey, serial: u64) {
    let q = {
        let mut table = net.generic::<Ipv4Frag>(NetId::Ipv4Frag).0.lock_bh();
        if table.queues.get(&key).is_none_or(|q| q.serial != serial) {
            return;
        }
        table.kill(key)
    };
    let Some(mut q) = q else { return };
    net.mib.inc(Mib::IpReasmFails);
    net.mib.inc(Mib::IpReasmTimeout);
    if let Some(first) = q.pieces.remove(&0) {
        icmp_send(&first, ICMP_TIME_EXCEEDED, ICMP_EXC_FRAGTIME, 0);
    }
}

/// `ip_frag_reasm`: one packet of all the pieces.
fn ip_frag_reasm(net: &Net, mut q: FragQueue) -> Option<Box<Skb>> {
    let whole = ip_frag_ecn(q.ecn).and_then(|ce| build(&mut q, ce));
    net.mib.inc(if whole.is_some() { Mib::IpReasmOKs } else { Mib::IpReasmFails });
    whole
}

/// What the fragments' ECN fields make of the packet's (RFC 3168, 5.3): whether it is CE; `None` for mixtures that nobody sends.
fn ip_frag_ecn(seen: u8) -> Option<bool> {
    if seen & ECN_NOT_ECT != 0 && seen != ECN_NOT_ECT {
        return None;
    }
    Some(seen & ECN_CE != 0)
}

fn build(q: &mut FragQueue, ce: bool) -> Option<Box<Skb>> {
    let first = q.pieces.get(&0)?;
    let ihl = first.network_header_len();
    let total = ihl + q.len as usize;
    let header = first.data().get(..ihl).filter(|_| total <= 65535)?;
    let mut whole = Skb::from_bytes(MAX_HEADER, header);
    whole.copy_metadata(first);
    let verified = q.pieces.values().all(|s| s.ip_summed == IpSummed::Unnecessary);
    whole.ip_summed = if verified { IpSummed::Unnecessary } else { IpSummed::None };
    whole.reset_mac_header();
    whole.reset_network_header();
    whole.set_transport_header(ihl);
    if let Some(iph) = IpHdr::read_mut(whole.data_mut()) {
        iph.tot_len = (total as u16).into();
        iph.frag_off = if q.dont_fragment { IP_DF } else { 0 }.into();
        if ce {
            iph.tos |= 3;
        }
    }
    ip_send_check(whole.data_mut());
    add_payload(&mut whole, std::mem::take(&mut q.pieces));
    Some(whole)
}

/// Hands the pieces' buffers to the packet. Only where there are more than a packet may have are they copied into one.
fn add_payload(whole: &mut Skb, pieces: BTreeMap<u32, Box<Skb>>) {
    let mut frags: Vec<Frag> = Vec::with_capacity(pieces.len());
    for mut piece in pieces.into_values() {
        let ihl = piece.network_header_len();
        piece.pull_any(ihl);
        frags.extend(piece.into_frags());
    }
    let fits = frags.iter().all(|f| whole.add_frag(f.clone()));
    if fits {
        return;
    }
    whole.take_frags();
    let len = frags.iter().map(|f| f.len()).sum();
    let mut page = PageMut::alloc(len);
    let mut at = 0;
    for f in &frags {
        page.as_mut_slice()[at..at + f.len()].copy_from_slice(f);
        at += f.len();
    }
    whole.add_frag(page.freeze(len));
}
