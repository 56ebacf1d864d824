//! The scheduler's choices: who runs next on a CPU, who preempts whom, which CPU a woken task goes to.
//!
//! Interface: [`Rq`] (`enqueue`, `pick_next`, `put_prev`, `check_preempt`, `tick`), [`SchedEntity`], [`select_task_rq`],
//! [`CpuMask`].
//! Linux counterpart: `kernel/sched/core.c` and `fair.c`, before EEVDF: virtual run time, weights, latency.
//! Locks and context: pure data; the arch that has CPUs of its own (the simulator) keeps one queue for each.
//!
//! A task's virtual run time is the time it ran, scaled by its weight; the least goes first, the longest queued among equals.
//! A task that slept comes back a little before the others, so it preempts whoever has had his share. A waker that says it
//! is about to sleep itself (`WF_SYNC`) is not preempted: the wakee waits on its queue for the switch that comes anyway.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Nanoseconds in which every task of a queue should run once (`sysctl_sched_latency`).
pub const SCHED_LATENCY: u64 = 6_000_000;
/// The least time a task runs before the tick takes its CPU away (`sysctl_sched_min_granularity`).
pub const SCHED_MIN_GRANULARITY: u64 = 750_000;
/// How much less a woken task must have run to preempt at once (`sysctl_sched_wakeup_granularity`).
pub const SCHED_WAKEUP_GRANULARITY: u64 = 1_000_000;
/// The weight of nice 0.
pub const NICE_0_LOAD: u32 = 1024;

/// Weight for nice -20 to 19: each step is worth about ten per cent of a CPU.
const WEIGHTS: [u32; 40] = [
    88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916, 9548, 7620, 6100, 4904, 3906, 3121, 2501,
    1991, 1586, 1277, 1024, 820, 655, 526, 423, 335, 272, 215, 172, 137, 110, 87, 70, 56, 45, 36, 29, 23, 18, 15,
];

/// A set of CPUs, one bit each (`cpumask_t`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuMask(pub u64);

impl CpuMask {
    pub const ALL: CpuMask = CpuMask(u64::MAX);

    /// Only this CPU. `cpu` is below 64.
    pub const fn only(cpu: usize) -> CpuMask {
        CpuMask(1 << cpu)
    }

    pub const fn has(self, cpu: usize) -> bool {
        cpu < 64 && self.0 >> cpu & 1 != 0
    }
}

/// A task, as the scheduler sees it (`struct sched_entity`).
#[derive(Clone, Debug)]
pub struct SchedEntity {
    vruntime: u64,
    weight: u32,
    /// Nanoseconds it has had a CPU.
    pub sum_exec_runtime: u64,
    /// When what it runs now was last accounted.
    exec_start: u64,
    /// `sum_exec_runtime` when it was picked.
    picked_at: u64,
    pub cpus_allowed: CpuMask,
}

impl SchedEntity {
    /// `nice` is cut to -20..=19.
    pub fn new(nice: i32, cpus_allowed: CpuMask) -> Self {
        let weight = WEIGHTS[(nice.clamp(-20, 19) + 20) as usize];
        SchedEntity { vruntime: 0, weight, sum_exec_runtime: 0, exec_start: 0, picked_at: 0, cpus_allowed }
    }

    /// Accounts what it ran until `now`.
    fn update(&mut self, now: u64) {
        let ran = now.saturating_sub(self.exec_start);
        self.exec_start = now;
        self.sum_exec_runtime += ran;
        self.vruntime += ran * u64::from(NICE_0_LOAD) / u64::from(self.weight);
    }
}

/// Least virtual run time first, then first come first served.
#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
struct Key {
    vruntime: u64,
    seq: u64,
}

struct Queued<T> {
    key: Reverse<Key>,
    task: T,
}

impl<T> PartialEq for Queued<T> {
    fn eq(&self, o: &Self) -> bool {
        self.key == o.key
    }
}
impl<T> Eq for Queued<T> {}
impl<T> PartialOrd for Queued<T> {
    fn partial_cmp(&self, o: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(o))
    }
}
impl<T> Ord for Queued<T> {
    fn cmp(&self, o: &Self) -> std::cmp::Ordering {
        self.key.cmp(&o.key)
    }
}

