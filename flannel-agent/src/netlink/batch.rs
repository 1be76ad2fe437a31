//! Many changes, or questions, in few system calls.
//!
//! The kernel takes any number of requests in one datagram, carries them out one after the other
//! before `sendmsg` returns, and answers those that fail, or ask; only the last change of a datagram
//! is asked to be acknowledged. So ten thousand changes are some hundred system calls, nobody is woken in
//! between, and the order of a batch is the order in which it takes effect.

mod sender;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rtnetlink::packet_core::{NetlinkDeserializable, NetlinkSerializable};
use rtnetlink::packet_route::RouteNetlinkMessage;

use self::sender::Sender;
use super::{DUMP_ATTEMPTS, Error, Netlink, next_hop};

/// Requests in one datagram. If each fails, their answers are at most some 1 KiB of socket memory
/// each, and fit the default receive buffer of 208 KiB.
const DATAGRAM: usize = 64;

/// As many changes are carried out on the calling thread: they take less than a millisecond, and
/// on a busy machine it takes as long to wake another thread and be woken by it.
const SMALL: usize = 16;

/// One change of one object.
#[derive(Debug, Clone)]
pub struct Change {
    pub(super) message: Message,
    /// Flags beside `NLM_F_REQUEST`.
    pub(super) flags: u16,
    /// Error numbers that are as good as success.
    pub(super) tolerated: &'static [i32],
    /// Operation and object, for errors.
    pub(super) operation: String,
}

/// One request that the kernel answers with one object.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) message: RouteNetlinkMessage,
    /// Operation and object, for errors.
    pub(super) operation: String,
}

/// What is asked of the kernel: in the words of the crate for routes, or in our own.
#[derive(Debug, Clone)]
pub(super) enum Message {
    Route(Box<RouteNetlinkMessage>),
    NextHop(next_hop::Message),
}

impl From<RouteNetlinkMessage> for Message {
    fn from(message: RouteNetlinkMessage) -> Self {
        Self::Route(Box::new(message))
    }
}

impl From<next_hop::Message> for Message {
    fn from(message: next_hop::Message) -> Self {
        Self::NextHop(message)
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        match self {
            Self::Route(message) => message.message_type(),
            Self::NextHop(message) => message.message_type(),
        }
    }

    fn buffer_len(&self) -> usize {
        match self {
            Self::Route(message) => NetlinkSerializable::buffer_len(&**message),
            Self::NextHop(message) => message.buffer_len(),
        }
    }

    fn serialize(&self, buffer: &mut [u8]) {
        match self {
            Self::Route(message) => message.serialize(buffer),
            Self::NextHop(message) => message.serialize(buffer),
        }
    }
}

impl Netlink {
    /// Makes a change of each item and carries them out, in this order; returns the items whose
    /// change failed. One that fails does not keep those after it from being tried.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn change_all<T: Send + 'static>(
        &self,
        items: Vec<T>,
        change: impl Fn(&T) -> Change + Send + 'static,
    ) -> Vec<(T, Error)> {
        let count = items.len();
        let changes = items.into_iter().map(move |item| {
            let change = change(&item);
            (item, change)
        });
        self.exchange(count, move |batch| batch.send(changes)).await
    }

    /// Makes a question of each item and asks them; the answers come in this order.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(super) async fn ask_all<T: Send + 'static>(
        &self,
        items: Vec<T>,
        question: impl Fn(&T) -> Question + Send + 'static,
    ) -> Vec<(T, Result<RouteNetlinkMessage, Error>)> {
        let count = items.len();
        let questions = items.into_iter().map(move |item| {
            let question = question(&item);
            (item, question)
        });
        self.exchange(count, move |batch| batch.ask(questions))
            .await
    }

    /// Does some work with the socket for `count` requests: here if they are few.
    async fn exchange<R: Send + 'static>(
        &self,
        count: usize,
        work: impl FnOnce(&Batch) -> R + Send + 'static,
    ) -> R {
        if count <= SMALL {
            return work(&self.batch);
        }
        let batch = Arc::clone(&self.batch);
        match tokio::task::spawn_blocking(move || work(&batch)).await {
            Ok(done) => done,
            // Not cancelled: nobody else has the handle.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Carries out one change.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn change_one(&self, change: Change) -> Result<(), Error> {
        let failed = self.batch.send([((), change)].into_iter());
        failed
            .into_iter()
            .next()
            .map_or(Ok(()), |((), error)| Err(error))
    }
}

/// A socket that is read on the spot: for changes, and for listings.
pub(super) struct Batch(Mutex<Sender>);

impl Batch {
    /// Opens it in the network namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self(Mutex::new(Sender::open()?)))
    }

    fn send<T>(&self, mut changes: impl Iterator<Item = (T, Change)>) -> Vec<(T, Error)> {
        // A panic in between leaves no state behind but answers, which the next send passes over.
        let mut sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut failed = Vec::new();
        loop {
            let datagram: Vec<_> = changes.by_ref().take(DATAGRAM).collect();
            if datagram.is_empty() {
                return failed;
            }
            sender.send_datagram(datagram, &mut failed);
        }
    }

    fn ask<T>(
        &self,
        mut questions: impl Iterator<Item = (T, Question)>,
    ) -> Vec<(T, Result<RouteNetlinkMessage, Error>)> {
        let mut sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answered = Vec::new();
        loop {
            let datagram: Vec<_> = questions.by_ref().take(DATAGRAM).collect();
            if datagram.is_empty() {
                return answered;
            }
            sender.ask_datagram(datagram, &mut answered);
        }
    }

    /// Asks for many objects; `parse` picks what the caller wants of each.
    pub(super) fn dump<M, T>(
        &self,
        request: M,
        operation: impl Fn() -> String,
        mut parse: impl FnMut(M) -> Option<T>,
    ) -> Result<Vec<T>, Error>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Clone,
    {
        let mut sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            found.clear();
            if sender.dump(request.clone(), &operation, |it| found.extend(parse(it)))? {
                break;
            }
        }
        // See `Netlink::dump` for a table that never rests.
        Ok(found)
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").finish_non_exhaustive()
    }
}
