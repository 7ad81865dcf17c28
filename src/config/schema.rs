//! The typed configuration: what every key is, its default and its unit.
//!
//! These types are plain data. They are complete and valid once [`super::load`] has returned them; no other room
//! checks them again. `config/reference.yaml` shows every key with its default, and a test holds the two together.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::units::{ByteSize, Fraction, HumanDuration, Switch};

/// The whole configuration of one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where clients ask.
    pub listen: Listen,
    /// The answer cache.
    pub cache: Cache,
    /// Where names are looked up; the longest suffix wins.
    pub zones: Vec<Zone>,
    /// Fixed addresses by host name, answered here before any zone is looked at.
    pub hosts: BTreeMap<String, Vec<IpAddr>>,
    /// TTL of the answers from `hosts`. Default 1h, as CoreDNS's `hosts` has; the zone's `max_ttl` bounds it.
    pub hosts_ttl: HumanDuration,
    /// Names asked under one name and looked up under another.
    pub rewrite: Vec<Rewrite>,
    /// Bounds on the miss path.
    pub limits: Limits,
    /// What is done to the node's network.
    pub node: Node,
    /// Metrics and health.
    pub observe: Observe,
    /// The log.
    pub log: Log,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Listen::default(),
            cache: Cache::default(),
            zones: Vec::new(),
            hosts: BTreeMap::new(),
            hosts_ttl: HumanDuration::from_secs(3600),
            rewrite: Vec::new(),
            limits: Limits::default(),
            node: Node::default(),
            observe: Observe::default(),
            log: Log::default(),
        }
    }
}

/// `listen`: where clients ask.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// Addresses to bind, v4 and v6 together. Default `127.0.0.1` and `::1`.
    pub addresses: Vec<IpAddr>,
    /// UDP and TCP port. Default 5353; a node uses 53.
    pub port: u16,
    /// UDP worker threads for each address. `auto` follows the cgroup's cpu limit.
    pub workers: Workers,
    /// Receive buffer asked for each UDP socket, in bytes. Default 8MiB: a burst of 5,000 queries fits.
    pub receive_buffer: ByteSize,
    /// Largest UDP reply, in bytes, whatever a client offers (RFC 9715). Default 4096.
    pub max_udp_payload: u16,
    /// The TCP listener's bounds.
    pub tcp: ListenTcp,
    /// How long SIGTERM waits for what was received to be answered. Default 5s.
    pub drain: HumanDuration,
}

/// `listen.tcp`: the TCP listener's bounds (RFC 7766 §6.2, RFC 9210 §4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenTcp {
    /// Connections in all. Default 2,000.
    pub max_connections: usize,
    /// Connections of one client address. Default 200.
    pub max_connections_per_client: usize,
    /// A connection without a query for this long is closed. Default 10s.
    pub idle_timeout: HumanDuration,
}

/// `listen.workers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// As many as the cgroup's cpu limit allows (at least one).
    Auto,
    /// This many.
    Count(usize),
}

/// `cache`: budgets, TTL bounds, stale and prefetch rules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cache {
    /// Budget of positive answers, in bytes. Default 32MiB.
    pub size: ByteSize,
    /// Budget of NXDOMAIN and NODATA answers, in bytes. Default 8MiB.
    pub negative_size: ByteSize,
    /// Budget of cached failures (RFC 9520), in bytes. Default 1MiB.
    pub failure_size: ByteSize,
    /// Budget of each UDP worker's near table, in bytes: an index, 32 bytes a slot, copies of answers with several TTLs or
    /// rotating addresses, and the entries that slots name, which the store counts too. Default 12MiB, taken only as names
    /// are asked.
    pub near_size: ByteSize,
    /// Smallest TTL, default 0s. A TTL of 0 from upstream is never raised.
    pub min_ttl: HumanDuration,
    /// Largest TTL of a positive answer. Default 1h.
    pub max_ttl: HumanDuration,
    /// Largest TTL of a negative answer. Default 30s.
    pub negative_max_ttl: HumanDuration,
    /// First and largest time a failure is remembered (RFC 9520: 1 s to 5 min).
    pub failure_ttl: FailureTtl,
    /// Serving expired answers when upstreams fail (RFC 8767). `false` turns it off.
    pub serve_stale: Switch<ServeStale>,
    /// Refreshing popular answers before they expire. `false` turns it off.
    pub prefetch: Switch<Prefetch>,
    /// Rotate the addresses of an answer from query to query. Default true.
    pub rotate: bool,
}

/// `cache.failure_ttl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FailureTtl {
    /// After the first failure. Default 1s; 0s turns failure caching off.
    pub min: HumanDuration,
    /// After repeated failures, doubling each time. Default 30s.
    pub max: HumanDuration,
}

/// `cache.serve_stale` (RFC 8767).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServeStale {
    /// How long past its TTL an answer may be served. Default 1h.
    pub max_age: HumanDuration,
    /// The TTL a stale answer goes out with. Default 30s (RFC 8767 §4).
    pub answer_ttl: HumanDuration,
    /// How long a client waits before it is given a stale answer. Default 1800ms (RFC 8767 §5).
    pub client_timeout: HumanDuration,
}

