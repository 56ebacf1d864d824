//! The system calls of supervised programs, one handler each.
//!
//! Interface: [`dispatch`].
//! Linux counterpart: the `SYSCALL_DEFINE`s of `net/socket.c`.
//! Locks and context: the supervisor's thread, inside the stack (`Kernel::enter`).
//!
//! A handler answers, or parks the call and answers later (`None`). It looks the socket up by the program's descriptor; one
//! that is not ours is passed to the host.

mod accept;
mod bind;
mod connect;
mod ioctl;
mod listen;
mod msg;
mod name;
mod native;
mod opt;
mod recv;
mod send;
mod shutdown;
mod socket;
mod user;

use crate::notif::Call;
use crate::state::{Answer, State};

type Handler = fn(&mut State, &Call) -> Option<Answer>;

fn handler(nr: i64) -> Option<Handler> {
    Some(match nr {
        libc::SYS_socket => socket::socket,
        libc::SYS_bind => bind::bind,
        libc::SYS_connect => connect::connect,
        libc::SYS_listen => listen::listen,
        libc::SYS_accept | libc::SYS_accept4 => accept::accept,
        libc::SYS_getsockname => name::getsockname,
        libc::SYS_getpeername => name::getpeername,
        libc::SYS_getsockopt => opt::getsockopt,
        libc::SYS_setsockopt => opt::setsockopt,
        libc::SYS_shutdown => shutdown::shutdown,
        libc::SYS_sendto => send::sendto,
        libc::SYS_sendmsg => send::sendmsg,
        libc::SYS_sendmmsg => send::sendmmsg,
        libc::SYS_recvfrom => recv::recvfrom,
        libc::SYS_recvmsg => recv::recvmsg,
        libc::SYS_recvmmsg => recv::recvmmsg,
        libc::SYS_ioctl => ioctl::ioctl,
        _ => return None,
    })
}

/// Handles a call that the filter has told of.
pub fn dispatch(st: &mut State, call: &Call) {
    // The thread is here, so it is nowhere else.
    st.parked.forget(call.tid);
    if let Some(r) = st.replay.take(call) {
        return st.answer(call, r.into());
    }
    let answer = match handler(call.nr) {
        Some(h) => h(st, call),
        None => Some(Answer::Pass),
    };
    if let Some(a) = answer {
        st.answer(call, a);
    }
}
