//! Whether the ends of a conversation have seen what they may have seen.
//!
//! Interface: [`judge`].
//! Linux counterpart: none.
//! Locks and context: pure.
//!
//! A conversation that no fault came near is complete. One that broke has a fault that explains it, ended with an errno that
//! Linux gives there, and what was received is the beginning of what was sent.

use crate::simulate::report::Report;
use crate::simulate::scenario::{Fault, FaultKind, SEC, Scenario, Secs, Talk, TalkKind};
use crate::simulate::talk::End;
use std::collections::BTreeMap;
use uapi::Errno;

/// Errors of `connect` and of streams that a broken path explains.
const CONNECT: &[Errno] = &[Errno::ETIMEDOUT, Errno::EHOSTUNREACH, Errno::ENETUNREACH, Errno::ENETDOWN, Errno::ENOBUFS];
const STREAM: &[Errno] =
    &[Errno::ETIMEDOUT, Errno::ECONNRESET, Errno::EPIPE, Errno::EHOSTUNREACH, Errno::ENETUNREACH, Errno::ENETDOWN];
/// A neighbour is asked three times in two seconds, and given up a second later; a connection to be made goes with it.
const NEIGHBOUR: u64 = 2 * SEC;
/// An established connection is given up by keepalives after a minute without an answer, at the earliest.
const KEEPALIVE: u64 = 50 * SEC;

pub fn judge(s: &Scenario, clients: &BTreeMap<u32, End>, servers: &BTreeMap<u32, End>, report: &mut Report) {
    for t in &s.talks {
        let Some(c) = clients.get(&t.id) else {
            report.problems.push(format!("talk {}: the client has not ended", t.id));
            continue;
        };
        let server = servers.get(&t.id);
        report.bytes += c.received + server.map_or(0, |e| e.received);
        let whole = c.is_fine() && server.is_some_and(End::is_fine);
        report.completed += usize::from(whole);
        report.broken += usize::from(!whole);
        if !whole {
            let ending = format!("client {}, server {}", ending(c), server.map_or("none".to_owned(), ending));
            *report.endings.entry(ending).or_default() += 1;
        }
        let wrong = bytes_of(t, c, server).or_else(|| if whole { None } else { unexplained(s, t, c, server) });
        if let Some(w) = wrong {
            report.problems.push(format!("talk {}: {w}\n    client {c:?}\n    server {server:?}", t.id));
        }
    }
}

/// How an end ended, in a word.
fn ending(e: &End) -> String {
    match e.error {
        Some(x) if e.connected => x.name().to_owned(),
        Some(x) => format!("connect {}", x.name()),
        None if e.eof => "fine".to_owned(),
        None => "nothing".to_owned(),
    }
}

/// What is wrong with what was received.
fn bytes_of(t: &Talk, c: &End, server: Option<&End>) -> Option<String> {
    if let Some(at) = c.wrong_at {
        return Some(format!("byte {at} of the server's is wrong"));
    }
    let s = server?;
    if let Some(at) = s.wrong_at {
        return Some(format!("byte {at} of the client's is wrong"));
    }
    if c.received > s.sent || s.received > c.sent {
        return Some("more was received than sent".to_owned());
    }
    let (up, down) = match t.kind {
        TalkKind::Rounds { rounds, request, answer, .. } => {
            (u64::from(rounds) * u64::from(request), u64::from(rounds) * u64::from(answer))
        }
        TalkKind::Duplex { up, down } => (up, down),
    };
    let whole = c.is_fine() && s.is_fine();
    let all = (c.sent, s.received, s.sent, c.received) == (up, up, down, down);
    (whole && !all).then(|| "both ends ended well, but not all was said".to_owned())
}

/// Why the conversation should not have broken, or not so.
fn unexplained(s: &Scenario, t: &Talk, c: &End, server: Option<&End>) -> Option<String> {
    let over_at = c.over_at.max(server.map_or(0, |e| e.over_at));
    // A router still knows for a moment that a neighbour does not answer.
    let near = |f: &&Fault| f.from <= over_at && f.to + NEIGHBOUR + 2 * SEC >= t.start && f.hits(t.client, t.server);
    let faults: Vec<&Fault> = s.faults.iter().filter(near).collect();
    let total: u64 = faults.iter().map(|f| f.to - f.from).sum();
    let harsh = faults
        .iter()
        .any(|f| matches!(f.kind, FaultKind::DeviceDown { .. } | FaultKind::NoMemory { .. } | FaultKind::Storm { .. }));
    let allowed = if c.connected { STREAM } else { CONNECT };
    let enough = if c.connected { KEEPALIVE } else { NEIGHBOUR };
    if faults.is_empty() || (total < enough && !harsh) {
        let over = Secs(over_at);
        return Some(format!("it broke (over at {over}) with no more than {} of faults near it", Secs(total)));
    }
    let bad = |e: &End, allowed: &[Errno]| e.error.filter(|x| !allowed.contains(x));
    if let Some(e) = bad(c, allowed) {
        return Some(format!("the client ended with {e:?}"));
    }
    if let Some(e) = server.and_then(|e| bad(e, STREAM)) {
        return Some(format!("the server ended with {e:?}"));
    }
    // With an end that failed, the other must not believe that all went well, unless everything had been said.
    None
}
