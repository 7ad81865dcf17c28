//! What an import has to say about a line.

use std::fmt;
use std::path::Path;

use super::lexer::Position;

/// Something in a Corefile that did not simply become a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
        write!(f, "{}:{}: {}: {}; {}", at.file, at.line, shown(directive), shown(did), shown(instead))
    }
}

/// The findings of one kind as lines of text, those that say the same in one: `line 3, 18: reload: ...`.
///
/// `file` is the Corefile, whose name its own lines do without.
pub fn listed(findings: &[Finding], kind: Kind, file: &Path) -> Vec<String> {
    let file = file.to_string_lossy();
    let mut lines: Vec<(&Finding, String)> = Vec::new();
    for finding in findings.iter().filter(|finding| finding.kind == kind) {
        let Finding { at, directive, did, instead, .. } = finding;
        let place = if *at.file == *file { at.line.to_string() } else { format!("{}:{}", at.file, at.line) };
        let same = |known: &&mut (&Finding, String)| {
            (&known.0.directive, &known.0.did, &known.0.instead) == (directive, did, instead)
        };
        match lines.iter_mut().find(same) {
            Some((_, places)) => *places = format!("{places}, {place}"),
            None => lines.push((finding, place)),
        }
    }
    let text = |(finding, places): (&Finding, String)| {
        let Finding { directive, did, instead, .. } = finding;
        format!("line {}: {}: {}; {}", shown(&places), shown(directive), shown(did), shown(instead))
    };
    lines.into_iter().map(text).collect()
}

/// One line, of bearable length and without control characters: it goes into a comment.
fn shown(text: &str) -> String {
    const LONGEST: usize = 240;
    let ends = |c: char| {
        c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
    };
    let mut shown: String = text.chars().take(LONGEST).map(|c| if ends(c) { ' ' } else { c }).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}
