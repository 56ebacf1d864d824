//! How the gateway's thread is told of news: who a source of events belongs to.
//!
//! Interface: [`Token`], [`Poller`].
//! Linux counterpart: `epoll(7)`.
//! Locks and context: the gateway's thread.

use super::Shared;
use rustix::event::epoll::{self, EventData, EventFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

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

    pub fn decode(v: u64) -> Token {
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
    pub fn new(shared: Arc<Shared>) -> std::io::Result<Poller> {
        Ok(Poller { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, shared })
    }

    /// Waits for events, at most `seconds`; their tokens, encoded.
    pub fn wait(&self, seconds: u64, tokens: &mut Vec<u64>) {
        let timeout = rustix::event::Timespec { tv_sec: seconds as _, tv_nsec: 0 };
        let mut buf = Vec::with_capacity(256);
        let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut buf), Some(&timeout));
        tokens.extend(buf.iter().map(|e| e.data.u64()));
    }

    /// Reports `fd` as `token`, edge-triggered.
    pub fn add(&self, fd: impl AsFd, token: Token, flags: EventFlags) -> std::io::Result<()> {
        let data = EventData::new_u64(token.encode());
        Ok(epoll::add(&self.epoll, fd, data, flags | EventFlags::ET)?)
    }
}
