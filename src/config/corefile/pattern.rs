//! The few shapes of regular expressions that Corefiles use to mean a name or all names below it.

/// The names a regular expression matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pattern {
    /// Every name.
    All,
    /// These: exactly one, or with `*.` in front all below it.
    Names {
        /// The names.
        names: Vec<String>,
        /// Whether the expression also matches part of a label, which `names` do not.
        loose: bool,
    },
}

/// Reads `^(.*\.)?corp\.example\.$`, `.*\.corp\.example\.$`, `^host\.example\.$` and their likes; none for others.
pub(super) fn read(expression: &str) -> Option<Pattern> {
    let expression = expression.strip_prefix("(?i)").unwrap_or(expression);
    let (anchored, rest) = match expression.strip_prefix('^') {
        Some(rest) => (true, rest),
        None => (false, expression),
    };
    let (closed, rest) = match rest.strip_suffix('$') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    if matches!(rest, "" | "." | ".*" | "(.*)" | r".*\." | r"(.*)\." | "(.*)[.]") {
        return Some(Pattern::All);
    }
    let (shape, rest) = prefix(rest.strip_suffix(r"\.?").unwrap_or(rest));
    let name = literal(rest)?;
    if !closed {
        // It may go on behind: a name in the middle is nothing that a suffix can say.
        return None;
    }
    let below = format!("*.{name}");
    let (names, loose) = match shape {
        Shape::Below => (vec![below], false),
        Shape::Both => (vec![name, below], false),
        Shape::Exact if anchored => (vec![name], false),
        Shape::Exact | Shape::Loose => (vec![name, below], true),
    };
    Some(Pattern::Names { names, loose })
}

/// The suffix of an expression that captures all that is before it, as in `(.*)\.old\.example`.
pub(super) fn captured_suffix(expression: &str) -> Option<String> {
    let rest = expression.strip_prefix('^').unwrap_or(expression);
    let rest = rest.strip_suffix('$').unwrap_or(rest);
    let rest = ["(.*)", "(.+)"].iter().find_map(|capture| rest.strip_prefix(capture))?;
    let rest = [r"\.", "[.]", "."].iter().find_map(|dot| rest.strip_prefix(dot))?;
    literal(rest)
}

enum Shape {
    Exact,
    Below,
    Both,
    Loose,
}

fn prefix(rest: &str) -> (Shape, &str) {
    const DOTS: [&str; 3] = [r"\.", "[.]", r"(\.)"];
    for any in [".*", ".+"] {
        for dot in DOTS {
            for (open, close, shape) in [
                ("(", ")?", Shape::Both),
                ("(?:", ")?", Shape::Both),
                ("(|", ")", Shape::Both),
                ("(", ")", Shape::Below),
                ("(?:", ")", Shape::Below),
                ("", "", Shape::Below),
            ] {
                if let Some(rest) = rest.strip_prefix(&format!("{open}{any}{dot}{close}")) {
                    return (shape, rest);
                }
            }
            if let Some(rest) = rest.strip_prefix(&format!("({any}){dot}")) {
                return (Shape::Below, rest);
            }
        }
        if let Some(rest) = rest.strip_prefix(&format!("({any})")).or_else(|| rest.strip_prefix(any)) {
            return (Shape::Loose, rest);
        }
    }
    for dot in DOTS {
        if let Some(rest) = rest.strip_prefix(dot) {
            return (Shape::Below, rest);
        }
    }
    (Shape::Exact, rest)
}

/// A name written in a regular expression. A dot that nobody escaped is taken for the dot that was meant.
fn literal(text: &str) -> Option<String> {
    let plain = text.replace("[.]", ".").replace(r"\.", ".").replace(r"\-", "-");
    let ok = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !plain.bytes().all(ok) || plain.starts_with('.') {
        return None;
    }
    super::values::zone_name(&plain).filter(|name| name != ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_in_use() {
        for (expression, expected, loose) in [
            (r"^(.*\.)?corp\.example\.$", "corp.example *.corp.example", false),
            (r"(?i)^(.*[.])?corp[.]example[.]$", "corp.example *.corp.example", false),
            (r".*\.eu-west-1\.compute\.internal\.$", "*.eu-west-1.compute.internal", false),
            (r"\.corp\.example\.$", "*.corp.example", false),
            (r"^host\.corp\.example\.?$", "host.corp.example", false),
            (r"^host\.corp\.example\.$", "host.corp.example", false),
            ("^host.corp.example.$", "host.corp.example", false),
            (r"(.*)\.corp\.example$", "*.corp.example", false),
            (r"corp\.example\.$", "corp.example *.corp.example", true),
            (r"^.*corp\.example\.$", "corp.example *.corp.example", true),
        ] {
            let found = read(expression);
            let names: Vec<_> = expected.split_whitespace().map(str::to_owned).collect();
            let expected = (!names.is_empty()).then_some(Pattern::Names { names, loose });
            assert_eq!(found, expected, "{expression}");
        }
        for expression in [".*", "^.*$", "", r"^(.*)\.$", "."] {
            assert_eq!(read(expression), Some(Pattern::All), "{expression}");
        }
        for expression in [r"^ip-(\d+)\.example\.$", r"^(a|b)\.example\.$", "^example", r"[a-z]+\.example\.$"]
        {
            assert_eq!(read(expression), None, "{expression}");
        }
    }

    #[test]
    fn captured() {
        assert_eq!(captured_suffix(r"(.*)\.old\.example"), Some("old.example".to_owned()));
        assert_eq!(captured_suffix(r"^(.+)\.old\.example\.$"), Some("old.example".to_owned()));
        assert_eq!(captured_suffix(r"(.*)-x\.example"), None);
        assert_eq!(captured_suffix(r"(.*)\.(.*)\.example"), None);
    }
}
