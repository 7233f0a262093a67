//! Who may come in, over the gateway and over HTTP.

use std::collections::HashMap;
use std::fmt;

use subtle::ConstantTimeEq;

use crate::ids::Namespace;
use crate::limits::CREDENTIAL_BYTES_MAX;

/// A secret that a client presents. Never shown.
#[derive(Clone)]
pub struct Token(Box<str>);

impl Token {
    /// What [`Token::parse`] takes, in words.
    pub const ALLOWED: &'static str = "1 to 1,024 printable ASCII characters without spaces";

    /// A token, if `text` is one. What is allowed fits an HTTP header as it is.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits =
            (1..=CREDENTIAL_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| Self(text.into()))
    }

    /// The secret itself, for what has to keep it elsewhere.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Compares in a time that depends on the lengths only.
    fn is(&self, credential: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(credential).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// What a credential is compared with.
#[derive(Debug, Clone, Default)]
pub enum Auth {
    /// Everybody is who they say they are. On loopback only.
    #[default]
    Open,
    /// One token for all namespaces.
    Shared(Token),
    /// Each tenant has its own for all of its placement groups; one that is not listed lets nobody in.
    PerNamespace(HashMap<Namespace, Token>),
}

impl Auth {
    /// Whether `credential` opens `namespace`.
    #[must_use]
    pub fn allows(&self, namespace: &Namespace, credential: &[u8]) -> bool {
        match self {
            Self::Open => true,
            Self::Shared(token) => token.is(credential),
            Self::PerNamespace(tokens) => {
                tokens.get(namespace.tenant()).is_some_and(|token| token.is(credential))
            }
        }
    }

    /// Whether `credential` opens any namespace: for what shows none of them in particular.
    #[must_use]
    pub fn allows_any(&self, credential: &[u8]) -> bool {
        match self {
            Self::Open => true,
            Self::Shared(token) => token.is(credential),
            // All are compared, so that the time tells nothing of which one it was.
            Self::PerNamespace(tokens) => {
                tokens.values().fold(false, |any, token| any | token.is(credential))
            }
        }
    }

    /// Whether `credential` opens every namespace: for what concerns all of them.
    #[must_use]
    pub fn allows_all(&self, credential: &[u8]) -> bool {
        match self {
            Self::Open => true,
            Self::Shared(token) => token.is(credential),
            Self::PerNamespace(_) => false,
        }
    }

    /// Whether no credential is asked for.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }
}
