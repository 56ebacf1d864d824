//! The TAP driver: an Ethernet device whose other end is an interface of this machine's kernel.
//!
//! Interface: [`open`].
//! Linux counterpart: `drivers/net/virtio_net.c` in purpose, the user of `drivers/net/tun.c`.
//! Locks and context: transmit in any context with softirqs off, a `writev` a packet; receive in a NAPI poll.
//!
//! Checksums and segmentation are left to whoever needs them, both ways, so a packet of 64 KiB crosses with one system
//! call. On receive its headers are copied into the linear part and its payload stays where the kernel wrote it.

use crate::host::Host;
use crate::tun::{TapError, attach};
use crate::vnet_hdr::{VNET_HDR_LEN, VnetHdr};
use crate::worker::{IrqHandle, Ready, lock};
use kernel::PageMut;
use net::core::dev::*;
use net::core::eth::{eth_get_headlen, eth_random_addr, eth_type_trans};
use net::core::net_namespace::Net;
use net::core::skbuff::{MAX_SKB_FRAGS, Skb};
use rustix::io::{Errno, readv, writev};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, Weak};

const ETH_HLEN: usize = 14;
const ETH_DATA_LEN: u32 = 1500;
/// Frames up to this size are copied whole (`rx_copybreak`): sharing their page would cost more.
const COPYBREAK: usize = 256;
/// Room in front of a received packet, for a longer header should it be forwarded (`NET_SKB_PAD`).
const NET_SKB_PAD: usize = 64;
/// A frame that is not a GSO packet fits.
const SMALL: usize = 2048;
/// A GSO packet fits.
const BIG: usize = 68 * 1024;

struct TapDriver(Arc<Tap>);

struct Tap {
    fd: Arc<OwnedFd>,
    host: Weak<Host>,
    /// While the device is up.
    up: Mutex<Option<Up>>,
    rx: Mutex<RxBuffers>,
}

struct Up {
    irq: Arc<IrqHandle>,
    napi: Arc<NapiStruct>,
}

/// Adds the existing TAP device `ifname` of this thread's network namespace to `net` as `eth%d`, down, with the MAC address
/// `mac` or a random one.
pub fn open(host: &Arc<Host>, net: &Arc<Net>, ifname: &str, mac: Option<[u8; 6]>) -> Result<Arc<NetDevice>, TapError> {
    let (fd, uso) = attach(ifname)?;
    let tap = Tap {
        fd: Arc::new(fd),
        host: Arc::downgrade(host),
        up: Mutex::new(None),
        rx: Mutex::new(RxBuffers::default()),
    };
    let mut features =
        Features::HW_CSUM | Features::SG | Features::TSO | Features::TSO6 | Features::RXCSUM | Features::GRO;
    features.set(Features::GSO_UDP_L4, uso);
    let spec = NetDeviceSpec {
        name: "eth%d".to_owned(),
        addr: mac.unwrap_or_else(|| eth_random_addr(host.kernel().random())),
        mtu: ETH_DATA_LEN,
        flags: Iff::BROADCAST | Iff::MULTICAST,
        hard_header_len: ETH_HLEN,
        features,
        ops: Box::new(TapDriver(Arc::new(tap))),
    };
    register_netdevice(net, spec).map_err(|error| TapError::Register { name: ifname.to_owned(), error })
}

impl NetDeviceOps for TapDriver {
    fn ndo_open(&self, dev: &Arc<NetDevice>) -> uapi::Result<()> {
        let tap = &self.0;
        let host = tap.host.upgrade().ok_or(uapi::Errno::ENODEV)?;
        let weak = Arc::downgrade(tap);
        let poll = move |napi: &Arc<NapiStruct>, budget| match weak.upgrade() {
            Some(tap) => tap.poll(napi, budget),
            None => {
                napi_complete_done(napi, 0);
                0
            }
        };
        let napi = netif_napi_add(dev, 64, Box::new(poll));
        let (weak_napi, weak_dev) = (Arc::downgrade(&napi), dev.weak());
        let top_half = move |ready: Ready| {
            if ready.readable
                && let Some(napi) = weak_napi.upgrade()
            {
                napi_schedule(&napi);
            }
            if ready.writable
                && let Some(dev) = weak_dev.upgrade()
            {
                netif_wake_queue(&dev);
            }
        };
        let irq = host.request_irq(tap.fd.clone(), top_half).map_err(|e| uapi::Errno::from_io(&e))?;
        let irq = Arc::new(irq);
        *lock(&tap.up) = Some(Up { irq: irq.clone(), napi });
        irq.enable(Ready::READABLE);
        Ok(())
    }

    fn ndo_stop(&self, _dev: &Arc<NetDevice>) {
        // The poll that is waited for takes the lock as well.
        let up = lock(&self.0.up).take();
        if let Some(up) = up {
            napi_disable(&up.napi);
        }
    }

