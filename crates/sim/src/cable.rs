//! Packets on a wire: from a card or a switch to what is plugged in at the other end.
//!
//! Interface: [`Lane`] (one direction: `send`, `next`, `take`), [`Plug`] (whoever is at its end), [`Frame`].
//! Linux counterpart: the medium; `drivers/net/veth.c` in what a packet loses on its way.
//! Locks and context: a lane's lock is taken by its sender and its receiver, which run one after the other, and nothing of
//! a kernel is called with it: it is never contended.
//!
//! Packets wait in the lane in the order of their arrival until the receiver takes them. Only when another one becomes the
//! first is the receiver told, so a card that polls is not disturbed by every packet.

use crate::link::{Fate, LinkParams, Wire, WireStats};
use net::core::checksum::skb_checksum_help;
use net::core::dev::ETH_P_ARP;
use net::core::skbuff::{IpSummed, Skb};
use net::hdr::EthHdr;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// What is plugged in at the end of a lane.
pub trait Plug: Send + Sync {
    /// What arrives first will be there at `at` nanoseconds; it was another, or nothing, before.
    fn announce(&self, at: u64);
}

/// A packet on its way: the whole frame, `data` at the link-layer header.
pub struct Frame {
    /// When it is there, in nanoseconds.
    pub at: u64,
    pub skb: Box<Skb>,
    /// Its frame check sequence is wrong: a bit was turned under way.
    pub damaged: bool,
}

/// One direction of a cable.
pub struct Lane {
    state: Mutex<State>,
    to: OnceLock<Weak<dyn Plug>>,
}

struct State {
    wire: Wire,
    draw: Box<dyn FnMut() -> u64 + Send>,
    /// Sorted by arrival; equals in the order in which they were sent.
    flying: VecDeque<Frame>,
}

impl Lane {
    /// `draw` is where its chances come from.
    pub fn new(params: LinkParams, draw: impl FnMut() -> u64 + Send + 'static) -> Arc<Lane> {
        let state = State { wire: Wire::new(params), draw: Box::new(draw), flying: VecDeque::new() };
        Arc::new(Lane { state: Mutex::new(state), to: OnceLock::new() })
    }

    /// Plugs the far end in, once.
    pub fn plug_into(&self, to: Weak<dyn Plug>) {
        let first = self.to.set(to).is_ok();
        debug_assert!(first, "a lane has one end");
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The wire, to look at or to change. Not to be kept.
    pub fn wire<R>(&self, f: impl FnOnce(&mut Wire) -> R) -> R {
        f(&mut self.lock().wire)
    }

    pub fn stats(&self) -> WireStats {
        self.lock().wire.stats
    }

    /// Packets under way.
    pub fn in_flight(&self) -> usize {
        self.lock().flying.len()
    }

    /// Sends a frame of the sender's at `now`; when the sender is rid of it. It must belong to no socket any more.
    pub fn send(&self, now: u64, skb: Box<Skb>) -> u64 {
        self.send_all(now, std::iter::once(skb))
    }

    /// The same with several, one behind the other; when the sender is rid of the last.
    pub fn send_all(&self, now: u64, packets: impl Iterator<Item = Box<Skb>>) -> u64 {
        // What is lost is dropped without the lock.
        let mut lost: SmallVec<[Box<Skb>; 4]> = SmallVec::new();
        let mut done = now;
        let announce = {
            let s = &mut *self.lock();
            let first = s.flying.front().map(|f| f.at);
            for skb in packets {
                debug_assert!(skb.destructor.is_none() && skb.sk.is_none());
                let fate = s.wire.send(now, skb.len(), &mut s.draw);
                done = fate.done;
                s.launch(&fate, skb, &mut lost);
            }
            let at = s.flying.front().map(|f| f.at);
            at.filter(|_| at != first)
        };
        drop(lost);
        if let Some(at) = announce {
            self.announce(at);
        }
        done
    }

    fn announce(&self, at: u64) {
        if let Some(to) = self.to.get().and_then(Weak::upgrade) {
            to.announce(at);
        }
    }

    /// When the next packet arrives.
    pub fn next(&self) -> Option<u64> {
        self.lock().flying.front().map(|f| f.at)
    }

    /// The next packet, if it is there by `now`.
    pub fn take(&self, now: u64) -> Option<Frame> {
        let s = &mut *self.lock();
        if s.flying.front()?.at <= now { s.flying.pop_front() } else { None }
    }

    /// Everything that is there by `now`, in order.
    pub fn take_all(&self, now: u64, mut f: impl FnMut(Box<Skb>)) {
        let s = &mut *self.lock();
        while s.flying.front().is_some_and(|p| p.at <= now) {
            s.flying.pop_front().into_iter().for_each(|p| f(p.skb));
        }
    }
}

impl State {
    fn launch(&mut self, fate: &Fate, skb: Box<Skb>, lost: &mut SmallVec<[Box<Skb>; 4]>) {
        let Some((last, others)) = fate.arrivals.split_last() else { return lost.push(skb) };
        for a in others {
            self.insert(a.at, damaged(skb.clone_skb(), a.flipped), a.flipped.is_some());
        }
        self.insert(last.at, damaged(skb, last.flipped), last.flipped.is_some());
    }

    fn insert(&mut self, at: u64, skb: Box<Skb>, damaged: bool) {
        // Nearly always the last place.
        let mut place = self.flying.len();
        while place > 0 && self.flying[place - 1].at > at {
            place -= 1;
        }
        self.flying.insert(place, Frame { at, skb, damaged });
    }
}

/// Turns one bit. The payload is shared, so the packet gets a copy of its own first. ARP is spared: it has no checksum of its
/// own, and a station that takes a wrong address out of it is deaf for a minute, which no real wire does to anybody.
fn damaged(mut skb: Box<Skb>, bit: Option<usize>) -> Box<Skb> {
    let Some(bit) = bit else { return skb };
    if EthHdr::read(skb.data()).is_some_and(|h| h.proto.get() == ETH_P_ARP) {
        return skb;
    }
    // What was left to the receiver's card would be right again after the damage, or never looked at.
    let _ = skb_checksum_help(&mut skb);
    skb.ip_summed = IpSummed::None;
    let len = skb.len();
    if skb.may_pull(len)
        && let Some(b) = skb.data_mut().get_mut(bit / 8)
    {
        *b ^= 1 << (bit % 8);
    }
    skb
}

/// `skb_scrub_packet`: what one machine knew of a packet is none of another's business. Its identity for tracing stays.
pub(crate) fn scrub(skb: &mut Skb) {
    debug_assert!(skb.destructor.is_none() && skb.sk.is_none());
    skb.dev = None;
    skb.dst = None;
    (skb.mark, skb.priority, skb.skb_iif, skb.hash, skb.tstamp) = (0, 0, 0, 0, 0);
    skb.encapsulation = false;
    skb.cb.clear();
}
