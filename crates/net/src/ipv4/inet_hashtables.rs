//! Finding a socket for a packet: `ehash`, the listeners, the bound ports.
//!
//! Interface: [`InetHashinfo`], [`__inet_lookup_skb`], [`__inet_lookup_established`], [`__inet_lookup_listener`],
//! [`inet_hash`], [`inet_unhash`], [`__inet_hash_connect`], [`inet_put_port`], [`set_sk_lookup`].
//! Linux counterpart: `net/ipv4/inet_hashtables.c`, `net/ipv6/inet6_hashtables.c`.
//! Locks and context: look-ups under RCU, anywhere. Lock order: the socket, then a port's bucket, then an `ehash` stripe.
//!
//! ```text
//!   ehash   (local, port, peer, port) -> socket | connection request | time-wait entry
//!   lhash2  (local, port)             -> listeners: the exact address first, then any address
//!   bhash   port                      -> everybody who holds it, by address, to tell whether one more may
//! ```

use crate::core::jhash::{jhash_3words, jhash_ip};
use crate::core::net_namespace::{Net, NetId};
use crate::core::skbuff::Skb;
use crate::core::sock::{Sock, SockFlags};
use crate::core::sock_hashed::HashedAs;
use crate::core::sysctl::parse_ports;
use crate::ipv4::errqueue::ErrQueue;
use crate::ipv4::inet_bind2_bucket::{BindAddr, Bound, BoundList, FastReuse};
pub use crate::ipv4::inet_ehash::{ANY_DEVICE, EhashEntry, EhashSock};
use crate::ipv4::inet_sock::{InetSock, InetTuple};
use crate::ipv4::inet_timewait_sock::InetTimewaitSock;
use crate::ipv4::request_sock::{RequestSock, RequestSockQueue};
use crate::ipv4::tcp_fastopen_cookie::FastopenNet;
use crate::ipv4::tcp_metrics::TcpMetrics;
use crate::ipv4::tcp_sock::TcpSock;
use kernel::cpu::BhGuard;
use kernel::spinlock::SpinGuard;
use kernel::{Rcu, RcuHashTable, RcuReadGuard, SpinLock, TimerOwner, rcu_read_lock};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use std::sync::{Arc, OnceLock};
use uapi::tcp::TcpState;
use uapi::{Errno, Result};

/// Slots of the table that makes port choice differ from one destination to the next (RFC 6056, 3.3.4).
const INET_TABLE_PERTURB_SIZE: usize = 256;

/// Listeners that share an address, a port and a device (one of them, unless all have `SO_REUSEPORT`).
pub struct ListenEntry {
    addr: BindAddr,
    port: u16,
    bound_dev_if: u32,
    reuseport: bool,
    hash: u32,
    socks: Rcu<Vec<Arc<Sock>>>,
}

/// Who holds a port.
pub enum BindOwner {
    Sock { sk: Arc<Sock>, addr: BindAddr, place: u32 },
    Timewait { tw: Arc<InetTimewaitSock>, place: u32 },
}

/// One for each connection.
const _: () = assert!(size_of::<BindOwner>() == 32);

/// The holders of a port (`struct inet_bind_bucket`).
#[derive(Default)]
pub struct BindBucket {
    owners: BoundList<BindOwner>,
    /// Only `connect(2)` has chosen this port, so another connection may take it too (`fastreuse` is -1).
    from_connect: bool,
    /// What saves `bind(2)` the look at the holders.
    pub fast: FastReuse,
}

/// Bound ports: a bucket each, in pages made when first needed.
struct BindTable(Box<[OnceLock<BindPage>]>);

type BindPage = Box<[SpinLock<BindBucket>]>;

/// `BPF_PROG_TYPE_SK_LOOKUP`: names the listener for a connection, before the tables are asked.
pub type SkLookup = Box<dyn Fn(&InetTuple) -> Option<Arc<Sock>> + Send + Sync>;

