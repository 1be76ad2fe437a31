//! Traffic rules, set by the agent's own code in a private network namespace.

use anyhow::Result;

use super::facts::{Fact, Isolation};
use crate::error::chain;
use crate::netlink::Netlink;
use crate::rules::{self, Blackhole, Error, Forward, Rules, SourcePorts, Spec};

/// Sets the table of masquerade rules, and reads it back.
pub(super) async fn read(isolation: Isolation) -> Fact {
    match try_rules().await {
        Ok(found) if !found.is_empty() => {
            Fact::yes("set the masquerade rules, and found them there")
        }
        Ok(_) => Fact::no("set the masquerade rules, but `nft` does not show them"),
        Err(error) => {
            let text = chain(error.as_ref());
            match error.downcast_ref() {
                Some(Error::Missing { .. }) => Fact::no(text),
                _ => isolation.refused(text),
            }
        }
    }
}

async fn try_rules() -> Result<Vec<String>> {
    let spec = Spec {
        network: "10.5.0.0/16".parse()?,
        subnet: "10.5.1.0/24".parse()?,
        masquerade: Some(SourcePorts::FullyRandom),
        forward: Forward::Leave,
        blackhole: Blackhole::None,
    };
    let netlink = Netlink::open()?;
    // They end with the namespace.
    Rules::start(spec, netlink.clone()).await?;
    Ok(rules::list_ours(&netlink).await?)
}
