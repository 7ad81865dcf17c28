//! A started program: pinned, measured by /proc, and gone when its handle is dropped.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::sys;

/// A child process; dropping it ends it.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` on `cpu` with its output going to `log`.
    pub(crate) fn start(
        command: &mut Command,
        cpu: usize,
        log: &Path,
        on_orphan: libc::c_int,
    ) -> io::Result<Self> {
        let output = File::create(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        sys::confine(command, cpu, on_orphan);
        Ok(Self { child: command.spawn()?, log: log.to_owned() })
    }

    /// The exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits until it ends by itself, the time is over, or the harness is told to stop.
    pub(crate) fn wait(&mut self, limit: Duration) -> io::Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if sys::interrupted() {
                return Err(io::Error::from(io::ErrorKind::Interrupted));
            }
            if Instant::now() > end {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("still running after {limit:?}"),
                ));
            }
            thread::sleep(POLL);
        }
    }

    /// The end of what it wrote.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// CPU time used so far by it and its children, threads and all.
    ///
    /// Live tasks are read from schedstat, in nanoseconds (Documentation/scheduler/sched-stats.rst); what ended children
    /// used is known to the kernel only in clock ticks, 10 ms as a rule.
    pub(crate) fn cpu_time(&self) -> io::Result<Duration> {
        let pid = self.child.id();
        let mut total = Duration::ZERO;
        let mut pending = vec![pid];
        while let Some(process) = pending.pop() {
            let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else { continue };
            for task in tasks.flatten() {
                if let Ok(text) = fs::read_to_string(task.path().join("schedstat"))
                    && let Some(nanoseconds) = text.split(' ').next().and_then(|field| field.parse().ok())
                {
                    total += Duration::from_nanos(nanoseconds);
                }
                let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
                pending.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
            }
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // proc_pid_stat(5): cutime and cstime are fields 16 and 17; field 3 follows the parenthesis that ends the command.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: u64 = fields.skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(total + Duration::from_millis(ticks * 1_000 / sys::clock_ticks()))
    }

    /// Resident memory in KiB (VmRSS in proc_pid_status(5)).
    pub(crate) fn resident_kib(&self) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok())
            .ok_or_else(|| io::Error::other("no VmRSS: the process has ended"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.child.try_wait() {
            return;
        }
        let pid = self.child.id();
        sys::signal_process(pid, libc::SIGTERM);
        let end = Instant::now() + GRACE;
        while Instant::now() < end {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            thread::sleep(POLL);
        }
        sys::signal_group(pid, libc::SIGKILL);
        let _ = self.child.wait();
    }
}

const POLL: Duration = Duration::from_millis(5);
/// How long a server may take to leave when asked to.
const GRACE: Duration = Duration::from_secs(3);
