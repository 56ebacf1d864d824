//! `sendto(2)` with an address, `sendmsg(2)`, `sendmmsg(2)`.
//!
//! Interface: [`sendto`], [`sendmsg`], [`sendmmsg`].
//! Linux counterpart: `__sys_sendto`, `___sys_sendmsg`, `__sys_sendmmsg`.
//! Locks and context: the supervisor's thread.
//!
//! On a stream the host sends: what is left of a message is its bytes. A datagram goes straight to the stack.

use super::msg::{control_from_user, gather};
use super::native::until_ready;
use super::user::{self, UserMsg};
use crate::mem::Range;
use crate::notif::Call;
use crate::state::{Answer, State};
use crate::wake::Id;
use crate::{mem, pump, sys};
use kernel::{Frag, Wait};
use net::core::iov_iter::{CMsg, IovIter, MsgHdr};
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::task::Poll;
use uapi::socket::MSG_DONTWAIT;
use uapi::{Errno, Result, SockAddr};

/// `UIO_MAXIOV`, which also bounds a `sendmmsg`.
const MAX_MESSAGES: u32 = mem::UIO_MAXIOV as u32;

/// A datagram that the program sends.
struct Outgoing {
    name: Option<SockAddr>,
    frags: VecDeque<Frag>,
    control: Vec<CMsg>,
    flags: i32,
}

pub fn sendto(st: &mut State, call: &Call) -> Option<Answer> {
    let (id, dup) = match st.lookup(call) {
        Ok(found) => found,
        Err(a) => return Some(a),
    };
    let range = [Range { addr: call.args[1], len: call.args[2] as usize }];
    if st.table.get(id)?.is_stream() {
        return stream_sendto(st, call, id, dup, &range);
    }
    let flags = call.int(3) | nonblock_flag(&dup);
    let out = user::sockaddr(call.tid, call.args[4], call.int(5)).and_then(|name| {
        Ok(Outgoing { name: Some(name), frags: gather(st, call.tid, &range)?, control: vec![], flags })
    });
    send(st, call, id, out)
}

pub fn sendmsg(st: &mut State, call: &Call) -> Option<Answer> {
    let (id, dup) = match st.lookup(call) {
        Ok(found) => found,
        Err(a) => return Some(a),
    };
    if st.table.get(id)?.is_stream() {
        return Some(Answer::Pass);
    }
    let flags = call.int(2) | nonblock_flag(&dup);
    let out = outgoing(st, call.tid, call.args[1], flags);
    send(st, call, id, out)
}

pub fn sendmmsg(st: &mut State, call: &Call) -> Option<Answer> {
    let (id, dup) = match st.lookup(call) {
        Ok(found) => found,
        Err(a) => return Some(a),
    };
    if st.table.get(id)?.is_stream() {
        return Some(Answer::Pass);
    }
    let (at, count) = (call.args[1], (call.args[2] as u32).min(MAX_MESSAGES));
    let flags = call.int(3) | nonblock_flag(&dup);
    pump::drain(st, id);
    let (call, mut done, mut current) = (*call, 0u32, None::<Outgoing>);
    st.run(&call, id, flags & MSG_DONTWAIT != 0, move |st, w| {
        while done < count {
            let head = at + u64::from(done) * UserMsg::MMSG_SIZE;
            if current.is_none() {
                match outgoing(st, call.tid, head, flags) {
                    Ok(o) => current = Some(o),
                    Err(e) => return Poll::Ready(partial(done, e)),
                }
            }
            let Some(out) = &current else { break };
            match transmit(st, id, out, w) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(e)) => return Poll::Ready(partial(done, e)),
                Poll::Ready(Ok(n)) => {
                    w.reset();
                    current = None;
                    if let Err(e) = mem::write_value(call.tid, head + UserMsg::SIZE, n as u32) {
                        return Poll::Ready(partial(done, e));
                    }
                    done += 1;
                }
            }
        }
        Poll::Ready(Answer::Value(done.into()))
    })
}

/// Messages already sent hide an error that came after them.
fn partial(done: u32, e: Errno) -> Answer {
    if done > 0 { Answer::Value(done.into()) } else { e.into() }
}

fn nonblock_flag(dup: &OwnedFd) -> i32 {
    if sys::is_nonblocking(dup.as_fd()) { MSG_DONTWAIT } else { 0 }
}

fn outgoing(st: &mut State, tid: u32, at: u64, flags: i32) -> Result<Outgoing> {
    let m = UserMsg::read(tid, at)?;
    let name = match (m.name, m.namelen) {
        (0, _) | (_, 0) => None,
        (addr, len) => Some(user::sockaddr(tid, addr, len)?),
    };
    Ok(Outgoing { name, control: control_from_user(tid, &m)?, frags: gather(st, tid, &m.iov)?, flags })
}

fn send(st: &mut State, call: &Call, id: Id, out: Result<Outgoing>) -> Option<Answer> {
    let out = match out {
        Ok(o) => o,
        Err(e) => return Some(e.into()),
    };
    if !st.notif.is_valid(call.id) {
        return None;
    }
    pump::drain(st, id);
    let nonblock = out.flags & MSG_DONTWAIT != 0;
    st.run(call, id, nonblock, move |st, w| transmit(st, id, &out, w).map(|r| r.map(|n| n as i64).into()))
}

/// The datagram is given to the stack again whole when it had no room; its bytes are shared, not copied.
fn transmit(st: &mut State, id: Id, out: &Outgoing, w: &mut Wait) -> Poll<Result<usize>> {
    let sock = match st.sock(id) {
        Ok(s) => s,
        Err(e) => return Poll::Ready(Err(e)),
    };
    let mut msg = MsgHdr::new(IovIter::SourceFrags(out.frags.clone()));
    msg.name = out.name;
    msg.control = out.control.clone();
    msg.flags = out.flags;
    sock.sendmsg(&mut msg, w)
}

/// A connected stream has no use for an address; the bytes go the way that `send` takes.
fn stream_sendto(st: &mut State, call: &Call, id: Id, dup: OwnedFd, range: &[Range]) -> Option<Answer> {
    if call.int(3) & libc::MSG_FASTOPEN != 0 {
        return Some(Errno::EOPNOTSUPP.into());
    }
    let frags = match gather(st, call.tid, range) {
        Ok(f) => f,
        Err(e) => return Some(e.into()),
    };
    if !st.notif.is_valid(call.id) {
        return None;
    }
    let nonblock = (call.int(3) | nonblock_flag(&dup)) & MSG_DONTWAIT != 0;
    // A part may go; the caller of a stream's send reckons with that.
    until_ready(st, call, id, nonblock, move |st| {
        let r = sys::send_frags(dup.as_fd(), &frags);
        pump::pump(st, id);
        Ok(r? as i64)
    })
}
