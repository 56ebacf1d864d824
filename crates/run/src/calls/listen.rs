//! `listen(2)`.
//!
//! Interface: [`listen`].
//! Linux counterpart: `__sys_listen`.
//! Locks and context: the supervisor's thread.

use crate::notif::Call;
use crate::state::{Answer, State};
use crate::table::Role;
use crate::{pump, pump_tcp};
use uapi::Errno;

pub fn listen(st: &mut State, call: &Call) -> Option<Answer> {
    let (id, _dup) = match st.lookup(call) {
        Ok(found) => found,
        Err(a) => return Some(a),
    };
    let sock = st.sock(id).ok()?;
    let mut r = sock.listen(call.int(1));
    if r == Err(Errno::EADDRINUSE) {
        pump::reap(st);
        r = sock.listen(call.int(1));
    }
    if r.is_ok() {
        pump_tcp::set_role(st, id, Role::Listener);
    }
    Some(r.into())
}