/// `cache.prefetch`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prefetch {
    /// Hits within one TTL that make a name popular. Default 5.
    pub min_hits: u32,
    /// The last part of the TTL in which a popular name is refreshed. Default 10%.
    pub remaining: Fraction,
}

/// `zones[]`: one suffix and where it is looked up. Exactly one of `forward` and `file`, unless `answers` stand alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Zone {
    /// The suffix, e.g. `cluster.local` or `.`.
    pub name: String,
    /// Forward to these upstreams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<Forward>,
    /// Serve this RFC 1035 master file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Fixed answers, looked at in order before `forward` or `file`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<FixedAnswer>,
    /// Make AAAA answers from A answers (RFC 6147).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns64: Option<Dns64>,
    /// Overrides of `cache` for this zone.
    #[serde(default, skip_serializing_if = "ZoneCache::is_empty")]
    pub cache: ZoneCache,
}

/// `zones[].cache`: overrides for one zone; what is not set comes from `cache`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ZoneCache {
    /// As `cache.min_ttl`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_ttl: Option<HumanDuration>,
    /// As `cache.max_ttl`; 0s turns caching of positive answers off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ttl: Option<HumanDuration>,
    /// As `cache.negative_max_ttl`; 0s turns caching of negative answers off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_max_ttl: Option<HumanDuration>,
    /// As `cache.serve_stale`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serve_stale: Option<Switch<ServeStale>>,
    /// As `cache.prefetch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefetch: Option<Switch<Prefetch>>,
}

impl ZoneCache {
    /// Whether nothing is overridden.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// `zones[].forward`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Forward {
    /// `ip`, `ip:port`, `[v6]:port`, or the absolute path of a resolv.conf, which is watched.
    pub to: Vec<UpstreamAddress>,
    /// How queries travel. Default tcp.
    pub transport: Transport,
    /// Which upstream is asked first. Default random.
    pub policy: Policy,
    /// Longest a lookup may take in all, in which several attempts fit. Default 4s, below glibc's 5 s.
    pub timeout: HumanDuration,
    /// TCP connections to one upstream. Default 16.
    pub max_connections: usize,
    /// Age by which a connection is replaced; some are up to 20 % younger. Default 5m.
    pub max_age: HumanDuration,
    /// Unanswered queries of one upstream. Default 4,096.
    pub max_in_flight: usize,
    /// Share of queries that may be asked a second time on another connection. Default 5%.
    pub hedge: Fraction,
    /// Names below these suffixes are not forwarded but refused (CoreDNS's `except`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
}

/// One entry of `zones[].forward.to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamAddress {
    /// An address; port 53 unless given.
    Address(SocketAddr),
    /// The nameservers of this resolv.conf, port 53, read at start and whenever it changes.
    ResolvConf(PathBuf),
}

/// `zones[].forward.transport`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// A few long-lived TCP connections: no conntrack row per query.
    #[default]
    Tcp,
    /// UDP only; a truncated reply is passed on with TC.
    Udp,
    /// UDP, and TCP for what comes back truncated.
    Auto,
}

/// `zones[].forward.policy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// A random healthy upstream.
    #[default]
    Random,
    /// Each healthy upstream in turn.
    RoundRobin,
    /// The first healthy upstream in the order of the list.
    Sequential,
    /// The healthy upstream with the lowest smoothed round trip, others tried now and then.
    Latency,
}

/// `zones[].answers[]`: a fixed answer, as CoreDNS's `template` is mostly used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixedAnswer {
    /// Query types it answers, e.g. `[AAAA]`; empty: every type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// Names it answers: exactly this name, or all below it with `*.` in front; absent: the whole zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The rcode. Default noerror.
    #[serde(default)]
    pub rcode: FixedRcode,
    /// Addresses; those of the asked family are the answer, none of it is NODATA.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// TTL of the answer. Default 60s.
    #[serde(default = "FixedAnswer::default_ttl")]
    pub ttl: HumanDuration,
}

impl FixedAnswer {
    fn default_ttl() -> HumanDuration {
        HumanDuration::from_secs(60)
    }
}

/// `zones[].answers[].rcode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FixedRcode {
    /// NOERROR: the addresses, or NODATA.
    #[default]
    Noerror,
    /// NXDOMAIN.
    Nxdomain,
    /// REFUSED.
    Refused,
    /// SERVFAIL.
    Servfail,
}

/// `zones[].dns64` (RFC 6147).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dns64 {
    /// The /96 prefix. Default `64:ff9b::` (RFC 6052).
    pub prefix: Ipv6Addr,
    /// Make AAAA answers even where real ones exist. Default false.
    pub translate_all: bool,
}

/// `rewrite[]`: exactly one of `name` and `suffix`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    /// Exactly this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// This suffix and all below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suffix: Option<String>,
    /// What it is looked up as; the answer is given under the name that was asked.
    pub to: String,
}

/// `limits`: bounds on the miss path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Questions being looked up at once. Default 10,000.
    pub in_flight: usize,
    /// Most of those that one client address may hold when others wait. Default 10%.
    pub client_share: Fraction,
    /// Clients waiting for one question. Default 4,096.
    pub waiters: usize,
}

