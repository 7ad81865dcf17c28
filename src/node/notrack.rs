//! The nftables rules that keep DNS out of connection tracking, and their guard.
//!
//! What is in the table is in `ruleset`.
//!
//! # One table for each instance
//!
//! A table with an owner can be changed by its owner alone, so two instances cannot take turns with one table: there
//! would be a moment without. Each instance has its own instead, named by its slot: `nodens`, `nodens-2` and so on.
//! During a hand-over both are in force (a packet that is untracked twice is untracked), and each goes with its process.
//! After the last instance none is left.
//!
//! # Kernels without owners
//!
//! Before Linux 5.12 a table has no owner. The rules then are in a plain table of the same name, and a killed process
//! leaves it behind. Whoever starts next on the slot replaces it in one transaction, every start sweeps the tables of
//! slots nobody holds, and so does `cleanup`.
//!
//! # What it cannot do
//!
//! A verdict of `accept` ends only the chain it is in: a drop in another table stays a drop. For host firewalls that
//! iptables-nft manages there are accept rules (`accept`); others need a rule of their own.

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::nftables::TableFlags;

use super::accept;
use super::error::NodeError;
use super::instances::MAX_INSTANCES;
use super::nfnetlink::{Channel, Refusal, Request};
use super::nftables::{Place, RuleEntry, Table, TableEntry};
use super::ruleset::{self, Endpoint};

/// How the table is tied to the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// The kernel removes the table with the process (`NFT_TABLE_F_OWNER`, Linux 5.12).
    Owned,
    /// The table stays when the process dies; also the behaviour of older kernels.
    Plain,
}

/// What the rules are to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Whose packets stay out of connection tracking; none means no table.
    pub notrack: Vec<Endpoint>,
    /// Whose packets iptables-managed filter chains are told to accept.
    pub accept: Vec<Endpoint>,
}

/// The rules of one instance. Those of an owned table vanish when this is dropped.
#[derive(Debug)]
pub struct Rules {
    /// The owner of the table: it stays open as long as the rules are to be in force.
    channel: Channel,
    table: Table,
    ownership: Ownership,
    wanted: Wanted,
}

impl Rules {
    /// Opens the socket that will own the rules. Nothing is changed yet.
    pub fn open(slot: u8, ownership: Ownership) -> Result<Self, NodeError> {
        let channel = Channel::open().map_err(|error| NodeError::kernel("open a netfilter socket", error))?;
        let table = Table::new(NetfilterProtoFamily::Inet, table_name(slot));
        Ok(Self { channel, table, ownership, wanted: Wanted { notrack: Vec::new(), accept: Vec::new() } })
    }

    /// The name of the table in family `inet`, which is also the comment of every rule.
    pub fn table(&self) -> &str {
        &self.table.name
    }

    /// How the table is tied to the process; known for sure once rules are applied.
    pub fn ownership(&self) -> Ownership {
        self.ownership
    }

    /// Puts the rules in force, in place of those that were, in one transaction. Blocks, for a
    /// second at most where a dying instance still has the table.
    pub fn apply(&mut self, wanted: Wanted) -> Result<(), NodeError> {
        self.wanted = wanted;
        self.replace_table()?;
        accept::apply(&mut self.channel, &self.table.name, &self.wanted.accept)
    }

    /// Whether everything is as it was applied.
    pub fn intact(&mut self) -> Result<bool, NodeError> {
        Ok(self.table_is_intact()?
            && accept::is_intact(&mut self.channel, &self.table.name, &self.wanted.accept)?)
    }

    /// Applies the rules again if they are not as they were. Returns whether it had to.
    pub fn repair(&mut self) -> Result<bool, NodeError> {
        if self.intact()? {
            return Ok(false);
        }
        self.apply(self.wanted.clone())?;
        Ok(true)
    }

    /// Takes the rules away.
    pub fn remove(mut self) -> Result<(), NodeError> {
        delete_table(&mut self.channel, &self.table)?;
        accept::remove(&mut self.channel, |comment| comment == self.table.name)
    }

    /// Leaves the rules in force beyond the process: an owned table is exchanged for a plain one in one transaction.
    pub fn leave(mut self) -> Result<(), NodeError> {
        self.ownership = Ownership::Plain;
        self.replace_table()
    }

