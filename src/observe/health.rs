//! Whether the process is ready for queries, and which configuration it serves.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

/// Shared state of readiness and of the last reload. It starts as not ready, because [`START`] blocks it.
#[derive(Clone)]
pub struct Health {
    state: Arc<Mutex<State>>,
    others: Arc<OnceLock<Others>>,
}

/// Why others on the node are not ready, if so.
type Others = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// The blocker that stands from the beginning; clear it when everything is bound.
pub const START: &str = "start";

/// The blocker that [`Health::drain`] sets.
pub const DRAIN: &str = "drain";

/// Which configuration is being served, and how the last attempt to load one went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reload {
    /// Hash of the configuration that is being served; empty before the first.
    pub hash: String,
    /// When it was loaded.
    pub loaded: Option<SystemTime>,
    /// Why the last attempt failed; `None` if it did not.
    pub error: Option<String>,
    /// Failed attempts so far.
    pub failures: u64,
}

#[derive(Debug)]
struct State {
    blockers: BTreeMap<&'static str, String>,
    reload: Reload,
}

impl fmt::Debug for Health {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Health").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// Not ready yet.
    pub fn new() -> Self {
        let blockers = BTreeMap::from([(START, "starting".to_owned())]);
        let state = Arc::new(Mutex::new(State { blockers, reload: Reload::default() }));
        Self { state, others: Arc::default() }
    }

    /// Has `/ready` answer for every process that shares its address: not ready as long as `others` gives a reason (one
    /// line). A probe of a new process may reach the old one, and must not be told that all is well. The first one counts.
    pub fn watch_others(&self, others: impl Fn() -> Option<String> + Send + Sync + 'static) {
        let _ = self.others.set(Box::new(others));
    }

    /// Not ready as long as `blocker` stands, because of `reason` (one line, for a person).
    pub fn block(&self, blocker: &'static str, reason: impl Into<String>) {
        self.lock().blockers.insert(blocker, reason.into());
    }

    /// `blocker` no longer stands.
    pub fn clear(&self, blocker: &'static str) {
        self.lock().blockers.remove(blocker);
    }

    /// Not ready any more: the process answers what it has and leaves.
    pub fn drain(&self) {
        self.block(DRAIN, "draining");
    }

    /// Whether nothing blocks this process.
    pub fn is_ready(&self) -> bool {
        self.lock().blockers.is_empty()
    }

    /// A configuration with this hash is being served since `now`.
    pub fn loaded(&self, hash: impl Into<String>, now: SystemTime) {
        let mut state = self.lock();
        let failures = state.reload.failures;
        state.reload = Reload { hash: hash.into(), loaded: Some(now), error: None, failures };
    }

    /// A configuration was refused; the one before it is still being served.
    pub fn load_failed(&self, error: impl Into<String>) {
        let reload = &mut self.lock().reload;
        reload.error = Some(error.into());
        reload.failures += 1;
    }

    /// How the last reload went.
    pub fn reload(&self) -> Reload {
        self.lock().reload.clone()
    }

    /// The answer to `/ready`: whether, and why not. A failed reload is told, but does not make the node unready: the
    /// last good configuration answers as well as before.
    pub fn ready(&self) -> (bool, String) {
        let others = self.others.get().and_then(|others| others());
        let state = self.lock();
        let is_ready = state.blockers.is_empty() && others.is_none();
        let mut body = String::new();
        if is_ready {
            body.push_str("OK\n");
        }
        // Our own reasons say more: one of the others may be ourselves.
        let others = others.filter(|_| state.blockers.is_empty());
        for reason in state.blockers.values().chain(&others) {
            body.push_str(reason);
            body.push('\n');
        }
        if let Some(error) = &state.reload.error {
            // Writing to a string cannot fail.
            let _ =
                writeln!(body, "last reload failed, the configuration before it is being served: {error}");
        }
        (is_ready, body)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_the_last_blocker_is_gone_and_until_the_drain() {
        let health = Health::new();
        health.block("upstream", "no upstream has answered yet");
        health.clear(START);
        assert_eq!(health.ready(), (false, "no upstream has answered yet\n".to_owned()));
        health.clear("upstream");
        assert_eq!(health.ready(), (true, "OK\n".to_owned()));
        health.drain();
        assert_eq!(health.ready(), (false, "draining\n".to_owned()));
    }

    #[test]
    fn a_bad_reload_is_told_and_does_not_make_it_unready() {
        let health = Health::new();
        health.clear(START);
        health.loaded("aa11", SystemTime::UNIX_EPOCH);
        health.load_failed("zones[0].name: expected a domain name");
        let (ready, body) = health.ready();
        assert!(ready && body.contains("last reload failed") && body.contains("zones[0].name"), "{body}");
        assert_eq!((health.reload().hash.as_str(), health.reload().failures), ("aa11", 1));
        health.loaded("bb22", SystemTime::UNIX_EPOCH);
        assert_eq!(health.ready().1, "OK\n");
        assert_eq!(health.reload().failures, 1, "a counter only grows");
    }
}
