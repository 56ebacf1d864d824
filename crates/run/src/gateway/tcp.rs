//! TCP to the rest of the world, and from it through `--publish`.
//!
//! Interface: [`Tcp`]: `syn`, `event`, `sweep`.
//! Linux counterpart: `NFQUEUE` for the first SYN, `BPF_SK_LOOKUP` for who accepts it.
//! Locks and context: the gateway's thread; [`Tcp::new`] also installs the look-up hook, which runs in softirq context.
//!
//! A SYN is kept while the host connects. If that succeeds the SYN is let go and the listener accepts it; if it is refused
//! the SYN is let go with nobody to take it, and the stack itself answers with a reset. So the program sees what it would see
//! on the host: success, ECONNREFUSED, EHOSTUNREACH, or its own time-out.

use super::poller::{Poller, Token};
use super::pump::{Flow, Pump, StackSocket};
use super::{GatewayError, Publish, Work};
use net::core::skbuff::Skb;
use net::ipv4::inet_hashtables::set_sk_lookup;
use net::ipv4::inet_sock::InetTuple;
use net::ipv4::ip_input::ip_local_deliver_finish;
use rustix::event::epoll::EventFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uapi::SockAddr;
use uapi::socket::SOCK_STREAM;

/// Connections under way or open; one more is refused.
const MAX_CONNS: usize = 65536;
/// A connection the program never completes is forgotten after this.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(75);

type Pair = (SocketAddr, SocketAddr);

enum Conn {
    /// The host connects; the SYN waits.
    Connecting {
        pair: Pair,
        syn: Box<Skb>,
        host: OwnedFd,
        since: Instant,
    },
    /// The SYN has been let go; the listener will accept.
    Accepting {
        pair: Pair,
        host: OwnedFd,
        since: Instant,
    },
    /// Published: our side connects to the program.
    Inward {
        stack: StackSocket,
        host: OwnedFd,
    },
    Open(Box<Pump>),
}

/// All connections between the program and the host.
pub struct Tcp {
    /// Accepts for any address and port.
    listener: StackSocket,
    publish: Vec<(Publish, OwnedFd)>,
    conns: HashMap<u32, Conn>,
    by_pair: HashMap<Pair, u32>,
    /// Pairs whose SYN the listener may take; shared with the look-up hook.
    admitted: Arc<kernel::SpinLock<HashSet<Pair>>>,
    next: u32,
}

/// Numbers below this are the listener (0) and the published ports.
const FIRST_CONN: u32 = 1 << 16;

