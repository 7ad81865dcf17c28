//! The nftables messages this room sends, as values.
//!
//! Numbers without a name in netlink-packet-netfilter are from include/uapi/linux/netfilter/nf_tables.h and cited there.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, Parseable};
use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute, Expressions,
    Hook as HookAttribute, HookNumber, Immediate, InetHookNumber, ListAttribute, Meta, MetaKey,
    NfTablesMessage, Operator, Payload, Register, RuleAttribute, RuleMessage, TableAttribute, TableFlags,
    TableMessage, Verdict, VerdictAttribute,
};

use super::nfnetlink::Request;

/// A table: its family and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    /// `inet` for ours, `ip` and `ip6` for those iptables-nft manages.
    pub(crate) family: NetfilterProtoFamily,
    /// Its name.
    pub(crate) name: String,
}

impl Table {
    /// A table of this family and name.
    pub(crate) fn new(family: NetfilterProtoFamily, name: impl Into<String>) -> Self {
        Self { family, name: name.into() }
    }

    /// Makes the table. With `Owner` among the flags it belongs to the sending socket.
    pub(crate) fn create(&self, flags: TableFlags) -> Request {
        let attributes = vec![TableAttribute::Name(self.name.clone()), TableAttribute::Flags(flags)];
        let message = NfTablesMessage::NewTable(TableMessage { attributes });
        Request::new(self.family, NLM_F_CREATE | NLM_F_EXCL, message)
    }

    /// Removes the table with all that is in it.
    pub(crate) fn delete(&self) -> Request {
        let attributes = vec![TableAttribute::Name(self.name.clone())];
        Request::new(self.family, 0, NfTablesMessage::DeleteTable(TableMessage { attributes }))
    }

    /// Asks for the table.
    pub(crate) fn get(&self) -> Request {
        let attributes = vec![TableAttribute::Name(self.name.clone())];
        Request::new(self.family, 0, NfTablesMessage::GetTable(TableMessage { attributes }))
    }

    /// Asks for all tables of a family.
    pub(crate) fn list(family: NetfilterProtoFamily) -> Request {
        Request::new(family, 0, NfTablesMessage::GetTable(TableMessage { attributes: Vec::new() }))
    }

    /// Makes a chain; with a hook a base chain of type filter, that lets through what no rule decides on.
    pub(crate) fn create_chain(&self, chain: &str, hook: Option<Hook>) -> Request {
        let mut attributes =
            vec![ChainAttribute::Table(self.name.clone()), ChainAttribute::Name(chain.to_owned())];
        if let Some(Hook { number, priority }) = hook {
            attributes.extend([
                ChainAttribute::Hook(vec![
                    HookAttribute::Number(HookNumber::Inet(number)),
                    HookAttribute::Priority(priority.cast_unsigned()),
                ]),
                ChainAttribute::Type("filter".to_owned()),
                ChainAttribute::Policy(NF_ACCEPT),
            ]);
        }
        Request::new(self.family, NLM_F_CREATE, NfTablesMessage::NewChain(ChainMessage { attributes }))
    }

    /// Asks for a chain.
    pub(crate) fn get_chain(&self, chain: &str) -> Request {
        let attributes =
            vec![ChainAttribute::Table(self.name.clone()), ChainAttribute::Name(chain.to_owned())];
        Request::new(self.family, 0, NfTablesMessage::GetChain(ChainMessage { attributes }))
    }

    /// Puts a rule at the end of a chain, or at its beginning.
    pub(crate) fn add_rule(
        &self,
        chain: &str,
        place: Place,
        rule: Vec<Expression>,
        comment: &str,
    ) -> Request {
        let attributes = vec![
            RuleAttribute::Table(self.name.clone()),
            RuleAttribute::Chain(chain.to_owned()),
            RuleAttribute::Expressions(rule),
            RuleAttribute::UserData(comment_userdata(comment)),
        ];
        let flags = match place {
            Place::End => NLM_F_CREATE | NLM_F_APPEND,
            Place::Beginning => NLM_F_CREATE,
        };
        Request::new(self.family, flags, NfTablesMessage::NewRule(RuleMessage { attributes }))
    }

