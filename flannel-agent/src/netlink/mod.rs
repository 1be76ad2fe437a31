//! The kernel's links, addresses, neighbours, FDB entries and routes, over rtnetlink.
//!
//! [`Netlink`] is a place in the network namespace of the thread that opened it; its methods
//! are spread over the modules below by the object they are about. `ensure_*` ends in the state
//! named and `remove_*` in its absence, whatever was there before; `replace_*` overwrites.
//!
//! Every call ends: a kernel that does not answer within [`DEADLINE`] is an error. Nothing is
//! retried here, since the caller reconciles again anyway. Strict checking is on (Linux 4.20), so
//! that dumps are filtered by the kernel and a misunderstood request is refused instead of
//! answered with everything.

pub mod addr;
pub mod batch;
pub mod blackhole;
pub mod link;
pub mod lookup;
pub mod mac;
pub mod monitor;
pub mod neigh;
pub mod netdev;
pub mod next_hop;
pub mod nftables;
pub mod nic;
pub mod route;
pub mod tc;
pub mod tun;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use rtnetlink::Handle;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    NlasIterator,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::AsyncSocket as _;
use tokio::task::JoinHandle;

pub use batch::Change;
pub use mac::MacAddr;

/// Longest wait for one answer of the kernel.
///
/// The kernel works on a request inside `sendmsg`, so only an answer that was lost, or that the
/// decoder could not read, takes this long.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// Attempts at a dump that the kernel marks as taken while the table changed.
const DUMP_ATTEMPTS: usize = 3;

/// Length of the request's header, which comes before the attributes of a refusal (`nlmsghdr`).
const REQUEST_HEADER_LEN: usize = 16;
/// Attribute with the kernel's words (`include/uapi/linux/netlink.h`).
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Why a netlink call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket.
    #[error("open a netlink socket")]
    Open(#[source] io::Error),
    /// The kernel refused; [`errno`] has the number.
    #[error("{operation}")]
    Refused {
        /// Operation and object.
        operation: String,
        /// The kernel's errno.
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error("{operation}: no answer from the kernel within {} s", DEADLINE.as_secs())]
    Timeout {
        /// Operation and object.
        operation: String,
    },
    /// The socket is gone.
    #[error("{operation}: the netlink socket is closed")]
    Closed {
        /// Operation and object.
        operation: String,
    },
    /// The kernel answered with something else.
    #[error("{operation}: unexpected answer from the kernel")]
    Unexpected {
        /// Operation and object.
        operation: String,
    },
}

/// The kernel's error number, positive, if it was the kernel that refused.
#[must_use]
pub fn errno(error: &Error) -> Option<i32> {
    match error {
        Error::Refused { source, .. } | Error::Open(source) => source.raw_os_error(),
        Error::Timeout { .. } | Error::Closed { .. } | Error::Unexpected { .. } => None,
    }
}

/// Takes a refusal with one of the `expected` error numbers for success.
pub(crate) fn tolerate(result: Result<(), Error>, expected: &[i32]) -> Result<(), Error> {
    match result {
        Err(error) if errno(&error).is_some_and(|number| expected.contains(&number)) => Ok(()),
        other => other,
    }
}

/// A netlink socket for questions and one for changes of many objects; clones share them.
#[derive(Debug, Clone)]
pub struct Netlink {
    handle: Handle,
    _connection: Arc<Connection>,
    batch: Arc<batch::Batch>,
}

