//! What programs do with descriptors.
//!
//! Interface: the cases.
//! Linux counterpart: none.
//! Locks and context: a program under the supervisor.

use std::io::{Read, Seek, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::process::Command;

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn connected() -> (TcpStream, TcpStream) {
    let l = listener();
    let c = TcpStream::connect(l.local_addr().unwrap()).unwrap();
    (c, l.accept().unwrap().0)
}

/// Runs `f` in a child; its process number.
fn fork(f: impl FnOnce()) -> i32 {
    // SAFETY: the cases have no other threads when they fork.
    match unsafe { libc::fork() } {
        0 => {
            f();
            std::process::exit(0)
        }
        pid => pid,
    }
}

fn succeeded(pid: i32) -> bool {
    let mut status = 0;
    // SAFETY: room for an `int`.
    unsafe { libc::waitpid(pid, &mut status, 0) };
    status == 0
}

pub fn dup_and_fork() {
    let (mut c, s) = connected();
    let s2 = s.try_clone().unwrap();
    let peer = c.local_addr().unwrap();
    drop(s);
    // The other descriptor of the same socket still answers, also in a child.
    assert_eq!(s2.peer_addr().unwrap(), peer);
    let child = fork(|| {
        assert_eq!(s2.peer_addr().unwrap(), peer);
        (&s2).write_all(b"from the child").unwrap();
    });
    let mut buf = [0; 14];
    c.read_exact(&mut buf).unwrap();
    assert_eq!(&buf, b"from the child");
    assert!(succeeded(child));
    // The child's end of it is not the socket's.
    (&s2).write_all(b"!").unwrap();
    drop(s2);
    let mut rest = Vec::new();
    c.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"!");
}

pub fn fork_after_accept() {
    let l = listener();
    let to = l.local_addr().unwrap();
    let server = fork(|| {
        for _ in 0..20 {
            let (s, _) = l.accept().unwrap();
            let worker = fork(|| {
                let mut b = [0; 1];
                (&s).read_exact(&mut b).unwrap();
                (&s).write_all(&[b[0] + 1]).unwrap();
            });
            drop(s);
            assert!(succeeded(worker));
        }
    });
    for i in 0..20 {
        let mut c = TcpStream::connect(to).unwrap();
        c.write_all(&[i]).unwrap();
        let mut answer = Vec::new();
        c.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, [i + 1]);
    }
    assert!(succeeded(server));
}

pub fn shared_listener() {
    const EACH: usize = 20;
    let l = listener();
    let to = l.local_addr().unwrap();
    let workers: Vec<_> = (0..2)
        .map(|_| {
            fork(|| {
                for _ in 0..EACH {
                    l.accept().unwrap().0.write_all(b"ok").unwrap();
                }
            })
        })
        .collect();
    for _ in 0..2 * EACH {
        let mut answer = String::new();
        TcpStream::connect(to).unwrap().read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "ok");
    }
    assert!(workers.into_iter().all(succeeded));
}

/// One byte and one descriptor over a UNIX socket.
fn pass(over: RawFd, fd: Option<RawFd>) -> Option<RawFd> {
    let mut byte = 0u8;
    let mut iov = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let mut control = [0u64; 4];
    // SAFETY: a valid `msghdr` on this stack, with room for one descriptor's control message.
    unsafe {
        let mut m: libc::msghdr = std::mem::zeroed();
        m.msg_iov = &mut iov;
        m.msg_iovlen = 1;
        m.msg_control = control.as_mut_ptr().cast();
        m.msg_controllen = libc::CMSG_SPACE(4) as usize;
        if let Some(fd) = fd {
            let c = libc::CMSG_FIRSTHDR(&m);
            (*c).cmsg_level = libc::SOL_SOCKET;
            (*c).cmsg_type = libc::SCM_RIGHTS;
            (*c).cmsg_len = libc::CMSG_LEN(4) as usize;
            std::ptr::write_unaligned(libc::CMSG_DATA(c).cast(), fd);
            assert_eq!(libc::sendmsg(over, &m, 0), 1);
            return None;
        }
        assert_eq!(libc::recvmsg(over, &mut m, 0), 1);
        Some(std::ptr::read_unaligned(libc::CMSG_DATA(libc::CMSG_FIRSTHDR(&m)).cast()))
    }
}

pub fn passed() {
    let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
    let (mut c, s) = connected();
    let peer = c.local_addr().unwrap();
    let child = fork(|| {
        let fd = pass(b.as_raw_fd(), None).unwrap();
        // SAFETY: the host has just made this descriptor for us.
        let mut s = unsafe { TcpStream::from_raw_fd(fd) };
        assert_eq!(s.peer_addr().unwrap(), peer);
        s.write_all(b"handed over").unwrap();
    });
    pass(a.as_raw_fd(), Some(s.as_raw_fd()));
    drop(s);
    assert!(succeeded(child));
    let mut got = String::new();
    c.read_to_string(&mut got).unwrap();
    assert_eq!(got, "handed over");
}

pub fn cloexec() {
    let l = listener();
    let flags = |fd: RawFd| {
        // SAFETY: takes no memory.
        unsafe { libc::fcntl(fd, libc::F_GETFD) }
    };
    assert_eq!(flags(l.as_raw_fd()), libc::FD_CLOEXEC);
    // SAFETY: takes no memory.
    let plain = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) };
    assert_eq!(flags(plain), 0);
    let test = |fd: RawFd| Command::new("test").args(["-e", &format!("/proc/self/fd/{fd}")]).status().unwrap();
    assert!(!test(l.as_raw_fd()).success());
    assert!(test(plain).success());
}

pub fn sendfile() {
    let (c, mut s) = connected();
    let path = std::env::temp_dir().join(format!("sockeye-sendfile-{}", std::process::id()));
    let mut f = std::fs::File::options().create(true).truncate(true).write(true).read(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let content: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
    f.write_all(&content).unwrap();
    f.rewind().unwrap();
    let t = std::thread::spawn(move || {
        let mut all = Vec::new();
        s.read_to_end(&mut all).unwrap();
        all
    });
    let head = b"head";
    let iov = libc::iovec { iov_base: head.as_ptr().cast_mut().cast(), iov_len: 4 };
    // SAFETY: one valid range.
    assert_eq!(unsafe { libc::writev(c.as_raw_fd(), &iov, 1) }, 4);
    let mut sent = 0;
    while sent < content.len() {
        // SAFETY: a null offset is allowed.
        let n = unsafe { libc::sendfile(c.as_raw_fd(), f.as_raw_fd(), std::ptr::null_mut(), content.len() - sent) };
        assert!(n > 0);
        sent += n as usize;
    }
    drop(c);
    let got = t.join().unwrap();
    assert!(got[..4] == *head && got[4..] == content[..]);
}
