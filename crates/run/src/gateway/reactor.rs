//! The gateway's event loop.
//!
//! Interface: [`Reactor`]: who is registered, which part of the gateway an event belongs to.
//! Linux counterpart: none.
//! Locks and context: the gateway's thread.

use super::dns::Dns;
use super::echo::Echo;
use super::page::Page;
use super::tcp::Tcp;
use super::udp::Udp;
use super::{GatewayError, Shared, Work};
use rustix::event::epoll::{self, EventData, EventFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A registered source of events: which part's it is, and that part's own number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Token {
    Wake,
    Tcp(u32),
    Page(u32),
    Udp(u32),
    Dns(u32),
    Echo,
}

impl Token {
    pub fn encode(self) -> u64 {
        let (part, n) = match self {
            Token::Wake => (0, 0),
            Token::Tcp(n) => (1, n),
            Token::Page(n) => (2, n),
            Token::Udp(n) => (3, n),
            Token::Dns(n) => (4, n),
            Token::Echo => (5, 0),
        };
        part << 32 | n as u64
    }

    fn decode(v: u64) -> Token {
        let n = v as u32;
        match v >> 32 {
            1 => Token::Tcp(n),
            2 => Token::Page(n),
            3 => Token::Udp(n),
            4 => Token::Dns(n),
            5 => Token::Echo,
            _ => Token::Wake,
        }
    }
}

/// The host side of the loop, handed to each part.
pub struct Poller {
    epoll: OwnedFd,
    pub shared: Arc<Shared>,
}

impl Poller {
    /// Reports `fd` as `token`, edge-triggered.
    pub fn add(&self, fd: impl AsFd, token: Token, flags: EventFlags) -> std::io::Result<()> {
        let data = EventData::new_u64(token.encode());
        Ok(epoll::add(&self.epoll, fd, data, flags | EventFlags::ET)?)
    }
}

/// The gateway's thread.
pub struct Reactor {
    poller: Poller,
    tcp: Tcp,
    page: Page,
    udp: Udp,
    dns: Dns,
    echo: Echo,
}

/// How often idle associations are looked for.
const SWEEP: Duration = Duration::from_secs(5);

impl Reactor {
    pub fn new(shared: Arc<Shared>) -> Result<Reactor, GatewayError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(std::io::Error::from)?;
        let poller = Poller { epoll, shared: shared.clone() };
        poller.add(&shared.wake, Token::Wake, EventFlags::IN)?;
        Ok(Reactor {
            tcp: Tcp::new(&poller)?,
            page: Page::new(&poller)?,
            udp: Udp::new(&poller)?,
            dns: Dns::new(&poller)?,
            echo: Echo::default(),
            poller,
        })
    }

    pub fn run(mut self) {
        let mut events = Vec::with_capacity(256);
        let mut swept = Instant::now();
        while !self.poller.shared.stop.load(Ordering::SeqCst) {
            self.work_off_inbox();
            self.wait(&mut events);
            for ev in std::mem::take(&mut events) {
                self.dispatch(Token::decode(ev));
            }
            if swept.elapsed() >= SWEEP {
                swept = Instant::now();
                self.tcp.sweep(&self.poller);
                self.udp.sweep();
            }
        }
    }

    fn wait(&mut self, events: &mut Vec<u64>) {
        let shared = &self.poller.shared;
        shared.asleep.store(true, Ordering::SeqCst);
        let idle = shared.inbox.lock_bh().is_empty();
        let timeout = if idle { SWEEP } else { Duration::ZERO };
        let timeout = rustix::event::Timespec { tv_sec: timeout.as_secs() as _, tv_nsec: 0 };
        let mut buf = Vec::with_capacity(256);
        let _ = epoll::wait(&self.poller.epoll, rustix::buffer::spare_capacity(&mut buf), Some(&timeout));
        shared.asleep.store(false, Ordering::SeqCst);
        events.extend(buf.iter().map(|e| e.data.u64()));
    }

    fn work_off_inbox(&mut self) {
        let work = std::mem::take(&mut *self.poller.shared.inbox.lock_bh());
        for w in work {
            match w {
                Work::Syn { src, dst, skb } => self.tcp.syn(&self.poller, src, dst, skb),
                Work::Datagram { src, dst, payload } if self.dns.is_for(&self.poller, dst) => {
                    self.dns.datagram(&self.poller, src, dst, &payload)
                }
                Work::Datagram { src, dst, payload } => self.udp.datagram(&self.poller, src, dst, &payload),
                Work::Echo { src, dst, packet } => self.echo.request(&self.poller, src, dst, &packet),
                Work::Answer(a) => self.dns.answer(&self.poller, a),
                Work::Ready(token) => self.dispatch(Token::decode(token)),
            }
        }
    }

    fn dispatch(&mut self, token: Token) {
        match token {
            Token::Wake => {
                let mut b = [0; 8];
                let _ = rustix::io::read(&self.poller.shared.wake, &mut b);
            }
            Token::Tcp(n) => self.tcp.event(&self.poller, n),
            Token::Page(n) => self.page.event(&self.poller, n),
            Token::Udp(n) => self.udp.event(&self.poller, n),
            Token::Dns(n) => self.dns.event(&self.poller, n),
            Token::Echo => self.echo.event(&self.poller),
        }
    }
}
