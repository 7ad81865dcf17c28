//! Plugins without a translation of their own: what they did, and what to do instead.

use super::super::findings::Kind;

/// What an import says about a plugin.
pub(super) struct Plugin {
    pub(super) kind: Kind,
    pub(super) did: &'static str,
    pub(super) instead: &'static str,
    /// Whether it made answers: without it, the names it answered must not silently go elsewhere.
    pub(super) answers: bool,
}

/// The plugin with this name, if CoreDNS has one.
pub(super) fn plugin(name: &str) -> Option<Plugin> {
    let found = |kind, answers, did, instead| Some(Plugin { kind, did, instead, answers });
    let built_in = |did, instead| found(Kind::BuiltIn, false, did, instead);
    let lost = |did, instead| found(Kind::NoEquivalent, false, did, instead);
    let lost_answers = |did, instead| found(Kind::NoEquivalent, true, did, instead);
    match name {
        "errors" => built_in("logs failures", "nodens logs failures of upstreams, and counts all"),
        "reload" => built_in(
            "rereads the Corefile",
            "nodens watches its file; a bad one leaves the last good one serving",
        ),
        "loop" => built_in(
            "stops the process when a query comes back",
            "an upstream that is nodens itself is refused when the configuration is loaded",
        ),
        "loadbalance" => built_in("turns an answer's addresses round", "cache.rotate, on by default"),
        "cancel" => built_in("ends slow queries", "zones[].forward.timeout, 4s by default"),
        "local" => built_in("answers localhost", "nodens answers the names of RFC 6761 itself"),
        "any" => found(
            Kind::Different,
            false,
            "answers ANY with HINFO (RFC 8482)",
            "nodens forwards ANY like other types",
        ),
        "minimal" => built_in("leaves out what was not asked", "nodens passes on what the upstream gives"),
        "root" => built_in("names a directory for zone files", "zones[].file is an absolute path"),
        "metadata" | "nsid" | "chaos" | "dnstap" | "trace" | "pprof" => lost(
            match name {
                "pprof" => "serves Go's profiles",
                "trace" => "sends traces of queries",
                "dnstap" => "streams queries to a collector",
                "nsid" | "chaos" => "tells the server's identity or version",
                _ => "gathers data for other plugins",
            },
            match name {
                "pprof" => "use perf on the process; /metrics has its CPU time and memory",
                "trace" | "dnstap" => "log.queries has each query with its source and duration",
                _ => "nodens_build_info on /metrics",
            },
        ),
        "whoami" => lost_answers("answers with the client's address", "ask CoreDNS for it"),
        "erratic" => lost_answers("answers wrongly on purpose", "test with a server made for it"),
        "acl" => lost(
            "refuses some clients",
            "restrict who reaches the addresses by a firewall; pods reach them by design",
        ),
        "autopath" => lost(
            "follows a pod's search path on the server",
            "negative answers have a cache of their own, so a search path costs hits only; lower ndots in pods",
        ),
        "dnssec" | "sign" | "tsig" | "transfer" => {
            lost("signs or hands over zones", "leave it to an authoritative server")
        }
        "tls" | "quic" | "grpc" | "grpc_server" | "https" => lost(
            "speaks DNS over TLS, QUIC, HTTP or gRPC",
            "nodens speaks plain DNS over UDP and TCP; put the encrypting forwarder on this node or behind CoreDNS",
        ),
        "header" => lost("changes flags of answers", "nodens leaves flags as the RFCs want them"),
        "view" | "geoip" => {
            lost("chooses a block by client or expression", "nodens answers all clients alike")
        }
        "auto" | "secondary" | "etcd" | "route53" | "azure" | "clouddns" | "k8s_external" | "k8s_event"
        | "nomad" => lost_answers(
            "answers from another source of names",
            "run it in CoreDNS and forward its zones there",
        ),
        _ => None,
    }
}
