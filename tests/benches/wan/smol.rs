//! smoltcp on a cell's network, in virtual time.
//!
//! Interface: [`simulate`].
//! Linux counterpart: none.
//! Locks and context: none; a loop of its own.
//!
//! One end of each connection is a smoltcp interface with one socket. The loop goes from one event to the next: a frame that
//! comes out of the network, or a time that an interface has asked for.

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};
use sockeye_tests::wan::{Cell, End, Outcome, Path};
use std::collections::VecDeque;

/// Bytes of each of a socket's buffers: what Linux lets a sender have at most.
const BUFFER: usize = 4 << 20;
const MTU: usize = 1500;
const ETH_HLEN: usize = 14;
const PORT: u16 = 5001;
const MS: u64 = 1_000_000;

/// Frames in, frames out.
#[derive(Default)]
struct Queues {
    rx: VecDeque<Vec<u8>>,
    tx: VecDeque<Vec<u8>>,
}

struct Rx(Vec<u8>);
struct Tx<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let r = f(&mut frame);
        self.0.push_back(frame);
        r
    }
}

impl Device for Queues {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Rx, Tx<'_>)> {
        Some((Rx(self.rx.pop_front()?), Tx(&mut self.tx)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut c = DeviceCapabilities::default();
        (c.medium, c.max_transmission_unit, c.checksum) = (Medium::Ip, MTU, ChecksumCapabilities::ignored());
        c
    }
}

struct Host {
    queues: Queues,
    interface: Interface,
    sockets: SocketSet<'static>,
    handles: Vec<SocketHandle>,
}

fn address(number: u8) -> IpAddress {
    IpAddress::v4(10, 0, 0, number)
}

fn time(now: u64) -> Instant {
    Instant::from_micros((now / 1000) as i64)
}

impl Host {
    fn new(number: u8, sockets: usize) -> Host {
        let mut queues = Queues::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = u64::from(number);
        let mut interface = Interface::new(config, &mut queues, time(0));
        interface.update_ip_addrs(|a| a.push(IpCidr::new(address(number), 24)).expect("room for an address"));
        let mut set = SocketSet::new(Vec::new());
        let handles = (0..sockets)
            .map(|_| {
                let buffer = || SocketBuffer::new(vec![0; BUFFER]);
                let mut s = Socket::new(buffer(), buffer());
                s.set_congestion_control(CongestionControl::Cubic);
                set.add(s)
            })
            .collect();
        Host { queues, interface, sockets: set, handles }
    }

    fn socket(&mut self, n: usize) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handles[n])
    }

    fn poll(&mut self, now: u64) {
        self.interface.poll(time(now), &mut self.queues, &mut self.sockets);
    }

    fn next(&mut self, now: u64) -> u64 {
        // Its clock counts microseconds; what it asks for now has been done.
        let at = self.interface.poll_at(time(now), &self.sockets);
        at.map_or(u64::MAX, |t| (t.total_micros() as u64 * 1000).max(now + 1000))
    }
}

const RECEIVER: u8 = 1;
const SENDERS: u8 = 10;

struct World {
    path: Path<Vec<u8>>,
    receiver: Host,
    senders: Vec<Host>,
    now: u64,
    flowing: bool,
    bytes: Vec<u64>,
}

/// Runs smoltcp, with its CUBIC, on a cell's network.
pub fn simulate(cell: &Cell, seed: u64) -> Outcome {
    let flows = cell.flows.len();
    let mut w = World {
        path: Path::new(cell, seed),
        receiver: Host::new(RECEIVER, flows),
        senders: (0..flows).map(|i| Host::new(SENDERS + i as u8, 1)).collect(),
        now: MS,
        flowing: false,
        bytes: vec![0; flows],
    };
    for i in 0..flows {
        w.receiver.socket(i).listen(PORT).expect("a socket that is closed");
        let s = &mut w.senders[i];
        let socket = s.sockets.get_mut::<Socket<'_>>(s.handles[0]);
        socket.connect(s.interface.context(), (address(RECEIVER), PORT), 49152).expect("a socket that is closed");
    }
    while !(0..flows).all(|i| w.receiver.socket(i).state() == State::Established) {
        w.step();
    }
    w.path.impair();
    w.flowing = true;
    let end = w.now + cell.time();
    w.pump();
    while w.now < end {
        w.step();
    }
    Outcome { bytes: w.bytes.clone(), time: cell.time(), wire: w.path.stats(), ..Outcome::default() }
}

impl World {
    /// Goes to what happens next.
    fn step(&mut self) {
        let now = self.now;
        let timers =
            self.senders.iter_mut().map(|s| s.next(now)).min().unwrap_or(u64::MAX).min(self.receiver.next(now));
        self.now = self.path.next().unwrap_or(u64::MAX).min(timers).max(now);
        while let Some((end, frame)) = self.path.take(self.now) {
            match end {
                End::Receiver => self.receiver.queues.rx.push_back(frame),
                End::Sender(i) => self.senders[i].queues.rx.push_back(frame),
            }
        }
        self.pump();
    }

    /// Lets everybody read, write, and send.
    fn pump(&mut self) {
        let now = self.now;
        self.receiver.poll(now);
        for i in 0..self.bytes.len() {
            let s = self.receiver.socket(i);
            while s.can_recv() {
                let n = s.recv(|b| (b.len(), b.len())).unwrap_or(0);
                self.bytes[i] += n as u64;
            }
        }
        // A window that has opened.
        self.receiver.poll(now);
        while let Some(f) = self.receiver.queues.tx.pop_front() {
            let to = usize::from(f[19].saturating_sub(SENDERS));
            self.path.send(End::Receiver, to, now, f.len() + ETH_HLEN, f);
        }
        for (i, s) in self.senders.iter_mut().enumerate() {
            s.poll(now);
            if self.flowing {
                let socket = s.socket(0);
                while socket.can_send() && socket.send(|b| (b.len(), b.len())).unwrap_or(0) > 0 {}
                s.poll(now);
            }
            while let Some(f) = s.queues.tx.pop_front() {
                self.path.send(End::Sender(i), 0, now, f.len() + ETH_HLEN, f);
            }
        }
    }
}
