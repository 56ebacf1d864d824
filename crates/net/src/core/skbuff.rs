//! The socket buffer: one packet on its way through the stack.
//!
//! Interface: [`Skb`] (`reserve`, `put`, `push`, `pull`, `trim`, header marks, fragments, `clone_skb`), [`Cb`].
//! Linux counterpart: `include/linux/skbuff.h`, `net/core/skbuff.c`.
//! Locks and context: owned by whoever handles the packet; no locks, any context.
//!
//! ```text
//!   head        data            tail         end
//!    | headroom | linear part    | tailroom   |   + frags: shared payload ranges, in order
//! ```
//! The linear part is this packet's alone and holds the headers (and the payload of packets too small to bother). Payload
//! sits in [`Frag`]s that are shared by reference count: clones, segments, fragments and retransmissions copy none of it.

use crate::core::dev::NetDevice;
use crate::core::dst::Dst;
use crate::core::sock::Sock;
use kernel::trace::{Subject, Traceable};
use kernel::{Fault, Frag, Kernel, PageMut, should_fail};
use smallvec::SmallVec;
use std::sync::Arc;
use uapi::{Errno, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `MAX_SKB_FRAGS`: as a kernel built for large GRO packets has it.
pub const MAX_SKB_FRAGS: usize = 45;
/// Room kept in front for every header below the transport (`LL_MAX_HEADER` and more).
pub const MAX_HEADER: usize = 128;
/// Largest IP packet that GSO and GRO build (`GSO_LEGACY_MAX_SIZE`).
pub const GSO_MAX_SIZE: usize = 65536;

/// Who a frame was for, as the Ethernet layer saw it (`PACKET_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PktType {
    #[default]
    Host,
    Broadcast,
    Multicast,
    OtherHost,
    Outgoing,
    Loopback,
}

/// What is known about the transport checksum (`CHECKSUM_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IpSummed {
    /// Not verified (receive); already in the packet, or none wanted (transmit).
    #[default]
    None,
    /// Verified: nothing more to do.
    Unnecessary,
    /// [`Skb::csum`] is the sum over the packet from the transport header on.
    Complete,
    /// The pseudo-header's sum is in place; the device sums from `csum_start` to the end and stores at `csum_offset`.
    /// On receive: from a sender on this machine, so good as it is.
    Partial,
}

bitflags::bitflags! {
    /// How a packet larger than the MTU is to be cut (`SKB_GSO_*`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct GsoType: u32 {
        const TCPV4 = 1 << 0;
        const TCP_ECN = 1 << 2;
        const TCPV6 = 1 << 4;
        const TCP_ACCECN = 1 << 19;
        const UDP_L4 = 1 << 17;
    }
}

/// The control block: 48 bytes for the layer that has the packet now. Each layer lays its own type over it.
#[derive(Clone, Copy, Default)]
pub struct Cb([u64; 6]);

impl Cb {
    /// The block as `T`, which must fit into 48 bytes aligned to 8.
    #[inline]
    pub fn get<T: FromBytes + KnownLayout + Immutable>(&self) -> &T {
        T::ref_from_prefix(self.0.as_bytes()).map(|(t, _)| t).unwrap_or_else(|_| unreachable!("cb type too large"))
    }

    #[inline]
    pub fn get_mut<T: FromBytes + IntoBytes + KnownLayout>(&mut self) -> &mut T {
        T::mut_from_prefix(self.0.as_mut_bytes()).map(|(t, _)| t).unwrap_or_else(|_| unreachable!("cb type too large"))
    }

    /// Zeroes it: another layer takes over.
    pub fn clear(&mut self) {
        self.0 = [0; 6];
    }
}

/// One packet (`struct sk_buff`).
pub struct Skb {
    head: PageMut,
    data: u32,
    tail: u32,
    data_len: u32,
    frags: SmallVec<[Frag; 4]>,

    // Header marks: offsets from the start of the buffer.
    mac_header: u16,
    network_header: u16,
    transport_header: u16,
    pub mac_len: u16,

