//! `shutdown(2)`.
//!
//! Interface: [`shutdown`].
//! Linux counterpart: `__sys_shutdown`.
//! Locks and context: the supervisor's thread.

use crate::notif::Call;
use crate::state::{Answer, State};
use crate::table::Role;
use crate::{pump, pump_tcp, sys};
use std::os::fd::AsFd;
use uapi::Errno;
use uapi::socket::{SHUT_RD, SHUT_RDWR, SHUT_WR};

pub fn shutdown(st: &mut State, call: &Call) -> Option<Answer> {
    let (id, dup) = match st.lookup(call) {
        Ok(found) => found,
        Err(a) => return Some(a),
    };
    let how = call.int(1);
    if !(SHUT_RD..=SHUT_RDWR).contains(&how) {
        return Some(Errno::EINVAL.into());
    }
    pump::drain(st, id);
    let sock = st.sock(id).ok()?;
    match st.table.get(id)?.role() {
        Some(Role::Data) => {
            if sock.getname(true).is_err() {
                return Some(Errno::ENOTCONN.into());
            }
            if how != SHUT_WR {
                // What has been queued may still be read, then comes the end.
                let _ = sock.shutdown(SHUT_RD);
                sys::shutdown(dup.as_fd(), libc::SHUT_RD);
            }
            if how != SHUT_RD {
                // In its place in the stream: behind what the program has written.
                pump_tcp::shut_by_call(st, id, dup.as_fd());
            }
            Some(Answer::Value(0))
        }
        Some(Role::Listener) => {
            let r = sock.shutdown(how);
            if r.is_ok() {
                // Readable and at its end, as the poll mask of a listener that has been shut; accepts are woken by the stack.
                st.witness.watch(dup.as_fd(), id);
                if let Some(s) = st.table.get(id).and_then(|e| e.stream()) {
                    s.shut_by_call = true;
                }
                sys::shutdown(dup.as_fd(), libc::SHUT_RDWR);
            }
            Some(r.into())
        }
        _ => Some(sock.shutdown(how).into()),
    }
}
