//! Traffic control: which links can have filters.

use std::collections::BTreeSet;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcMessage};

use super::{Error, Netlink};

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
                    let index = message.header.index.cast_unsigned();
                    is_clsact(&message).then_some(index)
                }
                _ => None,
            },
        );
        Ok(found.await?.into_iter().collect())
    }
}

fn is_clsact(message: &TcMessage) -> bool {
    let mut attributes = message.attributes.iter();
    attributes.any(|attribute| {
        matches!(attribute, TcAttribute::Kind(kind) if kind == "clsact" || kind == "ingress")
    })
}
