//! Listening, accepting, port choice, connection requests.
//!
//! Interface: `inet_csk_accept`, `inet_csk_get_port`, `RequestSock`.
//! Linux counterpart: `net/ipv4/inet_connection_sock.c`.
//! Locks and context: each function says its own.
