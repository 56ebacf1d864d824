//! The engine: tasks, virtual time, interrupts, preemption, failures.

use kernel::{Softirq, SpinLock, WaitQueueHead, cpu};
use sockeye_sim::{self as sim, CpuFault, FaultRates, Machine, Sim, SimConfig, TaskOptions};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

const MS: u64 = 1_000_000;

fn jumpy(seed: u64, every: u32) -> Sim {
    Sim::new(SimConfig { seed, preempt_every: Some(every), ..SimConfig::default() })
}

/// Whatever the tasks say, in order.
#[derive(Clone, Default)]
struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    fn say(&self, s: impl ToString) {
        self.0.borrow_mut().push(s.to_string());
    }

    fn said(&self) -> String {
        self.0.borrow().join(" ")
    }
}

fn panic_of(f: impl FnOnce()) -> String {
    let p = catch_unwind(AssertUnwindSafe(f)).expect_err("it was to panic");
    p.downcast_ref::<String>().cloned().or_else(|| p.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default()
}

#[test]
fn tasks_interleave_where_they_sleep() {
    let sim = Sim::from_env(1);
    let m = sim.machine("m", 1);
    let log = Log::default();
    for (name, every) in [("a", 10), ("b", 15)] {
        let log = log.clone();
        m.spawn(name, move || {
            for _ in 0..3 {
                sim::sleep(every * MS);
                log.say(format!("{name}{}", sim::now() / MS));
            }
        });
    }
    sim.run();
    assert_eq!(log.said(), "a10 b15 a20 b30 a30 b45");
    assert_eq!(sim.now(), 45 * MS);
}

#[test]
fn an_hour_of_sleep_takes_no_time() {
    let sim = Sim::from_env(1);
    let m = sim.machine("m", 1);
    let h = m.spawn("sleeper", || (0..1000).for_each(|_| sim::sleep(3600 * 1000 * MS)));
    h.join();
    assert_eq!(sim.now(), 3_600_000 * 1000 * MS);
    assert!(sim.steps() < 10_000);
}

fn busy_world(seed: u64) -> (u64, u64) {
    let sim = jumpy(seed, 5);
    let lock = Arc::new(SpinLock::new(0u64));
    for i in 0..3u64 {
        let m = sim.machine("m", 2);
        for j in 0..4u64 {
            let lock = lock.clone();
            m.spawn("t", move || {
                for k in 0..20 {
                    *lock.lock() += 1;
                    sim::note("work", i, k);
                    sim::sleep((j + 1) * 1000);
                }
            });
        }
    }
    sim.run();
    assert_eq!(*lock.lock(), 240);
    (sim.trace_hash(), sim.now())
}

#[test]
fn a_seed_is_a_history() {
    let all: Vec<_> = (0..8).map(busy_world).collect();
    assert_eq!(all, (0..8).map(busy_world).collect::<Vec<_>>());
    for (i, a) in all.iter().enumerate() {
        assert!(all[..i].iter().all(|b| a.0 != b.0), "seed {i}");
    }
}

#[test]
fn threads_with_simulations_do_not_disturb_each_other() {
    let want = busy_world(7);
    let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(|| busy_world(7))).collect();
    for t in threads {
        assert_eq!(t.join().unwrap(), want);
    }
}

#[test]
fn two_cpus_contend_for_a_spinlock() {
    let seeds = sim::seeds(0..20);
    let (mut contended, all) = (0, seeds.clone().count());
    for seed in seeds {
        let sim = jumpy(seed, 2);
        let m = sim.machine("m", 2);
        let lock = Arc::new(SpinLock::new(0));
        for cpu in 0..2 {
            let (lock, k) = (lock.clone(), m.kernel().clone());
            m.spawn_with(
                "t",
                TaskOptions { cpus: kernel::sched::CpuMask::only(cpu), ..Default::default() },
                move || {
                    let _inside = k.enter();
                    for _ in 0..50 {
                        let mut g = lock.lock();
                        let n = *g;
                        cpu::checkpoint();
                        *g = n + 1;
                    }
                },
            );
        }
        sim.run();
        assert_eq!(*lock.lock(), 100, "seed {seed}");
        contended += usize::from(sim.log().contains("Preempt"));
    }
    assert!(contended * 4 > all * 3, "{contended} of {all}");
}

