//! What a changed network config would change.

use std::fmt::Display;
use std::path::PathBuf;

use super::{Backend, Extension, NetworkConfig, Overlay, SubnetRange, Udp, Vxlan};

impl NetworkConfig {
    /// Every setting that differs from this one, as `Key before -> after`; defaults count as given.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let Self {
            ipv4,
            ipv6,
            enable_nftables,
            backend,
        } = self;
        let mut found = Differences(Vec::new());
        found.overlay("", ipv4.as_ref(), other.ipv4.as_ref());
        found.overlay("IPv6", ipv6.as_ref(), other.ipv6.as_ref());
        found.compare("EnableNFTables", enable_nftables, &other.enable_nftables);
        found.backend(backend, &other.backend);
        found.0
    }
}

struct Differences(Vec<String>);

impl Differences {
    fn compare<T: PartialEq + Display>(&mut self, key: &str, before: &T, after: &T) {
        if before != after {
            self.0.push(format!("{key} {before} -> {after}"));
        }
    }

    /// Settings of one family, whose names have a prefix.
    fn overlay<N: PartialEq + Display>(
        &mut self,
        prefix: &str,
        before: Option<&Overlay<N>>,
        after: Option<&Overlay<N>>,
    ) {
        let name = |key: &str| format!("{prefix}{key}");
        match (before, after) {
            (Some(before), Some(after)) => {
                let Overlay { network, subnets } = before;
                let SubnetRange { min, max, len } = subnets;
                self.compare(&name("Network"), network, &after.network);
                self.compare(&name("SubnetLen"), len, &after.subnets.len);
                self.compare(&name("SubnetMin"), min, &after.subnets.min);
                self.compare(&name("SubnetMax"), max, &after.subnets.max);
            }
            (None, None) => {}
            (before, after) => {
                let network = |overlay: Option<&Overlay<N>>| match overlay {
                    Some(overlay) => overlay.network.to_string(),
                    None => "off".into(),
                };
                self.compare(&name("Network"), &network(before), &network(after));
            }
        }
    }

    fn backend(&mut self, before: &Backend, after: &Backend) {
        match (before, after) {
            (Backend::Vxlan(before), Backend::Vxlan(after)) => self.vxlan(before, after),
            (Backend::Udp(Udp { port }), Backend::Udp(after)) => {
                self.compare("Backend.Port", port, &after.port);
            }
            (Backend::Extension(before), Backend::Extension(after)) => {
                self.extension(before, after);
            }
            // Another backend has other settings: the type says it all.
            _ => self.compare("Backend.Type", &before.name(), &after.name()),
        }
    }

    fn extension(&mut self, before: &Extension, after: &Extension) {
        let Extension {
            pre_startup,
            post_startup,
            subnet_add,
            subnet_remove,
            shell,
            timeout,
        } = before;
        let commands = [
            ("PreStartupCommand", pre_startup, &after.pre_startup),
            ("PostStartupCommand", post_startup, &after.post_startup),
            ("SubnetAddCommand", subnet_add, &after.subnet_add),
            ("SubnetRemoveCommand", subnet_remove, &after.subnet_remove),
        ];
        let text = |command: &Option<String>| match command {
            Some(command) => format!("{command:?}"),
            None => "unset".into(),
        };
        for (key, before, after) in commands {
            self.compare(&format!("Backend.{key}"), &text(before), &text(after));
        }
        let path = |shell: &Option<PathBuf>| match shell {
            Some(shell) => shell.display().to_string(),
            None => "none".into(),
        };
        self.compare("Backend.Shell", &path(shell), &path(&after.shell));
        let seconds = (timeout.as_secs(), after.timeout.as_secs());
        self.compare("Backend.CommandTimeout", &seconds.0, &seconds.1);
    }

    fn vxlan(&mut self, before: &Vxlan, after: &Vxlan) {
        let Vxlan {
            vni,
            port,
            mtu,
            gbp,
            learning,
            direct_routing,
        } = before;
        let text = |value: Option<u32>| value.map_or("unset".into(), |value| value.to_string());
        let port_text = |port: Option<u16>| text(port.map(u32::from));
        self.compare("Backend.VNI", vni, &after.vni);
        self.compare("Backend.Port", &port_text(*port), &port_text(after.port));
        self.compare("Backend.MTU", &text(*mtu), &text(after.mtu));
        self.compare("Backend.GBP", gbp, &after.gbp);
        self.compare("Backend.Learning", learning, &after.learning);
        let direct = (direct_routing, &after.direct_routing);
        self.compare("Backend.DirectRouting", direct.0, direct.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> NetworkConfig {
        NetworkConfig::parse(text).unwrap().0
    }

    #[test]
    fn each_setting_that_differs_is_named_with_both_values() {
        let before = parse(r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}"#);
        let same = r#"{ "SubnetLen": 24, "network": "10.5.0.0/16", "Backend": {"type": "VXLAN"} }"#;
        assert_eq!(before.differences(&parse(same)), Vec::<String>::new());
        let after = parse(
            r#"{"Network": "10.5.0.0/16", "SubnetLen": 25, "EnableNFTables": true,
                "EnableIPv6": true, "IPv6Network": "fd00:5::/48",
                "Backend": {"Type": "vxlan", "VNI": 2, "Port": 4789, "DirectRouting": true}}"#,
        );
        let found = before.differences(&after).join("; ");
        for part in [
            "SubnetLen 24 -> 25",
            "IPv6Network off -> fd00:5::/48",
            "EnableNFTables false -> true",
            "Backend.VNI 1 -> 2",
            "Backend.Port unset -> 4789",
            "Backend.DirectRouting false -> true",
        ] {
            assert!(found.contains(part), "{part} in {found}");
        }
        assert!(!found.contains("Backend.MTU"), "{found}");
    }
    #[test]
    fn backends_differ_by_their_own_settings_or_by_their_type() {
        // before, after, what is told
        let rows = [
            (r#""host-gw""#, r#""HOST-GW""#, ""),
            (
                r#""host-gw""#,
                r#""alloc""#,
                "Backend.Type host-gw -> alloc",
            ),
            (
                r#""udp""#,
                r#""vxlan", "VNI": 7"#,
                "Backend.Type udp -> vxlan",
            ),
            (r#""udp", "Port": 8285"#, r#""udp""#, ""),
            (r#""udp""#, r#""udp", "Port": 9"#, "Backend.Port 8285 -> 9"),
            (
                r#""extension", "Shell": false"#,
                r#""extension", "CommandTimeout": 60"#,
                "",
            ),
            (
                r#""extension", "SubnetAddCommand": "a""#,
                r#""extension", "SubnetRemoveCommand": "b", "Shell": true, "CommandTimeout": 5"#,
                "Backend.SubnetAddCommand \"a\" -> unset; \
                 Backend.SubnetRemoveCommand unset -> \"b\"; \
                 Backend.Shell none -> /bin/sh; Backend.CommandTimeout 60 -> 5",
            ),
        ];
        for (before, after, told) in rows {
            let config = |backend: &str| {
                parse(&format!(
                    r#"{{"Network": "10.5.0.0/16", "Backend": {{"Type": {backend}}}}}"#
                ))
            };
            let found = config(before).differences(&config(after)).join("; ");
            assert_eq!(found, told, "{before} {after}");
        }
    }
}
