use super::*;

fn parse_with(args: &[&str], env: &[(&str, &str)]) -> Result<Parsed, Stop> {
    let variable = |name: &str| {
        let found = env.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| OsString::from(value))
    };
    parse(args.iter().map(OsString::from), variable)
}

fn run_with(args: &[&str], env: &[(&str, &str)]) -> (RunArgs, Vec<String>) {
    let Parsed { command, warnings } = parse_with(args, env).unwrap();
    match command {
        Command::Run(run) => (*run, warnings),
        other => panic!("{args:?}: {other:?}"),
    }
}

fn run(args: &[&str]) -> RunArgs {
    run_with(args, &[]).0
}

fn stop(args: &[&str]) -> Stop {
    match parse_with(args, &[]) {
        Err(stop) => stop,
        Ok(parsed) => panic!("{args:?}: {parsed:?}"),
    }
}

#[test]
fn definitions_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn defaults_are_those_of_flannel() {
    let args = run(&[]);
    assert_eq!(
        args.etcd_endpoints,
        "http://127.0.0.1:4001,http://127.0.0.1:2379"
    );
    assert_eq!(args.etcd_prefix, "/coreos.com/network");
    assert_eq!(args.subnet_file, PathBuf::from("/run/flannel/subnet.env"));
    assert_eq!(args.subnet_lease_renew_margin, 60);
    assert_eq!(args.place.run_dir, PathBuf::from("/run/flannel"));
    assert_eq!(
        args.place.bpf_pin_path,
        PathBuf::from("/sys/fs/bpf/flannel")
    );
    assert_eq!(args.datapath, DatapathMode::Auto);
    assert!(args.iface.is_empty() && args.public_ip.is_empty());
}

#[test]
fn one_dash_two_dashes_equals_sign_or_next_word_are_the_same() {
    for args in [
        &["-etcd-prefix", "/x"][..],
        &["--etcd-prefix", "/x"],
        &["-etcd-prefix=/x"],
        &["--etcd-prefix=/x"],
        &["--etcd-prefix=/y", "-etcd-prefix", "/x"],
    ] {
        assert_eq!(run(args).etcd_prefix, "/x", "{args:?}");
    }
    assert_eq!(run(&["-v", "5"]).v, 5);
    assert_eq!(run(&["-v=-1"]).v, -1);
    assert_eq!(
        run(&["-etcd-password", "-secret-"]).etcd_password,
        "-secret-"
    );
    assert_eq!(run(&["--public-ip="]).public_ip, "");
    assert_eq!(run(&["--etcd-prefix=a=b"]).etcd_prefix, "a=b");
}

#[test]
fn repeatable_flags_keep_their_order() {
    let args = run(&[
        "-iface=eth0",
        "--iface",
        "10.0.0.1",
        "-iface-regex",
        "^en",
        "-iface-regex=wl",
    ]);
    assert_eq!(args.iface, ["eth0", "10.0.0.1"]);
    assert_eq!(args.iface_regex, ["^en", "wl"]);
}

