//! The name server of the default network: answers from the host's resolver.
//!
//! Interface: [`Dns`]: `datagram`, `event` (TCP), `answer`.
//! Linux counterpart: none; as `systemd-resolved`'s stub listener.
//! Locks and context: the gateway's thread, and one thread that runs the resolver.
//!
//! Queries are parsed and answers encoded by hickory; the host's `/etc/resolv.conf` and `/etc/hosts` decide.

use super::poller::{Poller, Token};
use super::pump::StackSocket;
use super::{GatewayError, Shared, Work};
use hickory_resolver::TokioResolver;
use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
use kernel::Frag;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use tokio::sync::mpsc;
use uapi::SockAddr;
use uapi::socket::SOCK_STREAM;

pub const PORT: u16 = 53;
/// Queries under way; more are dropped, and asked again by whoever waits.
const MAX_QUERIES: usize = 512;
/// RFC 1035, 4.2.1: what a datagram may carry if the query does not say more.
const PLAIN_UDP: usize = 512;
const MAX_TCP: usize = 64;

/// Who asked.
#[derive(Clone, Copy)]
enum Asker {
    Udp { src: SocketAddr, dst: SocketAddr, room: usize },
    Tcp(u32),
}

/// An encoded answer on its way back.
pub struct Answer {
    to: Asker,
    bytes: Vec<u8>,
}

struct Query {
    from: Asker,
    message: Message,
}

struct Stream {
    sock: StackSocket,
    input: Vec<u8>,
    output: VecDeque<Frag>,
}

/// The name server.
pub struct Dns {
    listener: StackSocket,
    streams: HashMap<u32, Stream>,
    next: u32,
    queries: mpsc::Sender<Query>,
}

impl Dns {
    pub fn new(poller: &Poller) -> Result<Dns, GatewayError> {
        let listener = StackSocket::create(poller, &poller.shared.net, SOCK_STREAM, Token::Dns(0))?;
        listener.socket().bind(&SockAddr::from(SocketAddr::from((poller.shared.config.dns, PORT))))?;
        listener.socket().listen(16)?;
        let (queries, rx) = mpsc::channel(MAX_QUERIES);
        let shared = Arc::downgrade(&poller.shared);
        std::thread::Builder::new().name("dns".into()).spawn(move || resolve_all(rx, shared))?;
        Ok(Dns { listener, streams: HashMap::new(), next: 0, queries })
    }

    /// Whether a datagram to `dst` is ours.
    pub fn is_for(&self, poller: &Poller, dst: SocketAddr) -> bool {
        dst == SocketAddr::new(IpAddr::V4(poller.shared.config.dns), PORT)
    }

    /// A query by UDP.
    pub fn datagram(&mut self, _poller: &Poller, src: SocketAddr, dst: SocketAddr, payload: &[u8]) {
        let Ok(message) = Message::from_vec(payload) else { return };
        let room = message.edns.as_ref().map_or(PLAIN_UDP, |e| (e.max_payload() as usize).max(PLAIN_UDP));
        let _ = self.queries.try_send(Query { from: Asker::Udp { src, dst, room }, message });
    }

    /// A connection by TCP, or more of one.
    pub fn event(&mut self, poller: &Poller, n: u32) {
        if n == 0 {
            self.listener.rearm();
            while let Ok(sock) = self.listener.accept() {
                if self.streams.len() >= MAX_TCP {
                    sock.release();
                    continue;
                }
                self.next = self.next.wrapping_add(1).max(1);
                let sock = StackSocket::adopt(&poller.shared, sock, Token::Dns(self.next));
                self.streams.insert(self.next, Stream { sock, input: Vec::new(), output: VecDeque::new() });
                self.advance(self.next);
            }
            return;
        }
        self.advance(n);
    }

