//! What an import has to say about a line.

use std::fmt;

use super::lexer::Position;

/// Something in a Corefile that did not simply become a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where it stands.
    pub at: Position,
    /// How much it matters.
    pub kind: Kind,
    /// The directive or placeholder, as written.
    pub directive: String,
    /// What it did in CoreDNS.
    pub did: String,
    /// What nodens does, or what to do instead.
    pub instead: String,
}

/// How much a [`Finding`] matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Nothing in nodens does this.
    NoEquivalent,
    /// A placeholder that nothing filled; a stand-in is in its place.
    NotFilled,
    /// It is carried over, but works differently.
    Different,
    /// nodens does this without being asked.
    BuiltIn,
}

impl Kind {
    /// Whether `--strict` fails for it.
    pub fn is_loss(self) -> bool {
        matches!(self, Self::NoEquivalent | Self::NotFilled)
    }

    /// The heading under which findings of this kind are listed.
    pub fn heading(self) -> &'static str {
        match self {
            Self::NoEquivalent => "Has no equivalent",
            Self::NotFilled => "To be filled in",
            Self::Different => "Works differently",
            Self::BuiltIn => "Needs no key",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, directive, did, instead, .. } = self;
        write!(f, "{}:{}: {}: {did}; {instead}", at.file, at.line, shown(directive))
    }
}

/// One line, of bearable length and without control characters: it goes into a comment.
fn shown(text: &str) -> String {
    const LONGEST: usize = 100;
    let mut shown: String =
        text.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}
