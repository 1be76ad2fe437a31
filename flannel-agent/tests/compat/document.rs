//! `docs/compatibility.md`, as far as tests refer to it.

use std::collections::BTreeSet;

const TEXT: &str = include_str!("../../../docs/compatibility.md");

/// How a row of a table compares with flannel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Is {
    /// As flannel has it.
    Same,
    /// Not so; the row of the document that says why.
    Other(&'static str),
}

/// Identifiers of rows: the first cell of a row such as `| C1 | … |`.
fn rows() -> Vec<&'static str> {
    let first_cells = TEXT.lines().filter_map(|line| {
        let cell = line.strip_prefix("| ")?.split(" | ").next()?;
        let (letter, number) = cell.split_at_checked(1)?;
        let is_id = letter.chars().all(|c| c.is_ascii_uppercase())
            && !number.is_empty()
            && number.bytes().all(|b| b.is_ascii_digit());
        is_id.then_some(cell)
    });
    first_cells.collect()
}

/// Fails where a table refers to a row that the document does not have.
pub(crate) fn check(is: Is) {
    if let Is::Other(row) = is {
        assert!(rows().contains(&row), "{row} is not in the document");
    }
}

/// Whether the document speaks of something, in code spelling.
pub(crate) fn names(thing: &str) -> bool {
    TEXT.contains(&format!("`{thing}`")) || TEXT.contains(&format!("`--{thing}`"))
}

#[test]
fn every_row_has_a_name_of_its_own() {
    let rows = rows();
    assert!(rows.len() > 40, "{rows:?}");
    let different: BTreeSet<_> = rows.iter().collect();
    assert_eq!(different.len(), rows.len(), "{rows:?}");
}

#[test]
fn every_known_defect_of_flannel_has_a_row() {
    let rows = rows();
    for number in 1..=18 {
        let row = format!("D{number}");
        assert!(rows.contains(&row.as_str()), "{row}");
    }
}
