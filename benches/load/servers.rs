//! The servers under test: how each is found, configured and started.
//!
//! The same terms for all: one worker, caches that hold the whole mix, an hour of TTL, logging off, DNSSEC validation off (the
//! stand-in upstream signs nothing), queries to the upstream over TCP where the server can, receive buffers enlarged where it
//! has a setting for it. nodens runs with its metrics on.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::Process;

/// A server of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    Floor,
    /// The floor on io_uring.
    FloorUring,
    Relay,
    Nodens,
    Unbound,
    Dnsdist,
    PdnsRecursor,
    Dnsmasq,
    KnotResolver,
}

impl Server {
    /// All of them, in the order of the tables.
    pub(crate) const ALL: [Self; 9] = [
        Self::Floor,
        Self::FloorUring,
        Self::Relay,
        Self::Nodens,
        Self::Unbound,
        Self::Dnsdist,
        Self::PdnsRecursor,
        Self::Dnsmasq,
        Self::KnotResolver,
    ];

    /// As the tables and `--only` call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::FloorUring => "floor-uring",
            Self::Relay => "relay",
            Self::Nodens => "nodens",
            Self::Unbound => "unbound",
            Self::Dnsdist => "dnsdist",
            Self::PdnsRecursor => "pdns-recursor",
            Self::Dnsmasq => "dnsmasq",
            Self::KnotResolver => "knot-resolver",
        }
    }

    /// Part of the harness: what the system calls alone cost, of a hit or of a miss.
    pub(crate) fn is_floor(self) -> bool {
        matches!(self, Self::Floor | Self::Relay)
    }

    /// Whether it runs only if it is asked for by name: it answers a question of its own.
    pub(crate) fn on_request(self) -> bool {
        self == Self::FloorUring
    }

    /// Neither a floor nor nodens.
    pub(crate) fn is_peer(self) -> bool {
        !self.is_floor() && !matches!(self, Self::FloorUring | Self::Nodens)
    }

    /// Whether its answers are real; the floor only echoes.
    pub(crate) fn resolves(self) -> bool {
        !matches!(self, Self::Floor | Self::FloorUring)
    }

    /// Whether misses can be made to go upstream over TCP.
    pub(crate) fn tcp_upstream(self) -> bool {
        !matches!(self, Self::PdnsRecursor | Self::Dnsmasq)
    }

    /// The program, if it is installed.
    pub(crate) fn program(self) -> Option<PathBuf> {
        match self {
            Self::Floor | Self::FloorUring | Self::Relay => env::current_exe().ok(),
            Self::Nodens => {
                let built = env::var_os("NODENS_BIN")
                    .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_nodens")), PathBuf::from);
                built.exists().then_some(built)
            }
            Self::Unbound => find("unbound"),
            Self::Dnsdist => find("dnsdist"),
            Self::PdnsRecursor => find("pdns_recursor"),
            Self::Dnsmasq => find("dnsmasq"),
            Self::KnotResolver => find("kresd"),
        }
    }

    /// The version the program states, or nothing.
    pub(crate) fn version(self) -> String {
        let flag = match self {
            Self::Floor | Self::FloorUring | Self::Relay => return String::new(),
            Self::Unbound => "-V",
            _ => "--version",
        };
        let Some(output) = self.program().and_then(|program| Command::new(program).arg(flag).output().ok())
        else {
            return String::new();
        };
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        text.split_whitespace()
            .map(|word| word.trim_end_matches(','))
            .find(|word| word.contains('.') && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
            .unwrap_or_default()
            .to_owned()
    }

    /// Starts the server on 127.0.0.1:`port`, forwarding to 127.0.0.1:`upstream`, with its files in `dir`.
    pub(crate) fn start(self, dir: &Path, port: u16, upstream: u16, cpu: usize) -> io::Result<Process> {
        let program = self.program().ok_or(io::ErrorKind::NotFound)?;
        let dir = dir.join(self.name());
        fs::create_dir_all(&dir)?;
        let file = dir.join(if self == Self::PdnsRecursor { "recursor.conf" } else { "conf" });
        fs::write(&file, self.configuration(&dir, port, upstream)?)?;
        let mut command = Command::new(program);
        command.current_dir(&dir);
        match self {
            Self::Floor => command.arg("--serve-floor").arg(port.to_string()),
            Self::FloorUring => command.arg("--serve-floor-uring").arg(port.to_string()),
            Self::Relay => command.arg("--serve-relay").arg(port.to_string()).arg(upstream.to_string()),
            Self::Nodens => command.arg("run").arg("--config").arg(&file),
            Self::Unbound => command.arg("-d").arg("-c").arg(&file),
            Self::Dnsdist => command.args(["--supervised", "--disable-syslog", "-C"]).arg(&file),
            Self::PdnsRecursor => command.arg(format!("--config-dir={}", dir.display())),
            Self::Dnsmasq => command.arg("--keep-in-foreground").arg("-C").arg(&file),
            Self::KnotResolver => command.arg("-n").arg("-c").arg(&file).arg(&dir),
        };
        Process::start(&mut command, cpu, &dir.join("log"), libc::SIGKILL)
    }

    fn configuration(self, dir: &Path, port: u16, upstream: u16) -> io::Result<String> {
        let dir = dir.display();
        Ok(match self {
            Self::Floor | Self::FloorUring | Self::Relay => String::new(),
            Self::Nodens => format!(
                "listen: {{addresses: [\"127.0.0.1\"], port: {port}, workers: 1}}\n\
                 cache: {{size: 64MiB, negative_size: 64MiB, max_ttl: 1h, negative_max_ttl: 1h}}\n\
                 zones:\n  - name: \".\"\n    forward: {{to: [\"127.0.0.1:{upstream}\"], transport: tcp}}\n\
                 node: {{interface: {{manage: false}}, notrack: false}}\n\
                 observe: {{metrics: \"127.0.0.1:{}\", health: \"127.0.0.1:{}\"}}\n",
                free_port()?,
                free_port()?,
            ),
            Self::Unbound => format!(
                "server:\n interface: 127.0.0.1\n port: {port}\n access-control: 127.0.0.0/8 allow\n do-daemonize: no\n \
                 use-syslog: no\n verbosity: 0\n chroot: \"\"\n username: \"\"\n directory: \"{dir}\"\n pidfile: \"\"\n \
                 num-threads: 1\n module-config: \"iterator\"\n msg-cache-size: 128m\n rrset-cache-size: 256m\n \
                 cache-max-ttl: 86400\n cache-max-negative-ttl: 3600\n so-rcvbuf: 8m\n so-sndbuf: 8m\n tcp-upstream: yes\n \
                 do-not-query-localhost: no\n unblock-lan-zones: yes\n insecure-lan-zones: yes\n incoming-num-tcp: 1000\n \
                 outgoing-num-tcp: 100\n num-queries-per-thread: 8192\n jostle-timeout: 2000\n\
                 remote-control:\n control-enable: no\n\
                 forward-zone:\n name: \".\"\n forward-addr: 127.0.0.1@{upstream}\n"
            ),
            Self::Dnsdist => format!(
                "addLocal('127.0.0.1:{port}', {{maxInFlight=1000}})\n\
                 newServer({{address='127.0.0.1:{upstream}', tcpOnly=true, maxInFlight=1000, checkInterval=60}})\n\
                 getPool(''):setCache(newPacketCache(2000000, {{maxTTL=86400, maxNegativeTTL=3600, numberOfShards=1}}))\n\
                 setMaxTCPClientThreads(1)\nsetMaxUDPOutstanding(65535)\nsetSecurityPollSuffix('')\n"
            ),
            Self::PdnsRecursor => format!(
                "local-address=127.0.0.1\nlocal-port={port}\nallow-from=127.0.0.0/8\ndaemon=no\ndisable-syslog=yes\nquiet=yes\n\
                 loglevel=3\nsocket-dir={dir}\nthreads=1\npdns-distributes-queries=no\ndnssec=off\n\
                 aggressive-nsec-cache-size=0\nforward-zones-recurse=.=127.0.0.1:{upstream}\ndont-query=\nserve-rfc1918=no\n\
                 root-nx-trust=no\nmax-cache-entries=2000000\nmax-packetcache-entries=2000000\nmax-cache-ttl=86400\n\
                 max-negative-ttl=3600\npacketcache-ttl=86400\nsecurity-poll-suffix=\nmax-tcp-clients=1000\n\
                 max-tcp-per-client=0\n"
            ),
            Self::Dnsmasq => format!(
                "port={port}\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\nno-daemon\nuser=root\n\
                 server=127.0.0.1#{upstream}\ncache-size=200000\ndns-forward-max=10000\npid-file=\nlog-facility=-\n"
            ),
            Self::KnotResolver => format!(
                "net.listen('127.0.0.1', {port}, {{ kind = 'dns' }})\nlog_level('crit')\nmodules.load('policy')\n\
                 trust_anchors.remove('.')\ncache.open(512 * MB, 'lmdb://{dir}')\ncache.max_ttl(86400)\n\
                 policy.add(policy.all(policy.FLAGS({{'TCP'}})))\n\
                 policy.add(policy.all(policy.FORWARD('127.0.0.1@{upstream}')))\n"
            ),
        })
    }
}

