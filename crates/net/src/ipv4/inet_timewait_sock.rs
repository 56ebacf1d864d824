//! The light entry in place of a closed connection.
//!
//! Interface: `InetTimewaitSock`.
//! Linux counterpart: `net/ipv4/inet_timewait_sock.c`.
//! Locks and context: softirq context.
