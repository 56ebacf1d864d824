//! Calls on a stream's stand-in that the supervisor makes in the program's place, because the program's own would not do.
//!
//! Interface: [`until_ready`].
//! Linux counterpart: none.
//! Locks and context: the supervisor's thread.

use crate::notif::Call;
use crate::state::{Answer, State};
use crate::wake::Id;
use std::task::Poll;
use uapi::{Errno, Result};

/// Nanoseconds between two attempts of a call that would block. Such calls are rare, and nothing tells when they can go on:
/// the stand-in is the host's.
const RETRY: u64 = 5_000_000;

/// Runs `op` until it answers something else than `EAGAIN`; once, for a call that does not block.
pub fn until_ready(
    st: &mut State,
    call: &Call,
    id: Id,
    nonblock: bool,
    mut op: impl FnMut(&mut State) -> Result<i64> + 'static,
) -> Option<Answer> {
    st.run(call, id, nonblock, move |st, w| match op(st) {
        Err(Errno::EAGAIN) if !nonblock => {
            w.reset();
            w.set_timeout(|| st.net.kernel().ktime_get(), Some(RETRY));
            Poll::Pending
        }
        r => Poll::Ready(r.into()),
    })
}
