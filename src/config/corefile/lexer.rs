//! Corefile text to words, as CoreDNS's Caddyfile lexer cuts it.

use std::sync::Arc;

/// Where something stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// Counted from 1.
    pub line: usize,
}

/// A word of a Corefile, without its quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) at: Position,
    /// Whether it is the first on its line.
    pub(super) first: bool,
}

/// Cuts a text into words. Blanks part them, `"` holds them together, and `#` starts a comment wherever it stands
/// outside of quotes. Within quotes a backslash escapes a quote and is itself otherwise.
pub(super) fn words(text: &str, file: &Arc<str>) -> Vec<Word> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lexer = Lexer { words: Vec::new(), file, line: 1, start: 1, last_end: 0, word: None };
    let mut characters = text.chars().peekable();
    let mut quoted = false;
    while let Some(character) = characters.next() {
        match character {
            '\\' if quoted => {
                let escaped = characters.next();
                if escaped != Some('"') {
                    lexer.push('\\');
                }
                lexer.line += usize::from(escaped == Some('\n'));
                if let Some(character) = escaped {
                    lexer.push(character);
                }
            }
            '"' if quoted => {
                quoted = false;
                lexer.end();
            }
            _ if quoted => {
                lexer.push(character);
                lexer.line += usize::from(character == '\n');
            }
            '\r' => {}
            _ if character.is_whitespace() => {
                lexer.end();
                lexer.line += usize::from(character == '\n');
            }
            '#' => while characters.next_if(|character| *character != '\n').is_some() {},
            '"' if lexer.word.is_none() => {
                quoted = true;
                lexer.begin();
            }
            _ => lexer.push(character),
        }
    }
    lexer.end();
    lexer.words
}

struct Lexer<'a> {
    words: Vec<Word>,
    file: &'a Arc<str>,
    line: usize,
    /// The line on which `word` began.
    start: usize,
    /// The line on which the last word ended.
    last_end: usize,
    word: Option<String>,
}

impl Lexer<'_> {
    fn begin(&mut self) {
        self.start = self.line;
        self.word = Some(String::new());
    }

    fn push(&mut self, character: char) {
        if self.word.is_none() {
            self.begin();
        }
        self.word.get_or_insert_default().push(character);
    }

    fn end(&mut self) {
        let Some(text) = self.word.take() else { return };
        let at = Position { file: self.file.clone(), line: self.start };
        self.words.push(Word { text, at, first: self.start != self.last_end });
        self.last_end = self.line;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<(usize, bool, String)> {
        let words = words(text, &"Corefile".into());
        words.into_iter().map(|word| (word.at.line, word.first, word.text)).collect()
    }

    #[test]
    fn words_lines_comments_and_quotes() {
        let text = "\u{feff}. {\r\n  log # all\n\n  answer \"{{ .Name }} \\\"x\\\\\" \"\"\n\t} # end";
        let expected = [
            (1, true, "."),
            (1, false, "{"),
            (2, true, "log"),
            (4, true, "answer"),
            (4, false, "{{ .Name }} \"x\\\\"),
            (4, false, ""),
            (5, true, "}"),
        ];
        assert_eq!(cut(text), expected.map(|(line, first, text)| (line, first, text.to_owned())));
    }

    #[test]
    fn quotes_may_span_lines_and_stay_open() {
        assert_eq!(
            cut("\"a\nb\" c\nd"),
            [(1, true, "a\nb".to_owned()), (2, false, "c".to_owned()), (3, true, "d".to_owned())]
        );
        assert_eq!(cut("x \"open"), [(1, true, "x".to_owned()), (1, false, "open".to_owned())]);
        assert_eq!(cut("a#b\nc\"d"), [(1, true, "a".to_owned()), (2, true, "c\"d".to_owned())]);
    }
}
