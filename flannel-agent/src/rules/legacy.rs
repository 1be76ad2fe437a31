//! Legacy iptables, through its own binaries: nft can neither show nor change these tables.
//!
//! They are looked at only while the kernel has such a table in this network namespace, which it
//! makes when a legacy iptables first asks for one. So we never make one by looking.

use std::collections::BTreeSet;

use super::forward;
use super::listing::{self, Chain};
use super::plan::{Edits, Family, IptablesTable, Place};
use super::tool::{Error, Tool};

/// Package of all the binaries.
const PACKAGE: &str = "iptables";

/// The binaries of a family under one name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Legacy {
    list: Tool,
    restore: Tool,
}

impl Legacy {
    fn new(list: &'static str, restore: &'static str) -> Self {
        let tool = |program| Tool {
            program,
            package: PACKAGE,
        };
        Self {
            list: tool(list),
            restore: tool(restore),
        }
    }

    /// The legacy binaries of this host, if it has them; hosts from before iptables-nft have them
    /// under the plain name.
    pub(super) async fn find(family: Family) -> Result<Option<Self>, Error> {
        let (named, plain) = match family {
            Family::V4 => (
                Self::new("iptables-legacy", "iptables-legacy-restore"),
                Self::new("iptables", "iptables-restore"),
            ),
            Family::V6 => (
                Self::new("ip6tables-legacy", "ip6tables-legacy-restore"),
                Self::new("ip6tables", "ip6tables-restore"),
            ),
        };
        for tools in [named, plain] {
            match tools.list.run(&["--version"], "").await {
                Ok(version) if !version.contains("nf_tables") => return Ok(Some(tools)),
                Ok(_) | Err(Error::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Chains and rules of a table.
    pub(super) async fn table(self, table: IptablesTable) -> Result<Vec<Chain>, Error> {
        let args = ["-w", "5", "-t", table.name(), "-S"];
        let text = self.list.run(&args, "").await?;
        Ok(listing::from_iptables(&text))
    }

    /// Carries a script out; each table changes at once.
    pub(super) async fn apply(self, script: &str) -> Result<(), Error> {
        let args = ["-w", "5", "--noflush"];
        self.restore.run(&args, script).await.map(drop)
    }
}

/// Names of the tables that the kernel has in this network namespace.
pub(super) fn tables_in_use(family: Family) -> BTreeSet<String> {
    // Of the thread, since a process of several namespaces has one per thread.
    let path = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    // Without the file the kernel has no legacy iptables.
    let names = std::fs::read_to_string(path).unwrap_or_default();
    names.lines().map(str::to_owned).collect()
}

/// The script for iptables-restore; empty when nothing changes.
pub(super) fn script(table: IptablesTable, edits: &Edits) -> String {
    if edits.is_empty() {
        return String::new();
    }
    let Edits {
        rules,
        chains,
        accept,
    } = edits;
    let mut lines = vec![format!("*{}", table.name())];
    lines.extend(
        rules
            .iter()
            .map(|(chain, rule)| format!("-D {chain} {rule}")),
    );
    lines.extend(chains.iter().map(|chain| format!("-F {chain}")));
    lines.extend(chains.iter().map(|chain| format!("-X {chain}")));
    for place in accept {
        let Place {
            network,
            chain,
            before: _,
            index,
        } = place;
        for (n, flag) in ["-s", "-d"].into_iter().enumerate() {
            lines.push(format!(
                "-I {chain} {} {flag} {network} -m comment --comment \"{}\" -j ACCEPT",
                index + n + 1,
                forward::COMMENT
            ));
        }
    }
    lines.push("COMMIT\n".into());
    lines.join("\n")
}
