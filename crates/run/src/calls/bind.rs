//! `bind(2)`.
//!
//! Interface: [`bind`].
//! Linux counterpart: `__sys_bind`.
//! Locks and context: the supervisor's thread.

use super::user;
use crate::notif::Call;
use crate::pump;
use crate::state::{Answer, State};
use uapi::Errno;

pub fn bind(st: &mut State, call: &Call) -> Option<Answer> {
    let (id, _dup) = match st.lookup(call) {
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
    let sock = st.sock(id).ok()?;
    Some(match sock.bind(&addr) {
        Err(Errno::EADDRINUSE) => {
            pump::reap(st);
            sock.bind(&addr).into()
        }
        r => r.into(),
    })
}