/// Adds without a lock, through a point where it can be interrupted.
fn racy_counter(seed: u64) -> u64 {
    let sim = jumpy(seed, 10);
    let m = sim.machine("m", 2);
    let n = Rc::new(Cell::new(0));
    for _ in 0..2 {
        let n = n.clone();
        m.spawn("t", move || {
            for _ in 0..5 {
                let v = n.get();
                cpu::checkpoint();
                n.set(v + 1);
            }
        });
    }
    sim.run();
    n.get()
}

#[test]
fn a_lost_update_is_found() {
    let found = (0..20).find(|&s| racy_counter(s) != 10).expect("some seed of 20 must find the race");
    assert_eq!(racy_counter(found), racy_counter(found), "and find it again");
}

#[test]
fn an_interrupt_comes_where_they_are_on_and_not_where_they_are_off() {
    let sim = Sim::from_env(1);
    let m = sim.machine("m", 1);
    let log = Log::default();
    let l = log.clone();
    let irq = m.request_irq(0, move || {
        assert!(cpu::in_hardirq());
        l.say(format!("irq{}", sim::now()));
    });
    for t in [100, 1100, 3000] {
        sim.at(t, move || irq.raise());
    }
    let (l, k) = (log.clone(), m.kernel().clone());
    m.spawn("t", move || {
        let _inside = k.enter();
        sim::charge(1000);
        l.say("on");
        {
            let _off = cpu::local_irq_save();
            sim::charge(1000);
            l.say("off");
        }
        l.say("on-again");
    });
    sim.run();
    assert_eq!(log.said(), "irq100 on off irq2000 on-again irq3000");
}

#[test]
fn a_top_half_raises_a_softirq_that_runs_on_leaving() {
    let sim = Sim::from_env(1);
    let m = sim.machine("m", 1);
    let log = Log::default();
    let (l, l2) = (log.clone(), log.clone());
    struct Shared(Log);
    // SAFETY: the simulation is one thread.
    unsafe impl Send for Shared {}
    // SAFETY: as above.
    unsafe impl Sync for Shared {}
    let shared = Shared(log.clone());
    m.kernel().open_softirq(Softirq::NetRx, move || {
        let shared = &shared;
        assert!(cpu::in_serving_softirq() && !cpu::in_hardirq());
        shared.0.say("softirq");
    });
    let irq = m.request_irq(0, move || {
        kernel::kernel::raise_softirq(Softirq::NetRx);
        l.say("irq");
    });
    sim.at(10, move || irq.raise());
    sim.at(110, move || irq.raise());
    let k = m.kernel().clone();
    m.spawn("t", move || {
        sim::sleep(100);
        let _inside = k.enter();
        let bh = cpu::local_bh_disable();
        sim::charge(20);
        l2.say("bh-off");
        drop(bh);
        l2.say("bh-on");
    });
    sim.run();
    assert_eq!(log.said(), "irq softirq irq bh-off softirq bh-on");
}

#[test]
fn a_masked_line_waits_until_it_is_enabled() {
    let sim = Sim::from_env(1);
    let m = sim.machine("m", 1);
    let n = Rc::new(Cell::new(0));
    let n2 = n.clone();
    let irq = m.request_irq(0, move || n2.set(n2.get() + 1));
    irq.disable();
    irq.raise();
    irq.raise();
    sim.run();
    assert_eq!(n.get(), 0);
    irq.enable();
    sim.run();
    assert_eq!(n.get(), 1, "what was raised while masked comes once");
}

#[test]
fn timers_fire_at_their_time() {
    let sim = Sim::from_env(1);
    let m = sim.machine("m", 2);
    let fired = Arc::new(std::sync::Mutex::new(Vec::new()));
    let f = fired.clone();
    let t = m.kernel().timer(move || f.lock().unwrap().push(sim::now() / MS));
    t.mod_timer_in(20);
    sim.run();
    t.mod_timer_in(5);
    sim.run();
    let fired = fired.lock().unwrap().clone();
    assert!(fired.len() == 2 && (20..=22).contains(&fired[0]) && (25..=28).contains(&fired[1]), "{fired:?}");
}

