//! A lookup that failed: what the client is told, and for how long it is remembered.

use crate::upstream::ExchangeError;
use crate::wire::answer::{Answer, AnswerError, Kind};
use crate::wire::{ede, rcode};

/// What became of a lookup.
pub(super) enum Looked {
    /// It was answered. An answer of the kind [`Kind::Failure`] is a [`Failed`].
    Answer(Answer),
    /// The upstream cut its reply, and there is no TCP to ask again.
    Truncated,
    /// It failed.
    Failed(Failed),
}

/// A failed lookup (RFC 9520 §2).
#[derive(Debug)]
pub(super) struct Failed {
    /// What a client gets, if nothing stale can be had.
    pub(super) answer: Answer,
    /// Why, in RFC 8914's terms.
    pub(super) extended_error: Option<u16>,
    /// How long it is remembered.
    pub(super) memory: Memory,
}

/// How a failure is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Memory {
    /// Longer each time it happens again (RFC 9520 §3.2).
    Backoff,
    /// For the shortest time: everything fails, and the upstreams are watched anyway. What comes back is asked at once.
    Brief,
    /// Not at all: it says nothing about the question.
    None,
}

impl Failed {
    /// SERVFAIL.
    pub(super) fn servfail(extended_error: u16, memory: Memory) -> Self {
        let answer = Answer::empty(rcode::SERVFAIL, Kind::Failure, 0);
        Self { answer, extended_error: Some(extended_error), memory }
    }

    /// The upstream answered with another rcode than NOERROR and NXDOMAIN.
    ///
    /// It is passed on as it is: clients tell REFUSED and NOTIMP from SERVFAIL. FORMERR, BADVERS and the other
    /// extended rcodes speak of our own query or hop (RFC 6895 §2.3), and say another thing to a client without EDNS, which
    /// sees four of their bits: the client gets SERVFAIL for them.
    pub(super) fn answered(answer: Answer) -> Self {
        match answer.rcode {
            rcode::FORMERR | FIRST_EXTENDED.. => Self::servfail(ede::INVALID_DATA, Memory::Backoff),
            _ => Self { answer, extended_error: None, memory: Memory::Backoff },
        }
    }
}

impl From<ExchangeError> for Failed {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Timeout { .. } => Self::servfail(ede::NO_REACHABLE_AUTHORITY, Memory::Backoff),
            ExchangeError::Unreachable { .. } => Self::servfail(ede::NETWORK_ERROR, Memory::Backoff),
            ExchangeError::Down | ExchangeError::NoUpstream => {
                Self::servfail(ede::NO_REACHABLE_AUTHORITY, Memory::Brief)
            }
            ExchangeError::Truncated { .. } => Self::servfail(ede::INVALID_DATA, Memory::Backoff),
            ExchangeError::Overloaded { .. } => Self::servfail(ede::NOT_READY, Memory::None),
        }
    }
}

impl From<AnswerError> for Looked {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::Truncated => Self::Truncated,
            _ => Self::Failed(Failed::servfail(ede::INVALID_DATA, Memory::Backoff)),
        }
    }
}

impl From<Failed> for Looked {
    fn from(failed: Failed) -> Self {
        Self::Failed(failed)
    }
}

impl From<Result<Answer, AnswerError>> for Looked {
    fn from(answer: Result<Answer, AnswerError>) -> Self {
        match answer {
            Ok(answer) if answer.kind == Kind::Failure => Failed::answered(answer).into(),
            Ok(answer) => Self::Answer(answer),
            Err(error) => error.into(),
        }
    }
}

/// The first rcode that takes an OPT record to tell (RFC 6891 §6.1.3).
const FIRST_EXTENDED: u16 = 16;
