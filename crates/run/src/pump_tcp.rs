//! Moves the bytes of streams between a program's end and the stack, and the ends of data, resets and readiness with them.
//!
//! Interface: [`pump`], [`transmit`], [`tokens`], [`shut_by_call`].
//! Linux counterpart: none; this is what makes an AF_UNIX socket look like a TCP socket.
//! Locks and context: the supervisor's thread.
//!
//! What the program can see, and what makes it so:
//!
//! | TCP | the program's end |
//! |---|---|
//! | connecting | our end is filled with bytes, so it is not writable; drained when the handshake ends |
//! | connection failed | our end is closed with a byte unread: readable, writable, in error, hung up |
//! | connections to accept | a byte each to read, taken back when one is accepted |
//! | FIN | our end is shut for writing |
//! | RST | a byte is put into our end, which is closed: queued data, then `ECONNRESET` |
//!
//! And the other way: a hang-up is a close; a close with data unread shows as `ECONNRESET` on our end and sends RST.

use crate::state::{PAGE, State, hung_up};
use crate::sys;
use crate::table::Role;
use crate::wake::Id;
use net::core::iov_iter::{IovIter, MsgHdr};
use std::os::fd::{AsFd, BorrowedFd};
use uapi::poll::Poll as Mask;
use uapi::socket::{MSG_DONTWAIT, MSG_NOSIGNAL, SHUT_WR, SO_LINGER, SOL_SOCKET};
use uapi::tcp::TcpState;
use uapi::{Errno, Result};

/// Rounds before another socket has its turn.
const ROUNDS: usize = 16;
/// Bytes taken from the stack at once.
const RECV_ROOM: usize = 256 * 1024;
/// A page with less room than this is not read into.
const MIN_ROOM: usize = 2048;
/// Makes an AF_UNIX socket with the default send buffer (212,992) not writable: its memory passes a quarter of it.
const PREFILL: usize = 80 * 1024;
/// Pending connections shown at most.
const MAX_TOKENS: usize = 128;

/// Does everything that can be done for a stream now.
pub fn pump(st: &mut State, id: Id) {
    let Some(role) = st.table.get(id).and_then(|e| e.role()) else { return };
    match role {
        Role::Fresh | Role::Dead => fresh(st, id),
        Role::Listener => {
            if closed(st, id) {
                return st.release(id);
            }
            tokens(st, id, None);
        }
        Role::Connecting { prefill } => connecting(st, id, prefill),
        Role::Data => data(st, id),
    }
}

/// The same when the stack has news: a stream that carries data is only read from the program if something was left there.
pub fn stack_ready(st: &mut State, id: Id) {
    let Some(e) = st.table.get(id) else { return };
    let more = std::mem::take(&mut e.more);
    match e.stream() {
        Some(s) if s.role == Role::Data => {
            if more || !s.tx.is_empty() || s.eof {
                transmit(st, id);
            }
            from_stack(st, id);
        }
        _ => pump(st, id),
    }
}

/// The same when the program has written, and nothing else has happened.
pub fn program_wrote(st: &mut State, id: Id) {
    match st.table.get(id).and_then(|e| e.role()) {
        Some(Role::Data) => read_and_send(st, id, true),
        _ => pump(st, id),
    }
}

fn fresh(st: &mut State, id: Id) {
    if closed(st, id) {
        st.release(id);
    }
}

/// Whether the program has closed its end.
fn closed(st: &mut State, id: Id) -> bool {
    let Some(e) = st.table.get(id) else { return false };
    let by_call = e.stream().is_some_and(|s| s.shut_by_call);
    match &e.ours {
        Some(ours) if hung_up(ours.as_fd()) => !by_call || st.witness.alive().binary_search(&id).is_err(),
        _ => false,
    }
}

// --- Connecting ---

/// After a `connect` that was answered with `EINPROGRESS`: keeps the program's end from being writable until it is done.
pub fn start_connecting(st: &mut State, id: Id, dup: BorrowedFd<'_>) {
    let Some(e) = st.table.get(id) else { return };
    if established(&e.sock.sk) {
        set_role(st, id, Role::Data);
        return;
    }
    let mut prefill = 0;
    while prefill < PREFILL {
        match sys::send(dup, &[0; 16 * 1024]) {
            Ok(n) => prefill += n,
            Err(_) => break,
        }
    }
    set_role(st, id, Role::Connecting { prefill });
    pump(st, id);
}

