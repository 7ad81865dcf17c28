//! How many TCP connections there are, and whether there may be one more.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

use prometheus::IntGauge;
use tokio::sync::Notify;

use crate::config::ListenTcp;
use crate::observe::ShedReason;

/// Counts open connections, in all and by client address.
#[derive(Debug, Default)]
pub struct Connections {
    by_client: RefCell<HashMap<IpAddr, usize>>,
    open: Cell<usize>,
    gauge: Option<IntGauge>,
    closed: Notify,
}

/// One counted connection.
pub(super) struct Permit {
    connections: Rc<Connections>,
    client: IpAddr,
}

impl Connections {
    /// None yet; their number is kept in `gauge`.
    pub fn new(gauge: IntGauge) -> Self {
        Self { gauge: Some(gauge), ..Self::default() }
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// Returns once none is open.
    pub async fn all_closed(&self) {
        // A connection that was accepted but not yet counted has had its turn first.
        tokio::task::yield_now().await;
        while self.open.get() > 0 {
            self.closed.notified().await;
        }
    }

    /// Counts a connection of `client`, unless there are as many as there may be.
    pub(super) fn admit(self: &Rc<Self>, client: IpAddr, limits: &ListenTcp) -> Result<Permit, ShedReason> {
        if self.open.get() >= limits.max_connections {
            return Err(ShedReason::TcpConnections);
        }
        let mut by_client = self.by_client.borrow_mut();
        let count = by_client.entry(client).or_default();
        if *count >= limits.max_connections_per_client {
            return Err(ShedReason::TcpClient);
        }
        *count += 1;
        self.open.set(self.open.get() + 1);
        // Up and down: during a reload the connections of two listeners are in it.
        if let Some(gauge) = &self.gauge {
            gauge.inc();
        }
        Ok(Permit { connections: Rc::clone(self), client })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let connections = &self.connections;
        connections.open.set(connections.open.get() - 1);
        if let Some(gauge) = &connections.gauge {
            gauge.dec();
        }
        if connections.open.get() == 0 {
            connections.closed.notify_one();
        }
        let mut by_client = connections.by_client.borrow_mut();
        if let Some(count) = by_client.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                by_client.remove(&self.client);
            }
        }
    }
}
