//! What a command inherits, and that nothing outlives it.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::bed::{Bed, OWN, PATIENCE, facts, run, runs, wait};

/// Starts a sleeper in the background, which writes its number and ignores polite requests.
const STUBBORN: &str = "(trap '' TERM; echo $$ > $D/leader; sh -c 'echo $PPID' > $D/stubborn; \
                        exec sleep 60) & sleep 60";

/// Files that this process was itself handed down by whatever has started it.
fn handed_down() -> BTreeSet<String> {
    /// `O_CLOEXEC` as `/proc/PID/fdinfo` has it, on every architecture of ours.
    const CLOSED: u32 = 0o2_000_000;
    let mut handed_down = BTreeSet::new();
    for entry in fs::read_dir("/proc/self/fdinfo").unwrap() {
        let entry = entry.unwrap();
        // Other tests close files meanwhile.
        let info = fs::read_to_string(entry.path()).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.map(|flags| u32::from_str_radix(flags.trim(), 8).unwrap());
        let name = entry.file_name().into_string().unwrap();
        if flags.is_some_and(|flags| flags & CLOSED == 0) && !["0", "1", "2"].contains(&&*name) {
            handed_down.insert(name);
        }
    }
    handed_down
}

#[test]
fn a_command_gets_three_files_and_default_signals() {
    run(async {
        let mut bed = Bed::new();
        bed.options.shell = None;
        let _open = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stop = CancellationToken::new();
        bed.options.pre_startup = Some("ls /proc/self/fd".into());
        let files = bed.commands().pre_startup(&stop).await.unwrap().unwrap();
        let files: String = serde_json::from_str(files.get()).unwrap();
        let mut files: BTreeSet<_> = files.lines().map(str::to_owned).collect();
        for handed_down in ["0".into(), "1".into(), "2".into()]
            .into_iter()
            .chain(handed_down())
        {
            assert!(files.remove(&handed_down), "{handed_down}");
        }
        assert_eq!(
            files.len(),
            1,
            "`ls` opens the directory that it lists: {files:?}"
        );
        bed.options.pre_startup = Some("grep ^Sig[BI] /proc/self/status".into());
        let signals = bed.commands().pre_startup(&stop).await.unwrap().unwrap();
        let signals: String = serde_json::from_str(signals.get()).unwrap();
        for line in signals.lines() {
            let (mask, bits) = line.split_once(":\t").unwrap();
            // Above the 31 of POSIX the C library has some of its own.
            let bits = u64::from_str_radix(bits, 16).unwrap() & 0x7fff_ffff;
            // Such as SIGHUP below `nohup`. Rust itself ignores SIGPIPE, which is not for others.
            let handed_down = ignored() & !SIGPIPE;
            let expected = if mask == "SigIgn" { handed_down } else { 0 };
            assert_eq!(bits, expected, "{mask} {bits:x}");
        }
        assert_eq!(signals.lines().count(), 2);
    });
}

/// Bit of SIGPIPE, number 13, in the masks of `/proc/<pid>/status`.
const SIGPIPE: u64 = 1 << 12;

/// Mask of the signals that this process ignores.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:\t"));
    u64::from_str_radix(mask.unwrap(), 16).unwrap() & 0x7fff_ffff
}

#[test]
fn the_limit_ends_the_whole_process_group() {
    run(async {
        let mut bed = Bed::new();
        bed.options.timeout = Duration::from_secs(1);
        bed.options.post_startup = Some(STUBBORN.into());
        let start = Instant::now();
        let stop = CancellationToken::new();
        let error = bed.commands().post_startup(&OWN, &stop).await.unwrap_err();
        assert!(
            error.to_string().contains("did not end within 1 s"),
            "{error}"
        );
        assert!(
            start.elapsed() > Duration::from_secs(3),
            "it was asked to end first"
        );
        for name in ["leader", "stubborn"] {
            let process = bed.process(name).await;
            wait("the end of the group", || !runs(process)).await;
        }
    });
}