fn established(sk: &net::core::sock::Sock) -> bool {
    let set = TcpState::Established.flag() | TcpState::CloseWait.flag() | TcpState::FinWait1.flag();
    sk.state().is_in(set)
}

pub fn set_role(st: &mut State, id: Id, role: Role) {
    if let Some(s) = st.table.get(id).and_then(|e| e.stream()) {
        s.role = role;
    }
}

fn connecting(st: &mut State, id: Id, prefill: usize) {
    let Some(e) = st.table.get(id) else { return };
    if e.ours.as_ref().is_some_and(|o| hung_up(o.as_fd())) {
        return st.release(id);
    }
    let mask = e.sock.poll();
    if mask.intersects(Mask::ERR | Mask::HUP) && !established(&e.sock.sk) {
        match prefill {
            0 => set_role(st, id, Role::Fresh),
            _ => fail(st, id, Role::Dead),
        }
    } else if mask.contains(Mask::OUT) || established(&e.sock.sk) {
        set_role(st, id, Role::Data);
        drain(st, id, prefill);
        data(st, id);
    }
}

/// Takes what kept the program's end from being writable.
fn drain(st: &mut State, id: Id, mut prefill: usize) {
    let Some(ours) = st.table.get(id).and_then(|e| e.ours.as_ref()) else { return };
    let mut junk = [0; 16 * 1024];
    while prefill > 0 {
        let take = prefill.min(junk.len());
        match sys::recv(ours.as_fd(), &mut junk[..take], 0) {
            Ok(n) if n > 0 => prefill -= n,
            _ => break,
        }
    }
}

// --- Data ---

fn data(st: &mut State, id: Id) {
    transmit(st, id);
    from_stack(st, id);
}

fn from_stack(st: &mut State, id: Id) {
    receive(st, id);
    let Some(e) = st.table.get(id) else { return };
    let sk_err = e.sock.sk.err().is_some();
    let Some(s) = e.stream() else { return };
    // A reset after the peer's end of data: nothing is read from the stack any more that would tell.
    if s.role == Role::Data && s.peer_fin && sk_err {
        s.failed = true;
        finish_failure(st, id);
    }
}

/// From the program to the stack, as far as both have room and data.
pub fn transmit(st: &mut State, id: Id) {
    read_and_send(st, id, false)
}

/// With `until_short` a short read is the last: the caller knows that no end of data waits behind it, and what comes later
/// comes with an edge of its own.
fn read_and_send(st: &mut State, id: Id, until_short: bool) {
    for _ in 0..ROUNDS {
        if !send_queued(st, id) {
            return;
        }
        match read_program(st, id) {
            Read::Short if until_short => {
                send_queued(st, id);
                return;
            }
            Read::Full | Read::Short => {}
            Read::Nothing => return,
            Read::End => {
                if st.table.get(id).and_then(|e| e.stream()).is_some_and(|s| s.tx.is_empty()) {
                    end_of_data(st, id);
                }
                return;
            }
        }
    }
    if let Some(e) = st.table.get(id) {
        e.more = true;
    }
    again(st, id);
}

/// Has the socket looked at again when the others have had their turn.
fn again(st: &mut State, id: Id) {
    if let Some(e) = st.table.get(id)
        && !e.queued.swap(true, std::sync::atomic::Ordering::SeqCst)
    {
        st.wakeups.socket(id);
    }
}

enum Read {
    /// As much as there was room for.
    Full,
    /// All there was.
    Short,
    Nothing,
    End,
}

fn read_program(st: &mut State, id: Id) -> Read {
    let State { table, page, .. } = st;
    let Some(e) = table.get(id) else { return Read::Nothing };
    let Some(ours) = e.ours.as_ref().map(|o| o.as_fd()) else { return Read::Nothing };
    let crate::table::Flow::Stream(s) = &mut e.flow else { return Read::Nothing };
    if s.role != Role::Data {
        return Read::Nothing;
    }
    if s.eof {
        return Read::End;
    }
    if page.len() < MIN_ROOM || (s.bulk && page.len() < PAGE / 2) {
        *page = kernel::PageMut::alloc(PAGE);
    }
    let room = page.len();
    match sys::recv(ours, page.as_mut_slice(), 0) {
        Ok(0) => {
            s.eof = true;
            Read::End
        }
        Ok(n) => {
            s.bulk = n == room || n > PAGE / 4;
            s.tx.push_back(page.freeze(n));
            if n == room { Read::Full } else { Read::Short }
        }
        Err(Errno::EAGAIN | Errno::EINTR) => Read::Nothing,
        // Closed with data unread.
        Err(_) => {
            s.eof = true;
            abort(&e.sock);
            e.closing = true;
            Read::End
        }
    }
}

