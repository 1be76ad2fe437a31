//! CNI's reference plugins on a machine, called with what flannel's CNI plugin hands to them.

use std::collections::HashMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail};
use ipnetwork::Ipv4Network;
use serde_json::{Value, json};

use crate::agent;
use crate::command;
use crate::host::Pod;
use crate::machine::Machine;
use crate::netns::NetNs;

/// Device inside of a pod.
const DEVICE: &str = "eth0";
/// Version of the CNI specification in configurations.
const VERSION: &str = "0.3.1";

/// The configuration that the delegate gets: `delegate` of the operator's configuration, completed
/// from the text of a `subnet.env`.
///
/// # Errors
/// The text lacks a variable, or one is malformed.
pub fn delegate_config(subnet_env: &str, delegate: &Value) -> Result<Value> {
    let variables: HashMap<&str, &str> = subnet_env
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    let variable = |name: &str| {
        let value = variables.get(name).copied();
        value.with_context(|| format!("{name} is not in:\n{subnet_env}"))
    };
    let subnet: Ipv4Network = variable("FLANNEL_SUBNET")?
        .parse()
        .context("FLANNEL_SUBNET")?;
    let subnet = Ipv4Network::new(subnet.network(), subnet.prefix())?;
    let mtu: u32 = variable("FLANNEL_MTU")?.parse().context("FLANNEL_MTU")?;
    let is_masqueraded = variable("FLANNEL_IPMASQ")? == "true";
    let mut config = json!({
        "name": "cbr0",
        "cniVersion": VERSION,
        "type": "bridge",
        "mtu": mtu,
        "ipMasq": !is_masqueraded,
        "ipam": {
            "type": "host-local",
            "ranges": [[{ "subnet": subnet.to_string() }]],
            "routes": [{ "dst": variable("FLANNEL_NETWORK")? }],
        },
    });
    for (key, value) in delegate.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    if config["type"] == "bridge" && config.get("isGateway").is_none() {
        config["isGateway"] = true.into();
    }
    Ok(config)
}

/// A pod that plugins attached.
#[derive(Debug)]
pub struct Attached {
    /// Its network.
    pub pod: Pod,
    /// Name of its namespace, and id of the container.
    pub id: String,
    /// What the last plugin said.
    pub result: Value,
    plugins: Vec<Value>,
}

/// Plugins on a machine.
#[derive(Debug)]
pub struct Cni<'a> {
    machine: &'a Machine,
    folder: PathBuf,
}

impl<'a> Cni<'a> {
    /// The plugins, for pods of `machine`.
    ///
    /// # Errors
    /// They are not installed.
    pub fn new(machine: &'a Machine) -> Result<Self> {
        let named = std::env::var_os("CNI_PATH").map(PathBuf::from);
        let unpacked = agent::build_directory()?.join("../tools/cni/usr/lib/cni");
        let folder = named
            .into_iter()
            .chain([
                unpacked,
                PathBuf::from("/usr/lib/cni"),
                PathBuf::from("/opt/cni/bin"),
            ])
            .find(|folder| folder.join("bridge").is_file())
            .context("CNI plugins are not installed; run `cargo xtask setup`")?;
        let folder = folder.canonicalize()?;
        Ok(Self { machine, folder })
    }

    /// Makes a pod and has one plugin after the other add it to the network.
    ///
    /// # Errors
    /// A plugin fails; the message has what it said.
    pub fn add(&self, id: &str, plugins: Vec<Value>) -> Result<Attached> {
        self.machine.run("ip", &["netns", "add", id])?;
        let ns = NetNs::open(
            &self.machine.outside(&format!("/run/netns/{id}")),
            self.machine.ns().mounts(),
        )?;
        ns.ip("link set lo up")?;
        let mut result = Value::Null;
        for plugin in &plugins {
            let answer = self.call("ADD", id, plugin, &result)?;
            result = serde_json::from_str(&answer)
                .with_context(|| format!("answer of {}: {answer}", plugin["type"]))?;
        }
        let address = result["ips"][0]["address"].as_str();
        let address = address.with_context(|| format!("no address in {result}"))?;
        let address: Ipv4Network = address.parse()?;
        Ok(Attached {
            pod: Pod {
                ns,
                address: address.ip(),
                veth: host_device(&result)?,
            },
            id: id.to_owned(),
            result,
            plugins,
        })
    }