    fn replace_table(&mut self) -> Result<(), NodeError> {
        let owner_gone = Instant::now() + OWNER_GONE;
        for _ in 0..REPLACE_ATTEMPTS {
            let exists = find_table(&mut self.channel, &self.table)?.is_some();
            let mut batch = Vec::new();
            if exists {
                batch.push(self.table.delete());
            }
            if !self.wanted.notrack.is_empty() {
                batch.extend(self.table_requests());
            }
            if batch.is_empty() {
                return Ok(());
            }
            let Err(Refusal { index, source }) = self.channel.batch(&batch) else { return Ok(()) };
            let refused_owner = index == Some(usize::from(exists)) && self.ownership == Ownership::Owned;
            match source.raw_os_error() {
                // Before 5.12 the flag is an unknown bit: EINVAL up to 5.8, EOPNOTSUPP after.
                Some(libc::EINVAL | libc::EOPNOTSUPP) if refused_owner => {
                    tracing::warn!(
                        table = self.table.name,
                        "this kernel has no owners of nftables tables (Linux 5.12 has): a plain table is used, which a \
                         killed process leaves behind until the next start or `nodens cleanup`"
                    );
                    self.ownership = Ownership::Plain;
                }
                // Somebody removed or made the table between the look and the transaction.
                Some(libc::ENOENT | libc::EEXIST) => {}
                // A process that is just dying may have given up its slot a moment before its table.
                Some(libc::EPERM) if Instant::now() < owner_gone => sleep(OWNER_RETRY),
                _ => return Err(self.refused(&source)),
            }
        }
        Err(self.refused(&io::Error::other("the table keeps changing under the transaction")))
    }

    fn table_requests(&self) -> Vec<Request> {
        let flags = match self.ownership {
            Ownership::Owned => TableFlags::Owner,
            Ownership::Plain => TableFlags::empty(),
        };
        let mut requests = vec![self.table.create(flags)];
        for chain in ruleset::chains(&self.wanted.notrack) {
            requests.push(self.table.create_chain(&chain.name, chain.hook));
            for rule in chain.rules {
                requests.push(self.table.add_rule(&chain.name, Place::End, rule, &self.table.name));
            }
        }
        requests
    }

    fn table_is_intact(&mut self) -> Result<bool, NodeError> {
        if self.wanted.notrack.is_empty() {
            return Ok(true);
        }
        let entry = find_table(&mut self.channel, &self.table)?;
        if entry.is_none_or(|entry| entry.dormant || entry.owned != (self.ownership == Ownership::Owned)) {
            return Ok(false);
        }
        let entries = list_rules(&mut self.channel, &self.table)?;
        let chains = ruleset::chains(&self.wanted.notrack);
        let in_chain = |name: &str| entries.iter().filter(|rule| rule.chain == name).count();
        Ok(chains.iter().all(|chain| in_chain(&chain.name) == chain.rules.len())
            && entries.iter().all(|rule| rule.comment.as_deref() == Some(&*self.table.name)))
    }

    fn refused(&self, source: &io::Error) -> NodeError {
        // EPERM has two meanings here, and a dump, which needs CAP_NET_ADMIN as well, has just succeeded.
        match source.raw_os_error() {
            Some(libc::EPERM) => NodeError::ForeignTable { table: self.table.name.clone() },
            _ => NodeError::Kernel {
                action: format!("apply nftables table inet {}", self.table.name),
                source: io::Error::new(source.kind(), source.to_string()),
            },
        }
    }
}

/// A table of ours that could not be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// Its name in family `inet`.
    pub table: String,
}

/// Removes the tables and accept rules of every slot for which `of_slot` holds. Returns what was removed, and the tables
/// that belong to a living process and go with it.
pub(crate) fn sweep(of_slot: impl Fn(u8) -> bool) -> Result<(Vec<String>, Vec<Owned>), NodeError> {
    let failed = |error| NodeError::kernel("list nftables tables", error);
    let mut channel = Channel::open().map_err(failed)?;
    let ours = |name: &str| slot_of(name).is_some_and(&of_slot);

    let mut names = Vec::new();
    retry_interrupted(|| {
        names.clear();
        channel.dump(Table::list(NetfilterProtoFamily::Inet), None, |_, attributes| {
            names.extend(TableEntry::parse(attributes).map(|entry| entry.name).filter(|name| ours(name)));
        })
    })
    .map_err(failed)?;

    let (mut removed, mut owned) = (Vec::new(), Vec::new());
    for name in names {
        match delete_table(&mut channel, &Table::new(NetfilterProtoFamily::Inet, &*name)) {
            Ok(()) => removed.push(name),
            Err(NodeError::ForeignTable { table }) => owned.push(Owned { table }),
            Err(error) => return Err(error),
        }
    }
    accept::remove(&mut channel, ours)?;
    Ok((removed, owned))
}

