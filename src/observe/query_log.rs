//! The query log: one line a query, off by default, and never in the way of an answer.
//!
//! Each worker holds a [`QueryLogger`]. While the log is off, a query costs one relaxed load. While it is on, a logged
//! query is copied into a bounded queue without a lock or a system call; when the queue is full the line is dropped
//! and counted (`nodens_query_log_dropped_total`). A thread of its own takes the lines out, every [`PERIOD`], and
//! writes them to stdout: logs go to stderr, so the two do not mix.

mod format;

use std::fmt;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use prometheus::IntCounter;

use super::labels::{Outcome, Proto};
use crate::config::{LogFormat, QueryLog as Settings, Switch};

/// Lines that may wait for the writer. At a hundred bytes each, and a writer that comes every [`PERIOD`], this is
/// enough for 400,000 lines a second.
pub const QUEUE: usize = 8192;

/// How often the writer looks. It is not woken: waking it would be a system call for a worker.
pub const PERIOD: Duration = Duration::from_millis(20);

/// How often it looks while the log is off: for the last lines of a worker that had not seen it yet.
const PERIOD_OFF: Duration = Duration::from_secs(1);

/// One answered query, as the worker knows it.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// When it was answered.
    pub at: SystemTime,
    /// Who asked.
    pub client: SocketAddr,
    /// Over what.
    pub proto: Proto,
    /// The name in wire format, without compression, in the client's own letter case.
    pub name: &'a [u8],
    /// The type asked for.
    pub qtype: u16,
    /// The class asked for.
    pub qclass: u16,
    /// How it was answered.
    pub outcome: Outcome,
    /// Which upstream answered, where one did.
    pub upstream: Option<SocketAddr>,
    /// Microseconds from receiving the query to sending the answer.
    pub micros: u32,
    /// Bytes of the answer.
    pub size: u32,
}

/// An [`Entry`] on its way to the writer.
#[derive(Debug)]
struct Line {
    at: SystemTime,
    client: SocketAddr,
    proto: Proto,
    name: Box<[u8]>,
    qtype: u16,
    qclass: u16,
    outcome: Outcome,
    upstream: Option<SocketAddr>,
    micros: u32,
    size: u32,
}

/// The process's query log: its switch and its writer. A clone is the same.
#[derive(Clone)]
pub struct QueryLog {
    shared: Arc<Shared>,
}

/// One worker's end of it.
#[derive(Debug)]
pub struct QueryLogger {
    shared: Arc<Shared>,
    random: u64,
}

struct Shared {
    /// Of 2³² queries so many are logged: 0 is off, 2³² is all.
    share: AtomicU64,
    format: AtomicU8,
    dropped: IntCounter,
    /// Made when the log is first turned on: a queue nobody needs costs no memory.
    queue: OnceLock<SyncSender<Line>>,
    writer: Mutex<Option<Writer>>,
    output: Mutex<Option<Box<dyn Write + Send>>>,
}

struct Writer {
    stop: SyncSender<()>,
    done: Receiver<()>,
    thread: JoinHandle<()>,
}

const ALL: u64 = 1 << 32;

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryLog").field("share", &self.share).finish_non_exhaustive()
    }
}

impl fmt::Debug for QueryLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}

impl QueryLog {
    /// A log to stdout, off. `dropped` counts the lines that found no room.
    pub fn new(dropped: IntCounter) -> Self {
        Self::to(Box::new(io::stdout()), dropped)
    }

    /// A log to `output`, off.
    pub fn to(output: Box<dyn Write + Send>, dropped: IntCounter) -> Self {
        Self {
            shared: Arc::new(Shared {
                share: AtomicU64::new(0),
                format: AtomicU8::new(LogFormat::Text as u8),
                dropped,
                queue: OnceLock::new(),
                writer: Mutex::new(None),
                output: Mutex::new(Some(output)),
            }),
        }
    }

    /// Turns it on or off, at start and at every reload (`log.queries`, `log.format`).
    ///
    /// It fails when the kernel gives no thread for the writer; the log is then as it was before.
    pub fn configure(&self, queries: &Switch<Settings>, format: LogFormat) -> io::Result<()> {
        #[expect(clippy::cast_sign_loss, reason = "a fraction is from 0 to 1")]
        let share = queries.on().map_or(0, |settings| (settings.sample.0 * ALL as f64) as u64);
        self.shared.format.store(format as u8, Relaxed);
        if share > 0 {
            self.start_writer()?;
        }
        self.shared.share.store(share, Relaxed);
        if let Some(writer) = &*self.shared.writer.lock().unwrap_or_else(PoisonError::into_inner) {
            // Back from its long pause.
            writer.thread.thread().unpark();
        }
        Ok(())
    }

