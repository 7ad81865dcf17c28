//! A stand-in CoreDNS: a small cluster zone and a piece of the outside world, served by hickory-server on loopback.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::rr::{LowerName, Name};
use hickory_proto::serialize::txt::Parser;
use hickory_server::Server;
use hickory_server::net::runtime::TokioRuntimeProvider;
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};
use tokio::net::{TcpListener, UdpSocket};

/// A running stand-in; it stops when dropped.
pub(crate) struct CoreDns {
    /// Where it answers, over UDP and TCP.
    pub(crate) address: SocketAddr,
    _server: Server<Catalog>,
}

/// The service, its ports and its pods that every cluster has, and one more.
const CLUSTER: &str = "\
$TTL 30
@ SOA ns.dns hostmaster 1 7200 1800 86400 5
@ NS ns.dns
ns.dns A 10.96.0.10
kubernetes.default.svc A 10.96.0.1
_https._tcp.kubernetes.default.svc SRV 0 100 443 kubernetes.default.svc
kube-dns.kube-system.svc A 10.96.0.10
web.default.svc A 10.244.1.11
web.default.svc A 10.244.1.12
web.default.svc A 10.244.2.13
web.default.svc AAAA fd00:244::11
";

/// A name outside the cluster, so that the search path has an end.
const OUTSIDE: &str = "\
$TTL 300
@ SOA ns hostmaster 1 7200 1800 86400 30
@ NS ns
ns A 192.0.2.53
@ A 192.0.2.80
www CNAME example.org.
";

impl CoreDns {
    /// Starts it on a free port of 127.0.0.1.
    pub(crate) async fn start() -> io::Result<Self> {
        let mut catalog = Catalog::new();
        for (origin, text) in [("cluster.local.", CLUSTER), ("example.org.", OUTSIDE)] {
            let origin = Name::from_ascii(origin).map_err(io::Error::other)?;
            let (_, records) =
                Parser::new(text, None, Some(origin.clone())).parse().map_err(io::Error::other)?;
            let zone = InMemoryZoneHandler::<TokioRuntimeProvider>::new(
                origin.clone(),
                records,
                ZoneType::Primary,
                AxfrPolicy::Deny,
            )
            .map_err(io::Error::other)?;
            catalog.upsert(LowerName::from(origin), vec![Arc::new(zone)]);
        }
        let tcp = TcpListener::bind("127.0.0.1:0").await?;
        let address = tcp.local_addr()?;
        let udp = UdpSocket::bind(address).await?;
        let mut server = Server::new(catalog);
        server.register_listener(tcp, IDLE, REPLIES);
        server.register_socket(udp);
        Ok(Self { address, _server: server })
    }
}

/// A connection without a query for this long is closed, as CoreDNS does.
const IDLE: Duration = Duration::from_secs(10);

/// Replies that may wait on one connection.
const REPLIES: usize = 128;
