//! What is wrong with a reply, and where.

use std::fmt;

use crate::wire::name::NameError;

/// What is wrong with a reply, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{section}, record {number}, byte {offset}: {flaw}")]
pub struct Malformed {
    /// Where in the message.
    pub section: Section,
    /// Which of the section's records, counted from 1.
    pub number: u16,
    /// Where in the message, in bytes; for a record that came in no message, where in the record.
    pub offset: usize,
    /// What it is.
    pub flaw: Flaw,
}

/// A part of a message (RFC 1035 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// The twelve bytes before everything.
    Header,
    /// What was asked.
    Question,
    /// What answers it.
    Answer,
    /// Who knows.
    Authority,
    /// What helps.
    Additional,
}

impl Section {
    /// The sections that hold records, in the order of [`Answer::counts`](super::Answer::counts).
    pub(super) const OF_RECORDS: [Self; 3] = [Self::Answer, Self::Authority, Self::Additional];
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Question => "question section",
            Self::Answer => "answer section",
            Self::Authority => "authority section",
            Self::Additional => "additional section",
        })
    }
}

/// What is wrong at a place in a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// A name that is none.
    #[error("expected a name: {0}")]
    Name(#[from] NameError),
    /// The message ends too soon.
    #[error("expected {0}, and the message ends")]
    Ends(&'static str),
    /// A record's data is not what its type says.
    #[error("expected the data of a record of type {rtype}, {expected}")]
    Rdata {
        /// The record's type.
        rtype: u16,
        /// What such data is made of.
        expected: &'static str,
    },
    /// More labels than an honest reply can have: each was read again and again through compression pointers.
    #[error("expected {0} labels at most in the names of all records")]
    Labels(usize),
    /// A record of a type that only questions have (RFC 6895 §3.1).
    #[error("expected a record, and type {0} is none that one can have")]
    NotARecord(u16),
    /// An OPT or TSIG record elsewhere than in the additional section (RFC 6891 §6.1.1, RFC 8945 §5.1).
    #[error("type {0} stands in the additional section only")]
    Misplaced(u16),
    /// A second OPT record, or one of a name other than the root (RFC 6891 §6.1.1, §6.1.2).
    #[error("expected one OPT record at most, owned by the root")]
    Opt,
}

/// A flaw and its offset, on its way to what knows the record's number.
pub(super) type Found = (usize, Flaw);
