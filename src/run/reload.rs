//! When the configuration may have changed: SIGHUP, or another file where the old one was.
//!
//! A ConfigMap volume is a directory whose `..data` symlink is swapped (rename(2)) for another one; an editor renames or
//! writes the file. inotify tells of all of these at once; a poll stands behind it, since a watch can be lost (an
//! overflowing queue, a remount).

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use inotify::{EventStream, Inotify, WatchMask};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often the file is looked at without being told.
const POLL: Duration = Duration::from_secs(10);

/// Quiet time after an event: writers rarely write once.
const SETTLE: Duration = Duration::from_millis(50);

/// Watches a configuration file.
#[derive(Debug)]
pub struct Watch {
    path: Option<PathBuf>,
    hangup: Option<Signal>,
    events: Option<EventStream<[u8; 1024]>>,
    seen: Option<State>,
}

/// What tells two states of a file apart without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    target: PathBuf,
    modified: Option<SystemTime>,
    len: u64,
}

impl Watch {
    /// Watches `path`; without one only SIGHUP counts.
    pub fn new(path: Option<PathBuf>) -> Self {
        let hangup = signal(SignalKind::hangup())
            .inspect_err(|error| tracing::warn!(%error, "SIGHUP does not reload"))
            .ok();
        let events = path.as_deref().and_then(|path| {
            watch_directory(path)
                .inspect_err(|error| {
                    tracing::warn!(%error, ?POLL, "changes of the configuration are seen by polling only");
                })
                .ok()
        });
        let seen = path.as_deref().and_then(state);
        Self { path, hangup, events, seen }
    }

    /// Never: for a process that does not reload.
    pub fn never() -> Self {
        Self { path: None, hangup: None, events: None, seen: None }
    }

    /// Waits until the configuration should be read again.
    pub async fn changed(&mut self) {
        loop {
            tokio::select! {
                Some(()) = next(&mut self.hangup) => {
                    self.seen = self.path.as_deref().and_then(state);
                    return;
                }
                () = event(&mut self.events) => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(POLL), if self.path.is_some() => {}
            }
            let now = self.path.as_deref().and_then(state);
            // A file that is gone is about to come back; what is served stays.
            if now.is_some() && now != self.seen {
                self.seen = now;
                return;
            }
        }
    }
}

async fn next(signal: &mut Option<Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}

async fn event(events: &mut Option<EventStream<[u8; 1024]>>) {
    match events {
        Some(events) => match events.next().await {
            Some(Ok(_)) => {}
            // The poll goes on.
            Some(Err(_)) | None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

fn watch_directory(path: &Path) -> std::io::Result<EventStream<[u8; 1024]>> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let inotify = Inotify::init()?;
    let mask = WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::CLOSE_WRITE | WatchMask::DELETE;
    inotify.watches().add(directory, mask)?;
    inotify.into_event_stream([0; 1024])
}

/// `None` while the file cannot be found.
fn state(path: &Path) -> Option<State> {
    let target = std::fs::canonicalize(path).ok()?;
    let metadata = std::fs::metadata(&target).ok()?;
    Some(State { target, modified: metadata.modified().ok(), len: metadata.len() })
}
