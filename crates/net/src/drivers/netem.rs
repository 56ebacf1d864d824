//! A device on a device that drops, reorders, duplicates and delays.
//!
//! Interface: `Netem`.
//! Linux counterpart: `net/sched/sch_netem.c`.
//! Locks and context: transmit context.
