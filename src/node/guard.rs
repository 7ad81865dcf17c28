//! The tasks that keep the interface and the rules as they were set up.
//!
//! Both wait for the kernel's own notice of a change (rtnetlink link and address groups, the nftables group of
//! nfnetlink), let a burst settle for [`SETTLE`], look, and repair. A notice can be lost when the kernel's queue to us
//! overflows, so both also look now and then unasked.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex as BlockingMutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use netlink_packet_core::{NetlinkPayload, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::accept;
use super::counters::Counters;
use super::error::NodeError;
use super::instances::Instance;
use super::interface::{self, Changes, Ensured};
use super::nfnetlink::{NFGENMSG_LEN, messages};
use super::notrack::{Rules, Wanted};
use crate::config::Interface;

/// A task that ends with its owner.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Keeps the interface; ends when dropped. The interface stays.
#[derive(Debug)]
pub(crate) struct InterfaceGuard {
    kept: Arc<KeptInterface>,
    _task: Task,
}

#[derive(Debug)]
struct KeptInterface {
    handle: Handle,
    interface: Interface,
    /// Held across a repair, so that an update and a repair do not undo each other.
    addresses: Mutex<Vec<IpAddr>>,
    index: AtomicU32,
    instance: Arc<Instance>,
    counters: Arc<Counters>,
}

impl InterfaceGuard {
    /// Guards an interface that [`interface::ensure`] has set up.
    pub(crate) fn start(
        handle: Handle,
        interface: Interface,
        index: u32,
        addresses: Vec<IpAddr>,
        instance: Arc<Instance>,
        counters: Arc<Counters>,
    ) -> Self {
        let addresses = Mutex::new(addresses);
        let index = AtomicU32::new(index);
        let kept = Arc::new(KeptInterface { handle, interface, addresses, index, instance, counters });
        let task = Task(tokio::spawn(watch_interface(Arc::clone(&kept))));
        Self { kept, _task: task }
    }

    /// Changes the set of addresses: what is new is added; what is old is removed unless another instance lives, which
    /// may still serve it and prunes it once it is alone.
    pub(crate) async fn set_addresses(&self, wanted: &[IpAddr]) -> Result<(), NodeError> {
        let kept = &*self.kept;
        let mut addresses = kept.addresses.lock().await;
        let old: Vec<_> = addresses.iter().copied().filter(|address| !wanted.contains(address)).collect();
        // What cannot be set up now is what a repair has to set up.
        *addresses = wanted.to_vec();
        let ensured = interface::ensure(&kept.handle, &kept.interface, wanted, false).await?;
        kept.index.store(ensured.index, Ordering::Relaxed);
        if kept.instance.others()?.is_empty() {
            interface::remove_addresses(&kept.handle, &kept.interface, &old).await?;
        }
        ensured.refused
    }

    /// Ends the guard, after a repair that is under way.
    pub(crate) async fn stop(self) {
        let kept = Arc::clone(&self.kept);
        let _no_repair = kept.addresses.lock().await;
        drop(self);
    }
}

impl KeptInterface {
    async fn check(&self, prune: bool) {
        let addresses = self.addresses.lock().await;
        let prune = prune && self.instance.others().is_ok_and(|others| others.is_empty());
        match interface::ensure(&self.handle, &self.interface, &addresses, prune).await {
            Ok(Ensured { index, changes, refused }) => {
                self.index.store(index, Ordering::Relaxed);
                if !changes.is_empty() {
                    let Changes { created, raised, added, removed } = changes;
                    self.counters.count_interface_repair();
                    tracing::warn!(
                        interface = self.interface.name,
                        ?created,
                        raised,
                        ?added,
                        ?removed,
                        "the interface was changed from outside and has been repaired"
                    );
                }
                if let Err(error) = refused {
                    self.repair_failed(&error);
                }
            }
            Err(error) => self.repair_failed(&error),
        }
    }

    fn repair_failed(&self, error: &NodeError) {
        self.counters.count_failure();
        tracing::error!(interface = self.interface.name, %error, "the interface could not be repaired");
    }

    /// Whether a notice is about our interface.
    fn is_concerned(&self, message: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
        let index = self.index.load(Ordering::Relaxed);
        match message {
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link),
            ) => link.header.index == index || interface::name(link) == Some(&self.interface.name),
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address),
            ) => address.header.index == index,
            // Notices were lost: any of them may have been about ours.
            NetlinkPayload::Overrun(_) => true,
            _ => false,
        }
    }
}

