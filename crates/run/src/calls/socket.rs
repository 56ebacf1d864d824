//! `socket(2)`.
//!
//! Interface: [`socket`].
//! Linux counterpart: `__sys_socket`.
//! Locks and context: the supervisor's thread.

use crate::notif::Call;
use crate::state::{Answer, State};
use crate::sys;
use crate::table::Role;
use crate::wake::Id;
use net::socket::sock_create;
use std::os::fd::{AsFd, OwnedFd};
use uapi::Errno;
use uapi::socket::{AF_INET, AF_INET6, SOCK_CLOEXEC, SOCK_NONBLOCK};

const TYPE_MASK: i32 = 0xf;

pub fn socket(st: &mut State, call: &Call) -> Option<Answer> {
    let (family, kind, protocol) = (call.int(0), call.int(1), call.int(2));
    let flags = kind & !TYPE_MASK;
    Some(match family {
        // The host's devices, addresses and routes are not the program's.
        f if f != AF_INET && f != AF_INET6 => Errno::EAFNOSUPPORT.into(),
        _ if flags & !(SOCK_CLOEXEC | SOCK_NONBLOCK) != 0 => Errno::EINVAL.into(),
        _ => match sock_create(&st.net, family, kind & TYPE_MASK, protocol) {
            Ok(sock) => match st.insert(sock.clone(), Role::Fresh) {
                Ok((id, theirs)) => give(st, call, id, theirs, flags),
                Err(e) => {
                    sock.release();
                    e.into()
                }
            },
            Err(e) => e.into(),
        },
    })
}

fn give(st: &mut State, call: &Call, id: Id, theirs: OwnedFd, flags: i32) -> Answer {
    match inject(st, call, id, &theirs, flags) {
        Ok(()) => Answer::Done,
        Err(e) => {
            st.release(id);
            // Nobody is there to be told.
            if e == Errno::ENOENT { Answer::Done } else { e.into() }
        }
    }
}

/// Gives the program its end and ends the call. On an error nothing has happened: `ENOENT`, the call is gone; `EMFILE`.
pub fn inject(st: &mut State, call: &Call, id: Id, theirs: &OwnedFd, flags: i32) -> uapi::Result<()> {
    if flags & SOCK_NONBLOCK != 0 {
        sys::set_nonblocking(theirs.as_fd());
    }
    // Before the program can act on it.
    if let Some(e) = st.table.get(id) {
        e.holder = (call.tid, -1);
    }
    let fd = st.notif.inject(call.id, theirs.as_fd(), flags & SOCK_CLOEXEC != 0)?;
    if let Some(e) = st.table.get(id) {
        e.holder = (call.tid, fd);
    }
    Ok(())
}