    /// An end for one worker.
    pub fn logger(&self) -> QueryLogger {
        // Any seed that is not 0 does; the ends of one process shall not sample in step.
        static SEED: AtomicU64 = AtomicU64::new(0x9e37_79b9_7f4a_7c15);
        let random = SEED.fetch_add(0xbf58_476d_1ce4_e5b9, Relaxed) | 1;
        QueryLogger { shared: self.shared.clone(), random }
    }

    /// Turns it off and writes what is waiting, but waits no longer than `patience`: whoever reads stdout may be stuck.
    /// Returns whether everything was written.
    pub fn close(&self, patience: Duration) -> bool {
        self.shared.share.store(0, Relaxed);
        let Some(writer) = self.shared.writer.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return true;
        };
        // Neither end fails while the writer lives; if it does not, there is nothing to wait for.
        let _ = writer.stop.try_send(());
        writer.thread.thread().unpark();
        writer.done.recv_timeout(patience).is_ok()
    }

    fn start_writer(&self) -> io::Result<()> {
        let mut writer = self.shared.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if writer.is_some() {
            return Ok(());
        }
        let output = self.shared.output.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The output went with the writer: a log that was closed stays closed.
        let Some(output) = output else { return Ok(()) };
        let (sender, lines) = sync_channel(QUEUE);
        let (stop, stopped) = sync_channel(1);
        let (finished, done) = sync_channel(1);
        let shared = Arc::downgrade(&self.shared);
        let thread = thread::Builder::new().name("query-log".to_owned()).spawn(move || {
            let mut output = BufWriter::with_capacity(64 << 10, output);
            let mut json = false;
            loop {
                let stopping = !matches!(stopped.try_recv(), Err(TryRecvError::Empty));
                let settings = shared.upgrade().map(|shared| {
                    json = shared.format.load(Relaxed) == LogFormat::Json as u8;
                    shared.share.load(Relaxed)
                });
                if let Err(error) = write_waiting(&lines, &mut output, json) {
                    tracing::debug!(%error, "query log: cannot write");
                }
                match settings {
                    None => break,
                    Some(_) if stopping => break,
                    Some(0) => thread::park_timeout(PERIOD_OFF),
                    Some(_) => thread::park_timeout(PERIOD),
                }
            }
            let _ = finished.try_send(());
        })?;
        // Set once: this is the only place, and the writer's lock is held.
        let _ = self.shared.queue.set(sender);
        *writer = Some(Writer { stop, done, thread });
        Ok(())
    }
}

impl QueryLogger {
    /// Whether the next query is to be logged; ask once a query. It says no at the price of one load while the log is
    /// off.
    #[inline]
    pub fn wants(&mut self) -> bool {
        let share = self.shared.share.load(Relaxed);
        share != 0 && self.sampled(share)
    }

    /// Logs a query that was wanted. It never waits.
    pub fn log(&self, entry: &Entry<'_>) {
        let Some(queue) = self.shared.queue.get() else { return };
        let line = Line {
            at: entry.at,
            client: entry.client,
            proto: entry.proto,
            name: entry.name.into(),
            qtype: entry.qtype,
            qclass: entry.qclass,
            outcome: entry.outcome,
            upstream: entry.upstream,
            micros: entry.micros,
            size: entry.size,
        };
        if queue.try_send(line).is_err() {
            self.shared.dropped.inc();
        }
    }

    /// Marsaglia's xorshift64: fair enough for a sample, and five instructions.
    fn sampled(&mut self, share: u64) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 32 < share
    }
}

/// Writes every line that waits, and flushes.
fn write_waiting(lines: &Receiver<Line>, output: &mut impl Write, json: bool) -> io::Result<()> {
    let mut result = Ok(());
    // At most a queue's length at a time, so that a flood cannot keep the flush away. After an error the lines are
    // still taken out: they are lost, but the queue does not stand full.
    for line in lines.try_iter().take(QUEUE) {
        if result.is_ok() {
            result = if json { format::json(&line, output) } else { format::text(&line, output) };
        }
    }
    result.and_then(|()| output.flush())
}