/// TCP's tables of a namespace (`struct inet_hashinfo`).
pub struct InetHashinfo {
    pub ehash: RcuHashTable<EhashEntry>,
    lhash2: RcuHashTable<Arc<ListenEntry>>,
    listen_lock: SpinLock<()>,
    bhash: BindTable,
    sk_lookup: Rcu<SkLookup>,
    table_perturb: Box<[AtomicU32]>,
    /// Time-wait entries, and connections whose process has gone (`tcp_orphan_count`).
    pub tw_count: AtomicU32,
    pub orphan_count: AtomicU32,
    /// What is known of destinations.
    pub metrics: TcpMetrics,
    pub fastopen: FastopenNet,
    /// Challenge ACKs: the current second in the high, how many in the low half.
    challenge: AtomicU64,
}

/// What a TCP socket has outside its lock when it listens, or when something unusual has happened to it (a part of
/// `struct inet_connection_sock`).
#[derive(Default)]
pub struct InetConnectionSock {
    /// Where a listener is in `lhash2`.
    listening: SpinLock<Option<Arc<ListenEntry>>>,
    /// A listener's accept queue.
    pub accept_queue: RequestSockQueue,
    /// A listener's options, for packets: a state that nobody changes, replaced when an option is set.
    pub listen_opts: Rcu<TcpSock>,
    /// When this listener last turned to SYN cookies, in milliseconds; 0: never.
    pub synq_overflow: AtomicU64,
    /// The path MTU that an ICMP error named while a process owned the socket, and the sequence number it quoted.
    pub mtu_info: AtomicU32,
    pub mtu_seq: AtomicU32,
    /// The queue of `MSG_ERRQUEUE`.
    pub errq: ErrQueue,
}

/// What a packet was for.
pub enum Found<'g> {
    /// A connection, a request or a time-wait entry.
    Entry(&'g EhashEntry),
    Listener(Arc<Sock>),
}

/// `inet_ehashfn`, `inet6_ehashfn`.
#[inline]
pub fn inet_ehashfn(net: &Net, t: &InetTuple) -> u32 {
    let secret = net.hash_rnd();
    let ports = (t.lport as u32) << 16 | t.fport as u32;
    jhash_3words(jhash_ip(t.laddr, secret), jhash_ip(t.faddr, secret), ports, secret)
}

/// TCP's tables of the namespace; [`inet_hashinfo_init`] has made them.
#[inline]
pub fn tcp_hashinfo(net: &Net) -> &InetHashinfo {
    net.generic(NetId::Tcp)
}

/// Makes a namespace's tables.
pub fn inet_hashinfo_init(net: &Arc<Net>) {
    net.set_generic(NetId::Tcp, InetHashinfo::new(net));
}

/// The part of a TCP socket outside its lock; made when it is first asked for.
#[inline]
pub fn inet_csk(sk: &Sock) -> &InetConnectionSock {
    match sk.rare.make().ext.get_or_init(|| Box::<InetConnectionSock>::default()).downcast_ref() {
        Some(c) => c,
        None => unreachable!("only TCP sets a TCP socket's ext"),
    }
}

/// Whether something is in the queue of `MSG_ERRQUEUE`.
pub fn inet_csk_has_errors(sk: &Sock) -> bool {
    sk.rare.ext().is_some_and(|c: &InetConnectionSock| !c.errq.is_empty())
}

impl InetHashinfo {
    fn new(net: &Net) -> InetHashinfo {
        let perturb = |_| AtomicU32::new(net.kernel().random_u32());
        InetHashinfo {
            ehash: RcuHashTable::new(256),
            lhash2: RcuHashTable::new(64),
            listen_lock: SpinLock::new(()),
            bhash: BindTable((0..256).map(|_| OnceLock::new()).collect()),
            sk_lookup: Rcu::default(),
            table_perturb: (0..INET_TABLE_PERTURB_SIZE).map(perturb).collect(),
            tw_count: AtomicU32::new(0),
            orphan_count: AtomicU32::new(0),
            metrics: TcpMetrics::default(),
            fastopen: FastopenNet::default(),
            challenge: AtomicU64::new(0),
        }
    }

