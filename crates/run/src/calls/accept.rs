//! `accept(2)` and `accept4(2)`.
//!
//! Interface: [`accept`].
//! Linux counterpart: `__sys_accept4`, `do_accept`.
//! Locks and context: the supervisor's thread.

use super::socket::inject;
use super::user;
use crate::notif::Call;
use crate::state::{Answer, State};
use crate::table::Role;
use crate::wake::Id;
use crate::{pump_tcp, sys};
use kernel::Wait;
use net::core::sock::Sock;
use net::ipv4::inet_sock::inet_sk;
use std::os::fd::{AsFd, OwnedFd};
use std::task::Poll;
use uapi::socket::{SOCK_CLOEXEC, SOCK_NONBLOCK};
use uapi::{Errno, Result, SockAddr};

pub fn accept(st: &mut State, call: &Call) -> Option<Answer> {
    let flags = if call.nr == libc::SYS_accept4 { call.int(3) } else { 0 };
    if flags & !(SOCK_CLOEXEC | SOCK_NONBLOCK) != 0 {
        return Some(Errno::EINVAL.into());
    }
    let (id, dup) = match st.lookup(call) {
        Ok(found) => found,
        Err(a) => return Some(a),
    };
    let nonblock = sys::is_nonblocking(dup.as_fd());
    drop(dup);
    let call = *call;
    st.run(&call, id, nonblock, move |st, w| {
        let r = take(st, id, nonblock, w);
        // One shown connection less, before the program can look.
        if r.is_ready() && st.table.get(id).and_then(|e| e.stream()).is_some_and(|s| s.tokens > 0) {
            let dup = st.dup_of(id);
            pump_tcp::tokens(st, id, dup.as_ref().map(|d| d.as_fd()));
        }
        r.map(|r| match r {
            Ok(child) => hand_over(st, &call, id, child, flags),
            Err(e) => e.into(),
        })
    })
}

/// The next connection, in the table, with the program's end of it.
fn take(st: &mut State, id: Id, nonblock: bool, wait: &mut Wait) -> Poll<Result<(Id, OwnedFd)>> {
    let Some(e) = st.table.get(id) else { return Poll::Ready(Err(Errno::EBADF)) };
    let sock = e.sock.clone();
    if let Some(child) = e.stream().and_then(|s| s.stash.pop_front()) {
        return Poll::Ready(Ok(child));
    }
    sock.accept(nonblock, wait).map(|r| {
        let child = r?;
        st.insert(child.clone(), Role::Data).inspect_err(|_| child.release())
    })
}

/// Gives the connection to the program. If it cannot have it (the call is gone, no descriptor is free), the next accept
/// gets it.
fn hand_over(st: &mut State, call: &Call, listener: Id, (id, theirs): (Id, OwnedFd), flags: i32) -> Answer {
    if let Err(e) = put_name(st, call, id) {
        st.release(id);
        return e.into();
    }
    // What has come already is there when the program looks. An error is shown by way of a holder of the descriptor, and
    // there is none yet.
    let failed = st.sock(id).is_ok_and(|s| s.sk.err().is_some());
    if !failed {
        pump_tcp::receive(st, id);
    }
    match inject(st, call, id, &theirs, flags) {
        Ok(()) => {
            drop(theirs);
            if failed {
                pump_tcp::pump(st, id);
            }
            Answer::Done
        }
        Err(e) => {
            match st.table.get(listener).and_then(|e| e.stream()) {
                Some(s) => s.stash.push_front((id, theirs)),
                None => st.release(id),
            }
            for tid in st.parked.on(listener) {
                st.wakeups.call(tid);
            }
            pump_tcp::tokens(st, listener, None);
            if e == Errno::ENOENT { Answer::Done } else { e.into() }
        }
    }
}

fn put_name(st: &mut State, call: &Call, id: Id) -> Result<()> {
    if call.args[1] == 0 {
        return Ok(());
    }
    let sock = st.sock(id)?;
    let peer = sock.getname(true).or_else(|_| peer_that_has_gone(&sock.sk))?;
    user::put_sockaddr(call.tid, call.args[1], call.args[2], Some(&peer))
}

/// The peer of a connection that was reset before it was accepted. Linux tells it too: `accept` succeeds, the first read
/// fails.
fn peer_that_has_gone(sk: &Sock) -> Result<SockAddr> {
    let mut state = sk.lock_sock();
    let inet = inet_sk(&mut *state);
    match inet.dport {
        0 => Err(Errno::ECONNABORTED),
        port => Ok(SockAddr::for_family(sk.family, inet.daddr, port)),
    }
}
