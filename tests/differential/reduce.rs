//! From a batch that makes a difference to the packet that does.

use anyhow::Result;

use crate::pair::{Difference, Pair};
use crate::socket::Frame;
use crate::twin::Entrance;

/// The fewest packets found that make a difference, by place in the batch.
#[derive(Debug)]
pub(crate) struct Reduced {
    pub places: Vec<usize>,
    pub difference: Difference,
}

/// Sends parts of a batch again, ever smaller ones, as long as they differ.
///
/// Gives `None` if the batch itself does not differ a second time: then what came before it
/// matters, or the machine was too busy.
pub(crate) fn reduce(
    pair: &mut Pair,
    entrance: Entrance,
    batch: &[Frame],
) -> Result<Option<Reduced>> {
    let mut attempt = |places: &[usize]| -> Result<Option<Difference>> {
        let frames: Vec<Frame> = places.iter().map(|place| batch[*place].clone()).collect();
        pair.compare(entrance, &frames)
    };
    let mut places: Vec<usize> = (0..batch.len()).collect();
    let Some(mut difference) = attempt(&places)? else {
        return Ok(None);
    };
    // Delta debugging (Zeller, 1999): one of the parts alone, else all but one of them, else
    // smaller parts.
    let mut parts = 2;
    while places.len() > 1 {
        let size = places.len().div_ceil(parts);
        let mut found = None;
        for part in places.chunks(size) {
            if let Some(difference) = attempt(part)? {
                found = Some((part.to_vec(), difference, 2));
                break;
            }
        }
        if found.is_none() && parts > 2 {
            for left_out in places.chunks(size) {
                let rest: Vec<usize> = places
                    .iter()
                    .copied()
                    .filter(|place| !left_out.contains(place))
                    .collect();
                if let Some(difference) = attempt(&rest)? {
                    found = Some((rest, difference, parts - 1));
                    break;
                }
            }
        }
        match found {
            Some((smaller, so, next)) => {
                (places, difference, parts) = (smaller, so, next.max(2));
            }
            None if size == 1 => break,
            None => parts = (parts * 2).min(places.len()),
        }
    }
    Ok(Some(Reduced { places, difference }))
}
