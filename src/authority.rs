//! Names this node answers by itself: special-use names, `hosts`, and zones served from a file.
//!
//! | RFC | what of it stands here |
//! |---|---|
//! | 1035 §5, 2308 §4 | master files, through hickory-server's catalog ([`zone_file`]) |
//! | 6303, 6761, 6762 §22, 7686, 9462 §6.4, 9476 | names that never leave the node ([`special`]) |
//!
//! [`special`] and [`hosts`] take a question and return an answer. [`zone_file`] opens files when a zone is loaded, and
//! asks hickory-server; nothing here touches a socket or reads a clock.

pub mod hosts;
pub mod records;
pub mod special;
pub mod zone_file;

pub use hosts::Hosts;
pub use special::Special;
pub use zone_file::{ZoneFile, ZoneFileError};
