//! How a command line is read: Go's rules, and where ours are stricter.

use std::ffi::OsString;

use flannel_agent::cli::{self, Command, Parsed, RunArgs, Stop};
use flannel_agent::config::{Config, ConfigError};

use super::document::Is::{Other, Same};
use super::document::{Is, check};

/// Reads a command line with these variables set.
pub(crate) fn parse(args: &[&str], env: &[(&str, &str)]) -> Result<Parsed, Stop> {
    let variable = |name: &str| {
        let found = env.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| OsString::from(value))
    };
    cli::parse(args.iter().map(OsString::from), variable)
}

/// The flags of a run, from a line that is in order.
pub(crate) fn run(args: &[&str], env: &[(&str, &str)]) -> RunArgs {
    match parse(args, env).map(|parsed| parsed.command) {
        Ok(Command::Run(run)) => *run,
        other => panic!("{args:?} {env:?}: {other:?}"),
    }
}

/// The settings that come of a line, and warnings.
pub(crate) fn config(args: &[&str]) -> Result<(Config, Vec<String>), ConfigError> {
    Config::new(run(args, &[]), |_| None)
}

#[test]
fn a_flag_is_spelled_as_in_go() {
    let rows: [(&[&str], &str, Is); 8] = [
        (&["-etcd-prefix", "/x"], "/x", Same),
        (&["--etcd-prefix", "/x"], "/x", Same),
        (&["-etcd-prefix=/x"], "/x", Same),
        (&["--etcd-prefix=/x"], "/x", Same),
        (&["--etcd-prefix=/y", "-etcd-prefix=/x"], "/x", Same),
        (&["--etcd-prefix", "-x"], "-x", Same),
        (&["--etcd-prefix=a=b"], "a=b", Same),
        (&["--etcd-prefix="], "", Same),
    ];
    for (args, value, is) in rows {
        assert_eq!(run(args, &[]).etcd_prefix, value, "{args:?}");
        check(is);
    }
}

#[test]
fn a_boolean_is_spelled_as_in_go() {
    for word in ["1", "t", "T", "true", "TRUE", "True"] {
        assert!(run(&[&format!("--ip-masq={word}")], &[]).ip_masq, "{word}");
    }
    for word in ["0", "f", "F", "false", "FALSE", "False"] {
        let args = run(&[&format!("--iptables-forward-rules={word}")], &[]);
        assert!(!args.iptables_forward_rules, "{word}");
    }
    assert!(run(&["-ip-masq"], &[]).ip_masq);
    // The next word is not its value.
    assert!(run(&["-ip-masq", "-etcd-prefix=/x"], &[]).ip_masq);
}

#[test]
fn what_ends_the_program_at_once() {
    let rows: [(&[&str], u8, Is); 15] = [
        (&["-h"], 0, Other("C1")),
        (&["-help"], 0, Other("C1")),
        (&["--help"], 0, Other("C1")),
        (&["-version"], 0, Other("C2")),
        (&["--version=true"], 0, Other("C2")),
        (&["--no-such-flag"], 2, Other("D11")),
        (&["--etcd-prefix"], 2, Other("D11")),
        (&["--ip-masq=perhaps"], 2, Other("D11")),
        (&["--iptables-resync=soon"], 2, Other("D11")),
        (&["--iptables-resync="], 2, Other("D11")),
        (&["--subnet-lease-renew-margin=1h"], 2, Other("D11")),
        (&["--v=info"], 2, Other("D11")),
        // Go stops reading here and ignores the rest, the value included.
        (&["--ip-masq", "false"], 2, Other("C3")),
        (&["word", "--ip-masq"], 2, Other("C3")),
        (&["--iptables-resync=0x10"], 2, Other("C4")),
    ];
    for (args, code, is) in rows {
        let stop = parse(args, &[]).unwrap_err();
        assert_eq!(stop.code, code, "{args:?}: {stop}");
        check(is);
    }
    // Not asked for, so the agent runs.
    run(&["--version=false"], &[]);
}

#[test]
fn the_version_is_told_before_the_environment_is_read() {
    let stop = parse(&["--version"], &[("FLANNELD_KUBE_SUBNET_MGR", "true")]).unwrap_err();
    assert_eq!(stop.code, 0, "{stop}");
}

#[test]
fn settings_are_taken_or_refused_as_flannel_does() {
    let rows: [(&[&str], Option<&str>, Is); 12] = [
        (&["--subnet-lease-renew-margin=1"], None, Same),
        (&["--subnet-lease-renew-margin=1439"], None, Same),
        (
            &["--subnet-lease-renew-margin=0"],
            Some("from 1 to 1439"),
            Same,
        ),
        (
            &["--subnet-lease-renew-margin=1440"],
            Some("from 1 to 1439"),
            Same,
        ),
        (
            &["--subnet-lease-renew-margin=-1"],
            Some("from 1 to 1439"),
            Same,
        ),
        (&["--public-ip=10.0.0"], Some("an IPv4 address"), Same),
        (&["--public-ip=fd00::1"], Some("an IPv4 address"), Same),
        (&["--iface-can-reach=x"], Some("an IPv4 address"), Same),
        (
            &["--iface-can-reach=fd00::1"],
            Some("an IPv4 address"),
            Other("I1"),
        ),
        (&["--iptables-resync=0"], None, Other("R9")),
        (
            &["--subnet-file=/"],
            Some("the path of a file"),
            Other("C5"),
        ),
        (&["--etcd-prefix="], Some("a prefix"), Other("C6")),
    ];
    for (args, refusal, is) in rows {
        match (config(args), refusal) {
            (Ok(_), None) => {}
            (Err(error), Some(part)) => {
                let text = error.to_string();
                assert!(text.contains(part), "{args:?}: {text}");
            }
            (found, _) => panic!("{args:?}: {found:?}"),
        }
        check(is);
    }
}