/// Has the release of the socket send RST (RFC 9293, 3.10.4: data the user never read is lost, and the peer must know).
fn abort(sock: &net::socket::Socket) {
    let linger = [1i32.to_ne_bytes(), 0i32.to_ne_bytes()].concat();
    let _ = sock.setsockopt(SOL_SOCKET, SO_LINGER, &linger);
}

/// `true` when nothing is left to send.
fn send_queued(st: &mut State, id: Id) -> bool {
    let mut retried = false;
    loop {
        let Some(e) = st.table.get(id) else { return false };
        let sock = e.sock.clone();
        let Some(s) = e.stream() else { return false };
        if s.tx.is_empty() {
            return true;
        }
        let mut msg = MsgHdr::new(IovIter::SourceFrags(std::mem::take(&mut s.tx)));
        msg.flags = MSG_DONTWAIT | MSG_NOSIGNAL;
        let r = st.without_waiting(|w| sock.sendmsg(&mut msg, w));
        let Some(s) = st.table.get(id).and_then(|e| e.stream()) else { return false };
        if let IovIter::SourceFrags(left) = msg.iter {
            s.tx = left;
        }
        match r {
            Ok(_) => {}
            // The look at the socket has asked for the news of room; there may be some by now.
            Err(Errno::EAGAIN) if !retried && sock.poll().contains(Mask::OUT) => retried = true,
            Err(Errno::EAGAIN) => return false,
            Err(err) => {
                // The connection is gone: as TCP does with what it cannot send, forget it.
                s.tx.clear();
                if s.role == Role::Data && err != Errno::ENOTCONN && !s.eof {
                    st.note_error(id, err);
                    receive(st, id);
                    if let Some(s) = st.table.get(id).and_then(|e| e.stream()).filter(|s| s.role == Role::Data) {
                        s.failed = true;
                        finish_failure(st, id);
                    }
                    return false;
                }
                return true;
            }
        }
    }
}

/// Everything before the program's end of data is with the stack: a close, or `shutdown(SHUT_WR)`.
fn end_of_data(st: &mut State, id: Id) {
    let Some(e) = st.table.get(id) else { return };
    let closing = e.closing;
    if closing || closed(st, id) {
        return st.release(id);
    }
    let Some(e) = st.table.get(id) else { return };
    let sock = e.sock.clone();
    if let Some(s) = e.stream()
        && !std::mem::replace(&mut s.fin_sent, true)
    {
        let _ = sock.shutdown(SHUT_WR);
    }
}

/// From the stack to the program.
pub fn receive(st: &mut State, id: Id) {
    for _ in 0..ROUNDS {
        if !deliver(st, id) {
            return;
        }
        let Some(e) = st.table.get(id) else { return };
        let sock = e.sock.clone();
        let Some(s) = e.stream() else { return };
        if s.failed {
            return finish_failure(st, id);
        }
        if s.peer_fin || s.role != Role::Data {
            return;
        }
        let mut msg = MsgHdr::new(IovIter::DestFrags { frags: Vec::new(), room: RECV_ROOM });
        let r = st.without_waiting(|w| sock.recvmsg(&mut msg, MSG_DONTWAIT, w));
        let Some(s) = st.table.get(id).and_then(|e| e.stream()) else { return };
        match r {
            Ok(0) => return end_from_peer(st, id),
            Ok(_) => {
                if let IovIter::DestFrags { frags, .. } = msg.iter {
                    s.rx.extend(frags);
                }
            }
            Err(Errno::EAGAIN | Errno::ENOTCONN | Errno::EINTR) => return,
            Err(err) => {
                s.failed = true;
                st.note_error(id, err);
                return finish_failure(st, id);
            }
        }
    }
    again(st, id);
}

