//! The public library.
//!
//! Interface: to come.
//! Linux counterpart: none.
//! Locks and context: none.
