//! Loopback addresses and ports of a test's own.

#![allow(dead_code, unreachable_pub, reason = "each test file includes this and uses its part")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

/// An address of 127.0.0.0/8 that no other test uses at the same time: it has the process id and a number in it.
pub fn address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let [_, _, high, low] = process::id().to_be_bytes();
    // 127.0.x.y is where other programs of the machine are.
    Ipv4Addr::new(127, 16 + (number % 200) as u8, high, low)
}

/// An address with a port that is free for UDP and TCP. Sockets that leave the source address to the kernel get
/// 127.0.0.1, so that nothing takes the port before the caller does.
pub fn free() -> SocketAddr {
    free_at(address())
}

/// The same at this address.
pub fn free_at(address: Ipv4Addr) -> SocketAddr {
    for _ in 0..100 {
        let tcp = TcpListener::bind((address, 0)).expect("loopback has free ports");
        let bound = tcp.local_addr().expect("a bound socket");
        if UdpSocket::bind(bound).is_ok() {
            return bound;
        }
    }
    panic!("no port of {address} is free for UDP and TCP");
}
