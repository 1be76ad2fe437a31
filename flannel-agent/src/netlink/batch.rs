//! Many changes in few system calls.
//!
//! The kernel takes any number of requests in one datagram, carries them out one after the other
//! before `sendmsg` returns, and answers those that fail; only the last of a datagram is asked to
//! be acknowledged. So ten thousand changes are some hundred system calls, nobody is woken in
//! between, and the order of a batch is the order in which it takes effect.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

use super::{DUMP_ATTEMPTS, Error, Netlink, next_hop, outcome, tolerate};

/// Requests in one datagram. If each fails, their answers are at most some 1 KiB of socket memory
/// each, and fit the default receive buffer of 208 KiB.
const DATAGRAM: usize = 64;

/// As many changes are carried out on the calling thread: they take less than a millisecond, and
/// on a busy machine it takes as long to wake another thread and be woken by it.
const SMALL: usize = 16;

/// Room for one answer: a refusal has its header, that of the request, and the kernel's words.
const ANSWER: usize = 4096;

/// Room for one part of a listing; the kernel fills 32 KiB at most.
const LISTING: usize = 1 << 15;

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
        let is_small = items.len() <= SMALL;
        let changes = items.into_iter().map(move |item| {
            let change = change(&item);
            (item, change)
        });
        if is_small {
            return self.batch.send(changes);
        }
        let batch = Arc::clone(&self.batch);
        match tokio::task::spawn_blocking(move || batch.send(changes)).await {
            Ok(failed) => failed,
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
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Answers are there when a datagram is sent; one that is not there was lost.
        socket.set_non_blocking(true)?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        Ok(Self(Mutex::new(Sender {
            socket,
            sequence: 0,
        })))
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

struct Sender {
    socket: Socket,
    /// Of the last request.
    sequence: u32,
}

impl Sender {
    fn send_datagram<T>(&mut self, changes: Vec<(T, Change)>, failed: &mut Vec<(T, Error)>) {
        let first = self.sequence.wrapping_add(1);
        let mut octets = Vec::new();
        let mut sent = Vec::with_capacity(changes.len());
        let last = changes.len() - 1;
        for (index, (item, change)) in changes.into_iter().enumerate() {
            let Change {
                message,
                flags,
                tolerated,
                operation,
            } = change;
            let ack = if index == last { NLM_F_ACK } else { 0 };
            self.sequence = self.sequence.wrapping_add(1);
            push(
                message,
                NLM_F_REQUEST | ack | flags,
                self.sequence,
                &mut octets,
            );
            sent.push((item, tolerated, operation));
        }
        let answers = self.exchange(&octets, first, sent.len());
        for (n, (item, tolerated, operation)) in sent.into_iter().enumerate() {
            let result = match &answers {
                Ok(answers) => answers.get(n).cloned().flatten().map_or(Ok(()), |answer| {
                    outcome(answer.payload, &|| operation.clone()).map(drop)
                }),
                Err(error) => Err(Error::Refused {
                    operation,
                    source: io::Error::from(error.kind()),
                }),
            };
            if let Err(error) = tolerate(result, tolerated) {
                failed.push((item, error));
            }
        }
    }

    /// Sends a datagram of `count` requests, numbered from `first`, and gathers what the kernel
    /// says to each; nothing is success.
    fn exchange(
        &mut self,
        datagram: &[u8],
        first: u32,
        count: usize,
    ) -> io::Result<Vec<Option<NetlinkMessage<RouteNetlinkMessage>>>> {
        self.socket.send(datagram, 0)?;
        let mut answers = vec![None; count];
        let mut buffer = Vec::with_capacity(ANSWER);
        loop {
            buffer.clear();
            self.socket.recv(&mut buffer, 0)?;
            // What is left of an earlier exchange may be of another kind.
            let Ok(answer) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&buffer) else {
                continue;
            };
            // Answers that an earlier exchange did not wait for are numbered otherwise.
            let index = answer.header.sequence_number.wrapping_sub(first) as usize;
            if let Some(slot) = answers.get_mut(index) {
                *slot = Some(answer);
            }
            if index == count - 1 {
                return Ok(answers);
            }
        }
    }

    /// Says whether nothing changed meanwhile.
    fn dump<M>(
        &mut self,
        request: M,
        operation: &impl Fn() -> String,
        mut each: impl FnMut(M),
    ) -> Result<bool, Error>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let failed = |source| Error::Refused {
            operation: operation(),
            source,
        };
        self.sequence = self.sequence.wrapping_add(1);
        let mut octets = Vec::new();
        push(
            request,
            NLM_F_REQUEST | NLM_F_DUMP,
            self.sequence,
            &mut octets,
        );
        self.socket.send(&octets, 0).map_err(failed)?;
        let mut buffer = Vec::with_capacity(LISTING);
        let mut is_whole = true;
        loop {
            buffer.clear();
            self.socket.recv(&mut buffer, 0).map_err(failed)?;
            for message in messages(&buffer) {
                let answer = NetlinkMessage::<M>::deserialize(message)
                    .map_err(|error| failed(io::Error::other(error)))?;
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                is_whole &= answer.header.flags & NLM_F_DUMP_INTR == 0;
                let is_last = matches!(answer.payload, NetlinkPayload::Done(_));
                if let Some(object) = outcome(answer.payload, operation)? {
                    each(object);
                }
                if is_last {
                    return Ok(is_whole);
                }
            }
        }
    }
}

/// The messages of a datagram.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = NetlinkBuffer::new_checked(datagram).ok()?.length() as usize;
        let message = datagram.get(..length)?;
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some(message)
    })
}

fn push<M: NetlinkSerializable>(message: M, flags: u16, sequence: u32, octets: &mut Vec<u8>) {
    let payload = NetlinkPayload::InnerMessage(message);
    let mut request = NetlinkMessage::new(NetlinkHeader::default(), payload);
    request.header.flags = flags;
    request.header.sequence_number = sequence;
    request.finalize();
    let start = octets.len();
    // Requests begin at multiples of four octets (NLMSG_ALIGNTO).
    octets.resize(start + request.buffer_len().next_multiple_of(4), 0);
    request.serialize(&mut octets[start..]);
}
