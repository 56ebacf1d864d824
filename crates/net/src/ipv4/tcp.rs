//! TCP: the calls of a process.
//!
//! Interface: `TCP_PROT`, `tcp_sendmsg`, `tcp_recvmsg`, `tcp_close`.
//! Linux counterpart: `net/ipv4/tcp.c`.
//! Locks and context: process context, socket lock.
