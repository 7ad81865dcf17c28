//! Network namespaces for tests: made under unique names, joined by veth pairs, gone when dropped.
//!
//! ```no_run
//! # use netns::{Netns, veth};
//! if !netns::usable(&["nft"]) {
//!     return;
//! }
//! let (pods, node) = (Netns::new("pods"), Netns::new("node"));
//! veth(&pods, &["10.0.0.2/24"], &node, &["10.0.0.1/24"]);
//! pods.exec("dig +short @10.0.0.1 example.org");
//! let server = node.spawn(Command::new("my-server").arg("--port=53"));
//! ```
//!
//! Include it with `mod support { pub mod netns; }` from a file in `tests/`. A panic drops what was made like an ordinary
//! return does. Nothing outside the namespaces is touched.

#![allow(dead_code, unreachable_pub, reason = "every test file includes this one and uses what it needs")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// Whether this test can run: as root, with `ip` and these tools. If not, says so on stderr; with `CI=true` in the
/// environment it panics instead, so that nothing is skipped unnoticed there.
pub fn usable(tools: &[&str]) -> bool {
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    let missing: Vec<_> = ["ip"].iter().chain(tools).filter(|tool| !in_path(tool)).collect();
    let reason = match (is_root, missing.is_empty()) {
        (true, true) => return true,
        (false, _) => "needs root for network namespaces".to_owned(),
        (true, false) => format!("not installed: {missing:?}"),
    };
    let name = thread::current().name().unwrap_or_default().to_owned();
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{name} cannot run: {reason}");
    eprintln!("SKIP {name}: {reason}");
    false
}

fn in_path(tool: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(tool).is_file()))
}

/// A network namespace with its loopback up; removed when dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
    label: String,
}

impl Netns {
    /// Makes a namespace. The label is for people; the name has the process id and a number as well.
    pub fn new(label: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            remove_orphans();
        }
        let name = format!("{PREFIX}{}-{number}-{label}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]));
        let namespace = Self { name, label: label.to_owned() };
        namespace.exec("ip link set lo up");
        namespace
    }

    /// Its name, as `ip netns` has it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs this program inside. Its process is the program itself, with no shell between.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a shell command inside and returns what it prints. Panics if it fails.
    pub fn exec(&self, shell: &str) -> String {
        run(self.command("sh").args(["-c", shell]))
    }

    /// Runs a shell command inside, whatever comes of it.
    pub fn try_exec(&self, shell: &str) -> Output {
        let output = self.command("sh").args(["-c", shell]).stdin(Stdio::null()).output();
        output.expect("`ip` is in the path, as `usable` has checked")
    }

    /// Starts a command inside, with its arguments and environment; it is killed when dropped.
    pub fn spawn(&self, command: &Command) -> Process {
        let mut inside = self.command(command.get_program());
        inside.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        Process::start(&mut inside)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Removing the name is enough: the kernel removes the namespace with its last process.
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).stderr(Stdio::null()).status();
    }
}

/// Removes the namespaces of test processes that were killed and could not do so themselves.
fn remove_orphans() {
    for name in
        run(Command::new("ip").args(["netns", "list"])).lines().filter_map(|line| line.split(' ').next())
    {
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = Command::new("ip").args(["netns", "delete", name]).stderr(Stdio::null()).status();
        }
    }
}

/// What the names of all test namespaces begin with; the process id follows.
const PREFIX: &str = "nodens-test-";

/// Joins two namespaces by a veth pair that is up at both ends, with these addresses (`10.0.0.1/24`, `fd00::1/64`).
/// Returns the interface's names in the first and in the second.
pub fn veth(a: &Netns, a_addresses: &[&str], b: &Netns, b_addresses: &[&str]) -> (String, String) {
    let interface = |to: &Netns| format!("to-{}", to.label.chars().take(12).collect::<String>());
    let (in_a, in_b) = (interface(b), interface(a));
    run(Command::new("ip")
        .args(["link", "add", &in_a, "netns", &a.name, "type", "veth"])
        .args(["peer", "name", &in_b, "netns", &b.name]));
    for (namespace, interface, addresses) in [(a, &in_a, a_addresses), (b, &in_b, b_addresses)] {
        for address in addresses {
            // A v6 address under duplicate address detection cannot be used for a second.
            let nodad = if address.contains(':') { "nodad" } else { "" };
            namespace.exec(&format!("ip address add {address} dev {interface} {nodad}"));
        }
        namespace.exec(&format!("ip link set {interface} up"));
    }
    // The first neighbour solicitation over a new pair may be lost, and is sent again only a second later: so that no
    // test waits for one, each end knows the other from the beginning.
    for (namespace, interface, peer, peer_interface, addresses) in
        [(a, &in_a, b, &in_b, b_addresses), (b, &in_b, a, &in_a, a_addresses)]
    {
        let hardware_address = peer.exec(&format!("cat /sys/class/net/{peer_interface}/address"));
        for address in addresses.iter().filter_map(|address| address.split('/').next()) {
            let neighbour = format!("{address} lladdr {} dev {interface}", hardware_address.trim());
            namespace.exec(&format!("ip neighbour replace {neighbour} nud permanent"));
        }
    }
    (in_a, in_b)
}

/// A process of a test; killed and waited for when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Process {
    fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("`ip` is in the path, as `usable` has checked");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            stdout
                .lines()
                .map_while(Result::ok)
                .take_while(|line| sender.send(line.clone()).is_ok())
                .for_each(drop);
        });
        Self { child, stdin, lines }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to its standard input.
    pub fn write_line(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is open until `close_stdin`");
        writeln!(stdin, "{line}").expect("the process reads its standard input");
    }

    /// The rest of the next line it prints that begins with `prefix`; others are passed over. Panics after 20 s or when
    /// its output ends.
    pub fn read_line(&self, prefix: &str) -> String {
        let line = self.read_line_within(prefix, Duration::from_secs(20));
        line.unwrap_or_else(|| panic!("it ended, or printed nothing that begins with {prefix:?} for 20 s"))
    }

    /// The same, or `None` when there is none in this time or its output ends.
    pub fn read_line_within(&self, prefix: &str, limit: Duration) -> Option<String> {
        let deadline = Instant::now() + limit;
        loop {
            let line = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()?;
            if let Some(rest) = line.strip_prefix(prefix) {
                return Some(rest.trim().to_owned());
            }
        }
    }

    /// Sends SIGKILL and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Closes its standard input and waits for its end.
    pub fn finish(&mut self) -> std::process::ExitStatus {
        self.stdin = None;
        self.child.wait().expect("the child is ours to wait for")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until a condition holds and returns how long it took. Panics with `what` when it does not within `limit`.
pub fn eventually(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}

fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("`ip` is in the path, as `usable` has checked");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed with {}: {stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}
