//! nsd with zones of the test: CoreDNS's stand-in, and the authority to compare answers with.

#![allow(dead_code, unreachable_pub, reason = "each test file includes this and uses its part")]

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::wait::seconds;
use super::{client, loopback, need};

/// A running nsd; killed when dropped.
pub struct Nsd {
    child: Child,
    address: SocketAddr,
    directory: tempfile::TempDir,
}

impl Nsd {
    /// Starts on loopback with these zones (name, master file), and waits until it answers.
    pub fn start(zones: &[(&str, &str)]) -> Self {
        Self::start_at(loopback::free(), zones)
    }

    /// The same, at this address.
    pub fn start_at(address: SocketAddr, zones: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let config = configure(directory.path(), address, zones);
        let mut command = Command::new(need::find("nsd").expect("the test has asked `need` for nsd"));
        command.args(["-d", "-c"]).arg(&config);
        let query = client::Query::new(zones[0].0, client::SOA).bytes();
        let answers = || client::udp_within(address, &query, Duration::from_millis(100)).is_some();
        Self::spawn(command, address, directory, answers)
    }

    /// Starts a command of the caller's own that becomes an nsd at this address, as it is in a namespace.
    pub fn spawn(
        mut command: Command,
        address: SocketAddr,
        directory: tempfile::TempDir,
        mut answers: impl FnMut() -> bool,
    ) -> Self {
        let log = fs::File::create(directory.path().join("nsd.log")).expect("the directory is writable");
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("nsd starts");
        let mut nsd = Self { child, address, directory };
        let start = Instant::now();
        while !answers() {
            let gone = nsd.child.try_wait().expect("the child is ours to wait for");
            assert!(gone.is_none() && start.elapsed() < seconds(20), "nsd does not answer:\n{}", nsd.said());
        }
        nsd
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn said(&self) -> String {
        fs::read_to_string(self.directory.path().join("nsd.log")).unwrap_or_default()
    }
}

impl Drop for Nsd {
    fn drop(&mut self) {
        // Its children end with it on SIGTERM; SIGKILL would leave them.
        super::nodens::signal(self.child.id(), "TERM");
        let start = Instant::now();
        while start.elapsed() < seconds(5) && self.child.try_wait().is_ok_and(|status| status.is_none()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes nsd's configuration and zones into a directory: the configuration's path.
pub fn configure(
    directory: &std::path::Path,
    address: SocketAddr,
    zones: &[(&str, &str)],
) -> std::path::PathBuf {
    let shown = directory.display();
    let (ip, port) = (address.ip(), address.port());
    let mut config = format!(
        "server:\n ip-address: {ip}@{port}\n username: \"\"\n chroot: \"\"\n zonesdir: \"{shown}\"\n database: \"\"\n \
         pidfile: \"{shown}/nsd.pid\"\n xfrdfile: \"{shown}/xfrd.state\"\n zonelistfile: \"{shown}/zone.list\"\n \
         server-count: 1\n tcp-count: 2000\n tcp-query-count: 0\n rrl-ratelimit: 0\n verbosity: 0\n\
         remote-control:\n control-enable: no\n"
    );
    for (number, (name, text)) in zones.iter().enumerate() {
        fs::write(directory.join(format!("{number}.zone")), text).expect("the directory is writable");
        // Writing to a string cannot fail.
        let _ = write!(config, "zone:\n name: \"{name}\"\n zonefile: \"{number}.zone\"\n");
    }
    let file = directory.join("nsd.conf");
    fs::write(&file, config).expect("the directory is writable");
    file
}

/// A small cluster's zone, as CoreDNS would answer it.
pub const CLUSTER: (&str, &str) = ("cluster.local", include_str!("cluster.local.zone"));

/// Names outside of the cluster: every kind of answer there is.
pub const EXTERNAL: (&str, &str) = ("example.org", include_str!("example.org.zone"));
