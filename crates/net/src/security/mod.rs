//! Security hooks in front of each socket call.
//!
//! Interface: [`SecurityHooks`].
//! Linux counterpart: `security/security.c`, `include/linux/lsm_hooks.h`.
//! Locks and context: process context.
