//! The hooks in the packet's path.
//!
//! Interface: [`NfHooks`], [`Verdict`], [`HookPoint`].
//! Linux counterpart: `net/netfilter/core.c`; `NF_QUEUE` and reinjection.
//! Locks and context: hooks run in the packet's context, under RCU.

use crate::core::net_namespace::Net;
use crate::core::skbuff::Skb;
use kernel::{Rcu, rcu_read_lock};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::*};

/// Where a hook sits (`NF_INET_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HookPoint {
    PreRouting = 0,
    LocalIn = 1,
    Forward = 2,
    LocalOut = 3,
    PostRouting = 4,
}

/// What a hook decides.
pub enum Verdict {
    /// Go on.
    Accept(Box<Skb>),
    /// Gone: dropped, or kept by the hook to be handed on later (`NF_DROP`, `NF_STOLEN`).
    Stolen,
}

type Hook = Box<dyn Fn(&Arc<Net>, Box<Skb>) -> Verdict + Send + Sync>;

/// A namespace's hooks: at most one each place for now, replaced whole.
#[derive(Default)]
pub struct NfHooks {
    hooks: [Rcu<Hook>; 5],
    /// A bit for each place that has one (`nf_hook_entries` being null in Linux, or its static key).
    set: AtomicU8,
}

impl NfHooks {
    /// Sets or clears the hook of a place.
    pub fn set(&self, at: HookPoint, hook: Option<Hook>) {
        let (bit, on) = (1 << at as u8, hook.is_some());
        if !on {
            self.set.fetch_and(!bit, Release);
        }
        self.hooks[at as usize].assign(hook.map(Arc::new));
        if on {
            self.set.fetch_or(bit, Release);
        }
    }

    /// `NF_HOOK`: the packet if it is to go on. `data` is at the network header.
    #[inline]
    pub fn run(&self, at: HookPoint, net: &Arc<Net>, skb: Box<Skb>) -> Option<Box<Skb>> {
        if self.set.load(Acquire) & 1 << at as u8 == 0 {
            return Some(skb);
        }
        self.run_hook(at, net, skb)
    }

    fn run_hook(&self, at: HookPoint, net: &Arc<Net>, skb: Box<Skb>) -> Option<Box<Skb>> {
        let section = rcu_read_lock();
        match self.hooks[at as usize].dereference(&section) {
            None => Some(skb),
            Some(hook) => match hook(net, skb) {
                Verdict::Accept(skb) => Some(skb),
                Verdict::Stolen => None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::test_arch::TestMachine;
    use std::sync::Mutex;

    #[test]
    fn a_hook_passes_changes_or_keeps() {
        let net = Net::new(&TestMachine::new().core_registries());
        let through = |n| net.nf.run(HookPoint::Forward, &net, Skb::from_bytes(0, &[n])).map(|s| s.data()[0]);
        assert_eq!(through(1), Some(1), "no hook, no opinion");
        let kept = Arc::new(Mutex::new(Vec::new()));
        let to = kept.clone();
        let hook = move |_: &Arc<Net>, mut skb: Box<Skb>| match skb.data()[0] {
            0 => {
                to.lock().expect("lock").push(skb);
                Verdict::Stolen
            }
            _ => {
                skb.data_mut()[0] += 1;
                Verdict::Accept(skb)
            }
        };
        net.nf.set(HookPoint::Forward, Some(Box::new(hook)));
        assert_eq!((through(0), through(1)), (None, Some(2)));
        assert_eq!(kept.lock().expect("lock").len(), 1);
        // The other places are not concerned, and a hook that is taken away is gone.
        assert!(net.nf.run(HookPoint::LocalIn, &net, Skb::from_bytes(0, &[0])).is_some());
        net.nf.set(HookPoint::Forward, None);
        assert_eq!(through(0), Some(0));
    }
}
