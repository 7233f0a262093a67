//! Who may come in.

use std::collections::BTreeMap;
use std::fmt;

use subtle::ConstantTimeEq;

use crate::ids::Namespace;

/// A secret that a client must present. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Box<[u8]>);

impl Token {
    /// A token of these bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// Compares in a time that depends on the lengths only.
    fn matches(&self, credential: &[u8]) -> bool {
        self.0.ct_eq(credential).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// What a credential is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Auth {
    /// Everybody is who they say they are. For loopback only.
    #[default]
    Open,
    /// One token for all namespaces.
    Shared(Token),
    /// Each namespace has its own; one that is not listed lets nobody in.
    PerNamespace(BTreeMap<Namespace, Token>),
}

impl Auth {
    /// Whether `credential` opens `namespace`.
    #[must_use]
    pub fn admits(&self, namespace: &Namespace, credential: &[u8]) -> bool {
        match self {
            Self::Open => true,
            Self::Shared(token) => token.matches(credential),
            Self::PerNamespace(tokens) => {
                tokens.get(namespace).is_some_and(|token| token.matches(credential))
            }
        }
    }
}
