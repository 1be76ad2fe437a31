//! What a host has, as an administrator would see it.

use std::time::Duration;

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
    run(host, &format!("ip route show exact {subnet}")).replace(" linkdown", "")
}

/// Names of all devices but the loopback.
pub(crate) fn devices(host: &Host) -> Vec<String> {
    let links: serde_json::Value =
        serde_json::from_str(&run(host, "ip -json link show")).expect("links");
    let names = links.as_array().expect("links").iter();
    let names = names.filter_map(|link| link["ifname"].as_str());
    names
        .filter(|name| *name != "lo")
        .map(str::to_owned)
        .collect()
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

/// Programs on tc hooks, one line each.
pub(crate) fn programs(host: &Host) -> Vec<String> {
    let text = run(host, "bpftool net show");
    let lines = text.lines().map(str::trim);
    let programs = lines.filter(|line| !line.is_empty() && !line.ends_with(':'));
    programs.map(str::to_owned).collect()
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
