//! What can be wrong with a configuration, each said with the key, the value and what is allowed.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{what} {}: {source}", path.display())]
    Unreadable {
        /// Which file it was meant to be.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no TOML. The line itself is not quoted: it may hold a token.
    #[error("{origin}: {message}; allowed is TOML, lines such as key = \"value\" below a [section]")]
    Syntax {
        /// Where.
        origin: Origin,
        /// What the parser says.
        message: String,
    },
    /// There is no such key.
    #[error("{origin}: unknown key {key}; {allowed}")]
    UnknownKey {
        /// Where it stands.
        origin: Origin,
        /// The key.
        key: String,
        /// What there is instead.
        allowed: String,
    },
    /// A value that the key does not take.
    #[error("{origin}: {key} is {value}; allowed is {allowed}")]
    Value {
        /// Where it stands.
        origin: Origin,
        /// The key.
        key: String,
        /// The value, hidden when it is a secret.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// Values that do not go together.
    #[error("{key} is {value}; allowed is {allowed}, because {because}")]
    Relation {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: String,
        /// The other key and its value.
        because: String,
    },
    /// Everybody on the network could come in.
    #[error(
        "{key} is {address}, which others can reach, but there is no token: set auth.token, auth.token_file or \
         auth.namespaces (or --token, or RELAYMESH_SERVE_TOKEN), or listen on loopback, such as 127.0.0.1"
    )]
    OpenBeyondLoopback {
        /// The key.
        key: &'static str,
        /// Its value.
        address: std::net::SocketAddr,
    },
}

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In the file.
    File {
        /// Which.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// On the command line or in the environment.
    Flag {
        /// The flag.
        flag: &'static str,
        /// The variable.
        env: &'static str,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Self::Flag { flag, env } => write!(f, "{flag} or {env}"),
        }
    }
}
