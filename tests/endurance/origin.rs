//! An upstream over TCP that answers by the rule, one query after another on a connection as CoreDNS does, and fails as it is
//! told.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::SockRef;

use super::rule;

/// How often threads look whether they are to end.
const TICK: Duration = Duration::from_millis(20);

/// A running upstream; gone when dropped.
pub(crate) struct Origin {
    address: SocketAddr,
    state: Arc<State>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    stopped: AtomicBool,
    silent: AtomicBool,
    /// With RST; else with FIN.
    reset: AtomicBool,
    /// Connections older than the last of these are to close.
    cuts: AtomicU64,
    answered: AtomicU64,
    connections: Mutex<Vec<JoinHandle<()>>>,
}

impl Origin {
    /// Starts at this address.
    pub(crate) fn start(address: SocketAddr) -> Self {
        let mut origin = Self { address, state: Arc::default(), acceptor: None };
        origin.listen();
        origin
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    fn listen(&mut self) {
        let listener = TcpListener::bind(self.address).expect("the port is free");
        listener.set_nonblocking(true).expect("O_NONBLOCK");
        self.state.stopped.store(false, Ordering::SeqCst);
        let state = Arc::clone(&self.state);
        self.acceptor = Some(thread::spawn(move || accept(&state, &listener)));
    }

    /// Stops listening and closes every connection.
    pub(crate) fn stop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().expect("the acceptor does not panic");
        }
        for connection in self.state.connections.lock().unwrap().drain(..) {
            connection.join().expect("a connection's thread does not panic");
        }
    }

    /// Listens again where it did.
    pub(crate) fn start_again(&mut self) {
        self.listen();
    }

    /// Closes every connection, with RST or FIN; listens on.
    pub(crate) fn cut(&self, reset: bool) {
        self.state.reset.store(reset, Ordering::SeqCst);
        self.state.cuts.fetch_add(1, Ordering::SeqCst);
    }

    /// Reads and says nothing from now on, or answers again.
    pub(crate) fn silence(&self, silent: bool) {
        self.state.silent.store(silent, Ordering::SeqCst);
    }

    /// Queries answered.
    pub(crate) fn answered(&self) -> u64 {
        self.state.answered.load(Ordering::SeqCst)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
    }
}

fn accept(state: &Arc<State>, listener: &TcpListener) {
    while !state.stopped.load(Ordering::SeqCst) {
        let Ok((stream, _)) = listener.accept() else {
            thread::sleep(TICK);
            continue;
        };
        let serving = Arc::clone(state);
        let mut connections = state.connections.lock().unwrap();
        connections.retain(|connection| !connection.is_finished());
        connections.push(thread::spawn(move || serve(&serving, stream)));
    }
}

fn serve(state: &State, mut stream: TcpStream) {
    stream.set_nonblocking(false).expect("blocking");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    stream.set_read_timeout(Some(TICK)).expect("a timeout above 0");
    let born = state.cuts.load(Ordering::SeqCst);
    let (mut read, mut buffer) = (Vec::new(), [0; 16_384]);
    while !state.stopped.load(Ordering::SeqCst) {
        if state.cuts.load(Ordering::SeqCst) != born {
            if state.reset.load(Ordering::SeqCst) {
                // SO_LINGER 0: close sends RST.
                SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
            }
            return;
        }
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => read.extend_from_slice(&buffer[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(_) => return,
        }
        let mut replies = Vec::new();
        while let Some((frame, length)) = frame_of(&read) {
            if !state.silent.load(Ordering::SeqCst) {
                let reply = rule::reply(frame).expect("nodens asks for nothing but what it was asked for");
                replies.extend_from_slice(&crate::support::client::frame(&reply));
                state.answered.fetch_add(1, Ordering::SeqCst);
            }
            read.drain(..length);
        }
        if stream.write_all(&replies).is_err() {
            return;
        }
    }
}

/// The first message, and its length with that of the length field.
fn frame_of(read: &[u8]) -> Option<(&[u8], usize)> {
    let length = 2 + usize::from(u16::from_be_bytes(*read.first_chunk()?));
    Some((read.get(2..length)?, length))
}
