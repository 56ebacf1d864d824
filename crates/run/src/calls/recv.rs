//! `recvfrom(2)` with an address or flags, `recvmsg(2)`, `recvmmsg(2)`.
//!
//! Interface: [`recvfrom`], [`recvmsg`], [`recvmmsg`].
//! Linux counterpart: `__sys_recvfrom`, `___sys_recvmsg`, `__sys_recvmmsg`.
//! Locks and context: the supervisor's thread.
//!
//! On a stream the host receives. A datagram is first looked for in the program's end, then in the stack.

use super::msg::{Received, put_control};
use super::native::until_ready;
use super::user::{self, UserMsg};
use crate::mem::Range;
use crate::notif::Call;
use crate::pump_udp::MAX_MESSAGE;
use crate::state::{Answer, State};
use crate::table::Meta;
use crate::wake::Id;
use crate::{mem, pump, sys};
use kernel::{Frag, Wait};
use net::core::iov_iter::{IovIter, MsgHdr};
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::task::Poll;
use uapi::socket::{MSG_DONTWAIT, MSG_ERRQUEUE, MSG_PEEK, MSG_TRUNC};
use uapi::{Errno, Result};

const MSG_WAITFORONE: i32 = libc::MSG_WAITFORONE;
const MSG_CMSG_CLOEXEC: i32 = libc::MSG_CMSG_CLOEXEC;

pub fn recvfrom(st: &mut State, call: &Call) -> Option<Answer> {
    let call = *call;
    let flags = call.int(3);
    if let Some(a) = discard(st, &call, flags) {
        return a;
    }
    let range = [Range { addr: call.args[1], len: call.args[2] as usize }];
    receive(st, &call, flags, move |st, id, flags, w| match message(st, &call, id, flags, w) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(r) => Poll::Ready(r.and_then(|got| {
            let (n, _) = got.scatter(call.tid, &range)?;
            if call.args[4] != 0 {
                user::put_sockaddr(call.tid, call.args[4], call.args[5], got.meta.from.as_ref())?;
            }
            Ok(told(&got, n, flags))
        })),
    })
}

/// `MSG_TRUNC` on a stream takes bytes and gives none.
fn discard(st: &mut State, call: &Call, flags: i32) -> Option<Option<Answer>> {
    let (id, dup) = st.lookup(call).ok()?;
    if flags & MSG_TRUNC == 0 || flags & MSG_ERRQUEUE != 0 || !st.table.get(id)?.is_stream() {
        return None;
    }
    let nonblock = sys::is_nonblocking(dup.as_fd()) || flags & MSG_DONTWAIT != 0;
    let len = (call.args[2] as usize).min(MAX_MESSAGE);
    Some(until_ready(st, call, id, nonblock, move |st| {
        let n = sys::recv(dup.as_fd(), &mut st.page(MAX_MESSAGE).as_mut_slice()[..len], flags & MSG_PEEK)?;
        Ok(n as i64)
    }))
}

pub fn recvmsg(st: &mut State, call: &Call) -> Option<Answer> {
    let call = *call;
    receive(st, &call, call.int(2), move |st, id, flags, w| {
        message(st, &call, id, flags, w).map(|r| r.and_then(|got| put(call.tid, call.args[1], &got, flags)))
    })
}

pub fn recvmmsg(st: &mut State, call: &Call) -> Option<Answer> {
    let call = *call;
    let count = (call.args[2] as u32).min(mem::UIO_MAXIOV as u32);
    let mut done = 0u32;
    receive(st, &call, call.int(3), move |st, id, flags, w| {
        while done < count {
            let head = call.args[1] + u64::from(done) * UserMsg::MMSG_SIZE;
            let more = if done > 0 && flags & MSG_WAITFORONE != 0 { MSG_DONTWAIT } else { 0 };
            let r = match message(st, &call, id, flags & !MSG_WAITFORONE | more, w) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(r) => r.and_then(|got| put(call.tid, head, &got, flags)),
            };
            match r.and_then(|n| mem::write_value(call.tid, head + UserMsg::SIZE, n as u32)) {
                Err(_) if done > 0 => break,
                Err(e) => return Poll::Ready(Err(e)),
                Ok(()) => done += 1,
            }
            w.reset();
        }
        Poll::Ready(Ok(done.into()))
    })
}

