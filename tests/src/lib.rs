//! Shared helpers of the whole-system tests.
//!
//! Interface: to come.
//! Linux counterpart: `tools/testing/selftests/kselftest_harness.h`.
//! Locks and context: none.
