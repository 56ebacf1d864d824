//! What a program finds around its sockets.
//!
//! Interface: the cases.
//! Linux counterpart: none.
//! Locks and context: a program under the supervisor.

use std::io::{Error, Read, Write};

fn socket_error(family: i32, kind: i32) -> Option<i32> {
    // SAFETY: takes no memory.
    let fd = unsafe { libc::socket(family, kind, 0) };
    (fd < 0).then(|| Error::last_os_error().raw_os_error().unwrap())
}

pub fn families() {
    for family in [libc::AF_PACKET, libc::AF_VSOCK, libc::AF_BLUETOOTH, libc::AF_CAN, libc::AF_NETLINK] {
        assert_eq!(socket_error(family, libc::SOCK_RAW), Some(libc::EAFNOSUPPORT), "family {family}");
    }
    assert_eq!(socket_error(libc::AF_UNIX, libc::SOCK_STREAM), None);
    assert_eq!(socket_error(libc::AF_INET, libc::SOCK_DGRAM), None);
    assert_eq!(socket_error(libc::AF_INET, 77), Some(libc::EINVAL));
}

pub fn io_uring() {
    let mut params = [0u8; 120];
    // SAFETY: room for `struct io_uring_params`.
    let r = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, params.as_mut_ptr()) };
    assert_eq!((r, Error::last_os_error().raw_os_error()), (-1, Some(libc::ENOSYS)));
}

pub fn unix() {
    let (mut a, mut b) = std::os::unix::net::UnixStream::pair().unwrap();
    a.write_all(b"x").unwrap();
    let mut buf = [0];
    b.read_exact(&mut buf).unwrap();
    let dir = std::env::temp_dir().join(format!("sockeye-case-{}", std::process::id()));
    let listener = std::os::unix::net::UnixListener::bind(&dir).unwrap();
    let mut c = std::os::unix::net::UnixStream::connect(&dir).unwrap();
    let (mut s, _) = listener.accept().unwrap();
    std::fs::remove_file(&dir).unwrap();
    c.write_all(b"y").unwrap();
    drop(c);
    let mut all = Vec::new();
    s.read_to_end(&mut all).unwrap();
    assert_eq!((&buf, &all[..]), (b"x", &b"y"[..]));
}

/// Where a case finds the identity of who started the supervisor.
pub const OUTSIDE: &str = "SOCKEYE_TEST_OUTSIDE";

/// User, group, and the limits of descriptors when this process was started.
pub fn identity() -> String {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let files = limits.lines().find(|l| l.starts_with("Max open files")).unwrap();
    // SAFETY: neither takes memory.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    format!("{uid} {gid} {files}")
}

pub fn limits() {
    assert_eq!(identity(), std::env::var(OUTSIDE).unwrap());
}
