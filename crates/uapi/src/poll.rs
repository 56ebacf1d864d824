//! Poll masks.
//!
//! Interface: [`Poll`], the set of `EPOLL*`/`POLL*` bits (they share values on Linux).
//! Linux counterpart: `include/uapi/linux/eventpoll.h`.
//! Locks and context: plain data.

bitflags::bitflags! {
    /// What a socket is ready for, with the bit values of `poll(2)` and `epoll(7)`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Poll: u32 {
        const IN = 0x001;
        const PRI = 0x002;
        const OUT = 0x004;
        const ERR = 0x008;
        const HUP = 0x010;
        const NVAL = 0x020;
        const RDNORM = 0x040;
        const RDBAND = 0x080;
        const WRNORM = 0x100;
        const WRBAND = 0x200;
        const RDHUP = 0x2000;
    }
}
