//! `connect(2)`.
//!
//! Interface: [`connect`].
//! Linux counterpart: `__sys_connect`.
//! Locks and context: the supervisor's thread.

use super::user;
use crate::notif::Call;
use crate::state::{Answer, State};
use crate::table::Role;
use crate::wake::Id;
use crate::{pump, pump_tcp, sys};
use kernel::Wait;
use std::os::fd::{AsFd, OwnedFd};
use std::task::Poll;
use uapi::{Errno, Result, SockAddr};

pub fn connect(st: &mut State, call: &Call) -> Option<Answer> {
    let (id, dup) = match st.lookup(call) {
        Ok(found) => found,
        Err(a) => return Some(a),
    };
    let addr = match user::sockaddr(call.tid, call.args[1], call.int(2)) {
        Ok(a) => a,
        Err(e) => return Some(e.into()),
    };
    if !st.notif.is_valid(call.id) {
        return None;
    }
    let nonblock = sys::is_nonblocking(dup.as_fd());
    match st.table.get(id)?.role() {
        Some(role) => {
            if role == Role::Dead
                && let Err(e) = revive(st, call, id, &dup)
            {
                return Some(e.into());
            }
            if nonblock { start(st, call, id, addr) } else { wait(st, call, id, addr) }
        }
        None => Some(message(st, id, addr).into()),
    }
}

/// A datagram socket only notes its peer.
fn message(st: &mut State, id: Id, addr: SockAddr) -> Result<()> {
    let sock = st.sock(id)?;
    pump::drain(st, id);
    st.without_waiting(|w| sock.connect(&addr, true, w))?;
    if let Some(m) = st.table.get(id).and_then(|e| e.message()) {
        m.connected = addr != SockAddr::Unspec;
    }
    Ok(())
}

/// The socket is used again after a failed connection, which took its pair: it gets a new one in the same place.
fn revive(st: &mut State, call: &Call, id: Id, dup: &OwnedFd) -> Result<()> {
    let theirs = st.table.renew(id)?;
    if sys::is_nonblocking(dup.as_fd()) {
        sys::set_nonblocking(theirs.as_fd());
    }
    st.notif.replace(call.id, theirs.as_fd(), call.fd(), st.holders.cloexec(call.tid, call.fd()))?;
    st.orphans -= 1;
    pump_tcp::set_role(st, id, Role::Fresh);
    st.register(id)
}

/// `connect` once, and once more when the port it wants is held by a socket that has been closed.
fn attempt(st: &mut State, id: Id, addr: &SockAddr, nonblock: bool, wait: &mut Wait) -> Poll<Result<()>> {
    let sock = match st.sock(id) {
        Ok(s) => s,
        Err(e) => return Poll::Ready(Err(e)),
    };
    match sock.connect(addr, nonblock, wait) {
        Poll::Ready(Err(Errno::EADDRINUSE | Errno::EADDRNOTAVAIL)) => {
            wait.reset();
            pump::reap(st);
            sock.connect(addr, nonblock, wait)
        }
        r => r,
    }
}

fn start(st: &mut State, call: &Call, id: Id, addr: SockAddr) -> Option<Answer> {
    let (tid, fd) = (call.tid, call.fd());
    st.run(call, id, true, move |st, w| {
        let r = attempt(st, id, &addr, true, w);
        match r {
            Poll::Ready(Err(Errno::EINPROGRESS)) => {
                if let Ok(dup) = st.holders.dup(tid, fd) {
                    pump_tcp::start_connecting(st, id, dup.as_fd());
                }
            }
            Poll::Ready(Ok(())) if addr == SockAddr::Unspec => pump_tcp::set_role(st, id, Role::Fresh),
            // The peer was near enough to answer at once.
            Poll::Ready(Ok(())) => {
                let _ = pump_tcp::connected(st, id, Ok(()));
            }
            _ => {}
        }
        r.map(Answer::from)
    })
}

fn wait(st: &mut State, call: &Call, id: Id, addr: SockAddr) -> Option<Answer> {
    if st.table.get(id)?.role() == Some(Role::Fresh) {
        pump_tcp::set_role(st, id, Role::Connecting { prefill: 0 });
    }
    st.run(call, id, false, move |st, w| {
        attempt(st, id, &addr, false, w).map(|r| match r {
            Ok(()) if addr == SockAddr::Unspec => {
                pump_tcp::set_role(st, id, Role::Fresh);
                Answer::Value(0)
            }
            // The handshake goes on (a timeout, a signal), or there was nothing to do.
            Err(e @ (Errno::EINPROGRESS | Errno::ERESTARTSYS | Errno::EALREADY | Errno::EISCONN | Errno::EINTR)) => {
                if e == Errno::EISCONN && st.table.get(id).is_some_and(|e| e.role() != Some(Role::Listener)) {
                    pump_tcp::set_role(st, id, Role::Data);
                }
                e.into()
            }
            r => pump_tcp::connected(st, id, r).into(),
        })
    })
}
