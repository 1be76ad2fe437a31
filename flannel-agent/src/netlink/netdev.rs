//! What a driver says about XDP: the generic netlink family `netdev`, Linux 6.3.
//!
//! Asking is all that is done here. Attaching a program to find out would reset the rings of many
//! NICs. Numbers are those of `include/uapi/linux/netdev.h` and `genetlink.h`.

use std::io;

use rtnetlink::packet_core::NlasIterator;
use rtnetlink::sys::protocols::NETLINK_GENERIC;
use rtnetlink::sys::{Socket, SocketAddr};

const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
/// `struct nlmsghdr`, and behind it `struct genlmsghdr`.
const HEADERS_LEN: usize = 16 + 4;

/// The family that knows the numbers of the others.
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

/// Features of a driver, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XdpFeatures(pub u64);

/// Names of the bits, from the lowest.
const FEATURES: [&str; 7] = [
    "basic",
    "redirect",
    "ndo-xmit",
    "xsk-zerocopy",
    "hw-offload",
    "rx-sg",
    "ndo-xmit-sg",
];

impl XdpFeatures {
    /// Native XDP at all (`NETDEV_XDP_ACT_BASIC`).
    #[must_use]
    pub fn is_native(self) -> bool {
        self.0 & 1 != 0
    }

    /// Packets in several buffers (`NETDEV_XDP_ACT_RX_SG`): large MTUs.
    #[must_use]
    pub fn has_multi_buffer(self) -> bool {
        self.0 & 1 << 5 != 0
    }

    /// Names of all that is there, as the kernel's specification has them.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        let bits = FEATURES.iter().enumerate();
        bits.filter(|(bit, _)| self.0 >> bit & 1 != 0)
            .map(|(_, name)| *name)
            .collect()
    }
}

/// The features of an interface of this network namespace; `None` where the kernel cannot be
/// asked (before 6.3).
///
/// # Errors
/// `ENODEV` if there is no such interface, and those of sockets.
pub fn xdp_features(ifindex: u32) -> io::Result<Option<XdpFeatures>> {
    let socket = Socket::new(NETLINK_GENERIC)?;
    let name = b"netdev\0";
    let family = ask(
        &socket,
        GENL_ID_CTRL,
        CTRL_CMD_GETFAMILY,
        (CTRL_ATTR_FAMILY_NAME, name),
    );
    let family = match family {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        other => other?,
    };
    let family = attribute(&family, CTRL_ATTR_FAMILY_ID)
        .map(u16::from_ne_bytes)
        .ok_or(io::ErrorKind::InvalidData)?;
    let index = ifindex.to_ne_bytes();
    let device = ask(
        &socket,
        family,
        NETDEV_CMD_DEV_GET,
        (NETDEV_A_DEV_IFINDEX, &index),
    )?;
    let features = attribute(&device, NETDEV_A_DEV_XDP_FEATURES).map(u64::from_ne_bytes);
    Ok(features.map(XdpFeatures))
}

/// One request with one attribute; the attributes of its one answer.
fn ask(socket: &Socket, family: u16, command: u8, what: (u16, &[u8])) -> io::Result<Vec<u8>> {
    let request = request(family, command, what);
    socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
    let mut answer = Vec::with_capacity(1 << 14);
    // The kernel answers while it takes the request, so there is nothing to wait for.
    socket.recv(&mut answer, libc::MSG_DONTWAIT)?;
    attributes(&answer).map(<[u8]>::to_vec)
}

fn request(family: u16, command: u8, (kind, value): (u16, &[u8])) -> Vec<u8> {
    let attribute_len = 4 + value.len();
    let len = HEADERS_LEN + attribute_len.next_multiple_of(4);
    let mut bytes = Vec::with_capacity(len);
    bytes.extend((len as u32).to_ne_bytes());
    bytes.extend(family.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence number, and the port that the kernel fills in.
    bytes.extend([0; 8]);
    bytes.extend([command, 1, 0, 0]);
    bytes.extend((attribute_len as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(len, 0);
    bytes
}

/// The attributes of an answer, or the error that it carries.
fn attributes(answer: &[u8]) -> io::Result<&[u8]> {
    let part = |from: usize, to: usize| answer.get(from..to).ok_or(io::ErrorKind::InvalidData);
    let kind = u16::from_ne_bytes(part(4, 6)?.try_into().map_err(io::Error::other)?);
    if kind == NLMSG_ERROR {
        let code = i32::from_ne_bytes(part(16, 20)?.try_into().map_err(io::Error::other)?);
        return Err(io::Error::from_raw_os_error(code.saturating_neg()));
    }
    Ok(part(HEADERS_LEN, answer.len())?)
}

/// The value of an attribute, if it is there and of that length.
fn attribute<const LEN: usize>(attributes: &[u8], kind: u16) -> Option<[u8; LEN]> {
    let mut found = NlasIterator::new(attributes).flatten();
    let found = found.find(|attribute| attribute.kind() == kind)?;
    found.value().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_aligned_and_has_its_length() {
        let bytes = request(16, CTRL_CMD_GETFAMILY, (CTRL_ATTR_FAMILY_NAME, b"netdev\0"));
        assert_eq!(bytes.len(), 32);
        assert_eq!(bytes[..4], 32_u32.to_ne_bytes());
        assert_eq!(bytes[20..22], 11_u16.to_ne_bytes());
        assert_eq!(bytes[24..], *b"netdev\0\0");
    }

    #[test]
    fn answers_give_attributes_or_the_error() {
        let mut answer = request(9, 0, (NETDEV_A_DEV_XDP_FEATURES, &33_u64.to_ne_bytes()));
        let found = attributes(&answer).unwrap();
        let bits = attribute(found, NETDEV_A_DEV_XDP_FEATURES).map(u64::from_ne_bytes);
        assert_eq!(bits, Some(33));
        assert_eq!(attribute::<4>(found, NETDEV_A_DEV_XDP_FEATURES), None);
        answer[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        answer[16..20].copy_from_slice(&(-libc::ENODEV).to_ne_bytes());
        let error = attributes(&answer).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        assert!(attributes(&[]).is_err());
    }

    #[test]
    fn bits_have_names() {
        assert_eq!(XdpFeatures(0).names(), Vec::<&str>::new());
        let veth = XdpFeatures(1 | 2 | 4 | 32 | 64);
        assert!(veth.is_native() && veth.has_multi_buffer());
        assert_eq!(
            veth.names(),
            ["basic", "redirect", "ndo-xmit", "rx-sg", "ndo-xmit-sg"]
        );
        assert!(!XdpFeatures(2).is_native());
    }
}
