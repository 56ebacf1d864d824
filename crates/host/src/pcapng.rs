//! Capture: every frame of a stack, or of one namespace or device, into a pcapng file.
//!
//! Interface: [`Capture`], [`Filter`], [`CaptureStats`].
//! Linux counterpart: none in the kernel; `dumpcap`. The format is draft-ietf-opsawg-pcapng.
//! Locks and context: the tap runs wherever a packet passes and only queues a clone, which shares the payload; a thread of
//! its own writes.
//!
//! The file shows what a wire would show: checksums that were left to the device are completed, packets that were left to
//! it to be cut are cut. That is done by the writer, so the packet's own path does not wait for it.

use crate::worker::lock;
use kernel::synchronize_rcu;
use net::core::checksum::skb_checksum_help;
use net::core::dev::{NetDevice, Tap, dev_add_tap, dev_remove_tap};
use net::core::gso::{Segments, skb_gso_segment};
use net::core::net_namespace::{Net, Registries};
use net::core::skbuff::{IpSummed, PktType, Skb};
use std::collections::VecDeque;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

/// Packets and bytes that may wait for the writer; what comes on top is counted and not captured.
const QUEUE_PACKETS: usize = 16 * 1024;
const QUEUE_BYTES: usize = 64 << 20;

const BLOCK_SHB: u32 = 0x0a0d_0d0a;
const BLOCK_IDB: u32 = 1;
const BLOCK_ISB: u32 = 5;
const BLOCK_EPB: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const OPT_END: u16 = 0;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
const ISB_IFRECV: u16 = 4;
const ISB_IFDROP: u16 = 5;
const LINKTYPE_ETHERNET: u16 = 1;
const LINKTYPE_RAW: u16 = 101;
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

/// What is captured.
#[derive(Clone)]
pub enum Filter {
    /// All devices of all namespaces.
    All,
    Net(Arc<Net>),
    Device(Arc<NetDevice>),
}

/// What a capture has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CaptureStats {
    /// Frames in the file.
    pub written: u64,
    /// Packets that came faster than they could be written.
    pub dropped: u64,
}

/// A running capture. [`finish`](Self::finish) or the drop ends it, with everything seen so far in the file.
pub struct Capture {
    reg: Arc<Registries>,
    tap: Arc<Tap>,
    shared: Arc<Shared>,
    writer: Option<JoinHandle<io::Result<CaptureStats>>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    ready: Condvar,
}

#[derive(Default)]
struct Queue {
    list: VecDeque<Record>,
    bytes: usize,
    dropped: u64,
    closed: bool,
}

struct Record {
    dev: Weak<NetDevice>,
    /// For the interface's description; a name is short.
    name: String,
    hard_header_len: usize,
    /// Wall-clock nanoseconds.
    time: u64,
    outgoing: bool,
    skb: Box<Skb>,
}

impl Capture {
    /// Captures into a new file at `path`. The errors are those of opening it and of starting a thread.
    pub fn create(reg: &Arc<Registries>, path: &Path, filter: Filter) -> io::Result<Capture> {
        let file = std::fs::File::create(path)?;
        Self::to_writer(reg, Box::new(file), filter)
    }

    /// Captures into `out`.
    pub fn to_writer(reg: &Arc<Registries>, out: Box<dyn Write + Send>, filter: Filter) -> io::Result<Capture> {
        let shared = Arc::<Shared>::default();
        let writer = {
            let shared = shared.clone();
            let run = move || Writer::new(out).run(&shared);
            std::thread::Builder::new().name("pcapng".to_owned()).spawn(run)?
        };
        let func = {
            let shared = shared.clone();
            Box::new(move |net: &Net, dev: &NetDevice, skb: &Skb| {
                if filter.wants(net, dev) {
                    shared.push(net, dev, skb);
                }
            })
        };
        let tap = dev_add_tap(reg, Tap { ifindex: 0, func });
        Ok(Capture { reg: reg.clone(), tap, shared, writer: Some(writer) })
    }

    /// Ends the capture; the first error of writing, if there was one.
    pub fn finish(mut self) -> io::Result<CaptureStats> {
        self.end()
    }

