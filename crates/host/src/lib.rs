//! sockeye on a Linux host: threads, futexes, the epoll interrupt loop, drivers that need a file descriptor.
//!
//! Interface: [`Host`] (a kernel with its worker threads), [`IrqHandle`], [`tap`] (the TAP driver), [`pcapng`] (capture).
//! Linux counterpart: `arch/`, `kernel/irq/`, `drivers/net/`.
//! Locks and context: each file says its own. Read [`worker`] first, then [`arch`], then [`host`](mod@host).

pub mod arch;
#[allow(clippy::module_inception)]
pub mod host;
pub mod pcapng;
pub mod tap;
pub mod tun;
pub mod vnet_hdr;
pub mod worker;

pub use arch::HostArch;
pub use host::Host;
pub use tun::TapError;
pub use worker::{IrqHandle, Ready};
