use std::ffi::OsString;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::cli::{self, Command};

const SUBNET_ENV: &str = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.34.1/24\n\
                          FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

fn args(words: &[&str]) -> DockerOptsArgs {
    let words = ["mk-docker-opts"].iter().chain(words);
    match cli::parse(words.map(OsString::from), |_| None)
        .unwrap()
        .command
    {
        Command::MkDockerOpts(args) => args,
        other => panic!("{other:?}"),
    }
}

fn variables(pairs: &[(&str, &str)]) -> Variables {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

fn text(words: &[&str], environment: &[(&str, &str)], file: &str) -> String {
    render(&args(words), merge(variables(environment), file)).unwrap()
}

#[test]
fn the_options_say_what_is_written() {
    let individual = "DOCKER_OPT_BIP=\"--bip=10.5.34.1/24\"\n\
                      DOCKER_OPT_IPMASQ=\"--ip-masq=false\"\nDOCKER_OPT_MTU=\"--mtu=1450\"\n";
    let combined = "DOCKER_OPTS=\" --bip=10.5.34.1/24 --ip-masq=false --mtu=1450\"\n";
    let both = format!("{individual}{combined}");
    for (words, expected) in [
        (&[][..], both.as_str()),
        (&["-i"], individual),
        (&["-c"], combined),
        (&["-ic"], &both),
        (&["-c", "ignored", "-i"], combined),
        (
            &["-c", "-m"],
            "DOCKER_OPTS=\" --bip=10.5.34.1/24 --mtu=1450\"\n",
        ),
        (
            &["-ck", "DOCKER_NETWORK_OPTIONS"],
            "DOCKER_NETWORK_OPTIONS=\" --bip=10.5.34.1/24 --ip-masq=false --mtu=1450\"\n",
        ),
    ] {
        assert_eq!(text(words, &[], SUBNET_ENV), expected, "{words:?}");
    }
}

#[test]
fn options_of_the_environment_and_of_the_file_are_included() {
    let environment = [
        ("DOCKER_OPTS", "--debug"),
        ("DOCKER_OPT_LOG", "--log-level=warn"),
        ("DOCKER_OPT_BIP", "--bip=192.0.2.1/24"),
        ("OTHER_DOCKER_OPT_X", "no"),
        ("FLANNEL_MTU", "1400"),
    ];
    assert_eq!(
        text(&["-c"], &environment, "FLANNEL_SUBNET=10.5.34.1/24\n"),
        "DOCKER_OPTS=\"--debug  --bip=10.5.34.1/24 --log-level=warn --mtu=1400\"\n"
    );
    assert_eq!(
        text(&["-i"], &[], "export DOCKER_OPT_A='--a b'\n"),
        "DOCKER_OPT_A=\"--a b\"\n"
    );
}

#[test]
fn what_is_missing_is_left_out() {
    assert_eq!(text(&[], &[], ""), "DOCKER_OPTS=\"\"\n");
    assert_eq!(text(&["-i"], &[], "FLANNEL_SUBNET=\n"), "");
    assert_eq!(
        text(&["-i"], &[], "FLANNEL_IPMASQ=false\n"),
        "DOCKER_OPT_IPMASQ=\"--ip-masq=true\"\n"
    );
}

#[test]
fn masquerading_that_is_no_boolean_is_refused_unless_it_does_not_matter() {
    let file = "FLANNEL_IPMASQ=yes\n";
    let error = render(&args(&[]), merge(Variables::new(), file)).unwrap_err();
    assert!(error.to_string().contains("\"yes\""), "{error}");
    assert_eq!(text(&["-m", "-c"], &[], file), "DOCKER_OPTS=\"\"\n");
}

#[test]
fn a_missing_input_is_fine_and_a_missing_output_directory_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let mut rng = StdRng::seed_from_u64(1);
    let words = ["-f", &at("none"), "-d", &at("opts")];
    run(&args(&words), Variables::new(), &mut rng).unwrap();
    assert_eq!(
        std::fs::read_to_string(at("opts")).unwrap(),
        "DOCKER_OPTS=\"\"\n"
    );
    let words = ["-f", &at("none"), "-d", &at("dir/opts")];
    let error = run(&args(&words), Variables::new(), &mut rng).unwrap_err();
    assert!(matches!(error, DockerOptsError::Write(_)), "{error}");
    assert!(!dir.path().join("dir").exists());
}

#[test]
fn a_link_to_the_output_stays_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let (link, target) = (dir.path().join("link"), dir.path().join("target"));
    std::fs::write(&target, "old").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    write(&link, "new", &mut StdRng::seed_from_u64(1)).unwrap();
    assert!(link.is_symlink());
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "new");
    let dangling = dir.path().join("dangling");
    std::os::unix::fs::symlink(dir.path().join("absent"), &dangling).unwrap();
    write(&dangling, "new", &mut StdRng::seed_from_u64(1)).unwrap();
    assert!(dangling.is_symlink() && dir.path().join("absent").is_file());
    write(Path::new("/dev/null"), "new", &mut StdRng::seed_from_u64(1)).unwrap();
    assert!(!Path::new("/dev/null").is_file());
}

#[test]
fn a_link_to_a_pipe_stays_and_the_pipe_is_written() {
    use std::io::Read as _;
    use std::os::fd::AsRawFd as _;

    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("stdout");
    let (mut reader, writer) = io::pipe().unwrap();
    let fd = format!("/proc/self/fd/{}", writer.as_raw_fd());
    std::os::unix::fs::symlink(fd, &link).unwrap();
    write(&link, "new", &mut StdRng::seed_from_u64(1)).unwrap();
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "new");
    assert!(link.is_symlink());
}

#[test]
#[cfg(target_endian = "little")]
fn only_a_gateway_to_exactly_the_own_subnet_is_in_the_way() {
    let head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";
    let subnet: Ipv4Network = "10.5.34.0/24".parse().unwrap();
    for (line, expected) in [
        ("", None),
        ("docker0 0022050A 00000000 0001 0 0 0 00FFFFFF 0 0 0", None),
        ("eth0 0022050A 0100A8C0 0003 0 0 0 0000FFFF 0 0 0", None),
        ("eth0 0023050A 0100A8C0 0003 0 0 0 00FFFFFF 0 0 0", None),
        (
            "flannel.1 0022050A 0022050A 0003 0 0 0 00FFFFFF 0 0 0",
            Some(Ipv4Addr::new(10, 5, 34, 0)),
        ),
        ("nonsense", None),
    ] {
        assert_eq!(
            gateway_to(subnet, &format!("{head}{line}\n")),
            expected,
            "{line}"
        );
    }
    let known = variables(&[("FLANNEL_SUBNET", "10.5.34.1/24")]);
    assert_eq!(own_subnet(&known), Some(subnet));
}