    /// Removes one rule.
    pub(crate) fn delete_rule(&self, rule: &RuleEntry) -> Request {
        let attributes = vec![
            RuleAttribute::Table(self.name.clone()),
            RuleAttribute::Chain(rule.chain.clone()),
            RuleAttribute::Handle(rule.handle),
        ];
        Request::new(self.family, 0, NfTablesMessage::DeleteRule(RuleMessage { attributes }))
    }

    /// Asks for all rules of the table.
    pub(crate) fn list_rules(&self) -> Request {
        let attributes = vec![RuleAttribute::Table(self.name.clone())];
        Request::new(self.family, 0, NfTablesMessage::GetRule(RuleMessage { attributes }))
    }
}

/// Where packets enter a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hook {
    /// The hook.
    pub(crate) number: InetHookNumber,
    /// The order among all chains of the hook, lowest first.
    pub(crate) priority: i32,
}

/// Where a rule goes in its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Behind all others.
    End,
    /// Before all others.
    Beginning,
}

/// What the kernel says of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableEntry {
    /// Its name.
    pub(crate) name: String,
    /// Whether it belongs to a process.
    pub(crate) owned: bool,
    /// Whether it is switched off.
    pub(crate) dormant: bool,
}

impl TableEntry {
    /// Reads the attributes of an `NFT_MSG_NEWTABLE`.
    pub(crate) fn parse(attributes: &[u8]) -> Option<Self> {
        let mut entry = Self { name: String::new(), owned: false, dormant: false };
        for attribute in TableMessage::parse(attributes).ok()?.attributes {
            match attribute {
                TableAttribute::Name(name) => entry.name = name,
                TableAttribute::Flags(flags) => {
                    entry.owned = flags.contains(TableFlags::Owner);
                    entry.dormant = flags.contains(TableFlags::Dormant);
                }
                _ => {}
            }
        }
        Some(entry)
    }
}

/// What the kernel says of a rule, as far as this room needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RuleEntry {
    /// The chain it is in.
    pub(crate) chain: String,
    /// Its handle, by which it is removed.
    pub(crate) handle: u64,
    /// Its comment.
    pub(crate) comment: Option<String>,
}

impl RuleEntry {
    /// Reads the attributes of an `NFT_MSG_NEWRULE`.
    ///
    /// Expressions are skipped unread: foreign tables hold expressions this program does not know.
    pub(crate) fn parse(attributes: &[u8]) -> Option<Self> {
        let mut entry = Self { chain: String::new(), handle: 0, comment: None };
        for attribute in netlink_packet_core::NlasIterator::new(attributes) {
            let attribute = attribute.ok()?;
            if attribute.kind() == NFTA_RULE_EXPRESSIONS {
                continue;
            }
            match RuleAttribute::parse(&attribute).ok()? {
                RuleAttribute::Chain(chain) => entry.chain = chain,
                RuleAttribute::Handle(handle) => entry.handle = handle,
                RuleAttribute::UserData(data) => entry.comment = userdata_comment(&data),
                _ => {}
            }
        }
        Some(entry)
    }
}

/// One step of a rule.
pub(crate) type Expression = ListAttribute<ExpressionAttribute>;

/// UDP or TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

impl Transport {
    /// The IP protocol number (RFC 768, RFC 9293).
    fn number(self) -> u8 {
        match self {
            Self::Udp => 17,
            Self::Tcp => 6,
        }
    }
}

/// Which end of a packet is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// Goes on only for packets of this address's family; needed in an `inet` table before a look at the address.
pub(crate) fn match_family(address: IpAddr) -> [Expression; 2] {
    let family = if address.is_ipv4() { NetfilterProtoFamily::IPv4 } else { NetfilterProtoFamily::IPv6 };
    [load_meta(MetaKey::Nfproto), equals(vec![family.into()])]
}

/// Goes on only for packets with this address at this end.
pub(crate) fn match_address(end: End, address: IpAddr) -> [Expression; 2] {
    // RFC 791 §3.1, RFC 8200 §3: offset of the address in the header.
    match (address, end) {
        (IpAddr::V4(address), End::Source) => match_header(NFT_PAYLOAD_NETWORK_HEADER, 12, &address.octets()),
        (IpAddr::V4(address), End::Destination) => {
            match_header(NFT_PAYLOAD_NETWORK_HEADER, 16, &address.octets())
        }
        (IpAddr::V6(address), End::Source) => match_header(NFT_PAYLOAD_NETWORK_HEADER, 8, &address.octets()),
        (IpAddr::V6(address), End::Destination) => {
            match_header(NFT_PAYLOAD_NETWORK_HEADER, 24, &address.octets())
        }
    }
}

