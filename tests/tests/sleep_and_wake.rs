//! One blocked `recvfrom`, from its call to its return, as the tracepoints record it; `docs/sleep-and-wake.md` shows the same.
//!
//! `UPDATE_DOCS=1 cargo nextest run -p sockeye-tests sleep_and_wake` writes the page anew.

use kernel::trace::{Event, Mode, set_mode};
use net::core::dev::dev_open;
use net::core::net_namespace::Net;
use net::init::net_init;
use sim::link::LinkParams;
use sim::nic::{Nic, NicConfig};
use sim::{Machine, Sim, SimConfig, network};
use sockeye::Stack;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use uapi::SockAddr;
use uapi::socket::{AF_INET, SOCK_STREAM};

const MS: u64 = 1_000_000;
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/sleep-and-wake.md");

fn stack(machine: &Machine, nic: &Arc<Nic>, address: &str) -> Stack {
    let stack = Stack::from_net(Net::new(&net_init(machine.kernel())));
    let _cpu = machine.kernel().enter();
    let dev = nic.register(stack.net()).expect("a new name");
    dev_open(&dev).expect("up");
    stack.add_address(&dev.name, address).expect("an address");
    drop(_cpu);
    stack
}

/// What machine `a` did while a task of its blocked in `recvfrom`.
fn record() -> Vec<Event> {
    let sim = Sim::new(SimConfig { irq_cost: 500, switch_cost: 1_000, ..SimConfig::default() });
    let (a, b) = (sim.machine("a", 1), sim.machine("b", 1));
    let wire = LinkParams { bandwidth: 1_000_000_000, delay: MS, ..LinkParams::default() };
    let card = |n| NicConfig::new([2, 0, 0, 0, 0, n]);
    let (na, nb, _) = network::join(&sim, "ab", (&a, card(1)), (&b, card(2)), wire);
    let (sa, sb) = (stack(&a, &na, "10.0.0.1/24"), stack(&b, &nb, "10.0.0.2/24"));
    let at = SockAddr::from(SocketAddr::from(([10, 0, 0, 2], 7)));
    let listen_at = at;
    b.spawn("server", move || {
        let f = sb.files(8);
        let l = f.socket(AF_INET, SOCK_STREAM, 0).expect("socket");
        f.bind(l, &listen_at).expect("bind");
        f.listen(l, 1).expect("listen");
        let (s, _) = f.accept(l).expect("accept");
        sim::sleep(5 * MS);
        f.send(s, b"good morning", 0).expect("send");
        sim::sleep(5 * MS);
    });
    let kernel = a.kernel().clone();
    let client = a.spawn("client", move || {
        let f = sa.files(8);
        let s = f.socket(AF_INET, SOCK_STREAM, 0).expect("socket");
        f.connect(s, &at).expect("connect");
        sim::sleep(MS);
        set_mode(Mode::All);
        let mut b = [0; 100];
        assert_eq!(f.recv(s, &mut b, 0), Ok(12));
        set_mode(Mode::Off);
        kernel.tracer().drain()
    });
    sim.run_tasks();
    client.result().expect("finished")
}

fn told(events: &[Event]) -> String {
    let mut out = String::from("    time us  CPU  context  function\n");
    let start = events.first().map_or(0, |e| e.time);
    for e in events {
        let at = (e.time - start) as f64 / 1e3;
        let _ = writeln!(out, "{at:11.3}  {:3}  {:<7}  {}{}", e.cpu, e.context, "  ".repeat(e.depth as usize), e.name);
    }
    out
}

#[test]
fn the_page_shows_what_happens() {
    let events = record();
    let names: Vec<&str> = events.iter().map(|e| e.name).collect();
    let mut rest = names.iter();
    // What the chapter says, in its order.
    for name in [
        "tcp_recvmsg",
        "lock_sock",
        "sk_wait_data",
        "prepare_to_wait",
        "release_sock",
        "schedule_timeout",
        "napi_schedule",
        "net_rx_action",
        "ip_rcv",
        "tcp_v4_rcv",
        "tcp_rcv_established",
        "tcp_queue_rcv",
        "sock_def_readable",
        "__wake_up_common",
        "autoremove_wake_function",
        "try_to_wake_up",
        "tcp_recvmsg",
        "lock_sock",
        "copy_to_iter",
        "finish_wait",
    ] {
        assert!(rest.any(|n| *n == name), "{name} is missing or out of order:\n{}", told(&events));
    }
    let told = told(&events);
    let page = std::fs::read_to_string(PAGE).expect("the page");
    let (before, rest) = page.split_once("<!-- trace -->\n").expect("the place for the trace");
    let (shown, after) = rest.split_once("<!-- /trace -->").expect("its end");
    let want = format!("```\n{told}```\n");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let page = format!("{before}<!-- trace -->\n{want}<!-- /trace -->{after}");
        return std::fs::write(PAGE, page).expect("written");
    }
    // The times move with whatever happens before; what happens, and in which context, is what the chapter tells.
    let untimed = |t: &str| t.lines().map(|l| l.get(11..).unwrap_or(l).to_owned()).collect::<Vec<_>>();
    assert!(
        untimed(shown) == untimed(&want),
        "docs/sleep-and-wake.md shows something else; UPDATE_DOCS=1 writes it anew:\n{told}"
    );
}
