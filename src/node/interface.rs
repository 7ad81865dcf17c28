//! The interface that carries the listen addresses.
//!
//! An interface is ours when its alias is `nodens` (`ip link show` prints it). The alias cannot be set in the request
//! that creates an interface, so the hardware address marks it as well, from the first moment: `6e:6f:64:65:6e:73`,
//! the six letters of the name, which is a valid locally administered unicast address (IEEE 802-2014 §8.4). A process
//! that is killed between the two requests leaves nothing it would not recognise. Any other interface of the configured
//! name is left alone and refused.
//!
//! A dummy device drops what is sent to it and never has to: packets for a local address are delivered whatever
//! interface it is on. A bridge without ports serves the same end where the kernel has no dummy device.

use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::{Handle, LinkBridge, LinkDummy, LinkMessageBuilder, LinkUnspec};

use super::error::NodeError;
use crate::config::{Interface, InterfaceKind};

/// The alias of an interface that nodens made.
pub const ALIAS: &str = "nodens";

/// What [`ensure`] had to do.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Changes {
    /// The interface was made, as this kind.
    pub(crate) created: Option<InterfaceKind>,
    /// It was down.
    pub(crate) raised: bool,
    /// Addresses that were missing.
    pub(crate) added: Vec<IpAddr>,
    /// Addresses that were too many.
    pub(crate) removed: Vec<IpAddr>,
}

impl Changes {
    /// Whether everything was as it should be.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What became of an interface.
#[derive(Debug)]
pub(crate) struct Ensured {
    /// Its index.
    pub(crate) index: u32,
    /// What was changed.
    pub(crate) changes: Changes,
    /// The first address that could not be had (IPv6 may be off). It keeps none of the others away.
    pub(crate) refused: Result<(), NodeError>,
}

/// Makes the interface what it should be: there, ours, up, with these addresses. What is right already is not touched.
///
/// With `prune`, host addresses that are not among them are removed.
pub(crate) async fn ensure(
    handle: &Handle,
    interface: &Interface,
    addresses: &[IpAddr],
    prune: bool,
) -> Result<Ensured, NodeError> {
    let mut changes = Changes::default();
    let link = if let Some(link) = find(handle, &interface.name).await? {
        link
    } else {
        changes.created = create(handle, interface).await?;
        let missing = || failed("find", &interface.name, rtnetlink::Error::RequestFailed);
        find(handle, &interface.name).await?.ok_or_else(missing)?
    };
    if !is_ours(&link) {
        return Err(NodeError::ForeignInterface { name: interface.name.clone() });
    }
    let index = link.header.index;
    let is_up = link.header.flags.contains(LinkFlags::Up);
    if !is_up || alias(&link) != Some(ALIAS) {
        let message = LinkUnspec::new_with_index(index)
            .up()
            .append_extra_attribute(LinkAttribute::IfAlias(ALIAS.to_owned()));
        let request = handle.link().change(message.build()).execute();
        request.await.map_err(|error| failed("set up", &interface.name, error))?;
        changes.raised = !is_up && changes.created.is_none();
    }

    let present = addresses_of(handle, index, &interface.name).await?;
    let mut refused = Ok(());
    for &address in addresses.iter().filter(|&&address| belongs_on_interface(address)) {
        if !present.iter().any(|message| host_address(message) == Some(address)) {
            match add_address(handle, index, &interface.name, address).await {
                Ok(()) => changes.added.push(address),
                Err(error) => refused = refused.and(Err(error)),
            }
        }
    }
    for message in present.into_iter().filter(|_| prune) {
        match host_address(&message) {
            Some(address) if !addresses.contains(&address) => {
                delete_address(handle, message, &interface.name).await?;
                changes.removed.push(address);
            }
            _ => {}
        }
    }
    Ok(Ensured { index, changes, refused })
}

/// Takes addresses away; those that are not there are as good.
pub(crate) async fn remove_addresses(
    handle: &Handle,
    interface: &Interface,
    addresses: &[IpAddr],
) -> Result<(), NodeError> {
    let Some(link) = find(handle, &interface.name).await?.filter(is_ours) else { return Ok(()) };
    for message in addresses_of(handle, link.header.index, &interface.name).await? {
        if host_address(&message).is_some_and(|address| addresses.contains(&address)) {
            delete_address(handle, message, &interface.name).await?;
        }
    }
    Ok(())
}

/// Removes the interface. Returns false when there is none of that name, an error when it is not ours.
pub(crate) async fn remove(handle: &Handle, interface: &Interface) -> Result<bool, NodeError> {
    let Some(link) = find(handle, &interface.name).await? else { return Ok(false) };
    if !is_ours(&link) {
        return Err(NodeError::ForeignInterface { name: interface.name.clone() });
    }
    match handle.link().del(link.header.index).execute().await {
        Ok(()) => Ok(true),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(failed("remove", &interface.name, error)),
    }
}

/// Whether this listen address is one to put on the interface: loopback has its own, unspecified is none.
pub(crate) fn belongs_on_interface(address: IpAddr) -> bool {
    !address.is_loopback() && !address.is_unspecified()
}

/// Whether an interface with this alias and this hardware address, both as sysfs has them, is one that nodens made.
pub(crate) fn has_mark(alias: &str, hardware_address: &str) -> bool {
    let octets: Option<Vec<u8>> =
        hardware_address.split(':').map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
    alias == ALIAS || octets.is_some_and(|octets| octets == HARDWARE_ADDRESS)
}

/// The name in a link message.
pub(crate) fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(&**name),
        _ => None,
    })
}

