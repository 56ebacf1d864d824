//! What TCP and UDP sockets share: addresses, ports, IP options of the socket.
//!
//! Interface: `InetSock`.
//! Linux counterpart: `include/net/inet_sock.h`, `net/ipv4/ip_sockglue.c`.
//! Locks and context: under the socket lock.
