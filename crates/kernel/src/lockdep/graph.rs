//! Which class of locks was taken while which other was held, and in which contexts.
//!
//! Interface: [`depend`] (a class is taken while another is held), [`mark`] (a class is used in a context); both answer with a
//! [`Finding`] when that makes a deadlock possible.
//! Linux counterpart: `check_prev_add`, `mark_lock_irq` and the searches in `kernel/locking/lockdep.c`.
//! Locks and context: any. What is known already is one load; only news takes the graph's own lock.
//!
//! A circle of dependencies is a deadlock waiting for its moment, with one exception: readers that may nest (`R`) do not wait
//! for other readers (`S`), so a walk that arrives as such a reader may only go on from where the class was held exclusively.

use super::class::{Id, MAX};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::Location;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

type At = &'static Location<'static>;

/// One end of a dependency.
#[derive(Clone, Copy)]
pub(super) struct End {
    pub class: Id,
    /// Shared with other readers.
    pub shared: bool,
    /// Shared, and does not wait for other readers.
    pub nests: bool,
    pub at: At,
}

/// That `to` was taken while `from` was held.
#[derive(Clone)]
pub(super) struct Link {
    pub from: End,
    pub to: End,
    pub context: &'static str,
}

impl Link {
    fn kind(&self) -> u8 {
        1 << (self.from.shared as u8 * 2 + self.to.nests as u8)
    }
}

/// How a class is used. The second of each pair: only as a reader that may nest.
pub(super) mod usage {
    pub const IN_SOFTIRQ: u8 = 1;
    pub const IN_HARDIRQ: u8 = 4;
    pub const SOFTIRQ_ON: u8 = 16;
    pub const HARDIRQ_ON: u8 = 64;
    /// Shifts a bit to that of readers.
    pub const READ: u8 = 1;
}

/// The two kinds of interruption: name, bit of those who are taken in it, bit of those who are taken while it may come.
pub(super) const IRQS: [(&str, u8, u8); 2] =
    [("softirq", usage::IN_SOFTIRQ, usage::SOFTIRQ_ON), ("hardirq", usage::IN_HARDIRQ, usage::HARDIRQ_ON)];

/// Why a class has a usage bit.
#[derive(Clone, Copy)]
pub(super) struct Use {
    pub at: At,
    /// It was taken before, and still held when interrupts or bottom halves were turned on.
    pub held: bool,
}

