//! What nodes tell each other: a command's output as a JSON string, byte by byte as Go's encoder
//! writes it, and back. Pure.

use std::fmt::Write as _;

use serde_json::value::RawValue;
use thiserror::Error;

/// `BackendData` that no command can have printed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("BackendData is not a string: {0}")]
pub struct NotText(String);

/// `BackendData` for what a command has printed: without white space at both ends, as a string.
///
/// # Errors
/// None in practice: the text made here is JSON.
pub(super) fn backend_data(output: &[u8]) -> serde_json::Result<Box<RawValue>> {
    let mut json = String::from('"');
    for chunk in trim(output).utf8_chunks() {
        chunk.valid().chars().for_each(|c| push(&mut json, c));
        // Go replaces every byte that is not UTF-8 by itself, and spells the replacement out.
        chunk
            .invalid()
            .iter()
            .for_each(|_| json.push_str("\\ufffd"));
    }
    json.push('"');
    RawValue::from_string(json)
}

/// What `BackendData` of a peer says, absent or `null` nothing.
///
/// # Errors
/// It is not a string.
pub(super) fn text(data: Option<&RawValue>) -> Result<String, NotText> {
    let text: Result<Option<String>, _> = serde_json::from_str(data.map_or("null", RawValue::get));
    let text = text.map_err(|error| NotText(error.to_string()))?;
    Ok(text.unwrap_or_default())
}

/// White space as Unicode has it, as for Go's `TrimSpace`.
fn trim(output: &[u8]) -> &[u8] {
    let leading = output.utf8_chunks().next();
    let leading = leading.map_or(0, |chunk| {
        chunk.valid().len() - chunk.valid().trim_start().len()
    });
    let output = &output[leading..];
    let trailing = output.utf8_chunks().last();
    let trailing = trailing.filter(|chunk| chunk.invalid().is_empty());
    let trailing = trailing.map_or(0, |chunk| {
        chunk.valid().len() - chunk.valid().trim_end().len()
    });
    &output[..output.len() - trailing]
}

/// One character as `encoding/json` of Go 1.22 and later writes it, which is made for HTML.
fn push(json: &mut String, c: char) {
    match c {
        '"' | '\\' => json.extend(['\\', c]),
        '\u{8}' => json.push_str("\\b"),
        '\u{c}' => json.push_str("\\f"),
        '\n' => json.push_str("\\n"),
        '\r' => json.push_str("\\r"),
        '\t' => json.push_str("\\t"),
        '\0'..' ' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
            // Writing to a String does not fail.
            let _ = write!(json, "\\u{:04x}", u32::from(c));
        }
        _ => json.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_written_as_go_writes_it() {
        let cases: [(&[u8], &str); 12] = [
            (b"", r#""""#),
            (b" \n\t", r#""""#),
            (b"5e:1a:0b:33:9c:02\n", r#""5e:1a:0b:33:9c:02""#),
            (b" one\r\n two \n\n", r#""one\r\n two""#),
            (
                b"<a href=\"x\">&</a>",
                r#""\u003ca href=\"x\"\u003e\u0026\u003c/a\u003e""#,
            ),
            (b"back\\slash 'q' /", r#""back\\slash 'q' /""#),
            (b"\x01\x08\x0c\x1f\x7f", "\"\\u0001\\b\\f\\u001f\u{7f}\""),
            (
                "\u{e9}\u{2028}\u{2029}\u{1f980}".as_bytes(),
                "\"\u{e9}\\u2028\\u2029\u{1f980}\"",
            ),
            ("\u{a0}\u{85}x\u{3000}".as_bytes(), r#""x""#),
            (b"a\xffb\xe2\x82c", r#""a\ufffdb\ufffd\ufffdc""#),
            (b" \xff ", r#""\ufffd""#),
            ("\u{fffd}".as_bytes(), "\"\u{fffd}\""),
        ];
        for (output, expected) in cases {
            assert_eq!(backend_data(output).unwrap().get(), expected, "{output:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let output = "line one\n\tline \"two\" <&> \u{2028}\u{1f980} \\";
        let data = backend_data(output.as_bytes()).unwrap();
        assert_eq!(text(Some(&data)).unwrap(), output);
    }

    #[test]
    fn only_strings_are_read_and_nothing_is_nothing() {
        let data = |text: &str| RawValue::from_string(text.into()).unwrap();
        assert_eq!(text(None).unwrap(), "");
        assert_eq!(text(Some(&data("null"))).unwrap(), "");
        assert_eq!(text(Some(&data(r#""\u003cx\u003E""#))).unwrap(), "<x>");
        for other in ["{}", "[]", "5", "true"] {
            assert!(text(Some(&data(other))).is_err(), "{other}");
        }
    }
}