    /// EtherType, host order.
    pub protocol: u16,
    pub pkt_type: PktType,
    pub ip_summed: IpSummed,
    /// Offset from the start of the buffer where summing starts, and from there to where the sum goes.
    pub csum_start: u16,
    pub csum_offset: u16,
    pub csum: u32,

    /// Payload bytes of each segment; 0: not a GSO packet.
    pub gso_size: u16,
    pub gso_segs: u16,
    pub gso_type: GsoType,

    /// Flow hash, 0 when not computed.
    pub hash: u32,
    pub mark: u32,
    pub priority: u32,
    /// Receive or departure time, nanoseconds of the monotonic clock; 0: none.
    pub tstamp: u64,
    /// Index of the device it came in by.
    pub skb_iif: u32,
    /// Came through loopback or from this kernel: not to be trusted less.
    pub encapsulation: bool,
    /// May be as large as its device takes, whatever is known of the path.
    pub ignore_pmtu: bool,
    /// Device it arrived on or leaves by.
    pub dev: Option<Arc<NetDevice>>,
    /// The socket it belongs to, with what to tell it when the packet is gone.
    pub sk: Option<Arc<Sock>>,
    pub destructor: Option<fn(&mut Skb)>,
    pub dst: Option<Arc<Dst>>,
    pub cb: Cb,
    /// The memory charged for it.
    pub truesize: u32,
    /// Identity for tracing, shared by clones and segments; 0 until somebody asks for it.
    pub trace_id: u64,
    /// Tracepoints in marked mode record it.
    pub traced: bool,
    /// How often the payload has been copied since it was the sender's.
    pub copies: u8,
    /// In an [`SkbChain`]: the one behind.
    pub(super) next: Option<Box<Skb>>,
}

/// Accounting overhead of one packet (`SKB_TRUESIZE(0)` in spirit): structure and bookkeeping.
pub const SKB_OVERHEAD: u32 = 512;

#[cfg(debug_assertions)]
thread_local! {
    static ALIVE: std::cell::Cell<isize> = const { std::cell::Cell::new(0) };
}

#[inline]
fn count_alive(_by: isize) {
    #[cfg(debug_assertions)]
    let _ = ALIVE.try_with(|n| n.set(n.get() + _by));
}

/// Packets that this thread has made more than it has dropped, in debug builds: a simulation, which has its thread to itself,
/// has none left at its end. Always 0 in release builds.
pub fn skbs_alive() -> isize {
    #[cfg(debug_assertions)]
    return ALIVE.try_with(std::cell::Cell::get).unwrap_or(0);
    #[cfg(not(debug_assertions))]
    0
}

impl Skb {
    /// A packet with a linear buffer of at least `size` bytes, all of it tailroom (`alloc_skb`).
    pub fn alloc(size: usize) -> Box<Skb> {
        count_alive(1);
        let head = PageMut::alloc(size);
        let truesize = SKB_OVERHEAD + head.len() as u32;
        Box::new(Skb {
            head,
            data: 0,
            tail: 0,
            data_len: 0,
            frags: SmallVec::new(),
            mac_header: 0,
            network_header: 0,
            transport_header: 0,
            mac_len: 0,
            protocol: 0,
            pkt_type: PktType::Host,
            ip_summed: IpSummed::None,
            csum_start: 0,
            csum_offset: 0,
            csum: 0,
            gso_size: 0,
            gso_segs: 0,
            gso_type: GsoType::empty(),
            hash: 0,
            mark: 0,
            priority: 0,
            tstamp: 0,
            skb_iif: 0,
            encapsulation: false,
            ignore_pmtu: false,
            dev: None,
            sk: None,
            destructor: None,
            dst: None,
            cb: Cb::default(),
            truesize,
            trace_id: 0,
            traced: false,
            copies: 0,
            next: None,
        })
    }