#[test]
fn variables_apply_where_the_flag_is_absent() {
    let env = [
        ("FLANNELD_ETCD_PREFIX", "/env"),
        ("FLANNELD_ETCD_ENDPOINTS", "http://10.0.0.1:2379"),
        ("FLANNELD_IFACE", "eth0,eth1"),
        ("FLANNELD_PUBLIC_IP", ""),
        ("FLANNELD_V", "3"),
        ("FLANNELD_DATAPATH", "kernel"),
        ("FLANNELD_IP_MASQ", "true"),
        ("FLANNELD_KUBE_SUBNET_MGR", ""),
    ];
    let (args, warnings) = run_with(&["-etcd-prefix=/flag"], &env);
    assert_eq!(args.etcd_prefix, "/flag");
    assert_eq!(args.etcd_endpoints, "http://10.0.0.1:2379");
    assert_eq!(args.iface, ["eth0,eth1"]);
    assert_eq!(args.v, 3);
    assert_eq!(args.datapath, DatapathMode::Kernel);
    assert!(args.ip_masq);
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn a_variable_that_does_not_parse_is_reported_and_the_rest_is_applied() {
    let env = [
        ("FLANNELD_SUBNET_LEASE_RENEW_MARGIN", "soon"),
        ("FLANNELD_DATAPATH", "magic"),
        ("FLANNELD_IP_MASQ", "perhaps"),
        ("FLANNELD_TC_ATTACH", "clsact"),
    ];
    let (args, warnings) = run_with(&[], &env);
    assert_eq!(args.subnet_lease_renew_margin, 60);
    assert_eq!(args.datapath, DatapathMode::Auto);
    assert_eq!(args.tc_attach, TcAttach::Clsact);
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(
        warnings[0].starts_with("FLANNELD_SUBNET_LEASE_RENEW_MARGIN=soon"),
        "{warnings:?}"
    );
}

#[test]
fn what_asks_for_nothing_is_accepted_of_flags_that_are_not_there_yet() {
    run(&["-kube-subnet-mgr=F", "-log_backtrace_at=", "-networks="]);
}

#[test]
fn what_asks_for_something_that_is_not_there_is_refused_by_name() {
    for (args, setting) in [
        (&["-kube-subnet-mgr"][..], "--kube-subnet-mgr=true"),
        (&["-networks=blue"], "flannel v0.8.0 has dropped it"),
        (&["-kube-subnet-mgr=perhaps"], "true or false"),
    ] {
        let Stop { code, text } = stop(args);
        assert_eq!(code, 2);
        assert!(text.contains(setting), "{args:?}: {text}");
    }
    let by_variable = parse_with(&[], &[("FLANNELD_KUBE_SUBNET_MGR", "true")]).unwrap_err();
    assert!(
        by_variable.text.contains("FLANNELD_KUBE_SUBNET_MGR=true"),
        "{by_variable}"
    );
}

#[test]
fn flags_of_traffic_rules_are_those_of_flannel() {
    let args = run(&[]);
    assert!(!args.ip_masq && !args.ip_masq_fully_random_disable && !args.ip_blackhole_route);
    assert!(args.iptables_forward_rules);
    assert_eq!(args.iptables_resync, 5);
    let args = run(&[
        "-ip-masq",
        "--ip-masq-fully-random-disable=T",
        "-iptables-forward-rules=false",
        "-ip-blackhole-route=1",
        "-iptables-resync",
        "7",
    ]);
    assert!(args.ip_masq && args.ip_masq_fully_random_disable && args.ip_blackhole_route);
    assert!(!args.iptables_forward_rules);
    assert_eq!(args.iptables_resync, 7);
}

#[test]
fn mistakes_end_with_code_2_and_name_the_flag() {
    for (args, expected) in [
        (&["--etcd-endpoint=x"][..], "--etcd-endpoints"),
        (&["-no-such-flag"], "--no-such-flag"),
        (&["-etcd-prefix"], "--etcd-prefix needs a value"),
        (&["--datapath=fast"], "auto, ebpf, kernel"),
        (
            &["-subnet-lease-renew-margin=1h"],
            "--subnet-lease-renew-margin",
        ),
        (&["stats"], "status"),
        (&["-version=maybe"], "true or false"),
        (&["-ip-masq=perhaps"], "true or false"),
    ] {
        let Stop { code, text } = stop(args);
        assert_eq!(code, 2, "{args:?}: {text}");
        assert!(text.contains(expected), "{args:?}: {text}");
    }
}

#[test]
fn help_and_version_end_with_code_0() {
    for args in [&["-h"][..], &["--help"], &["-help"], &["status", "-h"]] {
        assert_eq!(stop(args).code, 0, "{args:?}");
    }
    let help = stop(&["--help"]).text;
    for part in [
        "etcd:",
        "External interface:",
        "Lease:",
        "Data path:",
        "--etcd-endpoints",
        "status",
    ] {
        assert!(help.contains(part), "{part} in {help}");
    }
    let version = stop(&["-version"]);
    assert_eq!(version.code, 0);
    assert!(version.text.starts_with("flannel-agent "), "{version}");
    run(&["-version=false"]);
}

#[test]
fn subcommands_take_the_place_from_either_side_or_from_the_environment() {
    for args in [
        &["-run-dir=/a", "status", "-json"][..],
        &["status", "--json", "-run-dir", "/a"],
    ] {
        let Command::Status { place, output } = parse_with(args, &[]).unwrap().command else {
            panic!("{args:?}");
        };
        assert_eq!((place.run_dir, output), (PathBuf::from("/a"), Output::Json));
    }
    let env = [("FLANNELD_RUN_DIR", "/a"), ("FLANNELD_BPF_PIN_PATH", "/b")];
    let parsed = parse_with(&["cleanup", "-dry-run", "-run-dir=/c"], &env).unwrap();
    let Command::Cleanup {
        place,
        mode,
        output,
    } = parsed.command
    else {
        panic!("{parsed:?}");
    };
    assert_eq!(place.run_dir, PathBuf::from("/c"));
    assert_eq!(place.bpf_pin_path, PathBuf::from("/b"));
    assert_eq!((mode, output), (CleanupMode::DryRun, Output::Text));
}

#[test]
fn a_link_named_as_flannels_script_stands_for_the_subcommand() {
    for (program, expected) in [
        ("/usr/bin/mk-docker-opts", &["mk-docker-opts", "-i"][..]),
        ("mk-docker-opts.sh", &["mk-docker-opts", "-i"]),
        ("mk-docker-opts.py", &["-i"]),
        ("/mk-docker-opts.sh/flannel-agent", &["-i"]),
    ] {
        assert_eq!(
            words([program, "-i"].map(OsString::from)),
            expected,
            "{program}"
        );
    }
}

#[test]
fn mistakes_and_help_of_mk_docker_opts_end_with_code_1() {
    for args in [
        &["mk-docker-opts", "-h"][..],
        &["mk-docker-opts", "-x"],
        &["mk-docker-opts", "-d"],
    ] {
        assert_eq!(stop(args).code, 1, "{args:?}");
    }
}

/// Flags of flannel v0.28.9 with a value that means something in etcd mode: the table of
/// flannel-compat 1.1.
const FLANNEL: [(&str, &str); 31] = [
    ("etcd-endpoints", "http://10.0.0.1:2379"),
    ("etcd-prefix", "/x"),
    ("etcd-keyfile", "/k"),
    ("etcd-certfile", "/c"),
    ("etcd-cafile", "/a"),
    ("etcd-username", "u"),
    ("etcd-password", "p"),
    ("iface", "eth0"),
    ("iface-regex", "^eth"),
    ("iface-can-reach", "10.0.0.1"),
    ("public-ip", "10.0.0.2"),
    ("public-ipv6", ""),
    ("subnet-file", "/run/x.env"),
    ("subnet-lease-renew-margin", "120"),
    ("ip-masq", "true"),
    ("ip-masq-fully-random-disable", "true"),
    ("iptables-resync", "10"),
    ("iptables-forward-rules", "false"),
    ("ip-blackhole-route", "true"),
    ("healthz-ip", "127.0.0.1"),
    ("healthz-port", "8080"),
    ("kube-subnet-mgr", "false"),
    ("kube-api-url", "https://10.0.0.1"),
    ("kubeconfig-file", "/k"),
    ("kube-annotation-prefix", "flannel.alpha.coreos.com"),
    ("net-config-path", "/etc/kube-flannel/net-conf.json"),
    ("set-node-network-unavailable", "false"),
    ("version", "false"),
    ("v", "10"),
    ("vmodule", "vxlan=5"),
    ("log_backtrace_at", "main.go:1"),
];

#[test]
fn every_flag_of_flannel_is_accepted_in_every_spelling_and_as_a_variable() {
    for (name, value) in FLANNEL {
        for dashes in ["-", "--"] {
            run(&[&format!("{dashes}{name}={value}")]);
        }
        let variable = format!("FLANNELD_{}", name.to_uppercase().replace('-', "_"));
        let (by_variable, warnings) = run_with(&[], &[(&variable, value)]);
        let (by_flag, same) = run_with(&[&format!("-{name}={value}")], &[]);
        assert_eq!(
            format!("{by_variable:?}"),
            format!("{by_flag:?}"),
            "{variable}"
        );
        assert_eq!(warnings, same, "{variable}");
        let is_remarked = ["vmodule", "log_backtrace_at"].contains(&name);
        assert_eq!(!warnings.is_empty(), is_remarked, "{name}: {warnings:?}");
    }
}

#[test]
fn what_is_for_kubernetes_is_refused_with_the_way_out() {
    let by_variable = [("FLANNELD_KUBE_SUBNET_MGR", "true")];
    for Stop { code, text } in [
        stop(&["-kube-subnet-mgr"]),
        parse_with(&[], &by_variable).unwrap_err(),
    ] {
        assert_eq!(code, 2);
        assert!(text.contains("--etcd-endpoints"), "{text}");
    }
}

#[test]
fn what_flannel_had_once_is_refused_with_the_version_that_dropped_it() {
    for (name, value) in [
        ("listen", ":8888"),
        ("remote", "10.0.0.1:8888"),
        ("remote-keyfile", "/k"),
        ("remote-certfile", "/c"),
        ("remote-cafile", "/a"),
        ("networks", "blue"),
        ("subnet-dir", "/run/flannel/networks"),
        ("watch-networks", "true"),
        ("use-multi-cluster-cidr", "true"),
    ] {
        let Stop { code, text } = stop(&[&format!("--{name}={value}")]);
        assert_eq!(code, 2, "{name}");
        assert!(
            text.contains(name) && text.contains("has dropped it"),
            "{text}"
        );
    }
}
