//! The user-mode gateway: a second namespace that stands for the rest of the world.
//!
//! Interface: [`Gateway::start`], [`GatewayConfig`], [`Publish`].
//! Linux counterpart: none; a router with transparent proxies (`TPROXY`, `BPF_SK_LOOKUP`, `NFQUEUE` do the same work).
//! Locks and context: one thread, `gateway`, owns everything here. The packet hook runs in softirq context and only puts
//! work into the bounded inbox.
//!
//! ```text
//!   program's namespace                  gateway's namespace                      host
//!   eth0 10.0.2.15 ══ veth ══ gw0 10.0.2.2 (router) 10.0.2.3 (DNS)
//!        TCP to anywhere ──────► kept SYN ─ connect(2) ─► refused: RST / done: SYN let go, accepted ◄══ pump ══► socket
//!        UDP, echo to anywhere ► taken by the hook ───────────────────────────────────────────────────► socket
//!        TCP to 10.0.2.2:80 ───► the page that tells the story of the connection
//!        UDP, TCP to 10.0.2.3:53 ► the host's resolver
//! ```

mod dns;
mod echo;
mod hook;
mod page;
mod poller;
mod pump;
mod reactor;
mod story;
mod tcp;
mod udp;

use kernel::SpinLock;
use net::core::net_namespace::Net;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// The addresses people know from QEMU's user networking.
pub const USER_ADDR: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
pub const GATEWAY_ADDR: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub const DNS_ADDR: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
pub const PREFIX_LEN: u8 = 24;

/// Packets that may wait for the gateway's thread; one more is dropped, as on a full link.
const INBOX_LIMIT: usize = 4096;

/// One `--publish`: connections to `host` are carried to `port` of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish {
    pub host: SocketAddr,
    pub port: u16,
    pub udp: bool,
}

/// How the default network looks.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// The program's address, and the length of the prefix it shares with the gateway.
    pub user: (Ipv4Addr, u8),
    pub gateway: Ipv4Addr,
    pub dns: Ipv4Addr,
    pub publish: Vec<Publish>,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        GatewayConfig { user: (USER_ADDR, PREFIX_LEN), gateway: GATEWAY_ADDR, dns: DNS_ADDR, publish: Vec::new() }
    }
}

/// Why the gateway could not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error("cannot publish {0}: {1}{hint}", hint = publish_hint(.1))]
    Publish(SocketAddr, std::io::Error),
    #[error("cannot set up the gateway's network: {0}")]
    Net(uapi::Errno),
    #[error("cannot start the gateway: {0}")]
    Io(#[from] std::io::Error),
}

impl From<uapi::Errno> for GatewayError {
    fn from(e: uapi::Errno) -> Self {
        GatewayError::Net(e)
    }
}

fn publish_hint(e: &std::io::Error) -> &'static str {
    match e.kind() {
        std::io::ErrorKind::AddrInUse => "; another program listens there: choose another host port",
        std::io::ErrorKind::PermissionDenied => "; ports below 1024 need privileges: choose a higher host port",
        std::io::ErrorKind::AddrNotAvailable => "; the host does not have that address",
        _ => "",
    }
}

/// What the packet hook hands to the gateway's thread.
enum Work {
    /// The first SYN of a connection, held back until the host's connection is decided.
    Syn {
        src: SocketAddr,
        dst: SocketAddr,
        skb: Box<net::core::skbuff::Skb>,
    },
    Datagram {
        src: SocketAddr,
        dst: SocketAddr,
        payload: Vec<u8>,
    },
    /// An echo request that is not for the gateway itself: identifier and sequence number, then data.
    Echo {
        src: IpAddr,
        dst: IpAddr,
        packet: Vec<u8>,
    },
    /// A DNS answer is ready.
    Answer(dns::Answer),
    /// A socket of the gateway's namespace has news.
    Ready(u64),
}

/// What the thread shares with hooks, callbacks and the DNS thread.
struct Shared {
    net: Arc<Net>,
    config: GatewayConfig,
    inbox: SpinLock<VecDeque<Work>>,
    /// Wakes the thread; written only when it is about to sleep or asleep.
    wake: OwnedFd,
    asleep: AtomicBool,
    stop: AtomicBool,
}

impl Shared {
    /// Queues work; `false` when the inbox is full and the work is dropped. Any context.
    fn push(&self, w: Work) -> bool {
        {
            let mut inbox = self.inbox.lock_bh();
            if inbox.len() >= INBOX_LIMIT && !matches!(w, Work::Ready(_)) {
                return false;
            }
            inbox.push_back(w);
        }
        self.kick();
        true
    }

    fn kick(&self) {
        if self.asleep.swap(false, Ordering::SeqCst) {
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }
}

/// A running gateway; dropping it closes every connection it carries.
pub struct Gateway {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Gateway {
    /// Makes the gateway's namespace, joins it to `user` by a veth pair, gives both their addresses and routes, and starts
    /// serving. Process context.
    pub fn start(user: &Arc<Net>, config: GatewayConfig) -> Result<Gateway, GatewayError> {
        let net = hook::set_up(user, &config)?;
        let wake =
            rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK)
                .map_err(std::io::Error::from)?;
        let shared = Arc::new(Shared {
            net,
            config,
            inbox: SpinLock::default(),
            wake,
            asleep: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        hook::install(&shared);
        story::Story::watch(user, SocketAddr::from((shared.config.gateway, page::PORT)));
        let reactor = reactor::Reactor::new(shared.clone())?;
        let thread = std::thread::Builder::new().name("gateway".into()).spawn(move || reactor.run())?;
        Ok(Gateway { shared, thread: Some(thread) })
    }

    /// The gateway's own namespace.
    pub fn net(&self) -> &Arc<Net> {
        &self.shared.net
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
        hook::remove(&self.shared);
    }
}
