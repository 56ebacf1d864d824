//! sockeye as packetdrill drives it (`--so_filename`): a stack with one raw IP device, in virtual time.
//!
//! Interface: `packetdrill_interface_init` for packetdrill; [`Machine`] for a runner in Rust.
//! Linux counterpart: what packetdrill's local mode has on a live kernel: a TUN device, the system calls, the clock.
//! Locks and context: every function may be called from any thread; see [`clock`] for who moves the time.

pub mod abi;
mod calls;
pub mod clock;
mod commands;
pub mod control;
mod device;
mod epoll;
mod flags;
mod machine;
mod memory;
#[cfg(feature = "preload")]
mod preload;
pub mod runner;
mod tbf;

pub use flags::Flags;
pub use machine::Machine;
