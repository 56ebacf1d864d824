//! The Linux network stack in user space, as a library: stacks of your own, with sockets like [`std::net`]'s.
//!
//! Interface: [`Stack`], [`Link`]; [`TcpStream`], [`TcpListener`], [`UdpSocket`]; [`bsd`] for the bare calls on descriptors.
//! Linux counterpart: none; what the C library is to the system calls.
//! Locks and context: everything is `Send` and `Sync` and may be called from any thread outside the stack's own callbacks.
//!
//! A [`Stack`] is a network namespace: it has devices, addresses, routes, a firewall's hooks, counters and tunables of its
//! own, and nothing of the machine's. It reaches other stacks through [`Link`]s, and the world through a TAP device
//! ([`Stack::add_tap`]). No root is needed for any of it but the making of the TAP device.
//!
//! # Two stacks, joined back to back
//!
//! ```
//! use sockeye::{Link, Stack, TcpListener, TcpStream};
//! use std::io::{Read, Write};
//!
//! # fn main() -> std::io::Result<()> {
//! let a = Stack::new()?;
//! let b = a.sibling();
//! Link::new().addresses("10.0.0.1/24", "10.0.0.2/24").connect(&a, &b)?;
//!
//! let listener = TcpListener::bind(&b, "10.0.0.2:7")?;
//! let server = std::thread::spawn(move || -> std::io::Result<()> {
//!     let (mut stream, _peer) = listener.accept()?;
//!     let mut request = String::new();
//!     stream.read_to_string(&mut request)?;
//!     stream.write_all(request.to_uppercase().as_bytes())
//! });
//!
//! let mut client = TcpStream::connect(&a, "10.0.0.2:7")?;
//! client.write_all(b"hello, stack")?;
//! client.shutdown(std::net::Shutdown::Write)?;
//! let mut answer = String::new();
//! client.read_to_string(&mut answer)?;
//! assert_eq!(answer, "HELLO, STACK");
//! # server.join().expect("server")?;
//! # Ok(())
//! # }
//! ```
//!
//! Hostnames in addresses are looked up by the machine's resolver, as everywhere in Rust; numeric ones need none.
#![forbid(unsafe_code)]

pub mod congestion;
mod handle;
mod link;
mod stack;
mod tcp;
mod udp;

pub use link::{Impairments, Link};
pub use stack::{Cidr, Stack, StackBuilder};
pub use tcp::{Incoming, TcpListener, TcpStream};
pub use udp::UdpSocket;

/// The bare socket calls, on descriptors of a table of their own ([`Stack::files`]).
pub mod bsd {
    pub use net::core::iov_iter::{CMsg, IovIter, MsgHdr};
    pub use net::syscall::{FdTable, PollFd, PollTable};
    pub use uapi::poll::Poll as PollMask;
    pub use uapi::{Errno, SockAddr, socket, tcp};
}
