//! Moves whatever a socket carries, and finds the sockets that programs have closed.
//!
//! Interface: [`pump`], [`stack_ready`], [`program_ready`], [`drain`], [`reap`].
//! Linux counterpart: none.
//! Locks and context: the supervisor's thread.

use crate::state::State;
use crate::sys;
use crate::wake::Id;
use crate::{pump_tcp, pump_udp};
use std::os::fd::{AsFd, AsRawFd};

/// Does everything that can be done for a socket now.
pub fn pump(st: &mut State, id: Id) {
    match st.table.get(id).map(|e| e.is_stream()) {
        Some(true) => pump_tcp::pump(st, id),
        Some(false) => pump_udp::pump(st, id),
        None => {}
    }
}

/// The same when the stack has put the socket on its list.
pub fn stack_ready(st: &mut State, id: Id) {
    match st.table.get(id).map(|e| e.is_stream()) {
        Some(true) => pump_tcp::stack_ready(st, id),
        Some(false) => pump_udp::stack_ready(st, id),
        None => {}
    }
}

/// The same for `events` of our end.
pub fn program_ready(st: &mut State, id: Id, events: u32) {
    match st.table.get(id).map(|e| e.is_stream()) {
        Some(true) if events == libc::EPOLLIN as u32 => pump_tcp::program_wrote(st, id),
        Some(_) => pump(st, id),
        None => {}
    }
}

/// Before a call that steers the socket: what the program wrote before it goes before it.
pub fn drain(st: &mut State, id: Id) {
    match st.table.get(id).map(|e| e.is_stream()) {
        Some(true) => pump_tcp::transmit(st, id),
        Some(false) => pump_udp::transmit(st, id),
        None => {}
    }
}

/// Releases the sockets whose last descriptor has been closed, now and not when the news comes by itself: a program that
/// has just closed one may want its port.
pub fn reap(st: &mut State) {
    let ends: Vec<(Id, i32)> =
        st.table.iter().filter_map(|e| Some((e.id, e.ours.as_ref()?.as_fd().as_raw_fd()))).collect();
    let mut polled: Vec<libc::pollfd> =
        ends.iter().map(|&(_, fd)| libc::pollfd { fd, events: 0, revents: 0 }).collect();
    sys::poll_many(&mut polled);
    for ((id, _), p) in ends.into_iter().zip(polled) {
        if p.revents != 0 {
            pump(st, id);
        }
    }
    reap_orphans(st);
}

/// The same for the sockets that have no end of ours.
pub fn reap_orphans(st: &mut State) {
    if st.orphans == 0 {
        return;
    }
    let alive = st.witness.alive();
    let gone: Vec<Id> =
        st.table.iter().filter(|e| e.ours.is_none() && alive.binary_search(&e.id).is_err()).map(|e| e.id).collect();
    gone.into_iter().for_each(|id| st.release(id));
}