#[test]
fn one_that_closes_its_output_is_waited_for_all_the_same() {
    run(async {
        let mut bed = Bed::new();
        bed.options.post_startup = Some("exec >&- 2>&-; sleep 0.3; touch $D/done; exit 7".into());
        let stop = CancellationToken::new();
        let error = bed.commands().post_startup(&OWN, &stop).await.unwrap_err();
        assert!(error.to_string().contains("exit status: 7"), "{error}");
        assert!(bed.path("done").exists());
        bed.options.timeout = Duration::from_secs(1);
        bed.options.post_startup = Some("echo $$ > $D/quiet; exec >&- 2>&-; exec sleep 60".into());
        let error = bed.commands().post_startup(&OWN, &stop).await.unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
        assert!(!runs(bed.process("quiet").await));
    });
}

#[test]
fn one_in_the_background_stays_if_it_lets_go_of_the_output() {
    run(async {
        let mut bed = Bed::new();
        bed.options.post_startup =
            Some("sleep 60 > /dev/null 2>&1 < /dev/null & echo $! > $D/daemon".into());
        let stop = CancellationToken::new();
        let start = Instant::now();
        bed.commands().post_startup(&OWN, &stop).await.unwrap();
        assert!(start.elapsed() < PATIENCE);
        let daemon = bed.process("daemon").await;
        assert!(runs(daemon));
        let daemon = nix::unistd::Pid::from_raw(i32::try_from(daemon).unwrap());
        nix::sys::signal::kill(daemon, nix::sys::signal::Signal::SIGKILL).unwrap();
    });
}

#[test]
fn input_that_nobody_reads_holds_nothing_up() {
    run(async {
        let mut bed = Bed::new();
        bed.options.subnet_add = Some("echo $SUBNET >> $D/added".into());
        let mut peers = bed.peers();
        let long = "x".repeat(1 << 20);
        peers.set_peers(&facts([(1, long.as_str())]));
        bed.wait_for("added", "10.5.1.0/24\n").await;
        wait("no failure", || peers.pending() == 0).await;
        assert_eq!(peers.failures(), []);
        peers.stop().await;
    });
}

#[test]
fn the_end_of_the_agent_ends_commands() {
    run(async {
        let mut bed = Bed::new();
        bed.options.post_startup = Some(STUBBORN.into());
        let stop = CancellationToken::new();
        let commands = bed.commands();
        // Asked to stop.
        let started = async {
            bed.process("stubborn").await;
            stop.cancel();
        };
        let (ended, ()) = tokio::join!(commands.post_startup(&OWN, &stop), started);
        assert!(ended.unwrap_err().is_stop());
        let stubborn = bed.process("stubborn").await;
        wait("the end", || !runs(stubborn)).await;
        // Dropped in the middle.
        fs::remove_file(bed.path("stubborn")).unwrap();
        let stop = CancellationToken::new();
        let run = commands.post_startup(&OWN, &stop);
        let dropped = async {
            bed.process("stubborn").await;
        };
        tokio::select! {
            ended = run => panic!("{ended:?}"),
            () = dropped => {}
        }
        let stubborn = bed.process("stubborn").await;
        wait("the end", || !runs(stubborn)).await;
    });
}

#[test]
fn the_end_of_the_agent_ends_commands_for_peers() {
    run(async {
        let mut bed = Bed::new();
        bed.options.subnet_add = Some(STUBBORN.into());
        for is_asked in [true, false] {
            let mut peers = bed.peers();
            peers.set_peers(&facts([(1, "")]));
            let stubborn = bed.process("stubborn").await;
            assert!(runs(stubborn));
            if is_asked {
                timeout(PATIENCE, peers.stop()).await.unwrap();
                assert!(!runs(stubborn));
            } else {
                drop(peers);
                wait("the end", || !runs(stubborn)).await;
            }
            fs::remove_file(bed.path("stubborn")).unwrap();
        }
    });
}
