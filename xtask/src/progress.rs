//! Long steps: a line when each begins and ends, signs of life between, the tail on failure.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Read, Write as _};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Lines of output shown when a step fails.
const TAIL_LINES: usize = 30;

/// How often a waiting reader sees that something happens.
const TERMINAL_PERIOD: Duration = Duration::from_secs(1);
const LOG_PERIOD: Duration = Duration::from_secs(15);

/// Announces a step, does it, and says how long it took.
pub(crate) fn timed<T>(title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("==> {title}");
    let start = Instant::now();
    let result = work();
    let word = if result.is_ok() { "done" } else { "failed" };
    eprintln!(
        "==> {title}: {word} ({:.1} s)",
        start.elapsed().as_secs_f64()
    );
    result
}

/// Runs `command` with its output swallowed but for the latest line now and then.
pub(crate) fn step(title: &str, command: &mut Command) -> Result<()> {
    timed(title, || {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {:?} for: {title}", command.get_program()))?;
        let (sender, lines) = mpsc::channel();
        forward(child.stdout.take(), sender.clone());
        forward(child.stderr.take(), sender);

        let mut display = Display::new();
        let mut tail = VecDeque::with_capacity(TAIL_LINES);
        loop {
            match lines.recv_timeout(display.period) {
                Ok(line) => {
                    if tail.len() == TAIL_LINES {
                        tail.pop_front();
                    }
                    tail.push_back(line);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            display.show(tail.back().map_or("", String::as_str));
        }
        display.clear();
        let status = child.wait().with_context(|| format!("wait for: {title}"))?;
        if !status.success() {
            for line in &tail {
                eprintln!("    {line}");
            }
            bail!("{title} failed ({status}); the end of its output is above");
        }
        Ok(())
    })
}

/// Sends each line of `stream` until it ends.
fn forward(stream: Option<impl Read + Send + 'static>, lines: Sender<String>) {
    let Some(stream) = stream else { return };
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                break;
            }
        }
    });
}

/// The line that changes on a terminal, or a line every [`LOG_PERIOD`] in a log.
struct Display {
    start: Instant,
    shown: Instant,
    period: Duration,
    is_terminal: bool,
}

impl Display {
    fn new() -> Self {
        let is_terminal = io::stderr().is_terminal();
        let period = if is_terminal {
            TERMINAL_PERIOD
        } else {
            LOG_PERIOD
        };
        let now = Instant::now();
        Self {
            start: now,
            shown: now,
            period,
            is_terminal,
        }
    }

    fn show(&mut self, latest: &str) {
        if self.shown.elapsed() < self.period {
            return;
        }
        self.shown = Instant::now();
        let seconds = self.start.elapsed().as_secs();
        let latest: String = latest.trim().chars().take(60).collect();
        if self.is_terminal {
            eprint!("\r\x1b[K    {seconds:>3} s  {latest}");
            // Nothing is lost if the terminal is gone.
            let _ = io::stderr().flush();
        } else {
            eprintln!("    {seconds:>3} s  {latest}");
        }
    }

    fn clear(&self) {
        if self.is_terminal {
            eprint!("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_names_the_step_and_the_status() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo told; exit 3"]);
        let error = step("try it", &mut command).unwrap_err().to_string();
        assert!(
            error.contains("try it failed") && error.contains("3"),
            "{error}"
        );
    }

    #[test]
    fn long_output_does_not_block_the_child() -> Result<()> {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "i=0; while [ $i -lt 20000 ]; do echo $i; echo $i >&2; i=$((i+1)); done",
        ]);
        step("talk a lot", &mut command)
    }
}
