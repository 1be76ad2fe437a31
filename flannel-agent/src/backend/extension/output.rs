//! What a command prints: each line to the log, the last ones for the message of a failure, and all
//! of it where it is asked for.

use std::collections::VecDeque;
use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Longest line, bytes; a longer one is cut in pieces.
const LINE: usize = 2_048;

/// Most lines of one stream that go to the log.
const LOGGED: usize = 200;

/// Last lines that are kept.
const KEPT: usize = 5;

/// Most bytes that are kept whole: a lease is no place for more.
pub(super) const WHOLE: usize = 64 * 1_024;

/// What one stream of a command has said.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// All of it, up to one byte more than [`WHOLE`].
    pub(super) whole: Vec<u8>,
    last: VecDeque<String>,
    lines: usize,
}

impl Said {
    /// Reads a stream to its end; `log` gets each line.
    ///
    /// # Errors
    /// The stream cannot be read.
    pub(super) async fn read(
        mut stream: impl AsyncRead + Unpin,
        mut log: impl FnMut(&str),
    ) -> io::Result<Self> {
        let mut said = Self::default();
        let mut chunk = [0; 4_096];
        let mut line = Vec::new();
        loop {
            let len = stream.read(&mut chunk).await?;
            let chunk = &chunk[..len];
            let room = (WHOLE + 1).saturating_sub(said.whole.len());
            said.whole.extend_from_slice(&chunk[..len.min(room)]);
            for byte in chunk {
                if *byte != b'\n' {
                    line.push(*byte);
                }
                if *byte == b'\n' || line.len() == LINE {
                    said.line(&line, &mut log);
                    line.clear();
                }
            }
            if len == 0 {
                said.line(&line, &mut log);
                return Ok(said);
            }
        }
    }

    fn line(&mut self, line: &[u8], log: &mut impl FnMut(&str)) {
        let line = String::from_utf8_lossy(line);
        let line = line.trim_end();
        if line.is_empty() {
            return;
        }
        self.lines += 1;
        match self.lines {
            1..=LOGGED => log(line),
            more if more == LOGGED + 1 => log("(more lines are left out)"),
            _ => {}
        }
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line.to_owned());
    }

    /// The last lines as one, for a message.
    pub(super) fn last(&self) -> String {
        let lines: Vec<_> = self.last.iter().map(String::as_str).collect();
        lines.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &[u8]) -> (Said, Vec<String>) {
        let mut logged = Vec::new();
        let said = Said::read(text, |line| logged.push(line.to_owned())).await;
        (said.unwrap(), logged)
    }

    #[tokio::test]
    async fn lines_are_logged_and_the_last_kept() {
        let (said, logged) = read(b"one\r\n\n  two\n\xff\nfour\nfive\nsix").await;
        assert_eq!(logged, ["one", "  two", "\u{fffd}", "four", "five", "six"]);
        assert_eq!(said.last(), "  two; \u{fffd}; four; five; six");
        assert_eq!(said.whole, b"one\r\n\n  two\n\xff\nfour\nfive\nsix");
    }

    #[tokio::test]
    async fn neither_memory_nor_log_grows_without_end() {
        let (said, logged) = read(&b"x".repeat(1 << 20)).await;
        assert_eq!(said.whole.len(), WHOLE + 1);
        assert_eq!(logged.len(), LOGGED + 1);
        assert_eq!(logged[0].len(), LINE);
        assert_eq!(logged[LOGGED], "(more lines are left out)");
        assert_eq!(said.last.len(), KEPT);
    }
}
