//! A node with everything around it: its pods in one namespace, an upstream in another, nodens itself in the middle.

#![allow(dead_code, reason = "every test file includes this one and uses what it needs")]

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::netns::{Netns, eventually, veth};
use crate::support::node::{LINK_LOCAL, SERVICE, SERVICE_V6, SOON, pods_and_node};
use crate::support::nodens::{Metrics, Nodens, Places, binary, signal};
use crate::support::{need, nsd};

/// Where the upstream listens.
pub(crate) const UPSTREAM: &str = "10.2.0.2";

/// Where the node's metrics are.
pub(crate) const METRICS: &str = "10.1.0.1:9253";

/// Everything but nodens.
pub(crate) struct Site {
    pub(crate) pods: Netns,
    pub(crate) node: Netns,
    pub(crate) upstream: Netns,
    nsd: Child,
    pub(crate) directory: tempfile::TempDir,
}

impl Site {
    /// Makes it, and a configuration for nodens with three addresses of both families.
    pub(crate) fn new() -> Self {
        let (pods, node) = pods_and_node();
        let upstream = Netns::new("upstream");
        veth(&node, &["10.2.0.1/24"], &upstream, &["10.2.0.2/24"]);
        let directory = tempfile::tempdir().expect("a temporary directory");
        // Read also by nodens as another user.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(directory.path(), mode).expect("the directory is ours");
        let address = format!("{UPSTREAM}:53").parse().expect("an address");
        let config = nsd::configure(directory.path(), address, &[("load.example.org", ZONE)]);
        let mut command = upstream.command(need::find("nsd").expect("the test has asked for nsd"));
        let nsd = command.args(["-d", "-c"]).arg(config).stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        let nsd = nsd.expect("`ip` is in the path");
        eventually("nsd listens", SOON, || upstream.exec("ss -Hltn").contains(&format!("{UPSTREAM}:53")));
        let site = Self { pods, node, upstream, nsd, directory };
        site.configure("");
        site
    }

    /// Writes nodens's configuration, with these lines at its end.
    pub(crate) fn configure(&self, more: &str) {
        fs::write(
            self.directory.path().join("nodens.yaml"),
            format!(
                "listen: {{addresses: ['{LINK_LOCAL}', '{SERVICE}', '{SERVICE_V6}'], port: 53, workers: 1, drain: 3s}}\n\
                 node: {{interface: {{manage: true, kind: bridge}}, notrack: true}}\n\
                 observe: {{metrics: '{METRICS}', health: '{LINK_LOCAL}:8080'}}\n\
                 zones:\n- {{name: '.', forward: {{to: ['{UPSTREAM}'], transport: tcp}}}}\n{more}"
            ),
        )
        .expect("the directory is writable");
    }

    /// Sets `node.upstream_wait`.
    pub(crate) fn upstream_wait(&self, wait: &str) {
        let file = self.directory.path().join("nodens.yaml");
        let config = fs::read_to_string(&file).expect("it is written by `configure`");
        let config = config.replace("notrack: true", &format!("notrack: true, upstream_wait: {wait}"));
        fs::write(file, config).expect("the directory is writable");
    }

    /// `nodens SUBCOMMAND --config FILE` on the node, by way of `wrapper`.
    pub(crate) fn command(&self, wrapper: &[&str], arguments: &[&str]) -> Command {
        let binary = binary();
        let binary = binary.to_str().expect("a path in UTF-8");
        let line: Vec<_> = wrapper.iter().chain(&[binary]).chain(arguments).copied().collect();
        let mut command = self.node.command(line[0]);
        command.args(&line[1..]).arg("--config").arg(self.directory.path().join("nodens.yaml"));
        command
    }

    /// Starts nodens and waits until it says that it is ready.
    pub(crate) fn start(&self) -> Nodens {
        self.start_by(&[])
    }

    /// The same by way of another program that ends in executing the rest of its arguments.
    pub(crate) fn start_by(&self, wrapper: &[&str]) -> Nodens {
        let mut nodens = self.launch(wrapper);
        nodens.until("ready", |nodens| nodens.said().lines().any(|line| line.trim_end().ends_with("ready")));
        assert_eq!(self.page(&format!("{LINK_LOCAL}:8080/ready")).0, 200);
        nodens
    }

    /// Starts nodens and waits for nothing.
    pub(crate) fn launch(&self, wrapper: &[&str]) -> Nodens {
        let place = |port| format!("{LINK_LOCAL}:{port}").parse().expect("an address");
        let places =
            Places { dns: place(53), metrics: METRICS.parse().expect("an address"), health: place(8080) };
        let directory = tempfile::tempdir().expect("a temporary directory");
        Nodens::spawn(self.command(wrapper, &["run"]), places, directory)
    }

    /// Stops the upstream's processes where they are, or has them go on.
    pub(crate) fn freeze_upstream(&self, frozen: bool) {
        let pids =
            Command::new("ip").args(["netns", "pids", self.upstream.name()]).output().expect("ip runs");
        let pids = String::from_utf8_lossy(&pids.stdout).into_owned();
        for pid in pids.lines() {
            signal(pid.parse().expect("ip prints numbers"), if frozen { "STOP" } else { "CONT" });
        }
    }

    /// Status and body of a page, asked for on the node; status 0 where nothing answers.
    pub(crate) fn page(&self, address: &str) -> (u16, String) {
        let output = self.node.try_exec(&format!("curl -s -m 2 -w '\\n%{{http_code}}' http://{address}"));
        let text = String::from_utf8_lossy(&output.stdout);
        let (body, status) = text.rsplit_once('\n').unwrap_or_default();
        (status.parse().unwrap_or(0), body.to_owned())
    }

    /// What nodens counts.
    pub(crate) fn metrics(&self) -> Metrics {
        let (status, body) = self.page(&format!("{METRICS}/metrics"));
        assert_eq!(status, 200, "{body}");
        Metrics::parse(&body)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.freeze_upstream(false);
        // Its children end with it on SIGTERM; SIGKILL would leave them.
        signal(self.nsd.id(), "TERM");
        let start = Instant::now();
        while start.elapsed() < SOON && self.nsd.try_wait().is_ok_and(|status| status.is_none()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.nsd.kill();
        let _ = self.nsd.wait();
    }
}

/// `*.yes` exists, and nothing else.
const ZONE: &str = "$ORIGIN load.example.org.\n$TTL 300\n@ IN SOA ns hostmaster 1 7200 1800 86400 60\n@ IN NS ns\n\
                    ns IN A 192.0.2.53\n*.yes IN A 192.0.2.80\n";