impl Tcp {
    pub fn new(poller: &Poller) -> Result<Tcp, GatewayError> {
        let net = &poller.shared.net;
        let listener = StackSocket::create(poller, net, SOCK_STREAM, Token::Tcp(0))?;
        listener.socket().bind(&SockAddr::from(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 1))))?;
        listener.socket().listen(4096)?;
        let admitted: Arc<kernel::SpinLock<HashSet<Pair>>> = Default::default();
        let (sk, who) = (listener.socket().sk.clone(), admitted.clone());
        set_sk_lookup(
            net,
            Some(Box::new(move |t: &InetTuple| {
                let pair = (SocketAddr::new(t.faddr, t.fport), SocketAddr::new(t.laddr, t.lport));
                who.lock_bh().contains(&pair).then(|| sk.clone())
            })),
        );
        let mut publish = Vec::new();
        for p in poller.shared.config.publish.iter().filter(|p| !p.udp) {
            let fd = listen(p.host).map_err(|e| GatewayError::Publish(p.host, e))?;
            poller.add(&fd, Token::Tcp(1 + publish.len() as u32), EventFlags::IN)?;
            publish.push((*p, fd));
        }
        Ok(Tcp { listener, publish, conns: HashMap::new(), by_pair: HashMap::new(), admitted, next: FIRST_CONN })
    }

    /// The program opens a connection: its first SYN, or that SYN again.
    pub fn syn(&mut self, poller: &Poller, src: SocketAddr, dst: SocketAddr, syn: Box<Skb>) {
        let pair = (src, dst);
        if let Some(id) = self.by_pair.get(&pair) {
            // Sent again while the host still connects: dropped. Afterwards: the answer got lost, or the pair is used anew.
            if !matches!(self.conns.get(id), Some(Conn::Connecting { .. })) {
                release(poller, syn);
            }
            return;
        }
        if self.conns.len() >= MAX_CONNS {
            return;
        }
        let to = host_address(poller, dst);
        match connect(to) {
            Ok(host) => {
                let id = self.number();
                let ok = poller.add(&host, Token::Tcp(id), EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP);
                if ok.is_ok() {
                    self.by_pair.insert(pair, id);
                    self.conns.insert(id, Conn::Connecting { pair, syn, host, since: Instant::now() });
                }
            }
            Err(e) => refuse(poller, syn, e),
        }
    }

    fn number(&mut self) -> u32 {
        loop {
            self.next = self.next.wrapping_add(1).max(FIRST_CONN);
            if !self.conns.contains_key(&self.next) {
                return self.next;
            }
        }
    }

    /// News of the listener, a published port, or a connection.
    pub fn event(&mut self, poller: &Poller, n: u32) {
        match n {
            0 => self.accept_program(poller),
            n if n < FIRST_CONN => self.accept_host(poller, n as usize - 1),
            n => self.advance(poller, n),
        }
    }

    fn advance(&mut self, poller: &Poller, id: u32) {
        match self.conns.remove(&id) {
            None => {}
            Some(Conn::Connecting { pair, syn, host, since }) => match rustix::net::sockopt::socket_error(&host) {
                Ok(Ok(())) if rustix::net::getpeername(&host).is_ok() => {
                    self.admitted.lock_bh().insert(pair);
                    self.conns.insert(id, Conn::Accepting { pair, host, since: Instant::now() });
                    release(poller, syn);
                }
                Ok(Ok(())) => {
                    self.conns.insert(id, Conn::Connecting { pair, syn, host, since });
                }
                Ok(Err(e)) | Err(e) => {
                    self.by_pair.remove(&pair);
                    refuse(poller, syn, e);
                }
            },
            Some(c @ Conn::Accepting { .. }) => {
                self.conns.insert(id, c);
            }
            Some(Conn::Inward { stack, host }) => self.inward(poller, id, stack, host),
            Some(Conn::Open(pump)) => self.pump(poller, id, pump),
        }
    }

    fn pump(&mut self, poller: &Poller, id: u32, mut pump: Box<Pump>) {
        match pump.run() {
            Flow::Closed => return,
            Flow::More => {
                poller.shared.push(Work::Ready(Token::Tcp(id).encode()));
            }
            Flow::Open => {}
        }
        self.conns.insert(id, Conn::Open(pump));
    }

    /// The program's connections that are established.
    fn accept_program(&mut self, poller: &Poller) {
        self.listener.rearm();
        while let Ok(sock) = self.listener.accept() {
            let pair = match (sock.getname(true), sock.getname(false)) {
                (Ok(peer), Ok(own)) => peer.to_std().zip(own.to_std()),
                _ => None,
            };
            let id = pair.and_then(|p| {
                self.admitted.lock_bh().remove(&p);
                self.by_pair.remove(&p)
            });
            match id.and_then(|id| Some((id, self.conns.remove(&id)?))) {
                Some((id, Conn::Accepting { host, .. })) => {
                    let stack = StackSocket::adopt(&poller.shared, sock, Token::Tcp(id));
                    self.pump(poller, id, Box::new(Pump::new(stack, host)));
                }
                _ => sock.release(),
            }
        }
    }

    /// The host's connections to a published port.
    fn accept_host(&mut self, poller: &Poller, n: usize) {
        loop {
            let Some((publish, fd)) = self.publish.get(n) else { return };
            let publish = *publish;
            match rustix::net::accept_with(fd, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(host) => self.connect_program(poller, publish, host),
                Err(rustix::io::Errno::AGAIN) => return,
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
                Err(_) => return,
            }
        }
    }

    fn connect_program(&mut self, poller: &Poller, p: Publish, host: OwnedFd) {
        let _ = rustix::net::sockopt::set_tcp_nodelay(&host, true);
        let id = self.number();
        let Ok(stack) = StackSocket::create(poller, &poller.shared.net, SOCK_STREAM, Token::Tcp(id)) else { return };
        let config = &poller.shared.config;
        let own = SockAddr::from(SocketAddr::from((config.gateway, 0)));
        if stack.socket().bind(&own).is_err() {
            return;
        }
        let to = SocketAddr::from((config.user.0, p.port));
        match stack.connect(to) {
            Ok(()) | Err(uapi::Errno::EINPROGRESS) => self.inward(poller, id, stack, host),
            Err(_) => abort(&host),
        }
    }

    /// Our connection to the program is under way or done.
    fn inward(&mut self, poller: &Poller, id: u32, stack: StackSocket, host: OwnedFd) {
        use uapi::tcp::TcpState::{SynRecv, SynSent};
        stack.rearm();
        match stack.socket().sk.state() {
            SynSent | SynRecv => {
                self.conns.insert(id, Conn::Inward { stack, host });
            }
            _ if stack.socket().sk.err().is_some() => abort(&host),
            _ => {
                let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP;
                if poller.add(&host, Token::Tcp(id), flags).is_ok() {
                    self.pump(poller, id, Box::new(Pump::new(stack, host)));
                }
            }
        }
    }

    /// The connections that the program has closed and that still hold bytes for the host: how many, and how many bytes the
    /// host has taken of them. `None`: there are none.
    pub fn flushing(&self) -> Option<(usize, u64)> {
        let open = self.conns.values().filter_map(|c| if let Conn::Open(p) = c { Some(p) } else { None });
        let (n, bytes) = open.filter(|p| p.is_flushing()).fold((0, 0), |(n, sum), p| (n + 1, sum + p.bytes_to_host()));
        (n > 0).then_some((n, bytes))
    }

    /// Forgets connections that the program never completed.
    pub fn sweep(&mut self, _poller: &Poller) {
        let admitted = &self.admitted;
        let by_pair = &mut self.by_pair;
        self.conns.retain(|_, c| match c {
            Conn::Connecting { pair, since, .. } | Conn::Accepting { pair, since, .. } => {
                let keep = since.elapsed() < ACCEPT_TIMEOUT;
                if !keep {
                    admitted.lock_bh().remove(pair);
                    by_pair.remove(pair);
                }
                keep
            }
            _ => true,
        });
    }
}