    fn ndo_start_xmit(&self, dev: &Arc<NetDevice>, skb: Box<Skb>) -> NetdevTx {
        match self.0.write(&skb) {
            Ok(_) => NetdevTx::Ok,
            Err(Errno::AGAIN) => {
                if let Some(irq) = self.0.irq() {
                    irq.enable(Ready::WRITABLE);
                }
                NetdevTx::Busy(skb)
            }
            // The kernel's end is down (`EIO`), or out of memory: the packet is lost, as on a wire without a plug.
            Err(_) => {
                dev.stats.tx_dropped.fetch_add(1, Relaxed);
                NetdevTx::Ok
            }
        }
    }
}

impl Tap {
    fn irq(&self) -> Option<Arc<IrqHandle>> {
        lock(&self.up).as_ref().map(|up| up.irq.clone())
    }

    /// Header, linear part and fragments, with one system call and no copy on this side.
    fn write(&self, skb: &Skb) -> rustix::io::Result<usize> {
        let hdr = VnetHdr::of(skb).to_bytes();
        let mut iov = [IoSlice::new(&[]); MAX_SKB_FRAGS + 2];
        iov[0] = IoSlice::new(&hdr);
        let mut n = 1;
        for (to, chunk) in iov[1..].iter_mut().zip(skb.chunks()) {
            *to = IoSlice::new(chunk);
            n += 1;
        }
        retry(|| writev(&*self.fd, &iov[..n]))
    }

    /// The NAPI poll.
    fn poll(&self, napi: &Arc<NapiStruct>, budget: usize) -> usize {
        let dev = &napi.dev;
        let mut rx = lock(&self.rx);
        for work in 0..budget {
            match rx.receive(&self.fd) {
                Ok(Some(mut skb)) => {
                    eth_type_trans(&mut skb, dev);
                    napi_gro_receive(napi, skb);
                }
                Ok(None) => {
                    dev.stats.rx_errors.fetch_add(1, Relaxed);
                }
                Err(e) => {
                    drop(rx);
                    self.ring_is_empty(napi, work, e);
                    return work;
                }
            }
        }
        budget
    }

    fn ring_is_empty(&self, napi: &Arc<NapiStruct>, work: usize, e: Errno) {
        // Another error than "empty" lasts (the device is gone): with the interrupt left masked nothing spins.
        if napi_complete_done(napi, work)
            && e == Errno::AGAIN
            && let Some(irq) = self.irq()
        {
            irq.enable(Ready::READABLE);
        }
    }
}

fn retry<T>(mut f: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match f() {
            Err(Errno::INTR) => {}
            r => return r,
        }
    }
}

/// Where the next frame will be written: `small`, and what does not fit there into `big`, then `spare`.
struct RxBuffers {
    small: PageMut,
    big: PageMut,
    spare: PageMut,
}

impl Default for RxBuffers {
    fn default() -> Self {
        RxBuffers { small: PageMut::alloc(SMALL), big: PageMut::alloc(BIG), spare: PageMut::alloc(BIG) }
    }
}

impl RxBuffers {
    /// One frame off the device; `None` for one that makes no sense, `EAGAIN` when there is none.
    fn receive(&mut self, fd: &OwnedFd) -> rustix::io::Result<Option<Box<Skb>>> {
        let mut hdr = [0; VNET_HDR_LEN];
        let n = {
            let mut iov = [
                IoSliceMut::new(&mut hdr),
                IoSliceMut::new(self.small.as_mut_slice()),
                IoSliceMut::new(self.big.as_mut_slice()),
                IoSliceMut::new(self.spare.as_mut_slice()),
            ];
            retry(|| readv(fd, &mut iov))?
        };
        let Some(len) = n.checked_sub(VNET_HDR_LEN).filter(|&len| len >= ETH_HLEN) else { return Ok(None) };
        let mut skb = self.build(len);
        let sane = VnetHdr::from_bytes(&hdr).apply(&mut skb);
        Ok(sane.then_some(skb))
    }

    /// The packet of the `len` bytes that have just been written.
    fn build(&mut self, len: usize) -> Box<Skb> {
        let front = &self.small.as_slice()[..len.min(self.small.len())];
        let linear = if len <= COPYBREAK { len } else { eth_get_headlen(front).clamp(ETH_HLEN, front.len()) };
        let mut skb = Skb::from_bytes(NET_SKB_PAD, &front[..linear]);
        if linear == len {
            return skb;
        }
        let mut first = self.small.freeze(len);
        let mut left = len - first.len();
        first.advance(linear);
        self.small = PageMut::alloc(SMALL);
        skb.add_frag(first);
        while left > 0 {
            let f = self.big.freeze(left);
            left -= f.len();
            skb.add_frag(f);
            if self.big.is_empty() {
                self.big = std::mem::replace(&mut self.spare, PageMut::alloc(BIG));
            }
        }
        skb
    }
}
