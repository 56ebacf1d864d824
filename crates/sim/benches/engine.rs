//! How fast the engine is: events, context switches, interrupts, wake-ups, a second on one core.

use kernel::cpu;
use sockeye_sim::{self as sim, Sim};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

const N: u64 = 2_000_000;

fn report(what: &str, n: u64, start: Instant) {
    let t = start.elapsed();
    let each = t.as_nanos() as f64 / n as f64;
    println!("{what:<44} {each:>8.1} ns each {:>8.2} million a second", 1e3 / each);
}

/// Events that lie in the queue with `depth` others, each of which makes the next.
fn events(depth: u64) {
    let sim = Sim::with_seed(1);
    let left = Rc::new(Cell::new(N));
    let handler = Rc::new(Cell::new(None::<sim::Handler>));
    let (h, l) = (handler.clone(), left.clone());
    handler.set(Some(sim.handler(move |i| {
        if l.replace(l.get().saturating_sub(1)) > 0 {
            h.get().unwrap().at(sim::now() + 1000 + i * 7919 % 1000, i);
        }
    })));
    (0..depth).for_each(|i| handler.get().unwrap().at(i, i));
    let start = Instant::now();
    sim.run();
    report(&format!("event, {depth} in the queue"), N, start);
}

fn yields(tasks: u64) {
    let sim = Sim::with_seed(1);
    let m = sim.machine("m", 1);
    for _ in 0..tasks {
        m.spawn("t", move || (0..N / tasks).for_each(|_| sim::yield_now()));
    }
    let start = Instant::now();
    sim.run();
    report(&format!("switch to another task (sched_yield, {tasks})"), N, start);
}

fn sleeps(tasks: u64) {
    let sim = Sim::with_seed(1);
    let m = sim.machine("m", 1);
    for i in 0..tasks {
        m.spawn("t", move || (0..N / tasks).for_each(|_| sim::sleep(1000 + i)));
    }
    let start = Instant::now();
    sim.run();
    report(&format!("sleep and wake by deadline, {tasks} tasks"), N, start);
}

fn interrupts(machines: u64) {
    let sim = Sim::with_seed(1);
    let all: Vec<_> = (0..machines).map(|i| sim.machine(&format!("m{i}"), 1)).collect();
    let lines: Vec<_> = all.iter().map(|m| m.request_irq(0, || assert!(cpu::in_hardirq()))).collect();
    let left = Rc::new(Cell::new(N));
    let handler = Rc::new(Cell::new(None::<sim::Handler>));
    let h = handler.clone();
    handler.set(Some(sim.handler(move |i| {
        lines[i as usize].raise();
        if left.replace(left.get().saturating_sub(1)) > 0 {
            h.get().unwrap().at(sim::now() + 1000, (i + 1) % machines);
        }
    })));
    handler.get().unwrap().at(1, 0);
    let start = Instant::now();
    sim.run();
    report(&format!("interrupt of an idle CPU, {machines} machines"), N, start);
}

/// Two tasks on one CPU that wake each other.
fn ping_pong() {
    let sim = Sim::with_seed(1);
    let m = sim.machine("m", 1);
    let other: Rc<[Cell<Option<Arc<kernel::Task>>>; 2]> = Rc::new([const { Cell::new(None) }; 2]);
    for i in 0..2 {
        let o = other.clone();
        let h = m.spawn("t", move || {
            for n in 0..N / 2 {
                if n > 0 || i == 1 {
                    let t = o[1 - i].take().expect("set before the run");
                    t.wake_up_process();
                    o[1 - i].set(Some(t));
                }
                sim::park();
            }
            let t = o[1 - i].take().expect("set before the run");
            t.wake_up_process();
        });
        other[i].set(Some(h.task().clone()));
    }
    let start = Instant::now();
    sim.run();
    report("wake another task and sleep", N, start);
}

fn main() {
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    if let Some(only) = std::env::args().nth(1).filter(|a| !a.starts_with('-')) {
        return match &*only {
            "interrupts" => interrupts(1),
            "yields" => yields(2),
            "sleeps" => sleeps(1),
            _ => events(10_000),
        };
    }
    events(1);
    events(10_000);
    yields(2);
    yields(1000);
    sleeps(1);
    sleeps(1000);
    interrupts(1);
    interrupts(1000);
    ping_pong();
}
