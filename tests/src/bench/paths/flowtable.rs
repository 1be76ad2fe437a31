//! nftables' flow table on a host: established flows leave routing and netfilter aside, in the
//! kernel's own way.

use anyhow::{Context as _, Result};

use super::side::Unavailable;
use crate::command;
use crate::host::Host;

/// Lets the host forward by a flow table whatever it has forwarded once.
pub(super) fn set_up(host: &Host) -> Result<()> {
    let pod = host.pods.first().context("no pod")?;
    // With the bridge's port among the devices, packets go past the bridge, too.
    let rules = format!(
        "table ip bench {{\n\
           flowtable flows {{\n\
             hook ingress priority 0\n\
             devices = {{ {}, {} }}\n\
           }}\n\
           chain forward {{\n\
             type filter hook forward priority 0; policy accept;\n\
             counter\n\
             meta l4proto {{ tcp, udp }} flow add @flows\n\
           }}\n\
         }}\n",
        host.external, pod.veth
    );
    let mut nft = host.ns.command("nft");
    nft.args(["-f", "-"]);
    let set = command::output(nft, Some(&rules));
    // The kernel's word is "No such file or directory", with the rules around it.
    set.map_err(|_| Unavailable("this kernel or its nft has no flow tables".to_owned()))?;
    Ok(())
}

/// Packets that went through the forward chain, which those of the flow table do not.
pub(super) fn forwarded(host: &Host) -> Result<u64> {
    let words = ["list", "chain", "ip", "bench", "forward"];
    let text = host.ns.run("nft", &words)?;
    counted(&text).with_context(|| format!("no counter in:\n{text}"))
}

/// The number in `counter packets N bytes M`.
fn counted(text: &str) -> Option<u64> {
    let rest = text.split_once("counter packets ")?.1;
    rest.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_read() {
        let text = "\t\tcounter packets 17 bytes 1428\n\t\tflow add @flows";
        assert_eq!(counted(text), Some(17));
        assert_eq!(counted("flow add @flows"), None);
    }
}