/// Lets a kept SYN go on up the gateway's stack.
fn release(poller: &Poller, syn: Box<Skb>) {
    let net = &poller.shared.net;
    let _inside = net.kernel().enter();
    let _bh = kernel::local_bh_disable();
    ip_local_deliver_finish(net, syn);
}

/// Answers a SYN that the host could not connect for.
fn refuse(poller: &Poller, syn: Box<Skb>, e: rustix::io::Errno) {
    use rustix::io::Errno as E;
    const ICMP_DEST_UNREACH: u8 = 3;
    let code = match e {
        E::HOSTUNREACH | E::HOSTDOWN => 1,
        E::NETUNREACH | E::NETDOWN | E::ADDRNOTAVAIL | E::ACCESS | E::PERM | E::INVAL => 0,
        // The host has waited as long as it does; the program has, too.
        E::TIMEDOUT => return,
        _ => return release(poller, syn),
    };
    let net = &poller.shared.net;
    let _inside = net.kernel().enter();
    let _bh = kernel::local_bh_disable();
    if let Some(l3) = net.l3(false) {
        (l3.icmp_send)(&syn, ICMP_DEST_UNREACH, code, 0);
    }
}

fn abort(host: &OwnedFd) {
    let _ = rustix::net::sockopt::set_socket_linger(host, Some(Duration::ZERO));
}

/// Where on the host a connection to `dst` goes: the gateway's own address stands for the host itself.
pub fn host_address(poller: &Poller, dst: SocketAddr) -> SocketAddr {
    if dst.ip() == IpAddr::V4(poller.shared.config.gateway) {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), dst.port())
    } else {
        dst
    }
}

pub fn family(a: SocketAddr) -> AddressFamily {
    if a.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

/// Starts a connection from the host.
fn connect(to: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(family(to), SocketType::STREAM, flags, None)?;
    let _ = rustix::net::sockopt::set_tcp_nodelay(&fd, true);
    match rustix::net::connect(&fd, &to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(fd),
        Err(e) => Err(e),
    }
}

fn listen(at: SocketAddr) -> std::io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(family(at), SocketType::STREAM, flags, None)?;
    rustix::net::sockopt::set_socket_reuseaddr(&fd, true)?;
    rustix::net::bind(&fd, &at)?;
    rustix::net::listen(&fd, 4096)?;
    Ok(fd)
}
