//! The report as text. Pure.

use std::fmt::Write as _;

use super::Report;
use super::facts::There;
use super::table::Facility;

/// Renders the table and the verdict; ends with a line break.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut text = format!("Linux {}\n\n", report.kernel);
    let widths = |row: &Facility| row.facility.len();
    let width = report.facilities.iter().map(widths).max().unwrap_or(0);
    for row in &report.facilities {
        let Facility {
            facility,
            there,
            detail,
            follows,
        } = row;
        let there = match there {
            There::Yes => "yes",
            There::No => "no",
            There::Unknown => "?",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{facility:<width$}  {there:<3}  {detail}");
        if let Some(follows) = follows {
            let _ = writeln!(text, "{:<width$}       → {follows}", "");
        }
    }
    let _ = writeln!(text, "\n{}", report.verdict);
    text
}
