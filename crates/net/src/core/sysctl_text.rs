//! Tunables as text, as `/proc/sys` shows them.
//!
//! Interface: [`sysctl_get`], [`sysctl_set`].
//! Linux counterpart: `proc_dointvec`, `proc_dostring`.
//! Locks and context: process context.

use crate::core::net_namespace::{Net, StringSysctl};
use crate::core::sysctl::NetSysctl;
use uapi::{Errno, Result};

/// The parts of a tunable that has several numbers.
const PARTS: [&str; 3] = ["min", "default", "max"];

fn string_sysctl(net: &Net, name: &str) -> Option<StringSysctl> {
    net.reg.string_sysctls.lock_bh().iter().find(|s| s.name == name).copied()
}

/// The dotted names of a tunable's numbers: its own, or those of its parts.
fn numbers(net: &Net, name: &str) -> Vec<String> {
    if net.sysctl.by_name(name).is_some() {
        return vec![name.to_owned()];
    }
    let parts = PARTS.iter().map(|p| format!("{name}.{p}"));
    parts.filter(|p| net.sysctl.by_name(p).is_some()).collect()
}

/// The value of a dotted name; `ENOENT` if there is none. Several numbers are separated by tabs.
pub fn sysctl_get(net: &Net, name: &str) -> Result<String> {
    if let Some(s) = string_sysctl(net, name) {
        return Ok((s.get)(net));
    }
    if NetSysctl::TEXTS.contains(&name) {
        return net.sysctl.get_str(name);
    }
    let parts = numbers(net, name);
    if parts.is_empty() {
        return Err(Errno::ENOENT);
    }
    let values: Result<Vec<String>> = parts.iter().map(|p| Ok(net.sysctl.get(p)?.to_string())).collect();
    Ok(values?.join("\t"))
}

/// Sets it; numbers are separated by blanks, and those that are not given stay. `ENOENT` for an unknown name, `EINVAL` for
/// what is no number, too many of them, or outside the bounds; what a text tunable answers.
pub fn sysctl_set(net: &Net, name: &str, value: &str) -> Result<()> {
    if let Some(s) = string_sysctl(net, name) {
        return (s.set)(net, value);
    }
    if NetSysctl::TEXTS.contains(&name) {
        return net.sysctl.set_str(name, value);
    }
    let parts = numbers(net, name);
    let given: Vec<&str> = value.split_whitespace().collect();
    if parts.is_empty() {
        return Err(Errno::ENOENT);
    }
    if given.is_empty() || given.len() > parts.len() {
        return Err(Errno::EINVAL);
    }
    for (part, v) in parts.iter().zip(given) {
        net.sysctl.set(part, v.parse().map_err(|_| Errno::EINVAL)?)?;
    }
    Ok(())
}
