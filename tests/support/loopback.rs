//! Loopback addresses and ports of a test's own.

#![allow(dead_code, unreachable_pub, reason = "each test file includes this and uses its part")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;
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

/// An address with a port that is free for UDP and TCP, and stays so until the caller takes it: see `free_at`.
pub fn free() -> SocketAddr {
    free_at(address())
}

/// The same at this address, which must be the test's own.
///
/// The port is none that the kernel gives out: one of those may become the source port of somebody's socket on the
/// unspecified address, such as a lookup over UDP, before the caller has bound it. Nor has it been given to anybody else of
/// this process.
pub fn free_at(address: Ipv4Addr) -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..PORTS.len() {
        let number = process::id().wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) as usize % PORTS.len();
        let place = SocketAddr::from((address, PORTS.start + number as u16));
        // A program of the machine may listen there on every address.
        if TcpListener::bind(place).is_ok() && UdpSocket::bind(place).is_ok() {
            return place;
        }
    }
    panic!("no port of {PORTS:?} is free at {address} for UDP and TCP");
}

/// Below `net.ipv4.ip_local_port_range`, which begins with 32,768 unless somebody has changed it.
const PORTS: Range<u16> = 20_000..32_768;
