//! How instances on one node know of each other.
//!
//! Two instances live side by side during a hand-over, in two pods that share nothing but the network namespace: their
//! mount and pid namespaces differ and their root file systems may be read-only. Abstract unix sockets (unix(7)) are
//! scoped to exactly that namespace, need no file, and vanish with the process however it dies.
//!
//! - An instance holds one *slot*: the first free name `nodens/instance/N`. The slot also names its nftables table, so
//!   two instances never write to the same one.
//! - Until it is ready it holds `nodens/starting/N` as well: both listen on the health address, so a probe meant for the
//!   one may reach the other, which must not answer for it.
//! - Whoever changes what instances share (the interface, leftovers of the dead) holds `nodens/change` meanwhile.
//!
//! Any process in the network namespace may bind such a name. It can then keep the interface from being removed, or, with all
//! slots or the change lock, an instance from starting; one that runs goes on. Rules belong to their process and go with
//! it regardless.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::error::NodeError;

/// This process's membership in the set of instances on the node; ends when dropped.
#[derive(Debug)]
pub struct Instance {
    slot: u8,
    _held: UnixDatagram,
    starting: Mutex<Option<UnixDatagram>>,
}

impl Instance {
    /// Takes the first free slot of this network namespace.
    ///
    /// Fails with [`NodeError::TooManyInstances`] when [`MAX_INSTANCES`] already live.
    pub fn join() -> Result<Self, NodeError> {
        for slot in 1..=MAX_INSTANCES {
            if let Some(held) = hold(&slot_name(slot))? {
                // Nobody else takes the name of a slot that we hold; if somebody does, only probes are told less.
                let starting = Mutex::new(hold(&starting_name(slot))?);
                return Ok(Self { slot, _held: held, starting });
            }
        }
        Err(NodeError::TooManyInstances)
    }

    /// The slot, from 1.
    pub fn slot(&self) -> u8 {
        self.slot
    }

    /// Tells the others that this instance is ready for queries.
    pub fn started(&self) {
        *self.starting.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether another instance lives and is not just starting itself.
    pub fn has_predecessor(&self) -> bool {
        self.others().is_ok_and(|others| others.into_iter().any(|slot| !is_starting(slot)))
    }

    /// The slots of all other instances that live now.
    pub fn others(&self) -> Result<Vec<u8>, NodeError> {
        Ok(living()?.into_iter().filter(|&slot| slot != self.slot).collect())
    }
}

/// The slots of all instances that live in this network namespace.
pub fn living() -> Result<Vec<u8>, NodeError> {
    let mut slots = Vec::new();
    for slot in 1..=MAX_INSTANCES {
        if is_held(&slot_name(slot))? {
            slots.push(slot);
        }
    }
    Ok(slots)
}

/// Whether an instance in this network namespace has started and is not ready yet. What cannot be told is no reason to
/// hold anybody up.
pub fn any_is_starting() -> bool {
    (1..=MAX_INSTANCES).any(is_starting)
}

fn is_starting(slot: u8) -> bool {
    is_held(&starting_name(slot)).unwrap_or(false)
}

/// The right to change what instances share; given back when dropped.
#[derive(Debug)]
pub struct ChangeLock {
    _held: UnixDatagram,
}

impl ChangeLock {
    /// Waits for the right, at most [`CHANGE_TIMEOUT`].
    pub async fn acquire() -> Result<Self, NodeError> {
        let deadline = Instant::now() + CHANGE_TIMEOUT;
        loop {
            if let Some(held) = hold(CHANGE_NAME)? {
                return Ok(Self { _held: held });
            }
            if Instant::now() >= deadline {
                return Err(NodeError::Busy);
            }
            sleep(CHANGE_RETRY).await;
        }
    }
}

fn slot_name(slot: u8) -> String {
    format!("nodens/instance/{slot}")
}

fn starting_name(slot: u8) -> String {
    format!("nodens/starting/{slot}")
}

/// Binds the name; `None` when somebody else has it.
fn hold(name: &str) -> Result<Option<UnixDatagram>, NodeError> {
    let address = SocketAddr::from_abstract_name(name).map_err(|error| failed(name, error))?;
    match UnixDatagram::bind_addr(&address) {
        Ok(held) => Ok(Some(held)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(failed(name, error)),
    }
}

/// Whether somebody has the name. A datagram socket is looked up by connect(2) without the holder taking part.
fn is_held(name: &str) -> Result<bool, NodeError> {
    let address = SocketAddr::from_abstract_name(name).map_err(|error| failed(name, error))?;
    let probe = UnixDatagram::unbound().map_err(|error| failed(name, error))?;
    match probe.connect_addr(&address) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        Err(error) => Err(failed(name, error)),
    }
}

fn failed(name: &str, source: io::Error) -> NodeError {
    NodeError::Kernel { action: format!("use the abstract unix socket @{name}"), source }
}

/// Most instances in one network namespace. A hand-over has two, a crash loop beside it a third.
pub const MAX_INSTANCES: u8 = 8;

/// Longest wait for [`ChangeLock`]; a change takes some 10 ms.
pub const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a waiting instance looks again.
const CHANGE_RETRY: Duration = Duration::from_millis(10);

const CHANGE_NAME: &str = "nodens/change";
