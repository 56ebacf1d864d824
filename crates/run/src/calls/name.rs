//! `getsockname(2)` and `getpeername(2)`.
//!
//! Interface: [`getsockname`], [`getpeername`].
//! Linux counterpart: `__sys_getsockname`, `__sys_getpeername`.
//! Locks and context: the supervisor's thread.

use super::user;
use crate::notif::Call;
use crate::state::{Answer, State};

pub fn getsockname(st: &mut State, call: &Call) -> Option<Answer> {
    name(st, call, false)
}

pub fn getpeername(st: &mut State, call: &Call) -> Option<Answer> {
    name(st, call, true)
}

fn name(st: &mut State, call: &Call, peer: bool) -> Option<Answer> {
    let id = match st.lookup(call) {
        Ok((id, _)) => id,
        Err(a) => return Some(a),
    };
    let addr = match st.sock(id).and_then(|s| s.getname(peer)) {
        Ok(a) => a,
        Err(e) => return Some(e.into()),
    };
    Some(user::put_sockaddr(call.tid, call.args[1], call.args[2], Some(&addr)).into())
}