    /// The same for callers that know what to do without one: `ENOBUFS`. The allocator itself does not fail; faults are
    /// [injected](kernel::fault).
    #[inline]
    pub fn try_alloc(size: usize) -> Result<Box<Skb>> {
        if should_fail(Fault::Skb) { Err(Errno::ENOBUFS) } else { Ok(Skb::alloc(size)) }
    }

    /// A packet with `headroom` reserved and a copy of `bytes` as its linear part.
    pub fn from_bytes(headroom: usize, bytes: &[u8]) -> Box<Skb> {
        let mut skb = Skb::alloc(headroom + bytes.len());
        skb.reserve(headroom);
        skb.put(bytes.len()).copy_from_slice(bytes);
        skb
    }

    /// All bytes: linear and fragments.
    #[inline]
    pub fn len(&self) -> usize {
        (self.tail - self.data + self.data_len) as usize
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in the linear part (`skb_headlen`).
    #[inline]
    pub fn headlen(&self) -> usize {
        (self.tail - self.data) as usize
    }

    /// Bytes in fragments.
    #[inline]
    pub fn data_len(&self) -> usize {
        self.data_len as usize
    }

    pub fn headroom(&self) -> usize {
        self.data as usize
    }

    pub fn tailroom(&self) -> usize {
        self.head.len() - self.tail as usize
    }

    /// What it weighs without fragments (`SKB_TRUESIZE(skb_end_offset(skb))`).
    #[inline]
    pub fn head_truesize(&self) -> u32 {
        SKB_OVERHEAD + self.head.len() as u32
    }

    /// The linear part.
    #[inline]
    pub fn data(&self) -> &[u8] {
        &self.head.as_slice()[self.data as usize..self.tail as usize]
    }

    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.head.as_mut_slice()[self.data as usize..self.tail as usize]
    }

    /// Moves the empty linear part `n` bytes into the buffer, for headers to come (`skb_reserve`).
    pub fn reserve(&mut self, n: usize) {
        debug_assert_eq!(self.data, self.tail);
        let n = n.min(self.tailroom()) as u32;
        self.data += n;
        self.tail += n;
    }

    /// Appends `n` bytes to the linear part and returns them (`skb_put`). Grows the buffer where it must.
    pub fn put(&mut self, n: usize) -> &mut [u8] {
        debug_assert_eq!(self.data_len, 0, "put behind fragments");
        if self.tailroom() < n {
            self.expand_head(0, n);
        }
        let at = self.tail as usize;
        self.tail += n as u32;
        &mut self.head.as_mut_slice()[at..at + n]
    }

    /// Prepends `n` bytes and returns them (`skb_push`). Grows the headroom where it must.
    #[inline]
    pub fn push(&mut self, n: usize) -> &mut [u8] {
        if self.headroom() < n {
            self.expand_head(n + MAX_HEADER, 0);
        }
        self.data -= n as u32;
        let at = self.data as usize;
        &mut self.head.as_mut_slice()[at..at + n]
    }

    /// Drops `n` bytes from the front of the linear part; `false` if it is shorter (`skb_pull`).
    #[inline]
    pub fn pull(&mut self, n: usize) -> bool {
        let ok = n <= self.headlen();
        if ok {
            self.data += n as u32;
        }
        ok
    }

    /// Makes sure that the first `n` bytes are linear, copying headers out of fragments where they are not;
    /// `false` if the packet is shorter (`pskb_may_pull`).
    #[inline]
    pub fn may_pull(&mut self, n: usize) -> bool {
        n <= self.headlen() || (n <= self.len() && self.pull_tail(n - self.headlen()))
    }

    /// Moves `n` bytes from the fragments to the end of the linear part (`__pskb_pull_tail`).
    #[cold]
    fn pull_tail(&mut self, mut n: usize) -> bool {
        if self.tailroom() < n {
            self.expand_head(0, n);
        }
        while n > 0 {
            let Some(f) = self.frags.first_mut() else { return false };
            let take = n.min(f.len());
            let at = self.tail as usize;
            self.head.as_mut_slice()[at..at + take].copy_from_slice(&f[..take]);
            f.advance(take);
            if f.is_empty() {
                self.frags.remove(0);
            }
            self.tail += take as u32;
            self.data_len -= take as u32;
            n -= take;
        }
        true
    }

