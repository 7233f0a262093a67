//! The key that resume tokens are made with. It stays in the data directory, so that a token is good after a restart.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, ensure};

use crate::session::ResumeKey;

const FILE_NAME: &str = "resume.key";
const KEY_BYTES: usize = 32;

/// Whether there is a key, which a server's first start makes before there is a log.
pub(super) fn is_there(data_dir: &Path) -> bool {
    data_dir.join(FILE_NAME).exists()
}

/// The key of this data directory, made when there is none yet.
///
/// # Errors
/// When the file cannot be read or written, or holds something else than a key.
pub(super) fn load_or_make(data_dir: &Path) -> anyhow::Result<ResumeKey> {
    let path = data_dir.join(FILE_NAME);
    match fs::read(&path) {
        Ok(bytes) => {
            let found = bytes.len();
            let key = <[u8; KEY_BYTES]>::try_from(bytes).ok();
            ensure!(
                key.is_some(),
                "{} has {found} bytes instead of {KEY_BYTES}; remove it to have a new key made (clients then begin \
                 new sessions)",
                path.display()
            );
            Ok(ResumeKey(key.unwrap_or_default()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = random_key()?;
            write(data_dir, &path, &key).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(ResumeKey(key))
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn random_key() -> anyhow::Result<[u8; KEY_BYTES]> {
    let mut key = [0; KEY_BYTES];
    File::open("/dev/urandom")
        .and_then(|mut random| io::Read::read_exact(&mut random, &mut key))
        .context("cannot read random bytes from /dev/urandom")?;
    Ok(key)
}

/// Writes the key whole or not at all: a crash must not leave half of it under its name.
fn write(data_dir: &Path, path: &Path, key: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(key)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    File::open(data_dir)?.sync_all()
}
