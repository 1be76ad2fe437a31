//! Traffic control: which links have a clsact qdisc, and the filters that hang there.

use std::collections::BTreeSet;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption};

use super::nic::ClsactSide;
use super::{Error, Netlink, errno};

/// A filter of a clsact qdisc.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Kind such as `bpf`, `flower` or `matchall`.
    pub kind: String,
    /// Name of its program, where it is a BPF filter.
    pub program: Option<String>,
}

impl Netlink {
    /// Indices of links with a clsact or ingress qdisc: only these can have filters.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn clsact_links(&self) -> Result<BTreeSet<u32>, Error> {
        let found = self.dump(
            RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()),
            || "list queueing disciplines".into(),
            |object| match object {
                RouteNetlinkMessage::NewQueueDiscipline(message) => {
                    let is_clsact = matches!(kind(&message), "clsact" | "ingress");
                    is_clsact.then(|| message.header.index.cast_unsigned())
                }
                _ => None,
            },
        );
        Ok(found.await?.into_iter().collect())
    }

    /// All filters of a link's clsact qdisc; none where it has no such qdisc.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn filters(&self, index: u32, side: ClsactSide) -> Result<Vec<Filter>, Error> {
        let mut message = TcMessage::default();
        message.header.index = index.cast_signed();
        message.header.parent = TcHandle {
            major: TcHandle::CLSACT.major,
            minor: match side {
                ClsactSide::Ingress => TcHandle::MIN_INGRESS,
                ClsactSide::Egress => TcHandle::MIN_EGRESS,
            },
        };
        let found = self.dump(
            RouteNetlinkMessage::GetTrafficFilter(message),
            || format!("list the filters of the interface with index {index}"),
            |object| match object {
                RouteNetlinkMessage::NewTrafficFilter(message) => parse_filter(&message),
                _ => None,
            },
        );
        match found.await {
            // No such qdisc, or no such link any more.
            Err(error)
                if matches!(
                    errno(&error),
                    Some(libc::EINVAL | libc::ENOENT | libc::ENODEV)
                ) =>
            {
                Ok(Vec::new())
            }
            other => other,
        }
    }
}

fn kind(message: &TcMessage) -> &str {
    let kinds = message.attributes.iter();
    let mut kinds = kinds.filter_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.as_str()),
        _ => None,
    });
    kinds.next().unwrap_or_default()
}

/// A filter is several messages: that of its priority alone has no options.
fn parse_filter(message: &TcMessage) -> Option<Filter> {
    let mut filter = Filter {
        kind: kind(message).to_owned(),
        program: None,
    };
    let mut has_options = false;
    for attribute in &message.attributes {
        let TcAttribute::Options(options) = attribute else {
            continue;
        };
        has_options = true;
        for option in options {
            if let TcOption::Bpf(TcFilterBpfOption::ProgName(name)) = option {
                filter.program = Some(name.clone());
            }
        }
    }
    has_options.then_some(filter)
}
