//! Random stories of one connection, as the kernel told them once: sockeye tells them the same.
//!
//! Interface: tests. tests/stories holds a record for each seed, which `cargo xtask stories FROM TO DIR` makes of new ones.
//! Linux counterpart: Linux itself, 6.18.
//! Locks and context: virtual time.

use sockeye_packetdrill::runner::recorded;
use std::path::Path;

#[test]
fn stories_are_as_the_kernel_told_them() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/stories");
    let (mut told, mut wrong) = (0, String::new());
    for file in std::fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        let seed =
            path.file_stem().and_then(|s| s.to_str()?.parse().ok()).unwrap_or_else(|| panic!("{path:?}: a seed"));
        let (want, got) = (std::fs::read_to_string(&path).unwrap(), recorded(seed).unwrap());
        told += 1;
        let (mut want, mut got) = (want.lines(), got.lines());
        loop {
            match (want.next(), got.next()) {
                (None, None) => break,
                (w, g) if w == g => {}
                (w, g) => {
                    wrong +=
                        &format!("seed {seed}:\n  kernel:  {}\n  sockeye: {}\n", w.unwrap_or("-"), g.unwrap_or("-"));
                    break;
                }
            }
        }
    }
    assert!(told >= 30, "where are the stories?");
    assert!(wrong.is_empty(), "{wrong}");
}
