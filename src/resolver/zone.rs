//! The zones, the upstreams behind them, and which of them a name belongs to: one immutable set per configuration.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;

use super::exchange::Exchange;
use super::fixed::{FixedAnswerError, FixedAnswers};
use super::policy::Policy;
use super::rewrite::Rewrites;
use crate::authority::{Hosts, Special, ZoneFile, ZoneFileError, records};
use crate::cache::{Entry, Key};
use crate::config::name::{self, NameError};
use crate::config::{self, Config, Forward, UpstreamAddress, resolv_conf};
use crate::observe::{ZoneId, Zones};
use crate::wire::answer::{Answer, Kind};
use crate::wire::name::is_at_or_below;

/// Everything a configuration says of where names are looked up.
pub(super) struct Tables<U> {
    zones: Vec<Rc<Zone<U>>>,
    by_name: HashMap<Box<[u8]>, usize>,
    longest: usize,
    hosts: Hosts,
    rewrites: Rewrites,
    /// For names in no zone: hosts and special names.
    pub(super) policy: Policy,
    listen: Vec<SocketAddr>,
}

/// One zone.
pub(super) struct Zone<U> {
    /// Its number in the counters.
    pub(super) id: ZoneId,
    name: Box<[u8]>,
    spec: config::Zone,
    /// TTL bounds and the like.
    pub(super) policy: Policy,
    fixed: FixedAnswers,
    /// DNS64's prefix and whether it goes before real AAAA records.
    pub(super) dns64: Option<config::Dns64>,
    /// Where its names are looked up.
    pub(super) source: Source<U>,
}

/// Where a zone's names are looked up.
pub(super) enum Source<U> {
    /// At upstreams, but for names below `except`.
    Forward { forwarder: Rc<Forwarder<U>>, except: Vec<Box<[u8]>> },
    /// In a file; replaced when the file changes.
    File(RefCell<Rc<ZoneFile>>),
    /// Nowhere: fixed answers stand alone.
    Nowhere,
}

/// A group of upstreams, shared by all zones that forward alike.
pub(super) struct Forwarder<U> {
    spec: Forward,
    /// The upstreams.
    pub(super) upstream: U,
    addresses: RefCell<Vec<SocketAddr>>,
    /// Lookups on their way.
    pub(super) in_flight: Cell<usize>,
}

/// Where a question's answer comes from.
pub(super) enum Route<U> {
    /// From here.
    Local(Local<U>),
    /// From a zone's file or upstreams, under `target` where the name is rewritten.
    Zone { zone: Rc<Zone<U>>, target: Option<Box<[u8]>> },
    /// From nobody: no zone covers it.
    Nowhere,
}

/// An answer made here.
pub(super) struct Local<U> {
    pub(super) answer: Answer,
    /// The zone the name lies in, if any.
    pub(super) zone: Option<Rc<Zone<U>>>,
}

