//! A UDP worker: one thread, one socket, blocking receives in batches, and every hit answered on the spot.
//!
//! The way of a hit: [`Batch::receive`] → [`HitPath::read`] → [`HitPath::prefetch`] → [`HitPath::plan`] → [`Batch::reply`].

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{io, thread};

use super::hit::HitPath;
use crate::sys::clock;
use crate::sys::mmsg::Batch;
use crate::sys::socket::UdpListener;

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    listener: Arc<UdpListener>,
    stopping: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Worker {
    /// Starts a worker on a thread of its own, which answers what `listener` receives.
    pub fn spawn(hit_path: HitPath, listener: Arc<UdpListener>, index: usize) -> io::Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        let (socket, stop) = (Arc::clone(&listener), Arc::clone(&stopping));
        let thread = thread::Builder::new()
            .name(format!("udp-{index}"))
            .spawn(move || run(hit_path, &socket, &stop))?;
        Ok(Self { listener, stopping, thread })
    }

    /// Has the kernel choose other sockets for new packets; what this one has received stays readable.
    pub fn stop_attracting(&self) {
        if let Err(error) = self.listener.stop_attracting() {
            let address = self.listener.address();
            tracing::warn!(%error, %address, "the socket still attracts packets while it drains");
        }
    }

    /// Makes the worker answer what it has received and end. Does not wait for it.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        if let Err(error) = self.listener.shut_down() {
            let address = self.listener.address();
            tracing::warn!(%error, %address, "the worker ends with the next packet only");
        }
    }

    /// Waits for the worker to end.
    pub fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("a UDP worker panicked");
        }
    }
}

/// Answers until `stopping`, then what was received by then.
fn run(mut hit_path: HitPath, listener: &Arc<UdpListener>, stopping: &AtomicBool) {
    let mut batch = Batch::new();
    let socket = listener.as_fd();
    loop {
        let draining = stopping.load(Ordering::Acquire);
        let count = match batch.receive(socket, !draining) {
            // Woken to stop.
            Ok(0) => continue,
            Ok(count) => count,
            Err(error) if draining && error.kind() == io::ErrorKind::WouldBlock => return,
            // A signal, or the ICMP error of an earlier reply: it says nothing about this receive.
            Err(_) => continue,
        };
        hit_path.begin(clock::now());
        for index in 0..count {
            hit_path.read(index, &batch.datagram(index));
        }
        hit_path.prefetch(count);
        for index in 0..count {
            hit_path.plan(index, batch.datagram(index), listener);
        }
        let (sent, _) = batch.reply(socket, |index| hit_path.reply(index));
        hit_path.finish(sent);
    }
}
