//! Namespaces, and the registries that hold the stack together.
//!
//! Interface: [`Net`] (devices, tunables, counters, each protocol's part), [`Registries`] (what Linux keeps in static tables).
//! Linux counterpart: `net/core/net_namespace.c`, `struct net`, `net_generic`.
//! Locks and context: look-ups anywhere, under RCU; registration in process context.

use crate::core::dev::{DeviceTable, NetdevChain, PacketTypes, SoftnetData};
use crate::core::flow::Flow;
use crate::core::l3::L3Ops;
use crate::core::neighbour::{NeighOps, NeighTables};
use crate::core::netfilter::NfHooks;
use crate::core::proto_mem::ProtoMem;
use crate::core::skbuff::Skb;
use crate::core::snmp::MibTable;
use crate::core::sysctl::NetSysctl;
use kernel::module::Registered;
use kernel::{Kernel, PerCpu, Rcu, SpinLock};
use siphasher::sip::SipHasher13;
use std::any::Any;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, OnceLock, Weak};
use uapi::Result;
use uapi::socket::{NPROTO, SOCK_MAX};

/// A transport below IP (`struct net_protocol`, `inet6_protocol`).
pub struct NetProtocol {
    /// `skb.data` is at the transport header, which is not yet checked; the network header is marked.
    pub handler: fn(net: &Arc<Net>, skb: Box<Skb>),
    /// An ICMP error about a packet of this transport; `quoted` is its first bytes (8 at least).
    pub err_handler: fn(net: &Arc<Net>, err: &crate::core::l3::IcmpError, quoted: &[u8]),
}

/// What Linux keeps in static tables: one set a kernel.
pub struct Registries {
    pub kernel: Arc<Kernel>,
    /// `net_families`, by address family. Type-erased here: `socket` lays `NetProtoFamily` over it.
    pub net_families: [Rcu<Registered<dyn_family::Slot>>; NPROTO],
    /// `inetsw` and `inetsw6`, by socket type. Likewise: each holds a `Registered<InetProtosw>`.
    pub inetsw: [SpinLock<Vec<Arc<dyn Any + Send + Sync>>>; SOCK_MAX],
    pub inetsw6: [SpinLock<Vec<Arc<dyn Any + Send + Sync>>>; SOCK_MAX],
    /// `ptype_base`, `ptype_all`.
    pub ptypes: PacketTypes,
    pub netdev_chain: NetdevChain,
    /// How ARP and ND ask, for IPv4 and IPv6.
    pub neigh_ops: [OnceLock<&'static NeighOps>; 2],
    /// `inet_protos`, `inet6_protos`, by protocol number.
    pub inet_protos: [Rcu<NetProtocol>; 256],
    pub inet6_protos: [Rcu<NetProtocol>; 256],
    /// IPv4 and IPv6.
    pub l3: [OnceLock<&'static L3Ops>; 2],
    /// `gro` and `gso` callbacks by EtherType and transport are in the offload tables of `core::gro`/`core::gso`.
    pub softnet: PerCpu<SoftnetData>,
    pub security: OnceLock<Box<dyn Any + Send + Sync>>,
    /// Congestion control algorithms: each a `Registered` of `tcp_ca`'s.
    pub tcp_cong: SpinLock<Vec<Arc<dyn Any + Send + Sync>>>,
    /// Tunables that are no numbers.
    pub string_sysctls: SpinLock<Vec<StringSysctl>>,
    /// TCP's senders that wait for their device (`tsq_tasklet`).
    pub tsq: OnceLock<Box<dyn Any + Send + Sync>>,
    /// Run for each new namespace (`register_pernet_subsys`), in order.
    pub pernet: SpinLock<Vec<fn(&Arc<Net>)>>,
    me: Weak<Registries>,
}

/// A tunable that is no number, of each namespace. Process context.
#[derive(Clone, Copy)]
pub struct StringSysctl {
    pub name: &'static str,
    pub get: fn(net: &Net) -> String,
    pub set: fn(net: &Net, value: &str) -> Result<()>,
}

/// A family's slot in the registry.
pub mod dyn_family {
    use std::any::Any;
    /// Holds a `socket::NetProtoFamily`; `core` does not look inside.
    pub struct Slot(pub Box<dyn Any + Send + Sync>);
}

impl Registries {
    pub fn new(kernel: Arc<Kernel>) -> Arc<Registries> {
        Arc::new_cyclic(|me| Registries {
            kernel,
            net_families: std::array::from_fn(|_| Rcu::default()),
            inetsw: Default::default(),
            inetsw6: Default::default(),
            ptypes: PacketTypes::default(),
            netdev_chain: NetdevChain::default(),
            neigh_ops: Default::default(),
            inet_protos: std::array::from_fn(|_| Rcu::default()),
            inet6_protos: std::array::from_fn(|_| Rcu::default()),
            l3: Default::default(),
            softnet: PerCpu::default(),
            security: OnceLock::new(),
            tcp_cong: SpinLock::default(),
            string_sysctls: SpinLock::default(),
            tsq: OnceLock::new(),
            pernet: SpinLock::new(Vec::new()),
            me: me.clone(),
        })
    }

    pub fn hold(&self) -> Arc<Registries> {
        self.me.upgrade().unwrap_or_else(|| unreachable!("registries in use are referenced"))
    }

    /// The version's operations; `None` before it is initialised.
    #[inline]
    pub fn l3(&self, v6: bool) -> Option<&'static L3Ops> {
        self.l3[v6 as usize].get().copied()
    }
}

/// How many protocols can keep a part of their own in each namespace.
const NR_GENERIC: usize = 24;

/// Slots of [`Net::generic`]: one constant a user (`net_generic` ids).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NetId {
    Ipv4Devinet = 0,
    Ipv4Fib = 1,
    Ipv4Frag = 2,
    Ipv4Icmp = 3,
    Tcp = 4,
    Udp = 5,
    Ipv6Addrconf = 6,
    Ipv6Route = 7,
    Ipv6Frag = 8,
    Ipv6Icmp = 9,
    Arp = 10,
    Ndisc = 11,
    Raw = 12,
    Ping = 13,
    Spare = 14,
    Ipv4Route = 15,
    Ipv4Output = 16,
    TcpCong = 17,
}

