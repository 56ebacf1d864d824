//! The kernel of this machine as the target of a script: a network namespace of its own with a TUN device.
//!
//! Interface: [`Kernel`].
//! Linux counterpart: packetdrill's local mode (`netdev.c`).
//! Locks and context: made and driven by one thread, which leaves its network namespace for a new one for good.

use super::target::Target;
use libc::{c_int, c_void, socklen_t};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};
use uapi::{Errno, Result, SockAddr};

/// The largest packet a TUN device gives.
const PACKET_MAX: usize = 65536;

pub struct Kernel {
    tun: OwnedFd,
    start: Instant,
}

fn check(r: isize) -> Result<usize> {
    usize::try_from(r).map_err(|_| Errno::from_io(&io::Error::last_os_error()))
}

fn int(r: c_int) -> Result<i32> {
    check(r as isize).map(|v| v as i32)
}

fn unit(r: c_int) -> Result<()> {
    int(r).map(|_| ())
}

impl Kernel {
    /// The calling thread goes into a new network namespace. The error says what is missing.
    pub fn new(mtu: u32) -> std::result::Result<Kernel, String> {
        // SAFETY: changes the calling thread's namespace and nothing in memory.
        unit(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map_err(|e| format!("no new network namespace: {e:?}"))?;
        let rr = libc::sched_param { sched_priority: 1 };
        // SAFETY: of the calling thread; the parameter outlives the call. Refused, things are late more often.
        unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &rr) };
        let tun = open_tun("tun0").map_err(|e| format!("no TUN device: {e:?}"))?;
        let mtu = mtu.to_string();
        for args in [
            "link set dev lo up",
            &format!("link set dev tun0 mtu {mtu} up"),
            "address add 192.168.0.1/16 dev tun0",
            "-6 address add fd3d:a0b:17d6::1/32 dev tun0 nodad",
            "route add default dev tun0",
            "-6 route add default dev tun0",
        ] {
            let out = Command::new("ip").args(args.split(' ')).output().map_err(|e| format!("ip {args}: {e}"))?;
            if !out.status.success() {
                return Err(format!("ip {args}: {}", String::from_utf8_lossy(&out.stderr).trim()));
            }
        }
        Ok(Kernel { tun, start: Instant::now() })
    }
}

/// A TUN device that leaves segmentation and checksums to whoever reads it, as packetdrill's does.
fn open_tun(name: &str) -> Result<OwnedFd> {
    let path = CString::new("/dev/net/tun").map_err(|_| Errno::EINVAL)?;
    // SAFETY: a valid string; the descriptor that comes back is nobody else's.
    let tun = unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC | libc::O_NONBLOCK);
        OwnedFd::from_raw_fd(int(fd)?)
    };
    // SAFETY: `ifreq` is plain data; all zeroes is a value of it.
    let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in req.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    req.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    let offload = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    // SAFETY: `TUNSETIFF` reads and writes one `ifreq`, which outlives the call; `TUNSETOFFLOAD` takes a value.
    unsafe {
        unit(libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &mut req))?;
        unit(libc::ioctl(tun.as_raw_fd(), libc::TUNSETOFFLOAD as _, offload as libc::c_ulong))?;
    }
    Ok(tun)
}

impl Target for Kernel {
    fn socket(&self, domain: i32, kind: i32, protocol: i32) -> Result<i32> {
        // SAFETY: takes values.
        int(unsafe { libc::socket(domain, kind, protocol) })
    }

    fn bind(&self, fd: i32, addr: &SockAddr) -> Result<()> {
        let (b, n) = addr.to_bytes();
        // SAFETY: an address and its length.
        unit(unsafe { libc::bind(fd, b.as_ptr().cast(), n as socklen_t) })
    }

    fn listen(&self, fd: i32, backlog: i32) -> Result<()> {
        // SAFETY: takes values.
        unit(unsafe { libc::listen(fd, backlog) })
    }

    fn accept(&self, fd: i32) -> Result<i32> {
        // SAFETY: null pointers are allowed: no address is asked for.
        int(unsafe { libc::accept(fd, std::ptr::null_mut(), std::ptr::null_mut()) })
    }

    fn connect(&self, fd: i32, addr: &SockAddr) -> Result<()> {
        let (b, n) = addr.to_bytes();
        // SAFETY: an address and its length.
        unit(unsafe { libc::connect(fd, b.as_ptr().cast(), n as socklen_t) })
    }

    fn recv(&self, fd: i32, buf: &mut [u8], flags: i32) -> Result<usize> {
        // SAFETY: a buffer and its length.
        check(unsafe { libc::recv(fd, buf.as_mut_ptr().cast(), buf.len(), flags) })
    }

