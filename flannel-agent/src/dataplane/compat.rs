//! Is a pinned map one of ours? aya takes over whatever stands at a pin path, so the answer comes
//! before loading.

use std::fmt;

use aya::maps::{MapError, MapInfo};
use aya_obj::EbpfSectionKind;
use flannel_ebpf::abi::map_name;

use super::object::PINNED_MAPS;
use super::pin::Pins;

/// The properties that make two maps interchangeable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

/// A pinned map that is not what this agent would have made, with every difference.
#[derive(Debug, thiserror::Error)]
#[error(
    "{path} is not the map of this agent ({differences}); remove it with `flannel-agent cleanup`, or choose another --bpf-pin-path"
)]
pub struct Incompatible {
    path: String,
    differences: Differences,
}

#[derive(Debug)]
struct Differences(Vec<(&'static str, u32, u32)>);

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (what, found, ours)) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}{what} {found} instead of {ours}")?;
        }
        f.write_str("")
    }
}

/// Why pinned maps cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A layout differs.
    #[error(transparent)]
    Incompatible(#[from] Incompatible),
    /// A pin could not be opened as a map.
    #[error("open pinned map {path}")]
    Open {
        /// The pin.
        path: String,
        /// What the kernel said.
        #[source]
        source: MapError,
    },
    /// The object itself could not be read.
    #[error("read the BPF object")]
    Object(#[from] aya_obj::ParseError),
}

/// Compares every pinned map with the object's definition of it, the table of flows having room for
/// `flows`. Maps that are not pinned are fine.
///
/// # Errors
/// The first map that is not ours.
pub fn check(object: &[u8], pins: &Pins, flows: u32) -> Result<(), Error> {
    let object = aya_obj::Object::parse(object)?;
    for name in PINNED_MAPS {
        let path = pins.map(name);
        let Some(map) = object.maps.get(name) else {
            continue;
        };
        if !path.exists() {
            continue;
        }
        debug_assert_eq!(map.section_kind(), EbpfSectionKind::BtfMaps);
        let ours = Layout {
            map_type: map.map_type(),
            key_size: map.key_size(),
            value_size: map.value_size(),
            max_entries: match name {
                map_name::FLOWS => flows,
                _ => map.max_entries(),
            },
            flags: map.map_flags(),
        };
        let display = path.display().to_string();
        let found = layout(&path).map_err(|source| Error::Open {
            path: display.clone(),
            source,
        })?;
        let differences = differences(found, ours);
        if !differences.is_empty() {
            return Err(Incompatible {
                path: display,
                differences: Differences(differences),
            }
            .into());
        }
    }
    Ok(())
}

/// Whether the pinned table of flows, if there is one, has room for another number of flows.
///
/// # Errors
/// The pin is not a map.
pub fn has_other_room(pins: &Pins, flows: u32) -> Result<bool, Error> {
    let path = pins.map(map_name::FLOWS);
    if !path.exists() {
        return Ok(false);
    }
    let found = layout(&path).map_err(|source| Error::Open {
        path: path.display().to_string(),
        source,
    })?;
    Ok(found.max_entries != flows)
}

fn layout(path: &std::path::Path) -> Result<Layout, MapError> {
    let info = MapInfo::from_pin(path)?;
    Ok(Layout {
        map_type: info.map_type()? as u32,
        key_size: info.key_size(),
        value_size: info.value_size(),
        max_entries: info.max_entries(),
        flags: info.map_flags(),
    })
}

fn differences(found: Layout, ours: Layout) -> Vec<(&'static str, u32, u32)> {
    let Layout {
        map_type,
        key_size,
        value_size,
        max_entries,
        flags,
    } = found;
    [
        ("type", map_type, ours.map_type),
        ("key size", key_size, ours.key_size),
        ("value size", value_size, ours.value_size),
        ("capacity", max_entries, ours.max_entries),
        ("flags", flags, ours.flags),
    ]
    .into_iter()
    .filter(|(_, found, ours)| found != ours)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_differences_are_named_at_once() {
        let ours = Layout {
            map_type: 1,
            key_size: 4,
            value_size: 88,
            max_entries: 65_536,
            flags: 1,
        };
        let found = Layout {
            value_size: 16,
            flags: 0,
            ..ours
        };
        let text = Differences(differences(found, ours)).to_string();
        assert_eq!(text, "value size 16 instead of 88, flags 0 instead of 1");
    }

    #[test]
    fn equal_layouts_do_not_differ() {
        let ours = Layout {
            map_type: 1,
            key_size: 4,
            value_size: 88,
            max_entries: 65_536,
            flags: 1,
        };
        assert!(differences(ours, ours).is_empty());
    }
}
