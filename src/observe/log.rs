//! The log: events of `tracing` to stderr, as text or JSON, with level and format that follow a reload.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{Registry, fmt, reload};

use crate::config::{Log, LogFormat, LogLevel};

type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Changes the log while the process runs.
#[derive(Clone)]
pub struct LogHandle {
    layer: reload::Handle<BoxedLayer, Registry>,
}

impl std::fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogHandle").finish_non_exhaustive()
    }
}

/// Sets up the process's log; once. It fails if another subscriber was set before.
pub fn init(log: &Log) -> Result<LogHandle, TryInitError> {
    let (layer, handle) = reload::Layer::new(layer(log));
    tracing_subscriber::registry().with(layer).try_init()?;
    Ok(LogHandle { layer: handle })
}

impl LogHandle {
    /// Takes over `log.level` and `log.format`, from the next event on.
    pub fn configure(&self, log: &Log) {
        // It fails only when the subscriber is gone, and with it the process.
        let _ = self.layer.reload(layer(log));
    }
}

fn layer(log: &Log) -> BoxedLayer {
    let stderr = fmt::layer().with_writer(io::stderr).with_target(false);
    let formatted: BoxedLayer = match log.format {
        LogFormat::Text => stderr.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => stderr.json().flatten_event(true).boxed(),
    };
    formatted.and_then(level(log.level)).boxed()
}

/// The filter of a level; a lower one passes nothing of a higher one.
pub fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn log(level: LogLevel, format: LogFormat) -> Log {
        Log { level, format, ..Log::default() }
    }

    /// Remembers the messages that come through.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<String>>>);

    impl<S: tracing::Subscriber> Layer<S> for Seen {
        fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
            self.0.lock().expect("no panic under the lock").push(event.metadata().level().to_string());
        }
    }

    #[test]
    fn the_level_follows_a_reload() {
        let seen = Seen::default();
        let (reloadable, handle) = reload::Layer::new(layer(&log(LogLevel::Warn, LogFormat::Text)));
        let handle = LogHandle { layer: handle };
        let subscriber = tracing_subscriber::registry().with(reloadable).with(seen.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("too low");
            tracing::warn!("passes");
            handle.configure(&log(LogLevel::Debug, LogFormat::Json));
            tracing::debug!("passes now");
            tracing::trace!("still too low");
            handle.configure(&log(LogLevel::Error, LogFormat::Json));
            tracing::warn!("no longer");
        });
        assert_eq!(*seen.0.lock().expect("no panic under the lock"), ["WARN", "DEBUG"]);
    }
}