async fn find(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, NodeError> {
    match handle.link().get().match_name(name).execute().try_next().await {
        Ok(link) => Ok(link),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(failed("look for", name, error)),
    }
}

fn is_ours(link: &LinkMessage) -> bool {
    alias(link) == Some(ALIAS)
        || link.attributes.iter().any(
            |attribute| matches!(attribute, LinkAttribute::Address(address) if address == HARDWARE_ADDRESS),
        )
}

fn alias(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfAlias(alias) => Some(&**alias),
        _ => None,
    })
}

/// Makes the interface; a bridge where a dummy is asked for and the kernel has none. Returns what was made, or `None` if
/// somebody else made one of that name first.
async fn create(handle: &Handle, interface: &Interface) -> Result<Option<InterfaceKind>, NodeError> {
    if interface.kind == InterfaceKind::Dummy {
        match add(handle, LinkDummy::new(&interface.name)).await {
            Ok(()) => return Ok(Some(InterfaceKind::Dummy)),
            Err(error) if code(&error) == Some(libc::EEXIST) => return Ok(None),
            Err(error) if code(&error) == Some(libc::EOPNOTSUPP) => tracing::warn!(
                interface = interface.name,
                "this kernel has no dummy device (CONFIG_DUMMY): a bridge without ports is made instead"
            ),
            Err(error) => return Err(failed("create", &interface.name, error)),
        }
    }
    match add(handle, LinkBridge::new(&interface.name)).await {
        Ok(()) => Ok(Some(InterfaceKind::Bridge)),
        Err(error) if code(&error) == Some(libc::EEXIST) => Ok(None),
        Err(error) => Err(failed("create", &interface.name, error)),
    }
}

async fn add<T>(handle: &Handle, link: LinkMessageBuilder<T>) -> Result<(), rtnetlink::Error> {
    handle.link().add(marked(link)).execute().await
}

fn marked<T>(link: LinkMessageBuilder<T>) -> LinkMessage {
    link.address(HARDWARE_ADDRESS.to_vec()).build()
}

async fn addresses_of(handle: &Handle, index: u32, name: &str) -> Result<Vec<AddressMessage>, NodeError> {
    let addresses = handle.address().get().set_link_index_filter(index).execute();
    addresses.try_collect().await.map_err(|error| failed("list the addresses of", name, error))
}

/// The address of a message if it is one that [`ensure`] could have added: a whole address, no prefix. The link-local
/// address that the kernel gives an interface by itself is none.
fn host_address(message: &AddressMessage) -> Option<IpAddr> {
    let whole = match message.header.family {
        AddressFamily::Inet => 32,
        AddressFamily::Inet6 => 128,
        _ => return None,
    };
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    address.filter(|_| message.header.prefix_len == whole)
}