    /// Has the plugins take a pod from the network, last first, and removes it.
    ///
    /// # Errors
    /// A plugin fails; the message has what it said.
    pub fn delete(&self, attached: &Attached) -> Result<()> {
        let Attached {
            pod: _,
            id,
            result,
            plugins,
        } = attached;
        for plugin in plugins.iter().rev() {
            self.call("DEL", id, plugin, result)?;
        }
        self.machine.run("ip", &["netns", "del", id]).map(drop)
    }

    /// Addresses that `host-local` has given out on a network and that are not given back.
    ///
    /// # Errors
    /// Its directory cannot be read.
    pub fn reserved(&self, network: &str) -> Result<Vec<Ipv4Addr>> {
        let folder = self
            .machine
            .outside(&format!("/var/lib/cni/networks/{network}"));
        let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name()));
        let names: Vec<_> = names.collect::<Result<_>>()?;
        Ok(names
            .iter()
            .filter_map(|name| name.to_str()?.parse().ok())
            .collect())
    }

    fn call(&self, verb: &str, id: &str, config: &Value, previous: &Value) -> Result<String> {
        let kind = config["type"].as_str().context("a plugin has a type")?;
        let mut config = config.clone();
        if !previous.is_null() {
            config["prevResult"] = previous.clone();
        }
        let mut command = self
            .machine
            .command(&self.folder.join(kind).to_string_lossy());
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", format!("/run/netns/{id}"))
            .env("CNI_IFNAME", DEVICE)
            .env("CNI_PATH", &self.folder);
        command::output(command, Some(&config.to_string()))
            .map_err(|error| anyhow!("{verb} of {kind} with {config}: {error:#}"))
    }
}

/// The plugin that publishes ports, with pairs of a port of the host and one of the pod.
#[must_use]
pub fn portmap(ports: &[(u16, u16)]) -> Value {
    let mappings: Vec<Value> = ports
        .iter()
        .map(|(host, pod)| json!({ "hostPort": host, "containerPort": pod, "protocol": "tcp" }))
        .collect();
    json!({
        "name": "cbr0",
        "cniVersion": VERSION,
        "type": "portmap",
        "capabilities": { "portMappings": true },
        "runtimeConfig": { "portMappings": mappings },
    })
}

/// Host end of the pod's veth pair: the only device outside of a sandbox that is no bridge.
fn host_device(result: &Value) -> Result<String> {
    for interface in result["interfaces"].as_array().into_iter().flatten() {
        let name = interface["name"].as_str().unwrap_or_default();
        if interface["sandbox"].as_str().unwrap_or_default().is_empty() && name.starts_with("veth")
        {
            return Ok(name.to_owned());
        }
    }
    bail!("no veth in {result}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBNET_ENV: &str = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.34.1/24\n\
                              FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

    #[test]
    fn bridge_is_the_default_delegate_and_a_gateway() {
        let config = delegate_config(SUBNET_ENV, &json!({ "hairpinMode": true })).unwrap();
        let expected = json!({
            "name": "cbr0", "cniVersion": VERSION, "type": "bridge", "mtu": 1450,
            "ipMasq": false, "isGateway": true, "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "ranges": [[{ "subnet": "10.5.34.0/24" }]],
                "routes": [{ "dst": "10.5.0.0/16" }],
            },
        });
        assert_eq!(config, expected);
    }

    #[test]
    fn delegate_overrides_defaults() {
        let text = SUBNET_ENV.replace("=true", "=false");
        let config = delegate_config(&text, &json!({ "type": "ptp", "mtu": 1300 })).unwrap();
        assert_eq!(
            (&config["mtu"], &config["ipMasq"]),
            (&json!(1300), &json!(true))
        );
        assert_eq!(config.get("isGateway"), None);
    }
}