    /// Whether this second's challenge ACKs are used up; counts one if not (RFC 5961, 7). A second has half to one and a half
    /// times `limit` of them: a fixed number could be counted by one peer to learn of another's connection.
    pub fn challenge_acks_spent(&self, net: &Net, second: u32, limit: u32) -> bool {
        if limit == i32::MAX as u32 {
            return false;
        }
        let fresh = limit.div_ceil(2) + if limit > 0 { net.kernel().random_u32() % limit } else { 0 };
        let next = |v: u64| match if (v >> 32) as u32 == second { v as u32 } else { fresh } {
            0 => None,
            left => Some((second as u64) << 32 | (left - 1) as u64),
        };
        self.challenge.fetch_update(AcqRel, Acquire, next).is_err()
    }

    /// The bucket of a port, locked, with bottom halves off.
    pub fn bind_bucket(&self, port: u16) -> SpinGuard<'_, BindBucket, BhGuard> {
        let page = self.bhash.0[port as usize >> 8].get_or_init(|| (0..256).map(|_| Default::default()).collect());
        page[port as usize & 255].lock_bh()
    }
}

/// Sets or clears the namespace's `sk_lookup` program. A listener that it names takes the connection whatever address
/// and port it is for; the child's local address is the packet's destination.
pub fn set_sk_lookup(net: &Net, f: Option<SkLookup>) {
    tcp_hashinfo(net).sk_lookup.assign(f.map(Arc::new));
}

// --- ehash ---

/// Finds the entry of a connection. `t.laddr` is the packet's destination.
#[inline]
#[allow(non_snake_case)]
pub fn __inet_lookup_established(net: &Net, t: &InetTuple, dif: u32) -> Option<EhashEntry> {
    tcp_hashinfo(net).ehash.lookup(inet_ehashfn(net, t), |e| e.matches(t, dif))
}

/// The entry for a packet: a connection's, else a listener that takes it.
#[allow(non_snake_case)]
pub fn __inet_lookup_skb<'g>(
    net: &'g Arc<Net>,
    skb: &Skb,
    t: &InetTuple,
    dif: u32,
    section: &'g RcuReadGuard,
) -> Option<Found<'g>> {
    kernel::tp!(__inet_lookup_skb, skb);
    match tcp_hashinfo(net).ehash.find(section, inet_ehashfn(net, t), |e| e.matches(t, dif)) {
        Some(e) => Some(Found::Entry(e)),
        None => __inet_lookup_listener(net, t, dif).map(Found::Listener),
    }
}

/// Puts a socket where packets find it; `EADDRNOTAVAIL` if the connection exists (`inet_ehash_insert`).
pub fn inet_ehash_insert(sk: &Arc<Sock>, tuple: &InetTuple) -> Result<()> {
    kernel::tp!(inet_ehash_insert, sk.as_ref());
    insert_unless_there(sk, tuple).map_err(|_| Errno::EADDRNOTAVAIL)
}

/// What is in the way is given back.
fn insert_unless_there(sk: &Arc<Sock>, tuple: &InetTuple) -> std::result::Result<(), EhashEntry> {
    let (dev, hash) = (sk.bound_dev_if.load(Relaxed), inet_ehashfn(&sk.net, tuple));
    let e = EhashEntry::new(tuple, EhashSock::Sock(sk.clone()));
    tcp_hashinfo(&sk.net).ehash.insert_unless(hash, e, |o| o.conflicts(tuple, dev))?;
    sk.hashed.connected(hash);
    Ok(())
}

/// Puts an established socket in the place of the request that it came from, in one step. `false` if the request is gone:
/// another packet was faster (`inet_ehash_nolisten` with `osk`).
pub fn inet_ehash_replace_request(sk: &Arc<Sock>, req: &RequestSock) -> bool {
    kernel::tp!(inet_ehash_insert, sk.as_ref());
    let hash = inet_ehashfn(&sk.net, &req.tuple);
    let by = |e: &EhashEntry| e.successor(EhashSock::Sock(sk.clone()));
    let done = tcp_hashinfo(&sk.net).ehash.replace(hash, |e| e.sock.is_request(req), by);
    if done {
        sk.hashed.connected(hash);
    }
    done
}

