//! A socket's count of bytes.
//!
//! Interface: [`SockMem`].
//! Linux counterpart: the `atomic_t` and `int` counts of `struct sock` (`sk_rmem_alloc`, `sk_wmem_queued`, …).
//! Locks and context: an atomic, any context.

use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes, in 32 bits as Linux has them: a socket has buffers of less than 2 GiB.
#[derive(Default)]
pub struct SockMem(AtomicU32);

impl SockMem {
    #[inline]
    pub fn load(&self, o: Ordering) -> usize {
        self.0.load(o) as usize
    }

    #[inline]
    pub fn fetch_add(&self, n: usize, o: Ordering) -> usize {
        self.0.fetch_add(n as u32, o) as usize
    }

    #[inline]
    pub fn fetch_sub(&self, n: usize, o: Ordering) -> usize {
        self.0.fetch_sub(n as u32, o) as usize
    }

    #[inline]
    pub fn store(&self, n: usize, o: Ordering) {
        self.0.store(n as u32, o);
    }
}
