//! The validator's words.
//!
//! Interface: one function for each kind of report.
//! Linux counterpart: `print_deadlock_bug`, `print_circular_bug` and the like in `kernel/locking/lockdep.c`.
//! Locks and context: pure functions.
//!
//! Each report has the same parts: what is wrong; who; the places; why that is a deadlock; what to do.

use super::class::{Id, full_name, name, place};
use super::entry::HeldLock;
use super::graph::{Finding, Link, Use};
use super::state::State;
use std::fmt::Write;
use std::panic::Location;

/// `thread "x", in softirq context, interrupts on`.
fn who(context: &str, s: &State) -> String {
    let on = |off: bool| if off { "off" } else { "on" };
    let (irqs, bh) = (on(s.irqs_off || s.hardirq), on(s.bh_off || s.softirq || s.hardirq));
    format!("thread {context:?}, {}, interrupts {irqs}, bottom halves {bh}", s.name())
}

fn how(l: &HeldLock) -> &'static str {
    match (l.how.read, l.how.trylock) {
        (true, _) => " for reading",
        (false, true) => " by trylock",
        (false, false) => "",
    }
}

/// The locks held, a line each, oldest first.
pub(super) fn held(locks: &[HeldLock]) -> String {
    if locks.is_empty() {
        return "  holds no lock\n".into();
    }
    locks.iter().fold(String::new(), |mut out, l| {
        let _ = writeln!(out, "  holds {}, taken{} at {}", full_name(l.class), how(l), place(l.at));
        out
    })
}

pub(super) fn recursion(context: &str, old: &HeldLock, new: &HeldLock, s: &State) -> String {
    format!(
        "lockdep: self-deadlock: a lock is taken by who already holds it\n\
         \x20 {}\n\
         \x20 the lock is {}\n\
         \x20 taken{} at {}\n\
         \x20 and again{} at {}\n\
         It can only be let go by the one who waits for it now.\n\
         To do: end the first guard before the second place, or hand the guarded data on instead of locking again.",
        who(context, s),
        full_name(new.class),
        how(old),
        place(old.at),
        how(new),
        place(new.at),
    )
}

pub(super) fn nesting(context: &str, old: &HeldLock, new: &HeldLock, s: &State) -> String {
    format!(
        "lockdep: two locks of one class are nested\n\
         \x20 {}\n\
         \x20 both are {}\n\
         \x20 the first taken{} at {}\n\
         \x20 the second{} at {}\n\
         Who takes the same two the other way round at the same time deadlocks with this.\n\
         To do: hold one at a time; or, if an order is certain (parent before child, lower address first), say so with \
         lock_nested(1) at the second place.",
        who(context, s),
        full_name(new.class),
        how(old),
        place(old.at),
        how(new),
        place(new.at),
    )
}

pub(super) fn inversion(context: &str, old: &HeldLock, new: &HeldLock, chain: &[Link], s: &State) -> String {
    let mut out = format!(
        "lockdep: locks are taken in orders that form a circle\n\
         \x20 {}\n\
         \x20 holds {}\n\
         \x20   since{} {}\n\
         \x20 wants {}\n\
         \x20   at{} {}\n\
         But it is already known that\n",
        who(context, s),
        full_name(old.class),
        how(old),
        place(old.at),
        full_name(new.class),
        how(new),
        place(new.at),
    );
    links(&mut out, chain);
    let _ = write!(
        out,
        "The circle: {} -> {}.\n\
         Contexts that do these at the same time wait for each other for ever.\n\
         To do: take them in one order everywhere (it stands in ARCHITECTURE.md), or end one guard before the other begins.",
        name(old.class),
        way(chain)
    );
    out
}

fn links(out: &mut String, chain: &[Link]) {
    for l in chain {
        let _ = writeln!(
            out,
            "  {} was held since {}\n    when {} was taken at {} ({})",
            name(l.from.class),
            place(l.from.at),
            name(l.to.class),
            place(l.to.at),
            l.context
        );
    }
}

fn way(chain: &[Link]) -> String {
    let first = chain.first().map(|l| name(l.from.class)).unwrap_or_default();
    chain.iter().fold(first, |way, l| way + " -> " + &name(l.to.class))
}

pub(super) fn irq(context: &str, new: &HeldLock, f: &Finding, s: &State) -> String {
    match f {
        Finding::Irq { irq, class, inside, outside } => irq_use(context, irq, *class, inside, outside, s),
        Finding::IrqChain { irq, chain, inside, outside } => irq_chain(context, irq, chain, inside, outside, s),
        Finding::Circle(chain) => inversion(context, new, new, chain, s),
    }
}

/// What an interruption is called, what turns it off, and the calls that do.
fn terms(irq: &str) -> (&'static str, &'static str, &'static str) {
    match irq {
        "hardirq" => ("an interrupt", "interrupts", "lock_irqsave()"),
        _ => ("a softirq", "bottom halves", "lock_bh()"),
    }
}

fn when_on(u: &Use, what: &str) -> String {
    if u.held { format!("and still held when {what} came back on") } else { format!("with {what} on") }
}

fn irq_use(context: &str, irq: &str, class: Id, inside: &Use, outside: &Use, s: &State) -> String {
    let (who_comes, what, call) = terms(irq);
    format!(
        "lockdep: a lock that {who_comes} takes is held where {who_comes} may come\n\
         \x20 {}\n\
         \x20 the lock is {}\n\
         \x20 taken in {irq} context at {}\n\
         \x20 and taken at {}, {}\n\
         {} that comes while it is held there waits on its own CPU for what it has interrupted: a deadlock.\n\
         To do: take it with {call} at the second place, as everywhere outside {irq} context.",
        who(context, s),
        full_name(class),
        place(inside.at),
        place(outside.at),
        when_on(outside, what),
        capital(who_comes),
    )
}

