//! A packet source inside the kernel: the rate of packets without any system call per packet.
//!
//! An XDP program is run on live frames as if they came in on the host side of a pod's veth, and
//! passes them. From there they take the way of a packet that the pod has sent: bridge, routing,
//! tunnel, wire, and on the other host up to the remote pod, all in softirqs of the core that
//! injects. The figure is thus packets per second of one core that does both hosts.
//!
//! Frames are recycled pages which still hold what the stack wrote into them (a lower TTL, for
//! one), so the program writes all 42 octets of the headers each time. A measurement is one long
//! call. Each call ends by waiting for grace periods of RCU, some 25 ms in which the core idles,
//! however many packets it was for: what a call of two packets takes is measured beside and taken
//! off, or the rates of fast paths would be too low, and ratios shrink to 1.
//!
//! In the remote pod an nftables rule on the ingress hook counts and drops the packets of this
//! flow. That is the cheapest end that both data paths share: no socket, no ICMP error, and what
//! is counted has passed every part of the overlay.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::bpf::{self, Instruction, Width, XdpProgram};
use crate::command;
use crate::cpu::{self, Times};
use crate::host::{self, BRIDGE, Host, Pod};
use crate::netns::NetNs;

/// Octets of Ethernet, IPv4 and UDP header.
const HEADERS: usize = 42;
/// Where the UDP header starts.
const UDP: usize = 34;
/// Octets of a small frame, without the checksum that a wire adds.
pub const SMALL: usize = 64;
/// Source port.
const FROM_PORT: u16 = 40_000;
/// Port "discard", RFC 863.
const TO_PORT: u16 = 9;
/// Packets before the first one that counts. They warm caches and say how fast the data path is.
const WARM_UP: u32 = 10_000;
/// How long they should take, to say that: longer than ticks of the clock.
const WARM: Duration = Duration::from_millis(50);

/// Packets of a call that is nothing but waiting. One of a single packet does not wait.
const FEW: u32 = 2;
/// What calls end at: a tick of the kernel's clock, at most.
const TICK: Duration = Duration::from_millis(10);

/// What one measurement saw.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Packets injected.
    pub injected: u64,
    /// Packets that came to the remote pod.
    pub arrived: u64,
    /// Arrived packets per second, thousands.
    pub kpps: f64,
    /// Share of that time in which the measuring core was busy. Below 0.9 the rate is of waiting.
    pub busy: f64,
    /// Share of the time in which the busiest other core was busy: other work on the machine.
    pub others_busy: f64,
}

/// What frames are like.
#[derive(Debug, Clone, Copy)]
pub struct Frames {
    /// Length without the checksum that a wire adds.
    pub octets: usize,
    /// Link-layer address that the pod sends to: its bridge, as a rule.
    pub next_hop: [u8; 6],
    /// UDP ports.
    pub ports: Ports,
}

impl Frames {
    /// Of one flow, by way of the host's bridge.
    ///
    /// # Errors
    /// The host has no bridge.
    pub fn new(host: &Host, octets: usize) -> Result<Self> {
        Ok(Self {
            octets,
            next_hop: host::mac(&host.ns, BRIDGE)?,
            ports: Ports::Fixed,
        })
    }
}

/// UDP ports of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// The same of all.
    Fixed,
    /// Of each, those of one of so many flows (at least one), by chance.
    Random(u32),
}

impl Ports {
    /// Source and destination port of a flow of [`Random`](Self::Random) by its number, as they
    /// follow each other in the header.
    #[must_use]
    pub fn of(number: u32) -> [u8; 4] {
        let [first, second, ..] = number.to_ne_bytes();
        let [high, low] = (TO_PORT + (number >> 16) as u16).to_be_bytes();
        [first, second, high, low]
    }
}

struct Injected {
    count: u64,
    arrived: u64,
    /// Of the call.
    elapsed: Duration,
    /// Of that, what is no packet's.
    idle: Duration,
    /// At the start of the call.
    times: Times,
}

/// Frames of one size from a pod of one host to a pod of another.
#[derive(Debug)]
pub struct Source {
    host: NetNs,
    target: NetNs,
    program: XdpProgram,
    frame: Vec<u8>,
    ifindex: u32,
}