    /// Drops `n` bytes from the front, wherever they are (`__pskb_pull` without the copy); clamped to the length.
    pub fn pull_any(&mut self, n: usize) {
        let linear = n.min(self.headlen());
        self.data += linear as u32;
        let mut rest = (n - linear).min(self.data_len());
        self.data_len -= rest as u32;
        let mut gone = 0;
        for f in &mut self.frags {
            if rest < f.len() {
                f.advance(rest);
                break;
            }
            rest -= f.len();
            gone += 1;
        }
        self.frags.drain(..gone);
    }

    /// Cuts the packet to `len` bytes (`pskb_trim`); longer is left alone.
    pub fn trim(&mut self, len: usize) {
        if len >= self.len() {
            return;
        }
        let linear = self.headlen();
        if len <= linear {
            self.tail = self.data + len as u32;
            self.frags.clear();
            self.data_len = 0;
            return;
        }
        let mut left = len - linear;
        self.data_len = left as u32;
        let mut keep = 0;
        for f in &mut self.frags {
            if left == 0 {
                break;
            }
            f.truncate(left);
            left -= f.len();
            keep += 1;
        }
        self.frags.truncate(keep);
    }

    /// A larger buffer with at least `headroom` in front and `tailroom` behind (`pskb_expand_head`).
    #[cold]
    fn expand_head(&mut self, headroom: usize, tailroom: usize) {
        let shift = headroom.saturating_sub(self.headroom());
        let mut new = PageMut::alloc(self.tail as usize + shift + tailroom);
        let (from, to) = (self.data as usize, self.tail as usize);
        new.as_mut_slice()[from + shift..to + shift].copy_from_slice(&self.head.as_slice()[from..to]);
        // A packet that a socket answers for is charged once: what was charged is what is given back.
        if self.destructor.is_none() {
            self.truesize = self.truesize + new.len() as u32 - self.head.len() as u32;
        }
        self.head = new;
        let shift = shift as u32;
        self.data += shift;
        self.tail += shift;
        self.mac_header += shift as u16;
        self.network_header += shift as u16;
        self.transport_header += shift as u16;
        self.csum_start += shift as u16;
    }

    // --- Header marks ---

    /// The Ethernet header starts here (`skb_reset_mac_header`).
    pub fn reset_mac_header(&mut self) {
        self.mac_header = self.data as u16;
    }

    pub fn reset_network_header(&mut self) {
        self.network_header = self.data as u16;
    }

    pub fn reset_transport_header(&mut self) {
        self.transport_header = self.data as u16;
    }

    /// The transport header is `offset` bytes behind `data`.
    pub fn set_transport_header(&mut self, offset: usize) {
        self.transport_header = (self.data as usize + offset) as u16;
    }

    pub fn set_network_header(&mut self, offset: usize) {
        self.network_header = (self.data as usize + offset) as u16;
    }

    /// From `data` to the network header; negative once it was pulled (`skb_network_offset`).
    pub fn network_offset(&self) -> isize {
        self.network_header as isize - self.data as isize
    }

    pub fn transport_offset(&self) -> isize {
        self.transport_header as isize - self.data as isize
    }

    /// Bytes between the network and the transport header (`skb_network_header_len`).
    pub fn network_header_len(&self) -> usize {
        (self.transport_header as usize).saturating_sub(self.network_header as usize)
    }

    /// Linear bytes from the network header on, also when pulled over.
    #[inline]
    pub fn network_header(&self) -> &[u8] {
        &self.head.as_slice()[self.network_header as usize..self.tail as usize]
    }

    #[inline]
    pub fn network_header_mut(&mut self) -> &mut [u8] {
        let (a, b) = (self.network_header as usize, self.tail as usize);
        &mut self.head.as_mut_slice()[a..b]
    }

