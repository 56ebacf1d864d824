//! The kernel's end of a TAP device: opening it, and saying in words why not.
//!
//! Interface: [`attach`], [`TapError`].
//! Linux counterpart: the user of `drivers/net/tun.c`, `Documentation/networking/tuntap.rst`.
//! Locks and context: process context; system calls.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

const DEV_NET_TUN: &str = "/dev/net/tun";

/// Why a TAP device could not be had.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    #[error("{DEV_NET_TUN} cannot be opened: {0}. {hint}", hint = tun_hint(.0))]
    NoTun(io::Error),
    #[error("no such device: {0}. To make one: {cmd}", cmd = create_command(.0))]
    NoSuchDevice(String),
    #[error("no permission for TAP device {0}: it belongs to another user. To make your own: {cmd}", cmd = create_command(.0))]
    NotPermitted(String),
    #[error("TAP device {0} is in use by another program")]
    Busy(String),
    #[error("{0} is not a TAP device with one queue. To make one under another name: {cmd}", cmd = create_command("NAME"))]
    NotATap(String),
    #[error("{0:?} cannot be a device's name: 1 to 15 characters, no blanks, no '/'")]
    BadName(String),
    #[error("TAP device {name}: {what}: {error}")]
    Os { name: String, what: &'static str, error: io::Error },
    #[error("TAP device {name} cannot be added to the stack: {error:?}")]
    Register { name: String, error: uapi::Errno },
}

/// What makes a persistent TAP device that the user may open.
fn create_command(name: &str) -> String {
    format!("ip tuntap add dev {name} mode tap user $USER vnet_hdr (as root), then ip link set {name} up")
}

fn tun_hint(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::NotFound => "Load the driver: modprobe tun (as root)",
        io::ErrorKind::PermissionDenied => "Give users access: chmod 666 /dev/net/tun (as root)",
        _ => "Is the tun driver there? modprobe tun (as root)",
    }
}

/// Opens the existing TAP device `name` of the calling thread's network namespace, non-blocking, with a `virtio_net_hdr` of
/// ten bytes before each frame and every offload that this machine's kernel knows. Answers whether it takes UDP
/// segmentation too.
pub fn attach(name: &str) -> Result<(OwnedFd, bool), TapError> {
    let good = |c: char| !c.is_whitespace() && c != '/' && c != '%' && c != '\0';
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || !name.chars().all(good) {
        return Err(TapError::BadName(name.to_owned()));
    }
    must_exist(name)?;
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::open(DEV_NET_TUN, flags, Mode::empty()).map_err(|e| TapError::NoTun(e.into()))?;
    set_iff(&fd, name)?;
    let os = |what| move |error| TapError::Os { name: name.to_owned(), what, error };
    set_vnet_hdr_size(&fd, 10).map_err(os("TUNSETVNETHDRSZ"))?;
    let base = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    let uso = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    // UDP segmentation came with Linux 6.2.
    match set_offload(&fd, base | uso) {
        Ok(()) => Ok((fd, true)),
        Err(_) => set_offload(&fd, base).map(|()| (fd, false)).map_err(os("TUNSETOFFLOAD")),
    }
}

/// `TUNSETIFF` would make a missing device, which nobody who mistypes a name wants.
fn must_exist(name: &str) -> Result<(), TapError> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
    let os = |what| move |e: Errno| TapError::Os { name: name.to_owned(), what, error: e.into() };
    let any = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).map_err(os("socket"))?;
    match netdevice::name_to_index(&any, name) {
        Ok(_) => Ok(()),
        Err(Errno::NODEV) => Err(TapError::NoSuchDevice(name.to_owned())),
        Err(e) => Err(os("SIOCGIFINDEX")(e)),
    }
}

fn set_iff(fd: &OwnedFd, name: &str) -> Result<(), TapError> {
    // SAFETY: `ifreq` is plain data; all zeroes is a value of it.
    let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in req.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    req.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: `TUNSETIFF` reads and writes one `ifreq`, which outlives the call.
    let r = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as _, &mut req) };
    match check(r).map_err(|e| (e.raw_os_error(), e)) {
        Ok(()) => Ok(()),
        Err((Some(libc::EPERM), _)) => Err(TapError::NotPermitted(name.to_owned())),
        Err((Some(libc::EBUSY), _)) => Err(TapError::Busy(name.to_owned())),
        Err((Some(libc::EINVAL), _)) => Err(TapError::NotATap(name.to_owned())),
        Err((_, error)) => Err(TapError::Os { name: name.to_owned(), what: "TUNSETIFF", error }),
    }
}

fn set_vnet_hdr_size(fd: &OwnedFd, size: libc::c_int) -> io::Result<()> {
    // SAFETY: `TUNSETVNETHDRSZ` reads one `int`, which outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &size) })
}

fn set_offload(fd: &OwnedFd, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: `TUNSETOFFLOAD` takes its argument by value.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD as _, flags as libc::c_ulong) })
}

fn check(r: libc::c_int) -> io::Result<()> {
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_does_not_exist_is_named_with_the_command_that_makes_it() {
        let e = attach("no-such-tap").map(|_| ()).unwrap_err().to_string();
        assert!(e.starts_with("no such device: no-such-tap."), "{e}");
        assert!(e.contains("ip tuntap add dev no-such-tap mode tap user $USER vnet_hdr"), "{e}");
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        for name in ["", "sixteen-letters-x", "a b", "a/b", "tap%d"] {
            assert!(matches!(attach(name), Err(TapError::BadName(_))), "{name}");
        }
    }
}
