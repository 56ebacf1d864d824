//! Finding a socket for a packet: `ehash`, the listeners, the bound ports.
//!
//! Interface: `InetHashinfo`, `__inet_lookup`.
//! Linux counterpart: `net/ipv4/inet_hashtables.c`.
//! Locks and context: look-ups under RCU; changes under bucket locks.
