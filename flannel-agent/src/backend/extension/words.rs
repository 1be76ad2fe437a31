//! A command's text as words, where no shell reads it. Pure.
//!
//! As flannel does it from v0.28.2 on: split at white space first, variables put in afterwards, so
//! that a value is part of its word whatever it contains. Quotes mean nothing. Variables are
//! spelled as Go's `os.Expand` reads them.

use std::ffi::OsString;

/// The words of `text` with variables in place; one that is not set is empty.
pub(super) fn words(text: &str, variable: impl Fn(&str) -> Option<OsString>) -> Vec<OsString> {
    let expand = |word| expand(word, &variable);
    text.split_whitespace().map(expand).collect()
}

fn expand(word: &str, variable: impl Fn(&str) -> Option<OsString>) -> OsString {
    let mut expanded = OsString::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push(before);
        let (reference, len) = reference(after);
        match reference {
            Reference::Variable(name) => expanded.push(variable(name).unwrap_or_default()),
            Reference::Dollar => expanded.push("$"),
            Reference::Malformed => {}
        }
        rest = &after[len..];
    }
    expanded.push(rest);
    expanded
}

/// What stands behind a dollar sign.
enum Reference<'a> {
    /// The name of a variable.
    Variable(&'a str),
    /// Nothing that belongs to it.
    Dollar,
    /// Braces without a name or without an end; they are left out.
    Malformed,
}

/// The reference at the start of `text`, and its length without the dollar sign.
fn reference(text: &str) -> (Reference<'_>, usize) {
    if let Some(inside) = text.strip_prefix('{') {
        return match inside.split_once('}') {
            Some(("", _)) => (Reference::Malformed, 2),
            Some((name, _)) => (Reference::Variable(name), name.len() + 2),
            None => (Reference::Malformed, 1),
        };
    }
    // The shell's own variables have names of one character; here they are never set.
    let is_special = |c: char| "*#$@!?-".contains(c) || c.is_ascii_digit();
    if text.starts_with(is_special) {
        return (Reference::Variable(&text[..1]), 1);
    }
    let is_name = |c: char| c == '_' || c.is_ascii_alphanumeric();
    match text.find(|c| !is_name(c)).unwrap_or(text.len()) {
        0 => (Reference::Dollar, 0),
        len => (Reference::Variable(&text[..len]), len),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str) -> Option<OsString> {
        let value = match name {
            "SUBNET" => "10.5.1.0/24",
            "SPACED" => "a  b",
            "X_1" => "x",
            "NESTED" => "$SUBNET",
            "A:-b" => "braces take any name",
            _ => return None,
        };
        Some(value.into())
    }

    #[test]
    fn words_are_those_that_flannel_makes() {
        let cases: [(&str, &[&str]); 16] = [
            ("", &[]),
            (" \t\n ", &[]),
            (
                "ip route add $SUBNET",
                &["ip", "route", "add", "10.5.1.0/24"],
            ),
            ("  a\u{a0}b\tc\n", &["a", "b", "c"]),
            ("${SUBNET}x $SUBNET.y", &["10.5.1.0/24x", "10.5.1.0/24.y"]),
            // A value is not split again, nor expanded again.
            ("run $SPACED $NESTED", &["run", "a  b", "$SUBNET"]),
            // What is not set leaves an empty word, not none.
            ("run $UNSET end$UNSET", &["run", "", "end"]),
            ("$X_1$X_1-$X_1", &["xx-x"]),
            ("\"$SUBNET\" 'q'", &["\"10.5.1.0/24\"", "'q'"]),
            ("a | b && c > d", &["a", "|", "b", "&&", "c", ">", "d"]),
            ("a$ $. $é $", &["a$", "$.", "$é", "$"]),
            ("$$ $1a $?b $-", &["", "a", "b", ""]),
            ("${} ${SUBNET a${", &["", "SUBNET", "a"]),
            ("${A:-b}", &["braces take any name"]),
            ("${*}x ${1}", &["x", ""]),
            ("\\$SUBNET", &["\\10.5.1.0/24"]),
        ];
        for (text, expected) in cases {
            assert_eq!(words(text, variable), expected, "{text:?}");
        }
    }
}
