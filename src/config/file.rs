//! The configuration file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::KEYS;
use super::{Auth, Config, ConfigError, Origin, Token};
use crate::ids::Namespace;

/// The file being read.
struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

/// What `[auth]` holds, in the order found.
#[derive(Default)]
struct AuthSection {
    shared: Option<(&'static str, Token)>,
    namespaces: HashMap<Namespace, Token>,
}

impl Config {
    /// Lays the file at `path`, which holds `text`, over what is there.
    pub(super) fn apply_file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let reader = Reader { path, text };
        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            origin: reader.origin(error.span().map_or(0, |span| span.start)),
            message: error.message().trim_end().to_owned(),
        })?;
        reader.table(self, "", table.get_ref())
    }
}

impl Reader<'_> {
    fn table(&self, config: &mut Config, section: &str, table: &DeTable<'_>) -> Result<(), ConfigError> {
        for (name, value) in table {
            let path = join(section, name.get_ref());
            if path == "auth" {
                self.auth(config, value)?;
            } else if let Some(key) = KEYS.iter().find(|key| key.path == path) {
                let text = scalar(value.get_ref());
                if !text.as_deref().is_some_and(|text| key.kind.set(config, text)) {
                    return Err(self.wrong(&path, value, key.kind.allowed()));
                }
            } else if is_section(&path) {
                let Some(inner) = value.get_ref().as_table() else {
                    return Err(self.wrong(&path, value, format!("a section with {}", names_in(&path))));
                };
                self.table(config, &path, inner)?;
            } else {
                return Err(self.unknown(&path, name.span().start, &names_in(section)));
            }
        }
        Ok(())
    }

    fn auth(&self, config: &mut Config, value: &Spanned<DeValue<'_>>) -> Result<(), ConfigError> {
        const NAMES: &str = "token, token_file or namespaces";
        let Some(table) = value.get_ref().as_table() else {
            return Err(self.wrong("auth", value, format!("a section with {NAMES}")));
        };
        let mut section = AuthSection::default();
        for (name, value) in table {
            match name.get_ref().as_ref() {
                "token" => {
                    let token = self.secret("auth.token", value)?;
                    self.share(&mut section, "auth.token", token, value)?;
                }
                "token_file" => {
                    let token = self.token_file(value)?;
                    self.share(&mut section, "auth.token_file", token, value)?;
                }
                "namespaces" => section.namespaces = self.namespaces(value)?,
                other => return Err(self.unknown(&join("auth", other), name.span().start, NAMES)),
            }
        }
        config.auth = match (section.shared, section.namespaces.is_empty()) {
            (None, true) => Auth::Open,
            (None, false) => Auth::PerNamespace(section.namespaces),
            (Some((_, token)), true) => Auth::Shared(token),
            (Some((key, _)), false) => return Err(self.hidden(key, value, "none beside auth.namespaces")),
        };
        Ok(())
    }

    fn share(
        &self,
        section: &mut AuthSection,
        key: &'static str,
        token: Token,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(), ConfigError> {
        match section.shared.replace((key, token)) {
            None => Ok(()),
            Some((first, _)) => Err(self.hidden(key, value, &format!("none beside {first}"))),
        }
    }

    fn namespaces(&self, value: &Spanned<DeValue<'_>>) -> Result<HashMap<Namespace, Token>, ConfigError> {
        let Some(table) = value.get_ref().as_table().filter(|table| !table.is_empty()) else {
            return Err(self.wrong(
                "auth.namespaces",
                value,
                "a section of lines NAMESPACE = \"TOKEN\"".into(),
            ));
        };
        let mut tokens = HashMap::with_capacity(table.len());
        for (name, value) in table {
            let key = join("auth.namespaces", name.get_ref());
            let namespace = Namespace::parse(name.get_ref()).map_err(|error| {
                self.unknown(&key, name.span().start, &format!("names of namespaces, but {error}"))
            })?;
            if namespace.tenant() != namespace.as_str() {
                let allowed = "names of namespaces without a placement group: the token opens all of them";
                return Err(self.unknown(&key, name.span().start, allowed));
            }
            tokens.insert(namespace, self.secret(&key, value)?);
        }
        Ok(tokens)
    }

    fn secret(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Token, ConfigError> {
        let token = value.get_ref().as_str().and_then(Token::parse);
        token.ok_or_else(|| self.hidden(key, value, Token::ALLOWED))
    }

    fn token_file(&self, value: &Spanned<DeValue<'_>>) -> Result<Token, ConfigError> {
        let Some(path) = value.get_ref().as_str().filter(|path| !path.is_empty()) else {
            return Err(self.wrong(
                "auth.token_file",
                value,
                "the path of a file that holds the token".into(),
            ));
        };
        let allowed = format!("a file that holds {}", Token::ALLOWED);
        read_token_file(Path::new(path))?.ok_or_else(|| self.wrong("auth.token_file", value, allowed))
    }

    fn origin(&self, at: usize) -> Origin {
        let line =
            1 + self.text.as_bytes()[..at.min(self.text.len())].iter().filter(|b| **b == b'\n').count();
        Origin::File { path: self.path.to_owned(), line }
    }

    fn wrong(&self, key: &str, value: &Spanned<DeValue<'_>>, allowed: String) -> ConfigError {
        let span = value.span();
        let written = self.text.get(span.clone()).unwrap_or_default();
        let value = written.lines().next().unwrap_or_default().to_owned();
        ConfigError::Value { origin: self.origin(span.start), key: key.to_owned(), value, allowed }
    }

    /// As [`Reader::wrong`], for a value that must not be shown.
    fn hidden(&self, key: &str, value: &Spanned<DeValue<'_>>, allowed: &str) -> ConfigError {
        let origin = self.origin(value.span().start);
        let (key, value) = (key.to_owned(), "a value that is not shown".to_owned());
        ConfigError::Value { origin, key, value, allowed: allowed.to_owned() }
    }

    fn unknown(&self, key: &str, at: usize, allowed: &str) -> ConfigError {
        let allowed = format!("allowed there: {allowed}");
        ConfigError::UnknownKey { origin: self.origin(at), key: key.to_owned(), allowed }
    }
}

/// The token in the file at `path`, without the line's end; `None` when it holds none.
pub(super) fn read_token_file(path: &Path) -> Result<Option<Token>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        what: "auth.token_file",
        path: PathBuf::from(path),
        source,
    })?;
    Ok(Token::parse(text.trim_end_matches(['\n', '\r'])))
}

fn join(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

fn is_section(path: &str) -> bool {
    KEYS.iter().any(|key| key.path.split_once('.').is_some_and(|(section, _)| section == path))
}

/// What may stand in `section`, for people.
fn names_in(section: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for key in KEYS {
        let name = match key.path.split_once('.') {
            None if section.is_empty() => key.path,
            Some((first, _)) if section.is_empty() => first,
            Some((first, name)) if first == section => name,
            _ => continue,
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if section.is_empty() {
        names.push("auth");
    }
    names.join(", ")
}

/// A value as it would be written for a flag; `None` when no key holds such a value.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => {
            i128::from_str_radix(number.as_str(), number.radix()).ok().map(|n| n.to_string())
        }
        _ => None,
    }
}
