//! Reading JSON as Go's `encoding/json` does, which is what operators' documents rely on.
//!
//! Member names match whatever their case, of duplicates the last one wins, unknown members are
//! ignored. serde's derive knows none of these, so objects are taken apart here and each member is
//! then read by itself, which also lets an error name the member.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of one JSON object in the order of the text.
#[derive(Debug, Default)]
pub(crate) struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Takes the object `text` apart; the whole of it is checked for syntax.
    pub(crate) fn parse(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The raw value of a member, absent when there is none of that name.
    pub(crate) fn get(&self, name: &str) -> Option<&'a RawValue> {
        let found = self
            .0
            .iter()
            .rev()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| *value)
    }

    /// Like [`Members::get`], but an explicit `null` counts as absent.
    pub(crate) fn get_non_null(&self, name: &str) -> Option<&'a RawValue> {
        self.get(name).filter(|value| value.get() != "null")
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// Line and column, both from 1, of a part of `text`.
pub(crate) fn position(text: &str, part: &str) -> (usize, usize) {
    let offset = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_in_any_case_and_the_last_duplicate_wins() {
        let members = Members::parse(r#"{"vni": 1, "X": {}, "VNI": 2, "Port": null}"#).unwrap();
        assert_eq!(members.get("Vni").unwrap().get(), "2");
        assert!(members.get("MTU").is_none());
        assert!(members.get_non_null("port").is_none());
    }

    #[test]
    fn positions_count_from_one() {
        let text = "{\n  \"VNI\": true\n}";
        let members = Members::parse(text).unwrap();
        assert_eq!(position(text, members.get("VNI").unwrap().get()), (2, 10));
    }
}