/// Makes a request findable; `false` when the connection exists already.
pub fn reqsk_hash_insert(net: &Net, req: &Arc<RequestSock>) -> bool {
    let (t, dev) = (&req.tuple, req.bound_dev_if);
    let e = EhashEntry::new(t, EhashSock::Request(req.clone()));
    tcp_hashinfo(net).ehash.insert_unless(inet_ehashfn(net, t), e, |o| o.conflicts(t, dev)).is_ok()
}

/// Whether packets can find the request.
pub fn reqsk_hashed(net: &Net, req: &RequestSock) -> bool {
    let section = rcu_read_lock();
    let found = tcp_hashinfo(net).ehash.find(&section, inet_ehashfn(net, &req.tuple), |e| e.sock.is_request(req));
    found.is_some()
}

/// Takes a request out; `false` if it was not in: somebody else did (`reqsk_queue_unlink`).
pub fn reqsk_unhash(net: &Net, req: &RequestSock) -> bool {
    tcp_hashinfo(net).ehash.remove(inet_ehashfn(net, &req.tuple), |e| e.sock.is_request(req))
}

/// Makes the socket findable: a listener by its address and port, anything else by its connection (`inet_hash`).
pub fn inet_hash(sk: &Arc<Sock>, inet: &InetSock) -> Result<()> {
    if sk.state() == TcpState::Listen {
        listen_insert(sk, inet);
        return Ok(());
    }
    inet_ehash_insert(sk, &inet.tuple())
}

/// After this no packet finds the socket (`inet_unhash`). Harmless a second time.
pub fn inet_unhash(sk: &Arc<Sock>) {
    kernel::tp!(inet_unhash, sk.as_ref());
    match sk.hashed.take() {
        HashedAs::Nothing => {}
        HashedAs::Connection => {
            tcp_hashinfo(&sk.net).ehash.remove(sk.hashed.hash(), |e| e.sock.is_sock(sk));
        }
        HashedAs::Listener => {
            let was = inet_csk(sk).listening.lock_bh().take();
            was.iter().for_each(|e| listen_remove(sk, e));
        }
    }
}

/// Whether packets can find the socket (`!sk_unhashed`).
pub fn sk_hashed(sk: &Sock) -> bool {
    sk.hashed.as_what() != HashedAs::Nothing
}

// --- Listeners ---

/// What a listener is found by. The two wildcards share a hash, as a dual-stack listener answers for both.
fn listen_hash(net: &Net, addr: IpAddr, port: u16) -> u32 {
    if addr.is_unspecified() {
        return net.hash(&(port, 1u8));
    }
    let mut packed = [0u8; 18];
    match addr {
        IpAddr::V4(a) => packed[..4].copy_from_slice(&a.octets()),
        IpAddr::V6(a) => packed[..16].copy_from_slice(&a.octets()),
    }
    packed[16..].copy_from_slice(&port.to_ne_bytes());
    net.hash(&packed)
}

fn listen_insert(sk: &Arc<Sock>, inet: &InetSock) {
    let info = tcp_hashinfo(&sk.net);
    let (addr, port, dev) = (BindAddr::of(sk, inet.rcv_saddr), inet.num, sk.bound_dev_if.load(Relaxed));
    let hash = listen_hash(&sk.net, addr.addr, port);
    let reuseport = sk.flag(SockFlags::REUSEPORT);
    let _l = info.listen_lock.lock_bh();
    let group =
        |e: &Arc<ListenEntry>| e.reuseport && reuseport && e.addr == addr && e.port == port && e.bound_dev_if == dev;
    let e = info.lhash2.lookup(hash, group);
    let e = match e {
        Some(e) => {
            let mut members = e.members();
            members.push(sk.clone());
            e.socks.assign(Some(Arc::new(members)));
            e
        }
        None => {
            let socks = Rcu::new(Some(Arc::new(vec![sk.clone()])));
            let e = Arc::new(ListenEntry { addr, port, bound_dev_if: dev, reuseport, hash, socks });
            info.lhash2.insert(hash, e.clone());
            e
        }
    };
    *inet_csk(sk).listening.lock_bh() = Some(e);
    sk.hashed.listening();
}

