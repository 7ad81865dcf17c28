//! Words to server blocks: `import`, snippets, environment variables and braces resolved.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::lexer::{Position, Word, words};
use super::{CorefileError, values};

/// `zone:port ... { ... }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerBlock {
    pub(super) keys: Vec<String>,
    pub(super) directives: Vec<Directive>,
    pub(super) at: Position,
}

/// A line, and the block behind it if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directive {
    pub(super) name: String,
    pub(super) arguments: Vec<String>,
    pub(super) block: Vec<Directive>,
    pub(super) at: Position,
}

impl Directive {
    /// The line as it would be written, its block left out.
    pub(super) fn text(&self) -> String {
        self.arguments.iter().fold(self.name.clone(), |text, argument| {
            let blank = argument.is_empty() || argument.contains(char::is_whitespace);
            if blank { format!("{text} {argument:?}") } else { format!("{text} {argument}") }
        })
    }
}

/// What a parse gives: the blocks, of which there is at least one, and imports that found nothing.
#[derive(Debug)]
pub(super) struct Parsed {
    /// The file's first line: where what concerns all of it stands.
    pub(super) start: Position,
    pub(super) blocks: Vec<ServerBlock>,
    pub(super) missing_imports: Vec<(Position, String)>,
    /// `{$NAME}` of names that the environment does not have.
    pub(super) missing_variables: Vec<(Position, String)>,
}

/// Parses a Corefile. Relative imports are looked up beside `file`.
pub(super) fn parse(
    text: &str,
    file: &Path,
    environment: &BTreeMap<String, String>,
) -> Result<Parsed, CorefileError> {
    let origin: Arc<str> = file.display().to_string().into();
    let start = Position { file: Arc::clone(&origin), line: 1 };
    let mut parser = Parser {
        words: words(text, &origin).into_iter().rev().collect(),
        directory: file.parent().unwrap_or(Path::new("")).to_owned(),
        environment,
        snippets: HashMap::new(),
        imports: 0,
        last: start.clone(),
        parsed: Parsed {
            start,
            blocks: Vec::new(),
            missing_imports: Vec::new(),
            missing_variables: Vec::new(),
        },
    };
    if parser.words.len() > MAX_WORDS {
        let message = format!("found more than {MAX_WORDS} words, expected a Corefile");
        return Err(error(&parser.last.clone(), message));
    }
    while parser.peek().is_some() {
        parser.server_block()?;
    }
    // Nearly every text reads as the name of a zone, and lines of plugins behind it.
    let blocks = &parser.parsed.blocks;
    if !blocks.iter().flat_map(|block| &block.keys).any(|key| values::is_server_key(key)) {
        let at = blocks.first().map_or(&parser.parsed.start, |block| &block.at);
        return Err(error(at, "found no server block, expected a zone and `{`, such as `. {`"));
    }
    Ok(parser.parsed)
}

/// Most imports in one Corefile: one that imports itself ends here.
const MAX_IMPORTS: usize = 1_000;

/// Most words still to be read at an import or at the start.
const MAX_WORDS: usize = 100_000;

/// Deepest nesting of braces; CoreDNS's plugins use two levels.
const MAX_DEPTH: usize = 16;

/// Largest file, in bytes: what a ConfigMap can hold.
const MAX_BYTES: u64 = 1 << 20;

