//! Packets that once made a difference. Each is sent first in every run of its lane.
//!
//! A failing run prints rows in this form.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use crate::socket::{Frame, Offload};

/// One or more packets in order.
#[derive(Debug)]
pub(crate) struct Row {
    /// Name of the lane.
    pub lane: &'static str,
    /// What was different, and where it was found.
    pub what: &'static str,
    /// Frames in hexadecimal, each after its offload header, if that is not all zero, and a colon.
    pub frames: &'static [&'static str],
}

/// The table.
pub(crate) const ROWS: &[Row] = &[
    Row {
        lane: "vxlan, device to wire",
        what: "eBPF wrote its own inner source address over that of the frame",
        frames: &[
            "5e00000000015e090909090c0800450000213d5440004011e36a0a0505020a0501029c000050000d05a468656c6c6f",
        ],
    },
    Row {
        lane: "udp, wire to pod",
        what: "the proxy merged datagrams with a wrong IP checksum, and wrote a right one",
        frames: &[
            "02000000070a02000000070b08004500005c1a1600004011cf1cc0a80904c0a8070ac670205d00480000450000409df0400040117eea0a0504c80a0505029c0b0050002cff63cd8b8956128c3002138a6b789e488efa62633bcda0219a85d6e196f6c7a76abab1a6d593",
            "02000000070a02000000070b08004500005c1a1600004011cf1cc0a80904c0a8070ac670205d00480000450000409df0400040117eea0a0504c80a0505029c0b0050002cff63cd8b8956128c3002138a6b789e488efa62633bcda0219a85d6e196f6c7a76abab1a6d593",
        ],
    },
    Row {
        lane: "udp, device to wire",
        what: "eBPF carried headers that are shorter than a header, or end beyond the packet",
        frames: &[
            "4400001c78734000402fa86c0a0505020a0501c80ba85633b1672b79",
            "4f00001da25840003f11726c0a0505020a0504009c0221180009fcb529",
        ],
    },
    Row {
        lane: "vxlan, device to wire",
        what: "eBPF wrote its own inner source address, in an aggregate",
        frames: &[
            "01052a00080022000600:5e00000000015e090909090c0800450000343d5440004011e3570a0505020a0501029c00005000201a3f000102030405060708090a0b0c0d0e0f1011121314151617",
        ],
    },
    Row {
        lane: "vxlan, wire to pod",
        what: "eBPF took the other zero for a checksum when it marked ECT(1) as CE",
        frames: &[
            "02000000070a02000000070b08004503005ee9c300004011ff69c0a80904c0a8070a20752118004a000008000000000001005e00000000055e000000000408004501002c5b960000402f00020a0505ff0a050502099d037d1f68f3a4e5bb50afa73c36c108c2cb500c02a998",
        ],
    },
];

impl Row {
    /// The frames to send.
    pub(crate) fn frames(&self) -> Result<Vec<Frame>> {
        self.frames.iter().map(|text| parse(text)).collect()
    }
}

fn parse(text: &str) -> Result<Frame> {
    let (offload, bytes) = text.split_once(':').unwrap_or(("", text));
    let offload = match offload {
        "" => Offload::default(),
        hex => bytemuck::try_pod_read_unaligned(&octets(hex)?)
            .map_err(|error| anyhow::anyhow!("offload {hex}: {error}"))?,
    };
    let bytes = octets(bytes)?;
    Ok(Frame { bytes, offload })
}

fn octets(hex: &str) -> Result<Vec<u8>> {
    (0..hex.len())
        .step_by(2)
        .map(|at| {
            let octet = hex.get(at..at + 2).context("an odd number of digits")?;
            u8::from_str_radix(octet, 16).with_context(|| format!("octet {octet:?}"))
        })
        .collect()
}

/// A row, ready to be pasted.
pub(crate) fn text(lane: &str, origin: &str, frames: &[&Frame]) -> String {
    let mut text = format!(
        "    Row {{\n        lane: {lane:?},\n        what: {origin:?},\n        frames: &[\n"
    );
    for Frame { bytes, offload } in frames {
        text += "            \"";
        if *offload != Offload::default() {
            append_hex(&mut text, bytemuck::bytes_of(offload));
            text += ":";
        }
        append_hex(&mut text, bytes);
        text += "\",\n";
    }
    text + "        ],\n    },"
}

fn append_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_what_is_read() {
        let frame = Frame {
            bytes: vec![0, 1, 0xfe],
            offload: Offload {
                flags: 1,
                gso_size: 1400,
                ..Offload::default()
            },
        };
        let text = text("lane", "origin", &[&frame]);
        let hex = text.split('"').nth(5).expect("hexadecimal");
        assert_eq!(parse(hex).expect("parse"), frame);
        let plain = Frame::from(vec![7, 8]);
        assert_eq!(parse("0708").expect("parse"), plain);
        assert!(parse("070").is_err());
    }
}
