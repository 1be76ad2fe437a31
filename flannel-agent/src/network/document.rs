//! Reading one object of the document, key by key.

use std::ops::RangeInclusive;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::NetworkError;
use crate::json::{self, Members};

/// An object inside the document (or the document itself), and the text for positions.
pub(super) struct Document<'a> {
    pub(super) text: &'a str,
    pub(super) members: Members<'a>,
}

impl<'a> Document<'a> {
    pub(super) fn error(
        &self,
        key: &'static str,
        value: &RawValue,
        wanted: impl Into<String>,
    ) -> NetworkError {
        let (line, column) = json::position(self.text, value.get());
        NetworkError::Value {
            key,
            value: value.get().to_owned(),
            line,
            column,
            wanted: wanted.into(),
        }
    }

    /// The value of a key; absent and `null` alike leave the default.
    pub(super) fn typed<T: Deserialize<'a>>(
        &self,
        key: &'static str,
        wanted: &str,
    ) -> Result<Option<T>, NetworkError> {
        let Some(value) = self.members.get_non_null(key) else {
            return Ok(None);
        };
        let typed = serde_json::from_str(value.get());
        typed.map(Some).map_err(|_| self.error(key, value, wanted))
    }

    pub(super) fn flag(&self, key: &'static str) -> Result<Option<bool>, NetworkError> {
        self.typed(key, "true or false is expected, without quotes")
    }

    /// Text that `read` understands; an explicit `null` is an error, as in flannel.
    pub(super) fn text<T>(
        &self,
        key: &'static str,
        wanted: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, NetworkError> {
        let Some(value) = self.members.get(key) else {
            return Ok(None);
        };
        let text: Result<String, _> = serde_json::from_str(value.get());
        let read = text.ok().and_then(|text| read(&text));
        read.map(Some)
            .ok_or_else(|| self.error(key, value, format!("{wanted} is expected")))
    }

    /// A prefix length; 0 means that none is given.
    pub(super) fn length(&self, key: &'static str) -> Result<Option<u8>, NetworkError> {
        let length: Option<u8> = self.typed(key, "a prefix length is expected, without quotes")?;
        Ok(length.filter(|length| *length != 0))
    }
    /// A number within `bounds`.
    pub(super) fn number(
        &self,
        key: &'static str,
        bounds: RangeInclusive<u32>,
    ) -> Result<Option<u32>, NetworkError> {
        let (lowest, highest) = (bounds.start(), bounds.end());
        let wanted = format!("a number from {lowest} to {highest} is expected");
        let number: Option<u32> = self.typed(key, &wanted)?;
        match (number, self.members.get(key)) {
            (Some(number), Some(value)) if !bounds.contains(&number) => {
                Err(self.error(key, value, wanted))
            }
            _ => Ok(number),
        }
    }

    /// A number within `bounds`; 0 means that none is given.
    pub(super) fn number_or_zero(
        &self,
        key: &'static str,
        bounds: RangeInclusive<u32>,
    ) -> Result<Option<u32>, NetworkError> {
        let zero = |value: &RawValue| serde_json::from_str(value.get()).is_ok_and(|n: u32| n == 0);
        if self.members.get(key).is_some_and(zero) {
            return Ok(None);
        }
        self.number(key, bounds)
    }
}
