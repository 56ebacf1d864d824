//! TCP receive: the state machine, acknowledgements, SACK, recovery.
//!
//! Interface: `tcp_rcv_established`, `tcp_rcv_state_process`.
//! Linux counterpart: `net/ipv4/tcp_input.c`.
//! Locks and context: softirq context or backlog; socket lock.
