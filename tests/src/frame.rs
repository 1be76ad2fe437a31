//! Frames for tables, written octet by octet, independently of the code under test.

/// Addresses of the two nodes of all tables: we are node B, 192.168.7.12, 10.5.2.0/24; the peer is
/// node A, 192.168.7.11, 10.5.1.0/24.
pub const PEER_IP: [u8; 4] = [192, 168, 7, 11];
/// Our underlay address.
pub const OWN_IP: [u8; 4] = [192, 168, 7, 12];
/// UDP port of the udp backend's table rows; the vxlan backend's is 8472.
pub const UDP_PORT: u16 = 8_285;
/// The peer's VTEP.
pub const PEER_MAC: [u8; 6] = [0x5e, 1, 2, 3, 4, 11];
/// Our VTEP.
pub const OWN_MAC: [u8; 6] = [0x5e, 1, 2, 3, 4, 12];
/// The loopback device's link-layer address: what the test run takes for "this host".
pub const HOST_MAC: [u8; 6] = [0; 6];
/// Link-layer address of the underlay's next hop.
pub const HOP_MAC: [u8; 6] = [2, 0, 0, 0, 0, 11];

/// The Internet checksum, the slow way.
#[must_use]
pub fn checksum(bytes: &[u8]) -> [u8; 2] {
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
#[must_use]
pub fn ethernet(destination: [u8; 6], source: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &source, &ethertype.to_be_bytes(), payload].concat()
}

/// Fields of an IPv4 header that tables vary.
#[derive(Debug, Clone)]
pub struct Ip {
    /// Type of service.
    pub tos: u8,
    /// Identification.
    pub id: [u8; 2],
    /// Flags and fragment offset.
    pub fragment: [u8; 2],
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Sender.
    pub source: [u8; 4],
    /// Receiver.
    pub destination: [u8; 4],
    /// Options, a multiple of four octets.
    pub options: Vec<u8>,
}

impl Ip {
    /// A header without peculiarities.
    #[must_use]
    pub fn new(source: [u8; 4], destination: [u8; 4], protocol: u8) -> Self {
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

    /// Header and payload, with length and checksum.
    #[must_use]
    pub fn packet(&self, payload: &[u8]) -> Vec<u8> {
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
#[must_use]
pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
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

/// The packet with the checksum of its ICMP, TCP or UDP header: complete, or the sum of the pseudo
/// header alone, which is how sockets leave it to a device.
#[must_use]
pub fn filled(packet: &[u8], is_complete: bool) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let (header, segment) = packet.split_at_mut(20);
    let (protocol, len) = (header[9], (segment.len() as u16).to_be_bytes());
    let pseudo = [&header[12..20], &[0, protocol], &len].concat();
    let at = match protocol {
        1 => 2,
        6 => 16,
        _ => 6,
    };
    segment[at..at + 2].fill(0);
    let sum = match (protocol, is_complete) {
        (1, _) => checksum(segment),
        (_, true) => checksum(&[&pseudo[..], segment].concat()),
        (_, false) => checksum(&pseudo).map(|octet| !octet),
    };
    segment[at..at + 2].copy_from_slice(&sum);
    packet
}

/// The inner packet of most rows: UDP from a pod of A to a pod of B, or back.
#[must_use]
pub fn pod_packet(source: [u8; 4], destination: [u8; 4], payload: &[u8]) -> Vec<u8> {
    Ip {
        ttl: 63,
        ..Ip::new(source, destination, 17)
    }
    .packet(&udp(4_000, 5_000, payload))
}

/// A tunnel frame of network 1 around an inner packet, from A to us.
#[must_use]
pub fn tunnel(inner: &[u8]) -> Tunnel {
    Tunnel {
        ethernet_destination: HOST_MAC,
        ip: Ip::new(PEER_IP, OWN_IP, 17),
        port: 8_472,
        udp_checksum: [0, 0],
        shim: Some(Shim {
            vxlan: [8, 0, 0, 0, 0, 0, 1, 0],
            destination: OWN_MAC,
            source: PEER_MAC,
            ethertype: 0x0800,
        }),
        inner: inner.to_vec(),
    }
}

/// A frame of the udp backend around an inner packet, from A to us.
#[must_use]
pub fn udp_tunnel(inner: &[u8]) -> Tunnel {
    Tunnel {
        port: UDP_PORT,
        shim: None,
        ..tunnel(inner)
    }
}

/// All that rows vary of a tunnel frame.
#[derive(Debug, Clone)]
pub struct Tunnel {
    /// Whose link-layer address it is sent to.
    pub ethernet_destination: [u8; 6],
    /// Outer IPv4 header.
    pub ip: Ip,
    /// UDP destination port.
    pub port: u16,
    /// UDP checksum.
    pub udp_checksum: [u8; 2],
    /// VXLAN header; none with the udp backend.
    pub shim: Option<Shim>,
    /// Inner packet.
    pub inner: Vec<u8>,
}

/// What VXLAN puts between its UDP header and the inner packet.
#[derive(Debug, Clone)]
pub struct Shim {
    /// VXLAN header.
    pub vxlan: [u8; 8],
    /// Inner link-layer destination.
    pub destination: [u8; 6],
    /// Inner link-layer source.
    pub source: [u8; 6],
    /// Protocol of the inner packet.
    pub ethertype: u16,
}

impl Tunnel {
    /// All of it.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let vxlan = self.shim.as_ref().map(|shim| shim.vxlan);
        let payload = [vxlan.as_ref().map_or(&[][..], |v| v), &self.inner_frame()].concat();
        // Flannel's proxy has one port at both ends.
        let source = if vxlan.is_some() { 49_000 } else { self.port };
        let mut udp = udp(source, self.port, &payload);
        udp[6..8].copy_from_slice(&self.udp_checksum);
        let packet = self.ip.packet(&udp);
        ethernet(self.ethernet_destination, HOP_MAC, 0x0800, &packet)
    }

    /// The inner packet, with its link-layer header if it has one.
    #[must_use]
    pub fn inner_frame(&self) -> Vec<u8> {
        match &self.shim {
            None => self.inner.clone(),
            Some(shim) => ethernet(shim.destination, shim.source, shim.ethertype, &self.inner),
        }
    }

    /// What VXLAN puts in front of the inner packet, for rows that change it.
    ///
    /// # Panics
    /// It is a frame of the udp backend.
    pub fn shim(&mut self) -> &mut Shim {
        self.shim.as_mut().expect("a VXLAN frame")
    }

    /// The outer UDP checksum over everything, the slow way.
    #[must_use]
    pub fn full_checksum(&self) -> [u8; 2] {
        let frame = Self {
            udp_checksum: [0, 0],
            ..self.clone()
        }
        .frame();
        let datagram = &frame[34..];
        let len = (datagram.len() as u16).to_be_bytes();
        let pseudo = [&self.ip.source[..], &self.ip.destination, &[0, 17], &len].concat();
        checksum(&[&pseudo[..], datagram].concat())
    }
}