struct Parser<'a> {
    /// What is still to be read, the next word last.
    words: Vec<Word>,
    directory: PathBuf,
    environment: &'a BTreeMap<String, String>,
    snippets: HashMap<String, Vec<Word>>,
    imports: usize,
    last: Position,
    parsed: Parsed,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Word> {
        self.words.last()
    }

    fn next(&mut self) -> Option<Word> {
        let word = self.words.pop()?;
        self.last = word.at.clone();
        Some(word)
    }

    fn server_block(&mut self) -> Result<(), CorefileError> {
        let Some(head) = self.next() else { return Ok(()) };
        if head.text == "import" {
            return self.import(&head.at);
        }
        let at = head.at.clone();
        let mut keys = Vec::new();
        let mut word = head;
        let braces = loop {
            if word.text == "{" {
                break true;
            }
            if word.text == "}" {
                return Err(error(&word.at, "found `}`, expected a zone and `{`"));
            }
            let continues = word.text.ends_with(',');
            let text = self.expand(&word.text);
            keys.extend(text.split(',').filter(|key| !key.is_empty()).map(str::to_owned));
            match self.peek() {
                // Without braces, the rest of the file is the one block.
                Some(next) if next.first && !continues && next.text != "{" => break false,
                Some(_) => word = self.next().unwrap_or(word),
                None => break false,
            }
        };
        if keys.is_empty() {
            return Err(error(&at, "found `{`, expected a zone before it"));
        }
        if let [name] = keys.as_slice()
            && let Some(name) = name.strip_prefix('(').and_then(|name| name.strip_suffix(')'))
        {
            if !braces {
                return Err(error(&at, "found a snippet without a block, expected `{`"));
            }
            let name = name.to_owned();
            let body = self.snippet_body(&at)?;
            self.snippets.insert(name, body);
            return Ok(());
        }
        let directives = self.directives(braces, 0, &at)?;
        if !braces && directives.is_empty() {
            return Err(error(&at, "found a zone without a block, expected `{` behind it"));
        }
        self.parsed.blocks.push(ServerBlock { keys, directives, at });
        Ok(())
    }

    fn snippet_body(&mut self, at: &Position) -> Result<Vec<Word>, CorefileError> {
        let mut body = Vec::new();
        let mut depth = 0_usize;
        while let Some(word) = self.next() {
            match word.text.as_str() {
                "}" if depth == 0 => return Ok(body),
                "}" => depth -= 1,
                "{" => depth += 1,
                _ => {}
            }
            body.push(word);
        }
        Err(error(at, "found the end of the file, expected the `}` of this snippet"))
    }

    /// The lines up to `}`, or to the end of the file where there are no braces.
    fn directives(
        &mut self,
        braces: bool,
        depth: usize,
        opened: &Position,
    ) -> Result<Vec<Directive>, CorefileError> {
        if depth > MAX_DEPTH {
            return Err(error(
                opened,
                format!("found braces nested deeper than {MAX_DEPTH}, expected fewer"),
            ));
        }
        let mut directives = Vec::new();
        loop {
            let Some(word) = self.next() else {
                return if braces {
                    Err(error(opened, "found the end of the file, expected the `}` of this block"))
                } else {
                    Ok(directives)
                };
            };
            match word.text.as_str() {
                "}" if braces => return Ok(directives),
                "}" | "{" => {
                    let message = format!("found `{}`, expected the name of a plugin or option", word.text);
                    return Err(error(&word.at, message));
                }
                "import" => self.import(&word.at)?,
                _ => directives.push(self.directive(word, depth)?),
            }
        }
    }

    fn directive(&mut self, word: Word, depth: usize) -> Result<Directive, CorefileError> {
        let mut directive = Directive {
            name: self.expand(&word.text),
            arguments: Vec::new(),
            block: Vec::new(),
            at: word.at,
        };
        while let Some(next) = self.peek() {
            if next.text == "{" {
                let opened = next.at.clone();
                self.next();
                directive.block = self.directives(true, depth + 1, &opened)?;
                break;
            }
            if next.first || next.text == "}" {
                break;
            }
            if let Some(word) = self.next() {
                let text = self.expand(&word.text);
                directive.arguments.push(text);
            }
        }
        Ok(directive)
    }

    /// Puts what `import` names in its place: a snippet, or the files of a pattern.
    fn import(&mut self, at: &Position) -> Result<(), CorefileError> {
        self.imports += 1;
        if self.imports > MAX_IMPORTS || self.words.len() > MAX_WORDS {
            return Err(error(
                at,
                "found an import without end, expected no file or snippet to import itself",
            ));
        }
        let Some(name) = self.words.pop_if(|word| !word.first) else {
            return Err(error(at, "found nothing behind import, expected a snippet or a file"));
        };
        let name = self.expand(&name.text);
        let mut body = Vec::new();
        if let Some(snippet) = self.snippets.get(&name) {
            body.extend_from_slice(snippet);
        } else {
            let files = matching(&self.directory.join(&name));
            for file in &files {
                let text = read(file)?;
                body.extend(words(&text, &file.display().to_string().into()));
            }
            if files.is_empty() {
                self.parsed.missing_imports.push((at.clone(), name));
            }
        }
        if let Some(word) = body.first_mut() {
            word.first = true;
        }
        self.words.extend(body.into_iter().rev());
        Ok(())
    }

    /// `{$NAME}` and `{%NAME%}` are what the environment has, or nothing.
    fn expand(&mut self, text: &str) -> String {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find("{$").into_iter().chain(rest.find("{%")).min() {
            let close = if rest[start..].starts_with("{$") { "}" } else { "%}" };
            let Some(length) = rest[start + 2..].find(close) else { break };
            expanded.push_str(&rest[..start]);
            let name = &rest[start + 2..start + 2 + length];
            if let Some(value) = self.environment.get(name) {
                expanded.push_str(value);
            } else {
                let reference = &rest[start..start + 2 + length + close.len()];
                self.parsed.missing_variables.push((self.last.clone(), reference.to_owned()));
            }
            rest = &rest[start + 2 + length + close.len()..];
        }
        expanded + rest
    }
}

