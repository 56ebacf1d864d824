//! Random segments to sockets in every state: no panic, and nothing left in the end.
//!
//! Interface: `cargo xtask fuzz tcp_states`.
//! Linux counterpart: syzkaller.
//! Locks and context: one thread; every case has a stack and a clock of its own. CI plays the same game for some seconds.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/net/tests/hostile/mod.rs"]
#[allow(dead_code)]
mod hostile;

fuzz_target!(|case: &[u8]| hostile::states::play(case));
