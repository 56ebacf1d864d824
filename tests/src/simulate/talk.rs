//! The two ends of a conversation, as ordinary blocking programs.
//!
//! Interface: [`client`] (by the library's sockets), [`serve`] (by the bare calls), [`End`].
//! Linux counterpart: what programs do.
//! Locks and context: simulated tasks.

use crate::simulate::bytes::Bytes;
use crate::simulate::scenario::{Plant, SEC, Talk, TalkKind};
use sim::Machine;
use sockeye::bsd::{FdTable, PollFd, PollMask};
use sockeye::{Stack, TcpStream};
use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::rc::Rc;
use uapi::socket::{AF_INET6, SHUT_WR, SO_KEEPALIVE, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET};
use uapi::tcp::{TCP_KEEPCNT, TCP_KEEPIDLE, TCP_KEEPINTVL};
use uapi::{Errno, SockAddr};

pub const PORT: u16 = 7;
const SOL_TCP: i32 = 6;
/// Keepalives: after a minute of nothing, six, ten seconds apart.
const KEEPALIVE: [(i32, i32); 3] = [(TCP_KEEPIDLE, 60), (TCP_KEEPINTVL, 10), (TCP_KEEPCNT, 6)];
/// Bytes given to one call, at most.
const PIECE: usize = 32 * 1024;

/// What an end of a conversation has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    pub connected: bool,
    /// Bytes that the socket took, and that it gave.
    pub sent: u64,
    pub received: u64,
    /// The other end has said that it is done.
    pub eof: bool,
    pub error: Option<Errno>,
    /// What was received is not what was sent, from here on.
    pub wrong_at: Option<u64>,
    /// Virtual nanoseconds.
    pub over_at: u64,
}

impl End {
    /// Everything was said and heard.
    pub fn is_fine(&self) -> bool {
        self.connected && self.eof && self.error.is_none() && self.wrong_at.is_none()
    }
}

/// A stream, however it is reached.
trait Stream {
    fn read(&self, buf: &mut [u8]) -> Result<usize, Errno>;
    fn write(&self, buf: &[u8]) -> Result<usize, Errno>;
    fn shut_down(&self) -> Result<(), Errno>;

    /// Says that nothing more comes. A connection that has been reset answers `ENOTCONN`, as on Linux, and keeps the reason
    /// for the next call.
    fn finish(&self) -> Result<(), Errno> {
        match self.shut_down() {
            Err(Errno::ENOTCONN) => Err(self.read(&mut [0]).err().unwrap_or(Errno::ENOTCONN)),
            r => r,
        }
    }
}

impl Stream for TcpStream {
    fn read(&self, buf: &mut [u8]) -> Result<usize, Errno> {
        Read::read(&mut &*self, buf).map_err(|e| Errno::from_io(&e))
    }
    fn write(&self, buf: &[u8]) -> Result<usize, Errno> {
        Write::write(&mut &*self, buf).map_err(|e| Errno::from_io(&e))
    }
    fn shut_down(&self) -> Result<(), Errno> {
        self.shutdown(Shutdown::Write).map_err(|e| Errno::from_io(&e))
    }
}

/// A descriptor; closed when it is dropped.
struct Fd {
    files: Rc<FdTable>,
    fd: i32,
}

impl Stream for Fd {
    fn read(&self, buf: &mut [u8]) -> Result<usize, Errno> {
        self.files.recv(self.fd, buf, 0)
    }
    fn write(&self, buf: &[u8]) -> Result<usize, Errno> {
        self.files.send(self.fd, buf, uapi::socket::MSG_NOSIGNAL)
    }
    fn shut_down(&self) -> Result<(), Errno> {
        self.files.shutdown(self.fd, SHUT_WR)
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // Nobody else has it, so it is there.
        let _ = self.files.close(self.fd);
    }
}

/// One end at work.
struct Worker<S: Stream> {
    stream: Rc<S>,
    out: Bytes,
    input: Bytes,
    end: End,
    /// Leaves the byte with this number out.
    leave_out: Option<u64>,
}

