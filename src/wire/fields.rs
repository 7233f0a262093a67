//! Walks the fields of one encoded protobuf message without decoding it into anything.

use crate::wire::Fault;
use crate::wire::fault::Problem;
use crate::wire::varint::{BYTES, FIXED32, FIXED64, VARINT, take_varint};

/// The fields of a message, in the order they were written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a> {
    message: &'static str,
    rest: &'a [u8],
}

/// One field.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field<'a> {
    message: &'static str,
    pub(crate) number: u32,
    value: Value<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    /// No field's value is needed here.
    Fixed32,
}

impl<'a> Fields<'a> {
    /// `message` is the name that faults are to carry.
    #[inline]
    pub(crate) fn new(message: &'static str, encoded: &'a [u8]) -> Self {
        Self { message, rest: encoded }
    }

    /// The next field; `None` at the end.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<Field<'a>>, Fault> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        match self.take() {
            Ok((number, value)) => Ok(Some(Field { message: self.message, number, value })),
            Err(problem) => Err(Fault::Malformed { message: self.message, problem }),
        }
    }

    #[inline]
    fn take(&mut self) -> Result<(u32, Value<'a>), Problem> {
        let key = u32::try_from(take_varint(&mut self.rest)?).map_err(|_| Problem::FieldNumber)?;
        let number = key >> 3;
        if number == 0 {
            return Err(Problem::FieldNumber);
        }
        let value = match (key & 7) as u8 {
            VARINT => Value::Varint(take_varint(&mut self.rest)?),
            BYTES => {
                let len = take_varint(&mut self.rest)?;
                let len = usize::try_from(len).map_err(|_| Problem::Truncated)?;
                let (bytes, rest) = self.rest.split_at_checked(len).ok_or(Problem::Truncated)?;
                self.rest = rest;
                Value::Bytes(bytes)
            }
            FIXED64 => {
                let (bytes, rest) = self.rest.split_first_chunk().ok_or(Problem::Truncated)?;
                self.rest = rest;
                Value::Fixed64(u64::from_le_bytes(*bytes))
            }
            FIXED32 => {
                let (_, rest) = self.rest.split_first_chunk::<4>().ok_or(Problem::Truncated)?;
                self.rest = rest;
                Value::Fixed32
            }
            _ => return Err(Problem::WireType),
        };
        Ok((number, value))
    }
}

impl<'a> Field<'a> {
    fn wrong_type(&self) -> Fault {
        Fault::FieldType { message: self.message, field: self.number }
    }

    #[inline]
    pub(crate) fn varint(&self) -> Result<u64, Fault> {
        match self.value {
            Value::Varint(value) => Ok(value),
            _ => Err(self.wrong_type()),
        }
    }

    /// A varint that must fit 32 bits; protobuf itself would cut it.
    #[inline]
    pub(crate) fn varint32(&self, what: &'static str) -> Result<u32, Fault> {
        let value = self.varint()?;
        u32::try_from(value).map_err(|_| Fault::OutOfRange { what, value, min: 0, max: u64::from(u32::MAX) })
    }

    #[inline]
    pub(crate) fn flag(&self) -> Result<bool, Fault> {
        Ok(self.varint()? != 0)
    }

    #[inline]
    pub(crate) fn fixed64(&self) -> Result<u64, Fault> {
        match self.value {
            Value::Fixed64(value) => Ok(value),
            _ => Err(self.wrong_type()),
        }
    }

    /// Checks that it is a number of 32 bits.
    #[inline]
    pub(crate) fn fixed32(&self) -> Result<(), Fault> {
        match self.value {
            Value::Fixed32 => Ok(()),
            _ => Err(self.wrong_type()),
        }
    }

    #[inline]
    pub(crate) fn bytes(&self) -> Result<&'a [u8], Fault> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(self.wrong_type()),
        }
    }

    #[inline]
    pub(crate) fn bytes_at_most(&self, what: &'static str, max: usize) -> Result<&'a [u8], Fault> {
        let bytes = self.bytes()?;
        if bytes.len() > max { Err(Fault::TooLong { what, bytes: bytes.len(), max }) } else { Ok(bytes) }
    }

    #[inline]
    pub(crate) fn text_at_most(&self, what: &'static str, max: usize) -> Result<&'a str, Fault> {
        let bytes = self.bytes_at_most(what, max)?;
        std::str::from_utf8(bytes).map_err(|_| Fault::NotUtf8 { message: self.message, field: self.number })
    }

    /// Counts the numbers that a repeated varint field adds, packed or not; each must be whole.
    ///
    /// # Errors
    /// There are more than `max` with those counted already, or what is packed are no varints.
    pub(crate) fn count_numbers(
        &self,
        counted: &mut usize,
        what: &'static str,
        max: usize,
    ) -> Result<(), Fault> {
        let mut packed = match self.value {
            Value::Varint(_) => return count(counted, what, max),
            Value::Bytes(bytes) => bytes,
            _ => return Err(self.wrong_type()),
        };
        while !packed.is_empty() {
            count(counted, what, max)?;
            take_varint(&mut packed)
                .map_err(|problem| Fault::Malformed { message: self.message, problem })?;
        }
        Ok(())
    }
}

/// Counts one more of a repeated field.
///
/// # Errors
/// There are `max` already.
#[inline]
pub(crate) fn count(counted: &mut usize, what: &'static str, max: usize) -> Result<(), Fault> {
    if *counted == max {
        return Err(Fault::TooMany { what, max });
    }
    *counted += 1;
    Ok(())
}

/// Checks `min <= value <= max`.
#[inline]
pub(crate) fn in_range(what: &'static str, value: u64, min: u64, max: u64) -> Result<(), Fault> {
    if value < min || value > max { Err(Fault::OutOfRange { what, value, min, max }) } else { Ok(()) }
}
