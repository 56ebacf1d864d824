//! sockeye as the target of a script.
//!
//! Interface: [`Sockeye`].
//! Linux counterpart: none.
//! Locks and context: as [`crate::clock`] says.

use super::target::Target;
use crate::commands::command;
use crate::flags::{Flags, set_sysctl};
use crate::machine::Machine;
use kernel::Arch;
use net::syscall::{FIONBIO, PollFd};
use uapi::poll::Poll as PollMask;
use uapi::{Result, SockAddr};

pub struct Sockeye(Machine);

impl Sockeye {
    pub fn new(mtu: u32) -> std::result::Result<Sockeye, String> {
        Machine::new(&Flags { mtu, ..Flags::default() }).map(Sockeye)
    }
}

macro_rules! pass {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)*) => {
        $(fn $name(&self, $($arg: $ty),*) -> $ret {
            let _inside = self.0.enter();
            self.0.fds.$name($($arg),*)
        })*
    };
}

impl Target for Sockeye {
    pass! {
        socket(domain: i32, kind: i32, protocol: i32) -> Result<i32>;
        bind(fd: i32, addr: &SockAddr) -> Result<()>;
        listen(fd: i32, backlog: i32) -> Result<()>;
        connect(fd: i32, addr: &SockAddr) -> Result<()>;
        recv(fd: i32, buf: &mut [u8], flags: i32) -> Result<usize>;
        sendto(fd: i32, buf: &[u8], flags: i32, to: Option<&SockAddr>) -> Result<usize>;
        shutdown(fd: i32, how: i32) -> Result<()>;
        close(fd: i32) -> Result<()>;
        fcntl(fd: i32, cmd: i32, arg: i32) -> Result<i32>;
        setsockopt(fd: i32, level: i32, name: i32, val: &[u8]) -> Result<()>;
        getsockopt(fd: i32, level: i32, name: i32, len: usize) -> Result<Vec<u8>>;
    }

    fn accept(&self, fd: i32) -> Result<i32> {
        let _inside = self.0.enter();
        self.0.fds.accept(fd).map(|(fd, _)| fd)
    }

    fn ioctl(&self, fd: i32, request: u32, arg: i32) -> Result<i32> {
        let _inside = self.0.enter();
        let answer = self.0.fds.ioctl(fd, request, arg)?;
        Ok(if request == FIONBIO { arg } else { answer })
    }

    fn poll(&self, fds: &[(i32, i16)], timeout: i32) -> Result<(usize, Vec<i16>)> {
        let _inside = self.0.enter();
        let mask = |e: i16| PollMask::from_bits_truncate(u32::from(e as u16));
        let mut list: Vec<PollFd> = fds.iter().map(|&(fd, e)| PollFd::new(fd, mask(e))).collect();
        let n = self.0.fds.poll(&mut list, timeout)?;
        Ok((n, list.iter().map(|p| p.revents.bits() as i16).collect()))
    }

    fn sysctl(&self, name: &str, value: &str) -> bool {
        set_sysctl(&self.0.net, name, value)
    }

    fn command(&self, argv: &[&str]) -> std::result::Result<(), String> {
        command(&self.0.net, &self.0.raw, argv).map(|_| ())
    }

    fn proc_net(&self, file: &str) -> String {
        let _inside = self.0.enter();
        net::ipv4::proc::proc_net(&self.0.net, file).unwrap_or_default()
    }

    fn now(&self) -> i64 {
        (self.0.arch.look() / 1000) as i64
    }

    fn wait_until(&self, usecs: i64) {
        let _inside = self.0.enter();
        self.0.arch.advance(usecs.max(0) as u64 * 1000);
    }

    fn inject(&self, packet: &[u8]) -> Result<()> {
        let _inside = self.0.enter();
        self.0.netdev_send(packet)
    }

    fn receive(&self, usecs: i64) -> Option<(Vec<u8>, i64)> {
        let _inside = self.0.enter();
        let left = (usecs.max(0) as u64 * 1000).saturating_sub(self.0.arch.ktime_get());
        self.0.netdev_receive_within(left).map(|s| (s.bytes, (s.at / 1000) as i64))
    }

    fn blocked(&self) -> bool {
        self.0.arch.somebody_sleeps()
    }

    fn tolerance(&self) -> i64 {
        // The kernel's clock ticks every four milliseconds where scripts are written, ours every one.
        4_000
    }
}
