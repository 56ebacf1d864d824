//! The web server on the gateway's port 80: one page, the story of the connection that asks for it.
//!
//! Interface: [`Page`].
//! Linux counterpart: none.
//! Locks and context: the gateway's thread.

use super::GatewayError;
use super::poller::{Poller, Token};
use super::pump::StackSocket;
use super::story::Story;
use kernel::Frag;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use uapi::socket::SOCK_STREAM;
use uapi::{Errno, SockAddr};

pub const PORT: u16 = 80;
/// The longest request head that is read.
const MAX_REQUEST: usize = 16 * 1024;
const MAX_CONNS: usize = 1024;

struct Conn {
    sock: StackSocket,
    request: Vec<u8>,
    reply: VecDeque<Frag>,
    answered: bool,
}

/// The page's server.
pub struct Page {
    listener: StackSocket,
    conns: HashMap<u32, Conn>,
    next: u32,
    story: Story,
}

impl Page {
    pub fn new(poller: &Poller) -> Result<Page, GatewayError> {
        let net = &poller.shared.net;
        let at = SocketAddr::from((poller.shared.config.gateway, PORT));
        let listener = StackSocket::create(poller, net, SOCK_STREAM, Token::Page(0))?;
        listener.socket().bind(&SockAddr::from(at))?;
        listener.socket().listen(128)?;
        Ok(Page { listener, conns: HashMap::new(), next: 0, story: Story::new(net, at) })
    }

    pub fn event(&mut self, poller: &Poller, n: u32) {
        if n != 0 {
            return self.advance(n);
        }
        self.listener.rearm();
        while let Ok(sock) = self.listener.accept() {
            if self.conns.len() >= MAX_CONNS {
                sock.release();
                continue;
            }
            self.next = self.next.wrapping_add(1).max(1);
            let sock = StackSocket::adopt(&poller.shared, sock, Token::Page(self.next));
            let conn = Conn { sock, request: Vec::new(), reply: VecDeque::new(), answered: false };
            self.conns.insert(self.next, conn);
            self.advance(self.next);
        }
    }

    fn advance(&mut self, n: u32) {
        let Some(c) = self.conns.get_mut(&n) else { return };
        c.sock.rearm();
        let open = c.read() && c.answer(&mut self.story) && c.write();
        if !open {
            self.conns.remove(&n);
        }
    }
}

impl Conn {
    /// Takes what has come; `false` when the connection is over.
    fn read(&mut self) -> bool {
        let mut got = VecDeque::new();
        loop {
            match self.sock.recv_frags(MAX_REQUEST, &mut got) {
                Ok(0) => return self.answered && !self.reply.is_empty(),
                Ok(_) => got.drain(..).for_each(|f| {
                    if self.request.len() < MAX_REQUEST {
                        self.request.extend_from_slice(&f)
                    }
                }),
                Err(Errno::EAGAIN) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Makes the reply once the request's head is whole (RFC 9112, 2.1).
    fn answer(&mut self, story: &mut Story) -> bool {
        let whole = self.request.windows(4).any(|w| w == b"\r\n\r\n");
        if self.answered || !(whole || self.request.len() >= MAX_REQUEST) {
            return true;
        }
        self.answered = true;
        let line = self.request.split(|&b| b == b'\r').next().unwrap_or_default();
        let mut words = line.split(|&b| b == b' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (status, body) = match (whole, method, target) {
            (false, ..) => ("431 Request Header Fields Too Large", "The request is too long.\n".into()),
            (_, b"GET" | b"HEAD", b"/") => ("200 OK", story.tell(self.sock.socket())),
            (_, b"GET" | b"HEAD", _) => ("404 Not Found", "There is one page here, at /.\n".into()),
            _ => ("405 Method Not Allowed", "This page can only be read.\n".into()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nServer: sockeye\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        self.reply.push_back(Frag::copy_of(head.as_bytes()));
        if method != b"HEAD" {
            self.reply.push_back(Frag::copy_of(body.as_bytes()));
        }
        true
    }

    /// Sends what is left; `false` when all is sent and the program has closed its side, or can't be sent.
    fn write(&mut self) -> bool {
        while !self.reply.is_empty() {
            match self.sock.send_frags(&mut self.reply) {
                Ok(_) => {}
                Err(Errno::EAGAIN) => return true,
                Err(_) => return false,
            }
        }
        if self.answered {
            let _ = self.sock.socket().shutdown(uapi::socket::SHUT_WR);
        }
        true
    }
}