fn error(at: &Position, message: impl Into<String>) -> CorefileError {
    CorefileError::Syntax { file: at.file.to_string(), line: at.line, message: message.into() }
}

/// Reads a regular file of at most [`MAX_BYTES`].
pub(super) fn read(file: &Path) -> Result<String, CorefileError> {
    let opened =
        std::fs::File::open(file).map_err(|source| CorefileError::Read { file: file.to_owned(), source })?;
    read_from(opened, file)
}

/// Reads at most [`MAX_BYTES`] from `source`, which errors call `file`.
pub(super) fn read_from(source: impl Read, file: &Path) -> Result<String, CorefileError> {
    let failed = |source| CorefileError::Read { file: file.to_owned(), source };
    let mut bytes = Vec::new();
    source.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(failed(std::io::Error::other("it has more than 1 MiB")));
    }
    String::from_utf8(bytes).map_err(|_| failed(std::io::Error::other("it is not UTF-8")))
}

/// The regular files that a path with `*` or `?` in its last part names, sorted.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let Some(last) = pattern.file_name().and_then(OsStr::to_str) else { return Vec::new() };
    if !last.contains(['*', '?']) {
        return if pattern.is_file() { vec![pattern.to_owned()] } else { Vec::new() };
    }
    let directory = pattern.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut files: Vec<_> = entries
        .filter_map(Result::ok)
        .filter(|entry| {
            entry.file_name().to_str().is_some_and(|name| wildcard(last.as_bytes(), name.as_bytes()))
        })
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files
}

