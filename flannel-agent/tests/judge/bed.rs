//! A network namespace, rules in it, and what the judge says of them.

use std::future::Future;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use flannel_agent::fast_path::judge::Verdict;
use flannel_agent::fast_path::rules::{Change, Reader, Watch};
use nix::sched::{CloneFlags, unshare};

/// Runs a test in a network namespace.
pub(crate) fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a program with a script on its standard input; its words if it refuses.
pub(crate) fn try_feed(command: &str, script: &str) -> Result<(), String> {
    let words: Vec<_> = command.split_whitespace().collect();
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command}: {error}"));
    child
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command}: {error}\n{script}")),
    }
}

pub(crate) fn feed(command: &str, script: &str) {
    try_feed(command, script).unwrap_or_else(|error| panic!("{error}"));
}

pub(crate) fn nft(script: &str) {
    feed("nft -f -", script);
}

/// The judge's verdict on the rules as they are.
pub(crate) fn verdict() -> Verdict {
    Reader::open().unwrap().verdict()
}

/// Reasons as an operator reads them.
pub(crate) fn reasons(verdict: &Verdict) -> Vec<String> {
    verdict.reasons.iter().map(ToString::to_string).collect()
}

/// Whether the verdict is as it should be: sound, or unsound with a reason that has these words.
pub(crate) fn check(context: &str, words: Option<&str>) -> Result<(), String> {
    let verdict = verdict();
    let reasons = reasons(&verdict);
    let is_right = match words {
        None => verdict.sound,
        Some(words) => !verdict.sound && reasons.iter().any(|reason| reason.contains(words)),
    };
    match is_right {
        true => Ok(()),
        false => Err(format!("{context}: {reasons:?}, not {words:?}\n")),
    }
}

#[track_caller]
pub(crate) fn assert_sound(context: &str) {
    check(context, None).unwrap_or_else(|error| panic!("{error}"));
}

#[track_caller]
pub(crate) fn assert_unsound(context: &str, words: &str) {
    check(context, Some(words)).unwrap_or_else(|error| panic!("{error}"));
}

/// Waits for a verdict of that kind; how long that took.
pub(crate) async fn wait(watch: &mut Watch, sound: bool, since: Instant) -> (Verdict, Duration) {
    let limit = Duration::from_secs(5);
    let verdict = async {
        loop {
            match watch.next().await {
                Change::Verdict(verdict) if verdict.sound == sound => return verdict,
                _ => {}
            }
        }
    };
    let verdict = tokio::time::timeout(limit, verdict).await;
    let verdict = verdict.unwrap_or_else(|_| panic!("no verdict of sound: {sound}"));
    (verdict, since.elapsed())
}