    fn advance(&mut self, n: u32) {
        let Some(s) = self.streams.get_mut(&n) else { return };
        s.sock.rearm();
        let mut open = true;
        let mut got = VecDeque::new();
        loop {
            match s.sock.recv_frags(65536, &mut got) {
                Ok(0) => open = false,
                Ok(_) if s.input.len() < 1 << 17 => {
                    got.drain(..).for_each(|f| s.input.extend_from_slice(&f));
                    continue;
                }
                Err(uapi::Errno::EAGAIN) => {}
                _ => open = false,
            }
            break;
        }
        while let Some(message) = take_message(&mut s.input) {
            let _ = self.queries.try_send(Query { from: Asker::Tcp(n), message });
        }
        if !s.output.is_empty() {
            let _ = s.sock.send_frags(&mut s.output);
        }
        if !open {
            self.streams.remove(&n);
        }
    }

    /// Sends an answer to who asked.
    pub fn answer(&mut self, poller: &Poller, a: Answer) {
        match a.to {
            Asker::Udp { src, dst, .. } => {
                let _ = super::udp::send(poller, dst, src, &a.bytes);
            }
            Asker::Tcp(n) => {
                if let Some(s) = self.streams.get_mut(&n) {
                    s.output.push_back(Frag::copy_of(&(a.bytes.len() as u16).to_be_bytes()));
                    s.output.push_back(Frag::copy_of(&a.bytes));
                    let _ = s.sock.send_frags(&mut s.output);
                }
            }
        }
    }
}

/// RFC 1035, 4.2.2: two bytes of length, then the message.
fn take_message(input: &mut Vec<u8>) -> Option<Message> {
    let len = u16::from_be_bytes([*input.first()?, *input.get(1)?]) as usize;
    let message = Message::from_vec(input.get(2..2 + len)?).ok();
    input.drain(..2 + len);
    message
}

/// The resolver's thread: ends when the gateway does.
fn resolve_all(mut queries: mpsc::Receiver<Query>, shared: Weak<Shared>) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    let resolver =
        runtime.block_on(async { TokioResolver::builder_tokio().and_then(|b| b.build()).ok() }).map(Arc::new);
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        while let Some(q) = queries.recv().await {
            let (resolver, shared) = (resolver.clone(), shared.clone());
            tokio::task::spawn_local(async move {
                let bytes = resolve(resolver.as_deref(), q.message, q.from).await;
                if let (Some(bytes), Some(s)) = (bytes, shared.upgrade()) {
                    s.push(Work::Answer(Answer { to: q.from, bytes }));
                }
            });
        }
    });
}

/// Answers one query; `None` for what is none.
async fn resolve(resolver: Option<&TokioResolver>, query: Message, from: Asker) -> Option<Vec<u8>> {
    if query.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.add_queries(query.queries.clone());
    if let Some(edns) = &query.edns {
        let mut ours = hickory_resolver::proto::op::Edns::new();
        ours.set_max_payload(edns.max_payload().max(PLAIN_UDP as u16));
        reply.set_edns(ours);
    }
    match (query.metadata.op_code, query.queries.first(), resolver) {
        (OpCode::Query, Some(q), Some(r)) => match r.lookup(q.name().clone(), q.query_type()).await {
            Ok(found) => {
                reply.add_answers(found.answers().iter().cloned());
            }
            Err(e) => reply.metadata.response_code = response_code(&e),
        },
        (OpCode::Query, Some(_), None) => reply.metadata.response_code = ResponseCode::ServFail,
        (OpCode::Query, None, _) => reply.metadata.response_code = ResponseCode::FormErr,
        _ => reply.metadata.response_code = ResponseCode::NotImp,
    }
    let bytes = reply.to_vec().ok()?;
    match from {
        Asker::Udp { room, .. } if bytes.len() > room => reply.truncate().to_vec().ok(),
        _ => Some(bytes),
    }
}

fn response_code(e: &hickory_resolver::net::NetError) -> ResponseCode {
    use hickory_resolver::net::{DnsError, NetError};
    match e {
        NetError::Dns(DnsError::NoRecordsFound(n)) => n.response_code,
        _ => ResponseCode::ServFail,
    }
}
