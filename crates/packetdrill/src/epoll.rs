//! epoll on the stack's descriptors.
//!
//! Interface: [`Epolls`] (`create`, `ctl`, `wait`, `close`).
//! Linux counterpart: `fs/eventpoll.c`, as far as scripts go: no nesting, no exclusive wake-ups.
//! Locks and context: process context; wake-ups of sockets set flags, under a mutex that is held for nothing else.

use kernel::task::{TASK_INTERRUPTIBLE, TASK_RUNNING, Task};
use kernel::{WaitQueueEntry, wait};
use net::socket::Socket;
use net::syscall::FdTable;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use uapi::poll::Poll as PollMask;
use uapi::{Errno, Result};

/// Descriptors of epoll instances start there.
pub const EPOLL_BASE: i32 = 1_000_000;
const MAX_INSTANCES: usize = 1024;

const EPOLL_CTL_ADD: i32 = 1;
const EPOLL_CTL_DEL: i32 = 2;
const EPOLL_CTL_MOD: i32 = 3;
const EPOLLONESHOT: u32 = 1 << 30;
const EPOLLET: u32 = 1 << 31;

/// The events asked for or reported, and what the caller has stored with them.
pub type Event = (u32, u64);

/// It does not keep the socket: a descriptor that is closed leaves the set.
struct Item {
    fd: i32,
    sock: Weak<Socket>,
    entry: Arc<WaitQueueEntry>,
    event: Event,
    /// Something has happened since it was last reported.
    fresh: Arc<AtomicBool>,
}

impl Drop for Item {
    fn drop(&mut self) {
        if let Some(sock) = self.sock.upgrade() {
            sock.sk.wq.remove(&self.entry);
        }
    }
}

#[derive(Default)]
struct Epoll {
    items: Mutex<Vec<Item>>,
    sleepers: Arc<Mutex<Vec<Arc<Task>>>>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The instances of one process.
#[derive(Default)]
pub struct Epolls(Mutex<Vec<Option<Arc<Epoll>>>>);

impl Epolls {
    pub fn create(&self) -> Result<i32> {
        let mut all = lock(&self.0);
        if all.len() >= MAX_INSTANCES {
            return Err(Errno::EMFILE);
        }
        all.push(Some(Arc::default()));
        Ok(EPOLL_BASE + all.len() as i32 - 1)
    }

    fn get(&self, epfd: i32) -> Result<Arc<Epoll>> {
        let at = usize::try_from(epfd - EPOLL_BASE).map_err(|_| Errno::EINVAL)?;
        lock(&self.0).get(at).cloned().flatten().ok_or(Errno::EBADF)
    }

    pub fn close(&self, epfd: i32) -> Result<()> {
        let gone = self.get(epfd)?;
        lock(&self.0)[(epfd - EPOLL_BASE) as usize] = None;
        drop(gone);
        Ok(())
    }

