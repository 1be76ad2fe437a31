//! Errors as one line.

use std::error::Error;
use std::fmt::Write as _;

/// The text of an error and of its sources, outermost first, joined with colons; a source whose
/// text its parent has repeated already is left out.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let part = error.to_string();
        if !text.ends_with(&part) {
            let _ = write!(text, ": {part}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn sources_are_joined() {
        let error = Outer(std::io::Error::from_raw_os_error(2));
        assert_eq!(
            chain(&error),
            "outer: No such file or directory (os error 2)"
        );
    }
}
