//! The routing table: longest-prefix match.
//!
//! Interface: `FibTable`.
//! Linux counterpart: `net/ipv4/fib_trie.c`.
//! Locks and context: look-ups under RCU; changes under a lock.
