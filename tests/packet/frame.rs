//! Frames for the tables, written octet by octet, independently of the code under test.

/// Addresses of the two nodes of all tables: we are node B, 192.168.7.12, 10.5.2.0/24; the peer is
/// node A, 192.168.7.11, 10.5.1.0/24.
pub(crate) const PEER_IP: [u8; 4] = [192, 168, 7, 11];
/// Our underlay address.
pub(crate) const OWN_IP: [u8; 4] = [192, 168, 7, 12];
/// UDP port of the udp backend's table rows; the vxlan backend's is 8472.
pub(crate) const UDP_PORT: u16 = 8_285;
/// The peer's VTEP.
pub(crate) const PEER_MAC: [u8; 6] = [0x5e, 1, 2, 3, 4, 11];
/// Our VTEP.
pub(crate) const OWN_MAC: [u8; 6] = [0x5e, 1, 2, 3, 4, 12];
/// The loopback device's link-layer address: what the test run takes for "this host".
pub(crate) const HOST_MAC: [u8; 6] = [0; 6];
/// Link-layer address of the underlay's next hop.
pub(crate) const HOP_MAC: [u8; 6] = [2, 0, 0, 0, 0, 11];

/// The Internet checksum, the slow way.
pub(crate) fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum = 0_u32;
    for word in bytes.chunks(2) {
        sum += (u32::from(word[0]) << 8) | u32::from(word.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// An Ethernet frame.
pub(crate) fn ethernet(
    destination: [u8; 6],
    source: [u8; 6],
    ethertype: u16,
    payload: &[u8],
) -> Vec<u8> {
    [&destination[..], &source, &ethertype.to_be_bytes(), payload].concat()
}

/// Fields of an IPv4 header that tables vary.
#[derive(Clone)]
pub(crate) struct Ip {
    pub tos: u8,
    pub id: [u8; 2],
    pub fragment: [u8; 2],
    pub ttl: u8,
    pub protocol: u8,
    pub source: [u8; 4],
    pub destination: [u8; 4],
    pub options: Vec<u8>,
}

impl Ip {
    pub(crate) fn new(source: [u8; 4], destination: [u8; 4], protocol: u8) -> Self {
        Self {
            tos: 0,
            id: [0; 2],
            fragment: [0; 2],
            ttl: 64,
            protocol,
            source,
            destination,
            options: Vec::new(),
        }
    }

    pub(crate) fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let total = (header_len + payload.len()) as u16;
        let mut header = vec![0x40 | (header_len / 4) as u8, self.tos];
        header.extend(total.to_be_bytes());
        header.extend(self.id);
        header.extend(self.fragment);
        header.extend([self.ttl, self.protocol, 0, 0]);
        header.extend(self.source);
        header.extend(self.destination);
        header.extend(&self.options);
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum);
        [&header[..], payload].concat()
    }
}

/// A UDP datagram without checksum.
pub(crate) fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len()) as u16;
    [
        &source.to_be_bytes()[..],
        &destination.to_be_bytes(),
        &len.to_be_bytes(),
        &[0, 0],
        payload,
    ]
    .concat()
}

/// The packet with the checksum of its TCP or UDP header: complete, or the sum of the pseudo header
/// alone, which is how sockets leave it to a device.
pub(crate) fn filled(packet: &[u8], is_complete: bool) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let (header, segment) = packet.split_at_mut(20);
    let at = if header[9] == 6 { 16 } else { 6 };
    let len = (segment.len() as u16).to_be_bytes();
    let pseudo = [&header[12..20], &[0, header[9]], &len].concat();
    segment[at..at + 2].fill(0);
    let sum = if is_complete {
        checksum(&[&pseudo[..], segment].concat())
    } else {
        checksum(&pseudo).map(|octet| !octet)
    };
    segment[at..at + 2].copy_from_slice(&sum);
    packet
}

/// The inner packet of most rows: UDP from a pod of A to a pod of B, or back.
pub(crate) fn pod_packet(source: [u8; 4], destination: [u8; 4], payload: &[u8]) -> Vec<u8> {
    Ip {
        ttl: 63,
        ..Ip::new(source, destination, 17)
    }
    .packet(&udp(4_000, 5_000, payload))
}

/// A tunnel frame of network 1 around an inner packet, from A to us.
pub(crate) fn tunnel(inner: &[u8]) -> Tunnel {
    Tunnel {
        ethernet_destination: HOST_MAC,
        ip: Ip::new(PEER_IP, OWN_IP, 17),
        port: 8_472,
        udp_checksum: [0, 0],
        vxlan: [8, 0, 0, 0, 0, 0, 1, 0],
        inner_destination: OWN_MAC,
        inner_source: PEER_MAC,
        inner_ethertype: 0x0800,
        inner: inner.to_vec(),
    }
}

/// All that rows vary of a tunnel frame.
#[derive(Clone)]
pub(crate) struct Tunnel {
    pub ethernet_destination: [u8; 6],
    pub ip: Ip,
    pub port: u16,
    pub udp_checksum: [u8; 2],
    pub vxlan: [u8; 8],
    pub inner_destination: [u8; 6],
    pub inner_source: [u8; 6],
    pub inner_ethertype: u16,
    pub inner: Vec<u8>,
}

impl Tunnel {
    pub(crate) fn frame(&self) -> Vec<u8> {
        let inner = self.inner_frame();
        let mut udp = udp(49_000, self.port, &[&self.vxlan[..], &inner].concat());
        udp[6..8].copy_from_slice(&self.udp_checksum);
        ethernet(
            self.ethernet_destination,
            HOP_MAC,
            0x0800,
            &self.ip.packet(&udp),
        )
    }

    pub(crate) fn inner_frame(&self) -> Vec<u8> {
        ethernet(
            self.inner_destination,
            self.inner_source,
            self.inner_ethertype,
            &self.inner,
        )
    }
}
