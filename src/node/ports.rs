//! Who holds a port, from `/proc/net` and `/proc/PID/fd` (proc(5)).

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A transport in `/proc/net`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

impl Protocol {
    /// Its name for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        }
    }

    /// The `st` column of a socket that takes in new peers (include/net/tcp_states.h).
    fn listening_state(self) -> &'static str {
        match self {
            Self::Udp => "07",
            Self::Tcp => "0A",
        }
    }

    fn tables(self) -> [&'static str; 2] {
        match self {
            Self::Udp => ["/proc/net/udp", "/proc/net/udp6"],
            Self::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        }
    }
}

/// A socket that is bound to a local address and open to anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    /// What it is bound to.
    pub(crate) address: SocketAddr,
    /// The user it belongs to.
    pub(crate) uid: u32,
    inode: u64,
}

impl Holder {
    /// Whether binding `wanted` meets this socket: the same address, or one of them stands for all.
    pub(crate) fn meets(&self, wanted: SocketAddr) -> bool {
        let (held, asked) = (self.address.ip(), wanted.ip());
        // A v6 socket bound to `::` takes v4 as well unless it is told not to (ipv6(7), IPV6_V6ONLY).
        let covers = |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
        self.address.port() == wanted.port() && (held == asked || covers(held, asked) || covers(asked, held))
    }

    /// Who that is, for people.
    pub(crate) fn named(&self) -> String {
        match self.process() {
            Some(Process { pid, command }) => format!("{command} (pid {pid})"),
            None => format!(
                "a process of user {} that cannot be seen from here (no hostPID, or no privileges)",
                self.uid
            ),
        }
    }

    /// The process that has the socket open, if it can be seen from this pid namespace.
    pub(crate) fn process(&self) -> Option<Process> {
        let target = format!("socket:[{}]", self.inode);
        fs::read_dir("/proc").ok()?.filter_map(Result::ok).find_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let mut open_files = fs::read_dir(entry.path().join("fd")).ok()?.filter_map(Result::ok);
            open_files
                .find(|file| fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == &*target))?;
            let command = fs::read_to_string(entry.path().join("comm")).ok()?.trim_end().to_owned();
            Some(Process { pid, command })
        })
    }
}

/// A process, as far as it is named to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its id.
    pub(crate) pid: u32,
    /// Its command name.
    pub(crate) command: String,
}

/// All open sockets of this network namespace. A table that cannot be read has none.
pub(crate) fn holders(protocol: Protocol) -> Vec<Holder> {
    let read = |table| fs::read_to_string(table).unwrap_or_default();
    protocol.tables().into_iter().flat_map(|table| parse(&read(table), protocol.listening_state())).collect()
}

/// Who stands in the way of binding `address`, for people; `None` if nobody does any more.
pub(crate) fn holder_of(protocol: Protocol, address: SocketAddr) -> Option<String> {
    holders(protocol).iter().find(|holder| holder.meets(address)).map(Holder::named)
}

fn parse(table: &str, state: &str) -> Vec<Holder> {
    table.lines().skip(1).filter_map(|line| parse_line(line, state)).collect()
}

/// `sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode …`
fn parse_line(line: &str, state: &str) -> Option<Holder> {
    let mut columns = line.split_ascii_whitespace().skip(1);
    let address = parse_address(columns.next()?)?;
    if columns.nth(1)? != state {
        return None;
    }
    let uid = columns.nth(3)?.parse().ok()?;
    let inode = columns.nth(1)?.parse().ok()?;
    Some(Holder { address, uid, inode })
}

/// The address is printed as 32-bit words in the machine's byte order, the port as a number.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let address = match address.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (index, chunk) in octets.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index * 8)?);
            }
            IpAddr::from(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn own_sockets_are_found_with_their_process() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind("[::1]:0").unwrap();
        for (protocol, address) in
            [(Protocol::Udp, udp.local_addr().unwrap()), (Protocol::Tcp, tcp.local_addr().unwrap())]
        {
            let found = holders(protocol).into_iter().find(|holder| holder.address == address).unwrap();
            assert_eq!(found.process().map(|process| process.pid), Some(std::process::id()));
            assert!(found.meets(address));
        }
    }

    #[test]
    fn a_wildcard_meets_every_address_of_its_family() {
        let holder = |address: &str| Holder { address: address.parse().unwrap(), uid: 0, inode: 1 };
        let wanted = |address: &str| address.parse().unwrap();
        assert!(holder("0.0.0.0:53").meets(wanted("169.254.20.10:53")));
        assert!(holder("169.254.20.10:53").meets(wanted("0.0.0.0:53")));
        assert!(holder("[::]:53").meets(wanted("169.254.20.10:53")));
        assert!(!holder("0.0.0.0:53").meets(wanted("[fd00::10]:53")));
        assert!(!holder("0.0.0.0:54").meets(wanted("169.254.20.10:53")));
        assert!(!holder("127.0.0.53:53").meets(wanted("169.254.20.10:53")));
    }

    #[test]
    fn broken_lines_are_passed_over() {
        let table =
            "header\n  0: 0100007F:0035 00000000:0000 0A\nnonsense\n\n  1: 0100007F:xx 0 0A 0 0 0 0 0 1\n";
        assert_eq!(parse(table, "0A"), []);
    }
}
