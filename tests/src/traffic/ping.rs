//! Echo requests.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};

use crate::command;
use crate::netns::NetNs;

/// Whether routers may fragment the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragmentation {
    /// They may.
    Allowed,
    /// Don't-fragment bit set.
    Forbidden,
}

/// What to send.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Number of requests.
    pub count: u32,
    /// Bytes of payload; 28 more with IP and ICMP header.
    pub size: u32,
    /// Milliseconds between requests; zero sends all at once. Only then does `ping` wait a second for
    /// the last answer: else it leaves after twice the longest round trip, or one interval.
    pub interval_ms: u32,
    /// Whether routers may fragment.
    pub fragmentation: Fragmentation,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            count: 3,
            size: 56,
            interval_ms: 0,
            fragmentation: Fragmentation::Allowed,
        }
    }
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Requests sent.
    pub sent: u32,
    /// Replies received.
    pub received: u32,
    /// Mean round-trip time, where a reply came.
    pub mean_us: Option<f64>,
    /// All that `ping` printed, errors included.
    pub text: String,
}

impl Answer {
    /// Whether every request was answered.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.sent > 0 && self.sent == self.received
    }
}

/// Pings `to` from inside `from`.
///
/// # Errors
/// `ping` did not run; lost requests are an answer.
pub fn ping(from: &NetNs, to: Ipv4Addr, options: Options) -> Result<Answer> {
    let Options {
        count,
        size,
        interval_ms,
        fragmentation,
    } = options;
    let discovery = match fragmentation {
        Fragmentation::Allowed => "dont",
        Fragmentation::Forbidden => "do",
    };
    let pace = match interval_ms {
        0 => format!("-l {count} -i 1"),
        ms => format!("-i {:.3}", f64::from(ms) / 1000.0),
    };
    // Through a shell, since loss makes `ping` exit with 1 and its errors are part of the answer.
    let line =
        format!("ping -n -c {count} -s {size} {pace} -W 1 -M {discovery} {to} 2>&1; [ $? -le 1 ]");
    let mut shell = from.command("sh");
    shell.args(["-c", &line]).env("LC_ALL", "C");
    parse(command::output(shell, None)?)
}

fn parse(text: String) -> Result<Answer> {
    let summary = text
        .lines()
        .find(|line| line.contains("packets transmitted"))
        .with_context(|| format!("no summary of ping in:\n{text}"))?;
    let number = |before: &str| -> Result<u32> {
        let words: Vec<&str> = summary.split_whitespace().collect();
        let end = words
            .iter()
            .position(|word| word.starts_with(before))
            .context("summary")?;
        let start = words[..end].iter().rev().find_map(|word| word.parse().ok());
        start.with_context(|| format!("summary of ping: {summary}"))
    };
    let times = text
        .lines()
        .find_map(|line| line.strip_prefix("rtt min/avg/max/mdev = "));
    let mean_ms: Option<f64> = times.and_then(|line| line.split('/').nth(1)?.parse().ok());
    Ok(Answer {
        sent: number("packets")?,
        received: number("received")?,
        mean_us: mean_ms.map(|ms| ms * 1000.0),
        text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_with_errors_is_read() {
        let text = "From 10.5.1.1 icmp_seq=1 Frag needed\n\
                    3 packets transmitted, 1 received, +1 errors, 66% packet loss, time 20ms\n\
                    rtt min/avg/max/mdev = 0.030/0.045/0.060/0.003 ms\n";
        let answer = parse(text.to_owned()).unwrap();
        assert_eq!((answer.sent, answer.received), (3, 1));
        assert_eq!(answer.mean_us, Some(45.0));
        assert!(!answer.is_complete());
    }
}
