//! arch for deterministic simulation.
//!
//! Interface: to come.
//! Linux counterpart: none.
//! Locks and context: none.
