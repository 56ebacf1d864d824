//! TCP's state of one connection.
//!
//! Interface: `TcpSock`, `tcp_sk`.
//! Linux counterpart: `include/linux/tcp.h`, `include/net/inet_connection_sock.h`.
//! Locks and context: under the socket lock.
