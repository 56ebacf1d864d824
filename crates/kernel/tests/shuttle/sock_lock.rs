//! The socket lock and its backlog: nothing that comes in while a process owns the socket is lost or done twice.
//!
//! Interface: tests.
//! Linux counterpart: none.
//! Locks and context: shuttle's threads, as processes and as softirqs.

use crate::harness::{ShuttleArch, explore};
use shuttle::thread;
use sockeye_kernel::plant::{Plant, finds};
use sockeye_kernel::{Kernel, SockLock, WaitQueueHead, local_bh_disable};
use std::sync::Arc;

const PACKETS: u32 = 3;

/// A receive queue, and whether somebody is at it.
#[derive(Default)]
struct State {
    queue: Vec<u32>,
    busy: bool,
}

impl State {
    /// Takes a while, so that two at once would meet.
    fn receive(&mut self, packet: u32) {
        assert!(!self.busy, "two have the socket at once");
        self.busy = true;
        thread::yield_now();
        self.queue.push(packet);
        self.busy = false;
    }
}

struct Sock {
    kernel: Arc<Kernel>,
    lock: SockLock<State, Vec<u32>>,
    queue: WaitQueueHead,
}

fn softirq(sk: &Sock, from: u32) {
    for n in 0..PACKETS {
        let _bh = local_bh_disable();
        let mut sk = sk.lock.bh_lock_sock();
        match sk.data() {
            Some(state) => state.receive(from + n),
            None => sk.backlog().push(from + n),
        }
    }
}

/// One system call: `lock_sock`, some work, `release_sock`.
fn process(sk: &Sock) {
    let _inside = sk.kernel.enter();
    let mut owner = sk.lock.lock_sock(&sk.queue);
    owner.receive(0);
    while let Err((guard, backlog)) = owner.try_release(|b| (!b.is_empty()).then(|| std::mem::take(b))) {
        owner = guard;
        backlog.into_iter().for_each(|p| owner.receive(p));
    }
}

fn packets_meet_processes() {
    let sk = Arc::new(Sock {
        kernel: Kernel::new(ShuttleArch::new(), 1),
        lock: SockLock::new(State::default()),
        queue: WaitQueueHead::new(),
    });
    let (a, b, p, q) = (sk.clone(), sk.clone(), sk.clone(), sk.clone());
    let threads = [
        thread::spawn(move || softirq(&a, 100)),
        thread::spawn(move || softirq(&b, 200)),
        thread::spawn(move || process(&p)),
        thread::spawn(move || process(&q)),
    ];
    process(&sk);
    threads.into_iter().for_each(|t| t.join().unwrap());
    let got = sk.lock.lock_sock(&sk.queue).queue.clone();
    for from in [100, 200] {
        let of: Vec<u32> = got.iter().copied().filter(|p| p / 100 == from / 100).collect();
        assert_eq!(of, (from..from + PACKETS).collect::<Vec<_>>(), "the packets of one sender, in order, each once");
    }
    assert_eq!(got.len() as u32, 2 * PACKETS + 3);
}

#[test]
fn nothing_is_lost_between_softirqs_and_processes() {
    explore(2000, packets_meet_processes);
}

#[test]
fn a_release_without_a_last_look_is_found() {
    let name = "sock_lock::a_release_without_a_last_look_is_found";
    finds(name, Plant::BacklogForgotten, &["in order, each once"], || explore(2000, packets_meet_processes));
}