/// Why a task comes onto a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Enqueue {
    /// It is new.
    Fork,
    /// It slept: it is placed a little ahead of the others, but keeps no more than that of what it did not use.
    Wakeup,
    /// It comes from another queue.
    Migrate,
}

/// The runnable tasks of one CPU (`struct rq`). The running one is not in it; its caller holds it.
pub struct Rq<T> {
    queue: BinaryHeap<Queued<T>>,
    min_vruntime: u64,
    /// At least that of any queued task.
    max_vruntime: u64,
    seq: u64,
    need_resched: bool,
}

impl<T> Default for Rq<T> {
    fn default() -> Self {
        Rq { queue: BinaryHeap::new(), min_vruntime: 0, max_vruntime: 0, seq: 0, need_resched: false }
    }
}

impl<T> Rq<T> {
    /// Tasks that wait for the CPU.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether the running task should give way at the next point where it can (`TIF_NEED_RESCHED`).
    pub fn need_resched(&self) -> bool {
        self.need_resched
    }

    /// `resched_curr`.
    pub fn set_need_resched(&mut self) {
        self.need_resched = true;
    }

    /// `enqueue_task`.
    pub fn enqueue(&mut self, task: T, se: &mut SchedEntity, why: Enqueue) {
        let floor = match why {
            Enqueue::Wakeup => self.min_vruntime.saturating_sub(SCHED_LATENCY / 2),
            Enqueue::Fork | Enqueue::Migrate => self.min_vruntime,
        };
        se.vruntime = match why {
            // Another queue's virtual time means nothing here.
            Enqueue::Migrate => floor,
            _ => se.vruntime.max(floor),
        };
        self.push(task, se.vruntime);
    }

    fn push(&mut self, task: T, vruntime: u64) {
        self.seq += 1;
        self.max_vruntime = if self.queue.is_empty() { vruntime } else { self.max_vruntime.max(vruntime) };
        self.queue.push(Queued { key: Reverse(Key { vruntime, seq: self.seq }), task });
    }

    /// `pick_next_task`: takes the next task off the queue. Tell it by [`set_next`](Self::set_next) when it starts.
    pub fn pick_next(&mut self) -> Option<T> {
        self.need_resched = false;
        self.queue.pop().map(|q| q.task)
    }

    /// `set_next_task`: the task begins to run at `now`.
    pub fn set_next(&mut self, se: &mut SchedEntity, now: u64) {
        se.exec_start = now;
        se.picked_at = se.sum_exec_runtime;
        self.min_vruntime = self.min_vruntime.max(se.vruntime);
    }

    /// `put_prev_task` of a task that stays runnable: behind those of its virtual run time. `give_way` (`sched_yield`) puts
    /// it behind everybody.
    pub fn put_prev(&mut self, task: T, se: &mut SchedEntity, now: u64, give_way: bool) {
        se.update(now);
        if give_way && !self.queue.is_empty() {
            se.vruntime = se.vruntime.max(self.max_vruntime);
        }
        self.push(task, se.vruntime);
    }

    /// The running task goes to sleep, or ends: accounts what it ran.
    pub fn stop(&mut self, se: &mut SchedEntity, now: u64) {
        se.update(now);
        self.min_vruntime = self.min_vruntime.max(self.queue.peek().map_or(se.vruntime, |q| q.key.0.vruntime));
        self.need_resched = false;
    }

    /// `check_preempt_wakeup`: `curr` runs, `wakee` has just been queued: sets `need_resched` if it should go first. A
    /// `sync` waker is about to sleep: nothing is set, the switch is deferred until then.
    pub fn check_preempt(&mut self, curr: &mut SchedEntity, wakee: &SchedEntity, now: u64, sync: bool) -> bool {
        curr.update(now);
        let ahead = curr.vruntime.saturating_sub(wakee.vruntime);
        let gran = SCHED_WAKEUP_GRANULARITY * u64::from(NICE_0_LOAD) / u64::from(wakee.weight.max(1));
        let preempt = !sync && ahead > gran.min(SCHED_LATENCY / 2 - 1);
        self.need_resched |= preempt;
        preempt
    }

