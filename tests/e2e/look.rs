//! What a host has, as an administrator would see it.

use std::time::Duration;

use aya::programs::SchedClassifier;
use aya::programs::TcAttachType::{Egress, Ingress};
use flannel_tests::host::Host;
use flannel_tests::wait;

/// How long the agent may take to do what it has been told.
const LIMIT: Duration = Duration::from_secs(15);

/// What a command says on the host, without the line break at its end.
pub(crate) fn run(host: &Host, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let said = host.ns.run(words[0], &words[1..]).expect(line);
    said.trim_end().to_owned()
}

/// Routes of the main table to a subnet, one line each.
pub(crate) fn routes(host: &Host, subnet: &str) -> String {
    let routes = run(host, &format!("ip route show exact {subnet}"));
    let lines = routes.lines().map(|line| line.replace(" linkdown", ""));
    let lines: Vec<_> = lines.map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// Names of all devices but the loopback, sorted.
pub(crate) fn devices(host: &Host) -> Vec<String> {
    let links: serde_json::Value =
        serde_json::from_str(&run(host, "ip -json link show")).expect("links");
    let names = links.as_array().expect("links").iter();
    let names = names.filter_map(|link| link["ifname"].as_str());
    let mut names: Vec<_> = names
        .filter(|name| *name != "lo")
        .map(str::to_owned)
        .collect();
    names.sort();
    names
}

/// Underlay addresses in the FDB of a vxlan device, sorted.
pub(crate) fn remotes(host: &Host, device: &str) -> Vec<String> {
    let entries = run(host, &format!("bridge fdb show dev {device}"));
    let remote = |line: &str| {
        let mut words = line.split_whitespace();
        words.find(|word| *word == "dst")?;
        words.next().map(str::to_owned)
    };
    let mut remotes: Vec<_> = entries.lines().filter_map(remote).collect();
    remotes.sort();
    remotes
}

/// Permanent neighbours on a device, sorted.
pub(crate) fn neighbours(host: &Host, device: &str) -> Vec<String> {
    let entries = run(host, &format!("ip neigh show dev {device} nud permanent"));
    let mut neighbours: Vec<_> = entries
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    neighbours.sort();
    neighbours
}

/// Programs on the network hooks, one line each.
pub(crate) fn programs(host: &Host) -> Vec<String> {
    let text = run(host, "bpftool net show");
    let lines = text.lines().map(str::trim);
    // Which kinds of hooks it knows depends on its version; tcx it learnt late.
    let lines = lines.filter(|line| !(line.is_empty() || line.ends_with(':')));
    let lines = lines.filter(|line| !line.contains("tcx/"));
    let mut programs: Vec<_> = lines.map(str::to_owned).collect();
    for device in devices(host) {
        for (direction, name) in [(Ingress, "ingress"), (Egress, "egress")] {
            // Linux 6.6; before, there is nothing.
            let query = || SchedClassifier::query_tcx(&device, direction);
            let found = host.ns.enter(query).expect("enter").unwrap_or_default().1;
            programs.extend(found.iter().map(|info| {
                let program = info.name_as_str().unwrap_or_default();
                format!("{device} tcx/{name} {program} id {}", info.id())
            }));
        }
    }
    programs
}

/// Waits until `probe` says what is `expected`.
pub(crate) fn until_equal<T>(what: &str, expected: &T, mut probe: impl FnMut() -> T)
where
    T: PartialEq + std::fmt::Debug,
{
    let mut last = None;
    let waited = wait::until(what, LIMIT, || {
        let now = probe();
        let is_equal = now == *expected;
        last = Some(now);
        Ok(is_equal.then_some(()))
    });
    assert!(waited.is_ok(), "{what}: {last:?}, not {expected:?}");
}
