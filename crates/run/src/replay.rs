//! Answers that a signal took away.
//!
//! Interface: [`Replay::keep`], [`Replay::take`].
//! Linux counterpart: none.
//! Locks and context: the supervisor's thread.
//!
//! A signal ends the wait of a thread for its answer, and the host runs the call again after the handler: a `bind` that has
//! been done would fail, a datagram that has been read would be lost. So an answer that could not be delivered is kept,
//! and given when the same thread makes the same call from the same place.

use crate::notif::Call;
use std::collections::HashMap;
use uapi::Result;

/// Threads for which an answer is kept. Those beyond it were interrupted long ago.
const MAX_KEPT: usize = 1024;

#[derive(Default)]
pub struct Replay(HashMap<u32, (Call, Result<i64>)>);

impl Replay {
    pub fn keep(&mut self, call: Call, answer: Result<i64>) {
        if self.0.len() >= MAX_KEPT {
            self.0.clear();
        }
        self.0.insert(call.tid, (call, answer));
    }

    /// The kept answer to this very call. It is given once.
    pub fn take(&mut self, call: &Call) -> Option<Result<i64>> {
        if self.0.is_empty() {
            return None;
        }
        let (was, _) = self.0.get(&call.tid)?;
        if (was.nr, was.ip, was.args) != (call.nr, call.ip, call.args) {
            return None;
        }
        self.0.remove(&call.tid).map(|(_, a)| a)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_given_once_and_only_to_the_same_call() {
        let call = Call { id: 1, tid: 2, nr: 3, ip: 4, args: [5; 6] };
        let mut r = Replay::default();
        r.keep(call, Ok(7));
        assert_eq!(r.take(&Call { tid: 9, ..call }), None);
        assert_eq!(r.take(&Call { args: [6; 6], ..call }), None);
        assert_eq!(r.take(&Call { id: 8, ..call }), Some(Ok(7)));
        assert_eq!(r.take(&call), None);
    }
}