fn irq_chain(context: &str, irq: &str, chain: &[Link], inside: &Use, outside: &Use, s: &State) -> String {
    let (who_comes, what, call) = terms(irq);
    let (Some(first), Some(last)) = (chain.first(), chain.last()) else { return String::new() };
    let (safe, unsafe_) = (name(first.from.class), name(last.to.class));
    let mut out = format!(
        "lockdep: a lock that {who_comes} takes waits for one that is held where {who_comes} may come\n\
         \x20 {}\n\
         \x20 {} is taken in {irq} context at {}\n\
         \x20 {} is taken at {}, {}\n\
         And the first may wait for the second:\n",
        who(context, s),
        full_name(first.from.class),
        place(inside.at),
        full_name(last.to.class),
        place(outside.at),
        when_on(outside, what),
    );
    links(&mut out, chain);
    let _ = write!(
        out,
        "One CPU holds {unsafe_} and is interrupted by {who_comes} that wants {safe}; another holds {safe} and wants {unsafe_}.\n\
         To do: take {unsafe_} with {call} where {what} are on, or do not take it while {safe} is held."
    );
    out
}

fn capital(s: &str) -> String {
    let mut c = s.chars();
    c.next().map_or_else(String::new, |f| f.to_uppercase().chain(c).collect())
}

pub(super) fn sleeping(context: &str, locks: &[HeldLock], at: &Location<'_>, s: &State) -> String {
    let mut why = Vec::new();
    let reasons = [
        (s.hardirq, "an interrupt handler runs"),
        (s.softirq, "a softirq handler runs"),
        (s.bh_off && !s.softirq, "bottom halves are off"),
        (s.irqs_off, "interrupts are off"),
        (s.preempt_off, "preemption is off"),
        (s.rcu, "an RCU read section is open"),
    ];
    why.extend(reasons.iter().filter(|r| r.0).map(|r| r.1));
    let atomic = s.hardirq || s.softirq || s.bh_off || s.irqs_off || s.preempt_off;
    let since = s.since.filter(|_| atomic).map(|l| format!("  atomic since {}\n", place(l))).unwrap_or_default();
    format!(
        "lockdep: sleeping where sleeping is forbidden: {}\n\
         \x20 {}\n\
         \x20 may sleep at {}\n\
         {since}{}\
         Whoever needs this CPU, or the lock, waits for a task that is not running; in an interrupt there is no task at all.\n\
         To do: sleep before the section or after it; inside, use what does not sleep (a spinlock, a trylock, a timer), or \
         leave the work to process context.",
        why.join(", "),
        who(context, s),
        place(at),
        held(locks),
    )
}

pub(super) fn too_deep(context: &str, locks: &[HeldLock], new: &HeldLock) -> String {
    format!(
        "lockdep: {} locks are held at once\n  thread {context:?} takes {} at {}\n{}\
         To do: find the loop or recursion that takes locks and does not let them go.",
        locks.len() + 1,
        full_name(new.class),
        place(new.at),
        held(locks)
    )
}

pub(super) fn not_held(context: &str, locks: &[HeldLock], lock: &str) -> String {
    format!(
        "lockdep: a lock is let go by who does not hold it\n  thread {context:?}\n{lock}{}\
         To do: let a guard be dropped once, in the context that made it.",
        held(locks)
    )
}

pub(super) fn exit_holding(context: &str, locks: &[HeldLock]) -> String {
    format!(
        "lockdep: a context has ended with locks held\n  thread {context:?}\n{}\
         Nobody will ever let them go.\n\
         To do: drop the guard on every way out; look for mem::forget and for a task that was thrown away asleep.",
        held(locks)
    )
}

pub(super) fn lockup(context: &str, lock: &str, owner: &str, s: &State) -> String {
    format!(
        "lockdep: a spinlock does not come free\n  {}\n  {lock}\n  {owner}\n\
         To do: see what the holder does there, and whether it still runs; a section under a spinlock must be short.",
        who(context, s)
    )
}

/// Who holds a lock, or held it last.
pub(super) fn owner(context: &str, ended: bool, at: &Location<'_>) -> String {
    let ended = if ended { ", which has ended" } else { "" };
    format!("last taken at {} by thread {context:?}{ended}", place(at))
}

pub(super) fn hung(task: &str, ns: u64, at: &Location<'_>, lock: &str, owner: &str) -> String {
    format!(
        "lockdep: a task has slept for {} s, and no signal can wake it\n\
         \x20 task {task}\n\
         \x20 waits at {}\n\
         \x20 {lock}\n\
         \x20 {owner}\n\
         To do: see whether that holder gives it back on every way out: after an error, a signal, a panic (a guard does). If \
         the wait may be long, let a signal end it.",
        ns / 1_000_000_000,
        place(at),
    )
}

pub(super) fn not_a_lock(magic: u32, at: &Location<'_>, dead: bool) -> String {
    let what = match (magic, dead) {
        (0, _) => "it was never made: zeroed memory, or used before new()",
        (_, true) => "it has been dropped: used after its end",
        _ => "something has been written over it",
    };
    format!(
        "lockdep: this is not a lock: {what}\n  used at {}\n  its magic is {magic:#010x}\n\
         To do: find who keeps the address longer, or has it earlier, than the lock lives.",
        place(at)
    )
}
