//! sockeye on a Linux host: threads, futexes, the epoll interrupt loop, drivers that need a file descriptor.
//!
//! Interface: to come.
//! Linux counterpart: none.
//! Locks and context: none.