#[test]
fn a_waker_that_goes_to_sleep_defers_the_switch() {
    for sync in [false, true] {
        let sim = Sim::from_env(1);
        let m = sim.machine("m", 1);
        let log = Log::default();
        let l = log.clone();
        let wakee = m.spawn("wakee", move || {
            sim::park();
            l.say("wakee");
        });
        let task = wakee.task().clone();
        let l = log.clone();
        let sim_wake = move |t: &Arc<kernel::Task>| wake(t, sync);
        m.spawn("waker", move || {
            sim::charge(2 * MS);
            sim_wake(&task);
            sim::charge(MS / 2);
            l.say("waker");
        });
        sim.run();
        assert_eq!(log.said(), if sync { "waker wakee" } else { "wakee waker" });
    }
}

fn wake(t: &Arc<kernel::Task>, sync: bool) {
    t.try_to_wake_up(kernel::task::TASK_NORMAL, if sync { kernel::task::WF_SYNC } else { 0 });
}

#[test]
fn a_hog_shares_its_cpu() {
    let sim = Sim::from_env(1);
    let m = sim.machine("m", 1);
    let ends: Vec<_> = (0..2)
        .map(|_| {
            m.spawn("hog", || {
                (0..100).for_each(|_| sim::charge(MS));
                sim::now()
            })
        })
        .collect();
    sim.run();
    let ends: Vec<_> = ends.iter().map(|h| h.result().unwrap() / MS).collect();
    assert!(ends[0] > 180 && ends[1] == 200, "{ends:?}");
}

#[test]
fn a_wait_queue_puts_tasks_to_sleep_and_wakes_them() {
    let sim = Sim::from_env(1);
    let m = sim.machine("m", 2);
    let q = Arc::new((WaitQueueHead::new(), SpinLock::new(0)));
    let n = Rc::new(Cell::new(0));
    for _ in 0..5 {
        let (q, k, n) = (q.clone(), m.kernel().clone(), n.clone());
        m.spawn("consumer", move || {
            let _inside = k.enter();
            kernel::wait::block_on(k.arch(), |w| {
                w.prepare_to_wait_exclusive(&q.0);
                let mut have = q.1.lock_bh();
                if *have == 0 {
                    return std::task::Poll::Pending;
                }
                *have -= 1;
                std::task::Poll::Ready(())
            });
            n.set(n.get() + 1);
        });
    }
    let k = m.kernel().clone();
    m.spawn("producer", move || {
        for _ in 0..5 {
            sim::sleep(MS);
            let _inside = k.enter();
            *q.1.lock_bh() += 1;
            q.0.wake_up(0);
        }
    });
    sim.run();
    assert_eq!(n.get(), 5);
}

#[test]
fn ten_thousand_tasks() {
    let sim = Sim::from_env(1);
    let machines: Vec<Machine> = (0..10).map(|i| sim.machine(&format!("m{i}"), 4)).collect();
    let sum = Rc::new(Cell::new(0));
    for i in 0..10_000u64 {
        let sum = sum.clone();
        machines[i as usize % 10].spawn("t", move || {
            sim::sleep(i * 100);
            sum.set(sum.get() + i);
        });
    }
    sim.run();
    assert_eq!(sum.get(), 10_000 * 9_999 / 2);
}

#[test]
fn a_deadlock_is_reported_with_who_and_where() {
    let sim = Sim::from_env(1);
    let m = sim.machine("m", 1);
    m.spawn("forgotten", sim::park);
    let p = panic_of(|| sim.run());
    assert!(p.contains("deadlock") && p.contains("forgotten") && p.contains("Asleep"), "{p}");
}

#[test]
fn a_lockup_is_reported() {
    let sim = Sim::from_env(1);
    let m = sim.machine("m", 1);
    let lock = Arc::new(SpinLock::new(()));
    let held = lock.lock();
    let l = lock.clone();
    m.spawn("spinner", move || drop(l.lock()));
    let p = panic_of(|| sim.run());
    assert!(p.contains("lockup") && p.contains("spinner"), "{p}");
    drop(held);
}

#[test]
fn a_panic_comes_out_of_the_run() {
    let sim = Sim::with_seed(42);
    let m = sim.machine("m", 1);
    m.spawn("t", || {
        sim::sleep(5);
        panic!("on purpose");
    });
    assert_eq!(panic_of(|| sim.run()), "on purpose");
    assert!(
        sim.replay().starts_with("SOCKEYE_SEED=42 cargo nextest run -p sockeye-sim a_panic_comes"),
        "{}",
        sim.replay()
    );
}

