//! The two commands of the start.

use std::time::Duration;

use flannel_agent::backend::extension::OwnFacts;
use tokio_util::sync::CancellationToken;

use super::bed::{Bed, OWN, run};

async fn backend_data(bed: &Bed) -> Option<String> {
    let data = bed.commands().pre_startup(&CancellationToken::new()).await;
    data.unwrap().map(|data| data.get().to_owned())
}

#[test]
fn output_becomes_the_backend_data_that_flannel_writes() {
    run(async {
        let mut bed = Bed::new();
        assert_eq!(backend_data(&bed).await, None, "no command, no data");
        let cases = [
            ("true", r#""""#),
            (
                "printf ' 5e:1a:0b:33:9c:02\\n\\n'",
                r#""5e:1a:0b:33:9c:02""#,
            ),
            (
                "echo '<\"a\" & b>'; echo two",
                r#""\u003c\"a\" \u0026 b\u003e\ntwo""#,
            ),
            ("printf 'a\\377b'", r#""a\ufffdb""#),
            ("echo warning >&2; echo data", r#""data""#),
            ("cat; echo end", r#""end""#),
        ];
        for (command, expected) in cases {
            bed.options.pre_startup = Some(command.into());
            assert_eq!(backend_data(&bed).await.unwrap(), expected, "{command}");
        }
    });
}

#[test]
fn the_second_command_knows_the_lease() {
    run(async {
        let mut bed = Bed::new();
        let stop = CancellationToken::new();
        bed.options.post_startup = Some(
            r#"env | grep -v -e ^_= -e ^PWD= -e ^D= -e ^PATH= -e ^SHLVL= -e ^OLDPWD= | sort > "$D/env"; od -c > "$D/input""#
                .into(),
        );
        bed.commands().post_startup(&OWN, &stop).await.unwrap();
        let expected = "IPV6SUBNET=\nNETWORK=10.5.0.0/16\nPUBLIC_IP=192.168.7.11\nPUBLIC_IPV6=\n\
                        SUBNET=10.5.34.0/24\n";
        assert_eq!(bed.read("env"), expected);
        assert_eq!(bed.read("input"), "0000000  \\n\n0000001\n");
        let dual = OwnFacts {
            ipv6_subnet: Some("fd00:5:0:22::/64".parse().unwrap()),
            public_ipv6: Some("fd00:7::b".parse().unwrap()),
            ..OWN
        };
        bed.commands().post_startup(&dual, &stop).await.unwrap();
        let env = bed.read("env");
        assert!(env.contains("IPV6SUBNET=fd00:5:0:22::/64\n"), "{env}");
        assert!(env.contains("PUBLIC_IPV6=fd00:7::b\n"), "{env}");
    });
}

#[test]
fn without_a_shell_words_are_arguments() {
    run(async {
        let mut bed = Bed::new();
        bed.options.shell = None;
        bed.write(
            "script",
            r#"for word; do echo "<$word>"; done > "$D/words""#,
        );
        bed.options.post_startup =
            Some("sh $D/script  $SUBNET ${NETWORK}x $UNSET \"$PUBLIC_IP\" | cat; $".into());
        let stop = CancellationToken::new();
        bed.commands().post_startup(&OWN, &stop).await.unwrap();
        let expected = "<10.5.34.0/24>\n<10.5.0.0/16x>\n<>\n<\"192.168.7.11\">\n<|>\n<cat;>\n<$>\n";
        assert_eq!(bed.read("words"), expected);
    });
}

#[test]
fn a_failure_names_command_status_and_last_words() {
    run(async {
        let mut bed = Bed::new();
        bed.options.timeout = Duration::from_secs(1);
        let cases: [(bool, &str, &[&str]); 8] = [
            (
                true,
                "exit 3",
                &["PostStartupCommand (exit 3) ended with exit status: 3, without a word"],
            ),
            (
                true,
                "for n in 1 2 3 4 5 6 7; do echo line $n >&2; done; exit 2",
                &["ended with exit status: 2: line 3; line 4; line 5; line 6; line 7"],
            ),
            (true, "kill -9 $$", &["signal: 9"]),
            (
                true,
                "echo waits >&2; exec sleep 100",
                &[
                    "did not end within 1 s and was killed",
                    "CommandTimeout",
                    ": waits",
                ],
            ),
            (
                false,
                "no-such-program $SUBNET",
                &[
                    "(no-such-program $SUBNET) cannot be run: no-such-program: No such file",
                    r#""Shell": true"#,
                ],
            ),
            (
                false,
                "export A=b",
                &["cannot be run: export", r#""Shell": true"#],
            ),
            (false, "$UNSET", &["($UNSET) cannot be run: "]),
            (
                false,
                "/etc/passwd",
                &["cannot be run: /etc/passwd: Permission denied"],
            ),
        ];
        for (has_shell, command, parts) in cases {
            bed.options.shell = has_shell.then(|| "/bin/sh".into());
            bed.options.post_startup = Some(command.into());
            let stop = CancellationToken::new();
            let error = bed.commands().post_startup(&OWN, &stop).await.unwrap_err();
            for part in parts {
                assert!(error.to_string().contains(part), "{command}: {error}");
            }
            assert!(!error.is_stop());
        }
        bed.options.shell = Some("/no/such/shell".into());
        bed.options.pre_startup = Some("x".repeat(500));
        let error = bed.commands().pre_startup(&CancellationToken::new()).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("/no/such/shell: No such file"), "{error}");
        assert!(error.len() < 300 && !error.contains("Shell"), "{error}");
    });
}

#[test]
fn a_lease_has_room_for_so_much() {
    run(async {
        let mut bed = Bed::new();
        bed.options.pre_startup = Some("head -c 65536 /dev/zero | tr '\\0' x".into());
        assert_eq!(backend_data(&bed).await.unwrap().len(), 65_538);
        bed.options.pre_startup = Some("head -c 65537 /dev/zero | tr '\\0' x".into());
        let error = bed.commands().pre_startup(&CancellationToken::new()).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("prints more than 64 KiB"), "{error}");
    });
}