    fn end(&mut self) -> io::Result<CaptureStats> {
        let Some(writer) = self.writer.take() else { return Ok(CaptureStats::default()) };
        dev_remove_tap(&self.reg, &self.tap);
        synchronize_rcu();
        lock(&self.shared.queue).closed = true;
        self.shared.ready.notify_one();
        writer.join().unwrap_or_else(|_| Err(io::Error::other("the capture's writer has panicked")))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

impl Filter {
    fn wants(&self, net: &Net, dev: &NetDevice) -> bool {
        match self {
            Filter::All => true,
            Filter::Net(n) => std::ptr::eq(&**n, net),
            Filter::Device(d) => std::ptr::eq(&**d, dev),
        }
    }
}

impl Shared {
    fn push(&self, net: &Net, dev: &NetDevice, skb: &Skb) {
        let mut q = lock(&self.queue);
        if q.list.len() >= QUEUE_PACKETS || q.bytes + skb.len() > QUEUE_BYTES {
            q.dropped += 1;
            return;
        }
        let mut clone = skb.clone_skb();
        // A waiting record keeps nothing alive but the packet's bytes.
        clone.dev = None;
        clone.dst = None;
        q.bytes += clone.len();
        q.list.push_back(Record {
            dev: dev.weak(),
            name: dev.name.clone(),
            hard_header_len: dev.hard_header_len,
            time: net.kernel().arch().ktime_get_real(),
            outgoing: skb.pkt_type == PktType::Outgoing,
            skb: clone,
        });
        drop(q);
        self.ready.notify_one();
    }
}

struct Interface {
    /// Held so that its address stays its own.
    dev: Weak<NetDevice>,
    seen: u64,
}

struct Writer {
    out: BufWriter<Box<dyn Write + Send>>,
    interfaces: Vec<Interface>,
    written: u64,
    last: u64,
    block: Vec<u8>,
}

impl Writer {
    fn new(out: Box<dyn Write + Send>) -> Writer {
        let out = BufWriter::with_capacity(256 * 1024, out);
        Writer { out, interfaces: Vec::new(), written: 0, last: 0, block: Vec::new() }
    }

    /// The writer's thread. After an error it only empties the queue.
    fn run(mut self, shared: &Shared) -> io::Result<CaptureStats> {
        let mut result = self.section_header();
        loop {
            let (batch, closed, dropped) = take(shared);
            for r in batch {
                if result.is_ok() {
                    result = self.record(r);
                }
            }
            if result.is_ok() && closed {
                result = self.statistics(dropped);
            }
            // Nobody who looks at the file now should miss what has happened.
            if result.is_ok() {
                result = self.out.flush();
            }
            if closed {
                return result.map(|()| CaptureStats { written: self.written, dropped });
            }
        }
    }

    fn section_header(&mut self) -> io::Result<()> {
        self.begin(BLOCK_SHB);
        self.u32(BYTE_ORDER_MAGIC);
        // Version 1.0, of unknown length.
        self.u16(1);
        self.u16(0);
        self.u64(u64::MAX);
        self.option(SHB_USERAPPL, concat!("sockeye ", env!("CARGO_PKG_VERSION")).as_bytes());
        self.end()
    }

    fn record(&mut self, r: Record) -> io::Result<()> {
        let id = self.interface(&r)?;
        self.last = r.time;
        let header_len = r.hard_header_len;
        for skb in as_on_the_wire(r.skb, header_len) {
            self.packet(id, r.time, r.outgoing, &skb)?;
        }
        Ok(())
    }

    /// The number of the record's interface, described in the file when it is first seen.
    fn interface(&mut self, r: &Record) -> io::Result<u32> {
        let at = match self.interfaces.iter().position(|i| i.dev.ptr_eq(&r.dev)) {
            Some(at) => at,
            None => {
                self.begin(BLOCK_IDB);
                self.u16(if r.hard_header_len == 0 { LINKTYPE_RAW } else { LINKTYPE_ETHERNET });
                self.u16(0);
                self.u32(0);
                self.option(IF_NAME, r.name.as_bytes());
                self.option(IF_TSRESOL, &[9]);
                self.end()?;
                self.interfaces.push(Interface { dev: r.dev.clone(), seen: 0 });
                self.interfaces.len() - 1
            }
        };
        self.interfaces[at].seen += 1;
        Ok(at as u32)
    }

    fn packet(&mut self, interface: u32, time: u64, outgoing: bool, skb: &Skb) -> io::Result<()> {
        self.begin(BLOCK_EPB);
        self.u32(interface);
        self.time(time);
        self.u32(skb.len() as u32);
        self.u32(skb.len() as u32);
        for c in skb.chunks() {
            self.block.extend_from_slice(c);
        }
        self.pad();
        self.option(EPB_FLAGS, &if outgoing { OUTBOUND } else { INBOUND }.to_ne_bytes());
        self.written += 1;
        self.end()
    }

    /// Statistics of each interface; what was dropped is not known by interface, so the first one has it all.
    fn statistics(&mut self, dropped: u64) -> io::Result<()> {
        for id in 0..self.interfaces.len() {
            let drops = if id == 0 { dropped } else { 0 };
            self.begin(BLOCK_ISB);
            self.u32(id as u32);
            self.time(self.last);
            self.option(ISB_IFRECV, &(self.interfaces[id].seen + drops).to_ne_bytes());
            self.option(ISB_IFDROP, &drops.to_ne_bytes());
            self.end()?;
        }
        Ok(())
    }

    // --- The format: blocks of a type, a length, a body, options, and the length again ---

    fn begin(&mut self, kind: u32) {
        self.block.clear();
        self.u32(kind);
        self.u32(0);
    }

    fn end(&mut self) -> io::Result<()> {
        // Every block that is written here has options.
        self.u16(OPT_END);
        self.u16(0);
        let len = self.block.len() as u32 + 4;
        self.block[4..8].copy_from_slice(&len.to_ne_bytes());
        self.u32(len);
        self.out.write_all(&self.block)
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        self.u16(code);
        self.u16(value.len() as u16);
        self.block.extend_from_slice(value);
        self.pad();
    }

    fn pad(&mut self) {
        self.block.resize(self.block.len().next_multiple_of(4), 0);
    }

    fn u16(&mut self, v: u16) {
        self.block.extend_from_slice(&v.to_ne_bytes());
    }

    fn u32(&mut self, v: u32) {
        self.block.extend_from_slice(&v.to_ne_bytes());
    }

    fn u64(&mut self, v: u64) {
        self.block.extend_from_slice(&v.to_ne_bytes());
    }

    fn time(&mut self, t: u64) {
        self.u32((t >> 32) as u32);
        self.u32(t as u32);
    }
}

/// Waits for records; all there are, whether they are the last, and how many were dropped so far.
fn take(shared: &Shared) -> (VecDeque<Record>, bool, u64) {
    let mut q = lock(&shared.queue);
    while q.list.is_empty() && !q.closed {
        q = shared.ready.wait(q).unwrap_or_else(PoisonError::into_inner);
    }
    q.bytes = 0;
    (std::mem::take(&mut q.list), q.closed, q.dropped)
}

/// The frames that a wire would see of a packet. One that cannot be made so is shown as it is.
fn as_on_the_wire(mut skb: Box<Skb>, header_len: usize) -> Segments {
    skb.rewind_to_mac();
    skb.set_network_header(header_len);
    if skb.is_gso() {
        if let Some(transport) = transport_offset(&skb, header_len) {
            skb.set_transport_header(transport);
            let whole = skb.clone_skb();
            return skb_gso_segment(skb, false).unwrap_or_else(|_| Segments::from_iter([whole]));
        }
    } else if skb.ip_summed == IpSummed::Partial {
        let _ = skb_checksum_help(&mut skb);
    }
    Segments::from_iter([skb])
}

/// From the start of the frame; a GSO packet has no IPv6 extension headers that its checksum does not know of.
fn transport_offset(skb: &Skb, header_len: usize) -> Option<usize> {
    if skb.ip_summed == IpSummed::Partial {
        return Some(skb.checksum_start_offset());
    }
    match skb.protocol {
        ETH_P_IP => Some(header_len + (skb.data().get(header_len)? & 0xf) as usize * 4),
        ETH_P_IPV6 => Some(header_len + 40),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Host;
    use net::core::checksum::{csum_fold, csum_partial, csum_partial_seed, csum_pseudo};
    use net::core::dev::{dev_open, dev_queue_xmit};
    use net::core::skbuff::GsoType;
    use net::drivers::veth::veth_pair;
    use std::net::{IpAddr, Ipv4Addr};

    const A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
    const ETH: usize = 14;
    const TRANSPORT: usize = ETH + 20;
    const PAYLOAD: usize = TRANSPORT + 20;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, b: &[u8]) -> io::Result<usize> {
            lock(&self.0).extend_from_slice(b);
            Ok(b.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A TCP segment whose checksum is left to the device.
    fn segment(dev: &Arc<NetDevice>, payload: usize) -> Box<Skb> {
        let mut b = vec![0; PAYLOAD];
        b[..6].fill(0xff);
        b[12..14].copy_from_slice(&ETH_P_IP.to_be_bytes());
        b[ETH] = 0x45;
        b[ETH + 2..ETH + 4].copy_from_slice(&((40 + payload) as u16).to_be_bytes());
        b[ETH + 8] = 64;
        b[ETH + 9] = 6;
        b[ETH + 12..ETH + 20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        b[TRANSPORT + 12] = 5 << 4;
        b[TRANSPORT + 16..TRANSPORT + 18].copy_from_slice(&csum_partial_seed(A, B, 20 + payload, 6));
        let mut skb = Skb::from_bytes(64, &b);
        let bytes: Vec<u8> = (0..payload).map(|i| i as u8).collect();
        assert!(skb.add_frag(kernel::Frag::copy_of(&bytes)));
        skb.dev = Some(dev.clone());
        skb.protocol = ETH_P_IP;
        skb.set_network_header(ETH);
        skb.set_transport_header(TRANSPORT);
        skb.set_csum_partial(16);
        skb
    }

    fn word(b: &[u8], at: usize) -> u32 {
        u32::from_ne_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
    }

    /// Type and body of each block; checks that both lengths agree and that blocks fill the file.
    fn blocks(mut b: &[u8]) -> Vec<(u32, &[u8])> {
        let mut all = Vec::new();
        while !b.is_empty() {
            let len = word(b, 4) as usize;
            assert_eq!(word(b, len - 4) as usize, len);
            assert_eq!(len % 4, 0);
            all.push((word(b, 0), &b[8..len - 4]));
            b = &b[len..];
        }
        all
    }

    #[test]
    fn the_file_shows_what_a_wire_would_show() {
        let host = Host::start(1).unwrap();
        let reg = net::init::net_init(host.kernel());
        let (n1, n2) = (Net::new(&reg), Net::new(&reg));
        let (d1, d2) = veth_pair(&n1, "one", &n2, "two").unwrap();
        dev_open(&d1).unwrap();
        dev_open(&d2).unwrap();
        let out = Buffer::default();
        let capture = Capture::to_writer(&reg, Box::new(out.clone()), Filter::Device(d1.clone())).unwrap();
        {
            let _inside = host.kernel().enter();
            dev_queue_xmit(segment(&d1, 101)).unwrap();
            let mut big = segment(&d1, 2500);
            big.gso_size = 1000;
            big.gso_segs = 3;
            big.gso_type = GsoType::TCPV4;
            dev_queue_xmit(big).unwrap();
        }
        let stats = capture.finish().unwrap();
        let file = lock(&out.0).clone();
        let blocks = blocks(&file);
        let kinds: Vec<u32> = blocks.iter().map(|b| b.0).collect();
        let packets = kinds.iter().filter(|&&k| k == BLOCK_EPB).count();
        assert_eq!((stats.written as usize, stats.dropped), (packets, 0));
        assert_eq!(kinds[..2], [BLOCK_SHB, BLOCK_IDB]);
        assert_eq!(kinds.last(), Some(&BLOCK_ISB));
        let mut payloads = Vec::new();
        for (_, body) in blocks.iter().filter(|b| b.0 == BLOCK_EPB) {
            let len = word(body, 12) as usize;
            let frame = &body[20..20 + len];
            assert_eq!(word(body, body.len() - 8), OUTBOUND);
            if frame[ETH + 9] != 6 || frame[12..14] != ETH_P_IP.to_be_bytes() {
                continue;
            }
            let sum = csum_pseudo(A, B, len - TRANSPORT, 6, csum_partial(&frame[TRANSPORT..], 0));
            assert_eq!(csum_fold(sum), [0, 0], "a frame of {len} bytes");
            payloads.push(len - PAYLOAD);
        }
        assert_eq!(payloads, [101, 1000, 1000, 500]);
    }

    #[test]
    fn what_does_not_fit_the_queue_is_counted() {
        let host = Host::start(1).unwrap();
        let reg = net::init::net_init(host.kernel());
        let net = Net::new(&reg);
        let (d1, _d2) = veth_pair(&net, "one", &net, "two").unwrap();
        let shared = Shared::default();
        for _ in 0..QUEUE_PACKETS + 3 {
            shared.push(&net, &d1, &segment(&d1, 1));
        }
        assert_eq!(take(&shared).2, 3);
    }
}