impl<S: Stream + 'static> Worker<S> {
    fn new(stream: S, seed: u64, talk: u32, is_client: bool) -> Worker<S> {
        Worker {
            stream: Rc::new(stream),
            out: Bytes::new(seed, talk, is_client),
            input: Bytes::new(seed, talk, !is_client),
            end: End { connected: true, ..End::default() },
            leave_out: None,
        }
    }

    fn send(&mut self, len: u64) -> Result<(), Errno> {
        let mut buf = vec![0; PIECE.min(len as usize)];
        let until = self.out.count() + len;
        while self.out.count() < until {
            let n = (until - self.out.count()).min(PIECE as u64) as usize;
            self.out.fill(&mut buf[..n]);
            if let Some(at) = self.leave_out.filter(|at| (self.out.count()..self.out.count() + n as u64).contains(at)) {
                buf[(at - self.out.count()) as usize] ^= 1;
            }
            let n = self.stream.write(&buf[..n])?;
            self.out.advance(n);
        }
        Ok(())
    }

    /// Receives up to `len` bytes, or to the end.
    fn receive(&mut self, len: u64) -> Result<(), Errno> {
        let mut buf = vec![0; PIECE];
        let until = self.input.count().saturating_add(len);
        while self.input.count() < until && !self.end.eof {
            let n = (until - self.input.count()).min(PIECE as u64) as usize;
            match self.stream.read(&mut buf[..n])? {
                0 => self.end.eof = true,
                n => self.check(&buf[..n])?,
            }
        }
        Ok(())
    }

    fn check(&mut self, got: &[u8]) -> Result<(), Errno> {
        if let Err(at) = self.input.check(got) {
            self.end.wrong_at.get_or_insert(at);
            return Err(Errno::EBADMSG);
        }
        Ok(())
    }

    fn rounds(&mut self, k: TalkKind, is_client: bool) -> Result<(), Errno> {
        let TalkKind::Rounds { rounds, request, answer, think } = k else { return Ok(()) };
        for _ in 0..rounds {
            if is_client {
                self.send(request.into())?;
                self.receive(answer.into())?;
                sim::sleep(think);
            } else {
                self.receive(request.into())?;
                if self.end.eof {
                    return Ok(());
                }
                self.send(answer.into())?;
            }
            if self.end.eof {
                return Ok(());
            }
        }
        self.stream.finish()?;
        self.receive(u64::MAX)
    }

    /// Another task sends while this one receives.
    fn duplex(&mut self, machine: &Machine, len: u64, seed: u64, talk: u32, is_client: bool) -> Result<(), Errno> {
        let mut sender = Worker {
            stream: self.stream.clone(),
            out: Bytes::new(seed, talk, is_client),
            input: Bytes::new(seed, talk, !is_client),
            end: End::default(),
            leave_out: self.leave_out,
        };
        let task = machine.spawn("sender", move || {
            let r = sender.send(len).and_then(|()| sender.stream.finish());
            (sender.out.count(), r)
        });
        let received = self.receive(u64::MAX);
        let (sent, r) = task.join().unwrap_or((0, Err(Errno::EINTR)));
        self.out.advance(sent as usize);
        received.and(r)
    }

    fn run(mut self, machine: &Machine, kind: TalkKind, seed: u64, talk: u32, is_client: bool) -> End {
        let r = match kind {
            TalkKind::Rounds { .. } => self.rounds(kind, is_client),
            TalkKind::Duplex { up, down } => {
                self.duplex(machine, if is_client { up } else { down }, seed, talk, is_client)
            }
        };
        self.end.error = r.err();
        (self.end.sent, self.end.received) = (self.out.count(), self.input.count());
        self.end.over_at = sim::now();
        drop(self.stream);
        self.end
    }
}

