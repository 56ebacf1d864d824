//! A part of a structure that most of its kind never need.
//!
//! Interface: [`OnUse`], [`Unused`].
//! Linux counterpart: none; there such state lies inside the structure.
//! Locks and context: whatever guards the structure.

use std::ops::Deref;

/// What an absent part reads as.
pub trait Unused: Sized + 'static {
    const UNUSED: &'static Self;
    fn unused() -> Self;
}

/// [`Unused`] for a type, from a constant expression.
macro_rules! unused {
    ($t:ty, $e:expr) => {
        impl $crate::core::on_use::Unused for $t {
            const UNUSED: &'static $t = &$e;
            fn unused() -> $t {
                $e
            }
        }
    };
}
pub(crate) use unused;

/// State that is allocated when it is first written to. Until then reading it gives its type's [`Unused`] value, so that a
/// reader need not know. Writing names what it does: [`OnUse::make`] allocates, [`OnUse::if_used`] does not.
#[derive(Clone)]
pub struct OnUse<T>(Option<Box<T>>);

impl<T> Default for OnUse<T> {
    fn default() -> Self {
        OnUse(None)
    }
}

impl<T: Unused> Deref for OnUse<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        match &self.0 {
            Some(t) => t,
            None => T::UNUSED,
        }
    }
}

impl<T: Unused + std::fmt::Debug> std::fmt::Debug for OnUse<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Unused> OnUse<T> {
    /// To be written to.
    #[inline]
    pub fn make(&mut self) -> &mut T {
        self.0.get_or_insert_with(Self::first)
    }

    #[cold]
    fn first() -> Box<T> {
        Box::new(T::unused())
    }

    /// To be reset, which what is absent needs not.
    #[inline]
    pub fn if_used(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }

    /// Whether it takes memory.
    #[inline]
    pub fn is_used(&self) -> bool {
        self.0.is_some()
    }

    /// Bytes it has allocated.
    pub fn memory(&self) -> usize {
        self.is_used() as usize * size_of::<T>()
    }

    /// Gives the memory back.
    #[inline]
    pub fn clear(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Part {
        n: u32,
    }
    unused!(Part, Part { n: 7 });

    #[test]
    fn what_is_not_there_reads_as_its_default_and_takes_no_memory() {
        let mut p = OnUse::<Part>::default();
        assert_eq!((p.n, p.memory(), p.if_used()), (7, 0, None));
        p.make().n += 1;
        assert_eq!((p.n, p.memory()), (8, 4));
        p.make().n += 1;
        p.if_used().unwrap().n += 1;
        assert_eq!(p.n, 10, "made once");
        p.clear();
        assert_eq!((p.n, p.is_used(), size_of_val(&p)), (7, false, 8));
    }
}
