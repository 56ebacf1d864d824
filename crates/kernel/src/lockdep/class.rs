//! Classes of locks: those made at one place in the code, to guard one type, obey one set of rules.
//!
//! Interface: [`find`] (made at a place), [`nested`] (the same with a subclass), [`get`].
//! Linux counterpart: `struct lock_class`, `look_up_lock_class`, `register_lock_class`.
//! Locks and context: any. The table's own lock is taken when a thread meets a class for the first time.

use super::kind::Kind;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::Location;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Classes, with their subclasses, that can be told apart. One more turns the validator's order checks off for it.
pub(super) const MAX: usize = 1024;
/// `MAX_LOCKDEP_SUBCLASSES`.
const SUBCLASSES: usize = 8;

/// A class, as the graph knows it. 0 is none.
pub(super) type Id = u16;

/// One class.
pub(super) struct Class {
    made: &'static Location<'static>,
    type_name: &'static str,
    kind: Kind,
    subclass: u8,
}

static CLASSES: [OnceLock<Class>; MAX] = [const { OnceLock::new() }; MAX];
static NESTED: [AtomicU16; MAX * SUBCLASSES] = [const { AtomicU16::new(0) }; MAX * SUBCLASSES];
/// By file, line, column, type and subclass: one place may have several addresses.
static TABLE: Mutex<BTreeMap<Key, Id>> = Mutex::new(BTreeMap::new());

type Key = (&'static str, u32, u32, &'static str, u8);
type TypeName = fn() -> &'static str;

thread_local! {
    /// What this thread found lately, by addresses.
    static RECENT: [Cell<(usize, usize, Id)>; 64] = const { [const { Cell::new((0, 0, 0)) }; 64] };
}

/// The class of locks that are made at `made` with this type; 0 if there are too many.
pub(super) fn find(made: &'static Location<'static>, type_name: TypeName, kind: Kind) -> Id {
    let key = (std::ptr::from_ref(made) as usize, type_name as usize);
    let slot = (key.0 >> 3 ^ key.1 >> 4) % 64;
    let known = RECENT.try_with(|r| r[slot].get()).unwrap_or_default();
    if (known.0, known.1) == key && known.2 != 0 {
        return known.2;
    }
    let id = register(Class { made, type_name: type_name(), kind, subclass: 0 });
    let _ = RECENT.try_with(|r| r[slot].set((key.0, key.1, id)));
    id
}

/// The class for locks of class `id` that are taken as `subclass`.
pub(super) fn nested(id: Id, subclass: u8) -> Id {
    if subclass == 0 || id == 0 {
        return id;
    }
    debug_assert!((subclass as usize) < SUBCLASSES, "subclass {subclass} of at most {SUBCLASSES}");
    let slot = &NESTED[id as usize * SUBCLASSES + subclass as usize % SUBCLASSES];
    match slot.load(Ordering::Relaxed) {
        0 => {
            let Some(c) = get(id) else { return 0 };
            let new = register(Class { subclass, ..*c });
            slot.store(new, Ordering::Relaxed);
            new
        }
        known => known,
    }
}

/// A class by its number.
pub(super) fn get(id: Id) -> Option<&'static Class> {
    CLASSES[id as usize % MAX].get()
}

fn register(c: Class) -> Id {
    let mut table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    let next = table.len() + 1;
    let key = (c.made.file(), c.made.line(), c.made.column(), c.type_name, c.subclass);
    if let Some(id) = table.get(&key) {
        return *id;
    }
    if next >= MAX {
        return 0;
    }
    table.insert(key, next as Id);
    let _ = CLASSES[next].set(c);
    next as Id
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if self.kind != Kind::Semaphore {
            write!(f, "<{}>", short(self.type_name))?;
        }
        match self.subclass {
            0 => Ok(()),
            n => write!(f, "/{n}"),
        }
    }
}

/// The class's short name: what it guards.
pub(super) fn name(id: Id) -> String {
    get(id).map_or_else(|| "a lock".into(), Class::to_string)
}

/// The class's name, and where its locks are made.
pub(super) fn full_name(id: Id) -> String {
    get(id).map_or_else(|| "a lock".into(), |c| format!("{c} made at {}", place(c.made)))
}

/// `file:line:column`.
pub(super) fn place(l: &Location<'_>) -> String {
    l.to_string()
}

/// A type's name without the paths in it.
pub(super) fn short(type_name: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    for c in type_name.chars() {
        match c {
            ':' => word.clear(),
            c if c.is_alphanumeric() || c == '_' => word.push(c),
            c => {
                out.push_str(&word);
                word.clear();
                out.push(c);
            }
        }
    }
    out + &word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_names_lose_their_paths() {
        assert_eq!(short("alloc::vec::Vec<(u32, core::option::Option<a::b::C>)>"), "Vec<(u32, Option<C>)>");
        assert_eq!(short("()"), "()");
    }
}
