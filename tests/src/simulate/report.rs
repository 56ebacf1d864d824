//! What a run was like.
//!
//! Interface: [`Report`].
//! Linux counterpart: none.
//! Locks and context: none.

use std::collections::BTreeMap;

/// What a run was like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Stands for everything that happened.
    pub trace_hash: u64,
    pub steps: u64,
    /// Virtual nanoseconds until the last conversation was over.
    pub over_at: u64,
    pub talks: usize,
    /// Conversations that were completed, and those that a fault ended.
    pub completed: usize,
    pub broken: usize,
    /// How the ends of the broken ones ended, and how many.
    pub endings: BTreeMap<String, usize>,
    /// Bytes received, packets that wires carried, segments sent again.
    pub bytes: u64,
    pub packets: u64,
    pub retransmitted: u64,
    /// What was wrong. Nothing, where all is well.
    pub problems: Vec<String>,
}
