//! Unmodified programs on a sockeye stack.
//!
//! Interface: to come.
//! Linux counterpart: none.
//! Locks and context: none.
