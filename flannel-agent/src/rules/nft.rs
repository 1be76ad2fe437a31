//! nftables, through the `nft` binary: listings as JSON, changes as one script, which the kernel
//! takes as a whole or not at all.

use std::collections::BTreeSet;

use serde_json::Value;

use super::listing::{self, Chain};
use super::tool::{Error, Tool};

const NFT: Tool = Tool {
    program: "nft",
    package: "nftables",
};

/// A table by family and name.
pub(super) type TableName = (String, String);

/// Names of all tables.
pub(super) async fn tables() -> Result<BTreeSet<TableName>, Error> {
    let document = list(&["list", "tables"]).await?;
    let objects = document["nftables"].as_array().into_iter().flatten();
    let name = |object: &Value| {
        let table = &object["table"];
        let part = |key: &str| Some(table[key].as_str()?.to_owned());
        Some((part("family")?, part("name")?))
    };
    Ok(objects.filter_map(name).collect())
}

/// Chains and rules of a table that exists.
pub(super) async fn table(family: &str, name: &str) -> Result<Vec<Chain>, Error> {
    let document = list(&["list", "table", family, name]).await?;
    Ok(listing::from_nft(&document))
}

/// Carries a script out, in one transaction.
pub(super) async fn apply(script: &str) -> Result<(), Error> {
    NFT.run(&["-f", "-"], script).await.map(drop)
}

async fn list(what: &[&str]) -> Result<Value, Error> {
    let args: Vec<_> = ["-j"].iter().chain(what).copied().collect();
    let text = NFT.run(&args, "").await?;
    serde_json::from_str(&text).map_err(|source| Error::Output {
        program: NFT.program,
        source,
    })
}