async fn add_address(handle: &Handle, index: u32, name: &str, address: IpAddr) -> Result<(), NodeError> {
    let prefix = if address.is_ipv4() { 32 } else { 128 };
    let mut request = handle.address().add(index, address, prefix);
    let message = request.message_mut();
    if address.is_ipv6() {
        // Duplicate address detection (RFC 4862 §5.4) would keep the address from being bound for a second, and asks
        // neighbours that this interface does not have.
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message.header.scope = AddressScope::Universe;
    match request.execute().await {
        Ok(()) => Ok(()),
        Err(error) if code(&error) == Some(libc::EEXIST) => Ok(()),
        Err(error) if matches!(code(&error), Some(libc::EACCES | libc::EOPNOTSUPP)) && address.is_ipv6() => {
            Err(NodeError::Ipv6Disabled { address })
        }
        Err(error) => Err(failed(&format!("add {address} to"), name, error)),
    }
}

async fn delete_address(handle: &Handle, message: AddressMessage, name: &str) -> Result<(), NodeError> {
    match handle.address().del(message).execute().await {
        Ok(()) => Ok(()),
        Err(error) if code(&error) == Some(libc::EADDRNOTAVAIL) || is_gone(&error) => Ok(()),
        Err(error) => Err(failed("remove an address from", name, error)),
    }
}

/// Whether the interface an error is about has just been removed.
fn is_gone(error: &rtnetlink::Error) -> bool {
    code(error) == Some(libc::ENODEV)
}

fn code(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.code.map(|code| code.get().saturating_neg()),
        _ => None,
    }
}

fn failed(verb: &str, name: &str, error: rtnetlink::Error) -> NodeError {
    let source = code(&error).map_or_else(|| io::Error::other(error), io::Error::from_raw_os_error);
    NodeError::kernel(format!("{verb} interface {name}"), source)
}

/// The hardware address of an interface that nodens made: its name in ASCII.
const HARDWARE_ADDRESS: &[u8; 6] = b"nodens";

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable as _;

    use super::*;

    #[test]
    fn the_hardware_address_is_unicast_and_locally_administered() {
        assert_eq!(HARDWARE_ADDRESS[0] & 0b11, 0b10);
    }

    /// A kernel without dummy devices refuses the kind, whatever the rest of the message: so the message is held against
    /// the one that `ip link add name nodens address 6e:6f:64:65:6e:73 type dummy` (iproute2 6.1) sends.
    #[test]
    fn a_dummy_is_asked_for_as_iproute2_does() {
        #[rustfmt::skip]
        const IPROUTE2: &[u8] = &[
            // struct ifinfomsg: no family, type, index, flags or mask.
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            0x0a, 0, 0x01, 0, b'n', b'o', b'd', b'e', b'n', b's', 0, 0, // IFLA_ADDRESS
            0x0b, 0, 0x03, 0, b'n', b'o', b'd', b'e', b'n', b's', 0, 0, // IFLA_IFNAME
            0x10, 0, 0x12, 0, 0x09, 0, 0x01, 0, b'd', b'u', b'm', b'm', b'y', 0, 0, 0, // IFLA_LINKINFO, IFLA_INFO_KIND
        ];
        let message = marked(LinkDummy::new("nodens"));
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        assert_eq!(bytes[..16], IPROUTE2[..16]);
        assert_eq!(attributes(&bytes[16..]), attributes(&IPROUTE2[16..]));
    }

    /// The attributes (struct nlattr: length, type, value, padded to four bytes), sorted by type; IFLA_LINKINFO is the
    /// attributes within. Nothing else is ignored than what the kernel ignores: a string's final zero, and the flag for
    /// nesting.
    fn attributes(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
            let kind = u16::from_ne_bytes([bytes[2], bytes[3]]) & 0x7fff;
            let value = &bytes[4..length];
            if kind == libc::IFLA_LINKINFO {
                found.extend(attributes(value).into_iter().map(|(inner, value)| (kind << 8 | inner, value)));
            } else {
                found.push((kind, value.strip_suffix(&[0]).unwrap_or(value).to_vec()));
            }
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        found.sort();
        found
    }

    #[test]
    fn either_mark_is_enough() {
        assert!(has_mark("nodens", "02:00:00:00:00:01"));
        assert!(has_mark("", "6e:6f:64:65:6e:73"));
        assert!(!has_mark("", "02:00:00:00:00:01"));
        assert!(!has_mark("mine", ""));
    }

    #[test]
    fn loopback_and_unspecified_addresses_stay_off_the_interface() {
        let on = |address: &str| belongs_on_interface(address.parse().unwrap());
        assert!(on("169.254.20.10") && on("10.96.0.10") && on("fd00::10"));
        assert!(!on("127.0.0.1") && !on("::1") && !on("0.0.0.0") && !on("::"));
    }
}
