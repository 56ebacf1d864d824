//! What a script says.
//!
//! Interface: [`Script`], [`Event`], [`When`], [`What`], [`Expr`], [`Call`], [`PacketSpec`], [`Icmp`], [`Opt`].
//! Linux counterpart: packetdrill's grammar, the part of it that our scripts use.
//! Locks and context: plain data.

/// When an event is to happen, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Any,
    /// After the start.
    At(i64),
    /// After the event before.
    After(i64),
    Between(i64, i64),
    AfterBetween(i64, i64),
}

#[derive(Debug)]
pub struct Event {
    pub line: usize,
    pub when: When,
    pub what: What,
}

#[derive(Debug)]
pub enum What {
    In(PacketSpec),
    InIcmp(Icmp),
    Out(PacketSpec),
    Call(Call),
    /// Between backquotes.
    Command(String),
    /// Between `%{` and `}%`.
    Code(String),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    Int(i64),
    Str(String),
    /// `...`
    Any,
    List(Vec<Expr>),
    Struct(Vec<(String, Expr)>),
}

#[derive(Clone, Debug)]
pub struct Call {
    pub name: String,
    pub args: Vec<Expr>,
    pub result: i64,
    pub errno: Option<i64>,
    /// The call blocks, and ends then: microseconds, after the start or (`relative`) after it began.
    pub ends: Option<i64>,
    pub ends_relative: bool,
}

/// A TCP option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opt {
    Nop,
    Eol,
    Mss(u16),
    Wscale(u8),
    SackOk,
    Sack(Vec<(u32, u32)>),
    Ts(u32, u32),
    /// RFC 7413; with the experimental kind (RFC 6994) if `true`.
    Fo(Vec<u8>, bool),
    Other(u8, Vec<u8>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketSpec {
    /// The two ECN bits, if given.
    pub ecn: Option<u8>,
    /// Including AE (bit 8).
    pub flags: u16,
    pub seq: u32,
    pub len: u32,
    pub ack: Option<u32>,
    pub win: Option<u16>,
    pub urg: Option<u16>,
    /// `None`: whatever there is.
    pub opts: Option<Vec<Opt>>,
}

/// An ICMP error about a segment.
#[derive(Clone, Debug)]
pub struct Icmp {
    pub kind: String,
    pub code: String,
    pub mtu: u32,
    /// The first byte of the segment that it is about.
    pub seq: u32,
}

#[derive(Debug, Default)]
pub struct Script {
    pub events: Vec<Event>,
    /// Before the first event.
    pub init: Vec<(usize, String)>,
    /// `--name=value`.
    pub options: Vec<(String, String)>,
}