fn listen_remove(sk: &Arc<Sock>, e: &Arc<ListenEntry>) {
    let info = tcp_hashinfo(&sk.net);
    let _l = info.listen_lock.lock_bh();
    let mut members = e.members();
    members.retain(|m| !Arc::ptr_eq(m, sk));
    if members.is_empty() {
        info.lhash2.remove(e.hash, |o| Arc::ptr_eq(o, e));
    }
    e.socks.assign(Some(Arc::new(members)));
}

/// Every listener, with what it is bound to; for whoever shows them.
pub fn inet_listeners(net: &Net) -> Vec<(Arc<Sock>, BindAddr, u16)> {
    let mut all = Vec::new();
    tcp_hashinfo(net).lhash2.for_each(|e| {
        all.extend(e.members().into_iter().map(|sk| (sk, e.addr, e.port)));
        true
    });
    all
}

impl ListenEntry {
    fn members(&self) -> Vec<Arc<Sock>> {
        self.socks.get().map_or_else(Vec::new, |v| v.to_vec())
    }

    /// `compute_score`: how well it fits a packet to `port`; `exact`: only listeners bound to that very address are asked.
    fn compute_score(&self, t: &InetTuple, dif: u32, exact: bool) -> Option<u32> {
        if self.port != t.lport || (self.bound_dev_if != 0 && self.bound_dev_if != dif) {
            return None;
        }
        let v4 = t.laddr.is_ipv4();
        let fits = match (exact, v4) {
            (true, _) => self.addr.addr == t.laddr,
            (false, true) => self.addr.addr.is_unspecified() && !(self.addr.v6 && self.addr.v6only),
            (false, false) => self.addr.addr.is_unspecified() && self.addr.v6,
        };
        let bound = if self.bound_dev_if != 0 { 2 } else { 1 };
        fits.then_some(bound + (v4 && !self.addr.v6) as u32)
    }

    /// The member for this flow (`reuseport_select_sock`): by its hash, so that a SYN sent again meets the same one.
    fn select(&self, net: &Net, t: &InetTuple) -> Option<Arc<Sock>> {
        let section = rcu_read_lock();
        let members = self.socks.dereference(&section)?;
        if members.len() < 2 {
            return members.first().cloned();
        }
        let at = (inet_ehashfn(net, t) as u64 * members.len() as u64) >> 32;
        members.get(at as usize).cloned()
    }
}

/// The listener for a connection to `t.laddr` and `t.lport`.
#[allow(non_snake_case)]
pub fn __inet_lookup_listener(net: &Net, t: &InetTuple, dif: u32) -> Option<Arc<Sock>> {
    let info = tcp_hashinfo(net);
    {
        let section = rcu_read_lock();
        if let Some(f) = info.sk_lookup.dereference(&section)
            && let Some(sk) = f(t)
            && sk.state() == TcpState::Listen
        {
            return Some(sk);
        }
    }
    inet_lhash2_lookup(net, t, dif, true).or_else(|| inet_lhash2_lookup(net, t, dif, false))
}

fn inet_lhash2_lookup(net: &Net, t: &InetTuple, dif: u32, exact: bool) -> Option<Arc<Sock>> {
    let any = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
    let hash = listen_hash(net, if exact { t.laddr } else { any }, t.lport);
    let mut best = None;
    let mut hiscore = 0;
    tcp_hashinfo(net).lhash2.lookup(hash, |e| {
        if let Some(score) = e.compute_score(t, dif, exact)
            && score > hiscore
            && let Some(sk) = e.select(net, t)
        {
            hiscore = score;
            best = Some(sk);
        }
        false
    });
    best
}

// --- Bound ports ---

impl Bound for BindOwner {
    fn addr(&self) -> IpAddr {
        match self {
            BindOwner::Sock { addr, .. } => addr.addr,
            BindOwner::Timewait { tw, .. } => tw.tuple.laddr,
        }
    }