#[cfg(test)]
mod tests {
    use std::sync::Condvar;
    use std::time::Instant;

    use super::super::labels::{Kind, Source};
    use super::*;
    use crate::config::Fraction;

    /// An output that can be held up.
    #[derive(Clone, Default)]
    struct Sink(Arc<(Mutex<(String, bool)>, Condvar)>);

    impl Sink {
        fn text(&self) -> String {
            self.0.0.lock().expect("no panic under the lock").0.clone()
        }

        fn hold(&self, held: bool) {
            self.0.0.lock().expect("no panic under the lock").1 = held;
            self.0.1.notify_all();
        }
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let state = self.0.0.lock().expect("no panic under the lock");
            let mut state = self.0.1.wait_while(state, |state| state.1).expect("no panic under the lock");
            state.0.push_str(std::str::from_utf8(bytes).expect("the log is UTF-8"));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log() -> (QueryLog, Sink, IntCounter) {
        let (sink, dropped) = (Sink::default(), IntCounter::new("dropped", "dropped").expect("a valid name"));
        (QueryLog::to(Box::new(sink.clone()), dropped.clone()), sink, dropped)
    }

    fn on(share: f64) -> Switch<Settings> {
        Switch::On(Settings { sample: Fraction(share) })
    }

    fn entry(name: &[u8]) -> Entry<'_> {
        Entry {
            at: SystemTime::UNIX_EPOCH,
            client: "10.1.2.3:41234".parse().expect("an address"),
            proto: Proto::Udp,
            name,
            qtype: 1,
            qclass: 1,
            outcome: Outcome::new(Source::Near, 0, Kind::Positive),
            upstream: None,
            micros: 12,
            size: 60,
        }
    }

    #[test]
    fn off_asks_for_nothing_and_starts_no_thread() {
        let (log, sink, _) = log();
        let mut logger = log.logger();
        assert!((0..1000).all(|_| !logger.wants()));
        log.configure(&Switch::Off, LogFormat::Text).expect("nothing to start");
        assert!(log.shared.queue.get().is_none());
        assert!(log.close(Duration::ZERO) && sink.text().is_empty());
    }

    #[test]
    fn on_writes_every_line_and_a_reload_changes_the_format() {
        let (log, sink, dropped) = log();
        let mut logger = log.logger();
        log.configure(&on(1.0), LogFormat::Text).expect("a thread");
        for _ in 0..100 {
            assert!(logger.wants());
            logger.log(&entry(b"\x01a\x00"));
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while sink.text().lines().count() < 100 {
            assert!(Instant::now() < deadline, "the writer wrote {:?}", sink.text());
            thread::yield_now();
        }
        log.configure(&on(1.0), LogFormat::Json).expect("the same thread");
        logger.log(&entry(b"\x01b\x00"));
        assert!(log.close(Duration::from_secs(10)));
        let text = sink.text();
        assert_eq!((text.lines().count(), dropped.get()), (101, 0));
        assert!(text.lines().last().expect("101 lines").starts_with('{'), "{text}");
        assert!(!logger.wants(), "closed is off");
    }

    #[test]
    fn a_stuck_reader_costs_lines_and_not_answers() {
        let (log, sink, dropped) = log();
        sink.hold(true);
        log.configure(&on(1.0), LogFormat::Text).expect("a thread");
        let logger = log.logger();
        let lines = 3 * QUEUE as u64;
        for _ in 0..lines {
            logger.log(&entry(b"\x01a\x00"));
        }
        assert!(
            dropped.get() >= QUEUE as u64,
            "only a queue and a batch find room, not {}",
            lines - dropped.get()
        );
        assert!(!log.close(Duration::from_millis(10)), "a close does not wait for a stuck reader");
        sink.hold(false);
    }

    #[test]
    fn a_sample_is_about_as_large_as_asked_for() {
        let (log, ..) = log();
        log.configure(&on(0.1), LogFormat::Text).expect("a thread");
        let mut logger = log.logger();
        let wanted = (0..100_000).filter(|_| logger.wants()).count();
        // Ten standard deviations of a fair sample: 10,000 ± 950.
        assert!((9_050..10_950).contains(&wanted), "{wanted}");
        assert!(log.close(Duration::from_secs(10)));
    }
}
