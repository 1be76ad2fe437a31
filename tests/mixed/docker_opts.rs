//! `mk-docker-opts` prints what stock's script writes.

use std::fs;
use std::process::Command;

use flannel_tests::agent;
use flannel_tests::command;

use crate::neighbours::stock;

const FULL: &str = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.34.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

/// Flags beside the files', variables of the environment, and the subnet file.
type Row = (
    &'static [&'static str],
    &'static [(&'static str, &'static str)],
    &'static str,
);

const ROWS: &[Row] = &[
    (&[], &[], FULL),
    (&["-i"], &[], FULL),
    (&["-c"], &[], FULL),
    (&["-i", "-c"], &[], FULL),
    (&["-m"], &[], FULL),
    (&["-c", "-m"], &[], FULL),
    (&["-k", "DOCKER_NETWORK_OPTIONS"], &[], FULL),
    (&["-c"], &[("DOCKER_OPTS", "--debug")], FULL),
    (&["-c"], &[("DOCKER_OPT_LOG", "--log-level=warn")], FULL),
    (&["-i"], &[("DOCKER_OPT_BIP", "--bip=192.0.2.1/24")], FULL),
    (
        &[],
        &[("FLANNEL_MTU", "1400")],
        "FLANNEL_SUBNET=10.5.34.1/24\n",
    ),
    (&[], &[], ""),
    (
        &[],
        &[],
        "FLANNEL_IPMASQ=false\nFLANNEL_SUBNET=10.5.34.1/24\n",
    ),
];

#[test]
fn the_same_options_give_the_same_file() {
    let folder = tempfile::tempdir().expect("directory");
    let subnet_file = folder.path().join("subnet.env");
    let script = stock("mk-docker-opts.sh").display().to_string();
    let agent = agent::binary().expect("agent").display().to_string();
    for (flags, environment, text) in ROWS {
        fs::write(&subnet_file, text).expect("subnet.env");
        let write = |program: &[&str], name: &str| {
            let to = folder.path().join(name);
            let mut command = Command::new(program[0]);
            command
                .args(&program[1..])
                .arg("-f")
                .arg(&subnet_file)
                .arg("-d")
                .arg(&to)
                .args(*flags)
                .envs(environment.iter().copied());
            command::output(command, None).expect(name);
            fs::read_to_string(&to).expect(name)
        };
        let of_stock = write(&["sh", &script], "stock");
        let of_ours = write(&[&agent, "mk-docker-opts"], "ours");
        assert_eq!(of_ours, of_stock, "{flags:?} {environment:?} {text:?}");
    }
}
