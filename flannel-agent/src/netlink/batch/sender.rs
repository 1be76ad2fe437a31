//! The exchange of datagrams with the kernel.

use std::io;

use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

use super::{Change, Question};
use crate::netlink::{Error, outcome, tolerate};

/// Room for one answer: a refusal has its header, that of the request, and the kernel's words.
const ANSWER: usize = 4096;

/// Room for one part of a listing; the kernel fills 32 KiB at most.
const LISTING: usize = 1 << 15;

/// The socket: datagrams out, answers in.
pub(super) struct Sender {
    socket: Socket,
    /// Of the last request.
    sequence: u32,
}

impl Sender {
    /// Opens it in the network namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Answers are there when a datagram is sent; one that is not there was lost.
        socket.set_non_blocking(true)?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    pub(super) fn send_datagram<T>(
        &mut self,
        changes: Vec<(T, Change)>,
        failed: &mut Vec<(T, Error)>,
    ) {
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

    pub(super) fn ask_datagram<T>(
        &mut self,
        questions: Vec<(T, Question)>,
        answered: &mut Vec<(T, Result<RouteNetlinkMessage, Error>)>,
    ) {
        let first = self.sequence.wrapping_add(1);
        let mut octets = Vec::new();
        let mut sent = Vec::with_capacity(questions.len());
        for (item, Question { message, operation }) in questions {
            self.sequence = self.sequence.wrapping_add(1);
            push(message, NLM_F_REQUEST, self.sequence, &mut octets);
            sent.push((item, operation));
        }
        let answers = self.exchange(&octets, first, sent.len());
        for (n, (item, operation)) in sent.into_iter().enumerate() {
            let answer = match &answers {
                Ok(answers) => answers.get(n).cloned().flatten(),
                Err(error) => {
                    let source = io::Error::from(error.kind());
                    answered.push((item, Err(Error::Refused { operation, source })));
                    continue;
                }
            };
            let object = match answer {
                Some(answer) => outcome(answer.payload, &|| operation.clone()),
                None => Ok(None),
            };
            let object = object.and_then(|it| it.ok_or(Error::Unexpected { operation }));
            answered.push((item, object));
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
    pub(super) fn dump<M>(
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
