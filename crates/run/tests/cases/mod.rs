//! The cases, by what they are about.
//!
//! Interface: [`ALL`].
//! Linux counterpart: none.
//! Locks and context: a program under the supervisor.

mod descriptors;
mod os;
mod signals;
mod tcp;
mod udp;

use crate::Case;
pub use os::{OUTSIDE, identity};

pub const ALL: &[Case] = &[
    ("udp_tells_where_a_datagram_came_from", udp::source),
    ("udp_keeps_boundaries_and_empty_datagrams", udp::boundaries),
    ("udp_is_readable_as_long_as_there_is_a_datagram", udp::readiness),
    ("udp_peeks_and_tells_a_cut_datagram", udp::peek_and_truncate),
    ("udp_many_messages_in_one_call", udp::many),
    ("udp_receive_timeout", udp::timeout),
    ("udp_refused_is_told_to_a_connected_socket", udp::refused),
    ("udp_blocked_receiver_is_woken", udp::blocked),
    ("tcp_echo", tcp::echo),
    ("tcp_bulk_both_ways", tcp::bulk),
    ("tcp_ipv6", tcp::ipv6),
    ("tcp_half_close", tcp::half_close),
    ("tcp_close_is_an_end_of_data", tcp::close),
    ("tcp_both_directions_shut_is_not_a_close", tcp::both_shut),
    ("tcp_reset_comes_after_queued_data", tcp::reset_after_data),
    ("tcp_close_with_unread_data_resets", tcp::unread),
    ("tcp_linger_0_resets", tcp::linger_0),
    ("tcp_refused", tcp::refused),
    ("tcp_nonblocking_connect_with_edge_triggered_epoll", tcp::nonblocking),
    ("tcp_nonblocking_refused", tcp::nonblocking_refused),
    ("tcp_connects_again_after_a_failure", tcp::again),
    ("tcp_listener_is_readable_while_connections_wait", tcp::listener_readiness),
    ("tcp_edge_per_connection", tcp::listener_edges),
    ("tcp_accept_timeout", tcp::accept_timeout),
    ("tcp_shutdown_of_a_listener_wakes_accept", tcp::listener_shutdown),
    ("tcp_closed_port_can_be_bound_at_once", tcp::bind_after_close),
    ("tcp_receive_timeout", tcp::receive_timeout),
    ("tcp_options_are_the_stacks", tcp::options),
    ("tcp_unread_and_unsent_counts", tcp::counts),
    ("tcp_reset_before_accept", tcp::reset_before_accept),
    ("tcp_msg_trunc_discards", tcp::discard),
    ("tcp_sendto_with_an_address", tcp::address_on_a_stream),
    ("calls_survive_a_storm_of_signals", signals::storm),
    ("a_signal_interrupts_accept", signals::accept_interrupted),
    ("descriptors_survive_dup_and_fork", descriptors::dup_and_fork),
    ("fork_after_accept", descriptors::fork_after_accept),
    ("two_processes_accept_from_one_listener", descriptors::shared_listener),
    ("descriptors_are_passed_over_unix_sockets", descriptors::passed),
    ("descriptors_close_on_exec", descriptors::cloexec),
    ("sendfile_and_writev", descriptors::sendfile),
    ("families_that_do_not_exist", os::families),
    ("io_uring_is_not_there", os::io_uring),
    ("unix_sockets_are_the_hosts", os::unix),
    ("limits_and_identity_are_the_users", os::limits),
];
