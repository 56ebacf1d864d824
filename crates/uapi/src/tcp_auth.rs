//! Structures of the socket options for TCP-MD5 and TCP-AO.
//!
//! Interface: [`TcpMd5sig`], [`TcpAoAdd`], [`TcpAoDel`], [`TcpAoInfoOpt`], [`TcpAoGetsockopt`], their constants.
//! Linux counterpart: `include/uapi/linux/tcp.h`.
//! Locks and context: plain data. Bit fields are one number, the first field in its lowest bit.

pub use libc::TCP_MD5SIG;
pub const TCP_MD5SIG_EXT: i32 = 32;
pub const TCP_AO_ADD_KEY: i32 = 38;
pub const TCP_AO_DEL_KEY: i32 = 39;
pub const TCP_AO_INFO: i32 = 40;
pub const TCP_AO_GET_KEYS: i32 = 41;
pub const TCP_AO_REPAIR: i32 = 42;
pub const TCP_MD5SIG_FLAG_PREFIX: u8 = 1;
pub const TCP_MD5SIG_FLAG_IFINDEX: u8 = 2;

/// A field of a C structure, to and from bytes.
trait Field: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn take(b: &mut &[u8]) -> Option<Self>;
}

macro_rules! numbers {
    ($($t:ty)*) => { $(impl Field for $t {
        fn put(&self, out: &mut Vec<u8>) {
            out.extend_from_slice(&self.to_ne_bytes());
        }
        fn take(b: &mut &[u8]) -> Option<Self> {
            let (v, rest) = b.split_first_chunk()?;
            *b = rest;
            Some(<$t>::from_ne_bytes(*v))
        }
    })* };
}
numbers! { u8 u16 u32 i32 u64 }

impl<T: Field + Copy + Default, const N: usize> Field for [T; N] {
    fn put(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|v| v.put(out));
    }
    fn take(b: &mut &[u8]) -> Option<Self> {
        let mut a = [T::default(); N];
        for v in &mut a {
            *v = T::take(b)?;
        }
        Some(a)
    }
}

macro_rules! c_struct {
    ($(#[$m:meta])* $name:ident, $len:literal { $($(#[$fm:meta])* $f:ident: $t:ty,)* }) => {
        $(#[$m])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name { $($(#[$fm])* pub $f: $t,)* }

        impl $name {
            /// Bytes of the C structure, padding at its end included.
            pub const LEN: usize = $len;

            /// `None` for too few bytes.
            pub fn from_bytes(b: &[u8]) -> Option<$name> {
                let mut b = b.get(..Self::LEN)?;
                Some($name { $($f: Field::take(&mut b)?,)* })
            }

            pub fn to_bytes(&self) -> Vec<u8> {
                let mut v = Vec::with_capacity(Self::LEN);
                $(self.$f.put(&mut v);)*
                v.resize(Self::LEN, 0);
                v
            }
        }
    };
}

c_struct! {
    /// `struct tcp_md5sig`.
    TcpMd5sig, 216 {
        addr: [u8; 128],
        flags: u8,
        prefixlen: u8,
        keylen: u16,
        ifindex: i32,
        key: [u8; 80],
    }
}

c_struct! {
    /// `struct tcp_ao_add`.
    TcpAoAdd, 288 {
        addr: [u8; 128],
        alg_name: [u8; 64],
        ifindex: i32,
        /// `set_current`, `set_rnext`.
        bits: u32,
        reserved2: u16,
        prefix: u8,
        sndid: u8,
        rcvid: u8,
        maclen: u8,
        keyflags: u8,
        keylen: u8,
        key: [u8; 80],
    }
}

c_struct! {
    /// `struct tcp_ao_del`.
    TcpAoDel, 144 {
        addr: [u8; 128],
        ifindex: i32,
        /// `set_current`, `set_rnext`, `del_async`.
        bits: u32,
        reserved2: u16,
        prefix: u8,
        sndid: u8,
        rcvid: u8,
        current_key: u8,
        rnext: u8,
        keyflags: u8,
    }
}

c_struct! {
    /// `struct tcp_ao_info_opt`.
    TcpAoInfoOpt, 48 {
        /// `set_current`, `set_rnext`, `ao_required`, `set_counters`, `accept_icmps`.
        bits: u32,
        reserved2: u16,
        current_key: u8,
        rnext: u8,
        /// Good, bad, key not found, required, ICMP errors dropped.
        counters: [u64; 5],
    }
}

c_struct! {
    /// `struct tcp_ao_getsockopt`.
    TcpAoGetsockopt, 304 {
        addr: [u8; 128],
        alg_name: [u8; 64],
        key: [u8; 80],
        nkeys: u32,
        /// `is_current`, `is_rnext`, `get_all`.
        bits: u16,
        sndid: u8,
        rcvid: u8,
        prefix: u8,
        maclen: u8,
        keyflags: u8,
        keylen: u8,
        ifindex: i32,
        pkt_good: u64,
        pkt_bad: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_as_long_as_their_fields() {
        let b = [7; 304];
        assert_eq!(TcpMd5sig::from_bytes(&b).unwrap().to_bytes(), b[..216]);
        assert_eq!(TcpAoAdd::from_bytes(&b).unwrap().to_bytes(), b[..288]);
        assert_eq!(TcpAoDel::from_bytes(&b).unwrap().to_bytes(), b[..144]);
        assert_eq!(TcpAoInfoOpt::from_bytes(&b).unwrap().to_bytes(), b[..48]);
        assert_eq!(TcpAoGetsockopt::from_bytes(&b).unwrap().to_bytes(), b);
        assert!(TcpMd5sig::from_bytes(&b[..215]).is_none());
    }
}