#[test]
fn handlers_and_closures_happen_at_their_time() {
    let sim = Sim::from_env(1);
    let log = Log::default();
    let l = log.clone();
    let h = sim.handler(move |n| l.say(format!("h{n}@{}", sim::now())));
    h.at(30, 1);
    h.at(10, 2);
    let l = log.clone();
    sim.at(20, move || {
        l.say("c");
        h.at(20, 3);
    });
    sim.run_until(25);
    assert_eq!((log.said().as_str(), sim.now()), ("h2@10 c h3@20", 25));
    sim.run();
    assert_eq!(log.said(), "h2@10 c h3@20 h1@30");
}

#[test]
fn joining_waits_and_hands_the_result_over() {
    let sim = Sim::from_env(1);
    let m = sim.machine("m", 1);
    let m2 = m.clone();
    let outer = m.spawn("outer", move || {
        let inner = m2.spawn("inner", || {
            sim::sleep(MS);
            21
        });
        inner.join().unwrap() * 2
    });
    assert_eq!(outer.join(), Some(42));
}

#[test]
fn what_sleeping_tasks_hold_is_dropped_at_the_end() {
    struct Count(Rc<Cell<u32>>);
    impl Drop for Count {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    let n = Rc::new(Cell::new(0));
    {
        let sim = Sim::from_env(1);
        let m = sim.machine("m", 1);
        let c = Count(n.clone());
        m.spawn("asleep", move || {
            let _c = c;
            sim::sleep(MS);
        });
        let c = Count(n.clone());
        sim.run_for(10);
        m.spawn("never ran", move || drop(c));
    }
    assert_eq!(n.get(), 2);
}

#[test]
fn futures_run_beside_tasks() {
    let sim = Sim::from_env(1);
    let m = sim.machine("m", 2);
    let log = Log::default();
    let l = log.clone();
    let f = m.spawn_future("future", async move {
        for i in 0..3 {
            sim::timer(10).await;
            l.say(format!("f{i}@{}", sim::now()));
        }
        // What blocks may be called, too.
        sim::sleep(5);
        "done"
    });
    let l = log.clone();
    m.spawn("task", move || {
        sim::sleep(15);
        l.say(format!("t@{}", sim::now()));
    });
    assert_eq!(f.join(), Some("done"));
    assert_eq!(log.said(), "f0@10 t@15 f1@20 f2@30");
    assert_eq!(sim.now(), 35);
    sim::block_on(sim::timer(100));
    assert_eq!(sim.now(), 135);
}

#[test]
fn a_timer_that_is_dropped_takes_no_time_along() {
    let sim = Sim::from_env(1);
    let m = sim.machine("m", 1);
    m.spawn_future("f", async {
        let mut long = std::pin::pin!(sim::timer(3600 * 1000 * MS));
        let mut short = std::pin::pin!(sim::timer(MS));
        std::future::poll_fn(|cx| {
            let _ = long.as_mut().poll(cx);
            short.as_mut().poll(cx)
        })
        .await;
    });
    sim.run();
    assert_eq!(sim.now(), MS);
}

#[test]
fn a_stalled_cpu_stands_still_while_others_go_on() {
    let sim = Sim::from_env(1);
    let m = sim.machine("m", 2);
    let log = Log::default();
    for cpu in 0..2 {
        let l = log.clone();
        let options = TaskOptions { cpus: kernel::sched::CpuMask::only(cpu), ..Default::default() };
        m.spawn_with("t", options, move || {
            for _ in 0..3 {
                sim::sleep(10);
                l.say(format!("{cpu}@{}", sim::now()));
            }
        });
    }
    sim.inject(15, CpuFault::Stall { machine: 0, cpu: 1, ns: 100 });
    sim.run();
    assert_eq!(log.said(), "0@10 1@10 0@20 0@30 1@115 1@125");
}

#[test]
fn a_clock_that_jumps_brings_timers_and_deadlines_forward() {
    let sim = Sim::from_env(1);
    let m = sim.machine("m", 1);
    let fired = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let f = fired.clone();
    let t = m.kernel().timer(move || f.store(sim::now() / MS, std::sync::atomic::Ordering::SeqCst));
    t.mod_timer_in(10_000);
    let k = m.kernel().clone();
    let sleeper = m.spawn("t", move || {
        let before = k.ktime_get();
        let task = k.arch().current();
        task.set_state(kernel::task::TASK_INTERRUPTIBLE);
        k.arch().schedule(&task, Some(before + 5_000 * MS));
        assert!(k.ktime_get() >= before + 5_000 * MS);
        sim::now() / MS
    });
    sim.inject(1000 * MS, CpuFault::ClockJump { machine: 0, ns: 60_000 * MS });
    sim.run();
    assert_eq!((sleeper.result(), fired.load(std::sync::atomic::Ordering::SeqCst)), (Some(1000), 1000));
}

#[test]
fn a_killed_task_drops_what_it_holds() {
    struct Bell(Rc<Cell<bool>>);
    impl Drop for Bell {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    let sim = Sim::from_env(1);
    let m = sim.machine("m", 1);
    let rung = Rc::new(Cell::new(false));
    let bell = Bell(rung.clone());
    let h = m.spawn("victim", move || {
        let _bell = bell;
        sim::sleep(3600 * 1000 * MS);
    });
    sim.inject(MS, CpuFault::Kill { task: h.id() });
    sim.run();
    assert_eq!((h.is_finished(), h.result(), rung.get(), sim.now()), (true, None, true, MS));
}

#[test]
fn a_signal_ends_an_interruptible_sleep() {
    let sim = Sim::from_env(1);
    let m = sim.machine("m", 1);
    let h = m.spawn("t", || {
        sim::park();
        sim::now()
    });
    sim.inject(77, CpuFault::Signal { task: h.id() });
    sim.run();
    assert_eq!(h.result(), Some(77));
}

#[test]
fn a_plan_of_faults_follows_from_the_seed_and_kinds_do_not_shift_each_other() {
    let all = FaultRates {
        stall_every: 10 * MS,
        stall_max: MS,
        clock_jump_every: 50 * MS,
        clock_jump_max: 1000 * MS,
        wall_clock_every: 0,
    };
    let plan = |rates: FaultRates, seed| rates.plan(seed, &[2, 2, 4], 1000 * MS);
    assert_eq!(plan(all, 1), plan(all, 1));
    assert_ne!(plan(all, 1), plan(all, 2));
    assert!((60..140).contains(&plan(all, 1).len()), "{}", plan(all, 1).len());
    let mut stalls = plan(all, 1);
    stalls.retain(|(_, f)| matches!(f, CpuFault::Stall { .. }));
    assert_eq!(plan(FaultRates { clock_jump_every: 0, ..all }, 1), stalls);
}

#[test]
fn an_endless_flood_of_softirqs_leaves_tasks_their_share() {
    let sim = Sim::from_env(1);
    let m = sim.machine("m", 1);
    let rounds = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let r = rounds.clone();
    m.kernel().open_softirq(Softirq::NetRx, move || {
        sim::charge(10_000);
        if r.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 10_000 {
            kernel::kernel::raise_softirq(Softirq::NetRx);
        }
    });
    let irq = m.request_irq(0, || kernel::kernel::raise_softirq(Softirq::NetRx));
    irq.raise();
    let task = m.spawn("task", || {
        (0..10).for_each(|_| sim::charge(MS));
        sim::now()
    });
    sim.run();
    assert!(rounds.load(std::sync::atomic::Ordering::SeqCst) > 10_000);
    let end = task.result().unwrap();
    assert!(end < 60 * MS, "the flood lasts 100 ms, the task's 10 ms of work were done at {end}");
}

#[test]
fn a_read_section_that_is_switched_out_holds_up_reclaim() {
    for seed in sim::seeds(0..10) {
        let sim = jumpy(seed, 2);
        let m = sim.machine("m", 2);
        let freed = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let p = Arc::new(kernel::Rcu::new(Some(Arc::new(0u64))));
        let (k, p2) = (m.kernel().clone(), p.clone());
        m.spawn("reader", move || {
            let _inside = k.enter();
            for _ in 0..200 {
                let section = kernel::rcu_read_lock();
                let v = *p2.dereference(&section).unwrap();
                (0..5).for_each(|_| cpu::checkpoint());
                assert!(*p2.dereference(&section).unwrap() >= v);
            }
        });
        let (k, f) = (m.kernel().clone(), freed.clone());
        m.spawn("writer", move || {
            for i in 1..100 {
                let _inside = k.enter();
                p.assign(Some(Arc::new(i)));
                let f = f.clone();
                kernel::call_rcu(move || {
                    f.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                });
                if i % 10 == 0 {
                    kernel::synchronize_rcu();
                }
            }
        });
        sim.run();
        assert_eq!(freed.load(std::sync::atomic::Ordering::SeqCst), 99, "seed {seed}");
    }
}

#[test]
fn a_panic_in_a_top_half_comes_out_of_the_run() {
    let sim = Sim::from_env(1);
    let m = sim.machine("m", 1);
    m.request_irq(0, || panic!("in the top half")).raise();
    assert_eq!(panic_of(|| sim.run()), "in the top half");
}

#[test]
fn a_lock_that_a_top_half_finds_held_below_it_is_a_lockup() {
    let sim = Sim::from_env(1);
    let m = sim.machine("m", 1);
    let lock = Arc::new(SpinLock::new(()));
    let l = lock.clone();
    let irq = m.request_irq(0, move || {
        while l.is_locked() {
            sim::relax();
        }
    });
    let k = m.kernel().clone();
    m.spawn("holder", move || {
        let _inside = k.enter();
        let _g = lock.lock();
        sim::charge(100);
    });
    sim.at(50, move || irq.raise());
    let p = panic_of(|| sim.run());
    assert!(p.contains("lockup") && p.contains("holder"), "{p}");
}

#[test]
fn who_sleeps_inside_a_kernel_comes_back_as_the_cpu_that_it_says_it_is() {
    for seed in sim::seeds(0..10) {
        let sim = jumpy(seed, 3);
        let m = sim.machine("m", 4);
        for i in 0..8 {
            let k = m.kernel().clone();
            m.spawn("t", move || {
                let _inside = k.enter();
                for n in 0..20 {
                    sim::sleep(100 * i + n);
                    assert_eq!(cpu::smp_processor_id(), sim::current().unwrap().cpu);
                    kernel::sleep_timeout::msleep(k.arch(), 1);
                    assert_eq!(cpu::smp_processor_id(), sim::current().unwrap().cpu);
                }
            });
        }
        sim.run();
    }
}

/// Prints a history's hash, for the test below, in a process of its own.
#[test]
#[ignore = "part of another test"]
fn print_a_hash() {
    println!("hash {:?}", busy_world(11));
}

#[test]
fn another_process_has_the_same_history() {
    let exe = std::env::current_exe().unwrap();
    let out = std::process::Command::new(exe)
        .args(["--exact", "print_a_hash", "--ignored", "--nocapture", "--test-threads=1"])
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.contains(&format!("hash {:?}", busy_world(11))), "{out}");
}

#[test]
fn whoever_spins_for_long_is_reported_although_the_world_goes_on() {
    let sim = Sim::from_env(1);
    let m = sim.machine("m", 1);
    let tick = Rc::new(Cell::new(None::<sim::Handler>));
    let t = tick.clone();
    tick.set(Some(sim.handler(move |_| t.get().unwrap().at(sim::now() + 1000 * MS, 0))));
    tick.get().unwrap().at(0, 0);
    let lock = Arc::new(SpinLock::new(()));
    let held = lock.lock();
    let l = lock.clone();
    m.spawn("spinner", move || drop(l.lock()));
    let p = panic_of(|| sim.run());
    assert!(p.contains("lockup") && p.contains("spinner"), "{p}");
    assert!((20_000 * MS..22_000 * MS).contains(&sim.now()), "{}", sim.now());
    drop(held);
}

#[test]
#[cfg(debug_assertions)]
fn a_deadlock_of_mutexes_names_the_locks_and_their_owners() {
    let sim = Sim::from_env(1);
    let m = sim.machine("m", 1);
    let a = Arc::new(kernel::Mutex::new(()));
    let (k, first) = (m.kernel().clone(), a.clone());
    m.spawn("owner", move || {
        let _inside = k.enter();
        let _held = first.lock();
        sim::park();
    });
    let k = m.kernel().clone();
    m.spawn("waiter", move || {
        sim::sleep(10);
        let _inside = k.enter();
        drop(a.lock());
    });
    let p = panic_of(|| sim.run());
    assert!(p.contains("deadlock") && p.contains("Mutex<()>") && p.contains("\"waiter\""), "{p}");
}

#[test]
fn one_long_piece_of_work_lets_others_in_between() {
    let sim = Sim::from_env(1);
    let m = sim.machine("m", 1);
    let long = m.spawn("long", || {
        sim::charge(100 * MS);
        sim::now()
    });
    let short = m.spawn("short", || {
        sim::charge(5 * MS);
        sim::now()
    });
    sim.run();
    assert_eq!(long.result(), Some(105 * MS));
    assert!(short.result().unwrap() < 20 * MS);
}
