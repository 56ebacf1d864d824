//! Streams.
//!
//! Interface: the cases.
//! Linux counterpart: none.
//! Locks and context: a program under the supervisor.

use super::udp::poll;
use std::io::{Error, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

const IN: i16 = libc::POLLIN;
const OUT: i16 = libc::POLLOUT;

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn connected() -> (TcpStream, TcpStream) {
    let l = listener();
    let c = TcpStream::connect(l.local_addr().unwrap()).unwrap();
    (c, l.accept().unwrap().0)
}

/// A port where nobody listens.
fn nobody() -> SocketAddr {
    listener().local_addr().unwrap()
}

fn setsockopt<T>(fd: RawFd, level: i32, name: i32, val: &T) {
    let len = size_of::<T>() as u32;
    // SAFETY: `val` is readable for its size.
    let r = unsafe { libc::setsockopt(fd, level, name, (val as *const T).cast(), len) };
    assert_eq!(r, 0, "{}", Error::last_os_error());
}

fn getsockopt(fd: RawFd, level: i32, name: i32) -> i32 {
    let (mut v, mut len) = (0i32, 4u32);
    // SAFETY: room for an `int`, and its size.
    let r = unsafe { libc::getsockopt(fd, level, name, (&raw mut v).cast(), &mut len) };
    assert_eq!(r, 0, "{}", Error::last_os_error());
    v
}

pub fn echo() {
    let l = listener();
    let to = l.local_addr().unwrap();
    let t = std::thread::spawn(move || {
        let (mut s, from) = l.accept().unwrap();
        assert_eq!(s.peer_addr().unwrap(), from);
        assert_eq!(s.local_addr().unwrap(), to);
        let mut b = [0; 5];
        s.read_exact(&mut b).unwrap();
        s.write_all(&b).unwrap();
        from
    });
    let mut c = TcpStream::connect(to).unwrap();
    c.write_all(b"hello").unwrap();
    let mut b = [0; 5];
    c.read_exact(&mut b).unwrap();
    assert_eq!(&b, b"hello");
    assert_eq!(t.join().unwrap(), c.local_addr().unwrap());
}

pub fn bulk() {
    const N: usize = 20_000_000;
    let (mut a, mut b) = connected();
    let byte = |i: usize| (i % 253) as u8;
    let mut writer = a.try_clone().unwrap();
    let t = std::thread::spawn(move || {
        let mut got = 0;
        let mut buf = vec![0; 100_000];
        while got < N {
            let n = b.read(&mut buf).unwrap();
            assert!(n > 0 && buf[..n].iter().enumerate().all(|(i, &x)| x == byte(got + i)));
            got += n;
            // Every tenth byte goes back.
            b.write_all(&vec![9; n / 10]).unwrap();
        }
    });
    let back = std::thread::spawn(move || {
        let mut all = Vec::new();
        a.read_to_end(&mut all).unwrap();
        all.len()
    });
    let data: Vec<u8> = (0..N).map(byte).collect();
    for part in data.chunks(77_777) {
        writer.write_all(part).unwrap();
    }
    t.join().unwrap();
    let n = back.join().unwrap();
    assert!(n > N / 10 - 2000 && n <= N / 10, "{n}");
}

pub fn ipv6() {
    let l = TcpListener::bind("[::1]:0").unwrap();
    let mut c = TcpStream::connect(l.local_addr().unwrap()).unwrap();
    let (mut s, from) = l.accept().unwrap();
    assert_eq!(from, c.local_addr().unwrap());
    c.write_all(b"six").unwrap();
    drop(c);
    let mut all = String::new();
    s.read_to_string(&mut all).unwrap();
    assert_eq!(all, "six");
}

pub fn half_close() {
    let (mut c, mut s) = connected();
    c.write_all(b"question").unwrap();
    c.shutdown(Shutdown::Write).unwrap();
    let mut q = String::new();
    s.read_to_string(&mut q).unwrap();
    assert_eq!(q, "question");
    assert_eq!(c.write(b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
    s.write_all(b"answer").unwrap();
    drop(s);
    let mut a = String::new();
    c.read_to_string(&mut a).unwrap();
    assert_eq!(a, "answer");
}

pub fn close() {
    let (c, mut s) = connected();
    (&c).write_all(b"last words").unwrap();
    drop(c);
    let mut all = String::new();
    s.read_to_string(&mut all).unwrap();
    assert_eq!(all, "last words");
    assert_eq!(poll(s.as_raw_fd(), libc::POLLRDHUP, 0), libc::POLLRDHUP);
}

pub fn both_shut() {
    let (mut c, s) = connected();
    let addr = s.local_addr().unwrap();
    s.shutdown(Shutdown::Write).unwrap();
    c.read_to_end(&mut Vec::new()).unwrap();
    c.shutdown(Shutdown::Write).unwrap();
    (&s).read_to_end(&mut Vec::new()).unwrap();
    // The socket is still the program's.
    assert_eq!(s.local_addr().unwrap(), addr);
    drop(s);
    drop(c);
    // And its port is free when it is closed.
    drop(TcpListener::bind("127.0.0.1:0").unwrap());
}

pub fn reset_after_data() {
    let (mut c, s) = connected();
    (&s).write_all(b"q").unwrap();
    assert_eq!(poll(c.as_raw_fd(), IN, 10_000), IN);
    setsockopt(s.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 0 });
    drop(s);
    assert_ne!(poll(c.as_raw_fd(), 0, 10_000) & libc::POLLHUP, 0);
    let mut b = [0; 1];
    assert_eq!(c.read(&mut b).unwrap(), 1);
    assert_eq!(c.read(&mut b).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(c.read(&mut b).unwrap(), 0);
    assert_eq!(c.write(&b).unwrap_err().kind(), ErrorKind::BrokenPipe);
}

pub fn unread() {
    let (mut c, s) = connected();
    c.write_all(b"never read").unwrap();
    assert_eq!(poll(s.as_raw_fd(), IN, 10_000), IN);
    drop(s);
    assert_eq!(c.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

pub fn linger_0() {
    let (mut c, s) = connected();
    setsockopt(s.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 0 });
    drop(s);
    assert_eq!(c.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

pub fn refused() {
    assert_eq!(TcpStream::connect(nobody()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

fn sockaddr(a: SocketAddr) -> libc::sockaddr_in {
    let SocketAddr::V4(a) = a else { unreachable!() };
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: a.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*a.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

fn connect(fd: RawFd, to: SocketAddr) -> Result<(), i32> {
    let a = sockaddr(to);
    // SAFETY: a valid address.
    match unsafe { libc::connect(fd, (&raw const a).cast(), size_of_val(&a) as u32) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error().raw_os_error().unwrap()),
    }
}

fn socket(flags: i32) -> OwnedFd {
    // SAFETY: takes no memory; the host has just made the descriptor for us.
    unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_INET, libc::SOCK_STREAM | flags, 0)) }
}

struct Epoll(OwnedFd);

impl Epoll {
    fn new(fd: RawFd, events: i32) -> Epoll {
        // SAFETY: takes no memory; the host has just made the descriptor for us.
        let ep = unsafe { OwnedFd::from_raw_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC)) };
        let mut ev = libc::epoll_event { events: events as u32, u64: 0 };
        // SAFETY: a valid event.
        assert_eq!(unsafe { libc::epoll_ctl(ep.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut ev) }, 0);
        Epoll(ep)
    }

    /// The events that come within `ms` milliseconds.
    fn wait(&self, ms: i32) -> i32 {
        let mut ev = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: room for one event.
        unsafe { libc::epoll_wait(self.0.as_raw_fd(), &mut ev, 1, ms) };
        ev.events as i32
    }
}

pub fn nonblocking() {
    let l = listener();
    let c = socket(libc::SOCK_NONBLOCK);
    assert_eq!(connect(c.as_raw_fd(), l.local_addr().unwrap()), Err(libc::EINPROGRESS));
    let ep = Epoll::new(c.as_raw_fd(), libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLET);
    assert_eq!(ep.wait(10_000), libc::EPOLLOUT);
    assert_eq!(getsockopt(c.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ERROR), 0);
    let (mut s, _) = l.accept().unwrap();
    let mut c = TcpStream::from(c);
    c.write_all(b"edge").unwrap();
    s.read_exact(&mut [0; 4]).unwrap();
    assert_eq!(c.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    s.write_all(b"!").unwrap();
    // There may be an edge for room before.
    while ep.wait(10_000) & libc::EPOLLIN == 0 {}
}

pub fn nonblocking_refused() {
    let c = socket(libc::SOCK_NONBLOCK);
    assert_eq!(connect(c.as_raw_fd(), nobody()), Err(libc::EINPROGRESS));
    let want = IN | OUT | libc::POLLERR | libc::POLLHUP;
    assert_eq!(poll(c.as_raw_fd(), IN | OUT, 10_000), want);
    assert_eq!(getsockopt(c.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ERROR), libc::ECONNREFUSED);
    assert_eq!(getsockopt(c.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ERROR), 0);
}

pub fn again() {
    for flags in [0, libc::SOCK_NONBLOCK] {
        let c = socket(flags);
        let first = connect(c.as_raw_fd(), nobody());
        assert_eq!(first, Err(if flags == 0 { libc::ECONNREFUSED } else { libc::EINPROGRESS }));
        assert_ne!(poll(c.as_raw_fd(), OUT, 10_000), 0);
        let l = listener();
        let mut tries = 0;
        // Linux answers ECONNABORTED once when nobody has asked for the first error.
        while let Err(e) = connect(c.as_raw_fd(), l.local_addr().unwrap()) {
            assert!(matches!(e, libc::ECONNABORTED | libc::EINPROGRESS | libc::EALREADY | libc::ECONNREFUSED), "{e}");
            if e == libc::EINPROGRESS {
                assert_ne!(poll(c.as_raw_fd(), OUT, 10_000) & OUT, 0);
                break;
            }
            tries += 1;
            assert!(tries < 10);
        }
        let (mut s, _) = l.accept().unwrap();
        TcpStream::from(c).write_all(b"second").unwrap();
        let mut got = String::new();
        s.read_to_string(&mut got).unwrap();
        assert_eq!(got, "second");
    }
}

pub fn listener_readiness() {
    let l = listener();
    let fd = l.as_raw_fd();
    assert_eq!(poll(fd, IN, 0), 0);
    let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(l.local_addr().unwrap()).unwrap()).collect();
    for _ in &clients {
        assert_eq!(poll(fd, IN, 10_000), IN);
        l.accept().unwrap();
    }
    assert_eq!(poll(fd, IN, 0), 0);
    l.set_nonblocking(true).unwrap();
    assert_eq!(l.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

pub fn listener_edges() {
    let l = listener();
    let ep = Epoll::new(l.as_raw_fd(), libc::EPOLLIN | libc::EPOLLET);
    assert_eq!(ep.wait(0), 0);
    let mut kept = Vec::new();
    for _ in 0..3 {
        // None is accepted between: each connection is an edge of its own.
        kept.push(TcpStream::connect(l.local_addr().unwrap()).unwrap());
        assert_eq!(ep.wait(10_000), libc::EPOLLIN);
    }
    assert_eq!(ep.wait(0), 0);
    for _ in 0..3 {
        l.accept().unwrap();
    }
}

fn timeval(d: Duration) -> libc::timeval {
    libc::timeval { tv_sec: d.as_secs() as i64, tv_usec: d.subsec_micros().into() }
}

pub fn accept_timeout() {
    let l = listener();
    setsockopt(l.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, &timeval(Duration::from_millis(30)));
    assert_eq!(l.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    let _c = TcpStream::connect(l.local_addr().unwrap()).unwrap();
    l.accept().unwrap();
}

pub fn listener_shutdown() {
    let l = listener();
    let fd = l.as_raw_fd();
    let l2 = l.try_clone().unwrap();
    let t = std::thread::spawn(move || l2.accept().unwrap_err().raw_os_error());
    // The accept may come before or after: it fails either way.
    // SAFETY: takes no memory.
    assert_eq!(unsafe { libc::shutdown(fd, libc::SHUT_RDWR) }, 0);
    assert_eq!(t.join().unwrap(), Some(libc::EINVAL));
}

pub fn bind_after_close() {
    let addr = listener().local_addr().unwrap();
    for _ in 0..1000 {
        let l = socket(0);
        let a = sockaddr(addr);
        // SAFETY: a valid address.
        let r = unsafe { libc::bind(l.as_raw_fd(), (&raw const a).cast(), size_of_val(&a) as u32) };
        assert_eq!(r, 0, "{}", Error::last_os_error());
    }
}

pub fn receive_timeout() {
    let (mut c, _s) = connected();
    c.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    assert_eq!(c.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

pub fn options() {
    let (c, _s) = connected();
    let fd = c.as_raw_fd();
    let sol = |name| getsockopt(fd, libc::SOL_SOCKET, name);
    assert_eq!(sol(libc::SO_TYPE), libc::SOCK_STREAM);
    assert_eq!(sol(libc::SO_DOMAIN), libc::AF_INET);
    assert_eq!(sol(libc::SO_PROTOCOL), libc::IPPROTO_TCP);
    assert_eq!(sol(libc::SO_ACCEPTCONN), 0);
    c.set_nodelay(true).unwrap();
    assert!(c.nodelay().unwrap());
    assert_eq!(getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO) & 0xff, 1);
    assert_eq!(c.peer_addr().unwrap().ip(), Ipv4Addr::LOCALHOST);
}

pub fn counts() {
    let (mut c, s) = connected();
    c.write_all(b"twelve bytes").unwrap();
    assert_eq!(poll(s.as_raw_fd(), IN, 10_000), IN);
    let ask = |fd: RawFd, what| {
        let mut n = 0i32;
        // SAFETY: the request writes an `int`.
        assert_eq!(unsafe { libc::ioctl(fd, what, &mut n) }, 0, "{}", Error::last_os_error());
        n
    };
    assert_eq!(ask(s.as_raw_fd(), libc::FIONREAD), 12);
    assert!(ask(c.as_raw_fd(), libc::TIOCOUTQ) <= 12);
}

pub fn discard() {
    let (mut c, s) = connected();
    let take = |n: usize| {
        // SAFETY: with `MSG_TRUNC` nothing is written to the null buffer.
        unsafe { libc::recv(s.as_raw_fd(), std::ptr::null_mut(), n, libc::MSG_TRUNC) }
    };
    c.write_all(b"0123456789").unwrap();
    assert_eq!(poll(s.as_raw_fd(), IN, 10_000), IN);
    assert_eq!(take(4), 4);
    let mut rest = [0; 6];
    (&s).read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"456789");
    let t = std::thread::spawn(move || c.write_all(b"ab").unwrap());
    assert_eq!(take(2), 2);
    t.join().unwrap();
}

pub fn address_on_a_stream() {
    let (c, mut s) = connected();
    let to = sockaddr(c.peer_addr().unwrap());
    const N: usize = 1_000_000;
    let t = std::thread::spawn(move || {
        let mut all = Vec::new();
        s.read_to_end(&mut all).unwrap();
        all.len()
    });
    let data = vec![1u8; N];
    let mut sent = 0;
    while sent < N {
        let left = &data[sent..];
        // SAFETY: valid bytes and a valid address.
        let n = unsafe {
            let addr = (&raw const to).cast();
            libc::sendto(c.as_raw_fd(), left.as_ptr().cast(), left.len(), 0, addr, size_of_val(&to) as u32)
        };
        assert!(n > 0, "{}", Error::last_os_error());
        sent += n as usize;
    }
    drop(c);
    assert_eq!(t.join().unwrap(), N);
}

pub fn reset_before_accept() {
    let l = listener();
    let c = TcpStream::connect(l.local_addr().unwrap()).unwrap();
    let from = c.local_addr().unwrap();
    setsockopt(c.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 0 });
    drop(c);
    let (mut s, peer) = l.accept().unwrap();
    assert_eq!(peer, from);
    assert_eq!(s.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}
