//! `getsockopt(2)` and `setsockopt(2)`.
//!
//! Interface: [`getsockopt`], [`setsockopt`].
//! Linux counterpart: `__sys_getsockopt`, `__sys_setsockopt`.
//! Locks and context: the supervisor's thread.

use crate::notif::Call;
use crate::state::{Answer, State};
use crate::wake::Id;
use crate::{mem, pump, sys};
use std::os::fd::{AsFd, OwnedFd};
use uapi::socket::{
    IPPROTO_TCP, SO_ERROR, SO_RCVLOWAT, SO_RCVTIMEO, SO_RCVTIMEO_NEW, SO_SNDTIMEO, SO_SNDTIMEO_NEW, SO_ZEROCOPY,
    SOL_SOCKET,
};
use uapi::tcp::TCP_INQ;
use uapi::{Errno, Result};

/// Longest option value: a page, as Linux bounds most of them.
const MAX_OPT: usize = 4096;

/// Options that also govern reads and writes of the stand-in.
const NATIVE_TOO: &[i32] = &[SO_RCVTIMEO, SO_SNDTIMEO, SO_RCVTIMEO_NEW, SO_SNDTIMEO_NEW, SO_RCVLOWAT];

pub fn setsockopt(st: &mut State, call: &Call) -> Option<Answer> {
    let (id, dup) = match st.lookup(call) {
        Ok(found) => found,
        Err(a) => return Some(a),
    };
    let (level, name) = (call.int(1), call.int(2));
    let mut buf = [0; MAX_OPT];
    let read = || -> Result<usize> {
        let len = usize::try_from(call.int(4)).map_err(|_| Errno::EINVAL)?.min(MAX_OPT);
        Ok(len)
    };
    let val = match read().and_then(|len| mem::read(call.tid, call.args[3], &mut buf[..len]).map(|()| len)) {
        Ok(len) => &buf[..len],
        Err(e) => return Some(e.into()),
    };
    if !st.notif.is_valid(call.id) {
        return None;
    }
    if (level, name) == (SOL_SOCKET, SO_ZEROCOPY) {
        return Some(Errno::EOPNOTSUPP.into());
    }
    // Reads of a stream are the stand-in's, which knows nothing of it.
    if (level, name) == (IPPROTO_TCP, TCP_INQ) {
        return Some(Errno::ENOPROTOOPT.into());
    }
    pump::drain(st, id);
    let r = st.sock(id).and_then(|s| s.setsockopt(level, name, val));
    if r.is_ok() && level == SOL_SOCKET && NATIVE_TOO.contains(&name) {
        sys::setsockopt(dup.as_fd(), level, name, val);
    }
    // An option can free what waits: no more delay, no more corking.
    pump::pump(st, id);
    Some(r.into())
}

pub fn getsockopt(st: &mut State, call: &Call) -> Option<Answer> {
    let (id, dup) = match st.lookup(call) {
        Ok(found) => found,
        Err(a) => return Some(a),
    };
    Some(get(st, call, id, &dup).into())
}

fn get(st: &mut State, call: &Call, id: Id, dup: &OwnedFd) -> Result<()> {
    let (level, name) = (call.int(1), call.int(2));
    let len: i32 = mem::read_value(call.tid, call.args[4])?;
    let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?.min(MAX_OPT);
    pump::pump(st, id);
    let mut val = st.sock(id)?.getsockopt(level, name, len)?;
    if (level, name) == (SOL_SOCKET, SO_ERROR) {
        let err = socket_error(st, id, dup, &val);
        val = err.to_ne_bytes()[..len.min(4)].to_vec();
    }
    val.truncate(len);
    mem::write(call.tid, call.args[3], &val)?;
    mem::write_value(call.tid, call.args[4], val.len() as u32)
}

/// The error as the stack has it, or had it when it told us; the stand-in's own is taken with it. Once the program has met
/// the stand-in's error in a read or write, there is none.
fn socket_error(st: &mut State, id: Id, dup: &OwnedFd, from_stack: &[u8]) -> i32 {
    let native = sys::take_error(dup.as_fd());
    let kept = st.table.get(id).map_or(0, |e| std::mem::take(&mut e.err));
    match from_stack.get(..4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes) {
        0 if native != 0 || st.table.get(id).is_some_and(|e| !e.is_stream()) => kept,
        e => e,
    }
}
