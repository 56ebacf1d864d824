//! A connection that was reset before anybody accepted it: `accept` once answered ECONNABORTED, Linux hands it over.
//!
//! Interface: none.
//! Linux counterpart: `inet_getname` with a `peer` of 2.
//! Locks and context: tests.

use super::*;
use crate::hdr::tcp_flag::RST;

#[test]
fn a_reset_connection_can_be_accepted() {
    let m = Machine::new();
    let l = m.listener(5);
    let synack = m.ask_one(Seg::new(100, 0, SYN));
    m.ask(Seg::new(101, synack.seq.wrapping_add(1), ACK));
    m.ask(Seg::new(101, synack.seq.wrapping_add(1), RST | ACK));
    let (fd, from) = m.files.accept(l).unwrap();
    assert_eq!(from, SockAddr::from(std::net::SocketAddr::from((PEER, 1000))));
    assert_eq!(m.files.getpeername(fd), Err(Errno::ENOTCONN));
    assert_eq!(m.files.recv(fd, &mut [0; 8], 0), Err(Errno::ECONNRESET));
}
