//! Go's flag syntax, brought into the one spelling `--name=value`.
//!
//! `-name` equals `--name`; a value follows as the next word or after `=`, but a boolean takes one
//! only after `=`, since the next word may be something else. The last of several wins.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use super::{Stop, inapplicable};

/// The words of a command line, sorted out.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Flags before the subcommand, as `--name=value` or `--name`.
    pub(super) flags: Vec<OsString>,
    /// The subcommand and everything after it.
    pub(super) rest: Vec<OsString>,
    /// Flags of flannel that this version does not act on, with their values.
    pub(super) inapplicable: Vec<(String, String)>,
}

impl Line {
    /// All words, flags first.
    pub(super) fn words(&self) -> Vec<OsString> {
        self.flags.iter().chain(&self.rest).cloned().collect()
    }

    /// Whether a flag of that name is on the line.
    pub(super) fn has_flag(&self, name: &str) -> bool {
        self.flags.iter().chain(&self.rest).any(|word| {
            let name_given = word.as_bytes().strip_prefix(b"--").unwrap_or_default();
            name_given.split(|byte| *byte == b'=').next() == Some(name.as_bytes())
        })
    }
}

/// Sorts the words out with the help of the flags' definitions.
pub(super) fn normalize(
    args: impl IntoIterator<Item = OsString>,
    definition: &clap::Command,
) -> Result<Line, Stop> {
    let mut line = Line::default();
    let mut command = definition;
    let mut words = args.into_iter();
    while let Some(word) = words.next() {
        let in_subcommand = !line.rest.is_empty();
        let Some((name, value)) = split(&word) else {
            if let Some(found) = word.to_str().and_then(|name| command.find_subcommand(name)) {
                command = found;
            }
            let is_own_syntax = word == super::DOCKER_OPTS && !in_subcommand;
            line.rest.push(word);
            if is_own_syntax {
                line.rest.extend(words);
                break;
            }
            continue;
        };
        let wants_value = match inapplicable::find(&name) {
            Some(flag) => !flag.is_bool(),
            None => takes_value(&name, &[command, definition]),
        };
        let value = match value {
            None if wants_value => Some(words.next().ok_or_else(|| Stop {
                code: 2,
                text: format!("error: --{name} needs a value: --{name}=VALUE\n"),
            })?),
            value => value,
        };
        if inapplicable::find(&name).is_some() {
            let value = value.map(|value| value.to_string_lossy().into_owned());
            let value = value.unwrap_or_else(|| "true".into());
            line.inapplicable.push((name, value));
            continue;
        }
        let name = if name == "h" { "help".into() } else { name };
        let word = match value {
            Some(value) => assignment(&name, &value),
            None => format!("--{name}").into(),
        };
        match in_subcommand {
            true => line.rest.push(word),
            false => line.flags.push(word),
        }
    }
    Ok(line)
}

/// Name and value of a flag; a word that is none stays whole.
fn split(word: &OsStr) -> Option<(String, Option<OsString>)> {
    let text = word.as_bytes().strip_prefix(b"-")?;
    let text = text.strip_prefix(b"-").unwrap_or(text);
    if text.is_empty() || text.starts_with(b"-") || text.starts_with(b"=") {
        return None;
    }
    let mut parts = text.splitn(2, |byte| *byte == b'=');
    let name = String::from_utf8_lossy(parts.next()?).into_owned();
    let value = parts.next().map(|value| OsString::from_vec(value.to_vec()));
    Some((name, value))
}

fn takes_value(name: &str, commands: &[&clap::Command]) -> bool {
    let mut arguments = commands.iter().flat_map(|command| command.get_arguments());
    let found = arguments.find(|argument| argument.get_long() == Some(name));
    found.is_some_and(|flag| flag.get_action().takes_values() && !flag.is_require_equals_set())
}

/// Names of all flags of the agent itself.
pub(super) fn flag_names(definition: &clap::Command) -> Vec<String> {
    let longs = definition.get_arguments().filter_map(clap::Arg::get_long);
    longs.map(str::to_owned).collect()
}

/// A flag's variable and its value, when it is set to something.
pub(super) fn lookup(
    flag: &str,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Option<(String, OsString)> {
    let name = format!("FLANNELD_{}", flag.to_uppercase().replace(['-', '.'], "_"));
    let value = variable(&name).filter(|value| !value.is_empty())?;
    Some((name, value))
}

/// `--name=value`.
pub(super) fn assignment(name: &str, value: &OsStr) -> OsString {
    let mut word = OsString::from(format!("--{name}="));
    word.push(value);
    word
}

/// Go's spellings of booleans.
pub(super) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("true or false is expected".into()),
    }
}