/// The task that reads and writes the socket; it ends with the last clone.
#[derive(Debug)]
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Netlink {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Open`].
    pub fn open() -> Result<Self, Error> {
        let (mut connection, handle, _unsolicited) =
            rtnetlink::new_connection_with_strict_check().map_err(Error::Open)?;
        // The end of a dump carries its error number.
        connection.set_forward_done(true);
        let socket = connection.socket_mut().socket_mut();
        // Refusals come with the kernel's words, behind the header of the request alone.
        socket.set_ext_ack(true).map_err(Error::Open)?;
        socket.set_cap_ack(true).map_err(Error::Open)?;
        Ok(Self {
            handle,
            _connection: Arc::new(Connection(tokio::spawn(connection))),
            batch: Arc::new(batch::Batch::open().map_err(Error::Open)?),
        })
    }

    /// Sends a request that the kernel answers with success or an error number.
    async fn change(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        operation: impl Fn() -> String,
    ) -> Result<(), Error> {
        let mut answers = self.request(message, NLM_F_ACK | flags, &operation)?;
        while let Some(payload) = next(&mut answers, &operation).await? {
            outcome(payload, &operation)?;
        }
        Ok(())
    }

    /// Sends a request that the kernel answers with one object.
    async fn get(
        &self,
        message: RouteNetlinkMessage,
        operation: impl Fn() -> String,
    ) -> Result<RouteNetlinkMessage, Error> {
        let mut answers = self.request(message, 0, &operation)?;
        while let Some(payload) = next(&mut answers, &operation).await? {
            if let Some(object) = outcome(payload, &operation)? {
                return Ok(object);
            }
        }
        Err(Error::Unexpected {
            operation: operation(),
        })
    }

    /// Sends a request for many objects; `parse` picks what the caller wants of each.
    async fn dump<T>(
        &self,
        message: RouteNetlinkMessage,
        operation: impl Fn() -> String,
        mut parse: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let mut found = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            found.clear();
            let mut is_whole = true;
            let mut answers = self.request(message.clone(), NLM_F_DUMP, &operation)?;
            while let Some(answer) = next_message(&mut answers, &operation).await? {
                is_whole &= answer.header.flags & NLM_F_DUMP_INTR == 0;
                let object = outcome(answer.payload, &operation)?;
                found.extend(object.and_then(&mut parse));
            }
            if is_whole {
                break;
            }
        }
        // A table that never rests is read as well as it can be: what was missed or seen twice
        // costs a redundant replace, and the next reconciliation sees it.
        Ok(found)
    }

    fn request<F: Fn() -> String>(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        operation: &F,
    ) -> Result<impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Unpin + use<F>, Error>
    {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        self.handle
            .clone()
            .request(request)
            .map_err(|_| Error::Closed {
                operation: operation(),
            })
    }
}

async fn next_message<S>(
    answers: &mut S,
    operation: &impl Fn() -> String,
) -> Result<Option<S::Item>, Error>
where
    S: Stream + Unpin,
{
    tokio::time::timeout(DEADLINE, answers.next())
        .await
        .map_err(|_| Error::Timeout {
            operation: operation(),
        })
}

async fn next<S>(
    answers: &mut S,
    operation: &impl Fn() -> String,
) -> Result<Option<NetlinkPayload<RouteNetlinkMessage>>, Error>
where
    S: Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Unpin,
{
    let message = next_message(answers, operation).await?;
    Ok(message.map(|message| message.payload))
}

/// The object in an answer, or the error number that it carries.
fn outcome<M>(
    payload: NetlinkPayload<M>,
    operation: &impl Fn() -> String,
) -> Result<Option<M>, Error> {
    let (code, words) = match payload {
        NetlinkPayload::InnerMessage(object) => return Ok(Some(object)),
        NetlinkPayload::Error(error) => {
            let words = error.header.get(REQUEST_HEADER_LEN..).and_then(words);
            (error.raw_code(), words)
        }
        NetlinkPayload::Done(done) => (done.code, words(&done.extended_ack)),
        _ => (0, None),
    };
    if code == 0 {
        return Ok(None);
    }
    let mut operation = operation();
    if let Some(words) = words {
        operation = format!("{operation} (kernel: {words})");
    }
    Err(Error::Refused {
        operation,
        source: io::Error::from_raw_os_error(code.saturating_neg()),
    })
}

/// What the kernel says about a refusal, from the attributes of its answer.
fn words(attributes: &[u8]) -> Option<String> {
    NlasIterator::new(attributes).flatten().find_map(|found| {
        let text = std::str::from_utf8(found.value()).ok()?;
        (found.kind() == NLMSGERR_ATTR_MSG).then(|| text.trim_end_matches('\0').to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(number: i32) -> Error {
        Error::Refused {
            operation: "remove the route".into(),
            source: io::Error::from_raw_os_error(number),
        }
    }

    #[test]
    fn the_words_of_the_kernel_are_found_among_its_attributes() {
        let offset = [8, 0, 2, 0, 20, 0, 0, 0];
        let text = [9, 0, 1, 0, b'f', b'u', b'l', b'l', 0, 0, 0, 0];
        assert_eq!(words(&[&offset[..], &text].concat()), Some("full".into()));
        assert_eq!(words(&offset), None);
        assert_eq!(words(&[200, 0, 1, 0]), None);
        assert_eq!(words(&[]), None);
    }

    #[test]
    fn only_expected_refusals_are_tolerated() {
        assert!(tolerate(Err(refused(libc::ESRCH)), &[libc::ESRCH]).is_ok());
        assert!(tolerate(Err(refused(libc::EPERM)), &[libc::ESRCH]).is_err());
        let timeout = Error::Timeout {
            operation: String::new(),
        };
        assert_eq!(errno(&timeout), None);
        assert!(tolerate(Err(timeout), &[libc::ESRCH]).is_err());
    }
}
