//! How etcd is reached: endpoints, TLS, password, prefix.

use std::time::Duration;

use flannel_agent::subnet::Timing;

use super::document::Is::{Other, Same};
use super::document::{Is, check};
use super::line::config;

const CERT: [&str; 2] = ["--etcd-certfile=/c", "--etcd-keyfile=/k"];
const CA: &str = "--etcd-cafile=/a";

/// Flags → endpoints as they are dialled, whether a warning is due.
#[test]
fn the_first_endpoint_and_the_files_decide_about_tls() {
    type Words = &'static [&'static str];
    let rows: [(&str, Words, Words, bool, Is); 11] = [
        ("http://a:1", &[], &["http://a:1"], false, Same),
        ("http://a:1", &CERT, &["http://a:1"], true, Same),
        ("https://a:1", &CERT, &["https://a:1"], false, Same),
        ("https://a:1", &[], &["https://a:1"], false, Same),
        ("a:1", &CERT, &["https://a:1"], false, Same),
        ("a:1", &[], &["http://a:1"], false, Same),
        ("https://a:1", &[CA], &["https://a:1"], false, Other("D13")),
        ("a:1", &[CA], &["https://a:1"], false, Other("D13")),
        ("http://a:1", &[CA], &["http://a:1"], true, Other("D13")),
        (
            "http://a:1,http://b:2",
            &[],
            &["http://a:1", "http://b:2"],
            false,
            Same,
        ),
        (
            " http://a:1 , http://b:2/",
            &[],
            &["http://a:1", "http://b:2"],
            false,
            Other("T3"),
        ),
    ];
    for (endpoints, files, dialled, is_warned, is) in rows {
        let endpoints = format!("--etcd-endpoints={endpoints}");
        let args: Vec<&str> = [endpoints.as_str()]
            .into_iter()
            .chain(files.iter().copied())
            .collect();
        let (config, warnings) = config(&args).unwrap();
        let found: Vec<String> = config
            .etcd
            .endpoints
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(found, dialled, "{args:?}");
        assert_eq!(!warnings.is_empty(), is_warned, "{args:?}: {warnings:?}");
        check(is);
    }
}

#[test]
fn what_flannel_takes_silently_is_refused() {
    let rows: [(&[&str], &str, Is); 7] = [
        (
            &["--etcd-endpoints=http://a:1,https://b:1"],
            "all endpoints",
            Other("T1"),
        ),
        (&CERT[..1], "--etcd-keyfile", Other("T2")),
        (&CERT[1..], "--etcd-certfile", Other("T2")),
        (&["--etcd-password=x"], "user name", Other("T2")),
        (
            &["--etcd-endpoints=http://a:1/v2/keys"],
            "nothing may follow",
            Other("T3"),
        ),
        (&["--etcd-endpoints="], "a URL", Other("T3")),
        (&["--etcd-endpoints=ftp://a:1"], "http://", Other("T3")),
    ];
    for (args, part, is) in rows {
        let text = config(args).unwrap_err().to_string();
        assert!(text.contains(part), "{args:?}: {text}");
        check(is);
    }
}

#[test]
fn the_prefix_is_joined_as_a_path() {
    for (given, clean) in [
        ("/coreos.com/network", "/coreos.com/network"),
        ("/coreos.com/network/", "/coreos.com/network"),
        ("//coreos.com//network", "/coreos.com/network"),
        ("flannel/a", "flannel/a"),
        ("/", ""),
    ] {
        let (config, _) = config(&["--etcd-prefix", given]).unwrap();
        assert_eq!(config.etcd.prefix, clean, "{given}");
    }
}

#[test]
fn a_lease_lasts_a_day_and_is_renewed_an_hour_before() {
    let (config, _) = config(&[]).unwrap();
    let Timing {
        lease_ttl,
        renew_margin,
        ..
    } = Timing::new(config.renew_margin);
    assert_eq!(lease_ttl, Duration::from_secs(86_400));
    assert_eq!(renew_margin, Duration::from_secs(3_600));
    check(Same);
}
