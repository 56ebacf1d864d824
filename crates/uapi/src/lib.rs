//! Linux's user ABI, as sockeye's callers and the stack share it: error numbers, socket addresses, option names.
//!
//! Interface: [`Errno`], [`SockAddr`], the constants in [`socket`], [`tcp`], [`poll`].
//! Linux counterpart: `include/uapi/`.
//! Locks and context: plain data, usable anywhere.
#![forbid(unsafe_code)]

pub mod errno;
pub mod poll;
pub mod sockaddr;
pub mod socket;
pub mod tcp;
pub mod tcp_auth;
pub mod tcp_cc;

pub use errno::{Errno, Result};
pub use sockaddr::SockAddr;