    /// `task_tick_fair`: sets `need_resched` when `curr` has used up its slice and others wait.
    pub fn tick(&mut self, curr: &mut SchedEntity, now: u64) -> bool {
        curr.update(now);
        self.min_vruntime = self.min_vruntime.max(self.queue.peek().map_or(0, |q| q.key.0.vruntime.min(curr.vruntime)));
        if !self.queue.is_empty() && curr.sum_exec_runtime - curr.picked_at >= self.slice() {
            self.need_resched = true;
        }
        self.need_resched
    }

    /// How long a task runs before others get their turn (`sched_slice`, for equal weights).
    pub fn slice(&self) -> u64 {
        (SCHED_LATENCY / (self.queue.len() as u64 + 1)).max(SCHED_MIN_GRANULARITY)
    }

    /// `dequeue_task`: takes out the tasks that `which` picks, for one that is killed or moved.
    pub fn dequeue(&mut self, mut which: impl FnMut(&T) -> bool) -> Vec<T> {
        let (out, rest): (Vec<_>, Vec<_>) = self.queue.drain().partition(|q| which(&q.task));
        self.queue = rest.into();
        out.into_iter().map(|q| q.task).collect()
    }

    /// The tasks that wait, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.queue.iter().map(|q| &q.task)
    }
}

