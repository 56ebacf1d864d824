//! The gateway's event loop.
//!
//! Interface: [`Reactor`].
//! Linux counterpart: none.
//! Locks and context: the gateway's thread.

use super::dns::Dns;
use super::echo::Echo;
use super::page::Page;
use super::poller::{Poller, Token};
use super::tcp::Tcp;
use super::udp::Udp;
use super::{GatewayError, Shared, Work};
use rustix::event::epoll::EventFlags;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

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
/// How long a host may take nothing of what the program left before it is given up. With a full buffer of 4 MiB it takes the
/// next byte when a third of that has gone to a reader.
const FLUSH: Duration = Duration::from_secs(30);

impl Reactor {
    pub fn new(shared: Arc<Shared>) -> Result<Reactor, GatewayError> {
        let poller = Poller::new(shared.clone())?;
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
        let (mut flushed, mut moved_at) = (None, Instant::now());
        loop {
            if self.poller.shared.stop.load(Ordering::SeqCst) {
                // The program has ended; what it sent may still be on its way to the host.
                let Some(now) = self.tcp.flushing() else { return };
                if flushed.replace(now) != Some(now) {
                    moved_at = Instant::now();
                } else if moved_at.elapsed() >= FLUSH {
                    return;
                }
            }
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
        self.poller.wait(if idle { SWEEP.as_secs() } else { 0 }, events);
        shared.asleep.store(false, Ordering::SeqCst);
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
