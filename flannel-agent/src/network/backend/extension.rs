//! Options of the extension backend.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::network::{Document, NetworkError};

/// What `"Shell": true` means.
const USUAL_SHELL: &str = "/bin/sh";

/// How long a command may run unless `CommandTimeout` says otherwise, seconds.
const USUAL_TIMEOUT_SECS: u32 = 60;

/// Options of the extension backend. A command that is absent is not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// Run before there is a lease; what it prints is the lease's backend data.
    pub pre_startup: Option<String>,
    /// Run when there is a lease.
    pub post_startup: Option<String>,
    /// Run for each peer that comes.
    pub subnet_add: Option<String>,
    /// Run for each peer that goes.
    pub subnet_remove: Option<String>,
    /// Shell that is given the commands with `-c`; absent, they are split into words and executed.
    pub shell: Option<PathBuf>,
    /// How long one command may run.
    pub timeout: Duration,
}

impl Extension {
    pub(super) fn parse(
        backend: &Document<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, NetworkError> {
        let command = |key| -> Result<Option<String>, NetworkError> {
            let text: Option<String> = backend.typed(key, "a command is expected, in quotes")?;
            Ok(text.filter(|text| !text.trim().is_empty()))
        };
        let seconds = backend.number("CommandTimeout", 1..=86_400)?;
        let extension = Self {
            pre_startup: command("PreStartupCommand")?,
            post_startup: command("PostStartupCommand")?,
            subnet_add: command("SubnetAddCommand")?,
            subnet_remove: command("SubnetRemoveCommand")?,
            shell: shell(backend)?,
            timeout: Duration::from_secs(seconds.unwrap_or(USUAL_TIMEOUT_SECS).into()),
        };
        if command("ShutdownCommand")?.is_some() {
            warnings.push(
                "ShutdownCommand is not run, as in flannel: what the commands have set up stays \
                 over the end of the agent"
                    .into(),
            );
        }
        warnings.extend(extension.shell_syntax());
        Ok(extension)
    }

    /// Commands that look as if they were meant for a shell that is not asked for.
    fn shell_syntax(&self) -> Option<String> {
        let commands = [
            ("PreStartupCommand", &self.pre_startup),
            ("PostStartupCommand", &self.post_startup),
            ("SubnetAddCommand", &self.subnet_add),
            ("SubnetRemoveCommand", &self.subnet_remove),
        ];
        let is_meant_for_shell = |text: &String| {
            let substitutes = text.contains("$(");
            substitutes || text.contains(['|', '&', ';', '<', '>', '`', '"', '\''])
        };
        let named = commands.into_iter().filter_map(|(key, command)| {
            let command = command.as_ref()?;
            is_meant_for_shell(command).then_some(key)
        });
        let named: Vec<_> = named.collect();
        (self.shell.is_none() && !named.is_empty()).then(|| {
            format!(
                "{}: quotes and operators mean nothing, since commands run without a shell, as in \
                 flannel from v0.28.2 on; \"Shell\": true in Backend gives them to {USUAL_SHELL}",
                named.join(", ")
            )
        })
    }
}

/// `Shell`: true, false, or the path of one.
fn shell(backend: &Document<'_>) -> Result<Option<PathBuf>, NetworkError> {
    const KEY: &str = "Shell";
    let Some(value) = backend.members.get_non_null(KEY) else {
        return Ok(None);
    };
    if let Ok(wanted) = serde_json::from_str::<bool>(value.get()) {
        return Ok(wanted.then(|| PathBuf::from(USUAL_SHELL)));
    }
    let path = serde_json::from_str::<PathBuf>(value.get()).ok();
    path.filter(|path| Path::is_absolute(path))
        .map(Some)
        .ok_or_else(|| {
            let wanted = "true, or the path of a shell such as \"/bin/bash\", is expected";
            backend.error(KEY, value, wanted)
        })
}
