//! Sequence locks: readers of small data that write nothing, and read again when a writer was there meanwhile.
//!
//! Interface: [`SeqLock`]: `read`, `write`, and `read_seqbegin`/`read_seqretry` on its [`SeqCount`]; [`SeqData`].
//! Linux counterpart: `include/linux/seqlock.h`.
//! Locks and context: readers anywhere; they never block a writer, but a reader that interrupts a writer on its own CPU spins
//! for ever: write with interrupts off what top halves read (`write_irqsave`), with `write_bh` what softirqs read.
//!
//! A reader may read while a writer writes: each piece of the data is an atomic, so such a read is torn, not undefined, and
//! thrown away.

use crate::cpu;
use crate::maybe_const;
use crate::spinlock::SpinLock;
use crate::sync::atomic::{
    AtomicBool, AtomicI32, AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};
use crate::sync::fence;

/// Data of which a torn copy is harmless: made of pieces, each of which is an atomic in its `Cell`.
pub trait SeqData: Copy {
    type Cell;

    fn cell(self) -> Self::Cell;
    fn load(cell: &Self::Cell) -> Self;
    fn store(self, cell: &Self::Cell);
}

macro_rules! pieces {
    ($($t:ty => $a:ty),* $(,)?) => {$(
        impl SeqData for $t {
            type Cell = $a;
            fn cell(self) -> $a {
                <$a>::new(self)
            }
            fn load(cell: &$a) -> $t {
                cell.load(Ordering::Relaxed)
            }
            fn store(self, cell: &$a) {
                cell.store(self, Ordering::Relaxed)
            }
        }
    )*};
}

pieces! {
    bool => AtomicBool, u8 => AtomicU8, u16 => AtomicU16, u32 => AtomicU32, u64 => AtomicU64, usize => AtomicUsize,
    i32 => AtomicI32, i64 => AtomicI64,
}

macro_rules! tuples {
    ($(($($t:ident $n:tt),+)),* $(,)?) => {$(
        impl<$($t: SeqData),+> SeqData for ($($t,)+) {
            type Cell = ($($t::Cell,)+);
            fn cell(self) -> Self::Cell {
                ($(self.$n.cell(),)+)
            }
            fn load(cell: &Self::Cell) -> Self {
                ($($t::load(&cell.$n),)+)
            }
            fn store(self, cell: &Self::Cell) {
                $(self.$n.store(&cell.$n);)+
            }
        }
    )*};
}

tuples! { (A 0), (A 0, B 1), (A 0, B 1, C 2), (A 0, B 1, C 2, D 3), (A 0, B 1, C 2, D 3, E 4), (A 0, B 1, C 2, D 3, E 4, F 5) }

impl<T: SeqData, const N: usize> SeqData for [T; N] {
    type Cell = [T::Cell; N];
    fn cell(self) -> Self::Cell {
        self.map(T::cell)
    }
    fn load(cell: &Self::Cell) -> Self {
        std::array::from_fn(|i| T::load(&cell[i]))
    }
    fn store(self, cell: &Self::Cell) {
        self.into_iter().zip(cell).for_each(|(v, c)| v.store(c))
    }
}

