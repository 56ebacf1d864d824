//! Datagrams.
//!
//! Interface: the cases.
//! Linux counterpart: none.
//! Locks and context: a program under the supervisor.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

const ANY: &str = "127.0.0.1:0";

fn pair() -> (UdpSocket, UdpSocket) {
    let (a, b) = (UdpSocket::bind(ANY).unwrap(), UdpSocket::bind(ANY).unwrap());
    a.connect(b.local_addr().unwrap()).unwrap();
    (a, b)
}

/// The poll mask after at most `ms` milliseconds.
pub fn poll(fd: RawFd, events: i16, ms: i32) -> i16 {
    let mut p = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one valid entry.
    unsafe { libc::poll(&mut p, 1, ms) };
    p.revents
}

pub fn source() {
    let server = UdpSocket::bind(ANY).unwrap();
    let to = server.local_addr().unwrap();
    let clients: Vec<_> = (0..5).map(|_| UdpSocket::bind(ANY).unwrap()).collect();
    for (i, c) in clients.iter().enumerate() {
        c.send_to(&[i as u8], to).unwrap();
    }
    let mut buf = [0; 10];
    for (i, c) in clients.iter().enumerate() {
        let (n, from) = server.recv_from(&mut buf).unwrap();
        assert_eq!((n, buf[0], from), (1, i as u8, c.local_addr().unwrap()));
        server.send_to(b"back", from).unwrap();
        assert_eq!(c.recv(&mut buf).unwrap(), 4);
    }
}

pub fn boundaries() {
    let (a, b) = pair();
    let sizes = [0, 1, 1000, 0, 65_507, 3];
    for n in sizes {
        assert_eq!(a.send(&vec![7; n]).unwrap(), n);
    }
    let mut buf = vec![0; 70_000];
    for n in sizes {
        assert_eq!(b.recv(&mut buf).unwrap(), n);
    }
}

pub fn readiness() {
    let (a, b) = pair();
    let fd = b.as_raw_fd();
    assert_eq!(poll(fd, libc::POLLIN, 0), 0);
    a.send(b"1").unwrap();
    a.send(b"2").unwrap();
    for _ in 0..2 {
        assert_eq!(poll(fd, libc::POLLIN, 10_000), libc::POLLIN);
        b.recv_from(&mut [0; 10]).unwrap();
    }
    assert_eq!(poll(fd, libc::POLLIN, 0), 0);
    // The same without an address: the program reads from its end by itself.
    a.send(b"3").unwrap();
    a.send(b"4").unwrap();
    for _ in 0..2 {
        assert_eq!(poll(fd, libc::POLLIN, 10_000), libc::POLLIN);
        b.recv(&mut [0; 10]).unwrap();
    }
    b.set_nonblocking(true).unwrap();
    assert_eq!(b.recv(&mut [0; 10]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(b.recv_from(&mut [0; 10]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

pub fn peek_and_truncate() {
    let (a, b) = pair();
    a.send(b"abcdef").unwrap();
    let mut buf = [0; 3];
    assert_eq!(b.peek_from(&mut buf).unwrap(), (3, a.local_addr().unwrap()));
    let recv = |flags: i32, buf: &mut [u8]| {
        // SAFETY: `buf` is writable for its length.
        unsafe { libc::recv(b.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), flags) }
    };
    assert_eq!(recv(libc::MSG_PEEK | libc::MSG_TRUNC, &mut buf), 6);
    assert_eq!(recv(libc::MSG_TRUNC, &mut buf), 6);
    assert_eq!(&buf, b"abc");
    assert_eq!(recv(libc::MSG_DONTWAIT, &mut buf), -1);
}

pub fn many() {
    let (a, b) = pair();
    let mut bytes: Vec<[u8; 4]> = (0..8u8).map(|i| [i; 4]).collect();
    let mut iov: Vec<_> =
        bytes.iter_mut().map(|b| libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: 4 }).collect();
    let mut msgs: Vec<libc::mmsghdr> = iov
        .iter_mut()
        .map(|v| {
            // SAFETY: all-zero is a valid `mmsghdr`.
            let mut m: libc::mmsghdr = unsafe { std::mem::zeroed() };
            m.msg_hdr.msg_iov = v;
            m.msg_hdr.msg_iovlen = 1;
            m
        })
        .collect();
    // SAFETY: eight valid messages.
    assert_eq!(unsafe { libc::sendmmsg(a.as_raw_fd(), msgs.as_mut_ptr(), 8, 0) }, 8);
    assert!(msgs.iter().all(|m| m.msg_len == 4));
    b.peek(&mut [0; 4]).unwrap();
    // SAFETY: eight valid messages whose buffers are writable.
    let n = unsafe { libc::recvmmsg(b.as_raw_fd(), msgs.as_mut_ptr(), 8, libc::MSG_WAITFORONE, std::ptr::null_mut()) };
    assert_eq!(n, 8);
    assert_eq!(bytes, (0..8u8).map(|i| [i; 4]).collect::<Vec<_>>());
}

pub fn timeout() {
    let (_a, b) = pair();
    b.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    assert_eq!(b.recv_from(&mut [0; 10]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(b.recv(&mut [0; 10]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

pub fn refused() {
    let (a, b) = pair();
    drop(b);
    a.send(b"anybody?").unwrap();
    assert_ne!(poll(a.as_raw_fd(), libc::POLLIN, 10_000), 0);
    assert_eq!(a.recv_from(&mut [0; 10]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

pub fn blocked() {
    let (a, b) = pair();
    let from = a.local_addr().unwrap();
    let t = std::thread::spawn(move || {
        let mut buf = [0; 10];
        (0..100).map(|_| b.recv_from(&mut buf).unwrap()).all(|r| r == (2, from))
    });
    for _ in 0..100 {
        a.send(b"hi").unwrap();
    }
    assert!(t.join().unwrap());
}