async fn watch_interface(kept: Arc<KeptInterface>) {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    loop {
        match new_multicast_connection(&groups) {
            Ok((connection, _handle, mut notices)) => {
                let _connection = Task(tokio::spawn(connection));
                // What happened before the subscription was not announced.
                kept.check(true).await;
                let mut unasked = interval(UNASKED_INTERFACE);
                unasked.set_missed_tick_behavior(MissedTickBehavior::Delay);
                unasked.reset();
                loop {
                    let prune = tokio::select! {
                        notice = notices.next() => match notice {
                            Some((message, _)) if kept.is_concerned(&message.payload) => false,
                            Some(_) => continue,
                            None => break,
                        },
                        _ = unasked.tick() => true,
                    };
                    sleep(SETTLE).await;
                    while notices.try_recv().is_ok() {}
                    kept.check(prune).await;
                }
            }
            Err(error) => {
                kept.counters.count_failure();
                tracing::error!(%error, "cannot listen to changes of interfaces; looking once a second instead");
                kept.check(true).await;
            }
        }
        sleep(RESUBSCRIBE).await;
    }
}

/// Keeps the rules; ends when dropped, and the rules of an owned table with it.
#[derive(Debug)]
pub(crate) struct RulesGuard {
    kept: Arc<KeptRules>,
    _task: Task,
}

#[derive(Debug)]
struct KeptRules {
    /// `None` once they are taken back. Only held on the blocking pool: a transaction may wait for the kernel.
    rules: BlockingMutex<Option<Rules>>,
    /// Kept beside the rules so that a notice is judged without the lock.
    table: String,
    has_accept_rules: AtomicBool,
    counters: Arc<Counters>,
}

impl RulesGuard {
    /// Guards rules; they need not be applied yet.
    pub(crate) fn start(rules: Rules, counters: Arc<Counters>) -> Self {
        let table = rules.table().to_owned();
        let rules = BlockingMutex::new(Some(rules));
        let kept = Arc::new(KeptRules { rules, table, has_accept_rules: AtomicBool::new(false), counters });
        let task = Task(tokio::spawn(watch_rules(Arc::clone(&kept))));
        Self { kept, _task: task }
    }

    /// Puts other rules in force, in one transaction.
    pub(crate) async fn apply(&self, wanted: Wanted) -> Result<(), NodeError> {
        self.kept.has_accept_rules.store(!wanted.accept.is_empty(), Ordering::Relaxed);
        self.kept.with(move |rules| rules.apply(wanted)).await.unwrap_or(Ok(()))
    }

    /// Ends the guard and gives the rules back, still in force.
    pub(crate) async fn stop(self) -> Option<Rules> {
        let kept = Arc::clone(&self.kept);
        drop(self);
        run_blocking(move || kept.rules.lock().unwrap_or_else(PoisonError::into_inner).take()).await
    }
}

impl KeptRules {
    async fn with<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Rules) -> T + Send + 'static,
    ) -> Option<T> {
        let kept = Arc::clone(self);
        run_blocking(move || kept.rules.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(work))
            .await
    }

    async fn check(self: &Arc<Self>) {
        match self.with(Rules::repair).await {
            None | Some(Ok(false)) => {}
            Some(Ok(true)) => {
                self.counters.count_rule_repair();
                tracing::warn!("the nftables rules were changed from outside and have been repaired");
            }
            Some(Err(error)) => {
                self.counters.count_failure();
                tracing::error!(%error, "the nftables rules could not be repaired");
            }
        }
    }

    /// Whether a datagram of notices is about rules of ours.
    fn is_concerned(&self, datagram: &[u8]) -> bool {
        messages(datagram).filter_map(|message| changed_table(message.message_type(), message.payload())).any(
            |table| {
                table == self.table
                    || (table == accept::TABLE && self.has_accept_rules.load(Ordering::Relaxed))
            },
        )
    }
}