/// Goes on only for packets of this protocol with this port at this end.
pub(crate) fn match_port(end: End, transport: Transport, port: u16) -> [Expression; 4] {
    // RFC 768, RFC 9293 §3.1: both headers begin with the source port and the destination port.
    let offset = if end == End::Source { 0 } else { 2 };
    let [load_port, compare_port] = match_header(NFT_PAYLOAD_TRANSPORT_HEADER, offset, &port.to_be_bytes());
    [load_meta(MetaKey::L4Proto), equals(vec![transport.number()]), load_port, compare_port]
}

/// Keeps the packet out of connection tracking.
pub(crate) fn notrack() -> Expression {
    ListAttribute::Element(vec![ExpressionAttribute::Name("notrack".to_owned())])
}

/// Counts the packet, as iptables-nft expects it of every rule.
pub(crate) fn counter() -> Expression {
    Expressions::Other { expression_type: "counter".to_owned(), attributes: Vec::new() }.into()
}

/// Lets the packet through.
pub(crate) fn accept() -> Expression {
    verdict(vec![VerdictAttribute::Code(Verdict::Other(NF_ACCEPT))])
}

/// Goes on in another chain of the table, and comes back from its end.
pub(crate) fn jump(chain: &str) -> Expression {
    verdict(vec![VerdictAttribute::Code(Verdict::Jump), VerdictAttribute::Chain(chain.to_owned())])
}

fn verdict(verdict: Vec<VerdictAttribute>) -> Expression {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(verdict)),
    ])
    .into()
}

fn load_meta(key: MetaKey) -> Expression {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(Register::Reg1)]).into()
}

fn match_header(base: u32, offset: u32, value: &[u8]) -> [Expression; 2] {
    let load = Expressions::Payload(vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(value.len() as u32),
    ]);
    [load.into(), equals(value.to_vec())]
}

fn equals(value: Vec<u8>) -> Expression {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(Operator::Equal),
        Cmp::Data(DataAttribute::Value(value)),
    ])
    .into()
}

/// A comment as nft(8) and iptables-nft(8) store it: type, length, text and NUL (libnftnl, include/libnftnl/udata.h).
fn comment_userdata(comment: &str) -> Vec<u8> {
    let mut userdata = vec![UDATA_RULE_COMMENT, comment.len() as u8 + 1];
    userdata.extend_from_slice(comment.as_bytes());
    userdata.push(0);
    userdata
}

fn userdata_comment(mut userdata: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = userdata {
        let value = rest.get(..usize::from(*length))?;
        if *kind == UDATA_RULE_COMMENT {
            return String::from_utf8(value.strip_suffix(&[0]).unwrap_or(value).to_vec()).ok();
        }
        userdata = &rest[value.len()..];
    }
    None
}

/// `NF_ACCEPT` (include/uapi/linux/netfilter.h).
const NF_ACCEPT: u32 = 1;
/// `NFT_PAYLOAD_NETWORK_HEADER`.
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
/// `NFT_PAYLOAD_TRANSPORT_HEADER`.
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
/// `NFTA_RULE_EXPRESSIONS`.
const NFTA_RULE_EXPRESSIONS: u16 = 4;
/// `NFTNL_UDATA_RULE_COMMENT` (libnftnl, include/libnftnl/udata.h).
const UDATA_RULE_COMMENT: u8 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_survives_the_way_through_userdata() {
        let userdata = comment_userdata("nodens-2");
        assert_eq!(userdata, b"\x00\x09nodens-2\x00");
        assert_eq!(userdata_comment(&userdata).as_deref(), Some("nodens-2"));
    }

    #[test]
    fn other_userdata_before_the_comment_is_skipped() {
        let mut userdata = vec![7, 2, 0xff, 0xff];
        userdata.extend(comment_userdata("nodens"));
        assert_eq!(userdata_comment(&userdata).as_deref(), Some("nodens"));
    }

    #[test]
    fn broken_userdata_is_no_comment() {
        for userdata in [&[][..], &[0], &[0, 200, b'x'], &[7, 1]] {
            assert_eq!(userdata_comment(userdata), None, "{userdata:?}");
        }
    }
}