/// Why a configuration cannot be put to work. Nothing of it is applied then.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// A name that is none.
    #[error("{name:?}: expected {source}")]
    Name {
        /// What stands there.
        name: String,
        /// What was expected.
        #[source]
        source: NameError,
    },
    /// `hosts` or `rewrite` hold a name that is none.
    #[error("hosts or rewrite: expected {0}")]
    Names(#[from] NameError),
    /// A fixed answer that says nothing sensible.
    #[error(transparent)]
    FixedAnswer(#[from] FixedAnswerError),
    /// A zone's file cannot be served.
    #[error(transparent)]
    ZoneFile(#[from] ZoneFileError),
    /// A resolv.conf cannot be read.
    #[error(transparent)]
    ResolvConf(#[from] resolv_conf::ReadError),
}

/// Opens a group of upstreams.
pub(super) type Open<U> = dyn Fn(&Forward, Vec<SocketAddr>) -> U;

impl<U: Exchange> Tables<U> {
    /// Builds the tables. Upstreams of `old` whose settings are unchanged are taken over, connections, health and all.
    pub(super) fn build(
        config: &Config,
        old: Option<&Self>,
        ids: &Zones,
        open: &Open<U>,
    ) -> Result<Self, TablesError> {
        let listen: Vec<_> =
            config.listen.addresses.iter().map(|&ip| SocketAddr::new(ip, config.listen.port)).collect();
        let mut forwarders: Vec<Rc<Forwarder<U>>> = Vec::new();
        let mut zones = Vec::with_capacity(config.zones.len());
        for spec in &config.zones {
            let wire = name::to_wire(&spec.name)
                .map_err(|source| TablesError::Name { name: spec.name.clone(), source })?;
            let source = match (&spec.forward, &spec.file) {
                (Some(forward), _) => {
                    let spec = Forward { except: Vec::new(), ..forward.clone() };
                    let known = forwarders.iter().chain(old.into_iter().flat_map(Tables::forwarders));
                    let forwarder = match known.into_iter().find(|known| known.spec == spec) {
                        Some(known) => Rc::clone(known),
                        None => Rc::new(Forwarder::new(spec, &listen, open)?),
                    };
                    forwarders.push(Rc::clone(&forwarder));
                    let except = forward.except.iter().map(|name| name::to_wire(name));
                    Source::Forward { forwarder, except: except.collect::<Result<_, _>>()? }
                }
                (None, Some(path)) => Source::File(RefCell::new(Rc::new(ZoneFile::load(&spec.name, path)?))),
                (None, None) => Source::Nowhere,
            };
            zones.push(Rc::new(Zone {
                id: ids.intern(&spec.name),
                policy: Policy::new(&config.cache, &spec.cache),
                fixed: FixedAnswers::new(&spec.answers, wire.len())?,
                dns64: spec.dns64.clone(),
                name: wire,
                spec: spec.clone(),
                source,
            }));
        }
        let by_name: HashMap<_, _> =
            zones.iter().enumerate().map(|(index, zone)| (zone.name.clone(), index)).collect();
        Ok(Self {
            longest: by_name.keys().map(|name| name.len()).max().unwrap_or_default(),
            by_name,
            hosts: Hosts::new(&config.hosts, config.hosts_ttl)?,
            rewrites: Rewrites::new(&config.rewrite)?,
            policy: Policy::new(&config.cache, &config::ZoneCache::default()),
            zones,
            listen,
        })
    }

    /// Where the answer to `key` comes from: hosts by the name asked; then, by the name that the rewriting makes of it if
    /// a rule fits, hosts again, special names, and the zone with the longest suffix, there fixed answers first.
    ///
    /// What the operator wrote goes before what a registry says: a special name that is rewritten is not special.
    pub(super) fn route(&self, key: &Key) -> Route<U> {
        let (asked, qtype, qclass) = (key.name(), key.qtype(), key.qclass());
        if let Some(answer) = self.hosts.answer(asked, qtype, qclass) {
            return Route::Local(Local { answer, zone: self.zone(asked).cloned() });
        }
        let target = self.rewrites.target(asked);
        let name = target.as_deref().unwrap_or(asked);
        let zone = self.zone(name);
        match self.local(name, qtype, qclass, zone) {
            Some(answer) => {
                let answer = if target.is_some() { owned_by(answer, asked) } else { answer };
                Route::Local(Local { answer, zone: zone.cloned() })
            }
            None => zone.map_or(Route::Nowhere, |zone| zone.route(asked, target.as_deref(), qtype, qclass)),
        }
    }

    /// The zone with the longest suffix of a folded name.
    fn zone(&self, name: &[u8]) -> Option<&Rc<Zone<U>>> {
        let mut rest = name;
        loop {
            if rest.len() <= self.longest
                && let Some(&index) = self.by_name.get(rest)
            {
                return self.zones.get(index);
            }
            let label = usize::from(*rest.first()?);
            if label == 0 {
                return None;
            }
            rest = rest.get(1 + label..)?;
        }
    }

    /// The zone of a folded name, if its names are forwarded or served from a file.
    pub(super) fn forwarding_zone(&self, name: &[u8]) -> Option<&Rc<Zone<U>>> {
        self.zone(name).filter(|zone| !zone.refuses(name))
    }

    fn local(&self, name: &[u8], qtype: u16, qclass: u16, zone: Option<&Rc<Zone<U>>>) -> Option<Answer> {
        if let Some(answer) = self.hosts.answer(name, qtype, qclass) {
            return Some(answer);
        }
        let zone_len = zone.map_or(0, |zone| zone.name.len());
        Some(Special::of(name, qclass, zone_len)?.answer(name, qtype))
    }

    /// The groups of upstreams, each once for every zone that uses it.
    pub(super) fn forwarders(&self) -> impl Iterator<Item = &Rc<Forwarder<U>>> {
        self.zones.iter().filter_map(|zone| match &zone.source {
            Source::Forward { forwarder, .. } => Some(forwarder),
            _ => None,
        })
    }

    /// The zones that are served from a file.
    pub(super) fn zone_files(&self) -> impl Iterator<Item = &Rc<Zone<U>>> {
        self.zones.iter().filter(|zone| matches!(zone.source, Source::File(_)))
    }

    /// Addresses that are nodens itself.
    pub(super) fn listen(&self) -> &[SocketAddr] {
        &self.listen
    }

    /// Whether `entry`, made under `old`, could have been made under these tables.
    pub(super) fn keeps(&self, old: &Self, entry: &Entry) -> bool {
        self.looks_up_as(old, entry.name()) && {
            let target = self.rewrites.target(entry.name());
            let zone = self.zone(target.as_deref().unwrap_or(entry.name()));
            let policy = zone.map_or(&self.policy, |zone| &zone.policy);
            policy.allows(entry.kind(), entry.ttl())
        }
    }

    /// Whether a name is looked up in the same way as under `old`.
    fn looks_up_as(&self, old: &Self, name: &[u8]) -> bool {
        let target = self.rewrites.target(name);
        if target != old.rewrites.target(name) || !self.hosts.agrees(&old.hosts, name) {
            return false;
        }
        let name = target.as_deref().unwrap_or(name);
        let same_zone = match (self.zone(name), old.zone(name)) {
            (Some(zone), Some(old)) => zone.answers_as(old),
            (None, None) => true,
            _ => false,
        };
        same_zone && self.hosts.agrees(&old.hosts, name)
    }
}

impl<U: Exchange> Zone<U> {
    fn route(self: &Rc<Self>, asked: &[u8], target: Option<&[u8]>, qtype: u16, qclass: u16) -> Route<U> {
        let name = target.unwrap_or(asked);
        if let Some(answer) = self.fixed.answer(name, qtype, qclass) {
            let answer = if target.is_some() { owned_by(answer, asked) } else { answer };
            return Route::Local(Local { answer, zone: Some(Rc::clone(self)) });
        }
        if self.refuses(name) {
            return Route::Nowhere;
        }
        Route::Zone { zone: Rc::clone(self), target: target.map(Into::into) }
    }

    /// Whether a name in the zone is looked up nowhere.
    fn refuses(&self, name: &[u8]) -> bool {
        match &self.source {
            Source::Forward { except, .. } => except.iter().any(|suffix| is_at_or_below(name, suffix)),
            Source::File(_) => false,
            Source::Nowhere => true,
        }
    }

    /// The group of upstreams, if it has one.
    pub(super) fn forwarder(&self) -> Option<&Rc<Forwarder<U>>> {
        match &self.source {
            Source::Forward { forwarder, .. } => Some(forwarder),
            _ => None,
        }
    }

    /// Whether the zone's upstreams are known to be down.
    pub(super) fn is_down(&self) -> bool {
        self.forwarder().is_some_and(|forwarder| forwarder.upstream.is_down())
    }

    /// Its name in wire form.
    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    /// Whether it gives the answers `old` gave: TTL bounds and the like aside.
    fn answers_as(&self, old: &Self) -> bool {
        let (self_name, old_name) = (&self.name, &old.name);
        let (spec, old) = (&self.spec, &old.spec);
        self_name == old_name
            && spec.forward == old.forward
            && spec.file == old.file
            && spec.answers == old.answers
            && spec.dns64 == old.dns64
            // A file may have changed since; it is read anew at every reload.
            && spec.file.is_none()
    }

    /// Reads the zone's file again.
    pub(super) fn reload_file(&self) -> Result<(), ZoneFileError> {
        if let Source::File(file) = &self.source {
            let path = file.borrow().path().to_owned();
            let new = Rc::new(ZoneFile::load(&self.spec.name, &path)?);
            *file.borrow_mut() = new;
        }
        Ok(())
    }

    /// The zone's file.
    pub(super) fn file_path(&self) -> Option<&Path> {
        self.spec.file.as_deref()
    }
}

impl<U: Exchange> Forwarder<U> {
    fn new(spec: Forward, listen: &[SocketAddr], open: &Open<U>) -> Result<Self, TablesError> {
        let addresses = upstream_addresses(&spec, listen)?;
        let upstream = open(&spec, addresses.clone());
        Ok(Self { upstream, spec, addresses: RefCell::new(addresses), in_flight: Cell::new(0) })
    }

    /// The most lookups that may be on their way: what its upstreams take together.
    pub(super) fn capacity(&self) -> usize {
        self.spec.max_in_flight.saturating_mul(self.addresses.borrow().len().max(1))
    }

    /// The resolv.confs its addresses come from.
    pub(super) fn resolv_confs(&self) -> impl Iterator<Item = &Path> {
        self.spec.to.iter().filter_map(|to| match to {
            UpstreamAddress::ResolvConf(path) => Some(path.as_path()),
            UpstreamAddress::Address(_) => None,
        })
    }

    /// Reads its resolv.confs again; whether the addresses are others now.
    pub(super) fn refresh_addresses(&self, listen: &[SocketAddr]) -> Result<bool, resolv_conf::ReadError> {
        let mut addresses = upstream_addresses(&self.spec, listen)?;
        if addresses.is_empty() {
            // A file caught while it is written, or a node without a network for a moment.
            addresses.clone_from(&self.addresses.borrow());
            addresses.retain(|address| !is_self(*address, listen));
            tracing::warn!(kept = ?addresses, "resolv.conf names no server: those known so far stay in use");
        }
        if *self.addresses.borrow() == addresses {
            return Ok(false);
        }
        self.upstream.set_addresses(addresses.clone());
        *self.addresses.borrow_mut() = addresses;
        Ok(true)
    }
}

/// The addresses `forward.to` stands for. One that is nodens itself is left out, with a warning: a resolv.conf may come
/// to name us while we run, and a loop would be worse than one upstream less.
fn upstream_addresses(
    spec: &Forward,
    listen: &[SocketAddr],
) -> Result<Vec<SocketAddr>, resolv_conf::ReadError> {
    let mut addresses = Vec::new();
    let mut add = |address: SocketAddr, origin: &str| {
        if is_self(address, listen) {
            tracing::warn!(%address, origin, "an upstream that is one of our own listen addresses is ignored");
        } else if !addresses.contains(&address) {
            addresses.push(address);
        }
    };
    for to in &spec.to {
        match to {
            UpstreamAddress::Address(address) => add(*address, "forward.to"),
            UpstreamAddress::ResolvConf(path) => {
                let conf = resolv_conf::read(path)?;
                let origin = path.display().to_string();
                for ignored in &conf.ignored {
                    tracing::warn!(file = %origin, "{ignored}");
                }
                for address in conf.nameservers {
                    add(address, &origin);
                }
            }
        }
    }
    Ok(addresses)
}

/// Whether a query to `address` would come back to us.
fn is_self(address: SocketAddr, listen: &[SocketAddr]) -> bool {
    listen.iter().any(|own| {
        own.port() == address.port()
            && (own.ip() == address.ip() || (own.ip().is_unspecified() && address.ip().is_loopback()))
    })
}

/// A local answer to a rewritten name, as an answer to the name that was asked. Records own the question's name already;
/// the SOA of a negative answer is owned by a suffix, which the asked name need not have.
fn owned_by(answer: Answer, asked: &[u8]) -> Answer {
    match answer.kind {
        kind @ (Kind::NoData | Kind::NxDomain) => records::negative(kind, asked, asked.len(), answer.ttl),
        _ => answer,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::support::{Scripted, config};
    use super::*;

    fn tables(zones: &[String]) -> Tables<Scripted> {
        let zones: Vec<_> = zones.iter().map(|name| format!("{{name: '{name}', answers: [{{}}]}}")).collect();
        let config = config(&format!("zones: [{}]\nhosts: {{h: ['10.0.0.1']}}", zones.join(", ")));
        Tables::build(&config, None, &Zones::new(), &|_, _| unreachable!("nothing is forwarded")).unwrap()
    }

    proptest! {
        #[test]
        fn a_names_zone_is_its_longest_suffix(
            zones in prop::collection::btree_set("([ab]\\.){0,3}[ab]", 0..6),
            name in "([ab]\\.){0,5}[ab]",
        ) {
            let zones: Vec<_> = zones.into_iter().collect();
            let wire = name::to_wire(&name).unwrap();
            let expected = zones
                .iter()
                .map(|zone| name::to_wire(zone).unwrap())
                .filter(|zone| is_at_or_below(&wire, zone))
                .max_by_key(|zone| zone.len());
            let tables = tables(&zones);
            prop_assert_eq!(tables.zone(&wire).map(|zone| zone.name()), expected.as_deref());
        }
    }

    #[test]
    fn an_upstream_that_is_nodens_itself_is_seen() {
        let own: Vec<SocketAddr> = vec!["169.254.20.10:53".parse().unwrap(), "[::]:5353".parse().unwrap()];
        for (address, is) in [
            ("169.254.20.10:53", true),
            ("169.254.20.10:54", false),
            ("[::1]:5353", true),
            ("127.0.0.1:5353", true),
            ("[fd00::1]:5353", false),
            ("10.96.0.10:53", false),
        ] {
            assert_eq!(is_self(address.parse().unwrap(), &own), is, "{address}");
        }
    }
}
