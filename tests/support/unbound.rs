//! unbound as a forwarder: another implementation of the same work, to compare answers with.

#![allow(dead_code, unreachable_pub, reason = "each test file includes this and uses its part")]

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::wait::seconds;
use super::{client, loopback, need};

/// A running unbound; killed when dropped.
pub struct Unbound {
    child: Child,
    address: SocketAddr,
    directory: tempfile::TempDir,
}

impl Unbound {
    /// Starts with everything forwarded to `upstream`, and waits until it answers.
    pub fn forwarding_to(upstream: SocketAddr) -> Self {
        let address = loopback::free();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (shown, ip, port) = (directory.path().display(), address.ip(), address.port());
        let config = format!(
            "server:\n interface: {ip}@{port}\n access-control: 127.0.0.0/8 allow\n username: \"\"\n chroot: \"\"\n \
             directory: \"{shown}\"\n pidfile: \"{shown}/unbound.pid\"\n use-syslog: no\n num-threads: 1\n \
             do-not-query-localhost: no\n module-config: \"iterator\"\n qname-minimisation: no\n minimal-responses: no\n \
             rrset-roundrobin: no\n tcp-upstream: yes\n edns-buffer-size: 4096\n max-udp-size: 4096\n\
             remote-control:\n control-enable: no\n\
             forward-zone:\n name: \".\"\n forward-addr: {}@{}\n",
            upstream.ip(),
            upstream.port()
        );
        let file = directory.path().join("unbound.conf");
        fs::write(&file, config).expect("the directory is writable");
        let log = fs::File::create(directory.path().join("unbound.log")).expect("the directory is writable");
        let mut command = Command::new(need::find("unbound").expect("the test has asked `need` for unbound"));
        command.args(["-d", "-p", "-c"]).arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("unbound starts");
        let mut unbound = Self { child, address, directory };
        let start = Instant::now();
        let query = client::Query::new("localhost", client::A).bytes();
        while client::udp_within(address, &query, Duration::from_millis(100)).is_none() {
            let gone = unbound.child.try_wait().expect("the child is ours to wait for");
            let log = || fs::read_to_string(unbound.directory.path().join("unbound.log")).unwrap_or_default();
            assert!(gone.is_none() && start.elapsed() < seconds(20), "unbound does not answer:\n{}", log());
        }
        unbound
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Unbound {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