    fn sendto(&self, fd: i32, buf: &[u8], flags: i32, to: Option<&SockAddr>) -> Result<usize> {
        let name = to.map(SockAddr::to_bytes);
        let (p, n) = name.as_ref().map_or((std::ptr::null(), 0), |(b, n)| (b.as_ptr(), *n));
        let flags = flags | libc::MSG_NOSIGNAL;
        // SAFETY: a buffer and its length; an address and its length, or none.
        check(unsafe { libc::sendto(fd, buf.as_ptr().cast(), buf.len(), flags, p.cast(), n as socklen_t) })
    }

    fn shutdown(&self, fd: i32, how: i32) -> Result<()> {
        // SAFETY: takes values.
        unit(unsafe { libc::shutdown(fd, how) })
    }

    fn close(&self, fd: i32) -> Result<()> {
        // SAFETY: a descriptor that the script has opened.
        unit(unsafe { libc::close(fd) })
    }

    fn fcntl(&self, fd: i32, cmd: i32, arg: i32) -> Result<i32> {
        // SAFETY: the commands of scripts take an `int` or nothing.
        int(unsafe { libc::fcntl(fd, cmd, arg) })
    }

    fn ioctl(&self, fd: i32, request: u32, arg: i32) -> Result<i32> {
        let mut v = arg;
        // SAFETY: the requests of scripts take a pointer to an `int`.
        unit(unsafe { libc::ioctl(fd, request as _, &mut v) }).map(|()| v)
    }

    fn setsockopt(&self, fd: i32, level: i32, name: i32, val: &[u8]) -> Result<()> {
        // SAFETY: a value and its length.
        unit(unsafe { libc::setsockopt(fd, level, name, val.as_ptr().cast::<c_void>(), val.len() as socklen_t) })
    }

    fn getsockopt(&self, fd: i32, level: i32, name: i32, len: usize) -> Result<Vec<u8>> {
        let (mut b, mut n) = (vec![0u8; len], len as socklen_t);
        // SAFETY: a buffer and its length.
        unit(unsafe { libc::getsockopt(fd, level, name, b.as_mut_ptr().cast(), &mut n) })?;
        b.truncate(n as usize);
        Ok(b)
    }

    fn poll(&self, fds: &[(i32, i16)], timeout: i32) -> Result<(usize, Vec<i16>)> {
        let mut list: Vec<libc::pollfd> =
            fds.iter().map(|&(fd, events)| libc::pollfd { fd, events, revents: 0 }).collect();
        // SAFETY: an array and its length.
        let n = int(unsafe { libc::poll(list.as_mut_ptr(), list.len() as libc::nfds_t, timeout) })?;
        Ok((n as usize, list.iter().map(|p| p.revents).collect()))
    }

    fn sysctl(&self, name: &str, value: &str) -> bool {
        std::fs::write(format!("/proc/sys/{}", name.replace('.', "/")), value).is_ok()
    }

    fn command(&self, argv: &[&str]) -> std::result::Result<(), String> {
        let (tool, args) = argv.split_first().ok_or("no command")?;
        let out = Command::new(tool).args(args).output().map_err(|e| format!("{tool}: {e}"))?;
        let complaint = String::from_utf8_lossy(&out.stderr);
        if out.status.success() { Ok(()) } else { Err(format!("{}: {}", argv.join(" "), complaint.trim())) }
    }

    fn proc_net(&self, file: &str) -> String {
        // Only this thread is in the namespace.
        std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default()
    }

    fn now(&self) -> i64 {
        self.start.elapsed().as_micros() as i64
    }

    fn wait_until(&self, usecs: i64) {
        let left = usecs - self.now();
        if left > 0 {
            std::thread::sleep(Duration::from_micros(left as u64));
        }
    }

    fn inject(&self, packet: &[u8]) -> Result<()> {
        // SAFETY: a buffer and its length.
        check(unsafe { libc::write(self.tun.as_raw_fd(), packet.as_ptr().cast(), packet.len()) }).map(|_| ())
    }

    fn receive(&self, usecs: i64) -> Option<(Vec<u8>, i64)> {
        let mut b = vec![0; PACKET_MAX];
        loop {
            // SAFETY: a buffer and its length.
            let got = check(unsafe { libc::read(self.tun.as_raw_fd(), b.as_mut_ptr().cast(), b.len()) });
            if let Ok(n) = got {
                b.truncate(n);
                return Some((b, self.now()));
            }
            let left = usecs - self.now();
            if left <= 0 {
                return None;
            }
            let mut p = libc::pollfd { fd: self.tun.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one entry, and so it says.
            unsafe { libc::poll(&mut p, 1, (left / 1000 + 1) as c_int) };
        }
    }

    fn blocked(&self) -> bool {
        // A thread needs less to get into its call.
        std::thread::sleep(Duration::from_millis(1));
        true
    }

    fn tolerance(&self) -> i64 {
        12_000
    }
}
