//! The `nodens` command: arguments, exit codes, start and stop.

use std::io::Write as _;
use std::process::ExitCode;

use nodens::cli::{self, Command, EXIT_FAILURE, EXIT_OK, Exit, act};
use nodens::config::{ConfigError, Loaded};
use nodens::node::privileges;
use nodens::observe;
use nodens::run::{Process, Watch};
use tokio::signal::unix::{SignalKind, signal};

/// musl's allocator is slow under threads, and glibc's keeps what it freed. Under ThreadSanitizer (docs/fuzzing.md) it is the
/// system's, which that one sees through.
#[cfg(not(sanitized))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let exit = cli::parse(std::env::args_os()).and_then(execute).unwrap_or_else(|exit| exit);
    // Nobody may be there to read it; the exit code says the same.
    let _ = match exit.code {
        EXIT_OK => std::io::stdout().write_all(exit.message.as_bytes()),
        _ => std::io::stderr().write_all(exit.message.as_bytes()),
    };
    exit.code.into()
}

fn execute(command: Command) -> Result<Exit, Exit> {
    match command {
        Command::Run(options) => {
            let loaded = act::load(&options)?;
            act::check_zone_files(&loaded)?;
            let log = observe::log::init(&loaded.config.log).map_err(failure)?;
            privileges::require(&loaded.config).map_err(failure)?;
            // Before any thread starts: each has capabilities of its own.
            if let Err(error) = privileges::reduce() {
                tracing::warn!(%error, "keeping more privileges than needed");
            }
            if let Err(error) = nodens::sys::limits::raise_descriptors() {
                tracing::warn!(%error, "raising the limit of open descriptors");
            }
            runtime()?.block_on(serve(loaded, log, || act::load(&options))).map_err(failure)?;
            Ok(Exit { code: EXIT_OK, message: String::new() })
        }
        Command::Check(options) => act::check(&options),
        Command::ImportCorefile(options) => act::import_corefile(&options),
        Command::Cleanup(options) => runtime()?.block_on(act::cleanup(&options)),
    }
}

async fn serve(
    loaded: Loaded,
    log: observe::LogHandle,
    load: impl Fn() -> Result<Loaded, ConfigError>,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let watch = Watch::new(loaded.origin.clone());
    let process = Process::start(loaded, Some(log)).await?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    Ok(process.run(watch, load, stop).await?)
}

fn runtime() -> Result<tokio::runtime::Runtime, Exit> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failure)
}

fn failure(error: impl std::fmt::Display) -> Exit {
    Exit { code: EXIT_FAILURE, message: format!("nodens: {error}\n") }
}
