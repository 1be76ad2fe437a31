//! The udp backend: flannel's oldest, which needs nothing of the kernel but a TUN device.
//!
//! All of the network is routed into one device, `flannel0`. What comes out of it is sent as it
//! is, IPv4 header first, in one UDP datagram to the peer whose subnet it is for; what is received
//! goes back into the device. No peer advertises more than its address, and all use one port.
//!
//! This file has what is decided; effects are in [`device`] (the TUN device, its address and
//! route), [`socket`] (the port) and [`proxy`] (the packets).

mod checksum;
mod coalesce;
mod icmp;
mod packet;
mod segment;
pub mod table;
mod vnet;
