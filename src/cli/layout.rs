//! Where in a data directory the logs of its shards lie.
//!
//! A single shard has its log in the data directory itself. Of several each has a directory there, `shard-0` and so on, and
//! the file `shards` keeps their number: which one a namespace is in follows from it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

const NUMBER_FILE: &str = "shards";

/// How many shards a data directory was made for, if it has noted that or has a log.
///
/// # Errors
/// When it cannot be read, or its note is none.
pub(super) fn shards_of(directory: &Path) -> anyhow::Result<Option<u64>> {
    let path = directory.join(NUMBER_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let number = text.trim().parse().ok().filter(|&number| number > 1);
            let number = number
                .with_context(|| format!("{} holds {text:?}, not a number of shards", path.display()))?;
            Ok(Some(number))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(has_log(directory)?.then_some(1)),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Whether a single shard has its log here.
fn has_log(directory: &Path) -> anyhow::Result<bool> {
    let log = directory.join("log");
    match fs::read_dir(&log) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", log.display())),
    }
}

/// Notes that a new data directory is for so many shards, whole or not at all, before there is a log that depends on it. A
/// single one needs no note.
///
/// # Errors
/// When it cannot be written.
pub(super) fn note_shards(directory: &Path, shards: u64) -> anyhow::Result<()> {
    if shards == 1 {
        return Ok(());
    }
    let (path, draft) = (directory.join(NUMBER_FILE), directory.join("shards.draft"));
    let write = || {
        let mut file = File::create(&draft)?;
        writeln!(file, "{shards}")?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        File::open(directory)?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Where each of so many shards has its log, in their order.
pub(super) fn homes(directory: &Path, shards: u64) -> Vec<PathBuf> {
    match shards {
        0 | 1 => vec![directory.to_owned()],
        _ => (0..shards).map(|shard| directory.join(format!("shard-{shard}"))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_tells_for_how_many_shards_it_is() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path();
        let shards = || shards_of(directory).map_err(|error| error.to_string());
        assert_eq!(shards(), Ok(None));
        note_shards(directory, 1).unwrap();
        fs::create_dir(directory.join("log")).unwrap();
        assert_eq!(shards(), Ok(None), "nothing was written yet");
        fs::write(directory.join("log/000000000001.seg"), "").unwrap();
        assert_eq!(shards(), Ok(Some(1)));
        note_shards(directory, 4).unwrap();
        assert_eq!(shards(), Ok(Some(4)));
        fs::write(directory.join(NUMBER_FILE), "many").unwrap();
        assert!(shards().unwrap_err().contains("\"many\""));
    }
}
