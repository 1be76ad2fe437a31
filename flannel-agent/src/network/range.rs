//! Which subnets of an overlay network can be leased: lengths, bounds and their rules.
//!
//! One piece of arithmetic for both families: addresses are 128-bit numbers.

use super::NetworkError;

/// What differs between the families.
pub(super) struct FamilyRules {
    /// Names of the keys: network, length, first and last subnet.
    pub(super) keys: [&'static str; 4],
    /// Bits of an address.
    pub(super) width: u8,
    /// Length of a subnet of a network that is large enough for it.
    pub(super) usual_len: u8,
    /// Whether the laxer rules of v0.5 to v0.9 existed for this family.
    pub(super) accepts_old_lengths: bool,
    /// Spells an address.
    pub(super) show: fn(u128) -> String,
}

/// What the document asks for; the unspecified address counts as not given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<A> {
    pub(super) len: Option<u8>,
    pub(super) min: Option<A>,
    pub(super) max: Option<A>,
}

impl<A> Wanted<A> {
    pub(super) fn map(self, number: impl Fn(A) -> u128) -> Wanted<u128> {
        let given = |address: &u128| *address != 0;
        Wanted {
            len: self.len,
            min: self.min.map(&number).filter(given),
            max: self.max.map(&number).filter(given),
        }
    }
}

/// First subnet, last subnet and length.
pub(super) fn subnet_range(
    rules: &FamilyRules,
    base: u128,
    prefix: u8,
    wanted: Wanted<u128>,
    warnings: &mut Vec<String>,
) -> Result<(u128, u128, u8), NetworkError> {
    let [network_key, _, min_key, max_key] = rules.keys;
    if prefix == 0 {
        return Err(NetworkError::Rule(format!(
            "{network_key} {}/0 has every address there is: pods need a network of their own",
            (rules.show)(base),
        )));
    }
    let len = subnet_len(rules, prefix, wanted.len, warnings)?;
    // Lengths are at least 1 and at most `width - 1` from here on, so no shift overflows.
    let step = 1_u128 << (rules.width - len);
    let last_address = base | low_bits(rules.width - prefix);

    let bound = |key: &str, given: u128| {
        if given < base || given > last_address {
            return Err(NetworkError::Rule(format!(
                "{key} {} is outside of {network_key} {}/{prefix}",
                (rules.show)(given),
                (rules.show)(base),
            )));
        }
        Ok((given, !given.is_multiple_of(step)))
    };
    let mut rounded = |key: &str, given: u128, to: u128| {
        if !rules.accepts_old_lengths {
            return Err(NetworkError::Rule(format!(
                "{key} {} is not the start of a /{len} subnet: {} would be",
                (rules.show)(given),
                (rules.show)(to),
            )));
        }
        warnings.push(format!(
            "{key} {} is not the start of a /{len} subnet; {} is used instead. \
             flannel accepts this only up to v0.9",
            (rules.show)(given),
            (rules.show)(to),
        ));
        Ok(to)
    };

    let min = match wanted.min.map(|min| bound(min_key, min)).transpose()? {
        Some((min, false)) => min,
        Some((min, true)) => rounded(min_key, min, (min | (step - 1)).saturating_add(1))?,
        None => base.saturating_add(step),
    };
    let max = match wanted.max.map(|max| bound(max_key, max)).transpose()? {
        Some((max, false)) => max,
        Some((max, true)) => rounded(max_key, max, max & !(step - 1))?,
        None => last_address & !(step - 1),
    };
    if min > max {
        return Err(NetworkError::Rule(format!(
            "no /{len} subnet lies between {} ({min_key}) and {} ({max_key})",
            (rules.show)(min),
            (rules.show)(max),
        )));
    }
    Ok((min, max, len))
}

fn subnet_len(
    rules: &FamilyRules,
    prefix: u8,
    given: Option<u8>,
    warnings: &mut Vec<String>,
) -> Result<u8, NetworkError> {
    let [network_key, len_key, ..] = rules.keys;
    let longest = rules.width - 2;
    let old_longest = rules.width - 1;
    let rule = |text: String| Err(NetworkError::Rule(text));
    match given {
        Some(len) if len <= longest && len >= prefix.saturating_add(2) => Ok(len),
        Some(len) if rules.accepts_old_lengths && (prefix.max(1)..=old_longest).contains(&len) => {
            warnings.push(format!(
                "{len_key} {len} suits flannel only up to v0.9, later versions want it between \
                 {} and {longest}",
                prefix + 2,
            ));
            Ok(len)
        }
        Some(len) => rule(format!(
            "{len_key} {len} does not suit {network_key} of length {prefix}: a value from {} to \
             {longest} is expected",
            prefix.saturating_add(2),
        )),
        None if prefix <= rules.usual_len - 2 => Ok(rules.usual_len),
        None if prefix <= longest - 2 => Ok(prefix + 2),
        None if rules.accepts_old_lengths && prefix < old_longest => {
            warnings.push(format!(
                "{network_key} of length {prefix} suits flannel only up to v0.9, later versions \
                 want at most {}; subnets have length {}",
                longest - 2,
                prefix + 1,
            ));
            Ok(prefix + 1)
        }
        None => rule(format!(
            "{network_key} of length {prefix} is too small to be divided: at most {} is expected",
            longest - 2,
        )),
    }
}

fn low_bits(count: u8) -> u128 {
    u128::MAX
        .checked_shr(128 - u32::from(count))
        .unwrap_or_default()
}
