//! Accept rules in the filter chains that iptables-nft manages (`node.accept_rules`, off by default).
//!
//! A host firewall whose INPUT or OUTPUT chain drops by policy drops DNS as well, whatever another table says. These
//! rules go to the head of those chains where they exist, in the form iptables(8) itself writes, so that
//! `iptables -S` shows them as `-m comment --comment nodens -j ACCEPT`. The comment is the name of the instance's table,
//! and it is the comment by which they are found again: nothing else in these chains is touched.
//!
//! iptables-legacy is not reached: its rules are not in nftables.

use std::net::IpAddr;

use netlink_packet_netfilter::NetfilterProtoFamily;

use super::error::NodeError;
use super::nfnetlink::{Channel, Request};
use super::nftables::{End, Expression, Place, RuleEntry, Table, accept, counter, match_address, match_port};
use super::notrack::list_rules;
use super::ruleset::{Endpoint, matchable};

/// The table iptables-nft keeps its filter chains in.
pub(crate) const TABLE: &str = "filter";

/// Puts the rules for these endpoints into the chains that exist, in place of those with this comment.
pub(crate) fn apply(channel: &mut Channel, comment: &str, endpoints: &[Endpoint]) -> Result<(), NodeError> {
    for family in FAMILIES {
        let table = Table::new(family, TABLE);
        let mut batch: Vec<_> = tagged(channel, &table, |found| found == comment)?
            .iter()
            .map(|rule| table.delete_rule(rule))
            .collect();
        for (chain, end) in CHAINS {
            let rules: Vec<_> = rules(family, end, endpoints).collect();
            if rules.is_empty() || !chain_exists(channel, &table, chain)? {
                continue;
            }
            batch
                .extend(rules.into_iter().map(|rule| table.add_rule(chain, Place::Beginning, rule, comment)));
        }
        commit(channel, &batch)?;
    }
    Ok(())
}

/// Whether the chains that exist have all rules for these endpoints.
pub(crate) fn is_intact(
    channel: &mut Channel,
    comment: &str,
    endpoints: &[Endpoint],
) -> Result<bool, NodeError> {
    for family in FAMILIES {
        let table = Table::new(family, TABLE);
        if endpoints.is_empty() {
            continue;
        }
        let found = tagged(channel, &table, |found| found == comment)?;
        for (chain, end) in CHAINS {
            let expected = rules(family, end, endpoints).count();
            let present = found.iter().filter(|rule| rule.chain == chain).count();
            if present != expected && chain_exists(channel, &table, chain)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Removes the rules whose comment is one of ours.
pub(crate) fn remove(channel: &mut Channel, ours: impl Fn(&str) -> bool) -> Result<(), NodeError> {
    for family in FAMILIES {
        let table = Table::new(family, TABLE);
        let batch: Vec<_> =
            tagged(channel, &table, &ours)?.iter().map(|rule| table.delete_rule(rule)).collect();
        commit(channel, &batch)?;
    }
    Ok(())
}

fn tagged(
    channel: &mut Channel,
    table: &Table,
    ours: impl Fn(&str) -> bool,
) -> Result<Vec<RuleEntry>, NodeError> {
    let mut rules = list_rules(channel, table)?;
    rules.retain(|rule| {
        CHAINS.iter().any(|(chain, _)| rule.chain == *chain) && rule.comment.as_deref().is_some_and(&ours)
    });
    Ok(rules)
}

fn chain_exists(channel: &mut Channel, table: &Table, chain: &str) -> Result<bool, NodeError> {
    match channel.request(table.get_chain(chain), |_, _| {}) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(NodeError::kernel(format!("look for iptables chain {chain}"), error)),
    }
}

fn commit(channel: &mut Channel, batch: &[Request]) -> Result<(), NodeError> {
    if batch.is_empty() {
        return Ok(());
    }
    channel
        .batch(batch)
        .map_err(|refusal| NodeError::kernel("change the iptables filter chains", refusal.source))
}

/// The rules of one chain: queries come in by INPUT, answers leave by OUTPUT. The host's own clients come over `lo`, which
/// host firewalls let through.
fn rules(
    family: NetfilterProtoFamily,
    end: End,
    endpoints: &[Endpoint],
) -> impl Iterator<Item = Vec<Expression>> {
    let of_family = move |address: IpAddr| address.is_ipv4() == (family == NetfilterProtoFamily::IPv4);
    endpoints
        .iter()
        .filter(move |endpoint| matchable(endpoint.address.ip()) && of_family(endpoint.address.ip()))
        .flat_map(move |&endpoint| {
            let (address, port) = (endpoint.address.ip(), endpoint.address.port());
            endpoint.transports().iter().map(move |&transport| {
                let mut rule = Vec::with_capacity(8);
                rule.extend(match_address(end, address));
                rule.extend(match_port(end, transport, port));
                rule.push(counter());
                rule.push(accept());
                rule
            })
        })
}

const FAMILIES: [NetfilterProtoFamily; 2] = [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::IPv6];

/// The chains, and the end of the packet that is one of our addresses there.
const CHAINS: [(&str, End); 2] = [("INPUT", End::Destination), ("OUTPUT", End::Source)];