/// Tells whether nftables works here and whether tables can have an owner, by a transaction that leaves nothing.
pub(crate) fn probe_ownership() -> io::Result<Ownership> {
    let mut channel = Channel::open()?;
    let table = Table::new(NetfilterProtoFamily::Inet, format!("nodens-probe-{}", std::process::id()));
    for (flags, ownership) in [(TableFlags::Owner, Ownership::Owned), (TableFlags::empty(), Ownership::Plain)]
    {
        match channel.batch(&[table.create(flags), table.delete()]) {
            Ok(()) => return Ok(ownership),
            Err(refusal) if ownership == Ownership::Plain => return Err(refusal.source),
            Err(Refusal { source, .. }) => match source.raw_os_error() {
                Some(libc::EINVAL | libc::EOPNOTSUPP) => {}
                _ => return Err(source),
            },
        }
    }
    unreachable!("the second attempt returns")
}

/// The name of a slot's table.
pub(crate) fn table_name(slot: u8) -> String {
    if slot == 1 { TABLE.to_owned() } else { format!("{TABLE}-{slot}") }
}

/// The slot whose table has this name.
fn slot_of(table: &str) -> Option<u8> {
    (1..=MAX_INSTANCES).find(|&slot| table_name(slot) == table)
}

fn find_table(channel: &mut Channel, table: &Table) -> Result<Option<TableEntry>, NodeError> {
    let mut entry = None;
    match channel.request(table.get(), |_, attributes| entry = TableEntry::parse(attributes)) {
        Ok(()) => Ok(entry),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(NodeError::kernel(format!("look at nftables table inet {}", table.name), error)),
    }
}

/// Removes a table; none of that name is as good.
fn delete_table(channel: &mut Channel, table: &Table) -> Result<(), NodeError> {
    if find_table(channel, table)?.is_none() {
        return Ok(());
    }
    match channel.batch(&[table.delete()]).map_err(|refusal| refusal.source) {
        Ok(()) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            Err(NodeError::ForeignTable { table: table.name.clone() })
        }
        Err(error) => Err(NodeError::kernel(format!("remove nftables table inet {}", table.name), error)),
    }
}

/// All rules of a table; a table that is not there has none.
pub(crate) fn list_rules(channel: &mut Channel, table: &Table) -> Result<Vec<RuleEntry>, NodeError> {
    let mut entries = Vec::new();
    let result = retry_interrupted(|| {
        entries.clear();
        channel.dump(table.list_rules(), None, |_, attributes| entries.extend(RuleEntry::parse(attributes)))
    });
    match result {
        Ok(()) => Ok(entries),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Vec::new()),
        Err(error) => {
            Err(NodeError::kernel(format!("list the rules of nftables table {}", table.name), error))
        }
    }
}

/// Repeats a dump during which the rule set changed.
fn retry_interrupted(mut dump: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    for _ in 1..DUMP_ATTEMPTS {
        match dump() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(drop),
        }
    }
    dump().map(drop)
}

/// The name of the first slot's table.
const TABLE: &str = "nodens";

/// Attempts at a transaction that others disturb. All waits for [`OWNER_GONE`] and the fall-back to a plain table fit in.
const REPLACE_ATTEMPTS: u32 = 60;

/// How long a table in our way may take to go with its dying owner.
const OWNER_GONE: Duration = Duration::from_secs(1);

/// How often a table in our way is tried again.
const OWNER_RETRY: Duration = Duration::from_millis(20);

/// Attempts at a dump that others disturb. kube-proxy changes its tables about once a second.
const DUMP_ATTEMPTS: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_and_table_names_match() {
        assert_eq!(table_name(1), "nodens");
        assert_eq!(table_name(2), "nodens-2");
        for slot in 1..=MAX_INSTANCES {
            assert_eq!(slot_of(&table_name(slot)), Some(slot));
        }
        for other in ["nodens-", "nodens-1", "nodens-0", "nodens-02", "nodens-probe-7", "nodens2", ""] {
            assert_eq!(slot_of(other), None, "{other}");
        }
    }
}