impl Source {
    /// Frames from a pod of `host` to another pod. Their length is 64 to some 3500 octets, which is
    /// what a page has room for.
    ///
    /// # Errors
    /// The kernel lacks something, or a device is not there.
    pub fn new(host: &Host, pod: &Pod, target: &Pod, frames: Frames) -> Result<Self> {
        let Frames {
            octets,
            next_hop,
            ports,
        } = frames;
        ensure!(octets >= SMALL, "a frame of {octets} octets");
        let frame = build_frame(pod, next_hop, target.address, octets)?;
        let program = XdpProgram::load(&rewrite_headers(&frame, ports))?;
        let select = match ports {
            Ports::Fixed => format!("udp sport {FROM_PORT} udp dport {TO_PORT}"),
            Ports::Random(flows) => {
                let last = u32::from(TO_PORT) + (flows >> 16);
                format!("ip saddr {} udp dport {TO_PORT}-{last}", pod.address)
            }
        };
        let rules = format!(
            "table netdev sink\n\
             delete table netdev sink\n\
             table netdev sink {{\n\
               chain in {{\n\
                 type filter hook ingress device eth0 priority 0;\n\
                 {select} counter drop\n\
               }}\n\
             }}\n"
        );
        let mut nft = target.ns.command("nft");
        nft.args(["-f", "-"]);
        command::output(nft, Some(&rules))?;
        Ok(Self {
            host: host.ns.clone(),
            target: target.ns.clone(),
            program,
            frame,
            ifindex: host.device_index(&pod.veth)?,
        })
    }

    /// Injects on `core` in one call of about `time`, which should be a second or so.
    ///
    /// # Errors
    /// A packet cannot be injected.
    pub fn measure(&self, core: usize, time: Duration) -> Result<Rate> {
        let Injected {
            count,
            arrived,
            elapsed,
            idle,
            times,
        } = self.host.enter(|| self.inject(core, time))??;
        let after = Times::now()?;
        let others = (0..cpu::count()).filter(|&other| other != core);
        // One that other work has made longer than it is would leave a short call no time.
        let at_work = (elapsed - idle.min(elapsed / 2)).as_secs_f64();
        let busy = after.busy_since(&times, core) * elapsed.as_secs_f64() / at_work;
        Ok(Rate {
            injected: count,
            arrived,
            kpps: arrived as f64 / at_work / 1000.0,
            busy: busy.min(1.0),
            others_busy: others
                .map(|c| after.busy_since(&times, c))
                .fold(0.0, f64::max),
        })
    }

    fn inject(&self, core: usize, time: Duration) -> Result<Injected> {
        cpu::claim(core)?;
        let idle = self.call(FEW)?;
        let mut warm_up = WARM_UP;
        let mut took = self.call(warm_up)?.saturating_sub(idle);
        if took < WARM {
            warm_up *= 4;
            took = self.call(warm_up)?.saturating_sub(idle);
        }
        let per_packet = took.max(TICK).as_secs_f64() / f64::from(warm_up);
        let count = (time.as_secs_f64() / per_packet) as u32;
        let (before, times) = (self.arrived()?, Times::now()?);
        let elapsed = self.call(count)?;
        Ok(Injected {
            count: count.into(),
            arrived: self.arrived()? - before,
            elapsed,
            idle,
            times,
        })
    }

    /// How long it takes to inject `count` packets, with all that a call takes besides.
    fn call(&self, count: u32) -> Result<Duration> {
        let start = Instant::now();
        self.program.inject(&self.frame, self.ifindex, count)?;
        Ok(start.elapsed())
    }

    fn arrived(&self) -> Result<u64> {
        let text = self
            .target
            .run("nft", &["-j", "list", "table", "netdev", "sink"])?;
        let ruleset: Value = serde_json::from_str(&text)?;
        let objects = ruleset["nftables"].as_array().into_iter().flatten();
        let mut statements = objects
            .filter_map(|o| o["rule"]["expr"].as_array())
            .flatten();
        let count = statements.find_map(|s| s["counter"]["packets"].as_u64());
        count.with_context(|| format!("no counter in {text}"))
    }
}