/// Chooses connections to be traced.
pub type TraceFilter = Box<dyn Fn(&Flow) -> bool + Send + Sync>;

/// A network namespace (`struct net`): a stack of its own.
pub struct Net {
    pub reg: Arc<Registries>,
    pub sysctl: NetSysctl,
    pub mib: MibTable,
    pub devs: DeviceTable,
    pub neigh: NeighTables,
    pub nf: NfHooks,
    /// What TCP's sockets hold (`tcp_mem`).
    pub tcp_mem: ProtoMem,
    /// Asked once for each connection: whether its packets are to be marked for tracing.
    pub trace_filter: Rcu<TraceFilter>,
    generic: [OnceLock<Box<dyn Any + Send + Sync>>; NR_GENERIC],
    cookie: AtomicU64,
    ident: AtomicU32,
    /// Sockets that exist (`sockets: used` in `/proc/net/sockstat`), those nobody holds a descriptor of included.
    pub(crate) sockets: AtomicUsize,
    rt_genid: AtomicU32,
    /// Keys of this namespace's hashes, drawn once.
    hash_key: [u64; 2],
    hash_rnd: u32,
    me: Weak<Net>,
}

impl Net {
    /// `setup_net`: an empty namespace, with what each subsystem adds.
    pub fn new(reg: &Arc<Registries>) -> Arc<Net> {
        let key = [u64::from_ne_bytes(reg.kernel.random()), u64::from_ne_bytes(reg.kernel.random())];
        let net = Arc::new_cyclic(|me| Net {
            reg: reg.clone(),
            sysctl: NetSysctl::default(),
            mib: MibTable::default(),
            devs: DeviceTable::default(),
            neigh: NeighTables::default(),
            nf: NfHooks::default(),
            tcp_mem: ProtoMem::default(),
            trace_filter: Rcu::default(),
            generic: Default::default(),
            cookie: AtomicU64::new(1),
            ident: AtomicU32::new(0),
            sockets: AtomicUsize::new(0),
            rt_genid: AtomicU32::new(1),
            hash_key: key,
            hash_rnd: reg.kernel.random_u32(),
            me: me.clone(),
        });
        let inits = reg.pernet.lock_bh().clone();
        for init in inits {
            init(&net);
        }
        net
    }

