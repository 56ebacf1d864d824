//! Moves messages between a program's end and the stack.
//!
//! Interface: [`pump`], [`transmit`], [`take_in_flight`].
//! Linux counterpart: none; this is what makes an AF_UNIX socket look like a UDP socket.
//! Locks and context: the supervisor's thread.
//!
//! The program's end is a SEQPACKET socket: it keeps boundaries, carries empty messages and shows a hang-up. A message in
//! it has lost its source, so of an unconnected socket one at a time lies there, with its source remembered here: plain
//! reads take it without us, `recvfrom` takes it through us with its address. When it has been read, the next one follows.

use crate::state::{PAGE, State, hung_up};
use crate::sys;
use crate::table::Meta;
use crate::wake::Id;
use kernel::{Frag, PageMut};
use net::core::iov_iter::{IovIter, MsgHdr};
use std::collections::VecDeque;
use std::os::fd::AsFd;
use uapi::Errno;
use uapi::poll::Poll as Mask;
use uapi::socket::{MSG_DONTWAIT, MSG_NOSIGNAL};

const ROUNDS: usize = 64;
/// The largest message there is.
pub const MAX_MESSAGE: usize = 65_536;

pub fn pump(st: &mut State, id: Id) {
    transmit(st, id);
    receive(st, id);
}

/// The same when the stack has news: the program is only looked at if something was left there.
pub fn stack_ready(st: &mut State, id: Id) {
    let Some(e) = st.table.get(id) else { return };
    let more = std::mem::take(&mut e.more);
    if more || e.message().is_some_and(|m| m.tx.is_some()) {
        transmit(st, id);
    }
    receive(st, id);
}

/// From the program to the stack.
pub fn transmit(st: &mut State, id: Id) {
    for _ in 0..ROUNDS {
        if !send_one(st, id) {
            return;
        }
        let State { table, page, .. } = st;
        let Some(e) = table.get(id) else { return };
        let Some(ours) = e.ours.as_ref().map(|o| o.as_fd()) else { return };
        if page.len() < MAX_MESSAGE {
            *page = PageMut::alloc(PAGE);
        }
        match sys::recv(ours, page.as_mut_slice(), 0) {
            // An empty message, or the end.
            Ok(0) if hung_up(ours) => return st.release(id),
            Ok(n) => {
                let frag = page.freeze(n);
                if let Some(m) = e.message() {
                    m.tx = Some(frag);
                }
            }
            Err(Errno::EAGAIN | Errno::EINTR) => return,
            Err(_) => return st.release(id),
        }
    }
    if let Some(e) = st.table.get(id) {
        e.more = true;
    }
    again(st, id);
}

fn again(st: &mut State, id: Id) {
    if let Some(e) = st.table.get(id)
        && !e.queued.swap(true, std::sync::atomic::Ordering::SeqCst)
    {
        st.wakeups.socket(id);
    }
}

/// Sends the message that waits; `false` while there is no room for it.
fn send_one(st: &mut State, id: Id) -> bool {
    let Some(e) = st.table.get(id) else { return false };
    let sock = e.sock.clone();
    let Some(frag) = e.message().and_then(|m| m.tx.take()) else { return true };
    // An error that waits for the program would be taken by the first attempt, and the message lost.
    for attempt in 0..2 {
        let frags = if frag.is_empty() { VecDeque::new() } else { VecDeque::from([frag.clone()]) };
        let mut msg = MsgHdr::new(IovIter::SourceFrags(frags));
        msg.flags = MSG_DONTWAIT | MSG_NOSIGNAL;
        match st.without_waiting(|w| sock.sendmsg(&mut msg, w)) {
            Err(Errno::EAGAIN) if attempt == 0 && sock.poll().contains(Mask::OUT) => {}
            Err(Errno::EAGAIN) => {
                if let Some(m) = st.table.get(id).and_then(|e| e.message()) {
                    m.tx = Some(frag);
                }
                return false;
            }
            Err(err @ (Errno::ECONNREFUSED | Errno::EHOSTUNREACH)) if attempt == 0 => {
                if let Some(e) = st.table.get(id) {
                    e.err = err.0;
                }
            }
            _ => return true,
        }
    }
    true
}

/// From the stack into the program's end.
fn receive(st: &mut State, id: Id) {
    for _ in 0..ROUNDS {
        for tid in st.parked.on(id) {
            st.resume(tid);
        }
        let Some(e) = st.table.get(id) else { return };
        let sock = e.sock.clone();
        let Some(ours) = e.ours.as_ref().map(|o| o.as_fd()) else { return };
        let unread = sys::unread_by_peer(ours) > 0;
        let Some(m) = e.message() else { return };
        if !unread {
            m.in_flight = None;
        }
        let many = m.connected && m.in_flight.as_ref().is_none_or(|i| i.control.is_empty());
        if unread && !many {
            return;
        }
        if m.rx.is_none() {
            match from_stack(st, &sock, MSG_DONTWAIT) {
                Ok(got) => {
                    if let Some(m) = st.table.get(id).and_then(|e| e.message()) {
                        m.rx = Some(got);
                    }
                }
                Err(Errno::EAGAIN) => return,
                Err(err) => return show_error(st, id, err),
            }
        }
        if !deliver(st, id) {
            return;
        }
    }
    again(st, id);
}

/// A message from the stack with all that belongs to it.
fn from_stack(st: &mut State, sock: &net::socket::Socket, flags: i32) -> uapi::Result<(VecDeque<Frag>, Meta)> {
    let mut msg = MsgHdr::new(IovIter::DestFrags { frags: Vec::new(), room: MAX_MESSAGE });
    st.without_waiting(|w| sock.recvmsg(&mut msg, flags, w))?;
    let frags = match msg.iter {
        IovIter::DestFrags { frags, .. } => frags.into(),
        _ => VecDeque::new(),
    };
    Ok((frags, Meta { from: msg.name, control: msg.control, flags: msg.flags }))
}

/// Puts the message that waits into the program's end; `false` without room.
fn deliver(st: &mut State, id: Id) -> bool {
    let Some(e) = st.table.get(id) else { return false };
    let Some(ours) = e.ours.as_ref().map(|o| o.as_fd()) else { return false };
    let crate::table::Flow::Message(m) = &mut e.flow else { return false };
    let Some((frags, meta)) = m.rx.take() else { return true };
    match sys::send_frags(ours, &frags) {
        Ok(_) => {
            m.in_flight = Some(meta);
            true
        }
        Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM) => {
            m.rx = Some((frags, meta));
            false
        }
        Err(_) => true,
    }
}

/// An ICMP error for the program. An empty message wakes it; `recvfrom` then answers with the error.
fn show_error(st: &mut State, id: Id, err: Errno) {
    let Some(e) = st.table.get(id) else { return };
    e.err = err.0;
    if let Some(ours) = &e.ours {
        let _ = sys::send(ours.as_fd(), &[]);
    }
}
