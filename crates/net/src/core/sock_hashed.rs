//! Where a socket is in its transport's tables.
//!
//! Interface: [`SockHashed`], [`HashedAs`].
//! Linux counterpart: `skc_hash`, `skc_num`, `skc_node`, `skc_bind_node` of `struct sock_common`.
//! Locks and context: atomics, changed by the transport alone; who takes a socket out is told by [`SockHashed::take`].

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering::*};

/// Where packets find a socket, and which port it holds.
#[derive(Default)]
pub struct SockHashed {
    /// A connection's hash (`sk_hash`); meaningful once it is hashed.
    hash: AtomicU32,
    /// Its place among the owners of its port; kept by their list.
    pub bind_index: AtomicU32,
    /// The port it holds, 0 for none. Changes under the lock of the port's bucket.
    pub bind_port: AtomicU16,
    as_what: AtomicU8,
}

/// In which table packets look for a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashedAs {
    Nothing,
    Connection,
    Listener,
}

impl SockHashed {
    pub fn as_what(&self) -> HashedAs {
        decode(self.as_what.load(Acquire))
    }

    /// The socket has been put among the connections.
    pub fn connected(&self, hash: u32) {
        self.hash.store(hash, Relaxed);
        self.as_what.store(HashedAs::Connection as u8, Release);
    }

    /// The socket has been put among the listeners.
    pub fn listening(&self) {
        self.as_what.store(HashedAs::Listener as u8, Release);
    }

    /// It is to be taken out of the table that is named, and by the caller: nobody else is told.
    pub fn take(&self) -> HashedAs {
        decode(self.as_what.swap(HashedAs::Nothing as u8, AcqRel))
    }

    /// The hash of a connection.
    pub fn hash(&self) -> u32 {
        self.hash.load(Relaxed)
    }

    /// The port it holds; 0: none.
    pub fn bind_port(&self) -> u16 {
        self.bind_port.load(Acquire)
    }
}

fn decode(v: u8) -> HashedAs {
    match v {
        0 => HashedAs::Nothing,
        1 => HashedAs::Connection,
        _ => HashedAs::Listener,
    }
}
