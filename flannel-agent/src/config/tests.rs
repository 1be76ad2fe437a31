use super::*;
use crate::cli::{self, Command};

fn config_with(args: &[&str]) -> Result<(Config, Vec<String>), ConfigError> {
    let parsed = cli::parse(args.iter().map(OsString::from), |_| None).unwrap();
    let Command::Run(args) = parsed.command else {
        panic!("{args:?}");
    };
    Config::new(*args, |_| None)
}

fn config(args: &[&str]) -> Config {
    config_with(args)
        .unwrap_or_else(|error| panic!("{args:?}: {error}"))
        .0
}

fn endpoints(config: &Config) -> Vec<String> {
    config
        .etcd
        .endpoints
        .iter()
        .map(Endpoint::to_string)
        .collect()
}

#[test]
fn the_empty_command_line_is_complete() {
    let config = config(&[]);
    assert_eq!(
        endpoints(&config),
        ["http://127.0.0.1:4001", "http://127.0.0.1:2379"]
    );
    assert_eq!(config.etcd.prefix, "/coreos.com/network");
    assert_eq!(config.renew_margin, Duration::from_secs(3600));
    assert_eq!(config.log_level, Level::INFO);
}

#[test]
fn endpoints_are_spelled_out() {
    for (given, spelled) in [
        ("https://[fd00::1]:2379/", "https://[fd00::1]:2379"),
        ("HTTPS://etcd.example.com", "https://etcd.example.com"),
        (" 10.0.0.1:2379", "http://10.0.0.1:2379"),
    ] {
        assert_eq!(endpoints(&config(&["-etcd-endpoints", given])), [spelled]);
    }
    let with_ca = config(&["-etcd-endpoints=10.0.0.1:2379", "-etcd-cafile=/ca.pem"]);
    assert_eq!(endpoints(&with_ca), ["https://10.0.0.1:2379"]);
}

#[test]
fn certificates_without_tls_are_warned_about() {
    let (_, warnings) = config_with(&["-etcd-cafile=/ca.pem"]).unwrap();
    assert!(warnings[0].contains("https://"), "{warnings:?}");
}

#[test]
fn the_prefix_is_cleaned_as_a_path() {
    for (given, clean) in [
        ("/coreos.com//network/", "/coreos.com/network"),
        ("/a/./b/../c", "/a/c"),
        ("flannel", "flannel"),
        ("/", ""),
    ] {
        assert_eq!(config(&["-etcd-prefix", given]).etcd.prefix, clean);
    }
}

#[test]
fn mistakes_name_flag_value_and_remedy() {
    for (args, expected) in [
        (
            &["-etcd-endpoints="][..],
            "--etcd-endpoints=: a URL such as",
        ),
        (&["-etcd-endpoints=http://a:2379,"], "a URL such as"),
        (&["-etcd-endpoints=ftp://a:1"], "scheme ftp is not known"),
        (&["-etcd-endpoints=http://a:99999"], "port 99999"),
        (&["-etcd-endpoints=a"], "a port is missing"),
        (
            &["-etcd-endpoints=http://a:1/v2"],
            "nothing may follow the port",
        ),
        (&["-etcd-endpoints=http://u:p@a:1"], "--etcd-username"),
        (
            &["-etcd-endpoints=http://a:1,https://b:1"],
            "all endpoints must be",
        ),
        (
            &["-etcd-certfile=/c"],
            "--etcd-certfile=/c: the certificate needs its key",
        ),
        (
            &["-etcd-keyfile=/k"],
            "--etcd-keyfile=/k: the key needs its certificate",
        ),
        (&["-etcd-password=p"], "a user name is needed"),
        (&["-etcd-prefix="], "--etcd-prefix=: a prefix"),
        (
            &["-public-ip=10.0.0"],
            "--public-ip=10.0.0: an IPv4 address",
        ),
        (&["-iface-can-reach=x"], "--iface-can-reach=x"),
        (&["-subnet-lease-renew-margin=0"], "from 1 to 1439"),
        (&["-subnet-lease-renew-margin=1440"], "from 1 to 1439"),
        (&["-subnet-lease-renew-margin=-5"], "from 1 to 1439"),
        (&["-subnet-file=/"], "the path of a file"),
        (&["-run-dir=run"], "an absolute path"),
        (&["-healthz-port=65536"], "--healthz-port=65536: a port"),
        (
            &["-healthz-port=8080", "-healthz-ip=localhost"],
            "--healthz-ip=localhost: an address",
        ),
        (&["-bpf-pin-path=x"], "an absolute path"),
    ] {
        let error = config_with(args).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{args:?}: {error}");
    }
}

#[test]
fn the_password_is_not_shown() {
    let config = config(&["-etcd-username=root", "-etcd-password=hunter2"]);
    let shown = format!("{config:?}");
    assert!(
        shown.contains("root") && !shown.contains("hunter2"),
        "{shown}"
    );
    let error = config_with(&["-etcd-password=hunter2"])
        .map(|_| ())
        .unwrap_err();
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

#[test]
fn traffic_rules_follow_their_flags() {
    let default = config(&[]).rules;
    assert_eq!(
        default,
        RulesConfig {
            masquerade: None,
            forward: Forward::Accept,
            blackhole: Blackhole::None,
            resync: Duration::from_secs(5),
        }
    );
    let masquerade = |args: &[&str]| config(args).rules.masquerade;
    assert_eq!(masquerade(&["-ip-masq"]), Some(SourcePorts::FullyRandom));
    let kept = ["-ip-masq", "-ip-masq-fully-random-disable"];
    assert_eq!(masquerade(&kept), Some(SourcePorts::Kept));
    let (config, warnings) = config_with(&["-iptables-resync=0"]).unwrap();
    assert_eq!(config.rules.resync, Duration::from_secs(1));
    assert!(warnings[0].contains("--iptables-resync=0"), "{warnings:?}");
}

#[test]
fn health_endpoints_are_off_unless_a_port_is_given() {
    for args in [
        &[][..],
        &["-healthz-port=0"],
        &["-healthz-port=-1", "-healthz-ip=x"],
    ] {
        assert_eq!(config(args).health, None, "{args:?}");
    }
    let address = |args: &[&str]| config(args).health.unwrap().to_string();
    assert_eq!(address(&["-healthz-port", "8080"]), "0.0.0.0:8080");
    assert_eq!(address(&["-healthz-port=1", "-healthz-ip=::1"]), "[::1]:1");
}