async fn watch_rules(kept: Arc<KeptRules>) {
    loop {
        match subscribe() {
            Ok(socket) => {
                kept.check().await;
                let mut unasked = interval(UNASKED_RULES);
                unasked.set_missed_tick_behavior(MissedTickBehavior::Delay);
                unasked.reset();
                let mut last_check = Instant::now();
                loop {
                    tokio::select! {
                        notice = socket.recv_from_full() => match notice {
                            Ok((datagram, _)) if kept.is_concerned(&datagram) => {}
                            Ok(_) => continue,
                            // Notices were lost: any of them may have been about ours.
                            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                            Err(_) => break,
                        },
                        _ = unasked.tick() => {}
                    }
                    // A program that keeps changing the rules must not keep us busy.
                    sleep(if last_check.elapsed() < BUSY { SETTLE_BUSY } else { SETTLE }).await;
                    while socket.socket_ref().recv_from_full().is_ok() {}
                    kept.check().await;
                    last_check = Instant::now();
                }
            }
            Err(error) => {
                kept.counters.count_failure();
                tracing::error!(%error, "cannot listen to changes of nftables; looking once a second instead");
                kept.check().await;
            }
        }
        sleep(RESUBSCRIBE).await;
    }
}

fn subscribe() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
    socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
    socket.socket_mut().add_membership(NFNLGRP_NFTABLES)?;
    Ok(socket)
}

/// The table whose existence, chains or rules a notice is about. Sets and elements, which kube-proxy changes all the
/// time, are none of our business.
fn changed_table(kind: u16, payload: &[u8]) -> Option<String> {
    let [subsystem, message] = kind.to_be_bytes();
    if subsystem != NFNL_SUBSYS_NFTABLES || message > NFT_MSG_DELRULE {
        return None;
    }
    let attributes = NlasIterator::new(payload.get(NFGENMSG_LEN..)?);
    let table = attributes.filter_map(Result::ok).find(|attribute| attribute.kind() == NFTA_TABLE)?;
    let name = table.value().strip_suffix(&[0]).unwrap_or(table.value());
    String::from_utf8(name.to_vec()).ok()
}

/// Runs work that may wait for the kernel. A panic in it is passed on.
pub(crate) async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The pool cancels work only when the runtime is shut down, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// How long a burst of changes may settle before it is looked at; a repair is to take less than a second.
const SETTLE: Duration = Duration::from_millis(30);

/// The same when the rules were looked at less than [`BUSY`] ago.
const SETTLE_BUSY: Duration = Duration::from_millis(300);

/// See [`SETTLE_BUSY`].
const BUSY: Duration = Duration::from_secs(2);

/// How often the interface is looked at unasked: two small requests.
const UNASKED_INTERFACE: Duration = Duration::from_secs(10);

/// How often the rules are looked at unasked: one dump of our own table.
const UNASKED_RULES: Duration = Duration::from_secs(10);

/// Wait before a new subscription after one has ended.
const RESUBSCRIBE: Duration = Duration::from_secs(1);

/// `NFNLGRP_NFTABLES` (include/uapi/linux/netfilter/nfnetlink.h).
const NFNLGRP_NFTABLES: u32 = 7;

/// `NFNL_SUBSYS_NFTABLES` (include/uapi/linux/netfilter/nfnetlink.h).
const NFNL_SUBSYS_NFTABLES: u8 = 10;

/// `NFT_MSG_DELRULE` (include/uapi/linux/netfilter/nf_tables.h); tables, chains and rules have the numbers up to it.
const NFT_MSG_DELRULE: u8 = 8;

/// `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE` and `NFTA_RULE_TABLE` (include/uapi/linux/netfilter/nf_tables.h).
const NFTA_TABLE: u16 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(message: u8, attribute: u16, name: &str) -> (u16, Vec<u8>) {
        let mut payload = vec![1, 0, 0, 0];
        payload.extend((name.len() as u16 + 5).to_ne_bytes());
        payload.extend(attribute.to_ne_bytes());
        payload.extend(name.as_bytes());
        payload.push(0);
        payload.resize(payload.len().next_multiple_of(4), 0);
        (u16::from_be_bytes([NFNL_SUBSYS_NFTABLES, message]), payload)
    }

    #[test]
    fn a_notice_names_the_table_it_is_about() {
        let (kind, payload) = notice(NFT_MSG_DELRULE, NFTA_TABLE, "nodens");
        assert_eq!(changed_table(kind, &payload).as_deref(), Some("nodens"));
    }

    #[test]
    fn notices_about_sets_and_broken_ones_are_passed_over() {
        let (kind, payload) = notice(12, NFTA_TABLE, "nodens");
        assert_eq!(changed_table(kind, &payload), None);
        let (kind, payload) = notice(2, NFTA_TABLE, "nodens");
        assert_eq!(changed_table(kind, &payload[..9]), None);
        assert_eq!(changed_table(kind, &[]), None);
        assert_eq!(changed_table(0x0102, &payload), None);
    }
}
