//! What `nmap -O` takes a stack on a TAP device for.

use sockeye::TcpListener;
use sockeye_tests::{TapSide, netns_test, run};

netns_test! {
    /// Initial sequence numbers, identifications, options, windows and what closed ports answer are a recent Linux's.
    #[ignore = "its verdict has not been seen yet: run it by hand"]
    fn nmap_takes_it_for_a_recent_linux() {
        let side = TapSide::new();
        let _open = TcpListener::bind(&side.stack, (TapSide::STACK4, 80)).expect("listen");
        let said = run("nmap", &["-O", "-d", "-n", "-Pn", "-p", "80,81", TapSide::STACK4]);
        let guess = said.lines().find(|l| l.starts_with("OS details:")).unwrap_or_else(|| panic!("no match: {said}"));
        let recent = ["Linux 4.15", "Linux 5.", "Linux 6.", "Linux 7."];
        assert!(recent.iter().any(|v| guess.contains(v)), "{guess}: {said}");
    }
}
