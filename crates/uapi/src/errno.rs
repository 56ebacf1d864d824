//! Error numbers.
//!
//! Interface: [`Errno`] and one constant per Linux error the stack answers with.
//! Linux counterpart: `include/uapi/asm-generic/errno.h`, `include/linux/errno.h`.
//! Locks and context: plain data.

use std::fmt;

/// A Linux error number, positive as user space sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

/// What a system call of the stack answers.
pub type Result<T> = std::result::Result<T, Errno>;

macro_rules! errnos {
    ($($name:ident = $value:expr,)*) => {
        impl Errno {
            $(pub const $name: Errno = Errno($value);)*

            /// The symbolic name (`"ECONNREFUSED"`), or `"E?"` for a number the stack never answers with.
            pub fn name(self) -> &'static str {
                match self { $(Errno::$name => stringify!($name),)* _ => "E?" }
            }
        }
    };
}

errnos! {
    EPERM = libc::EPERM, ENOENT = libc::ENOENT, ESRCH = libc::ESRCH, EINTR = libc::EINTR, EIO = libc::EIO, ENXIO = libc::ENXIO,
    E2BIG = libc::E2BIG, EBADF = libc::EBADF, EAGAIN = libc::EAGAIN, ENOMEM = libc::ENOMEM, EACCES = libc::EACCES,
    EFAULT = libc::EFAULT, EBUSY = libc::EBUSY, EEXIST = libc::EEXIST, ENODEV = libc::ENODEV, EINVAL = libc::EINVAL,
    ENFILE = libc::ENFILE, EMFILE = libc::EMFILE, ENOTTY = libc::ENOTTY, ESPIPE = libc::ESPIPE, EPIPE = libc::EPIPE,
    EDOM = libc::EDOM, ERANGE = libc::ERANGE, ENOSYS = libc::ENOSYS, ENODATA = libc::ENODATA, ENOMSG = libc::ENOMSG, EPROTO = libc::EPROTO,
    EBADMSG = libc::EBADMSG, ENOTSOCK = libc::ENOTSOCK, EDESTADDRREQ = libc::EDESTADDRREQ,
    EMSGSIZE = libc::EMSGSIZE, EPROTOTYPE = libc::EPROTOTYPE, ENOPROTOOPT = libc::ENOPROTOOPT,
    EPROTONOSUPPORT = libc::EPROTONOSUPPORT, ESOCKTNOSUPPORT = libc::ESOCKTNOSUPPORT,
    EOPNOTSUPP = libc::EOPNOTSUPP, EPFNOSUPPORT = libc::EPFNOSUPPORT, EAFNOSUPPORT = libc::EAFNOSUPPORT,
    EADDRINUSE = libc::EADDRINUSE, EADDRNOTAVAIL = libc::EADDRNOTAVAIL, ENETDOWN = libc::ENETDOWN,
    ENETUNREACH = libc::ENETUNREACH, ENETRESET = libc::ENETRESET, ECONNABORTED = libc::ECONNABORTED,
    ECONNRESET = libc::ECONNRESET, ENOBUFS = libc::ENOBUFS, EISCONN = libc::EISCONN, ENOTCONN = libc::ENOTCONN,
    ETIME = libc::ETIME, ETIMEDOUT = libc::ETIMEDOUT, ECONNREFUSED = libc::ECONNREFUSED, EHOSTDOWN = libc::EHOSTDOWN,
    EHOSTUNREACH = libc::EHOSTUNREACH, EALREADY = libc::EALREADY, EINPROGRESS = libc::EINPROGRESS,
    ENONET = libc::ENONET, ESTALE = libc::ESTALE, ECANCELED = libc::ECANCELED,
    // Kernel-internal: restart the system call after the signal handler, or fail with `EINTR`.
    ERESTARTSYS = 512,
    // Kernel-internal: a protocol's own way of saying that an ioctl is not its.
    ENOIOCTLCMD = 515,
    // Kernel-internal: a request that must be looked at again by its caller.
    EKEYREJECTED = libc::EKEYREJECTED,
    ENOTSUPP = 524,
}

impl Errno {
    /// From a host error; one without a number becomes `EIO`.
    pub fn from_io(e: &std::io::Error) -> Errno {
        Errno(e.raw_os_error().unwrap_or(libc::EIO))
    }

    /// What user space sees in place of the kernel-internal numbers.
    pub fn to_user(self) -> Errno {
        match self {
            Errno::ERESTARTSYS => Errno::EINTR,
            Errno::ENOIOCTLCMD => Errno::ENOTTY,
            Errno::ENOTSUPP => Errno::EOPNOTSUPP,
            e => e,
        }
    }
}

impl From<Errno> for std::io::Error {
    fn from(e: Errno) -> Self {
        std::io::Error::from_raw_os_error(e.to_user().0)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&std::io::Error::from(*self), f)
    }
}

impl std::error::Error for Errno {}