/// The client's end, from connecting to the last byte.
pub fn client(machine: &Machine, stack: &Stack, to: IpAddr, talk: &Talk, seed: u64) -> End {
    let failed = |e: std::io::Error| End { error: Some(Errno::from_io(&e)), over_at: sim::now(), ..End::default() };
    let stream = match TcpStream::connect(stack, SocketAddr::new(to, PORT)) {
        Ok(s) => s,
        Err(e) => return failed(e),
    };
    if talk.keepalive {
        let set = |level, name, v: i32| stream.socket().setsockopt(level, name, &v.to_ne_bytes());
        let options = KEEPALIVE.iter().map(|&(name, v)| (SOL_TCP, name, v)).chain([(SOL_SOCKET, SO_KEEPALIVE, 1)]);
        options.for_each(|(level, name, v)| set(level, name, v).expect("an option that exists"));
    }
    // Who it is.
    if let Err(e) = Stream::write(&stream, &talk.id.to_le_bytes()) {
        return End { connected: true, error: Some(e), over_at: sim::now(), ..End::default() };
    }
    Worker::new(stream, seed, talk.id, true).run(machine, talk.kind, seed, talk.id, true)
}

/// What servers know and say.
pub struct Server {
    pub machine: Machine,
    pub files: Rc<FdTable>,
    pub seed: u64,
    pub talks: Rc<Vec<Talk>>,
    /// The ends of conversations, by number; those that never said who they are have none.
    pub ends: Rc<RefCell<Vec<(Option<u32>, End)>>>,
    pub until: u64,
    pub plant: Option<Plant>,
}

/// Accepts connections until `until`, and serves each in a task of its own.
pub fn serve(s: &Rc<Server>) -> Result<(), Errno> {
    let fd = loop {
        // There may be no memory for it just now.
        match s.files.socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0) {
            Err(Errno::ENOBUFS) => sim::sleep(SEC),
            r => break r?,
        }
    };
    let listener = Fd { files: s.files.clone(), fd };
    let any: SocketAddr = (std::net::Ipv6Addr::UNSPECIFIED, PORT).into();
    s.files.bind(listener.fd, &SockAddr::from(any))?;
    s.files.listen(listener.fd, 128)?;
    loop {
        let left = s.until.saturating_sub(sim::now());
        if left == 0 {
            return Ok(());
        }
        let mut p = [PollFd::new(listener.fd, PollMask::IN)];
        s.files.poll(&mut p, left.div_ceil(1_000_000).min(i32::MAX as u64) as i32)?;
        match s.files.accept(listener.fd) {
            Ok((fd, _)) => answer(s, Fd { files: s.files.clone(), fd }),
            // Nothing yet; or it was reset while it waited.
            Err(Errno::EAGAIN | Errno::ECONNABORTED) => {}
            Err(e) => return Err(e),
        }
    }
}

fn answer(s: &Rc<Server>, fd: Fd) {
    let server = s.clone();
    s.machine.spawn("answer", move || {
        let (talk, end) = conversation(&server, fd);
        server.ends.borrow_mut().push((talk, end));
    });
}

fn conversation(s: &Server, fd: Fd) -> (Option<u32>, End) {
    let options = KEEPALIVE.iter().map(|&(name, v)| (SOL_TCP, name, v)).chain([(SOL_SOCKET, SO_KEEPALIVE, 1)]);
    for (level, name, v) in options {
        s.files.setsockopt(fd.fd, level, name, &v.to_ne_bytes()).expect("an option that exists");
    }
    let mut id = [0; 4];
    let mut have = 0;
    while have < 4 {
        match fd.read(&mut id[have..]) {
            Ok(0) => return (None, End { connected: true, eof: true, over_at: sim::now(), ..End::default() }),
            Ok(n) => have += n,
            Err(e) => return (None, End { connected: true, error: Some(e), over_at: sim::now(), ..End::default() }),
        }
    }
    let id = u32::from_le_bytes(id);
    let Some(talk) = s.talks.binary_search_by_key(&id, |t| t.id).ok().map(|i| &s.talks[i]) else {
        return (None, End { wrong_at: Some(0), connected: true, over_at: sim::now(), ..End::default() });
    };
    let mut worker = Worker::new(fd, s.seed, id, false);
    if s.plant == Some(Plant::LostByte) {
        worker.leave_out = Some(20_000);
    }
    (Some(id), worker.run(&s.machine, talk.kind, s.seed, id, false))
}