/// `select_task_rq`: the CPU for a woken or new task. `load(cpu)` is how many tasks the CPU has, running one included, for CPUs
/// `0..nr`. Where it was last if that is idle, else an idle CPU, the waker's first; else the one with the least to do. A
/// `sync` waker's own CPU counts as idle if nothing else waits there. `None`: none of them is allowed.
pub fn select_task_rq(
    nr: usize,
    prev: usize,
    waker: Option<usize>,
    sync: bool,
    allowed: CpuMask,
    load: impl Fn(usize) -> usize,
) -> Option<usize> {
    let ok = |c: usize| c < nr && allowed.has(c);
    let waker = waker.filter(|&w| ok(w));
    if let Some(w) = waker.filter(|&w| sync && load(w) <= 1) {
        return Some(w);
    }
    if ok(prev) && load(prev) == 0 {
        return Some(prev);
    }
    let first = waker.unwrap_or(prev) % nr.max(1);
    (0..nr).map(|i| (first + i) % nr).filter(|&c| ok(c)).min_by_key(|&c| (load(c), c != prev))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn se() -> SchedEntity {
        SchedEntity::new(0, CpuMask::ALL)
    }

    const MS: u64 = 1_000_000;

    /// Runs tasks of these weights for `total` in slices of a millisecond and says how long each ran.
    fn shares(nice: &[i32], total: u64) -> Vec<u64> {
        let mut e: Vec<_> = nice.iter().map(|&n| SchedEntity::new(n, CpuMask::ALL)).collect();
        let mut rq = Rq::default();
        for (i, se) in e.iter_mut().enumerate() {
            rq.enqueue(i, se, Enqueue::Fork);
        }
        let mut now = 0;
        while now < total {
            let i = rq.pick_next().unwrap();
            rq.set_next(&mut e[i], now);
            now += MS;
            rq.put_prev(i, &mut e[i], now, false);
        }
        e.iter().map(|e| e.sum_exec_runtime).collect()
    }

    #[test]
    fn equals_share_equally_and_weights_count() {
        let s = shares(&[0, 0, 0], 300 * MS);
        assert_eq!(s, [100 * MS; 3]);
        let s = shares(&[0, 5], 1000 * MS);
        let ratio = s[0] as f64 / s[1] as f64;
        assert!((2.9..3.2).contains(&ratio), "1024/335 = 3.06, got {ratio}");
    }

    #[test]
    fn equals_go_first_come_first_served() {
        let mut rq = Rq::default();
        let mut e = se();
        for i in 0..5 {
            rq.enqueue(i, &mut e, Enqueue::Fork);
        }
        let order: Vec<_> = std::iter::from_fn(|| rq.pick_next()).collect();
        assert_eq!(order, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_sleeper_preempts_unless_its_waker_is_about_to_sleep() {
        let mut rq = Rq::default();
        let (mut hog, mut sleeper) = (se(), se());
        rq.set_next(&mut hog, 0);
        assert!(!rq.tick(&mut hog, 10 * MS), "alone, it may go on");
        rq.set_next(&mut hog, 10 * MS);
        rq.enqueue("sleeper", &mut sleeper, Enqueue::Wakeup);
        assert!(!rq.check_preempt(&mut hog, &sleeper, 10 * MS, true));
        assert!(!rq.need_resched(), "WF_SYNC defers the switch");
        assert!(rq.check_preempt(&mut hog, &sleeper, 10 * MS, false));
        assert!(rq.need_resched());
        assert_eq!(rq.pick_next(), Some("sleeper"));
        assert!(!rq.need_resched(), "the switch settles it");
    }

    #[test]
    fn a_long_sleep_earns_no_more_than_half_a_latency() {
        let mut rq = Rq::default();
        let (mut hog, mut sleeper) = (se(), se());
        rq.set_next(&mut hog, 0);
        rq.put_prev("hog", &mut hog, 1000 * MS, false);
        assert_eq!(rq.pick_next(), Some("hog"));
        rq.set_next(&mut hog, 1000 * MS);
        rq.enqueue("sleeper", &mut sleeper, Enqueue::Wakeup);
        assert_eq!(sleeper.vruntime, 1000 * MS - SCHED_LATENCY / 2);
    }

    #[test]
    fn the_tick_ends_a_slice_only_when_others_wait() {
        let mut rq = Rq::default();
        let (mut a, mut b) = (se(), se());
        rq.set_next(&mut a, 0);
        assert!(!rq.tick(&mut a, 20 * MS));
        rq.set_next(&mut a, 20 * MS);
        rq.enqueue("b", &mut b, Enqueue::Fork);
        assert!(!rq.tick(&mut a, 22 * MS), "3 ms each");
        assert!(rq.tick(&mut a, 23 * MS));
    }

    #[test]
    fn yielding_goes_behind_everybody() {
        let mut rq = Rq::default();
        let (mut a, mut b) = (se(), se());
        b.vruntime = 5 * MS;
        rq.enqueue("b", &mut b, Enqueue::Fork);
        rq.set_next(&mut a, 0);
        rq.put_prev("a", &mut a, 0, true);
        assert_eq!(rq.pick_next(), Some("b"));
        assert_eq!(rq.pick_next(), Some("a"));
    }

    #[test]
    fn a_woken_task_goes_where_there_is_room() {
        let loads = [2, 0, 1, 0];
        let pick = |prev, waker, sync, mask| select_task_rq(4, prev, waker, sync, mask, |c| loads[c]);
        assert_eq!(pick(3, Some(0), false, CpuMask::ALL), Some(3), "its cache is there and it is idle");
        assert_eq!(pick(2, Some(0), false, CpuMask::ALL), Some(1), "an idle one");
        assert_eq!(pick(3, Some(2), true, CpuMask::ALL), Some(2), "the waker is about to leave");
        assert_eq!(pick(3, Some(2), true, CpuMask::only(0)), Some(0), "affinity wins");
        assert_eq!(pick(3, Some(2), true, CpuMask(0)), None);
    }

    #[test]
    fn a_dequeued_task_does_not_come_up() {
        let mut rq = Rq::default();
        let mut e = se();
        for i in 0..5 {
            rq.enqueue(i, &mut e, Enqueue::Fork);
        }
        assert_eq!(rq.dequeue(|&t| t == 3), [3]);
        let order: Vec<_> = std::iter::from_fn(|| rq.pick_next()).collect();
        assert_eq!(order, [0, 1, 2, 4]);
    }
}