/// What all three have in common: which socket, and whether to wait.
fn receive(
    st: &mut State,
    call: &Call,
    flags: i32,
    mut op: impl FnMut(&mut State, Id, i32, &mut Wait) -> Poll<Result<i64>> + 'static,
) -> Option<Answer> {
    let (id, dup) = match st.lookup(call) {
        Ok(found) => found,
        Err(a) => return Some(a),
    };
    if st.table.get(id)?.is_stream() {
        return Some(match flags & MSG_ERRQUEUE {
            0 => Answer::Pass,
            _ => Errno::EAGAIN.into(),
        });
    }
    let nonblock = sys::is_nonblocking(dup.as_fd()) || flags & MSG_DONTWAIT != 0;
    drop(dup);
    let flags = flags & !MSG_CMSG_CLOEXEC | if nonblock { MSG_DONTWAIT } else { 0 };
    let a = st.run(call, id, nonblock, move |st, w| op(st, id, flags, w).map(Answer::from));
    if a.is_some() {
        // The next message takes the place of the one that was read.
        pump::pump(st, id);
    }
    a
}

/// The next message: that in the program's end, that on the way there, or the stack's next.
fn message(st: &mut State, call: &Call, id: Id, flags: i32, w: &mut Wait) -> Poll<Result<Received>> {
    if let Some(r) = shown(st, call, id, flags) {
        return Poll::Ready(r);
    }
    let Some(e) = st.table.get(id) else { return Poll::Ready(Err(Errno::EBADF)) };
    let sock = e.sock.clone();
    if flags & MSG_ERRQUEUE == 0
        && let Some(m) = e.message()
        && let Some((frags, meta)) = if flags & MSG_PEEK != 0 { m.rx.clone() } else { m.rx.take() }
    {
        return Poll::Ready(Ok(received(frags, meta)));
    }
    let mut msg = MsgHdr::new(IovIter::DestFrags { frags: Vec::new(), room: MAX_MESSAGE });
    sock.recvmsg(&mut msg, flags & !MSG_TRUNC, w).map(|r| {
        r?;
        let IovIter::DestFrags { frags, .. } = msg.iter else { return Err(Errno::EINVAL) };
        Ok(received(frags.into(), Meta { from: msg.name, control: msg.control, flags: msg.flags }))
    })
}

fn received(frags: VecDeque<Frag>, meta: Meta) -> Received {
    Received { len: frags.iter().map(|f| f.len()).sum(), frags, meta }
}

/// The message in the program's end, if there is one: or the error that an empty one stands for.
fn shown(st: &mut State, call: &Call, id: Id, flags: i32) -> Option<Result<Received>> {
    let e = st.table.get(id)?;
    let ino = e.ino;
    let there = e.ours.as_ref().is_some_and(|o| sys::unread_by_peer(o.as_fd()) > 0);
    if !there || flags & MSG_ERRQUEUE != 0 {
        return None;
    }
    let dup = st.holders.dup_socket(call.tid, call.fd(), ino)?;
    let page = st.page(MAX_MESSAGE);
    let n = sys::recv(dup.as_fd(), page.as_mut_slice(), flags & MSG_PEEK).ok()?;
    let frags = if n == 0 { VecDeque::new() } else { VecDeque::from([page.freeze(n)]) };
    let e = st.table.get(id)?;
    if n == 0 && e.err != 0 {
        return Some(Err(Errno(std::mem::take(&mut e.err))));
    }
    let sock = e.sock.clone();
    let m = e.message()?;
    let known = if flags & MSG_PEEK != 0 || m.connected { m.in_flight.clone() } else { m.in_flight.take() };
    let meta = known.unwrap_or_else(|| Meta { from: sock.getname(true).ok(), control: Vec::new(), flags: 0 });
    Some(Ok(received(frags, meta)))
}

/// What a receive answers: with `MSG_TRUNC` the message's own length.
fn told(got: &Received, n: usize, flags: i32) -> i64 {
    (if flags & MSG_TRUNC != 0 { got.len } else { n }) as i64
}

/// Fills a `struct msghdr` of the program.
fn put(tid: u32, at: u64, got: &Received, flags: i32) -> Result<i64> {
    let m = UserMsg::read(tid, at)?;
    let (n, truncated) = got.scatter(tid, &m.iov)?;
    let mut namelen = 0;
    if m.name != 0
        && let Some(from) = &got.meta.from
    {
        let (bytes, len) = from.to_bytes();
        let room = usize::try_from(m.namelen).map_err(|_| Errno::EINVAL)?;
        mem::write(tid, m.name, &bytes[..len.min(room)])?;
        namelen = len;
    }
    let (controllen, ctrunc) = put_control(tid, &m, &got.meta.control)?;
    m.finish(tid, namelen, controllen, got.meta.flags | truncated | ctrunc)?;
    Ok(told(got, n, flags))
}
