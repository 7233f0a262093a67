//! A name beside what it names: a short one takes no memory of its own, and no second look to be compared.

use std::fmt;

/// Longest name that needs no memory of its own, in bytes.
pub(super) const SHORT_MAX: usize = 22;

/// A name that does not change.
#[derive(Clone)]
pub(super) struct Name(Kept);

#[derive(Clone)]
enum Kept {
    Short { len: u8, bytes: [u8; SHORT_MAX] },
    Long(Box<str>),
}

const _: () = assert!(size_of::<Name>() == 24);

impl Name {
    pub(super) fn new(name: &str) -> Self {
        let mut bytes = [0; SHORT_MAX];
        Self(match bytes.get_mut(..name.len()) {
            Some(own) => {
                own.copy_from_slice(name.as_bytes());
                // At most `SHORT_MAX`.
                Kept::Short { len: name.len() as u8, bytes }
            }
            None => Kept::Long(name.into()),
        })
    }

    pub(super) fn as_str(&self) -> &str {
        match &self.0 {
            Kept::Short { len, bytes } => {
                str::from_utf8(&bytes[..usize::from(*len)]).expect("it was made of a str")
            }
            Kept::Long(name) => name,
        }
    }

    /// Whether it is this one.
    #[inline]
    pub(super) fn is(&self, name: &str) -> bool {
        match &self.0 {
            Kept::Short { len, bytes } => &bytes[..usize::from(*len)] == name.as_bytes(),
            Kept::Long(own) => **own == *name,
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

#[cfg(test)]
mod tests;