/// Makes a struct of [`SeqData`] fields [`SeqData`]: `seq_data! { struct Name { field: u64 } }`.
#[macro_export]
macro_rules! seq_data {
    ($(#[$m:meta])* $v:vis struct $name:ident { $($(#[$fm:meta])* $fv:vis $f:ident: $t:ty),+ $(,)? }) => {
        $(#[$m])*
        #[derive(Clone, Copy)]
        $v struct $name { $($(#[$fm])* $fv $f: $t),+ }

        impl $crate::seqlock::SeqData for $name {
            type Cell = ($(<$t as $crate::seqlock::SeqData>::Cell,)+);
            fn cell(self) -> Self::Cell {
                ($($crate::seqlock::SeqData::cell(self.$f),)+)
            }
            fn load(cell: &Self::Cell) -> Self {
                let ($($f,)+) = cell;
                $name { $($f: $crate::seqlock::SeqData::load($f)),+ }
            }
            fn store(self, cell: &Self::Cell) {
                let ($($f,)+) = cell;
                $($crate::seqlock::SeqData::store(self.$f, $f);)+
            }
        }
    };
}

/// Counts a writer's beginnings and ends (`seqcount_t`): odd while one writes. Writers see to it that there is one at a time.
#[derive(Default)]
pub struct SeqCount(AtomicU32);

impl SeqCount {
    maybe_const! {
        pub fn new() -> Self {
            SeqCount(AtomicU32::new(0))
        }
    }

    /// Waits until nobody writes; what to give to [`read_seqretry`](Self::read_seqretry).
    #[inline]
    pub fn read_seqbegin(&self) -> u32 {
        let mut spins = 0;
        loop {
            let seq = self.0.load(Ordering::Acquire);
            if seq & 1 == 0 {
                return seq;
            }
            cpu::relax(spins);
            spins = spins.saturating_add(1);
        }
    }

    /// Whether somebody has written since [`read_seqbegin`](Self::read_seqbegin): then what was read is worth nothing.
    #[inline]
    #[must_use]
    pub fn read_seqretry(&self, seq: u32) -> bool {
        fence(Ordering::Acquire);
        self.0.load(Ordering::Relaxed) != seq
    }

    /// `write_seqcount_begin`. Preemption must be off, and other writers kept out.
    #[inline]
    pub fn write_seqbegin(&self) {
        let seq = self.0.load(Ordering::Relaxed);
        debug_assert!(seq & 1 == 0, "two writers at once");
        self.0.store(seq.wrapping_add(1), Ordering::Relaxed);
        // What is written after this is not seen with the even number before it.
        fence(Ordering::Release);
    }

    /// `write_seqcount_end`.
    #[inline]
    pub fn write_seqend(&self) {
        let seq = self.0.load(Ordering::Relaxed);
        self.0.store(seq.wrapping_add(1), Ordering::Release);
    }
}

/// Data that is read often, by readers that must not wait for one another, and written seldom (`seqlock_t`).
pub struct SeqLock<T: SeqData> {
    count: SeqCount,
    writers: SpinLock<()>,
    data: T::Cell,
}

impl<T: SeqData> SeqLock<T> {
    /// `seqlock_init`.
    #[track_caller]
    pub fn new(data: T) -> Self {
        SeqLock { count: SeqCount::new(), writers: SpinLock::new(()), data: data.cell() }
    }

    /// A copy of the data, all of one writing.
    #[inline]
    pub fn read(&self) -> T {
        self.read_with(T::load)
    }

    /// Calls `f` with the pieces until it has seen them all of one writing. What `f` answers before that is thrown away.
    #[inline]
    pub fn read_with<R>(&self, f: impl Fn(&T::Cell) -> R) -> R {
        let mut tries = 0;
        loop {
            let seq = self.count.read_seqbegin();
            let r = f(&self.data);
            if !self.count.read_seqretry(seq) {
                return r;
            }
            cpu::relax(tries);
            tries = tries.saturating_add(1);
        }
    }

    /// For readers that loop themselves.
    pub fn count(&self) -> &SeqCount {
        &self.count
    }

    /// A copy that may be torn: worth something only between `read_seqbegin` and a `read_seqretry` that says no.
    pub fn peek(&self) -> T {
        T::load(&self.data)
    }

    /// `write_seqlock`: changes the data by `f`.
    #[track_caller]
    pub fn write(&self, f: impl FnOnce(&mut T)) {
        let _writer = self.writers.lock();
        self.change(f);
    }

    /// `write_seqlock`: replaces the data.
    #[track_caller]
    pub fn set(&self, v: T) {
        let _writer = self.writers.lock();
        self.publish(v);
    }

    /// `write_seqlock_bh`.
    #[track_caller]
    pub fn write_bh(&self, f: impl FnOnce(&mut T)) {
        let _writer = self.writers.lock_bh();
        self.change(f);
    }

    /// `write_seqlock_irqsave`.
    #[track_caller]
    pub fn write_irqsave(&self, f: impl FnOnce(&mut T)) {
        let _writer = self.writers.lock_irqsave();
        self.change(f);
    }

    /// The writers' lock is held. Readers wait for the stores only, not for `f`.
    fn change(&self, f: impl FnOnce(&mut T)) {
        let mut v = T::load(&self.data);
        f(&mut v);
        self.publish(v);
    }

    fn publish(&self, v: T) {
        self.count.write_seqbegin();
        v.store(&self.data);
        self.count.write_seqend();
    }
}

impl<T: SeqData + Default> Default for SeqLock<T> {
    #[track_caller]
    fn default() -> Self {
        SeqLock::new(T::default())
    }
}
