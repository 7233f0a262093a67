//! The set-up of logging: one subscriber for the process, to stderr.
//!
//! Called once, by the binary, before anything is logged.

use std::io::IsTerminal as _;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON object a line.
    Json,
}

impl LogFormat {
    /// Its name in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

impl FromStr for LogFormat {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("\"text\" or \"json\"".to_owned()),
        }
    }
}

/// Why logging was not set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter is no filter.
    #[error(
        "log filter {filter:?}: {source}; allowed is a level (error, warn, info, debug, trace) or a list such as \
         \"info,relaymesh::queue=debug\""
    )]
    Filter {
        /// As given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging was set up before.
    #[error("logging is set up already")]
    Twice(#[from] TryInitError),
}

/// Checks a filter: a level, or `module=level` separated by commas.
///
/// # Errors
/// [`LoggingError::Filter`] says what is wrong and what is allowed.
pub fn parse_filter(filter: &str) -> Result<EnvFilter, LoggingError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|source| LoggingError::Filter { filter: filter.to_owned(), source })
}

/// Sends what is logged from here on, as far as `filter` lets it through, to stderr.
///
/// # Errors
/// [`LoggingError`] when the filter is wrong or logging was set up before.
pub fn init(filter: &str, format: LogFormat) -> Result<(), LoggingError> {
    let subscriber =
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(parse_filter(filter)?);
    match format {
        LogFormat::Text => {
            // Colours are for eyes: a file or a pipe gets plain text.
            let is_seen = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            subscriber.with_target(false).with_ansi(is_seen).finish().try_init()?;
        }
        LogFormat::Json => subscriber.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}
