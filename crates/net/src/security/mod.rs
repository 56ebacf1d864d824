//! Security hooks in front of each socket call.
//!
//! Interface: [`SecurityHooks`], [`security_add_hooks`], the `security_socket_*` functions.
//! Linux counterpart: `security/security.c`, `include/linux/lsm_hooks.h`.
//! Locks and context: process context; a kernel without modules pays one load a call.

use crate::core::net_namespace::{Net, Registries};
use crate::core::sock::Sock;
use kernel::{SpinLock, tp};
use std::sync::Arc;
use uapi::{Result, SockAddr};

/// A security module: what it does not override, it allows. The first error of any module refuses the call.
pub trait SecurityHooks: Send + Sync + 'static {
    fn socket_create(&self, _net: &Net, _family: i32, _kind: i32, _protocol: i32) -> Result<()> {
        Ok(())
    }
    fn socket_post_create(&self, _sk: &Sock) -> Result<()> {
        Ok(())
    }
    fn socket_bind(&self, _sk: &Sock, _addr: &SockAddr) -> Result<()> {
        Ok(())
    }
    fn socket_connect(&self, _sk: &Sock, _addr: &SockAddr) -> Result<()> {
        Ok(())
    }
    fn socket_listen(&self, _sk: &Sock, _backlog: i32) -> Result<()> {
        Ok(())
    }
    fn socket_accept(&self, _sk: &Sock) -> Result<()> {
        Ok(())
    }
    /// `to`: the destination given with the message, if any; `size` in bytes.
    fn socket_sendmsg(&self, _sk: &Sock, _to: Option<&SockAddr>, _size: usize) -> Result<()> {
        Ok(())
    }
    fn socket_recvmsg(&self, _sk: &Sock, _size: usize, _flags: i32) -> Result<()> {
        Ok(())
    }
    fn socket_getname(&self, _sk: &Sock, _peer: bool) -> Result<()> {
        Ok(())
    }
    fn socket_setsockopt(&self, _sk: &Sock, _level: i32, _name: i32) -> Result<()> {
        Ok(())
    }
    fn socket_getsockopt(&self, _sk: &Sock, _level: i32, _name: i32) -> Result<()> {
        Ok(())
    }
    fn socket_shutdown(&self, _sk: &Sock, _how: i32) -> Result<()> {
        Ok(())
    }
}

/// The modules of a kernel, in order. Only ever appended to, and replaced whole.
type Modules = SpinLock<Arc<Vec<Arc<dyn SecurityHooks>>>>;

/// `security_add_hooks`: `module` is asked from now on, after those before it.
pub fn security_add_hooks(reg: &Registries, module: Arc<dyn SecurityHooks>) {
    let slot = reg.security.get_or_init(|| Box::new(Modules::default()));
    let Some(modules) = slot.downcast_ref::<Modules>() else { return };
    let mut list = modules.lock_bh();
    let mut longer = Vec::clone(&list);
    longer.push(module);
    *list = Arc::new(longer);
}

/// `call_int_hook`.
#[inline]
fn call(reg: &Registries, hook: impl Fn(&dyn SecurityHooks) -> Result<()>) -> Result<()> {
    match reg.security.get() {
        None => Ok(()),
        Some(slot) => {
            let Some(modules) = slot.downcast_ref::<Modules>() else { return Ok(()) };
            let list = modules.lock_bh().clone();
            list.iter().try_for_each(|m| hook(&**m))
        }
    }
}

pub fn security_socket_create(net: &Net, family: i32, kind: i32, protocol: i32) -> Result<()> {
    tp!(security_socket_create);
    call(&net.reg, |m| m.socket_create(net, family, kind, protocol))
}

pub fn security_socket_post_create(sk: &Sock) -> Result<()> {
    tp!(security_socket_post_create, sk);
    call(&sk.net.reg, |m| m.socket_post_create(sk))
}

pub fn security_socket_bind(sk: &Sock, addr: &SockAddr) -> Result<()> {
    tp!(security_socket_bind, sk);
    call(&sk.net.reg, |m| m.socket_bind(sk, addr))
}

pub fn security_socket_connect(sk: &Sock, addr: &SockAddr) -> Result<()> {
    tp!(security_socket_connect, sk);
    call(&sk.net.reg, |m| m.socket_connect(sk, addr))
}

pub fn security_socket_listen(sk: &Sock, backlog: i32) -> Result<()> {
    tp!(security_socket_listen, sk);
    call(&sk.net.reg, |m| m.socket_listen(sk, backlog))
}

pub fn security_socket_accept(sk: &Sock) -> Result<()> {
    tp!(security_socket_accept, sk);
    call(&sk.net.reg, |m| m.socket_accept(sk))
}

#[inline]
pub fn security_socket_sendmsg(sk: &Sock, to: Option<&SockAddr>, size: usize) -> Result<()> {
    tp!(security_socket_sendmsg, sk);
    call(&sk.net.reg, |m| m.socket_sendmsg(sk, to, size))
}

#[inline]
pub fn security_socket_recvmsg(sk: &Sock, size: usize, flags: i32) -> Result<()> {
    tp!(security_socket_recvmsg, sk);
    call(&sk.net.reg, |m| m.socket_recvmsg(sk, size, flags))
}

/// `security_socket_getsockname` and `security_socket_getpeername`.
pub fn security_socket_getname(sk: &Sock, peer: bool) -> Result<()> {
    call(&sk.net.reg, |m| m.socket_getname(sk, peer))
}

pub fn security_socket_setsockopt(sk: &Sock, level: i32, name: i32) -> Result<()> {
    call(&sk.net.reg, |m| m.socket_setsockopt(sk, level, name))
}

pub fn security_socket_getsockopt(sk: &Sock, level: i32, name: i32) -> Result<()> {
    call(&sk.net.reg, |m| m.socket_getsockopt(sk, level, name))
}

pub fn security_socket_shutdown(sk: &Sock, how: i32) -> Result<()> {
    call(&sk.net.reg, |m| m.socket_shutdown(sk, how))
}