    #[inline]
    pub fn transport_header(&self) -> &[u8] {
        &self.head.as_slice()[self.transport_header as usize..self.tail as usize]
    }

    #[inline]
    pub fn transport_header_mut(&mut self) -> &mut [u8] {
        let (a, b) = (self.transport_header as usize, self.tail as usize);
        &mut self.head.as_mut_slice()[a..b]
    }

    /// Linear bytes from the link-layer header on.
    pub fn mac_header(&self) -> &[u8] {
        &self.head.as_slice()[self.mac_header as usize..self.tail as usize]
    }

    /// Back to the network header, whatever has been pulled.
    pub fn rewind_to_network(&mut self) {
        self.data = self.network_header as u32;
    }

    /// Back to the transport header, whatever has been pulled.
    pub fn rewind_to_transport(&mut self) {
        self.data = self.transport_header as u32;
    }

    /// Back to the link-layer header, whatever has been pulled.
    pub fn rewind_to_mac(&mut self) {
        self.data = self.mac_header as u32;
    }

    /// From the start of the buffer to `data`; what `csum_start` is counted from.
    pub fn data_offset(&self) -> usize {
        self.data as usize
    }

    /// `csum_start`, as an offset from `data` (`skb_checksum_start_offset`).
    pub fn checksum_start_offset(&self) -> usize {
        (self.csum_start as usize).saturating_sub(self.data as usize)
    }

    /// Leaves the transport checksum to the device: summed from the transport header on, stored `offset` behind it.
    pub fn set_csum_partial(&mut self, offset: usize) {
        self.ip_summed = IpSummed::Partial;
        self.csum_start = self.transport_header;
        self.csum_offset = offset as u16;
    }

    // --- Fragments ---

    pub fn frags(&self) -> &[Frag] {
        &self.frags
    }

    /// Appends payload. `false` when the packet has no room for another fragment.
    pub fn add_frag(&mut self, f: Frag) -> bool {
        if f.is_empty() {
            return true;
        }
        let n = f.len() as u32;
        if !self.frags.last_mut().is_some_and(|last| last.try_merge(&f)) {
            if self.frags.len() >= MAX_SKB_FRAGS {
                return false;
            }
            self.frags.push(f);
        }
        self.data_len += n;
        self.truesize += n;
        true
    }

    /// Takes all fragments out.
    pub fn take_frags(&mut self) -> SmallVec<[Frag; 4]> {
        self.truesize = self.truesize.saturating_sub(self.data_len);
        self.data_len = 0;
        std::mem::take(&mut self.frags)
    }

    /// The packet's content from `data` on as fragments, none of it copied; the packet itself is gone.
    pub fn into_frags(mut self: Box<Self>) -> SmallVec<[Frag; 4]> {
        let (from, linear) = (self.data as usize, self.headlen());
        let mut frags = std::mem::take(&mut self.frags);
        if linear > 0 {
            frags.insert(0, self.head.freeze(from + linear).slice(from, linear));
        }
        frags
    }