fn wildcard(pattern: &[u8], name: &[u8]) -> bool {
    // One mark to come back to is enough: a later `*` makes an earlier one's choice irrelevant.
    let (mut p, mut n, mut mark) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                mark = Some((p, n));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match mark {
                Some((star, at)) => {
                    mark = Some((star, at + 1));
                    p = star + 1;
                    n = at + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(text: &str) -> Result<Vec<ServerBlock>, CorefileError> {
        let environment = BTreeMap::from([("DOMAIN".to_owned(), "corp.example".to_owned())]);
        parse(text, Path::new("Corefile"), &environment).map(|parsed| parsed.blocks)
    }

    fn shown(block: &ServerBlock) -> Vec<String> {
        fn lines(directives: &[Directive], indent: &str, shown: &mut Vec<String>) {
            for directive in directives {
                shown.push(format!("{}{indent}{}", directive.at.line, directive.text()));
                lines(&directive.block, &format!("{indent}  "), shown);
            }
        }
        let mut shown = vec![block.keys.join(" ")];
        lines(&block.directives, " ", &mut shown);
        shown
    }

    #[test]
    fn blocks_keys_and_nested_lines() {
        let blocks = blocks(
            "a.example:53, b.example:53,\nc.example {\n  errors\n  cache {\n    success 9984 30\n  }\n}\n\n. {\n}\n",
        )
        .unwrap();
        assert_eq!(blocks.len(), 2);
        assert_eq!(
            shown(&blocks[0]),
            ["a.example:53 b.example:53 c.example", "3 errors", "4 cache", "5   success 9984 30"]
        );
        assert_eq!((blocks[1].keys.as_slice(), blocks[1].at.line), (&[".".to_owned()][..], 9));
    }

    #[test]
    fn snippets_environment_and_a_file_without_braces() {
        let text = "(common) {\n  errors\n  cache 30 {\n   prefetch 1\n  }\n}\n{$DOMAIN}:53 {%NONE%} {\n  import common\n\
                    \n  hosts {$DOMAIN}\n}\n";
        let blocks = blocks(text).unwrap();
        assert_eq!(
            shown(&blocks[0]),
            ["corp.example:53", "2 errors", "3 cache 30", "4   prefetch 1", "10 hosts corp.example"]
        );
        let bare = parse(".:53\nwhoami\nlog a {\n class x\n}\n", Path::new("f"), &BTreeMap::new()).unwrap();
        assert_eq!(shown(&bare.blocks[0]), [".:53", "2 whoami", "3 log a", "4   class x"]);
    }

    #[test]
    fn imports_read_files_beside_the_corefile_and_say_what_is_missing() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("custom")).unwrap();
        std::fs::write(directory.path().join("custom/b.server"), "b {\n log\n}\n").unwrap();
        std::fs::write(directory.path().join("custom/a.server"), "a {\n errors\n}\n").unwrap();
        std::fs::write(directory.path().join("custom/other"), "}").unwrap();
        let text = ". {\n import custom/*.override\n import gone\n}\nimport custom/*.server\n";
        let parsed = parse(text, &directory.path().join("Corefile"), &BTreeMap::new()).unwrap();
        assert_eq!(
            parsed.blocks.iter().map(|block| block.keys[0].as_str()).collect::<Vec<_>>(),
            [".", "a", "b"]
        );
        assert!(parsed.blocks[1].at.file.ends_with("custom/a.server"));
        let missing: Vec<_> =
            parsed.missing_imports.iter().map(|(at, name)| (at.line, name.as_str())).collect();
        assert_eq!(missing, [(2, "custom/*.override"), (3, "gone")]);
    }

    #[test]
    fn errors_have_a_line() {
        for (text, line, part) in [
            (". {\n errors\n", 1, "expected the `}` of this block"),
            (". {\n cache {\n  success\n}\n", 1, "expected the `}`"),
            ("}\n", 1, "found `}`"),
            ("{\n}\n", 1, "expected a zone"),
            (". {\n}\n}\n", 3, "found `}`"),
            ("(a) {\n errors\n", 1, "of this snippet"),
            (". {\n import\n errors\n}\n", 2, "found nothing behind import"),
            ("(a) {\n import a\n import a\n}\n. {\n import a\n}\n", 2, "import itself"),
        ] {
            let error = blocks(text).expect_err(text).to_string();
            assert!(
                error.contains(part) && error.starts_with(&format!("Corefile:{line}: ")),
                "{text}: {error}"
            );
        }
        let deep = format!(". {{\n{}", "a {\n".repeat(40_000));
        assert!(blocks(&deep).unwrap_err().to_string().contains("nested deeper"));
        assert!(blocks(&"a ".repeat(200_000)).unwrap_err().to_string().contains("100000 words"));
    }

    #[test]
    fn wildcards() {
        let cases = [
            ("*.server", "a.server", true),
            ("*", "", true),
            ("a?c*", "abcd", true),
            ("*a*b", "xaxbx", false),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(wildcard(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