/// `node`: what is done to the node's network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    /// The interface that carries the listen addresses.
    pub interface: Interface,
    /// Keep DNS towards the listen addresses out of conntrack. Default false; a node sets true.
    pub notrack: bool,
    /// Longest wait for an upstream's first answer before traffic is attracted. Default 10s.
    pub upstream_wait: HumanDuration,
    /// Accept rules in iptables-managed INPUT and OUTPUT filter chains, for a host firewall that drops. Default false.
    pub accept_rules: bool,
    /// Leave interface and rules when the last instance goes. Default false.
    pub keep: bool,
}

/// `node.interface`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Interface {
    /// Create it and keep it in repair. Default false; a node sets true.
    pub manage: bool,
    /// Its name. Default `nodens`.
    pub name: String,
    /// Its link type. Default dummy.
    pub kind: InterfaceKind,
}

/// `node.interface.kind`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InterfaceKind {
    /// The kernel's dummy device; a bridge is made where the kernel has none.
    #[default]
    Dummy,
    /// A bridge without ports.
    Bridge,
}

/// `observe`: metrics and health.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Observe {
    /// Where /metrics is served; null turns it off. Default 127.0.0.1:9253.
    pub metrics: Option<SocketAddr>,
    /// Where /health and /ready are served; null turns it off. Default 127.0.0.1:8080.
    pub health: Option<SocketAddr>,
    /// Also emit the coredns_* names existing dashboards read. Default true.
    pub coredns_metrics: bool,
}

/// `log`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Default info.
    pub level: LogLevel,
    /// Default text.
    pub format: LogFormat,
    /// The query log. Default false; `true` logs every query.
    pub queries: Switch<QueryLog>,
}

/// `log.queries`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueryLog {
    /// Share of queries logged. Default 100%.
    pub sample: Fraction,
}

/// `log.level`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the five usual levels")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// `log.format`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text an event.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)],
            port: 5353,
            workers: Workers::Auto,
            receive_buffer: ByteSize::from_mib(8),
            max_udp_payload: 4096,
            tcp: ListenTcp::default(),
            drain: HumanDuration::from_secs(5),
        }
    }
}

impl Default for ListenTcp {
    fn default() -> Self {
        Self {
            max_connections: 2_000,
            max_connections_per_client: 200,
            idle_timeout: HumanDuration::from_secs(10),
        }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            size: ByteSize::from_mib(32),
            negative_size: ByteSize::from_mib(8),
            failure_size: ByteSize::from_mib(1),
            near_size: ByteSize::from_mib(12),
            min_ttl: HumanDuration::from_secs(0),
            max_ttl: HumanDuration::from_secs(3600),
            negative_max_ttl: HumanDuration::from_secs(30),
            failure_ttl: FailureTtl::default(),
            serve_stale: Switch::On(ServeStale::default()),
            prefetch: Switch::On(Prefetch::default()),
            rotate: true,
        }
    }
}

impl Default for FailureTtl {
    fn default() -> Self {
        Self { min: HumanDuration::from_secs(1), max: HumanDuration::from_secs(30) }
    }
}

impl Default for ServeStale {
    fn default() -> Self {
        Self {
            max_age: HumanDuration::from_secs(3600),
            answer_ttl: HumanDuration::from_secs(30),
            client_timeout: HumanDuration::from_millis(1800),
        }
    }
}

impl Default for Prefetch {
    fn default() -> Self {
        Self { min_hits: 5, remaining: Fraction::from_percent(10) }
    }
}

impl Default for Forward {
    fn default() -> Self {
        Self {
            to: Vec::new(),
            transport: Transport::Tcp,
            policy: Policy::Random,
            timeout: HumanDuration::from_secs(4),
            max_connections: 16,
            max_age: HumanDuration::from_secs(300),
            max_in_flight: 4096,
            hedge: Fraction::from_percent(5),
            except: Vec::new(),
        }
    }
}

impl Default for Dns64 {
    fn default() -> Self {
        Self { prefix: Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), translate_all: false }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { in_flight: 10_000, client_share: Fraction::from_percent(10), waiters: 4096 }
    }
}

impl Default for Node {
    fn default() -> Self {
        Self {
            interface: Interface::default(),
            notrack: false,
            upstream_wait: HumanDuration::from_secs(10),
            accept_rules: false,
            keep: false,
        }
    }
}

impl Default for Interface {
    fn default() -> Self {
        Self { manage: false, name: "nodens".to_owned(), kind: InterfaceKind::Dummy }
    }
}

impl Default for Observe {
    fn default() -> Self {
        Self {
            metrics: Some(SocketAddr::from(([127, 0, 0, 1], 9253))),
            health: Some(SocketAddr::from(([127, 0, 0, 1], 8080))),
            coredns_metrics: true,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: LogLevel::Info, format: LogFormat::Text, queries: Switch::Off }
    }
}

impl Default for QueryLog {
    fn default() -> Self {
        Self { sample: Fraction::from_percent(100) }
    }
}