    fn index(&self) -> &AtomicU32 {
        match self {
            BindOwner::Sock { sk, .. } => &sk.hashed.bind_index,
            BindOwner::Timewait { tw, .. } => &tw.bind_index,
        }
    }

    fn place(&mut self) -> &mut u32 {
        match self {
            BindOwner::Sock { place, .. } | BindOwner::Timewait { place, .. } => place,
        }
    }
}

impl BindBucket {
    pub fn owners(&self) -> &[BindOwner] {
        self.owners.all()
    }

    /// The holders who can be in the way of a socket bound to this address.
    pub fn candidates(&self, addr: IpAddr) -> impl Iterator<Item = &BindOwner> {
        self.owners.candidates(addr)
    }

    pub fn is_empty(&self) -> bool {
        self.owners().is_empty()
    }

    fn remove(&mut self, index: u32) {
        self.owners.remove(index);
        if self.is_empty() {
            *self = BindBucket::default();
        }
    }

    /// `inet_bind_hash` for a socket that `bind(2)` or a listener gives the port to.
    pub fn bind(&mut self, sk: &Arc<Sock>, addr: IpAddr, port: u16) {
        self.from_connect = false;
        if sk.hashed.bind_port.swap(port, AcqRel) == 0 {
            self.owners.add(BindOwner::Sock { sk: sk.clone(), addr: BindAddr::of(sk, addr), place: 0 });
        }
    }
}

/// `__inet_inherit_port`: a child holds its listener's port too.
pub fn inet_inherit_port(child: &Arc<Sock>, inet: &InetSock) {
    let mut b = tcp_hashinfo(&child.net).bind_bucket(inet.num);
    b.bind(child, inet.rcv_saddr, inet.num);
}

/// Notes the address that a connection has given a socket bound to any (`inet_bhash2_update_saddr`).
pub fn inet_bhash2_update_saddr(sk: &Arc<Sock>, addr: IpAddr) {
    let port = sk.hashed.bind_port();
    if port == 0 {
        return;
    }
    let mut b = tcp_hashinfo(&sk.net).bind_bucket(port);
    b.owners.update(sk.hashed.bind_index.load(Relaxed), |o| {
        if let BindOwner::Sock { addr: a, .. } = o {
            *a = BindAddr::of(sk, addr);
        }
    });
}

/// Gives the port back (`inet_put_port`). Harmless for a socket that holds none.
pub fn inet_put_port(sk: &Arc<Sock>) {
    let port = sk.hashed.bind_port();
    if port == 0 {
        return;
    }
    let mut b = tcp_hashinfo(&sk.net).bind_bucket(port);
    if sk.hashed.bind_port.swap(0, AcqRel) != 0 {
        b.remove(sk.hashed.bind_index.load(Relaxed));
    }
}

// --- Time-wait entries ---

/// Puts the entry in the socket's place, in `ehash` and among the owners of its port, so that no packet and no `bind`
/// finds neither (`inet_twsk_hashdance`). `false` if the socket was not hashed.
pub fn inet_twsk_hashdance(tw: &Arc<InetTimewaitSock>, sk: &Arc<Sock>) -> bool {
    let info = tcp_hashinfo(&sk.net);
    let port = sk.hashed.bind_port();
    if sk.hashed.take() != HashedAs::Connection {
        return false;
    }
    if port != 0 {
        let mut b = info.bind_bucket(port);
        let at = sk.hashed.bind_index.load(Relaxed);
        if sk.hashed.bind_port.swap(0, AcqRel) != 0 {
            b.owners.update(at, |o| *o = BindOwner::Timewait { tw: tw.clone(), place: 0 });
        }
    }
    info.tw_count.fetch_add(1, AcqRel);
    let by = |e: &EhashEntry| e.successor(EhashSock::Timewait(tw.clone()));
    info.ehash.replace(sk.hashed.hash(), |e| e.sock.is_sock(sk), by)
}

