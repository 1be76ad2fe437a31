//! Choice of a free subnet.

use std::collections::BTreeSet;

use flannel_agent::network::NetworkConfig;
use flannel_agent::subnet::alloc::choose_ipv4;
use ipnetwork::Ipv4Network;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::document::Is::{Other, Same};
use super::document::{Is, check};

/// All that a thousand choices come to.
fn chosen(keys: &str, taken: &[&str]) -> BTreeSet<String> {
    let text = format!(r#"{{{keys}, "Backend": {{"Type": "vxlan"}}}}"#);
    let (config, _) = NetworkConfig::parse(&text).unwrap();
    let range = config.ipv4.unwrap().subnets;
    let taken: Vec<Ipv4Network> = taken.iter().map(|net| net.parse().unwrap()).collect();
    let mut rng = StdRng::seed_from_u64(1);
    let choices = (0..1000).filter_map(|_| choose_ipv4(&range, taken.iter().copied(), &mut rng));
    choices.map(|net| net.to_string()).collect()
}

#[test]
fn free_subnets_from_the_first_to_the_last_are_chosen() {
    const FOUR: &str =
        r#""Network": "10.3.0.0/16", "SubnetMin": "10.3.1.0", "SubnetMax": "10.3.4.0""#;
    let rows: [(&[&str], &[&str], Is); 6] = [
        (
            &[],
            &["10.3.1.0/24", "10.3.2.0/24", "10.3.3.0/24", "10.3.4.0/24"],
            Same,
        ),
        (
            &["10.3.1.0/24", "10.3.3.0/24"],
            &["10.3.2.0/24", "10.3.4.0/24"],
            Same,
        ),
        // Whatever overlaps counts as taken.
        (&["10.3.2.0/23"], &["10.3.1.0/24", "10.3.4.0/24"], Same),
        (
            &["10.3.2.128/25", "10.9.0.0/16"],
            &["10.3.1.0/24", "10.3.3.0/24", "10.3.4.0/24"],
            Same,
        ),
        (&["10.3.0.0/16"], &[], Same),
        (&["10.3.0.0/23", "10.3.2.0/23"], &["10.3.4.0/24"], Same),
    ];
    for (taken, expected, is) in rows {
        let expected: BTreeSet<String> = expected.iter().map(|net| (*net).to_owned()).collect();
        assert_eq!(chosen(FOUR, taken), expected, "{taken:?}");
        check(is);
    }
}

/// Flannel takes one of the first hundred.
#[test]
fn every_free_subnet_can_be_chosen() {
    let found = chosen(r#""Network": "10.3.0.0/16""#, &[]);
    assert!(found.len() > 200, "{}", found.len());
    assert!(
        !found.contains("10.3.0.0/24"),
        "the first subnet is left out"
    );
    check(Other("A1"));
}
