//! Follows the rules in force.

use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::news::News;
use super::read::{Error, Look, Reader};
use crate::fast_path::judge::Verdict;
use crate::netlink::nftables::Events;

/// Time between two looks at what tells nobody of its changes, such as legacy iptables: with the
/// look itself well below the shortest bound.
const POLL: Duration = Duration::from_millis(500);
/// How long news is gathered before a reading, since one transaction comes in many pieces.
const SETTLE: Duration = Duration::from_millis(3);
/// Least time between two readings, and between two [`Change::Rules`].
const MIN_PAUSE: Duration = Duration::from_millis(20);
/// Most of it, however long a reading takes: below the bound as well.
const MAX_PAUSE: Duration = Duration::from_millis(400);
/// What a reading took times this is the time to the next: a tenth of a core at most.
const PAUSE_FACTOR: u32 = 9;

/// What has become known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Some rule has changed: what has been admitted before is to be asked for again, whether or
    /// not another verdict follows.
    Rules,
    /// The verdict is another one.
    Verdict(Verdict),
}

/// A subscription to the rules in force of a network namespace.
#[derive(Debug)]
pub struct Watch {
    events: Option<Events>,
    news: News,
    /// Where it is while nothing is read.
    reader: Option<Box<Reader>>,
    reading: Option<JoinHandle<Reading>>,
    verdict: Verdict,
    /// When [`Change::Rules`] is to be told, if it is.
    tell_at: Option<Instant>,
    told_at: Option<Instant>,
    /// When the next reading is due, and the earliest time for one.
    look_at: Instant,
    earliest: Instant,
}

/// A reader that comes back.
#[derive(Debug)]
struct Reading {
    reader: Box<Reader>,
    look: Look,
    took: Duration,
}

impl Watch {
    /// Subscribes and judges, in the network namespace of the calling thread. What changes after
    /// this returns leads to a [`Change`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// # Errors
    /// A socket cannot be had. What cannot be read is a verdict.
    pub fn open() -> Result<(Self, Verdict), Error> {
        // Before anything is read, so that no change falls in between.
        let events = open_events();
        let mut reader = Box::new(Reader::open()?);
        let verdict = reader.verdict();
        let now = Instant::now();
        let watch = Self {
            events,
            news: News::default(),
            reader: Some(reader),
            reading: None,
            verdict: verdict.clone(),
            tell_at: None,
            told_at: None,
            look_at: now + POLL,
            earliest: now + MIN_PAUSE,
        };
        Ok((watch, verdict))
    }

    /// The next change. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Change {
        loop {
            let tell_at = self.tell_at.unwrap_or(self.look_at);
            let is_idle = self.reading.is_none();
            tokio::select! {
                is_heard = next_event(&mut self.events, &mut self.news) => {
                    if !is_heard {
                        self.events = None;
                        self.news.everything = true;
                    }
                    self.has_changed();
                    let soon = (Instant::now() + SETTLE).max(self.earliest);
                    self.look_at = self.look_at.min(soon);
                }
                () = sleep_until(tell_at), if self.tell_at.is_some() => {
                    self.tell_at = None;
                    self.told_at = Some(Instant::now());
                    return Change::Rules;
                }
                reading = finished(&mut self.reading) => {
                    self.reading = None;
                    if let Some(verdict) = self.take(reading) {
                        return Change::Verdict(verdict);
                    }
                }
                () = sleep_until(self.look_at), if is_idle => self.look(),
            }
        }
    }

    /// Has it told, at once unless it has just been told.
    fn has_changed(&mut self) {
        let now = Instant::now();
        let earliest = self.told_at.map_or(now, |told_at| told_at + MIN_PAUSE);
        self.tell_at.get_or_insert(earliest.max(now));
    }

    /// Begins a reading.
    fn look(&mut self) {
        if self.events.is_none() {
            self.events = open_events();
            self.news.everything = true;
            self.has_changed();
        }
        self.look_at = Instant::now() + POLL;
        let news = std::mem::take(&mut self.news);
        self.reading = self.reader.take().map(|mut reader| {
            spawn_blocking(move || {
                let start = Instant::now();
                let look = reader.look(news);
                Reading {
                    reader,
                    look,
                    took: start.elapsed(),
                }
            })
        });
    }

    /// Takes in what a reading has come to; the verdict if it is another one.
    fn take(&mut self, reading: Reading) -> Option<Verdict> {
        let Reading { reader, look, took } = reading;
        let pause = (took * PAUSE_FACTOR).clamp(MIN_PAUSE, MAX_PAUSE);
        self.reader = Some(reader);
        self.earliest = Instant::now() + pause;
        // What has come meanwhile may have missed it.
        if self.news != News::default() {
            self.look_at = self.earliest;
        }
        if look.has_untold_change {
            self.has_changed();
        }
        let verdict = look.verdict.filter(|verdict| *verdict != self.verdict)?;
        self.verdict = verdict.clone();
        Some(verdict)
    }
}

fn open_events() -> Option<Events> {
    Events::open()
        .inspect_err(|error| warn!(%error, "no news from nftables; it is read all the time"))
        .ok()
}

/// Waits for news, for ever where none can be had; whether there will be more.
async fn next_event(events: &mut Option<Events>, news: &mut News) -> bool {
    let Some(subscription) = events else {
        return std::future::pending().await;
    };
    match subscription.next().await {
        Ok(heard) => news.add(heard),
        Err(error) => {
            warn!(%error, "no more news from nftables; subscribing again");
            return false;
        }
    }
    true
}

/// Waits for the end of a reading, for ever if there is none.
async fn finished(reading: &mut Option<JoinHandle<Reading>>) -> Reading {
    let Some(handle) = reading else {
        return std::future::pending().await;
    };
    match handle.await {
        Ok(reading) => reading,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends.
            Err(_) => std::future::pending().await,
        },
    }
}