/// Takes a time-wait entry out of the tables and stops its timer (`inet_twsk_deschedule_put`).
pub fn inet_twsk_kill(tw: &Arc<InetTimewaitSock>) {
    if !tw.deschedule() {
        return;
    }
    let Some(net) = tw.net.upgrade() else { return };
    let info = tcp_hashinfo(&net);
    info.ehash.remove(inet_ehashfn(&net, &tw.tuple), |e| e.sock.is_timewait(tw));
    let mut b = info.bind_bucket(tw.tuple.lport);
    let at = tw.bind_index.load(Relaxed);
    if matches!(b.owners.get(at), Some(BindOwner::Timewait { tw: t, .. }) if Arc::ptr_eq(t, tw)) {
        b.remove(at);
    }
    info.tw_count.fetch_sub(1, AcqRel);
}

/// The timer's function of every time-wait entry (`tw_timer_handler`).
pub fn inet_twsk_expired(tw: Arc<TimerOwner>) {
    if let Ok(tw) = tw.downcast() {
        inet_twsk_kill(&tw);
    }
}

// --- connect(2) ---

/// The time-wait entry whose coordinates a new connection took over, if any.
pub type Recycled = Option<Arc<InetTimewaitSock>>;

/// Makes a connecting socket findable, choosing its port if it holds none. `EADDRNOTAVAIL` when the connection exists or
/// no port is left. `inet.num` and `inet.sport` are set; the source address, destination and its port are.
#[allow(non_snake_case)]
pub fn __inet_hash_connect(sk: &Arc<Sock>, inet: &mut InetSock) -> Result<Recycled> {
    kernel::tp!(__inet_hash_connect, sk.as_ref());
    if inet.num != 0 {
        return inet_check_established(sk, inet.tuple());
    }
    let net = &sk.net;
    let (low, high) = inet_sk_get_local_port_range(net, inet);
    let reserved = reserved_ports(net);
    let mut remaining = high - low + 1;
    if remaining > 1 {
        remaining &= !1;
    }
    let (index, mut offset) = port_offset(net, inet, remaining);
    // First the ports of `low`'s parity: bind(2) prefers the others, so the two do not meet until the range is nearly full.
    offset &= !1;
    for parity in 0..if remaining > 1 { 2 } else { 1 } {
        for i in (0..remaining).step_by(if remaining > 1 { 2 } else { 1 }) {
            let port = (low + (offset + parity + i) % remaining) as u16;
            if reserved.iter().any(|r| r.contains(&port)) {
                continue;
            }
            let Some(recycled) = try_connect_port(sk, inet, port) else { continue };
            // Skips a candidate now and then, so that the sequence of ports tells less.
            let noise = if i == 0 && net.kernel().random_u32().is_multiple_of(16) { 2 } else { i };
            tcp_hashinfo(net).table_perturb[index].fetch_add(noise + 2, Relaxed);
            return Ok(recycled);
        }
    }
    Err(Errno::EADDRNOTAVAIL)
}

/// Where the search starts: a keyed hash of the destination and a counter shared by some (RFC 6056, 3.3.4).
fn port_offset(net: &Net, inet: &InetSock, remaining: u32) -> (usize, u32) {
    let hash = net.hash64(&(SALT_PORT, inet.saddr(), inet.daddr, inet.dport));
    let (lo, hi) = (hash as u32, (hash >> 32) as u32);
    let index = lo as usize % INET_TABLE_PERTURB_SIZE;
    let perturb = tcp_hashinfo(net).table_perturb[index].load(Relaxed);
    (index, perturb.wrapping_add(hi) % remaining)
}

/// What keeps the namespace's keyed hashes of the same thing apart.
const SALT_PORT: u32 = 0x706f_7274;

/// Takes `port` for the connection unless it is held by `bind(2)` or the connection exists; `None`: try another.
fn try_connect_port(sk: &Arc<Sock>, inet: &mut InetSock, port: u16) -> Option<Recycled> {
    let info = tcp_hashinfo(&sk.net);
    let recycled = {
        let mut b = info.bind_bucket(port);
        if !b.is_empty() && !b.from_connect {
            return None;
        }
        let tuple = InetTuple { lport: port, ..inet.tuple() };
        let recycled = inet_check_established_locked(sk, tuple)?;
        b.bind(sk, inet.rcv_saddr, port);
        b.from_connect = true;
        recycled
    };
    inet.num = port;
    inet.sport = port;
    recycled.iter().for_each(inet_twsk_kill);
    Some(recycled)
}