/// A deadlock that can happen.
pub(super) enum Finding {
    /// The links that lead from the class just taken back to one that is held.
    Circle(Vec<Link>),
    /// The class is taken in this kind of interruption, and elsewhere while it may come.
    Irq { irq: &'static str, class: Id, inside: Use, outside: Use },
    /// The same through links: from the class taken inside to one taken while interruptions may come.
    IrqChain { irq: &'static str, chain: Vec<Link>, inside: Use, outside: Use },
}

/// What is known, for a glance without the lock.
static KNOWN_LINKS: [AtomicU8; MAX * MAX] = [const { AtomicU8::new(0) }; MAX * MAX];
static KNOWN_USES: [AtomicU8; MAX] = [const { AtomicU8::new(0) }; MAX];
static GRAPH: Mutex<Graph> = Mutex::new(Graph { links: BTreeMap::new(), uses: BTreeMap::new() });

struct Graph {
    /// By the classes at their ends; several if they differ in kind.
    links: BTreeMap<(Id, Id), Vec<Link>>,
    /// By class and bit.
    uses: BTreeMap<(Id, u8), Use>,
}

/// `to` is about to be taken while `from` is held.
pub(super) fn depend(link: Link) -> Option<Finding> {
    let (a, b) = (link.from.class, link.to.class);
    if a == 0 || b == 0 {
        return None;
    }
    let known = &KNOWN_LINKS[a as usize * MAX + b as usize];
    if known.load(Ordering::Relaxed) & link.kind() != 0 {
        return None;
    }
    let kind = link.kind();
    let found = GRAPH.lock().unwrap_or_else(PoisonError::into_inner).add_link(link);
    if found.is_none() {
        known.fetch_or(kind, Ordering::Relaxed);
    }
    found
}

/// `class` is about to be used in the ways of `bits`.
pub(super) fn mark(class: Id, bits: u8, why: Use) -> Option<Finding> {
    if class == 0 {
        return None;
    }
    let known = &KNOWN_USES[class as usize];
    let mut new = bits & !known.load(Ordering::Relaxed);
    while new != 0 {
        let bit = new & new.wrapping_neg();
        new &= new - 1;
        let found = GRAPH.lock().unwrap_or_else(PoisonError::into_inner).add_use(class, bit, why);
        if found.is_some() {
            return found;
        }
        known.fetch_or(bit, Ordering::Relaxed);
    }
    None
}

impl Graph {
    fn add_link(&mut self, link: Link) -> Option<Finding> {
        let ends = (link.from.class, link.to.class);
        let found = self.circle(&link);
        if found.is_some() {
            return found;
        }
        self.links.entry(ends).or_default().push(link);
        let found = self.irq_chain();
        if found.is_some()
            && let Some(l) = self.links.get_mut(&ends)
        {
            // A link that is wrong is not kept, or everything later would be blamed for it.
            l.pop();
        }
        found
    }

    fn add_use(&mut self, class: Id, bit: u8, why: Use) -> Option<Finding> {
        let uses = |b: u8| self.uses.get(&(class, b)).copied();
        for (irq, inside, outside) in IRQS {
            let read = usage::READ;
            // A nesting reader inside waits for a writer only.
            let other = match bit {
                b if b == inside => uses(outside).or_else(|| uses(outside << read)),
                b if b == inside << read => uses(outside),
                b if b == outside => uses(inside).or_else(|| uses(inside << read)),
                b if b == outside << read => uses(inside),
                _ => continue,
            };
            if let Some(o) = other {
                let is_inside = bit == inside || bit == inside << read;
                let (inside, outside) = if is_inside { (why, o) } else { (o, why) };
                return Some(Finding::Irq { irq, class, inside, outside });
            }
        }
        self.uses.insert((class, bit), why);
        let found = self.irq_chain();
        if found.is_some() {
            self.uses.remove(&(class, bit));
        }
        found
    }

    /// Whether the new link closes a circle: a way leads from its end back to its beginning.
    fn circle(&self, new: &Link) -> Option<Finding> {
        let goal = |class: Id, nests: bool| class == new.from.class && !(nests && new.from.shared);
        if new.from.class == new.to.class {
            return None;
        }
        self.walk([(new.to.class, new.to.nests)], goal).map(Finding::Circle)
    }

    /// Whether a class taken inside interruptions leads to one taken while they may come.
    fn irq_chain(&self) -> Option<Finding> {
        IRQS.into_iter().find_map(|(irq, inside, outside)| {
            let used = |c: Id, b: u8| self.uses.get(&(c, b)).copied();
            let starts = self.uses.keys().filter_map(|&(c, b)| match b {
                b if b == inside => Some((c, false)),
                b if b == inside << usage::READ => Some((c, true)),
                _ => None,
            });
            let blocked_by =
                |c: Id, nests: bool| used(c, outside).or_else(|| used(c, outside << usage::READ).filter(|_| !nests));
            let chain = self.walk(starts, |c, nests| blocked_by(c, nests).is_some())?;
            let (first, last) = (chain.first()?, chain.last()?);
            let inside = used(first.from.class, inside).or_else(|| used(first.from.class, inside << usage::READ))?;
            let outside = blocked_by(last.to.class, last.to.nests)?;
            Some(Finding::IrqChain { irq, chain, inside, outside })
        })
    }

    /// The shortest way of one link or more from a start to a goal. Starts and goals are classes, with how they are met.
    fn walk(&self, starts: impl IntoIterator<Item = (Id, bool)>, goal: impl Fn(Id, bool) -> bool) -> Option<Vec<Link>> {
        let mut came_by: HashMap<(Id, bool), Option<((Id, bool), &Link)>> = HashMap::new();
        let mut todo: VecDeque<(Id, bool)> = VecDeque::new();
        for s in starts {
            if came_by.insert(s, None).is_none() {
                todo.push_back(s);
            }
        }
        while let Some(at) = todo.pop_front() {
            for link in self.links.range((at.0, 0)..=(at.0, Id::MAX)).flat_map(|(_, l)| l) {
                let next = (link.to.class, link.to.nests);
                if at.1 && link.from.shared || came_by.contains_key(&next) {
                    continue;
                }
                came_by.insert(next, Some((at, link)));
                if goal(next.0, next.1) {
                    return Some(way_to(next, &came_by));
                }
                todo.push_back(next);
            }
        }
        None
    }
}

type CameBy<'g> = HashMap<(Id, bool), Option<((Id, bool), &'g Link)>>;

fn way_to(mut end: (Id, bool), came_by: &CameBy<'_>) -> Vec<Link> {
    let mut way = Vec::new();
    while let Some(Some((from, link))) = came_by.get(&end) {
        way.push((*link).clone());
        end = *from;
    }
    way.reverse();
    way
}
