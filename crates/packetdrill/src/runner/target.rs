//! What a script is run against: the calls and the wire of one stack.
//!
//! Interface: [`Target`].
//! Linux counterpart: packetdrill's table of functions.
//! Locks and context: calls from any thread; [`wait_until`](Target::wait_until) and [`receive`](Target::receive) from one.

use uapi::{Result, SockAddr};

pub trait Target: Send + Sync {
    fn socket(&self, domain: i32, kind: i32, protocol: i32) -> Result<i32>;
    fn bind(&self, fd: i32, addr: &SockAddr) -> Result<()>;
    fn listen(&self, fd: i32, backlog: i32) -> Result<()>;
    fn accept(&self, fd: i32) -> Result<i32>;
    fn connect(&self, fd: i32, addr: &SockAddr) -> Result<()>;
    fn recv(&self, fd: i32, buf: &mut [u8], flags: i32) -> Result<usize>;
    fn sendto(&self, fd: i32, buf: &[u8], flags: i32, to: Option<&SockAddr>) -> Result<usize>;
    fn shutdown(&self, fd: i32, how: i32) -> Result<()>;
    fn close(&self, fd: i32) -> Result<()>;
    fn fcntl(&self, fd: i32, cmd: i32, arg: i32) -> Result<i32>;
    /// `ioctl` of an integer: what was given, and what is there afterwards.
    fn ioctl(&self, fd: i32, request: u32, arg: i32) -> Result<i32>;
    fn setsockopt(&self, fd: i32, level: i32, name: i32, val: &[u8]) -> Result<()>;
    fn getsockopt(&self, fd: i32, level: i32, name: i32, len: usize) -> Result<Vec<u8>>;
    /// Of `(descriptor, events)`: `revents` of each, and how many are ready.
    fn poll(&self, fds: &[(i32, i16)], timeout: i32) -> Result<(usize, Vec<i16>)>;
    /// `false`: it cannot be set.
    fn sysctl(&self, name: &str, value: &str) -> bool;
    /// A tool, in the network namespace of the stack. The error is its complaint.
    fn command(&self, argv: &[&str]) -> std::result::Result<(), String>;

    /// What is in a file of `/proc/net`; empty if there is none.
    fn proc_net(&self, file: &str) -> String;

    /// Microseconds. To be called by each thread after a call that may have blocked.
    fn now(&self) -> i64;
    fn wait_until(&self, usecs: i64);
    /// A packet arrives, without a link-layer header.
    fn inject(&self, packet: &[u8]) -> Result<()>;
    /// The next packet that the stack sends, and when; `None` if there is none until `usecs`.
    fn receive(&self, usecs: i64) -> Option<(Vec<u8>, i64)>;
    /// Whether the thread that was sent into a call is asleep in it by now, as far as that can be known.
    fn blocked(&self) -> bool;
    /// How much later or earlier than said things may happen, microseconds.
    fn tolerance(&self) -> i64;
}