/// `__inet_check_established`: inserts the socket unless its connection exists; an entry in TIME_WAIT may give way.
fn inet_check_established(sk: &Arc<Sock>, tuple: InetTuple) -> Result<Recycled> {
    let recycled = inet_check_established_locked(sk, tuple).ok_or(Errno::EADDRNOTAVAIL)?;
    recycled.iter().for_each(inet_twsk_kill);
    Ok(recycled)
}

fn inet_check_established_locked(sk: &Arc<Sock>, tuple: InetTuple) -> Option<Recycled> {
    kernel::tp!(inet_ehash_insert, sk.as_ref());
    let Err(old) = insert_unless_there(sk, &tuple) else { return Some(None) };
    let EhashSock::Timewait(tw) = &old.sock else { return None };
    let hash = inet_ehashfn(&sk.net, &tuple);
    let by = |e: &EhashEntry| e.successor(EhashSock::Sock(sk.clone()));
    if !tcp_twsk_unique(sk, tw) || !tcp_hashinfo(&sk.net).ehash.replace(hash, |e| e.sock.is_timewait(tw), by) {
        return None;
    }
    sk.hashed.connected(hash);
    Some(Some(tw.clone()))
}

/// Whether timestamps protect a new connection from the segments of the one in TIME_WAIT (RFC 6191).
fn tcp_twsk_unique(sk: &Sock, tw: &InetTimewaitSock) -> bool {
    let local = |t: &InetTuple| t.laddr.is_loopback() || t.faddr.is_loopback();
    let reuse = match sk.net.sysctl.tcp_tw_reuse.get() {
        0 => false,
        2 => local(&tw.tuple),
        _ => true,
    };
    // The clock of timestamps must have ticked since (`tcp_tw_reuse_delay`).
    let age = (sk.net.kernel().jiffies() as u32).wrapping_sub(tw.entry_stamp.load(Relaxed));
    let old = age as i64 >= sk.net.sysctl.tcp_tw_reuse_delay.get();
    reuse && old && tw.ts_recent_stamp.load(Relaxed) != 0 && tw.substate() != TcpState::FinWait2
}

/// What of the namespace's range of ports the socket may choose from (`IP_LOCAL_PORT_RANGE`). Bounds outside are ignored.
pub fn inet_sk_get_local_port_range(net: &Net, inet: &InetSock) -> (u32, u32) {
    let (low, high) = inet_get_local_port_range(net);
    let (want_low, want_high) = (inet.opts.local_port_range & 0xffff, inet.opts.local_port_range >> 16);
    let within = |want: u32, or: u32| if (low..=high).contains(&want) { want } else { or };
    (within(want_low, low), within(want_high, high))
}

/// `net.ipv4.ip_local_reserved_ports`.
pub fn reserved_ports(net: &Net) -> Vec<std::ops::RangeInclusive<u16>> {
    let text = net.sysctl.ip_local_reserved_ports.lock_bh();
    if text.is_empty() { Vec::new() } else { parse_ports(&text).unwrap_or_default() }
}

/// The coordinates by which packets find the connection.
pub fn sk_tuple(sk: &Arc<Sock>) -> Option<InetTuple> {
    let section = rcu_read_lock();
    let e = tcp_hashinfo(&sk.net).ehash.find(&section, sk.hashed.hash(), |e| e.sock.is_sock(sk))?;
    Some(e.tuple())
}

/// The two ends of `ip_local_port_range`.
pub fn inet_get_local_port_range(net: &Net) -> (u32, u32) {
    let low = net.sysctl.ip_local_port_min.get() as u32;
    (low, (net.sysctl.ip_local_port_max.get() as u32).max(low))
}

#[cfg(test)]
mod tests;
