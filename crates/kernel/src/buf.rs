//! Packet memory: pages of a few sizes, shared by reference count, recycled.
//!
//! Interface: [`PageMut`] (the sole writer of a range), [`Frag`] (a shared, immutable range).
//! Linux counterpart: `page_frag`, `skb_frag_t`, `net/core/page_pool.c`.
//! Locks and context: any. Each thread keeps a few free pages; what is over goes through a list behind a lock.
//!
//! A page starts as one [`PageMut`]. [`PageMut::freeze`] splits off its front as a [`Frag`]: from then on those bytes never
//! change until the last reference is gone. So writer and readers never overlap, which is what makes sharing safe.

use crate::plant::{Plant, planted};
use std::cell::RefCell;
use std::ops::Deref;
use std::ptr::NonNull;
// The standard library's, in models too: a count and a free list, without a decision that another thread could upset.
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::sync::{Mutex, PoisonError};

/// Page sizes: a packet's headers, a small packet, a socket's page fragment, the largest GSO packet with its headers.
pub const SIZES: [usize; 4] = [512, 2048, 32 * 1024, 68 * 1024];
/// Free pages of each size a thread keeps for itself, and that all share.
const THREAD_CACHE: [usize; 4] = [256, 128, 32, 16];
const SHARED_CACHE: [usize; 4] = [4096, 2048, 512, 256];

struct Page {
    refs: AtomicU32,
    class: u8,
    mem: NonNull<u8>,
    cap: u32,
}

type Free = [Vec<PagePtr>; 4];

struct PagePtr(NonNull<Page>);
// SAFETY: a free page has no other owner; a referenced one is only reached through its count.
unsafe impl Send for PagePtr {}

static SHARED: Mutex<Free> = Mutex::new([const { Vec::new() }; 4]);

struct Cache(Free);

impl Drop for Cache {
    fn drop(&mut self) {
        for list in &mut self.0 {
            list.drain(..).for_each(give_back);
        }
    }
}

thread_local! {
    static CACHE: RefCell<Cache> = const { RefCell::new(Cache([const { Vec::new() }; 4])) };
}

fn alloc_page(class: usize) -> NonNull<Page> {
    let cached = CACHE.try_with(|c| c.borrow_mut().0[class].pop()).ok().flatten();
    let p = cached.or_else(|| refill(class)).unwrap_or_else(|| new_page(SIZES[class], class as u8));
    // SAFETY: a free page is valid and has no other owner.
    unsafe { p.0.as_ref() }.refs.store(1, Ordering::Relaxed);
    p.0
}

/// Takes a handful from the shared list, so that its lock is not taken for each page.
#[cold]
fn refill(class: usize) -> Option<PagePtr> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let list = &mut shared[class];
    let take = (THREAD_CACHE[class] / 2).min(list.len());
    let mut got = list.split_off(list.len() - take);
    drop(shared);
    let first = got.pop();
    let _ = CACHE.try_with(|c| c.borrow_mut().0[class].append(&mut got));
    got.into_iter().for_each(give_back);
    first
}

#[cold]
fn new_page(cap: usize, class: u8) -> PagePtr {
    let mem = Box::leak(vec![0u8; cap].into_boxed_slice());
    let page = Page { refs: AtomicU32::new(1), class, mem: NonNull::from(mem).cast(), cap: cap as u32 };
    PagePtr(NonNull::from(Box::leak(Box::new(page))))
}

fn free_page(p: PagePtr) {
    // SAFETY: the last reference is gone, so the page is ours.
    let class = unsafe { p.0.as_ref() }.class as usize;
    // Under Miri nothing is kept: a page that is used after it was freed is to be noticed.
    if class >= SIZES.len() || cfg!(miri) {
        return destroy(p);
    }
    let mut p = Some(p);
    let _ = CACHE.try_with(|c| {
        let list = &mut c.borrow_mut().0[class];
        list.extend(p.take());
        if list.len() > THREAD_CACHE[class] {
            spill(class, list);
        }
    });
    p.into_iter().for_each(give_back);
}

#[cold]
fn spill(class: usize, list: &mut Vec<PagePtr>) {
    let half = list.split_off(THREAD_CACHE[class] / 2);
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    for p in half {
        if shared[class].len() < SHARED_CACHE[class] {
            shared[class].push(p);
        } else {
            destroy(p);
        }
    }
}

#[cold]
fn give_back(p: PagePtr) {
    // SAFETY: a page without references is ours.
    let class = unsafe { p.0.as_ref() }.class as usize;
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if shared[class].len() < SHARED_CACHE[class] {
        shared[class].push(p);
    } else {
        destroy(p);
    }
}