/// Starts nsd on 127.0.0.1:`port` with the zones `zones` (name, file in `dir`): the stand-in for CoreDNS.
pub(crate) fn start_upstream(
    dir: &Path,
    port: u16,
    zones: &[(&str, &str)],
    cpu: usize,
) -> io::Result<Process> {
    let program =
        find("nsd").ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "nsd is not installed"))?;
    let shown = dir.display();
    let mut text = format!(
        "server:\n server-count: 1\n ip-address: 127.0.0.1\n port: {port}\n username: \"\"\n chroot: \"\"\n \
         zonesdir: \"{shown}\"\n database: \"\"\n pidfile: \"{shown}/nsd.pid\"\n xfrdfile: \"{shown}/xfrd.state\"\n \
         zonelistfile: \"{shown}/zone.list\"\n rrl-ratelimit: 0\n tcp-count: 500\n tcp-query-count: 0\n \
         minimal-responses: yes\nremote-control:\n control-enable: no\n"
    );
    for (name, file) in zones {
        let _ = write!(text, "zone:\n name: \"{name}\"\n zonefile: \"{file}\"\n");
    }
    let file = dir.join("nsd.conf");
    fs::write(&file, text)?;
    let mut command = Command::new(program);
    command.arg("-d").arg("-c").arg(&file).current_dir(dir);
    Process::start(&mut command, cpu, &dir.join("nsd.log"), libc::SIGTERM)
}

/// A port of 127.0.0.1 that is free for UDP and TCP alike, below the range clients' own ports come from where possible.
pub(crate) fn free_port() -> io::Result<u16> {
    for _ in 0..1_000 {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0")?;
        let port = udp.local_addr()?.port();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::Error::other("no port is free for both UDP and TCP"))
}

/// An executable in PATH or where distributions keep daemons.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
}