fn end_from_peer(st: &mut State, id: Id) {
    let Some(e) = st.table.get(id) else { return };
    if let Some(ours) = &e.ours {
        sys::shutdown(ours.as_fd(), libc::SHUT_WR);
    }
    if let Some(s) = e.stream() {
        s.peer_fin = true;
    }
}

/// Gives the program what is there for it; `true` when nothing is left.
fn deliver(st: &mut State, id: Id) -> bool {
    loop {
        let Some(e) = st.table.get(id) else { return false };
        let crate::table::Flow::Stream(s) = &mut e.flow else { return false };
        if s.rx.is_empty() {
            if e.want_out {
                st.want_out(id, false);
            }
            return true;
        }
        let Some(ours) = &e.ours else {
            s.rx.clear();
            return true;
        };
        match sys::send_frags(ours.as_fd(), &s.rx) {
            Ok(n) => advance(&mut s.rx, n),
            Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM) => {
                st.want_out(id, true);
                return false;
            }
            // The program reads no more: what comes is taken and forgotten.
            Err(_) => s.rx.clear(),
        }
    }
}

/// Drops `n` bytes from the front.
fn advance(frags: &mut std::collections::VecDeque<kernel::Frag>, mut n: usize) {
    while let Some(f) = frags.front_mut().filter(|_| n > 0) {
        let len = f.len().min(n);
        f.advance(len);
        n -= len;
        if f.is_empty() {
            frags.pop_front();
        }
    }
}

impl State {
    fn note_error(&mut self, id: Id, err: Errno) {
        if let Some(e) = self.table.get(id) {
            e.err = err.0;
        }
    }
}

/// The connection has failed, and nothing is left for the program to read before it learns of it.
fn finish_failure(st: &mut State, id: Id) {
    let Some(e) = st.table.get(id) else { return };
    if e.stream().is_some_and(|s| !s.rx.is_empty()) {
        return;
    }
    fail(st, id, Role::Dead);
}

/// Closes our end so that the program's reads answer `ECONNRESET`.
fn fail(st: &mut State, id: Id, role: Role) {
    set_role(st, id, role);
    if closed(st, id) {
        return st.release(id);
    }
    let Some(dup) = st.dup_of(id) else {
        // Nobody within reach holds it: whoever does sees the end of data.
        st.drop_ours(id);
        return;
    };
    let _ = sys::send(dup.as_fd(), &[0]);
    st.witness.watch(dup.as_fd(), id);
    st.drop_ours(id);
}

// --- Called by system calls ---

/// `shutdown(SHUT_WR)` by the program: the end of data comes to our end behind what was written before.
pub fn shut_by_call(st: &mut State, id: Id, dup: BorrowedFd<'_>) {
    st.witness.watch(dup, id);
    if let Some(s) = st.table.get(id).and_then(|e| e.stream()) {
        s.shut_by_call = true;
    }
    sys::shutdown(dup, libc::SHUT_WR);
    pump(st, id);
}

/// Shows a listener's pending connections, a byte each: one event each for whoever waits. `dup` is at hand when some may
/// have to be taken back.
pub fn tokens(st: &mut State, id: Id, dup: Option<BorrowedFd<'_>>) {
    let Some(e) = st.table.get(id) else { return };
    let queued = e.sock.sk.rare.ack_backlog() as usize;
    let readable = usize::from(e.sock.poll().contains(Mask::IN));
    let crate::table::Flow::Stream(s) = &mut e.flow else { return };
    let pending = match readable {
        0 => s.stash.len(),
        _ => s.stash.len() + queued.max(1),
    };
    let want = pending.min(MAX_TOKENS);
    let Some(ours) = &e.ours else { return };
    while s.tokens < want && sys::send(ours.as_fd(), &[0]).is_ok() {
        s.tokens += 1;
    }
    let Some(dup) = dup else { return };
    while s.tokens > want {
        let _ = sys::recv(dup, &mut [0], 0);
        s.tokens -= 1;
    }
}

/// The stack's answer to a blocking `connect`.
pub fn connected(st: &mut State, id: Id, r: Result<()>) -> Result<()> {
    match r {
        Ok(()) => {
            set_role(st, id, Role::Data);
            data(st, id);
        }
        Err(_) => set_role(st, id, Role::Fresh),
    }
    r
}
