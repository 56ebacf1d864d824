//! packetdrill's table of functions, and the symbol that fills it.
//!
//! Interface: [`PacketdrillInterface`], `packetdrill_interface_init`.
//! Linux counterpart: packetdrill's `packetdrill.h`.
//! Locks and context: C calls it, from two threads.
//!
//! `fcntl` and `ioctl` are variadic in C, where they are passed one argument of a register's size or none. On the machines
//! that Linux's 64-bit ABIs describe that is the same as a third fixed argument, which then is not looked at.

use crate::calls;
use crate::flags::Flags;
use crate::machine::Machine;
use crate::memory::Userdata;
use libc::{c_char, c_int, c_long, c_longlong, c_uint, c_ulong, c_void, size_t, ssize_t};
use libc::{epoll_event, iovec, msghdr, pollfd, sockaddr, socklen_t, timeval};
use std::ffi::CStr;

macro_rules! table {
    ($($name:ident: fn($($arg:ty),*) -> $ret:ty;)*) => {
        /// `struct packetdrill_interface`.
        #[repr(C)]
        #[allow(missing_docs)]
        pub struct PacketdrillInterface {
            pub userdata: Userdata,
            pub free: unsafe extern "C" fn(Userdata),
            $(pub $name: unsafe extern "C" fn(Userdata, $($arg),*) -> $ret,)*
        }

        fn table(userdata: Userdata) -> PacketdrillInterface {
            PacketdrillInterface { userdata, free, $($name: calls::$name,)* }
        }
    };
}

table! {
    socket: fn(c_int, c_int, c_int) -> c_int;
    bind: fn(c_int, *const sockaddr, socklen_t) -> c_int;
    listen: fn(c_int, c_int) -> c_int;
    accept: fn(c_int, *mut sockaddr, *mut socklen_t) -> c_int;
    connect: fn(c_int, *const sockaddr, socklen_t) -> c_int;
    read: fn(c_int, *mut c_void, size_t) -> ssize_t;
    readv: fn(c_int, *const iovec, c_int) -> ssize_t;
    recv: fn(c_int, *mut c_void, size_t, c_int) -> ssize_t;
    recvfrom: fn(c_int, *mut c_void, size_t, c_int, *mut sockaddr, *mut socklen_t) -> ssize_t;
    recvmsg: fn(c_int, *mut msghdr, c_int) -> ssize_t;
    write: fn(c_int, *const c_void, size_t) -> ssize_t;
    writev: fn(c_int, *const iovec, c_int) -> ssize_t;
    send: fn(c_int, *const c_void, size_t, c_int) -> ssize_t;
    sendto: fn(c_int, *const c_void, size_t, c_int, *const sockaddr, socklen_t) -> ssize_t;
    sendmsg: fn(c_int, *const msghdr, c_int) -> ssize_t;
    fcntl: fn(c_int, c_int, c_long) -> c_int;
    ioctl: fn(c_int, c_ulong, *mut c_void) -> c_int;
    close: fn(c_int) -> c_int;
    shutdown: fn(c_int, c_int) -> c_int;
    getsockopt: fn(c_int, c_int, c_int, *mut c_void, *mut socklen_t) -> c_int;
    setsockopt: fn(c_int, c_int, c_int, *const c_void, socklen_t) -> c_int;
    poll: fn(*mut pollfd, c_ulong, c_int) -> c_int;
    netdev_send: fn(*const c_void, size_t) -> c_int;
    netdev_receive: fn(*mut c_void, *mut size_t, *mut c_longlong) -> c_int;
    usleep: fn(c_uint) -> c_int;
    gettimeofday: fn(*mut timeval, *mut c_void) -> c_int;
    epoll_create: fn(c_int) -> c_int;
    epoll_ctl: fn(c_int, c_int, c_int, *mut epoll_event) -> c_int;
    epoll_wait: fn(c_int, *mut epoll_event, c_int, c_int) -> c_int;
    pipe: fn(*mut c_int) -> c_int;
    splice: fn(c_int, *mut c_longlong, c_int, *mut c_longlong, size_t, c_uint) -> ssize_t;
}

/// Makes a machine as `flags` say and fills the table. What is wrong with them goes to standard error and ends the process:
/// packetdrill has no way to be told.
///
/// # Safety
/// `flags` is null or a C string; `ifc` points to a table.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn packetdrill_interface_init(flags: *const c_char, ifc: *mut PacketdrillInterface) {
    // SAFETY: the caller's promise.
    let text = if flags.is_null() { String::new() } else { unsafe { CStr::from_ptr(flags) }.to_string_lossy().into() };
    let machine = Flags::parse(&text).and_then(|f| Machine::new(&f)).unwrap_or_else(|e| {
        eprintln!("sockeye: {e}");
        std::process::exit(1)
    });
    if let Err(e) = control(&machine, &text) {
        eprintln!("sockeye: control: {e}");
        std::process::exit(1);
    }
    let userdata = Box::into_raw(Box::new(machine)).cast();
    #[cfg(feature = "preload")]
    crate::preload::set_machine(userdata);
    // SAFETY: the caller's promise.
    unsafe { ifc.write(table(userdata)) };
}

/// Serves the tools of a script, if the flags name a socket for them.
fn control(machine: &Machine, flags: &str) -> std::io::Result<()> {
    match Flags::parse(flags).ok().and_then(|f| f.control) {
        Some(name) => crate::control::serve(&machine.net, &machine.raw, &name),
        None => Ok(()),
    }
}

unsafe extern "C" fn free(userdata: Userdata) {
    #[cfg(feature = "preload")]
    crate::preload::set_machine(std::ptr::null_mut());
    // SAFETY: made by `packetdrill_interface_init`, given back once, when no call is under way.
    drop(unsafe { Box::from_raw(userdata.cast::<Machine>()) });
}