    /// The content in order: the linear part, then each fragment.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(self.data()).chain(self.frags.iter().map(|f| &**f)).filter(|c| !c.is_empty())
    }

    /// Copies out of the packet from `offset` on; the number of bytes there were (`skb_copy_bits`).
    pub fn copy_bits(&self, mut offset: usize, to: &mut [u8]) -> usize {
        let mut done = 0;
        for c in self.chunks() {
            if offset >= c.len() {
                offset -= c.len();
                continue;
            }
            let n = (c.len() - offset).min(to.len() - done);
            to[done..done + n].copy_from_slice(&c[offset..offset + n]);
            done += n;
            offset = 0;
            if done == to.len() {
                break;
            }
        }
        done
    }

    /// Appends the bytes `[from, from + len)` of `self` to `out`'s fragments, sharing what can be shared: fragments by
    /// reference, linear bytes by a copy. `false` when `out` has no room for another fragment.
    pub fn share_range(&self, from: usize, len: usize, out: &mut Skb) -> bool {
        let (mut skip, mut left) = (from, len);
        let head = self.data();
        if skip < head.len() && left > 0 {
            let n = left.min(head.len() - skip);
            if !out.add_frag(Frag::copy_of(&head[skip..skip + n])) {
                return false;
            }
            left -= n;
            skip = 0;
        } else {
            skip -= head.len().min(skip);
        }
        for f in &self.frags {
            if left == 0 {
                break;
            }
            if skip >= f.len() {
                skip -= f.len();
                continue;
            }
            let n = left.min(f.len() - skip);
            if !out.add_frag(f.slice(skip, n)) {
                return false;
            }
            left -= n;
            skip = 0;
        }
        left == 0
    }

    /// Whether the packet is to be segmented before a plain wire (`skb_is_gso`).
    #[inline]
    pub fn is_gso(&self) -> bool {
        self.gso_size != 0
    }

    /// A second packet with the same content: headers copied, payload shared (`skb_clone`). It belongs to no socket.
    pub fn clone_skb(&self) -> Box<Skb> {
        let mut n = Skb::alloc(self.head.len());
        let (from, to) = (self.data.min(self.lowest_mark()) as usize, self.tail as usize);
        n.head.as_mut_slice()[from..to].copy_from_slice(&self.head.as_slice()[from..to]);
        n.data = self.data;
        n.tail = self.tail;
        n.data_len = self.data_len;
        n.frags = self.frags.clone();
        n.mac_header = self.mac_header;
        n.network_header = self.network_header;
        n.transport_header = self.transport_header;
        n.csum_start = self.csum_start;
        n.csum_offset = self.csum_offset;
        n.truesize += self.data_len;
        n.copy_metadata(self);
        n
    }

    fn lowest_mark(&self) -> u32 {
        let marks = [self.mac_header, self.network_header, self.transport_header];
        marks.into_iter().filter(|&m| m != 0).min().map_or(self.data, u32::from)
    }

    /// Everything that describes the packet but is not its bytes, marks, socket or checksum position (`__copy_skb_header`).
    pub fn copy_metadata(&mut self, from: &Skb) {
        self.mac_len = from.mac_len;
        self.protocol = from.protocol;
        self.pkt_type = from.pkt_type;
        self.ip_summed = from.ip_summed;
        self.csum = from.csum;
        self.gso_size = from.gso_size;
        self.gso_segs = from.gso_segs;
        self.gso_type = from.gso_type;
        self.hash = from.hash;
        self.mark = from.mark;
        self.priority = from.priority;
        self.tstamp = from.tstamp;
        self.skb_iif = from.skb_iif;
        self.encapsulation = from.encapsulation;
        self.ignore_pmtu = from.ignore_pmtu;
        self.dev = from.dev.clone();
        self.dst = from.dst.clone();
        self.cb = from.cb;
        self.trace_id = from.trace_id;
        self.traced = from.traced;
        self.copies = from.copies;
    }

    /// Tells the socket that the packet no longer counts, and forgets the socket (`skb_orphan`).
    pub fn orphan(&mut self) {
        if let Some(d) = self.destructor.take() {
            d(self);
        }
        self.sk = None;
    }

    /// Gives the packet an identity for tracing if it has none.
    pub fn identify(&mut self, kernel: &Kernel) -> u64 {
        if self.trace_id == 0 {
            self.trace_id = kernel.tracer().new_id();
        }
        self.trace_id
    }
}

impl Drop for Skb {
    fn drop(&mut self) {
        count_alive(-1);
        self.orphan();
    }
}

impl Traceable for Skb {
    fn describe(&self, s: &mut Subject) {
        s.skb = self.trace_id;
        s.len = self.len();
        s.marked |= self.traced;
    }
}

/// Gives a packet on its device an identity, while tracepoints record.
#[inline]
pub(crate) fn identify(skb: &mut Skb) {
    if kernel::trace::enabled()
        && let Some(dev) = skb.dev.clone()
    {
        skb.identify(&dev.reg.kernel);
    }
}

#[cfg(test)]
mod tests;