    /// `epoll_ctl(2)`.
    pub fn ctl(&self, fds: &FdTable, epfd: i32, op: i32, fd: i32, event: Event) -> Result<()> {
        let ep = self.get(epfd)?;
        let sock = fds.sockfd_lookup(fd)?;
        let mut items = lock(&ep.items);
        items.retain(|i| i.sock.strong_count() > 0);
        let at = items.iter().position(|i| i.fd == fd);
        match (op, at) {
            (EPOLL_CTL_ADD, None) => items.push(ep.item(fd, sock, event)),
            (EPOLL_CTL_MOD, Some(at)) => {
                items[at].event = event;
                items[at].fresh.store(true, SeqCst);
            }
            (EPOLL_CTL_DEL, Some(at)) => drop(items.remove(at)),
            (EPOLL_CTL_ADD, Some(_)) => return Err(Errno::EEXIST),
            (EPOLL_CTL_MOD | EPOLL_CTL_DEL, None) => return Err(Errno::ENOENT),
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    /// `epoll_wait(2)`; `timeout` in milliseconds, negative for ever.
    pub fn wait(&self, fds: &FdTable, epfd: i32, max: usize, timeout: i32) -> Result<Vec<Event>> {
        if max == 0 {
            return Err(Errno::EINVAL);
        }
        let ep = self.get(epfd)?;
        let timeout = u64::try_from(timeout).ok().map(|ms| ms * 1_000_000);
        let kernel = fds.net().kernel();
        wait::block_on_in(kernel, |w| {
            let now = || kernel.ktime_get();
            w.set_timeout(now, timeout);
            // On the list and asleep first, then looked: an event between the two makes us run again.
            lock(&ep.sleepers).push(w.task().clone());
            w.task().set_state(TASK_INTERRUPTIBLE);
            let ready = ep.ready(max);
            if ready.is_empty() && !w.timed_out(now) {
                return Poll::Pending;
            }
            w.task().set_state(TASK_RUNNING);
            lock(&ep.sleepers).retain(|t| !Arc::ptr_eq(t, w.task()));
            Poll::Ready(Ok(ready))
        })
    }
}

impl Epoll {
    fn item(&self, fd: i32, sock: Arc<Socket>, event: Event) -> Item {
        let fresh = Arc::new(AtomicBool::new(true));
        let (mark, sleepers) = (fresh.clone(), self.sleepers.clone());
        let entry = WaitQueueEntry::callback(move |_| {
            mark.store(true, SeqCst);
            for task in std::mem::take(&mut *lock(&sleepers)) {
                task.wake_up_process();
            }
            false
        });
        sock.sk.wq.add(&entry);
        Item { fd, sock: Arc::downgrade(&sock), entry, event, fresh }
    }

    /// What is to be reported now (`ep_send_events`).
    fn ready(&self, max: usize) -> Vec<Event> {
        let mut out = Vec::new();
        for i in lock(&self.items).iter_mut() {
            let (wanted, data) = i.event;
            // Shot once: nothing until it is set again.
            let off = wanted & !(EPOLLET | EPOLLONESHOT) == 0;
            if out.len() >= max || off || !i.fresh.load(SeqCst) {
                continue;
            }
            let Some(sock) = i.sock.upgrade() else { continue };
            let always = (PollMask::ERR | PollMask::HUP).bits();
            let events = sock.poll().bits() & (wanted | always);
            if events == 0 || wanted & EPOLLET != 0 {
                i.fresh.store(false, SeqCst);
            }
            if events == 0 {
                continue;
            }
            if wanted & EPOLLONESHOT != 0 {
                i.event.0 &= EPOLLET | EPOLLONESHOT;
            }
            out.push((events, data));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Flags, Machine};
    use uapi::socket::{AF_INET, SOCK_STREAM};

    #[test]
    fn a_closed_descriptor_leaves_the_set() {
        let m = Machine::new(&Flags::default()).unwrap();
        let _inside = m.enter();
        let ep = m.epolls.create().unwrap();
        let fd = m.fds.socket(AF_INET, SOCK_STREAM, 0).unwrap();
        m.epolls.ctl(&m.fds, ep, EPOLL_CTL_ADD, fd, (PollMask::HUP.bits(), 7)).unwrap();
        let ready = m.epolls.wait(&m.fds, ep, 8, 0).unwrap();
        assert_eq!(ready, [(PollMask::HUP.bits(), 7)], "never connected");
        let sk = Arc::downgrade(&m.fds.sockfd_lookup(fd).unwrap().sk);
        m.fds.close(fd).unwrap();
        assert!(sk.upgrade().is_none(), "the set keeps nobody's socket");
        assert_eq!(m.epolls.wait(&m.fds, ep, 8, 0), Ok(vec![]));
        // The number is free for another.
        let again = m.fds.socket(AF_INET, SOCK_STREAM, 0).unwrap();
        assert_eq!(again, fd);
        assert_eq!(m.epolls.ctl(&m.fds, ep, EPOLL_CTL_ADD, again, (PollMask::HUP.bits(), 8)), Ok(()));
    }
}
