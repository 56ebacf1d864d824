//! `ioctl(2)` on sockets: the same script natively and under `sockeye run`.
//!
//! Interface: tests.
//! Linux counterpart: `sock_do_ioctl`, `tcp_ioctl`.
//! Locks and context: as [`super`] says.

use super::*;

/// `SIOCOUTQNSD` has a number among the requests about interfaces, and was once answered with `ENODEV`.
const SCRIPT: &str = r#"
import ctypes, fcntl, socket, struct
libc = ctypes.CDLL(None)
OUTQ, OUTQNSD = 0x5411, 0x894b
def queued(s):
    return [struct.unpack("i", fcntl.ioctl(s, request, bytes(4)))[0] for request in (OUTQ, OUTQNSD)]
def disconnect(s):
    return libc.connect(s.fileno(), bytes(16), 16)
s = socket.socket()
print("fresh", queued(s), disconnect(s), queued(s), disconnect(s), queued(s))
l = socket.socket()
l.bind(("127.0.0.1", 0))
l.listen()
try:
    queued(l)
except OSError as e:
    print("listener", e.errno)
c = socket.socket()
c.connect(l.getsockname())
a, _ = l.accept()
c.send(b"0123456789")
a.recv(100)
print("open", queued(c), disconnect(c))
sent, waiting = queued(c)
print("gone", sent == waiting > 0)
print("lo", struct.unpack("16si", fcntl.ioctl(c, 0x8933, struct.pack("16si", b"lo", 0)))[1])
try:
    fcntl.ioctl(c, 0x8933, struct.pack("16si", b"nobody", 0))
except OSError as e:
    print("no device", e.errno)
"#;

#[test]
fn ioctls_are_the_kernels() {
    let native = Command::new("python3").args(["-c", SCRIPT]).output().unwrap();
    assert!(native.status.success(), "{}", text(&native.stderr));
    assert_eq!(ok(true, &[], &["python3", "-c", SCRIPT]), text(&native.stdout));
}
