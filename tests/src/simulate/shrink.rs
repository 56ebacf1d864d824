//! The smallest scenario that still fails.
//!
//! Interface: [`shrink`].
//! Linux counterpart: none; delta debugging (Zeller and Hildebrandt 2002).
//! Locks and context: pure, but for what it is given to try.

use crate::simulate::scenario::{Plan, Scenario};

/// Leaves parts of `plan` out for as long as `fails` says that it still fails; asks it no more than `tries` times.
pub fn shrink(plan: &Plan, tries: usize, mut fails: impl FnMut(&Plan) -> bool) -> Plan {
    let s = Scenario::new(plan);
    let mut best = Plan {
        talks: Some(s.talks.iter().map(|t| t.id).collect()),
        faults: Some(s.faults.iter().map(|f| f.id).collect()),
        ..plan.clone()
    };
    let mut left = tries;
    let mut try_it = |p: &Plan| {
        left > 0 && {
            left -= 1;
            fails(p)
        }
    };
    // Most failures need no faults at all, or no preemption.
    let without = [Plan { faults: Some(Vec::new()), ..best.clone() }, Plan { preempt: None, ..best.clone() }];
    for p in without {
        if p != best && try_it(&p) {
            best = p;
        }
    }
    loop {
        let before = best.clone();
        let talks = best.talks.clone().unwrap_or_default();
        best.talks = Some(minimal(talks, |t| try_it(&Plan { talks: Some(t.to_vec()), ..best.clone() })));
        let faults = best.faults.clone().unwrap_or_default();
        best.faults = Some(minimal(faults, |f| try_it(&Plan { faults: Some(f.to_vec()), ..best.clone() })));
        if best == before {
            return best;
        }
    }
}

/// `ddmin`, by complements: drops halves, then quarters, and so on, of the list.
fn minimal(mut list: Vec<u32>, mut fails: impl FnMut(&[u32]) -> bool) -> Vec<u32> {
    let mut parts = 2;
    while !list.is_empty() {
        let size = list.len().div_ceil(parts);
        let without = |i: usize| -> Vec<u32> {
            list.iter().enumerate().filter(|(n, _)| n / size != i).map(|(_, x)| *x).collect()
        };
        match (0..list.len().div_ceil(size)).map(without).find(|l| fails(l)) {
            Some(smaller) => {
                list = smaller;
                parts = (parts - 1).max(2);
            }
            None if size == 1 => break,
            None => parts = (parts * 2).min(list.len()),
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_matter_goes() {
        let plan = Plan::new(1, 20, 60);
        let needed = |p: &Plan| {
            let has = |l: &Option<Vec<u32>>, x| l.as_ref().is_some_and(|l| l.contains(&x));
            has(&p.talks, 7) && has(&p.talks, 63) && has(&p.faults, 3)
        };
        let p = shrink(&plan, 1000, needed);
        assert_eq!((p.talks, p.faults), (Some(vec![7, 63]), Some(vec![3])));
        // It never answers something that does not fail.
        for tries in 0..40 {
            assert!(needed(&shrink(&plan, tries, needed)));
        }
    }
}
