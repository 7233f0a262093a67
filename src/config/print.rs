//! The configuration that holds, as a file that makes it again.

use std::fmt::Write as _;

use super::keys::KEYS;
use super::{Auth, Config};

impl Config {
    /// Every key with its value and what it is for, as TOML. Secrets are left out.
    #[must_use]
    pub fn to_commented_toml(&self) -> String {
        let mut config = self.clone();
        let mut out = String::from("# RelayMesh's configuration. Every key may be left out.\n");
        let mut current = "";
        for key in KEYS {
            let (section, name) = key.path.split_once('.').unwrap_or(("", key.path));
            if section != current {
                if current.is_empty() {
                    self.print_auth(&mut out);
                }
                current = section;
                let _ = write!(out, "\n[{section}]");
            }
            let (about, allowed, value) = (key.about, key.kind.allowed(), key.kind.show(&mut config));
            // Writing to a string cannot fail.
            let _ = write!(out, "\n# {about}\n# Allowed is {allowed}.\n{name} = {value}\n");
        }
        out
    }

    fn print_auth(&self, out: &mut String) {
        out.push_str(
            "\n[auth]\n# One of: token, token_file, or a table of namespaces. Needed beyond loopback.\n",
        );
        match &self.auth {
            Auth::Open => {
                out.push_str("# token = \"...\"\n# token_file = \"...\"\n# namespaces.NAME = \"...\"\n")
            }
            Auth::Shared(_) => out.push_str("# token is set and not shown\n"),
            Auth::PerNamespace(tokens) => {
                let mut names: Vec<_> = tokens.keys().collect();
                names.sort();
                for name in names {
                    let _ = writeln!(out, "# namespaces.\"{name}\" is set and not shown");
                }
            }
        }
    }
}