#[cold]
fn destroy(p: PagePtr) {
    // SAFETY: no references are left; both boxes were leaked by `new_page` with these sizes.
    unsafe {
        let page = Box::from_raw(p.0.as_ptr());
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(page.mem.as_ptr(), page.cap as usize)));
    }
}

/// A counted reference to a page.
struct PageRef(NonNull<Page>);
// SAFETY: the count is atomic, and the bytes are reached only through the disjoint ranges of `PageMut` and `Frag`.
unsafe impl Send for PageRef {}
// SAFETY: as above.
unsafe impl Sync for PageRef {}

impl PageRef {
    #[inline]
    fn page(&self) -> &Page {
        // SAFETY: the reference keeps the page alive.
        unsafe { self.0.as_ref() }
    }
}

impl Clone for PageRef {
    #[inline]
    fn clone(&self) -> Self {
        self.page().refs.fetch_add(1, Ordering::Relaxed);
        PageRef(self.0)
    }
}

impl Drop for PageRef {
    #[inline]
    fn drop(&mut self) {
        let drop_one = || self.page().refs.fetch_sub(1, Ordering::Release) == 1;
        if drop_one() || planted(Plant::BufDoubleFree) && drop_one() {
            fence(Ordering::Acquire);
            free_page(PagePtr(self.0));
        }
    }
}

/// The sole writer of a range of a page. Its content is whatever was there, or zero.
pub struct PageMut {
    page: PageRef,
    off: u32,
    len: u32,
}

impl PageMut {
    /// A range of at least `size` bytes, from the smallest page that holds it.
    pub fn alloc(size: usize) -> PageMut {
        match SIZES.iter().position(|&s| s >= size) {
            Some(class) => PageMut { page: PageRef(alloc_page(class)), off: 0, len: SIZES[class] as u32 },
            None => PageMut { page: PageRef(new_page(size, SIZES.len() as u8).0), off: 0, len: size as u32 },
        }
    }

    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: this range is ours alone, and inside the page.
        unsafe { std::slice::from_raw_parts(self.page.page().mem.as_ptr().add(self.off as usize), self.len as usize) }
    }

    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: this range is ours alone, inside the page, and borrowed mutably.
        unsafe {
            std::slice::from_raw_parts_mut(self.page.page().mem.as_ptr().add(self.off as usize), self.len as usize)
        }
    }

    /// Splits the first `n` bytes off as a shared range; the rest stays writable. `n` over the length is the length.
    pub fn freeze(&mut self, n: usize) -> Frag {
        let n = (n as u32).min(self.len);
        let frag = Frag { page: self.page.clone(), off: self.off, len: n };
        self.off += n;
        self.len -= n;
        frag
    }

    /// Takes the page whole again, if every [`Frag`] of it is gone; for reusing a receive buffer.
    pub fn reset(&mut self) -> bool {
        if self.page.page().refs.load(Ordering::Acquire) != 1 {
            return false;
        }
        self.len = self.page.page().cap;
        self.off = 0;
        true
    }
}

/// A shared, immutable range of a page (`skb_frag_t`).
#[derive(Clone)]
pub struct Frag {
    page: PageRef,
    off: u32,
    len: u32,
}

impl Frag {
    /// A frag with a copy of `bytes`, for small and rare things.
    pub fn copy_of(bytes: &[u8]) -> Frag {
        let mut p = PageMut::alloc(bytes.len());
        p.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
        p.freeze(bytes.len())
    }

    /// A part of it, sharing the page. Clamped to its bounds.
    pub fn slice(&self, from: usize, len: usize) -> Frag {
        let from = (from as u32).min(self.len);
        let len = (len as u32).min(self.len - from);
        Frag { page: self.page.clone(), off: self.off + from, len }
    }

    /// Drops `n` bytes from the front.
    pub fn advance(&mut self, n: usize) {
        let n = (n as u32).min(self.len);
        self.off += n;
        self.len -= n;
    }

    /// Keeps only the first `n` bytes.
    pub fn truncate(&mut self, n: usize) {
        self.len = self.len.min(n as u32);
    }

    /// Grows by `next` if that is the range right behind in the same page.
    pub fn try_merge(&mut self, next: &Frag) -> bool {
        let adjoins = self.page.0 == next.page.0 && self.off + self.len == next.off;
        if adjoins {
            self.len += next.len;
        }
        adjoins
    }

    /// The memory it keeps alive, in bytes, as far as it is to blame for it.
    pub fn truesize(&self) -> usize {
        self.len as usize
    }
}

impl Deref for Frag {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: frozen bytes inside the page: nobody writes them while a reference lives.
        unsafe { std::slice::from_raw_parts(self.page.page().mem.as_ptr().add(self.off as usize), self.len as usize) }
    }
}

impl std::fmt::Debug for Frag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frag({} bytes)", self.len)
    }
}
