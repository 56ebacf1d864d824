//! arch for deterministic simulation.
//!
//! Interface: [`link`].
//! Linux counterpart: none.
//! Locks and context: none.

pub mod link;
