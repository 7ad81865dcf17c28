//! Another configuration, or another content of a file, while queries go on.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::task::spawn_local;

use super::Resolver;
use super::control::{Controls, Order};
use super::exchange::Exchange;
use super::zone::{Tables, TablesError};
use crate::config::Config;
use crate::wire::name::is_at_or_below;

impl<U: Exchange> Resolver<U> {
    /// Applies another configuration. Upstreams whose settings are unchanged keep their connections and health; cached
    /// answers stay where they are still what the new configuration would give; lookups on their way are finished, and
    /// their answers given but not kept.
    ///
    /// Fails where a file cannot be used, and changes nothing then.
    pub fn reload(&self, config: &Config) -> Result<(), TablesError> {
        // Files are watched by themselves.
        if *self.config.borrow() == *config {
            return Ok(());
        }
        let old = Rc::clone(&self.tables.borrow());
        let new = Rc::new(Tables::build(config, Some(&old), &self.context.zones, &self.open)?);
        *self.tables.borrow_mut() = Rc::clone(&new);
        self.flights.borrow_mut().set_limits(&config.limits);
        self.epoch.set(self.epoch.get() + 1);
        self.context.store.resize(super::budgets(config));
        self.context.store.retain(|entry| new.keeps(&old, entry));
        *self.config.borrow_mut() = config.clone();
        for forwarder in new.forwarders() {
            // Of those that were taken over: our own addresses may be others now.
            if let Err(error) = forwarder.refresh_addresses(new.listen()) {
                tracing::warn!(%error, "the nameservers known so far stay in use");
            }
        }
        Ok(())
    }

    /// Asks the upstreams whether they answer; true as soon as any does, and where there is none to ask.
    pub async fn probe(&self) -> bool {
        let tables = Rc::clone(&self.tables.borrow());
        let mut groups: Vec<_> = tables.forwarders().collect();
        groups.sort_by_key(|group| Rc::as_ptr(group).addr());
        groups.dedup_by_key(|group| Rc::as_ptr(group).addr());
        let none = groups.is_empty();
        let mut answers: FuturesUnordered<_> = groups.iter().map(|group| group.upstream.probe()).collect();
        while let Some(answered) = answers.next().await {
            if answered {
                self.note_answer();
                return true;
            }
        }
        none
    }

    /// Notes that an upstream has answered.
    pub(super) fn note_answer(&self) {
        if !self.upstream_has_answered.load(Ordering::Relaxed) {
            self.upstream_has_answered.store(true, Ordering::Release);
        }
    }

    /// Does what other threads ask for.
    pub(super) async fn obey(self: Rc<Self>, mut controls: Controls) {
        while let Some(order) = controls.next().await {
            match order {
                Order::Reload(config, done) => {
                    // Whoever asked may have stopped waiting, here and below.
                    let _ = done.send(self.reload(&config));
                }
                Order::Probe(done) => {
                    let this = Rc::clone(&self);
                    spawn_local(async move {
                        let _ = done.send(this.probe().await);
                    });
                }
            }
        }
    }

    /// Looks once a second whether a resolv.conf or a zone's file has changed. Files are replaced by renaming and through
    /// symlinks (as Kubernetes and resolvers do), so the path is asked, not the file that was opened.
    pub(super) async fn watch_files(self: Rc<Self>) {
        let mut seen = HashMap::new();
        let mut ticks = tokio::time::interval(POLL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look_at_files(&mut seen);
        }
    }

    fn look_at_files(&self, seen: &mut HashMap<PathBuf, Option<Print>>) {
        let tables = Rc::clone(&self.tables.borrow());
        let mut changed = HashMap::new();
        let mut has_changed = |path: &Path| {
            *changed.entry(path.to_owned()).or_insert_with(|| {
                let print = Print::of(path);
                seen.insert(path.to_owned(), print).is_some_and(|before| before != print)
            })
        };
        for forwarder in tables.forwarders() {
            // Every file is asked, so that all are seen.
            let changes = forwarder.resolv_confs().filter(|path| has_changed(path)).count();
            if changes == 0 {
                continue;
            }
            match forwarder.refresh_addresses(tables.listen()) {
                Ok(true) => tracing::info!("resolv.conf names other nameservers: they are used from now on"),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the nameservers known so far stay in use"),
            }
        }
        for zone in tables.zone_files() {
            let Some(path) = zone.file_path().filter(|path| has_changed(path)) else { continue };
            match zone.reload_file() {
                Ok(()) => {
                    tracing::info!(file = %path.display(), "the zone is served from its new file");
                    // What is being made of the old file is not to be kept.
                    self.epoch.set(self.epoch.get() + 1);
                    self.context.store.retain(|entry| !is_at_or_below(entry.name(), zone.name()));
                }
                Err(error) => tracing::warn!(%error, "the zone is served as it was"),
            }
        }
    }
}

/// What tells one content of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Print {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Print {
    /// `None` where there is no file.
    fn of(path: &Path) -> Option<Self> {
        let data = std::fs::metadata(path).ok()?;
        let modified = (data.mtime(), data.mtime_nsec());
        Some(Self { device: data.dev(), inode: data.ino(), size: data.size(), modified })
    }
}

/// How often files are looked at: a stat(2) each.
const POLL: Duration = Duration::from_secs(1);
