//! nodens and a stand-in CoreDNS in one process: no cluster, no privileges, nothing beyond loopback.
//!
//! ```text
//! cargo run --release --example quickstart [-- PORT]
//! ```

#[path = "support/coredns.rs"]
mod coredns;

use std::error::Error;

use coredns::CoreDns;
use nodens::config;
use nodens::run::{Process, Watch};

/// Where nodens answers unless another port is given.
const PORT: u16 = 5353;

fn main() -> Result<(), Box<dyn Error>> {
    let port = match std::env::args().nth(1) {
        Some(port) => port.parse().map_err(|_| format!("{port:?} is not a port: expected 1 to 65535"))?,
        None => PORT,
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(port))
}

async fn run(port: u16) -> Result<(), Box<dyn Error>> {
    let upstream = CoreDns::start().await?;
    let yaml = format!(
        "listen: {{addresses: [127.0.0.1], port: {port}, workers: 1}}\n\
         zones: [{{name: '.', forward: {{to: ['{}']}}}}]\n\
         observe: {{metrics: null, health: null}}\n\
         log: {{queries: true}}\n",
        upstream.address
    );
    let process = Process::start(config::from_str(&yaml, "quickstart")?, None).await?;
    println!(
        "\
nodens answers on 127.0.0.1:{port}; a stand-in CoreDNS behind it on {}. Type in another terminal:

  dig @127.0.0.1 -p {port} kubernetes.default.svc.cluster.local
  dig @127.0.0.1 -p {port} kubernetes.default.svc.cluster.local        again: answered from memory
  dig @127.0.0.1 -p {port} web.default.svc.cluster.local               three pods, in another order each time
  dig @127.0.0.1 -p {port} +tcp SRV _https._tcp.kubernetes.default.svc.cluster.local
  dig @127.0.0.1 -p {port} example.org.default.svc.cluster.local       the search path's NXDOMAIN, cached as well
  dig @127.0.0.1 -p {port} www.example.org

Each query is shown below with where its answer came from: `upstream` is a miss, `near` and `store` are hits.
Ctrl-C stops.
",
        upstream.address
    );
    let stop = async {
        // Without a handler for Ctrl-C it ends the process by itself.
        let _ = tokio::signal::ctrl_c().await;
    };
    process.run(Watch::never(), || config::from_str(&yaml, "quickstart"), stop).await?;
    Ok(())
}