    pub fn kernel(&self) -> &Arc<Kernel> {
        &self.reg.kernel
    }

    pub fn hold(&self) -> Arc<Net> {
        self.me.upgrade().unwrap_or_else(|| unreachable!("a namespace in use is referenced"))
    }

    pub fn weak(&self) -> Weak<Net> {
        self.me.clone()
    }

    /// A subsystem's part of the namespace, made at `setup_net` (`net_generic`).
    #[inline]
    pub fn generic<T: Any + Send + Sync>(&self, id: NetId) -> &T {
        match self.generic[id as usize].get().and_then(|b| b.downcast_ref()) {
            Some(t) => t,
            None => unreachable!("{id:?} is not initialised in this namespace"),
        }
    }

    /// Like [`generic`](Self::generic), for a subsystem that may not be there.
    pub fn try_generic<T: Any + Send + Sync>(&self, id: NetId) -> Option<&T> {
        self.generic[id as usize].get().and_then(|b| b.downcast_ref())
    }

    /// Puts a subsystem's part in place, once.
    pub fn set_generic<T: Any + Send + Sync>(&self, id: NetId, part: T) {
        let first = self.generic[id as usize].set(Box::new(part)).is_ok();
        debug_assert!(first, "{id:?} initialised twice");
    }

    /// A keyed hash (SipHash-1-3) of anything, for tables that an attacker can feed.
    #[inline]
    pub fn hash(&self, v: &impl Hash) -> u32 {
        self.hash64(v) as u32
    }

    /// The secret of hashes that stay inside, [`jhash`](crate::core::jhash)'s `initval` (`net_get_random_once`).
    #[inline]
    pub fn hash_rnd(&self) -> u32 {
        self.hash_rnd
    }

    /// [`hash`](Self::hash) with twice the bits.
    #[inline]
    pub fn hash64(&self, v: &impl Hash) -> u64 {
        let mut h = SipHasher13::new_with_keys(self.hash_key[0], self.hash_key[1]);
        v.hash(&mut h);
        h.finish()
    }

    /// Whether a connection of this flow is to be traced.
    pub fn wants_trace(&self, flow: &Flow) -> bool {
        let section = kernel::rcu_read_lock();
        self.trace_filter.dereference(&section).is_some_and(|f| f(flow))
    }

    pub fn next_cookie(&self) -> u64 {
        self.cookie.fetch_add(1, Relaxed)
    }

    /// Sockets that exist, also those that only wait for their last packets.
    pub fn sockets_in_use(&self) -> usize {
        self.sockets.load(Relaxed)
    }

    /// A counter for identifications of packets; hashed before anybody outside sees it.
    pub fn next_ident(&self) -> u32 {
        self.ident.fetch_add(1, Relaxed)
    }

    /// Routing generation: a change makes every cached [`Dst`](crate::core::dst::Dst) stale.
    #[inline]
    pub fn rt_genid(&self) -> u32 {
        self.rt_genid.load(Acquire)
    }

    /// `rt_genid_bump_all`, after any change of addresses, routes or devices.
    pub fn bump_rt_genid(&self) {
        self.rt_genid.fetch_add(1, AcqRel);
    }

    #[inline]
    pub fn l3(&self, v6: bool) -> Option<&'static L3Ops> {
        self.reg.l3(v6)
    }
}