/// A UDP frame from `pod`.
fn build_frame(pod: &Pod, next_hop: [u8; 6], to: Ipv4Addr, octets: usize) -> Result<Vec<u8>> {
    let mut frame = vec![0; octets];
    frame[0..6].copy_from_slice(&next_hop);
    frame[6..12].copy_from_slice(&pod.mac()?);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    let length = u16::try_from(octets - 14)?;
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    // Don't fragment, TTL 64, UDP.
    frame[20] = 0x40;
    frame[22..24].copy_from_slice(&[64, 17]);
    frame[26..30].copy_from_slice(&pod.address.octets());
    frame[30..34].copy_from_slice(&to.octets());
    let checksum = header_checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame[34..36].copy_from_slice(&FROM_PORT.to_be_bytes());
    frame[36..38].copy_from_slice(&TO_PORT.to_be_bytes());
    // UDP checksum zero: not used (RFC 768).
    frame[38..40].copy_from_slice(&(length - 20).to_be_bytes());
    Ok(frame)
}

/// Internet checksum, RFC 1071.
fn header_checksum(header: &[u8]) -> u16 {
    let words = header
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A program that writes the headers of `frame` into every frame and passes it.
fn rewrite_headers(frame: &[u8], ports: Ports) -> Vec<Instruction> {
    let mut stores = Vec::new();
    for (place, word) in (0..).step_by(4).zip(frame[..HEADERS - 2].chunks_exact(4)) {
        let value = i32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
        stores.push(bpf::store(Width::Word, 2, place, value));
    }
    let last = i16::from_ne_bytes([frame[HEADERS - 2], frame[HEADERS - 1]]);
    stores.push(bpf::store(Width::Half, 2, HEADERS as i16 - 2, last.into()));
    if let Ports::Random(flows) = ports {
        stores.extend(random_ports(flows));
    }
    let mut program = Vec::new();
    if matches!(ports, Ports::Random(_)) {
        // The number in register 0; the call takes the context.
        program.push(bpf::copy(6, 1));
        program.push(bpf::call(bpf::GET_PRANDOM_U32));
        program.push(bpf::copy(1, 6));
    }
    program.extend([
        bpf::load_word(2, 1, 0),
        bpf::load_word(3, 1, 4),
        bpf::copy(4, 2),
        bpf::add(4, HEADERS as i32),
        bpf::jump_if_greater(4, 3, stores.len() as i16),
    ]);
    program.extend(stores);
    program.extend([bpf::set(0, bpf::XDP_PASS), bpf::exit()]);
    program
}

/// Makes the number in register 0 one of a flow; its lower half is the source port, and the upper
/// half counts the destination port up.
fn random_ports(flows: u32) -> [Instruction; 7] {
    let [source, destination] = [UDP as i16, UDP as i16 + 2];
    [
        bpf::modulo(0, flows.cast_signed()),
        bpf::copy(5, 0),
        bpf::store_register(Width::Half, 2, source, 0),
        bpf::shift_right(5, 16),
        bpf::add(5, TO_PORT.into()),
        bpf::swap_half(5),
        bpf::store_register(Width::Half, 2, destination, 5),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_a_known_header() {
        // A widely used example: 4500 0073 0000 4000 4011 …, checksum b861.
        let header = [
            0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0,
            0xc7,
        ];
        assert_eq!(header_checksum(&header), 0xb861);
    }

    #[test]
    fn numbers_of_flows_are_ports() {
        assert_eq!(Ports::of(0), [0, 0, 0, 9]);
        let many: std::collections::HashSet<_> = (0..100_000).map(Ports::of).collect();
        assert_eq!(many.len(), 100_000);
        assert_eq!(Ports::of(0x1_0000), [0, 0, 0, 10]);
    }

    #[test]
    fn every_header_octet_is_written_once() {
        // 5 instructions before, 10 words and a half, 2 after.
        assert_eq!(rewrite_headers(&[0; SMALL], Ports::Fixed).len(), 5 + 11 + 2);
    }
}
